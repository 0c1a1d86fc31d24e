//! What one trajectory trains on: which prompts, with which noise and which guidance. Everything is a function of the
//! seed and the position in training, so that a resumed run needs no state for it.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::diffusion::latents::Use;
use crate::error::{Error, Result};
use crate::run::rng;

/// Whether the prompts of a trajectory share one guidance value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuidanceDraw {
    /// One value per batch, as in the released training script (DistillT5@2854218).
    #[default]
    PerTrajectory,
    PerPrompt,
}

/// One prompt of the training pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolPrompt {
    pub prompt_id: u64,
    pub prompt: String,
}

/// One prompt as it occurs in training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    pub prompt: String,
    /// Its id, and how often it occurred before.
    pub used: Use,
}

/// The endless, reproducible order of training prompts: epochs, each a keyed shuffle of the pool.
pub struct PromptOrder {
    seed: u64,
    /// Sorted, with repeated prompts beside each other; file order is gone.
    pool: Vec<PoolPrompt>,
    /// How often each prompt stands in the pool.
    copies: BTreeMap<u64, u64>,
    /// The epoch that was shuffled last: its number, and per position the pool index and the occurrence within the epoch.
    epoch: Option<(u64, Vec<(usize, u64)>)>,
}

impl PromptOrder {
    /// Orders a pool; a prompt that stands in it n times is seen n times in every epoch.
    pub fn new(mut pool: Vec<PoolPrompt>, seed: u64) -> Result<Self> {
        if pool.is_empty() {
            return Err(Error::config("the training pool is empty", "check `datasets` and run `scaledown build-data` again"));
        }
        pool.sort();
        let mut copies = BTreeMap::new();
        for prompt in &pool {
            *copies.entry(prompt.prompt_id).or_insert(0) += 1;
        }
        Ok(Self { seed, pool, copies, epoch: None })
    }

    /// Number of prompts in an epoch.
    pub fn epoch_len(&self) -> usize {
        self.pool.len()
    }

    /// The first `n` different prompts of the sorted pool, for diagnostics.
    pub fn probe(&self, n: usize) -> Vec<String> {
        let mut prompts: Vec<String> = self.pool.iter().map(|prompt| prompt.prompt.clone()).collect();
        prompts.dedup();
        prompts.truncate(n);
        prompts
    }

    /// The prompts of batch number `index` of batches of `size`; a batch may reach into the next epoch.
    pub fn batch(&mut self, index: u64, size: usize) -> Vec<Drawn> {
        let first = index * size as u64;
        (first..first + size as u64).map(|position| self.at(position)).collect()
    }

    fn at(&mut self, position: u64) -> Drawn {
        let n = self.pool.len() as u64;
        let (epoch, offset) = (position / n, (position % n) as usize);
        if self.epoch.as_ref().is_none_or(|(shuffled, _)| *shuffled != epoch) {
            self.epoch = Some((epoch, self.shuffled(epoch)));
        }
        let (index, occurrence) = self.epoch.as_ref().expect("the epoch was shuffled just above").1[offset];
        let prompt = &self.pool[index];
        let draw = epoch * self.copies[&prompt.prompt_id] + occurrence;
        Drawn { prompt: prompt.prompt.clone(), used: Use { prompt_id: prompt.prompt_id, draw } }
    }

    fn shuffled(&self, epoch: u64) -> Vec<(usize, u64)> {
        let mut order: Vec<usize> = (0..self.pool.len()).collect();
        rng::shuffle(&mut rng::stream(rng::Key { seed: self.seed, purpose: "epoch", item: 0, draw: epoch }), &mut order);
        let mut seen = BTreeMap::new();
        let occurrence = |index: usize| {
            let count = seen.entry(self.pool[index].prompt_id).or_insert(0u64);
            *count += 1;
            (index, *count - 1)
        };
        order.into_iter().map(occurrence).collect()
    }
}

/// Guidance `[B]` of trajectory number `index` over the prompts `batch`.
pub fn guidance(values: &[f64], draw: GuidanceDraw, seed: u64, index: u64, batch: &[Drawn]) -> Vec<f64> {
    let pick = |purpose, item, draw| *rng::pick(&mut rng::stream(rng::Key { seed, purpose, item, draw }), values);
    match draw {
        GuidanceDraw::PerTrajectory => vec![pick("guidance of a trajectory", index, 0); batch.len()],
        GuidanceDraw::PerPrompt => batch.iter().map(|drawn| pick("guidance", drawn.used.prompt_id, drawn.used.draw)).collect(),
    }
}

/// Guidance as the denoiser takes it, `[B]` (f32).
pub fn guidance_tensor(values: &[f64]) -> Result<Tensor> {
    Ok(Tensor::from_iter(values.iter().map(|&value| value as f32), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(counts: &[(&str, usize)]) -> Vec<PoolPrompt> {
        let one = |text: &str| PoolPrompt { prompt_id: rng::text_id(text), prompt: text.into() };
        counts.iter().flat_map(|(text, n)| vec![one(text); *n]).collect()
    }

    fn drawn(order: &mut PromptOrder, batches: std::ops::Range<u64>, size: usize) -> Vec<Drawn> {
        batches.flat_map(|index| order.batch(index, size)).collect()
    }

    #[test]
    fn every_occurrence_of_a_prompt_has_its_own_draw_number() {
        let mut order = PromptOrder::new(pool(&[("a", 3), ("b", 1)]), 1).unwrap();
        let all = drawn(&mut order, 0..6, 2);
        let draws = |text| all.iter().filter(|d| d.prompt == text).map(|d| d.used.draw).collect::<Vec<_>>();
        assert_eq!(draws("a"), (0..9).collect::<Vec<_>>());
        assert_eq!(draws("b"), [0, 1, 2]);
    }

    #[test]
    fn order_does_not_depend_on_batch_size_file_order_or_where_reading_starts() {
        let counts = [("a", 2), ("b", 1), ("c", 1), ("d", 3)];
        let mut reversed = counts;
        reversed.reverse();
        let all = drawn(&mut PromptOrder::new(pool(&counts), 1).unwrap(), 0..12, 2);
        assert_eq!(all, drawn(&mut PromptOrder::new(pool(&reversed), 1).unwrap(), 0..4, 6));
        assert_eq!(all[12..], drawn(&mut PromptOrder::new(pool(&counts), 1).unwrap(), 2..4, 6));
        assert_ne!(all, drawn(&mut PromptOrder::new(pool(&counts), 2).unwrap(), 0..12, 2));
    }

    #[test]
    fn guidance_comes_from_the_list_and_varies() {
        let mut order = PromptOrder::new(pool(&[("a", 1), ("b", 1)]), 1).unwrap();
        let values = [2.0, 2.5, 3.0];
        for draw in [GuidanceDraw::PerTrajectory, GuidanceDraw::PerPrompt] {
            let all: Vec<f64> = (0..50).flat_map(|i| guidance(&values, draw, 7, i, &order.batch(i, 2))).collect();
            assert!(values.iter().all(|value| all.contains(value)) && all.iter().all(|value| values.contains(value)));
            let pairs_agree = all.chunks(2).all(|pair| pair[0] == pair[1]);
            assert_eq!(pairs_agree, draw == GuidanceDraw::PerTrajectory);
        }
    }

    #[test]
    fn an_empty_pool_is_an_error() {
        assert!(PromptOrder::new(Vec::new(), 1).is_err());
    }
}
