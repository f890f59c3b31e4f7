//! Sets up logging to standard error, with a filter that can be changed at run time.
//!
//! Third-party crates never log below `debug`, whatever the filter allows: at `trace` some of them
//! print request bodies.

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
use crate::error::UserError;

/// The program's own crate. Its name in a filter also sets the level of the library crates.
const PROGRAM_CRATE: &str = "ringcx_extractor";
const LIBRARY_CRATES: [&str; 5] =
    ["ringcx_archive", "ringcx_client", "ringcx_conversation", "ringcx_model", "ringcx_simulator"];

/// The target of the object store's retry messages. They are hidden, since the sink logs the final
/// outcome.
const OBJECT_STORE_RETRY_TARGET: &str = "object_store::client::retry";

/// Changes the log filter at run time.
#[derive(Clone)]
pub(crate) struct LogFilterHandle(reload::Handle<Targets, Registry>);

impl LogFilterHandle {
    /// Replaces the filter.
    ///
    /// # Errors
    /// If it does not parse. The old filter then stays.
    pub(crate) fn set_filter(&self, filter: &str) -> anyhow::Result<()> {
        let filter = parse_filter(filter).context("failed to read log.filter")?;
        self.0.reload(filter).context("failed to change the log filter")
    }
}

/// Sets up logging.
///
/// # Errors
/// If the filter does not parse, or logging is already set up.
pub(crate) fn init(log: &Log) -> anyhow::Result<LogFilterHandle> {
    let filter = parse_filter(&log.filter).map_err(|error| {
        UserError::failed("failed to read log.filter")
            .with_hint("use for example \"info\" or \"info,ringcx_extractor=debug\"")
            .with_source(error)
    })?;
    let (filter, handle) = reload::Layer::new(filter);
    // Spans of other crates may hold URLs. As text, only spans of level debug are shown: each line
    // names its account already.
    let least_span = if log.format == LogFormat::Json { Level::ERROR } else { Level::DEBUG };
    let max_verbosity = filter_fn(move |metadata| match metadata.target() {
        target if metadata.is_span() => is_own(target) && *metadata.level() >= least_span,
        own if is_own(own) => true,
        OBJECT_STORE_RETRY_TARGET => *metadata.level() <= Level::WARN,
        // It logs whole requests and answers of assistants, and with them what was said.
        target if target.starts_with("rmcp") => *metadata.level() <= Level::WARN,
        _ => *metadata.level() <= Level::DEBUG,
    });
    let journal = is_journal();
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(colour);
    let lines = match (log.format, journal) {
        (LogFormat::Json, true) => lines.json().flatten_event(true).with_current_span(false).without_time().boxed(),
        (LogFormat::Json, false) => lines.json().flatten_event(true).with_current_span(false).boxed(),
        (LogFormat::Text, true) => lines.with_target(false).without_time().boxed(),
        (LogFormat::Text, false) => lines.with_target(false).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(max_verbosity))
        .try_init()
        .context("failed to set up logging")?;
    Ok(LogFilterHandle(handle))
}

/// Parses a filter. The level of the program's crate also applies to each library crate that the
/// filter does not name.
fn parse_filter(filter: &str) -> Result<Targets, ParseError> {
    let targets: Targets = filter.parse()?;
    let levels: HashMap<String, LevelFilter> = targets.iter().map(|(name, level)| (name.to_owned(), level)).collect();
    let Some(level) = levels.get(PROGRAM_CRATE) else { return Ok(targets) };
    let others = LIBRARY_CRATES.into_iter().filter(|name| !levels.contains_key(*name));
    Ok(targets.with_targets(others.map(|name| (name, *level))))
}

fn is_own(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or(target);
    name == PROGRAM_CRATE || LIBRARY_CRATES.contains(&name)
}

/// Whether standard error is connected to systemd's journal, which adds a timestamp to each line.
/// `JOURNAL_STREAM` names the device and inode of that stream. Child processes inherit the variable
/// even if their standard error is redirected.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let here = std::fs::metadata("/proc/self/fd/2").map(|stream| format!("{}:{}", stream.dev(), stream.ino()));
    here.is_ok_and(|here| here == named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_the_program_applies_to_all_of_its_crates() {
        let filter = parse_filter("info,ringcx_extractor=debug,ringcx_archive=warn").unwrap();
        for own in ["ringcx_extractor", "ringcx_client", "ringcx_simulator"] {
            assert!(filter.would_enable(own, &Level::DEBUG) && is_own(&format!("{own}::part")), "{own}");
        }
        assert!(!filter.would_enable("ringcx_archive", &Level::INFO), "a crate that is named keeps its own level");
        assert!(!filter.would_enable("sqlx::query", &Level::DEBUG) && !is_own("sqlx::query"));
    }
}
