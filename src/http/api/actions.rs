//! The operations on backfills, queue and deliveries. Each needs a permission, may be repeated with an
//! `Idempotency-Key`, and is in the access log before it happens.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::idempotency::{Answer, once, unavailable};
use super::parameters::{NoParameters, parse_time};
use super::problem::{ApiJson, ApiPath, ApiQuery, BodyProblems, Problem, Problems};
use crate::access::{AccessAction, AccessSubject, Caller, Permission};
use crate::archive_reader::forbidden;
use crate::db::{AccountRow, QueueFilter};
use crate::error::{UserError, UserFault, hint_of};
use crate::http::state::HttpState;
use crate::model::Artifact;
use crate::operator_actions;

pub(super) type ApiState = State<Arc<HttpState>>;
pub(super) type ActionResult = Result<Answer, Problem>;

/// The problem of an action that failed.
pub(super) fn refused(error: &UserError) -> Problem {
    let status = match error.fault {
        UserFault::Usage => StatusCode::BAD_REQUEST,
        UserFault::Operation => StatusCode::CONFLICT,
    };
    let problem = Problem::new(status, error.to_string());
    match hint_of(error) {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

pub(super) fn failed(error: &anyhow::Error) -> Problem {
    if let Some(error) = error.downcast_ref::<UserError>() {
        return refused(error);
    }
    tracing::warn!(error = format!("{error:#}"), "failed to carry out a request of the API");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database did not answer").retry_after(5)
}

/// The name of the caller for the journal.
pub(super) fn journal_name(caller: &Caller) -> String {
    format!("{} (API)", caller.reader.name())
}

/// The account that an action names, or all; where the caller may do this.
pub(in crate::http) async fn permitted_accounts(
    state: &HttpState,
    caller: &Caller,
    permission: Permission,
    wanted: Option<&str>,
) -> Result<Vec<AccountRow>, Problem> {
    if !caller.may(permission) {
        return Err(forbidden(permission).into());
    }
    let mut accounts = state.app.db.accounts().await.map_err(unavailable)?;
    accounts.retain(|account| caller.may_in_account(permission, &account.id.sub));
    if let Some(wanted) = wanted {
        accounts.retain(|account| *account.id.sub == *wanted);
    }
    if accounts.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no account has that id")
            .with_hint("give the sub-account id of an account that your role covers"));
    }
    Ok(accounts)
}

/// A past range to read.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct BackfillBody {
    /// Segments that ended at or after this time.
    pub(in crate::http) from: String,
    /// Segments that ended before this time.
    pub(in crate::http) to: String,
    /// Only this account, by sub-account id; otherwise all that the role covers.
    pub(in crate::http) account: Option<String>,
    /// Read the oldest windows first.
    #[serde(default)]
    pub(in crate::http) oldest_first: bool,
    /// Confirms a range of more than 31 days, or one that takes more than a week to read.
    #[serde(default)]
    pub(in crate::http) confirm: bool,
}

/// The queued backfills.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct QueuedBackfills {
    pub(in crate::http) backfills: Vec<QueuedBackfill>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct QueuedBackfill {
    pub(in crate::http) id: i64,
    pub(in crate::http) sub_account_id: String,
    pub(in crate::http) from: String,
    pub(in crate::http) to: String,
}

/// Queue a backfill of a past time range.
#[utoipa::path(post, path = "/backfills", tag = "actions",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 202, body = QueuedBackfills), (status = 409, body = Problem, content_type = "application/problem+json", description = "It needs a confirmation, or is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), BodyProblems, Problems))]
pub(super) async fn queue_backfill(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    _: ApiQuery<NoParameters>,
    ApiJson(body): ApiJson<BackfillBody>,
) -> ActionResult {
    once(state, caller, &headers, ("backfills", body), |state, caller, (_, body)| async move {
        carry_out_backfill(&state, &caller, &body).await
    })
    .await
}

/// Queues a backfill for a caller who may.
pub(in crate::http) async fn carry_out_backfill(
    state: &HttpState,
    caller: &Caller,
    body: &BackfillBody,
) -> Result<(StatusCode, QueuedBackfills), Problem> {
    let (db, settings, now) = (&state.app.db, &state.app.settings, state.reader.now());
    let accounts = permitted_accounts(state, caller, Permission::Operate, body.account.as_deref()).await?;
    let time = |name, text: &String| parse_time(name, &Some(text.clone()), now);
    let missing = || Problem::bad_request("from and to are required");
    let from = time("from", &body.from)?.ok_or_else(missing)?;
    let to = time("to", &body.to)?.ok_or_else(missing)?;
    if from >= to {
        return Err(Problem::bad_request("the range of from and to is empty"));
    }
    let offset = settings.discovery.offset;
    let (range, _) = operator_actions::readable_range(from, to, now, offset).map_err(|error| refused(&error))?;
    if !body.confirm && operator_actions::needs_confirmation(range, &accounts, settings).is_some() {
        return Err(Problem::new(StatusCode::CONFLICT, "the range is wide, or takes more than a week to read")
            .with_hint("send \"confirm\": true to queue it")
            .unconfirmed());
    }
    for account in &accounts {
        let subject = AccessSubject::Other { what: "backfill", sub: Some(&account.id.sub) };
        state.access_log.record(caller, AccessAction::Backfill, subject).await.map_err(unavailable)?;
    }
    let ids = operator_actions::queue_backfills(db, &accounts, range, !body.oldest_first, now).await;
    let backfill = |(id, account): (i64, &AccountRow)| QueuedBackfill {
        id,
        sub_account_id: account.id.sub.to_string(),
        from: range.from.rfc3339_secs(),
        to: range.to.rfc3339_secs(),
    };
    let backfills = ids.map_err(unavailable)?.into_iter().zip(&accounts).map(backfill).collect();
    Ok((StatusCode::ACCEPTED, QueuedBackfills { backfills }))
}

/// The parameters of an item.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ItemParameters {
    /// Only this artifact: `transcript`, `agent_summary`, `auto_summary` or `recording`.
    pub(in crate::http) artifact: Option<String>,
    /// The account, by sub-account id, where several have a segment with this id.
    pub(in crate::http) account: Option<String>,
}

/// The parameters of a discard.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct DiscardParameters {
    /// Only this artifact: `transcript`, `agent_summary`, `auto_summary` or `recording`.
    pub(in crate::http) artifact: Option<String>,
    /// The account, by sub-account id, where several have a segment with this id.
    pub(in crate::http) account: Option<String>,
    /// Why.
    pub(in crate::http) reason: Option<String>,
}

/// How many items were changed.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ChangedItems {
    pub(in crate::http) items: u64,
}

/// The items of a segment that the caller may operate.
async fn find_items(
    state: &HttpState,
    caller: &Caller,
    segment_id: &str,
    artifact: Option<&str>,
    account: Option<&str>,
) -> Result<(QueueFilter, String), Problem> {
    let accounts = permitted_accounts(state, caller, Permission::Operate, account).await?;
    let mut segments = state.app.db.segments_by_id(segment_id).await.map_err(unavailable)?;
    segments.retain(|segment| accounts.iter().any(|account| account.key == segment.account_key));
    let artifact = match artifact {
        None => None,
        Some(name) => Some(Artifact::ALL.into_iter().find(|artifact| artifact.name() == name).ok_or_else(|| {
            Problem::bad_request("artifact must be transcript, agent_summary, auto_summary or recording")
        })?),
    };
    let segment = match segments.as_slice() {
        [] => return Err(Problem::new(StatusCode::NOT_FOUND, "there is no such segment")),
        [segment] => segment,
        _ => {
            return Err(Problem::new(StatusCode::CONFLICT, "several accounts have a segment with this id")
                .with_hint("add the parameter `account`"));
        }
    };
    let mut filter = operator_actions::items_of_segment(segment_id, Some(segment.account_key));
    filter.artifact = artifact;
    if state.app.db.queue_rows(&QueueFilter { limit: 1, ..filter.clone() }).await.map_err(unavailable)?.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the segment has no such unfinished item"));
    }
    Ok((filter, segment.account.sub.to_string()))
}

/// Retry the unfinished items of a segment now, and reset their retry limits.
#[utoipa::path(post, path = "/queue/{item}/retry", tag = "actions",
    params(("item" = String, Path, description = "The segment's id"), ItemParameters,
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = ChangedItems), (status = 409, body = Problem, content_type = "application/problem+json", description = "Several accounts have a segment with this id"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn retry_items(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(item): ApiPath,
    ApiQuery(parameters): ApiQuery<ItemParameters>,
) -> ActionResult {
    once(state, caller, &headers, ("retry", item, parameters), |state, caller, (_, item, parameters)| async move {
        carry_out_retry(&state, &caller, &item, &parameters).await
    })
    .await
}

/// Retries the items of a segment for a caller who may.
pub(in crate::http) async fn carry_out_retry(
    state: &HttpState,
    caller: &Caller,
    item: &str,
    parameters: &ItemParameters,
) -> Result<(StatusCode, ChangedItems), Problem> {
    let (artifact, account) = (parameters.artifact.as_deref(), parameters.account.as_deref());
    let (filter, sub) = find_items(state, caller, item, artifact, account).await?;
    let subject = AccessSubject::Segment { sub: &sub, id: item };
    state.access_log.record(caller, AccessAction::Retry, subject).await.map_err(unavailable)?;
    let items = operator_actions::retry_items(&state.app.db, &filter, state.reader.now()).await;
    Ok((StatusCode::OK, ChangedItems { items: items.map_err(unavailable)? }))
}

/// Discard the unfinished items of a segment; a retry undoes this.
#[utoipa::path(post, path = "/queue/{item}/discard", tag = "actions",
    params(("item" = String, Path, description = "The segment's id"), DiscardParameters,
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = ChangedItems), (status = 409, body = Problem, content_type = "application/problem+json", description = "Several accounts have a segment with this id"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn discard_items(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(item): ApiPath,
    ApiQuery(parameters): ApiQuery<DiscardParameters>,
) -> ActionResult {
    once(state, caller, &headers, ("discard", item, parameters), |state, caller, (_, item, parameters)| async move {
        carry_out_discard(&state, &caller, &item, &parameters).await
    })
    .await
}

/// Discards the items of a segment for a caller who may.
pub(in crate::http) async fn carry_out_discard(
    state: &HttpState,
    caller: &Caller,
    item: &str,
    parameters: &DiscardParameters,
) -> Result<(StatusCode, ChangedItems), Problem> {
    let (artifact, account) = (parameters.artifact.as_deref(), parameters.account.as_deref());
    let (filter, sub) = find_items(state, caller, item, artifact, account).await?;
    let subject = AccessSubject::Segment { sub: &sub, id: item };
    state.access_log.record(caller, AccessAction::Discard, subject).await.map_err(unavailable)?;
    let reason = parameters.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(|| format!("discarded by {}", journal_name(caller)), str::to_owned);
    let items = operator_actions::discard_items(&state.app.db, &filter, &reason, state.reader.now()).await;
    Ok((StatusCode::OK, ChangedItems { items: items.map_err(unavailable)? }))
}

/// The parameters of a redelivery.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct DeliveryParameters {
    /// Also send events now that wait for an automatic retry.
    #[serde(default)]
    #[param(required = false)]
    pub(in crate::http) waiting: bool,
}

/// What a redelivery has started.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RetriedDeliveries {
    /// Events that are sent again.
    pub(in crate::http) events: u64,
    /// Stopped sinks that start again.
    pub(in crate::http) restarted: Vec<String>,
}

/// Send the failed events of a sink again, and start the sink if it has stopped.
#[utoipa::path(post, path = "/deliveries/{sink}/retry", tag = "actions",
    params(("sink" = String, Path, description = "The sink's name"), DeliveryParameters,
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = RetriedDeliveries), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn retry_deliveries(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(sink): ApiPath,
    ApiQuery(parameters): ApiQuery<DeliveryParameters>,
) -> ActionResult {
    once(state, caller, &headers, ("deliveries", sink, parameters), |state, caller, (_, sink, parameters)| async move {
        carry_out_redelivery(&state, &caller, &sink, &parameters).await
    })
    .await
}

/// Has events of a sink sent again for a caller who may.
pub(in crate::http) async fn carry_out_redelivery(
    state: &HttpState,
    caller: &Caller,
    sink: &str,
    parameters: &DeliveryParameters,
) -> Result<(StatusCode, RetriedDeliveries), Problem> {
    let (db, settings) = (&state.app.db, &state.app.settings);
    // A sink has the events of all accounts.
    if !caller.may_everywhere(Permission::Operate) {
        return Err(forbidden(Permission::Operate).into());
    }
    operator_actions::require_sink(settings, sink)
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "there is no sink with this name"))?;
    let subject = AccessSubject::Other { what: &format!("sink {sink}"), sub: None };
    state.access_log.record(caller, AccessAction::Redeliver, subject).await.map_err(unavailable)?;
    let now = state.reader.now();
    let done = operator_actions::retry_deliveries(db, settings, Some(sink), parameters.waiting, now).await;
    let done = done.map_err(|error| failed(&error))?;
    Ok((StatusCode::OK, RetriedDeliveries { events: done.events, restarted: done.restarted }))
}
