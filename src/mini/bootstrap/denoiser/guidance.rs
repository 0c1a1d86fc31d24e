//! Classifier-free guidance: what two passes of a network say together, and its embedding of guidance learns to say in one.

use candle_core::{Device, Tensor};

use super::{Batch, Example};
use crate::error::Result;
use crate::models::flux::Flux;
use crate::models::{Denoiser, DenoiserInput};

/// v₀ + g (v − v₀) of `network`, `[B, N, C]`: v under the batch's prompts, v₀ under the `empty` one, g from `scale` `[B]`. The
/// network itself is told the batch's guidance.
pub(super) fn guided(network: &Flux, batch: &Batch, empty: &Example, scale: &Tensor) -> Result<Tensor> {
    let (b, l, width) = batch.text.dims3()?;
    let text = Tensor::from_slice(&empty.text, (1, l, width), &Device::Cpu)?.repeat((b, 1, 1))?;
    let pooled = Tensor::from_slice(&empty.pooled, (1, empty.pooled.len()), &Device::Cpu)?.repeat((b, 1))?;
    let conditional = network.velocity(&batch.input, &batch.text)?;
    let without = DenoiserInput { pooled, ..batch.input.clone() };
    let unconditional = network.velocity(&without, &text)?;
    let scale = scale.reshape((b, 1, 1))?;
    Ok((&unconditional + (conditional - &unconditional)?.broadcast_mul(&scale)?)?)
}
