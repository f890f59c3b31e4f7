//! Logins without RingCentral: by user name and password, and by a permanent token.

use super::*;
use crate::fetch_summary;
use crate::model::Artifact;

fn engage_credentials() -> Credentials {
    Credentials::Engage {
        username: "anna@example.com".to_owned(),
        password: SecretString::from("p&ss w0rd"),
        platform_id: "L1".to_owned(),
    }
}

/// Collects log output.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects this thread's log lines until the guard is dropped.
fn collect_log() -> (LogBuffer, tracing::subscriber::DefaultGuard) {
    let log = LogBuffer::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

#[tokio::test]
async fn no_error_and_no_log_line_holds_an_engage_logins_url() {
    let (log, _guard) = collect_log();
    let env = env_with(engage_credentials(), None);
    let mut shown = String::new();
    for override_reply in [
        (|_| Some(reply(401, "", r#"{"errorCode":"bad.login","requestUri":"/x?password=p&ss w0rd"}"#)))
            as ReplyOverride,
        |_| Some(reply(400, "", r#"{"error_description":"no user anna@example.com with p&ss w0rd"}"#)),
        |_| Some(ScriptedReply::Cut(Vec::new())),
        |_| Some(ScriptedReply::Cut(b"garbage\r\n\r\n".to_vec())),
        |_| Some(reply(302, "location: http://127.0.0.1:1/?password=p%26ss+w0rd\r\n", "")),
        |_| Some(ok("{}")),
    ] {
        env.login_server.override_reply(override_reply);
        shown += &format!("{:?}\n", env.login.token().await.unwrap_err());
        env.advance_secs(61);
    }
    env.login_server.clear_override();
    env.login.token().await.unwrap();
    assert_eq!(
        env.server.requests()[0].target,
        "/api/auth/login/admin?username=anna%40example.com&password=p%26ss+w0rd&platformId=L1"
    );
    shown += &String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(shown.contains("failed to log in to RingCX"), "something was logged");
    for secret in ["ss w0rd", "ss+w0rd", "ss%20w0rd", "anna", "cx-1", "refresh-1"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[tokio::test]
async fn an_engage_login_refreshes_too() {
    let env = env_with(engage_credentials(), None);
    env.login.token().await.unwrap();
    env.advance_secs(250);
    env.login.token().await.unwrap();
    assert_eq!((env.server.count("/login/admin"), env.server.count("/refresh")), (1, 1));
}

#[tokio::test]
async fn a_refused_permanent_token_is_reloaded() {
    let token = Arc::new(Mutex::new("old"));
    let kept = Arc::clone(&token);
    let load_credentials: CredentialsLoader =
        Arc::new(move || Ok(Credentials::ApiToken(SecretString::from(*kept.lock()))));
    let env = env_with(Credentials::ApiToken(SecretString::from("old")), Some(load_credentials));
    env.login_server.override_reply(|request| {
        Some(match request.header("cookie").or(request.header("x-auth-token")) {
            Some("new") => ok(r#"{"transcript":[{"message":"yes"}]}"#),
            Some("access_token=new") => ok("text"),
            _ => reply(401, "", ""),
        })
    });
    let error = env.fetch().await.unwrap_err();
    assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Login));
    assert!(error.hint().unwrap().contains("auth.api_token"));
    assert!(matches!(env.login.state(), LoginState::Failing { refused: true, .. }));
    *token.lock() = "new";
    env.advance_secs(61);
    env.fetch().await.unwrap();
    let pacer = pacer(Clock::system());
    let permit = pacer.acquire().await;
    let text =
        fetch_summary(env.login.api(), &env.login, &pacer, permit, &account(), "s", Artifact::AgentSummary).await;
    assert_eq!(text.unwrap(), FetchedArtifact::Body("text".into()));
    assert!(matches!(env.login.state(), LoginState::Good { .. }));
}

#[tokio::test]
async fn a_panic_while_the_credentials_are_reloaded_is_logged_without_its_message() {
    let (log, _guard) = collect_log();
    let load_credentials: CredentialsLoader = Arc::new(|| panic!("the file holds s3cret"));
    let env = env_with(engage_credentials(), Some(load_credentials));
    env.login_server.override_reply(|_| Some(reply(401, "", "")));
    env.login.token().await.unwrap_err();
    let log = String::from_utf8(log.0.lock().clone()).unwrap();
    assert!(log.contains("failed to read the credentials again: the task that reads them panicked"), "{log}");
    assert!(!log.contains("s3cret"), "{log}");
}

#[test]
fn debug_output_does_not_show_credentials() {
    let shown = format!("{:?} {:?}", ringcentral_credentials(), engage_credentials());
    assert!(!shown.contains("s3cret") && !shown.contains("w0rd"));
    assert!(
        ringcentral_credentials() == ringcentral_credentials() && ringcentral_credentials() != engage_credentials()
    );
}
