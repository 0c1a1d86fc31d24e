//! Captions of MSCOCO-2014 with their images: a seeded subset of pairs, one caption for each image, as the reference of image
//! quality.

pub mod pictures;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::text_file::LONGEST_BYTES;
use super::{PromptSource, RawPrompt, Reading, Removed, Treatment};
use crate::data::clean::collapse;
use crate::data::schema::{COCO, VAL};
use crate::error::{Error, Result};
use crate::run::{files, rng};

/// How tables and messages name it.
pub const NAME: &str = "MSCOCO-2014";

/// `[data.coco]` of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Captions as published (JSON with `images` and `annotations`), relative to the folder of the sources.
    pub captions: PathBuf,
    /// Pairs drawn.
    pub pairs: usize,
    pub licence: String,
    /// Whether a build without the file is complete.
    pub optional: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            captions: "coco/annotations/captions_val2014.json".into(),
            // What FID and CLIP score are published on.
            pairs: 30_000,
            licence: "CC-BY-4.0 (MSCOCO annotations)".into(),
            // What a pipeline names it means.
            optional: false,
        }
    }
}

impl Config {
    /// Fails where nothing could be drawn.
    pub fn check(&self) -> Result<()> {
        if self.pairs == 0 {
            return Err(Error::config("[data.coco] draws 0 pairs", "leave [data.coco] out, or draw at least one"));
        }
        Ok(())
    }
}

/// One image with one of its captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Name of the image's file.
    pub image: String,
    pub caption: String,
}

/// The captions of one file.
#[derive(Debug, Clone)]
pub struct Coco {
    pub config: Config,
    pub path: PathBuf,
    pub seed: u64,
}

#[derive(Deserialize)]
struct Published {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Image {
    id: u64,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    caption: String,
}

impl Coco {
    /// The file of `config` below `folder`.
    pub fn new(config: &Config, folder: &Path, seed: u64) -> Self {
        Self { config: config.clone(), path: folder.join(&config.captions), seed }
    }

    /// The drawn pairs: images by rank, and of each the caption of lowest rank; with how many images had no caption. The order of
    /// the file does not matter.
    pub fn pairs(&self) -> Result<(Vec<Pair>, u64)> {
        let bytes =
            files::read_bytes(&self.path, "the captions of MSCOCO", "run `scaledown data fetch coco-2014` and unpack the annotations")?;
        parse(&bytes, self.seed, self.config.pairs).map_err(|reason| Error::format(FORMAT, &self.path, reason))
    }
}

const FORMAT: &str = "file of MSCOCO captions";

/// The pairs of a captions file, or what is wrong with it.
pub fn parse(bytes: &[u8], seed: u64, pairs: usize) -> Result<(Vec<Pair>, u64), String> {
    let published: Published = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    /// A caption with its rank.
    type Ranked = (u64, String);
    let mut images: BTreeMap<u64, (&str, Option<Ranked>)> = BTreeMap::new();
    for (row, image) in published.images.iter().enumerate() {
        if Path::new(&image.file_name).file_name() != Some(image.file_name.as_ref()) {
            return Err(format!("`images`, entry {row}: `{}` is no name of a file", image.file_name));
        }
        if images.insert(image.id, (&image.file_name, None)).is_some() {
            return Err(format!("`images`, entry {row}: id {} stands there twice", image.id));
        }
    }
    let mut ids = BTreeSet::new();
    for (row, annotation) in published.annotations.iter().enumerate() {
        if !ids.insert(annotation.id) {
            return Err(format!("`annotations`, entry {row}: id {} stands there twice", annotation.id));
        }
        let Some((_, caption)) = images.get_mut(&annotation.image_id) else {
            return Err(format!("`annotations`, entry {row}: image {} is not in `images`", annotation.image_id));
        };
        let bytes = annotation.caption.len();
        if bytes > LONGEST_BYTES {
            return Err(format!("`annotations`, entry {row}: the caption has {bytes} bytes, expected at most {LONGEST_BYTES}"));
        }
        let text = collapse(&annotation.caption);
        let candidate = (rng::rank(seed, "coco caption", &annotation.id.to_string()), text);
        if !candidate.1.is_empty() && caption.as_ref().is_none_or(|kept| candidate < *kept) {
            *caption = Some(candidate);
        }
    }
    let all = images.len();
    let captioned =
        images.into_iter().filter_map(|(id, (image, caption))| Some((rng::rank(seed, "coco image", &id.to_string()), image, caption?.1)));
    let mut ranked: Vec<(u64, &str, String)> = captioned.collect();
    let without = (all - ranked.len()) as u64;
    ranked.sort_unstable();
    ranked.truncate(pairs);
    Ok((ranked.into_iter().map(|(_, image, caption)| Pair { image: image.to_owned(), caption }).collect(), without))
}

impl PromptSource for Coco {
    fn name(&self) -> String {
        NAME.into()
    }

    fn licence(&self) -> String {
        self.config.licence.clone()
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn optional(&self) -> bool {
        self.config.optional
    }

    fn fetched_as(&self) -> Option<&'static str> {
        Some("coco-2014")
    }

    fn read(&self) -> Result<Reading> {
        let (pairs, without) = self.pairs()?;
        let prompts = pairs.into_iter().map(|pair| RawPrompt {
            dataset: COCO.into(),
            category: "caption".into(),
            split: Some(VAL.into()),
            source: format!("{NAME}, {}", pair.image),
            prompt: pair.caption,
            // Every image counts, the same caption of two images included.
            treatment: Treatment::Verbatim,
            ..RawPrompt::default()
        });
        Ok(Reading { prompts: prompts.collect(), removed: vec![Removed { filter: "no caption".into(), rows: without }] })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn published(images: &[u64], annotations: &[(u64, u64, &str)]) -> Vec<u8> {
        let images: Vec<_> = images.iter().map(|id| serde_json::json!({"id": id, "file_name": format!("{id}.jpg"), "height": 1})).collect();
        let annotations: Vec<_> =
            annotations.iter().map(|(id, image, caption)| serde_json::json!({"id": id, "image_id": image, "caption": caption})).collect();
        serde_json::json!({"info": {}, "images": images, "annotations": annotations}).to_string().into_bytes()
    }

    #[test]
    fn every_image_gives_one_pair_and_the_order_of_the_file_does_not_matter() {
        let mut annotations: Vec<(u64, u64, String)> = (0..500).map(|i| (i, i / 5, format!("caption {i}\n"))).collect();
        let of = |annotations: &[(u64, u64, String)], reverse: bool| {
            let mut images: Vec<u64> = (0..=100).collect();
            if reverse {
                images.reverse();
            }
            let annotations: Vec<(u64, u64, &str)> = annotations.iter().map(|(id, image, text)| (*id, *image, text.as_str())).collect();
            parse(&published(&images, &annotations), 1, 40).unwrap()
        };
        let (pairs, without) = of(&annotations, false);
        assert_eq!((pairs.len(), without), (40, 1));
        assert_eq!(pairs.iter().map(|pair| &pair.image).collect::<BTreeSet<_>>().len(), 40);
        for pair in &pairs {
            let (image, caption): (u64, u64) =
                (pair.image.strip_suffix(".jpg").unwrap().parse().unwrap(), pair.caption[8..].parse().unwrap());
            assert_eq!(caption / 5, image);
        }
        annotations.reverse();
        assert_eq!(of(&annotations, true), (pairs, 1));
    }

    #[test]
    fn repeated_and_unknown_ids_are_named_with_their_entry() {
        let error = |images: &[u64], annotations: &[(u64, u64, &str)]| parse(&published(images, annotations), 1, 9).unwrap_err();
        assert_eq!(error(&[1, 2, 1], &[]), "`images`, entry 2: id 1 stands there twice");
        assert_eq!(error(&[1], &[(7, 1, "a"), (7, 1, "b")]), "`annotations`, entry 1: id 7 stands there twice");
        let elsewhere = br#"{"images": [{"id": 1, "file_name": "../a.jpg"}], "annotations": []}"#;
        assert_eq!(parse(elsewhere, 1, 9).unwrap_err(), "`images`, entry 0: `../a.jpg` is no name of a file");
        let long = "x".repeat(10 << 20);
        assert!(error(&[1], &[(7, 1, &long)]).contains("entry 0: the caption has 10485760 bytes"));
        assert_eq!(error(&[1], &[(7, 2, "a")]), "`annotations`, entry 0: image 2 is not in `images`");
    }

    #[test]
    fn a_file_that_is_no_captions_file_is_named_with_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let coco = Coco::new(&Config { captions: "c.json".into(), ..Config::default() }, folder.path(), 1);
        assert!(coco.read().unwrap_err().hint().unwrap().contains("data fetch"));
        std::fs::write(&coco.path, "{\"images\": [], \"annotations\": [{\"id\": 1}]}").unwrap();
        let error = coco.read().unwrap_err().to_string();
        assert!(error.contains("c.json") && error.contains("line 1 column"), "{error}");
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_fail_otherwise_than_by_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, 1, 3);
        }
    }
}
