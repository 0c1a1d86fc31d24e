//! Published models that are incomplete, damaged or of another kind: one clear message each, with what to do, and nothing loaded.

mod program;

use std::path::{Path, PathBuf};

use program::Place;
use scaledown::error::{Error, Result};
use scaledown::models::teacher::{FolderConfig, TeacherConfig};

/// A copy of one of the tiny models, to be damaged.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn copy(name: &str) -> Self {
        let model = Self { folder: tempfile::tempdir().unwrap() };
        let source = Path::new("tests/fixtures/pipelines").join(name);
        copy(&source, model.folder.path());
        model
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.path(file)).unwrap();
    }

    /// Replaces text in a file that must have it.
    fn edit(&self, file: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.bytes(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from}");
        self.write(file, text.replace(from, to).as_bytes());
    }

    fn teacher(&self) -> TeacherConfig {
        let config: FolderConfig = serde_json::from_value(serde_json::json!({ "folder": self.folder.path() })).unwrap();
        TeacherConfig::Folder(config)
    }

    fn load_text_encoder(&self) -> Result<()> {
        self.teacher().load_text_encoder(Path::new(""), 1).map(drop)
    }

    fn load_denoiser(&self) -> Result<()> {
        self.teacher().load_denoiser(Path::new(""), 1).map(drop)
    }

    fn load_prompts(&self) -> Result<()> {
        self.teacher().load_prompts(Path::new(""), 1).map(drop)
    }

    fn load_autoencoder(&self) -> Result<()> {
        self.teacher().load_autoencoder(Path::new(""), 1).map(drop)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// Checks that the message has every word, that it is one line, and that there is a hint.
#[track_caller]
fn refused(outcome: Result<()>, words: &[&str]) -> Error {
    let error = outcome.unwrap_err();
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
    assert!(!text.contains('\n') && error.hint().is_some_and(|hint| !hint.is_empty()), "{error:?}");
    error
}

#[test]
fn all_three_models_load_before_they_are_damaged() {
    for name in ["flux", "sd3", "pixart"] {
        let model = Model::copy(name);
        model.load_text_encoder().unwrap();
        model.load_denoiser().unwrap();
        model.load_prompts().unwrap();
        model.load_autoencoder().unwrap();
        assert!(model.teacher().files(Path::new("")).iter().all(|file| file.exists()));
    }
}

#[test]
fn a_missing_shard_is_named() {
    let model = Model::copy("sd3");
    model.remove("transformer/diffusion_pytorch_model-00002-of-00002.safetensors");
    let error = refused(model.load_denoiser(), &["diffusion_pytorch_model-00002-of-00002.safetensors", "safetensors.index.json"]);
    assert!(error.hint().unwrap().contains("fetch the missing file"));
}

#[test]
fn a_shard_without_a_promised_tensor_is_named_with_the_tensor() {
    let model = Model::copy("sd3");
    let index = "text_encoder_3/model.safetensors.index.json";
    model.edit(index, "\"shared.weight\":", "\"shared.other\":");
    refused(model.load_text_encoder(), &["`shared.other`", "model-0000", "model.safetensors.index.json"]);
}

#[test]
fn an_index_may_not_name_files_elsewhere() {
    let model = Model::copy("sd3");
    model.edit("text_encoder_3/model.safetensors.index.json", "model-00001-of-00002.safetensors", "../model-00001-of-00002.safetensors");
    refused(model.load_text_encoder(), &["is not the name of a file beside it"]);
}

#[test]
fn weights_in_half_precision_are_taken_where_there_are_no_others() {
    let model = Model::copy("flux");
    let file = |variant: &str| format!("transformer/diffusion_pytorch_model{variant}.safetensors");
    let bytes = model.bytes(&file(""));
    model.write(&file(".fp16"), &bytes);
    model.remove(&file(""));
    model.load_denoiser().unwrap();
    // Beside full precision they are not even opened.
    model.write(&file(""), &bytes);
    model.write(&file(".fp16"), b"");
    model.load_denoiser().unwrap();
}

#[test]
fn a_file_that_is_cut_off_says_how_long_it_is_and_should_be() {
    let model = Model::copy("flux");
    let file = "transformer/diffusion_pytorch_model.safetensors";
    let bytes = model.bytes(file);
    model.write(file, &bytes[..bytes.len() - 100]);
    let (found, expected) = (format!("{} bytes", bytes.len() - 100), bytes.len().to_string());
    refused(model.load_denoiser(), &[file.rsplit('/').next().unwrap(), &found, &expected, "cut off"]);
    model.write(file, &bytes[..5]);
    refused(model.load_denoiser(), &["5 bytes, fewer than a header"]);
}

#[test]
fn a_header_of_two_to_the_sixty_bytes_allocates_nothing() {
    let model = Model::copy("flux");
    let file = "vae/diffusion_pytorch_model.safetensors";
    let mut bytes = model.bytes(file);
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    model.write(file, &bytes);
    refused(model.load_autoencoder(), &["header claims 1152921504606846976 bytes", "vae"]);
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both() {
    let model = Model::copy("flux");
    model.edit("text_encoder_2/config.json", "\"d_ff\": 40", "\"d_ff\": 48");
    let error = refused(model.load_text_encoder(), &["DenseReluDense", "[40, 20]", "[48, 20]", "model.safetensors"]);
    assert!(error.hint().unwrap().contains("config.json"));
}

#[test]
fn a_tensor_that_nobody_takes_and_one_that_is_missing_are_named() {
    let model = Model::copy("pixart");
    // One block less takes fewer tensors, one more asks for others.
    model.edit("transformer/config.json", "\"num_layers\": 2", "\"num_layers\": 1");
    refused(model.load_denoiser(), &["`transformer_blocks.1.", "not used"]);
    model.edit("transformer/config.json", "\"num_layers\": 1", "\"num_layers\": 3");
    refused(model.load_denoiser(), &["`transformer_blocks.2.", "missing"]);
}

#[test]
fn a_configuration_that_is_not_known_names_file_key_and_value() {
    let cases = [
        (
            "pixart",
            "transformer/config.json",
            "\"use_additional_conditions\": false",
            "\"use_additional_conditions\": true",
            "`use_additional_conditions` is true",
        ),
        (
            "pixart",
            "transformer/config.json",
            "\"dropout\": 0.0",
            "\"dropout\": 0.0, \"qk_norm\": \"rms_norm\"",
            "`qk_norm` is \"rms_norm\"",
        ),
        ("sd3", "transformer/config.json", "\"qk_norm\": null", "\"qk_norm\": \"rms_norm\"", "`qk_norm` is \"rms_norm\""),
        ("sd3", "transformer/config.json", "\"patch_size\": 2", "\"patch_size\": 4", "`patch_size` is 4"),
        ("flux", "transformer/config.json", "\"num_layers\": 1", "\"num_layers\": \"one\"", "`num_layers`"),
    ];
    for (name, file, from, to, message) in cases {
        let model = Model::copy(name);
        model.edit(file, from, to);
        refused(model.load_denoiser(), &[file, message]);
    }
    let model = Model::copy("flux");
    model.edit("text_encoder_2/config.json", "gated-gelu", "relu");
    refused(model.load_text_encoder(), &["text_encoder_2/config.json", "`feed_forward_proj`", "gated-gelu"]);
    let model = Model::copy("flux");
    model.edit("text_encoder/config.json", "quick_gelu", "mish");
    refused(model.load_prompts(), &["text_encoder/config.json", "`hidden_act` is mish"]);
}

#[test]
fn parts_of_different_models_are_told_apart_by_their_configurations() {
    let geometry = |model: &Model| model.teacher().geometry(Path::new("")).map(drop);
    let model = Model::copy("sd3");
    geometry(&model).unwrap();
    model.edit("vae/config.json", "\"latent_channels\": 4", "\"latent_channels\": 16");
    refused(geometry(&model), &["reads 4 channels of latents, vae makes 16"]);
    let model = Model::copy("sd3");
    model.edit("text_encoder_3/config.json", "\"d_model\": 60", "\"d_model\": 64");
    refused(geometry(&model), &["reads 60 numbers for each token of text, T5 makes 64"]);
}

#[test]
fn a_pipeline_of_another_class_and_parts_that_are_not_there_are_named() {
    let model = Model::copy("flux");
    model.edit("model_index.json", "FluxPipeline", "CogView4Pipeline");
    refused(
        model.load_denoiser(),
        &["model_index.json", "CogView4Pipeline", "FluxPipeline, StableDiffusion3Pipeline, PixArtAlphaPipeline"],
    );

    let model = Model::copy("sd3");
    std::fs::remove_dir_all(model.path("vae")).unwrap();
    refused(model.load_autoencoder(), &["`vae`"]);
    model.edit("model_index.json", "T5EncoderModel", "GemmaModel");
    refused(model.load_text_encoder(), &["`text_encoder_3` is GemmaModel", "T5EncoderModel"]);

    let model = Model::copy("flux");
    for file in ["vocab.json", "merges.txt"] {
        let bytes = model.bytes(&format!("tokenizer/{file}"));
        model.remove(&format!("tokenizer/{file}"));
        refused(model.load_prompts(), &["a tokenizer", "tokenizer"]);
        model.write(&format!("tokenizer/{file}"), &bytes);
    }
    model.write("tokenizer/merges.txt", b"#version: 0.2\na b c\n");
    refused(model.load_prompts(), &["merges.txt", "line 2"]);

    let model = Model::copy("pixart");
    model.write("tokenizer/spiece.model", b"\x0a\xff\xff");
    refused(model.load_prompts(), &["spiece.model", "sentencepiece"]);
    model.remove("text_encoder/model.safetensors");
    model.write("text_encoder/pytorch_model.bin", b"");
    let error = refused(model.load_text_encoder(), &["weights", "text_encoder"]);
    assert!(error.hint().unwrap().contains("safe_serialization"));
}

#[test]
fn the_program_says_what_to_do_and_writes_nothing() {
    let text = |folder: &str| format!("seed = 1\n[data]\n[teacher]\nfolder = {folder:?}\n[generate]\nsteps = 2\n");
    let place = Place::with(&text("nowhere"));
    let painted = |place: &Place| place.run(&["generate", "--prompt", "a cat", "--out", "out"]);
    painted(&place).failed(1, &["model_index.json", "file not found", "[teacher] folder"]);
    // A setting that belongs to the model's own files.
    let model = Model::copy("flux");
    let place = Place::with(&text(model.folder.path().to_str().unwrap()).replace("steps = 2", "steps = 2\nshift = \"sd3\""));
    painted(&place).failed(2, &["`shift` is set", "scheduler_config.json", "remove `shift`"]);
    assert!(!place.path("out").exists());
    // Noise of another size.
    let place = Place::with(&text(model.folder.path().to_str().unwrap()));
    let latents = Path::new("tests/fixtures/pipelines/flux.safetensors").canonicalize().unwrap();
    let arguments = ["generate", "--prompt", "a cat", "--latents", latents.to_str().unwrap(), "--out", "out"];
    place.run(&arguments).failed(2, &["initial noise has shape [2, 16, 64]", "resolution"]);
    assert!(!place.path("out").exists());
}
