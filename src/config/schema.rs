//! The table of all settings.
//!
//! It defines the known keys, the types of environment variables, the defaults, and which settings
//! are secret. A test compares the sample file with it. Pure data and look-ups.

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// Text.
    Text,
    /// An id: text, or a whole number.
    Id,
    /// Text that is never shown; `x_file` can replace it.
    Secret,
    /// A list of secrets; `x_file` contains one per line.
    Secrets,
    /// A duration in `humantime` format.
    Span,
    /// A whole number.
    Count,
    /// True or false.
    Flag,
    /// A list.
    List,
    /// A table of secrets with free names; `x_file` can replace each.
    Options,
}

impl SettingKind {
    /// Whether the value is secret: never shown, and possibly from a file.
    pub(crate) const fn is_secret(self) -> bool {
        matches!(self, SettingKind::Secret | SettingKind::Secrets | SettingKind::Options)
    }
}

/// The definition of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingSpec {
    /// The path; `[]` stands for any element of a list.
    pub path: &'static str,
    /// The type.
    pub kind: SettingKind,
    /// The default, as written in an environment variable; `None` if there is none.
    pub default: Option<&'static str>,
    /// The description, for the reference.
    pub about: &'static str,
}

const fn key(path: &'static str, kind: SettingKind, default: Option<&'static str>, about: &'static str) -> SettingSpec {
    SettingSpec { path, kind, default, about }
}

const ARTIFACTS: Option<&str> = Some("transcript,agent_summary,auto_summary");

/// All settings, in the order of the sample file.
pub const KEYS: &[SettingSpec] = &[
    key(
        "api.platform_url",
        SettingKind::Text,
        Some("https://platform.ringcentral.com"),
        "RingCentral platform, for its login",
    ),
    key(
        "api.ringcx_url",
        SettingKind::Text,
        Some("https://ringcx.ringcentral.com"),
        "RingCX login, metadata and transcripts",
    ),
    key("api.summary_url", SettingKind::Text, Some("https://engage.ringcentral.com"), "RingCX summaries"),
    key("api.request_timeout", SettingKind::Span, Some("30s"), "how long a request may go without making progress"),
    key("auth.client_id", SettingKind::Text, None, "RingCentral login: the app's client id"),
    key("auth.client_secret", SettingKind::Secret, None, "RingCentral login: the app's client secret"),
    key("auth.jwt", SettingKind::Secret, None, "RingCentral login: the user's JWT credential"),
    key("auth.username", SettingKind::Text, None, "Engage login: the user's name"),
    key("auth.password", SettingKind::Secret, None, "Engage login: the user's password"),
    key("auth.platform_id", SettingKind::Id, None, "Engage login: the platform"),
    key("auth.api_token", SettingKind::Secret, None, "a permanent API token, instead of a login"),
    key("accounts[].rc_account_id", SettingKind::Id, None, "the main account's RingCentral id"),
    key("accounts[].sub_account_id", SettingKind::Id, None, "the sub-account's RingCX id"),
    key("accounts[].name", SettingKind::Text, None, "display name"),
    key("accounts[].artifacts", SettingKind::List, ARTIFACTS, "what is fetched of each segment"),
    key("accounts[].summaries_for", SettingKind::Text, Some("transcribed"), "whose summaries: transcribed or agents"),
    key("accounts[].retention", SettingKind::Text, Some("forever"), "how long the archive keeps a segment"),
    key("discover_accounts.interval", SettingKind::Span, Some("10m"), "how often the list of sub-accounts is read"),
    key("discover_accounts.exclude", SettingKind::List, Some(""), "sub-account ids to leave out"),
    key("discover_accounts.artifacts", SettingKind::List, ARTIFACTS, "what is fetched of each segment"),
    key(
        "discover_accounts.summaries_for",
        SettingKind::Text,
        Some("transcribed"),
        "whose summaries: transcribed or agents",
    ),
    key("discover_accounts.retention", SettingKind::Text, Some("forever"), "how long the archive keeps a segment"),
    key("discovery.window", SettingKind::Span, Some("15m"), "width of the sliding window, from one second"),
    key("discovery.offset", SettingKind::Span, Some("5m"), "how far before now its end stays"),
    key("discovery.interval", SettingKind::Span, Some("5m"), "how often it slides"),
    key("discovery.max_window", SettingKind::Span, Some("1h"), "widest request, up to 3h"),
    key(
        "discovery.start",
        SettingKind::Text,
        Some("now"),
        "start of the first run: now, a span back from now, or a time",
    ),
    key("discovery.rechecks", SettingKind::List, Some("1h,24h,7d"), "delays after which each time range is read again"),
    key("limits.scope", SettingKind::Text, Some("sub_account"), "what shares one budget: sub_account or login"),
    key("limits.requests_per_minute", SettingKind::Count, Some("120"), "all requests in any 60 s"),
    key("limits.metadata_per_minute", SettingKind::Count, Some("3"), "metadata requests in any 60 s"),
    key("limits.metadata_per_15_minutes", SettingKind::Count, Some("9"), "metadata requests in any 15 min"),
    key(
        "limits.token_exchanges_per_minute",
        SettingKind::Count,
        Some("5"),
        "token exchanges in any 60 s; also the limit of RingCentral token requests, which is at most 5",
    ),
    key("fetch.concurrency", SettingKind::Count, Some("8"), "requests in flight per account"),
    key("fetch.retry_initial", SettingKind::Span, Some("15s"), "first delay before trying again"),
    key("fetch.retry_max", SettingKind::Span, Some("6h"), "longest delay before trying again"),
    key(
        "fetch.give_up_after",
        SettingKind::Span,
        Some("72h"),
        "how long 404s, empty transcripts and unusable answers are retried",
    ),
    key(
        "fetch.revisit",
        SettingKind::List,
        Some("24h"),
        "delays after which empty or agent-written summaries are fetched again",
    ),
    key("database.url", SettingKind::Secret, Some("sqlite:data/ringcx-extractor.db"), "SQLite file or Postgres URL"),
    key("database.instance", SettingKind::Text, None, "this replica's name; default: the host name"),
    key("http.listen", SettingKind::Text, Some("127.0.0.1:8480"), "host:port of health, metrics and dashboard"),
    key("http.token", SettingKind::Secret, None, "required to show conversations in the dashboard"),
    key("log.format", SettingKind::Text, Some("text"), "format of log lines: text or json"),
    key("log.filter", SettingKind::Text, Some("info"), "log level or filter directives"),
    key("sinks[].name", SettingKind::Text, None, "identifies the sink and its progress"),
    key("sinks[].type", SettingKind::Text, None, "jsonl, webhook or object_store"),
    key("sinks[].start", SettingKind::Text, Some("now"), "start of a new sink: now or beginning"),
    key("sinks[].artifacts", SettingKind::List, ARTIFACTS, "artifacts that it receives"),
    key("sinks[].accounts", SettingKind::List, Some(""), "sub-account ids that it receives, all if empty"),
    key("sinks[].channels", SettingKind::List, Some(""), "channels that it receives, all if empty"),
    key("sinks[].redact", SettingKind::List, Some(""), "what is redacted: card, email, phone, or custom patterns"),
    key("sinks[].redact[].name", SettingKind::Text, None, "name that replaces each match of the pattern"),
    key("sinks[].redact[].pattern", SettingKind::Text, None, "regular expression whose matches are redacted"),
    key(
        "sinks[].give_up_after",
        SettingKind::Span,
        Some("7d"),
        "how long an event is retried before a webhook marks it failed; files and objects are retried without limit",
    ),
    key("sinks[].path", SettingKind::Text, None, "jsonl: the folder of its files"),
    key("sinks[].rotate", SettingKind::Span, Some("1d"), "jsonl: how long a file is written to"),
    key("sinks[].url", SettingKind::Secret, None, "webhook and object_store: target URL"),
    key("sinks[].secret", SettingKind::Secret, None, "webhook: signing secret"),
    key(
        "sinks[].secrets",
        SettingKind::Secrets,
        None,
        "webhook: signing secrets during a change; the first is the new one",
    ),
    key("sinks[].timeout", SettingKind::Span, Some("30s"), "webhook: how long a request may take"),
    key(
        "sinks[].allow_private",
        SettingKind::Flag,
        Some("false"),
        "webhook: whether the URL may be on a private network",
    ),
    key("sinks[].format", SettingKind::Text, Some("jsonl"), "object_store: jsonl or parquet"),
    key("sinks[].options", SettingKind::Options, None, "object_store: options of the store"),
];

/// Options of object stores whose own names end in `_file`. They are paths for the store, not files
/// of secrets.
pub(crate) const OPTIONS_THAT_ARE_PATHS: &[&str] = &[
    "aws_container_authorization_token_file",
    "aws_web_identity_token_file",
    "azure_federated_token_file",
    "container_authorization_token_file",
    "federated_token_file",
    "web_identity_token_file",
];

/// The schema at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SchemaNode {
    /// A setting.
    Leaf(&'static SettingSpec),
    /// The path of a file that contains this secret.
    FileOf(&'static SettingSpec),
    /// An entry of a table with free names.
    Option,
    /// A table of settings.
    Table,
    /// A list of tables of settings.
    Tables,
    /// An unknown path.
    Unknown,
}

/// Resolves a path, which may contain indices (`accounts[0].name`).
pub(crate) fn resolve_path(path: &str) -> SchemaNode {
    let pattern = pattern_of(path);
    if let Some(key) = find_pattern(&pattern) {
        return SchemaNode::Leaf(key);
    }
    if let Some(key) = pattern.strip_suffix("_file").and_then(find_pattern)
        && matches!(key.kind, SettingKind::Secret | SettingKind::Secrets)
    {
        return SchemaNode::FileOf(key);
    }
    if let Some((parent, _)) = pattern.rsplit_once('.')
        && find_pattern(parent).is_some_and(|key| key.kind == SettingKind::Options)
    {
        return SchemaNode::Option;
    }
    let below = |separator: &str| KEYS.iter().any(|key| key.path.starts_with(&format!("{pattern}{separator}")));
    if below("[].") {
        SchemaNode::Tables
    } else if below(".") {
        SchemaNode::Table
    } else {
        SchemaNode::Unknown
    }
}

/// Finds the setting at a path, which may contain indices.
pub(crate) fn find_setting(path: &str) -> Option<&'static SettingSpec> {
    find_pattern(&pattern_of(path))
}

fn find_pattern(pattern: &str) -> Option<&'static SettingSpec> {
    KEYS.iter().find(|key| key.path == pattern)
}

/// Removes indices: `accounts[12].name` becomes `accounts[].name`.
fn pattern_of(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|&c| {
            inside = (inside || c == '[') && c != ']';
            !inside || c == '['
        })
        .collect()
}

/// Finds the known path that is most similar to an unknown one, and keeps its indices.
pub(crate) fn nearest_path(unknown: &str) -> String {
    let pattern = pattern_of(unknown);
    let (section, name) = split_section(&pattern);
    let similarity = |candidate: &str| {
        let (its_section, its_name) = split_section(candidate);
        let names = strsim::normalized_damerau_levenshtein(name, its_name);
        // The section counts half: a key in the wrong section is found in its own, and a misspelt
        // key in the same section.
        names + 0.5 * strsim::normalized_damerau_levenshtein(section, its_section)
    };
    let best = candidates()
        .map(|candidate| (similarity(&candidate), candidate))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or_else(String::new, |(_, candidate)| candidate);
    with_indices_of(unknown, &best)
}

/// All valid paths: settings, files of secrets, and sections.
fn candidates() -> impl Iterator<Item = String> {
    KEYS.iter().flat_map(|key| {
        let file = matches!(key.kind, SettingKind::Secret | SettingKind::Secrets).then(|| format!("{}_file", key.path));
        let section = split_section(key.path).0.trim_end_matches("[]").to_owned();
        [Some(key.path.to_owned()), file, Some(section)].into_iter().flatten()
    })
}

fn split_section(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// Inserts the indices of `from` into the `[]` of `pattern`; a missing index becomes 0.
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
        assert!(matches!(resolve_path("accounts[12].name"), SchemaNode::Leaf(key) if key.path == "accounts[].name"));
        assert!(matches!(resolve_path("auth.jwt_file"), SchemaNode::FileOf(key) if key.path == "auth.jwt"));
        assert_eq!(resolve_path("auth.client_id_file"), SchemaNode::Unknown);
        assert_eq!(resolve_path("sinks[3].options.aws_region"), SchemaNode::Option);
        assert_eq!(resolve_path("accounts"), SchemaNode::Tables);
        assert_eq!(resolve_path("accounts[0]"), SchemaNode::Table);
        assert_eq!(resolve_path("discovery"), SchemaNode::Table);
        assert_eq!(resolve_path("discover"), SchemaNode::Unknown);
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
            assert_eq!(nearest_path(wrong), right, "for {wrong}");
        }
    }
}
