//! Chance that can be repeated: every draw follows from the seed and from what it is about, never from the order
//! in which requests happen to arrive. Pure.

use std::time::Duration;

use super::options::Spread;

/// A sequence of draws.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// The draws that belong to `parts`.
    pub(super) fn new(seed: u64, parts: &[u64]) -> Dice {
        Dice(parts.iter().fold(mix(seed ^ 0x5eed), |state, part| mix(state.rotate_left(5) ^ part)))
    }

    /// 64 even bits (splitmix64).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// At least 0, less than 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True in `share` of all cases. Takes one draw whatever the share, so that what follows stays as it was.
    pub(super) fn hit(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    /// Less than `bound`; 0 where that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Within a range, to the millisecond.
    pub(super) fn span(&mut self, spread: Spread) -> Duration {
        let width = spread.max.saturating_sub(spread.min).as_millis() as u64;
        spread.min + Duration::from_millis(self.below(width.saturating_add(1)))
    }

    /// One of `choices`, which must not be empty.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A number that stands for a text (FNV-1a).
pub(super) fn hash(text: &str) -> u64 {
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
    fn a_share_is_kept_over_many_draws_and_the_same_seed_draws_the_same() {
        let mut dice = Dice::new(7, &[1, 2]);
        let hits = (0..100_000).filter(|_| dice.hit(0.2)).count();
        assert!((19_000..21_000).contains(&hits), "{hits} of 100,000");
        let (mut one, mut same) = (Dice::new(7, &[1, 2]), Dice::new(7, &[1, 2]));
        let (mut other, mut third) = (Dice::new(8, &[1, 2]), Dice::new(7, &[2, 1]));
        assert!((0..100).all(|_| one.next() == same.next()));
        assert!((0..100).all(|_| one.next() != other.next() && other.next() != third.next()));
    }

    #[test]
    fn a_spread_is_reached_at_both_ends_and_never_left() {
        let spread = Spread { min: Duration::from_millis(3), max: Duration::from_millis(6) };
        let mut dice = Dice::new(1, &[]);
        let drawn: std::collections::BTreeSet<_> = (0..200).map(|_| dice.span(spread).as_millis()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
    }
}
