//! Parses the URLs and addresses of the settings. Pure. No message quotes a URL, because some
//! contain passwords.

use std::net::{IpAddr, SocketAddr};

use reqwest::Url;

/// The base URL of an API.
pub(super) struct BaseUrl {
    /// The URL without a trailing slash.
    pub(super) url: String,
    /// Whether requests to it are sent unencrypted.
    pub(super) is_unencrypted: bool,
}

/// Parses a base URL: http or https, a host, and optionally a port and a path.
pub(super) fn parse_base_url(text: &str) -> Result<BaseUrl, String> {
    let url = parse_web_url(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user or password, which belong in [auth]".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has something after ? or #".to_owned());
    }
    let is_unencrypted = url.scheme() == "http" && !is_loopback(&url);
    Ok(BaseUrl { url: url.as_str().trim_end_matches('/').to_owned(), is_unencrypted })
}

/// Parses any http or https URL.
pub(super) fn parse_web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        "http" | "https" => Err("names no host".to_owned()),
        _ => Err("is neither http nor https".to_owned()),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Checks the URL of a bucket or folder of an object store.
pub(super) fn parse_object_store_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("contains a user or password, which belong in options".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has something after ? or #".to_owned());
    }
    match url.scheme() {
        "s3" | "gs" | "az" if url.host_str().is_none_or(str::is_empty) => Err("names no bucket".to_owned()),
        "file" if url.path() == "/" => Err("names no folder".to_owned()),
        "file" if url.host_str().is_some() => Err("is not an absolute path: write three slashes before it".to_owned()),
        "s3" | "gs" | "az" | "file" => Ok(text.to_owned()),
        _ => Err("names an unknown kind of object store".to_owned()),
    }
}

/// Parses the path after `sqlite:`: `relative`, `/absolute` or `///absolute`.
pub(super) fn parse_sqlite_path(rest: &str) -> Result<&str, String> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => {
            return Err("has two slashes after sqlite: write none for a relative path, or three for an absolute path"
                .to_owned());
        }
        None => rest,
    };
    if path == ":memory:" {
        return Err("is in memory, but an archive must be durable".to_owned());
    }
    if path.contains('?') {
        return Err("has something after ?, but only a path is allowed".to_owned());
    }
    if path.is_empty() || path.ends_with('/') {
        return Err("names no file".to_owned());
    }
    Ok(path)
}

/// Checks that the URL can be parsed; the driver checks the rest.
pub(super) fn check_postgres_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if url.cannot_be_a_base() {
        return Err("has no // after its scheme".to_owned());
    }
    Ok(())
}

/// Whether the URL of a database may contain a password.
pub(in crate::config) fn has_password(text: &str) -> bool {
    Url::parse(text).map_or(true, |url| {
        url.password().is_some() || url.query_pairs().any(|(name, _)| name.to_ascii_lowercase().contains("password"))
    })
}

/// Whether the text is `host:port`, where the host is an address or a name.
pub(super) fn is_listen_address(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    text.rsplit_once(':').is_some_and(|(host, port)| is_name(host) && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_loses_its_slash_and_keeps_its_path() {
        let url = |text| parse_base_url(text).map(|base| base.url);
        assert_eq!(url("https://Host.example/").unwrap(), "https://host.example");
        assert_eq!(url("http://127.0.0.1:80/a/b//").unwrap(), "http://127.0.0.1/a/b");
        for wrong in ["", "host", "ftp://host", "https://", "https://u:p@host", "https://host/?a=b", "https://host/#a"]
        {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn plain_http_is_open_except_on_loopback() {
        let open = |text| parse_base_url(text).unwrap().is_unencrypted;
        assert!(open("http://ringcx.example"));
        assert!(!open("https://ringcx.example"));
        assert!(!open("http://localhost:1"));
        assert!(!open("http://127.0.0.1:1"));
        assert!(!open("http://[::1]:1"));
    }

    #[test]
    fn a_sqlite_url_leads_to_a_path() {
        assert_eq!(parse_sqlite_path("data/a.db").unwrap(), "data/a.db");
        assert_eq!(parse_sqlite_path("/var/a.db").unwrap(), "/var/a.db");
        assert_eq!(parse_sqlite_path("///var/a.db").unwrap(), "/var/a.db");
        for wrong in ["", "//", "//a.db", ":memory:", "a.db?mode=ro", "data/", "///"] {
            assert!(parse_sqlite_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_object_store_needs_a_bucket_or_a_folder() {
        for right in ["s3://bucket", "s3://bucket/a/b", "gs://b/p", "az://c/p", "file:///var/out"] {
            assert_eq!(parse_object_store_url(right).unwrap(), right);
        }
        for wrong in
            ["", "bucket", "s3://", "s3:///p", "file:///", "file://out/a", "https://b", "s3://k:s@b", "s3://b?x"]
        {
            assert!(parse_object_store_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port() {
        for right in ["127.0.0.1:8480", "[::1]:0", "0.0.0.0:80", "localhost:8480"] {
            assert!(is_listen_address(right), "{right}");
        }
        for wrong in ["", "8480", ":8480", "localhost", "localhost:99999", "::1:80", "a b:1", "http://x:1"] {
            assert!(!is_listen_address(wrong), "{wrong}");
        }
    }
}
