//! A TCP proxy between the daemon and the simulator that delays some requests and releases some of those together.
//!
//! Each connection carries one request. A request that was sent arrives even if the daemon dies meanwhile, as on a real network.

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

/// The longest delay. The limiter allows for two seconds; the rest is a margin for a busy machine.
const MAX_DELAY: Duration = Duration::from_millis(1500);

/// The running proxy. It stops when it is dropped.
pub struct DelayProxy {
    address: SocketAddr,
    state: Arc<DelayProxyState>,
    _tasks: JoinSet<()>,
}

struct DelayProxyState {
    upstream: OnceLock<String>,
    clock: Clock,
    random: Mutex<StdRng>,
    delayed: AtomicU64,
}

impl DelayProxy {
    pub async fn start(seed: u64) -> DelayProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(DelayProxyState {
            upstream: OnceLock::new(),
            clock: Clock::system(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            delayed: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_connections(listener, state.clone()));
        DelayProxy { address, state, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set_upstream(&self, base_url: &str) {
        let upstream = base_url.trim_start_matches("http://").to_owned();
        self.state.upstream.set(upstream).expect("one target");
    }

    /// The number of delayed requests.
    pub fn delayed_requests(&self) -> u64 {
        self.state.delayed.load(Ordering::Relaxed)
    }
}

async fn accept_connections(listener: TcpListener, state: Arc<DelayProxyState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move { forward(stream, &state).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(mut client: TcpStream, state: &DelayProxyState) {
    let sent = state.clock.tick();
    let head = super::hostile_server::read_head(&mut client).await;
    if head.is_empty() {
        return;
    }
    if let Some(due) = delayed_until(sent, state) {
        state.delayed.fetch_add(1, Ordering::Relaxed);
        state.clock.sleep_until(due).await;
    }
    let Some(upstream) = state.upstream.get() else { return };
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let closing = String::from_utf8_lossy(&head).replacen("\r\n", "\r\nconnection: close\r\n", 1);
    if server.write_all(closing.as_bytes()).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

/// When a request that was sent at `sent` arrives; `None` for at once. A quarter get a random delay. A quarter wait for the end
/// of the current interval, so that they arrive together.
fn delayed_until(sent: Tick, state: &DelayProxyState) -> Option<Tick> {
    let mut random = state.random.lock().expect("the generator");
    match random.random_range(0..4) {
        0 => Some(sent + MAX_DELAY.mul_f64(random.random())),
        1 => {
            let interval = MAX_DELAY.as_nanos();
            let end = (sent.0.as_nanos() / interval + 1) * interval;
            Some(Tick(Duration::from_nanos(u64::try_from(end).expect("a time"))))
        }
        _ => None,
    }
}
