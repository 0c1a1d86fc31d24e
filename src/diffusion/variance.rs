//! Solvers for denoisers that predict the noise in latents of preserved variance, x = α·image + σ·noise with α² + σ² = 1:
//! DDIM (Song et al. 2021) and DPM-Solver++ 2M (Lu et al. 2022), as PixArt-Alpha's pipeline uses them.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How predictions of noise are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Solver {
    /// Second order, from the last two predictions; what PixArt-Alpha is published with.
    #[default]
    DpmSolver,
    /// First order, without added noise.
    Ddim,
}

/// Levels of noise that training used.
const TRAINING_STEPS: usize = 1000;
/// Variance added at the first and at the last level, linear between: the `scheduler_config.json` of PixArt-Alpha.
const BETA: (f64, f64) = (1e-4, 2e-2);

/// How much of image and noise is in the latents.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Level {
    alpha: f64,
    sigma: f64,
}

impl Level {
    const IMAGE: Self = Self { alpha: 1.0, sigma: 0.0 };

    /// Half the logarithm of the signal-to-noise ratio.
    fn lambda(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

/// All levels of training, from the least noise.
fn training_levels() -> Vec<Level> {
    let mut kept = 1.0;
    let last = (TRAINING_STEPS - 1) as f64;
    (0..TRAINING_STEPS)
        .map(|t| {
            kept *= 1.0 - (BETA.0 + (BETA.1 - BETA.0) * t as f64 / last);
            Level { alpha: f64::sqrt(kept), sigma: f64::sqrt(1.0 - kept) }
        })
        .collect()
}

/// One trajectory: where it is, and what the next step needs of the last one.
#[derive(Debug, Clone)]
pub struct VarianceSteps {
    solver: Solver,
    /// Indices of training levels, falling.
    timesteps: Vec<usize>,
    /// The level at each of them, then the image.
    levels: Vec<Level>,
    done: usize,
    /// The image that the last prediction implied.
    earlier: Option<Tensor>,
}

impl VarianceSteps {
    /// The start of a trajectory of `steps` predictions.
    ///
    /// # Errors
    /// No step, and more steps than training had levels.
    pub fn new(solver: Solver, steps: usize) -> Result<Self> {
        if steps == 0 || steps > TRAINING_STEPS {
            return Err(Error::config(format!("steps is {steps}"), format!("choose 1 to {TRAINING_STEPS} denoising steps")));
        }
        let timesteps: Vec<usize> = match solver {
            // diffusers@v0.42.1 scheduling_dpmsolver_multistep.py, spacing `linspace`; halves are rounded to even numbers.
            Solver::DpmSolver => {
                let gap = (TRAINING_STEPS - 1) as f64 / steps as f64;
                (1..=steps).rev().map(|i| (i as f64 * gap).round_ties_even() as usize).collect()
            }
            // diffusers@v0.42.1 scheduling_ddim.py, spacing `leading`.
            Solver::Ddim => (0..steps).rev().map(|i| i * (TRAINING_STEPS / steps)).collect(),
        };
        let training = training_levels();
        let levels = timesteps.iter().map(|&t| training[t]).chain([Level::IMAGE]).collect();
        Ok(Self { solver, timesteps, levels, done: 0, earlier: None })
    }

    /// Time in [0, 1) of the next prediction, in thousandths as in training; `None` at the end.
    pub fn time(&self) -> Option<f64> {
        self.timesteps.get(self.done).map(|&t| t as f64 / TRAINING_STEPS as f64)
    }

    /// The image that the last prediction implied, which the next step of the second order needs.
    pub fn memory(&self) -> Option<&Tensor> {
        self.earlier.as_ref()
    }

    /// Goes to where a trajectory was after `done` steps, with its [`VarianceSteps::memory`].
    ///
    /// # Errors
    /// A second-order trajectory without memory.
    pub fn resume(&mut self, done: usize, memory: Option<Tensor>) -> Result<()> {
        if done > 0 && memory.is_none() && self.solver == Solver::DpmSolver {
            return Err(Error::Invalid(format!("the trajectory's memory of denoising step {done} is missing")));
        }
        (self.done, self.earlier) = (done, memory);
        Ok(())
    }

    /// Moves `latents` to the next level by the `noise` predicted in them, any equal shapes.
    ///
    /// # Errors
    /// A step beyond the end.
    pub fn step(&mut self, latents: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (Some(&from), Some(&to)) = (self.levels.get(self.done), self.levels.get(self.done + 1)) else {
            return Err(Error::Invalid(format!("a trajectory of {} denoising steps has ended", self.timesteps.len())));
        };
        let image = ((latents - (noise * from.sigma)?)? / from.alpha)?;
        // 1 − e^(−h) for the gain h in λ, which is infinite in the last step.
        let gain = 1.0 - (from.lambda() - to.lambda()).exp();
        let is_last = self.done + 1 == self.timesteps.len();
        let direction = match (self.solver, &self.earlier) {
            // The paper's 2M with D = (1 + 1/2r) x_i − 1/2r x_{i−1}, r = h_{i−1}/h_i.
            (Solver::DpmSolver, Some(earlier)) if !is_last => {
                let before = self.levels[self.done - 1];
                let ratio = (from.lambda() - before.lambda()) / (to.lambda() - from.lambda());
                (&image + ((&image - earlier)? * (0.5 / ratio))?)?
            }
            _ => image.clone(),
        };
        self.earlier = Some(image);
        self.done += 1;
        Ok(((latents * (to.sigma / from.sigma))? + (direction * (to.alpha * gain))?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn steps(solver: Solver, n: usize) -> VarianceSteps {
        VarianceSteps::new(solver, n).unwrap()
    }

    #[test]
    fn variance_is_preserved_and_noise_grows() {
        let levels = training_levels();
        assert!(levels.iter().all(|level| (level.alpha.powi(2) + level.sigma.powi(2) - 1.0).abs() < 1e-12));
        assert!(levels.windows(2).all(|pair| pair[0].lambda() > pair[1].lambda()));
        // 1 − 10⁻⁴ after the first level, by definition.
        assert!((levels[0].alpha.powi(2) - 0.9999).abs() < 1e-12);
    }

    #[test]
    fn timesteps_are_those_of_the_published_spacings() {
        assert_eq!(steps(Solver::DpmSolver, 4).timesteps, [999, 749, 500, 250]);
        assert_eq!(steps(Solver::Ddim, 4).timesteps, [750, 500, 250, 0]);
        assert!(VarianceSteps::new(Solver::Ddim, 0).is_err() && VarianceSteps::new(Solver::DpmSolver, 1001).is_err());
    }

    /// With the true noise as prediction every solver arrives at the image exactly, at any number of steps.
    #[test]
    fn the_true_noise_leads_to_the_image() {
        let image = Tensor::new(&[0.3f64, -1.2, 2.0], &Device::Cpu).unwrap();
        let noise = Tensor::new(&[1.1f64, 0.4, -0.7], &Device::Cpu).unwrap();
        for solver in [Solver::DpmSolver, Solver::Ddim] {
            for n in [1, 2, 7, 20] {
                let mut trajectory = steps(solver, n);
                let start = trajectory.levels[0];
                let mut latents = ((&image * start.alpha).unwrap() + (&noise * start.sigma).unwrap()).unwrap();
                while trajectory.time().is_some() {
                    latents = trajectory.step(&latents, &noise).unwrap();
                }
                let error = (&latents - &image).unwrap().abs().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(error < 1e-10, "{solver:?}, {n} steps: {error} off");
                assert!(trajectory.step(&latents, &noise).is_err());
            }
        }
    }

    /// For images of a normal distribution the ideal prediction is linear in the latents, and so is the exact trajectory.
    #[test]
    fn dpm_solver_is_of_second_order_and_ddim_of_first() {
        // Images of standard deviation s: the ideal prediction is σ / (α²s² + σ²) x, and x grows like √(α²s² + σ²).
        const S: f64 = 0.5;
        let spread = |level: Level| ((level.alpha * S).powi(2) + level.sigma.powi(2)).sqrt();
        let error = |solver, n| {
            let mut trajectory = steps(solver, n);
            let mut x = Tensor::new(&[1.0f64], &Device::Cpu).unwrap();
            // The step to the image itself is of first order in both; the error is taken before it.
            for i in 0..n - 1 {
                let level = trajectory.levels[i];
                let noise = (&x * (level.sigma / spread(level).powi(2))).unwrap();
                x = trajectory.step(&x, &noise).unwrap();
            }
            let exact = spread(trajectory.levels[n - 1]) / spread(trajectory.levels[0]);
            (x.to_vec1::<f64>().unwrap()[0] - exact).abs()
        };
        // Five times as many steps: 5 and up to 25 times smaller errors.
        let fall = |solver| error(solver, 100) / error(solver, 500);
        assert!((4.5..5.5).contains(&fall(Solver::Ddim)), "{}", fall(Solver::Ddim));
        assert!((12.0..25.0).contains(&fall(Solver::DpmSolver)), "{}", fall(Solver::DpmSolver));
    }
}
