//! The miniature world: scenes whose prompt and ground truth come from one grammar, and the renderer that draws them.

pub mod bootstrap;
pub mod corpus;
pub mod grammar;
pub mod looks;
pub mod phrase;
pub mod reader;
pub mod render;
pub mod scene;
pub mod shapes;
pub mod tokenizer_training;
pub mod words;
