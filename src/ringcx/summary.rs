//! Summaries: text, from another host, with the token in a cookie.
//!
//! The body is kept as received; [`summary_text`] reads it.

use reqwest::StatusCode;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Artifact, Endpoint};

use super::call::{Call, not_yet};
use super::error::{ApiError, Cause, sane_code};
use super::limits::{Pacer, Permit};
use super::transcript::{CAP, Shape, is_error};
use super::{Api, Body, Fetched, Login, path_segment};
use crate::backoff::Fault;

/// Fetches one of a segment's two summaries (contract.md, Summaries).
///
/// # Errors
/// By [`ApiError::fault`]; a 200 that is a JSON object with `errorCode` set is [`Fault::NotYet`]. Asked for a
/// transcript, which is none, it is [`Fault::Permanent`].
pub async fn summary(
    api: &Api,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    account: &AccountId,
    segment: &str,
    which: Artifact,
) -> Result<Fetched, ApiError> {
    let endpoint = Endpoint::from(which);
    let kind = match which {
        Artifact::AgentSummary => "agent",
        Artifact::AutoSummary => "auto",
        Artifact::Transcript => {
            return Err(ApiError::new(Fault::Permanent, endpoint, Cause::Settings, "a transcript is no summary"));
        }
    };
    let url = format!(
        "{}/voice/api/v1/summary/accounts/{}/segments/{}/{kind}",
        api.hosts().summary,
        path_segment(endpoint, &account.sub)?,
        path_segment(endpoint, segment)?,
    );
    let call = Call { api, login, pacer, endpoint, budget: None };
    let answer = call.answer(permit, |token| Ok(token.cookie(api.client().get(&url)))).await?;
    if answer.status() == StatusCode::NO_CONTENT {
        return Ok(Fetched::Empty);
    }
    answer.decoded()?;
    let (status, charset) = (answer.status(), answer.charset());
    let bytes = answer.bytes(CAP).await?;
    let judged = judge(endpoint, &charset::text(charset, &bytes));
    match judged.map_err(|error| error.with_status(status).of_body(&bytes))? {
        true => Ok(Fetched::Body(Body { bytes, charset })),
        false => Ok(Fetched::Empty),
    }
}

/// Whether a 200 holds a summary.
pub(super) fn judge(endpoint: Endpoint, text: &str) -> Result<bool, ApiError> {
    let bare = text.trim_start_matches('\u{feff}').trim();
    if bare.starts_with('{') {
        let code = lenient_json::from_str::<Shape>(bare).and_then(|shape| shape.error_code);
        if let Some(code) = code.filter(is_error) {
            return Err(not_yet(endpoint, sane_code(&code)));
        }
    }
    let start = bare.get(..9).or_else(|| bare.get(..5)).unwrap_or_default().to_ascii_lowercase();
    if start == "<!doctype" || start.starts_with("<html") {
        return Err(ApiError::undecodable(endpoint, "it is a web page"));
    }
    let is_empty = bare == "null" || summary_text(text.as_bytes()).trim().is_empty();
    Ok(!is_empty)
}

/// A summary as people read it: a body that is one JSON string is that string, any other is itself.
pub fn summary_text(body: &[u8]) -> String {
    let text = lenient_json::decode(body);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let bare = text.trim();
    if bare.starts_with('"')
        && let Some(text) = lenient_json::from_str::<String>(bare)
    {
        return text;
    }
    text.to_owned()
}

#[cfg(test)]
mod tests;
