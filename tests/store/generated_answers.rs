//! Generated text that resembles JSON, as transcript, summary and metadata: an erasure finds it or names it as unreadable, every
//! format exports it, and it is shown wherever a lenient reader finds it. On both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{CompletedJob, Db, JobOutcome, Lease, MetadataChunk};
use ringcx_extractor::erasure::{self, ErasureRequest};
use ringcx_extractor::export::{self, ExportFormat, Selection};
use ringcx_extractor::lenient_json;
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, Lane, QuarantinedRecord, SegmentRecord, Subject, SummariesFor,
    TimeRange, TimeRangeSet,
};
use ringcx_extractor::ringcx::metadata::parse_segment_record;
use serde_json::Value;
use support::TestDb;

crate::on_both! {
    whatever_is_stored_is_found_again_or_named_as_unreadable,
}

const NOW: Time = Time(1_800_000_000_000);
const SEGMENT_COUNT: usize = 80;

/// The API's answers for one segment.
struct GeneratedAnswer {
    /// The contact's number, in metadata or in the transcript.
    number: String,
    /// What the contact says.
    marker: String,
    metadata: String,
    transcript: Vec<u8>,
    summary: Vec<u8>,
}

fn generate_answers() -> Vec<GeneratedAnswer> {
    let value = r#"([\[\]{},:"\\ue0-9d.NaI\x00-\x20é-]|\\ud83d|"a":|"ani":|null|1e999|\[+\]+){0,12}"#;
    let sound = r#"("\\ud83d"|"a\\u0000b"|1e999|[0-9]{30,400}|"\x01"|"C:\\x41"|\[\]|\{\}|null|"é")"#;
    let fields = r#"(,"[a-z]{1,3}":([0-9]{1,30}|1e999|"\\ude00"|null|"\x01")){0,4}"#;
    let mut runner = TestRunner::deterministic();
    let mut draw = |pattern: &str| {
        let strategy = proptest::string::string_regex(pattern).unwrap();
        strategy.new_tree(&mut runner).unwrap().current()
    };
    (0..SEGMENT_COUNT)
        .map(|nth| {
            let (number, marker) = (format!("+4930{}", 7_100_000 + nth * 13), format!("marker{nth}"));
            let noise = |nth: usize| if nth.is_multiple_of(3) { value } else { sound };
            let (one, other, after) = (draw(noise(nth)), draw(noise(nth + 1)), draw(fields));
            let in_metadata = if nth.is_multiple_of(2) { format!(r#","dnis":"{number}""#) } else { String::new() };
            let metadata = format!(
                r#"{{"segmentId":"seg-{nth}","dialogId":"dia","hasTranscript":true,"x":{one}{in_metadata}{after}}}"#
            );
            let phrase = format!(r#"{{"participantId":"{number}","participantType":"contact","message":"{marker}"}}"#);
            let mut transcript = format!(r#"{{"x":{other},"transcript":[{phrase}]{after}}}"#).into_bytes();
            match nth % 10 {
                7 => transcript.insert(1 + nth % transcript.len(), 0xe9),
                8 => transcript.truncate(nth % transcript.len()),
                _ => {}
            }
            GeneratedAnswer { number, marker, metadata, transcript, summary: draw(value).into_bytes() }
        })
        .collect()
}

async fn ingest_and_store(db: &Db, owned: Lease, all: &[GeneratedAnswer]) {
    let (mut records, mut asides): (Vec<SegmentRecord>, Vec<QuarantinedRecord>) = (Vec::new(), Vec::new());
    for one in all {
        match parse_segment_record(&one.metadata) {
            Some(record) => records.push(SegmentRecord { raw: one.metadata.clone(), end: Some(NOW), ..record }),
            None => asides.push(QuarantinedRecord {
                segment_id: None,
                reason: "the record cannot be read".to_owned(),
                raw: one.metadata.clone(),
            }),
        }
    }
    assert!(records.len() > SEGMENT_COUNT / 3 && asides.len() > 10, "{} and {}", records.len(), asides.len());
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: NOW - Duration::from_secs(900), to: NOW },
        now: NOW,
        wants: ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed },
        already_read: &TimeRangeSet::default(),
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records: &records,
        quarantined: &asides,
    };
    db.ingest_chunk(chunk).await.unwrap();
    let claims = db.due_items(owned, ArtifactSet::ALL, NOW, 10_000).await.unwrap();
    let settled: Vec<CompletedJob> = claims
        .into_iter()
        .map(|claim| {
            let nth: usize = claim.segment_id.trim_start_matches("seg-").parse().unwrap();
            let body = match claim.artifact {
                Artifact::Transcript => &all[nth].transcript,
                _ => &all[nth].summary,
            };
            let settlement = JobOutcome::stored(&Bytes::copy_from_slice(body), None);
            CompletedJob { claim, at: NOW, outcome: settlement }
        })
        .collect();
    assert!(db.complete_jobs(&settled).await.unwrap().iter().all(|counted| *counted));
}

async fn export_bytes(db: &Db, format: ExportFormat) -> Vec<u8> {
    let mut out = Vec::new();
    export::write_export(db, &Selection::default(), format, &mut out, &mut |_| {}).await.unwrap();
    out
}

async fn whatever_is_stored_is_found_again_or_named_as_unreadable(test: TestDb) {
    let db = &test.db;
    let account = db.register_account(&AccountId::new("1", "sub"), None, NOW).await.unwrap();
    let owned = db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0);
    let all = generate_answers();
    ingest_and_store(db, owned, &all).await;

    let lines = String::from_utf8(export_bytes(db, ExportFormat::Jsonl).await).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| lenient_json::parse_value(line).unwrap()).collect();
    let held: HashSet<&str> = lines.iter().map(|line| line["segment_id"].as_str().unwrap()).collect();
    let text = String::from_utf8(export_bytes(db, ExportFormat::Text).await).unwrap();
    let csv = export_bytes(db, ExportFormat::Csv).await;
    assert_eq!(csv::Reader::from_reader(csv.as_slice()).records().filter(Result::is_ok).count(), held.len());
    assert!(!export_bytes(db, ExportFormat::Parquet).await.is_empty());

    for (nth, one) in all.iter().enumerate() {
        let id = format!("seg-{nth}");
        let (subject, who) = (Subject::Contact(one.number.clone()), "officer".to_owned());
        let request = ErasureRequest {
            subject,
            account: None,
            who,
            reason: None,
            include_alike: false,
            include_unreadable: false,
            access_entry: None,
        };
        let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
        let named = [&found.segments, &found.alike, &found.unreadable].into_iter().flatten();
        let is_named = named.into_iter().any(|segment| segment.segment_id == id);
        if held.contains(id.as_str()) {
            assert!(is_named, "{id} is not found: {} {:?}", one.metadata, String::from_utf8_lossy(&one.transcript));
            let read: Option<Value> = lenient_json::from_slice(&one.transcript);
            let says = read.is_some_and(|read| read["transcript"][0]["message"] == one.marker.as_str());
            assert!(!says || text.contains(&format!("{}\n", one.marker)), "{id} is not shown");
        } else if nth.is_multiple_of(2) {
            let asides = found.quarantined.len() + found.alike_quarantined.len();
            assert!(asides > 0, "{id} is set aside and not found: {}", one.metadata);
        }
    }
}
