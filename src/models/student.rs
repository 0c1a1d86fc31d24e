//! The student: a small T5 encoder and the projection to the teacher's embedding space (paper, appendix A; released as
//! `final_projection`): linear without bias, ReLU, dropout, linear without bias. Both parts are trained together.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::TextEncoder;
use super::t5::{T5Config, T5Encoder, T5Saved};
use super::weights::{Bias, Weights};
use crate::error::Result;
use crate::nn::activation::{relu_dropout, relu_dropout_vjp};
use crate::nn::linear::Linear;
use crate::nn::param::{Gradients, Param, Parameters};
use crate::run::rng;

/// Sizes of a student.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentConfig {
    pub encoder: T5Config,
    /// Width between the two projection layers; 4096 in the paper.
    pub projection_hidden: usize,
    /// Width of the teacher's embeddings; 4096 for T5-XXL.
    pub text_width: usize,
    /// Dropout rate after the ReLU, 0.1 in the released code.
    pub dropout: f64,
}

/// A trainable text encoder.
#[derive(Debug, Clone)]
pub struct Student {
    pub config: StudentConfig,
    pub encoder: T5Encoder,
    first: Linear,
    second: Linear,
}

/// What [`Student::vjp`] needs.
#[derive(Debug, Clone)]
pub struct StudentSaved {
    encoder: T5Saved,
    hidden: Tensor,
    first: Tensor,
    mask: Tensor,
    open: Tensor,
}

impl Student {
    /// Tensors `encoder.…` (the T5 encoder) and `final_projection.{0,3}.weight`, as released.
    pub fn new(config: &StudentConfig, weights: &Weights) -> Result<Self> {
        let projection = weights.pp("final_projection");
        Ok(Self {
            config: config.clone(),
            encoder: T5Encoder::new(&config.encoder, &weights.pp("encoder"))?,
            first: projection.linear("0", config.encoder.d_model, config.projection_hidden, Bias::Without)?,
            second: projection.linear("3", config.projection_hidden, config.text_width, Bias::Without)?,
        })
    }

    /// Encodes `ids` `[B, L]` (u32) to `[B, L, text_width]`. With a key, dropout is on and drawn from that stream.
    pub fn forward(&self, ids: &Tensor, dropout: Option<rng::Key>) -> Result<(Tensor, StudentSaved)> {
        let (hidden, encoder) = self.encoder.forward(ids)?;
        let first = self.first.forward(&hidden)?;
        let mask = self.dropout_mask(&first, dropout)?;
        let open = relu_dropout(&first, &mask)?;
        let text = self.second.forward(&open)?;
        Ok((text, StudentSaved { encoder, hidden, first, mask, open }))
    }

    /// Adds the parameter gradients for `d_text` `[B, L, text_width]` to `gradients`.
    pub fn vjp(&self, saved: &StudentSaved, d_text: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let d_open = self.second.vjp(&saved.open, d_text, gradients)?;
        let d_first = relu_dropout_vjp(&saved.first, &saved.mask, &d_open)?;
        let d_hidden = self.first.vjp(&saved.hidden, &d_first, gradients)?;
        self.encoder.vjp(&saved.encoder, &d_hidden, gradients)
    }

    /// Share of projection units in [0, 1] that are zero on every token of `ids` `[B, L]`.
    pub fn dead_units(&self, ids: &Tensor) -> Result<f64> {
        let (_, saved) = self.forward(ids, None)?;
        let largest = saved.first.flatten(0, 1)?.max(0)?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
        Ok(largest.iter().filter(|&&x| x <= 0.0).count() as f64 / largest.len() as f64)
    }

    fn dropout_mask(&self, like: &Tensor, dropout: Option<rng::Key>) -> Result<Tensor> {
        let n = like.elem_count();
        let values = match dropout {
            Some(key) if self.config.dropout > 0.0 => {
                let mut stream = rng::stream(key);
                let kept = 1.0 / (1.0 - self.config.dropout);
                (0..n).map(|_| if rng::uniform(&mut stream) < self.config.dropout { 0.0 } else { kept }).collect()
            }
            _ => vec![1.0f64; n],
        };
        Ok(Tensor::from_vec(values, like.shape(), &Device::Cpu)?.to_dtype(like.dtype())?)
    }
}

impl Parameters for Student {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.encoder.visit(visitor);
        self.first.visit(visitor);
        self.second.visit(visitor);
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.encoder.visit_mut(visitor);
        self.first.visit_mut(visitor);
        self.second.visit_mut(visitor);
    }
}

impl TextEncoder for Student {
    fn encode(&self, token_ids: &Tensor) -> Result<Tensor> {
        Ok(self.forward(token_ids, None)?.0)
    }
}
