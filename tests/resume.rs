//! A distillation that is stopped or killed at any update and started again ends in the same weights.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{TinyWorld, config, hash};
use scaledown::distill::Objective;
use scaledown::error::Error;
use scaledown::run::results::TrainLogRow;

/// Two and a half trajectories of five steps; checkpoints after every third update.
const UPDATES: u64 = 13;
/// Folder of the student that the child process trains; absent in an ordinary test run.
const CHILD_FOLDER: &str = "SCALEDOWN_TEST_CHILD_FOLDER";

fn uninterrupted(objective: Objective, updates: u64) -> (String, Vec<TrainLogRow>) {
    let folder = tempfile::tempdir().unwrap();
    TinyWorld::new().distil(&config(objective, updates), folder.path(), &mut |_| Ok(false)).unwrap();
    (hash(folder.path()), log(folder.path()))
}

/// The log without its wall time.
fn log(folder: &Path) -> Vec<TrainLogRow> {
    let rows = TrainLogRow::read(&folder.join("train-log.parquet"), "").unwrap();
    rows.into_iter().map(|row| TrainLogRow { seconds: 0.0, ..row }).collect()
}

#[test]
fn stopping_three_times_changes_nothing() {
    for objective in [Objective::Vision, Objective::Naive] {
        let (expected_hash, expected_log) = uninterrupted(objective, UPDATES);
        let folder = tempfile::tempdir().unwrap();
        // Within the first trajectory, at its end, and within the last one.
        for stop_at in [2, 5, 12] {
            let outcome = TinyWorld::new().distil(&config(objective, UPDATES), folder.path(), &mut |update| Ok(update == stop_at));
            assert!(matches!(outcome, Err(Error::Interrupted { .. })), "{objective:?} at {stop_at}");
        }
        TinyWorld::new().distil(&config(objective, UPDATES), folder.path(), &mut |_| Ok(false)).unwrap();
        assert_eq!(hash(folder.path()), expected_hash, "{objective:?}");
        assert_eq!(log(folder.path()), expected_log, "{objective:?}");
        assert!(!folder.path().join("checkpoint").exists());
    }
}

#[test]
fn losing_the_updates_since_the_last_checkpoint_changes_nothing() {
    let (expected_hash, expected_log) = uninterrupted(Objective::Vision, UPDATES);
    let folder = tempfile::tempdir().unwrap();
    for abandon_at in [1, 4, 8, 13] {
        let mut kill = |update| if update == abandon_at { Err(Error::Invalid("killed".into())) } else { Ok(false) };
        let outcome = TinyWorld::new().distil(&config(Objective::Vision, UPDATES), folder.path(), &mut kill);
        assert!(matches!(outcome, Err(Error::Invalid(_))), "at {abandon_at}");
    }
    TinyWorld::new().distil(&config(Objective::Vision, UPDATES), folder.path(), &mut |_| Ok(false)).unwrap();
    assert_eq!(hash(folder.path()), expected_hash);
    assert_eq!(log(folder.path()), expected_log);
}

#[test]
fn a_killed_process_goes_on_to_the_same_weights() {
    const LONG: u64 = 60;
    let (expected_hash, _) = uninterrupted(Objective::Vision, LONG);
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint/state.safetensors");
    for kill in 0..3 {
        let before = std::fs::read(&checkpoint).ok();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "child_process_that_trains_slowly"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while std::fs::read(&checkpoint).ok() == before {
            assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint before kill {kill}");
            assert!(child.try_wait().unwrap().is_none(), "the child ended before kill {kill}");
            std::thread::sleep(Duration::from_millis(5));
        }
        // SIGKILL on Unix: the process gets no chance to save anything.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    TinyWorld::new().distil(&config(Objective::Vision, LONG), folder.path(), &mut |_| Ok(false)).unwrap();
    assert_eq!(hash(folder.path()), expected_hash);
}

#[test]
#[ignore = "the child of `a_killed_process_goes_on_to_the_same_weights`"]
fn child_process_that_trains_slowly() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let mut slowly = |_| {
        std::thread::sleep(Duration::from_millis(60));
        Ok(false)
    };
    TinyWorld::new().distil(&config(Objective::Vision, 60), Path::new(&folder), &mut slowly).unwrap();
}

#[test]
fn a_checkpoint_of_other_settings_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let world = TinyWorld::new();
    world.distil(&config(Objective::Naive, UPDATES), folder.path(), &mut |update| Ok(update == 4)).unwrap_err();
    let path = folder.path().join("checkpoint/state.safetensors");
    let mut checkpoint = scaledown::distill::checkpoint::Checkpoint::load(folder.path()).unwrap().unwrap();
    checkpoint.counters.fingerprint = "another".into();
    checkpoint.save(folder.path()).unwrap();
    world.distil(&config(Objective::Naive, UPDATES), folder.path(), &mut |_| Ok(false)).unwrap();
    assert_eq!(hash(folder.path()), uninterrupted(Objective::Naive, UPDATES).0);
    assert!(!path.exists());
}
