//! `[auth]`: exactly one login method.

use super::super::checker::{Checker, LoadScope};
use super::super::config_error::SettingLocation;
use super::super::settings::Auth;
use super::super::settings_document::AuthSection;

const METHODS_HINT: &str = "\
    set client_id, client_secret and jwt (RingCentral login), or username, password and platform_id (Engage login), \
    or api_token; any secret x can be set as x_file";

/// The keys of each login method.
const METHODS: [&[&str]; 3] =
    [&["client_id", "client_secret", "jwt"], &["username", "password", "platform_id"], &["api_token"]];

/// Builds the login method.
pub(super) fn build_auth(section: AuthSection, checker: &mut Checker<'_>) -> Option<Auth> {
    let given: Vec<(&[&str], Vec<String>)> = METHODS
        .into_iter()
        .map(|method| (method, method.iter().filter_map(|name| given_key(name, checker)).collect::<Vec<_>>()))
        .filter(|(_, keys)| !keys.is_empty())
        .collect();
    let [(method, _)] = given.as_slice() else {
        let keys: Vec<&str> = given.iter().flat_map(|(_, keys)| keys).map(String::as_str).collect();
        if keys.is_empty() && checker.scope == LoadScope::Archive {
            return None;
        }
        if keys.is_empty() {
            checker.reject("auth", "configures no login method", METHODS_HINT);
        } else {
            let what = format!("configures {} login methods: {}", given.len(), keys.join(", "));
            checker.reject("auth", what, &format!("keep one of them: {METHODS_HINT}"));
        }
        return None;
    };
    let hint = format!("this login method needs {}", method.join(", "));
    let mut secret = |name: &str, direct, file| {
        let path = format!("auth.{name}");
        let given = checker.secret(&path, direct, file);
        checker.require(&path, given, &hint)
    };
    if method.contains(&"jwt") {
        let client_secret = secret("client_secret", section.client_secret, section.client_secret_file);
        let jwt = secret("jwt", section.jwt, section.jwt_file);
        let client_id = checker.require("auth.client_id", section.client_id.0, &hint);
        Some(Auth::RingCentral { client_id: client_id?, client_secret: client_secret?, jwt: jwt? })
    } else if method.contains(&"password") {
        let password = secret("password", section.password, section.password_file);
        let username = checker.require("auth.username", section.username.0, &hint);
        let platform_id = checker.require("auth.platform_id", section.platform_id.0, &hint);
        Some(Auth::Engage { username: username?, password: password?, platform_id: platform_id? })
    } else {
        Some(Auth::ApiToken { token: secret("api_token", section.api_token, section.api_token_file)? })
    }
}

/// The key of a setting that is not empty, or of its file, with its location.
fn given_key(name: &str, checker: &Checker<'_>) -> Option<String> {
    let key = [format!("auth.{name}"), format!("auth.{name}_file")].into_iter().find(|key| checker.is_filled(key))?;
    Some(match checker.place(&key) {
        Some(SettingLocation::Line(_, line)) => format!("{key} (line {line})"),
        Some(location) => format!("{key} ({location})"),
        None => key,
    })
}
