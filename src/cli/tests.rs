//! The command line: what it accepts, and its help.

use clap::CommandFactory;

use super::*;
use crate::model::AccountId;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_version_names_the_commit_and_its_time() {
    let version = concat!("ringcx-extractor ", env!("CARGO_PKG_VERSION"));
    assert_eq!(Cli::command().render_version().trim_end(), version);
    let text = Cli::command().render_long_version();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines.len()), (version, 3), "{text}");
    assert!(lines[1].starts_with("commit: ") && lines[2].starts_with("built: "), "{text}");
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    clap_mangen::generate_to(Cli::command(), folder.path()).unwrap();
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let page = folder.path().join(format!("ringcx-extractor-{}.1", command.get_name()));
        assert!(page.exists(), "{}", page.display());
    }
}

#[test]
fn the_help_lists_every_command_and_option() {
    let help = Cli::command().term_width(100).render_help().to_string();
    insta::assert_snapshot!(help, @r#"
    Gets every transcript and every summary out of RingCX

    Usage: ringcx-extractor [OPTIONS] <COMMAND>

    Commands:
      run          Run the daemon
      demo         Run a demonstration against a simulated RingCX; needs no setup
      check        Check settings, database, login and each account, and print a hint for each problem
      status       Show the progress, the remaining work and the request budget of each account
      backfill     Queue a backfill of a past time range
      queue        List work items, and retry or discard those that failed
      resume       End waits and pauses after rejected requests, and retry now
      search       Find conversations by what was said or written
      show         Show a segment: its conversation, summaries and history
      recording    Save the recording of a segment
      export       Export the archive in order of segment end time
      audit        Check completeness: what was read, every gap, and the outcome of each segment
      report       Write the reconciliation report: announced and held, by account and day
      deliver      Inspect delivery and resend events
      erase        Erase conversations permanently, for example on a legal request
      hold         Place, list or release legal holds, which prevent retention and erasure
      verify       Verify the integrity of the archive and report alterations
      access       Create keys for programs, and show who read what
      mcp          Serve the archive to an assistant on this machine, over the Model Context Protocol
      backup       Write a consistent copy of a SQLite archive, while a daemon may be running
      restore      Restore a copy of the archive, and repeat the erasures made since
      health       Check whether a running daemon is alive; for containers
      migrate      Migrate the database to the current schema (as `run` does), or copy it to Postgres
      completions  Print shell completions
      help         Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>  Settings file [default: $RINGCX_CONFIG, ./config/local.toml or
                           /etc/ringcx-extractor/config.toml]
      -h, --help           Print help
      -V, --version        Print version

    Times are RFC 3339 (2026-11-20T10:00:00Z), a date (midnight UTC), or a span back from now (36h, 7d).
    Exit status: 0 done, 1 failed, 2 usage or configuration.
    "#);
}

#[test]
fn the_help_of_status_show_export_and_queue_lists_every_option() {
    let mut all = String::new();
    for name in ["status", "show", "export", "queue"] {
        let mut command = Cli::command().term_width(100);
        command.build();
        let command = command.find_subcommand_mut(name).unwrap();
        all.push_str(&format!("---- {name}\n{}\n", command.render_help()));
    }
    insta::assert_snapshot!(all, @r#"
    ---- status
    Show the progress, the remaining work and the request budget of each account

    Usage: ringcx-extractor status [OPTIONS]

    Options:
          --config <FILE>  Settings file [default: $RINGCX_CONFIG, ./config/local.toml or
                           /etc/ringcx-extractor/config.toml]
          --json           Print JSON
          --watch          Refresh every second until interrupted
      -h, --help           Print help

    ---- show
    Show a segment: its conversation, summaries and history

    Usage: ringcx-extractor show [OPTIONS] <SEGMENT_ID|--dialog <DIALOG_ID>>

    Arguments:
      [SEGMENT_ID]  Id of the segment

    Options:
          --config <FILE>       Settings file [default: $RINGCX_CONFIG, ./config/local.toml or
                                /etc/ringcx-extractor/config.toml]
          --dialog <DIALOG_ID>  All segments of this dialog
          --json                Print JSON, one segment per line: the fields of `export` and the history
      -h, --help                Print help

    ---- export
    Export the archive in order of segment end time

    Usage: ringcx-extractor export [OPTIONS]

    Options:
          --config <FILE>                Settings file [default: $RINGCX_CONFIG, ./config/local.toml or
                                         /etc/ringcx-extractor/config.toml]
          --format <FORMAT>              Output format [default: jsonl] [possible values: jsonl, csv,
                                         parquet, text]
          --table <TABLE>                What one row is; docs/tables.md lists the columns [default:
                                         segments] [possible values: segments, phrases, dialogs]
          --excel                        With `--format csv`: make all cells safe for Excel and other
                                         spreadsheets: no formulas, and no cell too long
          --changed-since <NUMBER>       Only what changed since an earlier export, given by the number
                                         that it printed last on standard error; also tells which
                                         segments were erased
          --redact <KIND>                Redact these in texts, metadata and summaries; the archive is
                                         not changed [possible values: card, email, phone]
          --redact-pattern <NAME=REGEX>  Replace every match of a regular expression by [NAME]
      -o, --output <FILE>                Write to this file, atomically, and compressed if its name ends
                                         in .zst [default: standard output]
      -h, --help                         Print help (see more with '--help')

    Filters:
          --from <TIME>                Segments that ended at or after this time
          --to <TIME>                  Segments that ended before this time
          --account <ACCOUNT>          Only this account: its sub-account id or name
          --channel <CHANNEL>          Only this channel: VOICE, DIGITAL, EMAIL …
          --direction <DIRECTION>      Only this direction: INBOUND or OUTBOUND
          --agent <AGENT>              Only with this agent: the participant id in RingCX, or a name in
                                       the transcript
          --disposition <DISPOSITION>  Only with this disposition of the agent or the system
          --contact <VALUE>            Only with this contact, as `erase --contact` finds it: a complete
                                       telephone number, address, id or name
          --include-alike              With --contact, also possible matches: a similar number, or a
                                       speaker who may be the agent
          --dialog <ID>                Only this dialog
          --hold <NUMBER>              Only what this legal hold protects, by its number

    ---- queue
    List work items, and retry or discard those that failed

    Usage: ringcx-extractor queue [OPTIONS] <COMMAND>

    Commands:
      list     List items, by default those that are unavailable, failed or discarded
      show     Show the items of one segment, with the error of each attempt
      retry    Retry items now and reset their retry limits
      discard  Discard items, so that they are not retried; `retry` undoes this
      help     Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>  Settings file [default: $RINGCX_CONFIG, ./config/local.toml or
                           /etc/ringcx-extractor/config.toml]
      -h, --help           Print help
    "#);
}

#[test]
fn retry_needs_exactly_one_selection() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
    assert!(parse("x queue retry seg-1 --artifact agent_summary"));
    assert!(parse("x queue retry --state failed --account Support"));
    assert!(parse("x queue retry --all"));
    assert!(parse("x queue discard seg-1 --reason why"));
    assert!(!parse("x queue retry"));
    assert!(!parse("x queue retry seg-1 --all"));
    assert!(!parse("x queue retry --all --state failed"));
    assert!(!parse("x queue retry --state open"));
    assert!(!parse("x show"));
    assert!(!parse("x show seg-1 --dialog dia-1"));
}

#[test]
fn an_erasure_or_a_hold_has_one_subject() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
    assert!(parse("x erase --segment a --account Support --reason why --dry-run"));
    assert!(parse("x erase --contact +12013770791 --yes --quick"));
    assert!(parse("x erase --journal --json --dialog a"));
    assert!(parse("x erase --rewrite"));
    assert!(!parse("x erase --segment a --dialog b"));
    assert!(!parse("x erase --rewrite --segment a"));
    assert!(!parse("x erase --segment a --json"));
    assert!(parse("x erase --segment a --dry-run --json"));
    assert!(parse("x hold --contact a --account Support"));
    assert!(parse("x hold --list --json"));
    assert!(parse("x hold --release 7 --reason over"));
    assert!(!parse("x hold --release 7 --segment a"));
    assert!(!parse("x hold --list --dialog a"));
}

fn row(key: i64, sub: &str, name: Option<&str>) -> AccountRow {
    AccountRow {
        key: crate::db::AccountKey(key),
        id: AccountId::new("1", sub),
        name: name.map(str::to_owned),
        owner: None,
        live_start: None,
        retention_days: None,
        missing_since: None,
        done: 0,
        feed: 0,
    }
}

#[test]
fn an_account_is_found_by_its_id_before_any_name() {
    let variables = [
        ("RINGCX__AUTH__API_TOKEN", "t"),
        ("RINGCX__ACCOUNTS", r#"[{rc_account_id="1",sub_account_id="10",name="Support"}]"#),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("empty.toml");
    std::fs::write(&file, "").unwrap();
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = config::load(Some(&file), variables).unwrap().settings;
    let rows =
        || vec![row(1, "10", None), row(2, "20", Some("10")), row(3, "30", Some("Twin")), row(4, "40", Some("twin"))];
    let found = |wanted: &str| select_account(rows(), &settings, wanted).map(|row| row.key.0);
    assert_eq!(["10", "support", "40"].map(|wanted| found(wanted).unwrap()), [1, 1, 4]);
    assert!(found("twin").unwrap_err().to_string().contains("several accounts"));
    assert!(crate::error::hint_of(&found("nobody").unwrap_err()).unwrap().contains("10, 20, 30, 40"));
}
