//! The server as a client sees it, on its own port, with a real database.

mod browser;
mod conversation_access;
mod malformed_requests;
mod raw_client;

use std::time::Duration;

use axum::Router;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::*;
use crate::account::{Account, PauseLog, RuntimeStats};
use crate::clock::{Clock, Time};
use crate::db::{Db, DbFault, OpenMode, PauseRow};
use crate::fetch::batch_writer::{StorageProblem, StorageState};
use crate::model::{AccountId, Endpoint};
use crate::ringcx::rate_limit::Pacer;
use raw_client::{RawResponse, event_stream, get, send_request};

const NOW: Time = Time(1_800_000_000_000);

/// A running server with two accounts.
struct Server {
    address: SocketAddr,
    app: Arc<AppContext>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

const SETTINGS: &str = r#"
[api]
platform_url = "http://127.0.0.1:1"
ringcx_url = "http://127.0.0.1:1"
summary_url = "http://127.0.0.1:1"
[auth]
api_token = "sentinel-secret"
[[accounts]]
rc_account_id = "1"
sub_account_id = "one"
name = "Support <b>EMEA</b>"
[[accounts]]
rc_account_id = "1"
sub_account_id = "two"
[http]
listen = "127.0.0.1:0"
token = "sentinel-token"
[database]
instance = "host-1"
"#;

impl Server {
    async fn start() -> Server {
        Server::with_settings(SETTINGS).await
    }

    async fn with_settings(settings: &str) -> Server {
        Server::prepared_with(settings, async |_, _| {}).await
    }

    /// Starts a server after `prepare` has filled its database and history.
    #[expect(clippy::disallowed_methods, reason = "a test's own task, joined by the test")]
    async fn prepared_with(settings: &str, prepare: impl AsyncFnOnce(&AppContext, &lag_history::LagHistory)) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("local.toml");
        std::fs::write(&file, settings).unwrap();
        let settings = config::load(Some(&file), []).unwrap().settings;
        let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
        let app = AppContext::new(settings, db, Clock::manual(NOW)).unwrap();
        let listener = bind(&app.settings.http).await.unwrap().unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let state = Arc::new(HttpState::new(app.clone(), stop.clone()).unwrap());
        prepare(&app, &state.history).await;
        let hosts = AllowedHosts::of(address, None, None);
        let served = tokio::spawn(serve_until_stop(listener, state, hosts, stop.clone()));
        Server { address, app, stop, served, _folder: folder }
    }

    /// Makes the daemon own both accounts.
    async fn own_both_accounts(&self) {
        let app = &self.app;
        let config::Accounts::Listed(listed) = &app.settings.accounts else { panic!("listed") };
        let mut accounts = Vec::new();
        for listed in listed {
            let row = app.db.register_account(&listed.id, listed.name.as_deref(), NOW).await.unwrap();
            app.db.acquire_leases(&[row.key], "host-1", Duration::from_secs(10), NOW).await.unwrap();
            accounts.push(Arc::new(Account {
                id: listed.id.clone(),
                policy: listed.policy,
                retention_days: None,
                lease: crate::db::Lease { account: row.key, epoch: 1 },
                db: app.db.clone(),
                api: app.api.clone(),
                login: app.login.clone(),
                pacer: Pacer::new(app.settings.limits.requests_per_minute, app.clock.clone()),
                budget_name: crate::daemon::app_context::budget_name(&app.settings.limits, &listed.id.sub),
                metadata_budget: crate::daemon::app_context::metadata_budget(
                    &app.settings.limits,
                    "x",
                    &app.db,
                    &app.clock,
                ),
                recordings: app.recordings.clone(),
                clock: app.clock.clone(),
                work_queued: tokio::sync::Notify::new(),
                reads_requested: tokio::sync::Notify::new(),
                findings: app.findings.clone(),
                stats: RuntimeStats::default(),
                pauses: PauseLog::default(),
            }));
        }
        app.set_accounts(accounts);
        app.set_active(true);
    }

    async fn pause(&self, sub: &str, endpoint: Endpoint) {
        let db = &self.app.db;
        let row = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
        let lease = db.acquire_leases(&[row.key], "host-1", Duration::from_secs(10), NOW).await.unwrap().remove(0);
        let pause = PauseRow {
            account: row.key,
            endpoint,
            since: NOW,
            until: NOW + Duration::from_secs(60),
            times: 1,
            status: Some(403),
            is_login_failure: false,
            reason: "access.denied.exception".to_owned(),
        };
        db.save_pause(lease, &pause).await.unwrap();
    }

    async fn get(&self, path: &str) -> RawResponse {
        get(self.address, path).await
    }

    /// Repeats a request until the response is as expected: a recent snapshot may still be cached.
    async fn get_until(&self, path: &str, expected: impl Fn(&RawResponse) -> bool) -> RawResponse {
        let responses = async {
            loop {
                let response = self.get(path).await;
                if expected(&response) {
                    return response;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), responses).await.expect("the expected response in time")
    }

    /// Stops the server, and checks that it stops quickly.
    async fn shut_down(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.served).await;
        ended.expect("shutdown within two seconds").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_has_its_content() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    let health = server.get("/healthz").await;
    assert_eq!((health.status, health.body.as_str()), (200, "ok"));
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)));
    let status = server.get("/api/status").await.json();
    assert_eq!((&status["instance"], &status["accounts"][0]["sub_account_id"]), (&"host-1".into(), &"one".into()));
    assert!(status["accounts"][0]["watermark"].is_null());
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(metrics.body.contains("\nringcx_database_up 1.0\n"), "{}", metrics.body);
    assert!(metrics.body.contains("\nringcx_search_index_lag_seconds 0.0\n"), "{}", metrics.body);
    assert!(metrics.body.contains("ringcx_request_limit{sub_account=\"two\"} 120"), "{}", metrics.body);
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("Support &lt;b&gt;EMEA&lt;/b&gt;") && !page.body.contains("<b>"));
    assert_eq!(server.get("/nothing").await.status, 404);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_response_has_security_headers_and_no_secret() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/api/status", "/nothing"] {
        let response = server.get(path).await;
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(response.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(response.header("access-control-allow-origin"), None, "{path}");
        assert!(response.header("content-security-policy").unwrap().starts_with("default-src 'none'"), "{path}");
        assert!(!response.body.contains("sentinel"), "{path}");
    }
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_and_other_hosts_are_refused() {
    let server = Server::start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"] {
        let request =
            format!("{method} / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let response = send_request(server.address, request.as_bytes()).await;
        assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let head =
        send_request(server.address, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let under = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    for path in ["/", "/events", "/api/status"] {
        assert_eq!(
            send_request(server.address, under(path, "evil.example:8480").as_bytes()).await.status,
            421,
            "{path}"
        );
    }
    for path in ["/healthz", "/readyz", "/metrics", "/nothing"] {
        assert_eq!(send_request(server.address, under(path, "evil.example").as_bytes()).await.status, 421, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let unnamed = format!("GET {path} HTTP/1.0\r\n\r\n");
        assert_eq!(send_request(server.address, unnamed.as_bytes()).await.status, 200, "{path}");
    }
    let two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_ne!(send_request(server.address, two).await.status, 200);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_too_large_a_head_is_refused() {
    let server = Server::start().await;
    let request = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(64 * 1024));
    assert!((400..500).contains(&send_request(server.address, request.as_bytes()).await.status));
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_while_the_database_accepts_no_results() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    let problem =
        StorageProblem { fault: DbFault::StorageFull, reason: "database or disk is full".to_owned(), hint: None };
    server.app.set_storage(StorageState::Unavailable(problem));
    let response = server.get("/readyz").await;
    assert_eq!((response.status, &response.json()["reasons"][0]["what"]), (503, &"disk".into()));
    let page = server.get("/").await.body;
    assert!(page.contains("In trouble") && page.contains("database or disk is full"), "{page}");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("\nringcx_database_up 0.0\n"), "{metrics}");
    server.app.set_storage(StorageState::Available);
    assert_eq!(server.get("/readyz").await.status, 200);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_without_its_database_and_still_shows_the_last_snapshot() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    assert!(server.get("/").await.body.contains("data-key=\"one\""));
    server.app.db.close().await;
    let response = server.get_until("/readyz", |response| response.status == 503).await;
    assert_eq!(response.json()["reasons"][0]["what"], "database");
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/api/status").await.status, 503);
    let page = server.get("/").await.body;
    assert!(page.contains("In trouble") && page.contains("data-key=\"one\""), "{page}");
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_when_every_account_is_paused() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    server.pause("one", Endpoint::Metadata).await;
    // On a loaded machine a 503 may come in between, since its database was slow.
    let one =
        server.get_until("/readyz", |response| response.status == 200 && !response.json()["paused"][0].is_null()).await;
    assert_eq!(one.json()["paused"][0]["account"], "one");
    server.pause("two", Endpoint::Metadata).await;
    let all = server.get_until("/readyz", |response| response.status == 503).await;
    assert_eq!(all.json()["reasons"][0]["what"], "accounts");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("ringcx_paused{sub_account=\"two\",endpoint=\"metadata\"} 1"), "{metrics}");
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_on_standby_is_ready() {
    let server = Server::start().await;
    let response = server.get("/readyz").await;
    let reasons = response.json()["reasons"].as_array().cloned().unwrap();
    assert!(response.status == 200 && reasons.iter().any(|reason| reason["what"] == "leases"), "{reasons:?}");
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stop_ends_event_streams_and_idle_connections() {
    let server = Server::start().await;
    server.own_both_accounts().await;
    let mut watching = event_stream(server.address, "/events").await;
    let first = watching.next_event().await.unwrap();
    assert_eq!((first["full"].as_bool(), first["rows"].as_object().unwrap().len()), (Some(true), 2));
    let idle = tokio::net::TcpStream::connect(server.address).await.unwrap();
    server.shut_down().await;
    assert_eq!(watching.next_event().await, None);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_viewers_is_bounded_and_a_leaving_one_frees_its_permit() {
    let server = Server::start().await;
    let mut watching = Vec::new();
    for _ in 0..state::MAX_VIEWERS {
        watching.push(event_stream(server.address, "/events").await);
    }
    let refused = server.get("/events").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("10")));
    watching.pop();
    // The server notices at its next write.
    while server.get("/events?probe").await.status == 503 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(watching);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "a test's own task, joined by the test")]
async fn a_waiting_connection_gets_the_slot_of_one_that_becomes_idle_later() {
    const SLOTS: usize = 2;
    let (asked, release) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (begun, ends) = (asked.clone(), release.clone());
    let slow = async move || {
        begun.add_permits(1);
        let _permit = ends.acquire().await;
        "slow"
    };
    let router =
        Router::new().route("/slow", axum::routing::get(slow)).route("/fast", axum::routing::get(async || "fast"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let until = stop.clone();
    let served = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        connection::accept_connections(&listener, SLOTS, router, &mut connections, &until).await;
    });
    let request = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let held = [request("/slow").await, request("/slow").await];
    let _begun = asked.acquire_many(SLOTS as u32).await.unwrap();
    let mut late = request("/fast").await;
    // By then it waits for a slot, unless the machine is too busy.
    tokio::time::sleep(Duration::from_millis(50)).await;
    release.add_permits(SLOTS);
    let mut response = [0; 12];
    let answered = tokio::time::timeout(Duration::from_secs(5), late.read_exact(&mut response)).await;
    answered.expect("a free slot").unwrap();
    assert_eq!(&response, b"HTTP/1.1 200");
    drop(held);
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn all_addresses_include_those_of_ipv4() {
    for listen in ["[::]:0", "0.0.0.0:0"] {
        let listener = bind(&config::Http { listen: Some(listen.to_owned()), token: None }).await.unwrap().unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
}

#[tokio::test]
async fn a_port_in_use_is_reported_with_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let error = bind(&config::Http { listen: Some(listen.clone()), token: None }).await.unwrap_err();
    assert!(error.to_string().contains(&format!("http.listen = \"{listen}\"")), "{error}");
    assert!(crate::error::first_hint(&error).unwrap().starts_with("another program"), "{error:?}");
    assert!(bind(&config::Http { listen: None, token: None }).await.unwrap().is_none());
}
