//! Renders stored data: parses, formats, redacts, writes JSON lines, and parses them again.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ringcx_extractor::config::Redact;
use ringcx_extractor::proof::Line;
use ringcx_extractor::reading::{self, Conversation};
use ringcx_extractor::redact::Redactor;

static REDACTOR: OnceLock<Redactor> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let redactor = REDACTOR.get_or_init(|| Redactor::new(&[Redact::Card, Redact::Email, Redact::Phone]));
    let text = String::from_utf8_lossy(data);
    if let Some(conversation) = Conversation::parse(data) {
        let plain = conversation.plain();
        assert!(conversation.phrases.iter().all(|phrase| plain.contains(&reading::one_line(&phrase.text))), "a phrase is lost");
    }
    assert!(!reading::clean(&text).chars().any(|letter| letter.is_control() && letter != '\n'));
    assert!(!reading::one_line(&text).contains(|letter: char| letter.is_control()));
    let line = reading::json_line(data);
    assert!(!line.get().contains(['\n', '\r']), "a line break within a line");
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line.get()).ok(), Some(value), "the line changes the JSON");
    }
    let once = redactor.transcript(data).into_owned();
    assert_eq!(redactor.transcript(&once), once, "redacting twice changes the text");
    if serde_json::from_slice::<serde_json::Value>(data).is_ok() {
        assert!(serde_json::from_slice::<serde_json::Value>(&once).is_ok(), "redaction breaks the JSON");
    }
    let _ = (redactor.summary(data), redactor.metadata(&text), redactor.text(&text));
    let _ = Line::parse(&text);
});
