//! Every network of the generation side against its reference implementation: fixtures were made by `reference/*.py` from the
//! reference's own classes, with every weight random. One test is one row of docs/parity.md; `--nocapture` prints what it measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use scaledown::diffusion::latents::{LatentShape, pack, unpack};
use scaledown::diffusion::sampler::{Conditions, euler_step, sample, sample_by_noise};
use scaledown::diffusion::schedule::{Shift, flow_times};
use scaledown::diffusion::variance::{Solver, VarianceSteps};
use scaledown::models::autoencoder::{Autoencoder, AutoencoderConfig};
use scaledown::models::clip::{Clip, ClipConfig, TowerConfig};
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::guidance::{Guided, Negative};
use scaledown::models::pixart::{PixArt, PixArtConfig};
use scaledown::models::sd3::{Sd3, Sd3Config};
use scaledown::models::t5::{Padding, T5Config, T5Encoder};
use scaledown::models::tokenizer::Tokenizer;
use scaledown::models::weights::{Weights, read_safetensors};
use scaledown::models::{Denoiser, DenoiserInput, TextEncoder, layout};

/// f32 on both sides, summed in different orders through a few blocks.
const CALL: f64 = 1e-4;
/// A gradient passes every block twice, a trajectory four times.
const CHAIN: f64 = 1e-3;

/// Denoising steps of every whole generation.
const STEPS: usize = 4;

struct Fixture {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Fixture {
    fn read(name: &str) -> Self {
        let path = Path::new("tests/fixtures").join(format!("{name}.safetensors"));
        let tensors = read_safetensors(&path, &Device::Cpu).unwrap();
        Self { path, tensors }
    }

    fn get(&self, name: &str) -> Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no `{name}`", self.path.display())).clone()
    }

    fn weights(&self) -> Weights {
        let named = self.tensors.iter().filter_map(|(name, value)| Some((name.strip_prefix("weights.")?.to_owned(), value.clone())));
        Weights::from_tensors(named.collect(), &self.path, DType::F32, &Device::Cpu)
    }

    /// The network that `make` builds from the fixture's weights, all of which it must take.
    fn network<N>(&self, make: impl FnOnce(&Weights) -> scaledown::error::Result<N>) -> N {
        let weights = self.weights();
        let network = make(&weights).unwrap();
        weights.finish().unwrap();
        network
    }

    /// The input of one denoiser call.
    fn input(&self) -> DenoiserInput {
        let of = |name: &str| self.tensors.get(&format!("input.{name}")).cloned();
        let (latents, time) = (of("latents").unwrap(), of("time").unwrap());
        DenoiserInput {
            latents: if latents.rank() == 4 { pack(&latents).unwrap() } else { latents },
            guidance: of("guidance").unwrap_or_else(|| time.ones_like().unwrap()),
            pooled: of("pooled").unwrap_or_else(|| Tensor::zeros((2, 1), DType::F32, &Device::Cpu).unwrap()),
            text_mask: of("mask"),
            time,
        }
    }

    fn conditions(&self) -> Conditions {
        let DenoiserInput { pooled, text_mask, .. } = self.input();
        Conditions { pooled, guidance: self.get("generation.guidance").repeat(2).unwrap(), text_mask }
    }

    fn negative(&self) -> Negative {
        let of = |name: &str| self.tensors.get(&format!("generation.negative_{name}")).cloned();
        let pooled = of("pooled").unwrap_or_else(|| Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap());
        Negative { text: of("text").unwrap(), pooled, text_mask: of("mask") }
    }
}

/// Checks that `found` is `expected` up to `tolerance`, relative to the size of all of it.
fn close(row: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{row}");
    let norm = |x: &Tensor| x.to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    assert!(norm(expected) > 1e-3, "{row}: the reference is zero");
    let error = norm(&(found - expected).unwrap()) / norm(expected);
    println!("{row}: {error:.1e}");
    assert!(error <= tolerance, "{row}: relative error {error:e}, at most {tolerance:e} is allowed");
}

/// The gradient of the mean square of the denoiser's prediction.
fn gradient(denoiser: &dyn Denoiser, input: &DenoiserInput, text: &Tensor) -> Tensor {
    let (prediction, _) = denoiser.velocity_with_pullback(input, text).unwrap();
    denoiser.loss_and_text_gradient(input, text, &prediction.zeros_like().unwrap()).unwrap().1
}

#[test]
fn token_ids() {
    let fixture: serde_json::Value = serde_json::from_str(&std::fs::read_to_string("tests/fixtures/token_ids.json").unwrap()).unwrap();
    let prompts: Vec<String> = serde_json::from_value(fixture["prompts"].clone()).unwrap();
    let expected: Vec<Vec<u32>> = serde_json::from_value(fixture["ids"].clone()).unwrap();
    let length = fixture["length"].as_u64().unwrap() as usize;
    let tokenizer = Tokenizer::load(Path::new("pipelines/mini/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.encode(&prompts, length).unwrap().to_vec2::<u32>().unwrap(), expected);
}

fn t5(fixture: &Fixture) -> T5Encoder {
    let config = T5Config {
        vocab_size: 32,
        d_model: 24,
        d_kv: 8,
        d_ff: 40,
        num_layers: 2,
        num_heads: 3,
        ..T5Config::preset("t5-v1.1-small").unwrap()
    };
    fixture.network(|weights| T5Encoder::new(&config, weights))
}

#[test]
fn t5_text_embedding() {
    let fixture = Fixture::read("t5");
    close("T5, padding seen", &t5(&fixture).encode(&fixture.get("ids")).unwrap(), &fixture.get("embedding"), CALL);
}

#[test]
fn t5_text_embedding_with_masked_padding() {
    let fixture = Fixture::read("t5");
    let mut t5 = t5(&fixture);
    t5.padding = Padding::Masked;
    close("T5, padding masked", &t5.encode(&fixture.get("ids")).unwrap(), &fixture.get("masked"), CALL);
}

fn clip(fixture: &Fixture) -> Clip {
    let config = ClipConfig {
        text: TowerConfig { width: 24, layers: 2, heads: 3 },
        vision: TowerConfig { width: 32, layers: 2, heads: 4 },
        vocab_size: 30,
        positions: 9,
        end_id: 29,
        image_size: 16,
        patch_size: 4,
        embed_dim: 20,
        ..ClipConfig::preset("clip-vit-large-patch14").unwrap()
    };
    fixture.network(|weights| Clip::new(&config, weights))
}

#[test]
fn clip_pooled_text() {
    let fixture = Fixture::read("clip");
    close("CLIP, pooled text", &clip(&fixture).text_pooled(&fixture.get("ids")).unwrap(), &fixture.get("pooled"), CALL);
}

#[test]
fn clip_embeddings() {
    let fixture = Fixture::read("clip");
    let clip = clip(&fixture);
    close("CLIP, text", &clip.text_embeds(&fixture.get("ids")).unwrap(), &fixture.get("text_embeds"), CALL);
    close("CLIP, image", &clip.image_embeds(&fixture.get("images")).unwrap(), &fixture.get("image_embeds"), CALL);
}

fn flux(fixture: &Fixture) -> Flux {
    let config = FluxConfig {
        vec_in_dim: 12,
        context_in_dim: 20,
        hidden_size: 24,
        num_heads: 2,
        depth: 1,
        depth_single_blocks: 1,
        axes_dim: vec![4, 4, 4],
        ..FluxConfig::preset("flux-dev").unwrap()
    };
    fixture.network(|weights| Flux::new(&config, weights))
}

#[test]
fn flux_denoiser_call() {
    let fixture = Fixture::read("flux_generation");
    let found = flux(&fixture).velocity(&fixture.input(), &fixture.get("input.text")).unwrap();
    close("Flux, call", &found, &fixture.get("output"), CALL);
}

#[test]
fn flux_text_gradient() {
    let fixture = Fixture::read("flux_generation");
    let found = gradient(&flux(&fixture), &fixture.input(), &fixture.get("input.text"));
    close("Flux, gradient", &found, &fixture.get("text_gradient"), CHAIN);
}

#[test]
fn flux_generation() {
    let fixture = Fixture::read("flux_generation");
    let (noise, text) = (fixture.get("input.latents"), fixture.get("input.text"));
    let times = flow_times(STEPS, noise.dim(1).unwrap(), Shift::Resolution).unwrap();
    let found = sample(&flux(&fixture), &noise, &text, &fixture.conditions(), &times).unwrap();
    close("Flux, generation", &found, &fixture.get("generation.steps").get(STEPS - 1).unwrap(), CHAIN);
}

fn sd3(fixture: &Fixture) -> Sd3 {
    fixture.network(|weights| Sd3::new(&Sd3Config::preset("smoke").unwrap(), weights))
}

#[test]
fn sd3_denoiser_call() {
    let fixture = Fixture::read("sd3");
    let found = sd3(&fixture).velocity(&fixture.input(), &fixture.get("input.text")).unwrap();
    close("SD3, call", &found, &pack(&fixture.get("output")).unwrap(), CALL);
}

#[test]
fn sd3_text_gradient() {
    let fixture = Fixture::read("sd3");
    let found = gradient(&sd3(&fixture), &fixture.input(), &fixture.get("input.text"));
    close("SD3, gradient", &found, &fixture.get("text_gradient"), CHAIN);
}

#[test]
fn sd3_generation() {
    let fixture = Fixture::read("sd3");
    let sd3 = sd3(&fixture);
    let guided = Guided { denoiser: &sd3, negative: fixture.negative() };
    let noise = pack(&fixture.get("generation.noise")).unwrap();
    let times = flow_times(STEPS, noise.dim(1).unwrap(), Shift::Sd3).unwrap();
    let found = sample(&guided, &noise, &fixture.get("input.text"), &fixture.conditions(), &times).unwrap();
    close("SD3, generation", &found, &pack(&fixture.get("generation.steps").get(STEPS - 1).unwrap()).unwrap(), CHAIN);
}

fn pixart(fixture: &Fixture) -> PixArt {
    fixture.network(|weights| PixArt::new(&PixArtConfig::preset("smoke").unwrap(), weights))
}

#[test]
fn pixart_denoiser_call() {
    let fixture = Fixture::read("pixart");
    let found = pixart(&fixture).prediction(&fixture.input(), &fixture.get("input.text")).unwrap();
    close("PixArt, call", &found, &pack(&fixture.get("output")).unwrap(), CALL);
}

#[test]
fn pixart_text_gradient() {
    let fixture = Fixture::read("pixart");
    let found = gradient(&pixart(&fixture), &fixture.input(), &fixture.get("input.text"));
    close("PixArt, gradient", &found, &fixture.get("text_gradient"), CHAIN);
}

fn pixart_generation(solver: Solver, row: &str, expected: &str) {
    let fixture = Fixture::read("pixart");
    let pixart = pixart(&fixture);
    let guided = Guided { denoiser: &pixart, negative: fixture.negative() };
    let (noise, text) = (pack(&fixture.get("generation.noise")).unwrap(), fixture.get("input.text"));
    let steps = VarianceSteps::new(solver, STEPS).unwrap();
    let found = sample_by_noise(&guided, &noise, &text, &fixture.conditions(), steps).unwrap();
    close(row, &found, &pack(&fixture.get(expected).get(STEPS - 1).unwrap()).unwrap(), CHAIN);
}

#[test]
fn pixart_generation_by_dpm_solver() {
    pixart_generation(Solver::DpmSolver, "PixArt, generation, DPM-Solver++", "generation.dpm_solver");
}

#[test]
fn pixart_generation_by_ddim() {
    pixart_generation(Solver::Ddim, "PixArt, generation, DDIM", "generation.ddim");
}

/// Latents after every step under the fixture's predictions, which repeat after the fourth.
fn follow(fixture: &Fixture, steps: usize, mut step: impl FnMut(usize, &Tensor, &Tensor) -> Tensor) -> Tensor {
    let predictions = fixture.get("predictions");
    let mut latents = fixture.get("latents");
    let mut after = Vec::new();
    for i in 0..steps {
        latents = step(i, &latents, &predictions.get(i % predictions.dim(0).unwrap()).unwrap());
        after.push(latents.clone());
    }
    Tensor::stack(&after, 0).unwrap()
}

fn flow_steps(name: &str, shift: Shift) {
    let fixture = Fixture::read("schedulers");
    for steps in [4, 20] {
        let times = flow_times(steps, 1024, shift).unwrap();
        let found = Tensor::new(times.iter().map(|&t| t as f32).collect::<Vec<_>>(), &Device::Cpu).unwrap();
        close(&format!("{name}, {steps} times"), &found, &fixture.get(&format!("{name}_{steps}.sigmas")), CALL);
        let found = follow(&fixture, steps, |i, latents, velocity| euler_step(latents, velocity, times[i], times[i + 1]).unwrap());
        close(&format!("{name}, {steps} steps"), &found, &fixture.get(&format!("{name}_{steps}.after")), CALL);
    }
}

#[test]
fn flow_steps_of_flux() {
    flow_steps("flux", Shift::Resolution);
}

#[test]
fn flow_steps_of_schnell() {
    flow_steps("schnell", Shift::None);
}

#[test]
fn flow_steps_of_sd3() {
    flow_steps("sd3", Shift::Sd3);
}

fn variance_steps(name: &str, solver: Solver) {
    let fixture = Fixture::read("schedulers");
    for steps in [4, 20] {
        let mut trajectory = VarianceSteps::new(solver, steps).unwrap();
        let mut times = Vec::new();
        let found = follow(&fixture, steps, |_, latents, noise| {
            times.push((trajectory.time().unwrap() * 1000.0).round() as f32);
            trajectory.step(latents, noise).unwrap()
        });
        assert_eq!(times, fixture.get(&format!("{name}_{steps}.timesteps")).to_vec1::<f32>().unwrap());
        close(&format!("{name}, {steps} steps"), &found, &fixture.get(&format!("{name}_{steps}.after")), CALL);
    }
}

#[test]
fn steps_of_dpm_solver() {
    variance_steps("dpm_solver", Solver::DpmSolver);
}

#[test]
fn steps_of_ddim() {
    variance_steps("ddim", Solver::Ddim);
}

/// The small autoencoder of a published kind, from weights in diffusers' layout.
fn autoencoder(preset: &str, fixture: &Fixture) -> Autoencoder {
    let published = AutoencoderConfig::preset(preset).unwrap();
    let config = AutoencoderConfig { channels: 8, multipliers: vec![1, 2], residual_blocks: 1, norm_groups: 4, ..published };
    let weights = fixture.weights().in_layout(layout::autoencoder).unwrap();
    let autoencoder = Autoencoder::new(&config, &weights).unwrap();
    weights.finish().unwrap();
    autoencoder
}

fn encodes(preset: &str, name: &str) {
    let fixture = Fixture::read(name);
    let found = autoencoder(preset, &fixture).encode(&fixture.get("images")).unwrap();
    close(&format!("{name}, encode"), &found, &fixture.get("encoded"), CALL);
}

fn decodes(preset: &str, name: &str) {
    let fixture = Fixture::read(name);
    let latents = fixture.get("latents");
    // Through the packing, as generation does.
    let (_, channels, height, width) = latents.dims4().unwrap();
    let latents = unpack(&pack(&latents).unwrap(), LatentShape { channels, height, width }).unwrap();
    close(&format!("{name}, decode"), &autoencoder(preset, &fixture).decode(&latents).unwrap(), &fixture.get("decoded"), CALL);
}

#[test]
fn flux_vae_encodes() {
    encodes("flux-dev", "vae_flux");
}

#[test]
fn flux_vae_decodes() {
    decodes("flux-dev", "vae_flux");
}

#[test]
fn sd3_vae_encodes() {
    encodes("sd3", "vae_sd3");
}

#[test]
fn sd3_vae_decodes() {
    decodes("sd3", "vae_sd3");
}

#[test]
fn sd1_vae_encodes() {
    encodes("sd1", "vae_sd1");
}

#[test]
fn sd1_vae_decodes() {
    decodes("sd1", "vae_sd1");
}
