//! A stub RingCX with fixed response bytes, for responses that real servers send and the simulator does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, Uri};
use tokio::task::JoinSet;

/// A `Content-Type` and a body.
pub type StubBody = (&'static str, Vec<u8>);

/// The responses of a [`StubApi`].
#[derive(Default)]
pub struct StubResponses {
    /// The response to every metadata request.
    pub metadata: StubBody,
    /// Responses by the end of the path, such as `segments/s1` or `segments/s1/auto`. Other paths get 404.
    pub artifacts: BTreeMap<String, StubBody>,
}

/// The running server. It stops when it is dropped.
pub struct StubApi {
    pub url: String,
    _server: JoinSet<()>,
}

impl StubApi {
    pub async fn start(responses: StubResponses) -> StubApi {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(respond).with_state(Arc::new(responses));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        StubApi { url, _server: server }
    }
}

async fn respond(State(responses): State<Arc<StubResponses>>, uri: Uri) -> Response<Body> {
    let path = uri.path();
    let json = |text: &str| Some(("application/json", text.as_bytes().to_vec()));
    let found = match path {
        "/restapi/oauth/token" => {
            json(r#"{"access_token":"a","token_type":"bearer","expires_in":3600,"scope":"ReadAccounts"}"#)
        }
        "/api/auth/login/rc/accesstoken" | "/api/auth/token/refresh" => {
            json(r#"{"accessToken":"b","refreshToken":"c","tokenType":"Bearer","mainAccountId":"1"}"#)
        }
        _ if path.ends_with("/interaction-metadata") => Some(responses.metadata.clone()),
        _ => responses
            .artifacts
            .iter()
            .find(|(end, _)| path.ends_with(&format!("/{end}")))
            .map(|(_, response)| response.clone()),
    };
    let (status, (content_type, body)) = found.map_or((404, ("text/plain", Vec::new())), |response| (200, response));
    let response = Response::builder().status(status).header("content-type", content_type);
    response.body(Body::from(body)).expect("a response")
}
