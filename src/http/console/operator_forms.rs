//! The actions on accounts and backfills, with the code of the API's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::action::ConsoleAction;
use crate::access::Caller;
use crate::clock::Time;
use crate::health::humanize::format_count;
use crate::http::api::account_actions::{carry_out_cancel, carry_out_resume};
use crate::http::api::actions::{BackfillBody, carry_out_backfill};
use crate::http::api::problem::Problem;
use crate::http::state::HttpState;

/// Queues a backfill of a past range of one account.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Backfill {
    account: String,
    from: String,
    to: String,
}

impl ConsoleAction for Backfill {
    const NAME: &'static str = "backfill";

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, is_confirmed: bool) -> Result<String, Problem> {
        let body = BackfillBody {
            from: utc_time(&self.from),
            to: utc_time(&self.to),
            account: Some(self.account),
            oldest_first: false,
            confirm: is_confirmed,
        };
        carry_out_backfill(&state, &caller, &body).await?;
        Ok(format!(
            "The backfill from {} to {} is queued; a running daemon reads it as the limits allow.",
            body.from, body.to
        ))
    }
}

/// A time as a browser's field gives it, which has no zone: it stands for UTC, as all times here.
fn utc_time(text: &str) -> String {
    let with_seconds = format!("{text}:00Z");
    match (Time::parse(text), Time::parse(&with_seconds)) {
        (None, Some(_)) => with_seconds,
        _ => text.to_owned(),
    }
}

/// Cancels a backfill.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CancelBackfill {
    id: String,
}

impl ConsoleAction for CancelBackfill {
    const NAME: &'static str = "cancel-backfill";

    fn confirmation(&self) -> Option<String> {
        Some(format!(
            "Cancel backfill {}? What it has read already is kept; the rest of its range stays unread until it is requested again.",
            self.id
        ))
    }

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, _: bool) -> Result<String, Problem> {
        carry_out_cancel(&state, &caller, &self.id).await?;
        Ok(format!("Backfill {} is cancelled.", self.id))
    }
}

/// Ends the pauses and waits of accounts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Resume {
    /// Sub-account ids, with commas between them.
    accounts: String,
}

impl ConsoleAction for Resume {
    const NAME: &'static str = "resume";

    async fn carry_out(self, state: Arc<HttpState>, caller: Caller, _: bool) -> Result<String, Problem> {
        let subs: Vec<String> = self.accounts.split(',').map(|sub| sub.trim().to_owned()).collect();
        let (_, resumed) = carry_out_resume(&state, &caller, &subs).await?;
        let count = format_count(resumed.accounts.len() as u64, "account", "accounts");
        Ok(format!("The pauses and waits of {count} are ended; a running daemon tries again now, within the limits."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_a_browsers_field_stands_for_utc() {
        assert_eq!(utc_time("2026-11-20T08:15"), "2026-11-20T08:15:00Z");
        for other in ["2026-11-20T08:15:00Z", "36h", "2026-11-20", "nonsense"] {
            assert_eq!(utc_time(other), other);
        }
    }
}
