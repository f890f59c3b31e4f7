//! When due items are loaded from the database, how many, and which of them are queued.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::super::schedule::queue_class;
use super::{FetchAction, FetchMachine};
use crate::clock::Time;
use crate::db::failpoint::{self, Failpoint};
use crate::db::{Claim, Item, QueueClass, queue_classes};
use crate::model::{Artifact, ArtifactSet};

/// A query also returns items that are due so soon. They are sent when they are due, without
/// another query...
const PREFETCH: Duration = Duration::from_secs(1);
/// ...and a query for a known due time begins this long before it.
pub(super) const REFILL_LEAD: Duration = Duration::from_millis(500);
/// The wait after a failed query.
const FAILED_LOAD_DELAY: Duration = Duration::from_secs(1);

/// A query of the work table for due items.
#[derive(Debug)]
pub struct DueQuery {
    number: u64,
    /// The artifacts to query: those that are not paused.
    pub artifacts: ArtifactSet,
    /// The latest due time.
    pub until: Time,
    limits: HashMap<QueueClass, usize>,
    /// The earliest probe time of the circuits that are open.
    retry_at: Option<Time>,
}

impl DueQuery {
    /// The most claims of a class to return.
    pub fn limit(&self, class: QueueClass) -> usize {
        self.limits.get(&class).copied().unwrap_or(0)
    }
}

/// What is known of the work table.
#[derive(Debug, Default)]
pub(super) struct Refill {
    /// The number of the query under way. Requests continue in the meantime.
    loading: Option<u64>,
    /// The number of queries so far.
    queries: u64,
    /// Items that were released during the query, which may return them as they were before.
    released_during_load: HashSet<Item>,
    /// Classes of which the database holds, or may hold, further due items.
    has_more: HashSet<QueueClass>,
    is_needed: bool,
    next: Option<Time>,
}

impl Refill {
    /// Requests a query.
    pub(super) fn request(&mut self) {
        self.is_needed = true;
    }

    /// Requests a query at that time.
    pub(super) fn request_by(&mut self, at: Option<Time>) {
        self.next = self.next.into_iter().chain(at).min();
    }

    /// Requests a query, and ignores the result of the one under way, which is obsolete.
    pub(super) fn restart(&mut self) {
        self.loading = None;
        self.is_needed = true;
    }

    /// When the next query begins.
    pub(super) fn next(&self) -> Option<Time> {
        self.next
    }

    /// An item was released, and is due again at that time.
    pub(super) fn handle_release(&mut self, item: Item, due: Option<Time>) {
        if self.loading.is_some() {
            self.released_during_load.insert(item);
        }
        self.request_by(due);
    }

    /// An artifact is paused until then: its items are not queried.
    pub(super) fn handle_pause(&mut self, artifact: Artifact, until: Time) {
        if self.loading.is_some() {
            self.restart();
        }
        self.has_more.retain(|class| class.artifact != artifact);
        self.request_by(Some(until));
    }

    pub(super) fn handle_failure(&mut self, query: &DueQuery, now: Time) {
        if self.end_load(query) {
            self.is_needed = false;
            self.has_more.clear();
            self.next = Some(now + FAILED_LOAD_DELAY);
        }
    }

    /// Whether this is the query under way. It then is no more.
    fn end_load(&mut self, query: &DueQuery) -> bool {
        self.loading.take_if(|number| *number == query.number).is_some()
    }
}

impl FetchMachine {
    pub(super) fn refill_if_needed(&mut self, is_requested: bool, now: Time) {
        self.refill.is_needed |= is_requested || self.refill.next.take_if(|next| *next <= now).is_some();
        if self.refill.loading.is_none() && (self.refill.is_needed || self.below_low_watermark()) {
            self.start_load(now);
        }
    }

    fn below_low_watermark(&self) -> bool {
        self.refill.has_more.iter().any(|class| self.schedule.queued_count(*class) < self.batch_size / 4)
    }

    fn start_load(&mut self, now: Time) {
        self.on_cooldown.retain(|_, until| *until > now);
        let artifacts = self.allowed_artifacts(now);
        let refill = &mut self.refill;
        refill.queries += 1;
        refill.loading = Some(refill.queries);
        (refill.is_needed, refill.next) = (false, None);
        refill.released_during_load.clear();
        let query = DueQuery {
            number: refill.queries,
            artifacts,
            until: now + PREFETCH,
            limits: queue_classes(artifacts).map(|class| (class, self.load_limit(class))).collect(),
            retry_at: self.artifacts.iter().filter_map(|state| state.breaker.retry_at(now)).min(),
        };
        self.actions.push(FetchAction::LoadDue(query));
    }

    /// How many claims of a class a query requests: those in flight, which are returned again, and
    /// those that can be queued. None if enough are queued, so that a query for the live lane does
    /// not read a backfill again.
    fn load_limit(&self, class: QueueClass) -> usize {
        let queued = self.schedule.queued_count(class);
        if queued >= self.batch_size / 4 {
            0
        } else {
            self.in_flight.count(class) + self.on_cooldown.len() + self.batch_size - queued
        }
    }

    pub(super) fn handle_loaded(&mut self, query: DueQuery, due: Vec<Claim>, next: Option<Time>, now: Time) {
        if !self.refill.end_load(&query) {
            return;
        }
        let mut remaining = query.limits;
        self.refill.request_by(next.map(|due| due - REFILL_LEAD));
        // Classes that were not queried may have more; they are queried at the low watermark.
        self.refill.has_more = remaining.iter().filter(|(_, limit)| **limit == 0).map(|(class, _)| *class).collect();
        for claim in due {
            let class = queue_class(&claim);
            let remaining = remaining.entry(class).or_default();
            *remaining = remaining.saturating_sub(1);
            let reached_limit = *remaining == 0;
            let is_known = self.on_cooldown.contains_key(&claim.item)
                || self.in_flight.contains(claim.item)
                || self.refill.released_during_load.contains(&claim.item);
            let is_new = !is_known || failpoint::is_triggered(Failpoint::DoubledClaim);
            // However many queries there are, no more claims are queued than will soon be sent.
            let (due, is_delayed) = (claim.due, claim.due > now);
            let queued = if is_delayed { self.schedule.delayed_count() } else { self.schedule.queued_count(class) };
            let has_room = self.batch_size > queued;
            if is_new && has_room {
                self.in_flight.insert(claim.item, class);
                if is_delayed { self.schedule.delay_until_due(claim) } else { self.schedule.push(claim) }
            }
            if (is_new && !has_room) || reached_limit {
                if is_delayed {
                    self.refill.request_by(Some(due));
                } else {
                    self.refill.has_more.insert(class);
                }
            }
        }
        // A circuit may have become half open.
        let cooldown_ends = self.on_cooldown.values().copied();
        self.refill.request_by(query.retry_at.into_iter().chain(cooldown_ends).min());
    }
}
