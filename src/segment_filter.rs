//! Filters on a segment's metadata and speakers, with the meaning that they have in a search. Pure.

use crate::render::Metadata;
use crate::search::segment_fields::{has_participant, matches_metadata, names_agent};

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
        let [channel, direction, disposition] =
            [&self.channel, &self.direction, &self.disposition].map(Option::as_deref);
        matches_metadata(metadata, channel, direction, disposition)
    }

    /// Whether a segment passes.
    pub(crate) fn matches(&self, metadata: &Metadata, transcript: Option<&[u8]>) -> bool {
        let is_agent = |agent: &str| {
            names_agent(metadata, agent) || transcript.is_some_and(|transcript| has_participant(transcript, agent))
        };
        self.may_match(metadata) && self.agent.as_deref().is_none_or(is_agent)
    }
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
