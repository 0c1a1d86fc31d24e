//! Files of models with flipped bits, overwritten numbers and cut ends: their readers answer with what they read or with an error that
//! names the file, and never panic or ask for more memory than the file could fill.

mod gguf_file;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::quantized::gguf_file::{self as gguf_file_format, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use scaledown::error::Result;
use scaledown::models::mapped::Reading;
use scaledown::models::published::spiece;
use scaledown::models::weights::{read, write_safetensors};
use scaledown::run::rng;

const DAMAGES: u64 = 600;
/// Where headers are; most damages hit them.
const HEAD: usize = 600;

fn tensors() -> BTreeMap<String, Tensor> {
    let ramp = |rows: usize| (Tensor::arange(0f32, (rows * 32) as f32, &Device::Cpu).unwrap() * 0.01).unwrap().reshape((rows, 32)).unwrap();
    BTreeMap::from([
        ("a.weight".to_owned(), ramp(4)),
        ("b.weight".to_owned(), ramp(3)),
        ("norm".to_owned(), ramp(1).flatten_all().unwrap()),
    ])
}

/// One of `DAMAGES` damaged copies.
fn damaged(bytes: &[u8], i: u64) -> Vec<u8> {
    let mut stream = rng::stream(rng::Key { seed: 5, purpose: "damage", item: i, draw: bytes.len() as u64 });
    let mut copy = bytes.to_vec();
    let place = |stream: &mut _| match rng::below(stream, 4) {
        0 => rng::below(stream, bytes.len()),
        _ => rng::below(stream, HEAD.min(bytes.len())),
    };
    for _ in 0..=rng::below(&mut stream, 3) {
        let at = place(&mut stream);
        match rng::below(&mut stream, 4) {
            0 => copy[at] ^= 1 << rng::below(&mut stream, 8),
            1 => copy[at] = rng::below(&mut stream, 256) as u8,
            2 => {
                let value = [0, u64::MAX, 1 << 60, 1 << 31, u64::from(u32::MAX)][rng::below(&mut stream, 5)];
                let end = (at + 8).min(copy.len());
                copy[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            _ => copy.truncate(at.max(1)),
        }
        if copy.len() < bytes.len() {
            break;
        }
    }
    copy
}

/// Reads every damaged copy of the file in `path`, and the file itself.
fn survives(path: &Path, reader: impl Fn(&Path) -> Result<()>) {
    reader(path).unwrap();
    let bytes = std::fs::read(path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("damaged");
    let mut refused = 0;
    for i in 0..DAMAGES {
        std::fs::write(&copy, damaged(&bytes, i)).unwrap();
        match catch_unwind(AssertUnwindSafe(|| reader(&copy))) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                refused += 1;
                assert!(error.to_string().contains("damaged"), "damage {i}: {error}");
            }
            Err(_) => panic!("damage {i} of `{}` makes its reader panic", path.display()),
        }
    }
    assert!(refused > DAMAGES / 4, "{refused}");
}

fn contents(reading: Reading) -> impl Fn(&Path) -> Result<()> {
    move |path| {
        let contents = read(path, &Device::Cpu, reading)?;
        for matrix in contents.quantised.values() {
            matrix.widen()?;
        }
        Ok(())
    }
}

#[test]
fn safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write_safetensors(&path, &tensors(), DType::F32).unwrap();
    survives(&path, contents(Reading::Whole));
    survives(&path, contents(Reading::Mapped));
}

#[test]
fn gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.gguf");
    gguf_file::write(&path, tensors(), GgmlDType::Q8_0);
    survives(&path, contents(Reading::Whole));
    survives(&path, contents(Reading::Mapped));
}

#[test]
fn a_gguf_file_aligned_to_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.gguf");
    let matrix = QTensor::quantize(&tensors()["a.weight"], GgmlDType::Q8_0).unwrap();
    for alignment in [Value::U8(0), Value::I16(0), Value::U32(0), Value::U32(32)] {
        let mut file = std::fs::File::create(&path).unwrap();
        gguf_file_format::write(&mut file, &[("general.alignment", &alignment)], &[("a.weight", &matrix)]).unwrap();
        let found = contents(Reading::Whole)(&path);
        match alignment.to_u32() {
            Ok(32) => found.unwrap(),
            _ => assert!(found.unwrap_err().to_string().contains("aligned to 0 bytes"), "{alignment:?}"),
        }
    }
}

#[test]
fn torch_archives() {
    for name in ["pickle.pth", "pickle_nested.pth"] {
        survives(&Path::new("tests/fixtures").join(name), contents(Reading::Whole));
    }
}

#[test]
fn sentence_pieces() {
    survives(Path::new("tests/fixtures/pipelines/pixart/tokenizer/spiece.model"), |path| spiece::read(path).map(drop));
}
