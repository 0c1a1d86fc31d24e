//! Size and speed of text encoders: scalar weights, bytes, and the time of encoding one prompt on this machine.

use std::time::Instant;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::models::TextEncoder;
use crate::stats;

/// Runs thrown away before the clock counts: caches and thread pools fill.
const WARM_UP: usize = 3;

/// Seconds per call of an encoder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    pub median: f64,
    /// First and third quartile over the runs: the spread that other work on the machine causes.
    pub quartiles: (f64, f64),
    pub runs: u64,
}

/// Bytes of `parameters` scalar weights.
pub fn bytes(parameters: u64, bytes_per_weight: u64) -> u64 {
    parameters * bytes_per_weight
}

/// Times `runs` calls on `token_ids` `[B, L]` (u32) after a few that do not count.
///
/// # Errors
/// Fewer than four runs, which have no quartiles; an encoder that gives a non-finite embedding.
pub fn encode_latency(encoder: &dyn TextEncoder, token_ids: &Tensor, runs: usize) -> Result<Latency> {
    if runs < 4 {
        return Err(Error::config(format!("{runs} runs give no quartiles of the latency"), "time at least 4 runs"));
    }
    for _ in 0..WARM_UP {
        let total = encoder.encode(token_ids)?.abs()?.sum_all()?.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?;
        if !total.is_finite() {
            return Err(Error::NonFinite { name: "text".into(), context: "while timing the encoder".into() });
        }
    }
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        std::hint::black_box(encoder.encode(token_ids)?);
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let at = |p| stats::quantile(&seconds, p);
    Ok(Latency { median: at(0.5), quartiles: (at(0.25), at(0.75)), runs: runs as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use std::time::Duration;

    struct Sleeps(Duration);

    impl TextEncoder for Sleeps {
        fn encode(&self, token_ids: &Tensor) -> Result<Tensor> {
            std::thread::sleep(self.0);
            let (batch, length) = token_ids.dims2()?;
            Ok(Tensor::ones((batch, length, 4), DType::F32, &Device::Cpu)?)
        }
    }

    struct Broken;

    impl TextEncoder for Broken {
        fn encode(&self, _: &Tensor) -> Result<Tensor> {
            Ok(Tensor::new(&[f32::NAN], &Device::Cpu)?)
        }
    }

    #[test]
    fn the_median_is_at_least_the_time_the_encoder_takes() {
        let ids = Tensor::zeros((1, 3), DType::U32, &Device::Cpu).unwrap();
        let latency = encode_latency(&Sleeps(Duration::from_millis(2)), &ids, 5).unwrap();
        assert!(latency.median >= 0.002 && latency.quartiles.0 <= latency.median && latency.median <= latency.quartiles.1);
        assert_eq!(latency.runs, 5);
    }

    #[test]
    fn a_broken_encoder_has_no_latency() {
        let ids = Tensor::zeros((1, 3), DType::U32, &Device::Cpu).unwrap();
        assert!(encode_latency(&Broken, &ids, 5).is_err());
        assert!(encode_latency(&Sleeps(Duration::ZERO), &ids, 3).is_err());
    }

    #[test]
    fn half_precision_takes_half_the_bytes() {
        assert_eq!((bytes(109_600_000, 4), bytes(109_600_000, 2)), (438_400_000, 219_200_000));
    }
}
