//! Decides which accounts a replica should own. Pure.
//!
//! Every replica derives its own plan from the same cluster state. Live replicas share the accounts
//! evenly: a replica with too many accounts releases some, and one with too few acquires accounts
//! that no live replica owns. Accounts that share one limit have one owner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::db::{AccountKey, ClusterState};

/// The accounts that a replica should acquire and release now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AssignmentPlan {
    /// The accounts to acquire.
    pub(crate) acquire: Vec<AccountKey>,
    /// The accounts to release.
    pub(crate) release: Vec<AccountKey>,
    /// Whether accounts that an earlier process of the same instance owned may be worked on. They
    /// may not while another replica still owns accounts under the same limit.
    pub(crate) resume: bool,
}

/// Plans the assignment of `instance`. With `shared_limit`, all accounts share one limit and must
/// have one owner.
pub(crate) fn plan_assignment(
    cluster: &ClusterState,
    registered: &BTreeSet<AccountKey>,
    instance: &str,
    liveness_timeout: Duration,
    shared_limit: bool,
) -> AssignmentPlan {
    let mut live_replicas: BTreeSet<&str> = cluster
        .replicas
        .iter()
        .map(|replica| replica.name.as_str())
        .filter(|name| cluster.is_alive(name, liveness_timeout))
        .collect();
    live_replicas.insert(instance);
    let mut owners: BTreeMap<AccountKey, Option<&str>> = BTreeMap::new();
    for account in &cluster.accounts {
        let owner = account.owner.as_deref().filter(|owner| live_replicas.contains(owner));
        if registered.contains(&account.account) || owner == Some(instance) {
            owners.insert(account.account, owner);
        }
    }
    let owned: Vec<AccountKey> =
        owners.iter().filter(|(_, owner)| **owner == Some(instance)).map(|(account, _)| *account).collect();
    let unregistered = owned.iter().copied().filter(|account| !registered.contains(account));
    let orphans: Vec<AccountKey> = owners
        .iter()
        .filter(|(account, owner)| owner.is_none() && registered.contains(account))
        .map(|(account, _)| *account)
        .collect();
    if shared_limit {
        // The owner is the replica with the most accounts, or the first of them by name.
        let mut count: BTreeMap<&str, usize> = live_replicas.iter().map(|name| (*name, 0)).collect();
        for owner in owners.values().flatten() {
            *count.entry(owner).or_default() += 1;
        }
        let chosen = count.iter().max_by_key(|(name, held)| (**held, std::cmp::Reverse(**name))).map(|(name, _)| *name);
        return if chosen == Some(instance) {
            // Acquire only once the others have released all accounts, so that no two replicas use
            // the limit.
            let others_own = owners.values().flatten().any(|owner| *owner != instance);
            let acquire = if others_own { Vec::new() } else { orphans };
            AssignmentPlan { acquire, release: unregistered.collect(), resume: !others_own }
        } else {
            AssignmentPlan { acquire: Vec::new(), release: owned, resume: false }
        };
    }
    let rank = live_replicas.iter().position(|name| *name == instance).unwrap_or(0);
    let (per_replica, remainder) = (registered.len() / live_replicas.len(), registered.len() % live_replicas.len());
    let fair_count = per_replica + usize::from(rank < remainder);
    let kept: Vec<AccountKey> = owned.iter().copied().filter(|account| registered.contains(account)).collect();
    let surplus = kept.len().saturating_sub(fair_count);
    AssignmentPlan {
        acquire: orphans.into_iter().take(fair_count.saturating_sub(kept.len())).collect(),
        release: unregistered.chain(kept.iter().rev().take(surplus).copied()).collect(),
        resume: true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Time;
    use crate::db::{OwnershipRow, ReplicaRow};
    use crate::model::AccountId;

    const LIVENESS_TIMEOUT: Duration = Duration::from_secs(10);

    fn cluster(replicas: &[(&str, i64)], owners: &[Option<&str>]) -> ClusterState {
        ClusterState {
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
                .map(|(number, owner)| OwnershipRow {
                    account: AccountKey(number as i64),
                    id: AccountId::new("1", number.to_string()),
                    owner: owner.map(str::to_owned),
                    epoch: 1,
                    released: None,
                })
                .collect(),
        }
    }

    fn keys<const N: usize>(numbers: [i64; N]) -> Vec<AccountKey> {
        numbers.map(AccountKey).to_vec()
    }

    fn all(count: i64) -> BTreeSet<AccountKey> {
        (0..count).map(AccountKey).collect()
    }

    #[test]
    fn the_accounts_of_a_dead_replica_are_acquired() {
        let held = cluster(&[("a", 99_000), ("b", 80_000)], &[Some("a"), Some("b"), None]);
        let plan = plan_assignment(&held, &all(3), "a", LIVENESS_TIMEOUT, false);
        assert_eq!(plan, AssignmentPlan { acquire: keys([1, 2]), release: vec![], resume: true });
    }

    #[test]
    fn a_new_replica_waits_until_others_release_accounts() {
        let held = cluster(&[("a", 99_000), ("b", 99_000)], &[Some("a"), Some("a"), Some("a"), Some("a")]);
        assert_eq!(
            plan_assignment(&held, &all(4), "b", LIVENESS_TIMEOUT, false),
            AssignmentPlan { resume: true, ..AssignmentPlan::default() }
        );
        assert_eq!(plan_assignment(&held, &all(4), "a", LIVENESS_TIMEOUT, false).release, keys([3, 2]));
    }

    #[test]
    fn an_account_that_is_no_longer_registered_is_released() {
        let held = cluster(&[("a", 99_000)], &[Some("a"), Some("a")]);
        assert_eq!(
            plan_assignment(&held, &all(1), "a", LIVENESS_TIMEOUT, false),
            AssignmentPlan { acquire: vec![], release: keys([1]), resume: true }
        );
    }

    #[test]
    fn accounts_that_share_a_limit_have_one_owner() {
        let held = cluster(&[("a", 99_000), ("b", 99_000)], &[Some("b"), Some("b"), None, Some("a")]);
        assert_eq!(
            plan_assignment(&held, &all(4), "a", LIVENESS_TIMEOUT, true),
            AssignmentPlan { acquire: vec![], release: keys([3]), resume: false }
        );
        assert_eq!(plan_assignment(&held, &all(4), "b", LIVENESS_TIMEOUT, true), AssignmentPlan::default());
        let held = cluster(&[("a", 99_000), ("b", 99_000)], &[Some("b"), Some("b"), None, None]);
        assert_eq!(plan_assignment(&held, &all(4), "b", LIVENESS_TIMEOUT, true).acquire, keys([2, 3]));
    }

    #[test]
    fn accounts_of_an_earlier_process_wait_while_another_replica_uses_the_same_limit() {
        let held = cluster(&[("a", 99_000), ("b", 99_000)], &[Some("a"), Some("a"), Some("b")]);
        assert_eq!(plan_assignment(&held, &all(3), "a", LIVENESS_TIMEOUT, true), AssignmentPlan::default());
        let held = cluster(&[("a", 99_000), ("b", 80_000)], &[Some("a"), Some("a"), Some("b")]);
        assert_eq!(
            plan_assignment(&held, &all(3), "a", LIVENESS_TIMEOUT, true),
            AssignmentPlan { acquire: keys([2]), release: vec![], resume: true }
        );
    }

    proptest! {
        /// Taking turns, the live replicas end up with all accounts, evenly, and no account ever
        /// has two owners.
        #[test]
        fn assignment_ends_even_and_complete(accounts in 1usize..40, alive in 1usize..6, shared_limit in any::<bool>(), seed in any::<u64>()) {
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
                    let plan = plan_assignment(&cluster(&replicas, &owners), &all(accounts as i64), name, LIVENESS_TIMEOUT, shared_limit);
                    for account in plan.release {
                        prop_assert_eq!(owners[account.0 as usize], Some(name.as_str()));
                        owners[account.0 as usize] = None;
                    }
                    for account in plan.acquire {
                        prop_assert!(owners[account.0 as usize].is_none_or(|owner| owner == "dead"));
                        owners[account.0 as usize] = Some(name);
                    }
                }
            }
            let counts: Vec<usize> = names.iter().map(|name| owners.iter().filter(|owner| **owner == Some(name)).count()).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), accounts);
            if shared_limit {
                prop_assert_eq!(counts.iter().filter(|count| **count > 0).count(), 1);
            } else {
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
            }
        }
    }
}
