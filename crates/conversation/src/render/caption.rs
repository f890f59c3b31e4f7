//! A conversation as captions of its recording: SubRip (SRT) and WebVTT. Pure.
//!
//! A transcript tells when a phrase began, and not when it ended: a caption stays until the next
//! phrase begins, or for as long as its text takes to say slowly.

use std::fmt::Write as _;

use super::{Conversation, Metadata, Phrase, clean_line};

/// How long slow speech takes, for each character.
const MILLIS_PER_CHAR: i64 = 100;
/// The shortest time that a caption stays where no later phrase ends it.
const MIN_CAPTION_MILLIS: i64 = 2_000;
/// The longest time that a caption stays.
const MAX_CAPTION_MILLIS: i64 = 60_000;
/// How much later than the segment its last phrase may be: clocks of two services differ.
const CLOCK_TOLERANCE_MILLIS: i64 = 60_000;

/// One caption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// Milliseconds from the start of the recording.
    pub start_ms: i64,
    /// Milliseconds from the start of the recording; later than `start_ms`.
    pub end_ms: i64,
    /// The speaker on one line: `Jane Doe (agent)`.
    pub speaker: String,
    /// The text on one line.
    pub text: String,
}

impl Metadata {
    /// When the recording of the segment began, in milliseconds since 1970: with the segment, unless
    /// the times of the phrases contradict it. Then, and without such a time, with the first phrase.
    pub fn recording_start(&self, conversation: &Conversation) -> Option<i64> {
        let times = || conversation.phrases.iter().filter_map(|phrase| phrase.at);
        let (first, last) = (times().min()?, times().max()?);
        let start = self.time("segmentStartTimeMs").map(|start| start.0).filter(|start| *start <= first);
        let Some(start) = start else { return Some(first) };
        let lasted = self.duration().and_then(|lasted| i64::try_from(lasted.as_millis()).ok());
        let end = lasted.map(|lasted| start.saturating_add(lasted).saturating_add(CLOCK_TOLERANCE_MILLIS));
        Some(if end.is_some_and(|end| last > end) { first } else { start })
    }
}

/// The captions of a conversation, one for each phrase in its order, counted from `recording_start`.
/// They start in order: a phrase without a time starts with the one before it.
pub fn captions(conversation: &Conversation, recording_start: Option<i64>) -> Vec<Caption> {
    let mut last = 0;
    let starts: Vec<i64> = conversation
        .phrases
        .iter()
        .map(|phrase| {
            let offset = phrase.at.zip(recording_start).map(|(at, start)| at.saturating_sub(start));
            last = offset.unwrap_or(last).max(last);
            last
        })
        .collect();
    let mut captions = Vec::with_capacity(starts.len());
    let mut next_start = None;
    // From the end, so that phrases that begin together end together, with the next that begins later.
    for (phrase, &start) in conversation.phrases.iter().zip(&starts).rev() {
        let longest = start.saturating_add(longest_millis(phrase));
        let next = match captions.last() {
            Some(Caption { start_ms, .. }) if *start_ms > start => Some(*start_ms),
            _ => next_start,
        };
        let end_ms = next.map_or(longest, |next| longest.min(next));
        next_start = next;
        captions.push(Caption { start_ms: start, end_ms, speaker: phrase.speaker(), text: clean_line(&phrase.text) });
    }
    captions.reverse();
    captions
}

fn longest_millis(phrase: &Phrase) -> i64 {
    let chars = i64::try_from(phrase.text.chars().count()).unwrap_or(i64::MAX);
    chars.saturating_mul(MILLIS_PER_CHAR).clamp(MIN_CAPTION_MILLIS, MAX_CAPTION_MILLIS)
}

/// `hh:mm:ss`, the separator and the milliseconds.
fn timestamp(millis: i64, separator: char) -> String {
    let (secs, millis) = (millis.max(0) / 1000, millis.max(0) % 1000);
    format!("{:02}:{:02}:{:02}{separator}{millis:03}", secs / 3600, secs / 60 % 60, secs % 60)
}

/// Renders SubRip.
pub fn to_srt(captions: &[Caption]) -> String {
    let mut out = String::new();
    for (nth, Caption { start_ms, end_ms, speaker, text }) in captions.iter().enumerate() {
        let (start, end) = (timestamp(*start_ms, ','), timestamp(*end_ms, ','));
        let text = format!("{speaker}: {text}").replace("-->", "→");
        let _ = write!(out, "{}\n{start} --> {end}\n{text}\n\n", nth + 1);
    }
    out
}

/// Renders WebVTT, with the speakers as voices.
pub fn to_webvtt(captions: &[Caption]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = "WEBVTT\n\n".to_owned();
    for Caption { start_ms, end_ms, speaker, text } in captions {
        let (start, end) = (timestamp(*start_ms, '.'), timestamp(*end_ms, '.'));
        let _ = write!(out, "{start} --> {end}\n<v {}>{}\n\n", escape(speaker), escape(text));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phrase(at: Option<i64>, text: &str) -> Phrase {
        let (name, kind) = (Some("Jane <b>".to_owned()), Some("agent".to_owned()));
        Phrase { at, name, kind, text: text.to_owned(), ..Phrase::default() }
    }

    fn conversation(phrases: Vec<Phrase>) -> Conversation {
        Conversation { phrases, ..Conversation::default() }
    }

    #[test]
    fn captions_follow_one_another_and_no_text_can_leave_its_caption() {
        let said = conversation(vec![
            phrase(Some(1_000), "Hello"),
            phrase(Some(4_500), "one\n\n2\n00:00 --> 00:01\nforged"),
            phrase(None, "& <i>"),
            phrase(Some(3_662_500), "Bye"),
        ]);
        let captions = captions(&said, Some(0));
        assert_eq!(
            to_srt(&captions),
            "1\n\
             00:00:01,000 --> 00:00:03,000\n\
             Jane <b> (agent): Hello\n\
             \n\
             2\n\
             00:00:04,500 --> 00:00:07,400\n\
             Jane <b> (agent): one 2 00:00 → 00:01 forged\n\
             \n\
             3\n\
             00:00:04,500 --> 00:00:06,500\n\
             Jane <b> (agent): & <i>\n\
             \n\
             4\n\
             01:01:02,500 --> 01:01:04,500\n\
             Jane <b> (agent): Bye\n\n"
        );
        assert_eq!(
            to_webvtt(&captions),
            "WEBVTT\n\
             \n\
             00:00:01.000 --> 00:00:03.000\n\
             <v Jane &lt;b&gt; (agent)>Hello\n\
             \n\
             00:00:04.500 --> 00:00:07.400\n\
             <v Jane &lt;b&gt; (agent)>one 2 00:00 --&gt; 00:01 forged\n\
             \n\
             00:00:04.500 --> 00:00:06.500\n\
             <v Jane &lt;b&gt; (agent)>&amp; &lt;i&gt;\n\
             \n\
             01:01:02.500 --> 01:01:04.500\n\
             <v Jane &lt;b&gt; (agent)>Bye\n\n"
        );
    }

    #[test]
    fn a_recording_begins_with_its_segment_unless_the_phrases_contradict_it() {
        let said = conversation(vec![phrase(Some(100_000), "a"), phrase(None, "b"), phrase(Some(160_000), "c")]);
        let start = |metadata: &str| Metadata::parse(metadata).recording_start(&said);
        assert_eq!(
            start(r#"{"segmentStartTimeMs":"1970-01-01T00:01:35.000Z","segmentDurationMs":70000}"#),
            Some(95_000)
        );
        assert_eq!(start(r#"{"segmentStartTimeMs":"1970-01-01T00:01:35.000Z"}"#), Some(95_000));
        let later = r#"{"segmentStartTimeMs":"1970-01-01T00:01:41.000Z","segmentDurationMs":70000}"#;
        assert_eq!(start(later), Some(100_000), "a phrase is before the segment");
        let other_zone = r#"{"segmentStartTimeMs":"1969-12-31T23:01:35.000Z","segmentDurationMs":70000}"#;
        assert_eq!(start(other_zone), Some(100_000), "the phrases are long after the segment");
        assert_eq!(start("{}"), Some(100_000));
        let untimed = conversation(vec![phrase(None, "a")]);
        assert_eq!(Metadata::parse(later).recording_start(&untimed), None);
    }

    proptest! {
        #[test]
        fn captions_are_in_order_last_for_a_time_and_end_where_another_begins(
            times in proptest::collection::vec(proptest::option::of(-10_000..10_000_000_i64), 0..30),
            text in "[a-z\n<>& -]{0,60}",
            start in proptest::option::of(-1_000..1_000_i64),
        ) {
            let said = conversation(times.iter().map(|at| phrase(*at, &text)).collect());
            let captions = captions(&said, start);
            prop_assert_eq!(captions.len(), times.len());
            prop_assert!(captions.iter().all(|caption| caption.start_ms >= 0 && caption.end_ms > caption.start_ms));
            prop_assert!(captions.is_sorted_by_key(|caption| caption.start_ms));
            for (nth, caption) in captions.iter().enumerate() {
                prop_assert!(caption.end_ms - caption.start_ms <= MAX_CAPTION_MILLIS);
                let later = captions[nth..].iter().find(|other| other.start_ms > caption.start_ms);
                prop_assert!(later.is_none_or(|later| caption.end_ms <= later.start_ms));
            }
        }

        #[test]
        fn every_caption_is_one_block_of_its_file_whatever_was_said(texts in proptest::collection::vec("(\\PC|[\r\n\t\u{2028}<>&-]){0,40}", 0..8)) {
            let said = conversation((0_i64..).zip(&texts).map(|(nth, text)| phrase(Some(nth * 5_000), text)).collect());
            let captions = captions(&said, Some(0));
            let srt = to_srt(&captions);
            let blocks: Vec<&str> = srt.split_terminator("\n\n").collect();
            prop_assert_eq!(blocks.len(), texts.len());
            for (nth, block) in blocks.iter().enumerate() {
                let lines: Vec<&str> = block.lines().collect();
                let number = (nth + 1).to_string();
                prop_assert!(lines.len() == 3 && lines[0] == number && !lines[2].contains("-->"), "{}", block);
            }
            let vtt = to_webvtt(&captions);
            let cues: Vec<&str> = vtt.split_terminator("\n\n").collect();
            prop_assert_eq!((cues[0], cues.len()), ("WEBVTT", texts.len() + 1));
            for cue in &cues[1..] {
                let lines: Vec<&str> = cue.lines().collect();
                prop_assert!(lines.len() == 2 && lines[0].contains(" --> "), "{}", cue);
                // Only the speaker's tag is markup.
                let text = lines[1].strip_prefix("<v ").unwrap();
                prop_assert!(text.matches(['<', '>']).count() == 1 && !text.contains("-->"), "{}", cue);
            }
        }
    }
}
