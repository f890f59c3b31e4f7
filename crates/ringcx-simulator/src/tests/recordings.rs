//! Recordings: what is served, and what a client may not do.

use bytes::Bytes;

use super::*;

const ID_OF_SEGMENT: &str = "call";

/// A call that ended this long ago, with a recording.
async fn call(minutes_ago: u64, recording: ArtifactScript) -> (SimTestEnv, ExpectedSegment) {
    let env = SimTestEnv::start(unlimited_options()).await;
    let end = START - Duration::from_secs(60 * minutes_ago);
    let script = SegmentScript::new(&env.account, end);
    let segment_id = Some(ID_OF_SEGMENT.to_owned());
    env.sim.add_segment(SegmentScript { recording, segment_id, ..script });
    let entries = env.last_hour();
    let entry = entries.into_iter().find(|entry| entry.segment_id == ID_OF_SEGMENT).unwrap();
    (env, entry)
}

impl SimTestEnv {
    async fn fetch_recording(&self, entry: &ExpectedSegment) -> (u16, Result<Bytes, reqwest::Error>) {
        let request = self.artifact_request(entry, Artifact::Recording).header("accept", "audio/wav");
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.bytes().await)
    }
}

#[tokio::test]
async fn a_recording_is_served_as_the_ledger_has_it() {
    let end = START - Duration::from_secs(1200);
    let body = Bytes::from_static(b"RIFF....WAVE");
    let (env, entry) = call(20, ArtifactScript::Body(end, body.clone())).await;
    assert!(entry.has_recording && entry.metadata["hasRecording"] == true, "{}", entry.metadata);
    let (status, bytes) = env.fetch_recording(&entry).await;
    assert_eq!((status, bytes.unwrap()), (200, body.clone()));
    assert_eq!(env.sim.expected_archive().recording(&env.account, ID_OF_SEGMENT), Some(body));
    assert_eq!(env.sim.expected_archive().serve_count(&env.account, ID_OF_SEGMENT, Artifact::Recording), 1);
    env.assert_no_violations();
}

#[tokio::test]
async fn a_generated_recording_is_the_same_each_time() {
    let env = SimTestEnv::start(unlimited_options()).await;
    let old = |entry: &ExpectedSegment| entry.end.is_some_and(|end| START.since(end) > Duration::from_secs(900));
    let entry = env.last_hour().into_iter().find(|entry| entry.has_recording && old(entry)).unwrap();
    let (_, first) = env.fetch_recording(&entry).await;
    let (_, second) = env.fetch_recording(&entry).await;
    let served = env.sim.expected_archive().recording(&env.account, &entry.segment_id).unwrap();
    assert!(first.unwrap() == served && second.unwrap() == served && served.len() > 60_000);
}

#[tokio::test]
async fn a_client_that_asks_too_early_or_for_nothing_or_for_anything_violates_the_contract() {
    let end = START - Duration::from_secs(600);
    let (env, entry) = call(10, ArtifactScript::Body(end, Bytes::from_static(b"RIFF"))).await;
    env.fetch_recording(&entry).await.1.unwrap();
    env.assert_violation("ended less than");
    env.fetch_artifact(&entry, Artifact::Recording).await;
    env.assert_violation("recording: Accept");
    let silent = env.last_hour().into_iter().find(|entry| !entry.has_recording).unwrap();
    assert_eq!(env.fetch_recording(&silent).await.0, 404);
    env.assert_violation("has none");
}

#[tokio::test]
async fn recordings_break_off_in_every_way() {
    let end = START - Duration::from_secs(1200);
    let body = Bytes::from(vec![7; 300_000]);
    let (env, entry) = call(20, ArtifactScript::Body(end, body.clone())).await;
    let only = |rates: FaultRates| Faults { recording: rates, ..Faults::default() };
    env.sim.set_faults(only(FaultRates { truncate: 1.0, ..FaultRates::default() }));
    let (status, bytes) = env.fetch_recording(&entry).await;
    assert!(status == 200 && bytes.is_err());
    env.sim.set_faults(only(FaultRates { error_code: 1.0, ..FaultRates::default() }));
    assert!(env.fetch_recording(&entry).await.1.unwrap().starts_with(b"{"));
    env.sim.set_faults(only(FaultRates { malformed: 1.0, ..FaultRates::default() }));
    let mut lengths = Vec::new();
    for _ in 0..20 {
        lengths.push(env.fetch_recording(&entry).await.1.unwrap().len());
    }
    assert!(lengths.contains(&(body.len() / 2)) && lengths.iter().any(|length| *length < 100), "{lengths:?}");
    env.sim.set_faults(Faults { stalled_recordings: 1.0, ..Faults::default() });
    let request = env.artifact_request(&entry, Artifact::Recording).header("accept", "audio/wav");
    let mut response = request.send().await.unwrap();
    let mut received = 0;
    while received < body.len() / 2 {
        received += response.chunk().await.unwrap().unwrap().len();
    }
    let more = tokio::time::timeout(Duration::from_millis(50), response.chunk()).await;
    assert!(more.is_err() && received == body.len() / 2);
    env.assert_no_violations();
}
