//! Drains one account's work: claims what is due, lets requests go at the account's pace, hands results to the committer.
//!
//! The loop around `fetch`. It sleeps until something is queued, settled or due; an idle account costs nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clock_watch::ClockWatch;
use crate::account::Account;
use crate::clock::Time;
use crate::db::{Claim, Class, DbError, Item, PauseRow, Settled, Settlement, classes};
use crate::fetch::absence::Absence;
use crate::fetch::committer::{Acknowledgement, Committer, Storage, Submission};
use crate::fetch::ripeness::Ripeness;
use crate::fetch::schedule::{Schedule, class};
use crate::fetch::{Patience, attempt};
use crate::model::{Artifact, ArtifactSet, Endpoint, State};
use crate::planted::{self, Plant};
use crate::ringcx::ApiError;
use crate::ringcx::limits::{LONGEST_WAIT, Permit};
use crate::standing::Standing;

mod answers;
mod hands;
#[cfg(test)]
mod tests;

use hands::Hands;

/// How long an item whose result was not accepted is left alone, lest it be fetched over and over.
const LEFT_ALONE: Duration = Duration::from_secs(30);
/// How long requests under way may take when the daemon ends.
const LAST_ORDERS: Duration = Duration::from_secs(5);
/// A look brings what will be due so soon after it, too: it goes when it is due, without a look of its own...
const AHEAD: Duration = Duration::from_secs(1);
/// ...which begins so long before something is due.
const LEAD: Duration = Duration::from_millis(500);
/// Between looks at a database that is away.
const PATIENCE: Duration = Duration::from_secs(1);

type Turn = Pin<Box<dyn Future<Output = Permit> + Send>>;
/// A look at the work table: what is due, and when the next item will be.
type Seen = Result<(Vec<Claim>, Option<Time>), DbError>;
/// How many of each class are looked for.
type Wanted = HashMap<Class, usize>;
/// A claim that was tried: when the answer came and what it means, already hashed and packed; or what went wrong.
type Tried = (Claim, Result<(Time, Settlement), ApiError>);

/// A look at the work table that is under way. Requests go on meanwhile.
struct Looking {
    /// How many of each class it brings at the most.
    wanted: Wanted,
    /// When the first of the endpoints opens that were shut as it began, and are left out of it.
    opens: Option<Time>,
    seen: Pin<Box<dyn Future<Output = Seen> + Send>>,
}

/// Drains one account's work.
pub struct Drain {
    account: Arc<Account>,
    patience: Arc<Patience>,
    concurrency: usize,
    committer: Committer,
    schedule: Schedule,
    held: Hands,
    left_alone: HashMap<Item, Time>,
    looking: Option<Looking>,
    /// What was settled while it is: it may find them as they were before.
    meanwhile: HashSet<Item>,
    requests: JoinSet<Tried>,
    acknowledged: (mpsc::UnboundedSender<Acknowledgement>, mpsc::UnboundedReceiver<Acknowledgement>),
    standing: BTreeMap<Artifact, Standing>,
    absence: BTreeMap<Artifact, Absence>,
    ripeness: BTreeMap<Artifact, Ripeness>,
    /// Of which a redirect has been reported.
    moved: BTreeSet<Artifact>,
    /// Classes of which the database holds, or may hold, more than was handed out.
    more: HashSet<Class>,
    refill: bool,
    next: Option<Time>,
    watch: ClockWatch,
    /// How often a person has asked for everything to be tried again at once, as far as is known here.
    resumes: u64,
}

impl Drain {
    /// For an account; nothing happens before [`Drain::run`].
    pub fn new(account: Arc<Account>, patience: Patience, concurrency: usize, committer: Committer) -> Drain {
        Drain {
            resumes: account.live.resumes(),
            watch: ClockWatch::new(&account.clock),
            account,
            patience: Arc::new(patience),
            concurrency: concurrency.max(1),
            committer,
            schedule: Schedule::default(),
            held: Hands::default(),
            left_alone: HashMap::new(),
            looking: None,
            meanwhile: HashSet::new(),
            requests: JoinSet::new(),
            acknowledged: mpsc::unbounded_channel(),
            standing: BTreeMap::new(),
            absence: BTreeMap::new(),
            ripeness: BTreeMap::new(),
            moved: BTreeSet::new(),
            more: HashSet::new(),
            refill: true,
            next: None,
        }
    }

    /// Takes up a pause that was recorded before this process began.
    pub fn take_up(&mut self, pause: &PauseRow) {
        if let Some(artifact) = Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == pause.endpoint) {
            // Whoever recorded it may have had a clock that was ahead.
            let until = pause.until.min(self.account.clock.now() + LONGEST_WAIT);
            self.standing.entry(artifact).or_default().resume_from(pause.since, until, pause.times);
        }
    }

    /// Works until `stop`, then lets what is under way finish.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut storage = self.committer.storage();
        let mut turn: Option<Turn> = None;
        while !stop.is_cancelled() {
            let stores = *storage.borrow_and_update() == Storage::Ok;
            self.resume_if_asked();
            self.forget_a_wrong_clock();
            if self.looking.is_none() && (self.refill || self.runs_low()) {
                self.look();
            }
            self.schedule.ripen(self.account.clock.now());
            if stores {
                self.send_at_once().await;
            }
            let wants = stores && self.wants_to_send();
            if !wants {
                turn = None;
            } else if turn.is_none() {
                let pacer = self.account.pacer.clone();
                turn = Some(Box::pin(async move { pacer.enter().await }));
            }
            self.account.live.set_running(self.requests.len());
            let account = self.account.clone();
            let next = self.next.into_iter().chain(self.schedule.next_due()).min();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(acknowledgement) = self.acknowledged.1.recv() => self.acknowledge(acknowledgement),
                found = async { match self.looking.as_mut() { Some(looking) => looking.seen.as_mut().await, None => std::future::pending().await } } => self.take_in(found),
                Some(tried) = self.requests.join_next(), if !self.requests.is_empty() => self.tried(tried).await,
                permit = async { match turn.as_mut() { Some(turn) => turn.await, None => std::future::pending().await } } => {
                    turn = None;
                    let _ = self.send(permit).await;
                }
                () = account.work.notified() => self.refill = true,
                () = async { match next { Some(next) => account.clock.sleep_until_time(next).await, None => std::future::pending().await } } => {
                    if self.next == next {
                        self.next = None;
                        self.refill = true;
                    }
                }
                _ = storage.changed() => self.refill = true,
            }
        }
        drop(turn);
        self.finish().await;
    }

    fn resume_if_asked(&mut self) {
        let resumes = self.account.live.resumes();
        if std::mem::replace(&mut self.resumes, resumes) != resumes {
            let now = self.account.clock.now();
            self.standing.values_mut().for_each(|standing| standing.retry_now(now));
            self.look_again();
        }
    }

    /// Where this machine's clock was set back, nothing goes on waiting for a time that it has gone back from.
    fn forget_a_wrong_clock(&mut self) {
        if self.watch.stepped_back(&self.account.clock) {
            let now = self.account.clock.now();
            self.standing.values_mut().for_each(|standing| standing.retry_now(now));
            self.absence.clear();
            self.left_alone.clear();
            self.schedule.ripen(Time(i64::MAX));
            self.look_again();
        }
    }

    /// Sends while the pace allows it without waiting. What may be asked for is looked at anew each time: the one request that
    /// goes to see whether a pause is over closes the door behind itself.
    async fn send_at_once(&mut self) {
        while self.wants_to_send() {
            let Ok(permit) = self.account.pacer.try_enter() else { return };
            if !self.send(permit).await {
                return;
            }
        }
    }

    /// Whether there is a claim that may go now, and room for its request.
    fn wants_to_send(&self) -> bool {
        self.requests.len() < self.concurrency && self.schedule.has(self.open())
    }

    /// Which artifacts may be asked for now.
    fn open(&self) -> ArtifactSet {
        let now = self.account.clock.now();
        Artifact::ALL
            .into_iter()
            .filter(|artifact| self.standing.get(artifact).is_none_or(|standing| standing.open(now)))
            .collect()
    }

    /// How many claims of a class are fetched at once: what a second can use, so that a thousand accounts do not hold more in
    /// memory than they will soon send, and what falls due meanwhile does not wait for a long look. Many, where the limit is
    /// high: each look also reads those again that wait to be stored.
    fn portion(&self) -> usize {
        let soon = self.account.pacer.usage().limit as usize / 60;
        (self.concurrency * 64).max(64).min(soon.max(16))
    }

    fn runs_low(&self) -> bool {
        let low = self.portion() / 4;
        self.more.iter().any(|class| self.schedule.held(*class) < low)
    }

    /// How many of a class are looked for: those that are held, which are found again, and what there is room for. Of one
    /// that has enough waiting here, none: a look at what is live is not to wait for a backfill to be read once more.
    fn wanted(&self, class: Class) -> usize {
        let (portion, waiting) = (self.portion(), self.schedule.held(class));
        if waiting >= portion / 4 { 0 } else { self.held.count(class) + self.left_alone.len() + portion - waiting }
    }

    /// Begins to look for what is due.
    fn look(&mut self) {
        let now = self.account.clock.now();
        self.left_alone.retain(|_, until| *until > now);
        let (account, open) = (self.account.clone(), self.open());
        self.refill = false;
        self.next = None;
        self.meanwhile.clear();
        let wanted: Wanted = classes(open).map(|class| (class, self.wanted(class))).collect();
        let most = wanted.clone();
        let opens = self.standing.values().filter_map(|standing| standing.opens(now)).min();
        let seen = async move {
            let most = |class| most.get(&class).copied().unwrap_or(0);
            let due = account.db.due_of_each(account.owned, open, now + AHEAD, most).await?;
            Ok((due, account.db.next_due(account.owned.account, open, now + AHEAD).await?))
        };
        self.looking = Some(Looking { wanted, opens, seen: Box::pin(seen) });
    }

    /// What a look under way will find does not hold any more.
    fn look_again(&mut self) {
        self.looking = None;
        self.refill = true;
    }

    fn take_in(&mut self, found: Seen) {
        let now = self.account.clock.now();
        let Some(Looking { wanted, opens, .. }) = self.looking.take() else { return };
        match found {
            Ok((due, next)) => self.hold(due, next, &wanted, opens, now),
            Err(error) => {
                if error.is_passing() {
                    // The session says it, once for all accounts.
                    tracing::debug!(account = %self.account.id, %error, "failed to read the work table");
                } else {
                    tracing::warn!(account = %self.account.id, %error, "failed to read the work table");
                }
                self.refill = false;
                self.more.clear();
                self.next = Some(now + PATIENCE);
            }
        }
    }

    fn hold(&mut self, due: Vec<Claim>, next: Option<Time>, wanted: &Wanted, opens: Option<Time>, now: Time) {
        let portion = self.portion();
        let mut left = wanted.clone();
        let mut next = next.map(|due| due - LEAD);
        // Of what was not looked for there may be more; it is asked for when it runs low.
        self.more = wanted.iter().filter(|(_, wanted)| **wanted == 0).map(|(class, _)| *class).collect();
        for claim in due {
            let class = class(&claim);
            let left = left.entry(class).or_default();
            *left = left.saturating_sub(1);
            let full = *left == 0;
            let known = self.left_alone.contains_key(&claim.item) || self.held.holds(claim.item);
            let known = known || self.meanwhile.contains(&claim.item);
            let new = !known || planted::strikes(Plant::DoubledClaim);
            // However often the bell rings, no more are held here than will soon be tried.
            let (due, soon) = (claim.due, claim.due > now);
            let room = portion > if soon { self.schedule.soon() } else { self.schedule.held(class) };
            if new && room {
                self.held.take(claim.item, class);
                if soon { self.schedule.wait(claim) } else { self.schedule.push(claim) }
            }
            if (new && !room) || full {
                if soon {
                    next = next.into_iter().chain([due]).min();
                } else {
                    self.more.insert(class);
                }
            }
        }
        let left_alone = self.left_alone.values().copied();
        // What was put off while this look was under way has said so by itself. An endpoint may have opened by now.
        self.next = next.into_iter().chain(opens).chain(left_alone).chain(self.next).min();
    }

    /// Lets the next claim go with this permit; without one the permit's place is given back. Whether one went.
    async fn send(&mut self, permit: Permit) -> bool {
        let now = self.account.clock.now();
        while let Some(claim) = self.schedule.pop(self.open()) {
            if let Some(due) = self.ripe_at(&claim, now) {
                let first_try = claim.first_try;
                self.settle(claim, Settlement::Deferred { due, first_try }, now).await;
                continue;
            }
            let last = now >= self.patience.last_try(&claim, now);
            if !self.absence.entry(claim.artifact).or_default().admit(last, now) {
                let jitter = rand::rng().random();
                let settlement = self.patience.defer(&claim, now, jitter);
                self.settle(claim, settlement, now).await;
                continue;
            }
            if !self.standing.entry(claim.artifact).or_default().admit(now) {
                self.schedule.put_back(claim);
                return false;
            }
            self.schedule.went(&claim);
            let account = self.account.clone();
            account.live.count(claim.lane, account.clock.tick());
            let patience = self.patience.clone();
            self.requests.spawn(async move {
                let answer = attempt(&account, &claim, permit).await;
                let result = answer.map(|answer| {
                    let now = account.clock.now();
                    (now, patience.answered(&claim, &answer, now))
                });
                (claim, result)
            });
            return true;
        }
        false
    }

    /// Until when a first try of what is live is put off, where it cannot be there yet.
    fn ripe_at(&mut self, claim: &Claim, now: Time) -> Option<Time> {
        let age = self.age(claim, self.account.api.api_now())?;
        let first_try = claim.tries == 0;
        let wait = first_try.then(|| self.ripeness.entry(claim.artifact).or_default().wait(age))?;
        wait.map(|wait| now + wait)
    }

    async fn settle(&mut self, claim: Claim, settlement: Settlement, at: Time) {
        let due = match &settlement {
            Settlement::Answered { revisit, .. } => *revisit,
            Settlement::Deferred { due, .. } => Some(*due),
            Settlement::Failed { state, due, .. } => (*state == State::Open).then_some(*due),
        };
        self.held.settle(claim.item, due);
        let done = self.acknowledged.0.clone();
        self.committer.submit(Submission { settled: Settled { claim, at, settlement }, done }).await;
    }

    fn acknowledge(&mut self, first: Acknowledgement) {
        let mut next = Some(first);
        while let Some((item, counted)) = next {
            let due = self.held.let_go(item).map(|due| due - LEAD);
            if self.looking.is_some() {
                self.meanwhile.insert(item);
            }
            let alone = (!counted).then(|| self.account.clock.now() + LEFT_ALONE);
            if let Some(until) = alone {
                self.left_alone.insert(item, until);
            }
            self.next = self.next.into_iter().chain(due).chain(alone).min();
            next = self.acknowledged.1.try_recv().ok();
        }
    }

    /// Lets what is under way finish, within reason; the rest is claimed anew by whoever comes next.
    async fn finish(mut self) {
        let clock = self.account.clock.clone();
        let requests = async {
            while let Some(tried) = self.requests.join_next().await {
                self.tried(tried).await;
            }
        };
        if tokio::time::timeout(LAST_ORDERS, requests).await.is_err() {
            tracing::info!(account = %self.account.id, at = %clock.now(), "requests still under way are left to the next start");
        }
        self.account.live.set_running(0);
    }
}
