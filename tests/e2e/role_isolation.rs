//! What a role does not show is shown by no route, filter, facet, count, cursor, page, feed and MCP tool, and the access
//! log is the list of what was read.
//!
//! The routes are listed from the API's description and from the sources of the router, and each must be in a table here,
//! so that a new route cannot be forgotten. The parameters are generated from the description, too.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ringcx_extractor::model::{AccountId, encode_path_segment};
use serde_json::{Value, json};

use crate::api::{
    ADMIN, AccountContent, Client, LIMITED, MASKED, OTHER_SUB, READER, VOICE, exported, scenario, spoken,
};
use crate::support::test_env::{TempDatabase, TestEnv};

crate::e2e! {
    no_route_shows_what_a_role_does_not_show,
    the_access_log_is_the_list_of_readings,
}

const OWN_SUB: &str = "99999999";

/// What a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same for everyone who reaches the server, with account names and figures.
    Open,
    /// Figures and states of what the role shows, without an entry in the access log.
    Figures,
    /// Conversations: each answer is one entry.
    Reading,
    /// Conversations if there is something new.
    Feed,
    /// It only changes something; tried without a session here, and in tests of its own.
    Action,
    /// Asked in another way below.
    Other,
}

/// The routes outside of `/api/v1`, as the sources write them.
const ROUTES: &[(&str, Kind)] = &[
    ("/healthz", Kind::Open),
    ("/readyz", Kind::Open),
    ("/metrics", Kind::Open),
    ("/api", Kind::Open),
    ("/api/openapi.json", Kind::Open),
    ("/assets/{version}/{name}", Kind::Open),
    ("/login", Kind::Open),
    ("/auth/login", Kind::Open),
    ("/auth/callback", Kind::Open),
    ("/logout", Kind::Action),
    ("/events", Kind::Other),
    ("/mcp", Kind::Other),
    ("/api/v1/{*path}", Kind::Other),
    ("/", Kind::Figures),
    ("/overview.json", Kind::Figures),
    ("/api/status", Kind::Figures),
    ("/accounts/{sub}", Kind::Figures),
    ("/system", Kind::Figures),
    ("/system.json", Kind::Figures),
    ("/system/access-log", Kind::Reading),
    ("/system/access-log.json", Kind::Reading),
    ("/search", Kind::Reading),
    ("/conversations", Kind::Reading),
    ("/conversations.json", Kind::Reading),
    ("/conversation", Kind::Reading),
    ("/conversation.json", Kind::Reading),
    ("/dialogs/{id}", Kind::Reading),
    ("/queue", Kind::Figures),
    ("/queue.json", Kind::Figures),
    ("/delivery", Kind::Figures),
    ("/delivery.json", Kind::Figures),
    ("/completeness", Kind::Figures),
    ("/completeness.json", Kind::Figures),
    ("/completeness/report/{file}", Kind::Figures),
];

/// The operations of the API that read.
const OPERATIONS: &[(&str, Kind)] = &[
    ("/api/v1/accounts", Kind::Figures),
    ("/api/v1/accounts/{sub}", Kind::Figures),
    ("/api/v1/segments", Kind::Reading),
    ("/api/v1/segments/{id}", Kind::Reading),
    ("/api/v1/segments/{id}/transcript", Kind::Reading),
    ("/api/v1/segments/{id}/recording", Kind::Reading),
    ("/api/v1/dialogs/{id}", Kind::Reading),
    ("/api/v1/search", Kind::Reading),
    ("/api/v1/feed", Kind::Feed),
    ("/api/v1/coverage", Kind::Figures),
    ("/api/v1/audit", Kind::Figures),
    ("/api/v1/status", Kind::Figures),
    ("/api/v1/access-log", Kind::Reading),
];

/// The tools, and whether an answer is a reading.
const TOOLS: &[(&str, bool)] = &[
    ("list_accounts", false),
    ("search_conversations", true),
    ("get_conversation", true),
    ("count_conversations", true),
    ("completeness", false),
];

/// The routes in the sources of the HTTP server.
fn routes_in_sources() -> BTreeSet<String> {
    fn collect(folder: &Path, routes: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().is_some_and(|name| name == "tests") {
                continue;
            }
            if path.is_dir() {
                collect(&path, routes);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                let program = source.split("mod tests {").next().unwrap_or_default();
                let parts = program.split(".route(").skip(1);
                let literal = |part: &str| {
                    let part = part.trim_start().strip_prefix('"')?;
                    Some(part.split('"').next()?.to_owned())
                };
                routes.extend(parts.filter_map(literal));
            }
        }
    }
    let mut routes = BTreeSet::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http"), &mut routes);
    routes
}

/// What a test knows of the archive.
struct Known {
    own: AccountContent,
    other: AccountContent,
    /// Cursors of a caller that sees everything.
    cursors: Vec<String>,
}

impl Known {
    fn foreign_segment(&self) -> &str {
        self.other.segments.difference(&self.own.segments).find(|id| is_plain(id)).unwrap()
    }

    fn foreign_dialog(&self) -> &str {
        self.other.dialogs.difference(&self.own.dialogs).find(|id| is_plain(id)).unwrap()
    }

    /// Values of a parameter: own and foreign ones.
    fn values(&self, name: &str) -> Vec<String> {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let first = |ids: &BTreeSet<String>| ids.iter().find(|id| is_plain(id)).unwrap().clone();
        match name {
            "account" | "sub" | "accounts" => texts(&[OWN_SUB, OTHER_SUB]),
            "q" | "query" => texts(&["shipment", "periwinkle", "shipment -zanzibar", "ship*"]),
            "id" | "segment" | "segment_id" | "item" => {
                vec![first(&self.own.segments), self.foreign_segment().to_owned(), first(&self.own.dialogs)]
            }
            "dialog" | "dialog_id" => vec![first(&self.own.dialogs), self.foreign_dialog().to_owned()],
            "cursor" => self.cursors.clone(),
            "after" => [texts(&["0", "newest"]), self.cursors.clone()].concat(),
            "facets" => texts(&["day,account,agent,channel,direction,disposition"]),
            "expand" | "has" => texts(&["transcript", "transcript,agent_summary,auto_summary"]),
            "artifact" => texts(&["transcript", "agent_notes"]),
            "by" => texts(&["day", "account", "agent", "channel", "direction", "disposition"]),
            "sort" => texts(&["best", "newest"]),
            "from" | "changed_since" => texts(&["9d"]),
            "to" => texts(&["now"]),
            "limit" => texts(&["3"]),
            "wait" => texts(&["1ms"]),
            "channel" => texts(&["VOICE", "DIGITAL"]),
            "direction" => texts(&["INBOUND"]),
            "who" => texts(&["admin", "limited"]),
            "format" => texts(&["text", "srt"]),
            "state" => texts(&["all", "failed", "waiting"]),
            _ => texts(&["a"]),
        }
    }
}

/// Whether an id stands in a page and in an address as it is.
fn is_plain(id: &str) -> bool {
    id.len() > 7 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// One request: its route, its path, and its parameters.
struct Request {
    route: String,
    kind: Kind,
    path: String,
    parameters: Vec<(String, String)>,
}

/// Requests for a route: with each value of each parameter.
fn requests(route: &str, kind: Kind, parameters: &[&str], required: &[&str], known: &Known) -> Vec<Request> {
    let name = route.split('{').nth(1).and_then(|rest| rest.split('}').next());
    let mut paths = vec![route.to_owned()];
    if let Some(name) = name {
        let mut values =
            if name == "file" { vec!["report.html".to_owned(), "report.json".to_owned()] } else { known.values(name) };
        if route.starts_with("/dialogs/") {
            values = known.values("dialog");
            let endings = values
                .clone()
                .into_iter()
                .flat_map(|id| [".json", ".txt", ".srt", ".vtt"].map(|ending| format!("{id}{ending}")));
            values.extend(endings.collect::<Vec<_>>());
        } else if route.ends_with("/dialogs/{id}") {
            values = known.values("dialog");
        }
        let fill = |value: &String| route.replace(&format!("{{{name}}}"), &encode_path_segment(value));
        paths = values.iter().map(fill).collect();
    }
    let base: Vec<(String, String)> =
        required.iter().map(|name| ((*name).to_owned(), known.values(name)[0].clone())).collect();
    let mut requests = Vec::new();
    for path in paths {
        let mut add = |parameters: Vec<(String, String)>| {
            requests.push(Request { route: route.to_owned(), kind, path: path.clone(), parameters });
        };
        add(base.clone());
        for name in parameters {
            for value in known.values(name) {
                let others = base.iter().filter(|(other, _)| other != name).cloned();
                add(others.chain([((*name).to_owned(), value)]).collect());
            }
        }
    }
    requests
}

/// The parameters that the pages have.
const PAGE_PARAMETERS: [&str; 13] = [
    "q",
    "account",
    "segment",
    "agent",
    "channel",
    "direction",
    "has",
    "from",
    "sort",
    "state",
    "cursor",
    "artifact",
    "reason",
];

fn all_requests(openapi: &Value, known: &Known) -> Vec<Request> {
    let mut all = Vec::new();
    for (route, kind) in ROUTES.iter().filter(|(_, kind)| !matches!(kind, Kind::Action | Kind::Other)) {
        if route.contains("{version}") {
            continue;
        }
        let parameters: &[&str] = match kind {
            Kind::Open => &[],
            Kind::Figures => &["account", "segment", "state", "reason", "cursor", "from"],
            _ => &PAGE_PARAMETERS,
        };
        all.extend(requests(route, *kind, parameters, &[], known));
        if route.starts_with("/conversation") && !route.starts_with("/conversations") {
            for (sub, segment) in [(OWN_SUB, &known.values("id")[0]), (OTHER_SUB, &known.values("id")[1])] {
                for version in [None, Some("1")] {
                    let mut parameters =
                        vec![("account".to_owned(), sub.to_owned()), ("segment".to_owned(), segment.clone())];
                    if let Some(version) = version {
                        parameters.push(("artifact".to_owned(), "transcript".to_owned()));
                        parameters.push(("version".to_owned(), version.to_owned()));
                    }
                    all.push(Request {
                        route: (*route).to_owned(),
                        kind: *kind,
                        path: (*route).to_owned(),
                        parameters,
                    });
                }
            }
        }
    }
    for (route, operations) in openapi["paths"].as_object().unwrap() {
        let Some(operation) = operations.get("get") else { continue };
        let listed = OPERATIONS.iter().find(|(known, _)| known == route);
        let (_, kind) = listed.unwrap_or_else(|| panic!("{route} is new: add it to OPERATIONS here"));
        let given = operation["parameters"].as_array().cloned().unwrap_or_default();
        let in_query: Vec<&Value> = given.iter().filter(|one| one["in"] == "query").collect();
        let name = |one: &&Value| one["name"].as_str().unwrap().to_owned();
        let names: Vec<String> = in_query.iter().map(name).collect();
        let required: Vec<String> = in_query.iter().filter(|one| one["required"] == true).map(name).collect();
        let (names, required): (Vec<&str>, Vec<&str>) =
            (names.iter().map(String::as_str).collect(), required.iter().map(String::as_str).collect());
        all.extend(requests(route, *kind, &names, &required, known));
    }
    all
}

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
        routes_in_sources().into_iter().filter(|route| !ROUTES.iter().any(|(known, _)| known == route)).collect();
    assert!(unknown.is_empty(), "these routes are new: add them to ROUTES here: {unknown:?}");
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
    for request in requests.iter().filter(|request| request.kind != Kind::Open && request.parameters.len() < 2).take(40)
    {
        let (status, answer) = stranger.get_text(&request.path, &[], "*/*").await;
        // After some wrong keys none is checked for a while.
        assert!([401, 404, 429].contains(&status), "{}: {status}", request.path);
        assert!(!answer.contains("shipment") && !answer.contains(OWN_SUB), "{}: {answer}", request.path);
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
