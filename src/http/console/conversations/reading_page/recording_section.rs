//! The recording of a segment on the page of its conversation: the player, and the links of phrases
//! into it. Pure.
//!
//! Without the script the player works, and the links of the phrases open the recording at their time.

use std::time::Duration;

use maud::{Markup, html};

use super::super::super::elements::path_with;
use super::slot_status;
use crate::archive_reader::{DialogPhraseView, format_offset};
use crate::db::{ArtifactStatus, SegmentRow};
use crate::export::{SegmentEntry, recording_of};
use crate::health::humanize::format_duration;
use crate::http::api::answers::file_name;
use crate::http::console::assets;
use crate::model::{RecordingReference, encode_path_segment};

/// A recording that the page plays.
pub(super) struct Playback {
    url: String,
    file_name: String,
    reference: RecordingReference,
}

impl Playback {
    /// The playback of a segment's recording, if one is stored.
    pub(super) fn new(entry: &SegmentEntry) -> Option<Playback> {
        let [.., slot] = &entry.slots;
        let reference = recording_of(slot)?;
        Some(Playback {
            url: api_path(&entry.segment, "recording", ""),
            file_name: file_name(&entry.segment.segment_id, reference.extension()),
            reference,
        })
    }

    /// The time of a phrase in the recording, as a link to it.
    pub(super) fn time_link(&self, one: &DialogPhraseView) -> Option<Markup> {
        let offset_ms = one.recording_offset_ms?;
        let fragment = format!("#t={}.{:03}", offset_ms / 1000, offset_ms % 1000);
        Some(html! {
            a.at href={ (self.url) (fragment) } title=[&one.phrase.at] data-start=(offset_ms) { (format_offset(offset_ms)) }
        })
    }

    /// A link that saves the audio.
    pub(super) fn download_link(&self) -> Markup {
        html! { a href=(self.url) download=(self.file_name) { "audio" } }
    }
}

/// The player; in its place why there is no recording; nothing if none was requested.
pub(super) fn recording_section(playback: Option<&Playback>, entry: &SegmentEntry) -> Markup {
    let [.., slot] = &entry.slots;
    html! {
        @if let Some(Playback { url, reference, .. }) = playback {
            script src=(assets::PLAYER_SCRIPT.url()) defer {}
            section.recording #recording {
                h2 { "Recording" }
                // Opening the page is not listening.
                audio controls preload="none" src=(url) {}
                p.todo {
                    @if let Some(millis) = reference.duration_ms { (format_duration(Duration::from_millis(millis))) " · " }
                    (reference.media_type)
                    @if reference.channels == Some(2) { ", two channels" }
                }
            }
        } @else if slot.status != ArtifactStatus::NotRequested {
            section { h2 { "Recording" } p.todo { (slot_status(slot)) } }
        }
    }
}

/// The path of a part of the segment in the API.
pub(super) fn api_path(segment: &SegmentRow, part: &str, format: &str) -> String {
    let path = format!("/api/v1/segments/{}/{part}", encode_path_segment(&segment.segment_id));
    path_with(&path, [("account", &*segment.account.sub), ("format", format)])
}
