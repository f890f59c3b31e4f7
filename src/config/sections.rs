//! Reads [`Settings`] section by section, with defaults and validation.
//!
//! Reads the host name of the machine if no instance is set, and the files that [`SettingsReader`]
//! reads. Continues after a problem, so that all problems are found at once.

mod account_settings;
mod auth_settings;
mod sink_settings;
mod url;

pub use sink_settings::signing_key;

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::Targets;

use super::config_error::quoted;
use super::settings::{
    Accounts, ApiSettings, Database, DatabaseUrl, Discovery, Fetch, Http, LimitScope, Limits, Log, LogFormat, Settings,
    Sink,
};
use super::settings_reader::{SecretValue, Section, SettingsReader, SourcedValue};
use super::time_parse::{TIME_FORMS, parse_start};

/// The smallest offset that the API documents.
const API_MIN_OFFSET: Duration = Duration::from_secs(5 * 60);
/// The widest window that the API documents.
const API_MAX_WINDOW: Duration = Duration::from_secs(3 * 3600);
/// The longer of the two periods in which the API limits metadata requests.
const METADATA_LIMIT_PERIOD: Duration = Duration::from_secs(15 * 60);
/// The highest concurrency per account, which is more than any request limit allows.
const MAX_CONCURRENCY: u32 = 10_000;

/// Reads all settings; if it returns `None`, the reader contains problems.
pub(super) fn read_settings(reader: &mut SettingsReader<'_>) -> Option<Settings> {
    let api = read_api(reader);
    let auth = auth_settings::read_auth(reader);
    let accounts = account_settings::read_accounts(reader);
    let discovery = read_discovery(reader);
    let limits = read_limits(reader);
    let fetch = read_fetch(reader);
    let database = read_database(reader);
    let http = read_http(reader);
    let log = read_log(reader);
    let sinks = sink_settings::read_sinks(reader);
    if let (Some(discovery), Some(limits)) = (&discovery, &limits) {
        warn_if_over_budget(reader, discovery, limits);
    }
    if let (Some(accounts), Some(sinks)) = (&accounts, &sinks) {
        warn_about_unknown_accounts(reader, accounts, sinks);
    }
    Some(Settings {
        api: api?,
        auth: auth?,
        accounts: accounts?,
        discovery: discovery?,
        limits: limits?,
        fetch: fetch?,
        database: database?,
        http: http?,
        log: log?,
        sinks: sinks?,
    })
}

fn read_api(reader: &mut SettingsReader<'_>) -> Option<ApiSettings> {
    let section = reader.section("api");
    let platform_url = read_base_url(reader, &section, "platform_url");
    let ringcx_url = read_base_url(reader, &section, "ringcx_url");
    let summary_url = read_base_url(reader, &section, "summary_url");
    let request_timeout = reader.span(&section, "request_timeout");
    Some(ApiSettings {
        platform_url: platform_url?,
        ringcx_url: ringcx_url?,
        summary_url: summary_url?,
        request_timeout: request_timeout?,
    })
}

fn read_base_url(reader: &mut SettingsReader<'_>, section: &Section<'_>, name: &str) -> Option<String> {
    const HINT: &str = r#"give https:// and a host, such as "https://ringcx.ringcentral.com""#;
    let given = reader.required(section, name, HINT)?;
    match url::parse_base_url(&given.value) {
        Ok(base) => {
            if base.is_unencrypted {
                reader.warn(section, name, "is plain http: tokens and conversations are sent unencrypted");
            }
            Some(base.url)
        }
        Err(what) => reader.reject(&given, what, HINT),
    }
}

fn read_discovery(reader: &mut SettingsReader<'_>) -> Option<Discovery> {
    let section = reader.section("discovery");
    let window = reader.window(&section, "window");
    let offset = reader.span(&section, "offset");
    let interval = reader.span(&section, "interval");
    let max_window = reader.window(&section, "max_window");
    let rechecks = reader.spans(&section, "rechecks");
    let start = reader.required(&section, "start", TIME_FORMS).and_then(|given| match parse_start(&given.value) {
        Ok(start) => Some(start),
        Err(what) => reader.reject(&given, what, &format!("give \"now\", {TIME_FORMS}")),
    });
    let (mut window, mut max_window) = (window?, max_window?);
    // A user who changes one of the two does not have to change the other.
    if max_window < window {
        if reader.is_set(&section, "max_window") {
            let span = humantime::format_duration;
            let what = format!("is wider than max_window, {0}: windows are {0} wide", span(max_window));
            reader.warn(&section, "window", &what);
            window = max_window;
        } else {
            max_window = window;
        }
    }
    if max_window > API_MAX_WINDOW {
        let name = if reader.is_set(&section, "max_window") { "max_window" } else { "window" };
        let location = reader.location_of(&section, name);
        let what = format!("{} is wider than the API accepts", humantime::format_duration(max_window));
        reader.add_problem(&section.key(name), location, what, "give at most 3h");
    }
    if offset.is_some_and(|offset| offset < API_MIN_OFFSET) {
        reader.warn(
            &section,
            "offset",
            "is less than the documented minimum of 5m: RingCX may reject windows, or omit segments that it still processes",
        );
    }
    Some(Discovery { window, offset: offset?, interval: interval?, max_window, start: start?, rechecks: rechecks? })
}

fn read_limits(reader: &mut SettingsReader<'_>) -> Option<Limits> {
    let section = reader.section("limits");
    let scopes = [("sub_account", LimitScope::SubAccount), ("login", LimitScope::Login)];
    let scope = reader.choice(&section, "scope", &scopes);
    let mut limit = |name: &str, documented: u32| {
        let limit = reader.count(&section, name, u32::MAX)?;
        if limit.get() > documented {
            reader.warn(
                &section,
                name,
                &format!(
                    "is more than the documented limit of {documented}: RingCX will reject the requests beyond it"
                ),
            );
        }
        Some(limit)
    };
    let requests_per_minute = limit("requests_per_minute", 120);
    let metadata_per_minute = limit("metadata_per_minute", 3);
    let metadata_per_15_minutes = limit("metadata_per_15_minutes", 9);
    let token_exchanges_per_minute = limit("token_exchanges_per_minute", 5);
    Some(Limits {
        scope: scope?,
        requests_per_minute: requests_per_minute?,
        metadata_per_minute: metadata_per_minute?,
        metadata_per_15_minutes: metadata_per_15_minutes?,
        token_exchanges_per_minute: token_exchanges_per_minute?,
    })
}

/// Warns if the live reads alone need more requests than the metadata budget allows.
fn warn_if_over_budget(reader: &mut SettingsReader<'_>, discovery: &Discovery, limits: &Limits) {
    let needed = METADATA_LIMIT_PERIOD.as_secs().div_ceil(discovery.interval.as_secs().max(1));
    let per_minute = u64::from(limits.metadata_per_minute.get()).saturating_mul(15);
    let allowed = per_minute.min(u64::from(limits.metadata_per_15_minutes.get()));
    if needed > allowed {
        let section = reader.section("discovery");
        let what = format!(
            "needs {needed} metadata requests in 15 min, but the limits allow {allowed}: windows will be read less often"
        );
        reader.warn(&section, "interval", &what);
    }
}

/// Warns if a sink names an account that is not listed and therefore never has events.
fn warn_about_unknown_accounts(reader: &mut SettingsReader<'_>, accounts: &Accounts, sinks: &[Sink]) {
    let Accounts::Listed(listed) = accounts else { return };
    for (i, sink) in sinks.iter().enumerate() {
        for account in sink.accounts.iter().filter(|sub| listed.iter().all(|account| *account.id.sub != ***sub)) {
            let what = format!("sinks[{i}].accounts: {} is not a sub_account_id in [[accounts]]", quoted(account));
            reader.warnings.push(what);
        }
    }
}

fn read_fetch(reader: &mut SettingsReader<'_>) -> Option<Fetch> {
    let section = reader.section("fetch");
    let concurrency = reader.count(&section, "concurrency", MAX_CONCURRENCY);
    let retry_initial = reader.span(&section, "retry_initial");
    let retry_max = reader.span(&section, "retry_max");
    let give_up_after = reader.span(&section, "give_up_after");
    let revisit = reader.spans(&section, "revisit");
    let (mut retry_initial, mut retry_max) = (retry_initial?, retry_max?);
    if retry_max < retry_initial {
        // A user who changes one of the two does not have to change the other.
        if reader.is_set(&section, "retry_max") && !reader.is_set(&section, "retry_initial") {
            retry_initial = retry_max;
        } else {
            if reader.is_set(&section, "retry_max") {
                let span = humantime::format_duration;
                let what = format!("is less than retry_initial: each delay is {}", span(retry_initial));
                reader.warn(&section, "retry_max", &what);
            }
            retry_max = retry_initial;
        }
    }
    Some(Fetch {
        concurrency: usize::try_from(concurrency?.get()).ok()?,
        retry_initial,
        retry_max,
        give_up_after: give_up_after?,
        revisit: revisit?,
    })
}

/// The hint for a database URL that cannot be used.
pub(super) const DATABASE_URL_HINT: &str = r#"give "sqlite:relative/path.db", "sqlite:///absolute/path.db" or "postgres://user:password@host/database" (percent-encode special characters in the password)"#;

fn read_database(reader: &mut SettingsReader<'_>) -> Option<Database> {
    let section = reader.section("database");
    let url = read_database_url(reader, &section);
    let instance = read_instance(reader, &section);
    let (url, url_file) = url?;
    Some(Database { url, url_file, instance: instance? })
}

fn read_database_url(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<(DatabaseUrl, Option<PathBuf>)> {
    let given: SourcedValue<SecretValue> = match reader.secret(section, "url") {
        Some(given) => given,
        None if reader.has_problem("database.url_file") => return None,
        None => return reader.report_missing(section, "url", DATABASE_URL_HINT),
    };
    let parsed = parse_database_url(given.value.value.expose_secret());
    let file = given.value.file.clone();
    parsed.map(|url| (url, file)).map_err(|what| reader.reject::<_, ()>(&given, what, DATABASE_URL_HINT)).ok()
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

fn read_instance(reader: &mut SettingsReader<'_>, section: &Section<'_>) -> Option<String> {
    // A Postgres index entry can have up to 2,704 bytes.
    const MAX_INSTANCE_BYTES: usize = 512;
    const HINT: &str = "set database.instance to a name that does not change at a restart";
    if let Some(given) = reader.text(section, "instance") {
        if given.value.chars().any(char::is_control) {
            return reader.reject(&given, "contains a control character".to_owned(), HINT);
        }
        if given.value.len() > MAX_INSTANCE_BYTES {
            return reader.reject(&given, format!("is longer than {MAX_INSTANCE_BYTES} bytes"), HINT);
        }
        return Some(given.value);
    }
    let host = hostname::get().ok().and_then(|name| name.into_string().ok()).filter(|name| !name.trim().is_empty());
    host.or_else(|| reader.report_missing(section, "instance", HINT))
}

fn read_http(reader: &mut SettingsReader<'_>) -> Option<Http> {
    const HINT: &str = r#"give an address and a port, such as "127.0.0.1:8480", or "" to turn it off"#;
    let section = reader.section("http");
    let token = reader.secret(&section, "token").map(|given| given.value.value);
    let Some(given) = reader.text(&section, "listen") else { return Some(Http { listen: None, token }) };
    if !url::is_listen_address(&given.value) {
        return reader.reject(&given, format!("{} is not an address with a port", quoted(&given.value)), HINT);
    }
    Some(Http { listen: Some(given.value), token })
}

fn read_log(reader: &mut SettingsReader<'_>) -> Option<Log> {
    const HINT: &str = r#"give a level ("info", "debug"), or directives such as "info,ringcx_extractor=debug""#;
    let section = reader.section("log");
    let format = reader.choice(&section, "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let given = reader.required(&section, "filter", HINT);
    let filter = given.and_then(|given| match given.value.parse::<Targets>() {
        Ok(_) => Some(given.value),
        Err(_) => reader.reject(&given, format!("{} is not a log filter", quoted(&given.value)), HINT),
    });
    Some(Log { format: format?, filter: filter? })
}
