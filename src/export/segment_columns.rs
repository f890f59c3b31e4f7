//! The columns of the table `segments`, and those that its CSV shows. Pure.

use super::facts::SegmentFacts;
use super::table::{Column, ERASED_AT, ERASED_REASON, count_cell, text_cell, time_cell};
use super::{outcome_name, recording_of, summary_text_of};
use crate::db::{ArtifactStatus, SegmentArtifact};
use crate::model::RecordingReference;
use crate::parquet_writer::CellValue;
use crate::parquet_writer::ParquetType::{self, Flag, Number, Text, Time, Word, WordList};
use crate::render::to_json_line;

pub(super) type SegmentCell = fn(&SegmentFacts) -> CellValue;

const fn column(name: &'static str, kind: ParquetType, about: &'static str, cell: SegmentCell) -> Column<SegmentCell> {
    Column { name, kind, about, cell }
}

const fn empty((name, kind, about): (&'static str, ParquetType, &'static str)) -> Column<SegmentCell> {
    column(name, kind, about, |_| CellValue::Empty)
}

/// The columns. Their names and order are a contract: new ones are added at the end.
pub(super) const SEGMENT_COLUMNS: &[Column<SegmentCell>] = &[
    column("rc_account_id", Word, "the main account's RingCentral id", |of| id(&of.entry.segment.account.rc)),
    column("sub_account_id", Word, "the sub-account's RingCX id", |of| id(&of.entry.segment.account.sub)),
    column("dialog_id", Word, "the dialog", |of| CellValue::text(of.entry.segment.dialog_id.clone())),
    column("segment_id", Word, "the segment", |of| id(&of.entry.segment.segment_id)),
    column("segment_end", Time, "when it ended; null if the API sent no valid time", |of| {
        time_cell(of.entry.segment.ended)
    }),
    column("channel_class", Word, "`VOICE`, `DIGITAL` …", |of| field(of, "channelClass")),
    column("channel_type", Word, "such as `VOICE`, `EMAIL`, `WHATSAPP`", |of| field(of, "channelType")),
    column("segment_type", Word, "such as `AGENT`", |of| field(of, "segmentType")),
    column("segment_start", Time, "when it began", |of| time_cell(of.start())),
    column("agent_disposition", Word, "the disposition that the agent chose", |of| field(of, "agentDisposition")),
    column("metadata", Text, "JSON: the metadata as in the JSON line", |of| {
        CellValue::Text(json_text(of.entry.segment.metadata.as_bytes()))
    }),
    column("transcript_outcome", Word, "[outcome](export.md#json-lines) of the transcript", |of| outcome(of, 0)),
    column("transcript_fetched_at", Time, "when it was answered", |of| time_cell(of.entry.slots[0].fetched)),
    column("transcript", Text, "JSON, as `body` in the JSON line: always valid JSON", |of| {
        CellValue::text(stored_body(&of.entry.slots[0]).map(json_text))
    }),
    column("transcript_text", Text, "for people: one line per phrase, `00:07 Jane Doe (agent): Hello.`", |of| {
        CellValue::text(of.conversation.as_ref().map(|conversation| conversation.to_plain_text()))
    }),
    column("agent_summary_outcome", Word, "outcome of the agent summary", |of| outcome(of, 1)),
    column("agent_summary_fetched_at", Time, "when it was answered", |of| time_cell(of.entry.slots[1].fetched)),
    column("agent_summary", Text, "its text", |of| text_cell(summary_text_of(&of.entry.slots[1]))),
    column("auto_summary_outcome", Word, "outcome of the automatic summary", |of| outcome(of, 2)),
    column("auto_summary_fetched_at", Time, "when it was answered", |of| time_cell(of.entry.slots[2].fetched)),
    column("auto_summary", Text, "its text", |of| text_cell(summary_text_of(&of.entry.slots[2]))),
    column("account_name", Word, "the account's name in the settings, else in RingCX", account_name),
    column("direction", Word, "`INBOUND` or `OUTBOUND`", |of| field(of, "dialogOrigination")),
    column("contact", Word, "`contactEndpointAddress`, in the newer metadata `ani`", |of| text_cell(of.contact())),
    column(
        "channel_address",
        Word,
        "`channelEndpointAddress`, in the newer metadata `dnis`; on some calls the contact's",
        |of| text_cell(of.channel_address()),
    ),
    column("agent", Word, "the agent's name by the metadata or the transcript, else the id", |of| {
        text_cell(of.agent())
    }),
    column("agent_id", Word, "the agent's participant id", |of| text_cell(of.agent_id())),
    column("agent_group_id", Word, "the agent's group", |of| field(of, "segmentAgentGroupId")),
    column("duration_ms", Number, "how long it lasted, in milliseconds", |of| count_cell(of.duration_ms())),
    column("system_disposition", Word, "the disposition that the system set", |of| field(of, "systemDisposition")),
    column("agent_notes", Text, "the agent's notes", |of| field(of, "agentNotes")),
    column("has_transcript", Flag, "`hasTranscript`, as last read", |of| {
        CellValue::Flag(of.entry.segment.has_transcript)
    }),
    column("speakers", WordList, "the speakers, in the order of their first phrase; null without a transcript", |of| {
        of.conversation.as_ref().map_or(CellValue::Empty, |_| CellValue::List(of.speakers()))
    }),
    column("phrases", Number, "the number of phrases; null without a transcript", |of| {
        count_cell(of.conversation.as_ref().map(|conversation| conversation.phrases.len() as u64))
    }),
    column("transcript_version", Number, "1, or more if the API later sent another text", |of| version(of, 0)),
    column("agent_summary_version", Number, "likewise", |of| version(of, 1)),
    column("auto_summary_version", Number, "likewise", |of| version(of, 2)),
    column("first_seen_at", Time, "when the API first announced it", |of| time_cell(Some(of.entry.segment.first_seen))),
    empty(ERASED_AT),
    empty(ERASED_REASON),
    column("recording_outcome", Word, "outcome of the [recording](recordings.md)", |of| outcome(of, 3)),
    column("recording_fetched_at", Time, "when it was answered", |of| time_cell(of.entry.slots[3].fetched)),
    column("recording_object", Word, "its object in the recording store; null if none is stored", |of| {
        recording_cell(of, |recording| CellValue::Text(recording.object.clone()))
    }),
    column("recording_sha256", Word, "SHA-256 of its audio, in hexadecimal", |of| {
        recording_cell(of, |recording| CellValue::Text(recording.sha256.clone()))
    }),
    column("recording_bytes", Number, "the size of its audio", |of| {
        recording_cell(of, |recording| count_cell(Some(recording.bytes)))
    }),
    column("recording_type", Word, "its media type, such as `audio/wav`", |of| {
        recording_cell(of, |recording| CellValue::Text(recording.media_type.clone()))
    }),
    column("recording_duration_ms", Number, "how long it plays, in milliseconds, if that is known", |of| {
        recording_cell(of, |recording| count_cell(recording.duration_ms))
    }),
];

/// The columns of the CSV: the name there, and the column of the table. CSV holds no JSON. New ones
/// are added at the end.
pub(super) const CSV_SEGMENT_COLUMNS: &[(&str, &str)] = &[
    ("rc_account_id", "rc_account_id"),
    ("sub_account_id", "sub_account_id"),
    ("dialog_id", "dialog_id"),
    ("segment_id", "segment_id"),
    ("segment_end", "segment_end"),
    ("channel_class", "channel_class"),
    ("channel_type", "channel_type"),
    ("segment_type", "segment_type"),
    ("segment_start", "segment_start"),
    ("agent_disposition", "agent_disposition"),
    ("transcript_outcome", "transcript_outcome"),
    ("transcript_fetched_at", "transcript_fetched_at"),
    ("transcript", "transcript_text"),
    ("agent_summary_outcome", "agent_summary_outcome"),
    ("agent_summary_fetched_at", "agent_summary_fetched_at"),
    ("agent_summary", "agent_summary"),
    ("auto_summary_outcome", "auto_summary_outcome"),
    ("auto_summary_fetched_at", "auto_summary_fetched_at"),
    ("auto_summary", "auto_summary"),
    ("account_name", "account_name"),
    ("direction", "direction"),
    ("contact", "contact"),
    ("channel_address", "channel_address"),
    ("agent", "agent"),
    ("agent_id", "agent_id"),
    ("agent_group_id", "agent_group_id"),
    ("duration_ms", "duration_ms"),
    ("system_disposition", "system_disposition"),
    ("agent_notes", "agent_notes"),
    ("has_transcript", "has_transcript"),
    ("erased_at", "erased_at"),
    ("erased_reason", "erased_reason"),
    ("recording_outcome", "recording_outcome"),
    ("recording_bytes", "recording_bytes"),
    ("recording_type", "recording_type"),
    ("recording_duration_ms", "recording_duration_ms"),
    ("recording_object", "recording_object"),
];

/// An id as received.
pub(super) fn id(id: &str) -> CellValue {
    CellValue::Text(id.to_owned())
}

pub(super) fn account_name(of: &SegmentFacts) -> CellValue {
    text_cell(of.account_name.as_deref())
}

pub(super) fn field(of: &SegmentFacts, name: &str) -> CellValue {
    text_cell(of.metadata.field(name))
}

fn outcome(of: &SegmentFacts, artifact: usize) -> CellValue {
    CellValue::Text(outcome_name(&of.entry.slots[artifact].status).to_owned())
}

fn recording_cell(of: &SegmentFacts, cell: fn(&RecordingReference) -> CellValue) -> CellValue {
    recording_of(&of.entry.slots[3]).as_ref().map_or(CellValue::Empty, cell)
}

fn version(of: &SegmentFacts, artifact: usize) -> CellValue {
    CellValue::number(Some(of.entry.slots[artifact].version).filter(|version| *version > 0))
}

/// The text of a JSON line: valid JSON, whatever was received.
fn json_text(bytes: &[u8]) -> String {
    Box::<str>::from(to_json_line(bytes)).into_string()
}

fn stored_body(slot: &SegmentArtifact) -> Option<&[u8]> {
    match &slot.status {
        ArtifactStatus::Stored(body) => Some(body),
        _ => None,
    }
}
