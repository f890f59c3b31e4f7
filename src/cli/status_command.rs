//! `status`: shows all accounts once, or refreshes every second.

pub(super) mod status_table;

use std::time::Duration;

use super::{CommandContext, terminal};
use crate::config::Settings;
use crate::db::{Db, OpenMode};
use crate::health::Snapshot;
use crate::render::clean_line;
use crate::status;

/// The time between two refreshes of `--watch`.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Refresh every second until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
}

/// Prints the status. With `--watch`, only the first read of the database can fail the command.
pub(crate) async fn run(args: StatusArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let first = gather_status(&db, settings, context).await?;
    for sink in &settings.unreadable_sinks {
        let sink = clean_line(sink);
        terminal::print_stderr(&format!("warning: sink {sink} is not shown: its secret cannot be read by this user"));
    }
    if args.watch {
        watch(&args, &db, first, context).await?;
    } else {
        terminal::print_stdout(&render(&first, &args)?)?;
    }
    db.close().await;
    Ok(0)
}

async fn watch(args: &StatusArgs, db: &Db, first: Snapshot, context: &CommandContext) -> anyhow::Result<()> {
    let settings = context.settings()?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut text = render(&first, args)?;
    loop {
        // On a terminal each output replaces the last one: cursor home, the text, clear below. Each
        // line ends with "clear to the end of the line", so that nothing of a longer line stays.
        if terminal::is_terminal() && !args.json {
            text = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        }
        terminal::print_stdout(&text)?;
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            () = tokio::time::sleep(REFRESH_INTERVAL) => {}
        }
        text = match gather_status(db, settings, context).await {
            Ok(status) => render(&status, args)?,
            // The watch continues while the database is unavailable.
            Err(error) if args.json => {
                terminal::print_stderr(&format!("warning: {error:#}"));
                String::new()
            }
            Err(error) => format!("{error:#}\n"),
        };
    }
}

async fn gather_status(db: &Db, settings: &Settings, context: &CommandContext) -> anyhow::Result<Snapshot> {
    Ok(status::gather(db, settings, &settings.database.instance, None, context.clock.now()).await?)
}

fn render(status: &Snapshot, args: &StatusArgs) -> anyhow::Result<String> {
    Ok(match args.json {
        true => format!("{}\n", serde_json::to_string(status)?),
        false => status_table::render(status, terminal::width()),
    })
}
