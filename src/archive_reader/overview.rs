//! The state of accounts, the status, coverage and the audit, each limited to the visible accounts.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{ArchiveReader, ReadError, ReadFault, Scope};
use crate::access::Caller;
use crate::audit::{self, AccountAudit, AuditReport};
use crate::clock::Time;
use crate::health::{AccountStatus, Finding, IndexStatus, Severity, Snapshot, WorkCounts, derive_findings};
use crate::status;

/// Fields of an account that count the segments of all its channels. They are null for a role that
/// shows only some.
const CHANNEL_SUMS: [&str; 4] = ["work", "oldest_unfinished_seconds", "drain_seconds", "set_aside"];

/// An account: its state, watermark, budget and coverage.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AccountView {
    pub(crate) rc_account_id: String,
    pub(crate) sub_account_id: String,
    pub(crate) name: Option<String>,
    /// `ok`, or the severity of the worst finding: `info`, `warning` or `trouble`.
    pub(crate) state: String,
    /// The findings about this account.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub(crate) findings: Vec<Finding>,
    /// Every segment that ended earlier was discovered; RFC 3339.
    pub(crate) watermark: Option<String>,
    /// How far the watermark is behind, in seconds.
    pub(crate) lag_seconds: Option<u64>,
    pub(crate) budget: BudgetView,
    pub(crate) coverage: CoverageView,
    /// Everything that `status --json` shows of the account. Counts of items are null for a role that
    /// shows only some channels.
    #[schema(value_type = serde_json::Value)]
    pub(crate) status: Value,
}

/// The request budget of an account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BudgetView {
    pub(crate) requests_per_minute: u32,
    pub(crate) requests_last_minute: u64,
    /// Requests that were refused with 429 since the daemon started.
    pub(crate) refused: u64,
    /// Until when no requests are sent because of a 429.
    pub(crate) holds_until: Option<String>,
}

/// What was read of an account.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CoverageView {
    /// Where the first live read began, RFC 3339.
    pub(crate) from: Option<String>,
    /// Up to where it was read without a gap, RFC 3339.
    pub(crate) to: Option<String>,
    /// The seconds within that were not read although later time was.
    pub(crate) gap_seconds: u64,
}

impl AccountView {
    fn of(scope: &Scope<'_>, status: &AccountStatus, findings: &[Finding]) -> Result<AccountView, ReadError> {
        let is_own = |finding: &&Finding| finding.accounts().contains(&status.sub_account_id);
        let findings: Vec<Finding> = findings.iter().filter(is_own).cloned().collect();
        let worst = findings.iter().map(|finding| finding.severity).max();
        let state = match worst {
            None => "ok",
            Some(Severity::Info) => "info",
            Some(Severity::Warning) => "warning",
            Some(Severity::Trouble) => "trouble",
        };
        Ok(AccountView {
            rc_account_id: status.rc_account_id.clone(),
            sub_account_id: status.sub_account_id.clone(),
            name: status.name.clone(),
            state: state.to_owned(),
            findings,
            watermark: status.watermark.map(Time::rfc3339),
            lag_seconds: status.lag_seconds,
            budget: BudgetView {
                requests_per_minute: status.requests_per_minute,
                requests_last_minute: status.requests_last_minute,
                refused: status.refused,
                holds_until: status.holds_until.clone(),
            },
            coverage: CoverageView {
                from: status.live_start.map(Time::rfc3339),
                to: status.watermark.map(Time::rfc3339),
                gap_seconds: status.gap().as_secs(),
            },
            status: account_json(scope, to_json(status)?, &status.sub_account_id),
        })
    }
}

/// The range and the accounts of an audit.
#[derive(Debug, Clone, Default)]
pub(crate) struct AuditQuestion {
    pub(crate) from: Option<Time>,
    pub(crate) to: Option<Time>,
    /// By id or name; empty for all.
    pub(crate) accounts: Vec<String>,
    /// Whether an account whose first read began later than `from` is audited from there only.
    pub(crate) starts_with_first_read: bool,
}

impl ArchiveReader {
    /// The visible part of the status. Sums over more than that, and findings from them, are left out.
    async fn visible_status(&self, scope: &Scope<'_>) -> Result<Snapshot, ReadError> {
        let settings = &self.settings;
        let status = status::gather(&self.db, settings, &settings.database.instance, None, self.clock.now()).await?;
        if sees_everything(scope) {
            return Ok(status);
        }
        let is_visible = |sub: &str| scope.accounts().iter().any(|account| *account.id.sub == *sub);
        let status = restrict_status(status, is_visible, |sub: &str| scope.shows_all_channels(sub));
        Ok(status)
    }

    /// The visible accounts, by sub-account id.
    pub(crate) async fn accounts(&self, caller: &Caller) -> Result<Vec<AccountView>, ReadError> {
        let scope = self.scope(caller, &[]).await?;
        let status = self.visible_status(&scope).await?;
        status.accounts.iter().map(|account| AccountView::of(&scope, account, &status.findings)).collect()
    }

    /// One account, by id or name.
    pub(crate) async fn account(&self, caller: &Caller, wanted: &str) -> Result<AccountView, ReadError> {
        let scope = self.scope(caller, &[wanted.to_owned()]).await?;
        let status = self.visible_status(&scope).await?;
        let account = status.accounts.first().ok_or_else(|| ReadError::not_found("no account has that id or name"))?;
        AccountView::of(&scope, account, &status.findings)
    }

    /// The status as `status --json`. A role that sees a part of the accounts or channels gets that part.
    pub(crate) async fn status(&self, caller: &Caller) -> Result<Value, ReadError> {
        let scope = self.scope(caller, &[]).await?;
        let visible = self.visible_status(&scope).await?;
        let mut status = to_json(&visible)?;
        if !sees_everything(&scope)
            && let Some(fields) = status.as_object_mut()
        {
            // It counts the changes of all accounts.
            fields.insert("search_index".to_owned(), Value::Null);
            let account = |account: &AccountStatus| -> Result<Value, ReadError> {
                Ok(account_json(&scope, to_json(account)?, &account.sub_account_id))
            };
            let accounts = visible.accounts.iter().map(account).collect::<Result<Vec<Value>, ReadError>>()?;
            fields.insert("accounts".to_owned(), Value::Array(accounts));
        }
        Ok(status)
    }

    /// The audit as `audit --json`, over the visible accounts.
    pub(crate) async fn audit(&self, caller: &Caller, question: &AuditQuestion) -> Result<Value, ReadError> {
        to_json(&self.audit_report(caller, question).await?)
    }

    /// What was read, from the audit.
    pub(crate) async fn coverage(&self, caller: &Caller, question: &AuditQuestion) -> Result<Value, ReadError> {
        let scope = self.scope(caller, &question.accounts).await?;
        let report = self.run_audit_report(&scope, question).await?;
        let accounts = report.accounts.iter().map(coverage_of).collect::<Result<Vec<Value>, ReadError>>()?;
        Ok(json!({ "now": self.clock.now().rfc3339_secs(), "accounts": accounts }))
    }

    /// The report of an audit of the visible accounts.
    ///
    /// # Errors
    /// If the role shows only some channels of an account: an audit counts and names the segments of all.
    pub(crate) async fn audit_report(
        &self,
        caller: &Caller,
        question: &AuditQuestion,
    ) -> Result<AuditReport, ReadError> {
        let scope = self.scope(caller, &question.accounts).await?;
        if scope.hides_channels() {
            let message = "an audit counts all channels, and your role shows only some";
            return Err(
                ReadError::new(ReadFault::Forbidden, message).with_hint("use /coverage, or choose other accounts")
            );
        }
        let mut report = self.run_audit_report(&scope, question).await?;
        report.findings = self.visible_status(&scope).await?.findings;
        Ok(report)
    }

    async fn run_audit_report(&self, scope: &Scope<'_>, question: &AuditQuestion) -> Result<AuditReport, ReadError> {
        let (from, to, now) = (question.from, question.to, self.clock.now());
        let request_of = |sub| audit::AuditRequest {
            starts_with_first_read: question.starts_with_first_read,
            ..audit::AuditRequest::new(&self.settings, from, to, sub, now)
        };
        let audit = async {
            if scope.is_unlimited() {
                let request = request_of(None);
                return Ok(audit::run_audit(&self.db, &request).await?);
            }
            let mut reports = Vec::with_capacity(scope.accounts().len());
            for account in scope.accounts() {
                let sub = Some(account.id.sub.to_string());
                let request = request_of(sub);
                reports.push(audit::run_audit(&self.db, &request).await?);
            }
            Ok(AuditReport::combine(reports, now))
        };
        self.run_heavy(audit).await
    }
}

/// The part of a status about the visible accounts. Sums over more than that, and findings from them,
/// are left out.
pub(crate) fn restrict_status(
    mut status: Snapshot,
    is_visible: impl Fn(&str) -> bool,
    shows_all_channels: impl Fn(&str) -> bool,
) -> Snapshot {
    status.accounts.retain(|account| is_visible(&account.sub_account_id));
    status.backfills.retain(|backfill| is_visible(&backfill.sub_account_id));
    // Their figures are sums over all accounts and channels, as is that of the index.
    status.sinks.clear();
    status.search_index = IndexStatus::default();
    for account in &mut status.accounts {
        if !shows_all_channels(&account.sub_account_id) {
            hide_channel_sums(account);
        }
    }
    // Derived again from what is visible: a finding may sum up several accounts. What a daemon has
    // reported of one account, or of itself, cannot be derived.
    let mut reported = std::mem::take(&mut status.findings);
    reported.retain(|finding| finding.code.names_account() || finding.code.concerns_every_account());
    status.findings = derive_findings(&status, reported);
    status.findings.retain(|finding| finding.is_visible_to(&is_visible));
    status
}

/// Whether the caller sees all accounts and all channels.
fn sees_everything(scope: &Scope<'_>) -> bool {
    scope.is_unlimited() && !scope.hides_channels()
}

/// Removes what counts the segments of all channels, also as the input of findings.
fn hide_channel_sums(account: &mut AccountStatus) {
    account.work = WorkCounts::default();
    account.oldest_unfinished_seconds = None;
    account.drain_seconds = 0;
    account.set_aside = 0;
    (account.facts.failed_since, account.facts.aside_since) = (None, None);
}

/// The status of an account as JSON: what its role must not count is null, rather than zero.
fn account_json(scope: &Scope<'_>, status: Value, sub: &str) -> Value {
    if scope.shows_all_channels(sub) { status } else { without_channel_sums(status) }
}

/// The status of an account as JSON for a role that shows some of its channels.
pub(crate) fn without_channel_sums(mut status: Value) -> Value {
    if let Some(fields) = status.as_object_mut() {
        CHANNEL_SUMS.iter().for_each(|name| drop(fields.insert((*name).to_owned(), Value::Null)));
    }
    status
}

fn coverage_of(account: &AccountAudit) -> Result<Value, ReadError> {
    let mut audit = to_json(account)?;
    let kept =
        ["rc_account_id", "sub_account_id", "name", "range", "watermark", "passes", "last_looked", "gaps", "backfills"];
    if let Some(fields) = audit.as_object_mut() {
        fields.retain(|name, _| kept.contains(&name.as_str()));
    }
    Ok(audit)
}

fn to_json(value: &impl Serialize) -> Result<Value, ReadError> {
    serde_json::to_value(value)
        .map_err(|_| ReadError::new(ReadFault::Unavailable, "failed to write the answer as JSON"))
}
