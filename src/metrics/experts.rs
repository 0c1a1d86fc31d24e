//! The networks that judge images, loaded from the pipeline's folder. One that is not there is a reason, not a score.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::metrics::clip_score::ClipScorer;
use crate::metrics::compbench;
use crate::mini::reader::Reader;
use crate::models::clip::{Clip, ClipConfig};
use crate::models::ocr::OcrsReader;
use crate::models::tokenizer::Tokenizer;
use crate::models::weights::Weights;
use crate::run::files;

/// Hexadecimal digits of a weights hash that a protocol shows: enough to tell two files apart by eye.
const SHOWN_DIGITS: usize = 8;

/// Where the experts lie, relative to the pipeline's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Preset of CLIP's architecture.
    pub clip_preset: String,
    pub clip: PathBuf,
    /// Tokenizer of CLIP.
    pub tokenizer: PathBuf,
    /// Tokens CLIP reads.
    pub token_length: usize,
    /// Answers questions and finds objects.
    pub reader: PathBuf,
    pub ocr_detection: PathBuf,
    pub ocr_recognition: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The experts that come with the embedded pipeline, under the names `scaledown bootstrap` gives them.
            clip_preset: "mini".into(),
            clip: "clip.safetensors".into(),
            tokenizer: "tokenizer.json".into(),
            // Text length of the miniature world.
            token_length: 24,
            reader: "reader.safetensors".into(),
            ocr_detection: "ocr-detection.onnx".into(),
            ocr_recognition: "ocr-recognition.onnx".into(),
        }
    }
}

/// An expert with the words that go into the protocol of every number it gives.
pub struct Expert<T> {
    pub model: T,
    pub protocol: String,
}

/// An expert, or why there is none.
pub type Found<T> = std::result::Result<Expert<T>, String>;

impl Config {
    /// Files the experts are read from.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        [&self.clip, &self.tokenizer, &self.reader, &self.ocr_detection, &self.ocr_recognition].map(|file| folder.join(file)).into()
    }

    /// CLIP with its tokenizer.
    pub fn load_clip(&self, folder: &Path) -> Result<Found<ClipScorer>> {
        let [weights_path, tokenizer_path] = [&self.clip, &self.tokenizer].map(|file| folder.join(file));
        found(&[&weights_path, &tokenizer_path], |hashes| {
            let weights = Weights::load(&weights_path, DType::F32, &Device::Cpu)?;
            let clip = Clip::new(&ClipConfig::preset(&self.clip_preset)?, &weights)?;
            weights.finish()?;
            let protocol = format!("CLIP `{}` ({} {})", self.clip_preset, name(&self.clip), hashes[0]);
            Ok(Expert { model: ClipScorer::new(clip, Tokenizer::load(&tokenizer_path)?, self.token_length), protocol })
        })
    }

    /// The network behind the compositional metrics.
    pub fn load_reader(&self, folder: &Path) -> Result<Found<Reader>> {
        let path = folder.join(&self.reader);
        found(&[&path], |hashes| {
            let protocol = format!("{}; mini reader ({} {})", compbench::PROTOCOL, name(&self.reader), hashes[0]);
            Ok(Expert { model: Reader::load(&path)?, protocol })
        })
    }

    /// The text reader.
    pub fn load_ocr(&self, folder: &Path) -> Result<Found<OcrsReader>> {
        let [detection, recognition] = [&self.ocr_detection, &self.ocr_recognition].map(|file| folder.join(file));
        found(&[&detection, &recognition], |_| {
            let model = OcrsReader::load(&detection, &recognition)?;
            let protocol = model.protocol().to_owned();
            Ok(Expert { model, protocol })
        })
    }
}

/// Loads an expert whose files are all there; a file that is there but damaged is an error.
fn found<T>(paths: &[&Path], load: impl FnOnce(&[String]) -> Result<Expert<T>>) -> Result<Found<T>> {
    if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
        return Ok(Err(format!("`{}` is not in the pipeline's folder", name(missing))));
    }
    let hashes = paths.iter().map(|path| short_hash(path)).collect::<Result<Vec<_>>>()?;
    load(&hashes).map(Ok)
}

/// The first digits of a file's SHA-256.
pub fn short_hash(path: &Path) -> Result<String> {
    let mut hash = files::sha256_file(path)?;
    hash.truncate(SHOWN_DIGITS);
    Ok(hash)
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_missing_expert_is_a_reason_and_a_damaged_one_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default();
        let reason = config.load_reader(folder.path()).unwrap().err().unwrap();
        assert!(reason.contains("reader.safetensors"), "{reason}");
        std::fs::write(folder.path().join("reader.safetensors"), b"not weights").unwrap();
        assert!(matches!(config.load_reader(folder.path()), Err(error) if !matches!(error, Error::Missing { .. })));
    }
}
