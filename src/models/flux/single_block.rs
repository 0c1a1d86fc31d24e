//! Flux's single-stream block: attention and feed-forward in parallel over joined text and image tokens
//! (flux@802fb47 src/flux/modules/layers.py `SingleStreamBlock`).

use candle_core::Tensor;

use super::conditioning::{Conditioning, ConditioningGradient, Modulation};
use super::{FluxConfig, heads_scale};
use crate::error::Result;
use crate::models::weights::{Bias, Init, Weights};
use crate::nn::activation::{add, gelu, gelu_vjp};
use crate::nn::attention::{AttentionGradients, AttentionSaved, BiasGradient, attention, attention_vjp};
use crate::nn::linear::{Linear, column_sums, linear, linear_input_vjp, linear_input_vjp_sum, linear_sum, linear_weight_vjp};
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};
use crate::nn::param::{Gradients, Param, Parameters};
use crate::nn::residual::{gated_residual, gated_residual_vjp};
use crate::nn::rope::{Rotation, Stream, StreamGradients, qkv_norm_rope, qkv_norm_rope_vjp};
use crate::nn::weight::Values;

/// One single-stream block. `linear1` holds the attention projections and the first feed-forward layer, `linear2` the
/// output projection and the second; both are used in two parts, without cutting or joining activations.
#[derive(Debug, Clone)]
pub struct SingleBlock {
    modulation: Modulation,
    linear1: Linear,
    linear2: Linear,
    query_scale: Param,
    key_scale: Param,
    width: usize,
}

/// What [`SingleBlock::vjp`] needs.
#[derive(Debug, Clone)]
pub struct SingleSaved {
    x: Tensor,
    parts: Vec<Tensor>,
    normed: Tensor,
    qkv: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: AttentionSaved,
    mixed: Tensor,
    wide: Tensor,
    active: Tensor,
    out: Tensor,
}

impl SingleBlock {
    pub fn new(config: &FluxConfig, weights: &Weights) -> Result<Self> {
        let (d, wide, head) = (config.hidden_size, config.mlp_width(), config.head_width());
        Ok(Self {
            modulation: Modulation::new(&weights.pp("modulation"), "lin", d, 3)?,
            linear1: weights.linear("linear1", d, 3 * d + wide, Bias::With)?,
            linear2: weights.linear("linear2", d + wide, d, Bias::With)?,
            query_scale: weights.param("norm.query_norm.scale", &[head], Init::Ones)?,
            key_scale: weights.param("norm.key_norm.scale", &[head], Init::Ones)?,
            width: d,
        })
    }

    /// The rows of `linear1` for q, k, v and for the feed-forward, with their biases.
    fn first_parts(&self) -> Result<[(Values, Option<Tensor>); 2]> {
        let weight = &self.linear1.weight.value;
        let cut = 3 * self.width;
        let part = |from: usize, n: usize| -> Result<(Values, Option<Tensor>)> {
            let bias = self.linear1.bias.as_ref().map(|bias| bias.value.narrow(0, from, n)).transpose()?;
            Ok((weight.narrow(0, from, n)?, bias))
        };
        Ok([part(0, cut)?, part(cut, weight.dims2()?.0 - cut)?])
    }

    /// The columns of `linear2` for the attention output and for the feed-forward.
    fn second_parts(&self) -> Result<(Values, Values)> {
        let weight = &self.linear2.weight.value;
        Ok((weight.narrow(1, 0, self.width)?, weight.narrow(1, self.width, weight.dims2()?.1 - self.width)?))
    }

    fn stream<'a>(&'a self, qkv: &'a Tensor) -> Stream<'a> {
        Stream { qkv, query_scale: &self.query_scale.value, key_scale: &self.key_scale.value }
    }

    /// `x` `[B, T, D]` to the same shape.
    pub fn forward(&self, x: &Tensor, conditioning: &Conditioning, rotation: &Rotation) -> Result<(Tensor, SingleSaved)> {
        let parts = self.modulation.forward(conditioning)?;
        let normed = modulated_norm(x, &parts[0], &parts[1])?;
        let [(qkv_weight, qkv_bias), (wide_weight, wide_bias)] = self.first_parts()?;
        let qkv = linear(&normed, &qkv_weight, qkv_bias.as_ref())?;
        let wide = linear(&normed, &wide_weight, wide_bias.as_ref())?;
        let (q, k, v) = qkv_norm_rope(&[self.stream(&qkv)], rotation)?;
        let (mixed, attention) = attention(&q, &k, &v, None, heads_scale(&q)?)?;
        let mixed = mixed.flatten_from(2)?;
        let active = gelu(&wide)?;
        let (from_mixed, from_active) = self.second_parts()?;
        let bias = self.linear2.bias.as_ref().map(|bias| &bias.value);
        let out = linear_sum(&[(&mixed, &from_mixed), (&active, &from_active)], bias)?;
        let y = gated_residual(x, &parts[2], &out)?;
        Ok((y, SingleSaved { x: x.clone(), parts, normed, qkv, q, k, v, attention, mixed, wide, active, out }))
    }

    /// Gradient of the input from `dy` `[B, T, D]`. What was saved is freed as soon as it has been used.
    pub fn vjp(
        &self,
        saved: SingleSaved,
        (conditioning, rotation): (&Conditioning, &Rotation),
        dy: &Tensor,
        gradients: &mut Gradients,
        d_vector: &mut ConditioningGradient,
    ) -> Result<Tensor> {
        let SingleSaved { x, parts, normed, qkv, q, k, v, attention, mixed, wide, active, out } = saved;
        let (d_gate, d_out) = gated_residual_vjp(&parts[2], &out, dy)?;
        drop(out);
        self.linear2.weight.add_gradient(gradients, || {
            let parts = [linear_weight_vjp(&mixed, &d_out)?, linear_weight_vjp(&active, &d_out)?];
            Ok(Tensor::cat(&parts, 1)?.contiguous()?)
        })?;
        drop((mixed, active));
        let (from_mixed, from_active) = self.second_parts()?;
        let d_wide = gelu_vjp(&wide, &linear_input_vjp(&d_out, &from_active)?)?;
        drop(wide);
        let d_mixed = linear_input_vjp(&d_out, &from_mixed)?.reshape(q.shape())?;
        let AttentionGradients { dq, dk, dv, .. } =
            attention_vjp(&attention, (&q, &k, &v), heads_scale(&q)?, &d_mixed, BiasGradient::Skip)?;
        drop((q, k, v, attention, d_mixed));
        let StreamGradients { dqkv, dquery_scale, dkey_scale } =
            qkv_norm_rope_vjp(&[self.stream(&qkv)], rotation, (&dq, &dk, &dv))?.remove(0);
        drop((qkv, dq, dk, dv));

        self.linear1.weight.add_gradient(gradients, || {
            let parts = [linear_weight_vjp(&normed, &dqkv)?, linear_weight_vjp(&normed, &d_wide)?];
            Ok(Tensor::cat(&parts, 0)?)
        })?;
        drop(normed);
        if let (Some(bias1), Some(bias2)) = (&self.linear1.bias, &self.linear2.bias) {
            gradients.add(bias2, || column_sums(&d_out))?;
            gradients.add(bias1, || Ok(Tensor::cat(&[column_sums(&dqkv)?, column_sums(&d_wide)?], 0)?))?;
        }
        gradients.add(&self.query_scale, || Ok(dquery_scale))?;
        gradients.add(&self.key_scale, || Ok(dkey_scale))?;

        let [(qkv_weight, _), (wide_weight, _)] = self.first_parts()?;
        let d_normed = linear_input_vjp_sum(&[(&dqkv, &qkv_weight), (&d_wide, &wide_weight)])?;
        drop((dqkv, d_wide, d_out));
        let (dx, d_shift, d_scale) = modulated_norm_vjp(&x, &parts[1], &d_normed)?;
        self.modulation.vjp(conditioning, &[d_shift, d_scale, d_gate], gradients, d_vector)?;
        add(dy, &dx)
    }
}

impl Parameters for SingleBlock {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.modulation.visit(visitor);
        self.linear1.visit(visitor);
        self.linear2.visit(visitor);
        visitor(&self.query_scale);
        visitor(&self.key_scale);
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.modulation.visit_mut(visitor);
        self.linear1.visit_mut(visitor);
        self.linear2.visit_mut(visitor);
        visitor(&mut self.query_scale);
        visitor(&mut self.key_scale);
    }
}
