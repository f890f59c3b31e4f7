//! `[[accounts]]` or `[discover_accounts]`: the accounts to archive, and the policy of each.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::config_error::quoted;
use super::super::settings::{AccountPolicy, AccountSettings, Accounts, DiscoverAccounts};
use super::super::settings_reader::{Section, SettingsReader};
use super::super::time_parse::parse_span;
use crate::model::{AccountId, Artifact, ArtifactSelection, ArtifactSet, SummariesFor};

const HINT: &str =
    "list sub-accounts as [[accounts]], or add [discover_accounts] to archive all that the login can see";

/// The longest id in bytes; a Postgres index entry can have up to 2,704.
const MAX_ID_BYTES: usize = 512;

/// Reads the accounts to archive.
pub(super) fn read_accounts(reader: &mut SettingsReader<'_>) -> Option<Accounts> {
    let listed = reader.sections("accounts");
    let discover = reader.section("discover_accounts");
    match (listed.is_empty(), discover.is_present()) {
        (false, false) => read_listed(reader, &listed).map(Accounts::Listed),
        (true, true) => read_discovered(reader, &discover).map(Accounts::Discovered),
        (false, true) => {
            let what = "is set together with [[accounts]]".to_owned();
            reader.add_problem("discover_accounts", discover.location(), what, "keep one of the two");
            // Other problems with the accounts are reported too.
            read_listed(reader, &listed);
            read_discovered(reader, &discover);
            None
        }
        (true, false) => {
            // If the accounts are set but invalid, that has been reported.
            if !["accounts", "accounts[0]", "discover_accounts"].iter().any(|key| reader.has_problem(key)) {
                reader.add_problem("accounts", None, "is missing: no account is configured".to_owned(), HINT);
            }
            None
        }
    }
}

fn read_listed(reader: &mut SettingsReader<'_>, listed: &[Section<'_>]) -> Option<Vec<AccountSettings>> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let read: Vec<Option<AccountSettings>> =
        listed.iter().map(|section| read_account(reader, section, &mut seen)).collect();
    read.into_iter().collect()
}

fn read_account(
    reader: &mut SettingsReader<'_>,
    section: &Section<'_>,
    seen: &mut BTreeMap<String, String>,
) -> Option<AccountSettings> {
    let rc =
        read_id(reader, section, "rc_account_id", r#"give the main account's RingCentral id, such as "980634004""#);
    let sub = read_id(reader, section, "sub_account_id", r#"give the sub-account's RingCX id, such as "99999999""#);
    let name = reader.text(section, "name").map(|given| given.value);
    let policy = read_policy(reader, section);
    let sub = sub?;
    if let Some(first) = seen.insert(sub.clone(), section.path.clone()) {
        let key = section.key("sub_account_id");
        let location = reader.location_of(section, "sub_account_id");
        reader.add_problem(
            &key,
            location,
            format!("{} is also used by {first}", quoted(&sub)),
            "list each sub-account once",
        );
        return None;
    }
    Some(AccountSettings { id: AccountId::new(rc?, sub), name, policy: policy? })
}

/// Reads an id. It becomes part of URLs and is compared with the API's ids, so it must not contain
/// invisible characters.
fn read_id(reader: &mut SettingsReader<'_>, section: &Section<'_>, name: &str, hint: &str) -> Option<String> {
    let given = reader.required(section, name, hint)?;
    if given.value.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return reader.reject(&given, format!("{} contains white space", quoted(&given.value)), hint);
    }
    if given.value.len() > MAX_ID_BYTES {
        return reader.reject(&given, format!("is longer than {MAX_ID_BYTES} bytes"), hint);
    }
    Some(given.value)
}

fn read_discovered(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<DiscoverAccounts> {
    let interval = reader.span(section, "interval");
    let exclude = reader.texts(section, "exclude");
    let policy = read_policy(reader, section);
    Some(DiscoverAccounts {
        interval: interval?,
        exclude: exclude?.into_iter().map(|given| given.value).collect(),
        policy: policy?,
    })
}

fn read_policy(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<AccountPolicy> {
    let artifacts = read_artifacts(reader, section);
    let choices = [("transcribed", SummariesFor::Transcribed), ("agents", SummariesFor::Agents)];
    let summaries_for = reader.choice(section, "summaries_for", &choices);
    let retention = read_retention(reader, section);
    Some(AccountPolicy {
        wants: ArtifactSelection { artifacts: artifacts?, summaries_for: summaries_for? },
        retention: retention?,
    })
}

/// Reads a list of artifacts, which must not be empty.
pub(super) fn read_artifacts(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<ArtifactSet> {
    let all = Artifact::ALL.map(|artifact| (artifact.name(), artifact));
    let read: Vec<Option<Artifact>> =
        reader.texts(section, "artifacts")?.iter().map(|given| reader.match_choice(given, &all)).collect();
    if read.is_empty() {
        let location = reader.location_of(section, "artifacts");
        let hint = r#"name "transcript", "agent_summary" or "auto_summary", or leave it out for all"#;
        reader.add_problem(&section.key("artifacts"), location, "is empty: nothing would be fetched".to_owned(), hint);
        return None;
    }
    read.into_iter().collect()
}

/// Reads the retention; the inner `None` means forever.
fn read_retention(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<Option<Duration>> {
    const HINT: &str = r#"give "forever" or a span of time such as "2555d""#;
    let given = reader.required(section, "retention", HINT)?;
    match (given.value.as_str(), parse_span(&given.value)) {
        ("forever", _) => Some(None),
        (_, Some(span)) if !span.is_zero() => Some(Some(span)),
        _ => reader.reject(&given, format!("{} is not a span of time", quoted(&given.value)), HINT),
    }
}
