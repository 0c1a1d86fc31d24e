//! AdamW with decoupled weight decay (Loshchilov & Hutter 2019), clipping by global norm, and a state that can be saved.
//!
//! Moments and parameters are f32; reductions are f64 in a fixed order, so that a resumed run repeats the numbers.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::lanes::sum_of;
use super::param::Parameters;
use super::real::vectorised;
use crate::error::{Error, Result};
use crate::numbers;

/// Hyperparameters; the defaults are those of the released training script (DistillT5@2854218).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub max_gradient_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { learning_rate: 1e-4, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 1e-3, max_gradient_norm: 1.0 }
    }
}

/// First and second moment of one parameter.
#[derive(Debug, Clone)]
struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The optimiser and its state.
#[derive(Debug, Clone)]
pub struct AdamW {
    pub config: AdamWConfig,
    step: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser that has not stepped yet.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, step: 0, moments: BTreeMap::new() }
    }

    /// Number of updates made.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// One update of every parameter of `network`; `rate_factor` is the schedule's factor on the learning rate.
    /// Returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// A parameter without gradient, a gradient without parameter and a non-finite gradient are errors with the name.
    pub fn update(&mut self, network: &mut dyn Parameters, gradients: &BTreeMap<String, Tensor>, rate_factor: f64) -> Result<f64> {
        let mut squared = 0.0f64;
        for (name, gradient) in gradients {
            let sum = squared_norm(gradient)?;
            if !sum.is_finite() {
                return Err(Error::NonFinite { name: format!("gradient of {name}"), context: format!("update {}", self.step + 1) });
            }
            squared += sum;
        }
        let norm = squared.sqrt();
        let clip = (self.config.max_gradient_norm / norm.max(1e-12)).min(1.0) as f32;

        self.step += 1;
        let mut outcome = Ok(());
        let mut used = 0;
        network.visit_mut(&mut |param| {
            if outcome.is_err() {
                return;
            }
            let Some(gradient) = gradients.get(&param.name) else {
                outcome = Err(Error::Invalid(format!("parameter `{}` has no gradient", param.name)));
                return;
            };
            used += 1;
            let n = gradient.elem_count();
            let moments = self.moments.entry(param.name.clone()).or_insert_with(|| Moments { first: vec![0.0; n], second: vec![0.0; n] });
            match adamw(&self.config, self.step, rate_factor, clip, &param.value, gradient, moments) {
                Ok(value) => param.value = value,
                Err(error) => outcome = Err(error),
            }
        });
        outcome?;
        if used != gradients.len() {
            return Err(Error::Invalid(format!("{} gradients for {used} parameters", gradients.len())));
        }
        Ok(norm)
    }

    /// The state as named tensors: `first.<name>`, `second.<name>`.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            for (part, values) in [("first", &moments.first), ("second", &moments.second)] {
                state.insert(format!("{part}.{name}"), Tensor::from_slice(values, values.len(), &Device::Cpu)?);
            }
        }
        Ok(state)
    }

    /// Restores what [`AdamW::state`] gave after `step` updates.
    pub fn restore(&mut self, step: u64, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut moments = BTreeMap::new();
        for (key, tensor) in state {
            let Some(name) = key.strip_prefix("first.") else { continue };
            let second =
                state.get(&format!("second.{name}")).ok_or_else(|| Error::Invalid(format!("optimiser state lacks `second.{name}`")))?;
            moments.insert(name.to_owned(), Moments { first: tensor.to_vec1()?, second: second.to_vec1()? });
        }
        self.step = step;
        self.moments = moments;
        Ok(())
    }
}

/// Elements per parallel task; sums are grouped by it, whatever the thread count.
const CHUNK: usize = 1 << 14;

/// Σ g² in f64.
fn squared_norm(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous()?;
    let parts: Vec<f64> = {
        numbers!(f32: gradient = &gradient);
        let part = |chunk: &[f32]| {
            vectorised(
                #[inline(always)]
                || sum_of(chunk, |g| f64::from(g) * f64::from(g)),
            )
        };
        gradient.par_chunks(CHUNK).map(part).collect()
    };
    Ok(parts.iter().sum())
}

/// One AdamW update of one parameter; returns its new value with the old shape.
fn adamw(
    config: &AdamWConfig,
    step: u64,
    rate_factor: f64,
    clip: f32,
    value: &Tensor,
    gradient: &Tensor,
    moments: &mut Moments,
) -> Result<Tensor> {
    let rate = config.learning_rate * rate_factor;
    let (b1, b2) = (config.beta1 as f32, config.beta2 as f32);
    let correction1 = 1.0 - config.beta1.powi(step as i32);
    let correction2 = 1.0 - config.beta2.powi(step as i32);
    let step_size = (rate / correction1) as f32;
    let root_correction = (1.0 / correction2.sqrt()) as f32;
    let keep = (1.0 - rate * config.weight_decay) as f32;
    let epsilon = config.epsilon as f32;
    let mut new = value.flatten_all()?.to_vec1::<f32>()?;
    if new.len() != gradient.elem_count() || new.len() != moments.first.len() {
        return Err(Error::Invalid(format!("gradient has {} values, parameter {}", gradient.elem_count(), new.len())));
    }
    let gradient = gradient.contiguous()?;
    {
        numbers!(f32: gradient = &gradient);
        new.par_chunks_mut(CHUNK)
            .zip(gradient.par_chunks(CHUNK))
            .zip(moments.first.par_chunks_mut(CHUNK).zip(moments.second.par_chunks_mut(CHUNK)))
            .for_each(|((p, g), (m, v))| {
                vectorised(
                    #[inline(always)]
                    || {
                        let n = p.len();
                        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
                        for i in 0..n {
                            let g = g[i] * clip;
                            m[i] = b1 * m[i] + (1.0 - b1) * g;
                            v[i] = b2 * v[i] + (1.0 - b2) * g * g;
                            p[i] = keep * p[i] - step_size * m[i] / (v[i].sqrt() * root_correction + epsilon);
                        }
                    },
                );
            });
    }
    Ok(Tensor::from_vec(new, value.shape(), value.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::param::Param;

    struct One(Param);
    impl Parameters for One {
        fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
            visitor(&self.0);
        }
        fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
            visitor(&mut self.0);
        }
    }

    fn one(value: f32) -> One {
        One(Param { name: "w".into(), value: Tensor::new(&[value], &Device::Cpu).unwrap() })
    }

    fn gradient(value: f32) -> BTreeMap<String, Tensor> {
        BTreeMap::from([("w".into(), Tensor::new(&[value], &Device::Cpu).unwrap())])
    }

    #[test]
    fn the_first_step_is_the_learning_rate_times_the_sign_after_decay() {
        let config = AdamWConfig { learning_rate: 0.1, weight_decay: 0.5, epsilon: 0.0, max_gradient_norm: 1e9, ..Default::default() };
        let mut network = one(2.0);
        let norm = AdamW::new(config).update(&mut network, &gradient(-3.0), 1.0).unwrap();
        assert_eq!(norm, 3.0);
        let new = network.0.value.to_vec1::<f32>().unwrap()[0];
        // 2 · (1 − 0.1 · 0.5) + 0.1, in f32.
        assert!((new - 2.0).abs() < 1e-6, "{new}");
    }

    #[test]
    fn a_restored_optimiser_repeats_the_update() {
        let mut network = one(1.0);
        let mut optimiser = AdamW::new(AdamWConfig::default());
        optimiser.update(&mut network, &gradient(0.3), 1.0).unwrap();
        let mut copy = AdamW::new(AdamWConfig::default());
        copy.restore(optimiser.step_count(), &optimiser.state().unwrap()).unwrap();
        let mut twin = One(network.0.clone());
        optimiser.update(&mut network, &gradient(-0.2), 0.5).unwrap();
        copy.update(&mut twin, &gradient(-0.2), 0.5).unwrap();
        assert_eq!(network.0.value.to_vec1::<f32>().unwrap(), twin.0.value.to_vec1::<f32>().unwrap());
    }

    #[test]
    fn a_missing_gradient_is_an_error_with_the_name() {
        let error = AdamW::new(AdamWConfig::default()).update(&mut one(1.0), &BTreeMap::new(), 1.0).unwrap_err();
        assert!(error.to_string().contains("`w`"));
    }
}
