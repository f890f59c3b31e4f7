//! What is wanted, lane by lane, whatever the budget says about it.
//!
//! Pure. Every window that comes out of here is of whole seconds, ends at the horizon at the latest, and is no wider
//! than the settings, the API and what failed lately allow.

use std::cmp::Reverse;
use std::time::Duration;

use super::cooling::bearable;
use super::{Cooling, Coverage, NARROWEST, Pass, Repair, Rules, Want, only, seconds};
use crate::clock::{Time, millis};
use crate::model::{Lane, Stretch, Stretches, Window};

/// What a lane has to offer.
#[derive(Debug, Default)]
pub(super) struct Offer {
    /// To be read now.
    pub read: Option<Want>,
    /// When something else becomes due; later than now.
    pub later: Option<Time>,
}

impl Offer {
    fn at(&mut self, due: Time) {
        self.later = Some(self.later.map_or(due, |later| later.min(due)));
    }
}

/// A set of pieces of the past that are read for the same reason.
struct Seam {
    why: Pass,
    pieces: Vec<Stretch>,
    newest_first: bool,
}

/// The facts that lanes look at.
pub(super) struct Ground<'a> {
    now: Time,
    horizon: Time,
    rules: &'a Rules,
    coverage: &'a Coverage,
    cooling: &'a [Cooling],
    /// Not to be touched yet.
    cold: Stretches,
}

impl<'a> Ground<'a> {
    pub(super) fn new(now: Time, rules: &'a Rules, coverage: &'a Coverage, cooling: &'a [Cooling]) -> Ground<'a> {
        let cold = cooling.iter().filter(|cooling| cooling.until > now).map(|cooling| cooling.stretch).collect();
        let cold = Stretches::from_unsorted(cold);
        Ground { now, horizon: rules.horizon(now), rules, coverage, cooling, cold }
    }

    /// When the first stretch that failed may be asked for again.
    pub(super) fn thaw(&self) -> Option<Time> {
        self.cooling.iter().map(|cooling| cooling.until).filter(|until| *until > self.now).min()
    }

    /// The live read, if it is due, and when it is due next if it is not.
    ///
    /// What failed and is cooling counts as tried: after another `pace` the stretch that follows it is read alone, so
    /// that one bad stretch does not hold up what is new.
    pub(super) fn live(&self, pace: i64) -> (Option<Want>, Time) {
        let edge = self.coverage.live_edge();
        let begin = edge.unwrap_or(self.coverage.live_start);
        let step = if edge.is_some() { pace } else { 1 };
        let due = begin.plus_millis(step.saturating_mul(1000)) + self.rules.offset;
        let tried = || self.cooling.iter().filter(|tried| tried.until > self.now && tried.stretch.to > begin);
        let due = match (tried().map(|tried| tried.until).min(), tried().map(|tried| tried.stretch.to).max()) {
            (Some(thaw), Some(to)) => due.max(thaw).min(to.plus_millis(pace.saturating_mul(1000)) + self.rules.offset),
            _ => due,
        };
        if self.now < due {
            return (None, due);
        }
        let behind = self.horizon.floor_secs().saturating_sub(begin.floor_secs());
        let vouched = if edge.is_some() { behind.max(seconds(self.rules.window) - 1) } else { behind };
        let vouched = vouched.clamp(NARROWEST - 1, self.rules.widest() - 1);
        let from = self.horizon.plus_millis(-vouched * 1000);
        let piece = Stretch { from, to: self.horizon };
        let piece = only(piece).minus(&self.cold).as_slice().last().copied().unwrap_or(piece);
        (Some(self.want(Lane::Live, Pass::Live, self.newest(piece, vouched))), due)
    }

    /// What was read too early to be sure of, and what held records set aside; the oldest first, and of two delays
    /// the longer, for a read late enough for it is late enough for the other.
    pub(super) fn rechecks(&self, repairs: &[Repair]) -> Offer {
        let mut offer = Offer::default();
        let mut due = Vec::new();
        for (delay, recheck) in &self.coverage.rechecks {
            match self.ripe(*delay, recheck) {
                Some(Ok(stretch)) => due.push((stretch, Reverse(*delay), Pass::Recheck(*delay))),
                Some(Err(later)) => offer.at(later),
                None => {}
            }
        }
        for repair in repairs {
            let whole = whole(repair.stretch);
            let from = repair.due.max(whole.to + self.rules.offset);
            if from > self.now {
                offer.at(from);
            } else if let Some(piece) = only(whole).minus(&self.cold).as_slice().first() {
                let stretch = self.oldest(*piece, self.rules.widest() - 1);
                due.push((stretch, Reverse(Duration::ZERO), Pass::Live));
            }
        }
        let first = due.into_iter().min_by_key(|(stretch, delay, _)| (stretch.from, *delay));
        offer.read = first.map(|(stretch, _, why)| self.want(Lane::Recheck, why, stretch));
        offer
    }

    /// The oldest stretch that a level is owed, once it is as wide as one read or can grow no wider; before that,
    /// when it will be.
    fn ripe(&self, delay: Duration, recheck: &super::Recheck) -> Option<Result<Stretch, Time>> {
        let lag = delay.max(self.rules.offset);
        let width = self.rules.recheck_width(delay);
        let after = Stretch::new(recheck.base.floor_to_second(), Time(i64::MAX))?;
        let owed = self.coverage.live.within(after).minus(&recheck.done).minus(&self.cold);
        let first = owed.as_slice().first()?;
        let full = first.from.plus_millis(width * 1000);
        // At the live edge a stretch grows by the next live read: by then a full one is owed.
        let grows = self.coverage.live_edge() == Some(first.to);
        let ripe = if grows { full } else { full.min(first.to) };
        if self.now < ripe + lag {
            return Some(Err(ripe + lag));
        }
        Some(Ok(self.oldest(Stretch { from: first.from, to: first.to.min(full) }, width)))
    }

    /// Gaps, then backfills; before either, what the vendor is about to delete.
    ///
    /// Only below the live edge: above it live reads come by in time, and they count for backfills too.
    pub(super) fn past(&self) -> Offer {
        let mut offer = Offer::default();
        let mut seams = self.seams();
        for seam in &mut seams {
            seam.pieces = seam.pieces.iter().filter_map(|piece| self.readable(*piece, &mut offer)).collect();
        }
        offer.read = self.vanishing(&seams).or_else(|| seams.iter().find_map(|seam| self.next_of(seam)));
        offer
    }

    fn seams(&self) -> Vec<Seam> {
        let edge = self.coverage.live_edge().unwrap_or(self.coverage.live_start);
        let pieces = |set: Stretches| set.minus(&self.cold).as_slice().iter().copied().map(whole).collect();
        let gaps = Seam { why: Pass::Live, pieces: pieces(self.coverage.gaps(edge)), newest_first: true };
        let below = Stretch { from: Time(i64::MIN), to: edge };
        let backfills = self.coverage.backfills.iter().map(|backfill| Seam {
            why: Pass::Backfill(backfill.id),
            pieces: pieces(backfill.remaining().within(below)),
            newest_first: backfill.newest_first,
        });
        std::iter::once(gaps).chain(backfills).collect()
    }

    /// The part of a piece below the horizon. Where the clock was stepped back a piece may reach above it: then only if
    /// the part is as wide as a read, lest it be read second by second.
    fn readable(&self, piece: Stretch, offer: &mut Offer) -> Option<Stretch> {
        let full = piece.from.plus_millis((self.rules.widest() - 1) * 1000).min(piece.to);
        if full > self.horizon {
            offer.at(full + self.rules.offset);
            return None;
        }
        Stretch::new(piece.from, piece.to.min(self.horizon))
    }

    /// The oldest of what lies within the last tenth of its time before the vendor deletes it.
    fn vanishing(&self, seams: &[Seam]) -> Option<Want> {
        let retention = self.rules.retention?;
        let from = (self.now - retention).floor_to_second();
        let last_tenth = Stretch::new(from, from.plus_millis(millis(retention) / 10))?;
        let pieces = seams.iter().flat_map(|seam| seam.pieces.iter().map(|piece| (seam.why, *piece)));
        let (why, piece) = pieces
            .filter(|(_, piece)| piece.intersect(last_tenth).is_some())
            .map(|(why, piece)| (why, Stretch { from: piece.from.max(from), to: piece.to }))
            .min_by_key(|(_, piece)| piece.from)?;
        Some(self.want(Lane::Backfill, why, self.oldest(piece, self.rules.widest() - 1)))
    }

    fn next_of(&self, seam: &Seam) -> Option<Want> {
        let width = self.rules.widest() - 1;
        let stretch = if seam.newest_first {
            self.newest(*seam.pieces.last()?, width)
        } else {
            self.oldest(*seam.pieces.first()?, width)
        };
        Some(self.want(Lane::Backfill, seam.why, stretch))
    }

    /// The last so many seconds of a piece, fewer where a wide answer broke off lately.
    fn newest(&self, piece: Stretch, width: i64) -> Stretch {
        let width = bearable(self.cooling_in(piece), width, |held| piece.to.since(held.to));
        Stretch { from: piece.from.max(piece.to.plus_millis(-width * 1000)), to: piece.to }
    }

    /// The first so many seconds of a piece, fewer where a wide answer broke off lately.
    fn oldest(&self, piece: Stretch, width: i64) -> Stretch {
        let width = bearable(self.cooling_in(piece), width, |held| held.from.since(piece.from));
        Stretch { from: piece.from, to: piece.to.min(piece.from.plus_millis(width * 1000)) }
    }

    fn cooling_in(&self, piece: Stretch) -> impl Iterator<Item = &Cooling> {
        self.cooling.iter().filter(move |held| held.stretch.intersect(piece).is_some())
    }

    fn want(&self, lane: Lane, why: Pass, stretch: Stretch) -> Want {
        let window = Window::vouching_for(stretch);
        Want { lane, window, stretch: window.vouches_for().unwrap_or(stretch), why }
    }
}

/// A stretch in whole seconds that holds all of this one.
fn whole(stretch: Stretch) -> Stretch {
    Stretch { from: stretch.from.floor_to_second(), to: stretch.to.plus_millis(999).floor_to_second() }
}
