//! What has changed since an earlier export: marks, each of which remembers where every feed stood.
//!
//! A mark's number is what people keep. It stands for a position in each account's feed, because numbers grow for each
//! account by itself; the positions are kept with it here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::read::{SEGMENT, segment};
use super::{Db, DbError, DbFault, ExportRange, SegmentRow, Stmt, sql};
use crate::clock::Time;

/// Marks that are kept; older ones are forgotten.
const KEPT: i64 = 1000;

/// Changes to metadata carry the time at which they were made, a little before they can be seen.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// Where everything stood at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When.
    pub at: Time,
    /// The newest number in each account's feed.
    pub feeds: BTreeMap<i64, i64>,
}

impl Db {
    /// Remembers where everything stands now; returns the number under which it is found again.
    ///
    /// # Errors
    /// Where the database takes no writes.
    pub async fn mark(&self, now: Time) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        tx.lock_key("export").await?;
        let rows = tx.all(sql("select id, feed from account where feed > 0")).await?;
        let feeds = rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect::<Result<_, DbError>>()?;
        let held = tx.first(sql("select value from meta where key = 'export'")).await?;
        let last: i64 = held.map(|row| row.text(0)).transpose()?.and_then(|text| text.parse().ok()).unwrap_or(0);
        let number = last + 1;
        let mark = serde_json::to_string(&Mark { at: now, feeds })
            .map_err(|error| DbError::new(DbFault::Broken, format!("failed to write down a mark: {error}")))?;
        let put = || {
            sql("insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value")
        };
        tx.run(put().bind("export").bind(number.to_string())).await?;
        tx.run(put().bind(format!("export:{number}")).bind(mark)).await?;
        tx.run(sql("delete from meta where key = $1").bind(format!("export:{}", number - KEPT))).await?;
        tx.commit().await?;
        Ok(number)
    }

    /// What [`Db::mark`] remembered under this number; 0 is before everything. `None` where it is not known.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn marked(&self, number: i64) -> Result<Option<Mark>, DbError> {
        if number == 0 {
            return Ok(Some(Mark { at: Time::NONE, feeds: BTreeMap::new() }));
        }
        let row = self.first(sql("select value from meta where key = $1").bind(format!("export:{number}"))).await?;
        let text = row.map(|row| row.text(0)).transpose()?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// As [`Db::segments_after`], but only segments of which since `mark` an artifact was stored, the metadata changed, or
    /// an artifact was given up. Some that changed shortly before may be among them.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segments_changed_after(
        &self,
        range: ExportRange,
        mark: &Mark,
        last: Option<&SegmentRow>,
        limit: usize,
    ) -> Result<Vec<SegmentRow>, DbError> {
        let from = range.from.unwrap_or(if range.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE });
        let ended = last.map_or(from, |last| last.ended.unwrap_or(Time::NONE).max(from));
        // No account has the number -1: the list must not be empty.
        let feeds: Vec<(i64, i64)> =
            mark.feeds.iter().map(|(account, feed)| (*account, *feed)).chain([(-1, 0)]).collect();
        let places: Vec<String> = (0..feeds.len()).map(|i| format!("(${},${})", 8 + 2 * i, 9 + 2 * i)).collect();
        let mut stmt = Stmt::built(format!(
            "with mark (account, feed) as (values {})
             select {SEGMENT} from segment s join account a on a.id = s.account left join mark m on m.account = s.account
             where s.ended >= $1 and s.ended < $2 and ($3 = -1 or s.account = $3)
             and ($4 = 0 or (s.ended, a.sub, s.segment_id) > ($1, $5, $6))
             and (s.changed >= $7
               or exists (select 1 from artifact x where x.item >= s.id * 4 and x.item < s.id * 4 + 4 and x.feed > coalesce(m.feed, 0))
               or exists (select 1 from work w where w.item >= s.id * 4 and w.item < s.id * 4 + 4 and w.state <> 0 and w.last_try >= $7))
             order by s.ended, a.sub, s.segment_id limit {limit}",
            places.join(",")
        ));
        stmt = stmt.bind(ended).bind(range.to.unwrap_or(Time(i64::MAX))).bind(range.account.unwrap_or(-1));
        stmt = stmt.bind(last.is_some()).bind(last.map_or("", |last| &*last.account.sub));
        stmt = stmt.bind(last.map_or("", |last| last.segment_id.as_str())).bind(mark.at - MARGIN);
        for (account, feed) in feeds {
            stmt = stmt.bind(account).bind(feed);
        }
        let rows = self.all(stmt).await?;
        rows.iter().map(segment).collect()
    }

    /// How many segments there are in a range, changed or not.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn count_segments(&self, range: ExportRange) -> Result<u64, DbError> {
        let from = range.from.unwrap_or(if range.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE });
        let stmt = sql("select count(*) from segment where ended >= $1 and ended < $2 and ($3 = -1 or account = $3)");
        let stmt = stmt.bind(from).bind(range.to.unwrap_or(Time(i64::MAX))).bind(range.account.unwrap_or(-1));
        self.first(stmt).await?.map_or(Ok(0), |row| row.count(0))
    }
}
