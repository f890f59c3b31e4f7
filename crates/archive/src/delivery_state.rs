//! Delivery state: each sink's cursor in each account's feed, failed deliveries, object batches and
//! replays.
//!
//! The results of a delivery round commit together (`delivery_round.rs`), so that a crash repeats
//! deliveries and loses none.

mod delivery_round;
mod feed_reader;
mod sink_overview;
mod sink_replays;

use std::time::Duration;

use super::{Arg, Db, DbError, Item, Lease, MAX_ROWS_PER_STATEMENT, Row, Stmt, Tx, sql};
use crate::clock::Time;
use crate::model::AccountId;

pub use delivery_round::{CursorAdvance, DeliveryRound, ReplayProgress};
pub use feed_reader::{FeedEntry, FeedRange, FeedRow};
pub use sink_overview::{SinkAccountProgress, SinkFailure, SinkOverview};
pub use sink_replays::{ReplayRequest, ReplayRow};

/// A row of table `sink`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkRow {
    /// Primary key.
    pub key: i64,
    /// Its name in the settings.
    pub name: String,
    /// When it was first configured.
    pub(crate) created: Time,
    /// Since when delivery is stopped, if the sink refused further events.
    pub stopped: Option<Time>,
    /// Why delivery is stopped.
    pub reason: Option<String>,
}

/// An account whose feed is ahead of a sink's cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaggingFeed {
    /// The account's lease as of this read.
    pub lease: Lease,
    /// The RingCX ids.
    pub id: AccountId,
    /// The sink's position in the feed.
    pub cursor: i64,
    /// The newest sequence number of the feed.
    pub feed: i64,
}

/// An event that was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedDelivery {
    /// Key of the account.
    pub account: i64,
    /// The event's sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// Whether it was given up; otherwise it waits for a retry.
    pub failed: bool,
    /// Attempts so far.
    pub tries: u32,
    /// Time spent on retries, without the time in which the sink as a whole was paused.
    pub waited: Duration,
    /// When it was first attempted.
    pub first_try: Time,
    /// When it was last attempted.
    pub last_try: Time,
    /// When it is retried.
    pub due: Time,
    /// The HTTP status of the last response.
    pub status: Option<u16>,
    /// Why the last attempt failed. It never holds content.
    pub reason: String,
}

/// An object that will be written to an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectBatch {
    /// Key of the account.
    pub account: i64,
    /// The first sequence number that it contains.
    pub first: i64,
    /// The last sequence number that it contains.
    pub last: i64,
    /// The object's key in the store.
    pub name: String,
}

fn sink_from_row(row: &Row) -> Result<SinkRow, DbError> {
    Ok(SinkRow {
        key: row.int(0)?,
        name: row.text(1)?,
        created: row.time(2)?,
        stopped: row.maybe_time(3)?,
        reason: row.maybe_text(4)?,
    })
}

impl Db {
    /// Returns the sink with this name, and creates it if it is new. A new sink starts after
    /// everything stored, or with the archive's first artifact. `target` identifies where it
    /// delivers to: if it changes, a stopped sink starts again.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ensure_sink(
        &self,
        name: &str,
        from_beginning: bool,
        target: &str,
        now: Time,
    ) -> Result<SinkRow, DbError> {
        let held = "select id, name, created, stopped, reason, place from sink where name = $1";
        if let Some(row) = self.first(sql(held).bind(name)).await?
            && row.text(5)? == target
        {
            return sink_from_row(&row);
        }
        let mut tx = self.begin().await?;
        tx.advisory_lock("sinks").await?;
        let stmt = sql("insert into sink (name, created, place) values ($1, $2, $3) on conflict (name) do nothing
             returning id");
        let new = tx.first(stmt.bind(name).bind(now).bind(target)).await?.map(|row| row.int(0)).transpose()?;
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
                tx.run(stmt.bind(name).bind(target)).await?;
            }
        }
        let row = tx.first(sql(held).bind(name)).await?.ok_or_else(|| DbError::missing_row("sink", name))?;
        tx.commit().await?;
        sink_from_row(&row)
    }

    /// All known sinks by name, including those that are no longer configured.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn sinks(&self) -> Result<Vec<SinkRow>, DbError> {
        let rows = self.all(sql("select id, name, created, stopped, reason from sink order by name")).await?;
        rows.iter().map(sink_from_row).collect()
    }

    /// The owner's accounts whose feed is ahead of the sink's cursor.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn lagging_feeds(&self, sink: i64, owner: &str) -> Result<Vec<LaggingFeed>, DbError> {
        let stmt = sql("select a.id, a.epoch, a.rc, a.sub, coalesce(c.feed, 0), a.feed from account a
             left join sink_cursor c on c.sink = $1 and c.account = a.id
             where a.owner = $2 and a.feed > coalesce(c.feed, 0) order by a.id");
        let rows = self.all(stmt.bind(sink).bind(owner)).await?;
        rows.iter()
            .map(|row| {
                Ok(LaggingFeed {
                    lease: Lease { account: row.int(0)?, epoch: row.int(1)? },
                    id: AccountId::new(row.text(2)?, row.text(3)?),
                    cursor: row.int(4)?,
                    feed: row.int(5)?,
                })
            })
            .collect()
    }

    /// Failed deliveries of the owner's accounts that are due for a retry, in order of due time.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn due_failed_deliveries(
        &self,
        sink: i64,
        owner: &str,
        now: Time,
        limit: usize,
    ) -> Result<Vec<FailedDelivery>, DbError> {
        let stmt = sql(
            "select e.account, e.feed, e.item, e.state, e.tries, e.waited, e.first_try, e.last_try, e.due, e.status, e.reason
             from sink_event e join account a on a.id = e.account
             where e.sink = $1 and e.state = 0 and e.due <= $2 and a.owner = $3 order by e.due limit $4",
        );
        let rows = self.all(stmt.bind(sink).bind(now).bind(owner).bind(limit)).await?;
        rows.iter().map(failed_delivery_from_row).collect()
    }

    /// The earliest due time of events that wait for a retry, and their number.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn waiting_deliveries(&self, sink: i64) -> Result<(Option<Time>, u64), DbError> {
        let stmt = sql("select min(due), count(*) from sink_event where sink = $1 and state = 0");
        match self.first(stmt.bind(sink)).await? {
            Some(row) => Ok((row.maybe_time(0)?, row.count(1)?)),
            None => Ok((None, 0)),
        }
    }

    /// The planned objects.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn object_batches(&self, sink: i64) -> Result<Vec<ObjectBatch>, DbError> {
        let stmt = sql("select account, first, last, name from sink_batch where sink = $1 order by account");
        let rows = self.all(stmt.bind(sink)).await?;
        rows.iter()
            .map(|row| {
                Ok(ObjectBatch { account: row.int(0)?, first: row.int(1)?, last: row.int(2)?, name: row.text(3)? })
            })
            .collect()
    }

    /// Records the bounds of objects before they are written, so that a retry writes the same
    /// objects.
    ///
    /// # Errors
    /// If the database refuses the write; nothing is recorded then.
    pub async fn plan_object_batches(&self, sink: i64, batches: &[ObjectBatch], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for part in batches.chunks(MAX_ROWS_PER_STATEMENT) {
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

    /// Makes a sink's given-up events due now and resets their retry limits. Restarts the sink if
    /// it was stopped. With `all`, waiting events become due now as well. Returns the number of
    /// events.
    ///
    /// # Errors
    /// If the database refuses the write.
    pub async fn retry_failed_deliveries(&self, sink: i64, all: bool, now: Time) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql("update sink_event set state = 0, due = $2, tries = 0, waited = 0, first_try = $2
             where sink = $1 and (state = 1 or $3 = 1)");
        let events = tx.run(stmt.bind(sink).bind(now).bind(all)).await?;
        tx.run(sql("update sink set stopped = null, reason = null where id = $1").bind(sink)).await?;
        tx.commit().await?;
        Ok(events)
    }
}

fn failed_delivery_from_row(row: &Row) -> Result<FailedDelivery, DbError> {
    Ok(FailedDelivery {
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
    /// Deletes the failed deliveries of these items, before their artifacts are deleted. Cursors
    /// skip deleted artifacts.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_failed_deliveries(&mut self, items: &[i64]) -> Result<(), DbError> {
        for part in items.chunks(MAX_ROWS_PER_STATEMENT) {
            let stmt = Stmt::list("delete from sink_event where item in ", Vec::new(), part.iter().copied(), "");
            self.run(stmt).await?;
        }
        Ok(())
    }
}
