use std::time::Duration;

use super::super::super::fixtures::NOW;
use super::super::STYLE;
use super::*;
use crate::db::ArtifactStatus;
use crate::model::AccountId;
use crate::search::DocumentSource;
use crate::search::score::{DocumentMatch, Passage};

const HOSTILE: &str =
    "</p></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

fn slot(outcome: ArtifactStatus) -> SegmentArtifact {
    SegmentArtifact {
        status: outcome,
        fetched: Some(NOW),
        version: 1,
        due: None,
        tries: 0,
        reason: Some(HOSTILE.to_owned()),
    }
}

fn segment(key: i64, id: &str) -> SegmentRow {
    SegmentRow {
        key,
        account: AccountId::new("1", HOSTILE),
        account_key: crate::db::AccountKey(1),
        segment_id: id.to_owned(),
        dialog_id: Some(HOSTILE.to_owned()),
        ended: Some(NOW),
        has_transcript: true,
        first_seen: NOW,
        metadata: serde_json::json!({ "agentNotes": HOSTILE, "channelClass": HOSTILE, "segmentDurationMs": 61_000 })
            .to_string(),
    }
}

fn assert_harmless(page: &str) {
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("\" autofocus onfocus"), "{page}");
    assert!(!page.contains(" style=") && !page.contains(" onclick="), "the policy allows neither");
    assert!(page.contains(&own_style()), "the style is the one that the policy allows");
}

fn own_style() -> String {
    format!("<style>{STYLE}</style>")
}

fn render(transcript: &str, dialog: &[SegmentRow]) -> String {
    render_with(transcript, dialog, ArtifactStatus::NotRequested, true)
}

fn render_with(transcript: &str, dialog: &[SegmentRow], recording: ArtifactStatus, may_listen: bool) -> String {
    let slots = [
        slot(ArtifactStatus::Stored(transcript.into())),
        slot(ArtifactStatus::Stored(HOSTILE.into())),
        slot(ArtifactStatus::Failed),
        slot(recording),
    ];
    let segment = segment(2, HOSTILE);
    let view =
        ConversationView { segment: &segment, slots: &slots, dialog, account: Some(HOSTILE), may_listen, now: NOW };
    conversation_page(&view)
}

#[test]
fn only_who_may_listen_gets_the_player_and_its_links_fit_the_audio() {
    let transcript = serde_json::json!({ "transcript": [
        { "participantType": "agent", "timestamp": NOW.0, "message": "Hello" },
        { "participantType": "contact", "timestamp": NOW.0 + 61_250, "message": HOSTILE },
    ]});
    let reference = serde_json::json!({
        "object": HOSTILE, "sha256": HOSTILE, "bytes": 7, "type": HOSTILE, "duration_ms": 61_000, "channels": 2,
    });
    let stored = || ArtifactStatus::Stored(reference.to_string().into_bytes());
    let page = render_with(&transcript.to_string(), &[], stored(), true);
    let id = crate::model::encode_path_segment(HOSTILE);
    assert!(page.contains("<audio controls preload=\"none\" src=\"/api/v1/segments/"), "{page}");
    assert!(page.contains(&format!("{id}/recording?account=")) && page.contains("#t=61.250\" data-start=\"61250\""));
    assert!(page.contains("61 s") && page.contains("format=srt"), "{page}");
    let own_script = format!("<script>{}</script>", super::super::PLAYER_SCRIPT);
    assert!(page.contains(&own_script), "the script is the one that the policy allows");
    assert_harmless(&page.replace(&own_script, ""));
    let page = render_with(&transcript.to_string(), &[], stored(), false);
    assert_harmless(&page);
    assert!(!page.contains("<audio") && !page.contains("/recording?") && page.contains("format=srt"), "{page}");
    let page = render_with("{}", &[], ArtifactStatus::Unavailable, true);
    assert!(page.contains("unavailable") && !page.contains("<audio"), "{page}");
}

#[test]
fn customer_text_is_rendered_as_text() {
    let transcript = serde_json::json!({ "transcript": [
        { "participantName": HOSTILE, "participantType": "agent", "timestamp": "1000", "message": HOSTILE },
        { "participantType": HOSTILE, "timestamp": 67_000, "message": "<b>bold</b> & \u{202e}more" },
    ]});
    let page = render(&transcript.to_string(), &[]);
    assert_harmless(&page);
    assert!(page.contains("&lt;b&gt;bold&lt;/b&gt; &amp; more"), "{page}");
    assert!(page.contains("id=\"t01:06\""), "a hit links to its phrase: {page}");
}

#[test]
fn a_dialogs_segments_link_to_one_another() {
    let dialog = [segment(1, "a&b/../c?d"), segment(2, HOSTILE), segment(3, "after")];
    let page = render("{}", &dialog);
    assert_harmless(&page);
    assert!(page.contains("Part 2 of 3"), "{page}");
    assert!(page.contains("segment=a%26b%2F..%2Fc%3Fd\"") && page.contains("segment=after\""), "{page}");
}

#[test]
fn a_hit_shows_its_passage_as_text_with_the_matches_marked() {
    let text = format!("refund {HOSTILE}");
    let judged = DocumentMatch {
        score: 1.0,
        speaker: Some(HOSTILE.to_owned()),
        offset: Some("00:07".to_owned()),
        passage: Passage { text, matches: vec![0..6, 7..11] },
    };
    let hit =
        SearchHit { segment: segment(1, HOSTILE), source: DocumentSource::ALL[0], version: 1, best_match: judged };
    let results = SearchResults { hits: vec![hit], ..SearchResults::default() };
    let form = SearchForm { q: HOSTILE.into(), account: HOSTILE.into(), from: HOSTILE.into(), ..SearchForm::default() };
    let page = search_page(
        &form,
        &SearchOutcome::Results { results: &results, accounts: &[], index_is_current: true, limit: 50 },
    );
    assert_harmless(&page);
    assert!(page.contains("<mark>refund</mark> <mark>&lt;/p&gt;</mark>"), "{page}");
    assert!(page.contains("#t00:07"), "{page}");
    assert_harmless(&search_page(&form, &SearchOutcome::Error(HOSTILE)));
}

#[test]
fn the_login_page_shows_the_error() {
    let view = LoginView { next_path: HOSTILE, refusal: None, failed: None, has_token: true, has_provider: true };
    let page = login_page(&LoginView { refusal: Some(&AuthRefusal::Wrong), ..view });
    assert_harmless(&page);
    assert!(page.contains("Wrong token") && page.contains("type=\"password\""));
    let limited = AuthRefusal::RateLimited(Duration::from_secs(10));
    let page = login_page(&LoginView { refusal: Some(&limited), has_provider: false, ..view });
    assert!(page.contains("Try again in 10 s") && !page.contains("/auth/login"), "{page}");
    let failed = LoginError::without_role(HOSTILE);
    let page = login_page(&LoginView { failed: Some(&failed), has_token: false, ..view });
    assert_harmless(&page);
    assert!(page.contains("no role lets you read") && !page.contains("type=\"password\"") && !page.contains("Log out"));
}
