//! Freshness and provenance: a stage is skipped while its inputs, configuration and outputs are what its manifest says,
//! and the manifest is the last file a stage writes. Whoever deletes an output or changes an input gets a new run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::hashes::HashCache;
use crate::run::{files, machine};

/// Name of the manifest in the folder of a stage's outputs.
pub const FILE_NAME: &str = "manifest.json";

/// A file that a stage read or wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Relative to the root folder where it lies below it.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// What made the outputs of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// For example `build-data`, `distill base`, `generate teacher`.
    pub stage: String,
    /// Version of this crate.
    pub version: String,
    pub seed: u64,
    pub config: serde_json::Value,
    pub inputs: Vec<FileRecord>,
    pub outputs: Vec<FileRecord>,
    /// The command line as typed.
    pub command: String,
    pub threads: usize,
    pub device: String,
    /// Commit of the sources, where the run was made in a clone of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Seconds since 1970, when the stage ended.
    pub finished: u64,
    /// Wall time of the run that ended the stage; a resumed run counts from its resumption.
    pub seconds: f64,
}

impl Manifest {
    /// Reads a manifest; `hint` says how to make it where it is missing.
    pub fn read(path: &Path, hint: &str) -> Result<Self> {
        let bytes = files::read_bytes(path, "the manifest", hint)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::format("manifest", path, error))
    }
}

/// A file that must be there before a stage starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub path: PathBuf,
    /// What it is, for the error message.
    pub what: String,
    /// How to make it.
    pub hint: String,
}

impl Input {
    /// An input made by an earlier stage or committed with the pipeline.
    pub fn new(path: impl Into<PathBuf>, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { path: path.into(), what: what.into(), hint: hint.into() }
    }
}

/// One stage about to run: everything its outputs depend on.
#[derive(Debug, Clone)]
pub struct Stage {
    pub name: String,
    /// Paths in the manifest are relative to this folder.
    pub root: PathBuf,
    /// Folder of the outputs; the manifest lies in it.
    pub folder: PathBuf,
    pub seed: u64,
    pub config: serde_json::Value,
    pub inputs: Vec<Input>,
    /// Files, or folders whose every file counts.
    pub outputs: Vec<PathBuf>,
    /// Outputs that the body may have reason not to write.
    pub optional_outputs: Vec<PathBuf>,
}

/// Whether a stage has to run.
#[derive(Debug, Clone, PartialEq)]
pub enum Freshness {
    /// The outputs are what this configuration and these inputs give.
    Fresh { finished: u64, seconds: f64 },
    /// Something changed; the reason is for the user.
    Stale { reason: String },
}

/// What [`Stage::run`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing: the outputs were fresh.
    Fresh,
    /// The work.
    Done,
}

/// Whether fresh work is done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rerun {
    WhenStale,
    Always,
}

impl Stage {
    /// Where the manifest lies.
    pub fn manifest_path(&self) -> PathBuf {
        self.folder.join(FILE_NAME)
    }

    /// Fails with the first input that is not there.
    pub fn check_inputs(&self) -> Result<()> {
        match self.inputs.iter().find(|input| !input.path.exists()) {
            Some(input) => Err(Error::Missing { what: input.what.clone(), path: input.path.clone(), hint: input.hint.clone() }),
            None => Ok(()),
        }
    }

    /// Compares the manifest with the files and the configuration of now.
    pub fn freshness(&self, cache: &mut HashCache) -> Result<Freshness> {
        let path = self.manifest_path();
        if !path.exists() {
            return Ok(stale("it has not run yet"));
        }
        let Ok(old) = Manifest::read(&path, "") else { return Ok(stale("its manifest cannot be read")) };
        if old.version != env!("CARGO_PKG_VERSION") {
            return Ok(stale(format!("it was made by version {}", old.version)));
        }
        if old.seed != self.seed {
            return Ok(stale(format!("the seed changed from {} to {}", old.seed, self.seed)));
        }
        if let Some(key) = first_difference(&old.config, &self.config, "") {
            return Ok(stale(format!("the configuration changed at `{key}`")));
        }
        self.check_inputs()?;
        if let Some(path) = changed(&old.inputs, &self.records(self.inputs.iter().map(|input| &input.path), cache)?) {
            return Ok(stale(format!("its input `{path}` changed")));
        }
        if let Some(missing) = self.outputs.iter().find(|output| !output.exists()) {
            return Ok(stale(format!("its output `{}` is missing", self.relative(missing))));
        }
        if let Some(path) = changed(&old.outputs, &self.output_records(cache)?) {
            return Ok(stale(format!("its output `{path}` changed")));
        }
        Ok(Freshness::Fresh { finished: old.finished, seconds: old.seconds })
    }

    /// Runs `body` unless the outputs are fresh, then writes the manifest. Says on stderr what it does.
    ///
    /// # Errors
    /// A missing input is reported before the body starts. An error of the body leaves the old manifest, whose hashes
    /// no longer fit if outputs changed, so that the next run does not take half a result for fresh.
    pub fn run(&self, rerun: Rerun, cache: &mut HashCache, body: impl FnOnce() -> Result<()>) -> Result<Status> {
        self.check_inputs()?;
        if rerun == Rerun::WhenStale {
            match self.freshness(cache)? {
                Freshness::Fresh { .. } => {
                    eprintln!("{}: fresh", self.name);
                    cache.save()?;
                    return Ok(Status::Fresh);
                }
                Freshness::Stale { reason } => eprintln!("{}: running ({reason})", self.name),
            }
        } else {
            eprintln!("{}: running (forced)", self.name);
        }
        files::create_dir(&self.folder)?;
        // Hashed before the body: an input that changes meanwhile makes the result stale, as it should.
        let inputs = self.records(self.inputs.iter().map(|input| &input.path), cache)?;
        let started = Instant::now();
        body()?;
        let seconds = started.elapsed().as_secs_f64();
        let manifest = Manifest {
            stage: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed: self.seed,
            config: self.config.clone(),
            inputs,
            outputs: self.output_records(cache)?,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            threads: rayon::current_num_threads(),
            device: machine::description(),
            commit: machine::commit(&self.root),
            finished: unix_seconds(),
            seconds,
        };
        let path = self.manifest_path();
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::format("manifest", &path, error))?;
        files::write_bytes(&path, &json)?;
        cache.save()?;
        eprintln!("{}: done in {}", self.name, readable_seconds(seconds));
        Ok(Status::Done)
    }

    fn output_records(&self, cache: &mut HashCache) -> Result<Vec<FileRecord>> {
        let optional = self.optional_outputs.iter().filter(|path| path.exists());
        self.records(self.outputs.iter().chain(optional), cache)
    }

    /// Records of files and of every file below folders, sorted by path.
    fn records<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>, cache: &mut HashCache) -> Result<Vec<FileRecord>> {
        let mut records = BTreeMap::new();
        for path in paths {
            for file in files_below(path)? {
                let (bytes, sha256) = cache.hash(&file)?;
                let name = self.relative(&file);
                records.insert(name.clone(), FileRecord { path: name, bytes, sha256 });
            }
        }
        Ok(records.into_values().collect())
    }

    fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// Seconds as a person says them: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`.
pub fn readable_seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..=9 => format!("{seconds:.1} s"),
        10..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

fn stale(reason: impl Into<String>) -> Freshness {
    Freshness::Stale { reason: reason.into() }
}

/// The path itself where it is a file; all files below it, sorted, where it is a folder.
fn files_below(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The first path whose record differs, is new or is gone.
fn changed(old: &[FileRecord], new: &[FileRecord]) -> Option<String> {
    let old: BTreeMap<_, _> = old.iter().map(|record| (&record.path, record)).collect();
    let new: BTreeMap<_, _> = new.iter().map(|record| (&record.path, record)).collect();
    old.keys().chain(new.keys()).find(|path| old.get(*path) != new.get(*path)).map(|path| (*path).clone())
}

/// The dotted path of the first value that differs between two configurations.
fn first_difference(old: &serde_json::Value, new: &serde_json::Value, at: &str) -> Option<String> {
    use serde_json::Value::{Array, Object};
    let join = |key: &str| if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") };
    match (old, new) {
        (Object(a), Object(b)) => a.keys().chain(b.keys()).find_map(|key| match (a.get(key), b.get(key)) {
            (Some(a), Some(b)) => first_difference(a, b, &join(key)),
            _ => Some(join(key)),
        }),
        (Array(a), Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| first_difference(a, b, &join(&i.to_string())))
        }
        _ => (old != new).then(|| at.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    struct World {
        folder: tempfile::TempDir,
        runs: Cell<usize>,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            files::write_bytes(&folder.path().join("in.txt"), b"one").unwrap();
            Self { folder, runs: Cell::new(0) }
        }

        fn stage(&self, config: serde_json::Value) -> Stage {
            let root = self.folder.path().to_owned();
            Stage {
                name: "copy".into(),
                folder: root.join("out"),
                seed: 0,
                config,
                inputs: vec![Input::new(root.join("in.txt"), "the text", "write it")],
                outputs: vec![root.join("out/files")],
                optional_outputs: vec![root.join("out/note.txt")],
                root,
            }
        }

        fn run(&self, config: serde_json::Value, rerun: Rerun) -> Result<Status> {
            let mut cache = HashCache::open(&self.folder.path().join("hashes.json"));
            self.stage(config).run(rerun, &mut cache, || {
                self.runs.set(self.runs.get() + 1);
                let text = files::read_bytes(&self.folder.path().join("in.txt"), "", "")?;
                files::write_bytes(&self.folder.path().join("out/files/a.txt"), &text)
            })
        }
    }

    fn config(n: u64) -> serde_json::Value {
        serde_json::json!({"a": {"n": n}})
    }

    #[test]
    fn a_second_run_is_fresh_and_any_change_makes_it_stale() {
        let world = World::new();
        assert_eq!(world.run(config(1), Rerun::WhenStale).unwrap(), Status::Done);
        assert_eq!(world.run(config(1), Rerun::WhenStale).unwrap(), Status::Fresh);
        assert_eq!(world.run(config(1), Rerun::Always).unwrap(), Status::Done);
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Done);
        files::write_bytes(&world.folder.path().join("in.txt"), b"two").unwrap();
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Done);
        files::write_bytes(&world.folder.path().join("out/files/a.txt"), b"six").unwrap();
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Done);
        files::write_bytes(&world.folder.path().join("out/files/extra.txt"), b"x").unwrap();
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Done);
        files::write_bytes(&world.folder.path().join("out/note.txt"), b"x").unwrap();
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Done);
        std::fs::remove_dir_all(world.folder.path().join("out/files")).unwrap();
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Done);
        assert_eq!(world.run(config(2), Rerun::WhenStale).unwrap(), Status::Fresh);
        assert_eq!(world.runs.get(), 8);
    }

    #[test]
    fn the_reason_names_the_key_that_changed() {
        let world = World::new();
        world.run(config(1), Rerun::WhenStale).unwrap();
        let mut cache = HashCache::open(&world.folder.path().join("hashes.json"));
        let Freshness::Stale { reason } = world.stage(config(2)).freshness(&mut cache).unwrap() else { panic!("must be stale") };
        assert!(reason.contains("`a.n`"), "{reason}");
    }

    #[test]
    fn a_failed_body_is_not_fresh_afterwards() {
        let world = World::new();
        let mut cache = HashCache::open(&world.folder.path().join("hashes.json"));
        let stage = world.stage(config(1));
        assert!(stage.run(Rerun::WhenStale, &mut cache, || Err(Error::Invalid("stop".into()))).is_err());
        assert!(matches!(stage.freshness(&mut cache).unwrap(), Freshness::Stale { .. }));
    }

    #[test]
    fn a_missing_input_is_named_before_the_body_runs() {
        let world = World::new();
        std::fs::remove_file(world.folder.path().join("in.txt")).unwrap();
        let error = world.run(config(1), Rerun::WhenStale).unwrap_err();
        assert!(error.to_string().contains("in.txt") && error.hint().as_deref() == Some("write it"), "{error}");
        assert_eq!(world.runs.get(), 0);
    }

    #[test]
    fn durations_read_as_a_person_says_them() {
        let read: Vec<_> = [0.42, 12.0, 200.0, 7500.0].map(readable_seconds).into();
        assert_eq!(read, ["0.4 s", "12 s", "3 min 20 s", "2 h 5 min"]);
    }
}
