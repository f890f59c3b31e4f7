//! The steps to obtain a token, and the back-off of failed attempts.
//!
//! Refresh; otherwise exchange; otherwise a new RingCentral token and an exchange. Sending a
//! refresh token spends it: it is never sent twice, whatever the outcome, unless the request was
//! certainly not processed.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::backoff::Fault;
use crate::clock::Tick;
use crate::model::Endpoint;

use super::token_requests::TokenGrant;
use super::{AccessToken, Credentials, Login};
use crate::error::{ApiError, ErrorCause};

/// The longest back-off between two attempts, unless the server asks for more.
const MAX_LOGIN_BACKOFF: Duration = Duration::from_secs(60);

/// A RingCentral token that was never accepted is replaced after a refusal only at this age. A
/// younger one is mostly valid and the user lacks access, and tokens are limited.
const MIN_RINGCENTRAL_TOKEN_AGE: Duration = Duration::from_secs(60);

/// The state that is kept from one renewal to the next.
pub(super) struct RenewalState {
    pub(super) credentials: Credentials,
    pub(super) refresh_token: Option<SecretString>,
    pub(super) ringcentral_token: Option<RingCentralToken>,
    consecutive_failures: u32,
    last_failure: Option<(ApiError, Tick)>,
    /// Whether all consecutive failures were those of [`Login::platform_token`]. Then its success
    /// ends them. It does not end a failure to obtain a RingCX token.
    only_platform_failed: bool,
    /// Consecutive renewals because of a refused token that was never accepted.
    unaccepted_renewals: u32,
    forced_renewal_due: Tick,
}

/// A RingCentral token, and the end of its use.
#[derive(Clone)]
pub(crate) struct RingCentralToken {
    pub(crate) secret: SecretString,
    /// When it was requested.
    pub(super) requested_at: Tick,
    pub(super) usable_until: Tick,
    /// Whether an exchange has accepted it. If it is refused later, it was revoked.
    pub(super) accepted: bool,
}

impl RenewalState {
    pub(super) fn new(credentials: Credentials) -> RenewalState {
        RenewalState {
            credentials,
            refresh_token: None,
            ringcentral_token: None,
            consecutive_failures: 0,
            last_failure: None,
            only_platform_failed: false,
            unaccepted_renewals: 0,
            forced_renewal_due: Tick::default(),
        }
    }

    /// Whether the next attempt is not due yet.
    pub(super) fn is_backing_off(&self, now: Tick) -> bool {
        self.last_failure.as_ref().is_some_and(|(_, due)| now < *due)
    }

    /// Returns the last failure while the next attempt is not due yet.
    pub(super) fn check_backoff(&self, now: Tick) -> Result<(), ApiError> {
        match &self.last_failure {
            Some((error, due)) if now < *due => Err(error.clone().with_retry_in(due.since(now))),
            _ => Ok(()),
        }
    }

    /// Makes the next attempt due now.
    pub(super) fn retry_now(&mut self) {
        (self.last_failure, self.forced_renewal_due) = (None, Tick::default());
    }

    pub(super) fn record_success(&mut self) {
        self.consecutive_failures = 0;
        self.last_failure = None;
        self.only_platform_failed = false;
    }

    /// Keeps a failure for all callers until the next attempt is due.
    pub(super) fn record_failure(&mut self, error: ApiError, now: Tick) -> ApiError {
        let delay = backoff_delay(self.consecutive_failures, now).max(error.retry_after.unwrap_or_default());
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.last_failure = Some((error.clone(), now + delay));
        self.only_platform_failed = false;
        error.with_retry_in(delay)
    }

    /// Checks whether a 401 may cause a renewal. Where fresh tokens are refused one after the
    /// other, renewals do not help and become rarer.
    pub(super) fn check_forced_renewal(&mut self, stale: &AccessToken, now: Tick) -> Result<(), ApiError> {
        if stale.was_accepted() {
            self.unaccepted_renewals = 0;
            return Ok(());
        }
        if now < self.forced_renewal_due {
            let why = "fresh tokens are refused repeatedly";
            let error = ApiError::new(Fault::Unauthorised, Endpoint::Login, ErrorCause::RenewalSuspended, why);
            return Err(error.with_retry_in(self.forced_renewal_due.since(now)));
        }
        self.unaccepted_renewals = self.unaccepted_renewals.saturating_add(1);
        if self.unaccepted_renewals > 2 {
            self.forced_renewal_due = now + backoff_delay(self.unaccepted_renewals - 2, now);
        }
        Ok(())
    }
}

/// 1 s, doubled at each failure up to a minute, with jitter within [1/2, 1] of it. The jitter is a
/// hash of the clock's nanoseconds: replicas must differ, and it need not be unpredictable.
fn backoff_delay(consecutive_failures: u32, now: Tick) -> Duration {
    let full = Duration::from_secs(1 << consecutive_failures.min(6)).min(MAX_LOGIN_BACKOFF);
    let mut mixed = now.0.subsec_nanos() ^ u32::try_from(now.0.as_secs() & 0xffff_ffff).unwrap_or(0);
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x7feb_352d);
    mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x846c_a68b);
    full.mul_f64(0.5 + 0.5 * f64::from(mixed ^ (mixed >> 16)) / f64::from(u32::MAX))
}

impl Login {
    /// Obtains a token by the way that the credentials allow. Reloads the credentials if they are
    /// refused, and tries again.
    pub(super) async fn obtain_token(&self, renewal: &mut RenewalState) -> Result<AccessToken, ApiError> {
        match self.obtain_once(renewal).await {
            Err(error) if error.is_refusal() && self.reload_credentials(renewal).await => {
                self.obtain_once(renewal).await
            }
            outcome => outcome,
        }
    }

    /// Reads the credentials again. Returns whether they have changed.
    pub(super) async fn reload_credentials(&self, renewal: &mut RenewalState) -> bool {
        let Some(load_credentials) = self.0.load_credentials.clone() else { return false };
        // It reads files, and the disk may hang.
        let fresh = match tokio::task::spawn_blocking(move || load_credentials()).await {
            Ok(Ok(fresh)) => fresh,
            Ok(Err(error)) => {
                tracing::warn!("failed to read the credentials again: {error}");
                return false;
            }
            // The message of a panic may hold a secret, so it is not logged.
            Err(_) => {
                tracing::error!("failed to read the credentials again: the task that reads them panicked");
                return false;
            }
        };
        if fresh == renewal.credentials {
            return false;
        }
        tracing::info!("the credentials have changed: logging in with the new ones");
        (renewal.credentials, renewal.refresh_token, renewal.ringcentral_token) = (fresh, None, None);
        true
    }

    async fn obtain_once(&self, renewal: &mut RenewalState) -> Result<AccessToken, ApiError> {
        let requested_at = self.clock().tick();
        let grant = match &renewal.credentials {
            Credentials::ApiToken(token) => {
                return AccessToken::permanent(token.expose_secret(), self.next_generation(), requested_at)
                    .ok_or_else(unusable_token_error);
            }
            _ => self.obtain_grant(renewal).await?,
        };
        let text = grant.access_token.expose_secret();
        let lifetime = self.0.lifetime.lock().for_token(text, self.0.api.api_now());
        let token = AccessToken::bearer(text, self.next_generation(), grant.requested_at, lifetime)
            .ok_or_else(unusable_token_error)?;
        renewal.refresh_token = grant.refresh_token;
        Ok(token)
    }

    async fn obtain_grant(&self, renewal: &mut RenewalState) -> Result<TokenGrant, ApiError> {
        // Removed before it is sent: if this future is cancelled, the refresh token counts as
        // spent.
        if let Some(refresh) = renewal.refresh_token.take() {
            match self.request_refresh(&refresh).await {
                Ok(grant) => return Ok(grant),
                Err(error) if is_refresh_token_unspent(&error, renewal.consecutive_failures) => {
                    renewal.refresh_token = Some(refresh);
                    return Err(error);
                }
                Err(error) => tracing::debug!("{error}; exchanging instead"),
            }
        }
        match renewal.credentials.clone() {
            Credentials::RingCentral { .. } => self.obtain_by_exchange(renewal).await,
            Credentials::Engage { username, password, platform_id } => {
                self.request_engage_login(&username, &password, &platform_id).await
            }
            Credentials::ApiToken(_) => Err(unusable_token_error()),
        }
    }

    async fn obtain_by_exchange(&self, renewal: &mut RenewalState) -> Result<TokenGrant, ApiError> {
        let rc = self.usable_ringcentral_token(renewal).await?;
        let first = self.exchange_token(renewal, &rc).await;
        let Err(error) = &first else { return first };
        let refused = matches!(error.status, Some(400 | 401 | 403)) && error.cause != ErrorCause::Outage;
        let is_new = !rc.accepted && self.clock().tick().since(rc.requested_at) < MIN_RINGCENTRAL_TOKEN_AGE;
        if !refused || is_new {
            return first;
        }
        renewal.ringcentral_token = None;
        let rc = self.usable_ringcentral_token(renewal).await?;
        self.exchange_token(renewal, &rc).await
    }

    async fn exchange_token(&self, renewal: &mut RenewalState, rc: &RingCentralToken) -> Result<TokenGrant, ApiError> {
        let grant = self.request_exchange(rc).await?;
        if let Some(kept) = &mut renewal.ringcentral_token {
            kept.accepted = true;
        }
        Ok(grant)
    }

    /// The kept RingCentral token if it is still usable, otherwise a new one.
    async fn usable_ringcentral_token(&self, renewal: &mut RenewalState) -> Result<RingCentralToken, ApiError> {
        if let Some(rc) = renewal.ringcentral_token.as_ref().filter(|rc| self.clock().tick() < rc.usable_until) {
            return Ok(rc.clone());
        }
        renewal.ringcentral_token = None;
        let rc = self.request_ringcentral_token(&renewal.credentials).await?;
        renewal.ringcentral_token = Some(rc.clone());
        Ok(rc)
    }

    /// A RingCentral token for calls to the platform. A new one if `not`, which was refused, is the
    /// kept one and not new itself.
    pub(crate) async fn platform_token(&self, not: Option<&RingCentralToken>) -> Result<RingCentralToken, ApiError> {
        let mut renewal = self.0.renewal.lock().await;
        renewal.check_backoff(self.clock().tick())?;
        if let (Some(not), Some(kept)) = (not, &renewal.ringcentral_token)
            && not.usable_until == kept.usable_until
            && self.clock().tick().since(kept.requested_at) >= MIN_RINGCENTRAL_TOKEN_AGE
        {
            renewal.ringcentral_token = None;
        }
        let outcome = match self.usable_ringcentral_token(&mut renewal).await {
            Err(error) if error.is_refusal() && self.reload_credentials(&mut renewal).await => {
                self.usable_ringcentral_token(&mut renewal).await
            }
            outcome => outcome,
        };
        match outcome {
            Ok(token) => {
                if renewal.only_platform_failed {
                    renewal.record_success();
                    self.record_good_state();
                }
                Ok(token)
            }
            // A login without a RingCentral account cannot have such a token: it has not failed.
            Err(error) if matches!(error.cause, ErrorCause::Settings | ErrorCause::MissingScope) => Err(error),
            Err(error) => {
                let only_platform_failed = renewal.only_platform_failed || renewal.consecutive_failures == 0;
                let error = renewal.record_failure(error, self.clock().tick());
                renewal.only_platform_failed = only_platform_failed;
                self.record_failure(&error);
                Err(error)
            }
        }
    }
}

/// Whether a failed refresh did not spend its token: without a connection, in an outage of token
/// verification, and at the first 429.
fn is_refresh_token_unspent(error: &ApiError, consecutive_failures: u32) -> bool {
    matches!(error.cause, ErrorCause::Unreachable | ErrorCause::UntrustedCertificate | ErrorCause::Outage)
        || (error.fault == Fault::RateLimited && consecutive_failures == 0)
}

fn unusable_token_error() -> ApiError {
    ApiError::new(Fault::Unauthorised, Endpoint::Login, ErrorCause::Undecodable, "the token is no valid header value")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_backoff_doubles_up_to_a_minute_with_jitter_of_a_half(consecutive_failures in any::<u32>(), nanos in any::<u64>()) {
            let delay = backoff_delay(consecutive_failures, Tick(Duration::from_nanos(nanos)));
            let full = Duration::from_secs(1 << consecutive_failures.min(6)).min(MAX_LOGIN_BACKOFF);
            prop_assert!(delay >= full / 2 && delay <= full);
        }
    }
}
