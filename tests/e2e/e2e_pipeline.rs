//! From login to archive through the real binary: whatever goes wrong on the way, the archive ends up as the simulated
//! RingCX's own books say, to the letter.
#![expect(clippy::expect_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::Time;
use ringcx_extractor::model::Endpoint;
use ringcx_extractor::sim::{Burst, Delayed, Edges, Faults, OutageKind, Rates};
use support::daemon::plan::{millis, strings};
use support::daemon::{Place, Plan, Rig};

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

async fn everything_announced_arrives_as_it_was_sent(place: Place) {
    let rig = Rig::started(place, Plan::live(4 * SECOND)).await;
    rig.settled().await;
    let asked = rig.world().iter().filter(|entry| entry.has_transcript).count() * 3;
    // What is running is known from the daemon's last sign of life, which may be seconds old.
    rig.until("the status says that all is done", async || {
        let account = rig.account().await;
        let work = &account["work"];
        let open = ["ready", "waiting", "running", "unavailable", "failed"];
        account["watermark"].is_string() && work["done"] == asked && open.iter().all(|state| work[state] == 0)
    })
    .await;
    assert_eq!(rig.sim.ledger().served_again(), Vec::<String>::new());
    let stats = rig.sim.stats();
    assert_eq!((stats.rc_logins, stats.exchanges), (1, 1), "one login serves all");
}

async fn faults_of_every_kind_at_five_per_cent_cost_nothing(place: Place) {
    let plan = Plan::live(4 * SECOND).sim(|sim| {
        sim.faults = Faults::everywhere(0.05);
        for rates in [&mut sim.faults.metadata, &mut sim.faults.transcript, &mut sim.faults.summary] {
            rates.slow_for = millis(0, 300);
        }
    });
    let rig = Rig::started(place, plan).await;
    rig.settled().await;
    let kinds = rig.sim.stats().faults;
    assert!(kinds.len() >= 9, "hardly any fault befell the daemon: {kinds:?}");
}

async fn twenty_kills_at_random_moments_lose_and_change_nothing(place: Place) {
    let mut chance = StdRng::seed_from_u64(20);
    let plan = Plan::live(45 * SECOND).sim(|sim| sim.traffic.per_minute = 60.0);
    let mut rig = Rig::new(place, plan).await;
    let mut asked = 0;
    for round in 0..20 {
        rig.start();
        // Most die while they are at work; some while they are still starting.
        if round % 5 != 4 {
            rig.asks().await;
            asked += 1;
        }
        rig.clock.sleep(Duration::from_millis(chance.random_range(0..1200))).await;
        rig.kill().await;
    }
    assert!(asked >= 16 && rig.sim.stats().requests_in_all() > 100, "{:?}", rig.sim.stats().requests);
    rig.start();
    rig.settled().await;
}

async fn tokens_that_live_two_seconds_are_renewed_in_time(place: Place) {
    short_tokens(place, false).await;
}

async fn tokens_that_tell_their_end_are_renewed_before_it(place: Place) {
    short_tokens(place, true).await;
}

/// RingCX tokens of two seconds, refresh tokens of three, RingCentral tokens of four: each renewal happens many times.
async fn short_tokens(place: Place, jwt_shaped: bool) {
    let plan = Plan::live(12 * SECOND).sim(|sim| {
        sim.tokens.access_life = 2 * SECOND;
        sim.tokens.refresh_life = 3 * SECOND;
        sim.tokens.rc_life = 4 * SECOND;
        sim.tokens.jwt_shaped = jwt_shaped;
    });
    let rig = Rig::started(place, plan).await;
    rig.settled().await;
    let stats = rig.sim.stats();
    let renewals = stats.refreshes + stats.exchanges;
    assert!(renewals >= 4, "{stats:?}");
    assert!(renewals <= 20, "one renewal serves all who wait: {stats:?}");
}

async fn every_token_revoked_at_once_costs_a_single_new_login(place: Place) {
    let rig = Rig::started(place, Plan::live(8 * SECOND)).await;
    rig.until("the first window is read", async || rig.sim.stats().ok(Endpoint::Metadata) > 0).await;
    rig.clock.sleep_until_time(rig.begin + 3 * SECOND).await;
    let before = rig.sim.stats();
    rig.sim.control().revoke_all();
    rig.settled().await;
    let stats = rig.sim.stats();
    assert_eq!(stats.exchanges - before.exchanges, 1, "{stats:?}");
}

async fn a_restart_in_the_middle_of_a_large_answer_reads_it_again(place: Place) {
    // One window holds everything, so that what it found is found again or never.
    let plan =
        Plan::history().transcripts_only().set("discovery.start", "25s").sim(|sim| sim.traffic.transcribed = 0.05);
    let mut rig = Rig::new(place, plan).await;
    let (account, count) = (rig.main_account(), 3_000);
    rig.sim.add_burst(&account, Burst { from: rig.begin - 10 * SECOND, width: 2 * SECOND, count });
    let windows = |rig: &Rig| rig.sim.stats().requests.get(&Endpoint::Metadata).copied().unwrap_or(0);
    for gently in [false, true, false] {
        let before = windows(&rig);
        rig.start();
        rig.until("the window is asked for", async || windows(&rig) > before).await;
        if gently {
            rig.stop().await;
        } else {
            rig.kill().await;
        }
        let account = rig.account().await;
        assert!(
            account["watermark"].is_null(),
            "the window counts as read, though the answer was cut short: {account}"
        );
    }
    rig.start();
    rig.settled().await;
    assert!(rig.world().len() > 3_000);
}

async fn late_segments_and_late_flags_are_caught_by_the_rechecks(place: Place) {
    let plan = Plan::live(10 * SECOND)
        .set("discovery.window", "2s")
        .set("discovery.rechecks", strings(&["4s", "12s"]))
        .sim(|sim| {
            // From just beyond the last live window, which ends 3 s after the segment, to just inside the last recheck.
            sim.traffic.per_minute = 240.0;
            sim.availability.appear_after = Duration::from_millis(500);
            sim.availability.late = Delayed::new(0.2, millis(2_800, 7_000));
            sim.availability.flip = Delayed::new(0.6, millis(1_500, 5_000));
            sim.availability.transcript_after = millis(0, 5_000);
            sim.availability.summary_after = millis(0, 5_000);
            let rates = Rates { status_500: 0.02, reset: 0.02, truncate: 0.02, ..Rates::default() };
            sim.faults = Faults { metadata: rates, transcript: rates, summary: rates, ..Faults::default() };
        });
    let mut rig = Rig::started(place, plan).await;
    for (at, gently) in [(4, true), (7, false), (10, true)] {
        rig.clock.sleep_until_time(rig.begin + at * SECOND).await;
        if gently {
            rig.stop().await;
        } else {
            rig.kill().await;
        }
        rig.start();
    }
    rig.settled().await;
    let (audit, _) = rig.audit().await;
    let late = &audit["accounts"][0]["late"];
    assert!(late["appeared"].as_u64() > Some(0) && late["flipped"].as_u64() > Some(0), "nothing was late: {late}");
}

async fn ids_with_slashes_and_spaces_find_their_way_there_and_back(place: Place) {
    let rig = Rig::started(place, Plan::history().sim(|sim| sim.traffic.awkward_ids = 1.0)).await;
    rig.settled().await;
    let world = rig.world();
    let awkward = world.iter().find(|entry| entry.has_transcript && entry.segment_id.contains(['/', '%', ' ']));
    let id = &awkward.expect("an awkward id").segment_id;
    let shown = rig.json(&["show", "--json", "--", id]).await;
    assert_eq!(shown["segment_id"], **id);
}

async fn segments_on_the_edges_of_windows_are_found_however_edges_are_read(place: Place) {
    let plan = Plan::live(5 * SECOND)
        // Windows that only just touch, and nothing that reads them again.
        .set("discovery.window", "1s")
        .set("discovery.rechecks", strings(&[]))
        .sim(|sim| {
            sim.traffic.per_minute = 180.0;
            sim.traffic.whole_seconds = 1.0;
        });
    let on_sqlite = place.is_sqlite();
    let mut own = Some(place);
    let mut rigs = Vec::new();
    for edges in [Edges::Exclusive, Edges::Inclusive, Edges::StartOnly, Edges::EndOnly] {
        let place = match own.take() {
            Some(place) => place,
            None if on_sqlite => Place::sqlite(),
            None => Place::postgres().await,
        };
        rigs.push(Rig::started(place, plan.clone().sim(|sim| sim.windows.edges = edges)).await);
    }
    for rig in &rigs {
        rig.settled().await;
        let on_the_second = |end: Time| end.floor_to_second() == end;
        assert!(rig.world().iter().filter_map(|entry| entry.end).all(on_the_second));
    }
}

async fn a_thousand_segments_in_one_window_all_arrive(place: Place) {
    let rig = Rig::new(place, Plan::history()).await;
    rig.sim.add_burst(&rig.main_account(), Burst { from: rig.begin - 5 * SECOND, width: 2 * SECOND, count: 1_000 });
    let mut rig = rig;
    rig.start();
    rig.settled().await;
    assert!(rig.world().len() >= 1_000);
}

async fn hosts_that_refuse_connections_for_three_seconds_are_waited_for(place: Place) {
    outage(place, OutageKind::Closed).await;
}

async fn hosts_that_answer_503_for_three_seconds_are_waited_for(place: Place) {
    outage(place, OutageKind::Unavailable).await;
}

async fn outage(place: Place, kind: OutageKind) {
    let rig = Rig::started(place, Plan::live(7 * SECOND)).await;
    rig.until("metadata is read", async || rig.sim.stats().ok(Endpoint::Metadata) > 0).await;
    let now = rig.sim.now();
    rig.sim.control().outage(now, now + 3 * SECOND, kind);
    rig.settled().await;
    let log = rig.log();
    assert!(log.contains("WARN"), "an outage goes by without a word");
}
