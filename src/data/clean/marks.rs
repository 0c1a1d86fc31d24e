//! Flags of a caption from its words: unsafe, personal, not English. Simple rules of our own that can be read here in full;
//! they are kept as columns so that nobody has to agree with them.
//!
//! * unsafe: one word of [`UNSAFE`]. Slurs are not looked for, and harmless uses ("nude lipstick") are found, too.
//! * personal: an e-mail address; a telephone number of 10 to 15 digits with a `+`, a bracketed area code or groups of two to
//!   four digits; three, two and four digits with dashes (a US social security number); 16 digits that pass the check sum of
//!   payment cards.
//! * not English: more than half of the letters are not Latin; or at least two different words, and a quarter of all, are small words of
//!   one other language and these outnumber the small words of English.

use std::sync::LazyLock;

use super::words::{Words, word_hash};
use crate::data::flags::{Flag, Flags};

/// Words that make a caption unsafe.
pub const UNSAFE: [&str; 40] = [
    "porn",
    "porno",
    "pornographic",
    "pornography",
    "pornstar",
    "hentai",
    "nsfw",
    "xxx",
    "erotic",
    "erotica",
    "nude",
    "nudes",
    "nudity",
    "naked",
    "topless",
    "blowjob",
    "handjob",
    "orgy",
    "orgasm",
    "fetish",
    "bdsm",
    "bondage",
    "milf",
    "incest",
    "rape",
    "raped",
    "rapist",
    "upskirt",
    "gore",
    "beheaded",
    "beheading",
    "decapitated",
    "decapitation",
    "dismembered",
    "mutilated",
    "torture",
    "tortured",
    "suicide",
    "lolita",
    "masturbating",
];

/// Small words that tell a language: frequent, and no words of English captions. A word may stand in several lists.
const SMALL_WORDS: [(Language, &str); 8] = [
    (
        Language::English,
        "the of and in on at with for from to by is are was his her their this that it its as an into over under near through new old \
         white black red blue green woman man girl boy people photo view",
    ),
    (Language::German, "der das und mit für von auf ein eine einer ist im zum zur nicht dem den des bei aus vor nach über wie auch"),
    (Language::French, "le la les des du et une un dans pour avec sur est au aux par sous chez en de son ses"),
    (Language::Spanish, "el la los las del y con para por una un en que de su sus al como más"),
    (Language::Italian, "il la le lo gli di e con per della nel delle dei degli una un che al alla da sul"),
    (Language::Portuguese, "o os as da do das dos em com para uma um na no e por ao mais de"),
    (Language::Dutch, "het een van met voor en op te bij naar uit de zijn aan om ook"),
    (Language::Polish, "w z na do i nie jest dla się od po przez oraz ze pod nad"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    English,
    German,
    French,
    Spanish,
    Italian,
    Portuguese,
    Dutch,
    Polish,
}

/// Slots of the table: 1/12 of them are taken, so a miss ends at the first look.
const SLOTS: usize = 4096;
/// Bit that marks a word of [`UNSAFE`]; the bits below stand for the languages.
const UNSAFE_BIT: u16 = 1 << 8;

/// What is known of a word: its hash and its bits. Free slots are zero.
static KNOWN: LazyLock<Vec<(u64, u16)>> = LazyLock::new(|| {
    let mut slots = vec![(0, 0); SLOTS];
    let mut add = |word: &str, bit: u16| {
        let hash = word_hash(word);
        let mut at = hash as usize % SLOTS;
        while slots[at].0 != 0 && slots[at].0 != hash {
            at = (at + 1) % SLOTS;
        }
        slots[at] = (hash, slots[at].1 | bit);
    };
    UNSAFE.iter().for_each(|word| add(word, UNSAFE_BIT));
    for (language, words) in SMALL_WORDS {
        words.split_whitespace().for_each(|word| add(word, 1 << language as u16));
    }
    slots
});

/// The flags of a cleaned caption; `words` must be those of `text`.
pub fn flags(text: &str, words: &Words) -> Flags {
    let known = &*KNOWN;
    let (mut is_unsafe, mut counts) = (false, [0u32; SMALL_WORDS.len()]);
    for (i, &hash) in words.hashes().iter().enumerate() {
        let mut at = hash as usize % SLOTS;
        while known[at].0 != 0 && known[at].0 != hash {
            at = (at + 1) % SLOTS;
        }
        let bits = known[at].1;
        // A repeated word tells nothing new: "La La Land".
        if bits != 0 && !words.hashes()[..i].contains(&hash) {
            is_unsafe |= bits & UNSAFE_BIT != 0;
            for (language, count) in counts.iter_mut().enumerate() {
                *count += u32::from(bits >> language & 1);
            }
        }
    }
    let others = counts[1..].iter().copied().max().unwrap_or(0);
    let foreign_words = others >= 2 && others > counts[Language::English as usize] && others as usize * 4 >= words.hashes().len();
    Flags::NONE
        .with(Flag::Unsafe, is_unsafe)
        .with(Flag::Personal, personal(text))
        .with(Flag::NotEnglish, foreign_words || foreign_script(text))
}

/// More than half of the letters belong to no Latin alphabet.
fn foreign_script(text: &str) -> bool {
    if text.is_ascii() {
        return false;
    }
    let (mut letters, mut latin) = (0, 0);
    for letter in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        latin += usize::from(letter.is_ascii() || matches!(letter, '\u{AA}'..='\u{24F}' | '\u{1E00}'..='\u{1EFF}'));
    }
    letters > 2 * latin
}

fn personal(text: &str) -> bool {
    /// Digits of the shortest number looked for.
    const FEWEST_DIGITS: usize = 9;
    let (mut digits, mut at_sign) = (0, false);
    for byte in text.bytes() {
        digits += usize::from(byte.is_ascii_digit());
        at_sign |= byte == b'@';
    }
    (at_sign && text.split(' ').any(is_email)) || (digits >= FEWEST_DIGITS && has_personal_number(text))
}

/// `name@host.tld` with punctuation around it.
fn is_email(word: &str) -> bool {
    let word = word.trim_matches(|c: char| c.is_ascii_punctuation() && c != '@');
    let Some((name, host)) = word.split_once('@') else { return false };
    let Some((domain, ending)) = host.rsplit_once('.') else { return false };
    let letters = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._%+-".contains(&byte));
    letters(name) && letters(domain) && ending.len() >= 2 && ending.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// Looks at every run of digits and the characters that stand between the digits of a number.
fn has_personal_number(text: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_digit() || " +-.()".contains(c))).any(|run| {
        let run = run.trim_matches(|c: char| !c.is_ascii_digit() && c != '+' && c != '(');
        let groups: Vec<&str> = run.split(|c: char| !c.is_ascii_digit()).filter(|group| !group.is_empty()).collect();
        is_telephone(run, &groups) || is_identity_number(run, &groups) || is_card(&groups)
    })
}

fn is_telephone(run: &str, groups: &[&str]) -> bool {
    let digits: usize = groups.iter().map(|group| group.len()).sum();
    if !(10..=15).contains(&digits) {
        return false;
    }
    let area_code = run.starts_with('(') && run.contains(')');
    // Years in a row have four digits each, and the groups after the year of a date have two. In France all five have.
    let (fours, twos) = (groups.iter().all(|group| group.len() == 4), groups.iter().skip(1).all(|group| group.len() == 2));
    let french = groups.len() == 5 && groups[0].len() == 2;
    let grouped = groups.len() >= 3
        && groups[1..].iter().all(|group| (2..=4).contains(&group.len()))
        && groups[0].len() <= 4
        && !fours
        && (!twos || french)
        && run.contains(['-', '.', ')', '+']);
    run.starts_with('+') || area_code || grouped
}

fn is_identity_number(run: &str, groups: &[&str]) -> bool {
    groups.iter().map(|group| group.len()).eq([3, 2, 4]) && run.matches('-').count() == 2
}

/// Sixteen digits, in one group or in fours, that pass the check sum of ISO/IEC 7812 (Luhn).
fn is_card(groups: &[&str]) -> bool {
    if !groups.iter().map(|group| group.len()).eq([16]) && !groups.iter().map(|group| group.len()).eq([4; 4]) {
        return false;
    }
    let digits = groups.iter().flat_map(|group| group.bytes()).map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits.enumerate().map(|(i, digit)| if i % 2 == 0 { digit * 2 / 10 + digit * 2 % 10 } else { digit }).sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Flags {
        let mut words = Words::default();
        flags(text, words.read(text))
    }

    #[test]
    fn unsafe_words_are_found_whole_and_in_any_case() {
        for text in ["Naked man by a lake", "NSFW, do not open", "a scene of torture"] {
            assert!(of(text).has(Flag::Unsafe), "{text}");
        }
        for text in ["a nudibranch on coral", "Essex grapes", "a suicidally steep road"] {
            assert!(!of(text).has(Flag::Unsafe), "{text}");
        }
    }

    #[test]
    fn addresses_and_numbers_of_people_are_found() {
        for text in [
            "mail me: Jo.Doe+x@mail.example.org!",
            "call +44 20 7946 0958 now",
            "phone (555) 010-4477",
            "tel. 555-010-4477",
            "tél. 01.99.00.12.34",
            "SSN 078-05-1120",
            "card 4111 1111 1111 1111",
            "card 4111111111111111",
        ] {
            assert!(of(text).has(Flag::Personal), "{text}");
        }
        for text in [
            "meet @ the bar 5.30",
            "@artist on stage",
            "from 1914-1918 to 1939-1945",
            "years 2001 2002 2003 2004",
            "2019-10-12 10:30:15",
            "ISBN 978-3-16-148410-0",
            "4111 1111 1111 1112",
            "order 1234567890123",
            "3840x2160 wallpaper 1920x1080",
        ] {
            assert!(!of(text).has(Flag::Personal), "{text}");
        }
    }

    #[test]
    fn other_languages_and_scripts_are_found() {
        for text in [
            "Der Hund und die Katze auf dem Sofa",
            "Vue de la mer et du port",
            "La casa de los abuelos en el campo",
            "Il gatto e la volpe nel bosco",
            "O gato e os cães na praia",
            "Het huis van de boer met een tuin",
            "Kot i pies na dachu",
            "Красная машина у дома",
            "東京の夜景と桜 2019, Tokyo",
        ] {
            assert!(of(text).has(Flag::NotEnglish), "{text}");
        }
        for text in [
            "A red car in front of a house",
            "Red car, blue house",
            "La La Land poster",
            "The Café de la Paix in Paris at night",
            "Vincent van Gogh, The Starry Night",
            "Mont Saint-Michel, été",
            "",
            "2019",
        ] {
            assert!(!of(text).has(Flag::NotEnglish), "{text}");
        }
    }

    #[test]
    fn no_known_word_is_written_in_a_way_that_no_text_has() {
        let normal = |word: &str| super::super::words::normal_form(word) == word;
        assert!(UNSAFE.iter().all(|word| normal(word)));
        assert!(SMALL_WORDS.iter().all(|(_, words)| words.split_whitespace().all(normal)));
        assert_eq!(SMALL_WORDS.map(|(language, _)| language as usize), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
