//! Typed settings, from a TOML file and from the environment.
//!
//! Reads the file, the files of secrets, and the host name; nothing else. Guarantees that loaded
//! settings are complete and valid. Otherwise it reports all problems at once, each with its key,
//! its line or environment variable, and a hint. No secret appears in a message or in `Debug`
//! output.
//!
//! The `config` crate reads and merges the file (`file_source`) and the variables
//! (`env_source`). serde deserializes the result (`settings_document`); `sections` validates
//! it. The JSON Schema of the same types ([`schema`]) has the known keys and the type of each.

mod checker;
mod config_error;
mod env_source;
mod file_source;
pub mod schema;
mod secret;
mod sections;
mod setting_types;
mod settings;
mod settings_document;
#[cfg(test)]
mod tests;
mod time_parse;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ::config::{Config, File, Source};

use checker::Checker;
pub(crate) use checker::LoadScope;
use file_source::LinedToml;

pub use config_error::{ConfigError, ConfigErrors, SettingLocation};
pub use sections::signing_key;
pub(crate) use settings::{
    Access, AccountPolicy, AccountSettings, Accounts, Auth, DailyReport, DiscoverAccounts, Http, KeySettings,
    LimitScope, Log, LogFormat, Oidc, Permission, ReportFormat, RoleSettings,
};
pub use settings::{
    Database, DatabaseUrl, LakeCatalog, LakeSettings, LakeTable, Limits, OauthSettings, ObjectFormat, RedactionRule,
    Settings, Sink, SinkErasures, SinkKind, SinkStart, WebhookMethod, WebhookSettings, WebhookUnit,
};
#[cfg(test)]
use settings::{Discovery, Fetch};
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
    load_for(LoadScope::All, cli_path, env)
}

/// As [`load`], for this scope.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_for(
    scope: LoadScope,
    cli_path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<LoadedSettings, ConfigErrors> {
    load_from(scope, cli_path, env, &file_source::DEFAULT_PATHS.map(PathBuf::from))
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
    scope: LoadScope,
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
    let variables = env_source::read_variables(&variables, &mut problems);
    let mut builder = Config::builder();
    if let (Some(path), Some(text)) = (&file, &text) {
        let source = File::from_str(text, LinedToml(path.clone()));
        match source.collect() {
            Ok(table) => {
                schema::check_keys(&table.into(), "", schema::json_schema(), Some(path), &mut problems);
            }
            // The rest would cause misleading problems.
            Err(::config::ConfigError::FileParse { cause, .. }) => {
                problems.extend(cause.downcast::<ConfigErrors>().map_or_else(|_| Vec::new(), |errors| errors.0));
                return Err(sort_problems(problems));
            }
            Err(_) => return Err(unexplained_failure(file).into()),
        }
        builder = builder.add_source(source);
    }
    // One after the other, because later ones may set a part of what earlier ones set as a whole.
    let merged = variables.into_iter().try_fold(builder.build(), |merged, (path, value)| {
        Ok::<_, ::config::ConfigError>(Config::builder().add_source(merged?).set_override(path, value)?.build())
    });
    let Ok(Ok(merged)) = merged else { return Err(unexplained_failure(file).into()) };

    let mut checker = Checker {
        scope,
        merged: &merged.cache,
        file: file.as_deref(),
        problems,
        warnings: Vec::new(),
        unreadable: BTreeSet::new(),
    };
    let settings =
        merged.clone().try_deserialize().ok().and_then(|tree| settings_document::read_document(tree, &mut checker));
    let settings = settings.and_then(|document| sections::build_settings(document, &mut checker));
    let Checker { problems, warnings, .. } = checker;
    match settings {
        Some(settings) if problems.is_empty() => Ok(LoadedSettings { settings, warnings, file }),
        None if problems.is_empty() => Err(unexplained_failure(file).into()),
        _ => Err(sort_problems(problems)),
    }
}

/// Reports a validation that failed without a recorded problem, which would be a bug.
fn unexplained_failure(file: Option<PathBuf>) -> ConfigError {
    let hint = "report this bug with the settings, but without their secrets";
    ConfigError::new("", file.map(SettingLocation::File), "cannot be used, but no cause was recorded", hint)
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
    let what = format!(
        "no configuration was found: no --config, no ${}, no {}, and no environment variable {}…",
        env_source::FILE_VARIABLE,
        paths.join(", no "),
        env_source::VARIABLE_PREFIX
    );
    let first = paths.first().map_or("a file", String::as_str);
    ConfigError::new("", None, what, &format!("copy config/sample.toml to {first} and fill it in"))
}
