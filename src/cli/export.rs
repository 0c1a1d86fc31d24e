//! `scaledown export`: a finished student for others to load.

use std::path::PathBuf;

use clap::Args;

use crate::error::Result;
use crate::export::{self, Numbers, Quantisation, Target};

#[derive(Debug, Args)]
pub struct Options {
    /// Folder of a finished student: runs/PIPELINE/distill/STUDENT.
    #[arg(long, value_name = "DIR")]
    student: PathBuf,
    /// Who is to load it.
    #[arg(long, value_enum)]
    to: Target,
    /// Folder to write; `export-TARGET` in the student's folder where absent.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Numbers of the weights; f32 keeps every bit.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Numbers,
    /// Quantise the matrices, for GGUF.
    #[arg(long, value_enum, conflicts_with = "dtype")]
    quantise: Option<Quantisation>,
    /// SPDX identifier of the licence under which you hand the weights on.
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
}

/// Writes the folder and prints its path.
pub fn run(options: &Options, dry_run: bool) -> Result<()> {
    let options = export::Options {
        student: options.student.clone(),
        target: options.to,
        out: options.out.clone(),
        numbers: options.dtype,
        quantise: options.quantise,
        licence: options.licence.clone(),
    };
    if dry_run {
        println!("export: would write {}", options.folder().display());
        return Ok(());
    }
    println!("{}", export::run(&options)?.display());
    Ok(())
}
