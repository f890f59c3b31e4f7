//! The operations on erasures and legal holds. As those of `actions`, each needs a permission, may be
//! repeated, and is in the access log before it happens.

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::actions::{ActionResult, ApiState, journal_name, permitted_accounts, refused};
use super::idempotency::{once, unavailable};
use super::parameters::NoParameters;
use super::problem::{ApiJson, ApiPath, ApiQuery, BodyProblems, Problem, Problems};
use crate::access::{AccessAction, AccessSubject, Caller, Permission};
use crate::archive_reader::forbidden;
use crate::db::{AccountRow, JournalAction, JournalEntry};
use crate::erasure::{self, Confirmation, ErasureRequest};
use crate::http::state::HttpState;
use crate::model::Subject;
use crate::operator_actions;

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
    /// Only of an erasure: also erase possible matches: a similar number, or a speaker who may be the agent.
    #[serde(default)]
    include_alike: bool,
    /// Only of an erasure: also erase what cannot be read and so may contain the contact.
    #[serde(default)]
    include_unreadable: bool,
    /// Only of an erasure: only say what would be erased.
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

    /// Refuses a hold with options of an erasure: whoever sends them takes it for one.
    fn refuse_erasure_options(&self) -> Result<(), Problem> {
        match self.dry_run || self.include_alike || self.include_unreadable {
            true => Err(Problem::bad_request("a hold has no dry_run, include_alike and include_unreadable")
                .with_hint("leave them out; POST /erasures has them")),
            false => Ok(()),
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
    responses((status = 200, body = ErasureAnswer), (status = 409, body = Problem, content_type = "application/problem+json", description = "Nothing can be erased"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), BodyProblems, Problems))]
pub(super) async fn erase(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    _: ApiQuery<NoParameters>,
    ApiJson(body): ApiJson<SubjectBody>,
) -> ActionResult {
    once(state, caller, &headers, ("erasures", body), |state, caller, (_, body)| async move {
        let subject = body.subject()?;
        let account = body.account(&state, &caller).await?;
        erase_subject(&state, &caller, &body, subject, account).await
    })
    .await
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
        access_entry: None,
    };
    let sub = account.as_ref().map(|account| &*account.id.sub);
    let logged = AccessSubject::Subject { subject: &request.subject, sub };
    // Every answer, also a refusal, tells whether the archive has something of the subject.
    state.access_log.record(caller, AccessAction::Count, logged).await.map_err(unavailable)?;
    let plan = erasure::plan_erasure(db, &request, &mut |_| {}).await.map_err(unavailable)?;
    // An unknown id is excluded from an account only where the request names it.
    let has_matches = !plan.segments.is_empty() || !plan.quarantined.is_empty() || plan.is_incomplete();
    if plan.is_empty() || (!has_matches && body.account.is_none()) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the archive contains nothing of this subject"));
    }
    let mut answer = ErasureAnswer {
        segments: plan.segments.len() as u64,
        records: plan.quarantined.len() as u64,
        held: (plan.held_segments.len() + plan.quarantine_holds.len()) as u64,
        possible: (plan.alike.len()
            + plan.unreadable.len()
            + plan.alike_quarantined.len()
            + plan.unreadable_quarantined.len()) as u64,
        dry_run: body.dry_run,
        note: None,
    };
    if body.dry_run {
        return Ok((StatusCode::OK, answer));
    }
    if !plan.has_deletions() {
        return Err(Problem::new(StatusCode::CONFLICT, "nothing was erased: all matches are on hold or uncertain")
            .with_hint(
                "\"dry_run\": true shows the counts; include_alike and include_unreadable erase uncertain ones",
            ));
    }
    let entry = state.access_log.record_erasure(caller, logged).await.map_err(unavailable)?;
    let request = ErasureRequest { access_entry: Some(entry), ..request };
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
    responses((status = 201, body = PlacedHold), (status = 409, body = Problem, content_type = "application/problem+json", description = "It is being carried out"), (status = 422, body = Problem, content_type = "application/problem+json", description = "The Idempotency-Key was used for another request"), BodyProblems, Problems))]
pub(super) async fn place_hold(
    State(state): ApiState,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    _: ApiQuery<NoParameters>,
    ApiJson(body): ApiJson<SubjectBody>,
) -> ActionResult {
    once(state, caller, &headers, ("holds", body), |state, caller, (_, body)| async move {
        let subject = body.subject()?;
        body.refuse_erasure_options()?;
        let account = body.account(&state, &caller).await?;
        let sub = account.as_ref().map(|account| &*account.id.sub);
        let logged = AccessSubject::Subject { subject: &subject, sub };
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
    })
    .await
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
    once(state, caller, &headers, ("release", id, parameters), |state, caller, (_, id, parameters)| async move {
        let db = &state.app.db;
        let missing = || Problem::new(StatusCode::NOT_FOUND, "there is no such hold");
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
        let logged = AccessSubject::Other { what: &format!("hold {id}"), sub: account.map(|account| &*account.id.sub) };
        state.access_log.record(&caller, AccessAction::Release, logged).await.map_err(unavailable)?;
        let reason = parameters.reason.clone();
        let released = db.release_hold(id, &journal_name(&caller), reason, state.reader.now()).await;
        let released = released.map_err(unavailable)?.ok_or_else(missing)?;
        Ok((StatusCode::OK, PlacedHold { id: released.id }))
    })
    .await
}
