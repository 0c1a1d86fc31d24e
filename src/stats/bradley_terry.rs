//! Strengths of several encoders from votes between pairs of them (Bradley and Terry 1952).

use crate::error::{Error, Result};
use crate::stats::bootstrap::{Bootstrap, Resampling, percentile_interval};

/// Rounds of the iteration; each at least keeps the likelihood, and a few dozen are the rule.
const ROUNDS: usize = 100_000;

/// One vote between two encoders, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Duel {
    pub rater: u64,
    pub item: u64,
    pub first: usize,
    pub second: usize,
    /// 1 where the first was chosen, 0 where the second was, one half for a tie.
    pub score: f64,
}

/// Strength of one encoder in natural log-odds, relative to the mean of all: an encoder that is stronger by s is chosen with
/// probability 1 / (1 + e^−s).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// Maximum-likelihood strengths of `encoders` encoders, a tie counting as half a win for each, with percentile intervals in
/// which raters and items are resampled independently and a vote counts as often as its rater times its item was drawn
/// (the pigeonhole bootstrap of Owen 2007, which errs on the wide side).
///
/// # Errors
/// Encoders that are not joined by votes, or one that always won or always lost: their distance has no finite estimate.
pub fn strengths(duels: &[Duel], encoders: usize, bootstrap: &Bootstrap) -> Result<Vec<Strength>> {
    let points = fit(duels.iter().map(|duel| (duel, 1.0)), encoders).ok_or_else(|| {
        Error::Invalid("strengths are not finite: some encoders were never chosen over the others, or never met them".into())
    })?;
    let (raters, items) = (numbered(duels.iter().map(|duel| duel.rater)), numbered(duels.iter().map(|duel| duel.item)));
    let draws = [(raters.1, 0), (items.1, 1)].map(|(n, stratum)| (n > 1).then(|| Resampling::new(n, stratum, bootstrap)));
    let mut samples: Vec<Vec<f64>> = vec![Vec::with_capacity(bootstrap.resamples); encoders];
    for b in 0..bootstrap.resamples {
        let times = |draws: &Option<Resampling>, at: usize| draws.as_ref().map_or(1.0, |draws| f64::from(draws.counts(b)[at]));
        let weighted = duels.iter().enumerate().map(|(i, duel)| (duel, times(&draws[0], raters.0[i]) * times(&draws[1], items.0[i])));
        match fit(weighted, encoders) {
            Some(drawn) => drawn.iter().zip(&mut samples).for_each(|(&value, samples)| samples.push(value)),
            // A resample in which someone lost everything: as far apart as you like, on the side where the estimate lies.
            None => points.iter().zip(&mut samples).for_each(|(&value, samples)| samples.push(f64::INFINITY.copysign(value))),
        }
    }
    Ok(points
        .into_iter()
        .zip(&mut samples)
        .map(|(value, samples)| {
            let (low, high) = percentile_interval(samples, bootstrap.level);
            Strength { value, low, high }
        })
        .collect())
}

/// Log strengths with mean zero by Hunter's minorisation (2004); `None` where they are not finite.
fn fit<'a>(duels: impl Iterator<Item = (&'a Duel, f64)>, encoders: usize) -> Option<Vec<f64>> {
    // wins[i][j]: how often i was chosen over j.
    let mut wins = vec![vec![0.0; encoders]; encoders];
    for (duel, weight) in duels {
        wins[duel.first][duel.second] += weight * duel.score;
        wins[duel.second][duel.first] += weight * (1.0 - duel.score);
    }
    if !strongly_connected(&wins) {
        return None;
    }
    let total: Vec<f64> = wins.iter().map(|row| row.iter().sum()).collect();
    let mut strength = vec![1.0; encoders];
    for _ in 0..ROUNDS {
        let mut moved = 0.0f64;
        for i in 0..encoders {
            let expected: f64 = (0..encoders).map(|j| (wins[i][j] + wins[j][i]) / (strength[i] + strength[j])).sum();
            let next = total[i] / expected;
            moved = moved.max((next / strength[i]).ln().abs());
            strength[i] = next;
        }
        let centre = strength.iter().map(|s: &f64| s.ln()).sum::<f64>() / encoders as f64;
        strength.iter_mut().for_each(|s| *s /= centre.exp());
        if moved < 1e-13 {
            break;
        }
    }
    Some(strength.iter().map(|s| s.ln()).collect())
}

/// Whether every encoder beat every other one at least through a chain of others (Ford 1957): only then is the estimate finite.
fn strongly_connected(wins: &[Vec<f64>]) -> bool {
    let reaches_all = |edge: &dyn Fn(usize, usize) -> bool| {
        let mut seen = vec![false; wins.len()];
        let mut open = vec![0];
        while let Some(i) = open.pop() {
            if !std::mem::replace(&mut seen[i], true) {
                open.extend((0..wins.len()).filter(|&j| edge(i, j)));
            }
        }
        seen.into_iter().all(|seen| seen)
    };
    !wins.is_empty() && reaches_all(&|i, j| wins[i][j] > 0.0) && reaches_all(&|i, j| wins[j][i] > 0.0)
}

/// Numbers from 0 in order of first appearance, and how many there are.
fn numbered(names: impl Iterator<Item = u64>) -> (Vec<usize>, usize) {
    let mut known = std::collections::BTreeMap::new();
    let numbers = names
        .map(|name| {
            let next = known.len();
            *known.entry(name).or_insert(next)
        })
        .collect();
    (numbers, known.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 300, level: 0.95, seed: 2 };

    fn duels(counts: &[(usize, usize, u64, u64)]) -> Vec<Duel> {
        let mut all = Vec::new();
        for &(first, second, won, lost) in counts {
            for k in 0..won + lost {
                let item = all.len() as u64;
                all.push(Duel { rater: item % 7, item, first, second, score: f64::from(u8::from(k < won)) });
            }
        }
        all
    }

    #[test]
    fn two_encoders_differ_by_the_log_odds() {
        let strengths = strengths(&duels(&[(0, 1, 30, 10)]), 2, &BOOTSTRAP).unwrap();
        let gap = strengths[0].value - strengths[1].value;
        assert!((gap - 3f64.ln()).abs() < 1e-10, "{gap}");
        assert!(strengths[0].low > 0.0 && strengths[0].low < strengths[0].value && strengths[0].value < strengths[0].high);
    }

    #[test]
    fn a_consistent_tournament_gives_its_strengths_back() {
        // 2 : 1, 3 : 1 and 3 : 2 are odds of strengths 6 : 3 : 2.
        let strengths = strengths(&duels(&[(0, 1, 40, 20), (0, 2, 45, 15), (1, 2, 36, 24)]), 3, &BOOTSTRAP).unwrap();
        assert!((strengths[0].value - strengths[1].value - 2f64.ln()).abs() < 1e-10);
        assert!((strengths[1].value - strengths[2].value - 1.5f64.ln()).abs() < 1e-10);
        assert!(strengths.iter().map(|s| s.value).sum::<f64>().abs() < 1e-10);
    }

    #[test]
    fn ties_pull_together_and_a_clean_sweep_has_no_estimate() {
        let ties: Vec<Duel> = duels(&[(0, 1, 10, 10)]).into_iter().map(|duel| Duel { score: 0.5, ..duel }).collect();
        assert!(strengths(&ties, 2, &BOOTSTRAP).unwrap()[0].value.abs() < 1e-12);
        assert!(strengths(&duels(&[(0, 1, 10, 0)]), 2, &BOOTSTRAP).is_err());
        assert!(strengths(&duels(&[(0, 1, 5, 5)]), 3, &BOOTSTRAP).unwrap_err().to_string().contains("never met"));
    }
}
