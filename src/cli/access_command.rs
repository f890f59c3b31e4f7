//! `access`: keys for programs, and the access log.

use std::fmt::Write as _;

use anyhow::bail;
use secrecy::ExposeSecret;

use super::{CommandContext, terminal};
use crate::access::{AccessAction, AccessEntry, AccessSubject, dialog_of, generate_key, hash_key};
use crate::clock::Time;
use crate::config;
use crate::db::{AccessLogQuery, AccessLogRow, OpenMode};
use crate::error::UserError;
use crate::render::clean_line;

#[derive(Debug, clap::Args)]
pub(crate) struct AccessArgs {
    #[command(subcommand)]
    pub(crate) command: AccessCommand,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AccessCommand {
    /// Create a key for a program; prints it once, with the settings that accept it
    NewKey(NewKeyArgs),
    /// Show who read, searched, exported or erased what
    Log(AccessLogArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct NewKeyArgs {
    /// Name of the program, for the access log
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Name of its role in [[access.roles]]
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: String,
    /// When the key becomes invalid: a date (midnight UTC), a time, or a span from now (90d)
    #[arg(long, value_name = "TIME")]
    pub(crate) expires: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AccessLogArgs {
    /// Entries at or after this time
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Entries before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Only this reader: an e-mail address or subject, the name of a key, http.token, or a system
    /// user
    #[arg(long, value_name = "READER")]
    pub(crate) who: Option<String>,
    /// Only entries about this segment or its dialog, also after its erasure
    #[arg(long, value_name = "ID")]
    pub(crate) segment: Option<String>,
    /// Print JSON, one entry per line
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) async fn run(args: AccessArgs, context: &CommandContext) -> anyhow::Result<u8> {
    match args.command {
        AccessCommand::NewKey(args) => new_key(&args, context),
        AccessCommand::Log(args) => show_log(&args, context).await,
    }
}

fn new_key(args: &NewKeyArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let name = args.name.trim();
    if name.is_empty() || !name.chars().all(|letter| letter.is_alphanumeric() || "-_.".contains(letter)) {
        let error = UserError::usage(format!("invalid name {name:?}"));
        bail!(error.with_hint("give letters, digits, -, _ and dots, such as qa-scoring"));
    }
    let expires = args.expires.as_deref().map(|text| parse_expiry(text, context.clock.now())).transpose()?;
    check_names(name, &args.role, context)?;
    let key = generate_key();
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut settings = format!(
        "[[access.keys]]\nname = {}\nkey_hash = {}\nrole = {}\n",
        quoted(name),
        quoted(&hash_key(&key)),
        quoted(&args.role)
    );
    if let Some(expires) = expires {
        settings.push_str(&format!("expires = {}\n", quoted(&format_expiry(expires))));
    }
    terminal::print_stdout(&format!("{}\n\n{settings}", key.expose_secret()))?;
    terminal::print_stderr(
        "the first line is the key, which is shown only now: the program sends it as `Authorization: Bearer KEY`\n\
         add the other lines to the settings and restart the daemon; they contain only the key's hash",
    );
    Ok(0)
}

/// Compares name and role with the settings, if there are any.
fn check_names(name: &str, role: &str, context: &CommandContext) -> anyhow::Result<()> {
    let access = match context.settings() {
        Ok(settings) => &settings.access,
        Err(error) => {
            terminal::print_stderr(&format!(
                "warning: the role was not checked, because the settings are invalid: {error}"
            ));
            return Ok(());
        }
    };
    if access.keys.iter().any(|key| key.name == name) {
        let error = UserError::usage(format!("a key named {name:?} is in the settings already"));
        bail!(error.with_hint("give the new key another name, so that both are valid while the program changes over"));
    }
    if !access.roles.iter().any(|known| known.name == role) {
        let known: Vec<&str> = access.roles.iter().map(|known| known.name.as_str()).collect();
        let error = UserError::usage(format!("no role is named {role:?}"));
        bail!(error.with_hint(match known.as_slice() {
            [] => "add it to the settings first, as [[access.roles]]".to_owned(),
            known => format!("the settings have {}", known.join(", ")),
        }));
    }
    Ok(())
}

fn parse_expiry(text: &str, now: Time) -> Result<Time, UserError> {
    const HINT: &str = "give a date such as 2027-06-30 (midnight UTC), a time, or a span from now such as 90d";
    let invalid = |why: &str| UserError::usage(format!("invalid --expires: {why}")).with_hint(HINT);
    let at = match humantime::parse_duration(text.trim()) {
        Ok(span) => now + span,
        Err(_) => config::parse_time(text, now).map_err(|_| invalid(&format!("{text:?} is not a time")))?,
    };
    if at <= now { Err(invalid(&format!("{} is over already", at.rfc3339_secs()))) } else { Ok(at) }
}

/// A date where it is midnight, or else a time.
fn format_expiry(at: Time) -> String {
    let text = at.rfc3339_secs();
    text.strip_suffix("T00:00:00Z").map_or(text.clone(), str::to_owned)
}

async fn show_log(args: &AccessLogArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let (from, to) = context.parse_range(args.from.as_deref(), args.to.as_deref())?;
    let db = context.open_database(OpenMode::Existing).await?;
    let dialog = dialog_of(&db, args.segment.as_deref()).await?;
    let query = AccessLogQuery {
        from,
        to,
        who: args.who.as_deref().map(str::trim),
        about: args.segment.as_deref().map(|segment| (segment, dialog.as_deref())),
    };
    let subject = AccessSubject::Other { what: &describe_query(args), sub: None };
    context.record_access(&db, AccessAction::ReadLog, subject).await?;
    let (mut after, mut count) = (0, 0_usize);
    loop {
        let entries = db.access_log(&query, after).await?;
        let Some(last) = entries.last() else { break };
        after = last.id;
        count += entries.len();
        let mut text = String::new();
        for entry in entries {
            if args.json {
                text.push_str(&serde_json::to_string(&AccessEntry::from(entry))?);
                text.push('\n');
            } else {
                text.push_str(&format_entry(&entry));
            }
        }
        terminal::print_stdout(&text)?;
    }
    db.close().await;
    if count == 0 && !args.json {
        terminal::print_stderr("no entries");
    }
    Ok(0)
}

/// The filters, for the entry about this command.
fn describe_query(args: &AccessLogArgs) -> String {
    let fields = [("from", &args.from), ("to", &args.to), ("who", &args.who)];
    let mut text = "access log".to_owned();
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(text, " {name}={value}");
        }
    }
    // Without its id: it may be one that was erased.
    if args.segment.is_some() {
        text.push_str(" about a segment");
    }
    text
}

/// An entry on one line: when, who, from where, what.
fn format_entry(entry: &AccessLogRow) -> String {
    let mut line = format!(
        "{}  {} {}  from {}  {}",
        entry.at.rfc3339_secs(),
        entry.reader_kind.replace('_', " "),
        clean_line(&entry.reader),
        clean_line(&entry.origin),
        entry.action.replace('_', " "),
    );
    if entry.subject_kind != "other" {
        let _ = write!(line, " {}", entry.subject_kind);
    }
    match (&entry.subject, entry.erased_by) {
        (Some(subject), _) => drop(write!(line, " {}", clean_line(subject))),
        (None, Some(_)) => line.push_str(" (erased)"),
        (None, None) => line.push_str(" (not kept)"),
    }
    if let Some(sub) = &entry.sub {
        let _ = write!(line, " of account {}", clean_line(sub));
    }
    if let Some(hits) = entry.hits {
        let _ = write!(line, ", {hits} hits");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_secs(1_790_000_000);

    #[test]
    fn an_expiry_is_a_date_a_time_or_a_span_from_now() {
        let expiry = |text: &str| parse_expiry(text, NOW).map(format_expiry).map_err(|error| error.to_string());
        assert_eq!(expiry("2027-06-30").unwrap(), "2027-06-30");
        assert_eq!(expiry("2027-06-30T12:00:00+02:00").unwrap(), "2027-06-30T10:00:00Z");
        assert_eq!(expiry("1d").unwrap(), format_expiry(NOW + std::time::Duration::from_secs(86_400)));
        assert!(expiry("2020-01-01").unwrap_err().contains("is over already"));
        assert!(expiry("soon").unwrap_err().contains("is not a time"));
    }
}
