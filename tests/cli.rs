//! The program as a user meets it: help, plans, freshness, what goes to stdout and what to stderr.

mod program;

use std::time::{Duration, Instant};

use program::{Place, Ran, SMALL_DATA};

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = Place::with(SMALL_DATA).run(&["--help"]).succeeded().stdout;
    for word in ["build-data", "run", "doctor", "--pipeline", "--dry-run", "--force", "--root", "Exit codes", "130"] {
        assert!(help.contains(word), "`{word}` is missing in:\n{help}");
    }
}

#[test]
fn a_second_build_is_fresh_fast_and_says_so() {
    let place = Place::with(SMALL_DATA);
    let first = place.run(&["build-data"]).succeeded();
    assert!(first.stderr.contains("build-data: done in"), "{}", first.stderr);
    assert_eq!(first.stdout, "");
    let started = Instant::now();
    let second = place.run(&["build-data"]).succeeded();
    assert!(second.stderr.contains("build-data: fresh"), "{}", second.stderr);
    // Hashes are remembered, so no table is read; a busy machine may be ten times slower than the 20 ms this takes.
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let forced = place.run(&["build-data", "--force"]).succeeded();
    assert!(forced.stderr.contains("forced"), "{}", forced.stderr);
}

#[test]
fn a_dry_run_writes_no_results_and_tells_what_is_fresh_and_why() {
    let place = Place::with(SMALL_DATA);
    let plan = place.run(&["build-data", "--dry-run"]).succeeded();
    assert!(plan.stdout.contains("build-data: would run (it has not run yet)"), "{}", plan.stdout);
    assert!(!place.path("datasets/built").exists());
    place.run(&["build-data"]).succeeded();
    let plan = place.run(&["build-data", "--dry-run"]).succeeded();
    assert!(plan.stdout.contains("build-data: fresh (made"), "{}", plan.stdout);
    place.write("pipelines/small.toml", SMALL_DATA.replace("caption = 2", "caption = 3").as_bytes());
    let plan = place.run(&["build-data", "--dry-run"]).succeeded();
    assert!(plan.stdout.contains("would run (the configuration changed at `mini.val.caption`)"), "{}", plan.stdout);
}

#[test]
fn equal_pipelines_give_equal_tables_byte_for_byte() {
    let (a, b) = (Place::with(SMALL_DATA), Place::with(SMALL_DATA));
    for place in [&a, &b] {
        place.run(&["build-data"]).succeeded();
    }
    for table in ["laion-train", "compbench-val", "commontext-val"] {
        let file = format!("datasets/built/small/{table}.parquet");
        assert_eq!(a.read(&file), b.read(&file), "{table}");
    }
}

#[test]
fn a_pipeline_can_be_named_by_its_path_and_the_root_given() {
    let place = Place::with(SMALL_DATA);
    let elsewhere = tempfile::tempdir().unwrap();
    place.write("other/mine.toml", SMALL_DATA.as_bytes());
    let (file, root) = (place.path("other/mine.toml"), elsewhere.path().to_str().unwrap());
    place.run(&["build-data", "--pipeline", file.to_str().unwrap(), "--root", root]).succeeded();
    assert!(elsewhere.path().join("datasets/built/mine/laion-train.parquet").exists());
}

#[test]
fn the_doctor_names_the_machine_and_every_pipeline() {
    let report = Place::with(SMALL_DATA).run(&["doctor"]).succeeded().stdout;
    for word in ["processor: ", "threads: ", "memory: ", "free disk: ", "pipeline small", "build-data: would run"] {
        assert!(report.contains(word), "`{word}` is missing in:\n{report}");
    }
}

#[test]
fn an_unknown_option_is_a_command_line_error() {
    let Ran { code, stderr, .. } = Place::with(SMALL_DATA).run(&["build-data", "--pipelin", "x"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--pipeline"), "{stderr}");
}
