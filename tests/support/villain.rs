//! Stands between the daemon and the simulator and answers, now and then, as no honest server would.
//!
//! Each connection carries one request. A villain's turn comes by number, so that a test knows what was done; all other
//! connections are passed on untouched.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It is read and never answered.
    Silence,
    /// The connection is closed as soon as it is made.
    Slam,
    /// Bytes that are no HTTP.
    Noise,
    /// Ten thousand headers.
    Headers,
    /// A header that never ends, a byte at a time.
    Drip,
    /// A body that keeps coming and never ends.
    Endless,
    /// A hundred kilobytes that unpack to a hundred megabytes.
    Bomb,
    /// An answer elsewhere, where a thief waits for tokens.
    Elsewhere,
    /// Half of what was promised, then silence with the connection open.
    HalfOpen,
    /// JSON nested deeper than any stack.
    Depths,
}

impl Deed {
    pub const ALL: [Deed; 10] = [
        Deed::Silence,
        Deed::Slam,
        Deed::Noise,
        Deed::Headers,
        Deed::Drip,
        Deed::Endless,
        Deed::Bomb,
        Deed::Elsewhere,
        Deed::HalfOpen,
        Deed::Depths,
    ];
}

/// The villain, for as long as it is held.
pub struct Villain {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    target: OnceLock<String>,
    thief: SocketAddr,
    connections: AtomicU64,
    /// Every so many-th connection is the villain's.
    every: u64,
    /// After so many deeds it is honest.
    most: u64,
    done: Mutex<Vec<Deed>>,
    stolen: Mutex<Vec<String>>,
}

impl Villain {
    /// Listens; does at most `most` deeds, each to every `every`-th connection.
    pub async fn start(every: u64, most: u64) -> Villain {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let thief = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let shared = Arc::new(Shared {
            target: OnceLock::new(),
            thief: thief.local_addr().expect("an address"),
            connections: AtomicU64::new(0),
            every,
            most,
            done: Mutex::default(),
            stolen: Mutex::default(),
        });
        let address = listener.local_addr().expect("an address");
        let mut tasks = JoinSet::new();
        tasks.spawn(steal(thief, shared.clone()));
        tasks.spawn(stand_between(listener, shared.clone()));
        Villain { address, shared, _tasks: tasks }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where honest connections go.
    pub fn passes_on_to(&self, base_url: &str) {
        let target = base_url.trim_start_matches("http://").to_owned();
        self.shared.target.set(target).expect("one target");
    }

    /// What was done so far.
    pub fn deeds(&self) -> Vec<Deed> {
        self.shared.done.lock().expect("deeds").clone()
    }

    /// What reached the thief.
    pub fn stolen(&self) -> Vec<String> {
        self.shared.stolen.lock().expect("loot").clone()
    }
}

async fn steal(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let head = head(&mut stream).await;
        shared.stolen.lock().expect("loot").push(String::from_utf8_lossy(&head).into_owned());
    }
}

async fn stand_between(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move { serve(stream, &shared).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: TcpStream, shared: &Shared) {
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    let turn = number / shared.every;
    if number.is_multiple_of(shared.every) && turn < shared.most {
        let deed = Deed::ALL[usize::try_from(turn).expect("few") % Deed::ALL.len()];
        shared.done.lock().expect("deeds").push(deed);
        // That the daemon hangs up on it is what is hoped for.
        let _ = commit(deed, &mut client, shared).await;
        return;
    }
    let Some(target) = shared.target.get() else { return };
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    // One request a connection, so that turns come by request.
    let request = head(&mut client).await;
    let text = String::from_utf8_lossy(&request);
    let closing = text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    if server.write_all(closing.as_bytes()).await.is_ok() {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    }
}

/// What comes up to the end of the headers, and of the body what came along with them.
pub(super) async fn head(stream: &mut TcpStream) -> Vec<u8> {
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

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

async fn commit(deed: Deed, client: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    if deed == Deed::Slam {
        return Ok(());
    }
    let request = head(client).await;
    // Any text is a summary: a whole answer to that request would be no deed.
    let whole = [Deed::Headers, Deed::Depths, Deed::Bomb].contains(&deed);
    let summary = request.windows(9).any(|nine| nine == b"/summary/");
    match if whole && summary { Deed::Noise } else { deed } {
        Deed::Slam => {}
        Deed::Silence => until_hung_up(client).await,
        Deed::Noise => client.write_all(&[0xff, 0x00, 0x16, 0x03].repeat(500)).await?,
        Deed::Headers => {
            client.write_all(OK.as_bytes()).await?;
            for number in 0..10_000 {
                client.write_all(format!("x-{number}: {number}\r\n").as_bytes()).await?;
            }
            client.write_all(b"content-length: 2\r\n\r\n[]").await?;
        }
        Deed::Drip => {
            client.write_all(OK.as_bytes()).await?;
            loop {
                client.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Deed::Endless => {
            client.write_all(format!("{OK}transfer-encoding: chunked\r\n\r\n").as_bytes()).await?;
            let chunk = format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536));
            loop {
                client.write_all(chunk.as_bytes()).await?;
            }
        }
        Deed::Bomb => {
            let mut body = zip(&vec![b' '; 100 << 20]);
            let mut answer =
                format!("{OK}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
            answer.append(&mut body);
            client.write_all(&answer).await?;
        }
        Deed::Elsewhere => {
            let answer = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
                shared.thief
            );
            client.write_all(answer.as_bytes()).await?;
        }
        Deed::HalfOpen => {
            client.write_all(format!("{OK}content-length: 1000\r\n\r\n[{{\"segmentId\":").as_bytes()).await?;
            until_hung_up(client).await;
        }
        Deed::Depths => {
            let body = "[".repeat(200_000);
            client.write_all(format!("{OK}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
        }
    }
    client.shutdown().await
}

async fn until_hung_up(client: &mut TcpStream) {
    let mut part = [0; 256];
    while matches!(client.read(&mut part).await, Ok(read) if read > 0) {}
}

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
