//! Eq. 4 of the paper: the loss of the naive baseline on the embeddings. (Eq. 5 is the denoiser's own, because its
//! gradient runs through the network: `Denoiser::loss_and_text_gradient`.)

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Mean over elements of `(student − teacher)²` and its gradient with respect to `student`; both `[B, L, D]` (f32). Where the denoiser
/// does not see padding, `mask` `[B, L]` is 0 there, and the mean is over the tokens that it sees.
pub fn embedding_loss(student: &Tensor, teacher: &Tensor, mask: Option<&Tensor>) -> Result<(f64, Tensor)> {
    if student.shape() != teacher.shape() {
        return Err(Error::Invalid(format!("student's text has shape {:?}, teacher's {:?}", student.dims(), teacher.dims())));
    }
    let difference = (student - teacher)?;
    let Some(mask) = mask else {
        let loss = difference.to_dtype(DType::F64)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
        let gradient = (&difference * (2.0 / difference.elem_count() as f64))?;
        return Ok((loss, gradient));
    };
    let seen = mask.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()? * difference.dim(2)? as f64;
    let difference = difference.broadcast_mul(&mask.unsqueeze(2)?)?;
    let loss = difference.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()? / seen;
    Ok((loss, (&difference * (2.0 / seen))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn tensor(values: [f32; 4]) -> Tensor {
        Tensor::new(&values, &Device::Cpu).unwrap().reshape((1, 2, 2)).unwrap()
    }

    #[test]
    fn loss_is_the_mean_square_and_its_gradient_twice_the_difference_over_n() {
        let (loss, gradient) = embedding_loss(&tensor([1.0, 2.0, 3.0, 4.0]), &tensor([1.0, 0.0, 0.0, 0.0]), None).unwrap();
        assert_eq!(loss, (4.0 + 9.0 + 16.0) / 4.0);
        assert_eq!(gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 1.5, 2.0]);
    }

    #[test]
    fn tokens_that_are_not_seen_do_not_count() {
        let mask = Tensor::new(&[[0f32, 1.0]], &Device::Cpu).unwrap();
        let (loss, gradient) = embedding_loss(&tensor([1.0, 2.0, 3.0, 4.0]), &tensor([0.0; 4]), Some(&mask)).unwrap();
        assert_eq!(loss, (9.0 + 16.0) / 2.0);
        assert_eq!(gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0, 3.0, 4.0]);
    }

    #[test]
    fn texts_of_different_shapes_are_refused() {
        let wide = Tensor::zeros((1, 2, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(embedding_loss(&tensor([0.0; 4]), &wide, None).unwrap_err().to_string().contains("[1, 2, 3]"));
    }
}
