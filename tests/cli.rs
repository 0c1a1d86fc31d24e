//! The program as a user meets it: help, plans, freshness, what goes to stdout and what to stderr.

mod program;

use std::time::{Duration, Instant};

use program::{Place, Ran, SMALL};

#[test]
fn help_lists_the_commands_and_the_exit_codes() {
    let help = Place::with(SMALL).run(&["--help"]).succeeded().stdout;
    for word in [
        "build-data",
        "distill",
        "generate",
        "evaluate",
        "report",
        "run",
        "bootstrap",
        "doctor",
        "--pipeline",
        "--dry-run",
        "--force",
        "--root",
        "Exit codes",
        "130",
    ] {
        assert!(help.contains(word), "`{word}` is missing in:\n{help}");
    }
}

#[test]
fn a_second_build_is_fresh_fast_and_says_so() {
    let place = Place::with(SMALL);
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
    let place = Place::with(SMALL);
    let plan = place.run(&["build-data", "--dry-run"]).succeeded();
    assert!(plan.stdout.contains("build-data: would run (it has not run yet)"), "{}", plan.stdout);
    assert!(!place.path("datasets/built").exists());
    place.run(&["build-data"]).succeeded();
    let plan = place.run(&["build-data", "--dry-run"]).succeeded();
    assert!(plan.stdout.contains("build-data: fresh (made"), "{}", plan.stdout);
    place.write("pipelines/small.toml", SMALL.replace("caption = 4", "caption = 3").as_bytes());
    let plan = place.run(&["build-data", "--dry-run"]).succeeded();
    assert!(plan.stdout.contains("would run (the configuration changed at `mini.val.caption`)"), "{}", plan.stdout);
}

#[test]
fn the_whole_chain_ends_with_the_report_and_is_fresh_afterwards() {
    let place = Place::with(SMALL);
    let first = place.run(&["run"]).succeeded();
    // The path of the report is the only thing on stdout.
    assert_eq!(first.stdout.trim(), "reports/small/index.html");
    let page = String::from_utf8(place.read("reports/small/index.html")).unwrap();
    assert!(page.contains("base-untrained") && !page.contains("<script src"), "the page lacks a student or loads a script");
    assert!(place.path("reports/index.html").exists());
    let before = place.contents("runs/small");

    let plan = place.run(&["run", "--dry-run"]).succeeded().stdout;
    assert!(plan.lines().count() >= 10 && plan.lines().all(|line| line.contains(": fresh (")), "{plan}");
    let started = Instant::now();
    let second = place.run(&["run"]).succeeded();
    assert_eq!(second.stderr.lines().filter(|line| line.ends_with(": fresh")).count(), plan.lines().count(), "{}", second.stderr);
    // Hashes are remembered; a busy machine may be ten times slower than the 0.1 s this takes.
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(place.contents("runs/small"), before);
}

#[test]
fn a_change_of_one_student_leaves_the_others_fresh() {
    let place = Place::with(SMALL);
    place.run(&["build-data"]).succeeded();
    place.run(&["distill"]).succeeded();
    place
        .write("pipelines/small.toml", SMALL.replace("updates = 12\nbatch = 2\nsteps = 4", "updates = 8\nbatch = 2\nsteps = 4").as_bytes());
    let plan = place.run(&["distill", "--dry-run"]).succeeded().stdout;
    assert!(plan.contains("distill base: would run (the configuration changed at `student.updates`)"), "{plan}");
    assert!(plan.contains("distill base-untrained: fresh") && plan.contains("distill base-naive: fresh"), "{plan}");
}

#[test]
fn equal_pipelines_give_equal_tables_byte_for_byte() {
    let (a, b) = (Place::with(SMALL), Place::with(SMALL));
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
    let place = Place::with(SMALL);
    let elsewhere = tempfile::tempdir().unwrap();
    place.write("other/mine.toml", SMALL.as_bytes());
    let (file, root) = (place.path("other/mine.toml"), elsewhere.path().to_str().unwrap());
    place.run(&["build-data", "--pipeline", file.to_str().unwrap(), "--root", root]).succeeded();
    assert!(elsewhere.path().join("datasets/built/mine/laion-train.parquet").exists());
}

#[test]
fn the_doctor_names_the_machine_and_every_pipeline() {
    let report = Place::with(SMALL).run(&["doctor"]).succeeded().stdout;
    for word in ["processor: ", "threads: ", "memory: ", "free disk: ", "pipeline small", "build-data: would run"] {
        assert!(report.contains(word), "`{word}` is missing in:\n{report}");
    }
}

#[test]
fn an_unknown_option_is_a_command_line_error() {
    let Ran { code, stderr, .. } = Place::with(SMALL).run(&["build-data", "--pipelin", "x"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("--pipeline"), "{stderr}");
}
