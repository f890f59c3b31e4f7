//! `check`: whether everything is in place, a line each, and what to do where it is not.
//!
//! Goes from the settings over database and login to one metadata window of each account, whose records it drops, and one
//! artifact of each kind. Takes its requests from the budgets that a daemon on the same database shares, and goes on after a failure as far as it can.

mod account;
mod sinks;

use account::One;

use std::sync::Arc;

use super::failure::bare;
use super::{Context, terminal};
use crate::clock::Time;
use crate::config::{Accounts, Auth, DatabaseUrl, LimitScope, Loaded, Settings};
use crate::daemon::shared;
use crate::db::{Access, Db, DbError, DbFault};
use crate::reading::clean;
use crate::ringcx::limits::Pacer;
use crate::ringcx::{self, Api, ApiError, Login};

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// What all the checks of accounts share.
struct Reach<'a> {
    context: &'a Context,
    settings: &'a Settings,
    db: Db,
    api: Api,
    login: Login,
    /// Of the login, where it is the login's limit.
    pacer: Pacer,
}

/// Checks everything; exit status 1 if anything is wrong, 2 if it is the settings.
///
/// # Errors
/// Where standard output cannot be written to, or the settings are wrong.
pub async fn run(_args: Args, context: &Context) -> anyhow::Result<u8> {
    let mut lines = Lines::default();
    let loaded = match context.loaded() {
        Ok(loaded) => loaded,
        Err(errors) => {
            lines.say(&Line::bad("settings", "cannot be used; nothing else was tried"))?;
            return Err(errors.into());
        }
    };
    let settings = &loaded.settings;
    let credential = credential(settings, context.clock.now());
    let sinks = sinks::check(&settings.sinks, &context.clock);
    for line in self::settings(loaded).into_iter().chain(credential).chain(sinks) {
        lines.say(&line)?;
    }
    let db = match database(context, settings, &mut lines).await? {
        Some(db) => db,
        None => {
            lines.say(&Line::bad("login", "not tried: its budget of five a minute is kept in the database"))?;
            return Ok(lines.status());
        }
    };
    let api = match Api::new(shared::hosts(settings), settings.api.request_timeout, context.clock.clone()) {
        Ok(api) => api,
        Err(error) => {
            lines.say(&Line::refused("login", &error))?;
            return Ok(lines.status());
        }
    };
    let login = shared::login(settings, &api, &db, &context.clock);
    if log_in(settings, &login, &mut lines).await? {
        let pacer = Pacer::new(settings.limits.requests_per_minute, context.clock.clone());
        let reach = Reach { context, settings, db: db.clone(), api, login, pacer };
        reach.accounts(&mut lines).await?;
    } else {
        lines.say(&Line::bad("accounts", "not tried: that takes a login"))?;
    }
    db.close().await;
    Ok(lines.status())
}

fn settings(loaded: &Loaded) -> Vec<Line> {
    let from =
        loaded.file.as_ref().map_or_else(|| "from the environment alone".to_owned(), |file| file.display().to_string());
    let mut lines = vec![Line::good("settings", &from)];
    lines.extend(loaded.warnings.iter().map(|warning| Line::odd("settings", warning)));
    lines
}

/// A line where the login's JWT credential ends soon, or has ended.
fn credential(settings: &Settings, now: Time) -> Option<Line> {
    let expires = shared::credentials(&settings.auth).expires()?;
    let found = ringcx::expiry(expires, now)?;
    let line = if found.over { Line::bad } else { Line::odd };
    Some(Line { hint: Some(found.hint.to_owned()), ..line("credential", &found.sentence) })
}

async fn database(context: &Context, settings: &Settings, lines: &mut Lines) -> anyhow::Result<Option<Db>> {
    let which = match &settings.database.url {
        DatabaseUrl::Sqlite(path) => format!("SQLite, {}", path.display()),
        // The URL may hold a password.
        DatabaseUrl::Postgres(_) => "Postgres".to_owned(),
    };
    let opened = context.open(Access::Own).await;
    let reached = match opened {
        Ok(db) => db.ping().await.map(|()| db).map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    Ok(match reached {
        Ok(db) => {
            lines.say(&Line::good("database", &format!("{which}: answers and takes writes")))?;
            Some(db)
        }
        Err(error) => {
            let mut found = told(&error);
            let full = error.downcast_ref::<DbError>().is_some_and(|error| error.fault() == DbFault::Full);
            if full && !found.contains("hint:") {
                found.push_str("\nhint: make room on its disk, and the file and its folder writable for this user");
            }
            lines.say(&Line::bad("database", &found))?;
            None
        }
    })
}

/// An error and what it came of, each thing once.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(bare(&cause)) {
            text.push_str(&format!("\nbecause: {cause}"));
        }
    }
    text
}

/// Whether there is a token to go on with.
async fn log_in(settings: &Settings, login: &Login, lines: &mut Lines) -> anyhow::Result<bool> {
    let how = match &settings.auth {
        Auth::RingCentral { .. } => "RingCentral JWT, exchanged for a RingCX token",
        Auth::Engage { .. } => "Engage user name and password",
        Auth::ApiToken { .. } => "permanent API token: shown to be good or not by the first request below",
    };
    match login.token().await {
        Ok(_) => {
            lines.say(&Line::good("login", how))?;
            if matches!(settings.auth, Auth::RingCentral { .. }) {
                lines.say(&Line::good("scope", "ReadAccounts is granted, or the answer named no scopes"))?;
            }
            Ok(true)
        }
        Err(error) => {
            // The scope is looked at within the login: an error about it names it.
            let what = if error.message.contains("ReadAccounts") { "scope" } else { "login" };
            lines.say(&Line::refused(what, &error))?;
            Ok(false)
        }
    }
}

impl Reach<'_> {
    async fn accounts(&self, lines: &mut Lines) -> anyhow::Result<()> {
        let listed: Vec<One> = match &self.settings.accounts {
            Accounts::Listed(listed) => listed
                .iter()
                .map(|one| One { id: one.id.clone(), name: one.name.clone(), artifacts: one.policy.wants.artifacts })
                .collect(),
            Accounts::Discovered(how) => {
                let permit = self.pacer.enter().await;
                let seen = ringcx::accounts(&self.api, &self.login, &self.pacer, permit).await;
                let seen = match seen {
                    Ok(seen) => seen,
                    Err(error) => return lines.say(&Line::refused("accounts", &error)),
                };
                let all = seen.len();
                let kept = seen.into_iter().filter(|one| !how.exclude.contains(&*one.id.sub));
                let artifacts = how.policy.wants.artifacts;
                let kept: Vec<One> = kept.map(|one| One { id: one.id, name: one.name, artifacts }).collect();
                let found = format!("the login sees {all} sub-accounts, {} of them excluded", all - kept.len());
                lines.say(&if kept.is_empty() {
                    Line::bad("accounts", &found)
                } else {
                    Line::good("accounts", &found)
                })?;
                kept
            }
        };
        for one in listed {
            let pacer = match self.settings.limits.scope {
                LimitScope::Login => self.pacer.clone(),
                LimitScope::SubAccount => {
                    Pacer::new(self.settings.limits.requests_per_minute, self.context.clock.clone())
                }
            };
            let budget = shared::metadata_budget(&self.settings.limits, &one.id.sub, &self.db, &self.context.clock);
            for line in account::check(self, &one, &pacer, &Arc::clone(&budget)).await {
                lines.say(&line)?;
            }
        }
        Ok(())
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    grade: Grade,
    what: String,
    found: String,
    hint: Option<String>,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    Good,
    /// Allowed and yet worth saying.
    Odd,
    Bad,
}

impl Line {
    fn new(grade: Grade, what: &str, found: &str) -> Line {
        // Errors of the database bring their hint along on a line of its own.
        let (hints, found): (Vec<&str>, Vec<&str>) =
            found.lines().partition(|line| line.trim_start().starts_with("hint:"));
        let hint = hints.first().map(|hint| hint.trim_start().trim_start_matches("hint:").trim().to_owned());
        Line { grade, what: what.to_owned(), found: found.join(" "), hint }
    }

    fn good(what: &str, found: &str) -> Line {
        Line::new(Grade::Good, what, found)
    }

    fn odd(what: &str, found: &str) -> Line {
        Line::new(Grade::Odd, what, found)
    }

    fn bad(what: &str, found: &str) -> Line {
        Line::new(Grade::Bad, what, found)
    }

    fn refused(what: &str, error: &ApiError) -> Line {
        let hint = error.hint().map(str::to_owned);
        Line { hint, ..Line::bad(what, &error.to_string()) }
    }

    fn text(&self) -> String {
        let (colour, word) = match self.grade {
            Grade::Good => ("\x1b[32m", "ok"),
            Grade::Odd => ("\x1b[33m", "note"),
            Grade::Bad => ("\x1b[1;31m", "FAILED"),
        };
        let clean = |text: &str| clean(text).replace('\n', " ");
        let mut text = format!("{colour}{word:<7}\x1b[0m {}: {}\n", clean(&self.what), clean(&self.found));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("        hint: {}\n", clean(hint)));
        }
        text
    }
}

/// Says lines as they come and remembers whether one was bad.
#[derive(Debug, Default)]
struct Lines {
    bad: bool,
}

impl Lines {
    fn say(&mut self, line: &Line) -> anyhow::Result<()> {
        self.bad |= line.grade == Grade::Bad;
        Ok(terminal::print(&line.text())?)
    }

    fn status(&self) -> u8 {
        u8::from(self.bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_on_a_line_of_its_own_becomes_the_lines_hint() {
        let line = Line::bad("database", "failed to open it: no room\nhint: make room");
        assert_eq!(line.found, "failed to open it: no room");
        assert_eq!(line.hint.as_deref(), Some("make room"));
        assert!(line.text().ends_with("hint: make room\n"), "{}", line.text());
    }

    #[test]
    fn what_an_error_came_of_is_said_once() {
        let error = anyhow::anyhow!("no room").context("failed to open it: no room\nhint: make room");
        assert_eq!(told(&error), "failed to open it: no room\nhint: make room");
    }

    #[test]
    fn what_a_line_shows_cannot_steer_the_terminal() {
        let text = Line::good("account \x1b[2J", "seen\r").text();
        assert!(!text.contains("\x1b[2J") && !text.contains('\r'), "{text:?}");
    }

    #[test]
    fn one_bad_line_is_enough_and_a_note_is_none() {
        let mut lines = Lines::default();
        lines.say(&Line::odd("settings", "offset is below what the vendor documents")).unwrap();
        assert_eq!(lines.status(), 0);
        lines.say(&Line::bad("login", "failed to log in")).unwrap();
        lines.say(&Line::good("scope", "fine")).unwrap();
        assert_eq!(lines.status(), 1);
    }
}
