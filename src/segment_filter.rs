//! Filters on a segment's metadata and speakers, with the meaning that they have in a search. Pure.

use crate::render::{Conversation, Metadata};
use crate::search::tokenizer::tokenize;

/// Metadata fields with the channel, the direction, the disposition, and the agent's id.
const CHANNEL_FIELDS: &[&str] = &["channelClass", "channelType"];
const DIRECTION_FIELDS: &[&str] = &["dialogOrigination"];
const DISPOSITION_FIELDS: &[&str] = &["agentDisposition", "systemDisposition"];
const AGENT_ID_FIELDS: &[&str] = &["segmentParticipantId"];
const AGENT_NAME_FIELD: &str = "agentFullName";

/// Which segments are wanted; `None` for any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentFilter {
    /// The value of `channelClass` or `channelType`.
    pub channel: Option<String>,
    /// The value of `dialogOrigination`.
    pub direction: Option<String>,
    /// The agent's id, or the name of a participant or a part of it.
    pub agent: Option<String>,
    /// The disposition that the agent or the system set.
    pub disposition: Option<String>,
}

impl SegmentFilter {
    /// Whether every segment passes.
    pub(crate) fn is_empty(&self) -> bool {
        *self == SegmentFilter::default()
    }

    /// Whether a segment may pass, by its metadata alone.
    pub(crate) fn may_match(&self, metadata: &Metadata) -> bool {
        let matches_field = |wanted: &Option<String>, fields: &[&str]| {
            wanted.as_deref().is_none_or(|wanted| fields.iter().any(|name| is_same_text(metadata.field(name), wanted)))
        };
        matches_field(&self.channel, CHANNEL_FIELDS)
            && matches_field(&self.direction, DIRECTION_FIELDS)
            && matches_field(&self.disposition, DISPOSITION_FIELDS)
    }

    /// Whether a segment passes.
    pub(crate) fn matches(&self, metadata: &Metadata, transcript: Option<&[u8]>) -> bool {
        self.may_match(metadata) && self.agent.as_deref().is_none_or(|agent| has_agent(agent, metadata, transcript))
    }
}

fn has_agent(agent: &str, metadata: &Metadata, transcript: Option<&[u8]>) -> bool {
    let wanted = tokenize(agent);
    let contains_name =
        |name: &str| !wanted.is_empty() && tokenize(name).windows(wanted.len()).any(|part| part == wanted);
    if AGENT_ID_FIELDS.iter().any(|name| is_same_text(metadata.field(name), agent))
        || metadata.field(AGENT_NAME_FIELD).is_some_and(|name| contains_name(&name))
    {
        return true;
    }
    let conversation = transcript.and_then(Conversation::parse).unwrap_or_default();
    let mut names: Vec<&str> = conversation.phrases.iter().filter_map(|phrase| phrase.name.as_deref()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().any(contains_name)
}

/// Whether two texts are equal apart from case, accents and punctuation.
fn is_same_text(value: Option<String>, wanted: &str) -> bool {
    value.is_some_and(|value| {
        value.trim() == wanted.trim() || {
            let value = tokenize(&value);
            !value.is_empty() && value == tokenize(wanted)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_compares_whole_values_and_parts_of_names() {
        let metadata = Metadata::parse(
            r#"{"channelClass":"VOICE","channelType":"PHONE","callType":"INBOUND","agentDisposition":"Réfund granted",
                "segmentParticipantId":"901"}"#,
        );
        let transcript = br#"{"transcript":[{"participantName":"Jane van Roe","message":"x"}]}"#.as_slice();
        let only = |field: fn(&mut SegmentFilter) -> &mut Option<String>, value: &str| {
            let mut filter = SegmentFilter::default();
            *field(&mut filter) = Some(value.to_owned());
            filter.matches(&metadata, Some(transcript))
        };
        assert!(SegmentFilter::default().matches(&metadata, None));
        for (value, passes) in [("voice", true), ("phone", true), ("voi", false), ("email", false)] {
            assert_eq!(only(|filter| &mut filter.channel, value), passes, "{value}");
        }
        assert!(only(|filter| &mut filter.direction, "inbound") && !only(|filter| &mut filter.direction, "outbound"));
        assert!(only(|filter| &mut filter.disposition, "refund granted"));
        assert!(!only(|filter| &mut filter.disposition, "refund"));
        for (value, passes) in [("901", true), ("van roe", true), ("JANE", true), ("ro", false), ("90", false)] {
            assert_eq!(only(|filter| &mut filter.agent, value), passes, "{value}");
        }
    }
}
