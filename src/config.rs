//! Typed settings, from a TOML file and from the environment.
//!
//! Reads the file, the files of secrets, and the host name; nothing else. Guarantees that loaded
//! settings are complete and valid. Otherwise it reports all problems at once, each with its key,
//! its line or environment variable, and a hint. No secret appears in a message or in `Debug`
//! output.
//!
//! The file and each environment variable become layers of the `config` crate, restricted to the
//! known keys of [`schema`]. The merged layers are then parsed and validated section by section.

mod config_error;
mod env_source;
mod file_source;
pub mod schema;
mod secret_file;
mod sections;
mod settings;
mod settings_reader;
#[cfg(test)]
mod tests;
mod time_parse;

use std::path::{Path, PathBuf};

pub use config_error::{ConfigError, ConfigErrors, SettingLocation};
pub use sections::signing_key;
pub use settings::{
    AccountPolicy, AccountSettings, Accounts, ApiSettings, Auth, Database, DatabaseUrl, DiscoverAccounts, Discovery,
    DiscoveryStart, Fetch, Http, LimitScope, Limits, Log, LogFormat, ObjectFormat, RedactionRule, SecretFiles,
    Settings, Sink, SinkKind, SinkStart,
};
pub use time_parse::parse_time;

/// The result of loading the settings.
#[derive(Debug, Clone)]
pub struct LoadedSettings {
    /// The settings.
    pub settings: Settings,
    /// Warnings about valid but unusual settings, one sentence each.
    pub(crate) warnings: Vec<String>,
    /// The file that was read; `None` if all settings came from the environment.
    pub(crate) file: Option<PathBuf>,
}

/// Loads the settings: from the file at `cli_path`, else at `$RINGCX_CONFIG`, else
/// `./config/local.toml`, else `/etc/ringcx-extractor/config.toml`, overridden by variables of
/// `env` that begin with `RINGCX__`.
///
/// # Errors
/// Returns all problems at once. Without a file, the settings may come from the environment alone.
/// Without either, the error lists the paths of the missing file.
pub fn load(
    cli_path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedSettings, ConfigErrors> {
    load_from(cli_path, env, &file_source::DEFAULT_PATHS.map(PathBuf::from))
}

/// Reads the environment for [`load`]. `std::env::vars` would panic at a variable that is not
/// Unicode. Such a variable is decoded lossily if it is a setting, and ignored otherwise.
pub(crate) fn read_environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    variables
        .filter(|(name, _)| env_source::is_setting(name) || name == env_source::FILE_VARIABLE)
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

fn load_from(
    cli_path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    default_paths: &[PathBuf],
) -> Result<LoadedSettings, ConfigErrors> {
    let mut variables: Vec<(String, String)> = env.into_iter().collect();
    variables.sort_unstable();
    let named = variables.iter().find(|(name, _)| name == env_source::FILE_VARIABLE).map(|(_, path)| path.as_str());
    let named = named.filter(|path| !path.is_empty());
    let file = file_source::find_file(cli_path, named, default_paths);
    if file.is_none() && !variables.iter().any(|(name, _)| env_source::is_setting(name)) {
        return Err(no_configuration(default_paths).into());
    }
    let named_by = if cli_path.is_some() { Some("--config") } else { named.map(|_| env_source::FILE_VARIABLE) };
    let text = file.as_deref().map(|path| file_source::read_file(path, named_by)).transpose()?;

    let mut problems = Vec::new();
    let mut builder = ::config::Config::builder();
    if let (Some(file), Some(text)) = (&file, &text) {
        match file_source::parse_file(text, file, &mut problems) {
            Some(layer) => builder = builder.add_source(layer),
            None => {
                env_source::build_layers(&variables, &mut problems);
                return Err(ConfigErrors(problems));
            }
        }
    }
    for layer in env_source::build_layers(&variables, &mut problems) {
        builder = builder.add_source(layer);
    }
    // The messages of the `config` crate may quote values, so they are dropped. No such error is
    // known for these layers.
    let merged = builder.build().map_err(|_| ConfigError {
        key: String::new(),
        location: file.clone().map(SettingLocation::File),
        what: "failed to merge the file with the environment".to_owned(),
        hint: "look for a variable that sets a part of a value that the file sets as a whole".to_owned(),
    })?;

    let mut reader = settings_reader::SettingsReader::new(&merged.cache, file.as_deref(), problems);
    match (sections::read_settings(&mut reader), reader.problems) {
        (Some(settings), problems) if problems.is_empty() => {
            Ok(LoadedSettings { settings, warnings: reader.warnings, file })
        }
        (None, problems) if problems.is_empty() => Err(unexplained_failure(file).into()),
        (_, problems) => Err(sort_problems(problems)),
    }
}

/// Reports a validation that failed without a recorded problem, which would be a bug.
fn unexplained_failure(file: Option<PathBuf>) -> ConfigError {
    ConfigError {
        key: String::new(),
        location: file.map(SettingLocation::File),
        what: "cannot be used, but no cause was recorded".to_owned(),
        hint: "report this bug with the settings, but without their secrets".to_owned(),
    }
}

/// Sorts the problems of the file by line, and puts the others last.
fn sort_problems(mut problems: Vec<ConfigError>) -> ConfigErrors {
    problems.sort_by_key(|problem| match problem.location {
        Some(SettingLocation::Line(_, line)) => line,
        _ => usize::MAX,
    });
    ConfigErrors(problems)
}

fn no_configuration(default_paths: &[PathBuf]) -> ConfigError {
    let paths: Vec<String> = default_paths.iter().map(|path| path.display().to_string()).collect();
    ConfigError {
        key: String::new(),
        location: None,
        what: format!(
            "no configuration was found: no --config, no ${}, no {}, and no environment variable {}…",
            env_source::FILE_VARIABLE,
            paths.join(", no "),
            env_source::VARIABLE_PREFIX
        ),
        hint: format!("copy config/sample.toml to {} and fill it in", paths.first().map_or("a file", String::as_str)),
    }
}
