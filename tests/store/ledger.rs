//! The completeness ledger on both databases: an archive that is whole is found so, and whatever is taken out of it by hand
//! is missed, exactly.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use crate::support;

use bytes::Bytes;
use ringcx_extractor::audit::{Audit, Cause, Moment, ProblemKind, Question, audit};
use ringcx_extractor::clock::Time;
use ringcx_extractor::daemon::findings::check_ledger;
use ringcx_extractor::db::{
    Announced, ArtifactTally, Chunk, Db, ExportRange, Owned, QueueFilter, Reading, Settled, Settlement, sql,
};
use ringcx_extractor::health::{FindingRegistry, Severity};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSet, AsideRecord, Lane, SegmentRecord, State, Stretch, Stretches, SummariesFor, Wants,
};
use ringcx_extractor::status::FindingStatus;
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
const ALL: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

/// A moment so many minutes before noon.
fn ago(minutes: i64) -> Time {
    NOON.plus_millis(-minutes * 60_000)
}

fn record(id: &str, end: Option<Time>, has_transcript: bool) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end,
        has_transcript,
        is_agent: true,
        raw: format!(r#"{{"segmentId":"{id}","hasTranscript":{has_transcript}}}"#),
    }
}

async fn own(db: &Db, sub: &str) -> Owned {
    let account = db.enrol(&AccountId::new("1", sub), None, NOON).await.unwrap();
    db.take(&[account.key], "test", Duration::from_secs(10), NOON).await.unwrap().remove(0)
}

async fn store(db: &Db, owned: Owned, records: &[SegmentRecord], asides: &[AsideRecord]) -> Announced {
    let known = Stretches::default();
    let chunk = Chunk {
        owned,
        lane: Lane::Live,
        stretch: Stretch { from: ago(120), to: ago(6) },
        now: NOON,
        wants: ALL,
        known: &known,
        urgent_before: None,
        repair: Duration::from_secs(60),
        records,
        asides,
    };
    db.announce(chunk).await.unwrap()
}

async fn read(db: &Db, owned: Owned, stretch: Stretch, announced: Announced) {
    let reading = Reading {
        at: NOON,
        done: NOON,
        lane: Lane::Live,
        stretch,
        announced,
        passes: vec![("live".to_owned(), stretch)],
        finished: Vec::new(),
    };
    db.record_reading(owned, &reading).await.unwrap();
}

/// Two accounts of which two hours were read: one with four segments, of which three have a transcript and one no end;
/// one with none. Everything has been fetched; one summary is empty.
async fn whole(db: &Db) -> Owned {
    let (first, second) = (own(db, "10").await, own(db, "20").await);
    let records = [
        record("one", Some(ago(100)), true),
        record("two", Some(ago(50)), true),
        record("three", None, true),
        record("four", Some(ago(10)), false),
    ];
    let announced = store(db, first, &records, &[]).await;
    for (owned, announced) in [(first, announced), (second, Announced::default())] {
        db.start_live(owned.account, ago(120)).await.unwrap();
        read(db, owned, Stretch { from: ago(120), to: ago(6) }, announced).await;
    }
    let claims = db.due(first, ArtifactSet::ALL, NOON, 100).await.unwrap();
    let batch: Vec<Settled> = claims
        .into_iter()
        .map(|claim| {
            let empty = claim.segment_id == "two" && claim.artifact == Artifact::AutoSummary;
            let body = Bytes::from_static(b"text");
            let settlement = if empty {
                Settlement::not_populated(None)
            } else {
                Settlement::stored(&body, Some(NOON + Duration::from_secs(60)))
            };
            Settled { claim, at: NOON, settlement }
        })
        .collect();
    assert_eq!(batch.len(), 9);
    assert!(db.settle(&batch).await.unwrap().iter().all(|counted| *counted));
    first
}

fn question() -> Question {
    Question {
        from: None,
        to: None,
        account: None,
        now: NOON,
        offset: Duration::from_secs(300),
        interval: Duration::from_secs(300),
        configured: Vec::new(),
    }
}

async fn ask(db: &Db) -> Audit {
    audit(db, &question()).await.unwrap()
}

/// Asks, and expects one problem alone.
async fn one_problem(db: &Db, kind: ProblemKind) -> Audit {
    let answer = ask(db).await;
    assert!(!answer.complete);
    let kinds: Vec<ProblemKind> = answer.problems.iter().map(|problem| problem.kind).collect();
    assert_eq!(kinds, [kind], "{:?}", answer.problems);
    answer
}

async fn a_whole_archive_is_complete(test: TestDb) {
    whole(&test.db).await;
    let answer = ask(&test.db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!(answer.accounts.len(), 2);
    let account = &answer.accounts[0];
    assert_eq!((account.segments.announced, account.segments.with_transcript), (4, 3));
    let counts: Vec<_> =
        account.artifacts.iter().map(|of| (of.asked, of.stored, of.not_populated, of.not_requested)).collect();
    assert_eq!(counts, [(3, 3, 0, 1), (3, 3, 0, 1), (3, 2, 1, 1)]);
    assert_eq!((account.ledger.announced, account.ledger.held, account.ledger.days), (4, 4, 2));
    assert_eq!(account.watermark, Some(Moment(ago(6))));
    assert_eq!((account.reads.len(), account.reads[0].announced, account.reads[0].added), (1, 4, 4));
    assert_eq!(answer.accounts[1].segments.announced, 0);
    // One account alone, and one that there is not.
    let alone = audit(&test.db, &Question { account: Some("20".to_owned()), ..question() }).await.unwrap();
    assert!(alone.complete && alone.accounts.len() == 1);
    let nobody = audit(&test.db, &Question { account: Some("30".to_owned()), ..question() }).await.unwrap();
    assert!(!nobody.complete);
}

async fn a_stretch_taken_out_of_coverage_is_named_exactly(test: TestDb) {
    let owned = whole(&test.db).await;
    let (from, to) = (ago(60), ago(45));
    let cut = sql("update coverage set to_ms = $2 where account = $1 and pass = 'live'");
    test.db.run(cut.bind(owned.account).bind(from)).await.unwrap();
    let rest = sql(
        "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values ($1, 'live', $2, $3, 1, $3, $3)",
    );
    test.db.run(rest.bind(owned.account).bind(to).bind(ago(6))).await.unwrap();
    let answer = one_problem(&test.db, ProblemKind::Gap).await;
    let gaps = &answer.accounts[0].gaps;
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].from, gaps[0].to, gaps[0].cause), (Moment(from), Moment(to), Cause::NeverRead));
    assert!(answer.problems[0].what.contains("2024-10-04T11:00:00Z to 2024-10-04T11:15:00Z"), "{:?}", answer.problems);
    // Asked for again, it is on its way.
    let range = Stretch { from, to };
    let backfill = test.db.request_backfill(owned.account, range, true, NOON).await.unwrap();
    assert_eq!(ask(&test.db).await.accounts[0].gaps[0].cause, Cause::BeingBackfilled);
    // And once it is read, and nobody asks for it any more, nothing is missing.
    read(&test.db, owned, range, Announced::default()).await;
    one_problem(&test.db, ProblemKind::Backfill).await;
    assert!(test.db.cancel_backfill(backfill, NOON).await.unwrap());
    assert!(!test.db.cancel_backfill(backfill, NOON).await.unwrap(), "once");
    assert!(ask(&test.db).await.complete);
}

async fn a_segment_taken_out_is_missed_by_its_day(test: TestDb) {
    whole(&test.db).await;
    test.db.run(sql("delete from segment where segment_id = 'four'")).await.unwrap();
    let answer = one_problem(&test.db, ProblemKind::Ledger).await;
    let difference = &answer.accounts[0].ledger.differences[0];
    assert_eq!((difference.day.as_deref(), difference.announced, difference.held), (Some("2024-10-04"), 3, 2));
}

async fn a_segment_in_the_place_of_another_is_noticed(test: TestDb) {
    whole(&test.db).await;
    test.db.run(sql("update segment set segment_id = 'fivé' where segment_id = 'four'")).await.unwrap();
    let answer = one_problem(&test.db, ProblemKind::Ledger).await;
    assert!(answer.problems[0].what.contains("not the same ones"), "{:?}", answer.problems);
}

async fn an_artifact_taken_out_is_unexplained(test: TestDb) {
    let owned = whole(&test.db).await;
    let segment = test.db.segments_named("one").await.unwrap().remove(0);
    let item = segment.key * 4 + i64::from(Artifact::AgentSummary.code());
    test.db.run(sql("delete from artifact where item = $1").bind(item)).await.unwrap();
    let answer = one_problem(&test.db, ProblemKind::Unexplained).await;
    let lost: Vec<u64> = answer.accounts[0].artifacts.iter().map(|of| of.unexplained).collect();
    assert_eq!(lost, [0, 1, 0]);
    // One that nobody asked for is no better.
    test.db.run(sql("update segment set asked = 5 where id = $1").bind(segment.key)).await.unwrap();
    assert!(ask(&test.db).await.complete);
    test.db.run(sql("update segment set asked = 4 where id = $1").bind(segment.key)).await.unwrap();
    let tally = test.db.snapshot().await.unwrap().artifact_tallies(ExportRange::default()).await.unwrap();
    let held = ArtifactTally { asked: 2, stored: 3, stray: 1, ..ArtifactTally::default() };
    assert_eq!(tally[&(owned.account, Artifact::Transcript)], held);
}

async fn what_an_audit_counts_is_a_finding_of_the_daemon(test: TestDb) {
    let (db, findings) = (&test.db, FindingRegistry::default());
    whole(db).await;
    check_ledger(db, &findings, NOON).await.unwrap();
    assert_eq!(findings.list(), []);
    let segment = db.segments_named("one").await.unwrap().remove(0);
    let item = segment.key * 4 + i64::from(Artifact::AgentSummary.code());
    db.run(sql("delete from artifact where item = $1").bind(item)).await.unwrap();
    db.run(sql("delete from segment where segment_id = 'two'")).await.unwrap();
    let told = |audit: Audit| -> Vec<ProblemKind> { audit.problems.iter().map(|problem| problem.kind).collect() };
    assert_eq!(told(ask(db).await), [ProblemKind::Ledger, ProblemKind::Unexplained]);
    check_ledger(db, &findings, NOON).await.unwrap();
    let found = findings.list();
    assert_eq!((found.len(), found[0].code, found[0].severity), (1, "ledger_differs", Severity::Trouble));
    assert_eq!(
        found[0].sentence,
        "what is held is not what was announced: 1 day that does not add up, 1 artifact unexplained (account 10)"
    );
    assert!(FindingStatus::from(found[0].clone()).is_incompleteness());
    // A day that is announced and held no more, and nothing more asked for.
    db.run(sql("delete from announced")).await.unwrap();
    db.run(sql("delete from segment")).await.unwrap();
    check_ledger(db, &findings, NOON).await.unwrap();
    assert_eq!(findings.list(), []);
}

async fn an_account_whose_newest_manifest_is_of_a_day_to_come_is_known(test: TestDb) {
    let (db, owned) = (&test.db, whole(&test.db).await);
    let ahead = NOON.plus_millis(400 * DAY);
    assert_eq!(db.manifest_ahead(owned.account, NOON).await.unwrap(), None);
    db.seal_day(owned, NOON).await.unwrap().unwrap();
    assert_eq!(db.manifest_ahead(owned.account, NOON).await.unwrap(), None);
    store(db, owned, &[record("five", Some(ago(20)), true)], &[]).await;
    db.seal_day(owned, ahead).await.unwrap().unwrap();
    let begins = Time(ahead.0 - DAY - DAY / 2);
    assert_eq!(db.manifest_ahead(owned.account, NOON).await.unwrap(), Some(begins));
    assert_eq!(db.manifest_ahead(owned.account, ahead).await.unwrap(), None);
}

async fn what_gave_up_is_told_apart(test: TestDb) {
    let owned = whole(&test.db).await;
    store(&test.db, owned, &[record("five", Some(ago(20)), true)], &[]).await;
    for claim in test.db.due(owned, ArtifactSet::ALL, NOON, 100).await.unwrap() {
        let (state, status, reason) = match claim.artifact {
            Artifact::Transcript => (State::Unavailable, 404, "still not there"),
            Artifact::AgentSummary => (State::Failed, 400, "the request was refused"),
            Artifact::AutoSummary => (State::Open, 500, "the service failed"),
        };
        let settlement = Settlement::Failed {
            state,
            due: NOON + Duration::from_secs(90),
            misses: 1,
            refusals: 1,
            status: Some(status),
            reason: reason.to_owned(),
            broken: None,
        };
        assert_eq!(test.db.settle(&[Settled { claim, at: NOON, settlement }]).await.unwrap(), [true]);
    }
    let answer = one_problem(&test.db, ProblemKind::Failed).await;
    let account = &answer.accounts[0];
    let counts: Vec<_> = account.artifacts.iter().map(|of| (of.pending, of.unavailable, of.failed)).collect();
    assert_eq!(counts, [(0, 1, 0), (0, 0, 1), (1, 0, 0)]);
    assert_eq!(account.artifacts[2].next_try, Some(Moment(NOON + Duration::from_secs(90))));
    let mut told: Vec<_> =
        account.unfinished.iter().map(|row| (row.outcome, row.status, row.next_try.is_some())).collect();
    told.sort_unstable();
    assert_eq!(told, [("failed", Some(400), false), ("pending", Some(500), true), ("unavailable", Some(404), false)]);
    let items: Vec<_> = account.items.iter().map(|item| (item.outcome, item.artifact, &*item.segment_id)).collect();
    assert_eq!(items, [("failed", "agent_summary", "five"), ("unavailable", "transcript", "five")]);
    // A person's word settles what failed.
    let filter = QueueFilter { states: vec![State::Failed], ..QueueFilter::default() };
    assert_eq!(test.db.discard_items(&filter, "not needed").await.unwrap(), 1);
    let answer = ask(&test.db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert!(answer.verdict.ends_with("1 pending, 1 unavailable, 1 discarded"), "{}", answer.verdict);
}

async fn what_could_not_be_understood_is_told_until_it_is_settled(test: TestDb) {
    let owned = whole(&test.db).await;
    let aside = AsideRecord { segment_id: None, reason: "segmentId is missing".to_owned(), raw: "{}".to_owned() };
    store(&test.db, owned, &[], &[aside]).await;
    let answer = one_problem(&test.db, ProblemKind::SetAside).await;
    let held = &answer.accounts[0].aside;
    assert_eq!((held.unresolved, held.resolved, held.records.len()), (1, 0, 1));
    assert_eq!(held.records[0].reason, "segmentId is missing");
    let later = NOON + Duration::from_secs(5);
    let reading = Reading {
        at: later,
        done: later,
        lane: Lane::Recheck,
        stretch: Stretch { from: ago(120), to: ago(6) },
        announced: Announced::default(),
        passes: Vec::new(),
        finished: Vec::new(),
    };
    test.db.record_reading(owned, &reading).await.unwrap();
    let answer = ask(&test.db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!(answer.accounts[0].aside.resolved, 1);
}

async fn a_range_counts_what_ended_in_it(test: TestDb) {
    whole(&test.db).await;
    let asked = Question { from: Some(ago(60)), to: Some(ago(10)), ..question() };
    let answer = audit(&test.db, &asked).await.unwrap();
    assert!(answer.complete, "{:?}", answer.problems);
    let account = &answer.accounts[0];
    assert_eq!(account.segments.announced, 1, "the one at the end of the range is not in it");
    assert_eq!((account.artifacts[0].asked, account.artifacts[2].not_populated), (1, 1));
    // The day is compared whole; segments without an end lie in no range.
    assert_eq!((account.ledger.days, account.ledger.announced, account.ledger.held), (1, 3, 3));
    let before = Question { from: Some(ago(180)), to: Some(ago(100)), ..question() };
    let answer = audit(&test.db, &before).await.unwrap();
    assert_eq!((answer.accounts[0].gaps[0].from, answer.accounts[0].gaps[0].to), (Moment(ago(180)), Moment(ago(120))));
    assert_eq!(answer.accounts[0].segments.announced, 0);
}

async fn a_snapshot_stays_as_it_was(test: TestDb) {
    let owned = whole(&test.db).await;
    let mut snapshot = test.db.snapshot().await.unwrap();
    let before = snapshot.segment_counts(ExportRange::default()).await.unwrap();
    store(&test.db, owned, &[record("five", Some(ago(20)), true)], &[]).await;
    assert_eq!(snapshot.segment_counts(ExportRange::default()).await.unwrap(), before);
    let days = snapshot.days(ExportRange::default()).await.unwrap();
    assert!(days.iter().all(|day| day.announced == day.held), "{days:?}");
    drop(snapshot);
    let after = test.db.snapshot().await.unwrap().segment_counts(ExportRange::default()).await.unwrap();
    assert_eq!(after[&owned.account], (5, 4));
}

async fn thousands_are_recounted_page_by_page(test: TestDb) {
    let (first, second) = (own(&test.db, "10").await, own(&test.db, "20").await);
    // Three days, with many that ended in the same moment and more of them than a page holds.
    let end = |n: i64| if n % 2 == 0 { NOON } else { NOON.plus_millis((n % 3 - 1) * DAY) };
    let records: Vec<SegmentRecord> = (0..11_000).map(|n| record(&format!("s{n}"), Some(end(n)), false)).collect();
    store(&test.db, first, &records, &[]).await;
    store(&test.db, second, &records[..300], &[]).await;
    let mut snapshot = test.db.snapshot().await.unwrap();
    let day = ExportRange { from: Some(NOON), to: Some(NOON.plus_millis(1)), account: None };
    for (range, days, segments) in [(ExportRange::default(), 6, 11_300), (day, 2, i64::MAX)] {
        let held = snapshot.days(range).await.unwrap();
        assert_eq!(held.len(), days);
        assert!(held.iter().all(|day| day.announced == day.held && day.held.segments > 0), "{held:?}");
        let all: i64 = held.iter().map(|day| day.held.segments).sum();
        assert!(segments == i64::MAX || all == segments, "{all}");
    }
    let alone = ExportRange { account: Some(second.account), ..ExportRange::default() };
    assert_eq!(snapshot.days(alone).await.unwrap().iter().map(|day| day.held.segments).sum::<i64>(), 300);
}
