//! The stage `build-data`: every source read, cleaned, freed of duplicates, split, audited and written as one table per
//! set and split, with a data card beside them.

pub mod card;
pub mod divergence;
pub mod mini;
pub mod summary;

use std::collections::BTreeSet;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::leak::{self, LeakPolicy};
use crate::data::mixture::{self, Mixture};
use crate::data::schema::{
    COCO, COMMONTEXT, COMMONTEXT_HELD_OUT, COMPBENCH, DATASETS, DIFFUSIONDB, LAION, PAPER_DATASETS, PromptRow, SPLITS, TRAIN, VAL,
};
use crate::data::sources::coco::{self, Coco};
use crate::data::sources::commontext::{self, CommonText};
use crate::data::sources::compbench::{self, CompBench};
use crate::data::sources::diffusiondb::{self, DiffusionDb};
use crate::data::sources::laion::{self, Laion};
use crate::data::sources::text_file::{FileConfig, FileSplit, TextFile};
use crate::data::sources::{PromptSource, RawPrompt, Treatment};
use crate::data::tokens::Counters;
use crate::data::{audit, clean, frame, split, tokens};
use crate::error::{Error, Result};
use crate::run::context::RunContext;
use crate::run::{files, interrupt};
use summary::Summary;

/// The data card, for people.
pub const CARD: &str = "data-card.html";
/// The same numbers, for programs.
pub const SUMMARY: &str = "summary.json";

/// Which prompts are built and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Prompts of the miniature world's grammar; none where the table is absent.
    pub mini: Option<mini::Config>,
    /// T2I-CompBench from its text files.
    pub compbench: Option<compbench::Config>,
    /// CommonText, made anew.
    pub commontext: Option<commontext::Config>,
    /// Local files.
    pub file: Vec<FileConfig>,
    /// Captions of LAION tables; none where the table is absent.
    pub laion: Option<laion::Config>,
    /// Prompts of users; none where the table is absent.
    pub diffusiondb: Option<diffusiondb::Config>,
    /// Captions with reference images; none where the table is absent.
    pub coco: Option<coco::Config>,
    pub tokenizers: tokens::Config,
    pub clean: clean::Config,
    pub leaks: LeakPolicy,
    /// Drawn from each category of the files that do not say their split.
    pub val_prompts_per_category: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mini: None,
            compbench: None,
            commontext: None,
            file: Vec::new(),
            laion: None,
            diffusiondb: None,
            coco: None,
            // Without them, no prompt has a length in tokens.
            tokenizers: tokens::Config::default(),
            clean: clean::Config::default(),
            // A validation prompt seen in training measures memory.
            leaks: LeakPolicy::Drop,
            // As many as T2I-CompBench validates on per category.
            val_prompts_per_category: 300,
        }
    }
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// One table per set and split that has prompts.
    pub tables: Vec<PathBuf>,
    pub summary: Summary,
}

impl Config {
    /// Fails where the configuration cannot give a prompt, before anything is read.
    pub fn check(&self) -> Result<()> {
        self.clean.check()?;
        let nothing = self.mini.is_none() && self.compbench.is_none() && self.commontext.is_none();
        let nothing = nothing && self.laion.is_none() && self.diffusiondb.is_none() && self.coco.is_none();
        if nothing && self.file.is_empty() {
            let hint = "add [data.mini], [data.laion], [data.compbench], [data.commontext] or a [[data.file]] to the pipeline";
            return Err(Error::config("no prompt source is configured", hint));
        }
        self.laion.as_ref().map_or(Ok(()), laion::Config::check)?;
        self.diffusiondb.as_ref().map_or(Ok(()), diffusiondb::Config::check)?;
        self.coco.as_ref().map_or(Ok(()), coco::Config::check)?;
        for file in &self.file {
            if !DATASETS.contains(&file.dataset.as_str()) {
                let message = format!("`{}` belongs to the unknown set `{}`", file.path.display(), file.dataset);
                return Err(Error::config(message, format!("the sets are {}", DATASETS.join(", "))));
            }
        }
        Ok(())
    }

    /// The sources, in the order in which duplicates are resolved.
    fn sources(&self, context: &RunContext) -> Vec<Box<dyn PromptSource>> {
        let mut sources: Vec<Box<dyn PromptSource>> = Vec::new();
        if let Some(mini) = &self.mini {
            sources.push(Box::new(mini::Grammar { config: mini.clone(), seed: context.seed }));
        }
        if let Some(config) = &self.compbench {
            sources.push(Box::new(CompBench::new(config, &context.sources)));
        }
        if let Some(config) = &self.commontext {
            sources.push(Box::new(CommonText::new(config, &context.sources, context.seed)));
        }
        if let Some(config) = &self.laion {
            sources.push(Box::new(Laion {
                config: config.clone(),
                clean: self.clean.clone(),
                tokenizers: self.tokenizers.clone(),
                folder: context.sources.clone(),
                seed: context.seed,
            }));
        }
        if let Some(config) = &self.diffusiondb {
            let (clean, tokenizers) = (self.clean.clone(), self.tokenizers.clone());
            sources.push(Box::new(DiffusionDb::new(config, clean, tokenizers, context.sources.clone(), context.seed)));
        }
        if let Some(config) = &self.coco {
            sources.push(Box::new(Coco::new(config, &context.sources, context.seed)));
        }
        for file in &self.file {
            // A file of the user comes before one of the repository.
            let folder = if context.sources.join(&file.path).exists() { &context.sources } else { &context.datasets };
            sources.push(Box::new(TextFile::new(file, folder)));
        }
        sources
    }

    /// Files of the sources and tokenizers that exist: what the tables depend on besides this configuration.
    pub fn present_files(&self, context: &RunContext) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.sources(context).iter().flat_map(|source| source.files()).collect();
        files.extend(self.tokenizers.files(&context.sources));
        files.retain(|path| path.exists());
        files.sort();
        files.dedup();
        files
    }

    /// The tables that a complete build writes; without those of optional sources that are not there.
    pub fn tables(&self, context: &RunContext) -> Vec<PathBuf> {
        let mut tables = self.sets_and_splits();
        for source in self.sources(context).iter().filter(|source| source.optional() && missing(source.as_ref()).is_some()) {
            let set = if source.name() == coco::NAME { COCO } else { DIFFUSIONDB };
            if !self.file.iter().any(|file| file.dataset == set) {
                tables.remove(&(set, VAL));
            }
        }
        tables.into_iter().map(|(set, split)| context.prompts(set, split)).collect()
    }

    /// The sets that get a validation table, in the paper's order.
    pub fn validation_sets(&self) -> Vec<&'static str> {
        let all = self.sets_and_splits();
        DATASETS.into_iter().filter(|set| all.contains(&(*set, VAL))).collect()
    }

    fn sets_and_splits(&self) -> BTreeSet<(&str, &'static str)> {
        let both = |set| [(set, TRAIN), (set, VAL)];
        let mut tables: BTreeSet<(&str, &'static str)> = self.mini.iter().flat_map(|_| PAPER_DATASETS).flat_map(both).collect();
        tables.extend(self.compbench.iter().flat_map(|_| both(COMPBENCH)));
        if let Some(config) = &self.commontext {
            let parts = [(COMMONTEXT, TRAIN, config.train), (COMMONTEXT, VAL, config.val), (COMMONTEXT_HELD_OUT, VAL, config.held_out)];
            tables.extend(parts.into_iter().filter(|part| part.2 > 0).map(|part| (part.0, part.1)));
        }
        tables.extend(self.laion.iter().map(|_| (LAION, TRAIN)));
        tables.extend(self.diffusiondb.iter().map(|_| (DIFFUSIONDB, VAL)));
        tables.extend(self.coco.iter().map(|_| (COCO, VAL)));
        for file in &self.file {
            let set = file.dataset.as_str();
            match file.split {
                FileSplit::Train => tables.extend([(set, TRAIN)]),
                FileSplit::Val => tables.extend([(set, VAL)]),
                FileSplit::Draw if self.val_prompts_per_category == 0 => tables.extend([(set, TRAIN)]),
                FileSplit::Draw => tables.extend(both(set)),
            }
        }
        tables
    }
}

/// Builds the prompt tables into `context.built`; `mixtures` is what the students will train on, for the card.
///
/// # Errors
/// [`Error::Partial`] with the list where files of sources are missing; everything else is built then.
pub fn run(config: &Config, mixtures: &[Mixture], context: &RunContext) -> Result<Outputs> {
    config.check()?;
    let mut raw: Vec<RawPrompt> = Vec::new();
    let mut summary = Summary::default();
    for source in config.sources(context) {
        if let Some(missing) = missing(source.as_ref()) {
            if source.optional() { &mut summary.left_out } else { &mut summary.missing }.push(missing);
            continue;
        }
        let mut reading = source.read()?;
        let (name, licence) = (source.name(), source.licence());
        for prompt in &mut reading.prompts {
            for (field, value) in [(&mut prompt.source, &name), (&mut prompt.licence, &licence)] {
                if field.is_empty() {
                    field.clone_from(value);
                }
            }
        }
        summary.sources.push(summary::SourceSummary::new(source.as_ref(), &reading));
        raw.extend(reading.prompts);
        interrupt::check()?;
    }
    if raw.is_empty() {
        let hint = "no source was there; run `scaledown data fetch` or put the files in place and run `build-data` again";
        return Err(Error::Partial { missing: summary.missing, hint: hint.into() });
    }
    let mut prompts = prepare(raw, config, context.seed, &mut summary)?;
    count_tokens(&mut prompts, &config.tokenizers, context, &mut summary)?;
    interrupt::check()?;
    summary.audit = audit::pairs(&prompts);
    summary.combinations = mini::combinations(&prompts)?;
    summary.tables = summary::table_summaries(&prompts)?;
    let told = |mixture: &Mixture| mixture::describe(&mixture.sources, |dataset| summary.prompts_of(dataset, TRAIN));
    summary.mixtures = mixtures.iter().map(|mixture| (mixture.name.clone(), told(mixture))).collect();

    let tables = write_tables(&prompts, context)?;
    let json = serde_json::to_vec_pretty(&summary).map_err(|error| Error::format("summary", SUMMARY, error))?;
    files::write_bytes(&context.built.join(SUMMARY), &json)?;
    files::write_bytes(&context.built.join(CARD), card::html(&context.name, &summary, &prompts)?.as_bytes())?;
    for source in &summary.left_out {
        eprintln!("build-data: left out, since it is optional and not there: {source}");
    }
    for (student, mixture) in &summary.mixtures {
        eprintln!("build-data: `{student}` trains on {mixture}");
    }
    if summary.missing.is_empty() {
        Ok(Outputs { tables, summary })
    } else {
        let hint = "run `scaledown data fetch` or put the files in place, then run `build-data` again; everything else is built";
        Err(Error::Partial { missing: summary.missing, hint: hint.into() })
    }
}

/// What a source lacks, in words; `None` where everything is there.
fn missing(source: &dyn PromptSource) -> Option<String> {
    let absent: Vec<PathBuf> = source.files().into_iter().filter(|path| !path.exists()).collect();
    let first = absent.first()?.display();
    let more = if absent.len() > 1 { format!(" and {} more files", absent.len() - 1) } else { String::new() };
    let fetch = source.fetched_as().map_or(String::new(), |name| format!(" (`scaledown data fetch {name}`)"));
    Some(format!("{}: `{first}`{more}{fetch}", source.name()))
}

/// Cleans, splits and filters; notes in the summary what each filter removed from which set.
fn prepare(raw: Vec<RawPrompt>, config: &Config, seed: u64, summary: &mut Summary) -> Result<Vec<RawPrompt>> {
    let before = summary::counts(&raw);
    let clean = |p: &RawPrompt| match p.treatment {
        Treatment::Clean => config.clean.clean(&p.prompt),
        Treatment::Verbatim => Some(clean::collapse(&p.prompt)).filter(|prompt| !prompt.is_empty()),
    };
    let mut prompts: Vec<RawPrompt> = raw.into_iter().filter_map(|p| Some(RawPrompt { prompt: clean(&p)?, ..p })).collect();
    summary.filtered("length", &before, &prompts);
    // The order of files and threads must not decide which of two duplicates stays.
    prompts.sort_by(|a, b| (&a.dataset, &a.category, &a.prompt, &a.source).cmp(&(&b.dataset, &b.category, &b.prompt, &b.source)));
    split::assign(&mut prompts, config.val_prompts_per_category, seed);
    for (filter, column) in [("equal prompts of one set and split", "prompt"), ("the same up to case and punctuation", frame::NORMAL)] {
        let before = summary::counts(&prompts);
        prompts = frame::drop_duplicates(&prompts, column)?;
        summary.filtered(filter, &before, &prompts);
    }
    let before = summary::counts(&prompts);
    let (prompts, leaks) = leak::audit(&prompts, config.leaks)?;
    summary.filtered("training prompts that are validation prompts", &before, &prompts);
    summary.leaks = leaks;
    Ok(prompts)
}

/// Fills in the lengths in tokens; a tokenizer that is not there is noted as missing.
fn count_tokens(prompts: &mut [RawPrompt], config: &tokens::Config, context: &RunContext, summary: &mut Summary) -> Result<()> {
    let absent: Vec<String> = config
        .named(&context.sources)
        .into_iter()
        .filter(|path| !path.exists())
        .map(|path| format!("tokenizer: `{}`", path.display()))
        .collect();
    if config.optional {
        summary.left_out.extend(absent);
    } else if !absent.is_empty() {
        summary.missing.extend(absent);
        return Ok(());
    }
    let counters = Counters::load(config, &context.sources)?;
    if counters.is_empty() {
        return Ok(());
    }
    prompts.par_iter_mut().filter(|prompt| prompt.t5_tokens.is_none() && prompt.clip_tokens.is_none()).try_for_each(|prompt| {
        let lengths = counters.count(&prompt.prompt)?;
        (prompt.t5_tokens, prompt.clip_tokens) = (lengths.t5, lengths.clip);
        Ok(())
    })
}

/// Writes one table per set and split; sets without prompts in a split get none.
fn write_tables(prompts: &[RawPrompt], context: &RunContext) -> Result<Vec<PathBuf>> {
    let mut tables = Vec::new();
    for dataset in DATASETS {
        for split in SPLITS {
            let rows = PromptRow::from_raw(prompts.iter().filter(|p| p.dataset == dataset && p.split.as_deref() == Some(split)));
            if !rows.is_empty() {
                let path = context.prompts(dataset, split);
                PromptRow::write(&path, &rows)?;
                tables.push(path);
            }
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn context(root: &Path) -> RunContext {
        RunContext::below(root, "test", root.to_owned(), 7)
    }

    fn small() -> Config {
        let val = mini::ValPrompts { seen: 5, unseen: 5, ..mini::ValPrompts::of_each(6) };
        Config { mini: Some(mini::Config { train_prompts: 60, val }), ..Config::default() }
    }

    fn read(context: &RunContext, dataset: &str, split: &str) -> Vec<PromptRow> {
        PromptRow::read(&context.prompts(dataset, split), "").unwrap()
    }

    #[test]
    fn a_set_that_is_only_measured_on_needs_no_training_table() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        files::write_bytes(&context.datasets.join("held-out.txt"), b"a red car and a blue house\n").unwrap();
        let toml = "[[file]]\ndataset = \"compbench\"\npath = \"held-out.txt\"\nlicence = \"MIT\"\nsplit = \"val\"";
        let config: Config = toml::from_str(toml).unwrap();
        let outputs = run(&config, &[], &context).unwrap();
        assert_eq!(config.tables(&context), [context.prompts("compbench", "val")]);
        assert_eq!(outputs.tables, config.tables(&context));
    }

    #[test]
    fn the_miniature_world_gives_the_asked_for_counts_and_no_leak() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        let outputs = run(&small(), &[], &context).unwrap();
        assert_eq!(outputs.tables.len(), 6);
        let mut train = BTreeSet::new();
        for (dataset, val) in [("laion", 6), ("compbench", 42), ("commontext", 10)] {
            let rows = read(&context, dataset, "train");
            assert_eq!(rows.len(), 60, "{dataset}");
            train.extend(rows.into_iter().map(|row| row.prompt_id));
            assert_eq!(read(&context, dataset, "val").len(), val, "{dataset}");
        }
        for dataset in PAPER_DATASETS {
            assert!(read(&context, dataset, "val").iter().all(|row| !train.contains(&row.prompt_id)));
        }
        let audit = &outputs.summary.leaks;
        assert_eq!((audit.normalised, audit.target_text_seen + audit.target_text_unseen), (0, 10));
        // Words that training never shows, and those of the 500 seen ones that 60 prompts happen to miss.
        assert!(audit.target_text_unseen >= 5, "{audit:?}");
        assert!(outputs.summary.combinations.val_only > 0);
        let card = std::fs::read_to_string(context.built.join(CARD)).unwrap();
        assert!(card.contains("<td>compbench</td><td>val</td><td>numeracy</td><td class=\"n\">6</td>"), "{card}");
    }

    #[test]
    fn signs_carry_their_target_text_and_every_row_its_scene() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        run(&small(), &[], &context).unwrap();
        for row in read(&context, "commontext", "val") {
            let text = row.target_text.unwrap();
            assert!(row.prompt.contains(&format!("'{text}'")), "{}", row.prompt);
            let scene: crate::mini::scene::Scene = serde_json::from_str(&row.scene.unwrap()).unwrap();
            assert_eq!(scene.sign_word, Some(text));
        }
    }

    #[test]
    fn equal_seeds_give_equal_tables() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&a, &b] {
            run(&small(), &[], &context(folder.path())).unwrap();
        }
        assert_eq!(read(&context(a.path()), "laion", "train"), read(&context(b.path()), "laion", "train"));
    }

    #[test]
    fn a_missing_file_leaves_the_rest_built_and_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        let file: FileConfig = toml::from_str("dataset = 'laion'\npath = 'absent.txt'\nlicence = 'CC0'").unwrap();
        let error = run(&Config { file: vec![file], ..small() }, &[], &context).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("absent.txt"), "{error}");
        assert_eq!(read(&context, "compbench", "train").len(), 60);
    }

    #[test]
    fn a_file_without_splits_is_split_and_leaks_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(folder.path());
        let lines: Vec<String> = (0..50).map(|i| format!("caption number {i}")).collect();
        files::write_bytes(&context.datasets.join("laion.txt"), lines.join("\n").as_bytes()).unwrap();
        files::write_bytes(&context.datasets.join("again.txt"), b"Caption number 0\ncaption number 51").unwrap();
        let drawn = "dataset = 'laion'\npath = 'laion.txt'\nlicence = 'CC0'\ncategory = 'caption'";
        let train = "dataset = 'compbench'\npath = 'again.txt'\nlicence = 'CC0'\nsplit = 'train'";
        let file = [drawn, train].map(|text| toml::from_str(text).unwrap()).into();
        run(&Config { file, val_prompts_per_category: 49, ..Config::default() }, &[], &context).unwrap();
        let val = read(&context, "laion", "val");
        assert_eq!((val.len(), read(&context, "laion", "train").len()), (49, 1));
        let leaked = val.iter().any(|row| row.prompt == "caption number 0");
        assert_eq!(read(&context, "compbench", "train").len(), if leaked { 1 } else { 2 });
    }
}
