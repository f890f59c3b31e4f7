//! A server, or something in its place, that does what no honest one would: each deed is survived with bounded memory and
//! without a token leaving for elsewhere, and in the end nothing is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::sim::Faults;
use support::daemon::{Place, Plan, Rig};
use support::villain::{Deed, Villain};

crate::e2e! {
    whatever_a_server_does_is_survived_and_nothing_is_lost,
    running_out_of_files_is_waited_out,
}

/// More than this at its peak, in kilobytes, would be what a hostile answer made it hold.
const MEMORY: u64 = 200 * 1024;

async fn whatever_a_server_does_is_survived_and_nothing_is_lost(place: Place) {
    // Each deed thrice: to logins, to metadata, to transcripts and summaries, as they come.
    let villain = Villain::start(3, 3 * Deed::ALL.len() as u64).await;
    let plan = Plan::live(4 * Duration::from_secs(1))
        .set("api.request_timeout", "1s")
        .set("api.ringcx_url", villain.url())
        .set("api.summary_url", villain.url());
    let mut rig = Rig::new(place, plan).await;
    villain.passes_on_to(&rig.sim.base_url());
    rig.start();
    rig.until("every deed is done", async || villain.deeds().len() == 3 * Deed::ALL.len()).await;
    rig.settled().await;
    assert!(rig.is_running());
    assert_eq!(villain.stolen(), Vec::<String>::new(), "a token followed a redirect");
    let peak = rig.peak_memory();
    println!("{peak} kB at its peak");
    assert!(peak < MEMORY, "{peak} kB at its peak");
    rig.stop().await;
}

async fn running_out_of_files_is_waited_out(place: Place) {
    let plan = Plan::live(8 * Duration::from_secs(1)).set("http.listen", "127.0.0.1:0");
    let plan = plan.sim(|sim| sim.faults = Faults::everywhere(0.03));
    let mut rig = Rig::started(place, plan).await;
    rig.asks().await;
    // Not one more file or connection than are open now; those to the API die one by one of the faults.
    rig.limit_files(Some(8));
    rig.says("Too many open files").await;
    rig.clock.sleep(Duration::from_secs(3)).await;
    assert!(rig.is_running(), "it goes on");
    rig.limit_files(None);
    rig.settled().await;
    rig.stop().await;
}
