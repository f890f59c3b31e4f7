//! What every request has to pass, and what every answer carries.
//!
//! Only GET and HEAD are answered, for nothing here changes anything, and POST to go in and out where conversations may be
//! read (`door`); that only from this site's own forms, or from what is no browser. No answer may be framed, sniffed or stored, and no
//! other site's page may read one (there are no CORS headers). A site that points its own name at this machine's
//! loopback address (DNS rebinding) would pass for the same origin, so while the server listens on loopback it
//! answers only to names that such a site cannot have: `localhost`, IP addresses, the host that
//! `http.listen` names, and this machine's own name. A server that listens beyond loopback is reached under names that
//! it cannot know, and whoever reaches it may read it anyway; conversations are shown only to a session or a token, and a
//! browser sends its session under the name alone for which it was given.
//! Probes (`/healthz`, `/readyz`, `/metrics`) are no exception, but need not be asked for under any name: no browser does that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Where forms are sent.
const FORMS: [&str; 2] = ["/login", "/logout"];
/// What is asked for by programs, which may name no host.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// How long a form may take to come.
const FORM: Duration = Duration::from_secs(15);

/// Which names the pages for people answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hosts {
    /// Any: the server listens beyond loopback.
    Any,
    /// `localhost`, IP addresses, and these.
    Local(Vec<String>),
}

impl Hosts {
    /// For a server that is bound to `address`, as `http.listen` said.
    pub(super) fn of(address: SocketAddr, listen: Option<&str>, machine: Option<String>) -> Hosts {
        if !address.ip().to_canonical().is_loopback() {
            return Hosts::Any;
        }
        let listen = listen.and_then(|listen| name(listen.trim()));
        Hosts::Local(listen.into_iter().chain(machine.map(|machine| machine.to_ascii_lowercase())).collect())
    }

    /// Whether a page is shown under this `Host`.
    pub(super) fn admit(&self, host: Option<&str>) -> bool {
        let Hosts::Local(names) = self else { return true };
        let Some(host) = host.and_then(name) else { return false };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || names.contains(&host)
    }
}

/// The host of `host:port`, in lower case, without the dot that ends a full name.
fn name(authority: &str) -> Option<String> {
    let host = match authority.rfind(':') {
        Some(colon) if authority[colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => &authority[..colon],
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

/// Refuses what is asked for under a name that may be another site's.
pub(super) async fn known_host(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    let mut named = request.headers().get_all(HOST).iter();
    let first = named.next();
    let host = first.and_then(|host| host.to_str().ok());
    let is_probe = first.is_none() && PROBES.contains(&request.uri().path());
    if is_probe || (named.next().is_none() && hosts.admit(host)) {
        return next.run(request).await;
    }
    let why = "this page answers to localhost, to IP addresses, and to the host in http.listen\n\
               hint: use one of them, or have the proxy in front send one as Host\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Refuses what would change something, and marks every answer.
pub(super) async fn every(request: Request, next: Next) -> Response {
    let is_form = *request.method() == Method::POST && FORMS.contains(&request.uri().path());
    let mut response = if matches!(*request.method(), Method::GET | Method::HEAD) {
        next.run(request).await
    } else if !is_form {
        (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "only GET and HEAD are answered\n").into_response()
    } else if !is_own(request.headers()) {
        (StatusCode::FORBIDDEN, "this form came from another site\n").into_response()
    } else {
        let late = |_| StatusCode::REQUEST_TIMEOUT.into_response();
        tokio::time::timeout(FORM, next.run(request)).await.unwrap_or_else(late)
    };
    mark(response.headers_mut());
    response
}

/// Whether a form was sent from one of this server's pages, as browsers tell, or by what is no browser.
fn is_own(headers: &HeaderMap) -> bool {
    let says = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = says(&HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let Some(origin) = says(&ORIGIN) else { return true };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some_and(|authority| says(&HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority)))
}

fn mark(headers: &mut HeaderMap) {
    let marks: [(HeaderName, &'static str); 5] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in marks {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Pages with forms bring their own: browsers would not say where the forms come from.
    headers.entry(REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    // The page brings its own, which allows its own style and script.
    if !headers.contains_key(CONTENT_SECURITY_POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_taken_from_this_server_s_pages_and_from_what_is_no_browser() {
        let own = |headers: &[(&'static str, &'static str)]| {
            let headers =
                headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_own(&HeaderMap::from_iter(headers))
        };
        let host = ("host", "localhost:8480");
        assert!(own(&[host]) && own(&[host, ("sec-fetch-site", "same-origin")]));
        assert!(own(&[host, ("origin", "http://localhost:8480")]));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!own(&[host, ("sec-fetch-site", site), ("origin", "http://localhost:8480")]), "{site}");
        }
        for origin in ["null", "http://evil.example", "http://localhost:1", "https://localhost:8480.evil.example"] {
            assert!(!own(&[host, ("origin", origin)]), "{origin}");
        }
    }

    fn local() -> Hosts {
        Hosts::of("127.0.0.1:8480".parse().unwrap(), Some("archive.internal:8480"), Some("Host-1".to_owned()))
    }

    #[test]
    fn on_loopback_only_names_that_no_other_site_can_have_are_answered() {
        let hosts = local();
        let good =
            ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "10.1.2.3", "archive.internal", "host-1:1"];
        for host in good {
            assert!(hosts.admit(Some(host)), "{host}");
        }
        let bad =
            ["evil.example", "evil.example:8480", "localhost.evil.example", "127.0.0.1.evil.example", "", ":8480", "."];
        for host in bad {
            assert!(!hosts.admit(Some(host)), "{host}");
        }
        assert!(!hosts.admit(None));
    }

    #[test]
    fn beyond_loopback_any_name_is_answered() {
        let hosts = Hosts::of("0.0.0.0:8480".parse().unwrap(), None, None);
        assert!(hosts.admit(Some("dashboard.example")) && hosts.admit(None));
    }
}
