//! The words of a text, lower case and without punctuation: the normal form in which duplicates are found, and a hash of every
//! word for what looks words up.

/// The words of one text after another; holds the buffers.
#[derive(Debug, Default)]
pub struct Words {
    normal: String,
    hashes: Vec<u64>,
}

impl Words {
    /// Reads a text; what was read before is gone.
    pub fn read(&mut self, text: &str) -> &Self {
        self.normal.clear();
        self.hashes.clear();
        let mut hash = WordHash::START;
        for &byte in text.as_bytes() {
            if !byte.is_ascii() {
                return self.read_letters(text);
            }
            if byte.is_ascii_alphanumeric() {
                let byte = byte.to_ascii_lowercase();
                if hash == WordHash::START && !self.normal.is_empty() {
                    self.normal.push(' ');
                }
                self.normal.push(char::from(byte));
                hash = hash.with(byte);
            } else if hash != WordHash::START {
                self.hashes.push(hash.finish());
                hash = WordHash::START;
            }
        }
        if hash != WordHash::START {
            self.hashes.push(hash.finish());
        }
        self
    }

    /// As [`Words::read`], for texts with letters beyond ASCII.
    fn read_letters(&mut self, text: &str) -> &Self {
        self.normal.clear();
        self.hashes.clear();
        let mut start = None;
        for letter in text.chars() {
            if letter.is_alphanumeric() {
                if start.is_none() {
                    if !self.normal.is_empty() {
                        self.normal.push(' ');
                    }
                    start = Some(self.normal.len());
                }
                self.normal.extend(letter.to_lowercase());
            } else if let Some(start) = start.take() {
                self.hashes.push(word_hash(&self.normal[start..]));
            }
        }
        if let Some(start) = start {
            self.hashes.push(word_hash(&self.normal[start..]));
        }
        self
    }

    /// The words, separated by single spaces: two texts with the same normal form ask for the same image.
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// [`word_hash`] of every word, in their order.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }
}

/// Lower case without punctuation ([`Words::normal`]).
pub fn normal_form(text: &str) -> String {
    let mut words = Words::default();
    words.read(text);
    words.normal
}

/// Hash of one word of a normal form, the same on every machine.
pub fn word_hash(word: &str) -> u64 {
    word.bytes().fold(WordHash::START, WordHash::with).finish()
}

/// FNV-1a with a finish, since multiplying leaves the low bits to the last letters. Two words never meet by malice here: a
/// collision costs one wrong flag or one more comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
struct WordHash(u64);

impl WordHash {
    const START: Self = Self(0xCBF2_9CE4_8422_2325);

    fn with(self, byte: u8) -> Self {
        Self((self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
    }

    fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// Spreads every bit over all bits (the finish of SplitMix64; Steele, Lea and Flood 2014).
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_form_ignores_case_and_punctuation() {
        assert_eq!(normal_form("A cat, holding a sign reading 'Stop'."), "a cat holding a sign reading stop");
        assert_eq!(normal_form("t-shirt"), "t shirt");
        assert_eq!(normal_form("  ÉTÉ – à\u{A0}Paris!"), "été à paris");
        assert_eq!(normal_form("…"), "");
    }

    proptest! {
        #[test]
        fn every_word_of_the_normal_form_has_its_hash(text in "[a-zA-ZéÉß0-9 ,.'-]{0,40}") {
            let mut words = Words::default();
            words.read(&text);
            let expected: Vec<u64> = words.normal().split_whitespace().map(word_hash).collect();
            prop_assert_eq!(words.hashes(), expected);
        }

        #[test]
        fn both_ways_of_reading_agree_on_ascii(text in "[ -~]{0,60}") {
            let (mut bytes, mut letters) = (Words::default(), Words::default());
            bytes.read(&text);
            letters.read_letters(&text);
            prop_assert_eq!(bytes.normal(), letters.normal());
            prop_assert_eq!(bytes.hashes(), letters.hashes());
        }
    }
}
