//! SHA-256 of files, remembered by path, length and time of change, so that a run with nothing to do reads no content.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::files;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    /// Nanoseconds since 1970, as text because JSON numbers end at 2⁵³.
    modified: String,
    sha256: String,
}

/// Known hashes and the file they are kept in. It is a cache: deleting it costs time only.
#[derive(Debug)]
pub struct HashCache {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    changed: bool,
}

impl HashCache {
    /// The cache kept in `path`; empty where that cannot be read.
    pub fn open(path: &Path) -> Self {
        let entries = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path: path.to_owned(), entries, changed: false }
    }

    /// Length and SHA-256 of a file.
    pub fn hash(&mut self, path: &Path) -> Result<(u64, String)> {
        let info = std::fs::metadata(path).map_err(Error::io("read", path))?;
        let modified = info.modified().map_err(Error::io("read the time of", path))?;
        let modified = modified.duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos()).to_string();
        let key = std::path::absolute(path).map_err(Error::io("resolve", path))?.display().to_string();
        if let Some(entry) = self.entries.get(&key).filter(|entry| entry.bytes == info.len() && entry.modified == modified) {
            return Ok((entry.bytes, entry.sha256.clone()));
        }
        let sha256 = files::sha256_file(path)?;
        self.entries.insert(key, Entry { bytes: info.len(), modified, sha256: sha256.clone() });
        self.changed = true;
        Ok((info.len(), sha256))
    }

    /// Writes the cache if it learned something; files that are gone are forgotten.
    pub fn save(&mut self) -> Result<()> {
        if !self.changed {
            return Ok(());
        }
        self.entries.retain(|path, _| Path::new(path).exists());
        let json = serde_json::to_vec(&self.entries).map_err(|error| Error::format("hash cache", &self.path, error))?;
        files::write_bytes(&self.path, &json)?;
        self.changed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, store) = (folder.path().join("a"), folder.path().join("hashes.json"));
        files::write_bytes(&file, b"abc").unwrap();
        let mut cache = HashCache::open(&store);
        let first = cache.hash(&file).unwrap();
        assert_eq!(first, (3, files::sha256_bytes(b"abc")));
        cache.save().unwrap();

        let mut reopened = HashCache::open(&store);
        assert_eq!(reopened.hash(&file).unwrap(), first);
        assert!(!reopened.changed);
        files::write_bytes(&file, b"xyz").unwrap();
        assert_eq!(reopened.hash(&file).unwrap(), (3, files::sha256_bytes(b"xyz")));
    }
}
