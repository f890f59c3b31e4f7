//! Undocumented answers of RingCX, and what an operator sees and does: through the real binary, against a server whose responses
//! each test chooses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Db, OpenMode, sql};
use secrecy::SecretString;
use serde_json::{Value, json};
use support::http_get;
use support::test_env::scenario::strings;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

crate::e2e! {
    a_transcript_that_is_empty_at_first_is_fetched_once_it_is_there,
    a_transcript_that_stays_empty_is_not_populated_at_the_horizon_and_not_before,
    a_summary_that_is_cut_or_a_page_is_asked_for_again,
    what_is_broken_alike_each_time_fails_with_its_beginning_and_is_asked_for_again_by_hand,
    an_api_that_has_moved_is_named_with_the_setting_to_change,
    an_outage_of_those_who_verify_tokens_costs_no_token,
    a_credential_that_ends_soon_is_warned_about_everywhere,
    ringcentral_tokens_are_counted_across_processes,
}

/// The response to one request.
#[derive(Clone)]
struct ScriptedResponse {
    status: u16,
    /// Additional headers, each with its line end.
    headers: String,
    body: Vec<u8>,
    /// Whether `content-length` announces more than is sent.
    is_truncated: bool,
}

fn response(status: u16, body: impl AsRef<[u8]>) -> ScriptedResponse {
    ScriptedResponse { status, headers: String::new(), body: body.as_ref().to_vec(), is_truncated: false }
}

fn ok_response(body: impl AsRef<[u8]>) -> ScriptedResponse {
    response(200, body)
}

fn truncated_response(body: &str) -> ScriptedResponse {
    ScriptedResponse { is_truncated: true, ..ok_response(body) }
}

/// A RingCX with a few segments that have just ended. The last two parts of a path select a list of responses. Requests consume
/// the list in order, and the last response repeats.
#[derive(Clone, Default)]
struct ScriptedApi(Arc<Mutex<ScriptedApiState>>);

#[derive(Default)]
struct ScriptedApiState {
    segments: Vec<String>,
    responses: HashMap<String, Vec<ScriptedResponse>>,
    requests: HashMap<String, usize>,
}

impl ScriptedApi {
    fn with(self, path: &str, responses: &[ScriptedResponse]) -> ScriptedApi {
        {
            let mut script = self.0.lock().unwrap();
            if let Some(segment) = path.strip_prefix("segments/") {
                script.segments.push(segment.to_owned());
            }
            script.responses.insert(path.to_owned(), responses.to_vec());
        }
        self
    }

    fn set_response(&self, path: &str, response: ScriptedResponse) {
        self.0.lock().unwrap().responses.insert(path.to_owned(), vec![response]);
    }

    fn request_count(&self, path: &str) -> usize {
        self.0.lock().unwrap().requests.get(path).copied().unwrap_or(0)
    }

    /// Starts the server, and creates a test environment whose settings point to it.
    async fn start(&self, database: TempDatabase, scenario: Scenario) -> (TestEnv, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (script, ended) = (self.clone(), Clock::system().now() - Duration::from_secs(8));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = script.clone();
                connections.spawn(async move { script.serve(stream, ended).await });
                while connections.try_join_next().is_some() {}
            }
        });
        let scenario = scenario
            .set("api.platform_url", url.clone())
            .set("api.ringcx_url", url.clone())
            .set("api.summary_url", url);
        (TestEnv::new(database, scenario.set("fetch.retry_max", "200ms")).await, server)
    }

    async fn serve(&self, mut stream: TcpStream, ended: Time) {
        let (mut request, mut part) = (Vec::new(), [0; 4096]);
        let whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).to_ascii_lowercase();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
            (body.len() >= length.unwrap_or(0)).then_some(())
        };
        while whole(&request).is_none() {
            match stream.read(&mut part).await {
                Ok(read) if read > 0 => request.extend_from_slice(&part[..read]),
                _ => return,
            }
        }
        let text = String::from_utf8_lossy(&request);
        let path = text.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
        let response = self.response_for(&path, ended);
        let length = response.body.len() + if response.is_truncated { 1000 } else { 0 };
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-length: {length}\r\nconnection: close\r\n{}\r\n",
            response.status, response.headers
        );
        let _ = stream.write_all(&[head.as_bytes(), &response.body].concat()).await;
        let _ = stream.shutdown().await;
    }

    fn response_for(&self, path: &str, ended: Time) -> ScriptedResponse {
        let mut script = self.0.lock().unwrap();
        let parts: Vec<&str> = path.rsplit('/').take(2).collect();
        let key = format!("{}/{}", parts[1], parts[0]);
        let nth = script.requests.entry(key.clone()).or_default();
        let earlier = *nth;
        *nth += 1;
        if let Some(responses) = script.responses.get(&key) {
            return responses[earlier.min(responses.len() - 1)].clone();
        }
        match parts[0] {
            "token" => ok_response(r#"{"access_token":"rc","expires_in":3600,"scope":"ReadAccounts"}"#),
            "accesstoken" | "refresh" => ok_response(r#"{"accessToken":"cx","refreshToken":"r"}"#),
            "interaction-metadata" => {
                let segment = |id: &String| {
                    json!({"segmentId": id, "dialogId": format!("d-{id}"), "segmentType": "AGENT", "channelClass": "VOICE",
                           "hasTranscript": true, "segmentEndTimeMs": ended.rfc3339()})
                };
                ok_response(Value::Array(script.segments.iter().map(segment).collect()).to_string())
            }
            _ => response(404, ""),
        }
    }
}

const TRANSCRIPT: &str =
    r#"{"channelClass":"VOICE","transcript":[{"participantId":"9","timestamp":"1","message":"hello there"}]}"#;

fn scenario() -> Scenario {
    Scenario::history().transcripts_only().set("fetch.retry_initial", "50ms")
}

async fn exported_by_segment(env: &TestEnv) -> HashMap<String, Value> {
    let export = env.run(&["export"]).await;
    let lines = export.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["segment_id"].as_str().unwrap().to_owned(), line)).collect()
}

/// Waits until the transcript of each segment has this outcome.
async fn wait_for_outcomes(env: &TestEnv, outcomes: &[(&str, &str)]) {
    env.wait_until(&format!("{outcomes:?}"), async || {
        let held = exported_by_segment(env).await;
        outcomes.iter().all(|(id, outcome)| held.get(*id).is_some_and(|line| line["transcript"]["outcome"] == *outcome))
    })
    .await;
}

async fn a_transcript_that_is_empty_at_first_is_fetched_once_it_is_there(database: TempDatabase) {
    let forms = [
        r#"{"channelClass":"VOICE","transcript":[]}"#,
        r#"{"channelClass":"VOICE","transcript":null}"#,
        r#"{"channelClass":"VOICE"}"#,
        r#"{"transcript":[{"participantId":"9","message":""},{"message":null}]}"#,
        "",
        "[]",
        r#"{"errorCode":null,"errorMessage":null}"#,
        r#"{"transcript":"[]"}"#,
    ];
    let mut api = ScriptedApi::default();
    for (nth, form) in forms.iter().enumerate() {
        api = api.with(&format!("segments/s{nth}"), &[ok_response(form), ok_response(form), ok_response(TRANSCRIPT)]);
    }
    let (mut env, _server) = api.start(database, scenario()).await;
    env.start();
    let all = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"].map(|id| (id, "stored"));
    wait_for_outcomes(&env, &all).await;
    for (id, line) in exported_by_segment(&env).await {
        assert_eq!(line["transcript"]["body"]["transcript"][0]["message"], "hello there", "{id}");
        assert_eq!(api.request_count(&format!("segments/{id}")), 3, "{id}");
    }
    env.wait_for_audit().await;
    env.stop().await;
}

async fn a_transcript_that_stays_empty_is_not_populated_at_the_horizon_and_not_before(database: TempDatabase) {
    let blank = r#"{"transcript":[{"participantName":"Anna","message":" "}]}"#;
    let api = ScriptedApi::default()
        .with("segments/none", &[ok_response(r#"{"transcript":[]}"#)])
        .with("segments/blank", &[ok_response(blank)])
        .with("segments/missing", &[response(404, "")]);
    let (mut env, _server) = api.start(database, scenario()).await;
    env.start();
    env.wait_until("each was requested again", async || {
        ["none", "blank", "missing"].iter().all(|id| api.request_count(&format!("segments/{id}")) > 2)
    })
    .await;
    wait_for_outcomes(&env, &[("none", "pending"), ("blank", "pending"), ("missing", "pending")]).await;
    env.stop().await;
    env.set("fetch.give_up_after", "1s");
    env.start();
    wait_for_outcomes(&env, &[("none", "not_populated"), ("blank", "stored"), ("missing", "unavailable")]).await;
    let held = exported_by_segment(&env).await;
    assert_eq!(held["blank"]["transcript"]["body"], serde_json::from_str::<Value>(blank).unwrap());
    env.wait_for_audit().await;
    let (audit, _) = env.audit_json().await;
    assert_eq!(audit["accounts"][0]["artifacts"][0]["not_populated"], 1, "{audit}");
    env.stop().await;
}

async fn a_summary_that_is_cut_or_a_page_is_asked_for_again(database: TempDatabase) {
    let of = |media_type: &str, body: &str| ScriptedResponse {
        headers: format!("content-type: {media_type}\r\n"),
        ..ok_response(body)
    };
    let whole = "\"The customer asked for a refund.\"";
    let cut = of("application/json", "\"The customer asked for a ref");
    let page = of("text/html", "<!-- gateway --><html><body>502");
    let bare = of("text/plain", "<center>502 Bad Gateway</center>");
    let quoted = "\"Quoted\" word <3";
    let api = ScriptedApi::default()
        .with("segments/one", &[ok_response(TRANSCRIPT)])
        .with("one/auto", &[cut.clone(), page, bare, cut, of("application/json", whole)])
        .with("one/agent", &[of("text/plain", quoted)]);
    let scenario = Scenario::history().set("fetch.retry_initial", "50ms");
    let (mut env, _server) = api.start(database, scenario).await;
    env.start();
    env.wait_until("both summaries are stored", async || {
        let held = exported_by_segment(&env).await;
        let is_stored = |name: &str| held.get("one").is_some_and(|line| line[name]["outcome"] == "stored");
        is_stored("auto_summary") && is_stored("agent_summary")
    })
    .await;
    let line = exported_by_segment(&env).await.remove("one").unwrap();
    assert_eq!(line["auto_summary"]["text"], "The customer asked for a refund.");
    assert_eq!(line["agent_summary"]["text"], quoted);
    assert_eq!((api.request_count("one/auto"), api.request_count("one/agent")), (5, 1));
    env.stop().await;
}

async fn what_is_broken_alike_each_time_fails_with_its_beginning_and_is_asked_for_again_by_hand(
    database: TempDatabase,
) {
    let page = format!("<html>\n<b>Anna-said-this</b> {}", "x".repeat(5000));
    let half = r#"{"channelClass":"VOICE","transcript":[{"message":"Anna-said-this"#;
    let (unavailable, malformed) = (response(503, ""), ok_response("<html>Anna-said-this"));
    let api = ScriptedApi::default()
        .with("segments/good", &[ok_response(TRANSCRIPT)])
        .with("segments/page", &[ok_response(&page)])
        .with("segments/half", &[ok_response(half)])
        .with("segments/cut", &[truncated_response(half)])
        .with("segments/varied", &vec![[unavailable, malformed]; 5000].concat());
    let (mut env, _server) = api.start(database, scenario().set("fetch.give_up_after", "1s")).await;
    env.start();
    wait_for_outcomes(&env, &[("good", "stored"), ("page", "failed"), ("half", "failed"), ("cut", "failed")]).await;
    let asked = api.request_count("segments/varied");
    env.wait_until("it is requested again and again", async || api.request_count("segments/varied") > asked + 6).await;
    wait_for_outcomes(&env, &[("varied", "pending")]).await;

    for id in ["page", "half", "cut"] {
        assert!(api.request_count(&format!("segments/{id}")) >= 5, "{id}");
        let item = env.run_json(&["queue", "show", id, "--json"]).await;
        assert_eq!((&item["state"], &item["status"]), (&json!("failed"), &json!(200)), "{item}");
        let start = item["last_body"].as_str().unwrap();
        assert!(start.contains("Anna-said-this") && start.len() <= 2048, "{item}");
    }
    let shown = env.run_ok(&["queue", "show", "page"]).await;
    assert!(shown.contains("the last answer started with:\n    <html>\n    <b>Anna-said-this</b>"), "{shown}");
    assert!(shown.contains("queue retry"), "{shown}");
    assert!(!env.run_ok(&["queue", "list"]).await.contains("Anna-said-this"));
    env.run(&["audit"])
        .await
        .assert_output(1, &["3 segments failed permanently", "queue show SEGMENT_ID", "`queue retry`"]);

    for id in ["page", "half", "cut", "varied"] {
        api.set_response(&format!("segments/{id}"), ok_response(TRANSCRIPT));
    }
    env.run(&["queue", "retry", "--all"]).await.assert_output(0, &["3 items"]);
    wait_for_outcomes(&env, &["page", "half", "cut", "varied"].map(|id| (id, "stored"))).await;
    env.wait_for_audit().await;
    assert!(!env.log().contains("Anna-said-this"), "content is in the log");
    env.stop().await;
}

async fn an_api_that_has_moved_is_named_with_the_setting_to_change(database: TempDatabase) {
    let moved = ScriptedResponse {
        headers: "location: https://summaries.example.com/voice/x?token=s3cret\r\n".to_owned(),
        ..response(308, "")
    };
    let api = ScriptedApi::default()
        .with("segments/a", &[ok_response(TRANSCRIPT)])
        .with("a/auto", std::slice::from_ref(&moved));
    let scenario = scenario()
        .account_setting("artifacts", strings(&["transcript", "auto_summary"]))
        .set("http.listen", "127.0.0.1:0");
    let (mut env, _server) = api.start(database, scenario).await;
    env.start();
    const MESSAGE: &str = "redirected to the host summaries.example.com,";
    env.wait_for_log(MESSAGE).await;
    let ready = format!("{}readyz", env.dashboard_url().await);
    let (status, body) = http_get(&ready).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(MESSAGE) && body.contains("set api.summary_url"), "{body}");
    env.run(&["check"]).await.assert_output(1, &[MESSAGE, "set api.summary_url"]);
    assert!(!env.log().contains("s3cret") && !env.log().contains("voice/x"), "more than the host is printed");
    api.set_response("a/auto", ok_response("a summary"));
    env.wait_until("it is over", async || !http_get(&ready).await.1.contains(MESSAGE)).await;
    // For metadata the hint names another setting.
    api.set_response(&format!("{}/interaction-metadata", env.main_account().sub), moved);
    env.wait_until("the hint names the other setting", async || {
        http_get(&ready).await.1.contains("set api.ringcx_url")
    })
    .await;
    env.stop().await;
}

async fn an_outage_of_those_who_verify_tokens_costs_no_token(database: TempDatabase) {
    let outage = response(401, "Jwks remote fetch is failed");
    let api = ScriptedApi::default().with("segments/a", &[vec![outage; 5], vec![ok_response(TRANSCRIPT)]].concat());
    let (mut env, _server) = api.start(database, scenario().set("http.listen", "127.0.0.1:0")).await;
    env.start();
    wait_for_outcomes(&env, &[("a", "stored")]).await;
    assert_eq!(
        (api.request_count("oauth/token"), api.request_count("rc/accesstoken"), api.request_count("token/refresh")),
        (1, 1, 0)
    );
    let log = env.log();
    assert!(!log.contains("credentials") && log.contains("cannot verify any token just now"), "{log}");
    env.stop().await;
}

async fn a_credential_that_ends_soon_is_warned_about_everywhere(database: TempDatabase) {
    let end = Clock::system().now() + Duration::from_secs(10 * 86_400 + 3600);
    let claims = json!({"sub": "1", "exp": end.0 / 1000}).to_string();
    let jwt = format!("e30.{}.signature", URL_SAFE_NO_PAD.encode(claims));
    let api = ScriptedApi::default().with("segments/a", &[ok_response(TRANSCRIPT)]);
    let scenario = scenario().set("auth.jwt", jwt.clone()).set("http.listen", "127.0.0.1:0");
    let (mut env, _server) = api.start(database, scenario).await;
    env.start();
    const MESSAGE: &str = "the login's JWT credential ends at";
    env.wait_for_log(MESSAGE).await;
    let dashboard = env.dashboard_url().await;
    let (status, body) = http_get(&format!("{dashboard}readyz")).await;
    assert!(status == 200 && body.contains(MESSAGE) && body.contains("auth.jwt"), "{body}");
    let (_, metrics) = http_get(&format!("{dashboard}metrics")).await;
    let left = metrics.lines().find_map(|line| line.strip_prefix("ringcx_jwt_expires_seconds ")).unwrap();
    let left: f64 = left.parse().unwrap();
    assert!((10.0 * 86_400.0..10.05 * 86_400.0).contains(&left), "{left}");
    env.run(&["check"]).await.assert_output(0, &["note", MESSAGE, "in 10 days", "hint: create a new JWT"]);
    assert!(!env.log().contains(&jwt));
    env.stop().await;
}

async fn ringcentral_tokens_are_counted_across_processes(database: TempDatabase) {
    let api = ScriptedApi::default().with("segments/a", &[ok_response(TRANSCRIPT)]);
    let (env, _server) = api.start(database, scenario()).await;
    for _ in 0..3 {
        env.run(&["check"]).await.assert_output(0, &[]);
    }
    assert_eq!(api.request_count("oauth/token"), 3);
    let db = match env.database.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(std::path::Path::new(file), OpenMode::Existing).await.unwrap(),
        None => Db::open_postgres(&SecretString::from(env.database.url.clone()), OpenMode::Existing, 2).await.unwrap(),
    };
    assert_eq!(db.count(sql("select count(*) from reservation where key = 'ringcentral'")).await.unwrap(), 3);
    db.close().await;
}
