//! The operations on pauses and on queued backfills. As those of `actions`, each needs a permission,
//! may be repeated, and is in the access log before it happens.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::actions::{ActionResult, ApiState, permitted_accounts};
use super::idempotency::{once, unavailable};
use super::parameters::NoParameters;
use super::problem::{ApiPath, ApiQuery, Problem, Problems};
use crate::access::{AccessAction, AccessSubject, Caller, Permission};
use crate::http::state::HttpState;
use crate::operator_actions;

/// The accounts whose pauses and waits were ended.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ResumedAccounts {
    /// Sub-account ids.
    pub(in crate::http) accounts: Vec<String>,
}

/// A backfill that was cancelled.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct CancelledBackfill {
    cancelled: i64,
}

/// End the pauses and waits of an account, so that requests are tried again now.
#[utoipa::path(post, path = "/accounts/{sub}/resume", tag = "actions",
    params(("sub" = String, Path, description = "The sub-account's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = ResumedAccounts), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn resume(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(sub): ApiPath,
    _: ApiQuery<NoParameters>,
) -> ActionResult {
    once(state, caller, &headers, ("resume", sub), |state, caller, (_, sub)| async move {
        carry_out_resume(&state, &caller, &[sub]).await
    })
    .await
}

/// Ends the pauses and waits of accounts for a caller who may.
pub(in crate::http) async fn carry_out_resume(
    state: &HttpState,
    caller: &Caller,
    subs: &[String],
) -> Result<(StatusCode, ResumedAccounts), Problem> {
    let mut accounts = Vec::with_capacity(subs.len());
    for sub in subs {
        accounts.extend(permitted_accounts(state, caller, Permission::Operate, Some(sub)).await?);
    }
    for account in &accounts {
        let subject = AccessSubject::Other { what: "pauses and waits", sub: Some(&account.id.sub) };
        state.access_log.record(caller, AccessAction::Retry, subject).await.map_err(unavailable)?;
    }
    let now = state.reader.now();
    operator_actions::resume_accounts(&state.app.db, &accounts, &state.app.settings, now).await.map_err(unavailable)?;
    let accounts = accounts.into_iter().map(|account| account.id.sub.to_string()).collect();
    Ok((StatusCode::OK, ResumedAccounts { accounts }))
}

/// Cancel a backfill. The segments that it has found are kept.
#[utoipa::path(delete, path = "/backfills/{id}", tag = "actions",
    params(("id" = String, Path, description = "The backfill's number"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeating the request with this key changes nothing")),
    responses((status = 200, body = CancelledBackfill), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), Problems))]
pub(super) async fn cancel_backfill(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    ApiPath(id): ApiPath,
    _: ApiQuery<NoParameters>,
) -> ActionResult {
    once(state, caller, &headers, ("cancel backfill", id), |state, caller, (_, id)| async move {
        carry_out_cancel(&state, &caller, &id).await
    })
    .await
}

/// Cancels a backfill for a caller who may.
pub(in crate::http) async fn carry_out_cancel(
    state: &HttpState,
    caller: &Caller,
    id: &str,
) -> Result<(StatusCode, CancelledBackfill), Problem> {
    let accounts = permitted_accounts(state, caller, Permission::Operate, None).await?;
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no open backfill has this number");
    let id: i64 = id.parse().map_err(|_| missing())?;
    let open = state.app.db.backfills(None, false).await.map_err(unavailable)?;
    let backfill = open.into_iter().find(|backfill| backfill.id == id);
    let account = backfill.and_then(|backfill| accounts.iter().find(|account| account.key == backfill.account));
    let account = account.ok_or_else(missing)?;
    let what = format!("cancel backfill {id}");
    let subject = AccessSubject::Other { what: &what, sub: Some(&account.id.sub) };
    state.access_log.record(caller, AccessAction::Backfill, subject).await.map_err(unavailable)?;
    let was_open = operator_actions::cancel_backfill(&state.app.db, id, state.reader.now()).await;
    if !was_open.map_err(unavailable)? {
        return Err(missing());
    }
    Ok((StatusCode::OK, CancelledBackfill { cancelled: id }))
}
