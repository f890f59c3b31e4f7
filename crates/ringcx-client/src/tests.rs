use std::sync::Mutex;

use super::test_server::{LoopbackServer, ScriptedReply, account, api, gzip, ok, pacer, permanent_login, reply};
use super::*;
use crate::backoff::Fault;

const TRANSCRIPT: &str = r#"{"channelClass":"VOICE","errorCode":null,"transcript":[{"message":"yes sir"}]}"#;

async fn fetch(server: &LoopbackServer) -> Result<FetchedArtifact, ApiError> {
    let clock = Clock::system();
    let (api, pacer) = (api(server, clock.clone()), pacer(clock));
    let permit = pacer.acquire().await;
    fetch_transcript(&api, &permanent_login(&api), &pacer, permit, &account(), "d", "s").await
}

#[test]
fn a_path_segment_holds_any_id() {
    let encoded = |id| checked_path_segment(Endpoint::Transcript, id).unwrap();
    assert_eq!(encoded("p-v_0.b~9"), "p-v_0.b~9");
    assert_eq!(encoded("a/b ?#%é"), "a%2Fb%20%3F%23%25%C3%A9");
    assert_eq!(encoded("%2e%2e"), "%252e%252e");
    assert_eq!(encoded("..."), "...");
    for id in ["", ".", ".."] {
        assert_eq!(checked_path_segment(Endpoint::Transcript, id).unwrap_err().fault, Fault::Permanent);
    }
}

#[test]
fn a_bad_base_url_is_named_by_its_key_and_not_shown() {
    let hosts = |url: &str| ApiHosts { platform: "https://a".into(), ringcx: url.into(), summary: "https://c".into() };
    for url in ["", "ringcx", "ftp://x", "https://user:hunter2@x", "https://x?token=hunter2"] {
        let error = ApiClient::new(hosts(url), Duration::from_secs(1), Clock::system()).err().unwrap();
        assert!(error.message.contains("api.ringcx_url") && !error.message.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn every_request_has_a_user_agent_and_accepts_gzip() {
    let server = LoopbackServer::start(|_| ok(TRANSCRIPT));
    fetch(&server).await.unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.header("user-agent"), Some(USER_AGENT));
    assert_eq!(request.header("accept-encoding"), Some("gzip"));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays_here() {
    let elsewhere = LoopbackServer::start(|_| ok(TRANSCRIPT));
    let location = format!("location: {}/steal\r\n", elsewhere.url);
    let server = LoopbackServer::start(move |_| reply(302, &location, ""));
    let error = fetch(&server).await.unwrap_err();
    assert_eq!((error.fault, error.status), (Fault::Transient, Some(302)));
    assert!(error.message.contains("redirect") && elsewhere.requests().is_empty(), "{error}");
}

#[tokio::test]
async fn gzip_is_decoded_and_a_broken_one_is_transient() {
    let headers = "content-encoding: gzip\r\n";
    let server = LoopbackServer::start(move |_| reply(200, headers, gzip(TRANSCRIPT.as_bytes())));
    assert_eq!(fetch(&server).await.unwrap(), FetchedArtifact::Body(TRANSCRIPT.into()));
    let whole = gzip(TRANSCRIPT.as_bytes());
    let server = LoopbackServer::start(move |_| reply(200, headers, &whole[..whole.len() - 12]));
    assert_eq!(fetch(&server).await.unwrap_err().fault, Fault::Transient);
    let server = LoopbackServer::start(move |_| reply(200, headers, TRANSCRIPT));
    assert_eq!(fetch(&server).await.unwrap_err().cause, ErrorCause::Undecodable);
    let server = LoopbackServer::start(move |_| reply(200, "content-encoding: br\r\n", TRANSCRIPT));
    assert_eq!(fetch(&server).await.unwrap_err().cause, ErrorCause::Undecodable);
}

#[tokio::test]
async fn a_body_larger_than_its_cap_is_refused() {
    let server = LoopbackServer::start(|_| {
        ScriptedReply::Stream(Box::new(|out| {
            out.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[\"")?;
            (0..80).try_for_each(|_| out.write_all(&[b'a'; 1024 * 1024]))
        }))
    });
    let error = fetch(&server).await.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::Transient, ErrorCause::TooLarge));
    assert!(error.message.contains("64 MB"), "{error}");
}

#[tokio::test]
async fn an_incomplete_answer_is_transient() {
    let cuts: [&[u8]; 4] = [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"transcript\":[]}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11\r\n{\"transcript\":[]}\r\n",
    ];
    for cut in cuts {
        let server = LoopbackServer::start(move |_| ScriptedReply::Cut(cut.to_vec()));
        let error = fetch(&server).await.unwrap_err();
        assert_eq!((error.fault, error.cause), (Fault::Transient, ErrorCause::ConnectionLost), "{error}");
        assert_eq!(server.requests().len(), 1, "nothing is repeated by itself");
    }
}

#[tokio::test]
async fn ten_thousand_headers_are_an_error() {
    let server = LoopbackServer::start(|_| reply(200, &"x: y\r\n".repeat(10_000), TRANSCRIPT));
    assert_eq!(fetch(&server).await.unwrap_err().fault, Fault::Transient);
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_a_hint() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut server = LoopbackServer::start(|_| ok(""));
    server.url = format!("http://{closed}");
    let error = fetch(&server).await.unwrap_err();
    assert_eq!((error.fault, error.cause), (Fault::Transient, ErrorCause::Unreachable));
    assert!(error.message.contains("127.0.0.1") && error.hint().is_some(), "{error}");
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let server = LoopbackServer::start(|_| {
        ScriptedReply::Stream(Box::new(|_| {
            std::thread::sleep(Duration::from_secs(30));
            Ok(())
        }))
    });
    let url = server.url.clone();
    let hosts = ApiHosts { platform: url.clone(), ringcx: url.clone(), summary: url };
    let api = ApiClient::new(hosts, Duration::from_millis(50), Clock::system()).unwrap();
    let pacer = pacer(Clock::system());
    let permit = pacer.acquire().await;
    let outcome = fetch_transcript(&api, &permanent_login(&api), &pacer, permit, &account(), "d", "s").await;
    assert_eq!(outcome.unwrap_err().cause, ErrorCause::TimedOut);
}

#[tokio::test]
async fn a_429_reports_the_wait_and_leaves_throttling_to_the_caller() {
    let server = LoopbackServer::start(|_| reply(429, "retry-after: 17\r\n", ""));
    let error = fetch(&server).await.unwrap_err();
    assert_eq!((error.fault, error.retry_after), (Fault::RateLimited, Some(Duration::from_secs(17))));
}

#[tokio::test]
async fn requests_are_observed_and_the_servers_date_is_used() {
    struct ObservedRequests(Mutex<Vec<(Endpoint, Result<u16, ErrorCause>)>>);
    impl RequestObserver for ObservedRequests {
        fn on_request(&self, endpoint: Endpoint, outcome: Result<u16, ErrorCause>, _took: Duration) {
            self.0.lock().unwrap().push((endpoint, outcome));
        }
    }
    let server = LoopbackServer::start(|_| reply(404, "date: Fri, 20 Nov 2026 10:10:00 GMT\r\n", ""));
    let clock = Clock::manual(Time::parse("2026-11-20T10:00:00Z").unwrap());
    let api = api(&server, clock.clone());
    let seen = Arc::new(ObservedRequests(Mutex::default()));
    api.set_observer(Arc::clone(&seen) as Arc<dyn RequestObserver>);
    let pacer = pacer(Clock::system());
    let permit = pacer.acquire().await;
    let error = fetch_transcript(&api, &permanent_login(&api), &pacer, permit, &account(), "d", "s").await.unwrap_err();
    assert_eq!(error.fault, Fault::NotYet);
    assert_eq!(*seen.0.lock().unwrap(), [(Endpoint::Transcript, Ok(404))]);
    assert_eq!(api.api_now().since(clock.now()).as_secs(), 600);
}
