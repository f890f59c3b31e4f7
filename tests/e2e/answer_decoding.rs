//! Malformed values in API answers, through the binary: an unreadable value costs that value only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::stub_api::{StubApi, StubBody, StubResponses};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    what_is_wrong_with_one_value_costs_no_other,
    texts_are_decoded_from_the_charset_that_they_come_in,
    people_read_times_speakers_and_e_mails_in_every_form,
    what_cannot_be_read_of_a_record_costs_no_conversation,
}

const JSON: &str = "application/json";

/// A metadata element; `more` begins with a comma unless it is empty.
fn metadata_element(id: &str, more: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!(r#"{{"segmentId":"{id}","dialogId":"d-{id}","hasTranscript":true,"segmentEndTimeMs":"END""#);
    [head.as_bytes(), more.as_ref(), b"}"].concat()
}

/// A metadata answer with these elements; each ended half a minute ago.
fn metadata_array(elements: &[Vec<u8>], began: ringcx_extractor::clock::Time) -> Vec<u8> {
    let end = (began - std::time::Duration::from_secs(30)).rfc3339();
    let joined = [b"[", &elements.join(&b","[..])[..], b"]"].concat();
    let mut parts = Vec::new();
    let mut rest = joined.as_slice();
    while let Some(at) = rest.windows(5).position(|five| five == b"\"END\"") {
        parts.extend_from_slice(&rest[..at]);
        parts.extend_from_slice(format!("\"{end}\"").as_bytes());
        rest = &rest[at + 5..];
    }
    parts.extend_from_slice(rest);
    parts
}

/// Starts a daemon and waits until every available artifact is stored, indexed and delivered.
async fn archive_and_index(
    database: TempDatabase,
    elements: &[Vec<u8>],
    artifacts: &[(&str, StubBody)],
) -> (TestEnv, StubApi) {
    let began = ringcx_extractor::clock::Clock::system().now();
    let segments = artifacts.iter().filter(|(end, _)| end.matches('/').count() == 1).count();
    let artifacts: BTreeMap<String, StubBody> =
        artifacts.iter().map(|(end, answer)| ((*end).to_owned(), answer.clone())).collect();
    let count = artifacts.len();
    let server = StubApi::start(StubResponses { metadata: (JSON, metadata_array(elements, began)), artifacts }).await;
    let mut scenario = Scenario::history();
    for host in ["api.platform_url", "api.ringcx_url", "api.summary_url"] {
        scenario = scenario.set(host, server.url.clone());
    }
    let settings = [("name", "out"), ("type", "jsonl"), ("start", "beginning")];
    let mut sink: toml::Table = settings.map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect();
    sink.insert("path".to_owned(), database.folder.path().join("out").display().to_string().into());
    let env = TestEnv::with_daemon(database, scenario.set("sinks", vec![toml::Value::Table(sink)])).await;
    env.wait_until("everything is fetched", async || {
        let export = env.run(&["export"]).await;
        export.status == 0 && export.out.matches(r#""outcome":"stored""#).count() == count
    })
    .await;
    env.wait_until("everything can be found", async || {
        let found = env.run(&["search", "marker", "--json", "--limit", "100"]).await;
        let mut segments_found: Vec<String> =
            parse_lines(&found.out).iter().map(|hit| hit["segment_id"].to_string()).collect();
        segments_found.sort();
        segments_found.dedup();
        segments_found.len() >= segments
    })
    .await;
    env.wait_until("everything is delivered", async || delivered_events(&env).len() == count).await;
    (env, server)
}

/// The events in the sink's files, one per line.
fn delivered_events(env: &TestEnv) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(env.database.folder.path().join("out")) else { return Vec::new() };
    let files =
        folder.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    files
        .flat_map(|path| std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn parse_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:.300}"))).collect()
}

/// The exported line of a segment.
async fn exported_line(env: &TestEnv, id: &str) -> String {
    let export = env.run_ok(&["export"]).await;
    let start = format!(r#""segment_id":"{id}""#);
    export.lines().find(|line| line.contains(&start)).unwrap_or_else(|| panic!("no {id} in {export:.2000}")).to_owned()
}

fn transcript_response(message: impl AsRef<[u8]>) -> StubBody {
    let head = r#"{"channelClass":"DIGITAL","transcript":[{"participantType":"contact","timestamp":"1721651880000","message":"marker okay"},{"participantType":"agent","timestamp":"1721651881000","message":"#;
    (
        JSON,
        [
            head.as_bytes(),
            message.as_ref(),
            br#"},{"participantType":"agent","timestamp":"1721651882000","message":"the last word"}]}"#,
        ]
        .concat(),
    )
}

async fn what_is_wrong_with_one_value_costs_no_other(database: TempDatabase) {
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let long = "7".repeat(400);
    let faults: [(&str, &[u8]); 9] = [
        ("surrogate", br#""cut \ud83d""#),
        ("control", b"\"a\x01\nb\x1f\""),
        ("nul", br#""a\u0000b""#),
        ("utf8", b"\"caf\xe9\""),
        ("escape", br#""C:\x41""#),
        ("infinite", b"1e999"),
        ("long", long.as_bytes()),
        ("deep", deep.as_bytes()),
        ("twice", br#""first","message":"second""#),
    ];
    let mut elements: Vec<Vec<u8>> = faults
        .iter()
        .map(|(id, fault)| metadata_element(id, [b",\"agentNotes\":\"noted marker\",\"new\":", *fault].concat()))
        .collect();
    elements.insert(4, b"{\"segmentId\":\"broken\",,\"x\":\"\xe9\"}".to_vec());
    let ends: Vec<String> = faults.iter().map(|(id, _)| format!("segments/{id}")).collect();
    let artifacts: Vec<(&str, StubBody)> =
        ends.iter().zip(&faults).map(|(end, (_, fault))| (end.as_str(), transcript_response(fault))).collect();
    let (mut env, _server) = archive_and_index(database, &elements, &artifacts).await;

    for (id, fault) in &faults {
        let shown = env.run_ok(&["show", id]).await;
        assert!(shown.contains("marker okay") && shown.contains("the last word"), "{id}: {shown}");
        assert!(shown.contains("noted marker") && shown.contains("00:02"), "{id}: {shown}");
        let line = exported_line(&env, id).await;
        assert!(
            line.contains(r#""body":{"channelClass""#) && line.contains(r#""metadata":{"segmentId""#),
            "{id}: {line:.400}"
        );
        // As it was sent, where any reader of JSON takes it.
        if !matches!(*id, "control" | "utf8" | "escape") {
            assert_eq!(line.matches(std::str::from_utf8(fault).unwrap()).count(), 2, "{id}: {line:.400}");
        }
        let json = env.run_ok(&["show", id, "--json"]).await;
        assert!(json.contains(r#""body":{"channelClass""#), "{id}: {json:.400}");
    }
    assert!(delivered_events(&env).iter().all(|event| event.contains(r#""body":{"channelClass""#)));
    let csv = env.run_ok(&["export", "--format", "csv"]).await;
    assert_eq!(
        (csv.matches("marker okay").count(), csv.matches("the last word").count()),
        (faults.len(), faults.len())
    );
    let redacted = env.run_ok(&["export", "--redact", "phone"]).await;
    assert_eq!(redacted.matches("marker okay").count(), faults.len());
    assert_eq!(redacted.matches(r#""timestamp":"1721651880000""#).count(), faults.len());
    // What could not be read at all is set aside, and said.
    let (audit, status) = env.audit_json().await;
    assert_ne!(status, 0, "{audit}");
    assert!(env.run_ok(&["export"]).await.lines().count() == faults.len(), "the broken one is no segment");
    env.stop().await;
}

async fn texts_are_decoded_from_the_charset_that_they_come_in(database: TempDatabase) {
    let text = r#"{"channelClass":"VOICE","transcript":[{"message":"marker Café"}]}"#;
    let utf_16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let latin = |text: &str| text.chars().map(|letter| letter as u32 as u8).collect::<Vec<u8>>();
    let artifacts = [
        ("segments/latin", ("application/json;charset=ISO-8859-1", latin(text))),
        ("segments/latin/auto", ("text/plain;charset=ISO-8859-1", latin("Café réservé"))),
        ("segments/wide", ("application/json; charset=\"utf-16le\"", utf_16(text))),
        ("segments/wide/auto", ("text/plain", [&b"\xff\xfe"[..], &utf_16("Café réservé")].concat())),
        ("segments/wide/agent", ("text/plain;charset=UTF-16", utf_16("marker café with blanks"))),
        ("segments/latin/agent", ("text/plain;charset=latin-1", latin("marker café"))),
        ("segments/marked", (JSON, [&b"\xef\xbb\xbf"[..], text.as_bytes()].concat())),
        ("segments/marked/agent", (JSON, latin("marker caf\u{e9} and more"))),
    ];
    let elements = ["latin", "wide", "marked"].map(|id| metadata_element(id, ""));
    let (mut env, _server) = archive_and_index(database, &elements, &artifacts).await;
    env.wait_until("all of them are found by a word with an accent", async || {
        parse_lines(&env.run(&["search", "café", "--json"]).await.out).len() == 7
    })
    .await;
    for id in ["latin", "wide"] {
        let line: Value = serde_json::from_str(&exported_line(&env, id).await).unwrap();
        assert_eq!(line["transcript"]["body"]["transcript"][0]["message"], "marker Café");
        assert_eq!(line["auto_summary"]["text"], "Café réservé");
        let shown = env.run_ok(&["show", id]).await;
        assert!(shown.contains("marker Café") && shown.contains("Café réservé"), "{shown}");
    }
    assert_eq!(
        delivered_events(&env).iter().filter(|event| event.contains("Café") || event.contains("marker café")).count(),
        7
    );
    let marked: Value = serde_json::from_str(&exported_line(&env, "marked").await).unwrap();
    assert_eq!(marked["agent_summary"]["text"], "marker caf\u{fffd} and more");
    // The bytes are kept as they came.
    env.run_ok(&["verify"]).await;
    env.stop().await;
}

async fn people_read_times_speakers_and_e_mails_in_every_form(database: TempDatabase) {
    let voice = br#"{"channelClass":"VOICE","transcript":[
        {"participantId":"901","timestamp":"2024-07-22T12:38:00.000+0000","message":"marker hello"},
        {"participantId":"901","timestamp":"2024-07-22T12:38:20","message":"bye"},
        {"participantId":"c7","timestamp":1721651890.5,"message":"I want a refund"},
        {"participantId":"c7","timestamp":"2024-07-22 12:38:15 +0000","message":"please"}]}"#;
    let mail = br#"{"channelClass":"DIGITAL","transcript":[{"participantType":"contact","timestamp":1721651880,
        "message":"<html><head><style>p{color:red}</style></head><body><p>marker my ref<b>und</b></p><p>caf&eacute; &amp; more</p></body></html>"}]}"#;
    let letters = br#"{"channelClass":"DIGITAL","transcript":[{"participantType":"contact","timestamp":1721651880,
        "message":"<b>marker</b> 5&nbsp;\u0026euro; back"}]}"#;
    let artifacts = [
        ("segments/voice", (JSON, voice.to_vec())),
        ("segments/mail", (JSON, mail.to_vec())),
        ("segments/letters", (JSON, letters.to_vec())),
        ("segments/chat", (JSON, letters.to_vec())),
        ("segments/newer", (JSON, voice.to_vec())),
    ];
    let elements = [
        metadata_element(
            "voice",
            r#","segmentType":"AGENT","segmentParticipantId":"901","segmentStartTimeMs":"2024-07-22T12:37:00""#,
        ),
        metadata_element("mail", r#","channelType":"EMAIL","segmentStartTimeMs":1721651820"#),
        metadata_element("letters", r#","channelType":"EMAIL""#),
        metadata_element("chat", r#","channelType":"WHATSAPP""#),
        metadata_element(
            "newer",
            r#","callType":"OUTBOUND","agentId":901,"agentFullName":"Jane Doe","interactionStartTimeMs":"1721651820000","callResult":"ANSWER""#,
        ),
    ];
    let (mut env, _server) = archive_and_index(database, &elements, &artifacts).await;
    let said = "00:00 agent: marker hello\n00:10 contact: I want a refund\n00:15 contact: please\n00:20 agent: bye\n";
    let text = env.run_ok(&["export", "--format", "text"]).await;
    assert_eq!(text.matches(said).count(), 2, "{text}");
    let csv = env.run_ok(&["export", "--format", "csv"]).await;
    assert_eq!((csv.matches(said).count(), csv.matches("2024-07-22T12:37:00.000Z").count()), (2, 3), "{csv}");
    let shown = env.run_ok(&["show", "newer"]).await;
    for part in ["Jane Doe", "OUTBOUND", "ANSWER", "2024-07-22T12:37:00.000Z", "contact\n", "00:15"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    for (filter, found) in [(["--agent", "901"], 2), (["--agent", "doe"], 1), (["--direction", "outbound"], 1)] {
        let hits = parse_lines(&env.run_ok(&[&["search", "marker", "--json"][..], &filter].concat()).await);
        assert_eq!(hits.len(), found, "{filter:?}");
    }
    let hits = parse_lines(&env.run_ok(&["search", "refund please", "--json"]).await);
    assert!(hits.iter().all(|hit| hit["speaker"] == "contact" && hit["offset"] == "00:10"), "{hits:?}");
    // An e-mail is text for people and the index, and as it came for programs.
    let shown = env.run_ok(&["show", "mail"]).await;
    assert!(shown.contains("marker my refund") && shown.contains("café & more") && !shown.contains('<'), "{shown}");
    assert_eq!(parse_lines(&env.run_ok(&["search", "refund café", "--json"]).await).len(), 1);
    for markup in ["color", "eacute", "body"] {
        assert_eq!(env.run(&["search", markup, "--json"]).await.out, "", "{markup}");
    }
    assert!(exported_line(&env, "mail").await.contains("<p>marker my ref<b>und</b></p>"));
    // In an e-mail letters in bold and entities alone are HTML, too; in a chat someone wrote them.
    assert!(env.run_ok(&["show", "letters"]).await.contains("marker 5 € back"));
    assert!(env.run_ok(&["show", "chat"]).await.contains("<b>marker</b> 5&nbsp;&euro; back"));
    for (query, found) in [("\"marker 5 back\"", "letters"), ("nbsp", "chat")] {
        let hits = parse_lines(&env.run_ok(&["search", query, "--json"]).await);
        assert_eq!(hits.iter().map(|hit| hit["segment_id"].as_str().unwrap()).collect::<Vec<_>>(), [found]);
    }
    env.stop().await;
}

async fn what_cannot_be_read_of_a_record_costs_no_conversation(database: TempDatabase) {
    let elements = [
        br#"{"segmentId":"end","dialogId":"d-end","hasTranscript":true,"segmentEndTimeMs":"soon","agentNotes":"marker"}"#.to_vec(),
        br#"{"segmentId":"flag","dialogId":"d-flag","hasTranscript":"available","segmentEndTimeMs":"END"}"#.to_vec(),
        br#"{"segmentId":"second","dialogId":"d-second","hasTranscript":true,"segmentEndTimeMs":"END"}"#.to_vec(),
        br#"{"segmentId":"dialog","dialogId":[1],"hasTranscript":"no","segmentEndTimeMs":"END","agentNotes":"marker"}"#.to_vec(),
    ];
    let said = String::from_utf8(transcript_response("\"yes\"").1).unwrap();
    let twice = said.replace("]}", "],\"transcript\":null}");
    let artifacts = [
        ("segments/end", (JSON, said.clone().into_bytes())),
        ("segments/flag", (JSON, said.into_bytes())),
        ("segments/second", (JSON, twice.into_bytes())),
    ];
    let (mut env, _server) = archive_and_index(database, &elements, &artifacts).await;
    env.wait_until("the notes are found", async || {
        parse_lines(&env.run(&["search", "marker", "--json"]).await.out).len() == 5
    })
    .await;
    let export = parse_lines(&env.run_ok(&["export"]).await);
    assert_eq!((export.len(), &export[0]["segment_id"], &export[0]["segment_end"]), (4, &"end".into(), &Value::Null));
    let dialog = export.iter().find(|line| line["segment_id"] == "dialog").unwrap();
    assert_eq!((&dialog["dialog_id"], &dialog["transcript"]["outcome"]), (&Value::Null, &"not_requested".into()));
    for id in ["end", "flag", "second"] {
        let shown = env.run_ok(&["show", id]).await;
        assert!(shown.contains("marker okay") && shown.contains("the last word"), "{id}: {shown}");
    }
    let csv = env.run_ok(&["export", "--format", "csv"]).await;
    assert_eq!(csv.matches("the last word").count(), 3);
    // It lies in no range but the whole, is audited and verified, and can be erased.
    assert_eq!(parse_lines(&env.run_ok(&["export", "--from", "1d"]).await).len(), 3);
    let (audit, _) = env.audit_json().await;
    assert_eq!(audit["accounts"][0]["segments"]["announced"], 4, "{audit}");
    assert_eq!(audit["accounts"][0]["aside"]["unresolved"], 0, "{audit}");
    env.run_ok(&["verify"]).await;
    env.run_ok(&["erase", "--yes", "--segment", "end"]).await;
    assert_eq!(parse_lines(&env.run_ok(&["export"]).await).len(), 3);
    assert_eq!(parse_lines(&env.run_ok(&["search", "marker", "--json"]).await).len(), 3);
    env.stop().await;
}
