//! A slow road between the daemon and the simulator: some requests arrive late, and some of those together.
//!
//! Each connection carries one request. One that has set out arrives, even where the daemon that sent it has died
//! meanwhile, as on a real network.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::{Clock, Tick};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The latest that a request arrives. Well within the two seconds that the limiter reckons with: the rest is for a
/// machine that does much else besides.
const LATEST: Duration = Duration::from_millis(1500);

/// The road, for as long as it is held.
pub struct Road {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    target: OnceLock<String>,
    clock: Clock,
    random: Mutex<StdRng>,
    late: AtomicU64,
}

impl Road {
    pub async fn start(seed: u64) -> Road {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            target: OnceLock::new(),
            clock: Clock::system(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            late: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(carry(listener, shared.clone()));
        Road { address, shared, _tasks: tasks }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it leads.
    pub fn leads_to(&self, base_url: &str) {
        let target = base_url.trim_start_matches("http://").to_owned();
        self.shared.target.set(target).expect("one target");
    }

    /// How many requests were held up.
    pub fn late(&self) -> u64 {
        self.shared.late.load(Ordering::Relaxed)
    }
}

async fn carry(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move { pass_on(stream, &shared).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn pass_on(mut client: TcpStream, shared: &Shared) {
    let sent = shared.clock.tick();
    let head = super::villain::head(&mut client).await;
    if head.is_empty() {
        return;
    }
    if let Some(due) = arrival(sent, shared) {
        shared.late.fetch_add(1, Ordering::Relaxed);
        shared.clock.sleep_until(due).await;
    }
    let Some(target) = shared.target.get() else { return };
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let closing = String::from_utf8_lossy(&head).replacen("\r\n", "\r\nconnection: close\r\n", 1);
    if server.write_all(closing.as_bytes()).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

/// When a request that was sent at `sent` arrives; `None` for at once. A quarter are late by chance, a quarter wait for a
/// gate that opens now and then and arrive together.
fn arrival(sent: Tick, shared: &Shared) -> Option<Tick> {
    let mut random = shared.random.lock().expect("chance");
    match random.random_range(0..4) {
        0 => Some(sent + LATEST.mul_f64(random.random())),
        1 => {
            let gate = LATEST.as_nanos();
            let opens = (sent.0.as_nanos() / gate + 1) * gate;
            Some(Tick(Duration::from_nanos(u64::try_from(opens).expect("a time"))))
        }
        _ => None,
    }
}
