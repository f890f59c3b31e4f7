//! What `audit` goes by: what was read, what was announced, what is held, as of one moment.
//!
//! Reads only. All of it comes from one snapshot, so that a daemon at work in the meantime cannot make two of its tables
//! seem to disagree. Statements count in the database, or go through it page by page: memory does not grow with the
//! archive.

mod rows;

use std::collections::BTreeMap;
use std::time::Duration;

pub use rows::{
    ArtifactTally, AsideLedgerRow, CoveredRow, DayRow, GoneTally, IdCount, LedgerAccount, ReadRow, SettledRow,
    UnfinishedRow,
};

use super::announce::{day_of, id_digest};
use super::patient::Patient;
use super::sql::SqliteTx;
use super::{Db, DbError, ExportRange, Item, Row, Stmt, Tx, sql};
use crate::clock::Time;
use crate::model::{AccountId, Artifact, State, Stretch};

/// How many segments are recounted at once.
const PAGE: usize = 5000;

/// How many reasons for unfinished items are told apart, and how many items and records set aside are listed.
const MOST: usize = 100_000;

/// A day, in milliseconds.
const DAY: i64 = 86_400_000;

/// Stands for "no end time" where days are counted.
const NO_DAY: i64 = -1;

/// The whole database as of one moment, to be read only.
pub struct Snapshot(pub(super) Tx);

impl Db {
    /// Takes a snapshot; it keeps nobody from writing.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn snapshot(&self) -> Result<Snapshot, DbError> {
        Ok(Snapshot(match self {
            // A deferred transaction that only reads: it sees the file as it was at its first statement.
            Db::Sqlite(pools) => Tx::Sqlite(SqliteTx::begin(&pools.reader, "begin").await?),
            Db::Postgres(pools) => {
                let begin = "begin isolation level repeatable read, read only";
                Tx::Postgres(Patient::begun(&pools.pool, pools.patience, begin).await?)
            }
        }))
    }
}

/// A statement's bounds on segments, bound after `account`: `s.ended` from, to.
fn bounds(stmt: Stmt, range: ExportRange) -> Stmt {
    // A segment without an end time lies in no range but the whole.
    let from = range.from.unwrap_or(if range.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE });
    stmt.bind(range.account.unwrap_or(-1)).bind(from).bind(range.to.unwrap_or(Time(i64::MAX)))
}

/// The condition that goes with [`bounds`].
const WITHIN: &str = "($1 = -1 or s.account = $1) and s.ended >= $2 and s.ended < $3";

impl Snapshot {
    /// All accounts, by sub-account id.
    pub async fn accounts(&mut self) -> Result<Vec<LedgerAccount>, DbError> {
        let rows =
            self.0.all(sql("select id, rc, sub, name, live_start, missing_since from account order by sub")).await?;
        rows.iter()
            .map(|row| {
                Ok(LedgerAccount {
                    key: row.int(0)?,
                    id: AccountId::new(row.text(1)?, row.text(2)?),
                    name: row.maybe_text(3)?,
                    live_start: row.maybe_time(4)?,
                    missing_since: row.maybe_time(5)?,
                })
            })
            .collect()
    }

    /// What every pass has read, by account, pass and time.
    pub async fn covered(&mut self, account: Option<i64>) -> Result<Vec<CoveredRow>, DbError> {
        let stmt = sql("select account, pass, from_ms, to_ms, reads, first_read, last_read from coverage
             where ($1 = -1 or account = $1) order by account, pass, from_ms");
        let rows = self.0.all(stmt.bind(account.unwrap_or(-1))).await?;
        rows.iter()
            .map(|row| {
                Ok(CoveredRow {
                    account: row.int(0)?,
                    pass: row.text(1)?,
                    stretch: Stretch { from: row.time(2)?, to: row.time(3)? },
                    reads: row.count(4)?,
                    first: row.time(5)?,
                    last: row.time(6)?,
                })
            })
            .collect()
    }

    /// The log of one account's single reads that touch `range`, in the order in which they were made.
    pub async fn reads(&mut self, account: i64, range: ExportRange) -> Result<Vec<ReadRow>, DbError> {
        let stmt = sql("select at, took, lane, from_ms, to_ms, announced, added, changed, flipped, aside from reading
             where account = $1 and to_ms > $2 and from_ms < $3 order by nth");
        let rows = self.0.all(bounds(stmt, ExportRange { account: Some(account), ..range })).await?;
        rows.iter()
            .map(|row| {
                Ok(ReadRow {
                    account,
                    at: row.time(0)?,
                    took: Duration::from_millis(row.count(1)?),
                    lane: row.text(2)?,
                    stretch: Stretch { from: row.time(3)?, to: row.time(4)? },
                    announced: row.count(5)?,
                    added: row.count(6)?,
                    changed: row.count(7)?,
                    flipped: row.count(8)?,
                    aside: row.count(9)?,
                })
            })
            .collect()
    }

    /// What people asked for of the past and is not complete: account, number, range.
    pub async fn open_backfills(&mut self) -> Result<Vec<(i64, i64, Stretch)>, DbError> {
        let stmt = sql("select account, id, from_ms, to_ms from backfill where finished is null order by account, id");
        let rows = self.0.all(stmt).await?;
        rows.iter()
            .map(|row| Ok((row.int(0)?, row.int(1)?, Stretch { from: row.time(2)?, to: row.time(3)? })))
            .collect()
    }

    /// Segments in the range, and among them those that have a transcript, by account.
    pub async fn segment_counts(&mut self, range: ExportRange) -> Result<BTreeMap<i64, (u64, u64)>, DbError> {
        let stmt = Stmt::built(format!(
            "select s.account, count(*), count(*) filter (where s.has_transcript = 1) from segment s where {WITHIN} group by s.account"
        ));
        let rows = self.0.all(bounds(stmt, range)).await?;
        rows.iter().map(|row| Ok((row.int(0)?, (row.count(1)?, row.count(2)?)))).collect()
    }

    /// What became of each artifact of the segments in the range, by account and artifact.
    pub async fn artifact_tallies(
        &mut self,
        range: ExportRange,
    ) -> Result<BTreeMap<(i64, Artifact), ArtifactTally>, DbError> {
        let mut tallies = BTreeMap::new();
        for artifact in Artifact::ALL {
            let rows = self.0.all(bounds(Stmt::built(tally_text(artifact)), range)).await?;
            for row in &rows {
                tallies.insert((row.int(0)?, artifact), tally(row)?);
            }
        }
        Ok(tallies)
    }

    /// Unfinished items in the range by what they have in common, the gravest and the most frequent first.
    pub async fn unfinished(&mut self, range: ExportRange) -> Result<Vec<UnfinishedRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select w.account, w.item, w.state, w.status, w.reason, w.many, w.due from
             (select w.account, w.artifact, min(w.item) as item, w.state, w.status, w.reason, count(*) as many, min(w.due) as due
              from work w join segment s on s.id = w.segment where w.visit = 0 and {WITHIN}
              group by w.account, w.artifact, w.state, w.status, w.reason) w
             order by w.state desc, w.many desc, w.item limit {MOST}"
        ));
        let mut groups = Vec::new();
        for row in self.0.all(bounds(stmt, range)).await? {
            let item = Item(row.int(1)?);
            groups.push(UnfinishedRow {
                account: row.int(0)?,
                artifact: item.known_artifact("work.item")?,
                state: row.code(2, ("work.state", item.0), State::from_code)?,
                status: row.maybe_int(3)?,
                reason: row.maybe_text(4)?,
                count: row.count(5)?,
                due: row.time(6)?,
            });
        }
        Ok(groups)
    }

    /// Items in the range that nobody works on any more, the gravest first; the first thousand.
    pub async fn settled(&mut self, range: ExportRange) -> Result<Vec<SettledRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select w.account, w.item, s.segment_id, s.ended, w.state, w.tries, w.status, w.reason
             from work w join segment s on s.id = w.segment
             where w.visit = 0 and w.state <> 0 and {WITHIN}
             order by case w.state when 2 then 0 when 1 then 1 else 2 end, s.ended, w.item limit {MOST}"
        ));
        let mut items = Vec::new();
        for row in self.0.all(bounds(stmt, range)).await? {
            let item = Item(row.int(1)?);
            items.push(SettledRow {
                account: row.int(0)?,
                artifact: item.known_artifact("work.item")?,
                segment_id: row.text(2)?,
                ended: row.time(3)?,
                state: row.code(4, ("work.state", item.0), State::from_code)?,
                tries: row.count(5)?,
                status: row.maybe_int(6)?,
                reason: row.maybe_text(7)?,
            });
        }
        Ok(items)
    }

    /// How many records set aside touch the range, by account: those that no later read has settled, and those that one
    /// has.
    pub async fn aside_counts(&mut self, range: ExportRange) -> Result<BTreeMap<i64, (u64, u64)>, DbError> {
        let stmt = sql(
            "select account, count(*) filter (where resolved is null), count(*) filter (where resolved is not null)
             from aside where ($1 = -1 or account = $1) and to_ms > $2 and from_ms < $3 group by account",
        );
        let rows = self.0.all(bounds(stmt, range)).await?;
        rows.iter().map(|row| Ok((row.int(0)?, (row.count(1)?, row.count(2)?)))).collect()
    }

    /// Records set aside that touch the range and that no later read has settled, without their text; the first
    /// thousand.
    pub async fn open_asides(&mut self, range: ExportRange) -> Result<Vec<AsideLedgerRow>, DbError> {
        let stmt = Stmt::built(format!(
            "select account, segment_id, reason, first_seen, times, from_ms, to_ms, due from aside
             where ($1 = -1 or account = $1) and to_ms > $2 and from_ms < $3 and resolved is null
             order by account, first_seen limit {MOST}"
        ));
        let rows = self.0.all(bounds(stmt, range)).await?;
        rows.iter()
            .map(|row| {
                Ok(AsideLedgerRow {
                    account: row.int(0)?,
                    segment_id: row.maybe_text(1)?,
                    reason: row.text(2)?,
                    first_seen: row.time(3)?,
                    times: row.count(4)?,
                    stretch: Stretch { from: row.time(5)?, to: row.time(6)? },
                    due: row.time(7)?,
                })
            })
            .collect()
    }

    /// How late things were: account, kind, power of two in seconds, count.
    pub async fn lateness(&mut self, account: Option<i64>) -> Result<Vec<(i64, String, i64, u64)>, DbError> {
        let stmt = sql(
            "select account, kind, bucket, count from lateness where ($1 = -1 or account = $1) order by account, kind, bucket",
        );
        let rows = self.0.all(stmt.bind(account.unwrap_or(-1))).await?;
        rows.iter().map(|row| Ok((row.int(0)?, row.text(1)?, row.int(2)?, row.count(3)?))).collect()
    }

    /// Every UTC day that the range touches, whole: what was announced of it against what is held. Goes through all the
    /// segments of those days.
    pub async fn days(&mut self, range: ExportRange) -> Result<Vec<DayRow>, DbError> {
        let whole = whole_days(range);
        let mut days: BTreeMap<(i64, i64), (IdCount, IdCount)> = BTreeMap::new();
        let stmt =
            sql("select account, day, segments, digest_high, digest_low from announced where ($1 = -1 or account = $1)
             and day >= $2 and day < $3");
        let stmt = stmt.bind(whole.account.unwrap_or(-1)).bind(whole.from.map_or(i64::MIN, day_of));
        let stmt = stmt.bind(whole.to.map_or(i64::MAX, day_of));
        for row in self.0.all(stmt).await? {
            let announced = IdCount { segments: row.int(2)?, digest_high: row.int(3)?, digest_low: row.int(4)? };
            days.entry((row.int(0)?, row.int(1)?)).or_default().0 = announced;
        }
        self.recount(whole, |account, day, (high, low)| {
            let held = &mut days.entry((account, day)).or_default().1;
            held.segments += 1;
            held.digest_high = held.digest_high.wrapping_add(high);
            held.digest_low = held.digest_low.wrapping_add(low);
        })
        .await?;
        if whole.from.is_some() || whole.to.is_some() {
            // Segments without an end time lie in no range but the whole.
            days.retain(|(_, day), _| *day != NO_DAY);
        }
        let row = |((account, day), (announced, held))| DayRow { account, day, announced, held };
        Ok(days.into_iter().map(row).collect())
    }

    /// What is gone of the days that the range touches, by account.
    pub async fn gone(&mut self, range: ExportRange) -> Result<BTreeMap<i64, GoneTally>, DbError> {
        let whole = whole_days(range);
        let (from, to) = (whole.from.map_or(i64::MIN, day_of), whole.to.map_or(i64::MAX, day_of));
        // Segments without an end time lie in no range but the whole.
        let from = if whole.from.is_some() || whole.to.is_some() { from.max(NO_DAY + 1) } else { from };
        let stmt = sql("select account, kind, cast(sum(segments) as bigint), cast(sum(transcripts) as bigint),
             cast(sum(agent_summaries) as bigint), cast(sum(auto_summaries) as bigint) from erased
             where ($1 = -1 or account = $1) and day >= $2 and day < $3 group by account, kind");
        let mut gone: BTreeMap<i64, GoneTally> = BTreeMap::new();
        for row in self.0.all(stmt.bind(whole.account.unwrap_or(-1)).bind(from).bind(to)).await? {
            let tally = gone.entry(row.int(0)?).or_default();
            match row.int(1)? {
                0 => tally.erased += row.count(2)?,
                _ => tally.expired += row.count(2)?,
            }
            for (asked, index) in tally.asked.iter_mut().zip(3..) {
                *asked += row.count(index)?;
            }
        }
        Ok(gone)
    }

    /// Shows every segment in the range, page by page: account, day, digest of its id.
    async fn recount(&mut self, range: ExportRange, mut each: impl FnMut(i64, i64, (i64, i64))) -> Result<(), DbError> {
        // All of them in the order in which they lie; a part of them by the index on the end time.
        let order = if range.from.is_none() && range.to.is_none() { "s.id" } else { "s.ended, s.id" };
        let after =
            if order == "s.id" { "s.id > $5 and $4 = $4" } else { "s.ended >= $4 and (s.ended, s.id) > ($4, $5)" };
        let mut last = (Time::NONE, i64::MIN);
        loop {
            let stmt = Stmt::built(format!(
                "select s.id, s.account, s.ended, s.segment_id from segment s where {WITHIN} and {after} order by {order} limit {PAGE}"
            ));
            let rows = self.0.all(bounds(stmt, range).bind(last.0).bind(last.1)).await?;
            for row in &rows {
                let ended = row.time(2)?;
                each(row.int(1)?, day_of(ended), id_digest(&row.text(3)?));
                last = (ended, row.int(0)?);
            }
            if rows.len() < PAGE {
                return Ok(());
            }
        }
    }
}

/// The range, widened to the UTC days that it touches.
fn whole_days(range: ExportRange) -> ExportRange {
    let up = |to: Time| Time(to.0.saturating_add(DAY - 1).div_euclid(DAY).saturating_mul(DAY));
    ExportRange {
        from: range.from.map(|from| Time(from.0.div_euclid(DAY).saturating_mul(DAY))),
        to: range.to.map(up),
        account: range.account,
    }
}

/// The newest version counts, and there is a second one only where it is a text: so a text is held where the first
/// version is one or a second exists.
fn tally_text(artifact: Artifact) -> String {
    let code = artifact.code();
    let bit = 1 << code;
    format!(
        "select s.account,
         count(*) filter (where (s.asked & {bit}) <> 0),
         count(*) filter (where f.outcome = 0 or g.item is not null),
         count(*) filter (where f.outcome = 1 and g.item is null),
         count(*) filter (where f.item is null and w.state = 0),
         count(*) filter (where f.item is null and w.state = 1),
         count(*) filter (where f.item is null and w.state = 2),
         count(*) filter (where f.item is null and w.state = 3),
         count(*) filter (where (s.asked & {bit}) <> 0 and f.item is null and w.item is null),
         count(*) filter (where (f.item is not null and w.item is not null)
                          or ((s.asked & {bit}) = 0 and (f.item is not null or w.item is not null))),
         min(case when f.item is null and w.state = 0 then w.due end)
         from segment s
         left join artifact f on f.item = s.id * 4 + {code} and f.version = 1
         left join artifact g on g.item = s.id * 4 + {code} and g.version = 2
         left join work w on w.item = s.id * 4 + {code} and w.visit = 0
         where {WITHIN} group by s.account"
    )
}

fn tally(row: &Row) -> Result<ArtifactTally, DbError> {
    Ok(ArtifactTally {
        asked: row.count(1)?,
        stored: row.count(2)?,
        not_populated: row.count(3)?,
        pending: row.count(4)?,
        unavailable: row.count(5)?,
        failed: row.count(6)?,
        discarded: row.count(7)?,
        lost: row.count(8)?,
        stray: row.count(9)?,
        next_due: row.maybe_time(10)?,
    })
}

#[cfg(test)]
mod tests;
