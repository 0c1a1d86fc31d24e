//! CPU kernels that need raw pointers; everything else in `nn` is safe code.

pub mod gemm;
pub mod output;
mod pack;
mod tile;
pub mod vector;
