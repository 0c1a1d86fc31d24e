//! Runs the program in a folder of its own, with a pipeline written for the test.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The smoke pipeline: tiny random networks.
pub const SMALL: &str = include_str!("../../pipelines/smoke.toml");
/// The tokenizer it reads.
const TOKENIZER: &[u8] = include_bytes!("../../pipelines/mini/tokenizer.json");

/// A teacher of tiny random networks, for pipelines that never load it.
pub const TEACHER: &str = r#"[teacher]
tokenizer = "t"
text_encoder = { preset = "smoke-teacher", weights = "random" }
clip = { preset = "smoke", weights = "random" }
denoiser = { preset = "smoke", weights = "random" }
autoencoder = { preset = "smoke", weights = "random" }
token_length = 24
resolution = 64
latent_downsampling = 4
"#;

/// A root folder with pipelines.
pub struct Place {
    folder: tempfile::TempDir,
}

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// A folder with the pipeline `small` whose TOML is `text`.
    pub fn with(text: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.write("pipelines/small.toml", text.as_bytes());
        place.write("pipelines/mini/tokenizer.json", TOKENIZER);
        place
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.root().join(file)
    }

    pub fn write(&self, file: &str, content: &[u8]) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The bytes of every file below `folder`, by path.
    pub fn contents(&self, folder: &str) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
        let mut found = std::collections::BTreeMap::new();
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let bytes = std::fs::read(&path).unwrap();
                    found.insert(path, bytes);
                }
            }
        }
        found
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    /// The program with `arguments`, in this folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scaledown"));
        command.args(arguments).current_dir(self.root()).stdin(Stdio::null());
        command
    }

    /// Runs a command of the pipeline `small`.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        let mut all = arguments.to_vec();
        if !arguments.contains(&"--pipeline") {
            all.extend(["--pipeline", "small"]);
        }
        Ran::from(self.command(&all).output().unwrap())
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Ran {
    /// Asserts exit code 0.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts the exit code, that every word stands on stderr, that a hint does, and that there is no panic.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is missing in:\n{}", self.stderr);
        }
        assert!(self.stderr.contains("error: ") && self.stderr.contains("\n\nhint: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}
