//! Flux's forward and backward against PyTorch: `fixtures/flux_twin.safetensors` was made by `fixtures/flux_twin.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::weights::{Weights, read_safetensors};
use scaledown::models::{Denoiser, DenoiserInput};

fn fixture() -> (PathBuf, BTreeMap<String, Tensor>) {
    let path = Path::new("tests/fixtures/flux_twin.safetensors");
    let tensors = read_safetensors(path, &Device::Cpu).unwrap();
    (path.to_owned(), tensors)
}

fn norm(tensor: &Tensor) -> f64 {
    tensor.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
}

#[test]
fn velocity_loss_and_text_gradient_are_those_of_pytorch() {
    let (path, tensors) = fixture();
    let config = FluxConfig {
        vec_in_dim: 20,
        context_in_dim: 24,
        hidden_size: 32,
        num_heads: 2,
        depth: 1,
        depth_single_blocks: 2,
        axes_dim: vec![4, 6, 6],
        ..FluxConfig::preset("flux-dev").unwrap()
    };
    let named = tensors.iter().filter_map(|(name, value)| Some((name.strip_prefix("weights.")?.to_owned(), value.clone())));
    let weights = Weights::from_tensors(named.collect(), &path, DType::F32, &Device::Cpu);
    let flux = Flux::new(&config, &weights).unwrap();
    weights.finish().unwrap();
    let input = |name: &str| tensors[&format!("input.{name}")].clone();
    let text = input("text");
    let input = DenoiserInput {
        latents: input("latents"),
        time: input("time"),
        guidance: input("guidance"),
        pooled: input("pooled"),
        text_mask: None,
    };

    // PyTorch ran in f32 too: errors are a few roundings of values near 1.
    let velocity = flux.velocity(&input, &text).unwrap();
    let largest = (velocity - &tensors["velocity"]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(largest <= 1e-5, "velocity differs by {largest}");
    let (loss, gradient) = flux.loss_and_text_gradient(&input, &text, &tensors["target"]).unwrap();
    let expected = f64::from(tensors["loss"].to_vec1::<f32>().unwrap()[0]);
    assert!((loss - expected).abs() <= 1e-6 * expected, "loss {loss}, expected {expected}");
    let reference = &tensors["text_gradient"];
    let relative = norm(&(gradient - reference).unwrap()) / norm(reference);
    assert!(relative <= 1e-5, "text gradient differs by {relative}, relative");
}
