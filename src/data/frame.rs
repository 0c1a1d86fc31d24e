//! Prompts as a polars frame, for the steps that are questions to a table: duplicates, joins, counts.

use std::collections::BTreeSet;

use polars::prelude::*;

use crate::data::clean;
use crate::data::sources::{RawPrompt, Treatment};
use crate::error::Result;

/// Column with the index of the row in the list the frame was made from.
pub const ROW: &str = "row";
/// Column with the normal form of the prompt (`clean::normal_form`).
pub const NORMAL: &str = "normal";

/// Column with the number of characters of the prompt.
pub const CHARACTERS: &str = "characters";

/// One row per prompt: `row`, `dataset`, `category`, `split` (may be null), `prompt`, `normal`, `characters`, `target_text`
/// (may be null).
pub fn frame(prompts: &[RawPrompt]) -> Result<DataFrame> {
    let text = |field: fn(&RawPrompt) -> Option<&str>| prompts.iter().map(field).collect::<Vec<_>>();
    let rows: Vec<u64> = (0..prompts.len() as u64).collect();
    let normal: Vec<String> = prompts.iter().map(|prompt| clean::normal_form(&prompt.prompt)).collect();
    Ok(df!(
        ROW => rows,
        "dataset" => text(|p| Some(&p.dataset)),
        "category" => text(|p| Some(&p.category)),
        "split" => text(|p| p.split.as_deref()),
        "prompt" => text(|p| Some(&p.prompt)),
        NORMAL => normal,
        CHARACTERS => prompts.iter().map(|p| p.prompt.chars().count() as u64).collect::<Vec<_>>(),
        "target_text" => text(|p| p.target_text.as_deref()),
    )?)
}

/// Keeps the first of the prompts of one set and split that are equal in `column` (`prompt` or [`NORMAL`]). Lines that are to stay
/// as they are ([`Treatment::Verbatim`]) are all kept.
pub fn drop_duplicates(prompts: &[RawPrompt], column: &str) -> Result<Vec<RawPrompt>> {
    let key = [col("dataset"), col("split"), col(column)].to_vec();
    let first = frame(prompts)?.lazy().unique_stable_generic(Some(key), UniqueKeepStrategy::First).select([col(ROW)]).collect()?;
    let first: BTreeSet<u64> = first.column(ROW)?.u64()?.iter().flatten().collect();
    let stays = |i: usize, prompt: &RawPrompt| prompt.treatment == Treatment::Verbatim || first.contains(&(i as u64));
    Ok(prompts.iter().enumerate().filter(|&(i, prompt)| stays(i, prompt)).map(|(_, prompt)| prompt.clone()).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn raw(dataset: &str, split: &str, prompt: &str) -> RawPrompt {
        RawPrompt::example(dataset, split, prompt)
    }

    #[test]
    fn duplicates_go_within_a_set_and_split_only_and_order_stays() {
        let prompts = [
            raw("laion", "train", "a red car"),
            raw("laion", "train", "a blue car"),
            raw("laion", "train", "a red car"),
            raw("laion", "train", "A red car!"),
            raw("laion", "val", "a red car"),
            raw("compbench", "train", "a red car"),
        ];
        let distinct = drop_duplicates(&prompts, "prompt").unwrap();
        assert_eq!(distinct.len(), 5);
        let kept = drop_duplicates(&distinct, NORMAL).unwrap();
        let kept: Vec<_> = kept.iter().map(|p| (p.dataset.as_str(), p.split.as_deref().unwrap(), p.prompt.as_str())).collect();
        let expected = [
            ("laion", "train", "a red car"),
            ("laion", "train", "a blue car"),
            ("laion", "val", "a red car"),
            ("compbench", "train", "a red car"),
        ];
        assert_eq!(kept, expected);
    }

    #[test]
    fn lines_of_a_benchmark_are_kept_twice() {
        let twice = [raw("compbench", "val", "a red car"), raw("compbench", "val", "a red car")];
        let verbatim = twice.clone().map(|prompt| RawPrompt { treatment: Treatment::Verbatim, ..prompt });
        assert_eq!(drop_duplicates(&verbatim, "prompt").unwrap(), verbatim);
        assert_eq!(drop_duplicates(&twice, "prompt").unwrap().len(), 1);
    }
}
