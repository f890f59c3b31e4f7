//! A statement and its arguments: what it becomes on each database.
//!
//! Pure. On Postgres many rows are arrays, one for each column, and the text is the same for any number of them. SQLite has no
//! arrays: there a statement over many rows is run in pieces of a few sizes, and a list is padded to one of a few lengths, so
//! that what has been prepared can be used again.

use bytes::Bytes;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, AssertSqlSafe};

use super::super::{BULK, DbError, search};
use super::text::{as_array, as_arrays, list, rows};
use crate::clock::Time;

/// How many rows a statement may have on SQLite, where its text depends on that: one over as many as happen to be there would be
/// parsed and planned anew each time, which takes longer than to run it. So it is run in pieces of these sizes.
const PIECES: [usize; 8] = [BULK, search::DOCS, 32, 16, 8, 4, 2, 1];
/// So many arguments a statement may have that is put together and comes again.
const FEW: usize = 32;

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

    /// A statement over many rows: `head`, then the rows in parentheses, then `tail`. Nothing is bound elsewhere in it. It may be
    /// run in pieces: what it does to a row, or finds for it, must not depend on the others.
    pub fn rows(head: &'static str, rows: Vec<Vec<Arg>>, tail: &'static str) -> Stmt {
        let (width, count) = (rows.first().map_or(0, Vec::len), rows.len());
        Stmt { text: Text::Rows { head, width, count, tail }, args: rows.into_iter().flatten().collect() }
    }

    /// A statement with a list, `head ($k,$k+1,…) tail`, after arguments already bound by `first`. The list is a set: that
    /// something stands in it twice makes no difference.
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
            Text::List { head, before, .. } => as_array(head).map(|_| (*before, 1)),
            Text::Rows { head, width, .. } => as_arrays(head).map(|_| (0, *width)),
            Text::Fixed(_) | Text::Built(_) => None,
        }
    }

    /// Whether the prepared statement is worth keeping: not where the text hardly comes again.
    fn recurs(&self) -> bool {
        match &self.text {
            Text::Rows { count, .. } => PIECES.contains(count),
            Text::List { before, .. } => (self.args.len() - before).is_power_of_two(),
            Text::Built(_) => self.args.len() <= FEW,
            Text::Fixed(_) => true,
        }
    }

    /// The pieces in which SQLite runs it, the largest first; most are one.
    pub(super) fn pieces(mut self) -> Vec<Stmt> {
        let Text::Rows { head, width, mut count, tail } = self.text else { return vec![self] };
        let mut pieces = Vec::new();
        for size in PIECES {
            while count > size {
                count -= size;
                let rest = self.args.split_off(size * width);
                let args = std::mem::replace(&mut self.args, rest);
                pieces.push(Stmt { text: Text::Rows { head, width, count: size, tail }, args });
            }
        }
        pieces.push(Stmt { text: Text::Rows { head, width, count, tail }, args: self.args });
        pieces
    }

    /// The same with a list as long as the next power of two, its last element repeated: there are few such texts.
    fn padded(mut self) -> Stmt {
        if let Text::List { before, count, .. } = &mut self.text
            && let Some(last) = self.args.get(*before..).and_then(<[Arg]>::last).cloned()
        {
            *count = count.next_power_of_two();
            self.args.resize(*before + *count, last);
        }
        self
    }

    pub(super) fn sqlite(self) -> Result<(AssertSqlSafe<String>, SqliteArguments, bool), DbError> {
        let stmt = self.padded();
        let (text, recurs) = (stmt.text(false), stmt.recurs());
        let mut args = SqliteArguments::default();
        for arg in stmt.args {
            match arg {
                Arg::Int(value) => args.add(value),
                Arg::Text(value) => args.add(value),
                Arg::Bytes(value) => args.add(value.map(Vec::from)),
            }
            .map_err(DbError::encode)?;
        }
        Ok((text, args, recurs))
    }

    pub(super) fn postgres(mut self) -> Result<(AssertSqlSafe<String>, PgArguments, bool), DbError> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ints(stmt: &Stmt) -> Vec<i64> {
        stmt.args.iter().filter_map(|arg| if let Arg::Int(value) = arg { *value } else { None }).collect()
    }

    proptest! {
        #[test]
        fn pieces_are_the_rows_in_order_and_their_texts_are_few(count in 1..=BULK as i64, width in 1..4i64) {
            let rows = (0..count).map(|row| (0..width).map(|column| (row * width + column).into()).collect());
            let pieces = Stmt::rows("insert into t values ", rows.collect(), "").pieces();
            prop_assert_eq!(pieces.iter().flat_map(ints).collect::<Vec<_>>(), (0..count * width).collect::<Vec<_>>());
            for piece in &pieces {
                prop_assert!(piece.recurs());
                let text = piece.text(false).0;
                prop_assert_eq!(text.matches('?').count(), piece.args.len());
            }
            prop_assert!(pieces.len() <= 12, "{} pieces", pieces.len());
        }

        #[test]
        fn a_padded_list_is_the_same_set_and_its_texts_are_few(count in 1..=BULK as i64, before in 0..3i64) {
            let head = ["select 1 where a in ", "select 1 where b = $1 and a in ", "select $1, $2 where a in "];
            let first = (0..before).map(|nth| (-1 - nth).into()).collect();
            let padded = Stmt::list(head[before as usize], first, 0..count, " order by a").padded();
            prop_assert!(padded.recurs());
            let (before, count) = (before as usize, count as usize);
            let ints = ints(&padded);
            prop_assert_eq!(&ints[..before + count], (-(before as i64)..0).rev().chain(0..count as i64).collect::<Vec<_>>());
            prop_assert!(ints[before + count..].iter().all(|item| *item == count as i64 - 1));
            prop_assert_eq!(padded.text(false).0.matches('?').count(), ints.len());
        }
    }

    #[test]
    fn a_list_of_nothing_stays_one() {
        let padded = Stmt::list("select 1 where a in ", Vec::new(), Vec::<i64>::new(), "").padded();
        assert_eq!((padded.text(false).0.as_str(), padded.args.len()), ("select 1 where a in ()", 0));
    }
}
