//! `restore`: puts a copy in the place of the SQLite archive while no daemon runs, and repeats what was
//! decided since.
//!
//! On Postgres, `pg_restore` has put the copy in place; this command then applies the journal.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::{CommandContext, human_format, terminal};
use crate::clock::Time;
use crate::config::{Accounts, Database, DatabaseUrl};
use crate::db::{
    CarriedState, Db, DbError, DbFault, ExportRange, OpenMode, RestoreOutcome, RestoreSummary, RestoredCopy,
};
use crate::error::UserError;
use crate::render::clean_line;

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The copy to restore; it is only read
    #[arg(required_unless_present = "journal")]
    file: Option<PathBuf>,
    /// The file of `backup --journal`, if the database that is replaced was lost or damaged
    #[arg(long, value_name = "FILE", conflicts_with = "without_journal")]
    journal: Option<PathBuf>,
    /// Restore without the journal: erasures and holds made since the copy are lost
    #[arg(long)]
    without_journal: bool,
    /// Restore a copy of other accounts than those in the settings
    #[arg(long)]
    other_accounts: bool,
}

/// What a copy holds.
struct CopyContent {
    segments: u64,
    accounts: Vec<String>,
    last_written: Option<Time>,
}

/// Restores the copy, or applies the journal to a Postgres database that was restored.
pub(crate) async fn run(args: RestoreArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let database = &context.settings()?.database;
    match (&database.url, &args.file) {
        (DatabaseUrl::Sqlite(path), Some(file)) => restore_file(path, file, &args, context).await?,
        (DatabaseUrl::Sqlite(_), None) => {
            let error = UserError::usage("failed to restore: no copy was named");
            bail!(error.with_hint("give the file of `ringcx-extractor backup`, too: restore FILE --journal JOURNAL"))
        }
        (DatabaseUrl::Postgres(_), None) => apply_to_postgres(&args, context).await?,
        (DatabaseUrl::Postgres(_), Some(file)) => bail!(use_pg_restore(database, file)),
    }
    Ok(0)
}

async fn restore_file(path: &Path, file: &Path, args: &RestoreArgs, context: &CommandContext) -> anyhow::Result<()> {
    let given = args.journal.as_deref().map(read_journal).transpose()?;
    let copy = RestoredCopy::begin(path, file)?;
    let now = context.clock.now();
    let db = copy.open().await.with_context(|| format!("failed to restore {}; nothing was changed", file.display()))?;
    let content = CopyContent::read(&db).await?;
    if !args.other_accounts {
        check_accounts(&content, context)?;
    }
    let (replaced, damage) = accept_damage(read_replaced(&copy, now).await, args.without_journal)?;
    // Of two that are equal, the last is taken: the database.
    let states = [given, replaced].into_iter().flatten().filter(|_| !args.without_journal);
    let state = states.max_by_key(CarriedState::age_order);
    let instance = &context.settings()?.database.instance;
    let summary = db.apply_carried_state(state.as_ref(), instance, now).await;
    let summary = summary.context("failed to restore; nothing was changed")?;
    if summary.segments + summary.records > 0 {
        db.purge_deleted().await?;
        db.wipe_free_pages(true, &context.clock).await.context("failed to restore; nothing was changed")?;
    }
    let read_again = watermarks(&db).await?;
    db.close().await;
    let aside = copy.put_in_place(now)?;
    let mut text = format!("restored {}: {}\n", file.display(), content.describe());
    text += &describe_summary(&summary, state.as_ref());
    for (sub, watermark) in read_again {
        text += &format!("account {}: read again from {}\n", clean_line(&sub), watermark.rfc3339_secs());
    }
    if let Some(aside) = aside {
        text += &format!(
            "the replaced database is kept as {}: it holds conversations; delete it once `audit` and `verify` pass\n",
            aside.display()
        );
    }
    text += "next: start the daemon. It reads what ended since the copy again; then `audit` and `verify` pass\n";
    terminal::print_stdout(&text)?;
    if let Some(damage) = damage.filter(|_| !args.without_journal) {
        terminal::print_stderr(&format!("note: the replaced database cannot be read: {damage}"));
    }
    warn(&summary, args, content.last_written);
    Ok(())
}

/// Applies the journal to a Postgres database that `pg_restore` has put in place.
async fn apply_to_postgres(args: &RestoreArgs, context: &CommandContext) -> anyhow::Result<()> {
    let state = args.journal.as_deref().map(read_journal).transpose()?;
    let db = context.open_database(OpenMode::CreateOrMigrate).await?;
    if db.is_instance_locked().await? {
        let error = UserError::failed("failed to apply the journal: a daemon is running on this database");
        bail!(error.with_hint("stop all replicas first"));
    }
    let last_written = db.last_written().await?;
    let instance = &context.settings()?.database.instance;
    let summary = db.apply_carried_state(state.as_ref(), instance, context.clock.now()).await;
    let summary = summary.context("failed to apply the journal; nothing was changed")?;
    if summary.segments + summary.records > 0 {
        db.purge_deleted().await?;
    }
    db.close().await;
    terminal::print_stdout(&(describe_summary(&summary, state.as_ref()) + "next: start the replicas\n"))?;
    warn(&summary, args, last_written);
    Ok(())
}

/// The state of the database that is replaced; `None` where there is none.
async fn read_replaced(copy: &RestoredCopy, now: Time) -> Result<Option<CarriedState>, DbError> {
    let Some(db) = copy.open_replaced().await? else { return Ok(None) };
    let state = db.carried_state(now).await;
    db.close().await;
    state.map(Some)
}

/// A damaged database is replaced all the same. One that is only locked still has its erasures: they must
/// not be lost because another program has it open.
fn accept_damage(
    read: Result<Option<CarriedState>, DbError>,
    without_journal: bool,
) -> Result<(Option<CarriedState>, Option<DbError>), UserError> {
    match read {
        Ok(replaced) => Ok((replaced, None)),
        Err(error) if error.fault() == DbFault::Unavailable && !without_journal => {
            let message = "failed to read the erasures of the replaced database; nothing was changed";
            Err(UserError::failed(message)
                .with_hint("end the program that has it open (`fuser -v` on the file names it), then restore again")
                .with_source(error))
        }
        Err(error) => Ok((None, Some(error))),
    }
}

fn read_journal(path: &Path) -> anyhow::Result<CarriedState> {
    let failed = |error: anyhow::Error| {
        UserError::failed(format!("failed to read {}", path.display()))
            .with_hint("--journal needs a file that `ringcx-extractor backup --journal` has written")
            .with_source(error)
    };
    let file = File::open(path).map_err(|error| failed(error.into()))?;
    let file: Box<dyn BufRead> = if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst")) {
        Box::new(BufReader::new(zstd::stream::read::Decoder::new(file).map_err(|error| failed(error.into()))?))
    } else {
        Box::new(BufReader::new(file))
    };
    Ok(CarriedState::read_lines(file).map_err(|error| failed(error.into()))?)
}

impl CopyContent {
    async fn read(db: &Db) -> anyhow::Result<CopyContent> {
        let accounts = db.accounts().await?;
        Ok(CopyContent {
            segments: db.count_segments(ExportRange::default()).await?,
            accounts: accounts.iter().map(|account| account.id.sub.to_string()).collect(),
            last_written: db.last_written().await?,
        })
    }

    fn describe(&self) -> String {
        let (segments, accounts) = (
            human_format::format_count(self.segments, "segment"),
            human_format::format_count(self.accounts.len() as u64, "account"),
        );
        let written = self.last_written.map(|at| format!(", last written at {}", at.rfc3339_secs()));
        format!("{segments} of {accounts}{}", written.unwrap_or_default())
    }
}

/// Refuses a copy that has none of the accounts in the settings.
fn check_accounts(content: &CopyContent, context: &CommandContext) -> anyhow::Result<()> {
    let Accounts::Listed(listed) = &context.settings()?.accounts else { return Ok(()) };
    let configured: BTreeSet<&str> = listed.iter().map(|account| &*account.id.sub).collect();
    if content.accounts.is_empty() || content.accounts.iter().any(|sub| configured.contains(sub.as_str())) {
        return Ok(());
    }
    let list = |subs: Vec<&str>| clean_line(&subs.join(", "));
    let (held, wanted) =
        (list(content.accounts.iter().map(String::as_str).collect()), list(configured.into_iter().collect()));
    let error = UserError::failed(format!(
        "failed to restore: the copy is an archive of other accounts ({held}) than those in the settings ({wanted}); nothing was changed"
    ));
    bail!(error.with_hint(
        "choose the copy or the settings (--config) of the right archive; --other-accounts restores it all the same"
    ))
}

/// Until when each account has been read without a gap.
async fn watermarks(db: &Db) -> anyhow::Result<Vec<(String, Time)>> {
    let mut found = Vec::new();
    for account in db.accounts().await? {
        let covered = db.coverage(account.key).await?;
        let live = covered.into_iter().find(|(purpose, _)| purpose == "live").map(|(_, range)| range.to);
        found.extend(live.or(account.live_start).map(|to| (account.id.sub.to_string(), to)));
    }
    Ok(found)
}

/// Describes what was repeated from the state, one sentence a line.
fn describe_summary(summary: &RestoreSummary, state: Option<&CarriedState>) -> String {
    let mut text = String::new();
    let RestoreSummary { segments, records, refused_ids, holds_placed, holds_released, backfills, .. } = summary;
    if summary.outcome == RestoreOutcome::Repeated {
        let known = state.map(|state| format!("decisions known until {}\n", state.at.rfc3339_secs()));
        text += &known.unwrap_or_default();
        let erased = human_format::format_amounts(*segments, *records, " set aside");
        let erased = if erased.is_empty() { "nothing of it is in the copy".to_owned() } else { erased.join(" and ") };
        text +=
            &format!("erased or expired since, and deleted again: {erased}; {refused_ids} more will not be stored\n");
        text += &format!("legal holds: {holds_placed} placed since, {holds_released} released since\n");
    }
    if *backfills > 0 {
        text += &format!("backfills requested since, and queued again: {backfills}\n");
    }
    for (name, events) in &summary.sinks {
        let name = clean_line(name);
        text += &format!("sink {name}: events that it received since are sent again with the same ids: {events}\n");
    }
    text
}

/// Warns about what is not known.
fn warn(summary: &RestoreSummary, args: &RestoreArgs, last_written: Option<Time>) {
    let since = last_written.map_or_else(|| "the copy was made".to_owned(), Time::rfc3339_secs);
    let why = match summary.outcome {
        RestoreOutcome::Repeated => return,
        RestoreOutcome::JournalOlder => "the journal is older than the copy",
        RestoreOutcome::OtherArchive => "the replaced database was a new archive",
        RestoreOutcome::Unknown if args.without_journal => "--without-journal was given",
        RestoreOutcome::Unknown => "there was no database and no --journal to read them from",
    };
    terminal::print_stderr(&format!(
        "warning: erasures, holds and backfills made since {since} are not known, because {why}\n\
         hint: repeat them before the daemon starts, or restore again with --journal FILE (of `backup --journal`)\n\
         hint: the requests of the last 15 minutes are not known either: start the daemon 15 minutes after the last one stopped",
    ));
}

/// How to restore a Postgres database.
fn use_pg_restore(database: &Database, file: &Path) -> UserError {
    let ((url, note), file) = (database.shell_url(), human_format::shell_word(&file.display().to_string()));
    let hint = format!(
        "stop all replicas, run `pg_restore --clean --if-exists --dbname={url} {file}`{note}, then `ringcx-extractor restore --journal FILE` with the file of `backup --journal`"
    );
    UserError::usage("failed to restore: the archive is on Postgres, which has its own tools for it").with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_database_stops_the_restore_and_a_damaged_one_does_not() {
        let read = |fault| Err(DbError::new(fault, "it cannot be read"));
        let stopped = accept_damage(read(DbFault::Unavailable), false).unwrap_err().to_string();
        assert!(stopped.contains("the erasures of the replaced database; nothing was changed"), "{stopped}");
        for (fault, without_journal) in [(DbFault::Unavailable, true), (DbFault::Broken, false)] {
            let (state, damage) = accept_damage(read(fault), without_journal).unwrap();
            assert!(state.is_none() && damage.is_some());
        }
    }
}
