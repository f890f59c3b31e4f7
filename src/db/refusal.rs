//! What a 429 asked for, kept for whoever uses the same budget next: a process's memory ends with it, the server's does not.
//!
//! One row per budget in `meta`, written when a refusal comes, which is rare, and read when accounts are taken. It is over
//! when its time is; nobody deletes it.

use std::collections::BTreeMap;

use super::{Db, DbError, Row, sql};
use crate::clock::Time;

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
        until: Time(until).plus_millis(shift),
        times: number(times),
        share: number(share),
    };
    Ok(Some((budget.to_owned(), refusal)))
}
