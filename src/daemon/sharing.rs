//! Which accounts a replica should own: pure.
//!
//! Every replica works it out for itself from the same picture. Those alive share the accounts evenly; whoever has too
//! many lets some go, whoever has too few takes what nobody alive owns. Accounts that share one limit stay together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::db::Picture;

/// What a replica should do about ownership now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Share {
    /// Accounts to take.
    pub take: Vec<i64>,
    /// Accounts to let go.
    pub let_go: Vec<i64>,
    /// Whether accounts that belong to `me` already, from an earlier process of the name, may be worked on: not while
    /// another replica still has some under the same limit.
    pub resume: bool,
}

/// What `me` should do. `wanted` are the accounts that the settings ask for; `together` says that they share one limit
/// and may not be divided.
pub fn share(picture: &Picture, wanted: &BTreeSet<i64>, me: &str, lapse: Duration, together: bool) -> Share {
    let mut living: BTreeSet<&str> = picture
        .replicas
        .iter()
        .map(|replica| replica.name.as_str())
        .filter(|name| picture.alive(name, lapse))
        .collect();
    living.insert(me);
    let mut owners: BTreeMap<i64, Option<&str>> = BTreeMap::new();
    for account in &picture.accounts {
        let owner = account.owner.as_deref().filter(|owner| living.contains(owner));
        if wanted.contains(&account.account) || owner == Some(me) {
            owners.insert(account.account, owner);
        }
    }
    let mine: Vec<i64> = owners.iter().filter(|(_, owner)| **owner == Some(me)).map(|(account, _)| *account).collect();
    let unwanted = mine.iter().copied().filter(|account| !wanted.contains(account));
    let orphans: Vec<i64> = owners
        .iter()
        .filter(|(account, owner)| owner.is_none() && wanted.contains(account))
        .map(|(account, _)| *account)
        .collect();
    if together {
        // One owner for all: whoever has the most already, the first by name where that does not decide.
        let mut count: BTreeMap<&str, usize> = living.iter().map(|name| (*name, 0)).collect();
        for owner in owners.values().flatten() {
            *count.entry(owner).or_default() += 1;
        }
        let chosen = count.iter().max_by_key(|(name, held)| (**held, std::cmp::Reverse(**name))).map(|(name, _)| *name);
        return if chosen == Some(me) {
            // Only once the others have let go of all of theirs, lest two use one limit.
            let others = owners.values().flatten().any(|owner| *owner != me);
            let take = if others { Vec::new() } else { orphans };
            Share { take, let_go: unwanted.collect(), resume: !others }
        } else {
            Share { take: Vec::new(), let_go: mine, resume: false }
        };
    }
    let place = living.iter().position(|name| *name == me).unwrap_or(0);
    let (each, rest) = (wanted.len() / living.len(), wanted.len() % living.len());
    let fair = each + usize::from(place < rest);
    let kept: Vec<i64> = mine.iter().copied().filter(|account| wanted.contains(account)).collect();
    let surplus = kept.len().saturating_sub(fair);
    Share {
        take: orphans.into_iter().take(fair.saturating_sub(kept.len())).collect(),
        let_go: unwanted.chain(kept.iter().rev().take(surplus).copied()).collect(),
        resume: true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Time;
    use crate::db::{Assignment, ReplicaRow};
    use crate::model::AccountId;

    const LAPSE: Duration = Duration::from_secs(10);

    fn picture(replicas: &[(&str, i64)], owners: &[Option<&str>]) -> Picture {
        Picture {
            now: Time(100_000),
            replicas: replicas
                .iter()
                .map(|(name, seen)| ReplicaRow {
                    name: (*name).to_owned(),
                    version: String::new(),
                    started: Time(0),
                    heartbeat: Time(*seen),
                    released: None,
                    stats: String::new(),
                })
                .collect(),
            accounts: owners
                .iter()
                .enumerate()
                .map(|(number, owner)| Assignment {
                    account: number as i64,
                    id: AccountId::new("1", number.to_string()),
                    owner: owner.map(str::to_owned),
                    epoch: 1,
                    let_go: None,
                })
                .collect(),
        }
    }

    fn all(count: i64) -> BTreeSet<i64> {
        (0..count).collect()
    }

    #[test]
    fn a_dead_replicas_accounts_go_to_the_living() {
        let held = picture(&[("a", 99_000), ("b", 80_000)], &[Some("a"), Some("b"), None]);
        let done = share(&held, &all(3), "a", LAPSE, false);
        assert_eq!(done, Share { take: vec![1, 2], let_go: vec![], resume: true });
    }

    #[test]
    fn a_newcomer_waits_for_what_others_let_go() {
        let held = picture(&[("a", 99_000), ("b", 99_000)], &[Some("a"), Some("a"), Some("a"), Some("a")]);
        assert_eq!(share(&held, &all(4), "b", LAPSE, false), Share { resume: true, ..Share::default() });
        assert_eq!(share(&held, &all(4), "a", LAPSE, false).let_go, [3, 2]);
    }

    #[test]
    fn an_account_that_is_no_longer_wanted_is_let_go() {
        let held = picture(&[("a", 99_000)], &[Some("a"), Some("a")]);
        assert_eq!(share(&held, &all(1), "a", LAPSE, false), Share { take: vec![], let_go: vec![1], resume: true });
    }

    #[test]
    fn accounts_that_share_a_limit_have_one_owner() {
        let held = picture(&[("a", 99_000), ("b", 99_000)], &[Some("b"), Some("b"), None, Some("a")]);
        assert_eq!(share(&held, &all(4), "a", LAPSE, true), Share { take: vec![], let_go: vec![3], resume: false });
        assert_eq!(share(&held, &all(4), "b", LAPSE, true), Share::default());
        let held = picture(&[("a", 99_000), ("b", 99_000)], &[Some("b"), Some("b"), None, None]);
        assert_eq!(share(&held, &all(4), "b", LAPSE, true).take, [2, 3]);
    }

    #[test]
    fn what_is_ours_by_name_waits_while_another_still_has_accounts_under_the_same_limit() {
        let held = picture(&[("a", 99_000), ("b", 99_000)], &[Some("a"), Some("a"), Some("b")]);
        assert_eq!(share(&held, &all(3), "a", LAPSE, true), Share::default());
        let held = picture(&[("a", 99_000), ("b", 80_000)], &[Some("a"), Some("a"), Some("b")]);
        assert_eq!(share(&held, &all(3), "a", LAPSE, true), Share { take: vec![2], let_go: vec![], resume: true });
    }

    proptest! {
        /// Replicas come and go; taking turns, those alive end up with everything, evenly, and two never own one account.
        #[test]
        fn sharing_ends_even_and_complete(accounts in 1usize..40, alive in 1usize..6, together in any::<bool>(), seed in any::<u64>()) {
            let names: Vec<String> = (0..alive).map(|number| format!("r{number}")).collect();
            let replicas: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 99_000)).chain([("dead", 1)]).collect();
            let mut owners: Vec<Option<&str>> = (0..accounts)
                .map(|number| match (seed >> (number % 60)) % (alive as u64 + 2) {
                    0 => None,
                    1 => Some("dead"),
                    other => Some(names[other as usize - 2].as_str()),
                })
                .collect();
            for _ in 0..4 {
                for name in &names {
                    let done = share(&picture(&replicas, &owners), &all(accounts as i64), name, LAPSE, together);
                    for account in done.let_go {
                        prop_assert_eq!(owners[account as usize], Some(name.as_str()));
                        owners[account as usize] = None;
                    }
                    for account in done.take {
                        prop_assert!(owners[account as usize].is_none_or(|owner| owner == "dead"));
                        owners[account as usize] = Some(name);
                    }
                }
            }
            let counts: Vec<usize> = names.iter().map(|name| owners.iter().filter(|owner| **owner == Some(name)).count()).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), accounts);
            if together {
                prop_assert_eq!(counts.iter().filter(|count| **count > 0).count(), 1);
            } else {
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
            }
        }
    }
}
