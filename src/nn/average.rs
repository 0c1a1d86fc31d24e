//! Exponential moving average of weights: what a diffusion model is sampled with.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::param::Parameters;
use super::real::vectorised;
use crate::error::{Error, Result};
use crate::numbers;

/// Values per parallel task.
const CHUNK: usize = 1 << 14;

/// The average of a network's f32 parameters.
#[derive(Debug, Clone)]
pub struct WeightAverage {
    decay: f64,
    /// Shape and values by parameter name.
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl WeightAverage {
    /// Starts at the network's weights. `decay` is the share that the old average keeps at each update.
    pub fn new(network: &dyn Parameters, decay: f64) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (name, value) in network.named() {
            values.insert(name, (value.dims().to_vec(), value.flatten_all()?.to_vec1()?));
        }
        Ok(Self { decay, values })
    }

    /// Takes in the weights after update `step`, which counts from zero. The memory starts short and grows to the decay,
    /// so that early averages are worth looking at: share min(decay, (1 + step) / (10 + step)).
    pub fn update(&mut self, network: &dyn Parameters, step: u64) -> Result<()> {
        let keep = self.decay.min((1.0 + step as f64) / (10.0 + step as f64)) as f32;
        for (name, value) in network.named() {
            let (_, average) = self.values.get_mut(&name).ok_or_else(|| Error::Invalid(format!("no average of `{name}`")))?;
            numbers!(f32: value = &value);
            average.par_chunks_mut(CHUNK).zip(value.par_chunks(CHUNK)).for_each(|(average, value)| {
                vectorised(
                    #[inline(always)]
                    || {
                        for (average, &value) in average.iter_mut().zip(value) {
                            *average = keep * *average + (1.0 - keep) * value;
                        }
                    },
                );
            });
        }
        Ok(())
    }

    /// The averaged weights by name.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let tensor = |(shape, values): &(Vec<usize>, Vec<f32>)| Tensor::from_slice(values, shape.as_slice(), &Device::Cpu);
        self.values.iter().map(|(name, value)| Ok((name.clone(), tensor(value)?))).collect()
    }

    /// Continues from saved averages.
    ///
    /// # Errors
    /// A missing name or another number of values.
    pub fn restore(&mut self, saved: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, (_, values)) in &mut self.values {
            let tensor = saved.get(name).ok_or_else(|| Error::Invalid(format!("no saved average of `{name}`")))?;
            let restored = tensor.flatten_all()?.to_vec1::<f32>()?;
            if restored.len() != values.len() {
                return Err(Error::Invalid(format!("average of `{name}` has {} values, expected {}", restored.len(), values.len())));
            }
            *values = restored;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::linear::Linear;
    use crate::nn::param::Param;

    fn network(value: f32) -> Linear {
        let weight = Tensor::full(value, (3, 2), &Device::Cpu).unwrap();
        Linear { weight: Param { name: "w".into(), value: weight }.into(), bias: None }
    }

    #[test]
    fn the_average_follows_its_closed_form_and_survives_saving() {
        let mut average = WeightAverage::new(&network(1.0), 0.9).unwrap();
        // Shares: min(0.9, 1/10) = 0.1 at step 0, min(0.9, 1001/1010) = 0.9 at step 1000.
        average.update(&network(3.0), 0).unwrap();
        let first = 0.1 * 1.0 + 0.9 * 3.0;
        average.update(&network(-1.0), 1000).unwrap();
        let expected = 0.9 * first - 0.1;
        let saved = average.tensors().unwrap();
        assert_eq!(saved["w"].dims(), [3, 2]);
        assert!(saved["w"].flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|&x| (x - expected).abs() < 1e-6));
        let mut other = WeightAverage::new(&network(7.0), 0.9).unwrap();
        other.restore(&saved).unwrap();
        assert_eq!(other.tensors().unwrap()["w"].to_vec2::<f32>().unwrap(), saved["w"].to_vec2::<f32>().unwrap());
        assert!(other.restore(&BTreeMap::new()).unwrap_err().to_string().contains("`w`"));
    }
}
