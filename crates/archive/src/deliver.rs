//! Delivery: where each sink stands in each account's feed, the few events that did not go through, and replays.
//!
//! What a pass came to commits together (`deliver/pass.rs`), so that a crash repeats deliveries and loses none.

mod feed;
mod look;
mod pass;
mod replay;

use std::time::Duration;

use super::{Arg, BULK, Db, DbError, Item, Owned, Row, Stmt, Tx, sql};
use crate::clock::Time;
use crate::model::AccountId;

pub use feed::{FeedRow, Head, Window};
pub use look::{SinkFailure, SinkOfAccount, SinkView};
pub use pass::{Move, Pass, Replayed};
pub use replay::{ReplayRequest, ReplayRow};

/// A sink as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkRow {
    /// Its number in the database.
    pub key: i64,
    /// Its name in the settings.
    pub name: String,
    /// When its name first appeared.
    pub created: Time,
    /// Since when it is stopped, where it said that it wants nothing more.
    pub stopped: Option<Time>,
    /// Why it is stopped.
    pub reason: Option<String>,
}

/// An account whose feed is ahead of a sink's cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The account, and the ownership under which this was read.
    pub owned: Owned,
    /// Its ids.
    pub id: AccountId,
    /// Where the sink stands.
    pub cursor: i64,
    /// Where the feed stands.
    pub feed: i64,
}

/// An event that did not go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The account's number.
    pub account: i64,
    /// The event's number in the feed.
    pub feed: i64,
    /// Which artifact it is about.
    pub item: Item,
    /// Whether it has been given up; else it waits.
    pub failed: bool,
    /// Tries so far.
    pub tries: u32,
    /// For how long it has been tried, without the time in which the sink as a whole was away.
    pub waited: Duration,
    /// When it was first tried.
    pub first_try: Time,
    /// When it was last tried.
    pub last_try: Time,
    /// When it is tried again.
    pub due: Time,
    /// The last answer's status.
    pub status: Option<u16>,
    /// Why the last try failed; never content.
    pub reason: String,
}

/// An object that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The account's number.
    pub account: i64,
    /// The first number in the feed that belongs to it.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// The object's name.
    pub name: String,
}

fn sink_row(row: &Row) -> Result<SinkRow, DbError> {
    Ok(SinkRow {
        key: row.int(0)?,
        name: row.text(1)?,
        created: row.time(2)?,
        stopped: row.maybe_time(3)?,
        reason: row.maybe_text(4)?,
    })
}

impl Db {
    /// The sink of this name. Where the name is new, it begins after all that is stored, or with the archive's first
    /// artifact. `place` stands for where it delivers to: a sink that was stopped starts again when that changes.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sink(&self, name: &str, from_beginning: bool, place: &str, now: Time) -> Result<SinkRow, DbError> {
        let held = "select id, name, created, stopped, reason, place from sink where name = $1";
        if let Some(row) = self.first(sql(held).bind(name)).await?
            && row.text(5)? == place
        {
            return sink_row(&row);
        }
        let mut tx = self.begin().await?;
        tx.lock_key("sinks").await?;
        let stmt = sql("insert into sink (name, created, place) values ($1, $2, $3) on conflict (name) do nothing
             returning id");
        let new = tx.first(stmt.bind(name).bind(now).bind(place)).await?.map(|row| row.int(0)).transpose()?;
        match new {
            Some(key) if !from_beginning => {
                let stmt = sql("insert into sink_cursor (sink, account, feed, delivered)
                     select $1, a.id, a.feed, 0 from account a where a.feed > 0");
                tx.run(stmt.bind(key)).await?;
            }
            Some(_) => {}
            None => {
                let stmt =
                    sql("update sink set place = $2, stopped = null, reason = null where name = $1 and place <> $2");
                tx.run(stmt.bind(name).bind(place)).await?;
            }
        }
        let row = tx.first(sql(held).bind(name)).await?.ok_or_else(|| DbError::lost(0))?;
        tx.commit().await?;
        sink_row(&row)
    }

    /// Sinks that the database knows, by name; also those that are no longer in the settings.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn sinks(&self) -> Result<Vec<SinkRow>, DbError> {
        let rows = self.all(sql("select id, name, created, stopped, reason from sink order by name")).await?;
        rows.iter().map(sink_row).collect()
    }

    /// The accounts of this owner whose feed is ahead of the sink's cursor.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn behind(&self, sink: i64, owner: &str) -> Result<Vec<Behind>, DbError> {
        let stmt = sql("select a.id, a.epoch, a.rc, a.sub, coalesce(c.feed, 0), a.feed from account a
             left join sink_cursor c on c.sink = $1 and c.account = a.id
             where a.owner = $2 and a.feed > coalesce(c.feed, 0) order by a.id");
        let rows = self.all(stmt.bind(sink).bind(owner)).await?;
        rows.iter()
            .map(|row| {
                Ok(Behind {
                    owned: Owned { account: row.int(0)?, epoch: row.int(1)? },
                    id: AccountId::new(row.text(2)?, row.text(3)?),
                    cursor: row.int(4)?,
                    feed: row.int(5)?,
                })
            })
            .collect()
    }

    /// Events of this owner's accounts that wait and are due, the earliest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn missed_due(&self, sink: i64, owner: &str, now: Time, most: usize) -> Result<Vec<Missed>, DbError> {
        let stmt = sql(
            "select e.account, e.feed, e.item, e.state, e.tries, e.waited, e.first_try, e.last_try, e.due, e.status, e.reason
             from sink_event e join account a on a.id = e.account
             where e.sink = $1 and e.state = 0 and e.due <= $2 and a.owner = $3 order by e.due limit $4",
        );
        let rows = self.all(stmt.bind(sink).bind(now).bind(owner).bind(most)).await?;
        rows.iter().map(missed).collect()
    }

    /// When the next event that waits is due, and how many wait.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn missed_waiting(&self, sink: i64) -> Result<(Option<Time>, u64), DbError> {
        let stmt = sql("select min(due), count(*) from sink_event where sink = $1 and state = 0");
        match self.first(stmt.bind(sink)).await? {
            Some(row) => Ok((row.maybe_time(0)?, row.count(1)?)),
            None => Ok((None, 0)),
        }
    }

    /// The objects that are to be written.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn batches(&self, sink: i64) -> Result<Vec<Batch>, DbError> {
        let stmt = sql("select account, first, last, name from sink_batch where sink = $1 order by account");
        let rows = self.all(stmt.bind(sink)).await?;
        rows.iter()
            .map(|row| Ok(Batch { account: row.int(0)?, first: row.int(1)?, last: row.int(2)?, name: row.text(3)? }))
            .collect()
    }

    /// Fixes the bounds of objects before they are written.
    ///
    /// # Errors
    /// Where the database takes no writes; nothing is fixed then.
    pub async fn decide_batches(&self, sink: i64, batches: &[Batch], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for part in batches.chunks(BULK) {
            let rows = part.iter().map(|batch| {
                vec![
                    Arg::from(sink),
                    batch.account.into(),
                    batch.first.into(),
                    batch.last.into(),
                    Arg::from(&batch.name),
                    now.into(),
                ]
            });
            let stmt = Stmt::rows(
                "insert into sink_batch (sink, account, first, last, name, decided) values ",
                rows.collect(),
                " on conflict (sink, account) do nothing",
            );
            tx.run(stmt).await?;
        }
        tx.commit().await
    }

    /// Has what a sink gave up tried again at once, with its patience counted afresh, and starts the sink if it was
    /// stopped; with `all` what waits is due at once too. Returns how many events there are.
    ///
    /// # Errors
    /// Where the database takes no writes.
    pub async fn retry_missed(&self, sink: i64, all: bool, now: Time) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql("update sink_event set state = 0, due = $2, tries = 0, waited = 0, first_try = $2
             where sink = $1 and (state = 1 or $3 = 1)");
        let events = tx.run(stmt.bind(sink).bind(now).bind(all)).await?;
        tx.run(sql("update sink set stopped = null, reason = null where id = $1").bind(sink)).await?;
        tx.commit().await?;
        Ok(events)
    }
}

fn missed(row: &Row) -> Result<Missed, DbError> {
    Ok(Missed {
        account: row.int(0)?,
        feed: row.int(1)?,
        item: Item(row.int(2)?),
        failed: row.flag(3)?,
        tries: u32::try_from(row.int(4)?).unwrap_or(u32::MAX),
        waited: Duration::from_millis(row.count(5)?),
        first_try: row.time(6)?,
        last_try: row.time(7)?,
        due: row.time(8)?,
        status: row.maybe_int(9)?.and_then(|status| u16::try_from(status).ok()),
        reason: row.text(10)?,
    })
}

impl Tx {
    /// Takes back whatever of these items is still to be delivered one by one; before their artifacts are deleted. Cursors
    /// pass over what is not there any more by themselves.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn undeliver(&mut self, items: &[i64]) -> Result<(), DbError> {
        for part in items.chunks(BULK) {
            let stmt = Stmt::list("delete from sink_event where item in ", Vec::new(), part.iter().copied(), "");
            self.run(stmt).await?;
        }
        Ok(())
    }
}
