//! Wrong input, each kind once: one clear message, the documented exit code, earlier outputs as they were.

mod program;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use program::{Place, Ran, SMALL};

const TABLE: &str = "datasets/built/small/laion-train.parquet";

#[test]
fn a_misspelt_key_is_answered_with_the_nearest_one() {
    let place = Place::with(&SMALL.replace("train_prompts", "train_promts"));
    place.run(&["build-data"]).failed(2, &["small.toml:6: unknown key `train_promts`", "did you mean `train_prompts`?"]);
}

#[test]
fn an_unknown_pipeline_is_answered_with_the_nearest_one() {
    let place = Place::with(SMALL);
    place.run(&["build-data", "--pipeline", "smal"]).failed(2, &["unknown pipeline `smal`", "did you mean `small`?"]);
    place.run(&["build-data", "--pipeline", "nowhere/x.toml"]).failed(2, &["`nowhere/x.toml`: file not found"]);
}

#[test]
fn a_wrong_folder_is_recognised() {
    let place = Place::with(SMALL);
    place.run(&["build-data", "--root", "pipelines"]).failed(2, &["unknown pipeline", "--root"]);
}

#[test]
fn a_missing_source_leaves_the_rest_built_and_is_listed() {
    let file = "\n[[data.file]]\ndataset = 'laion'\npath = 'laion/captions.txt'\nlicence = 'CC0'\ncategory = 'caption'\n";
    let place = Place::with(&format!("{SMALL}{file}"));
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
    let place = Place::with(SMALL);
    place.run(&["build-data"]).succeeded();
    let table = place.read(TABLE);
    place.write("datasets/captions.parquet", &table[..table.len() / 2]);
    let file = "\n[[data.file]]\ndataset = 'laion'\npath = 'captions.parquet'\nlicence = 'CC0'\n";
    place.write("pipelines/small.toml", format!("{SMALL}{file}").as_bytes());
    place.run(&["build-data"]).failed(1, &["captions.parquet", "not a valid parquet file"]);
    assert_eq!(place.read(TABLE), table);
}

#[test]
fn an_unknown_file_format_and_an_unknown_set_are_configuration_errors() {
    let file = |dataset: &str, path: &str| format!("{SMALL}\n[[data.file]]\ndataset = '{dataset}'\npath = '{path}'\nlicence = 'CC0'\n");
    let place = Place::with(&file("laion", "captions.docx"));
    place.write("datasets/captions.docx", b"x");
    place.run(&["build-data"]).failed(2, &["`docx`", ".parquet"]);
    place.write("pipelines/small.toml", file("lion", "captions.txt").as_bytes());
    place.run(&["build-data"]).failed(2, &["unknown set `lion`", "laion, compbench, commontext"]);
}

#[test]
fn too_many_prompts_for_the_grammar_are_refused() {
    let place = Place::with(&SMALL.replace("numeracy = 4", "numeracy = 100000"));
    place.run(&["build-data"]).failed(2, &["`numeracy`", "[data.mini]"]);
}

#[test]
#[cfg(unix)]
fn a_folder_that_cannot_be_written_is_named() {
    let place = Place::with(SMALL);
    // A file where a folder must be: fails for every user, root included.
    place.write("datasets/built", b"");
    let ran = place.run(&["build-data"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("datasets/built") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
}

#[test]
fn an_unknown_student_encoder_or_part_is_answered_with_the_nearest_one() {
    let place = Place::with(SMALL);
    place.run(&["distill", "--student", "bse"]).failed(2, &["unknown student `bse`", "did you mean `base`?"]);
    place.run(&["generate", "--encoder", "techer"]).failed(2, &["unknown encoder `techer`", "did you mean `teacher`?"]);
    // Free prompts are painted under any student, so the hint says how to name one.
    let nearest = ["unknown encoder `bse`", "did you mean `base`?", "the folder of a student, with its `student.json`"];
    place.run(&["generate", "--prompt", "a cat", "--out", "out", "--encoder", "bse"]).failed(2, &nearest);
    place.run(&["bootstrap", "--part", "clpi"]).failed(2, &["unknown part `clpi`", "did you mean `clip`?"]);
}

#[test]
fn a_stage_without_its_inputs_names_the_stage_that_makes_them() {
    let place = Place::with(SMALL);
    place.run(&["distill"]).failed(1, &["laion-train.parquet", "scaledown build-data --pipeline small"]);
    place.run(&["evaluate"]).failed(1, &["scaledown generate --pipeline small"]);
    place.run(&["report"]).failed(1, &["scaledown evaluate --pipeline small"]);
    let plan = place.run(&["distill", "--student", "base", "--dry-run"]).succeeded().stdout;
    assert!(plan.contains("distill base: cannot run (training prompts is missing"), "{plan}");
}

#[test]
fn missing_weights_are_named_before_any_work() {
    let text = SMALL.replace("preset = \"smoke\", weights = \"random\"", "preset = \"smoke\", weights = \"denoiser-128.safetensors\"");
    let place = Place::with(&text);
    place.run(&["build-data"]).succeeded();
    let ran = place.run(&["distill"]).failed(1, &["denoiser-128.safetensors", "`scaledown bootstrap --part denoiser-128`"]);
    assert!(!ran.stderr.contains("running"), "{}", ran.stderr);
}

#[test]
fn a_corrupt_header_of_weights_is_named() {
    let text =
        SMALL.replacen("preset = \"smoke-teacher\", weights = \"random\"", "preset = \"smoke-teacher\", weights = \"t.safetensors\"", 1);
    let place = Place::with(&text);
    place.write("pipelines/t.safetensors", b"\x08\0\0\0\0\0\0\0{\"a\":#}\0");
    place.run(&["build-data"]).succeeded();
    place.run(&["distill", "--student", "base"]).failed(1, &["t.safetensors", "not a valid safetensors file"]);
    assert!(!place.path("runs/small/distill/base/student.safetensors").exists());
}

#[test]
fn a_truncated_prompt_table_is_named_and_the_student_stays() {
    let place = Place::with(SMALL);
    place.run(&["build-data"]).succeeded();
    place.run(&["distill", "--student", "base-naive"]).succeeded();
    let student = "runs/small/distill/base-naive/student.safetensors";
    let (before, table) = (place.read(student), place.read(&TABLE.replace("laion", "compbench")));
    place.write(&TABLE.replace("laion", "compbench"), &table[..table.len() - 20]);
    place.run(&["distill", "--student", "base-naive"]).failed(1, &["compbench-train.parquet", "not a valid parquet file"]);
    assert_eq!(place.read(student), before);
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_with_130_and_the_same_command_goes_on() {
    // Long enough that the signal comes while it trains.
    let place = Place::with(&SMALL.replacen("updates = 12", "updates = 200000", 1));
    place.run(&["build-data"]).succeeded();
    let distill = ["distill", "--student", "base", "--pipeline", "small"];
    let mut child = place.command(&distill).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("distill base: running"), "{line}");
    // Loading the tiny networks takes milliseconds; the signal must not come before the handler can save a state.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut told = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut told).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130), "{told}");
    assert!(told.contains("interrupted; finished work is kept") && told.contains("run the same command again"), "{told}");
    assert!(place.path("runs/small/distill/base/checkpoint").exists(), "no state was saved");
    assert!(!place.path("runs/small/distill/base/manifest.json").exists());

    let Ran { stdout, .. } = place.run(&["distill", "--student", "base", "--dry-run"]).succeeded();
    assert!(stdout.contains("distill base: would run"), "{stdout}");
}
