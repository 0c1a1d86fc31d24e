//! Files of T2I-CompBench: every line taken apart under every category; what comes out is read back as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scaledown::data::sources::compbench::{PAPER_CATEGORIES, parse, prompts_of};
use scaledown::data::structure::Structure;

fuzz_target!(|text: &str| {
    for prompt in prompts_of(text) {
        assert!(!prompt.is_empty() && prompt.trim() == prompt);
        for category in PAPER_CATEGORIES.into_iter().chain(["complex", "non_spatial"]) {
            if let Some(structure) = parse(category, prompt) {
                assert!(!structure.objects.is_empty());
                let json = structure.to_json().expect("a structure is JSON");
                assert_eq!(Structure::from_json(&json), Ok(structure));
            }
        }
    }
});
