//! Answers as a stream of JSON lines.

use std::collections::VecDeque;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use super::parameters::negotiate;
use super::problem::Problem;
use crate::archive_reader::ReadError;
use crate::render::escape_line_separators;

/// Items that a stream reads at a time.
const ITEMS_PER_READ: usize = 500;

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/jsonl";

/// Whether the answer is to be a stream of lines.
pub(super) fn wants_lines(headers: &HeaderMap) -> Result<bool, Problem> {
    match negotiate(headers, &[JSON, JSON_LINES]) {
        Some(media) => Ok(media == JSON_LINES),
        None => Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "the answer has none of the accepted formats")
            .with_hint(format!("accept {JSON} or {JSON_LINES}"))),
    }
}

/// The name of a file about a segment: `segment-7f3c.wav`. Its id may hold any character.
pub(in crate::http) fn file_name(segment_id: &str, extension: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' };
    let id: String = segment_id.chars().take(80).map(plain).collect();
    format!("segment-{id}.{extension}")
}

/// A stream of the items of all pages from a cursor on, one a line, or of `limit` items. `read_page`
/// gets a cursor and a number of items. A page is read when the client has taken the one before. An
/// error after the first page ends the connection.
pub(super) async fn lines_of_pages<T, F>(
    cursor: Option<String>,
    limit: Option<usize>,
    read_page: impl Fn(Option<String>, usize) -> F + Send + 'static,
) -> Result<Response, Problem>
where
    T: Serialize + Send,
    F: Future<Output = Result<(Vec<T>, Option<String>), ReadError>> + Send,
{
    let limit = limit.unwrap_or(usize::MAX);
    let (items, next) = read_page(cursor, limit.min(ITEMS_PER_READ)).await?;
    let left = limit.saturating_sub(items.len());
    let first = VecDeque::from([to_lines(&items)?]);
    let lines = stream::try_unfold((first, next, left, read_page), |(mut ready, next, left, read_page)| async move {
        if let Some(lines) = ready.pop_front() {
            return Ok::<_, ReadError>(Some((lines, (ready, next, left, read_page))));
        }
        let Some(cursor) = next.filter(|_| left > 0) else { return Ok(None) };
        let (items, next) = read_page(Some(cursor), left.min(ITEMS_PER_READ)).await?;
        let left = left.saturating_sub(items.len());
        Ok(Some((to_lines(&items)?, (ready, next, left, read_page))))
    });
    Ok(([(CONTENT_TYPE, JSON_LINES), (VARY, "accept")], Body::from_stream(lines)).into_response())
}

fn to_lines(items: &[impl Serialize]) -> Result<Bytes, ReadError> {
    let mut lines = Vec::new();
    for item in items {
        let start = lines.len();
        serde_json::to_writer(&mut lines, item)
            .map_err(|_| ReadError::new(crate::archive_reader::ReadFault::Unavailable, "failed to write a line"))?;
        escape_line_separators(&mut lines, start);
        lines.push(b'\n');
    }
    Ok(lines.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_is_plain_whatever_the_id() {
        assert_eq!(file_name("7f3c-1", "wav"), "segment-7f3c-1.wav");
        assert_eq!(file_name("../a\"b\r\nc/ü", "srt"), "segment-.._a_b__c__.srt");
        assert!(file_name(&"x".repeat(5_000), "wav").len() < 100);
    }
}
