//! What the last verification of the whole archive found, for people who look at its state. It is a note
//! in the database, and proves nothing: whoever alters the archive can alter it, too.

use serde::{Deserialize, Serialize};

use super::{VerifyReport, VerifyRequest};
use crate::db::{Db, DbError};

/// The result of the last verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastVerification {
    /// When it began, RFC 3339.
    pub(crate) at: String,
    /// Whether nothing was altered.
    pub(crate) intact: bool,
    pub(crate) verdict: String,
    pub(crate) problems: u64,
}

/// Notes the result of a verification of the whole archive. The verification counts without the note,
/// which a read-only archive does not take.
pub(crate) async fn record_result(db: &Db, request: &VerifyRequest, report: &VerifyReport) {
    if request.account.is_some() {
        return;
    }
    let last = LastVerification {
        at: request.now.rfc3339_secs(),
        intact: report.intact,
        verdict: report.verdict.clone(),
        problems: report.problem_count,
    };
    let Ok(note) = serde_json::to_string(&last) else { return };
    if let Err(error) = db.record_verification(&note).await {
        tracing::debug!(%error, "failed to note the result of the verification");
    }
}

/// The noted result; `None` if there is none.
///
/// # Errors
/// If the database cannot be read.
pub(crate) async fn last_result(db: &Db) -> Result<Option<LastVerification>, DbError> {
    let note = db.last_verification().await?;
    Ok(note.and_then(|note| serde_json::from_str(&note).ok()))
}
