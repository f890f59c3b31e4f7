//! A hostile webhook receiver: memory stays bounded, no event reaches another host, and in the end nothing is pending.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::hostile_server::{HostileServer, ServerFault};
use support::test_env::{Scenario, TempDatabase, TestEnv};
use support::webhook_receiver::{WebhookReceiver, WebhookReply};

crate::e2e! {
    whatever_a_receiver_does_is_survived_and_no_event_goes_elsewhere,
}

/// A higher peak in kilobytes means that the daemon held a hostile answer in memory.
const MAX_PEAK_MEMORY_KB: u64 = 200 * 1024;

async fn whatever_a_receiver_does_is_survived_and_no_event_goes_elsewhere(database: TempDatabase) {
    let fault_count = 2 * ServerFault::ALL.len();
    let hostile_server = HostileServer::start(2, fault_count as u64).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(204)).await;
    hostile_server.set_upstream(receiver.url.trim_start_matches("http://").split('/').next().unwrap());
    let mut hook = toml::Table::new();
    for (key, value) in [
        ("name", "hook"),
        ("type", "webhook"),
        ("secret", "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg=="),
        ("timeout", "1s"),
    ] {
        hook.insert(key.into(), value.into());
    }
    hook.insert("url".into(), format!("{}/hook", hostile_server.url()).into());
    hook.insert("allow_private".into(), true.into());
    let scenario = Scenario::live(4 * Duration::from_secs(1)).set("sinks", vec![toml::Value::Table(hook)]);
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("every fault is injected", async || hostile_server.injected_faults().len() == fault_count).await;
    env.expect_complete_archive().await;
    env.wait_until("nothing is pending", async || {
        env.run_json(&["status", "--json"]).await["sinks"][0]["pending"] == 0
    })
    .await;
    assert!(env.is_running());
    assert_eq!(hostile_server.redirected_requests(), Vec::<String>::new(), "an event followed a redirect");
    // A 200 accepts the event whatever follows it. All other events were sent again.
    let accepting_faults = [
        ServerFault::SlowHeader,
        ServerFault::EndlessBody,
        ServerFault::GzipBomb,
        ServerFault::StalledBody,
        ServerFault::DeepNesting,
        ServerFault::ManyHeaders,
    ];
    let false_accepts =
        hostile_server.injected_faults().iter().filter(|fault| accepting_faults.contains(fault)).count();
    let accepted: BTreeSet<String> = receiver.accepted().iter().map(|received| received.id()).collect();
    let delivered = &env.run_json(&["deliver", "status", "--json"]).await[0]["delivered"];
    let delivered = usize::try_from(delivered.as_u64().unwrap()).unwrap();
    assert!(
        accepted.len() + false_accepts >= delivered,
        "{delivered} count as delivered, {} were accepted",
        accepted.len()
    );
    let peak = env.peak_memory_kb();
    assert!(peak < MAX_PEAK_MEMORY_KB, "{peak} kB at its peak");
    env.stop().await;
}
