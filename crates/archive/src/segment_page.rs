//! Pages of segments for readers that may see a part of the archive, and the key of their cursors.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;

use super::segment_reader::SEGMENT_COLUMNS;
use super::{AccountKey, Arg, Db, DbError, SegmentRow, Stmt};
use crate::clock::Time;
use crate::model::ArtifactSet;

/// Key of the cursors' secret in the table `meta`.
const CURSOR_KEY_META: &str = "reader.cursor_key";

/// Key in the table `meta`: when a program last read the feed, in milliseconds since 1970.
pub(super) const FEED_READ_META: &str = "reader.feed_read";
/// How often a read of the feed is noted.
const FEED_READ_INTERVAL: Duration = Duration::from_secs(3600);

/// Which segments a page contains.
#[derive(Debug, Clone, Default)]
pub struct SegmentQuery {
    /// Segments of these accounts; `None` for all.
    pub accounts: Option<Vec<AccountKey>>,
    /// Segments that ended at or after this.
    pub from: Option<Time>,
    /// Segments that ended before this.
    pub to: Option<Time>,
    /// Segments of this dialog.
    pub dialog_id: Option<String>,
    /// Segments for which all of these artifacts are stored.
    pub stored: ArtifactSet,
    /// Segments whose metadata or artifacts changed at or after this.
    pub changed_since: Option<Time>,
    /// The newest segments first, rather than the oldest.
    pub newest_first: bool,
}

/// A place in the order of the pages: end time (unknown first), sub-account, segment id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPosition {
    /// When the segment ended; `None` if that is unknown.
    pub ended: Option<Time>,
    /// The sub-account's id.
    pub sub: String,
    /// The segment's id.
    pub segment_id: String,
}

impl From<&SegmentRow> for SegmentPosition {
    fn from(row: &SegmentRow) -> SegmentPosition {
        SegmentPosition { ended: row.ended, sub: row.account.sub.to_string(), segment_id: row.segment_id.clone() }
    }
}

/// A condition with its arguments.
#[derive(Default)]
struct Condition {
    clause: String,
    args: Vec<Arg>,
}

impl Condition {
    /// Adds a condition in which `$n` stands for the argument.
    fn add(&mut self, text: &str, arg: impl Into<Arg>) {
        self.args.push(arg.into());
        self.clause.push_str(" and ");
        self.clause.push_str(&text.replace("$n", &format!("${}", self.args.len())));
    }
}

impl Db {
    /// The next page of segments, in order of end time (unknown first), sub-account and segment id, or
    /// in the reverse order.
    pub async fn segments_page(
        &self,
        query: &SegmentQuery,
        after: Option<&SegmentPosition>,
        limit: usize,
    ) -> Result<Vec<SegmentRow>, DbError> {
        let mut condition = Condition::default();
        let first = if query.to.is_some() { Time(i64::MIN + 1) } else { Time::NONE };
        let after_ended = after.map(|after| after.ended.unwrap_or(Time::NONE));
        let (before, order) = if query.newest_first {
            ("<", "s.ended desc, a.sub desc, s.segment_id desc")
        } else {
            (">", "s.ended, a.sub, s.segment_id")
        };
        // One bound on each side, which the index serves; the rest skips the segments of the last page.
        let (lowest, highest) = if query.newest_first { (None, after_ended) } else { (after_ended, None) };
        let from = query.from.unwrap_or(first);
        condition.add("s.ended >= $n", lowest.map_or(from, |lowest| lowest.max(from)));
        match (highest, query.to) {
            (Some(highest), to) if to.is_none_or(|to| highest < to) => condition.add("s.ended <= $n", highest),
            (_, Some(to)) => condition.add("s.ended < $n", to),
            _ => {}
        }
        if let (Some(after), Some(ended)) = (after, after_ended) {
            condition.add(&format!("(s.ended {before} $n"), ended);
            let number = condition.args.len();
            let clause = format!(
                " or (s.ended = ${number} and (a.sub, s.segment_id) {before} (${}, ${})))",
                number + 1,
                number + 2
            );
            condition.clause.push_str(&clause);
            condition.args.extend([Arg::from(&after.sub), Arg::from(&after.segment_id)]);
        }
        match query.accounts.as_deref() {
            None => {}
            Some([]) => return Ok(Vec::new()),
            Some([one]) => condition.add("s.account = $n", *one),
            Some(several) => {
                let keys = several.iter().map(|key| format!("\"{key}\":0")).collect::<Vec<_>>().join(",");
                let column = self.select_json_keys(condition.args.len() + 1);
                condition.add(&format!("s.account in ({column})"), format!("{{{keys}}}"));
            }
        }
        if let Some(dialog) = &query.dialog_id {
            condition.add("s.dialog_id = $n", dialog);
        }
        for artifact in query.stored.iter() {
            condition.add(
                "exists (select 1 from artifact x where x.item = s.id * 4 + $n and x.outcome = 0)",
                artifact.code(),
            );
        }
        if let Some(since) = query.changed_since {
            condition.add(
                "(s.changed >= $n
                 or exists (select 1 from artifact x where x.item >= s.id * 4 and x.item < s.id * 4 + 4 and x.fetched >= $n)
                 or exists (select 1 from work w where w.item >= s.id * 4 and w.item < s.id * 4 + 4 and w.state <> 0 and w.last_try >= $n))",
                since,
            );
        }
        let (clause, number) = (condition.clause, condition.args.len() + 1);
        let stmt = Stmt::built(format!(
            "select {SEGMENT_COLUMNS} from segment s join account a on a.id = s.account
             where 1 = 1{clause} order by {order} limit ${number}"
        ));
        self.all(condition.args.into_iter().fold(stmt, Stmt::bind).bind(limit)).await
    }

    /// Notes that a program reads the feed: then the ids of erased segments are kept for it for a while.
    pub async fn note_feed_read(&self, now: Time) -> Result<(), DbError> {
        let noted = self.meta(FEED_READ_META).await?.and_then(|noted| noted.parse().ok()).map(Time);
        if noted.is_some_and(|noted| now.since(noted) < FEED_READ_INTERVAL) {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        tx.put_meta(FEED_READ_META, &now.0.to_string()).await?;
        tx.commit().await
    }

    /// The secret that encrypts the cursors of this archive's readers. All replicas have the same one.
    /// It is created at its first use.
    ///
    /// # Errors
    /// If the stored secret is damaged.
    pub async fn cursor_key(&self) -> Result<[u8; 32], DbError> {
        let stored = match self.meta(CURSOR_KEY_META).await? {
            Some(stored) => stored,
            None => {
                let mut tx = self.begin().await?;
                tx.advisory_lock(CURSOR_KEY_META).await?;
                let stored = match tx.meta(CURSOR_KEY_META).await? {
                    Some(stored) => stored,
                    None => {
                        let secret: [u8; 32] = rand::rng().random();
                        let stored = STANDARD.encode(secret);
                        tx.put_meta(CURSOR_KEY_META, &stored).await?;
                        stored
                    }
                };
                tx.commit().await?;
                stored
            }
        };
        STANDARD.decode(stored).ok().and_then(|secret| secret.try_into().ok()).ok_or_else(|| {
            DbError::broken(
                "failed to read the key of the cursors in the table meta: it is damaged",
                "delete the row `reader.cursor_key`; programs then start again with their first page",
            )
        })
    }
}
