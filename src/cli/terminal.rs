//! Writing to standard output, which may be a terminal, a file, or a pipe that nobody reads any more.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

/// Columns to assume where none can be asked for.
const COLUMNS: usize = 100;
/// Nothing is laid out narrower.
const NARROWEST: usize = 40;
/// The column of a table that is broken over lines is not narrower.
const ELASTIC: u16 = 16;

/// How wide the terminal is that standard output goes to; `COLUMNS` or a default where it is none.
pub fn width() -> usize {
    let asked = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let told = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    asked.filter(|columns| *columns > 0).or_else(told).unwrap_or(COLUMNS).max(NARROWEST)
}

/// Whether standard output goes to a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// A table of these columns, without lines. Only the column `elastic` is broken over lines where the whole is wider than
/// `width`.
pub fn table<const N: usize>(header: [&str; N], elastic: usize, width: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        column.set_constraint(if index == elastic {
            ColumnConstraint::LowerBoundary(Width::Fixed(ELASTIC))
        } else {
            ColumnConstraint::ContentWidth
        });
    }
    table
}

/// Writes text to standard output; styles are left out where it is no terminal.
///
/// # Errors
/// With [`Closed`] in it where the reader has gone.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(closed)
}

/// Writes text to standard output, through a pager where that is a terminal that the text does not fit on: `$PAGER`, else
/// `less`; an empty `$PAGER` stands for none.
///
/// # Errors
/// With [`Closed`] in it where the reader has gone.
pub fn page(text: &str) -> io::Result<()> {
    let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    if !is_terminal() || text.lines().count() < rows || pager.trim().is_empty() {
        return print(text);
    }
    let mut command = Command::new("sh");
    command.args(["-c", &pager]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.spawn() else { return print(text) };
    if let Some(mut input) = child.stdin.take() {
        // Whoever has read enough closes the pager: nothing is wrong.
        let _ = input.write_all(text.as_bytes());
    }
    match child.wait() {
        // The shell's word that there is no such command.
        Ok(status) if status.code() == Some(127) => print(text),
        _ => Ok(()),
    }
}

/// Writes a remark to standard error. That it cannot be written is no reason to fail.
pub fn remark(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Asks a question that is answered by yes or no; `None` where there is nobody to answer.
///
/// # Errors
/// Where the answer cannot be read.
pub fn confirm(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    let mut out = anstream::stderr().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// Whoever read standard output has gone, as `head` does: nothing is wrong, there is just nothing more to do.
#[derive(Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for Closed {}

/// Tells this program's own closed pipe from any other, such as a database connection's.
fn closed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe { io::Error::new(io::ErrorKind::BrokenPipe, Closed) } else { error }
}

/// Standard output as bytes, for exports.
#[derive(Debug)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().lock().write(bytes).map_err(closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush().map_err(closed)
    }
}
