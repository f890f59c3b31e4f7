//! Which sub-accounts a login can see.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::charset;
use crate::lenient_json;
use crate::model::{AccountId, Endpoint};

use super::Api;
use super::auth::Login;
use super::call::{Answer, Call};
use super::error::{ApiError, Cause};
use super::limits::{Pacer, Permit};

/// The largest list that is taken.
const CAP: usize = 64 * 1024 * 1024;

/// A sub-account that the login can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAccount {
    /// Its two ids.
    pub id: AccountId,
    /// Its name, for people.
    pub name: Option<String>,
    /// After how many days the vendor deletes its data (`dataRetentionDays`), where the API says.
    pub retention_days: Option<u32>,
    /// Whether the vendor has it archived (`archivedAccount`).
    pub archived: bool,
}

/// Lists the sub-accounts that the login can see (contract.md, Authentication), each once. Where the list does not name
/// the main account's `rcAccountId`, the platform is asked for the login's own.
///
/// # Errors
/// By [`ApiError::fault`]; also where neither the list nor the platform names an `rcAccountId`.
pub async fn accounts(api: &Api, login: &Login, pacer: &Pacer, permit: Permit) -> Result<Vec<SubAccount>, ApiError> {
    let endpoint = Endpoint::Accounts;
    let url = format!("{}/voice/api/v1/admin/accounts", api.hosts().ringcx);
    let call = Call { api, login, pacer, endpoint, budget: None };
    let answer = call.answer(permit, |token| Ok(token.authorise(api.client().get(&url)))).await?;
    let Value::Array(list) = json(answer).await? else {
        return Err(ApiError::undecodable(endpoint, "it is not an array"));
    };
    let mut own = None;
    let mut seen = BTreeSet::new();
    let mut found = Vec::with_capacity(list.len());
    for account in &list {
        let Some(sub) = id(&account["accountId"]) else {
            tracing::warn!("an entry in the list of sub-accounts has no accountId; it is left out");
            continue;
        };
        if !seen.insert(sub.clone()) {
            continue;
        }
        let rc = match (id(&account["mainAccount"]["rcAccountId"]), &own) {
            (Some(rc), _) => rc,
            (None, Some(own)) => Arc::clone(own),
            (None, None) => Arc::clone(own.insert(rc_account_id(api, login).await?)),
        };
        found.push(SubAccount {
            id: AccountId::new(rc, sub),
            name: account["accountName"].as_str().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned),
            retention_days: days(&account["dataRetentionDays"]),
            archived: account["archivedAccount"].as_bool().unwrap_or(false),
        });
    }
    Ok(found)
}

/// The `rcAccountId` of the login's own account, from RingCentral's platform; not one of RingCX's requests, so without
/// a place in its budget.
///
/// # Errors
/// By [`ApiError::fault`]; permanent where the login is not a RingCentral one.
pub async fn rc_account_id(api: &Api, login: &Login) -> Result<Arc<str>, ApiError> {
    let endpoint = Endpoint::Accounts;
    let url = format!("{}/restapi/v1.0/account/~", api.hosts().platform);
    let mut stale = None;
    loop {
        let token = login.platform_token(stale.as_ref()).await?;
        let request = api.client().get(&url).bearer_auth(secrecy::ExposeSecret::expose_secret(&token.secret));
        let answer = api.send(endpoint, request).await?;
        if !answer.status().is_success() {
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = answer.bytes(CAP).await.unwrap_or_default();
            let error = ApiError::answered(endpoint, status, &headers, &body, api.api_now());
            if status.as_u16() == 401 && error.cause != Cause::Outage && stale.is_none() {
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
        let account = json(answer).await?;
        return id(&account["id"]).ok_or_else(|| ApiError::undecodable(endpoint, "it names no account"));
    }
}

async fn json(answer: Answer) -> Result<Value, ApiError> {
    answer.decoded()?;
    let charset = answer.charset();
    let body = answer.bytes(CAP).await?;
    lenient_json::value(&charset::text(charset, &body))
        .ok_or_else(|| ApiError::undecodable(Endpoint::Accounts, "it is not JSON"))
}

/// An id as text, sent as a string or as a number.
fn id(value: &Value) -> Option<Arc<str>> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().into()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string().into()),
        _ => None,
    }
}

fn days(value: &Value) -> Option<u32> {
    let days = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(days).ok().filter(|days| *days > 0)
}

#[cfg(test)]
mod tests;
