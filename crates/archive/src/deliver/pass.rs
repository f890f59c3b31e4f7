//! What a pass over a sink came to, recorded in one transaction: cursors, events set aside, a batch or a replay that got on.
//!
//! A cursor moves only in the name of the account's owner.

use std::collections::{BTreeMap, HashSet};

use super::super::{Arg, BULK, Db, DbError, Owned, Stmt, Tx, sql};
use super::Missed;
use crate::clock::{Time, millis};

/// How far a pass got in one account.
#[derive(Debug, Clone)]
pub struct Move {
    /// In whose name.
    pub owned: Owned,
    /// Everything up to this number is delivered, set aside or not wanted.
    pub upto: i64,
    /// How many events were delivered.
    pub delivered: u64,
}

/// How far a replay got.
#[derive(Debug, Clone, Copy)]
pub struct Replayed {
    /// Which replay.
    pub id: i64,
    /// Everything up to this number has been looked at.
    pub upto: i64,
    /// How many events were sent.
    pub sent: u64,
    /// Whether it is over.
    pub over: bool,
}

/// What a pass came to.
#[derive(Debug, Clone, Default)]
pub struct Pass {
    /// The sink's number.
    pub sink: i64,
    /// When.
    pub at: Time,
    /// Where the cursors go. What concerns an account that is not named here, or has another owner now, is left out.
    pub moves: Vec<Move>,
    /// Events that did not go through.
    pub missed: Vec<Missed>,
    /// Events, by account and number, that no longer wait: they went through, or are not there any more.
    pub cleared: Vec<(i64, i64)>,
    /// Whether the accounts' batches are written.
    pub batched: bool,
    /// The replay that got on.
    pub replayed: Option<Replayed>,
    /// Why the sink wants nothing more, where it said so.
    pub stopped: Option<String>,
}

impl Db {
    /// Records what a pass came to; returns the accounts that it counted for.
    ///
    /// # Errors
    /// Then nothing of it happened, or, where the connection broke while committing, all of it may have: delivering the
    /// same again is what "at least once" means.
    pub async fn record_pass(&self, pass: &Pass) -> Result<HashSet<i64>, DbError> {
        let mut tx = self.begin().await?;
        let held = tx.still_owned(pass.moves.iter().map(|step| step.owned)).await?;
        tx.forward_cursors(pass, &held).await?;
        tx.clear_missed(pass, &held).await?;
        tx.keep_missed(pass, &held).await?;
        if let Some(step) = pass.replayed {
            tx.advance_replay(step, pass.at).await?;
        }
        if let Some(why) = &pass.stopped {
            let stmt = sql("update sink set stopped = $2, reason = $3 where id = $1 and stopped is null");
            tx.run(stmt.bind(pass.sink).bind(pass.at).bind(why)).await?;
        }
        tx.commit().await?;
        Ok(held)
    }
}

impl Tx {
    /// Which of these ownerships hold; they go on to hold until the transaction ends.
    async fn still_owned(&mut self, owned: impl Iterator<Item = Owned>) -> Result<HashSet<i64>, DbError> {
        let owned: HashSet<(i64, i64)> = owned.map(|owned| (owned.account, owned.epoch)).collect();
        let mut accounts: Vec<i64> = owned.iter().map(|(account, _)| *account).collect();
        accounts.sort_unstable();
        let tail = self.in_order_to_hold();
        let mut held = HashSet::with_capacity(accounts.len());
        for part in accounts.chunks(BULK) {
            let stmt = Stmt::list("select id, epoch from account where id in ", Vec::new(), part.iter().copied(), tail);
            for row in self.all(stmt).await? {
                let (account, epoch) = (row.int(0)?, row.int(1)?);
                if owned.contains(&(account, epoch)) {
                    held.insert(account);
                }
            }
        }
        Ok(held)
    }

    async fn forward_cursors(&mut self, pass: &Pass, held: &HashSet<i64>) -> Result<(), DbError> {
        // One row an account: a statement may touch each only once.
        let mut moves: BTreeMap<i64, Move> = BTreeMap::new();
        for step in pass.moves.iter().filter(|step| held.contains(&step.owned.account)) {
            let sum = moves.entry(step.owned.account).or_insert(Move { upto: 0, delivered: 0, ..step.clone() });
            sum.upto = sum.upto.max(step.upto);
            sum.delivered += step.delivered;
        }
        let moves: Vec<Move> = moves.into_values().collect();
        for part in moves.chunks(BULK) {
            let rows = part.iter().map(|step| {
                vec![
                    Arg::from(pass.sink),
                    step.owned.account.into(),
                    step.upto.into(),
                    step.delivered.into(),
                    Arg::Int((step.delivered > 0).then_some(pass.at.0)),
                ]
            });
            let stmt = Stmt::rows(
                "insert into sink_cursor (sink, account, feed, delivered, last_delivered) values ",
                rows.collect(),
                " on conflict (sink, account) do update set delivered = sink_cursor.delivered + excluded.delivered,
                 feed = case when excluded.feed > sink_cursor.feed then excluded.feed else sink_cursor.feed end,
                 last_delivered = coalesce(excluded.last_delivered, sink_cursor.last_delivered)",
            );
            self.run(stmt).await?;
            if pass.batched {
                let rows =
                    part.iter().map(|step| vec![Arg::from(pass.sink), step.owned.account.into(), step.upto.into()]);
                let stmt =
                    Stmt::rows("delete from sink_batch where (sink, account, last) in (values ", rows.collect(), ")");
                self.run(stmt).await?;
            }
        }
        Ok(())
    }

    async fn clear_missed(&mut self, pass: &Pass, held: &HashSet<i64>) -> Result<(), DbError> {
        let cleared: Vec<&(i64, i64)> = pass.cleared.iter().filter(|(account, _)| held.contains(account)).collect();
        for part in cleared.chunks(BULK) {
            let rows = part.iter().map(|(account, feed)| vec![Arg::from(pass.sink), (*account).into(), (*feed).into()]);
            let stmt =
                Stmt::rows("delete from sink_event where (sink, account, feed) in (values ", rows.collect(), ")");
            self.run(stmt).await?;
        }
        Ok(())
    }

    /// Whatever was erased since it was sent is not kept: who erases had the accounts to themselves, and found no such event.
    async fn keep_missed(&mut self, pass: &Pass, held: &HashSet<i64>) -> Result<(), DbError> {
        let there = self.items_there(pass.missed.iter().map(|missed| missed.item.0)).await?;
        let missed =
            pass.missed.iter().filter(|missed| held.contains(&missed.account) && there.contains(&missed.item.0));
        let missed: BTreeMap<(i64, i64), &Missed> =
            missed.map(|missed| ((missed.account, missed.feed), missed)).collect();
        let missed: Vec<&Missed> = missed.into_values().collect();
        for part in missed.chunks(BULK) {
            let rows = part.iter().map(|missed| {
                vec![
                    Arg::from(pass.sink),
                    missed.account.into(),
                    missed.feed.into(),
                    missed.item.0.into(),
                    missed.failed.into(),
                    missed.tries.into(),
                    millis(missed.waited).into(),
                    missed.first_try.into(),
                    missed.last_try.into(),
                    missed.due.into(),
                    Arg::Int(missed.status.map(i64::from)),
                    Arg::from(&missed.reason),
                ]
            });
            let stmt = Stmt::rows(
                "insert into sink_event (sink, account, feed, item, state, tries, waited, first_try, last_try, due, status, reason) values ",
                rows.collect(),
                " on conflict (sink, account, feed) do update set state = excluded.state, tries = excluded.tries,
                 waited = excluded.waited, last_try = excluded.last_try, due = excluded.due, status = excluded.status,
                 reason = excluded.reason",
            );
            self.run(stmt).await?;
        }
        Ok(())
    }

    /// Those of these items of which the archive holds anything.
    async fn items_there(&mut self, items: impl Iterator<Item = i64>) -> Result<HashSet<i64>, DbError> {
        let items: Vec<i64> = items.collect();
        let mut there = HashSet::with_capacity(items.len());
        for part in items.chunks(BULK) {
            let head = "select item from artifact where item in ";
            for row in self.all(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await? {
                there.insert(row.int(0)?);
            }
        }
        Ok(there)
    }
}
