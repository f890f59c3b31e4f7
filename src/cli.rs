//! The command line: what may be typed, and what every command needs.
//!
//! One file a command; each reads the settings and the database through [`Context`], which opens nothing before it is
//! asked to. Results go to standard output, everything else to standard error.

pub mod audit;
pub mod backfill;
pub mod check;
pub mod completions;
pub mod deliver;
pub mod demo;
pub mod erase;
pub mod export;
pub mod failure;
pub mod health;
pub mod hold;
pub mod migrate;
pub mod queue;
pub mod resume;
pub mod run;
pub mod search;
pub mod show;
pub mod status;
pub mod terminal;
pub mod verify;
pub mod words;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::{Parser, Subcommand};

use crate::clock::{Clock, Time};
use crate::config::{self, Accounts, ConfigErrors, DatabaseUrl, Loaded, Settings};
use crate::db::{Access, AccountRow, Db};

/// Connections to Postgres for a command that looks.
const CONNECTIONS: u32 = 4;

const AFTER_HELP: &str = "\
Times are RFC 3339 (2026-11-20T10:00:00Z), a date (midnight UTC), or a span back from now (36h, 7d).
Exit status: 0 done, 1 failed, 2 usage or configuration.";

/// Gets every transcript and every summary out of RingCX.
#[derive(Debug, Parser)]
#[command(name = "ringcx-extractor", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Settings to use [default: $RINGCX_CONFIG, ./config/local.toml or /etc/ringcx-extractor/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What there is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run(run::Args),
    /// See the whole thing at work against a simulated RingCX, with nothing to set up
    Demo(demo::Args),
    /// Check settings, database, login and each account, and say what to do where something is wrong
    Check(check::Args),
    /// Show accounts, how far they are read, what work is left and the budget
    Status(status::Args),
    /// Have past time windows read
    Backfill(backfill::Args),
    /// Look at work items, above all those that gave up, and settle them
    Queue(queue::Args),
    /// Lift the waits and pauses that refusals caused, and try again now
    Resume(resume::Args),
    /// Find conversations by what was said or written
    Search(search::Args),
    /// Show one segment to read: the conversation, its summaries and its history
    Show(show::Args),
    /// Write out the archive, in order of end time
    Export(export::Args),
    /// Show what was read and when, every gap, and what became of each segment
    Audit(audit::Args),
    /// Look at delivery to other systems, and send again
    Deliver(deliver::Args),
    /// Erase conversations for good, as the law may ask for
    Erase(erase::Args),
    /// Keep conversations from retention and erasure, or stop doing so
    Hold(hold::Args),
    /// Read the archive again and find whatever was altered
    Verify(verify::Args),
    /// Ask a running daemon whether it is alive; for containers
    Health(health::Args),
    /// Bring the database up to date (`run` does it too)
    Migrate(migrate::Args),
    /// Print shell completions
    Completions(completions::Args),
}

/// Runs a command; returns the exit status.
///
/// # Errors
/// Whatever kept it from being done; [`failure`] says it to people and knows the exit status.
pub async fn execute(cli: Cli) -> anyhow::Result<u8> {
    let named = cli.config.clone().or_else(|| std::env::var_os("RINGCX_CONFIG").map(PathBuf::from));
    let clock = demo::running_clock(named.as_deref()).unwrap_or_else(Clock::system);
    let context = Context::new(cli.config, clock);
    match cli.command {
        Command::Run(args) => run::run(args, &context).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Check(args) => check::run(args, &context).await,
        Command::Status(args) => status::run(args, &context).await,
        Command::Backfill(args) => backfill::run(args, &context).await,
        Command::Queue(args) => queue::run(args, &context).await,
        Command::Resume(args) => resume::run(args, &context).await,
        Command::Search(args) => search::run(args, &context).await,
        Command::Show(args) => show::run(args, &context).await,
        Command::Export(args) => export::run(args, &context).await,
        Command::Audit(args) => audit::run(args, &context).await,
        Command::Deliver(args) => deliver::run(args, &context).await,
        Command::Erase(args) => erase::run(args, &context).await,
        Command::Hold(args) => hold::run(args, &context).await,
        Command::Verify(args) => verify::run(args, &context).await,
        Command::Health(args) => health::run(args, &context).await,
        Command::Migrate(args) => migrate::run(args, &context).await,
        Command::Completions(args) => completions::run(args, &context).await,
    }
}

/// Something on the command line that cannot be meant; exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// What every command may need: the settings, the database, the time. Nothing is read before it is asked for.
pub struct Context {
    config: Option<PathBuf>,
    loaded: OnceLock<Loaded>,
    /// The time.
    pub clock: Clock,
}

impl Context {
    /// With the file that `--config` named, if it did.
    pub fn new(config: Option<PathBuf>, clock: Clock) -> Context {
        Context { config, loaded: OnceLock::new(), clock }
    }

    /// The settings, where they came from, and what is odd about them.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn loaded(&self) -> Result<&Loaded, ConfigErrors> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = self.load_again()?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    /// The settings.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn settings(&self) -> Result<&Settings, ConfigErrors> {
        self.loaded().map(|loaded| &loaded.settings)
    }

    /// The settings as they are now, whatever was read before.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn load_again(&self) -> Result<Loaded, ConfigErrors> {
        config::load(self.config.as_deref(), config::environment())
    }

    /// Opens the database that the settings name; no lock is taken, so a daemon may be using it.
    ///
    /// # Errors
    /// Where the settings are wrong or the database cannot be opened.
    pub async fn open(&self, access: Access) -> anyhow::Result<Db> {
        Ok(match &self.settings()?.database.url {
            DatabaseUrl::Sqlite(path) => Db::open_sqlite(path, access).await?,
            DatabaseUrl::Postgres(url) => Db::open_postgres(url, access, CONNECTIONS).await?,
        })
    }

    /// Reads a moment from the command line.
    ///
    /// # Errors
    /// Where it is none, naming the option.
    pub fn when(&self, option: &str, text: &str) -> Result<Time, UsageError> {
        config::parse_when(text, self.clock.now()).map_err(|why| UsageError(format!("failed to read {option}: {why}")))
    }

    /// Reads `--from` and `--to`, each of which may be missing.
    ///
    /// # Errors
    /// Where one is no moment, or nothing lies between them.
    pub fn range(&self, from: Option<&str>, to: Option<&str>) -> Result<(Option<Time>, Option<Time>), UsageError> {
        let from = from.map(|text| self.when("--from", text)).transpose()?;
        let to = to.map(|text| self.when("--to", text)).transpose()?;
        match (from, to) {
            (Some(from), Some(to)) if from >= to => Err(UsageError(format!(
                "there is nothing between --from and --to: {} is not before {}\nhint: --from is included, --to is not",
                from.rfc3339(),
                to.rfc3339()
            ))),
            range => Ok(range),
        }
    }

    /// The account with this sub-account id or name, among those that the database knows.
    ///
    /// # Errors
    /// Where there is none, or several have that name.
    pub async fn account(&self, db: &Db, wanted: &str) -> anyhow::Result<AccountRow> {
        Ok(pick(db.accounts().await?, self.settings()?, wanted)?)
    }
}

/// Ids come before names: an account may be named like another's id.
fn pick(rows: Vec<AccountRow>, settings: &Settings, wanted: &str) -> Result<AccountRow, UsageError> {
    let configured = |row: &AccountRow| match &settings.accounts {
        Accounts::Listed(listed) => {
            listed.iter().find(|account| account.id.sub == row.id.sub).and_then(|account| account.name.clone())
        }
        Accounts::Discovered(_) => None,
    };
    let (by_id, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| &*row.id.sub == wanted);
    if let Some(row) = by_id.into_iter().next() {
        return Ok(row);
    }
    let known: Vec<String> = others.iter().map(|row| row.id.sub.to_string()).collect();
    let named = |row: &AccountRow| {
        configured(row).or_else(|| row.name.clone()).is_some_and(|name| name.eq_ignore_ascii_case(wanted.trim()))
    };
    let mut named: Vec<AccountRow> = others.into_iter().filter(named).collect();
    match (named.pop(), named.is_empty()) {
        (Some(row), true) => Ok(row),
        (Some(_), false) => {
            Err(UsageError(format!("several accounts are named {wanted:?}\nhint: give the sub-account id")))
        }
        (None, _) => Err(UsageError(format!(
            "no account has the id or name {wanted:?}\nhint: the database knows {}",
            if known.is_empty() { "none yet: `ringcx-extractor run` enters them".to_owned() } else { known.join(", ") }
        ))),
    }
}
