//! `scaledown data`: published prompt sets, before a pipeline reads them.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::Common;
use crate::config;
use crate::data::clean;
use crate::data::export::{self, FORMATS, Format};
use crate::data::fetch::registry::Registry;
use crate::data::fetch::{self, From, Outcome};
use crate::data::near::Similarity;
use crate::data::sources::coco::{self, Coco, pictures};
use crate::data::sources::laion::{Config, Laion, Score};
use crate::data::tokens;
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the files of `datasets/sources.toml` into `datasets/sources`, checked by hash; goes on where an earlier run stopped.
    Fetch {
        /// The sources to bring; all without a name.
        source: Vec<String>,
        /// Reach no network: check what is there, list the rest with address and place.
        #[arg(long)]
        offline: bool,
        /// Copy from this folder, and reach no network.
        #[arg(long, value_name = "DIR", conflicts_with = "offline")]
        from: Option<PathBuf>,
    },
    /// Filter, clean and draw the captions of LAION tables into one small table; print what each filter left out.
    Captions {
        /// Parquet files; `*` and `?` stand for characters of a name.
        #[arg(required = true)]
        from: Vec<PathBuf>,
        /// The table to write.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Draw so many captions; without it all that pass are kept.
        #[arg(long, value_name = "N")]
        sample: Option<usize>,
        /// Lowest aesthetic score.
        #[arg(long, value_name = "SCORE", default_value_t = 6.5)]
        min_score: f64,
        /// Share of common words and word pairs from which captions count as one.
        #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
        near_duplicates: f64,
        /// Decides which captions are drawn.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Write the built tables of the pipeline in the formats of others; prints the files.
    Export {
        /// `authors` (the files of the released training script), `jsonl`, or `hugging-face` (a folder for `datasets`).
        #[arg(long)]
        format: String,
        /// The folder to write into.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Cut the images of the drawn MSCOCO pairs to squares; print their paths with the captions.
    Coco {
        /// The captions as published.
        captions: PathBuf,
        /// The folder with the images.
        #[arg(long, value_name = "DIR")]
        images: PathBuf,
        /// The folder to write to.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Pairs drawn.
        #[arg(long, value_name = "N", default_value_t = 30_000)]
        pairs: usize,
        /// Pixels of a side.
        #[arg(long, default_value_t = 512)]
        size: u32,
        /// Decides which pairs are drawn; that of the pipeline draws its pairs.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

/// Does what the command asks for. Results go to stdout.
pub fn run(command: &Command, common: &Common) -> Result<()> {
    let (root, dry_run) = (common.root(), common.dry_run);
    match command {
        Command::Fetch { source, offline, from } => {
            let from = match from {
                Some(folder) => From::Folder(folder.clone()),
                None if *offline || dry_run => From::Nowhere,
                None => From::Network(Box::default()),
            };
            fetch_sources(source, root, &from)
        }
        Command::Export { format, to } => {
            let format = Format::named(format).ok_or_else(|| config::unknown("format", format, &FORMATS))?;
            for path in export::run(format, &common.load()?.context, to)? {
                println!("{}", path.display());
            }
            Ok(())
        }
        Command::Coco { captions, images, to, pairs, size, seed } => {
            let config = coco::Config { captions: captions.clone(), pairs: *pairs, ..coco::Config::default() };
            cut_images(&Coco::new(&config, Path::new(""), *seed), images, to, *size)
        }
        Command::Captions { from, to, sample, min_score, near_duplicates, seed } => {
            let config = Config {
                files: from.clone(),
                score: Score::AtLeast(*min_score),
                sample: *sample,
                near_duplicates: Similarity::new(*near_duplicates)?,
                ..Config::default()
            };
            let (clean, tokenizers) = (clean::Config::default(), tokens::Config::default());
            let laion = Laion { config, clean, tokenizers, folder: PathBuf::new(), seed: *seed };
            if dry_run {
                laion.paths().iter().for_each(|path| println!("would read {}", path.display()));
                return Ok(());
            }
            let (captions, removed) = laion.write(to)?;
            for removed in removed {
                println!("{:>12}  {}", removed.rows, removed.filter);
            }
            println!("{captions:>12}  captions in {}", to.display());
            Ok(())
        }
    }
}

/// Writes the images of the drawn pairs and prints path and caption of each.
fn cut_images(coco: &Coco, images: &Path, to: &Path, size: u32) -> Result<()> {
    coco.config.check()?;
    let (pairs, _) = coco.pairs()?;
    let paths = pictures::prepare(&pairs, images, to, size)?;
    for (path, pair) in paths.iter().zip(&pairs) {
        println!("{}\t{}", path.display(), pair.caption);
    }
    Ok(())
}

fn fetch_sources(names: &[String], root: &Path, from: &From) -> Result<()> {
    let datasets = root.join("datasets");
    let registry = Registry::load(&datasets)?;
    let sources = registry.chosen(names)?;
    let outcome = fetch::fetch(&sources, &datasets.join("sources"), from, |fetched| {
        let outcome = match fetched.outcome {
            Outcome::Present => "present",
            Outcome::Downloaded => "downloaded",
            Outcome::Copied => "copied",
            Outcome::Missing => "missing",
        };
        println!("{outcome:>10}  {}", fetched.path.display());
    });
    for source in sources {
        if let Some(note) = &source.note {
            eprintln!("{}: {note}", source.name);
        }
    }
    outcome
}
