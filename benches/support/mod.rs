//! What the benchmarks share: a RingCX that answers from memory, in a process of its own so that the figures are the
//! extractor's, and a bare loop with the same HTTP client that throws away what it gets.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as Parts, State};
use axum::routing::{get, post};
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::config;

/// A number from the environment.
pub fn knob(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

struct Served {
    transcript: bytes::Bytes,
    segments: u64,
    /// How many the sub-account `large` has of them.
    large: u64,
    /// Whether each read announces other segments, that ended in the window asked for.
    fresh: bool,
    /// When they ended otherwise, so that they are in one window as in life, and not in each.
    ended: Time,
    latency: Duration,
    /// Requests by sub-account, metadata too; and metadata alone.
    asked: Mutex<HashMap<String, (u64, u64)>>,
}

impl Served {
    fn count(&self, sub: &str, metadata: bool) -> u64 {
        let mut asked = self.asked.lock().unwrap();
        if !asked.contains_key(sub) {
            asked.insert(sub.to_owned(), (0, 0));
        }
        let (all, reads) = asked.get_mut(sub).unwrap();
        *all += 1;
        *reads += u64::from(metadata);
        *reads
    }
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

/// Serves until the process is killed; prints its address. `SEGMENTS` are announced by the window in which they ended (`LARGE`
/// for the sub-account of that name); with `FRESH`, others by each read. `LATENCY_MS` is how long an artifact takes.
pub async fn serve() {
    let served = Served {
        transcript: transcript().into(),
        segments: knob("SEGMENTS", 20_000),
        large: knob("LARGE", 0),
        fresh: knob("FRESH", 0) > 0,
        ended: (Clock::system().now() - Duration::from_secs(600)).floor_to_second(),
        latency: Duration::from_millis(knob("LATENCY_MS", 0)),
        asked: Mutex::default(),
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
        .route("/asked", get(asked))
        .with_state(Arc::new(served));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn transcripts(
    State(served): State<Arc<Served>>,
    Parts((_, sub, _, _)): Parts<(String, String, String, String)>,
) -> bytes::Bytes {
    served.count(&sub, false);
    wait(served.latency).await;
    served.transcript.clone()
}

async fn summaries(
    State(served): State<Arc<Served>>,
    Parts((sub, _, _)): Parts<(String, String, String)>,
) -> &'static str {
    served.count(&sub, false);
    wait(served.latency).await;
    "The customer asked about an order; the agent promised to call back on Tuesday."
}

async fn wait(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

async fn metadata(State(served): State<Arc<Served>>, Parts((_, sub)): Parts<(String, String)>, body: String) -> String {
    let read = served.count(&sub, true);
    let asked: serde_json::Value = serde_json::from_str(&body).unwrap();
    // By the API's reading of it this is where the window begins.
    let begin = Time::parse(&(asked["segmentEndTime"].as_str().unwrap().replace(' ', "T") + "Z")).unwrap();
    let end = begin + Duration::from_secs(asked["timeInterval"].as_u64().unwrap());
    let (read, end) = match served.fresh {
        true => (read, begin.plus_millis(500)),
        false if (begin..end).contains(&served.ended) => (0, served.ended),
        false => return "[]".to_owned(),
    };
    let end = end.rfc3339();
    let record = |number| {
        format!(
            r#"{{"subAccountId":"{sub}","dialogId":"d-{number}","segmentId":"s-{read}-{number:012x}","segmentType":"AGENT","channelClass":"VOICE","segmentEndTimeMs":"{end}","hasTranscript":true}}"#
        )
    };
    let segments = if sub == "large" { served.large } else { served.segments };
    let records: Vec<String> = (0..segments).map(record).collect();
    format!("[{}]", records.join(","))
}

/// Requests so far by sub-account: all, and metadata among them.
async fn asked(State(served): State<Arc<Served>>) -> String {
    serde_json::to_string(&*served.asked.lock().unwrap()).unwrap()
}

/// The server's process.
pub struct Server {
    child: Child,
    pub url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts this program again, as a server.
    pub fn start(knobs: &[(&str, u64)]) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("serve").stdout(Stdio::piped());
        command.envs(knobs.iter().map(|(name, value)| (name, value.to_string())));
        let mut child = command.spawn().expect("a server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Server { child, url: format!("http://{}", line.trim()) }
    }

    /// Requests so far by sub-account: all, and metadata among them.
    pub async fn asked(&self) -> HashMap<String, (u64, u64)> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{}/asked", self.url)).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

/// The binary as people run it, with a log beside its database: the one that cargo built for the benchmarks, or the one that
/// `$RINGCX_EXTRACTOR` names.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it with the settings in this folder.
    pub fn start(folder: &Path) -> Daemon {
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let built = env!("CARGO_BIN_EXE_ringcx-extractor").into();
        let mut command = Command::new(std::env::var_os("RINGCX_EXTRACTOR").unwrap_or(built));
        command.arg("--config").arg(folder.join("config.toml")).arg("run");
        Daemon(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds that a process has used; 0 is this one.
pub fn cpu(pid: u32) -> f64 {
    let process = if pid == 0 { "self".to_owned() } else { pid.to_string() };
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// A figure of a process's memory in MB: `VmHWM` is its peak, `VmRSS` what it has now.
pub fn memory(pid: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Asks for three artifacts of so many segments and throws them away.
pub async fn bare(url: &str, segments: u64, concurrency: usize) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(concurrency).build().unwrap();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..segments * 3 {
        let (client, segment) = (client.clone(), number / 3);
        let cx = "voice/api/cx/integration/v1/accounts/bare/sub-accounts/bare";
        let path = match number % 3 {
            0 => format!("{url}/{cx}/transcripts/dialogs/d-{segment}/segments/s-{segment:012x}"),
            1 => format!("{url}/voice/api/v1/summary/accounts/bare/segments/s-{segment:012x}/agent"),
            _ => format!("{url}/voice/api/v1/summary/accounts/bare/segments/s-{segment:012x}/auto"),
        };
        while running.len() >= concurrency {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(async move { client.get(path).send().await.unwrap().bytes().await.unwrap().len() });
    }
    while running.join_next().await.is_some() {}
}

/// Settings in a file of this folder: against this server, in a database in the folder or the one that `DATABASE` names.
pub fn settings(url: &str, folder: &Path, more: &str) -> config::Settings {
    let file = folder.join("config.toml");
    let database = std::env::var("DATABASE").unwrap_or_else(|_| format!("sqlite:{}/bench.db", folder.display()));
    let text = format!(
        r#"
        api = {{ platform_url = "{url}", ringcx_url = "{url}", summary_url = "{url}" }}
        auth = {{ client_id = "a", client_secret = "b", jwt = "c" }}
        database = {{ url = "{database}" }}
        {more}
        "#
    );
    std::fs::write(&file, text).unwrap();
    match config::load(Some(&file), Vec::new()) {
        Ok(loaded) => loaded.settings,
        Err(errors) => panic!("{errors}"),
    }
}
