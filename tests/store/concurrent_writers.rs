//! Concurrent writers: erasure during indexing, delivery, sealing and storing, and no deadlock among them. On both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{
    Claim, CompletedJob, CursorAdvance, Db, DbFault, DeliveryRound, DocumentKeys, FailedDelivery, IndexBatch,
    IndexEntry, IndexSlice, IndexedSegment, Item, JobOutcome, JournalAction, JournalEntry, Lease, MetadataChunk,
    ObjectBatch, OpenMode, PostgresCopy, sql,
};
use ringcx_extractor::erasure::{self, Confirmation, ErasureRequest};
use ringcx_extractor::model::{
    AccountId, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, Subject, SummariesFor, TimeRange, TimeRangeSet,
};
use ringcx_extractor::search;
use ringcx_extractor::search_indexer::{IndexProgress, Indexer};
use ringcx_extractor::verify::{self, VerifyRequest};
use support::TestDb;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

crate::on_both! {
    what_was_read_to_be_indexed_before_it_was_erased_is_not_indexed,
    an_event_that_failed_while_it_was_erased_leaves_nothing_behind,
    whoever_writes_for_many_accounts_at_once_never_waits_in_a_circle,
    what_is_erased_while_everything_goes_on_is_gone_and_the_proof_is_whole,
    several_may_have_the_index_forget_at_once,
    leftovers_of_two_owners_do_not_lock_each_other_out,
    only_the_owner_grants_a_permit_and_its_age_is_known,
    what_is_damaged_stops_neither_the_index_nor_retention_nor_an_erasure,
}

const NOW: Time = Time(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "test", 10 * SECOND, NOW).await.unwrap().remove(0)
}

async fn only_the_owner_grants_a_permit_and_its_age_is_known(test: TestDb) {
    let db = &test.db;
    let before = acquire_account(db, "a").await;
    let request = db.request_permit(before.account, NOW).await.unwrap();
    let owned = acquire_account(db, "a").await;
    let refused = db.grant_permit(request, before, NOW, Time(0)).await.unwrap_err();
    assert_eq!(refused.fault(), DbFault::LeaseLost);
    assert_eq!(db.permit_age(request, NOW).await.unwrap(), None);
    db.grant_permit(request, owned, NOW, Time(0)).await.unwrap();
    assert!(db.permit_age(request, NOW).await.unwrap().unwrap() < 5 * SECOND);
    db.run(sql("update guest set granted = granted - 5000")).await.unwrap();
    assert!(db.permit_age(request, NOW).await.unwrap().unwrap() >= 5 * SECOND);
}

async fn ingest(db: &Db, owned: Lease, ids: &[String], note: &str) {
    let records: Vec<SegmentRecord> = ids
        .iter()
        .map(|id| SegmentRecord {
            segment_id: id.clone(),
            dialog_id: None,
            end: Some(Time(1_700_000_000_000)),
            has_transcript: true,
            is_agent: true,
            has_recording: false,
            raw: format!(r#"{{"segmentId":"{id}","agentNotes":"{note}"}}"#),
        })
        .collect();
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: Time(0), to: NOW },
        now: NOW,
        wants: ArtifactSelection { artifacts: ArtifactSet::TEXTS, summaries_for: SummariesFor::Transcribed },
        already_read: &TimeRangeSet::default(),
        urgent_before: None,
        quarantine_retry_delay: 60 * SECOND,
        records: &records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap();
}

fn numbered_ids(start: &str, count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("{start}{nth}")).collect()
}

async fn due_claims(db: &Db, owned: Lease, count: usize) -> Vec<Claim> {
    db.due_items(owned, ArtifactSet::ALL, NOW, count).await.unwrap()
}

fn stored_result(claim: Claim) -> CompletedJob {
    let body = Bytes::from(r#"{"transcript":[{"message":"xylophonist"}]}"#);
    CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) }
}

/// Ingests these segments and stores every artifact.
async fn ingest_and_store(db: &Db, owned: Lease, ids: &[String]) {
    ingest(db, owned, ids, "zymurgist").await;
    let batch: Vec<CompletedJob> = due_claims(db, owned, 50_000).await.into_iter().map(stored_result).collect();
    assert!(db.complete_jobs(&batch).await.unwrap().iter().all(|counted| *counted));
}

fn erasure_request(subject: Subject) -> ErasureRequest {
    let (who, reason) = ("officer@host".to_owned(), None);
    ErasureRequest {
        subject,
        account: None,
        who,
        reason,
        include_alike: false,
        include_unreadable: false,
        access_entry: None,
    }
}

async fn erase_segment(db: &Db, id: &str) {
    let subject = Subject::Segment(id.to_owned());
    let request = erasure_request(subject);
    let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    let (erased, _) =
        erasure::execute_plan(db, &request, found, Confirmation::Everything, NOW, &mut |_| {}).await.unwrap();
    assert_eq!(erased.segments, 1);
}

async fn query_count(db: &Db, text: &'static str) -> i64 {
    db.value(sql(text)).await.unwrap().unwrap()
}

async fn indexed_documents(db: &Db) -> i64 {
    query_count(db, "select cast(coalesce(sum(live), 0) as bigint) from search_run").await
}

async fn assert_chains_intact(db: &Db) {
    let chains = verify::load_chains(db, None).await.unwrap();
    let report = verify::verify_archive(db, &chains, &VerifyRequest::default(), &mut |_| {}).await.unwrap();
    assert_eq!(report.problems, []);
}

async fn what_was_read_to_be_indexed_before_it_was_erased_is_not_indexed(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &numbered_ids("s", 2)).await;
    let slices = vec![IndexSlice { lease: owned, after: 0, to: 6 }];
    db.prepare_index(1).await.unwrap();
    ingest(db, owned, &numbered_ids("s", 2), "zymurgy").await;
    // Like the indexer, read and split everything before the transaction that writes it.
    let mut batch = IndexBatch::default();
    batch.reindex_tasks = db.reindex_backlog(&[owned.account], 100).await.unwrap();
    assert_eq!(batch.reindex_tasks.len(), 2);
    let segments = batch.reindex_tasks.iter().map(|task| task.segment);
    let mut entries = Vec::new();
    for IndexedSegment { account, segment, ended, .. } in db.segments_to_index(segments).await.unwrap() {
        batch.segments.push((account, segment));
        let mut keys = DocumentKeys::of_account(account);
        keys.add_word("xylophonist");
        entries.extend((0..4).map(|code| IndexEntry { item: segment * 4 + code, ended, keys: keys.clone() }));
    }
    assert_eq!(entries.len(), 8);
    batch.add_entries(entries);
    batch.slices = slices;
    erase_segment(db, "s0").await;
    erase_segment(db, "s1").await;
    db.write_index(&batch).await.unwrap();
    assert_eq!(indexed_documents(db).await, 0, "erased words came back into the index");
    assert_eq!(query_count(db, "select count(*) from search_todo").await, 0);
    assert_eq!(db.unindexed_changes().await.unwrap(), 0);
}

async fn an_event_that_failed_while_it_was_erased_leaves_nothing_behind(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &numbered_ids("s", 2)).await;
    let sink = db.ensure_sink("sink", true, "here", NOW).await.unwrap();
    let keys: Vec<i64> = [db.segments_by_id("s0").await.unwrap(), db.segments_by_id("s1").await.unwrap()]
        .iter()
        .map(|found| found[0].key)
        .collect();
    let feed = |key: i64| async move {
        let feed: Option<i64> = db.value(sql("select feed from artifact where item = $1").bind(key * 4)).await.unwrap();
        feed.unwrap()
    };
    let mut missed = Vec::new();
    for (key, failed) in [(keys[0], true), (keys[1], true)] {
        missed.push(FailedDelivery {
            account: owned.account,
            feed: feed(key).await,
            item: Item(key * 4),
            failed,
            tries: 1,
            waited: Duration::ZERO,
            first_try: NOW,
            last_try: NOW,
            due: NOW,
            status: Some(400),
            reason: "it answered 400".to_owned(),
        });
    }
    // The receiver has answered. Before that is recorded, the segment is erased.
    erase_segment(db, "s0").await;
    let moves = vec![CursorAdvance { lease: owned, upto: 6, delivered: 4 }];
    let pass = DeliveryRound {
        sink: sink.key,
        at: NOW,
        advances: moves,
        failed_deliveries: missed,
        ..DeliveryRound::default()
    };
    db.record_delivery_round(&pass).await.unwrap();
    let view = db.sink_overviews().await.unwrap().remove(0);
    // What waits is the event that tells of the erasure.
    assert_eq!((view.accounts[0].failed, view.accounts[0].behind), (1, 1));
    assert_eq!(view.failures[0].example.as_deref(), Some("s1"));
}

/// Results, deliveries, manifests, metadata and take-overs of many accounts, all at once and again and again.
async fn whoever_writes_for_many_accounts_at_once_never_waits_in_a_circle(test: TestDb) {
    const ROUNDS: usize = 12;
    let db = &test.db;
    let mut owned = Vec::new();
    for nth in 0..16 {
        let account = acquire_account(db, &format!("a{nth}")).await;
        ingest(db, account, &numbered_ids(&format!("{nth}-"), 2 * ROUNDS), "").await;
        owned.push(account);
    }
    let sinks = [
        db.ensure_sink("one", true, "x", NOW).await.unwrap().key,
        db.ensure_sink("two", true, "y", NOW).await.unwrap().key,
    ];
    let mut all = JoinSet::new();
    {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            for _ in 0..ROUNDS {
                let mut batch = Vec::new();
                for account in owned.iter().rev() {
                    batch.extend(due_claims(&db, *account, 5).await.into_iter().map(stored_result));
                }
                db.complete_jobs(&batch).await?;
            }
            Ok(())
        });
    }
    for sink in sinks {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            for upto in 0..8 * ROUNDS as i64 {
                let moves = owned.iter().map(|owned| CursorAdvance { lease: *owned, upto, delivered: 1 }).collect();
                db.record_delivery_round(&DeliveryRound { sink, at: NOW, advances: moves, ..DeliveryRound::default() })
                    .await?;
            }
            Ok(())
        });
    }
    {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            for round in 0..2 * ROUNDS {
                for (nth, account) in owned.iter().enumerate() {
                    ingest(&db, *account, &numbered_ids(&format!("{nth}-"), 5), &format!("note {round}")).await;
                    db.write_daily_manifest(*account, NOW).await?;
                }
            }
            Ok(())
        });
    }
    {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            let indexer = Indexer::new(db.clone());
            for _ in 0..4 * ROUNDS {
                indexer.step(&owned).await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = all.join_next().await {
        let ended: Result<(), ringcx_extractor::db::DbError> = ended.unwrap();
        ended.unwrap();
    }
    assert_chains_intact(db).await;
}

async fn what_is_erased_while_everything_goes_on_is_gone_and_the_proof_is_whole(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let ids = numbered_ids("s", 30);
    ingest(db, owned, &ids, "zymurgist").await;
    let (storing, indexing) = (db.clone(), db.clone());
    let mut all = JoinSet::new();
    all.spawn(async move {
        loop {
            let batch: Vec<CompletedJob> =
                due_claims(&storing, owned, 7).await.into_iter().map(stored_result).collect();
            if batch.is_empty() {
                return;
            }
            storing.complete_jobs(&batch).await.unwrap();
            storing.write_daily_manifest(owned, NOW).await.unwrap();
        }
    });
    let over = CancellationToken::new();
    let ended = over.clone();
    let mut indexer = JoinSet::new();
    indexer.spawn(async move {
        let indexer = Indexer::new(indexing);
        loop {
            let last = ended.is_cancelled();
            if indexer.step(&[owned]).await.unwrap() == IndexProgress::Idle && last {
                return;
            }
        }
    });
    for id in &ids {
        erase_segment(db, id).await;
        tokio::task::yield_now().await;
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    over.cancel();
    indexer.join_next().await.unwrap().unwrap();
    for text in ["select count(*) from segment", "select count(*) from artifact", "select count(*) from work"] {
        assert_eq!(query_count(db, text).await, 0, "{text}");
    }
    assert_eq!(indexed_documents(db).await, 0, "erased words are in the index");
    assert_eq!(query_count(db, "select count(*) from search_todo").await, 0);
    assert_chains_intact(db).await;
}

async fn several_may_have_the_index_forget_at_once(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    let mut others = vec![db.clone()];
    if let Some(file) = db.sqlite_path() {
        // A second process, like a command beside the daemon.
        others.push(Db::open_sqlite(file, OpenMode::Existing).await.unwrap());
    }
    for round in 0..6 {
        ingest_and_store(db, owned, &numbered_ids(&format!("{round}-"), 40)).await;
        db.run(sql("delete from attempt")).await.unwrap();
        while Indexer::new(db.clone()).step(&[owned]).await.unwrap() != IndexProgress::Idle {}
        for id in numbered_ids(&format!("{round}-"), 40) {
            erase_segment(db, &id).await;
        }
        let mut all = JoinSet::new();
        for nth in 0..4 {
            let db = others[nth % others.len()].clone();
            all.spawn(async move { db.purge_deleted().await });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap().unwrap();
        }
    }
    for other in &others[1..] {
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_writes_waits_for_an_index_that_forgets_beside_a_long_export() {
    let test = support::open_sqlite().await;
    let db = test.db.clone();
    let owned = acquire_account(&db, "a").await;
    ingest_and_store(&db, owned, &numbered_ids("s", 20)).await;
    while Indexer::new(db.clone()).step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    // A long export holds a snapshot.
    let mut snapshot = db.snapshot().await.unwrap();
    snapshot.account_chain(owned.account).await.unwrap();
    erase_segment(&db, "s3").await;
    let forgetting = db.clone();
    let mut all = JoinSet::new();
    all.spawn(async move { forgetting.purge_deleted().await });
    let clock = Clock::system();
    let (started, mut longest) = (clock.tick(), Duration::ZERO);
    let daemon = Db::open_sqlite(db.sqlite_path().unwrap(), OpenMode::Existing).await.unwrap();
    while clock.tick().since(started) < 3 * SECOND {
        let before = clock.tick();
        daemon.bump_change_version().await.unwrap();
        longest = longest.max(clock.tick().since(before));
        clock.sleep(Duration::from_millis(5)).await;
    }
    assert!(longest < SECOND, "a write waited {longest:?}");
    drop(snapshot);
    // The first attempt may give up; the next one succeeds.
    let _ = all.join_next().await.unwrap().unwrap();
    db.purge_deleted().await.unwrap();
    daemon.close().await;
}

/// After take-overs in both directions, two replicas each hold results for an account that the other one owns now.
async fn leftovers_of_two_owners_do_not_lock_each_other_out(test: TestDb) {
    let db = &test.db;
    let (one, other) = (acquire_account(db, "one").await, acquire_account(db, "other").await);
    ingest(db, one, &numbered_ids("one-", 30), "").await;
    ingest(db, other, &numbered_ids("other-", 30), "").await;
    let (ours, theirs) = (due_claims(db, one, 90).await, due_claims(db, other, 90).await);
    let stale = |claim: &Claim| Claim { lease: Lease { epoch: 0, ..claim.lease }, ..claim.clone() };
    for (nth, (one, other)) in ours.iter().zip(&theirs).enumerate() {
        let left = vec![stored_result(one.clone()), stored_result(stale(other))];
        let right = vec![stored_result(stale(one)), stored_result(other.clone())];
        let (left, right) = tokio::join!(db.complete_jobs(&left), db.complete_jobs(&right));
        assert_eq!((left.unwrap(), right.unwrap()), (vec![true, false], vec![false, true]), "{nth}");
    }
    assert_chains_intact(db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_moves_with_all_that_was_erased_held_proved_and_delivered() {
    let (source, target) = (support::open_sqlite().await, support::open_postgres().await);
    let (from, to) = (&source.db, &target.db);
    let owned = acquire_account(from, "a").await;
    ingest_and_store(from, owned, &numbered_ids("s", 6)).await;
    while Indexer::new(from.clone()).step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(count_hits(from, "zymurgist").await, 6);
    assert!(from.write_daily_manifest(owned, NOW).await.unwrap().is_some());
    let sink = from.ensure_sink("sink", true, "here", NOW).await.unwrap().key;
    let item = from.segments_by_id("s1").await.unwrap()[0].key * 4;
    let feed = from.value(sql("select feed from artifact where item = $1").bind(item)).await.unwrap();
    let missed = FailedDelivery {
        account: owned.account,
        feed: feed.unwrap(),
        item: Item(item),
        failed: true,
        tries: 3,
        waited: SECOND,
        first_try: NOW,
        last_try: NOW,
        due: NOW,
        status: Some(400),
        reason: "it answered 400".to_owned(),
    };
    let moves = vec![CursorAdvance { lease: owned, upto: 7, delivered: 6 }];
    from.record_delivery_round(&DeliveryRound {
        sink,
        at: NOW,
        advances: moves,
        failed_deliveries: vec![missed],
        ..DeliveryRound::default()
    })
    .await
    .unwrap();
    let batch = ObjectBatch { account: owned.account, first: 8, last: 12, name: "a/8-12".to_owned() };
    from.plan_object_batches(sink, std::slice::from_ref(&batch), NOW).await.unwrap();
    let entry = |what| JournalEntry {
        who: "officer@host".to_owned(),
        what,
        subject: Some(Subject::Segment("s2".to_owned())),
        hold: None,
        reason: Some("case 9".to_owned()),
    };
    for _ in 0..3 {
        from.place_hold(&entry(JournalAction::Hold), None, NOW).await.unwrap();
    }
    from.release_hold(3, "officer@host", None, NOW).await.unwrap();
    erase_segment(from, "s0").await;
    erase_segment(from, "s5").await;
    assert_chains_intact(from).await;

    let mut moving = PostgresCopy::begin(from, to).await.unwrap();
    moving.copy_tables(&|_| {}).await.unwrap();
    assert_eq!(moving.finish(NOW).await.unwrap().replaced_texts, 0);
    assert_chains_intact(to).await;
    assert_eq!(to.sink_overviews().await.unwrap(), from.sink_overviews().await.unwrap());
    assert_eq!(to.object_batches(sink).await.unwrap(), [batch]);
    assert_eq!(to.holds(None).await.unwrap().len(), 2);
    assert_eq!(
        to.place_hold(&entry(JournalAction::Hold), None, NOW).await.unwrap(),
        4,
        "a hold's number names one hold for good"
    );
    // The journal was copied, and is append-only there too.
    assert_eq!(from.journal(None).await.unwrap()[..], to.journal(None).await.unwrap()[..6]);
    let subject = Subject::Segment("s5".to_owned());
    assert_eq!(to.journal(Some(&subject)).await.unwrap().len(), 1);
    for text in ["update journal set who = 'nobody'", "delete from journal", "truncate journal"] {
        assert!(to.run(sql(text)).await.unwrap_err().to_string().contains("only grows"), "{text}");
    }
    // What was erased does not come back.
    let owned = to.acquire_leases(&[owned.account], "there", 10 * SECOND, NOW).await.unwrap().remove(0);
    ingest(to, owned, &numbered_ids("s", 6), "zymurgist").await;
    assert!(to.segments_by_id("s0").await.unwrap().is_empty());
    let highest: Option<String> = from.value(sql("select value from meta where key = 'segment.newest'")).await.unwrap();
    ingest(to, owned, &numbered_ids("new", 1), "").await;
    let key = to.segments_by_id("new0").await.unwrap()[0].key;
    assert!(key > highest.unwrap().parse().unwrap(), "a segment's number is used again");
    // The index is rebuilt from the archive.
    while Indexer::new(to.clone()).step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!((count_hits(to, "xylophonist").await, count_hits(to, "zymurgist").await), (12, 4));
    // Feed, hash chains and manifests continue.
    let batch: Vec<CompletedJob> = due_claims(to, owned, 100).await.into_iter().map(stored_result).collect();
    assert_eq!(to.complete_jobs(&batch).await.unwrap(), [true; 3]);
    assert!(to.write_daily_manifest(owned, NOW + 86_400 * SECOND).await.unwrap().is_some());
    assert_chains_intact(to).await;
}

async fn count_hits(db: &Db, query: &str) -> usize {
    let (query, filters) = (search::parse(query).unwrap(), search::Filters::default());
    search::find(db, &query, &filters, search::SortOrder::Newest, 100).await.unwrap().hits.len()
}

async fn what_is_damaged_stops_neither_the_index_nor_retention_nor_an_erasure(test: TestDb) {
    let db = &test.db;
    let owned = acquire_account(db, "a").await;
    ingest_and_store(db, owned, &numbered_ids("s", 3)).await;
    let key = db.segments_by_id("s1").await.unwrap()[0].key;
    let text = sql("update artifact set codec = 1, body = $2 where item = $1").bind(key * 4);
    db.run(text.bind(b"no frame of zstd".to_vec())).await.unwrap();
    while Indexer::new(db.clone()).step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(
        (count_hits(db, "xylophonist").await, db.unindexed_changes().await.unwrap()),
        (8, 0),
        "one of nine is damaged"
    );
    // A hold on a contact keeps the unreadable segment; retention removes the others.
    let subject = Some(Subject::Contact("jane@example.com".to_owned()));
    let entry =
        JournalEntry { who: "officer@host".to_owned(), what: JournalAction::Hold, subject, hold: None, reason: None };
    db.place_hold(&entry, None, NOW).await.unwrap();
    let who = "retention@test";
    let mut cursor = erasure::RetentionCursor::default();
    while erasure::delete_expired_segments(db, owned, NOW, who, NOW, &mut cursor).await.unwrap().is_some() {}
    assert_eq!(query_count(db, "select count(*) from segment").await, 1);
    let subject = Subject::Contact("joe@example.com".to_owned());
    let request = erasure_request(subject);
    let found = erasure::plan_erasure(db, &request, &mut |_| {}).await.unwrap();
    assert!(found.segments.is_empty() && found.unreadable.len() == 1);
}

/// `cargo test --test store concurrent_writers:: -- --ignored --nocapture`: how long a small write to SQLite waits during indexing,
/// retention and a purge of the index. Option: `SEGMENTS`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_a_write_waits() {
    let segments: usize = std::env::var("SEGMENTS").map_or(4_000, |value| value.parse().unwrap());
    let test = support::open_sqlite().await;
    let db = test.db.clone();
    let owned = acquire_account(&db, "a").await;
    for part in 0..segments / 500 {
        ingest(&db, owned, &numbered_ids(&format!("{part}-"), 500), "zymurgist").await;
        let settled = due_claims(&db, owned, 5_000).await.into_iter().map(|claim| {
            let words: Vec<String> =
                (0..600).map(|nth| format!("word{}", (nth * 7_919 + claim.item.0) % 40_000)).collect();
            let body = Bytes::from(format!(r#"{{"transcript":[{{"message":"{}"}}]}}"#, words.join(" ")));
            CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) }
        });
        db.complete_jobs(&settled.collect::<Vec<_>>()).await.unwrap();
    }
    let daemon = Db::open_sqlite(db.sqlite_path().unwrap(), OpenMode::Existing).await.unwrap();
    let indexer = Indexer::new(db.clone());
    print_write_waits("indexing", &daemon, async {
        while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    })
    .await;
    let mut cursor = erasure::RetentionCursor::default();
    print_write_waits("retention", &daemon, async {
        while erasure::delete_expired_segments(&db, owned, NOW, "retention@test", NOW, &mut cursor)
            .await
            .unwrap()
            .is_some()
        {}
    })
    .await;
    print_write_waits("forgetting", &daemon, async { db.purge_deleted().await.unwrap() }).await;
    assert_chains_intact(&db).await;
    daemon.close().await;
}

/// Prints how long small writes wait while `work` runs.
async fn print_write_waits(what: &str, db: &Db, work: impl Future<Output = ()>) {
    let (over, clock) = (CancellationToken::new(), Clock::system());
    let started = clock.tick();
    let writes = async {
        let mut times = Vec::new();
        while !over.is_cancelled() {
            let before = clock.tick();
            db.bump_change_version().await.unwrap();
            times.push(clock.tick().since(before));
            clock.sleep(Duration::from_millis(2)).await;
        }
        times.sort_unstable();
        times
    };
    let work = async {
        work.await;
        over.cancel();
    };
    let (times, ()) = tokio::join!(writes, work);
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!(
        "{what}: {:?} in total; {} writes waited p50 {:?}, p99 {:?}, max {:?}",
        clock.tick().since(started),
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}
