//! Classifier-free guidance: what two passes of a network say together, and its embedding of guidance learns to say in one.

use candle_core::{Device, Tensor};

use super::{Batch, Example};
use crate::error::Result;
use crate::models::flux::Flux;
use crate::models::{Denoiser, DenoiserInput};

/// v₀ + g (v − v₀) of `network`, `[B, N, C]`: v under the batch's prompts, v₀ under the `empty` one, g from `scale` `[B]`. The
/// network itself is told the batch's guidance.
pub(super) fn guided(network: &Flux, batch: &Batch, empty: &Example, scale: &Tensor) -> Result<Tensor> {
    let (b, l, width) = batch.text.dims3()?;
    let text = Tensor::from_slice(&empty.text, (1, l, width), &Device::Cpu)?.repeat((b, 1, 1))?;
    let pooled = Tensor::from_slice(&empty.pooled, (1, empty.pooled.len()), &Device::Cpu)?.repeat((b, 1))?;
    let conditional = network.velocity(&batch.input, &batch.text)?;
    let without = DenoiserInput { pooled, ..batch.input.clone() };
    let unconditional = network.velocity(&without, &text)?;
    let scale = scale.reshape((b, 1, 1))?;
    Ok((&unconditional + (conditional - &unconditional)?.broadcast_mul(&scale)?)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use candle_core::DType;

    use super::super::{Config, DenoiserTask, FILES, Frozen, Phase};
    use super::*;
    use crate::mini::scene::Split;
    use crate::models::flux::FluxConfig;
    use crate::models::weights::Weights;
    use crate::nn::residual::mean_squared_error;
    use crate::run::context::RunContext;

    /// Largest error of the embedding, relative to what two passes say.
    const LARGEST_ERROR: f64 = 0.6;
    /// Largest share of that error in the error of a network that ignores guidance. The committed weights have 0.77 at guidance 2 and
    /// 0.78 at 4: their embedding makes a part of the difference only.
    const LARGEST_SHARE: f64 = 0.9;

    #[test]
    fn the_committed_denoiser_guides_by_its_embedding_as_by_two_passes() {
        let context = RunContext::below(Path::new("."), "mini", "pipelines/mini".into(), 1);
        let path = context.pipeline.join(FILES.weights);
        let config = Config::default();
        let frozen = Frozen::load(&config, &context).unwrap();
        let weights = Weights::load(&path, DType::F32, &Device::Cpu).unwrap();
        let network = Flux::new(&FluxConfig::preset(&config.preset).unwrap(), &weights).unwrap();
        weights.finish().unwrap();
        let mut cache = BTreeMap::new();
        let mut task = DenoiserTask::new(&config, Phase::Flow, context.seed, &frozen, network.clone(), &mut cache).unwrap();
        let items: Vec<u64> = (0..16).collect();
        // Told guidance 1, the plain prediction.
        let batch = task.batch(Split::Val, "denoiser validation", &items, 0).unwrap();
        let ignorant = network.velocity(&batch.input, &batch.text).unwrap();
        let size = |difference: &Tensor| mean_squared_error(difference, &difference.zeros_like().unwrap()).unwrap().0.sqrt();
        for guidance in [2.0, 4.0] {
            let scale = Tensor::full(guidance as f32, items.len(), &Device::Cpu).unwrap();
            let truth = guided(&network, &batch, &task.empty, &scale).unwrap();
            let told = network.velocity(&DenoiserInput { guidance: scale, ..batch.input.clone() }, &batch.text).unwrap();
            let error = size(&(&told - &truth).unwrap()) / size(&truth);
            let ignoring = size(&(&ignorant - &truth).unwrap()) / size(&truth);
            println!("guidance {guidance}: relative error {error:.3}, {ignoring:.3} where it is ignored");
            assert!(error < LARGEST_ERROR, "guidance {guidance}: {error}");
            assert!(error < LARGEST_SHARE * ignoring, "guidance {guidance}: {error} against {ignoring}");
        }
    }
}
