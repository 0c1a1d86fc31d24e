//! The mean of votes that share raters and items: every vote belongs to a rater and to an item, and both make votes alike.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::stats::distribution::{t_probability, t_quantile};

/// One vote: `value` in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vote {
    pub rater: u64,
    pub item: u64,
    pub value: f64,
}

/// A rate with an error that respects both clusterings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Mean of the votes.
    pub value: f64,
    /// Zero where all votes agree; infinite with one rater and one item.
    pub standard_error: f64,
    /// The smaller number of clusters, minus one.
    pub degrees: f64,
    pub votes: u64,
    pub raters: u64,
    pub items: u64,
}

/// Mean of the votes with its two-way cluster-robust standard error (Cameron, Gelbach and Miller 2011): the variance over
/// raters plus that over items minus that over single votes, each with the factor G/(G − 1). Where this falls below the
/// larger of the first two, that one is taken. A way with a single cluster says nothing of others and is left out.
///
/// # Errors
/// No votes; a value outside [0, 1].
pub fn rate(votes: &[Vote]) -> Result<Rate> {
    if votes.is_empty() {
        return Err(Error::Invalid("a rate needs at least one vote, found none".into()));
    }
    if let Some(vote) = votes.iter().find(|vote| !(0.0..=1.0).contains(&vote.value)) {
        return Err(Error::Invalid(format!("a vote of {} lies outside of 0 to 1", vote.value)));
    }
    let n = votes.len() as f64;
    let value = votes.iter().map(|vote| vote.value).sum::<f64>() / n;
    let over = |key: &dyn Fn(&Vote) -> (u64, u64)| {
        let mut sums: BTreeMap<(u64, u64), f64> = BTreeMap::new();
        votes.iter().for_each(|vote| *sums.entry(key(vote)).or_default() += vote.value - value);
        let clusters = sums.len() as f64;
        (clusters, clusters / (clusters - 1.0) * sums.values().map(|sum| sum * sum).sum::<f64>() / (n * n))
    };
    let raters = over(&|vote| (vote.rater, 0));
    let items = over(&|vote| (0, vote.item));
    let both = over(&|vote| (vote.rater, vote.item));
    let (variance, clusters) = match (raters.0 > 1.0, items.0 > 1.0) {
        (true, true) => ((raters.1 + items.1 - both.1).max(raters.1).max(items.1), raters.0.min(items.0)),
        (true, false) => (raters.1, raters.0),
        (false, true) => (items.1, items.0),
        (false, false) => (f64::INFINITY, 1.0),
    };
    Ok(Rate {
        value,
        standard_error: variance.sqrt(),
        degrees: clusters - 1.0,
        votes: votes.len() as u64,
        raters: raters.0 as u64,
        items: items.0 as u64,
    })
}

impl Rate {
    /// Wilson's interval with as many independent votes as the standard error is worth (Korn and Graubard 1998) and Student's t
    /// in place of the normal quantile: inside [0, 1], and not of width zero where all agree.
    pub fn interval(&self, level: f64) -> (f64, f64) {
        if self.degrees < 1.0 {
            return (0.0, 1.0);
        }
        let t2 = t_quantile(0.5 + level / 2.0, self.degrees).powi(2);
        let (p, n) = (self.value, self.effective_votes());
        let (centre, spread) = (p + t2 / (2.0 * n), (t2 * (p * (1.0 - p) / n + t2 / (4.0 * n * n))).sqrt());
        (((centre - spread) / (1.0 + t2 / n)).max(0.0), ((centre + spread) / (1.0 + t2 / n)).min(1.0))
    }

    /// Two-sided p-value of the t test that the rate is `expected`; `None` with one rater and one item. Where all votes agree, the
    /// chance that as many fair coins as there are clusters do.
    pub fn p(&self, expected: f64) -> Option<f64> {
        let one_sided = self.above(expected)?;
        Some((2.0 * one_sided.min(self.below(expected)?)).min(1.0))
    }

    /// One-sided p-value: below α, the rate lies above `bound`.
    pub fn above(&self, bound: f64) -> Option<f64> {
        self.one_sided(self.value - bound, self.value)
    }

    /// One-sided p-value: below α, the rate lies below `bound`.
    pub fn below(&self, bound: f64) -> Option<f64> {
        self.one_sided(bound - self.value, 1.0 - self.value)
    }

    /// The larger p-value of two one-sided tests: below α, the rate lies within `margin` of `expected`.
    pub fn equivalence(&self, expected: f64, margin: f64) -> Option<f64> {
        Some(self.above(expected - margin)?.max(self.below(expected + margin)?))
    }

    fn one_sided(&self, distance: f64, farthest: f64) -> Option<f64> {
        if self.degrees < 1.0 {
            return None;
        }
        if self.standard_error == 0.0 {
            // The largest chance that as many clusters agree although the rate lies at the bound: the others are as far off as can be.
            let share = if distance > 0.0 { distance / farthest } else { 0.0 };
            return Some((1.0 - share).clamp(0.0, 1.0).powf(self.degrees + 1.0));
        }
        Some(t_probability(-distance / self.standard_error, self.degrees))
    }

    /// Independent votes that would have this standard error.
    fn effective_votes(&self) -> f64 {
        let independent = self.value * (1.0 - self.value) / self.standard_error.powi(2);
        if independent.is_finite() && independent > 0.0 { independent.min(self.votes as f64) } else { self.degrees + 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(table: &[&[f64]]) -> Vec<Vote> {
        let row = |(rater, row): (usize, &&[f64])| {
            row.iter().enumerate().map(|(item, &value)| Vote { rater: rater as u64, item: item as u64, value }).collect::<Vec<_>>()
        };
        table.iter().enumerate().flat_map(row).collect()
    }

    #[test]
    fn one_vote_per_rater_and_item_is_the_plain_standard_error() {
        let diagonal: Vec<Vote> = (0..40).map(|i| Vote { rater: i, item: i, value: f64::from(u8::from(i < 30)) }).collect();
        let rate = rate(&diagonal).unwrap();
        assert!((rate.standard_error - (0.75 * 0.25 / 39.0f64).sqrt()).abs() < 1e-12, "{rate:?}");
        assert_eq!((rate.value, rate.degrees, rate.raters, rate.items), (0.75, 39.0, 40, 40));
    }

    #[test]
    fn raters_who_always_agree_with_themselves_count_once() {
        let table: [&[f64]; 4] = [&[1.0; 25], &[1.0; 25], &[0.0; 25], &[1.0; 25]];
        let rate = rate(&votes(&table)).unwrap();
        // Four opinions: √(Σ (x − 3/4)² / (4 · 3)).
        assert!((rate.standard_error - (0.75f64 / 12.0).sqrt()).abs() < 1e-12 && rate.degrees == 3.0, "{rate:?}");
        let (low, high) = rate.interval(0.95);
        assert!(low < 0.3 && high > 0.95, "{low} {high}");
    }

    #[test]
    fn agreement_of_all_is_not_certainty() {
        let rate = rate(&votes(&[&[1.0; 6], &[1.0; 6]])).unwrap();
        assert!(rate.interval(0.95).0 < 0.2 && rate.p(0.5) == Some(0.5), "{rate:?}");
        let single = super::rate(&votes(&[&[1.0]])).unwrap();
        assert!(single.p(0.5).is_none() && single.interval(0.95) == (0.0, 1.0));
        // One rater: the items carry the error.
        let one = super::rate(&votes(&[&[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])).unwrap();
        assert!(one.degrees == 5.0 && one.standard_error > 0.1);
        assert!(super::rate(&[]).is_err() && super::rate(&[Vote { rater: 0, item: 0, value: 1.5 }]).is_err());
    }
}
