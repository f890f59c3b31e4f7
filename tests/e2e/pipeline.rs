//! From login to archive through the real binary: whatever fails on the way, the archive ends up equal to the simulator's
//! ledger, byte for byte.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{Burst, FaultRates, Faults, OutageKind, PartialDelay, WindowEdges};
use support::test_env::scenario::{millis, strings};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    everything_announced_arrives_as_it_was_sent,
    faults_of_every_kind_at_five_per_cent_cost_nothing,
    twenty_kills_at_random_moments_lose_and_change_nothing,
    tokens_that_live_two_seconds_are_renewed_in_time,
    tokens_that_tell_their_end_are_renewed_before_it,
    every_token_revoked_at_once_costs_a_single_new_login,
    a_restart_in_the_middle_of_a_large_answer_reads_it_again,
    late_segments_and_late_flags_are_caught_by_the_rechecks,
    ids_with_slashes_and_spaces_find_their_way_there_and_back,
    segments_on_the_edges_of_windows_are_found_however_edges_are_read,
    a_thousand_segments_in_one_window_all_arrive,
    hosts_that_refuse_connections_for_three_seconds_are_waited_for,
    hosts_that_answer_503_for_three_seconds_are_waited_for,
}

const SECOND: Duration = Duration::from_secs(1);

async fn everything_announced_arrives_as_it_was_sent(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, Scenario::live(4 * SECOND)).await;
    env.expect_complete_archive().await;
    let asked = env.expected_segments().iter().filter(|entry| entry.has_transcript).count() * 3;
    // `running` comes from the daemon's last heartbeat, which may be seconds old.
    env.wait_until("the status says that all is done", async || {
        let account = env.account_status().await;
        let work = &account["work"];
        let open = ["ready", "waiting", "running", "unavailable", "failed"];
        account["watermark"].is_string() && work["done"] == asked && open.iter().all(|state| work[state] == 0)
    })
    .await;
    assert_eq!(env.sim.expected_archive().repeated_serves(), Vec::<String>::new());
    let stats = env.sim.stats();
    assert_eq!((stats.rc_logins, stats.exchanges), (1, 1), "one login serves all");
}

async fn faults_of_every_kind_at_five_per_cent_cost_nothing(database: TempDatabase) {
    let scenario = Scenario::live(4 * SECOND).configure_sim(|sim| {
        sim.faults = Faults::everywhere(0.05);
        for rates in [&mut sim.faults.metadata, &mut sim.faults.transcript, &mut sim.faults.summary] {
            rates.slow_for = millis(0, 300);
        }
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    let kinds = env.sim.stats().faults;
    assert!(kinds.len() >= 9, "too few kinds of faults occurred: {kinds:?}");
}

async fn twenty_kills_at_random_moments_lose_and_change_nothing(database: TempDatabase) {
    let mut chance = StdRng::seed_from_u64(20);
    let scenario = Scenario::live(45 * SECOND).configure_sim(|sim| sim.traffic.per_minute = 60.0);
    let mut env = TestEnv::new(database, scenario).await;
    let mut asked = 0;
    for round in 0..20 {
        env.start();
        // Most are killed at work, some while they start.
        if round % 5 != 4 {
            env.wait_for_request().await;
            asked += 1;
        }
        env.clock.sleep(Duration::from_millis(chance.random_range(0..1200))).await;
        env.kill().await;
    }
    assert!(asked >= 16 && env.sim.stats().total_requests() > 100, "{:?}", env.sim.stats().requests);
    env.start();
    env.expect_complete_archive().await;
}

async fn tokens_that_live_two_seconds_are_renewed_in_time(database: TempDatabase) {
    assert_short_tokens_renewed(database, false).await;
}

async fn tokens_that_tell_their_end_are_renewed_before_it(database: TempDatabase) {
    assert_short_tokens_renewed(database, true).await;
}

/// RingCX tokens live two seconds, refresh tokens three, RingCentral tokens four: each renewal happens many times.
async fn assert_short_tokens_renewed(database: TempDatabase, jwt_shaped: bool) {
    let scenario = Scenario::live(12 * SECOND).configure_sim(|sim| {
        sim.tokens.access_lifetime = 2 * SECOND;
        sim.tokens.refresh_lifetime = 3 * SECOND;
        sim.tokens.rc_lifetime = 4 * SECOND;
        sim.tokens.jwt_shaped = jwt_shaped;
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    let stats = env.sim.stats();
    let renewals = stats.refreshes + stats.exchanges;
    assert!(renewals >= 4, "{stats:?}");
    assert!(renewals <= 20, "one renewal serves all who wait: {stats:?}");
}

async fn every_token_revoked_at_once_costs_a_single_new_login(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, Scenario::live(8 * SECOND)).await;
    env.wait_until("the first window is read", async || env.sim.stats().ok_count(Endpoint::Metadata) > 0).await;
    env.clock.sleep_until_time(env.begin + 3 * SECOND).await;
    let before = env.sim.stats();
    env.sim.control().revoke_all_tokens();
    env.expect_complete_archive().await;
    let stats = env.sim.stats();
    assert_eq!(stats.exchanges - before.exchanges, 1, "{stats:?}");
}

async fn a_restart_in_the_middle_of_a_large_answer_reads_it_again(database: TempDatabase) {
    // One window covers all segments, so that no other window can find them.
    let scenario = Scenario::history()
        .transcripts_only()
        .set("discovery.start", "25s")
        .configure_sim(|sim| sim.traffic.transcribed = 0.05);
    let mut env = TestEnv::new(database, scenario).await;
    let (account, count) = (env.main_account(), 3_000);
    env.sim.add_burst(&account, Burst { from: env.begin - 10 * SECOND, width: 2 * SECOND, count });
    let windows = |env: &TestEnv| env.sim.stats().requests.get(&Endpoint::Metadata).copied().unwrap_or(0);
    for graceful in [false, true, false] {
        let before = windows(&env);
        env.start();
        env.wait_until("the window is asked for", async || windows(&env) > before).await;
        if graceful {
            env.stop().await;
        } else {
            env.kill().await;
        }
        let account = env.account_status().await;
        assert!(
            account["watermark"].is_null(),
            "the window counts as read, though the answer was cut short: {account}"
        );
    }
    env.start();
    env.expect_complete_archive().await;
    assert!(env.expected_segments().len() > 3_000);
}

async fn late_segments_and_late_flags_are_caught_by_the_rechecks(database: TempDatabase) {
    let scenario = Scenario::live(10 * SECOND)
        .set("discovery.window", "2s")
        .set("discovery.rechecks", strings(&["4s", "12s"]))
        .configure_sim(|sim| {
            // Delays from just after the last live window, which ends 3 s after the segment, to just within the last recheck.
            sim.traffic.per_minute = 240.0;
            sim.availability.appear_after = Duration::from_millis(500);
            sim.availability.late = PartialDelay::new(0.2, millis(2_800, 7_000));
            sim.availability.flip = PartialDelay::new(0.6, millis(1_500, 5_000));
            sim.availability.transcript_after = millis(0, 5_000);
            sim.availability.summary_after = millis(0, 5_000);
            let rates = FaultRates { status_500: 0.02, reset: 0.02, truncate: 0.02, ..FaultRates::default() };
            sim.faults = Faults { metadata: rates, transcript: rates, summary: rates, ..Faults::default() };
        });
    let mut env = TestEnv::with_daemon(database, scenario).await;
    for (at, graceful) in [(4, true), (7, false), (10, true)] {
        env.clock.sleep_until_time(env.begin + at * SECOND).await;
        if graceful {
            env.stop().await;
        } else {
            env.kill().await;
        }
        env.start();
    }
    env.expect_complete_archive().await;
    let (audit, _) = env.audit_json().await;
    let late = &audit["accounts"][0]["late"];
    assert!(late["appeared"].as_u64() > Some(0) && late["flipped"].as_u64() > Some(0), "nothing was late: {late}");
}

async fn ids_with_slashes_and_spaces_find_their_way_there_and_back(database: TempDatabase) {
    let env =
        TestEnv::with_daemon(database, Scenario::history().configure_sim(|sim| sim.traffic.awkward_ids = 1.0)).await;
    env.expect_complete_archive().await;
    let world = env.expected_segments();
    let awkward = world.iter().find(|entry| entry.has_transcript && entry.segment_id.contains(['/', '%', ' ']));
    let id = &awkward.expect("an awkward id").segment_id;
    let shown = env.run_json(&["show", "--json", "--", id]).await;
    assert_eq!(shown["segment_id"], **id);
}

async fn segments_on_the_edges_of_windows_are_found_however_edges_are_read(database: TempDatabase) {
    let scenario = Scenario::live(5 * SECOND)
        // Adjacent windows without overlap or rechecks.
        .set("discovery.window", "1s")
        .set("discovery.rechecks", strings(&[]))
        .configure_sim(|sim| {
            sim.traffic.per_minute = 180.0;
            sim.traffic.whole_seconds = 1.0;
        });
    let on_sqlite = database.is_sqlite();
    let mut own = Some(database);
    let mut envs = Vec::new();
    for edges in [WindowEdges::Exclusive, WindowEdges::Inclusive, WindowEdges::StartOnly, WindowEdges::EndOnly] {
        let database = match own.take() {
            Some(database) => database,
            None if on_sqlite => TempDatabase::sqlite(),
            None => TempDatabase::postgres().await,
        };
        envs.push(
            TestEnv::with_daemon(database, scenario.clone().configure_sim(|sim| sim.windows.edges = edges)).await,
        );
    }
    for env in &envs {
        env.expect_complete_archive().await;
        let on_the_second = |end: Time| end.floor_to_second() == end;
        assert!(env.expected_segments().iter().filter_map(|entry| entry.end).all(on_the_second));
    }
}

async fn a_thousand_segments_in_one_window_all_arrive(database: TempDatabase) {
    let env = TestEnv::new(database, Scenario::history()).await;
    env.sim.add_burst(&env.main_account(), Burst { from: env.begin - 5 * SECOND, width: 2 * SECOND, count: 1_000 });
    let mut env = env;
    env.start();
    env.expect_complete_archive().await;
    assert!(env.expected_segments().len() >= 1_000);
}

async fn hosts_that_refuse_connections_for_three_seconds_are_waited_for(database: TempDatabase) {
    assert_recovery_from_outage(database, OutageKind::Closed).await;
}

async fn hosts_that_answer_503_for_three_seconds_are_waited_for(database: TempDatabase) {
    assert_recovery_from_outage(database, OutageKind::Unavailable).await;
}

async fn assert_recovery_from_outage(database: TempDatabase, kind: OutageKind) {
    let env = TestEnv::with_daemon(database, Scenario::live(7 * SECOND)).await;
    env.wait_until("metadata is read", async || env.sim.stats().ok_count(Endpoint::Metadata) > 0).await;
    let now = env.sim.now();
    env.sim.control().add_outage(now, now + 3 * SECOND, kind);
    env.expect_complete_archive().await;
    let log = env.log();
    assert!(log.contains("WARN"), "the outage was not logged");
}
