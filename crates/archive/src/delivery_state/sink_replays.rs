//! Replays: stored events that an operator has sent again.

use super::super::{AccountKey, Db, DbError, Lease, SinkKey, Stmt, Tx, sql};
use super::ReplayProgress;
use crate::clock::Time;
use crate::model::{AccountId, TimeRange};

/// What to send again.
#[derive(Debug, Clone, Copy)]
pub struct ReplayRequest {
    /// Key of the sink.
    pub sink: SinkKey,
    /// Only this account; `None` for all.
    pub account: Option<AccountKey>,
    /// Only artifacts that were stored in this range.
    pub stored: TimeRange,
    /// Maximum events per second.
    pub rate: u32,
}

/// A row of table `sink_replay`.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct ReplayRow {
    /// Primary key.
    pub id: i64,
    /// The account's lease as of this read.
    #[sqlx(flatten)]
    pub lease: Lease,
    /// The RingCX ids of the account.
    #[sqlx(flatten)]
    pub account: AccountId,
    /// Only artifacts that were stored in this range.
    #[sqlx(flatten)]
    pub stored: TimeRange,
    /// Maximum events per second.
    #[sqlx(try_from = "i64")]
    pub rate: u32,
    /// Everything up to this sequence number of the feed was processed.
    pub feed: i64,
    /// The last sequence number to process.
    pub until: i64,
    /// Number of sent events.
    #[sqlx(try_from = "i64")]
    pub sent: u64,
    /// When it finished.
    pub finished: Option<Time>,
}

const SELECT_REPLAYS: &str =
    "select r.id, r.account, a.epoch, a.rc, a.sub, r.from_ms, r.to_ms, r.rate, r.feed, r.until, r.sent, r.finished
    from sink_replay r join account a on a.id = r.account where r.sink = $1";

impl Db {
    /// Queues a replay. Returns the number of accounts concerned.
    pub async fn request_replay(&self, request: &ReplayRequest, now: Time) -> Result<u64, DbError> {
        let stmt = sql("insert into sink_replay (sink, account, from_ms, to_ms, rate, feed, until, created)
             select $1, a.id, $2, $3, $4, 0, a.feed, $5 from account a where a.feed > 0 and ($6 = -1 or a.id = $6)");
        let stmt = stmt.bind(request.sink).bind(request.stored.from).bind(request.stored.to).bind(request.rate);
        self.run(stmt.bind(now).bind(request.account.unwrap_or(AccountKey::ALL))).await
    }

    /// The oldest open replay of a sink among the owner's accounts.
    pub async fn open_replay(&self, sink: SinkKey, owner: &str) -> Result<Option<ReplayRow>, DbError> {
        let stmt =
            Stmt::built(format!("{SELECT_REPLAYS} and r.finished is null and a.owner = $2 order by r.id limit 1"));
        self.first(stmt.bind(sink).bind(owner)).await
    }

    /// The replays of a sink that are open or finished after `since`.
    pub async fn replays(&self, sink: SinkKey, since: Time) -> Result<Vec<ReplayRow>, DbError> {
        let stmt = Stmt::built(format!("{SELECT_REPLAYS} and (r.finished is null or r.finished >= $2) order by r.id"));
        self.all(stmt.bind(sink).bind(since)).await
    }
}

impl Tx {
    /// Advances a replay. The caller has checked the lease.
    pub(super) async fn advance_replay(&mut self, progress: ReplayProgress, at: Time) -> Result<(), DbError> {
        let stmt = sql("update sink_replay set feed = case when $2 > feed then $2 else feed end, sent = sent + $3,
             finished = case when $4 = 1 then $5 else finished end where id = $1");
        self.run(stmt.bind(progress.id).bind(progress.upto).bind(progress.sent).bind(progress.is_finished).bind(at))
            .await
            .map(drop)
    }
}
