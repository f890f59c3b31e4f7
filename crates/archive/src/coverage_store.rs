//! Coverage: which time ranges were read for which purpose, backfill requests, and the log of
//! window reads.

use std::collections::HashSet;

use super::chain_store::RecordChain;
use super::sql::Flag;
use super::{AccountKey, Db, DbError, IngestSummary, Lease, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::{Hash, ReadRecord};
use crate::model::{Lane, TimeRange};
use crate::transaction_span::TransactionSpan;

/// Window reads kept in an account's log.
const MAX_READS_LOGGED: i64 = 2000;

/// One read of one window, recorded once its whole response is stored.
#[derive(Debug, Clone)]
pub struct WindowRead {
    /// When the request was sent.
    pub at: Time,
    /// When the whole response was stored.
    pub done: Time,
    /// Why the window was read.
    pub lane: Lane,
    /// The range that the read covers.
    pub range: TimeRange,
    /// What the ingest of the response changed.
    pub summary: IngestSummary,
    /// The range that each purpose gained.
    pub purposes: Vec<(String, TimeRange)>,
    /// Keys of the backfills that this read completes.
    pub finished: Vec<i64>,
}

/// A past time range that an operator requested.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct BackfillRequest {
    /// Primary key.
    pub id: i64,
    /// Key of the account.
    pub account: AccountKey,
    #[sqlx(flatten)]
    /// The requested range.
    pub range: TimeRange,
    #[sqlx(try_from = "Flag")]
    /// Whether the newest windows are read first.
    pub newest_first: bool,
    /// When it was requested.
    pub created: Time,
    /// When its last window was read, or when it was cancelled.
    pub finished: Option<Time>,
    /// When it was cancelled.
    pub cancelled: Option<Time>,
}

/// What the database knows of an account's reads.
#[derive(Debug, Clone)]
pub struct StoredCoverage {
    /// The start of the live coverage.
    pub live_start: Time,
    /// Whether that is the start that this load would have stored.
    pub is_new: bool,
    /// The covered ranges, by purpose.
    pub ranges: Vec<(String, TimeRange)>,
    /// The start of each purpose's obligation.
    pub bases: Vec<(String, Time)>,
    /// The unfinished backfills.
    pub backfills: Vec<BackfillRequest>,
}

impl Db {
    /// Loads an account's coverage. Stores `start`, and the bases that `bases_of` derives from the
    /// covered ranges, where the database has none yet.
    pub async fn load_coverage(
        &self,
        account: AccountKey,
        start: Time,
        bases_of: impl FnOnce(&[(String, TimeRange)]) -> Vec<(String, Time)>,
    ) -> Result<StoredCoverage, DbError> {
        let ranges = self.coverage(account).await?;
        let live_start = self.init_live_start(account, start).await?;
        let mut bases = bases_of(&ranges);
        for (purpose, base) in &mut bases {
            *base = self.init_purpose_base(account, purpose, *base).await?;
        }
        let backfills = self.backfills(Some(account), false).await?;
        Ok(StoredCoverage { live_start, is_new: live_start == start, ranges, bases, backfills })
    }

    /// An account's covered ranges: purpose and range, in order.
    pub async fn coverage(&self, account: AccountKey) -> Result<Vec<(String, TimeRange)>, DbError> {
        let stmt = sql("select pass, from_ms, to_ms from coverage where account = $1 order by pass, from_ms");
        let rows: Vec<(String, Time, Time)> = self.all(stmt.bind(account)).await?;
        Ok(rows.into_iter().map(|(purpose, from, to)| (purpose, TimeRange { from, to })).collect())
    }

    /// The start of a purpose's obligation. It is fixed at `base` by the first call; later calls
    /// return the stored value.
    pub async fn init_purpose_base(&self, account: AccountKey, purpose: &str, base: Time) -> Result<Time, DbError> {
        let select =
            || sql("select base from coverage_level where account = $1 and pass = $2").bind(account).bind(purpose);
        if let Some(held) = self.value(select()).await? {
            return Ok(held);
        }
        let mut tx = self.begin().await?;
        let stmt = sql(
            "insert into coverage_level (account, pass, base) values ($1, $2, $3) on conflict (account, pass) do nothing",
        );
        tx.run(stmt.bind(account).bind(purpose).bind(base)).await?;
        let held = tx.value(select()).await?;
        tx.commit().await?;
        held.ok_or_else(|| DbError::missing_row("coverage_level", format!("{purpose} of account {account}")))
    }

    /// Records that a window's whole response is stored. Returns the sequence number of the
    /// account's read. It only grows, unless the database was restored to an earlier state.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn record_window_read(&self, lease: Lease, read: &WindowRead) -> Result<i64, DbError> {
        let _span = TransactionSpan::start("record_window_read", read.purposes.len());
        let mut tx = self.begin().await?;
        tx.hold_lease(lease).await?;
        // Locked first, in the same order as the ingest does.
        let chain = tx.record_chain(lease.account).await?;
        let before = tx.coverage_digest(lease.account).await?;
        let open = tx.open_backfills(lease.account).await?;
        for (purpose, range) in &read.purposes {
            // The coverage of a backfill that was cancelled in the meantime was deleted.
            if purpose.starts_with("backfill:") && !open.contains(purpose) {
                continue;
            }
            tx.add_coverage(lease.account, purpose, *range, read.at).await?;
        }
        for id in &read.finished {
            let stmt = sql("update backfill set finished = $2 where id = $1 and finished is null");
            tx.run(stmt.bind(*id).bind(read.done)).await?;
            tx.run(
                sql("delete from coverage where account = $1 and pass = $2")
                    .bind(lease.account)
                    .bind(format!("backfill:{id}")),
            )
            .await?;
        }
        // A quarantined record is resolved if a later read of its whole range no longer returns it.
        let stmt = sql(
            "update aside set resolved = $4 where account = $1 and resolved is null and from_ms >= $2 and to_ms <= $3 and last_seen < $5",
        );
        tx.run(stmt.bind(lease.account).bind(read.range.from).bind(read.range.to).bind(read.done).bind(read.at))
            .await?;
        // If only a part of its range was read, the record lies in the rest.
        for stmt in [
            "update aside set from_ms = $3 where account = $1 and resolved is null and last_seen < $4 and from_ms >= $2 and from_ms < $3 and to_ms > $3",
            "update aside set to_ms = $2 where account = $1 and resolved is null and last_seen < $4 and to_ms > $2 and to_ms <= $3 and from_ms < $2",
        ] {
            let stmt = sql(stmt).bind(lease.account).bind(read.range.from).bind(read.range.to);
            tx.run(stmt.bind(read.at)).await?;
        }
        let nth = tx.log_window_read(chain, lease.account, read.lane.name(), read, before).await?;
        tx.commit().await?;
        Ok(nth)
    }

    /// Deletes coverage after `now`.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn truncate_coverage(&self, lease: Lease, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold_lease(lease).await?;
        // Locked first, so that nothing changes the coverage between the two digests.
        tx.record_chain(lease.account).await?;
        let before = tx.coverage_digest(lease.account).await?;
        for stmt in [
            "delete from coverage where account = $1 and from_ms >= $2",
            "update coverage set to_ms = $2 where account = $1 and to_ms > $2",
        ] {
            tx.run(sql(stmt).bind(lease.account).bind(now)).await?;
        }
        tx.log_coverage_change(lease.account, now, before).await?;
        tx.commit().await
    }

    /// Moves the start of an account's live coverage.
    ///
    /// # Errors
    /// `DbFault::LeaseLost` if the account has another owner now.
    pub async fn move_live_start(&self, lease: Lease, start: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold_lease(lease).await?;
        let stmt = sql("update account set live_start = $2 where id = $1");
        tx.run(stmt.bind(lease.account).bind(start)).await?;
        tx.commit().await
    }

    /// Queues a backfill of a past time range. Returns its key.
    pub async fn request_backfill(
        &self,
        account: AccountKey,
        range: TimeRange,
        newest_first: bool,
        now: Time,
    ) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql(
            "insert into backfill (account, from_ms, to_ms, newest_first, created) values ($1, $2, $3, $4, $5) returning id",
        );
        let stmt = stmt.bind(account).bind(range.from).bind(range.to).bind(newest_first).bind(now);
        let id = tx.value(stmt).await?.ok_or_else(|| DbError::missing_row("backfill", format!("account {account}")))?;
        tx.commit().await?;
        Ok(id)
    }

    /// Backfills of one account or of all. Finished ones are included if `finished` is true.
    pub async fn backfills(
        &self,
        account: Option<AccountKey>,
        finished: bool,
    ) -> Result<Vec<BackfillRequest>, DbError> {
        let stmt = sql("select id, account, from_ms, to_ms, newest_first, created, finished, cancelled from backfill
             where (account = $1 or $1 = -1) and (finished is null or $2 = 1) order by id");
        self.all(stmt.bind(account.unwrap_or(AccountKey::ALL)).bind(finished)).await
    }

    /// Cancels an open backfill. Returns `false` if no open backfill has this key. Segments that it
    /// discovered stay stored.
    pub async fn cancel_backfill(&self, id: i64, now: Time) -> Result<bool, DbError> {
        let Some(account) = self.value(sql("select account from backfill where id = $1").bind(id)).await? else {
            return Ok(false);
        };
        let mut tx = self.begin().await?;
        // The lock order of a window read: the account, its record chain, then the rest.
        tx.lock_account_shared(account).await?;
        tx.record_chain(account).await?;
        let stmt = sql("update backfill set finished = $2, cancelled = $2 where id = $1 and finished is null");
        if tx.run(stmt.bind(id).bind(now)).await? == 0 {
            return Ok(false);
        }
        let before = tx.coverage_digest(account).await?;
        let stmt = sql("delete from coverage where account = $1 and pass = $2");
        tx.run(stmt.bind(account).bind(format!("backfill:{id}"))).await?;
        tx.log_coverage_change(account, now, before).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Ranges with quarantined records, and when each is due to be read again.
    pub async fn quarantined_windows(&self, account: AccountKey) -> Result<Vec<(TimeRange, Time)>, DbError> {
        let stmt = sql(
            "select from_ms, to_ms, min(due) from aside where account = $1 and resolved is null group by from_ms, to_ms order by 3 limit 100",
        );
        let rows: Vec<(Time, Time, Time)> = self.all(stmt.bind(account)).await?;
        Ok(rows.into_iter().map(|(from, to, due)| (TimeRange { from, to }, due)).collect())
    }
}

impl Tx {
    /// The purposes of an account's open backfills.
    async fn open_backfills(&mut self, account: AccountKey) -> Result<HashSet<String>, DbError> {
        let stmt = sql("select id from backfill where account = $1 and finished is null");
        let ids: Vec<i64> = self.values(stmt.bind(account)).await?;
        Ok(ids.into_iter().map(|id| format!("backfill:{id}")).collect())
    }

    /// Adds a range to a purpose's coverage, merged with the ranges that it touches.
    async fn add_coverage(
        &mut self,
        account: AccountKey,
        purpose: &str,
        range: TimeRange,
        at: Time,
    ) -> Result<(), DbError> {
        let stmt = sql("delete from coverage where account = $1 and pass = $2 and from_ms <= $4 and to_ms >= $3
             returning from_ms, to_ms, reads, first_read, last_read");
        let touched: Vec<(Time, Time, i64, Time, Time)> =
            self.all(stmt.bind(account).bind(purpose).bind(range.from).bind(range.to)).await?;
        let (mut from, mut to, mut reads, mut first, mut last) = (range.from, range.to, 1, at, at);
        for row in touched {
            (from, to, reads) = (from.min(row.0), to.max(row.1), reads + row.2);
            (first, last) = (first.min(row.3), last.max(row.4));
        }
        let stmt = sql(
            "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values ($1, $2, $3, $4, $5, $6, $7)",
        );
        let stmt = stmt.bind(account).bind(purpose).bind(from).bind(to).bind(reads).bind(first).bind(last);
        self.run(stmt).await.map(drop)
    }

    /// Logs a change of an account's coverage that no read made; otherwise `verify` would report
    /// tampering. Does nothing if the coverage is unchanged. `before` is the result of
    /// [`Tx::coverage_digest`] before the change, taken with the account's record chain locked.
    pub async fn log_coverage_change(&mut self, account: AccountKey, now: Time, before: Hash) -> Result<(), DbError> {
        if self.coverage_digest(account).await? == before {
            return Ok(());
        }
        let (range, summary) = (TimeRange { from: now, to: now }, IngestSummary::default());
        let (purposes, finished) = (Vec::new(), Vec::new());
        let change = WindowRead { at: now, done: now, lane: Lane::Live, range, summary, purposes, finished };
        let chain = self.record_chain(account).await?;
        self.log_window_read(chain, account, "cut", &change, before).await.map(drop)
    }

    /// Logs a window read and chains it with the coverage before and after. Returns its sequence
    /// number.
    async fn log_window_read(
        &mut self,
        mut chain: RecordChain,
        account: AccountKey,
        lane: &str,
        read: &WindowRead,
        before: Hash,
    ) -> Result<i64, DbError> {
        let stmt = sql("select coalesce(max(nth), 0) + 1 from reading where account = $1");
        let nth = self.value(stmt.bind(account)).await?.unwrap_or(1);
        let after = self.coverage_digest(account).await?;
        let summary = &read.summary;
        let duration_ms = crate::clock::millis(read.done.since(read.at));
        let [announced, added, changed, flipped, quarantined] =
            [summary.segments, summary.added, summary.changed, summary.flipped, summary.quarantined]
                .map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let (from, to) = (read.range.from.0, read.range.to.0);
        let numbers = [
            nth,
            read.at.0,
            duration_ms,
            from,
            to,
            announced,
            added,
            changed,
            flipped,
            quarantined,
            summary.digest_high,
            summary.digest_low,
        ];
        let previous =
            chain.append_read(nth, |sub| ReadRecord { sub, lane, numbers, before: &before, after: &after }.leaf());
        self.save_record_chain(chain).await?;
        let stmt = sql(
            "insert into reading (account, lane, nth, at, took, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low,
             previous, coverage_before, coverage)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        );
        let stmt = numbers.into_iter().fold(stmt.bind(account).bind(lane), super::Stmt::bind);
        self.run(stmt.bind(previous).bind(before).bind(after)).await?;
        let stmt = sql("delete from reading where account = $1 and nth <= $2");
        self.run(stmt.bind(account).bind(nth - MAX_READS_LOGGED)).await?;
        Ok(nth)
    }
}
