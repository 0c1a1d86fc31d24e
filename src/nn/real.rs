//! The two number types of the kernels, and how a kernel reaches the numbers of a tensor.
//!
//! f32 is what networks run in; f64 is the same code for gradient checks. Transcendental functions of f32 are written so
//! that the compiler can vectorise them; those of f64 are the exact ones of the standard library.

use std::marker::PhantomData;
use std::ops::{Add, AddAssign, Deref, Div, Mul, MulAssign, Neg, Range, Sub, SubAssign};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{CpuStorage, Shape, Storage, Tensor, WithDType};
use pulp::WithSimd;

use super::cpu::stored::Stored;
use super::cpu::vector::Vector;
use crate::error::{Error, Result};

/// f32 or f64.
pub trait Real:
    WithDType
    + Vector
    + Stored<Self>
    + Copy
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    /// The nearest number of this type.
    fn of(value: f64) -> Self;
    /// eˣ.
    fn exponential(self) -> Self;
    /// √x.
    fn root(self) -> Self;
    /// The larger of two numbers, neither being NaN.
    fn larger(self, other: Self) -> Self;
    /// Whether the number is neither infinite nor NaN.
    fn finite(self) -> bool;

    /// Logistic function 1 / (1 + e⁻ˣ).
    #[inline(always)]
    fn logistic(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exponential())
    }
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }
    /// Relative error below 2e-7 on [-87, 88]; arguments outside are clamped to it.
    #[inline(always)]
    fn exponential(self) -> Self {
        // x = n·ln 2 + r with |r| ≤ ln 2 / 2; the addition of 1.5·2²³ rounds to the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        let x = if self < -87.0 { -87.0 } else { self };
        let x = if x > 88.0 { 88.0 } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        // ln 2 in two parts, the first with trailing zeros so that n times it is exact.
        let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
        // Taylor series to r⁶: the first dropped term is below 1.2e-7 at |r| = 0.35.
        let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
        let exponent = (shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127)) << 23;
        p * f32::from_bits(exponent)
    }
    #[inline(always)]
    fn root(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn exponential(self) -> Self {
        self.exp()
    }
    #[inline(always)]
    fn root(self) -> Self {
        self.sqrt()
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        self.max(other)
    }
    #[inline(always)]
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// Whether kernels run as compiled for the baseline of the target.
static BASELINE: AtomicBool = AtomicBool::new(false);

/// Makes every kernel of this process run as compiled for the target's baseline (SSE2 on x86-64), or for the machine's best
/// instruction set again. The numbers are the same to the bit: the order of every sum is in the source, and products and
/// sums are never contracted.
pub fn use_baseline(baseline: bool) {
    BASELINE.store(baseline, Ordering::Relaxed);
}

/// Runs a kernel compiled for the best instruction set of this machine (AVX-512, AVX2 + FMA, or the baseline).
#[inline]
pub fn vectorised<R>(kernel: impl FnOnce() -> R) -> R {
    if BASELINE.load(Ordering::Relaxed) { kernel() } else { pulp::Arch::new().dispatch(kernel) }
}

/// Runs a kernel that names its registers, with the best instruction set of this machine or one lane a register.
#[inline]
pub fn dispatch<K: WithSimd>(kernel: K) -> K::Output {
    if BASELINE.load(Ordering::Relaxed) { kernel.with_simd(pulp::Scalar) } else { pulp::Arch::new().dispatch(kernel) }
}

/// The numbers of a contiguous CPU tensor, as a slice; `G` keeps its storage borrowed.
pub struct Numbers<G, T> {
    storage: G,
    range: Range<usize>,
    kind: PhantomData<T>,
}

/// Borrows the numbers of a tensor; kernels do it by [`numbers!`](crate::numbers!).
///
/// # Errors
/// A tensor on another device, of another type than `T`, or not contiguous.
pub fn numbers<T: Real>(tensor: &Tensor) -> Result<Numbers<impl Deref<Target = Storage> + '_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Invalid(format!("a kernel got a tensor of shape {:?} that is not contiguous", tensor.dims())));
    };
    cpu_slice::<T>(&storage)?;
    Ok(Numbers { storage, range: start..end, kind: PhantomData })
}

impl<G: Deref<Target = Storage>, T: Real> Deref for Numbers<G, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &cpu_slice::<T>(&self.storage).expect("device and type were checked when the tensor was borrowed")[self.range.clone()]
    }
}

/// Binds slices of tensors: `numbers!(T: x, w = weight)` makes `x` the numbers of the tensor `x`, `w` those of `weight`.
/// To be used where `?` can return the error of [`numbers()`].
#[macro_export]
macro_rules! numbers {
    (@one $T:ty, $name:ident) => {
        $crate::numbers!(@one $T, $name = $name)
    };
    (@one $T:ty, $name:ident = $tensor:expr) => {
        let $name = $crate::nn::real::numbers::<$T>($tensor)?;
        let $name: &[$T] = &$name;
    };
    ($T:ty: $($name:ident $(= $tensor:expr)?),+) => {
        $($crate::numbers!(@one $T, $name $(= $tensor)?);)+
    };
}

/// Calls `kernel` with the numbers of a matrix that may be a view, its row stride and its column stride.
pub fn with_matrix<T: WithDType, R>(tensor: &Tensor, kernel: impl FnOnce(&[T], usize, usize) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let &[row_stride, column_stride] = layout.stride() else {
        return Err(Error::Invalid(format!("expected a matrix, got shape {:?}", tensor.dims())));
    };
    Ok(kernel(&cpu_slice::<T>(&storage)?[layout.start_offset()..], row_stride, column_stride))
}

fn cpu_slice<T: WithDType>(storage: &Storage) -> Result<&[T]> {
    match storage {
        Storage::Cpu(storage) => Ok(CpuStorage::as_slice::<T>(storage)?),
        _ => Err(Error::Invalid("this build has CPU kernels only; move the network to the CPU".into())),
    }
}

/// A tensor from the numbers a kernel wrote.
pub fn tensor<T: Real>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &candle_core::Device::Cpu)?)
}

/// Runs `$body` with `$T` naming the number type of a tensor; other types are an error.
#[macro_export]
macro_rules! by_real {
    ($tensor:expr, $T:ident => $body:expr) => {
        match $tensor.dtype() {
            candle_core::DType::F32 => {
                type $T = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err($crate::error::Error::Invalid(format!("no kernel for numbers of type {other:?}"))),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn kernels_use_the_registers_this_machine_has() {
        struct Lanes;
        impl WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        let expected = if is_x86_feature_detected!("avx512f") {
            16
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            8
        } else {
            1
        };
        assert_eq!(pulp::Arch::new().dispatch(Lanes), expected);
    }

    #[test]
    fn the_f32_exponential_is_within_two_units_in_the_last_place_nearly_everywhere() {
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let relative = (f64::from(x.exponential()) - exact).abs() / exact;
            assert!(relative < 3e-7, "exp({x}): relative error {relative}");
        }
        assert!((-1e30f32).exponential() < 1e-37 && 1e30f32.exponential().is_finite());
    }
}
