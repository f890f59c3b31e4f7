//! Logging: set up once, to standard error, with a filter that can be changed while the program runs.
//!
//! Touches the process's global subscriber and nothing else. Other crates never speak below `debug`, whatever the filter
//! says: at `trace` some show what went over the wire.

use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;

use anyhow::Context as _;
use tracing::Level;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};

/// Where this program's own log lines come from.
const OWN: &str = "ringcx_extractor";

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
        let filter = filter.parse::<Targets>().context("failed to read log.filter")?;
        self.0.reload(filter).context("failed to change the log filter")
    }
}

/// Sets logging up.
///
/// # Errors
/// Where the filter does not parse, or logging is set up already.
pub fn init(log: &Log) -> anyhow::Result<Handle> {
    let filter = log
        .filter
        .parse::<Targets>()
        .context("failed to read log.filter\nhint: such as \"info\" or \"info,ringcx_extractor=debug\"")?;
    let (filter, handle) = reload::Layer::new(filter);
    let guard = filter_fn(|metadata| match metadata.target() {
        own if own.starts_with(OWN) => true,
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

/// Whether standard error goes to systemd's journal, which stamps each line itself. `JOURNAL_STREAM` names the device and
/// inode of that stream; it is inherited by programs whose standard error goes elsewhere.
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let here = std::fs::metadata("/proc/self/fd/2").map(|stream| format!("{}:{}", stream.dev(), stream.ino()));
    here.is_ok_and(|here| here == named)
}
