//! What the filters let through, held against a plain look at everything; and what becomes of names in the index.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use ringcx_extractor::search::words::words;
use serde_json::{Value, json};

use super::*;

crate::on_both! {
    filters_let_through_what_a_plain_look_at_everything_lets_through,
    an_index_without_marks_or_keys_is_built_anew,
    a_name_that_was_erased_is_gone_for_good,
}

/// A segment as it is now.
#[derive(Clone)]
struct Now {
    metadata: Value,
    /// Who takes part, by the newest transcript.
    names: Vec<String>,
    /// Which texts there are.
    sources: Vec<Source>,
}

fn of<T: Clone>(chance: &mut StdRng, choice: &[T]) -> T {
    choice.choose(chance).unwrap().clone()
}

fn made_up(chance: &mut StdRng) -> Value {
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
        "channelClass": of(chance, &channels), "channelType": of(chance, &channels),
        "dialogOrigination": of(chance, &[json!("INBOUND"), json!("OUTBOUND"), json!(null)]),
        "segmentParticipantId": of(chance, &[json!("449438"), json!(42), json!("doe"), json!(null)]),
        "agentDisposition": of(chance, &dispositions), "systemDisposition": of(chance, &dispositions),
        "agentNotes": of(chance, &[json!(null), json!("common notes")]),
    })
}

fn some_names(chance: &mut StdRng) -> Vec<String> {
    const NAMES: [&str; 8] =
        ["Jane Doe", "DOE, Jane", "Zoë Ångström", "Mary-Jane Doe Smith", "+1 555", "…", "李小龍", "Jane"];
    if chance.random_bool(0.05) {
        return (0..300).map(|n| format!("Guest {n}")).collect();
    }
    (0..chance.random_range(0..4)).map(|_| of(chance, &NAMES).to_owned()).collect()
}

fn spoken_by(names: &[String]) -> String {
    let turns: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "a common word")).collect();
    said(if turns.is_empty() { &[("", "a common word")] } else { &turns })
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn is(now: &Now, keys: &[&str], wanted: &str) -> bool {
    let same = |text: &str| text.trim() == wanted.trim() || (!words(text).is_empty() && words(text) == words(wanted));
    keys.iter().filter_map(|key| text(&now.metadata[*key])).any(|text| same(&text))
}

fn lets_through(filters: &Filters, now: &Now, source: Source) -> bool {
    let each = |wanted: &Option<String>, keys: &[&str]| wanted.as_ref().is_none_or(|wanted| is(now, keys, wanted));
    let takes_part = |wanted: &String| {
        let wanted = words(wanted);
        let holds = |name: &String| words(name).windows(wanted.len()).any(|part| part == wanted.as_slice());
        !wanted.is_empty() && now.names.iter().any(holds)
    };
    let agent = |wanted: &String| is(now, &["segmentParticipantId"], wanted) || takes_part(wanted);
    each(&filters.channel, &["channelClass", "channelType"])
        && each(&filters.direction, &["dialogOrigination"])
        && each(&filters.disposition, &["agentDisposition", "systemDisposition"])
        && filters.agent.as_ref().is_none_or(agent)
        && (filters.sources.is_empty() || filters.sources.contains(&source))
}

/// Every filter, alone and some together.
fn questions() -> Vec<Filters> {
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
    all.extend(Source::ALL.map(|source| Filters { sources: vec![source], ..none() }));
    all.push(Filters { sources: vec![Source::Notes, Source::ALL[2]], agent: some("jane doe"), ..none() });
    all.push(Filters { channel: some("VOICE"), direction: some("OUTBOUND"), agent: some("doe"), ..none() });
    all
}

async fn asked(db: &Db, world: &BTreeMap<String, Now>, when: &str) {
    for filters in questions() {
        let mut wanted = Vec::new();
        for (id, now) in world.iter().rev() {
            let through = now.sources.iter().filter(|source| lets_through(&filters, now, **source));
            wanted.extend(through.map(|source| (id.as_str(), *source)));
        }
        for order in [Order::Newest, Order::Best] {
            let found = search(db, "common", &filters, order, 1000).await;
            let mut found: Vec<(&str, Source)> =
                found.hits.iter().map(|hit| (hit.segment.segment_id.as_str(), hit.source)).collect();
            if order == Order::Best {
                found.sort_by(|a, b| b.0.cmp(a.0).then(a.1.cmp(&b.1)));
            }
            assert_eq!(found, wanted, "{when}: {filters:?}");
        }
    }
}

async fn filters_let_through_what_a_plain_look_at_everything_lets_through(test: TestDb) {
    let (db, owned) = (&test.db, own(&test.db, "a").await);
    let mut chance = StdRng::seed_from_u64(11);
    let mut world: BTreeMap<String, Now> = BTreeMap::new();
    for n in 0..40 {
        let (metadata, sources) = (made_up(&mut chance), Vec::new());
        world.insert(format!("s{n:02}"), Now { metadata, names: Vec::new(), sources });
    }
    for when in ["at first", "what came later", "what changed"] {
        let mut records = Vec::new();
        for (n, (id, now)) in (0..).zip(&mut world) {
            if when == "what changed" && chance.random_bool(0.4) {
                now.metadata = made_up(&mut chance);
            }
            records.push(record(id, n, now.metadata.clone()));
            now.sources.retain(|source| *source != Source::Notes);
            now.sources.extend(now.metadata["agentNotes"].is_string().then_some(Source::Notes));
        }
        announce(db, owned, &records).await;
        for (id, now) in &mut world {
            for artifact in [Artifact::AgentSummary, Artifact::AutoSummary, Artifact::Transcript] {
                if chance.random_bool(0.6) {
                    continue;
                }
                if artifact == Artifact::Transcript && when == "what changed" && chance.random_bool(0.2) {
                    let claim = claim(db, owned, id, artifact).await;
                    let emptied = Settled { claim, at: NOW, settlement: Settlement::not_populated(Some(NOW)) };
                    assert_eq!(db.settle(&[emptied]).await.unwrap(), [true]);
                    // What was said before stays.
                    continue;
                }
                let body = if artifact == Artifact::Transcript {
                    now.names = some_names(&mut chance);
                    spoken_by(&now.names)
                } else {
                    "a common summary".to_owned()
                };
                answer(db, owned, id, artifact, &body).await;
                now.sources.retain(|source| *source != Source::Artifact(artifact));
                now.sources.push(Source::Artifact(artifact));
                now.sources.sort();
            }
        }
        index(db, &[owned]).await;
        asked(db, &world, when).await;
    }
    assert!(db.prepare_index(-1).await.unwrap());
    index(db, &[owned]).await;
    asked(db, &world, "built anew").await;
}

async fn an_index_without_marks_or_keys_is_built_anew(test: TestDb) {
    let owned = own(&test.db, "a").await;
    told(&test.db, owned, "s1", 1, &[("Jane Doe", "once")]).await;
    announce(&test.db, owned, &[record("s2", 2, json!({"agentNotes": "once noted", "channelClass": "VOICE"}))]).await;
    index(&test.db, &[owned]).await;
    // What the migration says, on an index as it was before.
    let statements = match test.db.file() {
        Some(_) => include_str!("../../../migrations/sqlite/0008_marks.sql"),
        None => include_str!("../../../migrations/postgres/0009_keys.sql"),
    };
    let lines = statements.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
    for statement in lines.split(';').filter(|statement| !statement.trim().is_empty()) {
        test.db.run(sql(statement.to_owned().leak())).await.unwrap();
    }
    assert!(test.db.index_behind().await.unwrap() > 0, "a search says that it is behind");
    index(&test.db, &[owned]).await;
    let by = async |filters| names(&search(&test.db, "once", &filters, Order::Newest, 9).await);
    assert_eq!(by(Filters { agent: Some("doe".to_owned()), ..Filters::default() }).await, "s1");
    assert_eq!(by(Filters { channel: Some("voice".to_owned()), ..Filters::default() }).await, "s2");
    assert_eq!(by(Filters::default()).await, "s2 s1");
}

async fn a_name_that_was_erased_is_gone_for_good(test: TestDb) {
    let owned = own(&test.db, "a").await;
    told(&test.db, owned, "s1", 1, &[("Xavier QUIXOTE", "remembers")]).await;
    told(&test.db, owned, "s2", 2, &[("Xavier VALENTIN", "remembers")]).await;
    answer(&test.db, owned, "s1", Artifact::AutoSummary, "remembers").await;
    index(&test.db, &[owned]).await;
    let by = async |agent: &str| {
        let filters = Filters { agent: Some(agent.to_owned()), ..Filters::default() };
        names(&search(&test.db, "remembers", &filters, Order::Newest, 9).await)
    };
    assert_eq!((by("quixote").await, by("xavier").await), ("s1 s1".to_owned(), "s2 s1 s1".to_owned()));
    let segment = test.db.segments_named("s1").await.unwrap().remove(0);
    let items: Vec<i64> = (0..4).map(|code| segment.key * 4 + code).collect();
    let mut tx = test.db.begin().await.unwrap();
    assert_eq!(tx.unindex(&items).await.unwrap(), 2);
    tx.commit().await.unwrap();
    test.db.purge_index().await.unwrap();
    assert_eq!((by("quixote").await, by("xavier").await), (String::new(), "s2".to_owned()));
    if let Some(file) = test.db.file() {
        let bytes = std::fs::read(file).unwrap();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        // In the transcripts the names are in capital letters: what is in small ones is the index.
        assert!(!holds(b"uixote"), "a name that was taken out can be read in the file");
        assert!(holds(b"alentin"), "the test looks in the wrong place");
    }
}
