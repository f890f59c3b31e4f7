//! `check`, `backfill` and `demo` as people meet them: the real binary against a simulated RingCX.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ringcx_extractor::clock::Clock;
use ringcx_extractor::config::Limits;
use ringcx_extractor::db::{Access, Db};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::sim::{Forbidden, Options, SECRET_MARK, Sim, SimLimits, Tokens};
use tempfile::TempDir;

/// A simulated RingCX, and a folder with settings for it.
struct Stage {
    sim: Sim,
    folder: TempDir,
}

impl Stage {
    async fn set(options: Options) -> Stage {
        let accounts = vec![AccountId::new("1", "10"), AccountId::new("1", "20")];
        let credentials = options.credentials.clone();
        let sim = Sim::start(Options { accounts, ..options }, Clock::system()).await.unwrap();
        let base = sim.base_url();
        let text = format!(
            "[api]\nplatform_url = \"{base}\"\nringcx_url = \"{base}\"\nsummary_url = \"{base}\"\n\
             [auth]\nclient_id = \"{}\"\nclient_secret = \"{}\"\njwt = \"{}\"\n\
             [database]\nurl = \"sqlite:archive.db\"\n\
             [[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"10\"\nname = \"Support\"\n\
             [[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"20\"\n",
            credentials.client_id, credentials.client_secret, credentials.jwt
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("local.toml"), text).unwrap();
        Stage { sim, folder }
    }

    async fn run(&self, args: &'static [&'static str]) -> Said {
        let folder = self.folder.path().to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
            command.current_dir(folder).env_clear().env("RINGCX_CONFIG", "local.toml").args(args).output().unwrap()
        });
        Said::of(&output.await.unwrap())
    }

    async fn db(&self) -> Db {
        Db::open_sqlite(&self.folder.path().join("archive.db"), Access::Own).await.unwrap()
    }
}

#[derive(Debug)]
struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(output: &Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let said = Said { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        assert!(!said.out.contains(SECRET_MARK) && !said.err.contains(SECRET_MARK), "a secret was shown: {said:?}");
        said
    }

    /// The line about this.
    fn line(&self, what: &str) -> &str {
        let line = self.out.lines().find(|line| line.contains(&format!(" {what}:")));
        assert!(line.is_some(), "nothing about {what}: {self:?}");
        line.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_well_where_all_is_well() {
    let stage = Stage::set(Options::default()).await;
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(0), "{said:?}");
    for what in ["settings", "database", "login", "scope", "account 10 (Support)", "account 20"] {
        assert!(said.line(what).starts_with("ok"), "{}", said.line(what));
    }
    assert!(said.line("account 20").contains("segments ended from"), "{said:?}");
    let stats = stage.sim.stats();
    assert_eq!((stats.violations.as_slice(), stats.ok(Endpoint::Metadata)), (&[][..], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_that_is_refused_does_not_hide_that_the_other_is_well() {
    let stage = Stage::set(Options::default()).await;
    let forbidden = Forbidden { endpoint: Some(Endpoint::Metadata), sub_account: Some("10".into()), segment: None };
    stage.sim.control().forbid(forbidden);
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.line("account 10 (Support)").starts_with("FAILED"), "{said:?}");
    assert!(said.out.contains("hint: give the login's user a RingCX role"), "{said:?}");
    assert!(said.line("account 20").starts_with("ok"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_missing_for_one_kind_of_artifact_is_named() {
    let stage = Stage::set(Options::default()).await;
    for endpoint in [Endpoint::Transcript, Endpoint::AutoSummary] {
        let forbidden = Forbidden { endpoint: Some(endpoint), sub_account: Some("10".into()), segment: None };
        stage.sim.control().forbid(forbidden);
    }
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    for what in ["account 10 (Support)", "account 20"] {
        assert!(said.line(what).starts_with("ok"), "{said:?}");
    }
    for (artifact, hint) in
        [("transcript", "may read transcripts"), ("auto_summary", "have automatic summaries enabled")]
    {
        let line = said.line(&format!("account 10 (Support), {artifact}"));
        assert!(line.starts_with("FAILED") && line.contains("403"), "{line}");
        assert!(said.out.contains(hint) && said.out.contains("RingCX admin portal"), "{said:?}");
    }
    assert!(!said.out.contains("agent_summary"), "{said:?}");
    assert!(stage.sim.stats().violations.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_says_so_and_what_to_check() {
    let mut options = Options::default();
    options.credentials.client_secret = "another".to_owned();
    let stage = Stage::set(options).await;
    stage.sim.control().set_credentials(Options::default().credentials);
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.line("login").starts_with("FAILED") && said.out.contains("hint:"), "{said:?}");
    assert!(said.line("database").starts_with("ok"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_that_is_missing_is_named() {
    let tokens = Tokens { scope: "ReadCallLog".to_owned(), ..Tokens::default() };
    let stage = Stage::set(Options { tokens, ..Options::default() }).await;
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.line("scope").contains("ReadAccounts"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_had_is_told_before_anything_is_asked() {
    let stage = Stage::set(Options::default()).await;
    std::fs::write(stage.folder.path().join("archive.db"), "this is no database, only some text").unwrap();
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.line("database").starts_with("FAILED"), "{said:?}");
    assert_eq!(stage.sim.stats().requests_in_all(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_could_not_work_is_told_without_anything_being_sent() {
    let stage = Stage::set(Options::default()).await;
    let path = stage.folder.path().join("local.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let sinks = "[[sinks]]\nname = \"good\"\ntype = \"jsonl\"\npath = \"out\"\n\
                 [[sinks]]\nname = \"bad\"\ntype = \"jsonl\"\npath = \"local.toml\"\n\
                 [[sinks]]\nname = \"typo\"\ntype = \"object_store\"\nurl = \"s3://bucket\"\noptions = { aws_regon = \"x\" }\n\
                 [[sinks]]\nname = \"home\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nsecret = \"signs with more than enough\"\n";
    std::fs::write(&path, settings + sinks).unwrap();
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.line("sink good").starts_with("ok") && said.line("sink bad").starts_with("FAILED"), "{said:?}");
    assert!(said.line("sink typo").starts_with("FAILED") && said.out.contains("aws_regon"), "{said:?}");
    assert!(said.line("sink home").starts_with("FAILED") && said.out.contains("allow_private"), "{said:?}");
    assert!(said.line("login").starts_with("ok"), "the rest is looked at all the same: {said:?}");
    assert!(!stage.folder.path().join("out").exists(), "a check makes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_wrong_are_a_matter_of_settings() {
    let stage = Stage::set(Options::default()).await;
    std::fs::write(stage.folder.path().join("local.toml"), "[api]\nringcx = 1\n").unwrap();
    let said = stage.run(&["check"]).await;
    assert_eq!(said.status, Some(2), "{said:?}");
    assert!(said.line("settings").starts_with("FAILED") && said.err.contains("api.ringcx"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_budget_that_is_used_up_is_not_waited_for() {
    let stage = Stage::set(Options::default()).await;
    let db = stage.db().await;
    let (clock, limits) = (Clock::system(), limits());
    let budget = ringcx_extractor::daemon::shared::metadata_budget(&limits, "10", &db, &clock);
    for _ in 0..3 {
        budget.reserve().await.unwrap().counted().await;
    }
    let began = clock.tick();
    let said = stage.run(&["check"]).await;
    assert!(clock.tick().since(began) < Duration::from_secs(20));
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(said.line("account 10 (Support)").contains("used up"), "{said:?}");
    assert!(said.line("account 20").starts_with("ok"), "{said:?}");
}

fn limits() -> Limits {
    let text = "[auth]\napi_token = \"x\"\n[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"10\"\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    ringcx_extractor::config::load(Some(&path), []).unwrap().settings.limits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_is_queued_before_any_daemon_ran() {
    let stage = Stage::set(Options::default()).await;
    let said = stage.run(&["backfill", "--from", "30d", "--to", "1d"]).await;
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.out.contains("account 10 (Support)") && said.out.contains("account 20"), "{said:?}");
    assert!(said.out.contains("takes about 1d 1"), "{said:?}");
    assert!(said.err.contains("no daemon is at work"), "{said:?}");
    let said = stage.run(&["backfill", "--from", "60d", "--to", "20d", "--account", "support", "--oldest-first"]).await;
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.out.contains("together with the 1 backfill that was asked for before it"), "{said:?}");
    assert!(!said.err.contains("cannot be read yet"), "{said:?}");
    let queued = stage.db().await.backfills(None, false).await.unwrap();
    let order: Vec<bool> = queued.iter().map(|one| one.newest_first).collect();
    assert_eq!(order, [true, true, false]);
    assert!(queued.iter().all(|one| one.range.from.floor_to_second() == one.range.from));
    assert_eq!(stage.sim.stats().requests_in_all(), 0, "it only queues");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_create_the_database_at_once_do_not_hinder_one_another() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        let mut openings = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            openings.spawn(async move { Db::open_sqlite(&path, Access::Own).await });
        }
        while let Some(opened) = openings.join_next().await {
            opened.unwrap().unwrap().ping().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_nothing_is_a_mistake() {
    let stage = Stage::set(Options::default()).await;
    for args in [
        &["backfill", "--from", "1d", "--to", "2d"][..],
        &["backfill", "--from", "1m", "--to", "now"],
        &["backfill", "--from", "2d", "--to", "1d", "--account", "nobody"],
        &["backfill", "--from", "yesterday", "--to", "1d"],
    ] {
        let args: &'static [&'static str] = Box::leak(args.to_vec().into_boxed_slice());
        let said = stage.run(args).await;
        assert_eq!(said.status, Some(2), "{args:?}: {said:?}");
    }
    assert!(stage.db().await.backfills(None, true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_a_century_is_not_queued_unasked() {
    let stage = Stage::set(Options::default()).await;
    let said = stage.run(&["backfill", "--from", "100y", "--to", "now"]).await;
    assert_eq!(said.status, Some(2), "{said:?}");
    assert!(said.err.contains("nothing was queued") && said.err.contains("hint: give --yes"), "{said:?}");
    assert!(stage.db().await.backfills(None, true).await.unwrap().is_empty());
    let said = stage.run(&["backfill", "--from", "100y", "--to", "now", "--yes"]).await;
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(stage.db().await.backfills(None, false).await.unwrap().len(), 2);
    let said = stage.run(&["backfill", "list"]).await;
    assert!(said.status == Some(0) && said.out.lines().count() == 3, "{said:?}");
    let said = stage.run(&["backfill"]).await;
    assert!(said.status == Some(2) && said.err.contains("--from"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_is_waited_for_ends_when_a_daemon_has_read_it() {
    let stage = Stage::set(Options { limits: SimLimits::lifted(), ..Options::default() }).await;
    let settings = stage.folder.path().join("local.toml");
    let lifted = "[limits]\nrequests_per_minute = 6000\nmetadata_per_minute = 600\nmetadata_per_15_minutes = 6000\n\
                  [http]\nlisten = \"\"\n";
    std::fs::write(&settings, std::fs::read_to_string(&settings).unwrap() + lifted).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    daemon.current_dir(stage.folder.path()).env_clear().env("RINGCX_CONFIG", "local.toml").arg("run");
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let said = stage.run(&["backfill", "--from", "3h", "--to", "now", "--account", "10", "--wait"]).await;
    let audited = stage.run(&["audit", "--account", "10", "--from", "3h", "--to", "6m"]).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.err.contains("cannot be read yet") && said.out.contains("every window of the range"), "{said:?}");
    assert_eq!(audited.status, Some(0), "{audited:?}");
    assert!(audited.out.starts_with("complete: no gap, "), "{audited:?}");
    assert!(stage.db().await.backfills(None, false).await.unwrap().is_empty());
}

/// What other commands see while it plays: a daemon that runs, by the demo's own clock, and whose limits `check` shares.
fn beside_the_demo(folder: &Path) {
    let config = || {
        let demo = std::fs::read_dir(folder).unwrap().next()?.unwrap().path();
        Some(demo.join("config.toml")).filter(|config| config.exists())
    };
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
        command.env_clear().arg("--config").arg(config().unwrap()).args(args);
        Said::of(&command.output().unwrap())
    };
    let runs = || {
        let status: Option<serde_json::Value> = serde_json::from_str(&run(&["status", "--json"]).out).ok();
        status.is_some_and(|status| {
            let read = status["accounts"].as_array().unwrap().iter().all(|account| account["lag_seconds"].is_u64());
            status["replicas"][0]["alive"] == true && status["accounts"][0].is_object() && read
        })
    };
    let clock = Clock::system();
    let patience = clock.tick() + Duration::from_secs(60);
    while config().is_none() || !runs() {
        assert!(clock.tick() < patience, "a daemon is never seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = run(&["status"]);
    assert!(said.status == Some(0) && !said.out.contains("no daemon is running"), "{said:?}");
    let said = run(&["check"]);
    assert!(said.status == Some(0) && said.line("account 15300002 (Support EMEA)").starts_with("ok"), "{said:?}");
}

#[test]
fn the_demo_proves_that_everything_arrived() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    command.env_clear().env("TMPDIR", folder.path()).args(["demo", "--for", "10s", "--speed", "120"]);
    let demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    beside_the_demo(folder.path());
    let said = Said::of(&demo.wait_with_output().unwrap());
    assert_eq!(said.status, Some(0), "{said:?}");
    assert!(said.out.contains("Everything that was announced has arrived"), "{said:?}");
    assert!(!said.out.contains("contract     broken"), "{said:?}");
    // What it says to type next can be typed.
    let next: Vec<&str> =
        said.out.lines().filter(|line| line.starts_with("  ") && line.contains(" --config ")).collect();
    assert_eq!(next.len(), 6, "{said:?}");
    for line in next {
        let mut shell = Command::new("/bin/sh");
        shell.current_dir(folder.path()).args(["-c", line]);
        let said = Said::of(&shell.output().unwrap());
        assert_eq!(said.status, Some(0), "{line}: {said:?}");
        assert!(!said.err.contains("nothing was found"), "{line}: {said:?}");
    }
    let delivered = said.out.lines().map(str::trim).find(|line| line.contains("/lake/"));
    assert!(std::fs::read_to_string(delivered.unwrap()).unwrap().lines().count() > 50, "{said:?}");
    let exported = std::fs::read_to_string(folder.path().join("demo.jsonl")).unwrap();
    assert!(exported.lines().count() > 50, "{}", exported.lines().count());
}
