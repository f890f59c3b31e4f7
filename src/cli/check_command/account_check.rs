//! Checks one account: reads one metadata window within the budgets and drops its records. Then it
//! requests one artifact of each kind, for a segment that has a transcript, because each kind needs
//! its own permission.

use std::time::Duration;

use tokio::sync::mpsc;

use super::{CheckEnv, CheckLine};
use crate::account::metadata_budget_name;
use crate::clock::{Clock, Time};
use crate::config::RecordingFormat;
use crate::daemon::app_context;
use crate::db::{AccountKey, Db, DbError};
use crate::error::{UserError, hint_of};
use crate::model::{AccountId, Artifact, ArtifactSet, SegmentRecord, Window};
use crate::ringcx::rate_limit::{Pacer, ReservedQuota};
use crate::ringcx::{self, ApiError, FetchedArtifact, ParsedRecord, RecordingRequest, RecordingWriter};

/// The longest wait for room in a budget.
const BUDGET_WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How old the heartbeat of a live replica may be.
const MAX_HEARTBEAT_AGE: Duration = Duration::from_secs(10);

/// How long after its grant a permit may be used. The daemon's count assumes it.
const PERMIT_LIFETIME: Duration = Duration::from_secs(1);
/// The interval at which the grant of a permit is polled.
const PERMIT_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Converts real time to time of this clock. The demo's clock runs faster, but its daemon needs the
/// same real time.
fn from_real_time(clock: &Clock, span: Duration) -> Duration {
    span.mul_f64(span.as_secs_f64() / clock.real(span).as_secs_f64().max(0.001))
}

/// Requests a permit for one request from the daemon that owns the account, if there is one,
/// because its request count does not include this process.
///
/// # Errors
/// If there is no permit within [`BUDGET_WAIT_TIMEOUT`].
async fn request_permit(env: &CheckEnv<'_>, id: &AccountId) -> Result<(), UserError> {
    let (db, clock) = (&env.db, &env.context.clock);
    let alive = from_real_time(clock, MAX_HEARTBEAT_AGE);
    let failed = |error: DbError| db_failed("failed to request a permit from the running daemon", &error);
    let account = db.register_account(id, None, clock.now()).await.map_err(failed)?;
    let here = db.database_now(clock.now()).await.map_err(failed)?;
    let replicas = db.replicas().await.map_err(failed)?;
    let owner = replicas.iter().find(|replica| Some(&replica.name) == account.owner.as_ref());
    if !owner.is_some_and(|owner| owner.released.is_none() && here.since(owner.heartbeat) <= alive) {
        return db.record_foreign_use(account.key, alive, clock.now()).await.map_err(failed);
    }
    match await_permit(db, clock, account.key).await.map_err(failed)? {
        true => Ok(()),
        false => {
            let why =
                "the running daemon granted no request in time, as when it waits after a 429 or its limit is very low";
            Err(UserError::failed(format!("not checked: {why}")).with_hint("see `status`, or try again"))
        }
    }
}

/// A failure of the database during a check.
fn db_failed(what: &str, error: &DbError) -> UserError {
    let failed = UserError::failed(format!("{what}: {error}"));
    match error.hint() {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}

/// Requests a permit and waits for its grant. A permit that is too old when its grant is noticed is
/// not used, and another one is requested. Returns whether one was granted in time.
async fn await_permit(db: &Db, clock: &Clock, account: AccountKey) -> Result<bool, DbError> {
    let lifetime = from_real_time(clock, PERMIT_LIFETIME);
    let until = clock.tick() + from_real_time(clock, BUDGET_WAIT_TIMEOUT);
    let mut request = db.request_permit(account, clock.now()).await?;
    while clock.tick() < until {
        match db.permit_age(request, clock.now()).await? {
            Some(age) if age <= lifetime => return Ok(true),
            Some(_) => request = db.request_permit(account, clock.now()).await?,
            None => tokio::time::sleep(PERMIT_POLL_INTERVAL).await,
        }
    }
    Ok(false)
}

/// Checks that the server has not asked to wait after a 429, which may have been sent to a daemon.
///
/// # Errors
/// If it has.
async fn check_throttle(env: &CheckEnv<'_>, budget: &str) -> Result<(), UserError> {
    let now = env.context.clock.now();
    let refusals = env.db.saved_throttles(now).await;
    let refusals = refusals.map_err(|error| db_failed("failed to read recent rate-limit answers", &error))?;
    let Some(refusal) = refusals.get(budget).filter(|refusal| refusal.until > now) else { return Ok(()) };
    let (until, wait) = (refusal.until.rfc3339_secs(), refusal.until.since(now).as_secs().saturating_add(1));
    let error = UserError::failed(format!("not checked: the daemon received a 429 and waits until {until} ({wait} s)"));
    Err(error.with_hint("try again then; another client also uses the limit of the account"))
}

/// An account to check.
pub(super) struct CheckedAccount {
    pub(super) id: AccountId,
    pub(super) name: Option<String>,
    /// The artifacts that the settings select.
    pub(super) artifacts: ArtifactSet,
}

impl CheckedAccount {
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("account {} ({name})", self.id.sub),
            None => format!("account {}", self.id.sub),
        }
    }
}

/// Reads the window that a daemon would read now, and requests one artifact of each kind from it.
pub(super) async fn check(
    env: &CheckEnv<'_>,
    account: &CheckedAccount,
    pacer: &Pacer,
    budget: &ReservedQuota,
) -> Vec<CheckLine> {
    let mut sample = None;
    let mut lines = vec![check_metadata(env, account, pacer, budget, &mut sample).await];
    if let Some(segment) = sample {
        for artifact in account.artifacts.iter() {
            lines.extend(check_permission(env, account, pacer, &segment, artifact).await);
        }
    }
    lines
}

/// Reads one window, and picks one segment with a transcript as a sample.
async fn check_metadata(
    env: &CheckEnv<'_>,
    account: &CheckedAccount,
    pacer: &Pacer,
    budget: &ReservedQuota,
    sample: &mut Option<SegmentRecord>,
) -> CheckLine {
    let (what, id, clock) = (account.title(), &account.id, &env.context.clock);
    match budget_free_at(budget, clock).await {
        Ok(free) if free > clock.now() + from_real_time(clock, BUDGET_WAIT_TIMEOUT) => {
            return CheckLine::from_error(&what, &budget_exhausted(free, clock.now()));
        }
        Ok(_) => {}
        Err(error) => return CheckLine::from_error(&what, &error),
    }
    let allowed = async {
        check_throttle(env, &metadata_budget_name(&id.sub)).await?;
        check_throttle(env, &app_context::budget_name(&env.settings.limits, &id.sub)).await?;
        // Before the daemon's permit, which is valid only for a short time.
        let permit = pacer.acquire().await;
        request_permit(env, id).await?;
        Ok::<_, UserError>(permit)
    };
    let permit = match allowed.await {
        Ok(permit) => permit,
        Err(error) => return CheckLine::from_error(&what, &error),
    };
    let window = latest_window(env.api.api_now(), env.settings.discovery.window, env.settings.discovery.offset);
    let (sender, mut receiver) = mpsc::channel(2);
    let request = ringcx::read_metadata(&env.api, &env.login, pacer, permit, budget, id, window, sender);
    let drain = async {
        let mut transcribed = 0_u64;
        while let Some(batch) = receiver.recv().await {
            let segments = batch.into_iter().filter_map(transcribed_segment);
            for segment in segments {
                transcribed += 1;
                sample.get_or_insert(segment);
            }
        }
        transcribed
    };
    let (read, transcribed) = tokio::join!(request, drain);
    match read {
        Ok(read) => CheckLine::ok(&what, &describe_window(read.announced, transcribed, read.quarantined, window)),
        Err(error) => CheckLine::from_error(&what, &error),
    }
}

/// When the metadata budget allows the next request.
async fn budget_free_at(budget: &ReservedQuota, clock: &Clock) -> Result<Time, UserError> {
    let log = budget.effective_times().await;
    let log = log.map_err(|error| UserError::failed(format!("failed to read the metadata budget: {error}")))?;
    Ok(budget.limits().earliest_send(&log, clock.now()))
}

fn budget_exhausted(free: Time, now: Time) -> UserError {
    let (until, wait) = (free.rfc3339_secs(), free.since(now).as_secs().saturating_add(1));
    UserError::failed(format!("not checked: the budget of metadata requests is exhausted until {until} ({wait} s)"))
        .with_hint("try again then, or increase discovery.interval if this happens always")
}

/// The window of this width that ends `offset` before `now`, in whole seconds.
fn latest_window(now: Time, width: Duration, offset: Duration) -> Window {
    let seconds = u32::try_from(width.as_secs()).unwrap_or(u32::MAX).max(1);
    Window { start: (now - offset).floor_secs() - i64::from(seconds), seconds }
}

fn transcribed_segment(record: ParsedRecord) -> Option<SegmentRecord> {
    match record {
        ParsedRecord::Segment(segment) if segment.has_transcript => Some(segment),
        _ => None,
    }
}

/// Checks the permission for an artifact. Returns no line if it is granted, which a 404 shows as
/// well as a body.
async fn check_permission(
    env: &CheckEnv<'_>,
    account: &CheckedAccount,
    pacer: &Pacer,
    segment: &SegmentRecord,
    artifact: Artifact,
) -> Option<CheckLine> {
    let what = format!("{}, {}", account.title(), artifact.name());
    let permit = pacer.acquire().await;
    if let Err(error) = request_permit(env, &account.id).await {
        return Some(CheckLine::warning(&what, &error.to_string()).with_hint(hint_of(&error)));
    }
    let (api, login, segment_id) = (&env.api, &env.login, segment.segment_id.as_str());
    let dialog = segment.dialog_id.as_deref().unwrap_or_default();
    let answer = match artifact {
        Artifact::Transcript => {
            ringcx::fetch_transcript(api, login, pacer, permit, &account.id, dialog, segment_id).await
        }
        Artifact::Recording => {
            // The first bytes show the permission. It may have no recording: a 404 shows it, too.
            let (accept, max_bytes) = (RecordingFormat::Wav.media_type(), 0);
            let request = RecordingRequest { account: &account.id, dialog, segment: segment_id, accept, max_bytes };
            let answer = ringcx::fetch_recording(api, login, pacer, permit, request, &mut Discarded).await;
            answer.map(|_| FetchedArtifact::Empty)
        }
        summary @ (Artifact::AgentSummary | Artifact::AutoSummary) => {
            ringcx::fetch_summary(api, login, pacer, permit, &account.id, segment_id, summary).await
        }
    };
    // A temporary failure does not show a missing permission.
    let is_permanent = |error: &ApiError| error.is_refusal() || error.is_redirect();
    answer.err().filter(is_permanent).map(|error| CheckLine::from_error(&what, &error))
}

/// A recording of which only the permission is of interest.
struct Discarded;

impl RecordingWriter for Discarded {
    async fn write(&mut self, _: bytes::Bytes) -> Result<(), ApiError> {
        Ok(())
    }
}

fn describe_window(announced: u64, transcribed: u64, aside: u64, window: Window) -> String {
    let mut text = format!(
        "{announced} segments ended from {} to {}, {transcribed} of them with a transcript",
        window.begin().rfc3339_secs(),
        window.end().rfc3339_secs()
    );
    if aside > 0 {
        text.push_str(&format!("; {aside} records could not be parsed"));
    }
    if announced == 0 {
        text.push_str(" (this is normal if there were no conversations)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::OpenMode;

    #[test]
    fn the_window_ends_the_offset_behind_now_on_a_whole_second() {
        let now = Time(1_790_000_000_750);
        let window = latest_window(now, Duration::from_secs(900), Duration::from_secs(300));
        assert_eq!(window.end(), Time::from_secs(1_789_999_700));
        assert_eq!(window.begin(), Time::from_secs(1_789_998_800));
    }

    #[tokio::test]
    async fn a_permit_that_is_noticed_too_late_is_not_used_and_another_is_requested() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
        let clock = Clock::system();
        let now = clock.now();
        let account = db.register_account(&AccountId::new("1", "a"), None, now).await.unwrap().key;
        let lease = db.acquire_leases(&[account], "test", MAX_HEARTBEAT_AGE, now).await.unwrap().remove(0);
        let granted = std::cell::Cell::new(0);
        let daemon = async {
            loop {
                for (request, _) in db.pending_permit_requests().await.unwrap() {
                    // The first grant is old when the command sees it.
                    let age = if granted.get() == 0 { Duration::from_secs(3) } else { Duration::ZERO };
                    db.grant_permit(request, lease, clock.now() - age, now - MAX_HEARTBEAT_AGE).await.unwrap();
                    granted.set(granted.get() + 1);
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            used = await_permit(&db, &clock, account) => assert!(used.unwrap()),
            () = daemon => {}
        }
        assert_eq!(granted.get(), 2);
        db.close().await;
    }

    #[test]
    fn a_used_up_budget_says_when_it_is_free_again() {
        let now = Time::from_secs(1_790_000_000);
        let line = CheckLine::from_error("account 1", &budget_exhausted(now + Duration::from_secs(40), now));
        assert!(line.found.contains("(41 s)"), "{}", line.found);
        assert!(line.hint.is_some());
    }
}
