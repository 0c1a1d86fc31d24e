//! Tests that count directions only: the sign test and McNemar's test, which is the sign test on the pairs that differ.

use crate::stats::distribution::{fair_binomial_mass, fair_binomial_probability};

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
}
