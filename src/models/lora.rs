//! Low-rank changes of Flux's transformer (LoRA, Hu et al. 2022), merged into its weights where these are loaded: W + scale · α/r · B A.
//! Files of diffusers (`transformer.….lora_A.weight`), of ComfyUI's layout (`diffusion_model.….lora_A.weight`) and of kohya's trainer
//! (`lora_unet_….lora_down.weight`) are known; none of them may hold anything else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::layout::{self, Named};
use super::safetensors_file;
use crate::error::{Error, Result};

/// One file of changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// A safetensors file, absolute or relative to the pipeline's folder.
    pub file: PathBuf,
    /// How much of the changes; 1 is as trained.
    #[serde(default = "as_trained")]
    pub scale: f64,
}

impl Eq for Lora {}

fn as_trained() -> f64 {
    1.0
}

/// Both factors of one layer's change.
#[derive(Debug, Default)]
struct Factors {
    /// `[r, in]`.
    down: Option<Tensor>,
    /// `[out, r]`.
    up: Option<Tensor>,
    alpha: Option<f64>,
}

/// Ends of tensor names, and what they are.
const ENDS: [(&str, Kind); 7] = [
    (".lora_A.weight", Kind::Down),
    (".lora_B.weight", Kind::Up),
    (".lora_A.default.weight", Kind::Down),
    (".lora_B.default.weight", Kind::Up),
    (".lora_down.weight", Kind::Down),
    (".lora_up.weight", Kind::Up),
    (".alpha", Kind::Alpha),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Down,
    Up,
    Alpha,
}

impl Lora {
    /// The file for a pipeline in `folder`.
    pub fn path(&self, folder: &Path) -> PathBuf {
        folder.join(&self.file)
    }

    /// Flux's tensors, under the names of black-forest-labs' file, with the changes of this file.
    ///
    /// # Errors
    /// A tensor that changes no layer of this transformer, a factor without the other, factors of a wrong shape.
    pub fn merge(&self, mut tensors: Named, folder: &Path) -> Result<Named> {
        let path = self.path(folder);
        let stated = stated_alpha(&path)?;
        for (layer, factors) in read(&path)? {
            let refuse = |reason: String| Error::format("LoRA of Flux", &path, format!("`{layer}`: {reason}"));
            let (name, part) = target(&layer, &tensors).ok_or_else(|| refuse("no layer of this transformer".into()))?;
            let (down, up) = match (factors.down, factors.up) {
                (Some(down), Some(up)) => (down, up),
                _ => return Err(refuse("one of its two factors is missing".into())),
            };
            let rank = down.dim(0)?;
            if up.dims().last() != Some(&rank) || down.rank() != 2 || up.rank() != 2 {
                return Err(refuse(format!("its factors have shapes {:?} and {:?}", down.dims(), up.dims())));
            }
            let factor = self.scale * factors.alpha.or(stated).unwrap_or(rank as f64) / rank as f64;
            let change = (up.matmul(&down)? * factor)?;
            let change =
                if name.starts_with("final_layer.adaLN_modulation") && part.swapped { layout::swap_halves(&change)? } else { change };
            let weight = &tensors[&name];
            let (rows, columns) = weight.dims2()?;
            // Queries, keys and values are as high as the layer is wide; what follows them takes the rest.
            let first = part.index * columns;
            if change.dim(1)? != columns || first + change.dim(0)? > rows || (!part.of_several && change.dim(0)? != rows) {
                return Err(refuse(format!("it changes {:?} from row {first}, the layer is {:?}", change.dims(), weight.dims())));
            }
            let changed = add_rows(weight, first, &change)?;
            tensors.insert(name, changed);
        }
        Ok(tensors)
    }
}

/// Flux's tensors with the changes of all files, one after the other.
pub fn merge_all(loras: &[Lora], tensors: Named, folder: &Path) -> Result<Named> {
    loras.iter().try_fold(tensors, |tensors, lora| lora.merge(tensors, folder))
}

/// The layers of a file with their factors, in f32.
fn read(path: &Path) -> Result<BTreeMap<String, Factors>> {
    let mut layers: BTreeMap<String, Factors> = BTreeMap::new();
    for (name, tensor) in safetensors_file::read(path, &Device::Cpu)? {
        let Some((layer, kind)) = ENDS.iter().find_map(|&(end, kind)| Some((name.strip_suffix(end)?, kind))) else {
            return Err(Error::format("LoRA of Flux", path, format!("tensor `{name}` is neither a factor nor an alpha")));
        };
        let factors = layers.entry(layer.to_owned()).or_default();
        let tensor = tensor.to_dtype(DType::F32)?;
        match kind {
            Kind::Down => factors.down = Some(tensor),
            Kind::Up => factors.up = Some(tensor),
            Kind::Alpha => factors.alpha = Some(f64::from(tensor.flatten_all()?.to_vec1::<f32>()?.first().copied().unwrap_or(1.0))),
        }
    }
    Ok(layers)
}

/// The alpha in the settings that diffusers and peft write beside the factors, if they did.
fn stated_alpha(path: &Path) -> Result<Option<f64>> {
    let Some(text) = safetensors_file::metadata(path)?.remove("lora_adapter_metadata") else { return Ok(None) };
    let settings: BTreeMap<String, Value> = serde_json::from_str(&text)
        .map_err(|error| Error::format("LoRA of Flux", path, format!("its settings cannot be read: {error}")))?;
    let of = |key: &str| settings.get(&format!("transformer.{key}"));
    for key in ["use_dora", "use_rslora", "lora_bias"] {
        if of(key).and_then(Value::as_bool) == Some(true) {
            return Err(Error::format("LoRA of Flux", path, format!("it was trained with `{key}`, which is not known here")));
        }
    }
    if of("alpha_pattern").and_then(Value::as_object).is_some_and(|pattern| !pattern.is_empty()) {
        return Err(Error::format("LoRA of Flux", path, "its layers have several alphas in `alpha_pattern`, which is not known here"));
    }
    Ok(of("lora_alpha").and_then(Value::as_f64))
}

/// Which rows of a tensor a layer is.
#[derive(Debug, Clone, Copy, Default)]
struct Rows {
    index: usize,
    of_several: bool,
    /// Diffusers stores scale before shift in the last modulation.
    swapped: bool,
}

/// The tensor that a layer changes.
fn target(layer: &str, tensors: &Named) -> Option<(String, Rows)> {
    let whole = |name: String| tensors.contains_key(&name).then_some((name, Rows::default()));
    if let Some(joined) = layer.strip_prefix("lora_unet_") {
        // Kohya writes dots as underscores, which names have too.
        let found = tensors.keys().filter_map(|name| name.strip_suffix(".weight")).find(|name| name.replace('.', "_") == joined)?;
        return whole(format!("{found}.weight"));
    }
    if let Some(layer) = layer.strip_prefix("diffusion_model.") {
        return whole(format!("{layer}.weight"));
    }
    let weight = format!("{}.weight", layer.strip_prefix("transformer.").unwrap_or(layer));
    let (name, index, of_several) = layout::flux_tensor(&weight)?;
    tensors.contains_key(&name).then_some((name, Rows { index, of_several, swapped: true }))
}

/// `weight` with `change` added to its rows from `first` on, in the type of `weight`.
fn add_rows(weight: &Tensor, first: usize, change: &Tensor) -> Result<Tensor> {
    let (rows, height) = (weight.dim(0)?, change.dim(0)?);
    let changed = (weight.narrow(0, first, height)?.to_dtype(DType::F32)? + change)?.to_dtype(weight.dtype())?;
    let below = first + height;
    Ok(Tensor::cat(&[weight.narrow(0, 0, first)?, changed, weight.narrow(0, below, rows - below)?], 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(tensors: &[(&str, &[usize], f32)]) -> Named {
        let filled = |shape: &[usize], value: f32| Tensor::full(value, shape, &Device::Cpu).unwrap();
        tensors.iter().map(|&(name, shape, value)| (name.to_owned(), filled(shape, value))).collect()
    }

    fn written(tensors: &Named) -> (tempfile::TempDir, Lora) {
        let folder = tempfile::tempdir().unwrap();
        safetensors::serialize_to_file(tensors, None, &folder.path().join("x.safetensors")).unwrap();
        (folder, Lora { file: "x.safetensors".into(), scale: 0.5 })
    }

    fn flux() -> Named {
        named(&[("double_blocks.0.img_attn.qkv.weight", &[6, 2], 1.0), ("double_blocks.0.img_mlp.0.weight", &[8, 2], 1.0)])
    }

    #[test]
    fn a_change_of_the_keys_reaches_their_rows_only() {
        let key = "transformer.transformer_blocks.0.attn.to_k";
        let (down, up) = (format!("{key}.lora_A.weight"), format!("{key}.lora_B.weight"));
        let (folder, lora) = written(&named(&[(&down, &[1, 2], 3.0), (&up, &[2, 1], 2.0)]));
        let merged = lora.merge(flux(), folder.path()).unwrap();
        let qkv = merged["double_blocks.0.img_attn.qkv.weight"].to_vec2::<f32>().unwrap();
        // 1 + 0.5 · 3 · 2.
        assert_eq!(qkv, [[1.0; 2], [1.0; 2], [4.0; 2], [4.0; 2], [1.0; 2], [1.0; 2]]);
    }

    #[test]
    fn kohyas_alpha_is_divided_by_the_rank() {
        let layer = "lora_unet_double_blocks_0_img_mlp_0";
        let names = ["lora_down.weight", "lora_up.weight", "alpha"].map(|end| format!("{layer}.{end}"));
        let (folder, lora) = written(&named(&[(&names[0], &[2, 2], 1.0), (&names[1], &[8, 2], 1.0), (&names[2], &[], 1.0)]));
        let merged = lora.merge(flux(), folder.path()).unwrap();
        // 1 + 0.5 · 1/2 · 2.
        assert!(merged["double_blocks.0.img_mlp.0.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|&x| x == 1.5));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_name() {
        let refused = |tensors: &[(&str, &[usize], f32)]| {
            let (folder, lora) = written(&named(tensors));
            lora.merge(flux(), folder.path()).unwrap_err().to_string()
        };
        let far = "transformer.transformer_blocks.9.attn.to_k";
        let message = refused(&[(&format!("{far}.lora_A.weight"), &[1, 2], 1.0), (&format!("{far}.lora_B.weight"), &[2, 1], 1.0)]);
        assert!(message.contains(far) && message.contains("no layer of this transformer"), "{message}");
        let key = "transformer.transformer_blocks.0.attn.to_v";
        assert!(refused(&[(&format!("{key}.lora_A.weight"), &[1, 2], 1.0)]).contains("one of its two factors is missing"));
        let message = refused(&[(&format!("{key}.lora_A.weight"), &[1, 3], 1.0), (&format!("{key}.lora_B.weight"), &[2, 1], 1.0)]);
        assert!(message.contains("the layer is [6, 2]"), "{message}");
        assert!(refused(&[("text_encoder.x.weight", &[1, 2], 1.0)]).contains("neither a factor nor an alpha"));
    }
}
