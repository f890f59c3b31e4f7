//! `[[accounts]]` or `[discover_accounts]`: whose segments to get, and what is done for them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::problem::quoted;
use super::super::reader::{Reader, Section};
use super::super::settings::{Account, AccountPolicy, Accounts, DiscoverAccounts};
use super::super::when::parse_span;
use crate::model::{AccountId, Artifact, ArtifactSet, SummariesFor, Wants};

const HINT: &str = "list sub-accounts as [[accounts]], or give [discover_accounts] to take all that the login can see";

/// The longest id that is accepted, in bytes: Postgres' indexes take 2,704.
const LONGEST_ID: usize = 512;

/// Whose segments to get.
pub(super) fn accounts(reader: &mut Reader<'_>) -> Option<Accounts> {
    let listed = reader.sections("accounts");
    let discover = reader.section("discover_accounts");
    match (listed.is_empty(), discover.is_given()) {
        (false, false) => every_account(reader, &listed).map(Accounts::Listed),
        (true, true) => discovered(reader, &discover).map(Accounts::Discovered),
        (false, true) => {
            let what = "is given together with [[accounts]]".to_owned();
            reader.wrong("discover_accounts", discover.place(), what, "keep one of the two");
            // What is wrong with the accounts is worth knowing all the same.
            every_account(reader, &listed);
            discovered(reader, &discover);
            None
        }
        (true, false) => {
            // Where what is given for it could not be read, that has been said.
            if !["accounts", "accounts[0]", "discover_accounts"].iter().any(|key| reader.is_problem(key)) {
                reader.wrong("accounts", None, "is missing: there is nothing to get".to_owned(), HINT);
            }
            None
        }
    }
}

fn every_account(reader: &mut Reader<'_>, listed: &[Section<'_>]) -> Option<Vec<Account>> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let read: Vec<Option<Account>> = listed.iter().map(|section| account(reader, section, &mut seen)).collect();
    read.into_iter().collect()
}

fn account(reader: &mut Reader<'_>, section: &Section<'_>, seen: &mut BTreeMap<String, String>) -> Option<Account> {
    let rc = id(reader, section, "rc_account_id", r#"give the main account's RingCentral id, such as "980634004""#);
    let sub = id(reader, section, "sub_account_id", r#"give the sub-account's RingCX id, such as "99999999""#);
    let name = reader.text(section, "name").map(|given| given.value);
    let policy = policy(reader, section);
    let sub = sub?;
    if let Some(first) = seen.insert(sub.clone(), section.path.clone()) {
        let key = section.key("sub_account_id");
        let place = reader.place_of(section, "sub_account_id");
        reader.wrong(&key, place, format!("{} is that of {first} too", quoted(&sub)), "list each sub-account once");
        return None;
    }
    Some(Account { id: AccountId::new(rc?, sub), name, policy: policy? })
}

/// An id goes into addresses and is compared with what the API says, so nothing may be hidden in it.
fn id(reader: &mut Reader<'_>, section: &Section<'_>, name: &str, hint: &str) -> Option<String> {
    let given = reader.required(section, name, hint)?;
    if given.value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return reader.refuse(&given, format!("{} holds white space", quoted(&given.value)), hint);
    }
    if given.value.len() > LONGEST_ID {
        return reader.refuse(&given, format!("is longer than {LONGEST_ID} bytes"), hint);
    }
    Some(given.value)
}

fn discovered(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<DiscoverAccounts> {
    let interval = reader.span(section, "interval");
    let exclude = reader.texts(section, "exclude");
    let policy = policy(reader, section);
    Some(DiscoverAccounts {
        interval: interval?,
        exclude: exclude?.into_iter().map(|given| given.value).collect(),
        policy: policy?,
    })
}

fn policy(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<AccountPolicy> {
    let artifacts = artifacts(reader, section);
    let whose = [("transcribed", SummariesFor::Transcribed), ("agents", SummariesFor::Agents)];
    let summaries_for = reader.choice(section, "summaries_for", &whose);
    let retention = retention(reader, section);
    Some(AccountPolicy { wants: Wants { artifacts: artifacts?, summaries_for: summaries_for? }, retention: retention? })
}

/// A list of artifacts, which must name one.
pub(super) fn artifacts(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<ArtifactSet> {
    let all = Artifact::ALL.map(|artifact| (artifact.name(), artifact));
    let read: Vec<Option<Artifact>> =
        reader.texts(section, "artifacts")?.iter().map(|given| reader.chosen(given, &all)).collect();
    if read.is_empty() {
        let place = reader.place_of(section, "artifacts");
        let hint = r#"name "transcript", "agent_summary" or "auto_summary", or leave it out for all"#;
        reader.wrong(&section.key("artifacts"), place, "is empty, so there is nothing to get".to_owned(), hint);
        return None;
    }
    read.into_iter().collect()
}

/// How long to keep; the inner `None` is for ever.
fn retention(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Option<Duration>> {
    const HINT: &str = r#"give "forever" or a span of time such as "2555d""#;
    let given = reader.required(section, "retention", HINT)?;
    match (given.value.as_str(), parse_span(&given.value)) {
        ("forever", _) => Some(None),
        (_, Some(span)) if !span.is_zero() => Some(Some(span)),
        _ => reader.refuse(&given, format!("{} is not a span of time", quoted(&given.value)), HINT),
    }
}
