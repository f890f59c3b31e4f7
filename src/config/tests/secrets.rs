use secrecy::ExposeSecret;

use super::*;

const ACCOUNT: &str = "[[accounts]]\nrc_account_id = 1\nsub_account_id = 2\n";

fn token(settings: &Settings) -> &str {
    match &settings.auth {
        Some(Auth::ApiToken { token, .. }) => token.expose_secret(),
        _ => panic!("another way to log in"),
    }
}

#[test]
fn a_secret_is_read_from_its_file_without_one_newline() {
    let file = TestFile::new(ACCOUNT);
    for (content, secret) in [("00123\n", "00123"), ("a\r\n", "a"), ("a b", "a b"), (" a \n", " a ")] {
        let path = file.write_sibling("secret", content);
        let settings = file.load(&[("RINGCX__AUTH__API_TOKEN_FILE", &path)]).unwrap().settings;
        assert_eq!(token(&settings), secret, "{content:?}");
    }
}

#[test]
fn a_file_that_holds_no_secret_says_so_without_its_content() {
    let file = TestFile::new(ACCOUNT);
    for (content, why) in [("", "it is empty"), ("\n", "it is empty"), ("hunter2\nhunter3\n", "contains a line break")]
    {
        let path = file.write_sibling("secret", content);
        let errors = file.load(&[("RINGCX__AUTH__API_TOKEN_FILE", &path)]).unwrap_err();
        let text = errors.to_string();
        assert_eq!(errors.0.len(), 1, "{text}");
        assert!(text.contains(why) && text.contains("RINGCX__AUTH__API_TOKEN_FILE"), "{text}");
        assert!(!text.contains("hunter"), "{text}");
    }
    let errors = file.load(&[("RINGCX__AUTH__API_TOKEN_FILE", "/nowhere/secret")]).unwrap_err();
    assert_eq!(errors.0.len(), 1);
    assert!(errors.to_string().contains("auth.api_token_file") && errors.to_string().contains("/nowhere/secret"));
    let errors = file.load(&[("RINGCX__AUTH__API_TOKEN_FILE", "/dev/zero")]).unwrap_err();
    assert!(errors.to_string().contains("larger than 1 MiB"));
}

#[test]
fn a_secret_and_its_file_from_one_source_contradict_each_other() {
    let all = problems(&format!("{ACCOUNT}[auth]\napi_token = \"hunter2\"\napi_token_file = \"x\"\n"), &[]);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with("auth.api_token_file (local.toml:6): is set together with auth.api_token"), "{all:?}");
    let all = problems(ACCOUNT, &[("RINGCX__AUTH__API_TOKEN", "hunter2"), ("RINGCX__AUTH__API_TOKEN_FILE", "x")]);
    assert!(all.len() == 1 && all[0].contains("is set together with auth.api_token"), "{all:?}");
}

#[test]
fn the_environment_overrides_a_secret_whichever_form_the_file_has() {
    let file = TestFile::new(&format!("{ACCOUNT}[auth]\napi_token_file = \"/nowhere\"\n"));
    assert_eq!(token(&file.load(&[("RINGCX__AUTH__API_TOKEN", "mine")]).unwrap().settings), "mine");
    let file = TestFile::new(&format!("{ACCOUNT}[auth]\napi_token = \"theirs\"\n"));
    let path = file.write_sibling("secret", "mine\n");
    assert_eq!(token(&file.load(&[("RINGCX__AUTH__API_TOKEN_FILE", &path)]).unwrap().settings), "mine");
    // An empty value, as in the sample, counts as not set.
    let file = TestFile::new(&format!("{ACCOUNT}[auth]\napi_token = \"\"\napi_token_file = \"{path}\"\n"));
    assert_eq!(token(&file.load(&[]).unwrap().settings), "mine");
}

#[test]
fn credentials_are_read_again_from_their_files() {
    let file = TestFile::new("");
    let (secret, jwt) = (file.write_sibling("secret", "s1\n"), file.write_sibling("jwt", "j1\n"));
    let text = format!("{ACCOUNT}[auth]\nclient_id = \"a\"\nclient_secret_file = \"{secret}\"\njwt_file = \"{jwt}\"\n");
    let auth = load_text(&text, &[]).unwrap().settings.auth.unwrap();
    file.write_sibling("jwt", "j2\n");
    let Auth::RingCentral { client_id, client_secret, jwt: token, .. } = auth.reload_secrets().unwrap() else {
        panic!("another way to log in")
    };
    assert_eq!((client_id.as_str(), client_secret.expose_secret(), token.expose_secret()), ("a", "s1", "j2"));
    std::fs::remove_file(&jwt).unwrap();
    let error = auth.reload_secrets().unwrap_err().to_string();
    assert!(error.contains("auth.jwt_file") && error.contains("failed to read"), "{error}");

    let plain = load_text(MINIMAL, &[]).unwrap().settings.auth.unwrap();
    assert!(
        matches!(plain.reload_secrets().unwrap(), Auth::ApiToken { token, .. } if token.expose_secret() == "token")
    );
}

#[test]
fn a_database_url_that_is_read_again_is_checked_like_the_first() {
    let file = TestFile::new("");
    let path = file.write_sibling("url", "postgres://a:one@host/db\n");
    let database = settings(&format!("[database]\nurl_file = \"{path}\"\n"), &[]).database;
    file.write_sibling("url", "postgres://a:two@host/db\n");
    let url = database.reload_url().unwrap().unwrap();
    assert_eq!(url.expose_secret(), "postgres://a:two@host/db");
    for (content, why) in [
        ("", "it is empty"),
        ("hunter2\n", "names an unknown kind of database"),
        ("https://a:hunter2@host/db\n", "names an unknown kind of database"),
        ("sqlite:hunter2.db\n", "no longer contains a Postgres URL"),
    ] {
        file.write_sibling("url", content);
        let error = database.reload_url().unwrap_err().to_string();
        assert!(error.contains("database.url_file") && error.contains(why), "{error}");
        assert!(!error.contains("hunter"), "{error}");
    }
    let plain = settings("[database]\nurl = \"postgres://a:b@host/db\"\n", &[]).database;
    assert_eq!(plain.reload_url().unwrap().unwrap().expose_secret(), "postgres://a:b@host/db");
}

#[test]
fn a_webhook_that_does_not_sign_its_requests_warns() {
    let sink = "[[sinks]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"https://x/hook\"\nheaders = { X-Key = \"k\" }\n";
    let warnings = load_text(&format!("{MINIMAL}{sink}"), &[]).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("has no secret: its requests are not signed"), "{warnings:?}");
}

#[test]
fn the_database_is_one_word_of_a_shell_command_without_its_password() {
    let word = |database: &str| settings(&format!("[database]\n{database}\n"), &[]).database.shell_url();
    let file = TestFile::new("");
    let path = file.write_sibling("it's", "postgres://a:hunter2@host/db\n");
    let quoted = path.replace('\'', r"'\''");
    assert_eq!(word(&format!("url_file = \"{path}\"")), (format!("\"$(cat '{quoted}')\""), ""));
    assert_eq!(word("url = \"postgres://a@host/it's\""), (r"'postgres://a@host/it'\''s'".to_owned(), ""));
    let (variable, note) = word("url = \"postgres://a:hunter2@host/db\"");
    assert_eq!(variable, "\"$DATABASE_URL\"");
    assert!(note.contains("database.url"), "{note}");
}

#[test]
fn secrets_of_sinks_come_from_files_too() {
    let file = TestFile::new("");
    let (both, key) = (
        file.write_sibling("both", "new new new new new new new\n\nold old old old old old old\n"),
        file.write_sibling("key", "-----BEGIN\nkey\n-----END\n"),
    );
    let sinks = format!(
        "{MINIMAL}[[sinks]]\nname = \"a\"\ntype = \"webhook\"\nurl = \"https://x/hook\"\nsecrets_file = \"{both}\"\n\
         [[sinks]]\nname = \"b\"\ntype = \"object_store\"\nurl = \"gs://x\"\n[sinks.options]\nGoogle_Service_Account_Key_File = \"{key}\"\n\
         aws_web_identity_token_file = \"/stays/a/path\"\ntimeout = 5\nallow_http = true\nempty = \"\"\n"
    );
    let settings = load_text(&sinks, &[]).unwrap_or_else(|errors| panic!("{errors}")).settings;
    let SinkKind::Webhook(webhook) = &settings.sinks[0].kind else { panic!("no webhook") };
    let (secrets, url) = (&webhook.secrets, &webhook.url);
    assert_eq!(
        secrets.iter().map(ExposeSecret::expose_secret).collect::<Vec<_>>(),
        ["new new new new new new new", "old old old old old old old"]
    );
    assert_eq!(url.expose_secret(), "https://x/hook");
    let SinkKind::ObjectStore { options, .. } = &settings.sinks[1].kind else { panic!("no object store") };
    let options: Vec<(&str, &str)> = options.iter().map(|(k, v)| (k.as_str(), v.expose_secret())).collect();
    assert_eq!(
        options,
        [
            ("allow_http", "true"),
            ("aws_web_identity_token_file", "/stays/a/path"),
            ("google_service_account_key", "-----BEGIN\nkey\n-----END"),
            ("timeout", "5"),
        ]
    );
}

/// Every secret is `hunter2`, so that it is found wherever it leaks.
const SECRETIVE: &str = r#"
[auth]
client_id = "id"
client_secret = "hunter2"
jwt = "hunter2"
[[accounts]]
rc_account_id = "1"
sub_account_id = "2"
[database]
url = "postgres://user:hunter2@host/database"
[http]
token = "hunter2"
[[sinks]]
name = "hook"
type = "webhook"
url = "https://host/hunter2"
secrets = ["hunter2 hunter2 hunter2 hunter2", "whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg=="]
[[sinks]]
name = "store"
type = "object_store"
url = "s3://bucket"
options = { aws_secret_access_key = "hunter2" }
"#;

#[test]
fn no_secret_is_in_the_debug_output_of_what_was_loaded() {
    let debug = format!("{:#?}", load_text(SECRETIVE, &[]).unwrap_or_else(|errors| panic!("{errors}")));
    assert!(debug.contains("bucket"));
    assert!(!debug.contains("hunter2") && !debug.contains("aHVudGVyMg"), "{debug}");
}

#[test]
fn no_secret_is_in_an_error_whatever_is_wrong_with_it() {
    let broken = [
        (r#"url = "postgres://user:hunter2@host/database""#, r#"url = "mysql://user:hunter2@host""#),
        (r#"url = "postgres://user:hunter2@host/database""#, r#"url = "postgres://user:hunter2@host:hunter2/x""#),
        (r#"url = "postgres://user:hunter2@host/database""#, r#"url = "sqlite:hunter2?x""#),
        (r#"url = "https://host/hunter2""#, r#"url = "ftp://host/hunter2""#),
        (r#"url = "https://host/hunter2""#, r#"url = "https://[hunter2""#),
        (r#"url = "s3://bucket""#, r#"url = "s3://key:hunter2@bucket""#),
        (r#"jwt = "hunter2""#, r#"jwt = hunter2"#),
        (r#"jwt = "hunter2""#, r#"jwt = "hunter2"#),
        (r#"jwt = "hunter2""#, "jwt = \"hunter2\\nhunter2\""),
        (r#"jwt = "hunter2""#, r#"jwt = ["hunter2"]"#),
        (r#"jwt = "hunter2""#, r#"jwtt = "hunter2""#),
        (r#"jwt = "hunter2""#, "jwt = \"hunter2\"\npassword = \"hunter2\""),
        (r#""whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==""#, r#""whsec_hunter2!""#),
        (r#""whsec_aHVudGVyMi1odW50ZXIyLWh1bnRlcjItaHVudGVyMg==""#, r#"["hunter2"]"#),
        (r#"options = { aws_secret_access_key = "hunter2" }"#, r#"options = "hunter2""#),
        (r#"options = { aws_secret_access_key = "hunter2" }"#, r#"options = { aws_secret_access_key = ["hunter2"] }"#),
        ("[http]\ntoken = \"hunter2\"", "http = \"hunter2\""),
        ("[http]\ntoken = \"hunter2\"", "[http]\ntoken = { hunter = \"hunter2\" }"),
    ];
    for (from, to) in broken {
        let text = SECRETIVE.replace(from, to);
        assert_ne!(text, SECRETIVE, "{from}");
        let errors = load_text(&text, &[]).unwrap_err();
        assert!(!errors.to_string().contains("hunter2"), "{to}:\n{errors}");
        assert!(!format!("{errors:?}").contains("hunter2"), "{to}:\n{errors:?}");
    }
    let kept_open =
        ["RINGCX__SINKS__0__SECRETS", "RINGCX__SINKS", "RINGCX__AUTH", "RINGCX__SINKS__1__OPTIONS", "RINGCX__JWT"];
    for name in kept_open {
        let errors = load_text(SECRETIVE, &[(name, "[hunter2")]).unwrap_err();
        assert!(errors.to_string().contains(name), "{errors}");
        assert!(!errors.to_string().contains("hunter2"), "{name}:\n{errors}");
    }
}

#[test]
fn who_only_reads_the_archive_needs_no_secret_but_the_databases() {
    let load = |text: &str| {
        let file = TestFile::new(text);
        load_from(LoadScope::Archive, Some(&file.path()), vars(&[]), &[])
    };
    let text = "[auth]\nclient_id = \"a\"\nclient_secret_file = \"/nowhere/secret\"\njwt_file = \"/nowhere/jwt\"\n\
                [[sinks]]\nname = \"hook\"\ntype = \"webhook\"\nurl = \"https://example.org\"\nsecret_file = \"/nowhere/secret\"\n";
    let settings = load(text).unwrap().settings;
    assert!(settings.auth.is_none() && settings.sinks.is_empty());
    assert!(settings.unreadable_sinks.contains("hook"));
    assert!(load("[database]\nurl = \"sqlite:a.db\"\n").is_ok());
    for wrong in [
        "[auth]\napi_token = \"a\"\njwt = \"b\"\n",
        "[database]\nurl_file = \"/nowhere/url\"\n",
        "[discovery]\nwindw = \"4s\"\n",
    ] {
        assert!(load(wrong).is_err(), "{wrong}");
    }
}
