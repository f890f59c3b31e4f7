//! That faults are faults on the wire.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// What a bare socket sees until the server closes or resets the connection: the bytes, and whether it was reset.
async fn raw(rig: &Rig, request: &str) -> (String, bool) {
    let mut socket = TcpStream::connect(rig.sim.base_url().trim_start_matches("http://")).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let end = socket.read_to_end(&mut seen).await;
    (String::from_utf8_lossy(&seen).into_owned(), end.is_err())
}

fn raw_list(rig: &Rig) -> String {
    format!(
        "GET /voice/api/v1/admin/accounts HTTP/1.1\r\nHost: sim\r\nUser-Agent: raw/1\r\nAuthorization: Bearer {}\r\n\r\n",
        rig.token
    )
}

fn accounts_fault(rates: Rates) -> Faults {
    Faults { accounts: rates, ..Faults::default() }
}

#[tokio::test]
async fn a_reset_cuts_the_connection_before_or_within_the_headers() {
    let rig = Rig::start(easy()).await;
    rig.sim.set_faults(accounts_fault(Rates { reset: 1.0, ..Rates::default() }));
    let mut lengths = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (seen, reset) = raw(&rig, &raw_list(&rig)).await;
        assert!(reset && seen.len() <= 60 && !seen.contains("\r\n\r\n"), "{seen:?}");
        assert!("HTTP/1.1 200 OK".starts_with(&seen[..seen.len().min(15)]), "{seen:?}");
        lengths.insert(seen.len());
    }
    assert!(lengths.contains(&0) && lengths.len() > 3, "{lengths:?}");
    let request = rig.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&rig.token);
    assert!(request.send().await.is_err());
    assert_eq!(rig.sim.stats().statuses[&(Endpoint::Accounts, 0)], 21);
}

#[tokio::test]
async fn a_truncated_answer_breaks_off_in_the_body_with_and_without_a_length() {
    let rig = Rig::start(easy()).await;
    rig.sim.set_faults(accounts_fault(Rates { truncate: 1.0, ..Rates::default() }));
    let (mut with_length, mut chunked) = (0, 0);
    for _ in 0..20 {
        let (seen, _) = raw(&rig, &raw_list(&rig)).await;
        let (head, body) = seen.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if let Some(length) = length {
            with_length += 1;
            assert!(!body.is_empty() && body.len() < length.parse().unwrap(), "{seen:?}");
        } else {
            chunked += 1;
            assert!(head.contains("chunked") && !body.is_empty() && !body.contains("\r\n0\r\n"), "{seen:?}");
        }
        let request = rig.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&rig.token);
        assert!(request.send().await.unwrap().bytes().await.is_err());
    }
    assert!(with_length > 0 && chunked > 0);
}

#[tokio::test]
async fn a_long_metadata_answer_can_break_off_and_announces_nothing_then() {
    let rig = Rig::start(Options { traffic: Traffic { per_minute: 200.0, ..easy().traffic }, ..easy() }).await;
    let faults = Faults { metadata: Rates { truncate: 1.0, ..Rates::default() }, ..Faults::default() };
    rig.sim.set_faults(faults);
    let ask = serde_json::json!({
        "segmentEndTime": "2026-11-20 09:10:00", "timeInterval": 1800, "timeZone": "UTC",
    });
    let response = rig.metadata_request(&ask).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err());
    assert_eq!(rig.sim.ledger().announced_count(), 0);
}

#[tokio::test]
async fn answers_can_be_late_malformed_failed_or_refused_and_the_next_one_good() {
    let rig = Rig::start(easy()).await;
    let entry = rig.hour().into_iter().find(|entry| entry.has_transcript).unwrap();
    let suffer = async |rates: Rates| {
        rig.sim.set_faults(Faults { transcript: rates, ..Faults::default() });
        rig.item(&entry, Artifact::Transcript).await
    };
    let none = Rates::default();
    for (rates, status) in [
        (Rates { status_500: 1.0, ..none }, 500),
        (Rates { status_502: 1.0, ..none }, 502),
        (Rates { status_503: 1.0, ..none }, 503),
        (Rates { not_found: 1.0, ..none }, 404),
        (Rates { too_many: 1.0, ..none }, 429),
        (Rates { unauthorised: 1.0, ..none }, 401),
    ] {
        assert_eq!(suffer(rates).await.status, status);
    }
    let malformed = suffer(Rates { malformed: 1.0, ..none }).await;
    assert!(malformed.status == 200 && serde_json::from_str::<Value>(&malformed.body).is_err());
    let coded = suffer(Rates { error_code: 1.0, ..none }).await;
    assert!(coded.status == 200 && coded.json()["errorCode"].is_string());
    let slow_for = Spread::secs(5, 5);
    rig.sim.set_faults(Faults { transcript: Rates { slow: 1.0, slow_for, ..none }, ..Faults::default() });
    let slow = rig.item(&entry, Artifact::Transcript);
    let moves = async {
        while !rig.sim.stats().faults.contains_key("slow") {
            tokio::task::yield_now().await;
        }
        rig.clock.advance(Duration::from_secs(5));
    };
    let (slow, ()) = futures_util::future::join(slow, moves).await;
    assert_eq!(slow.status, 200);
    assert_eq!(suffer(none).await.status, 200);
    assert_eq!(rig.sim.stats().refused_in_all(), 0, "a spurious refusal is not one of ours");
    assert_eq!(rig.sim.ledger().served(&rig.account, &entry.segment_id, Artifact::Transcript), 1);
    rig.assert_no_violations();
}

#[tokio::test]
async fn in_an_outage_nothing_answers_and_after_it_everything_does() {
    let rig = Rig::start(easy()).await;
    let control = rig.sim.control();
    let get = || rig.request(Method::GET, "/voice/api/v1/admin/accounts").bearer_auth(&rig.token);
    control.outage(TEN, TEN + Duration::from_secs(10), OutageKind::Closed);
    assert!(get().send().await.is_err(), "on an open connection");
    assert_eq!(raw(&rig, "").await, (String::new(), true));
    rig.clock.advance(Duration::from_secs(10));
    assert_eq!(rig.send(get()).await.status, 200);
    control.outage(rig.sim.now(), rig.sim.now() + Duration::from_secs(10), OutageKind::Unavailable);
    assert_eq!(rig.send(get()).await.status, 503);
    rig.clock.advance(Duration::from_secs(10));
    assert_eq!(rig.send(get()).await.status, 200);
}

#[tokio::test]
async fn manners_are_watched() {
    let rig = Rig::start(easy()).await;
    let entry = &rig.hour()[0];
    rig.assert_no_violations();
    let path = format!("/voice/api/v1/summary/accounts/99999999/segments/{}/auto", encode(&entry.segment_id));
    let request = |agent: &str, cookie: &str| {
        let close = "Connection: close\r\n\r\n";
        format!("GET {path} HTTP/1.1\r\nHost: sim\r\n{agent}{cookie}: access_token={}\r\n{close}", rig.token)
    };
    let (seen, _) = raw(&rig, &request("User-Agent: raw/1\r\n", "cookie")).await;
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    rig.assert_no_violations();
    let (seen, _) = raw(&rig, &request("User-Agent: raw/1\r\n", "Cookie")).await;
    assert!(seen.starts_with("HTTP/1.1 401"), "{seen}");
    rig.assert_violation("the cookie header is not lowercase");
    raw(&rig, &request("", "cookie")).await;
    rig.assert_violation("User-Agent does not give name and version");
}

#[tokio::test]
async fn the_date_header_tells_the_simulated_time_once() {
    let rig = Rig::start(easy()).await;
    let get = || rig.request(Method::GET, "/nowhere");
    let dates = async || {
        let answer = rig.send(get()).await;
        answer.headers.get_all("date").iter().map(|date| date.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(dates().await, ["Fri, 20 Nov 2026 10:00:00 GMT"]);
    rig.clock.advance(Duration::from_millis(86_400_500));
    rig.sim.control().set_skew(-1_000);
    assert_eq!(dates().await, ["Sat, 21 Nov 2026 09:59:59 GMT"]);
}

#[tokio::test]
async fn stopping_ends_every_connection_and_frees_the_port() {
    let rig = Rig::start(easy()).await;
    let address = rig.sim.base_url().trim_start_matches("http://").to_owned();
    let mut idle = TcpStream::connect(&address).await.unwrap();
    idle.write_all(raw_list(&rig).as_bytes()).await.unwrap();
    assert!(idle.read_u8().await.is_ok());
    rig.sim.stop().await;
    let mut rest = Vec::new();
    // Reset or closed, but ended.
    drop(idle.read_to_end(&mut rest).await);
    assert!(TcpStream::connect(&address).await.is_err());
}
