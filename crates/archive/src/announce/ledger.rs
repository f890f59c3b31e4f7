//! The ledger of what was announced, by day, and how late things were: counted in the transaction in which they happen.
//!
//! A day has the number of its segments and the sum of their ids' digests, so that two ledgers can be compared without
//! the segments.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::super::{Arg, DbError, Tx, sql};
use crate::clock::Time;

/// What to add to each day of the ledger: segments, digest.
#[derive(Default)]
pub(crate) struct Ledger(BTreeMap<i64, (i64, i64, i64)>);

impl Ledger {
    pub(crate) fn count(&mut self, ended: Time, digest: (i64, i64), sign: i64) {
        let day = self.0.entry(day_of(ended)).or_default();
        day.0 += sign;
        day.1 = day.1.wrapping_add(digest.0.wrapping_mul(sign));
        day.2 = day.2.wrapping_add(digest.1.wrapping_mul(sign));
    }
}

/// How many things were how late, by account and kind.
#[derive(Default)]
pub(crate) struct Late(BTreeMap<(i64, &'static str, i64), i64>);

impl Late {
    pub(crate) fn count(&mut self, account: i64, kind: &'static str, late: Duration) {
        *self.0.entry((account, kind, bucket(late))).or_default() += 1;
    }
}

/// Seconds as a power of two: 0 for less than 2, 1 for less than 4, and so on.
fn bucket(late: Duration) -> i64 {
    i64::from(late.as_secs().max(1).ilog2())
}

/// Two halves of a hash of a segment's id; their wrapping sums over a set of ids do not depend on the order.
pub(crate) fn id_digest(segment_id: &str) -> (i64, i64) {
    let hash = Sha256::digest(segment_id.as_bytes());
    let half = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash[at..at + 8]);
        i64::from_be_bytes(bytes)
    };
    (half(0), half(8))
}

/// The UTC day of a moment, as the ledger of announcements counts; -1 stands for "no end time".
pub(crate) fn day_of(ended: Time) -> i64 {
    if ended == Time::NONE { -1 } else { ended.0.div_euclid(86_400_000) }
}

impl Tx {
    /// One owner writes an account's ledger, so reading and writing it back is safe here.
    pub(crate) async fn add_to_ledger(&mut self, account: i64, ledger: Ledger) -> Result<(), DbError> {
        for (day, (segments, high, low)) in ledger.0 {
            let stmt = sql("select segments, digest_high, digest_low from announced where account = $1 and day = $2");
            let held = match self.first(stmt.bind(account).bind(day)).await? {
                Some(row) => (row.int(0)?, row.int(1)?, row.int(2)?),
                None => (0, 0, 0),
            };
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

    /// Counts how late things were, of all accounts at once: a batch of results is of many.
    pub(crate) async fn add_lateness(&mut self, late: Late) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = late
            .0
            .into_iter()
            .map(|((account, kind, bucket), count)| vec![account.into(), kind.into(), bucket.into(), count.into()])
            .collect();
        self.run_rows(
            "insert into lateness (account, kind, bucket, count) values ",
            rows,
            " on conflict (account, kind, bucket) do update set count = lateness.count + excluded.count",
        )
        .await
        .map(drop)
    }
}
