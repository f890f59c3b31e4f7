//! What keeps an archive from being complete, and what to do about each of it. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report::{AccountAudit, ArtifactAudit, Cause, DayDifference, Gap, Problem, ProblemKind};
use crate::status::words;

/// Everything that keeps an account from being complete. Pending, unavailable and discarded items are explained.
pub(super) fn problems_of(account: &AccountAudit) -> Vec<Problem> {
    let mut problems = Vec::new();
    let sub = &account.sub_account_id;
    let mut add = |kind, count, what: String, hint: String| {
        problems.push(Problem { sub_account_id: sub.clone(), kind, count, what, hint });
    };
    if account.passes.is_empty() && account.gaps.is_empty() && account.range.is_none() && account.watermark.is_none() {
        let what = "nothing has been read of this account yet".to_owned();
        add(
            ProblemKind::NeverRead,
            1,
            what,
            "start the daemon: `ringcx-extractor run`; it reads the first window at once".to_owned(),
        );
    }
    for gap in &account.gaps {
        add(
            ProblemKind::Gap,
            1,
            format!("{} to {} was not read: {}", gap.from, gap.to, gap.why),
            gap_hint(account, gap),
        );
    }
    for backfill in &account.backfills {
        let span = |seconds| words::span(Duration::from_secs(seconds));
        let (id, range) = (backfill.id, backfill.range);
        let what =
            format!("backfill {id} ({range}): {} of {} read", span(backfill.read_seconds), span(backfill.seconds));
        let hint = format!(
            "a running daemon reads it as the metadata budget allows; `ringcx-extractor backfill list` says how long that \
             takes, `ringcx-extractor backfill cancel {id}` ends it"
        );
        add(ProblemKind::Backfill, 1, what, hint);
    }
    for artifact in account.artifacts.iter().filter(|artifact| artifact.failed > 0) {
        let why = account.unfinished.iter().find(|row| row.outcome == "failed" && row.artifact == artifact.artifact);
        let why = why
            .and_then(|row| row.reason.as_deref())
            .map(|reason| format!(", most often because: {reason}"))
            .unwrap_or_default();
        let what = format!("{} of {} failed for good{why}", artifact.artifact, segments(artifact.failed));
        let hint = "see `ringcx-extractor queue list --state failed`, and `queue show SEGMENT_ID` for what came instead; then \
                    `queue retry` or `queue discard`"
            .to_owned();
        add(ProblemKind::Failed, artifact.failed, what, hint);
    }
    if account.aside.unresolved > 0 {
        let why =
            account.aside.records.first().map(|record| format!(", such as: {}", record.reason)).unwrap_or_default();
        let what = format!("{} set aside because they could not be understood{why}", records(account.aside.unresolved));
        let hint = "they are kept as received and read again by themselves; should that not help, report the reason, seen with `audit --json`";
        add(ProblemKind::SetAside, account.aside.unresolved, what, hint.to_owned());
    }
    let unexplained = account.artifacts.iter().map(|artifact| (artifact.artifact, artifact.unexplained));
    problems.extend(discrepancies(sub, &account.ledger.differences, unexplained));
    problems
}

/// What of an account is not held as it was announced and asked for.
pub(super) fn discrepancies(
    sub: &str,
    differences: &[DayDifference],
    unexplained: impl Iterator<Item = (&'static str, u64)>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |kind, count, what: String, hint: String| {
        problems.push(Problem { sub_account_id: sub.to_owned(), kind, count, what, hint });
    };
    for day in differences {
        let which = day.day.clone().unwrap_or_else(|| "segments without an end time".to_owned());
        let what = if day.announced == day.held {
            format!("{which}: {} announced and as many are held, but not the same ones", segments_number(day.announced))
        } else {
            format!("{which}: {} announced, {} held", segments_number(day.announced), day.held)
        };
        let hint = backfill_day(sub, day.day.as_deref());
        add(ProblemKind::Ledger, 1, what, hint);
    }
    for (artifact, unexplained) in unexplained.filter(|(_, unexplained)| *unexplained > 0) {
        let what = format!("{artifact} of {} is neither held nor to be fetched as it should be", segments(unexplained));
        let hint =
            "the database was changed by something else, or this is a bug: restore a backup, or report it".to_owned();
        add(ProblemKind::Unexplained, unexplained, what, hint);
    }
    problems
}

fn gap_hint(account: &AccountAudit, gap: &Gap) -> String {
    let backfill =
        format!("`ringcx-extractor backfill --from {} --to {} --account {}`", gap.from, gap.to, account.sub_account_id);
    match gap.cause {
        Cause::NeverRead if account.watermark.is_some_and(|watermark| watermark <= gap.from) => {
            format!("a running daemon reads it by itself as its budget allows; or ask for it: {backfill}")
        }
        Cause::NeverRead => format!("ask for it: {backfill}"),
        Cause::BeingBackfilled => {
            "a running daemon reads it as its budget allows: `ringcx-extractor status` shows whether one runs"
                .to_owned()
        }
        Cause::PausedMetadata => {
            "`ringcx-extractor check` says what the login lacks; the daemon goes on by itself".to_owned()
        }
        Cause::ReadsFailing => "`ringcx-extractor check` says why; the daemon's log too".to_owned(),
    }
}

fn backfill_day(sub: &str, day: Option<&str>) -> String {
    let changed = "the database was changed by something else, or this is a bug";
    let next = day.and_then(|day| {
        let next = day.parse::<jiff::civil::Date>().ok()?.tomorrow().ok()?;
        Some(format!("`ringcx-extractor backfill --from {day} --to {next} --account {sub}` asks for what is missing"))
    });
    next.map_or_else(|| changed.to_owned(), |next| format!("{changed}; {next}"))
}

fn segments(count: u64) -> String {
    format!("{count} {}", if count == 1 { "segment" } else { "segments" })
}

fn segments_number(count: i64) -> String {
    format!("{count} {}", if count == 1 { "segment was" } else { "segments were" })
}

fn records(count: u64) -> String {
    format!("{count} {}", if count == 1 { "metadata record is" } else { "metadata records are" })
}

/// The first line for people.
pub(super) fn verdict(accounts: &[AccountAudit], problems: &[Problem]) -> String {
    if accounts.is_empty() {
        return "NOT complete: the archive holds no such account".to_owned();
    }
    if !problems.is_empty() {
        let mut counts: BTreeMap<ProblemKind, u64> = BTreeMap::new();
        for problem in problems {
            *counts.entry(problem.kind).or_default() += problem.count;
        }
        let counts: Vec<String> = counts.into_iter().map(|(kind, count)| kind.counted(count)).collect();
        return format!("NOT complete: {}", counts.join(", "));
    }
    let sum =
        |of: fn(&ArtifactAudit) -> u64| -> u64 { accounts.iter().flat_map(|account| &account.artifacts).map(of).sum() };
    let of = |which: fn(&super::report::Segments) -> u64| -> u64 {
        accounts.iter().map(|account| which(&account.segments)).sum()
    };
    let (announced, erased, expired) = (of(|all| all.announced), of(|all| all.erased), of(|all| all.expired));
    let gone = [(erased, "erased"), (expired, "past retention")];
    let gone: Vec<String> =
        gone.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}")).collect();
    let held = match gone.is_empty() {
        true => format!("{} announced and held", segments(announced)),
        false => {
            format!("{} announced, {} held, {}", segments(announced), announced - erased - expired, gone.join(", "))
        }
    };
    let parts = [
        (sum(|artifact| artifact.stored), "stored"),
        (sum(|artifact| artifact.not_populated), "empty"),
        (sum(|artifact| artifact.pending), "pending"),
        (sum(|artifact| artifact.unavailable), "unavailable"),
        (sum(|artifact| artifact.discarded), "discarded"),
        (sum(|artifact| artifact.erased), "erased"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    let asked = sum(|artifact| artifact.asked);
    let became = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("complete: no gap, {held}, {asked} transcripts and summaries asked for{became}")
}
