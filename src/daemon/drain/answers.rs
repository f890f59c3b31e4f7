//! What an answer means: for its item, for its endpoint, for the account, and for what else of its kind waits.

use std::time::Duration;

use rand::Rng;

use super::{Drain, PATIENCE, Tried};
use crate::backoff::Fault;
use crate::clock::Time;
use crate::db::{Claim, PauseRow, Settlement};
use crate::fetch::schedule::Schedule;
use crate::model::{Artifact, Endpoint, Lane, State};
use crate::ringcx::{ApiError, Cause};
use crate::standing::{Meaning, Standing};

/// How an answer is broken, for people.
fn broken_how(error: &ApiError) -> &'static str {
    match error.cause {
        Cause::BrokeOff => "they break off",
        Cause::TooLarge => "they are too large",
        _ => "they are not what was asked for",
    }
}

impl Drain {
    pub(super) async fn tried(&mut self, tried: Result<Tried, tokio::task::JoinError>) {
        let (claim, result) = match tried {
            Ok(tried) => tried,
            Err(error) => {
                // A bug took the request down. Which claim it had is unknown: forget all that are not waiting.
                tracing::error!(account = %self.account.id, %error, "a request ended abnormally; what was under way is claimed anew");
                let (now, wait) = (self.account.clock.now(), self.patience.backoff.initial());
                self.standing.values_mut().for_each(|standing| standing.probe_lost(now, wait));
                self.held.clear();
                self.schedule = Schedule::default();
                self.look_again();
                return;
            }
        };
        let now = self.account.clock.now();
        if !matches!(&result, Err(error) if error.fault == Fault::RateLimited) {
            self.account.pacer.succeeded();
        }
        let standing = self.standing.entry(claim.artifact).or_default();
        let meaning = match &result {
            Ok(_) => standing.answered(),
            Err(error) if error.endpoint == Endpoint::Login && !error.is_refusal() => {
                let wait = error.retry_in.unwrap_or(PATIENCE).max(PATIENCE);
                standing.rest(now, now + wait);
                Meaning::Account
            }
            Err(error) => {
                let first = self.patience.backoff.initial();
                standing.failed(error.fault, &claim.segment_id, now, first, rand::rng().random())
            }
        };
        match &result {
            Err(error) if self.account.report_redirect(error, now) => {
                self.moved.insert(claim.artifact);
            }
            Ok(_) if self.moved.remove(&claim.artifact) => self.account.clear_redirect(claim.artifact.into()),
            _ => {}
        }
        match &result {
            Ok(_) => self.account.live.broken.usable(claim.artifact),
            Err(error) if error.fault == Fault::Broken => {
                self.account.live.broken.broken(claim.artifact, broken_how(error), self.account.clock.tick());
            }
            Err(_) => {}
        }
        match (&result, meaning) {
            (Err(error), Meaning::Account) => return self.account_fault(claim, error).await,
            (_, Meaning::Recovered(since)) => self.recovered(claim.artifact, since, now).await,
            _ => {}
        }
        match result {
            Ok((at, settlement)) => {
                self.found(&claim, now).await;
                self.settle(claim, settlement, at).await;
            }
            Err(error) => {
                // An empty answer says that there is something of its kind: a 404 does not.
                if error.fault == Fault::NotYet && error.cause != Cause::Empty {
                    self.absence.entry(claim.artifact).or_default().missed(self.patience.is_late(&claim, now), now);
                }
                let mut settlement = self.patience.failed(&claim, &error, now, rand::rng().random());
                self.put_off_until_ripe(&claim, &error, &mut settlement, now);
                self.log_failure(&claim, &error, &settlement);
                self.settle(claim, settlement, now).await;
            }
        }
    }

    fn log_failure(&self, claim: &Claim, error: &ApiError, settlement: &Settlement) {
        let Settlement::Failed { state, due, .. } = settlement else {
            tracing::info!(account = %self.account.id, segment = claim.segment_id, artifact = %claim.artifact,
                "still empty at the horizon; taken as it is");
            return;
        };
        let (account, segment, artifact) = (&self.account.id, &claim.segment_id, claim.artifact);
        match state {
            State::Open => {
                tracing::debug!(%account, segment, %artifact, again = %due, %error, "not fetched; trying again later");
            }
            State::Failed => {
                tracing::error!(%account, segment, %artifact, %error, "failed for good; `queue list` shows it, `queue retry` tries it again");
            }
            _ if claim.visit == 0 => {
                tracing::warn!(%account, segment, %artifact, "still not there at the horizon; given up")
            }
            _ => {}
        }
    }

    /// The fault is not the item's: it goes back as it was, and the endpoint or the account rests.
    async fn account_fault(&mut self, claim: Claim, error: &ApiError) {
        let artifact = claim.artifact;
        // Of a login that is refused for coming too often, the endpoint rests like after any other failure of it.
        if error.fault == Fault::RateLimited && error.endpoint != Endpoint::Login {
            self.account.refused(error.retry_after).await;
            tracing::warn!(account = %self.account.id, endpoint = %artifact, retry_after = ?error.retry_after, "refused with 429; slowing down");
            self.schedule.put_back(claim);
            return;
        }
        if self.looking.is_some() {
            self.look_again();
        }
        self.held.let_go(claim.item);
        for claim in self.schedule.drain(artifact) {
            self.held.let_go(claim.item);
        }
        self.more.retain(|(paused, ..)| *paused != artifact);
        let Some(pause) = self.standing.get(&artifact).and_then(Standing::pause) else { return };
        self.next = Some(self.next.map_or(pause.until, |next| next.min(pause.until)));
        let row = PauseRow {
            account: self.account.owned.account,
            endpoint: artifact.into(),
            since: pause.since,
            until: pause.until,
            times: pause.times,
            status: error.pause_status(),
            reason: error.to_string(),
        };
        tracing::warn!(account = %self.account.id, endpoint = %artifact, until = %row.until, %error,
            hint = error.hint(), "paused");
        self.account.paused(row).await;
    }

    async fn recovered(&mut self, artifact: Artifact, since: Time, now: Time) {
        tracing::info!(account = %self.account.id, endpoint = %artifact, "works again");
        self.account.resumed(artifact.into(), Some((since, now))).await;
        self.look_again();
    }

    /// How old an item of the live lane is at `at`, by the API's clock; `None` for others.
    pub(super) fn age(&self, claim: &Claim, at: Time) -> Option<Duration> {
        (claim.lane == Lane::Live && claim.visit == 0 && claim.ended != Time::NONE).then(|| at.since(claim.ended))
    }

    /// What is live and was asked for before its like turn up is asked for again when they do, not when the backoff says.
    fn put_off_until_ripe(&self, claim: &Claim, error: &ApiError, settlement: &mut Settlement, now: Time) {
        let Settlement::Failed { state: State::Open, due, .. } = settlement else { return };
        if error.fault != Fault::NotYet || error.retry_after.is_some() {
            return;
        }
        let age = self.age(claim, self.account.api.api_now());
        let ripeness = self.ripeness.get(&claim.artifact);
        if let Some(wait) = age.zip(ripeness).and_then(|(age, ripeness)| ripeness.wait_again(age)) {
            *due = now + wait;
        }
    }

    /// Whether what was put off of this one's kind is due, now that it was found.
    fn is_ripe(&mut self, claim: &Claim) -> bool {
        let at = self.account.api.api_now();
        let Some(age) = self.age(claim, at) else { return false };
        let ripeness = self.ripeness.entry(claim.artifact).or_default();
        match (claim.tries, claim.misses, claim.first_try) {
            (0, ..) => ripeness.found(age, age, false),
            (_, 1.., Some(first_try)) => ripeness.found(first_try.since(claim.ended), age, true),
            _ => false,
        }
    }

    async fn found(&mut self, claim: &Claim, now: Time) {
        let artifact = claim.artifact;
        let ripe = self.is_ripe(claim);
        if self.absence.entry(artifact).or_default().found() {
            tracing::info!(account = %self.account.id, endpoint = %artifact, "there after all; asking for what was put off");
        } else if !ripe {
            return;
        }
        if let Err(error) =
            self.account.db.undefer(self.account.owned.account, artifact, now, self.patience.backoff.initial()).await
        {
            tracing::warn!(account = %self.account.id, %error, "failed to bring forward what was put off");
        }
        self.refill = true;
    }
}
