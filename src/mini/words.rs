//! The words of the miniature world and what each looks like: nouns, colours, backgrounds, relations, numbers, sign
//! words. Every other module takes its words from here.

use std::sync::OnceLock;

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::run::rng::below;

/// Defines a word class as an index into its table, written by name in JSON.
macro_rules! word_class {
    ($(#[$doc:meta])* $class:ident, $entry:ty, $table:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $class(u8);

        impl $class {
            /// How many there are.
            pub const COUNT: usize = $table.len();

            /// All of them, in the order of their index.
            pub fn all() -> impl Iterator<Item = Self> {
                (0..Self::COUNT).map(|index| Self(index as u8))
            }

            /// The one with this name in the singular.
            pub fn named(name: &str) -> Option<Self> {
                Self::all().find(|word| word.name() == name)
            }

            /// Position in [0, COUNT), fit for a class label.
            pub fn index(self) -> usize {
                usize::from(self.0)
            }

            /// The name in the singular, as prompts write it.
            pub fn name(self) -> &'static str {
                self.entry().0
            }

            fn entry(self) -> &'static $entry {
                &$table[self.index()]
            }
        }

        impl TryFrom<String> for $class {
            type Error = String;

            fn try_from(name: String) -> Result<Self, String> {
                Self::named(&name).ok_or_else(|| format!(concat!("`{}` is no ", $what, " of the miniature world"), name))
            }
        }

        impl From<$class> for String {
            fn from(word: $class) -> String {
                word.name().into()
            }
        }
    };
}

/// Whether a noun can hold a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Animacy {
    Animate,
    Inanimate,
}

// Chosen by eye among some seventy Noto Emoji glyphs: solid shapes that stay recognisable and distinct at 28 px.
const NOUNS: [(&str, &str, char, Animacy); 16] = [
    ("apple", "apples", '🍎', Animacy::Inanimate),
    ("bird", "birds", '🐦', Animacy::Animate),
    ("boat", "boats", '⛵', Animacy::Inanimate),
    ("car", "cars", '🚗', Animacy::Inanimate),
    ("cat", "cats", '🐈', Animacy::Animate),
    ("dog", "dogs", '🐕', Animacy::Animate),
    ("flower", "flowers", '🌷', Animacy::Inanimate),
    ("guitar", "guitars", '🎸', Animacy::Inanimate),
    ("hat", "hats", '🎩', Animacy::Inanimate),
    ("horse", "horses", '🐎', Animacy::Animate),
    ("house", "houses", '🏠', Animacy::Inanimate),
    ("key", "keys", '🔑', Animacy::Inanimate),
    ("shirt", "shirts", '👕', Animacy::Inanimate),
    ("train", "trains", '🚂', Animacy::Inanimate),
    ("tree", "trees", '🌲', Animacy::Inanimate),
    ("turtle", "turtles", '🐢', Animacy::Animate),
];

const COLOURS: [(&str, [u8; 3]); 6] = [
    ("red", [218, 36, 40]),
    ("green", [30, 148, 52]),
    ("blue", [38, 78, 222]),
    ("yellow", [240, 186, 0]),
    ("black", [24, 24, 24]),
    ("purple", [150, 48, 186]),
];

const BACKGROUNDS: [(&str, [u8; 3]); 4] =
    [("white", [250, 250, 250]), ("sky", [186, 220, 252]), ("pink", [252, 206, 222]), ("mint", [196, 242, 214])];

word_class!(
    /// What an object is.
    Noun, (&'static str, &'static str, char, Animacy), NOUNS, "noun"
);
word_class!(
    /// The one colour of an object.
    Colour, (&'static str, [u8; 3]), COLOURS, "colour"
);
word_class!(
    /// The even colour behind everything.
    Background, (&'static str, [u8; 3]), BACKGROUNDS, "background"
);

impl Noun {
    /// The name for two and more.
    pub fn plural(self) -> &'static str {
        self.entry().1
    }

    /// Its glyph in Noto Emoji.
    pub fn glyph(self) -> char {
        self.entry().2
    }

    /// Whether it can hold a sign.
    pub fn animacy(self) -> Animacy {
        self.entry().3
    }
}

impl Colour {
    /// Red, green and blue in [0, 255] (sRGB).
    pub fn rgb(self) -> [u8; 3] {
        self.entry().1
    }
}

impl Background {
    /// Red, green and blue in [0, 255] (sRGB).
    pub fn rgb(self) -> [u8; 3] {
        self.entry().1
    }
}

/// Combinations that training never shows. The rule gives every colour exactly two such nouns and every noun at most
/// one such colour (5 is invertible modulo 8), so that each word by itself is well known from training.
pub fn held_out(noun: Noun, colour: Colour) -> bool {
    (3 * noun.index() + 5 * colour.index()).is_multiple_of(8)
}

/// The relations of the spatial prompts, from the first object to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    Left,
    Right,
    Top,
    Bottom,
}

impl Relation {
    pub const ALL: [Self; 4] = [Self::Left, Self::Right, Self::Top, Self::Bottom];

    /// As prompts write it.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Left => "on the left of",
            Self::Right => "on the right of",
            Self::Top => "on the top of",
            Self::Bottom => "on the bottom of",
        }
    }
}

/// The word for a count of objects in [2, 4].
pub fn number_word(count: usize) -> Option<&'static str> {
    match count {
        2 => Some("two"),
        3 => Some("three"),
        4 => Some("four"),
        _ => None,
    }
}

const SIGN_WORDS: &str = include_str!("../../datasets/mini/sign-words.txt");

/// Sign words that training may show.
pub fn seen_sign_words() -> &'static [&'static str] {
    static WORDS: OnceLock<Vec<&str>> = OnceLock::new();
    WORDS.get_or_init(|| sign_words("seen"))
}

/// Sign words that only validation shows.
pub fn unseen_sign_words() -> &'static [&'static str] {
    static WORDS: OnceLock<Vec<&str>> = OnceLock::new();
    WORDS.get_or_init(|| sign_words("unseen"))
}

fn sign_words(part: &str) -> Vec<&'static str> {
    SIGN_WORDS.lines().filter_map(|line| line.split_once(' ')).filter(|(_, found)| *found == part).map(|(word, _)| word).collect()
}

/// A string of 3 to 6 letters, each equally likely, that is not an unseen sign word: for learning letters instead of words.
pub fn random_letters(rng: &mut impl Rng) -> String {
    loop {
        let length = 3 + below(rng, 4);
        let word: String = (0..length).map(|_| char::from(b'a' + below(rng, 26) as u8)).collect();
        if !unseen_sign_words().contains(&word.as_str()) {
            return word;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_world_is_as_large_as_agreed() {
        assert!(Noun::all().count() >= 16);
        assert_eq!((Colour::COUNT, Background::COUNT), (6, 4));
        assert_eq!((seen_sign_words().len(), unseen_sign_words().len()), (80, 20));
        let all: HashSet<_> = seen_sign_words().iter().chain(unseen_sign_words()).collect();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|word| (3..=6).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase())));
        let letters: HashSet<_> = seen_sign_words().iter().flat_map(|word| word.bytes()).collect();
        assert_eq!(letters.len(), 26, "training must show every letter");
    }

    #[test]
    fn held_out_combinations_are_one_in_eight_and_spread_evenly() {
        for colour in Colour::all() {
            assert_eq!(Noun::all().filter(|&noun| held_out(noun, colour)).count(), 2);
        }
        for noun in Noun::all() {
            assert!(Colour::all().filter(|&colour| held_out(noun, colour)).count() <= 1);
        }
    }

    #[test]
    fn colours_are_far_apart() {
        let distance = |a: [u8; 3], b: [u8; 3]| (0..3).map(|i| (f64::from(a[i]) - f64::from(b[i])).powi(2)).sum::<f64>().sqrt();
        for a in Colour::all() {
            assert!(Colour::all().filter(|&b| b != a).all(|b| distance(a.rgb(), b.rgb()) > 90.0));
            assert!(Background::all().all(|b| distance(a.rgb(), b.rgb()) > 150.0), "{a:?}");
        }
        for a in Background::all() {
            assert!(Background::all().filter(|&b| b != a).all(|b| distance(a.rgb(), b.rgb()) > 40.0));
        }
    }

    #[test]
    fn words_survive_json_by_name() {
        let noun = Noun::named("turtle").unwrap();
        assert_eq!(serde_json::to_string(&noun).unwrap(), "\"turtle\"");
        assert_eq!(serde_json::from_str::<Noun>("\"turtle\"").unwrap(), noun);
        assert!(serde_json::from_str::<Noun>("\"sofa\"").unwrap_err().to_string().contains("sofa"));
    }
}
