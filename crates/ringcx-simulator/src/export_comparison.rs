//! Compares an export with the expected archive, field by field, and describes the differences.
//! Pure.

use std::borrow::Borrow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::expected_archive::{ExpectedArtifact, ExpectedSegment};
use crate::clock::Time;
use crate::lenient_json;
use crate::model::{Artifact, ArtifactSelection};

/// The number of differences that are described.
const MAX_DIFFERENCES: usize = 50;

/// The fields of a line that identify its segment and its order.
#[derive(Deserialize)]
struct ExportLineKey {
    sub_account_id: String,
    segment_id: String,
    segment_end: Option<String>,
}

/// The differences between an export (JSON Lines) and the expected archive; empty if there are
/// none. `wants` is what the accounts request. Fifty differences are described, then the number of
/// the others.
///
/// An artifact that is never available may be `unavailable` or still `pending`. One that is not
/// available yet may be either, or stored meanwhile.
pub fn compare_export(
    export_jsonl: &str,
    expected: impl IntoIterator<Item = impl Borrow<ExpectedSegment>>,
    wants: ArtifactSelection,
) -> Vec<String> {
    let mut differences = Differences::default();
    let mut lines = index_lines(export_jsonl, &mut differences);
    for entry in expected {
        let entry = entry.borrow();
        let key = (entry.account.sub.to_string(), entry.segment_id.clone());
        match lines.remove(&key) {
            None => differences.add(format!("{}: missing from the export", segment_name(entry))),
            Some(line) => compare_line(line, entry, wants, &mut differences),
        }
    }
    let mut left: Vec<_> = lines.into_keys().collect();
    left.sort_unstable();
    for (sub, id) in left {
        differences.add(format!("{sub} {id}: exported, but not expected"));
    }
    differences.finish()
}

#[derive(Default)]
struct Differences {
    messages: Vec<String>,
    count: usize,
}

impl Differences {
    fn add(&mut self, difference: String) {
        self.count += 1;
        if self.messages.len() < MAX_DIFFERENCES {
            self.messages.push(difference);
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.count > self.messages.len() {
            self.messages.push(format!("and {} more differences", self.count - self.messages.len()));
        }
        self.messages
    }
}

fn segment_name(entry: &ExpectedSegment) -> String {
    format!("{} {}", entry.account.sub, entry.segment_id)
}

/// The lines by account and segment; checks their order.
fn index_lines<'a>(export: &'a str, differences: &mut Differences) -> HashMap<(String, String), &'a str> {
    let mut lines = HashMap::new();
    let mut last: Option<(Time, String, String)> = None;
    for (number, line) in export.lines().enumerate() {
        let Some(line_key) = lenient_json::from_str::<ExportLineKey>(line) else {
            differences.add(format!("line {}: it cannot be read", number + 1));
            continue;
        };
        let end = line_key.segment_end.as_deref().and_then(Time::parse).unwrap_or(Time::NONE);
        let place = (end, line_key.sub_account_id.clone(), line_key.segment_id.clone());
        if last.as_ref().is_some_and(|last| *last > place) {
            differences.add(format!("line {}: out of order: {} {}", number + 1, place.1, place.2));
        }
        last = Some(place);
        let key = (line_key.sub_account_id, line_key.segment_id);
        if lines.contains_key(&key) {
            differences.add(format!("line {}: {} {} a second time", number + 1, key.0, key.1));
        }
        lines.insert(key, line);
    }
    lines
}

fn compare_line(line: &str, entry: &ExpectedSegment, wants: ArtifactSelection, differences: &mut Differences) {
    let Some(Value::Object(line)) = lenient_json::parse_value(line) else {
        return differences.add(format!("{}: not an object", segment_name(entry)));
    };
    let mut check = |field: &str, expected: Value| {
        let found = truncate_depth(line.get(field).cloned().unwrap_or_default());
        if found != expected {
            differences.add(format!(
                "{}: {field} is {}, not {}",
                segment_name(entry),
                abbreviate(&found),
                abbreviate(&expected)
            ));
        }
    };
    check("rc_account_id", (*entry.account.rc).into());
    check("sub_account_id", (*entry.account.sub).into());
    check("segment_id", entry.segment_id.as_str().into());
    check("dialog_id", entry.dialog_id.as_deref().into());
    check("segment_end", entry.end.map(Time::rfc3339).into());
    check("metadata", entry.metadata.clone());
    let requested = wants.artifacts_for(entry.has_transcript, entry.is_agent, entry.has_recording);
    // An export need not hold the references of recordings.
    let is_exported = |artifact: &Artifact| artifact.is_text() || line.contains_key(artifact.name());
    for artifact in Artifact::ALL.into_iter().filter(is_exported) {
        let expected = if requested.contains(artifact) {
            entry.expected_artifact(artifact)
        } else {
            &ExpectedArtifact::NotRequested
        };
        if let Some(difference) = compare_artifact(line.get(artifact.name()), expected, artifact) {
            differences.add(format!("{}: {artifact}: {difference}", segment_name(entry)));
        }
    }
}

fn compare_artifact(found: Option<&Value>, expected: &ExpectedArtifact, artifact: Artifact) -> Option<String> {
    let Some(Value::Object(found)) = found else { return Some("missing".into()) };
    let outcome = found.get("outcome").and_then(Value::as_str).unwrap_or("");
    let allowed: &[&str] = match expected {
        ExpectedArtifact::Body(_) => &["stored"],
        ExpectedArtifact::NotPopulated => &["not_populated"],
        ExpectedArtifact::NotYet => &["pending", "unavailable", "stored", "not_populated"],
        // A transcript that is answered as empty until the horizon counts as empty.
        ExpectedArtifact::NeverAvailable if artifact == Artifact::Transcript => {
            &["unavailable", "pending", "not_populated"]
        }
        ExpectedArtifact::NeverAvailable => &["unavailable", "pending"],
        ExpectedArtifact::NotRequested => &["not_requested"],
    };
    if !allowed.contains(&outcome) {
        return Some(format!("outcome is \"{outcome}\", not \"{}\"", allowed.join("\" or \"")));
    }
    if matches!(outcome, "stored" | "not_populated") {
        let fetched = found.get("fetched_at").and_then(Value::as_str);
        if fetched.and_then(Time::parse).is_none() {
            return Some(format!("fetched_at is {fetched:?}"));
        }
    }
    match expected {
        ExpectedArtifact::Body(body) if artifact.is_text() => compare_body(found, body, artifact),
        _ => None,
    }
}

fn compare_body(found: &Map<String, Value>, body: &[u8], artifact: Artifact) -> Option<String> {
    let (field, expected) = if artifact == Artifact::Transcript {
        ("body", truncate_depth(lenient_json::from_slice(body).unwrap_or(Value::Null)))
    } else {
        let text = serde_json::from_slice::<String>(body);
        ("text", text.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()).into())
    };
    let found = truncate_depth(found.get(field).cloned().unwrap_or_default());
    (found != expected).then(|| format!("{field} is {}, not {}", abbreviate(&found), abbreviate(&expected)))
}

/// Values are compared to this depth.
const MAX_DEPTH: usize = 40;

/// Replaces values below the compared depth by `null`: a lenient reader truncates them at a depth
/// that depends on the position of the value.
pub fn truncate_depth(value: Value) -> Value {
    fn cut(value: Value, left: usize) -> Value {
        match (value, left) {
            (Value::Array(_) | Value::Object(_), 0) => Value::Null,
            (Value::Array(list), _) => list.into_iter().map(|value| cut(value, left - 1)).collect(),
            (Value::Object(fields), _) => {
                Value::Object(fields.into_iter().map(|(name, value)| (name, cut(value, left - 1))).collect())
            }
            (value, _) => value,
        }
    }
    cut(value, MAX_DEPTH)
}

/// A value, abbreviated for a message.
fn abbreviate(value: &Value) -> String {
    const MAX_CHARACTERS: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AccountId, ArtifactSet, SummariesFor};

    const WANTS: ArtifactSelection =
        ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

    fn entry(id: &str) -> ExpectedSegment {
        ExpectedSegment {
            account: AccountId::new("1", "2"),
            segment_id: id.into(),
            dialog_id: Some("d".into()),
            end: Some(Time(1_721_647_487_000)),
            has_transcript: true,
            is_agent: true,
            has_recording: false,
            metadata: serde_json::json!({ "segmentId": id, "new": [1.5, null] }),
            first_announced: None,
            transcript: ExpectedArtifact::Body("{\"transcript\":[]}".into()),
            agent_summary: ExpectedArtifact::Body("\"said \\\"hi\\\"\"".into()),
            auto_summary: ExpectedArtifact::NotPopulated,
            recording: ExpectedArtifact::NotRequested,
        }
    }

    fn line(id: &str, outcome: &str, text: &str) -> String {
        format!(
            "{{\"rc_account_id\":\"1\",\"sub_account_id\":\"2\",\"dialog_id\":\"d\",\"segment_id\":\"{id}\",\
             \"segment_end\":\"2024-07-22T11:24:47.000Z\",\"metadata\":{{\"segmentId\":\"{id}\",\"new\":[1.5,null]}},\
             \"transcript\":{{\"outcome\":\"{outcome}\",\"fetched_at\":\"2024-07-22T11:30:00Z\",\"body\":{{\"transcript\":[]}}}},\
             \"agent_summary\":{{\"outcome\":\"stored\",\"fetched_at\":\"2024-07-22T11:30:00Z\",\"text\":{text}}},\
             \"auto_summary\":{{\"outcome\":\"not_populated\",\"fetched_at\":\"2024-07-22T11:30:00Z\"}}}}\n"
        )
    }

    #[test]
    fn an_export_that_agrees_has_no_differences() {
        let export = line("a", "stored", "\"said \\\"hi\\\"\"") + &line("b", "stored", "\"said \\\"hi\\\"\"");
        assert_eq!(compare_export(&export, [entry("a"), entry("b")], WANTS), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_described() {
        let good = "\"said \\\"hi\\\"\"";
        let assert_described = |export: String, expected: &str| {
            let messages = compare_export(&export, [entry("a")], WANTS).join("; ");
            assert!(messages.contains(expected), "{messages:?} does not contain {expected:?}");
        };
        assert_described(String::new(), "missing from the export");
        assert_described(line("a", "pending", good), "outcome is \"pending\"");
        assert_described(line("a", "stored", "\"said bye\""), "agent_summary: text is");
        assert_described(line("a", "stored", good) + &line("a", "stored", good), "a second time");
        assert_described(line("b", "stored", good) + &line("a", "stored", good), "out of order");
        assert_described(line("a", "stored", good) + &line("b", "stored", good), "but not expected");
        assert_described(line("a", "stored", good).replace("1.5", "1.6"), "metadata is");
        assert_described(line("a", "stored", good).replace(":47.000Z", ":47Z"), "segment_end is");
        assert_described(line("a", "stored", good).replace("{\"transcript\":[]}", "{}"), "transcript: body is");
        assert_described(line("a", "stored", good) + "{\n", "line 2");
    }
}
