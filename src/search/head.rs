//! The beginning of a body that is too large to be searched as a whole: so much of it is indexed, and so much is read again for
//! the passage that is shown. It bounds the memory that one document takes.
//!
//! Pure.

/// Bytes of a body that are searched. An hour of talk takes a few hundred thousand.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// The body, cut to [`MAX_BODY_BYTES`]: what is JSON stays JSON.
pub fn head(body: Vec<u8>) -> Vec<u8> {
    if body.len() <= MAX_BODY_BYTES { body } else { cut(&body, MAX_BODY_BYTES) }
}

/// The first bytes of a JSON text, at most so many, with what is open there closed; of another text, the bytes.
fn cut(body: &[u8], most: usize) -> Vec<u8> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = text.get(..most).unwrap_or(text);
    if !matches!(text.trim_ascii_start().first(), Some(b'{' | b'[' | b'"')) {
        return whole_letters(text).to_vec();
    }
    let mut scan = Scan { text, at: 0, open: Vec::new(), key: false, whole: (0, 0) };
    let unfinished = scan.run();
    let (end, open) = unfinished.map_or(scan.whole, |end| (end, scan.open.len()));
    let mut cut = whole_letters(text.get(..end).unwrap_or(text)).to_vec();
    cut.extend(unfinished.map(|_| b'"'));
    cut.extend(scan.open.iter().take(open).rev());
    cut
}

/// Without the bytes of a character that was cut in two.
fn whole_letters(text: &[u8]) -> &[u8] {
    let begun = text.iter().rev().take(3).position(|byte| *byte >= 0xc0);
    let Some(begun) = begun.map(|back| text.len() - 1 - back) else { return text };
    let (before, last) = text.split_at(begun);
    if std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none()) { before } else { text }
}

/// Goes through a JSON text without understanding more of it than what is open where.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
    /// What closes the arrays and objects that are open.
    open: Vec<u8>,
    /// Whether the next string is a key.
    key: bool,
    /// Where the last whole value ended, and how much was open there.
    whole: (usize, usize),
}

impl Scan<'_> {
    /// To the end of the text. Where that is within a string that is a value, returns where that can be cut.
    fn run(&mut self) -> Option<usize> {
        while let Some(byte) = self.text.get(self.at) {
            self.at += 1;
            match byte {
                b'"' => {
                    let end = self.string();
                    match end {
                        Some(_) if !self.key => return end,
                        Some(_) => return None,
                        None if !self.key => self.whole = (self.at, self.open.len()),
                        None => {}
                    }
                }
                b'{' | b'[' => {
                    self.open.push(if *byte == b'{' { b'}' } else { b']' });
                    self.key = *byte == b'{';
                    self.whole = (self.at, self.open.len());
                }
                b'}' | b']' => {
                    self.open.pop();
                    self.whole = (self.at, self.open.len());
                }
                b':' => self.key = false,
                b',' => self.key = self.open.last() == Some(&b'}'),
                _ => {}
            }
        }
        None
    }

    /// To the end of a string; where the text ends within it, returns the last place that is not within an escape.
    fn string(&mut self) -> Option<usize> {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return None;
                }
                b'\\' => {
                    let rest = self.text.get(self.at..).unwrap_or_default();
                    let length = escape(rest);
                    if length > rest.len() {
                        return Some(self.at);
                    }
                    self.at += length;
                }
                _ => self.at += 1,
            }
        }
        Some(self.at)
    }
}

/// Bytes of the escape that begins here, both halves of a pair together.
fn escape(rest: &[u8]) -> usize {
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

    fn cut_to(text: &str, most: usize) -> String {
        String::from_utf8(cut(text.as_bytes(), most)).unwrap()
    }

    #[test]
    fn what_is_open_is_closed() {
        let body = r#"{"transcript":[{"message":"one two"},{"message":"three"}]}"#;
        assert_eq!(cut_to(body, 31), r#"{"transcript":[{"message":"one "}]}"#);
        assert_eq!(cut_to(body, 36), r#"{"transcript":[{"message":"one two"}]}"#);
        assert_eq!(cut_to(body, 42), r#"{"transcript":[{"message":"one two"},{}]}"#);
        assert_eq!(cut_to(r#""a\n\ud83d\ude00b""#, 10), r#""a\n""#);
        assert_eq!(cut_to("plain t\u{e9}xt", 8), "plain t");
        assert_eq!((cut(b"\"\xff\xfe\xff", 3), head(b"{".to_vec())), (b"\"\xff\xfe\"".to_vec(), b"{".to_vec()));
    }

    fn anything() -> impl Strategy<Value = Value> {
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
        fn json_that_was_cut_is_json(value in anything(), part in 0.0..1.0) {
            let text = value.to_string();
            let most = (text.len() as f64 * part) as usize;
            let head = cut_to(&text, most);
            let open = text.starts_with(['{', '[', '"']) && most > 0;
            prop_assert!(!open || serde_json::from_str::<Value>(&head).is_ok(), "{} of {}", head, text);
            prop_assert!(head.len() <= most + 50);
        }
    }
}
