//! Connectionist temporal classification (Graves et al. 2006): the loss by the forward-backward recursion in log space,
//! its gradient in closed form, and greedy decoding. Class 0 is the blank.

use crate::error::{Error, Result};

/// Class that stands for "no character".
pub const BLANK: usize = 0;

/// Loss of one sequence and its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct CtcLoss {
    /// −log P(labels).
    pub loss: f64,
    /// Derivative of the loss by each log-probability, `[T, C]`: minus the posterior probability of class c at time t.
    /// Every row sums to −1.
    pub gradient: Vec<f32>,
}

/// The loss of `labels` (none of them [`BLANK`]) under `log_probabilities` `[T, C]`, row by row.
///
/// # Errors
/// A label outside `1..C`, a table that is no multiple of C, and labels that do not fit into T steps (equal neighbours
/// need a blank between them).
pub fn loss(log_probabilities: &[f32], n_classes: usize, labels: &[usize]) -> Result<CtcLoss> {
    if n_classes == 0 || !log_probabilities.len().is_multiple_of(n_classes) {
        return Err(Error::Invalid(format!("{} log-probabilities are no rows of {n_classes} classes", log_probabilities.len())));
    }
    if let Some(label) = labels.iter().find(|label| **label == BLANK || **label >= n_classes) {
        return Err(Error::Invalid(format!("label {label} lies outside 1..{n_classes}")));
    }
    let n_steps = log_probabilities.len() / n_classes;
    let needed = labels.len() + labels.windows(2).filter(|pair| pair[0] == pair[1]).count();
    if n_steps == 0 || n_steps < needed {
        return Err(Error::Invalid(format!("{} labels need {needed} steps, found {n_steps}", labels.len())));
    }
    // Labels with blanks around each: states of the recursion.
    let n_states = 2 * labels.len() + 1;
    let class = |state: usize| if state.is_multiple_of(2) { BLANK } else { labels[state / 2] };
    let value = |step: usize, state: usize| f64::from(log_probabilities[step * n_classes + class(state)]);
    // A state is reached from itself, from the one before, and over a blank from another label.
    let skips = |state: usize| state >= 2 && class(state) != BLANK && class(state) != class(state - 2);

    let mut forward = vec![f64::NEG_INFINITY; n_steps * n_states];
    forward[0] = value(0, 0);
    if n_states > 1 {
        forward[1] = value(0, 1);
    }
    for step in 1..n_steps {
        for state in 0..n_states {
            let before = &forward[(step - 1) * n_states..step * n_states];
            let mut sum = before[state];
            if state >= 1 {
                sum = log_add(sum, before[state - 1]);
            }
            if skips(state) {
                sum = log_add(sum, before[state - 2]);
            }
            forward[step * n_states + state] = sum + value(step, state);
        }
    }
    // The backward table excludes the probability at its own step, so that forward + backward counts it once.
    let mut backward = vec![f64::NEG_INFINITY; n_steps * n_states];
    let last = (n_steps - 1) * n_states;
    backward[last + n_states - 1] = 0.0;
    if n_states > 1 {
        backward[last + n_states - 2] = 0.0;
    }
    for step in (0..n_steps - 1).rev() {
        for state in 0..n_states {
            let after = |other: usize| backward[(step + 1) * n_states + other] + value(step + 1, other);
            let mut sum = after(state);
            if state + 1 < n_states {
                sum = log_add(sum, after(state + 1));
            }
            if state + 2 < n_states && skips(state + 2) {
                sum = log_add(sum, after(state + 2));
            }
            backward[step * n_states + state] = sum;
        }
    }

    let mut total = forward[last + n_states - 1];
    if n_states > 1 {
        total = log_add(total, forward[last + n_states - 2]);
    }
    if !total.is_finite() {
        return Err(Error::NonFinite { name: "CTC loss".into(), context: format!("{n_steps} steps, {} labels", labels.len()) });
    }
    let mut gradient = vec![0f32; log_probabilities.len()];
    for step in 0..n_steps {
        for state in 0..n_states {
            let posterior = (forward[step * n_states + state] + backward[step * n_states + state] - total).exp();
            gradient[step * n_classes + class(state)] -= posterior as f32;
        }
    }
    Ok(CtcLoss { loss: -total, gradient })
}

/// Labels of the most probable path: the best class of each step, repeats merged, blanks dropped.
pub fn decode_greedy(log_probabilities: &[f32], n_classes: usize) -> Vec<usize> {
    let mut labels = Vec::new();
    let mut previous = BLANK;
    for row in log_probabilities.chunks_exact(n_classes) {
        let mut best = BLANK;
        for class in 1..n_classes {
            if row[class] > row[best] {
                best = class;
            }
        }
        if best != BLANK && best != previous {
            labels.push(best);
        }
        previous = best;
    }
    labels
}

/// log(eᵃ + eᵇ) without overflow.
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::rng;

    const CLASSES: usize = 3;
    const STEPS: usize = 4;

    fn log_probabilities(item: u64) -> Vec<f32> {
        let raw = rng::normal(&mut rng::stream(rng::Key { seed: 1, purpose: "test", item, draw: 0 }), STEPS * CLASSES);
        raw.chunks(CLASSES)
            .flat_map(|row| {
                let sum: f32 = row.iter().map(|v| v.exp()).sum();
                row.iter().map(move |v| v - sum.ln()).collect::<Vec<_>>()
            })
            .collect()
    }

    fn collapse(path: &[usize]) -> Vec<usize> {
        let mut labels = Vec::new();
        for (i, &class) in path.iter().enumerate() {
            if class != BLANK && (i == 0 || path[i - 1] != class) {
                labels.push(class);
            }
        }
        labels
    }

    /// −log of the summed probability of all C^T paths that collapse to `labels`.
    fn enumerated(values: &[f64], labels: &[usize]) -> f64 {
        let mut sum = 0.0;
        for code in 0..CLASSES.pow(STEPS as u32) {
            let path: Vec<usize> = (0..STEPS).map(|t| code / CLASSES.pow(t as u32) % CLASSES).collect();
            if collapse(&path) == labels {
                sum += path.iter().enumerate().map(|(t, &c)| values[t * CLASSES + c]).sum::<f64>().exp();
            }
        }
        -sum.ln()
    }

    const LABELS: [&[usize]; 6] = [&[], &[1], &[2, 1], &[1, 1], &[1, 2, 1], &[2, 2, 1]];

    #[test]
    fn the_loss_is_the_sum_over_all_paths() {
        for (item, labels) in LABELS.iter().enumerate() {
            let values = log_probabilities(item as u64);
            let exact = enumerated(&values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), labels);
            let found = loss(&values, CLASSES, labels).unwrap().loss;
            assert!((found - exact).abs() < 1e-10, "{labels:?}: {found} {exact}");
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_sum_over_all_paths() {
        const STEP: f64 = 1e-5;
        for (item, labels) in LABELS.iter().enumerate() {
            let values = log_probabilities(item as u64);
            let found = loss(&values, CLASSES, labels).unwrap().gradient;
            for i in 0..values.len() {
                let moved = |by: f64| {
                    let mut values: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
                    values[i] += by;
                    enumerated(&values, labels)
                };
                let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                // Central differences of second order, and the gradient is stored in f32.
                assert!((f64::from(found[i]) - slope).abs() < 1e-6, "{labels:?} {i}: {} {slope}", found[i]);
            }
            for row in found.chunks(CLASSES) {
                assert!((row.iter().sum::<f32>() + 1.0).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn impossible_labels_are_errors() {
        let values = log_probabilities(0);
        assert!(loss(&values, CLASSES, &[1, 1, 1]).unwrap_err().to_string().contains("need 5 steps, found 4"));
        assert!(loss(&values, CLASSES, &[0]).is_err());
        assert!(loss(&values, CLASSES, &[3]).is_err());
    }

    #[test]
    fn decoding_merges_repeats_and_keeps_what_a_blank_divides() {
        let rows = |classes: &[usize]| -> Vec<f32> {
            classes.iter().flat_map(|&c| (0..CLASSES).map(move |k| if k == c { 0.0 } else { -9.0 })).collect()
        };
        assert_eq!(decode_greedy(&rows(&[0, 1, 1, 0, 1, 2, 2]), CLASSES), [1, 1, 2]);
        assert!(decode_greedy(&rows(&[0, 0]), CLASSES).is_empty());
    }
}
