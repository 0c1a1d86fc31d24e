//! Published text-to-image models as diffusers' `save_pretrained` writes them: a folder with `model_index.json` and one folder for each
//! part, from whose `config.json` its architecture is read.

pub mod architectures;
pub mod config_file;
pub mod spiece;
pub mod tokenizers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use self::config_file::ConfigFile;
use super::layout::Named;
use super::mapped::Reading;
use super::safetensors_file;
use super::weights::Weights;
use crate::error::{Error, Result};

/// Pipelines whose networks are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Flux,
    Sd3,
    PixArt,
}

impl Family {
    const ALL: [Self; 3] = [Self::Flux, Self::Sd3, Self::PixArt];

    /// Name of the pipeline's class in diffusers.
    pub fn class(self) -> &'static str {
        match self {
            Self::Flux => "FluxPipeline",
            Self::Sd3 => "StableDiffusion3Pipeline",
            Self::PixArt => "PixArtAlphaPipeline",
        }
    }

    /// The parts used here, each a folder; text encoders and tokenizers in the same order, T5 last.
    pub fn parts(self) -> Parts {
        match self {
            Self::Flux => Parts { text_encoders: &["text_encoder", "text_encoder_2"], tokenizers: &["tokenizer", "tokenizer_2"] },
            Self::Sd3 => Parts {
                text_encoders: &["text_encoder", "text_encoder_2", "text_encoder_3"],
                tokenizers: &["tokenizer", "tokenizer_2", "tokenizer_3"],
            },
            Self::PixArt => Parts { text_encoders: &["text_encoder"], tokenizers: &["tokenizer"] },
        }
    }

    /// Tokens of T5 that the pipeline gives its denoiser where nothing else is asked for (diffusers@v0.42.1).
    pub fn token_length(self) -> usize {
        match self {
            Self::Flux => 512,
            Self::Sd3 => 256,
            Self::PixArt => 120,
        }
    }

    /// True where guidance needs a second prediction under the empty prompt; Flux was trained to take it as a number.
    pub fn is_guided_by_the_empty_prompt(self) -> bool {
        self != Self::Flux
    }
}

/// Folders of text encoders and their tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub text_encoders: &'static [&'static str],
    pub tokenizers: &'static [&'static str],
}

/// The denoiser's folder.
pub const TRANSFORMER: &str = "transformer";
/// The autoencoder's folder.
pub const AUTOENCODER: &str = "vae";
/// The folder and the file with the steps of denoising.
pub const SCHEDULER: (&str, &str) = ("scheduler", "scheduler_config.json");

/// A folder whose `model_index.json` was read.
#[derive(Debug, Clone)]
pub struct PipelineFolder {
    pub path: PathBuf,
    pub family: Family,
    /// Classes of the parts; absent parts are null.
    classes: BTreeMap<String, Option<String>>,
}

impl PipelineFolder {
    /// Looks at the folder of a published model.
    ///
    /// # Errors
    /// No `model_index.json`, and the class of a pipeline that is not known.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join("model_index.json");
        if !file.exists() {
            let hint = "`[teacher] folder` must name the folder that diffusers' `save_pretrained` writes (with `model_index.json`, \
                        `transformer`, `text_encoder`, …), as it is published";
            return Err(Error::Missing { what: "the index of the model".into(), path: file, hint: hint.into() });
        }
        let mut index = ConfigFile::read(&file)?;
        let class = index.text("_class_name")?;
        let Some(family) = Family::ALL.into_iter().find(|family| family.class() == class) else {
            return Err(index.unsupported("_class_name", &class, &Family::ALL.map(Family::class).join(", ")));
        };
        Ok(Self { path: path.into(), family, classes: index.classes() })
    }

    /// The folder of a part, whose class must be one of `classes`.
    ///
    /// # Errors
    /// A part that the index lacks, one of another class, and a folder that is not there.
    pub fn part(&self, name: &str, classes: &[&str]) -> Result<PathBuf> {
        let index = self.path.join("model_index.json");
        let found = self.classes.get(name).cloned().flatten();
        let Some(class) = found else {
            let hint = "fetch the whole pipeline; it is used with all of its text encoders";
            return Err(Error::config(format!("`{}` has no `{name}`", index.display()), hint));
        };
        if !classes.is_empty() && !classes.contains(&class.as_str()) {
            let message = format!("`{}`: `{name}` is {class}; supported: {}", index.display(), classes.join(", "));
            return Err(Error::config(message, "choose a model whose parts are of these classes"));
        }
        let folder = self.path.join(name);
        if !folder.is_dir() {
            let hint = format!("fetch the folder `{name}` of the model, too");
            return Err(Error::Missing { what: format!("the part `{name}` of the model"), path: folder, hint });
        }
        Ok(folder)
    }

    /// Each part used here with its size in bytes, or why it cannot be used; files are looked at, not read.
    pub fn inventory(&self) -> Vec<(&'static str, Result<u64>)> {
        let Parts { text_encoders, tokenizers } = self.family.parts();
        let size = |path: &Path| path.metadata().map(|info| info.len()).map_err(Error::io("look at", path));
        let network = |part: &&'static str| {
            let folder = self.part(part, &[])?;
            size(&folder.join("config.json"))?;
            Stored::find(&folder)?.files()?.iter().map(|file| size(file)).sum::<Result<u64>>()
        };
        let tokenizer = |part: &&'static str| {
            let folder = self.part(part, &[])?;
            let files = tokenizers::FILES.iter().map(|file| folder.join(file)).filter(|file| file.exists());
            let all = files.map(|file| size(&file)).sum::<Result<u64>>()?;
            if all > 0 { Ok(all) } else { Err(Error::Invalid(format!("`{}` holds no tokenizer", folder.display()))) }
        };
        let networks = text_encoders.iter().chain([&TRANSFORMER, &AUTOENCODER]).map(|part| (*part, network(part)));
        let scheduler = (SCHEDULER.0, size(&self.path.join(SCHEDULER.0).join(SCHEDULER.1)));
        networks.chain(tokenizers.iter().map(|part| (*part, tokenizer(part)))).chain([scheduler]).collect()
    }

    /// Every file of the parts used here that is there, sorted; for hashing.
    pub fn files(&self) -> Vec<PathBuf> {
        let Parts { text_encoders, tokenizers } = self.family.parts();
        let mut files = vec![self.path.join("model_index.json"), self.path.join(SCHEDULER.0).join(SCHEDULER.1)];
        for part in text_encoders.iter().chain([&TRANSFORMER, &AUTOENCODER]) {
            let folder = self.path.join(part);
            files.push(folder.join("config.json"));
            files.extend(Stored::find(&folder).and_then(|stored| stored.files()).unwrap_or_default());
        }
        for part in tokenizers {
            files.extend(tokenizers::FILES.iter().map(|file| self.path.join(part).join(file)).filter(|file| file.exists()));
        }
        files.sort();
        files
    }
}

/// The weights of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    One(PathBuf),
    /// The index of several files.
    Sharded(PathBuf),
}

impl Stored {
    /// Finds the weights in a part's folder: in full precision, else in half, in one file or with an index.
    ///
    /// # Errors
    /// No safetensors; then the message says what is there.
    pub fn find(folder: &Path) -> Result<Self> {
        for stem in ["diffusion_pytorch_model", "model"] {
            for variant in ["", ".fp16", ".bf16"] {
                let one = folder.join(format!("{stem}{variant}.safetensors"));
                let index = folder.join(format!("{stem}.safetensors.index{variant}.json"));
                if index.exists() {
                    return Ok(Self::Sharded(index));
                }
                if one.exists() {
                    return Ok(Self::One(one));
                }
            }
        }
        let pickled = std::fs::read_dir(folder)
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().extension().is_some_and(|e| e == "bin")));
        let hint = if pickled {
            "there are `.bin` files only; save the model with `safe_serialization=True`, or fetch its safetensors"
        } else {
            "fetch `*.safetensors` of this part, and `*.safetensors.index.json` where there are several"
        };
        Err(Error::Missing { what: "weights".into(), path: folder.join("*.safetensors"), hint: hint.into() })
    }

    /// The files with the weights, and the index where there is one.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        Ok(match self {
            Self::One(file) => vec![file.clone()],
            Self::Sharded(index) => std::iter::once(index.clone()).chain(safetensors_file::shards(index)?).collect(),
        })
    }

    /// Reads them in f32 on the CPU under the names of `layout`; linear layers keep half precision, for networks that are not trained.
    pub fn load(&self, layout: impl Fn(Named) -> Result<Named>, reading: Reading) -> Result<Weights> {
        Ok(self.read(layout, reading)?.keeping_half_precision())
    }

    /// The same with every layer in f32.
    pub fn load_in_full(&self, layout: impl Fn(Named) -> Result<Named>) -> Result<Weights> {
        self.read(layout, Reading::Whole)
    }

    fn read(&self, layout: impl Fn(Named) -> Result<Named>, reading: Reading) -> Result<Weights> {
        let (contents, path) = match self {
            Self::One(file) => (safetensors_file::contents(file, &Device::Cpu, reading)?, file),
            Self::Sharded(index) => (safetensors_file::read_sharded(index, &Device::Cpu, reading)?, index),
        };
        Ok(Weights::from_contents(contents.in_layout(layout)?, path, DType::F32, &Device::Cpu))
    }
}
