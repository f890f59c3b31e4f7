//! Writes to standard output, which may be a terminal, a file or a closed pipe, and to standard
//! error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// The assumed width if the terminal does not tell it.
const DEFAULT_COLUMNS: usize = 100;
/// The minimum width of a layout.
const MIN_COLUMNS: usize = 40;
/// The minimum width of the wrapped column of a table.
const MIN_WRAPPED_COLUMNS: u16 = 16;
/// How often a progress bar is drawn while nothing progresses.
const PROGRESS_TICK: Duration = Duration::from_millis(200);

/// The width of the terminal of standard output; without a terminal, `$COLUMNS` or a default.
pub(crate) fn width() -> usize {
    let reported = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let from_env = || std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    reported.filter(|columns| *columns > 0).or_else(from_env).unwrap_or(DEFAULT_COLUMNS).max(MIN_COLUMNS)
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Formats a table without borders. If it is wider than `width`, only the column `wrapped` is
/// wrapped. The columns in `right` are aligned to the right.
pub(crate) fn format_table<const N: usize>(
    header: [&str; N],
    wrapped: usize,
    right: Range<usize>,
    width: usize,
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
    table.set_header(header).add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        column.set_constraint(if index == wrapped {
            ColumnConstraint::LowerBoundary(Width::Fixed(MIN_WRAPPED_COLUMNS))
        } else {
            ColumnConstraint::ContentWidth
        });
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// Writes a value as a line of JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(print_stdout(&format!("{}\n", serde_json::to_string(value)?))?)
}

/// Writes text to standard output, without styles if it is not a terminal.
///
/// # Errors
/// Contains [`StdoutClosed`] if the reader has closed the pipe.
pub(crate) fn print_stdout(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(mark_closed)
}

/// Writes text to standard output, through a pager if that is a terminal with too few rows:
/// `$PAGER`, else `less`. An empty `$PAGER` disables the pager.
///
/// # Errors
/// Contains [`StdoutClosed`] if the reader has closed the pipe.
pub(crate) fn print_paged(text: &str) -> io::Result<()> {
    let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less".to_owned());
    if !is_terminal() || text.lines().count() < rows || pager.trim().is_empty() {
        return print_stdout(text);
    }
    let mut command = Command::new("sh");
    command.args(["-c", &pager]).stdin(Stdio::piped());
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", "FRX");
    }
    let Ok(mut child) = command.spawn() else { return print_stdout(text) };
    if let Some(mut input) = child.stdin.take() {
        // The user may close the pager before the end.
        let _ = input.write_all(text.as_bytes());
    }
    match child.wait() {
        // The shell did not find the pager.
        Ok(status) if status.code() == Some(127) => print_stdout(text),
        _ => Ok(()),
    }
}

/// Writes a line to standard error, and ignores a failure to do so.
pub(crate) fn print_stderr(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{text}");
}

/// Creates a progress bar on standard error, hidden without a terminal.
pub(crate) fn progress_bar(total: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(PROGRESS_TICK);
    bar
}

/// Whether there is a terminal for a question.
pub(crate) fn can_confirm() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a yes-or-no question; returns `None` without a terminal.
///
/// # Errors
/// Returns an error if the answer cannot be read.
pub(crate) fn confirm(question: &str) -> io::Result<Option<bool>> {
    if !can_confirm() {
        return Ok(None);
    }
    let mut out = anstream::stderr().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// The reader of standard output has closed the pipe, as `head` does. This is not a failure.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed by its reader")
    }
}

impl std::error::Error for StdoutClosed {}

/// Marks a closed standard output, to distinguish it from other broken pipes such as those of
/// database connections.
fn mark_closed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed)
    } else {
        error
    }
}

/// Standard output as a byte stream, for exports.
#[derive(Debug)]
pub(crate) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().lock().write(bytes).map_err(mark_closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush().map_err(mark_closed)
    }
}
