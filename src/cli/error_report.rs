//! Prints errors and determines their exit status.

use std::error::Error;
use std::io;

use super::terminal::{self, StdoutClosed};
use crate::config::{ConfigError, ConfigErrors};
use crate::error::{UserError, UserFault, hint_of};

const RED: &str = "\x1b[1;31m";
const CYAN: &str = "\x1b[1;36m";
const RESET: &str = "\x1b[0m";

/// The exit status of an error: 0 if only standard output was closed, 2 for usage and settings,
/// else 1.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    let any = |test: fn(&(dyn Error + 'static)) -> bool| error.chain().any(test);
    if any(is_stdout_closed) {
        0
    } else if any(|cause| is_usage_error(cause) || cause.is::<ConfigErrors>() || cause.is::<ConfigError>()) {
        2
    } else {
        1
    }
}

/// Prints an error to standard error, in colour on a terminal.
pub fn print(error: &anyhow::Error) {
    if error.chain().any(is_stdout_closed) {
        return;
    }
    terminal::print_stderr(format_error(error).trim_end());
}

fn is_usage_error(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<UserError>().is_some_and(|error| error.fault == UserFault::Usage)
}

fn is_stdout_closed(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<StdoutClosed>())
}

/// Formats an error: `error: …`, its causes, then the hints.
fn format_error(error: &anyhow::Error) -> String {
    let mut messages: Vec<String> = Vec::new();
    let mut hints: Vec<&str> = Vec::new();
    for cause in error.chain() {
        if let Some(errors) = cause.downcast_ref::<ConfigErrors>() {
            // Its own layout has a hint per problem.
            messages.push(errors.to_string().trim_end().to_owned());
            break;
        }
        hints.extend(hint_of(cause).filter(|hint| !hints.contains(hint)));
        let message = cause.to_string().trim().to_owned();
        // Some errors quote their cause already, but without the code of the database.
        if !message.is_empty() && !messages.iter().any(|before| before.contains(strip_driver_prefix(&message))) {
            messages.push(message);
        }
    }
    let mut lines = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        lines.push(if i == 0 { format!("{RED}error:{RESET} {message}") } else { format!("  because: {message}") });
    }
    lines.extend(hints.iter().map(|hint| format!("{CYAN}hint:{RESET} {hint}")));
    lines.join("\n")
}

/// Removes the text that the database driver puts before the message of the database.
pub(super) fn strip_driver_prefix(message: &str) -> &str {
    let rest = message.strip_prefix("error returned from database: ").unwrap_or(message);
    match rest.strip_prefix("(code: ").and_then(|rest| rest.split_once(") ")) {
        Some((_, message)) => message,
        None => rest,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    fn plain(error: &anyhow::Error) -> String {
        format_error(error).replace(RED, "").replace(CYAN, "").replace(RESET, "")
    }

    #[test]
    fn causes_follow_the_error_and_hints_come_last_and_once() {
        let inner = UserError::failed("failed to open it: no room").with_hint("make room");
        let outer = UserError::failed("failed to export").with_hint("or write elsewhere").with_source(inner);
        let error = anyhow::Error::from(UserError::failed("failed").with_hint("make room").with_source(outer));
        assert_eq!(
            plain(&error),
            "error: failed\n  because: failed to export\n  because: failed to open it: no room\nhint: make room\nhint: or write elsewhere"
        );
    }

    #[test]
    fn a_cause_that_was_quoted_is_not_said_twice() {
        for cause in ["no room", "(code: 13) no room", "error returned from database: (code: 13) no room"] {
            let error = anyhow!(cause).context("failed to write: no room");
            assert_eq!(plain(&error), "error: failed to write: no room");
        }
    }

    #[test]
    fn usage_and_settings_exit_with_2_and_other_failures_with_1() {
        let problem = ConfigError { key: "a".into(), location: None, what: "b".into(), hint: "c".into() };
        assert_eq!(exit_status(&UserError::usage("no").into()), 2);
        assert_eq!(exit_status(&anyhow::Error::from(ConfigErrors(vec![problem])).context("x")), 2);
        assert_eq!(exit_status(&anyhow!("no")), 1);
    }

    #[test]
    fn only_our_own_closed_pipe_ends_quietly() {
        let ours = Err::<(), _>(io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed)).context("failed to write");
        assert_eq!(exit_status(&ours.unwrap_err()), 0);
        let theirs = Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe)).context("failed to ask the database");
        assert_eq!(exit_status(&theirs.unwrap_err()), 1);
    }
}
