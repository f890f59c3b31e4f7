//! Exports the manifests into a folder once a day, signed and dated, if the settings ask for it.
//!
//! An export that exists is never written again. What is missing beside it, such as the time stamp
//! while the authority cannot be reached, is tried again, also after a restart on the same day. Once
//! an export is complete, the folder is not read again that day: the auditors may move the files away.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use super::report_writer::due_day;
use crate::clock::Time;
use crate::config::DailyManifests;
use crate::error::first_hint;
use crate::health::{Finding, FindingCode, Severity};
use crate::manifest_export::{self, SIGNATURE_SUFFIX, SigningKey, TIME_STAMP_SUFFIX, sibling};
use crate::verify;

/// How often the time of day is compared.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The time before another attempt after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// Runs until `stop`.
///
/// # Errors
/// None: an export that fails is reported and tried again.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let Some(settings) = context.settings.manifests.clone() else {
        stop.cancelled().await;
        return Ok(());
    };
    let work = async {
        let mut exported: Option<Time> = None;
        loop {
            context.clock.sleep(CHECK_INTERVAL).await;
            let Some((day, _)) = due_day(context.clock.now(), settings.at) else { continue };
            if exported == Some(day) || !context.is_active() {
                continue;
            }
            match export_missing(&context, &settings, day).await {
                Ok(()) => {
                    exported = Some(day);
                    context.findings.clear(FindingCode::ManifestsNotExported, None);
                }
                Err(error) => {
                    report(&context, &error);
                    context.clock.sleep(RETRY_INTERVAL).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = work => Ok(()),
    }
}

fn report(context: &AppContext, error: &anyhow::Error) {
    let sentence = format!("the daily export of the manifests is not complete: {error:#}");
    let hint = first_hint(error).unwrap_or("check the settings in [manifests] and the folder of the exports");
    let code = FindingCode::ManifestsNotExported;
    context.findings.report_and_log(Finding::new(code, Severity::Warning, context.clock.now(), sentence, hint));
}

/// Writes what does not exist yet of the export of this day.
async fn export_missing(context: &AppContext, settings: &DailyManifests, day: Time) -> anyhow::Result<()> {
    let path = settings.folder.join(format!("manifests-{}.jsonl", day.timestamp().strftime("%Y-%m-%d")));
    if !path.exists() {
        let chains = verify::load_chains(&context.db, None).await?;
        let (file, now) = (path.clone(), context.clock.now());
        let lines = tokio::task::spawn_blocking(move || {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
            }
            manifest_export::write_manifests(&file, &chains, now)
        })
        .await??;
        tracing::info!(path = %path.display(), lines, "exported the manifests");
    }
    if let Some(key) = settings.signing_key.clone().filter(|_| !sibling(&path, SIGNATURE_SUFFIX).exists()) {
        let file = path.clone();
        tokio::task::spawn_blocking(move || SigningKey::read(&key)?.sign_file(&file)).await??;
    }
    if let Some(authority) = settings.authority.as_ref().filter(|_| !sibling(&path, TIME_STAMP_SUFFIX).exists()) {
        manifest_export::time_stamp_file(authority, &path).await?;
    }
    Ok(())
}
