//! How many prompts it takes to see a difference, and what a number of prompts can show: the power of the paired t test.

use crate::error::{Error, Result};
use crate::stats::distribution::{bisect, noncentral_t_probability, normal_probability, t_quantile};

/// Prompts past which the search gives up.
const MOST_PROMPTS: u64 = 1 << 40;

/// What is compared: the spread of the differences, and how sure one wants to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Design {
    /// Standard deviation of a prompt's difference, in the score's unit; above zero.
    pub sd: f64,
    /// Two-sided significance level, in (0, 1).
    pub alpha: f64,
}

/// Standard deviation of a paired difference of two scores with standard deviations `a` and `b` and that correlation in [−1, 1]:
/// √(a² + b² − 2·correlation·a·b).
pub fn sd_of_difference(a: f64, b: f64, correlation: f64) -> f64 {
    (a * a + b * b - 2.0 * correlation * a * b).max(0.0).sqrt()
}

/// Standard deviation of the mean difference of one prompt with `images` images whose differences correlate by `icc` (the
/// intraclass correlation, in [0, 1]): more images help only as far as they differ.
pub fn sd_of_prompt(sd: f64, images: u64, icc: f64) -> f64 {
    let m = images as f64;
    sd * ((1.0 + (m - 1.0) * icc) / m).sqrt()
}

/// The correlations that success rates `a` and `b`, in (0, 1), can have: both successes together are at most as frequent as
/// the rarer one, and at least as frequent as both do not fit beside each other.
pub fn correlations_of_rates(a: f64, b: f64) -> (f64, f64) {
    let scale = (a * (1.0 - a) * b * (1.0 - b)).sqrt();
    (((a + b - 1.0).max(0.0) - a * b) / scale, (a.min(b) - a * b) / scale)
}

impl Design {
    /// # Errors
    /// A spread or a level out of range.
    pub fn new(sd: f64, alpha: f64) -> Result<Self> {
        if !(sd > 0.0 && sd.is_finite()) {
            return Err(Error::config(
                format!("the differences have the standard deviation {sd}, expected one above 0"),
                "lower the correlation or give the deviation of the scores",
            ));
        }
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(Error::config(format!("the significance level is {alpha}, expected one between 0 and 1"), "the usual one is 0.05"));
        }
        Ok(Self { sd, alpha })
    }

    /// Probability that `n` ≥ 2 prompts show a true difference: P(|T| > t) for the noncentral T on n − 1 degrees.
    pub fn power(&self, difference: f64, n: u64) -> f64 {
        let degrees = n as f64 - 1.0;
        let shift = difference.abs() / self.sd * (n as f64).sqrt();
        let bound = t_quantile(1.0 - self.alpha / 2.0, degrees);
        // Beyond this shift the exact series underflows; the normal approximation (Abramowitz and Stegun 26.7.10) is exact there to
        // more digits than matter.
        if shift > 30.0 || degrees > 1e6 {
            let z = (bound * (1.0 - 1.0 / (4.0 * degrees)) - shift) / (1.0 + bound * bound / (2.0 * degrees)).sqrt();
            return normal_probability(-z);
        }
        1.0 - noncentral_t_probability(bound, degrees, shift) + noncentral_t_probability(-bound, degrees, shift)
    }

    /// The smallest number of prompts with at least that power.
    ///
    /// # Errors
    /// A power out of (alpha, 1) and a difference that no number of prompts shows.
    pub fn prompts(&self, difference: f64, power: f64) -> Result<u64> {
        self.check_power(power)?;
        if difference == 0.0 || !difference.is_finite() {
            return Err(Error::config(
                format!("no number of prompts shows a difference of {difference}"),
                "give a difference that matters to you",
            ));
        }
        let mut high = 2u64;
        while self.power(difference, high) < power {
            high *= 2;
            if high > MOST_PROMPTS {
                return Err(Error::config(
                    format!("a difference of {difference} needs more than {MOST_PROMPTS} prompts"),
                    "look for a larger one",
                ));
            }
        }
        let mut low = if high == 2 { 2 } else { high / 2 + 1 };
        while low < high {
            let middle = low + (high - low) / 2;
            if self.power(difference, middle) < power { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// The smallest difference that `n` prompts show with that power.
    ///
    /// # Errors
    /// Fewer than two prompts; a power out of (alpha, 1).
    pub fn difference(&self, n: u64, power: f64) -> Result<f64> {
        self.check_power(power)?;
        check_prompts(n)?;
        let mut high = self.sd;
        while self.power(high, n) < power {
            high *= 2.0;
        }
        Ok(bisect(0.0, high, |difference| self.power(difference, n) < power))
    }

    fn check_power(&self, power: f64) -> Result<()> {
        if power > self.alpha && power < 1.0 {
            return Ok(());
        }
        let message = format!("the power is {power}, expected one between the significance level {} and 1", self.alpha);
        Err(Error::config(message, "the usual ones are 0.8 and 0.9"))
    }
}

/// Fails below two prompts, which have no spread.
pub fn check_prompts(n: u64) -> Result<()> {
    if n < 2 {
        return Err(Error::config(format!("{n} prompts have no spread"), "give at least two"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_prompts_is_the_textbook_one() {
        // Cohen: half a standard deviation, 80 % power, 5 %: 34 pairs.
        let design = Design::new(1.0, 0.05).unwrap();
        assert_eq!(design.prompts(0.5, 0.8).unwrap(), 34);
        assert!(design.power(0.5, 34) >= 0.8 && design.power(0.5, 33) < 0.8);
        let detectable = design.difference(34, 0.8).unwrap();
        assert!((design.power(detectable, 34) - 0.8).abs() < 1e-9 && detectable <= 0.5);
    }

    #[test]
    fn many_prompts_follow_the_normal_formula() {
        // n = (z₁ + z₂)² sd² / d² plus about two.
        let n = Design::new(40.0, 0.05).unwrap().prompts(0.5, 0.8).unwrap();
        let expected = (1.959963984540f64 + 0.841621233573).powi(2) * (40.0f64 / 0.5).powi(2);
        assert!((n as f64 - expected - 1.9).abs() < 1.5, "{n} {expected}");
    }

    #[test]
    fn the_two_ways_to_compute_power_meet() {
        let design = Design::new(1.0, 1e-6).unwrap();
        for n in [500u64, 5_000] {
            let at = |shift: f64| design.power(shift / (n as f64).sqrt(), n);
            assert!((at(29.999) - at(30.001)).abs() < 1e-6);
        }
    }

    #[test]
    fn correlation_and_images_shrink_the_spread() {
        assert!((sd_of_difference(3.0, 4.0, 0.0) - 5.0).abs() < 1e-12 && sd_of_difference(2.0, 2.0, 1.0) == 0.0);
        assert!((sd_of_prompt(6.0, 4, 0.0) - 3.0).abs() < 1e-12 && (sd_of_prompt(6.0, 4, 1.0) - 6.0).abs() < 1e-12);
        let (low, high) = correlations_of_rates(0.5, 0.5);
        assert!((low + 1.0).abs() < 1e-12 && (high - 1.0).abs() < 1e-12);
        assert!((correlations_of_rates(0.8, 0.5).1 - 0.5).abs() < 1e-12);
    }

    #[test]
    fn impossible_designs_are_refused() {
        let design = Design::new(1.0, 0.05).unwrap();
        assert!(Design::new(0.0, 0.05).is_err() && Design::new(1.0, 1.0).is_err());
        assert!(design.prompts(0.0, 0.8).is_err() && design.prompts(1.0, 0.04).is_err() && design.difference(1, 0.8).is_err());
    }
}
