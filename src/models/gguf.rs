//! GGUF: reading its files, llama.cpp's names of a T5 encoder's tensors (gguf-py `MODEL_ARCH.T5ENCODER`), and the published ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};

use super::contents::Contents;
use super::mapped::{self, Reading};
use crate::error::{Error, Result};
use crate::nn::quantised::{Blocks, Bytes, Quantised};

/// The first bytes of a file.
pub const MAGIC: &[u8] = b"GGUF";

/// All tensors of a file, under the published names of T5 where they have llama.cpp's; other networks keep the names of the file, which
/// for Flux are the published ones. Matrices stay in their blocks.
///
/// # Errors
/// A file that does not parse or is cut off, and kinds of blocks that are not known here, by name.
pub fn read(path: &Path, device: &Device, reading: Reading) -> Result<Contents> {
    let problem = |error: &dyn std::fmt::Display| Error::format("GGUF file", path, error);
    let mut file = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let length = file.get_ref().metadata().map_err(Error::io("read", path))?.len();
    if is_aligned_to_nothing(path)? {
        return Err(problem(&"its tensors are aligned to 0 bytes"));
    }
    let content = Content::read(&mut file).map_err(|error| problem(&error))?;
    let map = match reading {
        Reading::Whole => None,
        Reading::Mapped => Some(mapped::map(path)?),
    };
    let (mut tensors, mut quantised) = (BTreeMap::new(), BTreeMap::new());
    for (name, info) in &content.tensor_infos {
        let (kind, dims) = (info.ggml_dtype, info.shape.dims());
        let n = dims.iter().try_fold(1usize, |n, &side| n.checked_mul(side)).filter(|n| n.is_multiple_of(kind.block_size()));
        let bytes = n.and_then(|n| (n / kind.block_size()).checked_mul(kind.type_size()));
        let from = content.tensor_data_offset.saturating_add(info.offset);
        let Some(bytes) = bytes.filter(|&bytes| from.saturating_add(bytes as u64) <= length) else {
            return Err(problem(&format!("tensor `{name}` of shape {dims:?}, from byte {from} on, is not in its {length} bytes")));
        };
        let own = published_name(name);
        if let (Some(map), Some(blocks), &[rows, columns]) = (&map, blocks(kind).or_else(|| plain(kind)), dims)
            && columns.is_multiple_of(blocks.weights())
        {
            let place = Bytes::Mapped(map.clone(), from as usize..from as usize + bytes);
            quantised.insert(own, Quantised::new(blocks, place, [rows, columns])?);
            continue;
        }
        let mut data = vec![0; bytes];
        file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(&mut data)).map_err(Error::io("read", path))?;
        let dense =
            |dtype| Tensor::from_raw_buffer(&data, dtype, dims, device).map_err(|error| problem(&format!("tensor `{name}`: {error}")));
        match (kind, blocks(kind), dims) {
            (GgmlDType::F32, ..) => drop(tensors.insert(own, dense(DType::F32)?)),
            (GgmlDType::F16, ..) => drop(tensors.insert(own, dense(DType::F16)?)),
            (GgmlDType::BF16, ..) => drop(tensors.insert(own, dense(DType::BF16)?)),
            (_, Some(blocks), &[rows, columns]) => {
                let matrix =
                    Quantised::new(blocks, data, [rows, columns]).map_err(|error| problem(&format!("tensor `{name}`: {error}")))?;
                quantised.insert(own, matrix);
            }
            (_, Some(blocks), &[n]) => drop(tensors.insert(own, Quantised::new(blocks, data, [1, n])?.widen()?.flatten_all()?)),
            (kind, ..) => {
                let known = Blocks::ALL.map(|blocks| format!("{blocks:?}")).join(", ");
                return Err(problem(&format!(
                    "tensor `{name}` of shape {dims:?} is stored as {kind:?}; F32, F16, BF16, {known} can be read"
                )));
            }
        }
    }
    Ok(Contents { tensors, quantised })
}

/// Whether a header says so, which candle divides by: the key, the number of one of the six short types of integers, and zeros.
fn is_aligned_to_nothing(path: &Path) -> Result<bool> {
    const KEY: &[u8] = b"general.alignment";
    /// Keys of the whole file come first.
    const HEAD: u64 = 1 << 20;
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)).map_err(Error::io("read", path))?;
    let Some(at) = head.windows(KEY.len()).position(|bytes| bytes == KEY) else { return Ok(false) };
    let value = &head[at + KEY.len()..];
    let Some((kind, number)) = value.split_first_chunk::<4>() else { return Ok(false) };
    let bytes = match u32::from_le_bytes(*kind) {
        0 | 1 => 1,
        2 | 3 => 2,
        4 | 5 => 4,
        _ => return Ok(false),
    };
    Ok(number.get(..bytes).is_some_and(|number| number.iter().all(|&byte| byte == 0)))
}

/// Numbers that are no blocks, where a file is mapped.
fn plain(kind: GgmlDType) -> Option<Blocks> {
    Some(match kind {
        GgmlDType::F32 => Blocks::F32,
        GgmlDType::F16 => Blocks::F16,
        GgmlDType::BF16 => Blocks::Bf16,
        _ => return None,
    })
}

fn blocks(kind: GgmlDType) -> Option<Blocks> {
    Some(match kind {
        GgmlDType::Q4_0 => Blocks::Q4_0,
        GgmlDType::Q8_0 => Blocks::Q8_0,
        GgmlDType::Q4K => Blocks::Q4K,
        GgmlDType::Q5K => Blocks::Q5K,
        GgmlDType::Q6K => Blocks::Q6K,
        _ => return None,
    })
}

/// Parts of a layer, as published and as llama.cpp has them.
const LAYER: [(&str, &str); 10] = [
    ("layer.0.SelfAttention.q", "attn_q"),
    ("layer.0.SelfAttention.k", "attn_k"),
    ("layer.0.SelfAttention.v", "attn_v"),
    ("layer.0.SelfAttention.o", "attn_o"),
    ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
    ("layer.0.layer_norm", "attn_norm"),
    ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
    ("layer.1.DenseReluDense.wi_1", "ffn_up"),
    ("layer.1.DenseReluDense.wo", "ffn_down"),
    ("layer.1.layer_norm", "ffn_norm"),
];

/// Tensors outside of the layers.
const OUTSIDE: [(&str, &str); 2] = [("shared", "token_embd"), ("encoder.final_layer_norm", "enc.output_norm")];

/// The published name of a T5 encoder's tensor, in llama.cpp's words; a name it has no word for stays.
pub fn llama_name(published: &str) -> String {
    let renamed = || {
        let stem = published.strip_suffix(".weight")?;
        if let Some((_, llama)) = OUTSIDE.iter().find(|(name, _)| *name == stem) {
            return Some(format!("{llama}.weight"));
        }
        let (layer, part) = stem.strip_prefix("encoder.block.")?.split_once('.')?;
        let (_, llama) = LAYER.iter().find(|(name, _)| *name == part)?;
        Some(format!("enc.blk.{layer}.{llama}.weight"))
    };
    renamed().unwrap_or_else(|| published.to_owned())
}

/// The inverse of [`llama_name`].
pub fn published_name(llama: &str) -> String {
    let renamed = || {
        let stem = llama.strip_suffix(".weight")?;
        if let Some((published, _)) = OUTSIDE.iter().find(|(_, name)| *name == stem) {
            return Some(format!("{published}.weight"));
        }
        let (layer, part) = stem.strip_prefix("enc.blk.")?.split_once('.')?;
        let (published, _) = LAYER.iter().find(|(_, name)| *name == part)?;
        Some(format!("encoder.block.{layer}.{published}.weight"))
    };
    renamed().unwrap_or_else(|| llama.to_owned())
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::quantized::gguf_file::{self, Value};
    use proptest::prelude::*;

    use super::*;
    use crate::models::t5::{T5Config, T5Encoder};
    use crate::models::weights::Weights;

    /// Whatever a file says, reading it ends with tensors or an error.
    #[test]
    fn no_file_brings_the_reader_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.gguf");
        let matrix = Tensor::ones((4, 64), DType::F32, &Device::Cpu).unwrap();
        let stored = [GgmlDType::Q8_0, GgmlDType::F16].map(|kind| QTensor::quantize(&matrix, kind).unwrap());
        let name = Value::String("flux".into());
        let entries = [("a.weight", &stored[0]), ("b.weight", &stored[1])];
        gguf_file::write(&mut File::create(&path).unwrap(), &[("general.architecture", &name)], &entries).unwrap();
        let original = std::fs::read(&path).unwrap();
        let whole = read(&path, &Device::Cpu, Reading::Whole).unwrap();
        assert_eq!((whole.tensors.len(), whole.quantised["a.weight"].dims()), (1, [4, 64]));
        // The head ends before the first 160 bytes do.
        let change = (0..160usize, any::<u8>());
        proptest!(|(changes in prop::collection::vec(change, 1..6), kept in 0..original.len(), is_cut in any::<bool>())| {
            let mut bytes = original.clone();
            for (at, value) in changes {
                bytes[at] = value;
            }
            if is_cut {
                bytes.truncate(kept);
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Err(error) = read(&path, &Device::Cpu, Reading::Whole) {
                prop_assert!(error.to_string().contains("w.gguf"), "{error}");
            }
        });
    }

    #[test]
    fn every_tensor_of_an_encoder_has_a_name_of_llama_and_comes_back() {
        let weights = Weights::recording(DType::F32, &Device::Cpu);
        T5Encoder::new(&T5Config::preset("smoke-teacher").unwrap(), &weights).unwrap();
        for name in weights.recorded().keys() {
            let llama = llama_name(name);
            assert!(llama.starts_with("enc.") || llama == "token_embd.weight", "{name} → {llama}");
            assert_eq!(&published_name(&llama), name);
        }
        assert_eq!(llama_name("encoder.block.1.layer.1.DenseReluDense.wi_0.weight"), "enc.blk.1.ffn_gate.weight");
        assert_eq!(published_name("double_blocks.0.img_attn.qkv.weight"), "double_blocks.0.img_attn.qkv.weight");
    }
}
