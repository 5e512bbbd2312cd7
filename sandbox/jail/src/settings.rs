//! One TOML file, and the environment over it: `ANCHORHOLD_<SECTION>_<KEY>` sets `[section] key`.
//!
//! The warden and the API read the same file, each the sections it knows.

use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Why the settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file.
    #[error("{0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// Not TOML.
    #[error("{0}: {1}")]
    Parse(PathBuf, Box<toml::de::Error>),
    /// A value that does not fit its key, or a key that does not exist.
    #[error("[{section}] {message}")]
    Value {
        /// The section.
        section: String,
        /// What is wrong.
        message: String,
    },
}

/// The settings before anyone has looked at what they mean.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    file: Table,
    environment: Vec<(String, String)>,
}

impl Settings {
    /// Reads `file` where given, and the process's environment.
    pub fn read(file: Option<&Path>) -> Result<Self, SettingsError> {
        let file = match file {
            None => Table::new(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|e| SettingsError::Read(path.to_owned(), e))?;
                text.parse().map_err(|e| SettingsError::Parse(path.to_owned(), Box::new(e)))?
            }
        };
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Ok(Self { file, environment })
    }

    /// The file's content and an environment, for tests.
    pub fn from_parts(file: Table, environment: Vec<(String, String)>) -> Self {
        Self { file, environment }
    }

    /// Names of the sections in the file.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.file.keys().map(String::as_str)
    }

    /// A section as `T`. `T` must refuse unknown fields, so that a misspelt key is an error.
    ///
    /// A value from the environment is read as TOML; what is not TOML is a string.
    pub fn section<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, SettingsError> {
        let failed = |message: String| SettingsError::Value { section: name.to_owned(), message };
        let mut table = match self.file.get(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table.clone(),
            Some(_) => return Err(failed("is not a section".to_owned())),
        };
        let prefix = format!("ANCHORHOLD_{}_", name.to_uppercase());
        for (variable, text) in &self.environment {
            let Some(key) = variable.strip_prefix(&prefix) else { continue };
            table.insert(key.to_lowercase(), value(text));
        }
        Value::Table(table).try_into().map_err(|e: toml::de::Error| failed(e.message().to_owned()))
    }
}

fn value(text: &str) -> Value {
    let parsed = format!("x = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("x"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Section {
        number: u32,
        word: String,
        list: Vec<String>,
    }

    impl Default for Section {
        fn default() -> Self {
            Self { number: 1, word: "a".into(), list: vec![] }
        }
    }

    fn settings(file: &str, environment: &[(&str, &str)]) -> Settings {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from_parts(file.parse().unwrap(), environment)
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let both = settings(
            "[s]\nnumber = 2\nword = \"b\"\n",
            &[("ANCHORHOLD_S_NUMBER", "3"), ("ANCHORHOLD_S_LIST", "[\"x\"]")],
        );
        let expected = Section { number: 3, word: "b".into(), list: vec!["x".into()] };
        assert_eq!(both.section::<Section>("s").unwrap(), expected);
        assert_eq!(both.section::<Section>("absent").unwrap(), Section::default());
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        for (file, environment) in
            [("[s]\nnumbr = 2", ("X", "")), ("", ("ANCHORHOLD_S_NUMBER", "many")), ("s = 1", ("X", ""))]
        {
            let error = settings(file, &[environment]).section::<Section>("s").unwrap_err();
            assert!(error.to_string().starts_with("[s] "), "{error}");
        }
    }
}
