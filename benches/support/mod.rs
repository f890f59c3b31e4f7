//! Benchmark support: a stub RingCX that answers from memory, in a process of its own so that it does not count in the figures;
//! a bare loop with the same HTTP client that discards the answers; and the comparison with `benches/baseline.json`.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::collections::{BTreeMap, HashMap};
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
use ringcx_extractor::sim::workload::{Workload, WorkloadFigures};

/// A number from the environment, or its default.
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The most conversations that the server holds; a segment with a higher number gets the text of another.
const MAX_BODIES: u64 = 200_000;
/// Segments end within one minute, at any millisecond. When records are served, their times are moved from this minute to another.
const RECORD_MINUTE: Time = Time(4_102_444_800_000);
const MINUTE: Duration = Duration::from_secs(60);
/// A segment begins at most this long before its end.
const LONGEST_SEGMENT_MINUTES: u32 = 91;
/// Of ten segments that are announced, this many have a transcript.
const TRANSCRIBED_OF_TEN: u64 = 7;

/// The workload of every benchmark.
pub fn workload() -> Workload {
    Workload::new(1)
}

/// Prints what a thousand conversations of the workload are.
pub fn print_workload() {
    let WorkloadFigures { conversations, bytes, words, distinct_words } = workload().figures(1000);
    println!("{conversations} conversations: {bytes} bytes, {words} words, {distinct_words} different ones");
}

/// A ratio may be this share of the baseline's before the comparison fails.
const LOWEST_SHARE_OF_BASELINE: f64 = 0.8;

/// Compares ratios with those of the file that `BASELINE` names, if it does: larger is better. Exits with status 1 if one fell by
/// more than a fifth, or if the file does not have it.
pub fn compare_with_baseline(benchmark: &str, ratios: &[(&str, f64)]) {
    let Some(path) = std::env::var_os("BASELINE") else { return };
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
    let baseline: BTreeMap<String, BTreeMap<String, f64>> = serde_json::from_slice(&text).unwrap();
    let mut has_fallen = false;
    for (name, ratio) in ratios {
        let expected = baseline.get(benchmark).and_then(|ratios| ratios.get(*name)).copied().unwrap_or(f64::INFINITY);
        let is_fallen = *ratio < expected * LOWEST_SHARE_OF_BASELINE;
        has_fallen |= is_fallen;
        let verdict = if is_fallen { "FELL BY MORE THAN A FIFTH" } else { "ok" };
        println!("{benchmark}, {name}: {ratio:.3}, baseline {expected:.3}: {verdict}");
    }
    if has_fallen {
        std::process::exit(1);
    }
}

struct StubServerState {
    /// The transcript and the two summaries of each conversation.
    bodies: Vec<[bytes::Bytes; 3]>,
    /// The records of an answer, and of the sub-account `large`.
    records: String,
    large: String,
    /// Whether each read announces new segments that ended in the requested window.
    fresh: bool,
    /// When the segments ended otherwise, so that only one window announces them.
    ended: Time,
    latency: Duration,
    /// By sub-account: all requests, and metadata requests among them.
    requests: Mutex<HashMap<String, (u64, u64)>>,
}

impl StubServerState {
    fn count(&self, sub: &str, metadata: bool) -> u64 {
        let mut requests = self.requests.lock().unwrap();
        if !requests.contains_key(sub) {
            requests.insert(sub.to_owned(), (0, 0));
        }
        let (all, reads) = requests.get_mut(sub).unwrap();
        *all += 1;
        *reads += u64::from(metadata);
        *reads
    }

    fn body(&self, segment: &str, artifact: usize) -> bytes::Bytes {
        let number = Workload::number_of(segment).unwrap() as usize;
        self.bodies[number % self.bodies.len()][artifact].clone()
    }
}

/// The records of an answer, in no order: `segments` with a transcript, and some without. The ids of further reads differ in their
/// first digits.
fn metadata_answer(workload: &Workload, segments: u64) -> String {
    let without = segments * (10 - TRANSCRIBED_OF_TEN) / TRANSCRIBED_OF_TEN;
    let mut numbers: Vec<u64> = (0..segments + without).collect();
    // Ids are random, so their order is none.
    numbers.sort_by_cached_key(|number| workload.segment_id(*number));
    let end = |number: u64| RECORD_MINUTE.plus_millis((number * 7_919 % 60_000) as i64);
    let record = |number: u64| workload.record(number, "SUB", end(number), Some(number < segments));
    let records: Vec<String> = numbers.into_iter().map(record).collect();
    format!("[{}]", records.join(","))
}

/// Prints its address and serves until the process is killed. One window announces `SEGMENTS` (`LARGE` for the sub-account of that
/// name); with `FRESH` each read announces new ones. `LATENCY_MS` delays each artifact.
pub async fn serve() {
    let (workload, segments) = (workload(), env_number("SEGMENTS", 20_000));
    let bodies = |number| {
        let texts = [workload.transcript(number), workload.summary(number, 0), workload.summary(number, 1)];
        texts.map(bytes::Bytes::from)
    };
    let state = StubServerState {
        bodies: (0..segments.clamp(1, MAX_BODIES)).map(bodies).collect(),
        records: metadata_answer(&workload, segments),
        large: metadata_answer(&workload, env_number("LARGE", 0) * TRANSCRIBED_OF_TEN / 10),
        fresh: env_number("FRESH", 0) > 0,
        ended: (Clock::system().now() - Duration::from_secs(600)).floor_to_second(),
        latency: Duration::from_millis(env_number("LATENCY_MS", 0)),
        requests: Mutex::default(),
    };
    const CX: &str = "/voice/api/cx/integration/v1/accounts/{rc}/sub-accounts/{sub}";
    let token = r#"{"access_token":"a","token_type":"bearer","expires_in":3600,"scope":"ReadAccounts"}"#;
    let access = r#"{"accessToken":"b","refreshToken":"c","tokenType":"Bearer"}"#;
    let app = Router::new()
        .route("/restapi/oauth/token", post(move || async move { token }))
        .route("/api/auth/login/rc/accesstoken", post(move || async move { access }))
        .route("/api/auth/token/refresh", post(move || async move { access }))
        .route(&format!("{CX}/interaction-metadata"), post(serve_metadata))
        .route(&format!("{CX}/transcripts/dialogs/{{d}}/segments/{{s}}"), get(serve_transcript))
        .route("/voice/api/v1/summary/accounts/{sub}/segments/{s}/{kind}", get(serve_summary))
        .route("/request-counts", get(request_counts))
        .with_state(Arc::new(state));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    axum::serve(listener, app).await.unwrap();
}

async fn serve_transcript(
    State(state): State<Arc<StubServerState>>,
    Parts((_, sub, _, segment)): Parts<(String, String, String, String)>,
) -> bytes::Bytes {
    state.count(&sub, false);
    simulate_latency(state.latency).await;
    state.body(&segment, 0)
}

async fn serve_summary(
    State(state): State<Arc<StubServerState>>,
    Parts((sub, segment, kind)): Parts<(String, String, String)>,
) -> bytes::Bytes {
    state.count(&sub, false);
    simulate_latency(state.latency).await;
    state.body(&segment, if kind == "agent" { 1 } else { 2 })
}

async fn simulate_latency(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

async fn serve_metadata(
    State(state): State<Arc<StubServerState>>,
    Parts((_, sub)): Parts<(String, String)>,
    body: String,
) -> String {
    let read = state.count(&sub, true);
    let request: serde_json::Value = serde_json::from_str(&body).unwrap();
    // In this API the requested time is the begin of the window.
    let begin = Time::parse(&(request["segmentEndTime"].as_str().unwrap().replace(' ', "T") + "Z")).unwrap();
    let end = begin + Duration::from_secs(request["timeInterval"].as_u64().unwrap());
    let (read, end) = match state.fresh {
        true => (read, begin + MINUTE),
        false if (begin..end).contains(&state.ended) => (0, state.ended),
        false => return "[]".to_owned(),
    };
    let records = if sub == "large" { &state.large } else { &state.records };
    move_times(records, end)
        .replace(r#""SUB""#, &format!(r#""{sub}""#))
        .replace(r#""segmentId":""#, &format!(r#""segmentId":"{read}-"#))
}

/// Moves all times from [`RECORD_MINUTE`] to the minute of `end`, and those before it by as much.
fn move_times(records: &str, end: Time) -> String {
    let minute_before = |time: Time, minutes: u32| minute_text(time - MINUTE * minutes);
    let moved: HashMap<String, String> = (0..=LONGEST_SEGMENT_MINUTES)
        .map(|minutes| (minute_before(RECORD_MINUTE, minutes), minute_before(end, minutes)))
        .collect();
    let mut parts = records.split(r#"TimeMs":""#);
    let mut out = String::with_capacity(records.len());
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (minute, rest) = part.split_at("2100-01-01T00:00:".len());
        out.push_str(r#"TimeMs":""#);
        out.push_str(&moved[minute]);
        out.push_str(rest);
    }
    out
}

/// The begin of the minute that a time is in, without the seconds.
fn minute_text(time: Time) -> String {
    time.rfc3339()[.."2100-01-01T00:00:".len()].to_owned()
}

/// Requests by sub-account: all, and metadata requests among them.
async fn request_counts(State(state): State<Arc<StubServerState>>) -> String {
    serde_json::to_string(&*state.requests.lock().unwrap()).unwrap()
}

/// The stub server's process.
pub struct StubServer {
    child: Child,
    pub url: String,
}

impl Drop for StubServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl StubServer {
    /// Starts this program again as the stub server, on the processor that `SERVER_CPU` names.
    pub fn start(variables: &[(&str, u64)]) -> StubServer {
        let program = std::env::current_exe().unwrap();
        let mut command = match std::env::var_os("SERVER_CPU") {
            Some(cpu) => {
                let mut taskset = Command::new("taskset");
                taskset.arg("-c").arg(cpu).arg(program);
                taskset
            }
            None => Command::new(program),
        };
        command.arg("serve").stdout(Stdio::piped());
        command.envs(variables.iter().map(|(name, value)| (name, value.to_string())));
        let mut child = command.spawn().expect("a server");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        StubServer { child, url: format!("http://{}", line.trim()) }
    }

    /// Requests by sub-account: all, and metadata requests among them.
    pub async fn request_counts(&self) -> HashMap<String, (u64, u64)> {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{}/request-counts", self.url)).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

/// A daemon process with a log file: the binary that cargo built for the benchmarks, or the one that `$RINGCX_EXTRACTOR` names.
pub struct BenchDaemon(Child);

impl BenchDaemon {
    /// Starts it with the settings in this folder.
    pub fn start(folder: &Path) -> BenchDaemon {
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let built = env!("CARGO_BIN_EXE_ringcx-extractor").into();
        let mut command = Command::new(std::env::var_os("RINGCX_EXTRACTOR").unwrap_or(built));
        command.arg("--config").arg(folder.join("config.toml")).arg("run");
        BenchDaemon(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for BenchDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU seconds that this process has used.
pub fn own_cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

/// CPU seconds that another process has used.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

/// A memory figure of a process in MB: `VmHWM` is the peak, `VmRSS` the current size.
pub fn process_memory_mb(pid: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Requests three artifacts of each segment and discards them.
pub async fn run_bare_loop(url: &str, segments: u64, concurrency: usize) {
    let client = reqwest::Client::builder().pool_max_idle_per_host(concurrency).build().unwrap();
    let mut running = tokio::task::JoinSet::new();
    for number in 0..segments * 3 {
        let (client, segment) = (client.clone(), number / 3);
        let cx = "voice/api/cx/integration/v1/accounts/bare/sub-accounts/bare";
        let path = match number % 3 {
            0 => format!("{url}/{cx}/transcripts/dialogs/d-{segment}/segments/{segment:032x}"),
            1 => format!("{url}/voice/api/v1/summary/accounts/bare/segments/{segment:032x}/agent"),
            _ => format!("{url}/voice/api/v1/summary/accounts/bare/segments/{segment:032x}/auto"),
        };
        while running.len() >= concurrency {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(async move { client.get(path).send().await.unwrap().bytes().await.unwrap().len() });
    }
    while running.join_next().await.is_some() {}
}

/// Writes and loads settings in this folder, for this server and a database in the folder or the one that `DATABASE` names.
pub fn load_settings(url: &str, folder: &Path, more: &str) -> config::Settings {
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
