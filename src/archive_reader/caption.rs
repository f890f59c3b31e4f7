//! Transcripts as subtitles: SubRip (SRT) and WebVTT. Pure.

use std::fmt::Write as _;

use super::conversation_view::PhraseView;

/// How long a caption stays where no later phrase ends it, for each character.
const MILLIS_PER_CHAR: i64 = 60;
/// The shortest time that a caption stays.
const MIN_CAPTION_MILLIS: i64 = 1_000;

/// One caption: its start and end in milliseconds, and the phrase.
type Caption<'a> = (i64, i64, &'a PhraseView);

/// The captions. A phrase without a time starts with the one before it.
fn captions(phrases: &[PhraseView]) -> Vec<Caption<'_>> {
    let mut last = 0;
    let starts: Vec<i64> = phrases
        .iter()
        .map(|phrase| {
            last = phrase.offset_ms.unwrap_or(last).max(last);
            last
        })
        .collect();
    let caption = |(nth, phrase): (usize, &'_ PhraseView)| {
        let start = starts.get(nth).copied().unwrap_or_default();
        let read = (phrase.text.chars().count() as i64).saturating_mul(MILLIS_PER_CHAR).max(MIN_CAPTION_MILLIS);
        let next = starts.get(nth + 1).copied().filter(|next| *next > start);
        (start, next.unwrap_or(start.saturating_add(read)))
    };
    phrases
        .iter()
        .enumerate()
        .map(|(nth, phrase)| {
            let (start, end) = caption((nth, phrase));
            (start, end, phrase)
        })
        .collect()
}

/// `hh:mm:ss`, the separator and the milliseconds.
fn timestamp(millis: i64, separator: char) -> String {
    let (secs, millis) = (millis.max(0) / 1000, millis.max(0) % 1000);
    format!("{:02}:{:02}:{:02}{separator}{millis:03}", secs / 3600, secs / 60 % 60, secs % 60)
}

/// A text on one line, so that it cannot end its caption.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Renders SubRip.
pub(crate) fn to_srt(phrases: &[PhraseView]) -> String {
    let mut out = String::new();
    for (nth, (start, end, phrase)) in captions(phrases).into_iter().enumerate() {
        let (start, end) = (timestamp(start, ','), timestamp(end, ','));
        let text = one_line(&format!("{}: {}", phrase.speaker, phrase.text)).replace("-->", "->");
        let _ = write!(out, "{}\n{start} --> {end}\n{text}\n\n", nth + 1);
    }
    out
}

/// Renders WebVTT, with the speakers as voices.
pub(crate) fn to_webvtt(phrases: &[PhraseView]) -> String {
    let escape = |text: &str| one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut out = "WEBVTT\n\n".to_owned();
    for (start, end, phrase) in captions(phrases) {
        let (start, end) = (timestamp(start, '.'), timestamp(end, '.'));
        let _ = write!(out, "{start} --> {end}\n<v {}>{}\n\n", escape(&phrase.speaker), escape(&phrase.text));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrase(offset_ms: Option<i64>, text: &str) -> PhraseView {
        PhraseView { offset_ms, speaker: "Jane <b> (agent)".to_owned(), text: text.to_owned(), ..PhraseView::default() }
    }

    #[test]
    fn captions_follow_one_another_and_no_text_can_leave_its_caption() {
        let phrases = [
            phrase(Some(0), "Hello"),
            phrase(Some(3_661_500), "one\n\n2\n00:00 --> 00:01\nforged"),
            phrase(None, "& <i>"),
        ];
        insta::assert_snapshot!(to_srt(&phrases), @r"
        1
        00:00:00,000 --> 01:01:01,500
        Jane <b> (agent): Hello

        2
        01:01:01,500 --> 01:01:03,240
        Jane <b> (agent): one 2 00:00 -> 00:01 forged

        3
        01:01:01,500 --> 01:01:02,500
        Jane <b> (agent): & <i>
        ");
        insta::assert_snapshot!(to_webvtt(&phrases), @r"
        WEBVTT

        00:00:00.000 --> 01:01:01.500
        <v Jane &lt;b&gt; (agent)>Hello

        01:01:01.500 --> 01:01:03.240
        <v Jane &lt;b&gt; (agent)>one 2 00:00 --&gt; 00:01 forged

        01:01:01.500 --> 01:01:02.500
        <v Jane &lt;b&gt; (agent)>&amp; &lt;i&gt;
        ");
    }
}
