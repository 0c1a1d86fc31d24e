//! PyTorch's `.pth` and `.bin`: a zip archive of a pickle and the bytes of the tensors. The pickle is read as data; classes other than
//! those that tensors are made of are refused, and nothing is executed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Tensor};
use zip::ZipArchive;

use crate::error::{Error, Result};

/// The first bytes of a zip archive.
const ARCHIVE: &[u8] = b"PK\x03\x04";
/// The first bytes of what torch wrote before version 1.6.
const OLD: &[u8] = b"\x80\x02\x8a\x0a";

/// What the pickle of a state dict may name (torch/_weights_only_unpickler.py has a longer list).
const CLASSES: [(&str, &str); 6] = [
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
];

/// Types of the numbers, by the class of their storage in the module `torch`.
const STORAGES: [(&str, DType); 6] = [
    ("FloatStorage", DType::F32),
    ("DoubleStorage", DType::F64),
    ("HalfStorage", DType::F16),
    ("BFloat16Storage", DType::BF16),
    ("ByteStorage", DType::U8),
    ("LongStorage", DType::I64),
];

/// Names under which checkpoints keep their state dict beside other things.
const NESTED: [&str; 4] = ["state_dict", "model", "module", "params"];

/// Whether a file with these first four bytes was written by `torch.save`.
pub fn is_pickle(first: &[u8]) -> bool {
    first == ARCHIVE || first == OLD
}

/// All tensors of a state dict, on the CPU and in their stored types.
///
/// # Errors
/// A file that is cut off or damaged, one of the format before torch 1.6, one that names a class which tensors do not need, and one
/// without tensors.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let problem = |reason: String| Error::format("PyTorch file", path, reason);
    let mut file = BufReader::new(File::open(path).map_err(Error::io("read", path))?);
    let mut first = [0; ARCHIVE.len()];
    file.read_exact(&mut first).map_err(Error::io("read", path))?;
    if first == OLD {
        return Err(problem("it has the format that torch wrote before version 1.6; load it with torch and save it again".into()));
    }
    let damaged = |error: zip::result::ZipError| problem(format!("the archive is cut off or damaged ({error})"));
    let mut archive = ZipArchive::new(file).map_err(damaged)?;
    let names: Vec<String> = archive.file_names().filter_map(|name| name.ok().map(|name| name.into_owned())).collect();
    let mut member = |name: &str| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        archive.by_name(name).map_err(damaged)?.read_to_end(&mut bytes).map_err(|error| damaged(error.into()))?;
        Ok(bytes)
    };
    let folder = names.iter().find_map(|name| name.strip_suffix("data.pkl"));
    let folder = folder.ok_or_else(|| problem("the archive holds no `data.pkl`".into()))?;
    let order = format!("{folder}byteorder");
    if names.contains(&order) && member(&order)? != b"little" {
        return Err(problem("its numbers are big-endian".into()));
    }
    let object = parse(&member(&format!("{folder}data.pkl"))?).map_err(problem)?;
    let mut storages: BTreeMap<String, Vec<(String, Stored)>> = BTreeMap::new();
    for (name, value) in state_dict(&object).map_err(problem)? {
        let stored = Stored::of(value).ok_or_else(|| problem(format!("`{name}` is no tensor of a type that can be read")))?;
        storages.entry(stored.storage.clone()).or_default().push((name.to_owned(), stored));
    }
    let mut tensors = BTreeMap::new();
    for (storage, parts) in storages {
        let bytes = member(&format!("{folder}data/{storage}"))?;
        for (name, part) in parts {
            let numbers = part.gather(&bytes).ok_or_else(|| problem(format!("tensor `{name}` is not inside its {} bytes", bytes.len())))?;
            let tensor = Tensor::from_raw_buffer(&numbers, part.dtype, &part.size, &Device::Cpu)?;
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// The object in a pickle, if it names allowed classes only.
fn parse(bytes: &[u8]) -> Result<Object, String> {
    let mut left = bytes;
    let mut stack = Stack::empty();
    loop {
        let done = stack.read(&mut left).map_err(|error| {
            let at = bytes.len() - left.len();
            format!("its pickle breaks off or is not one of a state dict, at byte {at} of {} ({error})", bytes.len())
        })?;
        if let Some(Object::Class { module_name, class_name }) = stack.stack().last() {
            let is_storage = module_name == "torch" && STORAGES.iter().any(|(name, _)| name == class_name);
            if !is_storage && !CLASSES.contains(&(module_name, class_name)) {
                return Err(format!(
                    "its pickle names `{module_name}.{class_name}`, which may be code or a type that is not known here; nothing was executed. \
                     Where you trust it, load it with torch and save its tensors as safetensors"
                ));
            }
        }
        if done {
            break;
        }
    }
    stack.finalize().map_err(|error| format!("its pickle is empty ({error})"))
}

/// Names and values that look like tensors: of the object itself, or of the state dict in it.
fn state_dict(object: &Object) -> Result<Vec<(&str, &Object)>, String> {
    let Object::Dict(entries) = object else { return Err("it holds no state dict".into()) };
    let named = |key: &str| entries.iter().find(|(name, _)| matches!(name, Object::Unicode(name) if name == key));
    let inside = NESTED.iter().filter_map(|key| match named(key) {
        Some((_, Object::Dict(inside))) => Some(inside.as_slice()),
        _ => None,
    });
    let found = std::iter::once(entries.as_slice()).chain(inside).map(tensors).find(|tensors| !tensors.is_empty());
    found.ok_or_else(|| format!("it holds no tensors, neither itself nor as `{}`", NESTED.join("`, `")))
}

/// The entries that are made by a call, as tensors are; versions and counters beside them are not.
fn tensors(entries: &[(Object, Object)]) -> Vec<(&str, &Object)> {
    entries
        .iter()
        .filter_map(|(name, value)| match (name, value) {
            (Object::Unicode(name), Object::Reduce { .. }) => Some((name.as_str(), value)),
            _ => None,
        })
        .collect()
}

/// A tensor as a view on a member of the archive.
struct Stored {
    storage: String,
    dtype: DType,
    /// In numbers, like the strides.
    offset: usize,
    size: Vec<usize>,
    stride: Vec<usize>,
}

impl Stored {
    /// The tensor that an object stands for; `None` for anything else.
    fn of(object: &Object) -> Option<Self> {
        let [storage, offset, size, stride, ..] = rebuilt(object)? else { return None };
        let Object::PersistentLoad(storage) = storage else { return None };
        let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = tuple(storage)? else { return None };
        let (_, dtype) = STORAGES.iter().find(|(name, _)| name == class_name)?;
        let (size, stride) = (counts(size)?, counts(stride)?);
        if size.len() != stride.len() {
            return None;
        }
        Some(Self { storage: key.clone(), dtype: *dtype, offset: count(offset)?, size, stride })
    }

    /// The bytes of the tensor's numbers in row-major order; `None` where they are not inside the storage.
    fn gather(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let width = self.dtype.size_in_bytes();
        let n = self.size.iter().try_fold(1usize, |n, &side| n.checked_mul(side))?;
        if n == 0 {
            return Some(Vec::new());
        }
        let reach = self
            .size
            .iter()
            .zip(&self.stride)
            .try_fold(self.offset, |at, (&side, &stride)| at.checked_add((side - 1).checked_mul(stride)?))?;
        if reach.checked_add(1)?.checked_mul(width)? > bytes.len() {
            return None;
        }
        // A stride of zero repeats numbers, so a small file may stand for a tensor of any size.
        let mut numbers = Vec::new();
        numbers.try_reserve_exact(n.checked_mul(width)?).ok()?;
        let mut index = vec![0; self.size.len()];
        // Rows whose numbers lie side by side are copied whole.
        let run = if self.stride.last() == Some(&1) { self.size[self.size.len() - 1] } else { 1 };
        for _ in 0..n / run {
            let at = self.offset + index.iter().zip(&self.stride).map(|(i, stride)| i * stride).sum::<usize>();
            numbers.extend_from_slice(&bytes[at * width..(at + run) * width]);
            let mut step = run;
            for (i, &side) in index.iter_mut().zip(&self.size).rev() {
                *i += step;
                if *i < side {
                    break;
                }
                (*i, step) = (0, 1);
            }
        }
        Some(numbers)
    }
}

/// The arguments of `_rebuild_tensor_v2`, also where a parameter or a tensor with attributes is wrapped around it.
fn rebuilt(object: &Object) -> Option<&[Object]> {
    let Object::Reduce { callable, args } = object else { return None };
    let (Object::Class { module_name, class_name }, args) = (&**callable, tuple(args)?) else { return None };
    match (module_name.as_str(), class_name.as_str()) {
        ("torch._utils", "_rebuild_tensor_v2") => Some(args),
        ("torch._utils", "_rebuild_parameter") => rebuilt(args.first()?),
        ("torch._tensor", "_rebuild_from_type_v2") => match args {
            [Object::Class { class_name, .. }, _, inner, ..] if class_name == "_rebuild_tensor_v2" => tuple(inner),
            _ => None,
        },
        _ => None,
    }
}

fn tuple(object: &Object) -> Option<&[Object]> {
    match object {
        Object::Tuple(parts) => Some(parts),
        _ => None,
    }
}

fn count(object: &Object) -> Option<usize> {
    match *object {
        Object::Int(n) => n.try_into().ok(),
        Object::Long(n) => n.try_into().ok(),
        _ => None,
    }
}

fn counts(object: &Object) -> Option<Vec<usize>> {
    tuple(object)?.iter().map(count).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn stored(offset: usize, size: &[usize], stride: &[usize]) -> Stored {
        Stored { storage: "0".into(), dtype: DType::U8, offset, size: size.to_vec(), stride: stride.to_vec() }
    }

    #[test]
    fn views_are_gathered_in_row_major_order_and_not_beyond_their_storage() {
        let bytes: Vec<u8> = (0..12).collect();
        assert_eq!(stored(2, &[2, 3], &[3, 1]).gather(&bytes).unwrap(), [2, 3, 4, 5, 6, 7]);
        assert_eq!(stored(0, &[3, 2], &[1, 3]).gather(&bytes).unwrap(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(stored(1, &[2, 2, 2], &[6, 2, 1]).gather(&bytes).unwrap(), [1, 2, 3, 4, 7, 8, 9, 10]);
        assert_eq!(stored(5, &[], &[]).gather(&bytes).unwrap(), [5]);
        assert!(stored(0, &[0, 4], &[4, 1]).gather(&bytes).unwrap().is_empty());
        assert!(stored(7, &[2, 3], &[3, 1]).gather(&bytes).is_none());
        assert!(stored(usize::MAX, &[2], &[usize::MAX]).gather(&bytes).is_none());
    }

    /// Whatever a pickle says, reading it ends with tensors or an error.
    #[test]
    fn no_pickle_brings_the_reader_down() {
        let mut archive = ZipArchive::new(File::open("tests/fixtures/pickle.pth").unwrap()).unwrap();
        let mut original = Vec::new();
        archive.by_name("pickle/data.pkl").unwrap().read_to_end(&mut original).unwrap();
        assert_eq!(state_dict(&parse(&original).unwrap()).unwrap().len(), 11);
        let change = (any::<Index>(), any::<u8>());
        proptest!(|(changes in prop::collection::vec(change, 1..6), kept in any::<Index>(), is_cut in any::<bool>())| {
            let mut bytes = original.clone();
            for (at, value) in &changes {
                *at.get_mut(&mut bytes) = *value;
            }
            if is_cut {
                bytes.truncate(kept.index(original.len()));
            }
            let Ok(object) = parse(&bytes) else { return Ok(()) };
            for (_, value) in state_dict(&object).unwrap_or_default() {
                if let Some(tensor) = Stored::of(value) {
                    let numbers = tensor.gather(&[0; 96]);
                    prop_assert!(numbers.is_none_or(|numbers| numbers.len().is_multiple_of(tensor.dtype.size_in_bytes())));
                }
            }
        });
    }

    #[test]
    fn a_pickle_that_breaks_off_or_is_none_is_an_error() {
        assert!(parse(b"\x80\x02}q\x00X\x05\x00\x00\x00ab").unwrap_err().contains("breaks off"));
        assert!(parse(b"\x80\x04\x95").unwrap_err().contains("breaks off or is not"));
        let error = parse(b"\x80\x02cposix\nsystem\nq\x00.").unwrap_err();
        assert!(error.contains("`posix.system`") && error.contains("nothing was executed"), "{error}");
    }
}
