//! Typed configuration: one YAML file per role, every key also an environment variable, all mistakes reported at once.
//!
//! The type says everything: its `Default` is the set of keys and their values, so this crate needs no schema. A mistake is
//! found by putting one key at a time into the defaults and letting serde judge it; so ten mistakes give ten messages.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! #[derive(Debug, Default, Serialize, Deserialize)]
//! #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
//! struct HubConfig { api_port: u16 }
//!
//! let source = base_config::Source { text: Some("apiPort: 7443"), env: vec![] };
//! let config: HubConfig = base_config::load_from(&source, "SELVEDGE_HUB").unwrap();
//! assert_eq!(config.api_port, 7443);
//!
//! let source = base_config::Source { text: Some("apiPrt: 7443"), env: vec![] };
//! let errors = base_config::load_from::<HubConfig>(&source, "SELVEDGE_HUB").unwrap_err();
//! assert_eq!(errors.to_string(), "line 1: `apiPrt` is not a setting; did you mean `apiPort`?");
//! ```
//!
//! **Where is it?** Reading and judging: here. The sample file of a role: `sample`.
//!
//! **May I touch it?** Keys are a contract with files in the field: a renamed one needs its old name as a `serde(alias)`. What
//! is read is bounded, and no message depends on the text of another.
//!
//! **How do I try it?** `cargo test -p base-config`; a role with `selvedge hub --config FILE --check-config`.
//!
//! **What breaks?** A role does not start, with all mistakes listed; nothing else depends on it.

mod sample;

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use sample::{UndocumentedKeys, sample};

/// A configuration file is written by hand; a larger one is something else.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// A key longer than this is no misspelt setting.
const KEY_BYTES_MAX: usize = 128;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Line of the file, from 1, where it could be found.
    pub line: Option<usize>,
    /// What is wrong, naming the key or the variable, and the next step where there is one.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// Every mistake in a configuration; prints one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Where settings come from; a variable goes before the file.
#[derive(Clone, Debug, Default)]
pub struct Source<'t> {
    /// Text of the file; none means defaults.
    pub text: Option<&'t str>,
    /// Environment variables; those without the prefix are not looked at.
    pub env: Vec<(String, String)>,
}

/// Reads the file at `path` (none: defaults alone) and the process's environment.
pub fn load<T>(path: Option<&Path>, env_prefix: &str) -> Result<T, ConfigErrors>
where
    T: Default + Serialize + DeserializeOwned,
{
    let text = path.map(read).transpose()?;
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    load_from(&Source { text: text.as_deref(), env: env.collect() }, env_prefix)
}

/// Reads a configuration file, bounded; its failure is a mistake like any other.
pub fn read(path: &Path) -> Result<String, ConfigErrors> {
    let failed = |why: String| {
        let message = format!("failed to read configuration file {}: {why}", path.display());
        ConfigErrors(vec![ConfigError { line: None, message }])
    };
    // Bounded while reading: a pipe, or a file of the kernel, does not say how long it is.
    let bytes = base_fs::read_bounded(path, FILE_BYTES_MAX).map_err(|error| match error {
        base_fs::ReadFileError::Read { source, .. } => failed(source.to_string()),
        base_fs::ReadFileError::TooLarge { .. } => failed(format!("it has more than {FILE_BYTES_MAX} bytes")),
    })?;
    String::from_utf8(bytes).map_err(|_| failed("it is not UTF-8".to_owned()))
}

/// Builds the configuration from `source`.
pub fn load_from<T>(source: &Source, env_prefix: &str) -> Result<T, ConfigErrors>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut loader = Loader::<T>::new();
    if let Some(text) = source.text {
        loader.add_file(text);
    }
    loader.add_env(&source.env, env_prefix);
    loader.finish()
}

/// Name of the environment variable of the setting at `path`: `shutdown.gracePeriod` is `PREFIX_SHUTDOWN_GRACE_PERIOD`.
pub fn variable_name(env_prefix: &str, path: &str) -> String {
    let mut name = env_prefix.to_owned();
    for part in path.split('.') {
        name.push('_');
        for (at, c) in part.char_indices() {
            if c.is_ascii_uppercase() && at > 0 {
                name.push('_');
            }
            name.push(if c == '-' { '_' } else { c.to_ascii_uppercase() });
        }
    }
    name
}

struct Loader<T> {
    defaults: Value,
    /// Every setting: its path and default.
    settings: Vec<(String, Value)>,
    /// The defaults with everything that was right put in.
    merged: Value,
    errors: Vec<ConfigError>,
    _type: std::marker::PhantomData<T>,
}

impl<T: Default + Serialize + DeserializeOwned> Loader<T> {
    fn new() -> Self {
        let defaults = serde_json::to_value(T::default()).expect("a configuration's defaults are plain data");
        let mut settings = Vec::new();
        leaves(&defaults, "", &mut settings);
        Self { merged: defaults.clone(), defaults, settings, errors: Vec::new(), _type: std::marker::PhantomData }
    }

    fn add_file(&mut self, text: &str) {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return;
        }
        let document: Value = match serde_saphyr::from_str(text) {
            Ok(document) => document,
            Err(error) => return self.error(None, format!("the file is not YAML: {error}")),
        };
        match document {
            Value::Object(keys) => self.add_keys(text, "", keys),
            Value::Null => {}
            _ => self.error(None, "the file must hold settings as `key: value`".to_owned()),
        }
    }

    /// Goes through the keys of the object at `path`, which is one in the defaults too.
    fn add_keys(&mut self, text: &str, path: &str, keys: Map<String, Value>) {
        for (key, value) in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let line = line_of(text, &path);
            let known = at_path(&self.defaults, &path).cloned();
            match (known, value) {
                (None, _) => self.unknown(line, &path),
                // A section without anything in it.
                (Some(Value::Object(inner)), Value::Null) if !inner.is_empty() => {}
                (Some(Value::Object(inner)), Value::Object(keys)) if !inner.is_empty() => {
                    self.add_keys(text, &path, keys)
                }
                (Some(_), value) => {
                    if let Err(why) = self.set(&path, value) {
                        self.error(line, format!("`{path}`: {why}"));
                    }
                }
            }
        }
    }

    fn unknown(&mut self, line: Option<usize>, path: &str) {
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
        let siblings = if parent.is_empty() { Some(&self.defaults) } else { at_path(&self.defaults, parent) };
        let siblings = siblings.and_then(Value::as_object).into_iter().flat_map(|keys| keys.keys());
        let hint = match nearest(key, siblings.map(String::as_str)) {
            Some(near) if parent.is_empty() => format!("; did you mean `{near}`?"),
            Some(near) => format!("; did you mean `{parent}.{near}`?"),
            None => String::new(),
        };
        let shown: String = path.chars().take(KEY_BYTES_MAX).collect();
        self.error(line, format!("`{shown}` is not a setting{hint}"));
    }

    fn add_env(&mut self, env: &[(String, String)], env_prefix: &str) {
        let variables: Vec<(String, String, Value)> = self
            .settings
            .iter()
            .map(|(path, default)| (variable_name(env_prefix, path), path.clone(), default.clone()))
            .collect();
        let own_prefix = format!("{env_prefix}_");
        for (name, text) in env.iter().filter(|(name, _)| name.starts_with(&own_prefix)) {
            let Some((_, path, default)) = variables.iter().find(|(variable, ..)| variable == name) else {
                if !is_service_link(&name[env_prefix.len()..]) {
                    let near = nearest(name, variables.iter().map(|(variable, ..)| variable.as_str()));
                    let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                    self.error(None, format!("environment variable `{name}` is not a setting{hint}"));
                }
                continue;
            };
            if let Some(several) = several(default, text) {
                if let Err(why) = several.and_then(|value| self.set(path, value)) {
                    self.error(None, format!("environment variable `{name}`: {why}"));
                }
                continue;
            }
            let plain = Value::String(text.clone());
            let parsed = serde_saphyr::from_str(text).unwrap_or_else(|_| plain.clone());
            // `8080` may be meant as text where text is expected, and as a number where a number is.
            let (first, second) = if default.is_string() { (plain, parsed) } else { (parsed, plain) };
            if let Err(why) = self.set(path, first)
                && self.set(path, second).is_err()
            {
                self.error(None, format!("environment variable `{name}`: {why}"));
            }
        }
    }

    /// Puts one value in, if the type takes it.
    fn set(&mut self, path: &str, value: Value) -> Result<(), String> {
        let mut alone = self.defaults.clone();
        *at_path_mut(&mut alone, path).expect("the caller has found the setting") = value.clone();
        serde_json::from_value::<T>(alone).map_err(|error| error.to_string())?;
        *at_path_mut(&mut self.merged, path).expect("merged has the same keys as the defaults") = value;
        Ok(())
    }

    fn error(&mut self, line: Option<usize>, message: String) {
        self.errors.push(ConfigError { line, message });
    }

    fn finish(mut self) -> Result<T, ConfigErrors> {
        if self.errors.is_empty() {
            match serde_json::from_value(std::mem::take(&mut self.merged)) {
                Ok(config) => return Ok(config),
                // Each setting is right, together they are not.
                Err(error) => self.error(None, error.to_string()),
            }
        }
        self.errors.sort_by_key(|error| error.line.unwrap_or(usize::MAX));
        Err(ConfigErrors(self.errors))
    }
}

/// What a variable of a list or a map says without YAML's brackets: `a,b` and `k=v,l=w`. `None` when the setting is neither,
/// or the text is YAML.
fn several(default: &Value, text: &str) -> Option<Result<Value, String>> {
    let text = text.trim();
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    match default {
        Value::Array(_) if !text.starts_with('[') => {
            Some(Ok(items().map(|item| Value::String(item.to_owned())).collect()))
        }
        Value::Object(_) if !text.starts_with('{') => {
            let pair = |item: &str| match item.split_once('=') {
                Some((key, value)) => Ok((key.trim().to_owned(), Value::String(value.trim().to_owned()))),
                None => Err(format!("`{item}` is not of the form KEY=VALUE; several have commas between them")),
            };
            Some(items().map(pair).collect::<Result<Map<_, _>, _>>().map(Value::Object))
        }
        _ => None,
    }
}

/// Lists settings with their paths. An empty object is one setting: a map whose keys are the user's.
fn leaves(value: &Value, path: &str, out: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(keys) if !keys.is_empty() => {
            for (key, value) in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, out);
            }
        }
        _ => out.push((path.to_owned(), value.clone())),
    }
}

fn at_path<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn at_path_mut<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    path.split('.').try_fold(value, |value, key| value.get_mut(key))
}

/// The line of block-style YAML on which the key at `path` is.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut lines = (1..).zip(text.lines());
    let mut indent_min = 0;
    let mut found = None;
    for key in path.split('.') {
        let (number, indent) = lines.by_ref().find_map(|(number, line)| {
            let trimmed = line.trim_start();
            let indent = line.len() - trimmed.len();
            let rest = trimmed.trim_start_matches(['"', '\'']).strip_prefix(key)?;
            let is_key = rest.trim_start_matches(['"', '\'']).trim_start().starts_with(':');
            (is_key && indent >= indent_min).then_some((number, indent))
        })?;
        found = Some(number);
        indent_min = indent + 1;
    }
    found
}

/// The name that `wrong` was probably meant to be.
fn nearest<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let folded = |name: &str| -> String {
        name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
    };
    // Nothing that long is a slip, and comparing costs the product of two lengths.
    if wrong.len() > KEY_BYTES_MAX {
        return None;
    }
    let wrong = folded(wrong);
    // One slip in three letters, or two letters swapped: more, and the guess is noise.
    let near = names.map(|name| (strsim::levenshtein(&wrong, &folded(name)), name)).min()?;
    (near.0 <= (wrong.len() / 3).max(if wrong.len() < 4 { 1 } else { 2 })).then_some(near.1)
}

/// Kubernetes gives pods variables for each service; one named `selvedge-hub` must not keep the hub from starting.
fn is_service_link(suffix: &str) -> bool {
    suffix == "_PORT" || suffix.starts_with("_SERVICE_") || suffix.starts_with("_PORT_") && suffix.contains("_TCP")
}

#[cfg(test)]
mod tests;
