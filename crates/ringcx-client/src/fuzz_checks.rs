//! Entry points for the fuzzer: the parsers of server data, each with its invariants. Built only by
//! `cargo fuzz`.

use std::io::Read;

use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::ResponseBody;
use super::error::ApiError;
use super::metadata::{self, ParsedRecord};
use super::{summary as summaries, transcript as transcripts};
use crate::clock::Time;
use crate::model::Endpoint;

/// A body that arrives in chunks of the given size.
struct ChunkedReader<'a>(&'a [u8], usize);

impl Read for ChunkedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(self.0.len()).min(buffer.len());
        let (chunk, rest) = self.0.split_at(length);
        buffer[..length].copy_from_slice(chunk);
        self.0 = rest;
        Ok(length)
    }
}

fn read(body: &[u8], chunk_size: usize) -> (Option<u64>, Vec<String>) {
    let (sender, mut records) = mpsc::channel(4096);
    let summary = metadata::read(ChunkedReader(body, chunk_size), &sender);
    let records = std::iter::from_fn(|| records.try_recv().ok()).flatten().map(|record| match record {
        ParsedRecord::Segment(segment) => segment.raw,
        ParsedRecord::Quarantined(quarantined) => quarantined.raw,
    });
    (summary.map(|summary| summary.announced), records.collect())
}

/// Metadata: the result does not depend on the chunk size. A complete answer is an array for
/// another parser as well, with the same elements byte for byte.
pub fn check_metadata(body: &[u8], chunk_size: usize) {
    let (announced, records) = read(body, chunk_size.max(1));
    assert_eq!((announced, &records), (read(body, usize::MAX).0, &read(body, usize::MAX).1));
    let Some(announced) = announced else { return };
    assert_eq!(announced, records.len() as u64);
    if let Ok(elements) = serde_json::from_slice::<Option<Vec<&RawValue>>>(body) {
        let elements: Vec<&str> = elements.iter().flatten().map(|element| element.get()).collect();
        assert_eq!(elements, records);
    }
}

/// A transcript's body: an error quotes nothing of it.
pub fn check_transcript(body: &[u8]) {
    let checked = transcripts::check_transcript(&ResponseBody { bytes: Bytes::copy_from_slice(body), charset: None });
    if let Err(error) = checked {
        assert_printable(&error);
    }
}

/// A summary's body: an empty one has no text.
pub fn check_summary(text: &str) {
    match summaries::holds_summary(Endpoint::AgentSummary, "application/json", text) {
        Ok(false) => {
            let read = summaries::summary_text(text.as_bytes());
            assert!(
                read.trim_matches(|c: char| c == '\u{feff}' || c.is_whitespace()).is_empty() || read.trim() == "null"
            );
        }
        Ok(true) => {}
        Err(error) => assert_printable(&error),
    }
}

/// An answer other than a success, with its body and its `Retry-After`.
pub fn check_error(status: u16, body: &[u8], wait: &[u8], now: i64) {
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(wait) = HeaderValue::from_bytes(wait) {
        headers.insert(RETRY_AFTER, wait);
    }
    let error = ApiError::from_response(Endpoint::Transcript, status, &headers, body, Time(now));
    assert!(error.retry_after.is_none_or(|wait| wait.as_secs() <= 86_400));
    assert_printable(&error);
}

/// The message holds only this program's own text and a code.
fn assert_printable(error: &ApiError) {
    assert!(error.message.is_ascii() && error.message.len() < 200, "{}", error.message);
}
