use super::*;

#[test]
fn ids_are_encoded_in_addresses() {
    assert_eq!(dialog_path("a b/c+d", ".srt"), "/dialogs/a%20b%2Fc%2Bd.srt");
}

#[test]
fn marks_have_numbers_and_texts_are_escaped() {
    let mut hits = HitNumbers::default();
    let shown = marked("a <refund> refund", &[3..9, 11..17], |_| Some(hits.next())).into_string();
    assert_eq!(shown, "a &lt;<mark id=\"hit1\">refund</mark>&gt; <mark id=\"hit2\">refund</mark>");
}

const HOSTILE: &str =
    "</p></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

fn entry(key: i64, id: &str, transcript: &str) -> SegmentEntry {
    entry_with(key, id, transcript, ArtifactStatus::NotRequested)
}

fn entry_with(key: i64, id: &str, transcript: &str, recording: ArtifactStatus) -> SegmentEntry {
    let slot = |status| SegmentArtifact {
        status,
        fetched: Some(Time(0)),
        version: 1,
        due: None,
        tries: 0,
        reason: Some(HOSTILE.to_owned()),
    };
    let metadata =
        serde_json::json!({ "agentNotes": HOSTILE, "channelClass": HOSTILE, "dialogOrigination": "INBOUND" });
    SegmentEntry {
        segment: SegmentRow {
            key,
            account: crate::model::AccountId::new("1", HOSTILE),
            account_key: crate::db::AccountKey(1),
            segment_id: id.to_owned(),
            dialog_id: Some(HOSTILE.to_owned()),
            ended: Some(Time(key * 1000)),
            has_transcript: true,
            first_seen: Time(0),
            metadata: metadata.to_string(),
        },
        slots: [
            slot(ArtifactStatus::Stored(transcript.into())),
            slot(ArtifactStatus::Stored(HOSTILE.into())),
            slot(ArtifactStatus::Failed),
            slot(recording),
        ],
    }
}

fn assert_harmless(page: &str) {
    let own = "<script src=\"/assets/";
    assert_eq!(page.matches("<script").count(), page.matches(own).count(), "{page}");
    assert!(!page.contains("<img") && !page.contains("\" autofocus onfocus") && !page.contains(" style="), "{page}");
}

#[test]
fn customer_text_is_rendered_as_text_in_a_segment_and_in_a_whole_dialog() {
    let transcript = serde_json::json!({ "transcript": [
        { "participantName": HOSTILE, "participantType": "agent", "timestamp": "1000", "message": HOSTILE },
        { "participantType": HOSTILE, "timestamp": 67_000, "message": "<b>bold</b> & \u{202e}more refund" },
    ]});
    let entries = vec![entry(1, "a&b/../c?d", &transcript.to_string()), entry(2, HOSTILE, "{}")];
    let siblings: Vec<SegmentRow> = entries.iter().map(|entry| entry.segment.clone()).collect();
    let parameters = ReadingParameters { q: "refund alert".to_owned(), ..ReadingParameters::default() };
    let page = |entries: Vec<SegmentEntry>, siblings: &[SegmentRow]| {
        let reading = ReadingView::new(Some(HOSTILE), entries, Vec::new(), Some(&parameters.q)).unwrap();
        render(&reading, &parameters, siblings, &|_| true).into_string()
    };
    let whole = page(entries.clone(), &[]);
    assert_harmless(&whole);
    assert!(whole.contains("&lt;b&gt;bold&lt;/b&gt; &amp; more <mark id=\"hit2\">refund</mark>"), "{whole}");
    assert!(
        whole.contains("id=\"p2\"")
            && whole.contains("href=\"#p2\"")
            && whole.contains("<dd dir=\"auto\">inbound</dd>"),
        "{whole}"
    );
    assert!(whole.contains("segment=a%26b%2F..%2Fc%3Fd"), "{whole}");
    let part = page(entries.into_iter().take(1).collect(), &siblings);
    assert_harmless(&part);
    assert!(part.contains("Part 1 of 2") && part.contains("/segments/a%26b%2F..%2Fc%3Fd/transcript?"), "{part}");
}

fn page_of(entries: Vec<SegmentEntry>, may_listen: bool) -> String {
    let reading = ReadingView::new(Some(HOSTILE), entries, Vec::new(), None).unwrap();
    render(&reading, &ReadingParameters::default(), &[], &|_| may_listen).into_string()
}

#[test]
fn only_who_may_listen_gets_the_player_and_its_links_fit_the_audio() {
    let transcript = serde_json::json!({ "transcript": [
        { "participantType": "agent", "timestamp": 1_000_000, "message": "Hello" },
        { "participantType": "contact", "timestamp": 1_061_250, "message": HOSTILE },
    ]});
    let reference = serde_json::json!({
        "object": HOSTILE, "sha256": HOSTILE, "bytes": 7, "type": HOSTILE, "duration_ms": 61_000, "channels": 2,
    });
    let stored = |key, id| {
        let recording = ArtifactStatus::Stored(reference.to_string().into_bytes());
        entry_with(key, id, &transcript.to_string(), recording)
    };
    let page = page_of(vec![stored(1, HOSTILE)], true);
    assert_harmless(&page);
    let id = crate::model::encode_path_segment(HOSTILE);
    assert!(page.contains("<audio controls preload=\"none\" src=\"/api/v1/segments/"), "{page}");
    assert!(page.contains(&format!("{id}/recording?account=")) && page.contains("#t=61.250\""), "{page}");
    assert!(page.contains("data-start=\"61250\"") && page.contains("/player.js\""), "{page}");
    assert!(page.contains("61 s") && page.contains("format=srt") && page.contains(" download=\"segment-"), "{page}");
    let page = page_of(vec![stored(1, HOSTILE)], false);
    assert_harmless(&page);
    assert!(!page.contains("<audio") && !page.contains("/recording?") && !page.contains("player.js"), "{page}");
    assert!(page.contains("format=srt") && page.contains("href=\"#p2\""), "{page}");
    let page = page_of(vec![entry_with(1, HOSTILE, "{}", ArtifactStatus::Unavailable)], true);
    assert!(page.contains("unavailable") && !page.contains("<audio"), "{page}");
    // Each part of a dialog has its own recording, on its own page.
    let dialog = |may_listen| page_of(vec![stored(1, "first"), entry(2, "second", "{}")], may_listen);
    let whole = dialog(true);
    assert_harmless(&whole);
    assert_eq!((whole.matches("#recording\">Listen</a>").count(), whole.matches("<audio").count()), (1, 0), "{whole}");
    assert!(!dialog(false).contains(">Listen</a>"));
}

/// Plays the recording from a link and from a phrase, and moves in it. The frame that is being written
/// delays the end of loading, and so the result, until everything was played.
const PLAY_SCRIPT: &str = r##"<script>
const [held, seen] = [document.createElement("iframe"), []];
document.body.append(held);
held.contentDocument.open();
const audio = document.querySelector("audio");
const said = () => document.querySelector("[aria-current] .text")?.textContent ?? "nothing";
const note = (what) => seen.push(`${what}: ${said()} at ${Math.floor(audio.currentTime)} s, ${audio.paused ? "paused" : "playing"}`);
const next = (name) => new Promise((done) => ["error", name].forEach((one) => audio.addEventListener(one, done, { once: true })));
(async () => {
  note("first");
  document.querySelectorAll(".phrase a")[2].click();
  await next("timeupdate"); await next("timeupdate");
  note("link");
  document.querySelectorAll(".phrase .text")[3].click();
  await next("seeked"); await next("timeupdate");
  note("phrase");
  audio.pause(); audio.currentTime = 7;
  await next("seeked");
  note("moved");
  const recorded = document.createElement("pre"); recorded.id = "recorded"; recorded.textContent = seen.join("\n"); document.body.append(recorded);
  held.contentDocument.close();
})();
</script>"##;

#[test]
#[ignore = "needs Chromium"]
fn phrases_and_audio_lead_to_each_other_in_a_real_browser() {
    let folder = tempfile::tempdir().unwrap();
    let (file, audio) = (folder.path().join("page.html"), folder.path().join("audio.wav"));
    let sound = vec![128_u8; 61 * 8000];
    let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data".to_vec();
    wav.extend((sound.len() as u32).to_le_bytes());
    wav.extend(&sound);
    let length = (wav.len() as u32 - 8).to_le_bytes();
    wav[4..8].copy_from_slice(&length);
    std::fs::write(audio, wav).unwrap();
    let phrase = |kind: &str, at: u64, text: &str| serde_json::json!({ "participantType": kind, "timestamp": at, "message": text });
    let transcript = serde_json::json!({ "transcript": [
        phrase("agent", 1000, "Good morning, this is Jane. How can I help?"),
        phrase("contact", 7000, "I was charged twice for one parcel, and nobody could tell me when I get the money back."),
        phrase("agent", 19_000, "Let me look."),
        phrase("agent", 41_000, "I see it; the refund was sent yesterday."),
    ]});
    let reference =
        r#"{"object":"a/a.wav","sha256":"a","bytes":976044,"type":"audio/wav","duration_ms":61000,"channels":2}"#;
    let recorded = entry_with(1, "p-v-93bd", &transcript.to_string(), ArtifactStatus::Stored(reference.into()));
    let url = recording_section::api_path(&recorded.segment, "recording", "");
    let page = page_of(vec![recorded], true);
    let escaped = url.replace('&', "&amp;");
    assert!(page.contains(&escaped), "{page}");
    let player = include_str!("../../assets/player.js");
    let page = page.replace(&escaped, "audio.wav");
    std::fs::write(&file, format!("<!doctype html><body>{page}<script>{player}</script>{PLAY_SCRIPT}</body>")).unwrap();
    let mut chromium = crate::http::tests::browser::chromium(folder.path());
    chromium.args(["--timeout=20000", "--autoplay-policy=no-user-gesture-required", "--dump-dom"]);
    let output = chromium.arg(format!("file://{}", file.display())).output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    let recorded =
        page.split("<pre id=\"recorded\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or(&page);
    let expected = "first: nothing at 0 s, paused
link: Let me look. at 18 s, playing
phrase: I see it; the refund was sent yesterday. at 40 s, playing
moved: I was charged twice for one parcel, and nobody could tell me when I get the money back. at 7 s, paused";
    assert_eq!(recorded, expected);
}
