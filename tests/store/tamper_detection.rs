//! `verify` on both databases: it finds and names every alteration, and raises no false alarm.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod metadata_and_journal;

use crate::support;

use std::time::Duration;

use bytes::Bytes;
use rand::RngCore;
use ringcx_extractor::clock::Time;
use ringcx_extractor::daemon::manifest_writer::ManifestWriter;
use ringcx_extractor::db::{
    AccountKey, Claim, CompletedJob, Db, DeletionBatch, DeletionReason, JobOutcome, JournalAction, JournalEntry, Lease,
    MetadataChunk, sql,
};
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::proof::{ExportedLine, MetadataRecord};
use ringcx_extractor::verify::{self, IntegrityProblem, IntegrityProblemKind, VerifyReport, VerifyRequest};
use sha2::{Digest, Sha256};
use support::TestDb;

crate::on_both! {
    an_archive_that_nobody_touched_is_intact,
    a_flipped_byte_of_a_body_is_found_and_named,
    a_flipped_byte_of_metadata_is_found_and_named,
    a_deleted_entry_is_found_wherever_it_was,
    exchanged_entries_are_found,
    exchanged_bodies_are_found,
    a_change_to_anything_beside_the_body_is_found_and_narrowed_down,
    a_removed_segment_is_found,
    an_entry_that_lies_outside_the_feed_is_found,
    a_removed_or_altered_manifest_is_found,
    a_past_that_was_rewritten_whole_is_found_against_an_earlier_export,
    a_shortened_past_is_found_against_an_earlier_export,
    an_account_that_is_gone_is_found_against_an_earlier_export,
    what_was_erased_lawfully_leaves_the_proof_whole,
    entries_from_before_the_chain_are_accepted_and_their_bodies_checked,
    an_archive_that_grows_and_is_erased_from_meanwhile_raises_no_alarm,
    settling_twice_links_once,
    a_day_is_sealed_once_and_only_where_something_came,
    pages_do_not_matter,
    what_was_exported_is_read_back,
}

const NOW: Time = Time(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn record(id: &str, ended: i64) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: Some(Time(ended)),
        has_transcript: true,
        is_agent: true,
        has_recording: false,
        raw: format!(r#"{{"segmentId":"{id}","hasTranscript":true,"unknown":[1,null]}}"#),
    }
}

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn ingest(db: &Db, owned: Lease, records: &[SegmentRecord]) {
    ingest_at(db, owned, records, NOW).await;
}

async fn ingest_at(db: &Db, owned: Lease, records: &[SegmentRecord], now: Time) {
    let known = TimeRangeSet::default();
    let wants = ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed };
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: Time(0), to: NOW },
        now,
        wants,
        already_read: &known,
        urgent_before: None,
        quarantine_retry_delay: Duration::from_secs(60),
        records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap();
}

async fn due_claims(db: &Db, owned: Lease) -> Vec<Claim> {
    let mut claims = db.due_items(owned, ArtifactSet::ALL, NOW + 9 * DAY, 50_000).await.unwrap();
    claims.sort_by_key(|claim| claim.item);
    claims
}

fn answered_result(claim: Claim) -> CompletedJob {
    let body =
        Bytes::from(format!(r#"{{"transcript":["{} of {} {}"]}}"#, claim.artifact, claim.segment_id, "x".repeat(80)));
    CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) }
}

/// Ingests these segments and stores every artifact: three feed entries per segment, in order.
async fn ingest_and_store(db: &Db, owned: Lease, ids: &[&str]) {
    let records: Vec<SegmentRecord> = (0..).zip(ids).map(|(n, id)| record(id, 1000 + n)).collect();
    ingest(db, owned, &records).await;
    let batch: Vec<CompletedJob> = due_claims(db, owned).await.into_iter().map(answered_result).collect();
    assert!(db.complete_jobs(&batch).await.unwrap().iter().all(|counted| *counted));
}

/// An account with two segments, a manifest after them, and two more segments after that: twelve entries.
async fn archive_with_manifest(db: &Db) -> Lease {
    let owned = acquire_account(db, "7").await;
    ingest_and_store(db, owned, &["a", "b"]).await;
    assert!(db.write_daily_manifest(owned, NOW).await.unwrap().is_some());
    ingest_and_store(db, owned, &["c", "d"]).await;
    owned
}

async fn verify_against(db: &Db, recorded: Vec<ExportedLine>) -> VerifyReport {
    let question = VerifyRequest { now: NOW, recorded, ..VerifyRequest::default() };
    let chains = verify::load_chains(db, None).await.unwrap();
    let mut read = 0;
    let report = verify::verify_archive(db, &chains, &question, &mut |more| read += more).await.unwrap();
    assert_eq!(report.intact, report.problems.is_empty());
    let extent = verify::count_steps(db, &chains, None).await.unwrap();
    assert!(!report.intact || read == extent, "{read} of {extent}");
    report
}

async fn find_problems(db: &Db) -> Vec<IntegrityProblem> {
    verify_against(db, Vec::new()).await.problems
}

async fn find_problems_against(db: &Db, recorded: &[ExportedLine]) -> Vec<IntegrityProblem> {
    verify_against(db, recorded.to_vec()).await.problems
}

async fn export_lines(db: &Db) -> Vec<ExportedLine> {
    let chains = verify::load_chains(db, None).await.unwrap();
    chains.iter().flat_map(|chain| verify::manifest_lines(chain, NOW)).collect()
}

async fn execute_sql(db: &Db, text: &'static str) {
    assert!(db.run(sql(text)).await.unwrap() > 0, "{text} changed nothing");
}

/// Flips one bit in the middle of the bytes that `select` returns, and writes them with `update`.
async fn flip_bit(db: &Db, select: &'static str, update: &'static str) {
    let mut bytes: Vec<u8> = db.value(sql(select)).await.unwrap().unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert_eq!(db.run(sql(update).bind(bytes)).await.unwrap(), 1);
}

/// Kind, segment, first and last feed number.
type ProblemSummary<'a> = (IntegrityProblemKind, Option<&'a str>, Option<i64>, Option<i64>);

fn summarize(problems: &[IntegrityProblem]) -> Vec<ProblemSummary<'_>> {
    problems
        .iter()
        .map(|problem| (problem.kind, problem.segment_id.as_deref(), problem.feed, problem.to_feed))
        .collect()
}

/// Erases a segment lawfully, with a journal entry.
async fn erase_segment(db: &Db, account: AccountKey, segment: i64) {
    let entry =
        JournalEntry { who: "test".to_owned(), what: JournalAction::Erase, subject: None, hold: None, reason: None };
    let erasing = DeletionBatch {
        account,
        lease: None,
        segments: &[segment],
        quarantined: &[],
        unknown_ids: &[],
        reason: DeletionReason::Erased,
        newest_hold_id: i64::MAX,
        at: NOW,
        journal_entry: &entry,
        access_entry: None,
    };
    assert_eq!(db.delete_batch(&erasing).await.unwrap().unwrap().segments, 1);
}

/// Sets the announced counts to the stored segments, as lawful erasure does.
async fn match_announced_to_stored(db: &Db) {
    for row in db.snapshot().await.unwrap().daily_digests(Default::default()).await.unwrap() {
        let stmt = sql(
            "update announced set segments = $3, digest_high = $4, digest_low = $5 where account = $1 and day = $2",
        );
        let stmt = stmt.bind(row.account).bind(row.day).bind(row.stored.segments);
        db.run(stmt.bind(row.stored.digest_high).bind(row.stored.digest_low)).await.unwrap();
    }
}

async fn segment_key(db: &Db, id: &str) -> i64 {
    db.segments_by_id(id).await.unwrap()[0].key
}

async fn an_archive_that_nobody_touched_is_intact(test: TestDb) {
    let report = verify_against(&test.db, Vec::new()).await;
    assert!(report.intact && report.accounts.is_empty());
    let owned = archive_with_manifest(&test.db).await;
    acquire_account(&test.db, "8").await;
    // A later version of a summary is a separate entry.
    execute_sql(&test.db, "insert into work (item, segment, artifact, account, lane, state, due, created, visit) select 5, 1, 1, account, 3, 0, 0, 0, 1 from segment where id = 1").await;
    let claim = due_claims(&test.db, owned).await.remove(0);
    let settlement = JobOutcome::stored(&Bytes::from_static(b"another text"), None);
    assert_eq!(test.db.complete_jobs(&[CompletedJob { claim, at: NOW, outcome: settlement }]).await.unwrap(), [true]);
    let report = verify_against(&test.db, export_lines(&test.db).await).await;
    assert_eq!(report.problems, []);
    let account = &report.accounts[0];
    assert_eq!((account.feed, account.entries, account.erased, account.chain_from), (13, 13, 0, 0));
    assert_eq!((account.manifests, account.segments, account.head.len()), (1, 4, 64));
    assert_eq!((report.accounts[1].feed, report.accounts[1].entries), (0, 0));
}

async fn a_flipped_byte_of_a_body_is_found_and_named(test: TestDb) {
    archive_with_manifest(&test.db).await;
    flip_bit(&test.db, "select body from artifact where feed = 5", "update artifact set body = $1 where feed = 5")
        .await;
    let found = find_problems(&test.db).await;
    assert_eq!(summarize(&found), [(IntegrityProblemKind::Body, Some("b"), Some(5), None)]);
    assert_eq!((found[0].artifact, found[0].version), (Some("agent_summary"), Some(1)));
    assert_eq!(found[0].sub_account_id, "7");
}

async fn a_flipped_byte_of_metadata_is_found_and_named(test: TestDb) {
    archive_with_manifest(&test.db).await;
    flip_bit(&test.db, "select metadata from segment where id = 3", "update segment set metadata = $1 where id = 3")
        .await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Metadata, Some("c"), None, None)]);
}

async fn a_deleted_entry_is_found_wherever_it_was(test: TestDb) {
    archive_with_manifest(&test.db).await;
    execute_sql(&test.db, "delete from artifact where feed = 5").await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Missing, None, Some(5), None)]);
    execute_sql(&test.db, "delete from artifact where feed in (6, 7, 12)").await;
    let found = find_problems(&test.db).await;
    let missing = |from, to| (IntegrityProblemKind::Missing, None, Some(from), to);
    assert_eq!(summarize(&found), [missing(5, Some(7)), missing(12, None)]);
    execute_sql(&test.db, "delete from artifact").await;
    assert_eq!(summarize(&find_problems(&test.db).await), [missing(1, Some(12))]);
}

async fn exchanged_entries_are_found(test: TestDb) {
    archive_with_manifest(&test.db).await;
    // Entries after the newest manifest: the current head shows the exchange.
    for text in [
        "update artifact set feed = -1 where feed = 8",
        "update artifact set feed = 8 where feed = 11",
        "update artifact set feed = 11 where feed = -1",
    ] {
        execute_sql(&test.db, text).await;
    }
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Chain, None, Some(7), Some(12))]);
}

async fn exchanged_bodies_are_found(test: TestDb) {
    archive_with_manifest(&test.db).await;
    let stmt = "with v as (select feed, codec, body from artifact where feed in (2, 5))
        update artifact set codec = v.codec, body = v.body from v where v.feed = 7 - artifact.feed and artifact.feed in (2, 5)";
    execute_sql(&test.db, stmt).await;
    let named = |feed, segment| (IntegrityProblemKind::Body, Some(segment), Some(feed), None);
    assert_eq!(summarize(&find_problems(&test.db).await), [named(2, "a"), named(5, "b")]);
    // With hashes and sizes exchanged too, the chain shows it.
    let stmt = "with v as (select feed, sha256, size from artifact where feed in (2, 5))
        update artifact set sha256 = v.sha256, size = v.size from v where v.feed = 7 - artifact.feed and artifact.feed in (2, 5)";
    execute_sql(&test.db, stmt).await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Chain, None, Some(1), Some(6))]);
}

async fn a_change_to_anything_beside_the_body_is_found_and_narrowed_down(test: TestDb) {
    archive_with_manifest(&test.db).await;
    for (change, back) in [
        ("update artifact set version = 2 where feed = 4", "update artifact set version = 1 where feed = 4"),
        ("update artifact set outcome = 1 where feed = 4", "update artifact set outcome = 0 where feed = 4"),
        (
            "update artifact set fetched = fetched + 1 where feed = 4",
            "update artifact set fetched = fetched - 1 where feed = 4",
        ),
        (
            "update segment set segment_id = 'z' where segment_id = 'b'",
            "update segment set segment_id = 'b' where segment_id = 'z'",
        ),
        (
            "update artifact set item = item + 400 where feed = 6",
            "update artifact set item = item - 400 where feed = 6",
        ),
    ] {
        execute_sql(&test.db, change).await;
        let found = find_problems(&test.db).await;
        let narrowed = (IntegrityProblemKind::Chain, None, Some(1), Some(6));
        let gone = (IntegrityProblemKind::SegmentGone, None, Some(6), None);
        assert!(summarize(&found).iter().any(|said| *said == narrowed || *said == gone), "{change}: {found:?}");
        execute_sql(&test.db, back).await;
        assert_eq!(find_problems(&test.db).await, []);
    }
    flip_bit(&test.db, "select salt from artifact where feed = 9", "update artifact set salt = $1 where feed = 9")
        .await;
    execute_sql(&test.db, "update artifact set size = size + 1 where feed = 2").await;
    let found = find_problems(&test.db).await;
    let chain = |from, to| (IntegrityProblemKind::Chain, None, Some(from), Some(to));
    assert_eq!(summarize(&found), [(IntegrityProblemKind::Body, Some("a"), Some(2), None), chain(1, 6), chain(7, 12)]);
    execute_sql(&test.db, "update artifact set size = size - 1 where feed = 2").await;
    execute_sql(&test.db, "update artifact set salt = null where feed = 9").await;
    execute_sql(&test.db, "update account set chain = null").await;
    assert_eq!(summarize(&find_problems(&test.db).await), [chain(7, 12)]);
}

async fn a_removed_segment_is_found(test: TestDb) {
    let owned = archive_with_manifest(&test.db).await;
    ingest(&test.db, owned, &[record("bare", 50)]).await;
    execute_sql(&test.db, "delete from segment where segment_id = 'bare'").await;
    let mut found = find_problems(&test.db).await;
    let records = found.remove(0);
    assert!(records.kind == IntegrityProblemKind::Records && records.what.contains("number 5: "), "{records:?}");
    assert_eq!(summarize(&found), [(IntegrityProblemKind::Segments, None, None, None)]);
    assert_eq!(
        (found[0].day.as_deref(), &*found[0].what),
        (Some("1970-01-01"), "5 segments were announced, but 4 are stored")
    );
    // A replacement does not hide it.
    execute_sql(&test.db, "update segment set segment_id = 'else', metadata = metadata where segment_id = 'd'").await;
    ingest(&test.db, owned, &[record("d", 50)]).await;
    assert!(find_problems(&test.db).await.iter().any(|problem| problem.kind == IntegrityProblemKind::Segments));
    execute_sql(&test.db, "delete from segment where segment_id = 'b'").await;
    let found = find_problems(&test.db).await;
    let gone: Vec<Option<i64>> =
        found.iter().filter(|found| found.kind == IntegrityProblemKind::SegmentGone).map(|found| found.feed).collect();
    assert_eq!(gone, [Some(4), Some(5), Some(6)]);
}

async fn an_entry_that_lies_outside_the_feed_is_found(test: TestDb) {
    archive_with_manifest(&test.db).await;
    let added = "insert into artifact (item, version, account, feed, outcome, fetched, size, sha256, salt, codec, body)
        select item, 2, account, 13, outcome, fetched, size, sha256, salt, codec, body from artifact where feed = 1";
    execute_sql(&test.db, added).await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Outside, None, None, None)]);
    execute_sql(&test.db, "update artifact set account = 99, feed = 1 where feed = 13").await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Stray, None, None, None)]);
}

async fn a_removed_or_altered_manifest_is_found(test: TestDb) {
    let owned = archive_with_manifest(&test.db).await;
    for day in 1..=2 {
        ingest_and_store(&test.db, owned, &[["e", "f"][day as usize - 1]]).await;
        assert!(test.db.write_daily_manifest(owned, NOW + day * DAY).await.unwrap().is_some());
    }
    let whole = export_lines(&test.db).await;
    assert_eq!(find_problems_against(&test.db, &whole).await, []);
    let days = test.db.first(sql("select min(day), max(day) from manifest")).await.unwrap();
    let (first, last): (i64, i64) = days.unwrap();
    for day in first..=last {
        let row = sql("select feed from manifest where day = $1").bind(day);
        let feed = test.db.value(row).await.unwrap().unwrap();
        let set = |feed: i64| sql("update manifest set feed = $2 where day = $1").bind(day).bind(feed);
        test.db.run(set(feed - 1)).await.unwrap();
        assert!(find_problems(&test.db).await.iter().any(|problem| problem.kind == IntegrityProblemKind::Manifest));
        test.db.run(set(feed)).await.unwrap();
        assert_eq!(find_problems(&test.db).await, []);
    }
    test.db.run(sql("delete from manifest where day = $1").bind(last)).await.unwrap();
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Manifest, None, None, None)]);
    test.db.run(sql("delete from manifest where day = $1").bind(first)).await.unwrap();
    let found = find_problems(&test.db).await;
    assert!(
        found.len() == 2 && found.iter().all(|problem| problem.kind == IntegrityProblemKind::Manifest),
        "{found:?}"
    );
    // With the account's manifest hash removed too, only an export shows it.
    execute_sql(&test.db, "delete from manifest").await;
    execute_sql(&test.db, "update account set manifest = null").await;
    assert_eq!(find_problems(&test.db).await, []);
    let found = find_problems_against(&test.db, &whole).await;
    assert_eq!(summarize(&found), [(IntegrityProblemKind::Recorded, None, None, None)]);
    assert!(found[0].what.contains("is missing now"), "{found:?}");
}

/// Recomputes the digest and leaf of every metadata row, as an expert forger would.
async fn forge_metadata(db: &Db) {
    type Row =
        (i64, String, Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i64>, i64, Vec<u8>, i64, Vec<u8>);
    let rows =
        sql("select id, segment_id, dialog_id, ended, has_transcript, is_agent, since, codec, metadata, record, salt
        from segment where record is not null order by record");
    for row in db.all::<Row>(rows).await.unwrap() {
        let (id, segment_id, dialog_id, ended, has_transcript, is_agent, since, codec, metadata, record, salt) = row;
        let metadata = ringcx_extractor::db::unpack(codec, metadata).unwrap();
        let digest = Sha256::digest(&metadata)[..16].to_vec();
        let sealed = MetadataRecord {
            salt: &salt,
            record,
            sub: "7",
            segment_id: &segment_id,
            dialog_id: dialog_id.as_deref(),
            ended,
            has_transcript,
            is_agent,
            since,
            digest: &digest,
        };
        let stmt = sql("update segment set digest = $2, leaf = $3 where id = $1").bind(id);
        db.run(stmt.bind(digest.clone()).bind(sealed.leaf().to_vec())).await.unwrap();
    }
}

/// Rewrites the record chain, with arbitrary leaves for missing records. Returns the head after each number.
async fn forge_record_chain(db: &Db, account: AccountKey, newest: i64) -> Vec<Vec<u8>> {
    forge_metadata(db).await;
    let mut heads = vec![ringcx_extractor::proof::GENESIS_HASH.to_vec()];
    for number in 1..=newest {
        let mut page = db.record_leaves(account, number - 1, number).await.unwrap();
        if page.leaves.is_empty() {
            let stmt = sql("insert into erased_record (account, record, leaf) values ($1, $2, $3)");
            db.run(stmt.bind(account).bind(number).bind(vec![7; 32])).await.unwrap();
            page.leaves.push((number, Some(vec![7; 32])));
        }
        let leaf = page.leaves[0].1.clone().unwrap();
        heads.push(ringcx_extractor::proof::link(heads.last().unwrap(), &leaf).to_vec());
    }
    let stmt = sql("update record_chain set newest = $2, head = $3 where account = $1").bind(account).bind(newest);
    db.run(stmt.bind(heads.last().unwrap().clone())).await.unwrap();
    heads
}

/// Rewrites chains and manifests to match the stored rows, as an expert forger would.
async fn forge_everything(db: &Db) {
    let chain = verify::load_chains(db, None).await.unwrap().remove(0);
    let page = db.entry_page(chain.account, 0, chain.feed).await.unwrap();
    let record_heads = forge_record_chain(db, chain.account, chain.records.newest).await;
    let start = ringcx_extractor::proof::GENESIS_HASH;
    let (mut head, mut heads) = (start, std::collections::BTreeMap::from([(0, start)]));
    for row in &page.rows {
        head = ringcx_extractor::proof::link(&head, &row.leaf(&chain.id.sub).unwrap());
        heads.insert(row.feed, head);
    }
    let mut previous = ringcx_extractor::proof::GENESIS_HASH.to_vec();
    for mut manifest in chain.manifests {
        manifest.feed = manifest.feed.min(page.rows.last().map_or(0, |row| row.feed));
        manifest.head = heads[&manifest.feed].to_vec();
        manifest.previous = previous;
        let beside = manifest.record_heads.as_mut().unwrap();
        beside.record_head = record_heads[usize::try_from(beside.records).unwrap()].clone();
        let record_head = beside.record_head.clone();
        let hash = manifest.digest().to_vec();
        let stmt =
            sql("update manifest set feed = $2, head = $3, previous = $4, hash = $5, record_head = $6 where day = $1");
        let stmt = stmt.bind(manifest.day).bind(manifest.feed).bind(manifest.head).bind(manifest.previous);
        db.run(stmt.bind(hash.clone()).bind(record_head)).await.unwrap();
        previous = hash;
    }
    let newest = page.rows.last().map_or(0, |row| row.feed);
    let stmt = sql("update account set chain = $1, manifest = $2, feed = $3");
    db.run(stmt.bind(head.to_vec()).bind(previous).bind(newest)).await.unwrap();
}

async fn a_past_that_was_rewritten_whole_is_found_against_an_earlier_export(test: TestDb) {
    let owned = archive_with_manifest(&test.db).await;
    let before = export_lines(&test.db).await;
    let body = Bytes::from_static(b"I never said that");
    let JobOutcome::Answered { packed, sha256, size, .. } = JobOutcome::stored(&body, None) else { unreachable!() };
    let stmt = sql("update artifact set codec = $1, body = $2, sha256 = $3, size = $4 where feed = 8");
    let stmt = stmt.bind(packed.codec).bind(packed.body).bind(sha256).bind(size);
    test.db.run(stmt).await.unwrap();
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Chain, None, Some(7), Some(12))]);
    forge_everything(&test.db).await;
    assert_eq!(find_problems(&test.db).await, []);
    // The manifest still matches, but the head after it does not.
    let found = find_problems_against(&test.db, &before).await;
    assert_eq!(summarize(&found), [(IntegrityProblemKind::Recorded, None, Some(7), Some(12))]);
    // Later entries do not hide it.
    ingest_and_store(&test.db, owned, &["e"]).await;
    assert_eq!(find_problems(&test.db).await, []);
    assert_eq!(summarize(&find_problems_against(&test.db, &before).await), summarize(&found));
}

async fn a_shortened_past_is_found_against_an_earlier_export(test: TestDb) {
    archive_with_manifest(&test.db).await;
    let before = export_lines(&test.db).await;
    execute_sql(&test.db, "delete from artifact where feed > 3").await;
    execute_sql(&test.db, "delete from segment where segment_id <> 'a'").await;
    match_announced_to_stored(&test.db).await;
    forge_everything(&test.db).await;
    assert_eq!(find_problems(&test.db).await, []);
    let found = find_problems_against(&test.db, &before).await;
    assert!(found.iter().all(|problem| problem.kind == IntegrityProblemKind::Recorded), "{found:?}");
    assert!(found.iter().any(|problem| problem.what.contains("the newest entry is number 3, but was 12")), "{found:?}");
}

async fn an_account_that_is_gone_is_found_against_an_earlier_export(test: TestDb) {
    archive_with_manifest(&test.db).await;
    let before = export_lines(&test.db).await;
    for text in [
        "delete from artifact",
        "delete from segment",
        "delete from announced",
        "delete from manifest",
        "delete from record_chain",
        "delete from account",
    ] {
        execute_sql(&test.db, text).await;
    }
    assert_eq!(find_problems(&test.db).await, []);
    assert_eq!(
        summarize(&find_problems_against(&test.db, &before).await),
        [(IntegrityProblemKind::Recorded, None, None, None)]
    );
}

async fn what_was_erased_lawfully_leaves_the_proof_whole(test: TestDb) {
    let owned = archive_with_manifest(&test.db).await;
    let before = export_lines(&test.db).await;
    let (b, d) = (segment_key(&test.db, "b").await, segment_key(&test.db, "d").await);
    erase_segment(&test.db, owned.account, b).await;
    erase_segment(&test.db, owned.account, d).await;
    match_announced_to_stored(&test.db).await;
    let report = verify_against(&test.db, before).await;
    assert_eq!(report.problems, []);
    assert_eq!((report.accounts[0].entries, report.accounts[0].erased), (6, 6));
    // Only number and leaf are left, and the feed continues.
    ingest_and_store(&test.db, owned, &["e"]).await;
    assert_eq!(find_problems(&test.db).await, []);
    // An altered leaf is found like an altered entry.
    flip_bit(
        &test.db,
        "select leaf from erased_leaf where feed = 5",
        "update erased_leaf set leaf = $1 where feed = 5",
    )
    .await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Chain, None, Some(1), Some(6))]);
    execute_sql(&test.db, "delete from erased_leaf where feed = 5").await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Missing, None, Some(5), None)]);
}

async fn entries_from_before_the_chain_are_accepted_and_their_bodies_checked(test: TestDb) {
    let owned = acquire_account(&test.db, "7").await;
    ingest_and_store(&test.db, owned, &["a", "b"]).await;
    // As the migration finds and leaves them.
    execute_sql(&test.db, "update artifact set salt = null").await;
    execute_sql(&test.db, "update account set chain = null, chain_from = feed").await;
    assert_eq!(find_problems(&test.db).await, []);
    ingest_and_store(&test.db, owned, &["c"]).await;
    assert!(test.db.write_daily_manifest(owned, NOW).await.unwrap().is_some());
    ingest_and_store(&test.db, owned, &["d"]).await;
    let before = export_lines(&test.db).await;
    let report = verify_against(&test.db, before.clone()).await;
    assert_eq!(report.problems, []);
    assert_eq!((report.accounts[0].chain_from, report.accounts[0].entries), (6, 12));
    let a = segment_key(&test.db, "a").await;
    erase_segment(&test.db, owned.account, a).await;
    match_announced_to_stored(&test.db).await;
    assert_eq!(find_problems_against(&test.db, &before).await, []);
    flip_bit(&test.db, "select body from artifact where feed = 5", "update artifact set body = $1 where feed = 5")
        .await;
    execute_sql(&test.db, "delete from artifact where feed = 6").await;
    execute_sql(&test.db, "update artifact set fetched = 0 where feed = 8").await;
    let found = find_problems(&test.db).await;
    let expected = [
        (IntegrityProblemKind::Body, Some("b"), Some(5), None),
        (IntegrityProblemKind::Missing, None, Some(6), None),
        (IntegrityProblemKind::Chain, None, Some(7), Some(9)),
    ];
    assert_eq!(summarize(&found), expected);
    // A chain that begins later is found against an earlier export.
    execute_sql(&test.db, "update account set chain_from = 9").await;
    assert!(
        find_problems_against(&test.db, &before)
            .await
            .iter()
            .any(|problem| problem.kind == IntegrityProblemKind::Recorded)
    );
}

async fn an_archive_that_grows_and_is_erased_from_meanwhile_raises_no_alarm(test: TestDb) {
    let owned = archive_with_manifest(&test.db).await;
    let db = &test.db;
    let ids: Vec<String> = (0..300).map(|n| format!("s{n}")).collect();
    ingest_and_store(db, owned, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let verifying = async {
        let mut rounds = 0;
        while rounds < 8 {
            let chains = verify::load_chains(db, None).await.unwrap();
            let question = VerifyRequest { now: NOW, ..VerifyRequest::default() };
            let report = verify::verify_archive(db, &chains, &question, &mut |_| ()).await.unwrap();
            // This test does not update the announced counts while it erases segments.
            let wrong: Vec<_> =
                report.problems.iter().filter(|found| found.kind != IntegrityProblemKind::Segments).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
            rounds += 1;
        }
    };
    let working = async {
        for (n, id) in ids.iter().enumerate().take(60) {
            let fresh = format!("new{n}");
            ingest_and_store(db, owned, &[&fresh]).await;
            erase_segment(db, owned.account, segment_key(db, id).await).await;
        }
    };
    tokio::join!(verifying, working);
    match_announced_to_stored(db).await;
    assert_eq!(find_problems(db).await, []);
}

async fn settling_twice_links_once(test: TestDb) {
    let owned = acquire_account(&test.db, "7").await;
    ingest(&test.db, owned, &[record("a", 1), record("b", 2)]).await;
    let batch: Vec<CompletedJob> = due_claims(&test.db, owned).await.into_iter().map(answered_result).collect();
    // A commit that succeeded and was reported as failed, then a part of it.
    test.db.complete_jobs(&batch).await.unwrap();
    test.db.complete_jobs(&batch).await.unwrap();
    test.db.complete_jobs(&batch[..3]).await.unwrap();
    let report = verify_against(&test.db, Vec::new()).await;
    assert_eq!((report.intact, report.accounts[0].feed), (true, 6));
}

async fn a_day_is_sealed_once_and_only_where_something_came(test: TestDb) {
    let (busy, idle) = (acquire_account(&test.db, "7").await, acquire_account(&test.db, "8").await);
    ingest_and_store(&test.db, busy, &["a"]).await;
    let owned = [busy, idle];
    let mut sealer = ManifestWriter::default();
    assert_eq!(sealer.write_due_manifests(&test.db, &owned, NOW).await.unwrap(), 1);
    ingest_and_store(&test.db, busy, &["b"]).await;
    // The same day again, also after a restart.
    assert_eq!(sealer.write_due_manifests(&test.db, &owned, NOW).await.unwrap(), 0);
    assert_eq!(ManifestWriter::default().write_due_manifests(&test.db, &owned, NOW).await.unwrap(), 0);
    assert_eq!(sealer.write_due_manifests(&test.db, &owned, NOW + DAY).await.unwrap(), 1);
    // Nothing has come since; then only an announcement.
    assert_eq!(sealer.write_due_manifests(&test.db, &owned, NOW + 2 * DAY).await.unwrap(), 0);
    ingest(&test.db, busy, &[record("c", 3)]).await;
    assert_eq!(sealer.write_due_manifests(&test.db, &owned, NOW + 3 * DAY).await.unwrap(), 1);
    let chain = verify::load_chains(&test.db, None).await.unwrap().remove(0);
    let kept: Vec<(i64, i64)> = chain.manifests.iter().map(|manifest| (manifest.feed, manifest.segments)).collect();
    assert_eq!(kept, [(3, 1), (6, 2), (6, 3)]);
    assert_eq!(find_problems(&test.db).await, []);
    // A previous owner seals nothing.
    let again = acquire_account(&test.db, "7").await;
    ingest_and_store(&test.db, again, &["d"]).await;
    assert!(test.db.write_daily_manifest(busy, NOW + 4 * DAY).await.is_err());
    assert_eq!(sealer.write_due_manifests(&test.db, &[busy], NOW + 4 * DAY).await.unwrap(), 0);
    assert_eq!(sealer.write_due_manifests(&test.db, &[again], NOW + 4 * DAY).await.unwrap(), 1);
}

async fn pages_do_not_matter(test: TestDb) {
    let owned = acquire_account(&test.db, "7").await;
    let ids: Vec<String> = (0..1500).map(|n| format!("s{n:04}")).collect();
    ingest_and_store(&test.db, owned, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(find_problems(&test.db).await, []);
    execute_sql(&test.db, "update artifact set fetched = fetched + 1 where feed = 4001").await;
    assert_eq!(summarize(&find_problems(&test.db).await), [(IntegrityProblemKind::Chain, None, Some(1), Some(4500))]);
    execute_sql(&test.db, "update artifact set fetched = fetched - 1 where feed = 4001").await;
    execute_sql(&test.db, "delete from artifact where feed between 1999 and 2003 or feed > 4400").await;
    let missing = |from, to| (IntegrityProblemKind::Missing, None, Some(from), Some(to));
    assert_eq!(summarize(&find_problems(&test.db).await), [missing(1999, 2003), missing(4401, 4500)]);
    // Bodies that nearly fill a page each.
    let owned = acquire_account(&test.db, "8").await;
    ingest(&test.db, owned, &[record("large", 1)]).await;
    let settle = |(size, claim): (usize, Claim)| {
        let mut body = vec![0; size * 1024 * 1024];
        rand::rng().fill_bytes(&mut body);
        CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body.into(), None) }
    };
    let batch: Vec<CompletedJob> = [3, 5, 1].into_iter().zip(due_claims(&test.db, owned).await).map(settle).collect();
    assert_eq!(test.db.complete_jobs(&batch).await.unwrap(), [true; 3]);
    for (after, upto, held) in [(0, 2, 2), (2, 3, 1)] {
        let page = test.db.entry_page(owned.account, after, 3).await.unwrap();
        assert_eq!((page.upto, page.rows.len()), (upto, held));
    }
    assert!(find_problems(&test.db).await.iter().all(|problem| problem.sub_account_id == "7"));
}

async fn what_was_exported_is_read_back(test: TestDb) {
    archive_with_manifest(&test.db).await;
    let lines = export_lines(&test.db).await;
    assert_eq!(lines.len(), 2);
    for line in &lines {
        let text = serde_json::to_string(line).unwrap();
        assert_eq!(ExportedLine::parse(&text).as_ref(), Ok(line));
    }
}

/// Through the real binary, fed by a simulated RingCX.
mod binary {
    use std::path::Path;

    use ringcx_extractor::db::{Db, OpenMode, sql};
    use serde_json::Value;

    use crate::support::test_env::{Scenario, TempDatabase, TestEnv};

    crate::e2e! {
        what_was_altered_behind_the_daemons_back_is_named,
    }

    async fn open(database: &TempDatabase) -> Db {
        match database.url.strip_prefix("sqlite:") {
            Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await.unwrap(),
            None => Db::open_postgres(&database.url.clone().into(), OpenMode::Existing, 2).await.unwrap(),
        }
    }

    async fn what_was_altered_behind_the_daemons_back_is_named(database: TempDatabase) {
        let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
        env.expect_complete_archive().await;
        // While the daemon runs.
        let intact = env.run_ok(&["verify"]).await;
        assert!(
            intact.starts_with("intact: nothing was altered, according to the hashes in the archive\n"),
            "{intact}"
        );
        env.stop().await;
        let file = env.database.folder.path().join("manifests.jsonl");
        let file = file.to_str().unwrap();
        env.run_ok(&["verify", "--manifests", file, "--manifests-only"]).await;
        let kept = std::fs::read_to_string(file).unwrap();
        assert!(kept.lines().last().unwrap().contains(r#""type":"head""#), "{kept}");
        env.run_ok(&["verify", "--against", file]).await;

        let db = open(&env.database).await;
        // The first entry with a text; its number varies.
        let entry = sql("select x.body, s.segment_id, x.feed from artifact x join segment s on s.id = x.item / 4
             where x.feed >= 7 and x.size > 0 order by x.feed limit 1");
        let (body, segment, feed): (Vec<u8>, String, i64) = db.first(entry).await.unwrap().unwrap();
        let mut altered = body.clone();
        let last = altered.len() - 1;
        altered[last] ^= 0x20;
        db.run(sql("update artifact set body = $1 where feed = $2").bind(altered).bind(feed)).await.unwrap();
        db.close().await;
        let found = env.run(&["verify"]).await;
        assert_eq!(found.status, 1, "{}", found.text());
        assert!(found.out.starts_with("NOT intact: 1 problem\n"), "{}", found.out);
        assert!(found.out.contains(&format!("number {feed}: the body")), "{}", found.out);
        let found = env.run(&["verify", "--json"]).await;
        let json: Value = serde_json::from_str(&found.out).unwrap();
        assert_eq!((found.status, &json["intact"], &json["problems"][0]["kind"]), (1, &false.into(), &"body".into()));
        assert_eq!(json["problems"][0]["segment_id"], *segment);

        // Restore the entry, and remove the newest entries with every trace of them.
        let db = open(&env.database).await;
        db.run(sql("update artifact set body = $1 where feed = $2").bind(body).bind(feed)).await.unwrap();
        db.run(sql("delete from artifact where feed > 6")).await.unwrap();
        db.run(sql("update account set feed = 6, chain = null, chain_from = 6, manifest = null")).await.unwrap();
        db.close().await;
        env.run_ok(&["verify"]).await;
        let found = env.run(&["verify", "--against", file]).await;
        assert_eq!(found.status, 1, "{}", found.text());
        assert!(found.out.contains("the newest are missing"), "{}", found.out);
        let missing = env.run(&["verify", "--against", "no-such-file"]).await;
        assert!(missing.status == 1 && missing.err.contains("hint:"), "{}", missing.text());
    }
}
