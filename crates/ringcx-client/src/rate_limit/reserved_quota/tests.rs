use futures_util::FutureExt;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const START: Time = Time::from_secs(1_800_000_000);

fn metadata() -> SlidingWindowLimiter {
    SlidingWindowLimiter::new([(3, Duration::from_secs(60)), (9, Duration::from_secs(900))])
}

fn quota(store: &Arc<MemoryStore>, clock: &Clock) -> ReservedQuota {
    ReservedQuota::new(store.clone(), "metadata/1".to_owned(), metadata(), clock.clone())
}

/// The result of a future that must be ready.
fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the future is pending")
}

fn try_reserve(quota: &ReservedQuota) -> Result<Reservation, Time> {
    ready(quota.try_reserve()).unwrap()
}

/// Counts arrivals in exact sliding windows, independently of the code under test.
#[derive(Default)]
struct ArrivalLog {
    arrivals: Vec<Tick>,
}

impl ArrivalLog {
    fn assert_never_exceeded(&mut self, limits: &SlidingWindowLimiter) {
        self.arrivals.sort();
        for (count, window) in limits.rules() {
            for run in self.arrivals.windows(*count as usize + 1) {
                let took = run[*count as usize].since(run[0]);
                assert!(took >= *window, "{} in {took:?}", count + 1);
            }
        }
    }
}

#[test]
fn all_quotas_with_the_same_store_and_key_share_reservations() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let (one, other) = (quota(&store, &clock), quota(&store, &clock));
    let other_key = ReservedQuota::new(store.clone(), "metadata/2".to_owned(), metadata(), clock.clone());
    for _ in 0..3 {
        let _reserved = try_reserve(&one).unwrap();
    }
    assert_eq!(try_reserve(&other).unwrap_err(), START.plus_millis(62_050));
    assert!(try_reserve(&other_key).is_ok());
    assert_eq!(ready(other.effective_times()).unwrap(), vec![START.plus_millis(2000); 3]);
}

#[test]
fn an_answer_sets_the_time_from_which_the_window_counts() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let quota = quota(&store, &clock);
    for _ in 0..3 {
        let reserved = try_reserve(&quota).unwrap();
        clock.advance(Duration::from_millis(100));
        ready(reserved.mark_counted());
    }
    assert_eq!(try_reserve(&quota).unwrap_err(), START.plus_millis(100 + 60_050));
    let late = {
        clock.advance(Duration::from_secs(1000));
        try_reserve(&quota).unwrap()
    };
    clock.advance(Duration::from_secs(7));
    ready(late.mark_counted());
    assert_eq!(ready(quota.effective_times()).unwrap().last(), Some(&clock.now()));
}

#[test]
fn a_wall_clock_set_forward_does_not_open_the_window() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let quota = quota(&store, &clock);
    for _ in 0..3 {
        let _reserved = try_reserve(&quota).unwrap();
    }
    clock.step(3_600_000);
    assert_eq!(try_reserve(&quota).unwrap_err(), clock.now().plus_millis(62_050));
    clock.advance(Duration::from_millis(62_050));
    assert!(try_reserve(&quota).is_ok());
}

#[test]
fn a_wall_clock_set_forward_after_a_restart_does_not_open_the_window() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    for _ in 0..3 {
        ready(try_reserve(&quota(&store, &clock)).unwrap().mark_counted());
    }
    clock.advance(Duration::from_secs(10));
    // The machine boots with a clock that is behind, and NTP corrects it.
    let restarted = quota(&store, &clock);
    assert_eq!(ready(restarted.effective_times()).unwrap().len(), 3);
    clock.step(3_600_000);
    assert_eq!(try_reserve(&restarted).unwrap_err(), clock.now().plus_millis(50_050));
    clock.advance(Duration::from_millis(50_050));
    assert!(try_reserve(&restarted).is_ok());
}

#[test]
fn a_wall_clock_set_back_blocks_for_no_longer_than_a_window() {
    for (answered, wait) in [(true, 60_050), (false, 62_050)] {
        let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
        for _ in 0..3 {
            let reserved = try_reserve(&quota(&store, &clock)).unwrap();
            if answered {
                ready(reserved.mark_counted());
            }
        }
        clock.step(-3_600_000);
        // Another process, which knows only the store.
        let other = quota(&store, &clock);
        assert_eq!(try_reserve(&other).unwrap_err(), clock.now().plus_millis(wait));
        clock.advance(Duration::from_millis(wait as u64));
        assert!(try_reserve(&other).is_ok());
    }
}

#[test]
fn with_a_failing_store_nothing_is_sent_and_nothing_is_used_up() {
    struct FailingStore;
    impl ReservationStore for FailingStore {
        fn try_reserve<'a>(
            &'a self,
            _: &'a str,
            _: &'a SlidingWindowLimiter,
            _: Time,
        ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
            Box::pin(async { Err("failed to reach the store".into()) })
        }
        fn mark_counted<'a>(&'a self, _: i64, _: Time) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { Err("failed to reach the store".into()) })
        }
        fn effective_times<'a>(&'a self, _: &'a str, _: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
            Box::pin(async { Err("failed to reach the store".into()) })
        }
    }
    let quota = ReservedQuota::new(Arc::new(FailingStore), String::new(), metadata(), Clock::manual(START));
    for _ in 0..10 {
        assert!(ready(quota.try_reserve()).is_err());
        assert!(ready(quota.reserve()).is_err());
    }
}

#[tokio::test]
async fn a_waiter_proceeds_as_soon_as_an_answer_makes_room() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let quota = quota(&store, &clock);
    let sent: Vec<Reservation> = (0..3).map(|_| try_reserve(&quota).unwrap()).collect();
    let mut waiting = Box::pin(quota.reserve());
    assert!(waiting.as_mut().now_or_never().is_none());
    clock.advance(Duration::from_millis(500));
    for reserved in sent {
        reserved.mark_counted().await;
    }
    for _ in 0..6 {
        assert!(waiting.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_secs(10));
    }
    assert!(waiting.as_mut().now_or_never().is_none());
    clock.advance(Duration::from_millis(50));
    assert!(waiting.await.is_ok());
}

#[tokio::test]
async fn a_cancelled_waiter_uses_up_nothing() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let quota = quota(&store, &clock);
    for _ in 0..3 {
        let _reserved = try_reserve(&quota).unwrap();
    }
    for _ in 0..5 {
        assert!(quota.reserve().now_or_never().is_none());
    }
    clock.advance(Duration::from_millis(62_050));
    for _ in 0..3 {
        assert!(quota.reserve().now_or_never().is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Full load, random crashes, changes of owner, and a wall clock that is set back and forth
    /// while one process runs: no window is exceeded, and the quota is used. There are no steps
    /// before a restart, because a new process knows the store alone.
    #[test]
    fn crashes_owner_changes_and_clock_steps_never_exceed_a_window(seed in any::<u64>(), steps in any::<bool>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
        let mut process = quota(&store, &clock);
        let mut server = ArrivalLog::default();
        let begin = clock.tick();
        while clock.tick().since(begin) < Duration::from_secs(4 * 900) {
            match try_reserve(&process) {
                Ok(reserved) => {
                    let sent = clock.tick();
                    let latency = Duration::from_millis(random.random_range(0..1500));
                    server.arrivals.push(sent + latency);
                    if random.random_bool(0.8) {
                        clock.advance(latency);
                        ready(reserved.mark_counted());
                    }
                }
                Err(due) => {
                    prop_assert!(due > clock.now());
                    let wait = due.since(clock.now()).min(Duration::from_secs(5));
                    clock.advance(wait.max(Duration::from_millis(1)));
                }
            }
            if steps && random.random_bool(0.1) {
                clock.step(random.random_range(-100_000..100_000));
            } else if !steps && random.random_bool(0.2) {
                process = quota(&store, &clock);
            }
        }
        server.assert_never_exceeded(&metadata());
        // A clock set back makes old entries look new, so the whole quota is used only without
        // steps.
        if !steps {
            prop_assert!(server.arrivals.len() >= 9 * 4 - 1, "{}", server.arrivals.len());
        }
    }

    /// Several processes at once, as with commands beside the daemon.
    #[test]
    fn processes_side_by_side_share_one_quota(seed in any::<u64>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
        let processes: Vec<ReservedQuota> = (0..5).map(|_| quota(&store, &clock)).collect();
        let mut server = ArrivalLog::default();
        for _ in 0..2000 {
            let process = &processes[random.random_range(0..processes.len())];
            if let Ok(reserved) = try_reserve(process) {
                server.arrivals.push(clock.tick() + Duration::from_millis(random.random_range(0..2000)));
                drop(reserved);
            }
            clock.advance(Duration::from_millis(random.random_range(0..3000)));
        }
        server.assert_never_exceeded(&metadata());
        prop_assert!(server.arrivals.len() >= 24, "{}", server.arrivals.len());
    }
}
