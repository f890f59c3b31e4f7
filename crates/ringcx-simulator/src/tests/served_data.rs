//! The served data agrees with the expected archive.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::model::SegmentRecord;
use ringcx_client::metadata::parse_segment_record;
use ringcx_conversation::render::Conversation;

async fn fetch_all(env: &SimTestEnv, entries: &[ExpectedSegment]) {
    for entry in entries {
        for artifact in Artifact::TEXTS {
            let answer = env.fetch_artifact(entry, artifact).await;
            match entry.expected_artifact(artifact) {
                ExpectedArtifact::Body(body) => {
                    assert_eq!((answer.status.as_u16(), answer.body.as_bytes()), (200, &body[..]));
                }
                ExpectedArtifact::NotPopulated => {
                    assert_eq!(answer.status, 200);
                    assert!(["", "\"\""].contains(&&*answer.body), "{}", answer.body);
                }
                _ => assert_eq!(answer.status, 404),
            }
        }
    }
}

#[tokio::test]
async fn a_correct_client_gets_the_expected_archive_without_violations() {
    let mut options = unlimited_options();
    options.traffic = Traffic { per_minute: 3.0, awkward_ids: 0.5, odd_records: 0.5, ..options.traffic };
    options.windows.offset = Duration::ZERO;
    let env = SimTestEnv::start(options).await;
    let records = env.metadata(START - Duration::from_secs(3600), 3600).await.records();
    let by_id: BTreeMap<&str, &Value> =
        records.iter().map(|record| (record["segmentId"].as_str().unwrap(), record)).collect();
    let entries = env.last_hour();
    assert!((120..=180).contains(&entries.len()), "{} segments in an hour", entries.len());
    assert_eq!(by_id.len(), entries.len());
    for entry in &entries {
        assert_eq!(by_id[&*entry.segment_id], &entry.metadata);
        assert_eq!(entry.metadata["hasTranscript"] == true, entry.has_transcript);
        assert_eq!(entry.metadata["segmentEndTimeMs"], entry.end.unwrap().rfc3339());
    }
    fetch_all(&env, &entries).await;
    env.assert_no_violations();
    let expected_archive = env.sim.expected_archive();
    assert_eq!(
        expected_archive.announced_segments(),
        entries.iter().map(|entry| env.announced(entry)).collect::<Vec<_>>()
    );
    assert_eq!(expected_archive.repeated_serves(), Vec::<String>::new());
    env.fetch_artifact(&entries[0], Artifact::AutoSummary).await;
    assert_eq!(expected_archive.serve_count(&env.account, &entries[0].segment_id, Artifact::AutoSummary), 2);
    assert_eq!(expected_archive.repeated_serves().len(), 1);
}

impl SimTestEnv {
    /// An entry after its announcement.
    fn announced(&self, entry: &ExpectedSegment) -> ExpectedSegment {
        ExpectedSegment { first_announced: Some(self.sim.now()), ..entry.clone() }
    }
}

#[tokio::test]
async fn odd_bodies_need_a_lenient_parser() {
    let mut options = unlimited_options();
    options.traffic = Traffic { odd_bodies: 1.0, transcribed: 1.0, utterances: (2, 5), ..options.traffic };
    let env = SimTestEnv::start(options).await;
    let entries = env.last_hour();
    let mut strict = 0;
    for entry in &entries {
        let ExpectedArtifact::Body(body) = &entry.transcript else { panic!("all are available") };
        let phrases = Conversation::parse(body).unwrap().phrases;
        assert!((2..=5).contains(&phrases.len()));
        assert!(phrases.iter().all(|phrase| phrase.text.len() > 2));
        strict += usize::from(serde_json::from_slice::<Value>(body).is_ok());
    }
    assert!(strict > entries.len() / 4 && strict < entries.len() * 3 / 4, "{strict} of {}", entries.len());
    let summary = async |entry: &ExpectedSegment| env.fetch_artifact(entry, Artifact::AutoSummary).await;
    let mut charsets = BTreeSet::new();
    for entry in entries.iter().take(100) {
        let media = summary(entry).await.headers["content-type"].clone();
        charsets.extend(media.to_str().unwrap().split_once("charset=").map(|(_, charset)| charset.to_owned()));
    }
    assert_eq!(charsets.len(), 4, "{charsets:?}");
}

#[tokio::test]
async fn odd_records_are_parsed_as_expected() {
    let mut options = unlimited_options();
    options.traffic = Traffic { odd_bodies: 1.0, odd_ends: 0.5, odd_records: 0.5, ..options.traffic };
    options.windows.offset = Duration::ZERO;
    let env = SimTestEnv::start(options).await;
    let answer = env.metadata(START - Duration::from_secs(3600), 3600).await;
    let records: Vec<Box<serde_json::value::RawValue>> = serde_json::from_str(&answer.body).unwrap();
    let records = records.iter().map(|raw| parse_segment_record(raw.get()).unwrap());
    let by_id: BTreeMap<String, SegmentRecord> = records.map(|record| (record.segment_id.clone(), record)).collect();
    let entries = env.last_hour();
    assert_eq!(by_id.len(), entries.len());
    for entry in &entries {
        let record = &by_id[&entry.segment_id];
        assert_eq!((record.end, record.has_transcript), (entry.end, entry.has_transcript), "{}", record.raw);
    }
    let without_end = entries.iter().filter(|entry| entry.end.is_none()).count();
    assert!(without_end > entries.len() / 4 && without_end < entries.len() * 3 / 4);
}

#[tokio::test]
async fn a_transcript_that_is_not_available_yet_may_be_answered_as_empty() {
    let mut options =
        Options { traffic: Traffic { odd_bodies: 1.0, ..unlimited_options().traffic }, ..unlimited_options() };
    options.traffic.transcribed = 1.0;
    options.availability = Availability::default();
    let env = SimTestEnv::start(options).await;
    let entries = env.last_hour();
    let entry = entries.iter().find(|entry| entry.transcript == ExpectedArtifact::NotYet).unwrap();
    let answer = env.fetch_artifact(entry, Artifact::Transcript).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["transcript"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(env.sim.expected_archive().serve_count(&env.account, &entry.segment_id, Artifact::Transcript), 0);
}

#[tokio::test]
async fn equal_seeds_give_equal_runs_and_different_seeds_different_ones() {
    let run = async |seed: u64| {
        let faults =
            Faults { transcript: FaultRates { status_500: 0.3, ..FaultRates::default() }, ..Faults::default() };
        let env = SimTestEnv::start(Options { seed, faults, ..unlimited_options() }).await;
        let entries = env.last_hour();
        let mut statuses = Vec::new();
        for entry in entries.iter().filter(|entry| entry.has_transcript).take(40) {
            statuses.push(env.fetch_artifact(entry, Artifact::Transcript).await.status.as_u16());
        }
        (entries, statuses)
    };
    let (one, again, other) = (run(1).await, run(1).await, run(2).await);
    assert!(one == again);
    assert!(one.1.contains(&500) && one.1.contains(&200));
    assert!(one.0 != other.0 && one.1 != other.1);
}

#[tokio::test]
async fn a_late_segment_appears_and_changes_at_the_scripted_times() {
    let env = SimTestEnv::start(Options {
        traffic: Traffic { per_minute: 0.0, ..unlimited_options().traffic },
        ..unlimited_options()
    })
    .await;
    let end = START - Duration::from_secs(900);
    let minutes = |count: u64| START + Duration::from_secs(60 * count);
    let id = env.sim.add_segment(SegmentScript {
        segment_id: Some("late one".into()),
        appears: minutes(1),
        transcribed: Some(minutes(2)),
        edited: Some(minutes(3)),
        agent_summary: ArtifactScript::Changes((minutes(1), "".into()), (minutes(3), "filled".into())),
        ..SegmentScript::new(&env.account, end)
    });
    let mut announced = Vec::new();
    for minute in 0..4 {
        let records = env.metadata(end - Duration::from_secs(10), 20).await.records();
        let record = records.first().cloned().unwrap_or_default();
        let entries = env.sim.expected_archive().segments_in(TimeRange { from: end, to: START }, minutes(minute));
        let summary = entries.first().map(|entry| entry.agent_summary.clone());
        announced.push((record["segmentId"] == *id, record["hasTranscript"] == true, summary));
        env.clock.advance(Duration::from_secs(60));
        if minute == 3 {
            assert_eq!(record["agentDisposition"], "Résolu, reopened");
            assert_eq!(env.fetch_artifact(&entries[0], Artifact::AgentSummary).await.body, "filled");
        }
    }
    assert_eq!(announced[0], (false, false, None));
    assert_eq!(announced[1], (true, false, Some(ExpectedArtifact::NotPopulated)));
    assert_eq!(announced[2], (true, true, Some(ExpectedArtifact::NotPopulated)));
    assert_eq!(announced[3], (true, true, Some(ExpectedArtifact::Body("filled".into()))));
    env.assert_no_violations();
}

#[tokio::test]
async fn the_shares_of_late_flipped_and_edited_segments_are_as_configured() {
    let partial_delay = PartialDelay::new(0.3, DelayRange::secs(600, 1200));
    let mut options = unlimited_options();
    options.traffic = Traffic { per_minute: 30.0, transcribed: 1.0, ..options.traffic };
    options.availability =
        Availability { late: partial_delay, flip: partial_delay, summary_edit: partial_delay, ..options.availability };
    let env = SimTestEnv::start(options).await;
    let range = TimeRange { from: START - Duration::from_secs(600), to: START };
    let expected_archive =
        |seconds: u64| env.sim.expected_archive().segments_in(range, START + Duration::from_secs(seconds));
    let (early, late) = (expected_archive(0), expected_archive(3600));
    let share = |part: usize| part as f64 / late.len() as f64;
    assert!((250..350).contains(&late.len()) && late.iter().all(|entry| entry.has_transcript));
    assert!((0.6..0.8).contains(&share(early.len())), "{} of {} at once", early.len(), late.len());
    let flagged = early.iter().filter(|entry| entry.has_transcript).count();
    assert!((0.6..0.8).contains(&(flagged as f64 / early.len() as f64)), "{flagged} of {}", early.len());
    let same = early.iter().filter(|entry| late.iter().any(|one| one.agent_summary == entry.agent_summary));
    assert!(same.count() < early.len(), "some summaries are edited");
}

#[tokio::test]
async fn an_error_code_in_a_200_does_not_count_as_the_artifact() {
    let env = SimTestEnv::start(Options {
        traffic: Traffic { per_minute: 0.0, ..unlimited_options().traffic },
        ..unlimited_options()
    })
    .await;
    let end = START - Duration::from_secs(900);
    let error_body = "{\"errorCode\":\"E1\",\"transcript\":null}";
    let good = "{\"transcript\":[]}";
    let later = START + Duration::from_secs(60);
    for then in [None, Some((later, good.into()))] {
        let transcript = ArtifactScript::Fails { body: error_body.into(), then };
        env.sim.add_segment(SegmentScript { transcript, ..SegmentScript::new(&env.account, end) });
    }
    let expects = |by: Time| {
        let entries = env.sim.expected_archive().segments_in(TimeRange { from: end, to: START }, by);
        entries.into_iter().map(|entry| entry.transcript).collect::<Vec<_>>()
    };
    let first = env.last_hour();
    assert_eq!(env.fetch_artifact(&first[0], Artifact::Transcript).await.body, error_body);
    assert!(
        expects(START).contains(&ExpectedArtifact::NeverAvailable)
            && expects(START).contains(&ExpectedArtifact::NotYet)
    );
    assert!(
        expects(later).contains(&ExpectedArtifact::NeverAvailable)
            && expects(later).contains(&ExpectedArtifact::Body(good.into()))
    );
}

#[tokio::test]
async fn artifacts_are_404_until_they_are_available_as_expected() {
    let availability = Availability { never_transcript: 0.3, ..Availability::default() };
    let env = SimTestEnv::start(Options {
        availability,
        traffic: Traffic { transcribed: 1.0, ..unlimited_options().traffic },
        ..unlimited_options()
    });
    let env = env.await;
    let range = TimeRange { from: START - Duration::from_secs(400), to: START };
    let entries = env.sim.expected_archive().segments_in(range, START);
    let mut seen = BTreeMap::new();
    for entry in &entries {
        let status = env.fetch_artifact(entry, Artifact::Transcript).await.status.as_u16();
        let expected = matches!(entry.transcript, ExpectedArtifact::Body(_));
        assert_eq!(status == 200, expected);
        *seen.entry(format!("{:?}", std::mem::discriminant(&entry.transcript))).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "available, not yet, and never: {seen:?}");
    env.clock.advance(Duration::from_secs(400));
    let later = env.sim.expected_archive().segments_in(range, env.sim.now());
    assert!(later.iter().all(|entry| entry.transcript != ExpectedArtifact::NotYet));
    env.assert_no_violations();
}

#[tokio::test]
async fn a_record_mangled_in_one_answer_is_intact_in_another() {
    let mut options = Options { faults: Faults { mangled_records: 0.5, ..Faults::default() }, ..unlimited_options() };
    options.traffic.duplicates = 0.0;
    let env = SimTestEnv::start(options).await;
    let from = START - Duration::from_secs(1200);
    let entries = env
        .sim
        .expected_archive()
        .segments_in(TimeRange { from: from.plus_millis(1), to: from.plus_millis(600_000) }, START);
    let mut whole = Vec::new();
    for _ in 0..20 {
        let records = env.metadata(from, 600).await.records();
        assert_eq!(records.len(), entries.len());
        let found = entries.iter().filter(|entry| records.contains(&entry.metadata)).count();
        whole.push(found == entries.len());
    }
    assert!(whole.contains(&true) && whole.contains(&false), "{whole:?}");
    assert_eq!(env.sim.expected_archive().announced_count(), entries.len());
}

#[tokio::test]
async fn invalid_records_are_counted_separately() {
    let env = SimTestEnv::start(Options {
        traffic: Traffic { per_minute: 0.0, ..unlimited_options().traffic },
        ..unlimited_options()
    })
    .await;
    let end = START - Duration::from_secs(900);
    let range = TimeRange { from: end, to: START };
    env.sim
        .add_segment(SegmentScript { malformed_record: Some("[1,2]".into()), ..SegmentScript::new(&env.account, end) });
    let raw = "{\"segmentId\": \"n\\u0069ne\", \"dialogId\": 7, \"hasTranscript\": true}";
    env.sim.add_segment(SegmentScript {
        segment_id: Some("nine".into()),
        dialog_id: Some("7".into()),
        without_end: true,
        raw_record: Some(raw.into()),
        ..SegmentScript::new(&env.account, end)
    });
    let answer = env.metadata(end - Duration::from_secs(10), 20).await;
    assert!(answer.body.contains("[1,2]") && answer.body.contains(raw), "{}", answer.body);
    let expected_archive = env.sim.expected_archive();
    assert_eq!(expected_archive.malformed_count(range, START), 1);
    let entries = expected_archive.segments_in(range, START);
    assert_eq!((entries.len(), entries[0].end), (1, None));
    assert_eq!(env.fetch_artifact(&entries[0], Artifact::Transcript).await.status, 200);
    env.assert_no_violations();
}

#[tokio::test]
async fn one_answer_can_hold_thousands_of_segments() {
    let env = SimTestEnv::start(Options {
        traffic: Traffic { per_minute: 0.0, ..unlimited_options().traffic },
        ..unlimited_options()
    })
    .await;
    let from = START - Duration::from_secs(1800);
    env.sim.add_burst(&env.account, Burst { from, width: Duration::from_secs(60), count: 5_000 });
    let answer = env.metadata(from - Duration::from_secs(1), 62).await;
    assert!(!answer.headers.contains_key("content-length"), "chunked");
    let ids: std::collections::BTreeSet<String> =
        answer.records().iter().map(|record| record["segmentId"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5_000);
    let entries = env.sim.expected_archive().announced_segments();
    assert_eq!(entries.len(), 5_000);
    assert!(entries.is_sorted_by(|one, other| one.export_order() < other.export_order()));
    fetch_all(&env, &entries[..20]).await;
    let mut dialogs = BTreeMap::new();
    for entry in &entries {
        *dialogs.entry(entry.dialog_id.clone()).or_insert(0) += 1;
    }
    assert!(dialogs.values().any(|count| *count == 3), "several segments of one conversation");
}

#[tokio::test]
async fn traffic_starts_with_its_history_and_ends_as_configured() {
    let mut options = unlimited_options();
    options.traffic = Traffic {
        per_minute: 60.0,
        history: Duration::from_secs(90),
        until: Some(Duration::from_secs(45)),
        ..options.traffic
    };
    let env = SimTestEnv::start(options).await;
    env.clock.advance(Duration::from_secs(3600));
    let day = TimeRange { from: START - Duration::from_secs(86_400), to: START + Duration::from_secs(86_400) };
    let entries = env.sim.expected_archive().segments_in(day, env.sim.now());
    let ends: Vec<Time> = entries.iter().map(|entry| entry.end.unwrap()).collect();
    assert!((110..=160).contains(&ends.len()), "{} in 135 s at one a second", ends.len());
    assert!(ends[0] >= START - Duration::from_secs(90) && ends[ends.len() - 1] <= START + Duration::from_secs(45));
    assert!(ends[0] < START - Duration::from_secs(80) && ends[ends.len() - 1] > START + Duration::from_secs(35));
    assert!(ends.iter().any(|end| end.0 % 1000 == 0) && ends.iter().any(|end| end.0 % 1000 != 0));
}
