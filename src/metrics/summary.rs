//! From one row per image and metric to reported numbers: plain means, tested paired differences, shares of the teacher's
//! score and scaling laws, each over every scope that has more than itself to say.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::run::evaluation::{ComparisonRow, ScalingRow};
use crate::run::results::SummaryRow;
use crate::stats::comparison::{Subject, Tests, compare_pairs};
use crate::stats::line::{self, Sized};
use crate::stats::scores::{ALL, ScoreTable, Values, paired_strata, plain, unit_and_direction};
use crate::stats::{self, Bootstrap, Estimate};

/// Prefix of the name of a metric as a share of the teacher's.
pub const RETENTION: &str = "retention_";

/// Two encoders whose images are compared pair by pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    pub encoder: String,
    pub versus: String,
    /// Also report the share of the reference's score that is kept.
    pub retention: bool,
}

/// How numbers are made.
#[derive(Debug, Clone, Copy)]
pub struct Methods<'a> {
    pub bootstrap: &'a Bootstrap,
    pub tests: &'a Tests,
}

/// The numbers of a run.
#[derive(Debug, Default)]
pub struct Numbers {
    pub summary: Vec<SummaryRow>,
    /// Tested, not yet corrected: the table is not complete.
    pub comparisons: Vec<ComparisonRow>,
}

/// All numbers of the per-image scores.
///
/// # Errors
/// Two encoders under different protocols, a metric nobody declared.
pub fn summarise(scores: &ScoreTable, comparisons: &[Comparison], methods: Methods) -> Result<Numbers> {
    let mut numbers = Numbers::default();
    for (metric, scopes) in scores.metrics_and_scopes() {
        for scope in scopes {
            numbers.add_values(scores, &metric, &scope, methods)?;
            for comparison in comparisons {
                numbers.add_comparison(scores, &metric, &scope, comparison, methods)?;
            }
        }
    }
    Ok(numbers)
}

impl Numbers {
    fn add_values(&mut self, scores: &ScoreTable, metric: &str, scope: &str, Methods { bootstrap, .. }: Methods) -> Result<()> {
        for encoder in scores.encoders(metric) {
            let Some(strata) = scores.strata(metric, scope, encoder) else { continue };
            let estimate = if is_proportion(metric, &strata) {
                stats::proportion(&plain(&strata[0]), 100.0, bootstrap)?
            } else {
                stats::ratio_of_means(&strata.iter().map(plain).collect::<Vec<_>>(), bootstrap)?
            };
            self.summary.push(row(scores, (metric, scope), encoder, None, estimate)?);
        }
        Ok(())
    }

    fn add_comparison(&mut self, scores: &ScoreTable, metric: &str, scope: &str, of: &Comparison, methods: Methods) -> Result<()> {
        let Comparison { encoder, versus, retention } = of;
        let strata = |encoder: &str| scores.strata(metric, scope, encoder);
        let Some(pairs) = strata(encoder).zip(strata(versus)).and_then(|(own, other)| paired_strata(&own, &other)) else {
            return Ok(());
        };
        let (own, other) = (scores.protocol(metric, encoder), scores.protocol(metric, versus));
        if own != other {
            return Err(Error::Invalid(format!("`{encoder}` and `{versus}` were scored under different protocols for `{metric}`")));
        }
        let (unit, direction) = unit_and_direction(metric)?;
        let protocol = own.unwrap_or_default();
        let subject = Subject { encoder, versus, metric, scope, unit, direction, protocol: &protocol };
        let compared = compare_pairs(subject, &pairs, methods.tests, methods.bootstrap)?;
        let ComparisonRow { value, ci_low: low, ci_high: high, n, prompts: clusters, .. } = compared;
        self.comparisons.push(compared);
        self.summary.push(row(scores, (metric, scope), encoder, Some(versus), Estimate { value, low, high, n, clusters })?);
        let reference: f64 = pairs.iter().flatten().map(|pair| pair.denominator).sum();
        if *retention && direction == "higher" && reference > 0.0 {
            let share = stats::ratio_of_means(&pairs, methods.bootstrap)?;
            let percent = Estimate { value: 100.0 * share.value, low: 100.0 * share.low, high: 100.0 * share.high, ..share };
            let mut kept = row(scores, (metric, scope), encoder, Some(versus), percent)?;
            kept.metric = format!("{RETENTION}{metric}");
            kept.unit = format!("% of {versus}");
            self.summary.push(kept);
        }
        Ok(())
    }
}

fn row(scores: &ScoreTable, (metric, scope): (&str, &str), encoder: &str, versus: Option<&str>, estimate: Estimate) -> Result<SummaryRow> {
    let (unit, direction) = unit_and_direction(metric)?;
    Ok(SummaryRow {
        encoder: encoder.into(),
        metric: metric.into(),
        scope: scope.into(),
        versus: versus.map(str::to_owned),
        value: estimate.value,
        ci_low: estimate.low,
        ci_high: estimate.high,
        n: estimate.n,
        unit: unit.into(),
        direction: direction.into(),
        protocol: scores.protocol(metric, encoder).unwrap_or_default(),
    })
}

/// Whether every value is 0 or 100.
fn is_proportion(metric: &str, strata: &[Values]) -> bool {
    metric.starts_with("ocr_") && strata.len() == 1 && strata[0].values().all(|&value| value == 0.0 || value == 100.0)
}

/// Scaling laws of every metric over encoders with those weights, at least three of them; over the prompts that all of them
/// have images of. Metrics that some encoder lacks are left out.
pub fn scaling_laws(scores: &ScoreTable, weights: &[(&str, f64)], bootstrap: &Bootstrap) -> Result<Vec<ScalingRow>> {
    let mut rows = Vec::new();
    for (metric, _) in scores.metrics_and_scopes() {
        let strata: Option<Vec<Vec<Values>>> = weights.iter().map(|(encoder, _)| scores.strata(&metric, ALL, encoder)).collect();
        let Some(strata) = strata else { continue };
        let networks: Vec<Sized> =
            weights.iter().zip(shared_prompts(&strata)).map(|(&(_, parameters), strata)| Sized { parameters, strata }).collect();
        let prompts = networks[0].strata.iter().map(|values| values.len() as u64).sum();
        if networks[0].strata.iter().any(Vec::is_empty) {
            continue;
        }
        let law = line::scaling_law(&networks, bootstrap)?;
        let (fit_low, fit_high) = law.over_networks.unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        rows.push(ScalingRow {
            encoders: networks.len() as u64,
            slope: law.line.slope,
            ci_low: law.over_prompts.0,
            ci_high: law.over_prompts.1,
            fit_low,
            fit_high,
            intercept: law.line.intercept,
            r_squared: law.line.r_squared,
            prompts,
            unit: unit_and_direction(&metric)?.0.into(),
            protocol: scores.protocol(&metric, weights[0].0).unwrap_or_default(),
            metric,
        });
    }
    Ok(rows)
}

/// Mean values of the prompts that every encoder has in a stratum, in one order: encoder → stratum → prompt.
fn shared_prompts(encoders: &[Vec<Values>]) -> Vec<Vec<Vec<f64>>> {
    let means = |values: &Values| {
        let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (key, value) in values {
            let sum = sums.entry(key.1).or_default();
            *sum = (sum.0 + value, sum.1 + 1.0);
        }
        sums.into_iter().map(|(prompt, (sum, n))| (prompt, sum / n)).collect::<BTreeMap<u64, f64>>()
    };
    let all: Vec<Vec<BTreeMap<u64, f64>>> = encoders.iter().map(|strata| strata.iter().map(means).collect()).collect();
    let shared = |stratum: usize, prompt: &u64| all.iter().all(|strata| strata[stratum].contains_key(prompt));
    let pick = |(stratum, means): (usize, &BTreeMap<u64, f64>)| {
        means.iter().filter(|(prompt, _)| shared(stratum, prompt)).map(|(_, &mean)| mean).collect()
    };
    all.iter().map(|strata| strata.iter().enumerate().map(pick).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::results::ScoreRow;
    use crate::stats::scores::COMPOSITION_MEAN;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 500, level: 0.95, seed: 1 };

    fn score(encoder: &str, metric: &str, prompt_id: u64, category: &str, value: f64) -> ScoreRow {
        ScoreRow {
            encoder: encoder.into(),
            prompt_id,
            dataset: if category == "caption" { "laion" } else { "compbench" }.into(),
            category: category.into(),
            image_idx: 0,
            metric: metric.into(),
            value,
            detail: None,
            protocol: "p".into(),
        }
    }

    /// The reported numbers.
    fn summarise(rows: &[ScoreRow], comparisons: &[Comparison]) -> Result<Vec<SummaryRow>> {
        Ok(super::summarise(&ScoreTable::new(rows)?, comparisons, Methods { bootstrap: &BOOTSTRAP, tests: &Tests::default() })?.summary)
    }

    fn find<'a>(table: &'a [SummaryRow], encoder: &str, metric: &str, scope: &str, versus: Option<&str>) -> &'a SummaryRow {
        let hit =
            |row: &&SummaryRow| row.encoder == encoder && row.metric == metric && row.scope == scope && row.versus.as_deref() == versus;
        table.iter().find(hit).unwrap_or_else(|| panic!("no row {encoder} {metric} {scope} {versus:?}"))
    }

    fn scores() -> Vec<ScoreRow> {
        let mut rows = Vec::new();
        for i in 0..10u64 {
            let wave = i as f64 * 3.0;
            rows.push(score("teacher", "compbench_color", i, "color", 60.0 + wave));
            rows.push(score("base", "compbench_color", i, "color", 50.0 + wave));
            rows.push(score("teacher", "compbench_numeracy", 100 + i, "numeracy", 20.0 + wave));
            rows.push(score("base", "compbench_numeracy", 100 + i, "numeracy", 20.0 + wave));
        }
        rows
    }

    fn versus_teacher() -> Vec<Comparison> {
        vec![Comparison { encoder: "base".into(), versus: "teacher".into(), retention: true }]
    }

    #[test]
    fn differences_are_paired_and_categories_weigh_the_same() {
        let table = summarise(&scores(), &versus_teacher()).unwrap();
        let colour = find(&table, "base", "compbench_color", ALL, Some("teacher"));
        // Pairs differ by exactly 10 although the prompts differ by 27: pairing leaves no spread.
        assert!((colour.value + 10.0).abs() < 1e-9 && (colour.ci_high - colour.ci_low).abs() < 1e-9 && colour.n == 10);
        let mean = find(&table, "base", COMPOSITION_MEAN, ALL, None);
        assert!((mean.value - (63.5 + 33.5) / 2.0).abs() < 1e-9 && mean.n == 20);
        assert!((find(&table, "base", COMPOSITION_MEAN, ALL, Some("teacher")).value + 5.0).abs() < 1e-9);
        let kept = find(&table, "base", "retention_compbench", ALL, Some("teacher"));
        assert!((kept.value - 100.0 * 97.0 / 107.0).abs() < 1e-9 && kept.unit == "% of teacher");
    }

    #[test]
    fn scopes_that_say_the_same_are_not_repeated() {
        let table = summarise(&scores(), &[]).unwrap();
        assert!(table.iter().all(|row| row.scope == ALL));
        let rows = [score("x", "clip_score", 1, "caption", 30.0), score("x", "clip_score", 2, "color", 20.0)];
        let table = summarise(&rows, &[]).unwrap();
        let found: Vec<&str> = table.iter().map(|row| row.scope.as_str()).collect();
        assert_eq!(found, ["all", "caption", "color"]);
    }

    #[test]
    fn mixed_protocols_are_refused() {
        let mut rows = scores();
        rows[4].protocol = "q".into();
        assert!(summarise(&rows, &[]).unwrap_err().to_string().contains("mixes the protocols"));
    }

    #[test]
    fn a_teacher_of_zero_has_no_retention() {
        let rows: Vec<ScoreRow> =
            (0..5).flat_map(|i| [score("teacher", "ocr_word", i, "seen", 0.0), score("base", "ocr_word", i, "seen", 0.0)]).collect();
        let table = summarise(&rows, &versus_teacher()).unwrap();
        assert!(table.iter().all(|row| !row.metric.starts_with(RETENTION)));
        assert!(find(&table, "base", "ocr_word", ALL, None).ci_high > 30.0);
    }

    #[test]
    fn every_difference_is_tested() {
        let scores = ScoreTable::new(&scores()).unwrap();
        let methods = Methods { bootstrap: &BOOTSTRAP, tests: &Tests::default() };
        let numbers = super::summarise(&scores, &versus_teacher(), methods).unwrap();
        let colour = numbers.comparisons.iter().find(|row| row.metric == "compbench_color").unwrap();
        // All ten prompts lost ten points: the chance that ten coins agree, on both sides.
        assert!((colour.p.unwrap() - 2.0 / 1024.0).abs() < 1e-12 && colour.prompts == 10 && colour.margin == Some(2.0), "{colour:?}");
        let differences = numbers.summary.iter().filter(|row| row.versus.is_some() && !row.metric.starts_with(RETENTION)).count();
        assert_eq!(numbers.comparisons.len(), differences);
    }

    #[test]
    fn a_scaling_law_needs_the_metric_of_every_encoder() {
        let mut rows = Vec::new();
        for (encoder, level) in [("teacher", 30.0), ("base", 20.0), ("small", 10.0)] {
            rows.extend((0..12).map(|i| score(encoder, "clip_score", i, "caption", level + i as f64)));
            if encoder != "small" {
                rows.extend((0..12).map(|i| score(encoder, "ocr_char", i, "seen", level)));
            }
        }
        let weights = [("teacher", 1e7), ("base", 1e6), ("small", 1e5)];
        let laws = scaling_laws(&ScoreTable::new(&rows).unwrap(), &weights, &BOOTSTRAP).unwrap();
        assert_eq!(laws.len(), 1);
        assert!((laws[0].slope - 10.0).abs() < 1e-9 && laws[0].encoders == 3 && laws[0].prompts == 12, "{laws:?}");
    }
}
