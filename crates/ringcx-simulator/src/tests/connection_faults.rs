//! Faults as a client sees them on its connections.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Sends `request` on a plain socket, and reads until the server closes or resets the connection.
/// Returns the received text and whether the connection was reset.
async fn send_raw(env: &SimTestEnv, request: &str) -> (String, bool) {
    let mut socket = TcpStream::connect(env.sim.base_url().trim_start_matches("http://")).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let end = socket.read_to_end(&mut seen).await;
    (String::from_utf8_lossy(&seen).into_owned(), end.is_err())
}

fn raw_list_request(env: &SimTestEnv) -> String {
    format!(
        "GET /voice/api/v1/admin/accounts HTTP/1.1\r\nHost: sim\r\nUser-Agent: raw/1\r\nAuthorization: Bearer {}\r\n\r\n",
        env.token
    )
}

fn accounts_fault(rates: FaultRates) -> Faults {
    Faults { accounts: rates, ..Faults::default() }
}

#[tokio::test]
async fn a_reset_ends_the_connection_before_or_within_the_headers() {
    let env = SimTestEnv::start(unlimited_options()).await;
    env.sim.set_faults(accounts_fault(FaultRates { reset: 1.0, ..FaultRates::default() }));
    let mut lengths = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (seen, reset) = send_raw(&env, &raw_list_request(&env)).await;
        assert!(reset && seen.len() <= 60 && !seen.contains("\r\n\r\n"), "{seen:?}");
        assert!("HTTP/1.1 200 OK".starts_with(&seen[..seen.len().min(15)]), "{seen:?}");
        lengths.insert(seen.len());
    }
    assert!(lengths.contains(&0) && lengths.len() > 3, "{lengths:?}");
    let request = env.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&env.token);
    assert!(request.send().await.is_err());
    assert_eq!(env.sim.stats().statuses[&(Endpoint::Accounts, 0)], 21);
}

#[tokio::test]
async fn a_truncated_answer_ends_in_the_body_with_and_without_a_length() {
    let env = SimTestEnv::start(unlimited_options()).await;
    env.sim.set_faults(accounts_fault(FaultRates { truncate: 1.0, ..FaultRates::default() }));
    let (mut with_length, mut chunked) = (0, 0);
    for _ in 0..20 {
        let (seen, _) = send_raw(&env, &raw_list_request(&env)).await;
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if let Some(length) = length {
            with_length += 1;
            assert!(!body.is_empty() && body.len() < length.parse().unwrap(), "{seen:?}");
        } else {
            chunked += 1;
            assert!(head.contains("chunked") && !body.is_empty() && !body.contains("\r\n0\r\n"), "{seen:?}");
        }
        let request = env.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&env.token);
        assert!(request.send().await.unwrap().bytes().await.is_err());
    }
    assert!(with_length > 0 && chunked > 0);
}

#[tokio::test]
async fn a_truncated_metadata_answer_announces_nothing() {
    let env = SimTestEnv::start(Options {
        traffic: Traffic { per_minute: 200.0, ..unlimited_options().traffic },
        ..unlimited_options()
    })
    .await;
    let faults = Faults { metadata: FaultRates { truncate: 1.0, ..FaultRates::default() }, ..Faults::default() };
    env.sim.set_faults(faults);
    let query = serde_json::json!({
        "segmentEndTime": "2026-11-20 09:10:00", "timeInterval": 1800, "timeZone": "UTC",
    });
    let response = env.metadata_request(&query).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    assert_eq!(env.sim.expected_archive().announced_count(), 0);
}

#[tokio::test]
async fn each_kind_of_fault_affects_only_its_answer() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let entry = env.last_hour().into_iter().find(|entry| entry.has_transcript).unwrap();
    let fetch_with_faults = async |rates: FaultRates| {
        env.sim.set_faults(Faults { transcript: rates, ..Faults::default() });
        env.fetch_artifact(&entry, Artifact::Transcript).await
    };
    let none = FaultRates::default();
    for (rates, status) in [
        (FaultRates { status_500: 1.0, ..none }, 500),
        (FaultRates { status_502: 1.0, ..none }, 502),
        (FaultRates { status_503: 1.0, ..none }, 503),
        (FaultRates { not_found: 1.0, ..none }, 404),
        (FaultRates { too_many: 1.0, ..none }, 429),
        (FaultRates { unauthorised: 1.0, ..none }, 401),
    ] {
        assert_eq!(fetch_with_faults(rates).await.status, status);
    }
    let malformed = fetch_with_faults(FaultRates { malformed: 1.0, ..none }).await;
    assert!(malformed.status == 200 && serde_json::from_str::<Value>(&malformed.body).is_err());
    let with_error_code = fetch_with_faults(FaultRates { error_code: 1.0, ..none }).await;
    assert!(with_error_code.status == 200 && with_error_code.json()["errorCode"].is_string());
    let slow_for = DelayRange::secs(5, 5);
    env.sim.set_faults(Faults { transcript: FaultRates { slow: 1.0, slow_for, ..none }, ..Faults::default() });
    let slow = env.fetch_artifact(&entry, Artifact::Transcript);
    let moves = async {
        while !env.sim.stats().faults.contains_key("slow") {
            tokio::task::yield_now().await;
        }
        env.clock.advance(Duration::from_secs(5));
    };
    let (slow, ()) = futures_util::future::join(slow, moves).await;
    assert_eq!(slow.status, 200);
    assert_eq!(fetch_with_faults(none).await.status, 200);
    assert_eq!(env.sim.stats().total_refused(), 0, "an injected refusal does not count as one");
    assert_eq!(env.sim.expected_archive().serve_count(&env.account, &entry.segment_id, Artifact::Transcript), 1);
    env.assert_no_violations();
}

#[tokio::test]
async fn in_an_outage_nothing_answers() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let control = env.sim.control();
    let get = || env.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&env.token);
    control.add_outage(START, START + Duration::from_secs(10), OutageKind::Closed);
    assert!(get().send().await.is_err(), "on an open connection");
    assert_eq!(send_raw(&env, "").await, (String::new(), true));
    env.clock.advance(Duration::from_secs(10));
    assert_eq!(env.send(get()).await.status, 200);
    control.add_outage(env.sim.now(), env.sim.now() + Duration::from_secs(10), OutageKind::Unavailable);
    assert_eq!(env.send(get()).await.status, 503);
    env.clock.advance(Duration::from_secs(10));
    assert_eq!(env.send(get()).await.status, 200);
}

#[tokio::test]
async fn wrong_headers_are_violations() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let entry = &env.last_hour()[0];
    env.assert_no_violations();
    let path = format!("/voice/api/v1/summary/accounts/99999999/segments/{}/auto", encode(&entry.segment_id));
    let request = |agent: &str, cookie: &str| {
        let close = "Connection: close\r\n\r\n";
        format!("GET {path} HTTP/1.1\r\nHost: sim\r\n{agent}{cookie}: access_token={}\r\n{close}", env.token)
    };
    let (seen, _) = send_raw(&env, &request("User-Agent: raw/1\r\n", "cookie")).await;
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    env.assert_no_violations();
    let (seen, _) = send_raw(&env, &request("User-Agent: raw/1\r\n", "Cookie")).await;
    assert!(seen.starts_with("HTTP/1.1 401"), "{seen}");
    env.assert_violation("the cookie header is not lowercase");
    send_raw(&env, &request("", "cookie")).await;
    env.assert_violation("User-Agent does not give name and version");
}

#[tokio::test]
async fn there_is_one_date_header_with_the_simulated_time() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let get = || env.request(Method::GET, "/nowhere");
    let dates = async || {
        let answer = env.send(get()).await;
        answer.headers.get_all("date").iter().map(|date| date.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(dates().await, ["Fri, 20 Nov 2026 10:00:00 GMT"]);
    env.clock.advance(Duration::from_millis(86_400_500));
    env.sim.control().set_skew(-1_000);
    assert_eq!(dates().await, ["Sat, 21 Nov 2026 09:59:59 GMT"]);
}

#[tokio::test]
async fn stopping_ends_every_connection_and_frees_the_port() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let address = env.sim.base_url().trim_start_matches("http://").to_owned();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(raw_list_request(&env).as_bytes()).await.unwrap();
    assert!(idle.read_u8().await.is_ok());
    env.sim.stop().await;
    let mut rest = Vec::new();
    // The connection was reset or closed.
    drop(idle.read_to_end(&mut rest).await);
    assert!(TcpStream::connect(&address).await.is_err());
}
