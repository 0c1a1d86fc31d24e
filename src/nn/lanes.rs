//! Sums and maxima over a row in sixteen independent partial results: floating-point addition may not be reordered by the
//! compiler, so a plain loop waits for every single addition. The order is fixed by the length alone, hence the same
//! numbers on every machine and for every thread count.

use super::real::Real;

/// Partial results: enough for two AVX-512 or four AVX2 registers of f32.
const LANES: usize = 16;

/// x.
#[inline(always)]
pub fn identity<T: Real>(x: T) -> T {
    x
}

/// x².
#[inline(always)]
pub fn square<T: Real>(x: T) -> T {
    x * x
}

/// x y.
#[inline(always)]
pub fn product<T: Real>(x: T, y: T) -> T {
    x * y
}

/// x y z.
#[inline(always)]
pub fn product_of_three<T: Real>(x: T, y: T, z: T) -> T {
    x * y * z
}

/// Σ f(aᵢ), in the number type that `f` returns.
#[inline(always)]
pub fn sum_of<T: Real, A: Real>(a: &[T], f: impl Fn(T) -> A) -> A {
    let mut lanes = [A::ZERO; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] += f(chunk[j]);
        }
    }
    let mut tail = A::ZERO;
    for &x in rest {
        tail += f(x);
    }
    fold(lanes) + tail
}

/// Σ f(aᵢ, bᵢ) over equally long slices.
#[inline(always)]
pub fn sum_of_two<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    assert_eq!(a.len(), b.len(), "rows differ in length");
    let mut lanes = [T::ZERO; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for j in 0..LANES {
            lanes[j] += f(a[j], b[j]);
        }
    }
    let mut tail = T::ZERO;
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        tail += f(a, b);
    }
    fold(lanes) + tail
}

/// Σ f(aᵢ, bᵢ, cᵢ) over equally long slices.
#[inline(always)]
pub fn sum_of_three<T: Real>(a: &[T], b: &[T], c: &[T], f: impl Fn(T, T, T) -> T) -> T {
    assert!(a.len() == b.len() && a.len() == c.len(), "rows differ in length");
    let mut lanes = [T::ZERO; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for j in 0..LANES {
            lanes[j] += f(a[j], b[j], c[j]);
        }
    }
    let mut tail = T::ZERO;
    for ((&a, &b), &c) in a_rest.iter().zip(b_rest).zip(c_rest) {
        tail += f(a, b, c);
    }
    fold(lanes) + tail
}

/// The largest value; `a` must not be empty.
#[inline(always)]
pub fn largest<T: Real>(a: &[T]) -> T {
    let mut lanes = [a[0]; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] = lanes[j].larger(chunk[j]);
        }
    }
    let mut all = lanes[0];
    for &x in lanes.iter().chain(rest) {
        all = all.larger(x);
    }
    all
}

/// Adds the partial sums pairwise.
#[inline(always)]
fn fold<T: Real>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for j in 0..half {
            let other = lanes[j + half];
            lanes[j] += other;
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_of_integers_are_exact_at_every_length() {
        for n in 1..70usize {
            let a: Vec<f32> = (0..n).map(|i| ((i * 37) % 23) as f32 - 11.0).collect();
            let b: Vec<f32> = (0..n).map(|i| ((i * 17) % 13) as f32).collect();
            assert_eq!(sum_of(&a, identity), a.iter().sum::<f32>());
            assert_eq!(sum_of_two(&a, &b, product), a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>());
            assert_eq!(sum_of_three(&a, &b, &a, |x, y, z| x * y - z), (0..n).map(|i| a[i] * b[i] - a[i]).sum::<f32>());
            assert_eq!(largest(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
