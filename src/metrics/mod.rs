//! Scores of generated images and their statistics. Every metric is a function from images and experts to numbers with
//! evidence; [`evaluate`] is the stage that runs them over everything `generate` made.

pub mod embeddings;
pub mod frechet;
pub mod stats;
pub mod tsne;
