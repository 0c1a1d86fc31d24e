//! `datasets/sources.toml`: the published files that the pipelines can use, with address, licence, hash, size and purpose.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, de};

use crate::error::{Error, Result};
use crate::run::files;

/// What is taken where the folder `datasets` has no file of its own.
const EMBEDDED: &str = include_str!("../../../datasets/sources.toml");
/// Stands in place of a hash that nobody published: the first download is recorded and later ones are compared with it.
pub const RECORDED: &str = "recorded on first download";

/// All sources.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    pub source: Vec<Source>,
}

/// Files that are published together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What `data fetch` calls it.
    pub name: String,
    pub purpose: String,
    pub licence: String,
    /// Start of the address of every file; ends with `/`.
    pub base: String,
    /// Folder below `datasets/sources`.
    pub folder: PathBuf,
    /// What has to be done by hand before or after the download.
    #[serde(default)]
    pub note: Option<String>,
    pub files: Vec<Published>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// End of the address, and name below the folder.
    pub name: PathBuf,
    /// Length, where it is known.
    #[serde(default)]
    pub bytes: Option<u64>,
    pub sha256: Hash,
}

/// What the content of a file must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 in 64 lower-case hexadecimal digits.
    Known(String),
    /// [`RECORDED`].
    OnFirstDownload,
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == RECORDED {
            return Ok(Self::OnFirstDownload);
        }
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self::Known(text));
        }
        Err(de::Error::custom(format!("`{text}` is no SHA-256 (64 lower-case hexadecimal digits) and not \"{RECORDED}\"")))
    }
}

impl Registry {
    /// The registry of a `datasets` folder, or the embedded one.
    pub fn load(datasets: &Path) -> Result<Self> {
        let path = datasets.join("sources.toml");
        if !path.exists() {
            return Self::parse(EMBEDDED, Path::new("datasets/sources.toml"));
        }
        let bytes = files::read_bytes(&path, "the list of sources", "put it there")?;
        let text = String::from_utf8(bytes).map_err(|error| Error::format("list of sources", &path, error))?;
        Self::parse(&text, &path)
    }

    /// Reads a registry; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let registry: Self = toml::from_str(text).map_err(|error| Error::format("list of sources", path, error.to_string().trim_end()))?;
        let invalid = |reason: String| Err(Error::format("list of sources", path, reason));
        let mut targets: Vec<PathBuf> = Vec::new();
        for (i, source) in registry.source.iter().enumerate() {
            if registry.source[..i].iter().any(|other| other.name == source.name) {
                return invalid(format!("two sources are called `{}`", source.name));
            }
            if !["https://", "http://"].iter().any(|scheme| source.base.starts_with(scheme)) || !source.base.ends_with('/') {
                return invalid(format!("`base` of `{}` is `{}`, expected an http address that ends with `/`", source.name, source.base));
            }
            for file in &source.files {
                let target = source.target(file);
                // A list must not write anywhere else.
                if target.components().any(|part| !matches!(part, Component::Normal(_))) {
                    return invalid(format!("`{}` of `{}` leaves the folder of the sources", target.display(), source.name));
                }
                if targets.contains(&target) {
                    return invalid(format!("`{}` stands for two files", target.display()));
                }
                targets.push(target);
            }
        }
        Ok(registry)
    }

    /// The sources of the given names, all for none.
    pub fn chosen(&self, names: &[String]) -> Result<Vec<&Source>> {
        if names.is_empty() {
            return Ok(self.source.iter().collect());
        }
        let known = || self.source.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
        let find = |name: &String| {
            let found = self.source.iter().find(|source| source.name == *name);
            found.ok_or_else(|| Error::config(format!("unknown source `{name}`"), format!("the sources are {}", known())))
        };
        names.iter().map(find).collect()
    }
}

impl Source {
    /// Where a file belongs, below `datasets/sources`.
    pub fn target(&self, file: &Published) -> PathBuf {
        self.folder.join(&file.name)
    }

    /// Where a file is published.
    pub fn address(&self, file: &Published) -> String {
        // The separator of an address is a slash on every system.
        let name: Vec<_> = file.name.iter().map(|part| part.to_string_lossy()).collect();
        format!("{}{}", self.base, name.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registry> {
        Registry::parse(text, Path::new("sources.toml"))
    }

    const ONE: &str = "[[source]]\nname = 'a'\npurpose = 'b'\nlicence = 'MIT'\nbase = 'https://example.org/x/'\nfolder = 'a'\n";

    #[test]
    fn the_committed_list_is_valid_and_says_everything() {
        let registry = Registry::load(Path::new("no such folder")).unwrap();
        assert_eq!(registry, Registry::load(Path::new("datasets")).unwrap());
        for source in &registry.source {
            assert!(!source.purpose.is_empty() && !source.licence.is_empty() && !source.files.is_empty(), "{}", source.name);
        }
    }

    #[test]
    fn address_and_place_follow_from_the_entry() {
        let registry = parse(&format!("{ONE}files = [{{ name = 'b/c.txt', bytes = 3, sha256 = '{RECORDED}' }}]")).unwrap();
        let source = &registry.source[0];
        assert_eq!(source.address(&source.files[0]), "https://example.org/x/b/c.txt");
        assert_eq!(source.target(&source.files[0]), Path::new("a/b/c.txt"));
        let error = registry.chosen(&["c".into()]).unwrap_err();
        assert!(error.to_string().contains("unknown source `c`") && error.hint().unwrap().contains("are a"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let file = |name: &str, hash: &str| format!("{ONE}files = [{{ name = '{name}', sha256 = '{hash}' }}]");
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(parse(&file("b", hash)).is_ok());
        struct Case {
            text: String,
            expected: &'static str,
        }
        let cases = [
            Case { text: file("b", "BA78"), expected: "no SHA-256" },
            Case { text: file("../b", hash), expected: "leaves the folder" },
            Case { text: file("/etc/b", hash), expected: "leaves the folder" },
            Case { text: file("b", hash).replace("https://", "ftp://"), expected: "expected an http address" },
            Case { text: format!("{0}\n{0}", file("b", hash)), expected: "two sources are called `a`" },
            Case {
                text: file("b", hash).replace("files = [", &format!("files = [{{ name = 'b', sha256 = '{hash}' }}, ")),
                expected: "stands for two files",
            },
            Case { text: file("b", hash).replace("licence", "license"), expected: "license" },
            Case { text: "[[source]".into(), expected: "sources.toml" },
        ];
        for case in cases {
            let error = parse(&case.text).unwrap_err().to_string();
            assert!(error.contains(case.expected), "{error}");
        }
    }
}
