//! How a command gets one request out of a running daemon's budget: it asks here, and the daemon, which alone knows how
//! much is left, leaves room and says so.

use std::time::Duration;

use super::{Db, DbError, sql};
use crate::clock::{Time, millis};

impl Db {
    /// Asks whoever owns the account for room for one request.
    pub async fn ask_for_room(&self, account: i64, now: Time) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql("insert into guest (account, asked) values ($1, $2) returning id");
        let row = tx.first(stmt.bind(account).bind(now)).await?.ok_or_else(|| DbError::lost(account))?;
        let id = row.int(0)?;
        tx.commit().await?;
        Ok(id)
    }

    /// Whether the room that was asked for has been left; a request may then go at once, within a second.
    pub async fn has_room(&self, id: i64) -> Result<bool, DbError> {
        let row = self.first(sql("select granted from guest where id = $1").bind(id)).await?;
        Ok(row.map(|row| row.maybe_int(0)).transpose()?.flatten().is_some())
    }

    /// Notes that a request was made for an account that nobody alive works on, so that whoever begins to leaves room for it.
    pub async fn note_use(&self, account: i64, alive: Duration, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let here = now.plus_millis(tx.clock_ahead(now).await?);
        let stmt = sql("update account set owner = null, epoch = epoch + 1, let_go = $3 where id = $1 and not exists
             (select 1 from replica r where r.name = account.owner and r.released is null and r.heartbeat > $2)");
        tx.run(stmt.bind(account).bind(here.plus_millis(-millis(alive))).bind(here)).await?;
        tx.commit().await
    }

    /// Who asks for room: request and account, those who asked first to begin with.
    pub async fn guests(&self) -> Result<Vec<(i64, i64)>, DbError> {
        let rows = self.all(sql("select id, account from guest where granted is null order by id limit 100")).await?;
        rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
    }

    /// Room has been left; what was asked and never answered for long is forgotten.
    pub async fn leave_room(&self, id: i64, now: Time, forget: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.run(sql("update guest set granted = $2 where id = $1").bind(id).bind(now)).await?;
        tx.run(sql("delete from guest where asked < $1").bind(forget)).await?;
        tx.commit().await
    }
}
