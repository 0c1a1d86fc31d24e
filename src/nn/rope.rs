//! Query/key norm, rotary embedding and joining of text and image tokens in one pass, as Flux's blocks need it.

use candle_core::Tensor;
use rayon::prelude::*;

use super::cpu::output::unwritten;
use super::norm::{inverse_rms, rms_norm_vjp_row};
use super::real::{Real, tensor, vectorised};
use crate::error::{Error, Result};
use crate::{by_real, numbers};

/// Epsilon of the query and key norms (flux@802fb47 src/flux/modules/layers.py).
const QK_NORM_EPSILON: f64 = 1e-6;

/// Cosines and sines of the rotary embedding, `[T, D/2]` each, for T tokens and head width D.
#[derive(Debug, Clone)]
pub struct Rotation {
    pub cos: Tensor,
    pub sin: Tensor,
}

/// A position on an axis with the cosine and sine of each of its angles.
type Turned<T> = (f64, Vec<(T, T)>);

impl Rotation {
    /// Angles for token positions `[T][axis]`; axis `i` owns `axes[i]` of the head width (flux@802fb47 src/flux/math.py).
    pub fn new<T: Real>(positions: &[Vec<f64>], axes: &[usize], theta: f64) -> Result<Self> {
        // Few positions differ on an axis: every angle is turned into a cosine and a sine once.
        let mut seen: Vec<Vec<Turned<T>>> = vec![Vec::new(); axes.len()];
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for ((&p, &width), seen) in position.iter().zip(axes).zip(&mut seen) {
                let found = seen.iter().position(|(known, _)| *known == p).unwrap_or_else(|| {
                    let angle = |i: usize| p / theta.powf(2.0 * i as f64 / width as f64);
                    seen.push((p, (0..width / 2).map(angle).map(|a| (T::of(a.cos()), T::of(a.sin()))).collect()));
                    seen.len() - 1
                });
                for &(c, s) in &seen[found].1 {
                    cos.push(c);
                    sin.push(s);
                }
            }
        }
        let shape = (positions.len(), axes.iter().sum::<usize>() / 2);
        Ok(Self { cos: tensor(cos, shape)?, sin: tensor(sin, shape)? })
    }
}

/// One stream of tokens: its fused projections and its norm weights.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    /// `[B, L, 3·H·D]`: queries, keys, values.
    pub qkv: &'a Tensor,
    /// `[D]`.
    pub query_scale: &'a Tensor,
    /// `[D]`.
    pub key_scale: &'a Tensor,
}

/// Sizes of one stream inside the joint sequence.
#[derive(Clone, Copy)]
struct Place {
    l: usize,
    h: usize,
    d: usize,
    offset: usize,
    total: usize,
}

fn places(streams: &[Stream]) -> Result<(usize, Vec<Place>)> {
    let first = streams.first().ok_or_else(|| Error::Invalid("attention without tokens".into()))?;
    let (b, d) = (first.qkv.dim(0)?, first.query_scale.dim(0)?);
    let total = streams.iter().map(|stream| stream.qkv.dim(1)).sum::<candle_core::Result<usize>>()?;
    let mut offset = 0;
    let mut all = Vec::new();
    for stream in streams {
        let (_, l, width) = stream.qkv.dims3()?;
        all.push(Place { l, h: width / (3 * d), d, offset, total });
        offset += l;
    }
    Ok((b, all))
}

/// Joint queries, keys and values `[B, T, H, D]` of all streams in order: q and k normed, scaled and rotated.
pub fn qkv_norm_rope(streams: &[Stream], rotation: &Rotation) -> Result<(Tensor, Tensor, Tensor)> {
    let (b, places) = places(streams)?;
    let Place { h, d, total, .. } = places[0];
    by_real!(streams[0].qkv, T => {
        let per = total * h * d;
        let (mut q, mut k, mut v) = (unwritten::<T>(b * per), unwritten::<T>(b * per), unwritten::<T>(b * per));
        for (stream, &place) in streams.iter().zip(&places) {
            numbers!(T: qkv = stream.qkv, q_scale = stream.query_scale, k_scale = stream.key_scale);
            numbers!(T: cos = &rotation.cos, sin = &rotation.sin);
            let outputs = q.par_chunks_mut(per).zip(k.par_chunks_mut(per)).zip(v.par_chunks_mut(per));
            outputs.zip(qkv.par_chunks(place.l * 3 * h * d)).for_each(|(((q, k), v), qkv)| vectorised(#[inline(always)] || {
                for token in 0..place.l {
                    let at = place.offset + token;
                    let (cos, sin) = (&cos[at * d / 2..][..d / 2], &sin[at * d / 2..][..d / 2]);
                    let row = &qkv[token * 3 * h * d..][..3 * h * d];
                    for head in 0..h {
                        let out = (at * h + head) * d..(at * h + head + 1) * d;
                        norm_rotate(&row[head * d..][..d], q_scale, cos, sin, &mut q[out.clone()]);
                        norm_rotate(&row[(h + head) * d..][..d], k_scale, cos, sin, &mut k[out.clone()]);
                        v[out].copy_from_slice(&row[(2 * h + head) * d..][..d]);
                    }
                }
            }));
        }
        let shape = (b, total, h, d);
        Ok((tensor(q, shape)?, tensor(k, shape)?, tensor(v, shape)?))
    })
}

#[inline(always)]
fn norm_rotate<T: Real>(x: &[T], scale: &[T], cos: &[T], sin: &[T], out: &mut [T]) {
    let inverse = inverse_rms(x, QK_NORM_EPSILON);
    // Pairs of known length, so that the loop has no bounds to check and is vectorised.
    let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(x.as_chunks::<2>().0).zip(scale.as_chunks::<2>().0);
    for (((out, x), scale), (&cos, &sin)) in pairs.zip(cos.iter().zip(sin)) {
        let (a, b) = (x[0] * inverse * scale[0], x[1] * inverse * scale[1]);
        *out = [cos * a - sin * b, sin * a + cos * b];
    }
}

/// Gradients of one stream.
pub struct StreamGradients {
    /// `[B, L, 3·H·D]`.
    pub dqkv: Tensor,
    /// `[D]`.
    pub dquery_scale: Tensor,
    /// `[D]`.
    pub dkey_scale: Tensor,
}

/// Backward of [`qkv_norm_rope`] from the joint gradients `[B, T, H, D]`, one result per stream.
pub fn qkv_norm_rope_vjp(
    streams: &[Stream],
    rotation: &Rotation,
    (dq, dk, dv): (&Tensor, &Tensor, &Tensor),
) -> Result<Vec<StreamGradients>> {
    let (b, places) = places(streams)?;
    by_real!(streams[0].qkv, T => {
        let mut all = Vec::new();
        for (stream, &place) in streams.iter().zip(&places) {
            let Place { l, h, d, total, .. } = place;
            let width = 3 * h * d;
            let mut dqkv = unwritten::<T>(b * l * width);
            let mut dscales = vec![T::ZERO; b * 2 * d];
            {
                numbers!(T: dq, dk, dv);
                numbers!(T: qkv = stream.qkv, q_scale = stream.query_scale, k_scale = stream.key_scale);
                numbers!(T: cos = &rotation.cos, sin = &rotation.sin);
                let outputs = dqkv.par_chunks_mut(l * width).zip(dscales.par_chunks_mut(2 * d)).zip(qkv.par_chunks(l * width));
                outputs.enumerate().for_each(|(i, ((dqkv, dscales), qkv))| vectorised(#[inline(always)] || {
                    let (dq_scale, dk_scale) = dscales.split_at_mut(d);
                    let mut unrotated = vec![T::ZERO; d];
                    for token in 0..l {
                        let at = place.offset + token;
                        let (cos, sin) = (&cos[at * d / 2..][..d / 2], &sin[at * d / 2..][..d / 2]);
                        let (row, drow) = (&qkv[token * width..][..width], &mut dqkv[token * width..][..width]);
                        for head in 0..h {
                            let from = ((i * total + at) * h + head) * d;
                            let (q_at, k_at) = (head * d, (h + head) * d);
                            unrotate(&dq[from..from + d], cos, sin, &mut unrotated);
                            rms_norm_vjp_row(&row[q_at..][..d], q_scale, QK_NORM_EPSILON, &unrotated, &mut drow[q_at..][..d], dq_scale);
                            unrotate(&dk[from..from + d], cos, sin, &mut unrotated);
                            rms_norm_vjp_row(&row[k_at..][..d], k_scale, QK_NORM_EPSILON, &unrotated, &mut drow[k_at..][..d], dk_scale);
                            drow[(2 * h + head) * d..][..d].copy_from_slice(&dv[from..from + d]);
                        }
                    }
                }));
            }
            // Batch items are summed in order, so the result does not depend on the thread count.
            let (mut dquery, mut dkey) = (vec![T::ZERO; d], vec![T::ZERO; d]);
            for item in dscales.chunks_exact(2 * d) {
                dquery.iter_mut().zip(&item[..d]).for_each(|(sum, &x)| *sum += x);
                dkey.iter_mut().zip(&item[d..]).for_each(|(sum, &x)| *sum += x);
            }
            all.push(StreamGradients { dqkv: tensor(dqkv, (b, l, width))?, dquery_scale: tensor(dquery, d)?, dkey_scale: tensor(dkey, d)? });
        }
        Ok(all)
    })
}

/// The transposed rotation.
#[inline(always)]
fn unrotate<T: Real>(dy: &[T], cos: &[T], sin: &[T], dx: &mut [T]) {
    for ((dx, dy), (&cos, &sin)) in dx.as_chunks_mut::<2>().0.iter_mut().zip(dy.as_chunks::<2>().0).zip(cos.iter().zip(sin)) {
        *dx = [cos * dy[0] + sin * dy[1], cos * dy[1] - sin * dy[0]];
    }
}
