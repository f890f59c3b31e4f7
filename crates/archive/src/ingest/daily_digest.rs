//! The daily digest of announced segments, and latency histograms. Both are updated in the
//! transaction that they describe.
//!
//! A day holds the number of its segments and the sum of their ids' digests, so that two sets can
//! be compared without the segments.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{AccountKey, Arg, DbError, Stmt, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::sha256;

/// What to add to each UTC day: segments, and the two halves of the digest.
#[derive(Default)]
pub(crate) struct DailyDigest(BTreeMap<i64, (i64, i64, i64)>);

impl DailyDigest {
    pub(crate) fn add(&mut self, ended: Time, digest: (i64, i64), sign: i64) {
        let day = self.0.entry(utc_day(ended)).or_default();
        day.0 += sign;
        day.1 = day.1.wrapping_add(digest.0.wrapping_mul(sign));
        day.2 = day.2.wrapping_add(digest.1.wrapping_mul(sign));
    }
}

/// Counts by account, kind and bucket of [`latency_bucket`].
#[derive(Default)]
pub(crate) struct LatencyHistogram(BTreeMap<(AccountKey, &'static str, i64), i64>);

impl LatencyHistogram {
    pub(crate) fn add(&mut self, account: AccountKey, kind: &'static str, latency: Duration) {
        *self.0.entry((account, kind, latency_bucket(latency))).or_default() += 1;
    }
}

/// The binary logarithm of the seconds: 0 for less than 2 s, 1 for less than 4 s, and so on.
fn latency_bucket(latency: Duration) -> i64 {
    i64::from(latency.as_secs().max(1).ilog2())
}

/// Two halves of a segment id's hash. Their wrapping sums over a set of ids do not depend on the
/// order.
pub(crate) fn segment_id_digest(segment_id: &str) -> (i64, i64) {
    let hash = sha256(segment_id.as_bytes());
    let half = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[at..at + 8]);
        i64::from_be_bytes(bytes)
    };
    (half(0), half(8))
}

/// The UTC day of a time, as table `announced` counts; -1 stands for "no end time". No segment ended
/// on the real day -1: a time before 1970 is not read as an end time (`lenient_time`).
pub(crate) fn utc_day(ended: Time) -> i64 {
    if ended == Time::NONE { -1 } else { ended.0.div_euclid(86_400_000) }
}

impl Tx {
    /// Only the lease holder writes an account's digest, so a read and a later write do not race.
    pub(crate) async fn add_to_daily_digest(
        &mut self,
        account: AccountKey,
        digest: DailyDigest,
    ) -> Result<(), DbError> {
        for (day, (segments, high, low)) in digest.0 {
            let stmt = sql("select segments, digest_high, digest_low from announced where account = $1 and day = $2");
            let held = self.first::<(i64, i64, i64)>(stmt.bind(account).bind(day)).await?.unwrap_or_default();
            let stmt = sql(
                "insert into announced (account, day, segments, digest_high, digest_low) values ($1, $2, $3, $4, $5)
                 on conflict (account, day) do update set segments = excluded.segments,
                 digest_high = excluded.digest_high, digest_low = excluded.digest_low",
            );
            let stmt = stmt.bind(account).bind(day).bind(held.0 + segments);
            self.run(stmt.bind(held.1.wrapping_add(high)).bind(held.2.wrapping_add(low))).await?;
        }
        Ok(())
    }

    /// Adds latencies of many accounts in one statement: a batch of results covers many.
    pub(crate) async fn add_latencies(&mut self, histogram: LatencyHistogram) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = histogram
            .0
            .into_iter()
            .map(|((account, kind, bucket), count)| vec![account.into(), kind.into(), bucket.into(), count.into()])
            .collect();
        self.run(Stmt::rows(
            "insert into lateness (account, kind, bucket, count) values ",
            rows,
            " on conflict (account, kind, bucket) do update set count = lateness.count + excluded.count",
        ))
        .await
        .map(drop)
    }
}
