//! What an archive tells the copy that replaces it, or the file of `backup --journal`.
//!
//! A copy is older than the archive. What people decided since must not be undone by it: erasures,
//! holds, requested backfills. Nor may the record of who read what end at the copy, a limit be
//! exceeded, or a number be given twice. This state holds that, and nothing that was said. Erased
//! segments are keyed hashes.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::super::hash_chain::{hex, unhex};
use super::super::{Db, DbError, DbFault, Stmt, Tx, sql};
use crate::clock::Time;

/// Version of the file's format.
const FORMAT_VERSION: u32 = 1;
/// Name of the file's format, in its first line.
const FORMAT_NAME: &str = "ringcx-extractor journal";

/// The state of an archive that the copy must take over.
#[derive(Debug, Clone, Default)]
pub struct CarriedState {
    /// When it was read.
    pub at: Time,
    /// Identifies the archive's key; `None` where the archive has none.
    pub(super) key_id: Option<String>,
    /// The archive's key, encoded. It is not in the file.
    pub(super) key: Option<String>,
    pub(super) export_number: i64,
    pub(super) accounts: Vec<CarriedAccount>,
    pub(super) tombstones: Vec<CarriedTombstone>,
    pub(super) deletion_counts: Vec<CarriedDeletionCount>,
    pub(super) holds: Vec<CarriedHold>,
    pub(super) journal: Vec<CarriedJournalEntry>,
    pub(super) backfills: Vec<CarriedBackfill>,
    pub(super) sinks: Vec<CarriedSink>,
    pub(super) cursors: Vec<CarriedCursor>,
    pub(super) reservations: Vec<CarriedReservation>,
    pub(super) ended_sessions: Vec<CarriedSession>,
    pub(super) export_erasures: Vec<CarriedExportErasure>,
    pub(super) access_log: Vec<CarriedAccessEntry>,
    /// `None` where there is no access log, or it is empty.
    pub(super) access_chain: Option<CarriedAccessChain>,
}

/// Bytes as hexadecimal digits in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, sqlx::Type, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
pub(super) struct HexBytes(pub(super) Vec<u8>);

impl From<HexBytes> for String {
    fn from(bytes: HexBytes) -> String {
        hex(&bytes.0)
    }
}

impl TryFrom<String> for HexBytes {
    type Error = &'static str;

    fn try_from(text: String) -> Result<HexBytes, &'static str> {
        unhex(&text).map(HexBytes).ok_or("not hexadecimal digits")
    }
}

macro_rules! carried_rows {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, sqlx::FromRow, Serialize, Deserialize)]
        pub(super) struct $name { $(pub(super) $field: $kind),+ }
    )+};
}

carried_rows! {
    /// A row of table `account`.
    CarriedAccount { rc: String, sub: String, name: Option<String>, created: i64, live_start: Option<i64> }
    /// A row of table `tombstone`.
    CarriedTombstone { sub: String, hash: HexBytes, at: i64, kind: i64, day: i64, counted: i64 }
    /// A row of table `erased`.
    CarriedDeletionCount { sub: String, day: i64, kind: i64, segments: i64, transcripts: i64, agent_summaries: i64, auto_summaries: i64, recordings: Option<i64> }
    /// A row of table `hold`; without `sub` it covers all accounts.
    CarriedHold { id: i64, sub: Option<String>, kind: String, value: String, reason: Option<String>, placed: i64, who: String }
    /// A row of table `journal`.
    CarriedJournalEntry {
        at: i64, who: String, what: String, sub: Option<String>, kind: Option<String>, subject: Option<HexBytes>, segments: i64,
        records: i64, hold: Option<i64>, reason: Option<String>, value_hash: Option<HexBytes>,
    }
    /// A backfill that was not cancelled.
    CarriedBackfill { sub: String, from_ms: i64, to_ms: i64, newest_first: i64, created: i64 }
    /// A row of table `sink`.
    CarriedSink { name: String, created: i64, place: String }
    /// A row of table `sink_cursor`.
    CarriedCursor { sink: String, sub: String, feed: i64, delivered: i64 }
    /// A row of table `reservation`.
    CarriedReservation { key: String, reserved: i64, counted: Option<i64> }
    /// A revoked session of the web pages: a row of table `meta`.
    CarriedSession { key: String, value: String }
    /// A row of table `export_erasure`; the archive's key seals its ids.
    CarriedExportErasure { sub: String, sealed_ids: HexBytes, at: i64, kind: i64 }
    /// A row of table `access_log`.
    CarriedAccessEntry {
        id: i64, at: i64, reader_kind: String, reader: String, origin: String, action: String, sub: Option<String>,
        subject_kind: String, subject: Option<String>, subject_hash: HexBytes, hits: Option<i64>, erased_by: Option<i64>,
    }
    /// The row of table `access_chain`.
    CarriedAccessChain { newest: i64, head: HexBytes, removed: i64, removed_head: HexBytes }
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JournalLine {
    Header {
        format: String,
        version: u32,
        at: Time,
        key_id: Option<String>,
        export_number: i64,
    },
    Account(CarriedAccount),
    Tombstone(CarriedTombstone),
    DeletionCount(CarriedDeletionCount),
    Hold(CarriedHold),
    Journal(CarriedJournalEntry),
    Backfill(CarriedBackfill),
    Sink(CarriedSink),
    Cursor(CarriedCursor),
    Reservation(CarriedReservation),
    EndedSession(CarriedSession),
    ExportErasure(CarriedExportErasure),
    Access(CarriedAccessEntry),
    AccessChain(CarriedAccessChain),
    /// The number of lines before this one, so that a truncated file is noticed.
    End(usize),
}

impl Db {
    /// Reads the state in one snapshot. The schema may be that of a newer program.
    pub async fn carried_state(&self, now: Time) -> Result<CarriedState, DbError> {
        let has_access_log = self.has_access_log().await?;
        let has_export_erasures = self.has_table("export_erasure").await?;
        let column = if self.has_table("recording").await? { "e.recordings" } else { "cast(null as bigint)" };
        let mut snapshot = self.snapshot().await?;
        let tx = &mut snapshot.0;
        let key_text = tx.archive_key_text().await?;
        let (mut access_log, mut access_chain) = (Vec::new(), None);
        let mut export_erasures = Vec::new();
        if has_export_erasures {
            let stmt =
                sql("select a.sub, x.sealed_ids, x.at, x.kind from export_erasure x join account a on a.id = x.account
                 order by x.id");
            export_erasures = tx.all(stmt).await?;
        }
        if has_access_log {
            let stmt = sql("select id, at, reader_kind, reader, origin, action, sub, subject_kind, subject, subject_hash, hits, erased_by
                 from access_log order by id");
            access_log = tx.all(stmt).await?;
            access_chain = tx.first(sql("select newest, head, removed, removed_head from access_chain")).await?;
        }
        Ok(CarriedState {
            at: now,
            key_id: tx.archive_key_id().await?,
            key: key_text,
            export_number: tx.meta("export").await?.and_then(|text| text.parse().ok()).unwrap_or(0),
            accounts: tx.all(sql("select rc, sub, name, created, live_start from account order by id")).await?,
            tombstones: tx
                .all(sql("select a.sub, t.hash, t.at, t.kind, t.day, t.counted from tombstone t join account a on a.id = t.account
                     order by t.account, t.record"))
                .await?,
            deletion_counts: tx
                .all(Stmt::built(format!(
                    "select a.sub, e.day, e.kind, e.segments, e.transcripts, e.agent_summaries, e.auto_summaries,
                     {column} as recordings from erased e join account a on a.id = e.account"
                )))
                .await?,
            holds: tx
                .all(sql("select h.id, a.sub, h.kind, h.value, h.reason, h.placed, h.who from hold h
                     left join account a on a.id = h.account order by h.id"))
                .await?,
            journal: tx
                .all(sql("select j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason, j.value_hash
                     from journal j left join account a on a.id = j.account order by j.id"))
                .await?,
            backfills: tx
                .all(sql("select a.sub, b.from_ms, b.to_ms, b.newest_first, b.created from backfill b join account a on a.id = b.account
                     where b.cancelled is null order by b.id"))
                .await?,
            sinks: tx.all(sql("select name, created, place from sink order by id")).await?,
            cursors: tx
                .all(sql("select s.name as sink, a.sub, c.feed, c.delivered from sink_cursor c join sink s on s.id = c.sink
                     join account a on a.id = c.account"))
                .await?,
            reservations: tx.all(sql("select key, reserved, counted from reservation order by id")).await?,
            ended_sessions: tx
                .all(sql("select key, value from meta where key >= 'ended_session:' and key < 'ended_session;'"))
                .await?,
            export_erasures,
            access_log,
            access_chain,
        })
    }
}

impl CarriedState {
    /// Number of journal entries.
    pub fn journal_entries(&self) -> usize {
        self.journal.len()
    }

    /// Orders the states of one archive by their age: the longer journal is newer, then the longer access
    /// log, then the one that was read later.
    pub fn age_order(&self) -> (usize, i64, Time) {
        let newest_access = self.access_chain.as_ref().map_or(0, |chain| chain.newest);
        (self.journal.len(), newest_access, self.at)
    }

    /// Number of legal holds in force.
    pub fn holds(&self) -> usize {
        self.holds.len()
    }

    /// Number of deleted segments and records, on request or by retention.
    pub fn deletions(&self) -> usize {
        self.tombstones.len()
    }

    /// Whether anything was ever erased or put on hold.
    pub(super) fn has_decisions(&self) -> bool {
        !self.journal.is_empty() || !self.tombstones.is_empty()
    }

    /// Writes the file of `backup --journal`: a JSON object a line.
    ///
    /// # Errors
    /// Where the target cannot be written.
    pub fn write_lines(&self, target: &mut impl Write) -> std::io::Result<()> {
        let header = JournalLine::Header {
            format: FORMAT_NAME.to_owned(),
            version: FORMAT_VERSION,
            at: self.at,
            key_id: self.key_id.clone(),
            export_number: self.export_number,
        };
        let rows = self.accounts.iter().cloned().map(JournalLine::Account);
        let rows = rows.chain(self.tombstones.iter().cloned().map(JournalLine::Tombstone));
        let rows = rows.chain(self.deletion_counts.iter().cloned().map(JournalLine::DeletionCount));
        let rows = rows.chain(self.holds.iter().cloned().map(JournalLine::Hold));
        let rows = rows.chain(self.journal.iter().cloned().map(JournalLine::Journal));
        let rows = rows.chain(self.backfills.iter().cloned().map(JournalLine::Backfill));
        let rows = rows.chain(self.sinks.iter().cloned().map(JournalLine::Sink));
        let rows = rows.chain(self.cursors.iter().cloned().map(JournalLine::Cursor));
        let rows = rows.chain(self.reservations.iter().cloned().map(JournalLine::Reservation));
        let rows = rows.chain(self.ended_sessions.iter().cloned().map(JournalLine::EndedSession));
        let rows = rows.chain(self.export_erasures.iter().cloned().map(JournalLine::ExportErasure));
        let rows = rows.chain(self.access_log.iter().cloned().map(JournalLine::Access));
        let rows = rows.chain(self.access_chain.iter().cloned().map(JournalLine::AccessChain));
        let mut lines = 0;
        for line in std::iter::once(header).chain(rows) {
            writeln!(target, "{}", serde_json::to_string(&line)?)?;
            lines += 1;
        }
        writeln!(target, "{}", serde_json::to_string(&JournalLine::End(lines))?)
    }

    /// Reads the file of `backup --journal`.
    ///
    /// # Errors
    /// Where it is no such file, or not complete.
    pub fn read_lines(source: impl BufRead) -> Result<CarriedState, DbError> {
        let mut state = CarriedState::default();
        let mut ended = false;
        for (index, line) in source.lines().enumerate() {
            let line = line.map_err(|error| unreadable_journal(index + 1, &error.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            if ended {
                return Err(unreadable_journal(index + 1, "something follows the last line"));
            }
            // The message of serde names the position and no content.
            let line: JournalLine =
                serde_json::from_str(&line).map_err(|error| unreadable_journal(index + 1, &error.to_string()))?;
            ended = state.add(line, index)?;
        }
        if ended { Ok(state) } else { Err(unreadable_journal(0, "its end is missing")) }
    }

    /// Adds a line; returns whether it was the last one.
    fn add(&mut self, line: JournalLine, index: usize) -> Result<bool, DbError> {
        let is_first = index == 0;
        match line {
            JournalLine::Header { format, version, at, key_id, export_number } if is_first => {
                if format != FORMAT_NAME || version != FORMAT_VERSION {
                    return Err(unreadable_journal(1, "it has a format that this version does not know"));
                }
                (self.at, self.key_id, self.export_number) = (at, key_id, export_number);
            }
            JournalLine::Header { .. } => return Err(unreadable_journal(index + 1, "a second header")),
            _ if is_first => return Err(unreadable_journal(1, "its header is missing")),
            JournalLine::Account(row) => self.accounts.push(row),
            JournalLine::Tombstone(row) => self.tombstones.push(row),
            JournalLine::DeletionCount(row) => self.deletion_counts.push(row),
            JournalLine::Hold(row) => self.holds.push(row),
            JournalLine::Journal(row) => self.journal.push(row),
            JournalLine::Backfill(row) => self.backfills.push(row),
            JournalLine::Sink(row) => self.sinks.push(row),
            JournalLine::Cursor(row) => self.cursors.push(row),
            JournalLine::Reservation(row) => self.reservations.push(row),
            JournalLine::EndedSession(row) if row.key.starts_with("ended_session:") => self.ended_sessions.push(row),
            JournalLine::EndedSession(_) => return Err(unreadable_journal(index + 1, "not a session")),
            JournalLine::ExportErasure(row) => self.export_erasures.push(row),
            JournalLine::Access(row) => self.access_log.push(row),
            JournalLine::AccessChain(row) => self.access_chain = Some(row),
            JournalLine::End(lines) if lines == index => return Ok(true),
            JournalLine::End(_) => return Err(unreadable_journal(index + 1, "lines are missing")),
        }
        Ok(false)
    }
}

impl Db {
    /// Whether this version of the schema has the access log.
    pub(super) async fn has_access_log(&self) -> Result<bool, DbError> {
        self.has_table("access_log").await
    }
}

impl Tx {
    async fn archive_key_id(&mut self) -> Result<Option<String>, DbError> {
        Ok(self.stored_archive_key().await?.map(|key| hex(&key.id())))
    }
}

fn unreadable_journal(line: usize, why: &str) -> DbError {
    let place = if line > 0 { format!(", line {line}") } else { String::new() };
    DbError::new(DbFault::Broken, format!("failed to read the journal{place}: {why}"))
        .with_hint("name a file that `ringcx-extractor backup --journal` has written")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state() -> CarriedState {
        CarriedState {
            at: Time(5),
            key_id: Some("00ff".into()),
            tombstones: vec![CarriedTombstone {
                sub: "7".into(),
                hash: HexBytes(vec![0, 255]),
                at: 1,
                kind: 0,
                day: -1,
                counted: 1,
            }],
            holds: vec![CarriedHold {
                id: 3,
                sub: None,
                kind: "contact".into(),
                value: "a\n\u{0}b".into(),
                reason: None,
                placed: 4,
                who: "me".into(),
            }],
            ..CarriedState::default()
        }
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        state().write_lines(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read_again_and_the_key_is_not_written() {
        let read = CarriedState::read_lines(written().as_slice()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", state()));
        let text = CarriedState { key: Some("secret".into()), ..state() };
        let mut bytes = Vec::new();
        text.write_lines(&mut bytes).unwrap();
        assert!(!String::from_utf8(bytes).unwrap().contains("secret"));
    }

    #[test]
    fn a_longer_journal_is_newer_then_a_longer_access_log_then_a_later_read() {
        let read_at = |at: i64| CarriedState { at: Time(at), ..CarriedState::default() };
        let with_access = |at: i64, newest: i64| {
            let chain = CarriedAccessChain {
                newest,
                head: HexBytes(Vec::new()),
                removed: 0,
                removed_head: HexBytes(Vec::new()),
            };
            CarriedState { access_chain: Some(chain), ..read_at(at) }
        };
        let entry = CarriedJournalEntry {
            at: 1,
            who: "me".into(),
            what: "erase".into(),
            sub: None,
            kind: None,
            subject: None,
            segments: 1,
            records: 0,
            hold: None,
            reason: None,
            value_hash: None,
        };
        let with_journal = CarriedState { journal: vec![entry], ..read_at(1) };
        let oldest_first = [read_at(8), read_at(9), with_access(7, 1), with_access(6, 2), with_journal];
        let order: Vec<_> = oldest_first.iter().map(CarriedState::age_order).collect();
        assert!(order.is_sorted_by(|older, newer| older < newer), "{order:?}");
    }

    proptest! {
        #[test]
        fn a_file_that_lost_something_is_refused(cut in 0..1000_usize, change in proptest::option::of(any::<u8>())) {
            let mut bytes = written();
            let at = cut % (bytes.len() - 1);
            match change {
                // A cut that leaves only the last line break away takes nothing.
                None => bytes.truncate(at),
                Some(byte) => bytes[at] = byte,
            }
            let read = CarriedState::read_lines(bytes.as_slice());
            prop_assert!(change.is_some() || read.is_err());
        }
    }
}
