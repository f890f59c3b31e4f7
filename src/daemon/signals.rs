//! Handles signals, and notifies systemd.

use anyhow::Context as _;
use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio_util::sync::CancellationToken;

/// The exit status after a second signal.
const FORCED_EXIT_STATUS: i32 = 130;

/// Handles signals until the process ends. SIGTERM and SIGINT stop in an orderly way; a second one
/// exits at once. SIGHUP calls `reload`.
///
/// # Errors
/// If the system refuses the handlers.
pub(crate) fn listen(
    stop: CancellationToken,
    reload: impl Fn() + Send + 'static,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("failed to listen for signals")?;
    Ok(async move {
        while let Some(signal) = signals.next().await {
            match signal {
                SIGHUP => reload(),
                _ if stop.is_cancelled() => {
                    tracing::warn!("received a second signal: exiting at once");
                    std::process::exit(FORCED_EXIT_STATUS);
                }
                _ => {
                    tracing::info!("shutting down: finishing the work under way; a second signal exits at once");
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                    stop.cancel();
                }
            }
        }
    })
}

/// Notifies systemd that the daemon is ready.
pub(crate) fn notify_ready() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Notifies systemd's watchdog that the daemon is alive.
pub(crate) fn notify_watchdog() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
}
