//! Parses JSON that a strict parser rejects, and loses only the faulty value.
//!
//! Pure. Stored bytes are never changed; code that reads them back uses this module. A text that
//! the strict parser accepts is parsed by it alone, at full speed. Any other text is repaired
//! first: an unpaired surrogate becomes U+FFFD, a raw control character becomes its escape, a
//! number out of range becomes a string. Arrays that are nested too deeply are flattened into one
//! array, and objects that are nested too deeply become `SKIPPED_OBJECT`.
//!
//! Why no crate: `jiter` rejects unpaired surrogates and deep nesting. `sonic-rs` (`utf8_lossy`)
//! accepts surrogates but not raw control characters, and would be a second JSON library beside
//! `serde_json`, which accepts neither.

use std::borrow::Cow;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

/// Values that are nested deeper are flattened or skipped; `serde_json` rejects the whole text from
/// depth 128 on.
const MAX_DEPTH: usize = 100;
/// Replaces an object that was not read. Its name is U+FFFD, which marks damage: a search for a
/// person then knows that something is missing.
const SKIPPED_OBJECT: &str = "{\"\u{fffd}\":null}";

/// Parses JSON leniently; returns `None` if the bytes are not JSON even after repair.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    from_str(&decode_lossy(bytes))
}

/// Parses a text like [`from_slice`].
pub fn from_str<T: DeserializeOwned>(text: &str) -> Option<T> {
    let text = strip_byte_order_mark(text);
    serde_json::from_str(text).ok().or_else(|| serde_json::from_str(&repair(text)).ok())
}

/// Parses any JSON value; returns `None` if the text is not JSON.
pub fn parse_value(text: &str) -> Option<Value> {
    from_str(text)
}

/// The text in a form that a strict parser accepts: unchanged if possible, else repaired. Returns
/// `None` if it is not JSON even after repair. A byte order mark is removed.
pub fn to_strict(text: &str) -> Option<Cow<'_, str>> {
    let text = strip_byte_order_mark(text);
    if is_strict(text) {
        return Some(Cow::Borrowed(text));
    }
    let repaired = repair(text);
    is_strict(&repaired).then_some(Cow::Owned(repaired))
}

/// Whether the text is the start of a JSON value whose end is missing.
pub fn is_truncated(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(&repair(strip_byte_order_mark(text))).is_err_and(|error| error.is_eof())
}

/// Decodes UTF-8; invalid bytes become U+FFFD.
pub fn decode_lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn strip_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Parses to `Value`, not to `IgnoredAny`: the latter accepts surrogates, numbers and depths that
/// `Value` rejects.
fn is_strict(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok()
}

/// Repairs tokens in one pass. The parser still checks the structure, so a text that is not JSON
/// stays invalid.
fn repair(text: &str) -> String {
    let mut repair = JsonRepairer { rest: text, out: String::with_capacity(text.len() + 16) };
    let mut depth = 0_usize;
    while let Some(first) = repair.rest.chars().next() {
        match first {
            '"' => repair.repair_string(),
            '{' | '[' if depth == MAX_DEPTH => repair.skip_container(),
            '{' | '[' => {
                depth += 1;
                repair.copy(1);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                repair.copy(1);
            }
            '0'..='9' | '-' | '+' | '.' | 'N' | 'I' => repair.repair_number(),
            _ if first.is_control() && !matches!(first, '\n' | '\r' | '\t') => repair.replace(first.len_utf8(), " "),
            _ => repair.copy(first.len_utf8()),
        }
    }
    repair.out
}

struct JsonRepairer<'a> {
    rest: &'a str,
    out: String,
}

impl JsonRepairer<'_> {
    fn copy(&mut self, length: usize) {
        let (copied, rest) = self.rest.split_at(length);
        self.out.push_str(copied);
        self.rest = rest;
    }

    fn replace(&mut self, length: usize, by: &str) {
        self.rest = &self.rest[length..];
        self.out.push_str(by);
    }

    /// Repairs a string, from its opening quote to its closing quote or the end of the text.
    fn repair_string(&mut self) {
        self.copy(1);
        loop {
            let plain = self.rest.find(|letter| letter == '"' || letter == '\\' || letter < ' ');
            self.copy(plain.unwrap_or(self.rest.len()));
            match self.rest.bytes().next() {
                Some(b'"') => return self.copy(1),
                Some(b'\\') => self.repair_escape(),
                Some(control) => self.replace(1, &format!("\\u{control:04x}")),
                None => return,
            }
        }
    }

    fn repair_escape(&mut self) {
        match self.rest.as_bytes().get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.copy(2),
            Some(b'u') => match (code_unit(self.rest), self.rest.get(6..).and_then(code_unit)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => self.copy(12),
                (Some(0xd800..=0xdfff), _) => self.replace(6, "\\ufffd"),
                (Some(_), _) => self.copy(6),
                (None, _) => self.replace(1, "\\\\"),
            },
            _ => self.replace(1, "\\\\"),
        }
    }

    /// Repairs a number, or a token in its place.
    fn repair_number(&mut self) {
        let of_token = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.' | '_');
        let length = self.rest.find(|letter| !of_token(letter)).unwrap_or(self.rest.len());
        let token = &self.rest[..length];
        match token {
            "NaN" | "Infinity" | "-Infinity" | "+Infinity" => self.replace(length, "null"),
            _ if token.starts_with(['N', 'I']) || serde_json::from_str::<f64>(token).is_ok() => self.copy(length),
            _ => {
                let quoted = format!("\"{token}\"");
                self.replace(length, &quoted);
            }
        }
    }

    /// Replaces an object or array with all its content, up to the end of the text if it is not
    /// closed. Nested arrays keep their strings and numbers, because the field name that they
    /// belong to is known.
    fn skip_container(&mut self) {
        let (mut depth, mut in_string, mut is_escaped, mut has_names) = (0_usize, false, false, false);
        let end = self.rest.bytes().position(|byte| {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' if in_string => is_escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => (depth, has_names) = (depth + 1, has_names || byte == b'{'),
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let length = end.map_or(self.rest.len(), |end| end + 1);
        let kept = if has_names { SKIPPED_OBJECT.to_owned() } else { flatten_arrays(&self.rest[..length]) };
        self.replace(length, &kept);
    }
}

/// Flattens the strings and numbers of nested arrays into one array.
fn flatten_arrays(arrays: &str) -> String {
    let mut flat = JsonRepairer { rest: arrays, out: "[".to_owned() };
    while let Some(first) = flat.rest.chars().next() {
        if matches!(first, '"' | '0'..='9' | '-') && flat.out.len() > 1 {
            flat.out.push(',');
        }
        match first {
            '"' => flat.repair_string(),
            '0'..='9' | '-' => flat.repair_number(),
            _ => flat.replace(first.len_utf8(), ""),
        }
    }
    flat.out + "]"
}

/// The code unit of an escape such as `\ud83d` at the start of the text.
fn code_unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_strict_parser_reads_is_read_by_it() {
        for text in [r#"{"a":[1,2.5,-3e2,"\ud83d\ude00",null,true]}"#, "[]", "7", "\"x\"", "\u{feff}{}"] {
            assert!(matches!(to_strict(text), Some(Cow::Borrowed(_))), "{text}");
        }
    }

    #[test]
    fn what_is_at_fault_costs_itself_and_nothing_beside_it() {
        for (text, read) in [
            (r#"{"a":"cut \ud83d","b":1}"#, json!({"a": "cut \u{fffd}", "b": 1})),
            (r#"["\ude00","\ud83d\ud83d\ude00","\ud83dx"]"#, json!(["\u{fffd}", "\u{fffd}😀", "\u{fffd}x"])),
            (r#"{"\ud83d":1}"#, json!({"\u{fffd}": 1})),
            ("[\"a\0b\u{1}\nc\",1]", json!(["a\0b\u{1}\nc", 1])),
            (r#"["a\x41","\u12","\u12g4"]"#, json!(["a\\x41", "\\u12", "\\u12g4"])),
            (
                r#"[1e999,-1e999,NaN,Infinity,-Infinity,01,+1,.5,1.,2]"#,
                json!(["1e999", "-1e999", null, null, null, "01", "+1", ".5", "1.", 2]),
            ),
            ("[\u{b}1,\0 2]", json!([1, 2])),
            (r#"{"a":1e999,"a":2}"#, json!({"a": 2})),
        ] {
            assert_eq!(parse_value(text), Some(read), "{text}");
            assert!(matches!(to_strict(text), Some(Cow::Owned(_))), "{text}");
        }
        let long = "7".repeat(400);
        assert_eq!(parse_value(&format!("[{long},1]")), Some(json!([long, 1])));
        for nest in [("[", "]"), ("{\"k\":", "}")] {
            let deep = format!("{}1{}", nest.0.repeat(300), nest.1.repeat(300));
            let read = parse_value(&format!(r#"{{"deep":{deep},"beside":"\"]x"}}"#)).unwrap();
            assert_eq!(read["beside"], "\"]x");
            let (kept, told) = (read["deep"].to_string(), nest.0.starts_with('{'));
            assert_eq!(
                (kept.contains("[1]"), kept.contains(SKIPPED_OBJECT)),
                (!told, told),
                "what was not read is told"
            );
        }
        let deep = format!("{}[[], \"a\\ud83d]\",[true,1e999],-2]{}", "[".repeat(100), "]".repeat(100));
        let flat = format!("{}\"a\u{fffd}]\",\"1e999\",-2{}", "[".repeat(101), "]".repeat(101));
        assert_eq!(parse_value(&deep).unwrap().to_string(), flat);
        assert_eq!(from_slice::<Value>(b"{\"a\":\"caf\xe9\"}"), Some(json!({"a": "caf\u{fffd}"})));
    }

    #[test]
    fn what_is_no_json_stays_none() {
        for text in [
            "",
            "oops",
            "{\"a\":\"b",
            "{\"a\":1} x",
            "<html>",
            "[1,]",
            "{a:1}",
            "Infinite",
            "Nothing",
            "[",
            "\\",
            "\"\\",
        ] {
            assert_eq!(parse_value(text), None, "{text}");
            assert_eq!(to_strict(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_cut_is_told_from_what_is_no_json() {
        for text in ["\"The customer", "\"a\nb", "\"\\", "{\"a\":[1,", "[", "{\"a\"", "\"said \\\"no\\\"", "\u{feff}{"]
        {
            assert!(is_truncated(text), "{text}");
        }
        for text in ["\"Fine,\" said Anna", "[Agent] called", "{name} called", "\"whole\"", "{}", "7", "It was"] {
            assert!(!is_truncated(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_upsets_it_and_what_it_repairs_is_repaired_once(text in r#"([\[\]{},:"\\ue0-9d.NaI\x00-\x20é-]|\\ud83d|"a":){0,40}"#) {
            if let Some(strict) = to_strict(&text) {
                prop_assert!(is_strict(&strict));
                prop_assert_eq!(parse_value(&text), serde_json::from_str(&strict).ok());
            }
        }

        #[test]
        fn a_fault_in_one_string_leaves_the_others(before in ".*", after in ".*", at in "\\\\ud8[0-9a-f]{2}") {
            let text = format!(r#"{{"before":{},"fault":"{at}","after":{}}}"#, json!(before), json!(after));
            let read = parse_value(&text).unwrap();
            prop_assert_eq!(&read["before"], &json!(before));
            prop_assert_eq!(&read["fault"], "\u{fffd}");
            prop_assert_eq!(&read["after"], &json!(after));
        }
    }
}
