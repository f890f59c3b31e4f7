//! Checks that the metadata of segments is unchanged, and that the segments are those that were
//! announced.

use std::collections::BTreeMap;

use super::verify_report::{AccountReport, IntegrityProblem, IntegrityProblemKind, ProblemList};
use crate::clock::Time;
use crate::db::{AccountChain, AccountKey, Db, DbError, ExportRange, SegmentSetDigest};
use crate::proof::format_day;

const MS_PER_DAY: i64 = 86_400_000;

/// Reads all metadata, then compares the segments of each day with the daily digests of announced
/// segments.
pub(super) async fn check(
    db: &Db,
    chains: &[AccountChain],
    account: Option<AccountKey>,
    accounts: &mut [AccountReport],
    problems: &mut ProblemList,
    progress: &mut impl FnMut(u64),
) -> Result<(), DbError> {
    let sub = |key: AccountKey| chains.iter().find(|chain| chain.account == key).map_or("", |chain| &*chain.id.sub);
    let mut held: BTreeMap<(AccountKey, i64), SegmentSetDigest> = BTreeMap::new();
    let mut last = 0;
    loop {
        let page = db.metadata_after(account, last).await?;
        let Some(end) = page.last() else { break };
        last = end.key;
        for row in &page {
            for what in row.faults.iter().copied() {
                problems.add(
                    IntegrityProblem::new(IntegrityProblemKind::Metadata, sub(row.account), what)
                        .segment(&row.segment_id),
                );
            }
            let day = held.entry((row.account, row.day)).or_default();
            day.segments += 1;
            day.digest_high = day.digest_high.wrapping_add(row.segment_id_digest.0);
            day.digest_low = day.digest_low.wrapping_add(row.segment_id_digest.1);
        }
        progress(page.len() as u64);
    }
    for ((key, _), count) in &held {
        if let Some(account) = accounts.iter_mut().find(|account| account.key == *key) {
            account.segments += u64::try_from(count.segments).unwrap_or(0);
        }
    }
    let mut announced: BTreeMap<(AccountKey, i64), SegmentSetDigest> =
        db.announced_digests(account).await?.into_iter().map(|(key, day, count)| ((key, day), count)).collect();
    for place in held.keys() {
        announced.entry(*place).or_default();
    }
    for ((key, day), count) in announced {
        // Segments may have been announced or erased during the read, so the day is read again in
        // one snapshot.
        if count != held.get(&(key, day)).copied().unwrap_or_default()
            && let Some(what) = describe_difference(db, key, day).await?
        {
            let problem = IntegrityProblem::new(IntegrityProblemKind::Segments, sub(key), what);
            problems.add(if day < 0 { problem } else { problem.day(format_day(day)) });
        }
    }
    Ok(())
}

/// Describes how the segments of a day differ from the announced ones, in one snapshot.
async fn describe_difference(db: &Db, account: AccountKey, day: i64) -> Result<Option<String>, DbError> {
    let whole = ExportRange { account: Some(account), ..ExportRange::default() };
    let range = if day < 0 {
        whole
    } else {
        let from = day.saturating_mul(MS_PER_DAY);
        ExportRange { from: Some(Time(from)), to: Some(Time(from.saturating_add(MS_PER_DAY))), ..whole }
    };
    let days = db.snapshot().await?.daily_digests(range).await?;
    Ok(days.into_iter().find(|row| row.day == day && row.announced != row.stored).map(|row| {
        let (announced, held) = (row.announced.segments, row.stored.segments);
        if announced == held {
            format!("{held} segments are stored, as many as were announced, but they are not the same")
        } else {
            format!("{announced} segments were announced, but {held} are stored")
        }
    }))
}
