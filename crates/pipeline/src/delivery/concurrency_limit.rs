//! How many requests a sink gets at a time: additive increase while it keeps up, multiplicative
//! decrease while it answers "too many requests" or not in time (AIMD).

/// The limit of a sink that has not answered yet.
const INITIAL_LIMIT: f64 = 8.0;
/// The highest limit. Requests that hang are counted apart.
const MAX_LIMIT: f64 = 64.0;
/// The fewest answers from which the limit is adapted.
const MIN_ANSWERS_PER_ROUND: u32 = 8;
/// A larger share of overload signals than this lowers the limit. A smaller one does not: a
/// receiver that fails at random does not recover because it gets fewer requests.
const TOLERATED_OVERLOAD: f64 = 1.0 / 3.0;

/// The current limit.
#[derive(Debug)]
pub(super) struct ConcurrencyLimit {
    limit: f64,
    /// Until the first sign of overload the limit doubles.
    is_slow_start: bool,
    answers: u32,
    overloaded: u32,
    was_full: bool,
}

impl Default for ConcurrencyLimit {
    fn default() -> ConcurrencyLimit {
        ConcurrencyLimit { limit: INITIAL_LIMIT, is_slow_start: true, answers: 0, overloaded: 0, was_full: false }
    }
}

impl ConcurrencyLimit {
    /// The number of concurrent requests.
    pub(super) fn get(&self) -> usize {
        // Between 1 and `MAX_LIMIT`.
        self.limit as usize
    }

    /// Records an answer. `is_overload`: it was 429, 503 with `Retry-After`, or late. `is_full`: all
    /// places were in use, so that a higher limit would have had an effect.
    pub(super) fn on_answer(&mut self, is_overload: bool, is_full: bool) {
        self.answers += 1;
        self.overloaded += u32::from(is_overload);
        self.was_full |= is_full;
        if self.answers < MIN_ANSWERS_PER_ROUND.max(self.limit as u32) {
            return;
        }
        let share = f64::from(self.overloaded) / f64::from(self.answers);
        if share > TOLERATED_OVERLOAD {
            self.limit = (self.limit * (1.0 - share / 2.0)).max(1.0);
            self.is_slow_start = false;
        } else if self.was_full {
            self.limit = (self.limit + if self.is_slow_start { self.limit } else { 1.0 }).min(MAX_LIMIT);
        }
        (self.answers, self.overloaded, self.was_full) = (0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rounds: usize, is_overload: impl Fn(u32) -> bool) -> usize {
        let mut limit = ConcurrencyLimit::default();
        for answer in 0..rounds as u32 * MAX_LIMIT as u32 {
            limit.on_answer(is_overload(answer), true);
        }
        limit.get()
    }

    #[test]
    fn the_limit_grows_while_the_sink_keeps_up_and_shrinks_under_overload() {
        assert_eq!(after(4, |_| false), 64);
        assert_eq!(after(20, |_| true), 1);
        assert_eq!(after(20, |answer| answer % 2 == 0), 1);
        assert_eq!(after(4, |answer| answer % 4 == 0), 64, "a quarter at random is no overload");
    }

    #[test]
    fn an_unused_limit_does_not_grow() {
        let mut limit = ConcurrencyLimit::default();
        (0..1000).for_each(|_| limit.on_answer(false, false));
        assert_eq!(limit.get(), 8);
    }
}
