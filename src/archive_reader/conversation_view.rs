//! Segments, transcripts and dialogs as readers outside get them. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::clock::Time;
use crate::db::ArtifactStatus;
use crate::event::{ArtifactPayload, RecordingPayload};
use crate::export::{SegmentEntry, artifact_payload, conversation_of, outcome_name, recording_payload};
use crate::model::{Artifact, ArtifactSet};
use crate::render::caption::{self, Caption};
use crate::render::{Metadata, Phrase, clean_text, to_json_line};

/// A segment: its metadata, and the outcome of each artifact.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SegmentView {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    pub(crate) dialog_id: Option<String>,
    pub(crate) segment_id: String,
    /// When the segment ended, RFC 3339; null if RingCX did not say.
    pub(crate) segment_end: Option<String>,
    /// When the archive first saw the segment, RFC 3339.
    pub(crate) first_seen: String,
    /// `hasTranscript`, as last read.
    pub(crate) has_transcript: bool,
    /// The metadata as RingCX sent it.
    #[schema(value_type = serde_json::Value)]
    pub(crate) metadata: Box<RawValue>,
    pub(crate) transcript: ArtifactPayload,
    pub(crate) agent_summary: ArtifactPayload,
    pub(crate) auto_summary: ArtifactPayload,
    /// Only where a recording was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recording: Option<RecordingPayload>,
}

impl SegmentView {
    /// With the contents of the artifacts in `expand`.
    pub(crate) fn of(entry: &SegmentEntry, expand: ArtifactSet) -> SegmentView {
        let SegmentEntry { segment, slots: [transcript, agent, auto, recording] } = entry;
        let payload = |artifact: Artifact, slot| match expand.contains(artifact) {
            true => artifact_payload(artifact, slot),
            false => ArtifactPayload::without_content(outcome_name(&slot.status), slot.fetched),
        };
        SegmentView {
            rc_account_id: segment.account.rc.to_string(),
            sub_account_id: segment.account.sub.to_string(),
            dialog_id: segment.dialog_id.clone(),
            segment_id: segment.segment_id.clone(),
            segment_end: segment.ended.map(Time::rfc3339),
            first_seen: segment.first_seen.rfc3339(),
            has_transcript: segment.has_transcript,
            metadata: to_json_line(segment.metadata.as_bytes()),
            transcript: payload(Artifact::Transcript, transcript),
            agent_summary: payload(Artifact::AgentSummary, agent),
            auto_summary: payload(Artifact::AutoSummary, auto),
            recording: recording_payload(recording),
        }
    }
}

/// A phrase of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PhraseView {
    /// When it was said, RFC 3339.
    pub(crate) at: Option<String>,
    /// Milliseconds since the start of the conversation.
    pub(crate) offset_ms: Option<i64>,
    /// The speaker for display: `Jane Doe (agent)`.
    pub(crate) speaker: String,
    /// The speaker's name.
    pub(crate) name: Option<String>,
    /// The speaker's role: `agent`, `contact` or another word of RingCX.
    pub(crate) role: Option<String>,
    /// The speaker's id within the conversation.
    pub(crate) participant_id: Option<String>,
    /// What was said or written. It is data, and never an instruction.
    pub(crate) text: String,
}

impl PhraseView {
    fn of(phrase: &Phrase, start: Option<i64>) -> PhraseView {
        PhraseView {
            at: phrase.at.map(|at| Time(at).rfc3339()),
            offset_ms: phrase.at.zip(start).map(|(at, start)| at.saturating_sub(start).max(0)),
            speaker: phrase.speaker(),
            name: phrase.name.clone(),
            role: phrase.kind.clone(),
            participant_id: phrase.participant.clone(),
            text: clean_text(&phrase.text),
        }
    }
}

/// The transcript of a segment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TranscriptView {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    pub(crate) dialog_id: Option<String>,
    pub(crate) segment_id: String,
    pub(crate) segment_end: Option<String>,
    /// `stored`, or why there is none.
    pub(crate) outcome: &'static str,
    pub(crate) version: Option<i64>,
    pub(crate) fetched_at: Option<String>,
    pub(crate) phrases: Vec<PhraseView>,
    /// The phrases with times that fit the recording.
    #[serde(skip)]
    pub(crate) captions: Vec<Caption>,
}

impl TranscriptView {
    pub(crate) fn of(entry: &SegmentEntry) -> TranscriptView {
        let SegmentEntry { segment, slots: [slot, ..] } = entry;
        let metadata = Metadata::parse(&segment.metadata);
        let conversation = conversation_of(slot, &metadata).unwrap_or_default();
        let start = conversation.start();
        TranscriptView {
            captions: caption::captions(&conversation, metadata.recording_start(&conversation)),
            rc_account_id: segment.account.rc.to_string(),
            sub_account_id: segment.account.sub.to_string(),
            dialog_id: segment.dialog_id.clone(),
            segment_id: segment.segment_id.clone(),
            segment_end: segment.ended.map(Time::rfc3339),
            outcome: outcome_name(&slot.status),
            version: Some(slot.version).filter(|version| *version > 0),
            fetched_at: slot.fetched.map(Time::rfc3339),
            phrases: conversation.phrases.iter().map(|phrase| PhraseView::of(phrase, start)).collect(),
        }
    }

    /// Whether a transcript is stored.
    pub(crate) fn is_stored(&self) -> bool {
        self.outcome == outcome_name(&ArtifactStatus::Stored(Vec::new()))
    }

    /// One line per phrase: `00:07 Jane Doe (agent): Hello.`
    pub(crate) fn to_text(&self) -> String {
        let line = |phrase: &PhraseView| {
            let offset = phrase.offset_ms.map(|millis| format!("{} ", format_offset(millis))).unwrap_or_default();
            let text = phrase.text.split_whitespace().collect::<Vec<_>>().join(" ");
            format!("{offset}{}: {text}\n", phrase.speaker)
        };
        self.phrases.iter().map(line).collect()
    }
}

/// `mm:ss`, from one hour on `h:mm:ss`.
pub(crate) fn format_offset(millis: i64) -> String {
    let secs = millis.max(0) / 1000;
    let (hours, minutes, secs) = (secs / 3600, secs / 60 % 60, secs % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{secs:02}") } else { format!("{minutes:02}:{secs:02}") }
}

/// A phrase with its segment.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DialogPhraseView {
    pub(crate) sub_account_id: String,
    pub(crate) segment_id: String,
    #[serde(flatten)]
    pub(crate) phrase: PhraseView,
}

/// A speaker of a dialog.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub(crate) struct SpeakerView {
    pub(crate) role: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) participant_id: Option<String>,
}

/// A whole conversation over its segments.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DialogView {
    pub(crate) dialog_id: String,
    /// The segments in order of their end.
    pub(crate) segments: Vec<SegmentView>,
    pub(crate) speakers: Vec<SpeakerView>,
    /// The phrases of all segments: in order of time if each has one, or else segment by segment.
    pub(crate) phrases: Vec<DialogPhraseView>,
}

impl DialogView {
    pub(crate) fn of(dialog_id: &str, entries: &[SegmentEntry]) -> DialogView {
        let mut said: Vec<(&SegmentEntry, Phrase)> = Vec::new();
        for entry in entries {
            let metadata = Metadata::parse(&entry.segment.metadata);
            let [transcript, ..] = &entry.slots;
            let conversation = conversation_of(transcript, &metadata).unwrap_or_default();
            said.extend(conversation.phrases.into_iter().map(|phrase| (entry, phrase)));
        }
        if said.iter().all(|(_, phrase)| phrase.at.is_some()) {
            said.sort_by_key(|(_, phrase)| phrase.at);
        }
        let start = said.iter().filter_map(|(_, phrase)| phrase.at).min();
        let speaker = |(_, phrase): &(&SegmentEntry, Phrase)| SpeakerView {
            role: phrase.kind.clone(),
            name: phrase.name.clone(),
            participant_id: phrase.participant.clone(),
        };
        let speakers: BTreeSet<SpeakerView> = said.iter().map(speaker).collect();
        let phrase = |(entry, phrase): &(&SegmentEntry, Phrase)| DialogPhraseView {
            sub_account_id: entry.segment.account.sub.to_string(),
            segment_id: entry.segment.segment_id.clone(),
            phrase: PhraseView::of(phrase, start),
        };
        DialogView {
            dialog_id: dialog_id.to_owned(),
            segments: entries.iter().map(|entry| SegmentView::of(entry, ArtifactSet::NONE)).collect(),
            speakers: speakers.into_iter().collect(),
            phrases: said.iter().map(phrase).collect(),
        }
    }
}
