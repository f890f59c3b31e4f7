//! Progress and failures of all sinks, for display. The number of statements does not depend on
//! sinks or accounts.

use std::collections::BTreeMap;

use super::super::{Db, DbError, sql};
use super::SinkRow;
use crate::clock::Time;

/// Progress and failures of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkOverview {
    /// The sink.
    pub row: SinkRow,
    /// Progress by account, in order of sub-account id.
    pub accounts: Vec<SinkAccountProgress>,
    /// Failed deliveries, the most frequent reasons first.
    pub failures: Vec<SinkFailure>,
}

/// Progress of a sink in one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkAccountProgress {
    /// The sub-account's id.
    pub sub: String,
    /// How many sequence numbers of the feed lie after the cursor.
    pub behind: u64,
    /// Events that wait for a retry.
    pub waiting: u64,
    /// Events that were given up.
    pub failed: u64,
    /// When the first of them was given up.
    pub failed_since: Option<Time>,
    /// Delivered events, including redeliveries.
    pub delivered: u64,
    /// When an event was last delivered.
    pub last_delivered: Option<Time>,
}

/// Failed deliveries with the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkFailure {
    /// Whether they were given up; otherwise they wait for a retry.
    pub failed: bool,
    /// The HTTP status of the last response.
    pub status: Option<i64>,
    /// Why the last attempt failed.
    pub reason: String,
    /// Number of events.
    pub events: u64,
    /// The segment id of one of them.
    pub example: Option<String>,
}

impl Db {
    /// Progress and failures of each known sink, by name.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn sink_overviews(&self) -> Result<Vec<SinkOverview>, DbError> {
        let sinks = self.sinks().await?;
        if sinks.is_empty() {
            return Ok(Vec::new());
        }
        let mut accounts = self.sinks_by_account().await?;
        let mut failures = self.sink_failures().await?;
        Ok(sinks
            .into_iter()
            .map(|row| SinkOverview {
                accounts: accounts.remove(&row.key).unwrap_or_default(),
                failures: failures.remove(&row.key).unwrap_or_default(),
                row,
            })
            .collect())
    }

    async fn sinks_by_account(&self) -> Result<BTreeMap<i64, Vec<SinkAccountProgress>>, DbError> {
        let stmt = sql("select k.id, a.sub, a.feed - coalesce(c.feed, 0), coalesce(c.delivered, 0), c.last_delivered,
             coalesce(e.waiting, 0), coalesce(e.failed, 0), e.failed_since
             from sink k cross join account a left join sink_cursor c on c.sink = k.id and c.account = a.id
             left join (select sink, account, cast(sum(1 - state) as bigint) as waiting, cast(sum(state) as bigint) as failed,
                 min(case when state = 1 then last_try end) as failed_since
               from sink_event group by sink, account) e on e.sink = k.id and e.account = a.id
             order by k.id, a.sub");
        let mut all: BTreeMap<i64, Vec<SinkAccountProgress>> = BTreeMap::new();
        for row in self.all(stmt).await? {
            all.entry(row.int(0)?).or_default().push(SinkAccountProgress {
                sub: row.text(1)?,
                behind: row.count(2)?,
                delivered: row.count(3)?,
                last_delivered: row.maybe_time(4)?,
                waiting: row.count(5)?,
                failed: row.count(6)?,
                failed_since: row.maybe_time(7)?,
            });
        }
        Ok(all)
    }

    async fn sink_failures(&self) -> Result<BTreeMap<i64, Vec<SinkFailure>>, DbError> {
        let stmt = sql("select f.sink, f.state, f.status, f.reason, f.events, s.segment_id from
             (select sink, state, status, reason, count(*) as events, min(item) as item from sink_event
               group by sink, state, status, reason) f
             left join segment s on s.id = f.item / 4 order by f.sink, f.state desc, f.events desc, f.reason");
        let mut all: BTreeMap<i64, Vec<SinkFailure>> = BTreeMap::new();
        for row in self.all(stmt).await? {
            all.entry(row.int(0)?).or_default().push(SinkFailure {
                failed: row.flag(1)?,
                status: row.maybe_int(2)?,
                reason: row.text(3)?,
                events: row.count(4)?,
                example: row.maybe_text(5)?,
            });
        }
        Ok(all)
    }
}
