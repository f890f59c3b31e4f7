//! Writes rows as Apache Parquet. Only one row group is held in memory, whatever the number of
//! rows.
//!
//! Every column is optional, texts are UTF-8, times are UTC in milliseconds, lists have the
//! standard three levels, and pages are compressed with zstd. DuckDB, pandas, Spark and similar
//! tools read such files without options.
//! The file is complete once [`ParquetWriter::finish`] has returned.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

/// The number of rows at which a row group is written.
const MAX_GROUP_ROWS: usize = 100_000;
/// The number of bytes at which a row group is written.
const MAX_GROUP_BYTES: usize = 32 << 20;
/// The number of rows between two checks of the page size; small, because bodies are large.
const WRITE_BATCH_ROWS: usize = 64;

/// How many times smaller texts are in the file.
const COMPRESSION_ESTIMATE: usize = 4;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParquetType {
    /// Short text that repeats often: ids, names, outcomes. Dictionary-encoded.
    Word,
    /// Text of any length that hardly ever repeats.
    Text,
    /// A time, in milliseconds since 1970.
    Time,
    /// A 64-bit integer.
    Number,
    /// True or false.
    Flag,
    /// A list of short texts, such as ids and names.
    WordList,
}

impl ParquetType {
    /// The type's name in a DuckLake catalog; a list holds texts.
    pub(crate) const fn ducklake_name(self) -> &'static str {
        match self {
            ParquetType::Word | ParquetType::Text => "varchar",
            ParquetType::Time => "timestamptz",
            ParquetType::Number => "int64",
            ParquetType::Flag => "boolean",
            ParquetType::WordList => "list",
        }
    }
}

/// The name and type of a column.
pub(crate) type ColumnSpec = (&'static str, ParquetType);

/// The value of one column in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CellValue {
    /// For [`ParquetType::Word`] and [`ParquetType::Text`].
    Text(String),
    /// For [`ParquetType::Time`] and [`ParquetType::Number`].
    Number(i64),
    /// For [`ParquetType::Flag`].
    Flag(bool),
    /// For [`ParquetType::WordList`].
    List(Vec<String>),
    /// No value.
    Empty,
}

impl CellValue {
    /// A text cell; empty for `None`.
    pub(crate) fn text(text: Option<impl Into<String>>) -> CellValue {
        text.map_or(CellValue::Empty, |text| CellValue::Text(text.into()))
    }

    /// A number cell; empty for `None`.
    pub(crate) fn number(number: Option<i64>) -> CellValue {
        number.map_or(CellValue::Empty, CellValue::Number)
    }
}

/// Writes a Parquet file to `W`.
#[derive(Debug)]
pub(crate) struct ParquetWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    group: Vec<ColumnBuffer>,
    rows: usize,
    bytes: usize,
}

/// The buffered values of a column in the current row group.
#[derive(Debug)]
struct ColumnBuffer {
    data: ColumnData,
    /// The definition level of each value: 0 if the row has none, 1 if it has one. In a list, 1
    /// stands for the empty list and 2 for an element.
    levels: Vec<i16>,
    /// In a list, 0 for the first element of a row and 1 for the others; empty for other columns.
    repetitions: Vec<i16>,
}

#[derive(Debug)]
enum ColumnData {
    Texts(Vec<ByteArray>),
    Numbers(Vec<i64>),
    Flags(Vec<bool>),
    Lists(Vec<ByteArray>),
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Starts a file with these columns; `name` is the name of the schema. The field ids count the
    /// columns from 1; the element of a list counts, too.
    ///
    /// # Errors
    /// Returns an error if `out` cannot be written.
    pub(crate) fn new(out: W, name: &str, columns: &[ColumnSpec]) -> io::Result<ParquetWriter<W>> {
        let mut field_ids = 1..;
        let lines = columns.iter().map(|(name, kind)| {
            let mut next_id = || field_ids.next().unwrap_or(0);
            let id = next_id();
            match kind {
                ParquetType::Word | ParquetType::Text => format!("optional binary {name} (STRING) = {id};"),
                ParquetType::Time => format!("optional int64 {name} (TIMESTAMP(MILLIS,true)) = {id};"),
                ParquetType::Number => format!("optional int64 {name} = {id};"),
                ParquetType::Flag => format!("optional boolean {name} = {id};"),
                ParquetType::WordList => format!(
                    "optional group {name} (LIST) = {id} {{ repeated group list {{ required binary element (STRING) = {}; }} }}",
                    next_id()
                ),
            }
        });
        let message = format!("message {name} {{ {} }}", lines.collect::<Vec<_>>().join(" "));
        let schema = parse_message_type(&message).map_err(into_io_error)?;
        let writer = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(writer_properties(columns)))
            .map_err(into_io_error)?;
        let group = columns.iter().map(|(_, kind)| ColumnBuffer::new(*kind)).collect();
        Ok(ParquetWriter { writer, group, rows: 0, bytes: 0 })
    }

    /// Adds a row, with one cell per column in their order.
    ///
    /// # Errors
    /// Returns an error if a full row group cannot be written.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = CellValue>) -> io::Result<()> {
        for (values, cell) in self.group.iter_mut().zip(row) {
            self.bytes += values.push(cell);
        }
        self.rows += 1;
        if self.rows >= MAX_GROUP_ROWS || self.bytes >= MAX_GROUP_BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    /// Writes the last row group and the footer.
    ///
    /// # Errors
    /// Returns an error if they cannot be written; the file is then incomplete.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.write_group()?;
        self.writer.finish().map(drop).map_err(into_io_error)
    }

    /// Writes the last row group and the footer, and returns what was written to.
    ///
    /// # Errors
    /// As [`ParquetWriter::finish`].
    pub(crate) fn into_inner(mut self) -> io::Result<W> {
        self.write_group()?;
        self.writer.into_inner().map_err(into_io_error)
    }

    /// The size of what was written so far, and an estimate of what is buffered.
    pub(crate) fn approximate_size(&self) -> u64 {
        self.writer.bytes_written() as u64 + (self.bytes / COMPRESSION_ESTIMATE) as u64
    }

    fn write_group(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group().map_err(into_io_error)?;
        for values in &mut self.group {
            if let Some(column) = group.next_column().map_err(into_io_error)? {
                values.write(column).map_err(into_io_error)?;
            }
        }
        group.close().map_err(into_io_error)?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

impl ColumnBuffer {
    fn new(kind: ParquetType) -> ColumnBuffer {
        let data = match kind {
            ParquetType::Word | ParquetType::Text => ColumnData::Texts(Vec::new()),
            ParquetType::Time | ParquetType::Number => ColumnData::Numbers(Vec::new()),
            ParquetType::Flag => ColumnData::Flags(Vec::new()),
            ParquetType::WordList => ColumnData::Lists(Vec::new()),
        };
        ColumnBuffer { data, levels: Vec::new(), repetitions: Vec::new() }
    }

    /// Buffers the cell; returns the approximate memory that it uses.
    fn push(&mut self, cell: CellValue) -> usize {
        let bytes_of = |text: String| ByteArray::from(text.into_bytes());
        let mut size = size_of::<ByteArray>();
        let is_present = match (&mut self.data, cell) {
            (ColumnData::Texts(texts), CellValue::Text(text)) => {
                size += text.len();
                texts.push(bytes_of(text));
                true
            }
            (ColumnData::Numbers(numbers), CellValue::Number(number)) => {
                numbers.push(number);
                true
            }
            (ColumnData::Flags(flags), CellValue::Flag(flag)) => {
                flags.push(flag);
                true
            }
            (ColumnData::Lists(texts), CellValue::List(list)) if !list.is_empty() => {
                size += list.iter().map(|text| text.len() + size_of::<ByteArray>()).sum::<usize>();
                self.levels.extend(list.iter().map(|_| 2));
                self.repetitions.extend((0..list.len()).map(|nth| i16::from(nth > 0)));
                texts.extend(list.into_iter().map(bytes_of));
                return size;
            }
            (ColumnData::Lists(_), CellValue::List(_)) => true,
            _ => false,
        };
        self.levels.push(i16::from(is_present));
        if matches!(self.data, ColumnData::Lists(_)) {
            self.repetitions.push(0);
        }
        size
    }

    fn write(&mut self, mut column: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = (self.levels.as_slice(), self.repetitions.as_slice());
        match &mut self.data {
            ColumnData::Texts(texts) => write_values::<ByteArrayType>(&mut column, texts, levels)?,
            ColumnData::Numbers(numbers) => write_values::<Int64Type>(&mut column, numbers, levels)?,
            ColumnData::Flags(flags) => write_values::<BoolType>(&mut column, flags, levels)?,
            ColumnData::Lists(texts) => write_values::<ByteArrayType>(&mut column, texts, levels)?,
        }
        self.levels.clear();
        self.repetitions.clear();
        column.close()
    }
}

/// Writes the buffered values with their definition and repetition levels, and clears them.
fn write_values<T: DataType>(
    column: &mut SerializedColumnWriter<'_>,
    values: &mut Vec<T::T>,
    (definitions, repetitions): (&[i16], &[i16]),
) -> Result<(), ParquetError> {
    let repetitions = Some(repetitions).filter(|levels| !levels.is_empty());
    column.typed::<T>().write_batch(values, Some(definitions), repetitions)?;
    values.clear();
    Ok(())
}

/// Disables the page index, which would be kept in memory to the end. Readers skip data by the
/// statistics of row groups.
fn writer_properties(columns: &[ColumnSpec]) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_write_batch_size(WRITE_BATCH_ROWS);
    for (name, _) in columns.iter().filter(|(_, kind)| *kind == ParquetType::Text) {
        let path = ColumnPath::from(*name);
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path.clone(), Encoding::PLAIN)
            .set_column_statistics_enabled(path, EnabledStatistics::None);
    }
    properties.build()
}

/// Unwraps the I/O error of the output, if there is one, so that its kind stays visible.
fn into_io_error(error: ParquetError) -> io::Error {
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

    const COLUMNS: [ColumnSpec; 6] = [
        ("id", ParquetType::Word),
        ("said", ParquetType::Text),
        ("at", ParquetType::Time),
        ("version", ParquetType::Number),
        ("known", ParquetType::Flag),
        ("names", ParquetType::WordList),
    ];

    fn written(rows: Vec<[CellValue; 6]>) -> SerializedFileReader<Bytes> {
        let mut file = Vec::new();
        let mut table = ParquetWriter::new(&mut file, "row", &COLUMNS).unwrap();
        for row in rows {
            table.push(row).unwrap();
        }
        table.finish().unwrap();
        SerializedFileReader::new(Bytes::from(file)).unwrap()
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        let text = |text: &str| CellValue::Text(text.to_owned());
        let list = |names: &[&str]| CellValue::List(names.iter().map(|name| (*name).to_owned()).collect());
        let moment = CellValue::Number(1_721_651_880_001);
        let rest = || [CellValue::Empty, CellValue::Empty, CellValue::Empty];
        let [first, second, third] = rest();
        let reader = written(vec![
            [text("a"), text("naïve \0 👩‍💻"), moment, CellValue::Number(-1), CellValue::Flag(true), list(&["x", "y"])],
            [text(""), first, second, third, CellValue::Empty, CellValue::Empty],
            [text("b"), CellValue::Empty, CellValue::Empty, CellValue::Empty, CellValue::Flag(false), list(&[])],
            [text("c"), CellValue::Empty, CellValue::Empty, CellValue::Empty, CellValue::Empty, list(&["z"])],
        ]);
        let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        assert_eq!(rows[0].get_string(1).unwrap(), "naïve \0 👩‍💻");
        assert_eq!(rows[0].get_timestamp_millis(2).unwrap(), 1_721_651_880_001);
        assert_eq!((rows[0].get_long(3).unwrap(), rows[0].get_bool(4).unwrap()), (-1, true));
        let second: Vec<&Field> = rows[1].get_column_iter().map(|(_, field)| field).collect();
        let null = &Field::Null;
        assert_eq!(second, [&Field::Str(String::new()), null, null, null, null, null]);
        let names = |row: usize| rows[row].get_list(5).unwrap().elements().len();
        assert_eq!((names(0), names(2), names(3)), (2, 0, 1));
        assert!(!rows[2].get_bool(4).unwrap());
    }

    #[test]
    fn a_file_without_rows_is_a_file() {
        let reader = written(Vec::new());
        assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
        assert_eq!(reader.metadata().file_metadata().schema_descr().num_columns(), 6);
    }

    #[test]
    fn a_group_ends_by_its_rows_or_its_bytes() {
        let groups = |rows: usize, size: usize| {
            let mut file = Vec::new();
            let mut table = ParquetWriter::new(&mut file, "row", &COLUMNS[1..2]).unwrap();
            for _ in 0..rows {
                table.push([CellValue::Text("x".repeat(size))]).unwrap();
            }
            table.finish().unwrap();
            let reader = SerializedFileReader::new(Bytes::from(file)).unwrap();
            reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect::<Vec<_>>()
        };
        assert_eq!(groups(MAX_GROUP_ROWS + 1, 1), [i64::try_from(MAX_GROUP_ROWS).unwrap(), 1]);
        assert_eq!(groups(3, MAX_GROUP_BYTES / 2), [2, 1]);
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
        let error = ParquetWriter::new(Full, "row", &COLUMNS).and_then(ParquetWriter::finish).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
