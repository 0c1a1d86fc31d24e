//! Text-rendering accuracy: how much of the text a picture should show was read in it. Pure functions of the target and
//! the recognised lines; running a reader over pictures is the evaluation's business.
//!
//! The paper measures characters, words and sentences but leaves normalisation and alignment open; the exact rules here
//! are stated at each score.

use tokenizers::NormalizedString;

use crate::error::{Error, Result};

/// Text that a picture should show: normalised, with at least one word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetText {
    scalars: Vec<char>,
    words: Vec<String>,
}

impl TargetText {
    /// Normalises `text`.
    ///
    /// # Errors
    /// Text without any word: nothing could be measured.
    pub fn new(text: &str) -> Result<Self> {
        let normalised = normalise(text);
        let words = words(&normalised);
        if words.is_empty() {
            return Err(Error::Invalid(format!("target text `{text}` has no word to look for")));
        }
        Ok(Self { scalars: normalised.chars().collect(), words })
    }

    /// Number of characters after normalisation.
    pub fn length(&self) -> usize {
        self.scalars.len()
    }

    /// The split by text type that reports use: `one word` or `several words`.
    pub fn kind(&self) -> &'static str {
        if self.words.len() == 1 { "one word" } else { "several words" }
    }

    /// The split by length that reports use, in characters.
    pub fn length_group(&self) -> &'static str {
        match self.length() {
            0..=3 => "1-3",
            4..=7 => "4-7",
            8..=12 => "8-12",
            _ => "over 12",
        }
    }
}

/// All scores of one picture, each in [0, 1], higher is better (except `nothing_read`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OcrScores {
    /// The paper's character accuracy: the read text, cut or padded to the target's length, compared place by place.
    pub char: f64,
    /// 1 if every target word is among the read words (as often as in the target), else 0.
    pub word: f64,
    /// 1 if the read text contains the target string, else 0.
    pub sentence: f64,
    /// The best `char` over the whole text from any start and over every single line: robust to other text in the picture.
    pub char_best: f64,
    /// 1 − Levenshtein distance / target length, at least 0, of the whole text or the best single line.
    pub one_minus_cer: f64,
    /// Share of the target words that are among the read words.
    pub word_recall: f64,
    /// 1 if the target words stand in the read words in one run, else 0.
    pub sentence_words: f64,
    /// 1 if the read text contains the target, both without spaces, else 0.
    pub sentence_nospace: f64,
    /// 1 if nothing was read at all.
    pub nothing_read: f64,
}

impl OcrScores {
    /// The scores under the names tables use, the three headline ones first.
    pub fn named(&self) -> [(&'static str, f64); 9] {
        [
            ("ocr_char", self.char),
            ("ocr_word", self.word),
            ("ocr_sentence", self.sentence),
            ("ocr_char_best", self.char_best),
            ("ocr_1-cer", self.one_minus_cer),
            ("ocr_word_recall", self.word_recall),
            ("ocr_sentence_words", self.sentence_words),
            ("ocr_sentence_nospace", self.sentence_nospace),
            ("ocr_nothing_read", self.nothing_read),
        ]
    }
}

/// Scores the recognised `lines` (in reading order) against `target`. Lines are joined by one space.
pub fn score(target: &TargetText, lines: &[String]) -> OcrScores {
    let goal = &target.scalars;
    let read_text = normalise(&lines.join(" "));
    let read: Vec<char> = read_text.chars().collect();
    let single: Vec<Vec<char>> = lines.iter().map(|line| normalise(line).chars().collect()).collect();
    let candidates = || std::iter::once(read.as_slice()).chain(single.iter().map(Vec::as_slice));
    let read_words = words(&read_text);
    let goal_text: String = goal.iter().collect();
    let without_spaces = |text: &str| text.replace(' ', "");

    let offsets = (0..read.len()).map(|start| &read[start..]);
    let char_best = offsets.chain(candidates()).map(|text| char_accuracy(goal, text)).fold(0.0, f64::max);
    let one_minus_cer = candidates().map(|text| 1.0 - levenshtein(text, goal) as f64 / goal.len() as f64).fold(0.0, f64::max);
    let found = found_words(&target.words, &read_words);
    OcrScores {
        char: char_accuracy(goal, &read),
        word: indicator(found == target.words.len()),
        sentence: indicator(read_text.contains(&goal_text)),
        char_best,
        one_minus_cer,
        word_recall: found as f64 / target.words.len() as f64,
        sentence_words: indicator(read_words.windows(target.words.len()).any(|run| run == target.words.as_slice())),
        sentence_nospace: indicator(without_spaces(&read_text).contains(&without_spaces(&goal_text))),
        nothing_read: indicator(read.is_empty()),
    }
}

/// Character accuracy over all characters of many pictures (micro average), weighting each by its target's length.
///
/// # Errors
/// No picture at all.
pub fn micro_char_accuracy(scored: &[(&TargetText, OcrScores)]) -> Result<f64> {
    let total: usize = scored.iter().map(|(target, _)| target.length()).sum();
    if total == 0 {
        return Err(Error::Invalid("no picture with target text to average over".into()));
    }
    Ok(scored.iter().map(|(target, scores)| scores.char * target.length() as f64).sum::<f64>() / total as f64)
}

/// Typographic quotes and dashes to ASCII, then NFKC, lower case, any run of white space to one space, trimmed.
pub fn normalise(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| match c {
            '\u{2019}' | '\u{2018}' | '\u{b4}' | '`' => '\'',
            '\u{201c}' | '\u{201d}' => '"',
            '\u{2013}' | '\u{2014}' | '\u{2212}' => '-',
            other => other,
        })
        .collect();
    let mut composed = NormalizedString::from(plain);
    composed.nfkc();
    composed.get().to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Words of a normalised text without the punctuation around them; inner apostrophes and hyphens stay.
fn words(normalised: &str) -> Vec<String> {
    let around = |c: char| ".,;:!?\"'()".contains(c);
    normalised.split(' ').map(|word| word.trim_matches(around).to_owned()).filter(|word| !word.is_empty()).collect()
}

/// How many of the `goal` words are among `read`, each read word counting once.
fn found_words(goal: &[String], read: &[String]) -> usize {
    let mut left: Vec<&String> = read.iter().collect();
    let mut found = 0;
    for word in goal {
        if let Some(place) = left.iter().position(|other| *other == word) {
            left.swap_remove(place);
            found += 1;
        }
    }
    found
}

/// Share of the places of `goal` at which `read` has the same character.
fn char_accuracy(goal: &[char], read: &[char]) -> f64 {
    goal.iter().zip(read).filter(|(a, b)| a == b).count() as f64 / goal.len() as f64
}

/// Number of insertions, deletions and replacements from `a` to `b`.
fn levenshtein(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn indicator(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(target: &str, read: &str) -> OcrScores {
        let lines: Vec<String> = if read.is_empty() { Vec::new() } else { vec![read.to_owned()] };
        score(&TargetText::new(target).unwrap(), &lines)
    }

    struct Case {
        target: &'static str,
        read: &'static str,
        char: f64,
        word: f64,
        sentence_words: f64,
        sentence: f64,
    }

    #[test]
    fn the_vectors_of_the_definition_hold() {
        let case = |target, read, char, word, sentence_words, sentence| Case { target, read, char, word, sentence_words, sentence };
        for case in [
            case("community", "Community", 1.0, 1.0, 1.0, 1.0),
            case("community", "COMUNITY", 3.0 / 9.0, 0.0, 0.0, 0.0),
            case("stay calm", "STAY  calm now", 1.0, 1.0, 1.0, 1.0),
            case("hi", "this", 0.0, 0.0, 0.0, 1.0),
            case("that's weird", "That\u{2019}s weird", 1.0, 1.0, 1.0, 1.0),
            case("how are you?", "HOW ARE YOU", 11.0 / 12.0, 1.0, 1.0, 0.0),
            case("in", "", 0.0, 0.0, 0.0, 0.0),
            case("moon", "the moon", 0.0, 1.0, 1.0, 1.0),
        ] {
            let found = scores(case.target, case.read);
            let name = format!("{} | {}", case.target, case.read);
            // The quotients are computed by the same division on both sides.
            assert_eq!(found.char, case.char, "{name}");
            assert_eq!(found.word_recall, case.word, "{name}");
            assert_eq!(found.sentence_words, case.sentence_words, "{name}");
            assert_eq!(found.sentence, case.sentence, "{name}");
        }
        assert_eq!(scores("moon", "the moon").char_best, 1.0);
        assert!((scores("community", "COMUNITY").one_minus_cer - 8.0 / 9.0).abs() < 1e-12);
    }

    #[test]
    fn one_missing_word_fails_the_picture_but_not_its_recall() {
        let found = scores("stay calm", "stay cool");
        assert_eq!((found.word, found.word_recall), (0.0, 0.5));
        assert_eq!(scores("no no", "no").word, 0.0);
        assert_eq!(scores("no no", "no, no!").word, 1.0);
    }

    #[test]
    fn lines_join_in_order_and_a_single_line_can_be_the_best() {
        let target = TargetText::new("open").unwrap();
        let found = score(&target, &["xx".into(), "open".into()]);
        assert_eq!((found.sentence, found.char, found.char_best, found.one_minus_cer), (1.0, 0.0, 1.0, 1.0));
        assert_eq!(score(&TargetText::new("stay calm").unwrap(), &["Stay".into(), "Calm".into()]).sentence, 1.0);
    }

    #[test]
    fn split_words_are_found_without_spaces_only() {
        let found = scores("rocket", "roc ket");
        assert_eq!((found.sentence, found.sentence_nospace), (0.0, 1.0));
    }

    #[test]
    fn nothing_read_scores_nothing() {
        let found = scores("in", "");
        assert_eq!(found.nothing_read, 1.0);
        assert!(found.named().iter().all(|(name, value)| *value == 0.0 || *name == "ocr_nothing_read"));
    }

    #[test]
    fn wide_letters_and_ligatures_are_composed() {
        assert_eq!(normalise("\u{ff28}\u{ff29} \t \u{fb01}n"), "hi fin");
    }

    #[test]
    fn a_target_without_words_is_an_error() {
        assert!(TargetText::new(" ?! ").unwrap_err().to_string().contains("no word"));
    }

    #[test]
    fn the_micro_average_weights_by_length() {
        let (short, long) = (TargetText::new("in").unwrap(), TargetText::new("rocket").unwrap());
        let scored = [(&short, scores("in", "")), (&long, scores("rocket", "rocket"))];
        assert!((micro_char_accuracy(&scored).unwrap() - 6.0 / 8.0).abs() < 1e-12);
        assert!(micro_char_accuracy(&[]).is_err());
        assert_eq!((short.length_group(), long.length_group(), long.kind()), ("1-3", "4-7", "one word"));
    }
}
