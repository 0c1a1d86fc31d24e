//! The one table of prompts: what `build-data` writes and every later stage reads. Checked on writing and on reading;
//! its version stands in the footer of the file. `datasets/README.md` describes it for people.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::sources::RawPrompt;
use crate::data::structure::Structure;
use crate::error::{Error, Result};
use crate::run::{rng, table};

/// Name of the set for image quality: captions.
pub const LAION: &str = "laion";
/// Name of the set for semantic understanding: attributes, places, counts.
pub const COMPBENCH: &str = "compbench";
/// Name of the set for text rendering.
pub const COMMONTEXT: &str = "commontext";
/// CommonText with target texts that training never shows.
pub const COMMONTEXT_HELD_OUT: &str = "commontext-held-out";
/// Prompts of users, for the map of embeddings.
pub const DIFFUSIONDB: &str = "diffusiondb";
/// Captions with reference images.
pub const COCO: &str = "coco";
/// Texts that describe no image.
pub const NON_VISUAL: &str = "non-visual";
/// The sets that the paper trains and measures on, in its order.
pub const PAPER_DATASETS: [&str; 3] = [LAION, COMPBENCH, COMMONTEXT];
/// All sets: the three of the paper first, in its order.
pub const DATASETS: [&str; 7] = [LAION, COMPBENCH, COMMONTEXT, COMMONTEXT_HELD_OUT, DIFFUSIONDB, COCO, NON_VISUAL];

/// Split that students learn from.
pub const TRAIN: &str = "train";
/// Split that images are generated and scored for.
pub const VAL: &str = "val";
/// All splits.
pub const SPLITS: [&str; 2] = [TRAIN, VAL];

/// Key of the version in the footer of the file.
pub const VERSION_KEY: &str = "scaledown.prompts.version";
/// Raised when a column is added, removed or changes its meaning.
pub const VERSION: &str = "2";

crate::table! {
    unchecked
    /// One prompt.
    pub struct PromptRow {
        /// First eight bytes of the SHA-256 of the prompt ([`prompt_id`]): keys the noise, the guidance and every paired comparison.
        /// The table is sorted by it and holds none twice.
        pub prompt_id: u64,
        /// The set, one of [`DATASETS`].
        pub dataset: String,
        /// Where the prompt comes from: a file, a published set, a generator with its version.
        pub source: String,
        /// Category within the set, for example `caption`, `color`, `spatial`, `numeracy`, `seen`, `unseen`.
        pub category: String,
        /// `train` or `val`.
        pub split: String,
        /// Without control characters, double spaces and spaces at the ends.
        pub prompt: String,
        /// Text the image should show, if any.
        pub target_text: Option<String>,
        /// What the prompt asks for as JSON ([`Structure`]), if its source is taken apart.
        pub structure: Option<String>,
        /// Ground truth of a miniature-world prompt as JSON (`mini::scene::Scene`), if any.
        pub scene: Option<String>,
        /// Length in tokens of the T5 tokenizer with the end mark; absent where no tokenizer was at hand.
        pub t5_tokens: Option<u64>,
        /// Length in tokens of the CLIP tokenizer with both marks; absent where no tokenizer was at hand.
        pub clip_tokens: Option<u64>,
        /// What cleaning noticed but did not remove, sorted: for example `pii`, `unsafe`, `language-fr`.
        pub flags: Vec<String>,
        /// Licence of the prompt.
        pub licence: String,
    }
}

/// Id of a prompt; `repeat` counts the equal prompts before it in its table. Published sets hold a prompt several times.
pub fn prompt_id(prompt: &str, repeat: usize) -> u64 {
    match repeat {
        0 => rng::text_id(prompt),
        // No cleaned prompt holds a line break, so no other prompt has this text.
        _ => rng::text_id(&format!("{prompt}\n{repeat}")),
    }
}

impl PromptRow {
    /// The rows of one table, sorted by id; equal prompts get ids of their own.
    pub fn from_raw<'a>(prompts: impl IntoIterator<Item = &'a RawPrompt>) -> Vec<Self> {
        let mut prompts: Vec<&RawPrompt> = prompts.into_iter().collect();
        // Which of several equal prompts is the first must not depend on the order of files.
        prompts.sort_by(|a, b| (&a.prompt, &a.category, &a.source).cmp(&(&b.prompt, &b.category, &b.source)));
        let mut repeats: BTreeMap<&str, usize> = BTreeMap::new();
        let mut rows: Vec<Self> = Vec::with_capacity(prompts.len());
        for raw in prompts {
            let repeat = repeats.entry(&raw.prompt).or_insert(0);
            rows.push(Self {
                prompt_id: prompt_id(&raw.prompt, *repeat),
                dataset: raw.dataset.clone(),
                source: raw.source.clone(),
                category: raw.category.clone(),
                split: raw.split.clone().unwrap_or_default(),
                prompt: raw.prompt.clone(),
                target_text: raw.target_text.clone(),
                structure: raw.structure.clone(),
                scene: raw.scene.clone(),
                t5_tokens: raw.t5_tokens,
                clip_tokens: raw.clip_tokens,
                flags: raw.flags.clone(),
                licence: raw.licence.clone(),
            });
            *repeat += 1;
        }
        rows.sort_by_key(|row| row.prompt_id);
        rows
    }

    /// Writes a table by rename. `rows` must be as [`Self::from_raw`] gives them.
    ///
    /// # Errors
    /// A row that breaks the schema: nothing is written.
    pub fn write(path: &Path, rows: &[Self]) -> Result<()> {
        Self::check(path, rows)?;
        table::write_columns(path, Self::columns(rows), &[(VERSION_KEY, VERSION.to_owned())])
    }

    /// Reads a table; `hint` says how to make the file where it is missing.
    ///
    /// # Errors
    /// Another version, a missing column, a row that breaks the schema.
    pub fn read(path: &Path, hint: &str) -> Result<Vec<Self>> {
        let (metadata, batches) = table::read_batches(path, hint)?;
        match metadata.get(VERSION_KEY).map(String::as_str) {
            Some(VERSION) => {}
            found => {
                let found = found.map_or_else(|| "none".to_owned(), |version| format!("`{version}`"));
                let reason = format!("version {found} of the schema in `{VERSION_KEY}`, expected `{VERSION}`");
                return Err(Error::format(FORMAT, path, reason));
            }
        }
        let mut rows = Vec::new();
        for batch in batches {
            Self::extend(&mut rows, &batch, path)?;
        }
        Self::check(path, &rows)?;
        Ok(rows)
    }

    /// Fails on the first row that breaks the schema, with its number and column.
    fn check(path: &Path, rows: &[Self]) -> Result<()> {
        for (i, row) in rows.iter().enumerate() {
            if let Some((column, problem)) = row.problem() {
                return Err(Error::format(FORMAT, path, format!("row {i}, column `{column}`: {problem}")));
            }
            if i > 0 && rows[i - 1].prompt_id >= row.prompt_id {
                let (last, id) = (rows[i - 1].prompt_id, row.prompt_id);
                let problem =
                    if last == id { format!("{id} stands in two rows") } else { format!("{id} follows {last}, but rows are sorted by it") };
                return Err(Error::format(FORMAT, path, format!("row {i}, column `prompt_id`: {problem}")));
            }
        }
        Ok(())
    }

    /// What is wrong with the row: the column, and the value found beside the one expected.
    fn problem(&self) -> Option<(&'static str, String)> {
        let one_of = |column, value: &str, valid: &[&str]| {
            (!valid.contains(&value)).then(|| (column, format!("found `{value}`, expected one of {}", valid.join(", "))))
        };
        let filled = |column, value: &str| {
            (value.trim() != value || value.is_empty()).then(|| (column, format!("found `{value}`, expected a text")))
        };
        let control = self.prompt.chars().find(|c| c.is_control());
        let structure = self.structure.as_deref().and_then(|json| Structure::from_json(json).err());
        let sorted = self.flags.windows(2).all(|pair| pair[0] < pair[1]);
        one_of("dataset", &self.dataset, &DATASETS)
            .or_else(|| one_of("split", &self.split, &SPLITS))
            .or_else(|| filled("source", &self.source))
            .or_else(|| filled("category", &self.category))
            .or_else(|| filled("licence", &self.licence))
            .or_else(|| filled("prompt", &self.prompt))
            .or_else(|| control.map(|c| ("prompt", format!("found the control character U+{:04X}", u32::from(c)))))
            .or_else(|| structure.map(|problem| ("structure", problem)))
            .or_else(|| (!sorted).then(|| ("flags", format!("found {:?}, expected each word once, sorted", self.flags))))
    }
}

/// How errors name the file.
const FORMAT: &str = "table of prompts";

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<PromptRow> {
        let raw = |prompt: &str| RawPrompt { flags: vec!["pii".into()], ..RawPrompt::example(COMPBENCH, VAL, prompt) };
        PromptRow::from_raw(&[raw("a red car"), raw("a blue car"), raw("a red car")])
    }

    #[test]
    fn equal_prompts_get_ids_of_their_own_in_any_order() {
        let rows = rows();
        assert!(rows.windows(2).all(|pair| pair[0].prompt_id < pair[1].prompt_id));
        let ids = |prompt: &str| rows.iter().filter(|row| row.prompt == prompt).map(|row| row.prompt_id).collect::<Vec<_>>();
        let mut expected = [prompt_id("a red car", 0), prompt_id("a red car", 1)];
        expected.sort_unstable();
        assert_eq!(ids("a red car"), expected);
        assert_eq!(ids("a blue car"), [rng::text_id("a blue car")]);
    }

    #[test]
    fn rows_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        PromptRow::write(&path, &rows()).unwrap();
        assert_eq!(PromptRow::read(&path, "").unwrap(), rows());
    }

    #[test]
    fn a_row_that_breaks_the_schema_is_named_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        type Damage = fn(&mut PromptRow);
        let cases: [(Damage, &str); 7] = [
            (|row| row.dataset = "lion".into(), "row 1, column `dataset`: found `lion`"),
            (|row| row.split = String::new(), "row 1, column `split`: found ``"),
            (|row| row.prompt = " a".into(), "row 1, column `prompt`"),
            (|row| row.prompt = "a\tb".into(), "U+0009"),
            (|row| row.structure = Some("{}".into()), "row 1, column `structure`: missing field `objects`"),
            (|row| row.flags = vec!["b".into(), "a".into()], "row 1, column `flags`"),
            (|row| row.prompt_id = 0, "row 1, column `prompt_id`"),
        ];
        for (damage, expected) in cases {
            let mut rows = rows();
            damage(&mut rows[1]);
            let error = PromptRow::write(&path, &rows).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("t.parquet"), "{error}");
            assert!(!path.exists());
        }
        let mut twice = rows();
        twice[1].prompt_id = twice[0].prompt_id;
        let error = PromptRow::write(&path, &twice).unwrap_err().to_string();
        assert!(error.contains("stands in two rows"), "{error}");
    }

    #[test]
    fn a_table_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        table::write_columns(&path, PromptRow::columns(&rows()), &[(VERSION_KEY, "1".into())]).unwrap();
        let error = PromptRow::read(&path, "").unwrap_err().to_string();
        assert!(error.contains("version `1`") && error.contains("expected `2`"), "{error}");
    }
}
