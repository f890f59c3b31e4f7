//! A RingCX that answers exactly what a test says, to the byte: for what real servers send and the simulator does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, Uri};
use tokio::task::JoinSet;

/// A body, with the `Content-Type` that it is sent with.
pub type Answer = (&'static str, Vec<u8>);

/// What is answered.
#[derive(Default)]
pub struct Answers {
    /// To every request for metadata.
    pub metadata: Answer,
    /// By the end of the path, such as `segments/s1` or `segments/s1/auto`; a 404 to all others.
    pub artifacts: BTreeMap<String, Answer>,
}

/// The server; ends with the test.
pub struct AnswerServer {
    pub url: String,
    _server: JoinSet<()>,
}

impl AnswerServer {
    pub async fn start(answers: Answers) -> AnswerServer {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let router = Router::new().fallback(answer).with_state(Arc::new(answers));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("a server") });
        AnswerServer { url, _server: server }
    }
}

async fn answer(State(answers): State<Arc<Answers>>, uri: Uri) -> Response<Body> {
    let path = uri.path();
    let json = |text: &str| Some(("application/json", text.as_bytes().to_vec()));
    let found = match path {
        "/restapi/oauth/token" => {
            json(r#"{"access_token":"a","token_type":"bearer","expires_in":3600,"scope":"ReadAccounts"}"#)
        }
        "/api/auth/login/rc/accesstoken" | "/api/auth/token/refresh" => {
            json(r#"{"accessToken":"b","refreshToken":"c","tokenType":"Bearer","mainAccountId":"1"}"#)
        }
        _ if path.ends_with("/interaction-metadata") => Some(answers.metadata.clone()),
        _ => answers
            .artifacts
            .iter()
            .find(|(end, _)| path.ends_with(&format!("/{end}")))
            .map(|(_, answer)| answer.clone()),
    };
    let (status, (content_type, body)) = found.map_or((404, ("text/plain", Vec::new())), |answer| (200, answer));
    let answer = Response::builder().status(status).header("content-type", content_type);
    answer.body(Body::from(body)).expect("an answer")
}
