//! Would they notice? Faults are put into the program itself, and the daemon's work is judged as in every other trial: by the
//! simulator's books, the audit and the proof.

use std::time::Duration;

use crate::e2e;
use crate::support::daemon::plan::strings;
use crate::support::daemon::{Place, Plan, Rig};

e2e! {
    nothing_planted_and_nothing_noticed,
    a_lost_commit_is_noticed,
    a_lost_result_is_noticed,
    a_doubled_claim_is_noticed,
    a_skipped_window_is_noticed,
}

const SECOND: Duration = Duration::from_secs(1);
/// How long the archive may take to become complete.
const PATIENCE: Duration = Duration::from_secs(12);

/// Windows that only just touch, and nothing that reads them again: what is skipped once is skipped for good.
fn plan() -> Plan {
    Plan::live(6 * SECOND)
        .set("discovery.start", "25s")
        .set("discovery.window", "1s")
        .set("discovery.max_window", "2s")
        .set("discovery.rechecks", strings(&[]))
        .sim(|sim| sim.latency = Duration::from_millis(20))
}

/// Everything that is wrong once all should be there.
async fn verdict(place: Place, plant: Option<&str>) -> Vec<String> {
    let mut rig = Rig::new(place, plan()).await;
    if let Some(plant) = plant {
        rig.env("RINGCX_PLANTED", plant);
    }
    rig.start();
    rig.clock.sleep_until_time(rig.begin + 8 * SECOND).await;
    let end = rig.clock.tick() + PATIENCE;
    let mut wrong = rig.differences(&rig.world()).await;
    while !wrong.is_empty() && rig.clock.tick() < end {
        rig.clock.sleep(SECOND / 2).await;
        wrong = rig.differences(&rig.world()).await;
    }
    wrong.extend(rig.sim.ledger().served_again());
    for command in ["audit", "verify"] {
        let judged = rig.run(&[command]).await;
        if judged.status != 0 {
            wrong.push(format!("{command} ended with {}: {}", judged.status, judged.text()));
        }
    }
    println!("{plant:?}: {} points, the first: {:?}", wrong.len(), wrong.first());
    wrong
}

async fn nothing_planted_and_nothing_noticed(place: Place) {
    assert_eq!(verdict(place, None).await, Vec::<String>::new());
}

/// Finds that a fault is noticed, by what says so.
async fn noticed(place: Place, plant: &str, words: &[&str]) {
    let wrong = verdict(place, Some(plant)).await;
    for word in words {
        assert!(wrong.iter().any(|one| one.contains(word)), "nothing says {word:?} of {plant}: {wrong:#?}");
    }
}

/// It is asked for again by itself, so that nothing is missing in the end; but that is one request too many.
async fn a_lost_commit_is_noticed(place: Place) {
    noticed(place, "LostCommit", &["served 2 times"]).await;
}

async fn a_lost_result_is_noticed(place: Place) {
    noticed(place, "LostResult", &["outcome is", "audit ended with 1"]).await;
}

async fn a_doubled_claim_is_noticed(place: Place) {
    noticed(place, "DoubledClaim", &["served 2 times"]).await;
}

async fn a_skipped_window_is_noticed(place: Place) {
    noticed(place, "SkippedWindow", &["missing from the export"]).await;
}
