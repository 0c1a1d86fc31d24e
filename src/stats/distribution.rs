//! Distribution functions of the normal, Student's t, the noncentral t and the binomial distribution, accurate to about
//! 1e-12 in value and, in the tails, in proportion to it.

use std::f64::consts::TAU;

/// Quantile of the standard normal distribution by bisection of [`normal_probability`], `p` in (0, 1).
pub fn normal_quantile(p: f64) -> f64 {
    bisect(-40.0, 40.0, |x| normal_probability(x) < p)
}

/// Distribution function of the standard normal distribution, by its series (|x| < 3) or its continued fraction.
pub fn normal_probability(x: f64) -> f64 {
    let density = (-0.5 * x * x).exp() / TAU.sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum, mut k) = (x, x, 1.0);
        while f64::abs(term) > 1e-17 * f64::abs(sum) {
            k += 2.0;
            term *= x * x / k;
            sum += term;
        }
        return 0.5 + density * sum;
    }
    // Sixty terms leave an error of e^-65 at 3 and less beyond.
    let tail = density / (1..60).rev().fold(x.abs(), |fraction, k| x.abs() + f64::from(k) / fraction);
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Distribution function of Student's t with `degrees` > 0 of freedom; ten digits up to a million degrees.
pub fn t_probability(t: f64, degrees: f64) -> f64 {
    if t.is_infinite() {
        return if t > 0.0 { 1.0 } else { 0.0 };
    }
    let tail = 0.5 * incomplete_beta(degrees / 2.0, 0.5, degrees / (degrees + t * t));
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// Quantile of Student's t, `p` in (0, 1).
pub fn t_quantile(p: f64, degrees: f64) -> f64 {
    // The tails are found on the lower side, where the probabilities keep their digits.
    if p > 0.5 {
        return -t_quantile(1.0 - p, degrees);
    }
    let mut low = -2.0;
    while t_probability(low, degrees) > p && low > -1e300 {
        low *= 2.0;
    }
    bisect(low, 0.0, |t| t_probability(t, degrees) < p)
}

/// Distribution function of the noncentral t distribution (Lenth 1989, algorithm AS 243): the probability that a t statistic
/// with `degrees` of freedom whose mean is `shift` standard errors lies below `t`. For |shift| up to 37.
pub fn noncentral_t_probability(t: f64, degrees: f64, shift: f64) -> f64 {
    if t < 0.0 {
        return 1.0 - noncentral_t_probability(-t, degrees, -shift);
    }
    let x = t * t / (t * t + degrees);
    let half = 0.5 * shift * shift;
    // Poisson weights of the even and the odd terms: e^-λ λ^j / j! and its half-integer sister.
    let mut even = (-half).exp();
    let mut odd = shift / std::f64::consts::SQRT_2 * (-half - ln_gamma(1.5)).exp();
    let mut sum = 0.0;
    for j in 0..10_000 {
        let j = f64::from(j);
        let (a, b) = (incomplete_beta(j + 0.5, degrees / 2.0, x), incomplete_beta(j + 1.0, degrees / 2.0, x));
        sum += even * a + odd * b;
        // Past the peak of the weights the rest of the series is at most the last terms, over and over.
        if j > half && (even + odd.abs()) * a < 1e-17 {
            break;
        }
        even *= half / (j + 1.0);
        odd *= half / (j + 1.5);
    }
    (normal_probability(-shift) + 0.5 * sum).clamp(0.0, 1.0)
}

/// Probability of at most `k` successes in `n` trials of probability one half.
pub fn fair_binomial_probability(k: u64, n: u64) -> f64 {
    if k >= n {
        return 1.0;
    }
    // P(X ≤ k) = I_{1/2}(n − k, k + 1).
    incomplete_beta((n - k) as f64, (k + 1) as f64, 0.5)
}

/// Probability of exactly `k` successes in `n` trials of probability one half.
pub fn fair_binomial_mass(k: u64, n: u64) -> f64 {
    // 1 / ((n + 1) B(k + 1, n − k + 1)) is the binomial coefficient.
    let (k, n) = (k as f64, n as f64);
    (-(n + 1.0).ln() - ln_beta(k + 1.0, n - k + 1.0) - n * 2f64.ln()).exp()
}

/// Probability that a χ² variable of one degree of freedom exceeds `x` ≥ 0.
pub fn chi_square_tail(x: f64) -> f64 {
    2.0 * normal_probability(-x.sqrt())
}

/// Natural logarithm of the gamma function for x > 0: Stirling's series after shifting the argument above 15.
pub fn ln_gamma(x: f64) -> f64 {
    let mut product = 1.0;
    let mut x = x;
    while x < STIRLING {
        product *= x;
        x += 1.0;
    }
    (x - 0.5) * x.ln() - x + 0.5 * TAU.ln() + stirling_correction(x) - product.ln()
}

/// Where Stirling's series with seven terms is exact to rounding.
const STIRLING: f64 = 15.0;

/// Bernoulli numbers B₂ₖ / (2k (2k − 1)) times x^(1 − 2k).
fn stirling_correction(x: f64) -> f64 {
    let square = 1.0 / (x * x);
    let series = [1.0 / 12.0, -1.0 / 360.0, 1.0 / 1260.0, -1.0 / 1680.0, 1.0 / 1188.0, -691.0 / 360_360.0, 1.0 / 156.0];
    series.iter().rev().fold(0.0, |sum, coefficient| sum * square + coefficient) / x
}

/// Natural logarithm of the beta function. With a large argument two large logarithms would cancel; their difference is
/// taken term by term.
fn ln_beta(a: f64, b: f64) -> f64 {
    let (large, small) = if a > b { (a, b) } else { (b, a) };
    if large < STIRLING {
        return ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    }
    let sum = large + small;
    let gained = small * sum.ln() + (large - 0.5) * (small / large).ln_1p() - small + stirling_correction(sum) - stirling_correction(large);
    ln_gamma(small) - gained
}

/// Regularised incomplete beta function I_x(a, b), a and b > 0, by its continued fraction (Lentz's method).
pub fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast on one side of the mean only; the other side is its mirror.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (a * x.ln() + b * (-x).ln_1p() - ln_beta(a, b)).exp() / a;
    let tiny = 1e-300;
    let away = |v: f64| if v.abs() < tiny { tiny } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / away(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for m in 1..10_000 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut step = 1.0;
        for term in [even, odd] {
            d = 1.0 / away(1.0 + term * d);
            c = away(1.0 + term / c);
            step = c * d;
            fraction *= step;
        }
        if (step - 1.0).abs() <= f64::EPSILON {
            break;
        }
    }
    front * fraction
}

/// The point in `[low, high]` where `below` turns from true to false.
pub fn bisect(mut low: f64, mut high: f64, below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if below(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn normal_quantiles_are_the_tabulated_ones() {
        for (p, expected) in [(0.975, 1.959963984540), (0.5, 0.0), (0.0013498980316301, -3.0), (1e-12, -7.034483825301)] {
            assert!((normal_quantile(p) - expected).abs() < 1e-9, "{p}: {}", normal_quantile(p));
        }
    }

    #[test]
    fn t_with_one_and_two_degrees_has_its_closed_forms() {
        for t in [-30.0, -2.5, -0.1, 0.0, 0.7, 4.0] {
            let cauchy = 0.5 + f64::atan(t) / PI;
            let two = 0.5 + t / (2.0 * f64::sqrt(2.0 + t * t));
            assert!((t_probability(t, 1.0) - cauchy).abs() < 1e-14, "{t}");
            assert!((t_probability(t, 2.0) - two).abs() < 1e-14, "{t}");
            assert!((noncentral_t_probability(t, 2.0, 0.0) - two).abs() < 1e-14, "{t}");
        }
        assert!((t_quantile(0.975, 1.0) - (0.475 * PI).tan()).abs() < 1e-9);
        // The first term of the expansion in 1 / degrees.
        let z = 1.959963984540f64;
        let near_normal = z + (z.powi(3) + z) / 4e6;
        assert!((t_quantile(0.975, 1e6) - near_normal).abs() < 1e-9, "{}", t_quantile(0.975, 1e6));
    }

    #[test]
    fn gamma_and_binomial_are_those_of_whole_numbers() {
        let factorial: f64 = (1..=20).map(f64::from).product();
        assert!((ln_gamma(21.0) - factorial.ln()).abs() < 1e-13 && ln_gamma(1.0).abs() < 1e-14);
        assert!((ln_gamma(0.5) - PI.sqrt().ln()).abs() < 1e-14);
        assert!((fair_binomial_probability(1, 4) - 5.0 / 16.0).abs() < 1e-15);
        assert!((fair_binomial_mass(2, 4) - 6.0 / 16.0).abs() < 1e-14);
        assert!(fair_binomial_probability(4, 4) == 1.0 && fair_binomial_probability(0, 0) == 1.0);
        assert!((chi_square_tail(3.841458820694124) - 0.05).abs() < 1e-13);
    }
}
