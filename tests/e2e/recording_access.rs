//! Recordings on their way out, through the real binary: ranges, roles, the access log, the command, and the references in
//! exports, sinks and the feed.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::support;

use bytes::Bytes;
use ringcx_extractor::model::{AccountId, Artifact, ArtifactSet, encode_path_segment};
use ringcx_extractor::sim::{ArtifactScript, SegmentScript};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    a_recording_is_streamed_in_ranges_to_those_who_may_listen,
    a_recording_leaves_as_a_reference,
}

const LISTENER: &str = "listener-key-that-nobody-guesses";
const READER: &str = "reader-key-that-nobody-guesses";
const FOREIGN: &str = "foreign-key-that-nobody-guesses";
const DIGITAL: &str = "digital-key-that-nobody-guesses";
const TOKEN: &str = "token-that-nobody-guesses";
const OTHER_SUB: &str = "31630002";

fn table(fields: Value) -> toml::Value {
    toml::Value::try_from(fields).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Two accounts, of which only the first asks for recordings, and a key for each role.
fn scenario() -> Scenario {
    let accounts = [AccountId::new("980634004", "99999999"), AccountId::new("980634004", OTHER_SUB)];
    let account = |id: &AccountId, artifacts: Value| {
        table(json!({ "rc_account_id": &*id.rc, "sub_account_id": &*id.sub, "artifacts": artifacts }))
    };
    let role =
        |name: &str, may: &[&str], accounts: &[&str]| table(json!({ "name": name, "may": may, "accounts": accounts }));
    let key = |name: &str, secret: &str| {
        table(json!({ "name": name, "role": name, "key_hash": format!("sha256:{}", hex(secret.as_bytes())) }))
    };
    let mut scenario = Scenario::history()
        .configure_sim(|sim| {
            sim.traffic.per_minute = 0.001;
            sim.accounts = accounts.to_vec();
        })
        .set(
            "accounts",
            vec![
                account(&accounts[0], json!(["transcript", "recording"])),
                account(&accounts[1], json!(["transcript"])),
            ],
        )
        .set("recordings.store", "file:audio")
        .set("discovery.start", "20m")
        .set("discovery.max_window", "10m")
        .set("discovery.window", "10m")
        .set("http.listen", "127.0.0.1:0")
        .set("http.token", TOKEN)
        .set(
            "access.roles",
            vec![
                role("listener", &["read", "listen"], &["99999999"]),
                role("reader", &["read"], &[]),
                role("foreign", &["read", "listen"], &[OTHER_SUB]),
                table(json!({ "name": "digital", "may": ["read", "listen"], "channels": ["DIGITAL"] })),
            ],
        )
        .set(
            "access.keys",
            vec![key("listener", LISTENER), key("reader", READER), key("foreign", FOREIGN), key("digital", DIGITAL)],
        );
    scenario.wants.artifacts = ArtifactSet::NONE.with(Artifact::Transcript).with(Artifact::Recording);
    scenario
}

/// A WAV file of one channel. Its bytes are ASCII, so that it can be printed.
fn wav() -> Bytes {
    let sound = b"what was said in this call, as sound; nobody needs to understand";
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + sound.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data");
    bytes.extend((sound.len() as u32).to_le_bytes());
    bytes.extend(sound);
    bytes.into()
}

/// Adds a call that ended so long ago that its recording is requested at once. Returns its id.
fn add_call(env: &TestEnv, account: &AccountId, recording: ArtifactScript) -> String {
    let end = env.begin - Duration::from_secs(16 * 60);
    let body = json!({ "channelClass": "VOICE", "transcript": [
        { "participantType": "agent", "timestamp": (end.0 - 20_000).to_string(), "message": "Good morning" },
        { "participantType": "contact", "timestamp": (end.0 - 5_000).to_string(), "message": "a --> <b>" },
    ]});
    let transcript = ArtifactScript::Body(end, Bytes::from(body.to_string()));
    env.sim.add_segment(SegmentScript { transcript, recording, ..SegmentScript::new(account, end) })
}

async fn start() -> (reqwest::Client, Bytes) {
    ringcx_extractor::ringcx::install_tls();
    (reqwest::Client::builder().no_proxy().build().unwrap(), wav())
}

/// The exported lines, once the recording of a segment is stored.
async fn stored_lines(env: &TestEnv, segment: &str) -> Vec<Value> {
    let mut lines: Vec<Value> = Vec::new();
    let found = &mut lines;
    env.wait_until("the recording and the transcripts are stored", async || {
        let exported = env.run(&["export"]).await.out;
        *found = exported.lines().filter_map(ringcx_extractor::lenient_json::parse_value).collect();
        let is_stored = |line: &Value| line["segment_id"] == segment && line["recording"]["outcome"] == "stored";
        found.iter().any(is_stored) && found.iter().all(|line| line["transcript"]["outcome"] != "pending")
    })
    .await;
    lines
}

/// Who listened to and read the segment, as the access log tells.
async fn readers(env: &TestEnv, segment: &str) -> Vec<String> {
    let text = env.run_ok(&["access", "log", "--json", "--segment", segment]).await;
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let entries = entries.filter(|entry| entry["subject"] == segment);
    entries
        .map(|entry| format!("{} {}", entry["reader"].as_str().unwrap(), entry["action"].as_str().unwrap()))
        .collect()
}

async fn a_recording_is_streamed_in_ranges_to_those_who_may_listen(database: TempDatabase) {
    let env = TestEnv::with_daemon(database, scenario()).await;
    let (http, audio) = start().await;
    let end = env.begin - Duration::from_secs(16 * 60);
    let segment = add_call(&env, &env.main_account(), ArtifactScript::Body(end, audio.clone()));
    stored_lines(&env, &segment).await;
    let base = env.dashboard_url().await;
    let url = format!("{base}api/v1/segments/{}/recording", encode_path_segment(&segment));
    let tag = format!("\"{}\"", hex(&audio));
    let get = async |key: &str, headers: &[(&str, &str)]| {
        let request = http.get(&url).bearer_auth(key);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.send().await.unwrap()
    };

    // Nothing leaves without its entry, and the ranges of a player are one.
    let whole = get(LISTENER, &[]).await;
    let header = |response: &reqwest::Response, name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!((whole.status().as_u16(), header(&whole, "content-type")), (200, "audio/wav".to_owned()));
    assert_eq!((header(&whole, "etag"), header(&whole, "accept-ranges")), (tag.clone(), "bytes".to_owned()));
    assert_eq!(header(&whole, "content-length"), audio.len().to_string());
    assert!(header(&whole, "content-disposition").starts_with("inline; filename=\"segment-"), "{whole:?}");
    assert_eq!(whole.bytes().await.unwrap(), audio);
    let last = audio.len() - 1;
    for (range, first, last) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=10-19".to_owned(), 10, 19),
        ("bytes=-5".to_owned(), last - 4, last),
        (format!("bytes=50-{}", u64::MAX), 50, last),
    ] {
        let part = get(LISTENER, &[("range", range.as_str()), ("if-range", tag.as_str())]).await;
        assert_eq!((part.status().as_u16(), header(&part, "etag")), (206, tag.clone()), "{range}");
        assert_eq!(header(&part, "content-range"), format!("bytes {first}-{last}/{}", audio.len()), "{range}");
        assert_eq!(part.bytes().await.unwrap(), audio.slice(first..=last), "{range}");
    }
    let other_version = get(LISTENER, &[("range", "bytes=1-2"), ("if-range", "\"other\"")]).await;
    assert_eq!(other_version.status().as_u16(), 200);
    assert_eq!(readers(&env, &segment).await, ["listener listen"]);
    let beyond = get(LISTENER, &[("range", "bytes=1000-")]).await;
    assert_eq!((beyond.status().as_u16(), header(&beyond, "content-range")), (416, format!("bytes */{}", audio.len())));
    let known = get(LISTENER, &[("if-none-match", tag.as_str())]).await;
    assert_eq!((known.status().as_u16(), known.bytes().await.unwrap().len()), (304, 0));
    for range in ["bytes=1-2", "bytes=1000-"] {
        let head = http.head(&url).bearer_auth(LISTENER).header("range", range).send().await.unwrap();
        assert_eq!((head.status().as_u16(), header(&head, "etag")), (200, tag.clone()), "{range}");
        assert_eq!(header(&head, "content-length"), audio.len().to_string(), "{range}");
    }
    assert_eq!(readers(&env, &segment).await[1..], ["listener read"; 4]);

    // Whoever sees the segment and may not listen is told so; for others it does not exist.
    for (key, status) in [(READER, 403), (FOREIGN, 404), (DIGITAL, 404), ("wrong", 401)] {
        let refused = get(key, &[("range", "bytes=0-1")]).await;
        assert_eq!(refused.status().as_u16(), status, "{key}");
        let text = refused.text().await.unwrap();
        assert!(!text.contains("what was said") && !text.contains(&hex(&audio)), "{text}");
        assert_eq!(text.contains("listen"), status == 403, "{text}");
    }
    assert_eq!(readers(&env, &segment).await.len(), 5, "who got nothing has no entry");
    assert_eq!(get(TOKEN, &[]).await.bytes().await.unwrap(), audio);
    assert_eq!(readers(&env, &segment).await[5..], ["http.token listen"]);

    // The page has the player for those who may listen, and captions fit the audio.
    let account = env.main_account();
    let page = async |key: &str| {
        let page = format!("{base}conversation");
        let query = [("account", &*account.sub), ("segment", segment.as_str())];
        http.get(page).query(&query).bearer_auth(key).send().await.unwrap()
    };
    let shown = page(LISTENER).await;
    let policy = header(&shown, "content-security-policy");
    assert!(policy.contains("media-src 'self'") && policy.contains("script-src 'self'"), "{policy}");
    let shown = shown.text().await.unwrap();
    assert!(
        shown.contains("<audio controls") && shown.contains("data-start") && shown.contains("/player.js"),
        "{shown}"
    );
    let silent = page(READER).await.text().await.unwrap();
    assert!(!silent.contains("<audio") && !silent.contains("player.js") && silent.contains("Good morning"), "{silent}");
    let transcript = format!("{base}api/v1/segments/{}/transcript", encode_path_segment(&segment));
    let captions = async |format: &str| {
        let request = http.get(&transcript).query(&[("format", format)]).bearer_auth(READER);
        let response = request.send().await.unwrap();
        assert!(
            header(&response, "content-disposition").starts_with("attachment; filename=\"segment-"),
            "{response:?}"
        );
        (header(&response, "content-type"), response.text().await.unwrap())
    };
    let (media, srt) = captions("srt").await;
    assert!(media.starts_with("application/x-subrip") && srt.starts_with("1\n00:0") && srt.contains(" → <b>"), "{srt}");
    let (media, vtt) = captions("vtt").await;
    assert!(media.starts_with("text/vtt") && vtt.starts_with("WEBVTT\n\n00:0"), "{vtt}");
    assert!(vtt.contains("<v contact>a --&gt; &lt;b&gt;"), "{vtt}");
    assert_eq!(
        http.get(&transcript).query(&[("format", "mp3")]).bearer_auth(READER).send().await.unwrap().status(),
        400
    );

    // The command writes the same bytes, for its user only, and nothing where they are not what was stored.
    let file = env.database.folder.path().join("call.wav");
    let path = file.to_str().unwrap();
    let saved = env.run(&["recording", &segment, "-o", path]).await;
    saved.assert_output(0, &["audio/wav", &hex(&audio), "call.wav"]);
    assert_eq!(std::fs::read(&file).unwrap(), audio);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(env.run_ok(&["recording", &segment, "-o", "-"]).await.as_bytes(), &audio[..]);
    let listened = readers(&env, &segment).await;
    assert_eq!(listened.iter().filter(|entry| entry.ends_with(" listen")).count(), 4, "{listened:?}");
    env.run(&["recording", "nowhere", "-o", path]).await.assert_output(1, &["no segment \"nowhere\""]);
    let object = env.database.folder.path().join("audio").join(&hex(&audio)[..2]).join(format!("{}.wav", hex(&audio)));
    std::fs::write(&object, "altered").unwrap();
    std::fs::remove_file(&file).unwrap();
    env.run(&["recording", &segment, "-o", path]).await.assert_output(1, &["not what was stored", "verify"]);
    assert!(!file.exists());
    std::fs::remove_file(&object).unwrap();
    let lost = get(LISTENER, &[]).await;
    assert_eq!(lost.status().as_u16(), 503, "{}", lost.text().await.unwrap());
}

async fn a_recording_leaves_as_a_reference(database: TempDatabase) {
    let sink = table(json!({
        "name": "quality", "type": "jsonl", "path": "out", "start": "beginning", "artifacts": ["recording"],
    }));
    let env = TestEnv::with_daemon(database, scenario().set("sinks", vec![sink])).await;
    let (http, audio) = start().await;
    let end = env.begin - Duration::from_secs(16 * 60);
    let segment = add_call(&env, &env.main_account(), ArtifactScript::Body(end, audio.clone()));
    let other_account = AccountId::new("980634004", OTHER_SUB);
    let other = add_call(&env, &other_account, ArtifactScript::Body(end, audio.clone()));
    let lines = stored_lines(&env, &segment).await;
    let line = |id: &str| lines.iter().find(|line| line["segment_id"] == id).unwrap();
    let hash = hex(&audio);
    let mut reference = line(&segment)["recording"].clone();
    let fetched = reference.as_object_mut().unwrap().remove("fetched_at");
    assert!(fetched.is_some_and(|fetched| fetched.is_string()));
    let object = format!("{}/{hash}.wav", &hash[..2]);
    let expected = json!({
        "outcome": "stored", "object": object, "sha256": hash, "bytes": audio.len(), "type": "audio/wav", "duration_ms": 8,
        "channels": 1,
    });
    assert_eq!(reference, expected);
    assert!(line(&other).get("recording").is_none(), "the account does not ask for recordings");

    let csv = env.run_ok(&["export", "--format", "csv"]).await;
    assert!(csv.contains(&format!(",stored,{},audio/wav,8,{object}", audio.len())), "{csv}");
    assert!(csv.contains(",not_requested,,,,"), "{csv}");
    let shown = env.run_ok(&["show", &segment]).await;
    assert!(shown.contains("Recording") && shown.contains("audio/wav"), "{shown}");

    let out = env.database.folder.path().join("out");
    let event = || -> Option<Value> {
        let file = std::fs::read_dir(&out).ok()?.next()?.ok()?.path();
        serde_json::from_str(std::fs::read_to_string(file).ok()?.lines().next()?).ok()
    };
    env.wait_until("the sink has the event", async || event().is_some()).await;
    let event = event().unwrap();
    assert_eq!((&event["type"], &event["subject"]), (&"com.ringcx.recording".into(), &segment.as_str().into()));
    assert_eq!(event["data"]["recording"]["object"], object);
    assert!(event["data"].get("transcript").is_none());

    let base = env.dashboard_url().await;
    let feed = http.get(format!("{base}api/v1/feed")).bearer_auth(READER).send().await.unwrap().text().await.unwrap();
    let feed = ringcx_extractor::lenient_json::parse_value(&feed).unwrap();
    let of_recording =
        feed["events"].as_array().unwrap().iter().filter(|event| event["type"] == "com.ringcx.recording");
    let references: Vec<&Value> = of_recording.map(|event| &event["data"]["recording"]["sha256"]).collect();
    assert_eq!(references, [&Value::from(hash.as_str())]);
    let listed = http.get(format!("{base}api/v1/segments?has=recording")).bearer_auth(READER).send().await.unwrap();
    let listed = ringcx_extractor::lenient_json::parse_value(&listed.text().await.unwrap()).unwrap();
    let items = listed["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["recording"]["bytes"]), (1, &audio.len().into()));

    // Why there is no recording is a fact of the segment, so the answer has its entry.
    let url = format!("{base}api/v1/segments/{}/recording", encode_path_segment(&other));
    let none = http.get(url).bearer_auth(FOREIGN).send().await.unwrap();
    assert_eq!(none.status().as_u16(), 404);
    let text = none.text().await.unwrap();
    assert!(text.contains("the recording is not stored: not requested"), "{text}");
    assert_eq!(readers(&env, &other).await, ["foreign read"]);
}
