//! Pauses that end badly: an end that the database does not take at once, and a probe that panics.

use tempfile::TempDir;

use super::*;
use crate::account::{Live, PauseLog};
use crate::backoff::{Backoff, Fault};
use crate::clock::Clock;
use crate::daemon::shared::{Shared, budget_name, metadata_budget};
use crate::db::{Access, Db, Owned};
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
    let account = Account {
        id: listed[0].id.clone(),
        name: None,
        policy: listed[0].policy,
        retention_days: None,
        owned: Owned { account: row.key, epoch: 1 },
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
#[expect(clippy::disallowed_methods, reason = "a test's own task, joined by the test")]
async fn a_probe_that_panics_leaves_its_endpoint_to_the_next_one() {
    let (account, clock, _folder) = account().await;
    let (committer, _writer) =
        Committer::new(account.db.clone(), tokio::sync::watch::Sender::new(0), CancellationToken::new());
    let first = Duration::from_secs(10);
    let backoff = Backoff::new(first, Duration::from_secs(60), Duration::from_secs(3600)).unwrap();
    let patience = Patience { backoff, revisit: Vec::new() };
    let mut drain = Drain::new(account.clone(), patience, 1, committer);
    let standing = drain.standing.entry(Artifact::Transcript).or_default();
    standing.failed(Fault::Unauthorised, "x", NOW, first, 1.0);
    clock.advance(first);
    assert!(standing.admit(clock.now()) && !standing.open(clock.now()));
    let panicked = tokio::spawn(async { panic!("a bug") }).await.map(|()| unreachable!());
    drain.tried(panicked).await;
    clock.advance(first);
    assert!(drain.standing.entry(Artifact::Transcript).or_default().admit(clock.now()), "it stays shut");
}
