//! The actions of the console, as a browser without scripts sends them.

use axum::response::IntoResponse as _;

use super::*;

pub(super) const ROLES: &str = r#"
[access.oidc]
issuer = "https://login.example.com"
client_id = "x"
client_secret = "sentinel-client-secret"
public_url = "https://calls.example.com"
[[access.roles]]
name = "operators"
subjects = ["ann@example.com"]
accounts = ["one"]
may = ["read", "operate"]
[[access.roles]]
name = "readers"
subjects = ["bob@example.com"]
may = ["read"]
[[access.roles]]
name = "auditors"
subjects = ["eve@example.com"]
may = ["read", "log"]
"#;

/// A browser with the session of a person.
pub(super) struct Browser<'a> {
    server: &'a Server,
    cookie: String,
}

impl Browser<'_> {
    pub(super) async fn of<'a>(server: &'a Server, email: &str) -> Browser<'a> {
        let session = server.state.authenticator.as_ref().unwrap().create_person_session(email).await;
        let response = session.into_response();
        let cookie = response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        Browser { server, cookie: format!("Cookie: {cookie}") }
    }

    pub(super) async fn get(&self, path: &str) -> RawResponse {
        request(self.server.address, path, &[&self.cookie], None).await
    }

    pub(super) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> RawResponse {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        request(self.server.address, path, &[&self.cookie, "Sec-Fetch-Site: same-origin"], Some(&form)).await
    }

    /// The token of the forms on a page.
    pub(super) async fn token(&self, path: &str) -> String {
        let page = self.get(path).await.body;
        let field = page.split("name=\"token\" value=\"").nth(1).unwrap_or_else(|| panic!("no form: {page}"));
        field.split('"').next().unwrap().to_owned()
    }
}

async fn start() -> Server {
    let server = Server::with_settings(&format!("{SETTINGS}{ROLES}")).await;
    server.own_both_accounts().await;
    server
}

const BACK: &str = "/accounts/one?range=7d";

fn backfill<'a>(token: &'a str, account: &'a str) -> [(&'a str, &'a str); 5] {
    [("token", token), ("back", BACK), ("account", account), ("from", "36h"), ("to", "35h")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_action_is_carried_out_once_logged_and_noticed_on_the_page_it_came_from() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let token = ann.token("/accounts/one").await;
    let done = ann.post("/actions/backfill", &backfill(&token, "one")).await;
    assert_eq!(done.status, 303, "{}", done.body);
    let back = done.header("location").unwrap().to_owned();
    assert!(back.starts_with("/accounts/one?range=7d&notice="), "{back}");
    assert!(ann.get(&back).await.body.contains("is queued; a running daemon reads it"));
    // A double click, or the page sent again.
    assert_eq!(ann.post("/actions/backfill", &backfill(&token, "one")).await.status, 303);
    let queued = server.app.db.backfills(None, false).await.unwrap();
    assert_eq!(queued.len(), 1);
    let eve = Browser::of(&server, "eve@example.com").await;
    let log = eve.get("/system/access-log.json").await.json();
    let entries: Vec<_> = log["items"].as_array().unwrap().iter().filter(|one| one["action"] == "backfill").collect();
    assert_eq!(entries.len(), 1, "{log}");
    assert_eq!((&entries[0]["reader"], &entries[0]["sub_account_id"]), (&"ann@example.com".into(), &"one".into()));
    let page = eve.get("/system/access-log").await.body;
    assert!(page.contains("ann@example.com") && page.contains("backfill"), "{page}");
    // The notice is for this session alone, and as it was made.
    assert!(!eve.get(&back).await.body.contains("id=\"notice\""));
    assert!(!ann.get(&back.replace("notice=The", "notice=No")).await.body.contains("id=\"notice\""));
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_form_without_the_sessions_own_token_is_refused() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let other = Browser::of(&server, "ann@example.com").await;
    let (token, foreign) = (ann.token("/accounts/one").await, other.token("/accounts/one").await);
    let (nonce, seal) = token.split_once('.').unwrap();
    for wrong in ["", "x", nonce, &format!("{nonce}."), &format!("x{nonce}.{seal}"), &foreign] {
        let refused = ann.post("/actions/backfill", &backfill(wrong, "one")).await;
        assert_eq!(refused.status, 403, "{wrong:?}");
        assert!(refused.body.contains("reload the page"), "{}", refused.body);
    }
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(backfill(&token, "one")).finish();
    let cross =
        request(server.address, "/actions/backfill", &[&ann.cookie, "Sec-Fetch-Site: cross-site"], Some(&form)).await;
    assert_eq!(cross.status, 403);
    let unknown = request(server.address, "/actions/backfill", &[], Some(&form)).await;
    assert_ne!(unknown.status, 303);
    let shared =
        request(server.address, "/actions/backfill", &["Authorization: Bearer sentinel-token"], Some(&form)).await;
    assert_eq!(shared.status, 401, "{}", shared.body);
    assert!(server.app.db.backfills(None, false).await.unwrap().is_empty());
    assert_eq!(ann.get("/actions/backfill").await.status, 405);
    assert_eq!(ann.post("/actions/nothing", &[]).await.status, 404);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_acts_in_its_accounts_and_only_if_it_may_operate() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let token = ann.token("/accounts/one").await;
    for account in ["two", "three"] {
        let refused = ann.post("/actions/backfill", &backfill(&token, account)).await;
        assert_eq!(refused.status, 404, "{account}: {}", refused.body);
    }
    let bob = Browser::of(&server, "bob@example.com").await;
    let page = bob.get("/accounts/one").await.body;
    assert!(!page.contains("/actions/"), "no button that would be refused: {page}");
    // A person who may not operate has a session, and so could make a token elsewhere.
    let session = server.state.authenticator.as_ref().unwrap();
    let headers = axum::http::HeaderMap::from_iter([(
        axum::http::header::COOKIE,
        bob.cookie.trim_start_matches("Cookie: ").parse().unwrap(),
    )]);
    let (_, id) = session.authenticate_session(&headers, None).await.unwrap();
    let token = session.form_token(&id).await.unwrap();
    let refused = bob.post("/actions/backfill", &backfill(&token, "one")).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    assert!(refused.body.contains("operate"), "{}", refused.body);
    assert!(server.app.db.backfills(None, false).await.unwrap().is_empty());
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_loses_something_asks_first() {
    let server = start().await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let token = ann.token("/accounts/one").await;
    ann.post("/actions/backfill", &backfill(&token, "one")).await;
    let id = server.app.db.backfills(None, false).await.unwrap()[0].id.to_string();
    let cancel = [("token", token.as_str()), ("back", "/system"), ("id", id.as_str())];
    let asked = ann.post("/actions/cancel-backfill", &cancel).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    assert!(
        asked.body.contains("Are you sure?") && asked.body.contains("name=\"confirmed\" value=\"yes\""),
        "{}",
        asked.body
    );
    assert!(!asked.body.contains("data-live"), "a question must not be replaced");
    assert_eq!(server.app.db.backfills(None, false).await.unwrap().len(), 1);
    let confirmed = [cancel.as_slice(), &[("confirmed", "yes")]].concat();
    let done = ann.post("/actions/cancel-backfill", &confirmed).await;
    assert_eq!(done.status, 303, "{}", done.body);
    assert!(done.header("location").unwrap().starts_with("/system?notice="));
    assert!(server.app.db.backfills(None, false).await.unwrap().is_empty());
    // A wide range asks, too: it takes long.
    let wide = [("token", token.as_str()), ("account", "one"), ("from", "90d"), ("to", "1d")];
    let asked = ann.post("/actions/backfill", &wide).await;
    assert_eq!(asked.status, 200, "{}", asked.body);
    assert!(asked.body.contains("Are you sure?"), "{}", asked.body);
    let done = ann.post("/actions/backfill", &[wide.as_slice(), &[("confirmed", "yes")]].concat()).await;
    assert_eq!((done.status, server.app.db.backfills(None, false).await.unwrap().len()), (303, 1));
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_is_ended_from_the_incident_that_it_causes() {
    let server = start().await;
    server.pause("one", Endpoint::Metadata).await;
    let ann = Browser::of(&server, "ann@example.com").await;
    let page = server_page_with(&ann, "Try now").await;
    assert!(page.contains("action=\"/actions/resume\"") && page.contains("access.denied.exception"), "{page}");
    let token = ann.token("/").await;
    let done = ann.post("/actions/resume", &[("token", &token), ("back", "//evil.example"), ("accounts", "one")]).await;
    assert_eq!(done.status, 303, "{}", done.body);
    assert!(done.header("location").unwrap().starts_with("/?notice="), "to a page of this server only");
    let pauses = server.app.db.pauses().await.unwrap();
    assert!(pauses.iter().all(|pause| pause.until <= NOW), "{pauses:?}");
    server.shut_down().await;
}

/// Asks for the overview until it shows this.
async fn server_page_with(browser: &Browser<'_>, text: &str) -> String {
    let pages = async {
        loop {
            let page = browser.get("/").await.body;
            if page.contains(text) {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), pages).await.expect("the page in time")
}
