//! A loopback server that sends exactly the bytes of a test, and other helpers of this crate's
//! tests. Its threads end with the test's process.

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

use super::rate_limit::{MemoryStore, Pacer, ReservationStore, ReservedQuota, SlidingWindowLimiter, StoreError};
use super::{ApiClient, ApiHosts, Credentials, Login};

/// A request as received.
#[derive(Debug, Clone)]
pub(super) struct RawRequest {
    /// Request line and headers, byte for byte.
    pub head: String,
    pub target: String,
    pub body: String,
}

impl RawRequest {
    /// The value of a header, by its exact spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

type WriteReply = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// The reply to a request.
pub(super) enum ScriptedReply {
    /// Sends these bytes, then reads the next request.
    Bytes(Vec<u8>),
    /// Sends these bytes, then closes the connection.
    Cut(Vec<u8>),
    /// Sends what the function writes, then closes the connection.
    Stream(WriteReply),
}

pub(super) fn reply(status: u16, headers: &str, body: impl AsRef<[u8]>) -> ScriptedReply {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    ScriptedReply::Bytes(bytes)
}

pub(super) fn ok(body: impl AsRef<[u8]>) -> ScriptedReply {
    reply(200, "content-type: application/json\r\n", body)
}

pub(super) struct LoopbackServer {
    pub url: String,
    requests: Arc<Mutex<Vec<RawRequest>>>,
}

impl LoopbackServer {
    pub fn start(answer: impl Fn(&RawRequest) -> ScriptedReply + Send + Sync + 'static) -> LoopbackServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&kept));
                std::thread::spawn(move || {
                    let _ = serve(stream, &*answer, &requests);
                });
            }
        });
        LoopbackServer { url, requests }
    }

    /// The requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<RawRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// The number of requests so far whose target contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.target.contains(part)).count()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &(dyn Fn(&RawRequest) -> ScriptedReply + Send + Sync),
    requests: &Mutex<Vec<RawRequest>>,
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
        let mut request = RawRequest { target: head.split(' ').nth(1).unwrap().to_owned(), body: String::new(), head };
        let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        request.body = String::from_utf8(body).unwrap();
        requests.lock().unwrap().push(request.clone());
        match answer(&request) {
            ScriptedReply::Bytes(bytes) => stream.write_all(&bytes)?,
            ScriptedReply::Cut(bytes) => return stream.write_all(&bytes),
            ScriptedReply::Stream(write) => return write(&mut stream),
        }
    }
}

pub(super) fn api(server: &LoopbackServer, clock: Clock) -> ApiClient {
    let url = server.url.clone();
    let hosts = ApiHosts { platform: url.clone(), ringcx: url.clone(), summary: url };
    ApiClient::new(hosts, Duration::from_secs(10), clock).unwrap()
}

/// A quota that the tests do not use up.
pub(super) fn quota(clock: Clock) -> ReservedQuota {
    quota_in(Arc::new(MemoryStore::default()), clock)
}

pub(super) fn quota_in(store: Arc<dyn ReservationStore>, clock: Clock) -> ReservedQuota {
    let limits = SlidingWindowLimiter::new(vec![(10_000, Duration::from_secs(60))]);
    ReservedQuota::new(store, "test".to_owned(), limits, clock)
}

/// Counts reservations and reports of counted requests, or fails.
#[derive(Default)]
pub(super) struct CountingStore {
    pub is_unavailable: bool,
    pub reserved: AtomicI64,
    pub counted: AtomicI64,
}

impl ReservationStore for CountingStore {
    fn try_reserve<'a>(
        &'a self,
        _key: &'a str,
        _limits: &'a SlidingWindowLimiter,
        _now: Time,
    ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
        let outcome = if self.is_unavailable {
            Err("unavailable".into())
        } else {
            Ok(Ok(self.reserved.fetch_add(1, Ordering::SeqCst)))
        };
        Box::pin(std::future::ready(outcome))
    }

    fn mark_counted<'a>(&'a self, _id: i64, _at: Time) -> BoxFuture<'a, Result<(), StoreError>> {
        self.counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(())))
    }

    fn effective_times<'a>(&'a self, _key: &'a str, _since: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}

pub(super) fn pacer(clock: Clock) -> Pacer {
    Pacer::new(NonZeroU32::new(60_000_000).unwrap(), clock)
}

pub(super) fn login(api: &ApiClient, credentials: Credentials) -> Login {
    let any = || Arc::new(quota(api.clock().clone()));
    Login::new(api.clone(), credentials, None, any(), any())
}

/// A login with a permanent token sends no login requests.
pub(super) fn permanent_login(api: &ApiClient) -> Login {
    login(api, Credentials::ApiToken(SecretString::from("permanent-token")))
}

pub(super) fn ringcentral_credentials() -> Credentials {
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
