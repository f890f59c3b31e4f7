//! A JSON array read element by element from a body that is still coming.
//!
//! Holds one element and one batch at a time. The end of the array, and of the body after it, must be seen.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::record::understood;
use super::{ReadSummary, Record};

/// The largest element that is taken.
pub(super) const ELEMENT_CAP: u64 = 16 * 1024 * 1024;
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

/// Reads one array to its end. A `null` in its place is an array without elements.
pub(super) fn read(body: impl Read, sink: &mpsc::Sender<Vec<Record>>) -> Result<ReadSummary, Stopped> {
    let gauge = Gauge::default();
    let body = BufReader::with_capacity(64 * 1024, Gauged { body, gauge: &gauge });
    let mut json = serde_json::Deserializer::from_reader(body);
    let mut elements = Elements { sink, gauge: &gauge, summary: ReadSummary::default(), batch: Vec::new(), held: 0 };
    let outcome = json.deserialize_any(&mut elements).and_then(|()| json.end());
    match outcome {
        Ok(()) => {
            elements.hand_on().map_err(|Gone| Stopped::Gone)?;
            Ok(ReadSummary { bytes: gauge.total.get(), ..elements.summary })
        }
        Err(error) => Err(why(error, &gauge)),
    }
}

/// Says nothing of the error's own text: it may quote the answer.
fn why(error: serde_json::Error, gauge: &Gauge) -> Stopped {
    use serde_json::error::Category;
    if gauge.gone.get() {
        return Stopped::Gone;
    }
    if gauge.too_large.get() {
        return Stopped::TooLarge;
    }
    match error.classify() {
        Category::Io => Stopped::Broken(error.into()),
        Category::Eof if gauge.total.get() == 0 => Stopped::Undecodable("it is empty"),
        Category::Eof => Stopped::Ended,
        Category::Syntax => Stopped::Undecodable("it is not JSON"),
        Category::Data => Stopped::Undecodable("it is not an array"),
    }
}

/// What the body's reader and its parser tell one another.
#[derive(Default)]
struct Gauge {
    total: Cell<u64>,
    /// Where the element being read began, to within a buffer's length.
    element: Cell<u64>,
    too_large: Cell<bool>,
    gone: Cell<bool>,
}

struct Gauged<'a, R> {
    body: R,
    gauge: &'a Gauge,
}

impl<R: Read> Read for Gauged<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.gauge.total.get() - self.gauge.element.get() > ELEMENT_CAP {
            self.gauge.too_large.set(true);
            return Err(io::Error::other("too large"));
        }
        let length = self.body.read(buffer)?;
        self.gauge.total.set(self.gauge.total.get() + length as u64);
        Ok(length)
    }
}

struct Gone;

struct Elements<'a> {
    sink: &'a mpsc::Sender<Vec<Record>>,
    gauge: &'a Gauge,
    summary: ReadSummary,
    batch: Vec<Record>,
    held: usize,
}

impl Elements<'_> {
    fn take(&mut self, raw: Box<RawValue>) -> Result<(), Gone> {
        self.gauge.element.set(self.gauge.total.get());
        let raw = String::from(Box::<str>::from(raw));
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

    fn hand_on(&mut self) -> Result<(), Gone> {
        self.held = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.sink.blocking_send(batch).map_err(|_| {
            self.gauge.gone.set(true);
            Gone
        })
    }
}

impl<'de> Visitor<'de> for &mut Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(raw) = elements.next_element::<Box<RawValue>>()? {
            self.take(raw).map_err(|Gone| A::Error::custom("gone"))?;
        }
        Ok(())
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
