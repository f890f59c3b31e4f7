//! Whether the segments' metadata is what was received, and whether the segments are those that were announced.

use std::collections::BTreeMap;

use super::report::{AccountReport, Problem, ProblemKind, Problems};
use crate::clock::Time;
use crate::db::{Chain, Db, DbError, ExportRange, IdCount};
use crate::proof::day_name;

const DAY: i64 = 86_400_000;

/// Reads all metadata, then compares each day's segments with the ledger of announcements.
pub(super) async fn check(
    db: &Db,
    chains: &[Chain],
    account: Option<i64>,
    accounts: &mut [AccountReport],
    problems: &mut Problems,
    progress: &mut impl FnMut(u64),
) -> Result<(), DbError> {
    let sub = |key: i64| chains.iter().find(|chain| chain.account == key).map_or("", |chain| &*chain.id.sub);
    let mut held: BTreeMap<(i64, i64), IdCount> = BTreeMap::new();
    let mut last = 0;
    loop {
        let page = db.metadata_after(account, last).await?;
        let Some(end) = page.last() else { break };
        last = end.key;
        for row in &page {
            for what in row.faults.iter().copied() {
                problems.add(Problem::new(ProblemKind::Metadata, sub(row.account), what).segment(&row.segment_id));
            }
            let day = held.entry((row.account, row.day)).or_default();
            day.segments += 1;
            day.digest_high = day.digest_high.wrapping_add(row.id_digest.0);
            day.digest_low = day.digest_low.wrapping_add(row.id_digest.1);
        }
        progress(page.len() as u64);
    }
    for ((key, _), count) in &held {
        if let Some(account) = accounts.iter_mut().find(|account| account.key == *key) {
            account.segments += u64::try_from(count.segments).unwrap_or(0);
        }
    }
    let mut announced: BTreeMap<(i64, i64), IdCount> =
        db.announced_days(account).await?.into_iter().map(|(key, day, count)| ((key, day), count)).collect();
    for place in held.keys() {
        announced.entry(*place).or_default();
    }
    for ((key, day), count) in announced {
        // What was announced or erased while all this was read is no difference: the day alone is looked at again.
        if count != held.get(&(key, day)).copied().unwrap_or_default()
            && let Some(what) = difference(db, key, day).await?
        {
            let problem = Problem::new(ProblemKind::Segments, sub(key), what);
            problems.add(if day < 0 { problem } else { problem.day(day_name(day)) });
        }
    }
    Ok(())
}

/// In what a day's segments differ from what was announced, as of one moment.
async fn difference(db: &Db, account: i64, day: i64) -> Result<Option<String>, DbError> {
    let whole = ExportRange { account: Some(account), ..ExportRange::default() };
    let range = if day < 0 {
        whole
    } else {
        let from = day.saturating_mul(DAY);
        ExportRange { from: Some(Time(from)), to: Some(Time(from.saturating_add(DAY))), ..whole }
    };
    let days = db.snapshot().await?.days(range).await?;
    Ok(days.into_iter().find(|row| row.day == day && row.announced != row.held).map(|row| {
        let (announced, held) = (row.announced.segments, row.held.segments);
        if announced == held {
            format!("{held} segments are held, as many as were announced, but they are not the same")
        } else {
            format!("{announced} segments were announced and {held} are held")
        }
    }))
}
