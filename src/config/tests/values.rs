use std::time::Duration;

use super::*;
use crate::clock::Time;
use crate::model::{ArtifactSet, DiscoveryStart, SummariesFor};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn what_is_not_given_has_its_documented_default() {
    let LoadedSettings { settings, warnings, .. } = load_text(MINIMAL, &[]).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(settings.api.platform_url, "https://platform.ringcentral.com");
    assert_eq!(settings.api.ringcx_url, "https://ringcx.ringcentral.com");
    assert_eq!(settings.api.summary_url, "https://engage.ringcentral.com");
    assert_eq!(settings.api.request_timeout, secs(30));
    let discovery = Discovery {
        window: secs(900),
        offset: secs(300),
        interval: secs(300),
        max_window: secs(3600),
        start: DiscoveryStart::Now,
        rechecks: vec![secs(3600), secs(86_400), secs(7 * 86_400)],
    };
    assert_eq!(settings.discovery, discovery);
    let limits = settings.limits;
    assert_eq!(limits.scope, LimitScope::SubAccount);
    let numbers = [limits.requests_per_minute, limits.metadata_per_minute, limits.metadata_per_15_minutes];
    assert_eq!(numbers.map(|number| number.get()), [120, 3, 9]);
    assert_eq!(limits.token_exchanges_per_minute.get(), 5);
    let fetch = Fetch {
        concurrency: 8,
        retry_initial: secs(15),
        retry_max: secs(6 * 3600),
        give_up_after: secs(72 * 3600),
        revisit: vec![secs(86_400)],
    };
    assert_eq!(settings.fetch, fetch);
    assert!(
        matches!(&settings.database.url, DatabaseUrl::Sqlite(path) if path == Path::new("data/ringcx-extractor.db"))
    );
    assert!(!settings.database.instance.is_empty());
    assert_eq!(settings.http.listen.as_deref(), Some("127.0.0.1:8480"));
    assert!(settings.http.token.is_none());
    assert_eq!(settings.log, Log { format: LogFormat::Text, filter: "info".to_owned() });
    assert!(settings.sinks.is_empty());
    let Accounts::Listed(accounts) = &settings.accounts else { panic!("not listed") };
    assert_eq!(accounts[0].policy.wants.artifacts, ArtifactSet::TEXTS);
    assert_eq!(accounts[0].policy.wants.summaries_for, SummariesFor::Transcribed);
    assert_eq!((accounts[0].policy.retention, &accounts[0].name), (None, &None));
}

#[test]
fn a_sink_has_its_documented_defaults() {
    let more = "[[sinks]]\nname = \"a\"\ntype = \"jsonl\"\npath = \"out\"\n\
                [[sinks]]\nname = \"b\"\ntype = \"webhook\"\nurl = \"https://x\"\nsecret = \"signs with more than enough\"\n\
                [[sinks]]\nname = \"c\"\ntype = \"object_store\"\nurl = \"file:///out\"\n";
    let settings = settings(more, &[]);
    let sink = &settings.sinks[0];
    assert_eq!((sink.name.as_str(), sink.start, sink.artifacts), ("a", SinkStart::Now, ArtifactSet::TEXTS));
    assert!(sink.accounts.is_empty() && sink.channels.is_empty() && sink.redact.is_empty());
    assert_eq!(sink.give_up_after, secs(7 * 86_400));
    assert!(
        matches!(&sink.kind, SinkKind::Jsonl { path, rotate } if path == Path::new("out") && *rotate == secs(86_400))
    );
    let SinkKind::Webhook(webhook) = &settings.sinks[1].kind else { panic!("no webhook") };
    assert_eq!((webhook.secrets.len(), webhook.timeout, webhook.allow_private), (1, secs(30), false));
    let SinkKind::ObjectStore { url, format, options } = &settings.sinks[2].kind else { panic!("no object store") };
    assert_eq!((url.as_str(), *format, options.len()), ("file:///out", ObjectFormat::Jsonl, 0));
}

#[test]
fn a_start_is_now_a_span_a_time_or_a_date() {
    let start = |text: &str| settings(&format!("[discovery]\nstart = {text}\n"), &[]).discovery.start;
    assert_eq!(start("\"now\""), DiscoveryStart::Now);
    assert_eq!(start("\"24h\""), DiscoveryStart::Back(secs(86_400)));
    let midnight = DiscoveryStart::At(Time::parse("2026-01-02T00:00:00Z").unwrap());
    assert_eq!(start("\"2026-01-02\""), midnight);
    assert_eq!(start("2026-01-02"), midnight);
    assert_eq!(start("2026-01-02T01:00:00+01:00"), midnight);
    assert_eq!(start("\"2026-01-02T01:00:00+01:00\""), midnight);
}

#[test]
fn ids_are_numbers_or_text_and_other_ways_to_log_in_are_read() {
    let text = "[auth]\nusername = \"u\"\npassword = \"p\"\nplatform_id = 12\n\
                [discover_accounts]\ninterval = \"1m\"\nexclude = [5, \"006\"]\nretention = \"30d\"\nsummaries_for = \"agents\"\n";
    let settings = load_text(text, &[]).unwrap().settings;
    assert!(
        matches!(&settings.auth, Some(Auth::Engage { username, platform_id, .. }) if username == "u" && platform_id == "12")
    );
    let Accounts::Discovered(found) = settings.accounts else { panic!("not discovered") };
    assert_eq!(found.exclude.iter().map(String::as_str).collect::<Vec<_>>(), ["006", "5"]);
    assert_eq!((found.interval, found.policy.retention), (secs(60), Some(secs(30 * 86_400))));
    assert_eq!(found.policy.wants.summaries_for, SummariesFor::Agents);
}

#[test]
fn short_and_large_values_are_legal() {
    let more = "[discovery]\nwindow = \"1s\"\noffset = \"1s\"\ninterval = \"1s\"\nmax_window = \"3h\"\nrechecks = []\n\
                [limits]\nrequests_per_minute = 4294967295\nmetadata_per_minute = 1\n[fetch]\nretry_initial = \"1ms\"\n";
    let settings = settings(more, &[]);
    assert_eq!((settings.discovery.window, settings.discovery.max_window), (secs(1), secs(3 * 3600)));
    assert_eq!(settings.limits.requests_per_minute.get(), u32::MAX);
    assert_eq!(settings.fetch.retry_initial, Duration::from_millis(1));
}

#[test]
fn what_the_vendor_does_not_document_warns_and_loads() {
    let more = "[discovery]\noffset = \"10s\"\ninterval = \"30s\"\n[limits]\nrequests_per_minute = 121\n\
                [api]\nringcx_url = \"http://ringcx.example\"\nplatform_url = \"http://127.0.0.1:1\"\n\
                [[sinks]]\nname = \"a\"\ntype = \"jsonl\"\npath = \"out\"\naccounts = [2, 3]\n";
    let file = TestFile::new(&format!("{MINIMAL}{more}"));
    let warnings = file.load(&[("RINGCX__LIMITS__METADATA_PER_MINUTE", "4")]).unwrap().warnings;
    let line = |n: usize| format!("({}:{n})", file.path().display());
    for words in [
        ["discovery.offset", &line(8), "5m"],
        ["discovery.interval", &line(9), "30 metadata requests in 15 min, but the limits allow 9"],
        ["limits.requests_per_minute", &line(11), "120"],
        ["limits.metadata_per_minute", "RINGCX__LIMITS__METADATA_PER_MINUTE", "3"],
        ["api.ringcx_url", &line(13), "unencrypted"],
        ["sinks[0].accounts", "\"3\"", "not a sub_account_id"],
    ] {
        assert!(
            warnings.iter().any(|warning| words.iter().all(|word| warning.contains(word))),
            "{words:?}: {warnings:#?}"
        );
    }
    assert_eq!(warnings.len(), 6, "{warnings:#?}");
}

#[test]
fn short_and_long_spans_load_whatever_the_defaults_of_others_are() {
    let of = |more: &str| {
        let loaded = load_text(&format!("{MINIMAL}{more}"), &[]).unwrap();
        (loaded.settings.discovery, loaded.settings.fetch, loaded.warnings)
    };
    let (discovery, _, warnings) = of("[discovery]\nwindow = \"2h\"\n");
    assert_eq!((discovery.window, discovery.max_window, warnings.len()), (secs(7200), secs(7200), 0));
    let (discovery, _, warnings) = of("[discovery]\nmax_window = \"10m\"\n");
    assert_eq!((discovery.window, discovery.max_window), (secs(600), secs(600)));
    assert!(warnings[0].contains("is wider than max_window, 10m"), "{warnings:?}");
    let (_, fetch, warnings) = of("[fetch]\nretry_max = \"5s\"\n");
    assert_eq!((fetch.retry_initial, fetch.retry_max, warnings.len()), (secs(5), secs(5), 0));
    let (_, fetch, warnings) = of("[fetch]\nretry_initial = \"7h\"\n");
    assert_eq!((fetch.retry_initial, fetch.retry_max, warnings.len()), (secs(25_200), secs(25_200), 0));
    let (_, fetch, warnings) = of("[fetch]\nretry_initial = \"3s\"\nretry_max = \"2s\"\n");
    assert_eq!((fetch.retry_initial, fetch.retry_max, warnings.len()), (secs(3), secs(3), 1));
    let (discovery, ..) = of("[discovery]\noffset = \"500ms\"\ninterval = \"250ms\"\nrechecks = [\"1500ms\"]\n\
                              window = \"1500ms\"\n");
    assert_eq!((discovery.offset, discovery.interval), (Duration::from_millis(500), Duration::from_millis(250)));
    assert_eq!((discovery.rechecks, discovery.window), (vec![Duration::from_millis(1500)], secs(1)));
}
