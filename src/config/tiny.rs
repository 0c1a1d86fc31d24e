//! Any experiment on tiny random networks and a few prompts of the miniature world (`--tiny`): shows within a minute that every
//! stage of it runs and every number it promises is there, and says nothing about quality.

use std::path::Path;

use super::{Experiment, PIPELINES, parse};
use crate::diffusion::generate::control::ControlConfig;
use crate::distill::config::{Initialisation, Objective};
use crate::error::Result;
use crate::models::teacher::WeightSource;

/// The networks, prompts and judges.
const SMOKE: &str = include_str!("../../pipelines/smoke.toml");
/// Added to the names of the folders of results.
pub const SUFFIX: &str = "-tiny";

const UPDATES: u64 = 12;
const BATCH: usize = 2;
const STEPS: usize = 4;

impl Experiment {
    /// The same students, stages, objectives, mixtures and starting points, in the smallest size.
    pub fn tiny(&self) -> Result<Self> {
        let smoke = parse(SMOKE, Path::new(PIPELINES).join("smoke.toml").as_path())?;
        let mut tiny = Self { description: self.description.clone(), student: self.student.clone(), report: self.report.clone(), ..smoke };
        // Nothing of random networks is to be looked at beside a longer run.
        tiny.report.beside = None;
        for student in &mut tiny.student {
            student.preset = tiny_preset(&student.preset).into();
            if let Initialisation::Encoder(_) | Initialisation::Weights(_) = student.init {
                student.init = Initialisation::Random;
            }
            if let Initialisation::Student(name) = &mut student.init
                && let Some((pipeline, student)) = name.split_once('/')
            {
                *name = format!("{pipeline}{SUFFIX}/{student}");
            }
            student.updates = if student.objective == Objective::None { 0 } else { UPDATES };
            (student.batch, student.steps, student.resolution, student.projection_hidden) = (BATCH, STEPS, None, None);
        }
        tiny.generate.control = self.generate.control.clone().map(|control| ControlConfig { net: WeightSource::Random, ..control });
        Ok(tiny)
    }
}

/// A size of the smoke test in place of one of the same name's end, so that larger stays larger.
fn tiny_preset(preset: &str) -> &'static str {
    match preset.rsplit('-').next() {
        Some("small") => "smoke-small",
        Some("large") => "smoke-large",
        Some("xl" | "xxl") => "smoke-xl",
        _ => "smoke-base",
    }
}
