//! The command line.
//!
//! Each command has its own file. It reads the settings and the database through
//! `CommandContext`, which opens them on demand. Results go to standard output, everything else
//! to standard error.

mod access_command;
mod audit_command;
mod backfill_command;
mod backup_command;
mod check_command;
mod completions_command;
mod deliver_command;
mod demo_command;
mod erase_command;
pub mod error_report;
mod export_command;
mod filter_args;
mod health_command;
mod hold_command;
mod human_format;
mod man_pages_command;
mod mcp_command;
mod migrate_command;
mod queue_command;
mod recording_command;
mod report_command;
mod restore_command;
mod resume_command;
mod run_command;
mod search_command;
mod show_command;
mod status_command;
mod terminal;
mod verify_command;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::OnceLock;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};

use crate::access::{AccessAction, AccessLog, AccessSubject, Caller};
use crate::build_info;
use crate::clock::{Clock, Time};
use crate::config::{self, Accounts, ConfigErrors, DatabaseUrl, LoadScope, LoadedSettings, Settings};
use crate::db::{AccountRow, Db, DbError, OpenMode};
use crate::error::UserError;
use crate::model::Subject;
use crate::render::clean_line;
use crate::status;

/// The number of Postgres connections of a command.
const MAX_CONNECTIONS: u32 = 4;

const AFTER_HELP: &str = "\
Times are RFC 3339 (2026-11-20T10:00:00Z), a date (midnight UTC), or a span back from now (36h, 7d).
Exit status: 0 done, 1 failed, 2 usage or configuration.";

/// Gets every transcript and every summary out of RingCX.
#[derive(Debug, Parser)]
#[command(name = "ringcx-extractor", version, long_version = build_info::long_version())]
#[command(max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Settings file [default: $RINGCX_CONFIG, ./config/local.toml or
    /// /etc/ringcx-extractor/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// The command
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon
    Run(run_command::RunArgs),
    /// Run a demonstration against a simulated RingCX; needs no setup
    Demo(demo_command::DemoArgs),
    /// Check settings, database, login and each account, and print a hint for each problem
    Check(check_command::CheckArgs),
    /// Show the progress, the remaining work and the request budget of each account
    Status(status_command::StatusArgs),
    /// Queue a backfill of a past time range
    Backfill(backfill_command::BackfillArgs),
    /// List work items, and retry or discard those that failed
    Queue(queue_command::QueueArgs),
    /// End waits and pauses after rejected requests, and retry now
    Resume(resume_command::ResumeArgs),
    /// Find conversations by what was said or written
    Search(search_command::SearchArgs),
    /// Show a segment: its conversation, summaries and history
    Show(show_command::ShowArgs),
    /// Save the recording of a segment
    Recording(recording_command::RecordingArgs),
    /// Export the archive in order of segment end time
    Export(export_command::ExportArgs),
    /// Check completeness: what was read, every gap, and the outcome of each segment
    Audit(audit_command::AuditArgs),
    /// Write the reconciliation report: announced and held, by account and day
    Report(report_command::ReportArgs),
    /// Inspect delivery and resend events
    Deliver(deliver_command::DeliverArgs),
    /// Erase conversations permanently, for example on a legal request
    Erase(erase_command::EraseArgs),
    /// Place, list or release legal holds, which prevent retention and erasure
    Hold(hold_command::HoldArgs),
    /// Verify the integrity of the archive and report alterations
    Verify(verify_command::VerifyArgs),
    /// Create keys for programs, and show who read what
    Access(access_command::AccessArgs),
    /// Serve the archive to an assistant on this machine, over the Model Context Protocol
    Mcp(mcp_command::McpArgs),
    /// Write a consistent copy of a SQLite archive, while a daemon may be running
    Backup(backup_command::BackupArgs),
    /// Restore a copy of the archive, and repeat the erasures made since
    Restore(restore_command::RestoreArgs),
    /// Check whether a running daemon is alive; for containers
    Health(health_command::HealthArgs),
    /// Migrate the database to the current schema (as `run` does), or copy it to Postgres
    Migrate(migrate_command::MigrateArgs),
    /// Print shell completions
    Completions(completions_command::CompletionsArgs),
    /// Write the man pages of all commands, for packages
    #[command(hide = true)]
    ManPages(man_pages_command::ManPagesArgs),
}

impl Command {
    /// Whether the command only reads the archive. It then needs neither the API's secrets nor write
    /// access to the database.
    const fn only_reads(&self) -> bool {
        matches!(
            self,
            Command::Status(_)
                | Command::Search(_)
                | Command::Show(_)
                | Command::Recording(_)
                | Command::Export(_)
                | Command::Audit(_)
                | Command::Verify(_)
                | Command::Report(_)
        )
    }
}

/// Runs a command; returns the exit status.
///
/// # Errors
/// Returns the error of the command; [`error_report`] prints it and determines the exit status.
pub async fn execute(cli: Cli) -> anyhow::Result<u8> {
    let named = cli.config.clone().or_else(|| std::env::var_os("RINGCX_CONFIG").map(PathBuf::from));
    let clock = demo_command::running_clock(named.as_deref()).unwrap_or_else(Clock::system);
    let scope = if cli.command.only_reads() { LoadScope::Archive } else { LoadScope::All };
    let context = CommandContext { scope, ..CommandContext::new(cli.config, clock) };
    match cli.command {
        Command::Run(args) => run_command::run(args, &context).await,
        Command::Demo(args) => demo_command::run(args).await,
        Command::Check(args) => check_command::run(args, &context).await,
        Command::Status(args) => status_command::run(args, &context).await,
        Command::Backfill(args) => backfill_command::run(args, &context).await,
        Command::Queue(args) => queue_command::run(args, &context).await,
        Command::Resume(args) => resume_command::run(args, &context).await,
        Command::Search(args) => search_command::run(args, &context).await,
        Command::Show(args) => show_command::run(args, &context).await,
        Command::Recording(args) => recording_command::run(args, &context).await,
        Command::Export(args) => export_command::run(args, &context).await,
        Command::Audit(args) => audit_command::run(args, &context).await,
        Command::Report(args) => report_command::run(args, &context).await,
        Command::Deliver(args) => deliver_command::run(args, &context).await,
        Command::Erase(args) => erase_command::run(args, &context).await,
        Command::Hold(args) => hold_command::run(args, &context).await,
        Command::Verify(args) => verify_command::run(args, &context).await,
        Command::Access(args) => access_command::run(args, &context).await,
        Command::Mcp(args) => mcp_command::run(args, &context).await,
        Command::Backup(args) => backup_command::run(args, &context).await,
        Command::Restore(args) => restore_command::run(args, &context).await,
        Command::Health(args) => health_command::run(args, &context).await,
        Command::Migrate(args) => migrate_command::run(args, &context).await,
        Command::Completions(args) => completions_command::run(args, &context).await,
        Command::ManPages(args) => man_pages_command::run(args, &context).await,
    }
}

/// Parses an option whose values have these names and help texts.
fn named_values<T: Clone + Send + Sync + 'static, const N: usize>(
    values: [(&'static str, &'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let possible_values = values.each_ref().map(|(name, help, _)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(possible_values).try_map(move |given| {
        let value = values.iter().find(|(name, ..)| *name == given).map(|(.., value)| value.clone());
        value.ok_or("it is not one of the values")
    })
}

/// The settings, the database and the clock of a command. The settings are loaded on demand.
pub(crate) struct CommandContext {
    config: Option<PathBuf>,
    scope: LoadScope,
    loaded: OnceLock<LoadedSettings>,
    pub(crate) clock: Clock,
}

impl CommandContext {
    /// `config` is the file that `--config` names.
    pub(crate) fn new(config: Option<PathBuf>, clock: Clock) -> CommandContext {
        CommandContext { config, scope: LoadScope::All, loaded: OnceLock::new(), clock }
    }

    /// The settings with their file and warnings, loaded once.
    pub(crate) fn loaded_settings(&self) -> Result<&LoadedSettings, ConfigErrors> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = self.reload_settings()?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    pub(crate) fn settings(&self) -> Result<&Settings, ConfigErrors> {
        self.loaded_settings().map(|loaded| &loaded.settings)
    }

    /// Loads the current settings again.
    pub(crate) fn reload_settings(&self) -> Result<LoadedSettings, ConfigErrors> {
        config::load_for(self.scope, self.config.as_deref(), config::read_environment())
    }

    /// Opens the database of the settings without a lock, so that a daemon can use it at the same
    /// time.
    pub(crate) async fn open_database(&self, access: OpenMode) -> anyhow::Result<Db> {
        Ok(match &self.settings()?.database.url {
            DatabaseUrl::Sqlite(path) => Db::open_sqlite(path, access).await?,
            DatabaseUrl::Postgres(url) => Db::open_postgres(url, access, MAX_CONNECTIONS).await?,
        })
    }

    /// Records in the access log what the command is about to show or do. On a database that this
    /// user can only read there is no entry, and standard error says so.
    pub(crate) async fn record_access(
        &self,
        db: &Db,
        action: AccessAction,
        subject: AccessSubject<'_>,
    ) -> anyhow::Result<()> {
        match self.access_log(db).record(&system_caller(), action, subject).await {
            Err(error) if error.is_read_only() => {
                terminal::print_stderr(
                    "warning: this database is read-only, so the access log has no entry about this command",
                );
                Ok(())
            }
            recorded => recorded.map_err(not_recorded),
        }
    }

    /// Records an erasure before it begins; returns the number of its entry.
    pub(crate) async fn record_erasure(&self, db: &Db, subject: &Subject) -> anyhow::Result<i64> {
        let subject = AccessSubject::Subject { subject, sub: None };
        self.access_log(db).record_erasure(&system_caller(), subject).await.map_err(not_recorded)
    }

    fn access_log(&self, db: &Db) -> AccessLog {
        AccessLog::new(db.clone(), self.clock.clone())
    }

    /// Parses the time of an option.
    pub fn parse_time(&self, option: &str, text: &str) -> Result<Time, UserError> {
        config::parse_time(text, self.clock.now()).map_err(|why| UserError::usage(format!("invalid {option}: {why}")))
    }

    /// Parses `--from` and `--to`, each of which may be missing, and checks that the range is not
    /// empty.
    pub(crate) fn parse_range(
        &self,
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<(Option<Time>, Option<Time>), UserError> {
        let from = from.map(|text| self.parse_time("--from", text)).transpose()?;
        let to = to.map(|text| self.parse_time("--to", text)).transpose()?;
        match (from, to) {
            (Some(from), Some(to)) if from >= to => Err(empty_range(from, to)),
            range => Ok(range),
        }
    }

    /// Finds the account that an option names by sub-account id or name, if it does.
    pub(crate) async fn find_account(&self, db: &Db, wanted: Option<&str>) -> anyhow::Result<Option<AccountRow>> {
        let Some(wanted) = wanted else { return Ok(None) };
        Ok(Some(select_account(db.accounts().await?, self.settings()?, wanted)?))
    }

    /// The accounts that an option selects: the named one, or all.
    pub(crate) async fn find_accounts(&self, db: &Db, wanted: Option<&str>) -> anyhow::Result<Vec<AccountRow>> {
        match self.find_account(db, wanted).await? {
            Some(account) => Ok(vec![account]),
            None => Ok(db.accounts().await?),
        }
    }
}

/// The user of this machine who runs the command. The name may come from the environment; the
/// number does not.
fn system_caller() -> Caller {
    let variable = |name: &str| std::env::var(name).ok().filter(|user| !user.trim().is_empty());
    let uid = rustix::process::getuid().as_raw();
    let user = variable("SUDO_USER").or_else(|| variable("USER")).unwrap_or_else(|| format!("uid {uid}"));
    let host = hostname::get().map_or_else(|_| "unknown".to_owned(), |host| host.to_string_lossy().into_owned());
    Caller::system_user(clean_line(&user), clean_line(&format!("uid {uid} on {host}")))
}

fn not_recorded(error: DbError) -> anyhow::Error {
    let failed = UserError::failed("nothing was shown or changed, because the access log has no entry about it");
    let usual = "the access log is a table of the archive: make the database writable, and try again";
    let hint = error.hint().unwrap_or(usual).to_owned();
    failed.with_hint(hint).with_source(error).into()
}

/// Whether a daemon is running on this database.
async fn is_daemon_alive(db: &Db, now: Time) -> anyhow::Result<bool> {
    let (replicas, here) = (db.replicas().await?, db.database_now(now).await?);
    Ok(replicas.iter().any(|replica| status::is_alive(replica, here)))
}

fn empty_range(from: Time, to: Time) -> UserError {
    let (from, to) = (from.rfc3339(), to.rfc3339());
    UserError::usage(format!("the range of --from and --to is empty: {from} is not before {to}"))
        .with_hint("--from is inclusive, --to is exclusive")
}

/// No account has this id or name.
fn no_such_account(wanted: &str) -> UserError {
    UserError::usage(format!("no account has the id or name {wanted:?}"))
}

/// Several accounts have this name.
fn ambiguous_account(wanted: &str) -> UserError {
    UserError::usage(format!("several accounts are named {wanted:?}")).with_hint("give the sub-account id")
}

/// The name of an account: that of the settings, else that of RingCX.
fn account_name(settings: &Settings, row: &AccountRow) -> Option<String> {
    let configured = match &settings.accounts {
        Accounts::Listed(listed) => {
            listed.iter().find(|account| account.id.sub == row.id.sub).and_then(|account| account.name.clone())
        }
        Accounts::Discovered(_) => None,
    };
    configured.or_else(|| row.name.clone())
}

/// Selects an account by id first, because the name of an account may equal the id of another.
fn select_account(rows: Vec<AccountRow>, settings: &Settings, wanted: &str) -> Result<AccountRow, UserError> {
    let (by_id, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| &*row.id.sub == wanted);
    if let Some(row) = by_id.into_iter().next() {
        return Ok(row);
    }
    let known: Vec<String> = others.iter().map(|row| row.id.sub.to_string()).collect();
    let has_name =
        |row: &AccountRow| account_name(settings, row).is_some_and(|name| name.eq_ignore_ascii_case(wanted.trim()));
    let mut named: Vec<AccountRow> = others.into_iter().filter(has_name).collect();
    match (named.pop(), named.is_empty()) {
        (Some(row), true) => Ok(row),
        (Some(_), false) => Err(ambiguous_account(wanted)),
        (None, _) if known.is_empty() => {
            let hint = "the database contains no account yet; `ringcx-extractor run` adds them";
            Err(no_such_account(wanted).with_hint(hint))
        }
        (None, _) => Err(no_such_account(wanted).with_hint(format!("the database contains {}", known.join(", ")))),
    }
}
