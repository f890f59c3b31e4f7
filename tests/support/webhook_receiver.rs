//! A webhook receiver on loopback whose replies a test chooses.

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

/// How the receiver replies to one request.
#[derive(Debug, Clone, Copy)]
pub enum WebhookReply {
    Status(u16),
    /// 200 after so many milliseconds.
    AcceptAfter(u64),
    /// 429 with `Retry-After`.
    RetryAfter(u32),
    /// 302 to this address.
    RedirectTo(&'static str),
    /// Breaks the connection.
    Reset,
    /// Leaves the connection open without a response.
    NoReply,
}

/// A request as received.
#[derive(Debug, Clone)]
pub struct WebhookRequest {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub event: Value,
}

impl WebhookRequest {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn id(&self) -> String {
        self.event["id"].as_str().unwrap_or_default().to_owned()
    }

    /// The position of the signature that this key made. Computed from the specification, without the sender's library.
    pub fn signature_index(&self, key: &[u8]) -> Option<usize> {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let signature = base64::prelude::BASE64_STANDARD.encode(mac.finalize().into_bytes());
        self.header("webhook-signature").split(' ').position(|one| one == format!("v1,{signature}"))
    }
}

type ReplyFn = Box<dyn Fn(&WebhookRequest) -> WebhookReply + Send>;

struct ReceiverState {
    /// Requests that were answered with 2xx.
    accepted: Vec<WebhookRequest>,
    request_count: usize,
    reply: ReplyFn,
    /// Whether accepted requests are kept.
    keeps_requests: bool,
}

/// The running receiver. It stops when it is dropped.
pub struct WebhookReceiver {
    pub url: String,
    state: Arc<Mutex<ReceiverState>>,
    _server: JoinSet<()>,
}

impl WebhookReceiver {
    pub async fn start(reply: impl Fn(&WebhookRequest) -> WebhookReply + Send + 'static) -> WebhookReceiver {
        WebhookReceiver::start_with(true, reply).await
    }

    /// Starts a receiver that keeps no requests, for tests with many events.
    pub async fn start_discarding(reply: impl Fn(&WebhookRequest) -> WebhookReply + Send + 'static) -> WebhookReceiver {
        WebhookReceiver::start_with(false, reply).await
    }

    async fn start_with(
        keeps_requests: bool,
        reply: impl Fn(&WebhookRequest) -> WebhookReply + Send + 'static,
    ) -> WebhookReceiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook-secret-path?token=secret-token", listener.local_addr().expect("an address"));
        let reply: ReplyFn = Box::new(reply);
        let state = ReceiverState { accepted: Vec::new(), request_count: 0, reply, keeps_requests };
        let state = Arc::new(Mutex::new(state));
        let router = Router::new().fallback(receive).with_state(state.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        WebhookReceiver { url, state, _server: server }
    }

    /// Changes the replies from now on.
    pub fn set_reply(&self, reply: impl Fn(&WebhookRequest) -> WebhookReply + Send + 'static) {
        lock(&self.state).reply = Box::new(reply);
    }

    /// The requests that were answered with 2xx.
    pub fn accepted(&self) -> Vec<WebhookRequest> {
        lock(&self.state).accepted.clone()
    }

    pub fn request_count(&self) -> usize {
        lock(&self.state).request_count
    }
}

fn lock(state: &Mutex<ReceiverState>) -> std::sync::MutexGuard<'_, ReceiverState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive(State(state): State<Arc<Mutex<ReceiverState>>>, headers: HeaderMap, body: Bytes) -> Response<String> {
    let event = ringcx_extractor::lenient_json::from_slice(&body).expect("an event");
    let request = WebhookRequest { headers, body, event };
    let reply = {
        let mut state = lock(&state);
        state.request_count += 1;
        let reply = (state.reply)(&request);
        if state.keeps_requests && matches!(reply, WebhookReply::Status(200..=299) | WebhookReply::AcceptAfter(_)) {
            state.accepted.push(request);
        }
        reply
    };
    let response = |status: u16| Response::builder().status(status);
    match reply {
        WebhookReply::Status(status) => response(status).body("said by the receiver".to_owned()),
        WebhookReply::AcceptAfter(millis) => {
            tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
            response(200).body(String::new())
        }
        WebhookReply::RetryAfter(seconds) => response(429).header("retry-after", seconds).body(String::new()),
        WebhookReply::RedirectTo(url) => response(302).header("location", url).body(String::new()),
        WebhookReply::NoReply => std::future::pending().await,
        // A panic ends the connection's task, which breaks the connection.
        WebhookReply::Reset => std::panic::resume_unwind(Box::new(())),
    }
    .expect("a response")
}
