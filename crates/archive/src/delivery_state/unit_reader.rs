//! What sinks need that receive whole segments or dialogs: which segments belong together, whether
//! all of it has arrived, and the newest texts.

use super::super::{AccountKey, Db, DbError, Item, SinkKey, Stmt, sql};
use crate::model::Artifact;

/// Whether a segment or a dialog can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitState {
    /// Whether something of it was never answered yet.
    pub is_unsettled: bool,
    /// Whether the sink's cursor has not reached something of it yet, which may get a later row.
    pub is_unread: bool,
}

impl Db {
    /// The segment, or with `whole_dialog` all stored segments of its dialog, in order of their end.
    /// Empty if the segment was erased.
    pub async fn unit_segments(&self, segment: i64, whole_dialog: bool) -> Result<Vec<i64>, DbError> {
        if !whole_dialog {
            return self.values(sql("select id from segment where id = $1").bind(segment)).await;
        }
        let stmt = sql("select s.id from segment s join segment m on m.account = s.account
             where m.id = $1 and (s.id = m.id or s.dialog_id = m.dialog_id) order by s.ended, s.id");
        self.values(stmt.bind(segment)).await
    }

    /// Whether a later text of these segments waits in a row of the sink.
    pub async fn has_later_row(
        &self,
        sink: SinkKey,
        account: AccountKey,
        feed: i64,
        segments: &[i64],
    ) -> Result<bool, DbError> {
        let head =
            "select feed from sink_event where sink = $1 and account = $2 and feed > $3 and state = 0 and item in ";
        let args = vec![sink.into(), account.into(), feed.into()];
        let later: Vec<i64> = self.values(Stmt::list(head, args, items(segments), "")).await?;
        Ok(!later.is_empty())
    }

    /// What these segments still wait for. Their recordings, which come later, hold nothing up.
    pub async fn unit_state(&self, sink: SinkKey, account: AccountKey, segments: &[i64]) -> Result<UnitState, DbError> {
        let head = "select item from work where state = 0 and visit = 0 and item in ";
        let texts = segments.iter().flat_map(|segment| Artifact::TEXTS.map(|artifact| Item::of(*segment, artifact)));
        let open: Vec<Item> = self.values(Stmt::list(head, Vec::new(), texts, "")).await?;
        let head = "select x.feed from artifact x left join sink_cursor c on c.sink = $1 and c.account = $2
             where x.account = $2 and x.outcome = 0 and x.feed > coalesce(c.feed, 0) and x.item in ";
        let args = vec![sink.into(), account.into()];
        let unread: Vec<i64> = self.values(Stmt::list(head, args, items(segments), "")).await?;
        Ok(UnitState { is_unsettled: !open.is_empty(), is_unread: !unread.is_empty() })
    }

    /// Account and sequence number of the newest version of each text of these segments.
    pub async fn newest_entries(&self, segments: &[i64]) -> Result<Vec<(AccountKey, i64)>, DbError> {
        let head = "select account, max(feed) from artifact where outcome = 0 and item in ";
        self.all(Stmt::list(head, Vec::new(), items(segments), " group by account, item order by account, max(feed)"))
            .await
    }
}

/// The items of these segments.
fn items(segments: &[i64]) -> impl Iterator<Item = Item> + '_ {
    segments.iter().flat_map(|segment| Item::all_of(*segment))
}
