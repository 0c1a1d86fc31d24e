//! A folder for `transformers` and `diffusers`: configuration, weights, and a modelling file that needs no fork of either.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{Numbers, Provenance};
use crate::error::{Error, Result};
use crate::models::student::Student;
use crate::models::weights::write_safetensors_with;
use crate::nn::param::Parameters;
use crate::run::files;

/// The weights.
pub const WEIGHTS: &str = "model.safetensors";
/// The configuration.
pub const CONFIG: &str = "config.json";
/// The modelling file.
pub const CODE: &str = "modeling_scaledown_t5.py";

/// `config.json` of a student: the sizes, and the classes of the modelling file.
pub fn config(student: &Student, provenance: &Provenance, numbers: Numbers) -> Value {
    let (module, sizes) = (CODE.trim_end_matches(".py"), &student.config.encoder);
    json!({
        "architectures": ["ScaledownT5Encoder"],
        "auto_map": {"AutoConfig": format!("{module}.ScaledownT5Config"), "AutoModel": format!("{module}.ScaledownT5Encoder")},
        "model_type": "scaledown_t5",
        "torch_dtype": numbers.torch_name(),
        "vocab_size": sizes.vocab_size,
        "d_model": sizes.d_model,
        "d_kv": sizes.d_kv,
        "d_ff": sizes.d_ff,
        "num_layers": sizes.num_layers,
        "num_heads": sizes.num_heads,
        "relative_attention_num_buckets": sizes.relative_attention_num_buckets,
        "relative_attention_max_distance": sizes.relative_attention_max_distance,
        "layer_norm_epsilon": sizes.layer_norm_epsilon,
        "projection_hidden": student.config.projection_hidden,
        "text_width": student.config.text_width,
        "dropout_rate": student.config.dropout,
        "token_length": provenance.card.token_length,
        "scaledown": {"version": provenance.manifest.version, "student_sha256": provenance.weights_sha256},
    })
}

/// Writes the three files into `folder`; returns how to load them, as Markdown.
pub(super) fn write(student: &Student, provenance: &Provenance, numbers: Numbers, folder: &Path) -> Result<String> {
    let path = folder.join(CONFIG);
    let text = serde_json::to_string_pretty(&config(student, provenance, numbers))
        .map_err(|error| Error::format("configuration", &path, error))?;
    files::write_bytes(&path, format!("{text}\n").as_bytes())?;
    files::write_bytes(&folder.join(CODE), include_bytes!("modeling_scaledown_t5.py"))?;
    // `transformers` refuses files that do not say which framework they are for.
    let metadata = BTreeMap::from([("format", "pt".to_owned())]);
    write_safetensors_with(&folder.join(WEIGHTS), &student.named(), numbers.dtype(), &metadata)?;
    let (length, width) = (provenance.card.token_length, student.config.text_width);
    Ok(format!(
        "```python\nfrom transformers import AutoModel\n\nencoder = AutoModel.from_pretrained(\"path/to/this/folder\", \
         trust_remote_code=True)  # runs {CODE}, which lies beside the weights\ntext = encoder(token_ids)[0]  # [B, L] to [B, L, \
         {width}]\n```\n\nIn an unchanged Flux pipeline of `diffusers`, it takes the place of the second text encoder; tokenizer, CLIP, \
         transformer and autoencoder stay the teacher's. It was trained with {length} tokens.\n\n```python\nfrom diffusers import \
         FluxPipeline\n\npipeline = FluxPipeline.from_pretrained(\"path/to/flux\", text_encoder_2=encoder)\nimage = pipeline(\"a red \
         cube\", max_sequence_length={length}).images[0]\n```\n"
    ))
}
