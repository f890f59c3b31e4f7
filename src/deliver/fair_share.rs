//! Shares the capacity of one delivery round among the accounts that are behind. Pure.

use crate::db::{FeedRange, LaggingFeed};

/// The feed windows to read in this round, ordered by account, with at most `capacity` entries in
/// total. Small backlogs are read in full, and the rest of the capacity is split evenly. Where
/// there are more accounts than `capacity`, `rotation` lets them take turns.
pub(super) fn fair_share(backlogs: &[&LaggingFeed], capacity: usize, rotation: usize) -> Vec<FeedRange> {
    if backlogs.is_empty() {
        return Vec::new();
    }
    let start = rotation % backlogs.len();
    let mut selected: Vec<&LaggingFeed> =
        backlogs[start..].iter().chain(&backlogs[..start]).take(capacity).copied().collect();
    selected.sort_by_key(|account| account.feed - account.cursor);
    let mut remaining = i64::try_from(capacity).unwrap_or(i64::MAX);
    let mut windows = Vec::with_capacity(selected.len());
    for (index, account) in selected.iter().enumerate() {
        let accounts_left = i64::try_from(selected.len() - index).unwrap_or(1).max(1);
        let size = (remaining / accounts_left).max(1).min(account.feed - account.cursor);
        remaining -= size;
        windows.push(FeedRange { account: account.lease.account, after: account.cursor, upto: account.cursor + size });
    }
    windows.sort_by_key(|window| window.account);
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::db::{AccountKey, Lease};
    use crate::model::AccountId;

    fn backlog(account: i64, gap: i64) -> LaggingFeed {
        LaggingFeed {
            lease: Lease { account: AccountKey(account), epoch: 1 },
            id: AccountId::new("1", "2"),
            cursor: 10,
            feed: 10 + gap,
        }
    }

    fn sizes(gaps: &[i64], capacity: usize, rotation: usize) -> Vec<(i64, i64)> {
        let all: Vec<LaggingFeed> = gaps.iter().enumerate().map(|(i, gap)| backlog(i as i64, *gap)).collect();
        let all: Vec<&LaggingFeed> = all.iter().collect();
        fair_share(&all, capacity, rotation)
            .iter()
            .map(|window| (window.account.0, window.upto - window.after))
            .collect()
    }

    #[test]
    fn small_backlogs_are_read_in_full_and_the_rest_is_split_evenly() {
        assert_eq!(sizes(&[1, 1000, 3, 1000], 104, 0), [(0, 1), (1, 50), (2, 3), (3, 50)]);
        assert_eq!(sizes(&[7], 500, 3), [(0, 7)]);
    }

    #[test]
    fn more_accounts_than_capacity_take_turns() {
        assert_eq!(sizes(&[5, 5, 5], 2, 0), [(0, 1), (1, 1)]);
        assert_eq!(sizes(&[5, 5, 5], 2, 2), [(0, 1), (2, 1)]);
    }

    proptest! {
        #[test]
        fn the_capacity_is_used_and_never_exceeded(gaps in proptest::collection::vec(1i64..100, 0..30), capacity in 1usize..200, rotation in 0usize..99) {
            let sizes = sizes(&gaps, capacity, rotation);
            let used: i64 = sizes.iter().map(|(_, size)| size).sum();
            let all: i64 = gaps.iter().sum();
            prop_assert_eq!(used, all.min(capacity as i64));
            prop_assert!(sizes.iter().all(|(account, size)| *size >= 1 && *size <= gaps[*account as usize]));
        }
    }
}
