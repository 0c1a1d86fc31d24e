//! The two number types as lanes of a vector register, for kernels that hold registers by name.

use std::cell::Cell;
use std::thread::LocalKey;

use pulp::Simd;

/// A number type with its register.
pub trait Vector: Copy + 'static {
    /// Columns of a packed panel: two registers of AVX-512, four of AVX2.
    const PANEL: usize;
    /// A register of this instruction set.
    type Register<S: Simd>: Copy;

    /// All lanes equal.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Register<S>;
    /// a · b + c, rounded once.
    fn times_plus<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>, c: Self::Register<S>) -> Self::Register<S>;
    /// a · b.
    fn times<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// a + b.
    fn plus<S: Simd>(simd: S, a: Self::Register<S>, b: Self::Register<S>) -> Self::Register<S>;
    /// This thread's buffer for packed operands, kept between products.
    fn scratch() -> &'static LocalKey<Cell<Vec<Self>>>;
    /// Lanes of a register.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Register<S>>() / size_of::<Self>()
    }
}

macro_rules! vector {
    ($number:ty, $panel:expr, $register:ident, $splat:ident, $mul_add:ident, $mul:ident, $add:ident) => {
        impl Vector for $number {
            const PANEL: usize = $panel;
            type Register<S: Simd> = S::$register;
            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$register {
                simd.$splat(value)
            }
            #[inline(always)]
            fn times_plus<S: Simd>(simd: S, a: S::$register, b: S::$register, c: S::$register) -> S::$register {
                simd.$mul_add(a, b, c)
            }
            #[inline(always)]
            fn times<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
                simd.$mul(a, b)
            }
            #[inline(always)]
            fn plus<S: Simd>(simd: S, a: S::$register, b: S::$register) -> S::$register {
                simd.$add(a, b)
            }
            fn scratch() -> &'static LocalKey<Cell<Vec<Self>>> {
                thread_local!(static SCRATCH: Cell<Vec<$number>> = const { Cell::new(Vec::new()) });
                &SCRATCH
            }
        }
    };
}

vector!(f32, 32, f32s, splat_f32s, mul_add_f32s, mul_f32s, add_f32s);
vector!(f64, 16, f64s, splat_f64s, mul_add_f64s, mul_f64s, add_f64s);
