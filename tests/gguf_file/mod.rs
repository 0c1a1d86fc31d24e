//! Small GGUF files of random networks.

#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::weights::Weights;
use scaledown::nn::param::Parameters;
use scaledown::run::rng;

/// Flux with rows of whole blocks.
pub fn flux_config() -> FluxConfig {
    FluxConfig {
        hidden_size: 256,
        num_heads: 4,
        axes_dim: vec![16, 24, 24],
        vec_in_dim: 256,
        context_in_dim: 256,
        ..FluxConfig::preset("smoke").unwrap()
    }
}

/// A random network: matrices as PyTorch starts them (`torch.nn.Linear`, uniform within the inverse root of the inputs). Every
/// tensor gets numbers, because some start at zero and would pass no gradient.
pub fn network(config: &FluxConfig) -> Flux {
    let mut flux = Flux::new(config, &Weights::initial(4, DType::F32, &Device::Cpu)).unwrap();
    flux.visit_mut(&mut |param| {
        let key = rng::Key { seed: 9, purpose: "gguf", item: rng::text_id(&param.name), draw: 0 };
        let mut stream = rng::stream(key);
        let bound = if param.value.rank() > 1 { (param.value.dims()[1] as f32).powf(-0.5) } else { 0.1 };
        let noise: Vec<f32> = (0..param.value.elem_count()).map(|_| bound * (2.0 * rng::uniform(&mut stream) as f32 - 1.0)).collect();
        let noise = Tensor::from_vec(noise, param.value.shape(), &Device::Cpu).unwrap();
        param.value = if param.value.rank() > 1 { noise } else { (&param.value + noise).unwrap() };
    });
    flux
}

/// What published files of Flux keep at full precision: the layers into and out of the blocks (city96/ComfyUI-GGUF at 0aec56e,
/// tools/lcpp.patch).
const KEPT: [&str; 6] = ["img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.", "final_layer."];

/// Whether [`write`] stores the tensor in blocks: matrices with rows of whole blocks.
pub fn is_quantised(name: &str, tensor: &Tensor, kind: GgmlDType) -> bool {
    let kept = KEPT.iter().any(|prefix| name.starts_with(prefix));
    !kept && tensor.rank() == 2 && tensor.dims()[1].is_multiple_of(kind.block_size())
}

/// Writes the tensors as `kind` where [`is_quantised`] says so, in f32 otherwise.
pub fn write(path: &Path, tensors: BTreeMap<String, Tensor>, kind: GgmlDType) {
    let stored = |(name, tensor): (&String, &Tensor)| {
        let kind = if is_quantised(name, tensor, kind) { kind } else { GgmlDType::F32 };
        (name.clone(), QTensor::quantize(tensor, kind).unwrap())
    };
    let tensors: Vec<(String, QTensor)> = tensors.iter().map(stored).collect();
    let entries: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &[], &entries).unwrap();
}
