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

fn mean_cosine(rows: &[Vec<f64>]) -> Result<f64> {
    // Σ_{i≠j} uᵢ·uⱼ = |Σ uᵢ|² − n for unit vectors u.
    let mut sum = vec![0.0; rows[0].len()];
    for (i, row) in rows.iter().enumerate() {
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Err(Error::Invalid(format!("text embedding {i} is zero, it has no direction")));
        }
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value / norm);
    }
    let n = rows.len() as f64;
    Ok((sum.iter().map(|value| value * value).sum::<f64>() - n) / (n * (n - 1.0)))
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
    fn rank_does_not_depend_on_which_gram_matrix_is_taken() {
        let wide = [vec![1.0, 2.0, 0.5, -1.0], vec![0.0, 1.0, -2.0, 0.3], vec![2.0, -1.0, 0.1, 0.7]];
        let padded: Vec<Vec<f64>> = wide.iter().chain(&wide).cloned().collect();
        let (a, b) = (spread(&wide).unwrap(), spread(&padded).unwrap());
        assert!((a.effective_rank - b.effective_rank).abs() < 1e-9);
    }
}
