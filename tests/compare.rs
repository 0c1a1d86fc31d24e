//! `scaledown report A B` and `scaledown power` as a user meets them.

mod program;

use program::{Place, SMALL};
use scaledown::run::results::ScoreRow;

/// Scores of two encoders on 30 prompts; `base` loses `loss` points on each, more or less.
fn write_run(place: &Place, name: &str, loss: f64, protocol: &str) {
    let mut rows = Vec::new();
    for (encoder, level) in [("teacher", 80.0), ("base", 60.0)] {
        for prompt_id in 0..30u64 {
            let wave = (prompt_id * 7 % 11) as f64;
            let lost = if encoder == "base" { loss * (0.75 + 0.25 * (prompt_id % 3) as f64) } else { 0.0 };
            for metric in ["compbench_color", "ocr_char"] {
                rows.push(ScoreRow {
                    encoder: encoder.into(),
                    prompt_id,
                    dataset: "compbench".into(),
                    category: metric.into(),
                    image_idx: 0,
                    metric: metric.into(),
                    value: level + wave - if metric == "ocr_char" { 0.0 } else { lost },
                    detail: None,
                    protocol: protocol.into(),
                });
            }
        }
    }
    ScoreRow::write(&place.path(&format!("runs/{name}/evaluate/scores.parquet")), &rows).unwrap();
}

fn runs() -> Place {
    let place = Place::with(SMALL);
    for (name, loss, protocol) in [("before", 0.0, "p"), ("after", 4.0, "p"), ("other", 0.0, "q")] {
        std::fs::create_dir_all(place.path(&format!("runs/{name}/evaluate"))).unwrap();
        write_run(&place, name, loss, protocol);
    }
    place
}

#[test]
fn differences_stand_on_stdout_and_the_gate_decides_the_exit_code() {
    let place = runs();
    let ran = place.run(&["report", "before", "after"]).succeeded();
    let line = ran.stdout.lines().find(|line| line.starts_with("base") && line.contains("compbench_color")).unwrap();
    for words in ["-4.00", "<0.001", "worse", " 30"] {
        assert!(line.contains(words), "`{words}` is missing in:\n{}", ran.stdout);
    }
    assert_eq!(ran.stdout.lines().count(), 5, "{}", ran.stdout);
    assert!(ran.stderr.contains("after minus before"));
    place.run(&["report", "before", "after", "--max-drop", "5"]).succeeded();
    place
        .run(&["report", "before", "after", "--max-drop", "2"])
        .failed(4, &["`after` is not within 2 points of `before`: compbench_color of base got worse by 4.00 points"]);
    place.run(&["report", "before", "after", "--max-drop", "2", "--metric", "ocr_char"]).succeeded();
    place.run(&["report", "after", "before", "--max-drop", "0"]).succeeded();
    place.run(&["report", "before", "after", "--max-drop", "4.1", "--proof"]).failed(4, &["may have lost up to"]);
    place.run(&["report", "before", "before", "--max-drop", "0.5", "--proof"]).succeeded();
}

#[test]
fn runs_can_be_named_by_their_folders_without_a_pipeline() {
    let place = runs();
    let (before, after) = (place.path("runs/before"), place.path("runs/after"));
    let elsewhere = tempfile::tempdir().unwrap();
    let root = elsewhere.path().to_str().unwrap();
    let arguments = ["report", before.to_str().unwrap(), after.to_str().unwrap(), "--root", root, "--pipeline", "mini"];
    place.run(&arguments).succeeded();
}

#[test]
fn what_cannot_be_compared_is_said_in_one_message() {
    let place = runs();
    place.run(&["report", "before", "nothing"]).failed(2, &["`nothing` is no run with scores", "runs/nothing/evaluate/scores.parquet"]);
    place.run(&["report", "before", "other"]).failed(2, &["share no scored image", "different protocols: `p` and `q`"]);
    place.run(&["report", "before", "after", "--encoder", "small"]).failed(2, &["no scores of encoder `small`", "it has base, teacher"]);
    place.run(&["report", "before", "after", "--max-drop=-1"]).failed(2, &["--max-drop is -1"]);
    let one = place.run(&["report", "before"]);
    assert!(one.code == Some(2) && one.stderr.contains("2 values required"), "{one:?}");
}

#[test]
fn power_prints_the_number_alone_on_stdout() {
    let place = Place::with(SMALL);
    let ran = place.run(&["power", "--rate", "75", "--difference", "5", "--correlation", "0.5"]).succeeded();
    let prompts: u64 = ran.stdout.trim().parse().unwrap();
    // (1.96 + 0.84)² · 0.199 / 0.05² = 625.
    assert!((615..640).contains(&prompts), "{prompts}");
    assert!(ran.stderr.contains("show a difference of 5.0000 points with power 0.80"), "{}", ran.stderr);
    let power: f64 = place.run(&["power", "--sd", "40", "--difference", "5", "-n", "300"]).succeeded().stdout.trim().parse().unwrap();
    assert!((0.3..0.4).contains(&power), "{power}");
    place.run(&["power", "--sd", "40"]).failed(2, &["neither a number of prompts nor a difference"]);
}
