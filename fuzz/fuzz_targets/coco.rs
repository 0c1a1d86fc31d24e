//! A captions file of MSCOCO: pairs of different images, each with a caption, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use scaledown::data::sources::coco::parse;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((pairs, _)) = parse(bytes, 1, 10) {
        assert!(pairs.len() <= 10 && pairs.iter().all(|pair| !pair.caption.is_empty()));
    }
});
