//! What the simulated customers said, and what is recorded about it: believable, awkward, and always the same for the
//! same seed. Pure.

use std::fmt::Write as _;

use bytes::Bytes;

use super::chance::Dice;
use super::options::Traffic;
use super::segment::{Class, Kind, Segment, Version};
use crate::clock::Time;
use crate::model::Artifact;

/// Stands in some of the conversations, summaries and notes, so that a test can look for what customers said in logs.
pub const PLANTED: &str = "the heron counts nine lanterns";

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

/// What real tenants' transcripts hold beside what the documents describe (contract.md, "What real answers may hold").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Oddity {
    None,
    /// Half a surrogate at the end of a message: vendors cut UTF-16 texts at a length.
    HalfSurrogate,
    /// NUL and lone control characters, as escapes and as they are.
    Control,
    /// Numbers that fit no type, and keys that come twice.
    Numbers,
    /// Arrays nested 300 deep.
    Depth,
    /// A byte that is no UTF-8.
    BadByte,
    /// Times in one of the other forms.
    Times(u64),
    /// One channel after the other.
    Disorder,
    /// Names, types and users all null: only the participants' ids tell them apart.
    Nameless,
    /// Messages of an e-mail, as HTML.
    Html,
    /// The transcript's key once more, with nothing.
    SecondKey,
}

impl Oddity {
    fn draw(seed: u64, traffic: &Traffic) -> Oddity {
        let mut dice = Dice::new(seed, &[13]);
        if !dice.hit(traffic.odd_bodies) {
            return Oddity::None;
        }
        let form = dice.below(TIME_FORMS);
        dice.pick(&[
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

/// How many other forms of times there are.
const TIME_FORMS: u64 = 9;

/// A time in one of the forms that are seen beside milliseconds as a text.
fn time_form(at: Time, form: u64) -> String {
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

/// The id under which a segment's agent stands in its record and, where nothing else tells, in its transcript.
fn agent_id(segment: &Segment) -> u64 {
    400_000 + Dice::new(segment.seed, &[14]).below(100_000)
}

/// Whether the end that a segment's record says is no time.
pub(super) fn is_end_odd(seed: u64, traffic: &Traffic) -> bool {
    Dice::new(seed, &[18]).hit(traffic.odd_ends)
}

/// Whether a segment's transcript is answered as empty until it is made.
pub(super) fn is_empty_at_first(segment: &Segment, traffic: &Traffic) -> bool {
    Dice::new(segment.seed, &[15]).hit(traffic.odd_bodies)
}

/// A transcript's body.
pub(super) fn transcript(seed: u64, segment: &Segment, traffic: &Traffic) -> Bytes {
    let mut dice = Dice::new(seed, &[10]);
    let oddity = Oddity::draw(seed, traffic);
    let (fewest, most) = traffic.utterances;
    let count = fewest + dice.below(u64::from(most.saturating_sub(fewest)) + 1) as u32;
    let planted = dice.hit(traffic.planted).then(|| dice.below(u64::from(count.max(1))) as u32);
    let mut out = String::with_capacity(200 + 220 * count as usize);
    let class = class_name(segment.class);
    write_str(&mut out, format_args!("{{\"channelClass\":\"{class}\""));
    out.push_str(dice.pick(&[",\"errorCode\":null,\"errorMessage\":null", "", ",\"errorCode\":null"]));
    if oddity == Oddity::Depth {
        write_str(&mut out, format_args!(",\"annotations\":{}{}", "[".repeat(300), "]".repeat(300)));
    }
    out.push_str(",\"transcript\":[");
    let mut at = segment.placed.plus_millis(-i64::from(count) * 4_000);
    let speakers = Speakers { seed, name: dice.pick(&NAMES), agent_id: agent_id(segment), oddity };
    let mut utterances: Vec<(bool, String)> = Vec::with_capacity(count as usize);
    for number in 0..count {
        at = at.plus_millis(500 + dice.below(3_500) as i64);
        let mut utterance = String::with_capacity(250);
        let agent = write_utterance(&mut utterance, &mut dice, speakers, at, planted == Some(number));
        utterances.push((agent, utterance));
    }
    if oddity == Oddity::Disorder {
        utterances.sort_by_key(|(agent, _)| *agent);
    }
    let texts: Vec<&str> = utterances.iter().map(|(_, text)| text.as_str()).collect();
    out.push_str(&texts.join(","));
    out.push(']');
    if oddity == Oddity::SecondKey {
        out.push_str(dice.pick(&[",\"transcript\":null", ",\"transcript\":[]", ",\"transcript\":\"\""]));
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

/// Who speaks in a conversation, and in which form that is written.
#[derive(Clone, Copy)]
struct Speakers<'a> {
    seed: u64,
    name: &'a str,
    agent_id: u64,
    oddity: Oddity,
}

/// Writes what someone says; whether that was the agent.
fn write_utterance(out: &mut String, dice: &mut Dice, speakers: Speakers<'_>, at: Time, planted: bool) -> bool {
    let Speakers { seed, name, agent_id, oddity } = speakers;
    let agent = dice.hit(0.5);
    let kind = if agent { "agent" } else { "contact" };
    match (oddity, agent) {
        (Oddity::Nameless, true) => write_str(out, format_args!("{{\"participantId\":\"{agent_id}\"")),
        _ => write_str(out, format_args!("{{\"participantId\":\"{kind}-{:08x}\"", seed as u32)),
    }
    if oddity == Oddity::Nameless {
        out.push_str(",\"participantName\":null,\"participantType\":null,\"rcUserId\":null");
    } else {
        write_speaker(out, dice, kind, if agent { "Agent 7" } else { name });
    }
    match oddity {
        Oddity::Times(form) => write_str(out, format_args!(",\"timestamp\":{}", time_form(at, form))),
        Oddity::Disorder => write_str(out, format_args!(",\"timestamp\":\"{}\"", at.0)),
        _ if dice.hit(0.05) => {}
        _ => write_str(out, format_args!(",\"timestamp\":\"{}\"", at.0)),
    }
    if oddity == Oddity::Numbers {
        let digits = "7".repeat(400);
        write_str(out, format_args!(",\"confidence\":1e999,\"sequence\":{digits},\"message\":0"));
    }
    out.push_str(",\"message\":");
    let line = dice.pick(if agent { &AGENT_LINES } else { &CONTACT_LINES });
    let line = if planted { format!("{line} {PLANTED}") } else { line.to_owned() };
    let line = if oddity == Oddity::Html { html(&line) } else { line };
    write_json(out, &line, !planted && dice.hit(0.2));
    out.pop();
    out.push_str(match oddity {
        Oddity::HalfSurrogate => " cut \\ud83d\"}",
        Oddity::Control => " \\u0000\\u0001\u{b}\"}",
        _ => "\"}",
    });
    agent
}

fn write_speaker(out: &mut String, dice: &mut Dice, kind: &str, name: &str) {
    match dice.below(4) {
        0 => out.push_str(",\"participantName\":null"),
        1 => {}
        _ => {
            out.push_str(",\"participantName\":");
            write_json(out, name, dice.hit(0.5));
        }
    }
    write_str(out, format_args!(",\"participantType\":\"{kind}\""));
    out.push_str(dice.pick(&[",\"rcUserId\":\"665127314\"", ",\"rcUserId\":null", ""]));
}

/// A text as an e-mail holds it.
fn html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\n', "<br>");
    format!("<html><head><style>p {{ margin: 0 }}</style></head><body><p>{text}</p></body></html>")
}

/// A summary's text.
pub(super) fn summary(seed: u64, artifact: Artifact, traffic: &Traffic) -> String {
    let mut dice = Dice::new(seed, &[11, artifact as u64]);
    let planted = dice.hit(traffic.planted);
    let mut text = String::from(if dice.hit(0.1) { "\"Quoted\" at the start: " } else { "" });
    for number in 0..=dice.below(4) {
        if number > 0 {
            text.push_str(dice.pick(&[" ", "\n", "\n- "]));
        }
        text.push_str(dice.pick(&SUMMARY_LINES));
    }
    if planted {
        text.push(' ');
        text.push_str(PLANTED);
    }
    write_str(&mut text, format_args!(" (case {})", dice.below(1_000_000)));
    text
}

/// A summary in another charset, with how that is declared, where one is chosen and can say it all.
pub(super) fn in_charset(segment: &Segment, text: &[u8], traffic: &Traffic) -> Option<(&'static str, Bytes)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut dice = Dice::new(segment.seed, &[17]);
    if !dice.hit(traffic.odd_bodies) || text.is_ascii() {
        return None;
    }
    let units = |bytes: fn(u16) -> [u8; 2]| Some(text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>());
    let latin_1 = || {
        // In this charset each character is a byte, of the same number.
        let byte =
            |letter: char| u8::try_from(u32::from(letter)).ok().filter(|_| letter > '\u{9f}' || letter.is_ascii());
        text.chars().map(byte).collect::<Option<Vec<u8>>>()
    };
    let (media, bytes) = match dice.below(4) {
        0 => ("text/plain;charset=ISO-8859-1", latin_1()),
        1 => ("text/plain; charset=latin-1", latin_1()),
        // Neither has a byte order mark.
        2 => ("text/plain;charset=UTF-16", units(u16::to_be_bytes)),
        _ => ("text/plain;charset=utf16", units(u16::to_le_bytes)),
    };
    Some((media, Bytes::from(bytes?)))
}

/// A segment's record, as an element of a metadata answer.
pub(super) fn record(segment: &Segment, version: Version, traffic: &Traffic) -> String {
    let mut dice = Dice::new(segment.seed, &[12]);
    let odd = dice.hit(traffic.odd_records);
    let planted = dice.hit(traffic.planted);
    let mut out = Object::new();
    let account = &segment.account.id;
    out.text("subAccountId", &account.sub);
    if let Some(dialog) = &segment.dialog_id {
        out.text("dialogId", dialog);
    }
    let duration = 5_000 + dice.below(600_000) as i64;
    let begin = segment.placed.plus_millis(-duration);
    write_dialog(&mut out, segment, &mut dice, begin, duration);
    out.text("segmentId", &segment.segment_id);
    out.text("segmentType", kind_name(segment.kind));
    let person = agent_id(segment);
    if odd && dice.hit(0.5) {
        out.raw("segmentParticipantId", "null");
    } else {
        out.text("segmentParticipantId", &person.to_string());
    }
    out.text("segmentParticipantRcExtensionId", &(985_000_000 + person).to_string());
    out.text("segmentStartTimeMs", &begin.rfc3339());
    match segment.end {
        Some(end) => out.text("segmentEndTimeMs", &end.rfc3339()),
        None if is_end_odd(segment.seed, traffic) => {
            let odd = ["\"soon\"", "{}", "true", "-1", "\"2024-07-22\"", "1e999"];
            out.raw("segmentEndTimeMs", Dice::new(segment.seed, &[19]).pick(&odd));
        }
        None => {}
    }
    if odd && dice.hit(0.3) {
        out.text("segmentDurationMs", &duration.to_string());
    } else {
        out.raw("segmentDurationMs", &duration.to_string());
    }
    out.text("segmentAgentGroupId", &(70_000 + dice.below(9_999)).to_string());
    write_notes(&mut out, &mut dice, version, odd, planted);
    write_flags(&mut out, segment, &mut dice, (version, begin), traffic);
    if odd {
        write_newer_names(&mut out, &mut dice, segment, traffic);
        out.raw(
            "xQualityScores",
            "{\"mos\":4.50,\"jitter\":1e-3,\"tags\":[\"é\",\"\\u00e9\",null],\"big\":9007199254740993}",
        );
    }
    out.finish()
}

/// What the newer form of the metadata and real tenants add to a record.
fn write_newer_names(out: &mut Object, dice: &mut Dice, segment: &Segment, traffic: &Traffic) {
    if !dice.hit(traffic.odd_bodies) {
        return;
    }
    out.text("uii", &format!("2026{:026}", dice.next()));
    out.text("ani", &format!("+1650{:07}", dice.below(10_000_000)));
    out.text("agentId", &agent_id(segment).to_string());
    out.text("agentFullName", dice.pick(&NAMES));
    out.raw("interactionStartTimeMs", &time_form(segment.placed, dice.below(TIME_FORMS)));
    out.raw("callResult", dice.pick(&["\"cut \\ud83d\"", "\"a\\u0000b\"", "1e999", "null"]));
    out.raw("nested", &format!("{}{}", "[".repeat(300), "]".repeat(300)));
}

fn write_dialog(out: &mut Object, segment: &Segment, dice: &mut Dice, begin: Time, duration: i64) {
    let phone = |dice: &mut Dice| format!("+1650{:07}", dice.below(10_000_000));
    let begin_dialog = begin.plus_millis(-(dice.below(60_000) as i64));
    out.text("interactionId", &format!("2026{:026}", dice.next()));
    out.text("channelId", &phone(dice));
    let digital = dice.pick(&["ENGAGE_MESSAGING", "EMAIL", "MESSENGER", "WHATSAPP"]);
    out.text("channelType", if segment.class == Class::Voice { "VOICE" } else { digital });
    out.text("channelClass", class_name(segment.class));
    out.text("channelEndpointAddress", &phone(dice));
    out.text("contactEndpointAddress", &phone(dice));
    out.text("dialogOrigination", dice.pick(&["INBOUND", "OUTBOUND"]));
    out.text("dialogStartTimeMs", &begin_dialog.rfc3339());
    out.text("dialogEndTimeMs", &segment.placed.rfc3339());
    out.raw("dialogDurationMs", &(duration + begin.0 - begin_dialog.0).to_string());
}

fn write_notes(out: &mut Object, dice: &mut Dice, version: Version, odd: bool, planted: bool) {
    match dice.below(3) {
        0 if odd => {}
        1 => out.raw("systemDisposition", "null"),
        _ => out.text("systemDisposition", "ANSWER"),
    }
    out.text("agentDisposition", if version.edited { "Résolu, reopened" } else { "Success" });
    let mut notes = String::from(if version.edited { "edited later: " } else { "" });
    notes.push_str(dice.pick(&SUMMARY_LINES));
    if planted {
        notes.push(' ');
        notes.push_str(PLANTED);
    }
    if odd && dice.hit(0.3) {
        out.raw("agentNotes", "null");
    } else {
        out.text("agentNotes", &notes);
    }
}

fn write_flags(
    out: &mut Object,
    segment: &Segment,
    dice: &mut Dice,
    (version, begin): (Version, Time),
    traffic: &Traffic,
) {
    let recorded = segment.class == Class::Voice;
    out.raw("hasRecording", if recorded { "true" } else { "false" });
    let no = dice.below(4);
    let mut form = Dice::new(segment.seed, &[20]);
    match (form.hit(traffic.odd_bodies), version.transcribed, no) {
        (true, true, _) => {
            out.raw("hasTranscript", form.pick(&["\"true\"", "1", "\"Y\"", "\"available\"", "[true]", "2"]))
        }
        (true, false, _) => out.raw("hasTranscript", form.pick(&["\"false\"", "0", "\"N\"", "\"\"", "[]", "{}"])),
        (false, true, _) => out.raw("hasTranscript", "true"),
        (false, false, 0) => out.raw("hasTranscript", "null"),
        (false, false, 1) => {}
        (false, false, _) => out.raw("hasTranscript", "false"),
    }
    if !recorded {
        return out.raw("segmentEvents", "null");
    }
    let (from, to) = (begin.rfc3339(), segment.placed.rfc3339());
    let event = |at: &str, kind: &str| {
        format!("{{\"eventTimeMs\":\"{at}\",\"clientEventTimeMs\":\"{at}\",\"eventType\":\"{kind}\"}}")
    };
    out.raw("segmentEvents", &format!("[{},{}]", event(&from, "REC_START"), event(&to, "REC_STOP")));
}

/// A record that cannot be understood: of a wrong type, without an id, or no object.
pub(super) fn mangled(segment: &Segment, dice: &mut Dice) -> String {
    let mut id = String::new();
    write_json(&mut id, &segment.segment_id, false);
    match dice.below(6) {
        0 => "{\"segmentId\":null,\"dialogId\":\"d-1\",\"hasTranscript\":true}".into(),
        1 => format!("{{\"segmentId\":{{\"id\":{id}}},\"dialogId\":\"d-1\"}}"),
        2 => format!("[{id}]"),
        3 => format!("{{\"segmentId\":{id},\"dialogId\":{{}},\"hasTranscript\":true}}"),
        4 => format!("{{\"segmentId\":{id},\"dialogId\":null,\"hasTranscript\":true}}"),
        _ => id,
    }
}

/// An element that is no record.
pub(super) fn junk(dice: &mut Dice) -> &'static str {
    dice.pick(&["42", "\"maintenance\"", "null", "[]", "{}", "true", "{\"segmentId\":\"\"}"])
}

/// A text as one JSON string.
pub(super) fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    write_json(&mut out, text, text.len().is_multiple_of(3));
    out
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Voice => "VOICE",
        Class::Digital => "DIGITAL",
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Agent => "AGENT",
        Kind::Queue => "QUEUE",
        Kind::Ivr => "IVR",
    }
}

/// A JSON object in the making.
struct Object(String);

impl Object {
    fn new() -> Object {
        let mut out = String::with_capacity(1_500);
        out.push('{');
        Object(out)
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

/// Appends a text as a JSON string; `ascii` escapes whatever is not ASCII.
fn write_json(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            letter if (letter as u32) < 0x20 || (ascii && !letter.is_ascii()) => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    write_str(out, format_args!("\\u{unit:04x}"));
                }
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_json_reads_back_as_it_was() {
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
