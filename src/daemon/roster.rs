//! The account registry: which accounts are to be worked on, those of the settings or those that the login sees.
//!
//! A task of its own, at its own pace: nothing waits for the list. Where it cannot be had, or is empty, the accounts that
//! the database knows go on being worked on, also after a restart, and a finding says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::config::{Account, AccountPolicy, Accounts, DiscoverAccounts};
use crate::db::{AccountRow, DbError};
use crate::fetch::committer::Storage;
use crate::health::{Finding, Severity};
use crate::model::AccountId;
use crate::ringcx::SubAccount;
use crate::ringcx::limits::Pacer;

/// How soon a list that could not be had is asked for again.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// Between tries while the database is away.
const DATABASE_RETRY: Duration = Duration::from_secs(1);
/// How long a list may take, in request time-outs: login, list and the platform's answer, each in time.
const LIST_TIMEOUTS: u32 = 4;
/// The longest id that is accepted, in bytes: Postgres' indexes take 2,704.
const LONGEST_ID: usize = 512;

/// The finding that the list cannot be used.
const LIST_FAILED: &str = "account_list_failed";
/// The finding that an account's id cannot be used.
const BAD_ID: &str = "account_id_unusable";

/// The accounts to be worked on, by their number in the database.
pub type Registered = Arc<BTreeMap<i64, Wanted>>;

/// An account as it is to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its ids.
    pub id: AccountId,
    /// For people.
    pub name: Option<String>,
    /// What is wanted of it.
    pub policy: AccountPolicy,
    /// How many days the vendor keeps its data, where the list said so.
    pub retention_days: Option<i64>,
}

/// Why a list is of no use.
struct ListFailure {
    sentence: String,
    hint: String,
}

/// Keeps the registry until `stop`.
///
/// # Errors
/// Where the database fails in a way that waiting does not cure.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = Registry { shared };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = registry.work() => ended,
    }
}

struct Registry {
    shared: Arc<Shared>,
}

impl Registry {
    async fn work(&self) -> anyhow::Result<()> {
        let mut has_known = false;
        loop {
            let step = match &self.shared.settings.accounts {
                Accounts::Listed(listed) => self.register(&listed_accounts(listed)).await.map(|()| None),
                Accounts::Discovered(how) if !has_known => {
                    self.register_known(how).await.map(|()| Some(Duration::ZERO))
                }
                Accounts::Discovered(how) => self.look(how).await.map(Some),
            };
            match step {
                Ok(Some(pause)) => {
                    has_known = true;
                    self.shared.clock.sleep(pause).await;
                }
                // Nothing that could change.
                Ok(None) => return std::future::pending().await,
                // The heartbeat logs that, once for all.
                Err(error) if self.shared.db.recovers_from(&error) => self.shared.clock.sleep(DATABASE_RETRY).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks for the list once; returns when to ask again.
    async fn look(&self, how: &DiscoverAccounts) -> Result<Duration, DbError> {
        if *self.shared.storage().borrow() != Storage::Ok {
            // What could not be stored is not asked for.
            return Ok(DATABASE_RETRY);
        }
        match self.seen().await {
            Ok(seen) => {
                self.note_missing(how, &seen).await?;
                let wanted = wanted(how, seen);
                self.register(&wanted).await?;
                if wanted.is_empty() {
                    let sentence = "every sub-account that the login sees is excluded".to_owned();
                    let hint = "take one out of discover_accounts.exclude".to_owned();
                    self.report(ListFailure { sentence, hint });
                    return Ok(how.interval.min(RETRY_AFTER));
                }
                if self.shared.findings.clear(LIST_FAILED, None) {
                    tracing::info!(accounts = wanted.len(), "the list of sub-accounts can be read again");
                }
                Ok(how.interval)
            }
            Err(failure) => {
                self.report(failure);
                Ok(how.interval.min(RETRY_AFTER))
            }
        }
    }

    /// Registers the accounts that the database knows, before the list is there.
    async fn register_known(&self, how: &DiscoverAccounts) -> Result<(), DbError> {
        let known = self.shared.db.accounts().await?.into_iter();
        let known = known.filter(|row| row.missing_since.is_none() && !how.exclude.contains(&*row.id.sub));
        let known = known.map(|row| {
            let AccountRow { key, id, name, retention_days, .. } = row;
            (key, Wanted { id, name, policy: how.policy, retention_days })
        });
        let known: BTreeMap<i64, Wanted> = known.collect();
        if !known.is_empty() {
            self.shared.set_registered(Arc::new(known));
        }
        Ok(())
    }

    async fn register(&self, wanted: &[Wanted]) -> Result<(), DbError> {
        let db = &self.shared.db;
        let names = wanted.iter().map(|wanted| (wanted.id.clone(), wanted.name.clone())).collect();
        let rows = db.enrol_all(&names, self.shared.clock.now()).await?;
        let mut rows: BTreeMap<AccountId, AccountRow> = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
        let mut registered = BTreeMap::new();
        for wanted in wanted {
            let Some(row) = rows.remove(&wanted.id) else { continue };
            if wanted.retention_days.is_some() && wanted.retention_days != row.retention_days {
                db.note_account(row.key, wanted.retention_days, None).await?;
            }
            let retention_days = wanted.retention_days.or(row.retention_days);
            registered.insert(row.key, Wanted { retention_days, ..wanted.clone() });
        }
        self.shared.set_registered(Arc::new(registered));
        Ok(())
    }

    /// The sub-accounts that the login sees, also those that the settings exclude.
    async fn seen(&self) -> Result<Vec<SubAccount>, ListFailure> {
        let shared = &self.shared;
        // A pace of its own: the list belongs to no sub-account's budget.
        let pacer = Pacer::new(shared.settings.limits.requests_per_minute, shared.clock.clone());
        let list = async {
            let permit = pacer.enter().await;
            crate::ringcx::accounts(&shared.api, &shared.login, &pacer, permit).await
        };
        let patience = shared.settings.api.request_timeout.saturating_mul(LIST_TIMEOUTS);
        let hint = "nothing to do if it passes, it is asked for again; if it lasts, check that the login's user may see the accounts";
        let seen = match tokio::time::timeout(patience, list).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => {
                let sentence = format!("failed to list the sub-accounts: {error}");
                return Err(ListFailure { sentence, hint: error.hint().unwrap_or(hint).to_owned() });
            }
            Err(_) => {
                let sentence =
                    format!("failed to list the sub-accounts: the list did not come within {} s", patience.as_secs());
                return Err(ListFailure { sentence, hint: hint.to_owned() });
            }
        };
        let all = seen.len();
        let mut bad = BTreeSet::new();
        let (good, unusable): (Vec<SubAccount>, Vec<SubAccount>) =
            seen.into_iter().partition(|account| is_usable(&account.id.sub) && is_usable(&account.id.rc));
        for account in unusable {
            bad.insert(self.report_id(&account.id.sub));
        }
        for finding in shared.findings.list().iter().filter(|finding| finding.code == BAD_ID) {
            if let Some(subject) = finding.subject.as_deref().filter(|subject| !bad.contains(*subject)) {
                shared.findings.clear(BAD_ID, Some(subject));
            }
        }
        if good.is_empty() {
            let sentence = match all {
                0 => "failed to list the sub-accounts: the list is empty".to_owned(),
                _ => "failed to list the sub-accounts: no id in the list can be used".to_owned(),
            };
            return Err(ListFailure { sentence, hint: hint.to_owned() });
        }
        Ok(good)
    }

    fn report(&self, failure: ListFailure) {
        let (shared, ListFailure { sentence, hint }) = (&self.shared, failure);
        let known = shared.registered().borrow().as_ref().map_or(0, |known| known.len());
        let finding = Finding {
            code: LIST_FAILED,
            severity: if known == 0 { Severity::Trouble } else { Severity::Warning },
            since: shared.clock.now(),
            subject: None,
            sentence: sentence.clone(),
            hint: hint.clone(),
            blocks_progress: known == 0,
        };
        if shared.findings.report(finding) {
            tracing::error!(hint, known, "{sentence}; the accounts that are known go on being worked on");
        } else {
            tracing::debug!(known, "{sentence}");
        }
    }

    /// Reports an account that is left out; returns what it is called.
    fn report_id(&self, sub: &str) -> String {
        let subject: String = sub.chars().filter(|letter| !letter.is_control()).take(40).collect();
        let finding = Finding {
            code: BAD_ID,
            severity: Severity::Trouble,
            since: self.shared.clock.now(),
            subject: Some(subject.clone()),
            sentence: "the list of sub-accounts holds an id that cannot be used; the account is left out".to_owned(),
            hint: format!(
                "ids are at most {LONGEST_ID} bytes long, without control characters: ask the vendor's support"
            ),
            blocks_progress: false,
        };
        if self.shared.findings.report(finding) {
            tracing::error!(
                account = subject,
                "an id in the list of sub-accounts cannot be used; the account is left out"
            );
        }
        subject
    }

    /// An account that the login no longer sees rests and is reported; all that is held and queued of it stays. One that the
    /// settings exclude is not missed.
    async fn note_missing(&self, how: &DiscoverAccounts, seen: &[SubAccount]) -> Result<(), DbError> {
        let shared = &self.shared;
        for account in shared.db.accounts().await? {
            let is_excluded = how.exclude.contains(&*account.id.sub);
            let seen = is_excluded || seen.iter().any(|seen| seen.id.sub == account.id.sub);
            let now = shared.clock.now();
            match (seen, account.missing_since) {
                (false, None) => {
                    tracing::warn!(account = %account.id, "the login no longer sees this account; it rests, and nothing of it is dropped");
                    shared.db.note_account(account.key, None, Some(now)).await?;
                }
                (true, Some(_)) => {
                    if !is_excluded {
                        tracing::info!(account = %account.id, "the login sees this account again");
                    }
                    shared.db.note_account(account.key, None, None).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Those that the settings do not exclude.
fn wanted(how: &DiscoverAccounts, seen: Vec<SubAccount>) -> Vec<Wanted> {
    let wanted = |account: SubAccount| Wanted {
        id: account.id,
        name: account.name.map(|name| name.replace(char::is_control, "\u{fffd}")),
        policy: how.policy,
        retention_days: account.retention_days.map(i64::from),
    };
    seen.into_iter().filter(|account| !how.exclude.contains(&*account.id.sub)).map(wanted).collect()
}

fn listed_accounts(listed: &[Account]) -> Vec<Wanted> {
    let wanted = |account: &Account| Wanted {
        id: account.id.clone(),
        name: account.name.clone(),
        policy: account.policy,
        retention_days: None,
    };
    listed.iter().map(wanted).collect()
}

/// Whether an id can be stored and be part of an address.
fn is_usable(id: &str) -> bool {
    id.len() <= LONGEST_ID && !id.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_database_and_no_address_can_hold_is_not_usable() {
        assert!(is_usable("99999999") && is_usable("ä-1") && is_usable(&"9".repeat(512)));
        assert!(!is_usable("9\u{0}9") && !is_usable("9\n") && !is_usable(&"9".repeat(513)));
    }
}
