//! Requests a time stamp (RFC 3161) of a file, so that nobody can later claim an earlier date for
//! other content.
//!
//! The request is constant except for the file's SHA-256, so no library encodes it. Of the answer
//! only this is checked: it is granted and about this hash. The auditor checks the signature of the
//! authority with `openssl ts`, against certificates that the auditor trusts.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use sha2::{Digest, Sha256};

use super::{TIME_STAMP_SUFFIX, sibling};
use crate::error::UserError;
use crate::export::Target;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The answer holds the authority's certificates.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// `TimeStampReq` up to the hash: version 1, SHA-256.
const BEFORE_HASH: [u8; 24] = [
    0x30, 0x39, 0x02, 0x01, 0x01, 0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02,
    0x01, 0x05, 0x00, 0x04, 0x20,
];
/// The rest: the answer has to contain the authority's certificate.
const AFTER_HASH: [u8; 3] = [0x01, 0x01, 0xff];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;

/// Parses the URL of an authority.
///
/// # Errors
/// If it is not an http or https URL.
pub(crate) fn parse_authority(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err("not the http or https URL of a host".to_owned())
    }
}

/// Has the authority date the bytes of the file. Writes the answer to `FILE.tsr`; returns its path.
///
/// # Errors
/// If the authority grants no time stamp, or the file cannot be written.
pub(crate) async fn time_stamp_file(authority: &Url, file: &Path) -> anyhow::Result<PathBuf> {
    let bytes = tokio::fs::read(file).await.with_context(|| format!("failed to read {}", file.display()))?;
    let hash: [u8; 32] = Sha256::digest(&bytes).into();
    let answer = request_time_stamp(authority, &hash).await.map_err(|why| {
        let host = authority.host_str().unwrap_or_default();
        UserError::failed(format!("failed to get a time stamp from {host}: {why}"))
            .with_hint("check the URL of the time-stamp authority, and whether this machine can reach it")
    })?;
    let path = sibling(file, TIME_STAMP_SUFFIX);
    let written = path.clone();
    tokio::task::spawn_blocking(move || {
        let mut target = Target::precompressed_file(&written)?;
        target.write_all(&answer)?;
        target.finish()
    })
    .await??;
    Ok(path)
}

/// Sends the request; returns the checked answer or the reason why there is none.
async fn request_time_stamp(authority: &Url, hash: &[u8; 32]) -> Result<Vec<u8>, String> {
    let failed = |error: reqwest::Error| format!("{:#}", anyhow::Error::from(error.without_url()));
    crate::ringcx::install_tls();
    let client = reqwest::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .build()
        .map_err(failed)?;
    let request = client
        .post(authority.clone())
        .header(CONTENT_TYPE, "application/timestamp-query")
        .header(ACCEPT, "application/timestamp-reply")
        .body(encode_request(hash));
    let mut response = request.send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("it answered with status {}", response.status().as_u16()));
    }
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err("its answer is too large".to_owned());
        }
        answer.extend_from_slice(&chunk);
    }
    check_answer(&answer, hash).map(|()| answer)
}

fn encode_request(hash: &[u8; 32]) -> Vec<u8> {
    [&BEFORE_HASH[..], hash, &AFTER_HASH].concat()
}

/// Checks that the answer grants a time stamp of this hash.
fn check_answer(answer: &[u8], hash: &[u8; 32]) -> Result<(), String> {
    let invalid = || "its answer is not one of RFC 3161".to_owned();
    let (content, rest) = read_value(answer, SEQUENCE).ok_or_else(invalid)?;
    let (status_info, token) = read_value(content, SEQUENCE).ok_or_else(invalid)?;
    let (status, _) = read_value(status_info, INTEGER).ok_or_else(invalid)?;
    // 0: granted; 1: granted with changes. Others carry no token.
    match status {
        [0 | 1] if rest.is_empty() && !token.is_empty() => {}
        [0 | 1] => return Err(invalid()),
        status => return Err(format!("it refused (status {})", status.last().copied().unwrap_or_default())),
    }
    let imprint = [&[0x04, 0x20][..], hash].concat();
    if token.windows(imprint.len()).any(|bytes| bytes == imprint) {
        Ok(())
    } else {
        Err("its answer is about another file".to_owned())
    }
}

/// Splits a DER value with this tag: its content, and what follows it.
fn read_value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(short - 0x80))?;
            (digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    (first == tag).then_some((content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = [7; 32];

    /// An answer with this status, and something with this hash in the place of the token.
    fn answer(status: u8, hash: Option<&[u8; 32]>) -> Vec<u8> {
        let token = hash.map(|hash| [&[0x30, 0x22, 0x04, 0x20][..], hash].concat()).unwrap_or_default();
        let content = [&[0x30, 0x03, 0x02, 0x01, status][..], &token].concat();
        [&[0x30, 0x81, u8::try_from(content.len()).unwrap()][..], &content].concat()
    }

    #[test]
    fn only_a_granted_time_stamp_of_the_file_is_accepted() {
        assert_eq!(check_answer(&answer(0, Some(&HASH)), &HASH), Ok(()));
        assert_eq!(check_answer(&answer(1, Some(&HASH)), &HASH), Ok(()));
        let refused = |bytes: &[u8]| check_answer(bytes, &HASH).unwrap_err();
        assert!(refused(&answer(2, None)).contains("refused (status 2)"));
        assert!(refused(&answer(0, Some(&[8; 32]))).contains("another file"));
        let granted = answer(0, Some(&HASH));
        for broken in [&[][..], b"<html>", &granted[..9], &[&granted[..], &[0]].concat(), &answer(0, None)] {
            assert!(refused(broken).contains("not one of RFC 3161"), "{broken:?}");
        }
    }

    #[test]
    fn an_authority_is_a_web_address() {
        assert!(parse_authority("http://tsa.example.com/tsr").is_ok());
        for wrong in ["tsa.example.com", "file:///etc/passwd", ""] {
            assert!(parse_authority(wrong).is_err(), "{wrong}");
        }
    }
}
