//! The tables of the paper cell by cell beside what runs of this project measured: which run and metric answers a cell is data
//! (`datasets/paper-results.toml`).

use super::paper::{Published, PublishedRow, PublishedTable};
use crate::error::{Error, Result};
use crate::models::card::TEACHER;
use crate::run::results::SummaryRow;

/// What can be reproduced.
pub const TARGETS: [&str; 9] = ["table1", "table2", "table3", "table4", "table5", "table6", "table7", "fig1", "fig6"];

/// The size curves of Figure 1: metric of a run, and the tables whose columns the paper averages for it.
const CURVES: [(&str, &str, u64, &str); 3] = [
    ("kept of T2I-CompBench, %", "retention_compbench", 1, "higher"),
    ("kept of CLIP score, %", "retention_clip_score", 2, "higher"),
    ("kept of CommonText, %", "retention_ocr_mean", 3, "higher"),
];

/// One number of the paper and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// For example `Table 1`.
    pub place: String,
    pub model: String,
    pub column: String,
    pub paper: f64,
    /// The pipeline and encoder that answer it, if any does.
    pub run: Option<(String, String)>,
    /// The metric of the run's summary, over `scope`, and what it is multiplied with to have the paper's unit.
    pub metric: Option<String>,
    pub scope: String,
    pub factor: f64,
}

/// What a run has for a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Ours {
    pub value: f64,
    /// 95 % interval.
    pub interval: (f64, f64),
    pub n: u64,
    pub protocol: String,
}

/// The cells of one of [`TARGETS`]; `fig6` is a picture and has none.
///
/// # Errors
/// An unknown target; published numbers that cannot be read.
pub fn cells(target: &str) -> Result<Vec<Cell>> {
    let published = Published::read()?;
    match target {
        "fig1" => figure_1(&published),
        "fig6" => Ok(Vec::new()),
        _ => {
            let number = target.strip_prefix("table").and_then(|number| number.parse::<u64>().ok());
            let tables: Vec<&PublishedTable> = published.tables.iter().filter(|table| Some(table.number) == number).collect();
            if tables.is_empty() {
                return Err(Error::config(format!("the paper has no `{target}`"), format!("name one of {}", TARGETS.join(", "))));
            }
            tables.into_iter().map(of_table).collect::<Result<Vec<_>>>().map(|cells| cells.concat())
        }
    }
}

/// The pipelines whose runs answer a target, in the order of the paper.
pub fn pipelines(target: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    let of_cells = cells(target)?.into_iter().filter_map(|cell| cell.run.map(|run| run.0));
    let of_map = (target == "fig6").then(|| MAP_OF.to_owned());
    for name in of_cells.chain(of_map) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The run whose map of embeddings is Figure 6.
pub const MAP_OF: &str = "flux-dev";

fn of_table(table: &PublishedTable) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for row in &table.rows {
        for (i, column) in table.columns.iter().enumerate() {
            cells.push(Cell {
                place: format!("Table {}", table.number),
                model: row.model.clone(),
                column: column.clone(),
                paper: value(row, i)?,
                run: row.run.clone().zip(row.encoder.clone()),
                metric: Some(table.metrics[i].clone()).filter(|metric| !metric.is_empty()),
                scope: table.scope.clone(),
                factor: table.factor,
            });
        }
    }
    Ok(cells)
}

/// The share of the teacher's score that each student keeps, over the means of its columns.
fn figure_1(published: &Published) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for (column, metric, number, direction) in CURVES {
        let found = published.tables.iter().find(|table| table.number == number && table.direction == direction);
        let table = found.ok_or_else(|| Error::Invalid(format!("no published table {number}")))?;
        let mean = |row: &PublishedRow| -> Result<f64> {
            let values = (0..row.values.len()).map(|i| value(row, i)).collect::<Result<Vec<f64>>>()?;
            Ok(values.iter().sum::<f64>() / values.len() as f64)
        };
        let teacher = table.rows.iter().find(|row| row.encoder.as_deref() == Some(TEACHER) && row.run.as_deref() == Some(MAP_OF));
        let teacher = mean(teacher.ok_or_else(|| Error::Invalid(format!("published table {number} has no row of the teacher")))?)?;
        for row in table.rows.iter().filter(|row| row.encoder.as_deref().is_some_and(|encoder| encoder != TEACHER)) {
            cells.push(Cell {
                place: "Figure 1".into(),
                model: row.model.clone(),
                column: column.into(),
                paper: 100.0 * mean(row)? / teacher,
                run: row.run.clone().zip(row.encoder.clone()),
                metric: Some(metric.into()),
                scope: "all".into(),
                factor: 1.0,
            });
        }
    }
    Ok(cells)
}

fn value(row: &PublishedRow, i: usize) -> Result<f64> {
    row.values[i].parse().map_err(|_| Error::Invalid(format!("published cell `{}` is no number", row.values[i])))
}

impl Cell {
    /// What a summary has for this cell.
    ///
    /// # Errors
    /// A sentence that says why there is nothing.
    pub fn answer(&self, summary: &[SummaryRow]) -> std::result::Result<Ours, String> {
        let Some((_, encoder)) = &self.run else { return Err("no pipeline makes this model".into()) };
        let Some(metric) = &self.metric else { return Err("this project does not measure it".into()) };
        let row = summary.iter().find(|row| row.encoder == *encoder && row.metric == *metric && row.scope == self.scope);
        let row = row.ok_or_else(|| format!("the run has no `{metric}` of `{encoder}` over `{}`", self.scope))?;
        let scaled = |number: f64| number * self.factor;
        Ok(Ours { value: scaled(row.value), interval: (scaled(row.ci_low), scaled(row.ci_high)), n: row.n, protocol: row.protocol.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(encoder: &str, metric: &str, value: f64) -> SummaryRow {
        SummaryRow {
            encoder: encoder.into(),
            metric: metric.into(),
            scope: "all".into(),
            versus: None,
            value,
            ci_low: value - 1.0,
            ci_high: value + 1.0,
            n: 300,
            unit: "%".into(),
            direction: "higher".into(),
            protocol: "a judge".into(),
        }
    }

    #[test]
    fn a_cell_is_answered_by_its_run_and_metric_only() {
        let cells = cells("table1").unwrap();
        let base = cells.iter().find(|cell| cell.model == "Flux w/ T5-Base" && cell.column == "Color").unwrap();
        assert_eq!((base.paper, base.run.clone().unwrap()), (73.41, ("flux-dev".to_owned(), "base".to_owned())));
        let summary = [row("teacher", "compbench_color", 80.0), row("base", "compbench_color", 70.0)];
        let ours = base.answer(&summary).unwrap();
        assert_eq!((ours.value, ours.interval, ours.n), (70.0, (69.0, 71.0), 300));
        assert!(base.answer(&summary[..1]).unwrap_err().contains("no `compbench_color` of `base`"));
        let foreign = cells.iter().find(|cell| cell.model == "Pixart-Alpha-ft").unwrap();
        assert_eq!(foreign.answer(&summary).unwrap_err(), "no pipeline makes this model");
    }

    #[test]
    fn memory_is_compared_in_the_papers_unit() {
        let cells = cells("table5").unwrap();
        let base = cells.iter().find(|cell| cell.column == "T5 (MB)" && cell.model == "T5-Base").unwrap();
        let ours = base.answer(&[row("base", "bytes_bf16", 285e6)]).unwrap();
        assert!((ours.value - 285.0).abs() < 1e-9, "{ours:?}");
        let latency = cells.iter().find(|cell| cell.column.starts_with("with offload")).unwrap();
        assert!(latency.answer(&[]).unwrap_err().contains("no `pipeline_offload_s` of"));
    }

    #[test]
    fn figure_1_is_the_share_of_the_teachers_mean() {
        let cells = cells("fig1").unwrap();
        let xl = cells.iter().find(|cell| cell.model.ends_with("T5-XL") && cell.column.contains("CompBench")).unwrap();
        // "T5-XL retains 97 % of T5-XXL's performance".
        assert!((96.0..98.0).contains(&xl.paper), "{xl:?}");
        assert_eq!(cells.len(), 3 * 4);
    }

    #[test]
    fn every_target_names_its_pipelines() {
        for target in TARGETS {
            assert!(!pipelines(target).unwrap().is_empty(), "{target}");
        }
        assert_eq!(pipelines("table6").unwrap(), ["pixart-alpha"]);
        assert!(cells("table9").unwrap_err().hint().unwrap().contains("table7"));
    }
}
