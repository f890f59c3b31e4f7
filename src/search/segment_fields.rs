//! The metadata fields and the names that filters and facets compare, and how they compare. Pure.
//!
//! A search, an export and the API select the same segments by the same filter, because all of them
//! ask here.

use super::tokenizer::tokenize;
use crate::render::{Conversation, Metadata};

pub(crate) use crate::render::CHANNEL_FIELDS;

/// Metadata fields with the direction.
pub(crate) const DIRECTION_FIELDS: &[&str] = &["dialogOrigination"];
/// Metadata fields with the disposition.
pub(crate) const DISPOSITION_FIELDS: &[&str] = &["agentDisposition", "systemDisposition"];
/// Metadata fields with the agent's participant id.
pub(crate) const AGENT_ID_FIELDS: &[&str] = &["segmentParticipantId"];
/// The metadata field with the agent's name, where there is one.
pub(crate) const AGENT_NAME_FIELD: &str = "agentFullName";

/// Whether one of these fields has the wanted value, apart from case, accents and punctuation. Every
/// value passes if none is wanted.
pub(crate) fn matches_field(metadata: &Metadata, fields: &[&str], wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| {
        fields.iter().filter_map(|field| metadata.field(field)).any(|value| {
            value.trim() == wanted.trim() || {
                let words = tokenize(&value);
                !words.is_empty() && words == tokenize(wanted)
            }
        })
    })
}

/// Whether the metadata has the wanted channel, direction and disposition.
pub(crate) fn matches_metadata(
    metadata: &Metadata,
    channel: Option<&str>,
    direction: Option<&str>,
    disposition: Option<&str>,
) -> bool {
    matches_field(metadata, CHANNEL_FIELDS, channel)
        && matches_field(metadata, DIRECTION_FIELDS, direction)
        && matches_field(metadata, DISPOSITION_FIELDS, disposition)
}

/// Whether the metadata names this agent, by id or by name.
pub(crate) fn names_agent(metadata: &Metadata, agent: &str) -> bool {
    matches_field(metadata, AGENT_ID_FIELDS, Some(agent))
        || metadata.field(AGENT_NAME_FIELD).is_some_and(|name| contains_name(&name, &tokenize(agent)))
}

/// Whether a participant of the transcript has this name; each of a participant's names counts.
pub(crate) fn has_participant(transcript: &[u8], wanted: &str) -> bool {
    let wanted = tokenize(wanted);
    let conversation = Conversation::parse(transcript).unwrap_or_default();
    let mut names: Vec<&str> = conversation.phrases.iter().filter_map(|phrase| phrase.name.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().any(|name| contains_name(name, &wanted))
}

/// Whether the wanted words are this name or a part of it.
fn contains_name(name: &str, wanted: &[String]) -> bool {
    !wanted.is_empty() && tokenize(name).windows(wanted.len()).any(|part| part == wanted)
}
