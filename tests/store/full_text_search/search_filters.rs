//! Compares filtered searches with a scan of all segments, and checks the names in the index.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use ringcx_extractor::search::tokenizer::tokenize;
use serde_json::{Value, json};

use super::*;

crate::on_both! {
    filters_let_through_what_a_plain_look_at_everything_lets_through,
    a_name_that_was_erased_is_gone_for_good,
}

/// The state of a segment in the test archive.
#[derive(Clone)]
struct SeededSegment {
    metadata: Value,
    /// The participants of the newest transcript.
    names: Vec<String>,
    /// The stored texts.
    sources: Vec<DocumentSource>,
}

fn choose<T: Clone>(rng: &mut StdRng, choice: &[T]) -> T {
    choice.choose(rng).unwrap().clone()
}

fn random_metadata(rng: &mut StdRng) -> Value {
    let channels =
        [json!("VOICE"), json!("voice"), json!("Chat Room"), json!("chat-room"), json!("--"), json!(7), json!(null)];
    let dispositions = [
        json!("Résolu, reopened"),
        json!("RESOLU-REOPENED"),
        json!("Sale"),
        json!(" "),
        json!([]),
        json!("x".repeat(300)),
    ];
    json!({
        "channelClass": choose(rng, &channels), "channelType": choose(rng, &channels),
        "dialogOrigination": choose(rng, &[json!("INBOUND"), json!("OUTBOUND"), json!(null)]),
        "segmentParticipantId": choose(rng, &[json!("449438"), json!(42), json!("doe"), json!(null)]),
        "agentDisposition": choose(rng, &dispositions), "systemDisposition": choose(rng, &dispositions),
        "agentNotes": choose(rng, &[json!(null), json!("common notes")]),
    })
}

fn random_names(rng: &mut StdRng) -> Vec<String> {
    const NAMES: [&str; 8] =
        ["Jane Doe", "DOE, Jane", "Zoë Ångström", "Mary-Jane Doe Smith", "+1 555", "…", "李小龍", "Jane"];
    if rng.random_bool(0.05) {
        return (0..300).map(|n| format!("Guest {n}")).collect();
    }
    (0..rng.random_range(0..4)).map(|_| choose(rng, &NAMES).to_owned()).collect()
}

fn transcript_of_speakers(names: &[String]) -> String {
    let turns: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "a common word")).collect();
    transcript_json(if turns.is_empty() { &[("", "a common word")] } else { &turns })
}

fn value_as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn field_equals(segment: &SeededSegment, keys: &[&str], wanted: &str) -> bool {
    let same =
        |text: &str| text.trim() == wanted.trim() || (!tokenize(text).is_empty() && tokenize(text) == tokenize(wanted));
    keys.iter().filter_map(|key| value_as_text(&segment.metadata[*key])).any(|text| same(&text))
}

fn matches_filters(filters: &Filters, segment: &SeededSegment, source: DocumentSource) -> bool {
    let each = |wanted: &Option<String>, keys: &[&str]| {
        wanted.as_ref().is_none_or(|wanted| field_equals(segment, keys, wanted))
    };
    let takes_part = |wanted: &String| {
        let wanted = tokenize(wanted);
        let holds = |name: &String| tokenize(name).windows(wanted.len()).any(|part| part == wanted.as_slice());
        !wanted.is_empty() && segment.names.iter().any(holds)
    };
    let agent = |wanted: &String| field_equals(segment, &["segmentParticipantId"], wanted) || takes_part(wanted);
    each(&filters.channel, &["channelClass", "channelType"])
        && each(&filters.direction, &["dialogOrigination"])
        && each(&filters.disposition, &["agentDisposition", "systemDisposition"])
        && filters.agent.as_ref().is_none_or(agent)
        && (filters.sources.is_empty() || filters.sources.contains(&source))
}

/// Every filter alone, and some combinations.
fn all_filters() -> Vec<Filters> {
    let some = |text: &str| Some(text.to_owned());
    let none = Filters::default;
    let agents = [
        "449438",
        "42",
        "doe",
        "Jane Doe",
        "jane",
        "doe jane",
        "ångstrom",
        "小龍",
        "555",
        "guest 299",
        "nobody",
        "…",
        "mary doe",
    ];
    let mut all: Vec<Filters> = agents.iter().map(|agent| Filters { agent: some(agent), ..none() }).collect();
    all.extend(
        ["voice", "chat room", "--", "-", "7", "email"].map(|channel| Filters { channel: some(channel), ..none() }),
    );
    all.extend(["inbound", "sideways"].map(|direction| Filters { direction: some(direction), ..none() }));
    let dispositions = ["resolu reopened", "resolu", "sale", &"X".repeat(300), &"x".repeat(299)];
    all.extend(dispositions.map(|disposition| Filters { disposition: some(disposition), ..none() }));
    all.extend(DocumentSource::ALL.map(|source| Filters { sources: vec![source], ..none() }));
    all.push(Filters {
        sources: vec![DocumentSource::Notes, DocumentSource::ALL[2]],
        agent: some("jane doe"),
        ..none()
    });
    all.push(Filters { channel: some("VOICE"), direction: some("OUTBOUND"), agent: some("doe"), ..none() });
    all
}

async fn assert_search_matches_scan(db: &Db, segments: &BTreeMap<String, SeededSegment>, when: &str) {
    for filters in all_filters() {
        let mut wanted = Vec::new();
        for (id, segment) in segments.iter().rev() {
            let through = segment.sources.iter().filter(|source| matches_filters(&filters, segment, **source));
            wanted.extend(through.map(|source| (id.as_str(), *source)));
        }
        for order in [SortOrder::Newest, SortOrder::Best] {
            let found = run_search(db, "common", &filters, order, 1000).await;
            let mut found: Vec<(&str, DocumentSource)> =
                found.hits.iter().map(|hit| (hit.segment.segment_id.as_str(), hit.source)).collect();
            if order == SortOrder::Best {
                found.sort_by(|a, b| b.0.cmp(a.0).then(a.1.cmp(&b.1)));
            }
            assert_eq!(found, wanted, "{when}: {filters:?}");
        }
    }
}

async fn filters_let_through_what_a_plain_look_at_everything_lets_through(test: TestDb) {
    let (db, owned) = (&test.db, acquire_account(&test.db, "a").await);
    let mut rng = StdRng::seed_from_u64(11);
    let mut segments: BTreeMap<String, SeededSegment> = BTreeMap::new();
    for n in 0..40 {
        let (metadata, sources) = (random_metadata(&mut rng), Vec::new());
        segments.insert(format!("s{n:02}"), SeededSegment { metadata, names: Vec::new(), sources });
    }
    for when in ["at first", "what came later", "what changed"] {
        let mut records = Vec::new();
        for (n, (id, segment)) in (0..).zip(&mut segments) {
            if when == "what changed" && rng.random_bool(0.4) {
                segment.metadata = random_metadata(&mut rng);
            }
            records.push(record(id, n, segment.metadata.clone()));
            segment.sources.retain(|source| *source != DocumentSource::Notes);
            segment.sources.extend(segment.metadata["agentNotes"].is_string().then_some(DocumentSource::Notes));
        }
        ingest(db, owned, &records).await;
        for (id, segment) in &mut segments {
            for artifact in [Artifact::AgentSummary, Artifact::AutoSummary, Artifact::Transcript] {
                if rng.random_bool(0.6) {
                    continue;
                }
                if artifact == Artifact::Transcript && when == "what changed" && rng.random_bool(0.2) {
                    let claim = due_claim(db, owned, id, artifact).await;
                    let emptied = CompletedJob { claim, at: NOW, outcome: JobOutcome::not_populated(Some(NOW)) };
                    assert_eq!(db.complete_jobs(&[emptied]).await.unwrap(), [true]);
                    // The earlier transcript stays.
                    continue;
                }
                let body = if artifact == Artifact::Transcript {
                    segment.names = random_names(&mut rng);
                    transcript_of_speakers(&segment.names)
                } else {
                    "a common summary".to_owned()
                };
                store_artifact(db, owned, id, artifact, &body).await;
                segment.sources.retain(|source| *source != DocumentSource::Artifact(artifact));
                segment.sources.push(DocumentSource::Artifact(artifact));
                segment.sources.sort();
            }
        }
        index_all(db, &[owned]).await;
        assert_search_matches_scan(db, &segments, when).await;
    }
    assert!(db.prepare_index(-1).await.unwrap());
    index_all(db, &[owned]).await;
    assert_search_matches_scan(db, &segments, "built anew").await;
}

async fn a_name_that_was_erased_is_gone_for_good(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    archive_transcript(&test.db, owned, "s1", 1, &[("Xavier QUIXOTE", "remembers")]).await;
    archive_transcript(&test.db, owned, "s2", 2, &[("Xavier VALENTIN", "remembers")]).await;
    store_artifact(&test.db, owned, "s1", Artifact::AutoSummary, "remembers").await;
    index_all(&test.db, &[owned]).await;
    let by = async |agent: &str| {
        let filters = Filters { agent: Some(agent.to_owned()), ..Filters::default() };
        hit_ids(&run_search(&test.db, "remembers", &filters, SortOrder::Newest, 9).await)
    };
    assert_eq!((by("quixote").await, by("xavier").await), ("s1 s1".to_owned(), "s2 s1 s1".to_owned()));
    let segment = test.db.segments_by_id("s1").await.unwrap().remove(0);
    let items: Vec<Item> = (0..4).map(|code| Item(segment.key * 4 + code)).collect();
    let mut tx = test.db.begin().await.unwrap();
    assert_eq!(tx.remove_from_index(&items).await.unwrap(), 2);
    tx.commit().await.unwrap();
    test.db.purge_index().await.unwrap();
    assert_eq!((by("quixote").await, by("xavier").await), (String::new(), "s2".to_owned()));
    if let Some(file) = test.db.sqlite_path() {
        let bytes = std::fs::read(file).unwrap();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        // The transcripts have the names in capital letters, so lower case names would come from the index.
        assert!(!holds(b"uixote") && !holds(b"alentin"), "the index has readable names");
        assert!(holds(b"d-s2"), "the test looks in the wrong place");
    }
}
