//! Edits strings in JSON in place; everything else stays byte for byte the same.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use crate::lenient_json;
use crate::model::is_contact_field;

/// The role of a string in JSON, by the name of its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StringRole {
    /// An id, a time, or a kind: never changed.
    Fixed,
    /// Where a customer can be reached: a telephone number in any form, or an address.
    Endpoint,
    /// The id of a participant who is not the agent: a number, an address, or another id.
    Participant,
    /// Anything that a person may have said or written; also every unknown field.
    Text,
}

/// Endpoint fields in addition to those of [`is_contact_field`]. RingCX uses the caller's number as
/// the channel's id of a call, and as the name of an unknown participant.
const ENDPOINT_FIELDS: [&str; 2] = ["channelId", "participantName"];
/// Fields with values that the API defines.
const FIXED_FIELDS: [&str; 5] = ["timestamp", "channelClass", "dialogOrigination", "systemDisposition", "errorCode"];
/// Suffixes of fields with ids, times and kinds.
const FIXED_FIELD_SUFFIXES: [&str; 6] = ["Id", "Ids", "Ms", "Time", "Type", "Class"];

fn field_role(name: &str) -> StringRole {
    if ENDPOINT_FIELDS.contains(&name) {
        StringRole::Endpoint
    } else if name == "participantId" {
        StringRole::Participant
    } else if FIXED_FIELDS.contains(&name) || FIXED_FIELD_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
        StringRole::Fixed
    } else if is_contact_field(name) {
        StringRole::Endpoint
    } else {
        StringRole::Text
    }
}

/// The role of a field, by its name token with quotes. A field with an unknown name has the role of
/// its object, as in `"contact":{"value":"…"}`.
pub(super) fn role_of_token(token: &str, parent_role: StringRole) -> StringRole {
    match (field_role(&decode_string(token).unwrap_or_default()), parent_role) {
        (StringRole::Text, StringRole::Endpoint | StringRole::Participant) => parent_role,
        (role, _) => role,
    }
}

/// Whether the text is one JSON string.
pub(super) fn is_string(text: &str) -> bool {
    let (_, without_bom) = split_bom(text);
    without_bom.trim_start().starts_with('"')
        && (is_json(without_bom) || lenient_json::to_strict(without_bom).is_some())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Replaces each string for which `edit` returns another. Returns a borrowed text where nothing
/// changes, and `None` where the text is not JSON.
pub(super) fn edit(text: &str, edit: impl Fn(StringRole, &str) -> Option<String>) -> Option<Cow<'_, str>> {
    let (bom, json) = split_bom(text);
    if !is_json(json) {
        // No parser would accept it as received. Redacting it as a text would also remove ids and
        // times.
        let repaired = lenient_json::to_strict(json)?;
        return match self::edit(&repaired, edit)? {
            Cow::Borrowed(_) => Some(Cow::Borrowed(text)),
            Cow::Owned(edited) => Some(Cow::Owned(edited)),
        };
    }
    let mut edited = String::new();
    let mut copied = 0;
    for (token, role) in string_values(json) {
        let raw = &json[token.clone()];
        let text = if raw.starts_with('"') { decode_string(raw) } else { Some(Cow::Borrowed(raw)) };
        let Some(replacement) = text.and_then(|text| edit(role, &text)) else { continue };
        edited.push_str(&json[copied..token.start]);
        edited.push_str(&serde_json::to_string(&replacement).ok()?);
        copied = token.end;
    }
    if copied == 0 {
        return Some(Cow::Borrowed(text));
    }
    Some(Cow::Owned(format!("{bom}{edited}{}", &json[copied..])))
}

/// Splits off a byte order mark.
fn split_bom(text: &str) -> (&str, &str) {
    text.split_at(if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 })
}

/// An object or array that the scan is in.
struct JsonLevel {
    is_object: bool,
    /// The role that it has by its own field.
    parent_role: StringRole,
    /// The role of the current field, or of the array's items.
    role: StringRole,
    /// Whether the current field is `participantType`.
    is_type_field: bool,
    is_agent: bool,
    /// Index of its first string among those found.
    first_string: usize,
}

/// The string values of a valid JSON text, with their roles; and numbers that are endpoints.
fn string_values(json: &str) -> Vec<(std::ops::Range<usize>, StringRole)> {
    let mut levels: Vec<JsonLevel> = Vec::new();
    let mut found: Vec<(std::ops::Range<usize>, StringRole)> = Vec::new();
    let (mut at, mut expects_name) = (0, false);
    let bytes = json.as_bytes();
    while let Some(byte) = bytes.get(at) {
        let role_here = levels.last().map_or(StringRole::Text, |level| level.role);
        let mut next = at + 1;
        match byte {
            b'{' | b'[' => {
                expects_name = *byte == b'{';
                let first_string = found.len();
                levels.push(JsonLevel {
                    is_object: expects_name,
                    parent_role: role_here,
                    role: role_here,
                    is_type_field: false,
                    is_agent: false,
                    first_string,
                });
            }
            b'}' | b']' => {
                if let Some(level) = levels.pop().filter(|level| level.is_agent) {
                    let ids =
                        found[level.first_string..].iter_mut().filter(|(_, role)| *role == StringRole::Participant);
                    ids.for_each(|(_, role)| *role = StringRole::Fixed);
                }
            }
            b',' => expects_name = levels.last().is_some_and(|level| level.is_object),
            b'"' => {
                next = string_end(bytes, at);
                let token = &json[at..next];
                match levels.last_mut() {
                    Some(level) if expects_name => {
                        level.role = role_of_token(token, level.parent_role);
                        level.is_type_field = token == "\"participantType\"";
                        expects_name = false;
                    }
                    level => {
                        if let Some(level) = level.filter(|level| level.is_type_field) {
                            level.is_agent |= token.trim_matches('"').trim().eq_ignore_ascii_case("agent");
                        }
                        found.push((at..next, role_here));
                    }
                }
            }
            b'-' | b'0'..=b'9' => {
                next = at + json[at..].find([',', '}', ']', ' ', '\n', '\r', '\t']).unwrap_or(json.len() - at);
                if matches!(role_here, StringRole::Endpoint | StringRole::Participant) {
                    found.push((at..next, role_here));
                }
            }
            _ => {}
        }
        at = next;
    }
    found
}

/// The end of the string that begins at `start`.
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

/// Decodes a JSON string. A lone surrogate becomes the replacement character.
fn decode_string(token: &str) -> Option<Cow<'_, str>> {
    if !token.contains('\\') {
        return token.get(1..token.len().checked_sub(1)?).map(Cow::Borrowed);
    }
    lenient_json::from_str(token).map(Cow::Owned)
}
