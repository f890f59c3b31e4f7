//! Erased segments are gone and do not come back; segments on hold stay; retention removes what is past it; all of it is counted
//! and recorded in the journal. On both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::audit::{self, AuditReport, AuditRequest};
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{
    AccountKey, BrokenAnswer, Claim, CompletedJob, Db, DbFault, DeletionCounts, DeletionReason, ExportRange,
    IngestSummary, JobOutcome, JournalAction, JournalEntry, Lease, MetadataChunk, SegmentRef, WindowRead, WipeOutcome,
    sql,
};
use ringcx_extractor::erasure::{self, Confirmation, ErasurePlan, ErasureRequest, RetentionCursor};
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, ItemState, Lane, QuarantinedRecord, SegmentRecord, Subject,
    SummariesFor, TimeRange, TimeRangeSet,
};
use support::TestDb;

crate::on_both! {
    a_person_is_found_in_every_field_and_in_every_writing,
    what_is_only_alike_is_named_and_left_unless_it_is_included,
    what_cannot_be_read_is_on_hold_and_is_named,
    a_value_that_lost_a_letter_is_named_and_held,
    a_record_that_cannot_be_read_is_named_and_held,
    an_answer_that_will_be_asked_for_again_hides_nobody_and_holds_up_nothing,
    a_hold_of_a_kind_that_is_not_known_keeps_everything,
    without_its_key_the_archive_neither_erases_nor_takes_in,
    a_hold_says_how_much_it_keeps,
    what_is_erased_does_not_come_back_and_is_counted,
    a_dialog_goes_whole_and_in_all_accounts,
    a_contact_is_found_in_metadata_old_and_new_and_in_transcripts,
    what_was_under_way_for_an_erased_segment_counts_for_nothing,
    a_number_once_used_is_never_used_again,
    an_id_that_is_not_there_yet_is_kept_out,
    records_set_aside_go_too_and_stay_away,
    a_segment_that_a_record_set_aside_names_too_is_counted_once,
    a_hold_keeps_what_it_names,
    a_hold_placed_between_looking_and_erasing_is_heeded,
    what_matches_only_since_the_confirmation_is_kept_and_named,
    a_hold_without_a_subject_or_without_a_row_is_an_error_that_says_so,
    retention_takes_what_is_past_it_and_nothing_else,
    retention_is_its_owners_alone,
    an_unusual_pass_leaves_out_what_is_held_and_its_notice_is_kept,
    retention_knows_when_the_archive_was_last_written,
    what_is_past_retention_when_it_is_announced_is_not_taken_in,
    what_is_announced_while_it_is_erased_does_not_stay,
    the_journal_only_grows,
    thousands_go_at_once,
}

const DAY: i64 = 86_400_000;
const NOW: Time = Time(20_000 * DAY + DAY / 2);
const ALL_ARTIFACTS: ArtifactSelection =
    ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };

fn minutes_ago(minutes: i64) -> Time {
    NOW.plus_millis(-minutes * 60_000)
}

fn record(id: &str, dialog: &str, end: Option<Time>, contact: &str) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(dialog.to_owned()),
        end,
        has_transcript: true,
        is_agent: true,
        has_recording: false,
        raw: format!(r#"{{"segmentId":"{id}","dialogId":"{dialog}","contactEndpointAddress":"{contact}"}}"#),
    }
}

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

const COVERED_RANGE: TimeRange =
    TimeRange { from: Time(20_000 * DAY - 300 * DAY), to: Time(20_000 * DAY + DAY / 2 - 360_000) };

async fn ingest(db: &Db, owned: Lease, records: &[SegmentRecord]) -> IngestSummary {
    ingest_with(db, owned, Lane::Recheck, (records, &[]), None).await
}

async fn ingest_with(
    db: &Db,
    owned: Lease,
    lane: Lane,
    (records, asides): (&[SegmentRecord], &[QuarantinedRecord]),
    kept_since: Option<Time>,
) -> IngestSummary {
    let known = TimeRangeSet::default();
    let repair = Duration::from_secs(60);
    let (stretch, urgent_before) = (COVERED_RANGE, None);
    let chunk = MetadataChunk {
        lease: owned,
        lane,
        range: stretch,
        now: NOW,
        wants: ALL_ARTIFACTS,
        already_read: &known,
        urgent_before,
        quarantine_retry_delay: repair,
        records,
        quarantined: asides,
    };
    db.ingest_chunk_with_retention(chunk, kept_since).await.unwrap()
}

async fn due_claims(db: &Db, owned: Lease) -> Vec<Claim> {
    db.due_items(owned, ArtifactSet::ALL, NOW, 50_000).await.unwrap()
}

fn stored_result(claim: Claim, body: String) -> CompletedJob {
    CompletedJob {
        claim,
        at: NOW,
        outcome: JobOutcome::stored(&Bytes::from(body), Some(NOW + Duration::from_secs(60))),
    }
}

fn failed_result(claim: Claim, reason: &str) -> CompletedJob {
    let (state, due, reason) = (ItemState::Open, NOW, reason.to_owned());
    CompletedJob {
        claim,
        at: NOW,
        outcome: JobOutcome::Failed { state, due, misses: 1, refusals: 0, status: Some(404), reason, broken: None },
    }
}

/// Ingests these segments, records the read, and stores every artifact.
async fn ingest_and_store(db: &Db, owned: Lease, records: &[SegmentRecord]) {
    let announced = ingest(db, owned, records).await;
    db.init_live_start(owned.account, COVERED_RANGE.from).await.unwrap();
    let reading = WindowRead {
        at: NOW,
        done: NOW,
        lane: Lane::Live,
        range: COVERED_RANGE,
        summary: announced,
        purposes: vec![("live".to_owned(), COVERED_RANGE)],
        finished: Vec::new(),
    };
    db.record_window_read(owned, &reading).await.unwrap();
    let batch: Vec<CompletedJob> = due_claims(db, owned)
        .await
        .into_iter()
        .map(|claim| stored_result(claim, r#"{"transcript":[{"message":"said"}]}"#.to_owned()))
        .collect();
    for part in batch.chunks(1000) {
        assert!(db.complete_jobs(part).await.unwrap().iter().all(|counted| *counted));
    }
}

fn erasure_request(subject: Subject) -> ErasureRequest {
    ErasureRequest {
        subject,
        account: None,
        who: "officer@host".to_owned(),
        reason: Some("a request".to_owned()),
        include_alike: false,
        include_unreadable: false,
        access_entry: None,
    }
}

fn contact_subject(value: &str) -> Subject {
    Subject::Contact(value.to_owned())
}

fn segment_subject(id: &str) -> Subject {
    Subject::Segment(id.to_owned())
}

async fn find_and_erase(db: &Db, request: &ErasureRequest) -> (DeletionCounts, ErasurePlan) {
    let found = erasure::plan_erasure(db, request, &mut |_| {}).await.unwrap();
    let done = erasure::execute_plan(db, request, found, Confirmation::Everything, NOW, &mut |_| {}).await.unwrap();
    db.purge_deleted().await.unwrap();
    done
}

async fn stored_ids(db: &Db) -> Vec<String> {
    let segments = db.segments_after(ExportRange::default(), None, 100_000).await.unwrap();
    segments.into_iter().map(|segment| segment.segment_id).collect()
}

async fn row_count(db: &Db, table: &'static str) -> i64 {
    let rows = db.value(ringcx_extractor::db::Stmt::built(format!("select count(*) from {table}"))).await;
    rows.unwrap().unwrap()
}

async fn run_audit(db: &Db) -> AuditReport {
    let question = AuditRequest {
        from: None,
        to: None,
        account: None,
        now: NOW,
        offset: Duration::from_secs(300),
        interval: Duration::from_secs(300),
        starts_with_first_read: false,
        configured: Vec::new(),
    };
    audit::run_audit(db, &question).await.unwrap()
}

async fn place_hold(db: &Db, subject: Subject, account: Option<AccountKey>) -> i64 {
    let entry = JournalEntry {
        who: "officer@host".into(),
        what: JournalAction::Hold,
        subject: Some(subject),
        hold: None,
        reason: None,
    };
    db.place_hold(&entry, account, NOW).await.unwrap()
}

async fn what_is_erased_does_not_come_back_and_is_counted(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let records = [
        record("one", "d1", Some(minutes_ago(100)), "1"),
        record("two", "d2", Some(minutes_ago(90)), "2"),
        record("three", "d3", None, "3"),
    ];
    ingest_and_store(db, owned, &records).await;
    for id in ["one", "three"] {
        let (erased, found) = find_and_erase(db, &erasure_request(segment_subject(id))).await;
        assert_eq!((erased, found.has_holds()), (DeletionCounts { segments: 1, records: 0, unknown_ids: 0 }, false));
    }
    assert_eq!(stored_ids(db).await, ["two"]);
    for (table, left) in [("artifact", 3), ("work", 3), ("attempt", 0), ("segment_version", 0), ("tombstone", 2)] {
        assert_eq!(row_count(db, table).await, left, "{table}");
    }
    let fresh = acquire_account(db, "a").await;
    for lane in [Lane::Recheck, Lane::Backfill] {
        let again = ingest_with(db, fresh, lane, (&records, &[]), None).await;
        assert_eq!((again.segments, again.added, again.queued), (3, 0, 0), "it still counts as announced, and no more");
    }
    assert_eq!(stored_ids(db).await, ["two"]);
    let answer = run_audit(db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    let account = &answer.accounts[0];
    assert_eq!((account.segments.announced, account.segments.erased, account.ledger.held), (3, 2, 1));
    assert!(account.artifacts.iter().all(|artifact| (artifact.asked, artifact.stored, artifact.erased) == (3, 1, 2)));
    assert_eq!(db.tombstone("one", None).await.unwrap().map(|stone| stone.reason), Some(DeletionReason::Erased));
    assert_eq!(db.tombstone("two", None).await.unwrap(), None);
    let (_, found) = find_and_erase(db, &erasure_request(segment_subject("one"))).await;
    assert!(found.is_empty());
}

async fn a_dialog_goes_whole_and_in_all_accounts(test: TestDb) {
    let db = &test.db;
    let (first, second) = (acquire_account(db, "a").await, acquire_account(db, "b").await);
    let end = Some(minutes_ago(100));
    ingest_and_store(
        db,
        first,
        &[record("one", "d", end, "1"), record("two", "d", end, "1"), record("three", "e", end, "1")],
    )
    .await;
    ingest_and_store(db, second, &[record("one", "d", end, "1")]).await;
    let of_one = ErasureRequest { account: Some(second.account), ..erasure_request(Subject::Dialog("d".into())) };
    assert_eq!(find_and_erase(db, &of_one).await.0.segments, 1);
    assert_eq!(find_and_erase(db, &erasure_request(Subject::Dialog("d".into()))).await.0.segments, 2);
    assert_eq!(stored_ids(db).await, ["three"]);
    assert!(run_audit(db).await.complete);
}

async fn a_contact_is_found_in_metadata_old_and_new_and_in_transcripts(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let end = Some(minutes_ago(100));
    let records = [
        record("now", "d1", end, "+1 (201) 377-0791"),
        record("before", "d2", end, "0012013770791"),
        record("national", "d3", end, "2013770791"),
        record("spoken", "d4", end, ""),
        record("agent", "d5", end, ""),
    ];
    ingest(db, owned, &records).await;
    ingest(db, owned, &[record("before", "d2", end, "changed")]).await;
    let said = |kind: &str| {
        format!(r#"{{"transcript":[{{"participantType":"{kind}","participantName":"12013770791","message":"x"}}]}}"#)
    };
    let batch: Vec<CompletedJob> = due_claims(db, owned)
        .await
        .into_iter()
        .map(|claim| {
            let kind = if claim.segment_id == "spoken" { "contact" } else { "agent" };
            stored_result(claim, said(kind))
        })
        .collect();
    db.complete_jobs(&batch).await.unwrap();
    let (erased, found) = find_and_erase(db, &erasure_request(Subject::Contact("+12013770791".into()))).await;
    assert_eq!((erased.segments, segment_ids(&found.alike)), (3, vec!["national"]));
    assert_eq!(stored_ids(db).await, ["agent", "national"]);
}

async fn what_was_under_way_for_an_erased_segment_counts_for_nothing(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest(
        db,
        owned,
        &[record("one", "d", Some(minutes_ago(100)), "1"), record("two", "d2", Some(minutes_ago(90)), "1")],
    )
    .await;
    let mut batch = Vec::new();
    for (nth, claim) in due_claims(db, owned).await.into_iter().filter(|claim| claim.segment_id == "one").enumerate() {
        let revisited = Claim { visit: 1, ..claim.clone() };
        batch.push(match nth {
            0 => stored_result(claim, "secret".into()),
            1 => failed_result(claim, "secret"),
            _ => {
                let settlement = JobOutcome::Failed {
                    state: ItemState::Unavailable,
                    due: NOW,
                    misses: 1,
                    refusals: 0,
                    status: None,
                    reason: "secret".into(),
                    broken: None,
                };
                CompletedJob { claim: revisited, at: NOW, outcome: settlement }
            }
        });
    }
    assert_eq!(batch.len(), 3);
    find_and_erase(db, &erasure_request(segment_subject("one"))).await;
    assert_eq!(db.complete_jobs(&batch).await.unwrap(), [false, false, false]);
    for (table, left) in [("artifact", 0), ("attempt", 0), ("work", 3), ("segment", 1)] {
        assert_eq!(row_count(db, table).await, left, "{table}");
    }
}

async fn a_number_once_used_is_never_used_again(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let end = Some(minutes_ago(100));
    ingest(db, owned, &[record("one", "d", end, "1"), record("two", "d", end, "1")]).await;
    let late = due_claims(db, owned).await.into_iter().find(|claim| claim.segment_id == "two").unwrap();
    find_and_erase(db, &erasure_request(segment_subject("two"))).await;
    ingest(db, owned, &[record("three", "d", end, "1"), record("four", "d", end, "1")]).await;
    find_and_erase(db, &erasure_request(segment_subject("four"))).await;
    ingest(db, owned, &[record("five", "d", end, "1")]).await;
    let mut keys = Vec::new();
    for id in ["one", "three", "five"] {
        keys.push(db.segments_by_id(id).await.unwrap()[0].key);
    }
    assert!(keys.iter().all(|key| *key != late.item.segment()), "{keys:?}");
    // A late result of the erased segment must not become another segment's.
    assert_eq!(db.complete_jobs(&[stored_result(late, "of two".into())]).await.unwrap(), [false]);
    assert_eq!(row_count(db, "artifact").await, 0);
    assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

async fn an_id_that_is_not_there_yet_is_kept_out(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &[record("other", "d", Some(minutes_ago(100)), "1")]).await;
    let (_, found) = find_and_erase(db, &erasure_request(segment_subject("early"))).await;
    assert!(found.is_empty(), "without an account it cannot be kept out");
    let named = ErasureRequest { account: Some(owned.account), ..erasure_request(segment_subject("early")) };
    assert_eq!(find_and_erase(db, &named).await.0, DeletionCounts { segments: 0, records: 0, unknown_ids: 1 });
    assert!(find_and_erase(db, &named).await.1.is_empty(), "once is enough");
    assert_eq!(run_audit(db).await.accounts[0].segments.erased, 0, "nothing was announced yet");
    for _ in 0..2 {
        let again = ingest(db, owned, &[record("early", "d", Some(minutes_ago(50)), "1")]).await;
        assert_eq!((again.segments, again.added), (1, 0));
    }
    assert_eq!(stored_ids(db).await, ["other"]);
    let answer = run_audit(db).await;
    assert!(answer.complete);
    assert_eq!(answer.accounts[0].segments.erased, 1, "counted once, when it was announced");
}

async fn records_set_aside_go_too_and_stay_away(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let asides = [
        quarantined_record(Some("one"), r#"{"segmentId":"one","hasTranscript":"?"}"#),
        quarantined_record(None, "mail of Jane@Example.com, cut o"),
        quarantined_record(Some("two"), r#"{"segmentId":"two","contactEndpointAddress":"JANE@example.com"}"#),
        quarantined_record(None, "mail of joe@example.com"),
    ];
    let first = ingest_with(db, owned, Lane::Live, (&[], &asides), None).await;
    assert_eq!(first.quarantined, 4);
    assert_eq!(find_and_erase(db, &erasure_request(segment_subject("one"))).await.0.records, 1);
    assert_eq!(find_and_erase(db, &erasure_request(Subject::Contact("jane@example.com".into()))).await.0.records, 2);
    let again = ingest_with(db, owned, Lane::Recheck, (&[], &asides), None).await;
    assert_eq!(again.quarantined, 1);
    assert_eq!(row_count(db, "aside").await, 1);
    // When the record becomes readable, the segment is still excluded, and counted.
    ingest(db, owned, &[record("one", "d", Some(minutes_ago(50)), "1")]).await;
    assert_eq!(stored_ids(db).await, Vec::<String>::new());
    assert_eq!(run_audit(db).await.accounts[0].segments.erased, 1);
}

async fn a_segment_that_a_record_set_aside_names_too_is_counted_once(test: TestDb) {
    let (db, owned) = (&test.db, acquire_account(&test.db, "a").await);
    let one = [record("one", "d", Some(minutes_ago(60)), "x")];
    let raw = r#"{"segmentId":"one","dialogId":null,"hasTranscript":true}"#.to_owned();
    let aside = [QuarantinedRecord { segment_id: Some("one".to_owned()), reason: "broken".to_owned(), raw }];
    ingest_with(db, owned, Lane::Live, (&one, &aside), None).await;
    let (erased, _) = find_and_erase(db, &erasure_request(segment_subject("one"))).await;
    assert_eq!((erased.segments, erased.records), (1, 1));
    ingest(db, owned, &one).await;
    assert_eq!(db.count(sql("select cast(sum(segments) as bigint) from erased")).await.unwrap(), 1);
}

async fn a_hold_keeps_what_it_names(test: TestDb) {
    let db = &test.db;
    let (owned, other) = (acquire_account(db, "a").await, acquire_account(db, "b").await);
    let end = Some(minutes_ago(100));
    ingest_and_store(db, owned, &[record("one", "d", end, "+49 30 123456"), record("two", "d", end, "1")]).await;
    ingest_and_store(db, other, &[record("one", "d", end, "1")]).await;
    let kept = place_hold(db, Subject::Contact("004930123456".into()), None).await;
    let (erased, found) = find_and_erase(db, &erasure_request(Subject::Dialog("d".into()))).await;
    assert_eq!((erased.segments, found.held_segments.len()), (2, 1), "the others go");
    assert_eq!(found.holds()[0].0.id, kept);
    assert_eq!(stored_ids(db).await, ["one"]);
    // A hold in another account keeps nothing here.
    assert!(db.release_hold(kept, "officer@host", None, NOW).await.unwrap().is_some());
    place_hold(db, segment_subject("one"), Some(other.account)).await;
    assert_eq!(find_and_erase(db, &erasure_request(segment_subject("one"))).await.0.segments, 1);
    let journal = db.journal(None).await.unwrap();
    let said: Vec<&str> = journal.iter().map(|row| row.what.as_str()).collect();
    assert_eq!(said, ["hold", "erase", "erase", "refused", "release", "hold", "erase"]);
    assert!(db.release_hold(99, "officer@host", None, NOW).await.unwrap().is_none());
    let of_contact = db.journal(Some(&Subject::Contact("+49 30 123 456".into()))).await.unwrap();
    assert_eq!(of_contact.len(), 2, "it was held and released");
}

async fn a_hold_placed_between_looking_and_erasing_is_heeded(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(
        db,
        owned,
        &[record("one", "d", Some(minutes_ago(100)), "1"), record("two", "d", Some(minutes_ago(100)), "1")],
    )
    .await;
    let request = erasure_request(Subject::Dialog("d".into()));
    let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    place_hold(db, segment_subject("two"), None).await;
    let (erased, found) =
        erasure::execute_plan(db, &request, found, Confirmation::Listed, NOW, &mut |_| {}).await.unwrap();
    assert_eq!((erased.segments, found.held_segments.len()), (1, 1));
    assert_eq!(stored_ids(db).await, ["two"]);
}

async fn what_matches_only_since_the_confirmation_is_kept_and_named(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let segment = |id: &str, dialog: &str| record(id, dialog, Some(minutes_ago(100)), "1");
    ingest_and_store(db, owned, &[segment("listed", "d"), segment("other", "x")]).await;
    let request = erasure_request(Subject::Dialog("d".into()));
    let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    // A hold on something else makes the erasure plan again.
    ingest(db, owned, &[segment("new", "d")]).await;
    place_hold(db, segment_subject("other"), None).await;
    let (erased, left) =
        erasure::execute_plan(db, &request, found, Confirmation::Listed, NOW, &mut |_| {}).await.unwrap();
    assert_eq!((erased.segments, segment_ids(&left.unconfirmed_segments)), (1, vec!["new"]));
    assert!(left.is_incomplete() && !left.has_holds());
    // With `--yes`, everything that matches is confirmed.
    let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    ingest(db, owned, &[segment("newer", "d")]).await;
    place_hold(db, segment_subject("other"), None).await;
    let (erased, left) =
        erasure::execute_plan(db, &request, found, Confirmation::Everything, NOW, &mut |_| {}).await.unwrap();
    assert_eq!((erased.segments, left.is_incomplete()), (2, false));
    // An id that is announced between the confirmation and the erasure was confirmed.
    let request = ErasureRequest { account: Some(owned.account), ..erasure_request(segment_subject("late")) };
    let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    ingest(db, owned, &[segment("late", "d")]).await;
    let (erased, left) =
        erasure::execute_plan(db, &request, found, Confirmation::Listed, NOW, &mut |_| {}).await.unwrap();
    assert_eq!((erased.segments, left.is_incomplete()), (1, false));
    assert_eq!(stored_ids(db).await, ["other"]);
}

async fn a_hold_without_a_subject_or_without_a_row_is_an_error_that_says_so(test: TestDb) {
    let entry = |subject| JournalEntry {
        who: "officer@host".into(),
        what: JournalAction::Hold,
        subject,
        hold: None,
        reason: None,
    };
    let error = test.db.place_hold(&entry(None), None, NOW).await.unwrap_err();
    assert!(error.to_string().contains("no subject was given"), "{error}");
    test.drop_inserted_rows("hold").await;
    let error = test.db.place_hold(&entry(Some(segment_subject("one"))), None, NOW).await.unwrap_err();
    assert_eq!(error.fault(), DbFault::Broken);
    assert!(error.to_string().contains("table hold has no row"), "{error}");
    assert_eq!((row_count(&test.db, "hold").await, row_count(&test.db, "journal").await), (0, 0));
}

fn segment_ids(segments: &[SegmentRef]) -> Vec<&str> {
    segments.iter().map(|segment| segment.segment_id.as_str()).collect()
}

/// A segment with additional metadata fields.
fn record_with_fields(id: &str, fields: &str) -> SegmentRecord {
    let raw = format!(r#"{{"segmentId":"{id}","dialogId":"d-{id}"{fields}}}"#);
    SegmentRecord { raw, ..record(id, &format!("d-{id}"), Some(minutes_ago(100)), "") }
}

/// Ingests these segments of `(id, fields, transcript)`, and stores the transcripts that are not empty.
async fn ingest_with_transcripts(db: &Db, owned: Lease, segments: &[(&str, &str, &str)]) {
    let records: Vec<SegmentRecord> = segments.iter().map(|(id, fields, _)| record_with_fields(id, fields)).collect();
    ingest(db, owned, &records).await;
    let body = |id: &str| segments.iter().find(|(of, ..)| *of == id).map_or("", |(.., body)| body).to_owned();
    let batch: Vec<CompletedJob> = due_claims(db, owned)
        .await
        .into_iter()
        .map(|claim| match body(&claim.segment_id) {
            body if body.is_empty() || claim.item.0 % 4 != 0 => stored_result(claim, "{}".to_owned()),
            body => stored_result(claim, body),
        })
        .collect();
    assert!(db.complete_jobs(&batch).await.unwrap().iter().all(|counted| *counted));
}

async fn a_person_is_found_in_every_field_and_in_every_writing(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let segments = [
        ("channel", r#","channelEndpointAddress":"+49 30 1234567""#, ""),
        ("contact", ",\"contactEndpointAddress\":\"\u{202a}+49\u{a0}30\u{2009}1234567\u{202c}\"", ""),
        ("id", r#","channelId":49301234567"#, ""),
        ("newer", r#","ani":"tel:+49-30-1234567","dnis":"1""#, ""),
        ("twice", r#","ani":"004930 1234567","ani":"x""#, ""),
        ("trunk", r#","dnis":"+49 (0)30 1234567""#, ""),
        ("national", r#","dnis":"030/1234567""#, ""),
        (
            "cut",
            "",
            r#"{"transcript":[{"participantType":"contact","participantId":"whatsapp:+49301234567","message":"cut \ud83d"}]}"#,
        ),
        (
            "customer",
            "",
            r#"{"x":1e999,"transcript":[{"participantType":"customer","participantName":"Jane <sip:+49301234567@pbx>"}]}"#,
        ),
        (
            "untyped",
            r#","segmentParticipantId":"901""#,
            r#"{"transcript":[{"participantId":"901"},{"participantId":"+49301234567","participantType":null}]}"#,
        ),
        ("agent", r#","segmentParticipantId":"+49301234567""#, r#"{"transcript":[{"participantId":"+49301234567"}]}"#),
        ("other", r#","ani":"+49301234568","agentNotes":"+49301234567""#, ""),
    ];
    ingest_with_transcripts(db, owned, &segments).await;
    let found = erasure::plan_erasure(
        db,
        &erasure_request(contact_subject("sips:+49301234567@example.com;user=phone")),
        &mut |_| {},
    )
    .await
    .unwrap();
    let meant = ["channel", "contact", "customer", "cut", "id", "newer", "trunk", "twice", "untyped", "national"];
    assert_eq!(segment_ids(&found.segments), meant);
    assert_eq!(
        (segment_ids(&found.national), found.agent_segments, found.is_incomplete()),
        (vec!["national"], 1, false)
    );
    for typed in ["\u{200e}00 49 30 1234567", "+４９(0)30\u{2011}1234567", "49-30-1234567", "030 1234567"] {
        assert_eq!(matching_segments(db, typed).await.len(), meant.len(), "{typed}");
    }
    // The same number in another country: a number without a country code may be either.
    ingest(db, owned, &[record_with_fields("austrian", r#","ani":"+43 30 1234567""#)]).await;
    let found =
        erasure::plan_erasure(db, &erasure_request(contact_subject("+49301234567")), &mut |_| {}).await.unwrap();
    assert_eq!((found.segments.len(), segment_ids(&found.alike)), (meant.len() - 1, vec!["national"]));
    let found = erasure::plan_erasure(db, &erasure_request(contact_subject("030 1234567")), &mut |_| {}).await.unwrap();
    assert_eq!((segment_ids(&found.segments), found.alike.len()), (vec!["national"], meant.len()));
    let (erased, _) = find_and_erase(db, &erasure_request(contact_subject("+49301234567"))).await;
    assert_eq!(erased.segments, meant.len() as u64 - 1);
    assert_eq!(stored_ids(db).await, ["agent", "austrian", "national", "other"]);
}

async fn matching_segments(db: &Db, typed: &str) -> Vec<SegmentRef> {
    erasure::plan_erasure(db, &erasure_request(contact_subject(typed)), &mut |_| {}).await.unwrap().segments
}

async fn what_is_only_alike_is_named_and_left_unless_it_is_included(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let segments = [
        ("sure", r#","ani":"+12013770791""#, ""),
        ("short", r#","ani":"2013770791""#, ""),
        ("untold", "", r#"{"transcript":[{"participantId":"12013770791"}]}"#),
    ];
    ingest_with_transcripts(db, owned, &segments).await;
    let raw = "{\"ani\":\"201-377-0791\", cut o".to_owned();
    let aside = QuarantinedRecord { segment_id: None, reason: "broken".into(), raw };
    ingest_with(db, owned, Lane::Live, (&[], &[aside]), None).await;
    let (erased, found) = find_and_erase(db, &erasure_request(contact_subject("+1 201 377 0791"))).await;
    assert_eq!((erased.segments, erased.records, segment_ids(&found.alike)), (1, 0, vec!["short", "untold"]));
    assert!(found.is_incomplete() && found.alike_quarantined.len() == 1);
    let all = ErasureRequest { include_alike: true, ..erasure_request(contact_subject("+1 201 377 0791")) };
    let (erased, found) = find_and_erase(db, &all).await;
    assert_eq!((erased.segments, erased.records, found.is_incomplete()), (2, 1, false));
}

async fn what_cannot_be_read_is_on_hold_and_is_named(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let segments = [
        ("broken", "", "{"),
        ("whole", "", "{}"),
        ("half", r#","x":"\ud83d""#, r#"{"transcript":[{"message":"\ud83d"}]}"#),
    ];
    ingest_with_transcripts(db, owned, &segments).await;
    ingest(db, owned, &[SegmentRecord { raw: "{".to_owned(), ..record_with_fields("unread", "") }]).await;
    let kept = place_hold(db, contact_subject("jane@example.com"), None).await;
    let (erased, found) = find_and_erase(db, &erasure_request(contact_subject("joe@example.com"))).await;
    assert_eq!((erased.segments, segment_ids(&found.unreadable)), (0, vec!["broken", "unread"]));
    assert!(!found.has_deletions() && found.is_incomplete() && !found.is_empty());
    let all = ErasureRequest { include_unreadable: true, ..erasure_request(contact_subject("joe@example.com")) };
    let (erased, found) = find_and_erase(db, &all).await;
    assert_eq!((erased.segments, found.held_segments.len(), found.holds()[0].0.id), (0, 2, kept));
    let mut cursor = RetentionCursor::default();
    while erasure::delete_expired_segments(db, owned, NOW, "retention@test", NOW, &mut cursor).await.unwrap().is_some()
    {
    }
    assert_eq!((stored_ids(db).await, cursor.unreadable), (vec!["broken".to_owned(), "unread".to_owned()], 2));
    assert!(db.release_hold(kept, "officer@host", None, NOW).await.unwrap().is_some());
    let (erased, found) = find_and_erase(db, &all).await;
    assert_eq!((erased.segments, found.is_incomplete()), (2, false));
}

async fn find_contact(db: &Db, value: &str) -> ErasurePlan {
    erasure::plan_erasure(db, &erasure_request(contact_subject(value)), &mut |_| {}).await.unwrap()
}

async fn a_value_that_lost_a_letter_is_named_and_held(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let deep = format!(r#","contactEndpointAddress":{}{{"x":"+49301234567"}}{}"#, "[".repeat(130), "]".repeat(130));
    let nul = r#","contactEndpointAddress":"jane@example.com\u0000""#;
    let half = r#","contactEndpointAddress":"jane@example.com\ud83d""#;
    let said = |name: &[u8]| {
        let parts: [&[u8]; 3] = [
            br#"{"transcript":[{"participantType":"contact","participantName":""#,
            name,
            br#"","message":"\ud83d"}]}"#,
        ];
        Bytes::from(parts.concat())
    };
    let names: [(&str, &[u8]); 4] = [
        ("cut", br"Jane Roe \ud83d"),
        ("latin", b"Jos\xe9 Roe"),
        ("nil", br"Jane\u0000 Roe"),
        ("other", b"Max Muster"),
    ];
    let records = [record_with_fields("deep", &deep), record_with_fields("nul", nul), record_with_fields("half", half)]
        .into_iter()
        .chain(names.map(|(id, _)| record_with_fields(id, "")));
    ingest(db, owned, &records.collect::<Vec<_>>()).await;
    let batch: Vec<CompletedJob> = due_claims(db, owned)
        .await
        .into_iter()
        .map(|claim| match names.iter().find(|(id, _)| *id == claim.segment_id && claim.item.0 % 4 == 0) {
            Some((_, name)) => CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&said(name), None) },
            None => stored_result(claim, "{}".to_owned()),
        })
        .collect();
    db.complete_jobs(&batch).await.unwrap();
    for (value, sure, alike) in [
        ("Jane Roe", vec!["nil"], vec!["cut"]),
        ("José Roe", vec![], vec!["latin"]),
        ("jane@example.com", vec!["nul"], vec!["half"]),
        ("+49301234567", vec![], vec![]),
    ] {
        let found = find_contact(db, value).await;
        assert_eq!((segment_ids(&found.segments), segment_ids(&found.alike)), (sure, alike), "{value}");
        assert!(segment_ids(&found.unreadable).contains(&"deep") && found.is_incomplete(), "{value}");
    }
    place_hold(db, contact_subject("José Roe"), None).await;
    assert_eq!(run_retention(db, owned, NOW).await, 3, "what was read whole and is another's");
    assert_eq!(stored_ids(db).await, ["cut", "deep", "half", "latin"]);
}

fn quarantined_record(id: Option<&str>, raw: &str) -> QuarantinedRecord {
    QuarantinedRecord { segment_id: id.map(str::to_owned), reason: "it is broken".to_owned(), raw: raw.to_owned() }
}

async fn a_record_that_cannot_be_read_is_named_and_held(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let asides = [
        quarantined_record(None, r#"{"segmentId":"x",,"contactEndpointAddress":"jane\u0040example.com"}"#),
        quarantined_record(None, r#"{"segmentId":"y",,"contactEndpointAddress":"jane@ex"#),
        quarantined_record(Some("one"), r#"{"segmentId":"one","segmentEndTimeMs":"?","ani":"jane@example.com"}"#),
        quarantined_record(Some("two"), r#"{"segmentId":"two","segmentEndTimeMs":"?","ani":"joe@example.com"}"#),
    ];
    // Of a time that is past retention, only records that a hold may cover are stored.
    let past = |asides| ingest_with(db, owned, Lane::Backfill, (&[], asides), Some(NOW));
    assert_eq!(past(&asides[..]).await.quarantined, 0);
    let kept = place_hold(db, contact_subject("jane@example.com"), None).await;
    assert_eq!(past(&asides[..]).await.quarantined, 3);
    assert_eq!(erasure::delete_expired_quarantined(db, owned, NOW, "retention@test", NOW).await.unwrap().records, 0);
    // It stays when its segment is erased or expires.
    ingest_with(
        db,
        owned,
        Lane::Live,
        (
            &[record("one", "d", Some(minutes_ago(60)), "joe"), record("two", "d", Some(minutes_ago(60)), "joe")],
            &asides,
        ),
        None,
    )
    .await;
    let (erased, found) = find_and_erase(db, &erasure_request(segment_subject("one"))).await;
    assert_eq!((erased.segments, erased.records, found.quarantine_holds.len()), (1, 0, 1));
    assert_eq!(run_retention(db, owned, NOW).await, 1);
    assert_eq!(row_count(db, "aside").await, 3, "all but joe's, which was removed with its segment");
    assert!(db.release_hold(kept, "officer@host", None, NOW).await.unwrap().is_some());
    let found = find_contact(db, "jane@example.com").await;
    assert_eq!((found.quarantined.len(), found.unreadable_quarantined.len()), (2, 1));
    let found = find_contact(db, "somebody").await;
    assert_eq!((found.quarantined.len(), found.unreadable_quarantined.len(), found.is_incomplete()), (0, 2, true));
    let all = ErasureRequest { include_unreadable: true, ..erasure_request(contact_subject("jane@example.com")) };
    let (erased, found) = find_and_erase(db, &all).await;
    assert_eq!((erased.records, found.is_incomplete(), row_count(db, "aside").await), (3, false, 0));
}

async fn an_answer_that_will_be_asked_for_again_hides_nobody_and_holds_up_nothing(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest(db, owned, &[record_with_fields("page", ""), record_with_fields("part", "")]).await;
    let broken = |claim: Claim, state| {
        let body: &[u8] =
            if claim.segment_id == "page" { b"<html>502" } else { br#"{"transcript":[{"participantName":"Jane Roe","# };
        let broken = Some(BrokenAnswer { kind: 1, consecutive: 1, prefix: Bytes::copy_from_slice(body) });
        let settlement = JobOutcome::Failed {
            state,
            due: NOW,
            misses: 0,
            refusals: 0,
            status: Some(200),
            reason: "it is not JSON".into(),
            broken,
        };
        CompletedJob { claim, at: NOW, outcome: settlement }
    };
    for (state, alike, unreadable) in
        [(ItemState::Open, vec!["part"], vec![]), (ItemState::Failed, vec![], vec!["page", "part"])]
    {
        let transcripts = due_claims(db, owned).await.into_iter().filter(|claim| claim.item.0 % 4 == 0);
        let batch: Vec<CompletedJob> = transcripts.map(|claim| broken(claim, state)).collect();
        assert_eq!(db.complete_jobs(&batch).await.unwrap(), [true, true]);
        let found = find_contact(db, "jane roe").await;
        assert_eq!((segment_ids(&found.alike), segment_ids(&found.unreadable)), (alike, unreadable), "{state:?}");
        assert_eq!(find_contact(db, "joe").await.is_empty(), state == ItemState::Open);
    }
}

/// Inserts a hold of a kind that the schema refuses, as in a damaged or newer database.
async fn insert_hold_of_unknown_kind(db: &Db) {
    let place = "insert into hold (kind, value, placed, who) values ('queue', 'x', 0, 'me')";
    let steps = match db.sqlite_path() {
        Some(_) => ["pragma ignore_check_constraints = on", place, "pragma ignore_check_constraints = off"],
        None => ["alter table hold drop constraint hold_kind_check", place, "select 1"],
    };
    let mut tx = db.begin().await.unwrap();
    for step in steps {
        tx.run(sql(step)).await.unwrap();
    }
    tx.commit().await.unwrap();
}

async fn a_hold_of_a_kind_that_is_not_known_keeps_everything(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &[record("one", "d", Some(minutes_ago(100)), "1")]).await;
    let before = find_contact(db, "1").await;
    insert_hold_of_unknown_kind(db).await;
    let refused = [
        erasure::plan_erasure(db, &erasure_request(segment_subject("one")), &mut |_| {}).await.map(drop),
        erasure::execute_plan(
            db,
            &erasure_request(contact_subject("1")),
            before,
            Confirmation::Listed,
            NOW,
            &mut |_| {},
        )
        .await
        .map(drop),
        erasure::delete_expired_segments(db, owned, NOW, "retention@test", NOW, &mut RetentionCursor::default())
            .await
            .map(drop),
        erasure::delete_expired_quarantined(db, owned, NOW, "retention@test", NOW).await.map(drop),
        db.release_hold(1, "officer@host", None, NOW).await.map(drop),
    ];
    for result in refused {
        let error = result.unwrap_err();
        assert!(error.to_string().starts_with("hold.kind of row 1 holds queue"), "{error}");
    }
    assert_eq!(stored_ids(db).await, ["one"]);
}

async fn without_its_key_the_archive_neither_erases_nor_takes_in(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let records = [record("one", "d", Some(minutes_ago(100)), "1"), record("two", "d", Some(minutes_ago(100)), "1")];
    ingest_and_store(db, owned, &records).await;
    find_and_erase(db, &erasure_request(segment_subject("one"))).await;
    db.run(sql("delete from meta where key = 'keeping.key'")).await.unwrap();
    let found = erasure::plan_erasure(db, &erasure_request(segment_subject("two")), &mut |_| {}).await.unwrap();
    assert!(
        erasure::execute_plan(
            db,
            &erasure_request(segment_subject("two")),
            found,
            Confirmation::Listed,
            NOW,
            &mut |_| {}
        )
        .await
        .is_err()
    );
    let known = TimeRangeSet::default();
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Recheck,
        range: COVERED_RANGE,
        now: NOW,
        wants: ALL_ARTIFACTS,
        already_read: &known,
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records: &records,
        quarantined: &[],
    };
    let error = db.ingest_chunk_with_retention(chunk, None).await.unwrap_err();
    assert!(error.to_string().contains("archive's key in the table meta"), "{error}");
    assert!(db.tombstone("one", None).await.is_err() && db.journal(Some(&segment_subject("one"))).await.is_err());
    assert_eq!(stored_ids(db).await, ["two"]);
}

async fn a_hold_says_how_much_it_keeps(test: TestDb) {
    let db = &test.db;
    let (owned, other) = (acquire_account(db, "a").await, acquire_account(db, "b").await);
    let talk = r#"{"transcript":[{"participantType":"agent","participantName":"Agent Smith"},{"participantType":"contact","participantName":"Jane Roe"}]}"#;
    ingest_with_transcripts(
        db,
        owned,
        &[("one", r#","ani":"2013770791""#, talk), ("two", "", talk), ("three", "", "{")],
    )
    .await;
    ingest_with_transcripts(db, other, &[("four", "", talk)]).await;
    let raw = r#"{"segmentId":"two","ani":"Jane Roe","hasTranscript":"?"}"#.to_owned();
    let aside = QuarantinedRecord { segment_id: Some("two".into()), reason: "broken".into(), raw };
    ingest_with(db, owned, Lane::Live, (&[], &[aside]), None).await;
    for (subject, account) in [
        (segment_subject("two"), None),
        (segment_subject("nobody"), None),
        (Subject::Dialog("d-one".into()), None),
        (contact_subject("jane roe"), None),
        (contact_subject("jane roe"), Some(other.account)),
        (contact_subject("agent smith"), Some(other.account)),
        (contact_subject("+12013770791"), None),
    ] {
        place_hold(db, subject, account).await;
    }
    let holds = db.holds(None).await.unwrap();
    let counts = erasure::count_holds(db, &holds, &mut |_| {}).await.unwrap();
    let counts: Vec<[u64; 4]> =
        counts.iter().map(|count| [count.segments, count.possible, count.records, count.agent_segments]).collect();
    assert_eq!(counts, [[1, 0, 1, 0], [0; 4], [1, 0, 0, 0], [4, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1], [2, 2, 0, 0]]);
}

async fn run_retention(db: &Db, owned: Lease, cutoff: Time) -> u64 {
    let (mut cursor, mut taken) = (RetentionCursor::default(), 0);
    while let Some(erased) =
        erasure::delete_expired_segments(db, owned, cutoff, "retention@test", NOW, &mut cursor).await.unwrap()
    {
        taken += erased.segments;
    }
    taken
}

async fn retention_takes_what_is_past_it_and_nothing_else(test: TestDb) {
    let db = &test.db;
    let (owned, other) = (acquire_account(db, "a").await, acquire_account(db, "b").await);
    let day = |days: i64| Some(NOW.plus_millis(-days * DAY));
    let records = [
        record("old", "d1", day(40), "1"),
        record("held", "d2", day(41), "1"),
        record("young", "d3", day(20), "1"),
        record("endless", "d4", None, "1"),
    ];
    ingest_and_store(db, owned, &records).await;
    ingest_and_store(db, other, &[record("theirs", "d1", day(40), "1")]).await;
    place_hold(db, Subject::Dialog("d2".into()), None).await;
    let month = Duration::from_secs(30 * 86_400);
    assert!(erasure::is_retention_due(db, owned.account, month, NOW).await.unwrap());
    assert!(!erasure::is_retention_due(db, owned.account, 3 * month, NOW).await.unwrap());
    let cutoff = NOW - month;
    assert_eq!(run_retention(db, owned, cutoff).await, 1);
    assert_eq!(run_retention(db, owned, cutoff).await, 0);
    assert_eq!(stored_ids(db).await, ["endless", "held", "theirs", "young"]);
    assert_eq!(ingest_with(db, owned, Lane::Backfill, (&records, &[]), Some(cutoff)).await.added, 0);
    // Without an end time, retention counts from when the segment was first seen.
    assert_eq!(run_retention(db, owned, NOW + Duration::from_secs(1)).await, 2);
    assert_eq!(stored_ids(db).await, ["held", "theirs"]);
    // It does not come back under a longer retention either.
    assert_eq!(ingest(db, owned, &records).await.added, 0);
    let answer = run_audit(db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!((answer.accounts[0].segments.expired, answer.accounts[0].segments.announced), (3, 4));
}

async fn an_unusual_pass_leaves_out_what_is_held_and_its_notice_is_kept(test: TestDb) {
    let (db, owned) = (&test.db, acquire_account(&test.db, "20").await);
    let (retention, days) = (Duration::from_secs(30 * 86_400), |days: i64| Some(NOW.plus_millis(-days * DAY)));
    let mut records: Vec<SegmentRecord> =
        (0..20).map(|nth| record(&format!("old-{nth}"), if nth < 15 { "kept" } else { "d" }, days(40), "x")).collect();
    records.extend((0..20).map(|nth| record(&format!("new-{nth}"), "d", days(1), "x")));
    ingest_and_store(db, owned, &records).await;
    let cutoff = NOW - retention;
    let unusual = async |cutoff| erasure::find_unusual_pass(db, owned.account, retention, cutoff).await.unwrap();
    let found = unusual(cutoff).await.unwrap();
    assert_eq!((found.oldest, found.due, found.total), (NOW.plus_millis(-40 * DAY), 20, 40));
    assert_eq!(unusual(NOW.plus_millis(-39 * DAY)).await, None, "overdue by no more than usual");
    let subject = Some(Subject::Dialog("kept".into()));
    let entry = JournalEntry { who: "me".into(), what: JournalAction::Hold, subject, hold: None, reason: None };
    db.place_hold(&entry, None, NOW).await.unwrap();
    assert_eq!(unusual(cutoff).await, None, "five that no hold keeps");

    assert_eq!(erasure::load_notice(db, owned.account).await.unwrap(), None);
    let mut notice = erasure::RetentionNotice {
        retention,
        announced: NOW,
        waited: Duration::from_secs(60),
        segments: 20,
        approved: false,
    };
    erasure::save_notice(db, owned.account, &notice).await.unwrap();
    assert_eq!(erasure::load_notice(db, owned.account).await.unwrap(), Some(notice.clone()));
    db.approve_retention(owned.account, NOW).await.unwrap();
    notice.waited *= 2;
    erasure::save_notice(db, owned.account, &notice).await.unwrap();
    notice.approved = true;
    assert_eq!(erasure::load_notice(db, owned.account).await.unwrap(), Some(notice), "an approval is never lost");
    db.delete_retention_notice(owned.account).await.unwrap();
    assert_eq!(erasure::load_notice(db, owned.account).await.unwrap(), None);
}

async fn retention_knows_when_the_archive_was_last_written(test: TestDb) {
    let (db, owned) = (&test.db, acquire_account(&test.db, "20").await);
    assert_eq!(db.latest_stored_time(owned.account, true).await.unwrap(), None);
    ingest_and_store(db, owned, &[record("s", "d", Some(minutes_ago(60)), "x")]).await;
    assert_eq!(db.latest_stored_time(owned.account, true).await.unwrap(), Some(NOW));
    db.run(sql("update artifact set fetched = $1").bind(NOW.plus_millis(DAY))).await.unwrap();
    let newest = db.latest_stored_time(owned.account, true).await.unwrap();
    assert_eq!(newest, Some(NOW.plus_millis(DAY)));
    assert!(erasure::describe_future_writes(NOW, newest).is_some());
    // The heartbeat of a clock that was ahead counts as long as the API's clock is not believed.
    let replica =
        sql("insert into replica (name, version, started, heartbeat, stats) values ('gone', '1', 0, $1, '{}')");
    db.run(replica.bind(NOW.plus_millis(2 * DAY))).await.unwrap();
    assert_eq!(db.latest_stored_time(owned.account, true).await.unwrap(), Some(NOW.plus_millis(2 * DAY)));
    assert_eq!(db.latest_stored_time(owned.account, false).await.unwrap(), newest);
    // After an approval, rows that are dated ahead count as wrong, also in later passes.
    db.approve_retention(owned.account, NOW).await.unwrap();
    db.delete_retention_notice(owned.account).await.unwrap();
    assert_eq!(db.latest_stored_time(owned.account, true).await.unwrap(), None);
    db.run(sql("update artifact set fetched = $1").bind(NOW.plus_millis(3 * DAY))).await.unwrap();
    assert_eq!(db.latest_stored_time(owned.account, true).await.unwrap(), Some(NOW.plus_millis(3 * DAY)));
}

async fn retention_is_its_owners_alone(test: TestDb) {
    let db = &test.db;
    let before = acquire_account(db, "a").await;
    ingest_and_store(db, before, &[record("one", "d", Some(minutes_ago(100)), "1")]).await;
    acquire_account(db, "a").await;
    let error =
        erasure::delete_expired_segments(db, before, NOW, "retention@test", NOW, &mut RetentionCursor::default())
            .await
            .unwrap_err();
    assert_eq!(error.fault(), DbFault::LeaseLost);
    assert_eq!(stored_ids(db).await, ["one"]);
}

async fn what_is_past_retention_when_it_is_announced_is_not_taken_in(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    place_hold(db, Subject::Contact("keep@example.com".into()), None).await;
    let records = [
        record("past", "d1", Some(minutes_ago(100)), "1"),
        record("held", "d2", Some(minutes_ago(100)), "keep@example.com"),
        record("edge", "d3", Some(minutes_ago(60)), "1"),
        record("endless", "d4", None, "1"),
    ];
    let sum = ingest_with(db, owned, Lane::Backfill, (&records, &[]), Some(minutes_ago(60))).await;
    assert_eq!((sum.segments, sum.added, sum.queued), (4, 3, 9));
    assert_eq!(stored_ids(db).await, ["endless", "held", "edge"]);
    // Under a longer retention it is stored.
    assert_eq!(ingest(db, owned, &records).await.added, 1);
}

async fn what_is_announced_while_it_is_erased_does_not_stay(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &[record("other", "d", Some(minutes_ago(100)), "1")]).await;
    for round in 0..15 {
        let id = format!("s{round}");
        let records =
            [record(&id, "d2", Some(minutes_ago(90)), "1"), record("other", "d", Some(minutes_ago(100)), "1")];
        ingest(db, owned, &records).await;
        let late: Vec<CompletedJob> =
            due_claims(db, owned).await.into_iter().map(|claim| failed_result(claim, "secret")).collect();
        let about = erasure_request(segment_subject(&id));
        let ((erased, _), _, _, settled) = tokio::join!(
            find_and_erase(db, &about),
            ingest(db, owned, &records),
            ingest(db, owned, &records),
            db.complete_jobs(&late),
        );
        settled.unwrap();
        assert_eq!(erased.segments, 1);
    }
    assert_eq!(stored_ids(db).await, ["other"]);
    assert_eq!((row_count(db, "work").await, row_count(db, "attempt").await), (3, 0));
    assert!(run_audit(db).await.complete);
}

async fn the_journal_only_grows(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &[record("one", "d", Some(minutes_ago(100)), "1")]).await;
    find_and_erase(db, &erasure_request(segment_subject("one"))).await;
    for text in ["update journal set who = 'nobody'", "delete from journal"] {
        assert!(db.run(sql(text)).await.is_err(), "{text}");
    }
    let row = db.journal(None).await.unwrap().remove(0);
    assert_eq!((row.who.as_str(), row.what.as_str(), row.segments), ("officer@host", "erase", 1));
    assert_eq!((row.sub.as_deref(), row.reason.as_deref(), row.at), (Some("a"), Some("a request"), NOW));
    assert_eq!(db.journal(Some(&segment_subject("one"))).await.unwrap().len(), 1);
    assert_eq!(db.journal(Some(&segment_subject("two"))).await.unwrap().len(), 0);
}

async fn thousands_go_at_once(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let records: Vec<SegmentRecord> = (0..2500)
        .map(|n| record(&format!("s{n}"), if n % 5 == 0 { "other" } else { "d" }, Some(minutes_ago(n)), "1"))
        .collect();
    ingest_and_store(db, owned, &records).await;
    assert_eq!(find_and_erase(db, &erasure_request(Subject::Dialog("d".into()))).await.0.segments, 2000);
    let again = ingest(db, owned, &records).await;
    assert_eq!((again.segments, again.added), (2500, 0));
    let answer = run_audit(db).await;
    assert!(answer.complete, "{:?}", answer.problems);
    assert_eq!((answer.accounts[0].segments.erased, answer.accounts[0].ledger.held), (2000, 500));
}

/// A unique word, short enough not to be compressed.
fn marker_word(what: &str, n: usize) -> String {
    format!("zq{what}{:07x}qz", (n * 48_271 + 11) % 0x0fff_ffff)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_a_word_of_what_was_erased_is_left_in_the_files() {
    let test = support::open_sqlite().await;
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let numbers: HashMap<String, usize> = (0..1800).map(|n| (marker_word("id", n), n)).collect();
    // A file in which rows have moved: many rows of different lengths, changed repeatedly.
    for round in 0..30 {
        let records: Vec<SegmentRecord> = (round * 60..round * 60 + 60).map(|n| record_with_markers(n, 0)).collect();
        ingest(db, owned, &records).await;
        let changed: Vec<SegmentRecord> = (0..round * 60).step_by(7).map(|n| record_with_markers(n, round)).collect();
        ingest(db, owned, &changed).await;
        let batch: Vec<CompletedJob> = due_claims(db, owned)
            .await
            .into_iter()
            .filter(|claim| claim.item.0 % 5 != 0)
            .map(|claim| {
                let n = numbers[&claim.segment_id];
                if claim.item.0 % 3 == 0 {
                    failed_result(claim, &marker_word("reason", n))
                } else {
                    stored_result(claim, marker_word("said", n))
                }
            })
            .collect();
        db.complete_jobs(&batch).await.unwrap();
        let raw = format!("{} {}", marker_word("aside", round), "x".repeat(round * 9));
        let aside = QuarantinedRecord {
            segment_id: Some(record_with_markers(round * 60, 0).segment_id),
            reason: "broken".into(),
            raw,
        };
        ingest_with(db, owned, Lane::Live, (&[], &[aside]), None).await;
    }
    let gone: Vec<usize> = (0..1800).filter(|n| n % 3 != 1).collect();
    let before = markers_in_files(&test);
    assert!(
        gone.iter().filter(|n| before.contains(&marker_word("said", **n))).count() > 300,
        "the words are not in the files"
    );
    assert!(
        gone.iter().filter(|n| before.contains(&marker_word("reason", **n))).count() > 300,
        "the words are not in the files"
    );
    assert_eq!(find_and_erase(db, &erasure_request(Subject::Dialog("to go".into()))).await.0.segments, 1200);
    assert_eq!(db.wipe_free_pages(true, &Clock::system()).await.unwrap(), WipeOutcome::Clean);
    let after = markers_in_files(&test);
    for n in gone {
        for what in ["id", "note", "said", "reason"] {
            assert!(!after.contains(&marker_word(what, n)), "a word is left: {what} of segment {n}");
        }
    }
    for round in (0..30).filter(|round| round * 60 % 3 != 1) {
        assert!(!after.contains(&marker_word("aside", round)), "a word is left: a record set aside");
    }
    assert!(after.contains(&marker_word("id", 1)), "what was not erased is still there");
}

fn record_with_markers(n: usize, version: usize) -> SegmentRecord {
    let id = marker_word("id", n);
    let note = format!("{} v{version}{}", marker_word("note", n), "-".repeat((n + version) % 30));
    let dialog = if n % 3 == 1 { "to stay" } else { "to go" };
    SegmentRecord { raw: note, segment_id: id, ..record("", dialog, Some(minutes_ago(200)), "") }
}

/// All marker words in the files of the database's folder.
fn markers_in_files(test: &TestDb) -> HashSet<String> {
    let marker = regex::Regex::new("zq[a-z]+?[0-9a-f]{7}qz").unwrap();
    let mut words = HashSet::new();
    for entry in std::fs::read_dir(test.folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        words.extend(marker.find_iter(&String::from_utf8_lossy(&bytes)).map(|word| word.as_str().to_owned()));
    }
    words
}
