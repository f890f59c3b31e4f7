//! Pauses that end badly: an end that the database does not take at once, one of an earlier owner, a probe that panics, and a
//! clock that was ahead.

use tempfile::TempDir;

use super::*;
use crate::account::{Live, PauseLog};
use crate::backoff::{Backoff, Fault};
use crate::clock::{Clock, millis};
use crate::daemon::shared::{Shared, budget_name, metadata_budget};
use crate::db::{Access, Db, Owned, sql};
use crate::ringcx::limits::Pacer;

const NOW: Time = Time(1_800_000_000_000);

const SETTINGS: &str = r#"
[api]
platform_url = "http://127.0.0.1:1"
ringcx_url = "http://127.0.0.1:1"
summary_url = "http://127.0.0.1:1"
[auth]
api_token = "planted-secret"
[[accounts]]
rc_account_id = "1"
sub_account_id = "one"
[database]
instance = "host-1"
"#;

async fn account() -> (Arc<Account>, Clock, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("local.toml");
    std::fs::write(&file, SETTINGS).unwrap();
    let settings = crate::config::load(Some(&file), []).unwrap().settings;
    let crate::config::Accounts::Listed(listed) = settings.accounts.clone() else { panic!("listed") };
    let db = Db::open_sqlite(&folder.path().join("test.db"), Access::Own).await.unwrap();
    let clock = Clock::manual(NOW);
    let shared = Shared::new(settings, db.clone(), clock.clone()).unwrap();
    let limits = &shared.settings.limits;
    let row = db.enrol(&listed[0].id, None, NOW).await.unwrap();
    let owned = take(&db, row.key, "host-1").await;
    let account = Account {
        id: listed[0].id.clone(),
        name: None,
        policy: listed[0].policy,
        retention_days: None,
        owned,
        db: db.clone(),
        api: shared.api.clone(),
        login: shared.login.clone(),
        pacer: Pacer::new(limits.requests_per_minute, clock.clone()),
        budget: budget_name(limits, "one"),
        metadata: metadata_budget(limits, "one", &db, &clock),
        clock: clock.clone(),
        work: tokio::sync::Notify::new(),
        discover: tokio::sync::Notify::new(),
        findings: shared.findings.clone(),
        live: Live::default(),
        pauses: PauseLog::default(),
    };
    (Arc::new(account), clock, folder)
}

async fn take(db: &Db, account: i64, name: &str) -> Owned {
    db.take(&[account], name, Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

fn pause(account: &Account) -> PauseRow {
    PauseRow {
        account: account.owned.account,
        endpoint: Endpoint::Transcript,
        since: NOW,
        until: NOW + Duration::from_secs(60),
        times: 1,
        status: Some(403),
        reason: "access.denied.exception".to_owned(),
    }
}

#[tokio::test]
async fn a_pause_and_its_end_are_recorded_as_soon_as_the_database_takes_them() {
    let (account, _clock, _folder) = account().await;
    let (db, row) = (account.db.clone(), pause(&account));
    account.paused(row.clone()).await;
    assert_eq!(db.pauses().await.unwrap(), std::slice::from_ref(&row));
    db.suspend(Some("someone holds a lock".to_owned()));
    account.resumed(row.endpoint, Some((row.since, row.until))).await;
    db.suspend(None);
    assert_eq!(db.pauses().await.unwrap().len(), 1, "it could not be written");
    account.pauses.write(&account).await;
    assert_eq!(db.pauses().await.unwrap(), []);
    // In the order in which it happened, whatever could be written when.
    db.suspend(Some("someone holds a lock".to_owned()));
    account.paused(row.clone()).await;
    account.paused(PauseRow { times: 2, ..row.clone() }).await;
    account.resumed(row.endpoint, None).await;
    account.paused(PauseRow { times: 3, ..row.clone() }).await;
    db.suspend(None);
    account.pauses.write(&account).await;
    assert_eq!(db.pauses().await.unwrap(), [PauseRow { times: 3, ..row }]);
}

#[tokio::test]
async fn the_end_of_a_pause_is_recorded_whatever_the_database_had_against_it_before() {
    let (account, _clock, _folder) = account().await;
    let (db, row) = (account.db.clone(), pause(&account));
    account.paused(row.clone()).await;
    db.run(sql("create trigger refuse before delete on pause begin select raise(abort, 'no'); end")).await.unwrap();
    account.resumed(row.endpoint, Some((row.since, row.until))).await;
    assert_eq!(db.pauses().await.unwrap(), std::slice::from_ref(&row));
    db.run(sql("drop trigger refuse")).await.unwrap();
    account.pauses.write(&account).await;
    assert_eq!(db.pauses().await.unwrap(), []);
}

#[tokio::test]
async fn whoever_lost_the_account_neither_records_a_pause_nor_its_end() {
    let (account, _clock, _folder) = account().await;
    let (db, row) = (account.db.clone(), pause(&account));
    take(&db, account.owned.account, "host-2").await;
    account.paused(row.clone()).await;
    assert_eq!(db.pauses().await.unwrap(), [], "the owner would not know of it");
    let (account, _clock, _folder) = self::account().await;
    let db = account.db.clone();
    account.paused(row.clone()).await;
    take(&db, account.owned.account, "host-2").await;
    account.resumed(row.endpoint, None).await;
    assert_eq!(db.pauses().await.unwrap(), [row], "it is the owner's");
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test's own task, joined by the test")]
async fn a_probe_that_panics_leaves_its_endpoint_to_the_next_one() {
    let (account, clock, _folder) = account().await;
    let first = Duration::from_secs(10);
    let mut drain = drain(&account);
    let standing = drain.standing.entry(Artifact::Transcript).or_default();
    standing.failed(Fault::Unauthorised, "x", NOW, first, 1.0);
    clock.advance(first);
    assert!(standing.admit(clock.now()) && !standing.open(clock.now()));
    let panicked = tokio::spawn(async { panic!("a bug") }).await.map(|()| unreachable!());
    drain.tried(panicked).await;
    clock.advance(first);
    assert!(drain.standing.entry(Artifact::Transcript).or_default().admit(clock.now()), "it stays shut");
}

fn drain(account: &Arc<Account>) -> Drain {
    let (committer, _writer) =
        Committer::new(account.db.clone(), tokio::sync::watch::Sender::new(0), CancellationToken::new());
    let hour = Duration::from_secs(3600);
    let backoff = Backoff::new(Duration::from_secs(10), hour, hour).unwrap();
    Drain::new(account.clone(), Patience { backoff, revisit: Vec::new() }, 1, committer)
}

#[tokio::test]
async fn a_pause_by_a_clock_that_was_ahead_ends_within_the_hour_and_at_once_when_the_clock_is_set_back() {
    let (account, clock, _folder) = account().await;
    let days = Duration::from_secs(400 * 86_400);
    let mut later = drain(&account);
    later.take_up(&PauseRow { until: NOW + days, ..pause(&account) });
    clock.advance(Duration::from_secs(3600));
    assert!(later.open().contains(Artifact::Transcript), "after a restart");
    // In the process whose clock was wrong.
    let mut drain = drain(&account);
    clock.step(millis(days));
    drain.forget_a_wrong_clock();
    drain.take_up(&PauseRow { until: clock.now() + Duration::from_secs(60), ..pause(&account) });
    drain.left_alone.insert(Item(4), clock.now() + LEFT_ALONE);
    clock.step(-millis(days));
    drain.forget_a_wrong_clock();
    assert!(drain.open().contains(Artifact::Transcript) && drain.left_alone.is_empty() && drain.refill);
}
