//! From one row per image and metric to reported numbers: plain means, paired differences and shares of the teacher's
//! score, each over every scope that has more than itself to say.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::run::results::{ScoreRow, SummaryRow};
use crate::stats::{self, Bootstrap, Estimate, Observation};

/// Prefix of the per-category compositional metrics; their category means are averaged into one number.
pub const COMPOSITION: &str = "compbench_";
/// The average over the compositional categories.
pub const COMPOSITION_MEAN: &str = "compbench";
/// Prefix of the name of a metric as a share of the teacher's.
pub const RETENTION: &str = "retention_";
/// Scope of a number over everything the metric applies to.
pub const ALL: &str = "all";

/// How the values of a metric are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mean,
    /// Every value is 0 or 100.
    Proportion,
}

/// Two encoders whose images are compared pair by pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    pub encoder: String,
    pub versus: String,
    /// Also report the share of the reference's score that is kept.
    pub retention: bool,
}

/// All summary rows of the per-image scores.
///
/// # Errors
/// One metric of one encoder under two protocols, a metric nobody declared, a non-finite score.
pub fn summarise(scores: &[ScoreRow], comparisons: &[Comparison], bootstrap: &Bootstrap) -> Result<Vec<SummaryRow>> {
    let mut table = Table { rows: Vec::new(), comparisons, bootstrap };
    let by_metric = group_by_metric(scores)?;
    for (metric, encoders) in &by_metric {
        for scope in scopes(encoders) {
            let strata_of = |encoder: &str| encoders.get(encoder).map(|scored| vec![scored.in_scope(&scope)]);
            table.add(metric, &scope, encoders, &strata_of)?;
        }
    }
    let composition: Vec<&BTreeMap<String, Scored>> =
        by_metric.iter().filter(|(metric, _)| metric.starts_with(COMPOSITION)).map(|(_, encoders)| encoders).collect();
    if composition.len() > 1 {
        let strata_of = |encoder: &str| {
            // An encoder that lacks a category has no average over the categories.
            composition.iter().map(|encoders| encoders.get(encoder).map(|scored| scored.in_scope(ALL))).collect::<Option<Vec<_>>>()
        };
        table.add(COMPOSITION_MEAN, ALL, composition[0], &strata_of)?;
    }
    Ok(table.rows)
}

/// Unit and direction of a per-image metric.
pub fn unit_and_direction(metric: &str) -> Result<(&'static str, &'static str)> {
    match metric {
        "clip_score" => Ok(("100·cos", "higher")),
        "ocr_nothing_read" => Ok(("%", "lower")),
        COMPOSITION_MEAN => Ok(("%", "higher")),
        _ if metric.starts_with(COMPOSITION) || metric.starts_with("ocr_") => Ok(("%", "higher")),
        _ => Err(Error::Invalid(format!("metric `{metric}` has no declared unit; known: clip_score, compbench_*, ocr_*"))),
    }
}

fn kind(metric: &str, strata: &[Values]) -> Kind {
    let binary = metric.starts_with("ocr_") && strata.len() == 1 && strata[0].values().all(|&value| value == 0.0 || value == 100.0);
    if binary { Kind::Proportion } else { Kind::Mean }
}

/// Prompt set, prompt, image index → value; one prompt may stand in two sets.
type Values = BTreeMap<(String, u64, u64), f64>;

/// The scores of one metric and one encoder.
struct Scored {
    protocol: String,
    /// Scope → values; `all`, prompt sets and categories.
    scopes: BTreeMap<String, Values>,
}

impl Scored {
    fn in_scope(&self, scope: &str) -> Values {
        self.scopes.get(scope).cloned().unwrap_or_default()
    }
}

/// Metrics in order of appearance, each with its encoders.
fn group_by_metric(scores: &[ScoreRow]) -> Result<Vec<(String, BTreeMap<String, Scored>)>> {
    let mut by_metric: Vec<(String, BTreeMap<String, Scored>)> = Vec::new();
    for row in scores {
        let at = by_metric.iter().position(|(metric, _)| *metric == row.metric).unwrap_or_else(|| {
            by_metric.push((row.metric.clone(), BTreeMap::new()));
            by_metric.len() - 1
        });
        let scored = by_metric[at]
            .1
            .entry(row.encoder.clone())
            .or_insert_with(|| Scored { protocol: row.protocol.clone(), scopes: BTreeMap::new() });
        if scored.protocol != row.protocol {
            let (metric, encoder) = (&row.metric, &row.encoder);
            return Err(Error::Invalid(format!(
                "metric `{metric}` of `{encoder}` mixes the protocols `{}` and `{}`",
                scored.protocol, row.protocol
            )));
        }
        let names = BTreeSet::from([ALL, row.dataset.as_str(), row.category.as_str()]);
        for scope in names {
            scored.scopes.entry(scope.to_owned()).or_default().insert((row.dataset.clone(), row.prompt_id, row.image_idx), row.value);
        }
    }
    Ok(by_metric)
}

/// `all`, and every prompt set or category that is not the same images under another name.
fn scopes(encoders: &BTreeMap<String, Scored>) -> Vec<String> {
    let Some(first) = encoders.values().next() else { return Vec::new() };
    let mut chosen: Vec<String> = vec![ALL.into()];
    for scope in encoders.values().flat_map(|scored| scored.scopes.keys()).collect::<BTreeSet<_>>() {
        let keys = |name: &str| first.scopes.get(name).map(|values| values.keys().collect::<Vec<_>>());
        if !chosen.contains(scope) && !chosen.iter().any(|other| keys(other) == keys(scope)) {
            chosen.push(scope.clone());
        }
    }
    chosen
}

/// The rows so far, and what every row is made with.
struct Table<'a> {
    rows: Vec<SummaryRow>,
    comparisons: &'a [Comparison],
    bootstrap: &'a Bootstrap,
}

/// The strata of an encoder's values; `None` where it lacks one.
type StrataOf<'a> = &'a dyn Fn(&str) -> Option<Vec<Values>>;

impl Table<'_> {
    /// Adds a metric's rows of one scope.
    fn add(&mut self, metric: &str, scope: &str, encoders: &BTreeMap<String, Scored>, strata_of: StrataOf) -> Result<()> {
        let (unit, direction) = unit_and_direction(metric)?;
        let row = |encoder: &str, name: String, versus: Option<&str>, estimate: Estimate| SummaryRow {
            encoder: encoder.into(),
            unit: if name.starts_with(RETENTION) { format!("% of {}", versus.unwrap_or_default()) } else { unit.into() },
            metric: name,
            scope: scope.into(),
            versus: versus.map(str::to_owned),
            value: estimate.value,
            ci_low: estimate.low,
            ci_high: estimate.high,
            n: estimate.n,
            direction: direction.into(),
            protocol: protocol(metric, &encoders[encoder].protocol),
        };
        let strata = |encoder: &str| strata_of(encoder).filter(|strata| strata.iter().all(|values| !values.is_empty()));
        for encoder in encoders.keys() {
            let Some(strata) = strata(encoder) else { continue };
            let estimate = match kind(metric, &strata) {
                Kind::Proportion => stats::proportion(&plain(&strata[0]), 100.0, self.bootstrap)?,
                Kind::Mean => stats::ratio_of_means(&strata.iter().map(plain).collect::<Vec<_>>(), self.bootstrap)?,
            };
            self.rows.push(row(encoder, metric.into(), None, estimate));
        }
        for Comparison { encoder, versus, retention } in self.comparisons {
            let (Some(own), Some(other)) = (strata(encoder), strata(versus)) else { continue };
            if encoders[encoder].protocol != encoders[versus].protocol {
                return Err(Error::Invalid(format!("`{encoder}` and `{versus}` were scored under different protocols for `{metric}`")));
            }
            let pairs: Vec<Vec<Observation>> = own.iter().zip(&other).map(|(own, other)| paired(own, other)).collect();
            if pairs.iter().any(Vec::is_empty) {
                continue;
            }
            let differences: Vec<Vec<Observation>> = pairs
                .iter()
                .map(|stratum| stratum.iter().map(|pair| Observation::plain(pair.cluster, pair.value - pair.denominator)).collect())
                .collect();
            self.rows.push(row(encoder, metric.into(), Some(versus), stats::ratio_of_means(&differences, self.bootstrap)?));
            let reference: f64 = pairs.iter().flatten().map(|pair| pair.denominator).sum();
            if *retention && direction == "higher" && reference > 0.0 {
                let share = stats::ratio_of_means(&pairs, self.bootstrap)?;
                let percent = Estimate { value: 100.0 * share.value, low: 100.0 * share.low, high: 100.0 * share.high, ..share };
                self.rows.push(row(encoder, format!("{RETENTION}{metric}"), Some(versus), percent));
            }
        }
        Ok(())
    }
}

fn protocol(metric: &str, of_images: &str) -> String {
    if metric == COMPOSITION_MEAN {
        format!("mean of the categories' means; {of_images} (and the categories' own)")
    } else {
        of_images.into()
    }
}

fn plain(values: &Values) -> Vec<Observation> {
    values.iter().map(|((_, prompt, _), &value)| Observation::plain(*prompt, value)).collect()
}

/// Images that both encoders made of the same prompt and index; the reference's value is the denominator.
fn paired(own: &Values, other: &Values) -> Vec<Observation> {
    own.iter().filter_map(|(key, &value)| other.get(key).map(|&denominator| Observation { cluster: key.1, value, denominator })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let table = summarise(&scores(), &versus_teacher(), &BOOTSTRAP).unwrap();
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
        let table = summarise(&scores(), &[], &BOOTSTRAP).unwrap();
        assert!(table.iter().all(|row| row.scope == ALL));
        let rows = [score("x", "clip_score", 1, "caption", 30.0), score("x", "clip_score", 2, "color", 20.0)];
        let table = summarise(&rows, &[], &BOOTSTRAP).unwrap();
        let found: Vec<&str> = table.iter().map(|row| row.scope.as_str()).collect();
        assert_eq!(found, ["all", "caption", "color"]);
    }

    #[test]
    fn mixed_protocols_are_refused() {
        let mut rows = scores();
        rows[4].protocol = "q".into();
        assert!(summarise(&rows, &[], &BOOTSTRAP).unwrap_err().to_string().contains("mixes the protocols"));
    }

    #[test]
    fn a_teacher_of_zero_has_no_retention() {
        let rows: Vec<ScoreRow> =
            (0..5).flat_map(|i| [score("teacher", "ocr_word", i, "seen", 0.0), score("base", "ocr_word", i, "seen", 0.0)]).collect();
        let table = summarise(&rows, &versus_teacher(), &BOOTSTRAP).unwrap();
        assert!(table.iter().all(|row| !row.metric.starts_with(RETENTION)));
        assert!(find(&table, "base", "ocr_word", ALL, None).ci_high > 30.0);
    }
}
