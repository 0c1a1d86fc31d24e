//! `generate --prompt`: images of prompts that are given on the command line or in a file.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use crate::config::Pipeline;
use crate::diffusion::generate::control::ControlConfig;
use crate::diffusion::generate::free::{Intermediate, Request};
use crate::error::{Error, Result};
use crate::models::card::TEACHER;
use crate::models::flux::control::Mode;
use crate::models::teacher::WeightSource;
use crate::run::{files, hub};

/// Where the prompts come from, and what is made of them.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("free").multiple(true))]
pub struct Options {
    /// Paint this prompt, in place of those that `build-data` made; may be repeated.
    #[arg(long, value_name = "TEXT", group = "free")]
    prompt: Vec<String>,
    /// Paint the prompts of a text file, one on each line; empty lines are left out.
    #[arg(long, value_name = "FILE", group = "free")]
    prompts: Option<PathBuf>,
    /// Begin with the noise in a safetensors file: tensor `latents`, `[n, channels, height, width]` or packed as Flux takes it.
    #[arg(long, value_name = "FILE", requires = "free")]
    latents: Option<PathBuf>,
    /// Write the images after every denoising step, too.
    #[arg(long, requires = "free")]
    save_steps: bool,
    /// Paint under a ControlNet of Flux: the folder with its `config.json` and weights, or `hf://OWNER/NAME`.
    #[arg(long, value_name = "DIR", requires_all = ["free", "control"])]
    control_net: Option<PathBuf>,
    /// The image that the ControlNet sees; for one that knows several kinds `canny=FILE`, `depth=FILE` or `pose=FILE`.
    #[arg(long, value_name = "[KIND=]FILE", requires = "control_net")]
    control: Option<String>,
    /// How much the ControlNet changes; 1 is as trained.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "control_net")]
    control_scale: f64,
    /// Folder of the images; `runs/NAME/prompts/ENCODER` where it is not given.
    #[arg(long, value_name = "DIR", requires = "free")]
    out: Option<PathBuf>,
}

impl Options {
    /// True where there are prompts.
    pub fn asked_for(&self) -> bool {
        !self.prompt.is_empty() || self.prompts.is_some()
    }

    fn control_config(&self) -> Result<Option<ControlConfig>> {
        let (Some(net), Some(control)) = (&self.control_net, &self.control) else { return Ok(None) };
        let (mode, image) = match control.split_once('=') {
            Some((kind, image)) => (Some(Mode::named(kind)?), image),
            None => (None, control.as_str()),
        };
        // Paths on the command line are relative to where it is given.
        let here = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
        let net = if net.to_str().is_some_and(hub::is_address) { net.clone() } else { here(net)? };
        Ok(Some(ControlConfig { net: WeightSource::File(net), mode, image: here(Path::new(image))?, scale: self.control_scale }))
    }
}

/// Paints the prompts and prints the images' paths.
pub fn run(options: &Options, encoder: Option<&str>, pipeline: &Pipeline, dry_run: bool) -> Result<()> {
    let encoder = pipeline.painting_encoder(encoder.unwrap_or(TEACHER))?;
    let mut prompts = options.prompt.clone();
    if let Some(path) = &options.prompts {
        let bytes = files::read_bytes(path, "the prompts", "give a text file with one prompt on each line")?;
        let text = String::from_utf8(bytes).map_err(|error| Error::format("UTF-8 text", path, error))?;
        prompts.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
    }
    let out = options.out.clone().unwrap_or_else(|| pipeline.context.runs.join("prompts").join(encoder.label()));
    let steps = if options.save_steps { Intermediate::Written } else { Intermediate::Dropped };
    let control = options.control_config()?;
    pipeline.paint(&Request { prompts, encoder, latents: options.latents.clone(), steps, control, out }, dry_run)
}
