//! Files that are mapped into memory: their pages are read when they are used, and the system may drop them where memory is short.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// How matrices of frozen layers come into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All of them, at once.
    Whole,
    /// A layer at a time, when a product needs it.
    Mapped,
}

impl Reading {
    /// [`Reading::Mapped`] where it is asked for.
    pub fn mapped(mapped: bool) -> Self {
        if mapped { Self::Mapped } else { Self::Whole }
    }
}

/// Maps a file, which must stay as it is while the map is in use: a file that is replaced by rename does, one that is overwritten or
/// cut does not.
///
/// # Errors
/// A file that cannot be opened or mapped.
pub fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    #[expect(unsafe_code, reason = "mapping a file has no safe interface")]
    // SAFETY: the map is read only. Another process that overwrites the file in place would change numbers under us; weights are written
    // by rename here and by every tool that fetches them, and nothing but numbers is ever read from the map: headers are parsed from a
    // copy, and every offset was checked against the file's length.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
    Ok(Arc::new(map))
}
