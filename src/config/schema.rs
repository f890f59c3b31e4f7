//! Every setting there is, in one table.
//!
//! It serves the detection of unknown keys, the types of environment variables, the defaults, and what is secret; the
//! sample file is held against it by a test. Pure data and look-ups.

/// What a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// An id: text, or a whole number.
    Id,
    /// Text that is never shown; `x_file` may stand in for it.
    Secret,
    /// A list of such texts; `x_file` holds one a line.
    Secrets,
    /// A span of time in humantime.
    Span,
    /// A whole number.
    Count,
    /// True or false.
    Flag,
    /// A list.
    List,
    /// A table of secrets with names of their own; `x_file` may stand in for each.
    Options,
}

impl Kind {
    /// Whether the value is never shown and may come from a file.
    pub const fn is_secret(self) -> bool {
        matches!(self, Kind::Secret | Kind::Secrets | Kind::Options)
    }
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its path; `[]` stands for any element of a list.
    pub path: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Its value where none is given, written as in an environment variable; `None` if there is none.
    pub default: Option<&'static str>,
    /// What it means, with its unit.
    pub about: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, about: &'static str) -> Key {
    Key { path, kind, default, about }
}

const ARTIFACTS: Option<&str> = Some("transcript,agent_summary,auto_summary");

/// Every setting, in the order of the sample file.
pub const KEYS: &[Key] = &[
    key(
        "api.platform_url",
        Kind::Text,
        Some("https://platform.ringcentral.com"),
        "RingCentral platform, for its login",
    ),
    key("api.ringcx_url", Kind::Text, Some("https://ringcx.ringcentral.com"), "RingCX login, metadata and transcripts"),
    key("api.summary_url", Kind::Text, Some("https://engage.ringcentral.com"), "RingCX summaries"),
    key("api.request_timeout", Kind::Span, Some("30s"), "how long a request may go without making progress"),
    key("auth.client_id", Kind::Text, None, "RingCentral login: the app's client id"),
    key("auth.client_secret", Kind::Secret, None, "RingCentral login: the app's client secret"),
    key("auth.jwt", Kind::Secret, None, "RingCentral login: the user's JWT credential"),
    key("auth.username", Kind::Text, None, "Engage login: the user's name"),
    key("auth.password", Kind::Secret, None, "Engage login: the user's password"),
    key("auth.platform_id", Kind::Id, None, "Engage login: the platform"),
    key("auth.api_token", Kind::Secret, None, "a permanent API token, instead of a login"),
    key("accounts[].rc_account_id", Kind::Id, None, "the main account's RingCentral id"),
    key("accounts[].sub_account_id", Kind::Id, None, "the sub-account's RingCX id"),
    key("accounts[].name", Kind::Text, None, "a name for people"),
    key("accounts[].artifacts", Kind::List, ARTIFACTS, "what is fetched of each segment"),
    key("accounts[].summaries_for", Kind::Text, Some("transcribed"), "whose summaries: transcribed or agents"),
    key("accounts[].retention", Kind::Text, Some("forever"), "how long the archive keeps a segment"),
    key("discover_accounts.interval", Kind::Span, Some("10m"), "how often the list of sub-accounts is read"),
    key("discover_accounts.exclude", Kind::List, Some(""), "sub-account ids to leave out"),
    key("discover_accounts.artifacts", Kind::List, ARTIFACTS, "what is fetched of each segment"),
    key("discover_accounts.summaries_for", Kind::Text, Some("transcribed"), "whose summaries: transcribed or agents"),
    key("discover_accounts.retention", Kind::Text, Some("forever"), "how long the archive keeps a segment"),
    key("discovery.window", Kind::Span, Some("15m"), "width of the sliding window, from one second"),
    key("discovery.offset", Kind::Span, Some("5m"), "how far behind now its end stays"),
    key("discovery.interval", Kind::Span, Some("5m"), "how often it slides"),
    key("discovery.max_window", Kind::Span, Some("1h"), "widest request, up to 3h"),
    key("discovery.start", Kind::Text, Some("now"), "where the first run begins: now, a span back, or a time"),
    key("discovery.rechecks", Kind::List, Some("1h,24h,7d"), "how long after its end each stretch is read again"),
    key("limits.scope", Kind::Text, Some("sub_account"), "what shares one budget: sub_account or login"),
    key("limits.requests_per_minute", Kind::Count, Some("120"), "all requests in any 60 s"),
    key("limits.metadata_per_minute", Kind::Count, Some("3"), "metadata requests in any 60 s"),
    key("limits.metadata_per_15_minutes", Kind::Count, Some("9"), "metadata requests in any 15 min"),
    key(
        "limits.token_exchanges_per_minute",
        Kind::Count,
        Some("5"),
        "token exchanges in any 60 s, and as many RingCentral tokens, of those at most 5",
    ),
    key("fetch.concurrency", Kind::Count, Some("8"), "requests in flight per account"),
    key("fetch.retry_initial", Kind::Span, Some("15s"), "first delay before trying again"),
    key("fetch.retry_max", Kind::Span, Some("6h"), "longest delay before trying again"),
    key(
        "fetch.give_up_after",
        Kind::Span,
        Some("72h"),
        "how long 404s, empty transcripts and broken answers are asked for again",
    ),
    key("fetch.revisit", Kind::List, Some("24h"), "when empty or agent-written summaries are asked for again"),
    key("database.url", Kind::Secret, Some("sqlite:data/ringcx-extractor.db"), "SQLite file or Postgres URL"),
    key("database.instance", Kind::Text, None, "this replica's name, the host name unless given"),
    key("http.listen", Kind::Text, Some("127.0.0.1:8480"), "host:port of health, metrics and dashboard"),
    key("http.token", Kind::Secret, None, "with it the dashboard may show conversations"),
    key("log.format", Kind::Text, Some("text"), "how a line looks: text or json"),
    key("log.filter", Kind::Text, Some("info"), "what is logged"),
    key("sinks[].name", Kind::Text, None, "names the sink and its progress"),
    key("sinks[].type", Kind::Text, None, "jsonl, webhook or object_store"),
    key("sinks[].start", Kind::Text, Some("now"), "where a new sink begins: now or beginning"),
    key("sinks[].artifacts", Kind::List, ARTIFACTS, "what it gets"),
    key("sinks[].accounts", Kind::List, Some(""), "sub-account ids that it gets, all if empty"),
    key("sinks[].channels", Kind::List, Some(""), "channels that it gets, all if empty"),
    key("sinks[].redact", Kind::List, Some(""), "what is taken out of texts: card, email, phone, or own patterns"),
    key("sinks[].redact[].name", Kind::Text, None, "names what a pattern takes out"),
    key("sinks[].redact[].pattern", Kind::Text, None, "a regular expression for what is taken out"),
    key(
        "sinks[].give_up_after",
        Kind::Span,
        Some("7d"),
        "after which an event that a webhook does not take is failed; files and objects are tried for as long as it takes",
    ),
    key("sinks[].path", Kind::Text, None, "jsonl: the folder of its files"),
    key("sinks[].rotate", Kind::Span, Some("1d"), "jsonl: how long a file is written to"),
    key("sinks[].url", Kind::Secret, None, "webhook and object_store: where to"),
    key("sinks[].secret", Kind::Secret, None, "webhook: what signs"),
    key("sinks[].secrets", Kind::Secrets, None, "webhook: what signs while it is changed, the first is the new one"),
    key("sinks[].timeout", Kind::Span, Some("30s"), "webhook: how long a request may take"),
    key("sinks[].allow_private", Kind::Flag, Some("false"), "webhook: whether it may be on a private network"),
    key("sinks[].format", Kind::Text, Some("jsonl"), "object_store: jsonl or parquet"),
    key("sinks[].options", Kind::Options, None, "object_store: passed to the store"),
];

/// Options of object stores whose own name ends in `_file`: they are paths for the store, not secrets in files.
pub const OPTIONS_THAT_ARE_PATHS: &[&str] = &[
    "aws_container_authorization_token_file",
    "aws_web_identity_token_file",
    "azure_federated_token_file",
    "container_authorization_token_file",
    "federated_token_file",
    "web_identity_token_file",
];

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// A setting.
    Leaf(&'static Key),
    /// The path of a file that holds this secret.
    FileOf(&'static Key),
    /// An entry of a table whose names are its own.
    Option,
    /// A table of settings.
    Table,
    /// A list of tables of settings.
    Tables,
    /// Nothing.
    Unknown,
}

/// What stands at `path`, which may hold indices (`accounts[0].name`).
pub fn look_up(path: &str) -> Known {
    let pattern = pattern_of(path);
    if let Some(key) = find(&pattern) {
        return Known::Leaf(key);
    }
    if let Some(key) = pattern.strip_suffix("_file").and_then(find)
        && matches!(key.kind, Kind::Secret | Kind::Secrets)
    {
        return Known::FileOf(key);
    }
    if let Some((parent, _)) = pattern.rsplit_once('.')
        && find(parent).is_some_and(|key| key.kind == Kind::Options)
    {
        return Known::Option;
    }
    let below = |separator: &str| KEYS.iter().any(|key| key.path.starts_with(&format!("{pattern}{separator}")));
    if below("[].") {
        Known::Tables
    } else if below(".") {
        Known::Table
    } else {
        Known::Unknown
    }
}

/// The setting at `path`, which may hold indices.
pub fn setting(path: &str) -> Option<&'static Key> {
    find(&pattern_of(path))
}

fn find(pattern: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == pattern)
}

/// `accounts[12].name` as the table has it: `accounts[].name`.
fn pattern_of(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|&c| {
            inside = (inside || c == '[') && c != ']';
            !inside || c == '['
        })
        .collect()
}

/// The known path most like one that is not, with the indices of that one.
pub fn nearest(unknown: &str) -> String {
    let pattern = pattern_of(unknown);
    let (section, name) = split(&pattern);
    let likeness = |candidate: &str| {
        let (its_section, its_name) = split(candidate);
        let names = strsim::normalized_damerau_levenshtein(name, its_name);
        // Half as much for the section: a name moved to another section is found there, a misspelt one nearby.
        names + 0.5 * strsim::normalized_damerau_levenshtein(section, its_section)
    };
    let best = candidates()
        .map(|candidate| (likeness(&candidate), candidate))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or_else(String::new, |(_, candidate)| candidate);
    with_indices_of(unknown, &best)
}

/// Every path that may be written: settings, files of secrets, and sections.
fn candidates() -> impl Iterator<Item = String> {
    KEYS.iter().flat_map(|key| {
        let file = matches!(key.kind, Kind::Secret | Kind::Secrets).then(|| format!("{}_file", key.path));
        let section = split(key.path).0.trim_end_matches("[]").to_owned();
        [Some(key.path.to_owned()), file, Some(section)].into_iter().flatten()
    })
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// Puts the indices that `from` has into the places where `pattern` has `[]`; 0 where `from` has none.
fn with_indices_of(from: &str, pattern: &str) -> String {
    let mut indices = from.split('[').skip(1).filter_map(|rest| rest.split_once(']').map(|(index, _)| index));
    let mut parts = pattern.split("[]");
    let mut path = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        path.push_str(&format!("[{}]{part}", indices.next().unwrap_or("0")));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_stands_in_the_table_twice() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(KEYS[i + 1..].iter().all(|other| other.path != key.path), "{} stands twice", key.path);
            assert!(!key.about.is_empty());
        }
    }

    #[test]
    fn a_path_is_found_whatever_its_index() {
        assert_eq!(pattern_of("accounts[12].name"), "accounts[].name");
        assert!(matches!(look_up("accounts[12].name"), Known::Leaf(key) if key.path == "accounts[].name"));
        assert!(matches!(look_up("auth.jwt_file"), Known::FileOf(key) if key.path == "auth.jwt"));
        assert_eq!(look_up("auth.client_id_file"), Known::Unknown);
        assert_eq!(look_up("sinks[3].options.aws_region"), Known::Option);
        assert_eq!(look_up("accounts"), Known::Tables);
        assert_eq!(look_up("accounts[0]"), Known::Table);
        assert_eq!(look_up("discovery"), Known::Table);
        assert_eq!(look_up("discover"), Known::Unknown);
    }

    #[test]
    fn the_nearest_known_key_is_what_a_person_meant() {
        for (wrong, right) in [
            ("discovery.windw", "discovery.window"),
            ("discovry", "discovery"),
            ("acounts", "accounts"),
            ("accounts[2].sub_acount_id", "accounts[2].sub_account_id"),
            ("auth.client_secrt", "auth.client_secret"),
            ("auth.jwtfile", "auth.jwt_file"),
            ("discovery.requests_per_minute", "limits.requests_per_minute"),
            ("limits.requests_per_min", "limits.requests_per_minute"),
            ("fetch.max_window", "discovery.max_window"),
            ("sinks[1].typ", "sinks[1].type"),
        ] {
            assert_eq!(nearest(wrong), right, "for {wrong}");
        }
    }
}
