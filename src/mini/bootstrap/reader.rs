//! Trains the miniature world's reader on renders made to look like generated pictures.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::{D, DType, Device, Tensor};
use image::RgbImage;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::degrade::{Damage, degrade};
use super::trainer::{Task, VarSet, train, warmup_cosine};
use crate::error::Result;
use crate::mini::looks::Look;
use crate::mini::reader::{BOX, CELLS, Ceilings, Outputs as Seen, Reader, SIDE, box_target, cell_of};
use crate::mini::render::render;
use crate::mini::scene::{Kind, Scene, Split};
use crate::models::images::to_tensor;
use crate::models::weights::{Weights, read_safetensors, write_safetensors};
use crate::nn::optim::{AdamW, AdamWConfig};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::rng::{self, below, uniform};

/// How the reader is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub steps: u64,
    pub batch: usize,
    pub learning_rate: f64,
    pub warmup: u64,
    /// Scenes on which the ceilings are measured.
    pub ceiling_scenes: u64,
    /// Start from the weights that are already in the pipeline's folder.
    pub warm_start: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // Nine minutes on one core; nouns are right on nearly all renders long before, covered ones are not.
            steps: 5_000,
            batch: 24,
            learning_rate: 2e-3,
            warmup: 40,
            // The standard error of a share near 0.98 is then 0.5 %.
            ceiling_scenes: 800,
            warm_start: false,
        }
    }
}

/// The written file and what it is worth.
#[derive(Debug, Clone, Serialize)]
pub struct Outputs {
    pub weights: PathBuf,
    pub ceilings: Ceilings,
}

/// Shifts stay below half a cell, so that an object keeps its cell; the rest is what a coarse denoiser does to a picture.
const DAMAGE: Damage = Damage { shift: 3, blur: 1.3, noise: 16.0, colour: 12.0 };

/// One training picture and what it shows, with the shift of its objects in pixels.
struct Sample {
    image: RgbImage,
    scene: Scene,
    shift: [f64; 2],
}

/// A scene in which every combination occurs, also unequal objects at the places of equal ones and, at times, with an object
/// missing: the reader must see each object by itself.
fn any_scene(rng: &mut impl Rng) -> Scene {
    let mut scene = Scene::sample(rng, Split::Train);
    let unequal = uniform(rng) < 0.5;
    let one = Look::any(rng);
    let counted = scene.kind == Kind::Count;
    for object in &mut scene.objects {
        let look = if counted && !unequal { one } else { Look::any(rng) };
        *object = look.at(object.centre, object.size);
    }
    // Of two objects, one of which covers the other, none may go: what is left would not be covered.
    if scene.kind != Kind::Depth && uniform(rng) < 0.15 {
        let gone = below(rng, scene.objects.len());
        scene.objects.remove(gone);
    }
    scene
}

fn sample(seed: u64, item: u64) -> Sample {
    let rng = &mut rng::stream(rng::Key { seed, purpose: "reader scene", item, draw: 0 });
    let scene = any_scene(rng);
    let (image, shift) = degrade(&render(&scene, SIDE as u32), &DAMAGE, rng);
    Sample { image, scene, shift: [shift.x as f64, shift.y as f64] }
}

/// What the cells of a batch should say. Classes of cells without object are 0 and count nothing.
struct Targets {
    /// 1 where an object is: `[B · 64]`
    present: Tensor,
    /// `[B · 64, 4]`
    boxes: Tensor,
    /// Class per cell: `[B · 64, 1]`
    nouns: Tensor,
    finishes: Tensor,
    shapes: Tensor,
    /// In [0, 1]: `[B · 64]`
    nearness: Tensor,
    /// `[B, 1]`
    backgrounds: Tensor,
    n_objects: usize,
}

impl Targets {
    fn new(samples: &[Sample]) -> Result<Self> {
        let n = samples.len() * CELLS * CELLS;
        let (mut present, mut boxes) = (vec![0f32; n], vec![0f32; n * BOX]);
        let (mut nouns, mut finishes, mut shapes) = (vec![0u32; n], vec![0u32; n], vec![0u32; n]);
        let mut nearness = vec![0f32; n];
        for (b, sample) in samples.iter().enumerate() {
            for (i, object) in sample.scene.objects.iter().enumerate() {
                let [x, y] = [object.centre[0] + sample.shift[0], object.centre[1] + sample.shift[1]];
                let cell = (b * CELLS + cell_of(y)) * CELLS + cell_of(x);
                present[cell] = 1.0;
                for (place, value) in boxes[cell * BOX..][..BOX].iter_mut().zip(box_target(object, sample.shift)) {
                    *place = value as f32;
                }
                nouns[cell] = object.noun.index() as u32;
                finishes[cell] = object.finish.index() as u32;
                shapes[cell] = object.shape.map_or(0, |shape| 1 + shape.index() as u32);
                nearness[cell] = sample.scene.nearest().map_or(0.5, |nearest| f32::from(u8::from(nearest == i)));
            }
        }
        let backgrounds: Vec<u32> = samples.iter().map(|sample| sample.scene.background.index() as u32).collect();
        let cpu = &Device::Cpu;
        Ok(Self {
            n_objects: present.iter().filter(|&&p| p > 0.0).count(),
            present: Tensor::from_vec(present, n, cpu)?,
            boxes: Tensor::from_vec(boxes, (n, BOX), cpu)?,
            nouns: Tensor::from_vec(nouns, (n, 1), cpu)?,
            finishes: Tensor::from_vec(finishes, (n, 1), cpu)?,
            shapes: Tensor::from_vec(shapes, (n, 1), cpu)?,
            nearness: Tensor::from_vec(nearness, n, cpu)?,
            backgrounds: Tensor::from_vec(backgrounds, (samples.len(), 1), cpu)?,
        })
    }

    /// Cross-entropies per object, plus the squared error of its box, plus the objectness of every cell per object, plus
    /// the background's cross-entropy.
    fn loss(&self, seen: &Seen) -> Result<Tensor> {
        let per_object = 1.0 / self.n_objects.max(1) as f64;
        let cells = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.flatten(0, 2)?) };
        let class_loss = |logits: &Tensor, classes: &Tensor| -> Result<Tensor> {
            let log = candle_nn::ops::log_softmax(logits, D::Minus1)?.gather(classes, 1)?.squeeze(1)?;
            Ok(log.neg()?)
        };
        let masked = |values: Tensor| -> Result<Tensor> { Ok(((values * &self.present)?.sum_all()? * per_object)?) };
        let objectness = cells(&seen.objectness)?.squeeze(1)?;
        let presence = (bce(&objectness, &self.present)?.sum_all()? * per_object)?;
        let nouns = masked(class_loss(&cells(&seen.nouns)?, &self.nouns)?)?;
        let finishes = masked(class_loss(&cells(&seen.finishes)?, &self.finishes)?)?;
        let shapes = masked(class_loss(&cells(&seen.shapes)?, &self.shapes)?)?;
        let nearness = masked(bce(&cells(&seen.nearness)?.squeeze(1)?, &self.nearness)?)?;
        let boxes = masked((cells(&seen.boxes)? - &self.boxes)?.sqr()?.sum(1)?)?;
        let background = class_loss(&seen.background, &self.backgrounds)?.mean_all()?;
        Ok(((((((presence + nouns)? + finishes)? + shapes)? + nearness)? + boxes)? + background)?)
    }
}

/// Binary cross-entropy per element of logits against targets in [0, 1]: max(x, 0) − x·y + log(1 + e^−|x|).
pub(super) fn bce(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let soft = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    Ok(((logits.relu()? - (logits * targets)?)? + soft)?)
}

struct ReaderTask {
    config: Config,
    seed: u64,
    network: Reader,
    vars: VarSet,
    optimiser: AdamW,
}

impl ReaderTask {
    fn new(config: &Config, seed: u64, start: BTreeMap<String, Tensor>) -> Result<Self> {
        let weights = Weights::trainable(seed, start, DType::F32, &Device::Cpu);
        let network = Reader::new(&weights)?;
        let settings =
            AdamWConfig { learning_rate: config.learning_rate, weight_decay: 1e-2, max_gradient_norm: 5.0, ..Default::default() };
        Ok(Self { config: config.clone(), seed, network, vars: VarSet::new(weights.vars()), optimiser: AdamW::new(settings) })
    }
}

impl Task for ReaderTask {
    fn name(&self) -> &str {
        "reader"
    }

    fn step(&mut self, step: u64) -> Result<f64> {
        let batch = self.config.batch as u64;
        let samples: Vec<Sample> = (step * batch..(step + 1) * batch).map(|item| sample(self.seed, item)).collect();
        let images: Vec<RgbImage> = samples.iter().map(|sample| sample.image.clone()).collect();
        let loss = Targets::new(&samples)?.loss(&self.network.forward(&to_tensor(&images)?)?)?;
        let gradients = self.vars.gradients(&loss.backward()?)?;
        self.optimiser.update(&mut self.vars, &gradients, warmup_cosine(step, self.config.warmup, self.config.steps, 0.02))?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
        (&mut self.vars, &mut self.optimiser)
    }
}

/// Trains (or resumes), writes `reader.safetensors` into the pipeline's folder as f16 and measures its ceilings.
pub fn run(config: &Config, context: &RunContext) -> Result<Outputs> {
    let path = context.pipeline.join("reader.safetensors");
    let start = if config.warm_start { read_safetensors(&path, &Device::Cpu)? } else { BTreeMap::new() };
    let mut task = ReaderTask::new(config, context.seed, start)?;
    train(&mut task, config.steps, &context.runs.join("bootstrap/reader.safetensors"), Duration::from_secs(60))?;
    write_safetensors(&path, &task.vars.snapshot()?, DType::F16)?;
    let ceilings = Reader::load(&path)?.ceilings(config.ceiling_scenes, context.seed)?;
    Ok(Outputs { weights: path, ceilings })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_cross_entropy_is_log_two_at_zero_and_linear_far_off() {
        let logits = Tensor::new(&[0f64, 40.0, -40.0], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[0.3f64, 0.0, 0.0], &Device::Cpu).unwrap();
        let found = bce(&logits, &targets).unwrap().to_vec1::<f64>().unwrap();
        assert!((found[0] - 2f64.ln()).abs() < 1e-12 && (found[1] - 40.0).abs() < 1e-12 && found[2] < 1e-12);
    }

    #[test]
    fn every_object_has_its_own_cell() {
        for item in 0..300 {
            let sample = sample(1, item);
            let targets = Targets::new(std::slice::from_ref(&sample)).unwrap();
            assert_eq!(targets.n_objects, sample.scene.objects.len());
        }
    }

    #[test]
    fn the_loss_falls_within_a_few_steps() {
        let config = Config { steps: 30, batch: 4, warmup: 5, ..Config::default() };
        let mut task = ReaderTask::new(&config, 1, BTreeMap::new()).unwrap();
        let losses: Vec<f64> = (0..30).map(|step| task.step(step).unwrap()).collect();
        assert!(losses[29] < 0.8 * losses[0], "{losses:?}");
    }
}
