//! Files that appear whole or not at all: written beside their place under a temporary name, synced, then renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create folder", path))
}

/// The name under which `path` is written before it appears.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Writes a file through `write`; on any error the temporary file is removed and `path` keeps its old content.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    let temporary = temporary_name(path);
    let outcome = (|| {
        let file = File::create(&temporary).map_err(Error::io("create", &temporary))?;
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        let file = writer.into_inner().map_err(|error| Error::io("write", path)(error.into_error()))?;
        file.sync_all().map_err(Error::io("write", path))?;
        fs::rename(&temporary, path).map_err(Error::io("rename into place", path))
    })();
    if outcome.is_err() {
        // The first error is the one to report; a temporary file that never existed cannot be removed.
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

/// Writes bytes atomically.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |file| file.write_all(bytes).map_err(Error::io("write", path)))
}

/// Reads a whole file; `what` and `hint` name it for the user when it is not there.
pub fn read_bytes(path: &Path, what: &str, hint: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { what: what.into(), path: path.into(), hint: hint.into() },
        _ => Error::io("read", path)(error),
    })
}

/// Removes a folder with all it holds, if it is there.
pub fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes `to` the same file or folder as `from`: by links, which take no room, or by copies where the file system has none. Right
/// for outputs only, which are replaced and never changed.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        for entry in std::fs::read_dir(from).map_err(Error::io("read", from))? {
            let entry = entry.map_err(Error::io("read", from))?;
            link_or_copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        create_dir(folder)?;
    }
    let temporary = temporary_name(to);
    std::fs::hard_link(from, &temporary).or_else(|_| std::fs::copy(from, &temporary).map(drop)).map_err(Error::io("copy", from))?;
    std::fs::rename(&temporary, to).map_err(Error::io("write", to))?;
    // Two names of one file are not renamed onto each other.
    if temporary.exists() {
        std::fs::remove_file(&temporary).map_err(Error::io("remove", &temporary))?;
    }
    Ok(())
}

/// SHA-256 of a file's content, as 64 hexadecimal digits.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// SHA-256 of bytes, as 64 hexadecimal digits.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_temporary_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.txt");
        write_bytes(&path, b"old").unwrap();
        let failed = write_atomic(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::Invalid("stop".into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn sha256_is_the_published_one_for_abc() {
        assert_eq!(sha256_bytes(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
