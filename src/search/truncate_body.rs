//! Truncates a body that is too large to be searched as a whole. The index and the displayed
//! passage use the same beginning. This bounds the memory for one document. Pure.

/// Bytes of a body that are searched. The transcript of an hour takes a few hundred thousand.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// Truncates a body to `MAX_BODY_BYTES`. JSON stays valid JSON.
pub fn truncate_body(body: Vec<u8>) -> Vec<u8> {
    if body.len() <= MAX_BODY_BYTES { body } else { truncate(&body, MAX_BODY_BYTES) }
}

/// The first `max_bytes` bytes of a text. In a JSON text, open strings and brackets are closed
/// after them.
fn truncate(body: &[u8], max_bytes: usize) -> Vec<u8> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = text.get(..max_bytes).unwrap_or(text);
    if !matches!(text.trim_ascii_start().first(), Some(b'{' | b'[' | b'"')) {
        return trim_partial_character(text).to_vec();
    }
    let mut scanner =
        JsonScanner { text, position: 0, open_brackets: Vec::new(), is_key: false, last_complete: (0, 0) };
    let string_end = scanner.scan();
    let (end, depth) = string_end.map_or(scanner.last_complete, |end| (end, scanner.open_brackets.len()));
    let mut truncated = trim_partial_character(text.get(..end).unwrap_or(text)).to_vec();
    truncated.extend(string_end.map(|_| b'"'));
    truncated.extend(scanner.open_brackets.iter().take(depth).rev());
    truncated
}

/// Removes the bytes of an incomplete character at the end.
fn trim_partial_character(text: &[u8]) -> &[u8] {
    let start = text.iter().rev().take(3).position(|byte| *byte >= 0xc0);
    let Some(start) = start.map(|back| text.len() - 1 - back) else { return text };
    let (before, last) = text.split_at(start);
    if std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none()) { before } else { text }
}

/// Scans a JSON text for its strings and brackets only.
struct JsonScanner<'a> {
    text: &'a [u8],
    position: usize,
    /// The closing brackets of the open arrays and objects.
    open_brackets: Vec<u8>,
    /// Whether the next string is an object's key.
    is_key: bool,
    /// Where the last complete value ended, and the number of brackets that were open there.
    last_complete: (usize, usize),
}

impl JsonScanner<'_> {
    /// Scans to the end of the text. Where that is within a string value, returns the position at
    /// which to cut it.
    fn scan(&mut self) -> Option<usize> {
        while let Some(byte) = self.text.get(self.position) {
            self.position += 1;
            match byte {
                b'"' => {
                    let end = self.scan_string();
                    match end {
                        Some(_) if !self.is_key => return end,
                        Some(_) => return None,
                        None if !self.is_key => self.last_complete = (self.position, self.open_brackets.len()),
                        None => {}
                    }
                }
                b'{' | b'[' => {
                    self.open_brackets.push(if *byte == b'{' { b'}' } else { b']' });
                    self.is_key = *byte == b'{';
                    self.last_complete = (self.position, self.open_brackets.len());
                }
                b'}' | b']' => {
                    self.open_brackets.pop();
                    self.last_complete = (self.position, self.open_brackets.len());
                }
                b':' => self.is_key = false,
                b',' => self.is_key = self.open_brackets.last() == Some(&b'}'),
                _ => {}
            }
        }
        None
    }

    /// Scans to the end of a string. Where the text ends within it, returns the last position that
    /// is not within an escape.
    fn scan_string(&mut self) -> Option<usize> {
        while let Some(byte) = self.text.get(self.position) {
            match byte {
                b'"' => {
                    self.position += 1;
                    return None;
                }
                b'\\' => {
                    let rest = self.text.get(self.position..).unwrap_or_default();
                    let length = escape_length(rest);
                    if length > rest.len() {
                        return Some(self.position);
                    }
                    self.position += length;
                }
                _ => self.position += 1,
            }
        }
        Some(self.position)
    }
}

/// Bytes of the escape sequence that begins here; a surrogate pair counts as one.
fn escape_length(rest: &[u8]) -> usize {
    let is_high = matches!(rest.get(2..4), Some([b'd' | b'D', b'8' | b'9' | b'a' | b'b' | b'A' | b'B']));
    match (rest.get(1), rest.get(6..8)) {
        (Some(b'u'), Some(b"\\u") | None) if is_high => 12,
        (Some(b'u'), _) => 6,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn truncate_to(text: &str, max_bytes: usize) -> String {
        String::from_utf8(truncate(text.as_bytes(), max_bytes)).unwrap()
    }

    #[test]
    fn open_brackets_and_strings_are_closed() {
        let body = r#"{"transcript":[{"message":"one two"},{"message":"three"}]}"#;
        assert_eq!(truncate_to(body, 31), r#"{"transcript":[{"message":"one "}]}"#);
        assert_eq!(truncate_to(body, 36), r#"{"transcript":[{"message":"one two"}]}"#);
        assert_eq!(truncate_to(body, 42), r#"{"transcript":[{"message":"one two"},{}]}"#);
        assert_eq!(truncate_to(r#""a\n\ud83d\ude00b""#, 10), r#""a\n""#);
        assert_eq!(truncate_to("plain t\u{e9}xt", 8), "plain t");
        assert_eq!(
            (truncate(b"\"\xff\xfe\xff", 3), truncate_body(b"{".to_vec())),
            (b"\"\xff\xfe\"".to_vec(), b"{".to_vec())
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let one = prop_oneof![
            Just(Value::Null),
            any::<f64>().prop_map(Value::from),
            "(\\PC|[\"\\\\\n]){0,9}".prop_map(Value::from)
        ];
        one.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[a\"é]{0,3}", inner, 0..6).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn truncated_json_is_valid_json(value in any_json(), part in 0.0..1.0) {
            let text = value.to_string();
            let max_bytes = (text.len() as f64 * part) as usize;
            let truncated = truncate_to(&text, max_bytes);
            let is_json = text.starts_with(['{', '[', '"']) && max_bytes > 0;
            prop_assert!(!is_json || serde_json::from_str::<Value>(&truncated).is_ok(), "{} of {}", truncated, text);
            prop_assert!(truncated.len() <= max_bytes + 50);
        }
    }
}
