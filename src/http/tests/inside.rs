//! The door to conversations, and what is behind it.

use super::*;

/// Asks with these headers, and a form where there is one.
async fn send(server: &Server, path: &str, headers: &[&str], form: Option<&str>) -> Answer {
    let method = if form.is_some() { "POST" } else { "GET" };
    let form = form.unwrap_or_default();
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if method == "POST" {
        request.push_str(&format!(
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            form.len()
        ));
    }
    headers.iter().for_each(|header| request.push_str(&format!("{header}\r\n")));
    ask(server.address, format!("{request}\r\n{form}").as_bytes()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_there_is_nothing_to_read_and_no_word_of_it() {
    let server = Server::with(&SETTINGS.replace("token = \"planted-token\"\n", "")).await;
    for path in ["/search", "/search?q=x", "/conversation?account=one&segment=x", "/login"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
        assert_eq!(send(&server, path, &["Authorization: Bearer "], None).await.status, 404, "{path}");
    }
    assert_eq!(send(&server, "/login", &[], Some("token=")).await.status, 404);
    assert!(!server.get("/").await.body.contains("/search"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_knows_the_token_gets_in_and_out_again() {
    let server = Server::start().await;
    assert!(server.get("/").await.body.contains("href=\"/search\""));
    for path in ["/search?q=refund", "/conversation?account=one&segment=x"] {
        let shut = server.get(path).await;
        assert_eq!((shut.status, shut.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert!(shut.body.contains("type=\"password\""), "{}", shut.body);
    }
    let wrong = send(&server, "/login", &[], Some("token=planted-toke")).await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let form = "token=planted-token&next=%2Fsearch%3Fq%3Drefund";
    let entered = send(&server, "/login", &["Sec-Fetch-Site: same-origin"], Some(form)).await;
    assert_eq!((entered.status, entered.header("location")), (303, Some("/search?q=refund")));
    let cookie = entered.header("set-cookie").unwrap().to_owned();
    assert!(cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("planted"), "{cookie}");
    let session = format!("Cookie: {}", cookie.split(';').next().unwrap());
    let page = send(&server, "/search?q=refund", &[&session], None).await;
    assert_eq!((page.status, page.header("cache-control")), (200, Some("no-store")));
    assert!(page.body.contains("Nothing was found") && page.body.contains("not indexed yet"), "{}", page.body);
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'; style-src 'sha256-"));
    assert_eq!(send(&server, "/search?q=-x", &[&session], None).await.status, 400);
    let refused = send(&server, "/search?q=ref*nd", &[&session], None).await;
    assert!(refused.status == 400 && refused.body.contains("at character 4: "), "{}", refused.body);
    assert_eq!(send(&server, "/search?q=(refund+OR+late)+AND+money", &[&session], None).await.status, 200);
    assert_eq!(send(&server, "/conversation?account=one&segment=x", &[&session], None).await.status, 404);
    let left = send(&server, "/logout", &[&session], Some("")).await;
    assert_eq!((left.status, left.header("location")), (303, Some("/")));
    assert_eq!(send(&server, "/search", &[&session], None).await.status, 401);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sites_forms_and_places_are_refused() {
    let server = Server::start().await;
    let form = Some("token=planted-token&next=https%3A%2F%2Fevil.example%2F");
    for header in ["Sec-Fetch-Site: cross-site", "Origin: https://evil.example", "Origin: null"] {
        let refused = send(&server, "/login", &[header], form).await;
        assert_eq!((refused.status, refused.header("set-cookie")), (403, None), "{header}");
    }
    let entered = send(&server, "/login", &["Origin: http://localhost"], form).await;
    assert_eq!((entered.status, entered.header("location")), (303, Some("/search")));
    let under = b"GET /search HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer planted-token\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(server.address, under).await.status, 421);
    assert_eq!(send(&server, "/search", &["Authorization: Bearer planted-token"], None).await.status, 200);
    let large = format!("token={}", "x".repeat(3 * 1024 * 1024));
    assert_eq!(send(&server, "/login", &[], Some(&large)).await.status, 413);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_soon_over() {
    let server = Server::start().await;
    for _ in 0..10 {
        assert_eq!(send(&server, "/search", &["Authorization: Bearer guess"], None).await.status, 401);
    }
    let slowed = send(&server, "/login", &[], Some("token=planted-token")).await;
    assert_eq!((slowed.status, slowed.header("retry-after")), (429, Some("10")));
    server.end().await;
}
