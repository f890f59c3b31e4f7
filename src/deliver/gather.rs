//! From rows to events: what a sink wants of what there is, without what must not leave.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::judge::Key;
use crate::config::Sink;
use crate::db::{Db, DbError, DbFault, FeedRow, Head, Item, Window};
use crate::event::{Event, text_of};
use crate::lenient_json;
use crate::model::{Artifact, ArtifactSet};
use crate::redact::Redactor;

/// What a sink wants, and what is taken out on the way.
#[derive(Debug)]
pub(super) struct Filter {
    artifacts: ArtifactSet,
    accounts: BTreeSet<String>,
    /// In lower case.
    channels: BTreeSet<String>,
    redactor: Redactor,
}

/// The two places where metadata names the channel.
#[derive(Deserialize)]
struct Channel {
    #[serde(rename = "channelType", default)]
    kind: Value,
    #[serde(rename = "channelClass", default)]
    class: Value,
}

impl Filter {
    pub(super) fn new(settings: &Sink) -> Filter {
        Filter {
            artifacts: settings.artifacts,
            accounts: settings.accounts.clone(),
            channels: settings.channels.iter().map(|channel| channel.to_lowercase()).collect(),
            redactor: Redactor::new(&settings.redact),
        }
    }

    /// Whether anything of this account is wanted.
    pub(super) fn wants_account(&self, sub: &str) -> bool {
        self.accounts.is_empty() || self.accounts.contains(sub)
    }

    /// Whether it may be wanted, as far as can be told without looking into it.
    pub(super) fn wants(&self, head: &Head) -> bool {
        head.stored && head.item.artifact().is_some_and(|artifact| self.artifacts.contains(artifact))
    }

    fn wants_channel(&self, metadata: &str) -> bool {
        if self.channels.is_empty() {
            return true;
        }
        let Some(channel) = lenient_json::from_str::<Channel>(metadata) else { return false };
        let named = |value: &Value| value.as_str().is_some_and(|name| self.channels.contains(&name.to_lowercase()));
        named(&channel.kind) || named(&channel.class)
    }

    fn event(&self, mut row: FeedRow) -> Built {
        let Some(artifact) = row.artifact().filter(|artifact| self.artifacts.contains(*artifact)) else {
            return Built::Unwanted;
        };
        let (metadata, body) = match row.unpack() {
            Ok(parts) => parts,
            Err(error) => return Built::Damaged(row.item, error.to_string()),
        };
        if !self.wants_account(&row.account.sub) || !self.wants_channel(&metadata) {
            return Built::Unwanted;
        }
        let (metadata, body) = self.redacted(artifact, metadata, body);
        Built::Event(Event {
            feed: row.feed,
            account_key: row.account_key,
            account: row.account,
            dialog_id: row.dialog_id,
            segment_id: row.segment_id,
            ended: row.ended,
            artifact,
            version: row.version,
            stored: row.fetched,
            metadata,
            body,
        })
    }

    fn redacted(&self, artifact: Artifact, metadata: String, body: Vec<u8>) -> (String, Vec<u8>) {
        if self.redactor.is_idle() {
            return (metadata, body);
        }
        let body = match artifact {
            Artifact::Transcript => self.redactor.transcript(&body).into_owned(),
            // As a JSON string, which reads as the very same text whatever it begins with.
            Artifact::AgentSummary | Artifact::AutoSummary => {
                serde_json::to_vec(&self.redactor.text(&text_of(&body))).unwrap_or_default()
            }
        };
        (self.redactor.metadata(&metadata).into_owned(), body)
    }
}

/// What became of a row.
enum Built {
    Event(Event),
    Unwanted,
    Damaged(Item, String),
}

/// Events that a sink wants, in the order of accounts and feeds, and what was found out on the way.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) events: Vec<Event>,
    /// What each event is about.
    pub(super) items: HashMap<Key, Item>,
    /// What is wanted and did not fit in: the first number of each account.
    pub(super) beyond: HashMap<i64, i64>,
    /// What can never be sent, because what is stored is damaged, and why.
    pub(super) damaged: Vec<(Key, Item, String)>,
}

/// Gathers what is wanted of these parts of the feeds, at most so many bytes of bodies (and one event at the least).
pub(super) async fn gather(db: &Db, filter: &Arc<Filter>, windows: &[Window], bytes: u64) -> Result<Gathered, DbError> {
    let heads = db.feed_heads(windows).await?;
    let wanted: Vec<&Head> = heads.iter().filter(|head| filter.wants(head)).collect();
    let mut size = 0;
    let fits = wanted.iter().take_while(|head| {
        let first = size == 0;
        size += head.size.max(1);
        first || size <= bytes
    });
    let fits = fits.count();
    let keys: Vec<Key> = wanted[..fits].iter().map(|head| (head.account, head.feed)).collect();
    let mut gathered = build(db, filter, &keys).await?;
    for head in &wanted[fits..] {
        gathered.beyond.entry(head.account).or_insert(head.feed);
    }
    Ok(gathered)
}

/// The events of these numbers; those that are gone or not wanted any more are left out.
pub(super) async fn build(db: &Db, filter: &Arc<Filter>, keys: &[Key]) -> Result<Gathered, DbError> {
    if keys.is_empty() {
        return Ok(Gathered::default());
    }
    let rows = db.feed_rows(keys).await?;
    let filter = filter.clone();
    // Unpacking and redacting keep a processor busy.
    let built = tokio::task::spawn_blocking(move || {
        let mut gathered = Gathered::default();
        for row in rows {
            let key = (row.account_key, row.feed);
            let item = row.item;
            match filter.event(row) {
                Built::Event(event) => {
                    gathered.items.insert(key, item);
                    gathered.events.push(event);
                }
                Built::Unwanted => {}
                Built::Damaged(item, why) => gathered.damaged.push((key, item, why)),
            }
        }
        gathered
    });
    built.await.map_err(|error| DbError::new(DbFault::Broken, format!("failed to make events: {error}")))
}
