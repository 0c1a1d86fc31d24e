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

/// What gives a noun its outline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A glyph of Noto Emoji.
    Glyph(char),
    /// One of the [`Shape`]s, worked up in this way.
    Shaped(Carrier),
}

/// The things that come in every shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Flat, with a dark frame.
    Plaque,
    /// With a dark side to the lower right.
    Box,
    /// With a highlight and a string.
    Balloon,
}

// Glyphs chosen by eye among some seventy: solid ones that stay recognisable and distinct at 28 px.
const NOUNS: [(&str, &str, Form, Animacy); 27] = [
    ("airplane", "airplanes", Form::Glyph('✈'), Animacy::Inanimate),
    ("apple", "apples", Form::Glyph('🍎'), Animacy::Inanimate),
    ("bicycle", "bicycles", Form::Glyph('🚲'), Animacy::Inanimate),
    ("bird", "birds", Form::Glyph('🐦'), Animacy::Animate),
    ("boat", "boats", Form::Glyph('⛵'), Animacy::Inanimate),
    ("book", "books", Form::Glyph('📖'), Animacy::Inanimate),
    ("bus", "buses", Form::Glyph('🚌'), Animacy::Inanimate),
    ("car", "cars", Form::Glyph('🚗'), Animacy::Inanimate),
    ("cat", "cats", Form::Glyph('🐈'), Animacy::Animate),
    ("clock", "clocks", Form::Glyph('⏰'), Animacy::Inanimate),
    ("cup", "cups", Form::Glyph('☕'), Animacy::Inanimate),
    ("dog", "dogs", Form::Glyph('🐕'), Animacy::Animate),
    ("elephant", "elephants", Form::Glyph('🐘'), Animacy::Animate),
    ("fish", "fishes", Form::Glyph('🐟'), Animacy::Animate),
    ("flower", "flowers", Form::Glyph('🌷'), Animacy::Inanimate),
    ("guitar", "guitars", Form::Glyph('🎸'), Animacy::Inanimate),
    ("hat", "hats", Form::Glyph('🎩'), Animacy::Inanimate),
    ("horse", "horses", Form::Glyph('🐎'), Animacy::Animate),
    ("house", "houses", Form::Glyph('🏠'), Animacy::Inanimate),
    ("key", "keys", Form::Glyph('🔑'), Animacy::Inanimate),
    ("rabbit", "rabbits", Form::Glyph('🐇'), Animacy::Animate),
    ("train", "trains", Form::Glyph('🚂'), Animacy::Inanimate),
    ("tree", "trees", Form::Glyph('🌲'), Animacy::Inanimate),
    ("turtle", "turtles", Form::Glyph('🐢'), Animacy::Animate),
    ("plaque", "plaques", Form::Shaped(Carrier::Plaque), Animacy::Inanimate),
    ("box", "boxes", Form::Shaped(Carrier::Box), Animacy::Inanimate),
    ("balloon", "balloons", Form::Shaped(Carrier::Balloon), Animacy::Inanimate),
];

/// How a [`Finish`] covers an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// One even colour.
    Even,
    /// Lying stripes of a second colour.
    Grain([u8; 3]),
    /// Slanted bands that fade into a second colour.
    Sheen([u8; 3]),
    /// Squares of a second colour.
    Checks([u8; 3]),
    /// Dots of a second colour.
    Dots([u8; 3]),
}

const FINISHES: [(&str, [u8; 3], Pattern); 12] = [
    ("red", [206, 24, 36], Pattern::Even),
    ("orange", [255, 128, 0], Pattern::Even),
    ("yellow", [252, 220, 20], Pattern::Even),
    ("green", [30, 148, 52], Pattern::Even),
    ("blue", [38, 78, 222], Pattern::Even),
    ("purple", [150, 48, 186], Pattern::Even),
    ("brown", [112, 64, 28], Pattern::Even),
    ("black", [24, 24, 24], Pattern::Even),
    ("wooden", [206, 160, 100], Pattern::Grain([134, 84, 36])),
    ("metallic", [86, 94, 112], Pattern::Sheen([222, 228, 238])),
    ("fabric", [0, 140, 150], Pattern::Checks([120, 212, 208])),
    ("fluffy", [230, 96, 150], Pattern::Dots([152, 24, 88])),
];

/// How many of the finishes are colours; the textures follow.
const COLOURS: usize = 8;

const SHAPES: [(&str,); 5] = [("round",), ("square",), ("triangular",), ("oval",), ("star",)];

const BACKGROUNDS: [(&str, [u8; 3]); 4] =
    [("white", [250, 250, 250]), ("sky", [186, 220, 252]), ("pink", [252, 206, 222]), ("mint", [196, 242, 214])];

word_class!(
    /// What an object is.
    Noun, (&'static str, &'static str, Form, Animacy), NOUNS, "noun"
);
word_class!(
    /// What covers an object: one of eight colours or of four textures. A texture has colours of its own.
    Finish, (&'static str, [u8; 3], Pattern), FINISHES, "colour or texture"
);
word_class!(
    /// The outline of a plaque, a box or a balloon.
    Shape, (&'static str,), SHAPES, "shape"
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

    /// What gives it its outline.
    pub fn form(self) -> Form {
        self.entry().2
    }

    /// Whether it comes in shapes.
    pub fn is_shaped(self) -> bool {
        matches!(self.form(), Form::Shaped(_))
    }

    /// Whether it can hold a sign.
    pub fn animacy(self) -> Animacy {
        self.entry().3
    }
}

impl Finish {
    /// The colours.
    pub fn colours() -> impl Iterator<Item = Self> {
        Self::all().take(COLOURS)
    }

    /// The textures.
    pub fn textures() -> impl Iterator<Item = Self> {
        Self::all().skip(COLOURS)
    }

    /// Whether it is a texture and no colour.
    pub fn is_texture(self) -> bool {
        self.index() >= COLOURS
    }

    /// Red, green and blue of the ground in [0, 255] (sRGB).
    pub fn rgb(self) -> [u8; 3] {
        self.entry().1
    }

    /// How it covers an object.
    pub fn pattern(self) -> Pattern {
        self.entry().2
    }
}

impl Background {
    /// Red, green and blue in [0, 255] (sRGB).
    pub fn rgb(self) -> [u8; 3] {
        self.entry().1
    }
}

/// Combinations that training never shows. The rule gives every noun exactly one such colour and at most one such texture
/// (3 and 5 are invertible modulo 8), so that each word by itself is well known from training.
pub fn held_out(noun: Noun, finish: Finish) -> bool {
    (3 * noun.index() + 5 * finish.index()).is_multiple_of(8)
}

/// The same for shapes: every shape lacks exactly one colour.
pub fn held_out_shape(shape: Shape, finish: Finish) -> bool {
    3 * shape.index() % 8 == finish.index()
}

/// The same for counts: every noun lacks at most one count in [1, 5].
pub fn held_out_count(noun: Noun, count: usize) -> bool {
    (noun.index() + count).is_multiple_of(6)
}

/// How the first object of a prompt stands to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    Left,
    Right,
    Top,
    Bottom,
    NextTo,
    Near,
    OnSideOf,
    InFrontOf,
    Behind,
    HiddenBy,
}

impl Relation {
    pub const ALL: [Self; 10] = [
        Self::Left,
        Self::Right,
        Self::Top,
        Self::Bottom,
        Self::NextTo,
        Self::Near,
        Self::OnSideOf,
        Self::InFrontOf,
        Self::Behind,
        Self::HiddenBy,
    ];
    /// Those in the plane of the picture.
    pub const PLANE: [Self; 7] = [Self::Left, Self::Right, Self::Top, Self::Bottom, Self::NextTo, Self::Near, Self::OnSideOf];
    /// Those along the line of sight.
    pub const DEPTH: [Self; 3] = [Self::InFrontOf, Self::Behind, Self::HiddenBy];

    /// As prompts write it.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Left => "on the left of",
            Self::Right => "on the right of",
            Self::Top => "on the top of",
            Self::Bottom => "on the bottom of",
            Self::NextTo => "next to",
            Self::Near => "near",
            Self::OnSideOf => "on side of",
            Self::InFrontOf => "in front of",
            Self::Behind => "behind",
            Self::HiddenBy => "hidden by",
        }
    }
}

/// Largest number of equal objects.
pub const LARGEST_COUNT: usize = 5;

/// The word for a count of objects in [1, 5].
pub fn number_word(count: usize) -> Option<&'static str> {
    ["one", "two", "three", "four", "five"].get(count.checked_sub(1)?).copied()
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
        assert!(Noun::all().filter(|noun| !noun.is_shaped()).count() >= 24);
        assert!(Finish::colours().count() >= 8 && Finish::textures().count() >= 4 && Shape::COUNT >= 5);
        assert_eq!(Noun::all().filter(|noun| noun.is_shaped()).map(Noun::name).collect::<Vec<_>>(), ["plaque", "box", "balloon"]);
        assert!(Background::COUNT >= 4 && LARGEST_COUNT >= 5 && number_word(LARGEST_COUNT).is_some());
        assert_eq!((Relation::PLANE.len(), Relation::DEPTH.len()), (7, 3));
        let phrases: HashSet<_> = Relation::ALL.into_iter().map(Relation::phrase).collect();
        assert_eq!(phrases.len(), 10);
        assert_eq!((seen_sign_words().len(), unseen_sign_words().len()), (500, 100));
        let all: HashSet<_> = seen_sign_words().iter().chain(unseen_sign_words()).collect();
        assert_eq!(all.len(), 600);
        assert!(all.iter().all(|word| (3..=6).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase())));
        let letters: HashSet<_> = seen_sign_words().iter().flat_map(|word| word.bytes()).collect();
        assert_eq!(letters.len(), 26, "training must show every letter");
    }

    #[test]
    fn held_out_combinations_are_spread_evenly() {
        for noun in Noun::all() {
            assert_eq!(Finish::colours().filter(|&colour| held_out(noun, colour)).count(), 1);
            assert!(Finish::textures().filter(|&texture| held_out(noun, texture)).count() <= 1);
            assert!((1..=LARGEST_COUNT).filter(|&count| held_out_count(noun, count)).count() <= 1);
        }
        for finish in Finish::all() {
            let n = Noun::all().filter(|&noun| held_out(noun, finish)).count();
            assert!((3..=4).contains(&n), "{finish:?} {n}");
        }
        for shape in Shape::all() {
            assert_eq!(Finish::colours().filter(|&colour| held_out_shape(shape, colour)).count(), 1);
        }
        for count in 1..=LARGEST_COUNT {
            assert!(Noun::all().filter(|&noun| held_out_count(noun, count)).count() >= 4);
        }
    }

    #[test]
    fn colours_are_far_apart() {
        let distance = |a: [u8; 3], b: [u8; 3]| (0..3).map(|i| (f64::from(a[i]) - f64::from(b[i])).powi(2)).sum::<f64>().sqrt();
        for a in Finish::colours() {
            for b in Finish::colours().filter(|&b| b != a) {
                assert!(distance(a.rgb(), b.rgb()) > 90.0, "{a:?} {b:?}");
            }
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
