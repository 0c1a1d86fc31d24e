//! Prompts as a polars frame, for the steps that are questions to a table: duplicates, joins, counts.

use polars::prelude::*;

use crate::data::clean;
use crate::data::sources::RawPrompt;
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

/// The prompts whose index is in the `row` column of `kept`, in the order they had.
pub fn pick(prompts: &[RawPrompt], kept: LazyFrame) -> Result<Vec<RawPrompt>> {
    let kept = kept.select([col(ROW)]).collect()?;
    let mut rows: Vec<u64> = kept.column(ROW)?.u64()?.iter().flatten().collect();
    rows.sort_unstable();
    Ok(rows.into_iter().map(|row| prompts[row as usize].clone()).collect())
}

/// Keeps the first of the prompts of one set and split that are equal, then the first of those with the same normal form.
/// Returns the rest with how many each of the two steps removed.
pub fn drop_duplicates(prompts: &[RawPrompt]) -> Result<(Vec<RawPrompt>, usize, usize)> {
    let first_of = |prompts: &[RawPrompt], column: &str| -> Result<Vec<RawPrompt>> {
        let key = [col("dataset"), col("split"), col(column)].to_vec();
        pick(prompts, frame(prompts)?.lazy().unique_stable_generic(Some(key), UniqueKeepStrategy::First))
    };
    let distinct = first_of(prompts, "prompt")?;
    let different = first_of(&distinct, NORMAL)?;
    let (exact, normalised) = (prompts.len() - distinct.len(), distinct.len() - different.len());
    Ok((different, exact, normalised))
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
        let (kept, exact, normalised) = drop_duplicates(&prompts).unwrap();
        assert_eq!((exact, normalised), (1, 1));
        let kept: Vec<_> = kept.iter().map(|p| (p.dataset.as_str(), p.split.as_deref().unwrap(), p.prompt.as_str())).collect();
        let expected = [
            ("laion", "train", "a red car"),
            ("laion", "train", "a blue car"),
            ("laion", "val", "a red car"),
            ("compbench", "train", "a red car"),
        ];
        assert_eq!(kept, expected);
    }
}
