//! Counts what legal holds keep.

use super::hold_matching::{covers_account, holds_quarantined, participants_of};
use super::{SEGMENTS_PER_PAGE, texts_by_key};
use crate::db::{AccountKey, Db, DbError, Hold, QuarantinedText, SegmentRef};
use crate::model::Certainty;

/// How much of the current archive a hold keeps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldCount {
    /// Segments.
    pub segments: u64,
    /// Those of them that are possible matches only.
    pub possible: u64,
    /// Those of the possible matches that cannot be read.
    pub(crate) unreadable: Vec<SegmentRef>,
    /// Quarantined records.
    pub records: u64,
    /// Segments with an agent of the contact's name or id. The hold does not keep them.
    pub agent_segments: u64,
}

impl HoldCount {
    /// Whether it keeps nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments == 0 && self.records == 0
    }
}

/// Counts what each of these holds keeps. For contacts it reads all segments, and calls `progress`
/// with their number.
///
/// # Errors
/// Where the database cannot be read.
pub async fn count_holds(
    db: &Db,
    holds: &[Hold],
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<HoldCount>, DbError> {
    let mut counts = vec![HoldCount::default(); holds.len()];
    for (hold, count) in holds.iter().zip(&mut counts).filter(|(hold, _)| !hold.subject.is_contact()) {
        count.segments = db.segments_by_subject(&hold.subject, hold.account).await?.len() as u64;
    }
    let mut after = i64::MIN;
    while holds.iter().any(|hold| hold.subject.is_contact()) {
        let page = db.segment_page(common_account(holds), after, SEGMENTS_PER_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        progress(page.len() as u64);
        let texts = texts_by_key(db, &page).await?;
        for segment in &page {
            let participants = participants_of(texts.get(&segment.key));
            let of_account = holds.iter().zip(&mut counts).filter(|(hold, _)| covers_account(hold, segment.account));
            for (hold, count) in of_account.filter(|(hold, _)| hold.subject.is_contact()) {
                let concern = hold.subject.match_participants(&participants);
                count.segments += u64::from(concern.certainty > Certainty::Not);
                count.possible +=
                    u64::from(concern.certainty > Certainty::Not && concern.certainty < Certainty::National);
                count.agent_segments += u64::from(concern.names_agent);
                if concern.certainty == Certainty::Unreadable {
                    count.unreadable.push(segment.clone());
                }
            }
        }
    }
    let mut last: Option<QuarantinedText> = None;
    loop {
        let page = db.quarantined_page(None, None, last.as_ref(), SEGMENTS_PER_PAGE).await?;
        for (hold, count) in holds.iter().zip(&mut counts) {
            count.records += page.iter().filter(|record| holds_quarantined(hold, record)).count() as u64;
        }
        match page.into_iter().next_back() {
            Some(last_record) => last = Some(last_record),
            None => return Ok(counts),
        }
    }
}

/// The account of all holds on contacts; `None` where there are several, or a hold covers all
/// accounts.
fn common_account(holds: &[Hold]) -> Option<AccountKey> {
    let mut accounts = holds.iter().filter(|hold| hold.subject.is_contact()).map(|hold| hold.account);
    let first = accounts.next()??;
    accounts.all(|account| account == Some(first)).then_some(first)
}
