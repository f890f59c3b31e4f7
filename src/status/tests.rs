//! The JSON that programs rely on, and the arithmetic behind it.

use std::num::NonZeroU32;

use super::assemble::{StatusRows, build_snapshot};
use super::*;
use crate::config::LimitScope;
use crate::db::{AccountKey, AccountRow, IndexLag, PauseRow, QueueCounts, ReplicaRow};
use crate::health::{CoverageGap, WorkCounts};
use crate::model::{AccountId, Endpoint, TimeRange};

fn now() -> Time {
    Time::parse("2026-11-20T10:00:00Z").unwrap()
}

fn settings() -> Settings {
    let variables = [
        ("RINGCX__AUTH__API_TOKEN", "token"),
        ("RINGCX__ACCOUNTS__0__RC_ACCOUNT_ID", "980634004"),
        ("RINGCX__ACCOUNTS__0__SUB_ACCOUNT_ID", "99999999"),
        ("RINGCX__DATABASE__INSTANCE", "host-1"),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.toml");
    std::fs::write(&file, "").unwrap();
    crate::config::load(Some(&file), variables).unwrap().settings
}

fn account(key: i64, sub: &str) -> AccountRow {
    AccountRow {
        key: AccountKey(key),
        id: AccountId::new("980634004", sub),
        name: None,
        owner: Some("host-1".to_owned()),
        live_start: Time::parse("2026-11-20T09:00:00Z"),
        retention_days: None,
        missing_since: None,
        done: 812,
        feed: 812,
    }
}

fn replica(heartbeat: Time) -> ReplicaRow {
    ReplicaRow {
        name: "host-1".to_owned(),
        version: "0.1.0".to_owned(),
        started: now() - Duration::from_secs(3600),
        heartbeat,
        released: None,
        stats: r#"{"accounts":{"99999999":{"running":1,"requests_last_minute":118,"refused":0,"paused_until":null}}}"#
            .to_owned(),
    }
}

fn stretch(from: &str, to: &str) -> TimeRange {
    let at = |time: &str| Time::parse(&format!("2026-11-20T{time}Z")).unwrap();
    TimeRange { from: at(from), to: at(to) }
}

fn rows() -> StatusRows {
    let oldest = Some(now() - Duration::from_secs(41));
    let counts = QueueCounts { ready: 1, waiting: 3, unavailable: 2, oldest, ..QueueCounts::default() };
    StatusRows {
        sinks: Vec::new(),
        accounts: vec![account(1, "99999999")],
        coverage: vec![(AccountKey(1), stretch("09:00:00", "09:55:00"))],
        counts: [(AccountKey(1), counts)].into(),
        pauses: Vec::new(),
        replicas: vec![replica(now() - Duration::from_secs(2))],
        index: IndexLag { changes: 7, since: Some(now() - Duration::from_secs(90)) },
        here: now(),
        own: None,
        refusals: BTreeMap::new(),
        asides: BTreeMap::new(),
        backfills: Vec::new(),
        backfilled: Vec::new(),
    }
}

fn status_of(rows: StatusRows, settings: &Settings) -> Snapshot {
    build_snapshot(rows, settings, "host-1", now())
}

#[test]
fn the_documented_example_comes_out_key_for_key() {
    let text = serde_json::to_string(&status_of(rows(), &settings())).unwrap();
    let documented = concat!(
        r#"{"version":"0.1.0","now":"2026-11-20T10:00:00Z","instance":"host-1","#,
        r#""accounts":[{"rc_account_id":"980634004","sub_account_id":"99999999","name":null,"owner":"host-1","#,
        r#""watermark":"2026-11-20T09:55:00Z","lag_seconds":300,"#,
        r#""work":{"ready":0,"waiting":3,"running":1,"done":812,"unavailable":2,"failed":0,"discarded":0},"#,
        r#""oldest_unfinished_seconds":41,"requests_last_minute":118,"drain_seconds":2,"#,
    );
    assert!(text.starts_with(&documented.replace("0.1.0", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.contains(r#""sinks":[]"#), "{text}");
    assert!(text.ends_with(r#""search_index":{"lag_changes":7,"lag_seconds":90}}"#), "{text}");
}

#[test]
fn a_configured_account_without_rows_is_shown() {
    let no_rows = StatusRows {
        accounts: Vec::new(),
        coverage: Vec::new(),
        counts: BTreeMap::new(),
        replicas: Vec::new(),
        ..rows()
    };
    let all = status_of(no_rows, &settings());
    let [account] = all.accounts.as_slice() else { panic!("{all:?}") };
    assert_eq!(
        (account.watermark.as_ref(), account.lag_seconds, account.oldest_unfinished_seconds),
        (None, None, None)
    );
    assert_eq!((account.work, account.drain_seconds), (WorkCounts::default(), 0));
}

#[test]
fn an_account_that_the_settings_no_longer_name_is_still_shown() {
    let mut rows = rows();
    rows.accounts.push(account(2, "11111111"));
    let subs: Vec<String> =
        status_of(rows, &settings()).accounts.into_iter().map(|account| account.sub_account_id).collect();
    assert_eq!(subs, ["11111111", "99999999"]);
}

#[test]
fn an_account_removed_from_the_settings_is_not_reported_as_late() {
    let mut rows = rows();
    rows.accounts.push(AccountRow { missing_since: Some(now()), ..account(2, "11111111") });
    rows.coverage.push((AccountKey(2), TimeRange { from: Time(0), to: now() - Duration::from_secs(40 * 86_400) }));
    rows.accounts[1].live_start = Some(Time(0));
    let found = status_of(rows, &settings()).findings;
    let codes: Vec<String> = found.iter().map(|finding| finding.code.to_string()).collect();
    assert_eq!((codes, found[0].subject.as_deref()), (vec!["account_left_out".to_owned()], Some("11111111")));
}

#[test]
fn the_watermark_stops_at_the_first_gap_and_the_gap_is_listed() {
    let mut rows = rows();
    rows.coverage =
        vec![(AccountKey(1), stretch("09:00:00", "09:20:00")), (AccountKey(1), stretch("09:30:00", "09:55:00"))];
    let account = status_of(rows, &settings()).accounts.remove(0);
    assert_eq!(account.watermark, Time::parse("2026-11-20T09:20:00Z"));
    let TimeRange { from, to } = stretch("09:20:00", "09:30:00");
    assert_eq!(account.gaps, [CoverageGap { from, to, seconds: 600 }]);
}

#[test]
fn stats_of_a_silent_or_released_replica_do_not_count() {
    let silent = replica(now() - Duration::from_secs(31));
    let released = ReplicaRow { released: Some(now()), ..replica(now()) };
    let broken = ReplicaRow { stats: "{}x".to_owned(), ..replica(now()) };
    for row in [silent, released, broken] {
        let all = status_of(StatusRows { replicas: vec![row.clone()], ..rows() }, &settings());
        assert_eq!(all.accounts[0].requests_last_minute, 0, "{row:?}");
        assert_eq!((all.accounts[0].work.ready, all.accounts[0].work.running), (1, 0), "{row:?}");
    }
}

#[test]
fn with_one_limit_for_the_login_an_account_waits_for_all() {
    let mut settings = settings();
    settings.limits.requests_per_minute = NonZeroU32::new(60).unwrap();
    let three_accounts = || {
        let mut rows = rows();
        rows.accounts.push(account(2, "11111111"));
        rows.accounts.push(account(3, "22222222"));
        rows.counts.insert(AccountKey(2), QueueCounts { waiting: 96, ..QueueCounts::default() });
        rows
    };
    let drains = |settings: &Settings| {
        status_of(three_accounts(), settings).accounts.iter().map(|a| a.drain_seconds).collect::<Vec<_>>()
    };
    assert_eq!(drains(&settings), [96, 0, 4]);
    settings.limits.scope = LimitScope::Login;
    assert_eq!(drains(&settings), [100, 0, 100]);
}

#[test]
fn a_pause_has_its_start_end_and_reason() {
    let mut rows = rows();
    rows.pauses = vec![PauseRow {
        account: AccountKey(1),
        endpoint: Endpoint::Transcript,
        since: now() - Duration::from_secs(60),
        until: now() + Duration::from_secs(60),
        times: 1,
        status: Some(403),
        is_login_failure: false,
        reason: "failed to fetch a transcript: 403".to_owned(),
    }];
    let paused = status_of(rows, &settings()).accounts.remove(0).paused;
    assert_eq!(
        serde_json::to_string(&paused).unwrap(),
        r#"[{"endpoint":"transcript","since":"2026-11-20T09:59:00Z","until":"2026-11-20T10:01:00Z","reason":"failed to fetch a transcript: 403","status":403}]"#
    );
}
