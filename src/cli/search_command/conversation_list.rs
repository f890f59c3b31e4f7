//! Groups search hits by conversation. Pure.

use std::collections::{HashMap, HashSet};

use crate::db::{AccountKey, SegmentRow};
use crate::search::SearchHit;

/// A conversation with all its matching texts, in the order of the search; at least one.
pub(super) struct ConversationHit {
    pub(super) best: SearchHit,
    pub(super) others: Vec<SearchHit>,
}

/// A dialog, or a segment without one.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct ConversationKey(AccountKey, Option<String>, String);

impl ConversationKey {
    pub(super) fn of(segment: &SegmentRow) -> ConversationKey {
        match &segment.dialog_id {
            Some(dialog) => ConversationKey(segment.account_key, Some(dialog.clone()), String::new()),
            None => ConversationKey(segment.account_key, None, segment.segment_id.clone()),
        }
    }
}

/// Groups hits; a conversation stands where its first hit does.
pub(super) fn group_by_conversation(hits: Vec<SearchHit>) -> Vec<ConversationHit> {
    let mut places: HashMap<ConversationKey, usize> = HashMap::new();
    let mut conversations: Vec<ConversationHit> = Vec::new();
    for hit in hits {
        let place = *places.entry(ConversationKey::of(&hit.segment)).or_insert(conversations.len());
        match conversations.get_mut(place) {
            Some(conversation) => conversation.others.push(hit),
            None => conversations.push(ConversationHit { best: hit, others: Vec::new() }),
        }
    }
    conversations
}

/// The number of conversations of these hits.
pub(super) fn count_conversations(hits: &[SearchHit]) -> usize {
    hits.iter().map(|hit| ConversationKey::of(&hit.segment)).collect::<HashSet<_>>().len()
}
