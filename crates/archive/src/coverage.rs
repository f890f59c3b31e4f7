//! Which stretches of time have been read, in which pass, and the log of single reads.

use std::collections::HashSet;

use super::proof::RecordChain;
use super::{Announced, Db, DbError, Owned, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::{Hash, ReadRecord};
use crate::model::{Lane, Stretch};

/// How many single reads an account's log keeps.
const LOG: i64 = 2000;

/// One read of one window, as it is recorded when its whole answer is stored.
#[derive(Debug, Clone)]
pub struct Reading {
    /// When the request was sent.
    pub at: Time,
    /// When the whole answer was stored.
    pub done: Time,
    /// Why the window was read.
    pub lane: Lane,
    /// The stretch that the read vouches for.
    pub stretch: Stretch,
    /// What it brought.
    pub announced: Announced,
    /// What each pass gained by it.
    pub passes: Vec<(String, Stretch)>,
    /// Backfills that are complete with it.
    pub finished: Vec<i64>,
}

/// A stretch of the past that a person asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackfillRequest {
    /// Its number.
    pub id: i64,
    /// The account.
    pub account: i64,
    /// The range.
    pub range: Stretch,
    /// Newest windows first.
    pub newest_first: bool,
    /// When it was asked for.
    pub created: Time,
    /// When its last window was read, or it was cancelled.
    pub finished: Option<Time>,
    /// When a person cancelled it.
    pub cancelled: Option<Time>,
}

impl Db {
    /// What an account's passes are satisfied with: pass, stretch, in order.
    pub async fn coverage(&self, account: i64) -> Result<Vec<(String, Stretch)>, DbError> {
        let stmt = sql("select pass, from_ms, to_ms from coverage where account = $1 order by pass, from_ms");
        let rows = self.all(stmt.bind(account)).await?;
        rows.iter().map(|row| Ok((row.text(0)?, Stretch { from: row.time(1)?, to: row.time(2)? }))).collect()
    }

    /// From when on a pass owes anything; fixed the first time it is asked for.
    pub async fn level(&self, account: i64, pass: &str, base: Time) -> Result<Time, DbError> {
        let stmt = sql("select base from coverage_level where account = $1 and pass = $2");
        if let Some(row) = self.first(stmt.bind(account).bind(pass)).await? {
            return row.time(0);
        }
        let mut tx = self.begin().await?;
        let stmt = sql(
            "insert into coverage_level (account, pass, base) values ($1, $2, $3) on conflict (account, pass) do nothing",
        );
        tx.run(stmt.bind(account).bind(pass).bind(base)).await?;
        let stmt = sql("select base from coverage_level where account = $1 and pass = $2");
        let row = tx.first(stmt.bind(account).bind(pass)).await?.ok_or_else(|| DbError::lost(account))?;
        let held = row.time(0)?;
        tx.commit().await?;
        Ok(held)
    }

    /// Records that a window's whole answer is stored; returns which read of the account this is. That number grows with each,
    /// unless the database was put back to an earlier state.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now.
    pub async fn record_reading(&self, owned: Owned, reading: &Reading) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        tx.hold(owned).await?;
        // Before anything else is locked, as where segments are announced.
        let chain = tx.record_chain(owned.account).await?;
        let before = tx.coverage_digest(owned.account).await?;
        let open = tx.open_backfills(owned.account).await?;
        for (pass, stretch) in &reading.passes {
            // One that was cancelled while this was read has no coverage any more.
            if pass.starts_with("backfill:") && !open.contains(pass) {
                continue;
            }
            tx.cover(owned.account, pass, *stretch, reading.at).await?;
        }
        for id in &reading.finished {
            let stmt = sql("update backfill set finished = $2 where id = $1 and finished is null");
            tx.run(stmt.bind(*id).bind(reading.done)).await?;
            tx.run(
                sql("delete from coverage where account = $1 and pass = $2")
                    .bind(owned.account)
                    .bind(format!("backfill:{id}")),
            )
            .await?;
        }
        // A record that was set aside and that a later read of its whole window no longer brings is settled.
        let stmt = sql(
            "update aside set resolved = $4 where account = $1 and resolved is null and from_ms >= $2 and to_ms <= $3 and last_seen < $5",
        );
        tx.run(
            stmt.bind(owned.account)
                .bind(reading.stretch.from)
                .bind(reading.stretch.to)
                .bind(reading.done)
                .bind(reading.at),
        )
        .await?;
        // One that was read only in part lies in the rest.
        for stmt in [
            "update aside set from_ms = $3 where account = $1 and resolved is null and last_seen < $4 and from_ms >= $2 and from_ms < $3 and to_ms > $3",
            "update aside set to_ms = $2 where account = $1 and resolved is null and last_seen < $4 and to_ms > $2 and to_ms <= $3 and from_ms < $2",
        ] {
            let stmt = sql(stmt).bind(owned.account).bind(reading.stretch.from).bind(reading.stretch.to);
            tx.run(stmt.bind(reading.at)).await?;
        }
        let nth = tx.log_reading(chain, owned.account, reading.lane.name(), reading, before).await?;
        tx.commit().await?;
        Ok(nth)
    }

    /// Forgets what counts as read of the time after `now`.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now.
    pub async fn cut_coverage(&self, owned: Owned, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold(owned).await?;
        // Before anything else is locked: so that nobody changes coverage between the two digests.
        tx.record_chain(owned.account).await?;
        let before = tx.coverage_digest(owned.account).await?;
        for stmt in [
            "delete from coverage where account = $1 and from_ms >= $2",
            "update coverage set to_ms = $2 where account = $1 and to_ms > $2",
        ] {
            tx.run(sql(stmt).bind(owned.account).bind(now)).await?;
        }
        tx.log_cut(owned.account, now, before).await?;
        tx.commit().await
    }

    /// Begins an account's live coverage at another time than it was to begin.
    ///
    /// # Errors
    /// `DbFault::Lost` where the account has another owner now.
    pub async fn move_live_start(&self, owned: Owned, start: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.hold(owned).await?;
        let stmt = sql("update account set live_start = $2 where id = $1");
        tx.run(stmt.bind(owned.account).bind(start)).await?;
        tx.commit().await
    }

    /// Asks for a stretch of the past.
    pub async fn request_backfill(
        &self,
        account: i64,
        range: Stretch,
        newest_first: bool,
        now: Time,
    ) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        let stmt = sql(
            "insert into backfill (account, from_ms, to_ms, newest_first, created) values ($1, $2, $3, $4, $5) returning id",
        );
        let stmt = stmt.bind(account).bind(range.from).bind(range.to).bind(newest_first).bind(now);
        let row = tx.first(stmt).await?.ok_or_else(|| DbError::lost(account))?;
        let id = row.int(0)?;
        tx.commit().await?;
        Ok(id)
    }

    /// What people asked for of the past; of all accounts, or one; finished ones too, or not.
    pub async fn backfills(&self, account: Option<i64>, finished: bool) -> Result<Vec<BackfillRequest>, DbError> {
        let stmt = sql("select id, account, from_ms, to_ms, newest_first, created, finished, cancelled from backfill
             where (account = $1 or $1 = -1) and (finished is null or $2 = 1) order by id");
        let rows = self.all(stmt.bind(account.unwrap_or(-1)).bind(finished)).await?;
        rows.iter()
            .map(|row| {
                Ok(BackfillRequest {
                    id: row.int(0)?,
                    account: row.int(1)?,
                    range: Stretch { from: row.time(2)?, to: row.time(3)? },
                    newest_first: row.flag(4)?,
                    created: row.time(5)?,
                    finished: row.maybe_time(6)?,
                    cancelled: row.maybe_time(7)?,
                })
            })
            .collect()
    }

    /// Ends a backfill that is not complete; `false` where none that is open has this number. What it has read stays read.
    pub async fn cancel_backfill(&self, id: i64, now: Time) -> Result<bool, DbError> {
        let Some(row) = self.first(sql("select account from backfill where id = $1").bind(id)).await? else {
            return Ok(false);
        };
        let account = row.int(0)?;
        let mut tx = self.begin().await?;
        // In the order in which a read is recorded: the account, its record chain, then the rest.
        let stmt = tx.epoch_of(account);
        tx.first(stmt).await?;
        tx.record_chain(account).await?;
        let stmt = sql("update backfill set finished = $2, cancelled = $2 where id = $1 and finished is null");
        if tx.run(stmt.bind(id).bind(now)).await? == 0 {
            return Ok(false);
        }
        let before = tx.coverage_digest(account).await?;
        let stmt = sql("delete from coverage where account = $1 and pass = $2");
        tx.run(stmt.bind(account).bind(format!("backfill:{id}"))).await?;
        tx.log_cut(account, now, before).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Windows that held records set aside, and when each is to be read again.
    pub async fn repairs(&self, account: i64) -> Result<Vec<(Stretch, Time)>, DbError> {
        let stmt = sql(
            "select from_ms, to_ms, min(due) from aside where account = $1 and resolved is null group by from_ms, to_ms order by 3 limit 100",
        );
        let rows = self.all(stmt.bind(account)).await?;
        rows.iter().map(|row| Ok((Stretch { from: row.time(0)?, to: row.time(1)? }, row.time(2)?))).collect()
    }
}

impl Tx {
    /// The passes of an account's backfills that are neither complete nor cancelled.
    async fn open_backfills(&mut self, account: i64) -> Result<HashSet<String>, DbError> {
        let stmt = sql("select id from backfill where account = $1 and finished is null");
        let rows = self.all(stmt.bind(account)).await?;
        rows.iter().map(|row| Ok(format!("backfill:{}", row.int(0)?))).collect()
    }

    /// Adds a stretch to a pass, merged with what it touches.
    async fn cover(&mut self, account: i64, pass: &str, stretch: Stretch, at: Time) -> Result<(), DbError> {
        let stmt = sql("delete from coverage where account = $1 and pass = $2 and from_ms <= $4 and to_ms >= $3
             returning from_ms, to_ms, reads, first_read, last_read");
        let touched = self.all(stmt.bind(account).bind(pass).bind(stretch.from).bind(stretch.to)).await?;
        let (mut from, mut to, mut reads, mut first, mut last) = (stretch.from, stretch.to, 1, at, at);
        for row in &touched {
            from = from.min(row.time(0)?);
            to = to.max(row.time(1)?);
            reads += row.int(2)?;
            first = first.min(row.time(3)?);
            last = last.max(row.time(4)?);
        }
        let stmt = sql(
            "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read) values ($1, $2, $3, $4, $5, $6, $7)",
        );
        let stmt = stmt.bind(account).bind(pass).bind(from).bind(to).bind(reads).bind(first).bind(last);
        self.run(stmt).await.map(drop)
    }

    /// Logs that an account's coverage was changed without a read, where it was: else `verify` takes it for an alteration.
    /// `before` is what [`Tx::coverage_digest`] said before the change, with the account's record chain locked.
    ///
    /// # Errors
    /// Where the database does not take it.
    pub async fn log_cut(&mut self, account: i64, now: Time, before: Hash) -> Result<(), DbError> {
        if self.coverage_digest(account).await? == before {
            return Ok(());
        }
        let (stretch, announced) = (Stretch { from: now, to: now }, Announced::default());
        let (passes, finished) = (Vec::new(), Vec::new());
        let cut = Reading { at: now, done: now, lane: Lane::Live, stretch, announced, passes, finished };
        let chain = self.record_chain(account).await?;
        self.log_reading(chain, account, "cut", &cut, before).await.map(drop)
    }

    /// Logs a read, and links it with the coverage before and after it; returns its number.
    async fn log_reading(
        &mut self,
        mut chain: RecordChain,
        account: i64,
        lane: &str,
        reading: &Reading,
        before: Hash,
    ) -> Result<i64, DbError> {
        let stmt = sql("select coalesce(max(nth), 0) + 1 from reading where account = $1");
        let nth = self.first(stmt.bind(account)).await?.map(|row| row.int(0)).transpose()?.unwrap_or(1);
        let after = self.coverage_digest(account).await?;
        let sum = &reading.announced;
        let took = crate::clock::millis(reading.done.since(reading.at));
        let [announced, added, changed, flipped, aside] =
            [sum.segments, sum.added, sum.changed, sum.flipped, sum.aside]
                .map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let (from, to) = (reading.stretch.from.0, reading.stretch.to.0);
        let numbers = [
            nth,
            reading.at.0,
            took,
            from,
            to,
            announced,
            added,
            changed,
            flipped,
            aside,
            sum.digest_high,
            sum.digest_low,
        ];
        let previous =
            chain.append_read(nth, |sub| ReadRecord { sub, lane, numbers, before: &before, after: &after }.leaf());
        self.keep_record_chain(chain).await?;
        let stmt = sql(
            "insert into reading (account, lane, nth, at, took, from_ms, to_ms, announced, added, changed, flipped, aside, digest_high, digest_low,
             previous, coverage_before, coverage)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
        );
        let stmt = numbers.into_iter().fold(stmt.bind(account).bind(lane), super::Stmt::bind);
        self.run(stmt.bind(previous).bind(before.to_vec()).bind(after.to_vec())).await?;
        self.run(sql("delete from reading where account = $1 and nth <= $2").bind(account).bind(nth - LOG)).await?;
        Ok(nth)
    }
}
