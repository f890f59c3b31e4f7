//! Each recipe of docs/recipes sends an event, through the real binary, to a stand-in that checks what the vendor documents.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use base64::Engine;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinSet;

const SECRET: &str = "whsec_c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0";

/// A request as received.
struct Received {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Checks the signature as the libraries of Standard Webhooks do.
    fn assert_signed(&self) {
        let key = base64::prelude::BASE64_STANDARD.decode(SECRET.trim_start_matches("whsec_")).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(&self.body);
        let signature = base64::prelude::BASE64_STANDARD.encode(mac.finalize().into_bytes());
        assert_eq!(self.header("webhook-signature"), format!("v1,{signature}"));
    }
}

struct Recipe {
    name: &'static str,
    path: &'static str,
    /// The content of the recipe's secret file.
    secret: &'static str,
    status: u16,
    check: fn(&Received),
}

fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "salesforce",
        path: "/services/data/v62.0/sobjects/Task",
        secret: "client-secret",
        status: 201,
        check: |request| {
            // The first token is refused, so that it is renewed.
            assert_eq!(request.header("authorization"), "Bearer token-2");
            let task = request.json();
            assert!(task["Subject"].as_str().unwrap().len() <= 255 && is_text(&task["Description"]), "{task}");
            assert_eq!((&task["Status"], &task["TaskSubtype"]), (&"Completed".into(), &"Call".into()));
            assert_eq!(task["ActivityDate"].as_str().unwrap().len(), 10);
        },
    },
    Recipe {
        name: "hubspot",
        path: "/crm/v3/objects/calls",
        secret: "Bearer pat-test",
        status: 201,
        check: |request| {
            assert_eq!(request.header("authorization"), "Bearer pat-test");
            let properties = &request.json()["properties"];
            assert!(ringcx_extractor::clock::Time::parse(properties["hs_timestamp"].as_str().unwrap()).is_some());
            assert!(is_text(&properties["hs_call_title"]) && is_text(&properties["hs_call_body"]), "{properties}");
            assert_eq!(properties["hs_call_status"], "COMPLETED");
        },
    },
    Recipe {
        name: "zendesk",
        path: "/api/v2/tickets.json",
        secret: "Basic dGVzdA==",
        status: 201,
        check: |request| {
            assert_eq!(request.header("authorization"), "Basic dGVzdA==");
            let ticket = &request.json()["ticket"];
            assert!(is_text(&ticket["subject"]) && is_text(&ticket["comment"]["body"]), "{ticket}");
            assert_eq!((&ticket["comment"]["public"], is_text(&ticket["external_id"])), (&false.into(), true));
        },
    },
    Recipe {
        name: "qa-model",
        path: "/v1/chat/completions",
        secret: "Bearer sk-test",
        status: 200,
        check: |request| {
            let body = request.json();
            assert!(is_text(&body["model"]) && is_text(&body["metadata"]["segment_id"]), "{body}");
            let roles: Vec<&Value> = body["messages"].as_array().unwrap().iter().map(|one| &one["role"]).collect();
            assert_eq!(roles, ["system", "user"]);
            assert!(body["messages"][1]["content"].as_str().unwrap().contains(r#"A "test" message."#), "{body}");
        },
    },
    Recipe {
        name: "n8n",
        path: "/webhook/PATH",
        secret: "n8n-key",
        status: 200,
        check: |request| {
            assert_eq!(request.header("content-type"), "application/json");
            assert_eq!(request.header("x-n8n-key"), "n8n-key");
            assert_eq!(request.json()["type"], "com.ringcx.test");
        },
    },
    Recipe {
        name: "express",
        path: "/ringcx",
        secret: SECRET,
        status: 204,
        check: |request| {
            assert_eq!(request.header("content-type"), "application/cloudevents+json");
            assert_eq!(request.json()["id"], request.header("webhook-id"));
            request.assert_signed();
        },
    },
    Recipe { name: "flask", path: "/ringcx", secret: SECRET, status: 204, check: Received::assert_signed },
];

type Requests = Arc<Mutex<Vec<Received>>>;

/// Starts the stand-in of all vendors. Returns its address.
async fn start_vendors(requests: Requests, tasks: &mut JoinSet<()>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(requests);
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

async fn answer(
    State(requests): State<Requests>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<String> {
    let mut requests = requests.lock().unwrap();
    let path = uri.path().to_owned();
    let respond = |status: u16, body: Value| Response::builder().status(status).body(body.to_string()).unwrap();
    if path == "/services/oauth2/token" {
        let form = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(form, "grant_type=client_credentials&client_id=CONSUMER_KEY&client_secret=client-secret");
        let tokens = requests.iter().filter(|request| request.path == path).count();
        requests.push(Received { method, path, headers, body });
        return respond(200, json!({"access_token": format!("token-{}", tokens + 1), "token_type": "Bearer"}));
    }
    let is_refused = headers.get("authorization").is_some_and(|value| value == "Bearer token-1");
    let status = RECIPES.iter().find(|recipe| recipe.path == path).map_or(404, |recipe| recipe.status);
    if !is_refused {
        requests.push(Received { method, path, headers, body });
    }
    respond(if is_refused { 401 } else { status }, json!({"id": "made-up", "success": true}))
}

/// The settings of a recipe, with the stand-in in place of the vendor.
fn recipe_settings(name: &str, vendor: &str, folder: &Path) -> String {
    let text = include_str!("../../docs/recipes/README.md");
    let named = format!("name = \"{name}\"");
    let block = text.split("```toml\n").skip(1).map(|part| part.split("```").next().unwrap());
    let block = block.into_iter().find(|block| block.contains(&named)).expect("a recipe of this name");
    let mut block = block.replace("/run/secrets", folder.to_str().unwrap());
    while let Some(start) = block.find("https://") {
        let end = start + 8 + block[start + 8..].find('/').unwrap();
        block.replace_range(start..end, vendor);
    }
    format!(
        "{block}allow_private = true\n[auth]\napi_token = \"t\"\n[database]\nurl = \"sqlite:none.db\"\n[[accounts]]\n\
         rc_account_id = \"1\"\nsub_account_id = \"2\"\n"
    )
}

async fn run_test_command(folder: &Path, settings: &str, sink: &str) -> Output {
    std::fs::write(folder.join("local.toml"), settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    command.current_dir(folder).env_clear().env("RINGCX_CONFIG", "local.toml").args(["deliver", "test", sink]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recipe_sends_what_the_vendor_documents() {
    let (folder, requests, mut tasks) = (tempfile::tempdir().unwrap(), Requests::default(), JoinSet::new());
    let vendor = start_vendors(requests.clone(), &mut tasks).await;
    for recipe in RECIPES {
        for file in ["salesforce", "hubspot", "zendesk", "model", "n8n", "express", "flask"] {
            std::fs::write(folder.path().join(file), recipe.secret).unwrap();
        }
        let settings = recipe_settings(recipe.name, &vendor, folder.path());
        let output = run_test_command(folder.path(), &settings, recipe.name).await;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success() && text.contains(&format!("answer {}", recipe.status)),
            "{}: {text}",
            recipe.name
        );
        let last = requests.lock().unwrap().pop().expect("a request");
        assert_eq!((last.method.as_str(), last.path.as_str()), ("POST", recipe.path), "{}", recipe.name);
        (recipe.check)(&last);
    }
    assert!(!folder.path().join("none.db").exists(), "a test event needs no database");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_with_a_mistake_is_an_error_that_names_the_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("hubspot"), "Bearer x").unwrap();
    let settings = recipe_settings("hubspot", "http://127.0.0.1:9", folder.path());
    for (mistake, status, expected) in [
        ("{{ subject | tojson", 2, "template"),
        ("{{ subjekt | tojson }}", 2, "\"subjekt\", which no event has"),
        ("{{ subject }}", 1, "it makes no JSON"),
    ] {
        let settings = settings.replace("{{ subject | tojson }}", mistake);
        let output = run_test_command(folder.path(), &settings, "hubspot").await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), text.contains(expected)), (Some(status), true), "{mistake}: {text}");
    }
}
