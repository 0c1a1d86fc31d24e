//! One safetensors file in the layout of the released DistillT5 (DistillT5@ce634e8 models/T5_encoder.py), which its ComfyUI node reads
//! (DistillT5ComfyUI model/utils.py).

use std::collections::BTreeMap;
use std::path::Path;

use super::{Numbers, Provenance};
use crate::error::{Error, Result};
use crate::models::card::StudentCard;
use crate::models::student::{Student, StudentConfig};
use crate::models::t5::T5Config;
use crate::models::weights::write_safetensors_with;
use crate::nn::param::Parameters;

/// Preset and widths that the node's code is written for (DistillT5ComfyUI model/t5_config_base_projection.json).
const PRESET: &str = "t5-v1.1-base";
const TEXT_WIDTH: usize = 4096;

/// Fails for a student that the node cannot hold.
pub fn check(card: &StudentCard) -> Result<()> {
    let StudentConfig { encoder, projection_hidden, text_width, .. } = card.config()?;
    if encoder == T5Config::preset(PRESET)? && projection_hidden == TEXT_WIDTH && text_width == TEXT_WIDTH {
        return Ok(());
    }
    Err(Error::config(
        format!(
            "ComfyUI's node for DistillT5 loads encoders of the size `{PRESET}` with a projection {TEXT_WIDTH} → {TEXT_WIDTH} only; \
             `{}` is a `{}` with a projection {projection_hidden} → {text_width}",
            card.name, card.preset
        ),
        "export it with `--to diffusers` or `--to gguf`",
    ))
}

/// Writes `NAME.safetensors` into `folder`; returns how to load it, as Markdown.
pub(super) fn write(student: &Student, provenance: &Provenance, numbers: Numbers, folder: &Path) -> Result<String> {
    let file = format!("{}.safetensors", provenance.card.name);
    let metadata = BTreeMap::from([("format", "pt".to_owned()), ("scaledown.student.sha256", provenance.weights_sha256.clone())]);
    write_safetensors_with(&folder.join(&file), &student.named(), numbers.dtype(), &metadata)?;
    Ok(format!(
        "With [DistillT5ComfyUI](https://github.com/LifuWang-66/DistillT5ComfyUI): put `{file}` into `ComfyUI/models/clip`, and choose it \
         beside CLIP-L in the node “DualCLIPLoader for T5Base”. The names of the tensors are those of `LifuWang/DistillT5`, so its \
         class `T5EncoderWithProjection` loads the file, too.\n"
    ))
}
