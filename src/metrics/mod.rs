//! Numbers about generated pictures.

pub mod ocr;
