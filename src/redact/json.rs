//! JSON whose strings are edited where they stand; everything between them stays byte for byte.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, Visitor};

use crate::lenient_json;
use crate::model::names_contact;

/// What a string in JSON is, by the name under which it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// An id, a time, a kind: never touched.
    Fixed,
    /// Where a customer can be reached: a telephone number whatever its form, or an address.
    Endpoint,
    /// The id of someone who takes part and is not the agent: a number or an address, or else an id.
    Participant,
    /// Anything that a person may have said or written; so is every name that is not known here.
    Text,
}

/// Where the customer is, beside what [`names_contact`] knows: RingCX gives the caller's number as the channel's id of a
/// call, and as the name of someone whom nobody knows.
const ENDPOINTS: [&str; 2] = ["channelId", "participantName"];
/// Words that the API chooses from.
const FIXED: [&str; 5] = ["timestamp", "channelClass", "dialogOrigination", "systemDisposition", "errorCode"];
/// How the names of ids, times and kinds end.
const ENDINGS: [&str; 6] = ["Id", "Ids", "Ms", "Time", "Type", "Class"];

fn role(name: &str) -> Role {
    if ENDPOINTS.contains(&name) {
        Role::Endpoint
    } else if name == "participantId" {
        Role::Participant
    } else if FIXED.contains(&name) || ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        Role::Fixed
    } else if names_contact(name) {
        Role::Endpoint
    } else {
        Role::Text
    }
}

/// By the name as it stands there, quotes and all, in an object of this role: under a name that is not known stands what the
/// object is, as in `"contact":{"value":"…"}`.
pub(super) fn role_of_token(token: &str, above: Role) -> Role {
    match (role(&unquoted(token).unwrap_or_default()), above) {
        (Role::Text, Role::Endpoint | Role::Participant) => above,
        (role, _) => role,
    }
}

/// Whether the text is one JSON string.
pub(super) fn is_string(text: &str) -> bool {
    let (_, bare) = after_mark(text);
    bare.trim_start().starts_with('"') && (is_json(bare) || lenient_json::strict(bare).is_some())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// The JSON with each string for which `edit` gives another replaced by that; borrowed where that is none. `None` if the
/// text is no JSON.
pub(super) fn edit(text: &str, edit: impl Fn(Role, &str) -> Option<String>) -> Option<Cow<'_, str>> {
    let (mark, json) = after_mark(text);
    if !is_json(json) {
        // No reader would take it as it came; as a text it would lose ids and times along with what is to be taken out.
        let repaired = lenient_json::strict(json)?;
        return match self::edit(&repaired, edit)? {
            Cow::Borrowed(_) => Some(Cow::Borrowed(text)),
            Cow::Owned(edited) => Some(Cow::Owned(edited)),
        };
    }
    let mut edited = String::new();
    let mut kept = 0;
    for (token, role) in strings(json) {
        let raw = &json[token.clone()];
        let text = if raw.starts_with('"') { unquoted(raw) } else { Some(Cow::Borrowed(raw)) };
        let Some(new) = text.and_then(|text| edit(role, &text)) else { continue };
        edited.push_str(&json[kept..token.start]);
        edited.push_str(&serde_json::to_string(&new).ok()?);
        kept = token.end;
    }
    if kept == 0 {
        return Some(Cow::Borrowed(text));
    }
    Some(Cow::Owned(format!("{mark}{edited}{}", &json[kept..])))
}

/// A byte order mark, and what follows it.
fn after_mark(text: &str) -> (&str, &str) {
    text.split_at(if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 })
}

/// An object or an array that the scan is in.
struct Level {
    is_object: bool,
    /// Under which it stands.
    above: Role,
    /// Of the object's last name, or of the array.
    role: Role,
    /// Whether the last name is `participantType`.
    names_type: bool,
    is_agent: bool,
    /// How much had been found before it.
    first: usize,
}

/// The strings that are values, each with what it is, in JSON that has been checked; of numbers those that say where a
/// customer can be reached.
fn strings(json: &str) -> Vec<(std::ops::Range<usize>, Role)> {
    let mut nest: Vec<Level> = Vec::new();
    let mut found: Vec<(std::ops::Range<usize>, Role)> = Vec::new();
    let (mut at, mut is_name) = (0, false);
    let bytes = json.as_bytes();
    while let Some(byte) = bytes.get(at) {
        let here = nest.last().map_or(Role::Text, |level| level.role);
        let mut next = at + 1;
        match byte {
            b'{' | b'[' => {
                is_name = *byte == b'{';
                let first = found.len();
                nest.push(Level {
                    is_object: is_name,
                    above: here,
                    role: here,
                    names_type: false,
                    is_agent: false,
                    first,
                });
            }
            b'}' | b']' => {
                if let Some(level) = nest.pop().filter(|level| level.is_agent) {
                    let ids = found[level.first..].iter_mut().filter(|(_, role)| *role == Role::Participant);
                    ids.for_each(|(_, role)| *role = Role::Fixed);
                }
            }
            b',' => is_name = nest.last().is_some_and(|level| level.is_object),
            b'"' => {
                next = string_end(bytes, at);
                let token = &json[at..next];
                match nest.last_mut() {
                    Some(level) if is_name => {
                        level.role = role_of_token(token, level.above);
                        level.names_type = token == "\"participantType\"";
                        is_name = false;
                    }
                    level => {
                        if let Some(level) = level.filter(|level| level.names_type) {
                            level.is_agent |= token.trim_matches('"').trim().eq_ignore_ascii_case("agent");
                        }
                        found.push((at..next, here));
                    }
                }
            }
            b'-' | b'0'..=b'9' => {
                next = at + json[at..].find([',', '}', ']', ' ', '\n', '\r', '\t']).unwrap_or(json.len() - at);
                if matches!(here, Role::Endpoint | Role::Participant) {
                    found.push((at..next, here));
                }
            }
            _ => {}
        }
        at = next;
    }
    found
}

/// Where the string that begins at `start` is over.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// What a JSON string says; half a surrogate pair, which no text can hold, becomes the replacement character.
fn unquoted(token: &str) -> Option<Cow<'_, str>> {
    if !token.contains('\\') {
        return token.get(1..token.len().checked_sub(1)?).map(Cow::Borrowed);
    }
    let bytes = serde_json::Deserializer::from_str(token).deserialize_byte_buf(Bytes).ok()?;
    Some(Cow::Owned(
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
    ))
}

struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}
