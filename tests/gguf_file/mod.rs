//! Small GGUF files of random networks.

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

/// A random network; every tensor gets noise, because some start at zero and would pass no gradient.
pub fn network(config: &FluxConfig) -> Flux {
    let mut flux = Flux::new(config, &Weights::initial(4, DType::F32, &Device::Cpu)).unwrap();
    flux.visit_mut(&mut |param| {
        let key = rng::Key { seed: 9, purpose: "shake", item: rng::text_id(&param.name), draw: 0 };
        let noise = rng::normal(&mut rng::stream(key), param.value.elem_count());
        let noise = Tensor::from_vec(noise, param.value.shape(), &Device::Cpu).unwrap();
        let size = if param.value.rank() > 1 { 0.5 * (param.value.dims()[1] as f64).powf(-0.5) } else { 0.1 };
        param.value = (&param.value + (noise * size).unwrap()).unwrap();
    });
    flux
}

/// Writes the tensors: matrices as `kind` where their rows divide, everything else in f32.
pub fn write(path: &Path, tensors: BTreeMap<String, Tensor>, kind: GgmlDType) {
    let stored = |tensor: &Tensor| {
        let fits = tensor.rank() == 2 && tensor.dims()[1].is_multiple_of(kind.block_size());
        QTensor::quantize(tensor, if fits { kind } else { GgmlDType::F32 }).unwrap()
    };
    let tensors: Vec<(String, QTensor)> = tensors.iter().map(|(name, tensor)| (name.clone(), stored(tensor))).collect();
    let entries: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &[], &entries).unwrap();
}
