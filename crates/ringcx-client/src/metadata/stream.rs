//! Reads a JSON array element by element from a body that is still arriving.
//!
//! It looks only for the array's own commas and brackets. Everything between them is an element,
//! even if it is malformed. It holds one element and one batch at a time. An answer is complete
//! only with the end of the array and of the body.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use super::record::parse_record;
use super::{ParsedRecord, ReadSummary};

/// The largest accepted element.
pub(super) const MAX_ELEMENT_BYTES: usize = 16 * 1024 * 1024;
/// A batch is sent when it has this many records,
const MAX_BATCH_RECORDS: usize = 500;
/// or this many bytes.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// Why an answer could not be read to its end.
pub(super) enum StreamError {
    /// The receiver was dropped.
    ReceiverDropped,
    /// An element is larger than [`MAX_ELEMENT_BYTES`].
    RecordTooLarge,
    /// Not the documented form.
    Undecodable(&'static str),
    /// The body ended within the array.
    Truncated,
    /// An error of the body.
    Body(io::Error),
}

const NULL: &[u8] = b"null";
const NOT_JSON: StreamError = StreamError::Undecodable("it is not JSON");

/// Reads one array to its end. A `null` in its place is an empty array.
pub(super) fn read(body: impl Read, sender: &mpsc::Sender<Vec<ParsedRecord>>) -> Result<ReadSummary, StreamError> {
    let mut body = BufReader::with_capacity(64 * 1024, body);
    let batcher = RecordBatcher { sender, summary: ReadSummary::default(), batch: Vec::new(), batch_bytes: 0 };
    let mut scanner = ArrayScanner { state: ScanState::Before, element: Vec::new(), blank_bytes: 0, batcher };
    loop {
        let chunk = match body.fill_buf() {
            Ok([]) => return scanner.finish(),
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(StreamError::Body(error)),
        };
        scanner.scan(chunk)?;
        let length = chunk.len();
        scanner.batcher.summary.bytes += length as u64;
        body.consume(length);
    }
}

/// The position of the next byte in the answer.
#[derive(Clone, Copy)]
enum ScanState {
    Before,
    /// In a `null`, after this many bytes of it.
    Null(usize),
    /// Before the first element or the array's end.
    First,
    /// Before an element, after a comma.
    Next,
    /// In an element: the number of open brackets, whether in a string, whether after a backslash.
    Element {
        depth: usize,
        in_string: bool,
        is_escaped: bool,
    },
    /// After an element's last byte.
    AfterElement,
    After,
}

struct ArrayScanner<'a> {
    state: ScanState,
    element: Vec<u8>,
    /// White space since the last element.
    blank_bytes: usize,
    batcher: RecordBatcher<'a>,
}

impl ArrayScanner<'_> {
    fn scan(&mut self, chunk: &[u8]) -> Result<(), StreamError> {
        // The part of the element from here on is not yet in `element`.
        let mut start = 0;
        let mut state = self.state;
        for (at, &byte) in chunk.iter().enumerate() {
            // Control characters between elements are accepted.
            let is_space = byte <= b' ';
            state = match state {
                ScanState::Element { depth, in_string: true, is_escaped } => {
                    let is_end = byte == b'"' && !is_escaped;
                    if is_end && depth == 0 {
                        self.append(&chunk[start..=at])?;
                        ScanState::AfterElement
                    } else {
                        ScanState::Element { depth, in_string: !is_end, is_escaped: byte == b'\\' && !is_escaped }
                    }
                }
                ScanState::Element { depth, .. } => match byte {
                    b'"' => ScanState::Element { depth, in_string: true, is_escaped: false },
                    b'{' | b'[' => ScanState::Element { depth: depth + 1, in_string: false, is_escaped: false },
                    b'}' | b']' if depth == 1 => {
                        self.append(&chunk[start..=at])?;
                        ScanState::AfterElement
                    }
                    b'}' | b']' if depth > 1 => {
                        ScanState::Element { depth: depth - 1, in_string: false, is_escaped: false }
                    }
                    b',' | b']' if depth == 0 => {
                        self.append(&chunk[start..at])?;
                        self.complete_element(byte)?
                    }
                    _ if depth == 0 && is_space => {
                        self.append(&chunk[start..at])?;
                        ScanState::AfterElement
                    }
                    _ => state,
                },
                ScanState::Null(read) if read < NULL.len() => match NULL.get(read) {
                    Some(&expected) if expected == byte => ScanState::Null(read + 1),
                    _ => return Err(NOT_JSON),
                },
                _ if is_space => {
                    // An answer of white space without an end would otherwise occupy the reader.
                    self.blank_bytes += 1;
                    if self.blank_bytes > MAX_ELEMENT_BYTES {
                        return Err(StreamError::RecordTooLarge);
                    }
                    state
                }
                ScanState::AfterElement => self.complete_element(byte)?,
                ScanState::First if byte == b']' => ScanState::After,
                ScanState::First | ScanState::Next => {
                    start = at;
                    match byte {
                        b',' | b']' | b'}' => return Err(NOT_JSON),
                        b'"' => ScanState::Element { depth: 0, in_string: true, is_escaped: false },
                        b'{' | b'[' => ScanState::Element { depth: 1, in_string: false, is_escaped: false },
                        _ => ScanState::Element { depth: 0, in_string: false, is_escaped: false },
                    }
                }
                ScanState::Before => match byte {
                    b'[' => ScanState::First,
                    b'n' => ScanState::Null(1),
                    b'{' | b'"' | b't' | b'f' | b'-' | b'0'..=b'9' => {
                        return Err(StreamError::Undecodable("it is not an array"));
                    }
                    _ => return Err(NOT_JSON),
                },
                ScanState::Null(_) | ScanState::After => return Err(NOT_JSON),
            };
        }
        if let ScanState::Element { .. } = state {
            self.append(&chunk[start..])?;
        }
        self.state = state;
        Ok(())
    }

    fn append(&mut self, part: &[u8]) -> Result<(), StreamError> {
        if self.element.len() + part.len() > MAX_ELEMENT_BYTES {
            return Err(StreamError::RecordTooLarge);
        }
        self.element.extend_from_slice(part);
        Ok(())
    }

    /// Completes an element that `byte` follows.
    fn complete_element(&mut self, byte: u8) -> Result<ScanState, StreamError> {
        let state = match byte {
            b',' => ScanState::Next,
            b']' => ScanState::After,
            _ => return Err(NOT_JSON),
        };
        self.blank_bytes = 0;
        self.batcher.push(std::mem::take(&mut self.element))?;
        Ok(state)
    }

    fn finish(mut self) -> Result<ReadSummary, StreamError> {
        match self.state {
            ScanState::After | ScanState::Null(4) => {
                self.batcher.flush()?;
                Ok(self.batcher.summary)
            }
            ScanState::Before if self.batcher.summary.bytes == 0 => Err(StreamError::Undecodable("it is empty")),
            _ => Err(StreamError::Truncated),
        }
    }
}

struct RecordBatcher<'a> {
    sender: &'a mpsc::Sender<Vec<ParsedRecord>>,
    summary: ReadSummary,
    batch: Vec<ParsedRecord>,
    batch_bytes: usize,
}

impl RecordBatcher<'_> {
    fn push(&mut self, raw: Vec<u8>) -> Result<(), StreamError> {
        self.batch_bytes += raw.len();
        let record = parse_record(raw);
        self.summary.announced += 1;
        self.summary.quarantined += u64::from(matches!(record, ParsedRecord::Quarantined(_)));
        self.batch.push(record);
        if self.batch.len() >= MAX_BATCH_RECORDS || self.batch_bytes >= MAX_BATCH_BYTES {
            return self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(batch).map_err(|_| StreamError::ReceiverDropped)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// A body that arrives in pieces of the given size.
    struct SplitReader<'a>(&'a [u8], usize);

    impl Read for SplitReader<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (piece, rest) = self.0.split_at(length);
            buffer[..length].copy_from_slice(piece);
            self.0 = rest;
            Ok(length)
        }
    }

    fn parsed(body: &[u8], piece: usize) -> (Option<ReadSummary>, Vec<ParsedRecord>) {
        let (sender, mut records) = mpsc::channel(100);
        let summary = read(SplitReader(body, piece.max(1)), &sender).ok();
        (summary, std::iter::from_fn(|| records.try_recv().ok()).flatten().collect())
    }

    fn raw(record: &ParsedRecord) -> &str {
        match record {
            ParsedRecord::Segment(segment) => &segment.raw,
            ParsedRecord::Quarantined(quarantined) => &quarantined.raw,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let keys = "segmentId|dialogId|segmentEndTimeMs|hasTranscript|segmentType|.{0,6}";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(keys, inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn a_malformed_element_affects_no_other() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let long = "7".repeat(400);
        for fault in [
            &b"\"a\x01\n\0\""[..],
            b"\"caf\xe9\"",
            b"\"\\ud83d\"",
            b"\"\\x41 \\u12\"",
            b"1e999",
            b"NaN",
            b"01",
            b"tru",
            b"{,}",
            b"{\"a\":,}",
            b"{\"a\" \"b\"}",
            deep.as_bytes(),
            long.as_bytes(),
        ] {
            let faulty = [b"{\"segmentId\":\"b\",\"agentNotes\":", fault, b"}"].concat();
            let body =
                [b"[{\"segmentId\":\"a\"},", &faulty[..], b" ,\x0b", fault, b",{\"segmentId\":\"c\"}\0]\n"].concat();
            for piece in [1, 7, body.len()] {
                let (summary, records) = parsed(&body, piece);
                assert_eq!(summary.map(|summary| summary.announced), Some(4), "{}", String::from_utf8_lossy(fault));
                assert_eq!(raw(&records[1]), String::from_utf8_lossy(&faulty));
                assert_eq!(raw(&records[2]), String::from_utf8_lossy(fault));
                for (record, id) in [(&records[0], "a"), (&records[3], "c")] {
                    assert!(matches!(record, ParsedRecord::Segment(segment) if segment.segment_id == id));
                }
            }
        }
    }

    #[test]
    fn white_space_without_an_end_is_an_error_before_the_end() {
        let (sender, _records) = mpsc::channel(1);
        for start in ["", "[", "[1,"] {
            let body = start.as_bytes().chain(io::repeat(b' ').take(MAX_ELEMENT_BYTES as u64 + 1));
            assert!(matches!(read(body, &sender), Err(StreamError::RecordTooLarge)), "{start:?}");
        }
    }

    #[test]
    fn anything_but_an_array_is_an_error() {
        for body in ["nu ll", "nul", "nullx", "[1,]", "[,1]", "[}", "[]]", "[][]", "[1]2", "[\"a\"b]", "[1 2]", "\u{b}"]
        {
            assert_eq!(parsed(body.as_bytes(), 1).0, None, "{body}");
        }
        assert_eq!(parsed(b" null \n", 1).0.map(|summary| summary.announced), Some(0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_the_totals_match_the_records(
            body in prop_oneof![any::<Vec<u8>>(), "[\\[\\]{}\",:0-9a-z\\\\ ]{0,60}".prop_map(String::into_bytes)],
            piece in 1_usize..9,
        ) {
            let (summary, records) = parsed(&body, piece);
            if let Some(summary) = summary {
                prop_assert_eq!(summary.announced, records.len() as u64);
                prop_assert_eq!(summary.bytes, body.len() as u64);
            }
        }

        #[test]
        fn every_element_becomes_a_segment_or_is_quarantined_byte_for_byte(
            elements in proptest::collection::vec(any_json(), 0..8), piece in 1_usize..50, gap in "[ \n\t]{0,3}",
        ) {
            let texts: Vec<String> = elements.iter().map(Value::to_string).collect();
            let body = format!("{gap}[{gap}{}{gap}]{gap}", texts.join(&format!("{gap},{gap}")));
            let (summary, records) = parsed(body.as_bytes(), piece);
            prop_assert!(summary.is_some());
            prop_assert_eq!(records.iter().map(raw).collect::<Vec<_>>(), texts);
        }

        #[test]
        fn a_truncated_answer_never_counts_as_complete(
            elements in proptest::collection::vec(any_json(), 0..6), cut in any::<prop::sample::Index>(),
        ) {
            let body = Value::from(elements).to_string();
            let (summary, _) = parsed(&body.as_bytes()[..cut.index(body.len())], 7);
            prop_assert_eq!(summary, None);
        }
    }
}
