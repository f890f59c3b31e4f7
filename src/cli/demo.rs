//! `demo`: the whole thing with nothing to set up.
//!
//! Starts a simulated RingCX on loopback that misbehaves as the real one may, and the daemon as `run` would, on a clock
//! that runs faster; shows what happens; lets it come to rest; then compares the archive with what the simulator knows
//! that it announced. Writes to a folder of its own, which it keeps, and to nothing else.

mod clock;
mod proof;
mod stage;
mod view;

use std::fs::File;
use std::io::IsTerminal;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::{terminal, words};
use crate::clock::{Clock, Tick};
use crate::config;
use crate::daemon;
use crate::db::{Access, Db};
use crate::sim::Sim;
use proof::Proof;
use stage::{SINK, Schedule, WANTS};
use view::View;

/// Between two looks at what happens.
const GLANCE: Duration = Duration::from_millis(250);
/// How long the daemon may take to end.
const LAST_ORDERS: Duration = Duration::from_secs(15);

/// Where the daemon's warnings go, within the folder.
const LOG: &str = "daemon.log";

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long it takes, the end included, where that is enough to come to rest
    #[arg(long = "for", value_name = "SPAN", default_value = "60s", value_parser = span)]
    length: Duration,
    /// How many times as fast as the clock on the wall
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=240))]
    speed: u32,
    /// Show the daemon's log instead of the view
    #[arg(long, short)]
    verbose: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| format!("{error}; give a span such as 60s or 2m"))?;
    let sane = Duration::from_secs(1)..=Duration::from_secs(86_400);
    if sane.contains(&span) { Ok(span) } else { Err("give a span from 1s to 24h".to_owned()) }
}

/// What is running.
struct Stage {
    sim: Sim,
    db: Db,
    clock: Clock,
    schedule: Schedule,
    folder: PathBuf,
    config: PathBuf,
    /// The dashboard's address.
    listen: String,
    began: Tick,
}

/// How the running came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything that was announced has arrived.
    AtRest,
    /// It had not by the end of the time that it was given.
    TimeUp,
    /// A person had seen enough.
    Interrupted,
}

/// The clock of the demo that plays with the settings of this file, if one does: commands beside it go by that.
pub fn running_clock(config: Option<&Path>) -> Option<Clock> {
    clock::beside(config?, &Clock::system())
}

/// Plays it; exit status 0 only if everything that was announced has arrived.
///
/// # Errors
/// Where the folder cannot be written, the simulator cannot listen, or the daemon ends of itself.
pub async fn run(args: Args) -> anyhow::Result<u8> {
    let schedule = Schedule::new(args.length, args.speed);
    let stage = set(schedule, &Clock::system()).await?;
    log(&stage.folder, args.verbose)?;
    terminal::print(&opening(&stage, args.length))?;
    let loaded = config::load(Some(&stage.config), []).context("failed to read the settings that were just written")?;
    let stop = CancellationToken::new();
    let mut daemon = std::pin::pin!(daemon::run(loaded.settings, stage.clock.clone(), stop.clone()));
    let mut view = View::new(args.verbose);
    let end = tokio::select! {
        ended = &mut daemon => {
            view.close();
            ended.context("failed to play on: the daemon ended")?;
            anyhow::bail!("failed to play on: the daemon ended of itself");
        }
        end = play(&stage, &mut view) => end?,
        _ = tokio::signal::ctrl_c() => End::Interrupted,
    };
    view.close();
    stop.cancel();
    match tokio::time::timeout(LAST_ORDERS, daemon).await {
        Ok(ended) => ended.context("failed to end the daemon")?,
        Err(_) => anyhow::bail!("failed to end the daemon in {} seconds", LAST_ORDERS.as_secs()),
    }
    clock::withdraw(&stage.folder);
    let proof = proof::gather(&stage.sim, &stage.db, stage.schedule.end(), WANTS).await?;
    let complete = proof.holds();
    terminal::print(&closing(&stage, &proof, end).await?)?;
    stage.db.close().await;
    stage.sim.stop().await;
    Ok(u8::from(!complete))
}

/// Sets everything up in a folder of its own.
async fn set(schedule: Schedule, system: &Clock) -> anyhow::Result<Stage> {
    let folder = tempfile::Builder::new()
        .prefix("ringcx-demo-")
        .tempdir()
        .context(
            "failed to make a folder for the archive\nhint: TMPDIR names one that can be written to; /tmp unless given",
        )?
        .keep();
    // The last moment of all that may be played is the present: what was archived lies in the past.
    let schedule = schedule.ending_by(system.now());
    let tick = system.tick();
    let clock = Clock::accelerated_since(f64::from(schedule.speed), schedule.start, tick);
    clock::publish(&folder, &schedule, tick).with_context(|| format!("failed to write to {}", folder.display()))?;
    let sim =
        Sim::start(stage::options(&schedule), clock.clone()).await.context("failed to start the simulated RingCX")?;
    let database = folder.join("archive.db");
    let config = folder.join("config.toml");
    let listen = free_address().context("failed to find a free port for the dashboard")?;
    std::fs::write(&config, stage::settings(&sim.base_url(), &database, &listen))
        .with_context(|| format!("failed to write {}", config.display()))?;
    let db = Db::open_sqlite(&database, Access::Own).await?;
    let began = clock.tick();
    Ok(Stage { sim, db, clock, schedule, folder, config, listen, began })
}

/// The dashboard's usual address where it is free, else one that is.
fn free_address() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:8480").or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
    Ok(listener.local_addr()?.to_string())
}

/// What the daemon says goes to a file, out of the view's way, or takes the view's place.
fn log(folder: &Path, verbose: bool) -> anyhow::Result<()> {
    let colour = verbose && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_target(false).with_ansi(colour);
    // That logging is set up already is no reason not to go on.
    if verbose {
        let _ = lines.with_max_level(tracing::Level::INFO).with_writer(std::io::stderr).try_init();
    } else {
        let path = folder.join(LOG);
        let file = File::create(&path).with_context(|| format!("failed to write {}", path.display()))?;
        let _ = lines.with_max_level(tracing::Level::WARN).with_writer(Mutex::new(file)).try_init();
    }
    Ok(())
}

/// Shows what happens until everything has arrived, or the time is up.
async fn play(stage: &Stage, view: &mut View) -> anyhow::Result<End> {
    loop {
        let facts = view::look(&stage.sim, &stage.db, &stage.clock).await?;
        view.show(stage, &facts);
        let now = stage.clock.now();
        if now >= stage.schedule.settled_from() && facts.to_do == 0 {
            // Nothing new comes about any more, so what the simulator knows is final.
            let proof = proof::gather(&stage.sim, &stage.db, stage.schedule.end(), WANTS).await?;
            if proof.holds() && stage.elapsed() >= stage.schedule.least() {
                return Ok(End::AtRest);
            }
        }
        if now >= stage.schedule.given_up_at() {
            return Ok(End::TimeUp);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

impl Stage {
    /// How long it has been running, by the clock on the wall.
    fn elapsed(&self) -> Duration {
        self.clock.real(self.clock.tick().since(self.began))
    }
}

fn opening(stage: &Stage, asked: Duration) -> String {
    let schedule = &stage.schedule;
    let played = words::span(schedule.traffic);
    let planned = schedule.planned();
    let mut text = format!(
        "A simulated RingCX with two accounts, {} times as fast as the clock: {played} of traffic, with late records, lost\n\
         connections, errors and empty summaries, while the daemon keeps the real limits. About {} in all.\n\
         Everything goes into {}\n\
         The dashboard, while it runs: http://{}/\n",
        schedule.speed,
        words::span(planned),
        stage.folder.display(),
        stage.listen,
    );
    if planned > asked + Duration::from_secs(5) {
        text.push_str(
            "(Longer than asked for: what is late must have its time to arrive; a higher --speed shortens that.)\n",
        );
    }
    text.push('\n');
    text
}

/// What it came to, and what to type next.
async fn closing(stage: &Stage, proof: &Proof, end: End) -> anyhow::Result<String> {
    let mut text = String::new();
    match end {
        End::AtRest => {}
        End::TimeUp => text.push_str("The time is up before everything has come to rest.\n"),
        End::Interrupted => text.push_str("Stopped before the end.\n"),
    }
    text.push_str(&proof.text(&stage.sim.stats(), end != End::Interrupted));
    let (segment, phrase) = (proof::example(&stage.db).await?, proof::phrase(&stage.db).await?);
    text.push_str(&next(&stage.config, segment.as_deref(), phrase));
    text.push_str(&delivered(&stage.folder.join(SINK)));
    let log = stage.folder.join(LOG);
    if !proof.holds() && log.exists() {
        text.push_str(&format!("\nWhat the daemon warned of is in {}\n", log.display()));
    }
    Ok(text)
}

/// Commands to look inside the archive.
fn next(config: &Path, segment: Option<&str>, phrase: Option<&str>) -> String {
    let program = std::env::args_os().next().map_or_else(|| "ringcx-extractor".into(), PathBuf::from);
    let with = format!("{} --config {}", quoted(&program.to_string_lossy()), quoted(&config.to_string_lossy()));
    let mut text = format!("\nThe archive stays. To look inside it:\n  {with} status\n");
    if let Some(segment) = segment {
        text.push_str(&format!("  {with} show {}\n", quoted(segment)));
    }
    if let Some(phrase) = phrase {
        text.push_str(&format!("  {with} search {}\n", quoted(phrase)));
    }
    text.push_str(&format!("  {with} export -o demo.jsonl\n  {with} audit\n  {with} verify\n"));
    text
}

/// The files that the sink was given, where there are any.
fn delivered(folder: &Path) -> String {
    let names = std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = names.collect();
    files.sort();
    if files.is_empty() {
        return String::new();
    }
    let mut text = "Each text was also delivered, as it came, to a sink of the type jsonl:\n".to_owned();
    for file in files {
        text.push_str(&format!("  {}\n", file.display()));
    }
    text
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
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
        assert_eq!(quoted("target/release/ringcx-extractor"), "target/release/ringcx-extractor");
        assert_eq!(quoted("it's 50% done"), r"'it'\''s 50% done'");
        assert_eq!(quoted("$(reboot)"), "'$(reboot)'");
        let text = next(Path::new("/tmp/a b/config.toml"), Some("x"), Some("\"charged twice\""));
        assert!(text.contains("--config '/tmp/a b/config.toml' show x\n"), "{text}");
        assert!(text.contains(" search '\"charged twice\"'\n"), "{text}");
    }

    #[test]
    fn what_was_delivered_is_named_where_there_is_any() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(delivered(&folder.path().join("none")), "");
        std::fs::write(folder.path().join("2026-11-26.jsonl"), "").unwrap();
        assert!(delivered(folder.path()).ends_with("/2026-11-26.jsonl\n"));
    }

    #[test]
    fn a_length_is_a_span() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert!(span("0s").is_err() && span("soon").is_err() && span("9y").is_err());
    }
}
