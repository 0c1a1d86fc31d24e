//! Bringing published prompt sets into `datasets/sources`: from their addresses, or from a folder of the user's; checked against
//! the list either way.

pub mod download;
pub mod hub;
pub mod registry;
pub mod remote;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use self::download::{Client, Wanted};
use self::registry::{Hash, Published, Source};
use crate::error::{Error, Result};
use crate::run::{files, interrupt};

/// Hashes of files whose publisher gives none, in the folder of the sources.
const RECORD: &str = "recorded-sha256.json";

/// Where files may come from.
#[derive(Debug, Clone)]
pub enum From {
    /// Their addresses.
    Network(Box<Client>),
    /// A folder, in which a file lies as in `datasets/sources`, or under its bare name.
    Folder(PathBuf),
    /// Nowhere: what is there is checked, the rest is listed.
    Nowhere,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was there, with the expected content.
    Present,
    Downloaded,
    Copied,
    Missing,
}

/// One file that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub path: PathBuf,
    pub outcome: Outcome,
}

/// Brings the files of the sources into `folder` and calls `tell` after each.
///
/// # Errors
/// [`Error::Partial`] with addresses and places where files are missing in the end; the first failed download or wrong content.
pub fn fetch(sources: &[&Source], folder: &Path, from: &From, mut tell: impl FnMut(&Fetched)) -> Result<()> {
    let mut record = Record::open(folder)?;
    let mut missing = Vec::new();
    for source in sources {
        for file in &source.files {
            interrupt::check()?;
            let outcome = bring(source, file, folder, from, &mut record)?;
            let path = folder.join(source.target(file));
            if outcome == Outcome::Missing {
                let size = file.bytes.map_or(String::new(), |bytes| format!("{bytes} bytes "));
                missing.push(format!("{} ({size}from {})", path.display(), source.address(file)));
            }
            tell(&Fetched { path, outcome });
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let hint = match from {
        From::Folder(folder) => {
            format!("`{}` has no files of these names; download them and put them there, or in place", folder.display())
        }
        _ => "download them on another machine and put them in place, or run `scaledown data fetch` where there is a network".into(),
    };
    Err(Error::Partial { missing, hint })
}

fn bring(source: &Source, file: &Published, folder: &Path, from: &From, record: &mut Record) -> Result<Outcome> {
    let target = source.target(file);
    let path = folder.join(&target);
    let expected = record.expected(file, &target);
    if path.exists() {
        let found = files::sha256_file(&path)?;
        check(&path, &found, file, expected.as_deref())?;
        record.learn(&target, found)?;
        return Ok(Outcome::Present);
    }
    match from {
        From::Nowhere => Ok(Outcome::Missing),
        From::Network(client) => {
            let address = source.address(file);
            let found = client.download(Wanted { address: &address, path: &path, bytes: file.bytes, sha256: expected.as_deref() })?;
            record.learn(&target, found)?;
            Ok(Outcome::Downloaded)
        }
        From::Folder(local) => {
            let name = file.name.file_name().unwrap_or_default();
            let Some(found) = [local.join(&target), local.join(name)].into_iter().find(|path| path.is_file()) else {
                return Ok(Outcome::Missing);
            };
            let sha256 = files::sha256_file(&found)?;
            check(&found, &sha256, file, expected.as_deref())?;
            let mut content = fs::File::open(&found).map_err(Error::io("open", &found))?;
            files::write_atomic(&path, |copy| std::io::copy(&mut content, copy).map(|_| ()).map_err(Error::io("write", &path)))?;
            record.learn(&target, sha256)?;
            Ok(Outcome::Copied)
        }
    }
}

/// Fails where a file is not the published one.
fn check(path: &Path, found: &str, file: &Published, expected: Option<&str>) -> Result<()> {
    let bytes = fs::metadata(path).map_err(Error::io("read", path))?.len();
    if let Some(expected) = file.bytes.filter(|&expected| expected != bytes) {
        return Err(Error::format("copy of the published file", path, format!("it has {bytes} bytes, expected {expected}")));
    }
    match expected {
        Some(expected) if expected != found => {
            Err(Error::format("copy of the published file", path, format!("SHA-256 is {found}, expected {expected}")))
        }
        _ => Ok(()),
    }
}

/// Hashes that were recorded on first download, by place.
#[derive(Debug)]
struct Record {
    path: PathBuf,
    hashes: BTreeMap<String, String>,
}

impl Record {
    fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(RECORD);
        let hashes = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::format("record of hashes", &path, error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        Ok(Self { path, hashes })
    }

    /// The published hash, or else the one recorded.
    fn expected(&self, file: &Published, target: &Path) -> Option<String> {
        match &file.sha256 {
            Hash::Known(hash) => Some(hash.clone()),
            Hash::OnFirstDownload => self.hashes.get(&key(target)).cloned(),
        }
    }

    /// Records the hash of a file.
    fn learn(&mut self, target: &Path, sha256: String) -> Result<()> {
        if self.hashes.get(&key(target)) == Some(&sha256) {
            return Ok(());
        }
        self.hashes.insert(key(target), sha256);
        let json = serde_json::to_vec_pretty(&self.hashes).map_err(|error| Error::format("record of hashes", &self.path, error))?;
        files::write_bytes(&self.path, &json)
    }
}

/// A place as text, the same on every system.
fn key(target: &Path) -> String {
    target.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::registry::{RECORDED, Registry};
    use super::*;

    /// Two files: one with a published hash, one without.
    fn registry() -> Registry {
        let hash = files::sha256_bytes(b"abc");
        let text = format!(
            "[[source]]\nname = 'a'\npurpose = 'b'\nlicence = 'MIT'\nbase = 'http://127.0.0.1:9/'\nfolder = 'set'\n\
             files = [{{ name = 'known.txt', bytes = 3, sha256 = '{hash}' }}, {{ name = 'new.txt', sha256 = '{RECORDED}' }}]"
        );
        Registry::parse(&text, Path::new("sources.toml")).unwrap()
    }

    fn run(folder: &Path, from: &From) -> (Result<()>, Vec<Outcome>) {
        let registry = registry();
        let mut outcomes = Vec::new();
        let outcome = fetch(&registry.chosen(&[]).unwrap(), folder, from, |fetched| outcomes.push(fetched.outcome));
        (outcome, outcomes)
    }

    #[test]
    fn offline_says_what_is_missing_where_it_belongs_and_where_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (outcome, outcomes) = run(folder.path(), &From::Nowhere);
        let error = outcome.unwrap_err();
        assert_eq!((error.exit_code(), outcomes), (3, vec![Outcome::Missing; 2]));
        let message = error.to_string();
        assert!(message.contains(&folder.path().join("set/known.txt").display().to_string()), "{message}");
        assert!(message.contains("http://127.0.0.1:9/new.txt"), "{message}");
    }

    #[test]
    fn a_folder_gives_files_in_place_or_by_name_and_their_hashes_are_recorded() {
        let (local, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (local, folder) = (local.path(), folder.path());
        files::write_bytes(&local.join("set/known.txt"), b"abc").unwrap();
        files::write_bytes(&local.join("new.txt"), b"first").unwrap();
        let (outcome, outcomes) = run(folder, &From::Folder(local.into()));
        outcome.unwrap();
        assert_eq!(outcomes, [Outcome::Copied; 2]);
        assert_eq!(fs::read(folder.join("set/new.txt")).unwrap(), b"first");
        assert_eq!(run(folder, &From::Nowhere).1, [Outcome::Present; 2]);

        // The file without a published hash is held to its first content.
        fs::write(folder.join("set/new.txt"), b"second").unwrap();
        let error = run(folder, &From::Nowhere).0.unwrap_err().to_string();
        assert!(error.contains("new.txt") && error.contains(&files::sha256_bytes(b"first")), "{error}");
    }

    #[test]
    fn another_content_or_length_is_not_copied() {
        for content in [&b"abd"[..], b"abcd"] {
            let (local, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            files::write_bytes(&local.path().join("known.txt"), content).unwrap();
            let error = run(folder.path(), &From::Folder(local.path().into())).0.unwrap_err().to_string();
            assert!(error.contains("known.txt") && error.contains("expected"), "{error}");
            assert!(!folder.path().join("set/known.txt").exists());
        }
    }
}
