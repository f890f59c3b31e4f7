//! The dashboard in a real browser: with one account, some, and hundreds, healthy and in trouble.
//!
//! The screenshots need Chromium. Take them with
//! `LOOK=folder cargo test --lib http::tests::browser -- --ignored`, and check them by eye.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::db::{Lease, sql};

const HOUR_MS: i64 = 3_600_000;

fn settings(accounts: usize, troubled: bool) -> String {
    let mut text = SETTINGS.split("[[accounts]]").next().unwrap().to_owned();
    text.push_str("[http]\nlisten = \"127.0.0.1:0\"\ntoken = \"sesame\"\n[database]\ninstance = \"host-1\"\n");
    let names = ["Support EMEA", "Sales North", "Billing", "Returns", "Premium", "Field Service"];
    for number in 0..accounts {
        let name = names[number % names.len()];
        let _ = writeln!(
            text,
            "[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"{}\"\nname = \"{name} {}\"",
            40_000_000 + number * 131,
            number + 1
        );
    }
    text.push_str("[[sinks]]\nname = \"lake\"\ntype = \"jsonl\"\npath = \"out\"\n");
    if troubled {
        let hook = "type = \"webhook\"\nurl = \"https://crm.example/hook\"\nsecret = \"signs with more than enough\"\n";
        let _ = write!(text, "[[sinks]]\nname = \"crm\"\n{hook}[[sinks]]\nname = \"quality\"\n{hook}");
    }
    text
}

/// Inserts many rows with few statements.
async fn insert_rows(db: &Db, head: &str, rows: &[String]) {
    for part in rows.chunks(400).filter(|part| !part.is_empty()) {
        let text: &'static str = Box::leak(format!("{head} values {}", part.join(", ")).into_boxed_str());
        db.run(sql(text)).await.unwrap();
    }
}

/// Fills the archive with data of many kinds.
async fn fill_archive(app: &AppContext, troubled: bool) {
    let (db, now) = (&app.db, NOW.0);
    let config::Accounts::Listed(listed) = &app.settings.accounts else { panic!("listed") };
    let wanted = listed.iter().map(|listed| (listed.id.clone(), listed.name.clone())).collect();
    let rows = db.register_accounts(&wanted, NOW).await.unwrap();
    let (mut coverage, mut work, mut stats) = (Vec::new(), Vec::new(), String::new());
    let mut read = |key: crate::db::AccountKey, pass: &str, from: i64, to: i64| {
        coverage.push(format!("({key}, '{pass}', {from}, {to}, 1, 0, 0)"));
    };
    for (nth, row) in (0_i64..).zip(&rows) {
        let (key, begin) = (row.key, now - 26 * HOUR_MS);
        let is_nth = |every: i64, which: i64| troubled && nth % every == which % every;
        let edge = now - 300_000 - (nth * 7 % 240) * 1000 - if is_nth(19, 4) { 2 * HOUR_MS } else { 0 };
        if is_nth(11, 0) {
            read(key, "live", begin, now - 9 * HOUR_MS);
            read(key, "live", now - 7 * HOUR_MS, edge);
        } else {
            read(key, "live", begin, edge);
        }
        read(key, "recheck:3600", begin, edge - HOUR_MS);
        if is_nth(13, 1) {
            let pause = PauseRow {
                account: key,
                endpoint: Endpoint::Transcript,
                since: NOW,
                until: NOW + Duration::from_secs(1800),
                times: 3,
                status: Some(403),
                is_login_failure: false,
                reason: "access.denied.exception".to_owned(),
            };
            db.save_pause(Lease { account: key, epoch: 0 }, &pause).await.unwrap();
        }
        for item in 0..(nth * 37 % 23) {
            let state = if is_nth(29, 2) && item < 3 { 2 } else { 0 };
            let due = if item % 3 == 0 { now } else { now + 60_000 };
            let id = (key.0 * 1000 + item) * 4;
            let reason = if state == 2 { "'400: this segment cannot be transcribed'" } else { "null" };
            work.push(format!("({id}, {}, 0, {key}, 0, {state}, {due}, {}, {reason})", id / 4, now - item * 9000));
        }
        let used = nth * 53 % 119;
        let _ = write!(
            stats,
            "{}\"{}\":{{\"running\":1,\"requests_last_minute\":{used}}}",
            if nth > 0 { "," } else { "" },
            row.id.sub
        );
        db.init_live_start(key, Time(begin)).await.unwrap();
    }
    insert_rows(db, "insert into coverage (account, pass, from_ms, to_ms, reads, first_read, last_read)", &coverage)
        .await;
    insert_rows(db, "insert into work (item, segment, artifact, account, lane, state, due, created, reason)", &work)
        .await;
    db.run(sql("update account set done = 80000 + id * 977, feed = 80000 + id * 977")).await.unwrap();
    let pauses = if troubled {
        r#""quality":{"since":"2027-01-15T07:40:00Z","until":"2027-01-15T08:02:00Z","reason":"503 Service Unavailable"}"#
    } else {
        ""
    };
    let stats = format!("{{\"accounts\":{{{stats}}},\"sinks\":{{{pauses}}}}}");
    let stmt =
        sql("insert into replica (name, version, started, heartbeat, stats) values ('host-1', '0.1.0', $1, $1, $2)");
    db.run(stmt.bind(NOW).bind(stats)).await.unwrap();
    let mut sinks = vec![format!("(1, 'lake', 0, 'out', null, null)")];
    if troubled {
        sinks.push(format!("(2, 'crm', 0, 'x', {}, '410 Gone: this hook was removed')", now - HOUR_MS));
        sinks.push("(3, 'quality', 0, 'y', null, null)".to_owned());
    }
    insert_rows(db, "insert into sink (id, name, created, place, stopped, reason)", &sinks).await;
    let cursors: Vec<String> = (1..=sinks.len())
        .flat_map(|sink| {
            rows.iter().map(move |row| {
                format!("({sink}, {}, {}, 70000, {now})", row.key, 80_000 + row.key.0 * 977 - 40 * (sink as i64 - 1))
            })
        })
        .collect();
    insert_rows(db, "insert into sink_cursor (sink, account, feed, delivered, last_delivered)", &cursors).await;
}

/// Records the course of 90 days: samples of the last day, and fewer before.
async fn fill_measures(app: &AppContext, troubled: bool) {
    let accounts = app.db.accounts().await.unwrap();
    let mut rows = Vec::new();
    for (nth, account) in (0_i64..).zip(&accounts) {
        for (width, periods) in [(600_000, 144), (HOUR_MS, 168), (6 * HOUR_MS, 360)] {
            let last = NOW.0.div_euclid(width) * width;
            // Hundreds of accounts for 90 days would take the test too long.
            let step = if accounts.len() > 100 && width != HOUR_MS { 4 } else { 1 };
            for back in (0..periods).step_by(step) {
                let hours_ago = back * width / HOUR_MS;
                if hours_ago > 40 && hours_ago < 46 {
                    continue;
                }
                let is_nth = |every: i64, which: i64| troubled && nth % every == which % every;
                let level = match hours_ago {
                    0..=2 if is_nth(13, 1) => 3,
                    7..=9 if is_nth(11, 0) => 2,
                    0..=2 if is_nth(19, 4) => 1,
                    _ if (nth + hours_ago) % 61 == 0 => 1,
                    _ => 0,
                };
                let wave = (back * back / 7) % 90 + if troubled && hours_ago < 5 { (5 - hours_ago) * 600 } else { 0 };
                let at = last - back * width;
                let done = width / 60_000 * (20 + (hours_ago * 7 + nth) % 13);
                rows.push(format!(
                    "({width}, {at}, {}, 1, {level}, {}, {}, {done}, {})",
                    account.key,
                    300_000 + wave * 1000,
                    40 + wave / 3,
                    20 + (back * 7 + nth) % 90
                ));
            }
        }
    }
    let head = "insert into measure (width_ms, at_ms, account, samples, level, lag_ms, unfinished, done, requests)";
    insert_rows(&app.db, head, &rows).await;
}

/// Starts a server with a filled archive.
async fn start_prepared(accounts: usize, troubled: bool) -> Server {
    Server::prepared_with(&settings(accounts, troubled), async |app| {
        app.set_active(true);
        fill_archive(app, troubled).await;
        fill_measures(app, troubled).await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_accounts_in_trouble_give_few_findings_and_a_page_of_bounded_size() {
    let server = start_prepared(300, true).await;
    let page = server.get("/").await.body;
    assert!(page.contains("In trouble") && page.contains("paused for 23 accounts"), "{page}");
    assert!(page.contains("sink crm is stopped: 410 Gone"), "{page}");
    let first = page.find("data-key=").unwrap();
    assert!(page[first..].contains("data-level=\"trouble\""), "the worst comes first");
    assert!(page.len() < 100_000, "{} bytes", page.len());
    let all = server.get("/?all=1").await.body;
    assert!(all.len() < 600_000, "{} bytes", all.len());
    server.shut_down().await;
}

/// A browser without background network traffic.
pub(in crate::http) fn chromium(profile: &Path) -> Command {
    let mut chromium = Command::new("chromium");
    chromium
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--timeout=2500"])
        .arg(format!("--user-data-dir={}", profile.display()));
    chromium
}

/// Takes a screenshot with Chromium.
async fn take_screenshot(url: String, to: PathBuf, size: (u32, u32), dark: bool) {
    let shot = tokio::task::spawn_blocking(move || {
        let profile = tempfile::tempdir().unwrap();
        let mut chromium = chromium(profile.path());
        chromium.arg(format!("--window-size={},{}", size.0, size.1)).arg(format!("--screenshot={}", to.display()));
        if dark {
            chromium.args(["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]);
        }
        let output = chromium.arg(url).output().expect("chromium, to take screenshots");
        assert!(to.metadata().is_ok_and(|file| file.len() > 5000), "{}", String::from_utf8_lossy(&output.stderr));
    });
    shot.await.unwrap();
}

const WIDE: (u32, u32) = (1280, 1000);
const PHONE: (u32, u32) = (400, 1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Chromium, and a person to check the screenshots"]
async fn screenshots_of_the_pages() {
    let folder = PathBuf::from(std::env::var_os("LOOK").expect("LOOK names a folder for the screenshots"));
    std::fs::create_dir_all(&folder).unwrap();
    for (accounts, troubled) in [(1, false), (1, true), (30, false), (30, true), (500, false), (500, true)] {
        let server = start_prepared(accounts, troubled).await;
        let name = format!("{accounts}-{}", if troubled { "trouble" } else { "healthy" });
        for (how, size, dark) in [("light", WIDE, false), ("dark", WIDE, true), ("phone", PHONE, false)] {
            for (view, path) in [("overview", "/"), ("account", "/accounts/40000000?range=7d"), ("system", "/system")] {
                if view == "overview" || accounts == 30 {
                    let url = format!("http://{}{path}", server.address);
                    take_screenshot(url, folder.join(format!("{view}-{name}-{how}.png")), size, dark).await;
                }
            }
        }
        if accounts == 1 && !troubled {
            let url = format!("http://{}/search", server.address);
            take_screenshot(url, folder.join("login.png"), (900, 600), false).await;
        }
        server.shut_down().await;
    }
}
