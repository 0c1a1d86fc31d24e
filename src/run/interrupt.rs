//! Ctrl-C and SIGTERM as a flag that long loops look at between two steps, so that they stop with their state saved.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler; called once by `main`. A second signal ends the process at once.
pub fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(crate::error::EXIT_INTERRUPTED));
        }
        eprintln!("stopping after this step; press Ctrl-C again to stop at once");
    })
    .map_err(|error| Error::Invalid(format!("cannot install the Ctrl-C handler: {error}")))
}

/// True once a signal came.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// Fails with [`Error::Interrupted`] once a signal came; call it where the state on disk is complete.
pub fn check() -> Result<()> {
    if requested() {
        return Err(Error::Interrupted { hint: "run the same command again to go on".into() });
    }
    Ok(())
}
