//! A name server that stops answering: the daemon says so, loses nothing, and goes on by itself.
//!
//! The daemon has a name server of the test's own, by a `resolv.conf` that only it sees. That takes root: as anyone else the
//! test says that it was not run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use support::daemon::{Place, Plan, Rig};
use support::villain::Villain;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

crate::e2e! {
    a_name_server_that_falls_silent_is_waited_for_and_nothing_is_lost,
}

/// Knows every name, and leads to this machine, for as long as it answers.
struct NameServer {
    address: Ipv4Addr,
    answers: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    _task: JoinSet<()>,
}

impl NameServer {
    /// `None` where the right to its port is missing.
    async fn start() -> Option<NameServer> {
        // Its port is always the same; addresses of this machine there are many.
        let mut tries = (0..50).map(|_| Ipv4Addr::new(127, rand::random(), rand::random(), rand::random_range(1..255)));
        let (address, socket) = loop {
            let address = tries.next()?;
            if let Ok(socket) = UdpSocket::bind((address, 53)).await {
                break (address, socket);
            }
        };
        let (answers, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let mut task = JoinSet::new();
        task.spawn(answer(socket, answers.clone(), asked.clone()));
        Some(NameServer { address, answers, asked, _task: task })
    }
}

async fn answer(socket: UdpSocket, answers: Arc<AtomicBool>, asked: Arc<AtomicU64>) {
    let mut question = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut question).await {
        asked.fetch_add(1, Ordering::Relaxed);
        if answers.load(Ordering::Relaxed) && length > 12 {
            let _ = socket.send_to(&answered(&question[..length]), from).await;
        }
    }
}

/// The question again, and one address of version 4 where that is what was asked for.
fn answered(question: &[u8]) -> Vec<u8> {
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

/// Starts what follows with the file `$0` in the place of `/etc/resolv.conf`, seen by nobody else.
const WITH: &str = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";

async fn a_name_server_that_falls_silent_is_waited_for_and_nothing_is_lost(place: Place) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    let server = NameServer::start().await;
    let text = server.as_ref().map(|server| format!("nameserver {}\noptions timeout:1 attempts:1\n", server.address));
    std::fs::write(&file, text.unwrap_or_default()).unwrap();
    let starter = ["unshare", "-m", "sh", "-c", WITH, file.to_str().unwrap()];
    let can = Command::new(starter[0]).args(&starter[1..]).arg("true").status().is_ok_and(|status| status.success());
    let Some(server) = server.filter(|_| can) else {
        println!("not run: a name server for the daemon alone takes root");
        return;
    };
    // Has each request on a connection of its own, so that names are asked for again and again.
    let road = Villain::start(1, 0).await;
    let port = road.url().rsplit(':').next().unwrap().to_owned();
    let mut plan = Plan::live(8 * Duration::from_secs(1));
    for (host, name) in [("api.platform_url", "platform"), ("api.ringcx_url", "ringcx"), ("api.summary_url", "engage")]
    {
        plan = plan.set(host, format!("http://{name}.ringcx.test:{port}"));
    }
    let mut rig = Rig::new(place, plan).await;
    road.passes_on_to(&rig.sim.base_url());
    rig.start_by(&starter);
    rig.start();
    rig.asks().await;
    server.answers.store(false, Ordering::Relaxed);
    rig.says("no connection to ringcx.ringcx.test: failed to lookup address information").await;
    let said = rig.run(&["check"]).await;
    said.is(1, &["no connection to platform.ringcx.test: failed to lookup address", "DNS"]);
    let before = server.asked.load(Ordering::Relaxed);
    rig.until("it asks for the name again", async || server.asked.load(Ordering::Relaxed) > before).await;
    assert!(rig.is_running());
    server.answers.store(true, Ordering::Relaxed);
    rig.settled().await;
    rig.stop().await;
}
