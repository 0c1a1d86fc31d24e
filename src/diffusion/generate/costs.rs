//! What one image costs: time from prompt to pixels and memory, with all networks in memory and with one at a time (the paper's
//! Table 5).

use std::path::Path;
use std::time::Instant;

use candle_core::Device;

use super::Config;
use super::held::Keep;
use super::painter::{Encoder, Painter};
use crate::data::schema::PromptRow;
use crate::diffusion::latents::{self, Use};
use crate::error::{Error, Result};
use crate::models::teacher::TeacherConfig;
use crate::run::context::RunContext;
use crate::run::results::{Cost, Costs};
use crate::run::{alloc, files, interrupt};

/// Measures images of `prompt` and writes `path`.
///
/// # Errors
/// As [`Painter::load`] and [`Painter::paint`].
pub fn write(
    config: &Config,
    teacher: &TeacherConfig,
    encoder: &Encoder,
    prompt: &PromptRow,
    context: &RunContext,
    path: &Path,
) -> Result<()> {
    let cost = |keep| measure(&Config { offload: keep == Keep::InFiles, ..config.clone() }, teacher, encoder, prompt, context);
    let in_memory = match config.offload {
        // Who asks for this has no room for the whole.
        true => None,
        false => Some(cost(Keep::InMemory)?),
    };
    let costs = Costs {
        in_memory,
        offloaded: cost(Keep::InFiles)?,
        mapped: teacher.is_mapped(),
        steps: config.steps as u64,
        resolution: teacher.geometry(&context.pipeline)?.resolution as u64,
        threads: rayon::current_num_threads() as u64,
    };
    let text = serde_json::to_string_pretty(&costs).map_err(|error| Error::format("costs of an image", path, error))?;
    files::write_bytes(path, text.as_bytes())
}

fn measure(config: &Config, teacher: &TeacherConfig, encoder: &Encoder, prompt: &PromptRow, context: &RunContext) -> Result<Cost> {
    let mut seconds = Vec::with_capacity(config.timed_images);
    let (painted, peak_bytes) = alloc::peak_of(|| -> Result<()> {
        let painter = Painter::load(config, teacher, encoder, context)?;
        let noise = latents::noise(context.seed, &[Use { prompt_id: prompt.prompt_id, draw: 0 }], painter.shape, &Device::Cpu)?;
        // The first one fills caches.
        for i in 0..=config.timed_images {
            interrupt::check()?;
            let start = Instant::now();
            painter.paint(&[&prompt.prompt], &[config.guidance as f32], &noise, None)?;
            if i > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
        Ok(())
    });
    painted?;
    Ok(Cost { seconds, peak_bytes })
}
