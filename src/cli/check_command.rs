//! `check`: checks the whole installation, with one line per check and a hint for each problem.
//!
//! Checks the settings, the sinks, the identity provider, the database and the login. Then it reads one metadata window of
//! each account, whose records it drops, and one artifact of each kind. Its requests count against
//! the budgets that it shares with a daemon on the same database. It continues after a failure as
//! far as possible.

mod access_check;
mod account_check;
mod sink_check;

use account_check::CheckedAccount;

use std::sync::Arc;

use serde::Serialize;

use super::error_report::strip_driver_prefix;
use super::{CommandContext, terminal};
use crate::clock::Time;
use crate::config::{Accounts, Auth, DatabaseUrl, LimitScope, LoadedSettings, Settings};
use crate::daemon::app_context;
use crate::db::{Db, DbError, DbFault, OpenMode};
use crate::error::{first_hint, hint_of};
use crate::render::clean_text;
use crate::ringcx::rate_limit::Pacer;
use crate::ringcx::{self, ApiClient, ErrorCause, Login};

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Print JSON, one check per line
    #[arg(long)]
    json: bool,
}

/// The resources that the checks of all accounts share.
struct CheckEnv<'a> {
    context: &'a CommandContext,
    settings: &'a Settings,
    db: Db,
    api: ApiClient,
    login: Login,
    /// The pacer of the login, used if `limits.scope` is the login.
    pacer: Pacer,
}

/// Runs all checks; returns exit status 1 if one failed, or 2 if the settings are invalid.
pub(crate) async fn run(args: CheckArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let mut output = CheckOutput { is_json: args.json, ..CheckOutput::default() };
    let loaded = match context.loaded_settings() {
        Ok(loaded) => loaded,
        Err(errors) => {
            output.print(&CheckLine::failed("settings", "invalid; nothing else was checked"))?;
            return Err(errors.into());
        }
    };
    let settings = &loaded.settings;
    let credential = check_credential(settings, context.clock.now());
    let sinks = sink_check::check(&settings.sinks, &context.clock);
    let access = access_check::check(&settings.access, &context.clock).await;
    for line in settings_lines(loaded).into_iter().chain(credential).chain(sinks).chain(access) {
        output.print(&line)?;
    }
    let db = match check_database(context, settings, &mut output).await? {
        Some(db) => db,
        None => {
            output.print(&CheckLine::failed("login", "not checked: its request budget is stored in the database"))?;
            return Ok(output.exit_status());
        }
    };
    let api =
        match ApiClient::new(app_context::api_hosts(settings), settings.api.request_timeout, context.clock.clone()) {
            Ok(api) => api,
            Err(error) => {
                output.print(&CheckLine::from_error("login", &error))?;
                return Ok(output.exit_status());
            }
        };
    let login = app_context::build_login(
        settings,
        tokio::sync::watch::Sender::new(settings.login()?.clone()).subscribe(),
        &api,
        &db,
        &context.clock,
    );
    if check_login(settings, &login, &mut output).await? {
        let pacer = Pacer::new(settings.limits.requests_per_minute, context.clock.clone());
        let env = CheckEnv { context, settings, db: db.clone(), api, login, pacer };
        env.check_accounts(&mut output).await?;
    } else {
        output.print(&CheckLine::failed("accounts", "not checked: this requires a login"))?;
    }
    db.close().await;
    Ok(output.exit_status())
}

fn settings_lines(loaded: &LoadedSettings) -> Vec<CheckLine> {
    let from =
        loaded.file.as_ref().map_or_else(|| "from the environment only".to_owned(), |file| file.display().to_string());
    let mut lines = vec![CheckLine::ok("settings", &from)];
    lines.extend(loaded.warnings.iter().map(|warning| CheckLine::warning("settings", warning)));
    lines
}

/// A line if the JWT credential of the login expires soon or has expired.
fn check_credential(settings: &Settings, now: Time) -> Option<CheckLine> {
    let expires = app_context::login_credentials(settings.auth.as_ref()?).expires()?;
    let finding = ringcx::expiry_warning(expires, now)?;
    let line = if finding.is_expired { CheckLine::failed } else { CheckLine::warning };
    Some(line("credential", &finding.sentence).with_hint(Some(finding.hint)))
}

async fn check_database(
    context: &CommandContext,
    settings: &Settings,
    output: &mut CheckOutput,
) -> anyhow::Result<Option<Db>> {
    let name = match &settings.database.url {
        DatabaseUrl::Sqlite(path) => format!("SQLite, {}", path.display()),
        // The URL may contain a password.
        DatabaseUrl::Postgres(_) => "Postgres".to_owned(),
    };
    let opened = context.open_database(OpenMode::CreateOrMigrate).await;
    let reached = match opened {
        Ok(db) => db.ping().await.map(|()| db).map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    Ok(match reached {
        Ok(db) => {
            output.print(&CheckLine::ok("database", &format!("{name}: reachable and writable")))?;
            Some(db)
        }
        Err(error) => {
            const FULL_HINT: &str = "free space on its disk, and make the file and its folder writable for this user";
            let full = error.downcast_ref::<DbError>().is_some_and(|error| error.fault() == DbFault::StorageFull);
            let hint = first_hint(&error).or(full.then_some(FULL_HINT));
            output.print(&CheckLine::failed("database", &format_causes(&error)).with_hint(hint))?;
            None
        }
    })
}

/// Formats an error and its causes, without repetitions.
fn format_causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(strip_driver_prefix(&cause)) {
            text.push_str(&format!("\nbecause: {cause}"));
        }
    }
    text
}

/// Logs in; returns whether there is a token for further checks.
async fn check_login(settings: &Settings, login: &Login, output: &mut CheckOutput) -> anyhow::Result<bool> {
    let auth = settings.login()?;
    let method = match auth {
        Auth::RingCentral { .. } => "RingCentral JWT, exchanged for a RingCX token",
        Auth::Engage { .. } => "Engage user name and password",
        Auth::ApiToken { .. } => "permanent API token: verified by the first request below",
    };
    match login.token().await {
        Ok(_) => {
            output.print(&CheckLine::ok("login", method))?;
            if matches!(auth, Auth::RingCentral { .. }) {
                output.print(&CheckLine::ok("scope", "ReadAccounts is granted, or the answer listed no scopes"))?;
            }
            Ok(true)
        }
        Err(error) => {
            // The login checks the scope, and its error then names it.
            let what = if error.cause == ErrorCause::MissingScope { "scope" } else { "login" };
            output.print(&CheckLine::from_error(what, &error))?;
            Ok(false)
        }
    }
}

impl CheckEnv<'_> {
    async fn check_accounts(&self, output: &mut CheckOutput) -> anyhow::Result<()> {
        let accounts: Vec<CheckedAccount> = match &self.settings.accounts {
            Accounts::Listed(listed) => listed
                .iter()
                .map(|one| CheckedAccount {
                    id: one.id.clone(),
                    name: one.name.clone(),
                    artifacts: one.policy.wants.artifacts,
                })
                .collect(),
            Accounts::Discovered(discover) => {
                let permit = self.pacer.acquire().await;
                let visible = ringcx::list_sub_accounts(&self.api, &self.login, &self.pacer, permit).await;
                let visible = match visible {
                    Ok(visible) => visible,
                    Err(error) => return output.print(&CheckLine::from_error("accounts", &error)),
                };
                let all = visible.len();
                let kept = visible.into_iter().filter(|one| !discover.exclude.contains(&*one.id.sub));
                let artifacts = discover.policy.wants.artifacts;
                let kept: Vec<CheckedAccount> =
                    kept.map(|one| CheckedAccount { id: one.id, name: one.name, artifacts }).collect();
                let found = format!("the login can see {all} sub-accounts, {} of them excluded", all - kept.len());
                output.print(&if kept.is_empty() {
                    CheckLine::failed("accounts", &found)
                } else {
                    CheckLine::ok("accounts", &found)
                })?;
                kept
            }
        };
        for account in accounts {
            let pacer = match self.settings.limits.scope {
                LimitScope::Login => self.pacer.clone(),
                LimitScope::SubAccount => {
                    Pacer::new(self.settings.limits.requests_per_minute, self.context.clock.clone())
                }
            };
            let budget =
                app_context::metadata_budget(&self.settings.limits, &account.id.sub, &self.db, &self.context.clock);
            for line in account_check::check(self, &account, &pacer, &Arc::clone(&budget)).await {
                output.print(&line)?;
            }
        }
        Ok(())
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct CheckLine {
    level: CheckLevel,
    what: String,
    found: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckLevel {
    Ok,
    /// Valid but unusual.
    Warning,
    Failed,
}

impl CheckLine {
    fn new(level: CheckLevel, what: &str, found: &str) -> CheckLine {
        CheckLine { level, what: what.to_owned(), found: found.replace('\n', " "), hint: None }
    }

    fn with_hint(self, hint: Option<&str>) -> CheckLine {
        CheckLine { hint: hint.map(str::to_owned), ..self }
    }

    fn ok(what: &str, found: &str) -> CheckLine {
        CheckLine::new(CheckLevel::Ok, what, found)
    }

    fn warning(what: &str, found: &str) -> CheckLine {
        CheckLine::new(CheckLevel::Warning, what, found)
    }

    fn failed(what: &str, found: &str) -> CheckLine {
        CheckLine::new(CheckLevel::Failed, what, found)
    }

    fn from_error(what: &str, error: &(dyn std::error::Error + 'static)) -> CheckLine {
        CheckLine::failed(what, &error.to_string()).with_hint(hint_of(error))
    }

    fn format(&self) -> String {
        let (colour, word) = match self.level {
            CheckLevel::Ok => ("\x1b[32m", "ok"),
            CheckLevel::Warning => ("\x1b[33m", "note"),
            CheckLevel::Failed => ("\x1b[1;31m", "FAILED"),
        };
        let clean = |text: &str| clean_text(text).replace('\n', " ");
        let mut text = format!("{colour}{word:<7}\x1b[0m {}: {}\n", clean(&self.what), clean(&self.found));
        if let Some(hint) = &self.hint {
            text.push_str(&format!("        hint: {}\n", clean(hint)));
        }
        text
    }
}

/// Prints lines and remembers whether a check failed.
#[derive(Debug, Default)]
struct CheckOutput {
    is_json: bool,
    has_failed: bool,
}

impl CheckOutput {
    fn print(&mut self, line: &CheckLine) -> anyhow::Result<()> {
        self.has_failed |= line.level == CheckLevel::Failed;
        match self.is_json {
            true => terminal::print_json(line),
            false => Ok(terminal::print_stdout(&line.format())?),
        }
    }

    fn exit_status(&self) -> u8 {
        u8::from(self.has_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::UserError;

    #[test]
    fn the_hint_of_an_error_becomes_the_lines_hint() {
        let error = UserError::failed("failed to open it: no room").with_hint("make room");
        let line = CheckLine::from_error("database", &error);
        assert_eq!(line.found, "failed to open it: no room");
        assert_eq!(line.hint.as_deref(), Some("make room"));
        assert!(line.format().ends_with("hint: make room\n"), "{}", line.format());
    }

    #[test]
    fn what_an_error_came_of_is_said_once() {
        let error = anyhow::anyhow!("no room").context("failed to open it: no room");
        assert_eq!(format_causes(&error), "failed to open it: no room");
    }

    #[test]
    fn what_a_line_shows_cannot_steer_the_terminal() {
        let text = CheckLine::ok("account \x1b[2J", "seen\r").format();
        assert!(!text.contains("\x1b[2J") && !text.contains('\r'), "{text:?}");
    }

    #[test]
    fn one_bad_line_is_enough_and_a_note_is_none() {
        let mut output = CheckOutput::default();
        output.print(&CheckLine::warning("settings", "offset is below what the vendor documents")).unwrap();
        assert_eq!(output.exit_status(), 0);
        output.print(&CheckLine::failed("login", "failed to log in")).unwrap();
        output.print(&CheckLine::ok("scope", "fine")).unwrap();
        assert_eq!(output.exit_status(), 1);
    }
}
