//! From a query to what people get to see: candidates from the index, newest first, page by page; their texts judged; the
//! best of them with a passage each.
//!
//! Reads `db`. The index only proposes; each text is judged as it is now, so both databases answer alike and a text that
//! was replaced a moment ago is not shown for what it said before. Memory does not grow with the archive.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Source};
use super::head::head;
use super::marks;
use super::query::Query;
use super::score::{Judged, judge};
use super::words::words;
use crate::clock::Time;
use crate::db::{Db, DbError, Doc, FoundRow, Lookup, SegmentRow};
use crate::reading::{Conversation, Metadata, Phrase};

/// Matches that are ranked: the newest.
pub const RANKED: usize = 500;
/// Matches that are looked at for those that the filters let through.
pub const LOOKED_AT: usize = 20_000;
/// Documents whose texts are held at a time, and bytes of these; a larger one is held alone.
const BODIES: usize = 50;
const BODIES_BYTES: u64 = 16_000_000;

/// What else must be so.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// Segments that ended at or after.
    pub from: Option<Time>,
    /// Segments that ended before.
    pub to: Option<Time>,
    /// Only this account.
    pub account: Option<i64>,
    /// `channelClass` or `channelType`.
    pub channel: Option<String>,
    /// `dialogOrigination`.
    pub direction: Option<String>,
    /// The agent's id, or the name of someone who takes part in the conversation.
    pub agent: Option<String>,
    /// What the agent or the system said of how it ended.
    pub disposition: Option<String>,
    /// Only these; none stands for all.
    pub sources: Vec<Source>,
}

impl Filters {
    /// Whether any of them is compared with the metadata, or the names in a transcript.
    pub fn by_metadata(&self) -> bool {
        [&self.channel, &self.direction, &self.agent, &self.disposition].iter().any(|one| one.is_some())
    }
}

/// In which order, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The best of the newest [`RANKED`] first.
    Best,
    /// By end time.
    Newest,
}

/// Something that was found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The segment.
    pub segment: SegmentRow,
    /// What of it.
    pub source: Source,
    /// Which version of the artifact; 0 for notes.
    pub version: i64,
    /// How good it is, and the passage.
    pub judged: Judged,
}

/// What a search came to.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The hits, in order.
    pub hits: Vec<Hit>,
    /// Whether there are more than were asked for.
    pub more: bool,
    /// Whether only the newest matches were ranked.
    pub only_newest: bool,
    /// Whether it was given up before the filters had seen every match.
    pub gave_up: bool,
}

/// A hit of which the segment is yet to be read.
struct Candidate {
    row: FoundRow,
    version: i64,
    judged: Judged,
}

/// Finds what meets the query and the filters; at most `limit`.
///
/// # Errors
/// Where the database cannot be read.
pub async fn find(db: &Db, query: &Query, filters: &Filters, order: Order, limit: usize) -> Result<Findings, DbError> {
    let lookup = Lookup {
        all: query.proposed(),
        none: query.none.clone(),
        account: filters.account,
        marks: marks::asked(filters),
        from: filters.from,
        to: filters.to,
        walk: None,
    };
    let enough = if order == Order::Best { RANKED.max(limit.saturating_add(1)) } else { limit.saturating_add(1) };
    let page = enough.clamp(BODIES, RANKED);
    let asked = Asked::of(filters);
    let (mut findings, mut seen, mut looked_at) = (Findings::default(), 0, 0);
    let mut best: Vec<Candidate> = Vec::new();
    let mut before: Option<Doc> = None;
    'pages: loop {
        let docs = db.look_up(&lookup, before, page).await?;
        let Some(last) = docs.last().copied() else { break };
        before = Some(last);
        looked_at += docs.len();
        let rows = admitted(db, &asked, db.found(&docs).await?).await?;
        for part in parts(db, &rows).await? {
            for candidate in judged(db, query, &asked, part).await? {
                seen += 1;
                best.push(candidate);
            }
            if best.len() > enough * 2 {
                rank(&mut best, order, limit + 1);
            }
            if seen >= enough {
                findings.only_newest = order == Order::Best;
                break 'pages;
            }
        }
        if docs.len() < page {
            break;
        }
        if looked_at >= LOOKED_AT.max(enough) {
            findings.gave_up = true;
            break;
        }
    }
    rank(&mut best, order, limit + 1);
    findings.more = best.len() > limit;
    best.truncate(limit);
    findings.hits = hits(db, query, best, order).await?;
    Ok(findings)
}

fn rank(candidates: &mut Vec<Candidate>, order: Order, limit: usize) {
    candidates.sort_by(|a, b| {
        let by_score = match order {
            Order::Best => b.judged.score.total_cmp(&a.judged.score),
            Order::Newest => std::cmp::Ordering::Equal,
        };
        by_score.then(b.row.doc.cmp(&a.row.doc))
    });
    candidates.truncate(limit);
}

/// What is asked for of the metadata, to be compared with it again and again.
struct Asked<'a> {
    filters: &'a Filters,
    agent: Option<Vec<String>>,
}

impl Asked<'_> {
    fn of(filters: &Filters) -> Asked<'_> {
        Asked { filters, agent: filters.agent.as_deref().map(words) }
    }

    /// Whether the metadata is as asked, but for the agent.
    fn admits(&self, metadata: &Metadata) -> bool {
        let says = |wanted: &Option<String>, keys: &[&str]| {
            wanted.as_deref().is_none_or(|wanted| keys.iter().any(|key| alike(metadata.field(key), wanted)))
        };
        says(&self.filters.channel, marks::CHANNELS)
            && says(&self.filters.direction, marks::DIRECTIONS)
            && says(&self.filters.disposition, marks::DISPOSITIONS)
    }

    fn names_agent(&self, metadata: &Metadata) -> bool {
        let agent = self.filters.agent.as_deref();
        agent.is_none_or(|agent| marks::AGENTS.iter().any(|key| alike(metadata.field(key), agent)))
            || metadata.field(marks::AGENT_NAME).is_some_and(|name| self.is_part_of(&name))
    }

    /// Whether the name that is asked for is this one, or a part of it.
    fn is_part_of(&self, name: &str) -> bool {
        let wanted = self.agent.as_deref().unwrap_or_default();
        !wanted.is_empty() && words(name).windows(wanted.len()).any(|part| part == wanted)
    }

    /// Whether someone of this name takes part; any of the names that someone has will do.
    fn takes_part(&self, transcript: &[u8]) -> bool {
        let conversation = Conversation::parse(transcript).unwrap_or_default();
        let mut names: Vec<&str> = conversation.phrases.iter().filter_map(|phrase| phrase.name.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        names.iter().any(|name| self.is_part_of(name))
    }
}

/// Two texts that people would call the same: small and capital letters, accents and punctuation do not count.
fn alike(value: Option<String>, wanted: &str) -> bool {
    value.is_some_and(|value| {
        value.trim() == wanted.trim() || {
            let value = words(&value);
            !value.is_empty() && value == words(wanted)
        }
    })
}

/// A document that the filters let through as far as the metadata says.
#[derive(Clone, Copy)]
struct Admitted {
    row: FoundRow,
    /// Whether the transcript is yet to be asked for the agent's name.
    unnamed: bool,
}

async fn admitted(db: &Db, asked: &Asked<'_>, rows: Vec<FoundRow>) -> Result<Vec<Admitted>, DbError> {
    let filters = asked.filters;
    let within = |row: &FoundRow| match row.ended {
        Some(ended) => filters.from.is_none_or(|from| ended >= from) && filters.to.is_none_or(|to| ended < to),
        None => filters.from.is_none() && filters.to.is_none(),
    };
    let wanted = |row: &FoundRow| filters.sources.is_empty() || filters.sources.contains(&Source::of_item(row.item));
    let rows: Vec<FoundRow> = rows.into_iter().filter(|row| within(row) && wanted(row)).collect();
    if !filters.by_metadata() {
        return Ok(rows.into_iter().map(|row| Admitted { row, unnamed: false }).collect());
    }
    let metadata: BTreeMap<i64, Metadata> = db
        .segments_of(&keys(rows.iter()))
        .await?
        .into_iter()
        .map(|(key, segment)| (key, Metadata::read(&segment.metadata)))
        .collect();
    let admitted = |row: FoundRow| {
        let metadata = metadata.get(&row.item.div_euclid(4)).filter(|metadata| asked.admits(metadata))?;
        Some(Admitted { row, unnamed: !asked.names_agent(metadata) })
    };
    Ok(rows.into_iter().filter_map(admitted).collect())
}

fn keys<'a>(rows: impl Iterator<Item = &'a FoundRow>) -> Vec<i64> {
    let mut keys: Vec<i64> = rows.map(|row| row.item.div_euclid(4)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Cuts these up into those whose texts are held together.
async fn parts<'a>(db: &Db, rows: &'a [Admitted]) -> Result<Vec<&'a [Admitted]>, DbError> {
    let read = |one: &Admitted| {
        let transcript = one.unnamed.then(|| transcript_of(&one.row));
        [Some(one.row.item), transcript].into_iter().flatten()
    };
    let sizes = db.body_sizes(&rows.iter().flat_map(read).collect::<Vec<_>>()).await?;
    let (mut parts, mut left) = (Vec::new(), rows);
    while !left.is_empty() {
        let mut bytes = 0;
        let fits = |one: &Admitted| {
            bytes += read(one).filter_map(|item| sizes.get(&item)).sum::<u64>();
            bytes <= BODIES_BYTES
        };
        let most = left.iter().take(BODIES).map(fits).take_while(|fits| *fits).count().max(1);
        let (part, rest) = left.split_at(most);
        parts.push(part);
        left = rest;
    }
    Ok(parts)
}

/// Reads the texts of these documents and judges them, and who takes part where that is asked.
async fn judged(db: &Db, query: &Query, asked: &Asked<'_>, rows: &[Admitted]) -> Result<Vec<Candidate>, DbError> {
    let is_notes = |one: &&Admitted| Source::of_item(one.row.item) == Source::Notes;
    let texts = rows.iter().filter(|one| !is_notes(one)).map(|one| one.row.item);
    let transcripts = rows.iter().filter(|one| one.unnamed).map(|one| transcript_of(&one.row));
    let mut items: Vec<i64> = texts.chain(transcripts).collect();
    items.sort_unstable();
    items.dedup();
    let bodies = db.newest_bodies(&items).await?.into_iter();
    let mut bodies: BTreeMap<i64, (i64, Vec<u8>)> =
        bodies.map(|(item, (version, body))| (item, (version, head(body)))).collect();
    for (key, segment) in db.segments_of(&keys(rows.iter().filter(is_notes).map(|one| &one.row))).await? {
        bodies.insert(key * 4 + 3, (0, segment.metadata.into_bytes()));
    }
    let emails = emails(db, rows, &bodies).await?;
    let candidate = |Admitted { row, unnamed }: &Admitted| {
        if *unnamed && !bodies.get(&transcript_of(row)).is_some_and(|(_, body)| asked.takes_part(body)) {
            return None;
        }
        let (version, body) = bodies.get(&row.item)?;
        let document = Document::read(Source::of_item(row.item), body, emails.contains(&row.item));
        let judged = judge(&document, query)?;
        Some(Candidate { row: *row, version: *version, judged })
    };
    Ok(rows.iter().filter_map(candidate).collect())
}

/// Transcripts among these that are exchanges of e-mails. Few may read otherwise for it, and only of those the metadata are asked.
async fn emails(db: &Db, rows: &[Admitted], bodies: &BTreeMap<i64, (i64, Vec<u8>)>) -> Result<BTreeSet<i64>, DbError> {
    let may_be = |one: &&Admitted| {
        let body = bodies.get(&one.row.item).filter(|_| one.row.item == transcript_of(&one.row));
        body.is_some_and(|(_, body)| Conversation::may_hold_markup(body))
    };
    let segments = db.segments_of(&keys(rows.iter().filter(may_be).map(|one| &one.row))).await?;
    let is_email = |segment: &SegmentRow| Metadata::tells_of_email(&segment.metadata);
    Ok(segments.into_iter().filter(|(_, segment)| is_email(segment)).map(|(key, _)| key * 4).collect())
}

fn transcript_of(row: &FoundRow) -> i64 {
    row.item.div_euclid(4) * 4
}

/// Tells apart, by the metadata, speakers of whom their transcript gives an id alone. There are so few hits that their texts
/// are read again.
async fn name_speakers(
    db: &Db,
    query: &Query,
    best: &mut [Candidate],
    segments: &BTreeMap<i64, SegmentRow>,
) -> Result<(), DbError> {
    let is_nameless = |one: &&mut Candidate| one.judged.speaker.as_deref().is_some_and(Phrase::is_by_id);
    let mut nameless: Vec<&mut Candidate> = best.iter_mut().filter(is_nameless).collect();
    let items: Vec<i64> = nameless.iter().map(|candidate| candidate.row.item).collect();
    let bodies = db.newest_bodies(&items).await?;
    for candidate in &mut nameless {
        let segment = segments.get(&candidate.row.item.div_euclid(4));
        let Some((segment, (_, body))) = segment.zip(bodies.get(&candidate.row.item)) else { continue };
        let conversation = Conversation::read(body, &Metadata::read(&segment.metadata)).unwrap_or_default();
        if let Some(judged) = judge(&Document::conversation(&conversation), query) {
            candidate.judged = judged;
        }
    }
    Ok(())
}

/// The same with their segments; what ended in the same second is put in order here.
async fn hits(db: &Db, query: &Query, mut best: Vec<Candidate>, order: Order) -> Result<Vec<Hit>, DbError> {
    let segments = db.segments_of(&keys(best.iter().map(|candidate| &candidate.row))).await?;
    name_speakers(db, query, &mut best, &segments).await?;
    let hit = |candidate: Candidate| {
        let segment = segments.get(&candidate.row.item.div_euclid(4))?.clone();
        let source = Source::of_item(candidate.row.item);
        Some(Hit { segment, source, version: candidate.version, judged: candidate.judged })
    };
    let mut hits: Vec<Hit> = best.into_iter().filter_map(hit).collect();
    hits.sort_by(|a, b| {
        let by_score = match order {
            Order::Best => b.judged.score.total_cmp(&a.judged.score),
            Order::Newest => std::cmp::Ordering::Equal,
        };
        by_score
            .then_with(|| b.segment.ended.cmp(&a.segment.ended))
            .then_with(|| a.segment.account.sub.cmp(&b.segment.account.sub))
            .then_with(|| a.segment.segment_id.cmp(&b.segment.segment_id))
            .then_with(|| a.source.cmp(&b.source))
    });
    Ok(hits)
}
