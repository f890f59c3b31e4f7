//! `[access]`: the identity provider, the roles, and the keys of programs.

use std::collections::{BTreeMap, BTreeSet};

use super::super::checker::{Checker, LoadScope};
use super::super::config_error::quoted;
use super::super::setting_types::{Id, List, Text};
use super::super::settings::{Access, AccountSettings, KeySettings, Oidc, RoleSettings};
use super::super::settings_document::{
    AccessSection, DEFAULT_GROUPS_CLAIM, DEFAULT_SCOPES, KeySection, OidcSection, RoleSection,
};
use super::super::time_parse::parse_start;
use super::sink_settings::{build_name, build_redaction};
use super::url;
use crate::clock::Time;
use crate::model::DiscoveryStart;

const UNIQUE_HINT: &str = "give each its own value";
/// What a key's hash begins with.
const HASH_PREFIX: &str = "sha256:";

/// Builds the settings of access.
pub(super) fn build_access(section: AccessSection, checker: &mut Checker<'_>) -> Option<Access> {
    let is_oidc_set = section.oidc.is_some();
    let oidc = section.oidc.map(|section| build_oidc(section, checker));
    let mut names = BTreeMap::new();
    let roles = checker.each_section("access.roles", section.roles, |section, at, checker| {
        let role = build_role(section, at, checker)?;
        checker.unique(&format!("{at}.name"), role.name.clone(), at, &mut names, UNIQUE_HINT)?;
        Some(role)
    });
    let (mut key_names, mut hashes) = (BTreeMap::new(), BTreeMap::new());
    let keys = checker.each_section("access.keys", section.keys, |section, at, checker| {
        let (key, hash) = build_key(section, at, roles.as_deref(), checker)?;
        checker.unique(&format!("{at}.name"), key.name.clone(), at, &mut key_names, UNIQUE_HINT)?;
        checker.unique(&format!("{at}.key_hash"), hash, at, &mut hashes, UNIQUE_HINT)?;
        Some(key)
    });
    let access = Access {
        // Who only reads the archive does not need the client secret.
        oidc: if is_oidc_set && checker.scope == LoadScope::All { Some(oidc.flatten()?) } else { oidc.flatten() },
        roles: roles?,
        keys: keys?,
        log_retention: section.log_retention.0,
    };
    warn_about_members(&access, checker);
    Some(access)
}

fn build_oidc(section: OidcSection, checker: &mut Checker<'_>) -> Option<Oidc> {
    let key = |name: &str| format!("access.oidc.{name}");
    let mut url = |name: &str, text: Text, hint: &str| {
        let given = checker.require(&key(name), text.0, hint)?;
        let parsed = url::parse_base_url(&given);
        let base = checker.accept(&key(name), parsed, hint)?;
        if base.is_unencrypted {
            checker.warn(&key(name), "is plain http: tokens and sessions are sent unencrypted");
        }
        Some((given, base.url))
    };
    let issuer_hint = r#"give the provider's issuer, such as "https://login.example.com""#;
    let issuer = url("issuer", section.issuer, issuer_hint);
    let public_hint = r#"give the URL that people type to reach this server, such as "https://calls.example.com""#;
    let public_url = url("public_url", section.public_url, public_hint);
    let id_hint = "copy it from the application that you have registered at the provider";
    let client_id = checker.require(&key("client_id"), section.client_id.0, id_hint);
    let secret = checker.secret(&key("client_secret"), section.client_secret, section.client_secret_file);
    let client_secret = checker.require(&key("client_secret"), secret, id_hint);
    let scopes = match section.scopes {
        Some(scopes) => build_scopes(&key("scopes"), scopes, checker),
        None => DEFAULT_SCOPES.map(str::to_owned).to_vec(),
    };
    Some(Oidc {
        // Not normalized: the provider's tokens have it letter by letter.
        issuer: issuer?.0,
        client_id: client_id?,
        client_secret: client_secret?,
        public_url: public_url?.1,
        groups_claim: section.groups_claim.0.unwrap_or_else(|| DEFAULT_GROUPS_CLAIM.to_owned()),
        scopes,
    })
}

fn build_scopes(path: &str, scopes: List<Id>, checker: &mut Checker<'_>) -> Vec<String> {
    let scopes = checker.texts(path, scopes);
    if let Some(wrong) = scopes.iter().find(|scope| scope.contains(char::is_whitespace)) {
        checker.reject(path, format!("{} contains white space", quoted(wrong)), "give each scope an entry of its own");
    }
    scopes.into_iter().filter(|scope| scope != "openid").collect()
}

fn build_role(section: RoleSection, at: &str, checker: &mut Checker<'_>) -> Option<RoleSettings> {
    let key = |name: &str| format!("{at}.{name}");
    let name = build_name(&key("name"), section.name, checker);
    let mut texts = |name: &str, texts: List<Id>| checker.texts(&key(name), texts);
    let groups = texts("groups", section.groups.unwrap_or_default());
    let subjects = texts("subjects", section.subjects);
    let accounts = texts("accounts", section.accounts);
    let channels = texts("channels", section.channels);
    let redact = build_redaction(&key("redact"), section.redact, checker);
    let may: BTreeSet<_> = section.may.map(|may| may.0).unwrap_or_default().into_iter().collect();
    if may.is_empty() && !checker.has_problem(&key("may")) {
        let what = if checker.is_set(&key("may")) { "is empty" } else { "is missing" };
        let hint = r#"give what the role permits, such as ["read"]; others are "listen", "operate", "erase" and "log""#;
        checker.reject(&key("may"), format!("{what}: the role would permit nothing"), hint);
    }
    Some(RoleSettings { name: name?, groups, subjects, accounts, channels, may, redact })
}

/// Builds a key; returns it with its hash as written.
fn build_key(
    section: KeySection,
    at: &str,
    roles: Option<&[RoleSettings]>,
    checker: &mut Checker<'_>,
) -> Option<(KeySettings, String)> {
    const HASH_HINT: &str =
        "create a key with `ringcx-extractor access new-key NAME --role ROLE`, and paste what it prints";
    const EXPIRES_HINT: &str =
        r#"give a date such as "2027-06-30" (midnight UTC), or a time such as "2027-06-30T12:00:00Z""#;
    let key = |name: &str| format!("{at}.{name}");
    let name = build_name(&key("name"), section.name, checker);
    let text = checker.require(&key("key_hash"), section.key_hash.0, HASH_HINT);
    let hash = text.as_deref().and_then(|text| checker.accept(&key("key_hash"), parse_hash(text), HASH_HINT));
    let role = checker.require(&key("role"), section.role.0, "give the name of a role in [[access.roles]]");
    let role = role.and_then(|role| check_role(&key("role"), role, roles, checker));
    let expires = match section.expires.0 {
        Some(text) => Some(checker.accept(&key("expires"), parse_expiry(&text), EXPIRES_HINT)?),
        None => None,
    };
    Some((KeySettings { name: name?, hash: hash?, role: role?, expires }, text?.to_ascii_lowercase()))
}

/// Checks that a key's role exists. Without the roles, which have problems of their own, it cannot
/// tell.
fn check_role(path: &str, role: String, roles: Option<&[RoleSettings]>, checker: &mut Checker<'_>) -> Option<String> {
    let roles = roles?;
    if roles.iter().any(|known| known.name == role) {
        return Some(role);
    }
    let similarity = |known: &&RoleSettings| strsim::normalized_damerau_levenshtein(&known.name, &role);
    let hint = match roles.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b))) {
        Some(nearest) => format!("the nearest role is {}", quoted(&nearest.name)),
        None => "add it as [[access.roles]]".to_owned(),
    };
    checker.reject(path, format!("{} is not the name of a role", quoted(&role)), &hint);
    None
}

/// Parses the hash of a key. The message does not quote it: it may be the key itself.
fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let hex = text.strip_prefix(HASH_PREFIX).ok_or_else(|| format!("does not begin with {HASH_PREFIX}"))?;
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes: Option<Vec<u8>> = digits
        .map(|digits| digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte * 16 + digit)).collect());
    let bytes = bytes.filter(|_| hex.len() == 64).and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("does not have 64 hexadecimal digits after {HASH_PREFIX}"))
}

fn parse_expiry(text: &str) -> Result<Time, String> {
    match parse_start(text) {
        Ok(DiscoveryStart::At(time)) => Ok(time),
        Ok(DiscoveryStart::Now | DiscoveryStart::Back(_)) => Err(format!("{} is not a date", quoted(text))),
        Err(what) => Err(what),
    }
}

/// Warns about settings that are valid but let nobody in.
fn warn_about_members(access: &Access, checker: &mut Checker<'_>) {
    let has_members = |role: &RoleSettings| !role.groups.is_empty() || !role.subjects.is_empty();
    if access.oidc.is_some() && !access.roles.iter().any(has_members) {
        checker.warn("access.oidc", "lets nobody in: no role has groups or subjects");
    }
    for (i, role) in access.roles.iter().enumerate() {
        let path = format!("access.roles[{i}]");
        if access.oidc.is_none() && has_members(role) {
            checker.warn(&path, "has groups or subjects, but without [access.oidc] nobody can log in");
        } else if !has_members(role) && access.keys.iter().all(|key| key.role != role.name) {
            checker.warn(&path, "is nobody's role: it has no groups, no subjects and no key");
        }
    }
}

/// Warns if a role names an account that is not listed.
pub(super) fn warn_about_unknown_accounts(listed: &[AccountSettings], access: &Access, checker: &mut Checker<'_>) {
    for (i, role) in access.roles.iter().enumerate() {
        for account in role.accounts.iter().filter(|sub| listed.iter().all(|account| *account.id.sub != ***sub)) {
            let what =
                format!("access.roles[{i}].accounts: {} is not a sub_account_id in [[accounts]]", quoted(account));
            checker.warnings.push(what);
        }
    }
}
