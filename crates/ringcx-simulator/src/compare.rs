//! Compares an export with the ledger, field by field, and says in words what differs. Pure.

use std::borrow::Borrow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ledger::{Expect, LedgerEntry};
use crate::clock::Time;
use crate::lenient_json;
use crate::model::{Artifact, Wants};

/// How many differences are told in words.
const MOST: usize = 50;

/// What is needed of a line to find its entry and check its order.
#[derive(Deserialize)]
struct Head {
    sub_account_id: String,
    segment_id: String,
    segment_end: Option<String>,
}

/// Everything in which an export (JSONL, as the interface describes it) differs from the ledger; empty where they
/// agree. `wants` is what the accounts ask for. At most some fifty differences are told, then their number.
///
/// Something that is never there may be `unavailable` or still `pending`; something not there yet may be either, or
/// stored meanwhile.
pub fn compare(
    export_jsonl: &str,
    ledger: impl IntoIterator<Item = impl Borrow<LedgerEntry>>,
    wants: Wants,
) -> Vec<String> {
    let mut differences = Differences::default();
    let mut lines = index(export_jsonl, &mut differences);
    for entry in ledger {
        let entry = entry.borrow();
        let key = (entry.account.sub.to_string(), entry.segment_id.clone());
        match lines.remove(&key) {
            None => differences.add(format!("{}: missing from the export", name(entry))),
            Some(line) => compare_line(line, entry, wants, &mut differences),
        }
    }
    let mut left: Vec<_> = lines.into_keys().collect();
    left.sort_unstable();
    for (sub, id) in left {
        differences.add(format!("{sub} {id}: exported, not in the ledger"));
    }
    differences.finish()
}

#[derive(Default)]
struct Differences {
    told: Vec<String>,
    count: usize,
}

impl Differences {
    fn add(&mut self, what: String) {
        self.count += 1;
        if self.told.len() < MOST {
            self.told.push(what);
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.count > self.told.len() {
            self.told.push(format!("and {} more differences", self.count - self.told.len()));
        }
        self.told
    }
}

fn name(entry: &LedgerEntry) -> String {
    format!("{} {}", entry.account.sub, entry.segment_id)
}

/// The lines by account and segment, checked for their order.
fn index<'a>(export: &'a str, differences: &mut Differences) -> HashMap<(String, String), &'a str> {
    let mut lines = HashMap::new();
    let mut last: Option<(Time, String, String)> = None;
    for (number, line) in export.lines().enumerate() {
        let Some(head) = lenient_json::from_str::<Head>(line) else {
            differences.add(format!("line {}: it cannot be read", number + 1));
            continue;
        };
        let end = head.segment_end.as_deref().and_then(Time::parse).unwrap_or(Time::NONE);
        let place = (end, head.sub_account_id.clone(), head.segment_id.clone());
        if last.as_ref().is_some_and(|last| *last > place) {
            differences.add(format!("line {}: out of order: {} {}", number + 1, place.1, place.2));
        }
        last = Some(place);
        let key = (head.sub_account_id, head.segment_id);
        if lines.contains_key(&key) {
            differences.add(format!("line {}: {} {} a second time", number + 1, key.0, key.1));
        }
        lines.insert(key, line);
    }
    lines
}

fn compare_line(line: &str, entry: &LedgerEntry, wants: Wants, differences: &mut Differences) {
    let Some(Value::Object(line)) = lenient_json::value(line) else {
        return differences.add(format!("{}: not an object", name(entry)));
    };
    let mut check = |field: &str, expected: Value| {
        let found = without_depths(line.get(field).cloned().unwrap_or_default());
        if found != expected {
            differences.add(format!("{}: {field} is {}, not {}", name(entry), brief(&found), brief(&expected)));
        }
    };
    check("rc_account_id", (*entry.account.rc).into());
    check("sub_account_id", (*entry.account.sub).into());
    check("segment_id", entry.segment_id.as_str().into());
    check("dialog_id", entry.dialog_id.as_deref().into());
    check("segment_end", entry.end.map(Time::rfc3339).into());
    check("metadata", entry.metadata.clone());
    let asked = wants.of(entry.has_transcript, entry.is_agent);
    for artifact in Artifact::ALL {
        let expected = if asked.contains(artifact) { entry.expect(artifact) } else { &Expect::NotRequested };
        if let Some(what) = compare_artifact(line.get(artifact.name()), expected, artifact) {
            differences.add(format!("{}: {artifact}: {what}", name(entry)));
        }
    }
}

fn compare_artifact(found: Option<&Value>, expected: &Expect, artifact: Artifact) -> Option<String> {
    let Some(Value::Object(found)) = found else { return Some("missing".into()) };
    let outcome = found.get("outcome").and_then(Value::as_str).unwrap_or("");
    let allowed: &[&str] = match expected {
        Expect::Body(_) => &["stored"],
        Expect::NotPopulated => &["not_populated"],
        Expect::NotYet => &["pending", "unavailable", "stored", "not_populated"],
        // A transcript that is answered as empty to the end is known to be so.
        Expect::NeverAvailable if artifact == Artifact::Transcript => &["unavailable", "pending", "not_populated"],
        Expect::NeverAvailable => &["unavailable", "pending"],
        Expect::NotRequested => &["not_requested"],
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
        Expect::Body(body) => compare_body(found, body, artifact),
        _ => None,
    }
}

fn compare_body(found: &Map<String, Value>, body: &[u8], artifact: Artifact) -> Option<String> {
    let (field, expected) = if artifact == Artifact::Transcript {
        ("body", without_depths(lenient_json::from_slice(body).unwrap_or(Value::Null)))
    } else {
        let text = serde_json::from_slice::<String>(body);
        ("text", text.unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()).into())
    };
    let found = without_depths(found.get(field).cloned().unwrap_or_default());
    (found != expected).then(|| format!("{field} is {}, not {}", brief(&found), brief(&expected)))
}

/// How deep values are compared.
const MAX_DEPTH: usize = 40;

/// The value with `null` for what is nested too deeply to be compared: a lenient reader cuts it off at a depth that depends on
/// where the value stands.
pub fn without_depths(value: Value) -> Value {
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

/// A value short enough to read.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AccountId, ArtifactSet, SummariesFor};

    const WANTS: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

    fn entry(id: &str) -> LedgerEntry {
        LedgerEntry {
            account: AccountId::new("1", "2"),
            segment_id: id.into(),
            dialog_id: Some("d".into()),
            end: Some(Time(1_721_647_487_000)),
            has_transcript: true,
            is_agent: true,
            metadata: serde_json::json!({ "segmentId": id, "new": [1.5, null] }),
            first_announced: None,
            transcript: Expect::Body("{\"transcript\":[]}".into()),
            agent_summary: Expect::Body("\"said \\\"hi\\\"\"".into()),
            auto_summary: Expect::NotPopulated,
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
        assert_eq!(compare(&export, [entry("a"), entry("b")], WANTS), Vec::<String>::new());
    }

    #[test]
    fn everything_that_can_differ_is_told() {
        let good = "\"said \\\"hi\\\"\"";
        let tell = |export: String, expected: &str| {
            let told = compare(&export, [entry("a")], WANTS).join("; ");
            assert!(told.contains(expected), "{told:?} does not say {expected:?}");
        };
        tell(String::new(), "missing from the export");
        tell(line("a", "pending", good), "outcome is \"pending\"");
        tell(line("a", "stored", "\"said bye\""), "agent_summary: text is");
        tell(line("a", "stored", good) + &line("a", "stored", good), "a second time");
        tell(line("b", "stored", good) + &line("a", "stored", good), "out of order");
        tell(line("a", "stored", good) + &line("b", "stored", good), "not in the ledger");
        tell(line("a", "stored", good).replace("1.5", "1.6"), "metadata is");
        tell(line("a", "stored", good).replace(":47.000Z", ":47Z"), "segment_end is");
        tell(line("a", "stored", good).replace("{\"transcript\":[]}", "{}"), "transcript: body is");
        tell(line("a", "stored", good) + "{\n", "line 2");
    }
}
