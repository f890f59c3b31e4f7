//! A loopback server that answers whatever a test says, down to the single byte, and what else the tests of this module
//! share. Its threads end with the test's process.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::SecretString;

use crate::clock::{Clock, Time};
use crate::model::AccountId;

use super::limits::{Budget, MemoryStore, Pacer, ReserveStore, Sliding, StoreError};
use super::{Api, Credentials, Hosts, Login};

/// A request as it stood on the wire.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Request line and headers, byte for byte.
    pub head: String,
    pub target: String,
    pub body: String,
}

impl Request {
    /// The value of a header, by its exact spelling on the wire.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

type Written = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// What becomes of a request.
pub(super) enum Reply {
    /// These bytes, then the next request.
    Bytes(Vec<u8>),
    /// These bytes, then the end of the connection.
    Cut(Vec<u8>),
    /// Whatever is written, then the end of the connection.
    Stream(Written),
}

pub(super) fn reply(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    Reply::Bytes(bytes)
}

pub(super) fn ok(body: impl AsRef<[u8]>) -> Reply {
    reply(200, "content-type: application/json\r\n", body)
}

pub(super) struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&kept));
                std::thread::spawn(move || {
                    let _ = serve(stream, &*answer, &seen);
                });
            }
        });
        Server { url, seen }
    }

    /// The requests so far, in the order of their arrival.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests so far went to a path with `part` in it.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|request| request.target.contains(part)).count()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&Request) -> Reply + Send + Sync),
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let mut request = Request { target: head.split(' ').nth(1).unwrap().to_owned(), body: String::new(), head };
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        request.body = String::from_utf8(body).unwrap();
        seen.lock().unwrap().push(request.clone());
        match answer(&request) {
            Reply::Bytes(bytes) => stream.write_all(&bytes)?,
            Reply::Cut(bytes) => return stream.write_all(&bytes),
            Reply::Stream(write) => return write(&mut stream),
        }
    }
}

pub(super) fn api(server: &Server, clock: Clock) -> Api {
    let url = server.url.clone();
    let hosts = Hosts { platform: url.clone(), ringcx: url.clone(), summary: url };
    Api::new(hosts, Duration::from_secs(10), clock).unwrap()
}

/// A budget that the tests do not reach.
pub(super) fn budget(clock: Clock) -> Budget {
    budget_in(Arc::new(MemoryStore::default()), clock)
}

pub(super) fn budget_in(store: Arc<dyn ReserveStore>, clock: Clock) -> Budget {
    let limits = Sliding::new(vec![(10_000, Duration::from_secs(60))]);
    Budget::new(store, "test".to_owned(), limits, clock)
}

/// Counts what is reserved and what is reported as counted; or is away.
#[derive(Default)]
pub(super) struct Tally {
    pub away: bool,
    pub reserved: AtomicI64,
    pub counted: AtomicI64,
}

impl ReserveStore for Tally {
    fn try_reserve<'a>(
        &'a self,
        _key: &'a str,
        _limits: &'a Sliding,
        _now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        let outcome = if self.away { Err("away".into()) } else { Ok(Ok(self.reserved.fetch_add(1, Ordering::SeqCst))) };
        Box::pin(std::future::ready(outcome))
    }

    fn counted<'a>(&'a self, _id: i64, _at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        self.counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(())))
    }

    fn log<'a>(&'a self, _key: &'a str, _since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

pub(super) fn pacer(clock: Clock) -> Pacer {
    Pacer::new(NonZeroU32::new(60_000_000).unwrap(), clock)
}

pub(super) fn login(api: &Api, credentials: Credentials) -> Login {
    let any = || Arc::new(budget(api.clock().clone()));
    Login::new(api.clone(), credentials, None, any(), any())
}

/// A permanent token needs no login, so that tests of other calls see only those.
pub(super) fn permanent(api: &Api) -> Login {
    login(api, Credentials::ApiToken(SecretString::from("permanent-token")))
}

pub(super) fn ringcentral() -> Credentials {
    Credentials::RingCentral {
        client_id: "client".to_owned(),
        client_secret: SecretString::from("client-s3cret"),
        jwt: SecretString::from("jwt-s3cret"),
    }
}

pub(super) fn account() -> AccountId {
    AccountId::new("980634004", "99999999")
}

/// A gzip file of stored blocks.
pub(super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    let mut blocks = text.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap();
        out.push(u8::from(blocks.peek().is_none()));
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let mut crc = u32::MAX;
    for byte in text {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    out.extend((!crc).to_le_bytes());
    out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    out
}
