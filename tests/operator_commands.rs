//! The commands `check`, `backfill` and `demo`: the real binary against a simulated RingCX.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ringcx_extractor::clock::Clock;
use ringcx_extractor::config::Limits;
use ringcx_extractor::db::{Db, OpenMode};
use ringcx_extractor::model::{AccountId, Endpoint};
use ringcx_extractor::sim::{ForbiddenRule, Options, SECRET_MARK, Sim, SimLimits, TokenSettings};
use tempfile::TempDir;

/// A simulated RingCX, and a folder with settings that point to it.
struct CommandEnv {
    sim: Sim,
    folder: TempDir,
}

impl CommandEnv {
    async fn new(options: Options) -> CommandEnv {
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
        CommandEnv { sim, folder }
    }

    async fn run(&self, args: &'static [&'static str]) -> CommandResult {
        let folder = self.folder.path().to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
            command.current_dir(folder).env_clear().env("RINGCX_CONFIG", "local.toml").args(args).output().unwrap()
        });
        CommandResult::from_output(&output.await.unwrap())
    }

    async fn db(&self) -> Db {
        Db::open_sqlite(&self.folder.path().join("archive.db"), OpenMode::CreateOrMigrate).await.unwrap()
    }
}

#[derive(Debug)]
struct CommandResult {
    status: Option<i32>,
    out: String,
    err: String,
}

impl CommandResult {
    fn from_output(output: &Output) -> CommandResult {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let result =
            CommandResult { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        assert!(
            !result.out.contains(SECRET_MARK) && !result.err.contains(SECRET_MARK),
            "a secret was shown: {result:?}"
        );
        result
    }

    /// The line of `check` about this subject.
    fn line(&self, what: &str) -> &str {
        let line = self.out.lines().find(|line| line.contains(&format!(" {what}:")));
        assert!(line.is_some(), "no line about {what}: {self:?}");
        line.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_well_where_all_is_well() {
    let env = CommandEnv::new(Options::default()).await;
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(0), "{result:?}");
    for what in ["settings", "database", "login", "scope", "account 10 (Support)", "account 20"] {
        assert!(result.line(what).starts_with("ok"), "{}", result.line(what));
    }
    assert!(result.line("account 20").contains("segments ended from"), "{result:?}");
    let stats = env.sim.stats();
    assert_eq!((stats.violations.as_slice(), stats.ok_count(Endpoint::Metadata)), (&[][..], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_that_is_refused_does_not_hide_that_the_other_is_well() {
    let env = CommandEnv::new(Options::default()).await;
    let forbidden = ForbiddenRule { endpoint: Some(Endpoint::Metadata), sub_account: Some("10".into()), segment: None };
    env.sim.control().forbid(forbidden);
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(1), "{result:?}");
    assert!(result.line("account 10 (Support)").starts_with("FAILED"), "{result:?}");
    assert!(result.out.contains("hint: give the login's user a RingCX role"), "{result:?}");
    assert!(result.line("account 20").starts_with("ok"), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_missing_for_one_kind_of_artifact_is_named() {
    let env = CommandEnv::new(Options::default()).await;
    for endpoint in [Endpoint::Transcript, Endpoint::AutoSummary] {
        let forbidden = ForbiddenRule { endpoint: Some(endpoint), sub_account: Some("10".into()), segment: None };
        env.sim.control().forbid(forbidden);
    }
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(1), "{result:?}");
    for what in ["account 10 (Support)", "account 20"] {
        assert!(result.line(what).starts_with("ok"), "{result:?}");
    }
    for (artifact, hint) in
        [("transcript", "may read transcripts"), ("auto_summary", "have automatic summaries enabled")]
    {
        let line = result.line(&format!("account 10 (Support), {artifact}"));
        assert!(line.starts_with("FAILED") && line.contains("403"), "{line}");
        assert!(result.out.contains(hint) && result.out.contains("RingCX admin portal"), "{result:?}");
    }
    assert!(!result.out.contains("agent_summary"), "{result:?}");
    assert!(env.sim.stats().violations.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_says_so_and_what_to_check() {
    let mut options = Options::default();
    options.credentials.client_secret = "another".to_owned();
    let env = CommandEnv::new(options).await;
    env.sim.control().set_credentials(Options::default().credentials);
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(1), "{result:?}");
    assert!(result.line("login").starts_with("FAILED") && result.out.contains("hint:"), "{result:?}");
    assert!(result.line("database").starts_with("ok"), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scope_that_is_missing_is_named() {
    let tokens = TokenSettings { scope: "ReadCallLog".to_owned(), ..TokenSettings::default() };
    let env = CommandEnv::new(Options { tokens, ..Options::default() }).await;
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(1), "{result:?}");
    assert!(result.line("scope").contains("ReadAccounts"), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_had_is_told_before_anything_is_asked() {
    let env = CommandEnv::new(Options::default()).await;
    std::fs::write(env.folder.path().join("archive.db"), "this is no database, only some text").unwrap();
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(1), "{result:?}");
    assert!(result.line("database").starts_with("FAILED"), "{result:?}");
    assert_eq!(env.sim.stats().total_requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_could_not_work_is_told_without_anything_being_sent() {
    let env = CommandEnv::new(Options::default()).await;
    let path = env.folder.path().join("local.toml");
    let settings = std::fs::read_to_string(&path).unwrap();
    let sinks = "[[sinks]]\nname = \"good\"\ntype = \"jsonl\"\npath = \"out\"\n\
                 [[sinks]]\nname = \"bad\"\ntype = \"jsonl\"\npath = \"local.toml\"\n\
                 [[sinks]]\nname = \"typo\"\ntype = \"object_store\"\nurl = \"s3://bucket\"\noptions = { aws_regon = \"x\" }\n\
                 [[sinks]]\nname = \"home\"\ntype = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nsecret = \"signs with more than enough\"\n";
    std::fs::write(&path, settings + sinks).unwrap();
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(1), "{result:?}");
    assert!(result.line("sink good").starts_with("ok") && result.line("sink bad").starts_with("FAILED"), "{result:?}");
    assert!(result.line("sink typo").starts_with("FAILED") && result.out.contains("aws_regon"), "{result:?}");
    assert!(result.line("sink home").starts_with("FAILED") && result.out.contains("allow_private"), "{result:?}");
    assert!(result.line("login").starts_with("ok"), "the other checks still run: {result:?}");
    assert!(!env.folder.path().join("out").exists(), "a check creates nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_are_wrong_are_a_matter_of_settings() {
    let env = CommandEnv::new(Options::default()).await;
    std::fs::write(env.folder.path().join("local.toml"), "[api]\nringcx = 1\n").unwrap();
    let result = env.run(&["check"]).await;
    assert_eq!(result.status, Some(2), "{result:?}");
    assert!(result.line("settings").starts_with("FAILED") && result.err.contains("api.ringcx"), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_budget_that_is_used_up_is_not_waited_for() {
    let env = CommandEnv::new(Options::default()).await;
    let db = env.db().await;
    let (clock, limits) = (Clock::system(), default_limits());
    let budget = ringcx_extractor::daemon::app_context::metadata_budget(&limits, "10", &db, &clock);
    for _ in 0..3 {
        budget.reserve().await.unwrap().mark_counted().await;
    }
    let began = clock.tick();
    let result = env.run(&["check"]).await;
    assert!(clock.tick().since(began) < Duration::from_secs(20));
    assert_eq!(result.status, Some(1), "{result:?}");
    assert!(result.line("account 10 (Support)").contains("exhausted"), "{result:?}");
    assert!(result.line("account 20").starts_with("ok"), "{result:?}");
}

fn default_limits() -> Limits {
    let text = "[auth]\napi_token = \"x\"\n[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"10\"\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    ringcx_extractor::config::load(Some(&path), []).unwrap().settings.limits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_is_queued_before_any_daemon_ran() {
    let env = CommandEnv::new(Options::default()).await;
    let result = env.run(&["backfill", "--from", "30d", "--to", "1d"]).await;
    assert_eq!(result.status, Some(0), "{result:?}");
    assert!(result.out.contains("account 10 (Support)") && result.out.contains("account 20"), "{result:?}");
    assert!(result.out.contains("takes about 1d 1"), "{result:?}");
    assert!(result.err.contains("no daemon is running"), "{result:?}");
    let result = env.run(&["backfill", "--from", "60d", "--to", "30d", "--account", "support", "--oldest-first"]).await;
    assert_eq!(result.status, Some(0), "{result:?}");
    assert!(result.out.contains("together with 1 backfill queued before"), "{result:?}");
    assert!(!result.err.contains("cannot be read yet"), "{result:?}");
    let queued = env.db().await.backfills(None, false).await.unwrap();
    let order: Vec<bool> = queued.iter().map(|one| one.newest_first).collect();
    assert_eq!(order, [true, true, false]);
    assert!(queued.iter().all(|one| one.range.from.floor_to_second() == one.range.from));
    assert_eq!(env.sim.stats().total_requests(), 0, "it only queues");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn those_who_create_the_database_at_once_do_not_hinder_one_another() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.db");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            tasks.spawn(async move { Db::open_sqlite(&path, OpenMode::CreateOrMigrate).await });
        }
        while let Some(opened) = tasks.join_next().await {
            opened.unwrap().unwrap().ping().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_nothing_is_a_mistake() {
    let env = CommandEnv::new(Options::default()).await;
    for args in [
        &["backfill", "--from", "1d", "--to", "2d"][..],
        &["backfill", "--from", "1m", "--to", "now"],
        &["backfill", "--from", "2d", "--to", "1d", "--account", "nobody"],
        &["backfill", "--from", "yesterday", "--to", "1d"],
    ] {
        let args: &'static [&'static str] = Box::leak(args.to_vec().into_boxed_slice());
        let result = env.run(args).await;
        assert_eq!(result.status, Some(2), "{args:?}: {result:?}");
    }
    assert!(env.db().await.backfills(None, true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_a_century_is_not_queued_unasked() {
    let env = CommandEnv::new(Options::default()).await;
    let result = env.run(&["backfill", "--from", "100y", "--to", "now"]).await;
    assert_eq!(result.status, Some(2), "{result:?}");
    assert!(result.err.contains("nothing was queued") && result.err.contains("hint: give --yes"), "{result:?}");
    assert!(env.db().await.backfills(None, true).await.unwrap().is_empty());
    let result = env.run(&["backfill", "--from", "100y", "--to", "now", "--yes"]).await;
    assert_eq!(result.status, Some(0), "{result:?}");
    assert_eq!(env.db().await.backfills(None, false).await.unwrap().len(), 2);
    let result = env.run(&["backfill", "list"]).await;
    assert!(result.status == Some(0) && result.out.lines().count() == 3, "{result:?}");
    let result = env.run(&["backfill"]).await;
    assert!(result.status == Some(2) && result.err.contains("--from"), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_is_waited_for_ends_when_a_daemon_has_read_it() {
    let env = CommandEnv::new(Options { limits: SimLimits::unlimited(), ..Options::default() }).await;
    let settings = env.folder.path().join("local.toml");
    let lifted = "[limits]\nrequests_per_minute = 6000\nmetadata_per_minute = 600\nmetadata_per_15_minutes = 6000\n\
                  [http]\nlisten = \"\"\n";
    std::fs::write(&settings, std::fs::read_to_string(&settings).unwrap() + lifted).unwrap();
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    daemon.current_dir(env.folder.path()).env_clear().env("RINGCX_CONFIG", "local.toml").arg("run");
    let mut daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let result = env.run(&["backfill", "--from", "3h", "--to", "now", "--account", "10", "--wait"]).await;
    let audited = env.run(&["audit", "--account", "10", "--from", "3h", "--to", "6m"]).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(result.status, Some(0), "{result:?}");
    assert!(
        result.err.contains("cannot be read yet") && result.out.contains("every window of the range"),
        "{result:?}"
    );
    assert_eq!(audited.status, Some(0), "{audited:?}");
    assert!(audited.out.starts_with("complete: no gap, "), "{audited:?}");
    assert!(env.db().await.backfills(None, false).await.unwrap().is_empty());
}

/// Asserts that `status` and `check` work while the demo runs: they see its daemon, use its clock and share its limits.
fn assert_commands_work_beside_demo(folder: &Path) {
    let config = || {
        let demo = std::fs::read_dir(folder).unwrap().next()?.unwrap().path();
        Some(demo.join("config.toml")).filter(|config| config.exists())
    };
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
        command.env_clear().arg("--config").arg(config().unwrap()).args(args);
        CommandResult::from_output(&command.output().unwrap())
    };
    let runs = || {
        let status: Option<serde_json::Value> = serde_json::from_str(&run(&["status", "--json"]).out).ok();
        status.is_some_and(|status| {
            let read = status["accounts"].as_array().unwrap().iter().all(|account| account["lag_seconds"].is_u64());
            status["replicas"][0]["alive"] == true && status["accounts"][0].is_object() && read
        })
    };
    let clock = Clock::system();
    let deadline = clock.tick() + Duration::from_secs(60);
    while config().is_none() || !runs() {
        assert!(clock.tick() < deadline, "no daemon is running");
        std::thread::sleep(Duration::from_millis(20));
    }
    let result = run(&["status"]);
    assert!(result.status == Some(0) && !result.out.contains("no daemon is running"), "{result:?}");
    let result = run(&["check"]);
    assert!(result.status == Some(0) && result.line("account 15300002 (Support EMEA)").starts_with("ok"), "{result:?}");
}

#[test]
fn the_demo_proves_that_everything_arrived() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringcx-extractor"));
    command.env_clear().env("TMPDIR", folder.path()).args(["demo", "--for", "10s", "--speed", "120"]);
    let demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_commands_work_beside_demo(folder.path());
    let result = CommandResult::from_output(&demo.wait_with_output().unwrap());
    assert_eq!(result.status, Some(0), "{result:?}");
    assert!(result.out.contains("Everything that was announced has arrived"), "{result:?}");
    assert!(!result.out.contains("API contract violated"), "{result:?}");
    // The commands that it suggests work.
    let next: Vec<&str> =
        result.out.lines().filter(|line| line.starts_with("  ") && line.contains(" --config ")).collect();
    assert_eq!(next.len(), 6, "{result:?}");
    for line in next {
        let mut shell = Command::new("/bin/sh");
        shell.current_dir(folder.path()).args(["-c", line]);
        let result = CommandResult::from_output(&shell.output().unwrap());
        assert_eq!(result.status, Some(0), "{line}: {result:?}");
        assert!(!result.err.contains("no hits"), "{line}: {result:?}");
    }
    // A file for each day: the simulated traffic may cross midnight.
    let days = result.out.lines().map(str::trim).filter(|line| line.contains("/lake/"));
    let delivered: usize = days.map(|path| std::fs::read_to_string(path).unwrap().lines().count()).sum();
    assert!(delivered > 50, "{delivered}: {result:?}");
    let exported = std::fs::read_to_string(folder.path().join("demo.jsonl")).unwrap();
    assert!(exported.lines().count() > 50, "{}", exported.lines().count());
}
