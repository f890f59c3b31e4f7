//! The operation that replays a past range to a sink. As those of `actions`, it needs a permission, may
//! be repeated, and is in the access log before it happens.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::actions::{ActionResult, ApiState, failed, permitted_accounts};
use super::idempotency::{once, unavailable};
use super::parameters::{NoParameters, parse_time};
use super::problem::{ApiJson, ApiPath, ApiQuery, BodyProblems, Problem, Problems};
use crate::access::{AccessAction, AccessSubject, Caller, Permission};
use crate::archive_reader::forbidden;
use crate::http::state::HttpState;
use crate::model::TimeRange;
use crate::operator_actions::{self, ReplayRange};

/// Events of a replay in a second, if the request names no rate.
const DEFAULT_RATE: u32 = 50;
const MAX_RATE: u32 = 10_000;

/// A past range to send again.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct ReplayBody {
    /// Events of artifacts that were stored at or after this time.
    pub(in crate::http) from: String,
    /// Events of artifacts that were stored before this time.
    pub(in crate::http) to: String,
    /// Only this account, by sub-account id; otherwise all.
    pub(in crate::http) account: Option<String>,
    /// Events a second, at most; default: 50.
    #[schema(minimum = 1, maximum = 10_000)]
    pub(in crate::http) rate: Option<u32>,
}

/// A queued replay.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct QueuedReplay {
    /// The accounts whose events are sent again.
    pub(in crate::http) accounts: u64,
}

/// Send the events of a past time range again, in addition to new ones.
#[utoipa::path(post, path = "/deliveries/{sink}/replay", tag = "actions",
    params(("sink" = String, Path, description = "The sink's name"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 202, body = QueuedReplay), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), BodyProblems, Problems))]
pub(super) async fn replay_deliveries(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(sink): ApiPath,
    _: ApiQuery<NoParameters>,
    ApiJson(body): ApiJson<ReplayBody>,
) -> ActionResult {
    let act = |state: Arc<HttpState>, caller: Caller, (_, sink, body): (_, String, ReplayBody)| async move {
        carry_out_replay(&state, &caller, &sink, &body).await
    };
    once(state, caller, &headers, ("replay", sink, body), act).await
}

/// Queues a replay for a caller who may.
pub(in crate::http) async fn carry_out_replay(
    state: &HttpState,
    caller: &Caller,
    sink: &str,
    body: &ReplayBody,
) -> Result<(StatusCode, QueuedReplay), Problem> {
    let (db, settings, now) = (&state.app.db, &state.app.settings, state.reader.now());
    // A sink has the events of all accounts.
    if !caller.may_everywhere(Permission::Operate) {
        return Err(forbidden(Permission::Operate).into());
    }
    operator_actions::require_sink(settings, sink)
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, "there is no sink with this name"))?;
    let rate = body.rate.unwrap_or(DEFAULT_RATE);
    if !(1..=MAX_RATE).contains(&rate) {
        return Err(Problem::bad_request(format!("rate must be between 1 and {MAX_RATE}")));
    }
    let from = parse_time("from", &Some(body.from.clone()), now)?;
    let to = parse_time("to", &Some(body.to.clone()), now)?;
    let stored = from.zip(to).and_then(|(from, to)| TimeRange::new(from, to));
    let stored = stored.ok_or_else(|| Problem::bad_request("the range of from and to is empty"))?;
    let account = match &body.account {
        None => None,
        Some(wanted) => permitted_accounts(state, caller, Permission::Operate, Some(wanted)).await?.into_iter().next(),
    };
    let what = format!("replay to {sink} from {} to {}", stored.from.rfc3339_secs(), stored.to.rfc3339_secs());
    let subject = AccessSubject::Other { what: &what, sub: account.as_ref().map(|account| &*account.id.sub) };
    state.access_log.record(caller, AccessAction::Redeliver, subject).await.map_err(unavailable)?;
    let range = ReplayRange { account: account.map(|account| account.key), stored, rate };
    let accounts = operator_actions::replay_deliveries(db, settings, sink, range, now).await;
    let accounts = accounts.map_err(|error| failed(&error))?;
    Ok((StatusCode::ACCEPTED, QueuedReplay { accounts }))
}
