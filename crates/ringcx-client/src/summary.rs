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
    let (status, charset, media_type) = (answer.status(), answer.charset(), answer.media_type());
    let bytes = answer.bytes(CAP).await?;
    let judged = judge(endpoint, &media_type, &charset::text(charset, &bytes));
    match judged.map_err(|error| error.with_status(status).of_body(&bytes))? {
        true => Ok(Fetched::Body(Body { bytes, charset })),
        false => Ok(Fetched::Empty),
    }
}

/// Whether a 200 of this media type holds a summary.
pub(super) fn judge(endpoint: Endpoint, media_type: &str, text: &str) -> Result<bool, ApiError> {
    let bare = text.trim_start_matches('\u{feff}').trim();
    if bare.starts_with('{') {
        let code = lenient_json::from_str::<Shape>(bare).and_then(|shape| shape.error_code);
        if let Some(code) = code.filter(is_error) {
            return Err(not_yet(endpoint, sane_code(&code)));
        }
    }
    if is_page(bare, media_type) {
        return Err(ApiError::undecodable(endpoint, "it is a web page"));
    }
    // Declared as JSON it may be bare text all the same, but not JSON without its end.
    let is_json = media_type.ends_with("json");
    if is_json && bare.starts_with(['"', '{', '[']) && lenient_json::is_cut(bare) {
        return Err(ApiError::undecodable(endpoint, "its JSON is cut off"));
    }
    let is_empty = bare == "null" || summary_text(text.as_bytes()).trim().is_empty();
    Ok(!is_empty)
}

/// Tags with which a web page begins, and no summary;
const PAGE_TAGS: [&str; 3] = ["!doctype", "html", "?xml"];
/// and those that count where they are written as tags are: `<title>`, `<body class="x">`, not `<title unknown>`.
const PAGE_PARTS: [&str; 7] = ["head", "body", "title", "meta", "center", "script", "style"];

/// Whether it is a web page or another document of markup, as proxies send it in an answer's place.
fn is_page(text: &str, media_type: &str) -> bool {
    let mut rest = text;
    while let Some(comment) = rest.strip_prefix("<!--") {
        let Some((_, after)) = comment.split_once("-->") else { return true };
        rest = after.trim_start();
    }
    let Some(tag) = rest.strip_prefix('<') else { return false };
    let is_declared = media_type == "text/html" || media_type.ends_with("xml");
    if is_declared && tag.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '!' | '?' | '/')) {
        return true;
    }
    let (name, after) =
        tag.split_at(tag.find(|next: char| next.is_whitespace() || matches!(next, '>' | '/')).unwrap_or(tag.len()));
    let name = name.to_ascii_lowercase();
    let is_tag = after.starts_with('>') || after.split('>').next().is_some_and(|inside| inside.contains('='));
    PAGE_TAGS.contains(&&*name) || (is_tag && PAGE_PARTS.contains(&&*name))
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
