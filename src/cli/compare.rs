//! `scaledown report A B`: the differences of two runs as a table, and a gate.

use std::path::Path;

use clap::Args;

use super::columns::aligned;
use crate::error::{Error, Result};
use crate::report::compare::{self, Compared, Filter, Gate, Run};
use crate::report::significance::p_value;
use crate::run::evaluation::ComparisonRow;
use crate::stats::Bootstrap;
use crate::stats::comparison::Tests;

/// Two runs, and when they fail.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Two runs to compare, the older first: names below `runs/` or paths of their folders. Without them, the pipeline's report.
    #[arg(num_args = 2, value_names = ["A", "B"])]
    pub runs: Vec<String>,
    /// Compare these encoders only.
    #[arg(long = "encoder", value_name = "NAME", requires = "runs")]
    encoders: Vec<String>,
    /// Compare these metrics only.
    #[arg(long = "metric", value_name = "NAME", requires = "runs")]
    metrics: Vec<String>,
    /// Exit with code 4 if a metric of B is significantly worse than that of A, by more than this.
    #[arg(long, value_name = "POINTS", requires = "runs")]
    max_drop: Option<f64>,
    /// With --max-drop: exit with code 4 unless every interval shows that no more than this was lost.
    #[arg(long, requires = "max_drop")]
    proof: bool,
}

/// Prints the table; what could not be compared goes to stderr.
///
/// # Errors
/// A gate that fails, besides what the comparison itself refuses.
pub fn run(options: &Options, root: &Path, tests: &Tests, bootstrap: &Bootstrap) -> Result<()> {
    tests.check()?;
    let gate = options.max_drop.map(gate(options.proof)).transpose()?;
    let [first, second] = options.runs.as_slice() else {
        return Err(Error::config("two runs are compared", "give two names below `runs/`"));
    };
    let (first, second) = (Run::read(root, first)?, Run::read(root, second)?);
    let filter = Filter { encoders: options.encoders.clone(), metrics: options.metrics.clone() };
    let compared = compare::compare(&first, &second, &filter, tests, bootstrap)?;
    print!("{}", table(&compared));
    for gap in &compared.gaps {
        eprintln!("not compared: {gap}");
    }
    eprintln!("differences are {} minus {}, paired by prompt; p-values are corrected after Holm over the table", second.name, first.name);
    let failures = gate.map(|gate| gate.failures(&compared.rows)).unwrap_or_default();
    if failures.is_empty() {
        return Ok(());
    }
    let points = options.max_drop.unwrap_or_default();
    let what = if options.proof { "is not shown to be" } else { "is not" };
    Err(Error::Regression {
        message: format!("`{}` {what} within {points} points of `{}`: {}", second.name, first.name, failures.join("; ")),
    })
}

/// The gate for a number of points.
fn gate(proof: bool) -> impl Fn(f64) -> Result<Gate> {
    move |points| {
        if !(points >= 0.0 && points.is_finite()) {
            return Err(Error::config(
                format!("--max-drop is {points}, expected a number of points from 0"),
                "0 fails on any significant loss",
            ));
        }
        Ok(if proof { Gate::Proof(points) } else { Gate::Drop(points) })
    }
}

fn table(compared: &Compared) -> String {
    let head = ["encoder", "metric", "difference", "low", "high", "p(Holm)", "outcome", "images", "prompts"].map(str::to_owned).to_vec();
    let number = |value: f64| if value.is_finite() { format!("{value:+.2}") } else { String::new() };
    let line = |row: &ComparisonRow| {
        vec![
            row.encoder.clone(),
            row.metric.clone(),
            number(row.value),
            number(row.ci_low),
            number(row.ci_high),
            row.p_holm.map_or(String::new(), |p| p_value(Some(p)).trim_start_matches("p ").replace(' ', "")),
            row.outcome.clone(),
            row.n.to_string(),
            row.prompts.to_string(),
        ]
    };
    aligned(&std::iter::once(head).chain(compared.rows.iter().map(line)).collect::<Vec<_>>())
}
