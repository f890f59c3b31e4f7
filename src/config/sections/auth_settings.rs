//! `[auth]`: exactly one login method.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::super::config_error::SettingLocation;
use super::super::settings::{Auth, SecretFiles};
use super::super::settings_reader::{Section, SettingsReader};

const METHODS_HINT: &str = "\
    set client_id, client_secret and jwt (RingCentral login), or username, password and platform_id (Engage login), \
    or api_token; any secret x can be set as x_file";

/// The keys of a login method, and whether each is secret.
type LoginMethod = &'static [(&'static str, bool)];

const RINGCENTRAL: LoginMethod = &[("client_id", false), ("client_secret", true), ("jwt", true)];
const ENGAGE: LoginMethod = &[("username", false), ("password", true), ("platform_id", false)];
const API_TOKEN: LoginMethod = &[("api_token", true)];

/// Reads the login method.
pub(super) fn read_auth(reader: &mut SettingsReader<'_>) -> Option<Auth> {
    let section = reader.section("auth");
    let given: Vec<(LoginMethod, Vec<String>)> = [RINGCENTRAL, ENGAGE, API_TOKEN]
        .into_iter()
        .map(|method| (method, keys_set(reader, &section, method)))
        .filter(|(_, keys)| !keys.is_empty())
        .collect();
    match given.as_slice() {
        [] => {
            reader.add_problem("auth", section.location(), "configures no login method".to_owned(), METHODS_HINT);
            None
        }
        [(method, _)] => read_method(reader, &section, method),
        several => {
            let keys: Vec<String> = several.iter().flat_map(|(_, keys)| keys.clone()).collect();
            let what = format!("configures {} login methods: {}", several.len(), keys.join(", "));
            reader.add_problem("auth", section.location(), what, &format!("keep one of them: {METHODS_HINT}"));
            None
        }
    }
}

/// The keys of a login method that are set, each with its location.
fn keys_set(reader: &SettingsReader<'_>, section: &Section<'_>, method: LoginMethod) -> Vec<String> {
    let given = method.iter().filter_map(|(name, _)| reader.secret_source(section, name));
    given
        .map(|given| match given.location {
            Some(SettingLocation::Line(_, line)) => format!("{} (line {line})", given.key),
            Some(location) => format!("{} ({location})", given.key),
            None => given.key,
        })
        .collect()
}

fn read_method(reader: &mut SettingsReader<'_>, section: &Section<'_>, method: LoginMethod) -> Option<Auth> {
    let names: Vec<&str> = method.iter().map(|(name, _)| *name).collect();
    let hint = format!("this login method needs {}", names.join(", "));
    let mut plain = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    let mut files = SecretFiles::default();
    for &(name, is_secret) in method {
        if !is_secret {
            plain.extend(reader.required(section, name, &hint).map(|given| (name, given.value)));
            continue;
        }
        match reader.secret(section, name) {
            Some(given) => {
                files.0.extend(given.value.file.map(|file| (name, file)));
                secrets.insert(name, given.value.value);
            }
            None if reader.has_problem(&section.key(&format!("{name}_file"))) => {}
            None => {
                let _: Option<()> = reader.report_missing(section, name, &hint);
            }
        }
    }
    build_auth(method, plain, secrets, files)
}

fn build_auth(
    method: LoginMethod,
    mut plain: BTreeMap<&str, String>,
    mut secrets: BTreeMap<&str, SecretString>,
    files: SecretFiles,
) -> Option<Auth> {
    match method {
        RINGCENTRAL => Some(Auth::RingCentral {
            client_id: plain.remove("client_id")?,
            client_secret: secrets.remove("client_secret")?,
            jwt: secrets.remove("jwt")?,
            files,
        }),
        ENGAGE => Some(Auth::Engage {
            username: plain.remove("username")?,
            password: secrets.remove("password")?,
            platform_id: plain.remove("platform_id")?,
            files,
        }),
        _ => Some(Auth::ApiToken { token: secrets.remove("api_token")?, files }),
    }
}
