//! Addresses and patterns of a configuration, ranges that servers answer with, recorded structures.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use scaledown::data::fetch::download::content_range;
use scaledown::data::fetch::remote::address;
use scaledown::data::sources::laion::fits;
use scaledown::data::structure::Structure;

fuzz_target!(|text: &str| {
    if let Ok(Some(address)) = address(Path::new(text)) {
        assert!(address.starts_with("http"));
    }
    let _ = content_range(text);
    let (name, pattern) = text.split_once('\n').unwrap_or((text, text));
    if let Ok(structure) = Structure::from_json(text) {
        let json = structure.to_json().expect("a structure is JSON");
        assert_eq!(Structure::from_json(&json), Ok(structure));
    }
    assert!(fits(name.as_bytes(), b"*"));
    if fits(name.as_bytes(), pattern.as_bytes()) && !pattern.contains(['*', '?']) {
        assert_eq!(name, pattern);
    }
});
