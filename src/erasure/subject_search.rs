//! Finds the segments of a subject: a segment, a dialog, or a contact. An erasure deletes what this
//! finds, and an export or a search with the same filter shows it.

use std::collections::BTreeSet;

use super::hold_matching::participants_of;
use super::{SEGMENTS_PER_PAGE, texts_by_key};
use crate::db::{AccountKey, Db, DbError, SegmentRef};
use crate::model::{Certainty, Subject};

/// The segments of a subject, by certainty.
#[derive(Debug, Clone, Default)]
pub struct SubjectSegments {
    /// Those that belong to it.
    pub segments: Vec<SegmentRef>,
    /// Those of them that match by a national number where the subject has an international one, or
    /// the other way round.
    pub(crate) national: Vec<SegmentRef>,
    /// Possible matches: a similar number, or a speaker who may be an agent.
    pub alike: Vec<SegmentRef>,
    /// Segments of which something cannot be read.
    pub unreadable: Vec<SegmentRef>,
    /// Segments with an agent of the contact's name or id. They do not match.
    pub agent_segments: u64,
}

/// Finds the segments of a subject. For a contact it reads the texts of all segments, because only
/// these tell, and calls `progress` with the number of segments that were read.
///
/// # Errors
/// Where the database cannot be read.
pub async fn find_subject_segments(
    db: &Db,
    subject: &Subject,
    account: Option<AccountKey>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<SubjectSegments, DbError> {
    let mut found = SubjectSegments::default();
    if !subject.is_contact() {
        found.segments = db.segments_by_subject(subject, account).await?;
        return Ok(found);
    }
    let (mut countries, mut after) = (BTreeSet::new(), i64::MIN);
    loop {
        let page = db.segment_page(account, after, SEGMENTS_PER_PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        progress(page.len() as u64);
        let texts = texts_by_key(db, &page).await?;
        for segment in page {
            let mut concern = subject.match_participants(&participants_of(texts.get(&segment.key)));
            countries.append(&mut concern.countries);
            found.agent_segments += u64::from(concern.names_agent);
            match concern.certainty {
                Certainty::Certain => found.segments.push(segment),
                Certainty::National => found.national.push(segment),
                Certainty::Alike => found.alike.push(segment),
                Certainty::Unreadable => found.unreadable.push(segment),
                Certainty::Not => {}
            }
        }
    }
    // The national number exists in several countries, so a match is only possible.
    if countries.len() > 1 {
        found.alike.append(&mut found.national);
    }
    found.segments.extend(found.national.iter().cloned());
    Ok(found)
}
