//! The numbers of one build: what was read, what each filter removed, what stands in the tables, what the audit found.

use std::collections::BTreeMap;

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use super::mini::Combinations;
use crate::data::audit::Pair;
use crate::data::frame;
use crate::data::leak::LeakAudit;
use crate::data::sources::{PromptSource, RawPrompt, Reading, Removed};
use crate::error::Result;

/// The numbers of one build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub sources: Vec<SourceSummary>,
    /// Sources that were not there.
    pub missing: Vec<String>,
    /// Optional sources that were not there: the build is complete without them.
    pub left_out: Vec<String>,
    /// The build's own filters, in their order.
    pub filters: Vec<FilterSummary>,
    pub leaks: LeakAudit,
    /// Every training set against every validation set.
    pub audit: Vec<Pair>,
    pub combinations: Combinations,
    pub tables: Vec<TableSummary>,
    /// What each student trains on, in words.
    pub mixtures: BTreeMap<String, String>,
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

/// What one filter of the build removed from one set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterSummary {
    pub filter: String,
    pub dataset: String,
    pub removed: usize,
}

impl Summary {
    /// Notes how many prompts of each set a filter removed.
    pub fn filtered(&mut self, filter: &str, before: &BTreeMap<String, usize>, prompts: &[RawPrompt]) {
        let after = counts(prompts);
        for (dataset, &n) in before {
            let removed = n - after.get(dataset).copied().unwrap_or(0);
            self.filters.push(FilterSummary { filter: filter.into(), dataset: dataset.clone(), removed });
        }
    }

    /// Prompts of a set and split.
    pub fn prompts_of(&self, dataset: &str, split: &str) -> usize {
        self.tables.iter().filter(|table| table.dataset == dataset && table.split == split).map(|table| table.prompts as usize).sum()
    }
}

/// Prompts of each set.
pub fn counts(prompts: &[RawPrompt]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for prompt in prompts {
        *counts.entry(prompt.dataset.clone()).or_insert(0) += 1;
    }
    counts
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
