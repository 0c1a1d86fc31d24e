//! Experiments that differ in little from another one: `extends = "flux-dev.toml"` reads that file first. Tables are merged key
//! by key; every other value, lists included, replaces that of the file extended.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{Experiment, explained, parse};
use crate::error::{Error, Result};
use crate::run::files;

const EXTENDS: &str = "extends";
/// More would be a circle.
const DEEPEST: usize = 8;

/// Reads an experiment and names the file it extends, if it does.
pub fn read(file: &Path) -> Result<(Experiment, Option<PathBuf>)> {
    let text = read_text(file)?;
    let Some(base) = base_of(&text, file) else { return Ok((parse(&text, file)?, None)) };
    let merged = merged(file, &text, &base?, DEEPEST)?;
    let experiment =
        Experiment::deserialize(Value::Table(merged)).map_err(|error| explained(error.message(), &file.display().to_string()))?;
    Ok((experiment, base_of(&text, file).transpose()?))
}

fn read_text(file: &Path) -> Result<String> {
    let bytes = files::read_bytes(file, "the pipeline", "name a pipeline with `--pipeline`")?;
    String::from_utf8(bytes).map_err(|error| Error::format("UTF-8 text", file, error))
}

/// The file that `text` extends; a text that is no TOML extends nothing, and parsing it says why.
fn base_of(text: &str, file: &Path) -> Option<Result<PathBuf>> {
    let table: Table = toml::from_str(text).ok()?;
    let wrong =
        |what: String| Error::config(format!("{}: {what}", file.display()), "name a file in the same folder: extends = \"flux-dev.toml\"");
    Some(match table.get(EXTENDS)? {
        // Paths in an experiment are relative to its folder, so both files must lie in one.
        Value::String(name) if Path::new(name).components().count() == 1 => Ok(file.with_file_name(name)),
        other => Err(wrong(format!("extends must name a file beside this one, found {other}"))),
    })
}

fn merged(file: &Path, text: &str, base: &Path, depth: usize) -> Result<Table> {
    if depth == 0 {
        return Err(Error::config(format!("{} extends itself", file.display()), "remove one of the `extends`"));
    }
    let below = read_text(base)?;
    let mut table = match base_of(&below, base) {
        Some(next) => merged(base, &below, &next?, depth - 1)?,
        None => table_of(&below, base)?,
    };
    let mut own = table_of(text, file)?;
    own.remove(EXTENDS);
    overlay(&mut table, own);
    Ok(table)
}

fn table_of(text: &str, file: &Path) -> Result<Table> {
    toml::from_str(text).map_err(|error| Error::config(format!("{}: {}", file.display(), error.message().trim()), "correct the TOML"))
}

fn overlay(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => drop(below.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pipeline;

    fn written(texts: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in texts {
            files::write_bytes(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        folder
    }

    #[test]
    fn tables_are_merged_and_lists_replaced() {
        let smoke = include_str!("../../pipelines/smoke.toml");
        let extension = "extends = 'smoke.toml'\n[generate]\nguidance = 2.0\n[[student]]\nname = 'one'\npreset = 'smoke-base'\n\
                         objective = 'none'\nupdates = 0\ndatasets = [{ dataset = 'laion' }]\n";
        let folder = written(&[("smoke.toml", smoke), ("x.toml", extension)]);
        let (base, none) = read(&folder.path().join("smoke.toml")).unwrap();
        assert_eq!(none, None);
        let (experiment, extended) = read(&folder.path().join("x.toml")).unwrap();
        assert_eq!(extended.unwrap(), folder.path().join("smoke.toml"));
        assert_eq!((experiment.generate.guidance, experiment.generate.steps), (2.0, base.generate.steps));
        assert_eq!(experiment.student.iter().map(|student| student.name.as_str()).collect::<Vec<_>>(), ["one"]);
        assert_eq!((&experiment.teacher, &experiment.data), (&base.teacher, &base.data));
    }

    #[test]
    fn the_longer_run_of_a_report_is_inherited_from_the_same_folder() {
        let smoke = include_str!("../../pipelines/smoke.toml");
        let folder = written(&[
            ("smoke.toml", &format!("{smoke}\n[report]\nbeside = 'long/smoke.parquet'\n")),
            ("heir.toml", "extends = 'smoke.toml'\n[report]\nheadline = 'base'"),
            ("other.toml", "extends = 'smoke.toml'\n[report]\nbeside = 'other.parquet'"),
        ]);
        let root = folder.path();
        let load = |name: &str| Pipeline::load(root, root.join(name).to_str().unwrap()).unwrap();
        for (name, file) in [("smoke.toml", "long/smoke.parquet"), ("heir.toml", "long/smoke.parquet"), ("other.toml", "other.parquet")] {
            let Pipeline { experiment, context, .. } = load(name);
            assert_eq!(experiment.report.beside(&context), Some(root.join(file)), "{name}");
        }
        assert_eq!(load("heir.toml").tiny().unwrap().experiment.report.beside, None);
    }

    #[test]
    fn what_cannot_be_extended_is_said() {
        let folder = written(&[
            ("round.toml", "extends = 'round.toml'"),
            ("far.toml", "extends = '../far.toml'"),
            ("nothing.toml", "extends = 'missing.toml'"),
            ("smoke.toml", include_str!("../../pipelines/smoke.toml")),
            ("misspelt.toml", "extends = 'smoke.toml'\n[generate]\nguidence = 1.0"),
        ]);
        let message = |name: &str| {
            let error = read(&folder.path().join(name)).unwrap_err();
            format!("{error}; {}", error.hint().unwrap_or_default())
        };
        assert!(message("round.toml").contains("extends itself"));
        assert!(message("far.toml").contains("must name a file beside this one"));
        assert!(message("nothing.toml").contains("missing.toml"));
        let misspelt = message("misspelt.toml");
        assert!(misspelt.contains("misspelt.toml: unknown key `guidence`") && misspelt.contains("did you mean `guidance`?"), "{misspelt}");
    }
}
