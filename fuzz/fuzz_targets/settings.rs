//! Loads settings from a file and the environment. Errors must have a message.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use ringcx_extractor::config;

static SETTINGS_PATH: OnceLock<PathBuf> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let file = SETTINGS_PATH.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        folder.join("local.toml")
    });
    // After a NUL: environment variables, one per line.
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    std::fs::write(file, &data[..end]).expect("a file");
    let variables = String::from_utf8_lossy(&data[end..]).replace('\0', "");
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (format!("RINGCX__{name}"), value.to_owned()));
    if let Err(errors) = config::load(Some(file), variables) {
        assert!(!errors.to_string().trim().is_empty());
    }
});
