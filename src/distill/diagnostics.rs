//! Signs that a student has collapsed: texts that hardly differ between prompts; and what the log says in short.
//! (Dead units are counted by `Student::dead_units`.)

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::run::results::TrainLogRow;

/// Variance between prompts of `student` `[B, L, D]`, divided by that of `teacher` `[B, L, D]`; each is summed over
/// token positions and dimensions. Near 0 where all prompts get the same text.
pub fn variance_ratio(student: &Tensor, teacher: &Tensor) -> Result<f64> {
    let (student, teacher) = (variance_between_prompts(student)?, variance_between_prompts(teacher)?);
    if teacher > 0.0 && student.is_finite() {
        return Ok(student / teacher);
    }
    let context = format!("variance between prompts: student {student}, teacher {teacher}");
    Err(Error::NonFinite { name: "variance ratio".into(), context })
}

fn variance_between_prompts(text: &Tensor) -> Result<f64> {
    let text = text.to_dtype(DType::F64)?;
    let centred = text.broadcast_sub(&text.mean_keepdim(0)?)?;
    Ok(centred.sqr()?.mean(0)?.sum_all()?.to_scalar::<f64>()?)
}

/// Mean gradient norm over the log; `None` for an empty one.
pub fn mean_gradient_norm(log: &[TrainLogRow]) -> Option<f64> {
    mean(log.iter().map(|row| row.gradient_norm))
}

/// Mean loss over the last tenth of the log (at least one row); `None` for an empty one.
pub fn final_loss(log: &[TrainLogRow]) -> Option<f64> {
    mean(log[log.len() - log.len().div_ceil(10)..].iter().map(|row| row.loss))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let n = values.len();
    (n > 0).then(|| values.sum::<f64>() / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn half_the_spread_is_a_quarter_of_the_variance_and_a_shift_changes_nothing() {
        let teacher = Tensor::new(&[[[1f32, -2.0]], [[3.0, 6.0]]], &Device::Cpu).unwrap();
        let student = ((&teacher * 0.5).unwrap() + 7.0).unwrap();
        assert!((variance_ratio(&student, &teacher).unwrap() - 0.25).abs() < 1e-12);
        let collapsed = Tensor::ones((2, 1, 2), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(variance_ratio(&collapsed, &teacher).unwrap(), 0.0);
        assert!(variance_ratio(&teacher, &collapsed).is_err());
    }

    #[test]
    fn the_final_loss_is_that_of_the_last_tenth() {
        let row = |update: u64| TrainLogRow {
            update,
            loss: update as f64,
            gradient_norm: 2.0,
            learning_rate: 0.0,
            seconds: 0.0,
            denoising_step: 0,
            guidance: 0.0,
        };
        let log: Vec<_> = (1..=20).map(row).collect();
        assert_eq!((final_loss(&log), mean_gradient_norm(&log)), (Some(19.5), Some(2.0)));
        assert_eq!((final_loss(&log[..3]), final_loss(&[])), (Some(3.0), None));
    }
}
