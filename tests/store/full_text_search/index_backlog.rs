//! A backlog of more than a step takes: it is indexed once, and each document as it is when its batch is written.

use super::*;

crate::on_both! {
    everything_is_indexed_once_where_far_more_is_waiting_than_a_step_takes,
    a_backlog_of_an_account_with_another_owner_is_left_to_it,
    what_changes_while_the_backlog_is_indexed_is_found_as_it_is_now,
    what_is_erased_while_the_backlog_is_indexed_does_not_come_back,
    texts_of_a_segment_that_arrive_together_are_indexed_once,
    many_small_steps_leave_few_runs,
}

/// More segments than two steps handle.
const SEGMENT_COUNT: i64 = 4300;

/// Stores `SEGMENT_COUNT` transcripts, each of which contains its segment's id.
async fn archive_many_transcripts(db: &Db, owned: Lease) {
    let records: Vec<SegmentRecord> = (0..SEGMENT_COUNT).map(|n| record(&format!("s{n}"), n, json!({}))).collect();
    for part in records.chunks(500) {
        ingest(db, owned, part).await;
    }
    let only = ArtifactSet::NONE.with(Artifact::Transcript);
    let claims = db.due_items(owned, only, NOW + Duration::from_secs(86_400), 50_000).await.unwrap();
    assert_eq!(claims.len() as i64, SEGMENT_COUNT);
    let settled = |claim: Claim| {
        let body = transcript_json(&[("Jane", &format!("everywhere {}", claim.segment_id))]);
        CompletedJob { outcome: JobOutcome::stored(&Bytes::from(body), Some(NOW)), claim, at: NOW }
    };
    let settled: Vec<CompletedJob> = claims.into_iter().map(settled).collect();
    for part in settled.chunks(500) {
        assert!(db.complete_jobs(part).await.unwrap().iter().all(|counted| *counted));
    }
}

/// The number of documents with this word.
async fn count_documents_with(db: &Db, word: &str) -> usize {
    let lookup = IndexQuery { required: parse(word).unwrap().required, ..IndexQuery::default() };
    db.query_index(&lookup, None, 10_000).await.unwrap().len()
}

/// The segment of the nth feed entry, because the steps follow the feed numbers.
async fn segment_at_feed_number(db: &Db, owned: Lease, nth: i64) -> String {
    let stmt = sql(
        "select s.segment_id from artifact x join segment s on s.id = x.item / 4 where x.account = $1 and x.feed = $2",
    );
    db.value(stmt.bind(owned.account).bind(nth)).await.unwrap().unwrap()
}

async fn everything_is_indexed_once_where_far_more_is_waiting_than_a_step_takes(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    archive_many_transcripts(&test.db, owned).await;
    let indexer = Indexer::new(test.db.clone());
    let mut steps = Vec::new();
    while steps.last() != Some(&IndexProgress::CaughtUp) {
        steps.push(indexer.step(&[owned]).await.unwrap());
    }
    assert_eq!(steps, [IndexProgress::MoreToDo, IndexProgress::MoreToDo, IndexProgress::CaughtUp]);
    assert_eq!(
        (count_documents_with(&test.db, "everywhere").await as i64, test.db.unindexed_changes().await.unwrap()),
        (SEGMENT_COUNT, 0)
    );
}

async fn a_backlog_of_an_account_with_another_owner_is_left_to_it(test: TestDb) {
    let before = acquire_account(&test.db, "a").await;
    archive_many_transcripts(&test.db, before).await;
    let indexer = Indexer::new(test.db.clone());
    assert_eq!(indexer.step(&[before]).await.unwrap(), IndexProgress::MoreToDo);
    let behind = test.db.unindexed_changes().await.unwrap();
    let after = acquire_account(&test.db, "a").await;
    indexer.step(&[before]).await.unwrap();
    assert_eq!(test.db.unindexed_changes().await.unwrap(), behind);
    while indexer.step(&[after]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(
        (count_documents_with(&test.db, "everywhere").await as i64, test.db.unindexed_changes().await.unwrap()),
        (SEGMENT_COUNT, 0)
    );
}

async fn what_changes_while_the_backlog_is_indexed_is_found_as_it_is_now(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    archive_many_transcripts(&test.db, owned).await;
    let indexer = Indexer::new(test.db.clone());
    assert_eq!(indexer.step(&[owned]).await.unwrap(), IndexProgress::MoreToDo);
    let changed = segment_at_feed_number(&test.db, owned, 3500).await;
    let number: i64 = changed.trim_start_matches('s').parse().unwrap();
    ingest(&test.db, owned, &[record(&changed, number, json!({"agentNotes": "noted"}))]).await;
    store_artifact(&test.db, owned, &changed, Artifact::Transcript, &transcript_json(&[("Joe", "otherwise")])).await;
    while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(search_ids(&test.db, "otherwise OR noted").await, format!("{changed} {changed}"));
    assert_eq!(
        (search_ids(&test.db, &changed).await.as_str(), count_documents_with(&test.db, "everywhere").await as i64),
        ("", SEGMENT_COUNT - 1)
    );
    let joe = Filters { agent: Some("Joe".to_owned()), ..Filters::default() };
    assert_eq!(hit_ids(&run_search(&test.db, "otherwise", &joe, SortOrder::Newest, 5).await), changed);
}

async fn what_is_erased_while_the_backlog_is_indexed_does_not_come_back(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    archive_many_transcripts(&test.db, owned).await;
    let indexer = Indexer::new(test.db.clone());
    assert_eq!(indexer.step(&[owned]).await.unwrap(), IndexProgress::MoreToDo);
    let gone = segment_at_feed_number(&test.db, owned, 3500).await;
    let segment = test.db.segments_by_id(&gone).await.unwrap().remove(0);
    let mut tx = test.db.begin().await.unwrap();
    tx.run(sql("delete from artifact where item = $1").bind(segment.key * 4)).await.unwrap();
    tx.run(sql("delete from segment where id = $1").bind(segment.key)).await.unwrap();
    tx.remove_from_index(&[Item(segment.key * 4)]).await.unwrap();
    tx.commit().await.unwrap();
    while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!(
        (search_ids(&test.db, &gone).await.as_str(), count_documents_with(&test.db, "everywhere").await as i64),
        ("", SEGMENT_COUNT - 1)
    );
}

/// The documents that the index has, and the runs that were written so far.
async fn index_size(db: &Db) -> (u64, u64) {
    let documents = sql("select cast(coalesce(sum(size), 0) as bigint) from search_run");
    let runs = sql("select coalesce(max(id), 0) from search_run");
    (db.count(documents).await.unwrap(), db.count(runs).await.unwrap())
}

async fn texts_of_a_segment_that_arrive_together_are_indexed_once(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let indexer = Indexer::new(test.db.clone());
    archive_transcript(&test.db, owned, "s1", 1, &[("Jane", "everywhere")]).await;
    let claim = async |artifact| due_claim(&test.db, owned, "s1", artifact).await;
    let stored = |claim: Claim| CompletedJob {
        claim,
        at: NOW,
        outcome: JobOutcome::stored(&Bytes::from_static(b"everywhere"), Some(NOW)),
    };
    let summaries = [claim(Artifact::AgentSummary).await, claim(Artifact::AutoSummary).await].map(stored);
    // More than a step takes, between the transcript and the summaries.
    let records: Vec<SegmentRecord> = (0..2500).map(|n| record(&format!("t{n}"), 10 + n, json!({}))).collect();
    for part in records.chunks(500) {
        ingest(&test.db, owned, part).await;
    }
    let only = ArtifactSet::NONE.with(Artifact::AutoSummary);
    let claims = test.db.due_items(owned, only, NOW + Duration::from_secs(86_400), 50_000).await.unwrap();
    let others: Vec<CompletedJob> =
        claims.into_iter().filter(|claim| claim.segment_id.starts_with('t')).map(stored).collect();
    test.db.complete_jobs(&others).await.unwrap();
    test.db.complete_jobs(&summaries).await.unwrap();
    assert_eq!(indexer.step(&[owned]).await.unwrap(), IndexProgress::MoreToDo);
    let jane = Filters { agent: Some("Jane".to_owned()), ..Filters::default() };
    let found = async || hit_ids(&run_search(&test.db, "everywhere", &jane, SortOrder::Newest, 9).await);
    assert_eq!((found().await.as_str(), index_size(&test.db).await), ("", (1999, 1)));
    while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    assert_eq!((found().await.as_str(), index_size(&test.db).await), ("s1 s1 s1", (2503, 2)));
}

async fn many_small_steps_leave_few_runs(test: TestDb) {
    let owned = acquire_account(&test.db, "a").await;
    let indexer = Indexer::new(test.db.clone());
    for n in 0..40 {
        archive_transcript(&test.db, owned, &format!("s{n}"), n, &[("Jane", "everywhere")]).await;
        while indexer.step(&[owned]).await.unwrap() != IndexProgress::Idle {}
    }
    let runs = test.db.count(sql("select count(*) from search_run")).await.unwrap();
    assert!(runs < 12, "{runs}");
    assert_eq!(count_documents_with(&test.db, "everywhere").await, 40);
    let found = run_search(&test.db, "everywhere", &Filters::default(), SortOrder::Newest, 3).await;
    assert_eq!(hit_ids(&found), "s39 s38 s37");
}
