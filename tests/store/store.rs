//! The store, on both databases: what is announced, claimed and settled, and that nothing counts twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use bytes::Bytes;
use ringcx_extractor::clock::Time;
use ringcx_extractor::db::{
    AccountRow, Announced, Chunk, Claim, Db, ExportRange, Owned, QueueFilter, Reading, Refusal, Settled, Settlement,
    SlotOutcome, sql,
};
use ringcx_extractor::model::{
    AccountId, Artifact, ArtifactSet, AsideRecord, Lane, SegmentRecord, State, Stretch, Stretches, SummariesFor, Wants,
};
use ringcx_extractor::ringcx::limits::{ReserveStore, Sliding};
use std::collections::BTreeMap;
use std::time::Duration;
use support::TestDb;

crate::on_both! {
    announced_segments_are_queued_once,
    a_transcript_that_turns_true_is_queued_and_remembered,
    an_answer_is_archived_once_and_ends_its_work,
    a_commit_reported_as_failed_may_come_again_though_a_visit_is_due,
    a_result_of_an_earlier_owner_does_not_count,
    a_row_that_cannot_be_is_an_error_that_names_it,
    a_failure_waits_and_leaves_its_story,
    what_was_put_off_is_taken_back_to_where_its_backoff_had_it,
    a_revisit_keeps_versions,
    coverage_merges,
    export_order_is_by_end_account_and_id,
    reservations_keep_a_sliding_window,
    what_a_refusal_asked_for_is_kept_until_the_next,
    a_refusal_from_before_the_clock_was_set_back_lasts_no_longer_than_it_would_have,
    records_set_aside_are_kept_and_settled,
    thousands_at_once,
    what_the_vendor_soon_deletes_goes_first,
    a_thousand_accounts_are_enrolled_once_and_renamed,
}

const NOW: Time = Time(1_800_000_000_000);
const ALL: Wants = Wants { artifacts: ArtifactSet::ALL, summaries_for: SummariesFor::Transcribed };

fn record(id: &str, ended: i64, has_transcript: bool) -> SegmentRecord {
    SegmentRecord {
        segment_id: id.to_owned(),
        dialog_id: Some(format!("d-{id}")),
        end: Some(Time(ended)),
        has_transcript,
        is_agent: true,
        raw: format!(r#"{{"segmentId":"{id}","hasTranscript":{has_transcript},"unknown":[1,null]}}"#),
    }
}

async fn own(db: &Db, sub: &str) -> Owned {
    let account = db.enrol(&AccountId::new("1", sub), None, NOW).await.unwrap();
    db.take(&[account.key], "test", Duration::from_secs(10), NOW).await.unwrap().remove(0)
}

async fn announce(db: &Db, owned: Owned, lane: Lane, records: &[SegmentRecord]) -> Announced {
    let known = Stretches::default();
    let stretch = Stretch { from: Time(0), to: NOW };
    let chunk = Chunk {
        owned,
        lane,
        stretch,
        now: NOW,
        wants: ALL,
        known: &known,
        urgent_before: Some(Time(3)),
        repair: Duration::from_secs(60),
        records,
        asides: &[],
    };
    db.announce(chunk).await.unwrap()
}

async fn claims(db: &Db, owned: Owned, now: Time) -> Vec<Claim> {
    db.due(owned, ArtifactSet::ALL, now, 5000).await.unwrap()
}

fn answered(claim: Claim, body: &str) -> Settled {
    Settled { claim, at: NOW, settlement: Settlement::stored(&Bytes::copy_from_slice(body.as_bytes()), None) }
}

async fn announced_segments_are_queued_once(test: TestDb) {
    let owned = own(&test.db, "a").await;
    let records = [record("one", 5, true), record("two", 6, false), record("one", 5, true)];
    let first = announce(&test.db, owned, Lane::Live, &records).await;
    assert_eq!((first.segments, first.added, first.queued), (2, 2, 3));
    let again = announce(&test.db, owned, Lane::Recheck, &records).await;
    assert_eq!((again.added, again.changed, again.queued), (0, 0, 0));
    assert_eq!((first.digest_high, first.digest_low), (again.digest_high, again.digest_low));
    let held = claims(&test.db, owned, NOW).await;
    assert_eq!(held.len(), 3);
    assert!(held.iter().all(|claim| claim.segment_id == "one" && claim.dialog_id.as_deref() == Some("d-one")));
}

async fn a_transcript_that_turns_true_is_queued_and_remembered(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("one", 5, false)]).await;
    let flipped = announce(&test.db, owned, Lane::Recheck, &[record("one", 5, true)]).await;
    assert_eq!((flipped.changed, flipped.flipped, flipped.queued), (1, 1, 3));
    // Back to false cancels nothing, and true again queues nothing twice.
    announce(&test.db, owned, Lane::Recheck, &[record("one", 5, false)]).await;
    let again = announce(&test.db, owned, Lane::Recheck, &[record("one", 5, true)]).await;
    assert_eq!(again.queued, 0);
    assert_eq!(claims(&test.db, owned, NOW).await.len(), 3);
    let segment = test.db.segments_named("one").await.unwrap().remove(0);
    let changes = test.db.changes(segment.key).await.unwrap();
    assert_eq!(changes[0].what, "hasTranscript turned true");
    assert!(changes[0].metadata.contains("false") && segment.metadata.contains("true"));
}

async fn an_answer_is_archived_once_and_ends_its_work(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let batch: Vec<Settled> =
        claims(&test.db, owned, NOW).await.into_iter().map(|claim| answered(claim, r#"{"transcript":[]}"#)).collect();
    assert_eq!(test.db.settle(&batch).await.unwrap(), [true, true, true]);
    // The commit that succeeded but was reported as failed is settled again.
    assert_eq!(test.db.settle(&batch).await.unwrap(), [false, false, false]);
    assert!(claims(&test.db, owned, NOW).await.is_empty());
    let account = &test.db.accounts().await.unwrap()[0];
    assert_eq!((account.done, account.feed), (3, 3));
    let segments = test.db.segments_after(ExportRange::default(), None, 10).await.unwrap();
    let slots = test.db.slots(&segments).await.unwrap();
    assert!(slots[0].iter().all(|slot| slot.outcome == SlotOutcome::Stored(br#"{"transcript":[]}"#.to_vec())));
    // Read again in a backfill, nothing is fetched twice.
    assert_eq!(announce(&test.db, owned, Lane::Backfill, &[record("one", 5, true)]).await.queued, 0);
}

async fn a_commit_reported_as_failed_may_come_again_though_a_visit_is_due(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let later = NOW + Duration::from_secs(86_400);
    for (text, visit) in [("first", 0), ("second", 1)] {
        let claim =
            claims(&test.db, owned, later).await.into_iter().find(|claim| claim.artifact == Artifact::AutoSummary);
        let claim = claim.unwrap();
        assert_eq!(claim.visit, visit);
        let settlement = Settlement::stored(&Bytes::from_static(text.as_bytes()), Some(later));
        let batch = [Settled { claim, at: NOW, settlement }];
        assert_eq!(test.db.settle(&batch).await.unwrap(), [true]);
        assert_eq!(test.db.settle(&batch).await.unwrap(), [false]);
    }
    let visits = claims(&test.db, owned, later).await;
    let visit = visits.iter().find(|claim| claim.artifact == Artifact::AutoSummary).unwrap();
    assert_eq!(visit.visit, 2);
    let account = &test.db.accounts().await.unwrap()[0];
    assert_eq!((account.done, account.feed), (1, 2));
}

async fn a_result_of_an_earlier_owner_does_not_count(test: TestDb) {
    let before = own(&test.db, "a").await;
    announce(&test.db, before, Lane::Live, &[record("one", 5, true)]).await;
    let claim = claims(&test.db, before, NOW).await.remove(0);
    let after = own(&test.db, "a").await;
    assert!(after.epoch > before.epoch);
    assert_eq!(test.db.settle(&[answered(claim, "late")]).await.unwrap(), [false]);
    assert_eq!(claims(&test.db, after, NOW).await.len(), 3);
    let known = Stretches::default();
    let chunk = Chunk {
        owned: before,
        lane: Lane::Live,
        stretch: Stretch { from: Time(0), to: NOW },
        now: NOW,
        wants: ALL,
        known: &known,
        urgent_before: Some(Time(3)),
        repair: Duration::from_secs(60),
        records: &[record("two", 6, true)],
        asides: &[],
    };
    assert!(test.db.announce(chunk).await.is_err());
    assert!(test.db.segments_named("two").await.unwrap().is_empty());
}

async fn what_was_put_off_is_taken_back_to_where_its_backoff_had_it(test: TestDb) {
    let owned = own(&test.db, "a").await;
    let hour = Duration::from_secs(3600);
    announce(&test.db, owned, Lane::Live, &[record("one", 5, true), record("two", 6, true), record("old", 7, true)])
        .await;
    let claims = claims(&test.db, owned, NOW).await;
    let only = |name: &str| {
        let found = claims.iter().find(|claim| claim.segment_id == name && claim.artifact == Artifact::Transcript);
        found.unwrap().clone()
    };
    let failed = |claim: Claim, due: Time| {
        let (reason, status) = ("not there".to_owned(), Some(404));
        Settled {
            claim,
            at: NOW,
            settlement: Settlement::Failed {
                state: State::Open,
                due,
                misses: 1,
                refusals: 0,
                status,
                reason,
                broken: None,
            },
        }
    };
    let put_off = |claim: Claim| {
        let first_try = claim.first_try;
        Settled { claim, at: NOW, settlement: Settlement::Deferred { due: NOW + 6 * hour, first_try } }
    };
    // One was never tried, one was tried thrice, and of one that was tried once the next try is near as it is.
    test.db.settle(&[put_off(only("one"))]).await.unwrap();
    test.db.settle(&[failed(Claim { tries: 2, ..only("two") }, NOW + Duration::from_secs(1))]).await.unwrap();
    let tried = test.db.due(owned, ArtifactSet::ALL, NOW + Duration::from_secs(1), 10).await.unwrap();
    let two =
        tried.into_iter().find(|claim| claim.segment_id == "two" && claim.artifact == Artifact::Transcript).unwrap();
    assert_eq!(two.tries, 3);
    test.db.settle(&[put_off(two)]).await.unwrap();
    test.db.settle(&[failed(only("old"), NOW + Duration::from_secs(9))]).await.unwrap();

    let now = NOW + Duration::from_secs(20);
    let back = test.db.undefer(owned.account, Artifact::Transcript, now, Duration::from_secs(15)).await.unwrap();
    assert_eq!(back, 2);
    let due = |items: Vec<Claim>| -> Vec<String> {
        items.into_iter().filter(|claim| claim.artifact == Artifact::Transcript).map(|claim| claim.segment_id).collect()
    };
    let mut ready = due(test.db.due(owned, ArtifactSet::ALL, now, 10).await.unwrap());
    ready.sort_unstable();
    assert_eq!(ready, ["old", "one"]);
    let minute = due(test.db.due(owned, ArtifactSet::ALL, NOW + Duration::from_secs(60), 10).await.unwrap());
    assert!(minute.contains(&"two".to_owned()), "the delay after a third try is four times the first");
    let sooner = due(test.db.due(owned, ArtifactSet::ALL, NOW + Duration::from_secs(59), 10).await.unwrap());
    assert!(!sooner.contains(&"two".to_owned()));
}

/// What stands for nothing is never passed over as if it were not there: the work or the segment behind it would be forgotten.
async fn a_row_that_cannot_be_is_an_error_that_names_it(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let set = async |statement: &'static str| test.db.run(sql(statement)).await.unwrap();
    // The tables refuse such rows; a damaged file or another program does not ask them.
    if matches!(test.db, Db::Postgres(_)) {
        set("alter table work drop constraint work_lane_check, drop constraint work_state_check").await;
        set("alter table segment drop constraint segment_asked_check").await;
    } else {
        set("pragma ignore_check_constraints = on").await;
    }
    let names = |error: String, column: &str| {
        assert!(error.contains(column) && error.contains("hint"), "{error}");
    };
    set("update work set lane = 9").await;
    names(test.db.queue(&QueueFilter::default()).await.unwrap_err().to_string(), "work.lane");
    set("update work set lane = 0, state = 9").await;
    names(test.db.queue(&QueueFilter::default()).await.unwrap_err().to_string(), "work.state");
    let segments = test.db.segments_after(ExportRange::default(), None, 10).await.unwrap();
    names(test.db.slots(&segments).await.unwrap_err().to_string(), "work.state");
    let mut report = test.db.snapshot().await.unwrap();
    names(report.unfinished(ExportRange::default()).await.unwrap_err().to_string(), "work.state");
    set("update segment set asked = 64").await;
    let known = Stretches::default();
    let records = [record("one", 5, true)];
    let stretch = Stretch { from: Time(0), to: NOW };
    let (repair, urgent_before) = (Duration::from_secs(60), None);
    let (lane, now, wants) = (Lane::Recheck, NOW, ALL);
    let (records, asides) = (&records[..], &[][..]);
    let chunk = Chunk { owned, lane, stretch, now, wants, known: &known, urgent_before, repair, records, asides };
    names(test.db.announce(chunk).await.unwrap_err().to_string(), "segment.asked");
}

async fn a_failure_waits_and_leaves_its_story(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let due = NOW + Duration::from_secs(30);
    for nth in 1..=20 {
        let at = NOW + Duration::from_secs(30 * nth);
        let claim =
            claims(&test.db, owned, at).await.into_iter().find(|claim| claim.artifact == Artifact::Transcript).unwrap();
        assert_eq!(u64::from(claim.tries), nth - 1);
        let settlement = Settlement::Failed {
            state: State::Open,
            due: due + Duration::from_secs(30 * nth),
            misses: claim.misses + 1,
            refusals: 0,
            status: Some(404),
            reason: "not there yet".to_owned(),
            broken: None,
        };
        assert_eq!(test.db.settle(&[Settled { claim, at, settlement }]).await.unwrap(), [true]);
        assert_eq!(
            test.db.next_due(owned.account, ArtifactSet::NONE.with(Artifact::Transcript), at).await.unwrap(),
            Some(due + Duration::from_secs(30 * nth))
        );
    }
    let segment = test.db.segments_named("one").await.unwrap().remove(0);
    let story = test.db.attempts(segment.key).await.unwrap();
    assert_eq!((story.len(), story.first().unwrap().nth, story.last().unwrap().nth), (16, 5, 20));
    let queue =
        test.db.queue(&QueueFilter { artifact: Some(Artifact::Transcript), ..QueueFilter::default() }).await.unwrap();
    assert_eq!((queue[0].tries, queue[0].status), (20, Some(404)));
    // A person's word: at once, with a fresh horizon; then given up.
    let filter = QueueFilter {
        segment_id: Some("one".to_owned()),
        artifact: Some(Artifact::Transcript),
        ..QueueFilter::default()
    };
    assert_eq!(test.db.retry_items(&filter, NOW).await.unwrap(), 1);
    let claim =
        claims(&test.db, owned, NOW).await.into_iter().find(|claim| claim.artifact == Artifact::Transcript).unwrap();
    assert_eq!((claim.tries, claim.first_try), (0, None));
    assert_eq!(test.db.discard_items(&filter, "asked for").await.unwrap(), 1);
    // What a person gave up stays so, also when an answer was under way.
    assert_eq!(test.db.settle(&[answered(claim, "late")]).await.unwrap(), [false]);
    let counts = test.db.counts(NOW).await.unwrap();
    assert_eq!((counts[&owned.account].discarded, counts[&owned.account].ready), (1, 2));
}

async fn a_revisit_keeps_versions(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("one", 5, true)]).await;
    let later = NOW + Duration::from_secs(86_400);
    for text in ["first", "first", "second"] {
        let claim = claims(&test.db, owned, later)
            .await
            .into_iter()
            .find(|claim| claim.artifact == Artifact::AgentSummary)
            .unwrap();
        let settlement = Settlement::stored(&Bytes::from_static(text.as_bytes()), Some(later));
        assert_eq!(test.db.settle(&[Settled { claim, at: NOW, settlement }]).await.unwrap(), [true]);
    }
    let segment = test.db.segments_named("one").await.unwrap();
    let versions = test.db.versions(segment[0].key).await.unwrap();
    assert_eq!(versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(test.db.slots(&segment).await.unwrap()[0][1].outcome, SlotOutcome::Stored(b"second".to_vec()));
    let account = &test.db.accounts().await.unwrap()[0];
    assert_eq!((account.done, account.feed), (1, 2));
    // A visit is not unfinished work.
    let counts = test.db.counts(later).await.unwrap();
    assert_eq!(counts[&owned.account].ready, 2);
}

async fn coverage_merges(test: TestDb) {
    let owned = own(&test.db, "a").await;
    for (from, to) in [(0, 900), (300, 1200), (5000, 6000), (1200, 1500)] {
        let stretch = Stretch { from: Time::from_secs(from), to: Time::from_secs(to) };
        let reading = Reading {
            at: NOW,
            done: NOW,
            lane: Lane::Live,
            stretch,
            announced: Announced::default(),
            passes: vec![("live".to_owned(), stretch)],
            finished: Vec::new(),
        };
        test.db.record_reading(owned, &reading).await.unwrap();
    }
    let held = test.db.coverage(owned.account).await.unwrap();
    let secs: Vec<(i64, i64)> =
        held.iter().map(|(_, stretch)| (stretch.from.floor_secs(), stretch.to.floor_secs())).collect();
    assert_eq!(secs, [(0, 1500), (5000, 6000)]);
    let range = Stretch { from: Time(0), to: Time(1000) };
    let id = test.db.request_backfill(owned.account, range, true, NOW).await.unwrap();
    assert_eq!(test.db.backfills(None, false).await.unwrap()[0].id, id);
    assert_eq!(test.db.level(owned.account, "recheck:60", Time(7)).await.unwrap(), Time(7));
    assert_eq!(test.db.level(owned.account, "recheck:60", Time(9)).await.unwrap(), Time(7));
    assert_eq!(test.db.start_live(owned.account, Time(1)).await.unwrap(), Time(1));
    assert_eq!(test.db.start_live(owned.account, Time(2)).await.unwrap(), Time(1));
}

async fn export_order_is_by_end_account_and_id(test: TestDb) {
    let (b, a) = (own(&test.db, "b").await, own(&test.db, "a").await);
    let unknown = SegmentRecord { end: None, ..record("z", 0, false) };
    announce(&test.db, b, Lane::Live, &[record("x", 10, false), record("ä", 10, false), unknown]).await;
    announce(&test.db, a, Lane::Live, &[record("y", 10, false), record("Y", 10, false), record("w", 5, false)]).await;
    let mut order = Vec::new();
    let mut last = None;
    loop {
        let page = test.db.segments_after(ExportRange::default(), last.as_ref(), 2).await.unwrap();
        let Some(end) = page.last().cloned() else { break };
        order.extend(page.iter().map(|segment| format!("{}{}", segment.account.sub, segment.segment_id)));
        last = Some(end);
    }
    assert_eq!(order, ["bz", "aw", "aY", "ay", "bx", "bä"]);
    let range = ExportRange { from: Some(Time(5)), to: Some(Time(10)), account: None };
    assert_eq!(test.db.segments_after(range, None, 10).await.unwrap().len(), 1);
}

async fn reservations_keep_a_sliding_window(test: TestDb) {
    let limits = Sliding::new([(3, Duration::from_secs(60))]);
    // Postgres goes by its own clock and answers by the caller's, which has to go on meanwhile.
    let clock = ringcx_extractor::clock::Clock::system();
    let now = || if matches!(test.db, Db::Postgres(_)) { clock.now() } else { NOW };
    let before = now();
    let mut first = None;
    for _ in 0..3 {
        let id = test.db.try_reserve("k", &limits, now()).await.unwrap().expect("room");
        test.db.counted(id, now()).await.unwrap();
        first.get_or_insert_with(now);
    }
    let asked = now();
    let due = test.db.try_reserve("k", &limits, asked).await.unwrap().expect_err("no room");
    // A minute after the first was counted; sooner by as long as it took from one clock to the other, as that cannot be
    // told from a difference between them. Whoever comes too soon is told again.
    let took = now().since(asked);
    let (earliest, latest) = (before + Duration::from_secs(60) - took, first.unwrap() + Duration::from_secs(62));
    assert!((earliest..latest).contains(&due), "{due} is not in {earliest} to {latest}");
    assert!(test.db.try_reserve("other", &limits, now()).await.unwrap().is_ok());
    assert_eq!(test.db.log("k", Time(0)).await.unwrap().len(), 3);
}

async fn what_a_refusal_asked_for_is_kept_until_the_next(test: TestDb) {
    let clock = ringcx_extractor::clock::Clock::system();
    let now = clock.now();
    let first = Refusal { at: now, until: now + Duration::from_secs(90), times: 2, share: 475_000 };
    test.db.keep_refusal("requests:a", &first, now).await.unwrap();
    test.db.keep_refusal("requests:a", &Refusal { times: 3, ..first }, clock.now()).await.unwrap();
    test.db.keep_refusal("metadata:a", &first, clock.now()).await.unwrap();
    let kept = test.db.refusals(clock.now()).await.unwrap();
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["metadata:a", "requests:a"]);
    let one = kept["requests:a"];
    assert_eq!((one.times, one.share), (3, 475_000));
    // By the database's clock and back.
    let off = one.until.0.abs_diff(first.until.0);
    assert!(off < 5_000, "{off} ms off");
    assert_eq!(one.until.since(one.at), Duration::from_secs(90));
}

async fn a_refusal_from_before_the_clock_was_set_back_lasts_no_longer_than_it_would_have(test: TestDb) {
    let now = ringcx_extractor::clock::Clock::system().now();
    let ahead = now + Duration::from_secs(7200);
    let refusal = Refusal { at: ahead, until: ahead + Duration::from_secs(30), times: 1, share: 1_000_000 };
    test.db.keep_refusal("requests:a", &refusal, now).await.unwrap();
    let kept = test.db.refusals(now).await.unwrap()["requests:a"];
    assert_eq!((kept.at, kept.until), (now, now + Duration::from_secs(30)));
}

async fn records_set_aside_are_kept_and_settled(test: TestDb) {
    let owned = own(&test.db, "a").await;
    let aside =
        AsideRecord { segment_id: None, reason: "segmentId is missing".to_owned(), raw: "{\"x\":1}".to_owned() };
    let known = Stretches::default();
    let stretch = Stretch { from: Time(0), to: Time(60_000) };
    for _ in 0..2 {
        let chunk = Chunk {
            owned,
            lane: Lane::Live,
            stretch,
            now: NOW,
            wants: ALL,
            known: &known,
            urgent_before: Some(Time(3)),
            repair: Duration::from_secs(60),
            records: &[],
            asides: std::slice::from_ref(&aside),
        };
        assert_eq!(test.db.announce(chunk).await.unwrap().aside, 1);
    }
    let held = test.db.asides(10).await.unwrap();
    assert_eq!((held.len(), held[0].times, held[0].raw.as_slice()), (1, 2, b"{\"x\":1}".as_slice()));
    assert_eq!(test.db.repairs(owned.account).await.unwrap(), [(stretch, NOW + Duration::from_secs(120))]);
    let later = NOW + Duration::from_secs(200);
    let reading = Reading {
        at: later,
        done: later,
        lane: Lane::Recheck,
        stretch,
        announced: Announced::default(),
        passes: Vec::new(),
        finished: Vec::new(),
    };
    test.db.record_reading(owned, &reading).await.unwrap();
    assert!(test.db.asides(10).await.unwrap().is_empty());
}

async fn thousands_at_once(test: TestDb) {
    let owned = own(&test.db, "a").await;
    let records: Vec<SegmentRecord> = (0..3000).map(|n| record(&format!("s{n}"), n, true)).collect();
    let stored = announce(&test.db, owned, Lane::Live, &records).await;
    assert_eq!((stored.added, stored.queued), (3000, 9000));
    let held = claims(&test.db, owned, NOW).await;
    assert_eq!(held.len(), 9000);
    let batch: Vec<Settled> = held.into_iter().map(|claim| answered(claim, "x")).collect();
    assert!(test.db.settle(&batch).await.unwrap().iter().all(|counted| *counted));
    assert_eq!(test.db.accounts().await.unwrap()[0].done, 9000);
}

async fn what_the_vendor_soon_deletes_goes_first(test: TestDb) {
    let owned = own(&test.db, "a").await;
    announce(&test.db, owned, Lane::Live, &[record("young", 9, true), record("old", 2, true)]).await;
    let held = test.db.due(owned, ArtifactSet::NONE.with(Artifact::Transcript), NOW, 1).await.unwrap();
    assert_eq!(held[0].segment_id, "old");
}

async fn a_thousand_accounts_are_enrolled_once_and_renamed(test: TestDb) {
    let db = &test.db;
    let wanted = |from: u32, name: Option<&str>| -> BTreeMap<AccountId, Option<String>> {
        (from..1000).map(|sub| (AccountId::new("1", sub.to_string()), name.map(str::to_owned))).collect()
    };
    let first = db.enrol_all(&wanted(0, Some("before")), NOW).await.unwrap();
    assert_eq!(first.len(), 1000);
    // Without a name the one that is known stays; what is not asked for is not returned.
    let second = db.enrol_all(&wanted(400, None), NOW).await.unwrap();
    assert!(second.len() == 600 && second.iter().all(|row| row.name.as_deref() == Some("before")));
    let third = db.enrol_all(&wanted(0, Some("after")), NOW).await.unwrap();
    let keys = |rows: &[AccountRow]| rows.iter().map(|row| row.key).collect::<Vec<_>>();
    assert_eq!(keys(&first), keys(&third), "an account keeps its number");
    assert!(third.iter().all(|row| row.name.as_deref() == Some("after")));
}
