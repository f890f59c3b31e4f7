//! The settings of a sink of type webhook.

use std::collections::BTreeMap;

use base64::Engine;
use minijinja::Environment;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

use super::super::checker::Checker;
use super::super::config_error::quoted;
use super::super::secret::Secret;
use super::super::setting_types::{SecretText, StoreOption, Text};
use super::super::settings::{OauthSettings, WebhookSettings};
use super::super::settings_document::{OauthSection, SinkSection};
use super::sink_settings::{build_secret_values, build_url};
use super::url;

/// Headers that the program sets itself.
const OWN_HEADERS: &[&str] = &[
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// What a template can use: the attributes of the event, and its content as plain text.
const TEMPLATE_VARIABLES: &[&str] = &[
    "specversion",
    "id",
    "source",
    "subject",
    "type",
    "time",
    "sequence",
    "datacontenttype",
    "dataref",
    "data",
    "text",
];

/// Functions that every template has.
const TEMPLATE_FUNCTIONS: &[&str] = &["dict", "loop", "namespace", "range"];

pub(super) fn build_webhook(at: &str, section: &mut SinkSection, checker: &mut Checker<'_>) -> Option<WebhookSettings> {
    let key = |name: &str| format!("{at}.{name}");
    let parse = |text: &str| url::parse_web_url(text).map(String::from);
    let url_hint = r#"give the target URL, such as "https://example.org/hook""#;
    let url = build_url(&key("url"), section, parse, url_hint, checker);
    let headers = build_headers(&key("headers"), std::mem::take(&mut section.headers), checker);
    let oauth = build_oauth(&key("oauth"), std::mem::take(&mut section.oauth), checker);
    let one = (section.secret.take(), std::mem::take(&mut section.secret_file));
    let several = section.secrets.take().map(|secrets| secrets.0).unwrap_or_default();
    let several = (several, std::mem::take(&mut section.secrets_file));
    let is_authenticated = checker.is_set(&key("headers")) || checker.is_set(&key("oauth"));
    let secrets = build_signing_secrets(at, one, several, is_authenticated, checker);
    let template = (section.template.take(), std::mem::take(&mut section.template_file));
    let template = build_template(&key("template"), template, checker);
    let proxy = (section.proxy.take(), std::mem::take(&mut section.proxy_file));
    let proxy = build_proxy(&key("proxy"), proxy, checker);
    let content_type = build_content_type(&key("content_type"), section.content_type.0.take(), checker);
    Some(WebhookSettings {
        url: SecretString::from(url?),
        secrets: secrets?,
        timeout: section.timeout.0,
        allow_private: section.allow_private,
        method: section.method,
        headers,
        content_type,
        template,
        oauth,
        proxy,
        unit: section.unit,
        settle_after: section.settle_after.0,
        max_body: section.max_body.and_then(|bytes| usize::try_from(bytes).ok()),
    })
}

fn build_headers(
    path: &str,
    given: BTreeMap<String, StoreOption>,
    checker: &mut Checker<'_>,
) -> BTreeMap<String, SecretString> {
    let mut headers = BTreeMap::new();
    for (name, value) in build_secret_values(path, given, checker) {
        let path = format!("{path}.{name}");
        let value = SecretString::from(value.expose_secret().trim());
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => checker.reject(&path, "is not the name of a header", "give a name such as X-Api-Key"),
            Ok(name) if OWN_HEADERS.contains(&name.as_str()) => {
                let hint = if name == "content-type" { "set content_type" } else { "leave it out" };
                checker.reject(&path, "is set by the program itself", hint);
            }
            Ok(_) if HeaderValue::from_str(value.expose_secret()).is_err() => {
                checker.reject(&path, "contains a character that no header can have", "give one line of plain text");
            }
            Ok(name) => {
                headers.insert(name.to_string(), value);
            }
        }
    }
    headers
}

fn build_content_type(path: &str, given: Option<String>, checker: &mut Checker<'_>) -> Option<String> {
    let given = given.filter(|text| !text.trim().is_empty())?;
    let is_valid = given.contains('/') && HeaderValue::from_str(given.trim()).is_ok();
    let checked = if is_valid { Ok(given.trim().to_owned()) } else { Err("is not a media type".to_owned()) };
    checker.accept(path, checked, r#"give one such as "application/json""#)
}

fn build_oauth(path: &str, section: OauthSection, checker: &mut Checker<'_>) -> Option<OauthSettings> {
    if !checker.is_set(path) {
        return None;
    }
    const HINT: &str = "oauth needs token_url, client_id and client_secret";
    let key = |name: &str| format!("{path}.{name}");
    let secret = checker.secret(&key("client_secret"), section.client_secret, section.client_secret_file);
    let secret = checker.require(&key("client_secret"), secret, HINT);
    let token_url = checker.require(&key("token_url"), section.token_url.0, HINT);
    let client_id = checker.require(&key("client_id"), section.client_id.0, HINT);
    let token_url = checker.accept(&key("token_url"), url::parse_web_url(token_url?.trim()).map(String::from), HINT);
    let scope = section.scope.0.filter(|scope| !scope.trim().is_empty());
    Some(OauthSettings { token_url: token_url?, client_id: client_id?, client_secret: secret?.value, scope })
}

fn build_proxy(path: &str, given: (Option<SecretText>, Text), checker: &mut Checker<'_>) -> Option<SecretString> {
    let given = checker.secret(path, given.0, given.1)?;
    let parsed = url::parse_web_url(given.value.expose_secret().trim()).map(|url| SecretString::from(url.to_string()));
    checker.accept(&given.source(path), parsed, r#"give its URL, such as "http://proxy.example.com:3128""#)
}

/// Checks a template: its syntax, and that it uses only what an event has.
fn build_template(path: &str, given: (Option<SecretText>, Text), checker: &mut Checker<'_>) -> Option<String> {
    const HINT: &str = "docs/delivery.md describes templates, and docs/recipes has examples";
    let given = checker.multiline_secret(path, given.0, given.1)?;
    let source = given.source(path);
    let text = given.value.expose_secret().to_owned();
    let mut environment = Environment::new();
    if let Err(error) = environment.add_template("template", &text) {
        let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        checker.reject(&source, format!("is not a valid template{line}: {detail}"), HINT);
        return None;
    }
    let used = environment.get_template("template").map(|template| template.undeclared_variables(false));
    let mut unknown: Vec<String> = used.unwrap_or_default().into_iter().collect();
    unknown.retain(|name| !TEMPLATE_VARIABLES.contains(&&**name) && !TEMPLATE_FUNCTIONS.contains(&&**name));
    unknown.sort_unstable();
    if let Some(name) = unknown.first() {
        let known = TEMPLATE_VARIABLES.join(", ");
        let what = format!("uses {}, which no event has", quoted(name));
        checker.reject(&source, what, &format!("an event has {known}"));
        return None;
    }
    Some(text)
}

/// Builds the signing secrets from `secret` or `secrets`; at least one, unless something else
/// authenticates the requests.
fn build_signing_secrets(
    at: &str,
    one: (Option<SecretText>, Text),
    several: (Vec<SecretText>, Text),
    is_optional: bool,
    checker: &mut Checker<'_>,
) -> Option<Vec<SecretString>> {
    const HINT: &str = "give secret, or secrets while it is rotated: the first is the new one";
    let key = |name: &str| format!("{at}.{name}");
    let filled = |name: &str| [key(name), key(&format!("{name}_file"))].into_iter().find(|key| checker.is_filled(key));
    let given: Vec<(String, SecretString)> = match (filled("secret"), filled("secrets")) {
        (Some(_), Some(several)) => {
            checker.reject(&several, "is set together with secret", HINT);
            return None;
        }
        (Some(_), None) => {
            let secret = checker.secret(&key("secret"), one.0, one.1)?;
            vec![(secret.source(&key("secret")), secret.value)]
        }
        (None, Some(several_key)) => {
            let secrets = build_secrets(&key("secrets"), several.0, several.1, checker)?;
            if secrets.is_empty() && !checker.has_problem(&key("secrets")) {
                checker.reject(&several_key, "contains no secret", HINT);
            }
            secrets
        }
        (None, None) if is_optional => {
            checker.warn(at, "has no secret: its requests are not signed");
            return Some(Vec::new());
        }
        (None, None) => checker.require(&key("secret"), None, HINT)?,
    };
    let checked = given.into_iter().map(|(path, secret)| {
        let text = secret.expose_secret();
        if text.starts_with("whsec_") && signing_key(text).is_none() {
            let what = "is not a complete Standard Webhooks secret";
            checker.reject(&path, what, "copy it again: base64 follows whsec_");
            return None;
        }
        let bytes = signing_key(text).map_or(text.len(), |key| key.len());
        if bytes < MIN_SIGNING_KEY_BYTES {
            let what = format!(
                "signs with {bytes} bytes, but the minimum is {MIN_SIGNING_KEY_BYTES}: a shorter key is insecure"
            );
            checker.reject(&path, what, "create one with `ringcx-extractor deliver new-secret`");
            return None;
        }
        Some(secret)
    });
    let checked: Vec<Option<SecretString>> = checked.collect();
    checked.into_iter().collect::<Option<Vec<_>>>().filter(|secrets| !secrets.is_empty())
}

/// Returns a list of secrets, each with its key. They are set directly, or by a file with one per
/// line.
fn build_secrets(
    path: &str,
    direct: Vec<SecretText>,
    file: Text,
    checker: &mut Checker<'_>,
) -> Option<Vec<(String, SecretString)>> {
    if let Some(file) = checker.secret_file(path, !direct.is_empty(), file)? {
        let file: Text = file.to_string_lossy().into_owned().into();
        let content: Secret = checker.multiline_secret(path, None, file)?;
        let lines = content.value.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty());
        return Some(lines.map(|line| (content.source(path), SecretString::from(line))).collect());
    }
    let direct = direct.into_iter().enumerate().map(|(i, secret)| (format!("{path}[{i}]"), secret.0));
    let (empty, direct): (Vec<_>, Vec<_>) = direct.partition(|(_, secret)| secret.expose_secret().trim().is_empty());
    empty.iter().for_each(|(key, _)| checker.reject(key, "is empty", "leave it out"));
    Some(direct)
}

/// The minimum length of a signing key (Standard Webhooks, "Signature scheme": 24 to 64 bytes).
const MIN_SIGNING_KEY_BYTES: usize = 24;

/// Decodes the key of a secret like the Standard Webhooks libraries: base64, with or without the
/// prefix `whsec_`. Returns `None` if it is not base64; then the text itself is the key.
pub fn signing_key(secret: &str) -> Option<Vec<u8>> {
    let secret = secret.trim();
    base64::prelude::BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()
}
