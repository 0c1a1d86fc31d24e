//! Captions of LAION-Aesthetics 6.5+, from parquet tables of metadata: filtered by score, cleaned, freed of duplicates, drawn.
//!
//! The sample does not depend on the order of files, rows or threads: captions are ranked by a keyed hash of their normal form,
//! and the lowest ranks are drawn. So no more than the sample, and half as much again against duplicates, stays in memory.

pub mod columns;
pub mod pool;
pub mod scan;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, ListBuilder, RecordBatch, StringArray, StringBuilder, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use self::columns::Names;
use self::pool::{Draw, Drawn, Pool};
use self::scan::{Counts, Filter, scan};
use super::{PromptSource, RawPrompt, Reading, Removed};
use crate::data::clean;
use crate::data::fetch::remote;
use crate::data::flags::{Flag, Flags};
use crate::data::near::Similarity;
use crate::data::schema::{LAION, TRAIN};
use crate::data::tokens::{self, Counters};
use crate::error::{Error, Result};
use crate::run::{files, rng};

/// `[data.laion]` of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Parquet files relative to the folder of the sources; `*` and `?` stand for characters of a file's name. A file that lies
    /// elsewhere may be read where it is: `https://…`, `hf://datasets/OWNER/NAME/FILE`, `s3://BUCKET/FILE`, `gs://BUCKET/FILE`.
    pub files: Vec<PathBuf>,
    pub columns: Names,
    pub score: Score,
    /// Captions drawn; absent draws all.
    pub sample: Option<usize>,
    /// Share of common words and word pairs from which captions count as one.
    pub near_duplicates: Similarity,
    /// Captions with one of these flags are left out.
    pub drop: Vec<Flag>,
    /// The source's probability of an unsafe image from which a caption gets the flag.
    pub unsafe_from: f64,
    /// The source's probability of a watermark from which a caption gets the flag.
    pub watermark_from: f64,
    /// Captions of more T5 tokens are left out, where a tokenizer is at hand.
    pub max_t5_tokens: u64,
    pub licence: String,
}

/// Which aesthetic scores are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Score {
    /// This score and higher ones.
    AtLeast(f64),
    /// The table holds what is wanted only, and may have no scores.
    AlreadyFiltered,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            files: vec!["laion/*.parquet".into()],
            columns: Names::default(),
            // The paper's subset.
            score: Score::AtLeast(6.5),
            // The paper's number.
            sample: Some(100_000),
            near_duplicates: Similarity::default(),
            // They would stand in tables and reports, and T5 v1.1 has read English only. A watermark is no fault of a caption.
            drop: vec![Flag::Unsafe, Flag::Personal, Flag::NotEnglish],
            // As LAION filtered laion2B-en-aesthetic.
            unsafe_from: 0.5,
            watermark_from: 0.8,
            // What Flux reads.
            max_t5_tokens: 512,
            licence: "CC-BY-4.0 (LAION metadata)".into(),
        }
    }
}

impl Config {
    /// Fails where no caption could pass.
    pub fn check(&self) -> Result<()> {
        self.near_duplicates.check()?;
        if self.files.is_empty() {
            return Err(Error::config("[data.laion] names no file", "give `files`, for example [\"laion/*.parquet\"]"));
        }
        self.files.iter().try_for_each(|path| remote::address(path).map(drop))?;
        if let Score::AtLeast(score) = self.score
            && !score.is_finite()
        {
            return Err(Error::config(format!("the lowest score is {score}"), "give a number, for example score = { at-least = 6.5 }"));
        }
        if self.sample == Some(0) {
            return Err(Error::config("[data.laion] draws 0 captions", "leave [data.laion] out, or draw at least one"));
        }
        Ok(())
    }
}

/// The captions of some tables.
#[derive(Debug, Clone)]
pub struct Laion {
    pub config: Config,
    pub clean: clean::Config,
    pub tokenizers: tokens::Config,
    /// Folder that the paths of the configuration are relative to.
    pub folder: PathBuf,
    pub seed: u64,
}

impl Laion {
    /// The files that the patterns match, sorted; a pattern without a match stands for itself, as a file that is missing.
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.config.files.iter().flat_map(|pattern| matches(&self.folder, pattern)).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    fn filter(&self) -> Filter<'_> {
        Filter {
            names: &self.config.columns,
            min_score: match self.config.score {
                Score::AtLeast(score) => Some(score),
                Score::AlreadyFiltered => None,
            },
            min_characters: self.clean.min_characters,
            max_characters: self.clean.max_characters,
            unsafe_from: self.config.unsafe_from,
            watermark_from: self.config.watermark_from,
            drop: self.config.drop.iter().copied().collect::<Flags>(),
            seed: self.seed,
        }
    }

    /// Reads the files once: the captions that pass the filters, the `budget` of lowest rank of them where one is given.
    pub fn scan(&self, budget: Option<usize>) -> Result<(Pool, Counts)> {
        self.config.check()?;
        let pool = Pool::new(budget);
        let counts = scan(&self.paths(), &self.filter(), &pool)?;
        Ok((pool, counts))
    }

    /// Which captions of a pool are wanted.
    pub fn draw<'a>(&self, counters: &'a Counters) -> Draw<'a> {
        Draw {
            sample: self.config.sample,
            near_duplicates: Some(self.config.near_duplicates),
            counters,
            max_t5_tokens: self.config.max_t5_tokens,
        }
    }

    /// Reads the files and calls `use_drawn` with the drawn captions. Where duplicates leave fewer than the sample although there
    /// are more captions, the files are read again with more of them in memory.
    pub fn drawn<T>(&self, use_drawn: impl FnOnce(&Drawn, &Counts) -> Result<T>) -> Result<T> {
        let counters = Counters::load(&self.tokenizers, &self.folder)?;
        let mut budget = self.config.sample.map(|sample| sample + sample / 2 + 1000);
        loop {
            let (pool, counts) = self.scan(budget)?;
            let (captions, complete) = pool.finish();
            let drawn = captions.draw(&self.draw(&counters))?;
            if complete || self.config.sample.is_none_or(|sample| drawn.captions.len() == sample) {
                return use_drawn(&drawn, &counts);
            }
            budget = budget.map(|budget| budget * 2);
        }
    }

    /// The filters with how many rows each left out.
    fn removed(&self, drawn: &Drawn, counts: &Counts) -> Vec<Removed> {
        let score = match self.config.score {
            Score::AtLeast(score) => format!("score below {score} or none"),
            Score::AlreadyFiltered => "score (filtered before)".into(),
        };
        let flags = self.config.drop.iter().map(|flag| flag.name()).collect::<Vec<_>>().join(", ");
        let filters = [
            ("no caption".to_owned(), counts.without_caption),
            (score, counts.low_score),
            (format!("fewer than {} characters or no word, once cleaned", self.clean.min_characters), counts.too_short),
            (format!("more than {} characters", self.clean.max_characters), counts.too_long),
            (format!("flagged {flags}"), counts.flagged),
            ("equal to another up to case and punctuation".to_owned(), drawn.exact_duplicates),
            ("nearly equal to another".to_owned(), drawn.near_duplicates),
            (format!("more than {} T5 tokens", self.config.max_t5_tokens), drawn.too_many_tokens),
            ("not drawn".to_owned(), counts.passed - drawn.rows),
        ];
        filters.into_iter().map(|(filter, rows)| Removed { filter, rows }).collect()
    }

    /// Writes the drawn captions as a parquet table of their own, sorted by id: `prompt_id`, `prompt`, `score`, `flags`. Returns
    /// how many there are and what was left out. This is how a huge collection becomes a small file to keep.
    pub fn write(&self, path: &Path) -> Result<(usize, Vec<Removed>)> {
        self.drawn(|drawn, counts| {
            write_captions(path, drawn)?;
            Ok((drawn.captions.len(), self.removed(drawn, counts)))
        })
    }
}

impl PromptSource for Laion {
    fn name(&self) -> String {
        "LAION-Aesthetics 6.5+".into()
    }

    fn licence(&self) -> String {
        self.config.licence.clone()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = self.paths();
        // Whether a table is there that lies elsewhere shows when it is read.
        files.retain(|path| !matches!(remote::address(path), Ok(Some(_))));
        files.extend(self.tokenizers.files(&self.folder));
        files
    }

    fn fetched_as(&self) -> Option<&'static str> {
        Some("laion-aesthetics-12m")
    }

    fn read(&self) -> Result<Reading> {
        self.drawn(|drawn, counts| {
            let prompts = drawn.captions.iter().map(|caption| RawPrompt {
                dataset: LAION.into(),
                category: "caption".into(),
                split: Some(TRAIN.into()),
                prompt: caption.text.to_owned(),
                t5_tokens: caption.lengths.t5,
                clip_tokens: caption.lengths.clip,
                flags: caption.flags.names(),
                ..RawPrompt::default()
            });
            Ok(Reading { prompts: prompts.collect(), removed: self.removed(drawn, counts) })
        })
    }
}

/// Rows of one row group of a written table.
const GROUP_ROWS: usize = 1 << 17;

/// Writes drawn captions as [`Laion::write`] does.
pub fn write_captions(path: &Path, drawn: &Drawn) -> Result<()> {
    use rayon::prelude::*;
    let mut order: Vec<(u64, u32)> =
        drawn.captions.par_iter().enumerate().map(|(i, caption)| (rng::text_id(caption.text), i as u32)).collect();
    order.par_sort_unstable();
    let flags = Field::new_list("flags", Field::new_list_field(DataType::Utf8, false), false);
    let schema = Arc::new(Schema::new(vec![
        Field::new("prompt_id", DataType::UInt64, false),
        Field::new("prompt", DataType::Utf8, false),
        Field::new("score", DataType::Float32, true),
        flags,
    ]));
    let batch = |order: &[(u64, u32)]| -> Result<RecordBatch> {
        let captions = || order.iter().map(|&(_, i)| &drawn.captions[i as usize]);
        let mut flags = ListBuilder::new(StringBuilder::new()).with_field(Field::new_list_field(DataType::Utf8, false));
        for caption in captions() {
            caption.flags.names().iter().for_each(|name| flags.values().append_value(name));
            flags.append(true);
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(order.iter().map(|&(id, _)| Some(id)).collect::<UInt64Array>()),
            Arc::new(captions().map(|caption| Some(caption.text)).collect::<StringArray>()),
            Arc::new(captions().map(|caption| (!caption.score.is_nan()).then_some(caption.score)).collect::<Float32Array>()),
            Arc::new(flags.finish()),
        ];
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    };
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        // Every id and caption is different.
        .set_column_dictionary_enabled("prompt_id".into(), false)
        .set_column_dictionary_enabled("prompt".into(), false)
        .build();
    files::write_atomic(path, |file| {
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        for order in order.chunks(GROUP_ROWS) {
            writer.write(&batch(order)?)?;
        }
        writer.close()?;
        Ok(())
    })
}

/// Files below `folder` that a pattern matches; the pattern itself where none does.
fn matches(folder: &Path, pattern: &Path) -> Vec<PathBuf> {
    if matches!(remote::address(pattern), Ok(Some(_)) | Err(_)) {
        return vec![pattern.to_owned()];
    }
    let whole = folder.join(pattern);
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else { return vec![whole] };
    let name = name.to_string_lossy().into_owned();
    if !name.contains(['*', '?']) {
        return vec![whole];
    }
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let found: Vec<PathBuf> = entries
        .filter(|entry| fits(entry.file_name().to_string_lossy().as_bytes(), name.as_bytes()))
        .map(|entry| entry.path())
        .filter(|path| path.is_file())
        .collect();
    if found.is_empty() { vec![whole] } else { found }
}

/// True if the name fits the pattern, in which `*` stands for any bytes and `?` for one.
pub fn fits(name: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut wanted) = (0, 0);
    // The last star, and how many bytes it stands for: only this one is tried again, so time is the product of the lengths at most.
    let mut star: Option<(usize, usize)> = None;
    while at < name.len() {
        match pattern.get(wanted) {
            Some(b'*') => {
                star = Some((wanted, at));
                wanted += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[at] => {
                at += 1;
                wanted += 1;
            }
            _ => {
                let Some((place, from)) = star else { return false };
                star = Some((place, from + 1));
                (wanted, at) = (place + 1, from + 1);
            }
        }
    }
    pattern[wanted..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests;
