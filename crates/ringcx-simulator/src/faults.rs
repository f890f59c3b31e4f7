//! Injected faults, random by share or explicit. Pure: the fault of a request depends on the seed,
//! the item and the number of the attempt. So a run can be repeated whatever the order of its
//! requests.

use std::time::Duration;

use super::options::DelayRange;
use super::rng::Rng;
use crate::clock::Time;
use crate::model::Endpoint;

/// The faults to inject. The default is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// Login, exchange, refresh.
    pub login: FaultRates,
    /// The list of sub-accounts, and the RingCentral account.
    pub accounts: FaultRates,
    /// Interaction metadata.
    pub metadata: FaultRates,
    /// Transcripts.
    pub transcript: FaultRates,
    /// Both summaries.
    pub summary: FaultRates,
    /// Recordings. `malformed` is a web page, or audio that is shorter than its header says;
    /// `error_code` is JSON.
    pub recording: FaultRates,
    /// Share of recordings that stop in the middle without an end.
    pub stalled_recordings: f64,
    /// Share of metadata answers in which one record is mangled; another read returns it intact.
    pub mangled_records: f64,
    /// Share of metadata answers with one additional element that is no record.
    pub junk_records: f64,
    /// What answers 403.
    pub forbidden: Vec<ForbiddenRule>,
    /// Periods in which nothing answers.
    pub outages: Vec<Outage>,
    /// Periods in which `Date` is wrong; everything else uses the right time.
    pub dates: Vec<DateFault>,
}

impl Faults {
    /// Every kind of fault that a retry heals, each with this share, at every endpoint. A refused
    /// login or a missing account would need an operator. There are eleven kinds, so `share` is at
    /// most 0.09.
    pub fn everywhere(share: f64) -> Faults {
        let rates = FaultRates::uniform(share);
        Faults {
            login: FaultRates { not_found: 0.0, unauthorised: 0.0, ..rates },
            accounts: FaultRates { not_found: 0.0, ..rates },
            metadata: FaultRates { not_found: 0.0, ..rates },
            transcript: rates,
            summary: rates,
            recording: rates,
            stalled_recordings: 0.0,
            mangled_records: share,
            junk_records: share,
            forbidden: Vec::new(),
            outages: Vec::new(),
            dates: Vec::new(),
        }
    }

    pub(super) fn rates(&self, endpoint: Endpoint) -> &FaultRates {
        match endpoint {
            Endpoint::Login => &self.login,
            Endpoint::Accounts => &self.accounts,
            Endpoint::Metadata => &self.metadata,
            Endpoint::Transcript => &self.transcript,
            Endpoint::AgentSummary | Endpoint::AutoSummary => &self.summary,
            Endpoint::Recording => &self.recording,
        }
    }

    pub(super) fn outage_at(&self, now: Time) -> Option<OutageKind> {
        self.outages.iter().find(|outage| outage.from <= now && now < outage.to).map(|outage| outage.kind)
    }

    /// The value of `Date` at `now`.
    pub(super) fn date_at(&self, now: Time) -> Time {
        let fault = self.dates.iter().find(|fault| fault.from <= now && now < fault.to);
        match fault.map(|fault| fault.date) {
            Some(WrongDate::OffsetMs(millis)) => now.plus_millis(millis),
            Some(WrongDate::Fixed(date)) => date,
            None => now,
        }
    }

    pub(super) fn is_forbidden(&self, endpoint: Endpoint, sub: &str, segment: Option<&str>) -> bool {
        self.forbidden.iter().any(|forbidden| {
            forbidden.endpoint.is_none_or(|one| one == endpoint)
                && forbidden.sub_account.as_deref().is_none_or(|one| one == sub)
                && forbidden.segment.as_deref().is_none_or(|one| Some(one) == segment)
        })
    }
}

/// A period in which `Date` is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateFault {
    /// The start, on the server's clock.
    pub from: Time,
    /// The end.
    pub to: Time,
    /// The wrong value.
    pub date: WrongDate,
}

/// A wrong `Date`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongDate {
    /// Ahead by this many milliseconds; negative if it is behind.
    OffsetMs(i64),
    /// Always this.
    Fixed(Time),
}

/// The probability of each fault; the sum should stay below 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FaultRates {
    /// 500, with a JSON body, an HTML one or none.
    pub status_500: f64,
    /// 502, with the same bodies.
    pub status_502: f64,
    /// 503, with the same bodies, half of them with `Retry-After: 1`.
    pub status_503: f64,
    /// The connection is reset before or within the headers.
    pub reset: f64,
    /// The answer breaks off in the body.
    pub truncate: f64,
    /// A 200 with HTML, or with half of the JSON.
    pub malformed: f64,
    /// A 200 with `errorCode` set; transcripts only.
    pub error_code: f64,
    /// The answer is delayed by [`FaultRates::slow_for`].
    pub slow: f64,
    /// The delay of a slow answer.
    pub slow_for: DelayRange,
    /// A 404 although the resource exists.
    pub not_found: f64,
    /// A 429 although the limit is not reached.
    pub too_many: f64,
    /// A 401 although the token is valid.
    pub unauthorised: f64,
}

impl FaultRates {
    /// All kinds with the same share; slow answers take up to 2 s.
    pub fn uniform(share: f64) -> FaultRates {
        FaultRates {
            status_500: share,
            status_502: share,
            status_503: share,
            reset: share,
            truncate: share,
            malformed: share,
            error_code: share,
            slow: share,
            slow_for: DelayRange::secs(0, 2),
            not_found: share,
            too_many: share,
            unauthorised: share,
        }
    }

    /// Draws the fault of a request.
    pub(super) fn draw_fault(&self, mut rng: Rng) -> InjectedFault {
        let mut point = rng.next_f64();
        let kinds = [
            (self.status_500, InjectedFault::Status(500)),
            (self.status_502, InjectedFault::Status(502)),
            (self.status_503, InjectedFault::Status(503)),
            (self.reset, InjectedFault::Reset(0)),
            (self.truncate, InjectedFault::Truncate),
            (self.malformed, InjectedFault::Malformed),
            (self.error_code, InjectedFault::ErrorCode),
            (self.slow, InjectedFault::Slow(Duration::ZERO)),
            (self.not_found, InjectedFault::NotFound),
            (self.too_many, InjectedFault::TooMany),
            (self.unauthorised, InjectedFault::Unauthorised),
        ];
        let drawn = kinds.into_iter().find(|(share, _)| {
            let is_hit = point < *share;
            point -= share;
            is_hit && *share > 0.0
        });
        match drawn.map(|(_, fault)| fault) {
            Some(InjectedFault::Reset(_)) if rng.random_bool(0.5) => InjectedFault::Reset(0),
            Some(InjectedFault::Reset(_)) => InjectedFault::Reset(1 + rng.random_below(60)),
            Some(InjectedFault::Slow(_)) => InjectedFault::Slow(rng.random_duration(self.slow_for)),
            fault => fault.unwrap_or(InjectedFault::None),
        }
    }
}

/// The fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InjectedFault {
    None,
    Status(u16),
    /// After this many bytes.
    Reset(u64),
    Truncate,
    Malformed,
    ErrorCode,
    Slow(Duration),
    NotFound,
    TooMany,
    Unauthorised,
}

impl InjectedFault {
    /// The name in [`super::Stats::faults`].
    pub(super) const fn name(self) -> &'static str {
        match self {
            InjectedFault::None => "none",
            InjectedFault::Status(500) => "500",
            InjectedFault::Status(502) => "502",
            InjectedFault::Status(_) => "503",
            InjectedFault::Reset(_) => "reset",
            InjectedFault::Truncate => "truncate",
            InjectedFault::Malformed => "malformed",
            InjectedFault::ErrorCode => "error_code",
            InjectedFault::Slow(_) => "slow",
            InjectedFault::NotFound => "not_found",
            InjectedFault::TooMany => "too_many",
            InjectedFault::Unauthorised => "unauthorised",
        }
    }
}

/// Requests that answer 403. A field without a value matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForbiddenRule {
    /// Only this endpoint.
    pub endpoint: Option<Endpoint>,
    /// Only this sub-account.
    pub sub_account: Option<String>,
    /// Only this segment.
    pub segment: Option<String>,
}

/// A period in which nothing answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The start.
    pub from: Time,
    /// The end, not included.
    pub to: Time,
    /// The kind of the outage.
    pub kind: OutageKind,
}

/// The kind of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageKind {
    /// New connections are reset immediately, and open ones at their next request.
    Closed,
    /// Everything answers 503.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_kind_of_fault_has_its_share() {
        let mut seen = BTreeMap::new();
        for n in 0..20_000 {
            *seen.entry(FaultRates::uniform(0.05).draw_fault(Rng::new(3, &[n])).name()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 12, "{seen:?}");
        for (name, count) in seen {
            let expected = if name == "none" { 8_400..9_600 } else { 850..1_150 };
            assert!(expected.contains(&count), "{name}: {count}");
        }
    }

    #[test]
    fn without_rates_there_are_no_faults() {
        assert!((0..1_000).all(|n| FaultRates::default().draw_fault(Rng::new(n, &[])) == InjectedFault::None));
    }
}
