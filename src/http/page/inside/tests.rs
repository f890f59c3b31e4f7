use super::super::super::testing::NOW;
use super::*;
use crate::db::SlotOutcome;
use crate::model::AccountId;
use crate::search::Source;
use crate::search::score::{Judged, Passage};

const HOSTILE: &str =
    "</p></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

fn slot(outcome: SlotOutcome) -> SegmentSlot {
    SegmentSlot { outcome, fetched: Some(NOW), version: 1, due: None, tries: 0, reason: Some(HOSTILE.to_owned()) }
}

fn segment(key: i64, id: &str) -> SegmentRow {
    SegmentRow {
        key,
        account: AccountId::new("1", HOSTILE),
        account_key: 1,
        segment_id: id.to_owned(),
        dialog_id: Some(HOSTILE.to_owned()),
        ended: Some(NOW),
        has_transcript: true,
        first_seen: NOW,
        metadata: serde_json::json!({ "agentNotes": HOSTILE, "channelClass": HOSTILE, "segmentDurationMs": 61_000 })
            .to_string(),
    }
}

fn is_harmless(page: &str) {
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("\" autofocus onfocus"), "{page}");
    assert!(!page.contains(" style=") && !page.contains(" onclick="), "neither would be allowed");
    assert!(page.contains(&own_style()), "the style is the one that the policy allows");
}

fn own_style() -> String {
    format!("<style>{STYLE}</style>")
}

fn read(transcript: &str, dialog: &[SegmentRow]) -> String {
    let slots = [
        slot(SlotOutcome::Stored(transcript.into())),
        slot(SlotOutcome::Stored(HOSTILE.into())),
        slot(SlotOutcome::Failed),
    ];
    let segment = segment(2, HOSTILE);
    conversation(&Reading { segment: &segment, slots: &slots, dialog, account: Some(HOSTILE), now: NOW })
}

#[test]
fn whatever_a_customer_said_is_shown_as_text() {
    let transcript = serde_json::json!({ "transcript": [
        { "participantName": HOSTILE, "participantType": "agent", "timestamp": "1000", "message": HOSTILE },
        { "participantType": HOSTILE, "timestamp": 67_000, "message": "<b>bold</b> & \u{202e}more" },
    ]});
    let page = read(&transcript.to_string(), &[]);
    is_harmless(&page);
    assert!(page.contains("&lt;b&gt;bold&lt;/b&gt; &amp; more"), "{page}");
    assert!(page.contains("id=\"t01:06\""), "a hit leads to what was said: {page}");
}

#[test]
fn a_dialog_s_segments_lead_to_one_another() {
    let dialog = [segment(1, "a&b/../c?d"), segment(2, HOSTILE), segment(3, "after")];
    let page = read("{}", &dialog);
    is_harmless(&page);
    assert!(page.contains("Part 2 of 3"), "{page}");
    assert!(page.contains("segment=a%26b%2F..%2Fc%3Fd\"") && page.contains("segment=after\""), "{page}");
}

#[test]
fn a_hit_shows_its_passage_as_text_with_the_matches_marked() {
    let text = format!("refund {HOSTILE}");
    let judged = Judged {
        score: 1.0,
        speaker: Some(HOSTILE.to_owned()),
        offset: Some("00:07".to_owned()),
        passage: Passage { text, matches: vec![0..6, 7..11] },
    };
    let hit = Hit { segment: segment(1, HOSTILE), source: Source::ALL[0], version: 1, judged };
    let findings = Findings { hits: vec![hit], ..Findings::default() };
    let asked = Asked { q: HOSTILE.into(), account: HOSTILE.into(), from: HOSTILE.into(), ..Asked::default() };
    let page = found(&asked, &Result::Found { findings: &findings, accounts: &[], standing: None, limit: 50 });
    is_harmless(&page);
    assert!(page.contains("<mark>refund</mark> <mark>&lt;/p&gt;</mark>"), "{page}");
    assert!(page.contains("#t00:07"), "{page}");
    is_harmless(&found(&asked, &Result::Trouble(HOSTILE)));
}

#[test]
fn the_door_says_why_it_stays_shut() {
    let page = login(HOSTILE, Refusal::Wrong);
    is_harmless(&page);
    assert!(page.contains("That is not the token") && page.contains("type=\"password\""));
    assert!(login("", Refusal::Wait(Duration::from_secs(10))).contains("none is heard for 10 s"));
    assert!(!login("", Refusal::None).contains("Log out"));
}
