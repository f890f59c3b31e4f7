//! Rows written as Apache Parquet, in groups: only one group is held in memory, whatever the number of rows.
//!
//! Every column may be empty, texts are UTF-8, times are UTC in milliseconds, and pages are compressed (zstd): what DuckDB,
//! pandas, Spark and the like open as it is. The file is whole once [`Table::finish`] has returned.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

/// A group is written when it holds so many rows,
const ROWS: usize = 10_000;
/// or so many bytes.
const BYTES: usize = 32 << 20;
/// Rows between two looks at a page's size: few, for bodies are large.
const BATCH: usize = 64;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Short text, much of it the same: ids, names, outcomes.
    Word,
    /// Text of any length, hardly ever the same twice.
    Text,
    /// A moment, in milliseconds since 1970.
    Time,
    /// A whole number.
    Number,
}

/// A column's name and kind.
pub type Column = (&'static str, Kind);

/// What stands in one column of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// For [`Kind::Word`] and [`Kind::Text`].
    Text(String),
    /// For [`Kind::Time`] and [`Kind::Number`].
    Number(i64),
    /// Nothing.
    Empty,
}

impl Cell {
    /// A text, where there is one.
    pub fn text(text: Option<impl Into<String>>) -> Cell {
        text.map_or(Cell::Empty, |text| Cell::Text(text.into()))
    }

    /// A number, where there is one.
    pub fn number(number: Option<i64>) -> Cell {
        number.map_or(Cell::Empty, Cell::Number)
    }
}

/// A file of rows on its way to `W`.
#[derive(Debug)]
pub struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: Vec<Values>,
    rows: usize,
    bytes: usize,
}

/// A column of the group that gathers.
#[derive(Debug)]
struct Values {
    data: Data,
    /// 1 for each row that has a value, 0 for the others.
    levels: Vec<i16>,
}

#[derive(Debug)]
enum Data {
    Texts(Vec<ByteArray>),
    Numbers(Vec<i64>),
}

impl<W: Write + Send> Table<W> {
    /// Begins a file of these columns; `name` is what a row is.
    ///
    /// # Errors
    /// Where `out` cannot be written.
    pub fn new(out: W, name: &str, columns: &[Column]) -> io::Result<Table<W>> {
        let lines = columns.iter().map(|(name, kind)| match kind {
            Kind::Word | Kind::Text => format!("optional binary {name} (STRING);"),
            Kind::Time => format!("optional int64 {name} (TIMESTAMP(MILLIS,true));"),
            Kind::Number => format!("optional int64 {name};"),
        });
        let message = format!("message {name} {{ {} }}", lines.collect::<Vec<_>>().join(" "));
        let schema = parse_message_type(&message).map_err(plain)?;
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties(columns))).map_err(plain)?;
        let group = columns.iter().map(|(_, kind)| Values::new(*kind)).collect();
        Ok(Table { writer, group, rows: 0, bytes: 0 })
    }

    /// Adds a row; one cell a column, in their order.
    ///
    /// # Errors
    /// Where a group is full and cannot be written.
    pub fn push<const N: usize>(&mut self, row: [Cell; N]) -> io::Result<()> {
        for (values, cell) in self.group.iter_mut().zip(row) {
            self.bytes += values.push(cell);
        }
        self.rows += 1;
        if self.rows >= ROWS || self.bytes >= BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes what has gathered, and the file's end.
    ///
    /// # Errors
    /// Where that cannot be written; what was written is no whole file then.
    pub fn finish(mut self) -> io::Result<()> {
        self.write_group()?;
        self.writer.finish().map(drop).map_err(plain)
    }

    fn write_group(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(plain)?;
        for values in &mut self.group {
            if let Some(column) = group.next_column().map_err(plain)? {
                values.write(column).map_err(plain)?;
            }
        }
        group.close().map_err(plain)?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

impl Values {
    fn new(kind: Kind) -> Values {
        let data = match kind {
            Kind::Word | Kind::Text => Data::Texts(Vec::new()),
            Kind::Time | Kind::Number => Data::Numbers(Vec::new()),
        };
        Values { data, levels: Vec::new() }
    }

    /// Keeps the cell; returns how much memory that takes, roughly.
    fn push(&mut self, cell: Cell) -> usize {
        let mut size = size_of::<ByteArray>();
        let is_there = match (&mut self.data, cell) {
            (Data::Texts(texts), Cell::Text(text)) => {
                size += text.len();
                texts.push(ByteArray::from(text.into_bytes()));
                true
            }
            (Data::Numbers(numbers), Cell::Number(number)) => {
                numbers.push(number);
                true
            }
            _ => false,
        };
        self.levels.push(i16::from(is_there));
        size
    }

    fn write(&mut self, mut column: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        match &mut self.data {
            Data::Texts(texts) => {
                column.typed::<ByteArrayType>().write_batch(texts, Some(&self.levels), None)?;
                texts.clear();
            }
            Data::Numbers(numbers) => {
                column.typed::<Int64Type>().write_batch(numbers, Some(&self.levels), None)?;
                numbers.clear();
            }
        }
        self.levels.clear();
        column.close()
    }
}

/// No index of pages: it would be kept in memory to the end, and the groups' own statistics tell readers what to skip.
fn properties(columns: &[Column]) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_write_batch_size(BATCH);
    for (name, _) in columns.iter().filter(|(_, kind)| *kind == Kind::Text) {
        let path = ColumnPath::from(*name);
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path.clone(), Encoding::PLAIN)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    properties.build()
}

/// The error of whoever is written to, where it is one, so that its kind can still be seen.
fn plain(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, RowAccessor};

    use super::*;

    const COLUMNS: [Column; 4] =
        [("id", Kind::Word), ("said", Kind::Text), ("at", Kind::Time), ("version", Kind::Number)];

    fn written(rows: Vec<[Cell; 4]>) -> SerializedFileReader<Bytes> {
        let mut file = Vec::new();
        let mut table = Table::new(&mut file, "row", &COLUMNS).unwrap();
        for row in rows {
            table.push(row).unwrap();
        }
        table.finish().unwrap();
        SerializedFileReader::new(Bytes::from(file)).unwrap()
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let reader = written(vec![
            [text("a"), text("naïve \0 👩‍💻"), Cell::Number(1_721_651_880_001), Cell::Number(-1)],
            [text(""), Cell::Empty, Cell::Empty, Cell::Empty],
        ]);
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows[0].get_string(1).unwrap(), "naïve \0 👩‍💻");
        assert_eq!(rows[0].get_timestamp_millis(2).unwrap(), 1_721_651_880_001);
        assert_eq!(rows[0].get_long(3).unwrap(), -1);
        let second: Vec<&Field> = rows[1].get_column_iter().map(|(_, field)| field).collect();
        assert_eq!(second, [&Field::Str(String::new()), &Field::Null, &Field::Null, &Field::Null]);
    }

    #[test]
    fn a_file_without_rows_is_a_file() {
        let reader = written(Vec::new());
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
        assert_eq!(reader.metadata().file_metadata().schema_descr().num_columns(), 4);
    }

    #[test]
    fn a_group_ends_by_its_rows_or_its_bytes() {
        let row = |size: usize| [Cell::Empty, Cell::Text("x".repeat(size)), Cell::Empty, Cell::Empty];
        let groups = |rows: Vec<[Cell; 4]>| {
            let reader = written(rows);
            reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect::<Vec<_>>()
        };
        assert_eq!(groups(vec![row(1); ROWS + 1]), [i64::try_from(ROWS).unwrap(), 1]);
        assert_eq!(groups(vec![row(BYTES / 2); 3]), [2, 1]);
    }

    #[test]
    fn the_error_of_what_is_written_to_is_what_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = Table::new(Full, "row", &COLUMNS).and_then(Table::finish).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
