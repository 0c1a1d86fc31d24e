//! The paper's numbers, the released files' and this build's, beside each other.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::summary::Summary;
use crate::data::schema::{COMMONTEXT, COMMONTEXT_HELD_OUT, COMPBENCH, LAION, TRAIN, VAL};
use crate::data::sources::RawPrompt;
use crate::error::{Error, Result};

const PUBLISHED: &str = include_str!("../../../datasets/published-sets.toml");

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub what: String,
    pub paper: String,
    pub released: String,
    pub built: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    fact: Vec<Fact>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fact {
    key: String,
    what: String,
    paper: String,
    released: String,
}

/// The table; rows of sets that were not built say so.
pub fn rows(summary: &Summary, prompts: &[RawPrompt]) -> Result<Vec<Row>> {
    let path = "datasets/published-sets.toml";
    let published: Published = toml::from_str(PUBLISHED).map_err(|error| Error::format("list of facts", path, error))?;
    let row = |fact: Fact| {
        let Some(built) = built(&fact.key, summary, prompts) else {
            return Err(Error::format("list of facts", path, format!("no build gives the number `{}`", fact.key)));
        };
        Ok(Row { what: fact.what, paper: fact.paper, released: fact.released, built })
    };
    published.fact.into_iter().map(row).collect()
}

/// The number of this build; `None` for an unknown key.
fn built(key: &str, summary: &Summary, prompts: &[RawPrompt]) -> Option<String> {
    let count = |dataset: &str, split: &str| grouped(summary.prompts_of(dataset, split));
    let trained = || prompts.iter().filter(|p| p.dataset == COMMONTEXT && p.split.as_deref() == Some(TRAIN));
    let texts = || trained().filter_map(|p| p.target_text.as_deref());
    let several = |text: &&str| text.contains(' ');
    let seen = |val: &str| {
        let pair = summary.audit.iter().find(|pair| pair.train == COMMONTEXT && pair.val == val);
        pair.and_then(|pair| {
            let percent = pair.target_seen_percent()?;
            Some(format!("{} of {} ({} %)", grouped(pair.target_seen), grouped(pair.with_target), rounded(percent)))
        })
    };
    let not_built = || "not built".to_owned();
    let text = match key {
        "laion-train" => count(LAION, TRAIN),
        "compbench-train" => count(COMPBENCH, TRAIN),
        "compbench-val" => count(COMPBENCH, VAL),
        "commontext-train" => count(COMMONTEXT, TRAIN),
        "commontext-val" => count(COMMONTEXT, VAL),
        "commontext-texts" => {
            let different: BTreeSet<&str> = texts().collect();
            let phrases = different.iter().filter(|text| several(text)).count();
            format!("{}: {} words and {phrases} of several words", grouped(different.len()), grouped(different.len() - phrases))
        }
        "commontext-several-words" => {
            let (n, all) = (texts().filter(several).count(), trained().count().max(1));
            format!("{} ({} %)", grouped(n), rounded(100.0 * n as f64 / all as f64))
        }
        "commontext-target-seen" => seen(COMMONTEXT).unwrap_or_else(not_built),
        "held-out" => count(COMMONTEXT_HELD_OUT, VAL),
        "held-out-target-seen" => seen(COMMONTEXT_HELD_OUT).unwrap_or_else(not_built),
        _ => return None,
    };
    let empty = text == "0" || text.starts_with("0:") || (key == "commontext-several-words" && trained().next().is_none());
    Some(if empty { not_built() } else { text })
}

/// One decimal, none where it is zero.
fn rounded(percent: f64) -> String {
    format!("{percent:.1}").trim_end_matches(".0").to_owned()
}

/// With commas between groups of three digits.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_fact_has_its_number_and_an_empty_build_says_so() {
        let rows = rows(&Summary::default(), &[]).unwrap();
        assert!(rows.len() >= 10);
        assert!(rows.iter().all(|row| row.built == "not built"), "{rows:?}");
    }

    #[test]
    fn numbers_are_grouped_and_rounded() {
        assert_eq!((grouped(7), grouped(1234), grouped(1_234_567)), ("7".into(), "1,234".into(), "1,234,567".into()));
        assert_eq!((rounded(100.0), rounded(4.19), rounded(0.0)), ("100".into(), "4.2".into(), "0".into()));
    }
}
