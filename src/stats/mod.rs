//! Statistics that know nothing of text encoders: numbers in, numbers with intervals and tests out. Everything is in f64, and
//! every function states its formula's source.
//!
//! Stands below the stages, since `metrics` makes numbers with it and `report` compares runs with it.

pub mod bootstrap;
pub mod distribution;
pub mod proportion;

pub use bootstrap::{Bootstrap, Observation, Resampling, mean, percentile_interval, quantile, ratio_of_means};
pub use distribution::{normal_probability, normal_quantile};
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
