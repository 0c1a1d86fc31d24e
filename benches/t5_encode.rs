//! Encoding prompts with a T5-v1.1-Base-shaped encoder (110 M weights, random), 77 and 512 tokens, one prompt.
//! `tests/fixtures/t5_twin.py` times the same in PyTorch.

use std::hint::black_box;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use scaledown::error::Result;
use scaledown::models::TextEncoder;
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::weights::Weights;
use scaledown::run::alloc;

fn encoder() -> Result<T5Encoder> {
    T5Encoder::new(&T5Config::preset("t5-v1.1-base")?, &Weights::initial(1, DType::F32, &Device::Cpu))
}

fn ids(tokens: usize) -> Result<Tensor> {
    Ok(Tensor::from_vec((0..tokens).map(|i| (i * 37 % 32_000) as u32).collect::<Vec<_>>(), (1, tokens), &Device::Cpu)?)
}

fn t5_encode(criterion: &mut Criterion) {
    alloc::one_candle_thread();
    alloc::keep_freed_memory();
    alloc::join_thread_pool();
    let encoder = encoder().expect("the encoder is made");
    let mut group = criterion.benchmark_group("t5_encode");
    group.sample_size(20);
    for tokens in [77, 512] {
        let ids = ids(tokens).expect("ids are made");
        group.bench_function(format!("{tokens} tokens"), |bencher| bencher.iter(|| black_box(encoder.encode(&ids).expect("it encodes"))));
    }
    group.finish();
}

criterion_group!(benches, t5_encode);
criterion_main!(benches);
