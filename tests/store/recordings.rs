//! Recordings in the archive and in their store: when they are requested, what is kept of them, and that the store and the
//! database stay in step. On both databases, with a folder and with a bucket.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::config::{RecordingFormat, RecordingPlace, RecordingSettings};
use ringcx_extractor::db::{
    CompletedJob, DeletionBatch, DeletionReason, JobOutcome, JournalAction, JournalEntry, Lease, MetadataChunk,
    UploadRow, sql,
};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, AudioType, Lane, RecordingFacts, SegmentRecord, SummariesFor,
    TimeRange, TimeRangeSet,
};
use ringcx_extractor::recordings::{AudioHeader, RecordingStore, sweep};
use ringcx_extractor::verify::{self, IntegrityProblemKind, RecordingCheck, VerifyReport, VerifyRequest};
use support::TestDb;
use support::s3_server::S3Server;

crate::on_both! {
    a_recording_is_requested_fifteen_minutes_after_the_end_where_there_is_one,
    the_same_audio_is_stored_once_and_goes_with_its_last_recording,
    audio_that_is_stored_again_while_it_is_deleted_is_requested_again,
    the_sweep_finds_orphans_on_both_sides_and_touches_no_other_file,
    audio_of_a_segment_that_was_erased_meanwhile_is_deleted,
    the_sweep_keeps_what_may_belong_to_another_archive,
    a_store_that_seems_to_be_a_wrong_one_is_not_filled_anew_at_once,
    an_earlier_version_that_was_lost_is_not_requested_again,
    verify_finds_audio_that_was_altered_exchanged_or_lost,
    uploads_that_never_ended_are_discarded,
    earlier_programs_are_shut_out_once_recordings_are_requested,
    a_notice_with_the_item_of_a_recording_gets_its_own,
}

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn now() -> Time {
    Clock::system().now()
}

struct RecordingEnv {
    test: TestDb,
    store: RecordingStore,
    owned: Lease,
    now: Time,
}

impl RecordingEnv {
    async fn new(test: TestDb) -> RecordingEnv {
        let now = now();
        let account = test.db.register_account(&AccountId::new("1", "2"), None, now).await.unwrap();
        let owned = test.db.acquire_leases(&[account.key], "test", 10 * MINUTE, now).await.unwrap().remove(0);
        let store = folder_store(test.folder.path().join("audio"));
        RecordingEnv { test, store, owned, now }
    }

    fn root(&self) -> PathBuf {
        self.test.folder.path().join("audio")
    }

    /// Announces segments that ended an hour ago. Returns their keys.
    async fn announce(&self, ids: &[&str]) -> Vec<i64> {
        let records: Vec<SegmentRecord> = ids.iter().map(|id| record(id, self.now - 60 * MINUTE, true)).collect();
        self.ingest(&records).await;
        let mut keys = Vec::new();
        for id in ids {
            let stmt = sql("select id from segment where segment_id = $1").bind(*id);
            keys.push(self.test.db.value::<i64>(stmt).await.unwrap().unwrap());
        }
        keys
    }

    async fn ingest(&self, records: &[SegmentRecord]) {
        let wants = ArtifactSelection {
            artifacts: ArtifactSet::TEXTS.with(Artifact::Recording),
            summaries_for: SummariesFor::Transcribed,
        };
        let chunk = MetadataChunk {
            lease: self.owned,
            lane: Lane::Live,
            range: TimeRange { from: Time(0), to: self.now },
            now: self.now,
            wants,
            already_read: &TimeRangeSet::default(),
            urgent_before: None,
            quarantine_retry_delay: MINUTE,
            records,
            quarantined: &[],
        };
        self.test.db.ingest_chunk(chunk).await.unwrap();
    }

    /// Stores this audio for the due recordings, in order.
    async fn record(&self, audio: &[&[u8]]) -> Vec<RecordingFacts> {
        let only = ArtifactSet::NONE.with(Artifact::Recording);
        let claims = self.test.db.due_items(self.owned, only, self.now, 100).await.unwrap();
        assert_eq!(claims.len(), audio.len());
        let mut stored = Vec::new();
        for (claim, audio) in claims.into_iter().zip(audio) {
            let facts = self.put(audio).await;
            stored.push(facts.clone());
            let job = CompletedJob { claim, at: self.now, outcome: JobOutcome::recorded(facts) };
            assert_eq!(self.test.db.complete_jobs(&[job]).await.unwrap(), [true]);
        }
        stored
    }

    async fn put(&self, audio: &[u8]) -> RecordingFacts {
        put(&self.store, audio).await
    }

    async fn erase(&self, segments: &[i64]) {
        let entry = JournalEntry {
            who: "test".to_owned(),
            what: JournalAction::Erase,
            subject: None,
            hold: None,
            reason: None,
        };
        let batch = DeletionBatch {
            account: self.owned.account,
            lease: None,
            segments,
            quarantined: &[],
            unknown_ids: &[],
            reason: DeletionReason::Erased,
            newest_hold_id: 0,
            at: self.now,
            journal_entry: &entry,
            access_entry: None,
        };
        self.test.db.delete_batch(&batch).await.unwrap().unwrap();
    }

    async fn objects(&self) -> Vec<String> {
        let mut listed = self.store.list().await.unwrap();
        let mut names = Vec::new();
        while let Some(object) = listed.next().await {
            names.push(object.unwrap().name);
        }
        names.sort();
        names
    }

    async fn verify(&self, sample_percent: u8) -> VerifyReport {
        let chains = verify::load_chains(&self.test.db, None).await.unwrap();
        let recordings = Some(RecordingCheck { store: self.store.clone(), sample_percent });
        let request = VerifyRequest { now: self.now, recordings, ..VerifyRequest::default() };
        verify::verify_archive(&self.test.db, &chains, &request, &mut |_| {}).await.unwrap()
    }
}

fn folder_store(root: PathBuf) -> RecordingStore {
    store_at(RecordingPlace::Folder(root), Vec::new())
}

fn store_at(store: RecordingPlace, options: Vec<(&'static str, String)>) -> RecordingStore {
    let options: BTreeMap<_, _> = options.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    RecordingStore::new(&RecordingSettings { store, options, format: RecordingFormat::Wav, max_bytes: 1 << 40 })
        .unwrap()
}

fn record(id: &str, end: Time, has_recording: bool) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("dialog-{id}")),
        end: Some(end),
        has_transcript: false,
        is_agent: true,
        has_recording,
        raw: format!(r#"{{"segmentId":"{id}","hasRecording":{has_recording}}}"#),
    }
}

const HEADER: AudioHeader =
    AudioHeader { audio: AudioType::Wav, duration: Some(Duration::from_millis(1500)), channels: Some(2) };

async fn put(store: &RecordingStore, audio: &[u8]) -> RecordingFacts {
    let mut upload = store.begin().await.unwrap();
    for chunk in audio.chunks(1 << 20) {
        upload.write(&Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    upload.finish(HEADER).await.unwrap()
}

async fn read(store: &RecordingStore, name: &str, range: Option<std::ops::Range<u64>>) -> Vec<u8> {
    let mut chunks = store.read(name, range).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    bytes
}

async fn a_recording_is_requested_fifteen_minutes_after_the_end_where_there_is_one(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let young = env.now - 5 * MINUTE;
    env.ingest(&[record("young", young, true), record("silent", young, false), record("old", env.now - DAY, true)])
        .await;
    let db = &env.test.db;
    let due = async |at: Time| -> Vec<String> {
        let claims = db.due_items(env.owned, ArtifactSet::ALL, at, 100).await.unwrap();
        assert!(claims.iter().all(|claim| claim.artifact == Artifact::Recording));
        claims.into_iter().map(|claim| claim.segment_id).collect()
    };
    assert_eq!(due(env.now).await, ["old"]);
    assert_eq!(due(young + 15 * MINUTE - Duration::from_millis(1)).await, ["old"]);
    let mut all = due(young + 15 * MINUTE).await;
    all.sort();
    assert_eq!(all, ["old", "young"]);
    // A recording that metadata announces later is requested then.
    env.ingest(&[record("silent", young, true)]).await;
    assert_eq!(due(young + 15 * MINUTE).await.len(), 3);
}

async fn the_same_audio_is_stored_once_and_goes_with_its_last_recording(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let keys = env.announce(&["a", "b", "c"]).await;
    let facts = env.record(&[b"one", b"one", b"two"]).await;
    let db = &env.test.db;
    let row = db.recording_of(keys[0]).await.unwrap().unwrap();
    assert_eq!((row.size, row.audio, row.duration_ms, row.channels), (3, AudioType::Wav, Some(1500), Some(2)));
    assert_eq!((row.sha256.as_slice(), row.object.clone()), (&facts[0].sha256[..], facts[0].object_name()));
    assert_eq!(db.recordings_of(&keys).await.unwrap().len(), 3);
    assert_eq!(env.objects().await.len(), 2);
    assert_eq!(read(&env.store, &row.object, None).await, b"one");
    env.erase(&keys[..1]).await;
    assert_eq!(sweep::delete_unnamed_objects(db, &env.store, env.now).await.unwrap(), 0);
    assert_eq!(env.objects().await.len(), 2, "another recording has the same audio");
    env.erase(&keys[1..2]).await;
    assert_eq!(db.count_objects_to_delete().await.unwrap(), 1);
    assert_eq!(sweep::delete_unnamed_objects(db, &env.store, env.now).await.unwrap(), 1);
    assert_eq!(env.objects().await, [facts[2].object_name()]);
    assert_eq!(db.count_objects_to_delete().await.unwrap(), 0);
    let report = env.verify(100).await;
    assert!(report.intact, "{:?}", report.problems);
}

async fn audio_that_is_stored_again_while_it_is_deleted_is_requested_again(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let first = env.announce(&["a"]).await;
    env.record(&[b"one"]).await;
    env.erase(&first).await;
    let db = &env.test.db;
    let queued = db.objects_to_delete(10).await.unwrap();
    // The sweep deletes the object; meanwhile another segment stores the same audio.
    env.announce(&["b"]).await;
    env.record(&[b"one"]).await;
    assert_eq!(db.objects_to_delete(10).await.unwrap(), Vec::<String>::new(), "it is in use again");
    env.store.delete(&queued[0]).await.unwrap();
    db.record_deleted_object(&queued[0], env.now).await.unwrap();
    let only = ArtifactSet::NONE.with(Artifact::Recording);
    let again = db.due_items(env.owned, only, env.now, 10).await.unwrap();
    assert_eq!(again.iter().map(|claim| &*claim.segment_id).collect::<Vec<_>>(), ["b"]);
    env.record(&[b"one"]).await;
    assert_eq!(env.objects().await, queued);
    assert!(env.verify(100).await.intact);
}

/// Makes a file in the store two days old.
fn age(env: &RecordingEnv, name: &str) {
    let file = File::options().write(true).open(env.root().join(name)).unwrap();
    file.set_modified(file.metadata().unwrap().modified().unwrap() - 2 * DAY).unwrap();
}

async fn the_sweep_finds_orphans_on_both_sides_and_touches_no_other_file(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    env.announce(&["a", "b"]).await;
    let facts = env.record(&[b"one", b"two"]).await;
    let orphan = env.put(b"left over").await.object_name();
    let young = env.put(b"being committed").await.object_name();
    age(&env, &orphan);
    std::fs::write(env.root().join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(env.root().join("music")).unwrap();
    std::fs::write(env.root().join("music/song.mp3"), "mine").unwrap();
    age(&env, "music/song.mp3");
    env.store.delete(&facts[0].object_name()).await.unwrap();
    let db = &env.test.db;
    let found = sweep::compare(db, &env.store, env.now, false).await.unwrap();
    assert_eq!((found.orphans, found.missing, found.requested), (1, 1, 1));
    let objects = env.objects().await;
    assert!(!objects.contains(&orphan) && objects.contains(&young) && objects.contains(&"music/song.mp3".to_owned()));
    assert_eq!(sweep::compare(db, &env.store, env.now, false).await.unwrap().requested, 0, "it is requested already");
    let report = env.verify(100).await;
    assert_eq!(report.problems.len(), 1, "{:?}", report.problems);
    env.record(&[b"one"]).await;
    assert!(env.verify(100).await.intact);
    let found = sweep::compare(db, &env.store, env.now, false).await.unwrap();
    assert_eq!((found.orphans, found.missing, found.requested), (0, 0, 0));
}

async fn the_sweep_keeps_what_may_belong_to_another_archive(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    for number in 0..30 {
        let name = env.put(format!("of another archive {number}").as_bytes()).await.object_name();
        age(&env, &name);
    }
    let found = sweep::compare(&env.test.db, &env.store, env.now, false).await.unwrap();
    assert_eq!((found.orphans, found.kept_orphans), (0, 30));
    assert_eq!(env.objects().await.len(), 30);
}

async fn audio_of_a_segment_that_was_erased_meanwhile_is_deleted(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let keys = env.announce(&["a"]).await;
    let db = &env.test.db;
    let only = ArtifactSet::NONE.with(Artifact::Recording);
    let claim = db.due_items(env.owned, only, env.now, 10).await.unwrap().remove(0);
    let facts = env.put(b"one").await;
    env.erase(&keys).await;
    let job = CompletedJob { claim, at: env.now, outcome: JobOutcome::recorded(facts) };
    assert_eq!(db.complete_jobs(&[job]).await.unwrap(), [false]);
    assert_eq!(sweep::delete_unnamed_objects(db, &env.store, env.now).await.unwrap(), 1);
    assert_eq!(env.objects().await, Vec::<String>::new());
}

async fn a_store_that_seems_to_be_a_wrong_one_is_not_filled_anew_at_once(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let ids: Vec<String> = (0..25).map(|number| format!("s{number}")).collect();
    env.announce(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let audio: Vec<[u8; 1]> = (0..25).map(|number| [number]).collect();
    env.record(&audio.iter().map(|one| &one[..]).collect::<Vec<_>>()).await;
    // As if its volume were not mounted.
    std::fs::rename(env.root(), env.root().with_extension("volume")).unwrap();
    let db = &env.test.db;
    let found = sweep::compare(db, &env.store, env.now, false).await.unwrap();
    assert_eq!((found.missing, found.postponed, found.requested), (25, 25, 0));
    let found = sweep::compare(db, &env.store, env.now, true).await.unwrap();
    assert_eq!((found.missing, found.postponed, found.requested), (25, 0, 25));
}

async fn an_earlier_version_that_was_lost_is_not_requested_again(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    env.announce(&["a"]).await;
    let first = env.record(&[b"one"]).await;
    env.store.delete(&first[0].object_name()).await.unwrap();
    let db = &env.test.db;
    assert_eq!(sweep::compare(db, &env.store, env.now, false).await.unwrap().requested, 1);
    env.record(&[b"two"]).await;
    let found = sweep::compare(db, &env.store, env.now, false).await.unwrap();
    assert_eq!((found.missing, found.requested), (1, 0));
}

async fn verify_finds_audio_that_was_altered_exchanged_or_lost(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let keys = env.announce(&["a", "b", "c"]).await;
    let facts = env.record(&[b"one", b"two", b"six"]).await;
    let report = env.verify(100).await;
    assert!(report.intact, "{:?}", report.problems);
    std::fs::write(env.root().join(facts[0].object_name()), b"1ne").unwrap();
    std::fs::write(env.root().join(facts[1].object_name()), b"shortened").unwrap();
    std::fs::remove_file(env.root().join(facts[2].object_name())).unwrap();
    let report = env.verify(100).await;
    let found: Vec<_> =
        report.problems.iter().map(|one| (one.kind, one.segment_id.as_deref().unwrap(), one.what.as_str())).collect();
    assert_eq!(
        found,
        [
            (IntegrityProblemKind::Recording, "a", "the recording does not match its stored SHA-256"),
            (IntegrityProblemKind::Recording, "b", "the recording does not match its stored size"),
            (IntegrityProblemKind::Recording, "c", "the recording is not in the recording store"),
        ]
    );
    assert!(env.verify(0).await.intact, "nothing is read");
    // The row alone cannot be made to agree: the feed's chain has the hash, too.
    let db = &env.test.db;
    db.run(sql("update recording set sha256 = $1 where item = $2").bind(vec![7_u8; 32]).bind(keys[0] * 4 + 3))
        .await
        .unwrap();
    let report = env.verify(0).await;
    assert!(report.problems[0].what.contains("do not agree with their entries"), "{:?}", report.problems);
}

async fn uploads_that_never_ended_are_discarded(test: TestDb) {
    let env = RecordingEnv::new(test).await;
    let db = &env.test.db;
    let server = S3Server::start().await;
    let store = store_at(RecordingPlace::Bucket("s3://bucket/some/prefix".to_owned()), server.options());
    let mut upload = store.begin().await.unwrap();
    let mut partial = None;
    for _ in 0..20 {
        partial = upload.write(&Bytes::from(vec![7; 1 << 20])).await.unwrap().or(partial);
    }
    let partial = partial.expect("an upload in parts");
    let row = UploadRow {
        object: partial.name.clone(),
        upload_id: partial.upload_id,
        owner: "me".to_owned(),
        started: env.now,
    };
    db.record_upload(&row).await.unwrap();
    // As after a crash.
    drop(upload);
    assert_eq!((server.bucket.open_uploads(), server.bucket.open_parts()), (1, 2));
    let discard =
        async |owner, started, at| sweep::discard_dead_uploads(db, &store, owner, (started, false), at).await.unwrap();
    let later = env.now + MINUTE;
    assert_eq!(discard("other", Some(later), later).await, 0, "another replica may still be at it");
    assert_eq!(discard("me", None, later).await, 0);
    assert_eq!(discard("me", Some(later), later).await, 1);
    assert_eq!((server.bucket.open_uploads(), db.open_uploads(Time(i64::MAX)).await.unwrap().len()), (0, 0));
    // In a folder, a file is left.
    let upload = env.store.begin().await.unwrap();
    let left = env.root().join(".uploads/recording-dead.part");
    std::fs::write(&left, "half").unwrap();
    let started = Some(now() + MINUTE);
    assert_eq!(sweep::discard_dead_uploads(db, &env.store, "me", (None, true), now()).await.unwrap(), 0);
    assert_eq!(sweep::discard_dead_uploads(db, &env.store, "me", (started, true), now()).await.unwrap(), 2);
    drop(upload);
    assert!(!left.exists());
}

async fn earlier_programs_are_shut_out_once_recordings_are_requested(test: TestDb) {
    let oldest = async || {
        let stmt = sql("select value from meta where key = 'schema.oldest_writer'");
        test.db.value::<String>(stmt).await.unwrap()
    };
    let before = oldest().await;
    assert!(before.clone().is_some_and(|before| before.parse::<i64>().unwrap() < 35), "{before:?}");
    test.db.require_recording_support().await.unwrap();
    test.db.require_recording_support().await.unwrap();
    assert_eq!(oldest().await.as_deref(), Some("35"));
}

async fn a_notice_with_the_item_of_a_recording_gets_its_own(test: TestDb) {
    let db = &test.db;
    // Two failed deliveries about segment 5, as a program from before recordings and this one record them.
    let notice = sql("insert into feed_notice (account, feed, kind, segment, version, at) values (1, 7, 0, 5, 1, 0)");
    db.run(notice).await.unwrap();
    let failed = sql("insert into sink_event
             (sink, account, feed, item, state, tries, waited, first_try, last_try, due, reason)
             values (1, 1, 7, 23, 0, 1, 0, 0, 0, 0, 'x'), (1, 1, 8, 23, 0, 1, 0, 0, 0, 0, 'x')");
    db.run(failed).await.unwrap();
    db.require_recording_support().await.unwrap();
    let items: Vec<i64> = db.values(sql("select item from sink_event order by feed")).await.unwrap();
    assert_eq!(items, [-21, 23], "the second is a recording");
}

#[tokio::test]
async fn a_bucket_holds_short_and_long_recordings_under_their_hash_and_reads_ranges() {
    let server = S3Server::start().await;
    let store = store_at(RecordingPlace::Bucket("s3://bucket/some/prefix".to_owned()), server.options());
    let long: Vec<u8> = (0..20_000_000_u32).map(|number| (number >> 8) as u8).collect();
    for audio in [b"short".as_slice(), &long] {
        let facts = put(&store, audio).await;
        let name = facts.object_name();
        assert_eq!(facts.size, audio.len() as u64);
        assert!(server.bucket.object(&format!("some/prefix/{name}")).unwrap() == audio);
        assert_eq!(store.size(&name).await.unwrap(), Some(audio.len() as u64));
        assert!(read(&store, &name, Some(1..4)).await == audio[1..4]);
        store.delete(&name).await.unwrap();
        store.delete(&name).await.unwrap();
        assert_eq!(store.size(&name).await.unwrap(), None);
        assert!(store.read(&name, None).await.err().unwrap().is_missing());
    }
    assert_eq!((server.bucket.names(), server.bucket.open_uploads()), (Vec::new(), 0));
    let mut upload = store.begin().await.unwrap();
    upload.write(&Bytes::from(long)).await.unwrap();
    upload.discard().await.unwrap();
    assert_eq!(server.bucket.open_uploads(), 0);
}

#[tokio::test]
async fn a_read_from_a_bucket_goes_on_where_its_response_broke_off() {
    let server = S3Server::start().await;
    let store = store_at(RecordingPlace::Bucket("s3://bucket/some/prefix".to_owned()), server.options());
    let audio: Vec<u8> = (0..100_000_u32).map(|number| (number >> 4) as u8).collect();
    let name = put(&store, &audio).await.object_name();
    // More often than the client of the bucket itself goes on.
    server.bucket.cut_after.store(10_000, Ordering::Relaxed);
    assert!(read(&store, &name, None).await == audio);
    assert!(read(&store, &name, Some(5..90_000)).await == audio[5..90_000]);
}

#[tokio::test]
async fn a_name_from_a_damaged_database_cannot_lead_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    let store = folder_store(folder.path().join("audio"));
    for name in ["../secret", "/etc/passwd", "a/../../secret", "..", "secret"] {
        assert!(store.read(name, None).await.is_err() && store.delete(name).await.is_err(), "{name}");
    }
    assert!(folder.path().join("secret").exists());
}
