//! Times of the rectified flow: from 1 (noise) to 0 (image), shifted towards noise for many image tokens as in Flux.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Whether times are shifted by the number of image tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shift {
    /// Flux-dev and the miniature denoiser are trained with it.
    #[default]
    Resolution,
    /// Evenly spaced times, as Flux-schnell wants them.
    None,
    /// Stable Diffusion 3's constant shift, whatever the size.
    Sd3,
}

/// Flux's shift at 256 and at 4096 image tokens (black-forest-labs/flux@802fb47 src/flux/sampling.py).
const BASE: (f64, f64) = (256.0, 0.5);
const MAX: (f64, f64) = (4096.0, 1.15);

/// Stable Diffusion 3's shift, from the `scheduler_config.json` of its published model.
const SD3_SHIFT: f64 = 3.0;
/// Times a rectified flow is trained at are multiples of this.
const FIRST_TIME: f64 = 1e-3;

/// The `steps + 1` times of a trajectory over `n_tokens` image tokens, falling from 1 to 0.
pub fn flow_times(steps: usize, n_tokens: usize, shift: Shift) -> Result<Vec<f64>> {
    if steps == 0 {
        return Err(Error::config("steps is 0", "a trajectory has at least one denoising step"));
    }
    let even = (0..=steps).rev().map(|i| i as f64 / steps as f64);
    Ok(match shift {
        Shift::None => even.collect(),
        Shift::Resolution => even.map(|t| time_shift(shift_at(n_tokens), t)).collect(),
        Shift::Sd3 => constant_shift_times(steps, SD3_SHIFT),
    })
}

/// A shift that is linear in the number of image tokens: tokens and `mu` at two sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dynamic {
    pub base: (f64, f64),
    pub max: (f64, f64),
}

/// Like [`flow_times`] under [`Shift::Resolution`], with other sizes.
pub fn dynamic_times(steps: usize, n_tokens: usize, Dynamic { base, max }: Dynamic) -> Result<Vec<f64>> {
    let mu = shift_between(base, max, n_tokens);
    Ok(flow_times(steps, n_tokens, Shift::None)?.into_iter().map(|t| time_shift(mu, t)).collect())
}

/// The `steps + 1` even times from 1 to 0, moved towards 1 by a constant `shift` (1 moves nothing).
pub fn even_times(steps: usize, shift: f64) -> Result<Vec<f64>> {
    Ok(flow_times(steps, 1, Shift::None)?.into_iter().map(|t| shift * t / (1.0 + (shift - 1.0) * t)).collect())
}

/// Like [`flow_times`] under [`Shift::Sd3`], with another constant.
pub fn range_times(steps: usize, shift: f64) -> Result<Vec<f64>> {
    // For the error of no steps.
    flow_times(steps, 1, Shift::None)?;
    Ok(constant_shift_times(steps, shift))
}

/// `steps` times from 1 to the shifted first time of training, evenly spaced and then shifted, and 0. (That end is therefore shifted
/// twice: diffusers@v0.42.1 scheduling_flow_match_euler_discrete.py `set_timesteps` does so, and published images were made with it.)
fn constant_shift_times(steps: usize, shift: f64) -> Vec<f64> {
    let shifted = |t: f64| shift * t / (1.0 + (shift - 1.0) * t);
    let last = shifted(FIRST_TIME);
    let gap = if steps > 1 { (1.0 - last) / (steps - 1) as f64 } else { 0.0 };
    (0..steps).map(|i| shifted(1.0 - i as f64 * gap)).chain([0.0]).collect()
}

/// Flux's `mu`, linear in the number of image tokens.
pub fn shift_at(n_tokens: usize) -> f64 {
    shift_between(BASE, MAX, n_tokens)
}

fn shift_between(base: (f64, f64), max: (f64, f64), n_tokens: usize) -> f64 {
    base.1 + (max.1 - base.1) / (max.0 - base.0) * (n_tokens as f64 - base.0)
}

/// Moves time `t` in [0, 1] towards 1 by `mu`; 0 and 1 stay.
pub fn time_shift(mu: f64, t: f64) -> f64 {
    // In this form both ends are exact: at t = 1 the second term is 0, at t = 0 it is infinite.
    let e = mu.exp();
    e / (e + (1.0 / t - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding of a handful of f64 operations.
    const EPSILON: f64 = 1e-12;

    #[test]
    fn shift_is_half_at_256_tokens_and_1_15_at_4096() {
        assert!((shift_at(256) - 0.5).abs() < EPSILON);
        assert!((shift_at(4096) - 1.15).abs() < EPSILON);
        assert!((shift_at(1024) - 0.63).abs() < EPSILON);
    }

    #[test]
    fn shifted_middle_is_the_logistic_function_of_mu() {
        for n_tokens in [64, 256, 4096] {
            let middle = flow_times(2, n_tokens, Shift::Resolution).unwrap()[1];
            assert!((middle - 1.0 / (1.0 + (-shift_at(n_tokens)).exp())).abs() < EPSILON);
        }
    }

    #[test]
    fn times_agree_with_the_reference_implementation_of_candle() {
        let theirs = candle_transformers::models::flux::sampling::get_schedule(20, Some((1024, 0.5, 1.15)));
        let ours = flow_times(20, 1024, Shift::Resolution).unwrap();
        assert_eq!(ours.len(), 21);
        assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < EPSILON));
    }

    #[test]
    fn times_fall_from_one_to_zero() {
        for shift in [Shift::Resolution, Shift::None, Shift::Sd3] {
            let times = flow_times(20, 64, shift).unwrap();
            assert_eq!((times[0], times[20]), (1.0, 0.0));
            assert!(times.windows(2).all(|pair| pair[1] < pair[0]));
        }
        assert_eq!(flow_times(4, 64, Shift::None).unwrap(), [1.0, 0.75, 0.5, 0.25, 0.0]);
        assert!(flow_times(0, 64, Shift::None).is_err());
    }
}
