//! That what is served and what the ledger says agree.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::SegmentRecord;
use ringcx_client::metadata::segment_record;
use ringcx_conversation::reading::Conversation;

async fn fetch_all(rig: &Rig, entries: &[LedgerEntry]) {
    for entry in entries {
        for artifact in Artifact::ALL {
            let answer = rig.item(entry, artifact).await;
            match entry.expect(artifact) {
                Expect::Body(body) => {
                    assert_eq!((answer.status.as_u16(), answer.body.as_bytes()), (200, &body[..]));
                }
                Expect::NotPopulated => {
                    assert_eq!(answer.status, 200);
                    assert!(["", "\"\""].contains(&&*answer.body), "{}", answer.body);
                }
                _ => assert_eq!(answer.status, 404),
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_does_everything_right_gets_what_the_ledger_says_and_breaks_nothing() {
    let mut options = easy();
    options.traffic = Traffic { per_minute: 3.0, awkward_ids: 0.5, odd_records: 0.5, ..options.traffic };
    options.windows.offset = Duration::ZERO;
    let rig = Rig::start(options).await;
    let records = rig.metadata(TEN - Duration::from_secs(3600), 3600).await.records();
    let by_id: BTreeMap<&str, &Value> =
        records.iter().map(|record| (record["segmentId"].as_str().unwrap(), record)).collect();
    let entries = rig.hour();
    assert!((120..=180).contains(&entries.len()), "{} segments in an hour", entries.len());
    assert_eq!(by_id.len(), entries.len());
    for entry in &entries {
        assert_eq!(by_id[&*entry.segment_id], &entry.metadata);
        assert_eq!(entry.metadata["hasTranscript"] == true, entry.has_transcript);
        assert_eq!(entry.metadata["segmentEndTimeMs"], entry.end.unwrap().rfc3339());
    }
    fetch_all(&rig, &entries).await;
    rig.assert_no_violations();
    let ledger = rig.sim.ledger();
    assert_eq!(ledger.announced(), entries.iter().map(|entry| rig.told(entry)).collect::<Vec<_>>());
    assert_eq!(ledger.served_again(), Vec::<String>::new());
    rig.item(&entries[0], Artifact::AutoSummary).await;
    assert_eq!(ledger.served(&rig.account, &entries[0].segment_id, Artifact::AutoSummary), 2);
    assert_eq!(ledger.served_again().len(), 1);
}

impl Rig {
    /// An entry as it is now that it was announced.
    fn told(&self, entry: &LedgerEntry) -> LedgerEntry {
        LedgerEntry { first_announced: Some(self.sim.now()), ..entry.clone() }
    }
}

#[tokio::test]
async fn odd_bodies_are_what_a_lenient_reader_reads_and_a_strict_one_does_not() {
    let mut options = easy();
    options.traffic = Traffic { odd_bodies: 1.0, transcribed: 1.0, utterances: (2, 5), ..options.traffic };
    let rig = Rig::start(options).await;
    let entries = rig.hour();
    let mut strict = 0;
    for entry in &entries {
        let Expect::Body(body) = &entry.transcript else { panic!("all are there") };
        let phrases = Conversation::parse(body).unwrap().phrases;
        assert!((2..=5).contains(&phrases.len()));
        assert!(phrases.iter().all(|phrase| phrase.text.len() > 2));
        strict += usize::from(serde_json::from_slice::<Value>(body).is_ok());
    }
    assert!(strict > entries.len() / 4 && strict < entries.len() * 3 / 4, "{strict} of {}", entries.len());
    let summary = async |entry: &LedgerEntry| rig.item(entry, Artifact::AutoSummary).await;
    let mut charsets = BTreeSet::new();
    for entry in entries.iter().take(100) {
        let media = summary(entry).await.headers["content-type"].clone();
        charsets.extend(media.to_str().unwrap().split_once("charset=").map(|(_, charset)| charset.to_owned()));
    }
    assert_eq!(charsets.len(), 4, "{charsets:?}");
}

#[tokio::test]
async fn odd_records_are_understood_and_keep_what_the_ledger_says() {
    let mut options = easy();
    options.traffic = Traffic { odd_bodies: 1.0, odd_ends: 0.5, odd_records: 0.5, ..options.traffic };
    options.windows.offset = Duration::ZERO;
    let rig = Rig::start(options).await;
    let answer = rig.metadata(TEN - Duration::from_secs(3600), 3600).await;
    let records: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(&answer.body).unwrap();
    let records = records.iter().map(|raw| segment_record(raw.get()).unwrap());
    let by_id: BTreeMap<String, SegmentRecord> = records.map(|record| (record.segment_id.clone(), record)).collect();
    let entries = rig.hour();
    assert_eq!(by_id.len(), entries.len());
    for entry in &entries {
        let record = &by_id[&entry.segment_id];
        assert_eq!((record.end, record.has_transcript), (entry.end, entry.has_transcript), "{}", record.raw);
    }
    let without_end = entries.iter().filter(|entry| entry.end.is_none()).count();
    assert!(without_end > entries.len() / 4 && without_end < entries.len() * 3 / 4);
}

#[tokio::test]
async fn a_transcript_that_is_not_made_yet_may_be_answered_as_empty() {
    let mut options = Options { traffic: Traffic { odd_bodies: 1.0, ..easy().traffic }, ..easy() };
    options.traffic.transcribed = 1.0;
    options.availability = Availability::default();
    let rig = Rig::start(options).await;
    let entries = rig.hour();
    let entry = entries.iter().find(|entry| entry.transcript == Expect::NotYet).unwrap();
    let answer = rig.item(entry, Artifact::Transcript).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["transcript"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(rig.sim.ledger().served(&rig.account, &entry.segment_id, Artifact::Transcript), 0);
}

#[tokio::test]
async fn the_same_seed_tells_the_same_story_and_another_seed_another() {
    let tell = async |seed: u64| {
        let faults = Faults { transcript: Rates { status_500: 0.3, ..Rates::default() }, ..Faults::default() };
        let rig = Rig::start(Options { seed, faults, ..easy() }).await;
        let entries = rig.hour();
        let mut statuses = Vec::new();
        for entry in entries.iter().filter(|entry| entry.has_transcript).take(40) {
            statuses.push(rig.item(entry, Artifact::Transcript).await.status.as_u16());
        }
        (entries, statuses)
    };
    let (one, again, other) = (tell(1).await, tell(1).await, tell(2).await);
    assert!(one == again);
    assert!(one.1.contains(&500) && one.1.contains(&200));
    assert!(one.0 != other.0 && one.1 != other.1);
}

#[tokio::test]
async fn what_is_late_appears_flips_and_changes_when_it_is_said_to() {
    let rig = Rig::start(Options { traffic: Traffic { per_minute: 0.0, ..easy().traffic }, ..easy() }).await;
    let end = TEN - Duration::from_secs(900);
    let minutes = |count: u64| TEN + Duration::from_secs(60 * count);
    let id = rig.sim.add_segment(SegmentScript {
        segment_id: Some("late one".into()),
        appears: minutes(1),
        transcribed: Some(minutes(2)),
        edited: Some(minutes(3)),
        agent_summary: Script::Changes((minutes(1), "".into()), (minutes(3), "filled".into())),
        ..SegmentScript::new(&rig.account, end)
    });
    let mut told = Vec::new();
    for minute in 0..4 {
        let records = rig.metadata(end - Duration::from_secs(10), 20).await.records();
        let record = records.first().cloned().unwrap_or_default();
        let entries = rig.sim.ledger().ledger_for(Stretch { from: end, to: TEN }, minutes(minute));
        let summary = entries.first().map(|entry| entry.agent_summary.clone());
        told.push((record["segmentId"] == *id, record["hasTranscript"] == true, summary));
        rig.clock.advance(Duration::from_secs(60));
        if minute == 3 {
            assert_eq!(record["agentDisposition"], "Résolu, reopened");
            assert_eq!(rig.item(&entries[0], Artifact::AgentSummary).await.body, "filled");
        }
    }
    assert_eq!(told[0], (false, false, None));
    assert_eq!(told[1], (true, false, Some(Expect::NotPopulated)));
    assert_eq!(told[2], (true, true, Some(Expect::NotPopulated)));
    assert_eq!(told[3], (true, true, Some(Expect::Body("filled".into()))));
    rig.assert_no_violations();
}

#[tokio::test]
async fn the_shares_of_what_is_late_flips_and_is_edited_are_as_set() {
    let delayed = Delayed::new(0.3, Spread::secs(600, 1200));
    let mut options = easy();
    options.traffic = Traffic { per_minute: 30.0, transcribed: 1.0, ..options.traffic };
    options.availability = Availability { late: delayed, flip: delayed, summary_edit: delayed, ..options.availability };
    let rig = Rig::start(options).await;
    let range = Stretch { from: TEN - Duration::from_secs(600), to: TEN };
    let ledger = |seconds: u64| rig.sim.ledger().ledger_for(range, TEN + Duration::from_secs(seconds));
    let (early, late) = (ledger(0), ledger(3600));
    let share = |part: usize| part as f64 / late.len() as f64;
    assert!((250..350).contains(&late.len()) && late.iter().all(|entry| entry.has_transcript));
    assert!((0.6..0.8).contains(&share(early.len())), "{} of {} at once", early.len(), late.len());
    let flagged = early.iter().filter(|entry| entry.has_transcript).count();
    assert!((0.6..0.8).contains(&(flagged as f64 / early.len() as f64)), "{flagged} of {}", early.len());
    let same = early.iter().filter(|entry| late.iter().any(|one| one.agent_summary == entry.agent_summary));
    assert!(same.count() < early.len(), "some summaries are edited");
}

#[tokio::test]
async fn a_failure_told_in_a_200_is_not_taken_for_the_artifact() {
    let rig = Rig::start(Options { traffic: Traffic { per_minute: 0.0, ..easy().traffic }, ..easy() }).await;
    let end = TEN - Duration::from_secs(900);
    let coded = "{\"errorCode\":\"E1\",\"transcript\":null}";
    let good = "{\"transcript\":[]}";
    let later = TEN + Duration::from_secs(60);
    for then in [None, Some((later, good.into()))] {
        let transcript = Script::Fails { body: coded.into(), then };
        rig.sim.add_segment(SegmentScript { transcript, ..SegmentScript::new(&rig.account, end) });
    }
    let expects = |by: Time| {
        let entries = rig.sim.ledger().ledger_for(Stretch { from: end, to: TEN }, by);
        entries.into_iter().map(|entry| entry.transcript).collect::<Vec<_>>()
    };
    let first = rig.hour();
    assert_eq!(rig.item(&first[0], Artifact::Transcript).await.body, coded);
    assert!(expects(TEN).contains(&Expect::NeverAvailable) && expects(TEN).contains(&Expect::NotYet));
    assert!(expects(later).contains(&Expect::NeverAvailable) && expects(later).contains(&Expect::Body(good.into())));
}

#[tokio::test]
async fn artifacts_are_404_until_they_are_there_and_the_ledger_knows_when() {
    let availability = Availability { never_transcript: 0.3, ..Availability::default() };
    let rig = Rig::start(Options { availability, traffic: Traffic { transcribed: 1.0, ..easy().traffic }, ..easy() });
    let rig = rig.await;
    let range = Stretch { from: TEN - Duration::from_secs(400), to: TEN };
    let entries = rig.sim.ledger().ledger_for(range, TEN);
    let mut seen = BTreeMap::new();
    for entry in &entries {
        let status = rig.item(entry, Artifact::Transcript).await.status.as_u16();
        let expected = matches!(entry.transcript, Expect::Body(_));
        assert_eq!(status == 200, expected);
        *seen.entry(format!("{:?}", std::mem::discriminant(&entry.transcript))).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "there, not yet, and never: {seen:?}");
    rig.clock.advance(Duration::from_secs(400));
    let later = rig.sim.ledger().ledger_for(range, rig.sim.now());
    assert!(later.iter().all(|entry| entry.transcript != Expect::NotYet));
    rig.assert_no_violations();
}

#[tokio::test]
async fn a_record_mangled_in_one_answer_is_whole_in_another() {
    let mut options = Options { faults: Faults { mangled_records: 0.5, ..Faults::default() }, ..easy() };
    options.traffic.duplicates = 0.0;
    let rig = Rig::start(options).await;
    let from = TEN - Duration::from_secs(1200);
    let entries =
        rig.sim.ledger().ledger_for(Stretch { from: from.plus_millis(1), to: from.plus_millis(600_000) }, TEN);
    let mut whole = Vec::new();
    for _ in 0..20 {
        let records = rig.metadata(from, 600).await.records();
        assert_eq!(records.len(), entries.len());
        let found = entries.iter().filter(|entry| records.contains(&entry.metadata)).count();
        whole.push(found == entries.len());
    }
    assert!(whole.contains(&true) && whole.contains(&false), "{whole:?}");
    assert_eq!(rig.sim.ledger().announced_count(), entries.len());
}

#[tokio::test]
async fn what_can_never_be_understood_is_counted_apart() {
    let rig = Rig::start(Options { traffic: Traffic { per_minute: 0.0, ..easy().traffic }, ..easy() }).await;
    let end = TEN - Duration::from_secs(900);
    let range = Stretch { from: end, to: TEN };
    rig.sim
        .add_segment(SegmentScript { malformed_record: Some("[1,2]".into()), ..SegmentScript::new(&rig.account, end) });
    let raw = "{\"segmentId\": \"n\\u0069ne\", \"dialogId\": 7, \"hasTranscript\": true}";
    rig.sim.add_segment(SegmentScript {
        segment_id: Some("nine".into()),
        dialog_id: Some("7".into()),
        without_end: true,
        raw_record: Some(raw.into()),
        ..SegmentScript::new(&rig.account, end)
    });
    let answer = rig.metadata(end - Duration::from_secs(10), 20).await;
    assert!(answer.body.contains("[1,2]") && answer.body.contains(raw), "{}", answer.body);
    let ledger = rig.sim.ledger();
    assert_eq!(ledger.malformed_count(range, TEN), 1);
    let entries = ledger.ledger_for(range, TEN);
    assert_eq!((entries.len(), entries[0].end), (1, None));
    assert_eq!(rig.item(&entries[0], Artifact::Transcript).await.status, 200);
    rig.assert_no_violations();
}

#[tokio::test]
async fn one_answer_can_hold_a_great_many_segments() {
    let rig = Rig::start(Options { traffic: Traffic { per_minute: 0.0, ..easy().traffic }, ..easy() }).await;
    let from = TEN - Duration::from_secs(1800);
    rig.sim.add_burst(&rig.account, Burst { from, width: Duration::from_secs(60), count: 5_000 });
    let answer = rig.metadata(from - Duration::from_secs(1), 62).await;
    assert!(!answer.headers.contains_key("content-length"), "in pieces");
    let ids: std::collections::BTreeSet<String> =
        answer.records().iter().map(|record| record["segmentId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5_000);
    let entries = rig.sim.ledger().announced();
    assert_eq!(entries.len(), 5_000);
    assert!(entries.is_sorted_by(|one, other| one.order() < other.order()));
    fetch_all(&rig, &entries[..20]).await;
    let mut dialogs = BTreeMap::new();
    for entry in &entries {
        *dialogs.entry(entry.dialog_id.clone()).or_insert(0) += 1;
    }
    assert!(dialogs.values().any(|count| *count == 3), "several segments of one conversation");
}

#[tokio::test]
async fn traffic_begins_with_its_history_and_ends_when_it_is_told_to() {
    let mut options = easy();
    options.traffic = Traffic {
        per_minute: 60.0,
        history: Duration::from_secs(90),
        until: Some(Duration::from_secs(45)),
        ..options.traffic
    };
    let rig = Rig::start(options).await;
    rig.clock.advance(Duration::from_secs(3600));
    let day = Stretch { from: TEN - Duration::from_secs(86_400), to: TEN + Duration::from_secs(86_400) };
    let entries = rig.sim.ledger().ledger_for(day, rig.sim.now());
    let ends: Vec<Time> = entries.iter().map(|entry| entry.end.unwrap()).collect();
    assert!((110..=160).contains(&ends.len()), "{} in 135 s at one a second", ends.len());
    assert!(ends[0] >= TEN - Duration::from_secs(90) && ends[ends.len() - 1] <= TEN + Duration::from_secs(45));
    assert!(ends[0] < TEN - Duration::from_secs(80) && ends[ends.len() - 1] > TEN + Duration::from_secs(35));
    assert!(ends.iter().any(|end| end.0 % 1000 == 0) && ends.iter().any(|end| end.0 % 1000 != 0));
}
