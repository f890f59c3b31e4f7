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
