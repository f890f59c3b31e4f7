//! Writes the daily manifest of each account soon after a UTC day is over. It states the head of
//! the account's hash chain.
//!
//! Only the account's owner writes it, and only if the account changed since its last manifest. A
//! day is over when the earliest of all clocks says so and the clocks agree: a manifest that is
//! written too early prevents later ones until its day is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use super::retention::{API_TIME_TIMEOUT, read_clocks};
use crate::account::Account;
use crate::clock::{Tick, Time};
use crate::db::{AccountKey, Db, DbError, DbFault, Lease};
use crate::erasure::{ClockCheck, MAX_CLOCK_DIFFERENCE, RetentionClocks};
use crate::health::{Finding, FindingCode, Severity};

/// The time between two checks for a completed day or a new account.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Runs until `stop`.
///
/// # Errors
/// If the database fails with an error that is not transient.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut writer = ManifestWriter::default();
    let mut unknown_since = None;
    // The first check waits too: accounts are acquired a moment after the start, and no manifest is
    // urgent.
    loop {
        let next_check = context.clock.tick() + CHECK_INTERVAL;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = context.clock.sleep_until(next_check) => {}
        }
        let Some(clocks) = read_clocks(&context).await else { continue };
        let Some(now) = manifest_time(&clocks, &mut unknown_since, context.clock.tick()) else { continue };
        let accounts = context.accounts();
        let leases: Vec<Lease> = accounts.iter().map(|account| account.lease).collect();
        let written = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            written = writer.write_due_manifests(&context.db, &leases, now) => written,
        };
        report_ahead(&context, &accounts, &writer.ahead);
        match written {
            Ok(0) => {}
            Ok(manifests) => tracing::info!(manifests, "a day is over: wrote the daily manifests"),
            // The supervisor logs it, once for all tasks.
            Err(error) if error.is_transient() => tracing::debug!(%error, "the daily manifests wait for the database"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time for manifests: the earliest of all clocks, if they agree. An API without a time is
/// waited for at most an hour, since a manifest deletes nothing.
fn manifest_time(clocks: &RetentionClocks, unknown_since: &mut Option<Tick>, tick: Tick) -> Option<Time> {
    let mut check = clocks.check();
    if check != ClockCheck::Unknown {
        *unknown_since = None;
    } else if tick.since(*unknown_since.get_or_insert(tick)) >= API_TIME_TIMEOUT {
        check = clocks.check_without_api();
    }
    if let ClockCheck::Agree(now) = check { Some(now) } else { None }
}

/// Reports the accounts whose newest manifest is of a future day, and clears the findings of all
/// others.
fn report_ahead(context: &AppContext, accounts: &[Arc<Account>], ahead: &BTreeMap<AccountKey, Time>) {
    let findings = &context.findings;
    let of = |account: &Arc<Account>| Some((account.id.sub.to_string(), *ahead.get(&account.lease.account)?));
    let found: BTreeMap<String, Time> = accounts.iter().filter_map(of).collect();
    findings.clear_outdated(&FindingCode::ManifestAhead, |sub| found.contains_key(sub));
    for (sub, begins) in found {
        let date = begins.timestamp().strftime("%Y-%m-%d");
        let sentence = format!(
            "the newest manifest of account {sub} is of {date}, which is in the future: a clock was ahead; no further manifest is \
             written before that day is over"
        );
        let hint = "until then, export the account's chain heads daily: `ringcx-extractor verify --manifests FILE --manifests-only`";
        let (code, since) = (FindingCode::ManifestAhead, context.clock.now());
        findings.report_and_log(Finding::new(code, Severity::Warning, since, sentence, hint).about(sub));
    }
}

/// Writes manifests. It remembers which accounts are done for the day, so that a check costs the
/// database almost nothing.
#[derive(Debug, Default)]
pub struct ManifestWriter {
    /// By account: the lease's epoch, and the day of the last check.
    written: BTreeMap<AccountKey, (i64, i64)>,
    /// Accounts whose newest manifest is of a future day, and when that day begins.
    ahead: BTreeMap<AccountKey, Time>,
}

impl ManifestWriter {
    /// Writes the due manifests. Returns their number.
    ///
    /// # Errors
    /// If the database fails. A lost lease is no error: the new owner writes the manifest.
    pub async fn write_due_manifests(&mut self, db: &Db, leases: &[Lease], now: Time) -> Result<u64, DbError> {
        let today = now.0.div_euclid(86_400_000);
        let mut manifests = 0;
        for lease in leases {
            if self.written.get(&lease.account) == Some(&(lease.epoch, today)) {
                continue;
            }
            match db.write_daily_manifest(*lease, now).await {
                Ok(manifest) => manifests += u64::from(manifest.is_some()),
                Err(error) if error.fault() == DbFault::LeaseLost => {}
                Err(error) => return Err(error),
            }
            // Clocks that agree can differ by some minutes, also around midnight.
            match db.future_manifest_day(lease.account, now + MAX_CLOCK_DIFFERENCE).await? {
                Some(begins) => self.ahead.insert(lease.account, begins),
                None => self.ahead.remove(&lease.account),
            };
            self.written.insert(lease.account, (lease.epoch, today));
        }
        Ok(manifests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    #[test]
    fn manifests_follow_the_earliest_agreeing_clock_and_wait_an_hour_for_an_api_without_a_date() {
        let at = |seconds| Tick(Duration::from_secs(seconds));
        let api = |api: &[Time]| RetentionClocks { machine: NOW, api: api.to_vec(), ..RetentionClocks::default() };
        let mut since = None;
        assert_eq!(manifest_time(&api(&[]), &mut since, at(10)), None);
        assert_eq!(manifest_time(&api(&[]), &mut since, at(3_609)), None);
        assert_eq!(manifest_time(&api(&[]), &mut since, at(3_610)), Some(NOW));
        let earlier = NOW - Duration::from_secs(60);
        assert_eq!(manifest_time(&api(&[earlier]), &mut since, at(3_611)), Some(earlier));
        assert_eq!(manifest_time(&api(&[NOW - Duration::from_secs(400 * 86_400)]), &mut since, at(9_999)), None);
        assert_eq!(since, None);
    }
}
