//! Texts that training never shows: unseen words, sentences of at least two, four and eight words, digits, punctuation,
//! and long lines. Made from word classes of our own, so that there are more of them than anyone draws.

use rand::Rng;

use crate::run::rng::{below, pick};

/// A kind of held-out text; its name is the category of its prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One word that the training list lacks.
    UnseenWord,
    /// Two or three words.
    TwoWords,
    /// Four to seven words.
    FourWords,
    /// Eight to twelve words.
    EightWords,
    /// With numbers.
    Digits,
    /// With marks other than apostrophe and hyphen.
    Punctuation,
    /// At least 70 characters.
    Long,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 7] =
        [Kind::UnseenWord, Kind::TwoWords, Kind::FourWords, Kind::EightWords, Kind::Digits, Kind::Punctuation, Kind::Long];

    /// Category of its prompts.
    pub fn category(self) -> &'static str {
        match self {
            Kind::UnseenWord => "unseen-word",
            Kind::TwoWords => "words-2",
            Kind::FourWords => "words-4",
            Kind::EightWords => "words-8",
            Kind::Digits => "digits",
            Kind::Punctuation => "punctuation",
            Kind::Long => "long",
        }
    }

    /// Draws one text; `unseen` must not be empty.
    pub fn draw(self, rng: &mut impl Rng, unseen: &[&str]) -> String {
        match self {
            Kind::UnseenWord => (*pick(rng, unseen)).to_owned(),
            Kind::TwoWords => noun_phrase(rng),
            Kind::FourWords => format!("{} {} {}", pick(rng, &["the", "my", "our", "every"]), noun_phrase(rng), pick(rng, &VERBS)),
            Kind::EightWords => sentence(rng),
            Kind::Digits => digits(rng),
            Kind::Punctuation => punctuation(rng),
            Kind::Long => format!("{} {} {}", sentence(rng), pick(rng, &["while", "because", "until", "and"]), sentence(rng)),
        }
    }
}

/// Two words.
fn noun_phrase(rng: &mut impl Rng) -> String {
    format!("{} {}", pick(rng, &ADJECTIVES), pick(rng, &NOUNS))
}

/// Nine to twelve words.
fn sentence(rng: &mut impl Rng) -> String {
    let (subject, verb, object) = (noun_phrase(rng), pick(rng, &TRANSITIVE), noun_phrase(rng));
    let article = if object.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("the {subject} {verb} {article} {object} {}", pick(rng, &PLACES))
}

fn digits(rng: &mut impl Rng) -> String {
    let mut number = |from: usize, to: usize| from + below(rng, to - from);
    match number(0, 10) {
        0 => format!("room {}", number(100, 1000)),
        1 => format!("{}:{:02} {}", number(1, 13), number(0, 60), if number(0, 2) == 0 { "am" } else { "pm" }),
        2 => format!("{}% off", number(5, 96)),
        3 => format!("gate {}{}", number(1, 60), char::from(b'A' + number(0, 6) as u8)),
        4 => format!("${}.{:02}", number(1, 100), number(0, 100)),
        5 => format!("since {}", number(1820, 2026)),
        6 => format!("{} km", number(10, 1000)),
        7 => format!("call 555-{:04}", number(0, 10_000)),
        8 => format!("level {} of {}", number(2, 50), number(50, 100)),
        _ => format!("{:02}/{:02}/{}", number(1, 29), number(1, 13), number(1990, 2040)),
    }
}

fn punctuation(rng: &mut impl Rng) -> String {
    let form = below(rng, 8);
    let (a, b, c) = (*pick(rng, &NOUNS), *pick(rng, &NOUNS), *pick(rng, &ADJECTIVES));
    match form {
        0 => format!("{a}, {b} & more"),
        1 => format!("{c}? {c}!"),
        2 => format!("wait... {c} {a}!"),
        3 => format!("{a} ({c})"),
        4 => format!("{c}: {a}"),
        5 => format!("no {a}; no {b}"),
        6 => format!("{a}/{b}"),
        _ => format!("the {a}'s {b}, {c}!"),
    }
}

#[rustfmt::skip]
const ADJECTIVES: [&str; 40] = [
    "brave", "silent", "golden", "crooked", "gentle", "frozen", "curious", "hollow", "polite", "rusty", "sleepy", "velvet", "wandering",
    "clever", "dusty", "electric", "floating", "grumpy", "hidden", "jolly", "lonely", "mighty", "nervous", "ornate", "patient", "quick",
    "rapid", "shiny", "tiny", "upbeat", "vivid", "wooden", "young", "zesty", "amber", "breezy", "cosmic", "daring", "eager", "fuzzy",
];
#[rustfmt::skip]
const NOUNS: [&str; 48] = [
    "otter", "lantern", "harbor", "teapot", "compass", "meadow", "violin", "glacier", "pumpkin", "anchor", "balloon", "cactus", "dolphin",
    "engine", "feather", "garden", "hammer", "island", "jacket", "kettle", "ladder", "mirror", "notebook", "orchard", "pencil", "quilt",
    "river", "saddle", "telescope", "umbrella", "village", "walrus", "yacht", "zeppelin", "acorn", "beetle", "candle", "donkey", "falcon",
    "goblet", "helmet", "igloo", "jigsaw", "lemon", "magnet", "needle", "oyster", "parrot",
];
/// Verbs of sentences that end with them.
#[rustfmt::skip]
const VERBS: [&str; 16] = [
    "sings", "returns", "sparkles", "waits outside", "dances", "travels far", "disappears", "wakes early", "laughs", "glows", "grows slowly",
    "escapes", "rests", "wins again", "whispers", "never sleeps",
];
/// Verbs that take an object.
#[rustfmt::skip]
const TRANSITIVE: [&str; 16] = [
    "paints", "borrows", "carries", "follows", "admires", "repairs", "discovers", "remembers", "invites", "polishes", "collects", "guards",
    "measures", "balances", "unwraps", "draws",
];
#[rustfmt::skip]
const PLACES: [&str; 16] = [
    "behind the market", "under the bridge", "beside the fountain", "above the clouds", "near the old station", "inside the museum",
    "along the canal", "before the concert", "after the rain", "across the bay", "in the attic", "on the roof", "at the crossroads",
    "without a map", "during the parade", "beyond the hills",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng::{Key, stream};

    #[test]
    fn every_kind_keeps_what_its_name_says() {
        let mut rng = stream(Key { seed: 3, purpose: "test", item: 0, draw: 0 });
        for _ in 0..2000 {
            for kind in Kind::ALL {
                let text = kind.draw(&mut rng, &["zephyr"]);
                let words = text.split(' ').count();
                let holds = match kind {
                    Kind::UnseenWord => text == "zephyr",
                    Kind::TwoWords => (2..4).contains(&words),
                    Kind::FourWords => (4..8).contains(&words),
                    Kind::EightWords => (8..13).contains(&words),
                    Kind::Digits => text.contains(|c: char| c.is_ascii_digit()),
                    Kind::Punctuation => text.contains(|c: char| c.is_ascii_punctuation() && !"'-".contains(c)),
                    Kind::Long => text.len() >= 70,
                };
                assert!(holds, "{kind:?}: {text}");
            }
        }
    }
}
