//! What the settings can consist of: the types from which the JSON Schema is generated, and their
//! deserialization with all its mistakes at once.
//!
//! Nothing is required here, and a secret and its file are separate settings; [`super::sections`]
//! decides what belongs together. Unknown keys are found by [`super::schema`] in each source: serde
//! would stop at the first one, and knows neither its place nor the sections that it may belong to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::checker::Checker;
use super::config_error::quoted;
use super::schema::{self, SettingKind};
use super::sections::{DEFAULT_DATABASE_URL, REDACTION_HINT};
use super::setting_types::{
    Artifacts, Id, List, Retention, SPAN_HINT, SecretText, SinkContents, Span, StoreOption, Text,
};
use super::settings::{
    ApiSettings, Discovery, Fetch, LakeLayout, LakeTable, Limits, Log, ObjectFormat, Permission, ReportFormat,
    SinkErasures, SinkStart, WebhookMethod, WebhookUnit,
};
use crate::model::SummariesFor;

/// The settings of ringcx-extractor.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Document {
    pub(super) api: ApiSettings,
    pub(super) auth: AuthSection,
    /// The sub-accounts that are archived.
    pub(super) accounts: Vec<Option<AccountSection>>,
    pub(super) discover_accounts: Option<DiscoverAccountsSection>,
    pub(super) discovery: Discovery,
    pub(super) limits: Limits,
    pub(super) fetch: Fetch,
    pub(super) database: DatabaseSection,
    pub(super) http: HttpSection,
    pub(super) access: AccessSection,
    pub(super) log: Log,
    pub(super) report: ReportSection,
    /// The systems that receive an event for each stored artifact.
    pub(super) sinks: Vec<Option<SinkSection>>,
}

/// Exactly one login method.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct AuthSection {
    /// RingCentral login: the app's client id.
    pub(super) client_id: Text,
    /// RingCentral login: the app's client secret.
    pub(super) client_secret: Option<SecretText>,
    pub(super) client_secret_file: Text,
    /// RingCentral login: the user's JWT credential.
    pub(super) jwt: Option<SecretText>,
    pub(super) jwt_file: Text,
    /// Engage login: the user's name.
    pub(super) username: Text,
    /// Engage login: the user's password.
    pub(super) password: Option<SecretText>,
    pub(super) password_file: Text,
    /// Engage login: the platform.
    pub(super) platform_id: Id,
    /// A permanent API token, instead of a login.
    pub(super) api_token: Option<SecretText>,
    pub(super) api_token_file: Text,
}

/// A sub-account.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct AccountSection {
    /// The main account's RingCentral id.
    pub(super) rc_account_id: Id,
    /// The sub-account's RingCX id.
    pub(super) sub_account_id: Id,
    /// Display name.
    pub(super) name: Text,
    /// What is fetched of each segment.
    pub(super) artifacts: Artifacts,
    /// Whose summaries: transcribed or agents.
    #[schemars(with = "String", extend("enum" = [SummariesFor::Transcribed, SummariesFor::Agents]))]
    pub(super) summaries_for: SummariesFor,
    /// How long the archive keeps a segment.
    pub(super) retention: Retention,
}

/// All sub-accounts that the login can see, instead of a list.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct DiscoverAccountsSection {
    /// How often the list of sub-accounts is read.
    pub(super) interval: Span<600>,
    /// Sub-account ids to leave out.
    pub(super) exclude: List<Id>,
    /// What is fetched of each segment.
    pub(super) artifacts: Artifacts,
    /// Whose summaries: transcribed or agents.
    #[schemars(with = "String", extend("enum" = [SummariesFor::Transcribed, SummariesFor::Agents]))]
    pub(super) summaries_for: SummariesFor,
    /// How long the archive keeps a segment.
    pub(super) retention: Retention,
}

/// The database of the archive.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct DatabaseSection {
    /// SQLite file or Postgres URL.
    #[schemars(extend("default" = DEFAULT_DATABASE_URL))]
    pub(super) url: Option<SecretText>,
    pub(super) url_file: Text,
    /// This replica's name; default: the host name.
    pub(super) instance: Text,
}

/// Health, metrics and dashboard.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct HttpSection {
    /// host:port of health, metrics and dashboard.
    pub(super) listen: Text,
    /// Required to show conversations in the dashboard.
    pub(super) token: Option<SecretText>,
    pub(super) token_file: Text,
}

impl Default for HttpSection {
    fn default() -> HttpSection {
        HttpSection { listen: "127.0.0.1:8480".to_owned().into(), token: None, token_file: Text::default() }
    }
}

/// The daily reconciliation report.
#[derive(Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ReportSection {
    /// UTC time of day at which the daemon writes the report of the day before, such as "06:00"; empty
    /// for never.
    pub(super) daily_at: Text,
    /// The folder of the reports.
    pub(super) path: Text,
    /// text, json or html.
    pub(super) format: ReportFormat,
    /// Whether the daily report verifies the archive, which reads all of it.
    pub(super) verify: bool,
}

impl Default for ReportSection {
    fn default() -> ReportSection {
        ReportSection {
            daily_at: Text::default(),
            path: "reports".to_owned().into(),
            format: ReportFormat::Html,
            verify: true,
        }
    }
}

/// Who may read conversations over HTTP.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct AccessSection {
    pub(super) oidc: Option<OidcSection>,
    /// What their members may do, in which accounts and channels.
    pub(super) roles: Vec<Option<RoleSection>>,
    /// Keys of programs.
    pub(super) keys: Vec<Option<KeySection>>,
    /// How long entries of the access log are kept.
    pub(super) log_retention: Span<DEFAULT_LOG_RETENTION_SECS>,
}

/// Seven years of 365.25 days.
const DEFAULT_LOG_RETENTION_SECS: u64 = 7 * 31_557_600;

/// The login of people, at an OpenID Connect provider.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct OidcSection {
    /// The provider's issuer URL.
    pub(super) issuer: Text,
    /// The client id that the provider has assigned.
    pub(super) client_id: Text,
    /// The client secret.
    pub(super) client_secret: Option<SecretText>,
    pub(super) client_secret_file: Text,
    /// The URL under which people reach this server; the provider sends them back to
    /// {public_url}/auth/callback.
    pub(super) public_url: Text,
    /// The claim with a person's groups.
    #[schemars(extend("default" = DEFAULT_GROUPS_CLAIM))]
    pub(super) groups_claim: Text,
    /// What is requested besides openid.
    #[schemars(extend("default" = DEFAULT_SCOPES))]
    pub(super) scopes: Option<List<Id>>,
}

pub(super) const DEFAULT_GROUPS_CLAIM: &str = "groups";
pub(super) const DEFAULT_SCOPES: [&str; 2] = ["email", "profile"];

/// A role.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RoleSection {
    /// Identifies the role.
    pub(super) name: Text,
    /// Members: the provider's groups.
    pub(super) groups: Option<List<Id>>,
    /// Members: verified e-mail addresses, or `sub` claims.
    pub(super) subjects: List<Id>,
    /// Sub-account ids that it covers, all if empty.
    pub(super) accounts: List<Id>,
    /// Channels that it covers, all if empty.
    pub(super) channels: List<Id>,
    /// What it permits: read, listen, operate, erase, log.
    pub(super) may: Option<List<Permission>>,
    /// What it never sees: card, email, phone, or custom patterns.
    #[schemars(with = "Vec<RedactionEntry>", extend("default" = []))]
    pub(super) redact: Vec<Option<RedactionEntry>>,
}

/// A key of a program.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct KeySection {
    /// Names the program in the access log.
    pub(super) name: Text,
    /// The key's hash, as `access new-key` prints it.
    pub(super) key_hash: Text,
    /// The name of its role.
    pub(super) role: Text,
    /// When it becomes invalid: a date (midnight UTC) or a time; never if not set.
    pub(super) expires: Text,
}

/// The type of a sink.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SinkType {
    Jsonl,
    Webhook,
    ObjectStore,
}

/// A sink.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct SinkSection {
    /// Identifies the sink and its progress.
    pub(super) name: Text,
    /// jsonl, webhook or object_store.
    pub(super) r#type: Option<SinkType>,
    /// Start of a new sink: now or beginning.
    pub(super) start: SinkStart,
    /// Artifacts that it receives; also metadata, for segments that are announced or changed.
    pub(super) artifacts: SinkContents,
    /// Erasures that it is told about: all, or requested (without those by retention).
    pub(super) erasures: SinkErasures,
    /// Sub-account ids that it receives, all if empty.
    pub(super) accounts: List<Id>,
    /// Channels that it receives, all if empty.
    pub(super) channels: List<Id>,
    /// What is redacted: card, email, phone, or custom patterns.
    #[schemars(with = "Vec<RedactionEntry>", extend("default" = []))]
    pub(super) redact: Vec<Option<RedactionEntry>>,
    /// How long an event is retried before a webhook marks it failed; files and objects are retried
    /// without limit.
    pub(super) give_up_after: Span<604_800>,
    /// jsonl: the folder of its files.
    pub(super) path: Text,
    /// jsonl: how long a file is written to.
    pub(super) rotate: Span<86_400>,
    /// webhook and object_store: target URL.
    pub(super) url: Option<SecretText>,
    pub(super) url_file: Text,
    /// webhook: signing secret.
    pub(super) secret: Option<SecretText>,
    pub(super) secret_file: Text,
    /// webhook: signing secrets during a change; the first is the new one.
    pub(super) secrets: Option<List<SecretText>>,
    pub(super) secrets_file: Text,
    /// webhook: how long a request may take.
    pub(super) timeout: Span<30>,
    /// webhook: whether the URL may be on a private network.
    pub(super) allow_private: bool,
    /// webhook: POST, PUT or PATCH.
    pub(super) method: WebhookMethod,
    /// webhook: further headers of each request.
    pub(super) headers: BTreeMap<String, StoreOption>,
    /// webhook: media type of the body.
    pub(super) content_type: Text,
    /// webhook: template of the body.
    pub(super) template: Option<SecretText>,
    pub(super) template_file: Text,
    /// webhook: OAuth client credentials, from which each request gets a bearer token.
    pub(super) oauth: OauthSection,
    /// webhook: URL of a proxy.
    pub(super) proxy: Option<SecretText>,
    pub(super) proxy_file: Text,
    /// webhook: what is one event: artifact, segment or dialog.
    pub(super) unit: WebhookUnit,
    /// webhook: when a segment or dialog is sent although something of it is still awaited.
    pub(super) settle_after: Span<3_600>,
    /// webhook: size in bytes above which the body has a reference in place of the content.
    pub(super) max_body: Option<u32>,
    /// object_store: jsonl or parquet.
    pub(super) format: ObjectFormat,
    /// object_store: options of the store.
    pub(super) options: BTreeMap<String, StoreOption>,
    /// object_store: keeps these tables in place of events: segments, phrases, artifacts.
    pub(super) tables: Option<List<LakeTable>>,
    /// object_store with tables: names of the files; hive is TABLE/account=SUB/day=DATE/.
    pub(super) layout: LakeLayout,
    /// object_store with tables: how long a change waits for others, so that they share a file.
    pub(super) roll_after: Span<900>,
    /// object_store with tables: size in bytes at which a file is full.
    #[schemars(extend("default" = DEFAULT_ROLL_SIZE))]
    pub(super) roll_size: Option<u32>,
    /// object_store with tables: DuckLake catalog, ducklake:sqlite:PATH or ducklake:postgres://….
    pub(super) catalog: Option<SecretText>,
    pub(super) catalog_file: Text,
    /// object_store with a catalog: how long it keeps earlier snapshots.
    pub(super) expire_after: Span<86_400>,
}

/// The size at which a file of a table is full.
pub(super) const DEFAULT_ROLL_SIZE: u32 = 32 << 20;

/// OAuth client credentials.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct OauthSection {
    /// Token endpoint.
    pub(super) token_url: Text,
    /// Id of the client.
    pub(super) client_id: Text,
    /// Secret of the client.
    pub(super) client_secret: Option<SecretText>,
    pub(super) client_secret_file: Text,
    /// Scope that the token needs.
    pub(super) scope: Text,
}

/// What is redacted: the name of a built-in rule, or a pattern.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RedactionEntry {
    BuiltIn(String),
    Custom {
        /// Name that replaces each match of the pattern.
        #[serde(default)]
        name: Text,
        /// Regular expression whose matches are redacted.
        #[serde(default)]
        pattern: Text,
    },
}

/// Deserializes the merged settings. Each value that does not fit becomes a problem and is left
/// out, until the rest can be deserialized.
pub(super) fn read_document(mut tree: Value, checker: &mut Checker<'_>) -> Option<Document> {
    loop {
        let error = match serde_path_to_error::deserialize::<_, Document>(&tree) {
            Ok(document) => return Some(document),
            Err(error) => error,
        };
        let mut path = error.path().to_string();
        // serde also reads a list as a section; the mistake is then the section, not the element.
        while schema::node_at(&path).is_none() {
            path.truncate(path.rfind(['.', '['])?);
        }
        if let Some(Value::String(text)) = tree.pointer_mut(&pointer_to(&path))
            && schema::node_at(&path).map(SettingKind::of) == Some(SettingKind::Choice)
            && text.trim() != text
        {
            *text = text.trim().to_owned();
            continue;
        }
        let value = take_value(&mut tree, &path);
        let message = error.into_inner().to_string();
        if !checker.has_problem(&path) {
            let (what, hint) = match message.split_once("\n  hint: ") {
                Some((what, hint)) => (what.to_owned(), hint.to_owned()),
                None => describe_mistake(&path, value.as_ref(), checker.is_from_environment(&path)),
            };
            checker.reject(&path, what, &hint);
        }
        value?;
    }
}

/// Takes a value out. In a list it leaves `null`, so that the other elements keep their index.
fn take_value(tree: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = path.rsplit_once(['.', '[']).unwrap_or(("", path));
    match tree.pointer_mut(&pointer_to(parent))? {
        Value::Object(map) => map.remove(name),
        Value::Array(_) => tree.pointer_mut(&pointer_to(path)).map(Value::take).filter(|item| !item.is_null()),
        _ => None,
    }
}

/// The JSON pointer of a path.
fn pointer_to(path: &str) -> String {
    schema::steps(path).filter(|step| !step.is_empty()).map(|step| format!("/{step}")).collect()
}

/// What is wrong with a value that does not have the type of its setting, and the remedy.
fn describe_mistake(path: &str, value: Option<&Value>, from_environment: bool) -> (String, String) {
    let value = value.unwrap_or(&Value::Null);
    let node = schema::node_at(path).unwrap_or(&Value::Null);
    let unquoted = if from_environment { "" } else { ", without quotes" };
    let (what, hint) = match SettingKind::of(node) {
        SettingKind::Sections => ("is a list of sections, not a value", format!("write [[{path}]]")),
        SettingKind::Options => ("is not a table", r#"write it as { key = "value" }"#.to_owned()),
        SettingKind::List | SettingKind::Secrets => {
            ("is not a list", r#"write it in brackets, as in ["one", "two"]"#.to_owned())
        }
        SettingKind::Flag => ("is neither true nor false", format!("write true or false{unquoted}")),
        SettingKind::Redaction => ("is neither a name nor a pattern", REDACTION_HINT.to_owned()),
        SettingKind::Span => ("is not a span of time", SPAN_HINT.to_owned()),
        SettingKind::Choice if value.as_str().is_some_and(|text| text.trim().is_empty()) => {
            ("is empty", format!("give {}", schema::list_choices(node)))
        }
        SettingKind::Choice if value.is_string() => {
            ("is not a valid value", format!("give {}", schema::list_choices(node)))
        }
        SettingKind::Count => {
            let limit = node.get("maximum").map_or(String::new(), |max| format!(" to {max}"));
            let what = if value.is_i64() { "is out of range" } else { "is not a whole number" };
            (what, format!("give a whole number from 1{limit}{}", if value.is_string() { unquoted } else { "" }))
        }
        _ => ("is not text", "write it in quotes".to_owned()),
    };
    // Only numbers and choices are quoted, because other values may be secret.
    match (SettingKind::of(node), value) {
        (SettingKind::Choice, Value::String(text)) if what != "is empty" => (format!("{} {what}", quoted(text)), hint),
        (SettingKind::Count, Value::String(text)) => (format!("{} {what}", quoted(text)), hint),
        (SettingKind::Count, Value::Number(number)) if number.is_i64() => (format!("{number} {what}"), hint),
        _ => (what.to_owned(), hint),
    }
}
