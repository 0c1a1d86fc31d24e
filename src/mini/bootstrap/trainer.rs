//! The resumable loop of every bootstrap training, and the bridge from candle's autograd to [`crate::nn::optim::AdamW`].
//! What a step does is the task's business.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::models::weights::read_safetensors;
use crate::nn::average::WeightAverage;
use crate::nn::optim::AdamW;
use crate::nn::param::{Param, Parameters};
use crate::run::{files, interrupt, progress::Progress};

/// Name under which a checkpoint keeps its number of steps.
const STEP_NAME: &str = "trainer.step";
/// Name under which it keeps the seconds these have taken; states of earlier versions have none.
const SECONDS_NAME: &str = "trainer.seconds";
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

/// What a training has taken, over all calls that went on with it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// Wall seconds; absent where the state of an earlier version does not tell.
    pub seconds: Option<f64>,
    pub updates: u64,
}

impl Cost {
    /// That of a training that has not begun.
    pub const NOTHING: Self = Self { seconds: Some(0.0), updates: 0 };

    /// The cost of the training that keeps its state in `checkpoint`.
    ///
    /// # Errors
    /// A file that is no training state.
    pub fn of(checkpoint: &Path) -> Result<Self> {
        if checkpoint.exists() { take_cost(&mut read_safetensors(checkpoint, &Device::Cpu)?, checkpoint) } else { Ok(Self::NOTHING) }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { seconds: self.seconds.zip(other.seconds).map(|(a, b)| a + b), updates: self.updates + other.updates }
    }

    /// The same after more time and updates.
    pub fn after(self, time: Duration, updates: u64) -> Self {
        self.and(Self { seconds: Some(time.as_secs_f64()), updates })
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
    let before = if checkpoint.exists() { restore(task, checkpoint)? } else { Cost::NOTHING };
    let (start, begun) = (before.updates, Instant::now());
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
            save(task, before.after(begun.elapsed(), done - start), checkpoint)?;
            saved = Instant::now();
            interrupt::check()?;
        }
    }
    progress.finish(&format!("loss {mean:.4}"));
    Ok(mean)
}

/// Weights and averages under a prefix, moments under the optimiser's own names.
fn save(task: &mut dyn Task, cost: Cost, path: &Path) -> Result<()> {
    let (network, optimiser) = task.learner();
    let mut state = optimiser.state()?;
    let prefixed = |prefix: &str, tensors: BTreeMap<String, Tensor>| {
        tensors.into_iter().map(move |(name, value)| (format!("{prefix}{name}"), value)).collect::<Vec<_>>()
    };
    state.extend(prefixed(WEIGHTS, network.named()));
    if let Some(average) = task.average() {
        state.extend(prefixed(AVERAGE, average.tensors()?));
    }
    let step = cost.updates;
    let count = i64::try_from(step).map_err(|_| Error::Invalid(format!("{step} steps do not fit a checkpoint")))?;
    state.insert(STEP_NAME.into(), Tensor::new(&[count], &Device::Cpu)?);
    if let Some(seconds) = cost.seconds {
        state.insert(SECONDS_NAME.into(), Tensor::new(&[seconds], &Device::Cpu)?);
    }
    let bytes = safetensors::serialize(&state, None).map_err(|error| Error::format("safetensors file", path, error))?;
    files::write_bytes(path, &bytes)
}

fn restore(task: &mut dyn Task, path: &Path) -> Result<Cost> {
    let mut state = read_safetensors(path, &Device::Cpu)?;
    let cost = take_cost(&mut state, path)?;
    let part = |prefix: &str| -> BTreeMap<String, Tensor> {
        state.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))).collect()
    };
    let (network, optimiser) = task.learner();
    network.assign(&part(WEIGHTS))?;
    optimiser.restore(cost.updates, &state)?;
    if let Some(average) = task.average() {
        average.restore(&part(AVERAGE))?;
    }
    Ok(cost)
}

/// Takes updates and seconds out of the state that was read from `path`.
fn take_cost(state: &mut BTreeMap<String, Tensor>, path: &Path) -> Result<Cost> {
    let invalid = |name: &str, problem: &str| Error::format("training checkpoint", path, format!("`{name}` is {problem}"));
    let count = state.remove(STEP_NAME).ok_or_else(|| invalid(STEP_NAME, "missing"))?;
    let count = count.flatten_all()?.to_vec1::<i64>()?.first().copied().and_then(|count| u64::try_from(count).ok());
    let updates = count.ok_or_else(|| invalid(STEP_NAME, "not a count"))?;
    let Some(seconds) = state.remove(SECONDS_NAME) else { return Ok(Cost { seconds: None, updates }) };
    let seconds = seconds.flatten_all()?.to_vec1::<f64>()?.first().copied().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    Ok(Cost { seconds: Some(seconds.ok_or_else(|| invalid(SECONDS_NAME, "not a time"))?), updates })
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
    fn the_cost_of_a_training_is_that_of_all_its_calls() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        assert_eq!(Cost::of(&path).unwrap(), Cost::NOTHING);
        train(&mut Parabola::new(), 40, &path, NEVER).unwrap();
        let first = Cost::of(&path).unwrap();
        assert!(first.updates == 40 && first.seconds.unwrap() > 0.0, "{first:?}");
        train(&mut Parabola::new(), 60, &path, NEVER).unwrap();
        let second = Cost::of(&path).unwrap();
        assert!(second.updates == 60 && second.seconds.unwrap() > first.seconds.unwrap(), "{first:?} {second:?}");
        let sum = Cost { seconds: Some(1.5), updates: 3 }.and(Cost { seconds: Some(2.0), updates: 4 });
        assert_eq!(sum, Cost { seconds: Some(3.5), updates: 7 });
    }

    #[test]
    fn seconds_that_nobody_counted_stay_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        let mut earlier = Parabola::new();
        train(&mut earlier, 2, &folder.path().join("other.safetensors"), NEVER).unwrap();
        save(&mut earlier, Cost { seconds: None, updates: 2 }, &path).unwrap();
        train(&mut Parabola::new(), 3, &path, NEVER).unwrap();
        assert_eq!(Cost::of(&path).unwrap(), Cost { seconds: None, updates: 3 });
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
