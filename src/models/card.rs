//! `student.json`: what a distilled student is and how it came about, and how to load it again.

use std::path::Path;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::student::{Student, StudentConfig};
use super::t5::{Padding, T5Config};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::run::files;

/// Name of the frozen teacher among the encoders; no student may have it.
pub const TEACHER: &str = "teacher";
/// Name of the rendered ground truth among the encoders; no student may have it.
pub const REAL: &str = "real";
/// File of a student's weights in its folder.
pub const STUDENT_WEIGHTS: &str = "student.safetensors";
/// File of a student's card in its folder.
pub const STUDENT_CARD: &str = "student.json";

/// Everything a later stage has to know about a student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentCard {
    pub name: String,
    /// Preset of the student's encoder.
    pub preset: String,
    /// Width of the encoder.
    pub width: usize,
    /// Width of the projection's hidden layer.
    pub projection_hidden: usize,
    /// Width of the text the denoiser reads.
    pub text_width: usize,
    pub token_length: usize,
    /// Whether it sees padding, as its teacher does or does not.
    #[serde(default, skip_serializing_if = "Padding::is_seen")]
    pub padding: Padding,
    /// Preset or model of the teacher's encoder.
    pub teacher: String,
    /// Scalar weights of the teacher's encoder.
    pub teacher_parameters: u64,
    /// `vision`, `naive` or `none` (the untrained twin).
    pub objective: String,
    /// Prompt sets that it learned from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    pub updates: u64,
    pub batch: usize,
    pub seed: u64,
    /// Seconds of training, summed over resumes.
    pub seconds: f64,
    /// Scalar weights with the projection.
    pub parameters: u64,
    /// Scalar weights of the encoder alone.
    pub parameters_without_projection: u64,
    /// Share of the projection's hidden units that are zero for every token of the probe prompts.
    pub dead_units: f64,
    /// Variance of the student's text over the probe prompts, divided by the teacher's.
    pub variance_ratio: f64,
    /// Mean gradient norm before clipping; absent for the untrained twin.
    pub mean_gradient_norm: Option<f64>,
    /// Mean loss over the last tenth of the updates; absent for the untrained twin.
    pub final_loss: Option<f64>,
}

impl StudentCard {
    /// Writes the card into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(STUDENT_CARD);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::format("student card", &path, error))?;
        files::write_bytes(&path, text.as_bytes())
    }

    /// The same, with the training that `earlier` tells of: for a student that is another one, not trained any further.
    pub fn trained_as(self, earlier: &Self) -> Self {
        let Self { objective, datasets, mean_gradient_norm, final_loss, .. } = earlier.clone();
        let Self { updates, batch, seed, seconds, .. } = *earlier;
        Self { objective, datasets, updates, batch, seed, seconds, mean_gradient_norm, final_loss, ..self }
    }

    /// Reads the card from `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STUDENT_CARD);
        let bytes = files::read_bytes(&path, "the student's card", "run `scaledown distill` first")?;
        serde_json::from_slice(&bytes).map_err(|error| Error::format("student card", path, error))
    }

    /// The student's architecture; it never drops units outside training.
    pub fn config(&self) -> Result<StudentConfig> {
        Ok(StudentConfig {
            encoder: T5Config::preset(&self.preset)?,
            projection_hidden: self.projection_hidden,
            text_width: self.text_width,
            dropout: 0.0,
        })
    }

    /// Loads the student that lies in `folder`, in f32 on the CPU.
    pub fn load_student(&self, folder: &Path) -> Result<Student> {
        let weights = Weights::load(&folder.join(STUDENT_WEIGHTS), DType::F32, &Device::Cpu)?;
        let mut student = Student::new(&self.config()?, &weights)?;
        student.encoder.padding = self.padding;
        weights.finish()?;
        Ok(student)
    }
}
