//! Files of `torch.save` (`reference/pickles.py`) against safetensors of the same tensors, and those that must be refused.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use scaledown::error::Error;
use scaledown::models::mapped::Reading;
use scaledown::models::weights::{Bias, Weights, read, read_safetensors};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new("tests/fixtures").join(name)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Parameters, views with strides, shared storages and every type that safetensors has, too.
#[test]
fn every_tensor_of_a_state_dict_is_that_of_the_safetensors_file() {
    let found = read(&fixture("pickle.pth"), &Device::Cpu, Reading::Whole).unwrap().tensors;
    let expected = read_safetensors(&fixture("pickle.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        let found = &found[name];
        assert_eq!((found.dtype(), found.dims()), (expected.dtype(), expected.dims()), "{name}");
        assert_eq!(numbers(found), numbers(expected), "{name}");
    }
    assert_eq!(expected["turned"].dims(), [4, 3]);
}

#[test]
fn a_state_dict_beside_other_things_is_found_and_loads_as_a_layer() {
    let weights = Weights::load(&fixture("pickle_nested.pth"), DType::F32, &Device::Cpu).unwrap();
    let tensors = read(&fixture("pickle_nested.pth"), &Device::Cpu, Reading::Whole).unwrap().tensors;
    assert_eq!(tensors.keys().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(weights.tensor("weight", &[3, 2], scaledown::models::weights::Init::Zeros).unwrap().dims(), [3, 2]);
    assert!(matches!(weights.finish(), Err(Error::WeightName { .. })));
    assert!(weights.linear("layer", 2, 3, Bias::With).is_err());
}

#[test]
fn a_pickle_with_code_names_the_class_and_old_and_broken_files_say_so() {
    let refused = |path: &Path, words: &[&str]| {
        let error = read(path, &Device::Cpu, Reading::Whole).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "`{word}` is missing in: {error}");
        }
        assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    };
    refused(&fixture("pickle_code.pth"), &["`posix.getcwd`", "nothing was executed", "safetensors"]);
    refused(&fixture("pickle_old.pth"), &["before version 1.6"]);
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(fixture("pickle.pth")).unwrap();
    // Wherever it is cut off, the list of its members at the end is missing.
    for kept in [5, bytes.len() / 2, bytes.len() - 1] {
        let path = folder.path().join("cut.pth");
        std::fs::write(&path, &bytes[..kept]).unwrap();
        refused(&path, &["cut off or damaged"]);
    }
}
