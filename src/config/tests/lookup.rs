use super::*;

fn write(folder: &TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, MINIMAL).unwrap();
    path
}

#[test]
fn the_command_line_comes_before_the_variable_and_that_before_the_usual_places() {
    let folder = tempfile::tempdir().unwrap();
    let [cli, named, first, second] = ["cli", "named", "first", "second"].map(|name| write(&folder, name));
    let paths = [first.clone(), second.clone()];
    let env = vars(&[("RINGCX_CONFIG", named.to_str().unwrap())]);
    let file = |cli: Option<&Path>, env: &[(String, String)]| {
        load_from(LoadScope::All, cli, env.to_vec(), &paths).unwrap().file.unwrap()
    };
    assert_eq!(file(Some(&cli), &env), cli);
    assert_eq!(file(None, &env), named);
    assert_eq!(file(None, &vars(&[("RINGCX_CONFIG", "")])), first);
    assert_eq!(file(None, &[]), first);
    std::fs::remove_file(&first).unwrap();
    assert_eq!(file(None, &[]), second);
}

#[test]
fn the_usual_places_are_those_that_are_promised() {
    assert_eq!(file_source::DEFAULT_PATHS, ["config/local.toml", "/etc/ringcx-extractor/config.toml"]);
}

#[test]
fn a_named_file_that_is_not_there_is_an_error_even_if_a_usual_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [write(&folder, "first")];
    let absent = folder.path().join("absent.toml");
    let error = load_from(LoadScope::All, Some(&absent), [], &paths).unwrap_err().to_string();
    assert!(error.contains("failed to read") && error.contains("absent.toml") && error.contains("--config"), "{error}");
    let env = vars(&[("RINGCX_CONFIG", absent.to_str().unwrap())]);
    let error = load_from(LoadScope::All, None, env, &paths).unwrap_err().to_string();
    assert!(error.contains("absent.toml") && error.contains("RINGCX_CONFIG names it"), "{error}");
}

#[test]
fn without_anything_the_error_says_where_it_looked_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [folder.path().join("local.toml"), folder.path().join("etc.toml")];
    let error = load_from(LoadScope::All, None, vars(&[("HOME", "/root"), ("RINGCX_OTHER", "1")]), &paths)
        .unwrap_err()
        .to_string();
    for word in ["local.toml", "etc.toml", "RINGCX_CONFIG", "RINGCX__", "--config", "config/sample.toml"] {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn the_environment_alone_is_enough() {
    let env = [
        ("RINGCX__AUTH__API_TOKEN", "token"),
        ("RINGCX__ACCOUNTS__0__RC_ACCOUNT_ID", "1"),
        ("RINGCX__ACCOUNTS__0__SUB_ACCOUNT_ID", "2"),
    ];
    let loaded = load_from(LoadScope::All, None, vars(&env), &[]).unwrap();
    assert_eq!(loaded.file, None);
    assert!(matches!(&loaded.settings.accounts, Accounts::Listed(all) if all.len() == 1));
    let error = load_from(LoadScope::All, None, vars(&env[1..]), &[]).unwrap_err().to_string();
    assert!(error.contains("auth: configures no login method"), "{error}");
}

#[test]
fn a_folder_and_a_file_that_is_no_text_are_refused() {
    let file = TestFile::new("");
    std::fs::write(file.path(), [0xff, 0xfe, 0]).unwrap();
    assert!(file.load(&[]).unwrap_err().to_string().contains("not UTF-8"));
    let folder = file.folder.path().to_path_buf();
    assert!(load_from(LoadScope::All, None, [], &[folder]).unwrap_err().to_string().contains("failed to read"));
}
