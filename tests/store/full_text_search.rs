//! Full-text search on both databases: the same archive, the same hits in the same order.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod index_backlog;
mod search_filters;

use crate::support;

use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{
    Claim, CompletedJob, Db, IndexHit, IndexLag, IndexQuery, Item, JobOutcome, Lease, MetadataChunk, OpenMode, sql,
};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::search::score::score_document;
use ringcx_extractor::search::{Document, DocumentSource, Filters, SearchResults, SortOrder, find, parse};
use ringcx_extractor::search_indexer::{IndexProgress, Indexer};
use serde_json::json;
use support::TestDb;
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::on_both! {
    words_phrases_beginnings_and_exclusions_find_what_they_say,
    operators_and_parentheses_find_what_they_say,
    words_of_scripts_without_spaces_are_found_within_a_sentence,
    changed_notes_are_indexed_without_a_pause,
    large_documents_are_indexed_and_only_their_beginning_counts,
    a_document_that_cannot_be_read_is_set_aside_and_the_rest_is_found,
    a_phrase_is_found_wherever_it_stands_in_a_very_long_transcript,
    notes_are_found_and_follow_the_metadata,
    a_newer_version_replaces_the_older,
    filters_narrow_and_pages_are_gone_through,
    the_best_come_first_and_the_newest_on_request,
    the_passage_of_a_nameless_speaker_is_from_the_part_that_is_searched,
    a_segment_that_moved_in_time_is_found_where_it_is_now,
    the_index_goes_on_where_it_was_and_belongs_to_the_owner,
    what_was_taken_out_is_gone_for_good,
    another_version_of_the_words_builds_the_index_anew,
    the_index_finds_what_the_text_says_however_it_is_asked,
    how_far_the_index_is_behind_and_since_when_is_known,
}

mod through_the_binary {
    use super::{a_huge_transcript_is_indexed_in_little_memory, what_a_running_daemon_stores_is_found};

    crate::e2e! { what_a_running_daemon_stores_is_found, a_huge_transcript_is_indexed_in_little_memory }
}

const NOW: Time = Time(1_800_000_000_000);

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

/// A segment that ended `second` seconds after a fixed start.
fn record(id: &str, second: i64, metadata: serde_json::Value) -> SegmentRecord {
    let mut raw = json!({"segmentId": id, "segmentEndTimeMs": end_time(second).0, "agentNotes": null});
    raw.as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: Some(end_time(second)),
        has_transcript: true,
        is_agent: true,
        has_recording: false,
        raw: raw.to_string(),
    }
}

fn end_time(second: i64) -> Time {
    Time(1_700_000_000_000 + second * 1000)
}

async fn ingest(db: &Db, owned: Lease, records: &[SegmentRecord]) {
    ingest_at(db, owned, records, NOW).await;
}

async fn ingest_at(db: &Db, owned: Lease, records: &[SegmentRecord], now: Time) {
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: Time(0), to: now },
        now,
        wants: ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed },
        already_read: &TimeRangeSet::default(),
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap();
}

async fn due_claim(db: &Db, owned: Lease, segment: &str, artifact: Artifact) -> Claim {
    let due = db.due_items(owned, ArtifactSet::ALL, NOW + Duration::from_secs(86_400), 50_000).await.unwrap();
    due.into_iter().find(|claim| claim.segment_id == segment && claim.artifact == artifact).unwrap()
}

async fn store_artifact(db: &Db, owned: Lease, segment: &str, artifact: Artifact, body: &str) {
    let claim = due_claim(db, owned, segment, artifact).await;
    let settlement = JobOutcome::stored(&Bytes::copy_from_slice(body.as_bytes()), Some(NOW));
    assert_eq!(db.complete_jobs(&[CompletedJob { claim, at: NOW, outcome: settlement }]).await.unwrap(), [true]);
}

fn transcript_json(phrases: &[(&str, &str)]) -> String {
    let phrases: Vec<_> = phrases
        .iter()
        .map(|(name, text)| json!({"participantName": name, "participantType": "agent", "timestamp": "1000", "message": text}))
        .collect();
    json!({"channelClass": "VOICE", "transcript": phrases}).to_string()
}

/// Ingests a segment and stores this transcript.
async fn archive_transcript(db: &Db, owned: Lease, id: &str, second: i64, phrases: &[(&str, &str)]) {
    ingest(db, owned, &[record(id, second, json!({}))]).await;
    store_artifact(db, owned, id, Artifact::Transcript, &transcript_json(phrases)).await;
}

async fn index_all(db: &Db, owned: &[Lease]) {
    let indexer = Indexer::new(db.clone());
    while indexer.step(owned).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(db.unindexed_changes().await.unwrap(), 0);
}

async fn run_search(db: &Db, query: &str, filters: &Filters, order: SortOrder, limit: usize) -> SearchResults {
    find(db, &parse(query).unwrap(), filters, order, limit).await.unwrap()
}

/// The ids that a query finds, newest first.
async fn search_ids(db: &Db, query: &str) -> String {
    hit_ids(&run_search(db, query, &Filters::default(), SortOrder::Newest, 100).await)
}

fn hit_ids(findings: &SearchResults) -> String {
    findings.hits.iter().map(|hit| hit.segment.segment_id.as_str()).collect::<Vec<_>>().join(" ")
}

async fn words_phrases_beginnings_and_exclusions_find_what_they_say(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let corpus = [
        ("s1", "Ich warte auf die Rückerstattung, Größe L. It's O'Connor."),
        ("s2", "The refund was charged twice, twice, I say; order-123 for john@example.com"),
        ("s3", "My refund? charged once. Łódź, déjà vu"),
        ("s4", "お待たせいたしました。ご確認ください。 李小龍"),
        ("s5", "don't refuse the refunds 50% ☂ NULL '); drop table search_text; --"),
    ];
    for (nth, (id, text)) in (0..).zip(corpus) {
        archive_transcript(&test.db, owned, id, nth, &[("Jane", text)]).await;
    }
    archive_transcript(&test.db, owned, "s6", 9, &[("Jane", "was it charged"), ("Joe", "twice you say")]).await;
    index_all(&test.db, &[owned]).await;
    for (query, found) in [
        ("REFUND", "s3 s2"),
        ("ref*", "s5 s3 s2"),
        ("refund charged", "s3 s2"),
        ("\"charged twice\"", "s2"),
        ("charged -once", "s6 s2"),
        ("ref* -refund", "s5"),
        ("charged -\"charged twice\"", "s6 s3"),
        ("once OR größe", "s3 s1"),
        ("rückerstattung", "s1"),
        ("Ruckerstattung groesse", ""),
        ("grosse", "s1"),
        ("lodz deja", "s3"),
        ("o'connor", "s1"),
        ("john@example.com", "s2"),
        ("example.com john", "s2"),
        ("order-123", "s2"),
        ("order-124", ""),
        ("小龍", "s4"),
        ("龍小", ""),
        ("ご確認", "s4"),
        ("don’t", "s5"),
        ("\"twice i say\"*", "s2"),
        ("\"charged twi\"*", "s2"),
        ("nothing", ""),
    ] {
        assert_eq!(search_ids(&test.db, query).await, found, "{query}");
    }
}

async fn operators_and_parentheses_find_what_they_say(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let corpus = [("s1", "refund late"), ("s2", "refund money"), ("s3", "late money"), ("s4", "slow money")];
    for (nth, (id, text)) in (0..).zip(corpus) {
        archive_transcript(&test.db, owned, id, nth, &[("Jane", text)]).await;
    }
    index_all(&test.db, &[owned]).await;
    for (query, found) in [
        ("refund AND late", "s1"),
        ("(refund OR late) money", "s3 s2"),
        ("(refund OR late) AND NOT money", "s1"),
        ("(refund late) OR (slow money)", "s4 s1"),
        ("((refund money) OR lat*) -(slow OR refund)", "s3"),
        ("money NOT (refund OR \"slow money\")", "s3"),
    ] {
        assert_eq!(search_ids(&test.db, query).await, found, "{query}");
    }
}

async fn words_of_scripts_without_spaces_are_found_within_a_sentence(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let corpus = [
        ("thai", "ผมต้องการขอคืนเงินค่าสินค้า100บาท"),
        ("lao", "ຂ້ອຍຕ້ອງການເງິນຄືນ"),
        ("burmese", "ကျွန်တော်ငွေပြန်အမ်းလိုပါတယ်"),
        ("khmer", "ខ្ញុំចង់បានប្រាក់\u{200b}វិញ"),
        ("korean", "iPhone을 환불을 받고 싶어요"),
        ("other", "교환 불가 전환 หมา"),
        ("latin", "re\u{ad}funded two\u{200b}words"),
    ];
    for (nth, (id, text)) in (0..).zip(corpus) {
        archive_transcript(&test.db, owned, id, nth, &[("Jane", text)]).await;
    }
    index_all(&test.db, &[owned]).await;
    for (query, found) in [
        ("คืนเงิน", "thai"),
        ("สินค้า 100", "thai"),
        ("หมู", ""),
        ("ເງິນຄືນ", "lao"),
        ("ငွေပြန်အမ်း", "burmese"),
        ("ប្រាក់វិញ", "khmer"),
        ("ប្រាក់ AND វិញ", "khmer"),
        ("환불", "korean"),
        ("\"환불을 받\"", "korean"),
        ("iphone -전화", "korean"),
        ("불가 OR 환불", "other korean"),
        ("refunded words", "latin"),
    ] {
        assert_eq!(search_ids(&test.db, query).await, found, "{query}");
    }
}

async fn changed_notes_are_indexed_without_a_pause(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let noted = |note: &str| -> Vec<SegmentRecord> {
        (0..1200).map(|n| record(&format!("s{n}"), n, json!({"agentNotes": format!("{note} {n}")}))).collect()
    };
    let indexer = Indexer::new(test.db.clone());
    while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    for note in ["first", "second"] {
        for part in noted(note).chunks(500) {
            ingest(&test.db, owned, part).await;
        }
        // The daemon pauses only when nothing is left to do.
        let mut steps = Vec::new();
        while !matches!(steps.last(), Some(IndexProgress::CaughtUp | IndexProgress::Idle)) {
            steps.push(indexer.step(&[owned]).await.unwrap());
        }
        assert_eq!(test.db.unindexed_changes().await.unwrap(), 0, "{steps:?}");
        let lookup = IndexQuery { required: parse(note).unwrap().required, ..IndexQuery::default() };
        assert_eq!(test.db.query_index(&lookup, None, 10_000).await.unwrap().len(), 1200);
    }
}

async fn large_documents_are_indexed_and_only_their_beginning_counts(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let records: Vec<SegmentRecord> = (0..4).map(|n| record(&format!("s{n}"), n, json!({}))).collect();
    ingest(&test.db, owned, &records).await;
    let padded = |n: i64, bytes: usize| {
        let (pad, text) = ("-".repeat(bytes), format!("begin{n} everywhere"));
        json!({"transcript": [{"message": text}, {"channelId": pad, "message": format!("end{n}")}]}).to_string()
    };
    // Two of them are more than a step handles. Of the last, only the beginning is read.
    for n in 0..4 {
        let bytes = if n == 3 { 8 * 1024 * 1024 } else { 1_200_000 };
        store_artifact(&test.db, owned, &format!("s{n}"), Artifact::Transcript, &padded(n, bytes)).await;
    }
    index_all(&test.db, &[owned]).await;
    let noted: Vec<SegmentRecord> =
        (0..4).map(|n| record(&format!("s{n}"), n, json!({"agentNotes": format!("noted{n}")}))).collect();
    ingest(&test.db, owned, &noted).await;
    index_all(&test.db, &[owned]).await;
    for (query, found) in
        [("everywhere", "s3 s2 s1 s0"), ("begin3", "s3"), ("end2", "s2"), ("end3", ""), ("noted3 OR noted1", "s3 s1")]
    {
        assert_eq!(search_ids(&test.db, query).await, found, "{query}");
    }
    assert_eq!(search_ids(&test.db, "everywhere -end3 -end0").await, "s3 s2 s1");
}

/// An unreadable row, which only SQLite permits; on Postgres all documents are found.
async fn a_document_that_cannot_be_read_is_set_aside_and_the_rest_is_found(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    for n in 0..5 {
        archive_transcript(&test.db, owned, &format!("s{n}"), n, &[("Jane", "said")]).await;
    }
    let sqlite = matches!(test.db, Db::Sqlite(_));
    if sqlite {
        let mut tx = test.db.begin().await.unwrap();
        tx.run(sql("update artifact set size = 0, version = 'x' where feed = 3")).await.unwrap();
        tx.commit().await.unwrap();
    }
    let indexer = Indexer::new(test.db.clone());
    while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(test.db.unindexed_changes().await.unwrap(), 0);
    let lookup = IndexQuery { required: parse("said").unwrap().required, ..IndexQuery::default() };
    assert_eq!(test.db.query_index(&lookup, None, 10).await.unwrap().len(), if sqlite { 4 } else { 5 });
    let skipped = test.db.skipped_documents().await.unwrap();
    assert_eq!(
        skipped.map(|(count, one, segment)| (count, one.reason, segment)),
        sqlite.then(|| (1, "it cannot be read".to_owned(), "s2".to_owned()))
    );
    if sqlite {
        let mut tx = test.db.begin().await.unwrap();
        tx.run(sql("update artifact set version = 1 where feed = 3")).await.unwrap();
        tx.commit().await.unwrap();
        store_artifact(&test.db, owned, "s2", Artifact::AgentSummary, "said as well").await;
        store_artifact(&test.db, owned, "s2", Artifact::Transcript, &transcript_json(&[("Jane", "said anew")])).await;
        index_all(&test.db, &[owned]).await;
        assert_eq!(
            (test.db.skipped_documents().await.unwrap(), search_ids(&test.db, "\"said anew\"").await.as_str()),
            (None, "s2")
        );
    }
}

async fn a_phrase_is_found_wherever_it_stands_in_a_very_long_transcript(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let mut text: Vec<String> =
        (0..40_000).map(|n| if n % 3 == 0 { "the".to_owned() } else { format!("w{n}") }).collect();
    text[39_999] = "last".to_owned();
    text[0] = "first".to_owned();
    archive_transcript(&test.db, owned, "long", 1, &[("Jane", &text.join(" "))]).await;
    archive_transcript(&test.db, owned, "same", 2, &[("Jane", &"la ".repeat(5000))]).await;
    archive_transcript(&test.db, owned, "short", 3, &[("Jane", "first and last")]).await;
    index_all(&test.db, &[owned]).await;
    assert_eq!(search_ids(&test.db, "first last").await, "short long", "in different blocks");
    assert_eq!(search_ids(&test.db, "first -last").await, "");
    assert_eq!(search_ids(&test.db, "w1 -w39998").await, "");
    assert_eq!(search_ids(&test.db, "\"la la la\" -first").await, "same");
    // A phrase across the end of a block is complete in the next block.
    for start in (1..39_980).step_by(173) {
        let phrase = format!("\"{}\"", text[start..start + 12].join(" "));
        assert_eq!(search_ids(&test.db, &phrase).await, "long", "{start}");
    }
    let hit = run_search(&test.db, "w20000", &Filters::default(), SortOrder::Best, 1).await.hits.remove(0);
    let passage = hit.best_match.passage;
    assert_eq!(&passage.text[passage.matches[0].clone()], "w20000");
}

async fn notes_are_found_and_follow_the_metadata(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(
        &test.db,
        owned,
        &[record("n1", 1, json!({"agentNotes": "Ruft  am\nMontag zurück"})), record("n2", 2, json!({}))],
    )
    .await;
    index_all(&test.db, &[owned]).await;
    let found = run_search(&test.db, "montag zuruck", &Filters::default(), SortOrder::Best, 5).await;
    assert_eq!(
        (hit_ids(&found).as_str(), found.hits[0].source, found.hits[0].version),
        ("n1", DocumentSource::Notes, 0)
    );
    assert_eq!(found.hits[0].best_match.passage.text, "Ruft am Montag zurück");
    ingest(
        &test.db,
        owned,
        &[record("n1", 1, json!({"agentNotes": "Dienstag"})), record("n2", 2, json!({"agentNotes": "Montag"}))],
    )
    .await;
    // The current text is matched, also while the index still has the old one.
    assert_eq!(search_ids(&test.db, "montag").await, "");
    assert_eq!(test.db.unindexed_changes().await.unwrap(), 2);
    index_all(&test.db, &[owned]).await;
    assert_eq!(
        (search_ids(&test.db, "montag").await, search_ids(&test.db, "dienstag").await),
        ("n2".to_owned(), "n1".to_owned())
    );
    ingest(&test.db, owned, &[record("n1", 1, json!({}))]).await;
    index_all(&test.db, &[owned]).await;
    assert_eq!(search_ids(&test.db, "dienstag").await, "");
}

async fn a_newer_version_replaces_the_older(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, &[record("v", 1, json!({}))]).await;
    for text in ["alpha beta", "beta gamma"] {
        store_artifact(&test.db, owned, "v", Artifact::AgentSummary, text).await;
        index_all(&test.db, &[owned]).await;
    }
    assert_eq!(
        (search_ids(&test.db, "alpha").await, search_ids(&test.db, "gamma").await),
        (String::new(), "v".to_owned())
    );
    // Two versions in one step: the later one counts.
    for text in ["delta", "epsilon"] {
        store_artifact(&test.db, owned, "v", Artifact::AgentSummary, text).await;
    }
    index_all(&test.db, &[owned]).await;
    assert_eq!(
        (search_ids(&test.db, "delta OR gamma").await, search_ids(&test.db, "epsilon").await),
        (String::new(), "v".to_owned())
    );
    let claim = due_claim(&test.db, owned, "v", Artifact::AgentSummary).await;
    test.db.complete_jobs(&[CompletedJob { claim, at: NOW, outcome: JobOutcome::not_populated(None) }]).await.unwrap();
    index_all(&test.db, &[owned]).await;
    assert_eq!(search_ids(&test.db, "epsilon").await, "v", "a text that later reads as empty is still the newest");
}

async fn filters_narrow_and_pages_are_gone_through(test: TestDb) {
    let (a, b) = (acquire_account(&test.db, "a").await, acquire_account(&test.db, "b").await);
    let voice = json!({"channelClass": "VOICE", "channelType": "VOICE", "dialogOrigination": "INBOUND", "segmentParticipantId": "449438",
        "agentDisposition": "Résolu, reopened", "systemDisposition": "ANSWER"});
    let mail = json!({"channelClass": "DIGITAL", "channelType": "EMAIL", "dialogOrigination": "OUTBOUND", "agentDisposition": null});
    ingest(&test.db, a, &[record("a1", 1, voice), record("a2", 2, mail.clone())]).await;
    store_artifact(&test.db, a, "a1", Artifact::Transcript, &transcript_json(&[("Zoë Ångström", "common word")])).await;
    store_artifact(&test.db, a, "a2", Artifact::Transcript, &transcript_json(&[("Bob", "common word")])).await;
    store_artifact(&test.db, a, "a1", Artifact::AutoSummary, "common summary").await;
    let records: Vec<SegmentRecord> = (0..1200).map(|n| record(&format!("b{n}"), 100 + n, mail.clone())).collect();
    ingest(&test.db, b, &records).await;
    let claims = test.db.due_items(b, ArtifactSet::NONE.with(Artifact::AgentSummary), NOW, 5000).await.unwrap();
    let stored = |claim| CompletedJob {
        claim,
        at: NOW,
        outcome: JobOutcome::stored(&Bytes::from_static(b"common thing"), None),
    };
    test.db.complete_jobs(&claims.into_iter().map(stored).collect::<Vec<_>>()).await.unwrap();
    index_all(&test.db, &[a, b]).await;
    let some = |text: &str| Some(text.to_owned());
    let none = Filters::default;
    for (filters, found) in [
        (Filters { channel: some("voice"), ..none() }, "a1 a1"),
        (Filters { channel: some("email"), account: Some(a.account), ..none() }, "a2"),
        (Filters { direction: some("inbound"), ..none() }, "a1 a1"),
        (Filters { agent: some("449438"), ..none() }, "a1 a1"),
        (Filters { agent: some("angstrom"), ..none() }, "a1 a1"),
        (Filters { agent: some("bob"), ..none() }, "a2"),
        (Filters { agent: some("nobody"), ..none() }, ""),
        (Filters { disposition: some("resolu reopened"), ..none() }, "a1 a1"),
        (Filters { disposition: some("answer"), sources: vec![DocumentSource::ALL[2]], ..none() }, "a1"),
        (Filters { from: Some(end_time(1)), to: Some(end_time(2)), ..none() }, "a1 a1"),
        (Filters { from: Some(end_time(2)), to: Some(end_time(100)), ..none() }, "a2"),
        (Filters { from: Some(end_time(1299)), ..none() }, "b1199"),
        (Filters { to: Some(Time(end_time(2).0 + 1)), account: Some(a.account), ..none() }, "a2 a1 a1"),
        (Filters { account: Some(b.account), to: Some(end_time(102)), ..none() }, "b1 b0"),
    ] {
        assert_eq!(
            hit_ids(&run_search(&test.db, "common", &filters, SortOrder::Newest, 20).await),
            found,
            "{filters:?}"
        );
        let best = run_search(&test.db, "common", &filters, SortOrder::Best, 20).await;
        assert_eq!(best.hits.len(), found.split_whitespace().count(), "{filters:?}");
    }
    let all = run_search(&test.db, "common", &none(), SortOrder::Newest, 2000).await;
    assert_eq!((all.hits.len(), all.has_more, all.ranking_truncated), (1203, false, false));
    for rare in ["word", "\"common word\"", "word -thing", "wor* common"] {
        assert_eq!(search_ids(&test.db, rare).await, "a2 a1", "behind all the others: {rare}");
    }
    let ranked = run_search(&test.db, "common", &none(), SortOrder::Best, 20).await;
    assert_eq!((ranked.hits.len(), ranked.has_more, ranked.ranking_truncated), (20, true, true));
}

async fn the_best_come_first_and_the_newest_on_request(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let long = format!("late {} refund", "and so on ".repeat(80));
    archive_transcript(&test.db, owned, "near", 1, &[("Jane", "your refund is late")]).await;
    archive_transcript(&test.db, owned, "apart", 2, &[("Jane", "your refund"), ("Joe", "it is late")]).await;
    archive_transcript(&test.db, owned, "far", 3, &[("Jane", &long)]).await;
    archive_transcript(&test.db, owned, "often", 4, &[("Jane", "refund late refund late refund late")]).await;
    archive_transcript(&test.db, owned, "twin", 5, &[("Jane", "your refund is late")]).await;
    index_all(&test.db, &[owned]).await;
    let best = run_search(&test.db, "refund late", &Filters::default(), SortOrder::Best, 10).await;
    assert_eq!(hit_ids(&best), "often twin near apart far");
    assert_eq!(search_ids(&test.db, "refund late").await, "twin often far apart near");
    let few = run_search(&test.db, "refund late", &Filters::default(), SortOrder::Newest, 2).await;
    assert_eq!((hit_ids(&few).as_str(), few.has_more), ("twin often", true));
    for order in [SortOrder::Best, SortOrder::Newest] {
        let all = run_search(&test.db, "refund late", &Filters::default(), order, usize::MAX).await;
        assert_eq!((all.hits.len(), all.has_more), (5, false));
    }
}

async fn the_passage_of_a_nameless_speaker_is_from_the_part_that_is_searched(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, &[record("s1", 1, json!({}))]).await;
    let phrase = |message: &str| json!({"participantId": "7", "message": message});
    let pad = json!({"channelId": "-".repeat(8 * 1024 * 1024)});
    let body = json!({"transcript": [phrase("a refund"), phrase("it is late"), pad, phrase("the refund is late")]});
    store_artifact(&test.db, owned, "s1", Artifact::Transcript, &body.to_string()).await;
    index_all(&test.db, &[owned]).await;
    let found = run_search(&test.db, "refund late", &Filters::default(), SortOrder::Best, 5).await;
    assert_eq!(found.hits[0].best_match.passage.text, "a refund");
}

async fn a_segment_that_moved_in_time_is_found_where_it_is_now(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let unknown = SegmentRecord { end: None, ..record("m", 0, json!({"agentNotes": "noted"})) };
    ingest(&test.db, owned, &[unknown]).await;
    store_artifact(&test.db, owned, "m", Artifact::Transcript, &transcript_json(&[("Jane", "spoken")])).await;
    index_all(&test.db, &[owned]).await;
    assert_eq!(search_ids(&test.db, "noted OR spoken").await, "m m");
    let range = Filters { from: Some(end_time(0)), ..Filters::default() };
    assert_eq!(hit_ids(&run_search(&test.db, "spoken", &range, SortOrder::Newest, 5).await), "");
    ingest(&test.db, owned, &[record("m", 50, json!({"agentNotes": "noted"}))]).await;
    ingest(&test.db, owned, &[record("m", 60, json!({"agentNotes": "noted"}))]).await;
    index_all(&test.db, &[owned]).await;
    let found = run_search(&test.db, "noted OR spoken", &range, SortOrder::Newest, 5).await;
    assert_eq!((hit_ids(&found).as_str(), found.hits[0].segment.ended), ("m m", Some(end_time(60))));
    assert_eq!(search_ids(&test.db, "noted OR spoken").await, "m m", "nothing stayed behind");
}

async fn the_index_goes_on_where_it_was_and_belongs_to_the_owner(test: TestDb) {
    let before = acquire_account(&test.db, "a").await;
    archive_transcript(&test.db, before, "s1", 1, &[("Jane", "once")]).await;
    index_all(&test.db, &[before]).await;
    archive_transcript(&test.db, before, "s2", 2, &[("Jane", "once more")]).await;
    let after = acquire_account(&test.db, "a").await;
    // A previous owner moves nothing.
    Indexer::new(test.db.clone()).step(&[before]).await.unwrap();
    assert_eq!((search_ids(&test.db, "once").await.as_str(), test.db.unindexed_changes().await.unwrap()), ("s1", 1));
    assert_eq!(Indexer::new(test.db.clone()).step(&[]).await.unwrap(), IndexProgress::Idle);
    index_all(&test.db, &[after]).await;
    assert_eq!(search_ids(&test.db, "once").await, "s2 s1");
}

async fn what_was_taken_out_is_gone_for_good(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    archive_transcript(&test.db, owned, "s1", 1, &[("Jane", "the XYLOPHONIST remembers")]).await;
    archive_transcript(&test.db, owned, "s2", 2, &[("Jane", "the VIOLINIST remembers")]).await;
    ingest(&test.db, owned, &[record("s1", 1, json!({"agentNotes": "ZYMURGIST"}))]).await;
    index_all(&test.db, &[owned]).await;
    ingest(&test.db, owned, &[record("s1", 7, json!({"agentNotes": "ZYMURGIST"}))]).await;
    let segment = test.db.segments_by_id("s1").await.unwrap().remove(0);
    let items: Vec<Item> = (0..4).map(|code| Item(segment.key * 4 + code)).collect();
    let mut tx = test.db.begin().await.unwrap();
    assert_eq!(tx.remove_from_index(&items).await.unwrap(), 2);
    tx.commit().await.unwrap();
    assert_eq!(search_ids(&test.db, "remembers OR zymurgist").await, "s2");
    assert_eq!(test.db.unindexed_changes().await.unwrap(), 0);
    test.db.purge_index().await.unwrap();
    assert_eq!(search_ids(&test.db, "remembers").await, "s2");
    if let Some(file) = test.db.sqlite_path() {
        let bytes = std::fs::read(file).unwrap();
        let holds = |word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
        // The bodies are in capital letters, so lower case words would come from the index.
        assert!(!holds(b"ylophonist") && !holds(b"ymurgist") && !holds(b"iolinist"), "the index has readable words");
        assert!(holds(b"d-s2"), "the test looks in the wrong place");
        let log = file.with_extension("db-wal");
        assert!(!log.exists() || std::fs::read(log).unwrap().is_empty());
    }
    let stmt = "select cast(sum(size) as bigint) from search_run";
    assert_eq!(test.db.count(sql(stmt)).await.unwrap(), 1, "the keys of removed documents are still there");
    // What is indexed afterwards is found.
    archive_transcript(&test.db, owned, "s3", 3, &[("Jane", "remembers too")]).await;
    index_all(&test.db, &[owned]).await;
    assert_eq!(search_ids(&test.db, "remembers").await, "s3 s2");
}

async fn another_version_of_the_words_builds_the_index_anew(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    archive_transcript(&test.db, owned, "s1", 1, &[("Jane", "once")]).await;
    ingest(&test.db, owned, &[record("s2", 2, json!({"agentNotes": "once noted"}))]).await;
    index_all(&test.db, &[owned]).await;
    assert!(test.db.prepare_index(-1).await.unwrap());
    assert_eq!(search_ids(&test.db, "once").await, "");
    assert!(test.db.unindexed_changes().await.unwrap() > 0);
    index_all(&test.db, &[owned]).await;
    assert_eq!(search_ids(&test.db, "once").await, "s2 s1");
}

/// Random turns from a small vocabulary, so that every word occurs next to every other. Some span several blocks.
fn random_turns(rng: &mut StdRng) -> Vec<(&'static str, String)> {
    const WORDS: [&str; 7] = ["the", "then", "late", "refund", "is", "not", "my"];
    let mut turns = Vec::new();
    for turn in 0..rng.random_range(1..4) {
        let count = if rng.random_bool(0.03) { 400 } else { rng.random_range(1..9) };
        let words: Vec<&str> = (0..count).map(|_| WORDS[rng.random_range(0..if count > 9 { 2 } else { 7 })]).collect();
        turns.push((["Jane", "Joe"][turn % 2], words.join(" ")));
    }
    turns
}

async fn the_index_finds_what_the_text_says_however_it_is_asked(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let mut rng = StdRng::seed_from_u64(7);
    let records: Vec<SegmentRecord> = (0..300).map(|n| record(&format!("b{n}"), n, json!({}))).collect();
    ingest(&test.db, owned, &records).await;
    let mut claims = test.db.due_items(owned, ArtifactSet::NONE.with(Artifact::Transcript), NOW, 5000).await.unwrap();
    claims.sort_by_key(|claim| claim.segment_id.clone());
    let mut texts: Vec<(i64, i64, Document)> = Vec::new();
    let mut stored = Vec::new();
    for claim in claims {
        let turns = random_turns(&mut rng);
        let body = transcript_json(&turns.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>());
        let second: i64 = claim.segment_id[1..].parse().unwrap();
        let segment = test.db.segments_by_id(&claim.segment_id).await.unwrap().remove(0);
        texts.push((second, segment.key * 4, Document::parse(DocumentSource::ALL[0], body.as_bytes(), false)));
        stored.push(CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&Bytes::from(body), None) });
    }
    test.db.complete_jobs(&stored).await.unwrap();
    index_all(&test.db, &[owned]).await;
    texts.sort_by_key(|(second, ..)| std::cmp::Reverse(*second));
    for query in [
        "late",
        "the*",
        "\"late refund\"",
        "\"the then\"",
        "\"then the then\"",
        "\"my refund is\"",
        "\"is not my\" late",
        "\"not the\"*",
        "\"my late ref\"*",
        "\"my late refund\"* -\"is the\"*",
        "\"late my\" OR \"is not late\"",
        "\"late my\" OR refund",
        "refund -\"late refund\"",
        "refund -\"not my\" -then",
        "\"late late\" -\"the then the\"",
        "\"refund my\" \"my late\"",
        "\"my the my then my the\"",
    ] {
        let parsed = parse(query).unwrap();
        let wanted: Vec<i64> = texts
            .iter()
            .filter(|(.., text)| score_document(text, &parsed).is_some())
            .map(|(_, item, _)| *item)
            .collect();
        let lookup =
            IndexQuery { required: parsed.index_clauses(), excluded: parsed.excluded.clone(), ..IndexQuery::default() };
        let found = test.db.query_index(&lookup, None, 1000).await.unwrap();
        let items: Vec<i64> = found.iter().map(|hit| hit.item).collect();
        assert!(
            found.is_sorted_by(|one, next| one > next) && wanted.iter().all(|item| items.contains(item)),
            "{query}"
        );
        let by_search = run_search(&test.db, query, &Filters::default(), SortOrder::Newest, 1000).await;
        let by_search: Vec<i64> = by_search.hits.iter().map(|hit| hit.segment.key * 4).collect();
        assert_eq!(by_search, wanted, "{query}");
        // Page by page it is the same.
        let (mut pages, mut before): (Vec<IndexHit>, _) = (Vec::new(), None);
        loop {
            let page = test.db.query_index(&lookup, before, 9).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(*last);
            pages.extend(page);
        }
        assert_eq!(pages, found, "{query}, page by page");
    }
}

async fn how_far_the_index_is_behind_and_since_when_is_known(test: TestDb) {
    let lag = |changes, since| IndexLag { changes, since };
    assert_eq!(test.db.index_lag().await.unwrap(), lag(0, None));
    let (a, b) = (acquire_account(&test.db, "a").await, acquire_account(&test.db, "b").await);
    archive_transcript(&test.db, a, "s1", 1, &[("Jane", "first")]).await;
    archive_transcript(&test.db, b, "s2", 2, &[("Jane", "second")]).await;
    archive_transcript(&test.db, b, "s3", 3, &[("Jane", "third")]).await;
    assert_eq!(test.db.index_lag().await.unwrap(), lag(3, Some(NOW)));
    // Each replica indexes its own accounts.
    let indexer = Indexer::new(test.db.clone());
    while indexer.step(&[b]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(test.db.index_lag().await.unwrap(), lag(1, Some(NOW)));
    ingest(&test.db, b, &[record("s4", 4, json!({"agentNotes": "noted"}))]).await;
    assert_eq!(test.db.index_lag().await.unwrap(), lag(2, Some(NOW)));
    while indexer.step(&[a]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(test.db.index_lag().await.unwrap(), lag(1, Some(NOW)), "notes wait as well");
    while indexer.step(&[b]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(test.db.index_lag().await.unwrap(), lag(0, None));
}

async fn a_huge_transcript_is_indexed_in_little_memory(database: TempDatabase) {
    let mut env = TestEnv::new(database, Scenario::history().transcripts_only()).await;
    let db = match env.database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(path.as_ref(), OpenMode::CreateOrMigrate).await.unwrap(),
        None => Db::open_postgres(&env.database.url.clone().into(), OpenMode::CreateOrMigrate, 2).await.unwrap(),
    };
    let now = env.clock.now();
    let account = db.register_account(&env.main_account(), None, now).await.unwrap();
    let owned = db.acquire_leases(&[account.key], "e2e", Duration::from_secs(10), now).await.unwrap().remove(0);
    let records: Vec<SegmentRecord> = ["huge", "behind"].map(|id| record(id, 1, json!({}))).into();
    ingest_at(&db, owned, &records, now).await;
    // Each word occurs once.
    let word = |n: u64| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let phrase = |n: u64| (n * 600..(n + 1) * 600).map(word).collect::<Vec<_>>().join(" ");
    let phrases: Vec<_> = (0..4000).map(|n| json!({"participantName": "Jane", "message": phrase(n)})).collect();
    let huge = json!({"transcript": phrases}).to_string();
    assert!(huge.len() > 40_000_000);
    for (segment, body) in [("huge", huge.as_str()), ("behind", &transcript_json(&[("Joe", "hippogriff")]))] {
        let claim = due_claim(&db, owned, segment, Artifact::Transcript).await;
        let settlement = JobOutcome::stored(&Bytes::copy_from_slice(body.as_bytes()), None);
        assert_eq!(db.complete_jobs(&[CompletedJob { claim, at: now, outcome: settlement }]).await.unwrap(), [true]);
    }
    db.close().await;
    env.start();
    env.wait_until("both are indexed", async || {
        let found = env.run(&["search", "hippogriff"]).await;
        found.out.contains("behind") && !found.err.contains("behind the archive")
    })
    .await;
    let peak = env.peak_memory_kb();
    assert!(peak < 300_000, "{peak} kB");
}

async fn what_a_running_daemon_stores_is_found(database: TempDatabase) {
    let scenario = Scenario::history().configure_sim(|sim| sim.traffic.canary_texts = 1.0);
    let env = TestEnv::with_daemon(database, scenario).await;
    env.wait_until("the daemon is up", async || env.account_status().await.is_object()).await;
    env.expect_complete_archive().await;
    let args = ["search", "\"the heron counts nine lanterns\"", "--json", "--limit", "1000"];
    let mut hits: Vec<serde_json::Value> = Vec::new();
    env.wait_until("the index has followed", async || {
        let output = env.run(&args).await;
        assert_eq!(output.status, 0, "{}", output.err);
        hits = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        !output.err.contains("behind") && hits.iter().any(|hit| hit["artifact"] == "transcript")
    })
    .await;
    let of = |artifact: &str| hits.iter().filter(|hit| hit["artifact"] == artifact).count();
    let transcripts = env.expected_segments().iter().filter(|entry| entry.has_transcript).count();
    assert_eq!(of("transcript"), transcripts);
    env.wait_until("status says that the index is not behind", async || {
        env.run_json(&["status", "--json"]).await["search_index"] == json!({"lag_changes": 0, "lag_seconds": 0})
    })
    .await;
    assert!(of("agent_notes") > 0 && of("agent_summary") > 0, "{} hits", hits.len());
    let text = env.run_ok(&["search", "heron", "lant*", "--newest", "--limit", "3"]).await;
    // The line breaks of the passage depend on the rest of the table.
    assert!(["heron", "counts", "nine", "lanterns"].iter().all(|word| text.contains(word)), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    let nothing = env.run(&["search", "hippogriff"]).await;
    assert_eq!((nothing.status, nothing.out.as_str()), (0, ""));
    assert!(nothing.err.contains("no hits"));
    let refused = env.run(&["search", "--", "-heron"]).await;
    assert_eq!(refused.status, 2);
    assert!(refused.err.contains("hint:"), "{}", refused.err);
}
