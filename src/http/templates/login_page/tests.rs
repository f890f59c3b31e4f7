use std::time::Duration;

use super::super::STYLE;
use super::*;

const HOSTILE: &str =
    "</p></script><script>alert(1)</script><img src=x onerror='alert(2)'>\" autofocus onfocus=\"alert(3)";

fn assert_harmless(page: &str) {
    assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("\" autofocus onfocus"), "{page}");
    assert!(!page.contains(" style=") && !page.contains(" onclick="), "the policy allows neither");
    assert!(page.contains(&own_style()), "the style is the one that the policy allows");
}

fn own_style() -> String {
    format!("<style>{STYLE}</style>")
}

#[test]
fn the_login_page_shows_the_error() {
    let view = LoginView { next_path: HOSTILE, refusal: None, failed: None, has_token: true, has_provider: true };
    let page = login_page(&LoginView { refusal: Some(&AuthRefusal::Wrong), ..view });
    assert_harmless(&page);
    assert!(page.contains("Wrong token") && page.contains("type=\"password\""));
    let limited = AuthRefusal::RateLimited(Duration::from_secs(10));
    let page = login_page(&LoginView { refusal: Some(&limited), has_provider: false, ..view });
    assert!(page.contains("Try again in 10 s") && !page.contains("/auth/login"), "{page}");
    let failed = LoginError::without_role(HOSTILE);
    let page = login_page(&LoginView { failed: Some(&failed), has_token: false, ..view });
    assert_harmless(&page);
    assert!(page.contains("no role lets you read") && !page.contains("type=\"password\"") && !page.contains("Log out"));
}
