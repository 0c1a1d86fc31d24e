//! A straight line through a few points, and the law that a score follows the logarithm of a size.

use crate::error::{Error, Result};
use crate::stats::bootstrap::{Bootstrap, Resampling, percentile_interval};
use crate::stats::distribution::t_quantile;

/// The least-squares line y = intercept + slope · x.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    pub slope: f64,
    pub intercept: f64,
    /// Standard error of the slope from the residuals; `None` for two points.
    pub slope_error: Option<f64>,
    /// Points − 2.
    pub degrees: f64,
    /// Share of the variance that the line explains, in [0, 1]; 1 for points of one height.
    pub r_squared: f64,
}

impl Line {
    /// Fits points `(x, y)`.
    ///
    /// # Errors
    /// Fewer than two different x, or a number that is not finite.
    pub fn fit(points: &[(f64, f64)]) -> Result<Self> {
        if points.iter().any(|(x, y)| !x.is_finite() || !y.is_finite()) {
            return Err(Error::NonFinite { name: "points".into(), context: "of a line to be fitted".into() });
        }
        let n = points.len() as f64;
        let (x_mean, y_mean) = points.iter().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / n, sum.1 + y / n));
        let of = |f: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| f(x - x_mean, y - y_mean)).sum::<f64>();
        let (xx, xy, yy) = (of(&|x, _| x * x), of(&|x, y| x * y), of(&|_, y| y * y));
        if points.len() < 2 || xx <= 0.0 {
            return Err(Error::Invalid(format!("a line needs two different sizes, found {} points of one size", points.len())));
        }
        let slope = xy / xx;
        let residual = of(&|x, y| (y - slope * x).powi(2));
        let degrees = n - 2.0;
        Ok(Self {
            slope,
            intercept: y_mean - slope * x_mean,
            slope_error: (degrees > 0.0).then(|| (residual / degrees / xx).sqrt()),
            degrees,
            r_squared: if yy > 0.0 { (1.0 - residual / yy).max(0.0) } else { 1.0 },
        })
    }

    /// Height of the line at `x`.
    pub fn at(&self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }

    /// The t interval of the slope: how far the points lie off a line; `None` for two points.
    pub fn slope_interval(&self, level: f64) -> Option<(f64, f64)> {
        let half = t_quantile(0.5 + level / 2.0, self.degrees.max(1.0)) * self.slope_error?;
        Some((self.slope - half, self.slope + half))
    }
}

/// One network: its size and its scores, stratum by stratum, one number per prompt in the same order for every network.
#[derive(Debug, Clone, PartialEq)]
pub struct Sized {
    /// Scalar weights, above zero.
    pub parameters: f64,
    /// Mean score of each prompt; the strata's means are averaged with equal weight.
    pub strata: Vec<Vec<f64>>,
}

/// A score as a line over the decimal logarithm of the size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingLaw {
    /// The slope is the gain of ten times the weights.
    pub line: Line,
    /// Percentile interval of the slope over prompts: what other prompts would give with the same networks.
    pub over_prompts: (f64, f64),
    /// t interval of the slope over networks: how well a line describes them.
    pub over_networks: Option<(f64, f64)>,
}

/// Fits score = intercept + slope · log₁₀(weights) to at least three networks.
///
/// # Errors
/// Fewer than three networks, networks of one size, networks with different numbers of prompts, a non-finite score.
pub fn scaling_law(networks: &[Sized], bootstrap: &Bootstrap) -> Result<ScalingLaw> {
    if networks.len() < 3 {
        return Err(Error::Invalid(format!("a scaling law with an interval needs three sizes, found {}", networks.len())));
    }
    let shape = |network: &Sized| network.strata.iter().map(Vec::len).collect::<Vec<_>>();
    let lengths = shape(&networks[0]);
    if lengths.is_empty() || lengths.contains(&0) || networks.iter().any(|network| shape(network) != lengths) {
        return Err(Error::Invalid("the networks of a scaling law were scored on different prompts".into()));
    }
    let draws: Vec<Resampling> = lengths.iter().enumerate().map(|(i, &n)| Resampling::new(n, i as u64, bootstrap)).collect();
    let score = |network: &Sized, resample: Option<usize>| {
        let stratum = |(values, draws): (&Vec<f64>, &Resampling)| match resample {
            Some(b) => {
                values.iter().zip(draws.counts(b)).map(|(value, &times)| value * f64::from(times)).sum::<f64>() / values.len() as f64
            }
            None => values.iter().sum::<f64>() / values.len() as f64,
        };
        network.strata.iter().zip(&draws).map(stratum).sum::<f64>() / lengths.len() as f64
    };
    let fit =
        |resample| Line::fit(&networks.iter().map(|network| (network.parameters.log10(), score(network, resample))).collect::<Vec<_>>());
    let line = fit(None)?;
    let over_prompts = if lengths.iter().any(|&n| n < 2) {
        (f64::NEG_INFINITY, f64::INFINITY)
    } else {
        let mut slopes = (0..bootstrap.resamples).map(|b| fit(Some(b)).map(|line| line.slope)).collect::<Result<Vec<_>>>()?;
        percentile_interval(&mut slopes, bootstrap.level)
    };
    Ok(ScalingLaw { line, over_prompts, over_networks: line.slope_interval(bootstrap.level) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 500, level: 0.95, seed: 5 };

    #[test]
    fn points_on_a_line_give_it_back() {
        let line = Line::fit(&[(1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]).unwrap();
        assert!((line.slope - 2.0).abs() < 1e-14 && (line.intercept - 1.0).abs() < 1e-14 && (line.at(10.0) - 21.0).abs() < 1e-12);
        assert!(line.slope_error.unwrap() < 1e-12 && (line.r_squared - 1.0).abs() < 1e-14);
        assert!(Line::fit(&[(1.0, 3.0), (2.0, 5.0)]).unwrap().slope_interval(0.95).is_none());
        assert!(Line::fit(&[(1.0, 3.0), (1.0, 5.0)]).is_err() && Line::fit(&[(1.0, f64::NAN), (2.0, 5.0)]).is_err());
    }

    #[test]
    fn a_known_gain_per_tenfold_size_is_recovered() {
        // 10 points for every factor of ten, prompts of different difficulty that all networks share.
        let network = |parameters: f64| Sized {
            parameters,
            strata: vec![(0..50).map(|i| 10.0 * parameters.log10() + f64::from(i % 7)).collect(), vec![10.0 * parameters.log10(); 9]],
        };
        let law = scaling_law(&[network(1e5), network(3e6), network(2e7), network(1e9)], &BOOTSTRAP).unwrap();
        assert!((law.line.slope - 10.0).abs() < 1e-9, "{law:?}");
        // The difficulty is shared, so resampled prompts move every network alike and the slope not at all.
        assert!(law.over_prompts.1 - law.over_prompts.0 < 1e-9 && law.over_networks.unwrap().0 > 9.999);
        assert!(scaling_law(&[network(1e5), network(1e6)], &BOOTSTRAP).unwrap_err().to_string().contains("three sizes"));
    }
}
