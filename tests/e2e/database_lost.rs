//! A Postgres that goes away in mid-run and comes back, and connections that break at random: the daemon says so, waits,
//! and goes on by itself. Nothing is lost, nothing doubled, no limit broken. So too where it is gone without a word, and its
//! connections seem to live.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::model::Endpoint;
use secrecy::ExposeSecret;
use serde_json::Value;
use support::daemon::{Place, Plan, Rig};
use support::front::{Behind, Front, Way};
use support::postgres::Cluster;

const SECOND: Duration = Duration::from_secs(1);

fn plan(length: Duration) -> Plan {
    Plan::live(length).set("http.listen", "127.0.0.1:0").set("limits.requests_per_minute", 600).sim(|sim| {
        sim.limits.requests_per_minute = 600;
        sim.traffic.per_minute = 60.0;
    })
}

/// A daemon on a server of its own.
async fn started(length: Duration) -> (Rig, Cluster, String) {
    let cluster = tokio::task::spawn_blocking(Cluster::started).await.unwrap();
    let url = cluster.database().expose_secret().to_owned();
    let place = Place { url, folder: tempfile::tempdir().unwrap() };
    let rig = Rig::started(place, plan(length)).await;
    rig.says("http://127.0.0.1:").await;
    let log = rig.log();
    let port: String =
        log.split("http://127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    (rig, cluster, format!("http://127.0.0.1:{port}/readyz"))
}

/// The status and the body of `/readyz`.
async fn ready(url: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(5 * SECOND).build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_and_is_away_for_ten_seconds_costs_nothing() {
    ringcx_extractor::ringcx::install_tls();
    let (mut rig, mut cluster, readyz) = started(25 * SECOND).await;
    rig.until("it is ready", async || ready(&readyz).await.0 == 200).await;
    rig.clock.sleep(2 * SECOND).await;
    cluster.crash();
    let lost = rig.clock.tick();
    rig.until("it is not ready, and says why", async || {
        let (status, body) = ready(&readyz).await;
        status == 503 && body.to_string().contains("database")
    })
    .await;
    // What cannot be stored is not asked for: after a while, nothing is.
    rig.clock.sleep_until(lost + 7 * SECOND).await;
    let before = rig.sim.stats().requests_in_all();
    rig.clock.sleep_until(lost + 10 * SECOND).await;
    assert_eq!(rig.sim.stats().requests_in_all(), before, "requests whose answers could not be stored");
    tokio::task::block_in_place(|| cluster.start());
    rig.until("it is ready again", async || ready(&readyz).await.0 == 200).await;
    rig.says("the database is back").await;
    rig.settled().await;
    assert!(rig.is_running());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_at_random_cost_nothing() {
    ringcx_extractor::ringcx::install_tls();
    let mut chance = StdRng::seed_from_u64(5);
    let length = 12 * SECOND;
    let (mut rig, cluster, _) = started(length).await;
    let mut cuts = 0;
    while rig.clock.now() < rig.begin + length {
        rig.clock.sleep(Duration::from_millis(chance.random_range(50..900))).await;
        tokio::task::block_in_place(|| cluster.cut_connections());
        cuts += 1;
    }
    assert!(cuts > 5, "hardly anything happened");
    rig.settled().await;
    assert!(rig.is_running());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_without_a_word_costs_nothing() {
    ringcx_extractor::ringcx::install_tls();
    let mut place = Place::postgres().await;
    let (rest, folder) = place.url.split_once("?host=").unwrap();
    let (socket, name) = (format!("{folder}/.s.PGSQL.5432"), rest.rsplit('/').next().unwrap());
    let front = Front::before(Behind::Unix(socket.into()), Way::Plain, None).await;
    place.url = format!("postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable", front.address.port());
    let mut rig = Rig::started(place, plan(20 * SECOND)).await;
    let readyz = format!("{}readyz", rig.dashboard().await);
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    front.fall_silent().await;
    rig.until("it is not ready, and says why", async || {
        let (status, body) = ready(&readyz).await;
        status == 503 && body.to_string().contains("database")
    })
    .await;
    // No connection has been closed, and none ever will be: not those that are open, nor, on the server's side, what they hold.
    front.speak();
    rig.until("it is ready again", async || ready(&readyz).await.0 == 200).await;
    rig.settled().await;
    assert!(rig.is_running());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_after_the_daemon_is_waited_for_and_probes_are_told() {
    ringcx_extractor::ringcx::install_tls();
    let mut cluster = tokio::task::spawn_blocking(Cluster::started).await.unwrap();
    let mut place = Place::postgres().await;
    place.url = cluster.database().expose_secret().to_owned();
    tokio::task::block_in_place(|| cluster.crash());
    let mut rig = Rig::started(place, plan(4 * SECOND)).await;
    const SAID: &str = "/healthz and /readyz answer at ";
    rig.says(SAID).await;
    let log = rig.log();
    let url = log.rsplit(SAID).next().unwrap().split_whitespace().next().unwrap();
    let healthz = reqwest::get(format!("{url}healthz")).await.unwrap();
    assert_eq!(healthz.status(), 200);
    let (status, body) = ready(&format!("{url}readyz")).await;
    assert_eq!((status, &body["reasons"][0]["what"]), (503, &Value::from("database")), "{body}");
    assert_eq!(reqwest::get(url).await.unwrap().status(), 503);
    tokio::task::block_in_place(|| cluster.start());
    rig.until("it is ready", async || ready(&format!("{url}readyz")).await.0 == 200).await;
    rig.settled().await;
    rig.stop().await;
}
