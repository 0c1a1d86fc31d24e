//! One safetensors file from which training goes on exactly: the student, the optimiser's moments, the latents of the
//! trajectory under way with what its next step needs, the log, and the counters as metadata. Prompts, noise, guidance and dropout are keyed by
//! position and need no state.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::log;
use crate::error::{Error, Result};
use crate::run::files;
use crate::run::results::TrainLogRow;

const FORMAT: &str = "checkpoint";
const METADATA: &str = "scaledown";
const STUDENT: &str = "student.";
const OPTIMISER: &str = "optimiser.";
const LATENTS: &str = "latents";
const MEMORY: &str = "memory";
const LOG: &str = "log";

/// The numbers of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// What the run depends on (configuration, seed, teacher, prompts), hashed.
    pub fingerprint: String,
    /// Updates made.
    pub update: u64,
    /// Seconds trained so far.
    pub seconds: f64,
    /// When training first started, in seconds since 1970.
    pub started: f64,
}

/// A trajectory between two steps.
#[derive(Debug, Clone)]
pub struct Trajectory {
    /// Packed latents `[B, N, C]`.
    pub latents: Tensor,
    /// What its next step needs besides, of the same shape (see `diffusion::scheduler::Steps::memory`).
    pub memory: Option<Tensor>,
}

/// The state of training after an update.
#[derive(Debug)]
pub struct Checkpoint {
    pub counters: Counters,
    /// The student's parameters by name.
    pub student: BTreeMap<String, Tensor>,
    /// `nn::optim::AdamW::state`.
    pub optimiser: BTreeMap<String, Tensor>,
    /// The trajectory under way; absent between two.
    pub trajectory: Option<Trajectory>,
    pub log: Vec<TrainLogRow>,
}

/// The checkpoint's file in a student's folder.
pub fn path(folder: &Path) -> PathBuf {
    folder.join("checkpoint").join("state.safetensors")
}

/// Deletes the checkpoint of a finished student.
pub fn remove(folder: &Path) -> Result<()> {
    let path = folder.join("checkpoint");
    if path.exists() {
        std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

impl Checkpoint {
    /// Writes the checkpoint by rename: a process killed at any time leaves the one before.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = path(folder);
        let mut tensors = BTreeMap::new();
        for (prefix, group) in [(STUDENT, &self.student), (OPTIMISER, &self.optimiser)] {
            for (name, tensor) in group {
                tensors.insert(format!("{prefix}{name}"), tensor.contiguous()?);
            }
        }
        if let Some(Trajectory { latents, memory }) = &self.trajectory {
            tensors.insert(LATENTS.into(), latents.contiguous()?);
            if let Some(memory) = memory {
                tensors.insert(MEMORY.into(), memory.contiguous()?);
            }
        }
        tensors.insert(LOG.into(), log::to_tensor(&self.log)?);
        let counters = serde_json::to_string(&self.counters).map_err(|error| Error::format(FORMAT, &path, error))?;
        let metadata = HashMap::from([(METADATA.to_owned(), counters)]);
        let bytes = safetensors::serialize(&tensors, Some(metadata)).map_err(|error| Error::format(FORMAT, &path, error))?;
        files::write_bytes(&path, &bytes)
    }

    /// Reads the checkpoint of a student's folder; `None` where there is none.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let damaged = |reason: &dyn std::fmt::Display| Error::format(FORMAT, &path, reason);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| damaged(&error))?;
        let json =
            header.metadata().as_ref().and_then(|entries| entries.get(METADATA)).ok_or_else(|| damaged(&"the counters are missing"))?;
        let counters = serde_json::from_str(json).map_err(|error| damaged(&error))?;

        let (mut student, mut optimiser) = (BTreeMap::new(), BTreeMap::new());
        let (mut latents, mut memory, mut rows) = (None, None, None);
        for (name, tensor) in candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).map_err(|error| damaged(&error))? {
            if let Some(name) = name.strip_prefix(STUDENT) {
                student.insert(name.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMISER) {
                optimiser.insert(name.to_owned(), tensor);
            } else if name == LATENTS {
                latents = Some(tensor);
            } else if name == MEMORY {
                memory = Some(tensor);
            } else if name == LOG {
                rows = Some(log::from_tensor(&tensor)?);
            } else {
                return Err(damaged(&format!("tensor `{name}` is unknown")));
            }
        }
        let log = rows.ok_or_else(|| damaged(&"the log is missing"))?;
        let trajectory = latents.map(|latents| Trajectory { latents, memory });
        Ok(Some(Self { counters, student, optimiser, trajectory, log }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let tensor = |value: f32| BTreeMap::from([("w".to_owned(), Tensor::new(&[[value, 0.1]], &Device::Cpu).unwrap())]);
        Checkpoint {
            counters: Counters { fingerprint: "f".into(), update: 3, seconds: 0.1 + 0.2, started: 1e9 + 0.3 },
            student: tensor(1.5),
            optimiser: tensor(-2.5),
            trajectory: Some(Trajectory {
                latents: Tensor::new(&[[[0.25f32]]], &Device::Cpu).unwrap(),
                memory: Some(Tensor::new(&[[[0.75f32]]], &Device::Cpu).unwrap()),
            }),
            log: Vec::new(),
        }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Checkpoint::load(folder.path()).unwrap().is_none());
        let saved = checkpoint();
        saved.save(folder.path()).unwrap();
        let loaded = Checkpoint::load(folder.path()).unwrap().unwrap();
        assert_eq!(loaded.counters, saved.counters);
        assert_eq!(loaded.student["w"].to_vec2::<f32>().unwrap(), [[1.5, 0.1]]);
        assert_eq!(loaded.optimiser["w"].to_vec2::<f32>().unwrap(), [[-2.5, 0.1]]);
        let Trajectory { latents, memory } = loaded.trajectory.unwrap();
        assert_eq!(latents.to_vec3::<f32>().unwrap(), [[[0.25]]]);
        assert_eq!(memory.unwrap().to_vec3::<f32>().unwrap(), [[[0.75]]]);
        remove(folder.path()).unwrap();
        assert!(Checkpoint::load(folder.path()).unwrap().is_none());
    }

    #[test]
    fn a_truncated_checkpoint_is_an_error_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        checkpoint().save(folder.path()).unwrap();
        let path = path(folder.path());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        let error = Checkpoint::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("state.safetensors") && error.contains("not a valid checkpoint"), "{error}");
    }
}
