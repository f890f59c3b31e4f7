//! The sub-accounts that a login can see.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Endpoint};

use super::ApiClient;
use super::api_call::{ApiCall, ApiResponse, MAX_ERROR_BODY_BYTES};
use super::auth::Login;
use super::error::{ApiError, ErrorCause};
use super::rate_limit::{Pacer, Permit};

/// The largest accepted list.
const MAX_ACCOUNT_LIST_BYTES: usize = 64 * 1024 * 1024;

/// A sub-account that the login can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAccount {
    /// Its RingCentral and RingCX ids.
    pub id: AccountId,
    /// Its name, for display.
    pub name: Option<String>,
    /// The days after which the vendor deletes its data (`dataRetentionDays`), if known.
    pub retention_days: Option<u32>,
    /// Whether the vendor has archived it (`archivedAccount`).
    pub archived: bool,
}

/// Lists the sub-accounts that the login can see (contract.md, Authentication), each once. If the
/// list lacks the main account's `rcAccountId`, the login's own is requested from the platform.
///
/// # Errors
/// By [`ApiError::fault`]; also where neither the list nor the platform names an `rcAccountId`.
pub async fn list_sub_accounts(
    api: &ApiClient,
    login: &Login,
    pacer: &Pacer,
    permit: Permit,
) -> Result<Vec<SubAccount>, ApiError> {
    let endpoint = Endpoint::Accounts;
    let url = format!("{}/voice/api/v1/admin/accounts", api.hosts().ringcx);
    let call = ApiCall { api, login, pacer, endpoint, quota: None };
    let answer = call.send(permit, |token| Ok(token.authorise(api.client().get(&url)))).await?;
    let Value::Array(list) = read_json(answer).await? else {
        return Err(ApiError::undecodable(endpoint, "it is not an array"));
    };
    let mut own = None;
    let mut seen = BTreeSet::new();
    let mut found = Vec::with_capacity(list.len());
    for account in &list {
        let Some(sub) = parse_id(&account["accountId"]) else {
            tracing::warn!("an entry in the list of sub-accounts has no accountId; it is ignored");
            continue;
        };
        if !seen.insert(sub.clone()) {
            continue;
        }
        let rc = match (parse_id(&account["mainAccount"]["rcAccountId"]), &own) {
            (Some(rc), _) => rc,
            (None, Some(own)) => Arc::clone(own),
            (None, None) => Arc::clone(own.insert(fetch_rc_account_id(api, login).await?)),
        };
        found.push(SubAccount {
            id: AccountId::new(rc, sub),
            name: account["accountName"].as_str().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned),
            retention_days: parse_days(&account["dataRetentionDays"]),
            archived: account["archivedAccount"].as_bool().unwrap_or(false),
        });
    }
    Ok(found)
}

/// Fetches the `rcAccountId` of the login's own account from RingCentral's platform. RingCX's
/// limits do not count this request, so it needs no permit.
///
/// # Errors
/// By [`ApiError::fault`]; permanent for a login without RingCentral.
pub async fn fetch_rc_account_id(api: &ApiClient, login: &Login) -> Result<Arc<str>, ApiError> {
    let endpoint = Endpoint::Accounts;
    let url = format!("{}/restapi/v1.0/account/~", api.hosts().platform);
    let mut stale = None;
    loop {
        let token = login.platform_token(stale.as_ref()).await?;
        let request = api.client().get(&url).bearer_auth(secrecy::ExposeSecret::expose_secret(&token.secret));
        let answer = api.send(endpoint, request).await?;
        if !answer.status().is_success() {
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = answer.read_body(MAX_ERROR_BODY_BYTES).await.unwrap_or_default();
            let error = ApiError::from_response(endpoint, status, &headers, &body, api.api_now());
            if status.as_u16() == 401 && error.cause != ErrorCause::Outage && stale.is_none() {
                stale = Some(token);
                continue;
            }
            return Err(match error.is_redirect() {
                true => error.with_hint(
                    "if that host is RingCentral's, set api.platform_url to it (https:// and the host) and restart",
                ),
                false => error,
            });
        }
        let account = read_json(answer).await?;
        return parse_id(&account["id"]).ok_or_else(|| ApiError::undecodable(endpoint, "it names no account"));
    }
}

async fn read_json(answer: ApiResponse) -> Result<Value, ApiError> {
    answer.check_content_encoding()?;
    let charset = answer.charset();
    let body = answer.read_body(MAX_ACCOUNT_LIST_BYTES).await?;
    lenient_json::parse_value(&charset::decode_text(charset, &body))
        .ok_or_else(|| ApiError::undecodable(Endpoint::Accounts, "it is not JSON"))
}

/// Reads an id that is sent as a string or as a number.
fn parse_id(value: &Value) -> Option<Arc<str>> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().into()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string().into()),
        _ => None,
    }
}

fn parse_days(value: &Value) -> Option<u32> {
    let days = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(days).ok().filter(|days| *days > 0)
}

#[cfg(test)]
mod tests;
