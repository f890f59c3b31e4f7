//! Renders stored data: parses, formats, redacts, writes JSON lines, and parses them again.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ringcx_extractor::config::RedactionRule;
use ringcx_extractor::proof::ExportedLine;
use ringcx_extractor::redact::Redactor;
use ringcx_extractor::render::{self, Conversation};

static REDACTOR: OnceLock<Redactor> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let redactor = REDACTOR.get_or_init(|| Redactor::new(&[RedactionRule::Card, RedactionRule::Email, RedactionRule::Phone]));
    let text = String::from_utf8_lossy(data);
    if let Some(conversation) = Conversation::parse(data) {
        let plain = conversation.to_plain_text();
        assert!(conversation.phrases.iter().all(|phrase| plain.contains(&render::clean_line(&phrase.text))), "a phrase is lost");
    }
    assert!(!render::clean_text(&text).chars().any(|letter| letter.is_control() && letter != '\n'));
    assert!(!render::clean_line(&text).contains(|letter: char| letter.is_control()));
    let line = render::to_json_line(data);
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
    let _ = ExportedLine::parse(&text);
});
