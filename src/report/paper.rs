//! The published numbers of the paper, embedded as data.

use serde::Deserialize;

use super::table::{Cell, Table};
use crate::error::{Error, Result};

const PUBLISHED: &str = include_str!("../../datasets/paper-results.toml");

/// All published tables.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    pub source: String,
    pub protocol: String,
    #[serde(rename = "table")]
    pub tables: Vec<PublishedTable>,
}

/// One published table, or the part of one whose columns share a direction.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedTable {
    pub number: u64,
    pub title: String,
    pub columns: Vec<String>,
    /// Metrics of a run that answer the columns; empty where none does.
    pub metrics: Vec<String>,
    /// The scope of these metrics.
    #[serde(default = "all")]
    pub scope: String,
    /// What they are multiplied with to have the unit of the columns.
    #[serde(default = "one")]
    pub factor: f64,
    pub direction: String,
    pub rows: Vec<PublishedRow>,
}

/// One model's line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedRow {
    pub model: String,
    /// As printed.
    pub values: Vec<String>,
    /// The pipeline that makes such a model, and the encoder in it.
    pub run: Option<String>,
    pub encoder: Option<String>,
}

fn all() -> String {
    "all".into()
}

fn one() -> f64 {
    1.0
}

impl Published {
    /// Reads the embedded tables.
    ///
    /// # Errors
    /// A row with more or fewer cells than its table has columns, or a cell that is no number.
    pub fn read() -> Result<Self> {
        let path = "datasets/paper-results.toml";
        let published: Self = toml::from_str(PUBLISHED).map_err(|error| Error::format("table of published numbers", path, error))?;
        for table in &published.tables {
            if table.metrics.len() != table.columns.len() {
                let reason = format!("Table {} has {} metrics for {} columns", table.number, table.metrics.len(), table.columns.len());
                return Err(Error::format("table of published numbers", path, reason));
            }
            if let Some(row) = table.rows.iter().find(|row| row.values.len() != table.columns.len()) {
                let reason = format!("`{}` has {} cells for {} columns", row.model, row.values.len(), table.columns.len());
                return Err(Error::format("table of published numbers", path, reason));
            }
            if let Some(cell) = table.rows.iter().flat_map(|row| &row.values).find(|cell| cell.parse::<f64>().is_err()) {
                return Err(Error::format("table of published numbers", path, format!("cell `{cell}` is no number")));
            }
        }
        Ok(published)
    }

    /// Percentage of the teacher's score that the paper's T5-Base keeps: the means over the columns of its tables for composition and
    /// text rendering, as the paper's Figure 1 takes them.
    pub fn share_of_base(&self, metric: &str) -> Option<f64> {
        let table = self.tables.iter().find(|table| match metric {
            "compbench" => table.number == 1,
            "ocr_mean" => table.number == 3,
            _ => table.number == 2 && table.metrics.iter().any(|column| column == metric),
        })?;
        let mean = |model: &str| {
            let row = table.rows.iter().find(|row| row.model.contains(model))?;
            let values: Vec<f64> = row.values.iter().filter_map(|cell| cell.parse().ok()).collect();
            Some(values.iter().sum::<f64>() / values.len() as f64)
        };
        Some(100.0 * mean("T5-Base")? / mean("(teacher)")?)
    }

    /// The tables of the given numbers as HTML, after `ours`, which is markup.
    pub fn beside(&self, ours: &str, numbers: &[u64]) -> String {
        let tables = self.tables.iter().filter(|table| numbers.contains(&table.number));
        format!(
            "<div class=\"beside\">{ours}<div class=\"published\">{}</div></div>",
            tables.map(|table| table.html(&self.protocol)).collect::<String>()
        )
    }
}

impl PublishedTable {
    fn html(&self, protocol: &str) -> String {
        let caption = format!("The paper, Table {}: {} ({protocol})", self.number, self.title);
        let table = Table::new(&caption).column("Model", None);
        let mut table = self.columns.iter().fold(table, |table, column| table.column(column, None));
        let teacher = self.rows.iter().find(|row| row.model.ends_with("(teacher)")).filter(|_| self.direction == "higher");
        for row in &self.rows {
            let share = |i: usize, value: f64| {
                let of: f64 = teacher.filter(|teacher| teacher.model != row.model)?.values[i].parse().ok()?;
                row.model.contains("T5-").then_some(100.0 * value / of)
            };
            let cells = row.values.iter().enumerate().map(|(i, cell)| match cell.parse() {
                Ok(value) => Cell::number(value, cell).with_share(share(i, value)),
                Err(_) => Cell::text(cell),
            });
            table.row(std::iter::once(Cell::text(&row.model)).chain(cells).collect());
        }
        table.html()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_the_paper_reports_follow_from_its_own_tables() {
        let published = Published::read().unwrap();
        let row = |number: u64, column: &str, model: &str| {
            let table = published.tables.iter().find(|t| t.number == number && t.columns.iter().any(|c| c == column)).unwrap();
            let cells = &table.rows.iter().find(|row| row.model == model).unwrap().values;
            cells.iter().map(|cell| cell.parse().unwrap()).collect::<Vec<f64>>()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let ablation = row(4, "CommonText Val", "all prompts");
        // Printed with one and two decimals.
        assert!((mean(&row(1, "Color", "Flux w/ T5-Base")) - ablation[1]).abs() < 0.01);
        assert!((mean(&row(3, "Word", "Flux w/ T5-Base")) - ablation[2]).abs() < 0.05);
        // "T5-XL retains 97 % of T5-XXL's performance": the mean over the compositional categories.
        let kept = mean(&row(1, "Color", "Flux w/ T5-XL")) / mean(&row(1, "Color", "Flux w/ T5-XXL (teacher)"));
        assert!((0.96..0.98).contains(&kept), "{kept}");
        let shares = ["clip_score", "compbench", "ocr_mean"].map(|metric| published.share_of_base(metric).unwrap().round());
        assert_eq!(shares, [95.0, 91.0, 79.0]);
        assert!(published.share_of_base("unknown").is_none());
    }
}
