//! The autoencoder against candle-transformers' port of the same network, on equal random weights.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::flux::autoencoder as reference;
use scaledown::models::autoencoder::{Autoencoder, AutoencoderConfig};
use scaledown::models::weights::Weights;
use scaledown::run::rng;

/// f32 sums in different orders through about thirty layers; values are of order one.
const TOLERANCE: f32 = 1e-5;

fn random(shape: &[usize], item: u64) -> Tensor {
    let key = rng::Key { seed: 11, purpose: "parity", item, draw: 0 };
    Tensor::from_vec(rng::normal(&mut rng::stream(key), shape.iter().product()), shape, &Device::Cpu).unwrap()
}

fn assert_close(found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims());
    let scale = expected.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    let gap = (found - expected).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(gap <= TOLERANCE * scale.max(1.0), "difference {gap} at values up to {scale}");
}

/// Ours and theirs with the same weights; every tensor is random, so that no bias is left at zero.
fn networks() -> (AutoencoderConfig, Autoencoder, VarBuilder<'static>, reference::Config) {
    let config = AutoencoderConfig { channels: 32, multipliers: vec![1, 2], ..AutoencoderConfig::preset("flux-dev").unwrap() };
    let shapes = Weights::trainable(0, BTreeMap::new(), DType::F32, &Device::Cpu);
    Autoencoder::new(&config, &shapes).unwrap();
    let tensors: BTreeMap<String, Tensor> = shapes
        .vars()
        .into_iter()
        .map(|(name, var)| {
            let noise = (random(var.dims(), rng::text_id(&name)) * 0.1).unwrap();
            let value = if var.dims().len() == 1 { (noise + var.as_tensor()).unwrap() } else { var.as_tensor().copy().unwrap() };
            (name, value.detach())
        })
        .collect();
    let theirs: HashMap<String, Tensor> = tensors.clone().into_iter().collect();
    let weights = Weights::from_tensors(tensors, std::path::Path::new("memory"), DType::F32, &Device::Cpu);
    let ours = Autoencoder::new(&config, &weights).unwrap();
    weights.finish().unwrap();
    let reference_config = reference::Config {
        resolution: 32,
        in_channels: 3,
        ch: config.channels,
        out_ch: 3,
        ch_mult: config.multipliers.clone(),
        num_res_blocks: config.residual_blocks,
        z_channels: config.latent_channels,
        scale_factor: config.scale_factor,
        shift_factor: config.shift_factor,
    };
    (config, ours, VarBuilder::from_tensors(theirs, DType::F32, &Device::Cpu), reference_config)
}

#[test]
fn encoding_is_the_mean_of_the_reference_posterior() {
    let (config, ours, builder, reference_config) = networks();
    let encoder = reference::Encoder::new(&reference_config, builder.pp("encoder")).unwrap();
    let images = random(&[2, 3, 16, 24], 1);
    // The reference samples in `AutoEncoder::encode`; its encoder's first half is the mean.
    let mean = encoder.forward(&images).unwrap().narrow(1, 0, config.latent_channels).unwrap();
    let expected = ((mean - config.shift_factor).unwrap() * config.scale_factor).unwrap();
    assert_close(&ours.encode(&images).unwrap(), &expected);
}

#[test]
fn decoding_is_that_of_the_reference() {
    let (config, ours, builder, reference_config) = networks();
    let theirs = reference::AutoEncoder::new(&reference_config, builder).unwrap();
    let latents = random(&[2, config.latent_channels, 8, 12], 2);
    assert_close(&ours.decode(&latents).unwrap(), &theirs.decode(&latents).unwrap());
}
