//! Who may read: login at an identity provider, keys of programs, roles, and the access log, through the real binary.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::collections::BTreeMap;
use std::path::Path;

use crate::support;

use ringcx_extractor::db::{Db, OpenMode, sql};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::stub_issuer::{CLIENT_ID, CLIENT_SECRET, Forgery, StubIssuer};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    people_log_in_at_the_provider_and_read_what_their_role_shows,
    a_forged_old_or_foreign_token_lets_nobody_in,
    a_key_reads_only_the_accounts_of_its_role_and_not_what_is_redacted,
    every_reading_is_in_the_log_before_it_is_shown_and_the_log_cannot_be_altered,
    an_erasure_takes_what_it_erased_out_of_the_access_log,
}

const PUBLIC_URL: &str = "https://calls.example";

/// A browser: it keeps cookies, and follows no redirect by itself.
struct Browser {
    address: String,
    cookies: BTreeMap<String, String>,
    client: reqwest::Client,
}

struct Answer {
    status: u16,
    location: String,
    body: String,
}

impl Browser {
    fn new(env: &TestEnv) -> Browser {
        ringcx_extractor::ringcx::install_tls();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Browser { address: format!("http://{}", http_address(env)), cookies: BTreeMap::new(), client }
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = request.header("accept", "text/html").header("cookie", cookies.join("; "));
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                assert!(cookie.contains("HttpOnly"), "{cookie}");
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let location = response.headers().get("location").map(|location| location.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        Answer { status, location: location.unwrap_or_default(), body: response.text().await.unwrap() }
    }

    async fn get(&mut self, path: &str) -> Answer {
        let request = self.client.get(format!("{}{path}", self.address));
        self.send(request).await
    }

    async fn post(&mut self, path: &str) -> Answer {
        let request = self.client.post(format!("{}{path}", self.address));
        self.send(request).await
    }

    /// From the page that a person wanted to the provider and back; returns the answer to the callback.
    async fn log_in(&mut self, wanted: &str) -> Answer {
        let callback = self.start_login(wanted).await;
        self.get(&callback).await
    }

    /// The path that the provider sends the browser back to.
    async fn start_login(&mut self, wanted: &str) -> String {
        let shut = self.get(wanted).await;
        assert_eq!(shut.status, 303, "{}", shut.body);
        assert!(shut.location.starts_with("/auth/login?next="), "{}", shut.location);
        let started = self.get(&shut.location).await;
        assert_eq!(started.status, 303, "{}", started.body);
        let authorized = self.client.get(&started.location).send().await.unwrap();
        let back = authorized.headers()["location"].to_str().unwrap();
        back.strip_prefix(PUBLIC_URL).unwrap().to_owned()
    }
}

fn http_address(env: &TestEnv) -> String {
    let log = env.log();
    let after = log.rsplit("the dashboard is at http://").next().unwrap();
    after.split('/').next().unwrap().to_owned()
}

/// A section of the settings.
fn table(fields: Value) -> toml::Value {
    toml::Value::try_from(fields).unwrap()
}

fn with_provider(issuer: &StubIssuer) -> Scenario {
    let oidc = json!({
        "issuer": issuer.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "public_url": PUBLIC_URL,
    });
    Scenario::history().set("http.listen", "127.0.0.1:0").set("access.oidc", table(oidc))
}

fn ann() -> Value {
    json!({"sub": "subject-of-ann", "email": "ann@example.com", "email_verified": true, "groups": ["other", "cx-emea"]})
}

/// The exported segments of an account with a transcript.
async fn segments_with_text(env: &TestEnv) -> Vec<Value> {
    let exported = env.run_ok(&["export"]).await;
    let lines = exported.lines().filter_map(ringcx_extractor::lenient_json::parse_value);
    // Ids that need no escaping.
    let plain =
        |id: &Value| id.as_str().is_some_and(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
    lines.filter(|line| line["transcript"]["outcome"] == "stored" && plain(&line["segment_id"])).collect()
}

fn page_of(segment: &Value) -> String {
    let id = |key: &str| {
        let value = segment[key].as_str().unwrap();
        form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>()
    };
    format!("/conversation?account={}&segment={}", id("sub_account_id"), id("segment_id"))
}

/// The entries of the access log, as `access log --json` prints them, without those about itself.
async fn access_log(env: &TestEnv, options: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = ["access", "log", "--json"].iter().chain(options).copied().collect();
    let text = env.run_ok(&args).await;
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    entries.filter(|entry| entry["action"] != "read_log").collect()
}

async fn people_log_in_at_the_provider_and_read_what_their_role_shows(database: TempDatabase) {
    let issuer = StubIssuer::start().await;
    let scenario = with_provider(&issuer).set(
        "access.roles",
        vec![
            table(json!({"name": "emea", "groups": ["cx-emea"], "may": ["read"]})),
            table(json!({"name": "named", "subjects": ["bob@example.com", "1003"], "may": ["read"]})),
        ],
    );
    // The provider is down at the start, which does not stop the daemon.
    issuer.set_down(true);
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    let page = page_of(&segments_with_text(&env).await[0]);
    let mut browser = Browser::new(&env);
    let failed = browser.get("/auth/login?next=%2Fsearch").await;
    assert_eq!(failed.status, 502);
    assert!(failed.body.contains("answered with status 503") && failed.body.contains("ry again"), "{}", failed.body);
    issuer.set_down(false);
    let is_back = async || Browser::new(&env).get("/auth/login").await.status == 303;
    env.wait_until("the provider is asked again", is_back).await;

    issuer.set_person(ann());
    let back = browser.log_in(&page).await;
    assert_eq!((back.status, back.location.as_str()), (303, page.as_str()), "{}", back.body);
    assert_eq!(issuer.requested_scope(), "openid email profile");
    let read = browser.get(&page).await;
    assert_eq!(read.status, 200, "{}", read.body);
    let mut other = Browser::new(&env);
    other.cookies.insert("ringcx_session".to_owned(), browser.cookies["ringcx_session"].clone());
    assert_eq!(other.get(&page).await.status, 200);
    let out = browser.post("/logout").await;
    assert_eq!((out.status, out.location.as_str()), (303, "/"));
    assert_eq!(browser.get(&page).await.status, 303, "to the provider again");
    assert_eq!(other.get(&page).await.status, 303, "a copy of the session has ended, too");

    // By verified address or `sub`; an address that is not verified counts for nothing.
    for (person, is_member) in [
        (json!({"sub": "1002", "email": "BOB@example.com", "email_verified": true}), true),
        (json!({"sub": "1002", "email": "bob@example.com", "email_verified": false}), false),
        (json!({"sub": "1002", "email": "bob@example.com"}), false),
        (json!({"sub": "1003"}), true),
        (json!({"sub": "1004", "groups": "cx-emea"}), true),
        (json!({"sub": "1004", "groups": ["cx-emea-2"]}), false),
    ] {
        issuer.set_person(person.clone());
        let back = Browser::new(&env).log_in("/search").await;
        assert_eq!(back.status, if is_member { 303 } else { 403 }, "{person}: {}", back.body);
        if !is_member {
            assert!(back.body.contains("no role lets you read here") && back.body.contains("/auth/login"));
        }
    }
    // Some providers tell the groups at the user-info endpoint only; it must be about the same person.
    issuer.set_person(json!({"sub": "1005"}));
    issuer.set_user_info(json!({"groups": ["cx-emea"]}));
    assert_eq!(Browser::new(&env).log_in("/search").await.status, 303);
    issuer.set_user_info(json!({"sub": "1006", "groups": ["cx-emea"]}));
    assert_eq!(Browser::new(&env).log_in("/search").await.status, 403);

    let log = access_log(&env, &["--who", "Ann@Example.com"]).await;
    let actions: Vec<&str> = log.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["login", "read", "read", "logout"], "{log:?}");
    assert!(log.iter().all(|entry| entry["reader_kind"] == "person" && entry["origin"] == "127.0.0.1"), "{log:?}");
    // A role that is taken away ends what its members may do.
    issuer.set_person(ann());
    assert_eq!(browser.log_in(&page).await.status, 303);
    env.stop().await;
    env.set("access.roles", vec![table(json!({"name": "emea", "groups": ["cx-apac"], "may": ["read"]}))]);
    env.start();
    env.wait_until("the dashboard is up again", async || env.log().matches("the dashboard is at").count() == 2).await;
    let cookies = browser.cookies.clone();
    let mut browser = Browser { cookies, ..Browser::new(&env) };
    assert_eq!(browser.get(&page).await.status, 303);
    env.stop().await;
    let log = env.log();
    for private in ["ann@example.com", "bob@example.com", "subject-of-ann", CLIENT_SECRET, "an-access-token"] {
        assert!(!log.contains(private), "the log shows {private:?}");
    }
}

async fn a_forged_old_or_foreign_token_lets_nobody_in(database: TempDatabase) {
    let issuer = StubIssuer::start().await;
    let roles = vec![table(json!({"name": "emea", "groups": ["cx-emea", "cx-everything"], "may": ["read"]}))];
    let mut env = TestEnv::with_daemon(database, with_provider(&issuer).set("access.roles", roles)).await;
    env.wait_until("the dashboard is up", async || env.log().contains("the dashboard is at")).await;
    issuer.set_person(ann());
    assert_eq!(Browser::new(&env).log_in("/search").await.status, 303);
    for forgery in Forgery::ALL {
        issuer.forge(Some(forgery));
        let mut browser = Browser::new(&env);
        let back = browser.log_in("/search").await;
        assert_eq!(back.status, 502, "{forgery:?}: {}", back.body);
        assert!(
            back.body.contains("login was rejected") && !browser.cookies.contains_key("ringcx_session"),
            "{forgery:?}"
        );
    }
    issuer.forge(None);
    // Keys that nobody publishes cause one more discovery, not one each.
    let discoveries = issuer.discoveries();
    assert_eq!(discoveries, 2);
    // Someone else's answer, an answer twice, and an answer without a login.
    let mut ann = Browser::new(&env);
    let callback = ann.start_login("/search").await;
    let mut mallory = Browser::new(&env);
    let stolen = mallory.get(&callback).await;
    assert_eq!(stolen.status, 400, "{}", stolen.body);
    assert!(stolen.body.contains("another tab or browser") && stolen.body.contains("/auth/login"), "{}", stolen.body);
    mallory.start_login("/search").await;
    assert_eq!(mallory.get(&callback).await.status, 400, "the state is another login's");
    let pending = ann.cookies.clone();
    assert_eq!(ann.get(&callback).await.status, 303);
    ann.cookies = pending;
    let again = ann.get(&callback).await;
    assert_eq!(again.status, 400, "the provider takes a code once: {}", again.body);
    let refused = Browser::new(&env).get("/auth/callback?error=access_denied&state=x").await;
    assert_eq!(refused.status, 400, "an error without a login is stale, too");
    let other_issuer = mallory.start_login("/search").await;
    let mixed_up = mallory.get(&format!("{other_issuer}&iss=https%3A%2F%2Fevil.example")).await;
    assert_eq!(mixed_up.status, 502, "{}", mixed_up.body);
    // Sessions that this server did not make.
    for session in ["", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let mut browser = Browser::new(&env);
        browser.cookies.insert("ringcx_session".to_owned(), session.to_owned());
        assert_eq!(browser.get("/search").await.status, 303, "{session:?}");
    }
    // Nobody is sent to another site.
    for next in ["https://evil.example/", "//evil.example/", "/\\evil.example/"] {
        let mut browser = Browser::new(&env);
        let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let started = browser.get(&format!("/auth/login?next={next}")).await;
        let authorized = browser.client.get(&started.location).send().await.unwrap();
        let back = authorized.headers()["location"].to_str().unwrap().strip_prefix(PUBLIC_URL).unwrap().to_owned();
        assert_eq!(browser.get(&back).await.location, "/");
    }
    env.stop().await;
}

async fn a_key_reads_only_the_accounts_of_its_role_and_not_what_is_redacted(database: TempDatabase) {
    let hash = |key: &str| Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let key = |name: &str, secret: &str, role: &str, expires: &str| {
        let key_hash = format!("sha256:{}", hash(secret));
        table(json!({"name": name, "key_hash": key_hash, "role": role, "expires": expires}))
    };
    let sub = Scenario::history().sim.accounts[0].sub.to_string();
    let roles = vec![
        table(json!({"name": "own", "accounts": [sub], "may": ["read"]})),
        table(json!({"name": "other", "accounts": ["another"], "may": ["read"]})),
        table(json!({"name": "fax", "channels": ["FAX"], "may": ["read"]})),
        table(json!({"name": "blind", "may": ["read"], "redact": [{"name": "word", "pattern": "[a-z]+"}]})),
        table(json!({"name": "operator", "may": ["operate"]})),
    ];
    let keys = vec![
        key("reader", "the-key-of-the-reader", "own", "2999-01-01"),
        key("stranger", "the-key-of-the-stranger", "other", "2999-01-01"),
        key("fax", "the-key-of-the-fax-reader", "fax", "2999-01-01"),
        key("blind", "the-key-of-the-blind", "blind", "2999-01-01"),
        key("operator", "the-key-of-the-operator", "operator", "2999-01-01"),
        key("old", "the-key-of-the-past", "own", "2020-01-01"),
    ];
    let scenario = Scenario::history()
        .set("http.listen", "127.0.0.1:0")
        .set("http.token", "a-token-that-nobody-guesses")
        .set("access.roles", roles)
        .set("access.keys", keys);
    let mut env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    let segments = segments_with_text(&env).await;
    let of_segment = |segment: &Value| Some((page_of(segment), spoken_words(segment).first()?.clone()));
    let (page, word) = segments.iter().find_map(of_segment).unwrap();
    let search = format!("/search?q={word}");
    let address = http_address(&env);
    let get = async |path: &str, key: &str| {
        let url = format!("http://{address}{path}");
        ringcx_extractor::ringcx::install_tls();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(url).header("authorization", format!("Bearer {key}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let link = "<p class=\"hit\"";
    // What a page says, without the time at its end.
    let main = |page: &str| page.split("</main>").next().map(str::to_owned);
    env.wait_until("it is found", async || get(&search, "the-key-of-the-reader").await.1.contains(link)).await;
    assert_eq!(get(&page, "the-key-of-the-reader").await.0, 200);
    assert_eq!(get(&page, "a-token-that-nobody-guesses").await.0, 200, "http.token goes on working");
    assert_eq!(get(&page, "the-key-of-the-operator").await.0, 403);
    let (status, expired) = get(&page, "the-key-of-the-past").await;
    assert!(status == 401 && expired.contains("has expired at 2020-01-01"), "{expired}");
    for (stranger, missing) in [
        ("the-key-of-the-stranger", "/conversation?account=no-such-account&segment=none".to_owned()),
        ("the-key-of-the-fax-reader", format!("/conversation?account={sub}&segment=none")),
    ] {
        let nothing = get(&missing, stranger).await;
        assert_eq!(nothing.0, 404);
        let hidden = get(&page, stranger).await;
        assert_eq!((hidden.0, main(&hidden.1)), (404, main(&nothing.1)), "what it must not see does not exist");
        let (status, found) = get(&search, stranger).await;
        assert!(status == 200 && found.contains("Nothing was found") && !found.contains(link), "{found}");
    }
    let named = format!("{search}&account={sub}");
    let unknown = get(&format!("{search}&account=no-such-account"), "the-key-of-the-stranger").await.0;
    assert!(
        unknown >= 400 && get(&named, "the-key-of-the-stranger").await.0 == unknown,
        "like one that does not exist"
    );
    // What is redacted can neither be read nor be found.
    let (status, blind) = get(&page, "the-key-of-the-blind").await;
    assert!(status == 200 && blind.contains("[word]"), "{blind}");
    let (_, found) = get(&search, "the-key-of-the-blind").await;
    assert!(found.contains("Nothing was found"), "{found}");
    for _ in 0..10 {
        assert_eq!(get(&page, "a-guess").await.0, 401);
    }
    assert_eq!(get(&page, "a-token-that-nobody-guesses").await.0, 429, "wrong keys are limited as wrong tokens are");
    env.stop().await;
}

/// Words of lower case letters that were said in a segment.
fn spoken_words(segment: &Value) -> Vec<String> {
    let body = &segment["transcript"]["body"];
    let phrases = body["transcript"].as_array().or(body.as_array()).cloned().unwrap_or_default();
    let texts = phrases.iter().filter_map(|phrase| phrase["message"].as_str()).flat_map(str::split_whitespace);
    let is_plain = |word: &&str| word.len() > 4 && word.bytes().all(|letter| letter.is_ascii_lowercase());
    texts.filter(is_plain).map(str::to_owned).collect()
}

async fn every_reading_is_in_the_log_before_it_is_shown_and_the_log_cannot_be_altered(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::history().set("http.listen", "127.0.0.1:0")).await;
    env.expect_complete_archive().await;
    let segments = segments_with_text(&env).await;
    let id = |key: &str| segments[0][key].as_str().unwrap().to_owned();
    let (segment, sub) = (id("segment_id"), id("sub_account_id"));
    let before = access_log(&env, &[]).await.len();
    env.set_env_var("USER", "ann");
    env.run_ok(&["search", "--limit", "5", "--", "the"]).await;
    env.run_ok(&["show", &segment]).await;
    env.run_ok(&["export", "--account", &sub]).await;
    env.run_ok(&["hold", "--contact", "+49 170 1234567"]).await;
    let log = access_log(&env, &[]).await.split_off(before);
    let seen: Vec<(&str, &str, Option<&str>)> = log
        .iter()
        .map(|entry| (entry["reader"].as_str().unwrap(), entry["action"].as_str().unwrap(), entry["subject"].as_str()))
        .collect();
    let expected = [
        ("ann", "search", Some("the")),
        ("ann", "read", Some(segment.as_str())),
        ("ann", "export", Some("export")),
        ("ann", "hold", None),
    ];
    assert_eq!(seen, expected, "{log:?}");
    assert!(log.iter().all(|entry| entry["reader_kind"] == "system_user"));
    assert!(
        log[0]["hits"].as_i64().is_some_and(|hits| hits <= 5) && log[2]["hits"].as_i64().is_some_and(|hits| hits > 0)
    );
    let about = access_log(&env, &["--segment", &segment]).await;
    assert_eq!(about.iter().map(|entry| entry["id"].clone()).collect::<Vec<_>>(), [log[1]["id"].clone()]);
    assert!(access_log(&env, &["--to", "1d"]).await.is_empty());
    assert_eq!(env.run(&["verify"]).await.status, 0);
    env.stop().await;

    // Changing it by hand is refused. Whoever removes the triggers first is found out.
    let db = open_database(&env.database).await;
    for forgery in [
        "update access_log set reader = 'bob'",
        "update access_log set subject = null",
        "delete from access_log",
        "update access_chain set removed = 0, newest = 0",
        "delete from access_chain",
    ] {
        let refused = db.run(sql(forgery)).await.unwrap_err().to_string();
        assert!(refused.contains("the access log only grows"), "{forgery}: {refused}");
    }
    let number = log[1]["id"].as_i64().unwrap();
    for (forgery, undo) in [
        ("update access_log set reader = 'bob' where id = $1", "update access_log set reader = 'ann' where id = $1"),
        ("update access_log set subject = 'x' where id = $1", "update access_log set subject = $2 where id = $1"),
        (
            "update access_log set id = id + 1000000 where id = $1",
            "update access_log set id = $1 where id = $1 + 1000000",
        ),
    ] {
        drop_triggers(&db).await;
        db.run(sql(forgery).bind(number)).await.unwrap();
        let verified = env.run(&["verify", "--json"]).await;
        let report: Value = serde_json::from_str(&verified.out).unwrap();
        let kinds: Vec<&Value> =
            report["problems"].as_array().unwrap().iter().map(|problem| &problem["kind"]).collect();
        assert!(verified.status == 1 && kinds.iter().all(|kind| *kind == "access"), "{forgery}: {report}");
        let undo = sql(undo).bind(number);
        db.run(if forgery.contains("subject") { undo.bind(&segment) } else { undo }).await.unwrap();
        assert_eq!(env.run(&["verify"]).await.status, 0, "after {forgery} was undone");
    }
    db.close().await;
}

async fn open_database(database: &TempDatabase) -> Db {
    match database.url.strip_prefix("sqlite:") {
        Some(path) => Db::open_sqlite(Path::new(path), OpenMode::Existing).await.unwrap(),
        None => Db::open_postgres(&database.url.clone().into(), OpenMode::Existing, 2).await.unwrap(),
    }
}

/// Removes the triggers that keep the access log from being changed.
async fn drop_triggers(db: &Db) {
    match db.sqlite_path() {
        Some(_) => db.run(sql("drop trigger if exists access_log_is_not_changed")).await.map(drop).unwrap(),
        None => db.run(sql("alter table access_log disable trigger user")).await.map(drop).unwrap(),
    }
}

async fn an_erasure_takes_what_it_erased_out_of_the_access_log(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::history()).await;
    env.expect_complete_archive().await;
    env.stop().await;
    let segments = segments_with_text(&env).await;
    let segment = segments[0]["segment_id"].as_str().unwrap();
    env.run_ok(&["show", segment]).await;
    env.run_ok(&["search", "--", &format!("\"{segment}\"")]).await;
    env.run_ok(&["erase", "--segment", segment, "--yes"]).await;
    let log = env.run_ok(&["access", "log"]).await;
    assert!(!log.contains(segment), "{log}");
    assert!(log.contains("read segment (erased)") && log.contains("search query (erased)"), "{log}");
    assert!(log.contains("erase segment (not kept)"), "{log}");
    let about: Vec<Value> = access_log(&env, &["--segment", segment]).await;
    let actions: Vec<&str> = about.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["read", "erase"], "who had read it can still be told");
    assert_eq!(env.run(&["verify"]).await.status, 0);
}
