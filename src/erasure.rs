//! Erasure on request, retention, and legal hold.
//!
//! This module selects the segments and quarantined records that a request or retention concerns,
//! leaves out those on hold, and has `db` delete the rest, a hundred segments per transaction. It
//! knows neither the API nor the pipeline: a result in flight for a deleted segment finds no work
//! item, and its tombstone keeps it from being ingested again.

mod hold_count;
mod hold_matching;
mod retention_pass;
mod retention_safety;
mod subject_search;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use crate::clock::Time;
use crate::db::{
    AccountKey, Db, DbError, DeletionBatch, DeletionCounts, DeletionReason, Hold, JournalAction, JournalEntry,
    QuarantinedText, SegmentRef, SegmentTexts,
};
use crate::model::{Certainty, Subject};
pub use hold_count::{HoldCount, count_holds};
use hold_matching::{find_hold, find_quarantine_hold, match_quarantined, participants_of};
pub use retention_pass::{
    RetentionCursor, delete_expired_quarantined, delete_expired_segments, find_unusual_pass, is_retention_due,
    load_notice, save_notice,
};
pub use retention_safety::{
    ClockCheck, DueSegments, MAX_CLOCK_DIFFERENCE, MAX_PASS_INTERVAL, NOTICE_PERIOD, PassDecision, RetentionClocks,
    RetentionNotice, decide_pass, describe_future_writes, pass_interval, retention_slack,
};

pub use subject_search::{SubjectSegments, find_subject_segments};

/// Segments that one transaction deletes: few enough not to delay the storing of results.
const SEGMENTS_PER_TRANSACTION: usize = 100;
/// Pause between two transactions, so that other writers get the lock.
const PAUSE_BETWEEN_TRANSACTIONS: Duration = Duration::from_millis(50);
/// Segments whose texts are in memory at a time.
const SEGMENTS_PER_PAGE: usize = 250;

/// A request for an erasure.
#[derive(Debug, Clone)]
pub struct ErasureRequest {
    /// What to erase.
    pub subject: Subject,
    /// Only in this account; `None` for all.
    pub account: Option<AccountKey>,
    /// Who requests it.
    pub who: String,
    /// Why, for the journal.
    pub reason: Option<String>,
    /// Also erase possible matches: a similar number, or a speaker who may be an agent.
    pub include_alike: bool,
    /// Also erase what cannot be read and so may contain the contact.
    pub include_unreadable: bool,
    /// The number of this erasure's entry in the access log, which then loses the subject, too.
    pub access_entry: Option<i64>,
}

/// What the person who requests an erasure has confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// The matches that the plan lists.
    Listed,
    /// Everything that matches, also what is announced before the erasure ends.
    Everything,
}

/// What an erasure deletes and what it leaves.
#[derive(Debug, Clone, Default)]
pub struct ErasurePlan {
    /// Segments to delete.
    pub segments: Vec<SegmentRef>,
    /// Segments that a hold keeps.
    pub held_segments: Vec<(SegmentRef, Hold)>,
    /// Those of them that cannot be read and so may concern a contact on hold.
    pub(crate) held_unreadable: Vec<SegmentRef>,
    /// Quarantined records to delete: account and digest.
    pub quarantined: Vec<(AccountKey, Vec<u8>)>,
    /// For each quarantined record that a hold keeps, the hold.
    pub quarantine_holds: Vec<Hold>,
    /// Those segments to delete that match by a national number where the request has an
    /// international one, or the other way round.
    pub national: Vec<SegmentRef>,
    /// Possible matches; left unless the request has `include_alike`.
    pub alike: Vec<SegmentRef>,
    /// Segments of which something cannot be read; left unless the request has
    /// `include_unreadable`.
    pub unreadable: Vec<SegmentRef>,
    /// Quarantined records that are possible matches; left unless the request has `include_alike`.
    pub alike_quarantined: Vec<QuarantinedText>,
    /// Quarantined records that cannot be read; left unless the request has `include_unreadable`.
    pub unreadable_quarantined: Vec<QuarantinedText>,
    /// Segments that match only since the confirmation; left.
    pub unconfirmed_segments: Vec<SegmentRef>,
    /// The number of quarantined records that match only since the confirmation; left.
    pub unconfirmed_records: u64,
    /// Segments with an agent of this name or id. Agents are not contacts, so these do not match.
    pub agent_segments: u64,
    /// An id that the archive does not have, to be refused when it is announced.
    pub(crate) unknown_id: Option<(AccountKey, String)>,
    newest_hold_id: i64,
}

impl ErasurePlan {
    /// Whether nothing matches, not even what is left or on hold.
    pub fn is_empty(&self) -> bool {
        !self.has_deletions() && !self.is_incomplete()
    }

    /// Whether there is anything to delete.
    pub fn has_deletions(&self) -> bool {
        !self.segments.is_empty() || !self.quarantined.is_empty() || self.unknown_id.is_some()
    }

    /// Whether any match or possible match is left.
    pub fn is_incomplete(&self) -> bool {
        self.has_holds()
            || self.has_unconfirmed()
            || !(self.alike.is_empty() && self.alike_quarantined.is_empty())
            || !(self.unreadable.is_empty() && self.unreadable_quarantined.is_empty())
    }

    /// Whether anything matches only since the confirmation.
    pub fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed_segments.is_empty() || self.unconfirmed_records > 0
    }

    /// Whether a hold keeps any of it.
    pub fn has_holds(&self) -> bool {
        !self.held_segments.is_empty() || !self.quarantine_holds.is_empty()
    }

    /// The holds that keep any of it, with the number of segments and records that each one keeps.
    pub fn holds(&self) -> Vec<(&Hold, u64)> {
        let mut holds: BTreeMap<i64, (&Hold, u64)> = BTreeMap::new();
        for hold in self.held_segments.iter().map(|(_, hold)| hold).chain(&self.quarantine_holds) {
            holds.entry(hold.id).or_insert((hold, 0)).1 += 1;
        }
        holds.into_values().collect()
    }

    /// Leaves what is not in the confirmed list. An unknown id stays: it is the id that was typed,
    /// and nothing is deleted for it.
    fn leave_unconfirmed(&mut self, listed: &ListedMatches) {
        let segments = std::mem::take(&mut self.segments).into_iter();
        (self.segments, self.unconfirmed_segments) = segments.partition(|segment| listed.has_segment(segment));
        let records = self.quarantined.len();
        self.quarantined.retain(|record| listed.quarantined.contains(record));
        self.unconfirmed_records = records.saturating_sub(self.quarantined.len()) as u64;
    }
}

/// The matches that a plan listed for the confirmation.
struct ListedMatches {
    segments: HashSet<i64>,
    quarantined: HashSet<(AccountKey, Vec<u8>)>,
    unknown_id: Option<(AccountKey, String)>,
}

impl ListedMatches {
    fn of(plan: &ErasurePlan) -> ListedMatches {
        ListedMatches {
            segments: plan.segments.iter().map(|segment| segment.key).collect(),
            quarantined: plan.quarantined.iter().cloned().collect(),
            unknown_id: plan.unknown_id.clone(),
        }
    }

    /// Whether it was listed, by its key or, before it was announced, by its id.
    fn has_segment(&self, segment: &SegmentRef) -> bool {
        let is_unknown =
            |(account, id): &(AccountKey, String)| *account == segment.account && *id == segment.segment_id;
        self.segments.contains(&segment.key) || self.unknown_id.as_ref().is_some_and(is_unknown)
    }
}

/// Finds what an erasure deletes and what it leaves. Calls `progress` with the number of segments
/// that were examined.
///
/// # Errors
/// Where the database cannot be read.
pub async fn plan_erasure(
    db: &Db,
    request: &ErasureRequest,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<ErasurePlan, DbError> {
    let newest_hold_id = db.newest_hold_id().await?;
    let holds = db.holds(request.account).await?;
    let mut plan = ErasurePlan { newest_hold_id, ..ErasurePlan::default() };
    let matches = if request.subject.is_contact() {
        find_contact_segments(db, request, &mut plan, progress).await?
    } else {
        db.segments_by_subject(&request.subject, request.account).await?
    };
    for page in matches.chunks(SEGMENTS_PER_PAGE) {
        let (held, unheld) = split_by_hold(db, &holds, page).await?;
        for (segment, hold, certainty) in held {
            if certainty == Certainty::Unreadable {
                plan.held_unreadable.push(segment.clone());
            }
            plan.held_segments.push((segment, hold));
        }
        plan.segments.extend(unheld);
    }
    find_quarantined(db, request, &holds, &mut plan).await?;
    if let (Subject::Segment(id), Some(account)) = (&request.subject, request.account)
        && plan.segments.is_empty()
        && !plan.has_holds()
    {
        match holds.iter().find(|hold| hold.subject.matches_ids(id, None)) {
            Some(hold) => plan.quarantine_holds.push(hold.clone()),
            None if db.tombstone(id, Some(account)).await?.is_some() => {}
            None => plan.unknown_id = Some((account, id.clone())),
        }
    }
    Ok(plan)
}

/// Adds the segments of a contact to the plan; returns those to delete.
async fn find_contact_segments(
    db: &Db,
    request: &ErasureRequest,
    plan: &mut ErasurePlan,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<SegmentRef>, DbError> {
    let found = find_subject_segments(db, &request.subject, request.account, progress).await?;
    let mut matches = found.segments;
    (plan.national, plan.agent_segments) = (found.national, found.agent_segments);
    (plan.alike, plan.unreadable) = (found.alike, found.unreadable);
    if request.include_alike {
        matches.append(&mut plan.alike);
    }
    if request.include_unreadable {
        matches.append(&mut plan.unreadable);
    }
    Ok(matches)
}

async fn texts_by_key(db: &Db, segments: &[SegmentRef]) -> Result<HashMap<i64, SegmentTexts>, DbError> {
    db.segment_texts(&segments.iter().map(|segment| segment.key).collect::<Vec<_>>()).await
}

/// Splits segments into those on hold and the others. Reads their texts only where a hold is on a
/// contact.
async fn split_by_hold(
    db: &Db,
    holds: &[Hold],
    segments: &[SegmentRef],
) -> Result<(Vec<(SegmentRef, Hold, Certainty)>, Vec<SegmentRef>), DbError> {
    let on_contacts = holds.iter().any(|hold| hold.subject.is_contact());
    let texts = if on_contacts { texts_by_key(db, segments).await? } else { HashMap::new() };
    let (mut held, mut unheld) = (Vec::new(), Vec::new());
    for segment in segments {
        let participants = on_contacts.then(|| participants_of(texts.get(&segment.key)));
        match find_hold(holds, segment, participants.as_ref()) {
            Some((hold, certainty)) => held.push((segment.clone(), hold.clone(), certainty)),
            None => unheld.push(segment.clone()),
        }
    }
    Ok((held, unheld))
}

/// Finds the matching quarantined records. There are few records in quarantine, so all are
/// examined.
async fn find_quarantined(
    db: &Db,
    request: &ErasureRequest,
    holds: &[Hold],
    plan: &mut ErasurePlan,
) -> Result<(), DbError> {
    let deleted_ids: HashSet<(AccountKey, &str)> =
        plan.segments.iter().map(|segment| (segment.account, segment.segment_id.as_str())).collect();
    let (mut quarantined, mut holding, mut alike, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut last: Option<QuarantinedText> = None;
    loop {
        let page = db.quarantined_page(request.account, None, last.as_ref(), SEGMENTS_PER_PAGE).await?;
        for record in &page {
            match match_quarantined(&request.subject, &deleted_ids, record) {
                Certainty::Not => continue,
                Certainty::Alike if !request.include_alike => {
                    alike.push(record.clone());
                    continue;
                }
                Certainty::Unreadable if !request.include_unreadable => {
                    unreadable.push(record.clone());
                    continue;
                }
                _ => {}
            }
            match find_quarantine_hold(holds, record) {
                Some(hold) => holding.push(hold.clone()),
                None => quarantined.push((record.account, record.digest.clone())),
            }
        }
        match page.into_iter().next_back() {
            Some(last_record) => last = Some(last_record),
            None => break,
        }
    }
    (plan.quarantined, plan.quarantine_holds) = (quarantined, holding);
    (plan.alike_quarantined, plan.unreadable_quarantined) = (alike, unreadable);
    Ok(())
}

/// Executes a plan. Where a hold was placed or the segment was announced in the meantime, it plans
/// again and returns the new plan; it then deletes nothing that is not confirmed. The journal records
/// what a hold keeps of the request.
///
/// # Errors
/// Where the database fails. Completed transactions stay in effect.
pub async fn execute_plan(
    db: &Db,
    request: &ErasureRequest,
    mut plan: ErasurePlan,
    confirmation: Confirmation,
    now: Time,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(DeletionCounts, ErasurePlan), DbError> {
    let mut total = DeletionCounts::default();
    let listed = ListedMatches::of(&plan);
    // First: an erasure that is repeated after an interruption finds no segment any more.
    if let Some(erasure) = request.access_entry {
        db.blank_access_texts(&request.subject, erasure).await?;
    }
    while !execute_batches(db, request, &plan, now, &mut total, progress).await? {
        plan = plan_erasure(db, request, &mut |_| {}).await?;
        if confirmation == Confirmation::Listed {
            plan.leave_unconfirmed(&listed);
        }
    }
    if plan.has_holds() {
        let counts = (plan.held_segments.len() as u64, plan.quarantine_holds.len() as u64);
        for (hold, _) in plan.holds() {
            let journal_entry = JournalEntry { hold: Some(hold.id), ..journal_entry(request, JournalAction::Refused) };
            db.add_journal_entry(&journal_entry, request.account, counts, now).await?;
        }
    }
    Ok((total, plan))
}

/// Deletes batch by batch; returns `false` where it must be planned again.
async fn execute_batches(
    db: &Db,
    request: &ErasureRequest,
    plan: &ErasurePlan,
    now: Time,
    total: &mut DeletionCounts,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<bool, DbError> {
    let journal_entry = journal_entry(request, JournalAction::Erase);
    for (nth, (account, batch)) in split_into_batches(plan).into_iter().enumerate() {
        if nth > 0 {
            // On SQLite, waiting writers only poll for the lock.
            tokio::time::sleep(PAUSE_BETWEEN_TRANSACTIONS).await;
        }
        let deletion = DeletionBatch {
            account,
            lease: None,
            segments: &batch.segments,
            quarantined: &batch.quarantined,
            unknown_ids: &batch.unknown_ids,
            reason: DeletionReason::Erased,
            newest_hold_id: plan.newest_hold_id,
            at: now,
            journal_entry: &journal_entry,
            access_entry: request.access_entry,
        };
        let Some(counts) = db.delete_batch(&deletion).await? else { return Ok(false) };
        total.add(counts);
        progress(counts.segments);
    }
    Ok(true)
}

fn journal_entry(request: &ErasureRequest, what: JournalAction) -> JournalEntry {
    JournalEntry {
        who: request.who.clone(),
        what,
        subject: Some(request.subject.clone()),
        hold: None,
        reason: request.reason.clone(),
    }
}

#[derive(Default)]
struct AccountBatch {
    segments: Vec<i64>,
    quarantined: Vec<Vec<u8>>,
    unknown_ids: Vec<String>,
}

/// Splits a plan into batches, each for one account and one transaction.
fn split_into_batches(plan: &ErasurePlan) -> Vec<(AccountKey, AccountBatch)> {
    let mut by_account: BTreeMap<AccountKey, AccountBatch> = BTreeMap::new();
    for segment in &plan.segments {
        by_account.entry(segment.account).or_default().segments.push(segment.key);
    }
    for (account, digest) in &plan.quarantined {
        by_account.entry(*account).or_default().quarantined.push(digest.clone());
    }
    if let Some((account, id)) = &plan.unknown_id {
        by_account.entry(*account).or_default().unknown_ids.push(id.clone());
    }
    let mut batches = Vec::new();
    for (account, mut batch) in by_account {
        while batch.segments.len() > SEGMENTS_PER_TRANSACTION {
            let rest = batch.segments.split_off(SEGMENTS_PER_TRANSACTION);
            batches.push((
                account,
                AccountBatch { segments: std::mem::replace(&mut batch.segments, rest), ..AccountBatch::default() },
            ));
        }
        batches.push((account, batch));
    }
    batches
}
