//! What the command line accepts, and what it says of itself.

use clap::CommandFactory;

use super::*;
use crate::model::AccountId;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_is_what_people_were_told() {
    let help = Cli::command().term_width(100).render_help().to_string();
    insta::assert_snapshot!(help, @r#"
    Gets every transcript and every summary out of RingCX

    Usage: ringcx-extractor [OPTIONS] <COMMAND>

    Commands:
      run          Run the daemon
      demo         See the whole thing at work against a simulated RingCX, with nothing to set up
      check        Check settings, database, login and each account, and say what to do where something
                   is wrong
      status       Show accounts, how far they are read, what work is left and the budget
      backfill     Have past time windows read
      queue        Look at work items, above all those that gave up, and settle them
      resume       Lift the waits and pauses that refusals caused, and try again now
      search       Find conversations by what was said or written
      show         Show one segment to read: the conversation, its summaries and its history
      export       Write out the archive, in order of end time
      audit        Show what was read and when, every gap, and what became of each segment
      deliver      Look at delivery to other systems, and send again
      erase        Erase conversations for good, as the law may ask for
      hold         Keep conversations from retention and erasure, or stop doing so
      verify       Read the archive again and find whatever was altered
      health       Ask a running daemon whether it is alive; for containers
      migrate      Bring the database up to date (`run` does it too)
      completions  Print shell completions
      help         Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>  Settings to use [default: $RINGCX_CONFIG, ./config/local.toml or
                           /etc/ringcx-extractor/config.toml]
      -h, --help           Print help
      -V, --version        Print version

    Times are RFC 3339 (2026-11-20T10:00:00Z), a date (midnight UTC), or a span back from now (36h, 7d).
    Exit status: 0 done, 1 failed, 2 usage or configuration.
    "#);
}

#[test]
fn the_help_of_each_command_for_looking_is_what_people_were_told() {
    let mut all = String::new();
    for name in ["status", "show", "export", "queue"] {
        let mut command = Cli::command().term_width(100);
        command.build();
        let command = command.find_subcommand_mut(name).unwrap();
        all.push_str(&format!("---- {name}\n{}\n", command.render_help()));
    }
    insta::assert_snapshot!(all, @r#"
    ---- status
    Show accounts, how far they are read, what work is left and the budget

    Usage: ringcx-extractor status [OPTIONS]

    Options:
          --config <FILE>  Settings to use [default: $RINGCX_CONFIG, ./config/local.toml or
                           /etc/ringcx-extractor/config.toml]
          --json           Print JSON, for programs
          --watch          Look again every second until interrupted
      -h, --help           Print help

    ---- show
    Show one segment to read: the conversation, its summaries and its history

    Usage: ringcx-extractor show [OPTIONS] <SEGMENT_ID|--dialog <DIALOG_ID>>

    Arguments:
      [SEGMENT_ID]  The segment's id

    Options:
          --config <FILE>       Settings to use [default: $RINGCX_CONFIG, ./config/local.toml or
                                /etc/ringcx-extractor/config.toml]
          --dialog <DIALOG_ID>  All segments of this dialog
          --json                Print JSON, a line a segment: as `export` does, and its history
      -h, --help                Print help

    ---- export
    Write out the archive, in order of end time

    Usage: ringcx-extractor export [OPTIONS]

    Options:
          --config <FILE>                Settings to use [default: $RINGCX_CONFIG, ./config/local.toml
                                         or /etc/ringcx-extractor/config.toml]
          --format <FORMAT>              How to write it [default: jsonl] [possible values: jsonl, csv,
                                         parquet, text]
          --excel                        With `--format csv`: for Excel and other spreadsheets, so that
                                         no cell is taken for a formula or for too long
          --from <TIME>                  Segments that ended at or after this time
          --to <TIME>                    Segments that ended before this time
          --account <ACCOUNT>            Only this account: its sub-account id or name
          --changed-since <NUMBER>       Only what has changed since an earlier export: the number that
                                         it printed last, on standard error
          --redact <KIND>                Take these out of texts, metadata and summaries; the archive
                                         keeps them [possible values: card, email, phone]
          --redact-pattern <NAME=REGEX>  Take out what a regular expression matches, and put [NAME] in
                                         its place
      -o, --output <FILE>                Write to this file, whole or not at all, compressed if its name
                                         ends in .zst [default: standard output]
      -h, --help                         Print help (see more with '--help')

    ---- queue
    Look at work items, above all those that gave up, and settle them

    Usage: ringcx-extractor queue [OPTIONS] <COMMAND>

    Commands:
      list     List items; without options those that gave up: unavailable, failed or discarded
      show     Show the items of one segment, with what went wrong at each try
      retry    Try items again at once, with their patience counted afresh
      discard  Give items up for good; `retry` takes it back
      help     Print this message or the help of the given subcommand(s)

    Options:
          --config <FILE>  Settings to use [default: $RINGCX_CONFIG, ./config/local.toml or
                           /etc/ringcx-extractor/config.toml]
      -h, --help           Print help
    "#);
}

#[test]
fn retry_needs_exactly_one_choice() {
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
fn an_erasure_or_a_hold_names_one_thing() {
    let parse = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
    assert!(parse("x erase --segment a --account Support --reason why --dry-run"));
    assert!(parse("x erase --contact +12013770791 --yes --quick"));
    assert!(parse("x erase --journal --json --dialog a"));
    assert!(parse("x erase --rewrite"));
    assert!(!parse("x erase --segment a --dialog b"));
    assert!(!parse("x erase --rewrite --segment a"));
    assert!(!parse("x erase --segment a --json"));
    assert!(parse("x hold --contact a --account Support"));
    assert!(parse("x hold --list --json"));
    assert!(parse("x hold --release 7 --reason over"));
    assert!(!parse("x hold --release 7 --segment a"));
    assert!(!parse("x hold --list --dialog a"));
}

fn row(key: i64, sub: &str, name: Option<&str>) -> AccountRow {
    AccountRow {
        key,
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
    let found = |wanted: &str| pick(rows(), &settings, wanted).map(|row| row.key).map_err(|error| error.to_string());
    assert_eq!(found("10"), Ok(1));
    assert_eq!(found("support"), Ok(1));
    assert_eq!(found("40"), Ok(4));
    assert!(found("twin").unwrap_err().contains("several accounts"));
    assert!(found("nobody").unwrap_err().contains("10, 20, 30, 40"));
}
