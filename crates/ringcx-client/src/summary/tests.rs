use proptest::prelude::*;

use super::*;
use crate::ErrorCause;
use crate::clock::Clock;
use crate::test_server::{
    LoopbackServer, ScriptedReply, account, api, login, ok, pacer, permanent_login, reply, ringcentral_credentials,
};

async fn fetch(server: &LoopbackServer, which: Artifact) -> Result<FetchedArtifact, ApiError> {
    let clock = Clock::system();
    let (api, pacer) = (api(server, clock.clone()), pacer(clock));
    let permit = pacer.acquire().await;
    fetch_summary(&api, &permanent_login(&api), &pacer, permit, &account(), "s/1", which).await
}

#[tokio::test]
async fn the_token_goes_in_a_lowercase_cookie_and_nowhere_else() {
    let server = LoopbackServer::start(|request| match request.target.split('?').next().unwrap() {
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":3600}"#),
        "/api/auth/login/rc/accesstoken" => ok(r#"{"accessToken":"cx-token","refreshToken":"r"}"#),
        _ => ok("It was about a bill."),
    });
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let permit = pacer.acquire().await;
    let login = login(&api, ringcentral_credentials());
    fetch_summary(&api, &login, &pacer, permit, &account(), "s/1", Artifact::AgentSummary).await.unwrap();
    let request = server.requests().pop().unwrap();
    assert_eq!(request.target, "/voice/api/v1/summary/accounts/99999999/segments/s%2F1/agent");
    assert!(request.head.contains("\r\ncookie: access_token=cx-token\r\n"), "{}", request.head);
    assert!(!request.head.to_ascii_lowercase().contains("authorization"), "{}", request.head);
}

#[tokio::test]
async fn a_permanent_token_is_sent_in_the_cookie_too() {
    let server = LoopbackServer::start(|_| ok("x"));
    fetch(&server, Artifact::AutoSummary).await.unwrap();
    let request = server.requests().pop().unwrap();
    assert!(request.target.ends_with("/auto"));
    assert_eq!(request.header("cookie"), Some("access_token=permanent-token"));
    assert_eq!(request.header("x-auth-token"), None);
}

#[tokio::test]
async fn an_empty_200_is_an_empty_summary() {
    for body in ["", "  \r\n", "\"\"", " \"\" ", "null", "\"  \"", "\u{feff}"] {
        let server = LoopbackServer::start(move |_| ok(body));
        assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), FetchedArtifact::Empty, "{body:?}");
    }
    let server = LoopbackServer::start(|_| ScriptedReply::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), FetchedArtifact::Empty);
}

#[tokio::test]
async fn text_and_a_json_string_are_kept_as_received() {
    for body in ["It was about a bill.\n", "\"It was\\n\\u00e9\"", "\"Fine,\" said the customer.", "{\"text\":1}"] {
        let server = LoopbackServer::start(move |_| ok(body));
        assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), FetchedArtifact::Body(body.into()));
    }
}

#[tokio::test]
async fn an_error_in_a_200_and_a_web_page_are_no_summaries() {
    let server = LoopbackServer::start(|_| ok(r#"{"errorCode":"summary.pending","generalMessage":"x"}"#));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap_err().fault, Fault::NotYet);
    for body in ["<!DOCTYPE html><p>Sorry", "<html>é", "<html>"] {
        let server = LoopbackServer::start(move |_| ok(body));
        assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap_err().cause, ErrorCause::Undecodable);
    }
    let server = LoopbackServer::start(|_| reply(404, "", r#"{"errorCode":"not.found"}"#));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap_err().fault, Fault::NotYet);
    let server =
        LoopbackServer::start(|_| reply(200, "content-type: Text/HTML; charset=utf-8\r\n", "<h1>502 Bad Gateway"));
    let error = fetch(&server, Artifact::AutoSummary).await.unwrap_err();
    assert_eq!(
        (error.cause, error.body().map(|kept| &kept.bytes[..])),
        (ErrorCause::Undecodable, Some(&b"<h1>502 Bad Gateway"[..]))
    );
}

#[test]
fn web_pages_and_truncated_json_are_distinguished_from_text() {
    let is_broken = |media_type: &str, text: &str| match holds_summary(Endpoint::AutoSummary, media_type, text) {
        Err(error) => {
            assert_eq!(error.cause, ErrorCause::Undecodable, "{text}");
            true
        }
        Ok(holds) => {
            assert!(holds, "{text}");
            false
        }
    };
    for page in [
        "<!-- x --><html>",
        "<!-- one -->\n<!-- two -->\n<!DOCTYPE html>",
        "<!-- never ended",
        "<?xml version=\"1.0\"?><!DOCTYPE html",
        "\u{feff}<?xml version=\"1.0\"?><Error>",
        "<head><title>502",
        "<HEAD>",
        "<body bgcolor=white>",
        "<body>",
        "<center>",
        "<title>502 Bad Gateway</title>",
        "<html",
    ] {
        for media_type in ["", "text/plain", "application/json", "text/html"] {
            assert!(is_broken(media_type, page), "{media_type} {page}");
        }
    }
    for text in ["<p>Sorry", "</p>", "<div>It was about a bill.", "<!-- x --><h1>"] {
        assert!(is_broken("text/html", text) && is_broken("application/xhtml+xml", text), "{text}");
        assert!(!is_broken("text/plain", text), "{text}");
    }
    for text in
        ["<3 you", "<title unknown> called", "<headset> is broken", "< 5 minutes", "It is <html>", "<!-- x --> It was"]
    {
        for media_type in ["", "text/plain", "application/json"] {
            assert!(!is_broken(media_type, text), "{media_type} {text}");
        }
    }
    for text in ["<3 you", "< 5 minutes", "It is <html>", "<!-- x --> It was"] {
        assert!(!is_broken("text/html", text), "{text}");
    }
    for cut in ["\"The customer asked for a ref", "\"said \\\"no\\\" and", "{\"text\":\"The", "[\"The", "\"two\nlines"]
    {
        assert!(is_broken("application/json", cut) && is_broken("application/problem+json", cut), "{cut}");
        assert!(!is_broken("text/plain", cut) && !is_broken("", cut), "{cut}");
    }
    for text in
        ["\"Quoted\" word", "\"Fine,\" said the customer.", "[Agent] called", "{name} called", "It was", "{\"text\":1}"]
    {
        assert!(!is_broken("application/json", text) && !is_broken("text/plain", text), "{text}");
    }
}

#[tokio::test]
async fn a_summary_in_another_charset_is_kept_as_received() {
    for (declared, name) in [("charset=ISO-8859-1", Some("windows-1252")), ("charset=utf-8", None), ("x=y", None)] {
        let headers = format!("content-type: text/plain;{declared}\r\n");
        let server = LoopbackServer::start(move |_| reply(200, &headers, b"caf\xe9"));
        let FetchedArtifact::Body(body) = fetch(&server, Artifact::AutoSummary).await.unwrap() else { panic!("empty") };
        assert_eq!((&body.bytes[..], body.charset.map(|charset| charset.name())), (&b"caf\xe9"[..], name));
    }
    // Blank text is empty in UTF-16 as well.
    let server = LoopbackServer::start(|_| reply(200, "content-type: text/plain;charset=UTF-16\r\n", b"\xfe\xff\0 "));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), FetchedArtifact::Empty);
}

#[test]
fn the_text_of_a_summary_is_decoded() {
    let text = |body: &str| summary_text(body.as_bytes());
    assert_eq!(text("plain\n"), "plain\n");
    assert_eq!(text(" \"a\\n\\\"b\\\" \\u00e9\" "), "a\n\"b\" é");
    assert_eq!(text("\"Fine,\" said Anna."), "\"Fine,\" said Anna.");
    assert_eq!(text("{\"a\":1}"), "{\"a\":1}");
    assert_eq!(text("\u{feff}x"), "x");
    assert_eq!(text(""), "");
    assert_eq!(text(r#""cut \ud83d""#), "cut \u{fffd}");
    assert_eq!(text("\"two\nlines\""), "two\nlines");
    assert_eq!(summary_text(b"caf\xe9"), "caf\u{fffd}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_and_only_blank_text_is_empty(
        text in prop_oneof![".{0,40}", "[{}<>!a-z\": ]{0,20}"],
        media_type in prop_oneof![Just(""), Just("application/json"), Just("text/html")],
    ) {
        match holds_summary(Endpoint::AutoSummary, media_type, &text) {
            Ok(true) => prop_assert!(!text.trim_start_matches('\u{feff}').trim().is_empty(), "{text:?}"),
            Ok(false) => {
                let nothing = "\u{feff}\"\\nulrtbf0123456789abcdef";
                let says = text.chars().find(|letter| !nothing.contains(*letter) && !letter.is_whitespace());
                prop_assert_eq!(says, None, "{:?}", text);
            }
            Err(error) => prop_assert!(error.message.len() < 200),
        }
    }

    #[test]
    fn a_summary_sent_as_a_json_string_reads_as_that_string(text in any::<String>()) {
        let sent = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(summary_text(sent.as_bytes()), text);
    }

    #[test]
    fn no_bytes_make_it_panic(body in any::<Vec<u8>>()) {
        summary_text(&body);
    }
}
