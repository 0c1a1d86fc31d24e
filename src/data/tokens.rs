//! Lengths of prompts in tokens of the networks that read them, where their tokenizers are at hand.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Where the tokenizers are: files in the `tokenizer.json` format, relative to the folder of the sources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Without one, no prompt has a length in T5 tokens.
    pub t5: Option<PathBuf>,
    /// Without one, no prompt has a length in CLIP tokens.
    pub clip: Option<PathBuf>,
    /// Whether a build without the files is complete; lengths are absent then.
    pub optional: bool,
}

impl Config {
    /// The files named, below `folder`, whether they are there or not.
    pub fn named(&self, folder: &Path) -> Vec<PathBuf> {
        [&self.t5, &self.clip].into_iter().flatten().map(|path| folder.join(path)).collect()
    }

    /// The files that are read: all that are named, or those of them that are there where they are optional.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut files = self.named(folder);
        files.retain(|path| !self.optional || path.exists());
        files
    }
}

/// Lengths of one prompt, the marks at start and end included; `None` without a tokenizer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lengths {
    pub t5: Option<u64>,
    pub clip: Option<u64>,
}

/// The tokenizers that are at hand.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    t5: Option<Tokenizer>,
    clip: Option<Tokenizer>,
}

impl Counters {
    /// Loads the tokenizers of `config` from below `folder`.
    ///
    /// # Errors
    /// A file is named but missing and not optional, or no tokenizer.
    pub fn load(config: &Config, folder: &Path) -> Result<Self> {
        let load = |path: &Option<PathBuf>| {
            let path = path.as_ref().map(|path| folder.join(path)).filter(|path| !config.optional || path.exists());
            path.map(|path| tokenizer(&path)).transpose()
        };
        Ok(Self { t5: load(&config.t5)?, clip: load(&config.clip)? })
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.t5.is_none() && self.clip.is_none()
    }

    /// The lengths of a prompt.
    pub fn count(&self, prompt: &str) -> Result<Lengths> {
        let count = |tokenizer: &Option<Tokenizer>| -> Result<Option<u64>> {
            let Some(tokenizer) = tokenizer else { return Ok(None) };
            let tokens = tokenizer.encode(prompt, true).map_err(|error| Error::Invalid(format!("cannot tokenize `{prompt}`: {error}")))?;
            Ok(Some(tokens.get_ids().len() as u64))
        };
        Ok(Lengths { t5: count(&self.t5)?, clip: count(&self.clip)? })
    }
}

fn tokenizer(path: &Path) -> Result<Tokenizer> {
    if !path.exists() {
        let hint = "put the tokenizer there, or leave it out of [data.tokenizers]";
        return Err(Error::Missing { what: "the tokenizer".into(), path: path.into(), hint: hint.into() });
    }
    let mut tokenizer = Tokenizer::from_file(path).map_err(|error| Error::format("tokenizer", path, error))?;
    // The whole text counts, and nothing but the text.
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| Error::format("tokenizer", path, error))?;
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits at spaces, knows three words, adds no marks.
    const WORDS: &str = r#"{"version":"1.0","truncation":{"direction":"Right","max_length":2,"strategy":"LongestFirst","stride":0},
        "padding":{"strategy":{"Fixed":8},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"?"},
        "added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"?":0,"a":1,"red":2,"car":3},"unk_token":"?"}}"#;

    #[test]
    fn the_whole_text_is_counted_and_no_padding() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("words.json"), WORDS).unwrap();
        let config = Config { t5: Some("words.json".into()), ..Config::default() };
        let counters = Counters::load(&config, folder.path()).unwrap();
        assert_eq!(counters.count("a red car a red car").unwrap(), Lengths { t5: Some(6), clip: None });
        assert_eq!(config.files(folder.path()), [folder.path().join("words.json")]);
        assert!(!counters.is_empty() && Counters::default().is_empty());
    }

    #[test]
    fn a_missing_and_a_damaged_tokenizer_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { clip: Some("clip.json".into()), ..Config::default() };
        let error = Counters::load(&config, folder.path()).unwrap_err();
        assert!(error.to_string().contains("clip.json") && error.hint().is_some());
        let optional = Config { optional: true, ..config.clone() };
        assert!(Counters::load(&optional, folder.path()).unwrap().is_empty());
        assert_eq!((optional.files(folder.path()).len(), optional.named(folder.path()).len()), (0, 1));
        std::fs::write(folder.path().join("clip.json"), "{").unwrap();
        let error = Counters::load(&config, folder.path()).unwrap_err().to_string();
        assert!(error.contains("clip.json") && error.contains("not a valid tokenizer"), "{error}");
    }
}
