//! Wrong input, each kind once: one clear message, the documented exit code, earlier outputs as they were.

mod program;

use program::{Place, SMALL_DATA};

const TABLE: &str = "datasets/built/small/laion-train.parquet";

#[test]
fn a_misspelt_key_is_answered_with_the_nearest_one() {
    let place = Place::with(&SMALL_DATA.replace("train_prompts", "train_promts"));
    place.run(&["build-data"]).failed(2, &["small.toml:4: unknown key `train_promts`", "did you mean `train_prompts`?"]);
}

#[test]
fn an_unknown_pipeline_is_answered_with_the_nearest_one() {
    let place = Place::with(SMALL_DATA);
    place.run(&["build-data", "--pipeline", "smal"]).failed(2, &["unknown pipeline `smal`", "did you mean `small`?"]);
    place.run(&["build-data", "--pipeline", "nowhere/x.toml"]).failed(2, &["`nowhere/x.toml`: file not found"]);
}

#[test]
fn a_wrong_folder_is_recognised() {
    let place = Place::with(SMALL_DATA);
    place.run(&["build-data", "--root", "pipelines"]).failed(2, &["unknown pipeline", "--root"]);
}

#[test]
fn a_missing_source_leaves_the_rest_built_and_is_listed() {
    let file = "\n[[data.file]]\ndataset = 'laion'\npath = 'laion/captions.txt'\nlicence = 'CC0'\ncategory = 'caption'\n";
    let place = Place::with(&format!("{SMALL_DATA}{file}"));
    place.run(&["build-data"]).failed(3, &["captions.txt", "everything else is built"]);
    assert!(place.path(TABLE).exists());
    // Not taken for fresh: the file may be there the next time.
    place.run(&["build-data"]).failed(3, &["captions.txt"]);
    place.write("datasets/laion/captions.txt", b"a lighthouse at dawn\n");
    place.run(&["build-data"]).succeeded();
    place.run(&["build-data"]).succeeded();
}

#[test]
fn a_truncated_table_is_named_and_earlier_tables_stay() {
    let place = Place::with(SMALL_DATA);
    place.run(&["build-data"]).succeeded();
    let table = place.read(TABLE);
    place.write("datasets/captions.parquet", &table[..table.len() / 2]);
    let file = "\n[[data.file]]\ndataset = 'laion'\npath = 'captions.parquet'\nlicence = 'CC0'\n";
    place.write("pipelines/small.toml", format!("{SMALL_DATA}{file}").as_bytes());
    place.run(&["build-data"]).failed(1, &["captions.parquet", "not a valid parquet file"]);
    assert_eq!(place.read(TABLE), table);
}

#[test]
fn an_unknown_file_format_and_an_unknown_set_are_configuration_errors() {
    let file =
        |dataset: &str, path: &str| format!("{SMALL_DATA}\n[[data.file]]\ndataset = '{dataset}'\npath = '{path}'\nlicence = 'CC0'\n");
    let place = Place::with(&file("laion", "captions.docx"));
    place.write("datasets/captions.docx", b"x");
    place.run(&["build-data"]).failed(2, &["`docx`", ".parquet"]);
    place.write("pipelines/small.toml", file("lion", "captions.txt").as_bytes());
    place.run(&["build-data"]).failed(2, &["unknown set `lion`", "laion, compbench, commontext"]);
}

#[test]
fn too_many_prompts_for_the_grammar_are_refused() {
    let place = Place::with(&SMALL_DATA.replace("numeracy = 2", "numeracy = 100000"));
    place.run(&["build-data"]).failed(2, &["`numeracy`", "[data.mini]"]);
}

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::with(SMALL_DATA);
    // A file where a folder must be: fails for every user, root included.
    place.write("datasets/built", b"");
    let ran = place.run(&["build-data"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("datasets/built") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
}
