//! Moves what is due from the work table into the archive.
//!
//! Asks `ringcx`, writes `db` through the committer. A try is a step: take a claim, ask, say what became of it. The
//! artifact and the end of the claim commit together: a crash may repeat a fetch, never lose one. The daemon's drain
//! loop decides when a step is taken; what goes next, how an endpoint stands and when to try again are pure.

pub mod absence;
pub mod committer;
pub mod ripeness;
pub mod schedule;

use std::time::Duration;

use crate::account::Account;
use crate::backoff::{Backoff, Fault, Tried, Verdict};
use crate::clock::Time;
use crate::db::{BrokenAnswer, Claim, Settlement};
use crate::model::{Artifact, Outcome, State};
use crate::ringcx::limits::Permit;
use crate::ringcx::{self, ApiError, Cause, Fetched};

/// Asks for one item.
///
/// # Errors
/// What the API answered instead, or that it did not.
pub async fn attempt(account: &Account, claim: &Claim, permit: Permit) -> Result<Fetched, ApiError> {
    ask(account, claim, permit).await.map_err(ApiError::of_item)
}

async fn ask(account: &Account, claim: &Claim, permit: Permit) -> Result<Fetched, ApiError> {
    let Account { api, login, pacer, id, .. } = account;
    match (claim.artifact, &claim.dialog_id) {
        (Artifact::Transcript, Some(dialog)) => {
            ringcx::transcript(api, login, pacer, permit, id, dialog, &claim.segment_id).await
        }
        (Artifact::Transcript, None) => Err(ApiError::new(
            Fault::Permanent,
            claim.artifact.into(),
            Cause::Settings,
            "the segment's metadata names no dialog, without which its transcript cannot be asked for",
        )),
        (which, _) => ringcx::summary(api, login, pacer, permit, id, &claim.segment_id, which).await,
    }
}

/// So many times the first delay after its segment's end an artifact is late...
const LATE: u32 = 120;
/// ...or after so many 404s, which takes about as long.
const LATE_MISSES: u32 = 7;

/// When answered artifacts are asked for again, and when failed ones are.
#[derive(Debug, Clone)]
pub struct Patience {
    /// After failures.
    pub backoff: Backoff,
    /// After answers that may change, each counted from the first answer.
    pub revisit: Vec<Duration>,
}

impl Patience {
    /// What an answer means for its item.
    pub fn answered(&self, claim: &Claim, answer: &Fetched, now: Time) -> Settlement {
        let revisit = |outcome| self.next_visit(claim, outcome, now);
        match answer {
            Fetched::Body(body) => Settlement::stored_as(&body.bytes, body.charset, revisit(Outcome::Stored)),
            Fetched::Empty => Settlement::not_populated(revisit(Outcome::NotPopulated)),
        }
    }

    /// What a fault that is the item's own means for it.
    pub fn failed(&self, claim: &Claim, error: &ApiError, now: Time, jitter: f64) -> Settlement {
        let misses = claim.misses.saturating_add(u32::from(error.fault == Fault::NotYet));
        let refusals = claim.refusals.saturating_add(u32::from(error.fault == Fault::Permanent));
        let broken = broken_answer(claim, error);
        let tried = Tried {
            tries: claim.tries.saturating_add(1),
            refusals,
            alike: broken.as_ref().map_or(0, |broken| broken.alike),
            first_try: claim.first_try.unwrap_or(now),
            paused: claim.paused,
        };
        let (state, due) = match self.backoff.next(error.fault, tried, error.retry_after, now, jitter) {
            Verdict::TryAgain { at } => (State::Open, at),
            Verdict::GaveUp if error.cause == Cause::Empty && claim.visit == 0 => return empty_to_the_end(error),
            Verdict::GaveUp => (State::Unavailable, now),
            Verdict::NeedsAPerson => (State::Failed, now),
        };
        // What was answered before and is missing at a later visit stays as it was.
        let state = if claim.visit > 0 && error.fault == Fault::NotYet { State::Unavailable } else { state };
        let (status, reason) = (error.status, error.to_string());
        Settlement::Failed { state, due, misses, refusals, status, reason, broken }
    }

    /// Whether a 404 at `now` comes so late that it hints at something that is never there: half an hour after the segment's
    /// end with the default backoff, where transcripts typically take five minutes (contract.md, Transcripts).
    pub fn is_late(&self, claim: &Claim, now: Time) -> bool {
        claim.misses >= LATE_MISSES
            || (claim.ended != Time::NONE && now.since(claim.ended) >= self.backoff.initial().saturating_mul(LATE))
    }

    /// Puts an item off untried, while its like are never there; not beyond its last try.
    pub fn defer(&self, claim: &Claim, now: Time, jitter: f64) -> Settlement {
        let due = now + self.backoff.delay(u32::MAX, jitter);
        let due = due.min(self.last_try(claim, now)).max(now.plus_millis(1));
        Settlement::Deferred { due, first_try: Some(claim.first_try.unwrap_or(now)) }
    }

    /// When an item that is never there gets its last try.
    pub fn last_try(&self, claim: &Claim, now: Time) -> Time {
        let first_try = claim.first_try.unwrap_or(now);
        self.backoff.horizon(&Tried { tries: claim.tries, refusals: 0, alike: 0, first_try, paused: claim.paused })
    }

    /// Summaries that are empty and those that agents write may change; transcripts do not.
    fn next_visit(&self, claim: &Claim, outcome: Outcome, now: Time) -> Option<Time> {
        let may_change = match claim.artifact {
            Artifact::Transcript => false,
            Artifact::AgentSummary => true,
            Artifact::AutoSummary => outcome == Outcome::NotPopulated,
        };
        let visit = usize::try_from(claim.visit).unwrap_or(usize::MAX);
        let after = *self.revisit.get(visit).filter(|_| may_change)?;
        let before = visit.checked_sub(1).and_then(|earlier| self.revisit.get(earlier)).copied().unwrap_or_default();
        Some(now + after.saturating_sub(before))
    }
}

/// How an answer is broken, and how many were so before it, one after the other.
fn broken_answer(claim: &Claim, error: &ApiError) -> Option<BrokenAnswer> {
    let kind = error.broken_kind().filter(|_| error.fault == Fault::Broken)?;
    let before = if claim.broken == kind { claim.alike } else { 0 };
    Some(BrokenAnswer {
        kind,
        alike: before.saturating_add(1),
        start: error.body().map(|body| body.bytes.clone()).unwrap_or_default(),
    })
}

/// A transcript that had no word in it to the end: there is none. Phrases without words are kept as they came.
fn empty_to_the_end(error: &ApiError) -> Settlement {
    let stored = |body: &ringcx::Body| Settlement::stored_as(&body.bytes, body.charset, None);
    error.body().map_or_else(|| Settlement::not_populated(None), stored)
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;
    use crate::db::{Item, Owned};
    use crate::model::{Endpoint, Lane};

    fn claim() -> Claim {
        Claim {
            item: Item(1),
            owned: Owned { account: 1, epoch: 1 },
            artifact: Artifact::Transcript,
            lane: Lane::Live,
            segment_id: "s".to_owned(),
            dialog_id: None,
            ended: Time::from_secs(0),
            due: Time(0),
            tries: 5,
            misses: 5,
            refusals: 0,
            broken: 0,
            alike: 0,
            first_try: Some(Time::from_secs(300)),
            paused: Duration::ZERO,
            visit: 0,
        }
    }

    fn patience() -> Patience {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let backoff = Backoff::new(Duration::from_secs(15), minutes(360), minutes(72 * 60)).unwrap();
        Patience { backoff, revisit: Vec::new() }
    }

    fn at_the_horizon() -> Time {
        Time::from_secs(300 + 72 * 3600)
    }

    /// Plays failures one after the other; the last settlement and how many answers in a row were broken alike by then.
    fn played(errors: &[ApiError], now: Time) -> (Settlement, u32) {
        let mut claim = claim();
        let mut last = None;
        for error in errors {
            let settlement = patience().failed(&claim, error, now, 0.5);
            (claim.broken, claim.alike) = match &settlement {
                Settlement::Failed { broken: Some(broken), .. } => (broken.kind, broken.alike),
                _ => (0, 0),
            };
            last = Some(settlement);
        }
        (last.unwrap(), claim.alike)
    }

    fn broken(cause: Cause) -> ApiError {
        let error = match cause {
            Cause::TooLarge => ApiError::too_large(Endpoint::Transcript, "x"),
            _ => ApiError::undecodable(Endpoint::Transcript, "x"),
        };
        error.with_status(StatusCode::OK).of_body(b"<html>").of_item()
    }

    #[test]
    fn only_answers_broken_alike_one_after_the_other_fail_an_item() {
        let (page, large) = (|| broken(Cause::Undecodable), || broken(Cause::TooLarge));
        let away = || ApiError::timed_out(Endpoint::Transcript, "no answer came in time");
        let state = |errors: &[ApiError]| match played(errors, at_the_horizon()).0 {
            Settlement::Failed { state, .. } => state,
            other => panic!("{other:?}"),
        };
        assert_eq!(state(&[page(), page(), page(), page(), page()]), State::Failed);
        assert_eq!(state(&[page(), page(), page(), page(), large()]), State::Open);
        assert_eq!(state(&[page(), page(), page(), page(), away(), page()]), State::Open);
        assert_eq!(state(&[away(), away(), away(), away(), away(), away()]), State::Open);
        let early = played(&[page(), page(), page(), page(), page()], Time::from_secs(600));
        assert!(matches!(early, (Settlement::Failed { state: State::Open, .. }, 5)));
    }

    #[test]
    fn what_is_empty_to_the_end_is_not_populated_and_phrases_without_words_are_kept() {
        let empty = || {
            let error = ApiError::new(Fault::NotYet, Endpoint::Transcript, Cause::Empty, "it is empty so far");
            error.with_status(StatusCode::OK)
        };
        let outcome = |error: &ApiError, now| match patience().failed(&claim(), error, now, 0.5) {
            Settlement::Answered { outcome, size, .. } => Ok((outcome, size)),
            Settlement::Failed { state, misses, .. } => Err((state, misses)),
            other => panic!("{other:?}"),
        };
        assert_eq!(outcome(&empty(), Time::from_secs(600)), Err((State::Open, 6)));
        assert_eq!(outcome(&empty(), at_the_horizon()), Ok((Outcome::NotPopulated, 0)));
        let blank = crate::ringcx::Body::from(r#"{"transcript":[{}]}"#);
        assert_eq!(outcome(&empty().of_whole_body(&blank), at_the_horizon()), Ok((Outcome::Stored, blank.bytes.len())));
        // A 404 at the end is one.
        let missing = ApiError::new(Fault::NotYet, Endpoint::Transcript, Cause::Answered, "it is not there (404)");
        assert_eq!(outcome(&missing, at_the_horizon()), Err((State::Unavailable, 6)));
    }

    #[test]
    fn a_vendor_that_is_a_quarter_of_an_hour_behind_is_not_taken_for_one_that_has_nothing() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let (patience, claim) = (patience(), claim());
        assert!(!patience.is_late(&claim, Time::from_secs(0) + minutes(25)));
        assert!(patience.is_late(&claim, Time::from_secs(0) + minutes(31)));
        // Of a backfill the first 404 tells, and where no end is known their number does.
        let fresh = Claim { tries: 0, misses: 0, ..claim.clone() };
        assert!(patience.is_late(&fresh, Time::from_secs(0) + minutes(600)));
        let endless = Claim { ended: Time::NONE, ..claim };
        assert!(!patience.is_late(&endless, Time::from_secs(0) + minutes(600)));
        assert!(patience.is_late(&Claim { misses: LATE_MISSES, ..endless }, Time::from_secs(0)));
    }
}
