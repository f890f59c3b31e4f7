//! A proxy between the daemon and the simulator that answers some requests with a fault that no honest server would produce.
//!
//! Each connection carries one request. Faults are injected by connection number, so that a test knows which occurred. All other
//! connections are forwarded unchanged.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A fault that is injected instead of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFault {
    /// The request is read and never answered.
    NoResponse,
    /// The connection is closed at once.
    CloseAtOnce,
    /// The response is not HTTP.
    NotHttp,
    /// Ten thousand headers.
    ManyHeaders,
    /// A header that never ends, one byte at a time.
    SlowHeader,
    /// A body that never ends.
    EndlessBody,
    /// 100 kB that unpack to 100 MB.
    GzipBomb,
    /// A redirect to another host, which records the tokens that it receives.
    Redirect,
    /// Half of the announced body, then nothing, with the connection open.
    StalledBody,
    /// JSON nested deeper than any stack can hold.
    DeepNesting,
}

impl ServerFault {
    pub const ALL: [ServerFault; 10] = [
        ServerFault::NoResponse,
        ServerFault::CloseAtOnce,
        ServerFault::NotHttp,
        ServerFault::ManyHeaders,
        ServerFault::SlowHeader,
        ServerFault::EndlessBody,
        ServerFault::GzipBomb,
        ServerFault::Redirect,
        ServerFault::StalledBody,
        ServerFault::DeepNesting,
    ];
}

/// The running server. It stops when it is dropped.
pub struct HostileServer {
    address: SocketAddr,
    state: Arc<HostileServerState>,
    _tasks: JoinSet<()>,
}

struct HostileServerState {
    upstream: OnceLock<String>,
    redirect_target: SocketAddr,
    connections: AtomicU64,
    /// Every `every`-th connection gets a fault, until `max_faults` were injected.
    every: u64,
    max_faults: u64,
    injected: Mutex<Vec<ServerFault>>,
    redirected: Mutex<Vec<String>>,
}

impl HostileServer {
    /// Injects a fault into every `every`-th connection, and at most `max_faults` in total.
    pub async fn start(every: u64, max_faults: u64) -> HostileServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let redirect_target = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let state = Arc::new(HostileServerState {
            upstream: OnceLock::new(),
            redirect_target: redirect_target.local_addr().expect("an address"),
            connections: AtomicU64::new(0),
            every,
            max_faults,
            injected: Mutex::default(),
            redirected: Mutex::default(),
        });
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(record_redirected(redirect_target, state.clone()));
        tasks.spawn(accept_connections(listener, state.clone()));
        HostileServer { address, state, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets where the other connections are forwarded to.
    pub fn set_upstream(&self, base_url: &str) {
        let upstream = base_url.trim_start_matches("http://").to_owned();
        self.state.upstream.set(upstream).expect("one target");
    }

    /// The faults injected so far, in order.
    pub fn injected_faults(&self) -> Vec<ServerFault> {
        self.state.injected.lock().expect("the faults").clone()
    }

    /// The requests that followed a redirect.
    pub fn redirected_requests(&self) -> Vec<String> {
        self.state.redirected.lock().expect("the requests").clone()
    }
}

async fn record_redirected(listener: TcpListener, state: Arc<HostileServerState>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let head = read_head(&mut stream).await;
        state.redirected.lock().expect("the requests").push(String::from_utf8_lossy(&head).into_owned());
    }
}

async fn accept_connections(listener: TcpListener, state: Arc<HostileServerState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move { serve(stream, &state).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, state: &HostileServerState) {
    let number = state.connections.fetch_add(1, Ordering::Relaxed);
    let nth_fault = number / state.every;
    if number.is_multiple_of(state.every) && nth_fault < state.max_faults {
        let fault = ServerFault::ALL[usize::try_from(nth_fault).expect("few") % ServerFault::ALL.len()];
        state.injected.lock().expect("the faults").push(fault);
        // The daemon is expected to close the connection.
        let _ = inject_fault(fault, &mut client, state).await;
        return;
    }
    let Some(upstream) = state.upstream.get() else { return };
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    // One request per connection, so that faults are counted by request.
    let request = read_head(&mut client).await;
    let text = String::from_utf8_lossy(&request);
    let closing = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    if server.write_all(closing.as_bytes()).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

/// Reads up to the end of the headers, and whatever part of the body arrives with them.
pub(super) async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => head.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
    head
}

const OK_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

async fn inject_fault(fault: ServerFault, client: &mut TcpStream, state: &HostileServerState) -> std::io::Result<()> {
    if fault == ServerFault::CloseAtOnce {
        return Ok(());
    }
    let request = read_head(client).await;
    // Any text is a valid summary, so a complete response to that request would be no fault.
    let whole = [ServerFault::ManyHeaders, ServerFault::DeepNesting, ServerFault::GzipBomb].contains(&fault);
    let summary = request.windows(9).any(|nine| nine == b"/summary/");
    match if whole && summary { ServerFault::NotHttp } else { fault } {
        ServerFault::CloseAtOnce => {}
        ServerFault::NoResponse => read_until_closed(client).await,
        ServerFault::NotHttp => client.write_all(&[0xff, 0x00, 0x16, 0x03].repeat(500)).await?,
        ServerFault::ManyHeaders => {
            client.write_all(OK_HEAD.as_bytes()).await?;
            for number in 0..10_000 {
                client.write_all(format!("x-{number}: {number}\r\n").as_bytes()).await?;
            }
            client.write_all(b"content-length: 2\r\n\r\n[]").await?;
        }
        ServerFault::SlowHeader => {
            client.write_all(OK_HEAD.as_bytes()).await?;
            loop {
                client.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        ServerFault::EndlessBody => {
            client.write_all(format!("{OK_HEAD}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
            let chunk = format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536));
            loop {
                client.write_all(chunk.as_bytes()).await?;
            }
        }
        ServerFault::GzipBomb => {
            let mut body = gzip(&vec![b' '; 100 << 20]);
            let mut answer =
                format!("{OK_HEAD}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            answer.append(&mut body);
            client.write_all(&answer).await?;
        }
        ServerFault::Redirect => {
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
                state.redirect_target
            );
            client.write_all(answer.as_bytes()).await?;
        }
        ServerFault::StalledBody => {
            client.write_all(format!("{OK_HEAD}content-length: 1000\r\n\r\n[{{\"segmentId\":").as_bytes()).await?;
            read_until_closed(client).await;
        }
        ServerFault::DeepNesting => {
            let body = "[".repeat(200_000);
            client.write_all(format!("{OK_HEAD}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
        }
    }
    client.shutdown().await
}

async fn read_until_closed(client: &mut TcpStream) {
    let mut part = [0; 256];
    while matches!(client.read(&mut part).await, Ok(read) if read > 0) {}
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
