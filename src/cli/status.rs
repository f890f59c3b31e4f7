//! `status`: every account at a glance, once or again every second.

pub(super) mod table;

use std::time::Duration;

use super::{Context, terminal};
use crate::config::Settings;
use crate::db::{Access, Db};
use crate::status::{self, Status};

/// Between looks.
const REFRESH: Duration = Duration::from_secs(1);

/// Options of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Look again every second until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// Prints it.
///
/// # Errors
/// Where the database cannot be read; while watching, only at the first look.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let db = context.open(Access::Existing).await?;
    let first = look(&db, settings, context).await?;
    if args.watch {
        watch(&args, &db, first, context).await?;
    } else {
        terminal::print(&render(&first, &args)?)?;
    }
    db.close().await;
    Ok(0)
}

async fn watch(args: &Args, db: &Db, first: Status, context: &Context) -> anyhow::Result<()> {
    let settings = context.settings()?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut text = render(&first, args)?;
    loop {
        // On a terminal each look takes the place of the last: home, the text, then nothing below it. Each line ends
        // with "clear to the end of the line", so that no rest of a longer one stays.
        if terminal::is_terminal() && !args.json {
            text = format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        }
        terminal::print(&text)?;
        tokio::select! {
            _ = &mut interrupted => return Ok(()),
            () = tokio::time::sleep(REFRESH) => {}
        }
        text = match look(db, settings, context).await {
            Ok(status) => render(&status, args)?,
            // A database that is away for a while is one of the things that one watches for.
            Err(error) if args.json => {
                terminal::remark(&format!("warning: {error:#}"));
                String::new()
            }
            Err(error) => format!("{error:#}\n"),
        };
    }
}

async fn look(db: &Db, settings: &Settings, context: &Context) -> anyhow::Result<Status> {
    Ok(status::gather(db, settings, &settings.database.instance, None, context.clock.now()).await?)
}

fn render(status: &Status, args: &Args) -> anyhow::Result<String> {
    Ok(match args.json {
        true => format!("{}\n", serde_json::to_string(status)?),
        false => table::render(status, terminal::width()),
    })
}
