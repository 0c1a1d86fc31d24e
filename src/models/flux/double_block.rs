//! Flux's double-stream block: text and image have their own weights and meet in one attention
//! (flux@802fb47 src/flux/modules/layers.py `DoubleStreamBlock`).

use candle_core::Tensor;

use super::conditioning::{Conditioning, ConditioningGradient, Modulation};
use super::{FluxConfig, heads_scale};
use crate::error::{Error, Result};
use crate::models::weights::{Bias, Init, Weights};
use crate::nn::activation::{add, gelu, gelu_vjp};
use crate::nn::attention::{AttentionGradients, AttentionSaved, BiasGradient, attention, attention_vjp};
use crate::nn::linear::Linear;
use crate::nn::norm::{modulated_norm, modulated_norm_vjp};
use crate::nn::param::{Gradients, Param, Parameters};
use crate::nn::residual::{gated_residual, gated_residual_vjp};
use crate::nn::rope::{Rotation, Stream, StreamGradients, qkv_norm_rope, qkv_norm_rope_vjp};

/// Weights of one stream (`img_…` or `txt_…`).
#[derive(Debug, Clone)]
struct StreamWeights {
    modulation: Modulation,
    qkv: Linear,
    query_scale: Param,
    key_scale: Param,
    proj: Linear,
    mlp_in: Linear,
    mlp_out: Linear,
}

/// Saved values of one stream before the attention.
#[derive(Debug, Clone)]
struct BeforeSaved {
    x: Tensor,
    parts: Vec<Tensor>,
    normed: Tensor,
    qkv: Tensor,
}

/// Saved values of one stream after the attention.
#[derive(Debug, Clone)]
struct AfterSaved {
    mixed: Tensor,
    projected: Tensor,
    middle: Tensor,
    normed: Tensor,
    wide: Tensor,
    active: Tensor,
    out: Tensor,
}

impl StreamWeights {
    fn new(config: &FluxConfig, weights: &Weights, name: &str) -> Result<Self> {
        let (d, wide, head) = (config.hidden_size, config.mlp_width(), config.head_width());
        let (attn, mlp) = (weights.pp(format!("{name}_attn")), weights.pp(format!("{name}_mlp")));
        Ok(Self {
            modulation: Modulation::new(&weights.pp(format!("{name}_mod")), "lin", d, 6)?,
            qkv: attn.linear("qkv", d, 3 * d, Bias::With)?,
            query_scale: attn.param("norm.query_norm.scale", &[head], Init::Ones)?,
            key_scale: attn.param("norm.key_norm.scale", &[head], Init::Ones)?,
            proj: attn.linear("proj", d, d, Bias::With)?,
            mlp_in: mlp.linear("0", d, wide, Bias::With)?,
            mlp_out: mlp.linear("2", wide, d, Bias::With)?,
        })
    }

    fn stream<'a>(&'a self, saved: &'a BeforeSaved) -> Stream<'a> {
        Stream { qkv: &saved.qkv, query_scale: &self.query_scale.value, key_scale: &self.key_scale.value }
    }

    fn before(&self, x: &Tensor, conditioning: &Conditioning) -> Result<BeforeSaved> {
        let parts = self.modulation.forward(conditioning)?;
        let normed = modulated_norm(x, &parts[0], &parts[1])?;
        let qkv = self.qkv.forward(&normed)?;
        Ok(BeforeSaved { x: x.clone(), parts, normed, qkv })
    }

    fn after(&self, before: &BeforeSaved, mixed: Tensor) -> Result<(Tensor, AfterSaved)> {
        let parts = &before.parts;
        let projected = self.proj.forward(&mixed)?;
        let middle = gated_residual(&before.x, &parts[2], &projected)?;
        let normed = modulated_norm(&middle, &parts[3], &parts[4])?;
        let wide = self.mlp_in.forward(&normed)?;
        let active = gelu(&wide)?;
        let out = self.mlp_out.forward(&active)?;
        let y = gated_residual(&middle, &parts[5], &out)?;
        Ok((y, AfterSaved { mixed, projected, middle, normed, wide, active, out }))
    }

    /// From `dy` back to the attention output: `(d_mixed, d_x through the residual, gradients of parts 2..6)`. What was
    /// saved is freed as soon as it has been used, so that the peak is little above what the forward pass left.
    fn after_vjp(
        &self,
        before: &BeforeSaved,
        after: AfterSaved,
        dy: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, Tensor, [Tensor; 4])> {
        let parts = &before.parts;
        let AfterSaved { mixed, projected, middle, normed, wide, active, out } = after;
        let (d_gate2, d_out) = gated_residual_vjp(&parts[5], &out, dy)?;
        drop(out);
        let d_active = self.mlp_out.vjp(&active, &d_out, gradients)?;
        drop((active, d_out));
        let d_wide = gelu_vjp(&wide, &d_active)?;
        drop((wide, d_active));
        let d_normed = self.mlp_in.vjp(&normed, &d_wide, gradients)?;
        drop((normed, d_wide));
        let (d_middle, d_shift2, d_scale2) = modulated_norm_vjp(&middle, &parts[4], &d_normed)?;
        let d_middle = add(dy, &d_middle)?;
        drop((middle, d_normed));
        let (d_gate1, d_projected) = gated_residual_vjp(&parts[2], &projected, &d_middle)?;
        drop(projected);
        let d_mixed = self.proj.vjp(&mixed, &d_projected, gradients)?;
        Ok((d_mixed, d_middle, [d_gate1, d_shift2, d_scale2, d_gate2]))
    }

    /// From the gradient of q, k, v back to `x`, adding to the residual's `d_x`.
    fn before_vjp(
        &self,
        before: &BeforeSaved,
        d_stream: StreamGradients,
        d_x: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, [Tensor; 2])> {
        let StreamGradients { dqkv, dquery_scale, dkey_scale } = d_stream;
        gradients.add(&self.query_scale, || Ok(dquery_scale))?;
        gradients.add(&self.key_scale, || Ok(dkey_scale))?;
        let d_normed = self.qkv.vjp(&before.normed, &dqkv, gradients)?;
        drop(dqkv);
        let (dx, d_shift, d_scale) = modulated_norm_vjp(&before.x, &before.parts[1], &d_normed)?;
        Ok((add(d_x, &dx)?, [d_shift, d_scale]))
    }
}

impl Parameters for StreamWeights {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.modulation.visit(visitor);
        self.qkv.visit(visitor);
        visitor(&self.query_scale);
        visitor(&self.key_scale);
        [&self.proj, &self.mlp_in, &self.mlp_out].into_iter().for_each(|linear| linear.visit(visitor));
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.modulation.visit_mut(visitor);
        self.qkv.visit_mut(visitor);
        visitor(&mut self.query_scale);
        visitor(&mut self.key_scale);
        [&mut self.proj, &mut self.mlp_in, &mut self.mlp_out].into_iter().for_each(|linear| linear.visit_mut(visitor));
    }
}

/// One double-stream block.
#[derive(Debug, Clone)]
pub struct DoubleBlock {
    image: StreamWeights,
    text: StreamWeights,
}

/// What [`DoubleBlock::vjp`] needs.
#[derive(Debug, Clone)]
pub struct DoubleSaved {
    text: (BeforeSaved, AfterSaved),
    image: (BeforeSaved, AfterSaved),
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: AttentionSaved,
}

impl DoubleBlock {
    pub fn new(config: &FluxConfig, weights: &Weights) -> Result<Self> {
        Ok(Self { image: StreamWeights::new(config, weights, "img")?, text: StreamWeights::new(config, weights, "txt")? })
    }

    /// `image` `[B, N, D]`, `text` `[B, L, D]` to the same shapes.
    pub fn forward(
        &self,
        image: &Tensor,
        text: &Tensor,
        conditioning: &Conditioning,
        rotation: &Rotation,
    ) -> Result<(Tensor, Tensor, DoubleSaved)> {
        let (l, n) = (text.dim(1)?, image.dim(1)?);
        let text_before = self.text.before(text, conditioning)?;
        let image_before = self.image.before(image, conditioning)?;
        let (q, k, v) = qkv_norm_rope(&[self.text.stream(&text_before), self.image.stream(&image_before)], rotation)?;
        let (mixed, attention) = attention(&q, &k, &v, None, heads_scale(&q)?)?;
        let mixed = mixed.flatten_from(2)?;
        let (text, text_after) = self.text.after(&text_before, mixed.narrow(1, 0, l)?.contiguous()?)?;
        let (image, image_after) = self.image.after(&image_before, mixed.narrow(1, l, n)?.contiguous()?)?;
        let saved = DoubleSaved { text: (text_before, text_after), image: (image_before, image_after), q, k, v, attention };
        Ok((image, text, saved))
    }

    /// `(d_image, d_text)` from the gradients of both outputs.
    pub fn vjp(
        &self,
        saved: DoubleSaved,
        (conditioning, rotation): (&Conditioning, &Rotation),
        (d_image, d_text): (&Tensor, &Tensor),
        gradients: &mut Gradients,
        d_vector: &mut ConditioningGradient,
    ) -> Result<(Tensor, Tensor)> {
        let DoubleSaved { text: (text_before, text_after), image: (image_before, image_after), q, k, v, attention } = saved;
        let (d_text_mixed, d_text, text_late) = self.text.after_vjp(&text_before, text_after, d_text, gradients)?;
        let (d_image_mixed, d_image, image_late) = self.image.after_vjp(&image_before, image_after, d_image, gradients)?;
        let d_mixed = Tensor::cat(&[d_text_mixed, d_image_mixed], 1)?.reshape(q.shape())?;
        let AttentionGradients { dq, dk, dv, .. } =
            attention_vjp(&attention, (&q, &k, &v), heads_scale(&q)?, &d_mixed, BiasGradient::Skip)?;
        drop((q, k, v, attention, d_mixed));
        let streams = [self.text.stream(&text_before), self.image.stream(&image_before)];
        let d_streams = qkv_norm_rope_vjp(&streams, rotation, (&dq, &dk, &dv))?;
        drop((dq, dk, dv));
        let [d_text_stream, d_image_stream] =
            <[StreamGradients; 2]>::try_from(d_streams).map_err(|_| Error::Invalid("two streams have two gradients".into()))?;
        let (d_text, text_early) = self.text.before_vjp(&text_before, d_text_stream, &d_text, gradients)?;
        let (d_image, image_early) = self.image.before_vjp(&image_before, d_image_stream, &d_image, gradients)?;
        for (weights, early, late) in [(&self.text, text_early, text_late), (&self.image, image_early, image_late)] {
            let d_parts: Vec<Tensor> = early.into_iter().chain(late).collect();
            weights.modulation.vjp(conditioning, &d_parts, gradients, d_vector)?;
        }
        Ok((d_image, d_text))
    }
}

impl Parameters for DoubleBlock {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        self.image.visit(visitor);
        self.text.visit(visitor);
    }
    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        self.image.visit_mut(visitor);
        self.text.visit_mut(visitor);
    }
}
