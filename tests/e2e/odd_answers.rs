//! What a RingCX answers that is no documented answer, and what a person then sees and does: through the real binary, against
//! a server that says what each test tells it to say.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Access, Db, sql};
use secrecy::SecretString;
use serde_json::{Value, json};
use support::daemon::plan::strings;
use support::daemon::{Place, Plan, Rig};
use support::fetched;
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

/// What the server says to one request: status, further headers, body; and whether it promises more than it sends.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
    cut: bool,
}

fn said(status: u16, body: impl AsRef<[u8]>) -> Answer {
    Answer { status, headers: String::new(), body: body.as_ref().to_vec(), cut: false }
}

fn ok(body: impl AsRef<[u8]>) -> Answer {
    said(200, body)
}

fn cut(body: &str) -> Answer {
    Answer { cut: true, ..ok(body) }
}

/// A RingCX with some segments that have just ended. By the last parts of a path, what is said to the first requests, one
/// after the other, and to all that follow.
#[derive(Clone, Default)]
struct RingCx(Arc<Mutex<Script>>);

#[derive(Default)]
struct Script {
    segments: Vec<String>,
    answers: HashMap<String, Vec<Answer>>,
    asked: HashMap<String, usize>,
}

impl RingCx {
    fn with(self, path: &str, answers: &[Answer]) -> RingCx {
        {
            let mut script = self.0.lock().unwrap();
            if let Some(segment) = path.strip_prefix("segments/") {
                script.segments.push(segment.to_owned());
            }
            script.answers.insert(path.to_owned(), answers.to_vec());
        }
        self
    }

    fn now_says(&self, path: &str, answer: Answer) {
        self.0.lock().unwrap().answers.insert(path.to_owned(), vec![answer]);
    }

    fn asked(&self, path: &str) -> usize {
        self.0.lock().unwrap().asked.get(path).copied().unwrap_or(0)
    }

    /// Starts the server, and a rig whose settings lead there; transcripts only, unless told otherwise.
    async fn rig(&self, place: Place, plan: Plan) -> (Rig, JoinSet<()>) {
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
        let plan =
            plan.set("api.platform_url", url.clone()).set("api.ringcx_url", url.clone()).set("api.summary_url", url);
        (Rig::new(place, plan.set("fetch.retry_max", "200ms")).await, server)
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
        let answer = self.answer(&path, ended);
        let length = answer.body.len() + if answer.cut { 1000 } else { 0 };
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-length: {length}\r\nconnection: close\r\n{}\r\n",
            answer.status, answer.headers
        );
        let _ = stream.write_all(&[head.as_bytes(), &answer.body].concat()).await;
        let _ = stream.shutdown().await;
    }

    fn answer(&self, path: &str, ended: Time) -> Answer {
        let mut script = self.0.lock().unwrap();
        let parts: Vec<&str> = path.rsplit('/').take(2).collect();
        let key = format!("{}/{}", parts[1], parts[0]);
        let nth = script.asked.entry(key.clone()).or_default();
        let asked = *nth;
        *nth += 1;
        if let Some(answers) = script.answers.get(&key) {
            return answers[asked.min(answers.len() - 1)].clone();
        }
        match parts[0] {
            "token" => ok(r#"{"access_token":"rc","expires_in":3600,"scope":"ReadAccounts"}"#),
            "accesstoken" | "refresh" => ok(r#"{"accessToken":"cx","refreshToken":"r"}"#),
            "interaction-metadata" => {
                let segment = |id: &String| {
                    json!({"segmentId": id, "dialogId": format!("d-{id}"), "segmentType": "AGENT", "channelClass": "VOICE",
                           "hasTranscript": true, "segmentEndTimeMs": ended.rfc3339()})
                };
                ok(Value::Array(script.segments.iter().map(segment).collect()).to_string())
            }
            _ => said(404, ""),
        }
    }
}

const WORDS: &str =
    r#"{"channelClass":"VOICE","transcript":[{"participantId":"9","timestamp":"1","message":"hello there"}]}"#;

fn plan() -> Plan {
    Plan::history().transcripts_only().set("fetch.retry_initial", "50ms")
}

async fn exported(rig: &Rig) -> HashMap<String, Value> {
    let export = rig.run(&["export"]).await;
    let lines = export.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| (line["segment_id"].as_str().unwrap().to_owned(), line)).collect()
}

/// Waits until the transcript of each segment has this outcome.
async fn until_outcomes(rig: &Rig, outcomes: &[(&str, &str)]) {
    rig.until(&format!("{outcomes:?}"), async || {
        let held = exported(rig).await;
        outcomes.iter().all(|(id, outcome)| held.get(*id).is_some_and(|line| line["transcript"]["outcome"] == *outcome))
    })
    .await;
}

async fn a_transcript_that_is_empty_at_first_is_fetched_once_it_is_there(place: Place) {
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
    let mut ringcx = RingCx::default();
    for (nth, form) in forms.iter().enumerate() {
        ringcx = ringcx.with(&format!("segments/s{nth}"), &[ok(form), ok(form), ok(WORDS)]);
    }
    let (mut rig, _server) = ringcx.rig(place, plan()).await;
    rig.start();
    let all = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"].map(|id| (id, "stored"));
    until_outcomes(&rig, &all).await;
    for (id, line) in exported(&rig).await {
        assert_eq!(line["transcript"]["body"]["transcript"][0]["message"], "hello there", "{id}");
        assert_eq!(ringcx.asked(&format!("segments/{id}")), 3, "{id}");
    }
    rig.audit_passes().await;
    rig.stop().await;
}

async fn a_transcript_that_stays_empty_is_not_populated_at_the_horizon_and_not_before(place: Place) {
    let blank = r#"{"transcript":[{"participantName":"Anna","message":" "}]}"#;
    let ringcx = RingCx::default()
        .with("segments/none", &[ok(r#"{"transcript":[]}"#)])
        .with("segments/blank", &[ok(blank)])
        .with("segments/missing", &[said(404, "")]);
    let (mut rig, _server) = ringcx.rig(place, plan()).await;
    rig.start();
    rig.until("each was asked for again", async || {
        ["none", "blank", "missing"].iter().all(|id| ringcx.asked(&format!("segments/{id}")) > 2)
    })
    .await;
    until_outcomes(&rig, &[("none", "pending"), ("blank", "pending"), ("missing", "pending")]).await;
    rig.stop().await;
    rig.set("fetch.give_up_after", "1s");
    rig.start();
    until_outcomes(&rig, &[("none", "not_populated"), ("blank", "stored"), ("missing", "unavailable")]).await;
    let held = exported(&rig).await;
    assert_eq!(held["blank"]["transcript"]["body"], serde_json::from_str::<Value>(blank).unwrap());
    rig.audit_passes().await;
    let (audit, _) = rig.audit().await;
    assert_eq!(audit["accounts"][0]["artifacts"][0]["not_populated"], 1, "{audit}");
    rig.stop().await;
}

async fn a_summary_that_is_cut_or_a_page_is_asked_for_again(place: Place) {
    let of = |media_type: &str, body: &str| Answer { headers: format!("content-type: {media_type}\r\n"), ..ok(body) };
    let whole = "\"The customer asked for a refund.\"";
    let cut = of("application/json", "\"The customer asked for a ref");
    let page = of("text/html", "<!-- gateway --><html><body>502");
    let bare = of("text/plain", "<center>502 Bad Gateway</center>");
    let quoted = "\"Quoted\" word <3";
    let ringcx = RingCx::default()
        .with("segments/one", &[ok(WORDS)])
        .with("one/auto", &[cut.clone(), page, bare, cut, of("application/json", whole)])
        .with("one/agent", &[of("text/plain", quoted)]);
    let plan = Plan::history().set("fetch.retry_initial", "50ms");
    let (mut rig, _server) = ringcx.rig(place, plan).await;
    rig.start();
    rig.until("both summaries are stored", async || {
        let held = exported(&rig).await;
        let is_stored = |name: &str| held.get("one").is_some_and(|line| line[name]["outcome"] == "stored");
        is_stored("auto_summary") && is_stored("agent_summary")
    })
    .await;
    let line = exported(&rig).await.remove("one").unwrap();
    assert_eq!(line["auto_summary"]["text"], "The customer asked for a refund.");
    assert_eq!(line["agent_summary"]["text"], quoted);
    assert_eq!((ringcx.asked("one/auto"), ringcx.asked("one/agent")), (5, 1));
    rig.stop().await;
}

async fn what_is_broken_alike_each_time_fails_with_its_beginning_and_is_asked_for_again_by_hand(place: Place) {
    let page = format!("<html>\n<b>Anna-said-this</b> {}", "x".repeat(5000));
    let half = r#"{"channelClass":"VOICE","transcript":[{"message":"Anna-said-this"#;
    let (away, odd) = (said(503, ""), ok("<html>Anna-said-this"));
    let ringcx = RingCx::default()
        .with("segments/good", &[ok(WORDS)])
        .with("segments/page", &[ok(&page)])
        .with("segments/half", &[ok(half)])
        .with("segments/cut", &[cut(half)])
        .with("segments/varied", &vec![[away, odd]; 5000].concat());
    let (mut rig, _server) = ringcx.rig(place, plan().set("fetch.give_up_after", "1s")).await;
    rig.start();
    until_outcomes(&rig, &[("good", "stored"), ("page", "failed"), ("half", "failed"), ("cut", "failed")]).await;
    let asked = ringcx.asked("segments/varied");
    rig.until("it goes on", async || ringcx.asked("segments/varied") > asked + 6).await;
    until_outcomes(&rig, &[("varied", "pending")]).await;

    for id in ["page", "half", "cut"] {
        assert!(ringcx.asked(&format!("segments/{id}")) >= 5, "{id}");
        let item = rig.json(&["queue", "show", id, "--json"]).await;
        assert_eq!((&item["state"], &item["status"]), (&json!("failed"), &json!(200)), "{item}");
        let start = item["last_body"].as_str().unwrap();
        assert!(start.contains("Anna-said-this") && start.len() <= 2048, "{item}");
    }
    let shown = rig.output(&["queue", "show", "page"]).await;
    assert!(shown.contains("the last answer began with:\n    <html>\n    <b>Anna-said-this</b>"), "{shown}");
    assert!(shown.contains("queue retry"), "{shown}");
    assert!(!rig.output(&["queue", "list"]).await.contains("Anna-said-this"));
    rig.run(&["audit"]).await.is(1, &["3 segments failed for good", "queue show SEGMENT_ID", "`queue retry`"]);

    for id in ["page", "half", "cut", "varied"] {
        ringcx.now_says(&format!("segments/{id}"), ok(WORDS));
    }
    rig.run(&["queue", "retry", "--all"]).await.is(0, &["3 items"]);
    until_outcomes(&rig, &["page", "half", "cut", "varied"].map(|id| (id, "stored"))).await;
    rig.audit_passes().await;
    assert!(!rig.log().contains("Anna-said-this"), "content is in the log");
    rig.stop().await;
}

async fn an_api_that_has_moved_is_named_with_the_setting_to_change(place: Place) {
    let moved = Answer {
        headers: "location: https://summaries.example.com/voice/x?token=s3cret\r\n".to_owned(),
        ..said(308, "")
    };
    let ringcx = RingCx::default().with("segments/a", &[ok(WORDS)]).with("a/auto", std::slice::from_ref(&moved));
    let plan = plan().account("artifacts", strings(&["transcript", "auto_summary"])).set("http.listen", "127.0.0.1:0");
    let (mut rig, _server) = ringcx.rig(place, plan).await;
    rig.start();
    const SAID: &str = "redirected to the host summaries.example.com,";
    rig.says(SAID).await;
    let ready = format!("{}readyz", rig.dashboard().await);
    let (status, body) = fetched(&ready).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains(SAID) && body.contains("set api.summary_url"), "{body}");
    rig.run(&["check"]).await.is(1, &[SAID, "set api.summary_url"]);
    assert!(!rig.log().contains("s3cret") && !rig.log().contains("voice/x"), "more than the host is told");
    ringcx.now_says("a/auto", ok("a summary"));
    rig.until("it is over", async || !fetched(&ready).await.1.contains(SAID)).await;
    // Metadata that moves is another setting.
    ringcx.now_says(&format!("{}/interaction-metadata", rig.main_account().sub), moved);
    rig.until("it is another setting", async || fetched(&ready).await.1.contains("set api.ringcx_url")).await;
    rig.stop().await;
}

async fn an_outage_of_those_who_verify_tokens_costs_no_token(place: Place) {
    let outage = said(401, "Jwks remote fetch is failed");
    let ringcx = RingCx::default().with("segments/a", &[vec![outage; 5], vec![ok(WORDS)]].concat());
    let (mut rig, _server) = ringcx.rig(place, plan().set("http.listen", "127.0.0.1:0")).await;
    rig.start();
    until_outcomes(&rig, &[("a", "stored")]).await;
    assert_eq!((ringcx.asked("oauth/token"), ringcx.asked("rc/accesstoken"), ringcx.asked("token/refresh")), (1, 1, 0));
    let log = rig.log();
    assert!(!log.contains("credentials") && log.contains("cannot verify any token just now"), "{log}");
    rig.stop().await;
}

async fn a_credential_that_ends_soon_is_warned_about_everywhere(place: Place) {
    let end = Clock::system().now() + Duration::from_secs(10 * 86_400 + 3600);
    let claims = json!({"sub": "1", "exp": end.0 / 1000}).to_string();
    let jwt = format!("e30.{}.signature", URL_SAFE_NO_PAD.encode(claims));
    let ringcx = RingCx::default().with("segments/a", &[ok(WORDS)]);
    let plan = plan().set("auth.jwt", jwt.clone()).set("http.listen", "127.0.0.1:0");
    let (mut rig, _server) = ringcx.rig(place, plan).await;
    rig.start();
    const SAID: &str = "the login's JWT credential ends at";
    rig.says(SAID).await;
    let dashboard = rig.dashboard().await;
    let (status, body) = fetched(&format!("{dashboard}readyz")).await;
    assert!(status == 200 && body.contains(SAID) && body.contains("auth.jwt"), "{body}");
    let (_, metrics) = fetched(&format!("{dashboard}metrics")).await;
    let left = metrics.lines().find_map(|line| line.strip_prefix("ringcx_jwt_expires_seconds ")).unwrap();
    let left: f64 = left.parse().unwrap();
    assert!((10.0 * 86_400.0..10.05 * 86_400.0).contains(&left), "{left}");
    rig.run(&["check"]).await.is(0, &["note", SAID, "in 10 days", "hint: create a new JWT"]);
    assert!(!rig.log().contains(&jwt));
    rig.stop().await;
}

async fn ringcentral_tokens_are_counted_across_processes(place: Place) {
    let ringcx = RingCx::default().with("segments/a", &[ok(WORDS)]);
    let (rig, _server) = ringcx.rig(place, plan()).await;
    for _ in 0..3 {
        rig.run(&["check"]).await.is(0, &[]);
    }
    assert_eq!(ringcx.asked("oauth/token"), 3);
    let db = match rig.place.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(std::path::Path::new(file), Access::Existing).await.unwrap(),
        None => Db::open_postgres(&SecretString::from(rig.place.url.clone()), Access::Existing, 2).await.unwrap(),
    };
    let row = db.first(sql("select count(*) from reservation where key = 'ringcentral'")).await.unwrap().unwrap();
    assert_eq!(row.int(0).unwrap(), 3);
    db.close().await;
}
