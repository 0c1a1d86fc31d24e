//! The steps of one trajectory for any denoiser: along a velocity or by predictions of noise, as a pipeline's settings or the
//! `scheduler_config.json` of a published model say.

use std::path::Path;

use candle_core::Tensor;

use super::sampler::euler_step;
use super::schedule::{Dynamic, Shift, dynamic_times, even_times, flow_times, range_times};
use super::variance::{Solver, VarianceSteps};
use crate::error::{Error, Result};
use crate::models::Predicts;
use crate::models::published::Family;
use crate::models::published::config_file::ConfigFile;
use crate::models::teacher::TeacherConfig;

/// How trajectories are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scheduler {
    /// Named in the pipeline's TOML.
    Shift(Shift),
    /// Flux's times, shifted by the number of image tokens.
    Dynamic(Dynamic),
    /// Evenly spaced times, shifted by a constant: Flux without its dynamic shift.
    Even(f64),
    /// Times over the shifted range of training: Stable Diffusion 3.
    Range(f64),
    /// Predictions of noise.
    Noise(Solver),
}

impl Scheduler {
    /// The scheduler of `teacher`; `shift` is the setting of the pipeline in `folder`.
    ///
    /// # Errors
    /// A `shift` beside a published model, which brings its own; a scheduler that is not known.
    pub fn of(teacher: &TeacherConfig, folder: &Path, shift: Shift) -> Result<Self> {
        let Some(file) = teacher.scheduler(folder) else { return Ok(Self::Shift(shift)) };
        if shift != Shift::default() {
            return Err(Error::config(
                format!("`shift` is set, and `{}` says what the model's is", file.display()),
                "remove `shift` from the pipeline; the file of the model decides",
            ));
        }
        read(&file, teacher.family(folder)?)
    }

    /// The start of a trajectory of `steps` predictions over `n_tokens` image tokens.
    pub fn start(self, steps: usize, n_tokens: usize) -> Result<Steps> {
        Ok(match self {
            Self::Shift(shift) => Steps::along(flow_times(steps, n_tokens, shift)?),
            Self::Dynamic(dynamic) => Steps::along(dynamic_times(steps, n_tokens, dynamic)?),
            Self::Even(shift) => Steps::along(even_times(steps, shift)?),
            Self::Range(shift) => Steps::along(range_times(steps, shift)?),
            Self::Noise(solver) => Steps::Noise(VarianceSteps::new(solver, steps)?),
        })
    }
}

/// One trajectory: where it is, and what its next step needs.
#[derive(Debug, Clone)]
pub enum Steps {
    /// Times from 1 to 0, and the steps made.
    Flow {
        times: Vec<f64>,
        done: usize,
    },
    Noise(VarianceSteps),
}

impl Steps {
    /// Along the velocity through `times`, which fall from 1 to 0.
    pub fn along(times: Vec<f64>) -> Self {
        Self::Flow { times, done: 0 }
    }

    /// What the denoiser must predict.
    pub fn predicts(&self) -> Predicts {
        match self {
            Self::Flow { .. } => Predicts::Velocity,
            Self::Noise(_) => Predicts::Noise,
        }
    }

    /// Time in [0, 1] of the next prediction; `None` at the end.
    pub fn time(&self) -> Option<f64> {
        match self {
            // The last time is that of the image, where nothing is predicted.
            Self::Flow { times, done } => times.get(*done).copied().filter(|_| done + 1 < times.len()),
            Self::Noise(steps) => steps.time(),
        }
    }

    /// Moves `latents` on by a `prediction`, any equal shapes.
    ///
    /// # Errors
    /// A step beyond the end.
    pub fn step(&mut self, latents: &Tensor, prediction: &Tensor) -> Result<Tensor> {
        match self {
            Self::Flow { times, done } => {
                let (Some(&t), Some(&next)) = (times.get(*done), times.get(*done + 1)) else {
                    return Err(Error::Invalid(format!("a trajectory of {} denoising steps has ended", times.len().saturating_sub(1))));
                };
                *done += 1;
                euler_step(latents, prediction, t, next)
            }
            Self::Noise(steps) => steps.step(latents, prediction),
        }
    }

    /// What the next step needs besides the latents: the image that the last prediction implied.
    pub fn memory(&self) -> Option<&Tensor> {
        match self {
            Self::Flow { .. } => None,
            Self::Noise(steps) => steps.memory(),
        }
    }

    /// A fresh trajectory, put where another was after `done` steps, with its [`Steps::memory`].
    pub fn resume(&mut self, done: usize, memory: Option<Tensor>) -> Result<()> {
        match self {
            Self::Flow { done: place, .. } => {
                *place = done;
                Ok(())
            }
            Self::Noise(steps) => steps.resume(done, memory),
        }
    }
}

/// Reads a `scheduler_config.json`.
fn read(path: &Path, family: Family) -> Result<Scheduler> {
    let mut file = ConfigFile::read(path)?;
    let class = file.text("_class_name")?;
    file.only("num_train_timesteps", 1000)?;
    let scheduler = match (family, class.as_str()) {
        (Family::Flux | Family::Sd3, "FlowMatchEulerDiscreteScheduler") => flow(&mut file, family)?,
        (Family::PixArt, "DPMSolverMultistepScheduler") => {
            noise(&mut file)?;
            file.only("algorithm_type", "dpmsolver++")?;
            file.only("solver_order", 2)?;
            file.only("solver_type", "midpoint")?;
            file.only("lower_order_final", true)?;
            file.only("final_sigmas_type", "zero")?;
            file.only("timestep_spacing", "linspace")?;
            file.only("lambda_min_clipped", "-Infinity")?;
            // Of switches that are off, and of the variance, which this solver does not use.
            file.ignore(&["dynamic_thresholding_ratio", "sample_max_value", "flow_shift", "time_shift_type", "variance_type"]);
            Scheduler::Noise(Solver::DpmSolver)
        }
        (Family::PixArt, "DDIMScheduler") => {
            noise(&mut file)?;
            if file.switch("clip_sample", true)? {
                return Err(file.unsupported("clip_sample", true, "false"));
            }
            file.only("set_alpha_to_one", true)?;
            file.only("timestep_spacing", "leading")?;
            file.ignore(&["dynamic_thresholding_ratio", "sample_max_value", "clip_sample_range"]);
            Scheduler::Noise(Solver::Ddim)
        }
        (Family::PixArt, _) => return Err(file.unsupported("_class_name", class, "DPMSolverMultistepScheduler, DDIMScheduler")),
        _ => return Err(file.unsupported("_class_name", class, "FlowMatchEulerDiscreteScheduler")),
    };
    file.finish()?;
    Ok(scheduler)
}

/// Levels of noise that [`VarianceSteps`] knows.
fn noise(file: &mut ConfigFile) -> Result<()> {
    file.only("beta_start", 1e-4)?;
    file.only("beta_end", 2e-2)?;
    file.only("beta_schedule", "linear")?;
    file.only("prediction_type", "epsilon")?;
    file.only("steps_offset", 0)
}

/// Defaults are those of diffusers@v0.42.1 scheduling_flow_match_euler_discrete.py and pipeline_flux.py `calculate_shift`.
fn flow(file: &mut ConfigFile, family: Family) -> Result<Scheduler> {
    let shift = file.number("shift", 1.0)?;
    let dynamic = file.switch("use_dynamic_shifting", false)?;
    file.only("time_shift_type", "exponential")?;
    let base = (file.number("base_image_seq_len", 256.0)?, file.number("base_shift", 0.5)?);
    let max = (file.number("max_image_seq_len", 4096.0)?, file.number("max_shift", 1.15)?);
    match (family, dynamic) {
        (Family::Flux, true) => Ok(Scheduler::Dynamic(Dynamic { base, max })),
        (Family::Flux, false) => Ok(Scheduler::Even(shift)),
        (_, true) => Err(file.unsupported("use_dynamic_shifting", true, "false for Stable Diffusion 3")),
        (_, false) => Ok(Scheduler::Range(shift)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn config(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn files_of_published_models_say_which_steps() {
        let flow = |extra: &str| format!(r#"{{"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, {extra}}}"#);
        let found = |text: &str, family| read(config(text).path(), family).unwrap();
        let dynamic = r#""base_shift": 0.5, "max_shift": 1.15, "shift": 3.0, "use_dynamic_shifting": true"#;
        let Scheduler::Dynamic(values) = found(&flow(dynamic), Family::Flux) else { panic!("Flux-dev shifts by size") };
        let (named, read) = (Scheduler::Shift(Shift::Resolution), Scheduler::Dynamic(values));
        assert_eq!(format!("{:?}", named.start(7, 900).unwrap()), format!("{:?}", read.start(7, 900).unwrap()));
        assert_eq!(found(&flow(r#""shift": 1.0"#), Family::Flux), Scheduler::Even(1.0));
        assert_eq!(found(&flow(r#""shift": 3.0"#), Family::Sd3), Scheduler::Range(3.0));
        let dpm = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "solver_order": 2}"#;
        assert_eq!(found(dpm, Family::PixArt), Scheduler::Noise(Solver::DpmSolver));
    }

    #[test]
    fn a_scheduler_that_differs_names_file_and_key() {
        for (text, family, key) in [
            (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1}"#, Family::Flux, "`shift_terminal`"),
            (r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}"#, Family::PixArt, "`solver_order` is 3"),
            (r#"{"_class_name": "DDIMScheduler"}"#, Family::PixArt, "`clip_sample`"),
            (r#"{"_class_name": "PNDMScheduler"}"#, Family::PixArt, "PNDMScheduler"),
        ] {
            let file = config(text);
            let error = read(file.path(), family).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(file.path().to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn a_resumed_trajectory_goes_on_as_the_one_that_was_not_interrupted() {
        let at = |x: &Tensor| (x * 0.3).unwrap();
        for scheduler in [Scheduler::Range(3.0), Scheduler::Noise(Solver::DpmSolver), Scheduler::Noise(Solver::Ddim)] {
            let mut latents = Tensor::new(&[0.7f32, -1.1], &Device::Cpu).unwrap();
            let mut whole = scheduler.start(5, 16).unwrap();
            for _ in 0..2 {
                latents = whole.step(&latents, &at(&latents)).unwrap();
            }
            let mut resumed = scheduler.start(5, 16).unwrap();
            resumed.resume(2, whole.memory().cloned()).unwrap();
            let mut other = latents.clone();
            while whole.time().is_some() {
                assert_eq!(whole.time(), resumed.time());
                latents = whole.step(&latents, &at(&latents)).unwrap();
                other = resumed.step(&other, &at(&other)).unwrap();
            }
            assert_eq!(latents.to_vec1::<f32>().unwrap(), other.to_vec1::<f32>().unwrap());
            assert!(resumed.time().is_none() && resumed.step(&other, &other).is_err());
        }
        assert!(Scheduler::Noise(Solver::DpmSolver).start(5, 16).unwrap().resume(2, None).is_err());
    }
}
