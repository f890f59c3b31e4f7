//! The limits, end to end: the real binary against the simulator's exact counters, which count when a request arrives.
//!
//! The quick test runs with all the others. Those at the vendor's real limits take some fifteen minutes and print what they
//! measure:
//!
//! ```sh
//! cargo test --release --test limits_e2e -- --ignored --nocapture
//! ```

mod support;

use std::time::Duration;

use ringcx_extractor::clock::Tick;
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{Burst, RetryAfter, SimLimits};
use support::daemon::plan::strings;
use support::daemon::{Place, Plan, Rig};
use support::road::Road;

e2e! {
    kills_in_the_middle_of_a_backlog_cause_no_refusal,
    a_pause_that_the_server_asked_for_outlives_a_crash_loop,
    a_pause_that_the_server_asked_for_binds_the_next_owner,
    a_pause_of_metadata_outlives_the_process_and_is_metadatas_alone,
    requests_that_arrive_late_and_together_meet_no_limit,
    #[ignore = "takes four minutes"]
    late_arrivals_at_the_real_limits_meet_none,
    #[ignore = "takes four minutes"]
    three_minutes_at_the_real_limits_use_all_of_them_and_meet_none,
    #[ignore = "takes four minutes"]
    a_kill_every_ten_seconds_at_the_real_limits_causes_no_refusal,
    #[ignore = "takes five minutes"]
    beside_another_user_it_settles_at_what_is_left_over,
    #[ignore = "takes two minutes"]
    the_time_to_drain_is_as_long_as_was_said,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The vendor's limits on both sides, but for so many requests a minute, and a backlog of so many transcripts.
async fn rig(place: Place, per_minute: u32, others: f64, backlog: u32) -> Rig {
    filled(Rig::new(place, plan(per_minute, others)).await, backlog)
}

fn plan(per_minute: u32, others: f64) -> Plan {
    Plan::history()
        .transcripts_only()
        // Once in two minutes, and once again later: what nine metadata requests in 15 minutes can carry.
        .set("discovery.window", "2m")
        .set("discovery.interval", "2m")
        .set("discovery.max_window", "1h")
        .set("discovery.rechecks", strings(&["3m"]))
        .set("limits.requests_per_minute", i64::from(per_minute))
        .set("limits.metadata_per_minute", 3)
        .set("limits.metadata_per_15_minutes", 9)
        .set("limits.token_exchanges_per_minute", 5)
        .sim(|sim| {
            sim.limits =
                SimLimits { requests_per_minute: per_minute, others_per_minute: others, ..SimLimits::default() };
            sim.keep_arrivals = true;
            // The backlog alone, and all of it within the first window.
            sim.traffic.per_minute = 0.0;
            sim.traffic.transcribed = 1.0;
        })
}

fn filled(rig: Rig, backlog: u32) -> Rig {
    rig.sim.add_burst(&rig.main_account(), Burst { from: rig.begin - 15 * SECOND, width: 10 * SECOND, count: backlog });
    rig
}

fn meets_no_limit(rig: &Rig) {
    rig.kept_the_contract();
    let stats = rig.sim.stats();
    assert_eq!(stats.refused_in_all(), 0, "requests beyond a limit: {:?}", stats.refused);
}

async fn kills_in_the_middle_of_a_backlog_cause_no_refusal(place: Place) {
    let mut rig = rig(place, 1200, 0.0, 300).await;
    for _ in 0..2 {
        rig.start();
        rig.asks().await;
        rig.clock.sleep(3 * SECOND).await;
        rig.kill().await;
    }
    rig.start();
    rig.complete().await;
    meets_no_limit(&rig);
    assert!(rig.sim.stats().peak_per_minute <= 1200);
}

/// The same, at the end of a road on which requests arrive late, and some of them together.
async fn far_away(place: Place, per_minute: u32, backlog: u32) -> (Rig, Road) {
    let road = Road::start(7).await;
    let mut plan = plan(per_minute, 0.0);
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        plan = plan.set(host, road.url());
    }
    let rig = Rig::new(place, plan).await;
    road.leads_to(&rig.sim.base_url());
    (filled(rig, backlog), road)
}

/// Too short to fill a minute: it is the starts, the logins and the reads of metadata that are put to the test.
async fn requests_that_arrive_late_and_together_meet_no_limit(place: Place) {
    let (mut rig, road) = far_away(place, 600, 200).await;
    for _ in 0..3 {
        works_anew(&mut rig).await;
        rig.clock.sleep(4 * SECOND).await;
        rig.kill().await;
    }
    rig.start();
    rig.complete().await;
    meets_no_limit(&rig);
    assert!(road.late() >= 50, "only {} requests were late", road.late());
}

async fn late_arrivals_at_the_real_limits_meet_none(place: Place) {
    let (mut rig, road) = far_away(place, 120, 600).await;
    let account = rig.main_account();
    works_anew(&mut rig).await;
    // The window fills, and what is late crowds the next.
    rig.clock.sleep(130 * SECOND).await;
    meets_no_limit(&rig);
    let peak = rig.sim.stats().peak_per_minute;
    for round in 0..15 {
        rig.kill().await;
        rig.start();
        rig.clock.sleep(Duration::from_secs(3 + round % 3)).await;
    }
    // What the last start may send meets what all the starts before it sent.
    rig.clock.sleep(30 * SECOND).await;
    meets_no_limit(&rig);
    println!(
        "{}: {} requests, {} of them late, most in any 60 s {peak} without kills, {} with, refused 0",
        name(&rig),
        rig.sim.arrivals(&account).len(),
        road.late(),
        rig.sim.stats().peak_per_minute,
    );
    assert!(peak >= 115, "the window was never full: {peak}");
    assert!(rig.sim.stats().peak_per_minute <= 120);
}

/// A daemon that the server has just refused, with most of a minute to wait, and that was killed the moment it said so.
async fn refused_and_killed(place: Place, said: RetryAfter) -> Rig {
    let plan = Plan::history().sim(|sim| {
        sim.limits = SimLimits { requests_per_minute: 20, retry_after: said, ..SimLimits::lifted() };
        sim.keep_arrivals = true;
    });
    let mut rig = Rig::started(place, plan).await;
    rig.says("refused with 429").await;
    rig.kill().await;
    // What it had under way may still be read by the simulator.
    rig.clock.sleep(SECOND).await;
    rig
}

async fn a_pause_that_the_server_asked_for_outlives_a_crash_loop(place: Place) {
    let mut rig = refused_and_killed(place, RetryAfter::Seconds).await;
    let account = rig.main_account();
    let before = rig.sim.arrivals(&account).len();
    for _ in 0..3 {
        works_anew(&mut rig).await;
        // Two and a half seconds after a start the first request goes, if nothing holds it.
        rig.clock.sleep(4 * SECOND).await;
        assert_eq!(rig.sim.arrivals(&account).len(), before, "asked again before the time that the server named");
        let holds = rig.account().await["holds_until"].clone();
        assert!(holds.is_string(), "`status` does not say until when it holds: {holds}");
        rig.kill().await;
    }
}

async fn a_pause_that_the_server_asked_for_binds_the_next_owner(place: Place) {
    let mut rig = refused_and_killed(place, RetryAfter::HttpDate).await;
    let account = rig.main_account();
    let before = rig.sim.arrivals(&account).len();
    rig.set("database.instance", "another");
    rig.start();
    rig.until("the other takes the account over", async || rig.account().await["owner"] == "another").await;
    rig.clock.sleep(6 * SECOND).await;
    assert_eq!(rig.sim.arrivals(&account).len(), before, "asked again before the time that the server named");
}

/// Starts the daemon, and waits until it works.
async fn works_anew(rig: &mut Rig) {
    let starts = |rig: &Rig| rig.log().matches(" working ").count();
    let before = starts(rig);
    rig.start();
    rig.until("it works again", async || starts(rig) > before).await;
}

async fn a_pause_of_metadata_outlives_the_process_and_is_metadatas_alone(place: Place) {
    let plan = Plan::history().sim(|sim| {
        sim.limits = SimLimits { metadata_per_minute: 3, ..SimLimits::lifted() };
        sim.keep_arrivals = true;
    });
    let mut rig = Rig::started(place, plan).await;
    rig.says("metadata refused with 429").await;
    rig.kill().await;
    rig.clock.sleep(SECOND).await;
    let reads = |rig: &Rig| rig.sim.stats().requests.get(&Endpoint::Metadata).copied().unwrap_or(0);
    let before = reads(&rig);
    let check = rig.run(&["check"]).await.text();
    assert!(check.contains("not asked: the daemon was refused with 429"), "{check}");
    works_anew(&mut rig).await;
    rig.until("all else goes on", async || rig.account().await["holds_until"].is_null()).await;
    rig.clock.sleep(4 * SECOND).await;
    assert_eq!(reads(&rig), before, "metadata was asked for before the time that the server named");
}

async fn three_minutes_at_the_real_limits_use_all_of_them_and_meet_none(place: Place) {
    let mut rig = rig(place, 120, 0.0, 600).await;
    let account = rig.main_account();
    rig.start();
    rig.asks().await;
    rig.until("the account is asked", async || !rig.sim.arrivals(&account).is_empty()).await;
    let first = rig.sim.arrivals(&account)[0];
    rig.clock.sleep_until(first + 3 * MINUTE + 30 * SECOND).await;
    meets_no_limit(&rig);
    let arrivals = rig.sim.arrivals(&account);
    let used = [0, 1, 2].map(|minute| within(&arrivals, first + minute * MINUTE, MINUTE));
    let peak = rig.sim.stats().peak_per_minute;
    println!("{}: used of 120 in each minute {used:?}, most in any 60 s {peak}, refused 0", name(&rig));
    for (minute, sent) in used.into_iter().enumerate() {
        assert!(sent >= 118, "minute {minute} used {sent} of 120 requests");
    }
    assert!(rig.sim.stats().peak_per_minute <= 120);
}

fn name(rig: &Rig) -> &'static str {
    if rig.place.is_sqlite() { "SQLite" } else { "Postgres" }
}

/// How many arrived in a stretch of time.
fn within(arrivals: &[Tick], from: Tick, width: Duration) -> usize {
    arrivals.iter().filter(|at| **at >= from && **at < from + width).count()
}

async fn a_kill_every_ten_seconds_at_the_real_limits_causes_no_refusal(place: Place) {
    let mut rig = rig(place, 120, 0.0, 600).await;
    for _ in 0..20 {
        rig.start();
        rig.clock.sleep(10 * SECOND).await;
        rig.kill().await;
    }
    meets_no_limit(&rig);
    let stats = rig.sim.stats();
    let transcripts = stats.requests.get(&Endpoint::Transcript).copied().unwrap_or(0);
    let (peak, all) = (stats.peak_per_minute, stats.requests_in_all());
    println!(
        "{}: 20 kills in 200 s, {transcripts} transcripts, {all} requests, most in any 60 s {peak}, refused 0",
        name(&rig)
    );
    // Two seconds of each start go by in silence; logins, five a minute, hold up one start in six.
    assert!(transcripts >= 160, "hardly anything was done between the kills: {stats:?}");
}

async fn beside_another_user_it_settles_at_what_is_left_over(place: Place) {
    let mut rig = rig(place, 120, 60.0, 600).await;
    rig.start();
    rig.asks().await;
    rig.clock.sleep(3 * MINUTE).await;
    let (ok, refused) = counts(&rig);
    rig.clock.sleep(2 * MINUTE).await;
    let (ok, refused) = (counts(&rig).0 - ok, counts(&rig).1 - refused);
    rig.kept_the_contract();
    println!(
        "{}: beside 60 a minute of someone else {} of the other 60 used, {refused} refusals in two minutes",
        name(&rig),
        ok / 2
    );
    assert!(ok >= 2 * 45, "of the 60 a minute that were left over, {} were used", ok / 2);
    assert!(refused <= 12, "{refused} refusals in two minutes");
}

/// Transcripts served, and requests refused.
fn counts(rig: &Rig) -> (u64, u64) {
    let stats = rig.sim.stats();
    (stats.ok(Endpoint::Transcript), stats.refused_in_all())
}

async fn the_time_to_drain_is_as_long_as_was_said(place: Place) {
    let (other, third) = match place.is_sqlite() {
        true => (Place::sqlite(), Place::sqlite()),
        false => (Place::postgres().await, Place::postgres().await),
    };
    tokio::join!(
        drains(place, 600, 400, "sub_account"),
        drains(other, 120, 120, "sub_account"),
        drains(third, 600, 400, "login")
    );
}

/// Compares what `status` says once a backlog is known with how long that takes.
async fn drains(place: Place, per_minute: u32, backlog: u32, scope: &str) {
    let mut rig = rig(place, per_minute, 0.0, backlog).await;
    rig.set("limits.scope", scope);
    rig.start();
    let (mut from, mut said) = (rig.clock.tick(), 0);
    rig.until("the backlog is being worked off", async || {
        let account = rig.account().await;
        let known = account["work"]["done"].as_u64() > Some(0) && unfinished(&account) > u64::from(backlog) / 2;
        (from, said) = (rig.clock.tick(), account["drain_seconds"].as_u64().unwrap_or(0));
        known
    })
    .await;
    rig.until_within(4 * MINUTE, "it is drained", async || unfinished(&rig.account().await) == 0).await;
    let taken = rig.clock.tick().since(from).as_secs_f64();
    println!("{}, {scope}, {per_minute} a minute: {said} s said, {taken:.1} s taken", name(&rig));
    assert!((taken / said as f64 - 1.0).abs() < 0.15, "{said} s said, {taken:.1} s taken");
    meets_no_limit(&rig);
}

fn unfinished(account: &serde_json::Value) -> u64 {
    ["ready", "waiting", "running"].iter().filter_map(|state| account["work"][state].as_u64()).sum()
}
