//! Read-only queries of `audit`: what was read, what was announced, and what is stored.
//!
//! All queries run in one snapshot, so that a daemon that writes at the same time cannot make two
//! tables disagree. They count in the database, or read it page by page: memory use does not grow
//! with the archive.

mod audit_rows;

use std::collections::BTreeMap;

pub use audit_rows::{
    ArtifactTally, AuditedAccount, ClosedItemRow, CoverageAuditRow, DailyDigestRow, DeletionTally, OpenQuarantineRow,
    SegmentSetDigest, UnfinishedItemsRow, WindowReadRow,
};

use super::ingest::{segment_id_digest, utc_day};
use super::sql::{SqliteTx, count};
use super::timeout_connection::TimeoutConnection;
use super::{AccountKey, Db, DbError, ExportRange, Stmt, Tx, sql};
use crate::clock::Time;
use crate::model::{Artifact, TimeRange};

/// Segments read per page.
const SEGMENTS_PER_PAGE: usize = 5000;

/// Maximum number of groups of unfinished items, of closed items, and of quarantined records that
/// are listed.
const MAX_ROWS_LISTED: usize = 100_000;

/// A day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// The day number of segments without an end time.
const NO_END_TIME_DAY: i64 = -1;

/// A read-only transaction that sees the database as of one point in time.
pub struct Snapshot(pub(super) Tx);

impl Db {
    /// Begins a snapshot. It blocks no writer.
    pub async fn snapshot(&self) -> Result<Snapshot, DbError> {
        Ok(Snapshot(match self {
            // A deferred transaction that only reads sees the file as of its first statement.
            Db::Sqlite(pools) => Tx::Sqlite(SqliteTx::begin(&pools.reader, "begin").await?),
            Db::Postgres(pools) => {
                let begin = "begin isolation level repeatable read, read only";
                Tx::Postgres(TimeoutConnection::begin(&pools.pool, pools.statement_timeout, begin).await?)
            }
        }))
    }
}

/// Binds the three parameters of [`IN_RANGE`]: account, start and end.
fn bind_range(stmt: Stmt, range: ExportRange) -> Stmt {
    let (account, from, to) = range.bounds();
    stmt.bind(account).bind(from).bind(to)
}

/// The condition on segments whose parameters [`bind_range`] binds.
const IN_RANGE: &str = "($1 = -1 or s.account = $1) and s.ended >= $2 and s.ended < $3";

impl Snapshot {
    /// All accounts, by sub-account id.
    pub async fn accounts(&mut self) -> Result<Vec<AuditedAccount>, DbError> {
        let stmt = sql("select id as key, rc, sub, name, live_start, missing_since from account order by sub");
        self.0.all(stmt).await
    }

    /// The coverage of each purpose, by account, purpose and time.
    pub async fn coverage_rows(&mut self, account: Option<AccountKey>) -> Result<Vec<CoverageAuditRow>, DbError> {
        let stmt = sql("select account, pass, from_ms, to_ms, reads, first_read, last_read from coverage
             where ($1 = -1 or account = $1) order by account, pass, from_ms");
        self.0.all(stmt.bind(account.unwrap_or(AccountKey::ALL))).await
    }

    /// The logged window reads of an account that overlap `range`, in order.
    pub async fn window_reads(
        &mut self,
        account: AccountKey,
        range: ExportRange,
    ) -> Result<Vec<WindowReadRow>, DbError> {
        let stmt = sql(
            "select account, at, took, lane, from_ms, to_ms, announced, added, changed, flipped, aside from reading
             where account = $1 and to_ms > $2 and from_ms < $3 order by nth",
        );
        self.0.all(bind_range(stmt, ExportRange { account: Some(account), ..range })).await
    }

    /// Open backfills: key of the account, key of the backfill, range.
    pub async fn open_backfills(&mut self) -> Result<Vec<(AccountKey, i64, TimeRange)>, DbError> {
        let stmt = sql("select account, id, from_ms, to_ms from backfill where finished is null order by account, id");
        let rows: Vec<(AccountKey, i64, Time, Time)> = self.0.all(stmt).await?;
        Ok(rows.into_iter().map(|(account, id, from, to)| (account, id, TimeRange { from, to })).collect())
    }

    /// By account: segments in the range, and how many of them have a transcript.
    pub async fn segment_counts(&mut self, range: ExportRange) -> Result<BTreeMap<AccountKey, (u64, u64)>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.account, count(*), count(*) filter (where s.has_transcript = 1) from segment s where {IN_RANGE} group by s.account"
        ));
        self.counts_by_account(bind_range(stmt, range)).await
    }

    /// The outcome of the segments' artifacts in the range, by account and artifact.
    pub async fn artifact_tallies(
        &mut self,
        range: ExportRange,
    ) -> Result<BTreeMap<(AccountKey, Artifact), ArtifactTally>, DbError> {
        let mut tallies = BTreeMap::new();
        for artifact in Artifact::ALL {
            let stmt = bind_range(
                Stmt::built(format!(
                    "select s.account, {TALLY_COLUMNS} from {TALLY_TABLES} where {IN_RANGE} group by s.account"
                )),
                range,
            );
            let stmt = stmt.bind(artifact.code()).bind(1_i64 << artifact.code());
            for of in self.0.all::<AccountTally>(stmt).await? {
                tallies.insert((of.account, artifact), of.tally);
            }
        }
        Ok(tallies)
    }

    /// Unfinished items in the range, grouped by artifact, state and last response; the most severe
    /// and frequent groups first.
    pub async fn unfinished_items(&mut self, range: ExportRange) -> Result<Vec<UnfinishedItemsRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select w.item, w.account, w.state, w.status, w.reason, w.many, w.due from
             (select w.account, w.artifact, min(w.item) as item, w.state, w.status, w.reason, count(*) as many, min(w.due) as due
              from work w join segment s on s.id = w.segment where w.visit = 0 and {IN_RANGE}
              group by w.account, w.artifact, w.state, w.status, w.reason) w
             order by w.state desc, w.many desc, w.item limit $4"
        ));
        self.0.all(bind_range(stmt, range).bind(MAX_ROWS_LISTED)).await
    }

    /// Items in the range that are no longer worked on, the most severe first; at most
    /// `MAX_ROWS_LISTED`.
    pub async fn closed_items(&mut self, range: ExportRange) -> Result<Vec<ClosedItemRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select w.item, w.account, s.segment_id, s.ended, w.state, w.tries, w.status, w.reason
             from work w join segment s on s.id = w.segment
             where w.visit = 0 and w.state <> 0 and {IN_RANGE}
             order by case w.state when 2 then 0 when 1 then 1 else 2 end, s.ended, w.item limit $4"
        ));
        self.0.all(bind_range(stmt, range).bind(MAX_ROWS_LISTED)).await
    }

    /// Quarantined records whose range overlaps the range, by account: unresolved ones and resolved
    /// ones.
    pub async fn quarantine_counts(&mut self, range: ExportRange) -> Result<BTreeMap<AccountKey, (u64, u64)>, DbError> {
        let stmt = sql(
            "select account, count(*) filter (where resolved is null), count(*) filter (where resolved is not null)
             from aside where ($1 = -1 or account = $1) and to_ms > $2 and from_ms < $3 group by account",
        );
        self.counts_by_account(bind_range(stmt, range)).await
    }

    /// Unresolved quarantined records whose range overlaps the range, without their text; at most
    /// `MAX_ROWS_LISTED`.
    pub async fn open_quarantine(&mut self, range: ExportRange) -> Result<Vec<OpenQuarantineRow>, DbError> {
        let stmt = sql("select account, segment_id, reason, first_seen, times, from_ms, to_ms, due from aside
             where ($1 = -1 or account = $1) and to_ms > $2 and from_ms < $3 and resolved is null
             order by account, first_seen limit $4");
        self.0.all(bind_range(stmt, range).bind(MAX_ROWS_LISTED)).await
    }

    /// The latency histogram: account, kind, bucket (binary logarithm of the seconds), count.
    pub async fn lateness(
        &mut self,
        account: Option<AccountKey>,
    ) -> Result<Vec<(AccountKey, String, i64, u64)>, DbError> {
        let stmt = sql(
            "select account, kind, bucket, count from lateness where ($1 = -1 or account = $1) order by account, kind, bucket",
        );
        let rows: Vec<(AccountKey, String, i64, i64)> =
            self.0.all(stmt.bind(account.unwrap_or(AccountKey::ALL))).await?;
        Ok(rows.into_iter().map(|(account, kind, bucket, many)| (account, kind, bucket, count(many))).collect())
    }

    /// For each UTC day that overlaps the range: the digest of announced and of stored segments.
    /// Reads all segments of those days.
    pub async fn daily_digests(&mut self, range: ExportRange) -> Result<Vec<DailyDigestRow>, DbError> {
        let whole = widen_to_days(range);
        let mut days: BTreeMap<(AccountKey, i64), (SegmentSetDigest, SegmentSetDigest)> = BTreeMap::new();
        let stmt =
            sql("select account, day, segments, digest_high, digest_low from announced where ($1 = -1 or account = $1)
             and day >= $2 and day < $3");
        let stmt = stmt.bind(whole.account.unwrap_or(AccountKey::ALL)).bind(whole.from.map_or(i64::MIN, utc_day));
        let stmt = stmt.bind(whole.to.map_or(i64::MAX, utc_day));
        for (account, day, segments, digest_high, digest_low) in
            self.0.all::<(AccountKey, i64, i64, i64, i64)>(stmt).await?
        {
            let announced = SegmentSetDigest { segments, digest_high, digest_low };
            days.entry((account, day)).or_default().0 = announced;
        }
        self.visit_segments(whole, |account, day, (high, low)| {
            let stored = &mut days.entry((account, day)).or_default().1;
            stored.segments += 1;
            stored.digest_high = stored.digest_high.wrapping_add(high);
            stored.digest_low = stored.digest_low.wrapping_add(low);
        })
        .await?;
        if whole.from.is_some() || whole.to.is_some() {
            // Segments without an end time are only in the unbounded range.
            days.retain(|(_, day), _| *day != NO_END_TIME_DAY);
        }
        let row = |((account, day), (announced, stored))| DailyDigestRow { account, day, announced, stored };
        Ok(days.into_iter().map(row).collect())
    }

    /// Deleted segments of the UTC days that overlap the range, by account.
    pub async fn deletions(&mut self, range: ExportRange) -> Result<BTreeMap<AccountKey, DeletionTally>, DbError> {
        let whole = widen_to_days(range);
        let (from, to) = (whole.from.map_or(i64::MIN, utc_day), whole.to.map_or(i64::MAX, utc_day));
        // Segments without an end time are only in the unbounded range.
        let from = if whole.from.is_some() || whole.to.is_some() { from.max(NO_END_TIME_DAY + 1) } else { from };
        let stmt = sql("select account, kind, cast(sum(segments) as bigint), cast(sum(transcripts) as bigint),
             cast(sum(agent_summaries) as bigint), cast(sum(auto_summaries) as bigint),
             cast(sum(recordings) as bigint) from erased
             where ($1 = -1 or account = $1) and day >= $2 and day < $3 group by account, kind");
        let mut deletions: BTreeMap<AccountKey, DeletionTally> = BTreeMap::new();
        let stmt = stmt.bind(whole.account.unwrap_or(AccountKey::ALL)).bind(from).bind(to);
        for (account, kind, segments, a, b, c, d) in
            self.0.all::<(AccountKey, i64, i64, i64, i64, i64, i64)>(stmt).await?
        {
            let tally = deletions.entry(account).or_default();
            *if kind == 0 { &mut tally.erased } else { &mut tally.expired } += count(segments);
            for (sum, requested) in tally.requested.iter_mut().zip([a, b, c, d]) {
                *sum += count(requested);
            }
        }
        Ok(deletions)
    }

    /// Calls `each` for every segment in the range: account, day, digest of its id.
    async fn counts_by_account(&mut self, stmt: Stmt) -> Result<BTreeMap<AccountKey, (u64, u64)>, DbError> {
        let rows: Vec<(AccountKey, i64, i64)> = self.0.all(stmt).await?;
        Ok(rows.into_iter().map(|(account, one, other)| (account, (count(one), count(other)))).collect())
    }

    async fn visit_segments(
        &mut self,
        range: ExportRange,
        mut each: impl FnMut(AccountKey, i64, (i64, i64)),
    ) -> Result<(), DbError> {
        // The unbounded range is read in key order, a bounded one by the index on the end time.
        let order = if range.from.is_none() && range.to.is_none() { "s.id" } else { "s.ended, s.id" };
        let after =
            if order == "s.id" { "s.id > $5 and $4 = $4" } else { "s.ended >= $4 and (s.ended, s.id) > ($4, $5)" };
        let mut last = (Time::NONE, i64::MIN);
        loop {
            let stmt = Stmt::built(format!(
                "select s.id, s.account, s.ended, s.segment_id from segment s where {IN_RANGE} and {after} order by {order} limit $6"
            ));
            let stmt = bind_range(stmt, range).bind(last.0).bind(last.1).bind(SEGMENTS_PER_PAGE);
            let rows: Vec<(i64, AccountKey, Time, String)> = self.0.all(stmt).await?;
            for (key, account, ended, segment_id) in &rows {
                each(*account, utc_day(*ended), segment_id_digest(segment_id));
                last = (*ended, *key);
            }
            if rows.len() < SEGMENTS_PER_PAGE {
                return Ok(());
            }
        }
    }
}

/// The range, widened to whole UTC days.
fn widen_to_days(range: ExportRange) -> ExportRange {
    let up = |to: Time| Time(to.0.saturating_add(DAY_MS - 1).div_euclid(DAY_MS).saturating_mul(DAY_MS));
    ExportRange {
        from: range.from.map(|from| Time(from.0.div_euclid(DAY_MS).saturating_mul(DAY_MS))),
        to: range.to.map(up),
        account: range.account,
    }
}

/// The UTC day of a segment's end, as `utc_day` computes it.
const DAY: &str = "case when s.ended < 0 then -1 else s.ended / 86400000 end";

/// The outcomes of an artifact over the segments of one account and day.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct DailyTally {
    /// Key of the account.
    pub account: AccountKey,
    /// Days since 1970; -1 stands for segments without an end time.
    pub day: i64,
    /// The outcomes.
    #[sqlx(flatten)]
    pub tally: ArtifactTally,
}

/// The deleted segments of one account and day.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct DailyDeletion {
    /// Key of the account.
    pub account: AccountKey,
    /// Days since 1970; -1 stands for segments without an end time.
    pub day: i64,
    /// Erased on request.
    #[sqlx(try_from = "i64")]
    pub erased: u64,
    /// Deleted by retention.
    #[sqlx(try_from = "i64")]
    pub expired: u64,
}

impl Snapshot {
    /// The outcomes of an artifact by account and day.
    pub async fn daily_tallies(&mut self, range: ExportRange, artifact: Artifact) -> Result<Vec<DailyTally>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.account, {DAY} as day, {TALLY_COLUMNS} from {TALLY_TABLES} where {IN_RANGE} group by s.account, {DAY}"
        ));
        self.0.all(bind_range(stmt, range).bind(artifact.code()).bind(1_i64 << artifact.code())).await
    }

    /// By account and day: the segments that were first seen more than `delay_ms` after their end.
    pub async fn late_segments(
        &mut self,
        range: ExportRange,
        delay_ms: i64,
    ) -> Result<Vec<(AccountKey, i64, i64)>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.account, {DAY} as day, count(*) from segment s
             where {IN_RANGE} and s.ended >= 0 and s.first_seen > s.ended + $4 group by s.account, {DAY}"
        ));
        self.0.all(bind_range(stmt, range).bind(delay_ms)).await
    }

    /// The deleted segments of the UTC days that overlap the range, by account and day.
    pub async fn daily_deletions(&mut self, range: ExportRange) -> Result<Vec<DailyDeletion>, DbError> {
        let whole = widen_to_days(range);
        let stmt =
            sql("select account, day, cast(sum(case when kind = 0 then segments else 0 end) as bigint) as erased,
             cast(sum(case when kind = 1 then segments else 0 end) as bigint) as expired from erased
             where ($1 = -1 or account = $1) and day >= $2 and day < $3 group by account, day");
        let stmt = stmt.bind(whole.account.unwrap_or(AccountKey::ALL)).bind(whole.from.map_or(i64::MIN, utc_day));
        self.0.all(stmt.bind(whole.to.map_or(i64::MAX, utc_day))).await
    }
}

#[derive(sqlx::FromRow)]
struct AccountTally {
    account: AccountKey,
    #[sqlx(flatten)]
    tally: ArtifactTally,
}

/// Tallies an artifact whose code and bit are the parameters after those of [`IN_RANGE`]. The newest
/// version counts. A second version exists only if it is a text. So a text is stored if version 1
/// is one, or if version 2 exists.
const TALLY_COLUMNS: &str = "
    count(*) filter (where (s.asked & $5) <> 0) as requested,
    count(*) filter (where f.outcome = 0 or g.item is not null) as stored,
    count(*) filter (where f.outcome = 1 and g.item is null) as not_populated,
    count(*) filter (where f.item is null and w.state = 0) as pending,
    count(*) filter (where f.item is null and w.state = 1) as unavailable,
    count(*) filter (where f.item is null and w.state = 2) as failed,
    count(*) filter (where f.item is null and w.state = 3) as discarded,
    count(*) filter (where (s.asked & $5) <> 0 and f.item is null and w.item is null) as lost,
    count(*) filter (where (f.item is not null and w.item is not null)
                     or ((s.asked & $5) = 0 and (f.item is not null or w.item is not null))) as stray,
    min(case when f.item is null and w.state = 0 then w.due end) as next_due";

/// The tables of [`TALLY_COLUMNS`].
const TALLY_TABLES: &str = "segment s
    left join artifact f on f.item = s.id * 4 + $4 and f.version = 1
    left join artifact g on g.item = s.id * 4 + $4 and g.version = 2
    left join work w on w.item = s.id * 4 + $4 and w.visit = 0";

#[cfg(test)]
mod tests;
