//! The numbers of a longer run in the report of a short one: a summary that was copied into the pipeline's folder. What the
//! two runs have in common is not known here, so nothing of one is set against the other.

use std::collections::BTreeSet;
use std::path::Path;

use super::data::Data;
use super::page::Notes;
use super::sections::{self, HEADLINE};
use super::table::{Cell, escape};
use crate::error::{Error, Result};
use crate::run::files;
use crate::run::results::SummaryRow;

/// What the file is, for messages.
pub const WHAT: &str = "the summary of a longer run ([report] beside)";
/// How to get one.
pub const HINT: &str = "copy `runs/NAME/evaluate/summary.parquet` of the longer run to that place, or remove `beside` from [report]";

/// Begins the caption of every table, which is also copied alone.
const LABEL: &str = "A longer run: ";
/// Metrics whose n is the number of prompts, not of images.
const OF_PROMPTS: [&str; 2] = ["effective_rank", "mean_cosine"];
/// Digits of the hash that the page shows.
const DIGITS: usize = 8;

/// A longer run, of which the summary is known.
#[derive(Debug)]
pub struct LongerRun {
    data: Data,
    /// Name of the file.
    file: String,
    sha256: String,
}

impl LongerRun {
    /// Reads a summary as `evaluate` writes it.
    ///
    /// # Errors
    /// The file is not there, is no such table, or holds what no run reports: no plain value, one number twice, no number.
    pub fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(Error::Missing { what: WHAT.into(), path: path.into(), hint: HINT.into() });
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let summary = SummaryRow::read(path, HINT).map_err(|error| unusable(path, &error.to_string()))?;
        check(&summary).map_err(|found| unusable(path, &found))?;
        Ok(Self { data: Data::of_summary(&file, summary), sha256: files::sha256_file(path)?, file })
    }

    /// Its tables, each labelled, below a sentence on where they come from.
    pub fn html(&self, notes: &mut Notes) -> String {
        let words = format!(
            "<p>These numbers do not come from this run but from a longer one, whose summary is committed as <code>{}</code> ({}, SHA-256 \
             <code>{}</code>…); nothing in it is paired with this run or tested against it, so intervals of the two runs may be compared \
             by eye only.</p>",
            escape(&self.file),
            self.amount(),
            &self.sha256[..DIGITS]
        );
        let scores = sections::scores(&self.data, notes, LABEL);
        // The tests of the longer run are in another file, so nothing is called better or worse.
        let caption = format!("{LABEL}Student minus reference, paired within that run, without tests");
        let differences = sections::difference_table(&self.data, notes, &caption, &Cell::untested_difference).html();
        let kept = sections::shares_kept(&self.data, LABEL);
        let sizes = sections::efficiency(&self.data, notes, LABEL);
        format!("{words}{scores}{differences}{kept}{sizes}")
    }

    /// How much it rests on, in words; images where the summary says nothing of prompts.
    fn amount(&self) -> String {
        let most = |chosen: &[&str]| {
            let rows = self.data.summary.iter().filter(|row| row.versus.is_none() && chosen.contains(&row.metric.as_str()));
            rows.map(|row| row.n).max()
        };
        match (most(&OF_PROMPTS), most(&HEADLINE)) {
            (Some(n), _) => format!("{n} prompts"),
            (None, Some(n)) => format!("number of prompts not in it, at most {n} images of an encoder"),
            (None, None) => "number of prompts not in it".into(),
        }
    }
}

fn unusable(path: &Path, found: &str) -> Error {
    let message = format!(
        "cannot use `{}` as {WHAT}: expected a `summary.parquet` as `scaledown evaluate` writes it, found: {found}",
        path.display()
    );
    Error::config(message, HINT)
}

/// Says what of the rows is not as `evaluate` leaves it.
fn check(summary: &[SummaryRow]) -> Result<(), String> {
    if !summary.iter().any(|row| row.versus.is_none()) {
        return Err(format!("{} rows, none of them a plain value of an encoder", summary.len()));
    }
    let mut seen = BTreeSet::new();
    for row in summary {
        let SummaryRow { encoder, metric, scope, versus, value, ci_low, ci_high, .. } = row;
        let place = format!("`{metric}` of `{encoder}` over `{scope}`");
        // Limits without end stand for "no interval".
        if !value.is_finite() || ci_low.is_nan() || ci_high.is_nan() {
            return Err(format!("{place} is {value} with the interval [{ci_low}, {ci_high}]"));
        }
        if !seen.insert((encoder, metric, scope, versus)) {
            return Err(format!("two rows for {place}"));
        }
    }
    Ok(())
}
