//! Near duplicates by MinHash: signatures whose equal places estimate the Jaccard similarity of two sets of word shingles
//! (Broder 1997), looked up in bands so that only likely pairs are compared.

use std::collections::{BTreeSet, HashMap};

/// Words of a shingle; shorter texts are one shingle.
const SHINGLE: usize = 3;
/// Bands of a signature; texts with one equal band are compared.
const BANDS: usize = 16;
/// Places of a band. A pair of similarity 0.8 shares a band with probability 1 − (1 − 0.8⁸)¹⁶ = 0.95, one of 0.4 with 0.01.
const ROWS: usize = 8;
/// Pairs at least this similar are near duplicates.
pub const SIMILAR: f64 = 0.8;

/// Hashes of the word shingles of a text in normal form, sorted, each once.
pub fn shingles(normal: &str) -> Vec<u64> {
    let mut hashes = runs(normal, SHINGLE);
    if hashes.is_empty() {
        hashes.push(fnv(normal));
    }
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

/// The hash of every run of `n` words, in order; empty where the text has fewer.
pub fn runs(normal: &str, n: usize) -> Vec<u64> {
    let words: Vec<u64> = normal.split(' ').map(fnv).collect();
    words.windows(n).map(|run| run.iter().fold(0, |hash, &word| scramble(hash ^ word))).collect()
}

/// Shared shingles by all shingles of two sorted lists, in [0, 1].
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, shared) = (i + 1, j + 1, shared + 1),
        }
    }
    shared as f64 / (a.len() + b.len() - shared).max(1) as f64
}

/// One hash per band.
fn bands(shingles: &[u64]) -> [u64; BANDS] {
    let place = |k: u64| shingles.iter().map(|&hash| scramble(hash ^ scramble(k + 1))).min().unwrap_or(u64::MAX);
    std::array::from_fn(|band| (0..ROWS).fold(band as u64, |hash, row| scramble(hash ^ place((band * ROWS + row) as u64))))
}

/// Texts to compare others with.
#[derive(Debug, Default)]
pub struct Index {
    texts: Vec<Vec<u64>>,
    /// Texts by the hash of one of their bands.
    buckets: HashMap<u64, Vec<u32>>,
}

impl Index {
    /// An index of texts in normal form.
    pub fn new<'a>(normals: impl IntoIterator<Item = &'a str>) -> Self {
        let mut index = Self::default();
        // Equal texts need one place.
        for normal in normals.into_iter().collect::<BTreeSet<_>>() {
            let text = shingles(normal);
            for hash in bands(&text) {
                index.buckets.entry(hash).or_default().push(index.texts.len() as u32);
            }
            index.texts.push(text);
        }
        index
    }

    /// True if a text of the index is at least [`SIMILAR`] to this one.
    pub fn has_similar(&self, normal: &str) -> bool {
        let text = shingles(normal);
        let candidates = bands(&text).into_iter().filter_map(|hash| self.buckets.get(&hash)).flatten();
        let mut compared = BTreeSet::new();
        candidates.into_iter().any(|&at| compared.insert(at) && jaccard(&self.texts[at as usize], &text) >= SIMILAR)
    }
}

/// FNV-1a.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
fn scramble(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` words, of which every `skip`-th is another.
    fn text(n: usize, other: Option<usize>) -> String {
        (0..n).map(|i| if Some(i) == other { "other".to_owned() } else { format!("w{i}") }).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn jaccard_is_shared_by_all() {
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
        assert_eq!(jaccard(&[1], &[1]), 1.0);
        assert_eq!(jaccard(&[1], &[2]), 0.0);
        // 28 shingles each, 3 of which hold the other word: 25 shared of 31.
        let (a, b) = (shingles(&text(30, None)), shingles(&text(30, Some(15))));
        assert_eq!(jaccard(&a, &b), 25.0 / 31.0);
    }

    #[test]
    fn a_changed_word_in_a_long_text_is_found_and_in_a_short_one_it_is_another_text() {
        let (long, short) = (text(60, None), text(6, None));
        let index = Index::new([long.as_str(), short.as_str()]);
        assert!(index.has_similar(&long) && index.has_similar(&short));
        // 55 of 61 shared: a band is equal with probability 1 − (1 − 0.9⁸)¹⁶ > 0.999 for each of the places.
        assert!((0..60).filter(|&i| index.has_similar(&text(60, Some(i)))).count() >= 58);
        assert!((0..6).all(|i| !index.has_similar(&text(6, Some(i)))));
        assert!(!index.has_similar("nothing of the kind"));
    }

    #[test]
    fn a_text_of_one_word_equals_only_itself() {
        let index = Index::new(["stop"]);
        assert!(index.has_similar("stop") && !index.has_similar("go"));
    }
}
