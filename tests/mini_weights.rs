//! The committed weights of the miniature world: what the card beside them says of them, and how large they may be.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use scaledown::config::Pipeline;
use scaledown::distill::Objective;
use scaledown::mini::bootstrap::Part;
use scaledown::models::card::{STUDENT_WEIGHTS, StudentCard};
use scaledown::nn::param::Parameters;
use scaledown::run::files;
use scaledown::run::results::SummaryRow;

/// Largest size of one file of weights and of all, so that a clone stays quick.
const LARGEST_FILE: u64 = 16_000_000;
const LARGEST_SUM: u64 = 40_000_000;

/// The files of all parts; `denoiser-128` takes about three hours of two cores and is the user's to train.
fn committed() -> impl Iterator<Item = &'static str> {
    Part::ALL.into_iter().filter(|part| *part != Part::Denoiser128).flat_map(|part| part.outputs().iter().copied())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/mini")
}

/// Name, megabytes and first digits of the hash, of every row of the card that names a file.
fn card() -> BTreeMap<String, (String, String)> {
    let text = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned()).collect());
    cells.map(|cells: Vec<String>| (cells[0].clone(), (cells[cells.len() - 2].clone(), cells[cells.len() - 1].clone()))).collect()
}

#[test]
fn the_card_names_every_file_that_bootstrap_writes_with_its_size_and_hash() {
    let card = card();
    for file in committed() {
        let path = folder().join(file);
        let (megabytes, hash) = card.get(file).unwrap_or_else(|| panic!("`{file}` is not in the card"));
        assert_eq!(*megabytes, format!("{:.2}", std::fs::metadata(&path).unwrap().len() as f64 / 1e6), "{file}");
        assert!(hash.len() >= 16, "{file}: {hash}");
        let found = files::sha256_file(&path).unwrap();
        assert!(found.starts_with(hash.as_str()), "{file}: the card says {hash}, the file is {found}");
    }
}

#[test]
fn weights_are_in_half_precision_and_small() {
    let mut sum: u64 = 0;
    for file in committed() {
        let bytes = std::fs::read(folder().join(file)).unwrap();
        assert!(bytes.len() as u64 <= LARGEST_FILE, "{file}: {} bytes", bytes.len());
        sum += bytes.len() as u64;
        if file.ends_with(".safetensors") {
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            assert!(tensors.iter().all(|(_, tensor)| tensor.dtype() == Dtype::F16), "{file}");
        }
    }
    for student in folder().join("students").read_dir().unwrap() {
        sum += std::fs::metadata(student.unwrap().path().join(STUDENT_WEIGHTS)).unwrap().len();
    }
    assert!(sum <= LARGEST_SUM, "{sum} bytes together");
}

#[test]
fn every_trained_student_of_the_longer_run_is_committed_with_its_scores() {
    let pipeline = Pipeline::load(Path::new(env!("CARGO_MANIFEST_DIR")), "mini-full").unwrap();
    let scores = SummaryRow::read(&folder().join("mini-full.parquet"), "").unwrap();
    let trained = pipeline.experiment.student.iter().filter(|student| student.objective != Objective::None);
    for config in trained {
        let home = folder().join("students").join(&config.name);
        let card = StudentCard::read(&home).unwrap();
        let student = card.load_student(&home).unwrap();
        assert_eq!((card.name.as_str(), card.preset.as_str()), (config.name.as_str(), config.preset.as_str()));
        assert_eq!((card.objective.as_str(), card.updates), (config.objective.name(), config.updates), "{}", config.name);
        assert_eq!(card.datasets, config.datasets.iter().map(|source| source.dataset.clone()).collect::<Vec<_>>(), "{}", config.name);
        assert_eq!(card.parameters, student.count() as u64, "{}", config.name);
        let bytes = std::fs::read(home.join(STUDENT_WEIGHTS)).unwrap();
        assert!(SafeTensors::deserialize(&bytes).unwrap().iter().all(|(_, tensor)| tensor.dtype() == Dtype::F16), "{}", config.name);
        let n_images = scores.iter().find(|row| row.encoder == config.name && row.metric == "clip_score" && row.scope == "all").unwrap().n;
        assert!(n_images >= 1_000, "{}: {n_images} images", config.name);
    }
}
