//! A published `config.json`, read strictly: every value is used, known to be the only one supported, or known not to matter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::run::files;

/// The values that were not looked at yet.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    values: Map<String, Value>,
}

impl ConfigFile {
    /// Reads a file with one JSON object. `Infinity` and `NaN`, which Python writes and JSON does not know, become texts.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read_bytes(path, "the configuration of a part of the model", "fetch the file with the model's weights")?;
        let text = String::from_utf8(bytes).map_err(|error| Error::format("configuration", path, error))?;
        let values = serde_json::from_str(&quote_python_numbers(&text)).map_err(|error| Error::format("configuration", path, error))?;
        Ok(Self { path: path.into(), values })
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`, which then counts as used; null is as good as absent.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.values.remove(key).filter(|value| !value.is_null())
    }

    fn required<T>(&self, key: &str, value: Option<T>, kind: &str) -> Result<T> {
        value.ok_or_else(|| {
            Error::config(format!("`{}`: `{key}` must be {kind}", self.path.display()), "compare the file with the published one")
        })
    }

    /// The error for a value that cannot be used.
    pub fn unsupported(&self, key: &str, value: impl std::fmt::Display, supported: &str) -> Error {
        let message = format!("`{}`: `{key}` is {value}; supported: {supported}", self.path.display());
        Error::config(message, "this model differs from those that are known here in more than its size; choose another")
    }

    /// A whole number above 0.
    pub fn size(&mut self, key: &str) -> Result<usize> {
        let value = self.optional_size(key)?;
        self.required(key, value, "a whole number above 0")
    }

    /// A whole number above 0, or nothing.
    pub fn optional_size(&mut self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_u64().filter(|&number| number > 0).map(|number| number as usize);
        self.required(key, number, &format!("a whole number above 0, found {value}")).map(Some)
    }

    /// A number, `default` where there is none.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.take(key) else { return Ok(default) };
        self.required(key, value.as_f64(), &format!("a number, found {value}"))
    }

    /// True or false, `default` where there is neither.
    pub fn switch(&mut self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.take(key) else { return Ok(default) };
        self.required(key, value.as_bool(), &format!("true or false, found {value}"))
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Result<String> {
        let value = self.take(key).and_then(|value| value.as_str().map(str::to_owned));
        self.required(key, value, "a text")
    }

    /// A text, `default` where there is none.
    pub fn text_or(&mut self, key: &str, default: &str) -> Result<String> {
        if self.values.get(key).is_none_or(Value::is_null) { Ok(default.to_owned()) } else { self.text(key) }
    }

    /// A list of whole numbers.
    pub fn sizes(&mut self, key: &str) -> Result<Vec<usize>> {
        let list = self.optional_sizes(key)?;
        self.required(key, list, "a list of whole numbers above 0")
    }

    /// A list of whole numbers, or nothing.
    pub fn optional_sizes(&mut self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = |value: &Value| value.as_u64().filter(|&number| number > 0).map(|number| number as usize);
        let list = value.as_array().and_then(|list| list.iter().map(number).collect());
        self.required(key, list, &format!("a list of whole numbers above 0, found {value}")).map(Some)
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let list = self.take(key).and_then(|value| value.as_array()?.iter().map(|value| value.as_str().map(str::to_owned)).collect());
        self.required(key, list, "a list of texts")
    }

    /// Fails unless `key` is absent, null or `value`.
    pub fn only(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        let (expected, found) = (value.into(), self.take(key));
        let same = |found: &Value| match (found.as_f64(), expected.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => *found == expected,
        };
        match found {
            Some(found) if !same(&found) => Err(self.unsupported(key, &found, &expected.to_string())),
            _ => Ok(()),
        }
    }

    /// Values without a part in what the network computes.
    pub fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.values.remove(*key);
        }
    }

    /// Ends reading: what is left must be switched off, empty, or named with an underscore.
    pub fn finish(self) -> Result<()> {
        let is_off = |value: &Value| matches!(value, Value::Null | Value::Bool(false)) || value.as_array().is_some_and(Vec::is_empty);
        match self.values.iter().find(|(key, value)| !key.starts_with('_') && !is_off(value)) {
            Some((key, value)) => Err(self.unsupported(key, value, "its absence; what it changes is not known here")),
            None => Ok(()),
        }
    }

    /// The classes of a `model_index.json`: of `"name": ["library", "class"]` the second.
    pub fn classes(self) -> BTreeMap<String, Option<String>> {
        let class = |value: &Value| value.as_array()?.get(1)?.as_str().map(str::to_owned);
        self.values.iter().filter(|(_, value)| value.is_array()).map(|(name, value)| (name.clone(), class(value))).collect()
    }
}

/// Puts quotes around `Infinity`, `-Infinity` and `NaN` outside of texts.
fn quote_python_numbers(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    let (mut rest, mut inside) = (text, false);
    while let Some(letter) = rest.chars().next() {
        let word = if inside { None } else { ["-Infinity", "Infinity", "NaN"].into_iter().find(|word| rest.starts_with(word)) };
        let taken = match (word, letter) {
            (Some(word), _) => {
                quoted.push_str(&format!("\"{word}\""));
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') if inside => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
            (None, letter) => {
                inside ^= letter == '"';
                letter.len_utf8()
            }
        };
        quoted.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ConfigFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        ConfigFile::read(file.path()).unwrap()
    }

    #[test]
    fn numbers_that_json_does_not_know_are_read_outside_of_texts_only() {
        assert_eq!(
            quote_python_numbers(r#"{"a": -Infinity, "NaN \" NaN": NaN, "é": [Infinity]}"#),
            r#"{"a": "-Infinity", "NaN \" NaN": "NaN", "é": ["Infinity"]}"#
        );
    }

    #[test]
    fn what_is_not_used_must_be_off() {
        let mut file = config(r#"{"_class_name": "X", "heads": 3, "extra": null, "other": false, "list": []}"#);
        assert_eq!(file.size("heads").unwrap(), 3);
        file.finish().unwrap();
        let error = config(r#"{"dual_attention_layers": [1, 2]}"#).finish().unwrap_err();
        assert!(error.to_string().contains("`dual_attention_layers` is [1,2]"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_names_file_key_and_value() {
        let mut file = config(r#"{"heads": "three", "width": 0, "norm": "layer"}"#);
        for (key, found) in [("heads", "\"three\""), ("width", "0"), ("depth", "above 0")] {
            let error = file.size(key).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(found) && error.contains(file.path().to_str().unwrap()), "{error}");
        }
        assert!(file.only("norm", "rms").unwrap_err().to_string().contains("`norm` is \"layer\"; supported: \"rms\""));
        assert!(config(r#"{"eps": 1e-06}"#).only("eps", 1e-6).is_ok());
    }
}
