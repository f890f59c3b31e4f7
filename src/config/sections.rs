//! Builds [`Settings`] from the [`Document`]: what is required, what excludes what, and the values
//! that need more than their type.
//!
//! Reads the host name of the machine if no instance is set, and the files of secrets. Continues
//! after a problem, so that all problems are found at once.

mod access_settings;
mod account_settings;
mod auth_settings;
mod sink_settings;
mod url;
mod webhook_settings;

use std::path::PathBuf;
use std::time::Duration;

use humantime::format_duration;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::Targets;

use super::checker::{Checker, LoadScope};
use super::config_error::quoted;
use super::secret::Secret;
use super::setting_types::Text;
use super::settings::{
    Accounts, ApiSettings, DailyReport, Database, DatabaseUrl, Discovery, Fetch, Http, Limits, Log, Settings, Sink,
};
use super::settings_document::{DatabaseSection, Document, HttpSection, ReportSection};

pub(super) use sink_settings::REDACTION_HINT;
pub(super) use url::has_password;
pub use webhook_settings::signing_key;

/// The smallest offset that the API documents.
const API_MIN_OFFSET: Duration = Duration::from_mins(5);
/// The widest window that the API documents.
const API_MAX_WINDOW: Duration = Duration::from_hours(3);
/// The longer of the two periods in which the API limits metadata requests.
const METADATA_LIMIT_PERIOD: Duration = Duration::from_mins(15);
/// The highest concurrency per account, which is more than any request limit allows.
pub(super) const MAX_CONCURRENCY: usize = 10_000;

/// Builds all settings; if it returns `None`, the checker has problems.
pub(super) fn build_settings(document: Document, checker: &mut Checker<'_>) -> Option<Settings> {
    let Document { mut api, auth, accounts, discover_accounts, mut discovery, limits, mut fetch, mut log, .. } =
        document;
    check_api(&mut api, checker);
    check_discovery(&mut discovery, checker);
    warn_about_limits(&discovery, &limits, checker);
    check_fetch(&mut fetch, checker);
    check_log(&mut log, checker);
    let auth = auth_settings::build_auth(auth, checker);
    let accounts = account_settings::build_accounts(accounts, discover_accounts, checker);
    let database = build_database(document.database, checker);
    let http = build_http(document.http, checker);
    let report = build_report(document.report, checker);
    let access = access_settings::build_access(document.access, checker);
    let sinks = sink_settings::build_sinks(document.sinks, checker);
    if let (Some(accounts), Some((sinks, _))) = (&accounts, &sinks) {
        warn_about_unknown_accounts(accounts, sinks, checker);
    }
    if checker.scope == LoadScope::All && auth.is_none() {
        return None;
    }
    if let (Some(Accounts::Listed(listed)), Some(access)) = (&accounts, &access) {
        access_settings::warn_about_unknown_accounts(listed, access, checker);
    }
    let (mut sinks, unreadable_sinks) = sinks?;
    let database = database?;
    sink_settings::find_archive_catalogs(&mut sinks, &database.url);
    Some(Settings {
        api,
        auth,
        accounts: accounts?,
        discovery,
        limits,
        fetch,
        database,
        http,
        access: access?,
        log,
        report,
        sinks,
        unreadable_sinks,
    })
}

fn check_api(api: &mut ApiSettings, checker: &mut Checker<'_>) {
    const HINT: &str = r#"give https:// and a host, such as "https://ringcx.ringcentral.com""#;
    let ApiSettings { platform_url, ringcx_url, summary_url, .. } = api;
    for (name, text) in [("platform_url", platform_url), ("ringcx_url", ringcx_url), ("summary_url", summary_url)] {
        let path = format!("api.{name}");
        let given = checker.require(&path, Text::from(std::mem::take(text)).0, HINT);
        let Some(base) = given.and_then(|url| checker.accept(&path, url::parse_base_url(&url), HINT)) else { continue };
        if base.is_unencrypted {
            checker.warn(&path, "is plain http: tokens and conversations are sent unencrypted");
        }
        *text = base.url;
    }
}

fn check_discovery(discovery: &mut Discovery, checker: &mut Checker<'_>) {
    const WINDOW: &str = "discovery.window";
    const MAX_WINDOW: &str = "discovery.max_window";
    let Discovery { window, max_window, .. } = discovery;
    for (path, window) in [(WINDOW, &mut *window), (MAX_WINDOW, &mut *max_window)] {
        *window = Duration::from_secs(window.as_secs());
        if window.is_zero() {
            checker.reject(path, "is less than a second", "the API counts whole seconds: give one or more");
        }
    }
    // A user who changes one of the two does not have to change the other.
    let is_max_set = checker.is_set(MAX_WINDOW);
    if *max_window < *window {
        if is_max_set {
            let max = format_duration(*max_window);
            checker.warn(WINDOW, &format!("is wider than max_window, {max}: windows are {max} wide"));
            *window = *max_window;
        } else {
            *max_window = *window;
        }
    }
    if *max_window > API_MAX_WINDOW {
        let path = if is_max_set { MAX_WINDOW } else { WINDOW };
        checker.reject(
            path,
            format!("{} is wider than the API accepts", format_duration(*max_window)),
            "give at most 3h",
        );
    }
    if discovery.offset < API_MIN_OFFSET {
        checker.warn(
            "discovery.offset",
            "is less than the documented minimum of 5m: RingCX may reject windows, or omit segments that it still processes",
        );
    }
}

/// Warns about limits above the documented ones, and if the live reads alone need more requests
/// than the metadata budget allows.
fn warn_about_limits(discovery: &Discovery, limits: &Limits, checker: &mut Checker<'_>) {
    let documented = Limits::default();
    for (name, limit, documented) in [
        ("requests_per_minute", limits.requests_per_minute, documented.requests_per_minute),
        ("metadata_per_minute", limits.metadata_per_minute, documented.metadata_per_minute),
        ("metadata_per_15_minutes", limits.metadata_per_15_minutes, documented.metadata_per_15_minutes),
        ("token_exchanges_per_minute", limits.token_exchanges_per_minute, documented.token_exchanges_per_minute),
    ] {
        if limit > documented {
            let what = "RingCX will reject the requests beyond it";
            checker
                .warn(&format!("limits.{name}"), &format!("is more than the documented limit of {documented}: {what}"));
        }
    }
    let needed = METADATA_LIMIT_PERIOD.as_secs().div_ceil(discovery.interval.as_secs().max(1));
    let per_minute = u64::from(limits.metadata_per_minute.get()).saturating_mul(15);
    let allowed = per_minute.min(u64::from(limits.metadata_per_15_minutes.get()));
    if needed > allowed {
        let what = format!(
            "needs {needed} metadata requests in 15 min, but the limits allow {allowed}: windows will be read less often"
        );
        checker.warn("discovery.interval", &what);
    }
}

/// Warns if a sink names an account that is not listed and therefore never has events.
fn warn_about_unknown_accounts(accounts: &Accounts, sinks: &[Sink], checker: &mut Checker<'_>) {
    let Accounts::Listed(listed) = accounts else { return };
    for (i, sink) in sinks.iter().enumerate() {
        for account in sink.accounts.iter().filter(|sub| listed.iter().all(|account| *account.id.sub != ***sub)) {
            let what = format!("sinks[{i}].accounts: {} is not a sub_account_id in [[accounts]]", quoted(account));
            checker.warnings.push(what);
        }
    }
}

fn check_fetch(fetch: &mut Fetch, checker: &mut Checker<'_>) {
    if !(1..=MAX_CONCURRENCY).contains(&fetch.concurrency) {
        let hint = format!("give a whole number from 1 to {MAX_CONCURRENCY}");
        checker.reject("fetch.concurrency", format!("{} is out of range", fetch.concurrency), &hint);
    }
    let Fetch { retry_initial, retry_max, .. } = fetch;
    if *retry_max < *retry_initial {
        // A user who changes one of the two does not have to change the other.
        let is_max_set = checker.is_set("fetch.retry_max");
        if is_max_set && !checker.is_set("fetch.retry_initial") {
            *retry_initial = *retry_max;
        } else {
            if is_max_set {
                let initial = format_duration(*retry_initial);
                checker.warn("fetch.retry_max", &format!("is less than retry_initial: each delay is {initial}"));
            }
            *retry_max = *retry_initial;
        }
    }
}

fn check_log(log: &mut Log, checker: &mut Checker<'_>) {
    const HINT: &str = r#"give a level ("info", "debug"), or directives such as "info,ringcx_extractor=debug""#;
    let given = checker.require("log.filter", Text::from(std::mem::take(&mut log.filter)).0, HINT);
    log.filter = given.unwrap_or_default();
    if !log.filter.is_empty() && log.filter.parse::<Targets>().is_err() {
        checker.reject("log.filter", format!("{} is not a log filter", quoted(&log.filter)), HINT);
    }
}

/// The hint for a database URL that cannot be used.
pub(super) const DATABASE_URL_HINT: &str = r#"give "sqlite:relative/path.db", "sqlite:///absolute/path.db" or "postgres://user:password@host/database" (percent-encode special characters in the password)"#;

/// The database if none is set.
pub(super) const DEFAULT_DATABASE_URL: &str = "sqlite:data/ringcx-extractor.db";

fn build_database(section: DatabaseSection, checker: &mut Checker<'_>) -> Option<Database> {
    const PATH: &str = "database.url";
    let given = checker.secret(PATH, section.url, section.url_file);
    let is_default = !checker.is_set(PATH) && !checker.has_problem(PATH);
    let default = is_default.then(|| Secret { value: DEFAULT_DATABASE_URL.into(), file: None });
    let secret = checker.require(PATH, given.or(default), DATABASE_URL_HINT);
    let url = secret.as_ref().and_then(|secret| {
        checker.accept(&secret.source(PATH), parse_database_url(secret.value.expose_secret()), DATABASE_URL_HINT)
    });
    let instance = build_instance(section.instance, checker);
    Some(Database { url: url?, secret: secret?, instance: instance? })
}

/// Parses the URL of a database. No error message quotes it.
pub(super) fn parse_database_url(text: &str) -> Result<DatabaseUrl, String> {
    let text = text.trim();
    match text.split_once(':') {
        Some(("sqlite", path)) => url::parse_sqlite_path(path).map(|path| DatabaseUrl::Sqlite(PathBuf::from(path))),
        Some(("postgres" | "postgresql", _)) => {
            url::check_postgres_url(text).map(|()| DatabaseUrl::Postgres(SecretString::from(text)))
        }
        _ => Err("names an unknown kind of database".to_owned()),
    }
}

fn build_instance(instance: Text, checker: &mut Checker<'_>) -> Option<String> {
    const PATH: &str = "database.instance";
    // A Postgres index entry can have up to 2,704 bytes.
    const MAX_INSTANCE_BYTES: usize = 512;
    const HINT: &str = "set database.instance to a name that does not change at a restart";
    if let Some(name) = instance.0 {
        let checked = if name.chars().any(char::is_control) {
            Err("contains a control character".to_owned())
        } else if name.len() > MAX_INSTANCE_BYTES {
            Err(format!("is longer than {MAX_INSTANCE_BYTES} bytes"))
        } else {
            Ok(name)
        };
        return checker.accept(PATH, checked, HINT);
    }
    let host = hostname::get().ok().and_then(|name| name.into_string().ok()).filter(|name| !name.trim().is_empty());
    checker.require(PATH, host, HINT)
}

/// Builds the daily report; `None` without a time of day.
fn build_report(section: ReportSection, checker: &mut Checker<'_>) -> Option<DailyReport> {
    const HINT: &str = r#"give a UTC time of day such as "06:00", or "" for no daily report"#;
    let daily_at = section.daily_at.0?;
    let at = checker.accept("report.daily_at", parse_time_of_day(&daily_at), HINT);
    let folder = checker.require("report.path", section.path.0, r#"give the folder of the reports, such as "reports""#);
    let (format, with_verification) = (section.format, section.verify);
    Some(DailyReport { at: at?, folder: PathBuf::from(folder?), format, with_verification })
}

/// Parses hours and minutes, as the time since midnight.
fn parse_time_of_day(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{} is not a time of day", quoted(text));
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |part: &str, limit: u64| {
        let is_number = (1..=2).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u64>().ok().filter(|number| is_number && *number < limit).ok_or_else(wrong)
    };
    Ok(Duration::from_mins(number(hours, 24)? * 60 + number(minutes, 60)?))
}

fn build_http(section: HttpSection, checker: &mut Checker<'_>) -> Http {
    const HINT: &str = r#"give an address and a port, such as "127.0.0.1:8480", or "" to turn it off"#;
    let token = checker.secret("http.token", section.token, section.token_file).map(|token| token.value);
    let listen = section.listen.0;
    if let Some(wrong) = listen.as_deref().filter(|listen| !url::is_listen_address(listen)) {
        checker.reject("http.listen", format!("{} is not an address with a port", quoted(wrong)), HINT);
    }
    Http { listen, token }
}
