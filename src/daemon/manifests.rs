//! Writes each account's manifest soon after a UTC day is over: where its hash chain stands.
//!
//! Only the account's owner does. An account to which nothing has come since its last manifest writes none. A day is over
//! when it is by the earliest of all clocks, and they agree: one that is written too early keeps later ones from being
//! written until its day is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::retention::{API_TIME_PATIENCE, read_clocks};
use super::shared::Shared;
use crate::account::Account;
use crate::clock::{Tick, Time};
use crate::db::{Db, DbError, DbFault, Owned};
use crate::health::{Finding, Severity};
use crate::keeping::{CLOCKS_AGREE_WITHIN, ClockCheck, RetentionClocks};

/// How often is looked whether a day is over or an account has come.
const LOOK: Duration = Duration::from_secs(60);

/// The finding that an account's newest manifest is of a day that is still to come.
const AHEAD: &str = "manifest_ahead";

/// Goes on until `stop`.
///
/// # Errors
/// Where waiting will not help.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut sealer = Sealer::default();
    let mut unknown_since = None;
    // An account is taken a moment after the start, and has nothing to seal that cannot wait.
    loop {
        let look = shared.clock.tick() + LOOK;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = shared.clock.sleep_until(look) => {}
        }
        let Some(clocks) = read_clocks(&shared).await else { continue };
        let Some(now) = sealing_time(&clocks, &mut unknown_since, shared.clock.tick()) else { continue };
        let accounts = shared.accounts();
        let owned: Vec<Owned> = accounts.iter().map(|account| account.owned).collect();
        let sealed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            sealed = sealer.step(&shared.db, &owned, now) => sealed,
        };
        report(&shared, &accounts, &sealer.ahead);
        match sealed {
            Ok(0) => {}
            Ok(manifests) => tracing::info!(manifests, "a day is over: sealed where each account stands"),
            // The session says it, once for all.
            Err(error) if error.is_passing() => tracing::debug!(%error, "the manifests wait for the database"),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What time it is for manifests: by the earliest of all clocks, where they agree. An API that tells no time is not waited
/// for longer than an hour: a manifest erases nothing.
fn sealing_time(clocks: &RetentionClocks, unknown_since: &mut Option<Tick>, tick: Tick) -> Option<Time> {
    let mut check = clocks.check();
    if check != ClockCheck::Unknown {
        *unknown_since = None;
    } else if tick.since(*unknown_since.get_or_insert(tick)) >= API_TIME_PATIENCE {
        check = clocks.check_without_api();
    }
    if let ClockCheck::Agree(now) = check { Some(now) } else { None }
}

/// Reports accounts whose newest manifest is of a day to come, and no others.
fn report(shared: &Shared, accounts: &[Arc<Account>], ahead: &BTreeMap<i64, Time>) {
    let findings = &shared.findings;
    let of = |account: &Arc<Account>| Some((account.id.sub.to_string(), *ahead.get(&account.owned.account)?));
    let found: BTreeMap<String, Time> = accounts.iter().filter_map(of).collect();
    for known in findings.list().iter().filter(|known| known.code == AHEAD) {
        if let Some(sub) = known.subject.as_deref().filter(|sub| !found.contains_key(*sub)) {
            findings.clear(AHEAD, Some(sub));
        }
    }
    for (sub, begins) in found {
        let date = begins.timestamp().strftime("%Y-%m-%d");
        let sentence = format!(
            "the newest manifest of account {sub} is of {date}, which is still to come: a clock was ahead; no other is written \
             before that day is over"
        );
        let hint = "export where the account stands daily until then: `ringcx-extractor verify --manifests FILE --manifests-only`";
        if findings.report(Finding {
            code: AHEAD,
            severity: Severity::Warning,
            since: shared.clock.now(),
            subject: Some(sub),
            sentence: sentence.clone(),
            hint: hint.to_owned(),
            blocks_progress: false,
        }) {
            tracing::warn!(hint, "{sentence}");
        }
    }
}

/// Knows which accounts have been looked at today, so that it costs the database next to nothing.
#[derive(Debug, Default)]
pub struct Sealer {
    /// By account: epoch, and the day that had begun.
    done: BTreeMap<i64, (i64, i64)>,
    /// Accounts whose newest manifest is of a day that is still to come, and when that begins.
    ahead: BTreeMap<i64, Time>,
}

impl Sealer {
    /// Seals what is due; returns how many manifests were written.
    ///
    /// # Errors
    /// Where the database does not take them. What was lost to another owner is no error: that one seals it.
    pub async fn step(&mut self, db: &Db, owned: &[Owned], now: Time) -> Result<u64, DbError> {
        let today = now.0.div_euclid(86_400_000);
        let mut sealed = 0;
        for owned in owned {
            if self.done.get(&owned.account) == Some(&(owned.epoch, today)) {
                continue;
            }
            match db.seal_day(*owned, now).await {
                Ok(manifest) => sealed += u64::from(manifest.is_some()),
                Err(error) if error.fault() == DbFault::Lost => {}
                Err(error) => return Err(error),
            }
            // Clocks that agree may be some minutes apart, around midnight too.
            match db.manifest_ahead(owned.account, now + CLOCKS_AGREE_WITHIN).await? {
                Some(begins) => self.ahead.insert(owned.account, begins),
                None => self.ahead.remove(&owned.account),
            };
            self.done.insert(owned.account, (owned.epoch, today));
        }
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000_000);

    #[test]
    fn a_day_is_over_by_the_earliest_of_clocks_that_agree_and_an_api_without_a_date_is_waited_for_an_hour() {
        let at = |seconds| Tick(Duration::from_secs(seconds));
        let api = |api: &[Time]| RetentionClocks { machine: NOW, api: api.to_vec(), ..RetentionClocks::default() };
        let mut since = None;
        assert_eq!(sealing_time(&api(&[]), &mut since, at(10)), None);
        assert_eq!(sealing_time(&api(&[]), &mut since, at(3_609)), None);
        assert_eq!(sealing_time(&api(&[]), &mut since, at(3_610)), Some(NOW));
        let earlier = NOW - Duration::from_secs(60);
        assert_eq!(sealing_time(&api(&[earlier]), &mut since, at(3_611)), Some(earlier));
        assert_eq!(sealing_time(&api(&[NOW - Duration::from_secs(400 * 86_400)]), &mut since, at(9_999)), None);
        assert_eq!(since, None);
    }
}
