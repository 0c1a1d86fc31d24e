//! What every block of Flux is told besides its tokens: time, guidance and pooled text as one vector, and the modulation
//! each block derives from it (flux@802fb47 src/flux/modules/layers.py `MLPEmbedder`, `Modulation`).

use candle_core::{Device, Tensor};

use super::FluxConfig;
use crate::error::Result;
use crate::models::DenoiserInput;
use crate::models::weights::{Bias, Weights};
use crate::nn::activation::{add, silu, silu_vjp};
use crate::nn::linear::Linear;
use crate::nn::param::{Gradients, Param, Parameters};

/// Width of the sinusoidal time embedding.
pub const TIME_CHANNELS: usize = 256;

/// Sinusoids of `1000 · t` for `t` `[B]` in [0, 1], `[B, 256]`: cosines first.
pub fn timestep_embedding(t: &Tensor) -> Result<Tensor> {
    const MAX_PERIOD: f64 = 10_000.0;
    let half = TIME_CHANNELS / 2;
    let times = t.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    let mut values = Vec::with_capacity(times.len() * TIME_CHANNELS);
    for time in &times {
        let angles = (0..half).map(|i| 1000.0 * time * (-MAX_PERIOD.ln() * i as f64 / half as f64).exp());
        values.extend(angles.clone().map(f64::cos));
        values.extend(angles.map(f64::sin));
    }
    Ok(Tensor::from_vec(values, (times.len(), TIME_CHANNELS), &Device::Cpu)?.to_dtype(t.dtype())?)
}

/// Two linear layers with SiLU between.
#[derive(Debug, Clone)]
pub struct MlpEmbedder {
    in_layer: Linear,
    out_layer: Linear,
}

/// Saved input and middle of an [`MlpEmbedder`].
#[derive(Debug, Clone)]
pub struct MlpSaved {
    x: Tensor,
    middle: Tensor,
    active: Tensor,
}

impl MlpEmbedder {
    pub fn new(inputs: usize, hidden: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            in_layer: weights.linear("in_layer", inputs, hidden, Bias::With)?,
            out_layer: weights.linear("out_layer", hidden, hidden, Bias::With)?,
        })
    }

    /// `[B, in]` to `[B, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<(Tensor, MlpSaved)> {
        let middle = self.in_layer.forward(x)?;
        let active = silu(&middle)?;
        let y = self.out_layer.forward(&active)?;
        Ok((y, MlpSaved { x: x.clone(), middle, active }))
    }

    /// Parameter gradients from `dy` `[B, hidden]`; the inputs (time, guidance, pooled text) get none.
    pub fn vjp(&self, saved: &MlpSaved, dy: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let d_active = self.out_layer.vjp(&saved.active, dy, gradients)?;
        self.in_layer.parameter_vjp(&saved.x, &silu_vjp(&saved.middle, &d_active)?, gradients)
    }
}

impl Parameters for MlpEmbedder {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.in_layer.visit(visitor);
        self.out_layer.visit(visitor);
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.in_layer.visit_mut(visitor);
        self.out_layer.visit_mut(visitor);
    }
}

/// The embedders of time, guidance (where the model has one) and pooled text.
#[derive(Debug, Clone)]
pub struct Embedders {
    time_in: MlpEmbedder,
    vector_in: MlpEmbedder,
    guidance_in: Option<MlpEmbedder>,
}

impl Embedders {
    pub fn new(config: &FluxConfig, weights: &Weights) -> Result<Self> {
        let embedder = |name: &str, inputs| MlpEmbedder::new(inputs, config.hidden_size, &weights.pp(name));
        Ok(Self {
            time_in: embedder("time_in", TIME_CHANNELS)?,
            vector_in: embedder("vector_in", config.vec_in_dim)?,
            guidance_in: config.guidance_embed.then(|| embedder("guidance_in", TIME_CHANNELS)).transpose()?,
        })
    }

    /// Time, guidance and pooled text as one vector; saves one entry per embedder in use.
    pub fn forward(&self, input: &DenoiserInput) -> Result<(Conditioning, Vec<MlpSaved>)> {
        let (mut vector, time_saved) = self.time_in.forward(&timestep_embedding(&input.time)?)?;
        let mut saved = vec![time_saved];
        if let Some(guidance_in) = &self.guidance_in {
            let (embedded, guidance_saved) = guidance_in.forward(&timestep_embedding(&input.guidance)?)?;
            vector = add(&vector, &embedded)?;
            saved.push(guidance_saved);
        }
        let (embedded, pooled_saved) = self.vector_in.forward(&input.pooled)?;
        saved.push(pooled_saved);
        Ok((Conditioning::new(add(&vector, &embedded)?)?, saved))
    }

    /// Parameter gradients from that of the vector `[B, D]`.
    pub fn vjp(&self, saved: &[MlpSaved], d_vector: &Tensor, gradients: &mut Gradients) -> Result<()> {
        self.in_use().into_iter().zip(saved).try_for_each(|(embedder, saved)| embedder.vjp(saved, d_vector, gradients))
    }

    /// In the order in which they are saved.
    fn in_use(&self) -> Vec<&MlpEmbedder> {
        std::iter::once(&self.time_in).chain(&self.guidance_in).chain([&self.vector_in]).collect()
    }
}

impl Parameters for Embedders {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.in_use().into_iter().for_each(|embedder| embedder.visit(visitor));
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.time_in.visit_mut(visitor);
        self.guidance_in.iter_mut().for_each(|embedder| embedder.visit_mut(visitor));
        self.vector_in.visit_mut(visitor);
    }
}

/// The conditioning vector with its SiLU, computed once and used by every block.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// `[B, D]`.
    pub vector: Tensor,
    /// silu(vector), `[B, D]`.
    pub active: Tensor,
}

impl Conditioning {
    pub fn new(vector: Tensor) -> Result<Self> {
        Ok(Self { active: silu(&vector)?, vector })
    }
}

/// Sum over blocks of the gradient of silu(vector); collected only where parameters are trained.
#[derive(Debug, Default)]
pub struct ConditioningGradient {
    active: Option<Tensor>,
}

impl ConditioningGradient {
    fn add(&mut self, d_active: Tensor) -> Result<()> {
        self.active = Some(match self.active.take() {
            Some(sum) => add(&sum, &d_active)?,
            None => d_active,
        });
        Ok(())
    }

    /// Gradient of the vector `[B, D]`; `None` if nothing was collected.
    pub fn finish(self, conditioning: &Conditioning) -> Result<Option<Tensor>> {
        self.active.map(|d_active| silu_vjp(&conditioning.vector, &d_active)).transpose()
    }
}

/// Linear map from the conditioning vector to `parts` modulation vectors of width D.
#[derive(Debug, Clone)]
pub struct Modulation {
    lin: Linear,
    parts: usize,
}

impl Modulation {
    /// Starts near zero, so that a fresh block is nearly the identity (adaLN-Zero, Peebles & Xie 2023, starts at zero; then
    /// an untrained network would not depend on its text at all, and the smoke pipeline would test nothing).
    pub fn new(weights: &Weights, name: &str, width: usize, parts: usize) -> Result<Self> {
        Ok(Self { lin: weights.linear_scaled(name, width, parts * width, Bias::With, 0.02)?, parts })
    }

    /// The `parts` vectors `[B, D]`, in checkpoint order (shift, scale, gate, …).
    pub fn forward(&self, conditioning: &Conditioning) -> Result<Vec<Tensor>> {
        let all = self.lin.forward(&conditioning.active)?;
        let width = all.dim(1)? / self.parts;
        (0..self.parts).map(|i| Ok(all.narrow(1, i * width, width)?.contiguous()?)).collect()
    }

    /// Parameter and conditioning gradients from those of the parts; does nothing where parameters are frozen, since the
    /// conditioning does not depend on the text embedding.
    pub fn vjp(
        &self,
        conditioning: &Conditioning,
        d_parts: &[Tensor],
        gradients: &mut Gradients,
        d_vector: &mut ConditioningGradient,
    ) -> Result<()> {
        if !gradients.wanted() {
            return Ok(());
        }
        let dy = Tensor::cat(d_parts, 1)?.contiguous()?;
        d_vector.add(self.lin.vjp(&conditioning.active, &dy, gradients)?)
    }
}

impl Parameters for Modulation {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.lin.visit(visitor);
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.lin.visit_mut(visitor);
    }
}
