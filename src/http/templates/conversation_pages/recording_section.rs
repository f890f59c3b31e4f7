//! The recording on a conversation page: the player, the links of phrases into it, and downloads. Pure.
//!
//! Without the script the player works, and the links of the phrases open the recording at their time.

use std::time::Duration;

use maud::{Markup, html};

use super::slot_status;
use crate::clock::Time;
use crate::db::{ArtifactStatus, SegmentArtifact, SegmentRow};
use crate::export::recording_of;
use crate::health::humanize::format_duration;
use crate::http::api::answers::file_name;
use crate::model::{RecordingReference, encode_path_segment};
use crate::render::{Conversation, Metadata, Phrase};

/// A recording that the page plays.
pub(super) struct Playback {
    url: String,
    file_name: String,
    reference: RecordingReference,
    /// When it began, in milliseconds since 1970; `None` without a phrase with a time.
    start: Option<i64>,
}

impl Playback {
    /// The playback of a stored recording.
    pub(super) fn new(
        segment: &SegmentRow,
        slot: &SegmentArtifact,
        metadata: &Metadata,
        conversation: Option<&Conversation>,
    ) -> Option<Playback> {
        let reference = recording_of(slot)?;
        Some(Playback {
            url: api_path(segment, "recording", None),
            file_name: file_name(&segment.segment_id, reference.extension()),
            start: conversation.and_then(|conversation| metadata.recording_start(conversation)),
            reference,
        })
    }

    /// The time of a phrase, as a link to it in the recording.
    pub(super) fn time_link(&self, phrase: &Phrase) -> Option<Markup> {
        let offset_ms = phrase.at?.saturating_sub(self.start?).max(0);
        let label = phrase.offset(self.start)?;
        let fragment = format!("#t={}.{:03}", offset_ms / 1000, offset_ms % 1000);
        Some(html! { a href={ (self.url) (fragment) } data-start=(offset_ms) { time { (label) } } })
    }
}

/// The player; in its place why there is no recording; nothing if none was requested.
pub(super) fn recording_section(playback: Option<&Playback>, slot: &SegmentArtifact, now: Time) -> Markup {
    html! {
        @if let Some(Playback { url, reference, .. }) = playback {
            section.recording {
                h2 { "Recording" }
                // Opening the page is not listening.
                audio controls preload="none" src=(url) {}
                p.hint {
                    @if let Some(millis) = reference.duration_ms { (format_duration(Duration::from_millis(millis))) " · " }
                    (reference.media_type)
                    @if reference.channels == Some(2) { ", two channels" }
                }
            }
        } @else if slot.status != ArtifactStatus::NotRequested {
            section { h2 { "Recording" } p.todo { (slot_status(slot, now)) } }
        }
    }
}

/// Links that save the transcript and the recording.
pub(super) fn download_links(segment: &SegmentRow, has_transcript: bool, playback: Option<&Playback>) -> Markup {
    let transcript = |format| api_path(segment, "transcript", Some(format));
    html! {
        @if has_transcript || playback.is_some() {
            p.hint {
                "Save: "
                @if has_transcript {
                    @for (format, label) in [("text", "text"), ("json", "JSON"), ("srt", "SRT"), ("vtt", "WebVTT")] {
                        a href=(transcript(format)) { (label) } " "
                    }
                }
                @if let Some(Playback { url, file_name, .. }) = playback { a href=(url) download=(file_name) { "audio" } }
            }
        }
    }
}

/// The path of a part of the segment in the API.
fn api_path(segment: &SegmentRow, part: &str, format: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("account", &segment.account.sub);
    if let Some(format) = format {
        query.append_pair("format", format);
    }
    format!("/api/v1/segments/{}/{part}?{}", encode_path_segment(&segment.segment_id), query.finish())
}
