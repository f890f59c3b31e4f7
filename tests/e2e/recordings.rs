//! Recordings through the real binary: fetched under all faults, byte for byte, into a folder or a bucket; erased with their
//! segment; whole again after a crash; and with flat memory.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::db::{Db, OpenMode, RecordingRow, sql};
use ringcx_extractor::model::{Artifact, ArtifactSet, Endpoint};
use ringcx_extractor::sim::{ArtifactScript, ExpectedSegment, FaultRates, Faults, ForbiddenRule, SegmentScript};
use serde_json::Value;
use support::s3_server::S3Server;
use support::test_env::scenario::{millis, strings};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    all_recordings_arrive_byte_for_byte_whatever_goes_wrong,
    recordings_go_to_a_bucket_and_are_erased_there,
    an_erased_recording_is_gone_and_a_lost_one_is_fetched_again,
    a_crash_in_the_middle_leaves_nothing_behind_in_a_folder,
    a_crash_in_the_middle_leaves_nothing_behind_in_a_bucket,
    a_store_that_cannot_be_written_to_costs_no_attempt,
    what_is_no_audio_is_kept_aside_and_a_missing_permission_pauses_recordings_only,
    #[ignore = "takes a minute and writes 2 GB"]
    a_recording_of_two_gigabytes_takes_no_more_memory_than_a_short_one,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Segments that a test adds ended sixteen minutes ago, so that their recordings are requested at once.
fn scenario() -> Scenario {
    let mut scenario = Scenario::history()
        .configure_sim(|sim| sim.traffic.per_minute = 0.001)
        .account_setting("artifacts", strings(&["transcript", "recording"]))
        .set("recordings.store", "file:audio")
        .set("discovery.start", "20m")
        .set("discovery.max_window", "10m")
        .set("discovery.window", "10m");
    scenario.wants.artifacts = ArtifactSet::NONE.with(Artifact::Transcript).with(Artifact::Recording);
    scenario
}

/// A WAV file of two channels with this content.
fn wav(sound: &[u8]) -> Bytes {
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + sound.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x02\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x10\0data");
    bytes.extend((sound.len() as u32).to_le_bytes());
    bytes.extend(sound);
    bytes.into()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let next = |n: &u64| Some(n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(seed), next).skip(1).take(length).map(|n| (n >> 56) as u8).collect()
}

/// Adds a telephone call with this recording. Returns its id.
fn add_call(env: &TestEnv, seconds_ago: u64, recording: Bytes) -> String {
    let end = env.begin - 16 * MINUTE - seconds_ago as u32 * SECOND;
    let script = SegmentScript::new(&env.main_account(), end);
    env.sim.add_segment(SegmentScript { recording: ArtifactScript::Body(end, recording), ..script })
}

async fn open(env: &TestEnv) -> Db {
    match env.database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await.unwrap(),
        None => Db::open_postgres(&env.database.url.clone().into(), OpenMode::Existing, 2).await.unwrap(),
    }
}

/// All recordings in the archive, in order of their objects.
async fn recordings(env: &TestEnv) -> Vec<RecordingRow> {
    let db = open(env).await;
    let rows = db.recording_page(None, None, 1000).await.unwrap();
    db.close().await;
    rows
}

async fn wait_for_recordings(env: &TestEnv, count: usize) -> Vec<RecordingRow> {
    env.wait_until("the database is there", async || env.run(&["export"]).await.status == 0).await;
    env.wait_until("the recordings are stored", async || recordings(env).await.len() == count).await;
    recordings(env).await
}

fn audio_folder(env: &TestEnv) -> PathBuf {
    env.database.folder.path().join("audio")
}

/// The files of the store below its folder.
fn files(env: &TestEnv) -> Vec<String> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(audio_folder(env)).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let folder = folder.file_name().into_string().unwrap();
            found.push(format!("{folder}/{}", file.file_name().into_string().unwrap()));
        }
    }
    found.sort();
    found
}

async fn assert_byte_for_byte(env: &TestEnv, expected: &[ExpectedSegment]) {
    let db = open(env).await;
    for entry in expected.iter().filter(|entry| entry.has_recording) {
        let stmt = sql("select id from segment where segment_id = $1").bind(&entry.segment_id);
        let key = db.value::<i64>(stmt).await.unwrap().unwrap();
        let row = db.recording_of(key).await.unwrap().unwrap();
        let stored = std::fs::read(audio_folder(env).join(&row.object)).unwrap();
        let served = env.sim.expected_archive().recording(&entry.account, &entry.segment_id).unwrap();
        assert!(stored == served, "{}", entry.segment_id);
        assert_eq!((row.size, row.channels), (served.len() as u64, Some(2)));
    }
    db.close().await;
}

async fn all_recordings_arrive_byte_for_byte_whatever_goes_wrong(database: TempDatabase) {
    let rates = FaultRates { slow_for: millis(0, 200), ..FaultRates::uniform(0.06) };
    let scenario = scenario().set("api.request_timeout", "1s").configure_sim(|sim| {
        sim.faults = Faults { recording: rates, stalled_recordings: 0.1, ..Faults::default() };
        sim.traffic.recording_seconds = 5;
    });
    let mut env = TestEnv::new(database, scenario).await;
    for number in 0..24 {
        add_call(&env, number, wav(&noise(number, 40_000 + number as usize * 4)));
    }
    // Two that the simulator generates.
    for number in 0..2 {
        let end = env.begin - 17 * MINUTE - number * SECOND;
        env.sim.add_segment(SegmentScript::new(&env.main_account(), end));
    }
    env.start();
    let count = env.expected_segments().iter().filter(|entry| entry.has_recording).count();
    let rows = wait_for_recordings(&env, count).await;
    assert!(rows.iter().all(|row| row.duration_ms.is_some()));
    assert_byte_for_byte(&env, &env.expected_segments()).await;
    env.wait_for_audit().await;
    let (audit, _) = env.audit_json().await;
    let of_recordings = &audit["accounts"][0]["artifacts"][3];
    assert_eq!((&of_recordings["artifact"], &of_recordings["stored"]), (&"recording".into(), &count.into()));
    env.run(&["verify"]).await.assert_output(0, &["intact", &format!("{count} recordings")]);
    assert!(files(&env).iter().all(|name| !name.starts_with(".uploads/")), "{:?}", files(&env));
    env.assert_contract_kept();
    assert!(env.sim.stats().faults.len() > 5, "{:?}", env.sim.stats().faults);
}

fn with_bucket(scenario: Scenario, server: &S3Server) -> Scenario {
    let options: toml::Table =
        server.options().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    scenario.set("recordings.store", "s3://bucket/calls").set("recordings.options", toml::Value::Table(options))
}

async fn recordings_go_to_a_bucket_and_are_erased_there(database: TempDatabase) {
    let server = S3Server::start().await;
    let mut env = TestEnv::new(database, with_bucket(scenario(), &server)).await;
    let (short, long) = (wav(&noise(1, 10_000)), wav(&noise(2, 20_000_000)));
    let id = add_call(&env, 1, long.clone());
    add_call(&env, 2, short.clone());
    add_call(&env, 3, short.clone());
    env.start();
    let rows = wait_for_recordings(&env, 3).await;
    for row in &rows {
        let object = server.bucket.object(&format!("calls/{}", row.object)).unwrap();
        assert!(object == if row.size == short.len() as u64 { &short } else { &long });
    }
    assert_eq!((server.bucket.names().len(), server.bucket.open_uploads()), (2, 0), "the same audio is stored once");
    env.run(&["erase", "--yes", "--segment", &id]).await.assert_output(0, &["erased permanently: 1 segment"]);
    // The command deletes it, unless the daemon was quicker.
    env.wait_until("it is deleted", async || server.bucket.names().len() == 1).await;
    env.run(&["verify", "--sample", "100"]).await.assert_output(0, &["2 recordings"]);
    // A store that is away does not keep an erasure from being done; the daemon deletes the object later.
    server.bucket.is_down.store(true, Ordering::Relaxed);
    for entry in env.expected_segments().iter().filter(|entry| entry.segment_id != id) {
        env.run(&["erase", "--yes", "--segment", &entry.segment_id]).await.assert_output(0, &["erased permanently"]);
    }
    assert_eq!((recordings(&env).await.len(), server.bucket.names().len()), (0, 1));
    server.bucket.is_down.store(false, Ordering::Relaxed);
    env.wait_until("the daemon deletes it", async || server.bucket.names().is_empty()).await;
}

async fn an_erased_recording_is_gone_and_a_lost_one_is_fetched_again(database: TempDatabase) {
    let mut env = TestEnv::new(database, scenario()).await;
    let shared = wav(&noise(1, 10_000));
    let erased = [add_call(&env, 1, shared.clone()), add_call(&env, 2, shared)];
    add_call(&env, 3, wav(&noise(3, 10_000)));
    env.start();
    let rows = wait_for_recordings(&env, 3).await;
    assert_eq!(files(&env).len(), 2);
    env.run_ok(&["erase", "--yes", "--segment", &erased[0]]).await;
    assert_eq!(files(&env).len(), 2, "another segment has the same audio");
    env.run_ok(&["erase", "--yes", "--segment", &erased[1]]).await;
    let left = recordings(&env).await;
    assert_eq!((left.len(), files(&env)), (1, vec![left[0].object.clone()]));
    assert!(rows.iter().any(|row| row.object != left[0].object));
    env.stop().await;
    std::fs::remove_file(audio_folder(&env).join(&left[0].object)).unwrap();
    env.run(&["verify"]).await.assert_output(1, &["the recording is not in the recording store"]);
    env.start();
    env.wait_until("it is fetched again", async || files(&env).len() == 1).await;
    env.wait_until("verify passes", async || env.run(&["verify"]).await.status == 0).await;
    env.wait_for_audit().await;
    env.assert_contract_kept();
}

async fn a_crash_in_the_middle_leaves_nothing_behind_in_a_folder(database: TempDatabase) {
    let scenario = scenario().configure_sim(|sim| sim.traffic.recording_part_delay = Duration::from_millis(40));
    let mut env = TestEnv::new(database, scenario).await;
    let audio = wav(&noise(7, 4_000_000));
    add_call(&env, 1, audio.clone());
    env.start();
    for _ in 0..2 {
        env.wait_until("it is under way", async || files(&env).iter().any(|name| name.starts_with(".uploads/"))).await;
        env.kill().await;
        env.start();
    }
    let rows = wait_for_recordings(&env, 1).await;
    assert!(std::fs::read(audio_folder(&env).join(&rows[0].object)).unwrap() == audio);
    // On Postgres another replica could be at it: its files are left for an hour.
    if env.database.is_sqlite() {
        env.wait_until("nothing else is left", async || files(&env) == [rows[0].object.clone()]).await;
    }
    env.assert_contract_kept();
}

async fn a_crash_in_the_middle_leaves_nothing_behind_in_a_bucket(database: TempDatabase) {
    let server = S3Server::start().await;
    let scenario = scenario().configure_sim(|sim| sim.traffic.recording_part_delay = Duration::from_millis(10));
    let mut env = TestEnv::new(database, with_bucket(scenario, &server)).await;
    let audio = wav(&noise(7, 20_000_000));
    add_call(&env, 1, audio.clone());
    env.start();
    env.wait_until("a part is stored", async || server.bucket.open_parts() > 0).await;
    env.kill().await;
    assert_eq!(server.bucket.open_uploads(), 1);
    env.start();
    let rows = wait_for_recordings(&env, 1).await;
    env.wait_until("the first upload is discarded", async || server.bucket.open_uploads() == 0).await;
    assert_eq!(server.bucket.names(), [format!("calls/{}", rows[0].object)]);
    assert!(server.bucket.object(&server.bucket.names()[0]).unwrap() == audio);
    env.assert_contract_kept();
}

async fn a_store_that_cannot_be_written_to_costs_no_attempt(database: TempDatabase) {
    let mut env = TestEnv::new(database, scenario()).await;
    add_call(&env, 1, wav(&noise(1, 1000)));
    // A file is in the folder's place.
    std::fs::write(audio_folder(&env), "in the way").unwrap();
    env.start();
    env.wait_for_log("endpoint=recording").await;
    let items = env.queue_items(&["--all"]).await;
    let tries: Vec<&Value> =
        items.iter().filter(|item| item["artifact"] == "recording").map(|item| &item["tries"]).collect();
    assert_eq!(tries, [&Value::from(0)], "{items:?}");
    let asked = env.sim.stats().requests.get(&Endpoint::Recording).copied().unwrap_or(0);
    assert_eq!(asked, 0, "no request is spent");
    std::fs::remove_file(audio_folder(&env)).unwrap();
    wait_for_recordings(&env, 1).await;
    env.wait_for_audit().await;
}

async fn what_is_no_audio_is_kept_aside_and_a_missing_permission_pauses_recordings_only(database: TempDatabase) {
    let scenario = scenario().set("fetch.give_up_after", "2s");
    let mut env = TestEnv::new(database, scenario).await;
    let page = add_call(&env, 1, Bytes::from_static(b"<html><h1>Please log in</h1></html>"));
    let cut = add_call(&env, 2, wav(&noise(2, 10_000)).slice(..5_000));
    env.start();
    env.wait_until("the database is there", async || env.run(&["export"]).await.status == 0).await;
    env.wait_until("both are failed", async || {
        let items = env.queue_items(&["--state", "failed"]).await;
        let has = |id: &str, why: &str| {
            items.iter().any(|item| {
                item["segment_id"] == *id && item["artifact"] == "recording" && item["reason"].to_string().contains(why)
            })
        };
        has(&page, "it is no audio") && has(&cut, "shorter than its header says")
    })
    .await;
    assert_eq!(recordings(&env).await.len(), 0);
    assert_eq!(files(&env), Vec::<String>::new(), "nothing of it is stored");
    env.sim.control().forbid(ForbiddenRule { endpoint: Some(Endpoint::Recording), ..ForbiddenRule::default() });
    let before = env.sim.stats().ok_count(Endpoint::Transcript);
    for number in 3..8 {
        add_call(&env, number, wav(&noise(number, 1000)));
    }
    env.run_ok(&["backfill", "--from", "20m", "--to", "2s", "--wait"]).await;
    env.wait_for_log("READ on Account").await;
    env.wait_until("transcripts are not affected", async || {
        env.sim.stats().ok_count(Endpoint::Transcript) == before + 5
    })
    .await;
    env.sim.set_faults(Faults::default());
    wait_for_recordings(&env, 5).await;
}

async fn a_recording_of_two_gigabytes_takes_no_more_memory_than_a_short_one(database: TempDatabase) {
    let scenario = scenario().configure_sim(|sim| sim.traffic.recording_seconds = 67_000);
    let mut env = TestEnv::new(database, scenario).await;
    add_call(&env, 1, wav(&noise(1, 1000)));
    env.start();
    wait_for_recordings(&env, 1).await;
    let before = env.peak_memory_kb();
    // One that the simulator generates while it sends it.
    let is_call = |entry: &&ExpectedSegment| entry.has_recording;
    while env.expected_segments().iter().filter(is_call).count() < 2 {
        let end = env.begin - 17 * MINUTE;
        env.sim.add_segment(SegmentScript::new(&env.main_account(), end));
    }
    env.run_ok(&["backfill", "--from", "20m", "--to", "15m", "--wait"]).await;
    env.wait_until_within(5 * MINUTE, "it is stored", async || recordings(&env).await.len() >= 2).await;
    let rows = recordings(&env).await;
    assert!(rows.iter().any(|row| row.size > 2_000_000_000), "{rows:?}");
    let after = env.peak_memory_kb();
    assert!(after < before + 40_000, "{before} kB before, {after} kB after");
}
