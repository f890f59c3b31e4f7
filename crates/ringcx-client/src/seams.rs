//! Where the fuzzer takes hold: the readers of what servers send, each with what must be true of it whatever was sent. Built
//! by `cargo fuzz` alone.

use std::io::Read;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::Body;
use super::error::ApiError;
use super::metadata::{self, Record};
use super::{summary as summaries, transcript as transcripts};
use crate::clock::Time;
use crate::model::Endpoint;

/// Comes in pieces of so many bytes.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(self.0.len()).min(buffer.len());
        let (piece, rest) = self.0.split_at(length);
        buffer[..length].copy_from_slice(piece);
        self.0 = rest;
        Ok(length)
    }
}

fn read(body: &[u8], piece: usize) -> (Option<u64>, Vec<String>) {
    let (sink, mut records) = mpsc::channel(4096);
    let summary = metadata::read(Pieces(body, piece), &sink);
    let records = std::iter::from_fn(|| records.try_recv().ok()).flatten().map(|record| match record {
        Record::Segment(segment) => segment.raw,
        Record::Aside(aside) => aside.raw,
    });
    (summary.map(|summary| summary.announced), records.collect())
}

/// Metadata: however it comes in pieces, the same is read; what counts as whole is what another parser takes for an array,
/// and each of its elements is there, byte for byte.
pub fn metadata(body: &[u8], piece: usize) {
    let (announced, records) = read(body, piece.max(1));
    assert_eq!((announced, &records), (read(body, usize::MAX).0, &read(body, usize::MAX).1));
    let Some(announced) = announced else { return };
    assert_eq!(announced, records.len() as u64);
    if let Ok(elements) = serde_json::from_slice::<Option<Vec<&RawValue>>>(body) {
        let elements: Vec<&str> = elements.iter().flatten().map(|element| element.get()).collect();
        assert_eq!(elements, records);
    }
}

/// A transcript's body: one that is taken can be read by people.
pub fn transcript(body: &[u8]) {
    let checked = transcripts::check(&Body { bytes: Bytes::copy_from_slice(body), charset: None });
    if let Err(error) = checked {
        plain(&error);
    }
}

/// A summary's body: one that counts as empty says nothing.
pub fn summary(text: &str) {
    match summaries::judge(Endpoint::AgentSummary, "application/json", text) {
        Ok(false) => {
            let read = summaries::summary_text(text.as_bytes());
            assert!(
                read.trim_matches(|c: char| c == '\u{feff}' || c.is_whitespace()).is_empty() || read.trim() == "null"
            );
        }
        Ok(true) => {}
        Err(error) => plain(&error),
    }
}

/// An answer that is no success, with its body and its `Retry-After`.
pub fn error(status: u16, body: &[u8], wait: &[u8], now: i64) {
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(wait) = HeaderValue::from_bytes(wait) {
        headers.insert(RETRY_AFTER, wait);
    }
    let error = ApiError::answered(Endpoint::Transcript, status, &headers, body, Time(now));
    assert!(error.retry_after.is_none_or(|wait| wait.as_secs() <= 86_400));
    plain(&error);
}

/// Nothing but this program's own words, and a code.
fn plain(error: &ApiError) {
    assert!(error.message.is_ascii() && error.message.len() < 200, "{}", error.message);
}
