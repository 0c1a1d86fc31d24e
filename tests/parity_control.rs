//! Flux under a ControlNet against diffusers' classes (`reference/control.py`). One test is one row of docs/parity.md; `--nocapture`
//! prints what it measured.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use scaledown::diffusion::sampler::{Conditions, sample};
use scaledown::diffusion::schedule::{Shift, flow_times};
use scaledown::models::flux::control::{Control, ControlNet, Controlled, Mode};
use scaledown::models::flux::{Flux, FluxConfig};
use scaledown::models::weights::{Weights, read_safetensors};
use scaledown::models::{Denoiser, DenoiserInput, layout};

const CALL: f64 = 1e-4;
const CHAIN: f64 = 1e-3;
/// As in the script.
const TIME: f32 = 0.6;
const GUIDANCE: f32 = 3.5;
const SCALE: f64 = 0.7;
const STEPS: usize = 4;

struct Fixture {
    tensors: BTreeMap<String, Tensor>,
    flux: Flux,
    net: ControlNet,
}

impl Fixture {
    fn read() -> Self {
        let path = Path::new("tests/fixtures/control.safetensors");
        let tensors = read_safetensors(path, &Device::Cpu).unwrap();
        let config = |depth, depth_single_blocks| FluxConfig {
            in_channels: 16,
            vec_in_dim: 24,
            context_in_dim: 20,
            hidden_size: 12,
            mlp_ratio: 4.0,
            num_heads: 2,
            depth,
            depth_single_blocks,
            axes_dim: vec![2, 2, 2],
            theta: 10_000.0,
            guidance_embed: true,
            position_step: 1.0,
        };
        let weights = |prefix: &str| {
            let named = tensors.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())));
            Weights::from_tensors(layout::flux(named.collect()).unwrap(), path, DType::F32, &Device::Cpu)
        };
        let (large, small) = (weights("flux."), weights("control."));
        let (flux, net) = (Flux::new(&config(3, 3), &large).unwrap(), ControlNet::new(&config(2, 2), Some(5), &small).unwrap());
        large.finish().unwrap();
        small.finish().unwrap();
        Self { tensors, flux, net }
    }

    fn get(&self, name: &str) -> Tensor {
        self.tensors[name].clone()
    }

    fn control(&self) -> Control {
        Control { latents: self.get("image"), mode: Some(Mode::Depth), scale: SCALE }
    }

    fn input(&self) -> DenoiserInput {
        let both = |value: f32| Tensor::new(&[value, value], &Device::Cpu).unwrap();
        let (latents, pooled) = (self.get("latents"), self.get("pooled"));
        DenoiserInput { latents, time: both(TIME), guidance: both(GUIDANCE), pooled, text_mask: None }
    }
}

fn close(row: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{row}");
    let norm = |x: &Tensor| f64::from(x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
    let error = norm(&(found - expected).unwrap()) / norm(expected);
    println!("{row}: {error:.1e}");
    assert!(norm(expected) > 1e-3 && error <= tolerance, "{row}: relative error {error:e}, at most {tolerance:e} is allowed");
}

#[test]
fn control_residuals() {
    let fixture = Fixture::read();
    let residuals = fixture.net.residuals(&fixture.input(), &fixture.get("text"), &fixture.control()).unwrap();
    assert_eq!((residuals.double.len(), residuals.single.len()), (2, 2));
    for i in 0..2 {
        close(&format!("double {i}"), &residuals.double[i], &fixture.get(&format!("double.{i}")), CALL);
        close(&format!("single {i}"), &residuals.single[i], &fixture.get(&format!("single.{i}")), CALL);
    }
}

#[test]
fn control_denoiser_call() {
    let fixture = Fixture::read();
    let controlled = Controlled { denoiser: &fixture.flux, net: &fixture.net, control: &fixture.control() };
    close("velocity", &controlled.velocity(&fixture.input(), &fixture.get("text")).unwrap(), &fixture.get("velocity"), CALL);
}

#[test]
fn control_generation() {
    let fixture = Fixture::read();
    let controlled = Controlled { denoiser: &fixture.flux, net: &fixture.net, control: &fixture.control() };
    let DenoiserInput { latents, guidance, pooled, .. } = fixture.input();
    let conditions = Conditions { pooled, guidance, text_mask: None };
    let times = flow_times(STEPS, 9, Shift::None).unwrap();
    let found = sample(&controlled, &latents, &fixture.get("text"), &conditions, &times).unwrap();
    close("generation", &found, &fixture.get("generated"), CHAIN);
}
