//! Logins of other kinds than RingCentral's: by name and password, and by a permanent token.

use super::*;
use crate::model::Artifact;
use crate::summary;

fn engage() -> Credentials {
    Credentials::Engage {
        username: "anna@example.com".to_owned(),
        password: SecretString::from("p&ss w0rd"),
        platform_id: "L1".to_owned(),
    }
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_engage_logins_url_is_in_no_error_and_no_log() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let rig = rig_of(engage(), None);
    let mut shown = String::new();
    for trouble in [
        (|_| Some(reply(401, "", r#"{"errorCode":"bad.login","requestUri":"/x?password=p&ss w0rd"}"#))) as Trouble,
        |_| Some(reply(400, "", r#"{"error_description":"no user anna@example.com with p&ss w0rd"}"#)),
        |_| Some(Reply::Cut(Vec::new())),
        |_| Some(Reply::Cut(b"garbage\r\n\r\n".to_vec())),
        |_| Some(reply(302, "location: http://127.0.0.1:1/?password=p%26ss+w0rd\r\n", "")),
        |_| Some(ok("{}")),
    ] {
        rig.fake.trouble(trouble);
        shown += &format!("{:?}\n", rig.login.token().await.unwrap_err());
        rig.pass(61);
    }
    rig.fake.well();
    rig.login.token().await.unwrap();
    assert_eq!(
        rig.server.seen()[0].target,
        "/api/auth/login/admin?username=anna%40example.com&password=p%26ss+w0rd&platformId=L1"
    );
    shown += &String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(shown.contains("failed to log in to RingCX"), "something was logged");
    for secret in ["ss w0rd", "ss+w0rd", "ss%20w0rd", "anna", "cx-1", "refresh-1"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[tokio::test]
async fn an_engage_login_refreshes_too() {
    let rig = rig_of(engage(), None);
    rig.login.token().await.unwrap();
    rig.pass(250);
    rig.login.token().await.unwrap();
    assert_eq!((rig.server.count("/login/admin"), rig.server.count("/refresh")), (1, 1));
}

#[tokio::test]
async fn a_permanent_token_that_is_refused_is_read_again() {
    let token = Arc::new(Mutex::new("old"));
    let kept = Arc::clone(&token);
    let reread: Reread = Arc::new(move || Ok(Credentials::ApiToken(SecretString::from(*kept.lock().unwrap()))));
    let rig = rig_of(Credentials::ApiToken(SecretString::from("old")), Some(reread));
    rig.fake.trouble(|request| {
        Some(match request.header("cookie").or(request.header("x-auth-token")) {
            Some("new") => ok(r#"{"transcript":[{"message":"yes"}]}"#),
            Some("access_token=new") => ok("text"),
            _ => reply(401, "", ""),
        })
    });
    let error = rig.fetch().await.unwrap_err();
    assert_eq!((error.fault, error.endpoint), (Fault::Unauthorised, Endpoint::Login));
    assert!(error.hint().unwrap().contains("auth.api_token"));
    assert!(matches!(rig.login.state(), LoginState::Failing { refused: true, .. }));
    *token.lock().unwrap() = "new";
    rig.pass(61);
    rig.fetch().await.unwrap();
    let pacer = pacer(Clock::system());
    let permit = pacer.enter().await;
    let text = summary(rig.login.api(), &rig.login, &pacer, permit, &account(), "s", Artifact::AgentSummary).await;
    assert_eq!(text.unwrap(), Fetched::Body("text".into()));
    assert!(matches!(rig.login.state(), LoginState::Good { .. }));
}

#[test]
fn credentials_show_nothing_of_themselves() {
    let shown = format!("{:?} {:?}", ringcentral(), engage());
    assert!(!shown.contains("s3cret") && !shown.contains("w0rd"));
    assert!(ringcentral() == ringcentral() && ringcentral() != engage());
}
