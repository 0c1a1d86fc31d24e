//! Near duplicates: texts that share most of their words and word pairs. Candidates come from banded MinHash signatures only
//! (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", 3.4), and each is compared in full.
//!
//! Words, not letters: "a red car" and "a bed car" ask for different pictures. Pairs of neighbours, because "a red car and a
//! blue house" and "a blue car and a red house" do, too.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::clean::words::{Words, mix};
use crate::error::{Error, Result};

/// Bands of a signature: texts that agree in one of them are compared.
pub const BANDS: usize = 8;
/// Minima in one band. With 8 bands of 4, a pair of texts that share 80 % is compared with probability 1 − (1 − 0.8⁴)⁸ = 98.5 %,
/// of 50 % with 40 %.
const ROWS: usize = 4;

/// How alike near duplicates are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Similarity(f64);

impl Default for Similarity {
    fn default() -> Self {
        // One of twenty words differs; a short prompt with another colour or number stays.
        Self(0.8)
    }
}

impl Similarity {
    /// A Jaccard index in (0, 1].
    pub fn new(value: f64) -> Result<Self> {
        let similarity = Self(value);
        similarity.check()?;
        Ok(similarity)
    }

    /// Fails where the number is no similarity; deserialising does not look.
    pub fn check(self) -> Result<()> {
        if self.0 > 0.0 && self.0 <= 1.0 {
            return Ok(());
        }
        Err(Error::config(format!("`near_duplicates` is {}", self.0), "give a share above 0 and up to 1, for example 0.8"))
    }
}

/// One number per band; equal numbers mean that the texts agree in the band.
pub type Signature = [u32; BANDS];

/// Odd multipliers, one per minimum: `h * m` puts the shingles into another order for each (the high bits of a product modulo
/// 2⁶⁴ are 2-universal; Dietzfelbinger et al. 1997).
const MULTIPLIERS: [u64; BANDS * ROWS] = {
    let mut multipliers = [0; BANDS * ROWS];
    let mut i = 0;
    while i < multipliers.len() {
        // SplitMix64's sequence, made odd.
        let value = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(i as u64 + 1);
        let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        multipliers[i] = (value ^ (value >> 31)) | 1;
        i += 1;
    }
    multipliers
};

/// Shingles of one text after another, sorted and without repetition; holds the buffer.
#[derive(Debug, Default)]
pub struct Shingles(Vec<u64>);

impl Shingles {
    /// The shingles of the words: every word and every pair of neighbours.
    pub fn read(&mut self, words: &Words) -> &[u64] {
        let hashes = words.hashes();
        self.0.clear();
        self.0.extend_from_slice(hashes);
        self.0.extend(hashes.windows(2).map(|pair| mix(pair[0].rotate_left(32) ^ pair[1])));
        self.0.sort_unstable();
        self.0.dedup();
        &self.0
    }
}

/// The signature of a set of shingles.
pub fn signature(shingles: &[u64]) -> Signature {
    let mut minima = [u64::MAX; BANDS * ROWS];
    for &shingle in shingles {
        for (minimum, multiplier) in minima.iter_mut().zip(MULTIPLIERS) {
            *minimum = (*minimum).min(shingle.wrapping_mul(multiplier));
        }
    }
    std::array::from_fn(|band| {
        let rows = &minima[band * ROWS..(band + 1) * ROWS];
        (rows.iter().fold(0, |hash, &minimum| mix(hash ^ minimum)) >> 32) as u32
    })
}

/// Size of the intersection over size of the union of two sorted sets, in [0, 1]; two empty sets are equal.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

/// For every text whether an earlier one is nearly the same: in some band the first text with the same number shares at least
/// `similarity` of the words and pairs. Whether a text is one depends on earlier texts alone, and on no number of threads.
pub fn near_duplicates<'a>(signatures: &[Signature], text: impl Fn(usize) -> &'a str + Sync, similarity: Similarity) -> Vec<bool> {
    let bands: Vec<Vec<u32>> = (0..BANDS).into_par_iter().map(|band| in_band(signatures, band, &text, similarity)).collect();
    let mut repeated = vec![false; signatures.len()];
    for i in bands.into_iter().flatten() {
        repeated[i as usize] = true;
    }
    repeated
}

/// The texts that repeat the first of those with the same number in one band.
fn in_band<'a>(signatures: &[Signature], band: usize, text: &(impl Fn(usize) -> &'a str + Sync), similarity: Similarity) -> Vec<u32> {
    // Number and place in one word: sorting groups equal numbers and puts the first text in front.
    let mut places: Vec<u64> = signatures.iter().enumerate().map(|(i, signature)| u64::from(signature[band]) << 32 | i as u64).collect();
    places.par_sort_unstable();
    let groups: Vec<&[u64]> = places.chunk_by(|a, b| a >> 32 == b >> 32).filter(|group| group.len() > 1).collect();
    groups
        .par_iter()
        .map_init(
            || (Words::default(), Shingles::default(), Shingles::default()),
            |(words, first, other), group| {
                let first = first.read(words.read(text(group[0] as u32 as usize)));
                let repeats = |&&place: &&u64| jaccard(first, other.read(words.read(text(place as u32 as usize)))) >= similarity.0;
                group[1..].iter().filter(repeats).map(|&place| place as u32).collect::<Vec<u32>>()
            },
        )
        .flatten_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shingles(text: &str) -> Vec<u64> {
        let (mut words, mut shingles) = (Words::default(), Shingles::default());
        shingles.read(words.read(text)).to_vec()
    }

    fn found(texts: &[&str]) -> Vec<bool> {
        let signatures: Vec<Signature> = texts.iter().map(|text| signature(&shingles(text))).collect();
        near_duplicates(&signatures, |i| texts[i], Similarity::default())
    }

    #[test]
    fn jaccard_is_the_share_of_common_words_and_pairs() {
        // {a, red, car, a·red, red·car} and {a, red, bus, a·red, red·bus} share 3 of 7.
        assert_eq!(jaccard(&shingles("a red car"), &shingles("A red bus!")), 3.0 / 7.0);
        assert_eq!(jaccard(&shingles("a red car"), &shingles("a, red car")), 1.0);
        assert_eq!(jaccard(&shingles("up"), &shingles("down")), 0.0);
        assert_eq!(jaccard(&[], &[]), 1.0);
    }

    #[test]
    fn one_word_of_many_makes_a_near_duplicate_and_an_exchange_of_attributes_does_not() {
        let long = "the old stone bridge over the quiet river in the north of the valley with tall green trees and a small boat";
        let longer = format!("{long} today");
        assert_eq!(found(&[long, "a red car", &longer]), [false, false, true]);
        assert_eq!(found(&["a red car and a blue house", "a blue car and a red house"]), [false, false]);
        assert_eq!(found(&["two dogs", "three dogs", "Two dogs."]), [false, false, true]);
    }

    #[test]
    fn signatures_estimate_the_similarity() {
        // Words 0..n of one text against n/2..3n/2 of another share a third (n words; pairs alike): a band of four minima agrees
        // with probability (1/3)⁴ = 1.2 %, one of 8 bands with 9.5 %. Over 400 pairs: 38 ± 4 × 5.9.
        let text = |pair: usize, from: usize| (from..from + 40).map(|i| format!("w{pair}x{i}")).collect::<Vec<_>>().join(" ");
        let agree = (0..400).filter(|&pair| {
            let (a, b) = (signature(&shingles(&text(pair, 0))), signature(&shingles(&text(pair, 20))));
            a.iter().zip(b).any(|(a, b)| *a == b)
        });
        let agreed = agree.count();
        assert!((15..=62).contains(&agreed), "{agreed}");
    }

    #[test]
    fn a_similarity_is_above_zero_and_at_most_one() {
        assert!(Similarity::new(1.0).is_ok());
        for value in [0.0, -1.0, 1.1, f64::NAN] {
            assert_eq!(Similarity::new(value).unwrap_err().exit_code(), 2);
        }
    }

    proptest! {
        /// So a sample can be drawn from the first texts without looking at the others.
        #[test]
        fn later_texts_change_nothing(texts in proptest::collection::vec("(red |blue |car |bus |a |the ){1,12}", 1..30), cut in 0usize..30) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let cut = cut.min(texts.len());
            prop_assert_eq!(&found(&texts)[..cut], &found(&texts[..cut])[..]);
        }
    }
}
