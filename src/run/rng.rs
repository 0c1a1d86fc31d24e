//! All randomness of the project. A stream is named by what it is for, never by when it is drawn, so that results do
//! not depend on batch size, file order, rank count or thread count.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// Names one random stream. `draw` counts how often `item` was used for `purpose` before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    pub seed: u64,
    /// What the numbers are for, for example `"noise"`, `"guidance"`, `"scene"`.
    pub purpose: &'a str,
    /// The prompt id, scene index or tensor hash the stream belongs to.
    pub item: u64,
    pub draw: u64,
}

/// The generator of one stream; equal keys give equal streams on every machine.
pub fn stream(key: Key) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(key.seed.to_le_bytes());
    hash.update((key.purpose.len() as u64).to_le_bytes());
    hash.update(key.purpose.as_bytes());
    hash.update(key.item.to_le_bytes());
    hash.update(key.draw.to_le_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A stable 64-bit id of a text: the first eight bytes of its SHA-256.
pub fn text_id(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Place of a text in a seeded order of all texts: the lowest ranks are a sample that depends on the texts alone. Each purpose
/// has an order of its own.
pub fn rank(seed: u64, purpose: &str, text: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((purpose.len() as u64).to_le_bytes());
    hash.update(purpose.as_bytes());
    hash.update(text.as_bytes());
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// Uniform in [0, 1) with 53 bits.
pub fn uniform(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Uniform integer in [0, n); `n` must not be zero.
pub fn below(rng: &mut impl Rng, n: usize) -> usize {
    (uniform(rng) * n as f64) as usize
}

/// One of the items, each equally likely; `items` must not be empty.
pub fn pick<'a, T>(rng: &mut impl Rng, items: &'a [T]) -> &'a T {
    &items[below(rng, items.len())]
}

/// Shuffles in place (Fisher–Yates).
pub fn shuffle<T>(rng: &mut impl Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

/// `n` standard normal numbers (Box–Muller in f64, rounded to f32).
pub fn normal(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        // 1 − u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform(rng)).sin_cos();
        values.push((radius * cos) as f32);
        values.push((radius * sin) as f32);
    }
    values.truncate(n);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { seed: 1, purpose: "noise", item: 7, draw: 0 };

    #[test]
    fn equal_keys_give_equal_streams_and_any_change_gives_another() {
        let base = normal(&mut stream(KEY), 4);
        assert_eq!(base, normal(&mut stream(KEY), 4));
        for other in [Key { seed: 2, ..KEY }, Key { purpose: "scene", ..KEY }, Key { item: 8, ..KEY }, Key { draw: 1, ..KEY }] {
            assert_ne!(base, normal(&mut stream(other), 4));
        }
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let values = normal(&mut stream(KEY), 100_000);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 1e5;
        let variance = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 1e5;
        // Standard errors at n = 100,000 are 0.0032 and 0.0045; four of them are allowed.
        assert!(mean.abs() < 0.013 && (variance - 1.0).abs() < 0.018, "{mean} {variance}");
    }

    #[test]
    fn shuffle_keeps_every_item() {
        let mut items: Vec<usize> = (0..50).collect();
        shuffle(&mut stream(KEY), &mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
