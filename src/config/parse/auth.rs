//! `[auth]`: exactly one way to log in.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::super::problem::Place;
use super::super::reader::{Reader, Section};
use super::super::settings::{Auth, SecretFiles};

const WAYS: &str = "set client_id, client_secret and jwt (RingCentral login), or username, password and platform_id \
                    (Engage login), or api_token; any secret x can be x_file instead";

/// A way to log in, by its keys and whether each is secret.
type Way = &'static [(&'static str, bool)];

const RINGCENTRAL: Way = &[("client_id", false), ("client_secret", true), ("jwt", true)];
const ENGAGE: Way = &[("username", false), ("password", true), ("platform_id", false)];
const API_TOKEN: Way = &[("api_token", true)];

/// How to log in.
pub(super) fn auth(reader: &mut Reader<'_>) -> Option<Auth> {
    let section = reader.section("auth");
    let given: Vec<(Way, Vec<String>)> = [RINGCENTRAL, ENGAGE, API_TOKEN]
        .into_iter()
        .map(|way| (way, keys_given(reader, &section, way)))
        .filter(|(_, keys)| !keys.is_empty())
        .collect();
    match given.as_slice() {
        [] => {
            reader.wrong("auth", section.place(), "names no way to log in".to_owned(), WAYS);
            None
        }
        [(way, _)] => one_way(reader, &section, way),
        several => {
            let keys: Vec<String> = several.iter().flat_map(|(_, keys)| keys.clone()).collect();
            let what = format!("names {} ways to log in: {}", several.len(), keys.join(", "));
            reader.wrong("auth", section.place(), what, &format!("keep one of them: {WAYS}"));
            None
        }
    }
}

/// The keys of the way that are given, each with its place.
fn keys_given(reader: &Reader<'_>, section: &Section<'_>, way: Way) -> Vec<String> {
    let given = way.iter().filter_map(|(name, _)| reader.secret_given(section, name));
    given
        .map(|given| match given.place {
            Some(Place::Line(_, line)) => format!("{} (line {line})", given.key),
            Some(place) => format!("{} ({place})", given.key),
            None => given.key,
        })
        .collect()
}

fn one_way(reader: &mut Reader<'_>, section: &Section<'_>, way: Way) -> Option<Auth> {
    let names: Vec<&str> = way.iter().map(|(name, _)| *name).collect();
    let hint = format!("this way to log in needs {}", names.join(", "));
    let mut plain = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    let mut files = SecretFiles::default();
    for &(name, is_secret) in way {
        if !is_secret {
            plain.extend(reader.required(section, name, &hint).map(|given| (name, given.value)));
            continue;
        }
        match reader.secret(section, name) {
            Some(given) => {
                files.0.extend(given.value.file.map(|file| (name, file)));
                secrets.insert(name, given.value.value);
            }
            None if reader.is_problem(&section.key(&format!("{name}_file"))) => {}
            None => {
                let _: Option<()> = reader.missing(section, name, &hint);
            }
        }
    }
    build(way, plain, secrets, files)
}

fn build(
    way: Way,
    mut plain: BTreeMap<&str, String>,
    mut secrets: BTreeMap<&str, SecretString>,
    files: SecretFiles,
) -> Option<Auth> {
    match way {
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
