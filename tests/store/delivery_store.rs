//! Delivery on both databases, step by step, with a manual clock: cursors, owners, retry limits, erasure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ringcx_extractor::clock::{Clock, Time};
use ringcx_extractor::config::{ObjectFormat, Sink, SinkErasures, SinkKind, SinkStart, WebhookSettings, WebhookUnit};
use ringcx_extractor::db::{
    CompletedJob, CursorAdvance, Db, DbFault, DeliveryRound, Item, JobOutcome, Lease, MetadataChunk, ObjectBatch,
    ReplayProgress, ReplayRequest, SinkOverview, sql,
};
use ringcx_extractor::deliver::{Deliverer, DeliveryContext, DeliveryProgress, SinkPauses};
use ringcx_extractor::erasure::{Confirmation, ErasureRequest, execute_plan, plan_erasure};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSelection, ArtifactSet, Lane, SegmentRecord, Subject, SummariesFor, TimeRange,
    TimeRangeSet,
};
use serde_json::Value;
use support::TestDb;
use support::webhook_receiver::{WebhookReceiver, WebhookReply};

crate::on_both! {
    a_new_sink_costs_one_cursor_an_account_and_begins_where_it_is_told,
    only_the_owner_moves_a_cursor,
    only_the_owner_advances_a_replay,
    a_sink_whose_row_is_lost_is_named,
    an_event_that_keeps_failing_is_given_up_when_its_patience_is_over,
    a_receiver_that_asks_to_be_left_alone_is,
    a_receiver_that_asks_to_be_left_alone_for_a_day_is_for_an_hour,
    a_sink_with_nothing_left_to_send_is_not_said_to_rest_and_is_tried_first,
    a_receiver_that_takes_two_a_second_gets_two_a_second,
    a_replay_does_not_wake_a_sink_that_rests,
    an_outage_counts_against_no_events_patience,
    what_is_erased_is_not_delivered_any_more,
    a_new_version_is_another_event,
    an_older_version_is_not_sent_after_a_newer_one,
    a_dialog_is_one_event_once_it_is_settled,
    an_erasure_is_an_event_and_removes_the_lines,
    metadata_is_an_event_when_it_is_announced_and_when_it_changes,
    what_is_damaged_in_the_archive_is_reported_and_passed_over,
    a_backlog_goes_out_once_each_and_in_order,
    what_gathers_within_a_minute_becomes_one_object,
    an_object_that_was_decided_is_written_with_the_same_bounds_whatever_came_since,
    what_an_object_leaves_out_as_damaged_is_reported_and_can_be_retried,
}

pub(crate) const NOW: Time = Time(1_800_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// A database with one account, and a manual clock.
pub(crate) struct DeliveryEnv {
    pub(crate) test: TestDb,
    pub(crate) clock: Clock,
    pub(crate) owned: Lease,
    board: Arc<SinkPauses>,
}

impl DeliveryEnv {
    pub(crate) async fn new(test: TestDb) -> DeliveryEnv {
        let owned = acquire_account(&test.db, "sub").await;
        DeliveryEnv { clock: Clock::manual(NOW), owned, test, board: Arc::default() }
    }

    pub(crate) fn db(&self) -> &Db {
        &self.test.db
    }

    /// Ingests segments with these numbers and stores their transcripts.
    pub(crate) async fn store_transcripts(&self, numbers: std::ops::Range<usize>) {
        store_transcripts(self.db(), self.owned, numbers, self.clock.now()).await;
    }

    pub(crate) fn deliverer(&self, settings: Sink) -> Deliverer {
        self.deliverer_for(settings, vec![self.owned])
    }

    pub(crate) fn deliverer_for(&self, settings: Sink, mine: Vec<Lease>) -> Deliverer {
        let means = DeliveryContext {
            db: self.db().clone(),
            clock: self.clock.clone(),
            owner: "test".to_owned(),
            leases: Arc::new(move || mine.clone()),
            account_names: Arc::default(),
            sink_pauses: self.board.clone(),
            stop: tokio_util::sync::CancellationToken::new(),
        };
        Deliverer::new(settings, means)
    }

    pub(crate) async fn view(&self) -> SinkOverview {
        self.db().sink_overviews().await.unwrap().remove(0)
    }

    /// The sums over all accounts: behind, waiting, failed, delivered.
    pub(crate) async fn totals(&self) -> (u64, u64, u64, u64) {
        let accounts = self.view().await.accounts;
        accounts.iter().fold((0, 0, 0, 0), |sum, of| {
            (sum.0 + of.behind, sum.1 + of.waiting, sum.2 + of.failed, sum.3 + of.delivered)
        })
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.test.folder.path().join("out")
    }

    fn delivered_lines(&self) -> Vec<Value> {
        let Ok(folder) = std::fs::read_dir(self.folder()) else { return Vec::new() };
        let text: String = folder.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn jsonl_settings(&self, start: SinkStart) -> Sink {
        let rotate = Duration::from_secs(86_400);
        sink_settings(start, SinkKind::Jsonl { path: self.folder(), rotate })
    }
}

pub(crate) fn sink_settings(start: SinkStart, kind: SinkKind) -> Sink {
    Sink {
        name: "sink".to_owned(),
        start,
        artifacts: ArtifactSet::ALL,
        metadata: false,
        erasures: SinkErasures::All,
        accounts: BTreeSet::new(),
        channels: BTreeSet::new(),
        redact: Vec::new(),
        give_up_after: WEEK,
        kind,
    }
}

fn webhook_settings(receiver: &WebhookReceiver) -> Sink {
    let defaults = WebhookSettings::new(&receiver.url, "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0");
    let settings = WebhookSettings { timeout: Duration::from_secs(10), allow_private: true, ..defaults };
    sink_settings(SinkStart::Beginning, SinkKind::Webhook(Box::new(settings)))
}

pub(crate) async fn acquire_account(db: &Db, sub: &str) -> Lease {
    let account = db.register_account(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.acquire_leases(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

pub(crate) async fn store_transcripts(db: &Db, owned: Lease, numbers: std::ops::Range<usize>, at: Time) {
    ingest_segments(db, owned, numbers, at, |number| format!(r#"{{"segmentId":"seg-{number}"}}"#)).await;
    answer_due_items(db, owned, at, "first", Some(at + MINUTE)).await;
}

pub(crate) async fn ingest_segments(
    db: &Db,
    owned: Lease,
    numbers: std::ops::Range<usize>,
    at: Time,
    raw: impl Fn(usize) -> String,
) {
    let wants = ArtifactSelection {
        artifacts: ArtifactSet::NONE.with(Artifact::Transcript),
        summaries_for: SummariesFor::Transcribed,
    };
    let records: Vec<SegmentRecord> = numbers
        .map(|number| SegmentRecord {
            segment_id: format!("seg-{number}"),
            dialog_id: Some(format!("dia-{number}")),
            end: Some(at),
            has_transcript: true,
            is_agent: true,
            raw: raw(number),
        })
        .collect();
    let chunk = MetadataChunk {
        lease: owned,
        lane: Lane::Live,
        range: TimeRange { from: Time(0), to: at + MINUTE },
        now: at,
        wants,
        already_read: &TimeRangeSet::default(),
        urgent_before: None,
        quarantine_retry_delay: MINUTE,
        records: &records,
        quarantined: &[],
    };
    db.ingest_chunk(chunk).await.unwrap();
}

/// Stores this text for every due item.
pub(crate) async fn answer_due_items(db: &Db, owned: Lease, at: Time, word: &str, revisit: Option<Time>) {
    let claims = db.due_items(owned, ArtifactSet::ALL, at, 5000).await.unwrap();
    let settled: Vec<CompletedJob> = claims
        .into_iter()
        .map(|claim| {
            let body = format!(r#"{{"channelClass":"VOICE","transcript":[],"word":"{word}"}}"#);
            CompletedJob { claim, at, outcome: JobOutcome::stored(&Bytes::from(body), revisit) }
        })
        .collect();
    assert!(db.complete_jobs(&settled).await.unwrap().iter().all(|counted| *counted));
}

/// Steps until nothing is due now.
pub(crate) async fn step_until_idle(deliverer: &mut Deliverer) {
    while deliverer.step().await.unwrap() == DeliveryProgress::Worked {}
}

async fn a_new_sink_costs_one_cursor_an_account_and_begins_where_it_is_told(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..50).await;
    let mut now = env.deliverer(env.jsonl_settings(SinkStart::Now));
    step_until_idle(&mut now).await;
    assert_eq!(env.totals().await, (0, 0, 0, 0));
    // A later change of `start` has no effect.
    let mut again = env.deliverer(env.jsonl_settings(SinkStart::Beginning));
    step_until_idle(&mut again).await;
    assert_eq!(env.delivered_lines().len(), 0);
    env.store_transcripts(50..53).await;
    step_until_idle(&mut again).await;
    assert_eq!((env.delivered_lines().len(), env.totals().await), (3, (0, 0, 0, 3)));
    // A new account begins with its first artifact, whatever `start` says.
    let other = acquire_account(env.db(), "other").await;
    store_transcripts(env.db(), other, 0..2, NOW).await;
    let mut both = env.deliverer_for(env.jsonl_settings(SinkStart::Now), vec![env.owned, other]);
    step_until_idle(&mut both).await;
    assert_eq!(env.delivered_lines().len(), 5);
}

async fn only_the_owner_moves_a_cursor(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..3).await;
    let sink = env.db().ensure_sink("sink", true, "here", NOW).await.unwrap();
    let after = acquire_account(env.db(), "sub").await;
    let pass = |owned| DeliveryRound {
        sink: sink.key,
        at: NOW,
        advances: vec![CursorAdvance { lease: owned, upto: 2, delivered: 2 }],
        ..DeliveryRound::default()
    };
    assert!(env.db().record_delivery_round(&pass(env.owned)).await.unwrap().is_empty());
    assert_eq!(env.totals().await, (3, 0, 0, 0));
    assert_eq!(env.db().record_delivery_round(&pass(after)).await.unwrap().len(), 1);
    assert_eq!(env.totals().await, (1, 0, 0, 2));
    // A deliverer under the old epoch sends nothing.
    step_until_idle(&mut env.deliverer(env.jsonl_settings(SinkStart::Beginning))).await;
    assert_eq!(env.delivered_lines().len(), 0);
}

async fn only_the_owner_advances_a_replay(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..3).await;
    let sink = env.db().ensure_sink("sink", true, "here", NOW).await.unwrap().key;
    let stored = TimeRange { from: Time(0), to: NOW + MINUTE };
    env.db().request_replay(&ReplayRequest { sink, account: None, stored, rate: 50 }, NOW).await.unwrap();
    let id = env.db().open_replay(sink, "test").await.unwrap().unwrap().id;
    let after = acquire_account(env.db(), "sub").await;
    let round = |lease| DeliveryRound {
        sink,
        at: NOW,
        advances: vec![CursorAdvance { lease, upto: 0, delivered: 3 }],
        replay_progress: Some(ReplayProgress { lease, id, upto: 3, sent: 3, is_finished: true }),
        ..DeliveryRound::default()
    };
    for (lease, expected) in [(env.owned, (0, 0, None)), (after, (3, 3, Some(NOW)))] {
        env.db().record_delivery_round(&round(lease)).await.unwrap();
        let replay = env.db().replays(sink, NOW).await.unwrap().remove(0);
        assert_eq!((replay.feed, replay.sent, replay.finished), expected);
    }
}

async fn a_sink_whose_row_is_lost_is_named(test: TestDb) {
    test.drop_inserted_rows("sink").await;
    let error = test.db.ensure_sink("hook", true, "here", NOW).await.unwrap_err();
    assert_eq!(error.fault(), DbFault::Broken);
    assert!(error.to_string().contains("table sink has no row for hook"), "{error}");
}

async fn an_event_that_keeps_failing_is_given_up_when_its_patience_is_over(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let bad = Arc::new(Mutex::new(0_u32));
    let tries = bad.clone();
    let receiver = WebhookReceiver::start(move |received| match received.event["subject"] == "seg-1" {
        true => {
            *tries.lock().unwrap() += 1;
            WebhookReply::Status(500)
        }
        false => WebhookReply::Status(200),
    })
    .await;
    env.store_transcripts(0..4).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    step_until_idle(&mut deliverer).await;
    assert_eq!((receiver.accepted().len(), env.totals().await), (3, (0, 1, 0, 3)));
    let mut passed = Duration::ZERO;
    while env.totals().await.2 == 0 {
        // The clock moves in steps of ten minutes, so each try may be that late.
        assert!(passed < WEEK + 40 * 10 * MINUTE, "it is given up in time");
        env.clock.advance(10 * MINUTE);
        passed += 10 * MINUTE;
        step_until_idle(&mut deliverer).await;
    }
    assert!(passed >= WEEK, "{passed:?}");
    let tries = *bad.lock().unwrap();
    assert!((12..40).contains(&tries), "{tries} tries in a week");
    assert_eq!(env.totals().await, (0, 0, 1, 3));
    let given_up = env.clock.now();
    assert_eq!(env.view().await.accounts[0].failed_since, Some(given_up));
    env.clock.advance(10 * MINUTE);
    assert_eq!(env.view().await.accounts[0].failed_since, Some(given_up));
    // `deliver retry` retries it at once and resets its retry limit.
    receiver.set_reply(|_| WebhookReply::Status(200));
    let key = env.view().await.row.key;
    assert_eq!(env.db().retry_failed_deliveries(key, false, env.clock.now()).await.unwrap(), 1);
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.totals().await, (0, 0, 0, 4));
    assert_eq!(env.view().await.accounts[0].failed_since, None);
}

async fn a_receiver_that_asks_to_be_left_alone_is(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::RetryAfter(600)).await;
    env.store_transcripts(0..1).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    for _ in 0..9 {
        step_until_idle(&mut deliverer).await;
        assert_eq!((receiver.request_count(), env.totals().await), (1, (1, 0, 0, 0)));
        env.clock.advance(MINUTE);
    }
    receiver.set_reply(|_| WebhookReply::Status(200));
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!((receiver.request_count(), env.totals().await), (2, (0, 0, 0, 1)));
}

async fn a_receiver_that_asks_to_be_left_alone_for_a_day_is_for_an_hour(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::RetryAfter(86_400)).await;
    env.store_transcripts(0..1).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    step_until_idle(&mut deliverer).await;
    env.clock.advance(59 * MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(receiver.request_count(), 1);
    receiver.set_reply(|_| WebhookReply::Status(200));
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.totals().await, (0, 0, 0, 1));
}

/// Another replica may have delivered the rest, or it was erased.
async fn a_sink_with_nothing_left_to_send_is_not_said_to_rest_and_is_tried_first(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::RetryAfter(60)).await;
    env.store_transcripts(0..1).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.board.snapshot().len(), 1);
    env.db().run(sql("delete from artifact")).await.unwrap();
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.board.snapshot().len(), 1, "the pause is not over");
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!((env.board.snapshot().len(), receiver.request_count()), (0, 1));
    receiver.set_reply(|_| WebhookReply::Status(500));
    env.store_transcripts(1..60).await;
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.board.snapshot().len(), 1);
    assert!(receiver.request_count() < 10, "{} requests to a receiver that is down", receiver.request_count());
}

/// Steps, and advances the clock to each due time, until `is_done` or for at most `max`. Returns the time advanced.
async fn advance_until(
    env: &DeliveryEnv,
    deliverer: &mut Deliverer,
    max: Duration,
    is_done: impl AsyncFn() -> bool,
) -> Duration {
    let mut advanced = Duration::ZERO;
    deliverer.step().await.unwrap();
    while advanced < max && !is_done().await {
        let DeliveryProgress::Idle(until) = deliverer.step().await.unwrap() else { continue };
        let wait = until.since(env.clock.tick()).clamp(Duration::from_millis(1), max - advanced);
        env.clock.advance(wait);
        advanced += wait;
    }
    advanced
}

async fn a_receiver_that_takes_two_a_second_gets_two_a_second(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let (clock, bucket) = (env.clock.clone(), Mutex::new((0, 0)));
    let receiver = WebhookReceiver::start(move |_| {
        let (second, mut bucket) = (clock.now().floor_secs(), bucket.lock().unwrap());
        *bucket = if bucket.0 == second { (second, bucket.1 + 1) } else { (second, 1) };
        if bucket.1 <= 2 { WebhookReply::Status(200) } else { WebhookReply::RetryAfter(1) }
    })
    .await;
    env.store_transcripts(0..60).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    let elapsed = advance_until(&env, &mut deliverer, 10 * MINUTE, async || env.totals().await == (0, 0, 0, 60)).await;
    assert_eq!(env.totals().await, (0, 0, 0, 60));
    assert!(elapsed <= MINUTE * 3 / 2, "{elapsed:?}");
}

async fn a_replay_does_not_wake_a_sink_that_rests(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(200)).await;
    env.store_transcripts(0..50).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    step_until_idle(&mut deliverer).await;
    let stored = TimeRange { from: Time(0), to: NOW + MINUTE };
    let sink = env.db().sinks().await.unwrap().remove(0).key;
    env.db().request_replay(&ReplayRequest { sink, account: None, stored, rate: 50 }, NOW).await.unwrap();
    deliverer.retry_now();
    receiver.set_reply(|_| WebhookReply::Status(500));
    let before = receiver.request_count();
    advance_until(&env, &mut deliverer, 5 * MINUTE, async || false).await;
    let asked = receiver.request_count() - before;
    assert!((5..120).contains(&asked), "{asked} requests in five minutes to a receiver that is down");
    receiver.set_reply(|_| WebhookReply::Status(200));
    advance_until(&env, &mut deliverer, 10 * MINUTE, async || receiver.accepted().len() >= 100).await;
    assert!(receiver.accepted().len() >= 100, "the replay continues when the receiver has recovered");
}

async fn an_outage_counts_against_no_events_patience(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(503)).await;
    env.store_transcripts(0..40).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    for _ in 0..30 {
        step_until_idle(&mut deliverer).await;
        env.clock.advance(Duration::from_secs(86_400));
    }
    let (behind, waiting, failed, delivered) = env.totals().await;
    assert_eq!((behind + waiting, failed, delivered), (40, 0, 0), "a month away, and nothing is given up");
    assert!(waiting <= 2, "its backlog costs no rows: {waiting}");
    receiver.set_reply(|_| WebhookReply::Status(200));
    for _ in 0..3 {
        env.clock.advance(Duration::from_secs(86_400));
        step_until_idle(&mut deliverer).await;
    }
    assert_eq!(env.totals().await, (0, 0, 0, 40));
}

async fn what_is_erased_is_not_delivered_any_more(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|received| match received.event["subject"] == "seg-0" {
        true => WebhookReply::Status(400),
        false => WebhookReply::Status(200),
    })
    .await;
    env.store_transcripts(0..2).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    step_until_idle(&mut deliverer).await;
    env.store_transcripts(2..5).await;
    // A failed event and a pending one.
    for segment in ["seg-0", "seg-3"] {
        let key = env.db().segments_by_id(segment).await.unwrap()[0].key;
        let mut tx = env.db().begin().await.unwrap();
        tx.delete_failed_deliveries(&[Item(key * 4)]).await.unwrap();
        tx.run(sql("delete from artifact where item = $1").bind(key * 4)).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(env.totals().await, (3, 0, 0, 1));
    step_until_idle(&mut deliverer).await;
    assert_eq!(env.totals().await, (0, 0, 0, 3));
    let accepted = receiver.accepted();
    let mut subjects: Vec<&str> = accepted.iter().filter_map(|received| received.event["subject"].as_str()).collect();
    // Several requests are in flight and may overtake one another.
    subjects.sort_unstable();
    assert_eq!(subjects, ["seg-1", "seg-2", "seg-4"]);
}

async fn a_new_version_is_another_event(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let mut deliverer = env.deliverer(env.jsonl_settings(SinkStart::Beginning));
    env.store_transcripts(0..1).await;
    step_until_idle(&mut deliverer).await;
    env.clock.advance(2 * MINUTE);
    answer_due_items(env.db(), env.owned, env.clock.now(), "second", None).await;
    step_until_idle(&mut deliverer).await;
    let lines = env.delivered_lines();
    let words: Vec<&Value> = lines.iter().map(|line| &line["data"]["transcript"]["body"]["word"]).collect();
    assert_eq!(words, ["first", "second"]);
    assert_ne!(lines[0]["id"], lines[1]["id"]);
    assert_eq!((&lines[0]["subject"], &lines[0]["type"]), (&lines[1]["subject"], &lines[1]["type"]));
}

async fn an_older_version_is_not_sent_after_a_newer_one(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let is_first = |event: &Value| event["data"]["transcript"]["body"]["word"] == "first";
    let receiver = WebhookReceiver::start(move |received| match is_first(&received.event) {
        true => WebhookReply::Status(500),
        false => WebhookReply::Status(200),
    })
    .await;
    env.store_transcripts(0..1).await;
    let mut deliverer = env.deliverer(webhook_settings(&receiver));
    step_until_idle(&mut deliverer).await;
    env.clock.advance(2 * MINUTE);
    answer_due_items(env.db(), env.owned, env.clock.now(), "second", None).await;
    advance_until(&env, &mut deliverer, 60 * MINUTE, async || !receiver.accepted().is_empty()).await;
    // The newer version waits for the first retries of the older one, and then replaces it.
    assert!(receiver.request_count() > 4);
    receiver.set_reply(|_| WebhookReply::Status(200));
    env.clock.advance(WEEK);
    step_until_idle(&mut deliverer).await;
    let accepted: Vec<Value> = receiver.accepted().into_iter().map(|received| received.event).collect();
    assert_eq!((accepted.len(), &accepted[0]["data"]["version"]), (1, &2.into()), "{accepted:?}");
    assert_eq!(env.totals().await, (0, 0, 0, 1));
}

async fn a_dialog_is_one_event_once_it_is_settled(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let receiver = WebhookReceiver::start(|_| WebhookReply::Status(200)).await;
    let mut settings = webhook_settings(&receiver);
    if let SinkKind::Webhook(webhook) = &mut settings.kind {
        (webhook.unit, webhook.settle_after) = (WebhookUnit::Dialog, 10 * MINUTE);
    }
    let mut deliverer = env.deliverer(settings);
    ingest_segments(env.db(), env.owned, 0..3, NOW, |number| format!(r#"{{"segmentId":"seg-{number}"}}"#)).await;
    env.db().run(sql("update segment set dialog_id = 'one'")).await.unwrap();
    // Two of three have arrived.
    let claims = env.db().due_items(env.owned, ArtifactSet::ALL, NOW, 2).await.unwrap();
    let body = Bytes::from(r#"{"transcript":[]}"#);
    let done: Vec<CompletedJob> = claims
        .into_iter()
        .map(|claim| CompletedJob { claim, at: NOW, outcome: JobOutcome::stored(&body, None) })
        .collect();
    env.db().complete_jobs(&done).await.unwrap();
    step_until_idle(&mut deliverer).await;
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(receiver.request_count(), 0, "a part is awaited");
    answer_due_items(env.db(), env.owned, env.clock.now(), "last", None).await;
    advance_until(&env, &mut deliverer, 5 * MINUTE, async || receiver.request_count() > 0).await;
    let accepted = receiver.accepted();
    let event = &accepted[0].event;
    assert_eq!((&event["type"], &event["subject"]), (&"com.ringcx.dialog".into(), &"one".into()));
    let ids: Vec<&str> =
        event["data"]["segments"].as_array().unwrap().iter().filter_map(|one| one["segment_id"].as_str()).collect();
    assert_eq!(ids, ["seg-0", "seg-1", "seg-2"]);
    advance_until(&env, &mut deliverer, 5 * MINUTE, async || env.totals().await.1 == 0).await;
    assert_eq!((receiver.request_count(), env.totals().await), (1, (0, 0, 0, 1)), "it is sent once");
}

pub(crate) async fn erase_segment(env: &DeliveryEnv, id: &str) {
    let request = ErasureRequest {
        subject: Subject::Segment(id.to_owned()),
        account: None,
        who: "test".to_owned(),
        reason: None,
        include_alike: false,
        include_unreadable: false,
        access_entry: None,
    };
    let plan = plan_erasure(env.db(), &request, &mut |_| {}).await.unwrap();
    let now = env.clock.now();
    let (counts, _) = execute_plan(env.db(), &request, plan, Confirmation::Listed, now, &mut |_| {}).await.unwrap();
    assert_eq!(counts.segments, 1);
}

async fn an_erasure_is_an_event_and_removes_the_lines(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..3).await;
    let mut deliverer = env.deliverer(env.jsonl_settings(SinkStart::Beginning));
    step_until_idle(&mut deliverer).await;
    let key = env.db().segments_by_id("seg-1").await.unwrap()[0].key;
    let copies = env.db().delivered_copies(&[key]).await.unwrap();
    assert_eq!((copies[0].sink.as_str(), copies[0].events, copies[0].segments), ("sink", 1, 1));
    erase_segment(&env, "seg-1").await;
    let named = sql("select count(*) from feed_notice where segment_id is not null");
    assert_eq!(env.db().count(named.clone()).await.unwrap(), 1);
    assert_eq!(env.db().forget_delivered_erasures(&["sink"], NOW).await.unwrap(), 0, "the sink was not told yet");
    step_until_idle(&mut deliverer).await;
    let lines = env.delivered_lines();
    let kinds: Vec<(&str, &str)> =
        lines.iter().map(|line| (line["subject"].as_str().unwrap(), line["type"].as_str().unwrap())).collect();
    let transcript = "com.ringcx.transcript";
    assert_eq!(kinds, [("seg-0", transcript), ("seg-2", transcript), ("seg-1", "com.ringcx.segment.erased")]);
    assert_eq!(lines[2]["data"]["reason"], "erasure");
    assert!(lines[2]["sequence"].as_str() > lines[1]["sequence"].as_str());
    assert_eq!(env.db().forget_delivered_erasures(&["sink"], NOW).await.unwrap(), 1);
    assert_eq!(env.db().count(named).await.unwrap(), 0);
    // The entry is in the chain, and has no content to resend.
    let feed = sql("select feed from account where id = $1").bind(env.owned.account);
    assert_eq!(env.db().count(feed).await.unwrap(), 4);
    assert_eq!(env.totals().await, (0, 0, 0, 4));
}

async fn metadata_is_an_event_when_it_is_announced_and_when_it_changes(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.db().announce_metadata(true).await.unwrap();
    let settings = Sink { metadata: true, ..env.jsonl_settings(SinkStart::Beginning) };
    let mut deliverer = env.deliverer(settings);
    let mut other = env.deliverer(Sink { name: "other".into(), ..second_lines(&env) });
    env.store_transcripts(0..1).await;
    step_until_idle(&mut deliverer).await;
    env.clock.advance(MINUTE);
    let changed = r#"{"segmentId":"seg-0","disposition":"sold"}"#;
    ingest_segments(env.db(), env.owned, 0..1, env.clock.now(), |_| changed.to_owned()).await;
    step_until_idle(&mut deliverer).await;
    step_until_idle(&mut other).await;
    let lines = env.delivered_lines();
    let told: Vec<(&str, i64)> =
        lines.iter().map(|line| (line["type"].as_str().unwrap(), line["data"]["version"].as_i64().unwrap())).collect();
    assert_eq!(told, [("com.ringcx.metadata", 1), ("com.ringcx.transcript", 1), ("com.ringcx.metadata", 2)]);
    assert_eq!(lines[2]["data"]["metadata"]["disposition"], "sold");
    let views = env.db().sink_overviews().await.unwrap();
    assert_eq!(views.iter().map(|view| view.accounts[0].delivered).collect::<Vec<_>>(), [1, 3], "by name");
    erase_segment(&env, "seg-0").await;
    step_until_idle(&mut deliverer).await;
    let kinds: Vec<Value> = env.delivered_lines().iter().map(|line| line["type"].clone()).collect();
    assert_eq!(kinds, ["com.ringcx.segment.erased"]);
}

/// A second sink of files, beside the first one's.
fn second_lines(env: &DeliveryEnv) -> Sink {
    let path = env.test.folder.path().join("other");
    sink_settings(SinkStart::Beginning, SinkKind::Jsonl { path, rotate: Duration::from_secs(86_400) })
}

async fn what_is_damaged_in_the_archive_is_reported_and_passed_over(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..3).await;
    let damage = sql("update artifact set codec = 1, body = $1 where feed = 2").bind(b"not zstd".to_vec());
    env.db().run(damage).await.unwrap();
    step_until_idle(&mut env.deliverer(env.jsonl_settings(SinkStart::Beginning))).await;
    assert_eq!((env.delivered_lines().len(), env.totals().await), (2, (0, 0, 1, 2)));
    assert!(env.view().await.failures[0].reason.contains("failed to unpack"));
}

async fn a_backlog_goes_out_once_each_and_in_order(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    let other = acquire_account(env.db(), "other").await;
    env.store_transcripts(0..700).await;
    store_transcripts(env.db(), other, 0..900, NOW).await;
    let mut deliverer = env.deliverer_for(env.jsonl_settings(SinkStart::Beginning), vec![env.owned, other]);
    step_until_idle(&mut deliverer).await;
    let lines = env.delivered_lines();
    assert_eq!(lines.len(), 1600);
    let ids: BTreeSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1600);
    let feed = sql(
        "select s.segment_id from artifact x join segment s on s.id = x.item / 4 where x.account = $1 order by x.feed",
    );
    let feed: Vec<String> = env.db().values(feed.bind(other.account)).await.unwrap();
    let sent = lines.iter().filter(|line| line["data"]["sub_account_id"] == "other");
    let sent: Vec<&str> = sent.map(|line| line["subject"].as_str().unwrap()).collect();
    assert_eq!(sent, feed, "the feed's order");
}

fn object_store_settings(env: &DeliveryEnv) -> Sink {
    let kind = SinkKind::ObjectStore {
        url: format!("file://{}", env.folder().display()),
        format: ObjectFormat::Jsonl,
        options: Default::default(),
    };
    sink_settings(SinkStart::Beginning, kind)
}

/// The objects below the sink's folder: name without extension, and how many events each holds.
fn stored_objects(env: &DeliveryEnv) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut folders = vec![env.folder()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(env.folder()).unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((name.split('.').next().unwrap().to_owned(), text.lines().count()));
        }
    }
    found.sort();
    found
}

fn object_name(first: i64, last: i64) -> String {
    ringcx_extractor::sink::object_store::object_name("sub", NOW, first, last)
}

async fn what_gathers_within_a_minute_becomes_one_object(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    std::fs::create_dir(env.folder()).unwrap();
    env.store_transcripts(0..3).await;
    let mut deliverer = env.deliverer(object_store_settings(&env));
    step_until_idle(&mut deliverer).await;
    assert_eq!(stored_objects(&env), []);
    env.store_transcripts(3..5).await;
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(stored_objects(&env), [(object_name(1, 5), 5)]);
    assert_eq!(env.totals().await, (0, 0, 0, 5));
    assert!(env.db().object_batches(env.view().await.row.key).await.unwrap().is_empty());
}

async fn an_object_that_was_decided_is_written_with_the_same_bounds_whatever_came_since(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    env.store_transcripts(0..3).await;
    // The folder cannot be created: the object is recorded, but not written.
    std::fs::write(env.folder(), "in the way").unwrap();
    let mut deliverer = env.deliverer(object_store_settings(&env));
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    let key = env.view().await.row.key;
    let decided = ObjectBatch { account: env.owned.account, first: 1, last: 3, name: object_name(1, 3) };
    assert_eq!(env.db().object_batches(key).await.unwrap(), [decided]);
    assert_eq!(env.totals().await, (3, 0, 0, 0));
    std::fs::remove_file(env.folder()).unwrap();
    std::fs::create_dir(env.folder()).unwrap();
    env.store_transcripts(3..5).await;
    // A new process, as after a crash.
    let mut deliverer = env.deliverer(object_store_settings(&env));
    step_until_idle(&mut deliverer).await;
    assert_eq!(stored_objects(&env), [(object_name(1, 3), 3)]);
    env.clock.advance(2 * MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(stored_objects(&env).len(), 2);
    assert_eq!(stored_objects(&env)[1].1, 2);
}

async fn what_an_object_leaves_out_as_damaged_is_reported_and_can_be_retried(test: TestDb) {
    let env = DeliveryEnv::new(test).await;
    std::fs::create_dir(env.folder()).unwrap();
    env.store_transcripts(0..3).await;
    let intact = env.db().first(sql("select codec, body from artifact where feed = 2")).await.unwrap();
    let (codec, body): (i64, Vec<u8>) = intact.unwrap();
    let store = |codec: i64, body: Vec<u8>| {
        sql("update artifact set codec = $1, body = $2 where feed = 2").bind(codec).bind(body)
    };
    env.db().run(store(1, b"not zstd".to_vec())).await.unwrap();
    let mut deliverer = env.deliverer(object_store_settings(&env));
    env.clock.advance(MINUTE);
    step_until_idle(&mut deliverer).await;
    assert_eq!(stored_objects(&env), [(object_name(1, 3), 2)]);
    assert_eq!(env.totals().await, (0, 0, 1, 2));
    assert!(env.view().await.failures[0].reason.contains("failed to unpack"));
    // The row is restored from a backup, and the event is retried.
    env.db().run(store(codec, body)).await.unwrap();
    let key = env.view().await.row.key;
    assert_eq!(env.db().retry_failed_deliveries(key, false, env.clock.now()).await.unwrap(), 1);
    step_until_idle(&mut deliverer).await;
    assert_eq!(stored_objects(&env), [(object_name(1, 3), 2), (object_name(2, 2) + "-retry", 1)]);
    assert_eq!(env.totals().await, (0, 0, 0, 3));
}
