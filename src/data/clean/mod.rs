//! Cleaning of prompt texts: white space, control characters and length of every prompt; in its parts what captions from the
//! web need beyond that, the flags, and the normal form in which duplicates are found.

pub mod caption;
pub mod entities;
pub mod marks;
pub mod words;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

pub use self::words::normal_form;
use crate::error::{Error, Result};

/// Which prompts are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Shorter prompts are dropped: a caption of one or two letters says nothing about an image.
    pub min_characters: usize,
    /// Longer prompts are dropped: about 512 tokens, the longest text that Flux reads.
    pub max_characters: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { min_characters: 3, max_characters: 2000 }
    }
}

impl Config {
    /// Fails where no prompt could pass.
    pub fn check(&self) -> Result<()> {
        if self.min_characters > self.max_characters {
            let message = format!("`min_characters` is {} but `max_characters` is {}", self.min_characters, self.max_characters);
            return Err(Error::config(message, "set `min_characters` to at most `max_characters` in [data.clean]"));
        }
        Ok(())
    }

    /// The cleaned text with composed letters (NFC), or `None` where its length is out of bounds.
    pub fn clean(&self, text: &str) -> Option<String> {
        let text = if text.is_ascii() { collapse(text) } else { collapse(&text.nfc().collect::<String>()) };
        (self.min_characters..=self.max_characters).contains(&text.chars().count()).then_some(text)
    }
}

/// Control characters become spaces, runs of white space one space, the ends are trimmed.
pub fn collapse(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_collapses_space_and_control_characters() {
        let config = Config::default();
        struct Case {
            text: &'static str,
            expected: Option<&'static str>,
        }
        let cases = [
            Case { text: "  a  red\tcar\n", expected: Some("a red car") },
            Case { text: "a\u{0}b c", expected: Some("a b c") },
            Case { text: "été à Paris", expected: Some("été à Paris") },
            Case { text: "e\u{301}te\u{301} a\u{300} Paris", expected: Some("été à Paris") },
            // Too short once trimmed.
            Case { text: "   a ", expected: None },
        ];
        for case in cases {
            assert_eq!(config.clean(case.text).as_deref(), case.expected, "{:?}", case.text);
        }
    }

    #[test]
    fn length_counts_characters_not_bytes() {
        let config = Config { min_characters: 1, max_characters: 3 };
        assert_eq!(config.clean("äöü").as_deref(), Some("äöü"));
        assert_eq!(config.clean("äöüx"), None);
    }
}
