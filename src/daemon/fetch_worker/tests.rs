//! Pauses while the database is unavailable or the lease is lost, and requests that panic.

use tempfile::TempDir;

use super::*;
use crate::account::{PauseLog, RuntimeStats};
use crate::backoff::Backoff;
use crate::clock::{Clock, Time};
use crate::daemon::app_context::{AppContext, budget_name, metadata_budget};
use crate::db::{AccountKey, Db, Item, Lease, OpenMode, sql};
use crate::model::{Endpoint, Lane};
use crate::ringcx::rate_limit::Pacer;

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
    let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
    let clock = Clock::manual(NOW);
    let context = AppContext::new(settings, db.clone(), clock.clone()).unwrap();
    let limits = &context.settings.limits;
    let row = db.register_account(&listed[0].id, None, NOW).await.unwrap();
    let lease = acquire_lease(&db, row.key, "host-1").await;
    let account = Account {
        id: listed[0].id.clone(),
        policy: listed[0].policy,
        retention_days: None,
        lease,
        db: db.clone(),
        api: context.api.clone(),
        login: context.login.clone(),
        pacer: Pacer::new(limits.requests_per_minute, clock.clone()),
        budget_name: budget_name(limits, "one"),
        metadata_budget: metadata_budget(limits, "one", &db, &clock),
        recordings: context.recordings.clone(),
        clock: clock.clone(),
        work_queued: tokio::sync::Notify::new(),
        reads_requested: tokio::sync::Notify::new(),
        findings: context.findings.clone(),
        stats: RuntimeStats::default(),
        pauses: PauseLog::default(),
    };
    (Arc::new(account), clock, folder)
}

async fn acquire_lease(db: &Db, account: AccountKey, instance: &str) -> Lease {
    db.acquire_leases(&[account], instance, Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

fn pause(account: &Account) -> PauseRow {
    PauseRow {
        account: account.lease.account,
        endpoint: Endpoint::Transcript,
        since: NOW,
        until: NOW + Duration::from_secs(60),
        times: 1,
        status: Some(403),
        is_login_failure: false,
        reason: "access.denied.exception".to_owned(),
    }
}

#[tokio::test]
async fn a_pause_and_its_end_are_recorded_once_the_database_is_available() {
    let (account, _clock, _folder) = account().await;
    let (db, row) = (account.db.clone(), pause(&account));
    account.record_pause(row.clone()).await;
    assert_eq!(db.pauses().await.unwrap(), std::slice::from_ref(&row));
    db.suspend(Some("someone holds a lock".to_owned()));
    account.record_pause_end(row.endpoint, Some((row.since, row.until))).await;
    db.suspend(None);
    assert_eq!(db.pauses().await.unwrap().len(), 1, "it could not be written");
    account.pauses.flush(&account).await;
    assert_eq!(db.pauses().await.unwrap(), []);
    // Changes are written in the order in which they happened.
    db.suspend(Some("someone holds a lock".to_owned()));
    account.record_pause(row.clone()).await;
    account.record_pause(PauseRow { times: 2, ..row.clone() }).await;
    account.record_pause_end(row.endpoint, None).await;
    account.record_pause(PauseRow { times: 3, ..row.clone() }).await;
    db.suspend(None);
    account.pauses.flush(&account).await;
    assert_eq!(db.pauses().await.unwrap(), [PauseRow { times: 3, ..row }]);
}

#[tokio::test]
async fn the_end_of_a_pause_is_recorded_after_an_error_that_is_not_transient() {
    let (account, _clock, _folder) = account().await;
    let (db, row) = (account.db.clone(), pause(&account));
    account.record_pause(row.clone()).await;
    db.run(sql("create trigger refuse before delete on pause begin select raise(abort, 'no'); end")).await.unwrap();
    account.record_pause_end(row.endpoint, Some((row.since, row.until))).await;
    assert_eq!(db.pauses().await.unwrap(), std::slice::from_ref(&row));
    db.run(sql("drop trigger refuse")).await.unwrap();
    account.pauses.flush(&account).await;
    assert_eq!(db.pauses().await.unwrap(), []);
}

#[tokio::test]
async fn after_a_lost_lease_neither_a_pause_nor_its_end_is_recorded() {
    let (account, _clock, _folder) = account().await;
    let (db, row) = (account.db.clone(), pause(&account));
    acquire_lease(&db, account.lease.account, "host-2").await;
    account.record_pause(row.clone()).await;
    assert_eq!(db.pauses().await.unwrap(), [], "the owner would not know of it");
    let (account, _clock, _folder) = self::account().await;
    let db = account.db.clone();
    account.record_pause(row.clone()).await;
    acquire_lease(&db, account.lease.account, "host-2").await;
    account.record_pause_end(row.endpoint, None).await;
    assert_eq!(db.pauses().await.unwrap(), [row], "it belongs to the new owner");
}

#[tokio::test]
async fn a_panicked_request_returns_the_claim_that_it_was_for() {
    let (account, _clock, _folder) = account().await;
    let (batch_writer, _writer) =
        BatchWriter::new(account.db.clone(), tokio::sync::watch::Sender::new(0), CancellationToken::new());
    let hour = Duration::from_secs(3600);
    let policy = RetryPolicy { backoff: Backoff::new(hour, hour, hour).unwrap(), refresh_delays: Vec::new() };
    let mut worker = FetchWorker::new(account, policy, 2, batch_writer);
    let healthy = worker.requests.spawn(std::future::pending());
    worker.claims.insert(healthy.id(), claim(1));
    let panicked = worker.requests.spawn(async { panic!("a bug") });
    worker.claims.insert(panicked.id(), claim(2));
    let ended = worker.requests.join_next_with_id().await.unwrap();
    assert!(matches!(worker.end_request(ended), FetchEvent::Panicked(claim) if claim.item == Item(2)));
    assert!(worker.claims.contains_key(&healthy.id()));
}

fn claim(item: i64) -> Claim {
    Claim {
        item: Item(item),
        lease: Lease { account: AccountKey(1), epoch: 1 },
        artifact: Artifact::Transcript,
        lane: Lane::Live,
        segment_id: item.to_string(),
        dialog_id: None,
        ended: NOW,
        due: NOW,
        tries: 0,
        misses: 0,
        refusals: 0,
        broken_kind: 0,
        consecutive_broken: 0,
        first_try: None,
        paused: Duration::ZERO,
        visit: 0,
    }
}
