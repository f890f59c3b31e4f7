//! Replays: parts of the archive that a person has sent once more.

use super::super::{Db, DbError, Owned, Row, Tx, sql};
use super::Replayed;
use crate::clock::Time;
use crate::model::{AccountId, Stretch};

/// What is to be sent once more.
#[derive(Debug, Clone, Copy)]
pub struct ReplayRequest {
    /// To which sink.
    pub sink: i64,
    /// Of one account; of all where it is none.
    pub account: Option<i64>,
    /// What was stored in here.
    pub stored: Stretch,
    /// At most so many events a second.
    pub rate: u32,
}

/// A replay that is not over, or was not long ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayRow {
    /// Its number.
    pub id: i64,
    /// The account, and the ownership under which this was read.
    pub owned: Owned,
    /// The account's ids.
    pub account: AccountId,
    /// What was stored in here.
    pub stored: Stretch,
    /// At most so many events a second.
    pub rate: u32,
    /// Everything up to this number in the feed has been looked at.
    pub feed: i64,
    /// The last number that belongs to it.
    pub until: i64,
    /// How many events were sent.
    pub sent: u64,
    /// When it was over.
    pub finished: Option<Time>,
}

const COLUMNS: &str =
    "r.id, r.account, a.epoch, a.rc, a.sub, r.from_ms, r.to_ms, r.rate, r.feed, r.until, r.sent, r.finished";

fn replay(row: &Row) -> Result<ReplayRow, DbError> {
    Ok(ReplayRow {
        id: row.int(0)?,
        owned: Owned { account: row.int(1)?, epoch: row.int(2)? },
        account: AccountId::new(row.text(3)?, row.text(4)?),
        stored: Stretch { from: row.time(5)?, to: row.time(6)? },
        rate: u32::try_from(row.int(7)?).unwrap_or(1).max(1),
        feed: row.int(8)?,
        until: row.int(9)?,
        sent: row.count(10)?,
        finished: row.maybe_time(11)?,
    })
}

impl Db {
    /// Has a part of the archive sent once more; returns of how many accounts.
    ///
    /// # Errors
    /// Where the database takes no writes.
    pub async fn request_replay(&self, request: &ReplayRequest, now: Time) -> Result<u64, DbError> {
        let stmt = sql("insert into sink_replay (sink, account, from_ms, to_ms, rate, feed, until, created)
             select $1, a.id, $2, $3, $4, 0, a.feed, $5 from account a where a.feed > 0 and ($6 = -1 or a.id = $6)");
        let stmt = stmt.bind(request.sink).bind(request.stored.from).bind(request.stored.to).bind(request.rate);
        self.run(stmt.bind(now).bind(request.account.unwrap_or(-1))).await
    }

    /// The oldest replay to this sink that is not over, of an account that this replica owns.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn open_replay(&self, sink: i64, owner: &str) -> Result<Option<ReplayRow>, DbError> {
        let stmt = super::super::Stmt::built(format!(
            "select {COLUMNS} from sink_replay r join account a on a.id = r.account
             where r.sink = $1 and r.finished is null and a.owner = $2 order by r.id limit 1"
        ));
        self.first(stmt.bind(sink).bind(owner)).await?.as_ref().map(replay).transpose()
    }

    /// The replays to this sink that are not over or ended after `since`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn replays(&self, sink: i64, since: Time) -> Result<Vec<ReplayRow>, DbError> {
        let stmt = super::super::Stmt::built(format!(
            "select {COLUMNS} from sink_replay r join account a on a.id = r.account
             where r.sink = $1 and (r.finished is null or r.finished >= $2) order by r.id"
        ));
        self.all(stmt.bind(sink).bind(since)).await?.iter().map(replay).collect()
    }
}

impl Tx {
    pub(super) async fn advance_replay(&mut self, step: Replayed, at: Time) -> Result<(), DbError> {
        let stmt = sql("update sink_replay set feed = case when $2 > feed then $2 else feed end, sent = sent + $3,
             finished = case when $4 = 1 then $5 else finished end where id = $1");
        self.run(stmt.bind(step.id).bind(step.upto).bind(step.sent).bind(step.over).bind(at)).await.map(drop)
    }
}
