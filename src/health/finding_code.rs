//! The codes of findings, and what each code implies.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies a kind of finding. The name in `snake_case` is for programs and never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "docs/operations.md describes each code")]
pub enum FindingCode {
    AccountIdUnusable,
    AccountLeftOut,
    AccountListFailed,
    AccountMissing,
    AccountUnread,
    AnswersBroken,
    ApiMoved,
    BackfillUnfinished,
    Backlog,
    ClockSkew,
    CoverageGaps,
    CredentialExpires,
    DatabaseAway,
    DatabaseUnusable,
    DiskFull,
    DocumentsNotIndexed,
    EndpointPaused,
    ItemsFailed,
    Lagging,
    LedgerDiffers,
    LoginFailing,
    LoginRefused,
    ManifestAhead,
    ManifestsNotExported,
    NoDaemon,
    NoMetadataRead,
    RateLimited,
    RecordingStoreFailed,
    RecordingsMissing,
    RecordsSetAside,
    RetentionPaused,
    RetentionWaits,
    SearchIndexBehind,
    SearchIndexFailed,
    SinkEventsFailed,
    SinkResting,
    SinkStopped,
    Standby,
    UnreadableOnHold,
    /// A code that another version of the program reported.
    #[serde(untagged)]
    Other(String),
}

/// What a finding is about, as `/readyz` groups findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FindingCategory {
    Database,
    Disk,
    Login,
    /// The progress of accounts.
    Accounts,
    Leases,
    Sink,
    #[serde(rename = "finding")]
    Other,
}

impl FindingCode {
    /// What the finding is about.
    pub(crate) fn category(&self) -> FindingCategory {
        use FindingCode as Code;
        match self {
            Code::DatabaseAway => FindingCategory::Database,
            Code::DiskFull => FindingCategory::Disk,
            Code::LoginFailing | Code::LoginRefused => FindingCategory::Login,
            Code::AccountMissing
            | Code::AnswersBroken
            | Code::EndpointPaused
            | Code::NoMetadataRead
            | Code::RateLimited => FindingCategory::Accounts,
            Code::Standby => FindingCategory::Leases,
            Code::SinkEventsFailed | Code::SinkResting | Code::SinkStopped => FindingCategory::Sink,
            _ => FindingCategory::Other,
        }
    }

    /// Whether it means that the archive lacks something: `audit` exits 1 for the same reason.
    pub fn is_incompleteness(&self) -> bool {
        matches!(
            self,
            FindingCode::AccountUnread
                | FindingCode::BackfillUnfinished
                | FindingCode::CoverageGaps
                | FindingCode::ItemsFailed
                | FindingCode::LedgerDiffers
                | FindingCode::RecordsSetAside
        )
    }

    /// Whether the subject of a reported finding is a sub-account.
    pub(crate) fn names_account(&self) -> bool {
        matches!(
            self,
            FindingCode::AccountIdUnusable
                | FindingCode::ManifestAhead
                | FindingCode::RetentionPaused
                | FindingCode::RetentionWaits
                | FindingCode::UnreadableOnHold
        )
    }
}

impl fmt::Display for FindingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}
