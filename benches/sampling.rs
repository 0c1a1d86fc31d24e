//! Images of the miniature world from noise: 20 Euler steps of its denoiser (random weights) and the autoencoder's decoder.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scaledown::diffusion::latents::{LatentShape, Use, noise, unpack};
use scaledown::diffusion::sampler::{Conditions, sample};
use scaledown::diffusion::schedule::{Shift, flow_times};
use scaledown::error::Result;
use scaledown::models::autoencoder::{Autoencoder, AutoencoderConfig};
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::weights::Weights;
use scaledown::run::alloc;

/// Images per batch, tokens per prompt, denoising steps, pixels along a side.
const BATCH: usize = 16;
const TOKENS: usize = 24;
const STEPS: usize = 20;
const SIDE: usize = 64;

struct Setup {
    denoiser: Flux,
    autoencoder: Autoencoder,
    conditions: Conditions,
    text: Tensor,
    noise: Tensor,
    shape: LatentShape,
    times: Vec<f64>,
}

fn setup() -> Result<Setup> {
    let weights = Weights::initial(1, DType::F32, &Device::Cpu);
    let denoiser = FluxConfig::preset("mini")?;
    let shape = LatentShape::square(SIDE, 4, 16)?;
    let uses: Vec<Use> = (0..BATCH as u64).map(|prompt_id| Use { prompt_id, draw: 0 }).collect();
    let noise = noise(1, &uses, shape, &Device::Cpu)?;
    Ok(Setup {
        conditions: Conditions {
            pooled: Tensor::zeros((BATCH, denoiser.vec_in_dim), DType::F32, &Device::Cpu)?,
            guidance: Tensor::full(3.5f32, BATCH, &Device::Cpu)?,
            text_mask: None,
        },
        text: Tensor::ones((BATCH, TOKENS, denoiser.context_in_dim), DType::F32, &Device::Cpu)?,
        times: flow_times(STEPS, shape.n_patches(), Shift::Resolution)?,
        denoiser: Flux::new(&denoiser, &weights.pp("denoiser"))?,
        autoencoder: Autoencoder::new(&AutoencoderConfig::preset("mini")?, &weights.pp("autoencoder"))?,
        noise,
        shape,
    })
}

fn images(setup: &Setup) -> Result<Tensor> {
    let latents = sample(&setup.denoiser, &setup.noise, &setup.text, &setup.conditions, &setup.times)?;
    setup.autoencoder.decode(&unpack(&latents, setup.shape)?)
}

fn sampling(criterion: &mut Criterion) {
    alloc::one_candle_thread();
    alloc::keep_freed_memory();
    alloc::join_thread_pool();
    let setup = setup().expect("the networks are made");
    let mut group = criterion.benchmark_group("sampling");
    group.sample_size(10).throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("20 steps, batch 16", |bencher| bencher.iter(|| black_box(images(&setup).expect("it samples"))));
    group.finish();
}

criterion_group!(benches, sampling);
criterion_main!(benches);
