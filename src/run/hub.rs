//! Models named by their address on the Hugging Face hub, `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, in the cache that the Python
//! tools keep (huggingface_hub's `models--OWNER--NAME/{blobs,refs,snapshots}`), so that both find what either fetched.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const SCHEME: &str = "hf://";

/// A model of the hub at a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// `OWNER/NAME`.
    pub id: String,
    pub revision: String,
}

/// The folder of the cache: `HF_HUB_CACHE`, else `hub` below `HF_HOME` or `~/.cache/huggingface`.
pub fn cache() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE").unwrap_or_else(|| home(variable).join("hub"))
}

/// The token of `HF_TOKEN`, else the one that `huggingface-cli login` left.
pub fn token() -> Option<String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let given = std::env::var("HF_TOKEN").ok();
    let token = given.or_else(|| std::fs::read_to_string(home(variable).join("token")).ok())?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

fn home(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache"))).unwrap_or_else(|| ".cache".into());
    variable("HF_HOME").unwrap_or_else(|| caches().join("huggingface"))
}

impl Model {
    /// The model that `text` names; `None` where it is no address of the hub.
    ///
    /// # Errors
    /// An address without owner or name, or with more than these.
    pub fn named(text: &str) -> Option<Result<Self>> {
        let address = text.strip_prefix(SCHEME)?;
        let (id, revision) = address.split_once('@').unwrap_or((address, "main"));
        let plain =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let parts: Vec<&str> = id.split('/').collect();
        let fits = parts.len() == 2 && parts.iter().all(|part| plain(part)) && revision.split('/').all(plain);
        Some(if fits {
            Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
        } else {
            Err(Error::config(format!("`{text}` is no address of a model"), "write hf://OWNER/NAME, or hf://OWNER/NAME@REVISION"))
        })
    }

    /// Its folder in a cache.
    pub fn folder(&self, cache: &Path) -> PathBuf {
        cache.join(format!("models--{}", self.id.replace('/', "--")))
    }

    /// The folder with its files.
    ///
    /// # Errors
    /// Where it is not in the cache: how to fetch it.
    pub fn snapshot(&self, cache: &Path) -> Result<PathBuf> {
        let folder = self.folder(cache);
        // A commit names its snapshot itself.
        let commit = std::fs::read_to_string(folder.join("refs").join(&self.revision)).unwrap_or_else(|_| self.revision.clone());
        let snapshot = folder.join("snapshots").join(commit.trim());
        if snapshot.is_dir() {
            return Ok(snapshot);
        }
        let hint = self.hint();
        Err(Error::Missing { what: format!("the model `{}` in the cache of the hub", self.address()), path: snapshot, hint })
    }

    /// How to get it.
    fn hint(&self) -> String {
        let gate = "if it is behind a gate, accept its terms first and set HF_TOKEN";
        format!("run `scaledown fetch-model {}`, or download it with the Python tools; {gate}", self.address())
    }

    /// As it is written.
    pub fn address(&self) -> String {
        let revision = if self.revision == "main" { String::new() } else { format!("@{}", self.revision) };
        format!("{SCHEME}{}{revision}", self.id)
    }
}

/// Whether `text` means a model of the hub.
pub fn is_address(text: &str) -> bool {
    text.starts_with(SCHEME)
}

/// The place of `path` for a pipeline in `folder`: below it, or, for an address of the hub, in the cache.
///
/// # Errors
/// As [`Model::named`] and [`Model::snapshot`].
pub fn resolve(path: &Path, folder: &Path) -> Result<PathBuf> {
    match path.to_str().and_then(Model::named) {
        Some(model) => model?.snapshot(&cache()),
        None => Ok(folder.join(path)),
    }
}

/// How to get what `path` names, where it is an address of the hub.
pub fn hint(path: &Path) -> Option<String> {
    Model::named(path.to_str()?)?.ok().map(|model| model.hint())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_owner_name_and_revision() {
        let model = |text: &str| Model::named(text).unwrap();
        assert_eq!(model("hf://a/b-c.1").unwrap(), Model { id: "a/b-c.1".into(), revision: "main".into() });
        assert_eq!(model("hf://a/b@refs/pr/1").unwrap().revision, "refs/pr/1");
        assert!(Model::named("models/flux").is_none());
        for wrong in ["hf://a", "hf://a/b/c", "hf:///b", "hf://a/..", "hf://a/b@", "hf://a b/c"] {
            assert!(model(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_snapshot_is_found_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let model = Model::named("hf://a/b").unwrap().unwrap();
        let missing = model.snapshot(cache.path()).unwrap_err();
        assert!(missing.to_string().contains("hf://a/b") && missing.hint().unwrap().contains("scaledown fetch-model hf://a/b"));
        let folder = cache.path().join("models--a--b");
        std::fs::create_dir_all(folder.join("snapshots/0123")).unwrap();
        std::fs::create_dir_all(folder.join("refs")).unwrap();
        std::fs::write(folder.join("refs/main"), "0123").unwrap();
        assert_eq!(model.snapshot(cache.path()).unwrap(), folder.join("snapshots/0123"));
        let commit = Model::named("hf://a/b@0123").unwrap().unwrap();
        assert_eq!(commit.snapshot(cache.path()).unwrap(), folder.join("snapshots/0123"));
        assert_eq!(resolve(Path::new("x"), Path::new("pipelines")).unwrap(), Path::new("pipelines/x"));
    }
}
