//! Records the course of the accounts that this replica owns, for the charts of the console.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use super::replica_stats;
use crate::db::{AccountKey, DbError, MeasureSample};
use crate::health::{AccountLevels, Snapshot};
use crate::status;

/// The time between two samples: two in the shortest period.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(300);
/// How soon a replica that owns nothing yet, or whose sample failed, tries again.
const RETRY_INTERVAL: Duration = Duration::from_secs(20);

/// The items that each account had completed at the last sample.
type DoneCounts = HashMap<AccountKey, u64>;

/// Runs until `stop`.
///
/// # Errors
/// None. The supervisor reports an unavailable database.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let work = async {
        let mut done = DoneCounts::new();
        loop {
            let wait = match record_sample(&context, &mut done).await {
                Ok(0) => RETRY_INTERVAL,
                Ok(_) => SAMPLE_INTERVAL,
                Err(error) => {
                    tracing::debug!(%error, "failed to record the course of the accounts; trying again");
                    RETRY_INTERVAL
                }
            };
            context.clock.sleep(wait).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}

/// Records a sample of each account that this replica owns; returns their number.
///
/// # Errors
/// If the database cannot be read or written.
async fn record_sample(context: &AppContext, done: &mut DoneCounts) -> Result<usize, DbError> {
    if !context.is_active() {
        return Ok(0);
    }
    let (settings, now) = (&context.settings, context.clock.now());
    let own = replica_stats::replica_stats(context);
    let status = status::gather(&context.db, settings, &settings.database.instance, Some(own), now).await?;
    let accounts = context.db.accounts().await?;
    let keys = accounts.iter().map(|account| (&*account.id.sub, account.key)).collect();
    let (samples, counted) = own_samples(&status, &keys, done);
    if !samples.is_empty() {
        context.db.record_measures(&samples, now).await?;
        *done = counted;
    }
    Ok(samples.len())
}

/// A sample of each account that the replica of this snapshot owns, and what they have completed.
fn own_samples(
    status: &Snapshot,
    keys: &HashMap<&str, AccountKey>,
    before: &DoneCounts,
) -> (Vec<MeasureSample>, DoneCounts) {
    let levels = AccountLevels::new(&status.findings);
    let mut counted = DoneCounts::new();
    let own = status.accounts.iter().filter(|account| account.owner.as_deref() == Some(&status.instance));
    let samples = own.filter_map(|account| {
        let key = *keys.get(account.sub_account_id.as_str())?;
        counted.insert(key, account.work.done);
        Some(MeasureSample {
            account: key,
            level: levels.of(&account.sub_account_id) as i64,
            lag: account.lag(status.now),
            unfinished: account.work.unfinished(),
            // The first sample of a process has nothing to compare with.
            done: before.get(&key).map_or(0, |before| account.work.done.saturating_sub(*before)),
            requests: account.requests_last_minute,
        })
    });
    (samples.collect(), counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Time;
    use crate::health::{AccountStatus, Finding, FindingCode, HealthLevel, Severity, WorkCounts};

    #[test]
    fn a_replica_samples_its_own_accounts_and_counts_what_they_completed_since() {
        let now = Time(1_800_000_000_000);
        let account = |sub: &str, owner: &str, done: u64| AccountStatus {
            sub_account_id: sub.to_owned(),
            owner: Some(owner.to_owned()),
            watermark: Some(now - Duration::from_secs(90)),
            work: WorkCounts { done, ready: 2, ..WorkCounts::default() },
            requests_last_minute: 7,
            ..AccountStatus::default()
        };
        let late = Finding::new(FindingCode::Lagging, Severity::Warning, now, "late", "wait");
        let status = Snapshot {
            now,
            instance: "host-1".to_owned(),
            accounts: vec![account("one", "host-1", 110), account("two", "host-2", 5)],
            findings: vec![late.about_accounts("one".to_owned(), vec!["one".to_owned()])],
            ..Snapshot::default()
        };
        let keys = HashMap::from([("one", AccountKey(1)), ("two", AccountKey(2))]);
        let (samples, counted) = own_samples(&status, &keys, &HashMap::from([(AccountKey(1), 100)]));
        let expected = MeasureSample {
            account: AccountKey(1),
            level: HealthLevel::Behind as i64,
            lag: Some(Duration::from_secs(90)),
            unfinished: 2,
            done: 10,
            requests: 7,
        };
        assert_eq!((samples, &counted), (vec![expected], &HashMap::from([(AccountKey(1), 110)])));
        let (first, _) = own_samples(&status, &keys, &DoneCounts::new());
        assert_eq!(first[0].done, 0);
    }
}
