//! Permit requests: a command asks the running daemon for one request of its rate limit. Only the
//! daemon knows how much is left.

use std::time::Duration;

use super::{AccountKey, Db, DbError, Lease, sql};
use crate::clock::{Time, millis};

impl Db {
    /// Asks the owner of an account for a permit for one request. Returns the key of the permit
    /// request.
    pub async fn request_permit(&self, account: AccountKey, now: Time) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql("insert into guest (account, asked) values ($1, $2) returning id");
        let id = tx.value(stmt.bind(account).bind(now)).await?;
        tx.commit().await?;
        id.ok_or_else(|| DbError::missing_row("guest", format!("the new request of account {account}")))
    }

    /// How long ago the permit was granted; `None` if it was not.
    pub async fn permit_age(&self, id: i64, now: Time) -> Result<Option<Duration>, DbError> {
        let granted = self.value(sql("select granted from guest where id = $1").bind(id)).await?;
        let Some(granted) = granted.flatten() else { return Ok(None) };
        Ok(Some(self.database_now(now).await?.since(granted)))
    }

    /// Records that a command sent a request for an account without a live owner, so that the next
    /// owner accounts for it.
    pub async fn record_foreign_use(
        &self,
        account: AccountKey,
        lease_duration: Duration,
        now: Time,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let database_now = now.plus_millis(tx.clock_offset_ms(now).await?);
        let stmt = sql("update account set owner = null, epoch = epoch + 1, let_go = $3 where id = $1 and not exists
             (select 1 from replica r where r.name = account.owner and r.released is null and r.heartbeat > $2)");
        tx.run(stmt.bind(account).bind(database_now.plus_millis(-millis(lease_duration))).bind(database_now)).await?;
        tx.commit().await
    }

    /// Pending permit requests: key and account, the oldest first.
    pub async fn pending_permit_requests(&self) -> Result<Vec<(i64, AccountKey)>, DbError> {
        self.all(sql("select id, account from guest where granted is null order by id limit 100")).await
    }

    /// Grants a permit for the leased account. Deletes requests that were made before
    /// `delete_before`. The moment is stored by the database's clock: the command may run on another
    /// machine.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn grant_permit(&self, id: i64, lease: Lease, now: Time, delete_before: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold_lease(lease).await?;
        let granted = now.plus_millis(tx.clock_offset_ms(now).await?);
        let stmt = sql("update guest set granted = $3 where id = $1 and account = $2 and granted is null");
        tx.run(stmt.bind(id).bind(lease.account).bind(granted)).await?;
        tx.run(sql("delete from guest where asked < $1").bind(delete_before)).await?;
        tx.commit().await
    }
}
