//! Whether the visible accounts are complete: the reconciliation report with the audit behind it, the last
//! verification, and the legal holds.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::overview::AuditQuestion;
use super::{ArchiveReader, ReadError};
use crate::access::{Caller, Permission};
use crate::audit::AuditReport;
use crate::db::{AccountKey, AccountRow, ExportRange, Hold};
use crate::report::{ReconciliationReport, Verification};
use crate::verify::{self, LastVerification};

/// What is known about completeness.
#[derive(Debug, Serialize)]
pub(crate) struct CompletenessView {
    /// By account and day; null for a role that shows only some channels: it counts and names the
    /// segments of all.
    pub(crate) report: Option<ReconciliationReport>,
    /// What the report was made from; null with it.
    pub(crate) audit: Option<AuditReport>,
    /// What was read of each account, where there is no report.
    pub(crate) coverage: Option<Value>,
    /// The last verification of the whole archive; null if there was none, or for a role that shows a part.
    pub(crate) verification: Option<LastVerification>,
    /// The legal holds; null for callers that may place none.
    pub(crate) holds: Option<Vec<HoldView>>,
}

/// A legal hold.
#[derive(Debug, Serialize)]
pub(crate) struct HoldView {
    pub(crate) id: i64,
    /// Null for all accounts.
    pub(crate) sub_account_id: Option<String>,
    /// `segment`, `dialog` or `contact`.
    pub(crate) kind: &'static str,
    pub(crate) value: String,
    pub(crate) placed: String,
    pub(crate) who: String,
    pub(crate) reason: Option<String>,
}

impl ArchiveReader {
    /// Whether anything is missing, by account and day.
    pub(crate) async fn completeness(
        &self,
        caller: &Caller,
        question: &AuditQuestion,
    ) -> Result<CompletenessView, ReadError> {
        let scope = self.scope(caller, &question.accounts).await?;
        let holds = self.visible_holds(caller, scope.accounts()).await?;
        if scope.hides_channels() {
            let coverage = Some(self.coverage(caller, question).await?);
            return Ok(CompletenessView { report: None, audit: None, coverage, verification: None, holds });
        }
        let audit = self.audit_report(caller, question).await?;
        let range = ExportRange { from: question.from, to: question.to, account: None };
        let visible: BTreeMap<String, AccountKey> =
            scope.accounts().iter().map(|account| (account.id.sub.to_string(), account.key)).collect();
        let days = self.run_heavy(async { Ok(crate::report::read_days(&self.db, range).await?) }).await?;
        let verification = match scope.is_unlimited() {
            true => verify::last_result(&self.db).await?,
            false => None,
        };
        let verified = verification.as_ref().map_or_else(Verification::none, Verification::of_last);
        let names =
            scope.accounts().iter().filter_map(|account| Some((account.id.sub.to_string(), account.name.clone()?)));
        let report = ReconciliationReport::combine(
            audit.clone(),
            days,
            (&visible, &names.collect()),
            (question.from, question.to),
            verified,
        );
        Ok(CompletenessView { report: Some(report), audit: Some(audit), coverage: None, verification, holds })
    }

    /// The holds in accounts where the caller may place some. A hold may name a person.
    async fn visible_holds(
        &self,
        caller: &Caller,
        accounts: &[AccountRow],
    ) -> Result<Option<Vec<HoldView>>, ReadError> {
        if !caller.may(Permission::Erase) {
            return Ok(None);
        }
        let account_of = |hold: &Hold| accounts.iter().find(|account| Some(account.key) == hold.account);
        let is_visible = |hold: &Hold| match (hold.account, account_of(hold)) {
            (None, _) => caller.may_everywhere(Permission::Erase),
            (Some(_), Some(account)) => caller.may_in_account(Permission::Erase, &account.id.sub),
            (Some(_), None) => false,
        };
        let holds = self.db.holds(None).await?;
        let view = |hold: &Hold| HoldView {
            id: hold.id,
            sub_account_id: account_of(hold).map(|account| account.id.sub.to_string()),
            kind: hold.subject.kind(),
            value: hold.subject.value().to_owned(),
            placed: hold.placed.rfc3339(),
            who: hold.who.clone(),
            reason: hold.reason.clone(),
        };
        Ok(Some(holds.iter().filter(|hold| is_visible(hold)).map(view).collect()))
    }
}
