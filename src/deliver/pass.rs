//! A pass over events: those that are due another try, then what is new, then one transaction that records it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::gather::{self, Gathered};
use super::judge::{self, Flow, Judge, Key, Ruling};
use super::{AGAIN, Deliverer, Progress, delay, share, stopped};
use crate::clock::Time;
use crate::db::{Behind, DbError, Item, Missed, Move, Pass, Window};
use crate::event::Event;
use crate::sink::SinkError;

/// So many numbers of the feeds are looked at in one pass.
const EVENTS: usize = 500;
/// So many bytes of bodies are held at a time, before they are unpacked into events.
const BYTES: u64 = 8 * 1024 * 1024;
/// So many events are tried again in one pass, so that what is new does not wait for them.
const RETRIES: usize = 16;
/// So many events of a sink may wait for another try; when there are more, it is the sink that is in trouble.
const WAITING: u64 = 1000;

impl Deliverer {
    pub(super) async fn step_events(&mut self, sink: i64) -> Result<Progress, DbError> {
        let behind = self.behind(sink).await?;
        let rests = self.rests();
        let most = if rests > 0 { judge::probes(rests) } else { EVENTS };
        let (wanted, unwanted): (Vec<&Behind>, Vec<&Behind>) =
            behind.iter().partition(|account| self.filter.wants_account(&account.id.sub));
        let windows = share::share(&wanted, most, self.turn);
        self.turn = self.turn.wrapping_add(windows.len());
        let gathered = gather::gather(&self.means.db, &self.filter, &windows, BYTES).await?;
        let probing = rests > 0 && !gathered.events.is_empty();
        let mut pass = Pass { sink, at: self.means.clock.now(), ..Pass::default() };
        let mut owners = Owners::of(&behind);
        let retried = if probing { Flow::On } else { self.retry(&mut pass, &mut owners).await? };
        let flow = match retried {
            Flow::On => self.deliver(&gathered, &windows, &owners, &mut pass).await?,
            flow => flow,
        };
        let skipped = unwanted.iter().map(|account| Move { owned: account.owned, upto: account.feed, delivered: 0 });
        pass.moves.extend(skipped);
        let nothing = pass.moves.is_empty() && pass.missed.is_empty() && pass.cleared.is_empty();
        let taken = has_delivered(&pass);
        pass.stopped = stopped(&flow);
        if !nothing || pass.stopped.is_some() {
            self.tell(&pass);
            self.record(pass).await?;
        }
        if !self.follow(&flow, taken) {
            return Ok(Progress::Idle(self.means.clock.tick()));
        }
        if nothing { self.idle(sink).await } else { Ok(Progress::Did) }
    }

    /// The accounts of ours that the sink is behind in.
    pub(super) async fn behind(&self, sink: i64) -> Result<Vec<Behind>, DbError> {
        let mine = self.mine();
        let mut behind = self.means.db.behind(sink, &self.means.owner).await?;
        behind.retain(|account| mine.contains(&(account.owned.account, account.owned.epoch)));
        Ok(behind)
    }

    /// Sends what is new.
    async fn deliver(
        &mut self,
        gathered: &Gathered,
        windows: &[Window],
        owners: &Owners,
        pass: &mut Pass,
    ) -> Result<Flow, DbError> {
        let (rulings, flow) = self.judged(&gathered.events, pass.sink).await?;
        let mut open = gathered.beyond.clone();
        let mut delivered: HashMap<i64, u64> = HashMap::new();
        for (event, ruling) in gathered.events.iter().zip(&rulings) {
            let key = (event.account_key, event.feed);
            match ruling {
                None => {
                    let first = open.entry(key.0).or_insert(key.1);
                    *first = (*first).min(key.1);
                }
                Some(Ruling::Delivered) => *delivered.entry(key.0).or_default() += 1,
                Some(ruling) => pass.missed.extend(new_miss(key, gathered.items.get(&key), ruling, pass.at)),
            }
        }
        pass.missed.extend(gathered.damaged.iter().map(|(key, item, why)| damaged(*key, *item, why, pass.at)));
        for window in windows {
            let Some(owned) = owners.0.get(&window.account) else { continue };
            let upto = open.get(&window.account).map_or(window.upto, |first| window.upto.min(first - 1));
            let delivered = delivered.get(&window.account).copied().unwrap_or(0);
            if upto > window.after || delivered > 0 {
                pass.moves.push(Move { owned: *owned, upto, delivered });
            }
        }
        Ok(flow)
    }

    /// Sends events and judges the answers.
    pub(super) async fn judged(&mut self, events: &[Event], sink: i64) -> Result<(Vec<Option<Ruling>>, Flow), DbError> {
        let (_, waiting) = self.means.db.missed_waiting(sink).await?;
        let room = usize::try_from(WAITING.saturating_sub(waiting)).unwrap_or(0);
        let rests = self.rests();
        let events: Arc<[Event]> = events.into();
        let Some(outlet) = self.outlet.as_ref().filter(|_| !events.is_empty()) else {
            return Ok((vec![None; events.len()], Flow::On));
        };
        let mut judge = Judge::new(&mut self.streak, rests, room, events.len());
        let (mut flow, mut heard) = (Flow::On, 0);
        let hear = |index: usize, answer: Result<(), SinkError>| {
            let Some(event) = events.get(index) else { return false };
            flow = judge.hear(index, (event.account_key, event.feed), answer);
            heard += 1;
            flow == Flow::On
        };
        outlet.send(events.clone(), &self.means.clock, &self.means.stop, hear).await;
        let (rulings, flow) = judge.end(flow);
        if heard == 0 && rests > 0 {
            // The daemon ends: nothing is known that was not known before.
            return Ok((rulings, Flow::On));
        }
        Ok((rulings, flow))
    }

    /// Tries events again that are due.
    async fn retry(&mut self, pass: &mut Pass, owners: &mut Owners) -> Result<Flow, DbError> {
        let mine = self.mine();
        let most = if self.rest.is_some() { 1 } else { RETRIES };
        let mut due = self.means.db.missed_due(pass.sink, &self.means.owner, pass.at, most).await?;
        let epochs: HashMap<i64, i64> = mine.into_iter().collect();
        due.retain(|missed| epochs.contains_key(&missed.account));
        if due.is_empty() {
            return Ok(Flow::On);
        }
        for missed in &due {
            owners.add(missed.account, epochs.get(&missed.account).copied());
        }
        let keys: Vec<Key> = due.iter().map(|missed| (missed.account, missed.feed)).collect();
        let gathered = gather::build(&self.means.db, &self.filter, &keys).await?;
        let there: HashSet<Key> = gathered.items.keys().copied().collect();
        let broken: HashSet<Key> = gathered.damaged.iter().map(|(key, ..)| *key).collect();
        pass.cleared.extend(keys.iter().filter(|key| !there.contains(key) && !broken.contains(key)));
        pass.missed.extend(gathered.damaged.iter().map(|(key, item, why)| damaged(*key, *item, why, pass.at)));
        let rows: HashMap<Key, &Missed> = due.iter().map(|missed| ((missed.account, missed.feed), missed)).collect();
        let flow = self.send_again(&gathered.events, &rows, pass).await;
        // So that the rows count: they belong to accounts that may have nothing new.
        let named: HashSet<i64> = pass.moves.iter().map(|step| step.owned.account).collect();
        let touched: HashSet<i64> =
            pass.missed.iter().map(|missed| missed.account).chain(pass.cleared.iter().map(|key| key.0)).collect();
        for account in touched.difference(&named) {
            if let Some(owned) = owners.0.get(account) {
                pass.moves.push(Move { owned: *owned, upto: 0, delivered: 0 });
            }
        }
        Ok(flow)
    }

    async fn send_again(&mut self, events: &[Event], rows: &HashMap<Key, &Missed>, pass: &mut Pass) -> Flow {
        let patience = self.settings.give_up_after;
        let events: Arc<[Event]> = events.into();
        let Some(outlet) = self.outlet.as_ref().filter(|_| !events.is_empty()) else { return Flow::On };
        let streak = &mut self.streak;
        let (mut flow, mut delivered) = (Flow::On, HashMap::<i64, u64>::new());
        let (mut missed, mut cleared) = (Vec::new(), Vec::new());
        let at = pass.at;
        let hear = |index: usize, answer: Result<(), SinkError>| {
            let Some(event) = events.get(index) else { return false };
            let key = (event.account_key, event.feed);
            let Some(row) = rows.get(&key) else { return true };
            let waited = row.waited + row.due.since(row.last_try);
            let (ruling, then) = judge::again(streak, key, answer, waited >= patience);
            match ruling {
                Some(Ruling::Delivered) => {
                    cleared.push(key);
                    *delivered.entry(key.0).or_default() += 1;
                }
                Some(ruling) => missed.extend(next_miss(row, waited, &ruling, patience, at)),
                None => {}
            }
            flow = then;
            flow == Flow::On
        };
        outlet.send(events.clone(), &self.means.clock, &self.means.stop, hear).await;
        pass.missed.extend(missed);
        pass.cleared.extend(cleared);
        for (account, delivered) in delivered {
            // The cursor stays where it is: it never moves back.
            let owned = (self.means.mine)().into_iter().find(|owned| owned.account == account);
            pass.moves.extend(owned.map(|owned| Move { owned, upto: 0, delivered }));
        }
        flow
    }

    /// Says in the log what was given up.
    pub(super) fn tell(&self, pass: &Pass) {
        let failed: Vec<&Missed> = pass.missed.iter().filter(|missed| missed.failed).collect();
        if let Some(last) = failed.last() {
            tracing::error!(
                sink = self.settings.name,
                events = failed.len(),
                reason = last.reason,
                "events were given up; `ringcx-extractor deliver status` says why, `deliver retry` sends them again"
            );
        }
        if let Some(last) = pass.missed.iter().rfind(|missed| !missed.failed) {
            tracing::debug!(sink = self.settings.name, reason = last.reason, "events wait for another try");
        }
    }
}

/// Whether the sink took anything.
pub(super) fn has_delivered(pass: &Pass) -> bool {
    pass.moves.iter().any(|step| step.delivered > 0)
}

/// In whose name the cursors of accounts are moved.
struct Owners(HashMap<i64, crate::db::Owned>);

impl Owners {
    fn of(behind: &[Behind]) -> Owners {
        Owners(behind.iter().map(|account| (account.owned.account, account.owned)).collect())
    }

    fn add(&mut self, account: i64, epoch: Option<i64>) {
        if let Some(epoch) = epoch {
            self.0.entry(account).or_insert(crate::db::Owned { account, epoch });
        }
    }
}

/// The row for an event that did not go through at its first try.
pub(super) fn new_miss(key: Key, item: Option<&Item>, ruling: &Ruling, at: Time) -> Option<Missed> {
    let (failed, error) = parts(ruling)?;
    Some(Missed {
        account: key.0,
        feed: key.1,
        item: *item?,
        failed,
        tries: 1,
        waited: Duration::ZERO,
        first_try: at,
        last_try: at,
        due: at + delay(AGAIN, 1).max(error.retry_after.unwrap_or_default()),
        status: error.status,
        reason: error.reason(),
    })
}

/// The row for an event that did not go through again. Its last try is made when its patience is over, whatever the
/// doubling says.
fn next_miss(row: &Missed, waited: Duration, ruling: &Ruling, patience: Duration, at: Time) -> Option<Missed> {
    let (failed, error) = parts(ruling)?;
    let tries = row.tries.saturating_add(1);
    let left = patience.saturating_sub(waited).max(Duration::from_secs(1));
    let delay = delay(AGAIN, tries).min(left).max(error.retry_after.unwrap_or_default());
    Some(Missed {
        failed,
        tries,
        waited,
        last_try: at,
        due: at + delay,
        status: error.status,
        reason: error.reason(),
        ..row.clone()
    })
}

fn parts(ruling: &Ruling) -> Option<(bool, &SinkError)> {
    match ruling {
        Ruling::Delivered => None,
        Ruling::SetAside(error) => Some((false, error)),
        Ruling::Failed(error) => Some((true, error)),
    }
}

fn damaged(key: Key, item: Item, why: &str, at: Time) -> Missed {
    Missed {
        account: key.0,
        feed: key.1,
        item,
        failed: true,
        tries: 1,
        waited: Duration::ZERO,
        first_try: at,
        last_try: at,
        due: at,
        status: None,
        reason: why.to_owned(),
    }
}
