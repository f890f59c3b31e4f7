//! A hostile API server: the daemon survives each fault with bounded memory, sends no token to another host, and in the end
//! nothing is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::sim::Faults;
use support::hostile_server::{HostileServer, ServerFault};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    whatever_a_server_does_is_survived_and_nothing_is_lost,
    running_out_of_files_is_waited_out,
}

/// A higher peak in kilobytes means that the daemon held a hostile answer in memory.
const MAX_PEAK_MEMORY_KB: u64 = 200 * 1024;

async fn whatever_a_server_does_is_survived_and_nothing_is_lost(database: TempDatabase) {
    // Each fault three times: for logins, metadata, transcripts and summaries, as the requests arrive.
    let hostile_server = HostileServer::start(3, 3 * ServerFault::ALL.len() as u64).await;
    let scenario = Scenario::live(4 * Duration::from_secs(1))
        .set("api.request_timeout", "1s")
        .set("api.ringcx_url", hostile_server.url())
        .set("api.summary_url", hostile_server.url());
    let mut env = TestEnv::new(database, scenario).await;
    hostile_server.set_upstream(&env.sim.base_url());
    env.start();
    env.wait_until("every fault is injected", async || {
        hostile_server.injected_faults().len() == 3 * ServerFault::ALL.len()
    })
    .await;
    env.expect_complete_archive().await;
    assert!(env.is_running());
    assert_eq!(hostile_server.redirected_requests(), Vec::<String>::new(), "a token followed a redirect");
    let peak = env.peak_memory_kb();
    println!("{peak} kB at its peak");
    assert!(peak < MAX_PEAK_MEMORY_KB, "{peak} kB at its peak");
    env.stop().await;
}

async fn running_out_of_files_is_waited_out(database: TempDatabase) {
    let scenario = Scenario::live(8 * Duration::from_secs(1)).set("http.listen", "127.0.0.1:0");
    let scenario = scenario.configure_sim(|sim| sim.faults = Faults::everywhere(0.03));
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_for_request().await;
    // No more files or connections than are open now. The faults close the connections to the API one by one.
    env.limit_open_files(Some(8));
    env.wait_for_log("Too many open files").await;
    env.clock.sleep(Duration::from_secs(3)).await;
    assert!(env.is_running(), "it goes on");
    env.limit_open_files(None);
    env.expect_complete_archive().await;
    env.stop().await;
}
