//! Distils the text encoders of text-to-image diffusion models and measures what was kept.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod data;
pub mod diffusion;
pub mod distill;
pub mod doctor;
pub mod error;
pub mod export;
pub mod metrics;
pub mod mini;
pub mod models;
pub mod nn;
pub mod preference;
pub mod report;
pub mod run;
pub mod stages;
pub mod stats;
