//! The work queue on both databases: ingested, claimed and completed items, and that no result counts twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use bytes::Bytes;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{
    AccountRow, ArtifactStatus, Claim, CompletedJob, Db, DbError, ExportRange, IngestSummary, JobOutcome, Lease,
    MetadataChunk, QueueFilter, SavedThrottle, WindowRead, sql,
};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, ItemState, Lane, QuarantinedRecord, SegmentRecord,
    SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::ringcx::rate_limit::{ReservationStore, SlidingWindowLimiter};
use std::collections::BTreeMap;
use std::time::Duration;
use support::TestDb;

crate::on_both! {
    announced_segments_are_queued_once,
    a_transcript_that_turns_true_is_queued_and_remembered,
    an_answer_is_archived_once_and_ends_its_work,
    a_commit_reported_as_failed_may_come_again_though_a_visit_is_due,
    a_result_of_an_earlier_owner_does_not_count,
    a_row_that_cannot_be_is_an_error_that_names_it,
    a_failure_waits_and_leaves_its_story,
    what_was_put_off_is_taken_back_to_where_its_backoff_had_it,
    a_revisit_keeps_versions,
    coverage_merges,
    export_order_is_by_end_account_and_id,
    reservations_keep_a_sliding_window,
    what_a_refusal_asked_for_is_kept_until_the_next,
    a_refusal_from_before_the_clock_was_set_back_lasts_no_longer_than_it_would_have,
    records_set_aside_are_kept_and_settled,
    thousands_at_once,
    what_the_vendor_soon_deletes_goes_first,
    a_thousand_accounts_are_enrolled_once_and_renamed,
}

const NOW: Time = Time(1_800_000_000_000);
const ALL_ARTIFACTS: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

fn record(id: &str, ended: i64, has_transcript: bool) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: Some(Time(ended)),
        has_transcript,
        is_agent: true,
        has_recording: false,
        raw: format!(r#"{{"segmentId":"{id}","hasTranscript":{has_transcript},"unknown":[1,null]}}"#),
    }
}

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn ingest(db: &Db, owned: Lease, lane: Lane, records: &[SegmentRecord]) -> IngestSummary {
    let known = TimeRangeSet::default();
    let stretch = TimeRange { from: Time(0), to: NOW };
    let chunk = MetadataChunk {
        lease: owned,
        lane,
        range: stretch,
        now: NOW,
        wants: ALL_ARTIFACTS,
        already_read: &known,
        urgent_before: Some(Time(3)),
        quarantine_retry_delay: Duration::from_secs(60),
        records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap()
}

async fn due_claims(db: &Db, owned: Lease, now: Time) -> Vec<Claim> {
    db.due_items(owned, ArtifactSet::ALL, now, 5000).await.unwrap()
}

fn answered_result(claim: Claim, body: &str) -> CompletedJob {
    CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&Bytes::copy_from_slice(body.as_bytes()), None) }
}

async fn announced_segments_are_queued_once(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let records = [record("one", 5, true), record("two", 6, false), record("one", 5, true)];
    let first = ingest(&test.db, owned, Lane::Live, &records).await;
    assert_eq!((first.segments, first.added, first.queued), (2, 2, 3));
    let again = ingest(&test.db, owned, Lane::Recheck, &records).await;
    assert_eq!((again.added, again.changed, again.queued), (0, 0, 0));
    assert_eq!((first.digest_high, first.digest_low), (again.digest_high, again.digest_low));
    let held = due_claims(&test.db, owned, NOW).await;
    assert_eq!(held.len(), 3);
    assert!(held.iter().all(|claim| claim.segment_id == "one" && claim.dialog_id.as_deref() == Some("d-one")));
}

async fn a_transcript_that_turns_true_is_queued_and_remembered(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, false)]).await;
    let flipped = ingest(&test.db, owned, Lane::Recheck, &[record("one", 5, true)]).await;
    assert_eq!((flipped.changed, flipped.flipped, flipped.queued), (1, 1, 3));
    // Back to false cancels nothing, and true again queues nothing twice.
    ingest(&test.db, owned, Lane::Recheck, &[record("one", 5, false)]).await;
    let again = ingest(&test.db, owned, Lane::Recheck, &[record("one", 5, true)]).await;
    assert_eq!(again.queued, 0);
    assert_eq!(due_claims(&test.db, owned, NOW).await.len(), 3);
    let segment = test.db.segments_by_id("one").await.unwrap().remove(0);
    let changes = test.db.metadata_changes(segment.key).await.unwrap();
    assert_eq!(changes[0].what, "hasTranscript turned true");
    assert!(changes[0].metadata.contains("false") && segment.metadata.contains("true"));
}

async fn an_answer_is_archived_once_and_ends_its_work(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let batch: Vec<CompletedJob> = due_claims(&test.db, owned, NOW)
        .await
        .into_iter()
        .map(|claim| answered_result(claim, r#"{"transcript":[]}"#))
        .collect();
    assert_eq!(test.db.complete_jobs(&batch).await.unwrap(), [true, true, true]);
    // The commit that succeeded but was reported as failed is settled again.
    assert_eq!(test.db.complete_jobs(&batch).await.unwrap(), [false, false, false]);
    assert!(due_claims(&test.db, owned, NOW).await.is_empty());
    let account = &test.db.accounts().await.unwrap()[0];
    assert_eq!((account.done, account.feed), (3, 3));
    let segments = test.db.segments_after(ExportRange::default(), None, 10).await.unwrap();
    let slots = test.db.segment_artifacts(&segments).await.unwrap();
    let [texts @ .., recording] = &slots[0];
    assert!(texts.iter().all(|slot| slot.status == ArtifactStatus::Stored(br#"{"transcript":[]}"#.to_vec())));
    assert_eq!(recording.status, ArtifactStatus::NotRequested);
    // Read again in a backfill, nothing is fetched twice.
    assert_eq!(ingest(&test.db, owned, Lane::Backfill, &[record("one", 5, true)]).await.queued, 0);
}

async fn a_commit_reported_as_failed_may_come_again_though_a_visit_is_due(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let later = NOW + Duration::from_secs(86_400);
    for (text, visit) in [("first", 0), ("second", 1)] {
        let claim =
            due_claims(&test.db, owned, later).await.into_iter().find(|claim| claim.artifact == Artifact::AutoSummary);
        let claim = claim.unwrap();
        assert_eq!(claim.visit, visit);
        let settlement = JobOutcome::stored(&Bytes::from_static(text.as_bytes()), Some(later));
        let batch = [CompletedJob { claim, at: NOW, outcome: settlement }];
        assert_eq!(test.db.complete_jobs(&batch).await.unwrap(), [true]);
        assert_eq!(test.db.complete_jobs(&batch).await.unwrap(), [false]);
    }
    let visits = due_claims(&test.db, owned, later).await;
    let visit = visits.iter().find(|claim| claim.artifact == Artifact::AutoSummary).unwrap();
    assert_eq!(visit.visit, 2);
    let account = &test.db.accounts().await.unwrap()[0];
    assert_eq!((account.done, account.feed), (1, 2));
}

async fn a_result_of_an_earlier_owner_does_not_count(test: TestDb) {
    let before = acquire_account(&test.db, "a").await;
    ingest(&test.db, before, Lane::Live, &[record("one", 5, true)]).await;
    let claim = due_claims(&test.db, before, NOW).await.remove(0);
    let after = acquire_account(&test.db, "a").await;
    assert!(after.epoch > before.epoch);
    assert_eq!(test.db.complete_jobs(&[answered_result(claim, "late")]).await.unwrap(), [false]);
    assert_eq!(due_claims(&test.db, after, NOW).await.len(), 3);
    let known = TimeRangeSet::default();
    let chunk = MetadataChunk {
        lease: before,
        lane: Lane::Live,
        range: TimeRange { from: Time(0), to: NOW },
        now: NOW,
        wants: ALL_ARTIFACTS,
        already_read: &known,
        urgent_before: Some(Time(3)),
        quarantine_retry_delay: Duration::from_secs(60),
        records: &[record("two", 6, true)],
        quarantined: &[],
    };
    assert!(test.db.ingest_chunk(chunk).await.is_err());
    assert!(test.db.segments_by_id("two").await.unwrap().is_empty());
}

async fn what_was_put_off_is_taken_back_to_where_its_backoff_had_it(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let hour = Duration::from_secs(3600);
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, true), record("two", 6, true), record("old", 7, true)])
        .await;
    let claims = due_claims(&test.db, owned, NOW).await;
    let only = |name: &str| {
        let found = claims.iter().find(|claim| claim.segment_id == name && claim.artifact == Artifact::Transcript);
        found.unwrap().clone()
    };
    let failed = |claim: Claim, due: Time| {
        let (reason, status) = ("not there".to_owned(), Some(404));
        CompletedJob {
            claim,
            at: NOW,
            outcome: JobOutcome::Failed {
                state: ItemState::Open,
                due,
                misses: 1,
                refusals: 0,
                status,
                reason,
                broken: None,
            },
        }
    };
    let put_off = |claim: Claim| {
        let first_try = claim.first_try;
        CompletedJob { claim, at: NOW, outcome: JobOutcome::Deferred { due: NOW + 6 * hour, first_try } }
    };
    // One item was never tried, one was tried three times, and one was tried once and is due soon anyway.
    test.db.complete_jobs(&[put_off(only("one"))]).await.unwrap();
    test.db.complete_jobs(&[failed(Claim { tries: 2, ..only("two") }, NOW + Duration::from_secs(1))]).await.unwrap();
    let tried = test.db.due_items(owned, ArtifactSet::ALL, NOW + Duration::from_secs(1), 10).await.unwrap();
    let two =
        tried.into_iter().find(|claim| claim.segment_id == "two" && claim.artifact == Artifact::Transcript).unwrap();
    assert_eq!(two.tries, 3);
    test.db.complete_jobs(&[put_off(two)]).await.unwrap();
    test.db.complete_jobs(&[failed(only("old"), NOW + Duration::from_secs(9))]).await.unwrap();

    let now = NOW + Duration::from_secs(20);
    let back = test.db.undo_deferrals(owned.account, Artifact::Transcript, now, Duration::from_secs(15)).await.unwrap();
    assert_eq!(back, 2);
    let due = |items: Vec<Claim>| -> Vec<String> {
        items.into_iter().filter(|claim| claim.artifact == Artifact::Transcript).map(|claim| claim.segment_id).collect()
    };
    let mut ready = due(test.db.due_items(owned, ArtifactSet::ALL, now, 10).await.unwrap());
    ready.sort_unstable();
    assert_eq!(ready, ["old", "one"]);
    let minute = due(test.db.due_items(owned, ArtifactSet::ALL, NOW + Duration::from_secs(60), 10).await.unwrap());
    assert!(minute.contains(&"two".to_owned()), "the delay after a third try is four times the first");
    let sooner = due(test.db.due_items(owned, ArtifactSet::ALL, NOW + Duration::from_secs(59), 10).await.unwrap());
    assert!(!sooner.contains(&"two".to_owned()));
}

/// An invalid row is never skipped silently: the work or the segment behind it would be forgotten.
async fn a_row_that_cannot_be_is_an_error_that_names_it(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let set = async |statement: &'static str| test.db.run(sql(statement)).await.unwrap();
    // The tables refuse such rows; a damaged file may contain them.
    if matches!(test.db, Db::Postgres(_)) {
        set("alter table work drop constraint work_lane_check, drop constraint work_state_check").await;
        set("alter table segment drop constraint segment_asked_check").await;
    } else {
        set("pragma ignore_check_constraints = on").await;
    }
    let names = |error: DbError, column: &str| {
        assert!(error.to_string().contains(column) && error.hint().is_some(), "{error}");
    };
    set("update work set lane = 9").await;
    names(test.db.queue_rows(&QueueFilter::default()).await.unwrap_err(), "work.lane");
    set("update work set lane = 0, state = 9").await;
    names(test.db.queue_rows(&QueueFilter::default()).await.unwrap_err(), "work.state");
    let segments = test.db.segments_after(ExportRange::default(), None, 10).await.unwrap();
    names(test.db.segment_artifacts(&segments).await.unwrap_err(), "work.state");
    let mut report = test.db.snapshot().await.unwrap();
    names(report.unfinished_items(ExportRange::default()).await.unwrap_err(), "work.state");
    set("update segment set asked = 64").await;
    let known = TimeRangeSet::default();
    let records = [record("one", 5, true)];
    let stretch = TimeRange { from: Time(0), to: NOW };
    let (repair, urgent_before) = (Duration::from_secs(60), None);
    let (lane, now, wants) = (Lane::Recheck, NOW, ALL_ARTIFACTS);
    let (records, asides) = (&records[..], &[][..]);
    let chunk = MetadataChunk {
        lease: owned,
        lane,
        range: stretch,
        now,
        wants,
        already_read: &known,
        urgent_before,
        quarantine_retry_delay: repair,
        records,
        quarantined: asides,
    };
    names(test.db.ingest_chunk(chunk).await.unwrap_err(), "segment.asked");
}

async fn a_failure_waits_and_leaves_its_story(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let due = NOW + Duration::from_secs(30);
    for nth in 1..=20 {
        let at = NOW + Duration::from_secs(30 * nth);
        let claim = due_claims(&test.db, owned, at)
            .await
            .into_iter()
            .find(|claim| claim.artifact == Artifact::Transcript)
            .unwrap();
        assert_eq!(u64::from(claim.tries), nth - 1);
        let settlement = JobOutcome::Failed {
            state: ItemState::Open,
            due: due + Duration::from_secs(30 * nth),
            misses: claim.misses + 1,
            refusals: 0,
            status: Some(404),
            reason: "not there yet".to_owned(),
            broken: None,
        };
        assert_eq!(test.db.complete_jobs(&[CompletedJob { claim, at, outcome: settlement }]).await.unwrap(), [true]);
        assert_eq!(
            test.db.next_due(owned.account, ArtifactSet::NONE.with(Artifact::Transcript), at).await.unwrap(),
            Some(due + Duration::from_secs(30 * nth))
        );
    }
    let segment = test.db.segments_by_id("one").await.unwrap().remove(0);
    let attempts = test.db.attempts(segment.key).await.unwrap();
    assert_eq!((attempts.len(), attempts.first().unwrap().nth, attempts.last().unwrap().nth), (16, 5, 20));
    let queue = test
        .db
        .queue_rows(&QueueFilter { artifact: Some(Artifact::Transcript), ..QueueFilter::default() })
        .await
        .unwrap();
    assert_eq!((queue[0].tries, queue[0].status), (20, Some(404)));
    // `queue retry` makes it due at once with a new horizon; then it is discarded.
    let filter = QueueFilter {
        segment_id: Some("one".to_owned()),
        artifact: Some(Artifact::Transcript),
        ..QueueFilter::default()
    };
    assert_eq!(test.db.retry_items(&filter, NOW).await.unwrap(), 1);
    let claim = due_claims(&test.db, owned, NOW)
        .await
        .into_iter()
        .find(|claim| claim.artifact == Artifact::Transcript)
        .unwrap();
    assert_eq!((claim.tries, claim.first_try), (0, None));
    assert_eq!(test.db.discard_items(&filter, "asked for", NOW).await.unwrap(), 1);
    // A discarded item stays discarded, also if a request was in flight.
    assert_eq!(test.db.complete_jobs(&[answered_result(claim, "late")]).await.unwrap(), [false]);
    let counts = test.db.queue_counts(NOW).await.unwrap();
    assert_eq!((counts[&owned.account].discarded, counts[&owned.account].ready), (1, 2));
}

async fn a_revisit_keeps_versions(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let later = NOW + Duration::from_secs(86_400);
    for text in ["first", "first", "second"] {
        let claim = due_claims(&test.db, owned, later)
            .await
            .into_iter()
            .find(|claim| claim.artifact == Artifact::AgentSummary)
            .unwrap();
        let settlement = JobOutcome::stored(&Bytes::from_static(text.as_bytes()), Some(later));
        assert_eq!(
            test.db.complete_jobs(&[CompletedJob { claim, at: NOW, outcome: settlement }]).await.unwrap(),
            [true]
        );
    }
    let segment = test.db.segments_by_id("one").await.unwrap();
    let versions = test.db.artifact_versions(segment[0].key).await.unwrap();
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        test.db.segment_artifacts(&segment).await.unwrap()[0][1].status,
        ArtifactStatus::Stored(b"second".to_vec())
    );
    let account = &test.db.accounts().await.unwrap()[0];
    assert_eq!((account.done, account.feed), (1, 2));
    // A refresh is not unfinished work.
    let counts = test.db.queue_counts(later).await.unwrap();
    assert_eq!(counts[&owned.account].ready, 2);
}

async fn coverage_merges(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    for (from, to) in [(0, 900), (300, 1200), (5000, 6000), (1200, 1500)] {
        let stretch = TimeRange { from: Time::from_secs(from), to: Time::from_secs(to) };
        let reading = WindowRead {
            at: NOW,
            done: NOW,
            lane: Lane::Live,
            range: stretch,
            summary: IngestSummary::default(),
            purposes: vec![("live".to_owned(), stretch)],
            finished: Vec::new(),
        };
        test.db.record_window_read(owned, &reading).await.unwrap();
    }
    let held = test.db.coverage(owned.account).await.unwrap();
    let secs: Vec<(i64, i64)> =
        held.iter().map(|(_, stretch)| (stretch.from.floor_secs(), stretch.to.floor_secs())).collect();
    assert_eq!(secs, [(0, 1500), (5000, 6000)]);
    let range = TimeRange { from: Time(0), to: Time(1000) };
    let id = test.db.request_backfill(owned.account, range, true, NOW).await.unwrap();
    assert_eq!(test.db.backfills(None, false).await.unwrap()[0].id, id);
    assert_eq!(test.db.init_purpose_base(owned.account, "recheck:60", Time(7)).await.unwrap(), Time(7));
    assert_eq!(test.db.init_purpose_base(owned.account, "recheck:60", Time(9)).await.unwrap(), Time(7));
    assert_eq!(test.db.init_live_start(owned.account, Time(1)).await.unwrap(), Time(1));
    assert_eq!(test.db.init_live_start(owned.account, Time(2)).await.unwrap(), Time(1));
}

async fn export_order_is_by_end_account_and_id(test: TestDb) {
    let (b, a) = (acquire_account(&test.db, "b").await, acquire_account(&test.db, "a").await);
    let unknown = SegmentRecord { end: None, ..record("z", 0, false) };
    ingest(&test.db, b, Lane::Live, &[record("x", 10, false), record("ä", 10, false), unknown]).await;
    ingest(&test.db, a, Lane::Live, &[record("y", 10, false), record("Y", 10, false), record("w", 5, false)]).await;
    let mut order = Vec::new();
    let mut last = None;
    loop {
        let page = test.db.segments_after(ExportRange::default(), last.as_ref(), 2).await.unwrap();
        let Some(end) = page.last().cloned() else { break };
        order.extend(page.iter().map(|segment| format!("{}{}", segment.account.sub, segment.segment_id)));
        last = Some(end);
    }
    assert_eq!(order, ["bz", "aw", "aY", "ay", "bx", "bä"]);
    let range = ExportRange { from: Some(Time(5)), to: Some(Time(10)), account: None };
    assert_eq!(test.db.segments_after(range, None, 10).await.unwrap().len(), 1);
}

async fn reservations_keep_a_sliding_window(test: TestDb) {
    let limits = SlidingWindowLimiter::new([(3, Duration::from_secs(60))]);
    // Postgres uses its own clock and answers in the caller's time, so the caller's clock must run.
    let clock = ringcx_extractor::clock::Clock::system();
    let now = || if matches!(test.db, Db::Postgres(_)) { clock.now() } else { NOW };
    let before = now();
    let mut first = None;
    for _ in 0..3 {
        let id = test.db.try_reserve("k", &limits, now()).await.unwrap().expect("room");
        test.db.mark_counted(id, now()).await.unwrap();
        first.get_or_insert_with(now);
    }
    let asked = now();
    let due = test.db.try_reserve("k", &limits, asked).await.unwrap().expect_err("no room");
    // A minute after the first was counted, or earlier by the time that the call took, because that cannot be told apart from a
    // difference between the clocks. A caller that is too early gets another time.
    let took = now().since(asked);
    let (earliest, latest) = (before + Duration::from_secs(60) - took, first.unwrap() + Duration::from_secs(62));
    assert!((earliest..latest).contains(&due), "{due} is not in {earliest} to {latest}");
    assert!(test.db.try_reserve("other", &limits, now()).await.unwrap().is_ok());
    assert_eq!(test.db.effective_times("k", Time(0)).await.unwrap().len(), 3);
}

async fn what_a_refusal_asked_for_is_kept_until_the_next(test: TestDb) {
    let clock = ringcx_extractor::clock::Clock::system();
    let now = clock.now();
    let first = SavedThrottle { at: now, until: now + Duration::from_secs(90), times: 2, rate_share_ppm: 475_000 };
    test.db.save_throttle("requests:a", &first, now).await.unwrap();
    test.db.save_throttle("requests:a", &SavedThrottle { times: 3, ..first }, clock.now()).await.unwrap();
    test.db.save_throttle("metadata:a", &first, clock.now()).await.unwrap();
    let kept = test.db.saved_throttles(clock.now()).await.unwrap();
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["metadata:a", "requests:a"]);
    let one = kept["requests:a"];
    assert_eq!((one.times, one.rate_share_ppm), (3, 475_000));
    // Converted to the database's clock and back.
    let off = one.until.0.abs_diff(first.until.0);
    assert!(off < 5_000, "{off} ms off");
    assert_eq!(one.until.since(one.at), Duration::from_secs(90));
}

async fn a_refusal_from_before_the_clock_was_set_back_lasts_no_longer_than_it_would_have(test: TestDb) {
    let now = ringcx_extractor::clock::Clock::system().now();
    let ahead = now + Duration::from_secs(7200);
    let refusal =
        SavedThrottle { at: ahead, until: ahead + Duration::from_secs(30), times: 1, rate_share_ppm: 1_000_000 };
    test.db.save_throttle("requests:a", &refusal, now).await.unwrap();
    let kept = test.db.saved_throttles(now).await.unwrap()["requests:a"];
    assert_eq!((kept.at, kept.until), (now, now + Duration::from_secs(30)));
}

async fn records_set_aside_are_kept_and_settled(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let aside =
        QuarantinedRecord { segment_id: None, reason: "segmentId is missing".to_owned(), raw: "{\"x\":1}".to_owned() };
    let known = TimeRangeSet::default();
    let stretch = TimeRange { from: Time(0), to: Time(60_000) };
    for _ in 0..2 {
        let chunk = MetadataChunk {
            lease: owned,
            lane: Lane::Live,
            range: stretch,
            now: NOW,
            wants: ALL_ARTIFACTS,
            already_read: &known,
            urgent_before: Some(Time(3)),
            quarantine_retry_delay: Duration::from_secs(60),
            records: &[],
            quarantined: std::slice::from_ref(&aside),
        };
        assert_eq!(test.db.ingest_chunk(chunk).await.unwrap().quarantined, 1);
    }
    let held = test.db.quarantined_records(10).await.unwrap();
    assert_eq!((held.len(), held[0].times, held[0].raw.as_slice()), (1, 2, b"{\"x\":1}".as_slice()));
    assert_eq!(test.db.quarantined_windows(owned.account).await.unwrap(), [(stretch, NOW + Duration::from_secs(120))]);
    let later = NOW + Duration::from_secs(200);
    let reading = WindowRead {
        at: later,
        done: later,
        lane: Lane::Recheck,
        range: stretch,
        summary: IngestSummary::default(),
        purposes: Vec::new(),
        finished: Vec::new(),
    };
    test.db.record_window_read(owned, &reading).await.unwrap();
    assert!(test.db.quarantined_records(10).await.unwrap().is_empty());
}

async fn thousands_at_once(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let records: Vec<SegmentRecord> = (0..3000).map(|n| record(&format!("s{n}"), n, true)).collect();
    let stored = ingest(&test.db, owned, Lane::Live, &records).await;
    assert_eq!((stored.added, stored.queued), (3000, 9000));
    let held = due_claims(&test.db, owned, NOW).await;
    assert_eq!(held.len(), 9000);
    let batch: Vec<CompletedJob> = held.into_iter().map(|claim| answered_result(claim, "x")).collect();
    assert!(test.db.complete_jobs(&batch).await.unwrap().iter().all(|counted| *counted));
    assert_eq!(test.db.accounts().await.unwrap()[0].done, 9000);
}

async fn what_the_vendor_soon_deletes_goes_first(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    ingest(&test.db, owned, Lane::Live, &[record("young", 9, true), record("old", 2, true)]).await;
    let held = test.db.due_items(owned, ArtifactSet::NONE.with(Artifact::Transcript), NOW, 1).await.unwrap();
    assert_eq!(held[0].segment_id, "old");
}

async fn a_thousand_accounts_are_enrolled_once_and_renamed(test: TestDb) {
    let db = &test.db;
    let wanted = |from: u32, name: Option<&str>| -> BTreeMap<AccountId, Option<String>> {
        (from..1000).map(|sub| (AccountId::new("1", sub.to_string()), name.map(str::to_owned))).collect()
    };
    let first = db.register_accounts(&wanted(0, Some("before")), NOW).await.unwrap();
    assert_eq!(first.len(), 1000);
    // Without a name, the known one stays. Accounts that were not requested are not returned.
    let second = db.register_accounts(&wanted(400, None), NOW).await.unwrap();
    assert!(second.len() == 600 && second.iter().all(|row| row.name.as_deref() == Some("before")));
    let third = db.register_accounts(&wanted(0, Some("after")), NOW).await.unwrap();
    let keys = |rows: &[AccountRow]| rows.iter().map(|row| row.key).collect::<Vec<_>>();
    assert_eq!(keys(&first), keys(&third), "an account keeps its number");
    assert!(third.iter().all(|row| row.name.as_deref() == Some("after")));
}
