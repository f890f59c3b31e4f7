//! One statement text for both databases: arguments, rows and transactions that do not say which one is behind.
//!
//! Numbers are BIGINT, ids TEXT, bodies BYTEA or BLOB; nothing else is ever bound or read. That is what lets a statement
//! stand once. Everything is bound; no value is ever written into a statement's text.

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Row as _, SqlitePool};

use self::text::{list, rows};
use super::patient::Patient;
use super::{BULK, Db, DbError};
use crate::clock::Time;

mod text;

/// How many rows a statement has that comes again and again while much is written.
const FULL: [usize; 2] = [BULK, super::search::DOCS];
/// So many arguments make a list that comes again often.
const SHORT: usize = 16;

/// A value on its way into a statement.
#[derive(Debug, Clone)]
pub enum Arg {
    /// BIGINT.
    Int(Option<i64>),
    /// TEXT.
    Text(Option<String>),
    /// BYTEA, BLOB.
    Bytes(Option<Bytes>),
}

macro_rules! into_arg {
    ($($from:ty => |$value:ident| $to:expr),+ $(,)?) => {$(
        impl From<$from> for Arg {
            fn from($value: $from) -> Arg { $to }
        }
    )+};
}

into_arg! {
    i64 => |value| Arg::Int(Some(value)),
    i16 => |value| Arg::Int(Some(i64::from(value))),
    u32 => |value| Arg::Int(Some(i64::from(value))),
    u64 => |value| Arg::Int(Some(i64::try_from(value).unwrap_or(i64::MAX))),
    usize => |value| Arg::Int(Some(i64::try_from(value).unwrap_or(i64::MAX))),
    bool => |value| Arg::Int(Some(i64::from(value))),
    Time => |value| Arg::Int(Some(value.0)),
    Option<Time> => |value| Arg::Int(value.map(|time| time.0)),
    Option<i64> => |value| Arg::Int(value),
    &str => |value| Arg::Text(Some(value.to_owned())),
    &String => |value| Arg::Text(Some(value.clone())),
    String => |value| Arg::Text(Some(value)),
    Option<String> => |value| Arg::Text(value),
    Option<&str> => |value| Arg::Text(value.map(str::to_owned)),
    Vec<u8> => |value| Arg::Bytes(Some(value.into())),
    Bytes => |value| Arg::Bytes(Some(value)),
    Option<Bytes> => |value| Arg::Bytes(value),
}

/// A statement and its arguments.
#[derive(Debug, Clone)]
pub struct Stmt {
    text: Text,
    args: Vec<Arg>,
}

#[derive(Debug, Clone)]
enum Text {
    Fixed(&'static str),
    Built(String),
    /// With a list after the arguments that stand in `head`.
    List {
        head: String,
        before: usize,
        count: usize,
        tail: String,
    },
    /// Over many rows; how the placeholders look is the database's affair.
    Rows {
        head: &'static str,
        width: usize,
        count: usize,
        tail: &'static str,
    },
}

/// Starts a statement; `$1`, `$2` … are bound in order.
pub fn sql(text: &'static str) -> Stmt {
    Stmt { text: Text::Fixed(text), args: Vec::new() }
}

impl Stmt {
    /// Binds the next argument.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Arg>) -> Stmt {
        self.args.push(value.into());
        self
    }

    /// A statement over many rows: `head`, then the rows in parentheses, then `tail`. Nothing is bound elsewhere in it.
    pub fn rows(head: &'static str, rows: Vec<Vec<Arg>>, tail: &'static str) -> Stmt {
        let (width, count) = (rows.first().map_or(0, Vec::len), rows.len());
        Stmt { text: Text::Rows { head, width, count, tail }, args: rows.into_iter().flatten().collect() }
    }

    /// A statement with a list, `head ($k,$k+1,…) tail`, after arguments already bound by `first`.
    pub fn list(head: &str, first: Vec<Arg>, items: impl IntoIterator<Item = impl Into<Arg>>, tail: &str) -> Stmt {
        let mut args = first;
        let before = args.len();
        args.extend(items.into_iter().map(Into::into));
        let count = args.len() - before;
        Stmt { text: Text::List { head: head.to_owned(), before, count, tail: tail.to_owned() }, args }
    }

    /// A statement put together from parts of this program's own; never from input.
    pub fn built(text: String) -> Stmt {
        Stmt { text: Text::Built(text), args: Vec::new() }
    }

    fn text(&self, postgres: bool) -> AssertSqlSafe<String> {
        AssertSqlSafe(match &self.text {
            Text::Fixed(text) => (*text).to_owned(),
            Text::Built(text) => text.clone(),
            Text::List { head, before, count, tail } => list(head, *before, *count, tail, postgres),
            Text::Rows { head, width, count, tail } => rows(head, *width, *count, tail, postgres),
        })
    }

    /// On Postgres: how many arguments stand alone, and into how many arrays the others go, if they do. Such a statement has one
    /// text for any number of rows: it is parsed and planned once.
    fn arrays(&self) -> Option<(usize, usize)> {
        match &self.text {
            Text::List { head, before, .. } => text::as_array(head).map(|_| (*before, 1)),
            Text::Rows { head, width, .. } => text::as_arrays(head).map(|_| (0, *width)),
            Text::Fixed(_) | Text::Built(_) => None,
        }
    }

    /// Whether the prepared statement is worth keeping. One over many rows rarely comes again with as many, and is large;
    /// only full ones follow one another.
    fn recurs(&self) -> bool {
        match &self.text {
            Text::Rows { count, .. } => FULL.contains(count),
            Text::Built(_) | Text::List { .. } => self.args.len() <= SHORT || self.args.len() >= BULK,
            Text::Fixed(_) => true,
        }
    }

    fn sqlite(self) -> Result<(AssertSqlSafe<String>, SqliteArguments, bool), DbError> {
        let (text, recurs) = (self.text(false), self.recurs());
        let mut args = SqliteArguments::default();
        for arg in self.args {
            match arg {
                Arg::Int(value) => args.add(value),
                Arg::Text(value) => args.add(value),
                Arg::Bytes(value) => args.add(value.map(Vec::from)),
            }
            .map_err(DbError::encode)?;
        }
        Ok((text, args, recurs))
    }

    fn postgres(mut self) -> Result<(AssertSqlSafe<String>, PgArguments, bool), DbError> {
        let (text, recurs, arrays) = (self.text(true), self.recurs(), self.arrays());
        let mut args = PgArguments::default();
        let rest = arrays.map(|(alone, _)| self.args.split_off(alone));
        for arg in self.args {
            match arg {
                Arg::Int(value) => args.add(value),
                Arg::Text(value) => args.add(value.map(storable)),
                Arg::Bytes(value) => args.add(value.map(Vec::from)),
            }
            .map_err(DbError::encode)?;
        }
        if let (Some(rest), Some((_, width))) = (rest, arrays) {
            columns(rest, width).into_iter().try_for_each(|column| column.add(&mut args))?;
        }
        Ok((text, args, recurs || arrays.is_some()))
    }
}

/// Postgres text cannot hold NUL; ids and texts that do are rare and only shown to people.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// One column of many rows, as an array.
#[derive(Default)]
struct Column {
    ints: Vec<Option<i64>>,
    texts: Vec<Option<String>>,
    bytes: Vec<Option<Vec<u8>>>,
}

impl Column {
    /// A column is of one type throughout.
    fn add(self, args: &mut PgArguments) -> Result<(), DbError> {
        match (self.ints.len(), self.texts.len(), self.bytes.len()) {
            (_, 0, 0) => args.add(self.ints),
            (0, _, 0) => args.add(self.texts),
            (0, 0, _) => args.add(self.bytes),
            _ => Err("a column holds values of two types".into()),
        }
        .map_err(DbError::encode)
    }
}

fn columns(args: Vec<Arg>, width: usize) -> Vec<Column> {
    let mut columns: Vec<Column> = (0..width).map(|_| Column::default()).collect();
    for (nth, arg) in args.into_iter().enumerate() {
        let Some(column) = columns.get_mut(nth.checked_rem(width).unwrap_or(0)) else { continue };
        match arg {
            Arg::Int(value) => column.ints.push(value),
            Arg::Text(value) => column.texts.push(value.map(storable)),
            Arg::Bytes(value) => column.bytes.push(value.map(Vec::from)),
        }
    }
    columns
}

/// One row of a result, read by position.
pub enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From Postgres.
    Postgres(PgRow),
}

macro_rules! column {
    ($(#[$doc:meta])* $name:ident -> $type:ty) => {
        $(#[$doc])*
        pub fn $name(&self, index: usize) -> Result<$type, DbError> {
            Ok(match self {
                Row::Sqlite(row) => row.try_get(index)?,
                Row::Postgres(row) => row.try_get(index)?,
            })
        }
    };
}

impl Row {
    column! {
        /// A number that is never null.
        int -> i64
    }
    column! {
        /// A number or null.
        maybe_int -> Option<i64>
    }
    column! {
        /// A text that is never null.
        text -> String
    }
    column! {
        /// A text or null.
        maybe_text -> Option<String>
    }
    column! {
        /// Bytes that are never null.
        bytes -> Vec<u8>
    }
    column! {
        /// Bytes or null.
        maybe_bytes -> Option<Vec<u8>>
    }

    /// A moment that is never null.
    pub fn time(&self, index: usize) -> Result<Time, DbError> {
        self.int(index).map(Time)
    }

    /// A moment or null.
    pub fn maybe_time(&self, index: usize) -> Result<Option<Time>, DbError> {
        Ok(self.maybe_int(index)?.map(Time))
    }

    /// A number as yes or no.
    pub fn flag(&self, index: usize) -> Result<bool, DbError> {
        Ok(self.int(index)? != 0)
    }

    /// A count: a number that is never negative.
    pub fn count(&self, index: usize) -> Result<u64, DbError> {
        Ok(u64::try_from(self.int(index)?).unwrap_or(0))
    }
}

/// A transaction on SQLite, begun and ended by plain statements. SQLite ends one by itself where the disk is full, after which
/// the driver's own count of open transactions is wrong for good; so a connection whose transaction did not commit is
/// closed, which undoes what is left of it, and the next one is a new one.
pub struct SqliteTx {
    connection: PoolConnection<Sqlite>,
    committed: bool,
}

impl SqliteTx {
    /// Begins with `how`: `begin immediate` to write, `begin` to read.
    pub(super) async fn begin(pool: &SqlitePool, how: &'static str) -> Result<SqliteTx, DbError> {
        let mut tx = SqliteTx { connection: pool.acquire().await?, committed: false };
        sqlx::query(how).execute(&mut *tx.connection).await?;
        Ok(tx)
    }

    async fn commit(mut self) -> Result<(), DbError> {
        sqlx::query("commit").execute(&mut *self.connection).await?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for SqliteTx {
    fn drop(&mut self) {
        if !self.committed {
            self.connection.close_on_drop();
        }
    }
}

/// A transaction that writes. Dropped without [`Tx::commit`], it never happened.
pub enum Tx {
    /// On SQLite, begun immediately: a deferred one that turns to writing is refused at once.
    Sqlite(SqliteTx),
    /// On Postgres.
    Postgres(Patient),
}

impl Tx {
    /// Runs a statement; returns how many rows it touched.
    pub async fn run(&mut self, stmt: Stmt) -> Result<u64, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let (text, args, recurs) = stmt.sqlite()?;
                sqlx::query_with(text, args).persistent(recurs).execute(&mut *tx.connection).await?.rows_affected()
            }
            Tx::Postgres(tx) => {
                let (text, args, recurs) = stmt.postgres()?;
                tx.run(text, args, recurs).await?
            }
        })
    }

    /// Runs a statement and returns its rows.
    pub async fn all(&mut self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let (text, args, recurs) = stmt.sqlite()?;
                let rows = sqlx::query_with(text, args).persistent(recurs).fetch_all(&mut *tx.connection).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Tx::Postgres(tx) => {
                let (text, args, recurs) = stmt.postgres()?;
                tx.all(text, args, recurs).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a statement and returns its first row, if there is one.
    pub async fn first(&mut self, stmt: Stmt) -> Result<Option<Row>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Runs a statement and hands its rows over as they come, so that memory does not grow with them.
    pub(super) fn stream(&mut self, stmt: Stmt) -> Result<BoxStream<'_, Result<Row, DbError>>, DbError> {
        Ok(match self {
            Tx::Sqlite(tx) => {
                let (text, args, recurs) = stmt.sqlite()?;
                let rows = sqlx::query_with(text, args).persistent(recurs).fetch(&mut *tx.connection);
                rows.map_ok(Row::Sqlite).map_err(DbError::from).boxed()
            }
            Tx::Postgres(tx) => {
                let (text, args, recurs) = stmt.postgres()?;
                let rows = sqlx::query_with(text, args).persistent(recurs).fetch(tx.bare());
                rows.map_ok(Row::Postgres).map_err(DbError::from).boxed()
            }
        })
    }

    /// Makes it durable.
    pub async fn commit(self) -> Result<(), DbError> {
        match self {
            Tx::Sqlite(tx) => tx.commit().await?,
            Tx::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }

    /// Whether this is Postgres, for `dialect.rs`.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Tx::Postgres(_))
    }
}

impl Db {
    /// Begins a transaction that writes.
    pub async fn begin(&self) -> Result<Tx, DbError> {
        Ok(match self {
            Db::Sqlite(pools) => Tx::Sqlite(SqliteTx::begin(&pools.writer, "begin immediate").await?),
            Db::Postgres(pools) => Tx::Postgres(Patient::begun(&pools.pool, pools.patience, "begin").await?),
        })
    }

    /// Reads rows, outside any transaction.
    pub async fn all(&self, stmt: Stmt) -> Result<Vec<Row>, DbError> {
        Ok(match self {
            Db::Sqlite(pools) => {
                let (text, args, recurs) = stmt.sqlite()?;
                let rows = sqlx::query_with(text, args).persistent(recurs).fetch_all(&pools.reader).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Db::Postgres(pools) => {
                let (text, args, recurs) = stmt.postgres()?;
                let mut connection = Patient::new(&pools.pool, pools.patience).await?;
                connection.all(text, args, recurs).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Reads the first row, if there is one.
    pub async fn first(&self, stmt: Stmt) -> Result<Option<Row>, DbError> {
        Ok(self.all(stmt).await?.into_iter().next())
    }

    /// Runs one statement in a transaction of its own.
    pub async fn run(&self, stmt: Stmt) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        let touched = tx.run(stmt).await?;
        tx.commit().await?;
        Ok(touched)
    }
}
