//! Delivery on both databases, step by step, with a clock that a test moves: cursors, owners, patience, erasure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::config::{ObjectFormat, Sink, SinkKind, SinkStart};
use ringcx_extractor::db::{Batch, Chunk, Db, Move, Owned, Pass, ReplayRequest, Settled, Settlement, SinkView, sql};
use ringcx_extractor::deliver::{Board, Deliverer, Means, Progress};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSet, Lane, SegmentRecord, Stretch, Stretches, SummariesFor, Wants,
};
use secrecy::SecretString;
use serde_json::Value;
use support::TestDb;
use support::receiver::{Receiver, Reply};

crate::on_both! {
    a_new_sink_costs_one_cursor_an_account_and_begins_where_it_is_told,
    only_the_owner_moves_a_cursor,
    an_event_that_keeps_failing_is_given_up_when_its_patience_is_over,
    a_receiver_that_asks_to_be_left_alone_is,
    a_receiver_that_asks_to_be_left_alone_for_a_day_is_for_an_hour,
    a_sink_with_nothing_left_to_send_is_not_said_to_rest_and_is_tried_first,
    a_receiver_that_takes_two_a_second_gets_two_a_second,
    a_replay_does_not_wake_a_sink_that_rests,
    an_outage_counts_against_no_events_patience,
    what_is_erased_is_not_delivered_any_more,
    a_new_version_is_another_event,
    what_is_damaged_in_the_archive_is_reported_and_passed_over,
    a_backlog_goes_out_once_each_and_in_order,
    what_gathers_within_a_minute_becomes_one_object,
    an_object_that_was_decided_is_written_with_the_same_bounds_whatever_came_since,
}

const NOW: Time = Time(1_800_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A store with one account and a clock.
struct World {
    test: TestDb,
    clock: Clock,
    owned: Owned,
    board: Arc<Board>,
}

impl World {
    async fn new(test: TestDb) -> World {
        let owned = own(&test.db, "sub").await;
        World { clock: Clock::manual(NOW), owned, test, board: Arc::default() }
    }

    fn db(&self) -> &Db {
        &self.test.db
    }

    /// Stores transcripts of segments of these numbers.
    async fn store(&self, numbers: std::ops::Range<usize>) {
        store(self.db(), self.owned, numbers, self.clock.now()).await;
    }

    fn deliverer(&self, settings: Sink) -> Deliverer {
        self.deliverer_of(settings, vec![self.owned])
    }

    fn deliverer_of(&self, settings: Sink, mine: Vec<Owned>) -> Deliverer {
        let means = Means {
            db: self.db().clone(),
            clock: self.clock.clone(),
            owner: "test".to_owned(),
            mine: Arc::new(move || mine.clone()),
            board: self.board.clone(),
            stop: tokio_util::sync::CancellationToken::new(),
        };
        Deliverer::new(settings, means)
    }

    async fn view(&self) -> SinkView {
        self.db().sink_views().await.unwrap().remove(0)
    }

    /// Behind, waiting, failed and delivered, over all accounts.
    async fn figures(&self) -> (u64, u64, u64, u64) {
        let accounts = self.view().await.accounts;
        accounts.iter().fold((0, 0, 0, 0), |sum, of| {
            (sum.0 + of.behind, sum.1 + of.waiting, sum.2 + of.failed, sum.3 + of.delivered)
        })
    }

    fn folder(&self) -> PathBuf {
        self.test.folder.path().join("out")
    }

    fn lines(&self) -> Vec<Value> {
        let Ok(folder) = std::fs::read_dir(self.folder()) else { return Vec::new() };
        let text: String = folder.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn jsonl(&self, start: SinkStart) -> Sink {
        let rotate = Duration::from_secs(86_400);
        sink(start, SinkKind::Jsonl { path: self.folder(), rotate })
    }
}

fn sink(start: SinkStart, kind: SinkKind) -> Sink {
    Sink {
        name: "sink".to_owned(),
        start,
        artifacts: ArtifactSet::ALL,
        accounts: BTreeSet::new(),
        channels: BTreeSet::new(),
        redact: Vec::new(),
        give_up_after: WEEK,
        kind,
    }
}

fn webhook(receiver: &Receiver) -> Sink {
    let kind = SinkKind::Webhook {
        url: SecretString::from(receiver.url.clone()),
        secrets: vec![SecretString::from("whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0")],
        timeout: Duration::from_secs(10),
        allow_private: true,
    };
    sink(SinkStart::Beginning, kind)
}

async fn own(db: &Db, sub: &str) -> Owned {
    let account = db.enrol(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.take(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn store(db: &Db, owned: Owned, numbers: std::ops::Range<usize>, at: Time) {
    let wants =
        Wants { artifacts: ArtifactSet::NONE.with(Artifact::Transcript), summaries_for: SummariesFor::Transcribed };
    let records: Vec<SegmentRecord> = numbers
        .map(|number| SegmentRecord {
            segment_id: format!("seg-{number}"),
            dialog_id: Some(format!("dia-{number}")),
            end: Some(at),
            has_transcript: true,
            is_agent: true,
            raw: format!(r#"{{"segmentId":"seg-{number}"}}"#),
        })
        .collect();
    let chunk = Chunk {
        owned,
        lane: Lane::Live,
        stretch: Stretch { from: Time(0), to: at + MINUTE },
        now: at,
        wants,
        known: &Stretches::default(),
        urgent_before: None,
        repair: MINUTE,
        records: &records,
        asides: &[],
    };
    db.announce(chunk).await.unwrap();
    answer(db, owned, at, "first", Some(at + MINUTE)).await;
}

/// Answers everything that is due with this body.
async fn answer(db: &Db, owned: Owned, at: Time, word: &str, revisit: Option<Time>) {
    let claims = db.due(owned, ArtifactSet::ALL, at, 5000).await.unwrap();
    let settled: Vec<Settled> = claims
        .into_iter()
        .map(|claim| {
            let body = format!(r#"{{"channelClass":"VOICE","transcript":[],"word":"{word}"}}"#);
            Settled { claim, at, settlement: Settlement::stored(&Bytes::from(body), revisit) }
        })
        .collect();
    assert!(db.settle(&settled).await.unwrap().iter().all(|counted| *counted));
}

/// Steps until there is nothing to do for the moment.
async fn idle(deliverer: &mut Deliverer) {
    while deliverer.step().await.unwrap() == Progress::Did {}
}

async fn a_new_sink_costs_one_cursor_an_account_and_begins_where_it_is_told(test: TestDb) {
    let world = World::new(test).await;
    world.store(0..50).await;
    let mut now = world.deliverer(world.jsonl(SinkStart::Now));
    idle(&mut now).await;
    assert_eq!(world.figures().await, (0, 0, 0, 0));
    // That the settings say otherwise later changes nothing.
    let mut again = world.deliverer(world.jsonl(SinkStart::Beginning));
    idle(&mut again).await;
    assert_eq!(world.lines().len(), 0);
    world.store(50..53).await;
    idle(&mut again).await;
    assert_eq!((world.lines().len(), world.figures().await), (3, (0, 0, 0, 3)));
    // An account that is new begins with its first artifact, whatever the sink began with.
    let other = own(world.db(), "other").await;
    store(world.db(), other, 0..2, NOW).await;
    let mut both = world.deliverer_of(world.jsonl(SinkStart::Now), vec![world.owned, other]);
    idle(&mut both).await;
    assert_eq!(world.lines().len(), 5);
}

async fn only_the_owner_moves_a_cursor(test: TestDb) {
    let world = World::new(test).await;
    world.store(0..3).await;
    let sink = world.db().sink("sink", true, "here", NOW).await.unwrap();
    let after = own(world.db(), "sub").await;
    let pass =
        |owned| Pass { sink: sink.key, at: NOW, moves: vec![Move { owned, upto: 2, delivered: 2 }], ..Pass::default() };
    assert!(world.db().record_pass(&pass(world.owned)).await.unwrap().is_empty());
    assert_eq!(world.figures().await, (3, 0, 0, 0));
    assert_eq!(world.db().record_pass(&pass(after)).await.unwrap().len(), 1);
    assert_eq!(world.figures().await, (1, 0, 0, 2));
    // One who works under the old epoch sends nothing at all.
    idle(&mut world.deliverer(world.jsonl(SinkStart::Beginning))).await;
    assert_eq!(world.lines().len(), 0);
}

async fn an_event_that_keeps_failing_is_given_up_when_its_patience_is_over(test: TestDb) {
    let world = World::new(test).await;
    let bad = Arc::new(Mutex::new(0_u32));
    let tries = bad.clone();
    let receiver = Receiver::start(move |received| match received.event["subject"] == "seg-1" {
        true => {
            *tries.lock().unwrap() += 1;
            Reply::Status(500)
        }
        false => Reply::Status(200),
    })
    .await;
    world.store(0..4).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    idle(&mut deliverer).await;
    assert_eq!((receiver.taken().len(), world.figures().await), (3, (0, 1, 0, 3)));
    let mut passed = Duration::ZERO;
    while world.figures().await.2 == 0 {
        // The clock is moved in steps of ten minutes, so that each try comes up to so much too late.
        assert!(passed < WEEK + 40 * 10 * MINUTE, "it is given up in time");
        world.clock.advance(10 * MINUTE);
        passed += 10 * MINUTE;
        idle(&mut deliverer).await;
    }
    assert!(passed >= WEEK, "{passed:?}");
    let tries = *bad.lock().unwrap();
    assert!((12..40).contains(&tries), "{tries} tries in a week");
    assert_eq!(world.figures().await, (0, 0, 1, 3));
    // A person's word: it is tried at once, with its patience counted afresh.
    receiver.answer(|_| Reply::Status(200));
    let key = world.view().await.row.key;
    assert_eq!(world.db().retry_missed(key, false, world.clock.now()).await.unwrap(), 1);
    idle(&mut deliverer).await;
    assert_eq!(world.figures().await, (0, 0, 0, 4));
}

async fn a_receiver_that_asks_to_be_left_alone_is(test: TestDb) {
    let world = World::new(test).await;
    let receiver = Receiver::start(|_| Reply::Later(600)).await;
    world.store(0..1).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    for _ in 0..9 {
        idle(&mut deliverer).await;
        assert_eq!((receiver.requests(), world.figures().await), (1, (1, 0, 0, 0)));
        world.clock.advance(MINUTE);
    }
    receiver.answer(|_| Reply::Status(200));
    world.clock.advance(MINUTE);
    idle(&mut deliverer).await;
    assert_eq!((receiver.requests(), world.figures().await), (2, (0, 0, 0, 1)));
}

async fn a_receiver_that_asks_to_be_left_alone_for_a_day_is_for_an_hour(test: TestDb) {
    let world = World::new(test).await;
    let receiver = Receiver::start(|_| Reply::Later(86_400)).await;
    world.store(0..1).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    idle(&mut deliverer).await;
    world.clock.advance(59 * MINUTE);
    idle(&mut deliverer).await;
    assert_eq!(receiver.requests(), 1);
    receiver.answer(|_| Reply::Status(200));
    world.clock.advance(MINUTE);
    idle(&mut deliverer).await;
    assert_eq!(world.figures().await, (0, 0, 0, 1));
}

/// Another replica may have delivered it, or what was left was erased.
async fn a_sink_with_nothing_left_to_send_is_not_said_to_rest_and_is_tried_first(test: TestDb) {
    let world = World::new(test).await;
    let receiver = Receiver::start(|_| Reply::Later(60)).await;
    world.store(0..1).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    idle(&mut deliverer).await;
    assert_eq!(world.board.resting().len(), 1);
    world.db().run(sql("delete from artifact")).await.unwrap();
    idle(&mut deliverer).await;
    assert_eq!(world.board.resting().len(), 1, "its time is not over");
    world.clock.advance(MINUTE);
    idle(&mut deliverer).await;
    assert_eq!((world.board.resting().len(), receiver.requests()), (0, 1));
    receiver.answer(|_| Reply::Status(500));
    world.store(1..60).await;
    idle(&mut deliverer).await;
    assert_eq!(world.board.resting().len(), 1);
    assert!(receiver.requests() < 10, "{} requests to a receiver that is down", receiver.requests());
}

/// Steps, and lets the time pass that each step asks for, until nothing waits or so much time is over; how much it was.
async fn spend(world: &World, deliverer: &mut Deliverer, most: Duration, is_over: impl AsyncFn() -> bool) -> Duration {
    let mut spent = Duration::ZERO;
    deliverer.step().await.unwrap();
    while spent < most && !is_over().await {
        let Progress::Idle(until) = deliverer.step().await.unwrap() else { continue };
        let wait = until.since(world.clock.tick()).clamp(Duration::from_millis(1), most - spent);
        world.clock.advance(wait);
        spent += wait;
    }
    spent
}

async fn a_receiver_that_takes_two_a_second_gets_two_a_second(test: TestDb) {
    let world = World::new(test).await;
    let (clock, bucket) = (world.clock.clone(), Mutex::new((0, 0)));
    let receiver = Receiver::start(move |_| {
        let (second, mut bucket) = (clock.now().floor_secs(), bucket.lock().unwrap());
        *bucket = if bucket.0 == second { (second, bucket.1 + 1) } else { (second, 1) };
        if bucket.1 <= 2 { Reply::Status(200) } else { Reply::Later(1) }
    })
    .await;
    world.store(0..60).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    let spent = spend(&world, &mut deliverer, 10 * MINUTE, async || world.figures().await == (0, 0, 0, 60)).await;
    assert_eq!(world.figures().await, (0, 0, 0, 60));
    assert!(spent <= MINUTE, "{spent:?}");
}

async fn a_replay_does_not_wake_a_sink_that_rests(test: TestDb) {
    let world = World::new(test).await;
    let receiver = Receiver::start(|_| Reply::Status(200)).await;
    world.store(0..50).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    idle(&mut deliverer).await;
    let stored = Stretch { from: Time(0), to: NOW + MINUTE };
    let sink = world.db().sinks().await.unwrap().remove(0).key;
    world.db().request_replay(&ReplayRequest { sink, account: None, stored, rate: 50 }, NOW).await.unwrap();
    deliverer.rung();
    receiver.answer(|_| Reply::Status(500));
    let before = receiver.requests();
    spend(&world, &mut deliverer, 5 * MINUTE, async || false).await;
    let asked = receiver.requests() - before;
    assert!((5..120).contains(&asked), "{asked} requests in five minutes to a receiver that is down");
    receiver.answer(|_| Reply::Status(200));
    spend(&world, &mut deliverer, 10 * MINUTE, async || receiver.taken().len() >= 100).await;
    assert!(receiver.taken().len() >= 100, "the replay goes on when the receiver is back");
}

async fn an_outage_counts_against_no_events_patience(test: TestDb) {
    let world = World::new(test).await;
    let receiver = Receiver::start(|_| Reply::Status(503)).await;
    world.store(0..40).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    for _ in 0..30 {
        idle(&mut deliverer).await;
        world.clock.advance(Duration::from_secs(86_400));
    }
    let (behind, waiting, failed, delivered) = world.figures().await;
    assert_eq!((behind + waiting, failed, delivered), (40, 0, 0), "a month away, and nothing is given up");
    assert!(waiting <= 2, "its backlog costs no rows: {waiting}");
    receiver.answer(|_| Reply::Status(200));
    for _ in 0..3 {
        world.clock.advance(Duration::from_secs(86_400));
        idle(&mut deliverer).await;
    }
    assert_eq!(world.figures().await, (0, 0, 0, 40));
}

async fn what_is_erased_is_not_delivered_any_more(test: TestDb) {
    let world = World::new(test).await;
    let receiver = Receiver::start(|received| match received.event["subject"] == "seg-0" {
        true => Reply::Status(400),
        false => Reply::Status(200),
    })
    .await;
    world.store(0..2).await;
    let mut deliverer = world.deliverer(webhook(&receiver));
    idle(&mut deliverer).await;
    world.store(2..5).await;
    // One that failed, one that is still to come.
    for segment in ["seg-0", "seg-3"] {
        let key = world.db().segments_named(segment).await.unwrap()[0].key;
        let mut tx = world.db().begin().await.unwrap();
        tx.undeliver(&[key * 4]).await.unwrap();
        tx.run(sql("delete from artifact where item = $1").bind(key * 4)).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(world.figures().await, (3, 0, 0, 1));
    idle(&mut deliverer).await;
    assert_eq!(world.figures().await, (0, 0, 0, 3));
    let taken = receiver.taken();
    let mut subjects: Vec<&str> = taken.iter().filter_map(|received| received.event["subject"].as_str()).collect();
    // Several are under way at once and may overtake one another.
    subjects.sort_unstable();
    assert_eq!(subjects, ["seg-1", "seg-2", "seg-4"]);
}

async fn a_new_version_is_another_event(test: TestDb) {
    let world = World::new(test).await;
    let mut deliverer = world.deliverer(world.jsonl(SinkStart::Beginning));
    world.store(0..1).await;
    idle(&mut deliverer).await;
    world.clock.advance(2 * MINUTE);
    answer(world.db(), world.owned, world.clock.now(), "second", None).await;
    idle(&mut deliverer).await;
    let lines = world.lines();
    let words: Vec<&Value> = lines.iter().map(|line| &line["data"]["transcript"]["body"]["word"]).collect();
    assert_eq!(words, ["first", "second"]);
    assert_ne!(lines[0]["id"], lines[1]["id"]);
    assert_eq!((&lines[0]["subject"], &lines[0]["type"]), (&lines[1]["subject"], &lines[1]["type"]));
}

async fn what_is_damaged_in_the_archive_is_reported_and_passed_over(test: TestDb) {
    let world = World::new(test).await;
    world.store(0..3).await;
    let damage = sql("update artifact set codec = 1, body = $1 where feed = 2").bind(b"not zstd".to_vec());
    world.db().run(damage).await.unwrap();
    idle(&mut world.deliverer(world.jsonl(SinkStart::Beginning))).await;
    assert_eq!((world.lines().len(), world.figures().await), (2, (0, 0, 1, 2)));
    assert!(world.view().await.failures[0].reason.contains("failed to unpack"));
}

async fn a_backlog_goes_out_once_each_and_in_order(test: TestDb) {
    let world = World::new(test).await;
    let other = own(world.db(), "other").await;
    world.store(0..700).await;
    store(world.db(), other, 0..900, NOW).await;
    let mut deliverer = world.deliverer_of(world.jsonl(SinkStart::Beginning), vec![world.owned, other]);
    idle(&mut deliverer).await;
    let lines = world.lines();
    assert_eq!(lines.len(), 1600);
    let ids: BTreeSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1600);
    let feed = sql(
        "select s.segment_id from artifact x join segment s on s.id = x.item / 4 where x.account = $1 order by x.feed",
    );
    let feed = world.db().all(feed.bind(other.account)).await.unwrap();
    let feed: Vec<String> = feed.iter().map(|row| row.text(0).unwrap()).collect();
    let sent = lines.iter().filter(|line| line["data"]["sub_account_id"] == "other");
    let sent: Vec<&str> = sent.map(|line| line["subject"].as_str().unwrap()).collect();
    assert_eq!(sent, feed, "the feed's order");
}

fn objects(world: &World) -> Sink {
    let kind = SinkKind::ObjectStore {
        url: format!("file://{}", world.folder().display()),
        format: ObjectFormat::Jsonl,
        options: Default::default(),
    };
    sink(SinkStart::Beginning, kind)
}

/// The objects below the sink's folder: name without extension, and how many events each holds.
fn found(world: &World) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut folders = vec![world.folder()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(world.folder()).unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((name.split('.').next().unwrap().to_owned(), text.lines().count()));
        }
    }
    found.sort();
    found
}

fn object(first: i64, last: i64) -> String {
    ringcx_extractor::sink::object_store::object_name("sub", NOW, first, last)
}

async fn what_gathers_within_a_minute_becomes_one_object(test: TestDb) {
    let world = World::new(test).await;
    std::fs::create_dir(world.folder()).unwrap();
    world.store(0..3).await;
    let mut deliverer = world.deliverer(objects(&world));
    idle(&mut deliverer).await;
    assert_eq!(found(&world), []);
    world.store(3..5).await;
    world.clock.advance(MINUTE);
    idle(&mut deliverer).await;
    assert_eq!(found(&world), [(object(1, 5), 5)]);
    assert_eq!(world.figures().await, (0, 0, 0, 5));
    assert!(world.db().batches(world.view().await.row.key).await.unwrap().is_empty());
}

async fn an_object_that_was_decided_is_written_with_the_same_bounds_whatever_came_since(test: TestDb) {
    let world = World::new(test).await;
    world.store(0..3).await;
    // A folder that cannot be: the object is decided, and not written.
    std::fs::write(world.folder(), "in the way").unwrap();
    let mut deliverer = world.deliverer(objects(&world));
    world.clock.advance(MINUTE);
    idle(&mut deliverer).await;
    let key = world.view().await.row.key;
    let decided = Batch { account: world.owned.account, first: 1, last: 3, name: object(1, 3) };
    assert_eq!(world.db().batches(key).await.unwrap(), [decided]);
    assert_eq!(world.figures().await, (3, 0, 0, 0));
    std::fs::remove_file(world.folder()).unwrap();
    std::fs::create_dir(world.folder()).unwrap();
    world.store(3..5).await;
    // Another process, after a crash.
    let mut deliverer = world.deliverer(objects(&world));
    idle(&mut deliverer).await;
    assert_eq!(found(&world), [(object(1, 3), 3)]);
    world.clock.advance(2 * MINUTE);
    idle(&mut deliverer).await;
    assert_eq!(found(&world).len(), 2);
    assert_eq!(found(&world)[1].1, 2);
}
