//! Conversations in the browser, with the real binary: found by what was said, read, and shown to nobody else.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use serde_json::Value;
use support::daemon::{Place, Plan, Rig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

crate::e2e! {
    what_was_said_is_found_and_read_with_the_token_and_not_without,
}

const TOKEN: &str = "a-token-that-nobody-guesses";

/// What a request is answered with, head and all.
async fn ask(address: &str, path: &str, header: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Something that was said, of plain words, and where.
fn said(exported: &str) -> (String, String, String) {
    let plain =
        |text: &&str| text.len() > 12 && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == ' ');
    let of_line = |line: &str| {
        // Not by the plain reader: some of what the simulator said is half a surrogate or nested too deep for it.
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
        // One whose id stands in a link as it is.
        let plain_id = |id: &str| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain_id(&one("segment_id")) {
            return None;
        }
        Some((one("sub_account_id"), one("segment_id"), text.to_owned()))
    };
    exported.lines().find_map(of_line).unwrap()
}

async fn what_was_said_is_found_and_read_with_the_token_and_not_without(place: Place) {
    let plan = Plan::history().set("log.filter", "trace").set("http.listen", "127.0.0.1:0").set("http.token", TOKEN);
    let mut rig = Rig::started(place, plan).await;
    rig.settled().await;
    let exported = rig.output(&["export"]).await;
    let (account, segment, text) = said(&exported);
    let log = rig.log();
    let address = log.split("the dashboard is at http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let search = format!("/search?q=%22{}%22&account={account}", text.replace(' ', "+"));
    let conversation = format!("/conversation?account={account}&segment={segment}");
    let linked = conversation.replace('&', "&amp;");
    rig.until("it is found", async || ask(address, &search, &bearer).await.contains(&linked)).await;
    let read = ask(address, &conversation, &bearer).await;
    assert!(read.starts_with("HTTP/1.1 200") && read.contains(&text), "{read}");
    for header in ["", "authorization: Bearer wrong\r\n", "cookie: ringcx_session=9999999999999.x.y\r\n"] {
        for path in [&search, &conversation] {
            let shut = ask(address, path, header).await;
            let (_, body) = shut.split_once("\r\n\r\n").unwrap();
            assert!(shut.starts_with("HTTP/1.1 401") && !body.contains(&text), "{shut}");
        }
    }
    let elsewhere = ask(address, &format!("/conversation?account=other&segment={segment}"), &bearer).await;
    assert!(elsewhere.starts_with("HTTP/1.1 404") && !elsewhere.contains(&text), "{elsewhere}");
    rig.stop().await;
    let log = rig.log();
    for held in [text.as_str(), &text.replace(' ', "+"), TOKEN] {
        assert!(!log.contains(held), "the log shows {held:?}");
    }
}
