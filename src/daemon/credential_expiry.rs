//! Warns before the login's JWT credential expires: once a day in the log, and with a finding.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::app_context::{AppContext, login_credentials};
use crate::clock::{Tick, Time};
use crate::health::{Finding, FindingCode, Severity};
use crate::ringcx::expiry_warning;

/// The time between two checks of the credential.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// The time between two warnings in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(86_400);

/// Runs until `stop`.
///
/// # Errors
/// None. The signature is that of the other background tasks.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut logged = None;
    loop {
        let auth = context.auth();
        // The credential may have been replaced in its file. The login reads it when the old one is
        // refused.
        let reloaded = tokio::task::spawn_blocking(move || auth.reload_secrets().unwrap_or(auth)).await;
        let expires = reloaded.ok().and_then(|auth| login_credentials(&auth).expires());
        context.set_credential_expiry(expires);
        report(&context, expires, &mut logged);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = context.clock.sleep(CHECK_INTERVAL) => {}
        }
    }
}

fn report(context: &AppContext, expires: Option<Time>, logged: &mut Option<Tick>) {
    let now = context.api.api_now();
    let Some(found) = expires.and_then(|expires| expiry_warning(expires, now)) else {
        context.findings.clear(FindingCode::CredentialExpires, None);
        *logged = None;
        return;
    };
    let tick = context.clock.tick();
    if logged.is_none_or(|logged| tick.since(logged) >= LOG_INTERVAL) {
        *logged = Some(tick);
        tracing::warn!(hint = found.hint, "{}", found.sentence);
    }
    let severity = if found.is_expired { Severity::Trouble } else { Severity::Warning };
    let code = FindingCode::CredentialExpires;
    context.findings.report(Finding::new(code, severity, now, found.sentence, found.hint));
}
