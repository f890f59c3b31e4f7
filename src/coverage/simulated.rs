//! An account's world in which the planner is driven by a simulated clock, and which checks all that it does.
//!
//! Beside the coverage under test runs a model that is too simple to be wrong: for every second of the time line, when
//! a read that vouches for it was last sent.

use std::collections::BTreeMap;

use super::budget::sustainable;
use super::*;

const START: i64 = 1_700_000_000;
/// Reads after which a history should long have settled; reached only if something goes round in circles.
const TOO_MANY: usize = 20_000;

pub(super) fn secs(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap())
}

pub(super) fn at(secs: i64) -> Time {
    Time::from_secs(START + secs)
}

/// What happens to the daemon in the course of a history.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Nothing is planned for so many seconds; then it starts with nothing but its coverage and its log.
    Down(i64),
    /// A person asks for a stretch.
    Backfill { from: i64, width: i64, newest_first: bool },
    /// Records were set aside: the stretch is to be read again.
    Repair { ago: i64, width: i64, after: i64 },
}

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Luck {
    Answered,
    Refused,
    BrokenOff,
}

#[derive(Debug, Clone)]
pub(super) struct History {
    pub rules: Rules,
    pub start: i64,
    pub delays: Vec<i64>,
    /// At which second each event happens.
    pub events: BTreeMap<i64, Event>,
    /// What happens to one request after another, over and over while there are events to come.
    pub luck: Vec<Luck>,
    /// How long a request takes, in milliseconds.
    pub takes: i64,
}

pub(super) struct World<'a> {
    pub history: &'a History,
    pub now: Time,
    pub coverage: Coverage,
    pub log: Vec<Time>,
    pub cooling: Vec<Cooling>,
    pub repairs: Vec<Repair>,
    pub turn: u64,
    pub reads: Vec<(Time, Want)>,
    /// Since when it has been running without a pause.
    pub up_since: Time,
    /// Second of the time line, and when it was last read.
    pub last_read: BTreeMap<i64, Time>,
    /// Every backfill ever asked for, with when.
    pub asked: Vec<(Backfill, Time)>,
}

impl History {
    /// The log holds when a request was certainly counted: when the first of its answer came.
    pub(super) fn counted_after(&self) -> Duration {
        Duration::from_millis(self.takes.clamp(0, 900).unsigned_abs())
    }
}

impl World<'_> {
    pub(super) fn new(history: &History) -> World<'_> {
        let now = at(0);
        let mut coverage = Coverage::new(history.rules.first_start(now).plus_millis(-history.start * 1000));
        for delay in &history.delays {
            let level = Recheck { base: coverage.live_start, done: Stretches::default() };
            coverage.rechecks.push((secs(*delay), level));
        }
        World {
            history,
            now,
            coverage,
            log: Vec::new(),
            cooling: Vec::new(),
            repairs: Vec::new(),
            turn: 0,
            reads: Vec::new(),
            up_since: now,
            last_read: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        let rules = &self.history.rules;
        plan(self.now, rules, &self.coverage, &self.log, &self.cooling, &self.repairs, self.turn)
    }

    /// Reads and waits until the next event, or until there is nothing but live reads to come.
    pub(super) fn run(&mut self, until: Option<Time>) {
        while until.is_none_or(|until| self.now < until) && (until.is_some() || !self.settled()) {
            assert!(self.reads.len() < TOO_MANY, "does not settle: {:?}", &self.reads[TOO_MANY - 20..]);
            match self.plan() {
                Plan::Read(want) => self.read(want),
                Plan::Wait { until: due } => {
                    assert!(due > self.now, "waits into the past");
                    self.now = until.map_or(due, |until| until.min(due));
                }
            }
        }
    }

    fn settled(&self) -> bool {
        let ground = super::wanted::Ground::new(self.now, &self.history.rules, &self.coverage, &self.cooling);
        self.coverage.live_edge().is_some()
            && ground.live(sustainable(&self.history.rules)).0.is_none()
            && ground.thaw().is_none()
            && ground.rechecks(&self.repairs).read.is_none()
            && self.repairs.is_empty()
            && ground.past().read.is_none()
            && self.coverage.backfills.is_empty()
    }

    fn read(&mut self, want: Want) {
        self.check_legal(want);
        self.check_punctual(want);
        self.log.retain(|sent| self.now.since(*sent) < secs(3600));
        self.log.push(self.now + self.history.counted_after());
        self.reads.push((self.now, want));
        self.turn += u64::from(want.lane != Lane::Live);
        let sent = self.now;
        self.now = self.now.plus_millis(self.history.takes);
        let luck = if self.now < self.last_event() {
            self.history.luck[self.reads.len() % self.history.luck.len()]
        } else {
            Luck::Answered
        };
        let widest = i64::from(want.window.seconds);
        match luck {
            Luck::Answered => self.answered(want.stretch, sent),
            Luck::Refused => self.cool(want.stretch, 15, widest),
            Luck::BrokenOff => self.cool(want.stretch, 5, widest / 2),
        }
    }

    fn last_event(&self) -> Time {
        self.history.events.last_key_value().map_or(at(0), |(second, _)| at(*second))
    }

    fn cool(&mut self, stretch: Stretch, pause: i64, max_width: i64) {
        self.cooling.push(Cooling { stretch, until: self.now + secs(pause), max_width: secs(max_width) });
    }

    fn answered(&mut self, stretch: Stretch, sent: Time) {
        let before = self.coverage.clone();
        let gained = self.coverage.record(stretch, sent);
        let mut restored = before;
        gained.into_iter().for_each(|(pass, stretch)| restored.restore(pass, stretch));
        assert_eq!(restored, self.coverage, "what is gained is what is to be stored");
        for second in stretch.from.floor_secs()..stretch.to.floor_secs() {
            self.last_read.insert(second, sent);
        }
        self.cooling.retain(|cooling| cooling.stretch.intersect(stretch).is_none());
        self.repairs = self.repairs.iter().flat_map(|repair| left_of(*repair, stretch, sent)).collect();
        let finished = self.coverage.finished();
        self.coverage.backfills.retain(|backfill| !finished.contains(&backfill.id));
    }

    pub(super) fn check_legal(&self, want: Want) {
        let rules = &self.history.rules;
        let widest = seconds(rules.max_window).clamp(2, WIDEST);
        assert!(want.window.end() <= self.now - rules.offset, "ends after the horizon: {want:?} at {}", self.now);
        assert!((2..=widest).contains(&i64::from(want.window.seconds)), "width: {want:?}");
        assert_eq!(Some(want.stretch), want.window.vouches_for());
        for (most, width) in rules.sliding.rules() {
            let crowd = self.log.iter().filter(|sent| **sent + *width > self.now).count();
            assert!(crowd < usize::try_from(*most).unwrap(), "limit {most} in {width:?} broken at {}", self.now);
        }
        for cooling in &self.cooling {
            if cooling.stretch.intersect(want.stretch).is_some() {
                assert!(cooling.until <= self.now, "asked again too early: {want:?}");
                assert!(
                    i64::from(want.window.seconds) <= seconds(cooling.max_width).max(2),
                    "too wide again: {want:?}"
                );
            }
        }
    }

    /// Where the limits have room for live reads and others, a live read is made in the second in which it is due.
    fn check_punctual(&self, want: Want) {
        let rules = &self.history.rules;
        let roomy = sustainable(rules) == rules.slide();
        let unlucky = self.history.luck.iter().any(|luck| !matches!(luck, Luck::Answered));
        if want.lane != Lane::Live || !roomy || unlucky || self.history.takes > 900 {
            return;
        }
        let edge = self.coverage.live_edge();
        let due = edge.map_or(self.up_since, |edge| edge + secs(rules.slide()) + rules.offset).max(self.up_since);
        // An answer that is slow to come holds the next read up, and counts that much later.
        let late = secs(1) + 2 * self.history.counted_after();
        assert!(self.now >= due && self.now.since(due) < late, "a live read is late: {want:?} at {}", self.now);
    }

    pub(super) fn happen(&mut self, event: &Event) {
        match event {
            Event::Down(width) => {
                self.now = self.now + secs(*width);
                self.up_since = self.now;
                self.cooling.clear();
            }
            Event::Backfill { from, width, newest_first } => {
                // Half seconds: a person's range need not be whole.
                let from = at(*from).plus_millis(500);
                let range = Stretch { from, to: from + secs(*width) };
                let id = i64::try_from(self.asked.len()).unwrap();
                let backfill = Backfill { id, range, newest_first: *newest_first, done: Stretches::default() };
                self.asked.push((backfill.clone(), self.now));
                self.coverage.backfills.push(backfill);
            }
            Event::Repair { ago, width, after } => {
                let from = self.now.floor_to_second() - secs(*ago);
                let stretch = Stretch { from, to: from + secs(*width) };
                self.repairs.push(Repair { stretch, due: self.now + secs(*after) });
            }
        }
    }

    pub(super) fn check_coverage(&self) {
        let cells = |set: &Stretches| -> Vec<i64> {
            let stretches = set.as_slice().iter();
            stretches.flat_map(|one| one.from.floor_secs()..one.to.floor_secs()).collect()
        };
        let model = |late_enough: &dyn Fn(i64, Time) -> bool| -> Vec<i64> {
            self.last_read
                .iter()
                .filter(|(second, sent)| late_enough(**second, **sent))
                .map(|(second, _)| *second)
                .collect()
        };
        assert_eq!(cells(&self.coverage.live), model(&|_, _| true));
        for (delay, recheck) in &self.coverage.rechecks {
            let owed = |second: i64, sent: Time| Time::from_secs(second + 1) + *delay <= sent;
            assert_eq!(cells(&recheck.done), model(&owed), "recheck {delay:?}");
        }
    }

    /// After a history that has settled: nothing is missing, by the model alone.
    pub(super) fn check_complete(&self) {
        let rules = &self.history.rules;
        let edge = self.coverage.live_edge().unwrap();
        assert!(self.now.since(edge) <= rules.offset + secs(sustainable(rules) + 2), "live is far behind");
        for second in self.coverage.live_start.floor_secs()..edge.floor_secs() {
            assert!(self.last_read.contains_key(&second), "never read: {second}");
        }
        for delay in &self.history.delays {
            let width = rules.recheck_width(secs(*delay)) + 2 * sustainable(rules) + 2;
            let owed = self.now - secs(*delay) - rules.offset - secs(width);
            for second in self.coverage.live_start.floor_secs()..owed.floor_secs() {
                let late_enough = self.last_read[&second] >= Time::from_secs(second + 1) + secs(*delay);
                assert!(late_enough, "not read again {delay} s later: {second}");
            }
        }
        for (backfill, when) in &self.asked {
            for second in backfill.range.from.floor_secs()..backfill.range.to.floor_secs() {
                assert!(self.last_read[&second] >= *when, "not read for backfill {}: {second}", backfill.id);
            }
        }
        assert_eq!(self.coverage.gaps(edge), Stretches::default());
        assert_eq!(self.coverage.watermark(), Some(edge));
    }
}

/// What a read leaves of a repair.
fn left_of(repair: Repair, read: Stretch, sent: Time) -> Vec<Repair> {
    let read = if sent < repair.due { Stretches::default() } else { only(read) };
    only(repair.stretch).minus(&read).as_slice().iter().map(|stretch| Repair { stretch: *stretch, ..repair }).collect()
}
