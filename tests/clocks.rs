//! Wrong clocks cost no data: this machine's, the API's (its `Date`), the database's.
//!
//! Nobody can set the machine's clock here. What counts is how far clocks are apart, so the simulator's and Postgres' are
//! set instead, each to the other side.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::time::Duration;

use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Access, Db, Stmt, sql};
use ringcx_extractor::model::{AccountId, Stretch};
use ringcx_extractor::sim::{Sim, WrongDate};
use ringcx_extractor::{config, daemon, status};
use secrecy::SecretString;
use serde_json::Value;
use support::daemon::plan::strings;
use support::daemon::{Place, Plan, Rig};
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

async fn ids(rig: &Rig) -> Vec<String> {
    let text = rig.run(&["export"]).await.out;
    let id = |line: &str| {
        ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segment_id"].as_str().unwrap().to_owned()
    };
    text.lines().map(id).collect()
}

async fn open(place: &Place) -> Db {
    match place.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(path.as_ref(), Access::Own).await.unwrap(),
        None => Db::open_postgres(&SecretString::from(place.url.clone()), Access::Own, 1).await.unwrap(),
    }
}

/// Sets the clock of a Postgres database; SQLite has none.
async fn set_database_clock(place: &Place, days: i64) {
    if place.is_sqlite() {
        return;
    }
    let name = place.url.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    let db = open(place).await;
    let clock = format!(
        "create function public.clock_timestamp() returns timestamptz language sql volatile as
         $$ select pg_catalog.clock_timestamp() + interval '{days} days' $$"
    );
    db.run(Stmt::built(clock)).await.unwrap();
    db.run(Stmt::built(format!("alter database {name} set search_path = public, pg_catalog"))).await.unwrap();
    db.close().await;
}

/// As if one replica's clock were 400 days ahead of everyone else's.
async fn retention_erases_nothing_by_a_clock_that_is_400_days_ahead(place: Place) {
    set_database_clock(&place, -400).await;
    let plan = Plan::history().account("retention", "365d").sim(|sim| sim.skew_ms = -400 * DAY);
    let mut rig = Rig::new(place, plan).await;
    // A start that does not go by a clock: else nothing would count before the API's is believed.
    let start = rig.begin.plus_millis(-400 * DAY - 60_000);
    rig.set("discovery.start", start.rfc3339_secs());
    rig.start();
    rig.complete().await;
    // 399, where the fraction of a second of its `Date` is rounded so.
    let paused = ["400", "399"].map(|days| {
        format!("retention is paused and erases nothing: this machine's clock is {days} days ahead of the API's")
    });
    rig.until("it says that retention is paused", async || paused.iter().any(|it| rig.log().contains(it))).await;
    let held = ids(&rig).await.len();
    rig.stop().await;
    rig.start();
    rig.asks().await;
    rig.clock.sleep(2 * SECOND).await;
    assert_eq!(ids(&rig).await.len(), held);
    let journal = rig.output(&["erase", "--journal"]).await;
    assert!(!journal.contains("retention@"), "{journal}");
    rig.kept_the_contract();
}

async fn retention_announces_an_unusual_pass_and_waits_until_a_person_approves(place: Place) {
    let plan = Plan::history()
        .set("discovery.start", "2d")
        .set("discovery.max_window", "3h")
        .set("discovery.interval", "3s")
        .set("discovery.rechecks", strings(&[]))
        .sim(|sim| {
            (sim.traffic.history, sim.traffic.per_minute) = (Duration::from_secs(2 * 86_400), 0.02);
            sim.windows.widest = 10_800;
        });
    let mut rig = Rig::started(place, plan).await;
    rig.complete().await;
    rig.stop().await;
    let all = ids(&rig).await.len();
    rig.run(&["erase", "--retention-now"]).await.is(1, &["no pass of retention waits"]);
    rig.plan = rig.plan.clone().account("retention", "6h");
    rig.set("http.listen", "127.0.0.1:0");
    rig.start();
    rig.says("more than it usually does; it waits until").await;
    // A restart does not skip the wait.
    rig.stop().await;
    rig.start();
    let told = "retention is about to erase";
    rig.until("it is announced again", async || rig.log().matches(told).count() == 2).await;
    assert_eq!(ids(&rig).await.len(), all);
    rig.run(&["erase", "--retention-now"]).await.is(2, &["to erase by retention: ", "nothing was approved", "--yes"]);
    rig.run(&["erase", "--retention-now", "--yes"]).await.is(0, &["to erase by retention: ", "approved"]);
    rig.until_within(150 * SECOND, "it has run", async || rig.log().contains("past retention: erased")).await;
    let left = ids(&rig).await.len();
    assert!(left < all / 2, "{left} of {all}");
    rig.run(&["erase", "--retention-now", "--yes"]).await.is(1, &["no pass of retention waits"]);
    rig.audit_passes().await;
}

/// Rechecks shorter than the error, and a vendor that answers `[]` for the future: once, 278 of 339 segments were missing.
async fn a_date_ahead_makes_nothing_count_as_read_that_has_not_happened(place: Place) {
    let plan = Plan::live(10 * SECOND)
        .set("discovery.rechecks", strings(&["1s", "2s"]))
        .sim(|sim| sim.windows.answers_future = true);
    let rig = Rig::new(place, plan).await;
    rig.sim.control().wrong_date(rig.begin + 2 * SECOND, rig.begin + 7 * SECOND, WrongDate::Off(600_000));
    let mut rig = rig;
    rig.start();
    rig.clock.sleep_until_time(rig.begin + 6 * SECOND).await;
    let (audit, _) = rig.audit().await;
    for pass in audit["accounts"][0]["passes"].as_array().unwrap() {
        let to = pass["stretches"].as_array().unwrap().last().unwrap()["to"].as_str().unwrap();
        assert!(Time::parse(to).unwrap() <= rig.clock.now(), "{pass}");
    }
    rig.settled().await;
}

async fn dates_that_are_behind_or_cannot_be_stop_nothing(place: Place) {
    let rig = Rig::new(place, Plan::live(10 * SECOND)).await;
    let at = |second: u32| rig.begin + second * SECOND;
    rig.sim.control().wrong_date(at(2), at(5), WrongDate::Fixed(Time(0)));
    rig.sim.control().wrong_date(at(5), at(8), WrongDate::Off(-10 * 60_000));
    let mut rig = rig;
    rig.start();
    rig.settled().await;
    let edge = rig.audit().await.0["accounts"][0]["watermark"].as_str().map(|text| Time::parse(text).unwrap());
    assert!(edge.unwrap() >= rig.begin + 8 * SECOND, "discovery stands still");
}

async fn a_date_of_years_ago_at_the_first_start_does_not_move_where_an_account_begins(place: Place) {
    let plan = Plan::live(10 * SECOND).set("discovery.start", "now").set("discovery.window", "25s");
    let rig = Rig::new(place, plan).await;
    rig.sim.control().wrong_date(rig.begin, rig.begin + 6 * SECOND, WrongDate::Off(-5 * 365 * DAY));
    let mut rig = rig;
    rig.start();
    rig.settled().await;
    let begins = Time::parse(rig.account().await["live_start"].as_str().unwrap()).unwrap();
    assert!(begins >= rig.begin - 60 * SECOND, "{begins}");
    rig.output(&["audit"]).await;
}

async fn a_machine_that_is_ahead_from_the_start_reads_by_the_apis_clock(place: Place) {
    let plan = Plan::live(4 * SECOND).set("discovery.start", "now").sim(|sim| sim.skew_ms = -2 * HOUR);
    let plan = plan.set("discovery.window", "25s");
    let rig = Rig::started(place, plan).await;
    rig.complete().await;
    rig.kept_the_contract();
    rig.until("it is said", async || rig.log().contains("this machine's clock is 7")).await;
}

/// A daemon in this process, whose clock runs so fast that the API's is soon believed; Postgres' clock would not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_behind_from_the_start_reads_by_the_apis_clock_once_there_is_proof() {
    let clock = Clock::accelerated(15.0, Clock::system().now());
    let plan = Plan::live(600 * SECOND).set("discovery.interval", "5s").sim(|sim| {
        sim.skew_ms = 2 * HOUR;
        sim.traffic.per_minute = 30.0;
    });
    // Of this one only its settings are used.
    let rig = Rig::new(Place::sqlite(), plan).await;
    let mut world = rig.plan.sim.clone();
    world.begin = Some(clock.now().plus_millis(2 * HOUR));
    let sim = Sim::start(world, clock.clone()).await.unwrap();
    let host = |host| (format!("RINGCX__API__{host}_URL"), sim.base_url());
    let hosts = ["PLATFORM", "RINGCX", "SUMMARY"].map(host);
    let settings = config::load(Some(&rig.config()), hosts).unwrap().settings;
    let (stop, db) = (CancellationToken::new(), open(&rig.place).await);
    let watched = async {
        let deadline = clock.tick() + 600 * SECOND;
        loop {
            let status = status::gather(&db, &settings, "test", None, clock.now()).await.unwrap();
            let watermark = status.accounts.first().and_then(|account| account.watermark());
            if watermark.is_some_and(|watermark| watermark > clock.now()) {
                stop.cancel();
                return;
            }
            assert!(clock.tick() < deadline, "{status:?}");
            clock.sleep(SECOND).await;
        }
    };
    let (ended, ()) = tokio::join!(daemon::run(settings.clone(), clock.clone(), stop.clone()), watched);
    ended.unwrap();
    db.close().await;
    sim.stop().await;
}

async fn coverage_of_the_future_is_cut_and_an_account_may_begin_at_another_time(place: Place) {
    let (db, now) = (open(&place).await, Time(1_800_000_000_000));
    let account = db.enrol(&AccountId::new("1", "20"), None, now).await.unwrap();
    let other = db.enrol(&AccountId::new("1", "21"), None, now).await.unwrap();
    let keys = [account.key, other.key];
    let owned = db.take(&keys, "test", Duration::from_secs(10), now).await.unwrap();
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
    db.cut_coverage(*mine, now).await.unwrap();
    let at = |from: i64, to: i64| Stretch { from: now.plus_millis(from * 60_000), to: now.plus_millis(to * 60_000) };
    let expected = [("live", at(-60, 0)), ("recheck:5", at(-60, -30)), ("recheck:60", at(-60, 0))];
    assert_eq!(db.coverage(account.key).await.unwrap(), expected.map(|(pass, stretch)| (pass.to_owned(), stretch)));
    assert_eq!(db.coverage(other.key).await.unwrap(), [("live".to_owned(), at(-60, 10))]);
    assert_eq!(db.start_live(account.key, now).await.unwrap(), now);
    for start in [now.plus_millis(5), now.plus_millis(-5)] {
        db.move_live_start(*mine, start).await.unwrap();
        assert_eq!(db.start_live(account.key, now).await.unwrap(), start);
    }
}
