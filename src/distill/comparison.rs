//! What teacher and student are compared by at one denoising step, with and without guidance by the empty prompt (paper, Eq. 5).

use candle_core::Tensor;

use super::config::Compared;
use crate::error::{Error, Result};
use crate::models::guidance::{Guided, Negative};
use crate::models::{Denoiser, DenoiserInput};
use crate::nn::residual::mean_squared_error;

// B batch, N image tokens, C packed channels, L text tokens, D text width.

/// The frozen denoiser with the teacher's empty prompt, where it is guided by one.
pub struct Comparison<'d> {
    denoiser: &'d dyn Denoiser,
    teacher: Option<Guided<'d>>,
    compared: Compared,
}

/// The teacher's predictions `[B, N, C]` at one step.
pub struct Targets {
    /// What the student is to predict.
    pub compared: Tensor,
    /// What the trajectory follows.
    pub followed: Tensor,
}

/// The loss, and its gradients by what the student made.
pub struct LossAndGradients {
    pub loss: f64,
    /// Of the text `[B, L, D]` that the denoiser read.
    pub text: Tensor,
    /// Of the empty prompt's text `[1, L, D]`, where it has a part.
    pub negative: Option<Tensor>,
}

impl<'d> Comparison<'d> {
    /// `negative` is the empty prompt under the teacher; without it predictions are not guided.
    ///
    /// # Errors
    /// Guided predictions are to be compared, and there is no empty prompt to guide by.
    pub fn new(denoiser: &'d dyn Denoiser, negative: Option<Negative>, compared: Compared) -> Result<Self> {
        if compared == Compared::Guided && negative.is_none() {
            return Err(Error::config(
                "`guided = true` compares predictions guided by the empty prompt, and this teacher is not guided by one",
                "remove `guided` from the student",
            ));
        }
        Ok(Self { denoiser, teacher: negative.map(|negative| Guided { denoiser, negative }), compared })
    }

    /// The teacher's predictions under its text `[B, L, D]`.
    pub fn targets(&self, input: &DenoiserInput, text: &Tensor) -> Result<Targets> {
        let Some(guided) = &self.teacher else {
            let velocity = self.denoiser.velocity(input, text)?;
            return Ok(Targets { compared: velocity.clone(), followed: velocity });
        };
        let (conditional, followed) = guided.conditional_and_guided(input, text)?;
        let compared = match self.compared {
            Compared::Conditional => conditional,
            Compared::Guided => followed.clone(),
        };
        Ok(Targets { compared, followed })
    }

    /// Eq. 5 for the student's `text` `[B, L, D]`; `negative` is the empty prompt under the student, which guided predictions need.
    pub fn loss_and_gradients(
        &self,
        input: &DenoiserInput,
        text: &Tensor,
        negative: Option<Negative>,
        target: &Tensor,
    ) -> Result<LossAndGradients> {
        let Some(negative) = negative else {
            let (loss, text) = self.denoiser.loss_and_text_gradient(input, text, target)?;
            return Ok(LossAndGradients { loss, text, negative: None });
        };
        let one = negative.text.dim(0)? == 1;
        let student = Guided { denoiser: self.denoiser, negative };
        let (prediction, pullback) = student.velocity_with_both_pullbacks(input, text)?;
        let (loss, d_prediction) = mean_squared_error(&prediction, target)?;
        let (text, negative) = pullback(&d_prediction)?;
        Ok(LossAndGradients { loss, text, negative: Some(if one { negative.sum_keepdim(0)? } else { negative }) })
    }
}
