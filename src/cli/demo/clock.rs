//! The demo's clock for commands that run beside it: a file in its folder says how fast it runs and since when.
//!
//! Without it, a command would take the demo's daemon for one that was last heard of hours ago.

use std::path::Path;
use std::time::Duration;

use super::stage::Schedule;
use crate::clock::{Clock, Tick, Time};

/// The file's name, within the folder.
const FILE: &str = "demo-clock";

/// Writes the file; `began` is where the system's clock stood as the demo's began.
///
/// # Errors
/// Where it cannot be written.
pub(super) fn publish(folder: &Path, schedule: &Schedule, began: Tick) -> std::io::Result<()> {
    let (start, end) = (schedule.start.0, schedule.given_up_at().0);
    std::fs::write(folder.join(FILE), format!("{} {start} {} {end}\n", schedule.speed, began.0.as_nanos()))
}

/// Takes the file away: the demo is over.
pub(super) fn withdraw(folder: &Path) {
    // One that stays is out of date within a minute or two.
    let _ = std::fs::remove_file(folder.join(FILE));
}

/// The clock of the demo that plays with these settings, if one does.
pub(super) fn beside(config: &Path, system: &Clock) -> Option<Clock> {
    let text = std::fs::read_to_string(config.with_file_name(FILE)).ok()?;
    let numbers: Vec<i64> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [speed, start, began, end] = numbers[..] else { return None };
    let speed = u32::try_from(speed).ok().filter(|speed| *speed > 0)?;
    let began = Tick(Duration::from_nanos(u64::try_from(began).ok()?));
    let clock = Clock::accelerated_since(f64::from(speed), Time(start), began);
    (began <= system.tick() && clock.now() <= Time(end)).then_some(clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_finds_the_clock_while_the_demo_plays_and_no_longer() {
        let (folder, system) = (tempfile::tempdir().unwrap(), Clock::system());
        let config = folder.path().join("config.toml");
        assert!(beside(&config, &system).is_none());
        let schedule = Schedule::new(Duration::from_secs(60), 60).ending_by(system.now());
        publish(folder.path(), &schedule, system.tick()).unwrap();
        let clock = beside(&config, &system).unwrap();
        assert!(clock.now() >= schedule.start && clock.now() < schedule.start + Duration::from_secs(3600));
        assert_eq!(clock.real(Duration::from_secs(60)), Duration::from_secs(1));
        let ago = Tick(system.tick().0.saturating_sub(Duration::from_secs(86_400)));
        publish(folder.path(), &schedule, ago).unwrap();
        assert!(beside(&config, &system).is_none(), "it was killed long ago");
        publish(folder.path(), &schedule, system.tick() + Duration::from_secs(60)).unwrap();
        assert!(beside(&config, &system).is_none(), "the machine was started anew since");
        std::fs::write(folder.path().join(FILE), "60 x").unwrap();
        assert!(beside(&config, &system).is_none());
        withdraw(folder.path());
        assert!(!folder.path().join(FILE).exists());
    }
}
