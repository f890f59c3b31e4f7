use proptest::prelude::*;

use super::*;
use crate::backoff::Fault;
use crate::clock::Clock;
use crate::test_server::{LoopbackServer, ScriptedReply, api, ok, pacer, permanent_login};

fn checked(body: &str) -> Result<(), ApiError> {
    check_transcript(&received(body.as_bytes()))
}

fn received(body: &[u8]) -> ResponseBody {
    ResponseBody { bytes: bytes::Bytes::copy_from_slice(body), charset: None }
}

#[test]
fn a_transcript_needs_only_phrases_with_content() {
    for body in [
        r#"{"channelClass":"VOICE","errorCode":null,"errorMessage":null,"transcript":[{"message":"yes"}]}"#,
        r#"{"transcript":[{"message":"yes"}]}"#,
        r#"{"transcript":[{"message":""},{"message":"yes"},{}]}"#,
        r#"{"transcript":[{"message":"yes"}],"errorCode":""}"#,
        r#"{"transcript":[{"message":"yes"}],"errorCode":"0"}"#,
        r#"{"transcript":[{"message":"yes"}],"errorCode":0}"#,
        r#"{"transcript":1,"transcript":["yes"]}"#,
        // Of two transcripts the one with more content counts.
        r#"{"transcript":[{"message":"yes"}],"transcript":null}"#,
        r#"{"transcript":["yes"],"transcript":[]}"#,
        r#"{"transcript":["yes"],"transcript":7}"#,
        r#"{"transcript":["yes"],"transcript":[{"message":""}]}"#,
        r#"{"transcript":[{"message":"yes","message":null}]}"#,
        // Content in an unknown form counts as content.
        r#"{"transcript":[{"text":"yes"}]}"#,
        r#"{"transcript":[{"message":null,"attachments":[{"url":"x"}]}]}"#,
        r#"{"transcript":[{"message":"\ud83d"}]}"#,
        "\u{feff} {\"transcript\":[1]} ",
    ] {
        assert!(checked(body).is_ok(), "{body}");
    }
}

#[test]
fn a_transcript_without_content_is_not_available_yet_in_all_forms() {
    for body in [
        "",
        " \n",
        "null",
        "{}",
        r#"{"transcript":[]}"#,
        r#"{"transcript": [ ] }"#,
        r#"{"transcript":null}"#,
        r#"{"transcript":""}"#,
        r#"{"transcript":{ }}"#,
        r#"{"channelClass":null}"#,
        r#"{"channelClass":"DIGITAL","new":{"deep":[[[1]]]}}"#,
        r#"{"transcript":[],"errorCode":"","errorMessage":null}"#,
        r#"{"transcript":null,"transcript":[]}"#,
        "\u{feff} {\"transcript\":[]} ",
        "\u{feff} \n",
        "[]",
        " [ ] ",
        "[null,{}]",
        "\"\"",
        "\" \"",
        "\"null\"",
        r#"{"transcript":" "}"#,
        r#"{"transcript":"[]"}"#,
        r#"{"transcript":"{}"}"#,
        r#"{"transcript":{"phrases":[]}}"#,
        r#"{"errorCode":null,"errorMessage":null}"#,
        r#"{"errorCode":0,"errorMessage":"none"}"#,
        r#"{"errorCode":"","dialogId":null,"new":[[]]}"#,
    ] {
        let error = checked(body).unwrap_err();
        assert_eq!((error.fault, error.cause, error.status), (Fault::NotYet, ErrorCause::Empty, Some(200)), "{body}");
        assert_eq!(error.body(), None, "{body}");
    }
    for body in [
        r#"{"transcript":[{}]}"#,
        r#"{"transcript":[null,{"message":null}]}"#,
        r#"{"transcript":[{"participantId":"9","participantName":"Anna","timestamp":"1","message":" "},{"message":""}]}"#,
    ] {
        let error = checked(body).unwrap_err();
        assert_eq!((error.fault, error.cause), (Fault::NotYet, ErrorCause::Empty), "{body}");
        assert_eq!(error.body().map(|kept| &kept.bytes[..]), Some(body.as_bytes()), "phrases are kept");
        assert!(!format!("{error:?}").contains("Anna"));
    }
}

#[test]
fn malformed_values_do_not_make_a_transcript_unusable() {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    for fault in ["\"a\u{1}\n\"", "\"\\ud83d\"", "\"\\x\"", "1e999", &deep] {
        assert!(checked(&format!(r#"{{"transcript":[{{"message":{fault},"x":1}}]}}"#)).is_ok(), "{fault:.40}");
        assert!(checked(&format!(r#"{{"new":{fault},"transcript":["yes"]}}"#)).is_ok(), "{fault:.40}");
        let error = checked(&format!(r#"{{"channelClass":{fault}}}"#)).unwrap_err();
        assert_eq!(error.cause, ErrorCause::Empty, "{fault:.40}");
    }
    assert!(check_transcript(&received(b"{\"transcript\":[\"\xff\"]}")).is_ok());
}

#[test]
fn an_error_code_in_a_200_means_not_yet_whatever_else_the_body_holds() {
    for body in [
        r#"{"errorCode":"TRANSCRIPT_PENDING","errorMessage":"Anna is not ready"}"#,
        r#"{"transcript":[{"message":"half"}],"errorCode":"TRANSCRIPT_PENDING"}"#,
        r#"{"errorCode":"TRANSCRIPT_PENDING","errorCode":null,"transcript":[{"message":"half"}]}"#,
    ] {
        let error = checked(body).unwrap_err();
        assert_eq!((error.fault, error.status), (Fault::NotYet, Some(200)));
        assert_eq!(error.message, "failed to fetch a transcript: a 200 with an error code: TRANSCRIPT_PENDING");
    }
    for code in ["500", "{}", "true", r#""\ud800""#, r#""Anna said hello""#] {
        let error = checked(&format!(r#"{{"transcript":[],"errorCode":{code}}}"#)).unwrap_err();
        assert_eq!(error.fault, Fault::NotYet, "{code}");
        assert!(!error.message.contains("Anna"));
    }
}

#[test]
fn any_other_body_is_undecodable_and_not_quoted() {
    for body in [
        "[1]",
        "\"Anna\"",
        "<html>Anna",
        "0",
        r#"{"x":1}"#,
        r#"{"transcript":"Anna"}"#,
        r#"{"transcript":"Anna","transcript":[]}"#,
        r#"{"transcript":["#,
    ] {
        let error = checked(body).unwrap_err();
        assert_eq!((error.fault, error.cause), (Fault::Transient, crate::ErrorCause::Undecodable), "{body}");
        assert!(!format!("{error:?}").contains("Anna"));
    }
}

#[tokio::test]
async fn the_body_is_kept_byte_for_byte_and_ids_are_encoded() {
    const BODY: &str = "{ \"transcript\" : [ \"yes\" ], \"x\":1.50 }\n";
    let server = LoopbackServer::start(|_| ok(BODY));
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let account = AccountId::new("98 0", "99/9");
    let permit = pacer.acquire().await;
    let fetched = fetch_transcript(&api, &permanent_login(&api), &pacer, permit, &account, "d?1", "p#1").await.unwrap();
    assert_eq!(fetched, FetchedArtifact::Body(BODY.into()));
    let request = &server.requests()[0];
    assert_eq!(
        request.target,
        "/voice/api/cx/integration/v1/accounts/98%200/sub-accounts/99%2F9/transcripts/dialogs/d%3F1/segments/p%231"
    );
    assert_eq!(request.header("x-auth-token"), Some("permanent-token"));
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn the_start_of_an_unusable_body_is_captured_with_the_status() {
    let page = format!("<html>{}", "Anna ".repeat(2000));
    let long = page.clone();
    let server = LoopbackServer::start(move |request| match request.target.rsplit('/').next() {
        Some("page") => ok(&long),
        Some("cut") => {
            ScriptedReply::Cut(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{\"transcript\":[\"Anna".to_vec())
        }
        _ => ok(r#"{"transcript":[]}"#),
    });
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let login = permanent_login(&api);
    let account = AccountId::new("1", "2");
    let get = async |segment: &str| {
        let permit = pacer.acquire().await;
        fetch_transcript(&api, &login, &pacer, permit, &account, "d", segment).await.unwrap_err().into_item_error()
    };
    let (whole, cut) = (get("page").await, get("cut").await);
    assert_eq!((whole.fault, whole.status), (Fault::Broken, Some(200)));
    assert_eq!(whole.body().map(|kept| &kept.bytes[..]), Some(&page.as_bytes()[..2048]));
    assert_eq!((cut.fault, cut.cause, cut.status), (Fault::Broken, ErrorCause::ConnectionLost, Some(200)));
    assert_eq!(cut.body().map(|kept| &kept.bytes[..]), Some(&b"{\"transcript\":[\"Anna"[..]));
    assert_ne!(whole.broken_kind(), cut.broken_kind());
    assert!(!format!("{whole:?}{cut:?}").contains("Anna"));
    assert_eq!(get("empty").await.fault, Fault::NotYet);
}

/// Sends two thirds of a transcript of thirty megabytes, and the rest once `more` is released.
fn large_reply(
    there: tokio::sync::mpsc::UnboundedSender<()>,
    more: std::sync::Arc<std::sync::Barrier>,
) -> ScriptedReply {
    let piece = vec![b' '; 10 * 1024 * 1024];
    ScriptedReply::Stream(Box::new(move |out| {
        let head = r#"{"transcript":["yes"]"#;
        let length = head.len() + 3 * piece.len() + 1;
        out.write_all(format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n{head}").as_bytes())?;
        out.write_all(&piece)?;
        out.write_all(&piece)?;
        let _ = there.send(());
        more.wait();
        out.write_all(&piece)?;
        out.write_all(b"}")
    }))
}

#[tokio::test]
async fn large_answers_are_buffered_one_at_a_time_and_small_ones_overtake_them() {
    let (there, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let more = std::sync::Arc::new(std::sync::Barrier::new(2));
    let server = LoopbackServer::start({
        let more = more.clone();
        move |request| {
            if request.target.ends_with("large") {
                large_reply(there.clone(), more.clone())
            } else {
                ok("{\"transcript\":[\"yes\"]}")
            }
        }
    });
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let login = permanent_login(&api);
    let account = AccountId::new("1", "2");
    let get = async |segment: &str| {
        let permit = pacer.acquire().await;
        fetch_transcript(&api, &login, &pacer, permit, &account, "d", segment).await.unwrap()
    };
    let mut both = std::pin::pin!(futures_util::future::join(get("large"), get("large")));
    tokio::select! {
        _ = &mut both => unreachable!("neither was sent whole"),
        // This exceeds the network's buffers: one body is being buffered, and the other is not.
        _ = seen.recv() => {}
    }
    tokio::select! {
        _ = &mut both => unreachable!("neither was sent whole"),
        small = get("small") => assert_eq!(small, FetchedArtifact::Body("{\"transcript\":[\"yes\"]}".into())),
    }
    assert!(seen.try_recv().is_err(), "the other one waits");
    let release = std::thread::spawn(move || (more.wait(), more.wait()));
    let (one, other) = both.await;
    assert_eq!(one, other);
    release.join().unwrap();
}

proptest! {
    #[test]
    fn no_body_makes_it_panic_and_no_error_quotes_it(
        body in prop_oneof![
            any::<Vec<u8>>(),
            "[\\[\\]{}\",:0-9a-z\\\\ ]{0,60}".prop_map(String::into_bytes),
            ("\\PC{0,20}", "\\PC{0,20}").prop_map(|(code, text)| {
                serde_json::json!({"errorCode": format!("§{code}"), "transcript": [{"message": text}]}).to_string().into_bytes()
            }),
        ],
    ) {
        if let Err(error) = check_transcript(&received(&body)) {
            prop_assert!(!error.message.contains('§') && error.message.is_ascii(), "{}", error.message);
        }
    }

    #[test]
    fn an_accepted_body_has_content_and_no_error(code in ".{0,6}", inner in "1|null|\\[\\]|\\[\"x\"\\]|\\{\\}|\"x\"") {
        let taken = checked(&format!(r#"{{"transcript":{inner},"errorCode":{}}}"#, Value::from(code.as_str()))).is_ok();
        prop_assert_eq!(taken, inner == r#"["x"]"# && matches!(code.trim(), "" | "0"));
    }
}
