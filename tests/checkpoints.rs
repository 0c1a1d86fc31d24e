//! The tensors that constructors ask for at published sizes against lists made from the reference classes
//! (`reference/checkpoints.py`): none missing, none unused, every shape equal. Nothing is allocated.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use scaledown::error::Result;
use scaledown::models::autoencoder::{Autoencoder, AutoencoderConfig};
use scaledown::models::clip::text::{ClipText, ClipTextConfig, End};
use scaledown::models::clip::tower::{Activation, TowerSizes};
use scaledown::models::clip::{Clip, ClipConfig};
use scaledown::models::exported;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::layout::{self, Named};
use scaledown::models::pixart::{PixArt, PixArtConfig};
use scaledown::models::sd3::{Sd3, Sd3Config};
use scaledown::models::student::{Student, StudentConfig};
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::weights::Weights;

type Shapes = BTreeMap<String, Vec<usize>>;

/// The published list: a name and a shape on each line.
fn published(file: &str) -> Shapes {
    let text = std::fs::read_to_string(format!("tests/fixtures/checkpoints/{file}.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let shape = |text: &str| text.split('x').filter(|side| !side.is_empty()).map(|side| side.parse().unwrap()).collect();
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, sides)| (name.to_owned(), shape(sides))).collect()
}

/// The names and shapes after a layout, of tensors that take no memory.
fn renamed(shapes: Shapes, layout: fn(Named) -> Result<Named>) -> Shapes {
    let zero = Tensor::zeros((), DType::BF16, &Device::Cpu).unwrap();
    let tensors = shapes.into_iter().map(|(name, shape)| (name, zero.broadcast_as(shape).unwrap())).collect();
    layout(tensors).unwrap().into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect()
}

fn check(file: &str, layout: Option<fn(Named) -> Result<Named>>, construct: impl FnOnce(&Weights) -> Result<()>) {
    let weights = Weights::recording(DType::F32, &Device::Cpu);
    construct(&weights).unwrap();
    let (asked, listed) = (weights.recorded(), published(file));
    let listed = match layout {
        Some(layout) => renamed(listed, layout),
        None => listed,
    };
    assert!(!listed.is_empty());
    let lacks = |from: &Shapes, other: &Shapes| from.keys().filter(|name| !other.contains_key(*name)).cloned().collect::<Vec<_>>();
    assert_eq!(lacks(&asked, &listed), Vec::<String>::new(), "{file}: asked for, but not in the file");
    assert_eq!(lacks(&listed, &asked), Vec::<String>::new(), "{file}: in the file, but not asked for");
    for (name, shape) in &listed {
        assert_eq!(&asked[name], shape, "{file}: shape of {name}");
    }
}

#[test]
fn stable_diffusion_3_medium_in_both_layouts() {
    let construct = |weights: &Weights| Sd3::new(&Sd3Config::preset("sd3-medium")?, weights).map(drop);
    check("sd3-medium", Some(layout::sd3), construct);
    check("sd3-medium-single-file", Some(layout::sd3), construct);
}

#[test]
fn pixart_alpha_512() {
    check("pixart-xl-2-512", None, |weights| PixArt::new(&PixArtConfig::preset("pixart-xl-2-512")?, weights).map(drop));
}

#[test]
fn flux_dev_and_schnell() {
    for name in ["flux-dev", "flux-schnell"] {
        check(name, None, |weights| Flux::new(&FluxConfig::preset(name)?, weights).map(drop));
    }
}

#[test]
fn autoencoders_of_flux_sd3_and_sd1_in_both_layouts() {
    let lists = [("vae-flux-dev", "flux-dev"), ("vae-flux-dev-single-file", "flux-dev"), ("vae-sd3", "sd3"), ("vae-sd1", "sd1")];
    for (file, preset) in lists {
        check(file, Some(layout::autoencoder), |weights| Autoencoder::new(&AutoencoderConfig::preset(preset)?, weights).map(drop));
    }
}

#[test]
fn t5_encoders_from_small_to_xxl() {
    for size in ["small", "base", "large", "xl", "xxl"] {
        let name = format!("t5-v1.1-{size}");
        check(&name, None, |weights| T5Encoder::new(&T5Config::preset(&name)?, weights).map(drop));
    }
}

#[test]
fn distillt5_as_released() {
    let encoder = T5Config::preset("t5-v1.1-base").unwrap();
    let config = StudentConfig { encoder, projection_hidden: 4096, text_width: 4096, dropout: 0.0 };
    check("distillt5", Some(exported::student_names), |weights| Student::new(&config, weights).map(drop));
}

#[test]
fn clip_large() {
    let name = "clip-vit-large-patch14";
    check(name, None, |weights| Clip::new(&ClipConfig::preset(name)?, weights).map(drop));
}

#[test]
fn text_halves_of_clip_large_and_bigg() {
    for (file, width, layers, heads, activation) in
        [("clip-large-text", 768, 12, 12, Activation::QuickGelu), ("clip-bigg-text", 1280, 32, 20, Activation::Gelu)]
    {
        let tower = TowerSizes { width, layers, heads, mlp_width: 4 * width, activation, epsilon: 1e-5 };
        let config = ClipTextConfig { tower, vocab_size: 49_408, positions: 77, end: End::Largest, projection: Some(width) };
        check(file, Some(layout::clip_text), |weights| ClipText::new(&config, weights).map(drop));
    }
}

/// A missing, an unused and a misshapen tensor are each found.
#[test]
fn a_list_that_differs_is_noticed() {
    let construct = |blocks| {
        move |weights: &Weights| {
            let config = PixArtConfig { blocks, ..PixArtConfig::preset("pixart-xl-2-512")? };
            PixArt::new(&config, weights).map(drop)
        }
    };
    for blocks in [27, 29] {
        assert!(std::panic::catch_unwind(|| check("pixart-xl-2-512", None, construct(blocks))).is_err());
    }
    let wider = |weights: &Weights| {
        let config = PixArtConfig { text_width: 2048, ..PixArtConfig::preset("pixart-xl-2-512")? };
        PixArt::new(&config, weights).map(drop)
    };
    assert!(std::panic::catch_unwind(|| check("pixart-xl-2-512", None, wider)).is_err());
}
