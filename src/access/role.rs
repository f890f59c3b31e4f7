//! A role: what its members may do, in which accounts and channels, and what they never see.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{Permission, RedactionRule, RoleSettings};
use crate::redact::Redactor;

/// A role of the settings, or the built-in one of commands and of `http.token`.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: String,
    /// Sub-account ids; `None` means all.
    pub(super) accounts: Option<BTreeSet<String>>,
    /// Channels in lower case; `None` means all.
    pub(super) channels: Option<BTreeSet<String>>,
    pub(super) permissions: BTreeSet<Permission>,
    pub(super) redaction: Vec<RedactionRule>,
    pub(super) redactor: Arc<Redactor>,
}

impl Role {
    /// A role without limits of accounts and channels, and without redaction.
    pub(super) fn unlimited(name: &str, permissions: impl IntoIterator<Item = Permission>) -> Role {
        Role {
            name: name.to_owned(),
            accounts: None,
            channels: None,
            permissions: permissions.into_iter().collect(),
            redaction: Vec::new(),
            redactor: Arc::default(),
        }
    }

    /// The role that the settings describe.
    pub(super) fn of(settings: &RoleSettings) -> Role {
        let non_empty = |names: BTreeSet<String>| Some(names).filter(|names| !names.is_empty());
        Role {
            name: settings.name.clone(),
            accounts: non_empty(settings.accounts.clone()),
            channels: non_empty(settings.channels.iter().map(|channel| channel.to_lowercase()).collect()),
            permissions: settings.may.clone(),
            redaction: settings.redact.clone(),
            redactor: Arc::new(Redactor::new(&settings.redact)),
        }
    }

    /// Whether the role permits this at all.
    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Whether the role covers an account, by its sub-account id.
    pub(crate) fn covers_account(&self, sub: &str) -> bool {
        self.accounts.as_ref().is_none_or(|accounts| accounts.contains(sub))
    }

    /// Whether the role covers a segment of this account, whose metadata names these channels
    /// (`channelClass`, `channelType`). As for sinks, one of them suffices.
    pub(crate) fn covers(&self, sub: &str, channels: &[&str]) -> bool {
        let names = |allowed: &BTreeSet<String>| channels.iter().any(|name| allowed.contains(&name.to_lowercase()));
        self.covers_account(sub) && self.channels.as_ref().is_none_or(names)
    }
}
