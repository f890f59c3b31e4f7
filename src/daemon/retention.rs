//! Applies retention, now and then, to the accounts that this process owns.
//!
//! What is past it goes in small transactions with pauses in between, so that results never wait for it; an account where
//! nothing is due costs one look at an index.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::account::Account;
use crate::clock::Tick;
use crate::db::{DbError, DbFault, Erased};
use crate::health::{Finding, Severity};
use crate::keeping::{self, Cursor};

/// How often retention is looked at.
const RETENTION: Duration = Duration::from_secs(3600);
/// And no more often than that, however short it is.
const SHORTEST: Duration = Duration::from_secs(1);
/// Between two transactions.
const BREATH: Duration = Duration::from_millis(100);
/// How often the index is made to forget for good what retention took.
const FORGET: Duration = Duration::from_secs(24 * 3600);

/// Goes on until `stop`.
///
/// # Errors
/// Where waiting will not help.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut retention = Retention { shared, forgotten: None };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = retention.work() => ended,
    }
}

struct Retention {
    shared: Arc<Shared>,
    /// When the index last forgot; `None` until it first has.
    forgotten: Option<Tick>,
}

impl Retention {
    async fn work(&mut self) -> anyhow::Result<()> {
        while !self.shared.in_session() {
            self.shared.clock.sleep(SHORTEST).await;
        }
        loop {
            let accounts = self.shared.accounts();
            let spans = accounts.iter().filter_map(|account| account.policy.retention);
            let pause = spans.min().map_or(RETENTION, |least| (least / 10).clamp(SHORTEST, RETENTION));
            let mut sum = Erased::default();
            for account in &accounts {
                sum.add(self.retention(account).await?);
            }
            self.forget(sum).await;
            self.shared.clock.sleep(pause).await;
        }
    }

    /// Takes what is past retention; a database that is away is asked again at the next turn.
    async fn retention(&self, account: &Account) -> anyhow::Result<Erased> {
        match self.expire(account).await {
            Ok(sum) => Ok(sum),
            // Another replica sees to it now.
            Err(error) if error.fault() == DbFault::Lost => Ok(Erased::default()),
            Err(error) if error.is_passing() => {
                tracing::warn!(account = %account.id, %error, "failed to apply retention; trying again later");
                Ok(Erased::default())
            }
            Err(error) => Err(error).with_context(|| format!("failed to apply retention to account {}", account.id)),
        }
    }

    async fn expire(&self, account: &Account) -> Result<Erased, DbError> {
        let (db, now) = (&account.db, account.clock.now());
        let mut sum = Erased::default();
        let Some(kept) = account.policy.retention else { return Ok(sum) };
        if !keeping::is_due(db, account.owned.account, kept, now).await? {
            self.report_unreadable(account, 0);
            return Ok(sum);
        }
        let who = format!("retention@{}", self.shared.settings.database.instance);
        let (cutoff, mut cursor) = (now - kept, Cursor::default());
        while let Some(taken) = keeping::expire(db, account.owned, cutoff, &who, now, &mut cursor).await? {
            sum.add(taken);
            account.clock.sleep(BREATH).await;
        }
        self.report_unreadable(account, cursor.unreadable);
        sum.add(keeping::expire_asides(db, account.owned, cutoff, &who, now).await?);
        if sum != Erased::default() {
            tracing::info!(account = %account.id, segments = sum.segments, records = sum.records, "past retention: erased");
        }
        Ok(sum)
    }

    /// What is past retention, cannot be read, and may be of a contact on hold: it stays until a person decides.
    fn report_unreadable(&self, account: &Account, segments: u64) {
        const CODE: &str = "unreadable_on_hold";
        if segments == 0 {
            self.shared.findings.clear(CODE, Some(&account.id.sub));
            return;
        }
        let finding = Finding {
            code: CODE,
            severity: Severity::Warning,
            since: account.clock.now(),
            subject: Some(account.id.sub.to_string()),
            sentence: format!(
                "retention keeps {segments} segments that cannot be read, since they may be of a contact on hold"
            ),
            hint: "`ringcx-extractor erase --contact … --dry-run` names them; they go when no hold is on a contact any more"
                .to_owned(),
            blocks_progress: false,
        };
        if self.shared.findings.report(finding) {
            tracing::warn!(account = %account.id, segments, "past retention and kept: they cannot be read, and may be of a contact on hold");
        }
    }

    /// The index is made to forget once a day: it costs much, and retention takes something nearly every day.
    async fn forget(&mut self, sum: Erased) {
        let now = self.shared.clock.tick();
        let is_time = self.forgotten.is_none_or(|last| now.since(last) >= FORGET);
        if sum.segments == 0 || !is_time {
            return;
        }
        match self.shared.db.forget_for_good().await {
            Ok(()) => self.forgotten = Some(now),
            Err(error) => {
                tracing::warn!(%error, "failed to have the index forget what retention took; trying again later")
            }
        }
    }
}
