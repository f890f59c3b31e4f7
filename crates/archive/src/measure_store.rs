//! The course of each account over time, for the charts of the console.
//!
//! A sample is added to the current period of each width. The rows of an account are bounded: each
//! width is kept for a fixed time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::sql::count;
use super::{AccountKey, Arg, Db, DbError, Stmt, sql};
use crate::clock::Time;

/// The width of a period, and how long periods of that width are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MeasureWidth {
    /// For a day.
    TenMinutes,
    /// For a week.
    Hour,
    /// For 90 days.
    SixHours,
}

impl MeasureWidth {
    /// All of them.
    pub const ALL: [MeasureWidth; 3] = [MeasureWidth::TenMinutes, MeasureWidth::Hour, MeasureWidth::SixHours];

    /// The width of a period.
    pub const fn width(self) -> Duration {
        Duration::from_secs(match self {
            MeasureWidth::TenMinutes => 600,
            MeasureWidth::Hour => 3600,
            MeasureWidth::SixHours => 6 * 3600,
        })
    }

    /// How long a period is kept, with some time to spare.
    const fn kept(self) -> Duration {
        Duration::from_secs(match self {
            MeasureWidth::TenMinutes => 25 * 3600,
            MeasureWidth::Hour => 8 * 86_400,
            MeasureWidth::SixHours => 91 * 86_400,
        })
    }

    fn width_ms(self) -> i64 {
        i64::try_from(self.width().as_millis()).unwrap_or(i64::MAX)
    }

    /// The start of the period that contains a time.
    pub fn start_of(self, time: Time) -> Time {
        Time(time.0.div_euclid(self.width_ms()) * self.width_ms())
    }
}

/// A sample of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasureSample {
    /// Key of the account.
    pub account: AccountKey,
    /// How bad its state is; larger is worse.
    pub level: i64,
    /// How far its watermark is behind; `None` before the first read.
    pub lag: Option<Duration>,
    /// Items without an answer.
    pub unfinished: u64,
    /// Items completed since the last sample.
    pub done: u64,
    /// Requests in the last minute.
    pub requests: u64,
}

/// A period over several accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasureSum {
    /// The largest lag.
    pub lag: Option<Duration>,
    /// The largest number of items without an answer, summed over the accounts.
    pub unfinished: u64,
    /// Items completed.
    pub done: u64,
    /// Requests a minute on average, summed over the accounts.
    pub requests: u64,
}

/// The worst state of an account in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct MeasureCell {
    /// Key of the account.
    pub account: AccountKey,
    /// The number of the period, counted from the start of the range that was asked for.
    pub period: i64,
    /// How bad the state was.
    pub level: i64,
}

const INSERT: &str =
    "insert into measure (width_ms, at_ms, account, samples, level, lag_ms, unfinished, done, requests) values ";
const ADD: &str = " on conflict (width_ms, at_ms, account) do update set samples = measure.samples + excluded.samples,
     level = case when excluded.level > measure.level then excluded.level else measure.level end,
     lag_ms = case when measure.lag_ms is null or excluded.lag_ms > measure.lag_ms then excluded.lag_ms else measure.lag_ms end,
     unfinished = case when excluded.unfinished > measure.unfinished then excluded.unfinished else measure.unfinished end,
     done = measure.done + excluded.done, requests = measure.requests + excluded.requests";
const SUMS: &str = "select at_ms, max(lag_ms), cast(sum(unfinished) as bigint), cast(sum(done) as bigint), cast(sum(requests / samples) as bigint)
     from measure where width_ms = $1 and at_ms >= $2";

impl Db {
    /// Adds a sample of each account to the current periods, and deletes those that are past their
    /// time.
    pub async fn record_measures(&self, samples: &[MeasureSample], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for width in MeasureWidth::ALL {
            let at = width.start_of(now);
            let row = |sample: &MeasureSample| -> Vec<Arg> {
                let MeasureSample { account, level, lag, unfinished, done, requests } = *sample;
                let lag_ms = lag.map(|lag| i64::try_from(lag.as_millis()).unwrap_or(i64::MAX));
                vec![
                    width.width_ms().into(),
                    at.into(),
                    account.into(),
                    1_i64.into(),
                    level.into(),
                    lag_ms.into(),
                    unfinished.into(),
                    done.into(),
                    requests.into(),
                ]
            };
            tx.run(Stmt::rows(INSERT, samples.iter().map(row).collect(), ADD)).await?;
            let expired = sql("delete from measure where width_ms = $1 and at_ms < $2");
            tx.run(expired.bind(width.width_ms()).bind(now - width.kept())).await?;
        }
        tx.commit().await
    }

    /// The periods of this width from `since` on, by their start, over these accounts, or over all.
    pub async fn measure_sums(
        &self,
        width: MeasureWidth,
        since: Time,
        accounts: Option<&[AccountKey]>,
    ) -> Result<BTreeMap<Time, MeasureSum>, DbError> {
        let first: Vec<Arg> = vec![width.width_ms().into(), since.into()];
        let stmt = match accounts {
            Some(accounts) => {
                Stmt::list(&format!("{SUMS} and account in "), first, accounts.iter().copied(), " group by at_ms")
            }
            None => Stmt::built(format!("{SUMS} group by at_ms")).bind(width.width_ms()).bind(since),
        };
        let rows: Vec<(Time, Option<i64>, i64, i64, i64)> = self.all(stmt).await?;
        let mut sums: BTreeMap<Time, MeasureSum> = BTreeMap::new();
        for (at, lag_ms, unfinished, done, requests) in rows {
            let lag = lag_ms.map(|lag| Duration::from_millis(count(lag)));
            let sum = sums.entry(at).or_insert(MeasureSum { lag: None, unfinished: 0, done: 0, requests: 0 });
            sum.lag = sum.lag.max(lag);
            sum.unfinished += count(unfinished);
            sum.done += count(done);
            sum.requests += count(requests);
        }
        Ok(sums)
    }

    /// The worst state of every account in each period of `period` from `since` on, from the rows of
    /// this width, by account and period.
    pub async fn measure_cells(
        &self,
        width: MeasureWidth,
        since: Time,
        period: Duration,
    ) -> Result<Vec<MeasureCell>, DbError> {
        let stmt = sql("select account, (at_ms - $2) / $3 as period, max(level) as level from measure
             where width_ms = $1 and at_ms >= $2 group by 1, 2 order by 1, 2");
        let period_ms = i64::try_from(period.as_millis()).unwrap_or(i64::MAX);
        self.all(stmt.bind(width.width_ms()).bind(since).bind(period_ms)).await
    }
}
