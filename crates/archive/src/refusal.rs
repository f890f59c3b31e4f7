//! What a 429 asked for, kept for whoever uses the same budget next: a process's memory ends with it, the server's does not.
//!
//! One row per budget in `meta`, written when a refusal comes, which is rare, and read when accounts are taken. It is over
//! when its time is; nobody deletes it.

use std::collections::BTreeMap;

use super::{Db, DbError, Row, sql};
use crate::clock::Time;
use crate::ringcx::limits::LONGEST_WAIT;

/// What a refusal left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// When it came.
    pub at: Time,
    /// Nothing may leave before.
    pub until: Time,
    /// How many pauses there were in a row.
    pub times: u32,
    /// The share of the limit to go on at, in millionths.
    pub share: u32,
}

impl Db {
    /// Keeps what a refusal of `budget` asked for, for whoever comes next.
    pub async fn keep_refusal(&self, budget: &str, refusal: &Refusal, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        // By the clock that all who may come next share.
        let ahead = tx.clock_ahead(now).await?;
        let Refusal { at, until, times, share } = *refusal;
        let value = format!("{} {} {times} {share}", at.plus_millis(ahead).0, until.plus_millis(ahead).0);
        let stmt =
            sql("insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value");
        tx.run(stmt.bind(format!("refused:{budget}")).bind(value)).await?;
        tx.commit().await
    }

    /// Ends the waits that a person wants ended: refusals of these budgets, and the pauses of the account. Whoever works on it
    /// learns of it by [`Db::resumes`], once the bell is rung.
    pub async fn resume_account(&self, account: i64, budgets: &[String], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for budget in budgets {
            tx.run(sql("delete from meta where key = $1").bind(format!("refused:{budget}"))).await?;
        }
        tx.run(sql("update pause set until = $2 where account = $1 and until > $2").bind(account).bind(now)).await?;
        let stmt = sql("insert into meta (key, value) values ($1, '1') on conflict (key)
             do update set value = cast(cast(meta.value as bigint) + 1 as text)");
        tx.run(stmt.bind(format!("resume:{account}"))).await?;
        tx.commit().await
    }

    /// How often a person has asked for an account to be tried again at once, by account.
    pub async fn resumes(&self) -> Result<BTreeMap<i64, i64>, DbError> {
        let rows = self.all(sql("select key, value from meta where key like 'resume:%'")).await?;
        let mut resumes = BTreeMap::new();
        for row in &rows {
            let (key, value) = (row.text(0)?, row.text(1)?);
            let account = key.strip_prefix("resume:").and_then(|account| account.parse().ok());
            if let (Some(account), Ok(times)) = (account, value.parse()) {
                resumes.insert(account, times);
            }
        }
        Ok(resumes)
    }

    /// What refusals asked for, by budget and on the caller's clock, those that are over included.
    pub async fn refusals(&self, now: Time) -> Result<BTreeMap<String, Refusal>, DbError> {
        let here = self.here(now).await?;
        let stmt = sql("select key, value from meta where key >= 'refused:' and key < 'refused;'");
        let rows = self.all(stmt).await?;
        let mut kept = BTreeMap::new();
        for row in &rows {
            if let Some((budget, refusal)) = read(row, here, now)? {
                kept.insert(budget, refusal);
            }
        }
        Ok(kept)
    }
}

/// What cannot be read was written by nobody we know, and binds nobody.
fn read(row: &Row, here: Time, now: Time) -> Result<Option<(String, Refusal)>, DbError> {
    let (key, value) = (row.text(0)?, row.text(1)?);
    let Some(budget) = key.strip_prefix("refused:") else { return Ok(None) };
    let numbers: Vec<i64> = value.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [at, until, times, share] = numbers[..] else { return Ok(None) };
    // One that lies ahead is from before a clock was set back: it came just now, as far as anyone can tell.
    let shift = now.0.saturating_sub(here.0.max(at));
    let number = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    let refusal = Refusal {
        at: Time(at).plus_millis(shift),
        // An earlier version believed a server that asked for a day.
        until: Time(until).plus_millis(shift).min(now + LONGEST_WAIT),
        times: number(times),
        share: number(share),
    };
    Ok(Some((budget.to_owned(), refusal)))
}
