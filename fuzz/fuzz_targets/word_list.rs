//! A list of words by frequency: different words that a prompt can quote.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use scaledown::data::sources::commontext::grammar::{Articles, prompt};
use scaledown::data::sources::commontext::{PAPER_WORDS, listed_words};

fuzz_target!(|text: &str| {
    let words = listed_words(text);
    assert!(words.len() <= PAPER_WORDS && words.iter().collect::<BTreeSet<_>>().len() == words.len());
    for word in words {
        assert!(!word.is_empty() && !word.contains('\''));
        let prompt = prompt("cat", "with the inscription", word, Articles::Sentence);
        assert_eq!(prompt.split('\'').nth(1), Some(word));
    }
});
