//! Reads rows into types: by name into structs, by position into tuples.
//!
//! `#[derive(sqlx::FromRow)]` is generic over the driver, so one derive serves both databases.
//! The types here convert what the columns hold: `#[sqlx(try_from = "Flag")]` and the like.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use super::super::{DbError, DeletionReason, Item, item};
use crate::clock::Time;
use crate::model::{Artifact, ArtifactSet, Endpoint, ItemState, Lane, Subject};

/// A type that a row of either database is read into.
pub trait DbRow: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T> DbRow for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// Reads all rows. A value that the program never writes is an error that names the column and, if
/// it is a number, the row's first column, which is its key.
pub(super) fn read_rows<'r, T, R>(rows: &'r [R], into: &mut Vec<T>) -> Result<(), DbError>
where
    T: FromRow<'r, R>,
    R: Row,
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    into.reserve(rows.len());
    for row in rows {
        into.push(T::from_row(row).map_err(|error| {
            let sqlx::Error::ColumnDecode { index, source } = error else { return DbError::from(error) };
            let key = row.try_get::<i64, _>(0).unwrap_or(-1);
            match source.downcast::<UnknownCode>().map_err(|source| source.downcast::<DbError>()) {
                Ok(code) => DbError::inconsistent(code.column, key, code.held),
                Err(Ok(damaged)) => *damaged,
                Err(Err(source)) => DbError::unreadable_column(&index, key, source),
            }
        })?);
    }
    Ok(())
}

/// A flag: 0 is false.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct Flag(i64);

impl From<Flag> for bool {
    fn from(flag: Flag) -> bool {
        flag.0 != 0
    }
}

/// A count, which is never negative.
pub(crate) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A duration in milliseconds.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct Millis(i64);

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Duration {
        Duration::from_millis(count(millis.0))
    }
}

/// The HTTP status of a response; `None` if there was none.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct HttpStatus(Option<i64>);

impl From<HttpStatus> for Option<u16> {
    fn from(status: HttpStatus) -> Option<u16> {
        status.0.and_then(|status| u16::try_from(status).ok())
    }
}

/// The end of a segment; `None` if it is unknown.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct EndTime(Time);

impl From<EndTime> for Option<Time> {
    fn from(ended: EndTime) -> Option<Time> {
        ended.0.known()
    }
}

/// Bytes that are shown as a text.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct LossyText(Vec<u8>);

impl From<LossyText> for String {
    fn from(bytes: LossyText) -> String {
        utf8_lossy(bytes.0)
    }
}

/// Metadata as stored. It is unpacked to a text.
#[derive(sqlx::FromRow)]
pub(crate) struct PackedMetadata {
    codec: i64,
    metadata: Vec<u8>,
}

impl TryFrom<PackedMetadata> for String {
    type Error = DbError;

    fn try_from(packed: PackedMetadata) -> Result<String, DbError> {
        item::unpack(packed.codec, packed.metadata).map(utf8_lossy)
    }
}

/// The text; what is not UTF-8 in it is replaced.
pub(crate) fn utf8_lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A value of a column that the program never writes.
#[derive(Debug, thiserror::Error)]
#[error("{column} holds {held}")]
pub(crate) struct UnknownCode {
    column: &'static str,
    held: String,
}

fn small<T>(read: fn(i16) -> Option<T>) -> impl Fn(i64) -> Option<T> {
    move |code| i16::try_from(code).ok().and_then(read)
}

/// Columns with a code, and what it stands for.
macro_rules! codes {
    ($($source:ident($stored:ty) in $column:literal: $read:expr => $type:ty),+ $(,)?) => {$(
        #[derive(sqlx::Type)]
        #[sqlx(transparent)]
        pub(crate) struct $source($stored);

        impl TryFrom<$source> for $type {
            type Error = UnknownCode;

            fn try_from(held: $source) -> Result<$type, UnknownCode> {
                $read(held.0).ok_or_else(|| UnknownCode { column: $column, held: held.0.to_string() })
            }
        }
    )+};
}

codes! {
    ArtifactItem(i64) in "artifact.item": |item| Item(item).artifact() => Artifact,
    AttemptItem(i64) in "attempt.item": |item| Item(item).artifact() => Artifact,
    WorkItem(i64) in "work.item": |item| Item(item).artifact() => Artifact,
    WorkArtifact(i64) in "work.artifact": small(Artifact::from_code) => Artifact,
    WorkLane(i64) in "work.lane": small(Lane::from_code) => Lane,
    WorkState(i64) in "work.state": small(ItemState::from_code) => ItemState,
    SegmentAsked(i64) in "segment.asked": small(ArtifactSet::from_code) => ArtifactSet,
    TombstoneKind(i64) in "tombstone.kind": small(DeletionReason::from_code) => DeletionReason,
}

/// The endpoint of a pause.
#[derive(sqlx::Type)]
#[sqlx(transparent)]
pub(crate) struct PauseEndpoint(String);

impl TryFrom<PauseEndpoint> for Endpoint {
    type Error = UnknownCode;

    fn try_from(PauseEndpoint(held): PauseEndpoint) -> Result<Endpoint, UnknownCode> {
        use Endpoint::{Accounts, AgentSummary, AutoSummary, Login, Metadata, Transcript};
        let mut all = [Login, Accounts, Metadata, Transcript, AgentSummary, AutoSummary].into_iter();
        all.find(|endpoint| endpoint.name() == held).ok_or(UnknownCode { column: "pause.endpoint", held })
    }
}

/// The subject of a hold. An unknown kind is an error: nothing is erased until a person has
/// resolved it.
#[derive(sqlx::FromRow)]
pub(crate) struct HoldSubject {
    kind: String,
    value: String,
}

impl TryFrom<HoldSubject> for Subject {
    type Error = UnknownCode;

    fn try_from(HoldSubject { kind, value }: HoldSubject) -> Result<Subject, UnknownCode> {
        Subject::from_kind(&kind, value).ok_or(UnknownCode { column: "hold.kind", held: kind })
    }
}
