//! Postgres becomes unavailable during a run and returns, or connections break at random: the daemon reports it, waits, and
//! recovers by itself. Nothing is lost or doubled, and no limit is exceeded. The same holds if the server vanishes with its
//! connections left open.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::model::Endpoint;
use secrecy::ExposeSecret;
use serde_json::Value;
use support::postgres_cluster::PostgresCluster;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use support::tls_proxy::{TlsMode, TlsProxy, Upstream};

const SECOND: Duration = Duration::from_secs(1);

fn scenario(length: Duration) -> Scenario {
    Scenario::live(length).set("http.listen", "127.0.0.1:0").set("limits.requests_per_minute", 600).configure_sim(
        |sim| {
            sim.limits.requests_per_minute = 600;
            sim.traffic.per_minute = 60.0;
        },
    )
}

/// Starts a daemon on a Postgres cluster of its own; returns the URL of `/readyz` too.
async fn start_with_own_cluster(length: Duration) -> (TestEnv, PostgresCluster, String) {
    let cluster = tokio::task::spawn_blocking(PostgresCluster::start_new).await.unwrap();
    let url = cluster.create_database().expose_secret().to_owned();
    let database = TempDatabase { url, folder: tempfile::tempdir().unwrap() };
    let env = TestEnv::with_daemon(database, scenario(length)).await;
    env.wait_for_log("http://127.0.0.1:").await;
    let log = env.log();
    let port: String =
        log.split("http://127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    (env, cluster, format!("http://127.0.0.1:{port}/readyz"))
}

/// The status and the body of `/readyz`.
async fn get_readyz(url: &str) -> (u16, Value) {
    let client = reqwest::Client::builder().no_proxy().timeout(5 * SECOND).build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_and_is_away_for_ten_seconds_costs_nothing() {
    ringcx_extractor::ringcx::install_tls();
    let (mut env, mut cluster, readyz) = start_with_own_cluster(25 * SECOND).await;
    env.wait_until("it is ready", async || get_readyz(&readyz).await.0 == 200).await;
    env.clock.sleep(2 * SECOND).await;
    cluster.crash();
    let lost = env.clock.tick();
    env.wait_until("it is not ready, and says why", async || {
        let (status, body) = get_readyz(&readyz).await;
        status == 503 && body.to_string().contains("database")
    })
    .await;
    // What cannot be stored is not requested: after a while the daemon sends nothing.
    env.clock.sleep_until(lost + 7 * SECOND).await;
    let before = env.sim.stats().total_requests();
    env.clock.sleep_until(lost + 10 * SECOND).await;
    assert_eq!(env.sim.stats().total_requests(), before, "requests whose answers could not be stored");
    tokio::task::block_in_place(|| cluster.start());
    env.wait_until("it is ready again", async || get_readyz(&readyz).await.0 == 200).await;
    env.wait_for_log("the database is available again").await;
    env.expect_complete_archive().await;
    assert!(env.is_running());
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_break_at_random_cost_nothing() {
    ringcx_extractor::ringcx::install_tls();
    let mut chance = StdRng::seed_from_u64(5);
    let length = 12 * SECOND;
    let (mut env, cluster, _) = start_with_own_cluster(length).await;
    let mut cuts = 0;
    while env.clock.now() < env.begin + length {
        env.clock.sleep(Duration::from_millis(chance.random_range(50..900))).await;
        tokio::task::block_in_place(|| cluster.terminate_connections());
        cuts += 1;
    }
    assert!(cuts > 5, "too few connections were cut");
    env.expect_complete_archive().await;
    assert!(env.is_running());
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_gone_without_a_word_costs_nothing() {
    ringcx_extractor::ringcx::install_tls();
    let mut database = TempDatabase::postgres().await;
    let (rest, folder) = database.url.split_once("?host=").unwrap();
    let (socket, name) = (format!("{folder}/.s.PGSQL.5432"), rest.rsplit('/').next().unwrap());
    let proxy = TlsProxy::start(Upstream::Unix(socket.into()), TlsMode::Plain, None).await;
    database.url = format!("postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable", proxy.address.port());
    let mut env = TestEnv::with_daemon(database, scenario(20 * SECOND)).await;
    let readyz = format!("{}readyz", env.dashboard_url().await);
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    proxy.stop_forwarding().await;
    env.wait_until("it is not ready, and says why", async || {
        let (status, body) = get_readyz(&readyz).await;
        status == 503 && body.to_string().contains("database")
    })
    .await;
    // No connection is ever closed: the open ones stay, and with them the locks that they hold on the server.
    proxy.resume_forwarding();
    env.wait_until("it is ready again", async || get_readyz(&readyz).await.0 == 200).await;
    env.expect_complete_archive().await;
    assert!(env.is_running());
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_after_the_daemon_is_waited_for_and_probes_are_told() {
    ringcx_extractor::ringcx::install_tls();
    let mut cluster = tokio::task::spawn_blocking(PostgresCluster::start_new).await.unwrap();
    let mut database = TempDatabase::postgres().await;
    database.url = cluster.create_database().expose_secret().to_owned();
    tokio::task::block_in_place(|| cluster.crash());
    let mut env = TestEnv::with_daemon(database, scenario(4 * SECOND)).await;
    const LOGGED_BEFORE_URL: &str = "/healthz and /readyz are available at ";
    env.wait_for_log(LOGGED_BEFORE_URL).await;
    let log = env.log();
    let url = log.rsplit(LOGGED_BEFORE_URL).next().unwrap().split_whitespace().next().unwrap();
    let healthz = reqwest::get(format!("{url}healthz")).await.unwrap();
    assert_eq!(healthz.status(), 200);
    let (status, body) = get_readyz(&format!("{url}readyz")).await;
    assert_eq!((status, &body["reasons"][0]["what"]), (503, &Value::from("database")), "{body}");
    assert_eq!(reqwest::get(url).await.unwrap().status(), 503);
    tokio::task::block_in_place(|| cluster.start());
    env.wait_until("it is ready", async || get_readyz(&format!("{url}readyz")).await.0 == 200).await;
    env.expect_complete_archive().await;
    env.stop().await;
}
