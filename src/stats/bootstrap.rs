//! Means and ratios of means with bootstrap intervals. The images of one prompt share their difficulty, so the unit that is
//! resampled is the prompt, never the image.
//!
//! Nothing here knows what the numbers mean; NaN is rejected at the door.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::run::rng;
use crate::stats::Estimate;

/// How intervals are made.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    pub resamples: usize,
    /// Coverage in (0, 1).
    pub level: f64,
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            // The 2.5 % point of 2,000 draws has 50 draws beyond it: its own error is a tenth of the interval's width.
            resamples: 2_000,
            // The usual one.
            level: 0.95,
            // Any number; it only has to be the same on every machine.
            seed: 0,
        }
    }
}

/// One image's value, or one pair of values, of one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    pub cluster: u64,
    pub value: f64,
    /// What the value is divided by in a ratio of means; 1 for a plain mean.
    pub denominator: f64,
}

impl Observation {
    /// An observation whose mean is wanted.
    pub fn plain(cluster: u64, value: f64) -> Self {
        Self { cluster, value, denominator: 1.0 }
    }
}

/// The mean with its percentile interval over prompts.
pub fn mean(observations: &[Observation], bootstrap: &Bootstrap) -> Result<Estimate> {
    ratio_of_means(&[observations.to_vec()], bootstrap)
}

/// Sum over strata of the mean value, divided by the sum over strata of the mean denominator, with a percentile interval
/// in which each stratum's prompts are resampled on their own. With one stratum and denominators of 1 this is the mean;
/// with several strata the mean of the strata's means, as the paper averages categories; with the teacher's values as
/// denominators the share of the teacher's score that a student keeps.
///
/// # Errors
/// An empty stratum, a non-finite value and a denominator whose mean is not positive.
pub fn ratio_of_means(strata: &[Vec<Observation>], bootstrap: &Bootstrap) -> Result<Estimate> {
    check(bootstrap)?;
    let grouped = strata.iter().map(|stratum| group(stratum)).collect::<Result<Vec<_>>>()?;
    if grouped.is_empty() {
        return Err(nothing());
    }
    let value = ratio(grouped.iter().map(|clusters| totals(clusters.iter().map(|cluster| (cluster, 1)))));
    if !value.is_finite() {
        return Err(Error::Invalid("the mean of the denominators is not positive, so a ratio has no meaning".into()));
    }
    let n = strata.iter().map(|stratum| stratum.len() as u64).sum();
    let clusters = grouped.iter().map(|clusters| clusters.len() as u64).sum();
    if grouped.iter().any(|clusters| clusters.len() < 2) {
        return Ok(Estimate { value, low: f64::NEG_INFINITY, high: f64::INFINITY, n, clusters });
    }
    let draws: Vec<Resampling> = (0..grouped.len()).map(|i| Resampling::new(grouped[i].len(), i as u64, bootstrap)).collect();
    let mut samples: Vec<f64> = (0..bootstrap.resamples)
        .map(|b| ratio(grouped.iter().zip(&draws).map(|(clusters, draws)| totals(clusters.iter().zip(draws.counts(b).iter().copied())))))
        .collect();
    // A resample without any positive denominator has no ratio; it stands for "as large as you like".
    samples.iter_mut().filter(|sample| sample.is_nan()).for_each(|sample| *sample = f64::INFINITY);
    let (low, high) = percentile_interval(&mut samples, bootstrap.level);
    Ok(Estimate { value, low, high, n, clusters })
}

/// How often each of `clusters` prompts is drawn in each resample; the same for every metric and encoder with as many
/// prompts, so that comparisons share their draws.
#[derive(Debug, Clone)]
pub struct Resampling {
    clusters: usize,
    counts: Vec<u32>,
}

impl Resampling {
    /// Draws all resamples; `stratum` tells independent groups of prompts apart.
    pub fn new(clusters: usize, stratum: u64, bootstrap: &Bootstrap) -> Self {
        let mut rng = rng::stream(rng::Key { seed: bootstrap.seed, purpose: "bootstrap", item: clusters as u64, draw: stratum });
        let mut counts = vec![0; clusters * bootstrap.resamples];
        for row in counts.chunks_exact_mut(clusters.max(1)) {
            for _ in 0..clusters {
                row[rng::below(&mut rng, clusters)] += 1;
            }
        }
        Self { clusters, counts }
    }

    /// Multiplicity of each prompt in one resample.
    pub fn counts(&self, resample: usize) -> &[u32] {
        &self.counts[resample * self.clusters..(resample + 1) * self.clusters]
    }
}

/// The central interval of the samples that holds `level` of them (linear interpolation between order statistics).
/// Sorts the samples; they must not hold NaN.
pub fn percentile_interval(samples: &mut [f64], level: f64) -> (f64, f64) {
    samples.sort_by(f64::total_cmp);
    (quantile(samples, (1.0 - level) / 2.0), quantile(samples, (1.0 + level) / 2.0))
}

/// Quantile of sorted samples, `p` in [0, 1].
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    let position = p * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    // Equal neighbours first: the difference of two infinities is not a number.
    if below == above { below } else { below + (above - below) * position.fract() }
}

/// Sums of one prompt.
pub(super) struct Cluster {
    pub(super) value: f64,
    denominator: f64,
    pub(super) n: f64,
}

/// Sums by prompt, in order of the prompts' numbers.
pub(super) fn group(observations: &[Observation]) -> Result<Vec<Cluster>> {
    let mut clusters: BTreeMap<u64, Cluster> = BTreeMap::new();
    for observation in observations {
        if !observation.value.is_finite() || !observation.denominator.is_finite() {
            let context = format!("value {} with denominator {}", observation.value, observation.denominator);
            return Err(Error::NonFinite { name: format!("prompt {}", observation.cluster), context });
        }
        let cluster = clusters.entry(observation.cluster).or_insert(Cluster { value: 0.0, denominator: 0.0, n: 0.0 });
        cluster.value += observation.value;
        cluster.denominator += observation.denominator;
        cluster.n += 1.0;
    }
    if clusters.is_empty() {
        return Err(nothing());
    }
    Ok(clusters.into_values().collect())
}

pub(super) fn nothing() -> Error {
    Error::Invalid("a mean needs at least one observation, found none".into())
}

/// Mean value and mean denominator of one stratum.
fn totals<'a>(clusters: impl Iterator<Item = (&'a Cluster, u32)>) -> (f64, f64) {
    let (mut value, mut denominator, mut n) = (0.0, 0.0, 0.0);
    for (cluster, times) in clusters {
        value += f64::from(times) * cluster.value;
        denominator += f64::from(times) * cluster.denominator;
        n += f64::from(times) * cluster.n;
    }
    (value / n, denominator / n)
}

fn ratio(strata: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (value, denominator) = strata.fold((0.0, 0.0), |sum, stratum| (sum.0 + stratum.0, sum.1 + stratum.1));
    if denominator > 0.0 { value / denominator } else { f64::NAN }
}

pub(super) fn check(bootstrap: &Bootstrap) -> Result<()> {
    if bootstrap.resamples < 20 || !(bootstrap.level > 0.0 && bootstrap.level < 1.0) {
        let found = format!("{} resamples at level {}", bootstrap.resamples, bootstrap.level);
        return Err(Error::config(format!("{found} give no interval"), "use at least 20 resamples and a level between 0 and 1"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 2_000, level: 0.95, seed: 7 };

    fn plain(values: &[(u64, f64)]) -> Vec<Observation> {
        values.iter().map(|&(cluster, value)| Observation::plain(cluster, value)).collect()
    }

    fn noisy(n: u64, seed: u64) -> Vec<Observation> {
        let mut rng = rng::stream(rng::Key { seed, purpose: "test", item: 0, draw: 0 });
        let values = rng::normal(&mut rng, n as usize);
        values.iter().enumerate().map(|(i, &value)| Observation::plain(i as u64, f64::from(value))).collect()
    }

    #[test]
    fn bootstrap_interval_of_a_mean_matches_the_normal_one() {
        let observations = noisy(400, 1);
        let estimate = mean(&observations, &BOOTSTRAP).unwrap();
        let values: Vec<f64> = observations.iter().map(|o| o.value).collect();
        let centre = values.iter().sum::<f64>() / 400.0;
        let error = (values.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / 400.0 / 400.0).sqrt();
        // 2,000 draws place each bound within about 5 % of the half width; 12 % is three of these.
        assert!((estimate.value - centre).abs() < 1e-12);
        assert!((estimate.low - (centre - 1.96 * error)).abs() < 0.24 * error, "{estimate:?}");
        assert!((estimate.high - (centre + 1.96 * error)).abs() < 0.24 * error, "{estimate:?}");
    }

    #[test]
    fn nominal_coverage_is_reached() {
        let few = Bootstrap { resamples: 400, ..BOOTSTRAP };
        let covered = (0..300).filter(|&seed| mean(&noisy(60, 100 + seed), &few).is_ok_and(|e| e.low <= 0.0 && 0.0 <= e.high)).count();
        // 95 % of 300 is 285 with standard deviation 3.8; the percentile interval at n = 60 covers about a point less.
        assert!((270..=297).contains(&covered), "{covered}");
    }

    #[test]
    fn repeating_a_prompts_image_does_not_narrow_the_interval() {
        let once = noisy(50, 3);
        let thrice: Vec<Observation> = once.iter().flat_map(|&o| [o, o, o]).collect();
        let (a, b) = (mean(&once, &BOOTSTRAP).unwrap(), mean(&thrice, &BOOTSTRAP).unwrap());
        assert!((a.low - b.low).abs() < 1e-12 && (a.high - b.high).abs() < 1e-12);
        assert_eq!((a.n, b.n, b.clusters), (50, 150, 50));
    }

    #[test]
    fn pairing_removes_what_both_share() {
        let base = noisy(80, 4);
        let differences: Vec<Observation> = base.iter().map(|o| Observation::plain(o.cluster, (o.value + 0.5) - o.value)).collect();
        let estimate = mean(&differences, &BOOTSTRAP).unwrap();
        assert!((estimate.value - 0.5).abs() < 1e-12 && estimate.high - estimate.low < 1e-9);
    }

    #[test]
    fn strata_are_averaged_as_categories() {
        let strata = [plain(&[(1, 1.0), (2, 1.0), (3, 1.0)]), plain(&[(4, 0.0)])];
        let estimate = ratio_of_means(&strata, &BOOTSTRAP).unwrap();
        assert_eq!(estimate.value, 0.5);
        // One prompt in the second stratum says nothing about other prompts.
        assert!(estimate.low == f64::NEG_INFINITY && estimate.high == f64::INFINITY);
    }

    #[test]
    fn a_student_equal_to_its_teacher_keeps_everything() {
        let observations: Vec<Observation> = (0..30)
            .map(|i| {
                let value = 1.0 + (i % 5) as f64;
                Observation { cluster: i, value, denominator: value }
            })
            .collect();
        let estimate = ratio_of_means(&[observations], &BOOTSTRAP).unwrap();
        assert!((estimate.value - 1.0).abs() < 1e-12 && (estimate.high - estimate.low).abs() < 1e-12);
    }

    #[test]
    fn nan_and_nothing_are_errors() {
        assert!(mean(&[], &BOOTSTRAP).is_err());
        let error = mean(&plain(&[(9, f64::NAN)]), &BOOTSTRAP).unwrap_err().to_string();
        assert!(error.contains("prompt 9"), "{error}");
        assert!(ratio_of_means(&[vec![Observation { cluster: 1, value: 1.0, denominator: 0.0 }]], &BOOTSTRAP).is_err());
    }
}
