//! The difference of two encoders on the same prompts and the same noise: its interval, its tests, and whether it is small.
//!
//! Differences of one prompt's images belong together, so the unit of every number here is the prompt.

use crate::error::Result;
use crate::stats::bootstrap::{self, Bootstrap, Cluster, Observation, Resampling, percentile_interval};
use crate::stats::distribution::{t_probability, t_quantile};
use crate::stats::{Estimate, bootstrap::group};

/// The largest score; all metrics per image are points of a hundred.
pub const FULL_SCORE: f64 = 100.0;

/// A mean difference with what is needed to test it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// Mean of value − denominator, with the percentile interval of the paired bootstrap over prompts.
    pub estimate: Estimate,
    /// Cluster-robust standard error; infinite where a stratum has a single prompt.
    pub standard_error: f64,
    /// Degrees of freedom of the t tests: prompts − 1, for strata after Satterthwaite.
    pub degrees: f64,
    /// Two-sided p-value of the clustered paired t test; `None` where a stratum has a single prompt.
    pub p: Option<f64>,
    /// The same by the studentised paired bootstrap: the share of resamples whose t lies farther from their centre.
    pub p_bootstrap: Option<f64>,
}

/// Compares values with the denominators beside them (the reference's values of the same image), within strata whose mean
/// differences are averaged with equal weight.
///
/// The variance of a stratum's mean m with prompts g of n_g images and summed differences s_g is
/// G/(G−1) · Σ(s_g − n_g·m)² / (Σ n_g)², the sandwich estimator for clusters with the usual small-sample factor.
///
/// # Errors
/// An empty stratum and a non-finite value.
pub fn compare(strata: &[Vec<Observation>], bootstrap: &Bootstrap) -> Result<Paired> {
    bootstrap::check(bootstrap)?;
    let differences = |stratum: &Vec<Observation>| -> Result<Vec<Cluster>> {
        let plain: Vec<_> = stratum.iter().map(|o| Observation::plain(o.cluster, o.value - o.denominator)).collect();
        group(&plain)
    };
    let grouped = strata.iter().map(differences).collect::<Result<Vec<_>>>()?;
    if grouped.is_empty() {
        return Err(bootstrap::nothing());
    }
    let whole: Vec<Moments> = grouped.iter().map(|clusters| Moments::of(clusters.iter().map(|cluster| (cluster, 1.0)))).collect();
    let value = mean(&whole);
    let n = strata.iter().map(|stratum| stratum.len() as u64).sum();
    let clusters = grouped.iter().map(|clusters| clusters.len() as u64).sum();
    if grouped.iter().any(|clusters| clusters.len() < 2) {
        let estimate = Estimate { value, low: f64::NEG_INFINITY, high: f64::INFINITY, n, clusters };
        return Ok(Paired { estimate, standard_error: f64::INFINITY, degrees: 0.0, p: None, p_bootstrap: None });
    }
    let variances: Vec<f64> = whole.iter().map(Moments::variance).collect();
    let (standard_error, degrees) = (standard_error(&variances), satterthwaite(&variances, &grouped));

    let draws: Vec<Resampling> = (0..grouped.len()).map(|i| Resampling::new(grouped[i].len(), i as u64, bootstrap)).collect();
    let observed = (value / standard_error).abs();
    let (mut farther, mut usable) = (0u64, 0u64);
    let mut means = Vec::with_capacity(bootstrap.resamples);
    for b in 0..bootstrap.resamples {
        let drawn = grouped.iter().zip(&draws).map(|(clusters, draws)| {
            Moments::of(
                clusters.iter().zip(draws.counts(b)).filter(|(_, times)| **times > 0).map(|(cluster, times)| (cluster, f64::from(*times))),
            )
        });
        let drawn: Vec<Moments> = drawn.collect();
        let centre = mean(&drawn);
        let spread = self::standard_error(&drawn.iter().map(Moments::variance).collect::<Vec<_>>());
        // A resample without spread has no t.
        if spread > 0.0 {
            usable += 1;
            farther += u64::from((centre - value).abs() / spread >= observed);
        }
        means.push(centre);
    }
    let (low, high) = percentile_interval(&mut means, bootstrap.level);
    let estimate = Estimate { value, low, high, n, clusters };
    let mut paired = Paired { estimate, standard_error, degrees, p: None, p_bootstrap: None };
    if paired.all_alike() {
        // What is left is the sign test: the chance that as many fair coins agree.
        let chance = if value == 0.0 { 1.0 } else { 2.0 * 0.5f64.powf(clusters as f64) };
        (paired.p, paired.p_bootstrap) = (Some(chance), Some(chance));
    } else {
        paired.p = Some(2.0 * t_probability(-observed, degrees));
        // The observed sample counts as one of the resamples: no p-value of zero.
        paired.p_bootstrap = Some((1 + farther) as f64 / (1 + usable) as f64);
    }
    Ok(paired)
}

impl Paired {
    /// The larger p-value of two one-sided tests (Schuirmann 1987): that the difference is not below `margin`, and that it is
    /// not above −`margin`. Below α, the encoders are equivalent within the margin; then the interval of level 1 − 2α lies
    /// inside it. `None` where nothing can be tested.
    pub fn equivalence(&self, margin: f64) -> Option<f64> {
        Some(self.above(-margin)?.max(self.below(margin)?))
    }

    /// One-sided p-value: below α, the difference lies above `bound`. Where all prompts differ by the same amount: the largest chance
    /// that so many prompts hide a mean at the bound, which is reached by a rare loss of the whole score, −[`FULL_SCORE`].
    pub fn above(&self, bound: f64) -> Option<f64> {
        self.p?;
        let distance = self.estimate.value - bound;
        if self.all_alike() {
            let share = distance / (self.estimate.value + FULL_SCORE);
            return Some((1.0 - share).clamp(0.0, 1.0).powf(self.estimate.clusters as f64));
        }
        Some(t_probability(-distance / self.standard_error, self.degrees))
    }

    /// One-sided p-value: below α, the difference lies below `bound`.
    pub fn below(&self, bound: f64) -> Option<f64> {
        let mirrored = Self { estimate: Estimate { value: -self.estimate.value, ..self.estimate }, ..*self };
        mirrored.above(-bound)
    }

    /// The t interval of level `level`; infinite where nothing can be tested.
    pub fn t_interval(&self, level: f64) -> (f64, f64) {
        if self.p.is_none() {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        let half = t_quantile(0.5 + level / 2.0, self.degrees) * self.standard_error;
        (self.estimate.value - half, self.estimate.value + half)
    }

    /// Where all prompts differ by the same amount, there is no spread to measure against.
    fn all_alike(&self) -> bool {
        // Rounding of equal differences leaves a spread of some units in the last place.
        self.standard_error <= 1e-12 * self.estimate.value.abs()
    }
}

/// Weighted sums of one stratum: of prompts, images, differences and their products.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    clusters: f64,
    n: f64,
    sum: f64,
    sum_squares: f64,
    products: f64,
    n_squares: f64,
}

impl Moments {
    fn of<'a>(clusters: impl Iterator<Item = (&'a Cluster, f64)>) -> Self {
        clusters.fold(Self::default(), |total, (cluster, times)| Self {
            clusters: total.clusters + times,
            n: total.n + times * cluster.n,
            sum: total.sum + times * cluster.value,
            sum_squares: total.sum_squares + times * cluster.value * cluster.value,
            products: total.products + times * cluster.value * cluster.n,
            n_squares: total.n_squares + times * cluster.n * cluster.n,
        })
    }

    /// Of the mean: G/(G−1) · Σ(s − n·m)² / N².
    fn variance(&self) -> f64 {
        let mean = self.sum / self.n;
        let squares = self.sum_squares - 2.0 * mean * self.products + mean * mean * self.n_squares;
        // What is left of squares that cancel is rounding.
        let squares = if squares <= 1e-14 * self.sum_squares { 0.0 } else { squares };
        self.clusters / (self.clusters - 1.0) * squares / (self.n * self.n)
    }
}

fn mean(strata: &[Moments]) -> f64 {
    strata.iter().map(|moments| moments.sum / moments.n).sum::<f64>() / strata.len() as f64
}

fn standard_error(variances: &[f64]) -> f64 {
    variances.iter().sum::<f64>().sqrt() / variances.len() as f64
}

/// (Σ V)² / Σ V²/(G − 1); with one stratum G − 1.
fn satterthwaite(variances: &[f64], grouped: &[Vec<Cluster>]) -> f64 {
    let total: f64 = variances.iter().sum();
    let parts: f64 = variances.iter().zip(grouped).map(|(variance, clusters)| variance * variance / (clusters.len() as f64 - 1.0)).sum();
    if parts > 0.0 { total * total / parts } else { grouped.iter().map(|clusters| clusters.len() as f64 - 1.0).sum() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::ratio_of_means;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 2_000, level: 0.95, seed: 3 };

    fn pairs(differences: &[f64]) -> Vec<Observation> {
        differences.iter().enumerate().map(|(i, &d)| Observation { cluster: i as u64, value: 50.0 + d, denominator: 50.0 }).collect()
    }

    #[test]
    fn the_t_test_of_three_differences_has_a_closed_form() {
        // 1, 2, 3: mean 2, standard error 1/√3, t = 2√3 on two degrees: p = 1 − t/√(2 + t²).
        let paired = compare(&[pairs(&[1.0, 2.0, 3.0])], &BOOTSTRAP).unwrap();
        let t = 12f64.sqrt();
        assert!((paired.standard_error - 1.0 / 3f64.sqrt()).abs() < 1e-12 && paired.degrees == 2.0);
        assert!((paired.p.unwrap() - (1.0 - t / (2.0 + t * t).sqrt())).abs() < 1e-12, "{paired:?}");
    }

    #[test]
    fn the_interval_is_that_of_the_bootstrapped_mean() {
        let observations: Vec<Observation> =
            (0..90).map(|i| Observation { cluster: i / 2, value: ((i * 37) % 101) as f64, denominator: ((i * 53) % 89) as f64 }).collect();
        let plain: Vec<_> = observations.iter().map(|o| Observation::plain(o.cluster, o.value - o.denominator)).collect();
        let (a, b) = (compare(&[observations], &BOOTSTRAP).unwrap().estimate, ratio_of_means(&[plain], &BOOTSTRAP).unwrap());
        assert!((a.low - b.low).abs() < 1e-12 && (a.high - b.high).abs() < 1e-12 && (a.n, a.clusters) == (90, 45));
    }

    #[test]
    fn images_of_one_prompt_are_no_new_evidence() {
        let once = pairs(&[1.0, -0.5, 2.0, 0.3, 1.1, -0.2]);
        let thrice: Vec<_> = once.iter().flat_map(|&o| [o, o, o]).collect();
        let (a, b) = (compare(&[once], &BOOTSTRAP).unwrap(), compare(&[thrice], &BOOTSTRAP).unwrap());
        assert!((a.p.unwrap() - b.p.unwrap()).abs() < 1e-12 && (a.standard_error - b.standard_error).abs() < 1e-12);
    }

    #[test]
    fn equivalence_is_the_inclusion_of_the_ninety_percent_interval() {
        let paired = compare(&[pairs(&[0.4, -0.3, 0.1, 0.2, -0.5, 0.3, 0.0, 0.2])], &BOOTSTRAP).unwrap();
        let (low, high) = paired.t_interval(0.9);
        let edge = high.max(-low);
        assert!(paired.equivalence(edge * 1.0001).unwrap() < 0.05 && paired.equivalence(edge * 0.9999).unwrap() > 0.05);
        assert!((paired.above(low).unwrap() - 0.05).abs() < 1e-9 && (paired.below(high).unwrap() - 0.05).abs() < 1e-9);
    }

    #[test]
    fn two_prompts_that_agree_prove_nothing() {
        let paired = compare(&[pairs(&[5.0, 5.0])], &BOOTSTRAP).unwrap();
        assert_eq!((paired.p, paired.p_bootstrap), (Some(0.5), Some(0.5)));
        // A loss of everything on 15 of 105 prompts would be a mean of −10, and is missed by two prompts with (90 / 105)².
        assert!((paired.above(-10.0).unwrap() - (90.0f64 / 105.0).powi(2)).abs() < 1e-12);
        let same = compare(&[pairs(&[0.0; 10])], &BOOTSTRAP).unwrap();
        assert_eq!(same.p, Some(1.0));
        assert!((same.equivalence(1.0).unwrap() - 0.99f64.powi(10)).abs() < 1e-12);
        let one = compare(&[pairs(&[5.0])], &BOOTSTRAP).unwrap();
        assert!(one.p.is_none() && one.equivalence(1.0).is_none() && one.estimate.high == f64::INFINITY);
    }

    #[test]
    fn swapping_the_sides_mirrors_everything() {
        let forth = pairs(&[1.0, -0.5, 2.0, 0.3, 1.1, -0.2, 0.9]);
        let back: Vec<_> = forth.iter().map(|o| Observation { value: o.denominator, denominator: o.value, ..*o }).collect();
        let (a, b) = (compare(&[forth], &BOOTSTRAP).unwrap(), compare(&[back], &BOOTSTRAP).unwrap());
        assert!((a.p.unwrap() - b.p.unwrap()).abs() < 1e-12 && (a.estimate.low + b.estimate.high).abs() < 1e-9);
        assert!((a.above(0.2).unwrap() - b.below(-0.2).unwrap()).abs() < 1e-12);
    }
}
