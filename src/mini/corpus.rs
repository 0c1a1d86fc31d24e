//! Sentences for pretraining text encoders on text alone: the captions of the world (training split only), signs with
//! random letters, and everyday sentences that nothing visual stands behind.

use rand::Rng;

use super::grammar::{Dataset, prompt, sample_any};
use super::looks::Attribute;
use super::scene::{Kind, Scene, Split};
use super::words::random_letters;
use crate::run::rng::{Key, below, stream, uniform};

/// One sentence; equal keys give equal sentences. Half are captions as training has them, a fifth are signs with random
/// letters (so that every letter is learned in every place), the rest is not about pictures.
pub fn corpus_sentence(key: Key) -> String {
    let rng = &mut stream(key);
    match uniform(rng) {
        // The nested key keeps the caption independent of the draw that chose it.
        u if u < 0.5 => sample_any(Split::Train, Key { purpose: "corpus caption", item: rng.next_u64(), ..key }).0,
        u if u < 0.7 => {
            let scene =
                Scene { sign_word: Some(random_letters(rng)), ..Scene::sample_kind(rng, Kind::Sign, Split::Train, Attribute::Colour) };
            prompt(&scene, rng, Dataset::CommonText)
        }
        _ => everyday_sentence(rng),
    }
}

const PERSONS: [&str; 12] = [
    "my brother",
    "our neighbor",
    "the teacher",
    "his sister",
    "her friend",
    "the manager",
    "a student",
    "the writer",
    "my uncle",
    "their daughter",
    "the lawyer",
    "nobody",
];
const TIMES: [&str; 14] = [
    "yesterday",
    "today",
    "tomorrow",
    "last week",
    "every morning",
    "at noon",
    "in the evening",
    "on monday",
    "on friday",
    "this year",
    "much later",
    "twice a month",
    "for an hour",
    "after lunch",
];
const NUMBERS: [&str; 12] = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "twenty"];
const THINGS: [&str; 16] = [
    "idea", "plan", "question", "answer", "problem", "promise", "lesson", "law", "price", "reason", "story", "meeting", "journey",
    "decision", "rule", "habit",
];
const OPINIONS: [&str; 12] = [
    "useful",
    "difficult",
    "strange",
    "boring",
    "important",
    "wonderful",
    "terrible",
    "expensive",
    "honest",
    "simple",
    "sensible",
    "unfair",
];
const DEEDS: [&str; 12] = [
    "forgot",
    "explained",
    "changed",
    "accepted",
    "refused",
    "discussed",
    "remembered",
    "described",
    "liked",
    "doubted",
    "finished",
    "started",
];
const MEASURES: [&str; 8] = ["minutes", "days", "weeks", "months", "years", "meters", "dollars", "percent"];

// {P} person, {T} time, {N} number, {X} thing, {O} opinion, {D} deed, {M} measure.
const TEMPLATES: [&str; 24] = [
    "{P} {D} the {X} {T}.",
    "{P} thinks that the {X} is {O}.",
    "the {X} was {O}, but {P} {D} it.",
    "it takes {N} {M} to understand a {O} {X}.",
    "{N} plus {N} is not always {N}.",
    "why is the {X} so {O}?",
    "{T} {P} will have a {O} {X}.",
    "who {D} the {X} {T}?",
    "because the {X} is {O}, {P} waits.",
    "the {X} costs {N} {M}.",
    "{P} has known the {X} for {N} {M}.",
    "if the {X} is {O}, tell {P}.",
    "{P} and {P} never agree about the {X}.",
    "a {O} {X} needs a {O} {X}.",
    "only {N} of {N} {M} are left.",
    "{T} the {X} will be {O} again.",
    "in my opinion the {X} is more {O} than the {X}.",
    "{P} asked {N} times, then {D} the {X}.",
    "nothing is as {O} as a {X} {T}.",
    "please do not ask {P} about the {X}.",
    "the meaning of the {X} is {O}.",
    "{P} believes in a {O} {X} and in the law.",
    "there were {N} {M} between the {X} and the {X}.",
    "{P} said: the {X} is {O}.",
];

fn everyday_sentence(rng: &mut impl Rng) -> String {
    let template = TEMPLATES[below(rng, TEMPLATES.len())];
    let mut sentence = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        sentence.push_str(before);
        let (slot, after) = after.split_once('}').unwrap_or((after, ""));
        let fillers = fillers(slot);
        sentence.push_str(fillers[below(rng, fillers.len())]);
        rest = after;
    }
    sentence + rest
}

fn fillers(slot: &str) -> &'static [&'static str] {
    match slot {
        "P" => &PERSONS,
        "T" => &TIMES,
        "N" => &NUMBERS,
        "X" => &THINGS,
        "O" => &OPINIONS,
        "D" => &DEEDS,
        _ => &MEASURES,
    }
}

/// Every text the everyday sentences are made of; for the tokenizer.
pub(super) fn texts() -> impl Iterator<Item = &'static str> {
    let classes: [&[&str]; 8] = [&PERSONS, &TIMES, &NUMBERS, &THINGS, &OPINIONS, &DEEDS, &MEASURES, &TEMPLATES];
    classes.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::words::{Finish, Noun, held_out, seen_sign_words, unseen_sign_words};

    fn sentences(n: u64) -> impl Iterator<Item = String> {
        (0..n).map(|item| corpus_sentence(Key { seed: 9, purpose: "corpus", item, draw: 0 }))
    }

    #[test]
    fn the_corpus_never_names_a_held_out_combination_or_an_unseen_word() {
        let mut forbidden: Vec<String> = unseen_sign_words().iter().map(|word| format!("'{word}'")).collect();
        for noun in Noun::all() {
            for finish in Finish::all().filter(|&finish| held_out(noun, finish)) {
                forbidden.push(format!(" {} {} ", finish.name(), noun.name()));
            }
        }
        for sentence in sentences(5000) {
            assert!(!forbidden.iter().any(|text| sentence.contains(text.as_str())), "{sentence}");
        }
    }

    #[test]
    fn everyday_sentences_fill_every_slot_and_use_no_sign_word() {
        for item in 0..2000 {
            let sentence = everyday_sentence(&mut stream(Key { seed: 9, purpose: "everyday", item, draw: 0 }));
            assert!(!sentence.contains(['{', '}']), "{sentence}");
            for word in sentence.split(|c: char| !c.is_ascii_alphabetic()) {
                assert!(!seen_sign_words().contains(&word) && !unseen_sign_words().contains(&word), "{sentence}");
            }
        }
    }

    #[test]
    fn equal_keys_give_equal_sentences() {
        assert!(sentences(50).eq(sentences(50)));
    }
}
