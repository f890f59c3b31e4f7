//! `migrate`: brings the database up to date, or creates it; with `--to`, moves a SQLite archive to Postgres.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use secrecy::SecretString;

use super::{Context, UsageError, terminal, words};
use crate::config::DatabaseUrl;
use crate::db::{Access, Db, FileLock, Moved, Moving};

/// Connections to the database that an archive moves to.
const CONNECTIONS: u32 = 2;

/// Options of `migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Carry the SQLite archive over to this empty Postgres database, with its checkpoints and its queue
    #[arg(long, value_name = "postgres://…", conflicts_with = "to_file")]
    to: Option<String>,
    /// The same, with the URL read from a file: on the command line others can see its password
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
}

/// Applies what is missing. Nothing changes where one migration fails.
///
/// # Errors
/// Where the database cannot be opened, is from a newer version, or a migration fails; where an archive cannot be moved.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    if let Some(url) = args.target()? {
        return move_to(&url, context).await;
    }
    // Opened as it is only where nothing is missing.
    let (db, done) = match context.open(Access::Existing).await {
        Ok(db) => (db, "the database is up to date"),
        Err(_) => (context.open(Access::Own).await?, "brought the database up to date"),
    };
    db.close().await;
    terminal::print(&format!("{done}\n"))?;
    Ok(0)
}

impl Args {
    fn target(&self) -> anyhow::Result<Option<SecretString>> {
        let url = match (&self.to, &self.to_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .map_err(|error| {
                    UsageError(format!(
                        "failed to read --to-file {}: {error}\nhint: a file that this user may read, with nothing in it but postgres://user:password@host:5432/database",
                        file.display()
                    ))
                })?
                .trim()
                .to_owned(),
            (None, None) => return Ok(None),
        };
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            // It may hold a password: it is not quoted.
            let message =
                "failed to read --to: it names no Postgres database\nhint: postgres://user:password@host:5432/database";
            return Err(UsageError(message.to_owned()).into());
        }
        Ok(Some(SecretString::from(url)))
    }
}

/// Moves the archive that the settings name; the file stays as it is.
async fn move_to(url: &SecretString, context: &Context) -> anyhow::Result<u8> {
    let path = match &context.settings()?.database.url {
        DatabaseUrl::Sqlite(path) => path.clone(),
        DatabaseUrl::Postgres(_) => {
            let message = "failed to move the archive: database.url names Postgres already\n\
                           hint: it must still name the SQLite file, in the settings or as RINGCX__DATABASE__URL=sqlite:…";
            return Err(UsageError(message.to_owned()).into());
        }
    };
    let from = context.open(Access::Existing).await?;
    // Nobody may fetch into the file while it moves, nor after it was read.
    let lock = FileLock::take(&path)?;
    let to = Db::open_postgres(url, Access::Own, CONNECTIONS).await.context("failed to open what --to names")?;
    let moved = tokio::select! {
        moved = carry(&from, &to, context) => moved?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted: nothing was moved"),
    };
    from.close().await;
    to.close().await;
    drop(lock);
    terminal::print(&said(&moved, &path))?;
    Ok(0)
}

async fn carry(from: &Db, to: &Db, context: &Context) -> anyhow::Result<Moved> {
    let mut moving = Moving::begin(from, to).await?;
    let bar = bar(moving.rows());
    let gone = |rows| bar.inc(rows);
    moving.carry(&gone).await.context("failed to move the archive; nothing was moved")?;
    bar.set_message("making it durable");
    let moved = moving.finish(context.clock.now()).await.context("failed to move the archive; nothing was moved")?;
    bar.finish_and_clear();
    Ok(moved)
}

/// What a person wants to know afterwards.
fn said(moved: &Moved, from: &Path) -> String {
    let rows = |name: &str| moved.tables.iter().find(|table| table.name == name).map_or(0, |table| table.rows);
    let all: u64 = moved.tables.iter().map(|table| table.rows).sum();
    let mut text = format!(
        "moved {} and {}, with {} still to be fetched: {all} rows of {} tables, counted again on the other side\n",
        words::count(rows("segment"), "segment"),
        words::count(rows("artifact"), "artifact version"),
        words::count(rows("work"), "item"),
        moved.tables.len(),
    );
    if moved.replaced > 0 {
        let texts = words::count(moved.replaced, "text");
        text.push_str(&format!(
            "{texts} held NUL characters, which Postgres cannot keep; U+FFFD stands in their place\n"
        ));
    }
    text.push_str(&format!(
        "next: set database.url to the new database, and start `ringcx-extractor run`\n\
         {} was only read; keep it until you are content, but never run on both\n",
        from.display()
    ));
    text
}

/// On standard error, and only where that is a terminal.
fn bar(total: u64) -> ProgressBar {
    let template = "{spinner} {wide_bar} {human_pos}/{human_len} rows, {per_sec}, {eta} left {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
