//! Classifier-free guidance (Ho & Salimans 2022) around a denoiser that knows none: the prediction is moved away from the one
//! under a negative prompt.
//!
//! A student can be compared with its teacher on guided predictions, by this wrapper, or on conditional ones, by the denoiser
//! inside it; the trajectory follows the guided teacher in both.

use candle_core::Tensor;

use super::{Denoiser, DenoiserInput, Predicts, Pullback};
use crate::error::Result;

/// The negative prompt; every tensor has one row for the whole batch, or one for each item.
#[derive(Debug, Clone)]
pub struct Negative {
    /// Text embedding `[1 or B, L, D]`.
    pub text: Tensor,
    /// Pooled text `[1 or B, P]`.
    pub pooled: Tensor,
    /// 1 for tokens that are seen, `[1 or B, L]`.
    pub text_mask: Option<Tensor>,
}

/// A denoiser with guidance: u + g (c − u), c under the text, u under the negative prompt, g the input's guidance `[B]`.
#[derive(Clone)]
pub struct Guided<'d> {
    pub denoiser: &'d dyn Denoiser,
    pub negative: Negative,
}

/// Maps a gradient of the guided prediction to those of text and negative text.
pub type GuidedPullback<'a> = Box<dyn FnOnce(&Tensor) -> Result<(Tensor, Tensor)> + 'a>;

/// `tensor` with its only row repeated `b` times, where it has but one.
fn rows(tensor: &Tensor, b: usize) -> Result<Tensor> {
    let mut shape = tensor.dims().to_vec();
    if shape.first() == Some(&1) {
        shape[0] = b;
    }
    Ok(tensor.broadcast_as(shape)?.contiguous()?)
}

/// `guidance` `[B]` to be multiplied with predictions `[B, N, C]`.
fn factor(guidance: &Tensor) -> Result<Tensor> {
    Ok(guidance.unsqueeze(1)?.unsqueeze(2)?)
}

impl Guided<'_> {
    /// What the denoiser sees in place of the prompt.
    fn negative_input(&self, input: &DenoiserInput) -> Result<(DenoiserInput, Tensor)> {
        let b = input.latents.dim(0)?;
        let text_mask = self.negative.text_mask.as_ref().map(|mask| rows(mask, b)).transpose()?;
        let negative = DenoiserInput { pooled: rows(&self.negative.pooled, b)?, text_mask, ..input.clone() };
        Ok((negative, rows(&self.negative.text, b)?))
    }

    fn guide(conditional: &Tensor, unconditional: &Tensor, guidance: &Tensor) -> Result<Tensor> {
        Ok((unconditional + (conditional - unconditional)?.broadcast_mul(&factor(guidance)?)?)?)
    }

    /// The prediction under the text alone and the guided one, both `[B, N, C]`.
    pub fn conditional_and_guided(&self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, Tensor)> {
        let (negative, negative_text) = self.negative_input(input)?;
        let unconditional = self.denoiser.velocity(&negative, &negative_text)?;
        let conditional = self.denoiser.velocity(input, text)?;
        let guided = Self::guide(&conditional, &unconditional, &input.guidance)?;
        Ok((conditional, guided))
    }

    /// The guided prediction `[B, N, C]`, and its backward to the text `[B, L, D]` and to the negative text, one row for each item:
    /// a student encodes both.
    pub fn velocity_with_both_pullbacks<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, GuidedPullback<'a>)> {
        let (negative, negative_text) = self.negative_input(input)?;
        let (conditional, to_text) = self.denoiser.velocity_with_pullback(input, text)?;
        let (unconditional, to_negative) = self.denoiser.velocity_with_pullback(&negative, &negative_text)?;
        let guided = Self::guide(&conditional, &unconditional, &input.guidance)?;
        let guidance = input.guidance.clone();
        let pullback = move |d: &Tensor| {
            let d_conditional = d.broadcast_mul(&factor(&guidance)?)?;
            Ok((to_text(&d_conditional)?, to_negative(&(d - &d_conditional)?)?))
        };
        Ok((guided, Box::new(pullback)))
    }
}

impl Denoiser for Guided<'_> {
    fn predicts(&self) -> Predicts {
        self.denoiser.predicts()
    }

    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor> {
        Ok(self.conditional_and_guided(input, text)?.1)
    }

    /// The negative prompt is held still.
    fn velocity_with_pullback<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, Pullback<'a>)> {
        let (negative, negative_text) = self.negative_input(input)?;
        let unconditional = self.denoiser.velocity(&negative, &negative_text)?;
        let (conditional, to_text) = self.denoiser.velocity_with_pullback(input, text)?;
        let guided = Self::guide(&conditional, &unconditional, &input.guidance)?;
        let guidance = input.guidance.clone();
        Ok((guided, Box::new(move |d| to_text(&d.broadcast_mul(&factor(&guidance)?)?))))
    }
}
