//! Reading safetensors: one file, or several with an index. Tensors are read one after the other, so that a model is in memory once,
//! and every promise of a header is checked against the file before anything is allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use serde::Deserialize;

use super::contents::Contents;
use super::mapped::{self, Reading};
use crate::error::{Error, Result};
use crate::nn::quantised::{Blocks, Bytes, Quantised};
use crate::run::files;

/// What files of this kind are called in errors.
const FORMAT: &str = "safetensors file";
/// Longest header the format allows, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;
/// The header's own length stands before it, in this many bytes.
const PREFIX: u64 = 8;

/// What a header says of one tensor.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    pub dtype: String,
    pub shape: Vec<usize>,
    /// First byte and the one after the last, counted from the end of the header.
    data_offsets: (u64, u64),
}

/// A file whose header was read.
struct Opened {
    file: File,
    path: PathBuf,
    /// First byte after the header.
    start: u64,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

/// The texts that a file carries beside its tensors.
pub fn metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    Ok(Opened::open(path)?.metadata)
}

/// Names, types and shapes of the tensors of one file, without their values.
pub fn entries(path: &Path) -> Result<BTreeMap<String, Entry>> {
    Ok(Opened::open(path)?.entries)
}

/// All tensors of one file, in their stored types.
///
/// # Errors
/// A missing file; a header that does not parse or promises more than the file holds; a type that is not known.
pub fn read(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let mut opened = Opened::open(path)?;
    let entries = std::mem::take(&mut opened.entries);
    entries.into_iter().map(|(name, entry)| Ok((name.clone(), opened.tensor(&name, &entry, device)?))).collect()
}

/// All tensors of one file; where it is mapped, the matrices that products can take from it stay there.
///
/// # Errors
/// As [`read`].
pub fn contents(path: &Path, device: &Device, reading: Reading) -> Result<Contents> {
    let mut opened = Opened::open(path)?;
    let map = match reading {
        Reading::Whole => None,
        Reading::Mapped => Some(mapped::map(path)?),
    };
    let mut contents = Contents::default();
    for (name, entry) in std::mem::take(&mut opened.entries) {
        match map.as_ref().map(|map| opened.mapped(&name, &entry, map)).transpose()?.flatten() {
            Some(matrix) => drop(contents.quantised.insert(name, matrix)),
            None => {
                let tensor = opened.tensor(&name, &entry, device)?;
                contents.tensors.insert(name, tensor);
            }
        }
    }
    Ok(contents)
}

/// Where the tensors of a model in several files lie.
#[derive(Debug, Deserialize)]
struct Index {
    /// File of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// The files an index names, in order, beside it.
pub fn shards(index: &Path) -> Result<Vec<PathBuf>> {
    let names: BTreeSet<String> = read_index(index)?.weight_map.into_values().collect();
    Ok(names.into_iter().map(|name| index.with_file_name(name)).collect())
}

/// All tensors of the files that an index (`*.safetensors.index.json`) names.
///
/// # Errors
/// As [`read`], and: a file that is not there, one without a tensor that the index places in it, a tensor that two files hold.
pub fn read_sharded(index: &Path, device: &Device, reading: Reading) -> Result<Contents> {
    let promised = read_index(index)?.weight_map;
    let mut places: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut all = Contents::default();
    for path in shards(index)? {
        if !path.exists() {
            let what = format!("a part of the weights that `{}` names", index.display());
            return Err(Error::Missing {
                what,
                path,
                hint: "fetch the missing file into the same folder, or the whole model again".into(),
            });
        }
        let Contents { tensors, quantised } = contents(&path, device, reading)?;
        for name in tensors.keys().chain(quantised.keys()) {
            if places.insert(name.clone(), path.clone()).is_some() {
                return Err(Error::format(FORMAT, &path, format!("tensor `{name}` is in another file of the same model, too")));
            }
        }
        all.tensors.extend(tensors);
        all.quantised.extend(quantised);
    }
    for (name, file) in &promised {
        let place = index.with_file_name(file);
        if places.get(name).is_none_or(|found| *found != place) {
            let reason = format!("it lacks tensor `{name}`, which `{}` places in it", index.display());
            return Err(Error::format("part of these weights", place, reason));
        }
    }
    Ok(all)
}

fn read_index(path: &Path) -> Result<Index> {
    let bytes = files::read_bytes(path, "the index of the weights", "fetch the folder of the model again")?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| Error::format("index of weights", path, error))?;
    let leaves = |name: &String| Path::new(name).file_name().is_none_or(|file| file != name.as_str());
    match index.weight_map.values().find(|name| leaves(name)) {
        Some(name) => Err(Error::format("index of weights", path, format!("`{name}` is not the name of a file beside it"))),
        None => Ok(index),
    }
}

impl Opened {
    fn open(path: &Path) -> Result<Self> {
        let hint = "the weights come with the repository in `pipelines/`, with a published model, or are made by `scaledown bootstrap` or \
                    `scaledown distill`";
        let mut file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::Missing { what: "weights".into(), path: path.into(), hint: hint.into() },
            _ => Error::io("read", path)(error),
        })?;
        let wrong = |reason: String| Error::format(FORMAT, path, reason);
        let size = file.metadata().map_err(Error::io("read", path))?.len();
        let mut prefix = [0u8; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(|_| wrong(format!("it has {size} bytes, fewer than a header")))?;
        let length = u64::from_le_bytes(prefix);
        if length > LONGEST_HEADER || length > size - PREFIX {
            let advice = "it is cut off, or a placeholder of git-lfs, or no such file";
            return Err(wrong(format!("its header claims {length} bytes and the file has {size}; {advice}")));
        }
        let mut header = vec![0u8; length as usize];
        file.read_exact(&mut header).map_err(Error::io("read", path))?;
        let mut parsed: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|error| wrong(format!("its header cannot be read: {error}")))?;
        let metadata = match parsed.remove("__metadata__") {
            Some(value) => serde_json::from_value(value).map_err(|error| wrong(format!("its metadata cannot be read: {error}")))?,
            None => BTreeMap::new(),
        };
        let mut entries = BTreeMap::new();
        for (name, value) in parsed {
            let entry: Entry = serde_json::from_value(value).map_err(|error| wrong(format!("its header says of `{name}`: {error}")))?;
            entries.insert(name, entry);
        }
        let opened = Self { file, path: path.into(), start: PREFIX + length, entries, metadata };
        opened.check(size)?;
        Ok(opened)
    }

    /// Checks that the tensors fill the file without gap or overlap.
    fn check(&self, size: u64) -> Result<()> {
        let mut places: Vec<(&String, &Entry)> = self.entries.iter().collect();
        places.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut end = 0;
        for (name, entry) in places {
            let (from, to) = entry.data_offsets;
            if from != end || to < from {
                return Err(self.wrong(format!("tensor `{name}` lies at bytes {from} to {to}, expected from {end} on")));
            }
            end = to;
        }
        let expected = self.start.checked_add(end).ok_or_else(|| self.wrong("its tensors are larger than any file".into()))?;
        if expected != size {
            return Err(self.wrong(format!("it has {size} bytes, its header promises {expected}: it is cut off or damaged")));
        }
        Ok(())
    }

    fn wrong(&self, reason: String) -> Error {
        Error::format(FORMAT, &self.path, reason)
    }

    /// The matrix as it lies in the file, if a product can take it from there.
    fn mapped(&self, name: &str, entry: &Entry, map: &Arc<Mmap>) -> Result<Option<Quantised>> {
        let (&[rows, columns], dtype) = (entry.shape.as_slice(), self.dtype(name, entry)?) else { return Ok(None) };
        let blocks = match dtype {
            DType::BF16 => Blocks::Bf16,
            DType::F16 => Blocks::F16,
            DType::F32 => Blocks::F32,
            _ => return Ok(None),
        };
        if !columns.is_multiple_of(blocks.weights()) {
            return Ok(None);
        }
        let (from, to) = (self.start + entry.data_offsets.0, self.start + entry.data_offsets.1);
        Quantised::new(blocks, Bytes::Mapped(map.clone(), from as usize..to as usize), [rows, columns]).map(Some)
    }

    /// The type of a tensor, whose bytes are as many as its shape says.
    fn dtype(&self, name: &str, entry: &Entry) -> Result<DType> {
        let dtype: DType = match entry.dtype.to_lowercase().parse() {
            Ok(dtype @ (DType::U8 | DType::U32 | DType::I64 | DType::I32 | DType::BF16 | DType::F16 | DType::F32 | DType::F64)) => dtype,
            _ => {
                return Err(
                    self.wrong(format!("tensor `{name}` has the type {}; known are F64, F32, F16, BF16, I64, I32, U32, U8", entry.dtype))
                );
            }
        };
        let (from, to) = entry.data_offsets;
        let bytes = entry.shape.iter().try_fold(dtype.size_in_bytes() as u64, |bytes, &side| bytes.checked_mul(side as u64));
        if bytes != Some(to - from) {
            return Err(self.wrong(format!("tensor `{name}` of shape {:?} and type {} has {} bytes", entry.shape, entry.dtype, to - from)));
        }
        Ok(dtype)
    }

    fn tensor(&mut self, name: &str, entry: &Entry, device: &Device) -> Result<Tensor> {
        let dtype = self.dtype(name, entry)?;
        let (from, to) = entry.data_offsets;
        let mut data = vec![0u8; (to - from) as usize];
        let outcome = self.file.seek(SeekFrom::Start(self.start + from)).and_then(|_| self.file.read_exact(&mut data));
        outcome.map_err(Error::io("read", &self.path))?;
        Ok(Tensor::from_raw_buffer(&data, dtype, &entry.shape, device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, length: u64, data: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [&length.to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
        file
    }

    /// A file with one tensor `x` of the given shape and place.
    fn one(entry: &str, data: &[u8]) -> tempfile::NamedTempFile {
        let header = format!("{{\"__metadata__\": {{\"format\": \"pt\"}}, \"x\": {entry}}}");
        file(&header, header.len() as u64, data)
    }

    #[test]
    fn a_tensor_is_what_the_header_says() {
        let file = one(r#"{"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}"#, &[0, 0, 128, 63, 0, 0, 0, 64]);
        let found = read(file.path(), &Device::Cpu).unwrap();
        assert_eq!(found["x"].to_vec2::<f32>().unwrap(), [[1.0, 2.0]]);
        assert_eq!(entries(file.path()).unwrap()["x"].shape, [1, 2]);
    }

    #[test]
    fn what_a_header_cannot_mean_is_refused_in_one_message() {
        let cases = [
            (file("{}", 1 << 60, &[]), "claims 1152921504606846976 bytes"),
            (file("", 0, &[]), "cannot be read"),
            (file("version https://git-lfs", u64::from_le_bytes(*b"version "), &[]), "git-lfs"),
            (one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}"#, &[0; 4]), "cut off"),
            (one(r#"{"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}"#, &[0; 8]), "shape [3]"),
            (one(r#"{"dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 8]}"#, &[0; 8]), "has 8 bytes"),
            (one(r#"{"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}"#, &[0; 8]), "lies at bytes 8 to 0"),
            (one(r#"{"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}"#, &[0; 8]), "F8_E4M3"),
            (one(r#"{"dtype": "F32"}"#, &[]), "says of `x`"),
        ];
        for (file, reason) in cases {
            let error = read(file.path(), &Device::Cpu).unwrap_err();
            assert!(error.to_string().contains(reason) && error.hint().is_some(), "{reason}: {error}");
        }
    }
}
