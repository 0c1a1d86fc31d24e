//! Files of votes: one rater's choices between the images of two encoders.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::run::files;

/// The version of the format that is read here.
const VERSION: u64 = 1;
/// What such a file is called in messages.
const FORMAT: &str = "file of votes";

/// One rater's votes.
#[derive(Debug, Clone, PartialEq)]
pub struct Ballot {
    pub encoders: [String; 2],
    pub rater: String,
    /// Hash of the page's data: votes of one page are about the same images.
    pub page: String,
    pub votes: Vec<Vote>,
}

/// One choice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// The prompt's id.
    pub pair: String,
    /// The encoder whose image stood on the left.
    pub left: String,
    pub choice: Choice,
    /// In a check of attention, the right answer.
    pub attention: Option<Side>,
    /// Time until the choice.
    pub milliseconds: u64,
}

/// A side of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Left,
    Right,
}

/// What was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    Left,
    Right,
    Tie,
}

/// The file around the votes; these are read one by one, so that a message can name the entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    encoders: Vec<String>,
    rater: String,
    page: String,
    votes: Vec<Value>,
}

impl Ballot {
    /// Reads a file.
    ///
    /// # Errors
    /// Name the file and, within it, the number of the entry, counted from 1.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = files::read_bytes(path, "votes", "export them from the preference page with its button")?;
        Self::parse(&bytes).map_err(|reason| {
            let message = format!("`{}` is not a valid {FORMAT}: {reason}", path.display());
            Error::config(message, "export the votes from the preference page again, or leave the file out")
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("no JSON: {error}"))?;
        match value.get("version") {
            Some(version) if version.as_u64() == Some(VERSION) => {}
            Some(version) => return Err(format!("version {version}, expected {VERSION}")),
            None => return Err(format!("`version` is missing, expected {VERSION}")),
        }
        let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
        debug_assert_eq!(file.version, VERSION);
        let encoders: [String; 2] =
            file.encoders.try_into().map_err(|found: Vec<String>| format!("`encoders` names {} encoders, expected 2", found.len()))?;
        if encoders[0] == encoders[1] {
            return Err(format!("`encoders` names `{}` twice", encoders[0]));
        }
        if file.rater.trim().is_empty() {
            return Err("`rater` is empty, so its votes cannot be told from others'".into());
        }
        let mut seen = BTreeSet::new();
        let mut votes = Vec::with_capacity(file.votes.len());
        for (i, entry) in file.votes.into_iter().enumerate() {
            let at = |reason: String| format!("entry {}: {reason}", i + 1);
            let vote: Vote = serde_json::from_value(entry).map_err(|error| at(error.to_string()))?;
            if !encoders.contains(&vote.left) {
                return Err(at(format!("`left` is `{}`, expected `{}` or `{}`", vote.left, encoders[0], encoders[1])));
            }
            if vote.attention.is_none() && !seen.insert(vote.pair.clone()) {
                return Err(at(format!("a second vote on pair `{}`", vote.pair)));
            }
            votes.push(vote);
        }
        Ok(Self { encoders, rater: file.rater, page: file.page, votes })
    }

    /// Checks of attention that were failed, and all of them.
    pub fn attention(&self) -> (u64, u64) {
        let checks: Vec<bool> =
            self.votes.iter().filter_map(|vote| vote.attention.map(|answer| vote.choice.side() == Some(answer))).collect();
        (checks.iter().filter(|passed| !**passed).count() as u64, checks.len() as u64)
    }
}

impl Choice {
    /// The chosen side; `None` for a tie.
    pub fn side(self) -> Option<Side> {
        match self {
            Self::Left => Some(Side::Left),
            Self::Right => Some(Side::Right),
            Self::Tie => None,
        }
    }
}

impl Vote {
    /// Whether the encoder `name` was chosen: 1, 0, or one half for a tie. `name` must be one of the two.
    pub fn score(&self, name: &str) -> f64 {
        match self.choice.side() {
            None => 0.5,
            Some(side) if (side == Side::Left) == (self.left == name) => 1.0,
            Some(_) => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"version":1,"encoders":["base","teacher"],"rater":"r 1","page":"ab","votes":[
        {"pair":"01","left":"base","choice":"left","attention":null,"milliseconds":1200},
        {"pair":"02","left":"teacher","choice":"left","attention":null,"milliseconds":900},
        {"pair":"03","left":"teacher","choice":"tie","attention":null,"milliseconds":900},
        {"pair":"01","left":"base","choice":"left","attention":"right","milliseconds":800}]}"#;

    #[test]
    fn votes_are_read_as_they_were_cast() {
        let ballot = Ballot::parse(GOOD.as_bytes()).unwrap();
        let scores: Vec<f64> = ballot.votes[..3].iter().map(|vote| vote.score("base")).collect();
        assert_eq!(scores, [1.0, 0.0, 0.5]);
        assert_eq!(ballot.votes[1].score("teacher"), 1.0);
        assert_eq!(ballot.attention(), (1, 1));
    }

    #[test]
    fn every_damage_is_named_with_its_entry() {
        for (from, to, words) in [
            (r#""version":1"#, r#""version":2"#, "version 2, expected 1"),
            (r#""version":1,"#, "", "`version` is missing"),
            (r#"["base","teacher"]"#, r#"["base"]"#, "names 1 encoders"),
            (r#"["base","teacher"]"#, r#"["base","base"]"#, "`base` twice"),
            (r#""rater":"r 1""#, r#""rater":" ""#, "`rater` is empty"),
            (r#""choice":"tie""#, r#""choice":"both""#, "entry 3: unknown variant `both`"),
            (r#""left":"teacher","choice":"left""#, r#""left":"small","choice":"left""#, "entry 2: `left` is `small`"),
            (r#""pair":"02""#, r#""pair":"01""#, "entry 2: a second vote on pair `01`"),
            (r#","milliseconds":1200"#, "", "entry 1: missing field `milliseconds`"),
            (r#""milliseconds":1200"#, r#""milliseconds":-1"#, "entry 1: invalid value"),
            (r#""page":"ab","#, r#""page":"ab","extra":1,"#, "unknown field `extra`"),
            ("}]}", "}]", "no JSON"),
        ] {
            let damaged = GOOD.replacen(from, to, 1);
            assert_ne!(damaged, GOOD, "{from}");
            let reason = Ballot::parse(damaged.as_bytes()).unwrap_err();
            assert!(reason.contains(words), "{words}: {reason}");
        }
    }
}
