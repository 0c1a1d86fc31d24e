//! Tested differences as words and tables. Nothing here says "better" or "worse" without a corrected test, nor "equivalent"
//! without an equivalence test and its margin.

use std::fmt::Write;
use std::path::Path;

use super::data::Data;
use super::page::{Notes, arrow, metric_title};
use super::table::{Cell, Table, format_value, signed};
use crate::error::Result;
use crate::run::evaluation::{ComparisonRow, ScalingRow};
use crate::run::results::SummaryRow;
use crate::stats::comparison::Outcome;

/// Where results were made before differences were tested.
const UNTESTED: &str = "the tests of the differences; without them nothing is called better, worse or equivalent";

/// The metrics whose tests stand open on the page.
const FIRST: [&str; 4] = ["clip_score", "compbench", "frechet", "ocr_mean"];

/// What `evaluate` tested.
#[derive(Debug, Default)]
pub struct Tested {
    pub comparisons: Vec<ComparisonRow>,
    pub scaling: Vec<ScalingRow>,
}

impl Tested {
    /// Reads the tables beside the scores; one that is not there becomes a gap.
    pub fn read(evaluation: &Path, gaps: &mut Vec<String>) -> Result<Self> {
        let hint = "run `scaledown evaluate` again";
        let mut tested = Self::default();
        let (comparisons, scaling) = (evaluation.join("comparisons.parquet"), evaluation.join("scaling.parquet"));
        if comparisons.is_file() {
            tested.comparisons = ComparisonRow::read(&comparisons, hint)?;
        } else {
            gaps.push(format!("Evaluate did not write {UNTESTED}."));
        }
        if scaling.is_file() {
            tested.scaling = ScalingRow::read(&scaling, hint)?;
        }
        Ok(tested)
    }

    /// The comparison behind a reported difference over everything.
    pub fn of(&self, row: &SummaryRow) -> Option<&ComparisonRow> {
        self.comparisons.iter().find(|tested| {
            tested.encoder == row.encoder
                && Some(tested.versus.as_str()) == row.versus.as_deref()
                && tested.metric == row.metric
                && tested.scope == row.scope
        })
    }

    /// What may be said about a reported difference; without a test nothing.
    pub fn outcome(&self, row: &SummaryRow) -> Outcome {
        self.of(row).map_or(Outcome::Undecided, |tested| Outcome::of(&tested.outcome))
    }
}

/// The outcome with what it rests on: "worse, p < 0.001", "equivalent within ±2.0, p 0.012", "undecided: …".
pub fn statement(row: &ComparisonRow) -> String {
    let within = |p: Option<f64>| format!("within ±{}, {}", row.margin.map_or(String::new(), |m| format_value(&row.metric, m)), p_value(p));
    match Outcome::of(&row.outcome) {
        Outcome::Better => format!("better, {}", p_value(row.p_holm)),
        Outcome::Worse => format!("worse, {}", p_value(row.p_holm)),
        Outcome::Equivalent => format!("equivalent {}", within(row.p_equivalence_holm)),
        Outcome::BetterWithinMargin => format!("better, {}, yet {}", p_value(row.p_holm), within(row.p_equivalence_holm)),
        Outcome::WorseWithinMargin => format!("worse, {}, yet {}", p_value(row.p_holm), within(row.p_equivalence_holm)),
        Outcome::Undecided => match row.margin {
            Some(margin) => {
                format!("undecided: neither a difference nor equivalence within ±{} is shown", format_value(&row.metric, margin))
            }
            None => "undecided: no difference is shown".into(),
        },
    }
}

/// A p-value as it is read: three decimals, two digits where it is small.
pub fn p_value(p: Option<f64>) -> String {
    match p {
        None => "no p-value".into(),
        Some(p) if p < 0.001 => "p < 0.001".into(),
        Some(p) => format!("p {p:.3}"),
    }
}

/// Every test over all prompts and the scaling laws.
pub fn html(data: &Data, notes: &mut Notes) -> String {
    let rows: Vec<&ComparisonRow> = data.tested.comparisons.iter().filter(|row| row.scope == "all").collect();
    if rows.is_empty() {
        return format!("<p>No difference was tested.</p>{}", scaling(data, notes));
    }
    let words = "<p>“Better” and “worse” need a p-value that stays below the level after Holm's correction over everything compared with the \
                 same reference, and an interval that excludes zero. “Equivalent” needs two one-sided tests against the margin, corrected in \
                 the same way. What is neither is undecided: too few prompts, not no difference.</p>";
    let (first, others): (Vec<&ComparisonRow>, Vec<&ComparisonRow>) = rows.iter().partition(|row| FIRST.contains(&row.metric.as_str()));
    let mut html = words.to_owned();
    if !first.is_empty() {
        html.push_str(&tests("Student minus reference: tests over all prompts", &first));
    }
    if !others.is_empty() {
        let table = tests("Student minus reference: the other tests over all prompts", &others);
        let _ = write!(html, "<details><summary>The other {} tests, in the same correction</summary>{table}</details>", others.len());
    }
    html + &scaling(data, notes)
}

/// One row a test.
fn tests(title: &str, rows: &[&ComparisonRow]) -> String {
    let mut table = Table::new(title).column("Student", None);
    for title in [
        "minus",
        "Metric",
        "Difference",
        "Outcome",
        "p (Holm)",
        "p",
        "p, second method",
        "Test",
        "Margin",
        "p of equivalence (Holm)",
        "Prompts",
    ] {
        table = table.column(title, None);
    }
    for row in rows {
        let p = |p: Option<f64>| p.map_or_else(|| Cell::absent("cannot be tested"), |value| Cell::number(value, &p_value(p)));
        let margin = |m: f64| Cell::number(m, &format!("±{}", format_value(&row.metric, m)));
        table.row(vec![
            Cell::text(&row.encoder),
            Cell::text(&row.versus),
            Cell::text(&format!("{}{}", metric_title(&row.metric), arrow(&row.direction))),
            Cell::number(row.value, &signed(&row.metric, row.value)),
            Cell::text(&row.outcome),
            p(row.p_holm),
            p(row.p),
            p(row.p_check),
            Cell::text(&row.test),
            row.margin.map_or_else(|| Cell::absent("no margin was stated"), margin),
            row.margin.map_or_else(|| Cell::absent("no margin was stated"), |_| p(row.p_equivalence_holm)),
            Cell::number(row.prompts as f64, &row.prompts.to_string()),
        ]);
    }
    table.html()
}

/// The fitted laws; a sentence where there is none.
fn scaling(data: &Data, notes: &mut Notes) -> String {
    let mut table = Table::new("Scaling laws: points gained by ten times the encoder's weights");
    for title in ["Metric", "Gain for ten times the weights", "Interval over prompts", "Interval over encoders (fit)", "R²", "Encoders"] {
        table = table.column(title, None);
    }
    let range = |low: f64, high: f64| {
        if low.is_finite() && high.is_finite() { format!("[{low:.1}, {high:.1}]").replace('-', "−") } else { "no interval".into() }
    };
    for row in &data.tested.scaling {
        notes.number(&row.protocol);
        table.row(vec![
            Cell::text(&metric_title(&row.metric)),
            Cell::number(row.slope, &signed(&row.metric, row.slope)),
            Cell::text(&range(row.ci_low, row.ci_high)),
            Cell::text(&range(row.fit_low, row.fit_high)),
            Cell::number(row.r_squared, &format!("{:.3}", row.r_squared)),
            Cell::number(row.encoders as f64, &row.encoders.to_string()),
        ]);
    }
    table.html()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(outcome: Outcome, p: f64, margin: Option<f64>) -> ComparisonRow {
        ComparisonRow {
            encoder: "base".into(),
            versus: "teacher".into(),
            metric: "compbench".into(),
            scope: "all".into(),
            value: 1.0,
            ci_low: -1.0,
            ci_high: 3.0,
            n: 40,
            prompts: 40,
            standard_error: 1.0,
            test: "clustered paired t".into(),
            p: Some(p),
            p_check: Some(p),
            p_holm: Some(p),
            margin,
            p_equivalence: Some(p),
            p_equivalence_holm: Some(p),
            family: 9,
            outcome: outcome.words().into(),
            unit: "%".into(),
            direction: "higher".into(),
            protocol: "p".into(),
        }
    }

    #[test]
    fn every_outcome_states_its_evidence() {
        for (outcome, p, expected) in [
            (Outcome::Better, 0.0123, "better, p 0.012"),
            (Outcome::Worse, 1e-9, "worse, p < 0.001"),
            (Outcome::Equivalent, 0.02, "equivalent within ±2.0, p 0.020"),
            (Outcome::WorseWithinMargin, 0.02, "worse, p 0.020, yet within ±2.0, p 0.020"),
            (Outcome::Undecided, 0.4, "undecided: neither a difference nor equivalence within ±2.0 is shown"),
        ] {
            assert_eq!(statement(&row(outcome, p, Some(2.0))), expected);
        }
        assert_eq!(statement(&row(Outcome::Undecided, 0.4, None)), "undecided: no difference is shown");
    }

    #[test]
    fn a_difference_without_a_test_is_undecided() {
        let difference = SummaryRow {
            encoder: "base".into(),
            metric: "compbench".into(),
            scope: "all".into(),
            versus: Some("teacher".into()),
            value: 30.0,
            ci_low: 20.0,
            ci_high: 40.0,
            n: 40,
            unit: "%".into(),
            direction: "higher".into(),
            protocol: "p".into(),
        };
        assert_eq!(Tested::default().outcome(&difference), Outcome::Undecided);
        let tested = Tested { comparisons: vec![row(Outcome::Better, 0.01, None)], scaling: Vec::new() };
        assert_eq!(tested.outcome(&difference), Outcome::Better);
        assert_eq!(tested.outcome(&SummaryRow { scope: "seen".into(), ..difference }), Outcome::Undecided);
    }
}
