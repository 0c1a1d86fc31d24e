//! The network that reads one line of text: convolutions over the picture of the line, then over time; no recurrence.
//! Its ONNX form fulfils the contract of ocrs: lines of fixed height in, log-probabilities of characters per step out.

// B lines, W width, T steps = W / 4, C channels, K classes.

use candle_core::{D, Tensor};

use super::ctc;
use super::detection::Conv;
use super::onnx::{ConvWalk, Dim, Graph};
use crate::error::{Error, Result};
use crate::models::convolution::Walk;
use crate::models::weights::Weights;

/// Height of the line images, in pixels.
pub const HEIGHT: usize = 32;
/// Pixels of width per step.
pub const STRIDE: usize = 4;
/// The characters of ocrs in the order of its classes 1, 2, …; the `E` before `A` stands for the euro sign.
pub const ALPHABET: &str = " 0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~EABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Characters and the blank.
pub const CLASSES: usize = 97;

const WIDTHS: [usize; 4] = [24, 32, 48, 64];
const TIME_WIDTH: usize = 112;
const TIME_LAYERS: usize = 2;
/// Height of the feature map, all of which the first layer over time sees.
const ROWS: usize = HEIGHT / STRIDE;

/// Reads lines of text.
pub struct Recognition {
    pixels: [Conv; 4],
    columns: Conv,
    time: Vec<Conv>,
    out: Conv,
}

impl Recognition {
    /// The network with the given weights.
    pub fn new(weights: &Weights) -> Result<Self> {
        let [a, b, c, d] = WIDTHS;
        let pixel = |name: &str, sizes, walk| Conv::new(weights, name, sizes, [3, 3], walk);
        let time = |i: usize| Conv::new(weights, &format!("time.{i}"), [TIME_WIDTH, TIME_WIDTH], [1, 3], Walk::Same);
        Ok(Self {
            pixels: [
                pixel("pixels.0", [a, 1], Walk::Halve)?,
                pixel("pixels.1", [b, a], Walk::Same)?,
                pixel("pixels.2", [c, b], Walk::Halve)?,
                pixel("pixels.3", [d, c], Walk::Same)?,
            ],
            columns: Conv::new(weights, "columns", [TIME_WIDTH, d], [ROWS, 1], Walk::Same)?,
            time: (0..TIME_LAYERS).map(time).collect::<Result<_>>()?,
            out: Conv::new(weights, "out", [CLASSES, TIME_WIDTH], [1, 1], Walk::Same)?,
        })
    }

    /// Log-probabilities `[B, T, K]` for greyscale lines `[B, 32, W, 1]` in [-0.5, 0.5], W a multiple of 4.
    pub fn forward(&self, lines: &Tensor) -> Result<Tensor> {
        let mut x = lines.clone();
        for conv in &self.pixels {
            x = conv.forward(&x)?.relu()?;
        }
        let (b, rows, t, c) = x.dims4()?;
        if rows != ROWS {
            return Err(Error::Invalid(format!("lines are {} pixels high, expected {HEIGHT}", lines.dim(1)?)));
        }
        let x = x.transpose(1, 2)?.reshape((b * t, rows * c))?;
        // [O, C, rows, 1] to [rows · C, O], in the order of the numbers of one column.
        let weight = self.columns.weight.squeeze(3)?.permute((2, 1, 0))?.reshape((rows * c, TIME_WIDTH))?;
        let mut x = x.matmul(&weight)?.broadcast_add(&self.columns.bias)?.relu()?.reshape((b, t, TIME_WIDTH))?;
        for conv in &self.time {
            x = (&x + over_time(conv, &x)?.relu()?)?;
        }
        Ok(candle_nn::ops::log_softmax(&over_time(&self.out, &x)?, D::Minus1)?)
    }

    /// Mean CTC loss of `labels` (classes per line) under log-probabilities `[B, T, K]`, as a number and as a tensor with
    /// the right gradient (its own value has no meaning). Padding counts as part of a line: the engine decodes it too.
    pub fn loss(log_probabilities: &Tensor, labels: &[Vec<usize>]) -> Result<(f64, Tensor)> {
        let (b, t, k) = log_probabilities.dims3()?;
        if labels.len() != b {
            return Err(Error::Invalid(format!("{} labels for {b} lines", labels.len())));
        }
        let values = log_probabilities.flatten_all()?.to_vec1::<f32>()?;
        let mut gradient = Vec::with_capacity(values.len());
        let mut total = 0.0;
        for (line, labels) in values.chunks_exact(t * k).zip(labels) {
            let one = ctc::loss(line, k, labels)?;
            total += one.loss;
            gradient.extend(one.gradient);
        }
        let gradient = (Tensor::from_vec(gradient, (b, t, k), log_probabilities.device())? / b as f64)?;
        // The derivative of Σ x·g by x is g.
        Ok((total / b as f64, (log_probabilities * gradient)?.sum_all()?))
    }

    /// The network as an ONNX model: `[N, 1, 32, W]` in [-0.5, 0.5] to log-probabilities `[T, N, K]`.
    pub fn to_onnx(&self) -> Result<Vec<u8>> {
        let mut graph = Graph::new(&[Dim::Symbolic("batch"), Dim::Fixed(1), Dim::Fixed(HEIGHT), Dim::Symbolic("width")]);
        let mut x = "input".to_owned();
        for conv in &self.pixels {
            let y = conv.export(&mut graph, &x)?;
            x = graph.relu(&y);
        }
        let whole = ConvWalk { strides: [1, 1], pads: [0; 4] };
        let y = graph.conv(&x, &self.columns.weight, &self.columns.bias, whole)?;
        let mut x = graph.relu(&y);
        for conv in &self.time {
            let y = conv.export(&mut graph, &x)?;
            let y = graph.relu(&y);
            x = graph.add(&x, &y);
        }
        let y = self.out.export(&mut graph, &x)?;
        let y = graph.squeeze(&y, 2);
        let y = graph.transpose(&y, &[2, 0, 1]);
        let y = graph.log_softmax(&y, 2);
        Ok(graph.finish("recognition", &y, &[Dim::Symbolic("steps"), Dim::Symbolic("batch"), Dim::Fixed(CLASSES)]))
    }
}

/// A convolution with kernel `[1, K]` over `[B, T, C]`, as one product of the neighbouring steps with the weight.
fn over_time(conv: &Conv, x: &Tensor) -> Result<Tensor> {
    let (b, t, c) = x.dims3()?;
    let (o, _, _, kernel) = conv.weight.dims4()?;
    let padded = x.pad_with_zeros(1, kernel / 2, kernel / 2)?;
    let shifted = (0..kernel).map(|k| padded.narrow(1, k, t)).collect::<candle_core::Result<Vec<_>>>()?;
    let gathered = Tensor::cat(&shifted, 2)?.reshape((b * t, kernel * c))?;
    let weight = conv.weight.squeeze(2)?.permute((2, 1, 0))?.reshape((kernel * c, o))?;
    Ok(gathered.matmul(&weight)?.broadcast_add(&conv.bias)?.reshape((b, t, o))?)
}

/// Classes of a text.
///
/// # Errors
/// A character outside the alphabet.
pub fn classes(text: &str) -> Result<Vec<usize>> {
    let class = |c: char| {
        // The last place: `E` occurs twice, first for the euro sign.
        ALPHABET.chars().collect::<Vec<_>>().iter().rposition(|&other| other == c).map(|place| place + 1)
    };
    text.chars().map(|c| class(c).ok_or_else(|| Error::Invalid(format!("`{c}` is no character of the text reader")))).collect()
}

/// The text of classes that [`ctc::decode_greedy`] gave; unknown classes are left out.
pub fn text(classes: &[usize]) -> String {
    classes.iter().filter_map(|&class| ALPHABET.chars().nth(class.checked_sub(1)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_text_are_inverse() {
        assert_eq!(ALPHABET.chars().count() + 1, CLASSES);
        assert_eq!(text(&classes("Eagle 9!").unwrap()), "Eagle 9!");
        assert_eq!(classes(" z").unwrap(), [1, 96]);
        assert!(classes("ß").is_err());
    }
}
