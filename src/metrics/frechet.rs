//! The Fréchet distance between two sets of image features seen as Gaussians, in f64.
//!
//! With features of the miniature world's CLIP this is "Fréchet distance (mini CLIP features)"; it is FID only with the
//! published Inception network, which is not here.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::error::{Error, Result};
use crate::stats::{self, Bootstrap, Estimate, Resampling};

/// The features of one prompt's images.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptFeatures {
    pub prompt_id: u64,
    /// `[n][D]`.
    pub rows: Vec<Vec<f64>>,
}

/// A distance with what it takes to compare it with another one of the same prompts.
#[derive(Debug, Clone)]
pub struct Distance {
    pub value: f64,
    /// Distances of resampled prompts, in the order of [`Resampling`], moved so that their mean is `value`: resampling
    /// repeats images, which makes every resampled distance too large by about the same amount.
    pub samples: Vec<f64>,
    pub prompts: Vec<u64>,
    /// Number of images.
    pub n: u64,
}

impl Distance {
    /// Distance of the images to the reference and its spread over prompts; the reference is taken as known.
    pub fn to(reference: &Reference, prompts: &[PromptFeatures], bootstrap: &Bootstrap) -> Result<Self> {
        let width = reference.gaussian.mean.len();
        let all = prompts.iter().flat_map(|prompt| prompt.rows.iter().map(Vec::as_slice));
        let whole = Moments::of(all, width)?;
        let value = reference.distance(&whole.gaussian()?)?;
        let draws = Resampling::new(prompts.len(), 0, bootstrap);
        let resample = |b: usize| {
            let mut moments = Moments::new(width);
            for (prompt, &times) in prompts.iter().zip(draws.counts(b)).filter(|(_, times)| **times > 0) {
                prompt.rows.iter().try_for_each(|row| moments.push(row, f64::from(times)))?;
            }
            reference.distance(&moments.gaussian()?)
        };
        let mut samples: Vec<f64> =
            if prompts.len() < 2 { Vec::new() } else { (0..bootstrap.resamples).map(resample).collect::<Result<_>>()? };
        let shift = value - samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        samples.iter_mut().for_each(|sample| *sample += shift);
        Ok(Self { value, samples, prompts: prompts.iter().map(|prompt| prompt.prompt_id).collect(), n: whole.n() as u64 })
    }

    /// The distance with its interval.
    pub fn estimate(&self, bootstrap: &Bootstrap) -> Estimate {
        interval(self.value, self.samples.clone(), self, bootstrap)
    }

    /// This distance minus another one of the same prompts, with the standard deviation of the resampled differences; `None` where
    /// the prompts differ.
    pub fn minus(&self, other: &Self, bootstrap: &Bootstrap) -> Option<(Estimate, f64)> {
        let differences: Vec<f64> = self.samples.iter().zip(&other.samples).map(|(own, other)| own - other).collect();
        let spread = standard_deviation(&differences);
        let estimate = || interval(self.value - other.value, differences, self, bootstrap);
        (self.prompts == other.prompts && self.n == other.n).then(|| (estimate(), spread))
    }
}

/// With the divisor n − 1; infinite for fewer than two numbers.
fn standard_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 {
        return f64::INFINITY;
    }
    let mean = values.iter().sum::<f64>() / n;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

fn interval(value: f64, mut samples: Vec<f64>, of: &Distance, bootstrap: &Bootstrap) -> Estimate {
    let (low, high) =
        if samples.is_empty() { (f64::NEG_INFINITY, f64::INFINITY) } else { stats::percentile_interval(&mut samples, bootstrap.level) };
    Estimate { value, low, high, n: of.n, clusters: of.prompts.len() as u64 }
}

/// Mean and scatter of a stream of feature vectors (Welford's update; merging after Chan et al. 1979).
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    n: f64,
    mean: DVector<f64>,
    /// Σ (x − mean)(x − mean)ᵀ.
    scatter: DMatrix<f64>,
}

impl Moments {
    /// Of no vectors of `width` numbers.
    pub fn new(width: usize) -> Self {
        Self { n: 0.0, mean: DVector::zeros(width), scatter: DMatrix::zeros(width, width) }
    }

    /// Of rows `[n][width]`.
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a [f64]>, width: usize) -> Result<Self> {
        let mut moments = Self::new(width);
        for row in rows {
            moments.push(row, 1.0)?;
        }
        Ok(moments)
    }

    /// Adds one vector `times` times.
    pub fn push(&mut self, row: &[f64], times: f64) -> Result<()> {
        if row.len() != self.mean.len() {
            return Err(Error::Invalid(format!("a feature vector has {} numbers, expected {}", row.len(), self.mean.len())));
        }
        if let Some(i) = row.iter().position(|value| !value.is_finite()) {
            return Err(Error::NonFinite { name: "image features".into(), context: format!("number {i} of a vector") });
        }
        let before = self.n;
        self.n += times;
        let delta = DVector::from_column_slice(row) - &self.mean;
        self.mean.axpy(times / self.n, &delta, 1.0);
        self.scatter.ger(before * times / self.n, &delta, &delta, 1.0);
        Ok(())
    }

    /// Adds all vectors of another stream.
    pub fn merge(&mut self, other: &Self) {
        if other.n == 0.0 {
            return;
        }
        let n = self.n + other.n;
        let delta = &other.mean - &self.mean;
        self.mean.axpy(other.n / n, &delta, 1.0);
        self.scatter += &other.scatter;
        self.scatter.ger(self.n * other.n / n, &delta, &delta, 1.0);
        self.n = n;
    }

    /// Number of vectors.
    pub fn n(&self) -> f64 {
        self.n
    }

    /// Mean and unbiased covariance (divided by n − 1).
    pub fn gaussian(&self) -> Result<Gaussian> {
        if self.n < 2.0 {
            return Err(Error::Invalid(format!("a covariance needs at least two images, found {}", self.n)));
        }
        Ok(Gaussian { mean: self.mean.clone(), covariance: &self.scatter / (self.n - 1.0) })
    }
}

/// A Gaussian of feature vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    pub mean: DVector<f64>,
    pub covariance: DMatrix<f64>,
}

/// A Gaussian to which many others are compared: the root of its covariance is taken once.
#[derive(Debug, Clone)]
pub struct Reference {
    gaussian: Gaussian,
    root: DMatrix<f64>,
}

impl Reference {
    pub fn new(gaussian: Gaussian) -> Self {
        let eigen = SymmetricEigen::new(gaussian.covariance.clone());
        // Rounding makes zero eigenvalues of a rank-deficient covariance slightly negative.
        let roots = eigen.eigenvalues.map(|value| value.max(0.0).sqrt());
        let root = &eigen.eigenvectors * DMatrix::from_diagonal(&roots) * eigen.eigenvectors.transpose();
        Self { gaussian, root }
    }

    /// d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½ (Dowson and Landau 1982, in the symmetric form, which
    /// needs no complex roots and no ridge). May be negative by rounding for equal sets; it is returned as it is.
    pub fn distance(&self, other: &Gaussian) -> Result<f64> {
        let (a, b) = (&self.gaussian, other);
        if a.mean.len() != b.mean.len() {
            return Err(Error::Invalid(format!("features have {} and {} numbers", a.mean.len(), b.mean.len())));
        }
        let inner = &self.root * &b.covariance * &self.root;
        // The product is symmetric up to rounding; the solver reads one triangle only.
        let symmetric = (&inner + inner.transpose()) * 0.5;
        let cross: f64 = symmetric.symmetric_eigenvalues().iter().map(|value| value.max(0.0).sqrt()).sum();
        Ok((&a.mean - &b.mean).norm_squared() + a.covariance.trace() + b.covariance.trace() - 2.0 * cross)
    }
}

/// The Fréchet distance of two Gaussians.
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    Reference::new(a.clone()).distance(b)
}

/// The Fréchet distance of two sets of rows `[n][width]`. With fewer images than numbers per image the trace comes from
/// the singular values of the N₁×N₂ matrix of inner products, which is exact and smaller.
pub fn frechet_distance_of_rows(a: &[Vec<f64>], b: &[Vec<f64>]) -> Result<f64> {
    let Some(width) = a.first().map(Vec::len) else {
        return Err(Error::Invalid("a Fréchet distance needs images, found none".into()));
    };
    let moments = |rows: &[Vec<f64>]| Moments::of(rows.iter().map(Vec::as_slice), width);
    let (first, second) = (moments(a)?.gaussian()?, moments(b)?.gaussian()?);
    if a.len().max(b.len()) >= width {
        return frechet_distance(&first, &second);
    }
    let centred = |rows: &[Vec<f64>], mean: &DVector<f64>| {
        DMatrix::from_fn(rows.len(), width, |i, j| (rows[i][j] - mean[j]) / ((rows.len() - 1) as f64).sqrt())
    };
    let inner = centred(a, &first.mean) * centred(b, &second.mean).transpose();
    let cross = inner.singular_values().sum();
    Ok((&first.mean - &second.mean).norm_squared() + first.covariance.trace() + second.covariance.trace() - 2.0 * cross)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two feature sets of `spec/fid.md`: 64 vectors of four numbers.
    fn golden() -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let f = |i: f64, j: f64| (0.7 * i + 1.3 * j).sin() + 0.1 * j + 0.3 * (0.11 * i * i + j).sin();
        let g = |i: f64, j: f64| 1.2 * (0.5 * i + 0.9 * j).cos() + 0.05 * i / 64.0 + 0.3 * (0.13 * i * i + 2.0 * j).cos();
        let rows = |h: &dyn Fn(f64, f64) -> f64| (0..64).map(|i| (0..4).map(|j| h(f64::from(i), f64::from(j))).collect()).collect();
        (rows(&f), rows(&g))
    }

    fn gaussian(mean: [f64; 2], covariance: [f64; 4]) -> Gaussian {
        Gaussian { mean: DVector::from_row_slice(&mean), covariance: DMatrix::from_row_slice(2, 2, &covariance) }
    }

    #[test]
    fn golden_value_of_three_reference_implementations() {
        let (f, g) = golden();
        let distance = frechet_distance_of_rows(&f, &g).unwrap();
        assert!((distance - 0.664319123569).abs() < 1e-10, "{distance:.12}");
    }

    #[test]
    fn rank_deficient_sets_agree_on_both_paths() {
        let (f, g) = golden();
        let by_singular_values = frechet_distance_of_rows(&f[..3], &g[..3]).unwrap();
        let gaussian = |rows: &[Vec<f64>]| Moments::of(rows.iter().map(Vec::as_slice), 4).unwrap().gaussian().unwrap();
        let by_eigenvalues = frechet_distance(&gaussian(&f[..3]), &gaussian(&g[..3])).unwrap();
        // The square root turns a rounding error of 1e-16 in a zero eigenvalue into 1e-8.
        assert!((by_singular_values - 4.0360007014).abs() < 1e-6, "{by_singular_values:.10}");
        assert!((by_eigenvalues - by_singular_values).abs() < 1e-6, "{by_eigenvalues:.10}");
    }

    #[test]
    fn equal_covariances_leave_the_squared_gap_of_the_means() {
        let covariance = [2.0, 0.5, 0.5, 1.0];
        let distance = frechet_distance(&gaussian([0.0, 0.0], covariance), &gaussian([3.0, 4.0], covariance)).unwrap();
        assert!((distance - 25.0).abs() < 1e-9, "{distance}");
    }

    #[test]
    fn commuting_covariances_give_the_squared_gap_of_the_deviations() {
        let distance = frechet_distance(&gaussian([0.0; 2], [4.0, 0.0, 0.0, 9.0]), &gaussian([0.0; 2], [1.0, 0.0, 0.0, 1.0])).unwrap();
        assert!((distance - (1.0 + 4.0)).abs() < 1e-9, "{distance}");
    }

    #[test]
    fn streams_merge_to_the_whole_and_a_repeated_push_counts() {
        let (f, _) = golden();
        let rows = || f.iter().map(Vec::as_slice);
        let whole = Moments::of(rows(), 4).unwrap().gaussian().unwrap();
        let mut parts = Moments::of(rows().take(10), 4).unwrap();
        parts.merge(&Moments::of(rows().skip(10), 4).unwrap());
        assert!((parts.gaussian().unwrap().covariance - &whole.covariance).norm() < 1e-12);
        let (mut twice, mut counted) = (Moments::of(rows(), 4).unwrap(), Moments::of(rows(), 4).unwrap());
        twice.push(&f[0], 1.0).unwrap();
        twice.push(&f[0], 1.0).unwrap();
        counted.push(&f[0], 2.0).unwrap();
        assert!((twice.gaussian().unwrap().covariance - counted.gaussian().unwrap().covariance).norm() < 1e-12);
        assert!((whole.mean[1] - 0.154376).abs() < 1e-6 && (whole.covariance[(0, 2)] + 0.408413).abs() < 1e-6);
    }

    #[test]
    fn the_interval_surrounds_the_distance_and_equal_sets_do_not_differ() {
        let (f, g) = golden();
        let bootstrap = Bootstrap { resamples: 200, level: 0.95, seed: 3 };
        let prompts = |rows: &[Vec<f64>]| -> Vec<PromptFeatures> {
            rows.iter().enumerate().map(|(i, row)| PromptFeatures { prompt_id: i as u64, rows: vec![row.clone()] }).collect()
        };
        let real = Reference::new(Moments::of(f.iter().map(Vec::as_slice), 4).unwrap().gaussian().unwrap());
        let distance = Distance::to(&real, &prompts(&g), &bootstrap).unwrap();
        let estimate = distance.estimate(&bootstrap);
        assert!((estimate.value - 0.664319123569).abs() < 1e-10 && estimate.n == 64);
        assert!(estimate.low < estimate.value && estimate.value < estimate.high, "{estimate:?}");
        let (same, error) = distance.minus(&distance, &bootstrap).unwrap();
        assert!(same.value == 0.0 && same.low == 0.0 && same.high == 0.0 && error == 0.0);
        assert!(distance.minus(&Distance::to(&real, &prompts(&g[1..]), &bootstrap).unwrap(), &bootstrap).is_none());
    }

    #[test]
    fn nan_and_too_few_images_are_errors() {
        assert!(Moments::of([[f64::NAN].as_slice()], 1).is_err());
        assert!(Moments::of([[1.0].as_slice()], 1).unwrap().gaussian().is_err());
        assert!(frechet_distance_of_rows(&[], &[]).is_err());
    }
}
