//! Checks who could read over HTTP: the identity provider's discovery, and the expiry of keys.

use std::time::Duration;

use super::CheckLine;
use crate::access::check_provider;
use crate::clock::Clock;
use crate::config::Access;

/// How long before its expiry a key is warned about.
const EXPIRY_WARNING: Duration = Duration::from_hours(30 * 24);

/// Checks the provider and each key that has expired or soon will.
pub(super) async fn check(access: &Access, clock: &Clock) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    if let Some(oidc) = &access.oidc {
        lines.push(match check_provider(oidc, clock).await {
            Ok(()) => CheckLine::ok(
                "access.oidc",
                &format!("{} answers; the redirect URI is {}/auth/callback", oidc.issuer, oidc.public_url),
            ),
            Err(error) => CheckLine::failed("access.oidc", &error.message).with_hint(Some(&error.hint)),
        });
    }
    let now = clock.now();
    for key in &access.keys {
        let Some(expires) = key.expires else { continue };
        let what = format!("key {}", key.name);
        let hint =
            Some("create a new one with `ringcx-extractor access new-key`, and remove this one from [[access.keys]]");
        if expires <= now {
            lines.push(CheckLine::failed(&what, &format!("has expired at {}", expires.rfc3339_secs())).with_hint(hint));
        } else if expires <= now + EXPIRY_WARNING {
            lines.push(CheckLine::warning(&what, &format!("expires at {}", expires.rfc3339_secs())).with_hint(hint));
        }
    }
    lines
}
