//! Two runs beside each other: the difference of every metric of every encoder that both have, paired by prompt and image, and a
//! gate for continuous integration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::run::evaluation::ComparisonRow;
use crate::run::results::ScoreRow;
use crate::stats::Bootstrap;
use crate::stats::comparison::{Outcome, Subject, Tests, compare_pairs, correct};
use crate::stats::scores::{ALL, ScoreTable, paired_strata, unit_and_direction};

/// File of the scores in a run's folder.
const SCORES: &str = "evaluate/scores.parquet";

/// The scores of one run.
#[derive(Debug)]
pub struct Run {
    pub name: String,
    pub scores: ScoreTable,
}

impl Run {
    /// Reads the run `name`: a name below `runs/`, a run's folder, or a table of scores.
    ///
    /// # Errors
    /// A name that is none of these, with the places that were looked at.
    pub fn read(root: &Path, name: &str) -> Result<Self> {
        let given = PathBuf::from(name);
        let places = [root.join("runs").join(name).join(SCORES), given.join(SCORES), given.join("scores.parquet"), given.clone()];
        let Some(path) = places.iter().find(|path| path.is_file()) else {
            let message =
                format!("`{name}` is no run with scores: neither `{}` nor `{}` is there", places[0].display(), places[1].display());
            return Err(Error::config(message, "run `scaledown evaluate` for it, or give the path of its folder below `runs`"));
        };
        let rows = ScoreRow::read(path, "run `scaledown evaluate` first")?;
        Ok(Self { name: name.to_owned(), scores: ScoreTable::new(&rows)? })
    }

    fn encoders(&self) -> BTreeSet<&str> {
        self.scores.metrics.iter().flat_map(|(_, encoders)| encoders.keys().map(String::as_str)).collect()
    }
}

/// What is compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Encoders; all that both runs have where empty.
    pub encoders: Vec<String>,
    /// Metrics; all where empty.
    pub metrics: Vec<String>,
}

/// The differences of two runs.
#[derive(Debug)]
pub struct Compared {
    /// Second run minus first.
    pub rows: Vec<ComparisonRow>,
    /// What could not be compared, in sentences.
    pub gaps: Vec<String>,
}

/// Compares `second` with `first`.
///
/// # Errors
/// Nothing to compare; an encoder or a metric of the filter that one run lacks.
pub fn compare(first: &Run, second: &Run, filter: &Filter, tests: &Tests, bootstrap: &Bootstrap) -> Result<Compared> {
    let (in_first, in_second) = (first.encoders(), second.encoders());
    for encoder in &filter.encoders {
        if let Some(run) = [(first, &in_first), (second, &in_second)].into_iter().find(|(_, names)| !names.contains(encoder.as_str())) {
            let known = run.1.iter().copied().collect::<Vec<_>>().join(", ");
            return Err(Error::config(format!("run `{}` has no scores of encoder `{encoder}`", run.0.name), format!("it has {known}")));
        }
    }
    let mut compared = Compared { rows: Vec::new(), gaps: Vec::new() };
    let metrics: Vec<String> = first.scores.metrics_and_scopes().into_iter().map(|(metric, _)| metric).collect();
    if let Some(metric) = filter.metrics.iter().find(|metric| !metrics.contains(metric)) {
        let message = format!("run `{}` has no metric `{metric}`", first.name);
        return Err(Error::config(message, format!("it has {}; Fréchet distances have no value per image", metrics.join(", "))));
    }
    for metric in metrics.iter().filter(|metric| filter.metrics.is_empty() || filter.metrics.contains(metric)) {
        let chosen = |name: &&str| filter.encoders.is_empty() || filter.encoders.iter().any(|encoder| encoder == name);
        for encoder in in_first.iter().copied().filter(chosen) {
            compared.add(metric, encoder, [first, second], tests, bootstrap)?;
        }
    }
    for encoder in in_first.symmetric_difference(&in_second) {
        let owner = if in_first.contains(encoder) { &first.name } else { &second.name };
        compared.gaps.push(format!("encoder {encoder} is in {owner} only"));
    }
    if compared.rows.is_empty() {
        let hint = match compared.gaps.first() {
            Some(gap) => format!("{gap}; runs are compared by the names of their encoders"),
            None => "runs are compared by the names of their encoders".into(),
        };
        return Err(Error::config(format!("runs `{}` and `{}` share no scored image", first.name, second.name), hint));
    }
    correct(&mut compared.rows, tests);
    Ok(compared)
}

impl Compared {
    fn add(&mut self, metric: &str, encoder: &str, [first, second]: [&Run; 2], tests: &Tests, bootstrap: &Bootstrap) -> Result<()> {
        let strata = |run: &Run| run.scores.strata(metric, ALL, encoder);
        let (own, other) = match (strata(second), strata(first)) {
            (Some(own), Some(other)) => (own, other),
            (None, Some(_)) if second.encoders().contains(encoder) => {
                self.gaps.push(format!("{metric} of {encoder} is in {} only", first.name));
                return Ok(());
            }
            _ => return Ok(()),
        };
        let protocols = [first, second].map(|run| run.scores.protocol(metric, encoder).unwrap_or_default());
        if protocols[0] != protocols[1] {
            self.gaps
                .push(format!("{metric} of {encoder} was measured under different protocols: `{}` and `{}`", protocols[0], protocols[1]));
            return Ok(());
        }
        let Some(pairs) = paired_strata(&own, &other) else {
            self.gaps.push(format!("{metric} of {encoder} has no prompt in common"));
            return Ok(());
        };
        let (paired, all): (usize, usize) = (pairs.iter().map(Vec::len).sum(), own.iter().map(|values| values.len()).sum());
        let before: usize = other.iter().map(|values| values.len()).sum();
        if paired < all.max(before) {
            self.gaps.push(format!("{metric} of {encoder}: {paired} images are in both runs, of {before} and {all}"));
        }
        let (unit, direction) = unit_and_direction(metric)?;
        let subject = Subject { encoder, versus: &first.name, metric, scope: ALL, unit, direction, protocol: &protocols[0] };
        self.rows.push(compare_pairs(subject, &pairs, tests, bootstrap)?);
        Ok(())
    }
}

/// When two runs fail to pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// A metric got worse by more than this many points, and the loss is significant.
    Drop(f64),
    /// A metric is not shown to be at most this many points worse: its interval reaches farther.
    Proof(f64),
}

impl Gate {
    /// The rows that fail, each with the reason.
    pub fn failures(self, rows: &[ComparisonRow]) -> Vec<String> {
        rows.iter().filter_map(|row| self.failure(row)).collect()
    }

    fn failure(self, row: &ComparisonRow) -> Option<String> {
        // Losses are positive in the direction that is worse.
        let (loss, at_most) = match row.direction.as_str() {
            "higher" => (-row.value, -row.ci_low),
            "lower" => (row.value, row.ci_high),
            _ => return None,
        };
        let subject = format!("{} of {}", row.metric, row.encoder);
        match self {
            Self::Drop(points) => {
                let worse = matches!(Outcome::of(&row.outcome), Outcome::Worse | Outcome::WorseWithinMargin);
                (worse && loss > points).then(|| format!("{subject} got worse by {loss:.2} points"))
            }
            Self::Proof(points) => (at_most > points).then(|| {
                let reach = if at_most.is_finite() { format!("up to {at_most:.2} points") } else { "any loss".into() };
                format!("{subject} may have lost {reach}")
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 300, level: 0.95, seed: 1 };

    fn run(name: &str, change: impl Fn(u64, f64) -> f64, keep: impl Fn(&ScoreRow) -> bool) -> Run {
        let mut rows = Vec::new();
        for (encoder, level) in [("teacher", 80.0), ("base", 60.0)] {
            for prompt_id in 0..40 {
                for (metric, category) in [("compbench_color", "color"), ("ocr_char", "seen")] {
                    let value = level + (prompt_id * 7 % 11) as f64;
                    rows.push(ScoreRow {
                        encoder: encoder.into(),
                        prompt_id,
                        dataset: "x".into(),
                        category: category.into(),
                        image_idx: 0,
                        metric: metric.into(),
                        value: if encoder == "base" { change(prompt_id, value) } else { value },
                        detail: None,
                        protocol: "p".into(),
                    });
                }
            }
        }
        rows.retain(keep);
        Run { name: name.into(), scores: ScoreTable::new(&rows).unwrap() }
    }

    fn compared(second: &Run) -> Compared {
        let first = run("before", |_, value| value, |_| true);
        compare(&first, second, &Filter::default(), &Tests::default(), &BOOTSTRAP).unwrap()
    }

    #[test]
    fn equal_runs_pass_every_gate() {
        let compared = compared(&run("after", |_, value| value, |_| true));
        assert_eq!(compared.rows.len(), 4);
        assert!(compared.rows.iter().all(|row| row.value == 0.0), "{:?}", compared.rows);
        // Forty prompts that agree do not exclude two points: one prompt in fifty may lose everything.
        assert!(compared.rows.iter().all(|row| row.outcome == "undecided"), "{:?}", compared.rows);
        assert!(Gate::Drop(0.0).failures(&compared.rows).is_empty() && Gate::Proof(0.5).failures(&compared.rows).is_empty());
        assert!(compared.gaps.is_empty());
    }

    #[test]
    fn a_loss_fails_and_says_whose() {
        let compared = compared(&run("after", |i, value| value - 3.0 - (i % 3) as f64, |_| true));
        let failures = Gate::Drop(2.0).failures(&compared.rows);
        assert_eq!(failures, ["compbench_color of base got worse by 3.98 points", "ocr_char of base got worse by 3.98 points"]);
        assert!(Gate::Drop(4.0).failures(&compared.rows).is_empty() && Gate::Proof(5.0).failures(&compared.rows).is_empty());
    }

    #[test]
    fn noise_fails_only_where_proof_is_asked_for() {
        let compared = compared(&run("after", |i, value| value + if i % 2 == 0 { 14.0 } else { -15.0 }, |_| true));
        assert!(Gate::Drop(0.0).failures(&compared.rows).is_empty());
        let failures = Gate::Proof(2.0).failures(&compared.rows);
        assert!(failures.len() == 2 && failures[0].contains("may have lost up to"), "{failures:?}");
    }

    #[test]
    fn what_only_one_run_has_is_said() {
        let compared = compared(&run("after", |_, v| v, |row| row.encoder == "base" && (row.metric != "ocr_char") && row.prompt_id < 30));
        assert_eq!(compared.rows.len(), 1);
        for words in ["encoder teacher is in before only", "ocr_char of base is in before only", "30 images are in both runs, of 40 and 30"]
        {
            assert!(compared.gaps.iter().any(|gap| gap.contains(words)), "{words}: {:?}", compared.gaps);
        }
    }

    #[test]
    fn filters_that_match_nothing_list_what_there_is() {
        let (first, second) = (run("before", |_, v| v, |_| true), run("after", |_, v| v, |row| row.encoder == "base"));
        let error = |filter: Filter| compare(&first, &second, &filter, &Tests::default(), &BOOTSTRAP).unwrap_err();
        let encoder = error(Filter { encoders: vec!["teacher".into()], ..Filter::default() });
        assert!(encoder.to_string().contains("run `after`") && encoder.hint().unwrap().contains("it has base"), "{encoder}");
        let metric = error(Filter { metrics: vec!["frechet".into()], ..Filter::default() });
        assert!(metric.hint().unwrap().contains("compbench_color"), "{metric}");
    }
}
