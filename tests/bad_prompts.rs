//! Wrong prompt files, each kind once: one message that names file, column, row or byte; tables of an earlier build stay as they were.

mod program;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use program::{Place, TEACHER};

const NETWORKS: &str = r#"
TEACHER
[[student]]
name = "base"
preset = "smoke-base"
updates = 1
datasets = [{ dataset = "laion" }]
"#;

fn pipeline(data: &str) -> String {
    format!("seed = 5\n{data}\n{NETWORKS}").replace("TEACHER", TEACHER)
}

fn file(name: &str) -> String {
    pipeline(&format!("[[data.file]]\ndataset = 'laion'\npath = '{name}'\nlicence = 'CC0'\nsplit = 'train'"))
}

fn write_table(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts(texts: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

fn captions(path: &Path, of: &[&str]) {
    write_table(path, vec![("TEXT", texts(of)), ("AESTHETIC_SCORE", Arc::new(Float64Array::from(vec![7.0; of.len()])))]);
}

/// Files below the folder of built tables, none of them temporary.
fn built(place: &Place) -> Vec<String> {
    let mut names: Vec<String> =
        place.contents("datasets/built/small").into_keys().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A build that worked, then one with a bad file in place: the message, and the tables as they were.
#[track_caller]
fn refused(name: &str, bad: &[u8], words: &[&str]) {
    let place = Place::with(&file(name));
    let good: &[u8] = match name.rsplit('.').next() {
        Some("json") => b"[\"a red car\"]",
        Some("jsonl") => b"\"a red car\"\n",
        Some("csv") => b"prompt\na red car\n",
        _ => b"a red car\n",
    };
    let path = format!("datasets/{name}");
    if name.ends_with(".parquet") {
        write_table(&place.path(&path), vec![("prompt", texts(&["a red car"]))]);
    } else {
        place.write(&path, good);
    }
    place.run(&["build-data"]).succeeded();
    let before = place.contents("datasets/built/small");
    place.write(&path, bad);
    let mut all = vec![name];
    all.extend(words);
    place.run(&["build-data"]).failed(1, &all);
    assert_eq!(place.contents("datasets/built/small"), before);
}

#[test]
fn text_that_is_no_utf8_is_named_with_its_line_and_byte() {
    refused("a.txt", b"a red car\na caf\xE9\n", &["line 2, byte 15 of the file"]);
    refused("a.csv", b"prompt\na caf\xE9\n", &["UTF-8", "line 2"]);
    refused("a.jsonl", b"\"a red car\"\n\"a caf\xE9\"\n", &["line 2", "column 7"]);
    refused("a.json", b"[\"a red car\",\n\"a caf\xE9\"]", &["line 2 column 7"]);
}

#[test]
fn an_empty_file_is_named() {
    for name in ["a.txt", "a.jsonl"] {
        refused(name, b"", &["no prompt stands in it"]);
    }
    for name in ["a.csv", "a.json", "a.parquet"] {
        refused(name, b"", &["the file is empty (0 bytes)"]);
    }
}

#[test]
fn a_prompt_of_ten_megabytes_is_named_with_its_place() {
    let long = "x".repeat(10 << 20);
    let words = ["prompt 2 has 10485760 bytes, expected at most 65536"];
    refused("a.txt", format!("a red car\n{long}\n").as_bytes(), &words);
    refused("a.csv", format!("prompt\na red car\n{long}\n").as_bytes(), &words);
    refused("a.json", format!("[\"a red car\", \"{long}\"]").as_bytes(), &words);
    refused("a.jsonl", format!("\"a red car\"\n\"{long}\"\n").as_bytes(), &words);
    // Among captions from the web it is one of those that are too long.
    let place = Place::with(&pipeline("[data.laion]"));
    captions(&place.path("datasets/sources/laion/a.parquet"), &["a red car", &long]);
    place.run(&["build-data"]).succeeded();
    let summary = String::from_utf8(place.read("datasets/built/small/summary.json")).unwrap();
    assert!(summary.contains("\"filter\": \"more than 2000 characters\",\n          \"rows\": 1"), "{summary}");
}

#[test]
fn a_file_that_is_no_table_and_one_cut_off_are_named() {
    refused("a.parquet", b"prompt\na red car\n", &["not a valid parquet file"]);
    refused("a.json", b"[\"a red car\", \"a bl", &["not a valid JSON array", "line 1 column"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write_table(&path, vec![("prompt", texts(&["a red car", "a blue house"]))]);
    let whole = std::fs::read(&path).unwrap();
    refused("a.parquet", &whole[..whole.len() / 2], &["not a valid parquet file"]);
}

#[test]
fn a_column_that_is_missing_or_of_another_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write_table(&path, vec![("caption", texts(&["a red car"]))]);
    refused("a.parquet", &std::fs::read(&path).unwrap(), &["column `prompt` is missing", "caption"]);
    write_table(&path, vec![("prompt", Arc::new(Int64Array::from(vec![1, 2])))]);
    refused("a.parquet", &std::fs::read(&path).unwrap(), &["column `prompt` has type Int64, expected text"]);
    refused("a.csv", b"caption\na red car\n", &["column `prompt` is missing", "caption"]);
    refused("a.jsonl", b"{\"prompt\": 7}\n", &["line 1: `prompt` is 7, expected a text"]);
}

#[test]
fn a_built_table_with_an_id_twice_is_refused_by_the_stage_that_reads_it() {
    let place = Place::with(&file("a.txt"));
    place.write("datasets/a.txt", b"a red car\na blue house\n");
    place.run(&["build-data"]).succeeded();
    let path = place.path("datasets/built/small/laion-train.parquet");
    // Written again by another program: the same row two times, under our version.
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
    let metadata = reader.metadata().file_metadata().key_value_metadata().cloned();
    let batch = reader.build().unwrap().next().unwrap().unwrap().slice(0, 1);
    let properties = parquet::file::properties::WriterProperties::builder().set_key_value_metadata(metadata).build();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    place
        .run(&["data", "export", "--format", "jsonl", "--to", "out"])
        .failed(1, &["laion-train.parquet", "row 1", "`prompt_id`", "stands in two rows"]);
    assert!(!place.path("out").exists());
}

#[test]
fn a_target_that_cannot_be_written_is_named_and_nothing_is_left() {
    let place = Place::with(&file("a.txt"));
    place.write("datasets/a.txt", b"a red car\n");
    // A folder where the table must be: no user may put a file over it.
    std::fs::create_dir_all(place.path("datasets/built/small/laion-train.parquet/x")).unwrap();
    let ran = place.run(&["build-data"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("laion-train.parquet") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert_eq!(built(&place), Vec::<String>::new());
}
