//! One TOML file is one whole experiment: the parts' own `Config`s, composed, with errors that name file, line and the
//! nearest valid word.

mod inherit;
mod tiny;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::teacher::TeacherConfig;
use crate::run::context::RunContext;
use crate::{data, diffusion, distill, metrics, mini, report};
pub use tiny::SUFFIX as TINY;

/// The pipeline that runs where none is named.
pub const DEFAULT: &str = "mini";
/// Folder of the pipelines below the root.
pub const PIPELINES: &str = "pipelines";
/// File of a pipeline that has a folder of its own.
pub const PIPELINE_FILE: &str = "pipeline.toml";

/// A whole experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// One or two sentences for the report.
    #[serde(default)]
    pub description: String,
    /// Seed of every random stream.
    pub seed: u64,
    pub data: data::build::Config,
    /// The frozen networks.
    pub teacher: TeacherConfig,
    /// The students, distilled in this order.
    #[serde(default)]
    pub student: Vec<distill::Config>,
    #[serde(default)]
    pub generate: diffusion::generate::Config,
    #[serde(default)]
    pub evaluate: metrics::evaluate::Config,
    #[serde(default)]
    pub report: report::Config,
    /// How the networks of the miniature world were made.
    #[serde(default)]
    pub bootstrap: mini::bootstrap::Config,
}

impl Experiment {
    /// Fails on what the parts cannot see alone.
    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for student in &self.student {
            student.validate()?;
            if !names.insert(&student.name) {
                return Err(Error::config(format!("two students are named `{}`", student.name), "give each [[student]] its own name"));
            }
        }
        Ok(())
    }

    /// Samples every validation split there is where the pipeline does not say which.
    fn choose_datasets(&mut self) -> Result<()> {
        let built = self.data.validation_sets();
        if let Some(set) = self.generate.datasets.iter().find(|set| !built.contains(&set.as_str())) {
            let message = format!("[generate] datasets names `{set}`, of which [data] builds no validation split");
            return Err(Error::config(message, suggestion("data set with a validation split", set, &built)));
        }
        if self.generate.datasets.is_empty() {
            self.generate.datasets = built.into_iter().map(str::to_owned).collect();
        }
        Ok(())
    }
}

/// An experiment with the folders it works in.
#[derive(Debug, Clone)]
pub struct Pipeline {
    pub experiment: Experiment,
    pub context: RunContext,
    pub root: PathBuf,
    /// The TOML file.
    pub file: PathBuf,
    /// The pipeline whose file this one extends.
    pub extended: Option<Box<Pipeline>>,
}

impl Pipeline {
    /// Finds and reads the pipeline `name` (a name below `pipelines/`, or a path to a TOML file or its folder).
    ///
    /// # Errors
    /// An unknown name lists the names there are; a misspelt key is answered with file, line and the nearest key.
    pub fn load(root: &Path, name: &str) -> Result<Self> {
        Self::of_file(root, &find(root, name)?)
    }

    fn of_file(root: &Path, file: &Path) -> Result<Self> {
        let (mut experiment, extended) = inherit::read(file)?;
        experiment.check()?;
        experiment.choose_datasets()?;
        let folder = file.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        let context = RunContext::below(root, &name_of(file), folder, experiment.seed);
        let extended = extended.map(|file| Self::of_file(root, &file)).transpose()?.map(Box::new);
        Ok(Self { experiment, context, root: root.to_owned(), file: file.to_owned(), extended })
    }

    /// The same experiment on tiny random networks, with results of its own.
    ///
    /// # Errors
    /// The files of the miniature world, which the tiny networks are run with, are not below the root.
    pub fn tiny(self) -> Result<Self> {
        let mut experiment = self.experiment.tiny()?;
        experiment.check()?;
        experiment.choose_datasets()?;
        let name = format!("{}{}", self.context.name, tiny::SUFFIX);
        let force = self.context.force;
        let mut context = RunContext::below(&self.root, &name, self.root.join(PIPELINES), experiment.seed);
        context.force = force;
        let extended = self.extended.map(|extended| extended.tiny()).transpose()?.map(Box::new);
        Ok(Self { experiment, context, extended, ..self })
    }
}

/// Names of the pipelines below `root`, sorted.
pub fn names(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join(PIPELINES)) else { return Vec::new() };
    let pipeline = |path: PathBuf| -> Option<String> {
        let is_file = path.extension().is_some_and(|ending| ending == "toml");
        if is_file { Some(name_of(&path)) } else { path.join(PIPELINE_FILE).is_file().then(|| name_of(&path.join(PIPELINE_FILE))) }
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| pipeline(entry.path())).collect();
    names.sort();
    names
}

/// The error for a word that is not one of `valid`, with the nearest of them.
pub fn unknown(what: &str, word: &str, valid: &[impl AsRef<str>]) -> Error {
    Error::config(format!("unknown {what} `{word}`"), suggestion(what, word, valid))
}

/// What to write in place of `word`: the nearest valid word, and all of them.
pub fn suggestion(what: &str, word: &str, valid: &[impl AsRef<str>]) -> String {
    let list = valid.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match nearest(word, valid) {
        Some(near) => format!("did you mean `{near}`? Valid are: {list}"),
        None if list.is_empty() => format!("there is no {what} here; is this the right folder (`--root`)?"),
        None => format!("valid are: {list}"),
    }
}

/// The valid word with the smallest edit distance, if at most a third of its letters (at least two) differ.
pub fn nearest<'a>(word: &str, valid: &'a [impl AsRef<str>]) -> Option<&'a str> {
    let distance = |candidate: &str| edit_distance(&word.to_lowercase(), &candidate.to_lowercase());
    let ranked = valid.iter().map(|candidate| (distance(candidate.as_ref()), candidate.as_ref()));
    let (distance, best) = ranked.min_by_key(|&(distance, _)| distance)?;
    (distance <= (best.chars().count() / 3).max(2)).then_some(best)
}

/// The file of the pipeline `name`.
fn find(root: &Path, name: &str) -> Result<PathBuf> {
    let below = root.join(PIPELINES);
    let given = PathBuf::from(name);
    let candidates = [below.join(name).join(PIPELINE_FILE), below.join(format!("{name}.toml")), given.join(PIPELINE_FILE), given.clone()];
    if let Some(file) = candidates.into_iter().find(|path| path.is_file()) {
        return Ok(file);
    }
    if name.ends_with(".toml") || name.contains(std::path::MAIN_SEPARATOR) {
        let hint = format!("name one of {} or give the path of a TOML file", names(root).join(", "));
        return Err(Error::config(format!("cannot read the pipeline from `{name}`: file not found"), hint));
    }
    Err(unknown("pipeline", name, &names(root)))
}

/// The name under which a pipeline's results are kept: its file's stem, or its folder's name.
fn name_of(file: &Path) -> String {
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let named = if file.ends_with(PIPELINE_FILE) { file.parent().and_then(stem) } else { stem(file) };
    named.unwrap_or_else(|| "pipeline".into())
}

/// Reads an experiment; `file` is for the messages.
fn parse(text: &str, file: &Path) -> Result<Experiment> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let place = format!("{}:{line}", file.display());
        explained(error.message(), &place)
    })
}

/// What serde says of the text at `place`, with the nearest valid word where one is misspelt.
fn explained(message: &str, place: &str) -> Error {
    let message = message.trim().replace('\n', "; ");
    match misspelt(&message) {
        Some((what, word, valid)) => Error::config(format!("{place}: unknown {what} `{word}`"), suggestion(what, &word, &valid)),
        None => Error::config(format!("{place}: {message}"), "see README.md and pipelines/mini/pipeline.toml for what may stand there"),
    }
}

/// The unknown word and the expected ones in serde's "unknown field `x`, expected one of `a`, `b`" (or "variant").
fn misspelt(message: &str) -> Option<(&'static str, String, Vec<String>)> {
    let key = message.strip_prefix("unknown field ").map(|rest| ("key", rest));
    let (what, rest) = key.or_else(|| message.strip_prefix("unknown variant ").map(|rest| ("value", rest)))?;
    let mut words = rest.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((what, words.next()?, words.collect()))
}

/// Levenshtein distance in letters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::files;

    const SMOKE: &str = include_str!("../pipelines/smoke.toml");

    #[test]
    fn a_pipeline_samples_the_validation_splits_it_builds() {
        let read = |extra: &str| -> Result<Experiment> {
            let mut experiment = parse(&SMOKE.replace("[generate]", &format!("[generate]\n{extra}")), Path::new("smoke"))?;
            experiment.data = toml::from_str(
                "[[file]]\ndataset = \"compbench\"\npath = \"x.txt\"\nlicence = \"MIT\"\ncategory = \"color\"\nsplit = \"val\"",
            )
            .map_err(|error| Error::Invalid(error.to_string()))?;
            experiment.choose_datasets()?;
            Ok(experiment)
        };
        assert_eq!(read("").unwrap().generate.datasets, ["compbench"]);
        assert_eq!(read("datasets = [\"compbench\"]").unwrap().generate.datasets, ["compbench"]);
        let error = read("datasets = [\"laion\"]").unwrap_err();
        assert!(error.to_string().contains("`laion`"), "{error}");
    }

    #[test]
    fn the_committed_pipelines_can_be_read_and_made_tiny() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let names = names(root);
        assert!(names.contains(&"flux-dev".into()) && names.contains(&"flux-dev-xl".into()), "{names:?}");
        for name in names {
            let pipeline = Pipeline::load(root, &name).unwrap();
            let students = pipeline.students();
            let tiny = pipeline.tiny().unwrap();
            assert_eq!((tiny.context.name.clone(), tiny.students()), (format!("{name}{TINY}"), students));
            assert!(tiny.experiment.student.iter().all(|student| student.preset.starts_with("smoke-") && student.updates <= 12));
        }
    }

    #[test]
    fn a_stage_of_a_schedule_is_not_sampled() {
        let flux = Pipeline::load(Path::new(env!("CARGO_MANIFEST_DIR")), "flux-dev").unwrap();
        assert_eq!(flux.students(), ["base-stage-1", "base-stage-2", "base"]);
        assert_eq!(flux.encoders(), ["teacher", "base"]);
    }

    #[test]
    fn two_students_of_one_name_are_refused() {
        let text = SMOKE.replace("base-naive", "base");
        let error = parse(&text, Path::new("x.toml")).unwrap().check().unwrap_err();
        assert!(error.to_string().contains("two students are named `base`"), "{error}");
    }

    fn error_of(text: &str) -> Error {
        parse(text, Path::new("pipelines/x.toml")).unwrap_err()
    }

    #[test]
    fn a_misspelt_key_is_answered_with_file_line_and_the_nearest_key() {
        let error = error_of("seed = 1\n\n[data]\n[data.mini]\ntrain_promts = 3\n");
        assert_eq!(error.to_string(), "pipelines/x.toml:5: unknown key `train_promts`");
        assert!(error.hint().unwrap().starts_with("did you mean `train_prompts`?"), "{:?}", error.hint());
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_misspelt_section_and_a_misspelt_choice_are_found_too() {
        assert!(error_of("seed = 1\n[dta]\n").hint().unwrap().contains("did you mean `data`?"));
        assert!(error_of("seed = 1\n[data]\nleaks = 'dorp'\n").hint().unwrap().contains("did you mean `drop`?"));
    }

    #[test]
    fn a_wrong_type_and_a_syntax_error_name_their_line() {
        assert!(error_of("\nseed = 'one'\n").to_string().starts_with("pipelines/x.toml:2: "));
        assert!(error_of("seed = 1\n[data\n").to_string().starts_with("pipelines/x.toml:2: "));
    }

    #[test]
    fn a_word_far_from_everything_gets_the_list_only() {
        assert_eq!(nearest("zzzzzz", &["mini", "smoke"]), None);
        assert_eq!(nearest("mnii", &["mini", "smoke"]), Some("mini"));
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn pipelines_are_found_by_name_and_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        files::write_bytes(&root.join("pipelines/a.toml"), b"").unwrap();
        files::write_bytes(&root.join("pipelines/b/pipeline.toml"), b"").unwrap();
        assert_eq!(names(root), ["a", "b"]);
        assert_eq!(find(root, "b").unwrap(), root.join("pipelines/b/pipeline.toml"));
        let path = root.join("pipelines/a.toml");
        assert_eq!(find(root, path.to_str().unwrap()).unwrap(), path);
        assert_eq!(name_of(&path), "a");
        let error = find(root, "c").unwrap_err();
        assert!(error.to_string().contains("unknown pipeline `c`") && error.hint().unwrap().contains("a, b"));
    }
}
