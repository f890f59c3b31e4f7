//! The operations that change something. Each needs a permission, may be repeated with an
//! `Idempotency-Key`, and is in the access log before it happens.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::idempotency::{once, unavailable};
use super::parameters::parse_time;
use super::problem::{ApiJson, ApiPath, ApiQuery, Problem, Problems};
use crate::access::{AccessAction, AccessSubject, Caller, Permission};
use crate::archive_reader::forbidden;
use crate::db::{AccountRow, JournalAction, JournalEntry, QueueFilter};
use crate::erasure::{self, Confirmation, ErasureRequest};
use crate::error::{UserError, UserFault, hint_of};
use crate::http::state::HttpState;
use crate::model::{Artifact, Subject};
use crate::operator_actions;

type ApiState = State<Arc<HttpState>>;
type ActionResult = Result<Response, Problem>;

/// The problem of an action that failed.
fn refused(error: &UserError) -> Problem {
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

fn failed(error: &anyhow::Error) -> Problem {
    if let Some(error) = error.downcast_ref::<UserError>() {
        return refused(error);
    }
    tracing::warn!(error = format!("{error:#}"), "failed to carry out a request of the API");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database did not answer").retry_after(5)
}

/// The name of the caller for the journal.
fn journal_name(caller: &Caller) -> String {
    format!("{} (API)", caller.reader.name())
}

/// The account that an action names, or all; where the caller may do this.
async fn permitted_accounts(
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
pub(super) struct BackfillBody {
    /// Segments that ended at or after this time.
    from: String,
    /// Segments that ended before this time.
    to: String,
    /// Only this account, by sub-account id; otherwise all that the role covers.
    account: Option<String>,
    /// Read the oldest windows first.
    #[serde(default)]
    oldest_first: bool,
    /// Confirms a range of more than 400 days, or one that takes more than a week to read.
    #[serde(default)]
    confirm: bool,
}

/// The queued backfills.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueuedBackfills {
    backfills: Vec<QueuedBackfill>,
}

#[derive(Debug, Serialize, ToSchema)]
struct QueuedBackfill {
    id: i64,
    sub_account_id: String,
    from: String,
    to: String,
}

/// Queue a backfill of a past time range.
#[utoipa::path(post, path = "/backfills", tag = "actions",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 202, body = QueuedBackfills), (status = 409, body = Problem, content_type = "application/problem+json", description = "It needs a confirmation, or is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn queue_backfill(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<BackfillBody>,
) -> ActionResult {
    let (db, settings, now) = (&state.app.db, &state.app.settings, state.reader.now());
    let act = async {
        let accounts =
            permitted_accounts(&state, &caller, Permission::Operate, body.account.as_deref()).await?;
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
                .with_hint("send \"confirm\": true to queue it"));
        }
        for account in &accounts {
            let subject = AccessSubject::Other { what: "backfill", sub: Some(&account.id.sub) };
            state.access_log.record(&caller, AccessAction::Backfill, subject).await.map_err(unavailable)?;
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
    };
    once(&state, &caller, &headers, &("backfills", &body), act).await
}

/// The parameters of an item.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ItemParameters {
    /// Only this artifact: `transcript`, `agent_summary` or `auto_summary`.
    artifact: Option<String>,
    /// The account, by sub-account id, where several have a segment with this id.
    account: Option<String>,
    /// The reason of a discard.
    reason: Option<String>,
}

/// How many items were changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChangedItems {
    items: u64,
}

/// The items of a segment that the caller may operate.
async fn find_items(
    state: &HttpState,
    caller: &Caller,
    segment_id: &str,
    parameters: &ItemParameters,
) -> Result<(QueueFilter, String), Problem> {
    let accounts = permitted_accounts(state, caller, Permission::Operate, parameters.account.as_deref()).await?;
    let mut segments = state.app.db.segments_by_id(segment_id).await.map_err(unavailable)?;
    segments.retain(|segment| accounts.iter().any(|account| account.key == segment.account_key));
    let artifact = match parameters.artifact.as_deref() {
        None => None,
        Some(name) => Some(
            Artifact::ALL
                .into_iter()
                .find(|artifact| artifact.name() == name)
                .ok_or_else(|| Problem::bad_request("artifact must be transcript, agent_summary or auto_summary"))?,
        ),
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
    let act = async {
        let (filter, sub) = find_items(&state, &caller, &item, &parameters).await?;
        let subject = AccessSubject::Segment { sub: &sub, id: &item };
        state.access_log.record(&caller, AccessAction::Retry, subject).await.map_err(unavailable)?;
        let items = operator_actions::retry_items(&state.app.db, &filter, state.reader.now()).await;
        Ok((StatusCode::OK, ChangedItems { items: items.map_err(unavailable)? }))
    };
    once(&state, &caller, &headers, &("retry", &item, &parameters), act).await
}

/// Discard the unfinished items of a segment; a retry undoes this.
#[utoipa::path(post, path = "/queue/{item}/discard", tag = "actions",
    params(("item" = String, Path, description = "The segment's id"), ItemParameters,
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = ChangedItems), (status = 409, body = Problem, content_type = "application/problem+json", description = "Several accounts have a segment with this id"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn discard_items(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(item): ApiPath,
    ApiQuery(parameters): ApiQuery<ItemParameters>,
) -> ActionResult {
    let act = async {
        let (filter, sub) = find_items(&state, &caller, &item, &parameters).await?;
        let subject = AccessSubject::Segment { sub: &sub, id: &item };
        state.access_log.record(&caller, AccessAction::Discard, subject).await.map_err(unavailable)?;
        let reason = parameters.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        let reason = reason.map_or_else(|| format!("discarded by {}", journal_name(&caller)), str::to_owned);
        let items = operator_actions::discard_items(&state.app.db, &filter, &reason).await;
        Ok((StatusCode::OK, ChangedItems { items: items.map_err(unavailable)? }))
    };
    once(&state, &caller, &headers, &("discard", &item, &parameters), act).await
}

/// The parameters of a redelivery.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryParameters {
    /// Also send events now that wait for an automatic retry.
    #[serde(default)]
    #[param(required = false)]
    waiting: bool,
}

/// What a redelivery has started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RetriedDeliveries {
    /// Events that are sent again.
    events: u64,
    /// Stopped sinks that start again.
    restarted: Vec<String>,
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
    let (db, settings) = (&state.app.db, &state.app.settings);
    let act = async {
        // A sink has the events of all accounts.
        if !caller.may_everywhere(Permission::Operate) {
            return Err(forbidden(Permission::Operate).into());
        }
        operator_actions::require_sink(settings, &sink)
            .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "there is no sink with this name"))?;
        let subject = AccessSubject::Other { what: &format!("sink {sink}"), sub: None };
        state.access_log.record(&caller, AccessAction::Redeliver, subject).await.map_err(unavailable)?;
        let now = state.reader.now();
        let done = operator_actions::retry_deliveries(db, settings, Some(&sink), parameters.waiting, now).await;
        let done = done.map_err(|error| failed(&error))?;
        Ok((StatusCode::OK, RetriedDeliveries { events: done.events, restarted: done.restarted }))
    };
    once(&state, &caller, &headers, &("deliveries", &sink, &parameters), act).await
}

/// The subject of an erasure or a hold: exactly one of segment, dialog and contact.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubjectBody {
    /// The segment with this id.
    segment: Option<String>,
    /// All segments of this dialog.
    dialog: Option<String>,
    /// All segments with this contact: a complete telephone number, address, id or name.
    contact: Option<String>,
    /// Only in this account, by sub-account id. A role that covers some accounts must give one.
    account: Option<String>,
    /// Why, for the journal, which is never erased; do not name any person in it.
    reason: Option<String>,
    /// Also erase possible matches: a similar number, or a speaker who may be the agent.
    #[serde(default)]
    include_alike: bool,
    /// Also erase what cannot be read and so may contain the contact.
    #[serde(default)]
    include_unreadable: bool,
    /// Only say what would be erased.
    #[serde(default)]
    dry_run: bool,
}

impl SubjectBody {
    fn subject(&self) -> Result<Subject, Problem> {
        let given = [
            self.segment.clone().map(Subject::Segment),
            self.dialog.clone().map(Subject::Dialog),
            self.contact.clone().map(Subject::Contact),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(subject), None) if !subject.normalized().trim().is_empty() => Ok(subject),
            _ => Err(Problem::bad_request("give exactly one of segment, dialog and contact, and not an empty one")),
        }
    }

    /// The account that the caller may do this in; `None` for all.
    async fn account(&self, state: &HttpState, caller: &Caller) -> Result<Option<AccountRow>, Problem> {
        if self.account.is_none() && caller.may_everywhere(Permission::Erase) {
            return Ok(None);
        }
        let accounts = permitted_accounts(state, caller, Permission::Erase, self.account.as_deref()).await?;
        match accounts.as_slice() {
            [account] => Ok(Some(account.clone())),
            _ => Err(Problem::bad_request("your role covers some accounts: give the account")),
        }
    }
}

/// What an erasure did, or would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErasureAnswer {
    /// Segments that were erased, or would be.
    segments: u64,
    /// Quarantined records that were erased, or would be.
    records: u64,
    /// Segments and records that a hold keeps.
    held: u64,
    /// Possible matches that were kept.
    possible: u64,
    /// Whether it was only a question.
    dry_run: bool,
    /// What may be left outside the archive's tables.
    note: Option<&'static str>,
}

/// Erase conversations permanently.
#[utoipa::path(post, path = "/erasures", tag = "actions",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = ErasureAnswer), (status = 409, body = Problem, content_type = "application/problem+json", description = "Nothing can be erased"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn erase(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<SubjectBody>,
) -> ActionResult {
    let act = async {
        let subject = body.subject()?;
        let account = body.account(&state, &caller).await?;
        erase_subject(&state, &caller, &body, subject, account).await
    };
    once(&state, &caller, &headers, &("erasures", &body), act).await
}

async fn erase_subject(
    state: &HttpState,
    caller: &Caller,
    body: &SubjectBody,
    subject: Subject,
    account: Option<AccountRow>,
) -> Result<(StatusCode, ErasureAnswer), Problem> {
    let db = &state.app.db;
    let request = ErasureRequest {
        subject,
        account: account.as_ref().map(|account| account.key),
        who: journal_name(caller),
        reason: body.reason.clone(),
        include_alike: body.include_alike,
        include_unreadable: body.include_unreadable,
    };
    let plan = erasure::plan_erasure(db, &request, &mut |_| {}).await.map_err(unavailable)?;
    if plan.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the archive contains nothing of this subject"));
    }
    let mut answer = ErasureAnswer {
        segments: plan.segments.len() as u64,
        records: plan.quarantined.len() as u64,
        held: (plan.held_segments.len() + plan.quarantine_holds.len()) as u64,
        possible: (plan.alike.len() + plan.unreadable.len() + plan.alike_quarantined.len()
            + plan.unreadable_quarantined.len()) as u64,
        dry_run: body.dry_run,
        note: None,
    };
    if body.dry_run {
        return Ok((StatusCode::OK, answer));
    }
    if !plan.has_deletions() {
        return Err(Problem::new(StatusCode::CONFLICT, "nothing was erased: all matches are on hold or uncertain")
            .with_hint("\"dry_run\": true shows the counts; include_alike and include_unreadable erase uncertain ones"));
    }
    let sub = account.as_ref().map(|account| &*account.id.sub).or(plan.segments.first().map(|segment| &*segment.sub));
    let logged = match &request.subject {
        Subject::Segment(id) => AccessSubject::Segment { sub: sub.unwrap_or_default(), id },
        Subject::Dialog(id) => AccessSubject::Dialog { id, segments: answer.segments },
        Subject::Contact(contact) => AccessSubject::Contact { contact },
    };
    state.access_log.record(caller, AccessAction::Erase, logged).await.map_err(unavailable)?;
    let now = state.reader.now();
    let done = erasure::execute_plan(db, &request, plan, Confirmation::Everything, now, &mut |_| {}).await;
    let (erased, _) = done.map_err(unavailable)?;
    db.bump_change_version().await.map_err(unavailable)?;
    operator_actions::purge_index(db).await.map_err(|error| refused(&error))?;
    answer.note =
        operator_actions::wipe_free_pages(db, false, &state.app.clock).await.map_err(|error| refused(&error))?;
    (answer.segments, answer.records) = (erased.segments, erased.records);
    Ok((StatusCode::OK, answer))
}

/// A placed hold.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlacedHold {
    id: i64,
}

/// Place a legal hold, which protects segments from retention and erasure.
#[utoipa::path(post, path = "/holds", tag = "actions",
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 201, body = PlacedHold), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn place_hold(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<SubjectBody>,
) -> ActionResult {
    let act = async {
        let subject = body.subject()?;
        let account = body.account(&state, &caller).await?;
        let what = format!("hold on a {}", subject.kind());
        let logged = AccessSubject::Other { what: &what, sub: account.as_ref().map(|account| &*account.id.sub) };
        state.access_log.record(&caller, AccessAction::Hold, logged).await.map_err(unavailable)?;
        let entry = JournalEntry {
            who: journal_name(&caller),
            what: JournalAction::Hold,
            subject: Some(subject),
            hold: None,
            reason: body.reason.clone(),
        };
        let key = account.map(|account| account.key);
        let id = state.app.db.place_hold(&entry, key, state.reader.now()).await.map_err(unavailable)?;
        Ok((StatusCode::CREATED, PlacedHold { id }))
    };
    once(&state, &caller, &headers, &("holds", &body), act).await
}

/// The parameters of a release.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReleaseParameters {
    /// Why, for the journal.
    reason: Option<String>,
}

/// Release a legal hold: retention and erasure apply again.
#[utoipa::path(delete, path = "/holds/{id}", tag = "actions",
    params(("id" = i64, Path, description = "The hold's number"), ReleaseParameters,
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = PlacedHold), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn release_hold(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(id): ApiPath,
    ApiQuery(parameters): ApiQuery<ReleaseParameters>,
) -> ActionResult {
    let db = &state.app.db;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such hold");
    let act = async {
        if !caller.may(Permission::Erase) {
            return Err(forbidden(Permission::Erase).into());
        }
        let id: i64 = id.parse().map_err(|_| missing())?;
        let hold = db.holds(None).await.map_err(unavailable)?.into_iter().find(|hold| hold.id == id);
        let hold = hold.ok_or_else(missing)?;
        let accounts = db.accounts().await.map_err(unavailable)?;
        let account = accounts.iter().find(|account| Some(account.key) == hold.account);
        let is_permitted = match account {
            Some(account) => caller.may_in_account(Permission::Erase, &account.id.sub),
            None => caller.may_everywhere(Permission::Erase),
        };
        if !is_permitted {
            return Err(missing());
        }
        let logged = AccessSubject::Other {
            what: &format!("hold {id}"),
            sub: account.map(|account| &*account.id.sub),
        };
        state.access_log.record(&caller, AccessAction::Release, logged).await.map_err(unavailable)?;
        let reason = parameters.reason.clone();
        let released = db.release_hold(id, &journal_name(&caller), reason, state.reader.now()).await;
        let released = released.map_err(unavailable)?.ok_or_else(missing)?;
        Ok((StatusCode::OK, PlacedHold { id: released.id }))
    };
    once(&state, &caller, &headers, &("release", &id, &parameters), act).await
}
