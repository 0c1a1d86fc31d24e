//! From noise to packed latents: Euler steps along a denoiser's velocity, or a solver over its predictions of noise. The same
//! noise gives comparable images for every text encoder.
//!
//! B batch, L text tokens, N patches, C packed channels, D text width, P pooled width.

use candle_core::Tensor;

use super::scheduler::Steps;
use super::variance::VarianceSteps;
use crate::error::{Error, Result};
use crate::models::{Denoiser, DenoiserInput, Predicts};
use crate::nn::finite::check_finite;

/// What stays the same over one trajectory of B images.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// Pooled text embedding `[B, P]`.
    pub pooled: Tensor,
    /// Guidance scale `[B]`.
    pub guidance: Tensor,
    /// 1 for tokens that are seen, 0 for padding, `[B, L]`, for denoisers that look at it.
    pub text_mask: Option<Tensor>,
}

impl Conditions {
    /// The denoiser's input for `latents` `[B, N, C]` at time `t`.
    pub fn at(&self, latents: &Tensor, t: f64) -> Result<DenoiserInput> {
        let time = Tensor::full(t as f32, latents.dim(0)?, latents.device())?;
        let Self { pooled, guidance, text_mask } = self.clone();
        Ok(DenoiserInput { latents: latents.clone(), time, guidance, pooled, text_mask })
    }
}

/// Follows the velocity under `text` `[B, L, D]` from `noise` `[B, N, C]` along `times` (falling from 1 to 0) and
/// returns the packed latents `[B, N, C]` of the images.
///
/// # Errors
/// Latents that stop being finite are an error with the time at which it happened; a denoiser that predicts noise is one too.
pub fn sample(denoiser: &dyn Denoiser, noise: &Tensor, text: &Tensor, conditions: &Conditions, times: &[f64]) -> Result<Tensor> {
    follow(denoiser, noise, text, conditions, Steps::along(times.to_vec()), &mut |_| Ok(()))
}

/// Follows predictions of noise under `text` `[B, L, D]` from `noise` `[B, N, C]` and returns the packed latents `[B, N, C]` of
/// the images.
///
/// # Errors
/// As [`sample`], the other way round: the denoiser must predict noise.
pub fn sample_by_noise(
    denoiser: &dyn Denoiser,
    noise: &Tensor,
    text: &Tensor,
    conditions: &Conditions,
    steps: VarianceSteps,
) -> Result<Tensor> {
    follow(denoiser, noise, text, conditions, Steps::Noise(steps), &mut |_| Ok(()))
}

/// Follows any trajectory under `text` `[B, L, D]` from `noise` `[B, N, C]` to the packed latents `[B, N, C]` of the images; `after` sees
/// the latents of every step.
///
/// # Errors
/// As [`sample`]; the denoiser must predict what the steps follow.
pub fn follow(
    denoiser: &dyn Denoiser,
    noise: &Tensor,
    text: &Tensor,
    conditions: &Conditions,
    mut steps: Steps,
    after: &mut dyn FnMut(&Tensor) -> Result<()>,
) -> Result<Tensor> {
    expect(denoiser, steps.predicts())?;
    let mut latents = noise.clone();
    while let Some(time) = steps.time() {
        let prediction = denoiser.velocity(&conditions.at(&latents, time)?, text)?;
        latents = steps.step(&latents, &prediction)?;
        check_finite(&latents, "latents", || format!("after the denoising step at time {time}"))?;
        after(&latents)?;
    }
    Ok(latents)
}

/// Fails unless the denoiser predicts what is followed.
pub fn expect(denoiser: &dyn Denoiser, expected: Predicts) -> Result<()> {
    let found = denoiser.predicts();
    if found == expected {
        return Ok(());
    }
    Err(Error::Invalid(format!("this sampler follows {expected:?}, but the denoiser predicts {found:?}")))
}

/// One Euler step of `latents` `[B, N, C]` along `velocity` `[B, N, C]` from time `t` to `t_next`.
pub fn euler_step(latents: &Tensor, velocity: &Tensor, t: f64, t_next: f64) -> Result<Tensor> {
    Ok((latents + (velocity * (t_next - t))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::schedule::{Shift, flow_times};
    use crate::models::Pullback;
    use candle_core::Device;

    /// v = a · x + mean(text) + guidance · t: every image sees its own row only.
    struct Affine(f64);

    impl Denoiser for Affine {
        fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
            let shift = (text.mean((1, 2))? + (&input.guidance * &input.time)?)?;
            Ok((&input.latents * self.0)?.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(2)?)?)
        }

        fn velocity_with_pullback<'a>(&'a self, _: &DenoiserInput, _: &Tensor) -> Result<(Tensor, Pullback<'a>)> {
            Err(Error::Invalid("sampling needs no gradient".into()))
        }
    }

    fn filled(value: f32, shape: &[usize]) -> Tensor {
        Tensor::full(value, shape, &Device::Cpu).unwrap()
    }

    fn conditions(guidance: &[f32]) -> Conditions {
        Conditions { pooled: filled(0.0, &[guidance.len(), 1]), guidance: Tensor::new(guidance, &Device::Cpu).unwrap(), text_mask: None }
    }

    #[test]
    fn a_constant_velocity_is_followed_exactly_at_any_number_of_steps() {
        for steps in [1, 3, 20] {
            let times = flow_times(steps, 256, Shift::Resolution).unwrap();
            let text = filled(2.0, &[1, 2, 3]);
            let end = sample(&Affine(0.0), &filled(0.5, &[1, 4, 2]), &text, &conditions(&[0.0]), &times).unwrap();
            // 0.5 − 2 · (1 − 0), summed in f32 over the steps.
            assert!(end.to_vec3::<f32>().unwrap().iter().flatten().flatten().all(|v| (v + 1.5).abs() < 1e-5));
        }
    }

    #[test]
    fn even_steps_of_a_linear_velocity_give_the_power_of_one_minus_the_step() {
        let times = flow_times(4, 256, Shift::None).unwrap();
        let end = sample(&Affine(1.0), &filled(1.0, &[1, 1, 1]), &filled(0.0, &[1, 1, 1]), &conditions(&[0.0]), &times).unwrap();
        assert!((end.to_vec3::<f32>().unwrap()[0][0][0] - 0.75f32.powi(4)).abs() < 1e-6);
    }

    #[test]
    fn an_image_does_not_depend_on_the_batch_it_is_made_in() {
        let times = flow_times(5, 64, Shift::Resolution).unwrap();
        let noise = Tensor::new(&[[[0.3f32, -1.2]], [[2.0, 0.1]]], &Device::Cpu).unwrap();
        let text = Tensor::new(&[[[1f32]], [[-2.0]]], &Device::Cpu).unwrap();
        let both = sample(&Affine(0.7), &noise, &text, &conditions(&[1.0, 3.0]), &times).unwrap().to_vec3::<f32>().unwrap();
        for (i, guidance) in [1.0f32, 3.0].into_iter().enumerate() {
            let (noise, text) = (noise.narrow(0, i, 1).unwrap(), text.narrow(0, i, 1).unwrap());
            let alone = sample(&Affine(0.7), &noise, &text, &conditions(&[guidance]), &times).unwrap().to_vec3::<f32>().unwrap();
            assert_eq!(alone[0], both[i]);
        }
    }

    #[test]
    fn exploding_latents_are_an_error_with_the_time() {
        let times = flow_times(3, 64, Shift::None).unwrap();
        let text = filled(f32::NAN, &[1, 1, 1]);
        let error = sample(&Affine(0.0), &filled(0.0, &[1, 1, 1]), &text, &conditions(&[1.0]), &times).unwrap_err();
        assert!(error.to_string().contains("`latents`") && error.to_string().contains("at time 1"), "{error}");
    }
}
