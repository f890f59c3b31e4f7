//! A DNS server stops answering: the daemon reports it, loses nothing, and recovers by itself.
//!
//! The daemon uses the test's DNS server through a `resolv.conf` that only the daemon sees. That needs root; for other users the
//! test prints that it was skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::hostile_server::HostileServer;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

crate::e2e! {
    a_name_server_that_falls_silent_is_waited_for_and_nothing_is_lost,
}

/// A DNS server that resolves every name to this machine, as long as it answers.
struct DnsServer {
    address: Ipv4Addr,
    is_answering: Arc<AtomicBool>,
    query_count: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl DnsServer {
    /// `None` without the right to listen on port 53.
    async fn start() -> Option<DnsServer> {
        // The port is fixed, so try several loopback addresses.
        let mut tries = (0..50).map(|_| Ipv4Addr::new(127, rand::random(), rand::random(), rand::random_range(1..255)));
        let (address, socket) = loop {
            let address = tries.next()?;
            if let Ok(socket) = UdpSocket::bind((address, 53)).await {
                break (address, socket);
            }
        };
        let (is_answering, query_count) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let mut task = JoinSet::new();
        task.spawn(serve_queries(socket, is_answering.clone(), query_count.clone()));
        Some(DnsServer { address, is_answering, query_count, _task: task })
    }
}

async fn serve_queries(socket: UdpSocket, is_answering: Arc<AtomicBool>, query_count: Arc<AtomicU64>) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        query_count.fetch_add(1, Ordering::Relaxed);
        if is_answering.load(Ordering::Relaxed) && length > 12 {
            let _ = socket.send_to(&dns_response(&question[..length]), from).await;
        }
    }
}

/// The question, and one IPv4 address if the question asks for one.
fn dns_response(question: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let wants_v4 = question[end - 4..end - 2] == [0, 1];
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if wants_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// Runs the following command with the file `$0` mounted over `/etc/resolv.conf`.
const MOUNT_RESOLV_CONF: &str = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";

async fn a_name_server_that_falls_silent_is_waited_for_and_nothing_is_lost(database: TempDatabase) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let server = DnsServer::start().await;
    let text = server.as_ref().map(|server| format!("nameserver {}\noptions timeout:1 attempts:1\n", server.address));
    std::fs::write(&file, text.unwrap_or_default()).unwrap();
    let launcher = ["unshare", "-m", "sh", "-c", MOUNT_RESOLV_CONF, file.to_str().unwrap()];
    let can = Command::new(launcher[0]).args(&launcher[1..]).arg("true").status().is_ok_and(|status| status.success());
    let Some(server) = server.filter(|_| can) else {
        println!("skipped: a DNS server for the daemon alone needs root");
        return;
    };
    // The proxy gives each request its own connection, so that names are resolved again and again.
    let proxy = HostileServer::start(1, 0).await;
    let port = proxy.url().rsplit(':').next().unwrap().to_owned();
    let mut scenario = Scenario::live(8 * Duration::from_secs(1));
    for (host, name) in [("api.platform_url", "platform"), ("api.ringcx_url", "ringcx"), ("api.summary_url", "engage")]
    {
        scenario = scenario.set(host, format!("http://{name}.ringcx.test:{port}"));
    }
    let mut env = TestEnv::new(database, scenario).await;
    proxy.set_upstream(&env.sim.base_url());
    env.set_launcher(&launcher);
    env.start();
    env.wait_for_request().await;
    server.is_answering.store(false, Ordering::Relaxed);
    env.wait_for_log("no connection to ringcx.ringcx.test: failed to lookup address information").await;
    let check = env.run(&["check"]).await;
    check.assert_output(1, &["no connection to platform.ringcx.test: failed to lookup address", "DNS"]);
    let before = server.query_count.load(Ordering::Relaxed);
    env.wait_until("it asks for the name again", async || server.query_count.load(Ordering::Relaxed) > before).await;
    assert!(env.is_running());
    server.is_answering.store(true, Ordering::Relaxed);
    env.expect_complete_archive().await;
    env.stop().await;
}
