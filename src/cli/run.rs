//! `run`: the daemon, its logging and its signals.

use tokio_util::sync::CancellationToken;

use super::Context;
use crate::daemon::{self, signals};
use crate::telemetry;

/// Options of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the daemon until a signal or a failure ends it.
///
/// # Errors
/// Where the settings are wrong, it cannot start, or a part of it ended of itself.
pub async fn run(_args: Args, context: &Context) -> anyhow::Result<u8> {
    let loaded = context.loaded()?;
    let log = telemetry::init(&loaded.settings.log)?;
    let stop = CancellationToken::new();
    let signals = signals::listen(stop.clone(), {
        let context = Context::new(context.config.clone(), context.clock.clone());
        move || reload(&context, &log)
    })?;
    let file = loaded.file.as_ref().map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), settings = file, "starting");
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let daemon = daemon::run(loaded.settings.clone(), context.clock.clone(), stop);
    // The signals' part never ends before the daemon does.
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

/// What SIGHUP asks for: the log filter as the settings name it now.
fn reload(context: &Context, log: &telemetry::Handle) {
    match context.load_again().map_err(anyhow::Error::from).and_then(|loaded| {
        log.set_filter(&loaded.settings.log.filter)?;
        Ok(loaded.settings.log.filter)
    }) {
        Ok(filter) => tracing::info!(filter, "the log filter was read again"),
        Err(error) => tracing::warn!("failed to read the log filter again, the old one stays: {error:#}"),
    }
}
