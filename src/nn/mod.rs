//! Differentiable building blocks as explicit forward/vjp pairs on tensors; no autograd graph.

pub mod cpu;
pub mod optim;
pub mod param;
pub mod real;
