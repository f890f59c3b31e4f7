//! Alterations of everything beside the texts: metadata and its history, tombstones, the journal, holds, coverage.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Db, IngestSummary, JournalAction, JournalEntry, Lease, OpenMode, WindowRead, sql};
use ringcx_extractor::model::{Lane, SegmentRecord, Subject, TimeRange};
use ringcx_extractor::proof::ExportedLine;
use ringcx_extractor::verify::{IntegrityProblem, IntegrityProblemKind};

use super::{
    DAY, NOW, acquire_account, archive_with_manifest, erase_segment, execute_sql, export_lines, find_problems,
    find_problems_against, forge_everything, forge_metadata, forge_record_chain, ingest_at, segment_key,
    verify_against,
};
use crate::on_both;
use crate::support::TestDb;

on_both! {
    metadata_exchanged_together_with_its_digest_is_found_and_named,
    metadata_rewritten_with_the_whole_chain_is_found_against_an_earlier_export,
    what_is_derived_from_metadata_cannot_be_altered,
    a_forged_history_of_metadata_is_found,
    what_changes_lawfully_raises_no_alarm,
    a_removed_or_altered_journal_is_found,
    a_journal_rewritten_with_its_chain_is_found_against_an_earlier_export,
    a_hold_that_was_altered_removed_or_added_is_found,
    altered_tombstones_and_counts_of_what_was_erased_are_found,
    altered_coverage_and_reads_are_found,
    a_backfill_that_is_cancelled_while_it_is_read_raises_no_alarm,
    an_entry_attached_to_another_segment_is_found,
    rows_that_this_program_did_not_write_are_found,
}

const MINUTE: Duration = Duration::from_secs(60);

fn call_record(id: &str, number: &str, agent: &str) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: Some(Time(1_700_000_000_000)),
        has_transcript: true,
        is_agent: true,
        has_recording: false,
        raw: format!(
            r#"{{"segmentId":"{id}","dialogId":"d-{id}","hasTranscript":true,"segmentType":"AGENT","segmentEndTimeMs":1700000000000,"contactEndpointAddress":"{number}","agentName":"{agent}"}}"#
        ),
    }
}

/// An account with two calls; the metadata of one changed twice.
async fn archive_with_calls(db: &Db) -> Lease {
    let owned = acquire_account(db, "7").await;
    let mut first = call_record("a", "+12013770791", "Ann");
    first.has_transcript = false;
    first.raw = first.raw.replace("true", "false");
    ingest_at(db, owned, &[first, call_record("b", "+12013770792", "Bob")], NOW).await;
    ingest_at(db, owned, &[call_record("a", "+12013770791", "Ann")], NOW + MINUTE).await;
    ingest_at(db, owned, &[call_record("a", "+12013770791", "Anna")], NOW + 2 * MINUTE).await;
    assert_eq!(find_problems(db).await, []);
    owned
}

async fn set_metadata(db: &Db, id: &str, record: &SegmentRecord) {
    let stmt = sql("update segment set codec = 0, metadata = $2 where segment_id = $1").bind(id);
    assert_eq!(db.run(stmt.bind(record.raw.clone().into_bytes())).await.unwrap(), 1);
}

fn problem_kinds(problems: &[IntegrityProblem]) -> Vec<(IntegrityProblemKind, Option<&str>)> {
    problems.iter().map(|problem| (problem.kind, problem.segment_id.as_deref())).collect()
}

/// Asserts that each change is found as problems of this kind only, and that nothing is found once it is undone.
async fn assert_each_change_found(db: &Db, kind: IntegrityProblemKind, changes: &[(&'static str, &'static str)]) {
    for (change, back) in changes {
        execute_sql(db, change).await;
        let found = find_problems(db).await;
        assert!(!found.is_empty() && found.iter().all(|problem| problem.kind == kind), "{change}: {found:?}");
        execute_sql(db, back).await;
        assert_eq!(find_problems(db).await, [], "{back}");
    }
}

async fn metadata_exchanged_together_with_its_digest_is_found_and_named(test: TestDb) {
    archive_with_calls(&test.db).await;
    set_metadata(&test.db, "b", &call_record("b", "+4989123456", "Eve")).await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Metadata, Some("b"))]);
    let leaf: Option<Vec<u8>> = test.db.value(sql("select leaf from segment where segment_id = 'b'")).await.unwrap();
    forge_metadata(&test.db).await;
    let back = sql("update segment set leaf = $1 where segment_id = 'b'").bind(leaf.unwrap());
    test.db.run(back).await.unwrap();
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Metadata, Some("b"))]);
    // With the leaf altered too, the chain shows it.
    forge_metadata(&test.db).await;
    let found = find_problems(&test.db).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Records, None)]);
    assert!(found[0].what.starts_with("records, numbers 1 to 4: "), "{found:?}");
}

async fn metadata_rewritten_with_the_whole_chain_is_found_against_an_earlier_export(test: TestDb) {
    let owned = archive_with_calls(&test.db).await;
    let mut before = export_lines(&test.db).await;
    assert!(test.db.write_daily_manifest(owned, NOW + DAY).await.unwrap().is_some());
    ingest_at(&test.db, owned, &[call_record("c", "+12013770793", "Cyd")], NOW + DAY).await;
    let manifest = export_lines(&test.db).await.remove(0);
    set_metadata(&test.db, "b", &call_record("b", "+4989123456", "Eve")).await;
    forge_everything(&test.db).await;
    assert_eq!(find_problems(&test.db).await, []);
    // Against the head that was exported, and against a manifest of an earlier day alone.
    let found = find_problems_against(&test.db, &before).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Recorded, None)]);
    assert!(found[0].what.contains("it was rewritten after records, number 0"), "{found:?}");
    assert!(matches!(manifest, ExportedLine::Manifest(_)));
    let found = find_problems_against(&test.db, &[manifest]).await;
    assert!(
        !found.is_empty() && found.iter().all(|problem| problem.kind == IntegrityProblemKind::Recorded),
        "{found:?}"
    );
    // A chain that was cut short is found as well.
    forge_record_chain(&test.db, owned.account, 3).await;
    assert!(find_problems_against(&test.db, &before).await.iter().any(|problem| problem.what.contains("but was 4 in")));
    // An export of an older program, without record heads, proves nothing about records.
    let ExportedLine::Head(head) = &mut before[0] else { unreachable!() };
    (head.records, head.record_head, head.reads, head.reads_head) = (None, None, None, None);
    forge_record_chain(&test.db, owned.account, 5).await;
    assert_eq!(find_problems_against(&test.db, &before).await, []);
}

async fn what_is_derived_from_metadata_cannot_be_altered(test: TestDb) {
    archive_with_calls(&test.db).await;
    let changes = [
        (
            "update segment set dialog_id = 'x' where segment_id = 'b'",
            "update segment set dialog_id = 'd-b' where segment_id = 'b'",
        ),
        (
            "update segment set ended = ended + 1 where segment_id = 'b'",
            "update segment set ended = ended - 1 where segment_id = 'b'",
        ),
        (
            "update segment set has_transcript = 0 where segment_id = 'b'",
            "update segment set has_transcript = 1 where segment_id = 'b'",
        ),
        (
            "update segment set is_agent = 0 where segment_id = 'b'",
            "update segment set is_agent = 1 where segment_id = 'b'",
        ),
        (
            "update segment set since = since + 1 where segment_id = 'b'",
            "update segment set since = since - 1 where segment_id = 'b'",
        ),
    ];
    assert_each_change_found(&test.db, IntegrityProblemKind::Metadata, &changes).await;
    // With matching hashes too, because the metadata itself contradicts the columns.
    for (change, back) in &changes[..4] {
        execute_sql(&test.db, change).await;
        forge_metadata(&test.db).await;
        let found = find_problems(&test.db).await;
        assert!(found.iter().any(|problem| problem.kind == IntegrityProblemKind::Metadata), "{change}: {found:?}");
        execute_sql(&test.db, back).await;
        forge_metadata(&test.db).await;
    }
    assert_eq!(find_problems(&test.db).await, []);
}

async fn a_forged_history_of_metadata_is_found(test: TestDb) {
    archive_with_calls(&test.db).await;
    assert_each_change_found(
        &test.db,
        IntegrityProblemKind::Metadata,
        &[
            ("update segment_version set seen = seen + 1", "update segment_version set seen = seen - 1"),
            (
                "update segment_version set what = 'metadata changed' where what <> 'metadata changed'",
                "update segment_version set what = 'hasTranscript turned true' where has_transcript = 0",
            ),
            ("update segment_version set dialog_id = 'x'", "update segment_version set dialog_id = 'd-a'"),
            ("update segment_version set since = since + 1", "update segment_version set since = since - 1"),
        ],
    )
    .await;
    let text = |from: &str, to: &str| {
        let stmt = "select seen, codec, metadata from segment_version where has_transcript = 1";
        let (from, to) = (from.to_owned(), to.to_owned());
        let db = test.db.clone();
        async move {
            let (seen, codec, metadata) = db.first::<(i64, i64, Vec<u8>)>(sql(stmt)).await.unwrap().unwrap();
            let held = ringcx_extractor::db::unpack(codec, metadata).unwrap();
            let held = String::from_utf8(held.to_vec()).unwrap();
            assert!(held.contains(&from));
            let stmt = sql("update segment_version set codec = 0, metadata = $2 where seen = $1").bind(seen);
            db.run(stmt.bind(held.replace(&from, &to).into_bytes())).await.unwrap();
        }
    };
    text("Ann", "Eve").await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Metadata, Some("a"))]);
    text("Eve", "Ann").await;
    assert_eq!(find_problems(&test.db).await, []);
    // An added version, and a removed one.
    execute_sql(
        &test.db,
        "insert into segment_version (segment, seen, what, codec, metadata) select id, 5, 'metadata changed', codec, metadata from segment where segment_id = 'b'",
    )
    .await;
    assert!(find_problems(&test.db).await.iter().any(|problem| problem.kind == IntegrityProblemKind::Records));
    execute_sql(&test.db, "delete from segment_version where seen = 5").await;
    execute_sql(&test.db, "delete from segment_version where has_transcript = 0").await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Records, None)]);
}

async fn what_changes_lawfully_raises_no_alarm(test: TestDb) {
    let owned = archive_with_calls(&test.db).await;
    let db = &test.db;
    // Two changes at the same time; back to the old value; only the dialog's id removed.
    for agent in ["Eve", "Fay", "Bob"] {
        ingest_at(db, owned, &[call_record("b", "+12013770792", agent)], NOW + 3 * MINUTE).await;
        assert_eq!(find_problems(db).await, []);
    }
    let mut bare = call_record("b", "+12013770792", "Bob");
    (bare.dialog_id, bare.raw) = (None, bare.raw.replace(r#""dialogId":"d-b","#, ""));
    ingest_at(db, owned, &[bare], NOW + 4 * MINUTE).await;
    assert_eq!(find_problems(db).await, []);
    // A newer program that reads the same record differently.
    let understood =
        SegmentRecord { end: None, raw: call_record("a", "+12013770791", "Anna").raw, ..call_record("a", "", "") };
    execute_sql(db, "update segment set asked = 0 where segment_id = 'a'").await;
    ingest_at(db, owned, &[understood], NOW + 5 * MINUTE).await;
    assert_eq!(find_problems(db).await, []);
    let before = export_lines(db).await;
    for id in ["a", "b"] {
        erase_segment(db, owned.account, segment_key(db, id).await).await;
        assert_eq!(find_problems_against(db, &before).await, []);
    }
    ingest_at(
        db,
        owned,
        &[call_record("a", "+12013770791", "Ann"), call_record("c", "+12013770791", "Ann")],
        NOW + DAY,
    )
    .await;
    assert_eq!(find_problems_against(db, &before).await, []);
    let report = verify_against(db, Vec::new()).await;
    assert_eq!((report.accounts[0].segments, report.journal_entries, report.holds), (1, 2, 0));
    assert!(report.verdict.contains("according to the hashes in the archive"), "{}", report.verdict);
    assert!(report.not_covered.last().unwrap().contains("--against"));
    assert_eq!(verify_against(db, before).await.verdict, "intact: nothing was altered since the export");
}

fn journal_entry(what: JournalAction, subject: Option<Subject>) -> JournalEntry {
    JournalEntry { who: "me".to_owned(), what, subject, hold: None, reason: Some("the court".to_owned()) }
}

/// Allows changes of the journal.
async fn disable_journal_triggers(db: &Db) {
    if db.sqlite_path().is_some() {
        for trigger in ["drop trigger journal_is_not_changed", "drop trigger journal_is_not_cut"] {
            db.run(sql(trigger)).await.unwrap();
        }
    } else {
        db.run(sql("alter table journal disable trigger all")).await.unwrap();
    }
}

/// Two erasures, an active hold and a released one.
async fn archive_with_holds(db: &Db) -> Lease {
    let owned = archive_with_calls(db).await;
    for id in ["a", "b"] {
        erase_segment(db, owned.account, segment_key(db, id).await).await;
    }
    let contact = || Some(Subject::Contact("+1 201 377 0791".to_owned()));
    db.place_hold(&journal_entry(JournalAction::Hold, contact()), Some(owned.account), NOW).await.unwrap();
    let id = db.place_hold(&journal_entry(JournalAction::Hold, contact()), None, NOW).await.unwrap();
    db.release_hold(id, "me", None, NOW).await.unwrap().unwrap();
    assert_eq!(find_problems(db).await, []);
    owned
}

async fn a_removed_or_altered_journal_is_found(test: TestDb) {
    archive_with_holds(&test.db).await;
    disable_journal_triggers(&test.db).await;
    assert_each_change_found(
        &test.db,
        IntegrityProblemKind::Journal,
        &[
            ("update journal set at = at + 1 where id = 1", "update journal set at = at - 1 where id = 1"),
            ("update journal set who = 'you' where id = 2", "update journal set who = 'test' where id = 2"),
            (
                "update journal set segments = 0, records = 1 where id = 2",
                "update journal set segments = 1, records = 0 where id = 2",
            ),
            ("update journal set reason = 'none' where id = 1", "update journal set reason = null where id = 1"),
        ],
    )
    .await;
    execute_sql(&test.db, "delete from journal where id = 1").await;
    assert!(find_problems(&test.db).await.iter().any(|problem| problem.kind == IntegrityProblemKind::Journal));
    execute_sql(&test.db, "delete from journal").await;
    let found = find_problems(&test.db).await;
    assert!(found[0].what.starts_with("journal entries, numbers 1 to 5: entries are missing"), "{found:?}");
    assert!(found.iter().any(|problem| problem.kind == IntegrityProblemKind::Hold));
    // With its chain removed too, the erased counts still contradict it.
    execute_sql(&test.db, "delete from record_chain where account = 0").await;
    execute_sql(&test.db, "delete from hold").await;
    let found = find_problems(&test.db).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Journal, None)]);
    assert!(found[0].what.contains("2 segments are counted as erased, but the journal lists 0"), "{found:?}");
}

async fn a_journal_rewritten_with_its_chain_is_found_against_an_earlier_export(test: TestDb) {
    archive_with_holds(&test.db).await;
    let before = export_lines(&test.db).await;
    disable_journal_triggers(&test.db).await;
    for text in
        ["delete from journal", "delete from hold", "delete from record_chain where account = 0", "delete from erased"]
    {
        execute_sql(&test.db, text).await;
    }
    assert_eq!(find_problems(&test.db).await, []);
    let found = find_problems_against(&test.db, &before).await;
    assert!(found.iter().all(|problem| problem.kind == IntegrityProblemKind::Recorded), "{found:?}");
    assert!(found.iter().any(|problem| problem.what.contains("but was 5 in the head")), "{found:?}");
    // As many other entries do not hide it.
    for _ in 0..6 {
        test.db.add_journal_entry(&journal_entry(JournalAction::Refused, None), None, (0, 0), NOW).await.unwrap();
    }
    assert_eq!(
        problem_kinds(&find_problems_against(&test.db, &before).await),
        [(IntegrityProblemKind::Recorded, None)]
    );
}

async fn a_hold_that_was_altered_removed_or_added_is_found(test: TestDb) {
    archive_with_holds(&test.db).await;
    assert_each_change_found(
        &test.db,
        IntegrityProblemKind::Hold,
        &[
            ("update hold set value = '+1 201 377 0799'", "update hold set value = '+1 201 377 0791'"),
            ("update hold set kind = 'dialog'", "update hold set kind = 'contact'"),
            ("update hold set account = null", "update hold set account = 1"),
            ("update hold set who = 'you'", "update hold set who = 'me'"),
            ("update hold set reason = null", "update hold set reason = 'the court'"),
            ("update hold set id = id + 100", "update hold set id = id - 100"),
            (
                "insert into hold (id, kind, value, placed, who) values (50, 'segment', 'x', 0, 'me')",
                "delete from hold where id = 50",
            ),
        ],
    )
    .await;
    execute_sql(&test.db, "delete from hold").await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Hold, None)]);
}

async fn altered_tombstones_and_counts_of_what_was_erased_are_found(test: TestDb) {
    archive_with_holds(&test.db).await;
    let first = "(select min(record) from tombstone)";
    assert_each_change_found(
        &test.db,
        IntegrityProblemKind::Records,
        &[
            ("update tombstone set at = at + 1", "update tombstone set at = at - 1"),
            ("update tombstone set kind = 1", "update tombstone set kind = 0"),
            ("update tombstone set day = day + 1", "update tombstone set day = day - 1"),
        ],
    )
    .await;
    assert_each_change_found(
        &test.db,
        IntegrityProblemKind::Journal,
        &[("update erased set segments = segments - 1", "update erased set segments = segments + 1")],
    )
    .await;
    // A removed tombstone would let the segment return.
    execute_sql(&test.db, format!("delete from tombstone where record = {first}").leak()).await;
    let found = find_problems(&test.db).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Records, None)]);
    assert!(found[0].what.contains("is missing"), "{found:?}");
}

async fn record_read(db: &Db, owned: Lease, at: Time, (from, to): (i64, i64)) {
    let stretch = TimeRange { from: Time(from), to: Time(to) };
    let (lane, announced) = (Lane::Live, IngestSummary::default());
    let passes = vec![("live".to_owned(), stretch)];
    let reading =
        WindowRead { at, done: at, lane, range: stretch, summary: announced, purposes: passes, finished: Vec::new() };
    db.record_window_read(owned, &reading).await.unwrap();
}

async fn altered_coverage_and_reads_are_found(test: TestDb) {
    let owned = archive_with_calls(&test.db).await;
    for (n, range) in [(1, (0, 10)), (2, (10, 20)), (3, (30, 40))] {
        record_read(&test.db, owned, NOW + n * MINUTE, range).await;
    }
    assert_eq!(find_problems(&test.db).await, []);
    assert_each_change_found(
        &test.db,
        IntegrityProblemKind::Coverage,
        &[
            ("update coverage set to_ms = 30 where from_ms = 0", "update coverage set to_ms = 20 where from_ms = 0"),
            (
                "update coverage set last_read = 1 where from_ms = 30",
                "update coverage set last_read = first_read where from_ms = 30",
            ),
            ("update reading set announced = 7 where nth = 2", "update reading set announced = 0 where nth = 2"),
            ("update reading set to_ms = 11 where nth = 1", "update reading set to_ms = 10 where nth = 1"),
            ("update reading set nth = 9 where nth = 3", "update reading set nth = 3 where nth = 9"),
        ],
    )
    .await;
    // A cut of the coverage is logged.
    let mut tx = test.db.begin().await.unwrap();
    let covered = tx.coverage_digest(owned.account).await.unwrap();
    tx.log_coverage_change(owned.account, NOW + 4 * MINUTE, covered).await.unwrap();
    tx.run(sql("update coverage set to_ms = 35 where to_ms = 40")).await.unwrap();
    tx.log_coverage_change(owned.account, NOW + 4 * MINUTE, covered).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(find_problems(&test.db).await, []);
    let before = export_lines(&test.db).await;
    // A later read does not hide it.
    execute_sql(&test.db, "update coverage set to_ms = 29 where from_ms = 0").await;
    record_read(&test.db, owned, NOW + 4 * MINUTE, (40, 50)).await;
    let found = find_problems(&test.db).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Coverage, None)]);
    assert!(found[0].what.contains("between the reads 4 and 5"), "{found:?}");
    // The log rewritten from an earlier read on.
    execute_sql(&test.db, "delete from reading").await;
    execute_sql(&test.db, "update record_chain set reads = 0, reads_head = head where account <> 0").await;
    for n in 1..7 {
        record_read(&test.db, owned, NOW + n * MINUTE, (50, 60)).await;
    }
    assert_eq!(find_problems(&test.db).await, []);
    let found = find_problems_against(&test.db, &before).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Recorded, None)]);
    // Old reads leave the log; the rest is still consistent.
    execute_sql(&test.db, "delete from reading where nth < 4").await;
    assert_eq!(find_problems(&test.db).await, []);
    execute_sql(&test.db, "delete from reading").await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Coverage, None)]);
}

async fn a_backfill_that_is_cancelled_while_it_is_read_raises_no_alarm(test: TestDb) {
    let owned = archive_with_calls(&test.db).await;
    record_read(&test.db, owned, NOW + MINUTE, (50, 60)).await;
    let range = TimeRange { from: Time(0), to: Time(40) };
    let id = test.db.request_backfill(owned.account, range, false, NOW + MINUTE).await.unwrap();
    let part = |from, to, finished| WindowRead {
        at: NOW + 2 * MINUTE,
        done: NOW + 2 * MINUTE,
        lane: Lane::Backfill,
        range: TimeRange { from: Time(from), to: Time(to) },
        summary: IngestSummary::default(),
        purposes: vec![(format!("backfill:{id}"), TimeRange { from: Time(from), to: Time(to) })],
        finished,
    };
    test.db.record_window_read(owned, &part(0, 10, Vec::new())).await.unwrap();
    let covered = test.db.coverage(owned.account).await.unwrap();
    assert_eq!(covered.len(), 2);
    assert!(test.db.cancel_backfill(id, NOW + 3 * MINUTE).await.unwrap());
    assert_eq!(find_problems(&test.db).await, []);
    // The read that was in progress, and one that would have been the last.
    test.db.record_window_read(owned, &part(10, 20, Vec::new())).await.unwrap();
    test.db.record_window_read(owned, &part(20, 40, vec![id])).await.unwrap();
    assert_eq!(test.db.coverage(owned.account).await.unwrap().len(), 1, "the cancelled backfill left coverage");
    let backfill = test.db.backfills(None, true).await.unwrap().remove(0);
    assert_eq!(backfill.finished, Some(NOW + 3 * MINUTE));
    assert_eq!(find_problems(&test.db).await, []);
}

async fn an_entry_attached_to_another_segment_is_found(test: TestDb) {
    archive_with_manifest(&test.db).await;
    execute_sql(
        &test.db,
        "update artifact set version = 2, item = (select id * 4 from segment where segment_id = 'a') where feed = 10",
    )
    .await;
    let found = find_problems(&test.db).await;
    assert_eq!(problem_kinds(&found), [(IntegrityProblemKind::Chain, None)]);
    execute_sql(
        &test.db,
        "update artifact set version = 1, item = (select id * 4 from segment where segment_id = 'd') where feed = 10",
    )
    .await;
    assert_eq!(find_problems(&test.db).await, []);
    acquire_account(&test.db, "8").await;
    execute_sql(
        &test.db,
        "update segment set account = (select id from account where sub = '8') where segment_id = 'd'",
    )
    .await;
    assert!(
        find_problems(&test.db)
            .await
            .iter()
            .any(|problem| problem.what.contains("attached to a segment of another account"))
    );
}

async fn rows_that_this_program_did_not_write_are_found(test: TestDb) {
    archive_with_calls(&test.db).await;
    execute_sql(
        &test.db,
        "insert into erased_record (account, record, leaf) select account, record + 100, leaf from segment where segment_id = 'b'",
    )
    .await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Records, None)]);
    execute_sql(&test.db, "delete from erased_record").await;
    // A leaf in addition to its row counts twice.
    execute_sql(
        &test.db,
        "insert into erased_record (account, record, leaf) select account, record, leaf from segment where segment_id = 'b'",
    )
    .await;
    assert_eq!(problem_kinds(&find_problems(&test.db).await), [(IntegrityProblemKind::Records, None)]);
}

/// An overwritten page of the file is found, whatever it contained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_found_wherever_it_is() {
    const PAGE: usize = 8192;
    let test = crate::support::open_sqlite().await;
    let owned = archive_with_manifest(&test.db).await;
    erase_segment(&test.db, owned.account, segment_key(&test.db, "b").await).await;
    record_read(&test.db, owned, NOW, (0, 10)).await;
    let path = test.db.sqlite_path().unwrap().to_owned();
    test.db.close().await;
    let whole = std::fs::read(&path).unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let pages = whole.len() / PAGE;
    assert!(pages > 40, "{pages} pages");
    // Every third page, to save time; the first holds the schema.
    for page in (0..pages).step_by(3) {
        let mut damaged = whole.clone();
        rng.fill(&mut damaged[page * PAGE..(page + 1) * PAGE]);
        let copy = path.with_file_name(format!("damaged-{page}.db"));
        std::fs::write(&copy, damaged).unwrap();
        // A database that cannot be opened counts as found.
        let Ok(db) = Db::open_sqlite(&copy, OpenMode::Existing).await else { continue };
        if let Ok(chains) = ringcx_extractor::verify::load_chains(&db, None).await {
            let question = ringcx_extractor::verify::VerifyRequest { now: NOW, ..Default::default() };
            let report = ringcx_extractor::verify::verify_archive(&db, &chains, &question, &mut |_| ()).await;
            assert!(report.is_err() || report.is_ok_and(|report| !report.intact), "page {page} of {pages}");
        }
        db.close().await;
        std::fs::remove_file(&copy).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_the_databases_files_were_checked_is_said() {
    let test = crate::support::open_sqlite().await;
    archive_with_manifest(&test.db).await;
    assert_eq!(verify_against(&test.db, Vec::new()).await.database_checked_by, Some("integrity_check"));
    let test = crate::support::open_postgres().await;
    archive_with_manifest(&test.db).await;
    let report = verify_against(&test.db, Vec::new()).await;
    assert!(report.intact && report.database_checked_by.is_none());
    assert!(report.not_covered.iter().any(|what| what.contains("amcheck")), "{:?}", report.not_covered);
    // The rest needs the extension to be installed on the server.
    if test.db.run(sql("create extension amcheck")).await.is_ok() {
        let report = verify_against(&test.db, Vec::new()).await;
        assert_eq!((report.problems, report.database_checked_by), (Vec::new(), Some("amcheck")));
        // An index that lacks a row of its table.
        execute_sql(&test.db, "update pg_index set indisready = false where indexrelid = 'segment_record'::regclass")
            .await;
        super::ingest(&test.db, acquire_account(&test.db, "7").await, &[super::record("e", 5)]).await;
        execute_sql(&test.db, "update pg_index set indisready = true where indexrelid = 'segment_record'::regclass")
            .await;
        let found = find_problems(&test.db).await;
        assert!(found.iter().any(|problem| problem.kind == IntegrityProblemKind::Database), "{found:?}");
    }
}
