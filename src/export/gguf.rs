//! One GGUF v3 file: llama.cpp's keys and names for a T5 encoder, the projection under its own names, and where the weights come
//! from. llama.cpp itself has no projection behind an encoder and refuses the file; programs with candle or gguf-py read it.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};

use super::{Numbers, Provenance, Quantisation};
use crate::error::{Error, Result};
use crate::models::gguf::llama_name;
use crate::models::student::Student;
use crate::nn::param::Parameters;
use crate::run::files;

/// llama.cpp's name of the architecture.
pub const ARCHITECTURE: &str = "t5encoder";
/// Version of the format that is written. Candle writes 2, which differs in this number only where numbers are little-endian.
const VERSION: u32 = 3;
/// Where the version stands, behind the four letters GGUF.
const VERSION_AT: u64 = 4;
/// Version of the block layouts (ggml.h `GGML_QNT_VERSION`).
const QUANTISATION_VERSION: u32 = 2;

/// How a tensor is stored: vectors and the small table of position biases in f32, matrices as asked for. Blocks lie within rows, so
/// rows that do not divide by a block's weights take the next finer kind; so does the token table, whose rows are the input itself.
pub fn stored_type(name: &str, shape: &[usize], numbers: Numbers, quantise: Option<Quantisation>) -> GgmlDType {
    let is_small = shape.len() < 2 || name.contains("attn_rel_b");
    let divides = |kind: GgmlDType| shape.last().is_some_and(|columns| columns.is_multiple_of(kind.block_size()));
    match quantise {
        _ if is_small => GgmlDType::F32,
        Some(Quantisation::Q4K) if divides(GgmlDType::Q4K) && !name.starts_with("token_embd") => GgmlDType::Q4K,
        Some(_) if divides(GgmlDType::Q8_0) => GgmlDType::Q8_0,
        Some(_) => GgmlDType::F16,
        None => match numbers {
            Numbers::F32 => GgmlDType::F32,
            Numbers::F16 => GgmlDType::F16,
            Numbers::Bf16 => GgmlDType::BF16,
        },
    }
}

/// Number and word for what most of the file is (llama.h `llama_ftype`).
fn file_type(numbers: Numbers, quantise: Option<Quantisation>) -> (u32, &'static str) {
    match (quantise, numbers) {
        (Some(Quantisation::Q8_0), _) => (7, "q8_0"),
        (Some(Quantisation::Q4K), _) => (14, "q4_k"),
        (None, Numbers::F32) => (0, "f32"),
        (None, Numbers::F16) => (1, "f16"),
        (None, Numbers::Bf16) => (32, "bf16"),
    }
}

/// The keys of the file.
pub fn metadata(student: &Student, provenance: &Provenance, file_type: u32, is_quantised: bool) -> BTreeMap<String, Value> {
    let (card, sizes) = (&provenance.card, &student.config.encoder);
    let text = |value: &str| Value::String(value.to_owned());
    let count = |value: usize| Value::U32(value as u32);
    let epsilon = Value::F32(sizes.layer_norm_epsilon as f32);
    let mut keys = BTreeMap::from([
        ("general.architecture".to_owned(), text(ARCHITECTURE)),
        ("general.type".into(), text("model")),
        ("general.name".into(), text(&card.name)),
        ("general.description".into(), text("T5 encoder with a projection, distilled by scaledown")),
        ("general.file_type".into(), Value::U32(file_type)),
        ("scaledown.version".into(), text(&provenance.manifest.version)),
        ("scaledown.student.sha256".into(), text(&provenance.weights_sha256)),
        ("scaledown.student.preset".into(), text(&card.preset)),
        ("scaledown.teacher.preset".into(), text(&card.teacher)),
        ("scaledown.objective".into(), text(&card.objective)),
        ("scaledown.updates".into(), Value::U64(card.updates)),
        ("scaledown.seed".into(), Value::U64(card.seed)),
        ("scaledown.projection_hidden".into(), count(student.config.projection_hidden)),
        ("scaledown.text_width".into(), count(student.config.text_width)),
    ]);
    for (key, value) in [
        ("context_length", count(card.token_length)),
        ("embedding_length", count(sizes.d_model)),
        ("feed_forward_length", count(sizes.d_ff)),
        ("block_count", count(sizes.num_layers)),
        ("vocab_size", count(sizes.vocab_size)),
        ("attention.head_count", count(sizes.num_heads)),
        ("attention.key_length", count(sizes.d_kv)),
        ("attention.value_length", count(sizes.d_kv)),
        ("attention.layer_norm_epsilon", epsilon.clone()),
        ("attention.layer_norm_rms_epsilon", epsilon),
        ("attention.relative_buckets_count", count(sizes.relative_attention_num_buckets)),
    ] {
        keys.insert(format!("{ARCHITECTURE}.{key}"), value);
    }
    if is_quantised {
        keys.insert("general.quantization_version".into(), Value::U32(QUANTISATION_VERSION));
    }
    keys.extend(provenance.licence.iter().map(|licence| ("general.license".to_owned(), text(licence))));
    if let Some((file, sha256)) = &provenance.teacher {
        keys.insert("scaledown.teacher.file".into(), text(file));
        keys.insert("scaledown.teacher.sha256".into(), text(sha256));
    }
    keys
}

/// Writes `NAME-KIND.gguf` into `folder`; returns how to load it, as Markdown.
pub(super) fn write(
    student: &Student,
    provenance: &Provenance,
    numbers: Numbers,
    quantise: Option<Quantisation>,
    folder: &Path,
) -> Result<String> {
    let (number, word) = file_type(numbers, quantise);
    let mut tensors = BTreeMap::new();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (name, tensor) in student.named() {
        let name = llama_name(name.strip_prefix("encoder.").unwrap_or(&name));
        let kind = stored_type(&name, tensor.dims(), numbers, quantise);
        *kinds.entry(format!("{kind:?}").to_lowercase()).or_default() += 1;
        tensors.insert(name, QTensor::quantize(&tensor.contiguous()?, kind)?);
    }
    let keys = metadata(student, provenance, number, quantise.is_some());
    let keys: Vec<(&str, &Value)> = keys.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let entries: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let file = format!("{}-{word}.gguf", provenance.card.name);
    let path = folder.join(&file);
    files::write_atomic(&path, |out| {
        gguf_file::write(out, &keys, &entries).map_err(|error| Error::format("GGUF file", &path, error))?;
        out.seek(SeekFrom::Start(VERSION_AT)).map_err(Error::io("write", &path))?;
        out.write_all(&VERSION.to_le_bytes()).map_err(Error::io("write", &path))
    })?;
    let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{n} in {kind}")).collect();
    Ok(format!(
        "`{file}` is GGUF v{VERSION} with llama.cpp's names for a T5 encoder (`{ARCHITECTURE}`) and the projection as \
         `final_projection.0.weight` and `final_projection.3.weight`. Tensors: {}. llama.cpp knows no projection behind an encoder and \
         refuses the file; readers of GGUF take it (gguf-py, candle, and scaledown: `init = {{ weights = \"{file}\" }}` of a student). The \
         tokenizer is the teacher's and not in the file.\n",
        kinds.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_take_the_kind_asked_for_as_far_as_their_rows_divide() {
        let kind = |name: &str, shape: &[usize], quantise| stored_type(name, shape, Numbers::Bf16, quantise);
        let (q8, q4) = (Some(Quantisation::Q8_0), Some(Quantisation::Q4K));
        assert_eq!(kind("enc.blk.0.attn_q.weight", &[64, 512], q4), GgmlDType::Q4K);
        assert_eq!(kind("enc.blk.0.attn_q.weight", &[64, 160], q4), GgmlDType::Q8_0);
        assert_eq!(kind("enc.blk.0.attn_q.weight", &[64, 48], q4), GgmlDType::F16);
        assert_eq!(kind("enc.blk.0.attn_q.weight", &[64, 512], q8), GgmlDType::Q8_0);
        assert_eq!(kind("enc.blk.0.attn_q.weight", &[64, 512], None), GgmlDType::BF16);
        assert_eq!(kind("token_embd.weight", &[1024, 512], q4), GgmlDType::Q8_0);
        assert_eq!(kind("enc.blk.0.attn_rel_b.weight", &[32, 32], q8), GgmlDType::F32);
        assert_eq!(kind("enc.output_norm.weight", &[512], q4), GgmlDType::F32);
    }
}
