//! What every stage needs: files, tables, randomness, progress, interruption. Knows nothing about networks.

pub mod alloc;
pub mod context;
pub mod evaluation;
pub mod files;
pub mod hashes;
pub mod html;
pub mod hub;
pub mod interrupt;
pub mod machine;
pub mod manifest;
pub mod progress;
pub mod results;
pub mod rng;
pub mod table;
