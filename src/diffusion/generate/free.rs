//! Images of any prompts, without a build of prompt sets: one PNG for each, and `images.json` with what made them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::Config;
use super::control::ControlConfig;
use super::painter::{Encoder, Painter, write_png};
use crate::diffusion::latents::{self, LatentShape, Use};
use crate::error::{Error, Result};
use crate::models::safetensors_file;
use crate::models::teacher::TeacherConfig;
use crate::run::context::RunContext;
use crate::run::progress::Progress;
use crate::run::{files, interrupt, rng};

/// Whether the images after every step are written, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intermediate {
    Dropped,
    Written,
}

/// What is to be painted.
#[derive(Debug, Clone)]
pub struct Request {
    pub prompts: Vec<String>,
    pub encoder: Encoder,
    /// A safetensors file with the initial noise as tensor `latents`, for every prompt one or one for all: `[n, C, H, W]` or packed
    /// `[n, N, 4C]`; noise of the pipeline's seed where absent.
    pub latents: Option<PathBuf>,
    pub steps: Intermediate,
    /// A ControlNet and its image, the same for every prompt; that of the pipeline, if it has one, where absent.
    pub control: Option<ControlConfig>,
    /// Folder of the images.
    pub out: PathBuf,
}

/// One line of `images.json`.
#[derive(Debug, Serialize)]
struct Record<'a> {
    image: String,
    prompt: &'a str,
    encoder: String,
    guidance: f64,
    steps: usize,
    seed: u64,
    /// SHA-256 of the file with the initial noise.
    latents: Option<String>,
    /// SHA-256 of the ControlNet's image.
    #[serde(skip_serializing_if = "Option::is_none")]
    control: Option<String>,
}

/// Paints all prompts and returns the images' files, in the order of the prompts.
///
/// # Errors
/// No prompt; missing weights; initial noise of another shape; [`Error::Interrupted`] after Ctrl-C, with the finished images kept.
pub fn run(config: &Config, teacher: &TeacherConfig, request: &Request, context: &RunContext) -> Result<Vec<PathBuf>> {
    if request.prompts.is_empty() {
        return Err(Error::config("there is no prompt", "give `--prompt TEXT`, or `--prompts FILE` with one on each line"));
    }
    if config.batch == 0 || !config.guidance.is_finite() {
        return Err(Error::config("[generate] batch must be above 0 and guidance a number", "correct the value in the pipeline's TOML"));
    }
    // Looked at before the networks are loaded.
    let given = request.latents.as_deref().map(read_latents).transpose()?;
    let config = &Config { control: request.control.clone().or_else(|| config.control.clone()), ..config.clone() };
    let painter = Painter::load(config, teacher, &request.encoder, context)?;
    let noise = match given {
        Some(given) => packed(given, request.prompts.len(), painter.shape)?,
        None => latents::noise(context.seed, &uses(&request.prompts), painter.shape, &Device::Cpu)?,
    };
    let label = format!("generate {}", request.encoder.label());
    let mut progress = Progress::new(&label, 0, request.prompts.len() as u64);
    let mut images = Vec::new();
    for chunk in request.prompts.chunks(config.batch) {
        interrupt::check()?;
        let first = images.len();
        let texts: Vec<&str> = chunk.iter().map(String::as_str).collect();
        let guidance = vec![config.guidance as f32; chunk.len()];
        let mut step = 0;
        let mut write_step = |stages: Vec<image::RgbImage>| {
            step += 1;
            stages.iter().enumerate().try_for_each(|(i, stage)| {
                let name = format!("{:04}-step-{step:02}.png", first + i + 1);
                write_png(&request.out.join(name), stage)
            })
        };
        let after: Option<&mut dyn FnMut(Vec<image::RgbImage>) -> Result<()>> = match request.steps {
            Intermediate::Written => Some(&mut write_step),
            Intermediate::Dropped => None,
        };
        let painted = painter.paint(&texts, &guidance, &noise.narrow(0, first, chunk.len())?.contiguous()?, after)?;
        for image in painted {
            let path = request.out.join(format!("{:04}.png", images.len() + 1));
            write_png(&path, &image)?;
            images.push(path);
        }
        progress.set(images.len() as u64, "images");
    }
    progress.finish("images");
    write_records(config, request, context, &images)?;
    Ok(images)
}

fn write_records(config: &Config, request: &Request, context: &RunContext, images: &[PathBuf]) -> Result<()> {
    let latents = request.latents.as_deref().map(files::sha256_file).transpose()?;
    let control = config.control.as_ref().map(|control| files::sha256_file(&context.pipeline.join(&control.image))).transpose()?;
    let record = |(prompt, image): (&String, &PathBuf)| -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(Record {
            image: image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            prompt,
            encoder: request.encoder.label(),
            guidance: config.guidance,
            steps: config.steps,
            seed: context.seed,
            latents: latents.clone(),
            control: control.clone(),
        })
    };
    let path = request.out.join("images.json");
    let records = request.prompts.iter().zip(images).map(record).collect::<serde_json::Result<Vec<_>>>();
    let text = records.and_then(|records| serde_json::to_string_pretty(&records)).map_err(|error| Error::format("record", &path, error))?;
    files::write_bytes(&path, text.as_bytes())
}

/// The same prompt twice gets different noise.
fn uses(prompts: &[String]) -> Vec<Use> {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    prompts
        .iter()
        .map(|prompt| {
            let count = seen.entry(prompt).or_insert(0);
            *count += 1;
            Use { prompt_id: rng::text_id(prompt), draw: *count - 1 }
        })
        .collect()
}

/// The tensor `latents` of a file, in f32.
fn read_latents(path: &Path) -> Result<Tensor> {
    let mut tensors = safetensors_file::read(path, &Device::Cpu)?;
    let names: Vec<String> = tensors.keys().cloned().collect();
    match tensors.remove("latents") {
        Some(latents) => Ok(latents.to_dtype(DType::F32)?),
        None => Err(Error::format("file of initial noise", path, format!("it has no tensor `latents`, but: {}", names.join(", ")))),
    }
}

/// Initial noise of `n` images as the denoiser takes it, `[n, N, 4C]`.
fn packed(latents: Tensor, n: usize, shape: LatentShape) -> Result<Tensor> {
    let LatentShape { channels, height, width } = shape;
    let (plain, patches) = ([channels, height, width], [shape.n_patches(), 4 * channels]);
    let rows = latents.dims().first().copied().unwrap_or_default();
    let packed = match latents.dims() {
        [_, rest @ ..] if *rest == plain => latents::pack(&latents)?,
        [_, rest @ ..] if *rest == patches => latents,
        found => {
            let message = format!(
                "the initial noise has shape {found:?}; expected [{n}, {channels}, {height}, {width}], or packed {patches:?} for each image"
            );
            return Err(Error::config(message, "set `[teacher] resolution` to the size of these latents, or give others"));
        }
    };
    match rows {
        rows if rows == n => Ok(packed),
        1 => Ok(packed.repeat((n, 1, 1))?),
        rows => Err(Error::config(
            format!("the initial noise is for {rows} images, there are {n} prompts"),
            "give one for each prompt, or one for all",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LatentShape = LatentShape { channels: 3, height: 4, width: 4 };

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn noise_is_taken_in_both_layouts_for_each_prompt_or_for_all() {
        for shape in [&[2, 3, 4, 4][..], &[2, 4, 12], &[1, 3, 4, 4], &[1, 4, 12]] {
            assert_eq!(packed(zeros(shape), 2, SHAPE).unwrap().dims(), [2, 4, 12]);
        }
        for (shape, reason) in [(&[2, 3, 8, 8][..], "[2, 3, 8, 8]"), (&[3, 4, 12], "3 images"), (&[12], "[12]")] {
            assert!(packed(zeros(shape), 2, SHAPE).unwrap_err().to_string().contains(reason));
        }
    }

    #[test]
    fn a_repeated_prompt_gets_other_noise() {
        let found = uses(&["a".into(), "b".into(), "a".into()]);
        assert_eq!(found.iter().map(|used| used.draw).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(found[0].prompt_id, found[2].prompt_id);
    }
}
