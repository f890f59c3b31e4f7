//! Login, and access to the conversation pages.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_the_conversation_pages_do_not_exist() {
    let server = Server::with_settings(&SETTINGS.replace("token = \"sentinel-token\"\n", "")).await;
    for path in
        ["/search", "/conversations?q=x", "/conversation?account=one&segment=x", "/dialogs/x", "/queue", "/login"]
    {
        assert_eq!(server.get(path).await.status, 404, "{path}");
        assert_eq!(request(server.address, path, &["Authorization: Bearer "], None).await.status, 404, "{path}");
    }
    assert_eq!(request(server.address, "/login", &[], Some("token=")).await.status, 404);
    assert!(!server.get("/").await.body.contains("/conversations"));
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_allows_login_and_logout() {
    let server = Server::start().await;
    assert!(server.get("/").await.body.contains("href=\"/conversations\""));
    for path in ["/search?q=refund", "/conversation?account=one&segment=x"] {
        let denied = server.get(path).await;
        assert_eq!((denied.status, denied.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert!(denied.body.contains("type=\"password\""), "{}", denied.body);
    }
    let wrong = request(server.address, "/login", &[], Some("token=sentinel-toke")).await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let form = "token=sentinel-token&next=%2Fsearch%3Fq%3Drefund";
    let logged_in = request(server.address, "/login", &["Sec-Fetch-Site: same-origin"], Some(form)).await;
    assert_eq!((logged_in.status, logged_in.header("location")), (303, Some("/search?q=refund")));
    let cookie = logged_in.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("sentinel"), "{cookie}");
    let session = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let page = request(server.address, "/search?q=refund", &[&session], None).await;
    assert_eq!((page.status, page.header("cache-control")), (200, Some("no-store")));
    assert!(page.body.contains("Nothing was found") && page.body.contains("not indexed yet"), "{}", page.body);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'; script-src 'self'; "));
    assert_eq!(request(server.address, "/search?q=-x", &[&session], None).await.status, 400);
    let refused = request(server.address, "/search?q=ref*nd", &[&session], None).await;
    assert!(refused.status == 400 && refused.body.contains("at character 4: "), "{}", refused.body);
    assert_eq!(request(server.address, "/search?q=(refund+OR+late)+AND+money", &[&session], None).await.status, 200);
    assert_eq!(request(server.address, "/conversation?account=one&segment=x", &[&session], None).await.status, 404);
    let logged_out = request(server.address, "/logout", &[&session], Some("")).await;
    assert_eq!((logged_out.status, logged_out.header("location")), (303, Some("/")));
    assert_eq!(request(server.address, "/search", &[&session], None).await.status, 401);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forms_and_redirects_of_other_sites_are_refused() {
    let server = Server::start().await;
    let form = Some("token=sentinel-token&next=https%3A%2F%2Fevil.example%2F");
    for header in ["Sec-Fetch-Site: cross-site", "Origin: https://evil.example", "Origin: null"] {
        let refused = request(server.address, "/login", &[header], form).await;
        assert_eq!((refused.status, refused.header("set-cookie")), (403, None), "{header}");
    }
    let logged_in = request(server.address, "/login", &["Origin: http://localhost"], form).await;
    assert_eq!((logged_in.status, logged_in.header("location")), (303, Some("/")));
    let under = b"GET /search HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer sentinel-token\r\nConnection: close\r\n\r\n";
    assert_eq!(send_request(server.address, under).await.status, 421);
    assert_eq!(request(server.address, "/search", &["Authorization: Bearer sentinel-token"], None).await.status, 200);
    let large = format!("token={}", "x".repeat(3 * 1024 * 1024));
    assert_eq!(request(server.address, "/login", &[], Some(&large)).await.status, 413);
    server.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_guesses_are_rate_limited() {
    let server = Server::start().await;
    for _ in 0..10 {
        assert_eq!(request(server.address, "/search", &["Authorization: Bearer guess"], None).await.status, 401);
    }
    let slowed = request(server.address, "/login", &[], Some("token=sentinel-token")).await;
    assert_eq!((slowed.status, slowed.header("retry-after")), (429, Some("10")));
    server.shut_down().await;
}
