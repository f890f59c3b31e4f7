//! The feed: what is new, as the events that sinks get, with one cursor for all accounts.
//!
//! The cursor holds a position in the feed of each account, since each feed is numbered by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::{AccessAction, AccessSubject, ArchiveReader, ReadError, Scope};
use crate::access::Caller;
use crate::db::{AccountKey, FeedEntry, FeedNotice, FeedRange, FeedRow, NoticeKind};
use crate::event::{ErasureReason, Event, EventKind};

/// Bytes of bodies in one answer; a larger event is alone.
const MAX_ANSWER_BYTES: u64 = 16_000_000;
/// Reads for one answer where a role does not see what is new.
const MAX_READS: usize = 20;
/// The position before everything.
const BEGINNING: &str = "0";
/// The position after everything.
const NEWEST: &str = "newest";

/// What is new.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FeedAnswer {
    /// CloudEvents 1.0, as the sinks get them. An account's events are in order.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub(crate) events: Vec<Box<RawValue>>,
    /// The position for `after` of the next request.
    pub(crate) next: String,
    /// Whether there is more already.
    pub(crate) has_more: bool,
}

/// A position in each account's feed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct FeedPosition {
    feeds: BTreeMap<AccountKey, i64>,
}

impl ArchiveReader {
    /// What is new after a position: `next` of the last answer, `0`, or `newest`.
    pub(crate) async fn feed(
        &self,
        caller: &Caller,
        after: &str,
        accounts: &[String],
        limit: usize,
    ) -> Result<FeedAnswer, ReadError> {
        let scope = self.scope(caller, accounts).await?;
        self.db.note_feed_read(self.clock.now()).await?;
        // A restored archive gives numbers of the feeds again, so a position from before it would skip events.
        let binding = match self.db.restore_mark().await? {
            None => serde_json::to_string(&("feed", accounts)),
            Some(mark) => serde_json::to_string(&("feed", accounts, mark)),
        };
        let binding = binding.unwrap_or_default();
        let mut position = match after {
            BEGINNING => FeedPosition::default(),
            NEWEST => {
                FeedPosition { feeds: scope.accounts().iter().map(|account| (account.key, account.feed)).collect() }
            }
            cursor => self.open_cursor(&binding, Some(cursor)).await?.unwrap_or_default(),
        };
        let mut events = Vec::new();
        for _ in 0..MAX_READS {
            let ranges = next_ranges(&scope, &position, limit);
            if ranges.is_empty() {
                break;
            }
            events = self.read_events(&scope, &ranges, &mut position).await?;
            if !events.is_empty() {
                break;
            }
        }
        let has_more = !next_ranges(&scope, &position, limit).is_empty();
        if !events.is_empty() {
            let text = format!("feed account={}", accounts.join(","));
            let hits = events.len() as u64;
            let subject =
                AccessSubject::Query { text: text.trim_end_matches(" account="), sub: scope.single_sub(), hits };
            self.record(caller, AccessAction::Feed, subject).await?;
        }
        let next = self.seal_cursor(&binding, &position).await?;
        Ok(FeedAnswer { events, next, has_more })
    }

    /// The events in these ranges, as the caller sees them. Moves the position past what was read.
    async fn read_events(
        &self,
        scope: &Scope<'_>,
        ranges: &[FeedRange],
        position: &mut FeedPosition,
    ) -> Result<Vec<Box<RawValue>>, ReadError> {
        let heads = self.db.feed_entries(ranges).await?;
        let wanted: Vec<&FeedEntry> = heads.iter().filter(|head| is_told(head)).collect();
        let mut bytes = 0;
        let fits = |head: &&&FeedEntry| {
            let is_first = bytes == 0;
            bytes += head.size.max(1);
            is_first || bytes <= MAX_ANSWER_BYTES
        };
        let (fitting, left) = wanted.split_at(wanted.iter().take_while(fits).count());
        for range in ranges {
            let first_left = left.iter().find(|head| head.account == range.account);
            position.feeds.insert(range.account, first_left.map_or(range.upto, |head| head.feed - 1));
        }
        let keys: Vec<(AccountKey, i64)> = fitting.iter().map(|head| (head.account, head.feed)).collect();
        let mut events = Vec::with_capacity(keys.len());
        for row in self.db.feed_rows(&keys).await? {
            let key = (row.account_key, row.feed);
            events.extend(event_of(scope, row)?.map(|event| (key, event)));
        }
        if events.len() < keys.len() {
            for row in self.db.feed_notices(&keys).await? {
                let key = (row.account_key, row.feed);
                events.extend(erasure_of(scope, row).map(|event| (key, event)));
            }
        }
        events.sort_by_key(|(key, _)| *key);
        Ok(events.into_iter().filter_map(|(_, event)| to_json(&event)).collect())
    }
}

/// Whether an entry of the feed is an event: a stored artifact, or an erasure.
fn is_told(head: &FeedEntry) -> bool {
    match head.notice {
        None => head.stored,
        Some(kind) => kind != NoticeKind::Metadata,
    }
}

fn to_json(event: &Event) -> Option<Box<RawValue>> {
    String::from_utf8(event.cloud_event()).ok().and_then(|line| RawValue::from_string(line).ok())
}

/// The event of an erasure. Which channel the segment had is not known any more, so only a caller that
/// sees all of them learns about it.
fn erasure_of(scope: &Scope<'_>, row: FeedNotice) -> Option<Event> {
    let reason = match row.kind {
        NoticeKind::Erased => ErasureReason::Erasure,
        NoticeKind::Expired => ErasureReason::Retention,
        NoticeKind::Metadata => return None,
    };
    if !scope.shows_all_channels(&row.account.sub) {
        return None;
    }
    Some(Event {
        feed_seq: row.feed,
        account_key: row.account_key.0,
        account: row.account,
        dialog_id: None,
        segment_id: row.segment_id?,
        ended: None,
        kind: EventKind::Erased(reason),
        version: row.version,
        stored: row.at,
        metadata: String::new(),
        body: Vec::new(),
        parts: Vec::new(),
    })
}

/// The next range of each visible feed that has more.
fn next_ranges(scope: &Scope<'_>, position: &FeedPosition, limit: usize) -> Vec<FeedRange> {
    let after = |account: AccountKey| position.feeds.get(&account).copied().unwrap_or(0);
    let lagging: Vec<_> = scope.accounts().iter().filter(|account| account.feed > after(account.key)).collect();
    // Each account gets its share, so that none waits for a busy one.
    let share = (limit / lagging.len().max(1)).max(1);
    let range = |account: &&crate::db::AccountRow| {
        let after = after(account.key);
        let upto = after.saturating_add(i64::try_from(share).unwrap_or(i64::MAX)).min(account.feed);
        FeedRange { account: account.key, after, upto }
    };
    lagging.iter().take(limit).map(range).collect()
}

/// The event of an artifact, as the caller sees it; `None` if it does not.
fn event_of(scope: &Scope<'_>, mut row: FeedRow) -> Result<Option<Event>, ReadError> {
    let Some(artifact) = row.artifact() else { return Ok(None) };
    let (metadata, body) = row.unpack()?;
    let Some((metadata, body)) = scope.show_artifact(&row.account.sub, artifact, metadata, body) else {
        return Ok(None);
    };
    Ok(Some(Event {
        feed_seq: row.feed,
        account_key: row.account_key.0,
        account: row.account,
        dialog_id: row.dialog_id,
        segment_id: row.segment_id,
        ended: row.ended,
        kind: EventKind::Artifact(artifact),
        version: row.version,
        stored: row.fetched,
        metadata,
        body,
        parts: Vec::new(),
    }))
}
