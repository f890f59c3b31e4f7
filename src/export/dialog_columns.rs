//! The columns of the table `dialogs`. Pure.

use super::facts::{DialogFacts, SegmentFacts, unique};
use super::segment_columns::{account_name, id};
use super::summary_text_of;
use super::table::{Column, ERASED_AT, ERASED_REASON, count_cell, text_cell, time_cell};
use crate::parquet_writer::CellValue;
use crate::parquet_writer::ParquetType::{self, Flag, Number, Text, Time, Word, WordList};
use crate::render::{Phrase, clean_cell};

pub(super) type DialogCell = fn(&DialogFacts) -> CellValue;

const fn column(name: &'static str, kind: ParquetType, about: &'static str, cell: DialogCell) -> Column<DialogCell> {
    Column { name, kind, about, cell }
}

const fn empty((name, kind, about): (&'static str, ParquetType, &'static str)) -> Column<DialogCell> {
    column(name, kind, about, |_| CellValue::Empty)
}

/// The columns. Their names and order are a contract: new ones are added at the end.
pub(super) const DIALOG_COLUMNS: &[Column<DialogCell>] = &[
    column("rc_account_id", Word, "the main account's RingCentral id", |of| {
        text_cell(of.first(|one| Some(one.entry.segment.account.rc.to_string())))
    }),
    column("sub_account_id", Word, "the sub-account's RingCX id", |of| {
        text_cell(of.first(|one| Some(one.entry.segment.account.sub.to_string())))
    }),
    column("account_name", Word, "the account's name in the settings, else in RingCX", |of| {
        of.segments.first().map_or(CellValue::Empty, account_name)
    }),
    column("dialog_id", Word, "the dialog; null for a segment without one, which is a row of its own", |of| {
        of.first(|one| one.entry.segment.dialog_id.clone()).map_or(CellValue::Empty, |dialog| id(&dialog))
    }),
    column("dialog_start", Time, "`dialogStartTimeMs`, else the start of its first segment", |of| {
        time_cell(of.start())
    }),
    column("dialog_end", Time, "when its last segment ended; rows are in this order", |of| time_cell(of.end())),
    column("duration_ms", Number, "from its start to its end, in milliseconds", |of| {
        CellValue::number(
            of.start().zip(of.end()).map(|(start, end)| end.0.saturating_sub(start.0)).filter(|ms| *ms >= 0),
        )
    }),
    column("segments", Number, "the number of its segments", |of| count_cell(Some(of.segments.len() as u64))),
    column("segment_ids", WordList, "its segments, in the order of their end", |of| {
        CellValue::List(of.segments.iter().map(|one| one.entry.segment.segment_id.clone()).collect())
    }),
    column("channel_classes", WordList, "such as `VOICE`", |of| fields(of, "channelClass")),
    column("channel_types", WordList, "such as `EMAIL`", |of| fields(of, "channelType")),
    column("direction", Word, "`INBOUND` or `OUTBOUND`", |of| {
        text_cell(of.first(|one| one.metadata.field("dialogOrigination")))
    }),
    column("contact", Word, "as in `segments`", |of| text_cell(of.first(SegmentFacts::contact))),
    column("channel_address", Word, "as in `segments`", |of| text_cell(of.first(SegmentFacts::channel_address))),
    column("agents", WordList, "its agents: names, else ids", |of| words(of.all(SegmentFacts::agent))),
    column("agent_ids", WordList, "their participant ids", |of| words(of.all(SegmentFacts::agent_id))),
    column("agent_dispositions", WordList, "the dispositions of its agents", |of| fields(of, "agentDisposition")),
    column("system_dispositions", WordList, "the dispositions of the system", |of| fields(of, "systemDisposition")),
    column("agent_notes", Text, "the notes of its agents, one paragraph each", |of| {
        joined(of.all(|one| one.metadata.field("agentNotes")))
    }),
    column("speakers", WordList, "the speakers, in the order of their first phrase; null without a transcript", |of| {
        let speakers = |phrases: &[Phrase]| unique(phrases.iter().map(Phrase::speaker));
        of.conversation.as_ref().map_or(CellValue::Empty, |merged| CellValue::List(speakers(&merged.phrases)))
    }),
    column("phrases", Number, "the number of phrases; null without a transcript", |of| {
        count_cell(of.conversation.as_ref().map(|merged| merged.phrases.len() as u64))
    }),
    column("transcripts", Number, "how many of its segments have a stored transcript", |of| {
        count_cell(Some(of.segments.iter().filter(|one| one.conversation.is_some()).count() as u64))
    }),
    column("text", Text, "all phrases in order of time, one line each, `00:07 Jane Doe (agent): Hello.`", |of| {
        CellValue::text(of.conversation.as_ref().map(|merged| merged.to_plain_text()))
    }),
    column("agent_summary", Text, "the agent summaries, one paragraph each", |of| {
        joined(of.all(|one| summary_text_of(&one.entry.slots[1])))
    }),
    column("auto_summary", Text, "the automatic summaries, one paragraph each", |of| {
        joined(of.all(|one| summary_text_of(&one.entry.slots[2])))
    }),
    column("is_settled", Flag, "whether no artifact of it is pending", |of| CellValue::Flag(of.is_settled())),
    empty(ERASED_AT),
    empty(ERASED_REASON),
];

fn words(values: Vec<String>) -> CellValue {
    CellValue::List(values.iter().map(|value| clean_cell(value)).collect())
}

fn fields(of: &DialogFacts, name: &str) -> CellValue {
    words(of.all(|one| one.metadata.field(name)))
}

/// The texts as paragraphs; empty where there are none.
fn joined(texts: Vec<String>) -> CellValue {
    text_cell((!texts.is_empty()).then(|| texts.join("\n\n")))
}
