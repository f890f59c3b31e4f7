//! Builds the events for a sink from stored rows, with filters and redaction applied.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::EventKey;
use crate::config::{Sink, SinkErasures};
use crate::db::{
    AccountKey, ArtifactStatus, Db, DbError, DbFault, FeedEntry, FeedNotice, FeedRange, FeedRow, Item, NoticeKind,
    SegmentArtifact,
};
use crate::event::{ErasureReason, Event, EventKind, decode_summary};
use crate::export::SegmentEntry;
use crate::lenient_json;
use crate::model::{Artifact, ArtifactSet};
use crate::redact::Redactor;

/// A sink's filters, and its redaction rules.
#[derive(Debug)]
pub(super) struct EventFilter {
    artifacts: ArtifactSet,
    metadata: bool,
    erasures: SinkErasures,
    accounts: BTreeSet<String>,
    /// Lower case.
    channels: BTreeSet<String>,
    redactor: Redactor,
}

/// The two metadata fields that name the channel.
#[derive(Deserialize)]
struct ChannelMetadata {
    #[serde(rename = "channelType", default)]
    kind: Value,
    #[serde(rename = "channelClass", default)]
    class: Value,
}

impl EventFilter {
    pub(super) fn new(settings: &Sink) -> EventFilter {
        EventFilter {
            artifacts: settings.artifacts,
            metadata: settings.metadata,
            erasures: settings.erasures,
            accounts: settings.accounts.clone(),
            channels: settings.channels.iter().map(|channel| channel.to_lowercase()).collect(),
            redactor: Redactor::new(&settings.redact),
        }
    }

    /// Whether the sink accepts events of this account.
    pub(super) fn wants_account(&self, sub: &str) -> bool {
        self.accounts.is_empty() || self.accounts.contains(sub)
    }

    /// Whether the sink may accept this entry, judged by the feed alone.
    pub(super) fn wants(&self, head: &FeedEntry) -> bool {
        match head.notice {
            None => head.stored && head.item.artifact().is_some_and(|artifact| self.artifacts.contains(artifact)),
            Some(kind) => self.wants_notice(kind),
        }
    }

    /// Whether the entry may change a row of a table.
    pub(super) fn changes_table(&self, head: &FeedEntry) -> bool {
        match head.notice {
            None => head.item.artifact().is_some_and(|artifact| self.artifacts.contains(artifact)),
            Some(NoticeKind::Metadata | NoticeKind::Erased | NoticeKind::Expired) => true,
        }
    }

    /// The segment as a table shows it; `None` if the sink does not receive its channel.
    pub(super) fn table_entry(&self, mut entry: SegmentEntry) -> Option<SegmentEntry> {
        if !self.wants_channel(&entry.segment.metadata) {
            return None;
        }
        for (artifact, slot) in Artifact::ALL.into_iter().zip(&mut entry.slots) {
            if !self.artifacts.contains(artifact) {
                let status = ArtifactStatus::NotRequested;
                *slot = SegmentArtifact { status, fetched: None, version: 0, due: None, tries: 0, reason: None };
            }
        }
        Some(entry.redact(&self.redactor))
    }

    fn wants_notice(&self, kind: NoticeKind) -> bool {
        match kind {
            NoticeKind::Metadata => self.metadata,
            NoticeKind::Erased => true,
            NoticeKind::Expired => self.erasures == SinkErasures::All,
        }
    }

    fn wants_channel(&self, metadata: &str) -> bool {
        if self.channels.is_empty() {
            return true;
        }
        let Some(channel) = lenient_json::from_str::<ChannelMetadata>(metadata) else { return false };
        let named = |value: &Value| value.as_str().is_some_and(|name| self.channels.contains(&name.to_lowercase()));
        named(&channel.kind) || named(&channel.class)
    }

    fn build_event(&self, mut row: FeedRow) -> BuiltEvent {
        let Some(artifact) = row.artifact().filter(|artifact| self.artifacts.contains(*artifact)) else {
            return BuiltEvent::Unwanted;
        };
        let (metadata, body) = match row.unpack() {
            Ok(parts) => parts,
            Err(error) => return BuiltEvent::Damaged(row.item, error.to_string()),
        };
        if !self.wants_account(&row.account.sub) || !self.wants_channel(&metadata) {
            return BuiltEvent::Unwanted;
        }
        let (metadata, body) = self.redact(artifact, metadata, body);
        BuiltEvent::Event(Event {
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
        })
    }

    /// Builds the event of a notice. One of an erased segment passes the filter of channels: which
    /// channel it had is not known any more.
    fn build_notice(&self, mut row: FeedNotice) -> BuiltEvent {
        let metadata = match row.unpack() {
            Ok(metadata) => metadata,
            Err(error) => return BuiltEvent::Damaged(row.item, error.to_string()),
        };
        let (kind, metadata) = match (row.kind, metadata) {
            (NoticeKind::Metadata, Some(metadata)) if self.wants_channel(&metadata) => {
                (EventKind::Metadata, self.redactor.metadata(&metadata).into_owned())
            }
            (NoticeKind::Metadata, _) => return BuiltEvent::Unwanted,
            (NoticeKind::Erased, _) => (EventKind::Erased(ErasureReason::Erasure), String::new()),
            (NoticeKind::Expired, _) => (EventKind::Erased(ErasureReason::Retention), String::new()),
        };
        let Some(segment_id) = row.segment_id.filter(|_| self.wants_notice(row.kind)) else {
            return BuiltEvent::Unwanted;
        };
        if !self.wants_account(&row.account.sub) {
            return BuiltEvent::Unwanted;
        }
        BuiltEvent::Event(Event {
            feed_seq: row.feed,
            account_key: row.account_key.0,
            account: row.account,
            dialog_id: row.dialog_id,
            segment_id,
            ended: row.ended,
            kind,
            version: row.version,
            stored: row.at,
            metadata,
            body: Vec::new(),
            parts: Vec::new(),
        })
    }

    fn redact(&self, artifact: Artifact, metadata: String, body: Vec<u8>) -> (String, Vec<u8>) {
        if self.redactor.is_noop() {
            return (metadata, body);
        }
        let body = match artifact {
            Artifact::Transcript => self.redactor.transcript(&body).into_owned(),
            // A JSON string, so that the text is read back unchanged however it begins.
            Artifact::AgentSummary | Artifact::AutoSummary => {
                serde_json::to_vec(&self.redactor.text(&decode_summary(&body))).unwrap_or_default()
            }
        };
        (self.redactor.metadata(&metadata).into_owned(), body)
    }
}

/// The result for one row.
enum BuiltEvent {
    Event(Event),
    Unwanted,
    Damaged(Item, String),
}

/// Events for a sink, ordered by account and feed number, and rows that gave none.
#[derive(Debug, Default)]
pub(super) struct EventBatch {
    pub(super) events: Vec<Event>,
    /// The item of each event.
    pub(super) items: HashMap<EventKey, Item>,
    /// The first feed number of each account that exceeded the byte limit.
    pub(super) first_unread: HashMap<AccountKey, i64>,
    /// Rows that cannot be sent because their stored data is damaged, with the error.
    pub(super) damaged: Vec<(EventKey, Item, String)>,
}

/// Reads the events of these feed windows, up to `max_bytes` of bodies, and at least one event.
pub(super) async fn read_window_events(
    db: &Db,
    filter: &Arc<EventFilter>,
    windows: &[FeedRange],
    max_bytes: u64,
) -> Result<EventBatch, DbError> {
    let heads = db.feed_entries(windows).await?;
    let wanted: Vec<&FeedEntry> = heads.iter().filter(|head| filter.wants(head)).collect();
    let mut size = 0;
    let fitting = wanted.iter().take_while(|head| {
        let first = size == 0;
        size += head.size.max(1);
        first || size <= max_bytes
    });
    let fitting = fitting.count();
    let keys: Vec<EventKey> = wanted[..fitting].iter().map(|head| (head.account, head.feed)).collect();
    let mut batch = read_events(db, filter, &keys).await?;
    for head in &wanted[fitting..] {
        batch.first_unread.entry(head.account).or_insert(head.feed);
    }
    Ok(batch)
}

/// Reads the events of these feed numbers. Erased and filtered ones are left out.
pub(super) async fn read_events(db: &Db, filter: &Arc<EventFilter>, keys: &[EventKey]) -> Result<EventBatch, DbError> {
    if keys.is_empty() {
        return Ok(EventBatch::default());
    }
    let rows = db.feed_rows(keys).await?;
    let notices = if rows.len() < keys.len() { db.feed_notices(keys).await? } else { Vec::new() };
    let filter = filter.clone();
    // Decompressing and redacting need CPU time.
    let built = tokio::task::spawn_blocking(move || {
        let mut batch = EventBatch::default();
        let artifacts = rows.into_iter().map(|row| ((row.account_key, row.feed), row.item, filter.build_event(row)));
        let notices = notices.into_iter().map(|row| ((row.account_key, row.feed), row.item, filter.build_notice(row)));
        let mut built: Vec<_> = artifacts.chain(notices).collect();
        built.sort_by_key(|(key, ..)| *key);
        for (key, item, event) in built {
            match event {
                BuiltEvent::Event(event) => {
                    batch.items.insert(key, item);
                    batch.events.push(event);
                }
                BuiltEvent::Unwanted => {}
                BuiltEvent::Damaged(item, why) => batch.damaged.push((key, item, why)),
            }
        }
        batch
    });
    built.await.map_err(|error| DbError::new(DbFault::Broken, format!("failed to build events: {error}")))
}
