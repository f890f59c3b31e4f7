//! Progress and failures of all sinks, for display. The number of statements does not depend on
//! sinks or accounts.

use std::collections::BTreeMap;

use super::super::sql::Flag;
use super::super::{Db, DbError, DbRow, SinkKey, Stmt, sql};
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
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SinkAccountProgress {
    /// The sub-account's id.
    pub sub: String,
    /// How many sequence numbers of the feed lie after the cursor.
    #[sqlx(try_from = "i64")]
    pub behind: u64,
    /// Events that wait for a retry.
    #[sqlx(try_from = "i64")]
    pub waiting: u64,
    /// Events that were given up.
    #[sqlx(try_from = "i64")]
    pub failed: u64,
    /// When the first of them was given up.
    pub failed_since: Option<Time>,
    /// Delivered events, including redeliveries.
    #[sqlx(try_from = "i64")]
    pub delivered: u64,
    /// When an event was last delivered.
    pub last_delivered: Option<Time>,
}

/// Failed deliveries with the same reason.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SinkFailure {
    /// Whether they were given up; otherwise they wait for a retry.
    #[sqlx(rename = "state", try_from = "Flag")]
    pub failed: bool,
    /// The HTTP status of the last response.
    pub status: Option<i64>,
    /// Why the last attempt failed.
    pub reason: String,
    /// Number of events.
    #[sqlx(try_from = "i64")]
    pub events: u64,
    /// The segment id of one of them.
    pub example: Option<String>,
}

#[derive(sqlx::FromRow)]
struct OfSink<T> {
    sink: SinkKey,
    #[sqlx(flatten)]
    row: T,
}

impl Db {
    /// Progress and failures of each known sink, by name.
    pub async fn sink_overviews(&self) -> Result<Vec<SinkOverview>, DbError> {
        let sinks = self.sinks().await?;
        if sinks.is_empty() {
            return Ok(Vec::new());
        }
        let mut accounts: BTreeMap<SinkKey, Vec<SinkAccountProgress>> = self.all_by_sink(sql(SELECT_PROGRESS)).await?;
        let mut failures: BTreeMap<SinkKey, Vec<SinkFailure>> = self.all_by_sink(sql(SELECT_FAILURES)).await?;
        Ok(sinks
            .into_iter()
            .map(|row| SinkOverview {
                accounts: accounts.remove(&row.key).unwrap_or_default(),
                failures: failures.remove(&row.key).unwrap_or_default(),
                row,
            })
            .collect())
    }

    async fn all_by_sink<T>(&self, stmt: Stmt) -> Result<BTreeMap<SinkKey, Vec<T>>, DbError>
    where
        OfSink<T>: DbRow,
    {
        let mut all: BTreeMap<SinkKey, Vec<T>> = BTreeMap::new();
        for OfSink { sink, row } in self.all(stmt).await? {
            all.entry(sink).or_default().push(row);
        }
        Ok(all)
    }
}

const SELECT_PROGRESS: &str =
    "select k.id as sink, a.sub, a.feed - coalesce(c.feed, 0) as behind, coalesce(c.delivered, 0) as delivered,
    c.last_delivered, coalesce(e.waiting, 0) as waiting, coalesce(e.failed, 0) as failed, e.failed_since
    from sink k cross join account a left join sink_cursor c on c.sink = k.id and c.account = a.id
    left join (select sink, account, cast(sum(1 - state) as bigint) as waiting, cast(sum(state) as bigint) as failed,
        min(case when state = 1 then last_try end) as failed_since
      from sink_event group by sink, account) e on e.sink = k.id and e.account = a.id
    order by k.id, a.sub";

const SELECT_FAILURES: &str = "select f.sink, f.state, f.status, f.reason, f.events, s.segment_id as example from
    (select sink, state, status, reason, count(*) as events, min(item) as item from sink_event
      group by sink, state, status, reason) f
    left join segment s on s.id = case when f.item < 0 then (f.item + 1) / -4 else f.item / 4 end order by f.sink, f.state desc, f.events desc, f.reason";
