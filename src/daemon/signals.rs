//! Signals in, and word to systemd out.

use anyhow::Context as _;
use futures_util::StreamExt;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio_util::sync::CancellationToken;

/// The exit status of a second signal: whoever sent it does not want to wait.
const AT_ONCE: i32 = 130;

/// Turns signals into what they mean, until the process ends: SIGTERM and SIGINT stop in good order, a second one at
/// once; SIGHUP calls `reload`.
///
/// # Errors
/// Where the system refuses the handlers.
pub fn listen(
    stop: CancellationToken,
    reload: impl Fn() + Send + 'static,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("failed to listen for signals")?;
    Ok(async move {
        while let Some(signal) = signals.next().await {
            match signal {
                SIGHUP => reload(),
                _ if stop.is_cancelled() => {
                    tracing::warn!("a second signal: leaving at once");
                    std::process::exit(AT_ONCE);
                }
                _ => {
                    tracing::info!("finishing what is under way; a second signal leaves at once");
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                    stop.cancel();
                }
            }
        }
    })
}

/// Tells systemd that the daemon works.
pub fn ready() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Tells systemd's watchdog that the daemon is alive.
pub fn alive() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
}
