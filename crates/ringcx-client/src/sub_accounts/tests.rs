use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::LoginState;
use crate::backoff::Fault;
use crate::clock::Clock;
use crate::test_server::{
    LoopbackServer, RawRequest, ScriptedReply, api, login, ok, pacer, permanent_login, reply, ringcentral_credentials,
};

fn server(list: &'static str) -> LoopbackServer {
    LoopbackServer::start(move |request: &RawRequest| -> ScriptedReply {
        match request.target.split('?').next().unwrap() {
            "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":3600}"#),
            "/api/auth/login/rc/accesstoken" => ok(r#"{"accessToken":"cx","refreshToken":"r"}"#),
            "/restapi/v1.0/account/~" => {
                assert_eq!(request.header("authorization"), Some("Bearer rc"));
                ok(r#"{"id":980634004}"#)
            }
            _ => ok(list),
        }
    })
}

#[tokio::test]
async fn the_list_is_read_leniently_and_completed_by_the_platform() {
    let server = server(
        r#"[{"accountId":"1","accountName":"A","dataRetentionDays":30,"mainAccount":{"rcAccountId":"77"}},
            {"accountId":2,"dataRetentionDays":"0","archivedAccount":true},
            {"accountId":"3","accountName":" "},{"accountId":"3"},{"accountName":"nobody"},null]"#,
    );
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let login = login(&api, ringcentral_credentials());
    let permit = pacer.acquire().await;
    let found = list_sub_accounts(&api, &login, &pacer, permit).await.unwrap();
    let sub = |id, name: Option<&str>, retention_days, archived| SubAccount {
        id,
        name: name.map(str::to_owned),
        retention_days,
        archived,
    };
    assert_eq!(
        found,
        [
            sub(AccountId::new("77", "1"), Some("A"), Some(30), false),
            sub(AccountId::new("980634004", "2"), None, None, true),
            sub(AccountId::new("980634004", "3"), None, None, false),
        ]
    );
    assert_eq!(server.count("/restapi/v1.0/account/~"), 1);
    assert_eq!(server.count("/restapi/oauth/token"), 1, "the RingCentral token is reused");
}

#[tokio::test]
async fn without_a_ringcentral_login_a_list_without_the_main_account_is_an_error_with_a_hint() {
    let server = server(r#"[{"accountId":"1"}]"#);
    let clock = Clock::system();
    let (api, pacer) = (api(&server, clock.clone()), pacer(clock));
    let permit = pacer.acquire().await;
    let login = permanent_login(&api);
    let error = list_sub_accounts(&api, &login, &pacer, permit).await.unwrap_err();
    assert_eq!(error.fault, Fault::Permanent);
    assert!(error.hint().unwrap().contains("rc_account_id"));
    assert!(matches!(login.state(), LoginState::Good { .. }), "the login itself works");
}

#[tokio::test]
async fn after_a_refusal_by_the_platform_only_an_old_token_is_replaced() {
    let server = LoopbackServer::start(|request| match request.target.as_str() {
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":3600}"#),
        _ => reply(401, "", "{}"),
    });
    let clock = Clock::manual(crate::clock::Time(1_800_000_000_000));
    let api = api(&server, clock.clone());
    let login = login(&api, ringcentral_credentials());
    for tokens in [1, 1, 2] {
        let error = fetch_rc_account_id(&api, &login).await.unwrap_err();
        assert_eq!(error.fault, Fault::Unauthorised);
        assert_eq!(server.count("/restapi/oauth/token"), tokens);
        clock.advance(std::time::Duration::from_secs(31));
    }
}

/// A platform that refuses RingCentral tokens, or the exchange of one, while the switch is set.
fn refusing_server() -> (LoopbackServer, [Arc<AtomicBool>; 2]) {
    let switches = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let [tokens, exchanges] = switches.clone();
    let server = LoopbackServer::start(move |request| match request.target.split('?').next().unwrap() {
        "/restapi/oauth/token" if tokens.load(Ordering::SeqCst) => reply(503, "", ""),
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc","expires_in":100}"#),
        "/api/auth/login/rc/accesstoken" if exchanges.load(Ordering::SeqCst) => reply(403, "", ""),
        "/api/auth/login/rc/accesstoken" => ok(r#"{"accessToken":"cx"}"#),
        _ => ok(r#"{"id":"7"}"#),
    });
    (server, switches)
}

#[tokio::test]
async fn the_login_works_again_once_the_platform_issues_tokens_again() {
    let (server, [tokens, _]) = refusing_server();
    let clock = Clock::manual(crate::clock::Time(1_800_000_000_000));
    let api = api(&server, clock.clone());
    let login = login(&api, ringcentral_credentials());
    login.token().await.unwrap();
    clock.advance(std::time::Duration::from_secs(101));
    tokens.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        fetch_rc_account_id(&api, &login).await.unwrap_err();
        assert!(matches!(login.state(), LoginState::Failing { .. }));
        clock.advance(std::time::Duration::from_secs(17));
    }
    tokens.store(false, Ordering::SeqCst);
    fetch_rc_account_id(&api, &login).await.unwrap();
    assert!(matches!(login.state(), LoginState::Good { .. }), "{:?}", login.state());
    clock.advance(std::time::Duration::from_secs(101));
    tokens.store(true, Ordering::SeqCst);
    let error = fetch_rc_account_id(&api, &login).await.unwrap_err();
    assert!(error.retry_in.unwrap() <= std::time::Duration::from_secs(1), "the back-off starts anew: {error:?}");
}

#[tokio::test]
async fn a_token_of_the_platform_does_not_end_a_failure_of_the_exchange() {
    let (server, [_, exchanges]) = refusing_server();
    let clock = Clock::manual(crate::clock::Time(1_800_000_000_000));
    let api = api(&server, clock.clone());
    let login = login(&api, ringcentral_credentials());
    exchanges.store(true, Ordering::SeqCst);
    login.token().await.unwrap_err();
    clock.advance(std::time::Duration::from_secs(61));
    fetch_rc_account_id(&api, &login).await.unwrap();
    assert!(matches!(login.state(), LoginState::Failing { refused: true, .. }), "{:?}", login.state());
}

#[tokio::test]
async fn only_the_beginning_of_an_error_is_read() {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&written);
    let server = LoopbackServer::start(move |request| match request.target.as_str() {
        "/restapi/oauth/token" => ok(r#"{"access_token":"rc"}"#),
        _ => {
            let counter = Arc::clone(&counter);
            ScriptedReply::Stream(Box::new(move |out| {
                out.write_all(b"HTTP/1.1 500 X\r\nconnection: close\r\n\r\n")?;
                loop {
                    out.write_all(&[b'a'; 65_536])?;
                    counter.fetch_add(65_536, Ordering::SeqCst);
                }
            }))
        }
    });
    let api = api(&server, Clock::system());
    let error = fetch_rc_account_id(&api, &login(&api, ringcentral_credentials())).await.unwrap_err();
    assert_eq!(error.status, Some(500));
    // The rest is in the buffers of the two sockets.
    let written = written.load(Ordering::SeqCst);
    assert!(written < 32 * 1024 * 1024, "{written} bytes were sent");
}
