//! Saved state of the adaptive throttle after a 429 response, for the next user of the same rate
//! limit.
//!
//! One row per rate limit in table `meta`. It is written on each 429 response, which is rare, and
//! read when leases are acquired. It expires by its time and is not deleted.

use std::collections::BTreeMap;

use super::{AccountKey, Db, DbError, sql};
use crate::clock::Time;
use crate::ringcx::rate_limit::MAX_RETRY_AFTER;

/// The throttle's state after a 429 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedThrottle {
    /// When the 429 response arrived.
    pub at: Time,
    /// No request may be sent before.
    pub until: Time,
    /// Number of consecutive pauses.
    pub times: u32,
    /// The share of the limit to continue at, in millionths.
    pub rate_share_ppm: u32,
}

impl Db {
    /// Saves the throttle of a rate limit.
    pub async fn save_throttle(&self, budget: &str, throttle: &SavedThrottle, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        // Stored by the database's clock, which all processes share.
        let offset_ms = tx.clock_offset_ms(now).await?;
        let SavedThrottle { at, until, times, rate_share_ppm } = *throttle;
        let value =
            format!("{} {} {times} {rate_share_ppm}", at.plus_millis(offset_ms).0, until.plus_millis(offset_ms).0);
        tx.put_meta(&format!("refused:{budget}"), &value).await?;
        tx.commit().await
    }

    /// Requests that an account is resumed now: deletes the throttles of these rate limits, and
    /// ends the account's pauses. The daemon sees it in [`Db::resume_requests`] once the change
    /// version is bumped.
    pub async fn request_resume(&self, account: AccountKey, budgets: &[String], now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        for budget in budgets {
            tx.delete_meta(&format!("refused:{budget}")).await?;
        }
        tx.run(sql("update pause set until = $2 where account = $1 and until > $2").bind(account).bind(now)).await?;
        let stmt = sql("insert into meta (key, value) values ($1, '1') on conflict (key)
             do update set value = cast(cast(meta.value as bigint) + 1 as text)");
        tx.run(stmt.bind(format!("resume:{account}"))).await?;
        tx.commit().await
    }

    /// Number of resume requests, by account.
    pub async fn resume_requests(&self) -> Result<BTreeMap<AccountKey, i64>, DbError> {
        let rows: Vec<(String, String)> =
            self.all(sql("select key, value from meta where key like 'resume:%'")).await?;
        let parse = |(key, value): (String, String)| {
            Some((AccountKey(key.strip_prefix("resume:")?.parse().ok()?), value.parse().ok()?))
        };
        Ok(rows.into_iter().filter_map(parse).collect())
    }

    /// Saved throttles by rate limit, in the caller's clock. Expired ones are included.
    pub async fn saved_throttles(&self, now: Time) -> Result<BTreeMap<String, SavedThrottle>, DbError> {
        let database_now = self.database_now(now).await?;
        let stmt = sql("select key, value from meta where key >= 'refused:' and key < 'refused;'");
        let rows: Vec<(String, String)> = self.all(stmt).await?;
        let parse = |(key, value): &(String, String)| {
            Some((key.strip_prefix("refused:")?.to_owned(), parse_throttle(value, database_now, now)?))
        };
        Ok(rows.iter().filter_map(parse).collect())
    }
}

/// Parses a stored value; `None` if it cannot be parsed.
fn parse_throttle(value: &str, database_now: Time, now: Time) -> Option<SavedThrottle> {
    let numbers: Vec<i64> = value.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [at, until, times, rate_share_ppm] = numbers[..] else { return None };
    // A time ahead was written before a clock was set back: treat it as now.
    let shift = now.0.saturating_sub(database_now.0.max(at));
    let number = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    Some(SavedThrottle {
        at: Time(at).plus_millis(shift),
        // An earlier version stored longer waits if the server asked for them.
        until: Time(until).plus_millis(shift).min(now + MAX_RETRY_AFTER),
        times: number(times),
        rate_share_ppm: number(rate_share_ppm),
    })
}
