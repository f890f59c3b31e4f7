//! The access log on both databases: its numbers, its filters, its retention, and what `verify` finds.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::time::Duration;

use crate::support::TestDb;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{
    AccessAction, AccessLogQuery, AccessLogRow, Db, NewAccessEntry, ReaderKind, SubjectKind, sql,
};
use ringcx_extractor::model::AccountId;
use ringcx_extractor::proof::ExportedLine;
use ringcx_extractor::verify::{self, IntegrityProblemKind, VerifyRequest};

crate::on_both! {
    entries_are_numbered_without_a_gap_whoever_writes_and_found_by_reader_time_and_subject,
    retention_removes_the_oldest_entries_and_the_rest_stays_verifiable,
    a_log_that_was_rewritten_as_a_whole_differs_from_an_earlier_export,
}

const NOW: Time = Time(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn entry<'a>(at: Time, reader: &'a str, kind: SubjectKind, subject: &'a str) -> NewAccessEntry<'a> {
    NewAccessEntry {
        at,
        reader_kind: ReaderKind::Person,
        reader,
        origin: "10.0.0.1",
        action: if kind == SubjectKind::Query { AccessAction::Search } else { AccessAction::Read },
        sub: Some("7"),
        subject_kind: kind,
        subject,
        is_hashed: false,
        hits: (kind == SubjectKind::Query).then_some(12),
    }
}

async fn all_entries(db: &Db) -> Vec<AccessLogRow> {
    db.access_log(&AccessLogQuery::default(), 0).await.unwrap()
}

async fn problems(db: &Db, recorded: Vec<ExportedLine>) -> Vec<(IntegrityProblemKind, String)> {
    let chains = verify::load_chains(db, None).await.unwrap();
    let request = VerifyRequest { now: NOW, recorded, ..VerifyRequest::default() };
    let report = verify::verify_archive(db, &chains, &request, &mut |_| {}).await.unwrap();
    report.problems.into_iter().map(|problem| (problem.kind, problem.what)).collect()
}

async fn assert_intact(db: &Db, recorded: Vec<ExportedLine>) {
    let found = problems(db, recorded).await;
    assert!(found.is_empty(), "{found:?}");
}

async fn entries_are_numbered_without_a_gap_whoever_writes_and_found_by_reader_time_and_subject(test: TestDb) {
    let db = &test.db;
    assert!(all_entries(db).await.is_empty());
    let readers: Vec<String> = (0..20).map(|nth| format!("reader-{nth}")).collect();
    let append = |reader: &str| {
        let (db, reader) = (db.clone(), reader.to_owned());
        async move { db.append_access_entry(&entry(NOW, &reader, SubjectKind::Segment, "seg-1")).await.unwrap() }
    };
    let mut numbers = futures_util::future::join_all(readers.iter().map(|reader| append(reader))).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<i64>>());
    let long = format!("refund\0{}", "x".repeat(5_000));
    db.append_access_entry(&entry(NOW + DAY, "Ann@example.com", SubjectKind::Query, &long)).await.unwrap();
    db.append_access_entry(&entry(NOW + DAY * 2, "bob", SubjectKind::Dialog, "dia-1")).await.unwrap();
    let find = async |query: AccessLogQuery<'_>| {
        let found = db.access_log(&query, 0).await.unwrap();
        found.into_iter().map(|entry| entry.id).collect::<Vec<i64>>()
    };
    assert_eq!(find(AccessLogQuery { who: Some("ann@EXAMPLE.com"), ..AccessLogQuery::default() }).await, [21]);
    assert_eq!(find(AccessLogQuery { from: Some(NOW + DAY), ..AccessLogQuery::default() }).await, [21, 22]);
    assert_eq!(find(AccessLogQuery { to: Some(NOW + DAY), ..AccessLogQuery::default() }).await.len(), 20);
    let about = |segment, dialog| AccessLogQuery { about: Some((segment, dialog)), ..AccessLogQuery::default() };
    assert_eq!(find(about("seg-1", None)).await.len(), 20);
    assert_eq!(find(about("other", Some("dia-1"))).await, [22]);
    assert!(find(about("dia-1", None)).await.is_empty(), "a segment is not a dialog of the same id");
    let query = &all_entries(db).await[20];
    assert_eq!((query.hits, query.sub.as_deref()), (Some(12), Some("7")));
    let text = query.subject.as_deref().unwrap();
    assert!(text.starts_with("refund\u{fffd}xxx") && text.ends_with('…') && text.chars().count() == 2_001, "{text}");
    assert_intact(db, Vec::new()).await;
}

async fn retention_removes_the_oldest_entries_and_the_rest_stays_verifiable(test: TestDb) {
    let db = &test.db;
    for day in 0..5 {
        db.append_access_entry(&entry(NOW + DAY * day, "ann", SubjectKind::Segment, "seg-1")).await.unwrap();
    }
    let remove = async |before: Time| db.remove_access_entries(before, NOW + DAY * 9, "host-1").await.unwrap();
    assert_eq!(remove(NOW).await, 0);
    assert_eq!(all_entries(db).await.len(), 5, "nothing was due, so nothing is recorded");
    assert_eq!(remove(NOW + DAY * 3).await, 3);
    assert_eq!(remove(NOW + DAY * 3).await, 0);
    let left: Vec<(i64, String)> = all_entries(db).await.into_iter().map(|entry| (entry.id, entry.action)).collect();
    assert_eq!(left, [(4, "read".to_owned()), (5, "read".to_owned()), (6, "remove_entries".to_owned())]);
    assert_intact(db, Vec::new()).await;
    assert_eq!(remove(NOW + DAY * 30).await, 3, "the entry about the removal is removed in its turn");
    assert_eq!(all_entries(db).await.iter().map(|entry| entry.id).collect::<Vec<_>>(), [7]);
    assert_intact(db, Vec::new()).await;
    // Someone who moves the mark by hand may delete, but is found out.
    db.append_access_entry(&entry(NOW, "ann", SubjectKind::Segment, "seg-1")).await.unwrap();
    let head = sql("update access_chain set removed = 8, removed_head = head");
    db.run(head).await.unwrap();
    db.run(sql("delete from access_log where id <= 8")).await.unwrap();
    let found = problems(db, Vec::new()).await;
    assert!(found.iter().any(|(_, what)| what.contains("no entry of retention says so")), "{found:?}");
    assert!(found.iter().all(|(kind, _)| *kind == IntegrityProblemKind::Access), "{found:?}");
}

async fn a_log_that_was_rewritten_as_a_whole_differs_from_an_earlier_export(test: TestDb) {
    let db = &test.db;
    db.register_account(&AccountId::new("1", "7"), None, NOW).await.unwrap();
    for reader in ["ann", "bob"] {
        db.append_access_entry(&entry(NOW, reader, SubjectKind::Segment, "seg-1")).await.unwrap();
    }
    let chains = verify::load_chains(db, None).await.unwrap();
    let exported: Vec<ExportedLine> = chains.iter().flat_map(|chain| verify::manifest_lines(chain, NOW)).collect();
    let reread: Vec<ExportedLine> =
        exported.iter().map(|line| ExportedLine::parse(&serde_json::to_string(line).unwrap()).unwrap()).collect();
    assert_intact(db, reread.clone()).await;
    db.append_access_entry(&entry(NOW, "eve", SubjectKind::Segment, "seg-1")).await.unwrap();
    assert_intact(db, reread.clone()).await;
    // It goes on after the export. Without the triggers it can be emptied and written anew, with hashes that fit.
    let triggers = ["access_log_is_not_cut", "access_chain_stays"];
    for (trigger, table) in triggers.into_iter().zip(["access_log", "access_chain"]) {
        let on = if db.sqlite_path().is_some() { String::new() } else { format!(" on {table}") };
        db.run(ringcx_extractor::db::Stmt::built(format!("drop trigger {trigger}{on}"))).await.unwrap();
    }
    db.run(sql("delete from access_log")).await.unwrap();
    db.run(sql("delete from access_chain")).await.unwrap();
    for reader in ["bob", "bob", "eve"] {
        db.append_access_entry(&entry(NOW, reader, SubjectKind::Segment, "seg-1")).await.unwrap();
    }
    assert_intact(db, Vec::new()).await;
    let found = problems(db, reread).await;
    assert!(found.iter().any(|(kind, _)| *kind == IntegrityProblemKind::Recorded), "{found:?}");
}
