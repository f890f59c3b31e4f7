//! The columns of the table `phrases`. Pure.

use super::facts::SegmentFacts;
use super::segment_columns::{account_name, field, id};
use super::table::{Column, ERASED_AT, ERASED_REASON, text_cell, time_cell};
use crate::parquet_writer::CellValue;
use crate::parquet_writer::ParquetType::{self, Number, Text, Time, Word};
use crate::render::Phrase;

pub(super) type PhraseCell = fn(&PhraseRow<'_>) -> CellValue;

/// A phrase of a segment's transcript.
pub(super) struct PhraseRow<'a> {
    segment: &'a SegmentFacts,
    phrase: &'a Phrase,
    /// Its number within the segment, from 1.
    number: i64,
    /// When the first phrase was said, in milliseconds since 1970.
    start: Option<i64>,
}

impl PhraseRow<'_> {
    /// The phrases of a segment, in order.
    pub(super) fn of_segment(segment: &SegmentFacts) -> impl Iterator<Item = PhraseRow<'_>> {
        let start = segment.conversation.as_ref().and_then(|conversation| conversation.start());
        (1..).zip(segment.phrases()).map(move |(number, phrase)| PhraseRow { segment, phrase, number, start })
    }
}

const fn column(name: &'static str, kind: ParquetType, about: &'static str, cell: PhraseCell) -> Column<PhraseCell> {
    Column { name, kind, about, cell }
}

const fn empty((name, kind, about): (&'static str, ParquetType, &'static str)) -> Column<PhraseCell> {
    column(name, kind, about, |_| CellValue::Empty)
}

/// The columns. Their names and order are a contract: new ones are added at the end.
pub(super) const PHRASE_COLUMNS: &[Column<PhraseCell>] = &[
    column("rc_account_id", Word, "the main account's RingCentral id", |of| id(&of.segment.entry.segment.account.rc)),
    column("sub_account_id", Word, "the sub-account's RingCX id", |of| id(&of.segment.entry.segment.account.sub)),
    column("account_name", Word, "the account's name in the settings, else in RingCX", |of| account_name(of.segment)),
    column("dialog_id", Word, "the dialog", |of| CellValue::text(of.segment.entry.segment.dialog_id.clone())),
    column("segment_id", Word, "the segment", |of| id(&of.segment.entry.segment.segment_id)),
    column("segment_end", Time, "when the segment ended", |of| time_cell(of.segment.entry.segment.ended)),
    column("channel_class", Word, "`VOICE`, `DIGITAL` …", |of| field(of.segment, "channelClass")),
    column("phrase", Number, "its number within the segment, from 1", |of| CellValue::Number(of.number)),
    column("time", Time, "when it was said", |of| CellValue::number(of.phrase.at)),
    column("offset_ms", Number, "milliseconds since the first phrase of the segment", |of| {
        CellValue::number(of.phrase.at.zip(of.start).map(|(at, start)| at.saturating_sub(start)))
    }),
    column("speaker", Word, "the speaker's name, else the participant id, else the role", |of| {
        let phrase = of.phrase;
        text_cell(phrase.name.as_ref().or(phrase.participant.as_ref()).or(phrase.kind.as_ref()))
    }),
    column("role", Word, "`agent`, `contact`, or another word of the API, in lower case", |of| {
        text_cell(of.phrase.kind.as_ref().map(|kind| kind.trim().to_lowercase()))
    }),
    column("participant_id", Word, "the speaker's id within the conversation", |of| {
        text_cell(of.phrase.participant.as_ref())
    }),
    column("rc_user_id", Word, "the speaker's RingCentral user id", |of| text_cell(of.phrase.rc_user.as_ref())),
    column("text", Text, "what was said or written", |of| text_cell(Some(&of.phrase.text))),
    empty(ERASED_AT),
    empty(ERASED_REASON),
];
