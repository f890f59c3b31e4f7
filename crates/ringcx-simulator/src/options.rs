//! How the simulated RingCX is to behave. The defaults are the contract's, read strictly. Pure data.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::faults::Faults;
use crate::clock::Time;
use crate::model::AccountId;

/// Stands in every token and in the default credentials, so that a test can look for secrets in logs.
pub const SECRET_MARK: &str = "s3cr3t";

/// Everything that can be set before the start.
#[derive(Debug, Clone)]
pub struct Options {
    /// What all chance follows from.
    pub seed: u64,
    /// The sub-accounts that there are; more can be added later.
    pub accounts: Vec<AccountId>,
    /// `dataRetentionDays` in the list of sub-accounts.
    pub retention_days: u32,
    /// Whether the list of sub-accounts leaves `mainAccount` out, as the guide's short example does.
    pub short_account_list: bool,
    /// When the world begins to exist; by default the clock's time at the start. A simulator started again
    /// with the same seed and beginning serves the same segments.
    pub begin: Option<Time>,
    /// The segments that come about.
    pub traffic: Traffic,
    /// When they can be seen.
    pub availability: Availability,
    /// How metadata windows are read.
    pub windows: Windows,
    /// Tokens and their lives.
    pub tokens: Tokens,
    /// The credentials that are accepted.
    pub credentials: Credentials,
    /// What is counted, and what is refused.
    pub limits: SimLimits,
    /// What goes wrong.
    pub faults: Faults,
    /// How long each answer takes.
    pub latency: Duration,
    /// How far the server's clock is ahead of the simulator's, in milliseconds; negative where it is behind.
    pub skew_ms: i64,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether to remember each arrival per account ([`super::Sim::arrivals`]); grows for ever.
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
            windows: Windows::default(),
            tokens: Tokens::default(),
            credentials: Credentials::default(),
            limits: SimLimits::default(),
            faults: Faults::default(),
            latency: Duration::ZERO,
            skew_ms: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            keep_arrivals: false,
        }
    }
}

/// A range of delays, both ends included, drawn to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spread {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Spread {
    /// From the shortest to the longest.
    pub const fn new(min: Duration, max: Duration) -> Spread {
        Spread { min, max }
    }

    /// From the shortest to the longest, in seconds.
    pub const fn secs(min: u64, max: u64) -> Spread {
        Spread { min: Duration::from_secs(min), max: Duration::from_secs(max) }
    }
}

/// A delay that befalls some.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Delayed {
    /// How many it befalls, 0 to 1.
    pub share: f64,
    /// How long it is.
    pub delay: Spread,
}

impl Delayed {
    /// So many, by so much.
    pub const fn new(share: f64, delay: Spread) -> Delayed {
        Delayed { share, delay }
    }
}

/// The segments that come about.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// Segments that end in a minute, per account; fractions count.
    pub per_minute: f64,
    /// Other rates for single accounts.
    pub per_minute_of: Vec<(AccountId, f64)>,
    /// How much past there already is at the start.
    pub history: Duration,
    /// How long after the start the last segment ends; `None` goes on for ever.
    pub until: Option<Duration>,
    /// Share of segments that have a transcript.
    pub transcribed: f64,
    /// Share of segments whose ids hold slashes, per cent signs, spaces and the like.
    pub awkward_ids: f64,
    /// Share of segments that end on a whole second.
    pub whole_seconds: f64,
    /// Share of records with nulls, missing and unknown fields, numbers as strings.
    pub odd_records: f64,
    /// Share of transcripts that hold what real tenants' do beside what is documented, of announced transcripts that are
    /// answered with an empty list until they are made, rather than with 404, of summaries in another charset, and of records with
    /// a `hasTranscript` in another form.
    pub odd_bodies: f64,
    /// Share of records with an end that is no time.
    pub odd_ends: f64,
    /// Share of records that an answer holds twice.
    pub duplicates: f64,
    /// Share of summaries that are empty, half of them as `""`.
    pub empty_summaries: f64,
    /// Share of the other summaries that are sent as a JSON string rather than as they are.
    pub json_summaries: f64,
    /// Share of conversations that hold [`super::PLANTED`].
    pub planted: f64,
    /// How many utterances a conversation has.
    pub utterances: (u32, u32),
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
            planted: 0.2,
            utterances: (2, 40),
        }
    }
}

/// When segments and artifacts can be seen. Delays count from the segment's end unless said otherwise.
#[derive(Debug, Clone)]
pub struct Availability {
    /// How long after its end a segment appears in metadata.
    pub appear_after: Duration,
    /// Segments that appear later still; the delay is added.
    pub late: Delayed,
    /// Transcribed segments whose `hasTranscript` turns true later; the delay counts from appearing.
    pub flip: Delayed,
    /// Segments whose notes and disposition are changed later; the delay counts from appearing.
    pub metadata_edit: Delayed,
    /// When transcripts are there; never before `hasTranscript` is true.
    pub transcript_after: Spread,
    /// When summaries are there.
    pub summary_after: Spread,
    /// Agent summaries filled in or changed later; the delay counts from being there.
    pub summary_edit: Delayed,
    /// Empty auto summaries filled in later; the delay counts from being there.
    pub auto_fill: Delayed,
    /// Share of announced transcripts that are never there.
    pub never_transcript: f64,
    /// Share of summaries, of either kind, that are never there.
    pub never_summary: f64,
}

impl Default for Availability {
    fn default() -> Availability {
        Availability {
            appear_after: Duration::from_secs(20),
            late: Delayed::default(),
            flip: Delayed::default(),
            metadata_edit: Delayed::default(),
            transcript_after: Spread::secs(60, 330),
            summary_after: Spread::secs(30, 300),
            summary_edit: Delayed::default(),
            auto_fill: Delayed::default(),
            never_transcript: 0.0,
            never_summary: 0.0,
        }
    }
}

/// Which segments on the edges of a window belong to it. Not documented, so a client must live with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Edges {
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

impl Edges {
    /// Whether a segment that ends at `end` is found by a window from `from` to `to`.
    pub fn found(self, end: Time, from: Time, to: Time) -> bool {
        match self {
            Edges::Exclusive => from < end && end < to,
            Edges::Inclusive => from <= end && end <= to,
            Edges::StartOnly => from <= end && end < to,
            Edges::EndOnly => from < end && end <= to,
        }
    }
}

/// How metadata windows are read.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// How far before now a window must end.
    pub offset: Duration,
    /// The largest `timeInterval`, in seconds.
    pub widest: u32,
    /// What is found on the edges.
    pub edges: Edges,
    /// Whether a window that ends too late is answered with what there is, in the future with `[]`, instead of being
    /// refused. Not documented, so a client must live with either.
    pub answers_future: bool,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { offset: Duration::from_secs(300), widest: 3600, edges: Edges::Exclusive, answers_future: false }
    }
}

/// Tokens and their lives.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Life of a RingCentral token, and its `expires_in`.
    pub rc_life: Duration,
    /// Life of a RingCX access token, which no answer tells.
    pub access_life: Duration,
    /// Life of a refresh token that is not used.
    pub refresh_life: Duration,
    /// `scope` of the RingCentral token; without `ReadAccounts` in it no exchange succeeds.
    pub scope: String,
    /// Whether access tokens are JSON Web Tokens that tell their `exp`.
    pub jwt_shaped: bool,
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens {
            rc_life: Duration::from_secs(3600),
            access_life: Duration::from_secs(300),
            refresh_life: Duration::from_secs(3600),
            scope: "ReadAccounts ReadCallLog".into(),
            jwt_shaped: false,
        }
    }
}

/// The credentials that are accepted, of all kinds at once.
#[derive(Debug, Clone)]
pub struct Credentials {
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

impl Default for Credentials {
    fn default() -> Credentials {
        Credentials {
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

/// Whose budget a request counts into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Each sub-account has its own.
    #[default]
    SubAccount,
    /// All sub-accounts of the login share one of 120 a minute; metadata counts per sub-account all the same.
    Login,
}

/// What a refusal says about when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryAfter {
    /// Whole seconds, rounded up.
    #[default]
    Seconds,
    /// An HTTP date.
    HttpDate,
    /// Nothing.
    Absent,
}

/// Exact sliding-window limits, counted when a request arrives.
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
    /// Whether the 120 are shared.
    pub scope: Scope,
    /// Whether a refused request counts as well.
    pub count_refused: bool,
    /// What a refusal says.
    pub retry_after: RetryAfter,
    /// What someone else consumes of every account, in requests a minute.
    pub others_per_minute: f64,
    /// What someone else consumes of every account's metadata, in requests a minute.
    pub others_metadata_per_minute: f64,
}

impl Default for SimLimits {
    fn default() -> SimLimits {
        SimLimits {
            requests_per_minute: 120,
            metadata_per_minute: 3,
            metadata_per_15_minutes: 9,
            exchanges_per_minute: 5,
            scope: Scope::SubAccount,
            count_refused: false,
            retry_after: RetryAfter::Seconds,
            others_per_minute: 0.0,
            others_metadata_per_minute: 0.0,
        }
    }
}

impl SimLimits {
    /// Practically none, for benchmarks and for tests about something else.
    pub fn lifted() -> SimLimits {
        SimLimits {
            requests_per_minute: 100_000_000,
            metadata_per_minute: 100_000_000,
            metadata_per_15_minutes: 100_000_000,
            exchanges_per_minute: 100_000_000,
            ..SimLimits::default()
        }
    }
}
