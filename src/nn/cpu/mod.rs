//! CPU kernels that need raw pointers; everything else in `nn` is safe code.

pub mod gemm;
