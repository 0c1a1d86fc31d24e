//! The data card: what was built from what, under which licence, and what the audit found.

use std::fmt::Write;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::mini::Combinations;
use crate::data::frame;
use crate::data::leak::{LeakAudit, LeakPolicy};
use crate::data::sources::{PromptSource, RawPrompt, Reading, Removed};
use crate::error::Result;

/// Sample prompts shown of each category.
const SAMPLES: usize = 3;

/// The numbers of one build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub sources: Vec<SourceSummary>,
    pub dropped_by_length: usize,
    pub exact_duplicates: usize,
    pub normalised_duplicates: usize,
    pub leaks: LeakAudit,
    pub combinations: Combinations,
    pub tables: Vec<TableSummary>,
}

/// One source that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSummary {
    pub name: String,
    pub licence: String,
    /// Prompts before cleaning.
    pub prompts: usize,
    /// Rows that the source's own filters left out before.
    pub removed: Vec<Removed>,
}

impl SourceSummary {
    /// What is told of a source and its reading.
    pub fn new(source: &dyn PromptSource, reading: &Reading) -> Self {
        Self { name: source.name(), licence: source.licence(), prompts: reading.prompts.len(), removed: reading.removed.clone() }
    }
}

/// One category of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSummary {
    pub dataset: String,
    pub split: String,
    pub category: String,
    pub prompts: u64,
    pub shortest_characters: u64,
    pub median_characters: u64,
    pub longest_characters: u64,
}

/// Counts and lengths by set, split and category.
pub fn table_summaries(prompts: &[RawPrompt]) -> Result<Vec<TableSummary>> {
    let keys = ["dataset", "split", "category"];
    let characters = || col(frame::CHARACTERS);
    let table = frame::frame(prompts)?
        .lazy()
        .group_by_stable(keys.map(col))
        .agg([
            len().cast(DataType::UInt64).alias("prompts"),
            characters().min().alias("shortest"),
            characters().median().cast(DataType::UInt64).alias("median"),
            characters().max().alias("longest"),
        ])
        .sort(keys, SortMultipleOptions::default())
        .collect()?;
    let text = |name: &str| -> Result<Vec<String>> {
        Ok(table.column(name)?.str()?.iter().map(|cell| cell.unwrap_or_default().to_owned()).collect())
    };
    let number = |name: &str| -> Result<Vec<u64>> { Ok(table.column(name)?.u64()?.iter().flatten().collect()) };
    let (datasets, splits, categories) = (text("dataset")?, text("split")?, text("category")?);
    let (counts, shortest, median, longest) = (number("prompts")?, number("shortest")?, number("median")?, number("longest")?);
    let row = |i: usize| TableSummary {
        dataset: datasets[i].clone(),
        split: splits[i].clone(),
        category: categories[i].clone(),
        prompts: counts[i],
        shortest_characters: shortest[i],
        median_characters: median[i],
        longest_characters: longest[i],
    };
    Ok((0..counts.len()).map(row).collect())
}

/// The card as Markdown.
pub fn markdown(pipeline: &str, summary: &Summary, prompts: &[RawPrompt]) -> String {
    let mut card = format!("# Prompts of the pipeline `{pipeline}`\n\n## Sources\n\n| source | licence | prompts read |\n|---|---|---|\n");
    let mut line = |text: std::fmt::Arguments| writeln!(card, "{text}").expect("writing to a string cannot fail");
    for source in &summary.sources {
        line(format_args!("| {} | {} | {} |", source.name, source.licence, source.prompts));
    }
    line(format_args!(
        "\n## Tables\n\n| set | split | category | prompts | characters: shortest, median, longest |\n|---|---|---|---|---|"
    ));
    for t in &summary.tables {
        let lengths = format!("{}, {}, {}", t.shortest_characters, t.median_characters, t.longest_characters);
        line(format_args!("| {} | {} | {} | {} | {lengths} |", t.dataset, t.split, t.category, t.prompts));
    }
    line(format_args!("\n## Cleaning\n"));
    for (source, removed) in summary.sources.iter().flat_map(|source| source.removed.iter().map(move |removed| (source, removed))) {
        line(format_args!("* left out of {}, {}: {}", source.name, removed.filter, removed.rows));
    }
    line(format_args!("* dropped by length: {}", summary.dropped_by_length));
    line(format_args!("* dropped as exact duplicates within a set and split: {}", summary.exact_duplicates));
    line(format_args!("* dropped as duplicates up to case and punctuation: {}", summary.normalised_duplicates));
    let leaks = &summary.leaks;
    let fate = match leaks.policy {
        LeakPolicy::Drop => "removed from training",
        LeakPolicy::Keep => "kept",
    };
    line(format_args!("\n## Leak audit, training against validation, across all sets\n"));
    line(format_args!(
        "* training prompts that are validation prompts: {} exactly, {} up to case and punctuation; {fate}",
        leaks.exact, leaks.normalised
    ));
    let (seen, unseen) = (leaks.target_text_seen, leaks.target_text_unseen);
    line(format_args!("* validation prompts whose target text training shows: {seen}; does not show: {unseen}"));
    let c = &summary.combinations;
    line(format_args!(
        "* noun and colour combinations: {} in training, {} in validation, {} of these never in training",
        c.train, c.val, c.val_only
    ));
    line(format_args!("\n## Samples\n"));
    for t in &summary.tables {
        let of_table =
            prompts.iter().filter(|p| p.dataset == t.dataset && p.split.as_deref() == Some(t.split.as_str()) && p.category == t.category);
        for prompt in of_table.take(SAMPLES) {
            line(format_args!("* {} {} {}: {}", t.dataset, t.split, t.category, prompt.prompt));
        }
    }
    card
}
