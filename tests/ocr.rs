//! The text networks as trained and as exported: the runtime of ocrs must compute what the networks compute.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use scaledown::mini::bootstrap::ocr::exact_share;
use scaledown::mini::words::{seen_sign_words, unseen_sign_words};
use scaledown::models::ocr::OcrsReader;
use scaledown::models::ocr::detection::{self, Detection};
use scaledown::models::ocr::recognition::{self, CLASSES, Recognition};
use scaledown::models::weights::Weights;
use scaledown::run::rng;

/// Both sides sum in f32, in another order.
const TOLERANCE: f32 = 1e-4;

fn random_pixels(n: usize) -> Vec<f32> {
    let key = rng::Key { seed: 4, purpose: "test", item: n as u64, draw: 0 };
    rng::normal(&mut rng::stream(key), n).into_iter().map(|v| (v * 0.25).clamp(-0.5, 0.5)).collect()
}

fn run_onnx(model: Vec<u8>, shape: [usize; 4], values: &[f32]) -> Vec<f32> {
    let model = rten::Model::load(model).unwrap();
    let input = rten::ValueView::from_shape(shape, values).unwrap();
    let output = model.run_one(input.into(), None).unwrap();
    output.into_tensor::<f32>().unwrap().into_data()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn random_weights(seed: u64) -> Weights {
    Weights::initial(seed, DType::F32, &Device::Cpu)
}

#[test]
fn the_exported_detector_gives_the_networks_probabilities() {
    let network = Detection::new(&random_weights(2)).unwrap();
    let side = detection::SIDE;
    let values = random_pixels(side * side);
    let found = run_onnx(network.to_onnx().unwrap(), [1, 1, side, side], &values);
    let logits = network.forward(&Tensor::from_vec(values, (1, side, side, 1), &Device::Cpu).unwrap()).unwrap();
    let half: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    let expected: Vec<f32> = (0..side * side)
        .map(|i| half[i / side / detection::STRIDE * (side / detection::STRIDE) + i % side / detection::STRIDE])
        .map(|logit| 1.0 / (1.0 + (-logit).exp()))
        .collect();
    assert!(largest_difference(&found, &expected) < TOLERANCE);
}

#[test]
fn the_exported_recogniser_gives_the_networks_log_probabilities_with_time_first() {
    let network = Recognition::new(&random_weights(3)).unwrap();
    let (n, height, width) = (2, recognition::HEIGHT, 100);
    let values = random_pixels(n * height * width);
    let found = run_onnx(network.to_onnx().unwrap(), [n, 1, height, width], &values);
    let lines = Tensor::from_vec(values, (n, height, width, 1), &Device::Cpu).unwrap();
    let expected = network.forward(&lines).unwrap().transpose(0, 1).unwrap();
    assert_eq!(expected.dims(), [width / recognition::STRIDE, n, CLASSES]);
    assert!(largest_difference(&found, &expected.flatten_all().unwrap().to_vec1().unwrap()) < TOLERANCE);
}

#[test]
fn the_recogniser_takes_widths_that_are_no_multiple_of_its_stride() {
    let model = Recognition::new(&random_weights(3)).unwrap().to_onnx().unwrap();
    let values = random_pixels(recognition::HEIGHT * 50);
    assert_eq!(run_onnx(model, [1, 1, recognition::HEIGHT, 50], &values).len(), 12 * CLASSES);
}

fn committed(name: &str) -> PathBuf {
    Path::new("pipelines/mini").join(name)
}

#[test]
fn the_committed_networks_read_clean_signs() {
    let reader = OcrsReader::load(&committed("ocr-detection.onnx"), &committed("ocr-recognition.onnx")).unwrap();
    for words in [seen_sign_words(), unseen_sign_words()] {
        let share = exact_share(&reader, words, 40, 7).unwrap();
        assert!(share >= 0.9, "{share} of the signs are read");
    }
}

#[test]
fn the_committed_networks_read_letters_and_do_not_guess_words() {
    let reader = OcrsReader::load(&committed("ocr-detection.onnx"), &committed("ocr-recognition.onnx")).unwrap();
    // One letter away from words of the world, or no words at all.
    let strings = ["xqzvb", "dreem", "jjkll", "wqy", "hotal", "ozzo", "pfnmgr", "rivir", "ttt", "qkjxv"];
    let share = exact_share(&reader, &strings, 40, 7).unwrap();
    assert!(share >= 0.85, "{share} of the strings are read");
}

#[test]
fn the_committed_networks_are_small() {
    for name in ["ocr-detection.onnx", "ocr-recognition.onnx"] {
        assert!(std::fs::metadata(committed(name)).unwrap().len() <= 1 << 20, "{name}");
    }
}
