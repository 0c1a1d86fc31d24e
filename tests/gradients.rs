//! Every gradient of the training core against central differences in f64, and f32 against f64.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use scaledown::distill::Compared;
use scaledown::distill::comparison::Comparison;
use scaledown::models::checkpointing::Checkpointing;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::guidance::{Guided, Negative};
use scaledown::models::pixart::{PixArt, PixArtConfig};
use scaledown::models::sd3::{Sd3, Sd3Config};
use scaledown::models::student::{Student, StudentConfig};
use scaledown::models::t5::{Padding, T5Config, T5Encoder};
use scaledown::models::teacher::{Condition, Shared};
use scaledown::models::weights::{Weights, read_safetensors};
use scaledown::models::{Denoiser, DenoiserInput};
use scaledown::nn::param::{Gradients, Parameters};
use scaledown::nn::residual::mean_squared_error;
use scaledown::run::rng::{Key, normal, stream};

/// Central differences in f64 with this step have a relative error near 1e-9 on these losses.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

fn random(shape: &[usize], item: u64, dtype: DType) -> Tensor {
    let values = normal(&mut stream(Key { seed: 5, purpose: "test", item, draw: 0 }), shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn ids(b: usize, l: usize, vocabulary: u32) -> Tensor {
    let values: Vec<u32> = (0..b * l).map(|i| (i as u32 * 7 + 3) % vocabulary).collect();
    Tensor::from_vec(values, (b, l), &Device::Cpu).unwrap()
}

/// A network with every parameter away from its special starting value, so that no gradient is zero by construction.
fn perturb(network: &mut dyn Parameters) {
    let mut item = 1000;
    network.visit_mut(&mut |param| {
        item += 1;
        let noise = (random(param.value.dims(), item, param.value.dtype()) * 0.1).unwrap();
        param.value = (&param.value + noise).unwrap();
    });
}

fn shifted(values: &BTreeMap<String, Tensor>, direction: &BTreeMap<String, Tensor>, by: f64) -> BTreeMap<String, Tensor> {
    values.iter().map(|(name, value)| (name.clone(), (value + (&direction[name] * by).unwrap()).unwrap())).collect()
}

fn dot(a: &BTreeMap<String, Tensor>, b: &BTreeMap<String, Tensor>) -> f64 {
    a.iter().map(|(name, a)| (a * &b[name]).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()).sum()
}

/// Checks the directional derivative along the gradient and along eight random directions.
fn check<N: Parameters>(network: &mut N, gradients: BTreeMap<String, Tensor>, loss: impl Fn(&N) -> f64) {
    let values = network.named();
    assert_eq!(values.keys().collect::<Vec<_>>(), gradients.keys().collect::<Vec<_>>(), "a parameter has no gradient");
    let norm = dot(&gradients, &gradients).sqrt();
    let unit: BTreeMap<_, _> = gradients.iter().map(|(name, g)| (name.clone(), (g / norm).unwrap())).collect();
    let mut directions = vec![unit];
    for i in 0..8u64 {
        let mut item = i * 10_000;
        let direction: BTreeMap<_, _> = values
            .iter()
            .map(|(name, value)| {
                item += 1;
                (name.clone(), random(value.dims(), item, DType::F64))
            })
            .collect();
        let length = dot(&direction, &direction).sqrt();
        directions.push(direction.into_iter().map(|(name, d)| (name, (d / length).unwrap())).collect());
    }
    for (i, direction) in directions.iter().enumerate() {
        network.assign(&shifted(&values, direction, STEP)).unwrap();
        let above = loss(network);
        network.assign(&shifted(&values, direction, -STEP)).unwrap();
        let below = loss(network);
        let (numeric, exact) = ((above - below) / (2.0 * STEP), dot(&gradients, direction));
        // Relative to the gradient's length for random directions, whose derivative may be near zero.
        let error = (numeric - exact).abs() / if i == 0 { exact.abs() } else { exact.abs().max(1e-2 * norm) };
        assert!(error < TOLERANCE, "direction {i}: numeric {numeric}, exact {exact}, error {error}");
    }
    network.assign(&values).unwrap();
}

fn student(dtype: DType) -> Student {
    let config = StudentConfig { encoder: T5Config::preset("smoke-base").unwrap(), projection_hidden: 24, text_width: 32, dropout: 0.1 };
    let mut student = Student::new(&config, &Weights::initial(3, dtype, &Device::Cpu)).unwrap();
    perturb(&mut student);
    student
}

fn flux(dtype: DType) -> Flux {
    let mut flux = Flux::new(&FluxConfig::preset("smoke").unwrap(), &Weights::initial(4, dtype, &Device::Cpu)).unwrap();
    perturb(&mut flux);
    flux
}

fn input(dtype: DType) -> DenoiserInput {
    DenoiserInput {
        latents: random(&[2, 4, 64], 1, dtype),
        time: Tensor::new(&[0.3f64, 0.8], &Device::Cpu).unwrap().to_dtype(dtype).unwrap(),
        guidance: Tensor::new(&[2.0f64, 3.5], &Device::Cpu).unwrap().to_dtype(dtype).unwrap(),
        pooled: random(&[2, 32], 2, dtype),
        text_mask: None,
    }
}

/// Dropout is drawn from a fixed key, so that it is part of the function whose gradient is checked.
const DROPOUT: Key = Key { seed: 1, purpose: "dropout", item: 0, draw: 0 };

/// Eq. 5 for one student; returns the loss and all parameter gradients.
fn distillation_gradient(student: &Student, flux: &Flux, dtype: DType) -> (f64, BTreeMap<String, Tensor>) {
    let (input, target, ids) = (input(dtype), random(&[2, 4, 64], 9, dtype), ids(2, 7, 1024));
    let (text, saved) = student.forward(&ids, Some(DROPOUT)).unwrap();
    let (loss, d_text) = flux.loss_and_text_gradient(&input, &text, &target).unwrap();
    let mut gradients = Gradients::collect();
    student.vjp(&saved, &d_text, &mut gradients).unwrap();
    (loss, gradients.into_map())
}

#[test]
fn distillation_loss_through_the_whole_denoiser() {
    let flux = flux(DType::F64);
    let mut student = student(DType::F64);
    let (_, gradients) = distillation_gradient(&student, &flux, DType::F64);
    check(&mut student, gradients, |student| distillation_gradient(student, &flux, DType::F64).0);
}

#[test]
fn f32_agrees_with_f64_to_1e_4() {
    let (_, exact) = distillation_gradient(&student(DType::F64), &flux(DType::F64), DType::F64);
    let (_, single) = distillation_gradient(&student(DType::F32), &flux(DType::F32), DType::F32);
    let difference: BTreeMap<_, _> =
        exact.iter().map(|(name, g)| (name.clone(), (g - single[name].to_dtype(DType::F64).unwrap()).unwrap())).collect();
    let relative = (dot(&difference, &difference) / dot(&exact, &exact)).sqrt();
    assert!(relative < 1e-4, "relative L2 difference {relative}");
}

#[test]
fn every_parameter_of_the_denoiser() {
    let mut flux = flux(DType::F64);
    let (input, text, target) = (input(DType::F64), random(&[2, 5, 32], 8, DType::F64), random(&[2, 4, 64], 9, DType::F64));
    let loss = |flux: &Flux| mean_squared_error(&flux.forward(&input, &text).unwrap().0, &target).unwrap().0;
    let (velocity, saved) = flux.forward(&input, &text).unwrap();
    let (_, d_velocity) = mean_squared_error(&velocity, &target).unwrap();
    let mut gradients = Gradients::collect();
    flux.vjp(saved, &d_velocity, &mut gradients).unwrap();
    check(&mut flux, gradients.into_map(), loss);
}

#[test]
fn every_parameter_of_t5() {
    let mut t5 = T5Encoder::new(&T5Config::preset("smoke-teacher").unwrap(), &Weights::initial(6, DType::F64, &Device::Cpu)).unwrap();
    perturb(&mut t5);
    let (ids, target) = (ids(2, 40, 1024), random(&[2, 40, 32], 3, DType::F64));
    let loss = |t5: &T5Encoder| mean_squared_error(&t5.forward(&ids).unwrap().0, &target).unwrap().0;
    let (y, saved) = t5.forward(&ids).unwrap();
    let (_, dy) = mean_squared_error(&y, &target).unwrap();
    let mut gradients = Gradients::collect();
    t5.vjp(&saved, &dy, &mut gradients).unwrap();
    check(&mut t5, gradients.into_map(), loss);
}

#[test]
fn a_frozen_denoiser_gives_the_same_text_gradient() {
    let (flux, input) = (flux(DType::F32), input(DType::F32));
    let (text, target) = (random(&[2, 5, 32], 8, DType::F32), random(&[2, 4, 64], 9, DType::F32));
    let (velocity, saved) = flux.forward(&input, &text).unwrap();
    let (_, d_velocity) = mean_squared_error(&velocity, &target).unwrap();
    let trained = flux.vjp(saved, &d_velocity, &mut Gradients::collect()).unwrap();
    let frozen = flux.loss_and_text_gradient(&input, &text, &target).unwrap().1;
    assert_eq!(trained.flatten_all().unwrap().to_vec1::<f32>().unwrap(), frozen.flatten_all().unwrap().to_vec1::<f32>().unwrap());
}

/// A network of the tests' size from its parity fixture, whose weights are all random, in f64.
fn from_fixture<N>(name: &str, make: impl FnOnce(&Weights) -> scaledown::error::Result<N>) -> N {
    let path = std::path::PathBuf::from(format!("tests/fixtures/{name}.safetensors"));
    let tensors = read_safetensors(&path, &Device::Cpu).unwrap();
    let named = tensors.into_iter().filter_map(|(name, value)| Some((name.strip_prefix("weights.")?.to_owned(), value)));
    make(&Weights::from_tensors(named.collect(), &path, DType::F64, &Device::Cpu)).unwrap()
}

/// For latents of 16 patches and 4 channels, pooled text 12 wide, text of 7 tokens, of which the first item shows 4.
fn small_input(dtype: DType) -> (DenoiserInput, Tensor, Tensor) {
    let mask: Vec<f64> = (0..14).map(|i| if (4..7).contains(&i) { 0.0 } else { 1.0 }).collect();
    let input = DenoiserInput {
        latents: random(&[2, 16, 16], 1, dtype),
        time: Tensor::new(&[0.3f64, 0.8], &Device::Cpu).unwrap().to_dtype(dtype).unwrap(),
        guidance: Tensor::new(&[2.0f64, 3.5], &Device::Cpu).unwrap().to_dtype(dtype).unwrap(),
        pooled: random(&[2, 12], 2, dtype),
        text_mask: Some(Tensor::from_vec(mask, (2, 7), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()),
    };
    (input, random(&[2, 7, 20], 3, dtype), random(&[2, 16, 16], 4, dtype))
}

fn inner(a: &Tensor, b: &Tensor) -> f64 {
    (a * b).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
}

/// Checks `gradient` at `x` along itself and along four random directions.
fn check_at(x: &Tensor, gradient: &Tensor, loss: impl Fn(&Tensor) -> f64) {
    assert_eq!(x.dims(), gradient.dims());
    let norm = inner(gradient, gradient).sqrt();
    assert!(norm > 1e-6, "the loss does not depend on the input");
    for i in 0..5u64 {
        let direction = if i == 0 { gradient.clone() } else { random(x.dims(), 300 + i, DType::F64) };
        let direction = (&direction / inner(&direction, &direction).sqrt()).unwrap();
        let at = |by: f64| loss(&(x + (&direction * by).unwrap()).unwrap());
        let (numeric, exact) = ((at(STEP) - at(-STEP)) / (2.0 * STEP), inner(gradient, &direction));
        let error = (numeric - exact).abs() / exact.abs().max(1e-2 * norm);
        assert!(error < TOLERANCE, "direction {i}: numeric {numeric}, exact {exact}, error {error}");
    }
}

/// The text gradient by differences, and the same bits whatever was kept for the backward pass.
fn check_text_gradient<D: Denoiser>(mut denoiser: D, set: impl Fn(&mut D, Checkpointing)) {
    let (input, text, target) = small_input(DType::F64);
    let loss = |text: &Tensor| mean_squared_error(&denoiser.velocity(&input, text).unwrap(), &target).unwrap().0;
    let (value, gradient) = denoiser.loss_and_text_gradient(&input, &text, &target).unwrap();
    assert_eq!(value, loss(&text), "the forward pass that keeps nothing differs");
    check_at(&text, &gradient, loss);
    let numbers = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for policy in [Checkpointing::BlockInputs, Checkpointing::Every(2)] {
        set(&mut denoiser, policy);
        let again = denoiser.loss_and_text_gradient(&input, &text, &target).unwrap().1;
        assert_eq!(numbers(&gradient), numbers(&again), "{policy:?}");
    }
}

fn sd3() -> Sd3 {
    from_fixture("sd3", |weights| Sd3::new(&Sd3Config::preset("smoke")?, weights))
}

fn pixart() -> PixArt {
    from_fixture("pixart", |weights| PixArt::new(&PixArtConfig::preset("smoke")?, weights))
}

#[test]
fn text_gradient_of_stable_diffusion_3() {
    check_text_gradient(sd3(), |sd3, policy| sd3.checkpointing = policy);
}

#[test]
fn text_gradient_of_pixart() {
    check_text_gradient(pixart(), |pixart, policy| pixart.checkpointing = policy);
}

#[test]
fn tokens_that_the_mask_hides_have_no_gradient() {
    let (input, text, target) = small_input(DType::F64);
    let gradient = pixart().loss_and_text_gradient(&input, &text, &target).unwrap().1;
    let sizes: Vec<f64> = gradient.abs().unwrap().sum(2).unwrap().get(0).unwrap().to_vec1().unwrap();
    assert!(sizes[..4].iter().all(|&size| size > 0.0) && sizes[4..].iter().all(|&size| size == 0.0), "{sizes:?}");
}

#[test]
fn guided_predictions_have_gradients_of_text_and_negative_text() {
    let (sd3, (input, text, target)) = (sd3(), small_input(DType::F64));
    // One negative prompt for the whole batch, as pipelines have it.
    let negative = Negative { text: random(&[1, 7, 20], 5, DType::F64), pooled: random(&[1, 12], 6, DType::F64), text_mask: None };
    let guided = |text: Tensor| Guided { denoiser: &sd3, negative: Negative { text, ..negative.clone() } };
    let loss = |guided: &Guided, text: &Tensor| mean_squared_error(&guided.velocity(&input, text).unwrap(), &target).unwrap().0;

    let still = guided(negative.text.clone());
    let (_, gradient) = still.loss_and_text_gradient(&input, &text, &target).unwrap();
    check_at(&text, &gradient, |text| loss(&still, text));
    let (prediction, pullback) = still.velocity_with_both_pullbacks(&input, &text).unwrap();
    let (_, d_prediction) = mean_squared_error(&prediction, &target).unwrap();
    let (d_text, d_negative) = pullback(&d_prediction).unwrap();
    assert_eq!(inner(&(&d_text - &gradient).unwrap(), &d_text), 0.0);
    let both = d_negative.sum_keepdim(0).unwrap();
    check_at(&negative.text, &both, |negative| loss(&guided(negative.clone()), &text));
}

/// Eq. 5 of a student through a whole guided teacher: the text before the student's, the mask and the padding are those of its family.
/// Returns the loss and all parameter gradients.
fn guided_gradient(student: &Student, denoiser: &dyn Denoiser, shared: &Shared, compared: Compared) -> (f64, BTreeMap<String, Tensor>) {
    let (input, _, target) = small_input(DType::F64);
    let input = DenoiserInput { text_mask: shared.text_mask.clone(), ..input };
    let one = |x: &Tensor| x.narrow(0, 0, 1).unwrap();
    let empty = Shared {
        pooled: random(&[1, 12], 41, DType::F64),
        text_before: shared.text_before.as_ref().map(one),
        text_mask: shared.text_mask.as_ref().map(one),
    };
    let (ids, empty_ids) = (padded_ids(&[[5, 7, 9, 1, 0, 0, 0], [3, 4, 8, 11, 6, 2, 1]]), padded_ids(&[[1, 0, 0, 0, 0, 0, 0]]));
    let condition = Condition { teacher_text: random(&[1, 7, 20], 42, DType::F64), ids: empty_ids, shared: empty };
    let negative = Some(condition.negative(&condition.teacher_text).unwrap());
    let comparison = Comparison::new(denoiser, negative, compared).unwrap();

    let (text, saved) = student.forward(&ids, Some(DROPOUT)).unwrap();
    let of_empty = (compared == Compared::Guided).then(|| student.forward(&condition.ids, Some(DROPOUT)).unwrap());
    let negative = of_empty.as_ref().map(|(text, _)| condition.negative(text).unwrap());
    let found = comparison.loss_and_gradients(&input, &shared.full_text(&text).unwrap(), negative, &target).unwrap();
    let mut gradients = Gradients::collect();
    student.vjp(&saved, &shared.own_part(found.text).unwrap(), &mut gradients).unwrap();
    if let (Some((_, saved)), Some(d_text)) = (&of_empty, found.negative) {
        student.vjp(saved, &condition.shared.own_part(d_text).unwrap(), &mut gradients).unwrap();
    }
    (found.loss, gradients.into_map())
}

fn padded_ids<const B: usize>(rows: &[[u32; 7]; B]) -> Tensor {
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn check_student_through(denoiser: &dyn Denoiser, shared: &Shared, padding: Padding) {
    for compared in [Compared::Conditional, Compared::Guided] {
        let config =
            StudentConfig { encoder: T5Config::preset("smoke-base").unwrap(), projection_hidden: 24, text_width: 20, dropout: 0.1 };
        let mut student = Student::new(&config, &Weights::initial(3, DType::F64, &Device::Cpu)).unwrap();
        student.encoder.padding = padding;
        perturb(&mut student);
        let (_, gradients) = guided_gradient(&student, denoiser, shared, compared);
        check(&mut student, gradients, |student| guided_gradient(student, denoiser, shared, compared).0);
    }
}

#[test]
fn distillation_loss_through_stable_diffusion_3() {
    let shared = Shared { text_before: Some(random(&[2, 3, 20], 43, DType::F64)), ..Shared::pooled(random(&[2, 12], 2, DType::F64)) };
    check_student_through(&sd3(), &shared, Padding::Seen);
}

#[test]
fn distillation_loss_through_pixart() {
    let mask = Tensor::new(&[[1f64, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [1.0; 7]], &Device::Cpu).unwrap();
    let shared = Shared { text_mask: Some(mask), ..Shared::pooled(random(&[2, 1], 2, DType::F64)) };
    check_student_through(&pixart(), &shared, Padding::Masked);
}
