//! The HTTP API and MCP, through the real binary: what a role must not see, it does not see by any way in.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support;

use ringcx_extractor::clock::Time;
use ringcx_extractor::model::{AccountId, encode_path_segment};
use ringcx_extractor::sim::{ArtifactScript, SegmentScript};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    a_role_sees_nothing_of_other_accounts_by_any_way_in,
    a_repeated_action_changes_nothing_and_gets_the_same_answer,
}

pub(crate) const ADMIN: &str = "admin-key-that-nobody-guesses";
pub(crate) const LIMITED: &str = "limited-key-that-nobody-guesses";
pub(crate) const READER: &str = "reader-key-that-nobody-guesses";
pub(crate) const VOICE: &str = "voice-key-that-nobody-guesses";
pub(crate) const MASKED: &str = "masked-key-that-nobody-guesses";
pub(crate) const OTHER_SUB: &str = "31630002";

fn key_hash(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn table(fields: &[(&str, toml::Value)]) -> toml::Value {
    toml::Value::Table(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn strings(texts: &[&str]) -> toml::Value {
    texts.iter().copied().map(toml::Value::from).collect::<Vec<_>>().into()
}

/// Two accounts, and a key for each role.
pub(crate) fn scenario() -> Scenario {
    let ids = [AccountId::new("980634004", "99999999"), AccountId::new("980634004", OTHER_SUB)];
    let account = |id: &AccountId| {
        table(&[("rc_account_id", id.rc.to_string().into()), ("sub_account_id", id.sub.to_string().into())])
    };
    let role = |name: &str, may: &[&str], accounts: &[&str]| {
        table(&[("name", name.into()), ("may", strings(may)), ("accounts", strings(accounts))])
    };
    let key = |name: &str, secret: &str| {
        table(&[("name", name.into()), ("key_hash", key_hash(secret).into()), ("role", name.into())])
    };
    let all = ["read", "operate", "erase", "log"];
    let voice = table(&[("name", "voice".into()), ("may", strings(&["read"])), ("channels", strings(&["VOICE"]))]);
    let flower = table(&[("name", "flower".into()), ("pattern", "marigold".into())]);
    let masked =
        table(&[("name", "masked".into()), ("may", strings(&["read"])), ("redact", toml::Value::Array(vec![flower]))]);
    Scenario::history()
        .configure_sim(|sim| sim.accounts = ids.to_vec())
        .set("accounts", ids.iter().map(account).collect::<Vec<_>>())
        .set("http.listen", "127.0.0.1:0")
        .set(
            "access.roles",
            vec![
                role("admin", &all, &[]),
                role("limited", &all, &["99999999"]),
                role("reader", &["read"], &[]),
                voice,
                masked,
            ],
        )
        .set(
            "access.keys",
            vec![
                key("admin", ADMIN),
                key("limited", LIMITED),
                key("reader", READER),
                key("voice", VOICE),
                key("masked", MASKED),
            ],
        )
}

/// A client with one key.
pub(crate) struct Client {
    base: String,
    key: &'static str,
    http: reqwest::Client,
}

impl Client {
    pub(crate) fn new(base: &str, key: &'static str) -> Client {
        ringcx_extractor::ringcx::install_tls();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Client { base: base.trim_end_matches('/').to_owned(), key, http }
    }

    /// A path of the API with parameters, encoded.
    pub(crate) fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        parameters: &[(&str, &str)],
    ) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.key);
        if parameters.is_empty() { request } else { request.query(parameters) }
    }

    pub(crate) async fn get_text(&self, path: &str, parameters: &[(&str, &str)], accept: &str) -> (u16, String) {
        let request = self.request(reqwest::Method::GET, path, parameters).header("accept", accept);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub(crate) async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let (status, text) = self.get_text(path, parameters, "application/json").await;
        assert_eq!(status, 200, "{path} {parameters:?}: {text}");
        // Metadata is as the API sent it, with numbers that fit no float.
        ringcx_extractor::lenient_json::parse_value(&text).unwrap_or_else(|| panic!("{path}: {text}"))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value, idempotency_key: Option<&str>) -> (u16, Value) {
        let mut request = self.request(reqwest::Method::POST, path, &[]).json(body);
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }

    /// All items of a list, page by page.
    pub(crate) async fn pages(&self, path: &str, parameters: &[(&str, &str)], list: &str) -> Vec<Value> {
        let (mut items, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
        loop {
            let mut asked = parameters.to_vec();
            if let Some(cursor) = cursor.as_deref() {
                asked.push(("cursor", cursor));
            }
            let page = self.get(path, &asked).await;
            items.extend(page[list].as_array().unwrap().iter().cloned());
            cursor = page["next"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return items;
            }
        }
    }

    /// The answer of a tool over MCP, as text.
    pub(crate) async fn call_tool(&self, name: &str, arguments: Value) -> String {
        self.call_mcp("tools/call", json!({ "name": name, "arguments": arguments })).await
    }

    /// The answer of a method over MCP, as text.
    pub(crate) async fn call_mcp(&self, method: &str, parameters: Value) -> String {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": &parameters });
        let request = self.request(reqwest::Method::POST, "/mcp", &[]).json(&body);
        let request = request.header("accept", "application/json, text/event-stream");
        let response = request.header("mcp-protocol-version", "2025-06-18").send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{method} {parameters}: {status} {text}");
        text
    }
}

/// The words of a text that are long enough to search for.
fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words
        .filter(|word| word.len() >= 5 && word.chars().all(|letter| letter.is_ascii_alphabetic()))
        .map(str::to_lowercase)
        .collect()
}

/// The words and ids of one account's export.
pub(crate) struct AccountContent {
    pub(crate) segments: BTreeSet<String>,
    pub(crate) dialogs: BTreeSet<String>,
    words: BTreeSet<String>,
}

pub(crate) async fn exported(env: &TestEnv, sub: &str) -> AccountContent {
    let text = env.run_ok(&["export", "--account", sub]).await;
    let mut content = AccountContent { segments: BTreeSet::new(), dialogs: BTreeSet::new(), words: BTreeSet::new() };
    for line in text.lines() {
        let value: Value = ringcx_extractor::lenient_json::from_slice(line.as_bytes()).unwrap();
        content.segments.insert(value["segment_id"].as_str().unwrap().to_owned());
        content.dialogs.extend(value["dialog_id"].as_str().map(str::to_owned));
        for phrase in value["transcript"]["body"]["transcript"].as_array().into_iter().flatten() {
            content.words.extend(words(phrase["message"].as_str().unwrap_or_default()));
        }
        for summary in ["agent_summary", "auto_summary"] {
            content.words.extend(words(value[summary]["text"].as_str().unwrap_or_default()));
        }
    }
    content
}

/// What must be in no answer: ids of the other account, as they are and encoded.
fn assert_hides(answer: &str, hidden: &[String], asked: &str) {
    for text in hidden {
        assert!(!answer.contains(text.as_str()), "{asked} shows {text}: {answer}");
    }
}

/// A segment of an account in which this is said.
pub(crate) fn spoken(account: &AccountId, end: Time, text: &str) -> SegmentScript {
    let phrase = json!({ "participantType": "contact", "timestamp": "1721651880000", "message": text });
    let body = json!({ "channelClass": "VOICE", "transcript": [phrase] }).to_string();
    SegmentScript { transcript: ArtifactScript::Body(end, body.into()), ..SegmentScript::new(account, end) }
}

async fn a_role_sees_nothing_of_other_accounts_by_any_way_in(database: TempDatabase) {
    let mut env = TestEnv::new(database, scenario()).await;
    let [account, foreign_account]: [AccountId; 2] = env.scenario.sim.accounts.clone().try_into().unwrap();
    let end = env.begin - Duration::from_secs(10);
    env.sim.add_segment(spoken(&account, end, "where is the shipment with the marigold"));
    env.sim.add_segment(spoken(&foreign_account, end, "where is the shipment with the periwinkle of zanzibar"));
    env.start();
    env.wait_until_complete().await;
    let base = env.dashboard_url().await;
    let (own, other) = (exported(&env, "99999999").await, exported(&env, OTHER_SUB).await);
    let (admin, limited) = (Client::new(&base, ADMIN), Client::new(&base, LIMITED));
    env.wait_until("everything is indexed", async || {
        env.run_json(&["status", "--json"]).await["search_index"]["lag_changes"] == 0
    })
    .await;

    // Words that only the other account has, and one that both have. Of texts that the simulator makes, a test cannot tell what the
    // index takes for a word: style sheets, accents.
    let foreign = ["periwinkle", "zanzibar"];
    let common = "shipment";
    let is_foreign = |word: &str| other.words.contains(word) && !own.words.contains(word);
    assert!(foreign.into_iter().all(is_foreign) && own.words.contains(common), "the searches would show nothing");
    let mut hidden: Vec<String> = other.segments.difference(&own.segments).cloned().collect();
    hidden.extend(other.dialogs.difference(&own.dialogs).cloned());
    hidden.push(OTHER_SUB.to_owned());

    // Both see what they may: otherwise the test would show nothing.
    let ids = |items: &[Value]| -> BTreeSet<String> {
        items.iter().map(|item| item["segment_id"].as_str().unwrap().to_owned()).collect()
    };
    let everything = admin.pages("/api/v1/segments", &[("limit", "7")], "items").await;
    assert_eq!(everything.len(), own.segments.len() + other.segments.len());
    let visible = limited.pages("/api/v1/segments", &[("limit", "7")], "items").await;
    assert_eq!(ids(&visible), own.segments);
    assert_eq!(admin.get("/api/v1/accounts", &[]).await["items"].as_array().unwrap().len(), 2);

    let filters: [&[(&str, &str)]; 9] = [
        &[],
        &[("from", "7d")],
        &[("has", "transcript,agent_summary")],
        &[("channel", "VOICE")],
        &[("direction", "INBOUND")],
        &[("changed_since", "1d")],
        &[("expand", "transcript,agent_summary,auto_summary")],
        &[("account", "99999999")],
        &[("to", "now")],
    ];
    for filter in filters {
        let found = limited.pages("/api/v1/segments", &[filter, &[("limit", "9")]].concat(), "items").await;
        assert!(ids(&found).is_subset(&own.segments), "{filter:?}");
        assert_hides(&json!(found).to_string(), &hidden, &format!("segments {filter:?}"));
        let (status, lines) = limited.get_text("/api/v1/segments", filter, "application/jsonl").await;
        assert_eq!((status, lines.lines().count()), (200, found.len()), "{filter:?}");
        assert_hides(&lines, &hidden, &format!("lines {filter:?}"));
    }

    // Searches: no hit, no count, no facet.
    let facets = ("facets", "day,account,agent,channel,direction,disposition");
    for word in foreign {
        assert_ne!(admin.get("/api/v1/search", &[("q", word)]).await["total"], 0, "{word}");
        for sort in ["best", "newest"] {
            let answer = limited.get("/api/v1/search", &[("q", word), ("sort", sort), facets]).await;
            assert_eq!((&answer["total"], &answer["hits"], &answer["next"]), (&json!(0), &json!([]), &Value::Null));
            assert!(answer["facets"].as_object().unwrap().values().all(|values| *values == json!([])), "{answer}");
        }
        let (status, lines) = limited.get_text("/api/v1/search", &[("q", word)], "application/jsonl").await;
        assert_eq!((status, lines.as_str()), (200, ""));
        let found = limited.call_tool("search_conversations", json!({ "query": word })).await;
        assert!(found.contains("\\\"total\\\":0"), "{found}");
    }
    let own_hits = admin.get("/api/v1/search", &[("q", common), ("account", "99999999"), facets]).await;
    let hits = limited.get("/api/v1/search", &[("q", common), facets]).await;
    assert_ne!(own_hits["total"], 0);
    assert_eq!((&hits["total"], &hits["facets"]), (&own_hits["total"], &own_hits["facets"]));
    for sort in ["best", "newest"] {
        let all = limited.pages("/api/v1/search", &[("q", common), ("sort", sort), ("limit", "3")], "hits").await;
        assert_eq!(json!(all.len()), hits["total"]);
        assert_hides(&json!(all).to_string(), &hidden, &format!("search by {sort}"));
    }

    // A cursor of another role or another question continues nothing of it.
    let cursor_of = |page: &Value| page["next"].as_str().unwrap().to_owned();
    let foreign_cursor = cursor_of(&admin.get("/api/v1/segments", &[("limit", "1")]).await);
    let (_, page) = limited.get_text("/api/v1/segments", &[("cursor", &foreign_cursor)], "*/*").await;
    assert_hides(&page, &hidden, "a foreign cursor");
    for cursor in [foreign_cursor.as_str(), "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let (status, problem) =
            limited.get_text("/api/v1/segments", &[("from", "9d"), ("cursor", cursor)], "*/*").await;
        assert_eq!(status, 400, "{problem}");
    }

    // An id that was guessed is an id that does not exist.
    let (segment, dialog) = (&hidden[0], other.dialogs.difference(&own.dialogs).next());
    let encoded = encode_path_segment(segment);
    let mut guesses = vec![
        format!("/api/v1/segments/{encoded}"),
        format!("/api/v1/segments/{encoded}/transcript"),
        format!("/api/v1/accounts/{OTHER_SUB}"),
        "/api/v1/segments/no-such-id".to_owned(),
    ];
    guesses.extend(dialog.map(|dialog| format!("/api/v1/dialogs/{}", encode_path_segment(dialog))));
    for path in &guesses {
        let (status, problem) = limited.get_text(path, &[], "*/*").await;
        assert_eq!(status, 404, "{path}: {problem}");
        assert_hides(&problem, &hidden, path);
    }
    for path in ["/api/v1/segments", "/api/v1/feed", "/api/v1/coverage", "/api/v1/audit"] {
        let (status, problem) = limited.get_text(path, &[("account", OTHER_SUB)], "*/*").await;
        assert_eq!(status, 404, "{path}: {problem}");
    }
    for (path, body) in [
        ("/api/v1/backfills", json!({ "from": "2h", "to": "1h", "account": OTHER_SUB })),
        ("/api/v1/erasures", json!({ "segment": segment, "account": OTHER_SUB })),
        ("/api/v1/erasures", json!({ "segment": segment })),
        ("/api/v1/holds", json!({ "segment": segment, "account": OTHER_SUB })),
        (format!("/api/v1/queue/{encoded}/retry").as_str(), json!({})),
    ] {
        let (status, problem) = limited.post(path, &body, None).await;
        assert_eq!(status, 404, "{path}: {problem}");
    }
    assert_eq!(admin.get(&guesses[0], &[]).await["segment_id"], json!(segment));

    // The feed, figures, and every tool.
    let (mut after, mut events) = ("0".to_owned(), Vec::new());
    loop {
        let page = limited.get("/api/v1/feed", &[("after", &after), ("limit", "10")]).await;
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        after = page["next"].as_str().unwrap().to_owned();
        if page["has_more"] == false {
            break;
        }
    }
    let subjects: BTreeSet<String> = events.iter().map(|event| event["subject"].as_str().unwrap().to_owned()).collect();
    assert!(!subjects.is_empty() && subjects.is_subset(&own.segments));
    assert_hides(&json!(events).to_string(), &hidden, "the feed");
    for path in ["/api/v1/accounts", "/api/v1/status", "/api/v1/coverage", "/api/v1/audit"] {
        assert_hides(&limited.get(path, &[]).await.to_string(), &hidden, path);
    }
    let counted = limited.call_tool("count_conversations", json!({ "by": "account" })).await;
    assert!(counted.contains(&format!("\\\"total\\\":{}", own.segments.len())), "{counted}");
    for (tool, arguments) in [
        ("list_accounts", json!({})),
        ("search_conversations", json!({ "query": common, "limit": 50, "max_tokens": 50_000 })),
        ("count_conversations", json!({ "by": "day" })),
        ("count_conversations", json!({ "by": "agent", "account": OTHER_SUB })),
        ("get_conversation", json!({ "segment_id": own.segments.first() })),
        ("completeness", json!({})),
    ] {
        let answer = limited.call_tool(tool, arguments.clone()).await;
        let asked = arguments.to_string();
        let hidden: Vec<String> = hidden.iter().filter(|text| !asked.contains(text.as_str())).cloned().collect();
        assert_hides(&answer, &hidden, tool);
    }
    let guessed = limited.call_tool("get_conversation", json!({ "segment_id": segment })).await;
    assert!(guessed.contains("\"isError\":true") && guessed.contains("there is no such segment"), "{guessed}");

    // What is redacted is not found by what is excluded, either.
    let masked = Client::new(&base, MASKED);
    let total = async |client: &Client, q: &str| client.get("/api/v1/search", &[("q", q)]).await["total"].clone();
    let (all, everything) = (total(&masked, common).await, total(&admin, common).await);
    assert_ne!(all, 0);
    assert_eq!(total(&masked, "marigold").await, 0);
    assert_eq!(total(&masked, "shipment -marigold").await, all);
    assert_ne!(total(&masked, "shipment -zanzibar").await, all);
    assert_ne!(total(&admin, "shipment -marigold").await, everything);

    // A role that shows one channel counts nothing over all channels.
    let voice = Client::new(&base, VOICE);
    let (status, problem) = voice.get_text("/api/v1/audit", &[], "*/*").await;
    assert!(status == 403 && problem.contains("/coverage"), "{problem}");
    let completeness = voice.call_tool("completeness", json!({})).await;
    assert!(completeness.contains("\"isError\":true") && completeness.contains("/coverage"), "{completeness}");
    assert_eq!(voice.get("/api/v1/coverage", &[]).await["accounts"].as_array().unwrap().len(), 2);
    let status = voice.get("/api/v1/status", &[]).await;
    assert_eq!((&status["sinks"], &status["search_index"]), (&json!([]), &Value::Null), "{status}");
    assert_eq!((&status["accounts"][0]["work"], &status["accounts"][0]["set_aside"]), (&Value::Null, &Value::Null));
    assert!(voice.get("/api/v1/accounts", &[]).await["items"][0]["status"]["work"].is_null());
    assert!(limited.get("/api/v1/accounts", &[]).await["items"][0]["status"]["work"].is_object());

    // Without a key nothing is read at all.
    let stranger = Client::new(&base, "wrong");
    for path in ["/api/v1/accounts", "/api/v1/segments", "/api/v1/no-such-path"] {
        assert_eq!(stranger.get_text(path, &[], "*/*").await.0, 401, "{path}");
    }
    env.stop().await;
}

async fn a_repeated_action_changes_nothing_and_gets_the_same_answer(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, scenario()).await;
    env.wait_until_complete().await;
    let base = env.dashboard_url().await;
    let (admin, reader) = (Client::new(&base, ADMIN), Client::new(&base, READER));
    let segments = admin.pages("/api/v1/segments", &[], "items").await;
    let segment = segments[0]["segment_id"].as_str().unwrap();

    let followed = admin.get("/api/v1/feed", &[("after", "newest")]).await["next"].as_str().unwrap().to_owned();
    let hold = json!({ "segment": segment, "reason": "case 7" });
    let (status, placed) = admin.post("/api/v1/holds", &hold, Some("hold-1")).await;
    assert_eq!(status, 201, "{placed}");
    assert_eq!(admin.post("/api/v1/holds", &hold, Some("hold-1")).await, (201, placed.clone()));
    assert_eq!(env.run_ok(&["hold", "--list", "--json"]).await.lines().count(), 1);
    let other = json!({ "segment": "another" });
    assert_eq!(admin.post("/api/v1/holds", &other, Some("hold-1")).await.0, 422, "one key is for one request");
    assert_eq!(reader.post("/api/v1/holds", &hold, None).await.0, 403, "the role may only read");
    for option in ["dry_run", "include_alike", "include_unreadable"] {
        let (status, problem) = admin.post("/api/v1/holds", &json!({ "segment": segment, option: true }), None).await;
        assert_eq!(status, 400, "{option}: {problem}");
    }

    let erasure = json!({ "segment": segment });
    assert_eq!(admin.post("/api/v1/erasures", &erasure, None).await.0, 409, "it is on hold");
    let release = admin.request(reqwest::Method::DELETE, &format!("/api/v1/holds/{}", placed["id"]), &[]);
    assert_eq!(release.send().await.unwrap().status().as_u16(), 200);
    let (status, erased) = admin.post("/api/v1/erasures", &erasure, Some("erasure-1")).await;
    assert_eq!((status, &erased["segments"]), (200, &json!(1)), "{erased}");
    assert_eq!(admin.post("/api/v1/erasures", &erasure, Some("erasure-1")).await, (200, erased));
    let path = format!("/api/v1/segments/{}", encode_path_segment(segment));
    let (status, problem) = admin.get_text(&path, &[], "*/*").await;
    assert!(status == 404 && problem.contains("was erased on request"), "{problem}");

    // The access log tells who asked about it, also in vain; its pages end although each is an entry.
    let about = admin.pages("/api/v1/access-log", &[("segment", segment), ("limit", "1")], "items").await;
    let actions: Vec<&str> = about.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["hold", "count", "count", "erase"], "{about:?}");
    let entries = admin.pages("/api/v1/access-log", &[("who", "Admin"), ("limit", "3")], "items").await;
    let printed = env.run_ok(&["access", "log", "--json", "--who", "admin"]).await;
    let printed: Vec<Value> = printed.lines().filter_map(ringcx_extractor::lenient_json::parse_value).collect();
    assert_eq!(entries, printed[..entries.len()], "as the command prints them");
    assert_eq!(entries.last().unwrap()["action"], "read_log");
    for key in [LIMITED, READER] {
        assert_eq!(Client::new(&base, key).get_text("/api/v1/access-log", &[], "*/*").await.0, 403, "{key}");
    }

    let told = admin.get("/api/v1/feed", &[("after", &followed), ("wait", "10s")]).await;
    let event = &told["events"][0];
    assert_eq!((&event["type"], &event["subject"]), (&json!("com.ringcx.segment.erased"), &json!(segment)), "{told}");

    let range = json!({ "from": "2h", "to": "1h", "account": OTHER_SUB });
    let (status, queued) = admin.post("/api/v1/backfills", &range, Some("backfill-1")).await;
    assert_eq!(status, 202, "{queued}");
    assert_eq!(admin.post("/api/v1/backfills", &range, Some("backfill-1")).await.1, queued);
    assert_eq!(admin.post("/api/v1/deliveries/no-such-sink/retry", &json!({}), None).await.0, 404);
    assert_eq!(admin.post("/api/v1/queue/no-such-item/discard", &json!({}), None).await.0, 404);

    // Answers that the client has already, formats, and problems.
    let is_stored = |item: &&Value| item["transcript"]["outcome"] == "stored" && item["segment_id"] != segment;
    let stored = segments.iter().find(is_stored).unwrap()["segment_id"].as_str().unwrap();
    let path = format!("/api/v1/segments/{}", encode_path_segment(stored));
    let first = admin.request(reqwest::Method::GET, &path, &[]).send().await.unwrap();
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert!(first.headers().contains_key("ratelimit") && first.headers().contains_key("ratelimit-policy"));
    let again = admin.request(reqwest::Method::GET, &path, &[]).header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(again.status().as_u16(), 304);
    for (accept, begins) in
        [("text/vtt", "WEBVTT"), ("application/x-subrip", "1\n"), ("application/json", "{"), ("text/plain", "")]
    {
        let (status, text) = admin.get_text(&format!("{path}/transcript"), &[], accept).await;
        assert!(status == 200 && text.starts_with(begins), "{accept}: {text}");
    }
    for (path, parameters, expected) in [
        (format!("{path}/transcript"), vec![], 406),
        ("/api/v1/segments".to_owned(), vec![("chanel", "VOICE")], 400),
        ("/api/v1/segments".to_owned(), vec![("limit", "0")], 400),
        ("/api/v1/accounts".to_owned(), vec![("limit", "1")], 400),
        ("/api/v1/accounts/99999999".to_owned(), vec![("expand", "x")], 400),
        ("/api/v1/dialogs/x".to_owned(), vec![("account", "99999999")], 400),
        ("/api/v1/status".to_owned(), vec![("account", "99999999")], 400),
        ("/api/v1/access-log".to_owned(), vec![("reader", "admin")], 400),
        ("/api/v1/search".to_owned(), vec![("q", "(")], 400),
        ("/api/v1/nothing".to_owned(), vec![], 404),
    ] {
        let accept = if expected == 406 { "image/png" } else { "*/*" };
        let (status, text) = admin.get_text(&path, &parameters, accept).await;
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &problem["status"]), (expected, &json!(expected)), "{path}: {text}");
    }
    for (path, parameters) in
        [("/api/v1/erasures", [("dry_run", "true")]), ("/api/v1/queue/no-such-item/retry", [("reason", "x")])]
    {
        let misplaced = admin.request(reqwest::Method::POST, path, &parameters).json(&erasure).send().await.unwrap();
        assert_eq!(misplaced.status().as_u16(), 400, "{path}");
    }
    let (status, lines) = admin.get_text("/api/v1/segments", &[("limit", "2")], "application/jsonl").await;
    assert_eq!((status, lines.lines().count()), (200, 2));
    let wrong = admin.request(reqwest::Method::PUT, "/api/v1/segments", &[]).send().await.unwrap();
    let content_type = wrong.headers()["content-type"].to_str().unwrap();
    assert_eq!((wrong.status().as_u16(), content_type), (405, "application/problem+json"));

    // A waiting request is answered as soon as something is stored.
    let newest = admin.get("/api/v1/feed", &[("after", "newest")]).await;
    let next = newest["next"].as_str().unwrap();
    let parameters = [("after", next), ("wait", "50ms")];
    let waited = admin.get("/api/v1/feed", &parameters).await;
    assert_eq!(waited["events"], json!([]));
    env.stop().await;
}
