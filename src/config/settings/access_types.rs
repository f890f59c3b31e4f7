//! `[access]`: the identity provider, roles and keys.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::secret::Secret;
use super::RedactionRule;
use crate::clock::Time;

/// Who may read conversations over HTTP, besides the holders of `http.token`.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    pub(crate) oidc: Option<Oidc>,
    pub(crate) roles: Vec<RoleSettings>,
    pub(crate) keys: Vec<KeySettings>,
    /// How long entries of the access log are kept.
    pub(crate) log_retention: Duration,
}

/// The OpenID Connect provider at which people log in.
#[derive(Debug, Clone)]
pub(crate) struct Oidc {
    /// As the provider writes it in its tokens.
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    /// Without a trailing slash.
    pub(crate) public_url: String,
    pub(crate) groups_claim: String,
    /// Besides `openid`.
    pub(crate) scopes: Vec<String>,
}

/// Something that a role may permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Permission {
    /// Search and read conversations.
    Read,
    /// Listen to recordings.
    Listen,
    /// Queue, backfills and delivery.
    Operate,
    /// Erase, and place or release legal holds.
    Erase,
    /// Read the access log.
    Log,
}

/// A role.
#[derive(Debug, Clone)]
pub(crate) struct RoleSettings {
    pub(crate) name: String,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) subjects: BTreeSet<String>,
    /// Sub-account ids; all if empty.
    pub(crate) accounts: BTreeSet<String>,
    /// Channels; all if empty.
    pub(crate) channels: BTreeSet<String>,
    /// At least one.
    pub(crate) may: BTreeSet<Permission>,
    pub(crate) redact: Vec<RedactionRule>,
}

/// A key of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySettings {
    pub(crate) name: String,
    /// SHA-256 of the key.
    pub(crate) hash: [u8; 32],
    /// The name of a role that exists.
    pub(crate) role: String,
    pub(crate) expires: Option<Time>,
}
