use super::*;
use crate::backoff::Fault;
use crate::clock::Clock;
use crate::test_server::{
    CountingStore, LoopbackServer, RawRequest, ScriptedReply, account, api, login, ok, pacer, permanent_login, quota,
    quota_in, reply, ringcentral_credentials,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const WINDOW: Window = Window { start: 1_721_647_487, seconds: 900 };

/// Reads a window and collects its records.
async fn read(server: &LoopbackServer) -> (Result<ReadSummary, ApiError>, Vec<ParsedRecord>) {
    let clock = Clock::system();
    let (api, pacer, quota) = (api(server, clock.clone()), pacer(clock.clone()), quota(clock));
    let (sender, mut records) = mpsc::channel(2);
    let login = permanent_login(&api);
    let permit = pacer.acquire().await;
    let account = account();
    let reading = read_metadata(&api, &login, &pacer, permit, &quota, &account, WINDOW, sender);
    let collecting = async {
        let mut all = Vec::new();
        while let Some(batch) = records.recv().await {
            all.extend(batch);
        }
        all
    };
    tokio::join!(reading, collecting)
}

async fn read_text(body: &'static str) -> (Result<ReadSummary, ApiError>, Vec<ParsedRecord>) {
    read(&LoopbackServer::start(move |_| ok(body))).await
}

#[tokio::test]
async fn the_window_is_requested_in_utc_to_the_second() {
    let server = LoopbackServer::start(|_| ok("[]"));
    assert_eq!(read(&server).await.0.unwrap(), ReadSummary { announced: 0, quarantined: 0, bytes: 2 });
    let request = server.requests().pop().unwrap();
    assert!(request.head.starts_with(
        "POST /voice/api/cx/integration/v1/accounts/980634004/sub-accounts/99999999/interaction-metadata HTTP/1.1\r\n"
    ));
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body, json!({"segmentEndTime":"2024-07-22 11:24:47","timeInterval":900,"timeZone":"UTC"}));
}

#[tokio::test]
async fn records_arrive_in_order_quarantined_ones_included() {
    let (summary, records) = read_text(" [ {\"segmentId\":\"a\"} , 7, {\"segmentId\":\"b\"}]\n ").await;
    let summary = summary.unwrap();
    assert_eq!((summary.announced, summary.quarantined), (3, 1));
    assert!(
        matches!(&records[..], [ParsedRecord::Segment(a), ParsedRecord::Quarantined(seven), ParsedRecord::Segment(b)]
        if a.segment_id == "a" && a.raw == "{\"segmentId\":\"a\"}" && seven.raw == "7" && b.segment_id == "b")
    );
}

#[tokio::test]
async fn an_answer_in_another_charset_is_decoded() {
    let text = "[{\"segmentId\":\"a\",\"agentNotes\":\"café\"},{\"segmentId\":\"b\"}]";
    let latin =
        text.replace('é', "?").into_bytes().iter().map(|byte| if *byte == b'?' { 0xe9 } else { *byte }).collect();
    let utf_16: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    for (declared, body) in [
        ("charset=ISO-8859-1", latin),
        ("charset=UTF-16", utf_16.clone()),
        ("x=y", [&b"\xfe\xff"[..], &utf_16].concat()),
        ("x=y", format!("\u{feff}{text}").into_bytes()),
    ] {
        let headers = format!("content-type: application/json;{declared}\r\n");
        let (summary, records) = read(&LoopbackServer::start(move |_| reply(200, &headers, &body))).await;
        assert_eq!(summary.unwrap().announced, 2);
        assert!(matches!(&records[0], ParsedRecord::Segment(segment) if segment.raw.contains("café")), "{declared}");
    }
}

#[tokio::test]
async fn null_is_an_empty_array() {
    assert_eq!(read_text("null").await.0.unwrap().announced, 0);
}

#[tokio::test]
async fn anything_but_one_array_is_an_error() {
    for body in ["", " ", "{}", "{\"message\":\"Anna\"}", "\"Anna\"", "7", "[] x", "[]]", "[{]", "<html>", "[1 2]"] {
        let (outcome, _) = read_text(body).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.fault, error.status), (Fault::Transient, Some(200)), "{body}");
        assert!(!format!("{error:?}").contains("Anna"));
    }
}

#[tokio::test]
async fn an_answer_that_ends_early_is_an_error_though_its_records_were_sent() {
    let array: String = (0..1200).map(|n| format!("{{\"segmentId\":\"{n}\"}},")).collect();
    for (headers, tail) in [("content-length: 900000", ""), ("connection: close", ""), ("connection: close", "{\"a\"")]
    {
        let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n[{array}{tail}");
        let server = LoopbackServer::start(move |_| ScriptedReply::Cut(text.clone().into_bytes()));
        let (outcome, records) = read(&server).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.fault, error.cause, error.status), (Fault::Transient, ErrorCause::ConnectionLost, Some(200)));
        assert_eq!(records.len(), 1000);
    }
    let whole = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n";
    let server = LoopbackServer::start(move |_| ScriptedReply::Cut(whole.into()));
    assert_eq!(read(&server).await.0.unwrap_err().cause, ErrorCause::ConnectionLost, "the end of the body is missing");
}

/// `count` elements of some 300 bytes.
fn large_answer_server(count: usize) -> LoopbackServer {
    LoopbackServer::start(move |_: &RawRequest| {
        ScriptedReply::Stream(Box::new(move |out| {
            let mut out = std::io::BufWriter::with_capacity(256 * 1024, out);
            use std::io::Write as _;
            out.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[")?;
            for n in 0..count {
                let comma = if n == 0 { "" } else { "," };
                let note = "n".repeat(200);
                write!(out, "{comma}{{\"segmentId\":\"p-v-{n}\",\"hasTranscript\":false,\"agentNotes\":\"{note}\"}}")?;
            }
            out.write_all(b"]")?;
            out.flush()
        }))
    })
}

#[tokio::test]
async fn a_large_answer_is_never_buffered_as_a_whole() {
    let server = large_answer_server(100_000);
    let clock = Clock::system();
    let (api, pacer, quota) = (api(&server, clock.clone()), pacer(clock.clone()), quota(clock));
    let (sender, mut batches) = mpsc::channel::<Vec<ParsedRecord>>(2);
    let login = permanent_login(&api);
    let permit = pacer.acquire().await;
    let account = account();
    let reading = read_metadata(&api, &login, &pacer, permit, &quota, &account, WINDOW, sender);
    let collecting = async {
        let (mut seen, mut largest) = (0u64, 0);
        while let Some(batch) = batches.recv().await {
            // Only the channel can hold several batches.
            assert!(batches.len() <= 2);
            largest = largest.max(batch.len());
            for record in batch {
                assert!(
                    matches!(record, ParsedRecord::Segment(segment) if segment.segment_id == format!("p-v-{seen}"))
                );
                seen += 1;
            }
        }
        assert!(largest <= 500);
        seen
    };
    let (summary, seen) = tokio::join!(reading, collecting);
    assert_eq!((summary.unwrap().announced, seen), (100_000, 100_000));
}

#[tokio::test]
async fn an_answer_keeps_its_socket_until_it_is_read() {
    let server = large_answer_server(20_000);
    let clock = Clock::system();
    let (api, pacer, quota) = (api(&server, clock.clone()), pacer(clock.clone()), quota(clock));
    let all = api.0.sockets.available_permits();
    let (sender, mut batches) = mpsc::channel(1);
    let login = permanent_login(&api);
    let permit = pacer.acquire().await;
    let account = account();
    let reading = read_metadata(&api, &login, &pacer, permit, &quota, &account, WINDOW, sender);
    let collecting = async {
        batches.recv().await.unwrap();
        assert_eq!(api.0.sockets.available_permits(), all - 1);
        while batches.recv().await.is_some() {}
    };
    let (summary, ()) = tokio::join!(reading, collecting);
    summary.unwrap();
    assert_eq!(api.0.sockets.available_permits(), all);
}

#[tokio::test]
async fn dropping_the_receiver_stops_the_read() {
    let server = large_answer_server(1_000_000);
    let clock = Clock::system();
    let (api, pacer, quota) = (api(&server, clock.clone()), pacer(clock.clone()), quota(clock));
    let (sender, mut batches) = mpsc::channel(1);
    let login = permanent_login(&api);
    let permit = pacer.acquire().await;
    let account = account();
    let reading = read_metadata(&api, &login, &pacer, permit, &quota, &account, WINDOW, sender);
    let leaving = async move {
        batches.recv().await.unwrap();
        drop(batches);
    };
    let (outcome, ()) = tokio::join!(reading, leaving);
    assert_eq!(outcome.unwrap_err().cause, ErrorCause::ReceiverDropped);
}

#[tokio::test]
async fn an_endless_record_is_refused() {
    let server = LoopbackServer::start(|_| {
        ScriptedReply::Stream(Box::new(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[{\"segmentId\":\"")?;
            loop {
                out.write_all(&[b'a'; 65536])?;
            }
        }))
    });
    assert_eq!(read(&server).await.0.unwrap_err().cause, ErrorCause::TooLarge);
}

#[tokio::test]
async fn the_status_of_a_refused_window_is_reported() {
    let server = LoopbackServer::start(|_| reply(429, "retry-after: 3\r\n", ""));
    let (outcome, records) = read(&server).await;
    assert_eq!((outcome.unwrap_err().fault, records.len()), (Fault::RateLimited, 0));
    let server = LoopbackServer::start(|_| reply(400, "", r#"{"generalMessage":"The supplied data is not valid"}"#));
    assert_eq!(read(&server).await.0.unwrap_err().fault, Fault::Permanent);
}

#[tokio::test]
async fn each_send_is_reserved_including_the_repeat_after_a_401() {
    let server = LoopbackServer::start(|request| match request.target.split('?').next().unwrap() {
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc"}"#),
        "/api/auth/login/rc/accesstoken" => ok(r#"{"accessToken":"old","refreshToken":"r"}"#),
        "/api/auth/token/refresh" => ok(r#"{"accessToken":"new","refreshToken":"s"}"#),
        _ if request.header("authorization") == Some("Bearer new") => ok("[]"),
        _ => reply(401, "", "Jwt is expired"),
    });
    let clock = Clock::system();
    let (api, pacer, store) = (api(&server, clock.clone()), pacer(clock.clone()), Arc::new(CountingStore::default()));
    let quota = quota_in(Arc::clone(&store) as Arc<_>, clock);
    let (sender, _records) = mpsc::channel(1);
    let login = login(&api, ringcentral_credentials());
    let permit = pacer.acquire().await;
    read_metadata(&api, &login, &pacer, permit, &quota, &account(), WINDOW, sender).await.unwrap();
    assert_eq!(server.count("/interaction-metadata"), 2);
    assert_eq!((store.reserved.load(Ordering::SeqCst), store.counted.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn nothing_is_sent_without_a_reservation() {
    let server = LoopbackServer::start(|_| ok("[]"));
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock.clone()));
    let quota = quota_in(Arc::new(CountingStore { is_unavailable: true, ..CountingStore::default() }), clock);
    let (sender, _records) = mpsc::channel(1);
    let permit = pacer.acquire().await;
    let outcome = read_metadata(&api, &permanent_login(&api), &pacer, permit, &quota, &account(), WINDOW, sender).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::Transient, ErrorCause::ReservationFailed));
    assert!(server.requests().is_empty());
}
