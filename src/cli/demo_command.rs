//! `demo`: demonstrates the program without any setup.
//!
//! Starts a simulated RingCX on loopback, with the faults of a real one, and the daemon as `run`
//! does, on an accelerated clock. Shows the progress, waits until all work is finished, and
//! compares the archive with the records of the simulator. Writes only to a new folder, which it
//! keeps.

mod clock_file;
mod demo_result;
mod demo_scenario;
mod progress_view;

use std::fs::File;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{human_format, terminal};
use crate::clock::{Clock, Tick};
use crate::config;
use crate::daemon;
use crate::db::{Db, OpenMode};
use crate::error::UserError;
use crate::sim::Sim;
use demo_result::DemoResult;
use demo_scenario::{ARTIFACT_SELECTION, DemoTimeline, SINK_NAME};
use progress_view::ProgressView;

/// The interval at which the progress is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The time limit for the shutdown of the daemon, above the sum of the daemon's own limits.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(20);

/// The name of the daemon's log file in the folder.
const LOG_FILE: &str = "daemon.log";

#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Total duration; extended if the work needs longer to finish
    #[arg(long = "for", value_name = "SPAN", default_value = "60s", value_parser = parse_length)]
    length: Duration,
    /// Speed of the clock, as a multiple of real time
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=240))]
    speed: u32,
    /// Show the daemon's log instead of the progress
    #[arg(long, short)]
    verbose: bool,
}

fn parse_length(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| format!("{error}; give a span such as 60s or 2m"))?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(86_400);
    if allowed.contains(&span) { Ok(span) } else { Err("give a span from 1s to 24h".to_owned()) }
}

/// The running demo.
struct RunningDemo {
    sim: Sim,
    db: Db,
    clock: Clock,
    timeline: DemoTimeline,
    folder: PathBuf,
    config: PathBuf,
    /// The address of the dashboard.
    listen: String,
    began: Tick,
}

/// Why the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DemoEnd {
    /// Everything that was announced has arrived.
    Complete,
    /// The time limit passed before that.
    TimedOut,
    /// The user interrupted it.
    Interrupted,
}

/// The clock of the demo that runs with this settings file, if there is one. Other commands use the
/// same clock.
pub(crate) fn running_clock(config: Option<&Path>) -> Option<Clock> {
    clock_file::read_clock_file(config?, &Clock::system())
}

/// Runs the demo; returns exit status 0 only if everything that was announced has arrived.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<u8> {
    let timeline = DemoTimeline::new(args.length, args.speed);
    let demo = start_simulator(timeline, &Clock::system()).await?;
    init_log(&demo.folder, args.verbose)?;
    terminal::print_stdout(&describe_start(&demo, args.length))?;
    let loaded = config::load(Some(&demo.config), []).context("failed to load the settings of the demo")?;
    let stop = CancellationToken::new();
    let mut daemon = std::pin::pin!(daemon::run(loaded.settings, demo.clock.clone(), stop.clone()));
    let mut view = ProgressView::new(args.verbose);
    let end = tokio::select! {
        ended = &mut daemon => {
            view.close();
            ended.context("the daemon stopped during the demo")?;
            anyhow::bail!("the daemon exited unexpectedly during the demo");
        }
        end = wait_for_end(&demo, &mut view) => end?,
        _ = tokio::signal::ctrl_c() => DemoEnd::Interrupted,
    };
    view.close();
    stop.cancel();
    match tokio::time::timeout(SHUTDOWN_GRACE, daemon).await {
        Ok(ended) => ended.context("failed to stop the daemon")?,
        Err(_) => anyhow::bail!("failed to stop the daemon within {} seconds", SHUTDOWN_GRACE.as_secs()),
    }
    clock_file::remove_clock_file(&demo.folder);
    let result = demo_result::compare_archive(&demo.sim, &demo.db, demo.timeline.end(), ARTIFACT_SELECTION).await?;
    let complete = result.is_complete();
    terminal::print_stdout(&describe_end(&demo, &result, end).await?)?;
    demo.db.close().await;
    demo.sim.stop().await;
    Ok(u8::from(!complete))
}

/// Creates the folder, and starts the clock and the simulator.
async fn start_simulator(timeline: DemoTimeline, system: &Clock) -> anyhow::Result<RunningDemo> {
    let folder = tempfile::Builder::new()
        .prefix("ringcx-demo-")
        .tempdir()
        .map_err(|error| {
            UserError::failed("failed to create a folder for the archive")
                .with_hint("set TMPDIR to a writable folder; the default is /tmp")
                .with_source(error)
        })?
        .keep();
    // The demo plays in the past and ends at the present at the latest.
    let timeline = timeline.ending_by(system.now());
    let tick = system.tick();
    let clock = Clock::accelerated_since(f64::from(timeline.speed), timeline.start, tick);
    clock_file::write_clock_file(&folder, &timeline, tick)
        .with_context(|| format!("failed to write to {}", folder.display()))?;
    let sim = Sim::start(demo_scenario::simulator_options(&timeline), clock.clone())
        .await
        .context("failed to start the simulated RingCX")?;
    let database = folder.join("archive.db");
    let config = folder.join("config.toml");
    let listen = free_address().context("failed to find a free port for the dashboard")?;
    std::fs::write(&config, demo_scenario::settings_file(&sim.base_url(), &database, &listen))
        .with_context(|| format!("failed to write {}", config.display()))?;
    let db = Db::open_sqlite(&database, OpenMode::CreateOrMigrate).await?;
    let began = clock.tick();
    Ok(RunningDemo { sim, db, clock, timeline, folder, config, listen, began })
}

/// The default address of the dashboard if it is free, else another free one.
fn free_address() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:8480").or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
    Ok(listener.local_addr()?.to_string())
}

/// Sends the log to a file, or to standard error instead of the progress view.
fn init_log(folder: &Path, verbose: bool) -> anyhow::Result<()> {
    let colour = verbose && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_target(false).with_ansi(colour);
    // A failure means that logging is initialized already.
    if verbose {
        let _ = lines.with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).try_init();
    } else {
        let path = folder.join(LOG_FILE);
        let file = File::create(&path).with_context(|| format!("failed to write {}", path.display()))?;
        let _ = lines.with_max_level(tracing::Level::WARN).with_writer(Mutex::new(file)).try_init();
    }
    Ok(())
}

/// Shows the progress until everything has arrived or the time limit passes.
async fn wait_for_end(demo: &RunningDemo, view: &mut ProgressView) -> anyhow::Result<DemoEnd> {
    loop {
        let progress = progress_view::read_progress(&demo.sim, &demo.db, &demo.clock).await?;
        view.show(demo, &progress);
        let now = demo.clock.now();
        if now >= demo.timeline.final_from() && progress.pending == 0 {
            // The simulator creates nothing new any more, so its records are final.
            let result =
                demo_result::compare_archive(&demo.sim, &demo.db, demo.timeline.end(), ARTIFACT_SELECTION).await?;
            if result.is_complete() && demo.elapsed() >= demo.timeline.min_duration() {
                return Ok(DemoEnd::Complete);
            }
        }
        if now >= demo.timeline.deadline() {
            return Ok(DemoEnd::TimedOut);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

impl RunningDemo {
    /// How long the demo has been running, in real time.
    fn elapsed(&self) -> Duration {
        self.clock.real(self.clock.tick().since(self.began))
    }
}

fn describe_start(demo: &RunningDemo, requested: Duration) -> String {
    let timeline = &demo.timeline;
    let traffic = human_format::format_duration(timeline.traffic);
    let planned = timeline.planned_duration();
    let mut text = format!(
        "A simulated RingCX with two accounts, at {} times real time: {traffic} of traffic, with late records, lost connections,\n\
         errors and empty summaries. The daemon keeps the real request limits. This takes about {}.\n\
         Folder of all files: {}\n\
         Dashboard during the demo: http://{}/\n",
        timeline.speed,
        human_format::format_duration(planned),
        demo.folder.display(),
        demo.listen,
    );
    if planned > requested + Duration::from_secs(5) {
        text.push_str(
            "(This is longer than requested, because late records need time to arrive; a higher --speed shortens it.)\n",
        );
    }
    text.push('\n');
    text
}

/// Describes the result and the next commands.
async fn describe_end(demo: &RunningDemo, result: &DemoResult, end: DemoEnd) -> anyhow::Result<String> {
    let mut text = String::new();
    match end {
        DemoEnd::Complete => {}
        DemoEnd::TimedOut => text.push_str("The time limit passed before all work was finished.\n"),
        DemoEnd::Interrupted => text.push_str("The demo was stopped before its end.\n"),
    }
    text.push_str(&result.summarize(&demo.sim.stats(), end != DemoEnd::Interrupted));
    let (segment, query) = (demo_result::example_segment(&demo.db).await?, demo_result::example_query(&demo.db).await?);
    text.push_str(&suggest_commands(&demo.config, segment.as_deref(), query));
    text.push_str(&list_delivered_files(&demo.folder.join(SINK_NAME)));
    let log = demo.folder.join(LOG_FILE);
    if !result.is_complete() && log.exists() {
        text.push_str(&format!("\nThe daemon's warnings are in {}\n", log.display()));
    }
    Ok(text)
}

/// Suggests commands to inspect the archive.
fn suggest_commands(config: &Path, segment: Option<&str>, query: Option<&str>) -> String {
    let program = std::env::args_os().next().map_or_else(|| "ringcx-extractor".into(), PathBuf::from);
    let command = format!(
        "{} --config {}",
        quote_for_shell(&program.to_string_lossy()),
        quote_for_shell(&config.to_string_lossy())
    );
    let mut text = format!("\nThe archive is kept. To inspect it:\n  {command} status\n");
    if let Some(segment) = segment {
        text.push_str(&format!("  {command} show {}\n", quote_for_shell(segment)));
    }
    if let Some(query) = query {
        text.push_str(&format!("  {command} search {}\n", quote_for_shell(query)));
    }
    text.push_str(&format!("  {command} export -o demo.jsonl\n  {command} audit\n  {command} verify\n"));
    text
}

/// Lists the files that the sink has written, if there are any.
fn list_delivered_files(folder: &Path) -> String {
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = names.collect();
    files.sort();
    if files.is_empty() {
        return String::new();
    }
    let mut text = "Each text was also delivered to a sink of type jsonl:\n".to_owned();
    for file in files {
        text.push_str(&format!("  {}\n", file.display()));
    }
    text
}

/// Quotes a word for a shell.
fn quote_for_shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_type_next_survives_a_shell() {
        assert_eq!(quote_for_shell("target/release/ringcx-extractor"), "target/release/ringcx-extractor");
        assert_eq!(quote_for_shell("it's 50% done"), r"'it'\''s 50% done'");
        assert_eq!(quote_for_shell("$(reboot)"), "'$(reboot)'");
        let text = suggest_commands(Path::new("/tmp/a b/config.toml"), Some("x"), Some("\"charged twice\""));
        assert!(text.contains("--config '/tmp/a b/config.toml' show x\n"), "{text}");
        assert!(text.contains(" search '\"charged twice\"'\n"), "{text}");
    }

    #[test]
    fn what_was_delivered_is_named_where_there_is_any() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(list_delivered_files(&folder.path().join("none")), "");
        std::fs::write(folder.path().join("2026-11-26.jsonl"), "").unwrap();
        assert!(list_delivered_files(folder.path()).ends_with("/2026-11-26.jsonl\n"));
    }

    #[test]
    fn a_length_is_a_span() {
        assert_eq!(parse_length("90s"), Ok(Duration::from_secs(90)));
        assert!(parse_length("0s").is_err() && parse_length("soon").is_err() && parse_length("9y").is_err());
    }
}
