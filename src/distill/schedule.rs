//! The factor on the learning rate, by update.

use serde::{Deserialize, Serialize};

/// How the learning rate runs after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Falls to zero just after the last update, as the paper says.
    #[default]
    Linear,
    /// Stays, as in the released training script (DistillT5@2854218).
    Constant,
}

/// The learning rate over the course of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateSchedule {
    pub shape: Shape,
    /// Updates over which the rate first rises to its full value; none by default, as in the paper.
    pub warmup: u64,
}

impl RateSchedule {
    /// Factor in (0, 1] for the update number `update`, counted from 0, of `total`.
    pub fn factor(&self, update: u64, total: u64) -> f64 {
        if update < self.warmup {
            return (update + 1) as f64 / self.warmup as f64;
        }
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => (total.saturating_sub(update)) as f64 / (total - self.warmup.min(total - 1)) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_falls_by_equal_steps_and_never_reaches_zero_within_training() {
        let schedule = RateSchedule::default();
        let factors: Vec<f64> = (0..4).map(|update| schedule.factor(update, 4)).collect();
        assert_eq!(factors, [1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn warmup_rises_to_one_then_the_shape_takes_over() {
        for (shape, expected) in [(Shape::Linear, [0.5, 1.0, 1.0, 0.5]), (Shape::Constant, [0.5, 1.0, 1.0, 1.0])] {
            let schedule = RateSchedule { shape, warmup: 2 };
            let factors: Vec<f64> = (0..4).map(|update| schedule.factor(update, 4)).collect();
            assert_eq!(factors, expected, "{shape:?}");
        }
    }
}
