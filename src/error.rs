//! The one error type of the library: every variant says what failed, where, what was expected and what was found.
//! It knows the exit code and the hint that go with it; printing is left to `main.rs`.

use std::path::PathBuf;

/// Result of every fallible function of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Exit code of a build that succeeded for some sources only; the missing ones are listed.
pub const EXIT_PARTIAL: u8 = 3;
/// Exit code of a comparison of two runs whose gate failed.
pub const EXIT_REGRESSION: u8 = 4;
/// Exit code after Ctrl-C, as shells expect it (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

/// What can go wrong, with everything a user needs to act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, written or moved.
    #[error("cannot {action} `{path}`: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// An input that an earlier stage makes is not there.
    #[error("cannot read {what} from `{path}`: file not found")]
    Missing { what: String, path: PathBuf, hint: String },
    /// A file exists but its content is not what it must be.
    #[error("`{path}` is not a valid {format}: {reason}")]
    Format { format: &'static str, path: PathBuf, reason: String },
    /// A table lacks a column.
    #[error("column `{column}` is missing in `{path}`, found {found:?}")]
    Column { column: String, path: PathBuf, found: Vec<String> },
    /// A tensor of a checkpoint has the wrong shape.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}, in {path}")]
    WeightShape { name: String, found: Vec<usize>, expected: Vec<usize>, path: PathBuf },
    /// A checkpoint lacks a tensor, or holds one that no part of the network asked for.
    #[error("tensor `{name}` is {problem} in {path}")]
    WeightName { name: String, problem: &'static str, path: PathBuf },
    /// A number that must be finite is not.
    #[error("tensor `{name}` holds a non-finite value ({context})")]
    NonFinite { name: String, context: String },
    /// The user's configuration or arguments cannot be used.
    #[error("{message}")]
    Config { message: String, hint: Option<String> },
    /// Arguments of a library function do not fit together.
    #[error("{0}")]
    Invalid(String),
    /// A published file could not be downloaded.
    #[error("cannot download `{address}` to `{path}`: {reason}")]
    Download { address: String, path: PathBuf, reason: String, hint: String },
    /// A table at an address could not be read.
    #[error("cannot read `{address}`: {reason}")]
    Remote { address: String, reason: String, hint: String },
    /// Some sources of a build were missing; the rest was built.
    #[error("built without {} missing source(s): {}", missing.len(), missing.join(", "))]
    Partial { missing: Vec<String>, hint: String },
    /// A gate between two runs failed.
    #[error("{message}")]
    Regression { message: String },
    /// The user pressed Ctrl-C; state was saved.
    #[error("interrupted; finished work is kept")]
    Interrupted { hint: String },
    /// A tensor operation failed inside candle.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// A table operation failed inside polars.
    #[error("table operation failed: {0}")]
    Polars(#[from] polars::error::PolarsError),
    /// An arrow or parquet operation failed.
    #[error("parquet operation failed: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// An arrow operation failed.
    #[error("arrow operation failed: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl Error {
    /// An [`Error::Io`] builder for `map_err`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// An [`Error::Config`] with a hint.
    pub fn config(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Config { message: message.into(), hint: Some(hint.into()) }
    }

    /// An [`Error::Format`] from anything printable.
    pub fn format(format: &'static str, path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Format { format, path: path.into(), reason: reason.to_string() }
    }

    /// What to do next, where the library knows.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { hint, .. }
            | Self::Partial { hint, .. }
            | Self::Download { hint, .. }
            | Self::Remote { hint, .. }
            | Self::Interrupted { hint } => Some(hint.clone()),
            Self::Config { hint, .. } => hint.clone(),
            Self::Column { .. } => Some("name the column in the pipeline, or give a table that has it".into()),
            Self::Regression { .. } => Some("look at the images of both runs, or allow more with --max-drop".into()),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free some space and run the same command again; it goes on where it stopped".into())
            }
            Self::WeightName { .. } | Self::WeightShape { .. } => Some(
                "these are the weights of another network: compare `preset`, or the `config.json` beside the file, with its model card"
                    .into(),
            ),
            Self::Format { .. } => Some("delete the file and run the stage that makes it again, or fetch it anew".into()),
            _ => None,
        }
    }

    /// Exit code of the process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } => 2,
            Self::Partial { .. } => EXIT_PARTIAL,
            Self::Regression { .. } => EXIT_REGRESSION,
            Self::Interrupted { .. } => EXIT_INTERRUPTED,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_that_the_run_can_go_on() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::io("write", "runs/x/student.safetensors")(full);
        assert!(error.to_string().contains("runs/x/student.safetensors"));
        assert!(error.hint().is_some_and(|hint| hint.contains("goes on where it stopped")));
    }
}
