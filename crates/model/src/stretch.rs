//! Ranges of segment end times: one, a set of them, and the windows in which the API takes them. Pure data.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Time, millis};

/// A stretch of segment end times, `from` included, `to` not; whole seconds wherever it is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stretch {
    /// First moment in it.
    pub from: Time,
    /// First moment after it.
    pub to: Time,
}

impl Stretch {
    /// `None` where `to` is not after `from`.
    pub fn new(from: Time, to: Time) -> Option<Stretch> {
        (from < to).then_some(Stretch { from, to })
    }

    /// Its length.
    pub fn width(self) -> Duration {
        self.to.since(self.from)
    }

    /// What both have in common.
    pub fn intersect(self, other: Stretch) -> Option<Stretch> {
        Stretch::new(self.from.max(other.from), self.to.min(other.to))
    }

    /// Whether `time` lies in it.
    pub fn contains(self, time: Time) -> bool {
        self.from <= time && time < self.to
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from.rfc3339_secs(), self.to.rfc3339_secs())
    }
}

/// A window as the metadata API takes it: the search runs forward from `start` for `seconds` seconds.
///
/// Whether a segment that ends exactly on an edge belongs to a window is not documented, so a window vouches only
/// for what lies strictly within: [`Window::vouches_for`] leaves its first second to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// `segmentEndTime`, which is the beginning of the window, in seconds since 1970.
    pub start: i64,
    /// `timeInterval`, at least 1.
    pub seconds: u32,
}

impl Window {
    /// The narrowest window that vouches for `stretch`: it begins a second before.
    pub fn vouching_for(stretch: Stretch) -> Window {
        let start = stretch.from.floor_secs() - 1;
        let end = stretch.to.plus_millis(999).floor_secs();
        Window { start, seconds: u32::try_from(end - start).unwrap_or(u32::MAX).max(1) }
    }

    /// The stretch of end times that is certainly in the answer, under either reading of the edges.
    pub fn vouches_for(self) -> Option<Stretch> {
        Stretch::new(Time::from_secs(self.start + 1), self.end())
    }

    /// Where the window begins.
    pub fn begin(self) -> Time {
        Time::from_secs(self.start)
    }

    /// Where the window ends.
    pub fn end(self) -> Time {
        Time::from_secs(self.start + i64::from(self.seconds))
    }
}

/// Sorted, disjoint, non-adjacent stretches: a set of moments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stretches(Vec<Stretch>);

impl Stretches {
    /// From stretches in any order, which may overlap.
    pub fn from_unsorted(mut all: Vec<Stretch>) -> Stretches {
        all.sort_unstable();
        let mut merged: Vec<Stretch> = Vec::with_capacity(all.len());
        for stretch in all {
            match merged.last_mut() {
                Some(last) if stretch.from <= last.to => last.to = last.to.max(stretch.to),
                _ => merged.push(stretch),
            }
        }
        Stretches(merged)
    }

    /// In order of time.
    pub fn as_slice(&self) -> &[Stretch] {
        &self.0
    }

    /// Whether no moment is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a stretch, merging with what it touches.
    pub fn insert(&mut self, stretch: Stretch) {
        let first = self.0.partition_point(|held| held.to < stretch.from);
        let last = self.0.partition_point(|held| held.from <= stretch.to);
        let merged = self.0[first..last]
            .iter()
            .fold(stretch, |merged, held| Stretch { from: merged.from.min(held.from), to: merged.to.max(held.to) });
        self.0.splice(first..last, [merged]);
    }

    /// What is in this set and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Stretches) -> Stretches {
        let mut left = Vec::new();
        let mut cuts = other.0.iter().peekable();
        for &stretch in &self.0 {
            let mut from = stretch.from;
            while let Some(cut) = cuts.peek() {
                if cut.to <= from {
                    cuts.next();
                    continue;
                }
                if cut.from >= stretch.to {
                    break;
                }
                left.extend(Stretch::new(from, cut.from));
                from = from.max(cut.to);
                if cut.to > stretch.to {
                    break;
                }
                cuts.next();
            }
            left.extend(Stretch::new(from, stretch.to));
        }
        Stretches(left)
    }

    /// What is in both.
    #[must_use]
    pub fn within(&self, bounds: Stretch) -> Stretches {
        Stretches(self.0.iter().filter_map(|stretch| stretch.intersect(bounds)).collect())
    }

    /// The stretch that holds `time`.
    pub fn holding(&self, time: Time) -> Option<Stretch> {
        let next = self.0.partition_point(|held| held.to <= time);
        self.0.get(next).copied().filter(|held| held.contains(time))
    }

    /// The total length.
    pub fn total(&self) -> Duration {
        Duration::from_millis(self.0.iter().map(|stretch| u64::try_from(millis(stretch.width())).unwrap_or(0)).sum())
    }
}
