//! Time, the only place that reads it.
//!
//! Everything that decides takes a [`Time`] or a [`Tick`] as an argument; everything that waits does so through a
//! [`Clock`]. There are three: the system's, one that runs faster than the system's (the demo plays minutes in
//! seconds), and one that stands still until a test moves it.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A moment in UTC, in whole milliseconds since 1970-01-01T00:00:00Z; what the database stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(transparent))]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// Stands for "no end time" in the database, so that such segments come first in every order.
    pub const NONE: Time = Time(i64::MIN);

    /// The first moment that RFC 3339 can write, and RingCX be asked about.
    pub const FIRST: Time = Time(-62_167_219_200_000);

    /// The moment so many whole seconds after 1970.
    pub const fn from_secs(secs: i64) -> Time {
        Time(secs.saturating_mul(1000))
    }

    /// The whole second at or before this moment, as seconds since 1970.
    pub const fn floor_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The same moment without its fraction of a second.
    pub const fn floor_to_second(self) -> Time {
        Time::from_secs(self.floor_secs())
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment moved by so many milliseconds, which may be negative.
    pub const fn plus_millis(self, millis: i64) -> Time {
        Time(self.0.saturating_add(millis))
    }

    /// Reads RFC 3339 (`2026-11-20T10:00:00.5+01:00`); anything else is `None`.
    pub fn parse(text: &str) -> Option<Time> {
        text.parse::<jiff::Timestamp>().ok().map(Time::from)
    }

    /// As a `jiff` timestamp, clamped to the range that it can hold.
    pub fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        })
    }

    /// RFC 3339 with milliseconds: `2024-07-22T11:24:47.000Z`.
    pub fn rfc3339(self) -> String {
        self.timestamp().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
    }

    /// RFC 3339 in whole seconds: `2024-07-22T11:24:47Z`.
    pub fn rfc3339_secs(self) -> String {
        self.timestamp().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// `Some` unless this is [`Time::NONE`].
    pub fn known(self) -> Option<Time> {
        (self != Time::NONE).then_some(self)
    }
}

impl From<jiff::Timestamp> for Time {
    fn from(timestamp: jiff::Timestamp) -> Time {
        Time(timestamp.as_millisecond())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(millis(span)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(millis(span)))
    }
}

/// A span in whole milliseconds, as the database and [`Time`] count.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// A moment on a clock that never goes back and that counts while the machine sleeps. Comparable within one
/// process only; never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub Duration);

impl Tick {
    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Tick) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    fn add(self, span: Duration) -> Tick {
        Tick(self.0.saturating_add(span))
    }
}

/// Where time comes from. Cheap to clone; clones share one time.
#[derive(Clone)]
pub struct Clock(Arc<Kind>);

enum Kind {
    System,
    Fast { factor: f64, wall: Time, tick: Duration },
    Manual { state: Mutex<Manual>, moved: watch::Sender<()> },
}

struct Manual {
    wall: Time,
    tick: Duration,
}

/// The longest the system's clock is trusted to wait in one piece: tokio's timers stand still while the machine
/// sleeps, so a long wait looks at the clock again now and then.
const LONGEST_NAP: Duration = Duration::from_secs(30);

impl Clock {
    /// The machine's own time.
    pub fn system() -> Clock {
        Clock(Arc::new(Kind::System))
    }

    /// The machine's time, running `factor` times as fast from `start` on.
    pub fn accelerated(factor: f64, start: Time) -> Clock {
        Clock::accelerated_since(factor, start, Tick(boot_time()))
    }

    /// The same, of a clock that has run since the system's clock stood at `began`: that of another process.
    pub fn accelerated_since(factor: f64, start: Time, began: Tick) -> Clock {
        let factor = if factor.is_finite() && factor > 0.0 { factor } else { 1.0 };
        Clock(Arc::new(Kind::Fast { factor, wall: start, tick: began.0 }))
    }

    /// A clock that moves only when told to, for tests.
    pub fn manual(start: Time) -> Clock {
        let state = Mutex::new(Manual { wall: start, tick: Duration::from_secs(1_000_000) });
        Clock(Arc::new(Kind::Manual { state, moved: watch::Sender::new(()) }))
    }

    /// What time it is.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub fn now(&self) -> Time {
        match &*self.0 {
            Kind::System => Time::from(jiff::Timestamp::now()),
            Kind::Fast { factor, wall, tick } => *wall + boot_time().saturating_sub(*tick).mul_f64(*factor),
            Kind::Manual { state, .. } => lock(state).wall,
        }
    }

    /// Where the clock that never goes back stands.
    pub fn tick(&self) -> Tick {
        match &*self.0 {
            Kind::System => Tick(boot_time()),
            Kind::Fast { factor, tick, .. } => Tick(boot_time().saturating_sub(*tick).mul_f64(*factor)),
            Kind::Manual { state, .. } => Tick(lock(state).tick),
        }
    }

    /// How long `span` of this clock takes on the machine: for time-outs that tokio or a library keeps.
    pub fn real(&self, span: Duration) -> Duration {
        match &*self.0 {
            Kind::Fast { factor, .. } => span.div_f64(*factor),
            _ => span,
        }
    }

    /// Waits for `span` of this clock.
    pub async fn sleep(&self, span: Duration) {
        self.sleep_until(self.tick() + span).await;
    }

    /// Waits until the clock that never goes back reaches `due`.
    pub async fn sleep_until(&self, due: Tick) {
        if let Kind::Manual { state, moved } = &*self.0 {
            let mut moved = moved.subscribe();
            while lock(state).tick < due.0 {
                if moved.changed().await.is_err() {
                    return;
                }
            }
            return;
        }
        loop {
            let left = due.since(self.tick());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(self.real(left).min(LONGEST_NAP)).await;
        }
    }

    /// Waits until the wall clock reads `due` or later. A clock stepped forward is noticed within half a minute.
    pub async fn sleep_until_time(&self, due: Time) {
        loop {
            let left = due.since(self.now());
            if left.is_zero() {
                return;
            }
            self.sleep(left.min(LONGEST_NAP)).await;
        }
    }

    /// Moves a manual clock forward; no other clock obeys.
    pub fn advance(&self, span: Duration) {
        if let Kind::Manual { state, moved } = &*self.0 {
            {
                let mut state = lock(state);
                state.wall = state.wall + span;
                state.tick += span;
            }
            moved.send_replace(());
        }
    }

    /// How many sleep on a manual clock; on another, nobody can tell.
    pub fn sleepers(&self) -> usize {
        match &*self.0 {
            Kind::Manual { moved, .. } => moved.receiver_count(),
            Kind::System | Kind::Fast { .. } => 0,
        }
    }

    /// Steps a manual clock's wall time by so many milliseconds, as an administrator or NTP may; its tick stays.
    pub fn step(&self, millis: i64) {
        if let Kind::Manual { state, .. } = &*self.0 {
            let mut state = lock(state);
            state.wall = state.wall.plus_millis(millis);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

fn lock(state: &Mutex<Manual>) -> MutexGuard<'_, Manual> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
