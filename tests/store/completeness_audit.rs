//! `audit` on both databases: a complete archive passes, and it names exactly what is removed by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use bytes::Bytes;
use ringcx_extractor::audit::{self, AuditProblemKind, AuditReport, AuditRequest, GapCause, Rfc3339Time};
use ringcx_extractor::clock::Time;
use ringcx_extractor::daemon::consistency_check::check_consistency;
use ringcx_extractor::db::{
    ArtifactTally, CompletedJob, Db, ExportRange, IngestSummary, JobOutcome, Lease, MetadataChunk, QueueFilter,
    WindowRead, sql,
};
use ringcx_extractor::health::{FindingCode, FindingRegistry, Severity};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, ItemState, Lane, QuarantinedRecord, SegmentRecord,
    SummariesFor, TimeRange, TimeRangeSet,
};
use std::time::Duration;
use support::TestDb;

crate::on_both! {
    a_whole_archive_is_complete,
    a_stretch_taken_out_of_coverage_is_named_exactly,
    a_segment_taken_out_is_missed_by_its_day,
    a_segment_in_the_place_of_another_is_noticed,
    an_artifact_taken_out_is_unexplained,
    what_an_audit_counts_is_a_finding_of_the_daemon,
    an_account_whose_newest_manifest_is_of_a_day_to_come_is_known,
    what_gave_up_is_told_apart,
    what_could_not_be_understood_is_told_until_it_is_settled,
    a_range_counts_what_ended_in_it,
    a_snapshot_stays_as_it_was,
    thousands_are_recounted_page_by_page,
}

const DAY: i64 = 86_400_000;
/// Noon, 20,000 days after 1970.
const NOON: Time = Time(20_000 * DAY + DAY / 2);
const ALL_ARTIFACTS: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

fn minutes_before_noon(minutes: i64) -> Time {
    NOON.plus_millis(-minutes * 60_000)
}

fn record(id: &str, end: Option<Time>, has_transcript: bool) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end,
        has_transcript,
        is_agent: true,
        has_recording: false,
        raw: format!(r#"{{"segmentId":"{id}","hasTranscript":{has_transcript}}}"#),
    }
}

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOON).await.unwrap();
    db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOON).await.unwrap().remove(0)
}

async fn ingest(db: &Db, owned: Lease, records: &[SegmentRecord], asides: &[QuarantinedRecord]) -> IngestSummary {
    let known = TimeRangeSet::default();
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: minutes_before_noon(120), to: minutes_before_noon(6) },
        now: NOON,
        wants: ALL_ARTIFACTS,
        already_read: &known,
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records,
        quarantined: asides,
    };
    db.ingest_chunk(chunk).await.unwrap()
}

async fn record_read(db: &Db, owned: Lease, stretch: TimeRange, announced: IngestSummary) {
    let reading = WindowRead {
        at: NOON,
        done: NOON,
        lane: Lane::Live,
        range: stretch,
        summary: announced,
        purposes: vec![("live".to_owned(), stretch)],
        finished: Vec::new(),
    };
    db.record_window_read(owned, &reading).await.unwrap();
}

/// Two accounts with two hours of coverage. One has four segments: three with a transcript, one of these without an end time.
/// The other has none. Everything is fetched; one summary is empty.
async fn complete_archive(db: &Db) -> Lease {
    let (first, second) = (acquire_account(db, "10").await, acquire_account(db, "20").await);
    let records = [
        record("one", Some(minutes_before_noon(100)), true),
        record("two", Some(minutes_before_noon(50)), true),
        record("three", None, true),
        record("four", Some(minutes_before_noon(10)), false),
    ];
    let announced = ingest(db, first, &records, &[]).await;
    for (owned, announced) in [(first, announced), (second, IngestSummary::default())] {
        db.init_live_start(owned.account, minutes_before_noon(120)).await.unwrap();
        record_read(db, owned, TimeRange { from: minutes_before_noon(120), to: minutes_before_noon(6) }, announced)
            .await;
    }
    let claims = db.due_items(first, ArtifactSet::ALL, NOON, 100).await.unwrap();
    let batch: Vec<CompletedJob> = claims
        .into_iter()
        .map(|claim| {
            let empty = claim.segment_id == "two" && claim.artifact == Artifact::AutoSummary;
            let body = Bytes::from_static(b"text");
            let settlement = if empty {
                JobOutcome::not_populated(None)
            } else {
                JobOutcome::stored(&body, Some(NOON + Duration::from_secs(60)))
            };
            CompletedJob { claim, at: NOON, outcome: settlement }
        })
        .collect();
    assert_eq!(batch.len(), 9);
    assert!(db.complete_jobs(&batch).await.unwrap().iter().all(|counted| *counted));
    first
}

fn question() -> AuditRequest {
    AuditRequest {
        from: None,
        to: None,
        starts_with_first_read: false,
        account: None,
        now: NOON,
        offset: Duration::from_secs(300),
        interval: Duration::from_secs(300),
        configured: Vec::new(),
    }
}

async fn run_audit(db: &Db) -> AuditReport {
    audit::run_audit(db, &question()).await.unwrap()
}

/// Runs `audit` and asserts that it finds exactly one problem.
async fn assert_only_problem(db: &Db, kind: AuditProblemKind) -> AuditReport {
    let answer = run_audit(db).await;
    assert!(!answer.complete);
    let kinds: Vec<AuditProblemKind> = answer.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [kind], "{:?}", answer.problems);
    answer
}

async fn a_whole_archive_is_complete(test: TestDb) {
    complete_archive(&test.db).await;
    let answer = run_audit(&test.db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!(answer.accounts.len(), 2);
    let account = &answer.accounts[0];
    assert_eq!((account.segments.announced, account.segments.with_transcript), (4, 3));
    let counts: Vec<_> =
        account.artifacts.iter().map(|of| (of.asked, of.stored, of.not_populated, of.not_requested)).collect();
    assert_eq!(counts, [(3, 3, 0, 1), (3, 3, 0, 1), (3, 2, 1, 1)]);
    assert_eq!((account.ledger.announced, account.ledger.held, account.ledger.days), (4, 4, 2));
    assert_eq!(account.watermark, Some(Rfc3339Time(minutes_before_noon(6))));
    assert_eq!((account.reads.len(), account.reads[0].announced, account.reads[0].added), (1, 4, 4));
    assert_eq!(answer.accounts[1].segments.announced, 0);
    // One account, and an account that does not exist.
    let alone =
        audit::run_audit(&test.db, &AuditRequest { account: Some("20".to_owned()), ..question() }).await.unwrap();
    assert!(alone.complete && alone.accounts.len() == 1);
    let nobody =
        audit::run_audit(&test.db, &AuditRequest { account: Some("30".to_owned()), ..question() }).await.unwrap();
    assert!(!nobody.complete);
}

async fn a_stretch_taken_out_of_coverage_is_named_exactly(test: TestDb) {
    let owned = complete_archive(&test.db).await;
    let (from, to) = (minutes_before_noon(60), minutes_before_noon(45));
    let cut = sql("update coverage set to_ms = $2 where account = $1 and pass = 'live'");
    test.db.run(cut.bind(owned.account).bind(from)).await.unwrap();
    let rest = sql(
        "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values ($1, 'live', $2, $3, 1, $3, $3)",
    );
    test.db.run(rest.bind(owned.account).bind(to).bind(minutes_before_noon(6))).await.unwrap();
    let answer = assert_only_problem(&test.db, AuditProblemKind::Gap).await;
    let gaps = &answer.accounts[0].gaps;
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].from, gaps[0].to, gaps[0].cause), (Rfc3339Time(from), Rfc3339Time(to), GapCause::NeverRead));
    assert!(answer.problems[0].what.contains("2024-10-04T11:00:00Z to 2024-10-04T11:15:00Z"), "{:?}", answer.problems);
    // A backfill of the range becomes the gap's cause.
    let range = TimeRange { from, to };
    let backfill = test.db.request_backfill(owned.account, range, true, NOON).await.unwrap();
    assert_eq!(run_audit(&test.db).await.accounts[0].gaps[0].cause, GapCause::BeingBackfilled);
    // Once the range is read and the backfill cancelled, nothing is missing.
    record_read(&test.db, owned, range, IngestSummary::default()).await;
    assert_only_problem(&test.db, AuditProblemKind::Backfill).await;
    assert!(test.db.cancel_backfill(backfill, NOON).await.unwrap());
    assert!(!test.db.cancel_backfill(backfill, NOON).await.unwrap(), "once");
    assert!(run_audit(&test.db).await.complete);
}

async fn a_segment_taken_out_is_missed_by_its_day(test: TestDb) {
    complete_archive(&test.db).await;
    test.db.run(sql("delete from segment where segment_id = 'four'")).await.unwrap();
    let answer = assert_only_problem(&test.db, AuditProblemKind::Ledger).await;
    let difference = &answer.accounts[0].ledger.differences[0];
    assert_eq!((difference.day.as_deref(), difference.announced, difference.held), (Some("2024-10-04"), 3, 2));
}

async fn a_segment_in_the_place_of_another_is_noticed(test: TestDb) {
    complete_archive(&test.db).await;
    test.db.run(sql("update segment set segment_id = 'fivé' where segment_id = 'four'")).await.unwrap();
    let answer = assert_only_problem(&test.db, AuditProblemKind::Ledger).await;
    assert!(answer.problems[0].what.contains("not the same ones"), "{:?}", answer.problems);
}

async fn an_artifact_taken_out_is_unexplained(test: TestDb) {
    let owned = complete_archive(&test.db).await;
    let segment = test.db.segments_by_id("one").await.unwrap().remove(0);
    let item = segment.key * 4 + i64::from(Artifact::AgentSummary.code());
    test.db.run(sql("delete from artifact where item = $1").bind(item)).await.unwrap();
    let answer = assert_only_problem(&test.db, AuditProblemKind::Unexplained).await;
    let lost: Vec<u64> = answer.accounts[0].artifacts.iter().map(|of| of.unexplained).collect();
    assert_eq!(lost, [0, 1, 0]);
    // Without a request for the artifact, the archive is complete.
    test.db.run(sql("update segment set asked = 5 where id = $1").bind(segment.key)).await.unwrap();
    assert!(run_audit(&test.db).await.complete);
    test.db.run(sql("update segment set asked = 4 where id = $1").bind(segment.key)).await.unwrap();
    let tally = test.db.snapshot().await.unwrap().artifact_tallies(ExportRange::default()).await.unwrap();
    let held = ArtifactTally { requested: 2, stored: 3, stray: 1, ..ArtifactTally::default() };
    assert_eq!(tally[&(owned.account, Artifact::Transcript)], held);
}

async fn what_an_audit_counts_is_a_finding_of_the_daemon(test: TestDb) {
    let (db, findings) = (&test.db, FindingRegistry::default());
    complete_archive(db).await;
    check_consistency(db, &findings, NOON).await.unwrap();
    assert_eq!(findings.list(), []);
    let segment = db.segments_by_id("one").await.unwrap().remove(0);
    let item = segment.key * 4 + i64::from(Artifact::AgentSummary.code());
    db.run(sql("delete from artifact where item = $1").bind(item)).await.unwrap();
    db.run(sql("delete from segment where segment_id = 'two'")).await.unwrap();
    let kinds =
        |audit: AuditReport| -> Vec<AuditProblemKind> { audit.problems.iter().map(|problem| problem.kind).collect() };
    assert_eq!(kinds(run_audit(db).await), [AuditProblemKind::Ledger, AuditProblemKind::Unexplained]);
    check_consistency(db, &findings, NOON).await.unwrap();
    let found = findings.list();
    assert_eq!((found.len(), &found[0].code), (1, &FindingCode::LedgerDiffers));
    assert_eq!(found[0].severity, Severity::Trouble);
    assert_eq!(
        found[0].sentence,
        "the archive does not match the announced segments: 1 day that does not add up, 1 artifact unexplained (account 10)"
    );
    assert!(found[0].code.is_incompleteness());
    // Without announced counts and segments there is no difference.
    db.run(sql("delete from announced")).await.unwrap();
    db.run(sql("delete from segment")).await.unwrap();
    check_consistency(db, &findings, NOON).await.unwrap();
    assert_eq!(findings.list(), []);
}

async fn an_account_whose_newest_manifest_is_of_a_day_to_come_is_known(test: TestDb) {
    let (db, owned) = (&test.db, complete_archive(&test.db).await);
    let ahead = NOON.plus_millis(400 * DAY);
    assert_eq!(db.future_manifest_day(owned.account, NOON).await.unwrap(), None);
    db.write_daily_manifest(owned, NOON).await.unwrap().unwrap();
    assert_eq!(db.future_manifest_day(owned.account, NOON).await.unwrap(), None);
    ingest(db, owned, &[record("five", Some(minutes_before_noon(20)), true)], &[]).await;
    db.write_daily_manifest(owned, ahead).await.unwrap().unwrap();
    let begins = Time(ahead.0 - DAY - DAY / 2);
    assert_eq!(db.future_manifest_day(owned.account, NOON).await.unwrap(), Some(begins));
    assert_eq!(db.future_manifest_day(owned.account, ahead).await.unwrap(), None);
}

async fn what_gave_up_is_told_apart(test: TestDb) {
    let owned = complete_archive(&test.db).await;
    ingest(&test.db, owned, &[record("five", Some(minutes_before_noon(20)), true)], &[]).await;
    for claim in test.db.due_items(owned, ArtifactSet::ALL, NOON, 100).await.unwrap() {
        let (state, status, reason) = match claim.artifact {
            Artifact::Transcript => (ItemState::Unavailable, 404, "still not there"),
            Artifact::AgentSummary => (ItemState::Failed, 400, "the request was refused"),
            Artifact::AutoSummary | Artifact::Recording => (ItemState::Open, 500, "the service failed"),
        };
        let settlement = JobOutcome::Failed {
            state,
            due: NOON + Duration::from_secs(90),
            misses: 1,
            refusals: 1,
            status: Some(status),
            reason: reason.to_owned(),
            broken: None,
        };
        assert_eq!(
            test.db.complete_jobs(&[CompletedJob { claim, at: NOON, outcome: settlement }]).await.unwrap(),
            [true]
        );
    }
    let answer = assert_only_problem(&test.db, AuditProblemKind::Failed).await;
    let account = &answer.accounts[0];
    let counts: Vec<_> = account.artifacts.iter().map(|of| (of.pending, of.unavailable, of.failed)).collect();
    assert_eq!(counts, [(0, 1, 0), (0, 0, 1), (1, 0, 0)]);
    assert_eq!(account.artifacts[2].next_try, Some(Rfc3339Time(NOON + Duration::from_secs(90))));
    let mut unfinished: Vec<_> =
        account.unfinished.iter().map(|row| (row.outcome, row.status, row.next_try.is_some())).collect();
    unfinished.sort_unstable();
    assert_eq!(
        unfinished,
        [("failed", Some(400), false), ("pending", Some(500), true), ("unavailable", Some(404), false)]
    );
    let items: Vec<_> = account.items.iter().map(|item| (item.outcome, item.artifact, &*item.segment_id)).collect();
    assert_eq!(items, [("failed", "agent_summary", "five"), ("unavailable", "transcript", "five")]);
    // Discarding the failed item resolves the problem.
    let filter = QueueFilter { states: vec![ItemState::Failed], ..QueueFilter::default() };
    assert_eq!(test.db.discard_items(&filter, "not needed", NOON).await.unwrap(), 1);
    let answer = run_audit(&test.db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert!(answer.verdict.ends_with("1 pending, 1 unavailable, 1 discarded"), "{}", answer.verdict);
}

async fn what_could_not_be_understood_is_told_until_it_is_settled(test: TestDb) {
    let owned = complete_archive(&test.db).await;
    let aside = QuarantinedRecord { segment_id: None, reason: "segmentId is missing".to_owned(), raw: "{}".to_owned() };
    ingest(&test.db, owned, &[], &[aside]).await;
    let answer = assert_only_problem(&test.db, AuditProblemKind::SetAside).await;
    let held = &answer.accounts[0].aside;
    assert_eq!((held.unresolved, held.resolved, held.records.len()), (1, 0, 1));
    assert_eq!(held.records[0].reason, "segmentId is missing");
    let later = NOON + Duration::from_secs(5);
    let reading = WindowRead {
        at: later,
        done: later,
        lane: Lane::Recheck,
        range: TimeRange { from: minutes_before_noon(120), to: minutes_before_noon(6) },
        summary: IngestSummary::default(),
        purposes: Vec::new(),
        finished: Vec::new(),
    };
    test.db.record_window_read(owned, &reading).await.unwrap();
    let answer = run_audit(&test.db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!(answer.accounts[0].aside.resolved, 1);
}

async fn a_range_counts_what_ended_in_it(test: TestDb) {
    complete_archive(&test.db).await;
    let asked = AuditRequest { from: Some(minutes_before_noon(60)), to: Some(minutes_before_noon(10)), ..question() };
    let answer = audit::run_audit(&test.db, &asked).await.unwrap();
    assert!(answer.complete, "{:?}", answer.problems);
    let account = &answer.accounts[0];
    assert_eq!(account.segments.announced, 1, "the one at the end of the range is not in it");
    assert_eq!((account.artifacts[0].asked, account.artifacts[2].not_populated), (1, 1));
    // The whole day is compared. Segments without an end time are in no range.
    assert_eq!((account.ledger.days, account.ledger.announced, account.ledger.held), (1, 3, 3));
    let before =
        AuditRequest { from: Some(minutes_before_noon(180)), to: Some(minutes_before_noon(100)), ..question() };
    let answer = audit::run_audit(&test.db, &before).await.unwrap();
    assert_eq!(
        (answer.accounts[0].gaps[0].from, answer.accounts[0].gaps[0].to),
        (Rfc3339Time(minutes_before_noon(180)), Rfc3339Time(minutes_before_noon(120)))
    );
    assert_eq!(answer.accounts[0].segments.announced, 0);
}

async fn a_snapshot_stays_as_it_was(test: TestDb) {
    let owned = complete_archive(&test.db).await;
    let mut snapshot = test.db.snapshot().await.unwrap();
    let before = snapshot.segment_counts(ExportRange::default()).await.unwrap();
    ingest(&test.db, owned, &[record("five", Some(minutes_before_noon(20)), true)], &[]).await;
    assert_eq!(snapshot.segment_counts(ExportRange::default()).await.unwrap(), before);
    let days = snapshot.daily_digests(ExportRange::default()).await.unwrap();
    assert!(days.iter().all(|day| day.announced == day.stored), "{days:?}");
    drop(snapshot);
    let after = test.db.snapshot().await.unwrap().segment_counts(ExportRange::default()).await.unwrap();
    assert_eq!(after[&owned.account], (5, 4));
}

async fn thousands_are_recounted_page_by_page(test: TestDb) {
    let (first, second) = (acquire_account(&test.db, "10").await, acquire_account(&test.db, "20").await);
    // Three days. More segments than fit into a page ended at the same time.
    let end = |n: i64| if n % 2 == 0 { NOON } else { NOON.plus_millis((n % 3 - 1) * DAY) };
    let records: Vec<SegmentRecord> = (0..11_000).map(|n| record(&format!("s{n}"), Some(end(n)), false)).collect();
    ingest(&test.db, first, &records, &[]).await;
    ingest(&test.db, second, &records[..300], &[]).await;
    let mut snapshot = test.db.snapshot().await.unwrap();
    let day = ExportRange { from: Some(NOON), to: Some(NOON.plus_millis(1)), account: None };
    for (range, days, segments) in [(ExportRange::default(), 6, 11_300), (day, 2, i64::MAX)] {
        let held = snapshot.daily_digests(range).await.unwrap();
        assert_eq!(held.len(), days);
        assert!(held.iter().all(|day| day.announced == day.stored && day.stored.segments > 0), "{held:?}");
        let all: i64 = held.iter().map(|day| day.stored.segments).sum();
        assert!(segments == i64::MAX || all == segments, "{all}");
    }
    let alone = ExportRange { account: Some(second.account), ..ExportRange::default() };
    assert_eq!(snapshot.daily_digests(alone).await.unwrap().iter().map(|day| day.stored.segments).sum::<i64>(), 300);
}
