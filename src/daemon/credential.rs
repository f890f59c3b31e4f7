//! Warns before the login's JWT credential ends: once a day in the log, and as a finding for as long as it lasts.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::{Shared, credentials};
use crate::clock::{Tick, Time};
use crate::health::{Finding, Severity};
use crate::ringcx::expiry;

/// Between two looks at the credential.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// Between two warnings in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(86_400);
/// The finding's code.
const CREDENTIAL_EXPIRES: &str = "credential_expires";

/// Goes on until `stop`.
///
/// # Errors
/// None; its like have some.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut logged = None;
    loop {
        let auth = shared.settings.auth.clone();
        // It may have been replaced in its file, where the login finds it when the old one is refused.
        let reread = tokio::task::spawn_blocking(move || auth.reread().unwrap_or(auth)).await;
        let expires = reread.ok().and_then(|auth| credentials(&auth).expires());
        shared.set_credential_expires(expires);
        report(&shared, expires, &mut logged);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = shared.clock.sleep(CHECK_INTERVAL) => {}
        }
    }
}

fn report(shared: &Shared, expires: Option<Time>, logged: &mut Option<Tick>) {
    let now = shared.api.api_now();
    let Some(found) = expires.and_then(|expires| expiry(expires, now)) else {
        shared.findings.clear(CREDENTIAL_EXPIRES, None);
        *logged = None;
        return;
    };
    let tick = shared.clock.tick();
    if logged.is_none_or(|logged| tick.since(logged) >= LOG_INTERVAL) {
        *logged = Some(tick);
        tracing::warn!(hint = found.hint, "{}", found.sentence);
    }
    shared.findings.report(Finding {
        code: CREDENTIAL_EXPIRES,
        severity: if found.over { Severity::Trouble } else { Severity::Warning },
        since: now,
        subject: None,
        sentence: found.sentence,
        hint: found.hint.to_owned(),
        blocks_progress: false,
    });
}
