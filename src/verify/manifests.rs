//! Whether the manifests hang together, and whether they hold what was exported earlier. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Question;
use super::report::{Problem, ProblemKind, Problems};
use crate::db::Chain;
use crate::proof::{ChainName, Line, START, day_name, hex};

/// An account's own manifests, one by one and as a chain.
pub(super) fn check(chain: &Chain, recorded: &[&Line], problems: &mut Problems) {
    let mut add = |day: i64, what: &str| {
        problems.add(Problem::new(ProblemKind::Manifest, &chain.id.sub, what).day(day_name(day)));
    };
    let mut expected = START.to_vec();
    for manifest in &chain.manifests {
        if manifest.hash != manifest.digest() {
            add(manifest.day, "the manifest was altered: its hash is not that of what it says");
        } else if manifest.previous != expected {
            add(manifest.day, "the manifest does not follow the one before it, which was altered or is missing");
        }
        if manifest.from != chain.from {
            add(manifest.day, "the manifest says that the chain begins elsewhere");
        }
        if manifest.feed > chain.feed {
            add(manifest.day, "the manifest knows entries that the account does not: the newest are missing");
        }
        if let Some(beside) = &manifest.beside
            && (beside.records > chain.records.newest || beside.journal > chain.journal.newest)
        {
            add(manifest.day, "the manifest knows records or entries of the journal that are missing now");
        }
        expected.clone_from(&manifest.hash);
    }
    if expected != chain.newest {
        let day = chain.manifests.last().map_or(0, |manifest| manifest.day);
        let what = "the newest manifest is missing or was altered: it is not the one that the account names";
        let problem = Problem::new(ProblemKind::Manifest, &chain.id.sub, what);
        problems.add(if day > 0 { problem.day(day_name(day)) } else { problem });
    }
    check_recorded(chain, recorded, problems);
}

/// What was exported is still there, and says the same. Heads are compared on the walk.
fn check_recorded(chain: &Chain, recorded: &[&Line], problems: &mut Problems) {
    let held: BTreeMap<String, String> =
        chain.manifests.iter().map(|manifest| (day_name(manifest.day), hex(&manifest.hash))).collect();
    let mut add = |what: String| problems.add(Problem::new(ProblemKind::Recorded, &chain.id.sub, what));
    let other = recorded.iter().find_map(|line| match line {
        Line::Manifest(line) if held.get(&line.day) != Some(&line.hash) => Some(line),
        _ => None,
    });
    if let Some(line) = other {
        add(match held.get(&line.day) {
            Some(_) => format!("the manifest of {} is not the one that was exported", line.day),
            None => format!("the manifest of {} was exported and is missing now", line.day),
        });
    }
    if let Some(line) = recorded.iter().find(|line| line.from() != chain.from) {
        add(format!("the chain begins after number {}, and after {} in {line}", chain.from, line.from()));
    }
    let newest = |name: ChainName| {
        let claims = recorded.iter().filter_map(|line| Some((line.claim(name)?.0, line)));
        claims.max_by_key(|(number, _)| *number)
    };
    for (name, held, what) in [
        (ChainName::Feed, chain.feed, "entry"),
        (ChainName::Records, chain.records.newest, "record"),
        (ChainName::Journal, chain.journal.newest, "entry of the journal"),
        (ChainName::Reads, chain.records.reads, "read of metadata"),
    ] {
        if let Some((known, line)) = newest(name).filter(|(known, _)| *known > held) {
            add(format!("the newest {what} is number {held}, and was {known} in {line}: the newest are missing"));
        }
    }
}

/// Accounts that were exported and are not there any more.
pub(super) fn check_accounts(chains: &[Chain], question: &Question, problems: &mut Problems) {
    if question.account.is_some() {
        return;
    }
    let held: BTreeSet<&str> = chains.iter().map(|chain| &*chain.id.sub).collect();
    let gone: BTreeSet<&str> = question.recorded.iter().map(Line::sub).filter(|sub| !held.contains(sub)).collect();
    for sub in gone {
        problems.add(Problem::new(ProblemKind::Recorded, sub, "the account was exported and is missing now"));
    }
}
