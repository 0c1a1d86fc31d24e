//! Whole published models against diffusers' own pipelines: tiny random ones in the folders that `save_pretrained` writes, made by
//! `reference/pipelines.py`. One test is one row of docs/parity.md; `--nocapture` prints what it measured.

mod program;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use program::Place;
use scaledown::models::safetensors_file;
use scaledown::models::teacher::{FolderConfig, Teacher, TeacherConfig};

/// f32 on both sides, summed in different orders through a few blocks.
const CALL: f64 = 1e-4;

/// The folder of a model, absolute.
fn folder(name: &str) -> PathBuf {
    Path::new("tests/fixtures/pipelines").canonicalize().unwrap().join(name)
}

fn expected(name: &str, tensor: &str) -> Tensor {
    let path = folder(&format!("{name}.safetensors"));
    safetensors_file::read(&path, &Device::Cpu).unwrap().remove(tensor).unwrap()
}

fn prompts() -> Vec<String> {
    serde_json::from_str(&std::fs::read_to_string(folder("prompts.json")).unwrap()).unwrap()
}

fn teacher(name: &str) -> Teacher {
    let config: FolderConfig = serde_json::from_value(serde_json::json!({ "folder": folder(name) })).unwrap();
    Teacher::load(&TeacherConfig::Folder(config), Path::new(""), 1).unwrap()
}

fn close(row: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.dims(), expected.dims(), "{row}");
    let norm =
        |x: &Tensor| x.to_dtype(candle_core::DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    assert!(norm(expected) > 1e-3, "{row}: the reference is zero");
    let error = norm(&(found - expected).unwrap()) / norm(expected);
    println!("{row}: {error:.1e}");
    assert!(error <= CALL, "{row}: relative error {error:e}, at most {CALL:e} is allowed");
}

fn same_ids(row: &str, found: &Tensor, expected: &Tensor) {
    let (found, expected) = (found.to_vec2::<u32>().unwrap(), expected.to_vec2::<u32>().unwrap());
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(found, expected, "{row}, prompt {i}");
    }
    assert_eq!(found.len(), expected.len(), "{row}");
}

/// Ids of all prompts by every tokenizer of a model; `clips` are the fixture's names.
fn token_ids(name: &str, clips: &[&str]) {
    let (teacher, prompts) = (teacher(name), prompts());
    same_ids(&format!("{name}, T5"), &teacher.ids(&prompts).unwrap(), &expected(name, "ids.t5"));
    for (i, clip) in clips.iter().enumerate() {
        let found = teacher.prompts.clip_ids(i, &prompts).unwrap().unwrap();
        same_ids(&format!("{name}, {clip}"), &found, &expected(name, &format!("ids.{clip}")));
    }
}

#[test]
fn token_ids_of_flux() {
    token_ids("flux", &["clip"]);
}

#[test]
fn token_ids_of_sd3() {
    token_ids("sd3", &["clip", "clip_2"]);
}

#[test]
fn token_ids_of_pixart() {
    token_ids("pixart", &[]);
}

#[test]
fn flux_text() {
    let condition = teacher("flux").condition(&prompts()).unwrap();
    close("Flux, T5", &condition.teacher_text.narrow(1, 0, 40).unwrap(), &expected("flux", "text"));
    close("Flux, pooled", &condition.shared.pooled, &expected("flux", "pooled"));
}

/// What the fixture has of Stable Diffusion 3's text: CLIP's 77 tokens and 40 of T5's, and the pooled text.
fn sd3_text() -> (Tensor, Tensor) {
    let condition = teacher("sd3").condition(&prompts()).unwrap();
    let full = condition.shared.full_text(&condition.teacher_text).unwrap();
    assert_eq!(full.dims(), [5, 77 + 256, 60]);
    (full.narrow(1, 0, 77 + 40).unwrap(), condition.shared.pooled)
}

#[test]
fn sd3_text_of_both_clips_and_t5() {
    let (text, pooled) = sd3_text();
    close("SD3, text", &text, &expected("sd3", "text"));
    close("SD3, pooled", &pooled, &expected("sd3", "pooled"));
    // CLIP's text is 56 wide; zeros fill it up.
    assert_eq!(text.narrow(1, 0, 77).unwrap().narrow(2, 56, 4).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

/// The second CLIP alone, 32 wide after the first's 24: another activation, the hidden states before its last layer, a projection.
#[test]
fn sd3_text_of_the_second_clip() {
    let (text, pooled) = sd3_text();
    let second = |text: &Tensor| text.narrow(1, 0, 77).unwrap().narrow(2, 24, 32).unwrap();
    close("bigG, hidden states", &second(&text), &second(&expected("sd3", "text")));
    let second = |pooled: &Tensor| pooled.narrow(1, 24, 32).unwrap();
    close("bigG, pooled", &second(&pooled), &second(&expected("sd3", "pooled")));
}

#[test]
fn pixart_text_and_mask() {
    let condition = teacher("pixart").condition(&prompts()).unwrap();
    close("PixArt, T5", &condition.teacher_text, &expected("pixart", "text"));
    close("PixArt, mask", &condition.shared.text_mask.unwrap(), &expected("pixart", "mask"));
}

/// The images of `scaledown generate --prompt … --latents …` against the pipeline's: mean absolute difference in units of 1/255.
fn images(name: &str, guidance: f64) {
    images_with(name, name, guidance, "", &[]);
}

/// The images of the model `model` with further lines of [teacher] and further options against those of the fixture `name`.
fn images_with(name: &str, model: &str, guidance: f64, lines: &str, options: &[&str]) {
    let (model, latents) = (folder(model), folder(&format!("{name}.safetensors")));
    let pipeline = format!(
        "seed = 1\n[data]\n[generate]\nsteps = 4\nguidance = {guidance:?}\n[teacher]\nfolder = {:?}\nresolution = 16\n{lines}",
        model.to_str().unwrap()
    );
    let place = Place::with(&pipeline);
    let prompts = prompts();
    let arguments = ["generate", "--prompt", &prompts[0], "--prompt", &prompts[1], "--latents", latents.to_str().unwrap(), "--out", "out"];
    let ran = place.run(&[&arguments, options].concat()).succeeded();
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), ["out/0001.png", "out/0002.png"]);
    let expected = expected(name, "image");
    for (i, file) in ["out/0001.png", "out/0002.png"].into_iter().enumerate() {
        let image = image::load_from_memory(&place.read(file)).unwrap().to_rgb8();
        let pixels = expected.get(i).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(pixels.len(), image.as_raw().len());
        let differences =
            image.as_raw().iter().zip(&pixels).map(|(&found, &expected)| (f64::from(found) - 255.0 * f64::from(expected)).abs());
        let mean = differences.sum::<f64>() / pixels.len() as f64;
        println!("{name}, image {}: {mean:.2}/255", i + 1);
        assert!(mean < 1.0, "{name}, image {}: mean absolute difference {mean}/255", i + 1);
    }
}

#[test]
fn flux_image_from_its_folder() {
    images("flux", 3.5);
}

#[test]
fn flux_image_under_a_lora() {
    let lora = folder("lora.safetensors");
    images_with("lora_images", "flux", 3.5, &format!("lora = [{{ file = {:?}, scale = 0.8 }}]\n", lora.to_str().unwrap()), &[]);
}

#[test]
fn flux_image_under_a_control_net() {
    let (net, image) = (folder("controlnet"), format!("depth={}", folder("control.png").display()));
    let options = ["--control-net", net.to_str().unwrap(), "--control", &image, "--control-scale", "0.6"];
    images_with("control_images", "flux", 3.5, "", &options);
}

#[test]
fn sd3_image_from_its_folder() {
    images("sd3", 5.0);
}

#[test]
fn pixart_image_from_its_folder() {
    images("pixart", 4.5);
}
