//! A JSON array read element by element from a body that is still coming.
//!
//! Only the array's own commas and brackets are looked for: what stands between them is an element, whatever is wrong with
//! it. Holds one element and one batch at a time. The end of the array, and of the body after it, must be seen.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

use super::record::understood;
use super::{ReadSummary, Record};

/// The largest element that is taken.
pub(super) const ELEMENT_CAP: usize = 16 * 1024 * 1024;
/// A batch is handed on when it has so many records,
const BATCH: usize = 500;
/// or so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Why an answer was not read to its end.
pub(super) enum Stopped {
    /// The receiver was dropped.
    Gone,
    /// An element is larger than [`ELEMENT_CAP`].
    TooLarge,
    /// Not what the contract says.
    Undecodable(&'static str),
    /// The body ended within the array.
    Ended,
    /// The body's own error.
    Broken(io::Error),
}

const NULL: &[u8] = b"null";
const NOT_JSON: Stopped = Stopped::Undecodable("it is not JSON");

/// Reads one array to its end. A `null` in its place is an array without elements.
pub(super) fn read(body: impl Read, sink: &mpsc::Sender<Vec<Record>>) -> Result<ReadSummary, Stopped> {
    let mut body = BufReader::with_capacity(64 * 1024, body);
    let elements = Elements { sink, summary: ReadSummary::default(), batch: Vec::new(), held: 0 };
    let mut scanner = Scanner { place: Place::Before, element: Vec::new(), elements };
    loop {
        let chunk = match body.fill_buf() {
            Ok([]) => return scanner.end(),
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Stopped::Broken(error)),
        };
        scanner.read(chunk)?;
        let length = chunk.len();
        scanner.elements.summary.bytes += length as u64;
        body.consume(length);
    }
}

/// Where in the answer the next byte is.
#[derive(Clone, Copy)]
enum Place {
    Before,
    /// In a `null`, of which so many bytes have come.
    Null(usize),
    /// At the first element or the array's end.
    First,
    /// At an element, after a comma.
    Next,
    /// In an element: so many brackets deep, in a string, after a backslash.
    Element {
        depth: usize,
        in_string: bool,
        is_escaped: bool,
    },
    /// After an element's last byte.
    AfterElement,
    After,
}

struct Scanner<'a> {
    place: Place,
    element: Vec<u8>,
    elements: Elements<'a>,
}

impl Scanner<'_> {
    fn read(&mut self, chunk: &[u8]) -> Result<(), Stopped> {
        // What has come of the element since here is not yet in `element`.
        let mut start = 0;
        let mut place = self.place;
        for (at, &byte) in chunk.iter().enumerate() {
            // Control characters between elements cost nothing.
            let is_space = byte <= b' ';
            place = match place {
                Place::Element { depth, in_string: true, is_escaped } => {
                    let is_end = byte == b'"' && !is_escaped;
                    if is_end && depth == 0 {
                        self.gather(&chunk[start..=at])?;
                        Place::AfterElement
                    } else {
                        Place::Element { depth, in_string: !is_end, is_escaped: byte == b'\\' && !is_escaped }
                    }
                }
                Place::Element { depth, .. } => match byte {
                    b'"' => Place::Element { depth, in_string: true, is_escaped: false },
                    b'{' | b'[' => Place::Element { depth: depth + 1, in_string: false, is_escaped: false },
                    b'}' | b']' if depth == 1 => {
                        self.gather(&chunk[start..=at])?;
                        Place::AfterElement
                    }
                    b'}' | b']' if depth > 1 => {
                        Place::Element { depth: depth - 1, in_string: false, is_escaped: false }
                    }
                    b',' | b']' if depth == 0 => {
                        self.gather(&chunk[start..at])?;
                        self.after_element(byte)?
                    }
                    _ if depth == 0 && is_space => {
                        self.gather(&chunk[start..at])?;
                        Place::AfterElement
                    }
                    _ => place,
                },
                Place::Null(read) if read < NULL.len() => match NULL.get(read) {
                    Some(&expected) if expected == byte => Place::Null(read + 1),
                    _ => return Err(NOT_JSON),
                },
                _ if is_space => place,
                Place::AfterElement => self.after_element(byte)?,
                Place::First if byte == b']' => Place::After,
                Place::First | Place::Next => {
                    start = at;
                    match byte {
                        b',' | b']' | b'}' => return Err(NOT_JSON),
                        b'"' => Place::Element { depth: 0, in_string: true, is_escaped: false },
                        b'{' | b'[' => Place::Element { depth: 1, in_string: false, is_escaped: false },
                        _ => Place::Element { depth: 0, in_string: false, is_escaped: false },
                    }
                }
                Place::Before => match byte {
                    b'[' => Place::First,
                    b'n' => Place::Null(1),
                    b'{' | b'"' | b't' | b'f' | b'-' | b'0'..=b'9' => {
                        return Err(Stopped::Undecodable("it is not an array"));
                    }
                    _ => return Err(NOT_JSON),
                },
                Place::Null(_) | Place::After => return Err(NOT_JSON),
            };
        }
        if let Place::Element { .. } = place {
            self.gather(&chunk[start..])?;
        }
        self.place = place;
        Ok(())
    }

    fn gather(&mut self, part: &[u8]) -> Result<(), Stopped> {
        if self.element.len() + part.len() > ELEMENT_CAP {
            return Err(Stopped::TooLarge);
        }
        self.element.extend_from_slice(part);
        Ok(())
    }

    /// An element is whole; `byte` follows it.
    fn after_element(&mut self, byte: u8) -> Result<Place, Stopped> {
        let place = match byte {
            b',' => Place::Next,
            b']' => Place::After,
            _ => return Err(NOT_JSON),
        };
        self.elements.take(std::mem::take(&mut self.element))?;
        Ok(place)
    }

    fn end(mut self) -> Result<ReadSummary, Stopped> {
        match self.place {
            Place::After | Place::Null(4) => {
                self.elements.hand_on()?;
                Ok(self.elements.summary)
            }
            Place::Before if self.elements.summary.bytes == 0 => Err(Stopped::Undecodable("it is empty")),
            _ => Err(Stopped::Ended),
        }
    }
}

struct Elements<'a> {
    sink: &'a mpsc::Sender<Vec<Record>>,
    summary: ReadSummary,
    batch: Vec<Record>,
    held: usize,
}

impl Elements<'_> {
    fn take(&mut self, raw: Vec<u8>) -> Result<(), Stopped> {
        self.held += raw.len();
        let record = understood(raw);
        self.summary.announced += 1;
        self.summary.aside += u64::from(matches!(record, Record::Aside(_)));
        self.batch.push(record);
        if self.batch.len() >= BATCH || self.held >= BATCH_BYTES {
            return self.hand_on();
        }
        Ok(())
    }

    fn hand_on(&mut self) -> Result<(), Stopped> {
        self.held = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.sink.blocking_send(batch).map_err(|_| Stopped::Gone)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// A body that comes in pieces of so many bytes.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(self.0.len()).min(buffer.len());
            let (piece, rest) = self.0.split_at(length);
            buffer[..length].copy_from_slice(piece);
            self.0 = rest;
            Ok(length)
        }
    }

    fn parsed(body: &[u8], piece: usize) -> (Option<ReadSummary>, Vec<Record>) {
        let (sink, mut records) = mpsc::channel(100);
        let summary = read(Pieces(body, piece.max(1)), &sink).ok();
        (summary, std::iter::from_fn(|| records.try_recv().ok()).flatten().collect())
    }

    fn raw(record: &Record) -> &str {
        match record {
            Record::Segment(segment) => &segment.raw,
            Record::Aside(aside) => &aside.raw,
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
    fn what_is_wrong_with_one_element_costs_no_other() {
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
                    assert!(matches!(record, Record::Segment(segment) if segment.segment_id == id));
                }
            }
        }
    }

    #[test]
    fn what_is_no_array_is_none() {
        for body in ["nu ll", "nul", "nullx", "[1,]", "[,1]", "[}", "[]]", "[][]", "[1]2", "[\"a\"b]", "[1 2]", "\u{b}"]
        {
            assert_eq!(parsed(body.as_bytes(), 1).0, None, "{body}");
        }
        assert_eq!(parsed(b" null \n", 1).0.map(|summary| summary.announced), Some(0));
    }

    proptest! {
        #[test]
        fn no_bytes_upset_it_and_what_counts_is_what_was_handed_on(
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
        fn every_element_becomes_a_segment_or_is_set_aside_byte_for_byte(
            elements in proptest::collection::vec(any_json(), 0..8), piece in 1_usize..50, gap in "[ \n\t]{0,3}",
        ) {
            let texts: Vec<String> = elements.iter().map(Value::to_string).collect();
            let body = format!("{gap}[{gap}{}{gap}]{gap}", texts.join(&format!("{gap},{gap}")));
            let (summary, records) = parsed(body.as_bytes(), piece);
            prop_assert!(summary.is_some());
            prop_assert_eq!(records.iter().map(raw).collect::<Vec<_>>(), texts);
        }

        #[test]
        fn an_answer_cut_anywhere_is_never_taken_for_a_whole_one(
            elements in proptest::collection::vec(any_json(), 0..6), cut in any::<prop::sample::Index>(),
        ) {
            let body = Value::from(elements).to_string();
            let (summary, _) = parsed(&body.as_bytes()[..cut.index(body.len())], 7);
            prop_assert_eq!(summary, None);
        }
    }
}
