//! T5, and Flux with its sizes, against candle-transformers' networks (forward only: theirs have no usable gradient).

use std::collections::BTreeMap;

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{flux, t5};
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::weights::Weights;
use scaledown::models::{Denoiser, DenoiserInput, TextEncoder};
use scaledown::nn::param::Parameters;
use scaledown::run::rng::{Key, normal, stream};

/// Both sides compute in f32 with different summation orders.
const TOLERANCE: f32 = 2e-5;

fn random(shape: &[usize], item: u64) -> Tensor {
    let values = normal(&mut stream(Key { seed: 5, purpose: "test", item, draw: 0 }), shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn perturbed(network: &mut dyn Parameters) -> BTreeMap<String, Tensor> {
    let mut item = 1000;
    network.visit_mut(&mut |param| {
        item += 1;
        param.value = (&param.value + (random(param.value.dims(), item) * 0.05).unwrap()).unwrap();
    });
    network.named()
}

fn var_builder(tensors: BTreeMap<String, Tensor>) -> VarBuilder<'static> {
    VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn t5_encoder_equals_candle_transformers() {
    let config = T5Config::preset("smoke-teacher").unwrap();
    let mut ours = T5Encoder::new(&config, &Weights::initial(6, DType::F32, &Device::Cpu)).unwrap();
    let tensors = perturbed(&mut ours);
    let json = serde_json::json!({
        "vocab_size": config.vocab_size, "d_model": config.d_model, "d_kv": config.d_kv, "d_ff": config.d_ff,
        "num_layers": config.num_layers, "num_heads": config.num_heads,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.0,
        "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": false, "is_encoder_decoder": true, "use_cache": false, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0
    });
    let reference_config: t5::Config = serde_json::from_value(json).unwrap();
    let mut theirs = t5::T5EncoderModel::load(var_builder(tensors), &reference_config).unwrap();
    // 150 tokens reach the logarithmic and the last buckets of the position bias.
    let ids: Vec<u32> = (0..300).map(|i| (i * 7 + 3) % 1024).collect();
    let ids = Tensor::from_vec(ids, (2, 150), &Device::Cpu).unwrap();
    let difference = largest_difference(&ours.encode(&ids).unwrap(), &theirs.forward(&ids).unwrap());
    assert!(difference < TOLERANCE, "{difference}");
}

#[test]
fn flux_equals_candle_transformers() {
    let config = FluxConfig { depth: 2, depth_single_blocks: 2, ..FluxConfig::preset("smoke").unwrap() };
    let mut ours = Flux::new(&config, &Weights::initial(4, DType::F32, &Device::Cpu)).unwrap();
    let tensors = perturbed(&mut ours);
    let reference_config = flux::model::Config {
        in_channels: config.in_channels,
        vec_in_dim: config.vec_in_dim,
        context_in_dim: config.context_in_dim,
        hidden_size: config.hidden_size,
        mlp_ratio: config.mlp_ratio,
        num_heads: config.num_heads,
        depth: config.depth,
        depth_single_blocks: config.depth_single_blocks,
        axes_dim: config.axes_dim.clone(),
        theta: 10_000,
        qkv_bias: true,
        guidance_embed: true,
    };
    let theirs = flux::model::Flux::new(&reference_config, var_builder(tensors)).unwrap();
    let (b, n, l) = (2, 16, 5);
    let input = DenoiserInput {
        latents: random(&[b, n, 64], 1),
        time: Tensor::new(&[0.3f32, 0.8], &Device::Cpu).unwrap(),
        guidance: Tensor::new(&[2.0f32, 3.5], &Device::Cpu).unwrap(),
        pooled: random(&[b, config.vec_in_dim], 2),
        text_mask: None,
    };
    let text = random(&[b, l, config.context_in_dim], 3);
    let grid: Vec<f32> = (0..n).flat_map(|i| [0.0, (i / 4) as f32, (i % 4) as f32]).collect();
    let image_ids = Tensor::from_vec(grid, (1, n, 3), &Device::Cpu).unwrap().repeat((b, 1, 1)).unwrap();
    let text_ids = Tensor::zeros((b, l, 3), DType::F32, &Device::Cpu).unwrap();
    let reference = flux::WithForward::forward(
        &theirs,
        &input.latents,
        &image_ids,
        &text,
        &text_ids,
        &input.time,
        &input.pooled,
        Some(&input.guidance),
    )
    .unwrap();
    let velocity = ours.velocity(&input, &text).unwrap();
    assert_eq!(velocity.dims(), reference.dims());
    let difference = largest_difference(&velocity, &reference);
    assert!(difference < TOLERANCE, "{difference}");
    assert!(velocity.i((0, 0)).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap() > 1e-3);
}

/// The published number of weights of Flux.1-dev, by a formula that is tied to our network at a size that fits in memory.
#[test]
fn published_sizes_have_the_published_number_of_weights() {
    let count = |config: &FluxConfig| {
        let (d, head, wide) = (config.hidden_size, config.hidden_size / config.num_heads, 4 * config.hidden_size);
        let linear = |i: usize, o: usize| i * o + o;
        let embedder = |i: usize| linear(i, d) + linear(d, d);
        let double = 2 * (linear(d, 6 * d) + linear(d, 3 * d) + 2 * head + linear(d, d) + linear(d, wide) + linear(wide, d));
        let single = linear(d, 3 * d) + linear(d, 3 * d + wide) + linear(d + wide, d) + 2 * head;
        let ends = linear(64, d)
            + linear(config.context_in_dim, d)
            + 2 * embedder(256)
            + embedder(config.vec_in_dim)
            + linear(d, 2 * d)
            + linear(d, 64);
        ends + config.depth * double + config.depth_single_blocks * single
    };
    // 11,901,408,320 weights: the published figure for FLUX.1-dev's transformer.
    assert_eq!(count(&FluxConfig::preset("flux-dev").unwrap()), 11_901_408_320);
    let smoke = FluxConfig::preset("smoke").unwrap();
    let ours = Flux::new(&smoke, &Weights::initial(1, DType::F32, &Device::Cpu)).unwrap();
    assert_eq!(count(&smoke), ours.count());
}
