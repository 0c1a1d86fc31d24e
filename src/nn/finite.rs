//! The check that stands where numbers enter: NaN and infinity spread, and are found far from where they began.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Fails with the tensor's name where a value is not finite; any shape and type.
pub fn check_finite(tensor: &Tensor, name: &str, context: impl FnOnce() -> String) -> Result<()> {
    let sum = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?;
    if sum.is_finite() { Ok(()) } else { Err(Error::NonFinite { name: name.into(), context: context() }) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn one_bad_number_is_found_and_its_tensor_named() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let tensor = Tensor::new(&[1.0f32, bad, -1.0], &Device::Cpu).unwrap();
            let error = check_finite(&tensor, "latents", || "at time 0.5".into()).unwrap_err();
            assert!(matches!(&error, Error::NonFinite { name, context } if name == "latents" && context == "at time 0.5"));
        }
        check_finite(&Tensor::new(&[f32::MAX, f32::MIN], &Device::Cpu).unwrap(), "latents", String::new).unwrap();
    }
}
