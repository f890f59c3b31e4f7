//! What each viewer sees of the console: pages and their JSON.

use super::*;
use crate::db::MeasureSample;

/// Keys of programs: their roles are those that people have.
fn settings_with_roles() -> String {
    let hash = |key: &str| {
        use sha2::{Digest as _, Sha256};
        format!("sha256:{:x}", Sha256::digest(key))
    };
    format!(
        "{SETTINGS}\n\
         [[access.roles]]\nname = \"one\"\naccounts = [\"one\"]\nmay = [\"read\"]\n\
         [[access.roles]]\nname = \"operator\"\nmay = [\"operate\", \"log\"]\n\
         [[access.roles]]\nname = \"voice\"\nchannels = [\"VOICE\"]\nmay = [\"read\"]\n\
         [[access.keys]]\nname = \"of-one\"\nkey_hash = \"{}\"\nrole = \"one\"\n\
         [[access.keys]]\nname = \"of-operator\"\nkey_hash = \"{}\"\nrole = \"operator\"\n\
         [[access.keys]]\nname = \"of-voice\"\nkey_hash = \"{}\"\nrole = \"voice\"\n",
        hash("key-one"),
        hash("key-operator"),
        hash("key-voice")
    )
}

async fn get_as(server: &Server, path: &str, key: &str) -> RawResponse {
    request(server.address, path, &[&format!("Authorization: Bearer {key}")], None).await
}

const PATHS: [&str; 4] = ["/", "/overview.json", "/system", "/system.json"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_limited_roles_everyone_sees_the_figures_but_no_settings() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    for path in PATHS.iter().chain(&["/accounts/one", "/accounts/one.json"]) {
        let response = server.get(path).await;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        assert!(!response.body.contains("sentinel"), "{path}");
    }
    let page = server.get("/").await.body;
    assert!(page.contains("href=\"/accounts/one\"") && page.contains("href=\"/login?next=%2F\""), "{page}");
    assert!(!page.contains("<form method=\"post\""), "nobody may do anything: {page}");
    assert!(page.contains("http-equiv=\"refresh\""), "it stays current without scripts: {page}");
    let account = server.get("/accounts/one").await.body;
    assert!(!account.contains("http-equiv"), "a reload would empty its form: {account}");
    assert_eq!(server.get("/system.json").await.json()["settings"], serde_json::json!([]));
    assert_eq!(server.get("/accounts/three").await.status, 404);
    assert_eq!(server.get("/accounts/three.json").await.json()["status"], 404);
    assert_eq!(server.get("/system/access-log").await.status, 403);
    let unlimited = request(server.address, "/system", &["Authorization: Bearer sentinel-token"], None).await;
    assert!(unlimited.body.contains("Settings in effect") && unlimited.body.contains("[limits]"), "{}", unlimited.body);
    assert!(!unlimited.body.contains("sentinel"), "{}", unlimited.body);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_limited_roles_nothing_is_shown_without_a_login() {
    let server = Server::with_settings(&settings_with_roles()).await;
    server.own_both_accounts().await;
    for path in PATHS.iter().chain(&["/accounts/one", "/events", "/api/status"]) {
        let response = server.get(path).await;
        assert_eq!(response.status, 401, "{path}");
        assert!(!response.body.contains("EMEA") && !response.body.contains("host-1"), "{path}: {}", response.body);
    }
    assert_eq!(server.get("/overview.json").await.header("content-type"), Some("application/problem+json"));
    assert_eq!(get_as(&server, "/", "wrong").await.status, 401);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_sees_its_accounts_and_no_trace_of_others() {
    let server = Server::with_settings(&settings_with_roles().replace("\"two\"", "\"hidden-two\"")).await;
    server.own_both_accounts().await;
    server.pause("hidden-two", Endpoint::Metadata).await;
    server.get_until("/readyz", |response| response.body.contains("hidden-two")).await;
    for path in PATHS.iter().chain(&["/accounts/one", "/accounts/one.json", "/api/status"]) {
        let response = get_as(&server, path, "key-one").await;
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        assert!(!response.body.contains("hidden-two"), "{path}: {}", response.body);
        assert!(!response.body.contains("access.denied"), "a finding about another account: {path}");
    }
    let overview = get_as(&server, "/overview.json", "key-one").await.json();
    assert_eq!(overview["accounts"].as_array().unwrap().len(), 1);
    assert_eq!((&overview["levels"][3], &overview["figures"]["accounts"]), (&0.into(), &1.into()));
    assert!(get_as(&server, "/", "key-one").await.body.contains("sees 1 account"));
    assert_eq!(get_as(&server, "/accounts/hidden-two", "key-one").await.status, 404);
    assert_eq!(get_as(&server, "/accounts/hidden-two.json", "key-one").await.status, 404);
    // An operator need not be a reader.
    let all = get_as(&server, "/overview.json", "key-operator").await.json();
    assert_eq!((&all["level"], all["accounts"].as_array().unwrap().len()), (&"trouble".into(), 2));
    assert_eq!(get_as(&server, "/search", "key-operator").await.status, 403);
    assert_eq!(get_as(&server, "/system/access-log", "key-operator").await.status, 200);
    assert_eq!(get_as(&server, "/system/access-log", "key-one").await.status, 403);
    let settings = get_as(&server, "/system.json", "key-operator").await.body;
    assert!(settings.contains("of-voice") && !settings.contains("hash:"), "no hash of a key: {settings}");
    assert!(settings.contains("(hidden)") && !settings.contains("SecretBox"), "{settings}");
    // Counts of all channels are not for a role that shows some.
    let voice = get_as(&server, "/accounts/one.json", "key-voice").await.json();
    assert!(voice["status"]["work"].is_null() && voice["status"]["requests_per_minute"].is_u64(), "{voice}");
    let voice = get_as(&server, "/overview.json", "key-voice").await.json();
    assert!(voice["accounts"][0]["unfinished"].is_null(), "{voice}");
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn charts_sum_up_what_the_role_shows_also_from_the_cache() {
    let server = Server::with_settings(&settings_with_roles()).await;
    server.own_both_accounts().await;
    let accounts = server.app.db.accounts().await.unwrap();
    let sample = |account| MeasureSample { account, level: 0, lag: None, unfinished: 5, done: 0, requests: 0 };
    let samples: Vec<MeasureSample> = accounts.iter().map(|account| sample(account.key)).collect();
    server.app.db.record_measures(&samples, NOW).await.unwrap();
    let unfinished = [("key-operator", Some(10)), ("key-one", Some(5)), ("key-voice", None::<u64>)];
    for (key, expected) in unfinished.iter().chain(&unfinished) {
        let overview = get_as(&server, "/overview.json", key).await.json();
        let values = overview["charts"][1]["series"][1].as_array().unwrap();
        assert_eq!(values.last(), Some(&serde_json::json!(expected)), "{key}: {overview}");
    }
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_and_styles_are_kept_by_browsers_and_pages_are_not() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let script = page.body.split("src=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let kept = server.get(script).await;
    assert_eq!((kept.status, kept.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
    assert_eq!(kept.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let other = server.get("/assets/other/console.css").await;
    assert_eq!((other.status, other.header("cache-control")), (200, Some("no-store")));
    assert_eq!(server.get("/assets/x/local.toml").await.status, 404);
    for asset in page.body.split(['"']).filter(|text| text.starts_with("/assets/")) {
        assert_eq!(server.get(asset).await.status, 200, "{asset}");
    }
    server.shut_down().await;
}
