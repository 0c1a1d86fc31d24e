//! A student's folder without its run: weights and `student.json`, as `generate --encoder DIR` and the start of another student read them.

use std::path::Path;

use super::{Numbers, Provenance};
use crate::error::Result;
use crate::models::card::STUDENT_WEIGHTS;
use crate::models::student::Student;
use crate::models::weights::write_safetensors;
use crate::nn::param::Parameters;

/// Writes both files into `folder`; returns how to load them, as Markdown.
pub(super) fn write(student: &Student, provenance: &Provenance, numbers: Numbers, folder: &Path) -> Result<String> {
    provenance.card.write(folder)?;
    write_safetensors(&folder.join(STUDENT_WEIGHTS), &student.named(), numbers.dtype())?;
    Ok("```sh\nscaledown generate --encoder path/to/this/folder --prompt \"a red cube\"\n```\n\nAs the start of another student, in a \
        pipeline: `init = { weights = \"path/to/this/folder\" }`.\n"
        .to_owned())
}
