//! Every kernel at random shapes: gradients against finite differences in f64, f32 against f64, the baseline's code against
//! the vectorised one, one thread against two.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use scaledown::nn::activation::{add, gated_gelu, gated_gelu_vjp, gelu, gelu_vjp, relu_dropout, relu_dropout_vjp, silu, silu_vjp};
use scaledown::nn::attention::{BiasGradient, attention, attention_output, attention_vjp};
use scaledown::nn::cpu::output::poison_unwritten;
use scaledown::nn::cross_entropy::cross_entropy;
use scaledown::nn::embedding::{embedding, embedding_vjp};
use scaledown::nn::linear::{column_sums, linear, linear_input_vjp, linear_weight_vjp};
use scaledown::nn::norm::{modulated_norm, modulated_norm_vjp, rms_norm, rms_norm_vjp};
use scaledown::nn::param::{Gradients, Param};
use scaledown::nn::real::use_baseline;
use scaledown::nn::residual::{gated, gated_residual, gated_residual_vjp, mean_squared_error};
use scaledown::nn::rope::{Rotation, Stream, qkv_norm_rope, qkv_norm_rope_vjp};
use scaledown::run::rng;

const EPSILON: f64 = 1e-6;

fn random(shape: &[usize], item: u64) -> Tensor {
    let key = rng::Key { seed: 9, purpose: "kernels", item, draw: 0 };
    let values = rng::normal(&mut rng::stream(key), shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum()
}

fn norm(a: &Tensor) -> f64 {
    dot(a, a).sqrt()
}

fn with_threads<R: Send>(n: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(f)
}

type Forward<'a> = &'a (dyn Fn(&[Tensor]) -> Tensor + Sync);
/// From the inputs and the output's gradient to one gradient per input.
type Backward<'a> = &'a (dyn Fn(&[Tensor], &Tensor) -> Vec<Tensor> + Sync);

/// Whether f32 can be held against f64.
#[derive(Clone, Copy, PartialEq)]
enum Rounding {
    Bounded,
    /// The result is what is left of nearly equal terms, and in f32 noise.
    Noise,
}

/// All that a kernel must keep, for inputs of these shapes.
fn check(shapes: &[&[usize]], forward: Forward, backward: Backward) {
    check_with(Rounding::Bounded, shapes, forward, backward);
}

fn check_with(rounding: Rounding, shapes: &[&[usize]], forward: Forward, backward: Backward) {
    // What a kernel leaves unwritten is NaN, which equals nothing.
    poison_unwritten(true);
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, shape)| random(shape, i as u64)).collect();
    let y = forward(&inputs);
    let dy = random(y.dims(), 100);
    let gradients = backward(&inputs, &dy);
    assert_eq!(gradients.len(), inputs.len());
    for (i, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.dims(), inputs[i].dims(), "shape of the gradient of input {i}");
        let direction = random(shapes[i], 200 + i as u64);
        let at = |sign: f64| {
            let mut moved = inputs.clone();
            moved[i] = (&inputs[i] + (&direction * (sign * EPSILON)).unwrap()).unwrap();
            dot(&forward(&moved), &dy)
        };
        let (expected, found) = ((at(1.0) - at(-1.0)) / (2.0 * EPSILON), dot(gradient, &direction));
        // The directional derivative may cancel; its error is measured against the size its terms have.
        let scale = norm(gradient) * norm(&direction) / (direction.elem_count() as f64).sqrt();
        assert!((expected - found).abs() <= 1e-6 * scale.max(expected.abs()) + 1e-7, "input {i}: {found}, by differences {expected}");
    }

    let short: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(DType::F32).unwrap()).collect();
    let short_dy = dy.to_dtype(DType::F32).unwrap();
    let run = || -> Vec<Tensor> { std::iter::once(forward(&short)).chain(backward(&short, &short_dy)).collect() };
    let found = with_threads(1, run);
    for (i, (exact, found)) in std::iter::once(&y).chain(&gradients).zip(&found).enumerate() {
        let error = norm(&(exact - found.to_dtype(DType::F64).unwrap()).unwrap());
        assert!(rounding == Rounding::Noise || error <= 2e-5 * norm(exact) + 1e-6, "result {i} in f32: {error} off, size {}", norm(exact));
    }
    let same = |what: &str, others: Vec<Tensor>| {
        for (i, (a, b)) in found.iter().zip(&others).enumerate() {
            assert_eq!(numbers(a), numbers(b), "result {i} differs {what}");
        }
    };
    same("between one and two threads", with_threads(2, run));
    use_baseline(true);
    let baseline = run();
    use_baseline(false);
    same("between the baseline's code and the vectorised one", baseline);
}

fn rows() -> impl Strategy<Value = (usize, usize, usize)> {
    (1..=9usize, 1..=200usize, 1..=128usize)
}

/// Of a few numbers some row has nearly equal ones, of which a norm leaves, or its gradient takes, a difference in the last bits.
fn centred(width: usize) -> Rounding {
    if width < 8 { Rounding::Noise } else { Rounding::Bounded }
}

/// Batch, tokens, heads, half of the head width.
fn heads() -> impl Strategy<Value = (usize, usize, usize, usize)> {
    (1..=9usize, 1..=200usize, 1..=3usize, 4..=64usize)
        // Scores of all heads are kept small enough for a test.
        .prop_filter("too many scores", |(b, l, h, _)| b * l * l * h <= 200_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_layers((b, l, d) in rows(), outputs in 1..=130usize) {
        check(
            &[&[b, l, d], &[outputs, d], &[outputs]],
            &|x| linear(&x[0], &x[1], Some(&x[2])).unwrap(),
            &|x, dy| vec![linear_input_vjp(dy, &x[1]).unwrap(), linear_weight_vjp(&x[0], dy).unwrap(), column_sums(dy).unwrap()],
        );
    }

    // Widening is exact, so nothing may differ; columns are offset so that weights are views, as fused layers have them.
    #[test]
    fn weights_in_half_precision((b, l, d) in rows(), outputs in 1..=130usize, offset in 0..=3usize) {
        for half in [DType::BF16, DType::F16] {
            let stored = random(&[outputs + offset, d], 1).to_dtype(half).unwrap();
            let stored = stored.narrow(0, offset, outputs).unwrap();
            for precision in [DType::F32, DType::F64] {
                let wide = stored.to_dtype(precision).unwrap();
                let (x, dy) = (random(&[b, l, d], 2).to_dtype(precision).unwrap(), random(&[b, l, outputs], 3).to_dtype(precision).unwrap());
                prop_assert_eq!(numbers(&linear(&x, &stored, None).unwrap()), numbers(&linear(&x, &wide, None).unwrap()));
                prop_assert_eq!(numbers(&linear_input_vjp(&dy, &stored).unwrap()), numbers(&linear_input_vjp(&dy, &wide).unwrap()));
            }
        }
    }

    #[test]
    fn root_mean_square_norm((b, l, d) in rows()) {
        check_with(
            centred(d),
            &[&[b, l, d], &[d]],
            &|x| rms_norm(&x[0], &x[1], 1e-6).unwrap(),
            &|x, dy| {
                let (dx, dw) = rms_norm_vjp(&x[0], &x[1], 1e-6, dy).unwrap();
                vec![dx, dw]
            },
        );
    }

    #[test]
    fn layer_norm_with_modulation((b, l, d) in (1..=9usize, 1..=200usize, 2..=128usize)) {
        check_with(
            centred(d),
            &[&[b, l, d], &[b, d], &[b, d]],
            &|x| modulated_norm(&x[0], &x[1], &x[2]).unwrap(),
            &|x, dy| {
                let (dx, dshift, dscale) = modulated_norm_vjp(&x[0], &x[2], dy).unwrap();
                vec![dx, dshift, dscale]
            },
        );
    }

    #[test]
    fn gate_and_residual((b, l, d) in rows()) {
        check(
            &[&[b, l, d], &[b, d], &[b, l, d]],
            &|x| gated_residual(&x[0], &x[1], &x[2]).unwrap(),
            &|x, dy| {
                let (dgate, dh) = gated_residual_vjp(&x[1], &x[2], dy).unwrap();
                vec![dy.clone(), dgate, dh]
            },
        );
        // With the gradient of the gate known from above.
        check(
            &[&[b, l, d], &[b, d]],
            &|x| gated(&x[0], &x[1]).unwrap(),
            &|x, dy| vec![gated(dy, &x[1]).unwrap(), gated_residual_vjp(&x[1], &x[0], dy).unwrap().0],
        );
    }

    #[test]
    fn pointwise_functions((b, l, d) in rows()) {
        check(&[&[b, l, d]], &|x| gelu(&x[0]).unwrap(), &|x, dy| vec![gelu_vjp(&x[0], dy).unwrap()]);
        check(&[&[b, l, d]], &|x| silu(&x[0]).unwrap(), &|x, dy| vec![silu_vjp(&x[0], dy).unwrap()]);
        check(&[&[b, l], &[b, l]], &|x| add(&x[0], &x[1]).unwrap(), &|_, dy| vec![dy.clone(), dy.clone()]);
        check(
            &[&[b, l, d], &[b, l, d]],
            &|x| gated_gelu(&x[0], &x[1]).unwrap(),
            &|x, dy| {
                let (dgate, dvalue) = gated_gelu_vjp(&x[0], &x[1], dy).unwrap();
                vec![dgate, dvalue]
            },
        );
        let mask = random(&[b, l, d], 50);
        let mask = |x: &Tensor| mask.to_dtype(x.dtype()).unwrap();
        check(
            &[&[b, l, d]],
            &|x| relu_dropout(&x[0], &mask(&x[0])).unwrap(),
            &|x, dy| vec![relu_dropout_vjp(&x[0], &mask(&x[0]), dy).unwrap()],
        );
    }

    #[test]
    fn softmax_attention((b, l, h, half) in heads()) {
        let (qkv, scale) = ([b, l, h, 2 * half], (2.0 * half as f64).powf(-0.5));
        check(
            &[&qkv, &qkv, &qkv, &[h, l, l]],
            &|x| attention(&x[0], &x[1], &x[2], Some(&x[3]), scale).unwrap().0,
            &|x, dy| {
                let saved = attention(&x[0], &x[1], &x[2], Some(&x[3]), scale).unwrap().1;
                let g = attention_vjp(&saved, (&x[0], &x[1], &x[2]), scale, dy, BiasGradient::Compute).unwrap();
                vec![g.dq, g.dk, g.dv, g.dbias.unwrap()]
            },
        );
    }

    #[test]
    fn attention_to_other_tokens((b, l, h, half) in heads(), keys in 1..=40usize) {
        let (q, kv, scale) = ([b, l, h, 2 * half], [b, keys, h, 2 * half], (2.0 * half as f64).powf(-0.5));
        // Every kind of bias; the mask leaves the first key.
        let hidden: Vec<f64> = (0..b * keys).map(|i| if i % keys > 0 && i % 3 == 0 { -1e4 } else { 0.0 }).collect();
        let mask = Tensor::from_vec(hidden, (b, keys), &Device::Cpu).unwrap();
        for bias in [mask, random(&[h, l, keys], 70), random(&[b, h, l, keys], 71)] {
            let bias = |x: &Tensor| bias.to_dtype(x.dtype()).unwrap();
            check(
                &[&q, &kv, &kv],
                &|x| attention(&x[0], &x[1], &x[2], Some(&bias(&x[0])), scale).unwrap().0,
                &|x, dy| {
                    let (y, saved) = attention(&x[0], &x[1], &x[2], Some(&bias(&x[0])), scale).unwrap();
                    assert_eq!(numbers(&y), numbers(&attention_output(&x[0], &x[1], &x[2], Some(&bias(&x[0])), scale).unwrap()));
                    let g = attention_vjp(&saved, (&x[0], &x[1], &x[2]), scale, dy, BiasGradient::Skip).unwrap();
                    vec![g.dq, g.dk, g.dv]
                },
            );
        }
    }

    #[test]
    fn query_and_key_norm_with_rotation((b, l, h, half) in heads(), words in 1..=20usize) {
        let d = 2 * half;
        let positions: Vec<Vec<f64>> = (0..words + l).map(|i| vec![i as f64]).collect();
        let rotation = |like: &Tensor| match like.dtype() {
            DType::F64 => Rotation::new::<f64>(&positions, &[d], 10_000.0).unwrap(),
            _ => Rotation::new::<f32>(&positions, &[d], 10_000.0).unwrap(),
        };
        let streams = |x: &[Tensor]| -> Vec<[Tensor; 3]> {
            x.chunks(3).map(|x| [x[0].clone(), x[1].clone(), x[2].clone()]).collect()
        };
        fn borrowed(streams: &[[Tensor; 3]]) -> Vec<Stream<'_>> {
            streams.iter().map(|[qkv, query_scale, key_scale]| Stream { qkv, query_scale, key_scale }).collect()
        }
        check(
            &[&[b, words, 3 * h * d], &[d], &[d], &[b, l, 3 * h * d], &[d], &[d]],
            &|x| {
                let (q, k, v) = qkv_norm_rope(&borrowed(&streams(x)), &rotation(&x[0])).unwrap();
                Tensor::cat(&[q, k, v], 0).unwrap()
            },
            &|x, dy| {
                let part = |i: usize| dy.narrow(0, i * b, b).unwrap().contiguous().unwrap();
                let gradients = qkv_norm_rope_vjp(&borrowed(&streams(x)), &rotation(&x[0]), (&part(0), &part(1), &part(2))).unwrap();
                gradients.into_iter().flat_map(|g| [g.dqkv, g.dquery_scale, g.dkey_scale]).collect()
            },
        );
    }

    #[test]
    fn token_embedding(b in 1..=9usize, l in 1..=200usize, d in 1..=128usize, vocabulary in 1..=50usize) {
        let ids: Vec<u32> = (0..b * l).map(|i| (i * 7 % vocabulary) as u32).collect();
        let ids = Tensor::from_vec(ids, (b, l), &Device::Cpu).unwrap();
        check(
            &[&[vocabulary, d]],
            &|x| embedding(&x[0], &ids).unwrap(),
            &|x, dy| {
                let (table, mut gradients) = (Param { name: "table".into(), value: x[0].clone() }, Gradients::collect());
                embedding_vjp(&table, &ids, dy, &mut gradients).unwrap();
                gradients.into_map().into_values().collect()
            },
        );
    }

    #[test]
    fn losses(n in 1..=200usize, v in 2..=128usize) {
        let target = random(&[n, v], 60);
        let target = |x: &Tensor| target.to_dtype(x.dtype()).unwrap();
        let scalar = |value: f64, like: &Tensor| Tensor::new(&[value], &Device::Cpu).unwrap().to_dtype(like.dtype()).unwrap();
        let times = |gradient: Tensor, dy: &Tensor| gradient.broadcast_mul(dy).unwrap();
        check(
            &[&[n, v]],
            &|x| scalar(mean_squared_error(&x[0], &target(&x[0])).unwrap().0, &x[0]),
            &|x, dy| vec![times(mean_squared_error(&x[0], &target(&x[0])).unwrap().1, dy)],
        );
        let (ids, weights): (Vec<u32>, Vec<f64>) = (0..n).map(|i| ((i * 5 % v) as u32, 1.0 + (i % 3) as f64)).unzip();
        check(
            &[&[n, v]],
            &|x| scalar(cross_entropy(&x[0], &ids, &weights).unwrap().0, &x[0]),
            &|x, dy| vec![times(cross_entropy(&x[0], &ids, &weights).unwrap().1, dy)],
        );
    }
}
