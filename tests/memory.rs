//! What the backward pass of the denoiser needs at most, and what a quantised one takes, counted by the allocator.

mod gguf_file;

use std::sync::Mutex;

use candle_core::quantized::GgmlDType;
use scaledown::nn::param::Parameters;

use candle_core::{DType, Device, Tensor};
use scaledown::models::checkpointing::Checkpointing;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::weights::Weights;
use scaledown::models::{Denoiser, DenoiserInput};
use scaledown::run::alloc;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// The counter is the process's: one test at a time.
static COUNTED: Mutex<()> = Mutex::new(());

const BATCH: usize = 8;
const IMAGE_TOKENS: usize = 64;
const TEXT_TOKENS: usize = 32;

/// Bytes more than before that `work` leaves in use through its result, and its peak.
fn measure<R>(work: impl FnOnce() -> R) -> (usize, usize) {
    let base = alloc::in_use();
    let (result, peak) = alloc::peak_of(work);
    let left = alloc::in_use();
    drop(result);
    (left - base, peak.unwrap() as usize)
}

#[test]
fn with_block_inputs_only_a_step_needs_one_block_and_the_inputs() {
    let _alone = COUNTED.lock().unwrap();
    let config = FluxConfig { depth: 3, depth_single_blocks: 9, ..FluxConfig::preset("mini").unwrap() };
    let mut flux = Flux::new(&config, &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
    let input = DenoiserInput {
        latents: Tensor::ones((BATCH, IMAGE_TOKENS, config.in_channels), DType::F32, &Device::Cpu).unwrap(),
        time: Tensor::full(0.5f32, BATCH, &Device::Cpu).unwrap(),
        guidance: Tensor::full(3.5f32, BATCH, &Device::Cpu).unwrap(),
        pooled: Tensor::ones((BATCH, config.vec_in_dim), DType::F32, &Device::Cpu).unwrap(),
        text_mask: None,
    };
    let text = Tensor::ones((BATCH, TEXT_TOKENS, config.context_in_dim), DType::F32, &Device::Cpu).unwrap();
    let target = input.latents.zeros_like().unwrap();

    let mut of = |policy| {
        flux.checkpointing = policy;
        let _ = flux.loss_and_text_gradient(&input, &text, &target).unwrap();
        let (kept, _) = measure(|| flux.forward(&input, &text).unwrap());
        let (_, peak) = measure(|| flux.loss_and_text_gradient(&input, &text, &target).unwrap());
        (kept, peak)
    };
    let (all, everything) = of(Checkpointing::Everything);
    // Keeps the activations of the first block, which is of the larger kind, and the inputs of the others.
    let (with_first_block, _) = of(Checkpointing::Every(usize::MAX));
    let (inputs, checkpointed) = of(Checkpointing::BlockInputs);
    let block_input = BATCH * (IMAGE_TOKENS + TEXT_TOKENS) * config.hidden_size * 4;
    let block = with_first_block - inputs + block_input;
    let limit = inputs as f64 + 1.3 * block as f64;
    assert!(checkpointed as f64 <= limit, "the step needed {checkpointed} bytes, {limit} are allowed; one block holds {block}");
    assert!(all > 3 * inputs && everything > 3 * checkpointed, "kept {all} or {inputs}, peak {everything} or {checkpointed}");
}

#[test]
fn a_quantised_network_takes_the_memory_of_its_file() {
    let _alone = COUNTED.lock().unwrap();
    let config = gguf_file::flux_config();
    let full = gguf_file::network(&config);
    let folder = tempfile::tempdir().unwrap();
    for (kind, bits) in [(GgmlDType::Q8_0, 8.5), (GgmlDType::Q4K, 4.5)] {
        let path = folder.path().join("flux.gguf");
        gguf_file::write(&path, full.named(), kind);
        let file = path.metadata().unwrap().len() as f64;
        let load = || {
            let weights = Weights::load(&path, DType::F32, &Device::Cpu).unwrap().keeping_half_precision();
            let flux = Flux::new(&config, &weights).unwrap();
            weights.finish().unwrap();
            flux
        };
        let (kept, peak) = measure(load);
        // Names, shapes and the structs of the blocks; while loading, one tensor more.
        assert!((kept as f64) < 1.05 * file && (peak as f64) < 1.3 * file, "kept {kept}, peak {peak}, file {file}");
        let bits = |(name, tensor): (&String, &Tensor)| {
            tensor.elem_count() as f64 * if gguf_file::is_quantised(name, tensor, kind) { bits } else { 32.0 }
        };
        let expected = full.named().iter().map(bits).sum::<f64>() / 8.0;
        assert!(file < 1.01 * expected, "the file has {file} bytes, {expected} are its numbers, {kind:?}");
    }
}
