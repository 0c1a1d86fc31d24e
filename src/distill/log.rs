//! The training log: its rows while training runs, in checkpoints as one tensor, and at the end as parquet and events.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::events::{self, Scalar};
use crate::error::{Error, Result};
use crate::run::results::TrainLogRow;

/// File of the log in a student's folder.
pub const TRAIN_LOG: &str = "train-log.parquet";
/// File of the log for TensorBoard; it recognises the part before the name.
pub const EVENTS: &str = "events.out.tfevents.scaledown";

/// Numbers per row of a checkpoint's log tensor.
const COLUMNS: usize = 7;

/// The rows as a tensor `[n, 7]` (f64; integers are exact below 2^53).
pub fn to_tensor(rows: &[TrainLogRow]) -> Result<Tensor> {
    let values: Vec<f64> = rows
        .iter()
        .flat_map(|row| {
            let (update, step) = (row.update as f64, row.denoising_step as f64);
            [update, row.loss, row.gradient_norm, row.learning_rate, row.seconds, step, row.guidance]
        })
        .collect();
    Ok(Tensor::from_vec(values, (rows.len(), COLUMNS), &Device::Cpu)?)
}

/// The rows that [`to_tensor`] wrote.
pub fn from_tensor(tensor: &Tensor) -> Result<Vec<TrainLogRow>> {
    let row = |values: Vec<f64>| match values[..] {
        [update, loss, gradient_norm, learning_rate, seconds, step, guidance] => {
            Ok(TrainLogRow { update: update as u64, loss, gradient_norm, learning_rate, seconds, denoising_step: step as u64, guidance })
        }
        _ => Err(Error::Invalid(format!("a log row has {} numbers, expected {COLUMNS}", values.len()))),
    };
    tensor.to_vec2::<f64>()?.into_iter().map(row).collect()
}

/// Writes the log as parquet and as TensorBoard events; `started` is in seconds since 1970.
pub fn write(folder: &Path, rows: &[TrainLogRow], started: f64) -> Result<()> {
    TrainLogRow::write(&folder.join(TRAIN_LOG), rows)?;
    let mut scalars = Vec::with_capacity(4 * rows.len());
    for row in rows {
        let values =
            [("loss", row.loss), ("gradient_norm", row.gradient_norm), ("learning_rate", row.learning_rate), ("guidance", row.guidance)];
        let scalar = |(tag, value)| Scalar { tag, value: value as f32, step: row.update, wall_time: started + row.seconds };
        scalars.extend(values.map(scalar));
    }
    events::write(&folder.join(EVENTS), started, &scalars)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(update: u64) -> TrainLogRow {
        TrainLogRow { update, loss: 0.1, gradient_norm: 2.0, learning_rate: 1e-4, seconds: 3.5, denoising_step: update % 20, guidance: 2.5 }
    }

    #[test]
    fn rows_survive_the_checkpoint_exactly() {
        let rows: Vec<_> = (1..30).map(row).collect();
        assert_eq!(from_tensor(&to_tensor(&rows).unwrap()).unwrap(), rows);
    }

    #[test]
    fn a_log_without_rows_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[], 0.0).unwrap();
        assert_eq!(TrainLogRow::read(&folder.path().join(TRAIN_LOG), "").unwrap(), []);
        assert!(folder.path().join(EVENTS).exists());
    }
}
