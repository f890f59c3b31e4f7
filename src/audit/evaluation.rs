//! Evaluates the facts from the database and finds out whether anything is missing. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::audit_report::{
    AccountAudit, ArtifactAudit, AuditGap, AuditProblem, AuditReport, BackfillAudit, CoveredRange, DayDifference,
    DigestComparison, GapCause, LastReadAge, Lateness, LatenessBucket, PurposeCoverage, QuarantineAudit,
    QuarantinedRecordAudit, ReadLogEntry, ReportedRange, Rfc3339Time, SegmentTotals, UnfinishedGroup, UnfinishedItem,
};
use super::problems::{self, find_problems, summarize};
use super::{AuditRequest, AuditedAccountFacts};
use crate::clock::{Time, millis};
use crate::coverage;
use crate::db::{ArtifactTally, DailyDigestRow, SegmentSetDigest};
use crate::model::{Artifact, ItemState, TimeRange, TimeRangeSet};

/// The read purpose that defines the basic coverage.
const LIVE_PURPOSE: &str = "live";

/// A live daemon that has read nothing for this long counts as failing to read.
const READ_STALL_TIMEOUT: Duration = Duration::from_secs(900);

/// The number of intervals that the newest read may be late before the time after it counts as a
/// gap.
const MAX_LATE_INTERVALS: u32 = 2;

/// The day number that stands for segments without an end time.
const NO_END_DAY: i64 = -1;

/// Derives the report of an audit.
pub(super) fn evaluate(request: &AuditRequest, facts: Vec<AuditedAccountFacts>) -> AuditReport {
    let mut problems = Vec::new();
    let missing: Vec<AccountAudit> = request
        .configured
        .iter()
        .filter(|(id, _)| request.includes(id) && !facts.iter().any(|facts| facts.account.id.sub == id.sub))
        .map(|(id, name)| never_read_account(&id.rc, &id.sub, name.clone()))
        .collect();
    let mut accounts: Vec<AccountAudit> = facts.into_iter().map(|facts| evaluate_account(request, facts)).collect();
    accounts.extend(missing);
    accounts.sort_by(|one, other| one.sub_account_id.cmp(&other.sub_account_id));
    for account in &accounts {
        problems.extend(find_problems(account));
    }
    report(request.now, accounts, problems)
}

/// The report with these accounts and their problems.
pub(super) fn report(now: Time, accounts: Vec<AccountAudit>, problems: Vec<AuditProblem>) -> AuditReport {
    let complete = problems.is_empty() && !accounts.is_empty();
    let verdict = summarize(&accounts, &problems);
    let (version, now, findings) = (env!("CARGO_PKG_VERSION"), Rfc3339Time(now), Vec::new());
    AuditReport { version, now, complete, verdict, problems, findings, accounts }
}

fn never_read_account(rc: &str, sub: &str, name: Option<String>) -> AccountAudit {
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
        segments: SegmentTotals { announced: 0, with_transcript: 0, erased: 0, expired: 0 },
        artifacts: Vec::new(),
        unfinished: Vec::new(),
        items: Vec::new(),
        late: Lateness::default(),
        aside: QuarantineAudit::default(),
        ledger: DigestComparison { agrees: true, ..DigestComparison::default() },
        reads: Vec::new(),
        notes: Vec::new(),
    }
}

fn evaluate_account(request: &AuditRequest, facts: AuditedAccountFacts) -> AccountAudit {
    let live = TimeRangeSet::from_unsorted(
        facts.covered.iter().filter(|row| row.purpose == LIVE_PURPOSE).map(|row| row.range).collect(),
    );
    let mut notes = Vec::new();
    let range = facts.account.live_start.and_then(|start| required_range(request, &facts, &live, start, &mut notes));
    let gaps = range.map(|range| find_gaps(request, &facts, &live, range)).unwrap_or_default();
    let watermark = facts
        .account
        .live_start
        .and_then(|start| live.range_containing(start))
        .map(|unbroken| Rfc3339Time(unbroken.to));
    if let Some(since) = facts.account.missing_since {
        notes.push(format!("the login has not listed this account since {}", Rfc3339Time(since)));
    }
    if let Some(pause) = &facts.pause {
        let (since, until) = (Rfc3339Time(pause.since), Rfc3339Time(pause.until));
        notes.push(format!("metadata reads are paused since {since}; next attempt at {until}: {}", pause.reason));
    }
    let (erased, expired) = (facts.gone.erased, facts.gone.expired);
    if (request.from.is_some() || request.to.is_some()) && (!facts.days.is_empty() || erased + expired > 0) {
        notes.push("digests are compared for whole UTC days: every day that the range touches".to_owned());
    }
    let announced = facts.segments.0 + erased + expired;
    AccountAudit {
        rc_account_id: facts.account.id.rc.to_string(),
        sub_account_id: facts.account.id.sub.to_string(),
        name: facts.account.name.clone(),
        range: range.map(ReportedRange::from),
        watermark,
        passes: coverage_by_purpose(&facts, range),
        last_looked: range.map(|range| last_read_ages(&facts, &live, range)).unwrap_or_default(),
        gaps,
        backfills: open_backfills(request, &facts),
        segments: SegmentTotals { announced, with_transcript: facts.segments.1, erased, expired },
        artifacts: audit_artifacts(&facts),
        unfinished: unfinished_groups(&facts),
        items: unfinished_items(&facts),
        late: lateness(&facts),
        aside: quarantine(&facts),
        ledger: compare_digests(&facts.days, i64::try_from(erased + expired).unwrap_or(i64::MAX)),
        reads: read_log(&facts),
        notes,
    }
}

/// The range that must have been read: the requested one, but not later than what can have been
/// read.
fn required_range(
    request: &AuditRequest,
    facts: &AuditedAccountFacts,
    live: &TimeRangeSet,
    live_start: Time,
    notes: &mut Vec<String>,
) -> Option<TimeRange> {
    let horizon = (request.now - request.offset).floor_to_second();
    // The log of reads may contain reads whose coverage was removed by someone.
    let logged = facts.reads.iter().filter(|read| read.lane == LIVE_PURPOSE).map(|read| read.range.to);
    let covered = live.as_slice().last().map(|newest| newest.to);
    let edge = covered.into_iter().chain(logged).max().filter(|edge| *edge > live_start);
    let from = match request.from {
        Some(from) if request.starts_with_first_read => from.max(live_start),
        Some(from) => from,
        None => live_start,
    };
    let due = edge.is_none_or(|edge| horizon > edge + request.interval * MAX_LATE_INTERVALS);
    let readable = edge.map_or(horizon, |edge| if due { edge.max(horizon) } else { edge });
    let to = match request.to {
        None => edge.unwrap_or(horizon),
        Some(to) if to > readable => {
            notes.push(format!("segments that ended at {} or later cannot be read yet", Rfc3339Time(readable)));
            readable
        }
        Some(to) => to,
    };
    if due
        && request.to.is_none()
        && let Some(edge) = edge
    {
        let (edge, behind) =
            (Rfc3339Time(edge), humantime::format_duration(Duration::from_secs(request.now.since(edge).as_secs())));
        notes.push(format!("no segment that ended at {edge} or later has been read: {behind} behind"));
    }
    TimeRange::new(from, to)
}

fn find_gaps(
    request: &AuditRequest,
    facts: &AuditedAccountFacts,
    live: &TimeRangeSet,
    range: TimeRange,
) -> Vec<AuditGap> {
    let missing = TimeRangeSet::from_unsorted(vec![range]).minus(live);
    missing.as_slice().iter().map(|gap| explain_gap(request, facts, *gap)).collect()
}

fn explain_gap(request: &AuditRequest, facts: &AuditedAccountFacts, gap: TimeRange) -> AuditGap {
    let before_first = facts.account.live_start.is_some_and(|start| gap.to <= start);
    let asked = facts.backfills.iter().find(|(_, range)| range.intersect(gap).is_some());
    let newest = facts.covered.iter().map(|row| row.last).max();
    let stalled = newest.is_none_or(|at| request.now.since(at) > READ_STALL_TIMEOUT.max(request.interval * 3));
    let wanted = !before_first || asked.is_some();
    let (cause, why) = match (&facts.pause, asked) {
        (Some(pause), _) if wanted => {
            (GapCause::PausedMetadata, format!("metadata reads are paused: {}", pause.reason))
        }
        _ if wanted && facts.is_owner_alive && stalled => {
            (GapCause::ReadsFailing, "a daemon is running but has read nothing recently".to_owned())
        }
        (_, Some((id, _))) => (GapCause::BeingBackfilled, format!("backfill {id} will read it")),
        _ if before_first => (GapCause::NeverRead, "never read: it is before the first read".to_owned()),
        _ => (GapCause::NeverRead, "never read".to_owned()),
    };
    AuditGap { from: Rfc3339Time(gap.from), to: Rfc3339Time(gap.to), cause, why }
}

/// The open backfills that touch the range of the request.
fn open_backfills(request: &AuditRequest, facts: &AuditedAccountFacts) -> Vec<BackfillAudit> {
    let touches = |range: &TimeRange| {
        request.from.is_none_or(|from| range.to > from) && request.to.is_none_or(|to| range.from < to)
    };
    let asked = facts.backfills.iter().filter(|(_, range)| touches(range));
    asked
        .map(|(id, range)| {
            let purpose = format!("backfill:{id}");
            let read = facts.covered.iter().filter(|row| row.purpose == purpose).map(|row| row.range).collect();
            let left = TimeRangeSet::from_unsorted(vec![*range]).minus(&TimeRangeSet::from_unsorted(read)).total();
            BackfillAudit {
                id: *id,
                range: ReportedRange::from(*range),
                seconds: range.width().as_secs(),
                read_seconds: range.width().saturating_sub(left).as_secs(),
            }
        })
        .collect()
}

fn coverage_by_purpose(facts: &AuditedAccountFacts, range: Option<TimeRange>) -> Vec<PurposeCoverage> {
    let mut purposes: BTreeMap<&str, Vec<CoveredRange>> = BTreeMap::new();
    for row in &facts.covered {
        if range.is_some_and(|range| row.range.intersect(range).is_some()) {
            purposes.entry(&row.purpose).or_default().push(CoveredRange {
                from: Rfc3339Time(row.range.from),
                to: Rfc3339Time(row.range.to),
                reads: row.reads,
                first_read: Rfc3339Time(row.first),
                last_read: Rfc3339Time(row.last),
            });
        }
    }
    purposes.into_iter().map(|(pass, stretches)| PurposeCoverage { pass: pass.to_owned(), stretches }).collect()
}

/// The ranges that were read, each with the longest recheck delay after which it was read again.
fn last_read_ages(facts: &AuditedAccountFacts, live: &TimeRangeSet, range: TimeRange) -> Vec<LastReadAge> {
    let mut rechecks: BTreeMap<Duration, Vec<TimeRange>> = BTreeMap::new();
    for row in &facts.covered {
        if let Some(coverage::ReadPurpose::Recheck(delay)) = coverage::ReadPurpose::parse(&row.purpose) {
            rechecks.entry(delay).or_default().push(row.range);
        }
    }
    let mut rest = live.within(range);
    let mut ages = Vec::new();
    for (delay, done) in rechecks.into_iter().rev() {
        let later = rest.minus(&TimeRangeSet::from_unsorted(done));
        for piece in rest.minus(&later).as_slice() {
            ages.push((*piece, Some(delay.as_secs_f64()), piece.from + delay));
        }
        rest = later;
    }
    for piece in rest.as_slice() {
        let row = facts.covered.iter().find(|row| row.purpose == LIVE_PURPOSE && row.range.contains(piece.from));
        ages.push((*piece, None, row.map_or(piece.from, |row| row.first.max(piece.from))));
    }
    ages.sort_unstable_by_key(|(piece, ..)| *piece);
    let age = |(piece, recheck_seconds, since): (TimeRange, Option<f64>, Time)| LastReadAge {
        from: Rfc3339Time(piece.from),
        to: Rfc3339Time(piece.to),
        recheck_seconds,
        since: Rfc3339Time(since),
    };
    ages.into_iter().map(age).collect()
}

fn audit_artifacts(facts: &AuditedAccountFacts) -> Vec<ArtifactAudit> {
    let gone = facts.gone.erased + facts.gone.expired;
    let each = Artifact::ALL.into_iter().zip(&facts.tallies).zip(facts.gone.requested);
    each.map(|((artifact, tally), erased)| ArtifactAudit {
        artifact: artifact.name(),
        asked: tally.requested + erased,
        stored: tally.stored,
        not_populated: tally.not_populated,
        pending: tally.pending,
        next_try: tally.next_due.map(Rfc3339Time),
        unavailable: tally.unavailable,
        failed: tally.failed,
        discarded: tally.discarded,
        erased,
        not_requested: (facts.segments.0 + gone).saturating_sub(tally.requested + erased),
        unexplained: unexplained(tally),
    })
    // Few archives have recordings.
    .filter(|audit| audit.artifact != Artifact::Recording.name() || audit.asked + audit.unexplained > 0)
    .collect()
}

/// The number of artifacts that were requested but do not exist, or exist but were not requested.
fn unexplained(tally: &ArtifactTally) -> u64 {
    tally.lost.saturating_add(tally.stray)
}

/// Finds differences between what an account stores and what was announced or requested.
pub(super) fn find_discrepancies(
    sub: &str,
    days: &[DailyDigestRow],
    tallies: [ArtifactTally; Artifact::ALL.len()],
) -> Vec<AuditProblem> {
    let unexplained =
        Artifact::ALL.into_iter().zip(&tallies).map(|(artifact, tally)| (artifact.name(), unexplained(tally)));
    problems::find_discrepancies(sub, &compare_digests(days, 0).differences, unexplained)
}

/// The name of a state in exports.
fn outcome_name(state: ItemState) -> &'static str {
    match state {
        ItemState::Open => "pending",
        ItemState::Unavailable => "unavailable",
        ItemState::Failed => "failed",
        ItemState::Discarded => "discarded",
    }
}

fn unfinished_groups(facts: &AuditedAccountFacts) -> Vec<UnfinishedGroup> {
    let each = facts.unfinished.iter().map(|row| UnfinishedGroup {
        artifact: row.artifact.name(),
        outcome: outcome_name(row.state),
        count: row.count,
        status: row.status,
        reason: row.reason.clone(),
        next_try: (row.state == ItemState::Open).then_some(Rfc3339Time(row.due)),
    });
    each.collect()
}

fn unfinished_items(facts: &AuditedAccountFacts) -> Vec<UnfinishedItem> {
    let each = facts.closed_items.iter().map(|row| UnfinishedItem {
        segment_id: row.segment_id.clone(),
        segment_end: row.ended.known().map(Rfc3339Time),
        artifact: row.artifact.name(),
        outcome: outcome_name(row.state),
        tries: row.tries,
        status: row.status,
        reason: row.reason.clone(),
    });
    each.collect()
}

fn lateness(facts: &AuditedAccountFacts) -> Lateness {
    let total = |kind: &str| facts.lateness.iter().filter(|(of, ..)| of == kind).map(|(.., count)| count).sum();
    let histogram = facts.lateness.iter().map(|(kind, bucket, count)| {
        let power = |exponent: i64| {
            u32::try_from(exponent).ok().and_then(|exponent| 1_u64.checked_shl(exponent)).unwrap_or(u64::MAX)
        };
        // The first bucket also contains delays of less than a second.
        let from_seconds = if *bucket == 0 { 0 } else { power(*bucket) };
        LatenessBucket { kind: kind.clone(), from_seconds, to_seconds: power(bucket.saturating_add(1)), count: *count }
    });
    Lateness { appeared: total("appear"), flipped: total("flip"), histogram: histogram.collect() }
}

fn quarantine(facts: &AuditedAccountFacts) -> QuarantineAudit {
    let records = facts.quarantined.iter().map(|row| QuarantinedRecordAudit {
        segment_id: row.segment_id.clone(),
        reason: row.reason.clone(),
        window: row.range.into(),
        first_seen: Rfc3339Time(row.first_seen),
        times: row.times,
        next_read: Rfc3339Time(row.due),
    });
    QuarantineAudit {
        unresolved: facts.quarantine_counts.0,
        resolved: facts.quarantine_counts.1,
        records: records.collect(),
    }
}

fn compare_digests(days: &[DailyDigestRow], gone: i64) -> DigestComparison {
    let differs = |day: &&DailyDigestRow| day.announced != day.stored;
    let total = |of: fn(&DailyDigestRow) -> SegmentSetDigest| days.iter().map(|day| of(day).segments).sum::<i64>();
    let differences: Vec<DayDifference> = days
        .iter()
        .filter(differs)
        .map(|day| DayDifference {
            day: date_of_day(day.day),
            announced: day.announced.segments,
            held: day.stored.segments,
        })
        .collect();
    DigestComparison {
        agrees: differences.is_empty(),
        days: days.len() as u64,
        announced: total(|day| day.announced).saturating_add(gone),
        held: total(|day| day.stored),
        gone,
        differences,
    }
}

/// The date of a day number; `None` for segments without an end time.
fn date_of_day(day: i64) -> Option<String> {
    let midnight = Time(day.saturating_mul(millis(Duration::from_secs(86_400))));
    (day != NO_END_DAY).then(|| midnight.timestamp().strftime("%Y-%m-%d").to_string())
}

fn read_log(facts: &AuditedAccountFacts) -> Vec<ReadLogEntry> {
    let each = facts.reads.iter().map(|row| ReadLogEntry {
        at: Rfc3339Time(row.at),
        took_ms: u64::try_from(row.duration.as_millis()).unwrap_or(u64::MAX),
        lane: row.lane.clone(),
        from: Rfc3339Time(row.range.from),
        to: Rfc3339Time(row.range.to),
        announced: row.announced,
        added: row.added,
        changed: row.changed,
        flipped: row.flipped,
        aside: row.quarantined,
    });
    each.collect()
}
