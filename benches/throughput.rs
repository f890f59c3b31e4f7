//! How fast artifacts are fetched and stored durably with the limits lifted, against a bare loop with the same HTTP client
//! that throws away what it gets. One command: `cargo bench --bench throughput`.
//!
//! The server is a process of its own that answers from memory, so that the figures are the extractor's. Prints a table
//! with the ratio, and CPU seconds a thousand artifacts. `SEGMENTS=20000 CONCURRENCY=64 LATENCY_MS=0` are the knobs,
//! `DATABASE=postgres://…` measures on Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark drives the daemon from outside")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use ringcx_extractor::clock::{Clock, Tick};
use ringcx_extractor::db::{Access, Db};
use ringcx_extractor::{config, daemon, ringcx};
use tokio_util::sync::CancellationToken;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "serve") {
        return runtime.block_on(serve());
    }
    runtime.block_on(measure());
}

fn knob(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

struct Served {
    transcript: bytes::Bytes,
    segments: u64,
    latency: Duration,
}

fn transcript() -> String {
    let phrases: Vec<String> = (0..24)
        .map(|turn| {
            let (speaker, role) = (turn % 2, if turn % 2 == 0 { "agent" } else { "contact" });
            let at = 1_721_647_000_000_u64 + turn * 4_000;
            format!(
                r#"{{"participantId":"{turn}-8f3a","participantName":"Speaker {speaker}","participantType":"{role}","rcUserId":null,"timestamp":"{at}","message":"Turn {turn}: thank you for calling, let me look at the order that you placed on the {turn}th and see where it is."}}"#
            )
        })
        .collect();
    format!(r#"{{"channelClass":"VOICE","errorCode":null,"errorMessage":null,"transcript":[{}]}}"#, phrases.join(","))
}

async fn serve() {
    let served = Served {
        transcript: transcript().into(),
        segments: knob("SEGMENTS", 20_000),
        latency: Duration::from_millis(knob("LATENCY_MS", 0)),
    };
    const CX: &str = "/voice/api/cx/integration/v1/accounts/{rc}/sub-accounts/{sub}";
    let token = r#"{"access_token":"a","token_type":"bearer","expires_in":3600,"scope":"ReadAccounts"}"#;
    let access = r#"{"accessToken":"b","refreshToken":"c","tokenType":"Bearer"}"#;
    let app = Router::new()
        .route("/restapi/oauth/token", post(move || async move { token }))
        .route("/api/auth/login/rc/accesstoken", post(move || async move { access }))
        .route("/api/auth/token/refresh", post(move || async move { access }))
        .route(&format!("{CX}/interaction-metadata"), post(metadata))
        .route(&format!("{CX}/transcripts/dialogs/{{d}}/segments/{{s}}"), get(transcripts))
        .route("/voice/api/v1/summary/accounts/{sub}/segments/{s}/{kind}", get(summaries))
        .with_state(Arc::new(served));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn transcripts(State(served): State<Arc<Served>>) -> bytes::Bytes {
    wait(served.latency).await;
    served.transcript.clone()
}

async fn summaries(State(served): State<Arc<Served>>) -> &'static str {
    wait(served.latency).await;
    "The customer asked about an order; the agent promised to call back on Tuesday."
}

async fn wait(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

async fn metadata(State(served): State<Arc<Served>>) -> String {
    let record = |number| {
        format!(
            r#"{{"subAccountId":"1","dialogId":"d-{number}","segmentId":"s-{number:012x}","segmentType":"AGENT","channelClass":"VOICE","segmentEndTimeMs":"2024-07-22T11:24:47.000Z","hasTranscript":true}}"#
        )
    };
    let records: Vec<String> = (0..served.segments).map(record).collect();
    format!("[{}]", records.join(","))
}

struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Server {
    let mut child =
        Command::new(std::env::current_exe().unwrap()).arg("serve").stdout(Stdio::piped()).spawn().expect("a server");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Server { child, url: format!("http://{}", line.trim()) }
}

/// CPU seconds that this process has used.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn bare(url: &str, segments: u64, concurrency: usize) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(concurrency).build().unwrap();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..segments * 3 {
        let (client, segment) = (client.clone(), number / 3);
        let cx = "voice/api/cx/integration/v1/accounts/1/sub-accounts/1";
        let path = match number % 3 {
            0 => format!("{url}/{cx}/transcripts/dialogs/d-{segment}/segments/s-{segment:012x}"),
            1 => format!("{url}/voice/api/v1/summary/accounts/1/segments/s-{segment:012x}/agent"),
            _ => format!("{url}/voice/api/v1/summary/accounts/1/segments/s-{segment:012x}/auto"),
        };
        while running.len() >= concurrency {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(async move { client.get(path).send().await.unwrap().bytes().await.unwrap().len() });
    }
    while running.join_next().await.is_some() {}
}

fn settings(url: &str, concurrency: usize, folder: &Path) -> config::Settings {
    let file = folder.join("config.toml");
    let database = std::env::var("DATABASE").unwrap_or_else(|_| format!("sqlite:{}/bench.db", folder.display()));
    let text = format!(
        r#"
        api = {{ platform_url = "{url}", ringcx_url = "{url}", summary_url = "{url}" }}
        auth = {{ client_id = "a", client_secret = "b", jwt = "c" }}
        accounts = [{{ rc_account_id = "1", sub_account_id = "1" }}]
        discovery = {{ start = "2024-07-22T11:20:00Z", rechecks = [] }}
        limits = {{ requests_per_minute = 100000000, metadata_per_minute = 1000, metadata_per_15_minutes = 1000 }}
        fetch = {{ concurrency = {concurrency}, revisit = [] }}
        database = {{ url = "{database}" }}
        http = {{ listen = "" }}
        "#
    );
    std::fs::write(&file, text).unwrap();
    match config::load(Some(&file), Vec::new()) {
        Ok(loaded) => loaded.settings,
        Err(errors) => panic!("{errors}"),
    }
}

async fn ours(settings: config::Settings, segments: u64) {
    let stop = CancellationToken::new();
    let daemon = tokio::spawn(daemon::run(settings.clone(), Clock::system(), stop.clone()));
    let db = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let opened = match &settings.database.url {
            config::DatabaseUrl::Sqlite(path) => Db::open_sqlite(path, Access::Existing).await,
            config::DatabaseUrl::Postgres(url) => Db::open_postgres(url, Access::Existing, 2).await,
        };
        match opened {
            Ok(db) => break db,
            Err(error) => assert!(!daemon.is_finished(), "the daemon ended: {error}"),
        }
    };
    loop {
        let done: u64 = db.accounts().await.unwrap().iter().map(|account| account.done).sum();
        if done >= segments * 3 {
            break;
        }
        assert!(!daemon.is_finished(), "the daemon ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    daemon.await.unwrap().unwrap();
}

async fn measure() {
    ringcx::install_tls();
    let segments = knob("SEGMENTS", 20_000);
    let concurrency = usize::try_from(knob("CONCURRENCY", 64)).unwrap();
    let clock = Clock::system();
    let since = |tick: Tick| clock.tick().since(tick).as_secs_f64();
    let server = start();
    bare(&server.url, segments / 10, concurrency).await;
    let (tick, used) = (clock.tick(), cpu());
    bare(&server.url, segments, concurrency).await;
    let (bare_time, bare_cpu) = (since(tick), cpu() - used);
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server.url, concurrency, folder.path());
    let (tick, used) = (clock.tick(), cpu());
    ours(settings, segments).await;
    let (our_time, our_cpu) = (since(tick), cpu() - used);
    let count = (segments * 3) as f64;
    println!("{:<28}{:>14}{:>22}", "", "artifacts/s", "CPU s per 1,000");
    println!("{:<28}{:>14.0}{:>22.3}", "bare loop, discarding", count / bare_time, bare_cpu * 1000.0 / count);
    println!("{:<28}{:>14.0}{:>22.3}", "stored durably", count / our_time, our_cpu * 1000.0 / count);
    println!("{:<28}{:>14.2}", "ratio", bare_time / our_time);
}
