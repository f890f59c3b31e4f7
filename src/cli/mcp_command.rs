//! `mcp`: a Model Context Protocol server on standard input and output, for one user on this machine.
//!
//! Standard output carries the protocol only.

use std::io::IsTerminal as _;
use std::sync::Arc;

use anyhow::Context as _;

use super::{CommandContext, system_caller, terminal};
use crate::archive_reader::ArchiveReader;
use crate::db::OpenMode;
use crate::mcp::McpServer;
use crate::recordings::RecordingStore;

#[derive(Debug, clap::Args)]
pub(crate) struct McpArgs {}

pub(crate) async fn run(_: McpArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let settings = Arc::new(context.settings()?.clone());
    let db = context.open_database(OpenMode::Existing).await?;
    if std::io::stdin().is_terminal() {
        terminal::print_stderr(
            "waiting for a client of the Model Context Protocol on standard input\n\
             hint: assistants start this command themselves; docs/api.md shows how to configure them",
        );
    }
    let store = RecordingStore::new(&settings.recordings).context("failed to open the recording store")?;
    let log = context.access_log(&db);
    let reader = Arc::new(ArchiveReader::new(db.clone(), settings, context.clock.clone(), log, store));
    let served = McpServer::serve_stdio(reader, system_caller()).await;
    db.close().await;
    served.map(|()| 0)
}
