//! `migrate`: applies database migrations, or creates the database; with `--to`, copies a SQLite
//! archive to Postgres.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use secrecy::SecretString;

use super::{CommandContext, human_format, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::config::DatabaseUrl;
use crate::db::{CopySummary, Db, FileLock, OpenMode, PostgresCopy};
use crate::error::UserError;

/// The number of connections to the target database.
const MAX_TARGET_CONNECTIONS: u32 = 2;

/// The progress bar's template.
const PROGRESS_TEMPLATE: &str = "{spinner} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left {msg}";

#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// Copy the SQLite archive to this empty Postgres database, including its progress and its
    /// queue
    #[arg(long, value_name = "postgres://…", conflicts_with = "to_file")]
    to: Option<String>,
    /// Like --to, with the URL in a file, because other users can see a password on the command
    /// line
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
}

/// Applies the missing migrations in one transaction, or copies the archive.
pub(crate) async fn run(args: MigrateArgs, context: &CommandContext) -> anyhow::Result<u8> {
    if let Some(url) = args.target_url()? {
        return copy_to_postgres(&url, context).await;
    }
    // Opening as an existing database succeeds only if no migration is missing.
    let (db, done) = match context.open_database(OpenMode::Existing).await {
        Ok(db) => (db, "the database is up to date"),
        Err(_) => {
            (context.open_database(OpenMode::CreateOrMigrate).await?, "migrated the database to the current schema")
        }
    };
    db.close().await;
    terminal::print_stdout(&format!("{done}\n"))?;
    Ok(0)
}

impl MigrateArgs {
    fn target_url(&self) -> anyhow::Result<Option<SecretString>> {
        let url = match (&self.to, &self.to_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| {
                    UserError::usage(format!("failed to read --to-file {}: {error}", file.display()))
                        .with_hint("give a file that this user can read and that contains only postgres://user:password@host:5432/database")
                })?
                .trim()
                .to_owned(),
            (None, None) => return Ok(None),
        };
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            // The URL is not quoted, because it may contain a password.
            let error = UserError::usage("invalid --to: it is not a Postgres URL");
            bail!(error.with_hint("give postgres://user:password@host:5432/database"));
        }
        Ok(Some(SecretString::from(url)))
    }
}

/// Copies the archive of the settings; the file is not changed.
async fn copy_to_postgres(url: &SecretString, context: &CommandContext) -> anyhow::Result<u8> {
    let path =
        match &context.settings()?.database.url {
            DatabaseUrl::Sqlite(path) => path.clone(),
            DatabaseUrl::Postgres(_) => {
                let error = UserError::usage("failed to copy the archive: database.url is already a Postgres URL");
                bail!(error.with_hint(
                    "it must still name the SQLite file, in the settings or as RINGCX__DATABASE__URL=sqlite:…"
                ));
            }
        };
    let from = context.open_database(OpenMode::Existing).await?;
    // No daemon may write to the file during the copy or after it was read.
    let lock = FileLock::acquire(&path)?;
    let to = Db::open_postgres(url, OpenMode::CreateOrMigrate, MAX_TARGET_CONNECTIONS)
        .await
        .context("failed to open the database of --to")?;
    let summary = tokio::select! {
        summary = copy_tables(&from, &to, context) => summary?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted: nothing was copied"),
    };
    from.close().await;
    // In the copy alone: the file is only read.
    let what = "copy of the archive to Postgres";
    context.record_access(&to, AccessAction::Backup, AccessSubject::Other { what, sub: None }).await?;
    to.close().await;
    drop(lock);
    terminal::print_stdout(&summarize_copy(&summary, &path))?;
    Ok(0)
}

async fn copy_tables(from: &Db, to: &Db, context: &CommandContext) -> anyhow::Result<CopySummary> {
    let mut copy = PostgresCopy::begin(from, to).await?;
    let bar = terminal::progress_bar(copy.rows(), PROGRESS_TEMPLATE);
    let advance = |rows| bar.inc(rows);
    copy.copy_tables(&advance).await.context("failed to copy the archive; nothing was copied")?;
    bar.set_message("committing");
    let summary = copy.finish(context.clock.now()).await.context("failed to copy the archive; nothing was copied")?;
    bar.finish_and_clear();
    Ok(summary)
}

/// Summarizes the copy and the next steps.
fn summarize_copy(summary: &CopySummary, from: &Path) -> String {
    let rows = |name: &str| summary.tables.iter().find(|table| table.name == name).map_or(0, |table| table.rows);
    let all: u64 = summary.tables.iter().map(|table| table.rows).sum();
    let mut text = format!(
        "copied {} and {}, with {} still to be fetched: {all} rows of {} tables, verified by a count in the target\n",
        human_format::format_count(rows("segment"), "segment"),
        human_format::format_count(rows("artifact"), "artifact version"),
        human_format::format_count(rows("work"), "item"),
        summary.tables.len(),
    );
    if summary.replaced_texts > 0 {
        let texts = human_format::format_count(summary.replaced_texts, "text");
        text.push_str(&format!(
            "{texts} contained NUL characters, which Postgres cannot store; they were replaced by U+FFFD\n"
        ));
    }
    text.push_str(&format!(
        "next: set database.url to the new database, and start `ringcx-extractor run`\n\
         {} was only read; keep it until you have checked the copy, but never run a daemon on both\n",
        from.display()
    ));
    text
}
