//! How a token is obtained, step by step, and how failing attempts are spaced.
//!
//! Refresh, else exchange, else a new RingCentral token and exchange. A refresh token is spent by being sent: whatever
//! becomes of the request it is not sent twice, unless it certainly never left.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::backoff::Fault;
use crate::clock::Tick;
use crate::model::Endpoint;

use super::ask::Granted;
use super::{Credentials, Login, Token, lock};
use crate::error::{ApiError, Cause};

/// The longest pause between two attempts that the server has not asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How old a RingCentral token that nobody has accepted yet is at least before another takes its place because RingCX, or the
/// platform, refused it: mostly it is good and the user lacks access, and tokens are limited.
const RC_TOKEN_MIN_AGE: Duration = Duration::from_secs(60);

/// What a renewal knows and keeps from one to the next.
pub(super) struct Flow {
    pub(super) credentials: Credentials,
    pub(super) refresh: Option<SecretString>,
    pub(super) rc: Option<RcToken>,
    failures: u32,
    failure: Option<(ApiError, Tick)>,
    /// Renewals in a row that were asked for because of a token that nobody had seen accepted.
    unproven: u32,
    unproven_until: Tick,
}

/// A RingCentral token, and when it is no longer to be used.
#[derive(Clone)]
pub(crate) struct RcToken {
    pub(crate) secret: SecretString,
    /// When it was asked for.
    pub(super) asked: Tick,
    pub(super) until: Tick,
    /// Whether an exchange has accepted it: one that is refused later has been revoked.
    pub(super) accepted: bool,
}

impl Flow {
    pub(super) fn new(credentials: Credentials) -> Flow {
        Flow {
            credentials,
            refresh: None,
            rc: None,
            failures: 0,
            failure: None,
            unproven: 0,
            unproven_until: Tick::default(),
        }
    }

    /// Whether the next attempt is still some way off.
    pub(super) fn holds_back(&self, now: Tick) -> bool {
        self.failure.as_ref().is_some_and(|(_, due)| now < *due)
    }

    /// The shared failure, if so.
    pub(super) fn held_back(&self, now: Tick) -> Result<(), ApiError> {
        match &self.failure {
            Some((error, due)) if now < *due => Err(error.clone().due_in(due.since(now))),
            _ => Ok(()),
        }
    }

    /// The next attempt need not wait.
    pub(super) fn retry_now(&mut self) {
        (self.failure, self.unproven_until) = (None, Tick::default());
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.failure = None;
    }

    /// Keeps a failure for all who ask before the next attempt.
    pub(super) fn failed(&mut self, error: ApiError, now: Tick) -> ApiError {
        let pause = pause(self.failures, now).max(error.retry_after.unwrap_or_default());
        self.failures = self.failures.saturating_add(1);
        self.failure = Some((error.clone(), now + pause));
        error.due_in(pause)
    }

    /// A renewal is asked for because of a 401. Where token after token is refused, each as fresh as can be, renewing
    /// does not help, and ever less of it is done.
    pub(super) fn forced(&mut self, stale: &Token, now: Tick) -> Result<(), ApiError> {
        if stale.was_accepted() {
            self.unproven = 0;
            return Ok(());
        }
        if now < self.unproven_until {
            let why = "fresh tokens are refused again and again";
            let error = ApiError::new(Fault::Unauthorised, Endpoint::Login, Cause::Futile, why);
            return Err(error.due_in(self.unproven_until.since(now)));
        }
        self.unproven = self.unproven.saturating_add(1);
        if self.unproven > 2 {
            self.unproven_until = now + pause(self.unproven - 2, now);
        }
        Ok(())
    }
}

/// 1 s, doubled at each failure up to a minute, with jitter within [1/2, 1] of it. Chance comes from the clock's own
/// nanoseconds: replicas have to differ, nobody has to be surprised.
fn pause(failures: u32, now: Tick) -> Duration {
    let full = Duration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
    let mut mixed = now.0.subsec_nanos() ^ u32::try_from(now.0.as_secs() & 0xffff_ffff).unwrap_or(0);
    mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x7feb_352d);
    mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x846c_a68b);
    full.mul_f64(0.5 + 0.5 * f64::from(mixed ^ (mixed >> 16)) / f64::from(u32::MAX))
}

impl Login {
    /// A new token, by whatever way the credentials allow; with credentials read again where they were refused.
    pub(super) async fn obtain(&self, flow: &mut Flow) -> Result<Token, ApiError> {
        match self.obtain_once(flow).await {
            Err(error) if error.is_refusal() && self.reread(flow).await => self.obtain_once(flow).await,
            outcome => outcome,
        }
    }

    /// Reads the credentials again; says whether they have changed.
    pub(super) async fn reread(&self, flow: &mut Flow) -> bool {
        let Some(reread) = self.0.reread.clone() else { return false };
        // It reads files, which may be on a disk that does not answer.
        let fresh = match tokio::task::spawn_blocking(move || reread()).await {
            Ok(Ok(fresh)) => fresh,
            Ok(Err(error)) => {
                tracing::warn!("failed to read the credentials again: {error}");
                return false;
            }
            Err(_) => return false,
        };
        if fresh == flow.credentials {
            return false;
        }
        tracing::info!("the credentials have changed: trying the new ones");
        (flow.credentials, flow.refresh, flow.rc) = (fresh, None, None);
        true
    }

    async fn obtain_once(&self, flow: &mut Flow) -> Result<Token, ApiError> {
        let asked = self.clock().tick();
        let granted = match &flow.credentials {
            Credentials::ApiToken(token) => {
                return Token::permanent(token.expose_secret(), self.next_generation(), asked).ok_or_else(unusable);
            }
            _ => self.granted(flow).await?,
        };
        let text = granted.access.expose_secret();
        let life = lock(&self.0.life).of(text, self.0.api.api_now());
        let token = Token::bearer(text, self.next_generation(), granted.asked, life).ok_or_else(unusable)?;
        flow.refresh = granted.refresh;
        Ok(token)
    }

    async fn granted(&self, flow: &mut Flow) -> Result<Granted, ApiError> {
        // Taken out before it is sent: if this future is dropped half-way, the token counts as spent.
        if let Some(refresh) = flow.refresh.take() {
            match self.ask_refresh(&refresh).await {
                Ok(granted) => return Ok(granted),
                Err(error) if was_not_spent(&error, flow.failures) => {
                    flow.refresh = Some(refresh);
                    return Err(error);
                }
                Err(error) => tracing::debug!("{error}; exchanging instead"),
            }
        }
        match flow.credentials.clone() {
            Credentials::RingCentral { .. } => self.exchanged(flow).await,
            Credentials::Engage { username, password, platform_id } => {
                self.ask_engage(&username, &password, &platform_id).await
            }
            Credentials::ApiToken(_) => Err(unusable()),
        }
    }

    async fn exchanged(&self, flow: &mut Flow) -> Result<Granted, ApiError> {
        let rc = self.rc_token(flow).await?;
        let first = self.exchange(flow, &rc).await;
        let Err(error) = &first else { return first };
        let refused = matches!(error.status, Some(400 | 401 | 403)) && error.cause != Cause::Outage;
        let is_new = !rc.accepted && self.clock().tick().since(rc.asked) < RC_TOKEN_MIN_AGE;
        if !refused || is_new {
            return first;
        }
        flow.rc = None;
        let rc = self.rc_token(flow).await?;
        self.exchange(flow, &rc).await
    }

    async fn exchange(&self, flow: &mut Flow, rc: &RcToken) -> Result<Granted, ApiError> {
        let granted = self.ask_exchange(rc).await?;
        if let Some(kept) = &mut flow.rc {
            kept.accepted = true;
        }
        Ok(granted)
    }

    /// The RingCentral token: the one kept if there is time left on it, else a new one.
    async fn rc_token(&self, flow: &mut Flow) -> Result<RcToken, ApiError> {
        if let Some(rc) = flow.rc.as_ref().filter(|rc| self.clock().tick() < rc.until) {
            return Ok(rc.clone());
        }
        flow.rc = None;
        let rc = self.ask_ringcentral(&flow.credentials).await?;
        flow.rc = Some(rc.clone());
        Ok(rc)
    }

    /// A RingCentral token for the platform's own calls; a new one if `not` is the one that is kept, and is not new itself.
    pub(crate) async fn platform_token(&self, not: Option<&RcToken>) -> Result<RcToken, ApiError> {
        let mut flow = self.0.flow.lock().await;
        flow.held_back(self.clock().tick())?;
        if let (Some(not), Some(kept)) = (not, &flow.rc)
            && not.until == kept.until
            && self.clock().tick().since(kept.asked) >= RC_TOKEN_MIN_AGE
        {
            flow.rc = None;
        }
        match self.rc_token(&mut flow).await {
            Err(error) if error.is_refusal() && self.reread(&mut flow).await => self.rc_token(&mut flow).await,
            outcome => outcome,
        }
        .map_err(|error| {
            let error = flow.failed(error, self.clock().tick());
            self.note_failure(&error);
            error
        })
    }
}

/// Whether a refresh that failed has left its token good. A 429 is believed to, once; an outage of those who verify it does.
fn was_not_spent(error: &ApiError, failures: u32) -> bool {
    matches!(error.cause, Cause::Unreachable | Cause::Untrusted | Cause::Outage)
        || (error.fault == Fault::RateLimited && failures == 0)
}

fn unusable() -> ApiError {
    ApiError::new(Fault::Unauthorised, Endpoint::Login, Cause::Undecodable, "the token cannot stand in a header")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_double_up_to_a_minute_with_jitter_of_a_half(failures in any::<u32>(), nanos in any::<u64>()) {
            let pause = pause(failures, Tick(Duration::from_nanos(nanos)));
            let full = Duration::from_secs(1 << failures.min(6)).min(LONGEST_PAUSE);
            prop_assert!(pause >= full / 2 && pause <= full);
        }
    }
}
