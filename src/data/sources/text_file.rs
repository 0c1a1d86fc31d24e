//! Prompts in a local file: plain text (one a line), JSON (an array of strings or objects), lines of JSON, CSV or parquet, with
//! a mapping of columns. This is how LAION captions, T2I-CompBench and CommonText come in.

mod json;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::csv::reader::{Format, ReaderBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use super::laion::columns::is_text;
use super::{PromptSource, RawPrompt, Reading};
use crate::data::schema::{TRAIN, VAL};
use crate::error::{Error, Result};
use crate::run::files;

/// No prompt that anyone wrote has more bytes; a file of one endless line is no list of prompts.
pub(super) const LONGEST_BYTES: usize = 1 << 16;

/// How a file's prompts get their target text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetText {
    /// The prompts ask for no text.
    #[default]
    None,
    /// What stands in single quotes, as in CommonText.
    Quoted,
}

/// Which split a file's prompts belong to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSplit {
    Train,
    Val,
    /// The build draws `val_prompts_per_category` of them, by hash.
    #[default]
    Draw,
}

/// One `[[data.file]]` of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// `laion`, `compbench` or `commontext`.
    pub dataset: String,
    /// Relative to `datasets/`; the ending names the format: txt, json, jsonl, csv, parquet.
    pub path: PathBuf,
    /// Licence of the prompts, for the data card.
    pub licence: String,
    /// Category of all prompts, unless `category_column` is given.
    #[serde(default)]
    pub category: Option<String>,
    #[serde(default)]
    pub category_column: Option<String>,
    /// Column of the prompt; not used for plain text and arrays of strings.
    #[serde(default = "prompt_column")]
    pub prompt_column: String,
    /// Column of the text the image should show.
    #[serde(default)]
    pub target_column: Option<String>,
    #[serde(default)]
    pub target_text: TargetText,
    #[serde(default)]
    pub split: FileSplit,
    /// Only the first so many rows are read.
    #[serde(default)]
    pub limit: Option<u32>,
}

fn prompt_column() -> String {
    "prompt".into()
}

/// A file below the datasets folder.
#[derive(Debug, Clone)]
pub struct TextFile {
    pub config: FileConfig,
    pub path: PathBuf,
}

/// One prompt with the optional cells beside it.
struct Line {
    prompt: String,
    category: Option<String>,
    target: Option<String>,
}

impl TextFile {
    /// The file of `config` below the folder `datasets`.
    pub fn new(config: &FileConfig, datasets: &Path) -> Self {
        Self { config: config.clone(), path: datasets.join(&config.path) }
    }

    fn lines(&self) -> Result<Vec<Line>> {
        let mut lines = match self.path.extension().and_then(|ending| ending.to_str()) {
            Some("txt") => self.text_lines()?,
            Some("json") => self.json_lines()?,
            Some("jsonl" | "ndjson") => self.jsonl_lines()?,
            Some("csv") => self.csv_lines()?,
            Some("parquet") => self.parquet_lines()?,
            other => {
                let message = format!("prompts cannot be read from `{}`: format `{}` is unknown", self.path.display(), other.unwrap_or(""));
                return Err(Error::config(message, "give a file that ends in .txt, .json, .jsonl, .csv or .parquet"));
            }
        };
        if lines.is_empty() {
            return Err(self.damaged("file of prompts", "no prompt stands in it"));
        }
        if let Some(limit) = self.config.limit {
            lines.truncate(limit as usize);
        }
        match lines.iter().enumerate().find(|(_, line)| line.prompt.len() > LONGEST_BYTES) {
            Some((i, line)) => Err(self.damaged("file of prompts", too_long(i + 1, line.prompt.len()))),
            None => Ok(lines),
        }
    }

    fn text_lines(&self) -> Result<Vec<Line>> {
        let bytes = files::read_bytes(&self.path, "prompts", "put the file there")?;
        let text = utf8(bytes).map_err(|place| self.damaged("UTF-8 text", place))?;
        let filled = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim().is_empty());
        Ok(filled.map(|line| Line { prompt: line.to_owned(), category: None, target: None }).collect())
    }

    fn csv_lines(&self) -> Result<Vec<Line>> {
        const FORMAT: &str = "CSV file";
        self.not_empty(FORMAT)?;
        let format = Format::default().with_header(true);
        let (inferred, _) = format.infer_schema(self.open()?, Some(0)).map_err(|error| self.damaged(FORMAT, error))?;
        // Every cell as text: a prompt may look like a number.
        let fields: Vec<Field> = inferred.fields().iter().map(|field| Field::new(field.name(), DataType::Utf8, true)).collect();
        let schema = Arc::new(Schema::new(fields));
        let columns = self.columns(&schema)?;
        let reader = ReaderBuilder::new(schema).with_format(format).with_projection(columns).build(self.open()?);
        self.batch_lines(reader.map_err(|error| self.damaged(FORMAT, error))?, FORMAT)
    }

    fn parquet_lines(&self) -> Result<Vec<Line>> {
        const FORMAT: &str = "parquet file";
        self.not_empty(FORMAT)?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(self.open()?).map_err(|error| self.damaged(FORMAT, error))?;
        let columns = self.columns(reader.schema())?;
        for &column in &columns {
            let field = reader.schema().field(column);
            if !is_text(field.data_type()) {
                return Err(self.damaged(FORMAT, format!("column `{}` has type {}, expected text", field.name(), field.data_type())));
            }
        }
        let projection = ProjectionMask::roots(reader.parquet_schema(), columns);
        let mut reader = reader.with_projection(projection);
        if let Some(limit) = self.config.limit {
            reader = reader.with_limit(limit as usize);
        }
        self.batch_lines(reader.build().map_err(|error| self.damaged(FORMAT, error))?, FORMAT)
    }

    /// The columns that the configuration names.
    fn wanted(&self) -> impl Iterator<Item = &String> {
        [Some(&self.config.prompt_column), self.config.category_column.as_ref(), self.config.target_column.as_ref()].into_iter().flatten()
    }

    /// Places of the wanted columns.
    fn columns(&self, schema: &SchemaRef) -> Result<Vec<usize>> {
        let names = || schema.fields().iter().map(|field| field.name().clone()).collect();
        self.wanted().map(|column| schema.index_of(column).map_err(|_| self.no_column(column, names()))).collect()
    }

    /// Rows of all batches up to the limit. Rows without a prompt carry nothing and are left out; captions in the wild have
    /// them.
    fn batch_lines(&self, batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>, format: &'static str) -> Result<Vec<Line>> {
        let limit = self.config.limit.unwrap_or(u32::MAX) as usize;
        let (mut lines, mut rows) = (Vec::new(), 0);
        for batch in batches {
            if rows >= limit {
                break;
            }
            let batch = batch.map_err(|error| self.damaged(format, format!("after row {rows}: {error}")))?;
            let cells = |column: &str| -> Result<Vec<Option<String>>> {
                let array = batch.column_by_name(column).ok_or_else(|| self.no_column(column, Vec::new()))?;
                let text = arrow::compute::cast(array, &DataType::Utf8).map_err(|error| self.damaged(format, error))?;
                Ok(text.as_string::<i32>().iter().map(|cell| cell.map(str::to_owned)).collect())
            };
            let prompts = cells(&self.config.prompt_column)?;
            let empty = || vec![None; prompts.len()];
            let categories = self.config.category_column.as_deref().map_or_else(|| Ok(empty()), cells)?;
            let targets = self.config.target_column.as_deref().map_or_else(|| Ok(empty()), cells)?;
            let of_batch = prompts.into_iter().zip(categories).zip(targets).take(limit - rows);
            rows += batch.num_rows();
            lines.extend(of_batch.filter_map(|((prompt, category), target)| Some(Line { prompt: prompt?, category, target })));
        }
        Ok(lines)
    }

    fn open(&self) -> Result<File> {
        match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::Missing { what: "prompts".into(), path: self.path.clone(), hint: "put the file there".into() })
            }
            opened => opened.map_err(Error::io("open", &self.path)),
        }
    }

    fn not_empty(&self, format: &'static str) -> Result<()> {
        let length = self.open()?.metadata().map_err(Error::io("read", &self.path))?.len();
        if length == 0 { Err(self.damaged(format, "the file is empty (0 bytes)")) } else { Ok(()) }
    }

    fn damaged(&self, format: &'static str, reason: impl ToString) -> Error {
        Error::format(format, &self.path, reason)
    }

    fn no_column(&self, column: &str, found: Vec<String>) -> Error {
        Error::Column { column: column.into(), path: self.path.clone(), found }
    }
}

impl PromptSource for TextFile {
    fn name(&self) -> String {
        // Relative: a table must not depend on where it was built.
        self.config.path.display().to_string()
    }

    fn licence(&self) -> String {
        self.config.licence.clone()
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn read(&self) -> Result<Reading> {
        let config = &self.config;
        let split = match config.split {
            FileSplit::Train => Some(TRAIN),
            FileSplit::Val => Some(VAL),
            FileSplit::Draw => None,
        };
        let raw = |line: Line| {
            let category = line.category.or_else(|| config.category.clone()).unwrap_or_else(|| "all".into());
            let target_text = line.target.or_else(|| match config.target_text {
                TargetText::None => None,
                TargetText::Quoted => quoted(&line.prompt).map(str::to_owned),
            });
            RawPrompt {
                dataset: config.dataset.clone(),
                category,
                split: split.map(str::to_owned),
                prompt: line.prompt,
                target_text,
                ..RawPrompt::default()
            }
        };
        Ok(self.lines()?.into_iter().map(raw).collect::<Vec<_>>().into())
    }
}

/// What is wrong with the `row`th prompt (from 1) where it is longer than [`LONGEST_BYTES`].
pub(super) fn too_long(row: usize, bytes: usize) -> String {
    format!("prompt {row} has {bytes} bytes, expected at most {LONGEST_BYTES}; is it one prompt?")
}

/// The bytes as text, or line and byte of the first that is none.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        format!("line {line}, byte {at} of the file: {}", error.utf8_error())
    })
}

/// The text in single quotes: from the first quote that follows a space to the last quote, since the text itself may
/// hold an apostrophe (`… reading 'that's weird'.`).
fn quoted(prompt: &str) -> Option<&str> {
    let start = prompt.find(" '")? + 2;
    let end = prompt.rfind('\'').filter(|&end| end > start)?;
    Some(&prompt[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::schema::PromptRow;

    fn source(folder: &Path, file: &str, content: &[u8], edit: impl FnOnce(&mut FileConfig)) -> TextFile {
        files::write_bytes(&folder.join(file), content).unwrap();
        let mut config = FileConfig {
            dataset: "commontext".into(),
            path: file.into(),
            licence: "CC0".into(),
            category: Some("seen".into()),
            category_column: None,
            prompt_column: "prompt".into(),
            target_column: None,
            target_text: TargetText::Quoted,
            split: FileSplit::Train,
            limit: None,
        };
        edit(&mut config);
        TextFile::new(&config, folder)
    }

    #[test]
    fn the_target_text_may_hold_an_apostrophe() {
        assert_eq!(quoted("A cat holding a sign reading 'that's weird'."), Some("that's weird"));
        assert_eq!(quoted("A cat's sign reading 'stop'."), Some("stop"));
        assert_eq!(quoted("a red car"), None);
    }

    #[test]
    fn text_json_lines_csv_and_parquet_give_the_same_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let prompts = ["A cat holding a sign reading 'stop'.", "A dog with the inscription 'go'."];
        let text = source(folder, "a.txt", prompts.join("\n").as_bytes(), |_| {}).read().unwrap().prompts;
        assert_eq!(text.len(), 2);
        assert_eq!(text[1].target_text.as_deref(), Some("go"));
        let lines = format!("{{\"prompt\": \"{}\"}}\n\n\"{}\"\n", prompts[0], prompts[1]);
        assert_eq!(source(folder, "a.jsonl", lines.as_bytes(), |_| {}).read().unwrap().prompts, text);
        let json = serde_json::to_vec(&prompts).unwrap();
        assert_eq!(source(folder, "a.json", &json, |_| {}).read().unwrap().prompts, text);
        let objects = serde_json::json!([{"prompt": prompts[0]}, {"prompt": prompts[1]}]).to_string();
        assert_eq!(source(folder, "b.json", objects.as_bytes(), |_| {}).read().unwrap().prompts, text);
        let csv = format!("id,caption\n1,{}\n2,{}\n", prompts[0], prompts[1]);
        let rename = |config: &mut FileConfig| config.prompt_column = "caption".into();
        assert_eq!(source(folder, "a.csv", csv.as_bytes(), rename).read().unwrap().prompts, text);

        let rows = PromptRow::from_raw(&prompts.map(|prompt| RawPrompt::example("laion", TRAIN, prompt)));
        PromptRow::write(&folder.join("a.parquet"), &rows).unwrap();
        let bytes = std::fs::read(folder.join("a.parquet")).unwrap();
        assert_eq!(source(folder, "a.parquet", &bytes, |_| {}).read().unwrap().prompts, text);
        let limited = source(folder, "a.parquet", &bytes, |config| config.limit = Some(1));
        assert_eq!(limited.read().unwrap().prompts, text[..1]);
    }

    #[test]
    fn a_missing_column_lists_the_columns_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let error = source(folder.path(), "a.csv", b"caption,score\nx,1\n", |_| {}).read().unwrap_err().to_string();
        assert!(error.contains("`prompt` is missing") && error.contains("caption"), "{error}");
    }

    #[test]
    fn a_damaged_line_of_json_is_named_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let error = |text: &[u8]| source(folder.path(), "a.jsonl", text, |_| {}).read().unwrap_err().to_string();
        assert!(error(b"\"x\"\n{\"prompt\": \n").contains("line 2: "));
        assert!(error(b"\"x\"\n7\n").contains("line 2: expected a text or an object, found 7"));
        assert!(error(b"{\"prompt\": 7}\n").contains("line 1: `prompt` is 7, expected a text"));
        assert!(error(b"{\"caption\": \"x\"}\n").contains("`prompt` is missing"));
        assert!(error(b"\n\n").contains("no prompt stands in it"));
    }

    #[test]
    fn a_truncated_parquet_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = source(folder.path(), "a.parquet", b"PAR1....", |_| {}).read().unwrap_err().to_string();
        assert!(error.contains("a.parquet") && error.contains("not a valid parquet file"), "{error}");
    }
}
