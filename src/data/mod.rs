//! Prompts: their table, where they come from, and what happens to them before a network sees them. Knows no networks.

pub mod audit;
pub mod build;
pub mod clean;
pub mod export;
pub mod fetch;
pub mod flags;
pub mod frame;
pub mod leak;
pub mod mixture;
pub mod near;
pub mod schema;
pub mod sources;
pub mod split;
pub mod structure;
pub mod tokens;
