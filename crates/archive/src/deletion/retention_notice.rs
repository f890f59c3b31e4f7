//! Notices of unusual retention passes, which wait for their notice period or for a person's
//! approval.

use super::super::sql::{Flag, count};
use super::super::{AccountKey, Db, DbError, sql};
use crate::clock::Time;

/// The notice of an account.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct RetentionNoticeRow {
    /// The retention setting that it was announced for, in milliseconds.
    pub retention_ms: i64,
    /// When it was announced.
    pub announced: Time,
    /// How long it has waited, in milliseconds.
    pub waited_ms: i64,
    /// How many segments the pass would delete.
    pub segments: i64,
    /// Whether a person has approved it.
    #[sqlx(try_from = "Flag")]
    pub approved: bool,
}

impl Db {
    /// The notice of an account, where there is one.
    pub async fn retention_notice(&self, account: AccountKey) -> Result<Option<RetentionNoticeRow>, DbError> {
        let stmt = sql("select retention_ms, announced, waited_ms, segments, approved from retention_notice
             where account = $1");
        self.first(stmt.bind(account)).await
    }

    /// Stores the notice of an account. It does not change a stored approval.
    pub async fn save_retention_notice(&self, account: AccountKey, notice: &RetentionNoticeRow) -> Result<(), DbError> {
        let stmt = sql("insert into retention_notice (account, retention_ms, announced, waited_ms, segments, approved)
             values ($1, $2, $3, $4, $5, $6) on conflict (account) do update set retention_ms = excluded.retention_ms,
             announced = excluded.announced, waited_ms = excluded.waited_ms, segments = excluded.segments");
        let stmt = stmt.bind(account).bind(notice.retention_ms).bind(notice.announced).bind(notice.waited_ms);
        self.run(stmt.bind(notice.segments).bind(notice.approved)).await.map(drop)
    }

    /// Approves the next retention pass of an account, announced or not. Times that are stored up
    /// to now are then known to come from a clock that was ahead, and are left out of
    /// [`Db::latest_stored_time`].
    pub async fn approve_retention(&self, account: AccountKey, now: Time) -> Result<(), DbError> {
        let latest = self.latest_stored_time(account, true).await?;
        let mut tx = self.begin().await?;
        let stmt = sql("insert into retention_notice (account, retention_ms, announced, waited_ms, segments, approved)
             values ($1, 0, $2, 0, 0, 1) on conflict (account) do update set approved = 1");
        tx.run(stmt.bind(account).bind(now)).await?;
        if let Some(latest) = latest {
            let stmt = sql("update account set written_ahead = $2 where id = $1");
            tx.run(stmt.bind(account).bind(latest)).await?;
        }
        tx.commit().await
    }

    /// Deletes the notice, because the pass has run or is not due any more.
    pub async fn delete_retention_notice(&self, account: AccountKey) -> Result<(), DbError> {
        self.run(sql("delete from retention_notice where account = $1").bind(account)).await.map(drop)
    }

    /// How many of an account's segments ended before `cutoff`, and how many it has in all.
    pub async fn count_ended_before(&self, account: AccountKey, cutoff: Time) -> Result<(u64, u64), DbError> {
        let stmt = sql("select count(case when ended < $2 and (ended <> $3 or first_seen < $2) then 1 end), count(*)
             from segment where account = $1");
        let counts: Option<(i64, i64)> = self.first(stmt.bind(account).bind(cutoff).bind(Time::NONE)).await?;
        Ok(counts.map_or((0, 0), |(ended, all)| (count(ended), count(all))))
    }

    /// When anything was last written for an account, by the writer's clock: the latest read, the
    /// latest artifact and, with `include_heartbeats`, the latest heartbeat of any replica. Times
    /// that [`Db::approve_retention`] marked as written by a clock that was ahead are left out.
    pub async fn latest_stored_time(
        &self,
        account: AccountKey,
        include_heartbeats: bool,
    ) -> Result<Option<Time>, DbError> {
        let stmt = sql("select max(witness.at) from (select at from reading where account = $1
             union all select heartbeat as at from replica where $2 = 1
             union all select at from (select fetched as at from artifact where account = $1 order by feed desc limit 1) newest
             ) witness join account a on a.id = $1 where a.written_ahead is null or witness.at > a.written_ahead");
        Ok(self.value(stmt.bind(account).bind(include_heartbeats)).await?.flatten())
    }
}
