//! The network that marks the pixels of words: a small U-Net that works at half resolution, since words are many pixels
//! high. Its ONNX form fulfils the contract of ocrs: a greyscale image in, one probability per pixel out.

// B batch, H height, W width.

use candle_core::Tensor;

use super::onnx::{ConvWalk, Dim, Graph};
use crate::error::Result;
use crate::models::convolution::{Walk, convolve};
use crate::models::weights::{Init, Weights};

/// Side of the square image the detector sees, in pixels.
pub const SIDE: usize = 128;
/// Pixels by which word boxes are shrunk in training; ocrs grows what it finds by as much.
pub const SHRINK: f64 = 3.0;
/// Image pixels per pixel of the network's own output.
pub const STRIDE: usize = 2;

// Channels at 1/2, 1/4 and 1/8 of the image.
const WIDTHS: [usize; 3] = [12, 24, 32];

/// One convolution with bias, and how it walks.
pub(super) struct Conv {
    pub weight: Tensor,
    pub bias: Tensor,
    walk: Walk,
}

impl Conv {
    /// Weight `[to, from, height, width]`, initialised for a following rectifier (He et al. 2015).
    pub fn new(weights: &Weights, name: &str, [to, from]: [usize; 2], [height, width]: [usize; 2], walk: Walk) -> Result<Self> {
        let weights = weights.pp(name);
        let spread = (2.0 / (from * height * width) as f64).sqrt();
        let weight = weights.tensor("weight", &[to, from, height, width], Init::Normal(spread))?;
        Ok(Self { weight, bias: weights.tensor("bias", &[to], Init::Zeros)?, walk })
    }

    /// `[B, H, W, C]` to `[B, H', W', O]`, for square kernels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        convolve(x, &self.weight, &self.bias, self.walk)
    }

    /// The same on `[B, C, H, W]` in a graph.
    pub fn export(&self, graph: &mut Graph, x: &str) -> Result<String> {
        let (_, _, kernel_h, kernel_w) = self.weight.dims4()?;
        let (pad_h, pad_w) = ((kernel_h / 2) as i64, (kernel_w / 2) as i64);
        let same = ConvWalk { strides: [1, 1], pads: [pad_h, pad_w, pad_h, pad_w] };
        match self.walk {
            Walk::Same => graph.conv(x, &self.weight, &self.bias, same),
            Walk::Halve => graph.conv(x, &self.weight, &self.bias, ConvWalk { strides: [2, 2], pads: [0, 0, pad_h, pad_w] }),
            Walk::Double => {
                let doubled = graph.double(x);
                graph.conv(&doubled, &self.weight, &self.bias, same)
            }
        }
    }
}

/// Finds the pixels of words.
pub struct Detection {
    down: [Conv; 3],
    middle: Conv,
    up: [Conv; 2],
    join: Conv,
    out: Conv,
}

impl Detection {
    /// The network with the given weights.
    pub fn new(weights: &Weights) -> Result<Self> {
        let conv = |name: &str, sizes, walk| Conv::new(weights, name, sizes, [3, 3], walk);
        let [a, b, c] = WIDTHS;
        Ok(Self {
            down: [conv("down.0", [a, 1], Walk::Halve)?, conv("down.1", [b, a], Walk::Halve)?, conv("down.2", [c, b], Walk::Halve)?],
            middle: conv("middle", [c, c], Walk::Same)?,
            up: [conv("up.0", [b, c], Walk::Double)?, conv("up.1", [a, b], Walk::Double)?],
            join: conv("join", [a, a], Walk::Same)?,
            out: Conv::new(weights, "out", [1, a], [1, 1], Walk::Same)?,
        })
    }

    /// Logits `[B, H/2, W/2, 1]` of "this pixel belongs to a word" for greyscale images `[B, H, W, 1]` in [-0.5, 0.5];
    /// H and W are multiples of 8.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let half = self.down[0].forward(images)?.relu()?;
        let quarter = self.down[1].forward(&half)?.relu()?;
        let eighth = self.down[2].forward(&quarter)?.relu()?;
        let eighth = (&eighth + self.middle.forward(&eighth)?.relu()?)?;
        let quarter = (&quarter + self.up[0].forward(&eighth)?)?.relu()?;
        let half = (&half + self.up[1].forward(&quarter)?)?.relu()?;
        let half = self.join.forward(&half)?.relu()?;
        self.out.forward(&half)
    }

    /// The network as an ONNX model: `[1, 1, SIDE, SIDE]` in [-0.5, 0.5] to probabilities of the same shape.
    pub fn to_onnx(&self) -> Result<Vec<u8>> {
        let dims = [Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(SIDE), Dim::Fixed(SIDE)];
        let mut graph = Graph::new(&dims);
        let g = &mut graph;
        let mut rectified = |conv: &Conv, x: &str| -> Result<String> {
            let y = conv.export(g, x)?;
            Ok(g.relu(&y))
        };
        let half = rectified(&self.down[0], "input")?;
        let quarter = rectified(&self.down[1], &half)?;
        let eighth = rectified(&self.down[2], &quarter)?;
        let middle = rectified(&self.middle, &eighth)?;
        let eighth = graph.add(&eighth, &middle);
        let mut x = eighth;
        for (conv, skip) in self.up.iter().zip([&quarter, &half]) {
            let y = conv.export(&mut graph, &x)?;
            let y = graph.add(skip, &y);
            x = graph.relu(&y);
        }
        let y = self.join.export(&mut graph, &x)?;
        let y = graph.relu(&y);
        let y = self.out.export(&mut graph, &y)?;
        let y = graph.double(&y);
        let y = graph.sigmoid(&y);
        Ok(graph.finish("detection", &y, &dims))
    }
}
