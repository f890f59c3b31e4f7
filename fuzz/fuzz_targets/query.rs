//! Parses user input: search queries and times.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringcx_extractor::clock::Time;
use ringcx_extractor::{config, search};

fuzz_target!(|text: &str| {
    match search::query::parse(text) {
        Ok(query) => {
            let mut terms = query.required.iter().chain([&query.excluded]).flatten();
            assert!(!query.required.is_empty() && query.required.iter().all(|any| !any.is_empty()));
            assert!(terms.all(|term| !term.words.is_empty()));
        }
        Err(error) => assert!(error.to_string().contains("hint: ")),
    }
    if let Ok(time) = config::parse_time(text, Time(1_800_000_000_000)) {
        // A parsed time can be formatted and parsed again.
        assert_eq!(config::parse_time(&time.rfc3339(), Time(0)), Ok(time));
    }
});
