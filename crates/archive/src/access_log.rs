//! The access log: who read, searched, exported or erased what.
//!
//! An entry is one row of table `access_log`, appended to the log's hash chain in the transaction
//! that writes it. Triggers refuse every change of a row but two: retention deletes the oldest
//! entries, and an erasure blanks a text. A keyed hash of the text stays, so the chain can still be
//! verified, and the entries of a segment can still be found by its id.

mod log_cleanup;
mod log_reader;

use std::borrow::Cow;

pub use log_reader::{AccessChainState, AccessLogQuery, AccessLogRow};

use super::{Db, DbError, Tx, sql};
use crate::clock::Time;
use crate::hash_chain::{AccessRecord, GENESIS_HASH, link};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The name in the database, in JSON and in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $code,)+
                }
            }

            /// The value with this name.
            pub fn from_name(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|value| value.name() == name)
            }
        }
    };
}

codes! {
    /// The kind of a reader.
    ReaderKind {
        /// A person who logged in at the identity provider.
        Person = "person",
        /// A program with a key.
        Key = "key",
        /// Someone with `http.token`.
        SharedToken = "shared_token",
        /// A user of the machine who ran a command.
        SystemUser = "system_user",
        /// The daemon itself, for the upkeep of the log.
        Daemon = "daemon",
    }
}

codes! {
    /// What a reader did.
    AccessAction {
        /// Searched.
        Search = "search",
        /// Read a segment or a dialog.
        Read = "read",
        /// Listened to a recording, or saved it.
        Listen = "listen",
        /// Listed segments with what was said in them.
        List = "list",
        /// Counted segments or listed facets: no text of a conversation.
        Count = "count",
        /// Exported.
        Export = "export",
        /// Read the feed.
        Feed = "feed",
        /// Copied the database.
        Backup = "backup",
        /// Erased.
        Erase = "erase",
        /// Placed a legal hold.
        Hold = "hold",
        /// Released a legal hold.
        Release = "release",
        /// Queued items again.
        Retry = "retry",
        /// Discarded items.
        Discard = "discard",
        /// Requested a backfill.
        Backfill = "backfill",
        /// Requested that events are sent again.
        Redeliver = "redeliver",
        /// Read the access log.
        ReadLog = "read_log",
        /// Logged in.
        Login = "login",
        /// Logged out.
        Logout = "logout",
        /// Removed entries of the access log that were past its retention.
        RemoveEntries = "remove_entries",
    }
}

codes! {
    /// The kind of an entry's subject.
    SubjectKind {
        /// A segment, by its id.
        Segment = "segment",
        /// A dialog, by its id.
        Dialog = "dialog",
        /// A contact, by a number or an address.
        Contact = "contact",
        /// A query with its filters, and the number of its hits.
        Query = "query",
        /// Something else: a work item, a sink, a hold, a range of time.
        Other = "other",
    }
}

/// An entry to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAccessEntry<'a> {
    /// When.
    pub at: Time,
    /// The kind of reader.
    pub reader_kind: ReaderKind,
    /// The person's subject, the key's name, or the name of the system user.
    pub reader: &'a str,
    /// Where the reader is: an address, or a host.
    pub origin: &'a str,
    /// What was done.
    pub action: AccessAction,
    /// The sub-account's id, if the entry is about one account.
    pub sub: Option<&'a str>,
    /// The kind of subject.
    pub subject_kind: SubjectKind,
    /// The id, the query or the description.
    pub subject: &'a str,
    /// Whether the subject's text must not be stored, only its keyed hash.
    pub is_hashed: bool,
    /// How many hits, segments or entries the answer has.
    pub hits: Option<u64>,
}

/// The longest text of an entry, in characters; a longer one is cut.
const MAX_TEXT_CHARS: usize = 2_000;

/// A text as it is stored: bounded, and without NUL, which Postgres cannot store.
fn storable(text: &str) -> Cow<'_, str> {
    let cut = text.char_indices().nth(MAX_TEXT_CHARS).map_or(text, |(end, _)| &text[..end]);
    if cut.len() == text.len() && !text.contains('\0') {
        return Cow::Borrowed(text);
    }
    let mut stored = cut.replace('\0', "\u{fffd}");
    if cut.len() < text.len() {
        stored.push('…');
    }
    Cow::Owned(stored)
}

impl Db {
    /// Appends an entry; returns its number. It is durable when this returns.
    pub async fn append_access_entry(&self, entry: &NewAccessEntry<'_>) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        let id = tx.append_access_entry(entry).await?;
        tx.commit().await?;
        Ok(id)
    }
}

impl Tx {
    /// Appends an entry to the log and its chain, which stays locked until the transaction ends.
    pub(crate) async fn append_access_entry(&mut self, entry: &NewAccessEntry<'_>) -> Result<i64, DbError> {
        let key = self.get_or_create_archive_key().await?;
        let (newest, head) = self.lock_access_chain().await?;
        let [reader, origin, subject] = [entry.reader, entry.origin, entry.subject].map(storable);
        let subject_hash = key.hash_access_subject(entry.subject_kind.name(), &subject);
        let record = AccessRecord {
            id: newest + 1,
            at: entry.at.0,
            reader_kind: entry.reader_kind.name(),
            reader: &reader,
            origin: &origin,
            action: entry.action.name(),
            sub: entry.sub,
            subject_kind: entry.subject_kind.name(),
            subject_hash: &subject_hash,
            hits: entry.hits.map(|hits| i64::try_from(hits).unwrap_or(i64::MAX)),
        };
        let stmt = sql("insert into access_log (id, at, reader_kind, reader, origin, action, sub, subject_kind, subject, subject_hash, hits)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
        let stmt =
            stmt.bind(record.id).bind(record.at).bind(record.reader_kind).bind(record.reader).bind(record.origin);
        let stmt = stmt.bind(record.action).bind(record.sub).bind(record.subject_kind);
        let stmt = stmt.bind(Some(&*subject).filter(|_| !entry.is_hashed)).bind(record.subject_hash).bind(record.hits);
        self.run(stmt).await?;
        let head = link(&head, &record.leaf());
        self.run(sql("update access_chain set newest = $1, head = $2").bind(record.id).bind(head)).await?;
        Ok(record.id)
    }

    /// The newest number and the head of the log's chain.
    async fn lock_access_chain(&mut self) -> Result<(i64, Vec<u8>), DbError> {
        let stmt = sql("insert into access_chain (id, newest, head, removed, removed_head) values (1, 0, $1, 0, $1)
             on conflict (id) do update set newest = access_chain.newest returning newest, head");
        let chain = self.first(stmt.bind(GENESIS_HASH)).await?;
        chain.ok_or_else(|| DbError::missing_row("access_chain", 1))
    }
}
