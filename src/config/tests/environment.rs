use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;
use crate::model::{Artifact, ArtifactSet};

#[test]
fn a_variable_overrides_the_file_in_the_type_of_its_key() {
    let env = [
        ("RINGCX__LIMITS__REQUESTS_PER_MINUTE", "7"),
        ("ringcx__discovery__window", " 90s "),
        ("RINGCX__Http__Listen", ""),
        ("RINGCX__DATABASE__URL", "sqlite:///var/lib/a.db"),
        ("RINGCX__LOG__FILTER", "debug"),
        ("RINGCX__AUTH__API_TOKEN", "00123"),
        ("UNRELATED__X", "1"),
    ];
    let settings = settings("[limits]\nrequests_per_minute = 50\n[discovery]\nwindow = \"5m\"\n", &env);
    assert_eq!(settings.limits.requests_per_minute.get(), 7);
    assert_eq!(settings.discovery.window, Duration::from_secs(90));
    assert_eq!(settings.http.listen, None);
    assert!(matches!(&settings.database.url, DatabaseUrl::Sqlite(path) if path == Path::new("/var/lib/a.db")));
    assert_eq!(settings.log.filter, "debug");
    assert!(matches!(&settings.auth, Some(Auth::ApiToken { token, .. }) if token.expose_secret() == "00123"));
}

#[test]
fn lists_are_separated_by_commas_or_written_in_toml() {
    let rechecks = |text: &str| settings("", &[("RINGCX__DISCOVERY__RECHECKS", text)]).discovery.rechecks;
    let hours = |hours: &[u64]| hours.iter().map(|hour| Duration::from_secs(hour * 3600)).collect::<Vec<_>>();
    assert_eq!(rechecks("2h, 1h,2h"), hours(&[1, 2]));
    assert_eq!(rechecks(r#" ["3h", '1h'] "#), hours(&[1, 3]));
    assert_eq!(rechecks(""), hours(&[]));
    assert_eq!(rechecks("[]"), hours(&[]));
    let all = problems(MINIMAL, &[("RINGCX__DISCOVERY__RECHECKS", "[1h"), ("RINGCX__FETCH__REVISIT", "1h,x")]);
    assert!(
        all.iter().any(|p| p.contains("RINGCX__DISCOVERY__RECHECKS): is not TOML") && p.contains("one,two")),
        "{all:?}"
    );
    assert!(
        all.iter().any(|p| p.contains("fetch.revisit[1] (environment variable RINGCX__FETCH__REVISIT): \"x\"")),
        "{all:?}"
    );
}

#[test]
fn an_index_reaches_into_the_lists_of_sections() {
    let env = [
        ("RINGCX__ACCOUNTS__0__SUB_ACCOUNT_ID", "00099"),
        ("RINGCX__ACCOUNTS__1__RC_ACCOUNT_ID", "5"),
        ("RINGCX__ACCOUNTS__1__SUB_ACCOUNT_ID", "6"),
        ("RINGCX__ACCOUNTS__1__ARTIFACTS", "transcript"),
        ("RINGCX__SINKS__0__NAME", "a"),
        ("RINGCX__SINKS__0__TYPE", "object_store"),
        ("RINGCX__SINKS__0__URL", "s3://bucket"),
        ("RINGCX__SINKS__0__OPTIONS__AWS_REGION", "eu"),
        ("RINGCX__SINKS__0__REDACT", "card,email"),
    ];
    let settings = settings("", &env);
    let Accounts::Listed(accounts) = &settings.accounts else { panic!("not listed") };
    assert_eq!(accounts.iter().map(|a| a.id.to_string()).collect::<Vec<_>>(), ["1/00099", "5/6"]);
    assert_eq!(accounts[1].policy.wants.artifacts, ArtifactSet::NONE.with(Artifact::Transcript));
    assert!(matches!(settings.sinks[0].redact.as_slice(), [RedactionRule::Card, RedactionRule::Email]));
    let SinkKind::ObjectStore { options, .. } = &settings.sinks[0].kind else { panic!("no object store") };
    assert_eq!(options["aws_region"].expose_secret(), "eu");
}

#[test]
fn a_whole_section_or_list_of_sections_is_written_in_toml_and_comes_before_its_parts() {
    let env = [
        ("RINGCX__ACCOUNTS", r#"[{ rc_account_id = 7, sub_account_id = 8 }]"#),
        ("RINGCX__ACCOUNTS__0__NAME", "Eight"),
        ("RINGCX__LIMITS", "{ requests_per_minute = 9 }"),
    ];
    let settings = settings("", &env);
    let Accounts::Listed(accounts) = &settings.accounts else { panic!("not listed") };
    assert_eq!(accounts.len(), 1);
    assert_eq!((accounts[0].id.to_string().as_str(), accounts[0].name.as_deref()), ("7/8", Some("Eight")));
    assert_eq!(settings.limits.requests_per_minute.get(), 9);
    let env = [("RINGCX__AUTH__API_TOKEN", "t"), ("RINGCX__DISCOVER_ACCOUNTS", "{}")];
    let found = load_from(LoadScope::All, None, vars(&env), &[]).unwrap().settings.accounts;
    assert!(matches!(found, Accounts::Discovered(all) if all.interval == Duration::from_secs(600)));
}

#[test]
fn an_unknown_variable_names_the_nearest_known_one() {
    for (wrong, right) in [
        ("RINGCX__DATABSE__URL", "RINGCX__DATABASE__URL"),
        ("RINGCX__ACCOUNTS__1__SUBACCOUNT_ID", "RINGCX__ACCOUNTS__1__SUB_ACCOUNT_ID"),
        ("RINGCX__AUTH____JWT", "RINGCX__AUTH__JWT"),
        ("RINGCX__REQUESTS_PER_MINUTE", "RINGCX__LIMITS__REQUESTS_PER_MINUTE"),
    ] {
        let all = problems(MINIMAL, &[(wrong, "x")]);
        assert!(
            all.len() == 1 && all[0].contains(&format!("(environment variable {wrong}): is not a known key")),
            "{all:?}"
        );
        assert!(all[0].ends_with(&format!("nearest known key is {right}")), "{all:?}");
    }
}

#[test]
fn an_index_that_leaves_a_gap_or_is_absurd_is_refused() {
    let all = problems(MINIMAL, &[("RINGCX__ACCOUNTS__2__NAME", "x")]);
    assert!(all.iter().any(|problem| problem.starts_with("accounts[1]: is missing")), "{all:?}");
    let all = problems(MINIMAL, &[("RINGCX__ACCOUNTS__99999999999__NAME", "x")]);
    assert!(all.len() == 1 && all[0].contains("too large an index"), "{all:?}");
}

#[test]
fn the_same_setting_by_two_variables_is_refused() {
    let all = problems(MINIMAL, &[("RINGCX__LOG__FILTER", "info"), ("RINGCX__log__filter", "debug")]);
    assert!(all.len() == 1 && all[0].contains("RINGCX__LOG__FILTER sets the same"), "{all:?}");
}

#[test]
fn the_environment_of_this_process_can_be_read() {
    assert!(read_environment().iter().all(|(name, _)| name.to_ascii_uppercase().starts_with("RINGCX")));
}
