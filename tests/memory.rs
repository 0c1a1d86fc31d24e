//! What the backward pass of the denoiser needs at most, and what a quantised one takes, counted by the allocator.

mod gguf_file;

use std::sync::Mutex;

use candle_core::quantized::GgmlDType;
use scaledown::nn::param::Parameters;

use candle_core::{DType, Device, Tensor};
use scaledown::models::checkpointing::Checkpointing;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::layout;
use scaledown::models::mapped::Reading;
use scaledown::models::published::Stored;
use scaledown::models::weights::{Weights, write_safetensors};
use scaledown::models::{Denoiser, DenoiserInput};
use scaledown::run::{alloc, rng};

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

/// Under diffusers' names, whose three projections are joined: their rows stay in the file all the same.
#[test]
fn a_mapped_network_takes_next_to_no_memory_and_predicts_the_same() {
    let _alone = COUNTED.lock().unwrap();
    let config = gguf_file::flux_config();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut tensors = gguf_file::network(&config).named();
    let joined: Vec<String> = tensors.keys().filter(|name| name.contains("_attn.qkv.weight")).cloned().collect();
    assert!(!joined.is_empty());
    for name in joined {
        let weight = tensors.remove(&name).unwrap();
        let layers = if name.contains("img") { ["to_q", "to_k", "to_v"] } else { ["add_q_proj", "add_k_proj", "add_v_proj"] };
        let block = name.split('.').nth(1).unwrap();
        for (i, layer) in layers.iter().enumerate() {
            let rows = weight.narrow(0, i * config.hidden_size, config.hidden_size).unwrap().contiguous().unwrap();
            tensors.insert(format!("transformer_blocks.{block}.attn.{layer}.weight"), rows);
        }
    }
    for dtype in [DType::BF16, DType::F32] {
        write_safetensors(&path, &tensors, dtype).unwrap();
        let file = path.metadata().unwrap().len() as usize;
        let load = |reading| {
            let weights = Stored::One(path.clone()).load(layout::flux, reading).unwrap();
            let flux = Flux::new(&config, &weights).unwrap();
            weights.finish().unwrap();
            flux
        };
        let (kept, peak) = measure(|| load(Reading::Mapped));
        assert!(kept < file / 10 && peak < file / 5, "kept {kept}, peak {peak}, file {file}, {dtype:?}");
        let (input, text, target) = step(&config);
        let of = |flux: &Flux| {
            let (loss, gradient) = flux.loss_and_text_gradient(&input, &text, &target).unwrap();
            (loss.to_bits(), gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        assert_eq!(of(&load(Reading::Mapped)), of(&load(Reading::Whole)), "{dtype:?}");
    }
}

/// Inputs of one distillation step.
fn step(config: &FluxConfig) -> (DenoiserInput, Tensor, Tensor) {
    let normal = |shape: &[usize]| {
        let key = rng::Key { seed: 3, purpose: "test", item: shape.len() as u64, draw: shape[1] as u64 };
        Tensor::from_vec(rng::normal(&mut rng::stream(key), shape.iter().product()), shape, &Device::Cpu).unwrap()
    };
    let input = DenoiserInput {
        latents: normal(&[2, 16, config.in_channels]),
        time: Tensor::new(&[0.3f32, 0.8], &Device::Cpu).unwrap(),
        guidance: Tensor::new(&[3.5f32, 2.0], &Device::Cpu).unwrap(),
        pooled: normal(&[2, config.vec_in_dim]),
        text_mask: None,
    };
    (input, normal(&[2, 6, config.context_in_dim]), normal(&[2, 16, config.in_channels]))
}
