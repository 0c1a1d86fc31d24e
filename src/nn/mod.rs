//! Differentiable building blocks as explicit pairs `forward(x) -> y` and `vjp(saved, dy) -> dx`; no autograd graph.
//!
//! Every step between two matrix products is one kernel, generic over f32 and f64, deterministic for any thread count.

pub mod activation;
pub mod attention;
pub mod average;
pub mod cpu;
pub mod cross_entropy;
pub mod embedding;
pub mod finite;
pub mod lanes;
pub mod linear;
pub mod norm;
pub mod optim;
pub mod param;
pub mod quantised;
pub mod real;
pub mod residual;
pub mod rope;
pub mod weight;
