//! What a file of weights holds: tensors, and matrices that stay in its blocks. Both can be given other names.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::layout::Named;
use crate::error::Result;
use crate::nn::quantised::Quantised;

/// Tensors and matrices, by name.
#[derive(Debug, Default)]
pub struct Contents {
    /// In their stored types.
    pub tensors: Named,
    /// Matrices of frozen layers in their blocks.
    pub quantised: BTreeMap<String, Quantised>,
}

impl Contents {
    /// The same under the names of `layout`. Matrices that it renames, cuts or joins by rows stay in their blocks; if it does anything
    /// else, they are widened for it.
    ///
    /// # Errors
    /// Those of `layout`.
    pub fn in_layout(self, layout: impl Fn(Named) -> Result<Named>) -> Result<Self> {
        let Self { mut tensors, quantised } = self;
        if quantised.is_empty() {
            return Ok(Self { tensors: layout(tensors)?, quantised });
        }
        let matrices: Vec<&Quantised> = quantised.values().collect();
        let mut shown = tensors.clone();
        for (i, (name, matrix)) in quantised.iter().enumerate() {
            shown.insert(name.clone(), marks(i, matrix.dims()[0])?);
        }
        // A layout that calculates with weights fails on marks, or leaves none of them.
        if let Ok(renamed) = layout(shown)
            && let Some(contents) = gathered(renamed, &matrices)?
        {
            return Ok(contents);
        }
        for (name, matrix) in quantised {
            tensors.insert(name, matrix.widen()?);
        }
        Ok(Self { tensors: layout(tensors)?, quantised: BTreeMap::new() })
    }
}

/// Bits of a mark for the row; those above are for the matrix.
const ROW_BITS: u32 = 32;
/// Sign of a mark, so that no tensor of a file is taken for one.
const MARK: i64 = 1 << 62;

/// A column `[rows, 1]` in place of matrix `i`: each number tells matrix and row.
fn marks(i: usize, rows: usize) -> Result<Tensor> {
    let marks: Vec<i64> = (0..rows).map(|row| MARK | ((i as i64) << ROW_BITS) | row as i64).collect();
    Ok(Tensor::from_vec(marks, (rows, 1), &Device::Cpu)?)
}

/// The matrices whose rows the marks name, and the other tensors; `None` where marks were turned into something else.
fn gathered(renamed: Named, matrices: &[&Quantised]) -> Result<Option<Contents>> {
    let mut contents = Contents::default();
    for (name, tensor) in renamed {
        let marks = if tensor.dtype() == DType::I64 { tensor.flatten_all()?.to_vec1::<i64>()? } else { Vec::new() };
        if !marks.iter().any(|mark| mark & MARK != 0) {
            contents.tensors.insert(name, tensor);
            continue;
        }
        let parts = runs(&marks).into_iter().map(|(i, first, n)| matrices.get(i)?.narrow(0, first, n).ok());
        let stacked = parts.collect::<Option<Vec<_>>>().and_then(|parts| Quantised::stack(&parts).ok());
        match stacked.filter(|_| tensor.dims() == [marks.len(), 1]) {
            Some(matrix) => drop(contents.quantised.insert(name, matrix)),
            None => return Ok(None),
        }
    }
    Ok(Some(contents))
}

/// Rows that follow each other in one matrix: matrix, first row, count.
fn runs(marks: &[i64]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for mark in marks {
        let mark = mark & !MARK;
        let (i, row) = ((mark >> ROW_BITS) as usize, (mark & ((1 << ROW_BITS) - 1)) as usize);
        match runs.last_mut() {
            Some((of, first, n)) if *of == i && *first + *n == row => *n += 1,
            _ => runs.push((i, row, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::quantised::Blocks;

    fn contents() -> Contents {
        let numbers = |from: usize, rows: usize| (0..rows * 32).flat_map(|i| ((from + i) as f32).to_le_bytes()).collect::<Vec<u8>>();
        let matrix = |from, rows| Quantised::new(Blocks::F32, numbers(from, rows), [rows, 32]).unwrap();
        let bias = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        Contents {
            tensors: Named::from([("b".to_owned(), bias)]),
            quantised: BTreeMap::from([("q".to_owned(), matrix(0, 2)), ("k".to_owned(), matrix(1000, 3))]),
        }
    }

    fn wide(contents: Contents) -> BTreeMap<String, Vec<f32>> {
        let wide = contents.quantised.iter().map(|(name, matrix)| (name.clone(), matrix.widen().unwrap()));
        wide.chain(contents.tensors).map(|(name, tensor)| (name, tensor.flatten_all().unwrap().to_vec1().unwrap())).collect()
    }

    #[test]
    fn rows_that_are_renamed_cut_joined_and_swapped_stay_in_their_blocks() {
        let layout = |mut tensors: Named| -> Result<Named> {
            let (q, k) = (tensors.remove("q").unwrap(), tensors.remove("k").unwrap());
            let joined = Tensor::cat(&[k.narrow(0, 1, 2)?, q], 0)?;
            tensors.extend([("joined".to_owned(), joined), ("first".to_owned(), k.narrow(0, 0, 1)?)]);
            Ok(tensors)
        };
        let kept = contents().in_layout(layout).unwrap();
        assert_eq!(kept.quantised.keys().collect::<Vec<_>>(), ["first", "joined"]);
        assert_eq!(kept.quantised["joined"].dims(), [4, 32]);
        let dense: Named = contents().quantised.iter().map(|(name, matrix)| (name.clone(), matrix.widen().unwrap())).collect();
        let expected = Contents { tensors: layout(dense).unwrap(), quantised: BTreeMap::new() };
        let mut found = wide(kept);
        assert_eq!(found.remove("b"), Some(vec![1.0, 2.0]));
        assert_eq!(found, wide(expected));
    }

    #[test]
    fn a_layout_that_calculates_or_turns_gets_numbers_and_one_that_leaves_out_does_not() {
        let halved = |mut tensors: Named| -> Result<Named> {
            let q = tensors.remove("q").unwrap();
            let factors = Tensor::full(0.5f32, (1, 32), &Device::Cpu)?;
            tensors.insert("q".into(), q.broadcast_mul(&factors)?);
            Ok(tensors)
        };
        let found = contents().in_layout(halved).unwrap();
        assert!(found.quantised.is_empty());
        assert_eq!(wide(found)["q"][2], 1.0);
        let turned = |mut tensors: Named| -> Result<Named> {
            let q = tensors.remove("q").unwrap();
            tensors.insert("q".into(), q.t()?);
            Ok(tensors)
        };
        let found = contents().in_layout(turned).unwrap();
        assert_eq!((found.quantised.len(), found.tensors["q"].dims()), (0, [32, 2].as_slice()));
        let without = |mut tensors: Named| -> Result<Named> {
            tensors.remove("k");
            Ok(tensors)
        };
        let found = contents().in_layout(without).unwrap();
        assert_eq!((found.quantised.len(), found.tensors.len()), (1, 1));
    }
}
