//! Every experiment of the paper from its prompts to its report, on tiny random networks: nothing but weights and time is missing.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn scaledown(root: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_scaledown")).args(arguments).arg("--root").arg(root).output().unwrap()
}

fn root() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pipelines", "datasets"] {
        copy(Path::new(name), &folder.path().join(name));
    }
    folder
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            // What users built or fetched is not part of the experiments.
            if !["built", "sources"].contains(&entry.file_name().to_str().unwrap()) {
                copy(&entry.path(), &to.join(entry.file_name()));
            }
        }
    } else {
        std::fs::copy(from, to).unwrap();
    }
}

#[test]
fn every_table_of_the_paper_is_filled_on_tiny_networks() {
    let folder = root();
    let output = scaledown(folder.path(), &["reproduce", "all", "--tiny"]);
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{talk}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let cells: Vec<&str> = printed.lines().filter(|line| line.starts_with("Table") || line.starts_with("Figure 1 ")).collect();
    assert!(cells.len() > 130, "{printed}");
    // A fine-tuned model that nobody publishes; shares of what a random teacher writes and of the CLIP score of what it paints, which
    // may both be nothing.
    let known = ["Pixart-Alpha-ft", "retention_ocr_mean", "retention_clip_score"];
    let empty: BTreeSet<&str> = cells
        .into_iter()
        .filter(|line| ["no pipeline makes", "does not measure", "the run has no"].iter().any(|why| line.contains(why)))
        .filter(|line| !known.iter().any(|known| line.contains(known)))
        .collect();
    assert!(empty.is_empty(), "cells without a number: {empty:#?}");

    // The teacher of the variants is that of `flux-dev`: its images are taken over, not made again.
    assert_eq!(talk.matches("generate teacher: taken over from").count(), 7, "{talk}");
    let image = |pipeline: &str| {
        let images = folder.path().join("runs").join(pipeline).join("generate/teacher/images");
        let first = std::fs::read_dir(images).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
        std::fs::read(first).unwrap()
    };
    assert_eq!(image("flux-dev-tiny"), image("flux-dev-xl-tiny"));

    // Who asks for them anew gets them anew.
    let forced = scaledown(folder.path(), &["generate", "--encoder", "teacher", "--pipeline", "flux-dev-small", "--tiny", "--force"]);
    let talk = String::from_utf8(forced.stderr).unwrap();
    assert!(forced.status.success() && !talk.contains("taken over"), "{talk}");

    // A second call has nothing to do.
    let again = scaledown(folder.path(), &["reproduce", "table3", "--tiny"]);
    let talk = String::from_utf8(again.stderr).unwrap();
    assert!(again.status.success() && !talk.contains("running"), "{talk}");
}

#[test]
fn experiments_beside_the_tables_run_too() {
    let folder = root();
    let missing = scaledown(folder.path(), &["run", "--pipeline", "flux-schnell", "--tiny"]);
    let talk = String::from_utf8(missing.stderr).unwrap();
    assert!(!missing.status.success() && talk.contains("scaledown distill --pipeline flux-dev --tiny"), "{talk}");
    let after_flux = ["flux-schnell", "flux-dev-lora", "flux-dev-canny", "flux-dev-depth", "flux-dev-pose"];
    for pipeline in ["flux-dev"].into_iter().chain(after_flux).chain(["smoke", "mini", "mini-128"]) {
        let output = scaledown(folder.path(), &["run", "--pipeline", pipeline, "--tiny"]);
        assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
    }

    // One network in memory at a time: the same images in less memory.
    std::fs::write(folder.path().join("pipelines/spare.toml"), "extends = \"smoke.toml\"\n[generate]\noffload = true\n").unwrap();
    for arguments in [["build-data"].as_slice(), &["distill", "--student", "base"], &["generate", "--encoder", "base"]] {
        let output = scaledown(folder.path(), &[arguments, &["--pipeline", "spare"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
    }
    let kept = scaledown(folder.path(), &["run", "--pipeline", "smoke"]);
    assert!(kept.status.success(), "{}", String::from_utf8(kept.stderr).unwrap());
    let images = |pipeline: &str| {
        let folder = folder.path().join("runs").join(pipeline).join("generate/base");
        let mut images: Vec<_> = std::fs::read_dir(folder.join("images")).unwrap().map(|entry| entry.unwrap().path()).collect();
        images.sort();
        let costs: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("costs.json")).unwrap()).unwrap();
        (images.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>(), costs)
    };
    let ((spare, spare_costs), (whole, costs)) = (images("spare"), images("smoke"));
    assert!(!spare.is_empty() && spare == whole);
    assert!(spare_costs["in_memory"].is_null() && costs["offloaded"]["seconds"].as_array().unwrap().len() == 5);
    let peak = |way: &str| costs[way]["peak_bytes"].as_u64().unwrap();
    assert!(0 < peak("offloaded") && peak("offloaded") < peak("in_memory"), "{costs}");
}

#[test]
fn without_weights_the_table_says_what_is_missing() {
    let folder = root();
    let output = scaledown(folder.path(), &["reproduce", "table4"]);
    assert_eq!(output.status.code(), Some(3));
    let (printed, talk) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(printed.lines().skip(1).all(|line| line.contains("missing")), "{printed}");
    assert!(talk.contains("--tiny"), "{talk}");
}
