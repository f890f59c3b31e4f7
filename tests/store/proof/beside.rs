//! What is stored beside the texts: metadata and its history, tombstones, the journal, holds, coverage.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _};
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{Access, Announced, Db, Done, Entry, Owned, Reading, sql};
use ringcx_extractor::model::{Lane, SegmentRecord, Stretch, Subject};
use ringcx_extractor::proof::Line;
use ringcx_extractor::verify::{Problem, ProblemKind};

use super::{
    DAY, NOW, announce_at, erase, exported, filled, forge, forge_metadata, forge_records, own, problems,
    problems_against, run, segment, verified_against,
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

fn call(id: &str, number: &str, agent: &str) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: Some(Time(1_700_000_000_000)),
        has_transcript: true,
        is_agent: true,
        raw: format!(
            r#"{{"segmentId":"{id}","dialogId":"d-{id}","hasTranscript":true,"segmentType":"AGENT","segmentEndTimeMs":1700000000000,"contactEndpointAddress":"{number}","agentName":"{agent}"}}"#
        ),
    }
}

/// An account with two calls, one of which was changed twice.
async fn called(db: &Db) -> Owned {
    let owned = own(db, "7").await;
    let mut first = call("a", "+12013770791", "Ann");
    first.has_transcript = false;
    first.raw = first.raw.replace("true", "false");
    announce_at(db, owned, &[first, call("b", "+12013770792", "Bob")], NOW).await;
    announce_at(db, owned, &[call("a", "+12013770791", "Ann")], NOW + MINUTE).await;
    announce_at(db, owned, &[call("a", "+12013770791", "Anna")], NOW + 2 * MINUTE).await;
    assert_eq!(problems(db).await, []);
    owned
}

async fn set_metadata(db: &Db, id: &str, record: &SegmentRecord) {
    let stmt = sql("update segment set codec = 0, metadata = $2 where segment_id = $1").bind(id);
    assert_eq!(db.run(stmt.bind(record.raw.clone().into_bytes())).await.unwrap(), 1);
}

fn kinds(problems: &[Problem]) -> Vec<(ProblemKind, Option<&str>)> {
    problems.iter().map(|problem| (problem.kind, problem.segment_id.as_deref())).collect()
}

/// Each change is found as this alone, and nothing is left of it once it is undone.
async fn each(db: &Db, kind: ProblemKind, changes: &[(&'static str, &'static str)]) {
    for (change, back) in changes {
        run(db, change).await;
        let found = problems(db).await;
        assert!(!found.is_empty() && found.iter().all(|problem| problem.kind == kind), "{change}: {found:?}");
        run(db, back).await;
        assert_eq!(problems(db).await, [], "{back}");
    }
}

async fn metadata_exchanged_together_with_its_digest_is_found_and_named(test: TestDb) {
    called(&test.db).await;
    set_metadata(&test.db, "b", &call("b", "+4989123456", "Eve")).await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Metadata, Some("b"))]);
    let leaf = test.db.first(sql("select leaf from segment where segment_id = 'b'")).await.unwrap().unwrap();
    forge_metadata(&test.db).await;
    let back = sql("update segment set leaf = $1 where segment_id = 'b'").bind(leaf.bytes(0).unwrap());
    test.db.run(back).await.unwrap();
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Metadata, Some("b"))]);
    // The leaf too: then the chain shows it.
    forge_metadata(&test.db).await;
    let found = problems(&test.db).await;
    assert_eq!(kinds(&found), [(ProblemKind::Records, None)]);
    assert!(found[0].what.starts_with("records, numbers 1 to 4: "), "{found:?}");
}

async fn metadata_rewritten_with_the_whole_chain_is_found_against_an_earlier_export(test: TestDb) {
    let owned = called(&test.db).await;
    let mut before = exported(&test.db).await;
    assert!(test.db.seal_day(owned, NOW + DAY).await.unwrap().is_some());
    announce_at(&test.db, owned, &[call("c", "+12013770793", "Cyd")], NOW + DAY).await;
    let manifest = exported(&test.db).await.remove(0);
    set_metadata(&test.db, "b", &call("b", "+4989123456", "Eve")).await;
    forge(&test.db).await;
    assert_eq!(problems(&test.db).await, []);
    // Against the head that was exported, and against a manifest of an earlier day alone.
    let found = problems_against(&test.db, &before).await;
    assert_eq!(kinds(&found), [(ProblemKind::Recorded, None)]);
    assert!(found[0].what.contains("it was rewritten after records, number 0"), "{found:?}");
    assert!(matches!(manifest, Line::Manifest(_)));
    let found = problems_against(&test.db, &[manifest]).await;
    assert!(!found.is_empty() && found.iter().all(|problem| problem.kind == ProblemKind::Recorded), "{found:?}");
    // A chain that was cut short is found as well.
    forge_records(&test.db, owned.account, 3).await;
    assert!(problems_against(&test.db, &before).await.iter().any(|problem| problem.what.contains("and was 4 in")));
    // A line of a program that did not chain records says nothing of them.
    let Line::Head(head) = &mut before[0] else { unreachable!() };
    (head.records, head.record_head, head.reads, head.reads_head) = (None, None, None, None);
    forge_records(&test.db, owned.account, 5).await;
    assert_eq!(problems_against(&test.db, &before).await, []);
}

async fn what_is_derived_from_metadata_cannot_be_altered(test: TestDb) {
    called(&test.db).await;
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
    each(&test.db, ProblemKind::Metadata, &changes).await;
    // Also where the hashes are made to fit: the metadata itself says otherwise.
    for (change, back) in &changes[..4] {
        run(&test.db, change).await;
        forge_metadata(&test.db).await;
        let found = problems(&test.db).await;
        assert!(found.iter().any(|problem| problem.kind == ProblemKind::Metadata), "{change}: {found:?}");
        run(&test.db, back).await;
        forge_metadata(&test.db).await;
    }
    assert_eq!(problems(&test.db).await, []);
}

async fn a_forged_history_of_metadata_is_found(test: TestDb) {
    called(&test.db).await;
    each(
        &test.db,
        ProblemKind::Metadata,
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
        let stmt = "select segment, seen, codec, metadata from segment_version where has_transcript = 1";
        let (from, to) = (from.to_owned(), to.to_owned());
        let db = test.db.clone();
        async move {
            let row = db.first(sql(stmt)).await.unwrap().unwrap();
            let held = ringcx_extractor::db::unpack(row.int(2).unwrap(), row.bytes(3).unwrap()).unwrap();
            let held = String::from_utf8(held.to_vec()).unwrap();
            assert!(held.contains(&from));
            let stmt =
                sql("update segment_version set codec = 0, metadata = $2 where seen = $1").bind(row.int(1).unwrap());
            db.run(stmt.bind(held.replace(&from, &to).into_bytes())).await.unwrap();
        }
    };
    text("Ann", "Eve").await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Metadata, Some("a"))]);
    text("Eve", "Ann").await;
    assert_eq!(problems(&test.db).await, []);
    // A version that never was, and one that is gone.
    run(
        &test.db,
        "insert into segment_version (segment, seen, what, codec, metadata) select id, 5, 'metadata changed', codec, metadata from segment where segment_id = 'b'",
    )
    .await;
    assert!(problems(&test.db).await.iter().any(|problem| problem.kind == ProblemKind::Records));
    run(&test.db, "delete from segment_version where seen = 5").await;
    run(&test.db, "delete from segment_version where has_transcript = 0").await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Records, None)]);
}

async fn what_changes_lawfully_raises_no_alarm(test: TestDb) {
    let owned = called(&test.db).await;
    let db = &test.db;
    // Twice in one moment; back to what it was; nothing but the dialog's id left out.
    for agent in ["Eve", "Fay", "Bob"] {
        announce_at(db, owned, &[call("b", "+12013770792", agent)], NOW + 3 * MINUTE).await;
        assert_eq!(problems(db).await, []);
    }
    let mut bare = call("b", "+12013770792", "Bob");
    (bare.dialog_id, bare.raw) = (None, bare.raw.replace(r#""dialogId":"d-b","#, ""));
    announce_at(db, owned, &[bare], NOW + 4 * MINUTE).await;
    assert_eq!(problems(db).await, []);
    // What a newer program understands of the same record.
    let understood = SegmentRecord { end: None, raw: call("a", "+12013770791", "Anna").raw, ..call("a", "", "") };
    run(db, "update segment set asked = 0 where segment_id = 'a'").await;
    announce_at(db, owned, &[understood], NOW + 5 * MINUTE).await;
    assert_eq!(problems(db).await, []);
    let before = exported(db).await;
    for id in ["a", "b"] {
        erase(db, owned.account, segment(db, id).await).await;
        assert_eq!(problems_against(db, &before).await, []);
    }
    announce_at(db, owned, &[call("a", "+12013770791", "Ann"), call("c", "+12013770791", "Ann")], NOW + DAY).await;
    assert_eq!(problems_against(db, &before).await, []);
    let report = verified_against(db, Vec::new()).await;
    assert_eq!((report.accounts[0].segments, report.journal_entries, report.holds), (1, 2, 0));
    assert!(report.verdict.contains("as far as the archive's own hashes show"), "{}", report.verdict);
    assert!(report.not_covered.last().unwrap().contains("--against"));
    assert_eq!(verified_against(db, before).await.verdict, "intact: nothing was altered since the export");
}

fn entry(what: Done, subject: Option<Subject>) -> Entry {
    Entry { who: "me".to_owned(), what, subject, hold: None, reason: Some("the court".to_owned()) }
}

/// Takes from the journal what keeps it from being changed.
async fn unlock_journal(db: &Db) {
    if db.file().is_some() {
        for trigger in ["drop trigger journal_is_not_changed", "drop trigger journal_is_not_cut"] {
            db.run(sql(trigger)).await.unwrap();
        }
    } else {
        db.run(sql("alter table journal disable trigger all")).await.unwrap();
    }
}

/// Two erasures, a hold that stands and one that was released.
async fn kept(db: &Db) -> Owned {
    let owned = called(db).await;
    for id in ["a", "b"] {
        erase(db, owned.account, segment(db, id).await).await;
    }
    let contact = || Some(Subject::Contact("+1 201 377 0791".to_owned()));
    db.place_hold(&entry(Done::Hold, contact()), Some(owned.account), NOW).await.unwrap();
    let id = db.place_hold(&entry(Done::Hold, contact()), None, NOW).await.unwrap();
    db.release_hold(id, "me", None, NOW).await.unwrap().unwrap();
    assert_eq!(problems(db).await, []);
    owned
}

async fn a_removed_or_altered_journal_is_found(test: TestDb) {
    kept(&test.db).await;
    unlock_journal(&test.db).await;
    each(
        &test.db,
        ProblemKind::Journal,
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
    run(&test.db, "delete from journal where id = 1").await;
    assert!(problems(&test.db).await.iter().any(|problem| problem.kind == ProblemKind::Journal));
    run(&test.db, "delete from journal").await;
    let found = problems(&test.db).await;
    assert!(found[0].what.starts_with("journal entries, numbers 1 to 5: entries are missing"), "{found:?}");
    assert!(found.iter().any(|problem| problem.kind == ProblemKind::Hold));
    // Its chain as well: what is counted as erased and what is held still say otherwise.
    run(&test.db, "delete from record_chain where account = 0").await;
    run(&test.db, "delete from hold").await;
    let found = problems(&test.db).await;
    assert_eq!(kinds(&found), [(ProblemKind::Journal, None)]);
    assert!(found[0].what.contains("2 segments are counted as erased, and the journal says 0"), "{found:?}");
}

async fn a_journal_rewritten_with_its_chain_is_found_against_an_earlier_export(test: TestDb) {
    kept(&test.db).await;
    let before = exported(&test.db).await;
    unlock_journal(&test.db).await;
    for text in
        ["delete from journal", "delete from hold", "delete from record_chain where account = 0", "delete from erased"]
    {
        run(&test.db, text).await;
    }
    assert_eq!(problems(&test.db).await, []);
    let found = problems_against(&test.db, &before).await;
    assert!(found.iter().all(|problem| problem.kind == ProblemKind::Recorded), "{found:?}");
    assert!(found.iter().any(|problem| problem.what.contains("and was 5 in the head")), "{found:?}");
    // As many others in its place do not help.
    for _ in 0..6 {
        test.db.note_in_journal(&entry(Done::Refused, None), None, (0, 0), NOW).await.unwrap();
    }
    assert_eq!(kinds(&problems_against(&test.db, &before).await), [(ProblemKind::Recorded, None)]);
}

async fn a_hold_that_was_altered_removed_or_added_is_found(test: TestDb) {
    kept(&test.db).await;
    each(
        &test.db,
        ProblemKind::Hold,
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
    run(&test.db, "delete from hold").await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Hold, None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_from_before_the_upgrade_cannot_be_altered_unseen_either() {
    let test = crate::support::sqlite().await;
    kept(&test.db).await;
    unlock_journal(&test.db).await;
    // As an older version entered it.
    run(&test.db, "update journal set value_hash = null").await;
    run(&test.db, "delete from record_chain where account = 0").await;
    run(&test.db, "delete from meta where key = 'records.sealed'").await;
    let path = test.db.file().unwrap().to_owned();
    test.db.close().await;
    let db = Db::open_sqlite(&path, Access::Own).await.unwrap();
    assert_eq!(problems(&db).await, []);
    let changes = [
        ("update hold set value = '+1 201 377 0799'", "update hold set value = '+1 201 377 0791'"),
        ("update hold set kind = 'dialog'", "update hold set kind = 'contact'"),
    ];
    each(&db, ProblemKind::Hold, &changes).await;
}

async fn altered_tombstones_and_counts_of_what_was_erased_are_found(test: TestDb) {
    kept(&test.db).await;
    let first = "(select min(record) from tombstone)";
    each(
        &test.db,
        ProblemKind::Records,
        &[
            ("update tombstone set at = at + 1", "update tombstone set at = at - 1"),
            ("update tombstone set kind = 1", "update tombstone set kind = 0"),
            ("update tombstone set day = day + 1", "update tombstone set day = day - 1"),
        ],
    )
    .await;
    each(
        &test.db,
        ProblemKind::Journal,
        &[("update erased set segments = segments - 1", "update erased set segments = segments + 1")],
    )
    .await;
    // One that is gone lets the segment in again.
    run(&test.db, format!("delete from tombstone where record = {first}").leak()).await;
    let found = problems(&test.db).await;
    assert_eq!(kinds(&found), [(ProblemKind::Records, None)]);
    assert!(found[0].what.contains("is missing"), "{found:?}");
}

async fn read(db: &Db, owned: Owned, at: Time, (from, to): (i64, i64)) {
    let stretch = Stretch { from: Time(from), to: Time(to) };
    let (lane, announced) = (Lane::Live, Announced::default());
    let passes = vec![("live".to_owned(), stretch)];
    let reading = Reading { at, done: at, lane, stretch, announced, passes, finished: Vec::new() };
    db.record_reading(owned, &reading).await.unwrap();
}

async fn altered_coverage_and_reads_are_found(test: TestDb) {
    let owned = called(&test.db).await;
    for (n, range) in [(1, (0, 10)), (2, (10, 20)), (3, (30, 40))] {
        read(&test.db, owned, NOW + n * MINUTE, range).await;
    }
    assert_eq!(problems(&test.db).await, []);
    each(
        &test.db,
        ProblemKind::Coverage,
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
    // What is cut off is logged.
    let mut tx = test.db.begin().await.unwrap();
    let covered = tx.coverage_digest(owned.account).await.unwrap();
    tx.log_cut(owned.account, NOW + 4 * MINUTE, covered).await.unwrap();
    tx.run(sql("update coverage set to_ms = 35 where to_ms = 40")).await.unwrap();
    tx.log_cut(owned.account, NOW + 4 * MINUTE, covered).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(problems(&test.db).await, []);
    let before = exported(&test.db).await;
    // A read that comes later does not hide it.
    run(&test.db, "update coverage set to_ms = 29 where from_ms = 0").await;
    read(&test.db, owned, NOW + 4 * MINUTE, (40, 50)).await;
    let found = problems(&test.db).await;
    assert_eq!(kinds(&found), [(ProblemKind::Coverage, None)]);
    assert!(found[0].what.contains("between the reads 4 and 5"), "{found:?}");
    // The log written anew from an earlier read on.
    run(&test.db, "delete from reading").await;
    run(&test.db, "update record_chain set reads = 0, reads_head = head where account <> 0").await;
    for n in 1..7 {
        read(&test.db, owned, NOW + n * MINUTE, (50, 60)).await;
    }
    assert_eq!(problems(&test.db).await, []);
    let found = problems_against(&test.db, &before).await;
    assert_eq!(kinds(&found), [(ProblemKind::Recorded, None)]);
    // Reads leave the log; what is left still hangs together.
    run(&test.db, "delete from reading where nth < 4").await;
    assert_eq!(problems(&test.db).await, []);
    run(&test.db, "delete from reading").await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Coverage, None)]);
}

async fn a_backfill_that_is_cancelled_while_it_is_read_raises_no_alarm(test: TestDb) {
    let owned = called(&test.db).await;
    read(&test.db, owned, NOW + MINUTE, (50, 60)).await;
    let range = Stretch { from: Time(0), to: Time(40) };
    let id = test.db.request_backfill(owned.account, range, false, NOW + MINUTE).await.unwrap();
    let part = |from, to, finished| Reading {
        at: NOW + 2 * MINUTE,
        done: NOW + 2 * MINUTE,
        lane: Lane::Backfill,
        stretch: Stretch { from: Time(from), to: Time(to) },
        announced: Announced::default(),
        passes: vec![(format!("backfill:{id}"), Stretch { from: Time(from), to: Time(to) })],
        finished,
    };
    test.db.record_reading(owned, &part(0, 10, Vec::new())).await.unwrap();
    let covered = test.db.coverage(owned.account).await.unwrap();
    assert_eq!(covered.len(), 2);
    assert!(test.db.cancel_backfill(id, NOW + 3 * MINUTE).await.unwrap());
    assert_eq!(problems(&test.db).await, []);
    // The read that was under way, and one that would have been the last.
    test.db.record_reading(owned, &part(10, 20, Vec::new())).await.unwrap();
    test.db.record_reading(owned, &part(20, 40, vec![id])).await.unwrap();
    assert_eq!(test.db.coverage(owned.account).await.unwrap().len(), 1, "what was cancelled left something");
    let backfill = test.db.backfills(None, true).await.unwrap().remove(0);
    assert_eq!(backfill.finished, Some(NOW + 3 * MINUTE));
    assert_eq!(problems(&test.db).await, []);
}

async fn an_entry_attached_to_another_segment_is_found(test: TestDb) {
    filled(&test.db).await;
    run(
        &test.db,
        "update artifact set version = 2, item = (select id * 4 from segment where segment_id = 'a') where feed = 10",
    )
    .await;
    let found = problems(&test.db).await;
    assert_eq!(kinds(&found), [(ProblemKind::Chain, None)]);
    run(
        &test.db,
        "update artifact set version = 1, item = (select id * 4 from segment where segment_id = 'd') where feed = 10",
    )
    .await;
    assert_eq!(problems(&test.db).await, []);
    own(&test.db, "8").await;
    run(&test.db, "update segment set account = (select id from account where sub = '8') where segment_id = 'd'").await;
    assert!(
        problems(&test.db)
            .await
            .iter()
            .any(|problem| problem.what.contains("attached to a segment of another account"))
    );
}

async fn rows_that_this_program_did_not_write_are_found(test: TestDb) {
    called(&test.db).await;
    run(
        &test.db,
        "insert into erased_record (account, record, leaf) select account, record + 100, leaf from segment where segment_id = 'b'",
    )
    .await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Records, None)]);
    run(&test.db, "delete from erased_record").await;
    // A leaf beside its row counts twice.
    run(
        &test.db,
        "insert into erased_record (account, record, leaf) select account, record, leaf from segment where segment_id = 'b'",
    )
    .await;
    assert_eq!(kinds(&problems(&test.db).await), [(ProblemKind::Records, None)]);
}

/// A page of the file that is overwritten keeps it from being called intact, whatever it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_found_wherever_it_is() {
    const PAGE: usize = 8192;
    let test = crate::support::sqlite().await;
    let owned = filled(&test.db).await;
    erase(&test.db, owned.account, segment(&test.db, "b").await).await;
    read(&test.db, owned, NOW, (0, 10)).await;
    let path = test.db.file().unwrap().to_owned();
    test.db.close().await;
    let whole = std::fs::read(&path).unwrap();
    let mut chance = rand::rngs::StdRng::seed_from_u64(1);
    let pages = whole.len() / PAGE;
    assert!(pages > 40, "{pages} pages");
    // Every page would take long; the first holds the schema.
    for page in (0..pages).step_by(3) {
        let mut damaged = whole.clone();
        chance.fill(&mut damaged[page * PAGE..(page + 1) * PAGE]);
        let copy = path.with_file_name(format!("damaged-{page}.db"));
        std::fs::write(&copy, damaged).unwrap();
        // What cannot even be opened is no less found.
        let Ok(db) = Db::open_sqlite(&copy, Access::Existing).await else { continue };
        if let Ok(chains) = ringcx_extractor::verify::chains(&db, None).await {
            let question = ringcx_extractor::verify::Question { now: NOW, ..Default::default() };
            let report = ringcx_extractor::verify::verify(&db, &chains, &question, &mut |_| ()).await;
            assert!(report.is_err() || report.is_ok_and(|report| !report.intact), "page {page} of {pages}");
        }
        db.close().await;
        std::fs::remove_file(&copy).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_the_databases_files_were_checked_is_said() {
    let test = crate::support::sqlite().await;
    filled(&test.db).await;
    assert_eq!(verified_against(&test.db, Vec::new()).await.database_checked_by, Some("integrity_check"));
    let test = crate::support::postgres().await;
    filled(&test.db).await;
    let report = verified_against(&test.db, Vec::new()).await;
    assert!(report.intact && report.database_checked_by.is_none());
    assert!(report.not_covered.iter().any(|what| what.contains("amcheck")), "{:?}", report.not_covered);
    // Where it is not installed beside the server, that is all that there is.
    if test.db.run(sql("create extension amcheck")).await.is_ok() {
        let report = verified_against(&test.db, Vec::new()).await;
        assert_eq!((report.problems, report.database_checked_by), (Vec::new(), Some("amcheck")));
        // An index that does not have what its table has.
        run(&test.db, "update pg_index set indisready = false where indexrelid = 'segment_record'::regclass").await;
        super::announce(&test.db, own(&test.db, "7").await, &[super::record("e", 5)]).await;
        run(&test.db, "update pg_index set indisready = true where indexrelid = 'segment_record'::regclass").await;
        let found = problems(&test.db).await;
        assert!(found.iter().any(|problem| problem.kind == ProblemKind::Database), "{found:?}");
    }
}
