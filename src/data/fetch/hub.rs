//! Fetching a published model from the Hugging Face hub into the cache of the Python tools: the files that are read here, each checked
//! by length and, where the hub gives one, by hash.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::download::{Client, Wanted};
use crate::error::{Error, Result};
use crate::run::hub::Model;
use crate::run::{files, interrupt};

/// Where models are published; `HF_ENDPOINT` names a mirror.
const ENDPOINT: &str = "https://huggingface.co";
/// Index of a pipeline of several networks.
const INDEX: &str = "model_index.json";

/// The model's card, which names its licence.
const CARD: &str = "README.md";

/// What the hub says of a model.
#[derive(Debug, Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    siblings: Vec<Sibling>,
}

/// One file.
#[derive(Debug, Clone, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

/// What git-lfs knows of a large file.
#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    sha256: String,
}

/// The hub, or a mirror of it.
pub fn endpoint() -> String {
    let given = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    given.unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_owned()
}

/// Fetches `model` into `cache` and returns the folder with its files; calls `tell` with the name of each that was not there. Goes on where
/// an earlier call stopped.
///
/// # Errors
/// A model that is not there or behind a gate, with what to do; a download that fails; wrong content.
pub fn fetch(model: &Model, endpoint: &str, cache: &Path, client: &Client, mut tell: impl FnMut(&str)) -> Result<PathBuf> {
    let listing = list(model, endpoint, client)?;
    let folder = model.folder(cache);
    let snapshot = folder.join("snapshots").join(&listing.sha);
    for file in wanted(&listing.siblings) {
        interrupt::check()?;
        let place = snapshot.join(&file.rfilename);
        if place.exists() {
            continue;
        }
        let sha256 = file.lfs.as_ref().map(|lfs| lfs.sha256.as_str());
        let Some(blob) = sha256.or(file.blob_id.as_deref()) else {
            return Err(Error::Invalid(format!("the hub gives no hash of `{}`", file.rfilename)));
        };
        let blob = folder.join("blobs").join(blob);
        if !blob.exists() {
            tell(&file.rfilename);
            let address = format!("{endpoint}/{}/resolve/{}/{}", model.id, listing.sha, file.rfilename);
            client.download(Wanted { address: &address, path: &blob, bytes: file.size, sha256 })?;
        }
        point(&place, &blob, file.rfilename.split('/').count() + 1)?;
    }
    if !snapshot.is_dir() {
        return Err(Error::Invalid(format!("`{}` holds no weights or configurations that are known here", model.address())));
    }
    files::write_bytes(&folder.join("refs").join(&model.revision), listing.sha.as_bytes())?;
    Ok(snapshot)
}

fn list(model: &Model, endpoint: &str, client: &Client) -> Result<Listing> {
    let address = format!("{endpoint}/api/models/{}/revision/{}?blobs=true", model.id, model.revision.replace('/', "%2F"));
    let failed = |reason: String, hint: String| Error::Remote { address: address.clone(), reason, hint };
    let offline =
        || format!("fetch it where there is a network, and copy `models--{}` into the cache of the hub", model.id.replace('/', "--"));
    let mut response = client.get(&address).call().map_err(|error| failed(error.to_string(), offline()))?;
    match response.status().as_u16() {
        200 => {}
        401 | 403 => {
            let hint = format!(
                "the model is behind a gate, or not there under this name: look at {endpoint}/{}, accept its terms, make an access token, and \
                 set HF_TOKEN to it",
                model.id
            );
            return Err(failed(format!("no access to `{}` ({})", model.address(), response.status()), hint));
        }
        404 => return Err(failed(format!("there is no `{}`", model.address()), "check owner, name and revision".into())),
        _ => return Err(failed(format!("the server answers {}", response.status()), "try again later".into())),
    }
    let text = response.body_mut().read_to_string().map_err(|error| failed(error.to_string(), offline()))?;
    let listing: Listing =
        serde_json::from_str(&text).map_err(|error| failed(format!("the answer is no list of files: {error}"), offline()))?;
    let leaves = |file: &&Sibling| file.rfilename.split('/').any(|part| part.is_empty() || part == "..");
    let strange = |name: &str| name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric());
    let wrong = listing.siblings.iter().find(leaves).map(|file| file.rfilename.clone());
    let hashes = listing.siblings.iter().flat_map(|file| file.lfs.iter().map(|lfs| &lfs.sha256).chain(&file.blob_id)).chain([&listing.sha]);
    match wrong.or_else(|| hashes.into_iter().find(|hash| strange(hash)).cloned()) {
        Some(name) => Err(failed(format!("the list names `{name}`"), "report this to the hub".into())),
        None => Ok(listing),
    }
}

/// Weights, configurations and tokenizers: of a pipeline those of its parts, of a single network those beside its configuration. Weights in
/// half precision only where there are no others.
fn wanted(siblings: &[Sibling]) -> Vec<Sibling> {
    let is_pipeline = siblings.iter().any(|file| file.rfilename == INDEX);
    let names: BTreeSet<&str> = siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let has_safetensors = |folder: &str| names.iter().any(|name| folder_of(name) == folder && name.ends_with(".safetensors"));
    let known = |file: &&Sibling| {
        let name = file.rfilename.as_str();
        let (folder, ending) = (folder_of(name), name.rsplit('.').next().unwrap_or_default());
        let is_weight = ["safetensors", "bin", "pth"].contains(&ending);
        let full = name.replace(".fp16", "").replace(".bf16", "");
        let in_place = match is_pipeline {
            // Beside the index lie the same networks in the layout of others.
            true => !folder.is_empty() && !folder.contains('/') || name == INDEX || name == CARD,
            false => folder.is_empty(),
        };
        in_place
            && (["json", "txt", "model"].contains(&ending) || is_weight || name == CARD)
            && (full == name || !names.contains(full.as_str()))
            && (ending != "bin" && ending != "pth" || !has_safetensors(folder))
    };
    siblings.iter().filter(known).cloned().collect()
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Makes `place` point to `blob`, which lies `up` folders above it and in `blobs`; a copy where there are no links.
fn point(place: &Path, blob: &Path, up: usize) -> Result<()> {
    if let Some(folder) = place.parent() {
        files::create_dir(folder)?;
    }
    #[cfg(unix)]
    {
        let target: PathBuf =
            std::iter::repeat_n("..", up).chain(["blobs"]).collect::<PathBuf>().join(blob.file_name().unwrap_or_default());
        // One that points nowhere is left of a blob that was deleted.
        let _ = fs::remove_file(place);
        std::os::unix::fs::symlink(target, place).map_err(Error::io("link", place))
    }
    #[cfg(not(unix))]
    {
        let _ = up;
        fs::copy(blob, place).map(drop).map_err(Error::io("copy", place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Serves texts by path on the loopback, any other path with `otherwise`; returns its address and the paths asked for.
    fn hub(pages: BTreeMap<String, String>, otherwise: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while reader.read_line(&mut head).unwrap_or(0) > 2 {}
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let (status, body) = pages.get(&path).map_or((otherwise, ""), |body| ("200 OK", body));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
                seen.lock().unwrap().push(path);
            }
        });
        (address, asked)
    }

    fn model() -> Model {
        Model { id: "a/b".into(), revision: "main".into() }
    }

    const LIST: &str = "/api/models/a/b/revision/main?blobs=true";

    /// A pipeline with weights of a known hash, a second layout beside the index, and half precision beside full.
    fn pages() -> BTreeMap<String, String> {
        let (weights, sha256) = ("weights", files::sha256_bytes(b"weights"));
        let lfs = |name: &str| format!(r#"{{"rfilename": "{name}", "size": 7, "lfs": {{"sha256": "{sha256}"}}}}"#);
        let siblings = [
            r#"{"rfilename": "model_index.json", "size": 2, "blobId": "b1"}"#.to_owned(),
            r#"{"rfilename": "README.md", "size": 2, "blobId": "b2"}"#.to_owned(),
            lfs("flux1-dev.safetensors"),
            lfs("vae/model.safetensors"),
            lfs("vae/model.fp16.safetensors"),
            lfs("vae/model.bin"),
        ];
        let list = format!(r#"{{"sha": "c0ffee", "siblings": [{}]}}"#, siblings.join(", "));
        BTreeMap::from([
            (LIST.into(), list),
            ("/a/b/resolve/c0ffee/model_index.json".into(), "{}".into()),
            ("/a/b/resolve/c0ffee/README.md".into(), "# ".into()),
            ("/a/b/resolve/c0ffee/vae/model.safetensors".into(), weights.into()),
        ])
    }

    #[test]
    fn a_model_arrives_in_the_cache_of_the_python_tools_once() {
        let (address, asked) = hub(pages(), "500 Error");
        let cache = tempfile::tempdir().unwrap();
        let mut told = Vec::new();
        let snapshot = fetch(&model(), &address, cache.path(), &Client::new(), |name| told.push(name.to_owned())).unwrap();
        assert_eq!(told, ["model_index.json", "README.md", "vae/model.safetensors"]);
        assert_eq!(snapshot, cache.path().join("models--a--b/snapshots/c0ffee"));
        assert_eq!(fs::read_to_string(snapshot.join("vae/model.safetensors")).unwrap(), "weights");
        assert_eq!(fs::read_to_string(cache.path().join("models--a--b/refs/main")).unwrap(), "c0ffee");
        assert_eq!(model().snapshot(cache.path()).unwrap(), snapshot);
        let blob = cache.path().join("models--a--b/blobs").join(files::sha256_bytes(b"weights"));
        assert_eq!(snapshot.join("vae/model.safetensors").canonicalize().unwrap(), blob.canonicalize().unwrap());
        fetch(&model(), &address, cache.path(), &Client::new(), |name| panic!("{name} is fetched again")).unwrap();
        assert_eq!(asked.lock().unwrap().iter().filter(|path| !path.starts_with("/api")).count(), 3);
    }

    #[test]
    fn a_model_without_access_says_what_to_do() {
        for (status, reason, advice) in [
            ("401 Unauthorized", "no access to `hf://a/b`", "HF_TOKEN"),
            ("403 Forbidden", "no access to `hf://a/b`", "accept its terms"),
            ("404 Not Found", "there is no `hf://a/b`", "check owner, name and revision"),
            ("502 Bad Gateway", "502", "later"),
        ] {
            let (address, _) = hub(BTreeMap::new(), status);
            let cache = tempfile::tempdir().unwrap();
            let error = fetch(&model(), &address, cache.path(), &Client::new(), |_| {}).unwrap_err();
            assert!(error.to_string().contains(reason) && error.hint().unwrap().contains(advice), "{error}; {:?}", error.hint());
            assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn wrong_content_and_paths_that_leave_the_folder_are_refused() {
        let mut pages = pages();
        pages.insert("/a/b/resolve/c0ffee/vae/model.safetensors".into(), "weightz".into());
        let (address, _) = hub(pages.clone(), "500 Error");
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(&model(), &address, cache.path(), &Client::new(), |_| {}).unwrap_err();
        assert!(error.to_string().contains("SHA-256"), "{error}");
        assert!(model().snapshot(cache.path()).is_err(), "a model in part counts as fetched");
        for name in ["../../x.json", "/x.json"] {
            let list = format!(r#"{{"sha": "c0ffee", "siblings": [{{"rfilename": "{name}", "size": 2, "blobId": "b1"}}]}}"#);
            let (address, _) = hub(BTreeMap::from([(LIST.into(), list)]), "500 Error");
            let error = fetch(&model(), &address, cache.path(), &Client::new(), |_| {}).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
