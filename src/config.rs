//! Typed settings, from a TOML file and from the environment.
//!
//! Reads the file, the files that secrets stand in, and the host name; touches nothing else. Guarantees that settings
//! which load are complete and make sense, and that otherwise every problem is reported at once, each with its key, its
//! line or environment variable, and what would be right; and that no secret is ever in a message or in `Debug` output.
//!
//! The file is followed along the table of known keys ([`schema`]) into a layer for the `config` crate, each
//! environment variable likewise; what that crate merges is read, typed and checked section by section.

mod env;
mod parse;
mod problem;
mod reader;
pub mod schema;
mod secret;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod when;

use std::path::{Path, PathBuf};

pub use parse::signing_key;
pub use problem::{ConfigError, ConfigErrors, Place};
pub use settings::{
    Account, AccountPolicy, Accounts, Api, Auth, Database, DatabaseUrl, DiscoverAccounts, Discovery, Fetch, Http,
    LimitScope, Limits, Log, LogFormat, ObjectFormat, Redact, SecretFiles, Settings, Sink, SinkKind, SinkStart, Start,
};
pub use when::parse_when;

/// What loading gave.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// What is allowed and yet worth saying, one sentence each.
    pub warnings: Vec<String>,
    /// The file that was read; `None` where all came from the environment.
    pub file: Option<PathBuf>,
}

/// Loads the settings: from the file at `cli_path`, else at `$RINGCX_CONFIG`, else `./config/local.toml`, else
/// `/etc/ringcx-extractor/config.toml`, overridden by variables of `env` that begin with `RINGCX__`.
///
/// # Errors
/// Everything that is wrong, at once. Without any file, settings may come from the environment alone; without either,
/// the error says where the file was looked for.
pub fn load(cli_path: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, ConfigErrors> {
    load_from(cli_path, env, &source::PLACES.map(PathBuf::from))
}

/// The environment for [`load`]. `std::env::vars` would panic where any variable is not Unicode; of such ones, those
/// that are settings are kept with what is wrong in them replaced, the others left out.
pub fn environment() -> Vec<(String, String)> {
    let variables = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
    variables
        .filter(|(name, _)| env::is_setting(name) || name == env::FILE)
        .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
        .collect()
}

fn load_from(
    cli_path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    places: &[PathBuf],
) -> Result<Loaded, ConfigErrors> {
    let mut variables: Vec<(String, String)> = env.into_iter().collect();
    variables.sort_unstable();
    let named = variables.iter().find(|(name, _)| name == env::FILE).map(|(_, path)| path.as_str());
    let named = named.filter(|path| !path.is_empty());
    let file = source::find(cli_path, named, places);
    if file.is_none() && !variables.iter().any(|(name, _)| env::is_setting(name)) {
        return Err(nothing(places).into());
    }
    let named_by = if cli_path.is_some() { Some("--config") } else { named.map(|_| env::FILE) };
    let text = file.as_deref().map(|path| source::read(path, named_by)).transpose()?;

    let mut problems = Vec::new();
    let mut builder = ::config::Config::builder();
    if let (Some(file), Some(text)) = (&file, &text) {
        match source::from_file(text, file, &mut problems) {
            Some(layer) => builder = builder.add_source(layer),
            None => {
                env::layers(&variables, &mut problems);
                return Err(ConfigErrors(problems));
            }
        }
    }
    for layer in env::layers(&variables, &mut problems) {
        builder = builder.add_source(layer);
    }
    // Its own messages may quote values, so they are not passed on. None is known to come from layers such as these.
    let merged = builder.build().map_err(|_| ConfigError {
        key: String::new(),
        place: file.clone().map(Place::File),
        what: "failed to merge the file with the environment".to_owned(),
        hint: "look for a variable that sets part of what the file sets as a whole".to_owned(),
    })?;

    let mut reader = reader::Reader::new(&merged.cache, file.as_deref(), problems);
    match (parse::settings(&mut reader), reader.problems) {
        (Some(settings), problems) if problems.is_empty() => Ok(Loaded { settings, warnings: reader.warnings, file }),
        (None, problems) if problems.is_empty() => Err(unexplained(file).into()),
        (_, problems) => Err(sorted(problems)),
    }
}

/// Should a check ever fail without saying why, at least it does not fail in silence.
fn unexplained(file: Option<PathBuf>) -> ConfigError {
    ConfigError {
        key: String::new(),
        place: file.map(Place::File),
        what: "cannot be used, for a reason that was not noted".to_owned(),
        hint: "report this with the settings, without their secrets".to_owned(),
    }
}

/// What stands in the file in its order, then the rest.
fn sorted(mut problems: Vec<ConfigError>) -> ConfigErrors {
    problems.sort_by_key(|problem| match problem.place {
        Some(Place::Line(_, line)) => line,
        _ => usize::MAX,
    });
    ConfigErrors(problems)
}

fn nothing(places: &[PathBuf]) -> ConfigError {
    let looked: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
    ConfigError {
        key: String::new(),
        place: None,
        what: format!(
            "there is no configuration: no --config, no ${}, no {}, and no environment variable {}…",
            env::FILE,
            looked.join(", no "),
            env::PREFIX
        ),
        hint: format!("copy config/sample.toml to {} and fill it in", looked.first().map_or("a file", String::as_str)),
    }
}
