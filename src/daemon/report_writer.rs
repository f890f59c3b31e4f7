//! Writes the reconciliation report of the day before into a folder, once a day, if the settings ask
//! for it.
//!
//! A report that exists is never written again. One that was missed because the daemon did not run
//! is written at the next start.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use crate::audit::AuditRequest;
use crate::clock::Time;
use crate::config::{DailyReport, ReportFormat};
use crate::error::first_hint;
use crate::export::Target;
use crate::report;

/// How often the time of day is compared.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Runs until `stop`.
///
/// # Errors
/// None: a report that cannot be written is logged and tried again.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let Some(settings) = context.settings.report.clone() else {
        stop.cancelled().await;
        return Ok(());
    };
    let work = async {
        loop {
            context.clock.sleep(CHECK_INTERVAL).await;
            if let Err(error) = write_if_due(&context, &settings).await {
                tracing::warn!(hint = first_hint(&error), "failed to write the daily report: {error:#}; retrying");
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}

/// Writes the report of yesterday if the time of day has come and it does not exist.
async fn write_if_due(context: &AppContext, settings: &DailyReport) -> anyhow::Result<()> {
    let now = context.clock.now();
    let Some((from, to)) = due_day(now, settings.at) else { return Ok(()) };
    let path = settings.folder.join(file_name(from, settings.format));
    if !context.is_active() || path.exists() {
        return Ok(());
    }
    let request = AuditRequest::new(&context.settings, Some(from), Some(to), None, now);
    let report = report::build_report(&context.db, &request, settings.with_verification).await?;
    let text = report.render(settings.format)?;
    let file = path.clone();
    tokio::task::spawn_blocking(move || write_file(&file, &text)).await??;
    tracing::info!(path = %path.display(), complete = report.complete, "wrote the daily report");
    Ok(())
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    }
    let mut target = Target::file(path)?;
    target.write_all(text.as_bytes()).with_context(|| format!("failed to write {}", path.display()))?;
    target.finish()
}

/// The UTC day before today, if today's time of day has come.
pub(super) fn due_day(now: Time, at: Duration) -> Option<(Time, Time)> {
    let millis = crate::clock::millis(DAY);
    let today = Time(now.0.div_euclid(millis).saturating_mul(millis));
    (now >= today + at).then(|| (today - DAY, today))
}

fn file_name(day: Time, format: ReportFormat) -> String {
    format!("report-{}.{}", day.timestamp().strftime("%Y-%m-%d"), format.extension())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_a_day_is_due_on_the_next_one() {
        let at = Duration::from_secs(6 * 3600);
        let time = |text: &str| Time::parse(text).unwrap();
        assert_eq!(due_day(time("2026-11-30T05:59:59Z"), at), None);
        let (from, to) = due_day(time("2026-11-30T06:00:00Z"), at).unwrap();
        assert_eq!((from, to), (time("2026-11-29T00:00:00Z"), time("2026-11-30T00:00:00Z")));
        assert_eq!(file_name(from, ReportFormat::Html), "report-2026-11-29.html");
    }
}
