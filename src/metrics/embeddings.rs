//! How much room a set of text embeddings uses: collapse shows as an effective rank near one and a mean cosine near one.

use nalgebra::DMatrix;

use crate::error::{Error, Result};

/// Diagnostics of one encoder's mean-pooled text embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// exp of the entropy of the normalised eigenvalues of the covariance (Roy and Vetterli 2007): how many directions
    /// carry the variance; between 1 and min(n − 1, D).
    pub effective_rank: f64,
    /// Mean cosine between two different prompts, between −1 and 1.
    pub mean_cosine: f64,
}

/// Spread of `rows` `[n][D]`, n ≥ 2.
///
/// # Errors
/// Fewer than two rows, rows of different widths, a non-finite number, a zero row, or rows that are all equal.
pub fn spread(rows: &[Vec<f64>]) -> Result<Spread> {
    let (n, width) = (rows.len(), rows.first().map_or(0, Vec::len));
    if n < 2 || width == 0 {
        return Err(Error::Invalid(format!("the spread of embeddings needs at least two prompts, found {n}")));
    }
    if rows.iter().any(|row| row.len() != width) {
        return Err(Error::Invalid("text embeddings have different widths".into()));
    }
    if rows.iter().flatten().any(|value| !value.is_finite()) {
        return Err(Error::NonFinite { name: "text".into(), context: "mean-pooled embeddings".into() });
    }
    Ok(Spread { effective_rank: effective_rank(rows, width)?, mean_cosine: mean_cosine(rows)? })
}

fn effective_rank(rows: &[Vec<f64>], width: usize) -> Result<f64> {
    let n = rows.len();
    let mean: Vec<f64> = (0..width).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / n as f64).collect();
    let centred = DMatrix::from_fn(n, width, |i, j| rows[i][j] - mean[j]);
    // Both Gram matrices have the same non-zero eigenvalues; take the smaller one.
    let gram = if n <= width { &centred * centred.transpose() } else { centred.transpose() * &centred };
    let values: Vec<f64> = gram.symmetric_eigenvalues().iter().map(|value| value.max(0.0)).collect();
    let total: f64 = values.iter().sum();
    let energy: f64 = rows.iter().flatten().map(|value| value * value).sum();
    // Variance below the rounding error of the numbers themselves is no variance.
    if total <= energy * 1e-14 {
        return Err(Error::Invalid("all text embeddings are equal: total collapse, the effective rank is not defined".into()));
    }
    let entropy: f64 = values.iter().map(|value| value / total).filter(|&share| share > 0.0).map(|share| -share * share.ln()).sum();
    Ok(entropy.exp())
}

/// The mean cosine taken apart into one pseudo-value per prompt, in order of `rows` `[n][D]`, n ≥ 3; their mean is the mean cosine.
///
/// A cosine belongs to two prompts, so the spread of the prompts' own mean cosines is only half of what the mean varies by. Tukey's
/// pseudo-values n·U − (n − 1)·U₋ᵢ, U₋ᵢ being the mean cosine without prompt i, have the right one (Arvesen 1969), so intervals and
/// paired differences may be taken over them as over any score of a prompt.
///
/// # Errors
/// Fewer than three rows, or a zero row.
pub fn cosine_pseudo_values(rows: &[Vec<f64>]) -> Result<Vec<f64>> {
    if rows.len() < 3 {
        return Err(Error::Invalid(format!("the mean cosine without a prompt needs at least three prompts, found {}", rows.len())));
    }
    let (sums, n) = (cosine_sums(rows)?, rows.len() as f64);
    let total: f64 = sums.iter().sum();
    // Without prompt i, the ordered pairs with it are gone, twice its own sum.
    Ok(sums.iter().map(|own| total / (n - 1.0) - (total - 2.0 * own) / (n - 2.0)).collect())
}

fn mean_cosine(rows: &[Vec<f64>]) -> Result<f64> {
    let n = rows.len() as f64;
    Ok(cosine_sums(rows)?.iter().sum::<f64>() / (n * (n - 1.0)))
}

/// Of each row the sum of its cosines with all others.
fn cosine_sums(rows: &[Vec<f64>]) -> Result<Vec<f64>> {
    let norm = |(i, row): (usize, &Vec<f64>)| match row.iter().map(|value| value * value).sum::<f64>().sqrt() {
        0.0 => Err(Error::Invalid(format!("text embedding {i} is zero, it has no direction"))),
        norm => Ok(norm),
    };
    let norms = rows.iter().enumerate().map(norm).collect::<Result<Vec<f64>>>()?;
    let mut sum = vec![0.0; rows.first().map_or(0, Vec::len)];
    for (row, norm) in rows.iter().zip(&norms) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / norm);
    }
    // uᵢ · Σ_{j≠i} uⱼ = uᵢ · Σ uⱼ − 1 for unit vectors u.
    let with_all = |row: &[f64], norm: f64| row.iter().zip(&sum).map(|(value, sum)| value / norm * sum).sum::<f64>();
    Ok(rows.iter().zip(&norms).map(|(row, &norm)| with_all(row, norm) - 1.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cross_uses_its_two_directions_evenly() {
        let rows = [vec![1.0, 0.0, 0.0], vec![-1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, -1.0, 0.0]];
        let spread = spread(&rows).unwrap();
        assert!((spread.effective_rank - 2.0).abs() < 1e-9, "{spread:?}");
        // Of the twelve ordered pairs four are opposite and eight orthogonal.
        assert!((spread.mean_cosine + 4.0 / 12.0).abs() < 1e-12, "{spread:?}");
    }

    #[test]
    fn collapse_on_a_line_has_rank_one_and_cosine_near_one() {
        let rows: Vec<Vec<f64>> = (0..20).map(|i| vec![10.0, 10.0 + 0.01 * f64::from(i)]).collect();
        let spread = spread(&rows).unwrap();
        assert!((spread.effective_rank - 1.0).abs() < 1e-6 && spread.mean_cosine > 0.9999, "{spread:?}");
    }

    #[test]
    fn total_collapse_is_an_error_and_not_a_number() {
        assert!(spread(&vec![vec![0.3, 0.4]; 5]).unwrap_err().to_string().contains("total collapse"));
        assert!(spread(&[vec![1.0]]).is_err());
    }

    #[test]
    fn pseudo_values_are_those_of_leaving_a_prompt_out() {
        let rows: Vec<Vec<f64>> = (0..7).map(|i| vec![1.0, (f64::from(i) * 1.7).sin(), (f64::from(i) * 0.9).cos()]).collect();
        let (found, mean) = (cosine_pseudo_values(&rows).unwrap(), mean_cosine(&rows).unwrap());
        for (i, value) in found.iter().enumerate() {
            let mut without = rows.clone();
            without.remove(i);
            assert!((value - (7.0 * mean - 6.0 * mean_cosine(&without).unwrap())).abs() < 1e-12, "{i}");
        }
        assert!((found.iter().sum::<f64>() / 7.0 - mean).abs() < 1e-12);
        assert!(cosine_pseudo_values(&rows[..2]).is_err() && cosine_pseudo_values(&vec![vec![0.0]; 4]).is_err());
    }

    #[test]
    fn rank_does_not_depend_on_which_gram_matrix_is_taken() {
        let wide = [vec![1.0, 2.0, 0.5, -1.0], vec![0.0, 1.0, -2.0, 0.3], vec![2.0, -1.0, 0.1, 0.7]];
        let padded: Vec<Vec<f64>> = wide.iter().chain(&wide).cloned().collect();
        let (a, b) = (spread(&wide).unwrap(), spread(&padded).unwrap());
        assert!((a.effective_rank - b.effective_rank).abs() < 1e-9);
    }
}
