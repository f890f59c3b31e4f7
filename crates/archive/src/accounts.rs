//! Accounts, who owns them, and what of them is paused.

use std::collections::BTreeMap;

use super::{Arg, Db, DbError, Stmt, sql};
use crate::clock::Time;
use crate::model::{AccountId, Endpoint};

/// An account as the database knows it.
#[derive(Debug, Clone)]
pub struct AccountRow {
    /// Its number in the database.
    pub key: i64,
    /// Its ids in RingCX.
    pub id: AccountId,
    /// For people.
    pub name: Option<String>,
    /// The replica that owns it now.
    pub owner: Option<String>,
    /// Where the first live window begins; `None` before the first read was planned.
    pub live_start: Option<Time>,
    /// How many days the vendor keeps its data, where the login said so.
    pub retention_days: Option<i64>,
    /// Since when the login no longer sees it.
    pub missing_since: Option<Time>,
    /// Artifacts stored or known to be empty.
    pub done: u64,
    /// The newest number in its feed.
    pub feed: i64,
}

/// The right to work on an account: its number and the epoch of this ownership. Everything that is written for the
/// account names it, and is refused once another epoch has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// The account's number in the database.
    pub account: i64,
    /// Grows at each change of owner.
    pub epoch: i64,
}

/// Something of an account that is not asked for at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseRow {
    /// The account's number.
    pub account: i64,
    /// What is paused.
    pub endpoint: Endpoint,
    /// Since when.
    pub since: Time,
    /// When it is tried again.
    pub until: Time,
    /// How often in a row.
    pub times: u32,
    /// The status that caused it.
    pub status: Option<i64>,
    /// For people.
    pub reason: String,
}

const COLUMNS: &str = "id, rc, sub, name, owner, live_start, retention_days, missing_since, done, feed";

fn account_row(row: &super::Row) -> Result<AccountRow, DbError> {
    Ok(AccountRow {
        key: row.int(0)?,
        id: AccountId::new(row.text(1)?, row.text(2)?),
        name: row.maybe_text(3)?,
        owner: row.maybe_text(4)?,
        live_start: row.maybe_time(5)?,
        retention_days: row.maybe_int(6)?,
        missing_since: row.maybe_time(7)?,
        done: row.count(8)?,
        feed: row.int(9)?,
    })
}

impl Db {
    /// The account with these ids; made if it is new, its name brought up to date.
    pub async fn enrol(&self, id: &AccountId, name: Option<&str>, now: Time) -> Result<AccountRow, DbError> {
        let text = enrol_text();
        let stmt = super::Stmt::built(text).bind(&*id.rc).bind(&*id.sub).bind(name).bind(now);
        let mut tx = self.begin().await?;
        let row =
            tx.first(stmt).await?.ok_or_else(|| DbError::new(super::DbFault::Broken, "failed to enrol an account"))?;
        let row = account_row(&row)?;
        tx.commit().await?;
        Ok(row)
    }

    /// The accounts with these ids; those that are new are made, names brought up to date. Where nothing is to be done,
    /// nothing is written, however many they are.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn enrol_all(
        &self,
        wanted: &BTreeMap<AccountId, Option<String>>,
        now: Time,
    ) -> Result<Vec<AccountRow>, DbError> {
        let mut known = self.accounts().await?;
        let held: BTreeMap<&AccountId, &AccountRow> = known.iter().map(|row| (&row.id, row)).collect();
        let open = |(id, name): &(&AccountId, &Option<String>)| {
            held.get(id).is_none_or(|row| name.is_some() && row.name != **name)
        };
        let open: Vec<Vec<Arg>> = wanted
            .iter()
            .filter(open)
            .map(|(id, name)| vec![(&*id.rc).into(), (&*id.sub).into(), name.clone().into(), now.into()])
            .collect();
        if !open.is_empty() {
            let mut tx = self.begin().await?;
            for part in open.chunks(super::BULK) {
                let stmt = Stmt::rows(
                    "insert into account (rc, sub, name, created) values ",
                    part.to_vec(),
                    " on conflict (sub) do update set rc = excluded.rc, name = coalesce(excluded.name, account.name)",
                );
                tx.run(stmt).await?;
            }
            tx.commit().await?;
            known = self.accounts().await?;
        }
        known.retain(|row| wanted.contains_key(&row.id));
        Ok(known)
    }

    /// All accounts, by sub-account id.
    pub async fn accounts(&self) -> Result<Vec<AccountRow>, DbError> {
        let rows = self.all(super::Stmt::built(format!("select {COLUMNS} from account order by sub"))).await?;
        rows.iter().map(account_row).collect()
    }

    /// Fixes where the first live window begins; only the first call counts. Returns what holds.
    pub async fn start_live(&self, account: i64, start: Time) -> Result<Time, DbError> {
        let held = self.first(sql("select live_start from account where id = $1").bind(account)).await?;
        if let Some(held) = held.map(|row| row.maybe_time(0)).transpose()?.flatten() {
            return Ok(held);
        }
        let mut tx = self.begin().await?;
        let stmt = sql("update account set live_start = coalesce(live_start, $2) where id = $1 returning live_start");
        let row = tx.first(stmt.bind(account).bind(start)).await?.ok_or_else(|| DbError::lost(account))?;
        let held = row.time(0)?;
        tx.commit().await?;
        Ok(held)
    }

    /// Notes what the login says of an account: the days the vendor keeps data, and whether it is seen at all.
    pub async fn note_account(&self, account: i64, days: Option<i64>, missing: Option<Time>) -> Result<(), DbError> {
        let stmt =
            sql("update account set retention_days = coalesce($2, retention_days), missing_since = $3 where id = $1");
        self.run(stmt.bind(account).bind(days).bind(missing)).await.map(drop)
    }

    /// Pauses an endpoint of an account, or prolongs the pause.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now, who would never end a pause that it does not know of.
    pub async fn pause(&self, owned: Owned, pause: &PauseRow) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold(owned).await?;
        let stmt = sql(
            "insert into pause (account, endpoint, since, until, times, status, reason) values ($1, $2, $3, $4, $5, $6, $7)
             on conflict (account, endpoint) do update set until = excluded.until, times = excluded.times,
             status = excluded.status, reason = excluded.reason",
        );
        let stmt = stmt.bind(owned.account).bind(pause.endpoint.name()).bind(pause.since).bind(pause.until);
        tx.run(stmt.bind(pause.times).bind(pause.status).bind(&pause.reason)).await?;
        tx.commit().await
    }

    /// Ends a pause; the time it took does not count against the items that waited.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now.
    pub async fn resume(&self, owned: Owned, endpoint: Endpoint, waited: Option<(Time, Time)>) -> Result<(), DbError> {
        let (mut tx, account) = (self.begin().await?, owned.account);
        tx.hold(owned).await?;
        let stmt = sql("delete from pause where account = $1 and endpoint = $2").bind(account).bind(endpoint.name());
        let was_paused = tx.run(stmt).await? > 0;
        // Counted once: one who could not learn whether this was written writes it again.
        if let (true, Some((since, until)), Some(artifact)) = (was_paused, waited, artifact_of(endpoint)) {
            let stmt =
                sql("update work set paused = paused + ($4 - case when first_try > $3 then first_try else $3 end)
                 where account = $1 and artifact = $2 and state = 0 and first_try < $4");
            tx.run(stmt.bind(account).bind(artifact.code()).bind(since).bind(until)).await?;
        }
        tx.commit().await
    }

    /// All pauses.
    pub async fn pauses(&self) -> Result<Vec<PauseRow>, DbError> {
        let stmt =
            sql("select account, endpoint, since, until, times, status, reason from pause order by account, endpoint");
        let rows = self.all(stmt).await?;
        let mut pauses = Vec::with_capacity(rows.len());
        for row in &rows {
            let name = row.text(1)?;
            let Some(endpoint) = endpoint_named(&name) else { continue };
            pauses.push(PauseRow {
                account: row.int(0)?,
                endpoint,
                since: row.time(2)?,
                until: row.time(3)?,
                times: u32::try_from(row.int(4)?).unwrap_or(0),
                status: row.maybe_int(5)?,
                reason: row.text(6)?,
            });
        }
        Ok(pauses)
    }
}

fn enrol_text() -> String {
    format!(
        "insert into account (rc, sub, name, created) values ($1, $2, $3, $4)
         on conflict (sub) do update set rc = excluded.rc, name = coalesce(excluded.name, account.name)
         returning {COLUMNS}"
    )
}

fn endpoint_named(name: &str) -> Option<Endpoint> {
    use Endpoint::{Accounts, AgentSummary, AutoSummary, Login, Metadata, Transcript};
    [Login, Accounts, Metadata, Transcript, AgentSummary, AutoSummary]
        .into_iter()
        .find(|endpoint| endpoint.name() == name)
}

fn artifact_of(endpoint: Endpoint) -> Option<crate::model::Artifact> {
    crate::model::Artifact::ALL.into_iter().find(|artifact| Endpoint::from(*artifact) == endpoint)
}
