//! CPU kernels that need raw pointers; everything else in `nn` is safe code.

pub mod gemm;
pub mod output;
mod pack;
pub mod stored;
mod tile;
pub mod vector;
