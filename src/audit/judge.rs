//! From what the database says to whether anything is missing. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::problems::{self, problems_of, verdict};
use super::report::{
    AccountAudit, ArtifactAudit, Aside, Asides, Audit, BackfillAudit, Cause, DayDifference, Gap, Item, LastLook,
    LateBucket, Lateness, Ledger, Moment, Pass, Problem, Read, Segments, Span, Spanned, Unfinished,
};
use super::{Facts, Question};
use crate::clock::{Time, millis};
use crate::coverage;
use crate::db::{ArtifactTally, DayRow, IdCount};
use crate::model::{Artifact, State, Stretch, Stretches};

/// The pass that says whether anything was read at all.
const LIVE: &str = "live";

/// A running daemon that has read nothing for so long fails to.
const STALLED: Duration = Duration::from_secs(900);

/// Of how many reads late the newest one may be before what follows it counts as a gap.
const SLACK: u32 = 2;

/// Nothing ended on day -1: it stands for "no end time".
const NO_DAY: i64 = -1;

/// The answer.
pub(super) fn judge(question: &Question, facts: Vec<Facts>) -> Audit {
    let mut problems = Vec::new();
    let missing: Vec<AccountAudit> = question
        .configured
        .iter()
        .filter(|(id, _)| question.asks_for(id) && !facts.iter().any(|facts| facts.account.id.sub == id.sub))
        .map(|(id, name)| untouched(&id.rc, &id.sub, name.clone()))
        .collect();
    let mut accounts: Vec<AccountAudit> = facts.into_iter().map(|facts| account(question, facts)).collect();
    accounts.extend(missing);
    accounts.sort_by(|one, other| one.sub_account_id.cmp(&other.sub_account_id));
    for account in &accounts {
        problems.extend(problems_of(account));
    }
    let complete = problems.is_empty() && !accounts.is_empty();
    let verdict = verdict(&accounts, &problems);
    let (version, now, findings) = (env!("CARGO_PKG_VERSION"), Moment(question.now), Vec::new());
    Audit { version, now, complete, verdict, problems, findings, accounts }
}

fn untouched(rc: &str, sub: &str, name: Option<String>) -> AccountAudit {
    AccountAudit {
        rc_account_id: rc.to_owned(),
        sub_account_id: sub.to_owned(),
        name,
        range: None,
        watermark: None,
        passes: Vec::new(),
        last_looked: Vec::new(),
        gaps: Vec::new(),
        backfills: Vec::new(),
        segments: Segments { announced: 0, with_transcript: 0, erased: 0, expired: 0 },
        artifacts: Vec::new(),
        unfinished: Vec::new(),
        items: Vec::new(),
        late: Lateness::default(),
        aside: Asides::default(),
        ledger: Ledger { agrees: true, ..Ledger::default() },
        reads: Vec::new(),
        notes: Vec::new(),
    }
}

fn account(question: &Question, facts: Facts) -> AccountAudit {
    let live =
        Stretches::from_unsorted(facts.covered.iter().filter(|row| row.pass == LIVE).map(|row| row.stretch).collect());
    let mut notes = Vec::new();
    let range = facts.account.live_start.and_then(|start| range(question, &facts, &live, start, &mut notes));
    let gaps = range.map(|range| gaps(question, &facts, &live, range)).unwrap_or_default();
    let watermark = facts.account.live_start.and_then(|start| live.holding(start)).map(|unbroken| Moment(unbroken.to));
    if let Some(since) = facts.account.missing_since {
        notes.push(format!("the login has not seen this account since {}", Moment(since)));
    }
    if let Some(pause) = &facts.pause {
        let (since, until) = (Moment(pause.since), Moment(pause.until));
        notes.push(format!("metadata is paused since {since}, to be tried again at {until}: {}", pause.reason));
    }
    let (erased, expired) = (facts.gone.erased, facts.gone.expired);
    if (question.from.is_some() || question.to.is_some()) && (!facts.days.is_empty() || erased + expired > 0) {
        notes.push("counts against announcements are of whole UTC days: all those that the range touches".to_owned());
    }
    let announced = facts.segments.0 + erased + expired;
    AccountAudit {
        rc_account_id: facts.account.id.rc.to_string(),
        sub_account_id: facts.account.id.sub.to_string(),
        name: facts.account.name.clone(),
        range: range.map(Span::from),
        watermark,
        passes: passes(&facts, range),
        last_looked: range.map(|range| last_looked(&facts, &live, range)).unwrap_or_default(),
        gaps,
        backfills: backfills(question, &facts),
        segments: Segments { announced, with_transcript: facts.segments.1, erased, expired },
        artifacts: artifacts(&facts),
        unfinished: unfinished(&facts),
        items: items(&facts),
        late: lateness(&facts),
        aside: asides(&facts),
        ledger: ledger(&facts.days, i64::try_from(erased + expired).unwrap_or(i64::MAX)),
        reads: reads(&facts),
        notes,
    }
}

/// The stretch that must have been read: as asked, but not beyond what can have been.
fn range(
    question: &Question,
    facts: &Facts,
    live: &Stretches,
    live_start: Time,
    notes: &mut Vec<String>,
) -> Option<Stretch> {
    let horizon = (question.now - question.offset).floor_to_second();
    // The log remembers reads of which coverage may know nothing more, should someone have taken that away.
    let logged = facts.reads.iter().filter(|read| read.lane == LIVE).map(|read| read.stretch.to);
    let covered = live.as_slice().last().map(|newest| newest.to);
    let edge = covered.into_iter().chain(logged).max().filter(|edge| *edge > live_start);
    let from = question.from.unwrap_or(live_start);
    let due = edge.is_none_or(|edge| horizon > edge + question.interval * SLACK);
    let readable = edge.map_or(horizon, |edge| if due { edge.max(horizon) } else { edge });
    let to = match question.to {
        None => edge.unwrap_or(horizon),
        Some(to) if to > readable => {
            notes.push(format!("what ended at {} or later is not to be read yet", Moment(readable)));
            readable
        }
        Some(to) => to,
    };
    if due
        && question.to.is_none()
        && let Some(edge) = edge
    {
        let (edge, behind) =
            (Moment(edge), humantime::format_duration(Duration::from_secs(question.now.since(edge).as_secs())));
        notes.push(format!("nothing that ended at {edge} or later has been read: {behind} behind"));
    }
    Stretch::new(from, to)
}

fn gaps(question: &Question, facts: &Facts, live: &Stretches, range: Stretch) -> Vec<Gap> {
    let missing = Stretches::from_unsorted(vec![range]).minus(live);
    missing.as_slice().iter().map(|gap| gap_of(question, facts, *gap)).collect()
}

fn gap_of(question: &Question, facts: &Facts, gap: Stretch) -> Gap {
    let before_first = facts.account.live_start.is_some_and(|start| gap.to <= start);
    let asked = facts.backfills.iter().find(|(_, range)| range.intersect(gap).is_some());
    let newest = facts.covered.iter().map(|row| row.last).max();
    let stalled = newest.is_none_or(|at| question.now.since(at) > STALLED.max(question.interval * 3));
    let wanted = !before_first || asked.is_some();
    let (cause, why) = match (&facts.pause, asked) {
        (Some(pause), _) if wanted => (Cause::PausedMetadata, format!("metadata is paused: {}", pause.reason)),
        _ if wanted && facts.alive && stalled => {
            (Cause::ReadsFailing, "a daemon is running and has read nothing for a while".to_owned())
        }
        (_, Some((id, _))) => (Cause::BeingBackfilled, format!("backfill {id} is to read it")),
        _ if before_first => (Cause::NeverRead, "never read: it lies before the first read".to_owned()),
        _ => (Cause::NeverRead, "never read".to_owned()),
    };
    Gap { from: Moment(gap.from), to: Moment(gap.to), cause, why }
}

/// What people asked for of the past and is not read, as far as it touches what the question is about.
fn backfills(question: &Question, facts: &Facts) -> Vec<BackfillAudit> {
    let touches = |range: &Stretch| {
        question.from.is_none_or(|from| range.to > from) && question.to.is_none_or(|to| range.from < to)
    };
    let asked = facts.backfills.iter().filter(|(_, range)| touches(range));
    asked
        .map(|(id, range)| {
            let pass = format!("backfill:{id}");
            let read = facts.covered.iter().filter(|row| row.pass == pass).map(|row| row.stretch).collect();
            let left = Stretches::from_unsorted(vec![*range]).minus(&Stretches::from_unsorted(read)).total();
            BackfillAudit {
                id: *id,
                range: Span::from(*range),
                seconds: range.width().as_secs(),
                read_seconds: range.width().saturating_sub(left).as_secs(),
            }
        })
        .collect()
}

fn passes(facts: &Facts, range: Option<Stretch>) -> Vec<Pass> {
    let mut passes: BTreeMap<&str, Vec<Spanned>> = BTreeMap::new();
    for row in &facts.covered {
        if range.is_some_and(|range| row.stretch.intersect(range).is_some()) {
            passes.entry(&row.pass).or_default().push(Spanned {
                from: Moment(row.stretch.from),
                to: Moment(row.stretch.to),
                reads: row.reads,
                first_read: Moment(row.first),
                last_read: Moment(row.last),
            });
        }
    }
    passes.into_iter().map(|(pass, stretches)| Pass { pass: pass.to_owned(), stretches }).collect()
}

/// Each stretch that was read, by the longest recheck that has read it again.
fn last_looked(facts: &Facts, live: &Stretches, range: Stretch) -> Vec<LastLook> {
    let mut rechecks: BTreeMap<Duration, Vec<Stretch>> = BTreeMap::new();
    for row in &facts.covered {
        if let Some(coverage::Pass::Recheck(delay)) = coverage::Pass::parse(&row.pass) {
            rechecks.entry(delay).or_default().push(row.stretch);
        }
    }
    let mut rest = live.within(range);
    let mut looks = Vec::new();
    for (delay, done) in rechecks.into_iter().rev() {
        let later = rest.minus(&Stretches::from_unsorted(done));
        for piece in rest.minus(&later).as_slice() {
            looks.push((*piece, Some(delay.as_secs_f64()), piece.from + delay));
        }
        rest = later;
    }
    for piece in rest.as_slice() {
        let row = facts.covered.iter().find(|row| row.pass == LIVE && row.stretch.contains(piece.from));
        looks.push((*piece, None, row.map_or(piece.from, |row| row.first.max(piece.from))));
    }
    looks.sort_unstable_by_key(|(piece, ..)| *piece);
    let look = |(piece, recheck_seconds, since): (Stretch, Option<f64>, Time)| LastLook {
        from: Moment(piece.from),
        to: Moment(piece.to),
        recheck_seconds,
        since: Moment(since),
    };
    looks.into_iter().map(look).collect()
}

fn artifacts(facts: &Facts) -> Vec<ArtifactAudit> {
    let gone = facts.gone.erased + facts.gone.expired;
    let each = Artifact::ALL.into_iter().zip(&facts.tallies).zip(facts.gone.asked);
    each.map(|((artifact, tally), erased)| ArtifactAudit {
        artifact: artifact.name(),
        asked: tally.asked + erased,
        stored: tally.stored,
        not_populated: tally.not_populated,
        pending: tally.pending,
        next_try: tally.next_due.map(Moment),
        unavailable: tally.unavailable,
        failed: tally.failed,
        discarded: tally.discarded,
        erased,
        not_requested: (facts.segments.0 + gone).saturating_sub(tally.asked + erased),
        unexplained: unexplained(tally),
    })
    .collect()
}

/// Artifacts that were asked for and are nowhere, or are there and were not asked for.
fn unexplained(tally: &ArtifactTally) -> u64 {
    tally.lost.saturating_add(tally.stray)
}

/// What of an account is not held as it was announced and asked for.
pub(super) fn discrepancies(sub: &str, days: &[DayRow], tallies: [ArtifactTally; 3]) -> Vec<Problem> {
    let unexplained =
        Artifact::ALL.into_iter().zip(&tallies).map(|(artifact, tally)| (artifact.name(), unexplained(tally)));
    problems::discrepancies(sub, &ledger(days, 0).differences, unexplained)
}

/// A state's name in exports.
fn outcome(state: State) -> &'static str {
    match state {
        State::Open => "pending",
        State::Unavailable => "unavailable",
        State::Failed => "failed",
        State::Discarded => "discarded",
    }
}

fn unfinished(facts: &Facts) -> Vec<Unfinished> {
    let each = facts.unfinished.iter().map(|row| Unfinished {
        artifact: row.artifact.name(),
        outcome: outcome(row.state),
        count: row.count,
        status: row.status,
        reason: row.reason.clone(),
        next_try: (row.state == State::Open).then_some(Moment(row.due)),
    });
    each.collect()
}

fn items(facts: &Facts) -> Vec<Item> {
    let each = facts.settled.iter().map(|row| Item {
        segment_id: row.segment_id.clone(),
        segment_end: row.ended.known().map(Moment),
        artifact: row.artifact.name(),
        outcome: outcome(row.state),
        tries: row.tries,
        status: row.status,
        reason: row.reason.clone(),
    });
    each.collect()
}

fn lateness(facts: &Facts) -> Lateness {
    let total = |kind: &str| facts.lateness.iter().filter(|(of, ..)| of == kind).map(|(.., count)| count).sum();
    let histogram = facts.lateness.iter().map(|(kind, bucket, count)| {
        let power = |exponent: i64| {
            u32::try_from(exponent).ok().and_then(|exponent| 1_u64.checked_shl(exponent)).unwrap_or(u64::MAX)
        };
        // The first bucket also holds what came within a second.
        let from_seconds = if *bucket == 0 { 0 } else { power(*bucket) };
        LateBucket { kind: kind.clone(), from_seconds, to_seconds: power(bucket.saturating_add(1)), count: *count }
    });
    Lateness { appeared: total("appear"), flipped: total("flip"), histogram: histogram.collect() }
}

fn asides(facts: &Facts) -> Asides {
    let records = facts.asides.iter().map(|row| Aside {
        segment_id: row.segment_id.clone(),
        reason: row.reason.clone(),
        window: row.stretch.into(),
        first_seen: Moment(row.first_seen),
        times: row.times,
        next_read: Moment(row.due),
    });
    Asides { unresolved: facts.aside_counts.0, resolved: facts.aside_counts.1, records: records.collect() }
}

fn ledger(days: &[DayRow], gone: i64) -> Ledger {
    let differs = |day: &&DayRow| day.announced != day.held;
    let total = |of: fn(&DayRow) -> IdCount| days.iter().map(|day| of(day).segments).sum::<i64>();
    let differences: Vec<DayDifference> = days
        .iter()
        .filter(differs)
        .map(|day| DayDifference { day: date(day.day), announced: day.announced.segments, held: day.held.segments })
        .collect();
    Ledger {
        agrees: differences.is_empty(),
        days: days.len() as u64,
        announced: total(|day| day.announced).saturating_add(gone),
        held: total(|day| day.held),
        gone,
        differences,
    }
}

/// A day of the ledger as a date; `None` for segments without an end time.
fn date(day: i64) -> Option<String> {
    let midnight = Time(day.saturating_mul(millis(Duration::from_secs(86_400))));
    (day != NO_DAY).then(|| midnight.timestamp().strftime("%Y-%m-%d").to_string())
}

fn reads(facts: &Facts) -> Vec<Read> {
    let each = facts.reads.iter().map(|row| Read {
        at: Moment(row.at),
        took_ms: u64::try_from(row.took.as_millis()).unwrap_or(u64::MAX),
        lane: row.lane.clone(),
        from: Moment(row.stretch.from),
        to: Moment(row.stretch.to),
        announced: row.announced,
        added: row.added,
        changed: row.changed,
        flipped: row.flipped,
        aside: row.aside,
    });
    each.collect()
}
