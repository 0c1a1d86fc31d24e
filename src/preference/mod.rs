//! What people prefer: votes between the images of two encoders, read from the files that the blind preference page exports,
//! and what they allow to say.

pub mod analysis;
pub mod votes;
