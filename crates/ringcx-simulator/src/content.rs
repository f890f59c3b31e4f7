//! Generated transcripts, summaries and records: realistic, with difficult characters, and equal
//! for equal seeds. Pure.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::Value;

use super::options::Traffic;
use super::rng::Rng;
use super::tenant_segment::{ChannelClass, RecordVersion, SegmentKind, TenantSegment};
use super::workload::{Workload, person_name, phrase_count};
use crate::clock::Time;
use crate::model::Artifact;

/// Part of some conversations, summaries and notes, so that a test can search logs for customer
/// text.
pub const CANARY_TEXT: &str = "the heron counts nine lanterns";

const AGENT_LINES: [&str; 10] = [
    "Thank you for calling, how can I help you today?",
    "Could you give me your order number, please?",
    "I see. One moment while I look that up.",
    "Grüß Gott! Ihre Bestellung Nr. 4711 geht morgen hinaus – versprochen.",
    "Je suis désolée pour le délai ; le colis est déjà à l'entrepôt.",
    "I have \"expedited\" it: you'll get an e-mail from us <no-reply@example.com>.",
    "お待たせいたしました。ご確認ください。",
    "That is C:\\Users\\you\\Documents, with a backslash.",
    "Is there anything else I can do for you?",
    "You're welcome. Have a good day! 😊",
];
const CONTACT_LINES: [&str; 10] = [
    "Hi, my parcel hasn't arrived.",
    "It's 0049-30-901820, and my name is O'Connor.",
    "No.",
    "¿Habla español? Mi señora está muy enfadada 😡",
    "The card number ends in 4242, it was charged twice: £12.50 and £12.50.",
    "So,\nfirst line,\nsecond line,\tand a tab.",
    "Das ist ja wohl ein schlechter Scherz!",
    "ok 👍🏽👨‍👩‍👧‍👦",
    "Could you spell that? Łódź, with an Ł, then ó, then ź.",
    "Great, thanks a lot, bye.",
];
const SUMMARY_LINES: [&str; 7] = [
    "The customer called about a parcel that had not arrived.",
    "The agent confirmed the address and arranged a second delivery.",
    "Der Kunde wünscht einen Rückruf am Montag.",
    "Refund of £12.50 was \"approved\" & noted.",
    "La cliente souhaite être rappelée après 18 h — très agacée.",
    "Sentiment: 😐 → 🙂.",
    "Next step: follow up within 24h; ticket #88-1.",
];
const NAMES: [&str; 6] = ["Zoë Ångström", "Jean-Luc O'Neil", "李小龍", "María José", "Bob \"Bobby\" T.", "Ола"];

/// Undocumented content of real tenants' transcripts (contract.md, "What real answers may hold").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oddity {
    None,
    /// Half a surrogate at the end of a message: vendors truncate UTF-16 texts at a fixed length.
    HalfSurrogate,
    /// NUL and other control characters, escaped and unescaped.
    Control,
    /// Numbers that fit no type, and repeated keys.
    Numbers,
    /// Arrays nested 300 deep.
    Depth,
    /// A byte that is not UTF-8.
    BadByte,
    /// Times in another form.
    Times(u64),
    /// The phrases of one participant after those of the other.
    Disorder,
    /// Names, types and users are null: only the participants' ids distinguish them.
    Nameless,
    /// Messages of an e-mail, as HTML.
    Html,
    /// A second, empty `transcript` key.
    SecondKey,
}

impl Oddity {
    fn draw_for(seed: u64, traffic: &Traffic) -> Oddity {
        let mut rng = Rng::new(seed, &[13]);
        if !rng.random_bool(traffic.odd_bodies) {
            return Oddity::None;
        }
        let form = rng.random_below(TIME_FORMS);
        rng.choose(&[
            Oddity::HalfSurrogate,
            Oddity::Control,
            Oddity::Numbers,
            Oddity::Depth,
            Oddity::BadByte,
            Oddity::Times(form),
            Oddity::Disorder,
            Oddity::Nameless,
            Oddity::Html,
            Oddity::SecondKey,
        ])
    }
}

/// The number of other forms of times.
const TIME_FORMS: u64 = 9;

/// A time in one of the observed forms besides milliseconds as a text.
fn format_time(at: Time, form: u64) -> String {
    let text = at.rfc3339();
    let civil = text.trim_end_matches('Z');
    match form {
        0 => at.0.to_string(),
        1 => format!("\"{text}\""),
        2 => format!("\"{civil}\""),
        3 => format!("\"{civil}+0000\""),
        4 => format!("\"{}\"", at.floor_secs()),
        5 => format!("{}.0", at.0),
        6 => format!("\"{} +0000\"", civil.replace('T', " ")),
        7 => format!("\"{} UTC\"", civil.replace('T', " ")),
        _ => format!("{:E}", at.0 as f64),
    }
}

/// The id of a segment's agent in its record and, if nothing else identifies the agent, in its
/// transcript.
fn agent_id(segment: &TenantSegment) -> u64 {
    400_000 + Rng::new(segment.seed, &[14]).random_below(100_000)
}

/// Whether a segment's record has an invalid end time.
pub(super) fn has_odd_end(seed: u64, traffic: &Traffic) -> bool {
    Rng::new(seed, &[18]).random_bool(traffic.odd_ends)
}

/// Whether a segment's transcript is answered as empty until it is available.
pub(super) fn is_empty_until_available(segment: &TenantSegment, traffic: &Traffic) -> bool {
    Rng::new(segment.seed, &[15]).random_bool(traffic.odd_bodies)
}

/// Generates a transcript's body.
pub(super) fn generate_transcript(seed: u64, segment: &TenantSegment, traffic: &Traffic) -> Bytes {
    let mut rng = Rng::new(seed, &[10]);
    let oddity = Oddity::draw_for(seed, traffic);
    let workload = traffic.workload.as_deref();
    let (fewest, most) = traffic.utterances;
    let count = match workload {
        Some(_) => phrase_count(&mut rng) as u32,
        None => fewest + rng.random_below(u64::from(most.saturating_sub(fewest)) + 1) as u32,
    };
    let canary_index = rng.random_bool(traffic.canary_texts).then(|| rng.random_below(u64::from(count.max(1))) as u32);
    let mut out = String::with_capacity(200 + 220 * count as usize);
    let class = channel_class_name(segment.channel_class);
    write_str(&mut out, format_args!("{{\"channelClass\":\"{class}\""));
    out.push_str(rng.choose(&[",\"errorCode\":null,\"errorMessage\":null", "", ",\"errorCode\":null"]));
    if oddity == Oddity::Depth {
        write_str(&mut out, format_args!(",\"annotations\":{}{}", "[".repeat(300), "]".repeat(300)));
    }
    out.push_str(",\"transcript\":[");
    let mut at = segment.indexed_end.plus_millis(-i64::from(count) * 4_000);
    let agent_id = agent_id(segment);
    let (name, agent_name) = match workload {
        Some(_) => (person_name(rng.next_u64()), person_name(agent_id)),
        None => (rng.choose(&NAMES).to_owned(), "Agent 7".to_owned()),
    };
    let style = SpeakerStyle { seed, name: &name, agent_name: &agent_name, agent_id, oddity, workload };
    let mut utterances: Vec<(bool, String)> = Vec::with_capacity(count as usize);
    for number in 0..count {
        at = at.plus_millis(500 + rng.random_below(3_500) as i64);
        let mut utterance = String::with_capacity(250);
        let agent = write_utterance(&mut utterance, &mut rng, style, at, canary_index == Some(number));
        utterances.push((agent, utterance));
    }
    if oddity == Oddity::Disorder {
        utterances.sort_by_key(|(agent, _)| *agent);
    }
    let texts: Vec<&str> = utterances.iter().map(|(_, text)| text.as_str()).collect();
    out.push_str(&texts.join(","));
    out.push(']');
    if oddity == Oddity::SecondKey {
        out.push_str(rng.choose(&[",\"transcript\":null", ",\"transcript\":[]", ",\"transcript\":\"\""]));
    }
    out.push('}');
    let mut body = out.into_bytes();
    if oddity == Oddity::BadByte
        && let Some(end) = body.iter().rposition(|byte| *byte == b'"')
    {
        body.insert(end, 0xe9);
    }
    Bytes::from(body)
}

/// The speakers of a conversation, and the form of their utterances.
#[derive(Clone, Copy)]
struct SpeakerStyle<'a> {
    seed: u64,
    name: &'a str,
    agent_name: &'a str,
    agent_id: u64,
    oddity: Oddity,
    workload: Option<&'a Workload>,
}

/// Writes an utterance. Returns whether the agent is the speaker.
fn write_utterance(out: &mut String, rng: &mut Rng, style: SpeakerStyle<'_>, at: Time, has_canary: bool) -> bool {
    let SpeakerStyle { seed, name, agent_name, agent_id, oddity, workload } = style;
    let agent = rng.random_bool(0.5);
    let kind = if agent { "agent" } else { "contact" };
    match (oddity, agent) {
        (Oddity::Nameless, true) => write_str(out, format_args!("{{\"participantId\":\"{agent_id}\"")),
        _ => write_str(out, format_args!("{{\"participantId\":\"{kind}-{:08x}\"", seed as u32)),
    }
    if oddity == Oddity::Nameless {
        out.push_str(",\"participantName\":null,\"participantType\":null,\"rcUserId\":null");
    } else {
        write_speaker(out, rng, kind, if agent { agent_name } else { name });
    }
    match oddity {
        Oddity::Times(form) => write_str(out, format_args!(",\"timestamp\":{}", format_time(at, form))),
        Oddity::Disorder => write_str(out, format_args!(",\"timestamp\":\"{}\"", at.0)),
        _ if rng.random_bool(0.05) => {}
        _ => write_str(out, format_args!(",\"timestamp\":\"{}\"", at.0)),
    }
    if oddity == Oddity::Numbers {
        let digits = "7".repeat(400);
        write_str(out, format_args!(",\"confidence\":1e999,\"sequence\":{digits},\"message\":0"));
    }
    out.push_str(",\"message\":");
    let line = match workload {
        Some(workload) => workload.phrase(rng),
        None => rng.choose(if agent { &AGENT_LINES } else { &CONTACT_LINES }).to_owned(),
    };
    let line = if has_canary { format!("{line} {CANARY_TEXT}") } else { line };
    let line = if oddity == Oddity::Html { to_html(&line) } else { line };
    write_json(out, &line, !has_canary && rng.random_bool(0.2));
    out.pop();
    out.push_str(match oddity {
        Oddity::HalfSurrogate => " cut \\ud83d\"}",
        Oddity::Control => " \\u0000\\u0001\u{b}\"}",
        _ => "\"}",
    });
    agent
}

fn write_speaker(out: &mut String, rng: &mut Rng, kind: &str, name: &str) {
    match rng.random_below(4) {
        0 => out.push_str(",\"participantName\":null"),
        1 => {}
        _ => {
            out.push_str(",\"participantName\":");
            write_json(out, name, rng.random_bool(0.5));
        }
    }
    write_str(out, format_args!(",\"participantType\":\"{kind}\""));
    out.push_str(rng.choose(&[",\"rcUserId\":\"665127314\"", ",\"rcUserId\":null", ""]));
}

/// A text as the HTML of an e-mail.
fn to_html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\n', "<br>");
    format!("<html><head><style>p {{ margin: 0 }}</style></head><body><p>{text}</p></body></html>")
}

/// Generates a summary's text.
pub(super) fn generate_summary(seed: u64, artifact: Artifact, traffic: &Traffic) -> String {
    let mut rng = Rng::new(seed, &[11, artifact as u64]);
    let has_canary = rng.random_bool(traffic.canary_texts);
    let mut text = String::from(if rng.random_bool(0.1) { "\"Quoted\" at the start: " } else { "" });
    match &traffic.workload {
        Some(workload) => text.push_str(&workload.summary_text(&mut rng)),
        None => {
            for number in 0..=rng.random_below(4) {
                if number > 0 {
                    text.push_str(rng.choose(&[" ", "\n", "\n- "]));
                }
                text.push_str(rng.choose(&SUMMARY_LINES));
            }
        }
    }
    if has_canary {
        text.push(' ');
        text.push_str(CANARY_TEXT);
    }
    write_str(&mut text, format_args!(" (case {})", rng.random_below(1_000_000)));
    text
}

/// A summary in another charset with its media type, if one is drawn and can encode the text.
pub(super) fn encode_in_charset(
    segment: &TenantSegment,
    text: &[u8],
    traffic: &Traffic,
) -> Option<(&'static str, Bytes)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut rng = Rng::new(segment.seed, &[17]);
    if !rng.random_bool(traffic.odd_bodies) || text.is_ascii() {
        return None;
    }
    let units = |bytes: fn(u16) -> [u8; 2]| Some(text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>());
    let latin_1 = || {
        // In this charset each character is the byte with the same number.
        let byte = |character: char| {
            u8::try_from(u32::from(character)).ok().filter(|_| character > '\u{9f}' || character.is_ascii())
        };
        text.chars().map(byte).collect::<Option<Vec<u8>>>()
    };
    let (media, bytes) = match rng.random_below(4) {
        0 => ("text/plain;charset=ISO-8859-1", latin_1()),
        1 => ("text/plain; charset=latin-1", latin_1()),
        // Both without a byte order mark.
        2 => ("text/plain;charset=UTF-16", units(u16::to_be_bytes)),
        _ => ("text/plain;charset=utf16", units(u16::to_le_bytes)),
    };
    Some((media, Bytes::from(bytes?)))
}

/// Generates a segment's record, an element of a metadata answer.
pub(super) fn generate_record(segment: &TenantSegment, version: RecordVersion, traffic: &Traffic) -> String {
    let mut rng = Rng::new(segment.seed, &[12]);
    let odd = rng.random_bool(traffic.odd_records);
    let has_canary = rng.random_bool(traffic.canary_texts);
    let mut out = JsonObjectWriter::new();
    let account = &segment.account.id;
    out.text("subAccountId", &account.sub);
    if let Some(dialog) = &segment.dialog_id {
        out.text("dialogId", dialog);
    }
    let duration = 5_000 + rng.random_below(600_000) as i64;
    let begin = segment.indexed_end.plus_millis(-duration);
    write_dialog(&mut out, segment, &mut rng, begin, duration);
    out.text("segmentId", &segment.segment_id);
    out.text("segmentType", kind_name(segment.kind));
    let person = agent_id(segment);
    if odd && rng.random_bool(0.5) {
        out.raw("segmentParticipantId", "null");
    } else {
        out.text("segmentParticipantId", &person.to_string());
    }
    out.text("segmentParticipantRcExtensionId", &(985_000_000 + person).to_string());
    out.text("segmentStartTimeMs", &begin.rfc3339());
    match segment.end {
        Some(end) => out.text("segmentEndTimeMs", &end.rfc3339()),
        None if has_odd_end(segment.seed, traffic) => {
            let odd = ["\"soon\"", "{}", "true", "-1", "\"2024-07-22\"", "1e999"];
            out.raw("segmentEndTimeMs", Rng::new(segment.seed, &[19]).choose(&odd));
        }
        None => {}
    }
    if odd && rng.random_bool(0.3) {
        out.text("segmentDurationMs", &duration.to_string());
    } else {
        out.raw("segmentDurationMs", &duration.to_string());
    }
    out.text("segmentAgentGroupId", &(70_000 + rng.random_below(9_999)).to_string());
    write_notes(&mut out, &mut rng, version, (odd, has_canary), traffic);
    write_flags(&mut out, segment, &mut rng, (version, begin), traffic);
    if odd {
        write_newer_fields(&mut out, &mut rng, segment, traffic);
        out.raw(
            "xQualityScores",
            "{\"mos\":4.50,\"jitter\":1e-3,\"tags\":[\"é\",\"\\u00e9\",null],\"big\":9007199254740993}",
        );
    }
    out.finish()
}

/// Writes the fields of the newer form and of real tenants.
fn write_newer_fields(out: &mut JsonObjectWriter, rng: &mut Rng, segment: &TenantSegment, traffic: &Traffic) {
    if !rng.random_bool(traffic.odd_bodies) {
        return;
    }
    out.text("uii", &format!("2026{:026}", rng.next_u64()));
    out.text("ani", &format!("+1650{:07}", rng.random_below(10_000_000)));
    out.text("agentId", &agent_id(segment).to_string());
    out.text("agentFullName", rng.choose(&NAMES));
    out.raw("interactionStartTimeMs", &format_time(segment.indexed_end, rng.random_below(TIME_FORMS)));
    out.raw("callResult", rng.choose(&["\"cut \\ud83d\"", "\"a\\u0000b\"", "1e999", "null"]));
    out.raw("nested", &format!("{}{}", "[".repeat(300), "]".repeat(300)));
}

fn write_dialog(out: &mut JsonObjectWriter, segment: &TenantSegment, rng: &mut Rng, begin: Time, duration: i64) {
    let phone = |rng: &mut Rng| format!("+1650{:07}", rng.random_below(10_000_000));
    let begin_dialog = begin.plus_millis(-(rng.random_below(60_000) as i64));
    out.text("interactionId", &format!("2026{:026}", rng.next_u64()));
    out.text("channelId", &phone(rng));
    let digital = rng.choose(&["ENGAGE_MESSAGING", "EMAIL", "MESSENGER", "WHATSAPP"]);
    out.text("channelType", if segment.channel_class == ChannelClass::Voice { "VOICE" } else { digital });
    out.text("channelClass", channel_class_name(segment.channel_class));
    out.text("channelEndpointAddress", &phone(rng));
    out.text("contactEndpointAddress", &phone(rng));
    out.text("dialogOrigination", rng.choose(&["INBOUND", "OUTBOUND"]));
    out.text("dialogStartTimeMs", &begin_dialog.rfc3339());
    out.text("dialogEndTimeMs", &segment.indexed_end.rfc3339());
    out.raw("dialogDurationMs", &(duration + begin.0 - begin_dialog.0).to_string());
}

fn write_notes(
    out: &mut JsonObjectWriter,
    rng: &mut Rng,
    version: RecordVersion,
    (odd, has_canary): (bool, bool),
    traffic: &Traffic,
) {
    match rng.random_below(3) {
        0 if odd => {}
        1 => out.raw("systemDisposition", "null"),
        _ => out.text("systemDisposition", "ANSWER"),
    }
    out.text("agentDisposition", if version.is_edited { "Résolu, reopened" } else { "Success" });
    let mut notes = String::from(if version.is_edited { "edited later: " } else { "" });
    match &traffic.workload {
        Some(workload) => notes.push_str(&workload.notes(rng).unwrap_or_default()),
        None => notes.push_str(rng.choose(&SUMMARY_LINES)),
    }
    if has_canary {
        notes.push(' ');
        notes.push_str(CANARY_TEXT);
    }
    if odd && rng.random_bool(0.3) {
        out.raw("agentNotes", "null");
    } else {
        out.text("agentNotes", &notes);
    }
}

fn write_flags(
    out: &mut JsonObjectWriter,
    segment: &TenantSegment,
    rng: &mut Rng,
    (version, begin): (RecordVersion, Time),
    traffic: &Traffic,
) {
    let recorded = segment.has_recording();
    out.raw("hasRecording", if recorded { "true" } else { "false" });
    let no = rng.random_below(4);
    let mut form = Rng::new(segment.seed, &[20]);
    match (form.random_bool(traffic.odd_bodies), version.is_transcribed, no) {
        (true, true, _) => {
            out.raw("hasTranscript", form.choose(&["\"true\"", "1", "\"Y\"", "\"available\"", "[true]", "2"]))
        }
        (true, false, _) => out.raw("hasTranscript", form.choose(&["\"false\"", "0", "\"N\"", "\"\"", "[]", "{}"])),
        (false, true, _) => out.raw("hasTranscript", "true"),
        (false, false, 0) => out.raw("hasTranscript", "null"),
        (false, false, 1) => {}
        (false, false, _) => out.raw("hasTranscript", "false"),
    }
    if !recorded {
        return out.raw("segmentEvents", "null");
    }
    let (from, to) = (begin.rfc3339(), segment.indexed_end.rfc3339());
    let event = |at: &str, kind: &str| {
        format!("{{\"eventTimeMs\":\"{at}\",\"clientEventTimeMs\":\"{at}\",\"eventType\":\"{kind}\"}}")
    };
    out.raw("segmentEvents", &format!("[{},{}]", event(&from, "REC_START"), event(&to, "REC_STOP")));
}

/// Generates an invalid record: of a wrong type, without an id, or no object.
pub(super) fn generate_mangled_record(segment: &TenantSegment, rng: &mut Rng) -> String {
    let mut id = String::new();
    write_json(&mut id, &segment.segment_id, false);
    match rng.random_below(6) {
        0 => "{\"segmentId\":null,\"dialogId\":\"d-1\",\"hasTranscript\":true}".into(),
        1 => format!("{{\"segmentId\":{{\"id\":{id}}},\"dialogId\":\"d-1\"}}"),
        2 => format!("[{id}]"),
        3 => format!("{{\"segmentId\":{id},\"dialogId\":{{}},\"hasTranscript\":true}}"),
        4 => format!("{{\"segmentId\":{id},\"dialogId\":null,\"hasTranscript\":true}}"),
        _ => id,
    }
}

/// Draws an element that is no record.
pub(super) fn draw_junk_element(rng: &mut Rng) -> &'static str {
    rng.choose(&["42", "\"maintenance\"", "null", "[]", "{}", "true", "{\"segmentId\":\"\"}"])
}

/// A text as one JSON string.
pub(super) fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    write_json(&mut out, text, text.len().is_multiple_of(3));
    out
}

fn channel_class_name(class: ChannelClass) -> &'static str {
    match class {
        ChannelClass::Voice => "VOICE",
        ChannelClass::Digital => "DIGITAL",
    }
}

fn kind_name(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::Agent => "AGENT",
        SegmentKind::Queue => "QUEUE",
        SegmentKind::Ivr => "IVR",
    }
}

/// Writes a JSON object.
struct JsonObjectWriter(String);

impl JsonObjectWriter {
    fn new() -> JsonObjectWriter {
        let mut out = String::with_capacity(1_500);
        out.push('{');
        JsonObjectWriter(out)
    }

    fn raw(&mut self, key: &str, value: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        write_str(&mut self.0, format_args!("\"{key}\":{value}"));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.raw(key, "");
        write_json(&mut self.0, value, false);
    }

    fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn write_str(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

/// Appends a text as a JSON string. `ascii` escapes all characters that are not ASCII.
fn write_json(out: &mut String, text: &str, ascii: bool) {
    for character in Value::from(text).to_string().chars() {
        if character.is_ascii() || !ascii {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write_str(out, format_args!("\\u{unit:04x}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_json_reads_back_unchanged() {
        for line in AGENT_LINES.iter().chain(&CONTACT_LINES).chain(&SUMMARY_LINES).chain(&NAMES) {
            for ascii in [false, true] {
                let mut out = String::new();
                write_json(&mut out, line, ascii);
                assert_eq!(serde_json::from_str::<String>(&out).unwrap(), *line);
                assert!(!ascii || out.is_ascii());
            }
        }
    }
}
