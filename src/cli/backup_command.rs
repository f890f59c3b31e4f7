//! `backup`: writes one consistent copy of a SQLite archive, and the journal of erasures and holds.
//!
//! On Postgres it prints how to use `pg_dump`; the journal is written on both.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::{CommandContext, human_format, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::config::{Database, DatabaseUrl};
use crate::db::{OpenMode, SqliteBackup};
use crate::error::UserError;
use crate::export::Target;

/// The progress bar's template.
const PROGRESS_TEMPLATE: &str = "{spinner} {wide_bar} {bytes}/{total_bytes}, {eta} left {msg}";
/// How often the progress bar is updated.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// The file to write; it must not exist, unless --overwrite is given
    #[arg(required_unless_present = "journal")]
    file: Option<PathBuf>,
    /// Replace the file if it exists, once the new copy is complete and checked
    #[arg(long, requires = "file")]
    overwrite: bool,
    /// Write the journal of erasures and holds to this file (replaced if it exists), for `restore`
    /// after the database was lost; keep it on another disk, and renew it after each erasure
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

/// Writes the copy, then the journal.
pub(crate) async fn run(args: BackupArgs, context: &CommandContext) -> anyhow::Result<u8> {
    if let Some(file) = &args.file {
        match &context.settings()?.database.url {
            DatabaseUrl::Sqlite(path) => back_up(path, file, args.overwrite, context).await?,
            DatabaseUrl::Postgres(_) => bail!(use_pg_dump(&context.settings()?.database, file)),
        }
    }
    if let Some(file) = &args.journal {
        write_journal(file, context).await?;
    }
    Ok(0)
}

async fn back_up(database: &Path, file: &Path, overwrite: bool, context: &CommandContext) -> anyhow::Result<()> {
    // From before the incomplete file exists.
    let mut terminated = signal(SignalKind::terminate()).context("failed to listen for signals")?;
    let backup = SqliteBackup::begin(database, file, overwrite)?;
    // Before an upgrade the schema is of an earlier version, whose access log cannot be written.
    match context.open_database(OpenMode::Existing).await {
        Ok(db) => {
            let what = "a copy of the whole archive";
            context.record_access(&db, AccessAction::Backup, AccessSubject::Other { what, sub: None }).await?;
            db.close().await;
        }
        Err(error) => {
            terminal::print_stderr(&format!("warning: the access log has no entry about this copy: {error}"));
        }
    }
    let bar = terminal::progress_bar(backup.check_space().await?, PROGRESS_TEMPLATE);
    let progress = async {
        loop {
            bar.set_position(backup.written_bytes());
            context.clock.sleep(PROGRESS_INTERVAL).await;
        }
    };
    // Where it is interrupted, the incomplete file is removed.
    tokio::select! {
        written = backup.write() => written?,
        () = progress => {}
        _ = tokio::signal::ctrl_c() => bail!("interrupted: nothing was written"),
        _ = terminated.recv() => bail!("interrupted: nothing was written"),
    }
    bar.finish_and_clear();
    let size = backup.finish()?;
    let text = format!(
        "wrote {}: {}, checked (integrity_check)\nit holds conversations: encrypt it, and keep it no longer than the archive\n",
        file.display(),
        human_format::format_bytes(size)
    );
    Ok(terminal::print_stdout(&text)?)
}

async fn write_journal(file: &Path, context: &CommandContext) -> anyhow::Result<()> {
    let db = context.open_database(OpenMode::Existing).await?;
    let state = db.carried_state(context.clock.now()).await?;
    db.close().await;
    let mut target = Target::file(file)?;
    state.write_lines(&mut target).map_err(|error| Target::explain_error(error.into(), file))?;
    target.finish().map_err(|error| Target::explain_error(error, file))?;
    let (entries, deletions, holds) = (state.journal_entries(), state.deletions(), state.holds());
    let text = format!(
        "wrote {}: journal entries {entries}, tombstones {deletions}, holds in force {holds}\n",
        file.display()
    );
    Ok(terminal::print_stdout(&text)?)
}

/// How to back up a Postgres database.
fn use_pg_dump(database: &Database, file: &Path) -> UserError {
    let file = human_format::shell_word(&file.display().to_string());
    let (url, note) = database.shell_url();
    let hint = format!(
        "run `umask 077; pg_dump --format=custom --file={file} {url}`{note}; it runs beside the daemon. `ringcx-extractor backup --journal FILE` writes the journal of erasures, which a restore needs"
    );
    UserError::usage("failed to back up: the archive is on Postgres, which has its own tools for it").with_hint(hint)
}
