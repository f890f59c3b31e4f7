//! `run`: starts the daemon with its logging and signals.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::CommandContext;
use crate::build_info;
use crate::config::Auth;
use crate::daemon::{self, signals};
use crate::telemetry;

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {}

/// Runs the daemon until a signal or a failure stops it.
pub(crate) async fn run(_args: RunArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let loaded = context.loaded_settings()?;
    let log = telemetry::init(&loaded.settings.log)?;
    let stop = CancellationToken::new();
    let auth = watch::Sender::new(loaded.settings.login()?.clone());
    let reloaded = auth.subscribe();
    let signals = signals::listen(stop.clone(), {
        let context = CommandContext::new(context.config.clone(), context.clock.clone());
        move || reload_settings(&context, &log, &auth)
    })?;
    let file = loaded.file.as_ref().map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
    tracing::info!(version = env!("CARGO_PKG_VERSION"), commit = build_info::commit(), settings = file, "starting");
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let daemon = daemon::run_with_reload(loaded.settings.clone(), reloaded, context.clock.clone(), stop);
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

/// Applies the log filter and the login of the current settings after SIGHUP.
fn reload_settings(context: &CommandContext, log: &telemetry::LogFilterHandle, auth: &watch::Sender<Auth>) {
    match context.reload_settings().map_err(anyhow::Error::from).and_then(|loaded| {
        log.set_filter(&loaded.settings.log.filter)?;
        Ok(loaded.settings)
    }) {
        Ok(settings) => {
            tracing::info!(
                filter = settings.log.filter,
                "log filter and login reloaded; other settings need a restart"
            );
            if let Some(login) = settings.auth {
                auth.send_replace(login);
            }
        }
        Err(error) => {
            tracing::warn!("failed to reload the log filter and the login; the current ones stay active: {error:#}");
        }
    }
}
