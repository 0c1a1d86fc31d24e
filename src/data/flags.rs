//! What is known to be the matter with a prompt: marks that are kept beside it as a column, so that a filter can be chosen
//! after the build and not only before.

use serde::{Deserialize, Serialize};

/// One mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flag {
    /// Names sexual acts, cruelty or self-harm, or the source's own score says so.
    Unsafe,
    /// Holds an e-mail address, a telephone number or a number that identifies a person or a card.
    Personal,
    /// Most letters are of another script, or the small words are of another language.
    NotEnglish,
    /// The source's score says that the image of this caption carries a watermark.
    Watermark,
}

impl Flag {
    /// All flags, in the order in which they are written.
    pub const ALL: [Flag; 4] = [Flag::Unsafe, Flag::Personal, Flag::NotEnglish, Flag::Watermark];

    /// The name in tables and pipelines.
    pub fn name(self) -> &'static str {
        match self {
            Flag::Unsafe => "unsafe",
            Flag::Personal => "personal",
            Flag::NotEnglish => "not-english",
            Flag::Watermark => "watermark",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of flags; empty where nothing was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);

    /// This set with one flag more, where `found` holds.
    #[must_use]
    pub fn with(self, flag: Flag, found: bool) -> Self {
        Self(self.0 | if found { flag.bit() } else { 0 })
    }

    /// The flags of either set.
    #[must_use]
    pub fn union(self, other: Flags) -> Self {
        Self(self.0 | other.0)
    }

    /// True if the flag is set.
    pub fn has(self, flag: Flag) -> bool {
        self.0 & flag.bit() != 0
    }

    /// True if no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set flags, in the order of [`Flag::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.into_iter().filter(move |&flag| self.has(flag))
    }

    /// The names, sorted, as the column `flags` holds them.
    pub fn names(self) -> Vec<String> {
        let mut names: Vec<String> = self.iter().map(|flag| flag.name().to_owned()).collect();
        names.sort_unstable();
        names
    }
}

impl FromIterator<Flag> for Flags {
    fn from_iter<I: IntoIterator<Item = Flag>>(flags: I) -> Self {
        flags.into_iter().fold(Self::NONE, |set, flag| set.with(flag, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_is_that_of_its_flags() {
        for bits in 0..1u8 << Flag::ALL.len() {
            let flags = Flags(bits);
            assert_eq!(flags.iter().collect::<Flags>(), flags);
            assert_eq!(flags.is_empty(), flags.names().is_empty());
        }
        assert_eq!(Flags::NONE.with(Flag::Watermark, true).with(Flag::NotEnglish, true).names(), ["not-english", "watermark"]);
        assert_eq!(Flags::NONE.with(Flag::Unsafe, false), Flags::NONE);
    }
}
