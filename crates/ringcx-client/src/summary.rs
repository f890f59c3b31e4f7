//! Summaries: text from another host, with the token in a cookie.
//!
//! The body is kept as received; [`summary_text`] decodes it.

use reqwest::StatusCode;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Artifact, Endpoint};

use super::api_call::{ApiCall, error_code_error};
use super::error::{ApiError, ErrorCause, printable_code};
use super::rate_limit::{Pacer, Permit};
use super::transcript::{MAX_ARTIFACT_BYTES, ResponseShape, is_error_code};
use super::{ApiClient, FetchedArtifact, Login, ResponseBody, checked_path_segment};
use crate::backoff::Fault;

/// Fetches one of a segment's two summaries (contract.md, Summaries).
///
/// # Errors
/// By [`ApiError::fault`]. A 200 with a JSON object that has an `errorCode` is [`Fault::NotYet`]. Another
/// artifact as `which` is [`Fault::Permanent`].
pub async fn fetch_summary(
    api: &ApiClient,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
    account: &AccountId,
    segment: &str,
    which: Artifact,
) -> Result<FetchedArtifact, ApiError> {
    let endpoint = Endpoint::from(which);
    let kind = match which {
        Artifact::AgentSummary => "agent",
        Artifact::AutoSummary => "auto",
        Artifact::Transcript | Artifact::Recording => {
            return Err(ApiError::new(Fault::Permanent, endpoint, ErrorCause::Settings, "it is no summary"));
        }
    };
    let url = format!(
        "{}/voice/api/v1/summary/accounts/{}/segments/{}/{kind}",
        api.hosts().summary,
        checked_path_segment(endpoint, &account.sub)?,
        checked_path_segment(endpoint, segment)?,
    );
    let call = ApiCall { api, login, pacer, endpoint, quota: None };
    let answer = call.send(permit, |token| Ok(token.authorise_by_cookie(api.client().get(&url)))).await?;
    if answer.status() == StatusCode::NO_CONTENT {
        return Ok(FetchedArtifact::Empty);
    }
    answer.check_content_encoding()?;
    let (status, charset, media_type) = (answer.status(), answer.charset(), answer.media_type());
    let bytes = answer.read_body(MAX_ARTIFACT_BYTES).await?;
    let holds_text = holds_summary(endpoint, &media_type, &charset::decode_text(charset, &bytes));
    match holds_text.map_err(|error| error.with_status(status).with_body_start(&bytes))? {
        true => Ok(FetchedArtifact::Body(ResponseBody { bytes, charset })),
        false => Ok(FetchedArtifact::Empty),
    }
}

/// Whether a 200 of this media type holds a summary.
pub(super) fn holds_summary(endpoint: Endpoint, media_type: &str, text: &str) -> Result<bool, ApiError> {
    let trimmed = text.trim_start_matches('\u{feff}').trim();
    if trimmed.starts_with('{') {
        let code = lenient_json::from_str::<ResponseShape>(trimmed).and_then(|shape| shape.error_code);
        if let Some(code) = code.filter(is_error_code) {
            return Err(error_code_error(endpoint, printable_code(&code)));
        }
    }
    if is_web_page(trimmed, media_type) {
        return Err(ApiError::undecodable(endpoint, "it is a web page"));
    }
    // Plain text may be declared as JSON, but truncated JSON is an error.
    let is_json = media_type.ends_with("json");
    if is_json && trimmed.starts_with(['"', '{', '[']) && lenient_json::is_truncated(trimmed) {
        return Err(ApiError::undecodable(endpoint, "its JSON is cut off"));
    }
    let is_empty = trimmed == "null" || summary_text(text.as_bytes()).trim().is_empty();
    Ok(!is_empty)
}

/// Tags that start a web page and no summary,
const DOCUMENT_START_TAGS: [&str; 3] = ["!doctype", "html", "?xml"];
/// and tags that count only in the form of a tag: `<title>`, `<body class="x">`, not
/// `<title unknown>`.
const DOCUMENT_PART_TAGS: [&str; 7] = ["head", "body", "title", "meta", "center", "script", "style"];

/// Whether the text is a web page or another markup document, which a proxy sends instead of the
/// answer.
fn is_web_page(text: &str, media_type: &str) -> bool {
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
    DOCUMENT_START_TAGS.contains(&&*name) || (is_tag && DOCUMENT_PART_TAGS.contains(&&*name))
}

/// The text of a summary: the content of a body that is one JSON string, otherwise the body itself.
pub fn summary_text(body: &[u8]) -> String {
    let text = lenient_json::decode_lossy(body);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let trimmed = text.trim();
    if trimmed.starts_with('"')
        && let Some(text) = lenient_json::from_str::<String>(trimmed)
    {
        return text;
    }
    text.to_owned()
}

#[cfg(test)]
mod tests;
