//! A receiver of webhooks on loopback, which answers as a test wants.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Response};
use base64::Engine;
use hmac::{Hmac, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::task::JoinSet;

/// What is answered.
#[derive(Debug, Clone, Copy)]
pub enum Reply {
    Status(u16),
    /// 429 with `Retry-After`.
    Later(u32),
    /// A redirect to this address.
    To(&'static str),
    /// The connection breaks.
    Reset,
    /// No answer comes.
    Never,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub event: Value,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn id(&self) -> String {
        self.event["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Which of its signatures, from 0, this key made; worked out from the specification, not with the sender's library.
    pub fn signed_by(&self, key: &[u8]) -> Option<usize> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let signature = base64::prelude::BASE64_STANDARD.encode(mac.finalize().into_bytes());
        self.header("webhook-signature").split(' ').position(|one| one == format!("v1,{signature}"))
    }
}

type Answer = Box<dyn Fn(&Received) -> Reply + Send>;

struct Inside {
    /// What was answered with 2xx.
    taken: Vec<Received>,
    requests: usize,
    answer: Answer,
    /// Whether what was taken is kept.
    keeps: bool,
}

/// The receiver; ends with the test.
pub struct Receiver {
    pub url: String,
    inside: Arc<Mutex<Inside>>,
    _server: JoinSet<()>,
}

impl Receiver {
    pub async fn start(answer: impl Fn(&Received) -> Reply + Send + 'static) -> Receiver {
        Receiver::begin(true, answer).await
    }

    /// One that keeps nothing of what it takes, for tests in which much comes.
    pub async fn forgetful(answer: impl Fn(&Received) -> Reply + Send + 'static) -> Receiver {
        Receiver::begin(false, answer).await
    }

    async fn begin(keeps: bool, answer: impl Fn(&Received) -> Reply + Send + 'static) -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook-secret-path?token=secret-token", listener.local_addr().expect("an address"));
        let answer: Answer = Box::new(answer);
        let inside = Arc::new(Mutex::new(Inside { taken: Vec::new(), requests: 0, answer, keeps }));
        let router = Router::new().fallback(receive).with_state(inside.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        Receiver { url, inside, _server: server }
    }

    /// Answers differently from now on.
    pub fn answer(&self, answer: impl Fn(&Received) -> Reply + Send + 'static) {
        lock(&self.inside).answer = Box::new(answer);
    }

    /// What was answered with 2xx.
    pub fn taken(&self) -> Vec<Received> {
        lock(&self.inside).taken.clone()
    }

    pub fn requests(&self) -> usize {
        lock(&self.inside).requests
    }
}

fn lock(inside: &Mutex<Inside>) -> std::sync::MutexGuard<'_, Inside> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(State(inside): State<Arc<Mutex<Inside>>>, headers: HeaderMap, body: Bytes) -> Response<String> {
    let event = ringcx_extractor::lenient_json::from_slice(&body).expect("an event");
    let received = Received { headers, body, event };
    let reply = {
        let mut inside = lock(&inside);
        inside.requests += 1;
        let reply = (inside.answer)(&received);
        if inside.keeps && matches!(reply, Reply::Status(200..=299)) {
            inside.taken.push(received);
        }
        reply
    };
    let answer = |status: u16| Response::builder().status(status);
    match reply {
        Reply::Status(status) => answer(status).body("said by the receiver".to_owned()),
        Reply::Later(seconds) => answer(429).header("retry-after", seconds).body(String::new()),
        Reply::To(place) => answer(302).header("location", place).body(String::new()),
        Reply::Never => std::future::pending().await,
        // Ends the connection's task, and with it the connection.
        Reply::Reset => std::panic::resume_unwind(Box::new(())),
    }
    .expect("a response")
}
