//! Retention passes: finds and deletes what is past its retention.

use std::time::Duration;

use super::hold_matching::find_quarantine_hold;
use super::retention_safety::{DueSegments, RetentionNotice, is_long_overdue, retention_slack};
use super::{SEGMENTS_PER_PAGE, SEGMENTS_PER_TRANSACTION, split_by_hold};
use crate::clock::{Time, millis};
use crate::db::{
    AccountKey, Db, DbError, DeletionBatch, DeletionCounts, DeletionReason, JournalAction, JournalEntry, Lease,
    QuarantinedText, RetentionNoticeRow,
};
use crate::model::Certainty;

/// How far a retention pass has got in an account.
#[derive(Debug, Clone, Copy)]
pub struct RetentionCursor {
    ended: Time,
    key: i64,
    /// How many segments it left because they cannot be read and a hold is on a contact.
    pub unreadable: u64,
}

impl Default for RetentionCursor {
    fn default() -> RetentionCursor {
        RetentionCursor { ended: Time::NONE, key: i64::MIN, unreadable: 0 }
    }
}

/// Whether anything of an account is past its retention by more than [`retention_slack`].
///
/// # Errors
/// Where the database cannot be read.
pub async fn is_retention_due(db: &Db, account: AccountKey, retention: Duration, now: Time) -> Result<bool, DbError> {
    let cutoff = now - retention - retention_slack(retention);
    let RetentionCursor { ended, key, .. } = RetentionCursor::default();
    Ok(!db.segments_ended_before(account, cutoff, (ended, key), 1).await?.is_empty()
        || !db.quarantined_page(Some(account), Some(cutoff), None, 1).await?.is_empty())
}

/// What a pass would delete of an account, if that is more than retention usually deletes;
/// otherwise `None`. Segments on hold do not count.
///
/// # Errors
/// Where the database cannot be read.
pub async fn find_unusual_pass(
    db: &Db,
    account: AccountKey,
    retention: Duration,
    cutoff: Time,
) -> Result<Option<DueSegments>, DbError> {
    // Segments with an unknown end come first. They do not tell how long anything is overdue.
    let known = (Time::NONE.plus_millis(1), i64::MIN);
    let oldest = db.segments_ended_before(account, cutoff, known, 1).await?.first().map(|segment| segment.ended);
    let Some(oldest) = oldest.filter(|oldest| is_long_overdue(retention, cutoff, *oldest)) else {
        return Ok(None);
    };
    let (due, total) = db.count_ended_before(account, cutoff).await?;
    let mut due_segments = DueSegments { oldest, due, total };
    let holds = db.holds(Some(account)).await?;
    if due_segments.is_unusual(retention, cutoff) && !holds.is_empty() {
        let (mut unheld, mut after) = (Vec::new(), known);
        loop {
            let page = db.segments_ended_before(account, cutoff, after, SEGMENTS_PER_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = (last.ended, last.key);
            unheld.extend(split_by_hold(db, &holds, &page).await?.1.into_iter().map(|segment| segment.ended));
        }
        due_segments =
            DueSegments { oldest: unheld.first().copied().unwrap_or(cutoff), due: unheld.len() as u64, total };
    }
    Ok(due_segments.is_unusual(retention, cutoff).then_some(due_segments))
}

/// The notice of an unusual pass of an account, where there is one.
///
/// # Errors
/// Where the database cannot be read.
pub async fn load_notice(db: &Db, account: AccountKey) -> Result<Option<RetentionNotice>, DbError> {
    Ok(db.retention_notice(account).await?.map(|row| RetentionNotice {
        retention: Duration::from_millis(row.retention_ms.unsigned_abs()),
        announced: row.announced,
        waited: Duration::from_millis(row.waited_ms.unsigned_abs()),
        segments: row.segments.unsigned_abs(),
        approved: row.approved,
    }))
}

/// Stores a notice, so that it survives a restart. It does not change a stored approval.
///
/// # Errors
/// Where the database fails.
pub async fn save_notice(db: &Db, account: AccountKey, notice: &RetentionNotice) -> Result<(), DbError> {
    let row = RetentionNoticeRow {
        retention_ms: millis(notice.retention),
        announced: notice.announced,
        waited_ms: millis(notice.waited),
        segments: i64::try_from(notice.segments).unwrap_or(i64::MAX),
        approved: notice.approved,
    };
    db.save_retention_notice(account, &row).await
}

/// Deletes the next page of an account's segments that are past retention, except those on hold.
/// Returns `None` at the end.
///
/// # Errors
/// `DbFault::LeaseLost` where the account has another owner now.
pub async fn delete_expired_segments(
    db: &Db,
    lease: Lease,
    cutoff: Time,
    who: &str,
    now: Time,
    cursor: &mut RetentionCursor,
) -> Result<Option<DeletionCounts>, DbError> {
    let newest_hold_id = db.newest_hold_id().await?;
    let holds = db.holds(Some(lease.account)).await?;
    let page =
        db.segments_ended_before(lease.account, cutoff, (cursor.ended, cursor.key), SEGMENTS_PER_TRANSACTION).await?;
    let Some(last) = page.last() else { return Ok(None) };
    let (held, unheld) = split_by_hold(db, &holds, &page).await?;
    let unreadable = held.iter().filter(|(_, _, certainty)| *certainty == Certainty::Unreadable).count() as u64;
    let next = RetentionCursor { ended: last.ended, key: last.key, unreadable: cursor.unreadable + unreadable };
    let segments: Vec<i64> = unheld.iter().map(|segment| segment.key).collect();
    let counts = delete_expired(db, lease, &segments, &[], (newest_hold_id, who, now)).await?;
    // Where a hold was placed in the meantime, the next call examines the same page again.
    if counts.is_some() {
        *cursor = next;
    }
    Ok(Some(counts.unwrap_or_default()))
}

/// Deletes an account's quarantined records of windows past retention, except those on hold.
///
/// # Errors
/// `DbFault::LeaseLost` where the account has another owner now.
pub async fn delete_expired_quarantined(
    db: &Db,
    lease: Lease,
    cutoff: Time,
    who: &str,
    now: Time,
) -> Result<DeletionCounts, DbError> {
    let newest_hold_id = db.newest_hold_id().await?;
    let holds = db.holds(Some(lease.account)).await?;
    let mut total = DeletionCounts::default();
    let mut last: Option<QuarantinedText> = None;
    loop {
        let page =
            db.quarantined_page(Some(lease.account), Some(cutoff), last.as_ref(), SEGMENTS_PER_TRANSACTION).await?;
        let unheld = page.iter().filter(|record| find_quarantine_hold(&holds, record).is_none());
        let digests: Vec<Vec<u8>> = unheld.map(|record| record.digest.clone()).collect();
        let Some(counts) = delete_expired(db, lease, &[], &digests, (newest_hold_id, who, now)).await? else {
            return Ok(total);
        };
        total.add(counts);
        match page.into_iter().next_back() {
            Some(last_record) => last = Some(last_record),
            None => return Ok(total),
        }
    }
}

async fn delete_expired(
    db: &Db,
    lease: Lease,
    segments: &[i64],
    quarantined: &[Vec<u8>],
    (newest_hold_id, who, at): (i64, &str, Time),
) -> Result<Option<DeletionCounts>, DbError> {
    if segments.is_empty() && quarantined.is_empty() {
        return Ok(Some(DeletionCounts::default()));
    }
    let journal_entry =
        JournalEntry { who: who.to_owned(), what: JournalAction::Retention, subject: None, hold: None, reason: None };
    let deletion = DeletionBatch {
        account: lease.account,
        lease: Some(lease),
        segments,
        quarantined,
        unknown_ids: &[],
        reason: DeletionReason::Expired,
        newest_hold_id,
        at,
        journal_entry: &journal_entry,
        // The ids of what has expired stay in the access log, which has a retention of its own.
        access_entry: None,
    };
    db.delete_batch(&deletion).await
}
