//! Students outside of a run: folders and files as `scaledown export` writes them, as DistillT5 released its own
//! (`T5EncoderWithProjection`), or as others renamed that.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::card::STUDENT_WEIGHTS;
use super::layout::Named;
use super::student::{Student, StudentConfig};
use super::weights::Weights;
use crate::error::{Error, Result};

/// Names of the weights in a folder, the first that is there: a student's of a run, the hub's, the hub's older one.
const IN_FOLDER: [&str; 3] = [STUDENT_WEIGHTS, "model.safetensors", "pytorch_model.bin"];

/// The token table, in a student's names and twice in those of `transformers`, which shares one tensor.
const SHARED: &str = "encoder.shared.weight";
const EMBEDDED: &str = "encoder.encoder.embed_tokens.weight";

/// Endings of files with weights, for folders that have one under a name of its own.
const ENDINGS: [&str; 2] = ["safetensors", "gguf"];

/// The file with the weights, where `path` may be that file or a folder with it.
///
/// # Errors
/// A folder without any of the known names, and without exactly one file of weights.
pub fn weights_file(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    if let Some(file) = IN_FOLDER.iter().map(|name| path.join(name)).find(|file| file.exists()) {
        return Ok(file);
    }
    let entries =
        path.read_dir().map_err(Error::io("read", path))?.collect::<std::io::Result<Vec<_>>>().map_err(Error::io("read", path))?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)));
    match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) => Ok(file),
        Err(_) => Err(Error::Missing {
            what: "a student's weights".into(),
            path: path.into(),
            hint: format!(
                "the folder must hold {}, or one file of {}; or name the file itself",
                IN_FOLDER.join(", "),
                ENDINGS.join(" or ")
            ),
        }),
    }
}

/// Loads a student of the sizes `config` in f32 on the CPU; `path` is a file or a folder.
///
/// # Errors
/// A tensor that is missing, unused or of another shape, by name.
pub fn load_student(config: &StudentConfig, path: &Path) -> Result<Student> {
    let weights = Weights::load(&weights_file(path)?, DType::F32, &Device::Cpu)?.in_layout(student_names)?;
    let student = Student::new(config, &weights)?;
    weights.finish()?;
    Ok(student)
}

/// A student's tensors under its own names (`encoder.shared.weight`, `encoder.encoder.block.0.…`, `final_projection.0.weight`), from
/// those or from the names of a bare T5 encoder beside the projection (`shared.weight`, `encoder.block.0.…`), and without the second
/// copy of the token table.
///
/// # Errors
/// Two token tables that differ: nobody could tell which one is meant.
pub fn student_names(tensors: Named) -> Result<Named> {
    let is_bare = !tensors.keys().any(|name| name.starts_with("encoder.encoder.") || name == SHARED);
    let own = |name: String| if is_bare && !name.starts_with("final_projection.") { format!("encoder.{name}") } else { name };
    let mut tensors: Named = tensors.into_iter().map(|(name, tensor)| (own(name), tensor)).collect();
    if let Some(embedded) = tensors.remove(EMBEDDED) {
        match tensors.get(SHARED) {
            Some(shared) if !equal(shared, &embedded)? => {
                let message = format!("`{SHARED}` and `{EMBEDDED}` should be one tensor and differ");
                return Err(Error::Invalid(message));
            }
            Some(_) => {}
            None => drop(tensors.insert(SHARED.into(), embedded)),
        }
    }
    Ok(tensors)
}

/// Whether two tensors have the same shape and numbers.
fn equal(a: &Tensor, b: &Tensor) -> Result<bool> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return Ok(false);
    }
    Ok(a.ne(b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str], value: f32) -> Named {
        names.iter().map(|name| ((*name).to_owned(), Tensor::new(&[value], &Device::Cpu).unwrap())).collect()
    }

    #[test]
    fn names_of_a_bare_encoder_get_the_students_prefix_and_its_own_stay() {
        let bare = ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "final_projection.0.weight"];
        let own = ["encoder.encoder.block.0.layer.0.SelfAttention.q.weight", "encoder.shared.weight", "final_projection.0.weight"];
        assert_eq!(student_names(named(&bare, 1.0)).unwrap().keys().collect::<Vec<_>>(), own);
        assert_eq!(student_names(named(&own, 1.0)).unwrap().keys().collect::<Vec<_>>(), own);
    }

    #[test]
    fn the_token_table_is_taken_once_whatever_it_is_called_and_must_be_one() {
        let mut both = named(&[SHARED, EMBEDDED], 1.0);
        assert_eq!(student_names(both.clone()).unwrap().keys().collect::<Vec<_>>(), [SHARED]);
        let embedded = named(&[EMBEDDED], 1.0);
        assert_eq!(student_names(embedded).unwrap().keys().collect::<Vec<_>>(), [SHARED]);
        both.extend(named(&[EMBEDDED], 2.0));
        assert!(student_names(both).unwrap_err().to_string().contains("differ"));
    }

    #[test]
    fn a_folder_without_weights_says_what_it_must_hold() {
        let folder = tempfile::tempdir().unwrap();
        let error = weights_file(folder.path()).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("model.safetensors")), "{error}");
    }
}
