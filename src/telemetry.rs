//! Logging: set up once, to standard error, with a filter that can be changed while the program runs.
//!
//! Touches the process's global subscriber and nothing else. Other crates never speak below `debug`, whatever the filter
//! says: at `trace` some show what went over the wire.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use anyhow::Context as _;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Where this program's own log lines come from: its own crate, whose name stands for the others in a filter.
const PROGRAM: &str = "ringcx_extractor";
const CRATES: [&str; 5] =
    ["ringcx_archive", "ringcx_client", "ringcx_conversation", "ringcx_model", "ringcx_simulator"];

/// Where each try of an object store is told of; the sink says what came of them all.
const TRIES: &str = "object_store::client::retry";

/// Changes the filter of a program that is running.
#[derive(Clone)]
pub struct Handle(reload::Handle<Targets, Registry>);

impl Handle {
    /// Uses this filter from now on.
    ///
    /// # Errors
    /// Where it does not parse; the old one then stays.
    pub fn set_filter(&self, filter: &str) -> anyhow::Result<()> {
        let filter = targets(filter).context("failed to read log.filter")?;
        self.0.reload(filter).context("failed to change the log filter")
    }
}

/// Sets logging up.
///
/// # Errors
/// Where the filter does not parse, or logging is set up already.
pub fn init(log: &Log) -> anyhow::Result<Handle> {
    let filter = targets(&log.filter)
        .context("failed to read log.filter\nhint: such as \"info\" or \"info,ringcx_extractor=debug\"")?;
    let (filter, handle) = reload::Layer::new(filter);
    let guard = filter_fn(|metadata| match metadata.target() {
        own if is_own(own) => true,
        TRIES => *metadata.level() <= Level::WARN,
        _ => *metadata.level() <= Level::DEBUG,
    });
    let journal = is_journal();
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(colour);
    let lines = match (log.format, journal) {
        (LogFormat::Json, true) => lines.json().flatten_event(true).without_time().boxed(),
        (LogFormat::Json, false) => lines.json().flatten_event(true).boxed(),
        (LogFormat::Text, true) => lines.with_target(false).without_time().boxed(),
        (LogFormat::Text, false) => lines.with_target(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(guard))
        .try_init()
        .context("failed to set up logging")?;
    Ok(Handle(handle))
}

/// A filter in which a level for the program holds for each of its crates that has none of its own.
fn targets(filter: &str) -> Result<Targets, ParseError> {
    let targets: Targets = filter.parse()?;
    let named: HashMap<String, LevelFilter> = targets.iter().map(|(name, level)| (name.to_owned(), level)).collect();
    let Some(level) = named.get(PROGRAM) else { return Ok(targets) };
    let others = CRATES.into_iter().filter(|name| !named.contains_key(*name));
    Ok(targets.with_targets(others.map(|name| (name, *level))))
}

fn is_own(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    name == PROGRAM || CRATES.contains(&name)
}

/// Whether standard error goes to systemd's journal, which stamps each line itself. `JOURNAL_STREAM` names the device and
/// inode of that stream; it is inherited by programs whose standard error goes elsewhere.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let here = std::fs::metadata("/proc/self/fd/2").map(|stream| format!("{}:{}", stream.dev(), stream.ino()));
    here.is_ok_and(|here| here == named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_for_the_program_holds_for_all_of_its_crates() {
        let filter = targets("info,ringcx_extractor=debug,ringcx_archive=warn").unwrap();
        for own in ["ringcx_extractor", "ringcx_client", "ringcx_simulator"] {
            assert!(filter.would_enable(own, &Level::DEBUG) && is_own(&format!("{own}::part")), "{own}");
        }
        assert!(!filter.would_enable("ringcx_archive", &Level::INFO), "one that is named keeps its own");
        assert!(!filter.would_enable("sqlx::query", &Level::DEBUG) && !is_own("sqlx::query"));
    }
}
