//! Finds the problems that make an archive incomplete, with a hint for each. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::audit_report::{
    AccountAudit, ArtifactAudit, AuditGap, AuditProblem, AuditProblemKind, DayDifference, GapCause, SegmentTotals,
};
use crate::health::humanize;

/// Finds everything that makes an account incomplete. Pending, unavailable and discarded items are
/// explained and no problem.
pub(super) fn find_problems(account: &AccountAudit) -> Vec<AuditProblem> {
    let mut problems = Vec::new();
    let sub = &account.sub_account_id;
    let mut add = |kind, count, what: String, hint: String| {
        problems.push(AuditProblem { sub_account_id: sub.clone(), kind, count, what, hint });
    };
    if account.passes.is_empty() && account.gaps.is_empty() && account.range.is_none() && account.watermark.is_none() {
        let what = "no metadata of this account has been read yet".to_owned();
        add(
            AuditProblemKind::NeverRead,
            1,
            what,
            "start the daemon with `ringcx-extractor run`; it reads the first window at once".to_owned(),
        );
    }
    for gap in &account.gaps {
        add(
            AuditProblemKind::Gap,
            1,
            format!("{} to {} was not read: {}", gap.from, gap.to, gap.why),
            gap_hint(account, gap),
        );
    }
    for backfill in &account.backfills {
        let span = |seconds| humanize::format_duration(Duration::from_secs(seconds));
        let (id, range) = (backfill.id, backfill.range);
        let what =
            format!("backfill {id} ({range}): {} of {} read", span(backfill.read_seconds), span(backfill.seconds));
        let hint = format!(
            "a running daemon reads it as the metadata budget allows; `ringcx-extractor backfill list` shows how long that \
             takes, and `ringcx-extractor backfill cancel {id}` cancels it"
        );
        add(AuditProblemKind::Backfill, 1, what, hint);
    }
    for artifact in account.artifacts.iter().filter(|artifact| artifact.failed > 0) {
        let why = account.unfinished.iter().find(|row| row.outcome == "failed" && row.artifact == artifact.artifact);
        let why = why
            .and_then(|row| row.reason.as_deref())
            .map(|reason| format!(", most often: {reason}"))
            .unwrap_or_default();
        let what = format!("{} of {} failed permanently{why}", artifact.artifact, count_segments(artifact.failed));
        let hint = "see `ringcx-extractor queue list --state failed`, and `queue show SEGMENT_ID` for the last answer; then use \
                    `queue retry` or `queue discard`"
            .to_owned();
        add(AuditProblemKind::Failed, artifact.failed, what, hint);
    }
    if account.aside.unresolved > 0 {
        let why =
            account.aside.records.first().map(|record| format!(", such as: {}", record.reason)).unwrap_or_default();
        let what =
            format!("{} set aside because they could not be parsed{why}", count_records_are(account.aside.unresolved));
        let hint = "they are kept as received and are read again automatically; if that does not help, report the reason that `audit --json` shows";
        add(AuditProblemKind::SetAside, account.aside.unresolved, what, hint.to_owned());
    }
    let unexplained = account.artifacts.iter().map(|artifact| (artifact.artifact, artifact.unexplained));
    problems.extend(find_discrepancies(sub, &account.ledger.differences, unexplained));
    problems
}

/// Finds differences between what an account stores and what was announced or requested.
pub(super) fn find_discrepancies(
    sub: &str,
    differences: &[DayDifference],
    unexplained: impl Iterator<Item = (&'static str, u64)>,
) -> Vec<AuditProblem> {
    let mut problems = Vec::new();
    let mut add = |kind, count, what: String, hint: String| {
        problems.push(AuditProblem { sub_account_id: sub.to_owned(), kind, count, what, hint });
    };
    for day in differences {
        let which = day.day.clone().unwrap_or_else(|| "segments without an end time".to_owned());
        let what = if day.announced == day.held {
            format!(
                "{which}: {} announced and as many are stored, but not the same ones",
                count_segments_were(day.announced)
            )
        } else {
            format!("{which}: {} announced, {} stored", count_segments_were(day.announced), day.held)
        };
        let hint = backfill_hint(sub, day.day.as_deref());
        add(AuditProblemKind::Ledger, 1, what, hint);
    }
    for (artifact, unexplained) in unexplained.filter(|(_, unexplained)| *unexplained > 0) {
        let what =
            format!("{artifact} of {} is neither stored nor queued as it should be", count_segments(unexplained));
        let hint = "another program changed the database, or this is a bug: restore a backup, or report it".to_owned();
        add(AuditProblemKind::Unexplained, unexplained, what, hint);
    }
    problems
}

fn gap_hint(account: &AccountAudit, gap: &AuditGap) -> String {
    let backfill =
        format!("`ringcx-extractor backfill --from {} --to {} --account {}`", gap.from, gap.to, account.sub_account_id);
    match gap.cause {
        GapCause::NeverRead if account.watermark.is_some_and(|watermark| watermark <= gap.from) => {
            format!("a running daemon reads it as its budget allows; to request it explicitly: {backfill}")
        }
        GapCause::NeverRead => format!("request it: {backfill}"),
        GapCause::BeingBackfilled => {
            "a running daemon reads it as its budget allows; `ringcx-extractor status` shows whether one is running"
                .to_owned()
        }
        GapCause::PausedMetadata => {
            "`ringcx-extractor check` shows what the login lacks; the daemon resumes automatically".to_owned()
        }
        GapCause::ReadsFailing => "see `ringcx-extractor check` and the daemon's log for the cause".to_owned(),
    }
}

fn backfill_hint(sub: &str, day: Option<&str>) -> String {
    let changed = "another program changed the database, or this is a bug";
    let next = day.and_then(|day| {
        let next = day.parse::<jiff::civil::Date>().ok()?.tomorrow().ok()?;
        Some(format!(
            "`ringcx-extractor backfill --from {day} --to {next} --account {sub}` requests the missing segments"
        ))
    });
    next.map_or_else(|| changed.to_owned(), |next| format!("{changed}; {next}"))
}

fn count_segments(count: u64) -> String {
    format!("{count} {}", if count == 1 { "segment" } else { "segments" })
}

fn count_segments_were(count: i64) -> String {
    format!("{count} {}", if count == 1 { "segment was" } else { "segments were" })
}

fn count_records_are(count: u64) -> String {
    format!("{count} {}", if count == 1 { "metadata record is" } else { "metadata records are" })
}

/// Summarizes the result in one line.
pub(super) fn summarize(accounts: &[AccountAudit], problems: &[AuditProblem]) -> String {
    if accounts.is_empty() {
        return "NOT complete: the archive has no such account".to_owned();
    }
    if !problems.is_empty() {
        let mut counts: BTreeMap<AuditProblemKind, u64> = BTreeMap::new();
        for problem in problems {
            *counts.entry(problem.kind).or_default() += problem.count;
        }
        let counts: Vec<String> = counts.into_iter().map(|(kind, count)| kind.format_count(count)).collect();
        return format!("NOT complete: {}", counts.join(", "));
    }
    let sum =
        |of: fn(&ArtifactAudit) -> u64| -> u64 { accounts.iter().flat_map(|account| &account.artifacts).map(of).sum() };
    let of =
        |which: fn(&SegmentTotals) -> u64| -> u64 { accounts.iter().map(|account| which(&account.segments)).sum() };
    let (announced, erased, expired) = (of(|all| all.announced), of(|all| all.erased), of(|all| all.expired));
    let gone = [(erased, "erased"), (expired, "past retention")];
    let gone: Vec<String> =
        gone.iter().filter(|(count, _)| *count > 0).map(|(count, why)| format!("{count} {why}")).collect();
    let stored = match gone.is_empty() {
        true => format!("{} announced and stored", count_segments(announced)),
        false => {
            format!(
                "{} announced, {} stored, {}",
                count_segments(announced),
                announced - erased - expired,
                gone.join(", ")
            )
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
    let outcomes = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("complete: no gap, {stored}, {asked} transcripts and summaries requested{outcomes}")
}
