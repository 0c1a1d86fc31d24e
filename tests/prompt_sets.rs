//! The paper's prompt sets, built by the program: counts, the leak audit, equal bytes for any number of threads, what happens
//! without sources.

mod program;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use program::{Place, TEACHER};
use scaledown::data::build::summary::Summary;

const PIPELINE: &str = r#"
seed = 5
[data.compbench]
[data.commontext]
PRESET
TEACHER
[[student]]
name = "base"
preset = "smoke-base"
updates = 1
datasets = [{ dataset = "compbench", repeat = 10 }, { dataset = "commontext" }]
"#;

fn with_teacher() -> String {
    PIPELINE.replace("TEACHER", TEACHER)
}

const CATEGORIES: [&str; 6] = ["color", "shape", "texture", "spatial", "3d_spatial", "numeracy"];

/// Prompts of our own in the files of T2I-CompBench: one stands in training and validation, some stand twice.
fn compbench(place: &Place, folder: &str) {
    for category in CATEGORIES {
        for (split, n) in [("train", 700), ("val", 300)] {
            let line = |i: usize| match (category, i) {
                ("spatial", 0) => "a heron near a piano".to_owned(),
                ("color", 1..=9) => format!("a red {split} kettle and a blue bowl"),
                _ => format!("a red {category} {split} thing {i} and a blue bowl"),
            };
            let lines: String = (0..n).map(|i| line(i) + "\r\n").collect();
            place.write(&format!("{folder}/T2I-CompBench/{category}_{split}.txt"), lines.as_bytes());
        }
    }
}

fn summary(place: &Place) -> Summary {
    serde_json::from_slice(&place.read("datasets/built/small/summary.json")).unwrap()
}

fn built(place: &Place) -> Vec<(String, Vec<u8>)> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let contents = place.contents("datasets/built/small").into_iter().map(|(path, bytes)| (name(&path), bytes));
    contents.filter(|(name, _)| name.ends_with(".parquet")).collect()
}

#[test]
fn the_papers_sets_have_the_papers_counts_and_the_honest_one_leaks_nothing() {
    let place = Place::with(&with_teacher().replace("PRESET", "held_out = 20"));
    compbench(&place, "sets");
    let ran = place.run(&["build-data", "--from", "sets"]).succeeded();
    assert!(ran.stderr.contains("`base` trains on compbench 4200 × 10 + commontext 50000 = 92000 prompts per epoch"), "{}", ran.stderr);
    let summary = summary(&place);
    for category in CATEGORIES {
        let count = |split: &str| {
            let mut tables = summary.tables.iter();
            tables.find(|t| t.dataset == "compbench" && t.split == split && t.category == category).map(|t| t.prompts)
        };
        assert_eq!((count("train"), count("val")), (Some(700), Some(300)), "{category}");
    }
    assert_eq!((summary.prompts_of("compbench", "train"), summary.prompts_of("compbench", "val")), (4200, 1800));
    assert_eq!((summary.prompts_of("commontext", "train"), summary.prompts_of("commontext", "val")), (50_000, 1000));
    assert_eq!(summary.prompts_of("commontext-held-out", "val"), 140);
    let pair = |train: &str, val: &str| summary.audit.iter().find(|pair| pair.train == train && pair.val == val).unwrap();
    assert_eq!(pair("compbench", "compbench").exact, 1);
    let honest = pair("commontext", "commontext-held-out");
    assert_eq!((honest.with_target, honest.target_seen, honest.exact, honest.normalised), (140, 0, 0, 0));
    assert_eq!(pair("commontext", "commontext").exact, 0);
}

#[test]
fn in_the_released_look_alike_training_shows_every_target_text() {
    let text = with_teacher().replace("PRESET", "preset = 'as-released'\nheld_out = 0").replace("[data.compbench]\n", "");
    let place = Place::with(&text.replace("{ dataset = \"compbench\", repeat = 10 }, ", ""));
    place.run(&["build-data"]).succeeded();
    let audit = &summary(&place).audit;
    assert_eq!((audit.len(), audit[0].target_seen_percent(), audit[0].exact), (1, Some(100.0), 0));
}

#[test]
fn one_and_two_threads_give_equal_bytes() {
    let places = ["1", "2"].map(|threads| {
        let place = Place::with(&with_teacher().replace("PRESET", "train = 3000\nval = 200\nheld_out = 10"));
        compbench(&place, "datasets/sources");
        let arguments = ["build-data", "--pipeline", "small"];
        let output = place.command(&arguments).env("RAYON_NUM_THREADS", threads).env("POLARS_MAX_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        place
    });
    assert_eq!(built(&places[0]).len(), 5);
    assert!(built(&places[0]) == built(&places[1]));
}

#[test]
fn without_sources_the_rest_is_built_and_the_missing_files_are_named() {
    let place = Place::with(&with_teacher().replace("PRESET", "train = 3000\nval = 200\nheld_out = 10"));
    place.run(&["build-data"]).failed(3, &["T2I-CompBench", "color_train.txt", "scaledown data fetch", "everything else is built"]);
    assert_eq!(summary(&place).prompts_of("commontext", "train"), 3000);
    let card = String::from_utf8(place.read("datasets/built/small/data-card.html")).unwrap();
    assert!(card.contains("color_train.txt"));
    let allowed = place.run(&["build-data", "--allow-missing"]).succeeded();
    assert!(allowed.stderr.contains("color_train.txt"), "{}", allowed.stderr);
}

#[test]
fn built_tables_can_be_exported_in_every_format() {
    let place = Place::with(&with_teacher().replace("PRESET", "train = 300\nval = 20\nheld_out = 1").replace("[data.compbench]\n", ""));
    place.run(&["build-data"]).succeeded();
    for (format, file) in
        [("authors", "out/CommonText_Train.json"), ("jsonl", "out/commontext-val.jsonl"), ("hugging-face", "out/commontext/train.parquet")]
    {
        let ran = place.run(&["data", "export", "--format", format, "--to", "out"]).succeeded();
        assert!(ran.stdout.lines().any(|line| line == file), "{}", ran.stdout);
        assert!(place.path(file).exists());
    }
    place.run(&["data", "export", "--format", "jsnl", "--to", "out"]).failed(2, &["did you mean `jsonl`?"]);
}

/// Captions of our own in tables of `per_file` rows; the name of a table says nothing about its place.
fn captions(place: &Place, per_file: usize, reverse: bool) {
    let things = ["lighthouse", "market", "castle", "garden", "bridge", "harbour", "forest"];
    let text = |i: usize| {
        format!(
            "A {} beside the {} number {} on a long and quiet evening by the sea, view {}",
            things[i % 7],
            things[i / 7 % 7],
            i % 900,
            i % 3
        )
    };
    let mut texts: Vec<String> = (0..5000).map(text).collect();
    if reverse {
        texts.reverse();
    }
    for (i, part) in texts.chunks(per_file).enumerate() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("TEXT", Arc::new(StringArray::from(part.to_vec()))),
            ("AESTHETIC_SCORE", Arc::new(Float64Array::from(vec![7.0; part.len()]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let path = place.path(&format!("datasets/sources/laion/part-{:02}.parquet", i * 7 % 10));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

#[test]
fn shards_in_any_order_give_equal_bytes_for_any_number_of_threads() {
    let data = "[data.laion]\nsample = 400\n[[data.file]]\ndataset = 'compbench'\npath = 'mine.txt'\nlicence = 'CC0'\n";
    let text = with_teacher().replace("[data.compbench]\n[data.commontext]\nPRESET\n", data);
    let text = text.replace("[{ dataset = \"compbench\", repeat = 10 }, { dataset = \"commontext\" }]", "[{ dataset = \"laion\" }]");
    let of = |threads: &str, per_file: usize, reverse: bool| {
        let place = Place::with(&text);
        captions(&place, per_file, reverse);
        let mut lines: Vec<String> = (0..700).map(|i| format!("a thing {i} near a bowl")).collect();
        if reverse {
            lines.reverse();
        }
        place.write("datasets/mine.txt", lines.join("\n").as_bytes());
        let arguments = ["build-data", "--pipeline", "small"];
        let output = place.command(&arguments).env("RAYON_NUM_THREADS", threads).env("POLARS_MAX_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(summary(&place).prompts_of("laion", "train"), 400);
        built(&place)
    };
    let one = of("1", 5000, false);
    assert_eq!(one.len(), 3);
    assert!(of("2", 900, true) == one);
}
