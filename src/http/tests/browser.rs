//! The dashboard in a real browser: with one account, some, and hundreds, healthy and in trouble.
//!
//! The screenshots need Chromium. Take them with
//! `LOOK=folder cargo test --lib http::tests::browser -- --ignored`, and check them by eye.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::lag_history::LagSample;
use super::super::templates::{self, ConversationView, SearchForm, SearchOutcome};
use super::*;
use crate::db::{ArtifactStatus, Lease, SegmentArtifact, SegmentRow, sql};
use crate::health::{CoverageGap, Finding, FindingCode, Severity};
use crate::search::score::{DocumentMatch, Passage};
use crate::search::{DocumentSource, SearchHit, SearchResults};

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

/// Starts a server with a filled archive, and a lag history of one day.
async fn start_prepared(accounts: usize, troubled: bool) -> Server {
    Server::prepared_with(&settings(accounts, troubled), async |app, history| {
        app.set_active(true);
        fill_archive(app, troubled).await;
        for step in (1..280_u64).rev() {
            let wave = (step * step / 7) % 90 + if troubled && step < 60 { (60 - step) * 100 } else { 0 };
            let at = NOW - Duration::from_secs(step * 300);
            history.record(LagSample { at, lag: Duration::from_secs(300 + wave), backlog: 40 + wave * 3 });
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_accounts_in_trouble_give_few_findings_and_a_page_of_bounded_size() {
    let server = start_prepared(300, true).await;
    let page = server.get("/").await.body;
    assert!(
        page.contains("In trouble") && page.contains("paused for 23 accounts"),
        "{}",
        &page[..9000.min(page.len())]
    );
    assert!(page.contains("sink crm is stopped: 410 Gone") && page.contains("resting since"), "sinks");
    let first = page.find("<tr data-key").unwrap();
    assert!(page[first..].contains("data-level=\"trouble\""), "the worst comes first");
    assert!(page.len() < 1_200_000, "{} bytes", page.len());
    server.shut_down().await;
}

/// A browser without background network traffic.
fn chromium(profile: &Path) -> Command {
    let mut chromium = Command::new("chromium");
    chromium
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--timeout=2500"])
        .arg(format!("--user-data-dir={}", profile.display()));
    chromium
}

/// Clicks every control, and records how many rows are visible and what the buttons show.
const CLICK_SCRIPT: &str = r##"<script>
const [seen, all] = [[], (what) => [...document.querySelectorAll(what)].filter((it) => !it.hidden)];
const note = (what) => seen.push(`${what}: ${all("#rows tr").length} of ${all("[data-state]").map((it) => it.textContent.trim()).join(", ")}; ${all("#more").map((it) => it.textContent).join("")}`);
const press = (what) => { document.querySelector(what).click(); note(what); };
const type = (text) => { const it = document.querySelector("#filter"); it.value = text; it.dispatchEvent(new Event("input")); note(text); };
note("first"); press("#more"); press("[data-state=incomplete]"); press("[data-state=all]"); type("team 3"); type("gap of"); type("");
press("[data-sort=name]"); seen.push(all("#rows tr").slice(0, 3).map((row) => row.dataset.name).join(", "));
const recorded = document.createElement("pre"); recorded.id = "recorded"; recorded.textContent = seen.join("\n"); document.body.append(recorded);
</script>"##;

#[test]
#[ignore = "needs Chromium"]
fn the_filter_buttons_work_in_a_real_browser() {
    use super::super::fixtures::{account, snapshot, view};
    let named_account = |number: u32| {
        let mut account = account(&format!("{}", 1000 + number));
        account.name = Some(format!("Team {number}"));
        if number.is_multiple_of(9) {
            account.gaps.push(CoverageGap { from: NOW - Duration::from_secs(3600), to: NOW, seconds: 3600 });
        }
        account
    };
    let snapshot = snapshot((1..=40).map(named_account).collect());
    let with_gaps = snapshot.status.accounts.iter().filter(|account| !account.gaps.is_empty());
    let gaps: Vec<String> = with_gaps.map(|account| account.sub_account_id.clone()).collect();
    let found = Finding::new(FindingCode::CoverageGaps, Severity::Warning, NOW, "gaps", "wait");
    let view = view(Some(&snapshot), vec![found.about_accounts("some".to_owned(), gaps)]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.html");
    std::fs::write(&file, templates::render_dashboard(&view, 1).replace("</body>", &format!("{CLICK_SCRIPT}</body>")))
        .unwrap();
    let output = chromium(folder.path()).arg("--dump-dom").arg(format!("file://{}", file.display())).output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    let recorded =
        page.split("<pre id=\"recorded\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or(&page);
    let expected = "first: 25 of All 40, ! Incomplete 4, ✓ Healthy 36; Show all 40
#more: 40 of All 40, ! Incomplete 4, ✓ Healthy 36;\x20
[data-state=incomplete]: 4 of All 40, ! Incomplete 4, ✓ Healthy 36;\x20
[data-state=all]: 25 of All 40, ! Incomplete 4, ✓ Healthy 36; Show all 40
team 3: 11 of All 11, ! Incomplete 1, ✓ Healthy 10;\x20
gap of: 4 of All 4;\x20
: 25 of All 40, ! Incomplete 4, ✓ Healthy 36; Show all 40
[data-sort=name]: 25 of All 40, ! Incomplete 4, ✓ Healthy 36; Show all 40
Team 1, Team 2, Team 3";
    assert_eq!(recorded, expected);
}

/// Plays the recording from a link and from a phrase, and moves in it. The frame that is being written
/// delays the end of loading, and so the result, until everything was played.
const PLAY_SCRIPT: &str = r##"<script>
const [held, seen] = [document.createElement("iframe"), []];
document.body.append(held);
held.contentDocument.open();
const audio = document.querySelector("audio");
const said = () => document.querySelector("[aria-current] .text")?.textContent ?? "nothing";
const note = (what) => seen.push(`${what}: ${said()} at ${Math.floor(audio.currentTime)} s, ${audio.paused ? "paused" : "playing"}`);
const next = (name) => new Promise((done) => ["error", name].forEach((one) => audio.addEventListener(one, done, { once: true })));
(async () => {
  note("first");
  document.querySelectorAll(".phrase a")[2].click();
  await next("timeupdate"); await next("timeupdate");
  note("link");
  document.querySelectorAll(".phrase .text")[3].click();
  await next("seeked"); await next("timeupdate");
  note("phrase");
  audio.pause(); audio.currentTime = 7;
  await next("seeked");
  note("moved");
  const recorded = document.createElement("pre"); recorded.id = "recorded"; recorded.textContent = seen.join("\n"); document.body.append(recorded);
  held.contentDocument.close();
})();
</script>"##;

#[test]
#[ignore = "needs Chromium"]
fn phrases_and_audio_lead_to_each_other_in_a_real_browser() {
    let folder = tempfile::tempdir().unwrap();
    let (file, audio) = (folder.path().join("page.html"), folder.path().join("audio.wav"));
    let sound = vec![128_u8; 61 * 8000];
    let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data".to_vec();
    wav.extend((sound.len() as u32).to_le_bytes());
    wav.extend(&sound);
    let length = (wav.len() as u32 - 8).to_le_bytes();
    wav[4..8].copy_from_slice(&length);
    std::fs::write(audio, wav).unwrap();
    let (page, [_, segment, _]) = recorded_call();
    let url = format!("/api/v1/segments/{}/recording?account=40000000", segment.segment_id);
    assert!(page.contains(&url), "{page}");
    let page = page.replace(&url, "audio.wav").replace("</body>", &format!("{PLAY_SCRIPT}</body>"));
    std::fs::write(&file, page).unwrap();
    let mut chromium = chromium(folder.path());
    chromium.args(["--timeout=20000", "--autoplay-policy=no-user-gesture-required", "--dump-dom"]);
    let output = chromium.arg(format!("file://{}", file.display())).output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    let recorded =
        page.split("<pre id=\"recorded\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or(&page);
    let expected = "first: nothing at 0 s, paused
link: Let me look. at 18 s, playing
phrase: I see it; the refund was sent yesterday. at 40 s, playing
moved: I was charged twice for one parcel, and nobody could tell me when I get the money back. at 7 s, paused";
    assert_eq!(recorded, expected);
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
            let url = format!("http://{}/", server.address);
            take_screenshot(url, folder.join(format!("{name}-{how}.png")), size, dark).await;
        }
        if accounts == 1 && !troubled {
            let url = format!("http://{}/search", server.address);
            take_screenshot(url, folder.join("login.png"), (900, 600), false).await;
        }
        server.shut_down().await;
    }
    conversation_screenshots(&folder).await;
}

/// The page of a recorded call, and the segments of its dialog.
fn recorded_call() -> (String, [SegmentRow; 3]) {
    let segment = |key: i64| {
        SegmentRow {
        key,
        account: crate::model::AccountId::new("1", "40000000"),
        account_key: crate::db::AccountKey(1),
        segment_id: format!("p-v-93bd0e6f0f0a479ea8025fe8f8ec3e1d-{key}"),
        dialog_id: Some("d-93bd0e6f0f0a479e".to_owned()),
        ended: Some(NOW + Duration::from_secs(600 * key.unsigned_abs())),
        has_transcript: true,
        first_seen: NOW,
        metadata: r#"{"channelClass":"VOICE","dialogOrigination":"INBOUND","agentNotes":"wants a refund","segmentDurationMs":61000}"#
            .to_owned(),
    }
    };
    let phrase = |name: &str, kind: &str, at: u64, text: &str| serde_json::json!({ "participantName": name, "participantType": kind, "timestamp": at, "message": text });
    let transcript = serde_json::json!({ "transcript": [
        phrase("Jane Doe", "agent", 1000, "Good morning, this is Jane. How can I help?"),
        phrase("Customer", "contact", 7000, "I was charged twice for one parcel, and nobody could tell me when I get the money back."),
        phrase("Jane Doe", "agent", 19_000, "Let me look."),
        phrase("Jane Doe", "agent", 41_000, "I see it; the refund was sent yesterday."),
    ]});
    let slot = |outcome| SegmentArtifact {
        status: outcome,
        fetched: Some(NOW),
        version: 1,
        due: None,
        tries: 0,
        reason: None,
    };
    let stored = |text: &str| slot(ArtifactStatus::Stored(text.into()));
    let slots = [
        stored(&transcript.to_string()),
        stored("Charged twice; the refund is on its way."),
        slot(ArtifactStatus::NotPopulated),
        stored(
            r#"{"object":"a/a.wav","sha256":"a","bytes":976044,"type":"audio/wav","duration_ms":61000,"channels":2}"#,
        ),
    ];
    let dialog = [segment(1), segment(2), segment(3)];
    let view = ConversationView {
        segment: &dialog[1],
        slots: &slots,
        dialog: &dialog,
        account: Some("Support EMEA 1"),
        may_listen: true,
        now: NOW,
    };
    (templates::conversation_page(&view), dialog)
}

async fn conversation_screenshots(folder: &Path) {
    let (page, dialog) = recorded_call();
    let file = tempfile::Builder::new().suffix(".html").tempfile().unwrap();
    std::fs::write(file.path(), page).unwrap();
    let url = format!("file://{}", file.path().display());
    take_screenshot(url.clone(), folder.join("conversation-light.png"), (1000, 900), false).await;
    take_screenshot(url, folder.join("conversation-phone-dark.png"), PHONE, true).await;
    let text = "…I was charged twice for one parcel, and nobody could tell me when I get the money back.".to_owned();
    let hit = |segment: &SegmentRow| SearchHit {
        segment: segment.clone(),
        source: DocumentSource::ALL[0],
        version: 1,
        best_match: DocumentMatch {
            score: 1.0,
            speaker: Some("Customer (contact)".to_owned()),
            offset: Some("00:06".to_owned()),
            passage: Passage { matches: vec![9..16, 17..22], text: text.clone() },
        },
    };
    let results = SearchResults { hits: dialog.iter().map(hit).collect(), ..SearchResults::default() };
    let form = SearchForm { q: "\"charged twice\"".to_owned(), ..SearchForm::default() };
    let outcome = SearchOutcome::Results { results: &results, accounts: &[], index_is_current: true, limit: 50 };
    std::fs::write(file.path(), templates::search_page(&form, &outcome)).unwrap();
    let url = format!("file://{}", file.path().display());
    take_screenshot(url.clone(), folder.join("search-light.png"), (1000, 700), false).await;
    take_screenshot(url, folder.join("search-phone-dark.png"), PHONE, true).await;
}
