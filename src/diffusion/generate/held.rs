//! Networks that stay in memory, or are there only while they work.

use crate::error::Result;

/// Where networks are between two uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    InMemory,
    /// In their files: memory holds one part of the model at a time, and every use reads it anew.
    InFiles,
}

/// A part of the model.
pub struct Held<T> {
    kept: Option<T>,
    load: Box<dyn Fn() -> Result<T>>,
}

impl<T> Held<T> {
    /// Loads the part if it is to be kept.
    pub fn new(keep: Keep, load: impl Fn() -> Result<T> + 'static) -> Result<Self> {
        let kept = match keep {
            Keep::InMemory => Some(load()?),
            Keep::InFiles => None,
        };
        Ok(Self { kept, load: Box::new(load) })
    }

    /// Works with the part, which is loaded for it where it is not kept.
    pub fn with<R>(&self, work: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        match &self.kept {
            Some(part) => work(part),
            None => work(&(self.load)()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn a_kept_part_is_loaded_once_and_the_other_for_every_use() {
        for (keep, loads) in [(Keep::InMemory, 1), (Keep::InFiles, 3)] {
            let count = Rc::new(Cell::new(0));
            let counted = count.clone();
            let load = move || {
                counted.set(counted.get() + 1);
                Ok(7)
            };
            let held = Held::new(keep, load).unwrap();
            for _ in 0..3 {
                assert_eq!(held.with(|part| Ok(*part)).unwrap(), 7);
            }
            assert_eq!(count.get(), loads, "{keep:?}");
        }
    }
}
