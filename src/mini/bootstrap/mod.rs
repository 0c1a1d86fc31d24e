//! Makes the weights of the miniature world's networks. Every part is seeded and resumable.

pub mod autoencoder;
pub mod clip;
pub mod contrast;
pub mod denoiser;
pub mod text_encoder;
pub mod trainer;
