//! What must not change the numbers: the thread count, and the company an item has in its batch.

use candle_core::{DType, Device, IndexOp, Tensor};
use scaledown::models::checkpointing::Checkpointing;
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::weights::Weights;
use scaledown::models::{Denoiser, DenoiserInput, TextEncoder};
use scaledown::nn::param::Gradients;
use scaledown::run::rng;

const BATCH: usize = 5;
const TEXT_TOKENS: usize = 7;
const IMAGE_TOKENS: usize = 16;

fn random(shape: &[usize], item: u64) -> Tensor {
    let key = rng::Key { seed: 3, purpose: "invariance", item, draw: 0 };
    Tensor::from_vec(rng::normal(&mut rng::stream(key), shape.iter().product()), shape, &Device::Cpu).unwrap()
}

struct Case {
    flux: Flux,
    input: DenoiserInput,
    text: Tensor,
    target: Tensor,
}

impl Case {
    /// Wide enough that every product is split among threads.
    fn new() -> Self {
        let config = FluxConfig::preset("mini").unwrap();
        let flux = Flux::new(&config, &Weights::initial(2, DType::F32, &Device::Cpu)).unwrap();
        let input = DenoiserInput {
            latents: random(&[BATCH, IMAGE_TOKENS, config.in_channels], 1),
            time: Tensor::from_vec((1..=BATCH).map(|i| i as f32 / 6.0).collect::<Vec<_>>(), BATCH, &Device::Cpu).unwrap(),
            guidance: Tensor::full(2.5f32, BATCH, &Device::Cpu).unwrap(),
            pooled: random(&[BATCH, config.vec_in_dim], 2),
            text_mask: None,
        };
        let text = random(&[BATCH, TEXT_TOKENS, config.context_in_dim], 3);
        let target = random(&[BATCH, IMAGE_TOKENS, config.in_channels], 4);
        Self { flux, input, text, target }
    }

    /// Velocity, text gradient and the gradient of every parameter, as numbers.
    fn numbers(&self) -> Vec<(String, Vec<f32>)> {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (velocity, saved) = self.flux.forward(&self.input, &self.text).unwrap();
        let mut gradients = Gradients::collect();
        let d_text = self.flux.vjp(saved, &self.target, &mut gradients).unwrap();
        let mut all = vec![("velocity".to_owned(), flat(&velocity)), ("text gradient".to_owned(), flat(&d_text))];
        all.extend(gradients.into_map().into_iter().map(|(name, gradient)| (name, flat(&gradient))));
        all
    }
}

fn with_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

#[test]
fn the_thread_count_does_not_change_a_single_bit() {
    let case = Case::new();
    let one = with_threads(1, || case.numbers());
    for threads in [2, 3] {
        for ((name, a), (_, b)) in one.iter().zip(with_threads(threads, || case.numbers())) {
            assert_eq!(*a, b, "`{name}` differs between 1 and {threads} threads");
        }
    }
}

#[test]
fn what_is_kept_for_the_backward_pass_does_not_change_a_single_bit() {
    let mut case = Case::new();
    let everything = case.numbers();
    for policy in [Checkpointing::BlockInputs, Checkpointing::Every(2), Checkpointing::Every(3)] {
        case.flux.checkpointing = policy;
        for ((name, a), (_, b)) in everything.iter().zip(case.numbers()) {
            assert_eq!(*a, b, "`{name}` differs under {policy:?}");
        }
    }
}

#[test]
fn an_image_has_the_velocity_it_has_alone() {
    let case = Case::new();
    let together = case.flux.velocity(&case.input, &case.text).unwrap();
    for i in 0..BATCH {
        let only = |tensor: &Tensor| tensor.narrow(0, i, 1).unwrap().contiguous().unwrap();
        let input = DenoiserInput {
            latents: only(&case.input.latents),
            time: only(&case.input.time),
            guidance: only(&case.input.guidance),
            pooled: only(&case.input.pooled),
            text_mask: None,
        };
        let alone = case.flux.velocity(&input, &only(&case.text)).unwrap();
        let difference = (alone - only(&together)).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        // Products of other sizes are blocked differently: roundings of values near 1.
        assert!(difference < 1e-5, "image {i}: {difference}");
    }
}

#[test]
fn a_prompt_has_the_embedding_it_has_alone() {
    let encoder = T5Encoder::new(&T5Config::preset("mini-base").unwrap(), &Weights::initial(5, DType::F32, &Device::Cpu)).unwrap();
    let ids = Tensor::from_vec((0..4 * 24).map(|i| (i * 31 % 390) as u32).collect::<Vec<_>>(), (4, 24), &Device::Cpu).unwrap();
    let together = encoder.encode(&ids).unwrap();
    for i in 0..4 {
        let alone = encoder.encode(&ids.narrow(0, i, 1).unwrap().contiguous().unwrap()).unwrap();
        let difference = (alone.i(0).unwrap() - together.i(i).unwrap()).unwrap().abs().unwrap();
        assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5, "prompt {i}");
    }
}
