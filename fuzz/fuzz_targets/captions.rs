//! Cleaning, words, flags and signature of a caption: cleaning twice is cleaning once, and what is clean has no control characters
//! and single spaces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scaledown::data::clean::caption::CaptionCleaner;
use scaledown::data::clean::words::Words;
use scaledown::data::clean::{collapse, entities, marks, normal_form};
use scaledown::data::near::{Shingles, jaccard, signature};

fuzz_target!(|text: &str| {
    let mut cleaner = CaptionCleaner::default();
    let clean = cleaner.clean(text).to_owned();
    assert_eq!(cleaner.clean(&clean), clean);
    assert_eq!(collapse(&clean), clean);
    assert!(!clean.chars().any(char::is_control));
    let (mut words, mut shingles) = (Words::default(), Shingles::default());
    let words = words.read(&clean);
    assert_eq!(words.normal(), normal_form(&clean));
    let flags = marks::flags(&clean, words);
    assert_eq!(flags.names().len(), flags.iter().count());
    let shingles = shingles.read(words);
    assert_eq!(signature(shingles), signature(shingles));
    assert_eq!(jaccard(shingles, shingles), 1.0);
    let _ = entities::unescape(text);
});
