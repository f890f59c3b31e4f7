use proptest::prelude::*;

use super::*;
use crate::Cause;
use crate::clock::Clock;
use crate::testing::{Reply, Server, account, api, login, ok, pacer, permanent, reply, ringcentral};

async fn fetch(server: &Server, which: Artifact) -> Result<Fetched, ApiError> {
    let clock = Clock::system();
    let (api, pacer) = (api(server, clock.clone()), pacer(clock));
    let permit = pacer.enter().await;
    summary(&api, &permanent(&api), &pacer, permit, &account(), "s/1", which).await
}

#[tokio::test]
async fn the_token_goes_in_a_lowercase_cookie_and_nowhere_else() {
    let server = Server::start(|request| match request.target.split('?').next().unwrap() {
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":3600}"#),
        "/api/auth/login/rc/accesstoken" => ok(r#"{"accessToken":"cx-token","refreshToken":"r"}"#),
        _ => ok("It was about a bill."),
    });
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let permit = pacer.enter().await;
    let login = login(&api, ringcentral());
    summary(&api, &login, &pacer, permit, &account(), "s/1", Artifact::AgentSummary).await.unwrap();
    let request = server.seen().pop().unwrap();
    assert_eq!(request.target, "/voice/api/v1/summary/accounts/99999999/segments/s%2F1/agent");
    assert!(request.head.contains("\r\ncookie: access_token=cx-token\r\n"), "{}", request.head);
    assert!(!request.head.to_ascii_lowercase().contains("authorization"), "{}", request.head);
}

#[tokio::test]
async fn a_permanent_token_stands_in_the_cookie_too() {
    let server = Server::start(|_| ok("x"));
    fetch(&server, Artifact::AutoSummary).await.unwrap();
    let request = server.seen().pop().unwrap();
    assert!(request.target.ends_with("/auto"));
    assert_eq!(request.header("cookie"), Some("access_token=permanent-token"));
    assert_eq!(request.header("x-auth-token"), None);
}

#[tokio::test]
async fn nothing_in_a_200_is_an_answer() {
    for body in ["", "  \r\n", "\"\"", " \"\" ", "null", "\"  \"", "\u{feff}"] {
        let server = Server::start(move |_| ok(body));
        assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), Fetched::Empty, "{body:?}");
    }
    let server = Server::start(|_| Reply::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), Fetched::Empty);
}

#[tokio::test]
async fn text_and_a_json_string_are_kept_as_received() {
    for body in ["It was about a bill.\n", "\"It was\\n\\u00e9\"", "\"Fine,\" said the customer.", "{\"text\":1}"] {
        let server = Server::start(move |_| ok(body));
        assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), Fetched::Body(body.into()));
    }
}

#[tokio::test]
async fn an_error_in_a_200_and_a_web_page_are_no_summaries() {
    let server = Server::start(|_| ok(r#"{"errorCode":"summary.pending","generalMessage":"x"}"#));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap_err().fault, Fault::NotYet);
    for body in ["<!DOCTYPE html><p>Sorry", "<html>é", "<html>"] {
        let server = Server::start(move |_| ok(body));
        assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap_err().cause, Cause::Undecodable);
    }
    let server = Server::start(|_| reply(404, "", r#"{"errorCode":"not.found"}"#));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap_err().fault, Fault::NotYet);
    let server = Server::start(|_| reply(200, "content-type: Text/HTML; charset=utf-8\r\n", "<h1>502 Bad Gateway"));
    let error = fetch(&server, Artifact::AutoSummary).await.unwrap_err();
    assert_eq!(
        (error.cause, error.body().map(|kept| &kept.bytes[..])),
        (Cause::Undecodable, Some(&b"<h1>502 Bad Gateway"[..]))
    );
}

#[test]
fn a_page_and_json_without_its_end_are_told_from_text() {
    let is_broken = |media_type: &str, text: &str| match judge(Endpoint::AutoSummary, media_type, text) {
        Err(error) => {
            assert_eq!(error.cause, Cause::Undecodable, "{text}");
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
        let server = Server::start(move |_| reply(200, &headers, b"caf\xe9"));
        let Fetched::Body(body) = fetch(&server, Artifact::AutoSummary).await.unwrap() else { panic!("empty") };
        assert_eq!((&body.bytes[..], body.charset.map(|charset| charset.name())), (&b"caf\xe9"[..], name));
    }
    // In UTF-16, too, what says nothing is empty.
    let server = Server::start(|_| reply(200, "content-type: text/plain;charset=UTF-16\r\n", b"\xfe\xff\0 "));
    assert_eq!(fetch(&server, Artifact::AutoSummary).await.unwrap(), Fetched::Empty);
}

#[test]
fn a_summary_is_read_as_people_would() {
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
    fn no_text_upsets_it_and_only_what_says_nothing_is_empty(
        text in prop_oneof![".{0,40}", "[{}<>!a-z\": ]{0,20}"],
        media_type in prop_oneof![Just(""), Just("application/json"), Just("text/html")],
    ) {
        match judge(Endpoint::AutoSummary, media_type, &text) {
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
    fn no_bytes_upset_the_reader(body in any::<Vec<u8>>()) {
        summary_text(&body);
    }
}
