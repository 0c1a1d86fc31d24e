//! Shares of successes with intervals that do not collapse at 0 and 1.

use crate::error::{Error, Result};
use crate::stats::{Bootstrap, Estimate, Observation, mean, normal_quantile};

/// The share of successes (values 0 or 1) with Wilson's score interval, which does not collapse at 0 and 1.
/// Needs independent trials: one per prompt.
pub fn wilson(successes: u64, trials: u64, level: f64) -> Result<Estimate> {
    if trials == 0 || successes > trials || !(level > 0.0 && level < 1.0) {
        return Err(Error::Invalid(format!("{successes} successes of {trials} trials at level {level} is no proportion")));
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let z = normal_quantile(0.5 + level / 2.0);
    let (centre, spread) = (p + z * z / (2.0 * n), z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt());
    let scale = 1.0 + z * z / n;
    let (low, high) = (((centre - spread) / scale).max(0.0), ((centre + spread) / scale).min(1.0));
    Ok(Estimate { value: p, low, high, n: trials, clusters: trials })
}

/// The mean of values that are all 0 or `scale`: Wilson's interval where every prompt has one image, else the bootstrap
/// over prompts; where the prompts all agree and the bootstrap would collapse, Wilson's over the prompts.
pub fn proportion(observations: &[Observation], scale: f64, bootstrap: &Bootstrap) -> Result<Estimate> {
    let estimate = mean(observations, bootstrap)?;
    if estimate.clusters == estimate.n || estimate.low == estimate.high {
        let successes = (estimate.value / scale * estimate.clusters as f64).round() as u64;
        let wilson = wilson(successes, estimate.clusters, bootstrap.level)?;
        return Ok(Estimate { low: wilson.low * scale, high: wilson.high * scale, ..estimate });
    }
    Ok(estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_interval_is_the_textbook_one() {
        // 50 of 100 at 95 %: 0.5 ± 0.0962 (Newcombe 1998, formula 3); 0 of 10: upper bound z²/(n + z²).
        let half = wilson(50, 100, 0.95).unwrap();
        assert!((half.low - 0.403_831_5).abs() < 1e-6 && (half.high - 0.596_168_5).abs() < 1e-6, "{half:?}");
        let none = wilson(0, 10, 0.95).unwrap();
        let z2 = 1.959963984540f64.powi(2);
        assert!(none.low == 0.0 && (none.high - z2 / (10.0 + z2)).abs() < 1e-9, "{none:?}");
        assert!(wilson(3, 2, 0.95).is_err());
    }

    #[test]
    fn proportions_of_one_do_not_claim_certainty() {
        let all: Vec<Observation> = (0..20).map(|i| Observation::plain(i, 100.0)).collect();
        let estimate = proportion(&all, 100.0, &Bootstrap::default()).unwrap();
        assert!(estimate.value == 100.0 && estimate.high == 100.0 && (83.0..85.0).contains(&estimate.low), "{estimate:?}");
    }
}
