//! A segment laid out to be read on a terminal. Everything that came from outside passes through `reading::clean`.

use unicode_width::UnicodeWidthStr;

use super::history::History;
use crate::cli::words::{count, relative, span};
use crate::clock::Time;
use crate::db::{SegmentRow, SegmentSlot};
use crate::export::{Entry, conversation_of, outcome_name, summary_of};
use crate::model::Artifact;
use crate::reading::{Conversation, Metadata, clean, one_line, wrap};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Width of the labels in the header.
const LABEL: usize = 13;

/// All of it.
pub(super) fn render(entry: &Entry, history: &History, now: Time, width: usize) -> String {
    let mut page = Page { text: String::new(), width };
    let metadata = Metadata::read(&entry.segment.metadata);
    header(entry, &metadata, now, &mut page);
    let [transcript, agent, auto] = &entry.slots;
    page.heading("Conversation");
    match conversation_of(transcript, &metadata) {
        Some(conversation) => phrases(&conversation, &mut page),
        None => page.paragraph("", &state(transcript, now)),
    }
    for (name, slot) in [("Agent summary", agent), ("Auto summary", auto)] {
        page.heading(name);
        page.paragraph("", &summary_of(slot).map_or_else(|| state(slot, now), |text| clean(&text)));
    }
    page.heading("History");
    for (artifact, slot) in Artifact::ALL.into_iter().zip(&entry.slots) {
        page.labelled(artifact.name(), &standing(slot, now));
    }
    page.text.push('\n');
    for (at, what) in history.sentences() {
        page.paragraph(&format!("{at}  "), &one_line(&what));
    }
    page.text
}

/// What stands above a dialog of several segments.
pub(super) fn dialog(dialog_id: &str, segments: &[SegmentRow]) -> String {
    let time = |segment: Option<&SegmentRow>| {
        segment.and_then(|segment| segment.ended).map_or_else(|| "an unknown time".to_owned(), Time::rfc3339_secs)
    };
    format!(
        "{BOLD}Dialog {}{PLAIN}\n{}, the first ended at {}, the last at {}\n\n\n",
        one_line(dialog_id),
        count(segments.len() as u64, "segment"),
        time(segments.first()),
        time(segments.last()),
    )
}

struct Page {
    text: String,
    width: usize,
}

impl Page {
    fn heading(&mut self, text: &str) {
        self.text.push_str(&format!("\n{BOLD}{text}{PLAIN}\n"));
    }

    /// A paragraph whose first line begins with `lead` and whose others stand below its text.
    fn paragraph(&mut self, lead: &str, text: &str) {
        // A lead so wide that little is left beside it does not indent.
        let indent = lead.width().min(self.width / 2);
        for (i, line) in wrap(text, self.width.saturating_sub(lead.width()).max(self.width / 2)).iter().enumerate() {
            let lead = if i == 0 { lead.to_owned() } else { " ".repeat(indent) };
            self.text.push_str(format!("{lead}{line}").trim_end());
            self.text.push('\n');
        }
    }

    fn labelled(&mut self, label: &str, text: &str) {
        let wide = LABEL.max(label.width());
        self.paragraph(&format!("{label}{}  ", " ".repeat(wide - label.width())), text);
    }
}

fn header(entry: &Entry, metadata: &Metadata, now: Time, page: &mut Page) {
    let segment = &entry.segment;
    page.text.push_str(&format!("{BOLD}Segment {}{PLAIN}\n", one_line(&segment.segment_id)));
    page.labelled("dialog", &segment.dialog_id.as_deref().map_or_else(|| "none".to_owned(), one_line));
    page.labelled("account", &segment.account.to_string());
    page.labelled(
        "ended",
        &segment.ended.map_or_else(
            || "at a time that the API never said".to_owned(),
            |ended| format!("{} ({})", ended.rfc3339(), relative(ended, now)),
        ),
    );
    for (label, value) in metadata.shown() {
        page.labelled(label, &clean(&value));
    }
    if let Some(lasted) = metadata.duration() {
        page.labelled("lasted", &span(lasted));
    }
    let transcript = if segment.has_transcript { "announced" } else { "not announced" };
    page.labelled("transcript", transcript);
}

fn phrases(conversation: &Conversation, page: &mut Page) {
    if conversation.phrases.is_empty() {
        page.paragraph("", "nothing was said");
    }
    let start = conversation.start();
    let mut before: Option<String> = None;
    for phrase in &conversation.phrases {
        let speaker = phrase.speaker();
        // A name stands above what its bearer says, once.
        if before.as_deref() != Some(&speaker) {
            page.text.push_str(&format!("{DIM}{speaker}{PLAIN}\n"));
        }
        let offset = phrase.offset(start).unwrap_or_else(|| "--:--".to_owned());
        page.paragraph(&format!("  {offset:>7}  "), &clean(&phrase.text));
        before = Some(speaker);
    }
}

/// In place of a text that is not there.
fn state(slot: &SegmentSlot, now: Time) -> String {
    format!("({})", standing(slot, now))
}

fn standing(slot: &SegmentSlot, now: Time) -> String {
    let mut said = outcome_name(&slot.outcome).replace('_', " ");
    if slot.version > 1 {
        said.push_str(&format!(", version {}", slot.version));
    }
    if let Some(fetched) = slot.fetched {
        said.push_str(&format!(", fetched {}", relative(fetched, now)));
    }
    if let Some(due) = slot.due {
        said.push_str(&if due > now {
            format!(", tried again {}", relative(due, now))
        } else {
            ", due now".to_owned()
        });
    }
    if slot.tries > 0 {
        said.push_str(&format!(", {} so far", count(slot.tries.unsigned_abs(), "failed attempt")));
    }
    if let Some(reason) = &slot.reason {
        said.push_str(&format!(": {}", one_line(reason)));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::SlotOutcome;
    use crate::model::AccountId;

    fn slot(outcome: SlotOutcome) -> SegmentSlot {
        SegmentSlot { outcome, fetched: None, version: 1, due: None, tries: 0, reason: None }
    }

    fn entry(transcript: &str) -> Entry {
        let segment = SegmentRow {
            key: 1,
            account: AccountId::new("980634004", "99999999"),
            account_key: 1,
            segment_id: "seg-1".to_owned(),
            dialog_id: Some("dia-1".to_owned()),
            ended: Time::parse("2026-11-20T09:00:00Z"),
            has_transcript: true,
            first_seen: Time::from_secs(1_790_000_000),
            metadata: r#"{"channelClass":"VOICE","agentNotes":"bad\u001b[2Jnote","agentDisposition":null,"segmentDurationMs":61000}"#
                .to_owned(),
        };
        let waiting = SegmentSlot {
            due: Time::parse("2026-11-20T10:05:00Z"),
            tries: 2,
            reason: Some("failed to fetch: 404".to_owned()),
            ..slot(SlotOutcome::Pending)
        };
        Entry {
            segment,
            slots: [slot(SlotOutcome::Stored(transcript.into())), slot(SlotOutcome::NotPopulated), waiting],
        }
    }

    fn page(transcript: &str) -> String {
        let history = History {
            first_seen: "2026-11-20T09:06:00.000Z".to_owned(),
            metadata_changes: Vec::new(),
            versions: Vec::new(),
            attempts: Vec::new(),
        };
        let now = Time::parse("2026-11-20T10:00:00Z").unwrap();
        let text = render(&entry(transcript), &history, now, 40);
        text.replace(BOLD, "").replace(DIM, "").replace(PLAIN, "")
    }

    #[test]
    fn a_segment_reads_from_top_to_bottom() {
        let transcript = r#"{"transcript":[
            {"participantName":"Jane","participantType":"agent","timestamp":"1000","message":"Hello, this is a sentence that does not fit."},
            {"participantType":"contact","timestamp":"66000","message":"\u001b]0;owned\u0007Hi"}]}"#;
        insta::assert_snapshot!(page(transcript), @r#"
    Segment seg-1
    dialog         dia-1
    account        980634004/99999999
    ended          2026-11-20T09:00:00.000Z
                   (1h ago)
    channel        VOICE
    agent's notes  badnote
    lasted         1m 1s
    transcript     announced

    Conversation
    Jane (agent)
        00:00  Hello, this is a sentence
               that does not fit.
    contact
        01:05  Hi

    Agent summary
    (not populated)

    Auto summary
    (pending, tried again in 5m, 2 failed
    attempts so far: failed to fetch: 404)

    History
    transcript     stored
    agent_summary  not populated
    auto_summary   pending, tried again in
                   5m, 2 failed attempts so
                   far: failed to fetch: 404

    2026-11-20T09:06:00.000Z  first seen
    "#);
    }

    #[test]
    fn a_body_that_is_no_transcript_does_no_harm() {
        assert!(page("oops").contains("(stored)"));
        assert!(page(r#"{"transcript":null}"#).contains("nothing was said"));
    }
}
