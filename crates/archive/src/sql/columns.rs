//! Reads rows into types: by name into structs, by position into tuples.
//!
//! `#[derive(sqlx::FromRow)]` is generic over the driver, so one derive serves both databases.
//! The types here convert what the columns hold: `#[sqlx(try_from = "Flag")]` and the like.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Column as _, ColumnIndex, Decode, FromRow, Row, Type};

use super::super::{DbError, DeletionReason, Item, item};
use crate::clock::Time;
use crate::model::{Artifact, ArtifactSet, Endpoint, ItemState, Lane, Subject};

/// A type that a row of either database is read into.
pub trait DbRow: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T> DbRow for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// Reads all rows.
pub(super) fn read_rows<'r, T, R>(rows: &'r [R], into: &mut Vec<T>) -> Result<(), DbError>
where
    T: FromRow<'r, R>,
    R: Row,
    usize: ColumnIndex<R>,
    for<'n> &'n str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    into.reserve(rows.len());
    for row in rows {
        into.push(T::from_row(row).map_err(|error| match error {
            sqlx::Error::ColumnDecode { index, .. } => unreadable_value(row, index.trim_matches('"')),
            error => error.into(),
        })?);
    }
    Ok(())
}

/// The error for a value that the program never writes. It names table, column and the row's first
/// column, which is its key. It reads the value again: sqlx 0.9 drops the error of a `try_from`.
fn unreadable_value<'r, R>(row: &'r R, field: &str) -> DbError
where
    R: Row,
    usize: ColumnIndex<R>,
    for<'n> &'n str: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    Vec<u8>: Decode<'r, R::Database> + Type<R::Database>,
{
    if let (Ok(codec), Ok(packed)) = (row.try_get("codec"), row.try_get("metadata"))
        && field == "metadata"
        && let Err(damaged) = item::unpack(codec, packed)
    {
        return damaged;
    }
    let has = |column: &str| row.try_column(column).is_ok();
    let (table, column) = match field {
        "artifact" | "lane" | "state" => ("work.", field),
        "asked" => ("segment.", field),
        "endpoint" => ("pause.", field),
        "kind" => ("tombstone.", field),
        "subject" => ("hold.", "kind"),
        "item" if has("nth") => ("attempt.", field),
        "item" if has("sha256") => ("artifact.", field),
        "item" => ("work.", field),
        // Tuples are read by position.
        _ => {
            ("", field.parse().ok().and_then(|at: usize| row.try_column(at).ok()).map_or(field, |column| column.name()))
        }
    };
    let held = row.try_get(column).map(|number: i64| number.to_string()).or_else(|_| row.try_get(column));
    let held = held.unwrap_or_else(|_| "null or a value of another type".to_owned());
    DbError::inconsistent(&format!("{table}{column}"), row.try_get(0_usize).unwrap_or(-1), held)
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

fn small<T>(read: fn(i16) -> Option<T>) -> impl Fn(i64) -> Option<T> {
    move |code| i16::try_from(code).ok().and_then(read)
}

/// Columns with a code, and what it stands for. An unknown code is an error of [`unreadable_value`].
macro_rules! codes {
    ($($source:ident($stored:ty): $read:expr => $type:ty),+ $(,)?) => {$(
        #[derive(sqlx::Type)]
        #[sqlx(transparent)]
        pub(crate) struct $source($stored);

        impl TryFrom<$source> for $type {
            type Error = ();

            fn try_from(held: $source) -> Result<$type, ()> {
                $read(held.0).ok_or(())
            }
        }
    )+};
}

codes! {
    CodedItem(i64): |item| Item(item).artifact() => Artifact,
    ArtifactCode(i64): small(Artifact::from_code) => Artifact,
    LaneCode(i64): small(Lane::from_code) => Lane,
    StateCode(i64): small(ItemState::from_code) => ItemState,
    ArtifactBits(i64): small(ArtifactSet::from_code) => ArtifactSet,
    DeletionCode(i64): small(DeletionReason::from_code) => DeletionReason,
    EndpointName(String): |name: String| Endpoint::ALL.into_iter().find(|endpoint| endpoint.name() == name) => Endpoint,
}

/// The subject of a hold. An unknown kind is an error: nothing is erased until a person has
/// resolved it.
#[derive(sqlx::FromRow)]
pub(crate) struct HoldSubject {
    kind: String,
    value: String,
}

impl TryFrom<HoldSubject> for Subject {
    type Error = ();

    fn try_from(HoldSubject { kind, value }: HoldSubject) -> Result<Subject, ()> {
        Subject::from_kind(&kind, value).ok_or(())
    }
}
