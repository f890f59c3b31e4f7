//! Which accounts are to be worked on: those of the settings, or those that the login sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::shared::Shared;
use crate::clock::Tick;
use crate::config::{AccountPolicy, Accounts, DiscoverAccounts};
use crate::db::{AccountRow, DbError};
use crate::model::AccountId;
use crate::ringcx::ApiError;
use crate::ringcx::limits::Pacer;

/// How soon a list that could not be had is asked for again.
const AGAIN: Duration = Duration::from_secs(15);

/// An account as it is to be worked on.
#[derive(Debug, Clone)]
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

/// The accounts to be worked on, by their number in the database.
pub struct Roster {
    shared: Arc<Shared>,
    wanted: BTreeMap<i64, Wanted>,
    /// When to look again; `None` once there is nothing that could change.
    due: Option<Tick>,
    known: bool,
}

impl Roster {
    /// Empty until [`Roster::look`].
    pub fn new(shared: Arc<Shared>) -> Roster {
        Roster { shared, wanted: BTreeMap::new(), due: Some(Tick::default()), known: false }
    }

    /// The accounts to be worked on.
    pub fn wanted(&self) -> &BTreeMap<i64, Wanted> {
        &self.wanted
    }

    /// Whether it has been possible to find out at all.
    pub fn known(&self) -> bool {
        self.known
    }

    /// Brings itself up to date, if it is time to.
    ///
    /// # Errors
    /// Where the database fails. That the API cannot be asked is reported, and what was known stays.
    pub async fn look(&mut self) -> Result<(), DbError> {
        let now = self.shared.clock.tick();
        if self.due.is_none_or(|due| now < due) {
            return Ok(());
        }
        let shared = self.shared.clone();
        match &shared.settings.accounts {
            Accounts::Listed(listed) => {
                let wanted = listed.iter().map(|account| Wanted {
                    id: account.id.clone(),
                    name: account.name.clone(),
                    policy: account.policy,
                    retention_days: None,
                });
                self.enrol(wanted.collect()).await?;
                self.due = None;
            }
            Accounts::Discovered(how) => {
                self.due = Some(now + how.interval.min(AGAIN));
                match self.seen(how).await {
                    Ok(wanted) => {
                        self.note_missing(&wanted).await?;
                        self.enrol(wanted).await?;
                        self.due = Some(now + how.interval);
                    }
                    Err(error) => {
                        let hint = error.hint();
                        tracing::error!(%error, hint, "failed to list the sub-accounts; trying again");
                    }
                }
            }
        }
        Ok(())
    }

    async fn enrol(&mut self, wanted: Vec<Wanted>) -> Result<(), DbError> {
        let db = &self.shared.db;
        let names = wanted.iter().map(|wanted| (wanted.id.clone(), wanted.name.clone())).collect();
        let rows = db.enrol_all(&names, self.shared.clock.now()).await?;
        let mut rows: BTreeMap<AccountId, AccountRow> = rows.into_iter().map(|row| (row.id.clone(), row)).collect();
        let mut roster = BTreeMap::new();
        for mut wanted in wanted {
            let Some(row) = rows.remove(&wanted.id) else { continue };
            if wanted.retention_days.is_some() && wanted.retention_days != row.retention_days {
                db.note_account(row.key, wanted.retention_days, None).await?;
            }
            wanted.retention_days = wanted.retention_days.or(row.retention_days);
            roster.insert(row.key, wanted);
        }
        self.wanted = roster;
        self.known = true;
        Ok(())
    }

    async fn seen(&self, how: &DiscoverAccounts) -> Result<Vec<Wanted>, ApiError> {
        // A pace of its own: the list belongs to no sub-account's budget.
        let pacer = Pacer::new(self.shared.settings.limits.requests_per_minute, self.shared.clock.clone());
        let permit = pacer.enter().await;
        let seen = crate::ringcx::accounts(&self.shared.api, &self.shared.login, &pacer, permit).await?;
        let wanted = seen.into_iter().filter(|account| !how.exclude.contains(&*account.id.sub)).map(|account| Wanted {
            id: account.id,
            name: account.name,
            policy: how.policy,
            retention_days: account.retention_days.map(i64::from),
        });
        Ok(wanted.collect())
    }

    /// An account that the login no longer sees rests and is reported; all that is held and queued of it stays.
    async fn note_missing(&self, wanted: &[Wanted]) -> Result<(), DbError> {
        let now = self.shared.clock.now();
        for account in self.shared.db.accounts().await? {
            let seen = wanted.iter().any(|wanted| wanted.id.sub == account.id.sub);
            match (seen, account.missing_since) {
                (false, None) => {
                    tracing::warn!(account = %account.id, "the login no longer sees this account; it rests, and nothing of it is dropped");
                    self.shared.db.note_account(account.key, None, Some(now)).await?;
                }
                (true, Some(_)) => {
                    tracing::info!(account = %account.id, "the login sees this account again");
                    self.shared.db.note_account(account.key, None, None).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}
