//! Scores of generated images and their statistics. Every metric is a function from images and experts to numbers with
//! evidence; [`evaluate`] is the stage that runs them over everything `generate` made.

pub mod clip_score;
pub mod compbench;
pub mod efficiency;
pub mod embeddings;
pub mod encoders;
pub mod evaluate;
pub mod experts;
pub mod frechet;
pub mod ocr;
pub mod spaces;
pub mod summary;
pub mod tsne;
