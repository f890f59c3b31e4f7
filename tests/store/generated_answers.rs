//! Anything that resembles JSON, as transcript, summary and metadata: what is stored is found again by an erasure or named as
//! unreadable, exported in every format, and shown wherever a lenient reader finds it. On both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Chunk, Db, Owned, Settled, Settlement};
use ringcx_extractor::export::{self, Format, Selection};
use ringcx_extractor::keeping::{self, Request};
use ringcx_extractor::lenient_json;
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSet, AsideRecord, Lane, SegmentRecord, Stretch, Stretches, Subject, SummariesFor,
    Wants,
};
use ringcx_extractor::ringcx::metadata::segment_record;
use serde_json::Value;
use support::TestDb;

crate::on_both! {
    whatever_is_stored_is_found_again_or_named_as_unreadable,
}

const NOW: Time = Time(1_800_000_000_000);
const COUNT: usize = 80;

/// A segment as it is answered.
struct Answered {
    /// The contact's number, in metadata or in the transcript.
    number: String,
    /// What the contact says.
    marker: String,
    metadata: String,
    transcript: Vec<u8>,
    summary: Vec<u8>,
}

fn answered() -> Vec<Answered> {
    let value = r#"([\[\]{},:"\\ue0-9d.NaI\x00-\x20é-]|\\ud83d|"a":|"ani":|null|1e999|\[+\]+){0,12}"#;
    let sound = r#"("\\ud83d"|"a\\u0000b"|1e999|[0-9]{30,400}|"\x01"|"C:\\x41"|\[\]|\{\}|null|"é")"#;
    let fields = r#"(,"[a-z]{1,3}":([0-9]{1,30}|1e999|"\\ude00"|null|"\x01")){0,4}"#;
    let mut runner = TestRunner::deterministic();
    let mut draw = |pattern: &str| {
        let strategy = proptest::string::string_regex(pattern).unwrap();
        strategy.new_tree(&mut runner).unwrap().current()
    };
    (0..COUNT)
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
            Answered { number, marker, metadata, transcript, summary: draw(value).into_bytes() }
        })
        .collect()
}

async fn stored(db: &Db, owned: Owned, all: &[Answered]) {
    let (mut records, mut asides): (Vec<SegmentRecord>, Vec<AsideRecord>) = (Vec::new(), Vec::new());
    for one in all {
        match segment_record(&one.metadata) {
            Some(record) => records.push(SegmentRecord { raw: one.metadata.clone(), end: Some(NOW), ..record }),
            None => asides.push(AsideRecord {
                segment_id: None,
                reason: "the record cannot be read".to_owned(),
                raw: one.metadata.clone(),
            }),
        }
    }
    assert!(records.len() > COUNT / 3 && asides.len() > 10, "{} and {}", records.len(), asides.len());
    let chunk = Chunk {
        owned,
        lane: Lane::Live,
        stretch: Stretch { from: NOW - Duration::from_secs(900), to: NOW },
        now: NOW,
        wants: Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed },
        known: &Stretches::default(),
        urgent_before: None,
        repair: Duration::from_secs(60),
        records: &records,
        asides: &asides,
    };
    db.announce(chunk).await.unwrap();
    let claims = db.due(owned, ArtifactSet::ALL, NOW, 10_000).await.unwrap();
    let settled: Vec<Settled> = claims
        .into_iter()
        .map(|claim| {
            let nth: usize = claim.segment_id.trim_start_matches("seg-").parse().unwrap();
            let body = match claim.artifact {
                Artifact::Transcript => &all[nth].transcript,
                _ => &all[nth].summary,
            };
            let settlement = Settlement::stored(&Bytes::copy_from_slice(body), None);
            Settled { claim, at: NOW, settlement }
        })
        .collect();
    assert!(db.settle(&settled).await.unwrap().iter().all(|counted| *counted));
}

async fn exported(db: &Db, format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    export::write(db, &Selection::default(), format, &mut out, &mut |_| {}).await.unwrap();
    out
}

async fn whatever_is_stored_is_found_again_or_named_as_unreadable(test: TestDb) {
    let db = &test.db;
    let account = db.enrol(&AccountId::new("1", "sub"), None, NOW).await.unwrap();
    let owned = db.take(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0);
    let all = answered();
    stored(db, owned, &all).await;

    let lines = String::from_utf8(exported(db, Format::Jsonl).await).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| lenient_json::value(line).unwrap()).collect();
    let held: HashSet<&str> = lines.iter().map(|line| line["segment_id"].as_str().unwrap()).collect();
    let text = String::from_utf8(exported(db, Format::Text).await).unwrap();
    let csv = exported(db, Format::Csv).await;
    assert_eq!(csv::Reader::from_reader(csv.as_slice()).records().filter(Result::is_ok).count(), held.len());
    assert!(!exported(db, Format::Parquet).await.is_empty());

    for (nth, one) in all.iter().enumerate() {
        let id = format!("seg-{nth}");
        let (subject, who) = (Subject::Contact(one.number.clone()), "officer".to_owned());
        let request =
            Request { subject, account: None, who, reason: None, include_alike: false, include_unreadable: false };
        let found = keeping::look(db, &request, &mut |_| {}).await.unwrap();
        let named = [&found.segments, &found.alike, &found.unreadable].into_iter().flatten();
        let is_named = named.into_iter().any(|segment| segment.segment_id == id);
        if held.contains(id.as_str()) {
            assert!(is_named, "{id} is not found: {} {:?}", one.metadata, String::from_utf8_lossy(&one.transcript));
            let read: Option<Value> = lenient_json::from_slice(&one.transcript);
            let says = read.is_some_and(|read| read["transcript"][0]["message"] == one.marker.as_str());
            assert!(!says || text.contains(&format!("{}\n", one.marker)), "{id} is not shown");
        } else if nth.is_multiple_of(2) {
            let asides = found.asides.len() + found.alike_asides.len();
            assert!(asides > 0, "{id} is set aside and not found: {}", one.metadata);
        }
    }
}
