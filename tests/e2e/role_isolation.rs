//! What a role does not show is shown by no route, filter, facet, count, cursor, page, feed and MCP tool, and the access
//! log is the list of what was read.
//!
//! The routes are listed from the API's description and from the sources of the router, and each must be in a table of
//! `requests`, so that a new route cannot be forgotten. The parameters are generated from the description, too.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod requests;

use std::collections::BTreeSet;
use std::time::Duration;

use ringcx_extractor::model::{AccountId, encode_path_segment};
use serde_json::{Value, json};

use crate::api::{ADMIN, Client, LIMITED, MASKED, OTHER_SUB, READER, VOICE, exported, scenario, spoken};
use crate::support::test_env::{TempDatabase, TestEnv};
use requests::{Kind, Known, OWN_SUB, ROUTES, Request, all_requests, is_plain, kind_of, routes_in_sources};

crate::e2e! {
    no_route_shows_what_a_role_does_not_show,
    the_access_log_is_the_list_of_readings,
}

/// The tools, and whether an answer is a reading.
const TOOLS: &[(&str, bool)] = &[
    ("list_accounts", false),
    ("search_conversations", true),
    ("get_conversation", true),
    ("count_conversations", true),
    ("completeness", false),
];

/// Asks everything with a role's key, and returns how many readings were answered. The answers show none of `hidden`
/// that was not in the question.
async fn ask_everything(client: &Client, requests: &[Request], hidden: &[String]) -> usize {
    let mut readings = 0;
    for request in requests {
        let parameters: Vec<(&str, &str)> =
            request.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (status, answer) = client.get_text(&request.path, &parameters, "*/*").await;
        let asked = format!("{} {:?}", request.path, request.parameters);
        for text in hidden.iter().filter(|text| !asked.contains(text.as_str())) {
            let is_open = request.kind == Kind::Open && text.as_str() == OTHER_SUB;
            assert!(is_open || !answer.contains(text.as_str()), "{asked} ({status}) shows {text}: {answer}");
        }
        assert!(status < 500, "{asked}: {status} {answer}");
        readings += match request.kind {
            Kind::Reading => usize::from(status == 200),
            Kind::Feed => usize::from(status == 200 && !answer.starts_with("{\"events\":[]")),
            _ => 0,
        };
        assert!(request.kind != Kind::Open || status < 400 || request.route.starts_with("/auth/"), "{asked}: {status}");
    }
    readings
}

/// Calls each tool with each value of each argument; returns how many readings were answered.
async fn call_every_tool(client: &Client, known: &Known, hidden: &[String]) -> usize {
    let listed = client.call_mcp("tools/list", json!({})).await;
    let start = listed.find('{').unwrap();
    let listed: Value = serde_json::from_str(listed[start..].lines().next().unwrap()).unwrap();
    let mut readings = 0;
    for tool in listed["result"]["tools"].as_array().unwrap() {
        let name = tool["name"].as_str().unwrap();
        let is_reading = TOOLS.iter().find(|(known, _)| *known == name);
        let (_, is_reading) = is_reading.unwrap_or_else(|| panic!("{name} is new: add it to TOOLS here"));
        let schema = &tool["inputSchema"];
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let base = |arguments: &mut serde_json::Map<String, Value>| {
            for name in &required {
                arguments.entry((*name).to_owned()).or_insert_with(|| json!(known.values(name)[0]));
            }
        };
        let mut calls = vec![serde_json::Map::new()];
        for (argument, kind) in schema["properties"].as_object().unwrap() {
            // Numbers bound the answer only.
            if !kind.to_string().contains("string") {
                continue;
            }
            for value in known.values(argument) {
                calls.push(serde_json::Map::from_iter([(argument.clone(), json!(value))]));
            }
        }
        for mut arguments in calls {
            base(&mut arguments);
            let asked = format!("{name} {arguments:?}");
            let answer = client.call_tool(name, Value::Object(arguments)).await;
            for text in hidden.iter().filter(|text| !asked.contains(text.as_str())) {
                assert!(!answer.contains(text.as_str()), "{asked} shows {text}: {answer}");
            }
            let is_answered = !answer.contains("\"isError\":true");
            readings += usize::from(*is_reading && is_answered);
        }
    }
    readings
}

/// The entries of a key, without those of the test's own commands.
async fn entries_of(env: &TestEnv, who: &str) -> Vec<Value> {
    let text = env.run_ok(&["access", "log", "--json", "--who", who]).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn no_route_shows_what_a_role_does_not_show(database: TempDatabase) {
    let mut env = TestEnv::new(database, scenario()).await;
    let [account, foreign]: [AccountId; 2] = env.scenario.sim.accounts.clone().try_into().unwrap();
    let end = env.begin - Duration::from_secs(10);
    env.sim.add_segment(spoken(&account, end, "where is the shipment with the marigold"));
    env.sim.add_segment(spoken(&foreign, end, "where is the shipment with the periwinkle of zanzibar"));
    env.start();
    env.wait_until_complete().await;
    let base = env.dashboard_url().await;
    env.wait_until("everything is indexed", async || {
        env.run_json(&["status", "--json"]).await["search_index"]["lag_changes"] == 0
    })
    .await;
    let admin = Client::new(&base, ADMIN);

    // No route is missing from the tables.
    let unknown: Vec<String> =
        routes_in_sources().into_iter().filter(|route| kind_of(ROUTES, route).is_none()).collect();
    assert!(unknown.is_empty(), "these routes are new: add them to ROUTES: {unknown:?}");
    let openapi = admin.get("/api/openapi.json", &[]).await;

    let cursor = async |path: &str, parameters: &[(&str, &str)]| {
        let page = admin.get(path, &[parameters, &[("limit", "1")]].concat()).await;
        page["next"].as_str().unwrap().to_owned()
    };
    let known = Known {
        own: exported(&env, OWN_SUB).await,
        other: exported(&env, OTHER_SUB).await,
        cursors: vec![
            cursor("/api/v1/segments", &[]).await,
            cursor("/api/v1/search", &[("q", "shipment")]).await,
            cursor("/api/v1/feed", &[]).await,
            admin.get("/conversations.json", &[]).await["next"].as_str().unwrap().to_owned(),
        ],
    };
    let everything = admin.pages("/api/v1/segments", &[("limit", "500")], "items").await;
    let requests = all_requests(&openapi, &known);
    assert!(requests.len() > 200, "too few to show anything: {}", requests.len());

    // A role that shows one of two accounts.
    let mut foreign_texts: Vec<String> = vec![OTHER_SUB.to_owned(), "periwinkle".to_owned(), "zanzibar".to_owned()];
    foreign_texts.extend(known.other.segments.difference(&known.own.segments).filter(|id| is_plain(id)).cloned());
    foreign_texts.extend(known.other.dialogs.difference(&known.own.dialogs).filter(|id| is_plain(id)).cloned());
    let limited = Client::new(&base, LIMITED);
    let mut readings = ask_everything(&limited, &requests, &foreign_texts).await;
    readings += call_every_tool(&limited, &known, &foreign_texts).await;
    assert_eq!(entries_of(&env, "limited").await.len(), readings, "each reading is one entry, and nothing else is one");

    // The figures know accounts and channels, and few filters: the next roles ask each of them once.
    let requests: Vec<Request> =
        requests.into_iter().filter(|request| request.kind != Kind::Figures || request.parameters.is_empty()).collect();

    // A role that shows one channel of all accounts.
    let names_voice = |segment: &Value| {
        let channel = |name: &str| segment["metadata"][name].as_str().unwrap_or_default().eq_ignore_ascii_case("voice");
        channel("channelClass") || channel("channelType")
    };
    let ids = |segment: &Value| {
        [&segment["segment_id"], &segment["dialog_id"]].map(|id| id.as_str().unwrap_or_default().to_owned())
    };
    let shown: BTreeSet<String> = everything.iter().filter(|segment| names_voice(segment)).flat_map(ids).collect();
    let silent: Vec<String> = everything
        .iter()
        .filter(|segment| !names_voice(segment))
        .flat_map(ids)
        .filter(|id| is_plain(id) && !shown.contains(id))
        .collect();
    assert!(!silent.is_empty(), "the archive has no other channel");
    let voice = Client::new(&base, VOICE);
    let readings = ask_everything(&voice, &requests, &silent).await + call_every_tool(&voice, &known, &silent).await;
    assert_eq!(entries_of(&env, "voice").await.len(), readings);

    // A role that sees everything but a word.
    let masked = Client::new(&base, MASKED);
    let word = ["marigold".to_owned()];
    let readings = ask_everything(&masked, &requests, &word).await + call_every_tool(&masked, &known, &word).await;
    assert_eq!(entries_of(&env, "masked").await.len(), readings);

    // Nobody without a key gets more than the open routes.
    let stranger = Client::new(&base, "wrong");
    let paths = requests.iter().filter(|request| request.kind != Kind::Open).map(|request| request.path.as_str());
    for path in paths.collect::<BTreeSet<&str>>() {
        let (status, answer) = stranger.get_text(path, &[], "*/*").await;
        // After some wrong keys none is checked for a while.
        assert!([401, 404, 429].contains(&status), "{path}: {status}");
        let shows_account = answer.contains(OWN_SUB) && !path.contains(OWN_SUB);
        assert!(!answer.contains("shipment") && !shows_account, "{path}: {answer}");
    }
    env.stop().await;
}

async fn the_access_log_is_the_list_of_readings(database: TempDatabase) {
    let mut env = TestEnv::new(database, scenario()).await;
    let [account, _]: [AccountId; 2] = env.scenario.sim.accounts.clone().try_into().unwrap();
    let end = env.begin - Duration::from_secs(10);
    env.sim.add_segment(spoken(&account, end, "where is the shipment"));
    env.start();
    env.wait_until_complete().await;
    let base = env.dashboard_url().await;
    env.wait_until("everything is indexed", async || {
        env.run_json(&["status", "--json"]).await["search_index"]["lag_changes"] == 0
    })
    .await;
    let reader = Client::new(&base, READER);
    let own = exported(&env, OWN_SUB).await;
    let found = Client::new(&base, ADMIN).get("/api/v1/search", &[("q", "shipment"), ("limit", "1")]).await;
    let hit = &found["hits"][0];
    let (segment, sub) = (hit["segment_id"].as_str().unwrap(), hit["sub_account_id"].as_str().unwrap());
    let dialog = own.dialogs.iter().find(|id| is_plain(id)).unwrap();
    let dialog_path = format!("/dialogs/{}", encode_path_segment(dialog));
    let transcript = format!("/api/v1/segments/{}/transcript", encode_path_segment(segment));
    let of_segment = [("account", sub), ("segment", segment)];
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Option<(&'a str, &'a str, &'a str)>);
    let cases: [Case<'_>; 13] = [
        ("/conversations", &[], Some(("list", "query", ""))),
        ("/conversations.json", &[("channel", "VOICE")], Some(("list", "query", "channel=VOICE"))),
        (
            "/conversations",
            &[("q", "shipment"), ("direction", "INBOUND")],
            Some(("search", "query", "shipment direction=INBOUND")),
        ),
        ("/conversations", &[("q", "ref*nd")], None),
        ("/conversation", &of_segment, Some(("read", "segment", segment))),
        ("/conversation.json", &of_segment, Some(("read", "segment", segment))),
        ("/conversation", &[("account", "nobody"), ("segment", segment)], None),
        (&dialog_path, &[], Some(("read", "dialog", dialog))),
        (&transcript, &[("format", "srt")], Some(("read", "segment", segment))),
        ("/queue", &[], None),
        ("/delivery", &[], None),
        ("/completeness", &[], None),
        ("/api/v1/search", &[("q", "shipment")], Some(("search", "query", "shipment"))),
    ];
    for (path, parameters, entry) in &cases {
        let (status, answer) = reader.get_text(path, parameters, "*/*").await;
        let is_figure = ["/queue", "/delivery", "/completeness"].contains(path);
        assert_eq!(status == 200, entry.is_some() || is_figure, "{path} {parameters:?}: {status} {answer}");
    }
    let logged: Vec<(String, String, String)> = entries_of(&env, "reader")
        .await
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            (text("action"), text("subject_kind"), text("subject"))
        })
        .collect();
    let expected: Vec<(String, String, String)> = cases
        .iter()
        .filter_map(|(.., entry)| *entry)
        .map(|(action, kind, subject)| (action.to_owned(), kind.to_owned(), subject.to_owned()))
        .collect();
    assert_eq!(logged, expected);
    env.stop().await;
}
