use super::*;

const ROLES: &str = r#"
[[access.roles]]
name = "emea"
groups = ["cx-emea"]
accounts = ["2"]
may = ["read"]
[access.oidc]
issuer = "https://login.example.com/"
client_id = "archive"
client_secret = "secret"
public_url = "https://calls.example.com/"
"#;

#[test]
fn each_mistake_in_access_is_named_with_what_would_be_right() {
    let key = |fields: &str| format!("{ROLES}[[access.keys]]\nname = \"qa\"\n{fields}");
    let hash = format!("key_hash = \"sha256:{}\"\n", "ab".repeat(32));
    let table: &[(String, &[&str])] = &[
        (
            "[access]\nlog_retentoin = \"1y\"".into(),
            &["access.log_retentoin (local.toml:8): is not a known key", "access.log_retention"],
        ),
        ("[[access.role]]\nname = \"x\"".into(), &["access.role (local.toml:7)", "nearest known key is access.roles"]),
        (
            "[[access.roles]]\nname = \"x\"".into(),
            &["access.roles[0].may", "is missing: the role would permit nothing", "[\"read\"]"],
        ),
        ("[[access.roles]]\nname = \"x\"\nmay = []".into(), &["is empty: the role would permit nothing"]),
        (
            "[[access.roles]]\nname = \"x\"\nmay = [\"read\", \"write\"]".into(),
            &["access.roles[0].may[1] (local.toml:9): \"write\" is not a valid value", "\"erase\""],
        ),
        ("[[access.roles]]\nmay = [\"read\"]".into(), &["access.roles[0].name", "is missing"]),
        (
            format!("{ROLES}[[access.roles]]\nname = \"emea\"\nmay = [\"read\"]"),
            &["\"emea\" is also used by access.roles[0]"],
        ),
        (
            "[[access.roles]]\nname = \"x\"\nmay = [\"read\"]\nredact = [\"cards\"]".into(),
            &["access.roles[0].redact[0]", "\"cards\" is not a valid value"],
        ),
        (key("role = \"emea\""), &["access.keys[0].key_hash", "is missing", "access new-key"]),
        (
            key("key_hash = \"rcx_secret\"\nrole = \"emea\""),
            &["access.keys[0].key_hash", "does not begin with sha256:"],
        ),
        (key("key_hash = \"sha256:abc\"\nrole = \"emea\""), &["does not have 64 hexadecimal digits"]),
        (
            key(&format!("{hash}role = \"emae\"")),
            &["access.keys[0].role", "\"emae\" is not the name of a role", "nearest role is \"emea\""],
        ),
        (
            key(&format!("{hash}role = \"emea\"\nexpires = \"90d\"")),
            &["access.keys[0].expires", "\"90d\" is not a date", "2027-06-30"],
        ),
        (
            key(&format!("{hash}role = \"emea\"\n[[access.keys]]\nname = \"two\"\nrole = \"emea\"\n{hash}")),
            &["access.keys[1].key_hash", "is also used by access.keys[0]"],
        ),
        (
            ROLES.replace("client_secret = \"secret\"\n", ""),
            &["access.oidc.client_secret", "is missing", "copy it from the application"],
        ),
        (
            ROLES.replace("https://login.example.com/", "login.example.com"),
            &["access.oidc.issuer", "is not a URL", "https://login.example.com"],
        ),
        (
            ROLES.replace("client_id = \"archive\"", "client_id = \"archive\"\nscopes = [\"a b\"]"),
            &["access.oidc.scopes", "contains white space"],
        ),
    ];
    for (text, expected) in table {
        let said = problem(text);
        for part in *expected {
            assert!(said.contains(part), "{text}\nsays: {said}\nnot: {part}");
        }
        assert!(!said.contains("rcx_secret"), "a key is not quoted: {said}");
    }
}

#[test]
fn the_issuer_stays_letter_by_letter_and_the_public_url_loses_its_slash() {
    let access = settings(ROLES, &[]).access;
    let oidc = access.oidc.unwrap();
    assert_eq!(
        (oidc.issuer.as_str(), oidc.public_url.as_str()),
        ("https://login.example.com/", "https://calls.example.com")
    );
    assert_eq!((oidc.groups_claim.as_str(), oidc.scopes.join(" ").as_str()), ("groups", "email profile"));
    assert_eq!(access.log_retention, std::time::Duration::from_secs(7 * 31_557_600));
    let variables = [("RINGCX__ACCESS__ROLES__0__MAY", "read,log"), ("RINGCX__ACCESS__OIDC__GROUPS_CLAIM", "roles")];
    let access = settings(ROLES, &variables).access;
    assert_eq!(access.roles[0].may, [Permission::Read, Permission::Log].into());
    assert_eq!(access.oidc.unwrap().groups_claim, "roles");
}

#[test]
fn settings_that_let_nobody_in_are_warned_about() {
    let warnings = |text: &str| load_text(&format!("{MINIMAL}{text}"), &[]).unwrap().warnings;
    assert_eq!(warnings(ROLES), Vec::<String>::new());
    for (text, expected) in [
        (ROLES.replace("groups = [\"cx-emea\"]\n", ""), "lets nobody in"),
        (ROLES.split("[access.oidc]").next().unwrap().to_owned(), "without [access.oidc] nobody can log in"),
        (ROLES.replace("accounts = [\"2\"]", "accounts = [\"3\"]"), "\"3\" is not a sub_account_id"),
        (ROLES.replace("https://calls", "http://calls"), "sent unencrypted"),
        (format!("{ROLES}[[access.roles]]\nname = \"idle\"\nmay = [\"read\"]"), "is nobody's role"),
    ] {
        let said = warnings(&text).join("\n");
        assert!(said.contains(expected), "{text}\nwarns: {said}");
    }
}
