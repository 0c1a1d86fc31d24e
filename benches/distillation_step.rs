//! One distillation step of the miniature world with random weights: student forward, the teacher's velocity, loss and
//! text gradient through the denoiser, the student's backward, AdamW and the Euler step.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use scaledown::diffusion::latents::{LatentShape, Use, noise};
use scaledown::diffusion::sampler::{Conditions, euler_step};
use scaledown::error::Result;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::student::{Student, StudentConfig};
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::weights::Weights;
use scaledown::models::{Denoiser, TextEncoder};
use scaledown::nn::optim::{AdamW, AdamWConfig};
use scaledown::nn::param::Gradients;
use scaledown::run::alloc;

/// Prompts per update, tokens per prompt.
const BATCH: usize = 8;
const TOKENS: usize = 24;

struct Setup {
    student: Student,
    optimiser: AdamW,
    denoiser: Flux,
    ids: Tensor,
    teacher_text: Tensor,
    conditions: Conditions,
    latents: Tensor,
}

fn setup() -> Result<Setup> {
    let weights = Weights::initial(1, DType::F32, &Device::Cpu);
    let teacher = T5Config::preset("mini-teacher")?;
    let student = StudentConfig {
        encoder: T5Config::preset("mini-base")?,
        projection_hidden: teacher.d_model,
        text_width: teacher.d_model,
        dropout: 0.1,
    };
    let ids: Vec<u32> = (0..BATCH * TOKENS).map(|i| (i * 37 % 1000) as u32).collect();
    let ids = Tensor::from_vec(ids, (BATCH, TOKENS), &Device::Cpu)?;
    let denoiser = FluxConfig::preset("mini")?;
    let uses: Vec<Use> = (0..BATCH as u64).map(|prompt_id| Use { prompt_id, draw: 0 }).collect();
    Ok(Setup {
        teacher_text: T5Encoder::new(&teacher, &weights)?.encode(&ids)?,
        student: Student::new(&student, &weights.pp("student"))?,
        optimiser: AdamW::new(AdamWConfig::default()),
        conditions: Conditions {
            pooled: Tensor::zeros((BATCH, denoiser.vec_in_dim), DType::F32, &Device::Cpu)?,
            guidance: Tensor::full(3.5f32, BATCH, &Device::Cpu)?,
            text_mask: None,
        },
        denoiser: Flux::new(&denoiser, &weights.pp("denoiser"))?,
        latents: noise(1, &uses, LatentShape::square(64, 4, 16)?, &Device::Cpu)?,
        ids,
    })
}

fn step(setup: &mut Setup) -> Result<Tensor> {
    let (text, saved) = setup.student.forward(&setup.ids, None)?;
    let input = setup.conditions.at(&setup.latents, 0.8)?;
    let velocity = setup.denoiser.velocity(&input, &setup.teacher_text)?;
    let (_, d_text) = setup.denoiser.loss_and_text_gradient(&input, &text, &velocity)?;
    let mut gradients = Gradients::collect();
    setup.student.vjp(&saved, &d_text, &mut gradients)?;
    setup.optimiser.update(&mut setup.student, &gradients.into_map(), 1.0)?;
    euler_step(&setup.latents, &velocity, 0.8, 0.75)
}

fn distillation_step(criterion: &mut Criterion) {
    alloc::one_candle_thread();
    alloc::keep_freed_memory();
    alloc::join_thread_pool();
    let mut setup = setup().expect("random weights of a preset always load");
    let mut group = criterion.benchmark_group("distillation");
    group.sample_size(10);
    group.bench_function("step, batch 8", |bencher| bencher.iter(|| black_box(step(&mut setup).expect("the step is finite"))));
    group.finish();
}

criterion_group!(benches, distillation_step);
criterion_main!(benches);
