//! How a pass's room is shared out among accounts that are behind. Pure.

use crate::db::{Behind, Window};

/// Parts of the feeds to look at now, in the order of the accounts: at most `most` numbers, those with few in full, the
/// rest evenly. Where there are more accounts than that, they take turns.
pub(super) fn share(behind: &[&Behind], most: usize, turn: usize) -> Vec<Window> {
    if behind.is_empty() {
        return Vec::new();
    }
    let start = turn % behind.len();
    let mut chosen: Vec<&Behind> = behind[start..].iter().chain(&behind[..start]).take(most).copied().collect();
    chosen.sort_by_key(|account| account.feed - account.cursor);
    let mut room = i64::try_from(most).unwrap_or(i64::MAX);
    let mut windows = Vec::with_capacity(chosen.len());
    for (index, account) in chosen.iter().enumerate() {
        let left = i64::try_from(chosen.len() - index).unwrap_or(1).max(1);
        let part = (room / left).max(1).min(account.feed - account.cursor);
        room -= part;
        windows.push(Window { account: account.owned.account, after: account.cursor, upto: account.cursor + part });
    }
    windows.sort_by_key(|window| window.account);
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::db::Owned;
    use crate::model::AccountId;

    fn behind(account: i64, gap: i64) -> Behind {
        Behind { owned: Owned { account, epoch: 1 }, id: AccountId::new("1", "2"), cursor: 10, feed: 10 + gap }
    }

    fn parts(gaps: &[i64], most: usize, turn: usize) -> Vec<(i64, i64)> {
        let all: Vec<Behind> = gaps.iter().enumerate().map(|(i, gap)| behind(i as i64, *gap)).collect();
        let all: Vec<&Behind> = all.iter().collect();
        share(&all, most, turn).iter().map(|window| (window.account, window.upto - window.after)).collect()
    }

    #[test]
    fn small_backlogs_go_in_full_and_the_rest_share_evenly() {
        assert_eq!(parts(&[1, 1000, 3, 1000], 104, 0), [(0, 1), (1, 50), (2, 3), (3, 50)]);
        assert_eq!(parts(&[7], 500, 3), [(0, 7)]);
    }

    #[test]
    fn more_accounts_than_room_take_turns() {
        assert_eq!(parts(&[5, 5, 5], 2, 0), [(0, 1), (1, 1)]);
        assert_eq!(parts(&[5, 5, 5], 2, 2), [(0, 1), (2, 1)]);
    }

    proptest! {
        #[test]
        fn the_room_is_used_and_never_exceeded(gaps in proptest::collection::vec(1i64..100, 0..30), most in 1usize..200, turn in 0usize..99) {
            let parts = parts(&gaps, most, turn);
            let used: i64 = parts.iter().map(|(_, part)| part).sum();
            let all: i64 = gaps.iter().sum();
            prop_assert_eq!(used, all.min(most as i64));
            prop_assert!(parts.iter().all(|(account, part)| *part >= 1 && *part <= gaps[*account as usize]));
        }
    }
}
