//! What the training prompts give away about the validation prompts, across all sets.

use polars::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::frame::{self, NORMAL, ROW};
use crate::data::schema::{TRAIN, VAL};
use crate::data::sources::{RawPrompt, Treatment};
use crate::error::Result;

/// What happens to training prompts that stand in the validation split too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakPolicy {
    /// They are removed from training, unless they are lines of a benchmark ([`Treatment::Verbatim`]).
    #[default]
    Drop,
    /// They stay, as in the published sets (T2I-CompBench has two); the audit still counts them.
    Keep,
}

/// Counts of the leak audit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeakAudit {
    /// Training prompts that are also validation prompts, letter by letter.
    pub exact: usize,
    /// Training prompts whose normal form is that of a validation prompt, the exact ones included.
    pub normalised: usize,
    /// Validation prompts with a target text that some training prompt has, too.
    pub target_text_seen: usize,
    /// Validation prompts with a target text that no training prompt has.
    pub target_text_unseen: usize,
    pub policy: LeakPolicy,
}

/// Audits train against val and applies the policy.
pub fn audit(prompts: &[RawPrompt], policy: LeakPolicy) -> Result<(Vec<RawPrompt>, LeakAudit)> {
    let all = frame::frame(prompts)?.lazy();
    let part = |split: &str| all.clone().filter(col("split").eq(lit(split)));
    let (train, val) = (part(TRAIN), part(VAL));

    let exact = found_in(&train, &val, "prompt")?.len();
    let leaked = found_in(&train, &val, NORMAL)?;
    let with_text = val.clone().filter(col("target_text").is_not_null());
    let seen = found_in(&with_text, &train, "target_text")?.len();
    let total = with_text.select([col(ROW)]).collect()?.height();

    let kept = match policy {
        LeakPolicy::Keep => prompts.to_vec(),
        LeakPolicy::Drop => {
            let leaked: std::collections::BTreeSet<u64> = leaked.iter().copied().collect();
            let stays = |i: usize, prompt: &RawPrompt| prompt.treatment == Treatment::Verbatim || !leaked.contains(&(i as u64));
            prompts.iter().enumerate().filter(|&(i, prompt)| stays(i, prompt)).map(|(_, prompt)| prompt.clone()).collect()
        }
    };
    let normalised = leaked.len();
    Ok((kept, LeakAudit { exact, normalised, target_text_seen: seen, target_text_unseen: total - seen, policy }))
}

/// `row` of every row of `rows` whose value of `column` occurs in `others`.
fn found_in(rows: &LazyFrame, others: &LazyFrame, column: &str) -> Result<Vec<u64>> {
    const FOUND: &str = "found";
    let others = others.clone().filter(col(column).is_not_null()).select([col(column)]);
    let others = others.unique_generic(None, UniqueKeepStrategy::Any).with_column(lit(true).alias(FOUND));
    let joined = rows.clone().left_join(others, col(column), col(column)).filter(col(FOUND).is_not_null()).select([col(ROW)]);
    Ok(joined.collect()?.column(ROW)?.u64()?.iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::frame::tests::raw;

    fn prompts() -> Vec<RawPrompt> {
        let sign = |split: &str, prompt: &str, text: &str| RawPrompt { target_text: Some(text.into()), ..raw("commontext", split, prompt) };
        vec![
            raw("laion", TRAIN, "a red car"),
            raw("laion", TRAIN, "a blue car"),
            raw("laion", TRAIN, "A green, car"),
            raw("compbench", VAL, "a red car"),
            raw("compbench", VAL, "a green car"),
            sign(TRAIN, "a cat with the inscription 'stop'.", "stop"),
            sign(VAL, "a dog with the inscription 'stop'.", "stop"),
            sign(VAL, "a dog with the inscription 'gate'.", "gate"),
        ]
    }

    #[test]
    fn leaks_are_found_across_sets_and_dropped_from_training() {
        let (kept, audit) = audit(&prompts(), LeakPolicy::Drop).unwrap();
        assert_eq!((audit.exact, audit.normalised), (1, 2));
        assert_eq!((audit.target_text_seen, audit.target_text_unseen), (1, 1));
        assert_eq!(kept.len(), 6);
        assert!(kept.iter().filter(|p| p.split.as_deref() == Some(VAL)).count() == 4);
    }

    #[test]
    fn the_published_sets_can_be_kept_as_they_are() {
        let (kept, audit) = audit(&prompts(), LeakPolicy::Keep).unwrap();
        assert_eq!(kept, prompts());
        assert_eq!(audit.normalised, 2);
    }
}
