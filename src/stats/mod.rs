//! Statistics that know nothing of text encoders: numbers in, numbers with intervals and tests out. Everything is in f64, and
//! every function states its formula's source.
//!
//! Stands below the stages, since `metrics` makes numbers with it and `report` compares runs with it.

pub mod bootstrap;
pub mod bradley_terry;
pub mod comparison;
pub mod correction;
pub mod crossed;
pub mod distribution;
pub mod line;
pub mod paired;
pub mod power;
pub mod proportion;
pub mod scores;
pub mod sign;

pub use bootstrap::{Bootstrap, Observation, Resampling, mean, percentile_interval, quantile, ratio_of_means};
pub use correction::holm;
pub use distribution::{normal_probability, normal_quantile};
pub use paired::Paired;
pub use proportion::{proportion, wilson};

/// A number with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    /// Images, or pairs of images.
    pub n: u64,
    /// Prompts; with one prompt nothing can be said about others and the interval is infinite.
    pub clusters: u64,
}
