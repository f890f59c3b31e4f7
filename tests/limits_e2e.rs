//! The limits, end to end: the real binary against the simulator, which counts each request when it arrives.
//!
//! The quick tests run with all others. Those at the vendor's real limits take about fifteen minutes and print what they measure:
//!
//! ```sh
//! cargo test --release --test limits_e2e -- --ignored --nocapture
//! ```

mod support;

use std::time::Duration;

use ringcx_extractor::clock::Tick;
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{Burst, RetryAfterFormat, SimLimits};
use support::delay_proxy::DelayProxy;
use support::test_env::scenario::strings;
use support::test_env::{Scenario, TempDatabase, TestEnv};

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

/// The vendor's limits on both sides, except for `per_minute`, and a backlog of this many transcripts.
async fn env_with_backlog(database: TempDatabase, per_minute: u32, others: f64, backlog: u32) -> TestEnv {
    add_backlog(TestEnv::new(database, scenario(per_minute, others)).await, backlog)
}

fn scenario(per_minute: u32, others: f64) -> Scenario {
    Scenario::history()
        .transcripts_only()
        // A window every two minutes and one recheck: what nine metadata requests in 15 minutes allow.
        .set("discovery.window", "2m")
        .set("discovery.interval", "2m")
        .set("discovery.max_window", "1h")
        .set("discovery.rechecks", strings(&["3m"]))
        .set("limits.requests_per_minute", i64::from(per_minute))
        .set("limits.metadata_per_minute", 3)
        .set("limits.metadata_per_15_minutes", 9)
        .set("limits.token_exchanges_per_minute", 5)
        .configure_sim(|sim| {
            sim.limits = SimLimits {
                requests_per_minute: per_minute,
                foreign_requests_per_minute: others,
                ..SimLimits::default()
            };
            sim.keep_arrivals = true;
            // No traffic except the backlog, which lies within the first window.
            sim.traffic.per_minute = 0.0;
            sim.traffic.transcribed = 1.0;
        })
}

fn add_backlog(env: TestEnv, backlog: u32) -> TestEnv {
    env.sim.add_burst(&env.main_account(), Burst { from: env.begin - 15 * SECOND, width: 10 * SECOND, count: backlog });
    env
}

fn assert_no_refusal(env: &TestEnv) {
    env.assert_contract_kept();
    let stats = env.sim.stats();
    assert_eq!(stats.total_refused(), 0, "requests beyond a limit: {:?}", stats.refused);
}

async fn kills_in_the_middle_of_a_backlog_cause_no_refusal(database: TempDatabase) {
    let mut env = env_with_backlog(database, 1200, 0.0, 300).await;
    for _ in 0..2 {
        env.start();
        env.wait_for_request().await;
        env.clock.sleep(3 * SECOND).await;
        env.kill().await;
    }
    env.start();
    env.wait_until_complete().await;
    assert_no_refusal(&env);
    assert!(env.sim.stats().peak_per_minute <= 1200);
}

/// The same, behind a proxy that delays some requests and releases some of them together.
async fn env_behind_delay_proxy(database: TempDatabase, per_minute: u32, backlog: u32) -> (TestEnv, DelayProxy) {
    let proxy = DelayProxy::start(7).await;
    let mut scenario = scenario(per_minute, 0.0);
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        scenario = scenario.set(host, proxy.url());
    }
    let env = TestEnv::new(database, scenario).await;
    proxy.set_upstream(&env.sim.base_url());
    (add_backlog(env, backlog), proxy)
}

/// Too short to fill a minute: it tests the starts, the logins and the metadata reads.
async fn requests_that_arrive_late_and_together_meet_no_limit(database: TempDatabase) {
    let (mut env, proxy) = env_behind_delay_proxy(database, 600, 200).await;
    for _ in 0..3 {
        start_and_wait(&mut env).await;
        env.clock.sleep(4 * SECOND).await;
        env.kill().await;
    }
    env.start();
    env.wait_until_complete().await;
    assert_no_refusal(&env);
    assert!(proxy.delayed_requests() >= 50, "only {} requests were late", proxy.delayed_requests());
}

async fn late_arrivals_at_the_real_limits_meet_none(database: TempDatabase) {
    let (mut env, proxy) = env_behind_delay_proxy(database, 120, 600).await;
    let account = env.main_account();
    start_and_wait(&mut env).await;
    // The window fills, and late requests add to the next one.
    env.clock.sleep(130 * SECOND).await;
    assert_no_refusal(&env);
    let peak = env.sim.stats().peak_per_minute;
    for round in 0..15 {
        env.kill().await;
        env.start();
        env.clock.sleep(Duration::from_secs(3 + round % 3)).await;
    }
    // The requests of the last start meet those of all starts before it.
    env.clock.sleep(30 * SECOND).await;
    assert_no_refusal(&env);
    println!(
        "{}: {} requests, {} of them late, most in any 60 s {peak} without kills, {} with, refused 0",
        database_name(&env),
        env.sim.arrivals(&account).len(),
        proxy.delayed_requests(),
        env.sim.stats().peak_per_minute,
    );
    assert!(peak >= 115, "the window was never full: {peak}");
    assert!(env.sim.stats().peak_per_minute <= 120);
}

/// Kills a daemon at its first refusal, when it would have to wait for most of a minute.
async fn kill_after_refusal(database: TempDatabase, retry_after: RetryAfterFormat) -> TestEnv {
    let scenario = Scenario::history().configure_sim(|sim| {
        sim.limits = SimLimits { requests_per_minute: 20, retry_after, ..SimLimits::unlimited() };
        sim.keep_arrivals = true;
    });
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_log("refused with 429").await;
    env.kill().await;
    // The simulator may still receive requests that were in flight.
    env.clock.sleep(SECOND).await;
    env
}

async fn a_pause_that_the_server_asked_for_outlives_a_crash_loop(database: TempDatabase) {
    let mut env = kill_after_refusal(database, RetryAfterFormat::Seconds).await;
    let account = env.main_account();
    let before = env.sim.arrivals(&account).len();
    for _ in 0..3 {
        start_and_wait(&mut env).await;
        // Without the pause, the first request leaves two and a half seconds after a start.
        env.clock.sleep(4 * SECOND).await;
        assert_eq!(
            env.sim.arrivals(&account).len(),
            before,
            "a request was sent before the time that the server named"
        );
        let holds = env.account_status().await["holds_until"].clone();
        assert!(holds.is_string(), "`status` does not show the end of the pause: {holds}");
        env.kill().await;
    }
}

async fn a_pause_that_the_server_asked_for_binds_the_next_owner(database: TempDatabase) {
    let mut env = kill_after_refusal(database, RetryAfterFormat::HttpDate).await;
    let account = env.main_account();
    let before = env.sim.arrivals(&account).len();
    env.set("database.instance", "another");
    env.start();
    env.wait_until("the other takes the account over", async || env.account_status().await["owner"] == "another").await;
    env.clock.sleep(6 * SECOND).await;
    assert_eq!(env.sim.arrivals(&account).len(), before, "a request was sent before the time that the server named");
}

/// Starts the daemon and waits until it works.
async fn start_and_wait(env: &mut TestEnv) {
    let starts = |env: &TestEnv| env.log().matches(" working ").count();
    let before = starts(env);
    env.start();
    env.wait_until("it works again", async || starts(env) > before).await;
}

async fn a_pause_of_metadata_outlives_the_process_and_is_metadatas_alone(database: TempDatabase) {
    let scenario = Scenario::history().configure_sim(|sim| {
        sim.limits = SimLimits { metadata_per_minute: 3, ..SimLimits::unlimited() };
        sim.keep_arrivals = true;
    });
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_log("metadata refused with 429").await;
    env.kill().await;
    env.clock.sleep(SECOND).await;
    let reads = |env: &TestEnv| env.sim.stats().requests.get(&Endpoint::Metadata).copied().unwrap_or(0);
    let before = reads(&env);
    let check = env.run(&["check"]).await.text();
    assert!(check.contains("not checked: the daemon received a 429"), "{check}");
    start_and_wait(&mut env).await;
    env.wait_until("other requests continue", async || env.account_status().await["holds_until"].is_null()).await;
    env.clock.sleep(4 * SECOND).await;
    assert_eq!(reads(&env), before, "metadata was requested before the time that the server named");
}

async fn three_minutes_at_the_real_limits_use_all_of_them_and_meet_none(database: TempDatabase) {
    let mut env = env_with_backlog(database, 120, 0.0, 600).await;
    let account = env.main_account();
    env.start();
    env.wait_for_request().await;
    env.wait_until("a request for the account arrives", async || !env.sim.arrivals(&account).is_empty()).await;
    let first = env.sim.arrivals(&account)[0];
    env.clock.sleep_until(first + 3 * MINUTE + 30 * SECOND).await;
    assert_no_refusal(&env);
    let arrivals = env.sim.arrivals(&account);
    let used = [0, 1, 2].map(|minute| arrivals_within(&arrivals, first + minute * MINUTE, MINUTE));
    let peak = env.sim.stats().peak_per_minute;
    println!("{}: used of 120 in each minute {used:?}, most in any 60 s {peak}, refused 0", database_name(&env));
    for (minute, sent) in used.into_iter().enumerate() {
        assert!(sent >= 118, "minute {minute} used {sent} of 120 requests");
    }
    assert!(env.sim.stats().peak_per_minute <= 120);
}

fn database_name(env: &TestEnv) -> &'static str {
    if env.database.is_sqlite() { "SQLite" } else { "Postgres" }
}

/// The number of requests that arrived within `width` after `from`.
fn arrivals_within(arrivals: &[Tick], from: Tick, width: Duration) -> usize {
    arrivals.iter().filter(|at| **at >= from && **at < from + width).count()
}

async fn a_kill_every_ten_seconds_at_the_real_limits_causes_no_refusal(database: TempDatabase) {
    let mut env = env_with_backlog(database, 120, 0.0, 600).await;
    for _ in 0..20 {
        env.start();
        env.clock.sleep(10 * SECOND).await;
        env.kill().await;
    }
    assert_no_refusal(&env);
    let stats = env.sim.stats();
    let transcripts = stats.requests.get(&Endpoint::Transcript).copied().unwrap_or(0);
    let (peak, all) = (stats.peak_per_minute, stats.total_requests());
    println!(
        "{}: 20 kills in 200 s, {transcripts} transcripts, {all} requests, most in any 60 s {peak}, refused 0",
        database_name(&env)
    );
    // Each start waits two seconds. The limit of five logins a minute delays one start in six.
    assert!(transcripts >= 160, "too little was fetched between the kills: {stats:?}");
}

async fn beside_another_user_it_settles_at_what_is_left_over(database: TempDatabase) {
    let mut env = env_with_backlog(database, 120, 60.0, 600).await;
    env.start();
    env.wait_for_request().await;
    env.clock.sleep(3 * MINUTE).await;
    let (ok, refused) = served_and_refused(&env);
    env.clock.sleep(2 * MINUTE).await;
    let (ok, refused) = (served_and_refused(&env).0 - ok, served_and_refused(&env).1 - refused);
    env.assert_contract_kept();
    println!(
        "{}: another user takes 60 a minute; {} of the other 60 used, {refused} refusals in two minutes",
        database_name(&env),
        ok / 2
    );
    assert!(ok >= 2 * 45, "of the 60 a minute that were left over, {} were used", ok / 2);
    assert!(refused <= 12, "{refused} refusals in two minutes");
}

/// The number of transcripts served and of requests refused.
fn served_and_refused(env: &TestEnv) -> (u64, u64) {
    let stats = env.sim.stats();
    (stats.ok_count(Endpoint::Transcript), stats.total_refused())
}

async fn the_time_to_drain_is_as_long_as_was_said(database: TempDatabase) {
    let (other, third) = match database.is_sqlite() {
        true => (TempDatabase::sqlite(), TempDatabase::sqlite()),
        false => (TempDatabase::postgres().await, TempDatabase::postgres().await),
    };
    tokio::join!(
        assert_drain_estimate(database, 600, 400, "sub_account"),
        assert_drain_estimate(other, 120, 120, "sub_account"),
        assert_drain_estimate(third, 600, 400, "login")
    );
}

/// Compares the `drain_seconds` that `status` shows for a backlog with the time that it takes.
async fn assert_drain_estimate(database: TempDatabase, per_minute: u32, backlog: u32, scope: &str) {
    let mut env = env_with_backlog(database, per_minute, 0.0, backlog).await;
    env.set("limits.scope", scope);
    env.start();
    let (mut from, mut estimate) = (env.clock.tick(), 0);
    env.wait_until("the backlog is being worked off", async || {
        let account = env.account_status().await;
        let known = account["work"]["done"].as_u64() > Some(0) && unfinished_items(&account) > u64::from(backlog) / 2;
        (from, estimate) = (env.clock.tick(), account["drain_seconds"].as_u64().unwrap_or(0));
        known
    })
    .await;
    env.wait_until_within(4 * MINUTE, "it is drained", async || unfinished_items(&env.account_status().await) == 0)
        .await;
    let taken = env.clock.tick().since(from).as_secs_f64();
    println!("{}, {scope}, {per_minute} a minute: {estimate} s estimated, {taken:.1} s taken", database_name(&env));
    assert!((taken / estimate as f64 - 1.0).abs() < 0.15, "{estimate} s estimated, {taken:.1} s taken");
    assert_no_refusal(&env);
}

fn unfinished_items(account: &serde_json::Value) -> u64 {
    ["ready", "waiting", "running"].iter().filter_map(|state| account["work"][state].as_u64()).sum()
}
