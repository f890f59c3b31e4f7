//! The accounts and segments of the simulated tenant, as a function of the seed. It stores only
//! what a test has added.
//!
//! Time is divided into minutes. A minute of an account holds a number of segments, and each of
//! them is generated from its position. The id encodes the position, so segments are found without
//! an index, and a long history needs no memory.

use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::options::{Availability, Traffic, WindowEdges};
use super::rng::{Rng, hash_text};
use super::script::{Burst, SegmentScript};
use super::tenant_segment::{SegmentTiming, TenantSegment};
use crate::clock::{Time, millis};
use crate::model::AccountId;

/// One sub-account.
#[derive(Debug)]
pub(super) struct SimulatedAccount {
    pub(super) id: AccountId,
    pub(super) number: u32,
    pub(super) seed: u64,
    per_minute: f64,
}

/// The position of a segment, which identifies it in the request log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SegmentPosition {
    pub(super) account: u32,
    /// 0 for the steady traffic, then the bursts; [`SCRIPTED_SOURCE`] for scripted segments.
    pub(super) source: u32,
    /// The minute since 1970 for the steady traffic; 0 for the other sources.
    pub(super) cell: i64,
    pub(super) index: u32,
}

/// The source of scripted segments.
pub(super) const SCRIPTED_SOURCE: u32 = u32::MAX;

const MINUTE_MS: i64 = 60_000;

/// A time range with a number of segments.
struct TimeCell {
    from: Time,
    width_ms: u64,
    count: u32,
}

/// All accounts and segments.
pub(super) struct SimulatedTenant {
    pub(super) seed: u64,
    pub(super) traffic: Traffic,
    pub(super) availability: Availability,
    /// When the simulator began.
    begin: Time,
    accounts: RwLock<AccountTable>,
    bursts: RwLock<Vec<(u32, Burst)>>,
    scripts: RwLock<ScriptTable>,
}

#[derive(Default)]
struct AccountTable {
    all: Vec<Arc<SimulatedAccount>>,
    by_sub: HashMap<Arc<str>, Arc<SimulatedAccount>>,
}

#[derive(Default)]
struct ScriptTable {
    all: Vec<Arc<TenantSegment>>,
    by_id: HashMap<(u32, String), usize>,
}

impl SimulatedTenant {
    pub(super) fn new(seed: u64, traffic: Traffic, availability: Availability, begin: Time) -> SimulatedTenant {
        SimulatedTenant {
            seed,
            traffic,
            availability,
            begin,
            accounts: RwLock::default(),
            bursts: RwLock::default(),
            scripts: RwLock::default(),
        }
    }

    /// Adds a sub-account; an existing one is not changed.
    pub(super) fn add_account(&self, id: &AccountId) -> Arc<SimulatedAccount> {
        let mut accounts = self.accounts.write();
        if let Some(known) = accounts.by_sub.get(&id.sub) {
            return Arc::clone(known);
        }
        let own = self.traffic.per_minute_of.iter().find(|(of, _)| of == id);
        let account = Arc::new(SimulatedAccount {
            number: accounts.all.len() as u32,
            seed: Rng::new(self.seed, &[hash_text(&id.rc), hash_text(&id.sub)]).next_u64(),
            per_minute: own.map_or(self.traffic.per_minute, |(_, rate)| *rate),
            id: id.clone(),
        });
        accounts.all.push(Arc::clone(&account));
        accounts.by_sub.insert(Arc::clone(&id.sub), Arc::clone(&account));
        account
    }

    /// All sub-accounts, in the order of their numbers.
    pub(super) fn accounts(&self) -> Vec<Arc<SimulatedAccount>> {
        self.accounts.read().all.clone()
    }

    pub(super) fn account(&self, sub: &str) -> Option<Arc<SimulatedAccount>> {
        self.accounts.read().by_sub.get(sub).map(Arc::clone)
    }

    /// Adds a scripted segment, and returns its id.
    pub(super) fn add_script(&self, script: SegmentScript) -> String {
        let account = self.add_account(&script.account);
        let mut scripts = self.scripts.write();
        let index = scripts.all.len();
        let position =
            SegmentPosition { account: account.number, source: SCRIPTED_SOURCE, cell: 0, index: index as u32 };
        let segment = Arc::new(script.into_segment(self, &account, position));
        let id = segment.segment_id.clone();
        scripts.by_id.insert((account.number, id.clone()), index);
        scripts.all.push(segment);
        id
    }

    /// Adds many segments in a short time.
    pub(super) fn add_burst(&self, account: &AccountId, burst: Burst) {
        let account = self.add_account(account);
        self.bursts.write().push((account.number, burst));
    }

    /// The positions of the segments that end in the window from `from` to `to`, with `edges`, and
    /// have appeared by `now`.
    pub(super) fn find_segments(
        &self,
        account: &SimulatedAccount,
        from: Time,
        to: Time,
        edges: WindowEdges,
        now: Time,
    ) -> Vec<(Time, SegmentPosition)> {
        let mut found = Vec::new();
        let mut search_cell = |source: u32, cell_number: i64, cell: &TimeCell| {
            for index in 0..cell.count {
                let position = SegmentPosition { account: account.number, source, cell: cell_number, index };
                let timing = self.draw_timing(account, position, cell);
                if edges.contains(timing.end, from, to) && timing.appears_at <= now && self.exists(position, timing.end)
                {
                    found.push((timing.end, position));
                }
            }
        };
        let first = from.max(self.history_begin()).0.div_euclid(MINUTE_MS);
        let last = to.min(self.traffic_end().min(now)).0.div_euclid(MINUTE_MS);
        for minute in first..=last {
            search_cell(0, minute, &self.minute_cell(account, minute));
        }
        let bursts = self.bursts.read();
        for (number, (_, burst)) in bursts.iter().enumerate().filter(|(_, (owner, _))| *owner == account.number) {
            if burst.from <= to && from <= burst.from + burst.width {
                search_cell(number as u32 + 1, 0, &burst_cell(burst));
            }
        }
        let scripts = self.scripts.read();
        let written = scripts.all.iter().filter(|segment| segment.position.account == account.number);
        found.extend(
            written
                .filter(|segment| edges.contains(segment.indexed_end, from, to) && segment.appears_at <= now)
                .map(|segment| (segment.indexed_end, segment.position)),
        );
        found
    }

    /// The segment at a position.
    pub(super) fn segment(&self, position: SegmentPosition) -> Option<Arc<TenantSegment>> {
        if position.source == SCRIPTED_SOURCE {
            let scripts = self.scripts.read();
            return scripts.all.get(position.index as usize).map(Arc::clone);
        }
        let account = self.accounts.read().all.get(position.account as usize).map(Arc::clone)?;
        let cell = self.cell_at(&account, position)?;
        if position.index >= cell.count {
            return None;
        }
        let timing = self.draw_timing(&account, position, &cell);
        self.exists(position, timing.end).then(|| Arc::new(TenantSegment::generate(self, &account, position, timing)))
    }

    /// The segment with this id.
    pub(super) fn segment_by_id(&self, account: &SimulatedAccount, id: &str) -> Option<Arc<TenantSegment>> {
        {
            let scripts = self.scripts.read();
            // Most simulators have none; this avoids the allocation.
            if !scripts.all.is_empty()
                && let Some(index) = scripts.by_id.get(&(account.number, id.to_owned()))
            {
                return scripts.all.get(*index).map(Arc::clone);
            }
        }
        let position = TenantSegment::parse_position(id, account.number)?;
        self.segment(position).filter(|segment| segment.segment_id == id)
    }

    fn history_begin(&self) -> Time {
        self.begin - self.traffic.history
    }

    fn traffic_end(&self) -> Time {
        self.traffic.until.map_or(Time(i64::MAX), |until| self.begin + until)
    }

    /// Whether a segment of the steady traffic that ends at `end` exists.
    fn exists(&self, position: SegmentPosition, end: Time) -> bool {
        position.source != 0 || (self.history_begin() <= end && end <= self.traffic_end())
    }

    fn cell_at(&self, account: &SimulatedAccount, position: SegmentPosition) -> Option<TimeCell> {
        if position.source == 0 {
            return Some(self.minute_cell(account, position.cell));
        }
        let bursts = self.bursts.read();
        let (owner, burst) = bursts.get(position.source as usize - 1)?;
        (*owner == account.number).then(|| burst_cell(burst))
    }

    fn minute_cell(&self, account: &SimulatedAccount, number: i64) -> TimeCell {
        let chance = Rng::new(account.seed, &[1, number as u64]).next_f64();
        TimeCell {
            from: Time(number * MINUTE_MS),
            width_ms: MINUTE_MS as u64,
            count: (account.per_minute + chance).floor().max(0.0) as u32,
        }
    }

    /// The first draws of a segment, which suffice to find it in a window.
    fn draw_timing(&self, account: &SimulatedAccount, position: SegmentPosition, cell: &TimeCell) -> SegmentTiming {
        let mut rng =
            Rng::new(account.seed, &[2, u64::from(position.source), position.cell as u64, u64::from(position.index)]);
        let mut end = cell.from.plus_millis(rng.random_below(cell.width_ms) as i64);
        if rng.random_bool(self.traffic.whole_seconds) {
            end = end.floor_to_second().max(cell.from);
        }
        let late = rng.random_bool(self.availability.late.share);
        let delay = rng.random_duration(self.availability.late.delay);
        let appears_at = end + self.availability.appear_after + if late { delay } else { Duration::ZERO };
        SegmentTiming { rng, end, appears_at }
    }
}

fn burst_cell(burst: &Burst) -> TimeCell {
    TimeCell { from: burst.from, width_ms: millis(burst.width).max(1) as u64, count: burst.count }
}
