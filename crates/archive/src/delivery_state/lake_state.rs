//! What the tables in an object store hold: slices of segments, their objects, and what was taken
//! over from the archive.
//!
//! A slice is planned before its objects are written, and becomes current in the transaction that
//! moves the cursor; the slices that it replaces end in the same one. Whatever happens, each object
//! belongs to a row, so none is left behind.

use std::collections::HashSet;
use std::time::Duration;

use super::super::ducklake::CatalogUpdate;
use super::super::sql::EndTime;
use super::super::{AccountKey, Arg, Db, DbError, Item, Lease, SinkKey, Stmt, Tx, sql};
use super::feed_notice::ANNOUNCES_METADATA;
use super::{DeliveryRound, SinkRow};
use crate::clock::Time;
use crate::model::AccountId;

/// How long after its begin the scan of the archive may end: a transaction that announced no
/// metadata yet has ended by then.
const MIN_SCAN_TIME: Duration = Duration::from_secs(60);

/// A given-up artifact carries the time of its last attempt, which is shortly before its transaction
/// becomes visible.
const OUTCOME_VISIBILITY_MARGIN: Duration = Duration::from_secs(60);

/// The codes of `lake_slice.state`.
const PLANNED: i64 = 0;
const CURRENT: i64 = 1;
const REPLACED: i64 = 2;

/// An account of a sink with tables.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LakeAccount {
    /// The account's lease as of this read.
    #[sqlx(flatten)]
    pub lease: Lease,
    /// The RingCX ids.
    #[sqlx(flatten)]
    pub id: AccountId,
    /// Its name in RingCX.
    pub name: Option<String>,
    /// The sink's position in the feed.
    pub cursor: i64,
    /// The newest sequence number of the feed.
    pub feed: i64,
    /// The key up to which the archive's segments were taken over; `None` if all were.
    pub scanned: Option<i64>,
    /// When that began.
    pub scan_began: Option<Time>,
    /// The time up to which given-up artifacts were looked at.
    pub outcomes: Option<Time>,
}

impl LakeAccount {
    /// Whether the scan of the archive may end at `now`, if it finds no further segment.
    pub fn may_end_scan(&self, now: Time) -> bool {
        self.scan_began.is_none_or(|began| now.since(began) >= MIN_SCAN_TIME || now < began)
    }
}

/// A slice: segments of one account and day that share one file in each table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct LakeSlice {
    /// Primary key.
    pub id: i64,
    /// The UTC day on which its segments ended; -1 if that is unknown.
    pub day: i64,
    /// When it was written.
    pub at: Time,
    /// The bytes of its largest file.
    #[sqlx(try_from = "i64")]
    pub size: u64,
}

/// An object of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    /// The table.
    pub table: &'static str,
    /// Its name below the sink's URL.
    pub name: String,
    /// The number of rows.
    pub rows: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The size of its footer.
    pub footer_size: u32,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

/// A slice whose objects were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenSlice {
    /// Primary key.
    pub id: i64,
    /// The segments that it holds.
    pub segments: Vec<i64>,
    /// When the first and the last of them ended, unless that is unknown of one.
    pub ends: Option<(Time, Time)>,
    /// Its objects.
    pub files: Vec<LakeFile>,
}

/// What changes in the tables of one account, together with its cursor.
#[derive(Debug, Clone)]
pub struct LakeChange {
    /// The lease under which the objects were written.
    pub lease: Lease,
    /// The target of the sink under which they were written, as [`Db::ensure_lake_sink`] was given it.
    pub target: String,
    /// The new slices.
    pub written: Vec<WrittenSlice>,
    /// The slices that they replace.
    pub replaced: Vec<i64>,
    /// Segments that no slice holds any more.
    pub dropped: Vec<i64>,
    /// Where the scan of the archive is now: a segment's key, or `None` if it has ended. Outer `None`:
    /// as before.
    pub scanned: Option<Option<i64>>,
    /// The time up to which given-up artifacts were looked at.
    pub outcomes: Option<Time>,
    /// The catalog in this database that lists the files.
    pub catalog: Option<CatalogUpdate>,
}

/// An object that is to be deleted, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct ObsoleteSlice {
    /// Primary key.
    pub id: i64,
    /// The day of its segments, which is part of its objects' names.
    pub day: i64,
}

/// How many segments a sink's tables hold, of some.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct LakeCopies {
    /// The sink's name.
    pub sink: String,
    /// Number of segments.
    #[sqlx(try_from = "i64")]
    pub segments: u64,
}

impl Db {
    /// As [`Db::ensure_sink`], for a sink with tables. It follows the feed from now on; with
    /// `from_beginning`, the archive's segments are taken over by a scan. Where the target changes,
    /// it begins anew.
    pub async fn ensure_lake_sink(
        &self,
        name: &str,
        from_beginning: bool,
        target: &str,
        now: Time,
    ) -> Result<SinkRow, DbError> {
        let known = sql("select id as key, name, created, stopped, reason from sink where name = $1 and place = $2");
        if let Some(sink) = self.first(known.bind(name).bind(target)).await? {
            return Ok(sink);
        }
        let mut tx = self.begin().await?;
        tx.advisory_lock("sinks").await?;
        tx.put_meta(ANNOUNCES_METADATA, "1").await?;
        let stmt = sql("insert into sink (name, created, place) values ($1, $2, $3) on conflict (name) do nothing
             returning id");
        let new: Option<SinkKey> = tx.value(stmt.bind(name).bind(now).bind(target)).await?;
        match new {
            Some(key) => {
                let stmt = sql("insert into sink_cursor (sink, account, feed, delivered)
                     select $1, a.id, a.feed, 0 from account a where a.feed > 0");
                tx.run(stmt.bind(key)).await?;
                if from_beginning {
                    tx.restart_lake(key, now).await?;
                }
            }
            None => {
                let stmt =
                    sql("update sink set place = $2, stopped = null, reason = null where name = $1 returning id");
                if let Some(key) = tx.value::<SinkKey>(stmt.bind(name).bind(target)).await? {
                    tx.restart_lake(key, now).await?;
                }
            }
        }
        let stmt = sql("select id as key, name, created, stopped, reason from sink where name = $1");
        let row = tx.first(stmt.bind(name)).await?;
        tx.commit().await?;
        row.ok_or_else(|| DbError::missing_row("sink", name))
    }

    /// The owner's accounts, with the sink's progress in each.
    pub async fn lake_accounts(&self, sink: SinkKey, owner: &str) -> Result<Vec<LakeAccount>, DbError> {
        let stmt = sql(
            "select a.id as account, a.epoch, a.rc, a.sub, a.name, coalesce(c.feed, 0) as cursor, a.feed, l.scanned,
             l.scan_began, l.outcomes from account a
             left join sink_cursor c on c.sink = $1 and c.account = a.id
             left join lake_account l on l.sink = $1 and l.account = a.id
             where a.owner = $2 order by a.id",
        );
        self.all(stmt.bind(sink).bind(owner)).await
    }

    /// The next segments of the account that no slice holds, in order of their keys, after `after`.
    pub async fn unsliced_segments(
        &self,
        sink: SinkKey,
        account: AccountKey,
        after: i64,
        limit: usize,
    ) -> Result<Vec<i64>, DbError> {
        let stmt = sql("select s.id from segment s where s.account = $2 and s.id > $3
             and not exists (select 1 from lake_segment m where m.sink = $1 and m.segment = s.id)
             order by s.id limit $4");
        self.values(stmt.bind(sink).bind(account).bind(after).bind(limit)).await
    }

    /// The segments of which an artifact was given up after `seen`, and when the last one was. They may
    /// include some that were known before.
    pub async fn given_up_since(&self, account: AccountKey, seen: Time) -> Result<Option<(Vec<i64>, Time)>, DbError> {
        let stmt = sql("select segment, max(last_try) from work
             where account = $1 and state <> 0 and last_try >= $2 group by segment");
        let found: Vec<(i64, Time)> = self.all(stmt.bind(account).bind(seen - OUTCOME_VISIBILITY_MARGIN)).await?;
        let newest = found.iter().map(|(_, at)| *at).max().filter(|newest| *newest > seen);
        Ok(newest.map(|newest| (found.into_iter().map(|(segment, _)| segment).collect(), newest)))
    }

    /// When these segments ended, of those that the archive still holds.
    pub async fn segment_ends(&self, segments: &[i64]) -> Result<Vec<(i64, Option<Time>)>, DbError> {
        #[derive(sqlx::FromRow)]
        struct SegmentEnd {
            id: i64,
            #[sqlx(try_from = "EndTime")]
            ended: Option<Time>,
        }
        let head = "select id, ended from segment where id in ";
        let rows: Vec<SegmentEnd> = self.all(Stmt::list(head, Vec::new(), segments.iter().copied(), "")).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.ended)).collect())
    }

    /// The current slices that hold these segments, each with the day of its segments and all that it
    /// holds: slice, day, segment.
    pub async fn slices_holding(&self, sink: SinkKey, segments: &[i64]) -> Result<Vec<(i64, i64, i64)>, DbError> {
        let head = "select distinct slice from lake_segment where sink = $1 and segment in ";
        let slices: HashSet<i64> =
            self.values(Stmt::list(head, vec![sink.into()], segments.iter().copied(), "")).await?.into_iter().collect();
        self.slice_contents(slices.into_iter().collect()).await
    }

    /// What these slices hold: slice, day, segment.
    pub async fn slice_contents(&self, slices: Vec<i64>) -> Result<Vec<(i64, i64, i64)>, DbError> {
        let head = "select m.slice, s.day, m.segment from lake_slice s join lake_segment m on m.slice = s.id
             where s.state = 1 and s.id in ";
        self.all(Stmt::list(head, Vec::new(), slices, "")).await
    }

    /// Account and sequence number of each stored version of these segments' artifacts.
    pub async fn stored_versions(&self, segments: &[i64]) -> Result<Vec<(AccountKey, i64)>, DbError> {
        let head = "select account, feed from artifact where outcome = 0 and item in ";
        let items = segments.iter().flat_map(|segment| Item::all_of(*segment));
        self.all(Stmt::list(head, Vec::new(), items, "")).await
    }

    /// The account's current slices.
    pub async fn current_slices(&self, sink: SinkKey, account: AccountKey) -> Result<Vec<LakeSlice>, DbError> {
        let stmt = sql("select id, day, at, size from lake_slice where sink = $1 and account = $2 and state = $3");
        self.all(stmt.bind(sink).bind(account).bind(CURRENT)).await
    }

    /// The next of the account's slices whose objects are to be deleted, after the slice `after`: replaced
    /// ones, and those that were planned and never became current. Only the account's owner calls it,
    /// while it writes none. Empty if the lease was lost: the next owner may be writing a planned one.
    pub async fn obsolete_slices(
        &self,
        sink: SinkKey,
        lease: Lease,
        after: i64,
    ) -> Result<Vec<ObsoleteSlice>, DbError> {
        let stmt = sql("select s.id, s.day from lake_slice s join account a on a.id = s.account
             where s.sink = $1 and s.account = $2 and a.epoch = $3 and s.state in ($4, $5) and s.id > $6
             order by s.id limit 100");
        let stmt = stmt.bind(sink).bind(lease.account).bind(lease.epoch);
        self.all(stmt.bind(PLANNED).bind(REPLACED).bind(after)).await
    }

    /// Whether nobody else acquired the account since this lease.
    pub async fn holds_lease(&self, lease: Lease) -> Result<bool, DbError> {
        let stmt = sql("select count(*) from account where id = $1 and epoch = $2");
        Ok(self.count(stmt.bind(lease.account).bind(lease.epoch)).await? > 0)
    }

    /// The names of the account's objects that are part of a table.
    pub async fn current_files(&self, sink: SinkKey, account: AccountKey) -> Result<HashSet<String>, DbError> {
        let stmt = sql("select f.name from lake_slice s join lake_file f on f.slice = s.id
             where s.sink = $1 and s.account = $2 and s.state = $3");
        Ok(self.values::<String>(stmt.bind(sink).bind(account).bind(CURRENT)).await?.into_iter().collect())
    }

    /// Records a slice before its objects are written. Returns its key, which is never used again.
    pub async fn plan_slice(&self, sink: SinkKey, account: AccountKey, day: i64, now: Time) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        let stmt =
            sql("insert into lake_slice (sink, account, day, state, at) values ($1, $2, $3, $4, $5) returning id");
        let id = tx.value(stmt.bind(sink).bind(account).bind(day).bind(PLANNED).bind(now)).await?;
        tx.commit().await?;
        id.ok_or_else(|| DbError::missing_row("lake_slice", day.to_string()))
    }

    /// Removes the rows of slices whose objects were deleted.
    pub async fn forget_slices(&self, slices: &[i64]) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for head in ["delete from lake_file where slice in ", "delete from lake_slice where state <> 1 and id in "] {
            tx.run(Stmt::list(head, Vec::new(), slices.iter().copied(), "")).await?;
        }
        tx.commit().await
    }

    /// How many of these segments the tables of each sink hold.
    pub async fn lake_copies(&self, segments: &[i64]) -> Result<Vec<LakeCopies>, DbError> {
        let head = "select k.name as sink, count(*) as segments from lake_segment m join sink k on k.id = m.sink
             where m.segment in ";
        let parts: Vec<LakeCopies> = self
            .all(Stmt::list(head, Vec::new(), segments.iter().copied(), " group by k.name order by k.name"))
            .await?;
        let mut sums: Vec<LakeCopies> = Vec::new();
        for part in parts {
            match sums.iter_mut().find(|sum| sum.sink == part.sink) {
                Some(sum) => sum.segments += part.segments,
                None => sums.push(part),
            }
        }
        Ok(sums)
    }
}

impl Tx {
    /// Makes the sink take over the archive's segments from the first one. All that its tables held is
    /// replaced.
    async fn restart_lake(&mut self, sink: SinkKey, now: Time) -> Result<(), DbError> {
        self.run(sql("delete from lake_segment where sink = $1").bind(sink)).await?;
        self.run(sql("update lake_slice set state = $2 where sink = $1").bind(sink).bind(REPLACED)).await?;
        let stmt = sql("insert into lake_account (sink, account, scanned, scan_began, outcomes)
             select $1, a.id, 0, $2, $2 from account a where true
             on conflict (sink, account) do update set scanned = 0, scan_began = excluded.scan_began");
        self.run(stmt.bind(sink).bind(now)).await.map(drop)
    }

    /// Makes every sink with tables begin anew, in a restored copy: what the tables hold is not what the
    /// copy knows of them.
    pub(crate) async fn restart_lakes(&mut self, now: Time) -> Result<(), DbError> {
        let sinks: Vec<SinkKey> = self.values(sql("select distinct sink from lake_slice")).await?;
        for sink in sinks {
            self.restart_lake(sink, now).await?;
        }
        Ok(())
    }

    /// Checks that the sink's target did not change, and keeps it until the transaction ends: what was
    /// written under earlier settings must not become part of the tables that began anew.
    async fn require_target(&mut self, sink: SinkKey, target: &str) -> Result<(), DbError> {
        let stmt = Stmt::built(format!("select id from sink where id = $1 and place = $2{}", self.for_share_clause()));
        if self.value::<SinkKey>(stmt.bind(sink).bind(target)).await?.is_some() {
            return Ok(());
        }
        Err(DbError::broken(
            "another replica has other settings for the tables of this sink",
            "restart this replica with the same settings",
        ))
    }

    /// Records what changes in the tables. Repeating it changes nothing.
    pub(super) async fn record_lake_change(
        &mut self,
        round: &DeliveryRound,
        change: &LakeChange,
    ) -> Result<(), DbError> {
        let (sink, account) = (round.sink, change.lease.account);
        self.require_target(sink, &change.target).await?;
        for slice in &change.written {
            let size = slice.files.iter().map(|file| file.size).max().unwrap_or(0);
            let (first, last) = slice.ends.unzip();
            let stmt = sql("update lake_slice set state = $2, size = $3, first_end = $4, last_end = $5 where id = $1");
            if self.run(stmt.bind(slice.id).bind(CURRENT).bind(size).bind(first).bind(last)).await? == 0 {
                return Err(DbError::missing_row("lake_slice", slice.id));
            }
        }
        let files = change.written.iter().flat_map(|slice| slice.files.iter().map(move |file| (slice.id, file)));
        let rows = files.map(|(slice, file)| {
            vec![
                Arg::from(slice),
                file.table.into(),
                Arg::from(&file.name),
                file.rows.into(),
                file.size.into(),
                file.footer_size.into(),
                file.sha256.into(),
            ]
        });
        self.run(Stmt::rows(
            "insert into lake_file (slice, content, name, row_count, size, footer_size, sha256) values ",
            rows.collect(),
            " on conflict (slice, content) do nothing",
        ))
        .await?;
        let head = "delete from lake_segment where sink = $1 and segment in ";
        self.run(Stmt::list(head, vec![sink.into()], change.dropped.iter().copied(), "")).await?;
        let rows = change.written.iter().flat_map(|slice| {
            slice.segments.iter().map(move |segment| vec![Arg::from(sink), (*segment).into(), slice.id.into()])
        });
        self.run(Stmt::rows(
            "insert into lake_segment (sink, segment, slice) values ",
            rows.collect(),
            " on conflict (sink, segment) do update set slice = excluded.slice",
        ))
        .await?;
        let head = "update lake_slice set state = $1 where id in ";
        self.run(Stmt::list(head, vec![REPLACED.into()], change.replaced.iter().copied(), "")).await?;
        if change.scanned.is_some() || change.outcomes.is_some() {
            let stmt = sql("insert into lake_account (sink, account, scanned, scan_began, outcomes)
                 values ($1, $2, null, $3, 0) on conflict (sink, account) do nothing");
            self.run(stmt.bind(sink).bind(account).bind(round.at)).await?;
        }
        if let Some(scanned) = change.scanned {
            let stmt = sql("update lake_account set scanned = $3 where sink = $1 and account = $2");
            self.run(stmt.bind(sink).bind(account).bind(scanned)).await?;
        }
        if let Some(outcomes) = change.outcomes {
            let stmt = sql("update lake_account set outcomes = $3 where sink = $1 and account = $2");
            self.run(stmt.bind(sink).bind(account).bind(outcomes)).await?;
        }
        if let Some(catalog) = &change.catalog {
            self.synchronize_catalog(sink, account, catalog, round.at).await?;
        }
        Ok(())
    }
}
