//! What the archive's parts do to each other: erasing beside indexing, delivering, proving and storing; and that none of
//! those who write at the same time lock each other out. On both databases.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::db::{
    Access, Batch, Chunk, Claim, Db, Done, Entry, IndexBatch, IndexSlice, Item, Missed, Move, Moving, Owned, Pass,
    Settled, Settlement, sql,
};
use ringcx_extractor::index::{Indexer, Progress};
use ringcx_extractor::keeping::{self, Request};
use ringcx_extractor::model::{
    AccountId, ArtifactSet, Lane, SegmentRecord, Stretch, Stretches, Subject, SummariesFor, Wants,
};
use ringcx_extractor::search;
use ringcx_extractor::verify::{self, Question};
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
    what_is_damaged_stops_neither_the_index_nor_retention_nor_an_erasure,
}

const NOW: Time = Time(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

async fn own(db: &Db, sub: &str) -> Owned {
    let account = db.enrol(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.take(&[account.key], "test", 10 * SECOND, NOW).await.unwrap().remove(0)
}

async fn announce(db: &Db, owned: Owned, ids: &[String], note: &str) {
    let records: Vec<SegmentRecord> = ids
        .iter()
        .map(|id| SegmentRecord {
            segment_id: id.clone(),
            dialog_id: None,
            end: Some(Time(1_700_000_000_000)),
            has_transcript: true,
            is_agent: true,
            raw: format!(r#"{{"segmentId":"{id}","agentNotes":"{note}"}}"#),
        })
        .collect();
    let chunk = Chunk {
        owned,
        lane: Lane::Live,
        stretch: Stretch { from: Time(0), to: NOW },
        now: NOW,
        wants: Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed },
        known: &Stretches::default(),
        urgent_before: None,
        repair: 60 * SECOND,
        records: &records,
        asides: &[],
    };
    db.announce(chunk).await.unwrap();
}

fn names(start: &str, count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("{start}{nth}")).collect()
}

async fn claims(db: &Db, owned: Owned, count: usize) -> Vec<Claim> {
    db.due(owned, ArtifactSet::ALL, NOW, count).await.unwrap()
}

fn stored(claim: Claim) -> Settled {
    let body = Bytes::from(r#"{"transcript":[{"message":"xylophonist"}]}"#);
    Settled { claim, at: NOW, settlement: Settlement::stored(&body, None) }
}

/// Announces, and stores everything.
async fn filled(db: &Db, owned: Owned, ids: &[String]) {
    announce(db, owned, ids, "zymurgist").await;
    let batch: Vec<Settled> = claims(db, owned, 50_000).await.into_iter().map(stored).collect();
    assert!(db.settle(&batch).await.unwrap().iter().all(|counted| *counted));
}

fn request(subject: Subject) -> Request {
    let (who, reason) = ("officer@host".to_owned(), None);
    Request { subject, account: None, who, reason, include_alike: false, include_unreadable: false }
}

async fn erase(db: &Db, id: &str) {
    let subject = Subject::Segment(id.to_owned());
    let request = request(subject);
    let found = keeping::look(db, &request, &mut |_| {}).await.unwrap();
    let (erased, _) = keeping::erase(db, &request, found, NOW, &mut |_| {}).await.unwrap();
    assert_eq!(erased.segments, 1);
}

async fn count(db: &Db, text: &'static str) -> i64 {
    db.first(sql(text)).await.unwrap().unwrap().int(0).unwrap()
}

async fn indexed(db: &Db) -> i64 {
    let text = match db.file() {
        Some(_) => "select count(*) from search_text_docsize",
        None => "select count(*) from search_block",
    };
    count(db, text).await
}

async fn sound(db: &Db) {
    let chains = verify::chains(db, None).await.unwrap();
    let report = verify::verify(db, &chains, &Question::default(), &mut |_| {}).await.unwrap();
    assert_eq!(report.problems, []);
}

async fn what_was_read_to_be_indexed_before_it_was_erased_is_not_indexed(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &names("s", 2)).await;
    let slices = vec![IndexSlice { owned, after: 0, to: 6 }];
    db.prepare_index(1).await.unwrap();
    announce(db, owned, &names("s", 2), "zymurgy").await;
    // As the indexer does: everything is read and cut up before the transaction that writes it.
    let mut batch = IndexBatch { todos: db.index_todos(&[owned.account], 100).await.unwrap(), ..IndexBatch::default() };
    assert_eq!(batch.todos.len(), 2);
    for row in db.index_rows(&slices).await.unwrap() {
        let (account, item, version, ended) = (row.account, row.item, row.version, row.ended);
        batch.entries.push(db.index_entry(account, (item, version), ended, "", "xylophonist"));
    }
    for todo in &batch.todos {
        let (ended, _) = todo.now.clone().unwrap();
        let (account, item) = (todo.account, todo.segment * 4 + 3);
        batch.entries.push(db.index_entry(account, (item, 0), ended, "", "zymurgy"));
    }
    batch.slices = slices;
    erase(db, "s0").await;
    erase(db, "s1").await;
    db.write_index(&batch).await.unwrap();
    assert_eq!(indexed(db).await, 0, "erased words came back into the index");
    assert_eq!(count(db, "select count(*) from search_todo").await, 0);
    assert_eq!(db.index_behind().await.unwrap(), 0);
}

async fn an_event_that_failed_while_it_was_erased_leaves_nothing_behind(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &names("s", 2)).await;
    let sink = db.sink("sink", true, "here", NOW).await.unwrap();
    let keys: Vec<i64> = [db.segments_named("s0").await.unwrap(), db.segments_named("s1").await.unwrap()]
        .iter()
        .map(|found| found[0].key)
        .collect();
    let feed = |key: i64| async move {
        let row = db.first(sql("select feed from artifact where item = $1").bind(key * 4)).await.unwrap().unwrap();
        row.int(0).unwrap()
    };
    let mut missed = Vec::new();
    for (key, failed) in [(keys[0], true), (keys[1], true)] {
        missed.push(Missed {
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
    // The receiver has answered; before that is written down, a person erases the segment.
    erase(db, "s0").await;
    let moves = vec![Move { owned, upto: 6, delivered: 4 }];
    let pass = Pass { sink: sink.key, at: NOW, moves, missed, ..Pass::default() };
    db.record_pass(&pass).await.unwrap();
    let view = db.sink_views().await.unwrap().remove(0);
    assert_eq!((view.accounts[0].failed, view.accounts[0].behind), (1, 0));
    assert_eq!(view.failures[0].example.as_deref(), Some("s1"));
}

/// Results, deliveries, manifests, metadata and take-overs of many accounts, all at once and again and again.
async fn whoever_writes_for_many_accounts_at_once_never_waits_in_a_circle(test: TestDb) {
    const ROUNDS: usize = 12;
    let db = &test.db;
    let mut owned = Vec::new();
    for nth in 0..16 {
        let account = own(db, &format!("a{nth}")).await;
        announce(db, account, &names(&format!("{nth}-"), 2 * ROUNDS), "").await;
        owned.push(account);
    }
    let sinks = [db.sink("one", true, "x", NOW).await.unwrap().key, db.sink("two", true, "y", NOW).await.unwrap().key];
    let mut all = JoinSet::new();
    {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            for _ in 0..ROUNDS {
                let mut batch = Vec::new();
                for account in owned.iter().rev() {
                    batch.extend(claims(&db, *account, 5).await.into_iter().map(stored));
                }
                db.settle(&batch).await?;
            }
            Ok(())
        });
    }
    for sink in sinks {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            for upto in 0..8 * ROUNDS as i64 {
                let moves = owned.iter().map(|owned| Move { owned: *owned, upto, delivered: 1 }).collect();
                db.record_pass(&Pass { sink, at: NOW, moves, ..Pass::default() }).await?;
            }
            Ok(())
        });
    }
    {
        let (db, owned) = (db.clone(), owned.clone());
        all.spawn(async move {
            for round in 0..2 * ROUNDS {
                for (nth, account) in owned.iter().enumerate() {
                    announce(&db, *account, &names(&format!("{nth}-"), 5), &format!("note {round}")).await;
                    db.seal_day(*account, NOW).await?;
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
    sound(db).await;
}

async fn what_is_erased_while_everything_goes_on_is_gone_and_the_proof_is_whole(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let ids = names("s", 30);
    announce(db, owned, &ids, "zymurgist").await;
    let (storing, indexing) = (db.clone(), db.clone());
    let mut all = JoinSet::new();
    all.spawn(async move {
        loop {
            let batch: Vec<Settled> = claims(&storing, owned, 7).await.into_iter().map(stored).collect();
            if batch.is_empty() {
                return;
            }
            storing.settle(&batch).await.unwrap();
            storing.seal_day(owned, NOW).await.unwrap();
        }
    });
    let over = CancellationToken::new();
    let ended = over.clone();
    let mut indexer = JoinSet::new();
    indexer.spawn(async move {
        let indexer = Indexer::new(indexing);
        loop {
            let last = ended.is_cancelled();
            if indexer.step(&[owned]).await.unwrap() == Progress::Idle && last {
                return;
            }
        }
    });
    for id in &ids {
        erase(db, id).await;
        tokio::task::yield_now().await;
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
    over.cancel();
    indexer.join_next().await.unwrap().unwrap();
    for text in ["select count(*) from segment", "select count(*) from artifact", "select count(*) from work"] {
        assert_eq!(count(db, text).await, 0, "{text}");
    }
    assert_eq!(indexed(db).await, 0, "erased words are in the index");
    assert_eq!(count(db, "select count(*) from search_todo").await, 0);
    sound(db).await;
}

async fn several_may_have_the_index_forget_at_once(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    let mut others = vec![db.clone()];
    if let Some(file) = db.file() {
        // As a command does beside the daemon.
        others.push(Db::open_sqlite(file, Access::Existing).await.unwrap());
    }
    for round in 0..6 {
        filled(db, owned, &names(&format!("{round}-"), 40)).await;
        db.run(sql("delete from attempt")).await.unwrap();
        while Indexer::new(db.clone()).step(&[owned]).await.unwrap() != Progress::Idle {}
        for id in names(&format!("{round}-"), 40) {
            erase(db, &id).await;
        }
        let mut all = JoinSet::new();
        for nth in 0..4 {
            let db = others[nth % others.len()].clone();
            all.spawn(async move { db.forget_for_good().await });
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
    let test = support::sqlite().await;
    let db = test.db.clone();
    let owned = own(&db, "a").await;
    filled(&db, owned, &names("s", 20)).await;
    while Indexer::new(db.clone()).step(&[owned]).await.unwrap() != Progress::Idle {}
    // An export reads, as of now, and takes its time.
    let mut snapshot = db.snapshot().await.unwrap();
    snapshot.chain(owned.account).await.unwrap();
    erase(&db, "s3").await;
    let forgetting = db.clone();
    let mut all = JoinSet::new();
    all.spawn(async move { forgetting.forget_for_good().await });
    let clock = Clock::system();
    let (begun, mut longest) = (clock.tick(), Duration::ZERO);
    let daemon = Db::open_sqlite(db.file().unwrap(), Access::Existing).await.unwrap();
    while clock.tick().since(begun) < 3 * SECOND {
        let before = clock.tick();
        daemon.ring().await.unwrap();
        longest = longest.max(clock.tick().since(before));
        clock.sleep(Duration::from_millis(5)).await;
    }
    assert!(longest < SECOND, "a write waited {longest:?}");
    drop(snapshot);
    // Whether it could be emptied in time is another matter; the next one who tries does.
    let _ = all.join_next().await.unwrap().unwrap();
    db.forget_for_good().await.unwrap();
    daemon.close().await;
}

/// After take-overs in both directions two replicas each hold results for an account that is the other's now.
async fn leftovers_of_two_owners_do_not_lock_each_other_out(test: TestDb) {
    let db = &test.db;
    let (one, other) = (own(db, "one").await, own(db, "other").await);
    announce(db, one, &names("one-", 30), "").await;
    announce(db, other, &names("other-", 30), "").await;
    let (ours, theirs) = (claims(db, one, 90).await, claims(db, other, 90).await);
    let stale = |claim: &Claim| Claim { owned: Owned { epoch: 0, ..claim.owned }, ..claim.clone() };
    for (nth, (one, other)) in ours.iter().zip(&theirs).enumerate() {
        let left = vec![stored(one.clone()), stored(stale(other))];
        let right = vec![stored(stale(one)), stored(other.clone())];
        let (left, right) = tokio::join!(db.settle(&left), db.settle(&right));
        assert_eq!((left.unwrap(), right.unwrap()), (vec![true, false], vec![false, true]), "{nth}");
    }
    sound(db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_moves_with_all_that_was_erased_held_proved_and_delivered() {
    let (held, room) = (support::sqlite().await, support::postgres().await);
    let (from, to) = (&held.db, &room.db);
    let owned = own(from, "a").await;
    filled(from, owned, &names("s", 6)).await;
    while Indexer::new(from.clone()).step(&[owned]).await.unwrap() != Progress::Idle {}
    assert_eq!(found(from, "zymurgist").await, 6);
    assert!(from.seal_day(owned, NOW).await.unwrap().is_some());
    let sink = from.sink("sink", true, "here", NOW).await.unwrap().key;
    let item = from.segments_named("s1").await.unwrap()[0].key * 4;
    let feed = from.first(sql("select feed from artifact where item = $1").bind(item)).await.unwrap().unwrap();
    let missed = Missed {
        account: owned.account,
        feed: feed.int(0).unwrap(),
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
    let moves = vec![Move { owned, upto: 7, delivered: 6 }];
    from.record_pass(&Pass { sink, at: NOW, moves, missed: vec![missed], ..Pass::default() }).await.unwrap();
    let batch = Batch { account: owned.account, first: 8, last: 12, name: "a/8-12".to_owned() };
    from.decide_batches(sink, std::slice::from_ref(&batch), NOW).await.unwrap();
    let entry = |what| Entry {
        who: "officer@host".to_owned(),
        what,
        subject: Some(Subject::Segment("s2".to_owned())),
        hold: None,
        reason: Some("case 9".to_owned()),
    };
    for _ in 0..3 {
        from.place_hold(&entry(Done::Hold), None, NOW).await.unwrap();
    }
    from.release_hold(3, "officer@host", None, NOW).await.unwrap();
    erase(from, "s0").await;
    erase(from, "s5").await;
    sound(from).await;

    let mut moving = Moving::begin(from, to).await.unwrap();
    moving.carry(&|_| {}).await.unwrap();
    assert_eq!(moving.finish(NOW).await.unwrap().replaced, 0);
    sound(to).await;
    assert_eq!(to.sink_views().await.unwrap(), from.sink_views().await.unwrap());
    assert_eq!(to.batches(sink).await.unwrap(), [batch]);
    assert_eq!(to.holds(None).await.unwrap().len(), 2);
    assert_eq!(
        to.place_hold(&entry(Done::Hold), None, NOW).await.unwrap(),
        4,
        "a hold's number names one hold for good"
    );
    // The journal came along, and only grows there too.
    assert_eq!(from.journal(None).await.unwrap()[..], to.journal(None).await.unwrap()[..6]);
    let subject = Subject::Segment("s5".to_owned());
    assert_eq!(to.journal(Some(&subject)).await.unwrap().len(), 1);
    for text in ["update journal set who = 'nobody'", "delete from journal", "truncate journal"] {
        assert!(to.run(sql(text)).await.unwrap_err().to_string().contains("only grows"), "{text}");
    }
    // What was erased does not come back.
    let owned = to.take(&[owned.account], "there", 10 * SECOND, NOW).await.unwrap().remove(0);
    announce(to, owned, &names("s", 6), "zymurgist").await;
    assert!(to.segments_named("s0").await.unwrap().is_empty());
    let highest = from.first(sql("select value from meta where key = 'segment.newest'")).await.unwrap().unwrap();
    announce(to, owned, &names("new", 1), "").await;
    let key = to.segments_named("new0").await.unwrap()[0].key;
    assert!(key > highest.text(0).unwrap().parse().unwrap(), "a segment's number is used again");
    // The index is made anew, from all that there is.
    while Indexer::new(to.clone()).step(&[owned]).await.unwrap() != Progress::Idle {}
    assert_eq!((found(to, "xylophonist").await, found(to, "zymurgist").await), (12, 4));
    // And feed, chain and manifests go on.
    let batch: Vec<Settled> = claims(to, owned, 100).await.into_iter().map(stored).collect();
    assert_eq!(to.settle(&batch).await.unwrap(), [true; 3]);
    assert!(to.seal_day(owned, NOW + 86_400 * SECOND).await.unwrap().is_some());
    sound(to).await;
}

async fn found(db: &Db, query: &str) -> usize {
    let (query, filters) = (search::parse(query).unwrap(), search::Filters::default());
    search::find(db, &query, &filters, search::Order::Newest, 100).await.unwrap().hits.len()
}

async fn what_is_damaged_stops_neither_the_index_nor_retention_nor_an_erasure(test: TestDb) {
    let db = &test.db;
    let owned = own(db, "a").await;
    filled(db, owned, &names("s", 3)).await;
    let key = db.segments_named("s1").await.unwrap()[0].key;
    let text = sql("update artifact set codec = 1, body = $2 where item = $1").bind(key * 4);
    db.run(text.bind(b"no frame of zstd".to_vec())).await.unwrap();
    while Indexer::new(db.clone()).step(&[owned]).await.unwrap() != Progress::Idle {}
    assert_eq!((found(db, "xylophonist").await, db.index_behind().await.unwrap()), (8, 0), "one of nine is damaged");
    // A hold on a contact keeps what can no longer tell whose it is; all else goes as ever.
    let subject = Some(Subject::Contact("jane@example.com".to_owned()));
    let entry = Entry { who: "officer@host".to_owned(), what: Done::Hold, subject, hold: None, reason: None };
    db.place_hold(&entry, None, NOW).await.unwrap();
    let who = "retention@test";
    let mut cursor = keeping::Cursor::default();
    while keeping::expire(db, owned, NOW, who, NOW, &mut cursor).await.unwrap().is_some() {}
    assert_eq!(count(db, "select count(*) from segment").await, 1);
    let subject = Subject::Contact("joe@example.com".to_owned());
    let request = request(subject);
    let looked = keeping::look(db, &request, &mut |_| {}).await.unwrap();
    assert!(looked.segments.is_empty() && looked.unreadable.len() == 1);
}

/// `cargo test --test interplay -- --ignored --nocapture`: how long someone who writes to SQLite waits while others index, take
/// what is past retention, and have the index forget; `SEGMENTS` is the knob.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_long_a_write_waits() {
    let segments: usize = std::env::var("SEGMENTS").map_or(4_000, |value| value.parse().unwrap());
    let test = support::sqlite().await;
    let db = test.db.clone();
    let owned = own(&db, "a").await;
    for part in 0..segments / 500 {
        announce(&db, owned, &names(&format!("{part}-"), 500), "zymurgist").await;
        let settled = claims(&db, owned, 5_000).await.into_iter().map(|claim| {
            let words: Vec<String> =
                (0..600).map(|nth| format!("word{}", (nth * 7_919 + claim.item.0) % 40_000)).collect();
            let body = Bytes::from(format!(r#"{{"transcript":[{{"message":"{}"}}]}}"#, words.join(" ")));
            Settled { claim, at: NOW, settlement: Settlement::stored(&body, None) }
        });
        db.settle(&settled.collect::<Vec<_>>()).await.unwrap();
    }
    let daemon = Db::open_sqlite(db.file().unwrap(), Access::Existing).await.unwrap();
    let indexer = Indexer::new(db.clone());
    waited("indexing", &daemon, async { while indexer.step(&[owned]).await.unwrap() != Progress::Idle {} }).await;
    let mut cursor = keeping::Cursor::default();
    waited("retention", &daemon, async {
        while keeping::expire(&db, owned, NOW, "retention@test", NOW, &mut cursor).await.unwrap().is_some() {}
    })
    .await;
    waited("forgetting", &daemon, async { db.forget_for_good().await.unwrap() }).await;
    sound(&db).await;
    daemon.close().await;
}

/// The longest that a small write takes while `work` goes on.
async fn waited(what: &str, db: &Db, work: impl Future<Output = ()>) {
    let (over, clock) = (CancellationToken::new(), Clock::system());
    let begun = clock.tick();
    let writes = async {
        let mut times = Vec::new();
        while !over.is_cancelled() {
            let before = clock.tick();
            db.ring().await.unwrap();
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
        "{what}: {:?} in all; of {} writes half waited {:?}, 99 in 100 {:?}, the last {:?}",
        clock.tick().since(begun),
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}
