//! What a caller may see of the accounts that it asks for.

use super::{ArchiveReader, ReadError};
use crate::access::{Caller, Permission};
use crate::db::{AccountKey, AccountRow, SegmentRow};
use crate::export::SegmentEntry;
use crate::model::Artifact;
use crate::render::Metadata;

/// The visible part of the archive for one question.
pub(crate) struct Scope<'c> {
    caller: &'c Caller,
    /// The visible accounts among those asked for.
    accounts: Vec<AccountRow>,
    /// Whether these are all accounts, now and later.
    is_unlimited: bool,
    /// Whether no role hides channels of these accounts.
    sees_all_channels: bool,
    /// Whether a role redacts texts.
    redacts: bool,
}

impl<'c> Scope<'c> {
    /// The visible accounts, by sub-account id.
    pub(crate) fn accounts(&self) -> &[AccountRow] {
        &self.accounts
    }

    /// The keys of the accounts for a statement; `None` for all.
    pub(super) fn keys(&self) -> Option<Vec<AccountKey>> {
        (!self.is_unlimited).then(|| self.accounts.iter().map(|account| account.key).collect())
    }

    /// The one account that was asked for, for the access log.
    pub(super) fn single_sub(&self) -> Option<&str> {
        match self.accounts.as_slice() {
            [one] if !self.is_unlimited => Some(&one.id.sub),
            _ => None,
        }
    }

    /// Whether all accounts are visible, now and later.
    pub(super) fn is_unlimited(&self) -> bool {
        self.is_unlimited
    }

    /// Whether the metadata of each segment must be checked against the channels of a role, or a text
    /// is redacted.
    pub(super) fn checks_texts(&self) -> bool {
        self.redacts || !self.sees_all_channels
    }

    /// Whether some channel of these accounts may be hidden, so that no sum over an account may be shown.
    pub(super) fn hides_channels(&self) -> bool {
        !self.sees_all_channels
    }

    /// Whether the caller sees every channel of an account.
    pub(super) fn shows_all_channels(&self, sub: &str) -> bool {
        self.caller.sees_all_channels(sub)
    }

    /// Whether a role redacts texts.
    pub(super) fn redacts(&self) -> bool {
        self.redacts
    }

    /// Whether the caller sees a segment.
    pub(super) fn shows(&self, segment: &SegmentRow) -> bool {
        let is_asked_for = self.is_unlimited || self.accounts.iter().any(|account| account.key == segment.account_key);
        is_asked_for && (self.sees_all_channels || self.caller.sees_segment(segment))
    }

    /// The metadata of a segment as the caller sees it; `None` if it does not see the segment.
    pub(super) fn show_metadata(&self, segment: &SegmentRow) -> Option<Metadata> {
        if !self.shows(segment) {
            return None;
        }
        if !self.redacts {
            return Some(Metadata::parse(&segment.metadata));
        }
        let redactor = self.caller.segment_redactor(segment);
        Some(Metadata::parse(&redactor.metadata(&segment.metadata)))
    }

    /// The metadata and the body of an artifact as the caller sees them; `None` if it does not.
    pub(super) fn show_artifact(
        &self,
        sub: &str,
        artifact: Artifact,
        metadata: String,
        body: Vec<u8>,
    ) -> Option<(String, Vec<u8>)> {
        let channels = Metadata::parse(&metadata).channels();
        let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
        if !self.caller.sees(sub, &channels) {
            return None;
        }
        if !self.redacts {
            return Some((metadata, body));
        }
        let redactor = self.caller.redactor(sub, &channels);
        let body = match artifact {
            Artifact::Transcript => redactor.transcript(&body).into_owned(),
            Artifact::AgentSummary | Artifact::AutoSummary => redactor.summary(&body).into_owned(),
            Artifact::Recording => body,
        };
        Some((redactor.metadata(&metadata).into_owned(), body))
    }

    /// The segment as the caller sees it; `None` if it does not see it.
    pub(super) fn show(&self, entry: SegmentEntry) -> Option<SegmentEntry> {
        if !self.shows(&entry.segment) {
            return None;
        }
        if !self.redacts {
            return Some(entry);
        }
        let redactor = self.caller.segment_redactor(&entry.segment);
        Some(entry.redact(&redactor))
    }
}

impl ArchiveReader {
    /// What the caller sees of these accounts, given by id or name; of all if there are none.
    ///
    /// # Errors
    /// If the caller may not read, or an account does not exist or is not visible.
    pub(crate) async fn scope<'c>(&self, caller: &'c Caller, wanted: &[String]) -> Result<Scope<'c>, ReadError> {
        if !caller.may(Permission::Read) {
            return Err(forbidden(Permission::Read));
        }
        let mut accounts = self.db.accounts().await?;
        accounts.retain(|account| caller.sees_account(&account.id.sub));
        if !wanted.is_empty() {
            let mut chosen = Vec::with_capacity(wanted.len());
            for name in wanted {
                chosen.push(find_account(&accounts, name)?.clone());
            }
            chosen.sort_by(|a, b| a.id.sub.cmp(&b.id.sub));
            chosen.dedup_by(|a, b| a.key == b.key);
            accounts = chosen;
        }
        let is_unlimited = wanted.is_empty() && caller.readable_accounts().is_none();
        let sees_all_channels =
            caller.is_unlimited_reader() || accounts.iter().all(|account| caller.sees_all_channels(&account.id.sub));
        Ok(Scope { caller, accounts, is_unlimited, sees_all_channels, redacts: caller.has_redaction() })
    }
}

/// Finds a visible account by its id, or by a unique name.
fn find_account<'a>(accounts: &'a [AccountRow], wanted: &str) -> Result<&'a AccountRow, ReadError> {
    if let Some(account) = accounts.iter().find(|account| &*account.id.sub == wanted) {
        return Ok(account);
    }
    let is_named =
        |account: &&AccountRow| account.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(wanted.trim()));
    let mut named = accounts.iter().filter(is_named);
    match (named.next(), named.next()) {
        (Some(account), None) => Ok(account),
        (Some(_), Some(_)) => {
            Err(ReadError::not_found("several accounts have that name").with_hint("give the sub-account id"))
        }
        (None, _) => Err(ReadError::not_found("no account has that id or name")
            .with_hint("the list of accounts shows those that you may see")),
    }
}

/// The caller's roles do not permit this.
pub(crate) fn forbidden(permission: Permission) -> ReadError {
    let name = serde_json::to_value(permission).ok();
    let name = name.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    ReadError::new(super::ReadFault::Forbidden, format!("your role does not permit this: it needs may = [{name:?}]"))
        .with_hint("ask the operator for a role in [[access.roles]] that permits it")
}
