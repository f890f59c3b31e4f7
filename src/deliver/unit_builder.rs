//! Builds the event of a whole segment or dialog, once nothing of it is awaited any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::event_builder::{EventFilter, read_events};
use crate::clock::Time;
use crate::config::WebhookUnit;
use crate::db::{AccountKey, Db, DbError, FailedDelivery, SinkKey};
use crate::event::{Event, EventKind};

/// What a sink receives as one event.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnitRule {
    pub(super) unit: WebhookUnit,
    /// It is sent so long after its latest text, even if something of it is still awaited.
    pub(super) settle_after: Duration,
}

/// The result for one row.
pub(super) enum BuiltUnit {
    Event(Box<Event>),
    /// Something of it is awaited.
    Unsettled,
    /// A later row stands for it, or it was erased.
    Superseded,
}

impl UnitRule {
    /// How long until an unsettled unit is looked at again.
    pub(super) fn recheck_delay(&self) -> Duration {
        (self.settle_after / 20).clamp(Duration::from_millis(500), Duration::from_secs(30))
    }

    /// The newest text of the segment or dialog that the sink receives: its row stands for all.
    pub(super) async fn newest_text(
        &self,
        db: &Db,
        filter: &Arc<EventFilter>,
        segment: i64,
    ) -> Result<Option<i64>, DbError> {
        let segments = db.unit_segments(segment, self.unit == WebhookUnit::Dialog).await?;
        let batch = read_events(db, filter, &db.newest_entries(&segments).await?).await?;
        Ok(batch.events.iter().map(|event| event.feed_seq).max())
    }

    /// Builds the event that a waiting row stands for.
    pub(super) async fn build(
        &self,
        db: &Db,
        filter: &Arc<EventFilter>,
        sink: SinkKey,
        row: &FailedDelivery,
        now: Time,
    ) -> Result<BuiltUnit, DbError> {
        let segments = db.unit_segments(row.item.segment(), self.unit == WebhookUnit::Dialog).await?;
        if segments.is_empty() {
            return Ok(BuiltUnit::Superseded);
        }
        let state = db.unit_state(sink, row.account, &segments).await?;
        if state.is_unread || state.is_unsettled && now < row.first_try + self.settle_after {
            return Ok(BuiltUnit::Unsettled);
        }
        let mut batch = read_events(db, filter, &db.newest_entries(&segments).await?).await?;
        // The row of the latest text stands for all of them, also once it was delivered.
        let newest = batch.events.iter().map(|event| event.feed_seq).max();
        if newest > Some(row.feed) {
            // An erasure may still delete that row: until it is delivered, this one stays.
            let is_pending = db.has_later_row(sink, row.account, row.feed, &segments).await?;
            return Ok(if is_pending { BuiltUnit::Unsettled } else { BuiltUnit::Superseded });
        }
        // The sink does not want this row's own text.
        let is_damaged = batch.damaged.iter().any(|((_, feed), ..)| *feed == row.feed);
        if newest < Some(row.feed) && !is_damaged {
            return Ok(BuiltUnit::Superseded);
        }
        let order: HashMap<i64, usize> = segments.iter().enumerate().map(|(index, key)| (*key, index)).collect();
        let position = |event: &Event| {
            let item = batch.items.get(&(AccountKey(event.account_key), event.feed_seq));
            item.and_then(|item| order.get(&item.segment())).copied().unwrap_or(usize::MAX)
        };
        batch.events.sort_by_key(position);
        let kind = if self.unit == WebhookUnit::Dialog { EventKind::Dialog } else { EventKind::Segment };
        Ok(match batch.events.last().cloned() {
            Some(last) => BuiltUnit::Event(Box::new(Event {
                feed_seq: row.feed,
                kind,
                version: row.feed,
                body: Vec::new(),
                parts: batch.events,
                ..last
            })),
            None => BuiltUnit::Superseded,
        })
    }
}
