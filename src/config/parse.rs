//! From what the layers say to [`Settings`]: each section with its defaults and its rules.
//!
//! Asks the machine for its host name where no instance is named, and reads what [`Reader`] reads. Goes through all
//! sections whatever is wrong with some, so that every problem is found at once.

mod accounts;
mod auth;
mod sinks;
mod url;

pub use sinks::signing_key;

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::Targets;

use super::problem::quoted;
use super::reader::{Given, Reader, Secret, Section};
use super::settings::{
    Accounts, Api, Database, DatabaseUrl, Discovery, Fetch, Http, LimitScope, Limits, Log, LogFormat, Settings, Sink,
};
use super::when::{FORMS, parse_start};

/// The vendor's documented least distance of a window's end from now.
const VENDOR_OFFSET: Duration = Duration::from_secs(5 * 60);
/// The vendor's documented widest request.
const VENDOR_MAX_WINDOW: Duration = Duration::from_secs(3 * 3600);
/// The stretch over which the vendor counts metadata requests the second time.
const QUARTER: Duration = Duration::from_secs(15 * 60);
/// More requests in flight per account than any limit could feed.
const MOST_CONCURRENT: u32 = 10_000;

/// All settings; `None` comes with problems in the reader.
pub(super) fn settings(reader: &mut Reader<'_>) -> Option<Settings> {
    let api = api(reader);
    let auth = auth::auth(reader);
    let accounts = accounts::accounts(reader);
    let discovery = discovery(reader);
    let limits = limits(reader);
    let fetch = fetch(reader);
    let database = database(reader);
    let http = http(reader);
    let log = log(reader);
    let sinks = sinks::sinks(reader);
    if let (Some(discovery), Some(limits)) = (&discovery, &limits) {
        warn_of_budget(reader, discovery, limits);
    }
    if let (Some(accounts), Some(sinks)) = (&accounts, &sinks) {
        warn_of_filters(reader, accounts, sinks);
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

fn api(reader: &mut Reader<'_>) -> Option<Api> {
    let section = reader.section("api");
    let platform_url = base_url(reader, &section, "platform_url");
    let ringcx_url = base_url(reader, &section, "ringcx_url");
    let summary_url = base_url(reader, &section, "summary_url");
    let request_timeout = reader.span(&section, "request_timeout");
    Some(Api {
        platform_url: platform_url?,
        ringcx_url: ringcx_url?,
        summary_url: summary_url?,
        request_timeout: request_timeout?,
    })
}

fn base_url(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<String> {
    const HINT: &str = r#"give https:// and a host, such as "https://ringcx.ringcentral.com""#;
    let given = reader.required(section, name, HINT)?;
    match url::base(&given.value) {
        Ok(base) => {
            if base.is_open {
                reader.warn(section, name, "is plain http, so tokens and conversations travel unencrypted");
            }
            Some(base.url)
        }
        Err(what) => reader.refuse(&given, what, HINT),
    }
}

fn discovery(reader: &mut Reader<'_>) -> Option<Discovery> {
    let section = reader.section("discovery");
    let window = reader.window(&section, "window");
    let offset = reader.span(&section, "offset");
    let interval = reader.span(&section, "interval");
    let max_window = reader.window(&section, "max_window");
    let rechecks = reader.spans(&section, "rechecks");
    let start = reader.required(&section, "start", FORMS).and_then(|given| match parse_start(&given.value) {
        Ok(start) => Some(start),
        Err(what) => reader.refuse(&given, what, &format!("give \"now\", {FORMS}")),
    });
    let (mut window, mut max_window) = (window?, max_window?);
    // Whoever changes one of them need not know of the other.
    if max_window < window {
        if reader.is_given(&section, "max_window") {
            let span = humantime::format_duration;
            let what = format!("is wider than max_window, {0}: windows are {0} wide", span(max_window));
            reader.warn(&section, "window", &what);
            window = max_window;
        } else {
            max_window = window;
        }
    }
    if max_window > VENDOR_MAX_WINDOW {
        let name = if reader.is_given(&section, "max_window") { "max_window" } else { "window" };
        let place = reader.place_of(&section, name);
        let what = format!("{} is wider than the API takes", humantime::format_duration(max_window));
        reader.wrong(&section.key(name), place, what, "give at most 3h");
    }
    if offset.is_some_and(|offset| offset < VENDOR_OFFSET) {
        reader.warn(
            &section,
            "offset",
            "is less than the 5m that RingCX documents: windows may be refused, or miss what is still being processed",
        );
    }
    Some(Discovery { window, offset: offset?, interval: interval?, max_window, start: start?, rechecks: rechecks? })
}

fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    let section = reader.section("limits");
    let scopes = [("sub_account", LimitScope::SubAccount), ("login", LimitScope::Login)];
    let scope = reader.choice(&section, "scope", &scopes);
    let mut limit = |name: &str, documented: u32| {
        let limit = reader.count(&section, name, u32::MAX)?;
        if limit.get() > documented {
            reader.warn(
                &section,
                name,
                &format!("is more than the {documented} that RingCX documents: what goes beyond will be refused"),
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

/// Live reads alone may ask for more than the metadata budget holds.
fn warn_of_budget(reader: &mut Reader<'_>, discovery: &Discovery, limits: &Limits) {
    let wanted = QUARTER.as_secs().div_ceil(discovery.interval.as_secs().max(1));
    let per_minute = u64::from(limits.metadata_per_minute.get()).saturating_mul(15);
    let allowed = per_minute.min(u64::from(limits.metadata_per_15_minutes.get()));
    if wanted > allowed {
        let section = reader.section("discovery");
        let what = format!(
            "asks for {wanted} metadata requests in 15 min where the limits allow {allowed}: windows will slide as the limits let them"
        );
        reader.warn(&section, "interval", &what);
    }
}

/// A sink may wait for an account that will never have anything for it.
fn warn_of_filters(reader: &mut Reader<'_>, accounts: &Accounts, sinks: &[Sink]) {
    let Accounts::Listed(listed) = accounts else { return };
    for (i, sink) in sinks.iter().enumerate() {
        for account in sink.accounts.iter().filter(|sub| listed.iter().all(|account| *account.id.sub != ***sub)) {
            let what = format!("sinks[{i}].accounts: {} is no sub_account_id of [[accounts]]", quoted(account));
            reader.warnings.push(what);
        }
    }
}

fn fetch(reader: &mut Reader<'_>) -> Option<Fetch> {
    let section = reader.section("fetch");
    let concurrency = reader.count(&section, "concurrency", MOST_CONCURRENT);
    let retry_initial = reader.span(&section, "retry_initial");
    let retry_max = reader.span(&section, "retry_max");
    let give_up_after = reader.span(&section, "give_up_after");
    let revisit = reader.spans(&section, "revisit");
    let (mut retry_initial, mut retry_max) = (retry_initial?, retry_max?);
    if retry_max < retry_initial {
        // Whoever changes one of them need not know of the other.
        if reader.is_given(&section, "retry_max") && !reader.is_given(&section, "retry_initial") {
            retry_initial = retry_max;
        } else {
            if reader.is_given(&section, "retry_max") {
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

fn database(reader: &mut Reader<'_>) -> Option<Database> {
    let section = reader.section("database");
    let url = database_url(reader, &section);
    let instance = instance(reader, &section);
    let (url, url_file) = url?;
    Some(Database { url, url_file, instance: instance? })
}

fn database_url(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<(DatabaseUrl, Option<PathBuf>)> {
    const HINT: &str = r#"give "sqlite:relative/path.db", "sqlite:///absolute/path.db" or "postgres://user:password@host/database" (what is special in a password percent-encoded)"#;
    let given: Given<Secret> = match reader.secret(section, "url") {
        Some(given) => given,
        None if reader.is_problem("database.url_file") => return None,
        None => return reader.missing(section, "url", HINT),
    };
    let text = given.value.value.expose_secret().trim();
    let parsed = match text.split_once(':') {
        Some(("sqlite", path)) => url::sqlite_path(path).map(|path| DatabaseUrl::Sqlite(PathBuf::from(path))),
        Some(("postgres" | "postgresql", _)) => {
            url::postgres(text).map(|()| DatabaseUrl::Postgres(SecretString::from(text)))
        }
        _ => Err("is of no known database".to_owned()),
    };
    let file = given.value.file.clone();
    parsed.map(|url| (url, file)).map_err(|what| reader.refuse::<_, ()>(&given, what, HINT)).ok()
}

fn instance(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<String> {
    // Postgres' indexes take 2,704 bytes.
    const LONGEST_NAME: usize = 512;
    const HINT: &str = "set database.instance to a name that is the same after a restart";
    if let Some(given) = reader.text(section, "instance") {
        if given.value.chars().any(char::is_control) {
            return reader.refuse(&given, "holds a control character".to_owned(), HINT);
        }
        if given.value.len() > LONGEST_NAME {
            return reader.refuse(&given, format!("is longer than {LONGEST_NAME} bytes"), HINT);
        }
        return Some(given.value);
    }
    let host = hostname::get().ok().and_then(|name| name.into_string().ok()).filter(|name| !name.trim().is_empty());
    host.or_else(|| reader.missing(section, "instance", HINT))
}

fn http(reader: &mut Reader<'_>) -> Option<Http> {
    const HINT: &str = r#"give an address and a port, such as "127.0.0.1:8480", or "" to turn it off"#;
    let section = reader.section("http");
    let token = reader.secret(&section, "token").map(|given| given.value.value);
    let Some(given) = reader.text(&section, "listen") else { return Some(Http { listen: None, token }) };
    if !url::is_listen_address(&given.value) {
        return reader.refuse(&given, format!("{} is not an address with a port", quoted(&given.value)), HINT);
    }
    Some(Http { listen: Some(given.value), token })
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    const HINT: &str = r#"give a level ("info", "debug"), or directives such as "info,ringcx_extractor=debug""#;
    let section = reader.section("log");
    let format = reader.choice(&section, "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    let given = reader.required(&section, "filter", HINT);
    let filter = given.and_then(|given| match given.value.parse::<Targets>() {
        Ok(_) => Some(given.value),
        Err(_) => reader.refuse(&given, format!("{} is not a log filter", quoted(&given.value)), HINT),
    });
    Some(Log { format: format?, filter: filter? })
}
