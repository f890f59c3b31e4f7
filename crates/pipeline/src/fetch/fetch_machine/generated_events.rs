//! Events in any order against a simple model of the work table, and the cases that are hard to
//! generate.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::super::schedule::queue_class;
use super::*;
use crate::backoff::{Backoff, Fault};
use crate::clock::Clock;
use crate::db::{Lease, queue_classes};
use crate::model::Lane;
use crate::ringcx::ErrorCause;
use crate::ringcx::rate_limit::Pacer;

const NOW: Time = Time(1_800_000_000_000);
const CONCURRENCY: usize = 3;
const FIRST_DELAY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
enum AnswerKind {
    Found,
    Fault(Fault),
    LoginFailed,
}

#[derive(Debug, Clone)]
enum Step {
    Advance(u64),
    SetClockBack(i64),
    Queue { artifact: Artifact, lane: Lane, tries: u32, ended_ago: u64, due_in: u64 },
    Permit,
    Answer(usize, AnswerKind),
    Panic(usize),
    Store { is_accepted: bool },
    Load { which: usize, fails: bool },
    Resume,
    SetStorable(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let artifact = prop::sample::select(Artifact::ALL.to_vec());
    let lane = prop::sample::select(vec![Lane::Live, Lane::Live, Lane::Backfill]);
    let queue =
        (artifact, lane, 0u32..2, 0u64..900, 0u64..3000).prop_map(|(artifact, lane, tries, ended_ago, due_in)| {
            Step::Queue { artifact, lane, tries, ended_ago, due_in }
        });
    let fault = prop::sample::select(vec![
        Fault::Transient,
        Fault::Broken,
        Fault::NotYet,
        Fault::RateLimited,
        Fault::Forbidden,
        Fault::Unauthorised,
        Fault::Permanent,
    ]);
    let kind = prop_oneof![6 => Just(AnswerKind::Found), 6 => fault.prop_map(AnswerKind::Fault), 1 => Just(AnswerKind::LoginFailed)];
    let step = prop_oneof![
        4 => (1u64..2000).prop_map(Step::Advance),
        4 => (2000u64..60_000).prop_map(Step::Advance),
        1 => (60_000i64..1_000_000).prop_map(Step::SetClockBack),
        8 => queue,
        16 => Just(Step::Permit),
        10 => (any::<usize>(), kind).prop_map(|(nth, kind)| Step::Answer(nth, kind)),
        2 => any::<usize>().prop_map(Step::Panic),
        8 => prop::bool::weighted(0.9).prop_map(|is_accepted| Step::Store { is_accepted }),
        12 => (any::<usize>(), prop::bool::weighted(0.1)).prop_map(|(which, fails)| Step::Load { which, fails }),
        1 => Just(Step::Resume),
        2 => prop::bool::weighted(0.7).prop_map(Step::SetStorable),
    ];
    prop::collection::vec(step, 1..400)
}

fn permit() -> Permit {
    Pacer::new(NonZeroU32::MIN, Clock::manual(NOW)).try_acquire().unwrap()
}

fn failed(endpoint: Endpoint, fault: Fault) -> Answer {
    Err(ApiError::new(fault, endpoint, ErrorCause::Answered, "a generated fault"))
}

fn machine() -> FetchMachine {
    let backoff = Backoff::new(FIRST_DELAY, Duration::from_secs(600), Duration::from_secs(3600)).unwrap();
    FetchMachine::new(Arc::new(RetryPolicy { backoff, refresh_delays: Vec::new() }), CONCURRENCY, 60)
}

/// The work table and everything that is under way.
struct World {
    machine: FetchMachine,
    rng: StdRng,
    now: Time,
    is_storable: bool,
    /// The work table: the items as a query would return them.
    table: BTreeMap<Item, Claim>,
    /// Results of queries, obsolete ones included, that did not arrive yet.
    loads: Vec<FetchEvent>,
    requests: Vec<Claim>,
    submitted: Vec<CompletedJob>,
    /// When the probe of a paused artifact may be sent, and whether it was.
    pauses: BTreeMap<Artifact, (Time, bool)>,
}

impl World {
    fn new() -> World {
        World {
            machine: machine(),
            rng: StdRng::seed_from_u64(1),
            now: NOW,
            is_storable: true,
            table: BTreeMap::new(),
            loads: Vec::new(),
            requests: Vec::new(),
            submitted: Vec::new(),
            pauses: BTreeMap::new(),
        }
    }

    fn queue(&mut self, artifact: Artifact, lane: Lane, tries: u32, ended: Time, due: Time) {
        let item = Item(self.table.last_key_value().map_or(0, |(item, _)| item.0) + 1);
        let claim = Claim {
            item,
            lease: Lease { account: crate::db::AccountKey(1), epoch: 1 },
            artifact,
            lane,
            segment_id: item.0.to_string(),
            dialog_id: None,
            ended,
            due,
            tries,
            misses: tries,
            refusals: 0,
            broken_kind: 0,
            consecutive_broken: 0,
            first_try: (tries > 0).then_some(NOW),
            paused: Duration::ZERO,
            visit: 0,
        };
        self.table.insert(item, claim);
        self.on(FetchEvent::WorkQueued);
    }

    fn on(&mut self, event: FetchEvent) {
        let is_permit = matches!(event, FetchEvent::PermitGranted(_));
        let actions = self.machine.on(event, Now { local: self.now, api: self.now }, &mut self.rng);
        for action in actions {
            match action {
                FetchAction::LoadDue(query) => self.load(query),
                FetchAction::Request(claim, _) => {
                    assert!(is_permit && self.is_storable, "a request without a permit, or that cannot be stored");
                    self.request(claim);
                }
                FetchAction::Complete(job) | FetchAction::CompleteFailed(job) => self.submitted.push(job),
                FetchAction::RecordPause(row, _) => {
                    let artifact = Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == row.endpoint);
                    self.pauses.insert(artifact.unwrap(), (row.until, false));
                }
                FetchAction::RecordPauseEnd(artifact, _) => assert!(self.pauses.remove(&artifact).is_some()),
                FetchAction::RateLimited(artifact, _) => {
                    self.pauses.entry(artifact).and_modify(|(_, is_probed)| *is_probed = false);
                }
                FetchAction::UndoDeferrals(artifact) => {
                    let of_artifact = self.table.values_mut().filter(|row| row.artifact == artifact);
                    of_artifact.for_each(|row| row.due = row.due.min(self.now));
                }
            }
        }
    }

    fn load(&mut self, query: DueQuery) {
        let mut due = Vec::new();
        for class in queue_classes(query.artifacts) {
            let of_class = self.table.values().filter(|row| queue_class(row) == class && row.due <= query.until);
            let mut of_class: Vec<Claim> = of_class.cloned().collect();
            of_class.sort_by_key(|row| row.due);
            due.extend(of_class.into_iter().take(query.limit(class)));
        }
        let later = self.table.values().filter(|row| query.artifacts.contains(row.artifact) && row.due > query.until);
        let next = later.map(|row| row.due).min();
        self.loads.push(FetchEvent::Loaded(query, due, next));
    }

    fn request(&mut self, claim: Claim) {
        let item = claim.item;
        assert!(self.requests.iter().all(|other| other.item != item), "two requests of one item");
        assert!(self.submitted.iter().all(|job| job.claim.item != item), "its result waits to be stored");
        let row = self.table.get(&item).expect("a completed item is requested");
        assert_eq!(row.tries, claim.tries, "a claim from before its last attempt");
        if let Some((until, is_probed)) = self.pauses.get_mut(&claim.artifact) {
            assert!(self.now >= *until && !std::mem::replace(is_probed, true), "a request during a pause");
        }
        self.requests.push(claim);
        assert!(self.requests.len() <= CONCURRENCY);
    }

    fn answer(&mut self, nth: usize, kind: AnswerKind) {
        if self.requests.is_empty() {
            return;
        }
        let claim = self.requests.swap_remove(nth % self.requests.len());
        let answer = match kind {
            AnswerKind::Found => Ok((self.now, JobOutcome::not_populated(None))),
            AnswerKind::Fault(fault) => failed(claim.artifact.into(), fault),
            AnswerKind::LoginFailed => failed(Endpoint::Login, Fault::Transient),
        };
        self.on(FetchEvent::Answered(claim, answer));
    }

    fn panic(&mut self, nth: usize) {
        if self.requests.is_empty() {
            return;
        }
        let claim = self.requests.swap_remove(nth % self.requests.len());
        if let Some(pause) = self.pauses.get_mut(&claim.artifact).filter(|(_, is_probed)| *is_probed) {
            *pause = (self.now + FIRST_DELAY, false);
        }
        self.on(FetchEvent::Panicked(claim));
    }

    /// The oldest result is stored, or rejected.
    fn store(&mut self, is_accepted: bool) {
        if self.submitted.is_empty() {
            return;
        }
        let CompletedJob { claim, at, outcome } = self.submitted.remove(0);
        let item = claim.item;
        if is_accepted {
            let row = self.table.get_mut(&item).expect("a result of an unknown item");
            match outcome {
                JobOutcome::Deferred { due, first_try } => (row.due, row.first_try) = (due, first_try),
                JobOutcome::Failed { state: ItemState::Open, due, misses, refusals, .. } => {
                    (row.due, row.misses, row.refusals, row.tries) = (due, misses, refusals, row.tries + 1);
                    row.first_try.get_or_insert(at);
                }
                _ => drop(self.table.remove(&item)),
            }
        }
        self.on(FetchEvent::Stored { item, is_accepted });
    }

    /// The result of a query arrives.
    fn deliver_load(&mut self, which: usize, fails: bool) {
        if self.loads.is_empty() {
            return;
        }
        let event = match self.loads.swap_remove(which % self.loads.len()) {
            FetchEvent::Loaded(query, ..) if fails => FetchEvent::LoadFailed(query),
            event => event,
        };
        self.on(event);
    }

    fn end_pauses(&mut self) {
        self.pauses.values_mut().for_each(|(until, _)| *until = (*until).min(self.now));
    }

    fn tick(&mut self) {
        let loads = self.loads.len();
        self.on(FetchEvent::Tick { is_storable: self.is_storable });
        assert!(self.loads.len() <= loads + 1, "more than one query");
        assert!(self.machine.wake_at().is_none_or(|at| at > self.now), "a tick that needs another one at once");
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Advance(millis) => self.now = self.now + Duration::from_millis(millis),
            Step::SetClockBack(millis) => {
                self.now = self.now.plus_millis(-millis);
                self.end_pauses();
                self.on(FetchEvent::ClockSteppedBack);
            }
            Step::Queue { artifact, lane, tries, ended_ago, due_in } => {
                let ended = self.now - Duration::from_secs(ended_ago);
                self.queue(artifact, lane, tries, ended, self.now + Duration::from_millis(due_in));
            }
            Step::Permit if self.machine.wants_permit(self.now) => self.on(FetchEvent::PermitGranted(permit())),
            Step::Permit => {}
            Step::Answer(nth, kind) => self.answer(nth, kind),
            Step::Panic(nth) => self.panic(nth),
            Step::Store { is_accepted } => self.store(is_accepted),
            Step::Load { which, fails } => self.deliver_load(which, fails),
            Step::Resume => {
                self.end_pauses();
                self.on(FetchEvent::Resumed);
            }
            Step::SetStorable(is_storable) => self.is_storable = is_storable,
        }
        self.tick();
    }

    /// Without further faults and with no more than the wake-ups that the machine asks for, every
    /// item is completed.
    fn drain(&mut self) {
        self.is_storable = true;
        for _ in 0..100_000 {
            self.tick();
            if self.machine.wants_permit(self.now) {
                self.on(FetchEvent::PermitGranted(permit()));
            } else if !self.loads.is_empty() {
                self.deliver_load(0, false);
            } else if !self.requests.is_empty() {
                self.answer(0, AnswerKind::Found);
            } else if !self.submitted.is_empty() {
                self.store(true);
            } else if let Some(at) = self.machine.wake_at() {
                self.now = at;
            } else {
                break;
            }
        }
        assert_eq!(self.table.keys().collect::<Vec<_>>(), Vec::<&Item>::new(), "these items are never fetched");
    }
}

proptest! {
    #[test]
    fn whatever_happens_each_item_is_requested_once_at_a_time_and_at_last_completed(steps in steps()) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.apply(step));
        world.drain();
    }
}

/// A world with one live transcript that is requested.
fn requested() -> World {
    let mut world = World::new();
    world.queue(Artifact::Transcript, Lane::Live, 1, NOW, NOW);
    assert!(is_requested_again(&mut world));
    world
}

/// Whether the items that are due are requested again.
fn is_requested_again(world: &mut World) -> bool {
    world.tick();
    while !world.loads.is_empty() {
        world.apply(Step::Load { which: 0, fails: false });
    }
    world.apply(Step::Permit);
    !world.requests.is_empty()
}

#[test]
fn a_panicked_request_returns_its_own_claim_and_waits() {
    let mut world = requested();
    world.queue(Artifact::Transcript, Lane::Live, 1, NOW, NOW);
    assert!(is_requested_again(&mut world) && world.requests.len() == 2);
    world.panic(0);
    assert_eq!(world.requests.len(), 1, "the other request goes on");
    world.answer(0, AnswerKind::Found);
    world.store(true);
    world.on(FetchEvent::WorkQueued);
    assert!(!is_requested_again(&mut world));
    world.now = world.now + ITEM_COOLDOWN;
    assert!(is_requested_again(&mut world));
}

#[test]
fn a_panicked_probe_is_followed_by_another_one() {
    let mut world = requested();
    world.answer(0, AnswerKind::Fault(Fault::Unauthorised));
    assert!(!is_requested_again(&mut world), "the endpoint is paused");
    world.now = world.now + FIRST_DELAY;
    assert!(is_requested_again(&mut world));
    world.panic(0);
    world.now = world.now + ITEM_COOLDOWN;
    assert!(is_requested_again(&mut world));
}

#[test]
fn a_rejected_result_is_requested_again_after_the_cooldown_or_when_the_clock_is_set_back() {
    let rejected = || {
        let mut world = requested();
        world.answer(0, AnswerKind::Found);
        world.store(false);
        world.on(FetchEvent::WorkQueued);
        assert!(!is_requested_again(&mut world));
        world
    };
    let mut world = rejected();
    world.now = world.now + ITEM_COOLDOWN;
    assert!(is_requested_again(&mut world));
    let mut world = rejected();
    world.table.values_mut().for_each(|row| row.due = NOW - Duration::from_secs(3600));
    world.apply(Step::SetClockBack(600_000));
    assert!(is_requested_again(&mut world));
}

#[test]
fn a_pause_by_a_clock_that_was_ahead_ends_within_the_hour() {
    let mut world = World::new();
    let row = PauseRow {
        account: crate::db::AccountKey(1),
        endpoint: Endpoint::Transcript,
        since: NOW,
        until: NOW + Duration::from_secs(400 * 86_400),
        times: 1,
        status: Some(403),
        is_login_failure: false,
        reason: "access.denied.exception".to_owned(),
    };
    world.machine.restore_pause(&row, NOW);
    world.queue(Artifact::Transcript, Lane::Live, 1, NOW, NOW);
    assert!(!is_requested_again(&mut world));
    world.now = NOW + Duration::from_secs(3600);
    assert!(is_requested_again(&mut world));
}

#[test]
fn items_completed_during_a_query_are_not_queued_from_its_result() {
    let mut world = requested();
    world.queue(Artifact::AutoSummary, Lane::Live, 1, NOW, NOW);
    world.tick();
    assert!(matches!(&*world.loads, [FetchEvent::Loaded(_, due, _)] if due.len() == 2), "{:?}", world.loads);
    world.answer(0, AnswerKind::Found);
    world.store(true);
    world.apply(Step::Load { which: 0, fails: false });
    world.apply(Step::Permit);
    assert!(matches!(&*world.requests, [claim] if claim.artifact == Artifact::AutoSummary));
    world.drain();
}
