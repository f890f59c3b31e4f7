//! Incremental export: cursors, each of which records the position of every feed.
//!
//! Users pass a cursor by its number. It stands for one position per account, since each account's
//! feed is numbered separately; table `meta` holds these positions.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::segment_reader::SEGMENT_COLUMNS;
use super::{AccountKey, Db, DbError, DbFault, ExportRange, SegmentRow, Stmt, sql};
use crate::clock::Time;

/// Cursors kept; older ones are deleted.
const MAX_CURSORS_KEPT: i64 = 1000;

/// A change of metadata carries the time at which it was made, which is shortly before its
/// transaction becomes visible.
const CHANGE_VISIBILITY_MARGIN: Duration = Duration::from_secs(15 * 60);

/// The position of every feed at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportCursor {
    /// When the cursor was created.
    pub(crate) at: Time,
    /// The newest sequence number of each account's feed.
    pub(crate) feeds: BTreeMap<AccountKey, i64>,
}

impl ExportCursor {
    /// Changes from this time on may be missing from the export that created the cursor.
    pub(crate) fn visible_since(&self) -> Time {
        self.at - CHANGE_VISIBILITY_MARGIN
    }

    /// When it was created; [`Time::NONE`] for the beginning.
    pub fn created(&self) -> Time {
        self.at
    }
}

fn serialize(part: &impl Serialize) -> Result<String, DbError> {
    serde_json::to_string(part)
        .map_err(|error| DbError::new(DbFault::Broken, format!("failed to serialise an export cursor: {error}")))
}

impl Db {
    /// Stores the current position of every feed. Returns the cursor's number.
    pub async fn create_export_cursor(&self, now: Time) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock("export").await?;
        let feeds: Vec<(AccountKey, i64)> = tx.all(sql("select id, feed from account where feed > 0")).await?;
        let last: i64 = tx.meta("export").await?.and_then(|text| text.parse().ok()).unwrap_or(0);
        let number = last + 1;
        let cursor = serialize(&ExportCursor { at: now, feeds: feeds.into_iter().collect() })?;
        tx.put_meta("export", &number.to_string()).await?;
        tx.put_meta(&format!("export:{number}"), &cursor).await?;
        tx.delete_meta(&format!("export:{}", number - MAX_CURSORS_KEPT)).await?;
        tx.commit().await?;
        Ok(number)
    }

    /// The cursor with this number; 0 is before everything. `None` if it is unknown.
    pub async fn export_cursor(&self, number: i64) -> Result<Option<ExportCursor>, DbError> {
        if number == 0 {
            return Ok(Some(ExportCursor { at: Time::NONE, feeds: BTreeMap::new() }));
        }
        let text = self.meta(&format!("export:{number}")).await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// As [`Db::segments_after`], but only segments that changed after the cursor: an artifact was
    /// stored or given up, or the metadata changed. Segments that changed shortly before may be
    /// included.
    pub async fn segments_changed_after(
        &self,
        range: ExportRange,
        cursor: &ExportCursor,
        last: Option<&SegmentRow>,
        limit: usize,
    ) -> Result<Vec<SegmentRow>, DbError> {
        let (account, from, to) = range.bounds();
        let ended = last.map_or(from, |last| last.ended.unwrap_or(Time::NONE).max(from));
        // One argument for all accounts: both databases limit the number of arguments.
        let feeds = serialize(&cursor.feeds)?;
        let mut stmt = Stmt::built(format!(
            "with mark (account, feed) as materialized ({})
             select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account left join mark m on m.account = s.account
             where s.ended >= $1 and s.ended < $2 and ($3 = -1 or s.account = $3)
             and ($4 = 0 or (s.ended, a.sub, s.segment_id) > ($1, $5, $6))
             and (s.changed >= $7
               or exists (select 1 from artifact x where x.item >= s.id * 4 and x.item < s.id * 4 + 4 and x.feed > coalesce(m.feed, 0))
               or exists (select 1 from work w where w.item >= s.id * 4 and w.item < s.id * 4 + 4 and w.state <> 0 and w.last_try >= $7))
             order by s.ended, a.sub, s.segment_id limit $9",
            self.select_json_pairs(8)
        ));
        stmt = stmt.bind(ended).bind(to).bind(account);
        stmt = stmt.bind(last.is_some()).bind(last.map_or("", |last| &*last.account.sub));
        stmt = stmt.bind(last.map_or("", |last| last.segment_id.as_str())).bind(cursor.visible_since());
        self.all(stmt.bind(feeds).bind(limit)).await
    }

    /// Number of segments in a range, changed or not.
    pub async fn count_segments(&self, range: ExportRange) -> Result<u64, DbError> {
        let (account, from, to) = range.bounds();
        let stmt = sql("select count(*) from segment where ended >= $1 and ended < $2 and ($3 = -1 or account = $3)");
        self.count(stmt.bind(from).bind(to).bind(account)).await
    }
}
