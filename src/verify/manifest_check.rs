//! Checks that the manifests are consistent and agree with an earlier export. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::VerifyRequest;
use super::verify_report::{IntegrityProblem, IntegrityProblemKind, ProblemList};
use crate::db::AccountChain;
use crate::proof::{ChainName, ExportedLine, GENESIS_HASH, format_day, hex};

/// Checks the manifests of an account, one by one and as a chain.
pub(super) fn check(chain: &AccountChain, recorded: &[&ExportedLine], problems: &mut ProblemList) {
    let mut add = |day: i64, what: &str| {
        problems.add(IntegrityProblem::new(IntegrityProblemKind::Manifest, &chain.id.sub, what).day(format_day(day)));
    };
    let mut expected = GENESIS_HASH.to_vec();
    for manifest in &chain.manifests {
        if manifest.hash != manifest.digest() {
            add(manifest.day, "the manifest was altered: its hash does not match its content");
        } else if manifest.previous != expected {
            add(manifest.day, "the manifest does not follow the one before it, which was altered or is missing");
        }
        if manifest.from != chain.from {
            add(manifest.day, "the manifest names another start of the chain");
        }
        if manifest.feed > chain.feed {
            add(manifest.day, "the manifest covers entries that the account does not have: the newest are missing");
        }
        if let Some(beside) = &manifest.record_heads
            && (beside.records > chain.records.newest || beside.journal > chain.journal.newest)
        {
            add(manifest.day, "the manifest covers records or journal entries that are missing now");
        }
        expected.clone_from(&manifest.hash);
    }
    if expected != chain.newest {
        let day = chain.manifests.last().map_or(0, |manifest| manifest.day);
        let what = "the newest manifest is missing or was altered: it is not the one that the account refers to";
        let problem = IntegrityProblem::new(IntegrityProblemKind::Manifest, &chain.id.sub, what);
        problems.add(if day > 0 { problem.day(format_day(day)) } else { problem });
    }
    check_recorded(chain, recorded, problems);
}

/// Checks that the exported manifests still exist unchanged. Heads are compared during the chain
/// walk.
fn check_recorded(chain: &AccountChain, recorded: &[&ExportedLine], problems: &mut ProblemList) {
    let held: BTreeMap<String, String> =
        chain.manifests.iter().map(|manifest| (format_day(manifest.day), hex(&manifest.hash))).collect();
    let mut add =
        |what: String| problems.add(IntegrityProblem::new(IntegrityProblemKind::Recorded, &chain.id.sub, what));
    let other = recorded.iter().find_map(|line| match line {
        ExportedLine::Manifest(line) if held.get(&line.day) != Some(&line.hash) => Some(line),
        _ => None,
    });
    if let Some(line) = other {
        add(match held.get(&line.day) {
            Some(_) => format!("the manifest of {} is not the one that was exported", line.day),
            None => format!("the manifest of {} was exported and is missing now", line.day),
        });
    }
    if let Some(line) = recorded.iter().find(|line| line.from() != chain.from) {
        add(format!("the chain starts after number {}, but after {} in {line}", chain.from, line.from()));
    }
    let newest = |name: ChainName| {
        let claims = recorded.iter().filter_map(|line| Some((line.claimed_head(name)?.0, line)));
        claims.max_by_key(|(number, _)| *number)
    };
    for (name, held, what) in [
        (ChainName::Feed, chain.feed, "entry"),
        (ChainName::Records, chain.records.newest, "record"),
        (ChainName::Journal, chain.journal.newest, "journal entry"),
        (ChainName::Reads, chain.records.reads, "metadata read"),
    ] {
        if let Some((known, line)) = newest(name).filter(|(known, _)| *known > held) {
            add(format!("the newest {what} is number {held}, but was {known} in {line}: the newest are missing"));
        }
    }
}

/// Reports accounts that were exported and no longer exist.
pub(super) fn check_accounts(chains: &[AccountChain], request: &VerifyRequest, problems: &mut ProblemList) {
    if request.account.is_some() {
        return;
    }
    let held: BTreeSet<&str> = chains.iter().map(|chain| &*chain.id.sub).collect();
    let gone: BTreeSet<&str> =
        request.recorded.iter().map(ExportedLine::sub).filter(|sub| !held.contains(sub)).collect();
    for sub in gone {
        problems.add(IntegrityProblem::new(
            IntegrityProblemKind::Recorded,
            sub,
            "the account was exported and is missing now",
        ));
    }
}
