//! What is read and cut while the last batch is written: it counts only where it still holds when its turn comes.

use super::*;

crate::on_both! {
    everything_is_indexed_once_where_far_more_is_waiting_than_a_step_takes,
    what_was_made_ahead_for_an_account_that_has_another_owner_by_now_is_not_written,
    what_changed_after_it_was_made_ahead_is_found_as_it_is_now,
    what_was_taken_out_after_it_was_made_ahead_does_not_come_back,
}

/// More than two steps take.
const MANY: i64 = 2300;

/// So many segments, the nth of which says its number.
async fn filled(db: &Db, owned: Owned) {
    let records: Vec<SegmentRecord> = (0..MANY).map(|n| record(&format!("s{n}"), n, json!({}))).collect();
    for part in records.chunks(500) {
        announce(db, owned, part).await;
    }
    let only = ArtifactSet::NONE.with(Artifact::Transcript);
    let claims = db.due(owned, only, NOW + Duration::from_secs(86_400), 50_000).await.unwrap();
    assert_eq!(claims.len() as i64, MANY);
    let settled = |claim: Claim| {
        let body = said(&[("Jane", &format!("everywhere {}", claim.segment_id))]);
        Settled { settlement: Settlement::stored(&Bytes::from(body), Some(NOW)), claim, at: NOW }
    };
    let settled: Vec<Settled> = claims.into_iter().map(settled).collect();
    for part in settled.chunks(500) {
        assert!(db.settle(part).await.unwrap().iter().all(|counted| *counted));
    }
}

/// Documents with this word.
async fn with(db: &Db, word: &str) -> usize {
    let lookup = Lookup { all: parse(word).unwrap().all, ..Lookup::default() };
    db.look_up(&lookup, None, 10_000).await.unwrap().len()
}

/// The segment that was answered as the nth, for its number in the feed is what the steps go by.
async fn answered_as(db: &Db, owned: Owned, nth: i64) -> String {
    let stmt = sql(
        "select s.segment_id from artifact x join segment s on s.id = x.item / 4 where x.account = $1 and x.feed = $2",
    );
    db.first(stmt.bind(owned.account).bind(nth)).await.unwrap().unwrap().text(0).unwrap()
}

async fn everything_is_indexed_once_where_far_more_is_waiting_than_a_step_takes(test: TestDb) {
    let owned = own(&test.db, "a").await;
    filled(&test.db, owned).await;
    let indexer = Indexer::new(test.db.clone());
    let mut steps = Vec::new();
    while steps.last() != Some(&Progress::Caught) {
        steps.push(indexer.step(&[owned]).await.unwrap());
    }
    assert_eq!(steps, [Progress::Did, Progress::Did, Progress::Caught]);
    assert_eq!((with(&test.db, "everywhere").await as i64, test.db.index_behind().await.unwrap()), (MANY, 0));
}

async fn what_was_made_ahead_for_an_account_that_has_another_owner_by_now_is_not_written(test: TestDb) {
    let before = own(&test.db, "a").await;
    filled(&test.db, before).await;
    let indexer = Indexer::new(test.db.clone());
    assert_eq!(indexer.step(&[before]).await.unwrap(), Progress::Did);
    let behind = test.db.index_behind().await.unwrap();
    let after = own(&test.db, "a").await;
    indexer.step(&[before]).await.unwrap();
    assert_eq!(test.db.index_behind().await.unwrap(), behind);
    while indexer.step(&[after]).await.unwrap() != Progress::Idle {}
    assert_eq!((with(&test.db, "everywhere").await as i64, test.db.index_behind().await.unwrap()), (MANY, 0));
}

async fn what_changed_after_it_was_made_ahead_is_found_as_it_is_now(test: TestDb) {
    let owned = own(&test.db, "a").await;
    filled(&test.db, owned).await;
    let indexer = Indexer::new(test.db.clone());
    assert_eq!(indexer.step(&[owned]).await.unwrap(), Progress::Did);
    let changed = answered_as(&test.db, owned, 1500).await;
    let number: i64 = changed.trim_start_matches('s').parse().unwrap();
    announce(&test.db, owned, &[record(&changed, number, json!({"agentNotes": "noted"}))]).await;
    answer(&test.db, owned, &changed, Artifact::Transcript, &said(&[("Joe", "otherwise")])).await;
    while indexer.step(&[owned]).await.unwrap() != Progress::Idle {}
    assert_eq!(ids(&test.db, "otherwise OR noted").await, format!("{changed} {changed}"));
    assert_eq!((ids(&test.db, &changed).await.as_str(), with(&test.db, "everywhere").await as i64), ("", MANY - 1));
    let joe = Filters { agent: Some("Joe".to_owned()), ..Filters::default() };
    assert_eq!(names(&search(&test.db, "otherwise", &joe, Order::Newest, 5).await), changed);
}

async fn what_was_taken_out_after_it_was_made_ahead_does_not_come_back(test: TestDb) {
    let owned = own(&test.db, "a").await;
    filled(&test.db, owned).await;
    let indexer = Indexer::new(test.db.clone());
    assert_eq!(indexer.step(&[owned]).await.unwrap(), Progress::Did);
    let gone = answered_as(&test.db, owned, 1500).await;
    let segment = test.db.segments_named(&gone).await.unwrap().remove(0);
    let mut tx = test.db.begin().await.unwrap();
    tx.run(sql("delete from artifact where item = $1").bind(segment.key * 4)).await.unwrap();
    tx.unindex(&[segment.key * 4]).await.unwrap();
    tx.commit().await.unwrap();
    while indexer.step(&[owned]).await.unwrap() != Progress::Idle {}
    assert_eq!((ids(&test.db, &gone).await.as_str(), with(&test.db, "everywhere").await as i64), ("", MANY - 1));
}
