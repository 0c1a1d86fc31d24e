//! Frozen networks whose weights stay in GGUF's blocks: the same results as with the widened weights, gradients that are those of the
//! function, and gradients close to those of the full weights.

mod gguf_file;

use std::collections::BTreeMap;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use scaledown::models::flux::Flux;
use scaledown::models::gguf::llama_name;
use scaledown::models::t5::{T5Config, T5Encoder};
use scaledown::models::weights::{Bias, Weights};
use scaledown::models::{Denoiser, DenoiserInput, TextEncoder};
use scaledown::nn::linear::{linear, linear_input_vjp, linear_input_vjp_sum, linear_sum};
use scaledown::nn::param::{Gradients, Parameters};
use scaledown::nn::quantised::{Blocks, Quantised};
use scaledown::nn::weight::Values;
use scaledown::run::rng;

use gguf_file::{flux_config, network, write};

fn normal(name: &str, shape: &[usize], dtype: DType) -> Tensor {
    let key = rng::Key { seed: 21, purpose: "test", item: rng::text_id(name), draw: 0 };
    let values = rng::normal(&mut rng::stream(key), shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn quantised(rows: usize, columns: usize, blocks: Blocks) -> Quantised {
    let kind = match blocks {
        Blocks::Q4_0 => GgmlDType::Q4_0,
        Blocks::Q8_0 => GgmlDType::Q8_0,
        Blocks::Q4K => GgmlDType::Q4K,
        Blocks::Q5K => GgmlDType::Q5K,
        Blocks::Q6K => GgmlDType::Q6K,
        Blocks::Bf16 => GgmlDType::BF16,
        Blocks::F16 => GgmlDType::F16,
        Blocks::F32 => GgmlDType::F32,
    };
    let stored = QTensor::quantize(&normal("weight", &[rows, columns], DType::F32), kind).unwrap();
    Quantised::new(blocks, stored.data().unwrap().into_owned(), [rows, columns]).unwrap()
}

/// The numbers that are multiplied are the same, and so is their order: equal to the bit. More columns than a product takes at a time.
#[test]
fn products_are_those_of_the_widened_weight_to_the_bit() {
    for (blocks, rows, columns) in
        [(Blocks::Q8_0, 45, 2080), (Blocks::Q4K, 2100, 256), (Blocks::Q5K, 33, 512), (Blocks::Q6K, 7, 2304), (Blocks::Q4_0, 64, 96)]
    {
        let stored = quantised(rows, columns, blocks);
        for dtype in [DType::F32, DType::F64] {
            let dense = stored.widen().unwrap().to_dtype(dtype).unwrap();
            let (x, dy) = (normal("x", &[3, columns], dtype), normal("dy", &[3, rows], dtype));
            let bias = normal("bias", &[rows], dtype);
            let values = Values::Quantised(stored.clone());
            let (found, expected) = (linear(&x, &values, Some(&bias)).unwrap(), linear(&x, &dense, Some(&bias)).unwrap());
            assert_eq!(numbers(&found), numbers(&expected), "{blocks:?} {dtype:?}");
            let (found, expected) = (linear_input_vjp(&dy, &values).unwrap(), linear_input_vjp(&dy, &dense).unwrap());
            assert_eq!(numbers(&found), numbers(&expected), "{blocks:?} {dtype:?}");
        }
    }
}

/// As Flux uses its joined layers: rows and columns of one weight, cut inside its blocks.
#[test]
fn parts_of_a_weight_multiply_like_parts_of_the_widened_weight() {
    let stored = Values::Quantised(quantised(96, 512, Blocks::Q4K));
    let dense = Values::Dense(stored_widened(&stored));
    let (x, y) = (normal("x", &[5, 160], DType::F32), normal("y", &[5, 352], DType::F32));
    let dy = normal("dy", &[5, 96], DType::F32);
    let of = |weight: &Values| {
        let (left, right) = (weight.narrow(1, 0, 160).unwrap(), weight.narrow(1, 160, 352).unwrap());
        let (top, bottom) = (weight.narrow(0, 0, 40).unwrap(), weight.narrow(0, 40, 56).unwrap());
        let (d_top, d_bottom) = (dy.narrow(1, 0, 40).unwrap().contiguous().unwrap(), dy.narrow(1, 40, 56).unwrap().contiguous().unwrap());
        let sum = linear_sum(&[(&x, &left), (&y, &right)], None).unwrap();
        let back = linear_input_vjp_sum(&[(&d_top, &top), (&d_bottom, &bottom)]).unwrap();
        [numbers(&sum), numbers(&back), numbers(&linear_input_vjp(&dy, &right).unwrap())]
    };
    assert_eq!(of(&stored), of(&dense));
}

fn stored_widened(values: &Values) -> Tensor {
    match values {
        Values::Quantised(stored) => stored.widen().unwrap(),
        Values::Dense(tensor) => tensor.clone(),
    }
}

#[test]
fn the_gradient_of_a_quantised_layer_is_that_of_finite_differences() {
    const STEP: f64 = 1e-3;
    let values = Values::Quantised(quantised(40, 256, Blocks::Q4K));
    let (x, dy) = (normal("x", &[2, 256], DType::F64), normal("dy", &[2, 40], DType::F64));
    let value = |x: &Tensor| numbers(&(linear(x, &values, None).unwrap() * &dy).unwrap()).iter().sum::<f64>();
    let gradient = numbers(&linear_input_vjp(&dy, &values).unwrap());
    for i in [0, 31, 32, 200, 300, 511] {
        let moved = |by: f64| {
            let mut numbers = numbers(&x);
            numbers[i] += by;
            value(&Tensor::from_vec(numbers, (2, 256), &Device::Cpu).unwrap())
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        // The function is linear, so the difference is exact but for rounding, here of sums of about a hundred.
        assert!((difference - gradient[i]).abs() < 1e-9, "{i}: {difference}, {}", gradient[i]);
    }
}

/// Cosine between two tensors.
fn cosine(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (numbers(a), numbers(b));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

#[test]
fn a_quantised_flux_has_nearly_the_velocity_and_text_gradient_of_the_full_one() {
    let config = flux_config();
    let full = network(&config);
    let input = DenoiserInput {
        latents: normal("latents", &[2, 16, config.in_channels], DType::F32),
        time: Tensor::new(&[0.3f32, 0.8], &Device::Cpu).unwrap(),
        guidance: Tensor::new(&[3.5f32, 2.0], &Device::Cpu).unwrap(),
        pooled: normal("pooled", &[2, config.vec_in_dim], DType::F32),
        text_mask: None,
    };
    let text = normal("text", &[2, 6, config.context_in_dim], DType::F32);
    let target = normal("target", &[2, 16, config.in_channels], DType::F32);
    let (velocity, gradient) = (full.velocity(&input, &text).unwrap(), full.loss_and_text_gradient(&input, &text, &target).unwrap().1);
    let folder = tempfile::tempdir().unwrap();
    // Four bits keep numbers to a thirteenth of their size. With weights twice as large, whose blocks outweigh the stream that they
    // add to, Q4_K's gradients come to 0.98, and to 0.96 where the layers that published files keep are quantised too.
    for (kind, least) in [(GgmlDType::Q8_0, 0.9999), (GgmlDType::Q6K, 0.999), (GgmlDType::Q4K, 0.99)] {
        let path = folder.path().join(format!("{kind:?}.gguf"));
        write(&path, full.named(), kind);
        let weights = Weights::load(&path, DType::F32, &Device::Cpu).unwrap().keeping_half_precision();
        let small = Flux::new(&config, &weights).unwrap();
        weights.finish().unwrap();
        let found = [
            cosine(&small.velocity(&input, &text).unwrap(), &velocity),
            cosine(&small.loss_and_text_gradient(&input, &text, &target).unwrap().1, &gradient),
        ];
        println!("{kind:?}: cosine of the velocities {:.5}, of the gradients {:.5}", found[0], found[1]);
        assert!(found.iter().all(|&cosine| cosine >= least), "{kind:?}: {found:?}");
        // What is shown of the parameters is all of them.
        assert_eq!(small.count(), full.count());
    }
}

#[test]
fn a_quantised_text_encoder_loads_under_the_names_of_llama_and_encodes_nearly_the_same() {
    let config = T5Config { d_model: 256, d_kv: 64, d_ff: 512, num_heads: 4, ..T5Config::preset("smoke-teacher").unwrap() };
    let full = T5Encoder::new(&config, &Weights::initial(2, DType::F32, &Device::Cpu)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t5.gguf");
    let named: BTreeMap<String, Tensor> = full.named().into_iter().map(|(name, tensor)| (llama_name(&name), tensor)).collect();
    write(&path, named, GgmlDType::Q8_0);
    let load = |config: &T5Config| {
        let weights = Weights::load(&path, DType::F32, &Device::Cpu).unwrap().keeping_half_precision();
        let encoder = T5Encoder::new(config, &weights)?;
        weights.finish().map(|()| encoder)
    };
    let small = load(&config).unwrap();
    let ids = Tensor::new(&[[5u32, 17, 900, 1, 0, 0]], &Device::Cpu).unwrap();
    let found = cosine(&small.encode(&ids).unwrap(), &full.encode(&ids).unwrap());
    assert!(found > 0.999 && found < 1.0, "{found}");
    // Strict as ever, and frozen.
    let error = load(&T5Config { num_layers: 1, ..config.clone() }).unwrap_err().to_string();
    assert!(error.contains("encoder.block.1.") && error.contains("not used"), "{error}");
    let error = load(&T5Config { d_ff: 256, ..config }).unwrap_err().to_string();
    assert!(error.contains("wi_0.weight") && error.contains("[512, 256]"), "{error}");
    let (hidden, saved) = small.forward(&ids).unwrap();
    let error = small.vjp(&saved, &hidden, &mut Gradients::collect()).unwrap_err().to_string();
    assert!(error.contains("is quantised and cannot be trained"), "{error}");
}

#[test]
fn a_quantised_matrix_keeps_its_blocks_under_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.gguf");
    write(&path, BTreeMap::from([("a.weight".to_owned(), normal("a", &[4, 256], DType::F32))]), GgmlDType::Q8_0);
    let load = || Weights::load(&path, DType::F32, &Device::Cpu).unwrap().keeping_half_precision();
    let value = |weights: &Weights, name: &str| weights.linear(name, 256, 4, Bias::Without).unwrap().weight.value;
    let same = value(&load().in_layout(Ok).unwrap(), "a");
    let renamed =
        load().in_layout(|tensors| Ok(tensors.into_iter().map(|(name, tensor)| (name.replace("a.", "b."), tensor)).collect())).unwrap();
    let other = value(&renamed, "b");
    renamed.finish().unwrap();
    assert!(matches!((&same, &other), (Values::Quantised(_), Values::Quantised(_))));
    assert_eq!(numbers(&stored_widened(&same)), numbers(&stored_widened(&other)));
}

#[test]
fn a_file_that_is_cut_off_or_holds_another_kind_of_blocks_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.gguf");
    let named = || BTreeMap::from([("a.weight".to_owned(), normal("a", &[4, 256], DType::F32))]);
    write(&path, named(), GgmlDType::Q8_0);
    let bytes = std::fs::read(&path).unwrap();
    let error = || Weights::load(&path, DType::F32, &Device::Cpu).err().unwrap().to_string();
    std::fs::write(&path, &bytes[..bytes.len() - 64]).unwrap();
    assert!(error().contains("`a.weight`") && error().contains("is not in its"), "{}", error());
    std::fs::write(&path, &bytes[..40]).unwrap();
    assert!(error().contains("not a valid GGUF file"), "{}", error());
    write(&path, named(), GgmlDType::Q3K);
    assert!(error().contains("Q3K") && error().contains("can be read"), "{}", error());
}
