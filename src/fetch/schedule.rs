//! Which of the items that are due goes next: pure.
//!
//! Two orders meet here. Live goes before recheck before backfill before revisit; but a lane that nine went before in a row has
//! the next, so that nothing starves; one that is served meanwhile does not claim it. And first tries go before retries: while a first try waits, in whatever lane,
//! any `n` requests on end hold at most `n / 5` retries, rounded up. What decides between the two is whose the fifth is: the
//! live lane's retries have all of it and go before the first tries of every other lane, so that whoever waits for what has
//! just ended does not stand behind a backfill; the other lanes' retries have half of it, and what live leaves of that.
//! So a live retry mostly finds its turn come, and waits for four requests at the most where it is alone.
//!
//! Is a fifth enough for live? Of a budget of 120 it is 24 a minute beside a full backfill. Windows end five minutes ago and
//! transcripts are there after five minutes, so a live item needs far less than one retry; a quarter of one each is
//! enough at every load that the budget can carry, for 96 first tries and 24 retries are all of it. Where an artifact
//! always comes later than it is first asked for, it is the first try that is put off ([`super::ripeness`]), not the
//! fifth that is widened. Once no first try waits, retries have everything.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Time;
use crate::db::{Claim, Class, Item};
use crate::model::{Artifact, ArtifactSet, Lane};

/// While first tries wait, so many go between two retries of the live lane...
const LIVE_GAP: u64 = 4;
/// ...and so many before a retry of another lane.
const OTHER_GAP: u64 = 9;
/// Of so many first tries, and of so many retries, one at the most goes before more urgent ones that wait.
const FAIR_SHARE: u64 = 10;

/// Items claimed and not under way yet.
#[derive(Debug, Default)]
pub struct Schedule {
    first: Kind,
    again: Kind,
    /// What is not due yet, but soon.
    soon: BTreeMap<(Time, Item), Claim>,
    held: BTreeMap<Class, usize>,
    /// First tries that went since the last retry.
    since_retry: u64,
}

/// First tries, or retries: a queue for each lane.
#[derive(Debug, Default)]
struct Kind {
    lanes: [VecDeque<Claim>; 4],
    /// How many more urgent ones went while something of this lane waited, since one of it went.
    passed: [u64; 4],
    /// How many went since one went before more urgent ones.
    in_order: u64,
}

/// The class of a claim.
pub fn class(claim: &Claim) -> Class {
    (claim.artifact, claim.lane, is_retry(claim))
}

fn is_retry(claim: &Claim) -> bool {
    claim.tries > 0
}

/// What goes first in its queue: what has been due for the longest, among retries too. Were it the oldest, those that it had
/// passed over would be found late, and the oldest be asked for again and again. Of what one answer announced together, it is
/// what ended first, which has been waited for the longest; and a segment's texts go one after the other, so that they are there,
/// and indexed, together.
fn rank(claim: &Claim) -> (Time, Time, Item) {
    (claim.due, claim.ended, claim.item)
}

impl Schedule {
    /// Takes up a claim that is not due yet, to go once it is.
    pub fn wait(&mut self, claim: Claim) {
        self.soon.insert((claim.due, claim.item), claim);
    }

    /// How many wait to be due.
    pub fn soon(&self) -> usize {
        self.soon.len()
    }

    /// When the next of those that are not due yet is.
    pub fn next_due(&self) -> Option<Time> {
        self.soon.first_key_value().map(|((due, _), _)| *due)
    }

    /// Those that are due by now may go.
    pub fn ripen(&mut self, now: Time) {
        while let Some(entry) = self.soon.first_entry().filter(|entry| entry.key().0 <= now) {
            let claim = entry.remove();
            self.push(claim);
        }
    }

    /// Adds a claim behind those of its kind that are due earlier.
    pub fn push(&mut self, claim: Claim) {
        let queue = self.count_in(&claim);
        let at = queue.partition_point(|held| rank(held) <= rank(&claim));
        queue.insert(at, claim);
    }

    /// Gives back a claim that could not be tried: it is next of its kind.
    pub fn put_back(&mut self, claim: Claim) {
        self.count_in(&claim).push_front(claim);
    }

    /// Takes what goes next among `open` artifacts. If it does go, that is to be said: [`Schedule::went`].
    pub fn pop(&mut self, open: ArtifactSet) -> Option<Claim> {
        let claim = if self.retry_is_next(open) { self.again.take(open) } else { self.first.take(open) }?;
        if let Some(held) = self.held.get_mut(&class(&claim)) {
            *held = held.saturating_sub(1);
        }
        Some(claim)
    }

    /// A request for this claim goes. One that was only looked at, and put off, has taken nobody's turn.
    pub fn went(&mut self, claim: &Claim) {
        if is_retry(claim) {
            self.again.went(claim.lane);
            self.since_retry = 0;
        } else {
            self.first.went(claim.lane);
            self.since_retry = self.since_retry.saturating_add(1);
        }
    }

    fn retry_is_next(&self, open: ArtifactSet) -> bool {
        match (self.first.most_urgent(open), self.again.most_urgent(open)) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(_), Some(0)) => self.since_retry >= LIVE_GAP,
            (Some(_), Some(_)) => self.since_retry >= OTHER_GAP,
        }
    }

    /// How many claims of a class wait here.
    pub fn held(&self, class: Class) -> usize {
        self.held.get(&class).copied().unwrap_or(0)
    }

    /// Whether a claim on one of the `open` artifacts waits here.
    pub fn has(&self, open: ArtifactSet) -> bool {
        self.held.iter().any(|((artifact, ..), held)| *held > 0 && open.contains(*artifact))
    }

    /// Takes out all claims on an artifact, for when it is paused.
    pub fn drain(&mut self, artifact: Artifact) -> Vec<Claim> {
        let mut out = Vec::new();
        for queue in self.first.lanes.iter_mut().chain(&mut self.again.lanes) {
            let (gone, kept): (VecDeque<Claim>, VecDeque<Claim>) =
                std::mem::take(queue).into_iter().partition(|claim| claim.artifact == artifact);
            *queue = kept;
            out.extend(gone);
        }
        self.held.retain(|(held, ..), _| *held != artifact);
        out.extend(self.soon.extract_if(.., |_, claim| claim.artifact == artifact).map(|(_, claim)| claim));
        out
    }

    fn count_in(&mut self, claim: &Claim) -> &mut VecDeque<Claim> {
        *self.held.entry(class(claim)).or_default() += 1;
        let kind = if is_retry(claim) { &mut self.again } else { &mut self.first };
        &mut kind.lanes[place(claim.lane)]
    }
}

/// Where a lane stands among the others, the most urgent first.
fn place(lane: Lane) -> usize {
    usize::try_from(lane.code()).unwrap_or(0).min(Lane::ALL.len() - 1)
}

impl Kind {
    /// The most urgent lane that has something for `open` artifacts.
    fn most_urgent(&self, open: ArtifactSet) -> Option<usize> {
        self.lanes.iter().position(|queue| queue.iter().any(|claim| open.contains(claim.artifact)))
    }

    fn take(&mut self, open: ArtifactSet) -> Option<Claim> {
        let start = self.overdue(open).unwrap_or(0);
        (start..self.lanes.len()).chain(0..start).find_map(|lane| {
            let at = self.lanes[lane].iter().position(|claim| open.contains(claim.artifact))?;
            self.lanes[lane].remove(at)
        })
    }

    /// The lane that others went before for too long.
    fn overdue(&self, open: ArtifactSet) -> Option<usize> {
        let waits = |lane: &usize| self.lanes[*lane].iter().any(|claim| open.contains(claim.artifact));
        let lane = (1..self.lanes.len()).filter(waits).max_by_key(|lane| self.passed[*lane])?;
        (self.in_order.min(self.passed[lane]) >= FAIR_SHARE - 1).then_some(lane)
    }

    fn went(&mut self, lane: Lane) {
        let lane = place(lane);
        let in_turn = self.lanes[..lane].iter().all(VecDeque::is_empty);
        self.in_order = if in_turn { self.in_order.saturating_add(1) } else { 0 };
        self.passed[lane] = 0;
        for less in lane + 1..self.lanes.len() {
            self.passed[less] = if self.lanes[less].is_empty() { 0 } else { self.passed[less].saturating_add(1) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::db::Owned;

    fn claim(item: i64, lane: Lane, tries: u32) -> Claim {
        Claim {
            item: Item(item),
            owned: Owned { account: 1, epoch: 1 },
            artifact: Artifact::Transcript,
            lane,
            segment_id: item.to_string(),
            dialog_id: None,
            ended: Time(0),
            due: Time(item),
            tries,
            misses: 0,
            refusals: 0,
            broken: 0,
            alike: 0,
            first_try: None,
            paused: Duration::ZERO,
            visit: 0,
        }
    }

    /// Pops and lets go.
    fn next(schedule: &mut Schedule) -> Option<Claim> {
        let claim = schedule.pop(ArtifactSet::ALL)?;
        schedule.went(&claim);
        Some(claim)
    }

    fn take(schedule: &mut Schedule, count: usize) -> Vec<Claim> {
        (0..count).filter_map(|_| next(schedule)).collect()
    }

    #[test]
    fn live_goes_before_backfill_which_still_gets_its_share() {
        let mut schedule = Schedule::default();
        for item in 0..1000 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Backfill, 0));
        }
        let taken = take(&mut schedule, 500);
        let backfill = taken.iter().filter(|claim| claim.lane == Lane::Backfill).count();
        assert!((10..=50).contains(&backfill), "{backfill}");
        assert_eq!(taken[0].lane, Lane::Live);
    }

    #[test]
    fn a_backfill_that_is_served_anyway_never_goes_before_what_is_live() {
        let mut schedule = Schedule::default();
        for item in 0..1000 {
            schedule.push(claim(item + 1000, Lane::Backfill, 0));
        }
        for item in 0..100 {
            schedule.push(claim(item, Lane::Live, 0));
            assert_eq!(next(&mut schedule).unwrap().lane, Lane::Live);
            assert!(take(&mut schedule, 3).iter().all(|claim| claim.lane == Lane::Backfill));
        }
    }

    #[test]
    fn of_those_that_fell_due_together_the_one_that_ended_first_goes_first() {
        for tries in [0, 2] {
            let mut schedule = Schedule::default();
            for (item, ended) in [(1, 30), (2, 10), (3, 20)] {
                schedule.push(Claim { ended: Time(ended), due: Time(40), ..claim(item, Lane::Live, tries) });
            }
            let order: Vec<i64> = std::iter::from_fn(|| next(&mut schedule)).map(|claim| claim.item.0).collect();
            assert_eq!(order, [2, 3, 1]);
        }
    }

    #[test]
    fn what_is_due_soon_goes_once_it_is() {
        let mut schedule = Schedule::default();
        schedule.wait(claim(20, Lane::Live, 0));
        schedule.wait(claim(10, Lane::Live, 0));
        schedule.wait(Claim { artifact: Artifact::AutoSummary, ..claim(5, Lane::Live, 0) });
        assert_eq!(schedule.drain(Artifact::AutoSummary).len(), 1);
        assert_eq!((schedule.soon(), schedule.next_due()), (2, Some(Time(10))));
        schedule.ripen(Time(9));
        assert!(!schedule.has(ArtifactSet::ALL));
        schedule.ripen(Time(10));
        assert_eq!(next(&mut schedule).unwrap().item, Item(10));
        assert!(next(&mut schedule).is_none());
        assert_eq!(schedule.next_due(), Some(Time(20)));
    }

    #[test]
    fn retries_take_a_fifth_while_first_tries_wait_and_all_when_none_does() {
        let mut schedule = Schedule::default();
        for item in 0..100 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Live, 1));
        }
        let taken = take(&mut schedule, 100);
        assert_eq!(taken.iter().filter(|claim| claim.tries > 0).count(), 20);
        assert_eq!(take(&mut schedule, 1000).len(), 100);
        assert!(!schedule.has(ArtifactSet::ALL));
    }

    #[test]
    fn what_is_live_has_all_of_the_retries_fifth_and_what_is_not_half_of_it() {
        for (lane, expected) in [(Lane::Live, 20), (Lane::Backfill, 10)] {
            let mut schedule = Schedule::default();
            for item in 0..100 {
                schedule.push(claim(item, Lane::Backfill, 0));
                schedule.push(claim(item + 1000, lane, 1));
            }
            assert_eq!(take(&mut schedule, 100).iter().filter(|claim| claim.tries > 0).count(), expected, "{lane}");
        }
    }

    #[test]
    fn a_live_retry_goes_at_once_where_the_fifth_has_not_been_used() {
        let mut schedule = Schedule::default();
        for item in 0..100 {
            schedule.push(claim(item, Lane::Backfill, 0));
        }
        take(&mut schedule, 7);
        schedule.push(claim(1000, Lane::Live, 3));
        assert_eq!(next(&mut schedule).unwrap().lane, Lane::Live);
    }

    #[test]
    fn first_tries_that_were_only_looked_at_make_no_room_for_retries() {
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
    enum Step {
        Queue(Lane, u32),
        Go,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let lane = prop_oneof![4 => Just(Lane::Live), 1 => Just(Lane::Recheck), 4 => Just(Lane::Backfill), 1 => Just(Lane::Revisit)];
        let step = prop_oneof![
            (lane, prop_oneof![Just(0u32), Just(1), Just(9)]).prop_map(|(lane, tries)| Step::Queue(lane, tries)),
            Just(Step::Go),
        ];
        prop::collection::vec(step, 1..600)
    }

    proptest! {
        #[test]
        fn whatever_comes_no_run_beside_waiting_first_tries_holds_more_than_a_fifth_of_retries(steps in steps()) {
            let mut schedule = Schedule::default();
            // Of each request that went while a first try waited: whether it was a retry. The run ends when none waits.
            let mut run: Vec<bool> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Queue(lane, tries) => schedule.push(claim(number as i64, lane, tries)),
                    Step::Go => {
                        let waiting = Lane::ALL.iter().any(|lane| schedule.held((Artifact::Transcript, *lane, false)) > 0);
                        let Some(gone) = next(&mut schedule) else { continue };
                        if !waiting {
                            run.clear();
                            continue;
                        }
                        run.push(gone.tries > 0);
                        for (length, from) in (0..run.len()).rev().enumerate() {
                            let retries = run[from..].iter().filter(|retry| **retry).count();
                            prop_assert!(retries <= (length + 1).div_ceil(5), "{} of {}", retries, length + 1);
                        }
                    }
                }
            }
        }

        /// Every lane, first tries and retries, has something waiting at all times: each is served again and again.
        #[test]
        fn nobody_starves(full in prop::collection::vec(any::<bool>(), 8), count in 300usize..600) {
            let mut schedule = Schedule::default();
            let mut idle: BTreeMap<(Lane, bool), usize> = BTreeMap::new();
            let kinds = Lane::ALL.into_iter().flat_map(|lane| [(lane, false), (lane, true)]);
            for (number, (lane, retry)) in kinds.enumerate().filter(|(number, _)| full[*number]).map(|(number, kind)| (number as i64, kind)) {
                for item in 0..600 {
                    schedule.push(claim(number * 1000 + item, lane, u32::from(retry)));
                }
                idle.insert((lane, retry), 0);
            }
            for gone in take(&mut schedule, count) {
                idle.values_mut().for_each(|since| *since += 1);
                idle.insert((gone.lane, gone.tries > 0), 0);
                // Of 30 first tries, and of 30 retries, each lane has one; of ten requests, one at least is a retry.
                prop_assert!(idle.values().all(|since| *since <= 300), "{:?}", idle);
            }
        }
    }

    #[test]
    fn the_earliest_due_goes_first_and_what_is_put_back_goes_next() {
        let mut schedule = Schedule::default();
        for item in [3, 1, 2] {
            schedule.push(claim(item, Lane::Live, 0));
        }
        let first = next(&mut schedule).unwrap();
        assert_eq!(first.item, Item(1));
        schedule.put_back(first);
        let order: Vec<i64> = std::iter::from_fn(|| next(&mut schedule)).map(|claim| claim.item.0).collect();
        assert_eq!(order, [1, 2, 3]);
    }

    #[test]
    fn draining_an_artifact_leaves_the_others() {
        let mut schedule = Schedule::default();
        schedule.push(claim(1, Lane::Live, 0));
        schedule.push(Claim { artifact: Artifact::AutoSummary, ..claim(2, Lane::Live, 0) });
        assert_eq!(schedule.drain(Artifact::Transcript).len(), 1);
        assert_eq!(schedule.held((Artifact::AutoSummary, Lane::Live, false)), 1);
        assert_eq!(schedule.pop(ArtifactSet::ALL).unwrap().item, Item(2));
    }
}
