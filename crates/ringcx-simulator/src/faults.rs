//! What goes wrong, by share and on purpose. Pure: which request meets which fault follows from the seed, the item
//! and the number of the try, so that a run can be repeated whatever the order of its requests.

use std::time::Duration;

use super::chance::Dice;
use super::options::Spread;
use crate::clock::Time;
use crate::model::Endpoint;

/// What goes wrong. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// Login, exchange, refresh.
    pub login: Rates,
    /// The list of sub-accounts, and the RingCentral account.
    pub accounts: Rates,
    /// Interaction metadata.
    pub metadata: Rates,
    /// Transcripts.
    pub transcript: Rates,
    /// Both summaries.
    pub summary: Rates,
    /// Share of metadata answers in which one record is mangled; reading again heals it.
    pub mangled_records: f64,
    /// Share of metadata answers that hold one more element, which is no record at all.
    pub junk_records: f64,
    /// What the user may not see.
    pub forbidden: Vec<Forbidden>,
    /// When nothing answers.
    pub outages: Vec<Outage>,
    /// When `Date` is wrong; everything else goes by the right time.
    pub dates: Vec<DateFault>,
}

impl Faults {
    /// Every kind of fault, each at this share, wherever it is one that trying again heals: a login refused or an
    /// account not found would be a person's affair. There are eleven kinds, so at most 0.09.
    pub fn everywhere(share: f64) -> Faults {
        let rates = Rates::each(share);
        Faults {
            login: Rates { not_found: 0.0, unauthorised: 0.0, ..rates },
            accounts: Rates { not_found: 0.0, ..rates },
            metadata: Rates { not_found: 0.0, ..rates },
            transcript: rates,
            summary: rates,
            mangled_records: share,
            junk_records: share,
            forbidden: Vec::new(),
            outages: Vec::new(),
            dates: Vec::new(),
        }
    }

    pub(super) fn rates(&self, endpoint: Endpoint) -> &Rates {
        match endpoint {
            Endpoint::Login => &self.login,
            Endpoint::Accounts => &self.accounts,
            Endpoint::Metadata => &self.metadata,
            Endpoint::Transcript => &self.transcript,
            Endpoint::AgentSummary | Endpoint::AutoSummary => &self.summary,
        }
    }

    pub(super) fn outage(&self, now: Time) -> Option<OutageKind> {
        self.outages.iter().find(|outage| outage.from <= now && now < outage.to).map(|outage| outage.kind)
    }

    /// What `Date` says at `now`.
    pub(super) fn date(&self, now: Time) -> Time {
        let fault = self.dates.iter().find(|fault| fault.from <= now && now < fault.to);
        match fault.map(|fault| fault.date) {
            Some(WrongDate::Off(millis)) => now.plus_millis(millis),
            Some(WrongDate::Fixed(date)) => date,
            None => now,
        }
    }

    pub(super) fn forbids(&self, endpoint: Endpoint, sub: &str, segment: Option<&str>) -> bool {
        self.forbidden.iter().any(|forbidden| {
            forbidden.endpoint.is_none_or(|one| one == endpoint)
                && forbidden.sub_account.as_deref().is_none_or(|one| one == sub)
                && forbidden.segment.as_deref().is_none_or(|one| Some(one) == segment)
        })
    }
}

/// A time during which `Date` is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateFault {
    /// Since when, on the server's clock.
    pub from: Time,
    /// Until when.
    pub to: Time,
    /// How.
    pub date: WrongDate,
}

/// How a `Date` is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongDate {
    /// Ahead by so many milliseconds; negative where it is behind.
    Off(i64),
    /// Always this.
    Fixed(Time),
}

/// How often each fault befalls a request; the sum should stay below 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// 500, with a JSON body, an HTML one or none.
    pub status_500: f64,
    /// 502 likewise.
    pub status_502: f64,
    /// 503 likewise, half of them with `Retry-After: 1`.
    pub status_503: f64,
    /// The connection is reset before or within the headers.
    pub reset: f64,
    /// The answer breaks off in the body.
    pub truncate: f64,
    /// A 200 that is not what it should be: HTML, or half of the JSON.
    pub malformed: f64,
    /// A 200 with `errorCode` set; transcripts only.
    pub error_code: f64,
    /// The answer takes so long.
    pub slow: f64,
    /// How long a slow answer takes.
    pub slow_for: Spread,
    /// A 404 for what is there.
    pub not_found: f64,
    /// A 429 though there is room.
    pub too_many: f64,
    /// A 401 though the token is good.
    pub unauthorised: f64,
}

impl Rates {
    /// All kinds at the same share; slow answers take up to 2 s.
    pub fn each(share: f64) -> Rates {
        Rates {
            status_500: share,
            status_502: share,
            status_503: share,
            reset: share,
            truncate: share,
            malformed: share,
            error_code: share,
            slow: share,
            slow_for: Spread::secs(0, 2),
            not_found: share,
            too_many: share,
            unauthorised: share,
        }
    }

    /// What befalls this request.
    pub(super) fn draw(&self, mut dice: Dice) -> Fate {
        let mut point = dice.unit();
        let mut falls = |share: f64| {
            let hit = point < share;
            point -= share;
            hit && share > 0.0
        };
        if falls(self.status_500) {
            Fate::Status(500)
        } else if falls(self.status_502) {
            Fate::Status(502)
        } else if falls(self.status_503) {
            Fate::Status(503)
        } else if falls(self.reset) {
            Fate::Reset(if dice.hit(0.5) { 0 } else { 1 + dice.below(60) })
        } else if falls(self.truncate) {
            Fate::Truncate
        } else if falls(self.malformed) {
            Fate::Malformed
        } else if falls(self.error_code) {
            Fate::ErrorCode
        } else if falls(self.slow) {
            Fate::Slow(dice.span(self.slow_for))
        } else if falls(self.not_found) {
            Fate::NotFound
        } else if falls(self.too_many) {
            Fate::TooMany
        } else if falls(self.unauthorised) {
            Fate::Unauthorised
        } else {
            Fate::None
        }
    }
}

/// What befalls one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    None,
    Status(u16),
    /// After so many bytes.
    Reset(u64),
    Truncate,
    Malformed,
    ErrorCode,
    Slow(Duration),
    NotFound,
    TooMany,
    Unauthorised,
}

impl Fate {
    /// The name in the statistics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Fate::None => "none",
            Fate::Status(500) => "500",
            Fate::Status(502) => "502",
            Fate::Status(_) => "503",
            Fate::Reset(_) => "reset",
            Fate::Truncate => "truncate",
            Fate::Malformed => "malformed",
            Fate::ErrorCode => "error_code",
            Fate::Slow(_) => "slow",
            Fate::NotFound => "not_found",
            Fate::TooMany => "too_many",
            Fate::Unauthorised => "unauthorised",
        }
    }
}

/// Something that answers 403. What is not named is any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forbidden {
    /// Only this endpoint.
    pub endpoint: Option<Endpoint>,
    /// Only this sub-account.
    pub sub_account: Option<String>,
    /// Only this segment.
    pub segment: Option<String>,
}

/// A time in which nothing answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// Its first moment.
    pub from: Time,
    /// The first moment after it.
    pub to: Time,
    /// What it looks like.
    pub kind: OutageKind,
}

/// What an outage looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutageKind {
    /// Connections are reset as soon as they are made, and those that are open at their next request.
    Closed,
    /// Everything answers 503.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_kind_of_fault_comes_at_its_share() {
        let mut seen = BTreeMap::new();
        for n in 0..20_000 {
            *seen.entry(Rates::each(0.05).draw(Dice::new(3, &[n])).name()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 12, "{seen:?}");
        for (name, count) in seen {
            let expected = if name == "none" { 8_400..9_600 } else { 850..1_150 };
            assert!(expected.contains(&count), "{name}: {count}");
        }
    }

    #[test]
    fn without_rates_nothing_goes_wrong() {
        assert!((0..1_000).all(|n| Rates::default().draw(Dice::new(n, &[])) == Fate::None));
    }
}
