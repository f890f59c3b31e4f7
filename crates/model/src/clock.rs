//! The only place that reads the time.
//!
//! Code that makes decisions takes a [`Time`] or a [`Tick`] as an argument, and code that waits
//! does so through a [`Clock`]. There are three clocks: the system's, an accelerated one for the
//! demo, and a manual one that moves only when a test moves it.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A moment in UTC, in whole milliseconds since 1970-01-01T00:00:00Z, as the database stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "sqlx", derive(sqlx::Type), sqlx(transparent))]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// Stands for "no end time" in the database, so that such segments come first in every order.
    pub const NONE: Time = Time(i64::MIN);

    /// The earliest moment that RFC 3339 can express and that a request to RingCX can name.
    pub const FIRST: Time = Time(-62_167_219_200_000);

    /// The moment that lies `secs` whole seconds after 1970-01-01T00:00:00Z.
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

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This moment moved by `millis` milliseconds, which may be negative.
    pub const fn plus_millis(self, millis: i64) -> Time {
        Time(self.0.saturating_add(millis))
    }

    /// Parses RFC 3339 (`2026-11-20T10:00:00.5+01:00`); returns `None` for any other text.
    pub fn parse(text: &str) -> Option<Time> {
        text.parse::<jiff::Timestamp>().ok().map(Time::from)
    }

    /// Converts to a `jiff` timestamp, clamped to its range.
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

/// A duration in whole milliseconds, the unit of [`Time`] and of the database.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// A moment on a monotonic clock that also counts while the machine sleeps. Comparable within one
/// process only, and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(pub Duration);

impl Tick {
    /// The time since `earlier`; zero if `earlier` is later.
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

/// A source of time. Cheap to clone; clones share one time.
#[derive(Clone)]
pub struct Clock(Arc<ClockSource>);

enum ClockSource {
    System,
    Accelerated { factor: f64, wall: Time, tick: Duration },
    Manual { state: Mutex<ManualState>, moved: watch::Sender<()> },
}

struct ManualState {
    wall: Time,
    tick: Duration,
}

/// The longest single wait on a tokio timer. These timers stand still while the machine sleeps, so
/// a long wait is cut into slices and reads the clock after each.
const MAX_TIMER_SLICE: Duration = Duration::from_secs(30);

impl Clock {
    /// The system clock.
    pub fn system() -> Clock {
        Clock(Arc::new(ClockSource::System))
    }

    /// A clock that runs `factor` times as fast as the system clock, from `start` on.
    pub fn accelerated(factor: f64, start: Time) -> Clock {
        Clock::accelerated_since(factor, start, Tick(boot_time()))
    }

    /// An accelerated clock that has run since the monotonic clock stood at `began`, such as that
    /// of another process.
    pub fn accelerated_since(factor: f64, start: Time, began: Tick) -> Clock {
        let factor = if factor.is_finite() && factor > 0.0 { factor } else { 1.0 };
        Clock(Arc::new(ClockSource::Accelerated { factor, wall: start, tick: began.0 }))
    }

    /// A clock for tests that moves only by [`Clock::advance`] and [`Clock::step`].
    pub fn manual(start: Time) -> Clock {
        let state = Mutex::new(ManualState { wall: start, tick: Duration::from_secs(1_000_000) });
        Clock(Arc::new(ClockSource::Manual { state, moved: watch::Sender::new(()) }))
    }

    /// The current wall-clock time.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub fn now(&self) -> Time {
        match &*self.0 {
            ClockSource::System => Time::from(jiff::Timestamp::now()),
            ClockSource::Accelerated { factor, wall, tick } => {
                *wall + boot_time().saturating_sub(*tick).mul_f64(*factor)
            }
            ClockSource::Manual { state, .. } => lock(state).wall,
        }
    }

    /// The current time of the monotonic clock.
    pub fn tick(&self) -> Tick {
        match &*self.0 {
            ClockSource::System => Tick(boot_time()),
            ClockSource::Accelerated { factor, tick, .. } => Tick(boot_time().saturating_sub(*tick).mul_f64(*factor)),
            ClockSource::Manual { state, .. } => Tick(lock(state).tick),
        }
    }

    /// How long `span` of this clock takes in real time, for time-outs that tokio or a library
    /// measures.
    pub fn real(&self, span: Duration) -> Duration {
        match &*self.0 {
            ClockSource::Accelerated { factor, .. } => span.div_f64(*factor),
            _ => span,
        }
    }

    /// Waits for `span`, measured by this clock.
    pub async fn sleep(&self, span: Duration) {
        self.sleep_until(self.tick() + span).await;
    }

    /// Waits until the monotonic clock reaches `due`.
    pub async fn sleep_until(&self, due: Tick) {
        if let ClockSource::Manual { state, moved } = &*self.0 {
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
            tokio::time::sleep(self.real(left).min(MAX_TIMER_SLICE)).await;
        }
    }

    /// Waits until the wall clock reaches `due`. A clock that was stepped forward is noticed within
    /// 30 s.
    pub async fn sleep_until_time(&self, due: Time) {
        loop {
            let left = due.since(self.now());
            if left.is_zero() {
                return;
            }
            self.sleep(left.min(MAX_TIMER_SLICE)).await;
        }
    }

    /// Moves a manual clock forward. Has no effect on other clocks.
    pub fn advance(&self, span: Duration) {
        if let ClockSource::Manual { state, moved } = &*self.0 {
            {
                let mut state = lock(state);
                state.wall = state.wall + span;
                state.tick += span;
            }
            moved.send_replace(());
        }
    }

    /// The number of tasks that sleep on a manual clock; always 0 for other clocks.
    pub fn sleepers(&self) -> usize {
        match &*self.0 {
            ClockSource::Manual { moved, .. } => moved.receiver_count(),
            ClockSource::System | ClockSource::Accelerated { .. } => 0,
        }
    }

    /// Steps the wall time of a manual clock by `millis`, as an administrator or NTP may. Its
    /// monotonic time stays.
    pub fn step(&self, millis: i64) {
        if let ClockSource::Manual { state, .. } = &*self.0 {
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

fn lock(state: &Mutex<ManualState>) -> MutexGuard<'_, ManualState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn boot_time() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
