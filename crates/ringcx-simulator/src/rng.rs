//! A repeatable random number generator. Every draw depends on the seed and on its subject, never
//! on the order in which requests arrive. Pure.

use std::time::Duration;

use super::options::DelayRange;

/// A sequence of draws (splitmix64).
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    /// The sequence of the subject `parts`.
    pub(super) fn new(seed: u64, parts: &[u64]) -> Rng {
        Rng(parts.iter().fold(mix(seed ^ 0x5eed), |state, part| mix(state.rotate_left(5) ^ part)))
    }

    /// 64 uniform bits.
    pub(super) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// At least 0, less than 1.
    pub(super) fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with probability `share`. Always takes one draw, so a change of the share does not
    /// change later draws.
    pub(super) fn random_bool(&mut self, share: f64) -> bool {
        self.next_f64() < share
    }

    /// Less than `bound`; 0 if that is 0.
    pub(super) fn random_below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A duration within a range, in whole milliseconds.
    pub(super) fn random_duration(&mut self, range: DelayRange) -> Duration {
        let width = range.max.saturating_sub(range.min).as_millis() as u64;
        range.min + Duration::from_millis(self.random_below(width.saturating_add(1)))
    }

    /// One of `choices`, which must not be empty.
    pub(super) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random_below(choices.len() as u64) as usize]
    }
}

/// A hash of a text (FNV-1a).
pub(super) fn hash_text(text: &str) -> u64 {
    mix(text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_holds_over_many_draws_and_equal_seeds_draw_equally() {
        let mut rng = Rng::new(7, &[1, 2]);
        let hits = (0..100_000).filter(|_| rng.random_bool(0.2)).count();
        assert!((19_000..21_000).contains(&hits), "{hits} of 100,000");
        let (mut one, mut same) = (Rng::new(7, &[1, 2]), Rng::new(7, &[1, 2]));
        let (mut other, mut third) = (Rng::new(8, &[1, 2]), Rng::new(7, &[2, 1]));
        assert!((0..100).all(|_| one.next_u64() == same.next_u64()));
        assert!((0..100).all(|_| one.next_u64() != other.next_u64() && other.next_u64() != third.next_u64()));
    }

    #[test]
    fn a_range_is_reached_at_both_ends_and_never_exceeded() {
        let range = DelayRange { min: Duration::from_millis(3), max: Duration::from_millis(6) };
        let mut rng = Rng::new(1, &[]);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| rng.random_duration(range).as_millis()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
    }
}
