//! Fine-tunes the denoiser at 128 px: the same two phases, shorter, from the weights of the first training. Networks, captions and the
//! range of guidance are those of the first training; what differs is set here.

use serde::{Deserialize, Serialize};

use super::Files;

/// Pixels of a side; also in the names of part and files.
const RESOLUTION: u32 = 128;

/// The files of the fine-tuning.
pub const FILES: Files = Files {
    start: Some(super::FILES.weights),
    weights: "denoiser-128.safetensors",
    checkpoints: ["denoiser-128.safetensors", "guidance-128.safetensors"],
};

/// How the denoiser is fine-tuned; see [`super::Config`] for what the settings mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Sizes of the first training's network, with positions for this resolution.
    pub preset: String,
    /// Distinct scenes, the first ones of the first training; 90 KB each in memory.
    pub scenes: u64,
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    pub decay_share: f64,
    pub guidance_steps: u64,
    /// Start from the fine-tuned weights that are already in the pipeline's folder.
    pub warm_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            preset: "mini-128".into(),
            // Twelve visits of each; twice as many would take 3 GB.
            scenes: 16_384,
            // 192,000 images; two cores made 1.2 updates a second, so three hours. After 2,290 updates (at half of this learning rate, positions a
            // whole step apart) colours and places were right, but shapes coarse and letters not legible. Not run to the end so far.
            steps: 12_000,
            batch: 16,
            // Two thirds of the first training's: what is drawn where is known, but a token shows a quarter of what it showed.
            learning_rate: 8e-4,
            warmup: 50,
            // A long fall: there is little to explore.
            decay_share: 0.5,
            // Half of the first training's: the embedding has been distilled once.
            guidance_steps: 400,
            warm_start: false,
        }
    }
}

impl Config {
    /// All settings of the fine-tuning that follows a training by `first`.
    pub fn after(&self, first: &super::Config) -> super::Config {
        super::Config {
            preset: self.preset.clone(),
            resolution: RESOLUTION,
            scenes: self.scenes,
            steps: self.steps,
            batch: self.batch,
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            decay_share: self.decay_share,
            guidance_steps: self.guidance_steps,
            warm_start: self.warm_start,
            ..first.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::{DType, Device, Tensor};

    use super::super::{Outputs, run};
    use super::*;
    use crate::models::autoencoder::{Autoencoder, AutoencoderConfig};
    use crate::models::clip::{Clip, ClipConfig};
    use crate::models::flux::{Flux, FluxConfig};
    use crate::models::t5::{T5Config, T5Encoder};
    use crate::models::weights::{Weights, read_safetensors};
    use crate::run::context::RunContext;

    /// What `build` asks for, filled at random and written to `path`.
    fn write_random(path: &Path, build: impl Fn(&Weights)) {
        let weights = Weights::trainable(3, Default::default(), DType::F32, &Device::Cpu);
        build(&weights);
        let tensors: std::collections::HashMap<String, Tensor> =
            weights.vars().into_iter().map(|(name, var)| (name, var.as_tensor().clone())).collect();
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    /// A folder with tiny networks, and the settings that fit them.
    fn tiny(root: &Path) -> (RunContext, super::super::Config) {
        let context = RunContext::below(root, "tiny", root.join("pipeline"), 5);
        let config = super::super::Config {
            preset: "smoke".into(),
            text_encoder: "smoke-teacher".into(),
            autoencoder: "smoke".into(),
            clip: "smoke".into(),
            resolution: 16,
            steps: 0,
            guidance_steps: 0,
            batch: 2,
            ..Default::default()
        };
        std::fs::create_dir_all(&context.pipeline).unwrap();
        std::fs::copy("pipelines/mini/tokenizer.json", context.pipeline.join("tokenizer.json")).unwrap();
        let path = |file: &str| context.pipeline.join(file);
        write_random(&path("text-encoder.safetensors"), |w| drop(T5Encoder::new(&T5Config::preset("smoke-teacher").unwrap(), w).unwrap()));
        write_random(&path("clip.safetensors"), |w| drop(Clip::new(&ClipConfig::preset("smoke").unwrap(), w).unwrap()));
        write_random(&path("autoencoder.safetensors"), |w| {
            drop(Autoencoder::new(&AutoencoderConfig::preset("smoke").unwrap(), w).unwrap());
        });
        write_random(&path("denoiser.safetensors"), |w| drop(Flux::new(&FluxConfig::preset("smoke").unwrap(), w).unwrap()));
        (context, config)
    }

    #[test]
    fn without_updates_the_weights_are_those_of_the_first_training() {
        let root = tempfile::tempdir().unwrap();
        let (context, config) = tiny(root.path());
        let Outputs { weights, finished_loss, validation_loss, .. } = run(&config, FILES, &context).unwrap();
        assert_eq!(weights, context.pipeline.join("denoiser-128.safetensors"));
        assert_eq!(finished_loss, validation_loss);
        let first = read_safetensors(&context.pipeline.join("denoiser.safetensors"), &Device::Cpu).unwrap();
        for (name, tensor) in read_safetensors(&weights, &Device::Cpu).unwrap() {
            let rounded = first[&name].to_dtype(DType::F16).unwrap().to_dtype(DType::F32).unwrap();
            let gap = (tensor.to_dtype(DType::F32).unwrap() - rounded).unwrap().abs().unwrap().sum_all().unwrap();
            assert_eq!(gap.to_scalar::<f32>().unwrap(), 0.0, "{name}");
        }
    }

    #[test]
    fn states_of_the_first_training_stay_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let (context, mut config) = tiny(root.path());
        (config.steps, config.guidance_steps) = (1, 1);
        let folder = context.runs.join("bootstrap");
        std::fs::create_dir_all(&folder).unwrap();
        for name in super::super::FILES.checkpoints {
            std::fs::write(folder.join(name), b"another training").unwrap();
        }
        run(&config, FILES, &context).unwrap();
        for name in super::super::FILES.checkpoints {
            assert_eq!(std::fs::read(folder.join(name)).unwrap(), b"another training");
        }
        assert!(FILES.checkpoints.iter().all(|name| folder.join(name).exists()));
    }

    #[test]
    fn a_start_of_another_size_is_an_error_with_its_file() {
        let root = tempfile::tempdir().unwrap();
        let (context, config) = tiny(root.path());
        let start = context.pipeline.join("denoiser.safetensors");
        std::fs::copy(context.pipeline.join("clip.safetensors"), &start).unwrap();
        let error = run(&config, FILES, &context).unwrap_err().to_string();
        assert!(error.contains("denoiser.safetensors") && error.contains("is missing") && error.contains("`smoke`"), "{error}");
    }

    #[test]
    fn networks_and_guidance_are_those_of_the_first_training() {
        let first = super::super::Config { text_encoder: "other".into(), guidance_range: (2.0, 3.0), steps: 7, ..Default::default() };
        let found = Config::default().after(&first);
        assert_eq!((found.text_encoder.as_str(), found.guidance_range), ("other", (2.0, 3.0)));
        let (sizes, here) = (FluxConfig::preset(&first.preset).unwrap(), FluxConfig::preset(&found.preset).unwrap());
        assert_eq!(FluxConfig { position_step: 1.0, ..here.clone() }, sizes);
        assert_eq!(here.position_step * f64::from(found.resolution), sizes.position_step * f64::from(first.resolution));
        assert_eq!((found.resolution, found.steps, found.batch, found.scenes), (128, 12_000, 16, 16_384));
    }
}
