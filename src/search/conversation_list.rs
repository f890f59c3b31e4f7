//! Groups search hits by conversation. Pure.

use std::collections::{HashMap, HashSet};

use super::ranked_search::SearchHit;
use crate::db::{AccountKey, SegmentRow};

/// A conversation with all its matching texts, in the order of the search; at least one.
pub(crate) struct ConversationHit {
    pub(crate) best: SearchHit,
    pub(crate) others: Vec<SearchHit>,
}

/// A dialog, or a segment without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConversationKey(AccountKey, Option<String>, String);

impl ConversationKey {
    pub(crate) fn of(segment: &SegmentRow) -> ConversationKey {
        match &segment.dialog_id {
            Some(dialog) => ConversationKey(segment.account_key, Some(dialog.clone()), String::new()),
            None => ConversationKey(segment.account_key, None, segment.segment_id.clone()),
        }
    }
}

/// Groups hits; a conversation stands where its first hit does.
pub(crate) fn group_by_conversation(hits: Vec<SearchHit>) -> Vec<ConversationHit> {
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
pub(crate) fn count_conversations(hits: &[SearchHit]) -> usize {
    hits.iter().map(|hit| ConversationKey::of(&hit.segment)).collect::<HashSet<_>>().len()
}
