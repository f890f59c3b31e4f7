//! What must not stop the daemon, and what must: an account list that misbehaves, leases that end one at a time, few
//! descriptors, a database that a newer version has migrated, or that was put back to an earlier state, a table that someone has
//! locked, work that a wrong clock has put off, a file that was replaced, a second daemon under another name, and clients of the
//! HTTP server that hold or ask for too much.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{Access, Db, ReplicaRow, sql};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::sim::{SECRET_MARK, SegmentScript};
use secrecy::SecretString;
use serde_json::Value;
use sqlx::Connection;
use support::daemon::plan::millis;
use support::daemon::{Place, Plan, Rig};
use support::receiver::{Receiver, Reply};
use support::{TestDb, fetched};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::task::JoinSet;

e2e! {
    a_list_of_accounts_that_misbehaves_stops_no_heartbeat_and_takes_no_account_away,
    an_api_that_never_answers_stops_neither_heartbeat_nor_watchdog,
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

/// What the relay does when the list of sub-accounts is asked for.
#[derive(Debug, Clone)]
enum List {
    Pass,
    /// Nothing at all, nor is anything else answered.
    Silence,
    /// A byte now and then, for ever.
    Drip,
    Answer(u16, String),
}

/// Stands between the daemon and the simulator.
struct Relay {
    url: String,
    list: Arc<Mutex<List>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn before(rig_url: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (target, list) = (rig_url.trim_start_matches("http://").to_owned(), Arc::new(Mutex::new(List::Pass)));
        let mut tasks = JoinSet::new();
        let does = list.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (target, does) = (target.clone(), does.clone());
                connections.spawn(async move {
                    let _ = relay(client, &target, &does).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Relay { url, list, _tasks: tasks }
    }

    fn does(&self, list: List) {
        *self.list.lock().unwrap() = list;
    }
}

/// What comes up to the end of the headers, and of the body what came along with them.
async fn head(stream: &mut TcpStream) -> Vec<u8> {
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

async fn relay(mut client: TcpStream, target: &str, does: &Mutex<List>) -> std::io::Result<()> {
    let request = head(&mut client).await;
    let text = String::from_utf8_lossy(&request).into_owned();
    let does = match does.lock().unwrap().clone() {
        List::Silence => List::Silence,
        does if text.contains("/admin/accounts ") => does,
        _ => List::Pass,
    };
    match does {
        List::Silence => std::future::pending().await,
        List::Pass => {
            let mut server = TcpStream::connect(target).await?;
            server.write_all(text.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes()).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        }
        List::Drip => {
            client
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n[")
                .await?;
            loop {
                client.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        List::Answer(status, body) => {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            client.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await?;
            client.shutdown().await?;
        }
    }
    Ok(())
}

fn ids(count: u32) -> Vec<AccountId> {
    (0..count).map(|number| AccountId::new("980634004", format!("100{number}"))).collect()
}

fn listed(ids: &[AccountId]) -> Vec<toml::Value> {
    let entry = |id: &AccountId| {
        let pairs = [("rc_account_id", id.rc.to_string()), ("sub_account_id", id.sub.to_string())];
        toml::Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    };
    ids.iter().map(entry).collect()
}

async fn ready(dashboard: &str) -> (u16, String) {
    fetched(&format!("{dashboard}readyz")).await
}

async fn open(rig: &Rig) -> Db {
    match rig.place.url.strip_prefix("sqlite:") {
        Some(file) => Db::open_sqlite(&PathBuf::from(file), Access::Existing).await.unwrap(),
        None => Db::open_postgres(&SecretString::from(rig.place.url.clone()), Access::Existing, 2).await.unwrap(),
    }
}

/// Changes the database behind the daemon's back.
async fn change(rig: &Rig, statement: &'static str) {
    if let Some(file) = rig.place.url.strip_prefix("sqlite:") {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).busy_timeout(10 * SECOND);
        let mut db = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(statement).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    } else {
        let mut db = sqlx::PgConnection::connect(&rig.place.url).await.unwrap();
        sqlx::query(statement).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
    }
}

/// Adds a segment that has just ended and waits until its transcript is fetched.
async fn still_fetches(rig: &Rig, id: &AccountId, what: &str) {
    let end = rig.clock.now() - Duration::from_millis(500);
    let segment = rig.sim.add_segment(SegmentScript::new(id, end));
    rig.until_within(20 * SECOND, &format!("{what}: a new segment is fetched"), async || {
        rig.run(&["show", "--json", "--", &segment]).await.out.contains("\"stored\"")
    })
    .await;
}

async fn a_list_of_accounts_that_misbehaves_stops_no_heartbeat_and_takes_no_account_away(place: Place) {
    let ids = ids(2);
    let plan = Plan::live(2 * SECOND)
        .unset("accounts")
        .set("discover_accounts.interval", "500ms")
        .set("api.request_timeout", "1s")
        .set("http.listen", "127.0.0.1:0")
        .sim(|sim| sim.accounts = ids.clone());
    let mut rig = Rig::new(place, plan).await;
    let relay = Relay::before(&rig.sim.base_url()).await;
    rig.set("api.ringcx_url", relay.url.clone());
    rig.start();
    rig.says("working").await;
    let dashboard = rig.dashboard().await;
    // Each of them is a list that takes nothing away.
    let lists = [
        List::Drip,
        List::Answer(200, "[]".to_owned()),
        List::Answer(200, "[{\"accountName\":\"x\"}]".to_owned()),
        List::Answer(403, "{}".to_owned()),
        List::Answer(500, "oops".to_owned()),
    ];
    for list in lists {
        relay.does(list.clone());
        rig.until(&format!("{list:?}: a finding names it"), async || {
            let (status, body) = ready(&dashboard).await;
            status == 200 && body.contains("failed to list the sub-accounts")
        })
        .await;
        if matches!(list, List::Drip) {
            let db = open(&rig).await;
            let begun = db.replicas().await.unwrap()[0].heartbeat;
            rig.until_within(8 * SECOND, "heartbeats go on", async || {
                db.replicas().await.unwrap()[0].heartbeat > begun + 5 * SECOND
            })
            .await;
            db.close().await;
            still_fetches(&rig, &ids[1], "with a list that drips").await;
        }
        relay.does(List::Pass);
        rig.until("the finding goes", async || !ready(&dashboard).await.1.contains("failed to list")).await;
    }
    // What the database knows is worked on after a restart, too, whatever the list.
    relay.does(List::Answer(500, String::new()));
    rig.kill().await;
    rig.start();
    still_fetches(&rig, &ids[0], "after a restart without a list").await;
    relay.does(List::Pass);
    rig.settled().await;
}

async fn an_api_that_never_answers_stops_neither_heartbeat_nor_watchdog(place: Place) {
    let ids = ids(2);
    let plan = Plan::live(2 * SECOND)
        .unset("accounts")
        .set("discover_accounts.interval", "500ms")
        .set("api.request_timeout", "30s")
        .sim(|sim| sim.accounts = ids.clone());
    let mut rig = Rig::new(place, plan).await;
    let relay = Relay::before(&rig.sim.base_url()).await;
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        rig.set(host, relay.url.clone());
    }
    rig.start();
    rig.settled().await;
    rig.kill().await;
    relay.does(List::Silence);
    let socket = rig.place.folder.path().join("notify");
    let watchdog = UnixDatagram::bind(&socket).unwrap();
    rig.env("NOTIFY_SOCKET", &socket.display().to_string());
    rig.start();
    let db = open(&rig).await;
    let held = async || {
        let rows = db.all(sql("select owner, epoch from account order by id")).await.unwrap();
        rows.iter().map(|row| (row.maybe_text(0).unwrap(), row.int(1).unwrap())).collect::<Vec<_>>()
    };
    let replica = async || db.replicas().await.unwrap().remove(0);
    let before = replica().await.started;
    rig.until("it has its accounts again", async || {
        replica().await.started > before && held().await.iter().all(|(owner, _)| owner.as_deref() == Some("e2e"))
    })
    .await;
    let accounts = held().await;
    let (begun, mut patted, mut message) = (rig.clock.tick(), rig.clock.tick(), [0; 64]);
    // Longer than a lease lasts, and than a replica may be silent.
    while rig.clock.tick().since(begun) < 12 * SECOND {
        while watchdog.try_recv(&mut message).is_ok_and(|read| message[..read].starts_with(b"WATCHDOG=1")) {
            patted = rig.clock.tick();
        }
        let silent = rig.clock.tick().since(patted);
        assert!(silent < 6 * SECOND, "systemd has heard nothing for {silent:?}");
        let heartbeat = replica().await.heartbeat;
        let silent = rig.clock.now().since(heartbeat);
        assert!(silent < 7 * SECOND, "no heartbeat for {silent:?}");
        rig.clock.sleep(SECOND / 4).await;
    }
    assert_eq!(held().await, accounts, "no account has changed hands");
    db.close().await;
}

async fn an_id_in_the_list_that_cannot_be_used_is_left_out_and_named(place: Place) {
    let ids = ids(1);
    let plan = Plan::history()
        .unset("accounts")
        .set("discover_accounts.interval", "500ms")
        .set("http.listen", "127.0.0.1:0")
        .sim(|sim| sim.accounts = ids.clone());
    let mut rig = Rig::new(place, plan).await;
    let relay = Relay::before(&rig.sim.base_url()).await;
    let main = serde_json::json!({ "rcAccountId": "980634004" });
    let list = serde_json::json!([
        { "accountId": "9".repeat(4000), "mainAccount": main },
        { "accountId": "10\u{0}7", "mainAccount": main },
        { "accountId": &*ids[0].sub, "accountName": "na\u{0}me", "mainAccount": main },
    ]);
    relay.does(List::Answer(200, list.to_string()));
    rig.set("api.ringcx_url", relay.url.clone());
    rig.start();
    let dashboard = rig.dashboard().await;
    rig.until("a finding names it", async || ready(&dashboard).await.1.contains("an id that cannot be used")).await;
    rig.settled().await;
    // The settings refuse the same.
    rig.plan.settings.remove("discover_accounts.interval");
    rig.set("accounts", listed(&[AccountId::new("980634004", "9".repeat(513))]));
    rig.run(&["check"]).await.is(2, &["sub_account_id", "longer than 512 bytes", "hint:"]);
}

async fn one_lost_lease_does_not_silence_the_accounts_that_share_its_limit(place: Place) {
    let ids = ids(3);
    let plan = Plan::live(8 * SECOND).set("accounts", listed(&ids)).set("limits.scope", "login").sim(|sim| {
        sim.accounts = ids.clone();
        sim.traffic.per_minute = 60.0;
    });
    let rig = Rig::started(place, plan).await;
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 3).await;
    // What a command such as `check` does where the daemon seems dead, as when it was stopped for a while.
    change(&rig, "update account set owner = null, epoch = epoch + 1 where sub = '1001'").await;
    rig.says("the lease on this account was ended meanwhile").await;
    rig.settled().await;
}

fn hook(name: &str, url: &str) -> toml::Value {
    let secret = "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==";
    let pairs = [("name", name), ("type", "webhook"), ("url", url), ("secret", secret)];
    let mut table: toml::Table = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    table.insert("allow_private".to_owned(), true.into());
    toml::Value::Table(table)
}

async fn with_few_descriptors_everything_arrives_and_probes_are_answered(place: Place) {
    let ids = ids(50);
    let plan = Plan::history().set("accounts", listed(&ids)).set("http.listen", "127.0.0.1:0").sim(|sim| {
        sim.accounts = ids.clone();
        sim.traffic.per_minute = 2.0;
    });
    // One wide window an account: at the usual pace of these tests, the metadata of fifty would be more than a busy machine
    // can do.
    let plan = plan.set("discovery.window", "40s").set("discovery.interval", "20s").set("discovery.start", "now");
    let receivers = [Receiver::start(|_| Reply::Status(200)).await, Receiver::start(|_| Reply::Status(200)).await];
    let hooks = receivers.iter().enumerate().map(|(number, receiver)| hook(&format!("hook-{number}"), &receiver.url));
    let plan = plan.set("sinks", hooks.collect::<Vec<_>>());
    let mut rig = Rig::new(place, plan).await;
    rig.start_by(&["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"]);
    rig.start();
    let dashboard = rig.dashboard().await;
    let begun = rig.clock.tick();
    while rig.clock.tick().since(begun) < 4 * SECOND {
        let asked = rig.clock.tick();
        assert_eq!(fetched(&format!("{dashboard}healthz")).await.0, 200);
        let took = rig.clock.tick().since(asked);
        assert!(took < 3 * SECOND, "a probe was answered after {took:?}");
        rig.clock.sleep(SECOND / 5).await;
    }
    rig.settled().await;
    rig.until("everything is delivered", async || {
        let status = rig.json(&["status", "--json"]).await;
        status["sinks"].as_array().unwrap().iter().all(|sink| sink["pending"] == 0)
    })
    .await;
    assert!(receivers.iter().all(|receiver| !receiver.taken().is_empty()));
    assert!(!rig.log().contains("Too many open files"), "{}", rig.log());
}

async fn a_replica_that_is_too_old_for_the_database_hands_over_and_writes_nothing(place: Place) {
    let plan = Plan::live(3 * SECOND).set("http.listen", "127.0.0.1:0");
    let rig = Rig::started(place, plan).await;
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    let dashboard = rig.dashboard().await;
    change(
        &rig,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values (9999, 'from the future', true, 'x', 0)",
    )
    .await;
    rig.says("nothing is written any more").await;
    let (status, body) = ready(&dashboard).await;
    assert!(status == 503 && body.contains("a newer version of this program has migrated"), "{status}: {body}");
    rig.until("it asks for nothing any more", async || {
        let before = rig.sim.stats().requests_in_all();
        rig.clock.sleep(SECOND).await;
        before == rig.sim.stats().requests_in_all()
    })
    .await;
    assert_eq!(fetched(&format!("{dashboard}healthz")).await.0, 200, "it is alive");
    // Put back, it goes on.
    change(&rig, "delete from _sqlx_migrations where version = 9999").await;
    rig.until("it is ready again", async || ready(&dashboard).await.0 == 200).await;
    rig.settled().await;
}

async fn work_that_a_wrong_clock_has_put_off_is_done_after_a_restart(place: Place) {
    let plan = Plan::history().sim(|sim| sim.availability.transcript_after = millis(22_000, 23_000));
    let mut rig = Rig::started(place, plan).await;
    rig.until("transcripts are waited for", async || rig.account().await["work"]["waiting"].as_u64() > Some(0)).await;
    rig.kill().await;
    // As a machine leaves it whose clock was 400 days ahead, and two hours.
    for (ahead, which) in [("34560000000", "0"), ("7200000", "1")] {
        let shifted = format!(
            "update work set due = due + {ahead}, created = created + {ahead}, first_try = first_try + {ahead},
             last_try = last_try + {ahead} where segment % 2 = {which}"
        );
        change(&rig, shifted.leak()).await;
    }
    rig.start();
    rig.says("what was put off by a clock that was ahead is due again").await;
    rig.settled().await;
}

/// As with a dump of the night before, which knows nothing of what was read since, nor of the newest leases.
async fn a_database_that_is_put_back_to_an_earlier_state_is_gone_on_with(place: Place) {
    let mut rig = Rig::started(place, Plan::live(6 * SECOND)).await;
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 3).await;
    rig.stop().await;
    rig.start();
    rig.until("it works again", async || rig.log().matches("working").count() > 1).await;
    change(&rig, "update account set owner = null, epoch = epoch - 1").await;
    rig.says("the lease on this account was ended meanwhile").await;
    rig.until("it is taken again", async || rig.account().await["owner"] == "e2e").await;
    let read = rig.account().await["watermark"].clone();
    rig.until("it reads on", async || rig.account().await["watermark"] != read).await;
    // The same lease, and coverage that is behind what the daemon remembers.
    change(&rig, "delete from reading where nth > 1").await;
    change(&rig, "delete from coverage where pass <> 'live'").await;
    change(&rig, "update coverage set to_ms = from_ms + 2000").await;
    rig.says("the database was put back to an earlier state").await;
    rig.complete().await;
    rig.audit_passes().await;
    rig.kept_the_contract();
}

/// What is answered to these bytes, up to the end of the connection.
async fn answer(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(20 * SECOND, stream.read_to_end(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn login(token: &str) -> String {
    let form = format!("token={token}");
    format!(
        "POST /login HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{form}",
        form.len()
    )
}

async fn with_token(place: Place) -> (Rig, String) {
    let plan = Plan::history().set("http.listen", "127.0.0.1:0").set("http.token", format!("{SECRET_MARK}-http-token"));
    let rig = Rig::started(place, plan).await;
    let address = address(&rig).await;
    (rig, address)
}

async fn address(rig: &Rig) -> String {
    rig.dashboard().await.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

async fn clients_that_do_nothing_and_clients_that_guess_hold_up_nobody(place: Place) {
    let (rig, address) = with_token(place).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        idle.push(stream);
    }
    let asked = rig.clock.tick();
    let probe = answer(&address, "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(probe.starts_with("HTTP/1.1 200 "), "{probe}");
    let took = rig.clock.tick().since(asked);
    assert!(took < 5 * SECOND, "a probe was answered after {took:?}");
    for _ in 0..300 {
        let refused = answer(&address, &login("guess")).await;
        assert!(refused.starts_with("HTTP/1.1 4"), "{refused}");
    }
    let lines = rig.log().matches("a wrong http.token was given").count();
    assert!((1..=3).contains(&lines), "{lines} lines of the log");
    for path in ["/metrics", "/healthz", "/readyz"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
        assert!(answer(&address, &request).await.starts_with("HTTP/1.1 421 "), "{path}");
    }
    drop(idle);
    rig.settled().await;
}

async fn a_session_that_was_ended_stays_ended_after_a_restart(place: Place) {
    let (mut rig, mut address) = with_token(place).await;
    let session = async |address: &str| {
        let entered = answer(address, &login(&format!("{SECRET_MARK}-http-token"))).await;
        let cookie = entered.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie").to_owned();
        cookie.split(';').next().unwrap().to_owned()
    };
    let search = |cookie: &str| {
        format!("GET /search HTTP/1.1\r\nhost: localhost\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n")
    };
    let (ended, kept) = (session(&address).await, session(&address).await);
    let leave = format!(
        "POST /logout HTTP/1.1\r\nhost: localhost\r\ncookie: {ended}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    assert!(answer(&address, &search(&ended)).await.starts_with("HTTP/1.1 200 "));
    assert!(answer(&address, &leave).await.starts_with("HTTP/1.1 303 "));
    rig.stop().await;
    rig.start();
    rig.until("it listens again", async || rig.log().matches("the dashboard is at ").count() > 1).await;
    address = self::address(&rig).await;
    assert!(answer(&address, &search(&ended)).await.starts_with("HTTP/1.1 401 "));
    assert!(answer(&address, &search(&kept)).await.starts_with("HTTP/1.1 200 "));
    let name: Value = rig.json(&["status", "--json"]).await;
    assert!(!name.to_string().contains(&ended));
}

fn file(rig: &Rig) -> PathBuf {
    PathBuf::from(rig.place.url.strip_prefix("sqlite:").unwrap())
}

async fn asks_for_nothing(rig: &Rig) {
    rig.until("it asks for nothing any more", async || {
        let before = rig.sim.stats().requests_in_all();
        rig.clock.sleep(2 * SECOND).await;
        before == rig.sim.stats().requests_in_all()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_file_that_is_renamed_is_noticed_and_when_it_is_back_it_goes_on() {
    let mut rig = Rig::started(Place::sqlite(), Plan::live(3 * SECOND).set("http.listen", "127.0.0.1:0")).await;
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    let (dashboard, file) = (rig.dashboard().await, file(&rig));
    let aside = file.with_extension("aside");
    for replaced in [false, true] {
        std::fs::rename(&file, &aside).unwrap();
        if replaced {
            std::fs::write(&file, "another file").unwrap();
        }
        let how = if replaced { "was replaced by another one" } else { "is not there any more" };
        rig.until("it is not ready, and says why", async || {
            let (status, body) = ready(&dashboard).await;
            status == 503 && body.contains(how)
        })
        .await;
        asks_for_nothing(&rig).await;
        std::fs::rename(&aside, &file).unwrap();
        rig.until("it is ready again", async || ready(&dashboard).await.0 == 200).await;
    }
    let id = rig.main_account();
    still_fetches(&rig, &id, "once the file is back").await;
    rig.settled().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_file_that_is_overwritten_is_noticed_and_a_restart_goes_on_with_it() {
    let mut rig = Rig::started(Place::sqlite(), Plan::history().set("http.listen", "127.0.0.1:0")).await;
    rig.complete().await;
    rig.stop().await;
    // An older copy of the same archive.
    let (copy, file) = (rig.place.folder.path().join("copy.db"), file(&rig));
    std::fs::copy(&file, &copy).unwrap();
    rig.start();
    rig.until("it works again", async || rig.log().matches("working").count() > 1).await;
    let dashboard =
        rig.log().rsplit("the dashboard is at ").next().unwrap().split_whitespace().next().unwrap().to_owned();
    rig.until("it is ready", async || ready(&dashboard).await.0 == 200).await;
    std::fs::copy(&copy, &file).unwrap();
    rig.until("it is not ready, and says why", async || {
        let (status, body) = ready(&dashboard).await;
        status == 503 && body.contains("was overwritten") && body.contains("put the right file back")
    })
    .await;
    asks_for_nothing(&rig).await;
    assert!(rig.is_running());
    rig.stop().await;
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{ending}", file.display()));
    }
    std::fs::copy(&copy, &file).unwrap();
    rig.start();
    rig.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_the_database_that_is_removed_is_noticed_and_a_restart_loses_nothing() {
    let mut rig = Rig::started(Place::sqlite(), Plan::history().set("http.listen", "127.0.0.1:0")).await;
    let dashboard = rig.dashboard().await;
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 5).await;
    std::fs::remove_file(format!("{}-wal", file(&rig).display())).unwrap();
    rig.until("it is not ready, and says why", async || {
        let (status, body) = ready(&dashboard).await;
        status == 503 && body.contains("was removed")
    })
    .await;
    asks_for_nothing(&rig).await;
    rig.stop().await;
    rig.start();
    rig.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_daemon_is_refused_whatever_it_calls_the_file() {
    let mut rig = Rig::started(Place::sqlite(), Plan::live(2 * SECOND)).await;
    rig.says("working").await;
    let (folder, file) = (rig.place.folder.path().to_owned(), file(&rig));
    let (symbolic, hard) = (folder.join("symbolic.db"), folder.join("hard.db"));
    std::os::unix::fs::symlink(&file, &symbolic).unwrap();
    std::fs::hard_link(&file, &hard).unwrap();
    std::fs::remove_file(format!("{}.lock", file.display())).unwrap();
    for path in [&symbolic, &hard, &file] {
        rig.set("database.url", format!("sqlite:{}", path.display()));
        rig.run(&["run"]).await.is(1, &["another daemon", "hint:"]);
    }
    assert!(rig.is_running(), "the first goes on");
    rig.settled().await;
    rig.stop().await;
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
        for id in ids(3) {
            keys.push(db.enrol(&id, None, now).await.unwrap().key);
        }
        let beat = async |name: &str, released: Option<Time>| {
            let stats = "{}".to_owned();
            let (name, version) = (name.to_owned(), "1".to_owned());
            db.beat(&ReplicaRow { name, version, started: now, heartbeat: now, released, stats }, now).await.unwrap();
        };
        beat("a", None).await;
        beat("b", None).await;
        let held = db.take_together(&keys[..2], "a", lapse, now).await.unwrap();
        assert_eq!(held.len(), 2);
        assert!(db.take_together(&keys[2..], "b", lapse, now).await.unwrap().is_empty(), "a has the limit");
        assert_eq!(db.take_together(&keys[2..], "a", lapse, now).await.unwrap().len(), 1);
        beat("a", Some(now)).await;
        assert_eq!(db.take_together(&keys[..1], "b", lapse, now).await.unwrap().len(), 1);
        let accounts = db.accounts().await.unwrap();
        let owners: Vec<Option<&str>> = accounts.iter().map(|account| account.owner.as_deref()).collect();
        assert_eq!(owners, [Some("b"), None, None], "a may send for none of them any more");
    }
}

mod parked {
    use ringcx_extractor::db::{Announced, Chunk, LongestWaits, Reading, Settled, Settlement};
    use ringcx_extractor::model::{
        Artifact, ArtifactSet, AsideRecord, Lane, SegmentRecord, State, Stretch, Stretches, SummariesFor, Wants,
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
        SegmentRecord { segment_id, dialog_id, end: Some(NOW - HOUR), has_transcript: true, is_agent: true, raw }
    }

    async fn what_a_clock_that_was_ahead_has_put_off_waits_as_if_it_had_been_right(test: TestDb) {
        let db = &test.db;
        let key = db.enrol(&ids(1)[0], None, NOW).await.unwrap().key;
        let owned = db.take(&[key], "me", 10 * SECOND, NOW).await.unwrap().remove(0);
        let window = Stretch { from: NOW - 2 * HOUR, to: NOW };
        let announce = async |id: &str, now: Time, asides: &[AsideRecord]| {
            let artifacts = ArtifactSet::NONE.with(Artifact::Transcript).with(Artifact::AgentSummary);
            let known = Stretches::default();
            let chunk = Chunk {
                owned,
                lane: Lane::Live,
                stretch: window,
                now,
                wants: Wants { artifacts, summaries_for: SummariesFor::Transcribed },
                known: &known,
                urgent_before: None,
                repair: 60 * SECOND,
                records: &[record(id)],
                asides,
            };
            db.announce(chunk).await.unwrap();
        };
        let claim = async |id: &str, artifact: Artifact| {
            let due = db.due(owned, ArtifactSet::ALL, Time(i64::MAX), 100).await.unwrap();
            due.into_iter().find(|claim| claim.segment_id == id && claim.artifact == artifact).unwrap()
        };
        let failed = async |id: &str, artifact: Artifact, at: Time, wait: Duration| {
            let claim = claim(id, artifact).await;
            let (status, reason) = (Some(404), "not there".to_owned());
            let (state, due) = (State::Open, at + wait);
            let settlement = Settlement::Failed { state, due, misses: 1, refusals: 0, status, reason, broken: None };
            db.settle(&[Settled { claim, at, settlement }]).await.unwrap();
        };
        let (days, hours) = (NOW + 400 * 24 * HOUR, NOW + 2 * HOUR);
        // By a clock that was right: announced, waiting as long as it may, and to be visited again.
        announce("right", NOW, &[]).await;
        failed("right", Artifact::Transcript, NOW, 6 * HOUR).await;
        let claimed = claim("right", Artifact::AgentSummary).await;
        let visit = Settlement::not_populated(Some(NOW + 24 * HOUR));
        db.settle(&[Settled { claim: claimed, at: NOW, settlement: visit }]).await.unwrap();
        // By one that was 400 days ahead, and one that was two hours ahead.
        let aside = AsideRecord { segment_id: None, reason: "no id".to_owned(), raw: "{}".to_owned() };
        announce("days", days, &[aside]).await;
        failed("days", Artifact::Transcript, days, HOUR).await;
        announce("hours", hours, &[]).await;
        let claimed = claim("hours", Artifact::AgentSummary).await;
        let visit = Settlement::not_populated(Some(hours + 24 * HOUR));
        db.settle(&[Settled { claim: claimed, at: hours, settlement: visit }]).await.unwrap();
        // Put off by the wrong clock, and not tried.
        announce("deferred", NOW, &[]).await;
        let claimed = claim("deferred", Artifact::Transcript).await;
        let deferred = Settlement::Deferred { due: days, first_try: Some(NOW) };
        db.settle(&[Settled { claim: claimed, at: days, settlement: deferred }]).await.unwrap();
        db.run(
            sql("insert into sink_event (sink, account, feed, item, state, tries, waited, first_try, last_try, due, reason)
                 values (1, $1, 1, 4, 0, 1, 0, $2, $2, $2, 'x'), (1, $1, 2, 4, 0, 1, 0, $3, $3, $4, 'x')")
                .bind(key).bind(days).bind(NOW).bind(NOW + 24 * HOUR),
        )
        .await
        .unwrap();

        let longest = LongestWaits { retry: 6 * HOUR, revisit: 24 * HOUR };
        // While that clock is still believed, nothing is wrong.
        assert_eq!(db.release_parked(owned, days, days, longest).await.unwrap(), 0);
        assert_eq!(db.release_parked(owned, NOW, NOW, longest).await.unwrap(), 7);
        assert_eq!(db.release_parked(owned, NOW, NOW, longest).await.unwrap(), 0, "again");
        let waits = async |id: &str, artifact: Artifact| claim(id, artifact).await.due.since(NOW);
        assert_eq!(waits("right", Artifact::Transcript).await, 6 * HOUR);
        assert_eq!(waits("right", Artifact::AgentSummary).await, 24 * HOUR);
        assert_eq!(waits("days", Artifact::Transcript).await, HOUR);
        assert_eq!(claim("days", Artifact::Transcript).await.first_try, Some(NOW));
        assert_eq!(waits("days", Artifact::AgentSummary).await, Duration::ZERO);
        assert_eq!(waits("hours", Artifact::Transcript).await, Duration::ZERO);
        assert_eq!(waits("hours", Artifact::AgentSummary).await, 24 * HOUR);
        assert_eq!(waits("deferred", Artifact::Transcript).await, Duration::ZERO);
        let waiting = db.missed_due(1, "me", NOW, 10).await.unwrap();
        assert_eq!(waiting.iter().map(|missed| (missed.feed, missed.last_try)).collect::<Vec<_>>(), [(1, NOW)]);
        // The record that was set aside is read again at once, and settled by a read that no longer brings it.
        assert_eq!(db.repairs(key).await.unwrap(), [(window, NOW)]);
        let (at, lane, announced) = (NOW + SECOND, Lane::Live, Announced::default());
        let reading =
            Reading { at, done: at, lane, stretch: window, announced, passes: Vec::new(), finished: Vec::new() };
        db.record_reading(owned, &reading).await.unwrap();
        assert_eq!(db.repairs(key).await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_not_taken_from_a_replica_whose_heartbeat_is_under_way() {
    for together in [true, false] {
        let place = Place::postgres().await;
        let db = Db::open_postgres(&SecretString::from(place.url.clone()), Access::Own, 4).await.unwrap();
        let (now, lapse) = (Clock::system().now(), 10 * SECOND);
        let keys = [db.enrol(&ids(1)[0], None, now).await.unwrap().key];
        let (name, version, stats) = ("a".to_owned(), "1".to_owned(), "{}".to_owned());
        db.beat(&ReplicaRow { name, version, started: now, heartbeat: now, released: None, stats }, now).await.unwrap();
        let take = async |name: &str| match together {
            true => db.take_together(&keys, name, lapse, now).await.unwrap(),
            false => db.take(&keys, name, lapse, now).await.unwrap(),
        };
        assert_eq!(take("a").await.len(), 1);
        let mut heartbeat = sqlx::PgConnection::connect(&place.url).await.unwrap();
        sqlx::raw_sql("update replica set heartbeat = heartbeat - 60000").execute(&mut heartbeat).await.unwrap();
        sqlx::raw_sql("begin; update replica set heartbeat = heartbeat + 60000").execute(&mut heartbeat).await.unwrap();
        let mut taken = std::pin::pin!(take("b"));
        let early = tokio::time::timeout(SECOND, &mut taken).await;
        assert!(early.is_err(), "taken while a comes back, which cannot know: {early:?}");
        sqlx::raw_sql("commit").execute(&mut heartbeat).await.unwrap();
        assert_eq!(taken.await, [], "a is there again");
        heartbeat.close().await.unwrap();
        db.close().await;
    }
}

/// Another database of the same server.
fn beside(url: &str, name: &str) -> String {
    let (start, rest) = url.split_at(url.find("/t").unwrap());
    format!("{start}/{name}{}", &rest[rest.find('?').unwrap()..])
}

fn name_of(url: &str) -> String {
    let start = url.find("/t").unwrap() + 1;
    url[start..url.find('?').unwrap()].to_owned()
}

async fn admin(url: &str) -> sqlx::PgConnection {
    sqlx::PgConnection::connect(&beside(url, "postgres")).await.unwrap()
}

async fn tell(admin: &mut sqlx::PgConnection, statement: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(admin).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_someone_has_locked_costs_no_lease() {
    let ids = ids(14);
    let plan = Plan::live(4 * SECOND).set("accounts", listed(&ids)).sim(|sim| {
        sim.accounts = ids.clone();
        sim.traffic.per_minute = 10.0;
    });
    let rig = Rig::started(Place::postgres().await, plan).await;
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 3).await;
    // More than the connections that the daemon has wait for this. One table: with two, the daemon may hold the other.
    let mut holder = sqlx::PgConnection::connect(&rig.place.url).await.unwrap();
    sqlx::raw_sql("begin; lock table segment in access exclusive mode").execute(&mut holder).await.unwrap();
    let locked = rig.clock.tick();
    const SILENT_FOR: &str =
        "select cast(extract(epoch from clock_timestamp()) * 1000 as bigint) - max(heartbeat) from replica";
    while rig.clock.tick().since(locked) < 15 * SECOND {
        let silent: i64 = sqlx::query_scalar(SILENT_FOR).fetch_one(&mut holder).await.unwrap();
        assert!(silent < 7_000, "no heartbeat for {silent} ms");
        rig.clock.sleep(SECOND / 2).await;
    }
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    rig.settled().await;
    let epochs = open(&rig).await;
    assert!(epochs.accounts().await.unwrap().iter().all(|account| account.owner.as_deref() == Some("e2e")));
    epochs.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_timeout_a_renamed_database_and_a_rotated_login_are_waited_out() {
    let plan = Plan::live(3 * SECOND).set("http.listen", "127.0.0.1:0").unset("database.url");
    let place = Place::postgres().await;
    let url = place.url.clone();
    let (name, file) = (name_of(&url), place.folder.path().join("url"));
    let mut admin = admin(&url).await;
    let (old, new) = (format!("old_{name}"), format!("new_{name}"));
    tell(&mut admin, format!("create role {old} login superuser")).await;
    tell(&mut admin, format!("alter database {name} set lock_timeout = '100ms'")).await;
    std::fs::write(&file, url.replace("postgres@", &format!("{old}@"))).unwrap();
    let mut rig = Rig::new(place, plan).await;
    rig.plan.settings.remove("database.url");
    rig.set("database.url_file", file.display().to_string());
    rig.start();
    rig.until("transcripts are fetched", async || rig.sim.stats().ok(Endpoint::Transcript) > 0).await;
    let dashboard = rig.dashboard().await;
    rig.until("it is ready", async || ready(&dashboard).await.0 == 200).await;
    // Someone holds a lock for longer than the server lets anyone wait.
    let mut holder = sqlx::PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("set lock_timeout = 0; begin; lock table replica, pause, account in access exclusive mode")
        .execute(&mut holder)
        .await
        .unwrap();
    rig.says("the database is away").await;
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
    rig.until("it is ready again", async || ready(&dashboard).await.0 == 200).await;
    // The database is renamed.
    let away = format!("away_{name}");
    tell(&mut admin, format!("alter database {name} allow_connections false")).await;
    let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'");
    tell(&mut admin, end.clone()).await;
    rig.until("nobody is connected", async || {
        let mut other = self::admin(&url).await;
        let rename = format!("alter database {name} rename to {away}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(rename)).execute(&mut other).await.is_ok()
    })
    .await;
    rig.until("it is not ready", async || ready(&dashboard).await.0 == 503).await;
    rig.clock.sleep(3 * SECOND).await;
    assert!(rig.is_running(), "it waits");
    tell(&mut admin, format!("alter database {away} rename to {name}")).await;
    tell(&mut admin, format!("alter database {name} allow_connections true")).await;
    rig.until("it is ready again", async || ready(&dashboard).await.0 == 200).await;
    // The login is rotated, and the file that it stands in is written after that.
    tell(&mut admin, format!("alter role {old} rename to {new}")).await;
    tell(&mut admin, end).await;
    rig.until("it is not ready", async || ready(&dashboard).await.0 == 503).await;
    rig.clock.sleep(2 * SECOND).await;
    assert!(rig.is_running(), "it waits");
    std::fs::write(&file, url.replace("postgres@", &format!("{new}@"))).unwrap();
    rig.until("it is ready again", async || ready(&dashboard).await.0 == 200).await;
    rig.settled().await;
    rig.stop().await;
}
