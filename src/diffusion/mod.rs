//! Sampling with a frozen denoiser: noise, times, Euler steps, and the stage that makes the images of one text encoder.

pub mod generate;
pub mod latents;
pub mod sampler;
pub mod schedule;
pub mod scheduler;
pub mod variance;
