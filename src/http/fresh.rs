//! A value that is costly to come by, made on demand, by one task for all who ask, and kept for a while.
//!
//! Nobody asking means nothing done. However many ask at once, it is made once; and it is never made in the caller's
//! own time, so that one who goes away half-way leaves no database operation hanging. A value counts as fresh for at
//! least four times as long as it took, which keeps an overloaded database from being asked all the time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Tick};

/// A value and the task that makes it.
pub(super) struct Fresh<T> {
    /// Real time: patience with the machine is not a matter of the time that the daemon plays.
    clock: Clock,
    asked: Notify,
    /// Since when it is being made.
    making: Mutex<Option<Tick>>,
    held: watch::Sender<Option<Held<T>>>,
}

struct Held<T> {
    value: Arc<T>,
    made: Tick,
    took: Duration,
}

impl<T> Fresh<T> {
    pub(super) fn new() -> Fresh<T> {
        Fresh { clock: Clock::system(), asked: Notify::new(), making: Mutex::new(None), held: watch::Sender::new(None) }
    }

    /// The value, made within the last `age`; where it has to be made, waits until that has taken `patience`. `None`
    /// where it is not made by then: whatever it depends on does not answer, and the next to ask need not wait as long.
    pub(super) async fn get(&self, age: Duration, patience: Duration) -> Option<Arc<T>> {
        let mut held = self.held.subscribe();
        let now = self.clock.tick();
        if let Some(held) = &*held.borrow_and_update()
            && now.since(held.made) <= age.max(held.took * 4)
        {
            return Some(held.value.clone());
        }
        self.asked.notify_one();
        // One that was under way already will do.
        let made = held.wait_for(|held| held.as_ref().is_some_and(|held| held.made >= now));
        let waited = self.making().map_or(Duration::ZERO, |begun| now.since(begun));
        let made = tokio::time::timeout(patience.saturating_sub(waited), made).await.ok()?.ok()?;
        made.as_ref().map(|held| held.value.clone())
    }

    fn making(&self) -> MutexGuard<'_, Option<Tick>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the value whenever it is asked for, until `stop`.
    pub(super) async fn keep<F: Future<Output = T>>(&self, make: impl Fn() -> F, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => {}
            }
            let begun = self.clock.tick();
            *self.making() = Some(begun);
            // What is being made ends by itself; the process's end does not wait for it.
            let value = tokio::select! {
                () = stop.cancelled() => return,
                value = make() => Arc::new(value),
            };
            let made = self.clock.tick();
            *self.making() = None;
            self.held.send_replace(Some(Held { value, made, took: made.since(begun) }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const AGES: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn many_who_ask_at_once_have_it_made_once_and_share_it() {
        let (fresh, made, stop) = (Fresh::new(), AtomicU32::new(0), CancellationToken::new());
        let make = || async { made.fetch_add(1, Ordering::Relaxed) };
        let ask = async {
            let asked = (0..50).map(|_| fresh.get(AGES, AGES));
            let values = futures_util::future::join_all(asked).await;
            stop.cancel();
            values
        };
        let (values, ()) = tokio::join!(ask, fresh.keep(make, &stop));
        assert!(values.iter().all(|value| value.as_deref() == Some(&0)));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_does_not_come_in_time_is_not_waited_for() {
        let (fresh, stop) = (Fresh::<u32>::new(), CancellationToken::new());
        let ask = async {
            let value = fresh.get(AGES, Duration::from_millis(5)).await;
            stop.cancel();
            value
        };
        let (value, ()) = tokio::join!(ask, fresh.keep(std::future::pending, &stop));
        assert_eq!(value, None);
    }

    #[tokio::test]
    async fn what_has_kept_one_waiting_in_vain_does_not_keep_the_next_one_too() {
        let (fresh, stop) = (Fresh::<u32>::new(), CancellationToken::new());
        let ask = async {
            let patience = Duration::from_millis(200);
            let first = fresh.get(AGES, patience).await;
            let begun = fresh.clock.tick();
            let second = fresh.get(AGES, patience).await;
            stop.cancel();
            (first, second, fresh.clock.tick().since(begun))
        };
        let ((first, second, waited), ()) = tokio::join!(ask, fresh.keep(std::future::pending, &stop));
        assert_eq!((first, second), (None, None));
        assert!(waited < Duration::from_millis(150), "{waited:?}");
    }

    #[tokio::test]
    async fn nothing_is_made_before_anybody_asks() {
        let (fresh, made, stop) = (Fresh::new(), AtomicU32::new(0), CancellationToken::new());
        stop.cancel();
        fresh.keep(|| async { made.fetch_add(1, Ordering::Relaxed) }, &stop).await;
        assert_eq!(made.load(Ordering::Relaxed), 0);
    }
}
