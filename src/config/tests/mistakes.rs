use proptest::prelude::*;

use super::*;

/// Each line of the table is a test: what is written, and what the only problem says.
#[test]
fn each_kind_of_mistake_is_named_with_its_key_its_line_and_what_would_be_right() {
    let table: &[(&str, &[&str])] = &[
        (
            "[discovery]\nwindow = \"15 x\"",
            &["discovery.window (local.toml:8): \"15 x\" is not a span of time", "\"15m\""],
        ),
        ("[discovery]\nwindow = 15", &["discovery.window (local.toml:8): is not a span of time"]),
        ("[discovery]\nwindow = \"0s\"", &["\"0s\" must be greater than zero"]),
        ("[discovery]\nwindow = \"\"", &["discovery.window", "\"\" is not a span"]),
        ("[discovery]\nwindow = \"900ms\"", &["discovery.window (local.toml:8): is less than a second", "one or more"]),
        (
            "[discovery]\nrechecks = [\"1h\", \"5m\", \"0s\"]",
            &["discovery.rechecks[2] (local.toml:8)", "must be greater than zero"],
        ),
        ("[discovery]\nrechecks = \"1h\"", &["discovery.rechecks (local.toml:8): is not a list", "brackets"]),
        ("[discovery]\nmax_window = \"3h 1s\"", &["discovery.max_window (local.toml:8): 3h 1s is wider", "at most 3h"]),
        ("[discovery]\nwindow = \"4h\"", &["discovery.window (local.toml:8): 4h is wider", "at most 3h"]),
        ("[discovery]\nstart = \"soon\"", &["discovery.start (local.toml:8): \"soon\" is not a time", "36h"]),
        ("[discovery]\nstart = 2026-01-01T00:00:00", &["discovery.start", "has no time zone"]),
        ("[discovery]\nwindw = \"15m\"", &["discovery.windw (local.toml:8): is not a known key", "discovery.window"]),
        (
            "[discovry]\nwindow = \"15m\"",
            &["discovry (local.toml:7): is not a known key", "nearest known key is discovery"],
        ),
        ("[fetch]\nmax_window = \"1h\"", &["fetch.max_window", "discovery.max_window"]),
        ("\"log.filter\" = \"info\"", &["log.filter (local.toml:7): is not a known key"]),
        (
            "[limits]\nrequests_per_minute = 0",
            &["limits.requests_per_minute (local.toml:8): 0 is out of range", "from 1"],
        ),
        ("[limits]\nrequests_per_minute = -3", &["-3 is out of range"]),
        ("[limits]\nrequests_per_minute = 4294967296", &["4294967296 is out of range"]),
        (
            "[limits]\nrequests_per_minute = 99999999999999999999",
            &["limits.requests_per_minute", "is not a whole number"],
        ),
        ("[limits]\nrequests_per_minute = \"many\"", &["\"many\" is not a whole number"]),
        ("[limits]\nmetadata_per_minute = 1.5", &["limits.metadata_per_minute", "is not a whole number"]),
        (
            "[limits]\nscope = \"account\"",
            &["limits.scope (local.toml:8): \"account\" is not a valid value", "\"sub_account\" or \"login\""],
        ),
        ("[fetch]\nconcurrency = 10001", &["fetch.concurrency", "from 1 to 10000"]),
        ("[api]\nringcx_url = \"ftp://host\"", &["api.ringcx_url (local.toml:8): is neither http nor https"]),
        ("[api]\nringcx_url = \"\"", &["api.ringcx_url (local.toml:8): is empty"]),
        ("[api]\nringcx_url = 5", &["api.ringcx_url (local.toml:8): is not text", "quotes"]),
        ("[api]\nringcx_url = \"ringcx\"", &["api.ringcx_url (local.toml:8): is not a URL"]),
        ("[http]\nlisten = \"8480\"", &["http.listen (local.toml:8): \"8480\" is not an address with a port"]),
        (
            "[log]\nformat = \"xml\"",
            &["log.format (local.toml:8): \"xml\" is not a valid value", "\"text\" or \"json\""],
        ),
        ("[log]\nfilter = \"info,a=loud\"", &["log.filter (local.toml:8)", "is not a log filter"]),
        (
            "[database]\nurl = \"mysql://x\"",
            &["database.url (local.toml:8): names an unknown kind of database", "sqlite:relative"],
        ),
        ("[database]\nurl = \"sqlite:\"", &["database.url (local.toml:8): names no file"]),
        ("[database]\nurl = \"\"", &["database.url (local.toml:8): is empty"]),
        (
            "[database]\nurl = \"postgres://u:p@h:port/db\"",
            &["database.url (local.toml:8): is not a URL: invalid port"],
        ),
        ("[[http]]\nlisten = \"\"", &["http (local.toml:7): is a section", "write [http]"]),
        (
            "[[accounts]]\nrc_account_id = 1\nsub_account_id = 2",
            &["accounts[1].sub_account_id (local.toml:9): \"2\" is also used by accounts[0]"],
        ),
        ("[[accounts]]\nrc_account_id = \"1\"", &["accounts[1].sub_account_id (local.toml:7): is missing"]),
        (
            "[[accounts]]\nrc_account_id = \"1\"\nsub_account_id = \"3 4\"",
            &["accounts[1].sub_account_id (local.toml:9): \"3 4\" contains white space"],
        ),
        ("artifacts = []", &["accounts[0].artifacts (local.toml:7): is empty"]),
        (
            "artifacts = [\"transcripts\"]",
            &["accounts[0].artifacts[0] (local.toml:7): \"transcripts\" is not a valid value", "\"agent_summary\""],
        ),
        ("summaries_for = \"all\"", &["accounts[0].summaries_for (local.toml:7): \"all\""]),
        ("retention = \"always\"", &["accounts[0].retention (local.toml:7): \"always\"", "forever"]),
        ("[discover_accounts]", &["discover_accounts", "set together with [[accounts]]"]),
    ];
    for (more, words) in table {
        let problem = problem(&format!("{more}\n"));
        for word in *words {
            assert!(problem.contains(word), "{more}\nlacks {word:?}:\n{problem}");
        }
        assert!(problem.contains("\n  hint: "), "{problem}");
    }
}

#[test]
fn each_mistake_with_a_sink_is_named() {
    let jsonl = "[[sinks]]\nname = \"a\"\ntype = \"jsonl\"\npath = \"out\"\n";
    let hook = "[[sinks]]\nname = \"b\"\ntype = \"webhook\"\n";
    let store = "[[sinks]]\nname = \"c\"\ntype = \"object_store\"\n";
    let table: &[(&str, &str, &[&str])] = &[
        ("[[sinks]]\n", "type = \"jsonl\"\npath = \"out\"", &["sinks[0].name (local.toml:7): is missing"]),
        ("[[sinks]]\n", "name = \"a\"", &["sinks[0].type (local.toml:7): is missing", "\"object_store\""]),
        (
            "[[sinks]]\n",
            "name = \"a\"\ntype = \"kafka\"",
            &["sinks[0].type (local.toml:9): \"kafka\" is not a valid value"],
        ),
        ("[[sinks]]\n", "name = \"a b\"\ntype = \"jsonl\"\npath = \"out\"", &["sinks[0].name", "other characters"]),
        ("[[sinks]]\n", "name = \"a\"\ntype = \"jsonl\"", &["sinks[0].path (local.toml:7): is missing"]),
        (
            jsonl,
            "[[sinks]]\nname = \"a\"\ntype = \"jsonl\"\npath = \"b\"",
            &["sinks[1].name (local.toml:12): \"a\" is also used by sinks[0]"],
        ),
        (
            jsonl,
            "[[sinks]]\nname = \"b\"\ntype = \"jsonl\"\npath = \"out\"",
            &["sinks[1].path (local.toml:14): \"out\" is also used by sinks[0]"],
        ),
        (
            jsonl,
            "url = \"https://x\"",
            &["sinks[0].url (local.toml:11): is not a setting of a sink of type jsonl", "path, rotate"],
        ),
        (jsonl, "secret_file = \"x\"", &["sinks[0].secret_file", "not a setting of a sink of type jsonl"]),
        (jsonl, "roate = \"1d\"", &["sinks[0].roate (local.toml:11): is not a known key", "sinks[0].rotate"]),
        (jsonl, "start = \"end\"", &["sinks[0].start", "\"now\" or \"beginning\""]),
        (jsonl, "artifacts = []", &["sinks[0].artifacts (local.toml:11): is empty"]),
        (jsonl, "accounts = [\"\"]", &["sinks[0].accounts[0]", "is empty"]),
        (
            jsonl,
            "redact = [\"iban\"]",
            &["sinks[0].redact[0] (local.toml:11): \"iban\" is not a valid value", "pattern"],
        ),
        (jsonl, "redact = [{ name = \"x\" }]", &["sinks[0].redact[0].pattern (local.toml:11): is missing"]),
        (
            jsonl,
            "redact = [{ name = \"x\", patern = \"a\", pattern = \"b\" }]",
            &["redact[0].patern", "sinks[0].redact[0].pattern"],
        ),
        (jsonl, "redact = [{ name = \"x\", pattern = '(' }]", &["\"(\" is not a regular expression: unclosed group"]),
        (jsonl, "redact = [{ name = \"x\", pattern = 'a*' }]", &["matches the empty string"]),
        (jsonl, "redact = [5]", &["neither a name nor a pattern"]),
        (hook, "url = \"https://x\"", &["sinks[0].secret (local.toml:7): is missing"]),
        (hook, "secret = \"signs with more than enough\"", &["sinks[0].url (local.toml:7): is missing"]),
        (
            hook,
            "secret = \"signs with more than enough\"\nurl = \"s3://x\"",
            &["sinks[0].url (local.toml:11): is neither http nor https"],
        ),
        (
            hook,
            "url = \"https://x\"\nsecret = \"s\"\nsecrets = [\"t\"]",
            &["sinks[0].secrets (local.toml:12)", "together with secret"],
        ),
        (hook, "url = \"https://x\"\nsecret = \"whsec_!\"", &["sinks[0].secret (local.toml:11)", "whsec_"]),
        (hook, "url = \"https://x\"\nsecret = \"whsec_\"", &["sinks[0].secret (local.toml:11): signs with 0 bytes"]),
        (
            hook,
            "url = \"https://x\"\nsecret = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\"",
            &["22 bytes", "deliver new-secret"],
        ),
        (hook, "url = \"https://x\"\nsecrets = [\"too short, twenty-three\"]", &["signs with 23 bytes"]),
        (
            hook,
            "url = \"https://x\"\nsecret = \"signs with more than enough\"\nallow_private = \"yes\"",
            &["sinks[0].allow_private", "true or false"],
        ),
        (store, "", &["sinks[0].url (local.toml:7): is missing", "s3://"]),
        (store, "url = \"https://x\"", &["sinks[0].url (local.toml:10): names an unknown kind of object store"]),
        (store, "url = \"s3://x\"\nformat = \"csv\"", &["sinks[0].format", "\"jsonl\" or \"parquet\""]),
        (store, "url = \"s3://x\"\noptions = 5", &["sinks[0].options (local.toml:11): is not a table"]),
    ];
    for (sink, more, words) in table {
        let problem = problem(&format!("{sink}{more}\n"));
        for word in *words {
            assert!(problem.contains(word), "{more}\nlacks {word:?}:\n{problem}");
        }
    }
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_the_file() {
    let text = "[auth]\nclient_id = \"a\"\n[discovery]\nwindow = \"x\"\noffest = \"5m\"\n[limits]\nscope = \"x\"\n";
    let env = [("RINGCX__FETCH__CONCURRENCY", "none"), ("RINGCX__DATABSE__URL", "x")];
    let all = problems(text, &env);
    let begins = [
        "discovery.window (local.toml:4)",
        "discovery.offest (local.toml:5)",
        "limits.scope (local.toml:7)",
        "databse.url (environment variable RINGCX__DATABSE__URL)",
        "auth.client_secret (local.toml): is missing",
        "auth.jwt (local.toml): is missing",
        "accounts: is missing",
        "fetch.concurrency (environment variable RINGCX__FETCH__CONCURRENCY): \"none\" is not a whole number",
    ];
    for begin in begins {
        assert!(all.iter().any(|problem| problem.starts_with(begin)), "lacks {begin}: {all:#?}");
    }
    assert_eq!(all.len(), begins.len(), "{all:#?}");
    let lines: Vec<usize> = begins[..3].iter().filter_map(|b| all.iter().position(|p| p.starts_with(b))).collect();
    assert!(lines.is_sorted(), "{all:#?}");
}

#[test]
fn the_errors_print_one_block_a_problem() {
    let errors = load_text(&format!("{MINIMAL}[log]\nformat = \"xml\"\nfiltre = \"info\"\n"), &[]).unwrap_err();
    let text = errors.to_string();
    assert!(text.starts_with("failed to load the settings, 2 problems:\n\n"), "{text}");
    assert_eq!(text.matches("\n  hint: ").count(), 2, "{text}");
    assert!(!text.ends_with('\n'));
}

#[test]
fn every_syntax_error_is_reported_with_its_line_and_the_rest_is_not_guessed_at() {
    let all = problems("[auth]\njwt = eyJ\nclient_id = \n[log\n", &[("RINGCX__LGO__FILTER", "info")]);
    assert!(all.iter().any(|problem| problem.starts_with("local.toml:2: is not TOML")), "{all:#?}");
    assert!(all.iter().any(|problem| problem.starts_with("local.toml:3: is not TOML")), "{all:#?}");
    assert!(all.iter().any(|problem| problem.contains("RINGCX__LOG__FILTER")), "{all:#?}");
    assert!(!all.iter().any(|problem| problem.contains("accounts")), "{all:#?}");
    assert!(problems("[log]\n[log]\n", &[])[0].contains("duplicate key"));
}

#[test]
fn exactly_one_way_to_log_in_is_accepted_and_the_keys_found_are_named() {
    let accounts = "[[accounts]]\nrc_account_id = 1\nsub_account_id = 2\n";
    let none = problems(&format!("{accounts}[auth]\nclient_id = \"\"\njwt = \"\"\n"), &[]);
    assert!(none[0].starts_with("auth (local.toml") && none[0].contains("configures no login method"), "{none:?}");
    assert!(none[0].contains("client_id, client_secret and jwt"), "{none:?}");

    let text = format!("{accounts}[auth]\nclient_id = \"a\"\nusername = \"b\"\n");
    let several = problems(&text, &[("RINGCX__AUTH__API_TOKEN", "t")]);
    assert_eq!(several.len(), 1, "{several:?}");
    for word in [
        "3 login methods",
        "auth.client_id (line 5)",
        "auth.username (line 6)",
        "auth.api_token (environment variable RINGCX__AUTH__API_TOKEN)",
    ] {
        assert!(several[0].contains(word), "{word}: {several:?}");
    }

    let part = problems(&format!("{accounts}[auth]\nusername = \"b\"\n"), &[]);
    assert!(part[0].contains("auth.password") && part[0].contains("needs username, password, platform_id"), "{part:?}");
    assert!(part[1].contains("auth.platform_id"), "{part:?}");
}

#[test]
fn no_account_at_all_says_what_to_write() {
    for text in ["[auth]\napi_token = \"t\"\n", "accounts = []\n[auth]\napi_token = \"t\"\n"] {
        let all = problems(text, &[]);
        assert!(all.len() == 1 && all[0].contains("accounts: is missing"), "{all:?}");
        assert!(all[0].contains("[[accounts]]") && all[0].contains("[discover_accounts]"), "{all:?}");
    }
    let all = problems("accounts = 5\n[auth]\napi_token = \"t\"\n", &[]);
    assert!(all.len() == 1 && all[0].contains("accounts (local.toml:1): is a list of sections"), "{all:?}");
}

#[test]
fn each_element_of_a_list_has_its_own_problem() {
    let more = "artifacts = [\"x\", \"transcript\", 5]\n[discovery]\nrechecks = [\"1h\", 1,\n \"0s\", \"2 x\"]\n";
    let all = problems(&format!("{MINIMAL}{more}"), &[]);
    let begins = [
        "accounts[0].artifacts[0] (local.toml:7): \"x\" is not a valid value",
        "accounts[0].artifacts[2] (local.toml:7): is not text",
        "discovery.rechecks[1] (local.toml:9): is not a span of time",
        "discovery.rechecks[2] (local.toml:10): \"0s\" must be greater than zero",
        "discovery.rechecks[3] (local.toml:10): \"2 x\" is not a span of time",
    ];
    assert_eq!(all.len(), begins.len(), "{all:#?}");
    assert!(all.iter().zip(begins).all(|(problem, begin)| problem.starts_with(begin)), "{all:#?}");
}

#[test]
fn a_list_is_not_read_as_a_section_nor_a_name_as_a_path() {
    for (section, key) in
        [("http = []", "http"), ("http = [\"127.0.0.1:1\"]", "http"), ("sinks = [[\"a\"]]", "sinks[0]")]
    {
        let all = problems(&format!("{section}\n{MINIMAL}"), &[]);
        assert!(all.len() == 1 && all[0].starts_with(&format!("{key} (local.toml:1): is a section")), "{all:?}");
    }
    let store = "[[sinks]]\nname = \"a\"\ntype = \"object_store\"\nurl = \"s3://x\"\n";
    let problem = problem(&format!("{store}options = {{ \"a.b\" = [1] }}\n"));
    assert!(problem.starts_with("sinks[0].options.a") && problem.contains("is not text"), "{problem}");
}

#[test]
fn white_space_around_a_name_is_ignored() {
    let settings = settings("artifacts = [\" transcript\"]\n[log]\nformat = \" json \"\nfilter = \" debug \"\n", &[]);
    assert_eq!((settings.log.format, settings.log.filter.as_str()), (LogFormat::Json, "debug"));
}

proptest! {
    /// The sample with a random part replaced.
    #[test]
    fn no_file_makes_it_panic_or_fail_without_a_reason(at in 0.0..1.0_f64, cut in 0_usize..40, paste in "[\\PC\n]{0,12}") {
        let sample = sample::complete();
        let chars: Vec<char> = sample.chars().collect();
        let start = (chars.len() as f64 * at) as usize;
        let end = (start + cut).min(chars.len());
        let text: String = chars[..start].iter().copied().chain(paste.chars()).chain(chars[end..].iter().copied()).collect();
        if let Err(errors) = load_text(&text, &[]) {
            prop_assert!(!errors.0.is_empty());
            prop_assert!(!errors.to_string().contains("no cause was recorded"), "{}", errors);
        }
    }

    #[test]
    fn no_variable_makes_it_panic_or_fail_without_a_reason(path in "[A-Z0-9_]{0,20}", index in 0..schema::settings().len(), value in "\\PC{0,12}") {
        let known = schema::settings()[index].path.replace("[]", "__0").replace('.', "__");
        let names = [format!("RINGCX__{path}"), format!("RINGCX__{known}"), format!("RINGCX__{known}_file")];
        for name in names {
            if let Err(errors) = load_text(MINIMAL, &[(&name, &value)]) {
                prop_assert!(!errors.0.is_empty());
                prop_assert!(!errors.to_string().contains("no cause was recorded"), "{}", errors);
            }
        }
    }
}
