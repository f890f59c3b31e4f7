//! Wrong clocks cost no data: the machine's, the API's (its `Date` header), and the database's.
//!
//! A test cannot set the machine's clock. Only the differences matter, so the tests set the simulator's and Postgres' clocks the
//! other way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::time::Duration;

use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Db, OpenMode, Stmt, sql};
use ringcx_extractor::model::{AccountId, TimeRange};
use ringcx_extractor::sim::{Sim, WrongDate};
use ringcx_extractor::{config, daemon, status};
use secrecy::SecretString;
use serde_json::Value;
use support::test_env::scenario::strings;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use tokio_util::sync::CancellationToken;

e2e! {
    retention_erases_nothing_by_a_clock_that_is_400_days_ahead,
    retention_announces_an_unusual_pass_and_waits_until_a_person_approves,
    a_date_ahead_makes_nothing_count_as_read_that_has_not_happened,
    dates_that_are_behind_or_cannot_be_stop_nothing,
    a_date_of_years_ago_at_the_first_start_does_not_move_where_an_account_begins,
    a_machine_that_is_ahead_from_the_start_reads_by_the_apis_clock,
    coverage_of_the_future_is_cut_and_an_account_may_begin_at_another_time,
}

const SECOND: Duration = Duration::from_secs(1);
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

async fn exported_ids(env: &TestEnv) -> Vec<String> {
    let text = env.run(&["export"]).await.out;
    let id = |line: &str| {
        ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segment_id"].as_str().unwrap().to_owned()
    };
    text.lines().map(id).collect()
}

async fn open_database(database: &TempDatabase) -> Db {
    match database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(path.as_ref(), OpenMode::CreateOrMigrate).await.unwrap(),
        None => {
            Db::open_postgres(&SecretString::from(database.url.clone()), OpenMode::CreateOrMigrate, 1).await.unwrap()
        }
    }
}

/// Shifts the clock of a Postgres database; SQLite has none.
async fn set_database_clock(database: &TempDatabase, days: i64) {
    if database.is_sqlite() {
        return;
    }
    let name = database.url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    let db = open_database(database).await;
    let clock = format!(
        "create function public.clock_timestamp() returns timestamptz language sql volatile as
         $$ select pg_catalog.clock_timestamp() + interval '{days} days' $$"
    );
    db.run(Stmt::built(clock)).await.unwrap();
    db.run(Stmt::built(format!("alter database {name} set search_path = public, pg_catalog"))).await.unwrap();
    db.close().await;
}

/// As if this replica's clock were 400 days ahead of all others.
async fn retention_erases_nothing_by_a_clock_that_is_400_days_ahead(database: TempDatabase) {
    set_database_clock(&database, -400).await;
    let scenario =
        Scenario::history().account_setting("retention", "365d").configure_sim(|sim| sim.skew_ms = -400 * DAY);
    let mut env = TestEnv::new(database, scenario).await;
    // A fixed start: with one relative to now, nothing would count before the API's clock is believed.
    let start = env.begin.plus_millis(-400 * DAY - 60_000);
    env.set("discovery.start", start.rfc3339_secs());
    env.start();
    env.wait_until_complete().await;
    // Either number, depending on the fraction of a second that `Date` lacks.
    let paused = ["400", "399"].map(|days| {
        format!("retention is paused and deletes nothing: this machine's clock is {days} days ahead of the API's")
    });
    env.wait_until("the pause of retention is logged", async || paused.iter().any(|it| env.log().contains(it))).await;
    let held = exported_ids(&env).await.len();
    env.stop().await;
    env.start();
    env.wait_for_request().await;
    env.clock.sleep(2 * SECOND).await;
    assert_eq!(exported_ids(&env).await.len(), held);
    let journal = env.run_ok(&["erase", "--journal"]).await;
    assert!(!journal.contains("retention@"), "{journal}");
    env.assert_contract_kept();
}

async fn retention_announces_an_unusual_pass_and_waits_until_a_person_approves(database: TempDatabase) {
    let scenario = Scenario::history()
        .set("discovery.start", "2d")
        .set("discovery.max_window", "3h")
        .set("discovery.interval", "3s")
        .set("discovery.rechecks", strings(&[]))
        .configure_sim(|sim| {
            (sim.traffic.history, sim.traffic.per_minute) = (Duration::from_secs(2 * 86_400), 0.02);
            sim.windows.max_interval_secs = 10_800;
        });
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until_complete().await;
    env.stop().await;
    let all = exported_ids(&env).await.len();
    env.run(&["erase", "--retention-now"]).await.assert_output(1, &["no retention waits"]);
    env.scenario = env.scenario.clone().account_setting("retention", "6h");
    env.set("http.listen", "127.0.0.1:0");
    env.start();
    env.wait_for_log("more than usual; it waits until").await;
    // A restart does not skip the wait.
    env.stop().await;
    env.start();
    let announcement = "retention is about to delete";
    env.wait_until("it is announced again", async || env.log().matches(announcement).count() == 2).await;
    assert_eq!(exported_ids(&env).await.len(), all);
    env.run(&["erase", "--retention-now"])
        .await
        .assert_output(2, &["retention will erase ", "nothing was approved", "--yes"]);
    env.run(&["erase", "--retention-now", "--yes"]).await.assert_output(0, &["retention will erase ", "approved"]);
    env.wait_until_within(150 * SECOND, "it has run", async || env.log().contains("deleted expired segments")).await;
    let left = exported_ids(&env).await.len();
    assert!(left < all / 2, "{left} of {all}");
    env.run(&["erase", "--retention-now", "--yes"]).await.assert_output(1, &["no retention waits"]);
    env.wait_for_audit().await;
}

/// Rechecks shorter than the clock error, and `[]` as the answer for future windows. An earlier version lost 278 of 339 segments.
async fn a_date_ahead_makes_nothing_count_as_read_that_has_not_happened(database: TempDatabase) {
    let scenario = Scenario::live(10 * SECOND)
        .set("discovery.rechecks", strings(&["1s", "2s"]))
        .configure_sim(|sim| sim.windows.answers_future = true);
    let env = TestEnv::new(database, scenario).await;
    env.sim.control().add_wrong_date(env.begin + 2 * SECOND, env.begin + 7 * SECOND, WrongDate::OffsetMs(600_000));
    let mut env = env;
    env.start();
    env.clock.sleep_until_time(env.begin + 6 * SECOND).await;
    let (audit, _) = env.audit_json().await;
    for pass in audit["accounts"][0]["passes"].as_array().unwrap() {
        let to = pass["stretches"].as_array().unwrap().last().unwrap()["to"].as_str().unwrap();
        assert!(Time::parse(to).unwrap() <= env.clock.now(), "{pass}");
    }
    env.expect_complete_archive().await;
}

async fn dates_that_are_behind_or_cannot_be_stop_nothing(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::live(10 * SECOND)).await;
    let at = |second: u32| env.begin + second * SECOND;
    env.sim.control().add_wrong_date(at(2), at(5), WrongDate::Fixed(Time(0)));
    env.sim.control().add_wrong_date(at(5), at(8), WrongDate::OffsetMs(-10 * 60_000));
    let mut env = env;
    env.start();
    env.expect_complete_archive().await;
    let edge = env.audit_json().await.0["accounts"][0]["watermark"].as_str().map(|text| Time::parse(text).unwrap());
    assert!(edge.unwrap() >= env.begin + 8 * SECOND, "discovery stands still");
}

async fn a_date_of_years_ago_at_the_first_start_does_not_move_where_an_account_begins(database: TempDatabase) {
    let scenario = Scenario::live(10 * SECOND).set("discovery.start", "now").set("discovery.window", "25s");
    let env = TestEnv::new(database, scenario).await;
    env.sim.control().add_wrong_date(env.begin, env.begin + 6 * SECOND, WrongDate::OffsetMs(-5 * 365 * DAY));
    let mut env = env;
    env.start();
    env.expect_complete_archive().await;
    let begins = Time::parse(env.account_status().await["live_start"].as_str().unwrap()).unwrap();
    assert!(begins >= env.begin - 60 * SECOND, "{begins}");
    env.run_ok(&["audit"]).await;
}

async fn a_machine_that_is_ahead_from_the_start_reads_by_the_apis_clock(database: TempDatabase) {
    let scenario =
        Scenario::live(4 * SECOND).set("discovery.start", "now").configure_sim(|sim| sim.skew_ms = -2 * HOUR);
    let scenario = scenario.set("discovery.window", "25s");
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until_complete().await;
    env.assert_contract_kept();
    env.wait_until("it is logged", async || env.log().contains("this machine's clock is 7")).await;
}

/// Runs a daemon in this process with a fast clock, so that the API's clock is believed soon. Postgres' clock cannot run fast.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_behind_from_the_start_reads_by_the_apis_clock_once_there_is_proof() {
    let clock = Clock::accelerated(15.0, Clock::system().now());
    let scenario = Scenario::live(600 * SECOND).set("discovery.interval", "5s").configure_sim(|sim| {
        sim.skew_ms = 2 * HOUR;
        sim.traffic.per_minute = 30.0;
    });
    // Only the settings of this environment are used.
    let env = TestEnv::new(TempDatabase::sqlite(), scenario).await;
    let mut options = env.scenario.sim.clone();
    options.begin = Some(clock.now().plus_millis(2 * HOUR));
    let sim = Sim::start(options, clock.clone()).await.unwrap();
    let host = |host| (format!("RINGCX__API__{host}_URL"), sim.base_url());
    let hosts = ["PLATFORM", "RINGCX", "SUMMARY"].map(host);
    let settings = config::load(Some(&env.config()), hosts).unwrap().settings;
    let (stop, db) = (CancellationToken::new(), open_database(&env.database).await);
    let wait_for_watermark = async {
        let deadline = clock.tick() + 600 * SECOND;
        loop {
            let status = status::gather(&db, &settings, "test", None, clock.now()).await.unwrap();
            let watermark = status.accounts.first().and_then(|account| account.watermark);
            if watermark.is_some_and(|watermark| watermark > clock.now()) {
                stop.cancel();
                return;
            }
            assert!(clock.tick() < deadline, "{status:?}");
            clock.sleep(SECOND).await;
        }
    };
    let (result, ()) = tokio::join!(daemon::run(settings.clone(), clock.clone(), stop.clone()), wait_for_watermark);
    result.unwrap();
    db.close().await;
    sim.stop().await;
}

async fn coverage_of_the_future_is_cut_and_an_account_may_begin_at_another_time(database: TempDatabase) {
    let (db, now) = (open_database(&database).await, Time(1_800_000_000_000));
    let account = db.register_account(&AccountId::new("1", "20"), None, now).await.unwrap();
    let other = db.register_account(&AccountId::new("1", "21"), None, now).await.unwrap();
    let keys = [account.key, other.key];
    let owned = db.acquire_leases(&keys, "test", Duration::from_secs(10), now).await.unwrap();
    for (key, pass, from, to) in [
        (account.key, "live", -60, 10),
        (account.key, "live", 20, 30),
        (account.key, "recheck:5", -60, -30),
        (account.key, "recheck:60", -60, 5),
        (other.key, "live", -60, 10),
    ] {
        let stmt = sql("insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read)
             values ($1, $2, $3, $4, 1, 0, 0)");
        let (from, to) = (now.plus_millis(from * 60_000), now.plus_millis(to * 60_000));
        db.run(stmt.bind(key).bind(pass).bind(from).bind(to)).await.unwrap();
    }
    let mine = owned.iter().find(|owned| owned.account == account.key).unwrap();
    db.truncate_coverage(*mine, now).await.unwrap();
    let at = |from: i64, to: i64| TimeRange { from: now.plus_millis(from * 60_000), to: now.plus_millis(to * 60_000) };
    let expected = [("live", at(-60, 0)), ("recheck:5", at(-60, -30)), ("recheck:60", at(-60, 0))];
    assert_eq!(db.coverage(account.key).await.unwrap(), expected.map(|(pass, stretch)| (pass.to_owned(), stretch)));
    assert_eq!(db.coverage(other.key).await.unwrap(), [("live".to_owned(), at(-60, 10))]);
    assert_eq!(db.init_live_start(account.key, now).await.unwrap(), now);
    for start in [now.plus_millis(5), now.plus_millis(-5)] {
        db.move_live_start(*mine, start).await.unwrap();
        assert_eq!(db.init_live_start(account.key, now).await.unwrap(), start);
    }
}
