//! `run`: starts the daemon with its logging and signals.

use tokio_util::sync::CancellationToken;

use super::CommandContext;
use crate::build_info;
use crate::daemon::{self, signals};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {}

/// Runs the daemon until a signal or a failure stops it.
pub(crate) async fn run(_args: RunArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let loaded = context.loaded_settings()?;
    let log = telemetry::init(&loaded.settings.log)?;
    let stop = CancellationToken::new();
    let signals = signals::listen(stop.clone(), {
        let context = CommandContext::new(context.config.clone(), context.clock.clone());
        move || reload_log_filter(&context, &log)
    })?;
    let file = loaded.file.as_ref().map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), commit = build_info::commit(), settings = file, "starting");
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let daemon = daemon::run(loaded.settings.clone(), context.clock.clone(), stop);
    // The signal task never ends before the daemon.
    tokio::pin!(daemon);
    let outcome = tokio::select! {
        outcome = &mut daemon => outcome,
        () = signals => daemon.await,
    };
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome.map(|()| 0)
}

/// Applies the log filter of the current settings after SIGHUP.
fn reload_log_filter(context: &CommandContext, log: &telemetry::LogFilterHandle) {
    match context.reload_settings().map_err(anyhow::Error::from).and_then(|loaded| {
        log.set_filter(&loaded.settings.log.filter)?;
        Ok(loaded.settings.log.filter)
    }) {
        Ok(filter) => tracing::info!(filter, "log filter reloaded"),
        Err(error) => tracing::warn!("failed to reload the log filter; the current one stays active: {error:#}"),
    }
}
