//! Weights in and out: strict reading of safetensors, GGUF and PyTorch files, seeded initialisation, and parameters for candle's autograd.
//!
//! A network asks for each of its tensors once by its full checkpoint name and shape; [`Weights::finish`] then fails if
//! the file holds anything nobody asked for. The same constructor thereby loads, initialises and makes trainable.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor, Var};

use super::contents::Contents;
use super::mapped::Reading;
use super::{gguf, pickle, safetensors_file};
use crate::error::{Error, Result};
use crate::nn::linear::Linear;
use crate::nn::param::Param;
use crate::nn::quantised::Quantised;
use crate::nn::weight::{Values, Weight};
use crate::run::{files, rng};

/// How a tensor starts where no checkpoint gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Normal with this standard deviation.
    Normal(f64),
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    With,
    Without,
}

/// Whether a tensor may be handed out in the file's half precision.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Precision {
    Full,
    AsStored,
}

enum Source {
    File {
        contents: Contents,
        path: PathBuf,
    },
    Seed(u64),
    /// Names and shapes of what was asked for; the tensors handed out hold one zero.
    Recording(BTreeMap<String, Vec<usize>>),
    /// Like `Seed` (or starting from the given tensors), but every tensor is a candle variable.
    Trainable {
        seed: u64,
        start: BTreeMap<String, Tensor>,
        vars: BTreeMap<String, Var>,
    },
}

struct Inner {
    source: Source,
    taken: BTreeSet<String>,
    dtype: DType,
    device: Device,
    /// Weights of linear layers keep the half precision, or the blocks, of the file.
    keeps_half: bool,
}

/// A view on a set of weights below one name prefix; cheap to clone.
#[derive(Clone)]
pub struct Weights {
    inner: Rc<RefCell<Inner>>,
    prefix: String,
}

impl Weights {
    fn from_source(source: Source, dtype: DType, device: &Device) -> Self {
        let inner = Inner { source, taken: BTreeSet::new(), dtype, device: device.clone(), keeps_half: false };
        Self { inner: Rc::new(RefCell::new(inner)), prefix: String::new() }
    }

    /// Weights of a file, converted to `dtype`: safetensors, GGUF or PyTorch's, whatever its name says.
    pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        Ok(Self::from_contents(read(path, device, Reading::Whole)?, path, dtype, device))
    }

    /// What was read already; `origin` names it in errors.
    pub fn from_contents(contents: Contents, origin: &Path, dtype: DType, device: &Device) -> Self {
        Self::from_source(Source::File { contents, path: origin.into() }, dtype, device)
    }

    /// Leaves the weights of linear layers in bf16, f16 or quantised blocks where the file has them so: for frozen networks, whose
    /// products widen them exactly.
    pub fn keeping_half_precision(self) -> Self {
        self.inner.borrow_mut().keeps_half = true;
        self
    }

    /// Tensors that are already in memory; `origin` names them in errors.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>, origin: &Path, dtype: DType, device: &Device) -> Self {
        let contents = Contents { tensors, quantised: BTreeMap::new() };
        Self::from_source(Source::File { contents, path: origin.into() }, dtype, device)
    }

    /// Seeded initial weights; every tensor's values depend on the seed and its name only.
    pub fn initial(seed: u64, dtype: DType, device: &Device) -> Self {
        Self::from_source(Source::Seed(seed), dtype, device)
    }

    /// No weights: notes what a network asks for, and hands out tensors that take no memory, whatever their size.
    pub fn recording(dtype: DType, device: &Device) -> Self {
        Self::from_source(Source::Recording(BTreeMap::new()), dtype, device)
    }

    /// The same weights under other names, where they come from a file (see `models::layout` and [`Contents::in_layout`]).
    pub fn in_layout(self, layout: impl Fn(BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>>) -> Result<Self> {
        if let Source::File { contents, .. } = &mut self.inner.borrow_mut().source {
            *contents = std::mem::take(contents).in_layout(layout)?;
        }
        Ok(self)
    }

    /// Variables for candle's autograd, taken from `start` where it has the name, else initialised from the seed.
    pub fn trainable(seed: u64, start: BTreeMap<String, Tensor>, dtype: DType, device: &Device) -> Self {
        Self::from_source(Source::Trainable { seed, start, vars: BTreeMap::new() }, dtype, device)
    }

    /// The weights below `name.`.
    pub fn pp(&self, name: impl std::fmt::Display) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { inner: self.inner.clone(), prefix }
    }

    /// Type in which tensors are handed out.
    pub fn dtype(&self) -> DType {
        self.inner.borrow().dtype
    }

    /// Device on which tensors are handed out.
    pub fn device(&self) -> Device {
        self.inner.borrow().device.clone()
    }

    /// True where the file has `name` below this prefix, or where weights are being initialised.
    pub fn has(&self, name: &str) -> bool {
        match &self.inner.borrow().source {
            Source::File { contents, .. } => {
                let name = self.pp(name).prefix;
                contents.tensors.contains_key(&name) || contents.quantised.contains_key(&name)
            }
            _ => true,
        }
    }

    /// The tensor `name` below this prefix; it must have exactly `shape`.
    ///
    /// # Errors
    /// A missing name, another shape and a non-finite value are errors that name the tensor and the file.
    pub fn tensor(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        self.stored_tensor(name, shape, init, Precision::Full)
    }

    fn stored_tensor(&self, name: &str, shape: &[usize], init: Init, precision: Precision) -> Result<Tensor> {
        let name = self.pp(name).prefix;
        let mut inner = self.inner.borrow_mut();
        let (dtype, device) = (inner.dtype, inner.device.clone());
        let keeps_half = inner.keeps_half && precision == Precision::AsStored;
        inner.taken.insert(name.clone());
        match &mut inner.source {
            Source::File { contents, path } => {
                let widened = contents.quantised.get(&name).map(Quantised::widen).transpose()?;
                let Some(tensor) = widened.as_ref().or_else(|| contents.tensors.get(&name)) else {
                    return Err(Error::WeightName { name, problem: "missing", path: path.clone() });
                };
                if tensor.dims() != shape {
                    return Err(Error::WeightShape { name, found: tensor.dims().to_vec(), expected: shape.to_vec(), path: path.clone() });
                }
                let sum = tensor.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?;
                if !sum.is_finite() {
                    return Err(Error::NonFinite { name, context: format!("in {}", path.display()) });
                }
                if keeps_half && matches!(tensor.dtype(), DType::BF16 | DType::F16) {
                    return Ok(tensor.clone());
                }
                Ok(tensor.to_dtype(dtype)?)
            }
            Source::Seed(seed) => initial(*seed, &name, shape, init, dtype, &device),
            Source::Recording(shapes) => {
                shapes.insert(name, shape.to_vec());
                Ok(Tensor::zeros((), dtype, &device)?.broadcast_as(shape)?)
            }
            Source::Trainable { seed, start, vars } => {
                if let Some(var) = vars.get(&name) {
                    return Ok(var.as_tensor().clone());
                }
                let value = match start.get(&name) {
                    Some(tensor) if tensor.dims() == shape => tensor.to_dtype(dtype)?,
                    Some(tensor) => {
                        let path = PathBuf::from("the starting weights");
                        return Err(Error::WeightShape { name, found: tensor.dims().to_vec(), expected: shape.to_vec(), path });
                    }
                    None => initial(*seed, &name, shape, init, dtype, &device)?,
                };
                let var = Var::from_tensor(&value)?;
                let tensor = var.as_tensor().clone();
                vars.insert(name, var);
                Ok(tensor)
            }
        }
    }

    /// Like [`Weights::tensor`], as a named parameter for the explicit forward/vjp networks.
    pub fn param(&self, name: &str, shape: &[usize], init: Init) -> Result<Param> {
        Ok(Param { name: self.pp(name).prefix, value: self.tensor(name, shape, init)? })
    }

    /// A linear layer `name.weight` `[out, in]`, initialised like `1/√in`, with `name.bias` `[out]` where asked for.
    pub fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear> {
        self.linear_scaled(name, inputs, outputs, bias, (inputs as f64).powf(-0.5))
    }

    /// Like [`Weights::linear`], with the given standard deviation of the initial weight.
    pub fn linear_scaled(&self, name: &str, inputs: usize, outputs: usize, bias: Bias, std: f64) -> Result<Linear> {
        let view = self.pp(name);
        let init = if std == 0.0 { Init::Zeros } else { Init::Normal(std) };
        let bias = match bias {
            Bias::With => Some(view.param("bias", &[outputs], Init::Zeros)?),
            Bias::Without => None,
        };
        let name = view.pp("weight").prefix;
        let value = match view.blocks(&name, [outputs, inputs])? {
            Some(quantised) => Values::Quantised(quantised),
            None => Values::Dense(view.stored_tensor("weight", &[outputs, inputs], init, Precision::AsStored)?),
        };
        Ok(Linear { weight: Weight { name, value }, bias })
    }

    /// The matrix with the full name `name`, where the file has it in blocks and they are to be kept.
    fn blocks(&self, name: &str, shape: [usize; 2]) -> Result<Option<Quantised>> {
        let mut inner = self.inner.borrow_mut();
        if !inner.keeps_half {
            return Ok(None);
        }
        let Source::File { contents, path } = &inner.source else { return Ok(None) };
        let Some(matrix) = contents.quantised.get(name) else { return Ok(None) };
        let name = name.to_owned();
        if matrix.dims() != shape {
            return Err(Error::WeightShape { name, found: matrix.dims().to_vec(), expected: shape.to_vec(), path: path.clone() });
        }
        if !matrix.is_finite() {
            return Err(Error::NonFinite { name, context: format!("in {}", path.display()) });
        }
        let matrix = matrix.clone();
        inner.taken.insert(name);
        Ok(Some(matrix))
    }

    /// The variables made so far, by name; empty unless the weights are trainable.
    pub fn vars(&self) -> BTreeMap<String, Var> {
        match &self.inner.borrow().source {
            Source::Trainable { vars, .. } => vars.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Names and shapes asked for so far, where they are being recorded; empty otherwise.
    pub fn recorded(&self) -> BTreeMap<String, Vec<usize>> {
        match &self.inner.borrow().source {
            Source::Recording(shapes) => shapes.clone(),
            _ => BTreeMap::new(),
        }
    }

    /// Ends loading.
    ///
    /// # Errors
    /// A tensor of the file that no network asked for is an error with its name.
    pub fn finish(&self) -> Result<()> {
        let inner = self.inner.borrow();
        let Source::File { contents, path } = &inner.source else { return Ok(()) };
        match contents.tensors.keys().chain(contents.quantised.keys()).find(|name| !inner.taken.contains(*name)) {
            Some(name) => Err(Error::WeightName { name: name.clone(), problem: "not used by this network", path: path.clone() }),
            None => Ok(()),
        }
    }
}

fn initial(seed: u64, name: &str, shape: &[usize], init: Init, dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(match init {
        Init::Zeros => Tensor::zeros(shape, dtype, device)?,
        Init::Ones => Tensor::ones(shape, dtype, device)?,
        Init::Normal(std) => {
            let key = rng::Key { seed, purpose: "weights", item: rng::text_id(name), draw: 0 };
            let values = rng::normal(&mut rng::stream(key), shape.iter().product());
            (Tensor::from_vec(values, shape, device)? * std)?.to_dtype(dtype)?
        }
    })
}

/// What a file holds, by its first bytes: GGUF, PyTorch's archive, or safetensors.
/// PyTorch's files are read as a whole.
///
/// # Errors
/// A missing file, and one that is none of these, by what is wrong with it.
pub fn read(path: &Path, device: &Device, reading: Reading) -> Result<Contents> {
    let mut first = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        file.take(4).read_to_end(&mut first).map_err(Error::io("read", path))?;
    }
    if first == gguf::MAGIC {
        return gguf::read(path, device, reading);
    }
    if pickle::is_pickle(&first) {
        return Ok(Contents { tensors: pickle::read(path)?, quantised: BTreeMap::new() });
    }
    safetensors_file::contents(path, device, reading)
}

/// All tensors of a safetensors file, in their stored types.
///
/// # Errors
/// A missing file, and a header or content that does not parse.
pub fn read_safetensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    super::safetensors_file::read(path, device)
}

/// Writes tensors as safetensors, by rename; f16 halves the size where `dtype` says so.
pub fn write_safetensors(path: &Path, tensors: &BTreeMap<String, Tensor>, dtype: DType) -> Result<()> {
    write_safetensors_with(path, tensors, dtype, &BTreeMap::new())
}

/// Like [`write_safetensors`], with texts by key in the file's header.
pub fn write_safetensors_with(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    dtype: DType,
    metadata: &BTreeMap<&str, String>,
) -> Result<()> {
    use std::io::Write;
    let mut converted = BTreeMap::new();
    for (name, tensor) in tensors {
        converted.insert(name.clone(), tensor.to_dtype(dtype)?.to_device(&Device::Cpu)?.contiguous()?);
    }
    let metadata = (!metadata.is_empty()).then(|| metadata.iter().map(|(key, text)| ((*key).to_owned(), text.clone())).collect());
    let bytes = safetensors::serialize(&converted, metadata).map_err(|error| Error::format("safetensors file", path, error))?;
    files::write_atomic(path, |file| file.write_all(&bytes).map_err(Error::io("write", path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(folder: &Path) -> PathBuf {
        let path = folder.join("w.safetensors");
        let tensors = BTreeMap::from([("a.x".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap())]);
        write_safetensors(&path, &tensors, DType::F32).unwrap();
        path
    }

    #[test]
    fn loading_is_strict_about_names_and_shapes() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path());
        let weights = Weights::load(&path, DType::F32, &Device::Cpu).unwrap();
        assert!(weights.finish().unwrap_err().to_string().contains("`a.x` is not used"));
        assert!(matches!(weights.pp("a").tensor("y", &[2], Init::Zeros), Err(Error::WeightName { .. })));
        assert!(matches!(weights.pp("a").tensor("x", &[3], Init::Zeros), Err(Error::WeightShape { .. })));
        assert_eq!(weights.pp("a").tensor("x", &[2], Init::Zeros).unwrap().to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        weights.finish().unwrap();
    }

    #[test]
    fn linear_layers_keep_half_precision_where_asked_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let tensors = [("a.weight", &[2, 2][..]), ("a.bias", &[2]), ("norm", &[2])]
            .map(|(name, shape)| (name.to_owned(), Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()));
        write_safetensors(&path, &BTreeMap::from(tensors), DType::BF16).unwrap();
        let load = || Weights::load(&path, DType::F32, &Device::Cpu).unwrap();
        let types = |weights: Weights| {
            let layer = weights.linear("a", 2, 2, Bias::With).unwrap();
            let norm = weights.tensor("norm", &[2], Init::Ones).unwrap();
            [layer.weight.value.dense().unwrap().dtype(), layer.bias.unwrap().value.dtype(), norm.dtype()]
        };
        assert_eq!(types(load()), [DType::F32; 3]);
        assert_eq!(types(load().keeping_half_precision()), [DType::BF16, DType::F32, DType::F32]);
    }

    #[test]
    fn a_corrupt_header_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[9] = b'#';
        std::fs::write(&path, bytes).unwrap();
        let error = read_safetensors(&path, &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("w.safetensors") && error.contains("not a valid safetensors file"), "{error}");
    }

    #[test]
    fn recording_notes_what_is_asked_for_and_takes_no_memory() {
        let weights = Weights::recording(DType::F32, &Device::Cpu);
        let layer = weights.pp("a").linear("b", 1 << 20, 1 << 20, Bias::With).unwrap();
        assert_eq!(layer.weight.value.dense().unwrap().dims(), [1 << 20, 1 << 20]);
        let expected = [("a.b.bias".to_owned(), vec![1 << 20]), ("a.b.weight".to_owned(), vec![1 << 20, 1 << 20])];
        assert_eq!(weights.recorded(), BTreeMap::from(expected));
        weights.finish().unwrap();
    }

    #[test]
    fn initial_weights_depend_on_name_and_seed_only() {
        let make = |seed, name: &str| {
            let weights = Weights::initial(seed, DType::F32, &Device::Cpu);
            weights.tensor(name, &[3], Init::Normal(1.0)).unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(make(1, "a"), make(1, "a"));
        assert_ne!(make(1, "a"), make(1, "b"));
        assert_ne!(make(1, "a"), make(2, "a"));
    }
}
