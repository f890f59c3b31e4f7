//! Decides which of the due items is fetched next. Pure.
//!
//! Two orders are combined:
//! - By lane: live, recheck, backfill, revisit. A lane that was skipped nine times in a row while
//!   it waited is served next, so that none starves.
//! - First attempts before retries. While a first attempt waits, in whatever lane, any `n` requests
//!   in a row hold at most `n / 5` retries, rounded up. Live retries may use all of that fifth, and
//!   precede the first attempts of the other lanes, so that recent conversations do not wait behind
//!   a backfill. Retries of the other lanes may use half of it, and only what live retries leave. A
//!   live retry that waits alone is sent after four requests at most. Once no first attempt waits,
//!   retries get all requests.
//!
//! A fifth is enough for live. Of a budget of 120 a minute it is 24 requests. Windows end five
//! minutes before now, and transcripts are available after five minutes, so a live item needs far
//! less than one retry. A quarter of a retry per item is enough at every load that the budget
//! allows: 96 first attempts and 24 retries. If an artifact is always late, the first attempts are
//! delayed ([`super::availability_estimator`]), and the fifth is not raised.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Time;
use crate::db::{Claim, Item, QueueClass};
use crate::model::{Artifact, ArtifactSet, Lane};

/// First attempts between two retries of the live lane, while first attempts wait...
const FIRST_ATTEMPTS_PER_LIVE_RETRY: u64 = 4;
/// ...and before a retry of another lane.
const FIRST_ATTEMPTS_PER_OTHER_RETRY: u64 = 9;
/// Of so many first attempts, and of so many retries, at most one precedes more urgent ones,
/// because its lane starves.
const STARVATION_INTERVAL: u64 = 10;

/// The queue of claims that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    first_attempts: LaneQueues,
    retries: LaneQueues,
    /// Claims that are not due yet.
    delayed: BTreeMap<(Time, Item), Claim>,
    queued: BTreeMap<QueueClass, usize>,
    /// First attempts that were sent since the last retry.
    first_attempts_since_retry: u64,
}

/// The first attempts, or the retries: one queue per lane.
#[derive(Debug, Default)]
struct LaneQueues {
    lanes: [VecDeque<Claim>; 4],
    /// How many more urgent claims were sent while a claim of the lane waited, since the lane was
    /// last served.
    skipped: [u64; 4],
    /// How many claims were sent since a starved lane was served.
    since_starved: u64,
}

/// The queue class of a claim.
pub(super) fn queue_class(claim: &Claim) -> QueueClass {
    QueueClass { artifact: claim.artifact, lane: claim.lane, is_retry: is_retry(claim) }
}

fn is_retry(claim: &Claim) -> bool {
    claim.tries > 0
}

/// The order within a queue. Due time comes first, also for retries: ordered by age, the oldest
/// item would be retried again and again while the others wait. Items of one metadata answer follow
/// the ends of their segments. The artifacts of one segment follow each other, so that they are
/// stored and indexed together.
fn dispatch_order(claim: &Claim) -> (Time, Time, Item) {
    (claim.due, claim.ended, claim.item)
}

impl Schedule {
    /// Adds a claim that is not due yet. It is queued once it is due.
    pub(super) fn delay_until_due(&mut self, claim: Claim) {
        self.delayed.insert((claim.due, claim.item), claim);
    }

    /// The number of claims that are not due yet.
    pub(super) fn delayed_count(&self) -> usize {
        self.delayed.len()
    }

    /// When the next delayed claim is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// Queues the delayed claims that are due by now.
    pub(super) fn promote_due(&mut self, now: Time) {
        while let Some(entry) = self.delayed.first_entry().filter(|entry| entry.key().0 <= now) {
            let claim = entry.remove();
            self.push(claim);
        }
    }

    /// Queues a claim behind those of its class that are due earlier.
    pub(super) fn push(&mut self, claim: Claim) {
        let queue = self.queue_for_insert(&claim);
        let at = queue.partition_point(|held| dispatch_order(held) <= dispatch_order(&claim));
        queue.insert(at, claim);
    }

    /// Returns a claim that could not be sent: it is next in its queue.
    pub(super) fn put_back(&mut self, claim: Claim) {
        self.queue_for_insert(&claim).push_front(claim);
    }

    /// Removes the claim that is next among the `allowed` artifacts. If it is sent, call
    /// [`Schedule::on_dispatched`].
    pub(super) fn pop(&mut self, allowed: ArtifactSet) -> Option<Claim> {
        let claim =
            if self.retry_is_next(allowed) { self.retries.pop(allowed) } else { self.first_attempts.pop(allowed) }?;
        if let Some(queued) = self.queued.get_mut(&queue_class(&claim)) {
            *queued = queued.saturating_sub(1);
        }
        Some(claim)
    }

    /// Records that a request for the claim is sent. A claim that was removed and deferred does not
    /// count.
    pub(super) fn on_dispatched(&mut self, claim: &Claim) {
        if is_retry(claim) {
            self.retries.on_dispatched(claim.lane);
            self.first_attempts_since_retry = 0;
        } else {
            self.first_attempts.on_dispatched(claim.lane);
            self.first_attempts_since_retry = self.first_attempts_since_retry.saturating_add(1);
        }
    }

    fn retry_is_next(&self, allowed: ArtifactSet) -> bool {
        match (self.first_attempts.most_urgent(allowed), self.retries.most_urgent(allowed)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(_), Some(0)) => self.first_attempts_since_retry >= FIRST_ATTEMPTS_PER_LIVE_RETRY,
            (Some(_), Some(_)) => self.first_attempts_since_retry >= FIRST_ATTEMPTS_PER_OTHER_RETRY,
        }
    }

    /// The number of queued claims of a class.
    pub(super) fn queued_count(&self, class: QueueClass) -> usize {
        self.queued.get(&class).copied().unwrap_or(0)
    }

    /// Whether a claim on one of the `allowed` artifacts is queued.
    pub(super) fn has_claims_for(&self, allowed: ArtifactSet) -> bool {
        self.queued.iter().any(|(class, queued)| *queued > 0 && allowed.contains(class.artifact))
    }

    /// Removes all claims on an artifact, because it is paused.
    pub(super) fn remove_artifact(&mut self, artifact: Artifact) -> Vec<Claim> {
        let mut removed = Vec::new();
        for queue in self.first_attempts.lanes.iter_mut().chain(&mut self.retries.lanes) {
            let (matching, kept): (VecDeque<Claim>, VecDeque<Claim>) =
                std::mem::take(queue).into_iter().partition(|claim| claim.artifact == artifact);
            *queue = kept;
            removed.extend(matching);
        }
        self.queued.retain(|class, _| class.artifact != artifact);
        removed.extend(self.delayed.extract_if(.., |_, claim| claim.artifact == artifact).map(|(_, claim)| claim));
        removed
    }

    /// The queue that the claim is about to be added to. Counts the claim.
    fn queue_for_insert(&mut self, claim: &Claim) -> &mut VecDeque<Claim> {
        *self.queued.entry(queue_class(claim)).or_default() += 1;
        let queues = if is_retry(claim) { &mut self.retries } else { &mut self.first_attempts };
        &mut queues.lanes[lane_index(claim.lane)]
    }
}

/// The index of a lane, the most urgent first.
fn lane_index(lane: Lane) -> usize {
    usize::try_from(lane.code()).unwrap_or(0).min(Lane::ALL.len() - 1)
}

impl LaneQueues {
    /// The most urgent lane with a claim on one of the `allowed` artifacts.
    fn most_urgent(&self, allowed: ArtifactSet) -> Option<usize> {
        self.lanes.iter().position(|queue| queue.iter().any(|claim| allowed.contains(claim.artifact)))
    }

    fn pop(&mut self, allowed: ArtifactSet) -> Option<Claim> {
        let start = self.starved_lane(allowed).unwrap_or(0);
        (start..self.lanes.len()).chain(0..start).find_map(|lane| {
            let at = self.lanes[lane].iter().position(|claim| allowed.contains(claim.artifact))?;
            self.lanes[lane].remove(at)
        })
    }

    /// The lane that was skipped too often, if any.
    fn starved_lane(&self, allowed: ArtifactSet) -> Option<usize> {
        let waits = |lane: &usize| self.lanes[*lane].iter().any(|claim| allowed.contains(claim.artifact));
        let lane = (1..self.lanes.len()).filter(waits).max_by_key(|lane| self.skipped[*lane])?;
        (self.since_starved.min(self.skipped[lane]) >= STARVATION_INTERVAL - 1).then_some(lane)
    }

    fn on_dispatched(&mut self, lane: Lane) {
        let lane = lane_index(lane);
        let in_turn = self.lanes[..lane].iter().all(VecDeque::is_empty);
        self.since_starved = if in_turn { self.since_starved.saturating_add(1) } else { 0 };
        self.skipped[lane] = 0;
        for other in lane + 1..self.lanes.len() {
            self.skipped[other] = if self.lanes[other].is_empty() { 0 } else { self.skipped[other].saturating_add(1) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::db::Lease;

    fn claim(item: i64, lane: Lane, tries: u32) -> Claim {
        Claim {
            item: Item(item),
            lease: Lease { account: crate::db::AccountKey(1), epoch: 1 },
            artifact: Artifact::Transcript,
            lane,
            segment_id: item.to_string(),
            dialog_id: None,
            ended: Time(0),
            due: Time(item),
            tries,
            misses: 0,
            refusals: 0,
            broken_kind: 0,
            consecutive_broken: 0,
            first_try: None,
            paused: Duration::ZERO,
            visit: 0,
        }
    }

    /// Removes the next claim and sends it.
    fn dispatch_next(schedule: &mut Schedule) -> Option<Claim> {
        let claim = schedule.pop(ArtifactSet::ALL)?;
        schedule.on_dispatched(&claim);
        Some(claim)
    }

    fn first_attempts_of(artifact: Artifact, lane: Lane) -> QueueClass {
        QueueClass { artifact, lane, is_retry: false }
    }

    fn dispatch(schedule: &mut Schedule, count: usize) -> Vec<Claim> {
        (0..count).filter_map(|_| dispatch_next(schedule)).collect()
    }

    #[test]
    fn live_precedes_backfill_which_still_gets_its_share() {
        let mut schedule = Schedule::default();
        for item in 0..1000 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Backfill, 0));
        }
        let taken = dispatch(&mut schedule, 500);
        let backfill = taken.iter().filter(|claim| claim.lane == Lane::Backfill).count();
        assert!((10..=50).contains(&backfill), "{backfill}");
        assert_eq!(taken[0].lane, Lane::Live);
    }

    #[test]
    fn a_backfill_that_does_not_starve_never_precedes_live() {
        let mut schedule = Schedule::default();
        for item in 0..1000 {
            schedule.push(claim(item + 1000, Lane::Backfill, 0));
        }
        for item in 0..100 {
            schedule.push(claim(item, Lane::Live, 0));
            assert_eq!(dispatch_next(&mut schedule).unwrap().lane, Lane::Live);
            assert!(dispatch(&mut schedule, 3).iter().all(|claim| claim.lane == Lane::Backfill));
        }
    }

    #[test]
    fn items_due_at_the_same_time_are_ordered_by_the_end_of_their_segments() {
        for tries in [0, 2] {
            let mut schedule = Schedule::default();
            for (item, ended) in [(1, 30), (2, 10), (3, 20)] {
                schedule.push(Claim { ended: Time(ended), due: Time(40), ..claim(item, Lane::Live, tries) });
            }
            let order: Vec<i64> =
                std::iter::from_fn(|| dispatch_next(&mut schedule)).map(|claim| claim.item.0).collect();
            assert_eq!(order, [2, 3, 1]);
        }
    }

    #[test]
    fn delayed_claims_are_queued_once_they_are_due() {
        let mut schedule = Schedule::default();
        schedule.delay_until_due(claim(20, Lane::Live, 0));
        schedule.delay_until_due(claim(10, Lane::Live, 0));
        schedule.delay_until_due(Claim { artifact: Artifact::AutoSummary, ..claim(5, Lane::Live, 0) });
        assert_eq!(schedule.remove_artifact(Artifact::AutoSummary).len(), 1);
        assert_eq!((schedule.delayed_count(), schedule.next_due()), (2, Some(Time(10))));
        schedule.promote_due(Time(9));
        assert!(!schedule.has_claims_for(ArtifactSet::ALL));
        schedule.promote_due(Time(10));
        assert_eq!(dispatch_next(&mut schedule).unwrap().item, Item(10));
        assert!(dispatch_next(&mut schedule).is_none());
        assert_eq!(schedule.next_due(), Some(Time(20)));
    }

    #[test]
    fn retries_get_a_fifth_while_first_attempts_wait_and_everything_otherwise() {
        let mut schedule = Schedule::default();
        for item in 0..100 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Live, 1));
        }
        let taken = dispatch(&mut schedule, 100);
        assert_eq!(taken.iter().filter(|claim| claim.tries > 0).count(), 20);
        assert_eq!(dispatch(&mut schedule, 1000).len(), 100);
        assert!(!schedule.has_claims_for(ArtifactSet::ALL));
    }

    #[test]
    fn live_retries_get_all_of_the_fifth_and_other_retries_half_of_it() {
        for (lane, expected) in [(Lane::Live, 20), (Lane::Backfill, 10)] {
            let mut schedule = Schedule::default();
            for item in 0..100 {
                schedule.push(claim(item, Lane::Backfill, 0));
                schedule.push(claim(item + 1000, lane, 1));
            }
            assert_eq!(dispatch(&mut schedule, 100).iter().filter(|claim| claim.tries > 0).count(), expected, "{lane}");
        }
    }

    #[test]
    fn a_live_retry_is_sent_at_once_if_the_fifth_is_unused() {
        let mut schedule = Schedule::default();
        for item in 0..100 {
            schedule.push(claim(item, Lane::Backfill, 0));
        }
        dispatch(&mut schedule, 7);
        schedule.push(claim(1000, Lane::Live, 3));
        assert_eq!(dispatch_next(&mut schedule).unwrap().lane, Lane::Live);
    }

    #[test]
    fn first_attempts_that_were_not_sent_make_no_room_for_retries() {
        let mut schedule = Schedule::default();
        for item in 0..100 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Live, 1));
        }
        for _ in 0..50 {
            assert_eq!(schedule.pop(ArtifactSet::ALL).unwrap().tries, 0);
        }
    }

    #[derive(Debug, Clone)]
    enum ScheduleStep {
        Queue(Lane, u32),
        Send,
    }

    fn steps() -> impl Strategy<Value = Vec<ScheduleStep>> {
        let lane = prop_oneof![4 => Just(Lane::Live), 1 => Just(Lane::Recheck), 4 => Just(Lane::Backfill), 1 => Just(Lane::Revisit)];
        let step = prop_oneof![
            (lane, prop_oneof![Just(0u32), Just(1), Just(9)])
                .prop_map(|(lane, tries)| ScheduleStep::Queue(lane, tries)),
            Just(ScheduleStep::Send),
        ];
        prop::collection::vec(step, 1..600)
    }

    proptest! {
        #[test]
        fn no_run_of_requests_beside_waiting_first_attempts_holds_more_than_a_fifth_of_retries(steps in steps()) {
            let mut schedule = Schedule::default();
            // For each request sent while a first attempt waited: whether it was a retry. The run
            // ends when none waits.
            let mut run: Vec<bool> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    ScheduleStep::Queue(lane, tries) => schedule.push(claim(number as i64, lane, tries)),
                    ScheduleStep::Send => {
                        let waiting = Lane::ALL.iter().any(|lane| schedule.queued_count(first_attempts_of(Artifact::Transcript, *lane)) > 0);
                        let Some(sent) = dispatch_next(&mut schedule) else { continue };
                        if !waiting {
                            run.clear();
                            continue;
                        }
                        run.push(sent.tries > 0);
                        for (length, from) in (0..run.len()).rev().enumerate() {
                            let retries = run[from..].iter().filter(|retry| **retry).count();
                            prop_assert!(retries <= (length + 1).div_ceil(5), "{} of {}", retries, length + 1);
                        }
                    }
                }
            }
        }

        /// While first attempts and retries of a lane wait at all times, each is served again and
        /// again.
        #[test]
        fn no_queue_starves(full in prop::collection::vec(any::<bool>(), 8), count in 300usize..600) {
            let mut schedule = Schedule::default();
            let mut idle: BTreeMap<(Lane, bool), usize> = BTreeMap::new();
            let kinds = Lane::ALL.into_iter().flat_map(|lane| [(lane, false), (lane, true)]);
            for (number, (lane, retry)) in kinds.enumerate().filter(|(number, _)| full[*number]).map(|(number, kind)| (number as i64, kind)) {
                for item in 0..600 {
                    schedule.push(claim(number * 1000 + item, lane, u32::from(retry)));
                }
                idle.insert((lane, retry), 0);
            }
            for sent in dispatch(&mut schedule, count) {
                idle.values_mut().for_each(|since| *since += 1);
                idle.insert((sent.lane, sent.tries > 0), 0);
                // Each lane gets one of 30 first attempts and one of 30 retries; one of ten
                // requests is a retry.
                prop_assert!(idle.values().all(|since| *since <= 300), "{:?}", idle);
            }
        }
    }

    #[test]
    fn the_earliest_due_is_first_and_a_returned_claim_is_next() {
        let mut schedule = Schedule::default();
        for item in [3, 1, 2] {
            schedule.push(claim(item, Lane::Live, 0));
        }
        let first = dispatch_next(&mut schedule).unwrap();
        assert_eq!(first.item, Item(1));
        schedule.put_back(first);
        let order: Vec<i64> = std::iter::from_fn(|| dispatch_next(&mut schedule)).map(|claim| claim.item.0).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn removing_an_artifact_keeps_the_others() {
        let mut schedule = Schedule::default();
        schedule.push(claim(1, Lane::Live, 0));
        schedule.push(Claim { artifact: Artifact::AutoSummary, ..claim(2, Lane::Live, 0) });
        assert_eq!(schedule.remove_artifact(Artifact::Transcript).len(), 1);
        assert_eq!(schedule.queued_count(first_attempts_of(Artifact::AutoSummary, Lane::Live)), 1);
        assert_eq!(schedule.pop(ArtifactSet::ALL).unwrap().item, Item(2));
    }
}
