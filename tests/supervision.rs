//! Faults that must not stop the daemon, and those that must: a failing account list, a lost lease, few file descriptors, a
//! database that a newer version migrated or that was restored to an earlier state, a locked table, work that a wrong clock
//! deferred, a replaced database file, a second daemon under another file name, and HTTP clients that hold connections or guess.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Db, OpenMode, ReplicaRow, SinkKey, sql};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::sim::{SECRET_MARK, SegmentScript};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::Connection;
use support::test_env::scenario::millis;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use support::webhook_receiver::{WebhookReceiver, WebhookReply};
use support::{TestDb, http_get};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::task::JoinSet;

e2e! {
    a_list_of_accounts_that_misbehaves_stops_no_heartbeat_and_takes_no_account_away,
    an_api_that_never_responds_stops_neither_heartbeat_nor_watchdog,
    an_id_in_the_list_that_cannot_be_used_is_left_out_and_named,
    one_lost_lease_does_not_silence_the_accounts_that_share_its_limit,
    with_few_descriptors_everything_arrives_and_probes_are_answered,
    a_replica_that_is_too_old_for_the_database_hands_over_and_writes_nothing,
    work_that_a_wrong_clock_has_put_off_is_done_after_a_restart,
    a_database_that_is_put_back_to_an_earlier_state_is_gone_on_with,
    clients_that_do_nothing_and_clients_that_guess_hold_up_nobody,
    a_session_that_was_ended_stays_ended_after_a_restart,
}

const SECOND: Duration = Duration::from_secs(1);

/// The proxy's reply to a request for the list of sub-accounts, or to all requests.
#[derive(Debug, Clone)]
enum AccountListReply {
    /// Forwards the request to the simulator.
    Forward,
    /// Never responds, to this and to any other request.
    NoResponse,
    /// Sends a byte now and then, and never ends.
    Drip,
    Respond(u16, String),
}

/// A proxy between the daemon and the simulator that can replace the account list.
struct AccountListProxy {
    url: String,
    reply: Arc<Mutex<AccountListReply>>,
    _tasks: JoinSet<()>,
}

impl AccountListProxy {
    async fn start(simulator_url: &str) -> AccountListProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (target, reply) =
            (simulator_url.trim_start_matches("http://").to_owned(), Arc::new(Mutex::new(AccountListReply::Forward)));
        let mut tasks = JoinSet::new();
        let shared_reply = reply.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (target, reply) = (target.clone(), shared_reply.clone());
                connections.spawn(async move {
                    let _ = forward_or_reply(client, &target, &reply).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        AccountListProxy { url, reply, _tasks: tasks }
    }

    fn set_reply(&self, reply: AccountListReply) {
        *self.reply.lock().unwrap() = reply;
    }
}

/// Reads up to the end of the headers, and whatever part of the body arrives with them.
async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => head.extend_from_slice(&part[..read]),
            _ => break,
        }
    }
    head
}

async fn forward_or_reply(mut client: TcpStream, target: &str, reply: &Mutex<AccountListReply>) -> std::io::Result<()> {
    let request = read_head(&mut client).await;
    let text = String::from_utf8_lossy(&request).into_owned();
    let reply = match reply.lock().unwrap().clone() {
        AccountListReply::NoResponse => AccountListReply::NoResponse,
        reply if text.contains("/admin/accounts ") => reply,
        _ => AccountListReply::Forward,
    };
    match reply {
        AccountListReply::NoResponse => std::future::pending().await,
        AccountListReply::Forward => {
            let mut server = TcpStream::connect(target).await?;
            server.write_all(text.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes()).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
        AccountListReply::Drip => {
            client
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n[")
                .await?;
            loop {
                client.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        AccountListReply::Respond(status, body) => {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            client.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
            client.shutdown().await?;
        }
    }
    Ok(())
}

fn account_ids(count: u32) -> Vec<AccountId> {
    (0..count).map(|number| AccountId::new("980634004", format!("100{number}"))).collect()
}

fn account_settings(ids: &[AccountId]) -> Vec<toml::Value> {
    let entry = |id: &AccountId| {
        let pairs = [("rc_account_id", id.rc.to_string()), ("sub_account_id", id.sub.to_string())];
        toml::Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    };
    ids.iter().map(entry).collect()
}

async fn get_readyz(dashboard: &str) -> (u16, String) {
    http_get(&format!("{dashboard}readyz")).await
}

async fn open_database(env: &TestEnv) -> Db {
    match env.database.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(&PathBuf::from(file), OpenMode::Existing).await.unwrap(),
        None => Db::open_postgres(&SecretString::from(env.database.url.clone()), OpenMode::Existing, 2).await.unwrap(),
    }
}

/// Changes the database directly, without the daemon's knowledge.
async fn execute_sql(env: &TestEnv, statement: &'static str) {
    if let Some(file) = env.database.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).busy_timeout(10 * SECOND);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(statement).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    } else {
        let mut db = sqlx::PgConnection::connect(&env.database.url).await.unwrap();
        sqlx::query(statement).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    }
}

/// Adds a segment that has just ended, and waits until its transcript is fetched.
async fn assert_fetches_new_segment(env: &TestEnv, id: &AccountId, what: &str) {
    let end = env.clock.now() - Duration::from_millis(500);
    let segment = env.sim.add_segment(SegmentScript::new(id, end));
    env.wait_until_within(20 * SECOND, &format!("{what}: a new segment is fetched"), async || {
        env.run(&["show", "--json", "--", &segment]).await.out.contains("\"stored\"")
    })
    .await;
}

async fn a_list_of_accounts_that_misbehaves_stops_no_heartbeat_and_takes_no_account_away(database: TempDatabase) {
    let ids = account_ids(2);
    let scenario = Scenario::live(2 * SECOND)
        .unset("accounts")
        .set("discover_accounts.interval", "500ms")
        .set("api.request_timeout", "1s")
        .set("http.listen", "127.0.0.1:0")
        .configure_sim(|sim| sim.accounts = ids.clone());
    let mut env = TestEnv::new(database, scenario).await;
    let proxy = AccountListProxy::start(&env.sim.base_url()).await;
    env.set("api.ringcx_url", proxy.url.clone());
    env.start();
    env.wait_for_log("working").await;
    let dashboard = env.dashboard_url().await;
    // None of these replies may remove an account.
    let replies = [
        AccountListReply::Drip,
        AccountListReply::Respond(200, "[]".to_owned()),
        AccountListReply::Respond(200, "[{\"accountName\":\"x\"}]".to_owned()),
        AccountListReply::Respond(403, "{}".to_owned()),
        AccountListReply::Respond(500, "oops".to_owned()),
    ];
    for reply in replies {
        proxy.set_reply(reply.clone());
        env.wait_until(&format!("{reply:?}: a finding names it"), async || {
            let (status, body) = get_readyz(&dashboard).await;
            status == 200 && body.contains("failed to list the sub-accounts")
        })
        .await;
        if matches!(reply, AccountListReply::Drip) {
            let db = open_database(&env).await;
            let started = db.replicas().await.unwrap()[0].heartbeat;
            env.wait_until_within(8 * SECOND, "heartbeats go on", async || {
                db.replicas().await.unwrap()[0].heartbeat > started + 5 * SECOND
            })
            .await;
            db.close().await;
            assert_fetches_new_segment(&env, &ids[1], "with a list that drips").await;
        }
        proxy.set_reply(AccountListReply::Forward);
        env.wait_until("the finding goes", async || !get_readyz(&dashboard).await.1.contains("failed to list")).await;
    }
    // After a restart the known accounts are worked on, whatever the list.
    proxy.set_reply(AccountListReply::Respond(500, String::new()));
    env.kill().await;
    env.start();
    assert_fetches_new_segment(&env, &ids[0], "after a restart without a list").await;
    proxy.set_reply(AccountListReply::Forward);
    env.expect_complete_archive().await;
}

async fn an_api_that_never_responds_stops_neither_heartbeat_nor_watchdog(database: TempDatabase) {
    let ids = account_ids(2);
    let scenario = Scenario::live(2 * SECOND)
        .unset("accounts")
        .set("discover_accounts.interval", "500ms")
        .set("api.request_timeout", "30s")
        .configure_sim(|sim| sim.accounts = ids.clone());
    let mut env = TestEnv::new(database, scenario).await;
    let proxy = AccountListProxy::start(&env.sim.base_url()).await;
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        env.set(host, proxy.url.clone());
    }
    env.start();
    env.expect_complete_archive().await;
    env.kill().await;
    proxy.set_reply(AccountListReply::NoResponse);
    let socket = env.database.folder.path().join("notify");
    let watchdog = UnixDatagram::bind(&socket).unwrap();
    env.set_env_var("NOTIFY_SOCKET", &socket.display().to_string());
    let db = open_database(&env).await;
    let leases =
        async || db.all::<(Option<String>, i64)>(sql("select owner, epoch from account order by id")).await.unwrap();
    let replica = async || db.replicas().await.unwrap().remove(0);
    let leases_before = leases().await;
    env.start();
    // Each account has a new epoch as soon as the restarted daemon has acquired it again.
    env.wait_until("the daemon has its accounts again", async || {
        leases().await.iter().zip(&leases_before).all(|(now, before)| now.0 == before.0 && now.1 > before.1)
    })
    .await;
    let leases_at_start = leases().await;
    let (started, mut notified, mut message) = (env.clock.tick(), env.clock.tick(), [0; 64]);
    // Longer than a lease, and than a replica may be without a heartbeat.
    while env.clock.tick().since(started) < 12 * SECOND {
        while watchdog.try_recv(&mut message).is_ok_and(|read| message[..read].starts_with(b"WATCHDOG=1")) {
            notified = env.clock.tick();
        }
        let silence = env.clock.tick().since(notified);
        assert!(silence < 6 * SECOND, "systemd got no notification for {silence:?}");
        let heartbeat = replica().await.heartbeat;
        let silence = env.clock.now().since(heartbeat);
        assert!(silence < 7 * SECOND, "no heartbeat for {silence:?}");
        env.clock.sleep(SECOND / 4).await;
    }
    assert_eq!(leases().await, leases_at_start, "no account has changed its owner");
    db.close().await;
}

async fn an_id_in_the_list_that_cannot_be_used_is_left_out_and_named(database: TempDatabase) {
    let ids = account_ids(1);
    let scenario = Scenario::history()
        .unset("accounts")
        .set("discover_accounts.interval", "500ms")
        .set("http.listen", "127.0.0.1:0")
        .configure_sim(|sim| sim.accounts = ids.clone());
    let mut env = TestEnv::new(database, scenario).await;
    let proxy = AccountListProxy::start(&env.sim.base_url()).await;
    let main = serde_json::json!({ "rcAccountId": "980634004" });
    let list = serde_json::json!([
        { "accountId": "9".repeat(4000), "mainAccount": main },
        { "accountId": "10\u{0}7", "mainAccount": main },
        { "accountId": &*ids[0].sub, "accountName": "na\u{0}me", "mainAccount": main },
    ]);
    proxy.set_reply(AccountListReply::Respond(200, list.to_string()));
    env.set("api.ringcx_url", proxy.url.clone());
    env.start();
    let dashboard = env.dashboard_url().await;
    env.wait_until("a finding names it", async || get_readyz(&dashboard).await.1.contains("unusable id")).await;
    env.expect_complete_archive().await;
    // The settings refuse the same id.
    env.scenario.settings.remove("discover_accounts.interval");
    env.set("accounts", account_settings(&[AccountId::new("980634004", "9".repeat(513))]));
    env.run(&["check"]).await.assert_output(2, &["sub_account_id", "longer than 512 bytes", "hint:"]);
}

async fn one_lost_lease_does_not_silence_the_accounts_that_share_its_limit(database: TempDatabase) {
    let ids = account_ids(3);
    let scenario = Scenario::live(8 * SECOND)
        .set("accounts", account_settings(&ids))
        .set("limits.scope", "login")
        .configure_sim(|sim| {
            sim.accounts = ids.clone();
            sim.traffic.per_minute = 60.0;
        });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 3).await;
    // As if another process had acquired and released the account while this daemon was suspended.
    execute_sql(&env, "update account set owner = null, epoch = epoch + 1 where sub = '1001'").await;
    env.wait_for_log("the lease on this account was revoked").await;
    env.expect_complete_archive().await;
}

fn webhook_settings(name: &str, url: &str) -> toml::Value {
    let secret = "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==";
    let pairs = [("name", name), ("type", "webhook"), ("url", url), ("secret", secret)];
    let mut table: toml::Table = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    table.insert("allow_private".to_owned(), true.into());
    toml::Value::Table(table)
}

async fn with_few_descriptors_everything_arrives_and_probes_are_answered(database: TempDatabase) {
    let ids = account_ids(50);
    let scenario = Scenario::history()
        .set("accounts", account_settings(&ids))
        .set("http.listen", "127.0.0.1:0")
        .configure_sim(|sim| {
            sim.accounts = ids.clone();
            sim.traffic.per_minute = 2.0;
        });
    // One wide window for each account, because a busy machine cannot read the metadata of fifty accounts at the usual rate.
    let scenario = scenario
        .set("discovery.window", "5m")
        .set("discovery.max_window", "5m")
        .set("discovery.interval", "20s")
        .set("discovery.start", "now");
    let receivers = [
        WebhookReceiver::start(|_| WebhookReply::Status(200)).await,
        WebhookReceiver::start(|_| WebhookReply::Status(200)).await,
    ];
    let hooks = receivers
        .iter()
        .enumerate()
        .map(|(number, receiver)| webhook_settings(&format!("hook-{number}"), &receiver.url));
    let scenario = scenario.set("sinks", hooks.collect::<Vec<_>>());
    let mut env = TestEnv::new(database, scenario).await;
    env.set_launcher(&["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"]);
    env.start();
    let dashboard = env.dashboard_url().await;
    let started = env.clock.tick();
    while env.clock.tick().since(started) < 4 * SECOND {
        let sent = env.clock.tick();
        assert_eq!(http_get(&format!("{dashboard}healthz")).await.0, 200);
        let took = env.clock.tick().since(sent);
        assert!(took < 3 * SECOND, "a probe was answered after {took:?}");
        env.clock.sleep(SECOND / 5).await;
    }
    env.expect_complete_archive().await;
    env.wait_until("everything is delivered", async || {
        let status = env.run_json(&["status", "--json"]).await;
        status["sinks"].as_array().unwrap().iter().all(|sink| sink["pending"] == 0)
    })
    .await;
    assert!(receivers.iter().all(|receiver| !receiver.accepted().is_empty()));
    assert!(!env.log().contains("Too many open files"), "{}", env.log());
}

async fn a_replica_that_is_too_old_for_the_database_hands_over_and_writes_nothing(database: TempDatabase) {
    let scenario = Scenario::live(3 * SECOND).set("http.listen", "127.0.0.1:0");
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    let dashboard = env.dashboard_url().await;
    execute_sql(
        &env,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values (9999, 'from the future', true, 'x', 0)",
    )
    .await;
    env.wait_for_log("writing stops").await;
    let (status, body) = get_readyz(&dashboard).await;
    assert!(status == 503 && body.contains("a newer version of this program has migrated"), "{status}: {body}");
    env.wait_until("it sends no more requests", async || {
        let before = env.sim.stats().total_requests();
        env.clock.sleep(SECOND).await;
        before == env.sim.stats().total_requests()
    })
    .await;
    assert_eq!(http_get(&format!("{dashboard}healthz")).await.0, 200, "it is alive");
    // Without that migration it continues.
    execute_sql(&env, "delete from _sqlx_migrations where version = 9999").await;
    env.wait_until("it is ready again", async || get_readyz(&dashboard).await.0 == 200).await;
    env.expect_complete_archive().await;
}

async fn work_that_a_wrong_clock_has_put_off_is_done_after_a_restart(database: TempDatabase) {
    let scenario = Scenario::history().configure_sim(|sim| sim.availability.transcript_after = millis(22_000, 23_000));
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("transcripts are waited for", async || {
        env.account_status().await["work"]["waiting"].as_u64() > Some(0)
    })
    .await;
    env.kill().await;
    // As machines whose clocks were 400 days and two hours ahead leave it.
    for (ahead, which) in [("34560000000", "0"), ("7200000", "1")] {
        let shifted = format!(
            "update work set due = due + {ahead}, created = created + {ahead}, first_try = first_try + {ahead},
             last_try = last_try + {ahead} where segment % 2 = {which}"
        );
        execute_sql(&env, shifted.leak()).await;
    }
    env.start();
    env.wait_for_log("items that were deferred by a clock that was ahead are due again").await;
    env.expect_complete_archive().await;
}

/// As after restoring a dump, which lacks the newest reads and leases.
async fn a_database_that_is_put_back_to_an_earlier_state_is_gone_on_with(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::live(6 * SECOND)).await;
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 3).await;
    env.stop().await;
    env.start();
    env.wait_until("it works again", async || env.log().matches("working").count() > 1).await;
    execute_sql(&env, "update account set owner = null, epoch = epoch - 1").await;
    env.wait_for_log("the lease on this account was revoked").await;
    env.wait_until("it is taken again", async || env.account_status().await["owner"] == "e2e").await;
    let read = env.account_status().await["watermark"].clone();
    env.wait_until("it reads on", async || env.account_status().await["watermark"] != read).await;
    // The same lease, and less coverage than the daemon remembers. The log of reads comes last: the daemon notices that it is
    // shorter, and a read may be recorded between these statements.
    execute_sql(&env, "delete from coverage where pass <> 'live'").await;
    execute_sql(&env, "update coverage set to_ms = from_ms + 2000").await;
    execute_sql(&env, "delete from reading where nth > 1").await;
    env.wait_for_log("the database was restored to an earlier state").await;
    env.wait_until_complete().await;
    env.wait_for_audit().await;
    env.assert_contract_kept();
}

/// Sends these bytes; returns everything received until the connection ends.
async fn http_exchange(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(20 * SECOND, stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn login_request(token: &str) -> String {
    let form = format!("token={token}");
    format!(
        "POST /login HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{form}",
        form.len()
    )
}

async fn start_with_token(database: TempDatabase) -> (TestEnv, String) {
    let scenario =
        Scenario::history().set("http.listen", "127.0.0.1:0").set("http.token", format!("{SECRET_MARK}-http-token"));
    let env = TestEnv::with_daemon(database, scenario).await;
    let address = listen_address(&env).await;
    (env, address)
}

async fn listen_address(env: &TestEnv) -> String {
    env.dashboard_url().await.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

async fn clients_that_do_nothing_and_clients_that_guess_hold_up_nobody(database: TempDatabase) {
    let (env, address) = start_with_token(database).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        idle.push(stream);
    }
    let sent = env.clock.tick();
    let probe = http_exchange(&address, "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(probe.starts_with("HTTP/1.1 200 "), "{probe}");
    let took = env.clock.tick().since(sent);
    assert!(took < 5 * SECOND, "a probe was answered after {took:?}");
    for _ in 0..300 {
        let refused = http_exchange(&address, &login_request("guess")).await;
        assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
    }
    let lines = env.log().matches("login refused: wrong http.token").count();
    assert!((1..=3).contains(&lines), "{lines} lines of the log");
    for path in ["/metrics", "/healthz", "/readyz"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
        assert!(http_exchange(&address, &request).await.starts_with("HTTP/1.1 421 "), "{path}");
    }
    drop(idle);
    env.expect_complete_archive().await;
}

async fn a_session_that_was_ended_stays_ended_after_a_restart(database: TempDatabase) {
    let (mut env, mut address) = start_with_token(database).await;
    let session = async |address: &str| {
        let response = http_exchange(address, &login_request(&format!("{SECRET_MARK}-http-token"))).await;
        let cookie = response.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
        cookie.split(';').next().unwrap().to_owned()
    };
    let search = |cookie: &str| {
        format!("GET /search HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n")
    };
    let (ended, kept) = (session(&address).await, session(&address).await);
    let logout = format!(
        "POST /logout HTTP/1.1\r\nhost: localhost\r\ncookie: {ended}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    assert!(http_exchange(&address, &search(&ended)).await.starts_with("HTTP/1.1 200 "));
    assert!(http_exchange(&address, &logout).await.starts_with("HTTP/1.1 303 "));
    env.stop().await;
    env.start();
    env.wait_until("it listens again", async || env.log().matches("the dashboard is at ").count() > 1).await;
    address = self::listen_address(&env).await;
    assert!(http_exchange(&address, &search(&ended)).await.starts_with("HTTP/1.1 401 "));
    assert!(http_exchange(&address, &search(&kept)).await.starts_with("HTTP/1.1 200 "));
    let name: Value = env.run_json(&["status", "--json"]).await;
    assert!(!name.to_string().contains(&ended));
}

fn database_file(env: &TestEnv) -> PathBuf {
    PathBuf::from(env.database.url.strip_prefix("sqlite:").unwrap())
}

async fn wait_until_no_requests(env: &TestEnv) {
    env.wait_until("it sends no more requests", async || {
        let before = env.sim.stats().total_requests();
        env.clock.sleep(2 * SECOND).await;
        before == env.sim.stats().total_requests()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_file_that_is_renamed_is_noticed_and_when_it_is_back_it_goes_on() {
    let mut env =
        TestEnv::with_daemon(TempDatabase::sqlite(), Scenario::live(3 * SECOND).set("http.listen", "127.0.0.1:0"))
            .await;
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    let (dashboard, file) = (env.dashboard_url().await, database_file(&env));
    let aside = file.with_extension("aside");
    for replaced in [false, true] {
        std::fs::rename(&file, &aside).unwrap();
        if replaced {
            std::fs::write(&file, "another file").unwrap();
        }
        let how = if replaced { "was replaced by another one" } else { "does not exist any more" };
        env.wait_until("it is not ready, with the reason", async || {
            let (status, body) = get_readyz(&dashboard).await;
            status == 503 && body.contains(how)
        })
        .await;
        wait_until_no_requests(&env).await;
        std::fs::rename(&aside, &file).unwrap();
        env.wait_until("it is ready again", async || get_readyz(&dashboard).await.0 == 200).await;
    }
    let id = env.main_account();
    assert_fetches_new_segment(&env, &id, "once the file is back").await;
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_file_that_is_overwritten_is_noticed_and_a_restart_goes_on_with_it() {
    let mut env =
        TestEnv::with_daemon(TempDatabase::sqlite(), Scenario::history().set("http.listen", "127.0.0.1:0")).await;
    env.wait_until_complete().await;
    env.stop().await;
    // An older copy of the same archive.
    let (copy, file) = (env.database.folder.path().join("copy.db"), database_file(&env));
    std::fs::copy(&file, &copy).unwrap();
    env.start();
    env.wait_until("it works again", async || env.log().matches("working").count() > 1).await;
    let dashboard =
        env.log().rsplit("the dashboard is at ").next().unwrap().split_whitespace().next().unwrap().to_owned();
    env.wait_until("it is ready", async || get_readyz(&dashboard).await.0 == 200).await;
    std::fs::copy(&copy, &file).unwrap();
    env.wait_until("it is not ready, with the reason", async || {
        let (status, body) = get_readyz(&dashboard).await;
        status == 503 && body.contains("was overwritten") && body.contains("put the original file back")
    })
    .await;
    wait_until_no_requests(&env).await;
    assert!(env.is_running());
    env.stop().await;
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", file.display()));
    }
    std::fs::copy(&copy, &file).unwrap();
    env.start();
    env.expect_complete_archive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_the_database_that_is_removed_is_noticed_and_a_restart_loses_nothing() {
    let mut env =
        TestEnv::with_daemon(TempDatabase::sqlite(), Scenario::history().set("http.listen", "127.0.0.1:0")).await;
    let dashboard = env.dashboard_url().await;
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 5).await;
    std::fs::remove_file(format!("{}-wal", database_file(&env).display())).unwrap();
    env.wait_until("it is not ready, with the reason", async || {
        let (status, body) = get_readyz(&dashboard).await;
        status == 503 && body.contains("was removed")
    })
    .await;
    wait_until_no_requests(&env).await;
    env.stop().await;
    env.start();
    env.expect_complete_archive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_is_refused_whatever_it_calls_the_file() {
    let mut env = TestEnv::with_daemon(TempDatabase::sqlite(), Scenario::live(2 * SECOND)).await;
    env.wait_for_log("working").await;
    let (folder, file) = (env.database.folder.path().to_owned(), database_file(&env));
    let (symbolic, hard) = (folder.join("symbolic.db"), folder.join("hard.db"));
    std::os::unix::fs::symlink(&file, &symbolic).unwrap();
    std::fs::hard_link(&file, &hard).unwrap();
    std::fs::remove_file(format!("{}.lock", file.display())).unwrap();
    for path in [&symbolic, &hard, &file] {
        env.set("database.url", format!("sqlite:{}", path.display()));
        env.run(&["run"]).await.assert_output(1, &["another daemon", "hint:"]);
    }
    assert!(env.is_running(), "the first goes on");
    env.expect_complete_archive().await;
    env.stop().await;
}

mod leases {
    use super::*;

    crate::on_both! {
        accounts_that_share_a_limit_are_taken_by_one_replica_only_and_from_a_dead_one_all_at_once,
    }

    async fn accounts_that_share_a_limit_are_taken_by_one_replica_only_and_from_a_dead_one_all_at_once(test: TestDb) {
        let (db, lapse) = (&test.db, 10 * SECOND);
        let now = Clock::system().now();
        let mut keys = Vec::new();
        for id in account_ids(3) {
            keys.push(db.register_account(&id, None, now).await.unwrap().key);
        }
        let beat = async |name: &str, released: Option<Time>| {
            let stats = "{}".to_owned();
            let (name, version) = (name.to_owned(), "1".to_owned());
            db.record_heartbeat(&ReplicaRow { name, version, started: now, heartbeat: now, released, stats }, now)
                .await
                .unwrap();
        };
        beat("a", None).await;
        beat("b", None).await;
        let held = db.acquire_shared_limit_leases(&keys[..2], "a", lapse, now).await.unwrap();
        assert_eq!(held.len(), 2);
        assert!(
            db.acquire_shared_limit_leases(&keys[2..], "b", lapse, now).await.unwrap().is_empty(),
            "a has the limit"
        );
        assert_eq!(db.acquire_shared_limit_leases(&keys[2..], "a", lapse, now).await.unwrap().len(), 1);
        beat("a", Some(now)).await;
        assert_eq!(db.acquire_shared_limit_leases(&keys[..1], "b", lapse, now).await.unwrap().len(), 1);
        let accounts = db.accounts().await.unwrap();
        let owners: Vec<Option<&str>> = accounts.iter().map(|account| account.owner.as_deref()).collect();
        assert_eq!(owners, [Some("b"), None, None], "a may send for none of them any more");
    }
}

mod deferred_work {
    use ringcx_extractor::db::{CompletedJob, IngestSummary, JobOutcome, MaxDelays, MetadataChunk, WindowRead};
    use ringcx_extractor::model::{
        Artifact, ArtifactSelection, ArtifactSet, ItemState, Lane, QuarantinedRecord, SegmentRecord, SummariesFor,
        TimeRange, TimeRangeSet,
    };

    use super::*;

    crate::on_both! {
        what_a_clock_that_was_ahead_has_put_off_waits_as_if_it_had_been_right,
    }

    const NOW: Time = Time(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn record(id: &str) -> SegmentRecord {
        let raw = format!("{{\"segmentId\":\"{id}\"}}");
        let (segment_id, dialog_id) = (id.to_owned(), Some("d".to_owned()));
        SegmentRecord {
            segment_id,
            dialog_id,
            end: Some(NOW - HOUR),
            has_transcript: true,
            is_agent: true,
            has_recording: false,
            raw,
        }
    }

    async fn what_a_clock_that_was_ahead_has_put_off_waits_as_if_it_had_been_right(test: TestDb) {
        let db = &test.db;
        let key = db.register_account(&account_ids(1)[0], None, NOW).await.unwrap().key;
        let owned = db.acquire_leases(&[key], "me", 10 * SECOND, NOW).await.unwrap().remove(0);
        let window = TimeRange { from: NOW - 2 * HOUR, to: NOW };
        let announce = async |id: &str, now: Time, asides: &[QuarantinedRecord]| {
            let artifacts = ArtifactSet::NONE.with(Artifact::Transcript).with(Artifact::AgentSummary);
            let known = TimeRangeSet::default();
            let chunk = MetadataChunk {
                lease: owned,
                lane: Lane::Live,
                range: window,
                now,
                wants: ArtifactSelection { artifacts, summaries_for: SummariesFor::Transcribed },
                already_read: &known,
                urgent_before: None,
                quarantine_retry_delay: 60 * SECOND,
                records: &[record(id)],
                quarantined: asides,
            };
            db.ingest_chunk(chunk).await.unwrap();
        };
        let claim = async |id: &str, artifact: Artifact| {
            let due = db.due_items(owned, ArtifactSet::ALL, Time(i64::MAX), 100).await.unwrap();
            due.into_iter().find(|claim| claim.segment_id == id && claim.artifact == artifact).unwrap()
        };
        let failed = async |id: &str, artifact: Artifact, at: Time, wait: Duration| {
            let claim = claim(id, artifact).await;
            let (status, reason) = (Some(404), "not there".to_owned());
            let (state, due) = (ItemState::Open, at + wait);
            let settlement = JobOutcome::Failed { state, due, misses: 1, refusals: 0, status, reason, broken: None };
            db.complete_jobs(&[CompletedJob { claim, at, outcome: settlement }]).await.unwrap();
        };
        let (days, hours) = (NOW + 400 * 24 * HOUR, NOW + 2 * HOUR);
        // By a correct clock: announced, waiting for the longest delay, and due for a refresh.
        announce("right", NOW, &[]).await;
        failed("right", Artifact::Transcript, NOW, 6 * HOUR).await;
        let claimed = claim("right", Artifact::AgentSummary).await;
        let visit = JobOutcome::not_populated(Some(NOW + 24 * HOUR));
        db.complete_jobs(&[CompletedJob { claim: claimed, at: NOW, outcome: visit }]).await.unwrap();
        // By a clock that was 400 days ahead, and by one that was two hours ahead.
        let aside = QuarantinedRecord { segment_id: None, reason: "no id".to_owned(), raw: "{}".to_owned() };
        announce("days", days, &[aside]).await;
        failed("days", Artifact::Transcript, days, HOUR).await;
        announce("hours", hours, &[]).await;
        let claimed = claim("hours", Artifact::AgentSummary).await;
        let visit = JobOutcome::not_populated(Some(hours + 24 * HOUR));
        db.complete_jobs(&[CompletedJob { claim: claimed, at: hours, outcome: visit }]).await.unwrap();
        // Deferred by the wrong clock, and not attempted.
        announce("deferred", NOW, &[]).await;
        let claimed = claim("deferred", Artifact::Transcript).await;
        let deferred = JobOutcome::Deferred { due: days, first_try: Some(NOW) };
        db.complete_jobs(&[CompletedJob { claim: claimed, at: days, outcome: deferred }]).await.unwrap();
        db.run(
            sql("insert into sink_event (sink, account, feed, item, state, tries, waited, first_try, last_try, due, reason)
                 values (1, $1, 1, 4, 0, 1, 0, $2, $2, $2, 'x'), (1, $1, 2, 4, 0, 1, 0, $3, $3, $4, 'x')")
                .bind(key).bind(days).bind(NOW).bind(NOW + 24 * HOUR),
        )
        .await
        .unwrap();

        let longest = MaxDelays { retry: 6 * HOUR, refresh: 24 * HOUR };
        // As long as that clock is believed, nothing is released.
        assert_eq!(db.repair_future_dated_work(owned, days, days, longest).await.unwrap(), 0);
        assert_eq!(db.repair_future_dated_work(owned, NOW, NOW, longest).await.unwrap(), 7);
        assert_eq!(db.repair_future_dated_work(owned, NOW, NOW, longest).await.unwrap(), 0, "again");
        let waits = async |id: &str, artifact: Artifact| claim(id, artifact).await.due.since(NOW);
        assert_eq!(waits("right", Artifact::Transcript).await, 6 * HOUR);
        assert_eq!(waits("right", Artifact::AgentSummary).await, 24 * HOUR);
        assert_eq!(waits("days", Artifact::Transcript).await, HOUR);
        assert_eq!(claim("days", Artifact::Transcript).await.first_try, Some(NOW));
        assert_eq!(waits("days", Artifact::AgentSummary).await, Duration::ZERO);
        assert_eq!(waits("hours", Artifact::Transcript).await, Duration::ZERO);
        assert_eq!(waits("hours", Artifact::AgentSummary).await, 24 * HOUR);
        assert_eq!(waits("deferred", Artifact::Transcript).await, Duration::ZERO);
        let waiting = db.due_failed_deliveries(SinkKey(1), "me", NOW, 10).await.unwrap();
        assert_eq!(waiting.iter().map(|missed| (missed.feed, missed.last_try)).collect::<Vec<_>>(), [(1, NOW)]);
        // The quarantined record is read again at once, and resolved by a read that no longer contains it.
        assert_eq!(db.quarantined_windows(key).await.unwrap(), [(window, NOW)]);
        let (at, lane, announced) = (NOW + SECOND, Lane::Live, IngestSummary::default());
        let reading = WindowRead {
            at,
            done: at,
            lane,
            range: window,
            summary: announced,
            purposes: Vec::new(),
            finished: Vec::new(),
        };
        db.record_window_read(owned, &reading).await.unwrap();
        assert_eq!(db.quarantined_windows(key).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_not_acquired_from_a_replica_whose_heartbeat_is_being_written() {
    for shared_limit in [true, false] {
        let database = TempDatabase::postgres().await;
        let url = SecretString::from(database.url.clone());
        let db = Db::open_postgres(&url, OpenMode::CreateOrMigrate, 4).await.unwrap();
        let (now, lease_duration) = (Clock::system().now(), 10 * SECOND);
        let keys = [db.register_account(&account_ids(1)[0], None, now).await.unwrap().key];
        let (name, version, stats) = ("a".to_owned(), "1".to_owned(), "{}".to_owned());
        let row = ReplicaRow { name, version, started: now, heartbeat: now, released: None, stats };
        db.record_heartbeat(&row, now).await.unwrap();
        let acquire = async |name: &str| match shared_limit {
            true => db.acquire_shared_limit_leases(&keys, name, lease_duration, now).await.unwrap(),
            false => db.acquire_leases(&keys, name, lease_duration, now).await.unwrap(),
        };
        assert_eq!(acquire("a").await.len(), 1);
        let mut heartbeat = sqlx::PgConnection::connect(&database.url).await.unwrap();
        sqlx::raw_sql("update replica set heartbeat = heartbeat - 60000").execute(&mut heartbeat).await.unwrap();
        sqlx::raw_sql("begin; update replica set heartbeat = heartbeat + 60000").execute(&mut heartbeat).await.unwrap();
        let mut acquired = std::pin::pin!(acquire("b"));
        let early = tokio::time::timeout(SECOND, &mut acquired).await;
        assert!(early.is_err(), "acquired during a heartbeat of a, which cannot see it: {early:?}");
        sqlx::raw_sql("commit").execute(&mut heartbeat).await.unwrap();
        assert_eq!(acquired.await, [], "a is alive again");
        heartbeat.close().await.unwrap();
        db.close().await;
    }
}

/// The URL of another database on the same server.
fn url_of_other_database(url: &str, name: &str) -> String {
    let (start, rest) = url.split_at(url.find("/t").unwrap());
    format!("{start}/{name}{}", &rest[rest.find('?').unwrap()..])
}

fn database_name(url: &str) -> String {
    let start = url.find("/t").unwrap() + 1;
    url[start..url.find('?').unwrap()].to_owned()
}

async fn admin_connection(url: &str) -> sqlx::PgConnection {
    sqlx::PgConnection::connect(&url_of_other_database(url, "postgres")).await.unwrap()
}

async fn execute_admin(admin: &mut sqlx::PgConnection, statement: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(admin).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_someone_has_locked_costs_no_lease() {
    let ids = account_ids(14);
    let scenario = Scenario::live(4 * SECOND).set("accounts", account_settings(&ids)).configure_sim(|sim| {
        sim.accounts = ids.clone();
        sim.traffic.per_minute = 10.0;
    });
    let env = TestEnv::with_daemon(TempDatabase::postgres().await, scenario).await;
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 3).await;
    // Every connection of the daemon waits for this lock. One table only: with two, the daemon could hold the other.
    let mut holder = sqlx::PgConnection::connect(&env.database.url).await.unwrap();
    sqlx::raw_sql("begin; lock table segment in access exclusive mode").execute(&mut holder).await.unwrap();
    let locked = env.clock.tick();
    const MS_SINCE_HEARTBEAT: &str =
        "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint) - max(heartbeat) from replica";
    while env.clock.tick().since(locked) < 15 * SECOND {
        let silent: i64 = sqlx::query_scalar(MS_SINCE_HEARTBEAT).fetch_one(&mut holder).await.unwrap();
        assert!(silent < 7_000, "no heartbeat for {silent} ms");
        env.clock.sleep(SECOND / 2).await;
    }
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    env.expect_complete_archive().await;
    let db = open_database(&env).await;
    assert!(db.accounts().await.unwrap().iter().all(|account| account.owner.as_deref() == Some("e2e")));
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_timeout_a_renamed_database_and_a_rotated_login_are_waited_out() {
    let scenario = Scenario::live(3 * SECOND).set("http.listen", "127.0.0.1:0").unset("database.url");
    let database = TempDatabase::postgres().await;
    let url = database.url.clone();
    let (name, file) = (database_name(&url), database.folder.path().join("url"));
    let mut admin = admin_connection(&url).await;
    let (old, new) = (format!("old_{name}"), format!("new_{name}"));
    execute_admin(&mut admin, format!("create role {old} login superuser")).await;
    execute_admin(&mut admin, format!("alter database {name} set lock_timeout = '100ms'")).await;
    std::fs::write(&file, url.replace("postgres@", &format!("{old}@"))).unwrap();
    let mut env = TestEnv::new(database, scenario).await;
    env.scenario.settings.remove("database.url");
    env.set("database.url_file", file.display().to_string());
    env.start();
    env.wait_until("transcripts are fetched", async || env.sim.stats().ok_count(Endpoint::Transcript) > 0).await;
    let dashboard = env.dashboard_url().await;
    env.wait_until("it is ready", async || get_readyz(&dashboard).await.0 == 200).await;
    // A lock is held for longer than the server's lock time-out.
    let mut holder = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("set lock_timeout = 0; begin; lock table replica, pause, account in access exclusive mode")
        .execute(&mut holder)
        .await
        .unwrap();
    env.wait_for_log("the database is unavailable").await;
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    env.wait_until("it is ready again", async || get_readyz(&dashboard).await.0 == 200).await;
    // The database is renamed.
    let away = format!("away_{name}");
    execute_admin(&mut admin, format!("alter database {name} allow_connections false")).await;
    let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
    execute_admin(&mut admin, end.clone()).await;
    env.wait_until("nobody is connected", async || {
        let mut other = self::admin_connection(&url).await;
        let rename = format!("alter database {name} rename to {away}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(rename)).execute(&mut other).await.is_ok()
    })
    .await;
    env.wait_until("it is not ready", async || get_readyz(&dashboard).await.0 == 503).await;
    env.clock.sleep(3 * SECOND).await;
    assert!(env.is_running(), "it waits");
    execute_admin(&mut admin, format!("alter database {away} rename to {name}")).await;
    execute_admin(&mut admin, format!("alter database {name} allow_connections true")).await;
    env.wait_until("it is ready again", async || get_readyz(&dashboard).await.0 == 200).await;
    // The login is rotated, and its file is written afterwards.
    execute_admin(&mut admin, format!("alter role {old} rename to {new}")).await;
    execute_admin(&mut admin, end).await;
    env.wait_until("it is not ready", async || get_readyz(&dashboard).await.0 == 503).await;
    env.clock.sleep(2 * SECOND).await;
    assert!(env.is_running(), "it waits");
    std::fs::write(&file, url.replace("postgres@", &format!("{new}@"))).unwrap();
    env.wait_until("it is ready again", async || get_readyz(&dashboard).await.0 == 200).await;
    env.expect_complete_archive().await;
    env.stop().await;
}
