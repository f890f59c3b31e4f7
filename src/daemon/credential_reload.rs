//! Reads credentials again while the daemon runs: the URL of the database all the time, those of the
//! login after SIGHUP.
//!
//! A password in the URL may be a token of some minutes. Its file is read every two seconds, so that
//! each new connection uses the newest one. The login also reads its own files when it is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::app_context::{AppContext, login_credentials};
use crate::config::{Auth, DatabaseUrl};

/// How often the file of the database URL is read.
const URL_RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Runs until `stop`. `reloaded` has the login of the settings, as they were last loaded.
///
/// # Errors
/// None. The signature is that of the other background tasks.
pub(crate) async fn run(
    context: Arc<AppContext>,
    reloaded: watch::Receiver<Auth>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow_database_url(&context) => {}
        () = follow_login(&context, reloaded) => {}
    }
    Ok(())
}

async fn follow_database_url(context: &AppContext) {
    let database = &context.settings.database;
    if matches!(database.url, DatabaseUrl::Sqlite(_)) {
        return std::future::pending().await;
    }
    loop {
        context.clock.sleep(URL_RELOAD_INTERVAL).await;
        let reload = {
            let database = database.clone();
            move || database.reload_url()
        };
        // It reads a file, and the disk may hang.
        match tokio::task::spawn_blocking(reload).await {
            Ok(Ok(Some(url))) => {
                if let Err(error) = context.db.set_url(&url) {
                    tracing::debug!(%error, "failed to use the database URL that was read again");
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "failed to read the database URL again"),
            Err(_) => tracing::error!("failed to read the database URL again: the task that reads it panicked"),
        }
    }
}

async fn follow_login(context: &AppContext, mut reloaded: watch::Receiver<Auth>) {
    while reloaded.changed().await.is_ok() {
        let auth = reloaded.borrow_and_update().clone();
        let credentials = login_credentials(&auth);
        context.set_auth(auth);
        // A failure is logged by the login, and a finding.
        let _ = context.login.replace_credentials(credentials).await;
    }
    // Nothing reloads the settings any more.
    std::future::pending().await
}
