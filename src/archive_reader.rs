//! Reads the archive for a caller: what its roles show, as they show it, and with an entry in the
//! access log before an answer leaves.
//!
//! The API, MCP and the pages read conversations only through here, so none of them can forget a
//! role, a redaction or the log. It reads `db`, `search`, `audit` and `status`, and writes nothing but
//! the access log.

mod access_entries;
mod conversation_view;
mod count;
mod cursor;
mod feed;
mod overview;
mod read_error;
mod recordings;
mod scope;
mod search;
mod segment_filter;
mod segments;

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OnceCell, Semaphore};
use utoipa::ToSchema;

use crate::access::{AccessAction, AccessLog, AccessSubject, Caller};
use crate::clock::{Clock, Time};
use crate::config::Settings;
use crate::db::Db;
use crate::recordings::RecordingStore;
use cursor::CursorCodec;
use recordings::ListeningSeries;

pub(crate) use access_entries::AccessLogQuestion;
pub(crate) use conversation_view::{DialogView, SegmentView, TranscriptView, format_offset};
pub(crate) use feed::FeedAnswer;
pub(crate) use overview::{AccountView, AuditQuestion};
pub(crate) use read_error::{ReadError, ReadFault};
pub(crate) use scope::{Scope, forbidden};
pub(crate) use search::{FoundHits, SearchAnswer, SearchHitView, SearchQuestion};
pub(crate) use segment_filter::{Dimension, SegmentFilter};

/// Searches, counts and audits at a time: they load the database more than anything else.
const MAX_HEAVY_READS: usize = 2;
/// How long a search, a count or an audit may take, with the wait for its turn.
const HEAVY_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the archive for callers.
pub(crate) struct ArchiveReader {
    db: Db,
    settings: Arc<Settings>,
    clock: Clock,
    log: AccessLog,
    recordings: RecordingStore,
    listening: ListeningSeries,
    cursors: OnceCell<CursorCodec>,
    heavy_reads: Semaphore,
}

/// The part of a list that is asked for.
#[derive(Debug, Clone)]
pub(crate) struct PageRequest {
    pub(crate) limit: usize,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
    /// The question as it was asked, to which its cursors are bound.
    pub(crate) question: String,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The cursor of the next page; null after the last one.
    pub(crate) next: Option<String>,
}

impl ArchiveReader {
    pub(crate) fn new(
        db: Db,
        settings: Arc<Settings>,
        clock: Clock,
        log: AccessLog,
        recordings: RecordingStore,
    ) -> ArchiveReader {
        let (listening, heavy_reads) = (ListeningSeries::default(), Semaphore::new(MAX_HEAVY_READS));
        ArchiveReader { db, settings, clock, log, recordings, listening, cursors: OnceCell::new(), heavy_reads }
    }

    /// The current time.
    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Records what is about to be answered. Without the entry there is no answer.
    async fn record(&self, caller: &Caller, action: AccessAction, subject: AccessSubject<'_>) -> Result<(), ReadError> {
        Ok(self.log.record(caller, action, subject).await?)
    }

    async fn cursors(&self) -> Result<&CursorCodec, ReadError> {
        self.cursors.get_or_try_init(|| async { CursorCodec::new(&self.db.cursor_key().await?) }).await
    }

    async fn open_cursor<T: DeserializeOwned>(
        &self,
        scope: &str,
        cursor: Option<&str>,
    ) -> Result<Option<T>, ReadError> {
        let Some(cursor) = cursor else { return Ok(None) };
        self.cursors().await?.open(scope, cursor).map(Some)
    }

    async fn seal_cursor(&self, scope: &str, position: &impl Serialize) -> Result<String, ReadError> {
        self.cursors().await?.seal(scope, position, rand::rng().random())
    }

    /// Runs a read that loads the database, a few at a time and within a time limit.
    async fn run_heavy<T>(&self, read: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        let too_slow = || {
            ReadError::new(ReadFault::Unavailable, "it takes too long, or too many searches are running")
                .with_hint("choose a time or an account, or try again in a moment")
        };
        let within = async {
            let _permit = self.heavy_reads.acquire().await.map_err(|_| too_slow())?;
            read.await
        };
        tokio::time::timeout(HEAVY_READ_TIMEOUT, within).await.unwrap_or_else(|_| Err(too_slow()))
    }
}
