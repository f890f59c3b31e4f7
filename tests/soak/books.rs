//! What arrived at the sinks, kept small, and compared with the simulator's ledger when all is over.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ringcx_extractor::model::Artifact;
use ringcx_extractor::sim::{Expect, LedgerEntry, without_depths};
use serde_json::Value;

/// Sub-account, segment, artifact.
type Key = (String, String, String);

/// What one sink was given. Cheap to clone.
#[derive(Clone, Default)]
pub struct Books(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    /// Of each item the events by their ids, each with the hash of what it said.
    events: HashMap<Key, BTreeMap<String, u64>>,
    /// How many came, the same one again included.
    came: u64,
    /// What should never be.
    wrong: Vec<String>,
}

impl Books {
    /// Takes down an event.
    pub fn note(&self, event: &Value) {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let artifact = text("type").trim_start_matches("com.ringcx.").to_owned();
        let sub = event["data"]["sub_account_id"].as_str().unwrap_or_default().to_owned();
        let part = &event["data"][&artifact];
        let said = if artifact == "transcript" { &part["body"] } else { &part["text"] };
        let mut inside = self.0.lock().unwrap();
        inside.came += 1;
        let (id, hash) = (text("id"), hash(said));
        let key = (sub, text("subject"), artifact);
        let before = inside.events.entry(key.clone()).or_default().insert(id.clone(), hash);
        if before.is_some_and(|before| before != hash) {
            inside.wrong.push(format!("event {id} of {key:?} came again with another content"));
        }
    }

    /// Takes down all that lies in a folder of JSON lines.
    pub fn read(&self, folder: &Path) {
        self.read_whole_lines(folder);
        let torn = |path: &PathBuf| std::fs::read(path).unwrap().last().is_some_and(|last| *last != b'\n');
        let torn: Vec<PathBuf> = files(folder).into_iter().filter(torn).collect();
        assert!(torn.is_empty(), "torn lines in {torn:?}");
    }

    /// The same, while a file may have a torn line at its end, or one that is just being written.
    pub fn read_whole_lines(&self, folder: &Path) {
        for path in files(folder) {
            let text = std::fs::read(&path).unwrap();
            let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let lines = text[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.for_each(|line| self.note(&ringcx_extractor::lenient_json::from_slice(line).expect("a whole line")));
        }
    }

    /// The segments of which a transcript came.
    pub fn segments(&self) -> BTreeSet<String> {
        let inside = self.0.lock().unwrap();
        let transcripts = inside.events.keys().filter(|(_, _, artifact)| artifact == "transcript");
        transcripts.map(|(_, segment, _)| segment.clone()).collect()
    }

    /// How many events came, and how many of them again.
    pub fn counts(&self) -> (u64, u64) {
        let inside = self.0.lock().unwrap();
        let single: usize = inside.events.values().map(BTreeMap::len).sum();
        (inside.came, inside.came - single as u64)
    }

    /// In what it differs from the ledger: of each text an event at least, and none of what never was.
    pub fn differences(&self, world: &[LedgerEntry], excused: &BTreeSet<String>) -> Vec<String> {
        let inside = self.0.lock().unwrap();
        let mut wrong = inside.wrong.clone();
        let mut known = BTreeSet::new();
        for entry in world {
            for artifact in Artifact::ALL {
                let key = (entry.account.sub.to_string(), entry.segment_id.clone(), artifact.name().to_owned());
                let events = inside.events.get(&key);
                if let Expect::Body(body) = entry.expect(artifact)
                    && entry.has_transcript
                    && !excused.contains(&entry.segment_id)
                {
                    let expected = hash(&said(artifact, body));
                    if !events.is_some_and(|events| events.values().any(|hash| *hash == expected)) {
                        wrong.push(format!(
                            "{key:?}, which ended at {:?} and was first told of at {:?}: its text was never delivered; {} \
                             others were",
                            entry.end,
                            entry.first_announced,
                            events.map_or(0, BTreeMap::len)
                        ));
                    }
                }
                // One text, or two where it was edited; each is one event, however often that came.
                if events.is_some_and(|events| events.len() > 2) {
                    wrong.push(format!("{key:?} made {} events", events.map_or(0, BTreeMap::len)));
                }
                known.insert(key);
            }
        }
        wrong.extend(
            inside.events.keys().filter(|key| !known.contains(*key)).map(|key| format!("{key:?} is not in the world")),
        );
        wrong
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().map(|file| file.unwrap().path()).collect()
}

fn said(artifact: Artifact, body: &[u8]) -> Value {
    match artifact {
        Artifact::Transcript => ringcx_extractor::lenient_json::from_slice(body).unwrap_or(Value::Null),
        _ => {
            serde_json::from_slice::<String>(body).unwrap_or_else(|_| String::from_utf8_lossy(body).into_owned()).into()
        }
    }
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    without_depths(value.clone()).to_string().hash(&mut hasher);
    hasher.finish()
}
