//! The reconciliation report: what was announced and what is held, by account and day, with what is
//! late, failed or erased, and whether the archive was verified.
//!
//! Reads only `db`. It combines the audit and the verification with counts by day, and adds no
//! judgement of its own.

mod html_page;
mod text_page;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::audit::{self, AuditProblem, AuditRequest, Lateness, Rfc3339Time};
use crate::clock::{Time, millis};
use crate::config::ReportFormat;
use crate::db::{AccountKey, ArtifactTally, Db, DbError, ExportRange};
use crate::model::Artifact;
use crate::verify::{self, VerifyRequest};

/// A segment that is first announced later than this after its end is late. One that a backfill
/// found is late, too.
const LATE_AFTER: Duration = Duration::from_secs(3600);

const DAY_MS: i64 = 86_400_000;

impl ReportFormat {
    /// The ending of a file's name.
    pub(crate) const fn extension(self) -> &'static str {
        match self {
            ReportFormat::Text => "txt",
            ReportFormat::Json => "json",
            ReportFormat::Html => "html",
        }
    }
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReconciliationReport {
    version: &'static str,
    now: Rfc3339Time,
    /// The range of end times; null where it is not bounded.
    from: Option<Rfc3339Time>,
    to: Option<Rfc3339Time>,
    /// Whether nothing is missing or unexplained, and the archive is intact as far as it was
    /// verified.
    pub(crate) complete: bool,
    verdict: String,
    verified: Verification,
    accounts: Vec<AccountReconciliation>,
}

/// The result of the verification.
#[derive(Debug, Clone, Serialize)]
struct Verification {
    /// Whether nothing was altered; null if it was not verified.
    intact: Option<bool>,
    verdict: String,
    problems: u64,
}

/// One account.
#[derive(Debug, Clone, Serialize)]
struct AccountReconciliation {
    rc_account_id: String,
    sub_account_id: String,
    name: Option<String>,
    watermark: Option<Rfc3339Time>,
    /// Segments that appeared, and transcripts that were announced, after their time had been read;
    /// since the first read.
    late: Lateness,
    problems: Vec<AuditProblem>,
    total: DayCounts,
    days: Vec<DayReconciliation>,
}

/// One UTC day of an account.
#[derive(Debug, Clone, Serialize)]
struct DayReconciliation {
    /// The date; null for segments without an end time.
    day: Option<String>,
    /// Whether the held segments are those that were announced and not removed.
    agrees: bool,
    #[serde(flatten)]
    counts: DayCounts,
}

/// The counts of a day, or of all days.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct DayCounts {
    /// Segments that the API announced.
    announced: u64,
    /// Segments in the archive.
    held: u64,
    /// Removed on request.
    erased: u64,
    /// Removed by retention.
    expired: u64,
    /// First announced more than an hour after their end.
    late: u64,
    transcripts: OutcomeCounts,
    agent_summaries: OutcomeCounts,
    auto_summaries: OutcomeCounts,
    recordings: OutcomeCounts,
}

/// The outcomes of an artifact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct OutcomeCounts {
    requested: u64,
    stored: u64,
    not_populated: u64,
    pending: u64,
    unavailable: u64,
    failed: u64,
    discarded: u64,
}

impl OutcomeCounts {
    fn add(&mut self, other: &OutcomeCounts) {
        self.requested += other.requested;
        self.stored += other.stored;
        self.not_populated += other.not_populated;
        self.pending += other.pending;
        self.unavailable += other.unavailable;
        self.failed += other.failed;
        self.discarded += other.discarded;
    }
}

impl From<ArtifactTally> for OutcomeCounts {
    fn from(tally: ArtifactTally) -> OutcomeCounts {
        OutcomeCounts {
            requested: tally.requested,
            stored: tally.stored,
            not_populated: tally.not_populated,
            pending: tally.pending,
            unavailable: tally.unavailable,
            failed: tally.failed,
            discarded: tally.discarded,
        }
    }
}

impl DayCounts {
    fn artifacts(&self) -> [&OutcomeCounts; Artifact::ALL.len()] {
        [&self.transcripts, &self.agent_summaries, &self.auto_summaries, &self.recordings]
    }

    fn artifact_mut(&mut self, artifact: Artifact) -> &mut OutcomeCounts {
        match artifact {
            Artifact::Transcript => &mut self.transcripts,
            Artifact::AgentSummary => &mut self.agent_summaries,
            Artifact::AutoSummary => &mut self.auto_summaries,
            Artifact::Recording => &mut self.recordings,
        }
    }

    fn add(&mut self, other: &DayCounts) {
        self.announced += other.announced;
        self.held += other.held;
        self.erased += other.erased;
        self.expired += other.expired;
        self.late += other.late;
        self.transcripts.add(&other.transcripts);
        self.agent_summaries.add(&other.agent_summaries);
        self.auto_summaries.add(&other.auto_summaries);
        self.recordings.add(&other.recordings);
    }

    /// The sum of an outcome over all artifacts.
    fn sum(&self, of: fn(&OutcomeCounts) -> u64) -> u64 {
        self.artifacts().into_iter().map(of).sum()
    }
}

/// Builds the report. With `with_verification` the whole archive is read.
///
/// # Errors
/// If the database cannot be read.
pub(crate) async fn build_report(
    db: &Db,
    request: &AuditRequest,
    with_verification: bool,
) -> Result<ReconciliationReport, DbError> {
    let audit = audit::run_audit(db, request).await?;
    let keys: BTreeMap<String, AccountKey> =
        db.accounts().await?.into_iter().map(|account| (account.id.sub.to_string(), account.key)).collect();
    let account = request.account.as_ref().and_then(|sub| keys.get(sub)).copied();
    let mut days = read_days(db, ExportRange { from: request.from, to: request.to, account }).await?;
    let verified = if with_verification {
        let request = VerifyRequest { account, now: request.now, ..VerifyRequest::default() };
        let chains = verify::load_chains(db, account).await?;
        let report = verify::verify_archive(db, &chains, &request, &mut |_| {}).await?;
        Verification { intact: Some(report.intact), verdict: report.verdict, problems: report.problem_count }
    } else {
        Verification { intact: None, verdict: "not verified".to_owned(), problems: 0 }
    };
    let accounts = audit.accounts.into_iter().map(|account| {
        let days = keys.get(&account.sub_account_id).and_then(|key| days.remove(key)).unwrap_or_default();
        let mut total = DayCounts::default();
        days.values().for_each(|(counts, _)| total.add(counts));
        let day = |(day, (counts, agrees)): (i64, (DayCounts, bool))| DayReconciliation {
            day: (day >= 0).then(|| date_of(day)),
            agrees,
            counts,
        };
        let problems = audit.problems.iter().filter(|problem| problem.sub_account_id == account.sub_account_id);
        let configured = request.configured.iter().find(|(id, _)| *id.sub == *account.sub_account_id);
        AccountReconciliation {
            problems: problems.cloned().collect(),
            rc_account_id: account.rc_account_id,
            sub_account_id: account.sub_account_id,
            name: configured.and_then(|(_, name)| name.clone()).or(account.name),
            watermark: account.watermark,
            late: account.late,
            total,
            days: days.into_iter().map(day).collect(),
        }
    });
    Ok(ReconciliationReport {
        version: env!("CARGO_PKG_VERSION"),
        now: Rfc3339Time(request.now),
        from: request.from.map(Rfc3339Time),
        to: request.to.map(Rfc3339Time),
        complete: audit.complete && verified.intact != Some(false),
        accounts: accounts.collect(),
        verdict: match verified.intact {
            Some(false) if audit.complete => format!("NOT complete: the archive is not intact: {}", verified.verdict),
            _ => audit.verdict,
        },
        verified,
    })
}

/// The counts of each day, and whether its digests agree; by account and day.
type Days = BTreeMap<AccountKey, BTreeMap<i64, (DayCounts, bool)>>;

async fn read_days(db: &Db, range: ExportRange) -> Result<Days, DbError> {
    let mut snapshot = db.snapshot().await?;
    let mut days = Days::new();
    fn counts(days: &mut Days, account: AccountKey, day: i64) -> &mut (DayCounts, bool) {
        days.entry(account).or_default().entry(day).or_insert((DayCounts::default(), true))
    }
    for row in snapshot.daily_digests(range).await? {
        let (of_day, agrees) = counts(&mut days, row.account, row.day);
        *agrees = row.announced == row.stored;
        of_day.announced = u64::try_from(row.announced.segments).unwrap_or(0);
        of_day.held = u64::try_from(row.stored.segments).unwrap_or(0);
    }
    for row in snapshot.daily_deletions(range).await? {
        if row.day < 0 && (range.from.is_some() || range.to.is_some()) {
            continue;
        }
        let (of_day, _) = counts(&mut days, row.account, row.day);
        (of_day.erased, of_day.expired) = (row.erased, row.expired);
        of_day.announced += row.erased + row.expired;
    }
    for (account, day, late) in snapshot.late_segments(range, millis(LATE_AFTER)).await? {
        counts(&mut days, account, day).0.late = u64::try_from(late).unwrap_or(0);
    }
    for artifact in Artifact::ALL {
        for row in snapshot.daily_tallies(range, artifact).await? {
            *counts(&mut days, row.account, row.day).0.artifact_mut(artifact) = row.tally.into();
        }
    }
    Ok(days)
}

fn date_of(day: i64) -> String {
    Time(day.saturating_mul(DAY_MS)).timestamp().strftime("%Y-%m-%d").to_string()
}

impl ReconciliationReport {
    /// Renders the report.
    ///
    /// # Errors
    /// If it cannot be serialized.
    pub(crate) fn render(&self, format: ReportFormat) -> serde_json::Result<String> {
        Ok(match format {
            ReportFormat::Text => text_page::render(self),
            ReportFormat::Json => serde_json::to_string_pretty(self)? + "\n",
            ReportFormat::Html => html_page::render(self),
        })
    }

    /// The range in words.
    fn describe_range(&self) -> String {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("segments that ended from {from} to {to}"),
            (Some(from), None) => format!("segments that ended at {from} or later"),
            (None, Some(to)) => format!("segments that ended before {to}"),
            (None, None) => "all segments".to_owned(),
        }
    }
}

/// The columns of the table of days, and their cells.
const HEADER: [&str; 12] = [
    "day",
    "announced",
    "held",
    "erased",
    "expired",
    "late",
    "transcripts",
    "summaries",
    "pending",
    "unavailable",
    "failed",
    "agrees",
];

fn cells(day: &str, counts: &DayCounts, agrees: bool) -> [String; 12] {
    let summaries = counts.agent_summaries.stored + counts.auto_summaries.stored;
    let numbers = [
        counts.announced,
        counts.held,
        counts.erased,
        counts.expired,
        counts.late,
        counts.transcripts.stored,
        summaries,
        counts.sum(|of| of.pending),
        counts.sum(|of| of.unavailable),
        counts.sum(|of| of.failed),
    ];
    let mut row: [String; 12] = Default::default();
    row[0] = day.to_owned();
    for (cell, number) in row.iter_mut().skip(1).zip(numbers) {
        *cell = number.to_string();
    }
    row[11] = if agrees { "yes" } else { "NO" }.to_owned();
    row
}

impl AccountReconciliation {
    fn title(&self) -> String {
        let name = self.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        crate::render::clean_line(&format!("account {}{name}", self.sub_account_id))
    }

    /// One row per day, and the sum.
    fn rows(&self) -> Vec<[String; 12]> {
        let day = |day: &DayReconciliation| cells(day.day.as_deref().unwrap_or("unknown"), &day.counts, day.agrees);
        let total = cells("total", &self.total, self.days.iter().all(|day| day.agrees));
        self.days.iter().map(day).chain([total]).collect()
    }

    fn describe_late(&self) -> String {
        format!(
            "{} appeared after their time had been read, {} received their transcript later (since the first read)",
            self.late.appeared, self.late.flipped
        )
    }
}
