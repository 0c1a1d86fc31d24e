//! The sizes of networks from their published `config.json`. What the networks here cannot do is an error that names file and key.

use std::path::Path;

use super::config_file::ConfigFile;
use crate::error::{Error, Result};
use crate::models::autoencoder::AutoencoderConfig;
use crate::models::clip::text::{ClipTextConfig, End};
use crate::models::clip::tower::{Activation, TowerSizes};
use crate::models::flux::FluxConfig;
use crate::models::pixart::PixArtConfig;
use crate::models::sd3::Sd3Config;
use crate::models::t5::T5Config;

/// Latent pixels along each side of a patch, in all three transformers.
const PATCH: usize = 2;

fn open(folder: &Path) -> Result<ConfigFile> {
    ConfigFile::read(&folder.join("config.json"))
}

/// Fails with `key` unless `found` is what the other sizes make it.
fn consistent(file: &ConfigFile, key: &str, found: usize, expected: usize) -> Result<()> {
    if found == expected { Ok(()) } else { Err(file.unsupported(key, found, &format!("{expected}, as the other sizes make it"))) }
}

/// Flux's transformer (`FluxTransformer2DModel`).
pub fn flux(folder: &Path) -> Result<FluxConfig> {
    let mut file = open(folder)?;
    let config = flux_sizes(&mut file)?;
    file.finish()?;
    Ok(config)
}

/// A ControlNet of Flux (`FluxControlNetModel`), and the number of kinds of images it knows where it knows several.
pub fn control_net(folder: &Path) -> Result<(FluxConfig, Option<usize>)> {
    let mut file = open(folder)?;
    let modes = file.optional_size("num_mode")?;
    // Others read the image by convolutions, not as latents.
    file.only("conditioning_embedding_channels", "null")?;
    let config = flux_sizes(&mut file)?;
    file.finish()?;
    Ok((config, modes))
}

fn flux_sizes(file: &mut ConfigFile) -> Result<FluxConfig> {
    // Latents come packed.
    file.only("patch_size", 1)?;
    let (heads, head_width, in_channels) = (file.size("num_attention_heads")?, file.size("attention_head_dim")?, file.size("in_channels")?);
    let out_channels = file.optional_size("out_channels")?.unwrap_or(in_channels);
    consistent(file, "out_channels", out_channels, in_channels)?;
    // The first published files leave it out.
    let axes_dim = file.optional_sizes("axes_dims_rope")?.unwrap_or_else(|| vec![16, 56, 56]);
    if axes_dim.len() != 3 || axes_dim.iter().sum::<usize>() != head_width {
        return Err(file.unsupported("axes_dims_rope", format!("{axes_dim:?}"), &format!("three widths that sum to {head_width}")));
    }
    Ok(FluxConfig {
        in_channels,
        vec_in_dim: file.size("pooled_projection_dim")?,
        context_in_dim: file.size("joint_attention_dim")?,
        hidden_size: heads * head_width,
        num_heads: heads,
        depth: file.size("num_layers")?,
        depth_single_blocks: file.size("num_single_layers")?,
        axes_dim,
        guidance_embed: file.switch("guidance_embeds", false)?,
        position_step: 1.0,
        // Not in the file: diffusers has them as constants (diffusers@v0.42.1 transformer_flux.py).
        mlp_ratio: 4.0,
        theta: 10_000.0,
    })
}

/// Stable Diffusion 3's transformer (`SD3Transformer2DModel`), and the side of its images in latent pixels.
pub fn sd3(folder: &Path) -> Result<(Sd3Config, usize)> {
    let mut file = open(folder)?;
    file.only("patch_size", PATCH)?;
    file.only("qk_norm", "null")?;
    let config = Sd3Config {
        channels: file.size("in_channels")?,
        blocks: file.size("num_layers")?,
        heads: file.size("num_attention_heads")?,
        head_width: file.size("attention_head_dim")?,
        text_width: file.size("joint_attention_dim")?,
        pooled_width: file.size("pooled_projection_dim")?,
        positions: file.size("pos_embed_max_size")?,
    };
    let (out, caption) = (file.optional_size("out_channels")?.unwrap_or(config.channels), file.size("caption_projection_dim")?);
    consistent(&file, "out_channels", out, config.channels)?;
    consistent(&file, "caption_projection_dim", caption, config.heads * config.head_width)?;
    let side = file.size("sample_size")?;
    file.finish()?;
    Ok((config, side))
}

/// PixArt-Alpha's transformer (`PixArtTransformer2DModel`, in older files `Transformer2DModel`), and the side of its images in latent
/// pixels.
pub fn pixart(folder: &Path) -> Result<(PixArtConfig, usize)> {
    let mut file = open(folder)?;
    file.only("patch_size", PATCH)?;
    file.only("activation_fn", "gelu-approximate")?;
    file.only("norm_type", "ada_norm_single")?;
    file.only("norm_eps", 1e-6)?;
    file.only("attention_bias", true)?;
    file.only("attention_type", "default")?;
    file.only("num_embeds_ada_norm", 1000)?;
    // Nothing is dropped outside training, and there is no group norm.
    file.ignore(&["dropout", "norm_num_groups"]);
    let config = PixArtConfig {
        channels: file.size("in_channels")?,
        blocks: file.size("num_layers")?,
        heads: file.size("num_attention_heads")?,
        head_width: file.size("attention_head_dim")?,
        text_width: file.size("caption_channels")?,
        sample_size: file.size("sample_size")?,
    };
    let (out, cross) = (file.size("out_channels")?, file.size("cross_attention_dim")?);
    consistent(&file, "out_channels", out, 2 * config.channels)?;
    consistent(&file, "cross_attention_dim", cross, config.heads * config.head_width)?;
    // Networks for 1024 pixels also see resolution and aspect ratio; where the file says nothing, their size does.
    if file.switch("use_additional_conditions", config.sample_size == 128)? {
        return Err(file.unsupported(
            "use_additional_conditions",
            true,
            "false: networks that see resolution and aspect ratio are not known here",
        ));
    }
    file.only("interpolation_scale", (config.sample_size / 64).max(1))?;
    file.finish()?;
    let side = config.sample_size;
    Ok((config, side))
}

/// A T5 encoder (`T5EncoderModel`).
pub fn t5(folder: &Path) -> Result<T5Config> {
    let mut file = open(folder)?;
    file.only("model_type", "t5")?;
    // T5 v1.1; the first T5 has ReLU.
    if file.text_or("feed_forward_proj", "relu")? != "gated-gelu" {
        return Err(file.unsupported("feed_forward_proj", "not gated-gelu", "gated-gelu (T5 v1.1)"));
    }
    let d_model = file.size("d_model")?;
    Ok(T5Config {
        vocab_size: file.size("vocab_size")?,
        d_model,
        d_kv: file.size("d_kv")?,
        d_ff: file.size("d_ff")?,
        num_layers: file.size("num_layers")?,
        num_heads: file.size("num_heads")?,
        relative_attention_num_buckets: file.optional_size("relative_attention_num_buckets")?.unwrap_or(32),
        relative_attention_max_distance: file.optional_size("relative_attention_max_distance")?.unwrap_or(128),
        layer_norm_epsilon: file.number("layer_norm_epsilon", 1e-6)?,
    })
}

/// Whether a text encoder is used with its projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    Without,
    With,
}

/// The text half of a CLIP (`CLIPTextModel`, `CLIPTextModelWithProjection`). Defaults are those of transformers' `CLIPTextConfig`.
pub fn clip_text(folder: &Path, projection: Projection) -> Result<ClipTextConfig> {
    let mut file = open(folder)?;
    file.only("model_type", "clip_text_model")?;
    let activation = match file.text_or("hidden_act", "quick_gelu")?.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => return Err(file.unsupported("hidden_act", other, "quick_gelu, gelu")),
    };
    let width = file.optional_size("hidden_size")?.unwrap_or(512);
    let tower = TowerSizes {
        width,
        layers: file.optional_size("num_hidden_layers")?.unwrap_or(12),
        heads: file.optional_size("num_attention_heads")?.unwrap_or(8),
        mlp_width: file.optional_size("intermediate_size")?.unwrap_or(2048),
        activation,
        epsilon: file.number("layer_norm_eps", 1e-5)?,
    };
    let projected = file.optional_size("projection_dim")?.unwrap_or(512);
    let end = match file.optional_size("eos_token_id")? {
        // Configurations from before the id was written correctly.
        Some(2) => End::Largest,
        id => End::Id(id.unwrap_or(49_407) as u32),
    };
    Ok(ClipTextConfig {
        tower,
        vocab_size: file.optional_size("vocab_size")?.unwrap_or(49_408),
        positions: file.optional_size("max_position_embeddings")?.unwrap_or(77),
        end,
        projection: (projection == Projection::With).then_some(projected),
    })
}

/// An autoencoder (`AutoencoderKL`).
pub fn autoencoder(folder: &Path) -> Result<AutoencoderConfig> {
    let mut file = open(folder)?;
    for (key, block) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
        let found = file.texts(key)?;
        if found.iter().any(|name| name != block) {
            return Err(file.unsupported(key, format!("{found:?}"), block));
        }
    }
    file.only("in_channels", 3)?;
    file.only("out_channels", 3)?;
    file.only("act_fn", "silu")?;
    file.only("mid_block_add_attention", true)?;
    // Numbers are f32 here anyway; sizes say for which images it was trained.
    file.ignore(&["force_upcast", "sample_size"]);
    let widths = file.sizes("block_out_channels")?;
    let channels = widths.first().copied().unwrap_or(0);
    if widths.is_empty() || widths.iter().any(|width| !width.is_multiple_of(channels)) {
        return Err(file.unsupported("block_out_channels", format!("{widths:?}"), "multiples of the first"));
    }
    let (before, after) = (file.switch("use_quant_conv", true)?, file.switch("use_post_quant_conv", true)?);
    if before != after {
        return Err(file.unsupported("use_post_quant_conv", after, &format!("{before}, as use_quant_conv")));
    }
    let config = AutoencoderConfig {
        channels,
        multipliers: widths.iter().map(|width| width / channels).collect(),
        residual_blocks: file.size("layers_per_block")?,
        latent_channels: file.size("latent_channels")?,
        norm_groups: file.optional_size("norm_num_groups")?.unwrap_or(32),
        scale_factor: file.number("scaling_factor", 0.182_15)?,
        shift_factor: file.number("shift_factor", 0.0)?,
        quant_conv: before,
    };
    if !(config.scale_factor.is_finite() && config.scale_factor > 0.0) {
        return Err(Error::config(
            format!("`{}`: `scaling_factor` is {}", folder.join("config.json").display(), config.scale_factor),
            "it must be above 0",
        ));
    }
    file.finish()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What `read` makes of a `config.json`.
    fn read<T>(config: &Value, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        read(folder.path())
    }

    /// The values of the files as they are published, the oldest of them, in whose place defaults have to stand.
    #[test]
    fn published_configurations_are_the_presets() {
        let config = json!({
            "_class_name": "FluxTransformer2DModel", "attention_head_dim": 128, "guidance_embeds": true, "in_channels": 64,
            "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "patch_size": 1,
            "pooled_projection_dim": 768,
        });
        assert_eq!(read(&config, flux).unwrap(), FluxConfig::preset("flux-dev").unwrap());
        let config = json!({
            "_class_name": "SD3Transformer2DModel", "attention_head_dim": 64, "caption_projection_dim": 1536, "in_channels": 16,
            "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 24, "out_channels": 16, "patch_size": 2,
            "pooled_projection_dim": 2048, "pos_embed_max_size": 192, "sample_size": 128,
        });
        assert_eq!(read(&config, sd3).unwrap(), (Sd3Config::preset("sd3-medium").unwrap(), 128));
        let config = json!({
            "_class_name": "Transformer2DModel", "activation_fn": "gelu-approximate", "attention_bias": true, "attention_head_dim": 72,
            "attention_type": "default", "caption_channels": 4096, "cross_attention_dim": 1152, "double_self_attention": false,
            "dropout": 0.0, "in_channels": 4, "norm_elementwise_affine": false, "norm_eps": 1e-06, "norm_num_groups": 32,
            "norm_type": "ada_norm_single", "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28,
            "num_vector_embeds": null, "only_cross_attention": false, "out_channels": 8, "patch_size": 2, "sample_size": 64,
            "upcast_attention": false, "use_linear_projection": false,
        });
        assert_eq!(read(&config, pixart).unwrap(), (PixArtConfig::preset("pixart-xl-2-512").unwrap(), 64));
    }

    #[test]
    fn published_text_encoders_are_the_presets() {
        let config = json!({
            "architectures": ["T5EncoderModel"], "d_ff": 10240, "d_kv": 64, "d_model": 4096, "dense_act_fn": "gelu_new",
            "feed_forward_proj": "gated-gelu", "is_gated_act": true, "layer_norm_epsilon": 1e-06, "model_type": "t5", "num_heads": 64,
            "num_layers": 24, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "vocab_size": 32128,
        });
        assert_eq!(read(&config, t5).unwrap(), T5Config::preset("t5-v1.1-xxl").unwrap());
        let config = json!({
            "architectures": ["CLIPTextModelWithProjection"], "eos_token_id": 2, "hidden_act": "gelu", "hidden_size": 1280,
            "intermediate_size": 5120, "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "model_type": "clip_text_model",
            "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280, "vocab_size": 49408,
        });
        let found = read(&config, |folder| clip_text(folder, Projection::With)).unwrap();
        let TowerSizes { width, layers, heads, mlp_width, activation, .. } = found.tower;
        assert_eq!((width, layers, heads, mlp_width, activation), (1280, 32, 20, 5120, Activation::Gelu));
        assert_eq!((found.end, found.projection, found.vocab_size), (End::Largest, Some(1280), 49_408));
        let first = json!({"model_type": "clip_text_model", "hidden_size": 768, "eos_token_id": 49407});
        let found = read(&first, |folder| clip_text(folder, Projection::Without)).unwrap();
        assert_eq!((found.end, found.projection, found.tower.activation), (End::Id(49_407), None, Activation::QuickGelu));
    }

    #[test]
    fn published_autoencoders_are_the_presets() {
        let blocks = |kind: &'static str| vec![kind; 4];
        let shared = json!({
            "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
            "down_block_types": blocks("DownEncoderBlock2D"), "up_block_types": blocks("UpDecoderBlock2D"), "in_channels": 3,
            "norm_num_groups": 32, "out_channels": 3,
        });
        let with = |more: Value| {
            let mut config = shared.clone();
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            config
        };
        let newer = |scale: f64, shift: f64| {
            with(json!({
                "latent_channels": 16, "scaling_factor": scale, "shift_factor": shift, "use_quant_conv": false,
                "use_post_quant_conv": false, "force_upcast": true, "latents_mean": null, "sample_size": 1024,
            }))
        };
        // PixArt's says nothing of its scale.
        let configs = [("flux-dev", newer(0.3611, 0.1159)), ("sd3", newer(1.5305, 0.0609)), ("sd1", with(json!({"latent_channels": 4})))];
        for (preset, config) in configs {
            assert_eq!(read(&config, autoencoder).unwrap(), AutoencoderConfig::preset(preset).unwrap());
        }
        let error = read(&newer(0.0, 0.1), autoencoder).unwrap_err().to_string();
        assert!(error.contains("`scaling_factor` is 0"), "{error}");
        let error = read(&with(json!({"latent_channels": 4, "latents_mean": [0.5]})), autoencoder).unwrap_err().to_string();
        assert!(error.contains("`latents_mean` is [0.5]"), "{error}");
    }

    #[test]
    fn sizes_that_contradict_each_other_are_refused() {
        let config = json!({
            "attention_head_dim": 64, "caption_projection_dim": 1000, "in_channels": 16, "joint_attention_dim": 4096,
            "num_attention_heads": 24, "num_layers": 24, "patch_size": 2, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
            "sample_size": 128,
        });
        assert!(read(&config, sd3).unwrap_err().to_string().contains("`caption_projection_dim` is 1000; supported: 1536"));
        let config = json!({
            "attention_head_dim": 128, "axes_dims_rope": [16, 56, 50], "in_channels": 64, "joint_attention_dim": 4096,
            "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "pooled_projection_dim": 768,
        });
        assert!(read(&config, flux).unwrap_err().to_string().contains("three widths that sum to 128"));
    }
}
