//! The segments that there are, as a function of the seed: nothing is kept but what a test added.
//!
//! Time is cut into minutes, a minute of an account holds so many segments, and each of them follows from its place.
//! The place stands in the id, so that a segment is found again without an index, and thirty days of history
//! take no memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use super::chance::{Dice, hash};
use super::options::{Availability, Edges, Traffic};
use super::script::{Burst, SegmentScript};
use super::segment::{Segment, Timing};
use crate::clock::{Time, millis};
use crate::model::AccountId;

/// One sub-account.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) id: AccountId,
    pub(super) number: u32,
    pub(super) seed: u64,
    per_minute: f64,
}

/// Where a segment has its place; stands for it wherever something is remembered of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) account: u32,
    /// 0 is the steady traffic, then the bursts; [`SCRIPTED`] is what was written out.
    pub(super) source: u32,
    /// The minute, since 1970; 0 for all but the steady traffic.
    pub(super) cell: i64,
    pub(super) place: u32,
}

/// The source of segments that were written out.
pub(super) const SCRIPTED: u32 = u32::MAX;

const MINUTE_MS: i64 = 60_000;

/// A stretch of time with so many segments in it.
struct Cell {
    from: Time,
    width_ms: u64,
    count: u32,
}

/// All there is to see, whoever looks.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) traffic: Traffic,
    pub(super) availability: Availability,
    /// When the simulator began.
    begin: Time,
    accounts: RwLock<Accounts>,
    bursts: RwLock<Vec<(u32, Burst)>>,
    scripts: RwLock<Scripts>,
}

#[derive(Default)]
struct Accounts {
    all: Vec<Arc<Account>>,
    by_sub: HashMap<Arc<str>, Arc<Account>>,
}

#[derive(Default)]
struct Scripts {
    all: Vec<Arc<Segment>>,
    by_id: HashMap<(u32, String), usize>,
}

impl World {
    pub(super) fn new(seed: u64, traffic: Traffic, availability: Availability, begin: Time) -> World {
        World {
            seed,
            traffic,
            availability,
            begin,
            accounts: RwLock::default(),
            bursts: RwLock::default(),
            scripts: RwLock::default(),
        }
    }

    /// Adds a sub-account; one that is there already stays as it is.
    pub(super) fn add_account(&self, id: &AccountId) -> Arc<Account> {
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = accounts.by_sub.get(&id.sub) {
            return Arc::clone(known);
        }
        let own = self.traffic.per_minute_of.iter().find(|(of, _)| of == id);
        let account = Arc::new(Account {
            number: accounts.all.len() as u32,
            seed: Dice::new(self.seed, &[hash(&id.rc), hash(&id.sub)]).next(),
            per_minute: own.map_or(self.traffic.per_minute, |(_, rate)| *rate),
            id: id.clone(),
        });
        accounts.all.push(Arc::clone(&account));
        accounts.by_sub.insert(Arc::clone(&id.sub), Arc::clone(&account));
        account
    }

    fn lock_accounts(&self) -> RwLockReadGuard<'_, Accounts> {
        self.accounts.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All sub-accounts, in the order of their numbers.
    pub(super) fn accounts(&self) -> Vec<Arc<Account>> {
        self.lock_accounts().all.clone()
    }

    pub(super) fn account(&self, sub: &str) -> Option<Arc<Account>> {
        self.lock_accounts().by_sub.get(sub).map(Arc::clone)
    }

    /// Adds a segment as written, and says under which id.
    pub(super) fn add_script(&self, script: SegmentScript) -> String {
        let account = self.add_account(&script.account);
        let mut scripts = self.scripts.write().unwrap_or_else(PoisonError::into_inner);
        let place = scripts.all.len();
        let key = Key { account: account.number, source: SCRIPTED, cell: 0, place: place as u32 };
        let segment = Arc::new(script.into_segment(self, &account, key));
        let id = segment.segment_id.clone();
        scripts.by_id.insert((account.number, id.clone()), place);
        scripts.all.push(segment);
        id
    }

    /// Adds many segments in a short time.
    pub(super) fn add_burst(&self, account: &AccountId, burst: Burst) {
        let account = self.add_account(account);
        self.bursts.write().unwrap_or_else(PoisonError::into_inner).push((account.number, burst));
    }

    /// The places of segments that end from `from` to `to`, as `edges` reads them, and have appeared by `now`.
    pub(super) fn find(&self, account: &Account, from: Time, to: Time, edges: Edges, now: Time) -> Vec<(Time, Key)> {
        let mut found = Vec::new();
        let mut search = |source: u32, cell_number: i64, cell: &Cell| {
            for place in 0..cell.count {
                let key = Key { account: account.number, source, cell: cell_number, place };
                let timing = self.timing(account, key, cell);
                if edges.found(timing.end, from, to) && timing.appears <= now && self.exists(key, timing.end) {
                    found.push((timing.end, key));
                }
            }
        };
        let first = from.max(self.history_begin()).0.div_euclid(MINUTE_MS);
        let last = to.min(self.traffic_end().min(now)).0.div_euclid(MINUTE_MS);
        for minute in first..=last {
            search(0, minute, &self.minute(account, minute));
        }
        let bursts = self.bursts.read().unwrap_or_else(PoisonError::into_inner);
        for (number, (_, burst)) in bursts.iter().enumerate().filter(|(_, (owner, _))| *owner == account.number) {
            if burst.from <= to && from <= burst.from + burst.width {
                search(number as u32 + 1, 0, &burst_cell(burst));
            }
        }
        let scripts = self.scripts.read().unwrap_or_else(PoisonError::into_inner);
        let written = scripts.all.iter().filter(|segment| segment.key.account == account.number);
        found.extend(
            written
                .filter(|segment| edges.found(segment.placed, from, to) && segment.appears <= now)
                .map(|segment| (segment.placed, segment.key)),
        );
        found
    }

    /// The segment of a place.
    pub(super) fn segment(&self, key: Key) -> Option<Arc<Segment>> {
        if key.source == SCRIPTED {
            let scripts = self.scripts.read().unwrap_or_else(PoisonError::into_inner);
            return scripts.all.get(key.place as usize).map(Arc::clone);
        }
        let account = self.lock_accounts().all.get(key.account as usize).map(Arc::clone)?;
        let cell = self.cell(&account, key)?;
        if key.place >= cell.count {
            return None;
        }
        let timing = self.timing(&account, key, &cell);
        self.exists(key, timing.end).then(|| Arc::new(Segment::generate(self, &account, key, timing)))
    }

    /// The segment with this id.
    pub(super) fn by_id(&self, account: &Account, id: &str) -> Option<Arc<Segment>> {
        {
            let scripts = self.scripts.read().unwrap_or_else(PoisonError::into_inner);
            // Most simulators have none, and are in a hurry.
            if !scripts.all.is_empty()
                && let Some(place) = scripts.by_id.get(&(account.number, id.to_owned()))
            {
                return scripts.all.get(*place).map(Arc::clone);
            }
        }
        let key = Segment::key_in(id, account.number)?;
        self.segment(key).filter(|segment| segment.segment_id == id)
    }

    fn history_begin(&self) -> Time {
        self.begin - self.traffic.history
    }

    fn traffic_end(&self) -> Time {
        self.traffic.until.map_or(Time(i64::MAX), |until| self.begin + until)
    }

    /// Whether steady traffic has begun, and not ended, at `end`.
    fn exists(&self, key: Key, end: Time) -> bool {
        key.source != 0 || (self.history_begin() <= end && end <= self.traffic_end())
    }

    fn cell(&self, account: &Account, key: Key) -> Option<Cell> {
        if key.source == 0 {
            return Some(self.minute(account, key.cell));
        }
        let bursts = self.bursts.read().unwrap_or_else(PoisonError::into_inner);
        let (owner, burst) = bursts.get(key.source as usize - 1)?;
        (*owner == account.number).then(|| burst_cell(burst))
    }

    fn minute(&self, account: &Account, number: i64) -> Cell {
        let chance = Dice::new(account.seed, &[1, number as u64]).unit();
        Cell {
            from: Time(number * MINUTE_MS),
            width_ms: MINUTE_MS as u64,
            count: (account.per_minute + chance).floor().max(0.0) as u32,
        }
    }

    /// The first draws of a segment, all that a search needs.
    fn timing(&self, account: &Account, key: Key, cell: &Cell) -> Timing {
        let mut dice = Dice::new(account.seed, &[2, u64::from(key.source), key.cell as u64, u64::from(key.place)]);
        let mut end = cell.from.plus_millis(dice.below(cell.width_ms) as i64);
        if dice.hit(self.traffic.whole_seconds) {
            end = end.floor_to_second().max(cell.from);
        }
        let late = dice.hit(self.availability.late.share);
        let delay = dice.span(self.availability.late.delay);
        let appears = end + self.availability.appear_after + if late { delay } else { Duration::ZERO };
        Timing { dice, end, appears }
    }
}

fn burst_cell(burst: &Burst) -> Cell {
    Cell { from: burst.from, width_ms: millis(burst.width).max(1) as u64, count: burst.count }
}
