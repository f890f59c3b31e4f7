use futures_util::FutureExt;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const START: Time = Time::from_secs(1_800_000_000);

fn metadata() -> Sliding {
    Sliding::new([(3, Duration::from_secs(60)), (9, Duration::from_secs(900))])
}

fn budget(store: &Arc<MemoryStore>, clock: &Clock) -> Budget {
    Budget::new(store.clone(), "metadata/1".to_owned(), metadata(), clock.clone())
}

/// The result of a future that must not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("it waits")
}

fn try_reserve(budget: &Budget) -> Result<Reserved, Time> {
    now(budget.try_reserve()).unwrap()
}

/// Counts arrivals in exact sliding windows, independently of the code under test.
#[derive(Default)]
struct Server {
    arrivals: Vec<Tick>,
}

impl Server {
    fn assert_never_exceeded(&mut self, limits: &Sliding) {
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
fn a_reservation_is_seen_by_every_budget_with_the_same_store_and_key() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let (one, other) = (budget(&store, &clock), budget(&store, &clock));
    let stranger = Budget::new(store.clone(), "metadata/2".to_owned(), metadata(), clock.clone());
    for _ in 0..3 {
        let _reserved = try_reserve(&one).unwrap();
    }
    assert_eq!(try_reserve(&other).unwrap_err(), START.plus_millis(62_050));
    assert!(try_reserve(&stranger).is_ok());
    assert_eq!(now(other.log()).unwrap(), vec![START.plus_millis(2000); 3]);
}

#[test]
fn an_answer_sets_the_time_from_which_the_window_counts() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let budget = budget(&store, &clock);
    for _ in 0..3 {
        let reserved = try_reserve(&budget).unwrap();
        clock.advance(Duration::from_millis(100));
        now(reserved.counted());
    }
    assert_eq!(try_reserve(&budget).unwrap_err(), START.plus_millis(100 + 60_050));
    let late = {
        clock.advance(Duration::from_secs(1000));
        try_reserve(&budget).unwrap()
    };
    clock.advance(Duration::from_secs(7));
    now(late.counted());
    assert_eq!(now(budget.log()).unwrap().last(), Some(&clock.now()));
}

#[test]
fn a_wall_clock_set_forward_does_not_open_the_window() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let budget = budget(&store, &clock);
    for _ in 0..3 {
        let _reserved = try_reserve(&budget).unwrap();
    }
    clock.step(3_600_000);
    assert_eq!(try_reserve(&budget).unwrap_err(), clock.now().plus_millis(62_050));
    clock.advance(Duration::from_millis(62_050));
    assert!(try_reserve(&budget).is_ok());
}

#[test]
fn a_wall_clock_set_forward_after_a_restart_does_not_open_the_window() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    for _ in 0..3 {
        now(try_reserve(&budget(&store, &clock)).unwrap().counted());
    }
    clock.advance(Duration::from_secs(10));
    // The machine boots with a clock that is behind, and NTP puts it right.
    let restarted = budget(&store, &clock);
    assert_eq!(now(restarted.log()).unwrap().len(), 3);
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
            let reserved = try_reserve(&budget(&store, &clock)).unwrap();
            if answered {
                now(reserved.counted());
            }
        }
        clock.step(-3_600_000);
        // Another process, which has only the store to go by.
        let other = budget(&store, &clock);
        assert_eq!(try_reserve(&other).unwrap_err(), clock.now().plus_millis(wait));
        clock.advance(Duration::from_millis(wait as u64));
        assert!(try_reserve(&other).is_ok());
    }
}

#[test]
fn a_store_that_fails_lets_nothing_out_and_costs_nothing() {
    struct Broken;
    impl ReserveStore for Broken {
        fn try_reserve<'a>(
            &'a self,
            _: &'a str,
            _: &'a Sliding,
            _: Time,
        ) -> BoxFuture<'a, Result<Result<i64, Time>, StoreError>> {
            Box::pin(async { Err("failed to reach the store".into()) })
        }
        fn counted<'a>(&'a self, _: i64, _: Time) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { Err("failed to reach the store".into()) })
        }
        fn log<'a>(&'a self, _: &'a str, _: Time) -> BoxFuture<'a, Result<Vec<Time>, StoreError>> {
            Box::pin(async { Err("failed to reach the store".into()) })
        }
    }
    let budget = Budget::new(Arc::new(Broken), String::new(), metadata(), Clock::manual(START));
    for _ in 0..10 {
        assert!(now(budget.try_reserve()).is_err());
        assert!(now(budget.reserve()).is_err());
    }
}

#[tokio::test]
async fn whoever_waits_goes_as_soon_as_an_answer_makes_room_sooner() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let budget = budget(&store, &clock);
    let sent: Vec<Reserved> = (0..3).map(|_| try_reserve(&budget).unwrap()).collect();
    let mut waiting = Box::pin(budget.reserve());
    assert!(waiting.as_mut().now_or_never().is_none());
    clock.advance(Duration::from_millis(500));
    for reserved in sent {
        reserved.counted().await;
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
async fn a_waiter_that_gives_up_takes_nothing_with_it() {
    let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
    let budget = budget(&store, &clock);
    for _ in 0..3 {
        let _reserved = try_reserve(&budget).unwrap();
    }
    for _ in 0..5 {
        assert!(budget.reserve().now_or_never().is_none());
    }
    clock.advance(Duration::from_millis(62_050));
    for _ in 0..3 {
        assert!(budget.reserve().now_or_never().is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Hunger without end, a crash now and then, two owners, a wall clock that is set back and forth while one process
    /// lives: the windows hold, and the budget is used. Steps are not made before a restart: what is in the store is then
    /// all there is to go by.
    #[test]
    fn no_history_of_crashes_owners_and_clocks_overruns_a_window(seed in any::<u64>(), steps in any::<bool>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
        let mut process = budget(&store, &clock);
        let mut server = Server::default();
        let begin = clock.tick();
        while clock.tick().since(begin) < Duration::from_secs(4 * 900) {
            match try_reserve(&process) {
                Ok(reserved) => {
                    let sent = clock.tick();
                    let latency = Duration::from_millis(random.random_range(0..1500));
                    server.arrivals.push(sent + latency);
                    if random.random_bool(0.8) {
                        clock.advance(latency);
                        now(reserved.counted());
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
                process = budget(&store, &clock);
            }
        }
        server.assert_never_exceeded(&metadata());
        // A clock set back makes old entries look young; only where it is left alone is all of the budget used.
        if !steps {
            prop_assert!(server.arrivals.len() >= 9 * 4 - 1, "{}", server.arrivals.len());
        }
    }

    /// Many processes at once, as with several commands beside the daemon.
    #[test]
    fn processes_side_by_side_share_one_allowance(seed in any::<u64>()) {
        let mut random = StdRng::seed_from_u64(seed);
        let (store, clock) = (Arc::new(MemoryStore::new()), Clock::manual(START));
        let processes: Vec<Budget> = (0..5).map(|_| budget(&store, &clock)).collect();
        let mut server = Server::default();
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
