//! Built tables in the formats of others: the files of the authors' training script, lines of JSON, and the folder that the
//! `datasets` library of Hugging Face opens.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::data::schema::{COMMONTEXT, COMPBENCH, DATASETS, LAION, PromptRow, SPLITS, TRAIN, VAL};
use crate::error::{Error, Result};
use crate::run::context::RunContext;
use crate::run::files;

/// The format to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `laion_6.5.json`, `CommonText_{Train,Test}.json`, `T2I-CompBench/CATEGORY_{train,val}.txt`: prompts alone.
    Authors,
    /// `SET-SPLIT.jsonl`, every column.
    JsonLines,
    /// `README.md` and `SET/SPLIT.parquet`, every column.
    HuggingFace,
}

/// What is written, in the order of [`Format::named`].
pub const FORMATS: [&str; 3] = ["authors", "jsonl", "hugging-face"];

impl Format {
    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "authors" => Some(Self::Authors),
            "jsonl" => Some(Self::JsonLines),
            "hugging-face" => Some(Self::HuggingFace),
            _ => None,
        }
    }
}

/// One built table.
struct Table {
    dataset: &'static str,
    split: &'static str,
    path: PathBuf,
    rows: Vec<PromptRow>,
}

/// Writes every table that the pipeline has built into the folder `to`; returns the files.
///
/// # Errors
/// [`Error::Missing`] where nothing is built; a format that has no place for what was built.
pub fn run(format: Format, context: &RunContext, to: &Path) -> Result<Vec<PathBuf>> {
    let mut tables = Vec::new();
    for dataset in DATASETS {
        for split in SPLITS {
            let path = context.prompts(dataset, split);
            if path.exists() {
                let rows = PromptRow::read(&path, "")?;
                tables.push(Table { dataset, split, path, rows });
            }
        }
    }
    if tables.is_empty() {
        let hint = format!("run `scaledown build-data --pipeline {}` first", context.name);
        return Err(Error::Missing { what: "built prompts".into(), path: context.built.clone(), hint });
    }
    match format {
        Format::Authors => authors(&tables, to),
        Format::JsonLines => json_lines(&tables, to),
        Format::HuggingFace => hugging_face(&tables, to),
    }
}

/// The authors' files; sets they have no file for are left out.
fn authors(tables: &[Table], to: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for table in tables {
        let prompts = || table.rows.iter().map(|row| row.prompt.as_str());
        let single = match (table.dataset, table.split) {
            (LAION, TRAIN) => Some("laion_6.5.json"),
            (COMMONTEXT, TRAIN) => Some("CommonText_Train.json"),
            (COMMONTEXT, VAL) => Some("CommonText_Test.json"),
            _ => None,
        };
        if let Some(name) = single {
            let path = to.join(name);
            files::write_bytes(&path, ascii_array(prompts()).as_bytes())?;
            written.push(path);
        } else if table.dataset == COMPBENCH {
            let mut categories: BTreeMap<&str, String> = BTreeMap::new();
            for row in &table.rows {
                writeln!(categories.entry(&row.category).or_default(), "{}", row.prompt).expect("writing to a string cannot fail");
            }
            for (category, lines) in categories {
                let path = to.join("T2I-CompBench").join(format!("{category}_{}.txt", table.split));
                files::write_bytes(&path, lines.as_bytes())?;
                written.push(path);
            }
        }
    }
    if written.is_empty() {
        return Err(Error::config("the authors have files for laion, compbench and commontext only", "export as `jsonl`"));
    }
    Ok(written)
}

/// A JSON array of strings in ASCII, as the authors' files are.
fn ascii_array<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut json = String::from("[");
    for (i, text) in texts.enumerate() {
        json.push_str(if i == 0 { "\"" } else { ", \"" });
        for c in text.chars() {
            match c {
                '"' => json.push_str("\\\""),
                '\\' => json.push_str("\\\\"),
                ' '..='~' => json.push(c),
                _ => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(json, "\\u{unit:04x}").expect("writing to a string cannot fail");
                    }
                }
            }
        }
        json.push('"');
    }
    json + "]"
}

fn json_lines(tables: &[Table], to: &Path) -> Result<Vec<PathBuf>> {
    let write = |table: &Table| {
        let path = to.join(format!("{}-{}.jsonl", table.dataset, table.split));
        files::write_atomic(&path, |file| {
            for row in &table.rows {
                let json = serde_json::to_string(row).map_err(|error| Error::format("line of JSON", &path, error))?;
                writeln!(file, "{json}").map_err(Error::io("write", &path))?;
            }
            Ok(())
        })?;
        Ok(path)
    };
    tables.iter().map(write).collect()
}

/// A folder for `datasets.load_dataset(folder, SET)`: one configuration per set, splits `train` and `validation`.
fn hugging_face(tables: &[Table], to: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    let mut sets: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
    for table in tables {
        let split = if table.split == VAL { "validation" } else { table.split };
        let name = format!("{}/{split}.parquet", table.dataset);
        let bytes = files::read_bytes(&table.path, "the table", "run `scaledown build-data` first")?;
        files::write_bytes(&to.join(&name), &bytes)?;
        written.push(to.join(&name));
        sets.entry(table.dataset).or_default().push((split, name));
    }
    let mut card = String::from("---\nconfigs:\n");
    let mut line = |text: std::fmt::Arguments| writeln!(card, "{text}").expect("writing to a string cannot fail");
    for (set, splits) in &sets {
        line(format_args!("- config_name: {set}\n  data_files:"));
        for (split, path) in splits {
            line(format_args!("  - split: {split}\n    path: {path}"));
        }
    }
    line(format_args!(
        "---\n\n# Prompts\n\nBuilt by scaledown {}. The licence of every prompt stands beside it.\n",
        env!("CARGO_PKG_VERSION")
    ));
    line(format_args!("| set | split | prompts | licences |\n|---|---|---|---|"));
    for table in tables {
        let mut licences: Vec<&str> = table.rows.iter().map(|row| row.licence.as_str()).collect();
        licences.sort_unstable();
        licences.dedup();
        line(format_args!("| {} | {} | {} | {} |", table.dataset, table.split, table.rows.len(), licences.join("; ").replace('|', "/")));
    }
    let path = to.join("README.md");
    files::write_bytes(&path, card.as_bytes())?;
    written.push(path);
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::sources::RawPrompt;

    fn built(root: &Path) -> RunContext {
        let context = RunContext::below(root, "test", root.to_owned(), 1);
        let write = |dataset: &str, split: &str, prompts: &[&str]| {
            let raw: Vec<_> = prompts.iter().map(|prompt| RawPrompt::example(dataset, split, prompt)).collect();
            PromptRow::write(&context.prompts(dataset, split), &PromptRow::from_raw(&raw)).unwrap();
        };
        write(COMMONTEXT, TRAIN, &["A cat with the inscription 'été \"1\" \\ 😀'."]);
        write(COMMONTEXT, VAL, &["A dog with the inscription 'go'."]);
        write(COMPBENCH, VAL, &["a red car", "a blue car"]);
        context
    }

    #[test]
    fn the_authors_files_hold_the_prompts_in_ascii() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("out");
        run(Format::Authors, &built(folder.path()), &to).unwrap();
        let text = std::fs::read_to_string(to.join("CommonText_Train.json")).unwrap();
        assert!(text.is_ascii() && text.contains("\\u00e9t\\u00e9"));
        let prompts: Vec<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(prompts, ["A cat with the inscription 'été \"1\" \\ 😀'."]);
        let lines = std::fs::read_to_string(to.join("T2I-CompBench/all_val.txt")).unwrap();
        let mut lines: Vec<&str> = lines.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["a blue car", "a red car"]);
    }

    #[test]
    fn lines_of_json_hold_every_column() {
        let folder = tempfile::tempdir().unwrap();
        let context = built(folder.path());
        let written = run(Format::JsonLines, &context, &folder.path().join("out")).unwrap();
        assert_eq!(written.len(), 3);
        let text = std::fs::read_to_string(&written[0]).unwrap();
        let row: PromptRow = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert!(PromptRow::read(&context.prompts(row.dataset.as_str(), &row.split), "").unwrap().contains(&row));
    }

    #[test]
    fn the_dataset_folder_names_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("out");
        run(Format::HuggingFace, &built(folder.path()), &to).unwrap();
        let card = std::fs::read_to_string(to.join("README.md")).unwrap();
        assert!(
            card.contains("- config_name: commontext\n  data_files:\n  - split: train\n    path: commontext/train.parquet\n"),
            "{card}"
        );
        assert!(to.join("compbench/validation.parquet").exists());
    }

    #[test]
    fn without_tables_the_error_says_how_to_build_them() {
        let folder = tempfile::tempdir().unwrap();
        let context = RunContext::below(folder.path(), "flux-dev", folder.path().to_owned(), 1);
        let error = run(Format::JsonLines, &context, folder.path()).unwrap_err();
        assert!(error.hint().unwrap().contains("build-data --pipeline flux-dev"));
    }
}
