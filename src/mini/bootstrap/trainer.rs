//! The resumable loop of every bootstrap training, and the bridge from candle's autograd to [`crate::nn::optim::AdamW`].
//! What a step does is the task's business.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::models::weights::read_safetensors;
use crate::nn::average::WeightAverage;
use crate::nn::optim::AdamW;
use crate::nn::param::{Param, Parameters};
use crate::run::{files, interrupt, progress::Progress};

/// Name under which a checkpoint keeps its number of steps.
const STEP_NAME: &str = "trainer.step";
/// Prefixes of weights and of averaged weights in a checkpoint.
const WEIGHTS: &str = "weights.";
const AVERAGE: &str = "average.";

/// A training that [`train`] can run, save and resume.
pub trait Task {
    /// What the progress line says.
    fn name(&self) -> &str;
    /// One update; `step` counts from zero. Returns the loss.
    fn step(&mut self, step: u64) -> Result<f64>;
    /// What is trained, and by what: the state of a training, together with the average.
    fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW);
    /// The average of the weights, where the training keeps one.
    fn average(&mut self) -> Option<&mut WeightAverage> {
        None
    }
}

/// Runs `task` up to `steps` updates and returns its running mean loss (decay 0.98; 0 if nothing was left to do).
///
/// An existing checkpoint is resumed; a new one is written (by rename) every `checkpoint_every` and at the end, and is
/// never removed here.
///
/// # Errors
/// A loss that is not finite, a checkpoint of another task, and [`Error::Interrupted`] after the state was saved.
pub fn train(task: &mut dyn Task, steps: u64, checkpoint: &Path, checkpoint_every: Duration) -> Result<f64> {
    let start = if checkpoint.exists() { restore(task, checkpoint)? } else { 0 };
    let name = task.name().to_owned();
    let mut progress = Progress::new(&*name, start.min(steps), steps);
    let mut saved = Instant::now();
    let mut mean = 0.0;
    for step in start..steps {
        let loss = task.step(step)?;
        if !loss.is_finite() {
            return Err(Error::NonFinite { name: format!("loss of {name}"), context: format!("step {step}") });
        }
        mean = if step == start { loss } else { 0.98 * mean + 0.02 * loss };
        let done = step + 1;
        progress.set(done, &format!("loss {mean:.4}"));
        if interrupt::requested() || done == steps || saved.elapsed() >= checkpoint_every {
            save(task, done, checkpoint)?;
            saved = Instant::now();
            interrupt::check()?;
        }
    }
    progress.finish(&format!("loss {mean:.4}"));
    Ok(mean)
}

/// Weights and averages under a prefix, moments under the optimiser's own names.
fn save(task: &mut dyn Task, step: u64, path: &Path) -> Result<()> {
    let (network, optimiser) = task.learner();
    let mut state = optimiser.state()?;
    let prefixed = |prefix: &str, tensors: BTreeMap<String, Tensor>| {
        tensors.into_iter().map(move |(name, value)| (format!("{prefix}{name}"), value)).collect::<Vec<_>>()
    };
    state.extend(prefixed(WEIGHTS, network.named()));
    if let Some(average) = task.average() {
        state.extend(prefixed(AVERAGE, average.tensors()?));
    }
    let count = i64::try_from(step).map_err(|_| Error::Invalid(format!("{step} steps do not fit a checkpoint")))?;
    state.insert(STEP_NAME.into(), Tensor::new(&[count], &Device::Cpu)?);
    let bytes = safetensors::serialize(&state, None).map_err(|error| Error::format("safetensors file", path, error))?;
    files::write_bytes(path, &bytes)
}

fn restore(task: &mut dyn Task, path: &Path) -> Result<u64> {
    let mut state = read_safetensors(path, &Device::Cpu)?;
    let count = state.remove(STEP_NAME).ok_or_else(|| Error::format("training checkpoint", path, format!("`{STEP_NAME}` is missing")))?;
    let count = count.flatten_all()?.to_vec1::<i64>()?.first().copied().and_then(|count| u64::try_from(count).ok());
    let step = count.ok_or_else(|| Error::format("training checkpoint", path, format!("`{STEP_NAME}` is not a count")))?;
    let part = |prefix: &str| -> BTreeMap<String, Tensor> {
        state.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))).collect()
    };
    let (network, optimiser) = task.learner();
    network.assign(&part(WEIGHTS))?;
    optimiser.restore(step, &state)?;
    if let Some(average) = task.average() {
        average.restore(&part(AVERAGE))?;
    }
    Ok(step)
}

/// Factor on the learning rate: linear from 0 over `warmup` steps, then half a cosine down to `floor` at `steps`.
pub fn warmup_cosine(step: u64, warmup: u64, steps: u64, floor: f64) -> f64 {
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
    floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
}

/// Factor on the learning rate: linear from 0 over `warmup` steps, then 1, then linear down to 0 over the last
/// `decay_share` of `steps`. Before the fall it does not depend on `steps`, so a training may be prolonged.
pub fn warmup_constant_decay(step: u64, warmup: u64, steps: u64, decay_share: f64) -> f64 {
    let rise = (step + 1) as f64 / warmup.max(1) as f64;
    let fall = (steps.saturating_sub(step)) as f64 / (decay_share * steps as f64).max(1.0);
    rise.min(fall).min(1.0)
}

/// Candle variables by checkpoint name, as [`Parameters`] for our optimiser.
#[derive(Debug, Clone)]
pub struct VarSet(BTreeMap<String, Var>);

impl VarSet {
    /// The variables of a network, for example from [`crate::models::weights::Weights::vars`].
    pub fn new(vars: BTreeMap<String, Var>) -> Self {
        Self(vars)
    }

    /// Gradients of a finished backward pass by parameter name, each of its parameter's shape.
    ///
    /// # Errors
    /// A variable without gradient, since then an operation on the way has no backward.
    pub fn gradients(&self, store: &GradStore) -> Result<BTreeMap<String, Tensor>> {
        let gradient = |(name, var): (&String, &Var)| {
            let gradient = store.get(var.as_tensor()).ok_or_else(|| Error::Invalid(format!("`{name}` got no gradient")))?;
            Ok((name.clone(), gradient.clone()))
        };
        self.0.iter().map(gradient).collect()
    }

    /// Copies of the current values, which later updates do not change.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        self.0.iter().map(|(name, var)| Ok((name.clone(), var.as_tensor().copy()?.detach()))).collect()
    }
}

impl Parameters for VarSet {
    fn visit(&self, visitor: &mut dyn FnMut(&Param)) {
        for (name, var) in &self.0 {
            visitor(&Param { name: name.clone(), value: var.as_tensor().clone() });
        }
    }

    fn visit_mut(&mut self, visitor: &mut dyn FnMut(&mut Param)) {
        for (name, var) in &self.0 {
            let mut param = Param { name: name.clone(), value: var.as_tensor().clone() };
            let before = param.value.id();
            visitor(&mut param);
            if param.value.id() != before {
                var.set(&param.value).expect("a new value has the shape, type and device of the variable it replaces");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::optim::AdamWConfig;

    /// Minimises (w − 3)² by candle's autograd.
    struct Parabola {
        vars: VarSet,
        optimiser: AdamW,
        w: Tensor,
    }

    impl Parabola {
        fn new() -> Self {
            let var = Var::from_tensor(&Tensor::new(&[0f32], &Device::Cpu).unwrap()).unwrap();
            let w = var.as_tensor().clone();
            let config = AdamWConfig { learning_rate: 0.1, weight_decay: 0.0, max_gradient_norm: 1e9, ..Default::default() };
            Self { vars: VarSet::new(BTreeMap::from([("w".into(), var)])), optimiser: AdamW::new(config), w }
        }
        fn value(&self) -> f32 {
            self.w.to_vec1::<f32>().unwrap()[0]
        }
    }

    impl Task for Parabola {
        fn name(&self) -> &str {
            "parabola"
        }
        fn step(&mut self, _step: u64) -> Result<f64> {
            let loss = (&self.w - 3.0)?.sqr()?.sum_all()?;
            let gradients = self.vars.gradients(&loss.backward()?)?;
            self.optimiser.update(&mut self.vars, &gradients, 1.0)?;
            Ok(f64::from(loss.to_scalar::<f32>()?))
        }
        fn learner(&mut self) -> (&mut dyn Parameters, &mut AdamW) {
            (&mut self.vars, &mut self.optimiser)
        }
    }

    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn a_training_in_two_halves_gives_the_same_weight_as_in_one_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut whole = Parabola::new();
        train(&mut whole, 80, &folder.path().join("whole.safetensors"), NEVER).unwrap();
        assert!((whole.value() - 3.0).abs() < 0.5, "{}", whole.value());
        let path = folder.path().join("halves.safetensors");
        train(&mut Parabola::new(), 40, &path, NEVER).unwrap();
        let mut second = Parabola::new();
        train(&mut second, 80, &path, NEVER).unwrap();
        assert_eq!(second.value(), whole.value());
    }

    #[test]
    fn a_variable_outside_the_graph_is_an_error_with_its_name() {
        let parabola = Parabola::new();
        let other = Var::from_tensor(&Tensor::new(&[1f32], &Device::Cpu).unwrap()).unwrap();
        let store = parabola.w.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let error = VarSet::new(BTreeMap::from([("other".into(), other)])).gradients(&store).unwrap_err();
        assert!(error.to_string().contains("`other`"));
    }

    #[test]
    fn a_snapshot_keeps_its_values_when_the_variables_move() {
        let mut parabola = Parabola::new();
        let before = parabola.vars.snapshot().unwrap();
        parabola.step(0).unwrap();
        assert_eq!(before["w"].to_vec1::<f32>().unwrap(), [0.0]);
        assert_ne!(parabola.value(), 0.0);
    }

    #[test]
    fn the_schedule_rises_to_one_and_falls_to_its_floor() {
        assert_eq!(warmup_cosine(0, 10, 100, 0.1), 0.1);
        assert_eq!(warmup_cosine(10, 10, 100, 0.1), 1.0);
        assert!((warmup_cosine(55, 10, 100, 0.1) - 0.55).abs() < 1e-12);
        assert!((warmup_cosine(100, 10, 100, 0.1) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_trapezoid_rises_stays_and_falls_to_zero() {
        assert_eq!(warmup_constant_decay(0, 10, 100, 0.2), 0.1);
        assert_eq!(warmup_constant_decay(10, 10, 100, 0.2), 1.0);
        assert_eq!(warmup_constant_decay(79, 10, 100, 0.2), 1.0);
        assert!((warmup_constant_decay(90, 10, 100, 0.2) - 0.5).abs() < 1e-12);
        assert_eq!(warmup_constant_decay(100, 10, 100, 0.2), 0.0);
    }
}
