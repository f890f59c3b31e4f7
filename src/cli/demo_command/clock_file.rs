//! A file that gives the demo's clock to commands that run at the same time: its speed and its
//! start.
//!
//! Without it, a command would see the last heartbeat of the demo's daemon as hours old.

use std::path::Path;
use std::time::Duration;

use super::demo_scenario::DemoTimeline;
use crate::clock::{Clock, Tick, Time};

/// The name of the file in the demo's folder.
const FILE_NAME: &str = "demo-clock";

/// Writes the file; `began` is the time of the system clock when the demo's clock started.
pub(super) fn write_clock_file(folder: &Path, timeline: &DemoTimeline, began: Tick) -> std::io::Result<()> {
    let (start, end) = (timeline.start.0, timeline.deadline().0);
    std::fs::write(folder.join(FILE_NAME), format!("{} {start} {} {end}\n", timeline.speed, began.0.as_nanos()))
}

/// Removes the file at the end of the demo.
pub(super) fn remove_clock_file(folder: &Path) {
    // A remaining file expires within a minute or two.
    let _ = std::fs::remove_file(folder.join(FILE_NAME));
}

/// Reads the clock of the demo that runs with these settings, if there is one.
pub(super) fn read_clock_file(config: &Path, system: &Clock) -> Option<Clock> {
    let text = std::fs::read_to_string(config.with_file_name(FILE_NAME)).ok()?;
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
        assert!(read_clock_file(&config, &system).is_none());
        let timeline = DemoTimeline::new(Duration::from_secs(60), 60).ending_by(system.now());
        write_clock_file(folder.path(), &timeline, system.tick()).unwrap();
        let clock = read_clock_file(&config, &system).unwrap();
        assert!(clock.now() >= timeline.start && clock.now() < timeline.start + Duration::from_secs(3600));
        assert_eq!(clock.real(Duration::from_secs(60)), Duration::from_secs(1));
        let ago = Tick(system.tick().0.saturating_sub(Duration::from_secs(86_400)));
        write_clock_file(folder.path(), &timeline, ago).unwrap();
        assert!(read_clock_file(&config, &system).is_none(), "it was killed long ago");
        write_clock_file(folder.path(), &timeline, system.tick() + Duration::from_secs(60)).unwrap();
        assert!(read_clock_file(&config, &system).is_none(), "the machine was started anew since");
        std::fs::write(folder.path().join(FILE_NAME), "60 x").unwrap();
        assert!(read_clock_file(&config, &system).is_none());
        remove_clock_file(folder.path());
        assert!(!folder.path().join(FILE_NAME).exists());
    }
}
