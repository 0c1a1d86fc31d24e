//! The distillation loop on a tiny denoiser: what it moves, what it leaves alone, and that it learns.

mod common;

use candle_core::Tensor;
use common::{TinyWorld, config, read_weights};
use scaledown::distill::Objective;
use scaledown::error::Error;
use scaledown::models::card::StudentCard;
use scaledown::models::{Denoiser, DenoiserInput, Pullback};
use scaledown::nn::param::Parameters;
use scaledown::run::results::TrainLogRow;

#[test]
fn every_parameter_of_the_student_moves_and_no_tensor_of_the_frozen_networks() {
    for objective in [Objective::Vision, Objective::Naive] {
        let world = TinyWorld::new();
        let folder = tempfile::tempdir().unwrap();
        let before = world.student().named();
        let frozen: Vec<_> = [world.denoiser.named(), world.teacher.named()].into_iter().map(copies).collect();
        let config = config(objective, 8);
        world.distil(&config, folder.path(), &mut |_| Ok(false)).unwrap();
        let after = read_weights(folder.path());
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (name, value) in &before {
            assert_ne!(values(value), values(&after[name]), "{name} did not move under {objective:?}");
        }
        assert_eq!(frozen, [copies(world.denoiser.named()), copies(world.teacher.named())]);
    }
}

#[test]
fn the_loss_falls_under_both_objectives() {
    for objective in [Objective::Vision, Objective::Naive] {
        let world = TinyWorld::new();
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(objective, 120);
        config.optimiser.learning_rate = 5e-3;
        world.distil(&config, folder.path(), &mut |_| Ok(false)).unwrap();
        let log = TrainLogRow::read(&folder.path().join("train-log.parquet"), "").unwrap();
        assert_eq!(log.iter().map(|row| row.update).collect::<Vec<_>>(), (1..=120).collect::<Vec<_>>());
        let mean = |rows: &[TrainLogRow]| rows.iter().map(|row| row.loss).sum::<f64>() / rows.len() as f64;
        let (first, last) = (mean(&log[..24]), mean(&log[96..]));
        assert!(last < 0.8 * first, "{objective:?}: {first} -> {last}");
    }
}

#[test]
fn the_untrained_twin_is_the_initial_student_and_its_card_says_so() {
    let world = TinyWorld::new();
    let folder = tempfile::tempdir().unwrap();
    let card = world.distil(&config(Objective::None, 0), folder.path(), &mut |_| Ok(false)).unwrap();
    let (before, after) = (world.student().named(), read_weights(folder.path()));
    assert!(before.iter().all(|(name, value)| values(value) == values(&after[name])));
    assert_eq!((card.updates, card.final_loss, card.objective.as_str()), (0, None, "none"));
    assert_eq!(StudentCard::read(folder.path()).unwrap(), card);
    assert_eq!(card.parameters - card.parameters_without_projection, 16 * 32 + 32 * 32);
    card.load_student(folder.path()).unwrap();
}

/// Like the tiny denoiser, but its loss is not a number from the third denoising step on.
struct Broken<'a>(&'a dyn Denoiser);

impl Denoiser for Broken<'_> {
    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> scaledown::error::Result<Tensor> {
        self.0.velocity(input, text)
    }

    fn velocity_with_pullback<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> scaledown::error::Result<(Tensor, Pullback<'a>)> {
        self.0.velocity_with_pullback(input, text)
    }

    fn loss_and_text_gradient(&self, input: &DenoiserInput, text: &Tensor, target: &Tensor) -> scaledown::error::Result<(f64, Tensor)> {
        // Five shifted steps over four image tokens start at 1, 0.86, 0.70, 0.51 and 0.28.
        let (loss, gradient) = self.0.loss_and_text_gradient(input, text, target)?;
        Ok((if input.time.to_vec1::<f32>()?[0] < 0.75 { f64::NAN } else { loss }, gradient))
    }
}

#[test]
fn a_loss_that_is_not_a_number_names_the_update_and_its_prompts() {
    let world = TinyWorld::new();
    let folder = tempfile::tempdir().unwrap();
    let config = config(Objective::Vision, 8);
    let error = world.distil_with(&config, &Broken(&world.denoiser), folder.path(), &mut |_| Ok(false)).unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }));
    let text = error.to_string();
    assert!(text.contains("`loss`") && text.contains("update 3") && text.contains("prompts: prompt "), "{text}");
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn copies(named: std::collections::BTreeMap<String, Tensor>) -> Vec<(String, Vec<f32>)> {
    named.into_iter().map(|(name, tensor)| (name, values(&tensor))).collect()
}
