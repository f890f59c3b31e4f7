//! A conversation as a person reads it: merged over its segments, with its summaries and the places
//! where the words of a query occur. Pure.

use std::ops::Range;

use serde::Serialize;

use super::conversation_view::{DialogPhraseView, DialogView, SegmentView, SpeakerView, captions_of};
use super::search::parse_query;
use super::{ReadError, VersionView};
use crate::db::SegmentArtifact;
use crate::export::{SegmentEntry, summary_text_of};
use crate::model::{Artifact, ArtifactSet};
use crate::render::caption::Caption;
use crate::render::clean_text;
use crate::search::document::{Document, DocumentPart};
use crate::search::score::matches_in_parts;

/// A conversation for reading.
#[derive(Debug, Serialize)]
pub(crate) struct ReadingView {
    pub(crate) dialog_id: Option<String>,
    /// The segments in order of their end, with their summaries.
    pub(crate) segments: Vec<SegmentView>,
    pub(crate) speakers: Vec<SpeakerView>,
    pub(crate) phrases: Vec<DialogPhraseView>,
    /// The summaries that are stored.
    pub(crate) summaries: Vec<SummaryView>,
    /// The versions of the artifacts, where one segment is shown.
    pub(crate) versions: Vec<VersionView>,
    /// How often the words of the query occur.
    pub(crate) hits: usize,
    #[serde(skip)]
    pub(crate) entries: Vec<SegmentEntry>,
}

/// A summary of a segment.
#[derive(Debug, Serialize)]
pub(crate) struct SummaryView {
    pub(crate) segment_id: String,
    pub(crate) artifact: &'static str,
    /// It is data, and never an instruction.
    pub(crate) text: String,
    #[serde(skip)]
    pub(crate) matches: Vec<Range<usize>>,
}

impl ReadingView {
    /// The artifacts that are summaries.
    pub(crate) const SUMMARIES: [Artifact; 2] = [Artifact::AgentSummary, Artifact::AutoSummary];

    /// Merges segments as the caller sees them. `words` are highlighted.
    ///
    /// # Errors
    /// If the words are no valid query.
    pub(crate) fn new(
        dialog_id: Option<&str>,
        entries: Vec<SegmentEntry>,
        versions: Vec<VersionView>,
        words: Option<&str>,
    ) -> Result<ReadingView, ReadError> {
        let query = words.map(parse_query).transpose()?;
        let DialogView { speakers, mut phrases, .. } = DialogView::of(dialog_id.unwrap_or_default(), &entries);
        let mut summaries: Vec<SummaryView> = entries.iter().flat_map(summaries_of).collect();
        let mut hits = 0;
        if let Some(query) = &query {
            let part = |speaker: Option<&str>, text: &str| DocumentPart {
                speaker: speaker.map(str::to_owned),
                offset: None,
                text: text.to_owned(),
            };
            let parts = phrases.iter().map(|one| part(Some(&one.phrase.speaker), &one.phrase.text));
            let found = matches_in_parts(&Document { parts: parts.collect() }, query);
            for (phrase, matches) in phrases.iter_mut().zip(found) {
                hits += matches.len();
                phrase.matches = matches;
            }
            for summary in &mut summaries {
                let document = Document { parts: vec![part(None, &summary.text)] };
                summary.matches = matches_in_parts(&document, query).pop().unwrap_or_default();
                hits += summary.matches.len();
            }
        }
        let expand = ReadingView::SUMMARIES.into_iter().fold(ArtifactSet::NONE, ArtifactSet::with);
        Ok(ReadingView {
            dialog_id: dialog_id.map(str::to_owned),
            segments: entries.iter().map(|entry| SegmentView::of(entry, expand)).collect(),
            speakers,
            phrases,
            summaries,
            versions,
            hits,
            entries,
        })
    }

    /// The phrases as captions.
    pub(crate) fn captions(&self) -> Vec<Caption> {
        captions_of(&self.entries)
    }
}

fn summaries_of(entry: &SegmentEntry) -> Vec<SummaryView> {
    let slots = Artifact::ALL.into_iter().zip(&entry.slots);
    let slots = slots.filter(|(artifact, _)| ReadingView::SUMMARIES.contains(artifact));
    let view = |(artifact, slot): (Artifact, &SegmentArtifact)| {
        Some(SummaryView {
            segment_id: entry.segment.segment_id.clone(),
            artifact: artifact.name(),
            text: clean_text(&summary_text_of(slot)?),
            matches: Vec::new(),
        })
    };
    slots.filter_map(view).collect()
}
