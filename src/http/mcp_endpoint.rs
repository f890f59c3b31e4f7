//! `POST /mcp`: the Model Context Protocol over streamable HTTP.
//!
//! Each request is answered by itself, so any replica can answer it. The rules of the API apply: a key,
//! a rate limit. `middleware` refuses other hosts; a browser's page of another site is refused here.

use std::sync::Arc;

use axum::{Router, middleware};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use super::api::request_rules;
use super::state::HttpState;
use crate::mcp::McpServer;

/// The largest body of a request.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// The path of the server.
pub(super) const PATH: &str = "/mcp";

pub(super) fn routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_max_request_body_bytes(MAX_BODY_BYTES)
        .with_cancellation_token(state.stop.clone())
        // `middleware` checks the host of every request, by the address that the server listens on.
        .disable_allowed_hosts()
        .enforce_origin_validation();
    let server = McpServer::for_http(state.reader.clone());
    let service =
        StreamableHttpService::new(move || Ok(server.clone()), Arc::new(NeverSessionManager::default()), config);
    Router::new()
        .route_service(PATH, service)
        .layer(middleware::from_fn_with_state(state.clone(), request_rules::apply))
}
