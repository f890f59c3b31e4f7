//! A compact log of the events that a sink received, and its comparison with the simulator's ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ringcx_extractor::model::Artifact;
use ringcx_extractor::sim::{ExpectedArtifact, ExpectedSegment, truncate_depth};
use serde_json::Value;

/// Sub-account, segment, artifact.
type ArtifactKey = (String, String, String);

/// The events that one sink received. Cheap to clone.
#[derive(Clone, Default)]
pub struct DeliveryLog(Arc<Mutex<DeliveryLogState>>);

#[derive(Default)]
struct DeliveryLogState {
    /// For each item, the hash of the content by event id.
    events: HashMap<ArtifactKey, BTreeMap<String, u64>>,
    /// The segments whose erasure was announced.
    erased: BTreeSet<String>,
    /// Received events, repeated ones included.
    received: u64,
    /// Repeated events with another content.
    violations: Vec<String>,
}

impl DeliveryLog {
    /// Records an event.
    pub fn record_event(&self, event: &Value) {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        if event["type"] == "com.ringcx.segment.erased" {
            self.0.lock().unwrap().erased.insert(text("subject"));
            return;
        }
        let artifact = text("type").trim_start_matches("com.ringcx.").to_owned();
        let sub = event["data"]["sub_account_id"].as_str().unwrap_or_default().to_owned();
        let part = &event["data"][&artifact];
        let content = if artifact == "transcript" { &part["body"] } else { &part["text"] };
        let mut state = self.0.lock().unwrap();
        state.received += 1;
        let (id, hash) = (text("id"), hash_of(content));
        let key = (sub, text("subject"), artifact);
        let before = state.events.entry(key.clone()).or_default().insert(id.clone(), hash);
        if before.is_some_and(|before| before != hash) {
            state.violations.push(format!("event {id} of {key:?} was repeated with another content"));
        }
    }

    /// Records all events in a folder of JSON lines. Asserts that no line is torn.
    pub fn read_folder(&self, folder: &Path) {
        self.read_whole_lines(folder);
        let torn = |path: &PathBuf| std::fs::read(path).unwrap().last().is_some_and(|last| *last != b'\n');
        let torn: Vec<PathBuf> = files_in(folder).into_iter().filter(torn).collect();
        assert!(torn.is_empty(), "torn lines in {torn:?}");
    }

    /// The same, but ignores an incomplete line at the end of a file.
    pub fn read_whole_lines(&self, folder: &Path) {
        for path in files_in(folder) {
            let text = std::fs::read(&path).unwrap();
            let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines = text[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.for_each(|line| {
                self.record_event(&ringcx_extractor::lenient_json::from_slice(line).expect("a whole line"))
            });
        }
    }

    /// The segments whose transcript was received.
    pub fn segments(&self) -> BTreeSet<String> {
        let state = self.0.lock().unwrap();
        let transcripts = state.events.keys().filter(|(_, _, artifact)| artifact == "transcript");
        transcripts.map(|(_, segment, _)| segment.clone()).collect()
    }

    /// The segments of which any text was received.
    pub fn segments_with_text(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().events.keys().map(|(_, segment, _)| segment.clone()).collect()
    }

    /// The segments whose erasure was announced.
    pub fn erased_segments(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().erased.clone()
    }

    /// The number of received texts, and how many of them were repeated.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap();
        let single: usize = state.events.values().map(BTreeMap::len).sum();
        (state.received, state.received - single as u64)
    }

    /// How the log differs from the ledger: each text needs an event, and each event a text. `excused` segments may be missing.
    pub fn differences(&self, ledger: &[ExpectedSegment], excused: &BTreeSet<String>) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let mut wrong = state.violations.clone();
        let mut known = BTreeSet::new();
        for entry in ledger {
            for artifact in Artifact::TEXTS {
                let key = (entry.account.sub.to_string(), entry.segment_id.clone(), artifact.name().to_owned());
                let events = state.events.get(&key);
                if let ExpectedArtifact::Body(body) = entry.expected_artifact(artifact)
                    && entry.has_transcript
                    && !excused.contains(&entry.segment_id)
                {
                    let expected = hash_of(&content_of(artifact, body));
                    if !events.is_some_and(|events| events.values().any(|hash| *hash == expected)) {
                        wrong.push(format!(
                            "{key:?}, which ended at {:?} and was first announced at {:?}: its text was not delivered; {} \
                             other events were",
                            entry.end,
                            entry.first_announced,
                            events.map_or(0, BTreeMap::len)
                        ));
                    }
                }
                // One text, or two if it was edited. Each is one event, however often it was repeated.
                if events.is_some_and(|events| events.len() > 2) {
                    wrong.push(format!("{key:?} made {} events", events.map_or(0, BTreeMap::len)));
                }
                known.insert(key);
            }
        }
        wrong.extend(
            state.events.keys().filter(|key| !known.contains(*key)).map(|key| format!("{key:?} is not in the ledger")),
        );
        wrong
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()).collect()
}

fn content_of(artifact: Artifact, body: &[u8]) -> Value {
    match artifact {
        Artifact::Transcript => ringcx_extractor::lenient_json::from_slice(body).unwrap_or(Value::Null),
        _ => {
            serde_json::from_slice::<String>(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()).into()
        }
    }
}

fn hash_of(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    truncate_depth(value.clone()).to_string().hash(&mut hasher);
    hasher.finish()
}
