use super::*;
use crate::backoff::Fault;
use crate::clock::Clock;
use crate::testing::{
    Reply, Request, Server, Tally, account, api, budget, budget_in, login, ok, pacer, permanent, reply, ringcentral,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const WINDOW: Window = Window { start: 1_721_647_487, seconds: 900 };

/// Reads a window and keeps all of its records.
async fn read(server: &Server) -> (Result<ReadSummary, ApiError>, Vec<Record>) {
    let clock = Clock::system();
    let (api, pacer, budget) = (api(server, clock.clone()), pacer(clock.clone()), budget(clock));
    let (sink, mut records) = mpsc::channel(2);
    let login = permanent(&api);
    let permit = pacer.enter().await;
    let account = account();
    let reading = metadata(&api, &login, &pacer, permit, &budget, &account, WINDOW, sink);
    let gathering = async {
        let mut all = Vec::new();
        while let Some(batch) = records.recv().await {
            all.extend(batch);
        }
        all
    };
    tokio::join!(reading, gathering)
}

async fn read_text(body: &'static str) -> (Result<ReadSummary, ApiError>, Vec<Record>) {
    read(&Server::start(move |_| ok(body))).await
}

#[tokio::test]
async fn the_window_is_asked_for_in_utc_to_the_second() {
    let server = Server::start(|_| ok("[]"));
    assert_eq!(read(&server).await.0.unwrap(), ReadSummary { announced: 0, aside: 0, bytes: 2 });
    let request = server.seen().pop().unwrap();
    assert!(request.head.starts_with(
        "POST /voice/api/cx/integration/v1/accounts/980634004/sub-accounts/99999999/interaction-metadata HTTP/1.1\r\n"
    ));
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!(body, json!({"segmentEndTime":"2024-07-22 11:24:47","timeInterval":900,"timeZone":"UTC"}));
}

#[tokio::test]
async fn records_come_in_order_with_what_is_not_understood_among_them() {
    let (summary, records) = read_text(" [ {\"segmentId\":\"a\"} , 7, {\"segmentId\":\"b\"}]\n ").await;
    let summary = summary.unwrap();
    assert_eq!((summary.announced, summary.aside), (3, 1));
    assert!(matches!(&records[..], [Record::Segment(a), Record::Aside(seven), Record::Segment(b)]
        if a.segment_id == "a" && a.raw == "{\"segmentId\":\"a\"}" && seven.raw == "7" && b.segment_id == "b"));
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
        let (summary, records) = read(&Server::start(move |_| reply(200, &headers, &body))).await;
        assert_eq!(summary.unwrap().announced, 2);
        assert!(matches!(&records[0], Record::Segment(segment) if segment.raw.contains("café")), "{declared}");
    }
}

#[tokio::test]
async fn null_is_an_empty_array() {
    assert_eq!(read_text("null").await.0.unwrap().announced, 0);
}

#[tokio::test]
async fn what_is_no_array_or_has_something_after_it_was_not_read() {
    for body in ["", " ", "{}", "{\"message\":\"Anna\"}", "\"Anna\"", "7", "[] x", "[]]", "[{]", "<html>", "[1 2]"] {
        let (outcome, _) = read_text(body).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.fault, error.status), (Fault::Transient, Some(200)), "{body}");
        assert!(!format!("{error:?}").contains("Anna"));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_was_not_read_though_its_records_were_handed_on() {
    let array: String = (0..1200).map(|n| format!("{{\"segmentId\":\"{n}\"}},")).collect();
    for (headers, tail) in [("content-length: 900000", ""), ("connection: close", ""), ("connection: close", "{\"a\"")]
    {
        let text = format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n[{array}{tail}");
        let server = Server::start(move |_| Reply::Cut(text.clone().into_bytes()));
        let (outcome, records) = read(&server).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.fault, error.cause, error.status), (Fault::Transient, Cause::BrokeOff, Some(200)));
        assert_eq!(records.len(), 1000);
    }
    let whole = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[]\r\n";
    let server = Server::start(move |_| Reply::Cut(whole.into()));
    assert_eq!(read(&server).await.0.unwrap_err().cause, Cause::BrokeOff, "the body's own end is missing");
}

/// `count` elements of some 300 bytes.
fn large(count: usize) -> Server {
    Server::start(move |_: &Request| {
        Reply::Stream(Box::new(move |out| {
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
async fn a_large_answer_is_never_held_as_a_whole() {
    let server = large(100_000);
    let clock = Clock::system();
    let (api, pacer, budget) = (api(&server, clock.clone()), pacer(clock.clone()), budget(clock));
    let (sink, mut batches) = mpsc::channel::<Vec<Record>>(2);
    let login = permanent(&api);
    let permit = pacer.enter().await;
    let account = account();
    let reading = metadata(&api, &login, &pacer, permit, &budget, &account, WINDOW, sink);
    let gathering = async {
        let (mut seen, mut largest) = (0u64, 0);
        while let Some(batch) = batches.recv().await {
            // The channel is the only place where records can gather.
            assert!(batches.len() <= 2);
            largest = largest.max(batch.len());
            for record in batch {
                assert!(matches!(record, Record::Segment(segment) if segment.segment_id == format!("p-v-{seen}")));
                seen += 1;
            }
        }
        assert!(largest <= 500);
        seen
    };
    let (summary, seen) = tokio::join!(reading, gathering);
    assert_eq!((summary.unwrap().announced, seen), (100_000, 100_000));
}

#[tokio::test]
async fn a_receiver_that_goes_away_stops_the_reading() {
    let server = large(1_000_000);
    let clock = Clock::system();
    let (api, pacer, budget) = (api(&server, clock.clone()), pacer(clock.clone()), budget(clock));
    let (sink, mut batches) = mpsc::channel(1);
    let login = permanent(&api);
    let permit = pacer.enter().await;
    let account = account();
    let reading = metadata(&api, &login, &pacer, permit, &budget, &account, WINDOW, sink);
    let leaving = async move {
        batches.recv().await.unwrap();
        drop(batches);
    };
    let (outcome, ()) = tokio::join!(reading, leaving);
    assert_eq!(outcome.unwrap_err().cause, Cause::Gone);
}

#[tokio::test]
async fn a_record_without_end_is_refused() {
    let server = Server::start(|_| {
        Reply::Stream(Box::new(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n[{\"segmentId\":\"")?;
            loop {
                out.write_all(&[b'a'; 65536])?;
            }
        }))
    });
    assert_eq!(read(&server).await.0.unwrap_err().cause, Cause::TooLarge);
}

#[tokio::test]
async fn a_refused_window_is_told_by_its_status() {
    let server = Server::start(|_| reply(429, "retry-after: 3\r\n", ""));
    let (outcome, records) = read(&server).await;
    assert_eq!((outcome.unwrap_err().fault, records.len()), (Fault::RateLimited, 0));
    let server = Server::start(|_| reply(400, "", r#"{"generalMessage":"The supplied data is not valid"}"#));
    assert_eq!(read(&server).await.0.unwrap_err().fault, Fault::Permanent);
}

#[tokio::test]
async fn each_send_is_reserved_the_repeat_after_a_401_too() {
    let server = Server::start(|request| match request.target.split('?').next().unwrap() {
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc"}"#),
        "/api/auth/login/rc/accesstoken" => ok(r#"{"accessToken":"old","refreshToken":"r"}"#),
        "/api/auth/token/refresh" => ok(r#"{"accessToken":"new","refreshToken":"s"}"#),
        _ if request.header("authorization") == Some("Bearer new") => ok("[]"),
        _ => reply(401, "", "Jwt is expired"),
    });
    let clock = Clock::system();
    let (api, pacer, tally) = (api(&server, clock.clone()), pacer(clock.clone()), Arc::new(Tally::default()));
    let budget = budget_in(Arc::clone(&tally) as Arc<_>, clock);
    let (sink, _records) = mpsc::channel(1);
    let login = login(&api, ringcentral());
    let permit = pacer.enter().await;
    metadata(&api, &login, &pacer, permit, &budget, &account(), WINDOW, sink).await.unwrap();
    assert_eq!(server.count("/interaction-metadata"), 2);
    assert_eq!((tally.reserved.load(Ordering::SeqCst), tally.counted.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn nothing_is_sent_that_could_not_be_reserved() {
    let server = Server::start(|_| ok("[]"));
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock.clone()));
    let budget = budget_in(Arc::new(Tally { away: true, ..Tally::default() }), clock);
    let (sink, _records) = mpsc::channel(1);
    let permit = pacer.enter().await;
    let outcome = metadata(&api, &permanent(&api), &pacer, permit, &budget, &account(), WINDOW, sink).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::Transient, Cause::Store));
    assert!(server.seen().is_empty());
}
