//! Tests that count directions only: the sign test and McNemar's test, which is the sign test on the pairs that differ; and the
//! equivalence of two rates of the same prompts.

use crate::stats::distribution::{fair_binomial_mass, fair_binomial_probability, normal_probability};

/// Exact two-sided p-value of `wins` against `losses` where both are equally likely: twice the smaller tail, at most 1. Ties are
/// left out by the caller. Needs independent units: one per prompt, never one per image.
pub fn sign_test(wins: u64, losses: u64) -> f64 {
    (2.0 * fair_binomial_probability(wins.min(losses), wins + losses)).min(1.0)
}

/// McNemar's exact test of two success rates on the same prompts: `gained` prompts succeed with the first encoder only,
/// `lost` with the second only. Prompts where both agree carry no information about the difference.
pub fn mcnemar_exact(gained: u64, lost: u64) -> f64 {
    sign_test(gained, lost)
}

/// McNemar's test with the mid-p value (Fagerland, Lydersen and Laake 2013): half of the probability of the observed table
/// counts as extreme. The exact test rejects far less often than its level says; this one keeps near it.
pub fn mcnemar_mid_p(gained: u64, lost: u64) -> f64 {
    if gained == lost {
        return 1.0 - 0.5 * fair_binomial_mass(gained, gained + lost);
    }
    let (smaller, n) = (gained.min(lost), gained + lost);
    2.0 * fair_binomial_probability(smaller, n) - fair_binomial_mass(smaller, n)
}

/// Larger p-value of two one-sided score tests (Tango 1998) that two rates of the same `n` prompts differ by less than `margin`, in
/// (0, 1). Its variance is the one that the margin implies, so pairs that never differ do not count as proof: with no discordant
/// pair of 60, a margin of two points is not shown.
pub fn paired_rates_equivalence(gained: u64, lost: u64, n: u64, margin: f64) -> f64 {
    score_above(gained, lost, n, -margin).max(score_above(lost, gained, n, -margin))
}

/// One-sided p-value of the score test: below α, rate(first) − rate(second) lies above `bound`, in (−1, 0).
fn score_above(gained: u64, lost: u64, n: u64, bound: f64) -> f64 {
    let (b, c, n) = (gained as f64, lost as f64, n as f64);
    // The likelihood of `lost` at that difference, b ln(q + bound) + c ln q + (n − b − c) ln(1 − 2q − bound), is largest at the greater
    // root of a quadratic.
    let linear = b * (1.0 + bound) + c * (1.0 - bound) - 2.0 * n * bound;
    let q = (linear + (linear * linear + 8.0 * n * c * bound * (1.0 - bound)).max(0.0).sqrt()) / (4.0 * n);
    let variance = n * (2.0 * q + bound - bound * bound);
    normal_probability(-(b - c - n * bound) / variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_can_be_counted_by_hand() {
        // 1 of 5: (1 + 5) / 32, twice.
        assert!((sign_test(1, 4) - 12.0 / 32.0).abs() < 1e-13);
        assert!((mcnemar_mid_p(1, 4) - (12.0 - 5.0) / 32.0).abs() < 1e-13);
        assert_eq!((sign_test(0, 0), sign_test(3, 3)), (1.0, 1.0));
        // 2 against 2: all tables but half of the observed one, 6 of 16.
        assert!((mcnemar_mid_p(2, 2) - (1.0 - 3.0 / 16.0)).abs() < 1e-13);
        assert!((mcnemar_exact(0, 10) - 2.0 / 1024.0).abs() < 1e-15);
    }

    #[test]
    fn agreement_of_all_prompts_is_no_proof_of_equal_rates() {
        // Without discordant pairs the likelihood puts all of the margin m on losses: z = m n / √(n (m − m²)) = √(n m / (1 − m)).
        let z = (60.0 * 0.02 / 0.98f64).sqrt();
        let p = paired_rates_equivalence(0, 0, 60, 0.02);
        assert!((p - normal_probability(-z)).abs() < 1e-12 && p > 0.1, "{p}");
        assert!(paired_rates_equivalence(0, 0, 600, 0.02) < 0.001);
        assert!(paired_rates_equivalence(9, 3, 200, 0.02) > 0.5);
    }
}
