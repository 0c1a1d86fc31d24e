//! The heart of distillation: velocity, loss and text gradient through a frozen denoiser of 17.9 M weights, batch 8, 64
//! image and 32 text tokens.
//!
//! With `SCALEDOWN_FLUX_TWIN` naming a file of `tests/fixtures/flux_twin.py save`, weights and inputs are those of the
//! PyTorch twin, and its results are compared before anything is timed; `flux_twin.py pairs` does both in turn.

use std::hint::black_box;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use scaledown::error::Result;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::weights::{Weights, read_safetensors};
use scaledown::models::{Denoiser, DenoiserInput};
use scaledown::run::alloc;

const BATCH: usize = 8;
const IMAGE_TOKENS: usize = 64;
const TEXT_TOKENS: usize = 32;

struct Setup {
    flux: Flux,
    input: DenoiserInput,
    text: Tensor,
    target: Tensor,
}

fn config() -> Result<FluxConfig> {
    Ok(FluxConfig {
        vec_in_dim: 256,
        context_in_dim: 512,
        hidden_size: 256,
        num_heads: 4,
        depth: 4,
        depth_single_blocks: 8,
        axes_dim: vec![16, 24, 24],
        ..FluxConfig::preset("flux-dev")?
    })
}

/// A fixed wave in place of random numbers.
fn wave(shape: &[usize], pace: f32) -> Result<Tensor> {
    let n = shape.iter().product::<usize>();
    Ok(Tensor::from_vec((0..n).map(|i| 1.4 * (i as f32 * pace).sin()).collect::<Vec<_>>(), shape, &Device::Cpu)?)
}

fn random() -> Result<Setup> {
    let config = config()?;
    Ok(Setup {
        flux: Flux::new(&config, &Weights::initial(1, DType::F32, &Device::Cpu))?,
        input: DenoiserInput {
            latents: wave(&[BATCH, IMAGE_TOKENS, config.in_channels], 0.37)?,
            time: Tensor::full(0.6f32, BATCH, &Device::Cpu)?,
            guidance: Tensor::full(3.5f32, BATCH, &Device::Cpu)?,
            pooled: wave(&[BATCH, config.vec_in_dim], 0.71)?,
            text_mask: None,
        },
        text: wave(&[BATCH, TEXT_TOKENS, config.context_in_dim], 0.53)?,
        target: wave(&[BATCH, IMAGE_TOKENS, config.in_channels], 0.29)?,
    })
}

/// The twin's network and inputs, after its velocity and text gradient were found again.
fn twin(path: PathBuf) -> Result<Setup> {
    let tensors = read_safetensors(&path, &Device::Cpu)?;
    let named = tensors.iter().filter_map(|(name, value)| Some((name.strip_prefix("weights.")?.to_owned(), value.clone())));
    let weights = Weights::from_tensors(named.collect(), &path, DType::F32, &Device::Cpu);
    let input = |name: &str| tensors[&format!("input.{name}")].clone();
    let setup = Setup {
        flux: Flux::new(&config()?, &weights)?,
        input: DenoiserInput {
            latents: input("latents"),
            time: input("time"),
            guidance: input("guidance"),
            pooled: input("pooled"),
            text_mask: None,
        },
        text: input("text"),
        target: tensors["target"].clone(),
    };
    let relative =
        |a: &Tensor, b: &Tensor| -> Result<f32> { Ok(((a - b)?.sqr()?.sum_all()? / b.sqr()?.sum_all()?)?.sqrt()?.to_scalar::<f32>()?) };
    let velocity = relative(&setup.flux.velocity(&setup.input, &setup.text)?, &tensors["velocity"])?;
    let gradient = relative(&step(&setup)?.1, &tensors["text_gradient"])?;
    eprintln!("against the twin, relative: velocity {velocity:.1e}, text gradient {gradient:.1e}");
    assert!(velocity <= 1e-5 && gradient <= 1e-5, "the two networks do not compute the same");
    Ok(setup)
}

fn step(setup: &Setup) -> Result<(f64, Tensor)> {
    setup.flux.loss_and_text_gradient(&setup.input, &setup.text, &setup.target)
}

fn denoiser_vjp(criterion: &mut Criterion) {
    alloc::one_candle_thread();
    alloc::keep_freed_memory();
    alloc::join_thread_pool();
    let setup = std::env::var_os("SCALEDOWN_FLUX_TWIN").map_or_else(random, |path| twin(path.into())).expect("the network loads");
    let mut group = criterion.benchmark_group("denoiser_vjp");
    group.sample_size(20);
    group.bench_function("batch 8", |bencher| bencher.iter(|| black_box(step(&setup).expect("the step is finite"))));
    group.finish();
}

criterion_group!(benches, denoiser_vjp);
criterion_main!(benches);
