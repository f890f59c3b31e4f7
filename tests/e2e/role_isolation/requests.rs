//! All requests that a reader can send: the routes, what each answers with, and its parameters with values.

use std::collections::BTreeSet;
use std::path::Path;

use ringcx_extractor::model::encode_path_segment;
use serde_json::Value;

use crate::api::{AccountContent, OTHER_SUB};

pub(super) const OWN_SUB: &str = "99999999";

/// What a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
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
    /// Asked in another way.
    Other,
}

/// Routes by what they answer with.
type RouteTable<'a> = &'a [(Kind, &'a [&'a str])];

/// The routes outside of `/api/v1`, as the sources write them.
pub(super) const ROUTES: RouteTable<'_> = &[
    (
        Kind::Open,
        &[
            "/healthz",
            "/readyz",
            "/metrics",
            "/api",
            "/api/openapi.json",
            "/assets/{version}/{name}",
            "/login",
            "/auth/login",
            "/auth/callback",
        ],
    ),
    (Kind::Action, &["/logout"]),
    (Kind::Other, &["/events", "/mcp", "/api/v1/{*path}"]),
    (
        Kind::Figures,
        &[
            "/",
            "/overview.json",
            "/api/status",
            "/accounts/{sub}",
            "/system",
            "/system.json",
            "/queue",
            "/queue.json",
            "/delivery",
            "/delivery.json",
            "/completeness",
            "/completeness.json",
            "/completeness/report/{file}",
        ],
    ),
    (
        Kind::Reading,
        &[
            "/system/access-log",
            "/system/access-log.json",
            "/search",
            "/conversations",
            "/conversations.json",
            "/conversation",
            "/conversation.json",
            "/dialogs/{id}",
        ],
    ),
];

/// The operations of the API that read.
const OPERATIONS: RouteTable<'_> = &[
    (
        Kind::Figures,
        &["/api/v1/accounts", "/api/v1/accounts/{sub}", "/api/v1/coverage", "/api/v1/audit", "/api/v1/status"],
    ),
    (
        Kind::Reading,
        &[
            "/api/v1/segments",
            "/api/v1/segments/{id}",
            "/api/v1/segments/{id}/transcript",
            "/api/v1/segments/{id}/recording",
            "/api/v1/dialogs/{id}",
            "/api/v1/search",
            "/api/v1/access-log",
        ],
    ),
    (Kind::Feed, &["/api/v1/feed"]),
];

/// What a route of the table answers with.
pub(super) fn kind_of(table: RouteTable<'_>, route: &str) -> Option<Kind> {
    table.iter().find(|(_, routes)| routes.contains(&route)).map(|(kind, _)| *kind)
}

/// The routes in the sources of the HTTP server.
pub(super) fn routes_in_sources() -> BTreeSet<String> {
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
pub(super) struct Known {
    pub(super) own: AccountContent,
    pub(super) other: AccountContent,
    /// Cursors of a caller that sees everything.
    pub(super) cursors: Vec<String>,
}

impl Known {
    fn foreign_segment(&self) -> &str {
        self.other.segments.difference(&self.own.segments).find(|id| is_plain(id)).unwrap()
    }

    fn foreign_dialog(&self) -> &str {
        self.other.dialogs.difference(&self.own.dialogs).find(|id| is_plain(id)).unwrap()
    }

    /// Values of a parameter: own and foreign ones.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
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
pub(super) fn is_plain(id: &str) -> bool {
    id.len() > 7 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// One request: its route, its path, and its parameters.
pub(super) struct Request {
    pub(super) route: String,
    pub(super) kind: Kind,
    pub(super) path: String,
    pub(super) parameters: Vec<(String, String)>,
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

pub(super) fn all_requests(openapi: &Value, known: &Known) -> Vec<Request> {
    let mut all = Vec::new();
    let routes = ROUTES.iter().flat_map(|(kind, routes)| routes.iter().map(move |route| (*kind, *route)));
    for (kind, route) in routes.filter(|(kind, _)| !matches!(kind, Kind::Action | Kind::Other)) {
        if route.contains("{version}") {
            continue;
        }
        let parameters: &[&str] = match kind {
            Kind::Open => &[],
            Kind::Figures => &["account", "segment", "state", "reason", "cursor", "from"],
            _ => &PAGE_PARAMETERS,
        };
        all.extend(requests(route, kind, parameters, &[], known));
        if route.starts_with("/conversation") && !route.starts_with("/conversations") {
            for (sub, segment) in [(OWN_SUB, &known.values("id")[0]), (OTHER_SUB, &known.values("id")[1])] {
                for version in [None, Some("1")] {
                    let mut parameters =
                        vec![("account".to_owned(), sub.to_owned()), ("segment".to_owned(), segment.clone())];
                    if let Some(version) = version {
                        parameters.push(("artifact".to_owned(), "transcript".to_owned()));
                        parameters.push(("version".to_owned(), version.to_owned()));
                    }
                    all.push(Request { route: route.to_owned(), kind, path: route.to_owned(), parameters });
                }
            }
        }
    }
    for (route, operations) in openapi["paths"].as_object().unwrap() {
        let Some(operation) = operations.get("get") else { continue };
        let kind = kind_of(OPERATIONS, route).unwrap_or_else(|| panic!("{route} is new: add it to OPERATIONS"));
        let given = operation["parameters"].as_array().cloned().unwrap_or_default();
        let in_query: Vec<&Value> = given.iter().filter(|one| one["in"] == "query").collect();
        let name = |one: &&Value| one["name"].as_str().unwrap().to_owned();
        let names: Vec<String> = in_query.iter().map(name).collect();
        let required: Vec<String> = in_query.iter().filter(|one| one["required"] == true).map(name).collect();
        let (names, required): (Vec<&str>, Vec<&str>) =
            (names.iter().map(String::as_str).collect(), required.iter().map(String::as_str).collect());
        all.extend(requests(route, kind, &names, &required, known));
    }
    all
}
