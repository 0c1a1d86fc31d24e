//! Makes the miniature world's tokenizer: a Unigram model as T5 has it. Words of the grammar are whole pieces; sign words
//! are spelt letter by letter, so that unseen words can be written: a denoiser with little training learns 26 letters in six slots,
//! not hundreds of groups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tokenizers::models::unigram::Unigram;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::words::{Background, Finish, LARGEST_COUNT, Noun, Relation, Shape, number_word, seen_sign_words};
use super::{corpus, grammar};
use crate::error::{Error, Result};
use crate::models::tokenizer::{EOS, PAD, UNKNOWN, WORD_START};
use crate::run::files::write_bytes;

/// Sentinels for span corruption; as in T5 they are the last pieces and count downwards.
pub const SENTINELS: usize = 32;

// Log probabilities. A whole word must win over any composition, a lone word start must lose against all.
const WORD_SCORE: f64 = -2.0;
const MARK_SCORE: f64 = -4.0;
const OTHER_SCORE: f64 = -12.0;

/// Builds the tokenizer; the same one every time.
pub fn build() -> Result<Tokenizer> {
    let failed = |error: tokenizers::Error| Error::Invalid(format!("cannot build the tokenizer: {error}"));
    let model = Unigram::from(pieces(), Some(2), false).map_err(failed)?;
    let mut tokenizer = Tokenizer::new(model);
    let metaspace = Metaspace::new(WORD_START, PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(metaspace.clone()));
    tokenizer.with_decoder(Some(metaspace));
    let ending = TemplateProcessing::builder()
        .try_single(format!("$A {EOS}"))
        .map_err(|error| failed(error.into()))?
        .special_tokens(vec![(EOS, 1)])
        .build()
        .map_err(|error| failed(error.into()))?;
    tokenizer.with_post_processor(Some(ending));
    let specials = [PAD, EOS, UNKNOWN].map(String::from).into_iter().chain((0..SENTINELS).rev().map(sentinel));
    let specials: Vec<AddedToken> = specials.map(|piece| AddedToken::from(piece, true)).collect();
    tokenizer.add_special_tokens(specials).map_err(failed)?;
    Ok(tokenizer)
}

/// Writes the tokenizer as a Hugging Face `tokenizer.json`.
pub fn write(path: &Path) -> Result<()> {
    write_bytes(path, json()?.as_bytes())
}

fn json() -> Result<String> {
    build()?.to_string(true).map_err(|error| Error::Invalid(format!("cannot write the tokenizer: {error}")))
}

fn sentinel(number: usize) -> String {
    format!("<extra_id_{number}>")
}

/// All pieces with their scores in the order of their ids.
fn pieces() -> Vec<(String, f64)> {
    let mut pieces = vec![(PAD.to_string(), 0.0), (EOS.to_string(), 0.0), (UNKNOWN.to_string(), 0.0)];
    let words = whole_words();
    pieces.extend(words.into_iter().map(|word| (format!("{WORD_START}{word}"), WORD_SCORE)));
    pieces.push((format!("{WORD_START}'"), WORD_SCORE));
    pieces.extend(['\'', '.', ',', '?', ':'].map(|mark| (mark.to_string(), MARK_SCORE)));
    pieces.extend(letters());
    // What users type and the grammar does not say.
    let others = ('A'..='Z').chain('0'..='9').chain(['!', '-', '"', WORD_START]);
    pieces.extend(others.map(|other| (other.to_string(), OTHER_SCORE)));
    pieces.extend((0..SENTINELS).rev().map(|number| (sentinel(number), 0.0)));
    pieces
}

/// Every word of the grammar and of the everyday sentences, as written.
fn whole_words() -> BTreeSet<String> {
    let mut texts: Vec<&str> = grammar::templates();
    texts.extend(corpus::texts());
    texts.extend(Noun::all().flat_map(|noun| [noun.name(), noun.plural()]));
    texts.extend(Finish::all().map(Finish::name).chain(Shape::all().map(Shape::name)).chain(Background::all().map(Background::name)));
    texts.extend(Relation::ALL.map(Relation::phrase));
    texts.extend((1..=LARGEST_COUNT).filter_map(number_word));
    let mut words = BTreeSet::new();
    for text in texts {
        // Slots of the templates are no words.
        let text = text.replace("{}", " ");
        for word in text.split(|c: char| c.is_whitespace() || ".,?:".contains(c)) {
            if !word.is_empty() && !word.contains(['{', '}']) {
                words.insert(word.to_string());
            }
        }
    }
    words
}

/// All letters, scored by the logarithm of their share in the seen sign words.
fn letters() -> Vec<(String, f64)> {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    seen_sign_words().iter().flat_map(|word| word.chars()).for_each(|letter| *counts.entry(letter).or_default() += 1);
    let total: usize = counts.values().sum();
    counts.into_iter().map(|(letter, count)| (letter.to_string(), (count as f64 / total as f64).ln())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::corpus::corpus_sentence;
    use crate::mini::grammar::{Dataset, sample_any, sample_prompt};
    use crate::mini::scene::Split;
    use crate::mini::words::unseen_sign_words;
    use crate::run::rng::Key;

    fn split_into_pieces(text: &str) -> Vec<String> {
        build().unwrap().encode(text, true).unwrap().get_tokens().to_vec()
    }

    #[test]
    fn the_committed_file_is_what_build_gives() {
        let path = Path::new("pipelines/mini/tokenizer.json");
        if std::env::var_os("SCALEDOWN_WRITE_TOKENIZER").is_some() {
            write(path).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), json().unwrap());
    }

    #[test]
    fn special_pieces_have_the_ids_of_t5() {
        let tokenizer = build().unwrap();
        let size = tokenizer.get_vocab_size(true);
        assert!(size <= 1024, "{size}");
        assert_eq!([PAD, EOS, UNKNOWN].map(|piece| tokenizer.token_to_id(piece)), [Some(0), Some(1), Some(2)]);
        for number in 0..SENTINELS {
            assert_eq!(tokenizer.token_to_id(&sentinel(number)), Some((size - 1 - number) as u32));
        }
    }

    #[test]
    fn grammar_words_stay_whole_and_sign_words_are_composed() {
        let pieces = split_into_pieces("A red dog holding a sign reading 'love' on a mint background.");
        assert_eq!(pieces[..8], ["▁A", "▁red", "▁dog", "▁holding", "▁a", "▁sign", "▁reading", "▁'"]);
        let end = pieces.iter().position(|piece| piece == "▁on").unwrap();
        assert_eq!(pieces[8..end], ["l", "o", "v", "e", "'"]);
        assert_eq!(pieces[end..], ["▁on", "▁a", "▁mint", "▁background", ".", "</s>"]);
        for word in unseen_sign_words() {
            let pieces = split_into_pieces(&format!("reading '{word}'"));
            assert_eq!(pieces.len(), 4 + word.len(), "{pieces:?}");
        }
    }

    #[test]
    fn every_prompt_fits_and_holds_no_unknown_piece() {
        let tokenizer = build().unwrap();
        let check = |text: String, limit: usize| {
            let encoding = tokenizer.encode(text.as_str(), true).unwrap();
            assert!(encoding.len() <= limit && !encoding.get_ids().contains(&2), "{text}: {:?}", encoding.get_tokens());
        };
        for item in 0..4000 {
            let key = Key { seed: 2, purpose: "fit", item, draw: 0 };
            check(sample_any(Split::Train, key).0, 24);
            check(corpus_sentence(key), 24);
            for dataset in Dataset::ALL {
                for category in dataset.categories() {
                    check(sample_prompt(dataset.name(), category, Split::Val, key).unwrap().0, 24);
                }
            }
        }
    }
}
