//! When failed items are retried, and when answered items are refreshed. Pure.

use std::time::Duration;

use crate::backoff::{AttemptHistory, Backoff, Fault, RetryDecision};
use crate::clock::Time;
use crate::db::{BrokenAnswer, Claim, JobOutcome};
use crate::model::{Artifact, ItemState, Outcome};
use crate::ringcx::{self, ApiError, ErrorCause, FetchedArtifact};

/// A 404 is late if the segment ended this many initial retry delays ago...
const LATE_DELAY_FACTOR: u32 = 120;
/// ...or if the item already had this many 404s, which takes about as long.
const LATE_NOT_FOUND_COUNT: u32 = 7;

/// When failed items are retried, and when answered items are refreshed.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// The delays after failures.
    pub backoff: Backoff,
    /// The delays until each refresh of an answer that may change, counted from the first answer.
    pub refresh_delays: Vec<Duration>,
}

impl RetryPolicy {
    /// The outcome of an answered item.
    pub fn outcome_of_answer(&self, claim: &Claim, answer: &FetchedArtifact, now: Time) -> JobOutcome {
        let refresh_at = |outcome| self.next_refresh(claim, outcome, now);
        match answer {
            FetchedArtifact::Body(body) => {
                JobOutcome::stored_with_charset(&body.bytes, body.charset, refresh_at(Outcome::Stored))
            }
            FetchedArtifact::Recording(facts) => JobOutcome::recorded(facts.clone()),
            FetchedArtifact::Empty => JobOutcome::not_populated(refresh_at(Outcome::NotPopulated)),
        }
    }

    /// The outcome of an item that failed by a fault of its own.
    pub fn outcome_of_failure(&self, claim: &Claim, error: &ApiError, now: Time, jitter: f64) -> JobOutcome {
        let misses = claim.misses.saturating_add(u32::from(error.fault == Fault::NotYet));
        let refusals = claim.refusals.saturating_add(u32::from(error.fault == Fault::Permanent));
        let broken = broken_answer(claim, error);
        let history = AttemptHistory {
            tries: claim.tries.saturating_add(1),
            refusals,
            consecutive_broken: broken.as_ref().map_or(0, |broken| broken.consecutive),
            first_try: claim.first_try.unwrap_or(now),
            paused: claim.paused,
        };
        let (state, due) = match self.backoff.decide(error.fault, history, error.retry_after, now, jitter) {
            RetryDecision::Retry { at } => (ItemState::Open, at),
            RetryDecision::GiveUp if error.cause == ErrorCause::Empty && claim.visit == 0 => {
                return outcome_if_still_empty(error);
            }
            RetryDecision::GiveUp => (ItemState::Unavailable, now),
            RetryDecision::ManualInterventionRequired => (ItemState::Failed, now),
        };
        // An artifact that was answered before and is missing at a refresh keeps its stored
        // version.
        let state = if claim.visit > 0 && error.fault == Fault::NotYet { ItemState::Unavailable } else { state };
        let (status, reason) = (error.status, error.to_string());
        JobOutcome::Failed { state, due, misses, refusals, status, reason, broken }
    }

    /// Whether a 404 at `now` is so late that the artifact may not exist at all. With the default
    /// backoff that is half an hour after the segment's end. Transcripts typically take five
    /// minutes (contract.md, Transcripts).
    pub fn is_late(&self, claim: &Claim, now: Time) -> bool {
        claim.misses >= LATE_NOT_FOUND_COUNT
            || (claim.ended != Time::NONE
                && now.since(claim.ended) >= self.backoff.initial_delay().saturating_mul(LATE_DELAY_FACTOR))
    }

    /// Defers an item without an attempt while its artifact is throttled, but not beyond its last
    /// attempt.
    pub fn defer(&self, claim: &Claim, now: Time, jitter: f64) -> JobOutcome {
        let due = now + self.backoff.delay(u32::MAX, jitter);
        let due = due.min(self.last_attempt_at(claim, now)).max(now.plus_millis(1));
        JobOutcome::Deferred { due, first_try: Some(claim.first_try.unwrap_or(now)) }
    }

    /// When an item that is always missing gets its last attempt.
    pub fn last_attempt_at(&self, claim: &Claim, now: Time) -> Time {
        let first_try = claim.first_try.unwrap_or(now);
        self.backoff.horizon(&AttemptHistory {
            tries: claim.tries,
            refusals: 0,
            consecutive_broken: 0,
            first_try,
            paused: claim.paused,
        })
    }

    /// When to refresh an answer. Empty summaries and agent summaries may change; transcripts do
    /// not.
    fn next_refresh(&self, claim: &Claim, outcome: Outcome, now: Time) -> Option<Time> {
        let may_change = match claim.artifact {
            Artifact::Transcript | Artifact::Recording => false,
            Artifact::AgentSummary => true,
            Artifact::AutoSummary => outcome == Outcome::NotPopulated,
        };
        let visit = usize::try_from(claim.visit).unwrap_or(usize::MAX);
        let after = *self.refresh_delays.get(visit).filter(|_| may_change)?;
        let before =
            visit.checked_sub(1).and_then(|earlier| self.refresh_delays.get(earlier)).copied().unwrap_or_default();
        Some(now + after.saturating_sub(before))
    }
}

/// How an answer is broken, and how many in a row were broken in the same way.
fn broken_answer(claim: &Claim, error: &ApiError) -> Option<BrokenAnswer> {
    let kind = error.broken_kind().filter(|_| error.fault == Fault::Broken)?;
    let before = if claim.broken_kind == kind { claim.consecutive_broken } else { 0 };
    Some(BrokenAnswer {
        kind,
        consecutive: before.saturating_add(1),
        prefix: error.body().map(|body| body.bytes.clone()).unwrap_or_default(),
    })
}

/// The outcome of a transcript that is still empty at the horizon: not populated. Phrases without
/// words are stored as received.
fn outcome_if_still_empty(error: &ApiError) -> JobOutcome {
    let stored = |body: &ringcx::ResponseBody| JobOutcome::stored_with_charset(&body.bytes, body.charset, None);
    error.body().map_or_else(|| JobOutcome::not_populated(None), stored)
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;
    use crate::db::{Item, Lease};
    use crate::model::{Endpoint, Lane};

    fn claim() -> Claim {
        Claim {
            item: Item(1),
            lease: Lease { account: crate::db::AccountKey(1), epoch: 1 },
            artifact: Artifact::Transcript,
            lane: Lane::Live,
            segment_id: "s".to_owned(),
            dialog_id: None,
            ended: Time::from_secs(0),
            due: Time(0),
            tries: 5,
            misses: 5,
            refusals: 0,
            broken_kind: 0,
            consecutive_broken: 0,
            first_try: Some(Time::from_secs(300)),
            paused: Duration::ZERO,
            visit: 0,
        }
    }

    fn retry_policy() -> RetryPolicy {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let backoff = Backoff::new(Duration::from_secs(15), minutes(360), minutes(72 * 60)).unwrap();
        RetryPolicy { backoff, refresh_delays: Vec::new() }
    }

    fn at_the_horizon() -> Time {
        Time::from_secs(300 + 72 * 3600)
    }

    /// Applies failures one after the other. Returns the last outcome and how many answers in a row
    /// were broken alike.
    fn simulate(errors: &[ApiError], now: Time) -> (JobOutcome, u32) {
        let mut claim = claim();
        let mut last = None;
        for error in errors {
            let outcome = retry_policy().outcome_of_failure(&claim, error, now, 0.5);
            (claim.broken_kind, claim.consecutive_broken) = match &outcome {
                JobOutcome::Failed { broken: Some(broken), .. } => (broken.kind, broken.consecutive),
                _ => (0, 0),
            };
            last = Some(outcome);
        }
        (last.unwrap(), claim.consecutive_broken)
    }

    fn broken(cause: ErrorCause) -> ApiError {
        let error = match cause {
            ErrorCause::TooLarge => ApiError::too_large(Endpoint::Transcript, "x"),
            _ => ApiError::undecodable(Endpoint::Transcript, "x"),
        };
        error.with_status(StatusCode::OK).with_body_start(b"<html>").into_item_error()
    }

    #[test]
    fn only_answers_broken_alike_in_a_row_fail_an_item() {
        let (page, large) = (|| broken(ErrorCause::Undecodable), || broken(ErrorCause::TooLarge));
        let away = || ApiError::timed_out(Endpoint::Transcript, "no answer came in time");
        let state = |errors: &[ApiError]| match simulate(errors, at_the_horizon()).0 {
            JobOutcome::Failed { state, .. } => state,
            other => panic!("{other:?}"),
        };
        assert_eq!(state(&[page(), page(), page(), page(), page()]), ItemState::Failed);
        assert_eq!(state(&[page(), page(), page(), page(), large()]), ItemState::Open);
        assert_eq!(state(&[page(), page(), page(), page(), away(), page()]), ItemState::Open);
        assert_eq!(state(&[away(), away(), away(), away(), away(), away()]), ItemState::Open);
        let early = simulate(&[page(), page(), page(), page(), page()], Time::from_secs(600));
        assert!(matches!(early, (JobOutcome::Failed { state: ItemState::Open, .. }, 5)));
    }

    #[test]
    fn an_empty_transcript_at_the_horizon_is_not_populated_and_phrases_without_words_are_kept() {
        let empty = || {
            let error = ApiError::new(Fault::NotYet, Endpoint::Transcript, ErrorCause::Empty, "it is empty so far");
            error.with_status(StatusCode::OK)
        };
        let outcome = |error: &ApiError, now| match retry_policy().outcome_of_failure(&claim(), error, now, 0.5) {
            JobOutcome::Answered { outcome, size, .. } => Ok((outcome, size)),
            JobOutcome::Failed { state, misses, .. } => Err((state, misses)),
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome(&empty(), Time::from_secs(600)), Err((ItemState::Open, 6)));
        assert_eq!(outcome(&empty(), at_the_horizon()), Ok((Outcome::NotPopulated, 0)));
        let blank = crate::ringcx::ResponseBody::from(r#"{"transcript":[{}]}"#);
        assert_eq!(
            outcome(&empty().with_whole_body(&blank), at_the_horizon()),
            Ok((Outcome::Stored, blank.bytes.len()))
        );
        // A 404 at the horizon is given up.
        let missing = ApiError::new(Fault::NotYet, Endpoint::Transcript, ErrorCause::Answered, "it is not there (404)");
        assert_eq!(outcome(&missing, at_the_horizon()), Err((ItemState::Unavailable, 6)));
    }

    #[test]
    fn a_404_is_late_only_after_half_an_hour() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let (policy, claim) = (retry_policy(), claim());
        assert!(!policy.is_late(&claim, Time::from_secs(0) + minutes(25)));
        assert!(policy.is_late(&claim, Time::from_secs(0) + minutes(31)));
        // In a backfill the first 404 is late already. If the end is unknown, the number of 404s
        // decides.
        let fresh = Claim { tries: 0, misses: 0, ..claim.clone() };
        assert!(policy.is_late(&fresh, Time::from_secs(0) + minutes(600)));
        let endless = Claim { ended: Time::NONE, ..claim };
        assert!(!policy.is_late(&endless, Time::from_secs(0) + minutes(600)));
        assert!(policy.is_late(&Claim { misses: LATE_NOT_FOUND_COUNT, ..endless }, Time::from_secs(0)));
    }
}
