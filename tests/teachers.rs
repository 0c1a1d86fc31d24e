//! Distillation from whole published models of every family, tiny and random: the loss falls, an interrupted trajectory goes on as if it
//! had not been, and students generate through the same folder.

mod program;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use program::Place;
use scaledown::diffusion::latents::LatentShape;
use scaledown::diffusion::schedule::Shift;
use scaledown::diffusion::scheduler::Scheduler;
use scaledown::distill::checkpoint::Checkpoint;
use scaledown::distill::trajectory::{PoolPrompt, PromptOrder};
use scaledown::distill::{self, Config, Frozen, Identity, Stop};
use scaledown::error::{Error, Result};
use scaledown::models::card::{STUDENT_WEIGHTS, StudentCard};
use scaledown::models::student::{Student, StudentConfig};
use scaledown::models::t5::{Padding, T5Config};
use scaledown::models::teacher::{FolderConfig, Teacher, TeacherConfig};
use scaledown::models::weights::Weights;
use scaledown::run::results::TrainLogRow;
use scaledown::run::{files, rng};

/// Prompts to over-fit.
const PROMPTS: &str = "a red cube left of a blue sphere\nthree green cones\n";

fn model(name: &str) -> PathBuf {
    Path::new("tests/fixtures/pipelines").canonicalize().unwrap().join(name)
}

/// A pipeline with the model `name` and one student with the settings `student`.
fn place(name: &str, token_length: usize, student: &str) -> Place {
    let place = Place::with(&format!(
        "seed = 3\n\
         [[data.file]]\ndataset = \"laion\"\npath = \"prompts.txt\"\nlicence = \"MIT\"\ncategory = \"all\"\nsplit = \"train\"\n\
         [teacher]\nfolder = {:?}\nresolution = 16\ntoken_length = {token_length}\n\
         [[student]]\nname = \"tiny\"\npreset = \"smoke-base\"\nbatch = 2\nsteps = 4\nprojection_hidden = 64\ndropout = 0.0\n\
         datasets = [{{ dataset = \"laion\" }}]\nguidance = [4.0]\noptimiser = {{ learning_rate = 5e-3 }}\ncheckpoint_every = 1000\n{student}\n\
         [generate]\nsteps = 2\nguidance = 4.0\n",
        model(name).to_str().unwrap()
    ));
    place.write("datasets/prompts.txt", PROMPTS.as_bytes());
    place.run(&["build-data"]).succeeded();
    place
}

/// The mean loss of the first and the last fifth of the training.
fn first_and_last(place: &Place) -> (f64, f64) {
    let log = TrainLogRow::read(&place.path("runs/small/distill/tiny/train-log.parquet"), "").unwrap();
    let mean = |rows: &[TrainLogRow]| rows.iter().map(|row| row.loss).sum::<f64>() / rows.len() as f64;
    let fifth = log.len() / 5;
    (mean(&log[..fifth]), mean(&log[log.len() - fifth..]))
}

fn the_loss_falls(name: &str, student: &str) -> StudentCard {
    let place = place(name, 24, student);
    place.run(&["distill"]).succeeded();
    let (first, last) = first_and_last(&place);
    println!("{name}, {student:?}: {first:.3e} -> {last:.3e}");
    assert!(last < 0.7 * first, "{name}, {student:?}: {first} -> {last}");
    // The student works in the place of the teacher's T5, by name and by folder.
    let home = "runs/small/distill/tiny";
    for encoder in ["tiny", home] {
        let ran = place.run(&["generate", "--prompt", "a red cube", "--encoder", encoder, "--out", "out", "--save-steps"]).succeeded();
        assert_eq!(ran.stdout.trim(), "out/0001.png");
    }
    let written: Vec<PathBuf> = place.contents("out").into_keys().collect();
    let names: Vec<String> = written.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["0001-step-01.png", "0001-step-02.png", "0001.png", "images.json"]);
    StudentCard::read(&place.path(home)).unwrap()
}

#[test]
fn distillation_from_flux_in_a_folder() {
    let card = the_loss_falls("flux", "updates = 80");
    assert_eq!((card.teacher.as_str(), card.token_length, card.text_width, card.padding), ("T5 of flux", 24, 20, Padding::Seen));
}

#[test]
fn distillation_from_stable_diffusion_3() {
    assert_eq!(the_loss_falls("sd3", "updates = 80").text_width, 60);
}

#[test]
fn distillation_from_stable_diffusion_3_by_guided_predictions() {
    the_loss_falls("sd3", "updates = 80\nguided = true");
}

#[test]
fn distillation_from_pixart() {
    assert_eq!(the_loss_falls("pixart", "updates = 80").padding, Padding::Masked);
}

#[test]
fn naive_distillation_from_pixart_counts_the_tokens_that_are_seen() {
    the_loss_falls("pixart", "updates = 80\nobjective = \"naive\"");
}

#[test]
fn guided_predictions_of_a_teacher_without_them_are_refused() {
    let place = place("flux", 24, "updates = 8\nguided = true");
    place.run(&["distill"]).failed(2, &["`tiny`", "guided is true", "remove `guided`"]);
}

#[test]
fn doctor_lists_the_parts_of_a_model_with_their_sizes_and_what_is_missing() {
    let place = place("sd3", 24, "updates = 8");
    let report = place.command(&["doctor"]).output().unwrap();
    let text = String::from_utf8(report.stdout).unwrap();
    assert!(text.contains("StableDiffusion3Pipeline") && !text.contains("missing ("), "{text}");
    for part in ["memory: ", "disk: ", "text_encoder: ", "text_encoder_3: ", "transformer: ", "vae: ", "tokenizer_2: ", "scheduler: "] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(part) && line.contains('B')), "{part} in {text}");
    }
    place.write("pipelines/small.toml", b"seed = 1\n[data]\n[teacher]\nfolder = \"half\"\n");
    place.write("pipelines/half/model_index.json", &std::fs::read(model("pixart").join("model_index.json")).unwrap());
    let text = String::from_utf8(place.command(&["doctor"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("transformer: missing (") && text.contains("PixArtAlphaPipeline"), "{text}");
}

/// Trains a student of the tiny PixArt into `folder` until `stop` says so.
fn distil_pixart(folder: &Path, stop: &mut Stop) -> Result<StudentCard> {
    let file = FolderConfig { token_length: Some(12), ..serde_json::from_value(serde_json::json!({ "folder": model("pixart") })).unwrap() };
    let config = TeacherConfig::Folder(file);
    let teacher = Teacher::load(&config, Path::new(""), 1)?;
    let empty = teacher.empty()?;
    let frozen = Frozen {
        conditioner: &|prompts| teacher.condition(prompts),
        denoiser: Some(teacher.denoiser.as_ref()),
        empty: empty.as_ref(),
        scheduler: Scheduler::of(&config, Path::new(""), Shift::default())?,
        shape: LatentShape { channels: 4, height: 8, width: 8 },
    };
    let settings: Config = toml::from_str(
        "name = \"tiny\"\npreset = \"smoke-base\"\nupdates = 7\nbatch = 2\nsteps = 4\nguided = true\ndatasets = [{ dataset = \"laion\" }]",
    )
    .unwrap();
    let sizes = StudentConfig { encoder: T5Config::preset(&settings.preset)?, projection_hidden: 32, text_width: 20, dropout: 0.1 };
    let student = Student::new(&sizes, &Weights::initial(5, DType::F32, &Device::Cpu))?;
    let pool = PROMPTS.lines().map(|prompt| PoolPrompt { prompt_id: rng::text_id(prompt), prompt: prompt.into() });
    let mut order = PromptOrder::new(pool.collect(), 1)?;
    let identity = Identity { seed: 1, fingerprint: "tiny".into(), teacher: ("tiny".into(), 1), token_length: 12, unchanged: None };
    distill::distil(&settings, &identity, student, &frozen, &mut order, folder, stop)
}

/// PixArt's solver needs the prediction before the last; a checkpoint in the middle of a trajectory keeps it.
#[test]
fn an_interrupted_trajectory_of_the_second_order_goes_on_bit_for_bit() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    distil_pixart(whole.path(), &mut |_| Ok(false)).unwrap();
    let stopped = distil_pixart(cut.path(), &mut |update| Ok(update == 3));
    assert!(matches!(stopped, Err(Error::Interrupted { .. })));
    assert!(Checkpoint::load(cut.path()).unwrap().unwrap().trajectory.unwrap().memory.is_some());
    distil_pixart(cut.path(), &mut |_| Ok(false)).unwrap();
    let hash = |folder: &Path| files::sha256_file(&folder.join(STUDENT_WEIGHTS)).unwrap();
    assert_eq!(hash(whole.path()), hash(cut.path()));
}
