//! Names of tensors: published files come in several layouts, and each network here asks for the names of one. These functions
//! rename the others, and cut or join tensors where layouts differ. Names they do not know they leave alone, so that strict loading
//! reports them.

mod flux;
mod text;

use std::collections::BTreeMap;

use candle_core::Tensor;

pub use self::flux::{flux, flux_tensor};
pub use self::text::{clip_text, t5};

use crate::error::Result;

/// Tensors by name.
pub type Named = BTreeMap<String, Tensor>;

/// The prefix of the autoencoder in single files of Stable Diffusion.
const FIRST_STAGE: &str = "first_stage_model.";

/// An autoencoder's tensors under the names of latent-diffusion and Flux (`encoder.down.0.block.0.…`), from those or from diffusers'
/// (`encoder.down_blocks.0.resnets.0.…`), the older ones included (`mid_block.attentions.0.query`).
pub fn autoencoder(tensors: Named) -> Result<Named> {
    let up_level = |name: &str| name.strip_prefix("decoder.up_blocks.")?.split('.').next()?.parse().ok();
    let levels = tensors.keys().filter_map(|name| up_level(name)).max().map_or(0, |last: usize| last + 1);
    let mut renamed = Named::new();
    for (name, tensor) in tensors {
        let name = name.strip_prefix(FIRST_STAGE).map(str::to_owned).unwrap_or(name);
        let new = autoencoder_name(&name, levels).unwrap_or(name);
        // Diffusers has the attention's 1×1 convolutions as linear layers.
        let is_flat = new.contains(".mid.attn_1.") && tensor.rank() == 2;
        renamed.insert(new, if is_flat { tensor.unsqueeze(2)?.unsqueeze(3)? } else { tensor });
    }
    Ok(renamed)
}

/// The latent-diffusion name of a diffusers name; `levels` is the number of sizes.
fn autoencoder_name(name: &str, levels: usize) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    // The decoder's levels are counted from the smallest size in diffusers, from the largest here.
    let up = |i: &str| i.parse::<usize>().ok().and_then(|i| (levels.checked_sub(1)?).checked_sub(i));
    Some(match parts.as_slice() {
        ["encoder", "down_blocks", i, "resnets", j, rest @ ..] => format!("encoder.down.{i}.block.{j}.{}", residual(rest)),
        ["encoder", "down_blocks", i, "downsamplers", "0", rest @ ..] => format!("encoder.down.{i}.downsample.{}", rest.join(".")),
        ["decoder", "up_blocks", i, "resnets", j, rest @ ..] => format!("decoder.up.{}.block.{j}.{}", up(i)?, residual(rest)),
        ["decoder", "up_blocks", i, "upsamplers", "0", rest @ ..] => format!("decoder.up.{}.upsample.{}", up(i)?, rest.join(".")),
        [half, "mid_block", "resnets", i, rest @ ..] => format!("{half}.mid.block_{}.{}", i.parse::<usize>().ok()? + 1, residual(rest)),
        [half, "mid_block", "attentions", "0", layer @ .., kind] => {
            let layer = match *layer {
                ["group_norm"] => "norm",
                ["to_q" | "query"] => "q",
                ["to_k" | "key"] => "k",
                ["to_v" | "value"] => "v",
                ["to_out", "0"] | ["proj_attn"] => "proj_out",
                _ => return None,
            };
            format!("{half}.mid.attn_1.{layer}.{kind}")
        }
        [half, "conv_norm_out", kind] => format!("{half}.norm_out.{kind}"),
        _ => return None,
    })
}

fn residual(rest: &[&str]) -> String {
    rest.join(".").replace("conv_shortcut", "nin_shortcut")
}

/// The prefix of the transformer in the single file of Stable Diffusion 3.
const DIFFUSION_MODEL: &str = "model.diffusion_model.";

/// The transformer of Stable Diffusion 3 under diffusers' names, from those or from the single file, whose other networks are left
/// out.
pub fn sd3(tensors: Named) -> Result<Named> {
    if !tensors.keys().any(|name| name.starts_with(DIFFUSION_MODEL)) {
        return Ok(tensors);
    }
    let block = |name: &str| name.strip_prefix("joint_blocks.")?.split('.').next()?.parse::<usize>().ok();
    let inside: Named =
        tensors.into_iter().filter_map(|(name, tensor)| Some((name.strip_prefix(DIFFUSION_MODEL)?.to_owned(), tensor))).collect();
    let last = inside.keys().filter_map(|name| block(name)).max();
    let mut renamed = Named::new();
    for (name, tensor) in inside {
        let parts: Vec<&str> = name.split('.').collect();
        match parts.as_slice() {
            ["joint_blocks", i, stream, "attn", "qkv", kind] => {
                let names = match *stream {
                    "x_block" => ["to_q", "to_k", "to_v"],
                    _ => ["add_q_proj", "add_k_proj", "add_v_proj"],
                };
                let width = tensor.dim(0)? / 3;
                for (part, layer) in names.into_iter().enumerate() {
                    let name = format!("transformer_blocks.{i}.attn.{layer}.{kind}");
                    renamed.insert(name, tensor.narrow(0, part * width, width)?);
                }
            }
            ["joint_blocks", i, stream, rest @ .., kind] => {
                let is_text = *stream == "context_block";
                let layer = match *rest {
                    ["attn", "proj"] if is_text => "attn.to_add_out",
                    ["attn", "proj"] => "attn.to_out.0",
                    ["mlp", "fc1"] if is_text => "ff_context.net.0.proj",
                    ["mlp", "fc1"] => "ff.net.0.proj",
                    ["mlp", "fc2"] if is_text => "ff_context.net.2",
                    ["mlp", "fc2"] => "ff.net.2",
                    ["adaLN_modulation", "1"] if is_text => "norm1_context.linear",
                    ["adaLN_modulation", "1"] => "norm1.linear",
                    _ => {
                        renamed.insert(name, tensor);
                        continue;
                    }
                };
                // Where only shift and scale are left, diffusers stores the scale first.
                let swaps = layer == "norm1_context.linear" && i.parse().ok() == last;
                let tensor = if swaps { swap_halves(&tensor)? } else { tensor };
                renamed.insert(format!("transformer_blocks.{i}.{layer}.{kind}"), tensor);
            }
            ["final_layer", "adaLN_modulation", "1", kind] => {
                renamed.insert(format!("norm_out.linear.{kind}"), swap_halves(&tensor)?);
            }
            ["final_layer", "linear", kind] => drop(renamed.insert(format!("proj_out.{kind}"), tensor)),
            ["pos_embed"] => drop(renamed.insert("pos_embed.pos_embed".into(), tensor)),
            ["x_embedder", "proj", kind] => drop(renamed.insert(format!("pos_embed.proj.{kind}"), tensor)),
            [embedder @ ("t_embedder" | "y_embedder"), "mlp", layer @ ("0" | "2"), kind] => {
                let embedder = if *embedder == "t_embedder" { "timestep_embedder" } else { "text_embedder" };
                let layer = if *layer == "0" { "linear_1" } else { "linear_2" };
                renamed.insert(format!("time_text_embed.{embedder}.{layer}.{kind}"), tensor);
            }
            _ => drop(renamed.insert(name, tensor)),
        }
    }
    Ok(renamed)
}

/// PixArt-Alpha's transformer without the embedding of an absent caption that older files carry: its pipeline encodes the empty prompt.
pub fn pixart(mut tensors: Named) -> Result<Named> {
    tensors.remove("caption_projection.y_embedding");
    Ok(tensors)
}

/// The second half of the rows before the first.
pub(super) fn swap_halves(tensor: &Tensor) -> Result<Tensor> {
    let half = tensor.dim(0)? / 2;
    Ok(Tensor::cat(&[tensor.narrow(0, half, half)?, tensor.narrow(0, 0, half)?], 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn named(names: &[&str], shape: &[usize]) -> Named {
        names.iter().map(|name| ((*name).to_owned(), Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())).collect()
    }

    #[test]
    fn an_autoencoder_is_renamed_from_both_ages_of_diffusers() {
        let names = [
            "decoder.up_blocks.0.resnets.1.conv_shortcut.weight",
            "decoder.up_blocks.3.resnets.0.norm1.weight",
            "encoder.mid_block.attentions.0.query.weight",
            "encoder.mid_block.attentions.0.to_out.0.weight",
            "first_stage_model.decoder.mid.attn_1.q.weight",
            "something.else",
        ];
        let found = autoencoder(named(&names, &[2, 2])).unwrap();
        let expected = [
            "decoder.mid.attn_1.q.weight",
            "decoder.up.0.block.0.norm1.weight",
            "decoder.up.3.block.1.nin_shortcut.weight",
            "encoder.mid.attn_1.proj_out.weight",
            "encoder.mid.attn_1.q.weight",
            "something.else",
        ];
        assert_eq!(found.keys().collect::<Vec<_>>(), expected);
        assert_eq!(found["encoder.mid.attn_1.q.weight"].dims(), [2, 2, 1, 1]);
    }

    #[test]
    fn queries_keys_and_values_of_the_single_file_are_cut_apart_in_order() {
        let qkv = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap();
        let name = "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.bias".to_owned();
        let other = ("first_stage_model.quant_conv.bias".to_owned(), qkv.clone());
        let found = sd3(Named::from([(name, qkv), other])).unwrap();
        let values: Vec<(&str, Vec<f32>)> = found.iter().map(|(name, value)| (name.as_str(), value.to_vec1().unwrap())).collect();
        let name = |layer: &str| format!("transformer_blocks.0.attn.add_{layer}_proj.bias");
        let (k, q, v) = (name("k"), name("q"), name("v"));
        assert_eq!(values, [(k.as_str(), vec![2.0, 3.0]), (q.as_str(), vec![0.0, 1.0]), (v.as_str(), vec![4.0, 5.0])]);
    }

    #[test]
    fn only_the_last_block_and_the_output_store_shift_and_scale_in_the_other_order() {
        let names =
            ["0.context_block", "1.context_block", "1.x_block"].map(|block| format!("joint_blocks.{block}.adaLN_modulation.1.bias"));
        let tensors = names.into_iter().chain(["final_layer.adaLN_modulation.1.bias".to_owned()]);
        let two = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let found = sd3(tensors.map(|name| (format!("{DIFFUSION_MODEL}{name}"), two.clone())).collect()).unwrap();
        let first = |name: &str| found[name].to_vec1::<f32>().unwrap()[0];
        assert_eq!((first("transformer_blocks.0.norm1_context.linear.bias"), first("transformer_blocks.1.norm1.linear.bias")), (1.0, 1.0));
        assert_eq!((first("transformer_blocks.1.norm1_context.linear.bias"), first("norm_out.linear.bias")), (2.0, 2.0));
    }
}
