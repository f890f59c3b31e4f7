//! `[[accounts]]` or `[discover_accounts]`: the accounts to archive, and the policy of each.

use std::collections::BTreeMap;

use super::super::checker::{Checker, LoadScope};
use super::super::config_error::quoted;
use super::super::setting_types::{Artifacts, Id, Retention};
use super::super::settings::{AccountPolicy, AccountSettings, Accounts, DiscoverAccounts};
use super::super::settings_document::{AccountSection, DiscoverAccountsSection};
use crate::model::{AccountId, ArtifactSelection, ArtifactSet, SummariesFor};

const HINT: &str =
    "list sub-accounts as [[accounts]], or add [discover_accounts] to archive all that the login can see";

/// The longest id in bytes; a Postgres index entry can have up to 2,704.
const MAX_ID_BYTES: usize = 512;

/// Builds the accounts to archive.
pub(super) fn build_accounts(
    listed: Vec<Option<AccountSection>>,
    discover: Option<DiscoverAccountsSection>,
    checker: &mut Checker<'_>,
) -> Option<Accounts> {
    // Problems with the accounts are reported whether or not there is another one.
    let is_listed = !listed.is_empty();
    if is_listed && discover.is_some() {
        checker.reject("discover_accounts", "is set together with [[accounts]]", "keep one of the two");
    }
    let is_rejected = checker.has_problem("accounts") || checker.has_problem("discover_accounts");
    if !is_listed && discover.is_none() && !is_rejected {
        if checker.scope == LoadScope::Archive {
            return Some(Accounts::Listed(Vec::new()));
        }
        checker.reject_absent("accounts", "is missing: no account is configured", HINT);
    }
    let listed = build_listed(listed, checker);
    match discover {
        Some(discover) => build_discovered(discover, checker).map(Accounts::Discovered).filter(|_| !is_listed),
        None => listed.filter(|_| is_listed).map(Accounts::Listed),
    }
}

fn build_listed(listed: Vec<Option<AccountSection>>, checker: &mut Checker<'_>) -> Option<Vec<AccountSettings>> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    checker.each_section("accounts", listed, |section, path, checker| {
        let key = |name: &str| format!("{path}.{name}");
        let rc_hint = r#"give the main account's RingCentral id, such as "980634004""#;
        let rc = build_id(&key("rc_account_id"), section.rc_account_id, rc_hint, checker);
        let sub_hint = r#"give the sub-account's RingCX id, such as "99999999""#;
        let sub = build_id(&key("sub_account_id"), section.sub_account_id, sub_hint, checker);
        let policy = build_policy(path, section.artifacts, section.summaries_for, section.retention, checker);
        let sub = checker.unique(&key("sub_account_id"), sub?, path, &mut seen, "list each sub-account once")?;
        Some(AccountSettings { id: AccountId::new(rc?, sub), name: section.name.0, policy: policy? })
    })
}

/// Checks an id. It becomes part of URLs and is compared with the API's ids, so it must not contain
/// invisible characters.
fn build_id(path: &str, id: Id, hint: &str, checker: &mut Checker<'_>) -> Option<String> {
    let id = checker.require(path, id.0, hint)?;
    let checked = if id.chars().any(|c| c.is_whitespace() || c.is_control()) {
        Err(format!("{} contains white space", quoted(&id)))
    } else if id.len() > MAX_ID_BYTES {
        Err(format!("is longer than {MAX_ID_BYTES} bytes"))
    } else {
        Ok(id)
    };
    checker.accept(path, checked, hint)
}

fn build_discovered(section: DiscoverAccountsSection, checker: &mut Checker<'_>) -> Option<DiscoverAccounts> {
    let path = "discover_accounts";
    let exclude = checker.texts(&format!("{path}.exclude"), section.exclude);
    let policy = build_policy(path, section.artifacts, section.summaries_for, section.retention, checker);
    Some(DiscoverAccounts { interval: section.interval.0, exclude, policy: policy? })
}

fn build_policy(
    path: &str,
    artifacts: Artifacts,
    summaries_for: SummariesFor,
    retention: Retention,
    checker: &mut Checker<'_>,
) -> Option<AccountPolicy> {
    let artifacts = build_artifacts(path, artifacts, checker)?;
    Some(AccountPolicy { wants: ArtifactSelection { artifacts, summaries_for }, retention: retention.0 })
}

/// Checks a list of artifacts, which must not be empty.
pub(super) fn build_artifacts(section: &str, artifacts: Artifacts, checker: &mut Checker<'_>) -> Option<ArtifactSet> {
    let path = format!("{section}.artifacts");
    let set: ArtifactSet = artifacts.0.0.into_iter().collect();
    if set.is_empty() && !checker.has_problem(&path) {
        let hint =
            r#"name "transcript", "agent_summary", "auto_summary" or "recording", or leave it out for the three texts"#;
        checker.reject(&path, "is empty: nothing would be fetched", hint);
    }
    Some(set).filter(|set| !set.is_empty())
}
