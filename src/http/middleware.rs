//! Middleware for every request and response.
//!
//! Only GET and HEAD are allowed, and POST to log in and out and for the console's actions (see
//! `login`, `console::action`). A form must come from this server's own
//! pages, or from a client that is not a browser. No response may be framed or sniffed, none but scripts and styles stored, and
//! no other site's page may read one (there are no CORS headers). A site that points its own name
//! at this machine's loopback address (DNS rebinding) would count as the same origin. So while the
//! server listens on loopback, it answers only to names that such a site cannot have: `localhost`,
//! IP addresses, the host that `http.listen` names, and this machine's own name. A server that
//! listens beyond loopback is reached under names that it cannot know, and everyone who reaches it
//! may read its open pages. Conversations are shown only to a session or a token, and a browser
//! sends its session only to the name that issued it. Probes (`/healthz`, `/readyz`, `/metrics`)
//! follow the same rule, but may omit the host: no browser does that.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tower_http::set_header::SetResponseHeaderLayer;

use super::console::action;
use super::mcp_endpoint;

/// The paths that accept forms.
const FORM_PATHS: [&str; 2] = ["/login", "/logout"];
/// The paths of the API begin so.
const API_PREFIX: &str = "/api/v1/";
/// The paths that programs request, maybe without a host.
const PROBE_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// The host names that the server answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AllowedHosts {
    /// All names: the server listens beyond loopback.
    Any,
    /// `localhost`, IP addresses, and these.
    Local(Vec<String>),
}

impl AllowedHosts {
    /// For a server that is bound to `address`, as `http.listen` asked.
    pub(super) fn of(address: SocketAddr, listen: Option<&str>, machine: Option<String>) -> AllowedHosts {
        if !address.ip().to_canonical().is_loopback() {
            return AllowedHosts::Any;
        }
        let listen = listen.and_then(|listen| host_name(listen.trim()));
        AllowedHosts::Local(listen.into_iter().chain(machine.map(|machine| machine.to_ascii_lowercase())).collect())
    }

    /// Whether requests with this `Host` are answered.
    pub(super) fn allows(&self, host: Option<&str>) -> bool {
        let AllowedHosts::Local(names) = self else { return true };
        let Some(host) = host.and_then(host_name) else { return false };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || names.contains(&host)
    }
}

/// The host of `host:port`, in lower case, without the dot that ends a full name.
fn host_name(authority: &str) -> Option<String> {
    let authority: Authority = authority.parse().ok()?;
    let host = authority.host();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    (!host.is_empty()).then_some(host)
}

/// Refuses a request for a host name that may be another site's.
async fn check_host(State(hosts): State<Arc<AllowedHosts>>, request: Request, next: Next) -> Response {
    let mut host_headers = request.headers().get_all(HOST).iter();
    let first = host_headers.next();
    let host = first.and_then(|host| host.to_str().ok());
    let is_probe = first.is_none() && PROBE_PATHS.contains(&request.uri().path());
    if is_probe || (host_headers.next().is_none() && hosts.allows(host)) {
        return next.run(request).await;
    }
    let why = "this server answers to localhost, IP addresses, and the host in http.listen\n\
               hint: use one of them, or configure the proxy in front to send one as Host\n";
    (StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Applies these rules to all routes, and adds the security headers to every response.
pub(super) fn apply_policy(router: Router, hosts: AllowedHosts) -> Router {
    let fixed_headers = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    // Pages set policies of their own: one allows their style and script, and with this referrer
    // policy browsers would not report where a form comes from.
    let default_headers = [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    let mut router = router.layer(from_fn_with_state(Arc::new(hosts), check_host)).layer(from_fn(check_method));
    for (name, value) in fixed_headers {
        router = router.layer(SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value)));
    }
    for (name, value) in default_headers {
        router = router.layer(SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value)));
    }
    router
}

/// Refuses other methods, and forms of other sites.
async fn check_method(request: Request, next: Next) -> Response {
    let (path, is_read) = (request.uri().path(), matches!(*request.method(), Method::GET | Method::HEAD));
    let is_form =
        *request.method() == Method::POST && (FORM_PATHS.contains(&path) || path.starts_with(action::PATH_PREFIX));
    // The API and MCP know their methods themselves.
    let is_api_write = !is_read && (path.starts_with(API_PREFIX) || path == mcp_endpoint::PATH);
    if !is_form && !is_api_write && !is_read {
        (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], "only GET and HEAD are allowed\n").into_response()
    } else if !is_read && !is_same_origin(request.headers()) {
        (StatusCode::FORBIDDEN, "this form came from another site\n").into_response()
    } else {
        next.run(request).await
    }
}

/// Whether a form was sent from one of this server's pages, as browsers report, or by a client that
/// is not a browser.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let header = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = header(&HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let Some(origin) = header(&ORIGIN) else { return true };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some_and(|authority| header(&HOST).is_some_and(|host| host.eq_ignore_ascii_case(authority)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_accepted_from_this_servers_pages_and_from_programs() {
        let own = |headers: &[(&'static str, &'static str)]| {
            let headers =
                headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_same_origin(&HeaderMap::from_iter(headers))
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

    fn local() -> AllowedHosts {
        AllowedHosts::of("127.0.0.1:8480".parse().unwrap(), Some("archive.internal:8480"), Some("Host-1".to_owned()))
    }

    #[test]
    fn on_loopback_only_names_that_no_other_site_can_have_are_allowed() {
        let hosts = local();
        let good =
            ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "10.1.2.3", "archive.internal", "host-1:1"];
        for host in good {
            assert!(hosts.allows(Some(host)), "{host}");
        }
        let bad =
            ["evil.example", "evil.example:8480", "localhost.evil.example", "127.0.0.1.evil.example", "", ":8480", "."];
        for host in bad {
            assert!(!hosts.allows(Some(host)), "{host}");
        }
        assert!(!hosts.allows(None));
    }

    #[test]
    fn beyond_loopback_any_name_is_allowed() {
        let hosts = AllowedHosts::of("0.0.0.0:8480".parse().unwrap(), None, None);
        assert!(hosts.allows(Some("dashboard.example")) && hosts.allows(None));
    }
}
