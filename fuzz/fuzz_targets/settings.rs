//! The list of sources and the `[data]` table of a pipeline: valid settings, or an error.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use scaledown::data::build::Config;
use scaledown::data::fetch::registry::Registry;

fuzz_target!(|text: &str| {
    if let Ok(registry) = Registry::parse(text, Path::new("sources.toml")) {
        for source in &registry.source {
            for file in &source.files {
                // Nothing may be written outside of the folder of the sources.
                assert!(source.target(file).components().all(|part| matches!(part, Component::Normal(_))));
                assert!(source.address(file).starts_with(&source.base));
            }
        }
    }
    if let Ok(config) = toml::from_str::<Config>(text) {
        let _ = config.check();
        let _ = config.validation_sets();
    }
});
