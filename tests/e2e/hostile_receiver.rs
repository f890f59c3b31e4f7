//! A receiver of webhooks, or something in its place, that does what no honest one would: memory stays bounded, no event goes
//! elsewhere, and in the end nothing waits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::daemon::{Place, Plan, Rig};
use support::receiver::{Receiver, Reply};
use support::villain::{Deed, Villain};

crate::e2e! {
    whatever_a_receiver_does_is_survived_and_no_event_goes_elsewhere,
}

/// More than this at its peak, in kilobytes, would be what a hostile answer made it hold.
const MEMORY: u64 = 200 * 1024;

async fn whatever_a_receiver_does_is_survived_and_no_event_goes_elsewhere(place: Place) {
    let deeds = 2 * Deed::ALL.len();
    let villain = Villain::start(2, deeds as u64).await;
    let receiver = Receiver::start(|_| Reply::Status(204)).await;
    villain.passes_on_to(receiver.url.trim_start_matches("http://").split('/').next().unwrap());
    let mut hook = toml::Table::new();
    for (key, value) in [
        ("name", "hook"),
        ("type", "webhook"),
        ("secret", "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg=="),
        ("timeout", "1s"),
    ] {
        hook.insert(key.into(), value.into());
    }
    hook.insert("url".into(), format!("{}/hook", villain.url()).into());
    hook.insert("allow_private".into(), true.into());
    let plan = Plan::live(4 * Duration::from_secs(1)).set("sinks", vec![toml::Value::Table(hook)]);
    let mut rig = Rig::started(place, plan).await;
    rig.until("every deed is done", async || villain.deeds().len() == deeds).await;
    rig.settled().await;
    rig.until("nothing waits", async || rig.json(&["status", "--json"]).await["sinks"][0]["pending"] == 0).await;
    assert!(rig.is_running());
    assert_eq!(villain.stolen(), Vec::<String>::new(), "an event followed a redirect");
    // Whoever answers 200 has taken it, whatever comes after that; all others were sent again.
    let lied = [Deed::Drip, Deed::Endless, Deed::Bomb, Deed::HalfOpen, Deed::Depths, Deed::Headers];
    let lies = villain.deeds().iter().filter(|deed| lied.contains(deed)).count();
    let taken: BTreeSet<String> = receiver.taken().iter().map(|received| received.id()).collect();
    let delivered = &rig.json(&["deliver", "status", "--json"]).await[0]["delivered"];
    let delivered = usize::try_from(delivered.as_u64().unwrap()).unwrap();
    assert!(taken.len() + lies >= delivered, "{delivered} are said to be delivered, {} were taken", taken.len());
    let peak = rig.peak_memory();
    assert!(peak < MEMORY, "{peak} kB at its peak");
    rig.stop().await;
}
