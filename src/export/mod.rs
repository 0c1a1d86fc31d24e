//! `scaledown export`: a finished student in the layouts in which others load text encoders, each with a model card.
//! Writes a folder that appears whole: made under a temporary name, then renamed.

pub mod comfyui;
pub mod diffusers;
pub mod gguf;
pub mod model_card;
pub mod provenance;
pub mod scaledown;

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::ValueEnum;

pub use self::provenance::Provenance;

use crate::error::{Error, Result};
use crate::models::card::{STUDENT_WEIGHTS, StudentCard};
use crate::models::student::Student;
use crate::run::files;

/// Who is to load the student.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// `transformers` and `diffusers`: a folder for `AutoModel.from_pretrained`.
    Diffusers,
    /// The released DistillT5 and its ComfyUI node: one safetensors file; students of Base size only.
    Comfyui,
    /// One GGUF file with llama.cpp's names of tensors.
    Gguf,
    /// This program, in another place or in half precision: for `generate --encoder DIR` and as the start of a student.
    Scaledown,
}

impl Target {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Comfyui => "comfyui",
            Self::Gguf => "gguf",
            Self::Scaledown => "scaledown",
        }
    }
}

/// Numbers of the exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Numbers {
    F32,
    F16,
    Bf16,
}

impl Numbers {
    /// Candle's name of the type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// The type's name in `transformers`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }
}

/// How matrices are quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Quantisation {
    /// 8.5 bits a weight.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight; rows that do not divide by 256 get more.
    #[value(name = "q4_k")]
    Q4K,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of a finished student.
    pub student: PathBuf,
    pub target: Target,
    /// Folder to write; beside the student where absent.
    pub out: Option<PathBuf>,
    pub numbers: Numbers,
    /// For GGUF only.
    pub quantise: Option<Quantisation>,
    /// SPDX identifier of the licence under which the weights are handed on.
    pub licence: Option<String>,
}

impl Options {
    /// The folder that appears.
    pub fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(|| self.student.join(format!("export-{}", self.target.name())))
    }

    /// Fails on a combination that cannot be, and on a folder that is in use.
    fn check(&self) -> Result<()> {
        if self.quantise.is_some() && self.target != Target::Gguf {
            let message = format!("`--to {}` takes no `--quantise`", self.target.name());
            return Err(Error::config(message, "quantised weights are written with `--to gguf`"));
        }
        let folder = self.folder();
        if folder.exists() {
            let message = format!("cannot export to `{}`: it exists", folder.display());
            return Err(Error::config(message, "delete it, or name another folder with --out"));
        }
        Ok(())
    }
}

/// Writes the student in the layout asked for and returns the folder.
///
/// # Errors
/// A student that is not finished or whose files were changed since, a size that the target cannot hold, and a folder that exists.
pub fn run(options: &Options) -> Result<PathBuf> {
    options.check()?;
    let card = StudentCard::read(&options.student)?;
    if options.target == Target::Comfyui {
        comfyui::check(&card)?;
    }
    let provenance = Provenance::read(&options.student, card, options.licence.clone())?;
    let student = provenance.card.load_student(&options.student)?;
    let folder = options.folder();
    let temporary = files::temporary_name(&folder);
    let outcome = write(options, &provenance, &student, &temporary)
        .and_then(|()| fs::rename(&temporary, &folder).map_err(Error::io("rename into place", &folder)));
    if outcome.is_err() {
        // The first error is the one to report; the folder may not have come about.
        let _ = fs::remove_dir_all(&temporary);
    }
    outcome?;
    let name = options.student.join(STUDENT_WEIGHTS);
    eprintln!("export: `{}` for {} in `{}`", name.display(), options.target.name(), folder.display());
    Ok(folder)
}

fn write(options: &Options, provenance: &Provenance, student: &Student, folder: &Path) -> Result<()> {
    files::create_dir(folder)?;
    let loading = match options.target {
        Target::Diffusers => diffusers::write(student, provenance, options.numbers, folder)?,
        Target::Comfyui => comfyui::write(student, provenance, options.numbers, folder)?,
        Target::Gguf => gguf::write(student, provenance, options.numbers, options.quantise, folder)?,
        Target::Scaledown => scaledown::write(student, provenance, options.numbers, folder)?,
    };
    model_card::write(provenance, options.target, &loading, folder)
}
