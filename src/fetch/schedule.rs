//! Which of the items that are due goes next: pure.
//!
//! Live before recheck before backfill before revisit; but of every ten requests one goes to a less urgent lane, so that
//! nothing starves. The first few retries of an item go like first tries: a transcript is there minutes after its segment
//! ended, and whoever waits for it should not stand behind a backfill. What is still not there then may take one request of
//! every five.

use std::collections::{BTreeMap, VecDeque};

use crate::db::Claim;
use crate::model::{Artifact, ArtifactSet, Lane};

/// Of so many requests one may be a late retry while others wait.
const RETRY_SHARE: u64 = 5;
/// So many retries go like first tries: eight minutes' worth, with the default backoff.
const PROMPT: u32 = 5;
/// Of so many requests one goes to the less urgent lanes while more urgent ones wait.
const FAIR_SHARE: u64 = 10;

/// A kind of item that the database hands out in order of due time: artifact, lane, and whether it was tried before.
pub type Class = (Artifact, Lane, bool);

/// Items claimed and not under way yet.
#[derive(Debug, Default)]
pub struct Schedule {
    first: [VecDeque<Claim>; 4],
    again: [VecDeque<Claim>; 4],
    held: BTreeMap<Class, usize>,
    turn: u64,
}

/// The class of a claim.
pub fn class(claim: &Claim) -> Class {
    (claim.artifact, claim.lane, claim.tries > 0)
}

impl Schedule {
    /// Adds a claim behind those of its kind that are due earlier.
    pub fn push(&mut self, claim: Claim) {
        let queue = self.count_in(&claim);
        let at = queue.partition_point(|held| held.due <= claim.due);
        queue.insert(at, claim);
    }

    /// Gives back a claim that could not be tried: it is next of its kind.
    pub fn put_back(&mut self, claim: Claim) {
        self.count_in(&claim).push_front(claim);
    }

    /// Takes what goes next among `open` artifacts.
    pub fn pop(&mut self, open: ArtifactSet) -> Option<Claim> {
        let claim = self.choose(open)?;
        self.turn = self.turn.wrapping_add(1);
        if let Some(held) = self.held.get_mut(&class(&claim)) {
            *held = held.saturating_sub(1);
        }
        Some(claim)
    }

    fn choose(&mut self, open: ArtifactSet) -> Option<Claim> {
        let retry_first = self.turn % RETRY_SHARE == RETRY_SHARE - 1;
        // The odd turn out looks at the lanes from another end, a different one each time.
        let fair = (self.turn % FAIR_SHARE == FAIR_SHARE / 2)
            .then(|| usize::try_from(self.turn / FAIR_SHARE % 3).unwrap_or(0) + 1);
        let (one, other) = (&mut self.first, &mut self.again);
        let (one, other) = if retry_first { (other, one) } else { (one, other) };
        take(one, fair, open).or_else(|| take(other, fair, open))
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
        for queue in self.first.iter_mut().chain(&mut self.again) {
            let (gone, kept): (VecDeque<Claim>, VecDeque<Claim>) =
                std::mem::take(queue).into_iter().partition(|claim| claim.artifact == artifact);
            *queue = kept;
            out.extend(gone);
        }
        self.held.retain(|(held, ..), _| *held != artifact);
        out
    }

    fn count_in(&mut self, claim: &Claim) -> &mut VecDeque<Claim> {
        *self.held.entry(class(claim)).or_default() += 1;
        let lane = usize::try_from(claim.lane.code()).unwrap_or(0).min(Lane::ALL.len() - 1);
        if claim.tries <= PROMPT { &mut self.first[lane] } else { &mut self.again[lane] }
    }
}

fn take(queues: &mut [VecDeque<Claim>; 4], fair: Option<usize>, open: ArtifactSet) -> Option<Claim> {
    let start = fair.filter(|lane| !queues[*lane].is_empty()).unwrap_or(0);
    (start..queues.len()).chain(0..start).find_map(|lane| {
        let at = queues[lane].iter().position(|claim| open.contains(claim.artifact))?;
        queues[lane].remove(at)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Time;
    use crate::db::{Item, Owned};

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
            first_try: None,
            paused: Duration::ZERO,
            visit: 0,
        }
    }

    #[test]
    fn live_goes_before_backfill_which_still_gets_its_share() {
        let mut schedule = Schedule::default();
        for item in 0..1000 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Backfill, 0));
        }
        let taken: Vec<Lane> =
            (0..500).filter_map(|_| schedule.pop(ArtifactSet::ALL)).map(|claim| claim.lane).collect();
        let backfill = taken.iter().filter(|lane| **lane == Lane::Backfill).count();
        assert!((10..=50).contains(&backfill), "{backfill}");
        assert_eq!(taken[0], Lane::Live);
    }

    #[test]
    fn late_retries_take_at_most_a_fifth_while_others_wait_and_all_when_none_does() {
        let mut schedule = Schedule::default();
        for item in 0..100 {
            schedule.push(claim(item, Lane::Live, 0));
            schedule.push(claim(item + 1000, Lane::Live, PROMPT + 1));
        }
        let tries: Vec<u32> =
            (0..100).filter_map(|_| schedule.pop(ArtifactSet::ALL)).map(|claim| claim.tries).collect();
        assert_eq!(tries.iter().filter(|tries| **tries > 0).count(), 20);
        let rest: Vec<Claim> = std::iter::from_fn(|| schedule.pop(ArtifactSet::ALL)).collect();
        assert_eq!(rest.len(), 100);
        assert!(!schedule.has(ArtifactSet::ALL));
    }

    #[test]
    fn an_early_retry_does_not_stand_behind_a_backfill() {
        let mut schedule = Schedule::default();
        for item in 0..20 {
            schedule.push(claim(item, Lane::Backfill, 0));
            schedule.push(claim(item + 1000, Lane::Live, 2));
        }
        let taken: Vec<Lane> = (0..20).filter_map(|_| schedule.pop(ArtifactSet::ALL)).map(|claim| claim.lane).collect();
        assert!(taken.iter().filter(|lane| **lane == Lane::Live).count() >= 18, "{taken:?}");
    }

    #[test]
    fn the_earliest_due_goes_first_and_what_is_put_back_goes_next() {
        let mut schedule = Schedule::default();
        for item in [3, 1, 2] {
            schedule.push(claim(item, Lane::Live, 0));
        }
        let first = schedule.pop(ArtifactSet::ALL).unwrap();
        assert_eq!(first.item, Item(1));
        schedule.put_back(first);
        let order: Vec<i64> = std::iter::from_fn(|| schedule.pop(ArtifactSet::ALL)).map(|claim| claim.item.0).collect();
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
