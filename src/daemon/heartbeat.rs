//! The heartbeat: a task of its own that renews this replica's leases and waits for nothing but the database.
//!
//! Whoever may not send any more is stopped here: an account that has another owner, and every account while the database
//! must not be used (its file was replaced, or a newer version has migrated it). On Postgres a lease also ends by itself
//! where no heartbeat renews it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::beat;
use super::shared::Shared;
use crate::account::Account;
use crate::clock::{Tick, Time};
use crate::db::{Db, DbError, NameLock, Owned, Picture, Unusable};
use crate::health::{Finding, Severity};

/// How often a heartbeat is written.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);
/// How long after a heartbeat its replica may still send: so long before it is taken for dead that what it sent has arrived.
pub(super) const SENDS_FOR: Duration = Duration::from_secs(7);

/// How often the mark in SQLite's file is renewed, by which a backup that is copied over it is noticed.
const STAMP_INTERVAL: Duration = Duration::from_secs(120);

/// The code of the finding that the database must not be used.
const UNUSABLE: &str = "database_unusable";

/// One heartbeat, and the picture that it brought.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    /// When it began: leases are counted from here.
    pub(super) tick: Tick,
    /// What the database held, or why it could not be asked.
    pub(super) outcome: Result<Arc<Picture>, String>,
    /// Whether a newer version has migrated the database: accounts are released and none are taken.
    pub(super) outdated: bool,
}

/// The leases that the heartbeat renews.
#[derive(Default)]
pub(super) struct Leases {
    held: Mutex<Vec<Arc<Account>>>,
    hurry: Notify,
    drained: AtomicBool,
}

impl Leases {
    /// Replaces the accounts whose leases are renewed.
    pub(super) fn set(&self, held: Vec<Arc<Account>>) {
        *self.held() = held;
    }

    /// Adds an account whose lease is renewed.
    pub(super) fn add(&self, account: Arc<Account>) {
        self.held().push(account);
    }

    /// Has the next heartbeat follow at once.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Says that nothing is held any more, so that an outdated replica may stop writing.
    pub(super) fn set_drained(&self, drained: bool) {
        self.drained.store(drained, Ordering::Relaxed);
    }

    fn held(&self) -> MutexGuard<'_, Vec<Arc<Account>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes heartbeats.
pub(super) struct Heartbeat {
    pub(super) shared: Arc<Shared>,
    /// The database over connections of the heartbeat's own.
    pub(super) db: Db,
    pub(super) name: NameLock,
    pub(super) started: Time,
    /// When the mark in SQLite's file was last renewed.
    pub(super) stamped: Tick,
    pub(super) leases: Arc<Leases>,
    pub(super) beats: watch::Sender<Option<Beat>>,
}

impl Heartbeat {
    /// Runs until `stop`; gives the instance lock back, for the goodbye.
    ///
    /// # Errors
    /// Where the database fails in a way that waiting does not cure.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<NameLock> {
        loop {
            let tick = self.shared.clock.tick();
            let done = tokio::select! {
                () = stop.cancelled() => return Ok(self.name),
                done = self.step(tick) => done,
            };
            let (outcome, outdated) = match done {
                Ok((picture, outdated)) => (Ok(Arc::new(picture)), outdated),
                Err(error) if self.shared.db.recovers_from(&error) => {
                    self.renew_credentials();
                    (Err(error.to_string()), false)
                }
                Err(error) => return Err(error.into()),
            };
            self.beats.send_replace(Some(Beat { tick, outcome, outdated }));
            tokio::select! {
                () = stop.cancelled() => return Ok(self.name),
                () = self.shared.clock.sleep_until(tick + HEARTBEAT_INTERVAL) => {}
                () = self.leases.hurry.notified() => {}
            }
        }
    }

    async fn step(&mut self, tick: Tick) -> Result<(Picture, bool), DbError> {
        let unusable = self.db.unusable().await?;
        let outdated = matches!(unusable, Some(Unusable::Newer { .. }));
        self.report(unusable).await?;
        self.hold_name().await?;
        let row = beat::row(&self.shared, self.started, None);
        let before: Vec<Owned> = self.leases.held().iter().map(|account| account.owned).collect();
        let picture = self.db.beat(&row, self.shared.clock.now()).await?;
        self.renew(&picture, &before, tick);
        self.renew_stamp(tick).await;
        Ok((picture, outdated))
    }

    async fn renew_stamp(&mut self, tick: Tick) {
        if tick.since(self.stamped) < STAMP_INTERVAL {
            return;
        }
        self.stamped = tick;
        if let Err(error) = self.db.renew_stamp().await {
            tracing::debug!(%error, "failed to renew the mark in the database file; the old one counts on");
        }
    }

    /// Reports that the database must not be used, stops all sending, and all writing once there is nothing to hand over.
    async fn report(&self, unusable: Option<Unusable>) -> Result<(), DbError> {
        let (shared, code) = (&self.shared, UNUSABLE);
        let Some(unusable) = unusable else {
            shared.db.suspend(None);
            if shared.findings.clear(code, None) {
                tracing::info!("the database can be used again");
            }
            return Ok(());
        };
        let (sentence, hint) = (unusable.to_string(), unusable.hint());
        let finding = Finding {
            code,
            severity: Severity::Trouble,
            since: shared.clock.now(),
            subject: None,
            sentence: sentence.clone(),
            hint: hint.to_owned(),
            blocks_progress: true,
        };
        if shared.findings.report(finding) {
            tracing::error!(hint, "{sentence}");
        }
        match unusable {
            Unusable::Newer { .. } if self.leases.drained.load(Ordering::Relaxed) => {
                if !shared.db.is_suspended() {
                    let now = shared.clock.now();
                    self.db.beat(&beat::row(shared, self.started, Some(now)), now).await?;
                    tracing::warn!("all accounts are released; nothing is written any more");
                }
                shared.db.suspend(Some(sentence));
            }
            Unusable::Newer { .. } => {}
            Unusable::Replaced { .. } | Unusable::LogRemoved { .. } => {
                for account in self.leases.held().iter() {
                    account.pacer.deadline(Some(Tick::default()));
                }
                shared.db.suspend(Some(sentence));
            }
        }
        Ok(())
    }

    async fn hold_name(&mut self) -> Result<(), DbError> {
        if self.name.still().await.is_err() {
            let name = &self.shared.settings.database.instance;
            self.name = self.db.lock_name_again(name, &self.name).await?;
        }
        Ok(())
    }

    /// Renews the leases that still hold, and ends those of accounts that have another owner now. So does an epoch that is
    /// lower than that of a lease from `before` the picture: the database was put back to an earlier state.
    fn renew(&self, picture: &Picture, before: &[Owned], tick: Tick) {
        let epochs: BTreeMap<i64, i64> = picture.accounts.iter().map(|row| (row.account, row.epoch)).collect();
        let until = lease_end(&self.shared, tick);
        for account in self.leases.held().iter() {
            let owned = account.owned;
            let lost = epochs
                .get(&owned.account)
                .is_none_or(|epoch| *epoch > owned.epoch || (*epoch < owned.epoch && before.contains(&owned)));
            account.pacer.deadline(if lost { Some(Tick::default()) } else { until });
        }
    }

    /// A password may have been rotated: what the settings name is read again.
    fn renew_credentials(&self) {
        match self.shared.settings.database.reread() {
            Ok(Some(url)) => {
                if let Err(error) = self.shared.db.set_url(&url) {
                    tracing::debug!(%error, "failed to use the database URL that was read again");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "failed to read the database URL again"),
        }
    }
}

/// Until when a lease holds that was renewed at `tick`. On SQLite nobody else can take an account over.
pub(super) fn lease_end(shared: &Shared, tick: Tick) -> Option<Tick> {
    shared.db.file().is_none().then(|| tick + SENDS_FOR)
}
