//! The search and conversation pages, through the real binary: text is found and shown with the token only.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use serde_json::Value;
use support::test_env::{Scenario, TempDatabase, TestEnv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

crate::e2e! {
    what_was_said_is_found_and_read_with_the_token_and_not_without,
}

const TOKEN: &str = "a-token-that-nobody-guesses";

/// The raw response of a GET request, head included.
async fn http_get_raw(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// A plain text from a transcript, with its account, dialog and segment.
fn find_spoken_text(exported: &str) -> (String, String, String, String) {
    let plain =
        |text: &&str| text.len() > 12 && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == ' ');
    let of_line = |line: &str| {
        // serde_json refuses some of the simulator's values: half surrogates, and values nested too deep.
        let value: Value = ringcx_extractor::lenient_json::from_slice(line.as_bytes())?;
        let body = &value["transcript"];
        let phrases = body["body"]["transcript"].as_array().or(body["transcript"].as_array())?;
        let text = phrases
            .iter()
            .filter_map(|phrase| phrase["message"].as_str())
            .flat_map(|text| text.split(['.', ',', '!', '?']))
            .map(str::trim)
            .find(plain)?;
        let one = |key: &str| value[key].as_str().unwrap().to_owned();
        // An id that needs no escaping in a link.
        let plain_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let dialog = value["dialog_id"].as_str().filter(|id| plain_id(id))?;
        if !plain_id(&one("segment_id")) {
            return None;
        }
        Some((one("sub_account_id"), dialog.to_owned(), one("segment_id"), text.to_owned()))
    };
    exported.lines().find_map(of_line).unwrap()
}

async fn what_was_said_is_found_and_read_with_the_token_and_not_without(database: TempDatabase) {
    let scenario =
        Scenario::history().set("log.filter", "trace").set("http.listen", "127.0.0.1:0").set("http.token", TOKEN);
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    let exported = env.run_ok(&["export"]).await;
    let (account, dialog, segment, text) = find_spoken_text(&exported);
    let log = env.log();
    let address = log.split("the dashboard is at http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let search = format!("/search?q=%22{}%22&account={account}", text.replace(' ', "+"));
    let conversation = format!("/conversation?account={account}&segment={segment}");
    let linked = format!("/dialogs/{dialog}?q=");
    let whole = format!("/dialogs/{dialog}");
    env.wait_until("it is found", async || http_get_raw(address, &search, &bearer).await.contains(&linked)).await;
    let read = http_get_raw(address, &conversation, &bearer).await;
    assert!(read.starts_with("HTTP/1.1 200") && read.contains(&text), "{read}");
    let read = http_get_raw(address, &format!("{whole}?q=%22{}%22", text.replace(' ', "+")), &bearer).await;
    assert!(read.starts_with("HTTP/1.1 200") && read.contains("id=\"p1\"") && read.contains("id=\"hit1\""), "{read}");
    let browsed = http_get_raw(address, "/conversations", &bearer).await;
    assert!(browsed.contains(&whole) || browsed.contains("rel=\"next\""), "{browsed}");
    for header in ["", "authorization: Bearer wrong\r\n", "cookie: ringcx_session=9999999999999.x.y\r\n"] {
        for path in [&search, &conversation, &whole] {
            let shut = http_get_raw(address, path, header).await;
            let (_, body) = shut.split_once("\r\n\r\n").unwrap();
            assert!(shut.starts_with("HTTP/1.1 401") && !body.contains(&text), "{shut}");
        }
    }
    let elsewhere = http_get_raw(address, &format!("/conversation?account=other&segment={segment}"), &bearer).await;
    assert!(elsewhere.starts_with("HTTP/1.1 404") && !elsewhere.contains(&text), "{elsewhere}");
    env.stop().await;
    let log = env.log();
    for held in [text.as_str(), &text.replace(' ', "+"), TOKEN] {
        assert!(!log.contains(held), "the log shows {held:?}");
    }
}
