//! How one endpoint of one account stands: open, or paused because a fault is the account's and not an item's. Pure.
//!
//! Three different segments refused with 403 in a row, or one answer of 401 to a fresh token, are the account's; so is a
//! run of failures that says that the service is away. While an endpoint is paused no item's tries are used up; when
//! the pause is over, one request goes ahead of the others to see.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::backoff::Fault;
use crate::clock::Time;

/// So many different segments refused are the account's fault.
const REFUSED: usize = 3;
/// So many failures without a success between them say that the service is away.
const AWAY: u32 = 8;
/// A pause for want of permission at most; for a service that is away at most.
const LONGEST_REFUSED: Duration = Duration::from_secs(900);
const LONGEST_AWAY: Duration = Duration::from_secs(60);

/// How an endpoint stands.
#[derive(Debug, Default)]
pub struct Standing {
    refused: BTreeSet<String>,
    away: u32,
    paused: Option<Pause>,
}

/// Why and until when an endpoint is not asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Since when.
    pub since: Time,
    /// When one request goes to see.
    pub until: Time,
    /// How often in a row.
    pub times: u32,
    /// Whether that one request is under way.
    probing: bool,
}

/// What an answer means beyond its own item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It is the item's: settle it.
    Item,
    /// It is the account's: give the item back as it was.
    Account,
    /// The endpoint works again, after having been paused since the time given.
    Recovered(Time),
}

impl Standing {
    /// Whether a request may go now; takes the one that goes to see.
    pub fn admit(&mut self, now: Time) -> bool {
        match &mut self.paused {
            None => true,
            Some(pause) if now >= pause.until && !pause.probing => {
                pause.probing = true;
                true
            }
            Some(_) => false,
        }
    }

    /// Whether a request could go now.
    pub fn open(&self, now: Time) -> bool {
        self.paused.as_ref().is_none_or(|pause| now >= pause.until && !pause.probing)
    }

    /// When it opens, if a pause shut it at `at`. Where that is over and one request has gone to see, its answer will tell.
    pub fn opens(&self, at: Time) -> Option<Time> {
        self.paused.as_ref().map(|pause| pause.until).filter(|until| *until > at)
    }

    /// The pause, if there is one.
    pub fn pause(&self) -> Option<&Pause> {
        self.paused.as_ref()
    }

    /// Takes up a pause that an earlier process recorded.
    pub fn resume_from(&mut self, since: Time, until: Time, times: u32) {
        self.paused = Some(Pause { since, until, times, probing: false });
    }

    /// The one request that went to see came to nothing that says anything.
    pub fn abandon(&mut self) {
        if let Some(pause) = &mut self.paused {
            pause.probing = false;
        }
    }

    /// The one request that went to see ended without any answer: another one goes after `wait`.
    pub fn probe_lost(&mut self, now: Time, wait: Duration) {
        if let Some(pause) = self.paused.as_mut().filter(|pause| pause.probing) {
            pause.probing = false;
            pause.until = now + wait;
        }
    }

    /// Rests until then, for a reason that is not the endpoint's own: the login is away.
    pub fn rest(&mut self, now: Time, until: Time) {
        let since = self.paused.as_ref().map_or(now, |pause| pause.since);
        let times = self.paused.as_ref().map_or(0, |pause| pause.times);
        self.paused = Some(Pause { since, until, times, probing: false });
    }

    /// Lets one request go to see at once.
    pub fn retry_now(&mut self, now: Time) {
        if let Some(pause) = &mut self.paused {
            pause.until = pause.until.min(now);
        }
    }

    /// Takes note of an answer of the endpoint, 404 included.
    pub fn answered(&mut self) -> Meaning {
        self.refused.clear();
        self.away = 0;
        self.paused.take().map_or(Meaning::Item, |pause| Meaning::Recovered(pause.since))
    }

    /// Takes note of a fault. `first` is how long the first pause of its kind takes, `jitter` in 0..1.
    pub fn failed(&mut self, fault: Fault, segment: &str, now: Time, first: Duration, jitter: f64) -> Meaning {
        match fault {
            // Where an answer is broken the endpoint answered all the same: it is the item's fault, however often it comes.
            Fault::NotYet | Fault::Permanent | Fault::Broken => return self.answered(),
            // The pace deals with it; it says nothing about the endpoint.
            Fault::RateLimited => {
                self.abandon();
                return Meaning::Account;
            }
            Fault::Unauthorised => {}
            Fault::Forbidden => {
                self.refused.insert(segment.to_owned());
                if self.refused.len() < REFUSED && self.paused.is_none() {
                    return Meaning::Item;
                }
            }
            Fault::Transient => {
                self.away = self.away.saturating_add(1);
                if self.away < AWAY && self.paused.is_none() {
                    return Meaning::Item;
                }
            }
        }
        let longest = if fault == Fault::Transient { LONGEST_AWAY } else { LONGEST_REFUSED };
        // Answers to requests that were under way when the pause began do not prolong it.
        if self.paused.as_ref().is_some_and(|pause| now < pause.until && !pause.probing) {
            return Meaning::Account;
        }
        let times = self.paused.as_ref().map_or(0, |pause| pause.times).saturating_add(1);
        let span = first.saturating_mul(1 << (times - 1).min(16)).min(longest.max(first));
        let span = span.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        let since = self.paused.as_ref().map_or(now, |pause| pause.since);
        self.paused = Some(Pause { since, until: now + span, times, probing: false });
        Meaning::Account
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(10);

    #[test]
    fn one_segment_refused_is_its_own_affair_and_three_are_the_accounts() {
        let mut standing = Standing::default();
        for _ in 0..5 {
            assert_eq!(standing.failed(Fault::Forbidden, "one", Time(0), FIRST, 1.0), Meaning::Item);
        }
        assert_eq!(standing.failed(Fault::Forbidden, "two", Time(0), FIRST, 1.0), Meaning::Item);
        assert_eq!(standing.failed(Fault::Forbidden, "three", Time(0), FIRST, 1.0), Meaning::Account);
        assert!(!standing.open(Time(9_999)));
        assert!(standing.open(Time(10_000)));
        assert_eq!((standing.opens(Time(9_999)), standing.opens(Time(10_000))), (Some(Time(10_000)), None));
    }

    #[test]
    fn however_often_answers_are_broken_the_endpoint_is_not_paused() {
        let mut standing = Standing::default();
        for _ in 0..100 {
            assert_eq!(standing.failed(Fault::Broken, "x", Time(0), FIRST, 0.0), Meaning::Item);
        }
        assert_eq!(standing.failed(Fault::Unauthorised, "x", Time(0), FIRST, 1.0), Meaning::Account);
        assert!(standing.admit(Time(10_000)));
        assert_eq!(standing.failed(Fault::Broken, "x", Time(10_000), FIRST, 1.0), Meaning::Recovered(Time(0)));
    }

    #[test]
    fn after_a_pause_one_request_goes_to_see_and_the_others_wait_for_it() {
        let mut standing = Standing::default();
        assert_eq!(standing.failed(Fault::Unauthorised, "x", Time(0), FIRST, 1.0), Meaning::Account);
        assert!(!standing.admit(Time(5_000)));
        assert!(standing.admit(Time(10_000)));
        assert!(!standing.admit(Time(10_000)));
        assert_eq!(standing.failed(Fault::Unauthorised, "x", Time(10_000), FIRST, 1.0), Meaning::Account);
        assert_eq!(standing.pause().unwrap().until, Time(30_000));
        assert!(standing.admit(Time(30_000)));
        assert_eq!(standing.answered(), Meaning::Recovered(Time(0)));
        assert!(standing.admit(Time(30_000)));
    }

    #[test]
    fn a_probe_that_is_lost_leaves_the_endpoint_to_another_one() {
        let mut standing = Standing::default();
        standing.probe_lost(Time(0), FIRST);
        assert!(standing.pause().is_none());
        standing.failed(Fault::Unauthorised, "x", Time(0), FIRST, 1.0);
        standing.probe_lost(Time(1), FIRST);
        assert_eq!(standing.pause().unwrap().until, Time(10_000), "none was under way");
        assert!(standing.admit(Time(10_000)));
        standing.probe_lost(Time(10_500), FIRST);
        assert!(!standing.admit(Time(20_499)) && standing.admit(Time(20_500)));
    }

    #[test]
    fn a_run_of_failures_pauses_and_a_success_in_between_prevents_it() {
        let mut standing = Standing::default();
        for _ in 0..AWAY - 1 {
            assert_eq!(standing.failed(Fault::Transient, "x", Time(0), FIRST, 0.0), Meaning::Item);
        }
        assert_eq!(standing.answered(), Meaning::Item);
        for _ in 0..AWAY - 1 {
            assert_eq!(standing.failed(Fault::Transient, "x", Time(0), FIRST, 0.0), Meaning::Item);
        }
        assert_eq!(standing.failed(Fault::Transient, "x", Time(0), FIRST, 0.0), Meaning::Account);
        // Those that were under way do not prolong it.
        let until = standing.pause().unwrap().until;
        assert_eq!(standing.failed(Fault::Transient, "y", Time(1), FIRST, 0.0), Meaning::Account);
        assert_eq!(standing.pause().unwrap().until, until);
    }
}
