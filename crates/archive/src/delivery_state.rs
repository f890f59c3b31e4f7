//! Delivery state: each sink's cursor in each account's feed, failed deliveries, object batches and
//! replays.
//!
//! The results of a delivery round commit together (`delivery_round.rs`), so that a crash repeats
//! deliveries and loses none.

mod delivery_round;
mod feed_notice;
mod feed_reader;
mod lake_state;
mod sink_overview;
mod sink_replays;
mod unit_reader;

use std::collections::BTreeMap;
use std::time::Duration;

use super::sql::{Flag, HttpStatus, Millis};
use super::{AccountKey, Arg, Db, DbError, Item, Lease, SinkKey, Stmt, Tx, sql};
use crate::clock::Time;
use crate::model::AccountId;

pub use delivery_round::{CursorAdvance, DeliveryRound, ReplayProgress};
pub(super) use feed_notice::NewNotice;
pub use feed_notice::NoticeKind;
pub use feed_reader::{FeedEntry, FeedNotice, FeedRange, FeedRow};
pub use lake_state::{LakeAccount, LakeChange, LakeCopies, LakeFile, LakeSlice, ObsoleteSlice, WrittenSlice};
pub use sink_overview::{SinkAccountProgress, SinkFailure, SinkOverview};
pub use sink_replays::{ReplayRequest, ReplayRow};
pub use unit_reader::UnitState;

/// A row of table `sink`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SinkRow {
    /// Primary key.
    pub key: SinkKey,
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
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LaggingFeed {
    /// The account's lease as of this read.
    #[sqlx(flatten)]
    pub lease: Lease,
    /// The RingCX ids.
    #[sqlx(flatten)]
    pub id: AccountId,
    /// The sink's position in the feed.
    pub cursor: i64,
    /// The newest sequence number of the feed.
    pub feed: i64,
}

/// An event that was not delivered.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct FailedDelivery {
    /// Key of the account.
    pub account: AccountKey,
    /// The event's sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// Whether it was given up; otherwise it waits for a retry.
    #[sqlx(rename = "state", try_from = "Flag")]
    pub failed: bool,
    /// Attempts so far.
    #[sqlx(try_from = "i64")]
    pub tries: u32,
    /// Time spent on retries, without the time in which the sink as a whole was paused.
    #[sqlx(try_from = "Millis")]
    pub waited: Duration,
    /// When it was first attempted.
    pub first_try: Time,
    /// When it was last attempted.
    pub last_try: Time,
    /// When it is retried.
    pub due: Time,
    /// The HTTP status of the last response.
    #[sqlx(try_from = "HttpStatus")]
    pub status: Option<u16>,
    /// Why the last attempt failed. It never holds content.
    pub reason: String,
}

/// An event that has a row because an attempt failed or is put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct KnownFailure {
    /// Key of the account.
    pub account: AccountKey,
    /// The event's sequence number in the feed.
    pub feed: i64,
    /// The artifact.
    pub item: Item,
    /// Whether it was given up; otherwise it waits for a retry.
    #[sqlx(rename = "state", try_from = "Flag")]
    pub failed: bool,
    /// When it is retried.
    pub due: Time,
    /// Attempts so far.
    #[sqlx(try_from = "i64")]
    pub tries: u32,
}

/// What a sink may have received.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct DeliveredCopies {
    /// The sink's name.
    pub sink: String,
    /// Number of events.
    #[sqlx(try_from = "i64")]
    pub events: u64,
    /// Number of segments.
    #[sqlx(try_from = "i64")]
    pub segments: u64,
}

/// An object that will be written to an object store.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ObjectBatch {
    /// Key of the account.
    pub account: AccountKey,
    /// The first sequence number that it contains.
    pub first: i64,
    /// The last sequence number that it contains.
    pub last: i64,
    /// The object's key in the store.
    pub name: String,
}

impl Db {
    /// Returns the sink with this name, and creates it if it is new. A new sink starts after
    /// everything stored, or with the archive's first artifact. `target` identifies where it
    /// delivers to: if it changes, a stopped sink starts again.
    pub async fn ensure_sink(
        &self,
        name: &str,
        from_beginning: bool,
        target: &str,
        now: Time,
    ) -> Result<SinkRow, DbError> {
        let columns = "select id as key, name, created, stopped, reason from sink where name = $1";
        let unchanged = Stmt::built(format!("{columns} and place = $2"));
        if let Some(sink) = self.first(unchanged.bind(name).bind(target)).await? {
            return Ok(sink);
        }
        let mut tx = self.begin().await?;
        tx.advisory_lock("sinks").await?;
        let stmt = sql("insert into sink (name, created, place) values ($1, $2, $3) on conflict (name) do nothing
             returning id");
        let new: Option<SinkKey> = tx.value(stmt.bind(name).bind(now).bind(target)).await?;
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
        let row = tx.first(sql(columns).bind(name)).await?;
        tx.commit().await?;
        row.ok_or_else(|| DbError::missing_row("sink", name))
    }

    /// All known sinks by name, including those that are no longer configured.
    pub async fn sinks(&self) -> Result<Vec<SinkRow>, DbError> {
        self.all(sql("select id as key, name, created, stopped, reason from sink order by name")).await
    }

    /// The owner's accounts whose feed is ahead of the sink's cursor.
    pub async fn lagging_feeds(&self, sink: SinkKey, owner: &str) -> Result<Vec<LaggingFeed>, DbError> {
        let stmt =
            sql("select a.id as account, a.epoch, a.rc, a.sub, coalesce(c.feed, 0) as cursor, a.feed from account a
             left join sink_cursor c on c.sink = $1 and c.account = a.id
             where a.owner = $2 and a.feed > coalesce(c.feed, 0) order by a.id");
        self.all(stmt.bind(sink).bind(owner)).await
    }

    /// Failed deliveries of the owner's accounts that are due for a retry, in order of due time.
    pub async fn due_failed_deliveries(
        &self,
        sink: SinkKey,
        owner: &str,
        now: Time,
        limit: usize,
    ) -> Result<Vec<FailedDelivery>, DbError> {
        let stmt = sql(
            "select e.account, e.feed, e.item, e.state, e.tries, e.waited, e.first_try, e.last_try, e.due, e.status, e.reason
             from sink_event e join account a on a.id = e.account
             where e.sink = $1 and e.state = 0 and e.due <= $2 and a.owner = $3 order by e.due limit $4",
        );
        self.all(stmt.bind(sink).bind(now).bind(owner).bind(limit)).await
    }

    /// The events of the owner's accounts that wait for a retry, and those after the cursor that were
    /// given up, in order of the feed.
    pub async fn known_failures(&self, sink: SinkKey, owner: &str) -> Result<Vec<KnownFailure>, DbError> {
        let stmt = sql("select e.account, e.feed, e.item, e.state, e.due, e.tries from sink_event e
             join account a on a.id = e.account
             left join sink_cursor c on c.sink = e.sink and c.account = e.account
             where e.sink = $1 and a.owner = $2 and (e.state = 0 or e.feed > coalesce(c.feed, 0))
             order by e.account, e.feed");
        self.all(stmt.bind(sink).bind(owner)).await
    }

    /// How much of these segments each sink may have received: everything before its cursor that has
    /// not failed. What its filters exclude counts, too.
    pub async fn delivered_copies(&self, segments: &[i64]) -> Result<Vec<DeliveredCopies>, DbError> {
        let head = "select k.name as sink, count(*) as events, count(distinct x.item / 4) as segments
             from artifact x join sink_cursor c on c.account = x.account and c.feed >= x.feed join sink k on k.id = c.sink
             where x.outcome = 0 and not exists
               (select 1 from sink_event e where e.sink = k.id and e.account = x.account and e.feed = x.feed)
             and x.item in ";
        let items = segments.iter().flat_map(|segment| (0..4).map(move |slot| Item(segment * 4 + slot)));
        let parts: Vec<DeliveredCopies> =
            self.all(Stmt::list(head, Vec::new(), items, " group by k.name order by k.name")).await?;
        let mut sums: BTreeMap<String, DeliveredCopies> = BTreeMap::new();
        for part in parts {
            let sum =
                sums.entry(part.sink.clone()).or_insert(DeliveredCopies { events: 0, segments: 0, ..part.clone() });
            sum.events += part.events;
            sum.segments += part.segments;
        }
        Ok(sums.into_values().collect())
    }

    /// When the next event is retried, of those that are due after `after`.
    pub async fn next_delivery_due(&self, sink: SinkKey, after: Time) -> Result<Option<Time>, DbError> {
        let stmt = sql("select min(due) from sink_event where sink = $1 and state = 0 and due > $2");
        Ok(self.value::<Option<Time>>(stmt.bind(sink).bind(after)).await?.flatten())
    }

    /// The planned objects.
    pub async fn object_batches(&self, sink: SinkKey) -> Result<Vec<ObjectBatch>, DbError> {
        let stmt = sql("select account, first, last, name from sink_batch where sink = $1 order by account");
        self.all(stmt.bind(sink)).await
    }

    /// Records the bounds of objects before they are written, so that a retry writes the same
    /// objects.
    ///
    /// # Errors
    /// If the database refuses the write; nothing is recorded then.
    pub async fn plan_object_batches(&self, sink: SinkKey, batches: &[ObjectBatch], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let rows = batches.iter().map(|batch| {
            vec![
                Arg::from(sink),
                batch.account.into(),
                batch.first.into(),
                batch.last.into(),
                Arg::from(&batch.name),
                now.into(),
            ]
        });
        let head = "insert into sink_batch (sink, account, first, last, name, decided) values ";
        tx.run(Stmt::rows(head, rows.collect(), " on conflict (sink, account) do nothing")).await?;
        tx.commit().await
    }

    /// Makes a sink's given-up events due now and resets their retry limits. Restarts the sink if
    /// it was stopped. With `all`, waiting events become due now as well. Returns the number of
    /// events.
    pub async fn retry_failed_deliveries(&self, sink: SinkKey, all: bool, now: Time) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql("update sink_event set state = 0, due = $2, tries = 0, waited = 0, first_try = $2
             where sink = $1 and (state = 1 or $3 = 1)");
        let events = tx.run(stmt.bind(sink).bind(now).bind(all)).await?;
        tx.run(sql("update sink set stopped = null, reason = null where id = $1").bind(sink)).await?;
        tx.commit().await?;
        Ok(events)
    }
}

impl Tx {
    /// Deletes the failed deliveries of these items, before their artifacts are deleted. Cursors
    /// skip deleted artifacts.
    pub async fn delete_failed_deliveries(&mut self, items: &[Item]) -> Result<(), DbError> {
        let head = "delete from sink_event where item in ";
        self.run(Stmt::list(head, Vec::new(), items.iter().copied(), "")).await.map(drop)
    }
}
