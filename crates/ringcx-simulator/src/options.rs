//! The behaviour of the simulated RingCX. The defaults are a strict reading of the contract. Pure
//! data.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::faults::Faults;
use super::workload::Workload;
use crate::clock::Time;
use crate::model::AccountId;

/// Part of every token and of the default credentials, so that a test can search logs for secrets.
pub const SECRET_MARK: &str = "s3cr3t";

/// All settings of a simulator.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The initial sub-accounts; more can be added later.
    pub accounts: Vec<AccountId>,
    /// `dataRetentionDays` in the list of sub-accounts.
    pub retention_days: u32,
    /// Whether the list of sub-accounts omits `mainAccount`, as the guide's short example does.
    pub short_account_list: bool,
    /// The start of the simulated time; by default the clock's time at the start. Simulators with
    /// the same seed and `begin` serve the same segments.
    pub begin: Option<Time>,
    /// The generated segments.
    pub traffic: Traffic,
    /// When they become visible.
    pub availability: Availability,
    /// The rules of metadata windows.
    pub windows: WindowRules,
    /// Tokens and their lifetimes.
    pub tokens: TokenSettings,
    /// The accepted credentials.
    pub credentials: AcceptedCredentials,
    /// The limits of requests.
    pub limits: SimLimits,
    /// The injected faults.
    pub faults: Faults,
    /// The delay of each answer.
    pub latency: Duration,
    /// How far the server's clock is ahead of the simulator's, in milliseconds; negative if it is
    /// behind.
    pub skew_ms: i64,
    /// The address to listen on; port 0 selects a free one.
    pub listen: SocketAddr,
    /// Whether to keep each arrival per account ([`super::Sim::arrivals`]); memory grows without
    /// bound.
    pub keep_arrivals: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            seed: 1,
            accounts: vec![AccountId::new("980634004", "99999999")],
            retention_days: 365,
            short_account_list: false,
            begin: None,
            traffic: Traffic::default(),
            availability: Availability::default(),
            windows: WindowRules::default(),
            tokens: TokenSettings::default(),
            credentials: AcceptedCredentials::default(),
            limits: SimLimits::default(),
            faults: Faults::default(),
            latency: Duration::ZERO,
            skew_ms: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            keep_arrivals: false,
        }
    }
}

/// A range of delays, both ends included, in whole milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DelayRange {
    /// The shortest delay.
    pub min: Duration,
    /// The longest delay.
    pub max: Duration,
}

impl DelayRange {
    /// From the shortest to the longest.
    pub const fn new(min: Duration, max: Duration) -> DelayRange {
        DelayRange { min, max }
    }

    /// From the shortest to the longest, in seconds.
    pub const fn secs(min: u64, max: u64) -> DelayRange {
        DelayRange { min: Duration::from_secs(min), max: Duration::from_secs(max) }
    }
}

/// A delay that affects a share of the segments.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PartialDelay {
    /// The affected share, 0 to 1.
    pub share: f64,
    /// The delay.
    pub delay: DelayRange,
}

impl PartialDelay {
    /// Affects `share` of the segments by `delay`.
    pub const fn new(share: f64, delay: DelayRange) -> PartialDelay {
        PartialDelay { share, delay }
    }
}

/// The generated segments.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Segments that end in a minute, per account; may be fractional.
    pub per_minute: f64,
    /// Other rates for single accounts.
    pub per_minute_of: Vec<(AccountId, f64)>,
    /// How much history exists at the start.
    pub history: Duration,
    /// How long after the start the last segment ends; `None` for no end.
    pub until: Option<Duration>,
    /// Share of segments that have a transcript.
    pub transcribed: f64,
    /// Share of segments whose ids hold slashes, per cent signs, spaces and similar characters.
    pub awkward_ids: f64,
    /// Share of segments that end on a whole second.
    pub whole_seconds: f64,
    /// Share of records with nulls, missing and unknown fields, numbers as strings.
    pub odd_records: f64,
    /// Share of several deviations from the documents that real tenants show: transcripts with
    /// undocumented content; announced transcripts that are answered with an empty list, instead of
    /// 404, until they are available; summaries in another charset; records with another form of
    /// `hasTranscript`.
    pub odd_bodies: f64,
    /// Share of records with an invalid end time.
    pub odd_ends: f64,
    /// Share of records that appear twice in an answer.
    pub duplicates: f64,
    /// Share of summaries that are empty, half of them as `""`.
    pub empty_summaries: f64,
    /// Share of the other summaries that are sent as a JSON string instead of plain text.
    pub json_summaries: f64,
    /// Share of conversations with [`super::CANARY_TEXT`].
    pub canary_texts: f64,
    /// The smallest and the largest number of utterances of a conversation.
    pub utterances: (u32, u32),
    /// How long recordings play, in seconds. A second has 32 kB.
    pub recording_seconds: u32,
    /// How long the simulator waits before each part of a recording.
    pub recording_part_delay: Duration,
    /// Where conversations, summaries and notes take their words and names from, and conversations
    /// their lengths. Without it they are a few fixed sentences with difficult characters.
    pub workload: Option<Arc<Workload>>,
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic {
            per_minute: 10.0,
            per_minute_of: Vec::new(),
            history: Duration::from_secs(3600),
            until: None,
            transcribed: 0.8,
            awkward_ids: 0.05,
            whole_seconds: 0.2,
            odd_records: 0.2,
            odd_bodies: 0.1,
            odd_ends: 0.02,
            duplicates: 0.01,
            empty_summaries: 0.2,
            json_summaries: 0.5,
            canary_texts: 0.2,
            utterances: (2, 40),
            recording_seconds: 2,
            recording_part_delay: Duration::ZERO,
            workload: None,
        }
    }
}

/// When segments and artifacts become visible. Delays count from the segment's end unless stated
/// otherwise.
#[derive(Debug, Clone)]
pub struct Availability {
    /// How long after its end a segment appears in metadata.
    pub appear_after: Duration,
    /// Segments that appear later; the delay is added.
    pub late: PartialDelay,
    /// Transcribed segments whose `hasTranscript` becomes true later; the delay counts from their
    /// appearance.
    pub flip: PartialDelay,
    /// Segments whose notes and disposition change later; the delay counts from their appearance.
    pub metadata_edit: PartialDelay,
    /// When transcripts become available; never before `hasTranscript` is true.
    pub transcript_after: DelayRange,
    /// When summaries become available.
    pub summary_after: DelayRange,
    /// Agent summaries that are filled in or changed later; the delay counts from their
    /// availability.
    pub summary_edit: PartialDelay,
    /// Empty auto summaries that are filled in later; the delay counts from their availability.
    pub auto_fill: PartialDelay,
    /// Share of announced transcripts that never become available.
    pub never_transcript: f64,
    /// Share of summaries, of either kind, that never become available.
    pub never_summary: f64,
}

impl Default for Availability {
    fn default() -> Availability {
        Availability {
            appear_after: Duration::from_secs(20),
            late: PartialDelay::default(),
            flip: PartialDelay::default(),
            metadata_edit: PartialDelay::default(),
            transcript_after: DelayRange::secs(60, 330),
            summary_after: DelayRange::secs(30, 300),
            summary_edit: PartialDelay::default(),
            auto_fill: PartialDelay::default(),
            never_transcript: 0.0,
            never_summary: 0.0,
        }
    }
}

/// Which segments on the edges of a window belong to it. Not documented, so a client must handle
/// all variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WindowEdges {
    /// Neither edge: the strictest reading.
    #[default]
    Exclusive,
    /// Both edges.
    Inclusive,
    /// The beginning, not the end.
    StartOnly,
    /// The end, not the beginning.
    EndOnly,
}

impl WindowEdges {
    /// Whether a window from `from` to `to` contains a segment that ends at `end`.
    pub fn contains(self, end: Time, from: Time, to: Time) -> bool {
        match self {
            WindowEdges::Exclusive => from < end && end < to,
            WindowEdges::Inclusive => from <= end && end <= to,
            WindowEdges::StartOnly => from <= end && end < to,
            WindowEdges::EndOnly => from < end && end <= to,
        }
    }
}

/// The rules of metadata windows.
#[derive(Debug, Clone, Copy)]
pub struct WindowRules {
    /// How far before now a window must end.
    pub offset: Duration,
    /// The largest `timeInterval`, in seconds.
    pub max_interval_secs: u32,
    /// Whether the edges belong to a window.
    pub edges: WindowEdges,
    /// Whether a window that ends too late is answered with the existing segments (`[]` for the
    /// future) instead of being refused. Not documented, so a client must handle both.
    pub answers_future: bool,
}

impl Default for WindowRules {
    fn default() -> WindowRules {
        WindowRules {
            offset: Duration::from_secs(300),
            max_interval_secs: 3600,
            edges: WindowEdges::Exclusive,
            answers_future: false,
        }
    }
}

/// Tokens and their lifetimes.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// Lifetime of a RingCentral token, and its `expires_in`.
    pub rc_lifetime: Duration,
    /// Lifetime of a RingCX access token, which no answer tells.
    pub access_lifetime: Duration,
    /// Lifetime of an unused refresh token.
    pub refresh_lifetime: Duration,
    /// `scope` of the RingCentral token; without `ReadAccounts` no exchange succeeds.
    pub scope: String,
    /// Whether access tokens are JSON Web Tokens with `exp`.
    pub jwt_shaped: bool,
}

impl Default for TokenSettings {
    fn default() -> TokenSettings {
        TokenSettings {
            rc_lifetime: Duration::from_secs(3600),
            access_lifetime: Duration::from_secs(300),
            refresh_lifetime: Duration::from_secs(3600),
            scope: "ReadAccounts ReadCallLog".into(),
            jwt_shaped: false,
        }
    }
}

/// The accepted credentials, of all kinds at once.
#[derive(Debug, Clone)]
pub struct AcceptedCredentials {
    /// RingCentral login.
    pub client_id: String,
    /// RingCentral login.
    pub client_secret: String,
    /// RingCentral login.
    pub jwt: String,
    /// Engage login.
    pub username: String,
    /// Engage login.
    pub password: String,
    /// Engage login.
    pub platform_id: String,
    /// The permanent token.
    pub api_token: String,
}

impl Default for AcceptedCredentials {
    fn default() -> AcceptedCredentials {
        AcceptedCredentials {
            client_id: "sim-client".into(),
            client_secret: format!("{SECRET_MARK}-client-secret"),
            jwt: format!("{SECRET_MARK}.jwt.assertion"),
            username: "sim.user@example.com".into(),
            password: format!("{SECRET_MARK} pass&word=%1"),
            platform_id: "sim-platform".into(),
            api_token: format!("{SECRET_MARK}-permanent-token"),
        }
    }
}

/// Whose quota a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuotaScope {
    /// Each sub-account has its own quota.
    #[default]
    SubAccount,
    /// All sub-accounts of the login share one quota of requests. Metadata still counts per
    /// sub-account.
    Login,
}

/// The form of `Retry-After` in a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryAfterFormat {
    /// Whole seconds, rounded up.
    #[default]
    Seconds,
    /// An HTTP date.
    HttpDate,
    /// No header.
    Absent,
}

/// Exact sliding-window limits, counted at arrival.
#[derive(Debug, Clone)]
pub struct SimLimits {
    /// Requests in any 60 s, all four endpoints of an account together.
    pub requests_per_minute: u32,
    /// Metadata requests in any 60 s.
    pub metadata_per_minute: u32,
    /// Metadata requests in any 15 min.
    pub metadata_per_15_minutes: u32,
    /// Logins to RingCX (exchanges and Engage logins) in any 60 s.
    pub exchanges_per_minute: u32,
    /// Who shares the limit of requests.
    pub scope: QuotaScope,
    /// Whether refused requests count as well.
    pub count_refused: bool,
    /// The form of `Retry-After`.
    pub retry_after: RetryAfterFormat,
    /// Requests a minute that another client makes for every account.
    pub foreign_requests_per_minute: f64,
    /// Metadata requests a minute that another client makes for every account.
    pub foreign_metadata_per_minute: f64,
}

impl Default for SimLimits {
    fn default() -> SimLimits {
        SimLimits {
            requests_per_minute: 120,
            metadata_per_minute: 3,
            metadata_per_15_minutes: 9,
            exchanges_per_minute: 5,
            scope: QuotaScope::SubAccount,
            count_refused: false,
            retry_after: RetryAfterFormat::Seconds,
            foreign_requests_per_minute: 0.0,
            foreign_metadata_per_minute: 0.0,
        }
    }
}

impl SimLimits {
    /// Practically no limits, for benchmarks and for tests of other behaviour.
    pub fn unlimited() -> SimLimits {
        SimLimits {
            requests_per_minute: 100_000_000,
            metadata_per_minute: 100_000_000,
            metadata_per_15_minutes: 100_000_000,
            exchanges_per_minute: 100_000_000,
            ..SimLimits::default()
        }
    }
}
