//! CLIP against candle-transformers' port of the same network, on equal random weights.

use std::collections::{BTreeMap, HashMap};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::clip::{
    ClipConfig as ReferenceConfig, ClipModel, div_l2_norm,
    text_model::{Activation, ClipTextConfig, ClipTextTransformer},
    vision_model::ClipVisionConfig,
};
use scaledown::models::clip::{Clip, ClipConfig, TowerConfig};
use scaledown::models::weights::Weights;
use scaledown::run::rng;

/// f32 sums in different orders; embeddings have length one, pooled features are of order one.
const TOLERANCE: f32 = 1e-5;

fn random(shape: &[usize], item: u64) -> Tensor {
    let key = rng::Key { seed: 12, purpose: "parity", item, draw: 0 };
    Tensor::from_vec(rng::normal(&mut rng::stream(key), shape.iter().product()), shape, &Device::Cpu).unwrap()
}

fn assert_close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims());
    let gap = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(gap <= TOLERANCE, "difference {gap}");
}

fn config() -> ClipConfig {
    ClipConfig {
        text: TowerConfig { width: 24, layers: 2, heads: 3 },
        vision: TowerConfig { width: 32, layers: 2, heads: 4 },
        vocab_size: 30,
        positions: 9,
        // The reference takes the place of the largest id as the end of the text.
        end_id: 29,
        image_size: 16,
        patch_size: 4,
        embed_dim: 20,
        ..ClipConfig::preset("clip-vit-base-patch32").unwrap()
    }
}

fn networks() -> (ClipConfig, Clip, ClipModel, ClipTextTransformer) {
    let config = config();
    let shapes = Weights::trainable(0, BTreeMap::new(), DType::F32, &Device::Cpu);
    Clip::new(&config, &shapes).unwrap();
    let tensors: BTreeMap<String, Tensor> = shapes
        .vars()
        .into_iter()
        .map(|(name, var)| {
            let noise = (random(var.dims(), rng::text_id(&name)) * 0.1).unwrap();
            (name, (noise + var.as_tensor()).unwrap().detach())
        })
        .collect();
    let theirs: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    let weights = Weights::from_tensors(tensors, std::path::Path::new("memory"), DType::F32, &Device::Cpu);
    let ours = Clip::new(&config, &weights).unwrap();
    weights.finish().unwrap();
    let text_config = ClipTextConfig {
        vocab_size: config.vocab_size,
        embed_dim: config.text.width,
        activation: Activation::QuickGelu,
        intermediate_size: 4 * config.text.width,
        max_position_embeddings: config.positions,
        pad_with: None,
        num_hidden_layers: config.text.layers,
        num_attention_heads: config.text.heads,
        projection_dim: config.embed_dim,
    };
    let vision_config = ClipVisionConfig {
        embed_dim: config.vision.width,
        activation: Activation::QuickGelu,
        intermediate_size: 4 * config.vision.width,
        num_hidden_layers: config.vision.layers,
        num_attention_heads: config.vision.heads,
        projection_dim: config.embed_dim,
        num_channels: 3,
        image_size: config.image_size,
        patch_size: config.patch_size,
    };
    let builder = VarBuilder::from_tensors(theirs, DType::F32, &Device::Cpu);
    let text = ClipTextTransformer::new(builder.pp("text_model"), &text_config).unwrap();
    let reference = ReferenceConfig { text_config, vision_config, logit_scale_init_value: 2.6592, image_size: config.image_size };
    let model = ClipModel::new(builder, &reference).unwrap();
    (config, ours, model, text)
}

fn ids() -> Tensor {
    Tensor::new(&[[1u32, 5, 7, 29, 0, 0, 0, 0, 0], [2, 3, 4, 5, 6, 7, 8, 9, 29]], &Device::Cpu).unwrap()
}

#[test]
fn pooled_text_and_text_embeddings_are_those_of_the_reference() {
    let (_, ours, theirs, text) = networks();
    assert_close(&ours.text_pooled(&ids()).unwrap(), &candle_nn::Module::forward(&text, &ids()).unwrap());
    let expected = div_l2_norm(&theirs.get_text_features(&ids()).unwrap()).unwrap();
    assert_close(&ours.text_embeds(&ids()).unwrap(), &expected);
}

#[test]
fn image_embeddings_are_those_of_the_reference_on_normalised_pixels() {
    let (config, ours, theirs, _) = networks();
    let images = random(&[3, 3, 16, 16], 5).clamp(-1.0, 1.0).unwrap();
    let column = |values: [f64; 3]| Tensor::new(&values.map(|v| v as f32), &Device::Cpu).unwrap().reshape((1, 3, 1, 1)).unwrap();
    let unit = ((&images + 1.0).unwrap() / 2.0).unwrap();
    let pixels = unit.broadcast_sub(&column(config.image_mean)).unwrap().broadcast_div(&column(config.image_std)).unwrap();
    let expected = div_l2_norm(&theirs.get_image_features(&pixels).unwrap()).unwrap();
    let found = ours.image_embeds(&images).unwrap();
    assert_close(&found, &expected);
    assert_close(&found.sqr().unwrap().sum(D::Minus1).unwrap(), &Tensor::ones(3, DType::F32, &Device::Cpu).unwrap());
}
