//! The account registry: the accounts to work on, from the settings or from the list of the login's
//! sub-accounts.
//!
//! It is a separate task, and nothing waits for the list. If the list is unavailable or empty, work
//! continues on the accounts that the database knows, also after a restart, and a finding reports
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::DATABASE_RETRY_INTERVAL;
use super::app_context::AppContext;
use crate::config::{AccountPolicy, AccountSettings, Accounts, DiscoverAccounts};
use crate::db::{AccountKey, AccountRow, DbError};
use crate::fetch::batch_writer::StorageState;
use crate::health::{Finding, FindingCode, Severity};
use crate::model::AccountId;
use crate::ringcx::SubAccount;
use crate::ringcx::rate_limit::Pacer;

/// The time until an unavailable list is requested again.
const LIST_RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// The timeout of a list, as a multiple of the request timeout: login, list and the platform's
/// answer each may take one.
const LIST_TIMEOUT_FACTOR: u32 = 4;
/// The longest accepted id. Postgres' indexes accept 2,704 bytes.
const MAX_ID_BYTES: usize = 512;

/// The accounts to work on, by their key in the database.
pub(crate) type RegisteredAccounts = Arc<BTreeMap<AccountKey, RegisteredAccount>>;

/// An account to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegisteredAccount {
    /// The ids in RingCX.
    pub(crate) id: AccountId,
    /// The display name.
    pub(crate) name: Option<String>,
    /// The settings of the account.
    pub(crate) policy: AccountPolicy,
    /// How many days the vendor keeps its data, if the list contains that.
    pub(crate) retention_days: Option<i64>,
}

/// Why a list cannot be used.
struct AccountListError {
    sentence: String,
    hint: String,
}

/// Runs until `stop`.
///
/// # Errors
/// If the database fails with an error that is not transient.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let registry = AccountRegistry { context };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = registry.keep_current() => ended,
    }
}

struct AccountRegistry {
    context: Arc<AppContext>,
}

impl AccountRegistry {
    async fn keep_current(&self) -> anyhow::Result<()> {
        let mut has_registered_known = false;
        loop {
            let step = match &self.context.settings.accounts {
                Accounts::Listed(listed) => self.register(&listed_accounts(listed)).await.map(|()| None),
                Accounts::Discovered(discover) if !has_registered_known => {
                    self.register_known(discover).await.map(|()| Some(Duration::ZERO))
                }
                Accounts::Discovered(discover) => self.refresh(discover).await.map(Some),
            };
            match step {
                Ok(Some(pause)) => {
                    has_registered_known = true;
                    self.context.clock.sleep(pause).await;
                }
                // The settings do not change.
                Ok(None) => return std::future::pending().await,
                // The supervisor logs it, once for all tasks.
                Err(error) if self.context.db.is_recoverable(&error) => {
                    self.context.clock.sleep(DATABASE_RETRY_INTERVAL).await
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Requests the list once. Returns the time until the next request.
    async fn refresh(&self, discover: &DiscoverAccounts) -> Result<Duration, DbError> {
        if *self.context.subscribe_storage().borrow() != StorageState::Available {
            // Nothing is requested that could not be stored.
            return Ok(DATABASE_RETRY_INTERVAL);
        }
        match self.fetch_list().await {
            Ok(seen) => {
                self.record_missing(discover, &seen).await?;
                let included = included_accounts(discover, seen);
                self.register(&included).await?;
                if included.is_empty() {
                    let sentence = "every sub-account that the login sees is excluded".to_owned();
                    let hint = "remove one from discover_accounts.exclude".to_owned();
                    self.report_list_error(AccountListError { sentence, hint });
                    return Ok(discover.interval.min(LIST_RETRY_INTERVAL));
                }
                if self.context.findings.clear(FindingCode::AccountListFailed, None) {
                    tracing::info!(accounts = included.len(), "the list of sub-accounts can be read again");
                }
                Ok(discover.interval)
            }
            Err(failure) => {
                self.report_list_error(failure);
                Ok(discover.interval.min(LIST_RETRY_INTERVAL))
            }
        }
    }

    /// Registers the accounts that the database knows, until the list is available.
    async fn register_known(&self, discover: &DiscoverAccounts) -> Result<(), DbError> {
        let known = self.context.db.accounts().await?.into_iter();
        let known = known.filter(|row| row.missing_since.is_none() && !discover.exclude.contains(&*row.id.sub));
        let known = known.map(|row| {
            let AccountRow { key, id, name, retention_days, .. } = row;
            (key, RegisteredAccount { id, name, policy: discover.policy, retention_days })
        });
        let known: BTreeMap<AccountKey, RegisteredAccount> = known.collect();
        if !known.is_empty() {
            self.context.set_registered(Arc::new(known));
        }
        Ok(())
    }

    async fn register(&self, accounts: &[RegisteredAccount]) -> Result<(), DbError> {
        let db = &self.context.db;
        let names = accounts.iter().map(|account| (account.id.clone(), account.name.clone())).collect();
        let rows = db.register_accounts(&names, self.context.clock.now()).await?;
        let mut rows: BTreeMap<AccountId, AccountRow> = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
        let mut registered = BTreeMap::new();
        for account in accounts {
            let Some(row) = rows.remove(&account.id) else { continue };
            if account.retention_days.is_some() && account.retention_days != row.retention_days {
                db.record_account_info(row.key, account.retention_days, None).await?;
            }
            let retention_days = account.retention_days.or(row.retention_days);
            registered.insert(row.key, RegisteredAccount { retention_days, ..account.clone() });
        }
        self.context.set_registered(Arc::new(registered));
        Ok(())
    }

    /// Requests the sub-accounts that the login sees, including those that the settings exclude.
    async fn fetch_list(&self) -> Result<Vec<SubAccount>, AccountListError> {
        let context = &self.context;
        // A separate pacer: the list counts against no sub-account's budget.
        let pacer = Pacer::new(context.settings.limits.requests_per_minute, context.clock.clone());
        let list = async {
            let permit = pacer.acquire().await;
            crate::ringcx::list_sub_accounts(&context.api, &context.login, &pacer, permit).await
        };
        let timeout = context.settings.api.request_timeout.saturating_mul(LIST_TIMEOUT_FACTOR);
        let hint = "the list is requested again automatically; if the failure lasts, check that the login's user has access to the accounts";
        let seen = match tokio::time::timeout(timeout, list).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => {
                let sentence = format!("failed to list the sub-accounts: {error}");
                return Err(AccountListError { sentence, hint: error.hint().unwrap_or(hint).to_owned() });
            }
            Err(_) => {
                let sentence = format!("failed to list the sub-accounts: no answer within {} s", timeout.as_secs());
                return Err(AccountListError { sentence, hint: hint.to_owned() });
            }
        };
        let all = seen.len();
        let mut reported = BTreeSet::new();
        let (valid, unusable): (Vec<SubAccount>, Vec<SubAccount>) =
            seen.into_iter().partition(|account| is_valid_id(&account.id.sub) && is_valid_id(&account.id.rc));
        for account in unusable {
            reported.insert(self.report_unusable_id(&account.id.sub));
        }
        context.findings.clear_outdated(&FindingCode::AccountIdUnusable, |subject| reported.contains(subject));
        if valid.is_empty() {
            let sentence = match all {
                0 => "failed to list the sub-accounts: the list is empty".to_owned(),
                _ => "failed to list the sub-accounts: no id in the list can be used".to_owned(),
            };
            return Err(AccountListError { sentence, hint: hint.to_owned() });
        }
        Ok(valid)
    }

    fn report_list_error(&self, failure: AccountListError) {
        let (context, AccountListError { sentence, hint }) = (&self.context, failure);
        let known = context.subscribe_registered().borrow().as_ref().map_or(0, |known| known.len());
        let severity = if known == 0 { Severity::Trouble } else { Severity::Warning };
        let (code, now) = (FindingCode::AccountListFailed, context.clock.now());
        let finding = Finding::new(code, severity, now, sentence.clone(), hint.clone()).blocking(known == 0);
        if context.findings.report(finding) {
            tracing::error!(hint, known, "{sentence}; work on the known accounts continues");
        } else {
            tracing::debug!(known, "{sentence}");
        }
    }

    /// Reports an account that is skipped because of its id. Returns the subject of the finding.
    fn report_unusable_id(&self, sub: &str) -> String {
        let subject: String = sub.chars().filter(|letter| !letter.is_control()).take(40).collect();
        let sentence = "the list of sub-accounts contains an unusable id; the account is skipped";
        let hint = format!(
            "ids may have at most {MAX_ID_BYTES} bytes and no control characters: contact the vendor's support"
        );
        let (code, now) = (FindingCode::AccountIdUnusable, self.context.clock.now());
        let finding = Finding::new(code, Severity::Trouble, now, sentence, hint);
        self.context.findings.report_and_log(finding.about(subject.clone()));
        subject
    }

    /// Records accounts that the login no longer sees. Work on them stops, and their data and items
    /// stay. An excluded account does not count as missing.
    async fn record_missing(&self, discover: &DiscoverAccounts, seen: &[SubAccount]) -> Result<(), DbError> {
        let context = &self.context;
        for account in context.db.accounts().await? {
            let is_excluded = discover.exclude.contains(&*account.id.sub);
            let seen = is_excluded || seen.iter().any(|seen| seen.id.sub == account.id.sub);
            let now = context.clock.now();
            match (seen, account.missing_since) {
                (false, None) => {
                    tracing::warn!(account = %account.id, "the login no longer sees this account; work on it stops, and its data stays");
                    context.db.record_account_info(account.key, None, Some(now)).await?;
                }
                (true, Some(_)) => {
                    if !is_excluded {
                        tracing::info!(account = %account.id, "the login sees this account again");
                    }
                    context.db.record_account_info(account.key, None, None).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The accounts that the settings do not exclude.
fn included_accounts(discover: &DiscoverAccounts, seen: Vec<SubAccount>) -> Vec<RegisteredAccount> {
    let registered = |account: SubAccount| RegisteredAccount {
        id: account.id,
        name: account.name.map(|name| name.replace(char::is_control, "\u{fffd}")),
        policy: discover.policy,
        retention_days: account.retention_days.map(i64::from),
    };
    seen.into_iter().filter(|account| !discover.exclude.contains(&*account.id.sub)).map(registered).collect()
}

fn listed_accounts(listed: &[AccountSettings]) -> Vec<RegisteredAccount> {
    let registered = |account: &AccountSettings| RegisteredAccount {
        id: account.id.clone(),
        name: account.name.clone(),
        policy: account.policy,
        retention_days: None,
    };
    listed.iter().map(registered).collect()
}

/// Whether an id can be stored in the database and used in a URL.
fn is_valid_id(id: &str) -> bool {
    id.len() <= MAX_ID_BYTES && !id.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_database_or_url_can_hold_is_not_valid() {
        assert!(is_valid_id("99999999") && is_valid_id("ä-1") && is_valid_id(&"9".repeat(512)));
        assert!(!is_valid_id("9\u{0}9") && !is_valid_id("9\n") && !is_valid_id(&"9".repeat(513)));
    }
}
