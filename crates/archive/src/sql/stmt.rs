//! A statement with its arguments, and its form on each database. Pure.
//!
//! On Postgres, many rows become one array per column, so the text is the same for any number of
//! rows. SQLite has no arrays: a statement over many rows runs in pieces of a few fixed sizes, and
//! a list is padded to one of a few lengths. So prepared statements can be reused.

use std::borrow::Cow;

use bytes::Bytes;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments};
use sqlx::{Arguments, AssertSqlSafe, query_with};

use super::super::{DbError, Item, MAX_ROWS_PER_STATEMENT};
use super::placeholders::{array_head, render_list, render_rows, unnest_head};
use crate::clock::Time;

/// Sizes of the pieces in which SQLite runs a statement over many rows. Each size is one text; a
/// text for every number of rows would be parsed and planned each time, which takes longer than to
/// run it.
const ROWS_PER_PIECE: [usize; 8] = [MAX_ROWS_PER_STATEMENT, 100, 32, 16, 8, 4, 2, 1];
/// A built statement with at most this many arguments is prepared for reuse.
const MAX_REUSABLE_ARGS: usize = 32;

/// A value to bind.
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
    Item => |value| Arg::Int(Some(value.0)),
    Time => |value| Arg::Int(Some(value.0)),
    Option<Time> => |value| Arg::Int(value.map(|time| time.0)),
    Option<i64> => |value| Arg::Int(value),
    &str => |value| Arg::Text(Some(value.to_owned())),
    &String => |value| Arg::Text(Some(value.clone())),
    String => |value| Arg::Text(Some(value)),
    Option<String> => |value| Arg::Text(value),
    Option<&str> => |value| Arg::Text(value.map(str::to_owned)),
    Option<u16> => |value| Arg::Int(value.map(i64::from)),
    &[u8] => |value| Arg::Bytes(Some(Bytes::copy_from_slice(value))),
    [u8; 32] => |value| Arg::from(value.as_slice()),
    Option<[u8; 32]> => |value| Arg::Bytes(value.map(|value| Bytes::copy_from_slice(&value))),
    Vec<u8> => |value| Arg::Bytes(Some(value.into())),
    Option<Vec<u8>> => |value| Arg::Bytes(value.map(Bytes::from)),
    Bytes => |value| Arg::Bytes(Some(value)),
    Option<Bytes> => |value| Arg::Bytes(value),
}

/// A statement and its arguments.
#[derive(Debug, Clone)]
pub struct Stmt {
    text: StmtText,
    args: Vec<Arg>,
}

#[derive(Debug, Clone)]
enum StmtText {
    Plain(Cow<'static, str>),
    /// With a list after the arguments in `head`.
    List {
        head: String,
        before: usize,
        count: usize,
        tail: String,
    },
    /// Over many rows. Each database has its own placeholders.
    Rows {
        head: &'static str,
        width: usize,
        count: usize,
        tail: &'static str,
    },
}

/// Starts a statement; `$1`, `$2` … are bound in order.
pub fn sql(text: &'static str) -> Stmt {
    Stmt { text: StmtText::Plain(text.into()), args: Vec::new() }
}

impl Stmt {
    /// Binds the next argument.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Arg>) -> Stmt {
        self.args.push(value.into());
        self
    }

    /// A statement over any number of rows: `head`, then the rows in parentheses, then `tail`. It
    /// has no other arguments. It may run in pieces, so its effect on a row must not depend on
    /// other rows. Without rows it does not run.
    pub(crate) fn rows(head: &'static str, rows: Vec<Vec<Arg>>, tail: &'static str) -> Stmt {
        let (width, count) = (rows.first().map_or(0, Vec::len), rows.len());
        Stmt { text: StmtText::Rows { head, width, count, tail }, args: rows.into_iter().flatten().collect() }
    }

    /// A statement with a list of any length, `head ($k,$k+1,…) tail`, after the arguments `first`.
    /// The list is a set: duplicates must make no difference. It may run in pieces. Without items
    /// it does not run.
    pub(crate) fn list(
        head: &str,
        first: Vec<Arg>,
        items: impl IntoIterator<Item = impl Into<Arg>>,
        tail: &str,
    ) -> Stmt {
        let mut args = first;
        let before = args.len();
        args.extend(items.into_iter().map(Into::into));
        let count = args.len() - before;
        Stmt { text: StmtText::List { head: head.to_owned(), before, count, tail: tail.to_owned() }, args }
    }

    /// A statement built at run time from parts of this program, never from input.
    pub fn built(text: String) -> Stmt {
        Stmt { text: StmtText::Plain(text.into()), args: Vec::new() }
    }

    fn text(&self, postgres: bool) -> Cow<'static, str> {
        match &self.text {
            StmtText::Plain(text) => text.clone(),
            StmtText::List { head, before, count, tail } => render_list(head, *before, *count, tail, postgres).into(),
            StmtText::Rows { head, width, count, tail } => render_rows(head, *width, *count, tail, postgres).into(),
        }
    }

    /// On Postgres: the number of scalar arguments, and the number of arrays for the others; `None`
    /// where it uses no arrays. With arrays, the statement has one text for any number of rows and
    /// is planned once.
    fn array_layout(&self) -> Option<(usize, usize)> {
        match &self.text {
            StmtText::List { head, before, .. } => array_head(head).map(|_| (*before, 1)),
            StmtText::Rows { head, width, .. } => unnest_head(head).map(|_| (0, *width)),
            StmtText::Plain(_) => None,
        }
    }

    /// Whether to keep the prepared statement: not where its text rarely recurs.
    fn is_reusable(&self) -> bool {
        match &self.text {
            StmtText::Rows { count, .. } => ROWS_PER_PIECE.contains(count),
            StmtText::List { before, .. } => (self.args.len() - before).is_power_of_two(),
            StmtText::Plain(Cow::Borrowed(_)) => true,
            StmtText::Plain(Cow::Owned(_)) => self.args.len() <= MAX_REUSABLE_ARGS,
        }
    }

    /// The pieces in which it runs, the largest first. Most statements are one piece.
    pub(super) fn pieces(mut self, postgres: bool) -> Vec<Stmt> {
        let mut pieces = Vec::new();
        match self.text {
            StmtText::Rows { head, width, mut count, tail } => {
                let mut args = self.args.into_iter();
                let sizes = if postgres { &ROWS_PER_PIECE[..1] } else { &ROWS_PER_PIECE[..] };
                while count > 0 {
                    let size = sizes.iter().copied().find(|size| *size <= count).unwrap_or(count);
                    let args = args.by_ref().take(size * width).collect();
                    pieces.push(Stmt { text: StmtText::Rows { head, width, count: size, tail }, args });
                    count -= size;
                }
            }
            StmtText::List { head, before, tail, .. } => {
                let mut items = self.args.split_off(before).into_iter();
                while items.len() > 0 {
                    let count = items.len().min(MAX_ROWS_PER_STATEMENT);
                    let args = self.args.iter().cloned().chain(items.by_ref().take(count)).collect();
                    let text = StmtText::List { head: head.clone(), before, count, tail: tail.clone() };
                    pieces.push(Stmt { text, args });
                }
            }
            text => pieces.push(Stmt { text, args: self.args }),
        }
        pieces
    }

    /// Pads the list to the next power of two with its last element, so that there are few
    /// different texts.
    fn padded(mut self) -> Stmt {
        if let StmtText::List { before, count, .. } = &mut self.text
            && let Some(last) = self.args.get(*before..).and_then(<[Arg]>::last).cloned()
        {
            *count = count.next_power_of_two();
            self.args.resize(*before + *count, last);
        }
        self
    }

    pub(crate) fn sqlite(self) -> Result<Query<'static, Sqlite, SqliteArguments>, DbError> {
        let stmt = self.padded();
        let (text, is_reusable) = (stmt.text(false), stmt.is_reusable());
        let mut args = SqliteArguments::default();
        for arg in stmt.args {
            match arg {
                Arg::Int(value) => args.add(value),
                Arg::Text(value) => args.add(value),
                Arg::Bytes(value) => args.add(value.map(Vec::from)),
            }
            .map_err(DbError::bind_failed)?;
        }
        Ok(query_with(AssertSqlSafe(text), args).persistent(is_reusable))
    }

    pub(super) fn postgres(mut self) -> Result<Query<'static, Postgres, PgArguments>, DbError> {
        let (text, is_reusable, array_layout) = (self.text(true), self.is_reusable(), self.array_layout());
        let mut args = PgArguments::default();
        let rest = array_layout.map(|(scalars, _)| self.args.split_off(scalars));
        for arg in self.args {
            match arg {
                Arg::Int(value) => args.add(value),
                Arg::Text(value) => args.add(value.map(replace_nul)),
                Arg::Bytes(value) => args.add(value.map(Vec::from)),
            }
            .map_err(DbError::bind_failed)?;
        }
        if let (Some(rest), Some((_, width))) = (rest, array_layout) {
            array_columns(rest, width).into_iter().try_for_each(|column| column.add(&mut args))?;
        }
        Ok(query_with(AssertSqlSafe(text), args).persistent(is_reusable || array_layout.is_some()))
    }
}

/// Postgres cannot store NUL in a text. Ids and texts with it are rare and only displayed.
fn replace_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// One column of many rows, as a Postgres array.
#[derive(Default)]
struct ArrayColumn {
    ints: Vec<Option<i64>>,
    texts: Vec<Option<String>>,
    bytes: Vec<Option<Vec<u8>>>,
}

impl ArrayColumn {
    /// Binds the column, whose values must all have one type.
    fn add(self, args: &mut PgArguments) -> Result<(), DbError> {
        match (self.ints.len(), self.texts.len(), self.bytes.len()) {
            (_, 0, 0) => args.add(self.ints),
            (0, _, 0) => args.add(self.texts),
            (0, 0, _) => args.add(self.bytes),
            _ => Err("a column holds values of two types".into()),
        }
        .map_err(DbError::bind_failed)
    }
}

fn array_columns(args: Vec<Arg>, width: usize) -> Vec<ArrayColumn> {
    let mut columns: Vec<ArrayColumn> = (0..width).map(|_| ArrayColumn::default()).collect();
    for (nth, arg) in args.into_iter().enumerate() {
        let Some(column) = columns.get_mut(nth.checked_rem(width).unwrap_or(0)) else { continue };
        match arg {
            Arg::Int(value) => column.ints.push(value),
            Arg::Text(value) => column.texts.push(value.map(replace_nul)),
            Arg::Bytes(value) => column.bytes.push(value.map(Vec::from)),
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ints(stmt: &Stmt) -> Vec<i64> {
        stmt.args.iter().filter_map(|arg| if let Arg::Int(value) = arg { *value } else { None }).collect()
    }

    proptest! {
        #[test]
        fn pieces_are_the_rows_in_order_and_their_texts_are_few(count in 1..=MAX_ROWS_PER_STATEMENT as i64, width in 1..4i64) {
            let rows = (0..count).map(|row| (0..width).map(|column| (row * width + column).into()).collect());
            let pieces = Stmt::rows("insert into t values ", rows.collect(), "").pieces(false);
            prop_assert_eq!(pieces.iter().flat_map(ints).collect::<Vec<_>>(), (0..count * width).collect::<Vec<_>>());
            for piece in &pieces {
                prop_assert!(piece.is_reusable());
                let text = piece.text(false);
                prop_assert_eq!(text.matches('?').count(), piece.args.len());
            }
            prop_assert!(pieces.len() <= 12, "{} pieces", pieces.len());
        }

        #[test]
        fn a_padded_list_is_the_same_set_and_its_texts_are_few(count in 1..=MAX_ROWS_PER_STATEMENT as i64, before in 0..3i64) {
            let head = ["select 1 where a in ", "select 1 where b = $1 and a in ", "select $1, $2 where a in "];
            let first = (0..before).map(|nth| (-1 - nth).into()).collect();
            let padded = Stmt::list(head[before as usize], first, 0..count, " order by a").padded();
            prop_assert!(padded.is_reusable());
            let (before, count) = (before as usize, count as usize);
            let ints = ints(&padded);
            prop_assert_eq!(&ints[..before + count], (-(before as i64)..0).rev().chain(0..count as i64).collect::<Vec<_>>());
            prop_assert!(ints[before + count..].iter().all(|item| *item == count as i64 - 1));
            prop_assert_eq!(padded.text(false).matches('?').count(), ints.len());
        }
    }

    #[test]
    fn a_list_of_nothing_stays_one() {
        let padded = Stmt::list("select 1 where a in ", Vec::new(), Vec::<i64>::new(), "").padded();
        assert_eq!((&*padded.text(false), padded.args.len()), ("select 1 where a in ()", 0));
    }
}
