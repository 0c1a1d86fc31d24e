//! T2I-CompBench from its text files, upstream's or the copies of the authors: the paper's six categories, or every line that
//! the released training script reads.

mod parse;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::parse::parse;
use super::text_file::{LONGEST_BYTES, too_long, utf8};
use super::{PromptSource, RawPrompt, Reading, Treatment};
use crate::data::schema::{COMPBENCH, TRAIN, VAL};
use crate::error::{Error, Result};
use crate::run::files;

/// The categories that the paper trains and validates on.
pub const PAPER_CATEGORIES: [&str; 6] = ["color", "shape", "texture", "spatial", "3d_spatial", "numeracy"];
/// The categories that the released script reads as well, because their file names hold `train`.
const RELEASED_CATEGORIES: [&str; 2] = ["non_spatial", "complex"];
/// Parts of the complex training file, read beside the whole: together they are the same 700 lines.
const COMPLEX_PARTS: [&str; 3] = ["complex_train_action", "complex_train_spatial", "complex_train_spatialaction"];
/// Where the files lie below the folder of sources: upstream's clone, the authors' clone, a folder of the files alone.
const FOLDERS: [&str; 5] =
    ["T2I-CompBench/examples/dataset", "DistillT5/data/T2I-CompBench", "T2I-CompBench", "examples/dataset", "data/T2I-CompBench"];
/// Lines of a training file and of a validation file.
const LINES: [(&str, usize); 2] = [(TRAIN, 700), (VAL, 300)];

/// Which lines are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// The paper's six categories: 4,200 and 1,800.
    #[default]
    Paper,
    /// What the released script trains on: 6,300 lines, those of `complex` twice. Validation as in the paper.
    AsReleased,
}

/// What is read, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub preset: Preset,
    /// Folder of the text files relative to the folder of sources; where absent, the usual places are tried.
    pub folder: Option<PathBuf>,
}

/// The files.
#[derive(Debug, Clone)]
pub struct CompBench {
    pub config: Config,
    /// Folder of the text files.
    pub folder: PathBuf,
}

/// One file: its name without `.txt`, category and split.
type Part = (String, &'static str, &'static str);

impl CompBench {
    /// The files below `sources`.
    pub fn new(config: &Config, sources: &Path) -> Self {
        let marked = |folder: &PathBuf| folder.join("color_train.txt").exists();
        let usual = || [sources.to_owned()].into_iter().chain(FOLDERS.map(|folder| sources.join(folder))).find(marked);
        let folder = match &config.folder {
            Some(folder) => sources.join(folder),
            None => usual().unwrap_or_else(|| sources.join("T2I-CompBench")),
        };
        Self { config: config.clone(), folder }
    }

    /// The files to read, in order; `complex` a second time where its parts are not there.
    fn parts(&self) -> Vec<Part> {
        let train = |category: &'static str| (format!("{category}_train"), category, TRAIN);
        let mut parts: Vec<Part> = PAPER_CATEGORIES.iter().copied().map(train).collect();
        if self.config.preset == Preset::AsReleased {
            parts.extend(RELEASED_CATEGORIES.map(train));
            if COMPLEX_PARTS.iter().all(|part| self.path(part).exists()) {
                parts.extend(COMPLEX_PARTS.map(|part| (part.to_owned(), "complex", TRAIN)));
            } else {
                parts.push(train("complex"));
            }
        }
        parts.extend(PAPER_CATEGORIES.map(|category| (format!("{category}_val"), category, VAL)));
        parts
    }

    fn path(&self, part: &str) -> PathBuf {
        self.folder.join(format!("{part}.txt"))
    }

    /// The prompts of one file: field 0 of every line that is not empty, as the reference generator reads them.
    fn lines(&self, part: &str) -> Result<Vec<String>> {
        let path = self.path(part);
        let bytes = files::read_bytes(&path, "T2I-CompBench", "run `scaledown data fetch` or put the file there")?;
        let text = utf8(bytes).map_err(|place| Error::format("UTF-8 text", &path, place))?;
        let prompts = prompts_of(&text);
        match prompts.iter().enumerate().find(|(_, prompt)| prompt.len() > LONGEST_BYTES) {
            Some((i, prompt)) => Err(Error::format("T2I-CompBench file", &path, too_long(i + 1, prompt.len()))),
            None => Ok(prompts.into_iter().map(str::to_owned).collect()),
        }
    }
}

/// The prompts of a file, upstream's or the authors': field 0 of every line that is not empty.
pub fn prompts_of(text: &str) -> Vec<&str> {
    let prompts = text.trim_start_matches('\u{feff}').lines().filter_map(|line| line.split('\t').next());
    prompts.map(str::trim).filter(|prompt| !prompt.is_empty()).collect()
}

impl PromptSource for CompBench {
    fn name(&self) -> String {
        match self.config.preset {
            Preset::Paper => "T2I-CompBench, six categories".into(),
            Preset::AsReleased => "T2I-CompBench, as the released script reads it".into(),
        }
    }

    fn licence(&self) -> String {
        "MIT (T2I-CompBench, © 2023 HKU)".into()
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.parts().iter().map(|(part, _, _)| self.path(part)).collect();
        files.dedup();
        files
    }

    fn fetched_as(&self) -> Option<&'static str> {
        Some("t2i-compbench")
    }

    fn read(&self) -> Result<Reading> {
        let mut prompts = Vec::new();
        for (part, category, split) in self.parts() {
            let lines = self.lines(&part)?;
            let whole = !part.starts_with("complex_train_");
            if let Some((_, expected)) = LINES.iter().find(|(name, expected)| whole && *name == split && *expected != lines.len()) {
                let reason = format!("{} prompts, expected {expected}", lines.len());
                return Err(Error::format("T2I-CompBench file", self.path(&part), reason));
            }
            for prompt in lines {
                prompts.push(RawPrompt {
                    dataset: COMPBENCH.into(),
                    category: category.into(),
                    split: Some(split.into()),
                    structure: parse(category, &prompt).map(|structure| structure.to_json()).transpose()?,
                    prompt,
                    treatment: Treatment::Verbatim,
                    ..RawPrompt::default()
                });
            }
        }
        Ok(prompts.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Files with the right number of lines of our own prompts, some of them equal, with the given line end.
    pub(crate) fn write_files(folder: &Path, line_end: &str) {
        for category in PAPER_CATEGORIES.into_iter().chain(RELEASED_CATEGORIES) {
            for (split, n) in LINES {
                let prompt = |i: usize| match category {
                    "spatial" => format!("a {split} heron {} near a piano", i / 2),
                    "numeracy" => format!("two {split}-lamps{i}"),
                    _ => format!("a red {category}-{split}-{i} and a blue bowl"),
                };
                let lines: Vec<String> = (0..n).map(prompt).collect();
                files::write_bytes(&folder.join(format!("{category}_{split}.txt")), lines.join(line_end).as_bytes()).unwrap();
            }
        }
    }

    fn read(sources: &Path, preset: Preset) -> Vec<RawPrompt> {
        CompBench::new(&Config { preset, folder: None }, sources).read().unwrap().prompts
    }

    fn count(prompts: &[RawPrompt], category: Option<&str>, split: &str) -> usize {
        prompts.iter().filter(|p| p.split.as_deref() == Some(split) && category.is_none_or(|c| c == p.category)).count()
    }

    #[test]
    fn the_paper_has_4200_and_1800_lines_and_the_release_6300() {
        let folder = tempfile::tempdir().unwrap();
        write_files(&folder.path().join("T2I-CompBench/examples/dataset"), "\r\n");
        let paper = read(folder.path(), Preset::Paper);
        for category in PAPER_CATEGORIES {
            assert_eq!((count(&paper, Some(category), TRAIN), count(&paper, Some(category), VAL)), (700, 300), "{category}");
        }
        assert_eq!((count(&paper, None, TRAIN), count(&paper, None, VAL)), (4200, 1800));
        let released = read(folder.path(), Preset::AsReleased);
        assert_eq!((count(&released, None, TRAIN), count(&released, None, VAL)), (6300, 1800));
        assert_eq!(count(&released, Some("complex"), TRAIN), 1400);
    }

    #[test]
    fn the_parts_of_complex_are_read_where_they_are() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), "\n");
        for (part, n) in COMPLEX_PARTS.into_iter().zip([504, 130, 66]) {
            let lines: String = (0..n).map(|i| format!("The {part} {i} is red.\n")).collect();
            files::write_bytes(&folder.path().join(format!("{part}.txt")), lines.as_bytes()).unwrap();
        }
        let released = read(folder.path(), Preset::AsReleased);
        assert_eq!(count(&released, None, TRAIN), 6300);
        assert!(released.iter().any(|p| p.prompt == "The complex_train_spatialaction 65 is red."));
    }

    #[test]
    fn line_ends_and_the_place_of_the_files_make_no_difference() {
        let (upstream, authors) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_files(&upstream.path().join("T2I-CompBench/examples/dataset"), "\r\n");
        write_files(&authors.path().join("DistillT5/data/T2I-CompBench"), "\n");
        assert_eq!(read(upstream.path(), Preset::Paper), read(authors.path(), Preset::Paper));
    }

    #[test]
    fn a_file_with_lines_missing_or_damaged_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), "\n");
        let source = CompBench::new(&Config::default(), folder.path());
        files::write_bytes(&folder.path().join("shape_val.txt"), b"a round plum and a square tray\n").unwrap();
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains("shape_val.txt") && error.contains("1 prompts, expected 300"), "{error}");
        files::write_bytes(&folder.path().join("color_val.txt"), b"a red plum\na \xff tray\n").unwrap();
        let error = source.read().unwrap_err().to_string();
        assert!(error.contains("color_val.txt") && error.contains("line 2, byte 13 of the file"), "{error}");
    }
}
