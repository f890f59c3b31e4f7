//! Accounts, their leases, and the pauses of their endpoints.

use std::collections::BTreeMap;

use super::sql::{EndpointName, Flag};
use super::{AccountKey, Arg, Db, DbError, Stmt, sql};
use crate::clock::Time;
use crate::model::{AccountId, Endpoint};

/// A row of table `account`.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AccountRow {
    /// Primary key.
    pub key: AccountKey,
    /// The RingCX ids.
    #[sqlx(flatten)]
    pub id: AccountId,
    /// Display name.
    pub name: Option<String>,
    /// The replica that holds the lease.
    pub owner: Option<String>,
    /// Where the first live window begins; `None` before the first read was planned.
    pub live_start: Option<Time>,
    /// How many days the vendor keeps the data, if the login reported it.
    pub retention_days: Option<i64>,
    /// Since when the login no longer lists the account.
    pub missing_since: Option<Time>,
    /// Artifacts stored or known to be empty.
    #[sqlx(try_from = "i64")]
    pub done: u64,
    /// The newest sequence number of the feed.
    pub feed: i64,
}

/// The right to work on an account, with its fencing epoch. Each write for the account names the
/// lease, and is refused once a newer epoch exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Lease {
    /// Key of the account.
    pub account: AccountKey,
    /// Fencing token. It grows at each change of owner.
    pub epoch: i64,
}

/// An open circuit breaker of one endpoint of an account. No requests are sent until it may be
/// probed.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct PauseRow {
    /// Key of the account.
    pub account: AccountKey,
    /// The paused endpoint.
    #[sqlx(try_from = "EndpointName")]
    pub endpoint: Endpoint,
    /// Start of the pause.
    pub since: Time,
    /// Time of the next probe.
    pub until: Time,
    /// How many pauses followed one another.
    #[sqlx(try_from = "i64")]
    pub times: u32,
    /// The HTTP status that caused the pause.
    pub status: Option<i64>,
    /// Whether no token could be obtained, so that the endpoint itself was not requested.
    #[sqlx(try_from = "Flag")]
    pub is_login_failure: bool,
    /// The cause, for display.
    pub reason: String,
}

const ACCOUNT_COLUMNS: &str = "id as key, rc, sub, name, owner, live_start, retention_days, missing_since, done, feed";
const INSERT_ACCOUNTS: &str = "insert into account (rc, sub, name, created) values ";
const UPDATE_ACCOUNTS: &str =
    " on conflict (sub) do update set rc = excluded.rc, name = coalesce(excluded.name, account.name)";

impl Db {
    /// Returns the account with these ids. Creates it if it is new, and updates its name.
    pub async fn register_account(&self, id: &AccountId, name: Option<&str>, now: Time) -> Result<AccountRow, DbError> {
        let stmt =
            Stmt::built(format!("{INSERT_ACCOUNTS}($1, $2, $3, $4){UPDATE_ACCOUNTS} returning {ACCOUNT_COLUMNS}"));
        let mut tx = self.begin().await?;
        let row = tx.first(stmt.bind(&*id.rc).bind(&*id.sub).bind(name).bind(now)).await?;
        tx.commit().await?;
        row.ok_or_else(|| DbError::missing_row("account", id))
    }

    /// Returns the accounts with these ids. Creates those that are new, and updates names. Writes
    /// nothing if all are up to date.
    pub async fn register_accounts(
        &self,
        wanted: &BTreeMap<AccountId, Option<String>>,
        now: Time,
    ) -> Result<Vec<AccountRow>, DbError> {
        let mut known = self.accounts().await?;
        let held: BTreeMap<&AccountId, &AccountRow> = known.iter().map(|row| (&row.id, row)).collect();
        let is_outdated = |(id, name): &(&AccountId, &Option<String>)| {
            held.get(id).is_none_or(|row| name.is_some() && row.name != **name)
        };
        let outdated: Vec<Vec<Arg>> = wanted
            .iter()
            .filter(is_outdated)
            .map(|(id, name)| vec![(&*id.rc).into(), (&*id.sub).into(), name.clone().into(), now.into()])
            .collect();
        if !outdated.is_empty() {
            self.run(Stmt::rows(INSERT_ACCOUNTS, outdated, UPDATE_ACCOUNTS)).await?;
            known = self.accounts().await?;
        }
        known.retain(|row| wanted.contains_key(&row.id));
        Ok(known)
    }

    /// All accounts, by sub-account id.
    pub async fn accounts(&self) -> Result<Vec<AccountRow>, DbError> {
        self.all(Stmt::built(format!("select {ACCOUNT_COLUMNS} from account order by sub"))).await
    }

    /// Sets where the first live window begins, unless it is set. Returns the value in effect.
    pub async fn init_live_start(&self, account: AccountKey, start: Time) -> Result<Time, DbError> {
        let held = self.value(sql("select live_start from account where id = $1").bind(account)).await?;
        if let Some(held) = held.flatten() {
            return Ok(held);
        }
        let mut tx = self.begin().await?;
        let stmt = sql("update account set live_start = coalesce(live_start, $2) where id = $1 returning live_start");
        let held = tx.value(stmt.bind(account).bind(start)).await?.ok_or_else(|| DbError::lease_lost(account))?;
        tx.commit().await?;
        Ok(held)
    }

    /// Records what the login reports of an account: the vendor's retention in days, and whether
    /// the account is listed.
    pub async fn record_account_info(
        &self,
        account: AccountKey,
        days: Option<i64>,
        missing: Option<Time>,
    ) -> Result<(), DbError> {
        let stmt =
            sql("update account set retention_days = coalesce($2, retention_days), missing_since = $3 where id = $1");
        self.run(stmt.bind(account).bind(days).bind(missing)).await.map(drop)
    }

    /// Inserts the pause of an account's endpoint, or updates it.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now. That owner does not know of this
    /// pause, so it would never end it.
    pub async fn save_pause(&self, lease: Lease, pause: &PauseRow) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold_lease(lease).await?;
        let stmt = sql("insert into pause (account, endpoint, since, until, times, status, is_login_failure, reason)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             on conflict (account, endpoint) do update set until = excluded.until, times = excluded.times,
             status = excluded.status, is_login_failure = excluded.is_login_failure, reason = excluded.reason");
        let stmt = stmt.bind(lease.account).bind(pause.endpoint.name()).bind(pause.since).bind(pause.until);
        let stmt = stmt.bind(pause.times).bind(pause.status).bind(i64::from(pause.is_login_failure));
        tx.run(stmt.bind(&pause.reason)).await?;
        tx.commit().await
    }

    /// Deletes a pause. Its duration is added to the items' paused time, so that their horizon
    /// moves by as much.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn end_pause(
        &self,
        lease: Lease,
        endpoint: Endpoint,
        waited: Option<(Time, Time)>,
    ) -> Result<(), DbError> {
        let (mut tx, account) = (self.begin().await?, lease.account);
        tx.hold_lease(lease).await?;
        let stmt = sql("delete from pause where account = $1 and endpoint = $2").bind(account).bind(endpoint.name());
        let was_paused = tx.run(stmt).await? > 0;
        // Only if the row was still there: a caller whose commit failed with an unknown result
        // calls this again.
        if let (true, Some((since, until)), Some(artifact)) = (was_paused, waited, artifact_of_endpoint(endpoint)) {
            let stmt =
                sql("update work set paused = paused + ($4 - case when first_try > $3 then first_try else $3 end)
                 where account = $1 and artifact = $2 and state = 0 and first_try < $4");
            tx.run(stmt.bind(account).bind(artifact.code()).bind(since).bind(until)).await?;
        }
        tx.commit().await
    }

    /// All pauses, by account and endpoint.
    pub async fn pauses(&self) -> Result<Vec<PauseRow>, DbError> {
        let stmt = sql("select account, endpoint, since, until, times, status, is_login_failure, reason from pause
             order by account, endpoint");
        self.all(stmt).await
    }
}

fn artifact_of_endpoint(endpoint: Endpoint) -> Option<crate::model::Artifact> {
    crate::model::Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == endpoint)
}
