//! From pairs to a verdict: which test a comparison gets, how a table of them is corrected, and what may be said.
//!
//! "Better" and "worse" need a p-value, corrected over the table, below α and an interval that excludes zero; "equivalent"
//! needs a corrected equivalence test with a stated margin. Everything else is undecided.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::run::evaluation::ComparisonRow;
use crate::stats::paired::FULL_SCORE;
use crate::stats::sign::{mcnemar_exact, mcnemar_mid_p, paired_rates_equivalence};
use crate::stats::{Bootstrap, Estimate, Observation, Paired, holm, paired};

/// How differences are judged.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tests {
    /// Probability of one wrong "better", "worse" or "equivalent" in a table, in (0, 1).
    pub alpha: f64,
    /// Largest difference that does not matter, by metric or the beginning of its name; the longest match counts. A metric
    /// without a margin is never called equivalent.
    pub margins: BTreeMap<String, f64>,
}

impl Default for Tests {
    fn default() -> Self {
        Self {
            // The usual one.
            alpha: 0.05,
            // About the paper's step from T5-Large to T5-XL: 1.8 points of the T2I-CompBench mean and 0.4 of the CLIP score. What is
            // smaller than the step between neighbouring sizes does not decide which size to take.
            margins: [("clip_score", 0.5), ("compbench", 2.0), ("ocr_", 2.0)].map(|(metric, margin)| (metric.to_owned(), margin)).into(),
        }
    }
}

impl Tests {
    /// Fails on a level or a margin out of range.
    pub fn check(&self) -> Result<()> {
        if !(self.alpha > 0.0 && self.alpha < 1.0) {
            return Err(Error::config(format!("alpha is {}, expected a number between 0 and 1", self.alpha), "the usual one is 0.05"));
        }
        match self.margins.iter().find(|(_, margin)| !(**margin > 0.0 && margin.is_finite())) {
            Some((metric, margin)) => Err(Error::config(
                format!("the equivalence margin of `{metric}` is {margin}, expected a number above 0"),
                "give the largest difference that does not matter, in the metric's unit, or leave the metric out",
            )),
            None => Ok(()),
        }
    }

    /// The margin of a metric.
    pub fn margin(&self, metric: &str) -> Option<f64> {
        let matching = self.margins.iter().filter(|(name, _)| metric.starts_with(name.as_str()));
        matching.max_by_key(|(name, _)| name.len()).map(|(_, &margin)| margin)
    }
}

/// What a comparison allows to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Better,
    Worse,
    /// The difference is shown to lie within the margin, and not shown to differ from zero.
    Equivalent,
    /// There is a difference, and it is shown to lie within the margin.
    BetterWithinMargin,
    WorseWithinMargin,
    /// Neither a difference nor equivalence was shown.
    Undecided,
}

impl Outcome {
    const ALL: [(Self, &str); 6] = [
        (Self::Better, "better"),
        (Self::Worse, "worse"),
        (Self::Equivalent, "equivalent"),
        (Self::BetterWithinMargin, "better, within the margin"),
        (Self::WorseWithinMargin, "worse, within the margin"),
        (Self::Undecided, "undecided"),
    ];

    /// The words for it, as they stand in `comparisons.parquet`.
    pub fn words(self) -> &'static str {
        Self::ALL.iter().find(|(outcome, _)| *outcome == self).map_or("undecided", |(_, words)| words)
    }

    /// The outcome of those words; anything else is undecided.
    pub fn of(words: &str) -> Self {
        Self::ALL.iter().find(|(_, known)| *known == words).map_or(Self::Undecided, |(outcome, _)| *outcome)
    }

    /// Decides; `significant` and `equivalent` are corrected verdicts.
    fn decide(difference: f64, direction: &str, significant: bool, equivalent: bool) -> Self {
        let improves = match direction {
            "higher" => Some(difference > 0.0),
            "lower" => Some(difference < 0.0),
            _ => None,
        };
        match (improves.filter(|_| significant), equivalent) {
            (Some(true), false) => Self::Better,
            (Some(false), false) => Self::Worse,
            (Some(true), true) => Self::BetterWithinMargin,
            (Some(false), true) => Self::WorseWithinMargin,
            (None, true) => Self::Equivalent,
            (None, false) => Self::Undecided,
        }
    }
}

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub encoder: &'a str,
    pub versus: &'a str,
    pub metric: &'a str,
    pub scope: &'a str,
    pub unit: &'a str,
    pub direction: &'a str,
    pub protocol: &'a str,
}

/// Compares pairs, without correction yet. Values that are all 0 or 100 with one image per prompt get McNemar's test (mid-p,
/// checked by the exact one) and Tango's equivalence test, everything else the clustered paired t test (checked by the studentised bootstrap).
pub fn compare_pairs(subject: Subject, strata: &[Vec<Observation>], tests: &Tests, bootstrap: &Bootstrap) -> Result<ComparisonRow> {
    let paired = paired::compare(strata, bootstrap)?;
    let margin = tests.margin(subject.metric);
    let tested = match discordant(strata, &paired) {
        Some((gained, lost)) => Tested {
            test: "McNemar, mid-p",
            p: Some(mcnemar_mid_p(gained, lost)),
            p_check: Some(mcnemar_exact(gained, lost)),
            margin,
            equivalence: margin.map(|margin| paired_rates_equivalence(gained, lost, paired.estimate.n, margin / FULL_SCORE)),
        },
        None => Tested {
            test: "clustered paired t",
            p: paired.p,
            p_check: paired.p_bootstrap,
            margin,
            equivalence: margin.and_then(|margin| paired.equivalence(margin)),
        },
    };
    Ok(row(subject, paired.estimate, paired.standard_error, tested))
}

/// A difference whose spread is known from resampling only: normal tests on its standard error.
pub fn compare_normal(subject: Subject, estimate: Estimate, standard_error: f64, tests: &Tests) -> ComparisonRow {
    let tail = |distance: f64| super::normal_probability(-distance / standard_error);
    let known = standard_error > 0.0 && standard_error.is_finite();
    let margin = tests.margin(subject.metric);
    let p = known.then(|| 2.0 * tail(estimate.value.abs()));
    let equivalence = margin.filter(|_| known).map(|margin| tail(margin - estimate.value.abs()));
    row(subject, estimate, standard_error, Tested { test: "normal, bootstrap error", p, p_check: None, margin, equivalence })
}

/// p-values of one comparison.
struct Tested {
    test: &'static str,
    p: Option<f64>,
    p_check: Option<f64>,
    margin: Option<f64>,
    equivalence: Option<f64>,
}

fn row(subject: Subject, estimate: Estimate, standard_error: f64, tested: Tested) -> ComparisonRow {
    ComparisonRow {
        encoder: subject.encoder.into(),
        versus: subject.versus.into(),
        metric: subject.metric.into(),
        scope: subject.scope.into(),
        value: estimate.value,
        ci_low: estimate.low,
        ci_high: estimate.high,
        n: estimate.n,
        prompts: estimate.clusters,
        standard_error,
        test: tested.test.into(),
        p: tested.p,
        p_check: tested.p_check,
        p_holm: None,
        margin: tested.margin,
        p_equivalence: tested.equivalence,
        p_equivalence_holm: None,
        family: 0,
        outcome: Outcome::Undecided.words().into(),
        unit: subject.unit.into(),
        direction: subject.direction.into(),
        protocol: subject.protocol.into(),
    }
}

/// Corrects all tests of one table after Holm, the differences and the equivalences each on their own, and decides. A table is
/// everything compared with the same reference in the same scope: all students and all metrics.
pub fn correct(rows: &mut [ComparisonRow], tests: &Tests) {
    let mut families: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        families.entry((row.versus.clone(), row.scope.clone())).or_default().push(at);
    }
    for members in families.values() {
        let adjusted = |p: &dyn Fn(&ComparisonRow) -> Option<f64>| -> BTreeMap<usize, f64> {
            let tested: Vec<(usize, f64)> = members.iter().filter_map(|&at| Some((at, p(&rows[at])?))).collect();
            let adjusted = holm(&tested.iter().map(|(_, p)| *p).collect::<Vec<_>>());
            tested.iter().map(|(at, _)| *at).zip(adjusted).collect()
        };
        let (differences, equivalences) = (adjusted(&|row| row.p), adjusted(&|row| row.p_equivalence));
        for &at in members {
            let row = &mut rows[at];
            row.p_holm = differences.get(&at).copied();
            row.p_equivalence_holm = equivalences.get(&at).copied();
            row.family = differences.len() as u64;
            let excludes_zero = row.ci_low > 0.0 || row.ci_high < 0.0;
            let significant = excludes_zero && row.p_holm.is_some_and(|p| p < tests.alpha);
            let equivalent = row.p_equivalence_holm.is_some_and(|p| p < tests.alpha);
            row.outcome = Outcome::decide(row.value, &row.direction, significant, equivalent).words().into();
        }
    }
}

/// Prompts where only the first, and where only the second succeeds; `None` where values other than 0 and 100 occur or a
/// prompt has several images, whose successes depend on each other.
fn discordant(strata: &[Vec<Observation>], paired: &Paired) -> Option<(u64, u64)> {
    let [stratum] = strata else { return None };
    let binary = |value: f64| value == 0.0 || value == 100.0;
    let fits = paired.estimate.clusters == paired.estimate.n
        && paired.p.is_some()
        && stratum.iter().all(|o| binary(o.value) && binary(o.denominator));
    let count = |keep: &dyn Fn(&Observation) -> bool| stratum.iter().filter(|o| keep(o)).count() as u64;
    fits.then(|| (count(&|o| o.value > o.denominator), count(&|o| o.value < o.denominator)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 400, level: 0.95, seed: 1 };

    fn subject<'a>(encoder: &'a str, metric: &'a str) -> Subject<'a> {
        Subject { encoder, versus: "teacher", metric, scope: "all", unit: "%", direction: "higher", protocol: "p" }
    }

    fn compared(encoder: &str, differences: &[f64]) -> ComparisonRow {
        let stratum: Vec<Observation> =
            differences.iter().enumerate().map(|(i, &d)| Observation { cluster: i as u64, value: 40.0 + d, denominator: 40.0 }).collect();
        compare_pairs(subject(encoder, "compbench"), &[stratum], &Tests::default(), &BOOTSTRAP).unwrap()
    }

    fn decided(mut rows: Vec<ComparisonRow>) -> Vec<Outcome> {
        correct(&mut rows, &Tests::default());
        rows.iter().map(|row| Outcome::of(&row.outcome)).collect()
    }

    /// Differences around `centre` with deviation `sd`, evenly spread.
    fn around(centre: f64, sd: f64) -> Vec<f64> {
        (0..40).map(|i| centre + sd * (f64::from(i) - 19.5) / 11.5).collect()
    }

    #[test]
    fn every_outcome_has_its_case() {
        for (differences, expected) in [
            (around(-10.0, 8.0), Outcome::Worse),
            (around(10.0, 8.0), Outcome::Better),
            (around(0.0, 1.0), Outcome::Equivalent),
            (around(0.6, 1.0), Outcome::BetterWithinMargin),
            (around(-0.6, 1.0), Outcome::WorseWithinMargin),
            (around(1.0, 9.0), Outcome::Undecided),
        ] {
            assert_eq!(decided(vec![compared("base", &differences)]), [expected], "{}", expected.words());
        }
    }

    #[test]
    fn a_difference_that_is_significant_alone_is_not_so_among_many() {
        let alone = compared("base", &around(3.0, 8.0));
        assert!(alone.p.is_some_and(|p| p < 0.05 && p > 0.005), "{alone:?}");
        assert_eq!(decided(vec![alone.clone()]), [Outcome::Better]);
        let mut many = vec![alone];
        many.extend((0..12).map(|i| compared(&format!("other-{i}"), &around(0.1, 30.0))));
        assert_eq!(decided(many)[0], Outcome::Undecided);
    }

    #[test]
    fn references_and_scopes_are_tables_of_their_own() {
        let mut rows = vec![compared("base", &around(3.0, 8.0)); 3];
        rows[1].versus = "base-naive".into();
        rows[2].scope = "seen".into();
        correct(&mut rows, &Tests::default());
        assert!(rows.iter().all(|row| row.family == 1 && row.p_holm == row.p));
    }

    #[test]
    fn successes_and_failures_get_mcnemar() {
        let stratum: Vec<Observation> = (0..30)
            .map(|i| Observation { cluster: i, value: if i < 10 { 100.0 } else { 0.0 }, denominator: if i < 12 { 100.0 } else { 0.0 } })
            .collect();
        let row = compare_pairs(subject("base", "ocr_word"), std::slice::from_ref(&stratum), &Tests::default(), &BOOTSTRAP).unwrap();
        assert_eq!(row.test, "McNemar, mid-p");
        assert!((row.p_check.unwrap() - 0.5).abs() < 1e-12 && (row.p.unwrap() - 0.25).abs() < 1e-12, "{row:?}");
        let twice: Vec<Observation> = stratum.iter().flat_map(|&o| [o, o]).collect();
        let row = compare_pairs(subject("base", "ocr_word"), &[twice], &Tests::default(), &BOOTSTRAP).unwrap();
        assert_eq!(row.test, "clustered paired t");
    }

    #[test]
    fn no_margin_no_equivalence_and_no_direction_no_praise() {
        let tests = Tests { margins: BTreeMap::new(), ..Tests::default() };
        let estimate = Estimate { value: 0.0, low: -0.1, high: 0.1, n: 9, clusters: 9 };
        let mut rows = [compare_normal(subject("base", "frechet"), estimate, 0.05, &tests)];
        correct(&mut rows, &tests);
        assert_eq!((rows[0].outcome.as_str(), rows[0].p_equivalence), ("undecided", None));
        let far = Estimate { value: 1.0, low: 0.9, high: 1.1, ..estimate };
        let mut rows = [compare_normal(Subject { direction: "none", ..subject("base", "mean_cosine") }, far, 0.05, &tests)];
        correct(&mut rows, &tests);
        assert_eq!(rows[0].outcome, "undecided");
        assert!(rows[0].p.unwrap() < 1e-50);
    }

    #[test]
    fn the_longest_matching_margin_counts_and_nonsense_is_refused() {
        let tests = Tests { margins: [("ocr_".to_owned(), 2.0), ("ocr_word".to_owned(), 5.0)].into(), ..Tests::default() };
        assert_eq!((tests.margin("ocr_word"), tests.margin("ocr_char"), tests.margin("frechet")), (Some(5.0), Some(2.0), None));
        assert!(Tests { alpha: 0.0, ..Tests::default() }.check().is_err());
        let tests = Tests { margins: [("ocr_".to_owned(), -2.0)].into(), ..Tests::default() };
        assert!(tests.check().unwrap_err().to_string().contains("`ocr_`"));
    }
}
