//! The leak audit: for every training set and every validation set, how many validation prompts training gives away, by five
//! measures from the strictest to the loosest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::data::clean::normal_form;
use crate::data::clean::words::{Words, mix};
use crate::data::near::{self, Shingles};
use crate::data::schema::{TRAIN, VAL};
use crate::data::sources::RawPrompt;

/// Words in a row that count as a quotation. T2I-CompBench's templates have seven, so that a shared template is none.
pub const RUN: usize = 8;
/// Share of common words and pairs of neighbours from which prompts are nearly the same.
const SIMILAR: f64 = 0.8;

/// One training set against one validation set. All counts are of validation prompts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    pub train: String,
    pub val: String,
    pub train_prompts: usize,
    pub val_prompts: usize,
    /// That stand in training letter by letter.
    pub exact: usize,
    /// Whose normal form (no case, no punctuation) does.
    pub normalised: usize,
    /// With a target text.
    pub with_target: usize,
    /// Whose target text, in normal form, is one of a training prompt.
    pub target_seen: usize,
    /// That share [`RUN`] words in a row with a training prompt.
    pub quoted: usize,
    /// With a training prompt of Jaccard similarity 0.8 or more over words and pairs of neighbours (MinHash).
    pub near: usize,
}

impl Pair {
    /// Target texts seen in training in percent; `None` where no prompt has one.
    pub fn target_seen_percent(&self) -> Option<f64> {
        (self.with_target > 0).then(|| 100.0 * self.target_seen as f64 / self.with_target as f64)
    }
}

/// What is looked up in a training set.
struct Known<'a> {
    exact: HashSet<&'a str>,
    normalised: HashSet<&'a str>,
    targets: HashSet<String>,
    /// Hashes of runs: of a million of them, two are equal with a probability of 3 in 10⁸.
    runs: HashSet<u64>,
    near: Near,
}

/// Every pair of a training and a validation set that have prompts, sorted.
pub fn pairs(prompts: &[RawPrompt]) -> Vec<Pair> {
    let normals: Vec<String> = prompts.iter().map(|prompt| normal_form(&prompt.prompt)).collect();
    let sets = |split: &str| {
        let mut sets: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate().filter(|(_, prompt)| prompt.split.as_deref() == Some(split)) {
            sets.entry(&prompt.dataset).or_default().push(i);
        }
        sets
    };
    let (train, val) = (sets(TRAIN), sets(VAL));
    let mut pairs = Vec::new();
    for (train_set, rows) in &train {
        let known = Known {
            exact: rows.iter().map(|&i| prompts[i].prompt.as_str()).collect(),
            normalised: rows.iter().map(|&i| normals[i].as_str()).collect(),
            targets: rows.iter().filter_map(|&i| prompts[i].target_text.as_deref()).map(target_form).collect(),
            runs: rows.iter().flat_map(|&i| runs(&normals[i])).collect(),
            near: Near::new(rows.iter().map(|&i| normals[i].as_str())),
        };
        for (val_set, asked) in &val {
            let count = |found: &dyn Fn(usize) -> bool| asked.iter().filter(|&&i| found(i)).count();
            let target = |i: usize| prompts[i].target_text.as_deref().map(target_form);
            pairs.push(Pair {
                train: (*train_set).to_owned(),
                val: (*val_set).to_owned(),
                train_prompts: rows.len(),
                val_prompts: asked.len(),
                exact: count(&|i| known.exact.contains(prompts[i].prompt.as_str())),
                normalised: count(&|i| known.normalised.contains(normals[i].as_str())),
                with_target: count(&|i| target(i).is_some()),
                target_seen: count(&|i| target(i).is_some_and(|target| known.targets.contains(&target))),
                quoted: count(&|i| runs(&normals[i]).iter().any(|run| known.runs.contains(run))),
                near: count(&|i| known.near.has(&normals[i])),
            });
        }
    }
    pairs
}

/// Training prompts by the bands of their signatures.
#[derive(Default)]
struct Near {
    /// Shingles of every text.
    texts: Vec<Box<[u64]>>,
    /// Texts by the number of a band and its hash.
    buckets: HashMap<(usize, u32), Vec<u32>>,
}

impl Near {
    /// From texts in normal form.
    fn new<'a>(normals: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        // Equal texts need one place.
        for normal in normals.collect::<BTreeSet<_>>() {
            let shingles = shingles(normal);
            for band in near::signature(&shingles).into_iter().enumerate() {
                found.buckets.entry(band).or_default().push(found.texts.len() as u32);
            }
            found.texts.push(shingles);
        }
        found
    }

    /// True if some text shares at least [`SIMILAR`] of its words and pairs of neighbours with this one.
    fn has(&self, normal: &str) -> bool {
        let shingles = shingles(normal);
        let candidates = near::signature(&shingles).into_iter().enumerate().filter_map(|band| self.buckets.get(&band)).flatten();
        let mut compared = HashSet::new();
        candidates.into_iter().any(|&at| compared.insert(at) && near::jaccard(&self.texts[at as usize], &shingles) >= SIMILAR)
    }
}

fn shingles(normal: &str) -> Box<[u64]> {
    let (mut words, mut shingles) = (Words::default(), Shingles::default());
    words.read(normal);
    shingles.read(&words).into()
}

/// Hashes of all runs of [`RUN`] words of a text in normal form.
fn runs(normal: &str) -> Vec<u64> {
    let mut words = Words::default();
    words.read(normal).hashes().windows(RUN).map(|run| run.iter().fold(0, |hash: u64, &word| mix(hash.rotate_left(32) ^ word))).collect()
}

/// The normal form of a target text; the text itself where that is empty (`?!`).
fn target_form(text: &str) -> String {
    let normal = normal_form(text);
    if normal.is_empty() { text.to_owned() } else { normal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measure_finds_what_the_stricter_ones_miss() {
        let long = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20 w21 w22 w23 w24 w25 w26 w27 w28 w29 w30";
        let sign = |dataset, split, prompt: &str, text: &str| RawPrompt {
            target_text: Some(text.into()),
            ..RawPrompt::example(dataset, split, prompt)
        };
        let prompts = [
            RawPrompt::example("laion", TRAIN, "a red car"),
            RawPrompt::example("laion", TRAIN, "A blue car!"),
            RawPrompt::example("laion", TRAIN, long),
            sign("commontext", TRAIN, "a cat says 'Stop'", "Stop"),
            RawPrompt::example("compbench", VAL, "a red car"),
            RawPrompt::example("compbench", VAL, "a blue car"),
            RawPrompt::example("compbench", VAL, &format!("{long} end")),
            RawPrompt::example("compbench", VAL, "other w1 w2 w3 w4 w5 w6 w7 w8 other"),
            RawPrompt::example("compbench", VAL, "w1 w2 w3 w4 w5 w6 w7 other"),
            sign("commontext", VAL, "a dog says 'stop!'", "stop!"),
            sign("commontext", VAL, "a dog says 'go'", "go"),
        ];
        let pairs = pairs(&prompts);
        let names: Vec<_> = pairs.iter().map(|pair| (pair.train.as_str(), pair.val.as_str())).collect();
        assert_eq!(names, [("commontext", "commontext"), ("commontext", "compbench"), ("laion", "commontext"), ("laion", "compbench")]);
        let found = &pairs[3];
        assert_eq!((found.train_prompts, found.val_prompts), (3, 5));
        assert_eq!((found.exact, found.normalised, found.quoted, found.near), (1, 2, 2, 3));
        assert_eq!((found.with_target, found.target_seen_percent()), (0, None));
        let signs = &pairs[0];
        assert_eq!((signs.exact, signs.with_target, signs.target_seen), (0, 2, 1));
        assert_eq!(signs.target_seen_percent(), Some(50.0));
    }
}
