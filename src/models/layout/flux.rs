//! Flux's transformer under the names of its single file, from those of diffusers' `FluxTransformer2DModel`.

use candle_core::Tensor;

use super::{Named, swap_halves};
use crate::error::Result;

/// Flux's transformer under the names of black-forest-labs' file, from those or from diffusers', where queries, keys and values (and in
/// the single-stream blocks the MLP) lie apart.
pub fn flux(mut tensors: Named) -> Result<Named> {
    if !tensors.keys().any(|name| name.starts_with("transformer_blocks.") || name.starts_with("single_transformer_blocks.")) {
        return Ok(tensors);
    }
    let mut renamed = Named::new();
    while let Some((name, tensor)) = tensors.pop_first() {
        if let Some((joined, parts)) = joined(&name) {
            if parts.iter().any(|part| *part != name && !tensors.contains_key(part)) {
                // Left under its own name: loading names what is missing.
                renamed.insert(name, tensor);
                continue;
            }
            let all: Vec<Tensor> =
                parts.iter().filter_map(|part| if *part == name { Some(tensor.clone()) } else { tensors.remove(part) }).collect();
            renamed.insert(joined, Tensor::cat(&all, 0)?);
            continue;
        }
        let new = renamed_tensor(&name);
        // Diffusers stores the scale before the shift.
        let swaps = name.starts_with("norm_out.linear.");
        renamed.insert(new.unwrap_or(name), if swaps { swap_halves(&tensor)? } else { tensor });
    }
    Ok(renamed)
}

/// Where diffusers' tensor `name` lies in black-forest-labs' layout: the tensor's name there, its index among the parts that are joined
/// in it, and whether there are several.
pub fn flux_tensor(name: &str) -> Option<(String, usize, bool)> {
    match joined(name) {
        Some((joined, parts)) => Some((joined, parts.iter().position(|part| part == name)?, true)),
        None => Some((renamed_tensor(name)?, 0, false)),
    }
}

/// The joined tensor that `name` is a part of, and all parts in their order.
fn joined(name: &str) -> Option<(String, Vec<String>)> {
    let parts: Vec<&str> = name.split('.').collect();
    let of = |stem: String, layers: &[&str], kind: &str| layers.iter().map(|layer| format!("{stem}.{layer}.{kind}")).collect();
    Some(match parts.as_slice() {
        ["transformer_blocks", i, "attn", "to_q" | "to_k" | "to_v", kind] => {
            let parts = of(format!("transformer_blocks.{i}.attn"), &["to_q", "to_k", "to_v"], kind);
            (format!("double_blocks.{i}.img_attn.qkv.{kind}"), parts)
        }
        ["transformer_blocks", i, "attn", "add_q_proj" | "add_k_proj" | "add_v_proj", kind] => {
            let parts = of(format!("transformer_blocks.{i}.attn"), &["add_q_proj", "add_k_proj", "add_v_proj"], kind);
            (format!("double_blocks.{i}.txt_attn.qkv.{kind}"), parts)
        }
        ["single_transformer_blocks", i, "attn", "to_q" | "to_k" | "to_v", kind] | ["single_transformer_blocks", i, "proj_mlp", kind] => {
            let parts = of(format!("single_transformer_blocks.{i}"), &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"], kind);
            (format!("single_blocks.{i}.linear1.{kind}"), parts)
        }
        _ => return None,
    })
}

/// The name of a tensor that is the same in both layouts.
fn renamed_tensor(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    Some(match parts.as_slice() {
        ["x_embedder", kind] => format!("img_in.{kind}"),
        ["context_embedder", kind] => format!("txt_in.{kind}"),
        ["time_text_embed", embedder, layer @ ("linear_1" | "linear_2"), kind] => {
            let embedder = match *embedder {
                "timestep_embedder" => "time_in",
                "guidance_embedder" => "guidance_in",
                "text_embedder" => "vector_in",
                _ => return None,
            };
            let layer = if *layer == "linear_1" { "in_layer" } else { "out_layer" };
            format!("{embedder}.{layer}.{kind}")
        }
        ["transformer_blocks", i, rest @ .., kind] => {
            let layer = match *rest {
                ["norm1", "linear"] => "img_mod.lin",
                ["norm1_context", "linear"] => "txt_mod.lin",
                ["attn", "norm_q"] => return Some(format!("double_blocks.{i}.img_attn.norm.query_norm.scale")),
                ["attn", "norm_k"] => return Some(format!("double_blocks.{i}.img_attn.norm.key_norm.scale")),
                ["attn", "norm_added_q"] => return Some(format!("double_blocks.{i}.txt_attn.norm.query_norm.scale")),
                ["attn", "norm_added_k"] => return Some(format!("double_blocks.{i}.txt_attn.norm.key_norm.scale")),
                ["attn", "to_out", "0"] => "img_attn.proj",
                ["attn", "to_add_out"] => "txt_attn.proj",
                ["ff", "net", "0", "proj"] => "img_mlp.0",
                ["ff", "net", "2"] => "img_mlp.2",
                ["ff_context", "net", "0", "proj"] => "txt_mlp.0",
                ["ff_context", "net", "2"] => "txt_mlp.2",
                _ => return None,
            };
            format!("double_blocks.{i}.{layer}.{kind}")
        }
        ["single_transformer_blocks", i, "norm", "linear", kind] => format!("single_blocks.{i}.modulation.lin.{kind}"),
        ["single_transformer_blocks", i, "attn", "norm_q", "weight"] => format!("single_blocks.{i}.norm.query_norm.scale"),
        ["single_transformer_blocks", i, "attn", "norm_k", "weight"] => format!("single_blocks.{i}.norm.key_norm.scale"),
        ["single_transformer_blocks", i, "proj_out", kind] => format!("single_blocks.{i}.linear2.{kind}"),
        ["norm_out", "linear", kind] => format!("final_layer.adaLN_modulation.1.{kind}"),
        ["proj_out", kind] => format!("final_layer.linear.{kind}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn vector(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    #[test]
    fn parts_are_joined_in_order_and_the_last_modulation_is_swapped() {
        let single = |layer: &str| format!("single_transformer_blocks.3.{layer}.bias");
        let tensors = Named::from([
            (single("attn.to_q"), vector(&[1.0])),
            (single("attn.to_k"), vector(&[2.0])),
            (single("attn.to_v"), vector(&[3.0])),
            (single("proj_mlp"), vector(&[4.0, 5.0])),
            ("norm_out.linear.bias".to_owned(), vector(&[6.0, 7.0])),
        ]);
        let found: Vec<(String, Vec<f32>)> = flux(tensors).unwrap().into_iter().map(|(name, x)| (name, x.to_vec1().unwrap())).collect();
        let expected = [
            ("final_layer.adaLN_modulation.1.bias".to_owned(), vec![7.0, 6.0]),
            ("single_blocks.3.linear1.bias".to_owned(), vec![1.0, 2.0, 3.0, 4.0, 5.0]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_part_without_the_others_keeps_its_name() {
        let name = "transformer_blocks.0.attn.to_q.weight";
        assert!(flux(Named::from([(name.to_owned(), vector(&[1.0]))])).unwrap().contains_key(name));
    }
}
