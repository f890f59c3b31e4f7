//! What is kept and what goes: retention, lawful erasure, legal hold.
//!
//! Finds what a request or retention is about, sets aside what a hold keeps, and has `db` take the rest, a hundred segments
//! a transaction. Knows neither the API nor the stages: whatever they have under way for something erased finds neither
//! its work nor a way back in.

mod guard;
mod judge;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use crate::clock::{Time, millis};
use crate::db::{
    AsideText, Db, DbError, Done, Entry, Erased, Erasing, Gone, Hold, Owned, RetentionNoticeRow, SegmentRef, Texts,
};
use crate::model::{Certainty, Subject};
pub use guard::{
    CLOCKS_AGREE_WITHIN, ClockCheck, DueSegments, LONGEST_BETWEEN_PASSES, NOTICE_PERIOD, PassDecision, RetentionClocks,
    RetentionNotice, between_passes, decide_pass, stored_later_than,
};
pub use judge::slack;
use judge::{aside_held_by, aside_is_meant, concerns, held_by, keeps_aside, participants};

/// Segments that go in one transaction: few enough not to hold up results.
const BATCH: usize = 100;
/// Between two of them, so that others get their turn.
const BREATH: Duration = Duration::from_millis(50);
/// Segments whose texts are read at once.
const PAGE: usize = 250;

/// An erasure that someone asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is to go.
    pub subject: Subject,
    /// Only of this account.
    pub account: Option<i64>,
    /// Who asks.
    pub who: String,
    /// Why.
    pub reason: Option<String>,
    /// Also what may be the contact's: by a number that is alike, or a speaker of whom nothing tells that it is no agent.
    pub include_alike: bool,
    /// Also what cannot be read, so that anyone's words may be in it.
    pub include_unreadable: bool,
}

/// What an erasure is about.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Segments to go.
    pub segments: Vec<SegmentRef>,
    /// Segments that a hold keeps.
    pub held: Vec<(SegmentRef, Hold)>,
    /// Those among them that cannot be read, so that they may be of a contact on hold.
    pub held_unreadable: Vec<SegmentRef>,
    /// Records set aside that are to go: account and digest.
    pub asides: Vec<(i64, Vec<u8>)>,
    /// Records set aside that a hold keeps.
    pub held_asides: Vec<Hold>,
    /// Of the segments to go those that are meant by a number within its country, or by one with its country's code where a
    /// number within the country was asked for.
    pub national: Vec<SegmentRef>,
    /// Segments that may be meant and are left, unless the request includes what is alike.
    pub alike: Vec<SegmentRef>,
    /// Segments of which something cannot be read, so that they may be meant; left, unless the request includes them.
    pub unreadable: Vec<SegmentRef>,
    /// Records set aside that may be meant and are left, unless the request includes what is alike.
    pub alike_asides: Vec<AsideText>,
    /// Records set aside of which something cannot be read, so that they may be meant; left, unless the request includes them.
    pub unreadable_asides: Vec<AsideText>,
    /// Segments with an agent of this name or id, who is no contact.
    pub agents: u64,
    /// An id that is not held, and not to be taken in when it is announced.
    pub unknown: Option<(i64, String)>,
    newest_hold: i64,
}

impl Found {
    /// Whether there is nothing to go, nothing kept and nothing left.
    pub fn is_nothing(&self) -> bool {
        !self.is_to_go() && !self.is_incomplete()
    }

    /// Whether there is anything to go.
    pub fn is_to_go(&self) -> bool {
        !self.segments.is_empty() || !self.asides.is_empty() || self.unknown.is_some()
    }

    /// Whether anything stays that is meant or may be.
    pub fn is_incomplete(&self) -> bool {
        self.is_held()
            || !(self.alike.is_empty() && self.alike_asides.is_empty())
            || !(self.unreadable.is_empty() && self.unreadable_asides.is_empty())
    }

    /// Whether a hold keeps anything of it.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty() || !self.held_asides.is_empty()
    }

    /// The holds that keep something of it, each once, with how much it keeps.
    pub fn holds(&self) -> Vec<(&Hold, u64)> {
        let mut holds: BTreeMap<i64, (&Hold, u64)> = BTreeMap::new();
        for hold in self.held.iter().map(|(_, hold)| hold).chain(&self.held_asides) {
            holds.entry(hold.id).or_insert((hold, 0)).1 += 1;
        }
        holds.into_values().collect()
    }
}

/// Looks what an erasure is about. `progress` is told how many segments have been looked through.
///
/// # Errors
/// Where the database cannot be read.
pub async fn look(db: &Db, request: &Request, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Found, DbError> {
    let newest_hold = db.newest_hold().await?;
    let holds = db.holds(request.account).await?;
    let mut found = Found { newest_hold, ..Found::default() };
    let meant = if request.subject.is_contact() {
        with_contact(db, request, &mut found, progress).await?
    } else {
        db.segments_meant(&request.subject, request.account).await?
    };
    for page in meant.chunks(PAGE) {
        let (held, free) = divided(db, &holds, page).await?;
        for (segment, hold, certainty) in held {
            if certainty == Certainty::Unreadable {
                found.held_unreadable.push(segment.clone());
            }
            found.held.push((segment, hold));
        }
        found.segments.extend(free);
    }
    look_aside(db, request, &holds, &mut found).await?;
    if let (Subject::Segment(id), Some(account)) = (&request.subject, request.account)
        && found.segments.is_empty()
        && !found.is_held()
    {
        match holds.iter().find(|hold| hold.subject.names(id, None)) {
            Some(hold) => found.held_asides.push(hold.clone()),
            None if db.tombstone(id, Some(account)).await?.is_some() => {}
            None => found.unknown = Some((account, id.clone())),
        }
    }
    Ok(found)
}

/// All segments with a contact. Nothing but their texts tells, so all of them are read.
async fn with_contact(
    db: &Db,
    request: &Request,
    found: &mut Found,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<SegmentRef>, DbError> {
    let (mut meant, mut countries, mut after) = (Vec::new(), BTreeSet::new(), i64::MIN);
    loop {
        let page = db.segment_page(request.account, after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        progress(page.len() as u64);
        let texts = texts_of(db, &page).await?;
        for segment in page {
            let mut concern = request.subject.concern(&participants(texts.get(&segment.key)));
            countries.append(&mut concern.countries);
            found.agents += u64::from(concern.names_agent);
            match concern.certainty {
                Certainty::Certain => meant.push(segment),
                Certainty::National => found.national.push(segment),
                Certainty::Alike => found.alike.push(segment),
                Certainty::Unreadable => found.unreadable.push(segment),
                Certainty::Not => {}
            }
        }
    }
    // The archive has such a number of several countries: whose it is nobody can tell.
    if countries.len() > 1 {
        found.alike.append(&mut found.national);
    }
    meant.extend(found.national.iter().cloned());
    if request.include_alike {
        meant.append(&mut found.alike);
    }
    if request.include_unreadable {
        meant.append(&mut found.unreadable);
    }
    Ok(meant)
}

async fn texts_of(db: &Db, segments: &[SegmentRef]) -> Result<HashMap<i64, Texts>, DbError> {
    db.texts_of(&segments.iter().map(|segment| segment.key).collect::<Vec<_>>()).await
}

/// Tells segments that a hold keeps from those that none does. Their texts are read only where a hold is on a contact.
async fn divided(
    db: &Db,
    holds: &[Hold],
    segments: &[SegmentRef],
) -> Result<(Vec<(SegmentRef, Hold, Certainty)>, Vec<SegmentRef>), DbError> {
    let on_contacts = holds.iter().any(|hold| hold.subject.is_contact());
    let texts = if on_contacts { texts_of(db, segments).await? } else { HashMap::new() };
    let (mut held, mut free) = (Vec::new(), Vec::new());
    for segment in segments {
        let participants = on_contacts.then(|| participants(texts.get(&segment.key)));
        match held_by(holds, segment, participants.as_ref()) {
            Some((hold, certainty)) => held.push((segment.clone(), hold.clone(), certainty)),
            None => free.push(segment.clone()),
        }
    }
    Ok((held, free))
}

/// Looks through the records set aside, which are few.
async fn look_aside(db: &Db, request: &Request, holds: &[Hold], found: &mut Found) -> Result<(), DbError> {
    let going: HashSet<(i64, &str)> =
        found.segments.iter().map(|segment| (segment.account, segment.segment_id.as_str())).collect();
    let (mut asides, mut kept, mut alike, mut unreadable) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut last: Option<AsideText> = None;
    loop {
        let page = db.aside_page(request.account, None, last.as_ref(), PAGE).await?;
        for aside in &page {
            match aside_is_meant(&request.subject, &going, aside) {
                Certainty::Not => continue,
                Certainty::Alike if !request.include_alike => {
                    alike.push(aside.clone());
                    continue;
                }
                Certainty::Unreadable if !request.include_unreadable => {
                    unreadable.push(aside.clone());
                    continue;
                }
                _ => {}
            }
            match aside_held_by(holds, aside) {
                Some(hold) => kept.push(hold.clone()),
                None => asides.push((aside.account, aside.digest.clone())),
            }
        }
        match page.into_iter().next_back() {
            Some(end) => last = Some(end),
            None => break,
        }
    }
    (found.asides, found.held_asides) = (asides, kept);
    (found.alike_asides, found.unreadable_asides) = (alike, unreadable);
    Ok(())
}

/// Erases what was found. Where a hold was placed meanwhile, or the segment announced, it looks again, and what is kept now
/// is in the answer. What a hold keeps of the request is noted in the journal.
///
/// # Errors
/// Where the database fails; what was erased before stays erased.
pub async fn erase(
    db: &Db,
    request: &Request,
    mut found: Found,
    now: Time,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(Erased, Found), DbError> {
    let mut sum = Erased::default();
    while !erase_found(db, request, &found, now, &mut sum, progress).await? {
        found = look(db, request, &mut |_| {}).await?;
    }
    if found.is_held() {
        let counts = (found.held.len() as u64, found.held_asides.len() as u64);
        for (hold, _) in found.holds() {
            let entry = Entry { hold: Some(hold.id), ..entry(request, Done::Refused) };
            db.note_in_journal(&entry, request.account, counts, now).await?;
        }
    }
    Ok((sum, found))
}

/// `false` where it has to be looked for again.
async fn erase_found(
    db: &Db,
    request: &Request,
    found: &Found,
    now: Time,
    sum: &mut Erased,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<bool, DbError> {
    let entry = entry(request, Done::Erase);
    for (nth, (account, part)) in parts(found).into_iter().enumerate() {
        if nth > 0 {
            // On SQLite whoever waits to write looks only now and then whether it may.
            tokio::time::sleep(BREATH).await;
        }
        let erasing = Erasing {
            account,
            owned: None,
            segments: &part.segments,
            asides: &part.asides,
            unknown: &part.unknown,
            gone: Gone::Erased,
            newest_hold: found.newest_hold,
            at: now,
            entry: &entry,
        };
        let Some(erased) = db.erase(&erasing).await? else { return Ok(false) };
        sum.add(erased);
        progress(erased.segments);
    }
    Ok(true)
}

fn entry(request: &Request, what: Done) -> Entry {
    Entry {
        who: request.who.clone(),
        what,
        subject: Some(request.subject.clone()),
        hold: None,
        reason: request.reason.clone(),
    }
}

#[derive(Default)]
struct Part {
    segments: Vec<i64>,
    asides: Vec<Vec<u8>>,
    unknown: Vec<String>,
}

/// What was found in portions, each of one account.
fn parts(found: &Found) -> Vec<(i64, Part)> {
    let mut whole: BTreeMap<i64, Part> = BTreeMap::new();
    for segment in &found.segments {
        whole.entry(segment.account).or_default().segments.push(segment.key);
    }
    for (account, digest) in &found.asides {
        whole.entry(*account).or_default().asides.push(digest.clone());
    }
    if let Some((account, id)) = &found.unknown {
        whole.entry(*account).or_default().unknown.push(id.clone());
    }
    let mut parts = Vec::new();
    for (account, mut part) in whole {
        while part.segments.len() > BATCH {
            let rest = part.segments.split_off(BATCH);
            parts.push((account, Part { segments: std::mem::replace(&mut part.segments, rest), ..Part::default() }));
        }
        parts.push((account, part));
    }
    parts
}

/// What a hold keeps of what the archive has now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HoldCount {
    /// Segments.
    pub segments: u64,
    /// Those among them that it may not mean, and keeps to be safe.
    pub possible: u64,
    /// Those among these that cannot be read.
    pub unreadable: Vec<SegmentRef>,
    /// Records set aside.
    pub records: u64,
    /// Segments with an agent of the name or id that was given for a contact: these it does not keep.
    pub agents: u64,
}

impl HoldCount {
    /// Whether it keeps nothing.
    pub fn is_nothing(&self) -> bool {
        self.segments == 0 && self.records == 0
    }
}

/// Counts what each of these holds keeps. For contacts all segments are read; `progress` is told how many.
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
        count.segments = db.segments_meant(&hold.subject, hold.account).await?.len() as u64;
    }
    let mut after = i64::MIN;
    while holds.iter().any(|hold| hold.subject.is_contact()) {
        let page = db.segment_page(common_account(holds), after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        progress(page.len() as u64);
        let texts = texts_of(db, &page).await?;
        for segment in &page {
            let participants = participants(texts.get(&segment.key));
            let of_account = holds.iter().zip(&mut counts).filter(|(hold, _)| concerns(hold, segment.account));
            for (hold, count) in of_account.filter(|(hold, _)| hold.subject.is_contact()) {
                let concern = hold.subject.concern(&participants);
                count.segments += u64::from(concern.certainty > Certainty::Not);
                count.possible +=
                    u64::from(concern.certainty > Certainty::Not && concern.certainty < Certainty::National);
                count.agents += u64::from(concern.names_agent);
                if concern.certainty == Certainty::Unreadable {
                    count.unreadable.push(segment.clone());
                }
            }
        }
    }
    let mut last: Option<AsideText> = None;
    loop {
        let page = db.aside_page(None, None, last.as_ref(), PAGE).await?;
        for (hold, count) in holds.iter().zip(&mut counts) {
            count.records += page.iter().filter(|aside| keeps_aside(hold, aside)).count() as u64;
        }
        match page.into_iter().next_back() {
            Some(end) => last = Some(end),
            None => return Ok(counts),
        }
    }
}

/// The account that all holds on contacts are about, where it is one.
fn common_account(holds: &[Hold]) -> Option<i64> {
    let mut accounts = holds.iter().filter(|hold| hold.subject.is_contact()).map(|hold| hold.account);
    let first = accounts.next()??;
    accounts.all(|account| account == Some(first)).then_some(first)
}

/// How far retention has looked through an account.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    ended: Time,
    key: i64,
    /// How many segments it left because a hold is on a contact and they cannot be read.
    pub unreadable: u64,
}

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor { ended: Time::NONE, key: i64::MIN, unreadable: 0 }
    }
}

/// Whether an account has anything that is past its retention by so much that taking it is worth the while.
///
/// # Errors
/// Where the database cannot be read.
pub async fn is_due(db: &Db, account: i64, retention: Duration, now: Time) -> Result<bool, DbError> {
    let cutoff = now - retention - slack(retention);
    let Cursor { ended, key, .. } = Cursor::default();
    Ok(!db.segments_past(account, cutoff, (ended, key), 1).await?.is_empty()
        || !db.aside_page(Some(account), Some(cutoff), None, 1).await?.is_empty())
}

/// What a pass would take of an account, where that is more than retention usually takes. What a hold keeps is left out.
///
/// # Errors
/// Where the database cannot be read.
pub async fn unusually_due(
    db: &Db,
    account: i64,
    retention: Duration,
    cutoff: Time,
) -> Result<Option<DueSegments>, DbError> {
    // Segments whose end is not known come first, and say nothing about how long anything is overdue.
    let known = (Time::NONE.plus_millis(1), i64::MIN);
    let oldest = db.segments_past(account, cutoff, known, 1).await?.first().map(|segment| segment.ended);
    let Some(oldest) = oldest.filter(|oldest| guard::is_long_overdue(retention, cutoff, *oldest)) else {
        return Ok(None);
    };
    let (due, held) = db.count_past(account, cutoff).await?;
    let mut found = DueSegments { oldest, due, held };
    let holds = db.holds(Some(account)).await?;
    if found.is_unusual(retention, cutoff) && !holds.is_empty() {
        let (mut free, mut after) = (Vec::new(), known);
        loop {
            let page = db.segments_past(account, cutoff, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = (last.ended, last.key);
            free.extend(divided(db, &holds, &page).await?.1.into_iter().map(|segment| segment.ended));
        }
        found = DueSegments { oldest: free.first().copied().unwrap_or(cutoff), due: free.len() as u64, held };
    }
    Ok(found.is_unusual(retention, cutoff).then_some(found))
}

/// The notice of an unusual pass that an account has, if it has one.
///
/// # Errors
/// Where the database cannot be read.
pub async fn notice(db: &Db, account: i64) -> Result<Option<RetentionNotice>, DbError> {
    Ok(db.retention_notice(account).await?.map(|row| RetentionNotice {
        retention: Duration::from_millis(row.retention_ms.unsigned_abs()),
        announced: row.announced,
        waited: Duration::from_millis(row.waited_ms.unsigned_abs()),
        segments: row.segments.unsigned_abs(),
        approved: row.approved,
    }))
}

/// Stores a notice, so that a restart goes on from there. A person's approval, which may have come meanwhile, stays.
///
/// # Errors
/// Where the database fails.
pub async fn keep_notice(db: &Db, account: i64, notice: &RetentionNotice) -> Result<(), DbError> {
    let row = RetentionNoticeRow {
        retention_ms: millis(notice.retention),
        announced: notice.announced,
        waited_ms: millis(notice.waited),
        segments: i64::try_from(notice.segments).unwrap_or(i64::MAX),
        approved: notice.approved,
    };
    db.keep_retention_notice(account, &row).await
}

/// Takes the next of an account's segments that are past retention and that no hold keeps; `None` once there are no more.
///
/// # Errors
/// `DbFault::Lost` where the account has another owner now.
pub async fn expire(
    db: &Db,
    owned: Owned,
    cutoff: Time,
    who: &str,
    now: Time,
    cursor: &mut Cursor,
) -> Result<Option<Erased>, DbError> {
    let newest_hold = db.newest_hold().await?;
    let holds = db.holds(Some(owned.account)).await?;
    let page = db.segments_past(owned.account, cutoff, (cursor.ended, cursor.key), BATCH).await?;
    let Some(last) = page.last() else { return Ok(None) };
    let (held, free) = divided(db, &holds, &page).await?;
    let unreadable = held.iter().filter(|(_, _, certainty)| *certainty == Certainty::Unreadable).count() as u64;
    let next = Cursor { ended: last.ended, key: last.key, unreadable: cursor.unreadable + unreadable };
    let segments: Vec<i64> = free.iter().map(|segment| segment.key).collect();
    let taken = take(db, owned, &segments, &[], (newest_hold, who, now)).await?;
    // Where a hold was placed meanwhile, the same page is looked at again.
    if taken.is_some() {
        *cursor = next;
    }
    Ok(Some(taken.unwrap_or_default()))
}

/// Takes an account's records set aside that lie in windows past retention.
///
/// # Errors
/// `DbFault::Lost` where the account has another owner now.
pub async fn expire_asides(db: &Db, owned: Owned, cutoff: Time, who: &str, now: Time) -> Result<Erased, DbError> {
    let newest_hold = db.newest_hold().await?;
    let holds = db.holds(Some(owned.account)).await?;
    let mut sum = Erased::default();
    let mut last: Option<AsideText> = None;
    loop {
        let page = db.aside_page(Some(owned.account), Some(cutoff), last.as_ref(), BATCH).await?;
        let free = page.iter().filter(|aside| aside_held_by(&holds, aside).is_none());
        let digests: Vec<Vec<u8>> = free.map(|aside| aside.digest.clone()).collect();
        let Some(taken) = take(db, owned, &[], &digests, (newest_hold, who, now)).await? else { return Ok(sum) };
        sum.add(taken);
        match page.into_iter().next_back() {
            Some(end) => last = Some(end),
            None => return Ok(sum),
        }
    }
}

async fn take(
    db: &Db,
    owned: Owned,
    segments: &[i64],
    asides: &[Vec<u8>],
    (newest_hold, who, at): (i64, &str, Time),
) -> Result<Option<Erased>, DbError> {
    if segments.is_empty() && asides.is_empty() {
        return Ok(Some(Erased::default()));
    }
    let entry = Entry { who: who.to_owned(), what: Done::Retention, subject: None, hold: None, reason: None };
    let erasing = Erasing {
        account: owned.account,
        owned: Some(owned),
        segments,
        asides,
        unknown: &[],
        gone: Gone::Expired,
        newest_hold,
        at,
        entry: &entry,
    };
    db.erase(&erasing).await
}
