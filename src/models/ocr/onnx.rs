//! A small writer of ONNX models (protobuf, opset 13, IR version 8): just the operations our text networks need, every
//! attribute explicit, because the runtime takes no defaults for some of them.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// Versions that the runtime reads.
const IR_VERSION: u64 = 8;
const OPSET: u64 = 13;

// Numbers of the enums `TensorProto.DataType` and `AttributeProto.AttributeType`.
const FLOAT: u64 = 1;
const INT64: u64 = 7;
const ATTRIBUTE_INT: u64 = 2;
const ATTRIBUTE_STRING: u64 = 3;
const ATTRIBUTE_INTS: u64 = 7;

/// One size of an input or output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// Known at run time only, under this name.
    Symbolic(&'static str),
}

/// Steps and padding of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct ConvWalk {
    /// Vertical and horizontal step.
    pub strides: [i64; 2],
    /// Zeros added above, left, below and right.
    pub pads: [i64; 4],
}

/// A graph under construction: one input, a chain of operations, one output. Values are known by name.
pub struct Graph {
    nodes: Vec<Vec<u8>>,
    constants: Vec<Vec<u8>>,
    input: Vec<u8>,
    n_values: usize,
}

impl Graph {
    /// A graph whose f32 input is called `input`.
    pub fn new(input_dims: &[Dim]) -> Self {
        Self { nodes: Vec::new(), constants: Vec::new(), input: value_info("input", input_dims), n_values: 0 }
    }

    /// Convolution of `x` `[N, C, H, W]` with `weight` `[O, C, KH, KW]` plus `bias` `[O]`: `[N, O, H', W']`.
    pub fn conv(&mut self, x: &str, weight: &Tensor, bias: &Tensor, walk: ConvWalk) -> Result<String> {
        let (_, _, kernel_h, kernel_w) = weight.dims4()?;
        let (weight, bias) = (self.floats(weight)?, self.floats(bias)?);
        let attributes = [
            ints("dilations", &[1, 1]),
            int("group", 1),
            ints("kernel_shape", &[kernel_h as i64, kernel_w as i64]),
            ints("pads", &walk.pads),
            ints("strides", &walk.strides),
        ];
        Ok(self.node("Conv", &[x, &weight, &bias], &attributes))
    }

    /// max(x, 0).
    pub fn relu(&mut self, x: &str) -> String {
        self.node("Relu", &[x], &[])
    }

    /// 1 / (1 + e⁻ˣ).
    pub fn sigmoid(&mut self, x: &str) -> String {
        self.node("Sigmoid", &[x], &[])
    }

    /// Sum of two values of one shape.
    pub fn add(&mut self, a: &str, b: &str) -> String {
        self.node("Add", &[a, b], &[])
    }

    /// `x` `[N, C, H, W]` with every pixel doubled: `[N, C, 2H, 2W]`.
    pub fn double(&mut self, x: &str) -> String {
        let scales = [1f32, 1.0, 2.0, 2.0];
        let bytes: Vec<u8> = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
        let scales = self.constant(FLOAT, &[4], &bytes);
        let attributes =
            [string("coordinate_transformation_mode", "asymmetric"), string("mode", "nearest"), string("nearest_mode", "floor")];
        self.node("Resize", &[x, "", &scales], &attributes)
    }

    /// `x` without axis `axis`, whose size is one.
    pub fn squeeze(&mut self, x: &str, axis: i64) -> String {
        let axes = self.constant(INT64, &[1], &axis.to_le_bytes());
        self.node("Squeeze", &[x, &axes], &[])
    }

    /// `x` with its axes in the order `order`.
    pub fn transpose(&mut self, x: &str, order: &[i64]) -> String {
        self.node("Transpose", &[x], &[ints("perm", order)])
    }

    /// x − log Σ eˣ along `axis`.
    pub fn log_softmax(&mut self, x: &str, axis: i64) -> String {
        self.node("LogSoftmax", &[x], &[int("axis", axis)])
    }

    /// The model file: `output` is the value that becomes the graph's only output.
    pub fn finish(self, name: &str, output: &str, output_dims: &[Dim]) -> Vec<u8> {
        let mut graph = Vec::new();
        self.nodes.iter().for_each(|node| message(&mut graph, 1, node));
        text(&mut graph, 2, name);
        self.constants.iter().for_each(|constant| message(&mut graph, 5, constant));
        message(&mut graph, 11, &self.input);
        message(&mut graph, 12, &value_info(output, output_dims));
        let mut opset = Vec::new();
        text(&mut opset, 1, "");
        number(&mut opset, 2, OPSET);
        let mut model = Vec::new();
        number(&mut model, 1, IR_VERSION);
        text(&mut model, 2, "scaledown");
        message(&mut model, 7, &graph);
        message(&mut model, 8, &opset);
        model
    }

    fn node(&mut self, operation: &str, inputs: &[&str], attributes: &[Vec<u8>]) -> String {
        let output = self.fresh_name();
        let mut node = Vec::new();
        inputs.iter().for_each(|input| text(&mut node, 1, input));
        text(&mut node, 2, &output);
        text(&mut node, 3, &format!("{operation}_{output}"));
        text(&mut node, 4, operation);
        attributes.iter().for_each(|attribute| message(&mut node, 5, attribute));
        self.nodes.push(node);
        output
    }

    fn floats(&mut self, tensor: &Tensor) -> Result<String> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(self.constant(FLOAT, tensor.dims(), &bytes))
    }

    fn constant(&mut self, data_type: u64, dims: &[usize], bytes: &[u8]) -> String {
        let name = self.fresh_name();
        let mut constant = Vec::new();
        dims.iter().for_each(|&dim| number(&mut constant, 1, dim as u64));
        number(&mut constant, 2, data_type);
        text(&mut constant, 8, &name);
        message(&mut constant, 9, bytes);
        self.constants.push(constant);
        name
    }

    fn fresh_name(&mut self) -> String {
        self.n_values += 1;
        format!("v{}", self.n_values)
    }
}

fn value_info(name: &str, dims: &[Dim]) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in dims {
        let mut one = Vec::new();
        match dim {
            Dim::Fixed(size) => number(&mut one, 1, *size as u64),
            Dim::Symbolic(name) => text(&mut one, 2, name),
        }
        message(&mut shape, 1, &one);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, FLOAT);
    message(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    message(&mut kind, 1, &tensor);
    let mut info = Vec::new();
    text(&mut info, 1, name);
    message(&mut info, 2, &kind);
    info
}

fn int(name: &str, value: i64) -> Vec<u8> {
    let mut attribute = Vec::new();
    text(&mut attribute, 1, name);
    number(&mut attribute, 3, value as u64);
    number(&mut attribute, 20, ATTRIBUTE_INT);
    attribute
}

fn ints(name: &str, values: &[i64]) -> Vec<u8> {
    let mut attribute = Vec::new();
    text(&mut attribute, 1, name);
    values.iter().for_each(|&value| number(&mut attribute, 8, value as u64));
    number(&mut attribute, 20, ATTRIBUTE_INTS);
    attribute
}

fn string(name: &str, value: &str) -> Vec<u8> {
    let mut attribute = Vec::new();
    text(&mut attribute, 1, name);
    text(&mut attribute, 4, value);
    number(&mut attribute, 20, ATTRIBUTE_STRING);
    attribute
}

/// A field of wire type 0. Negative numbers come in as their two's complement in 64 bits, as protobuf's int64 wants it.
fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

/// A field of wire type 2: length, then bytes.
fn message(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn text(out: &mut Vec<u8>, field: u64, value: &str) {
    message(out, field, value.as_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_protobuf_documentation_shows() {
        let mut out = Vec::new();
        number(&mut out, 1, 150);
        assert_eq!(out, [0x08, 0x96, 0x01]);
        out.clear();
        text(&mut out, 2, "testing");
        assert_eq!(out, [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]);
        out.clear();
        number(&mut out, 3, -1i64 as u64);
        assert_eq!(out.len(), 11);
    }

    #[test]
    fn the_runtime_repeats_a_graph_computed_by_hand() {
        // Each pixel is doubled, then a 1×1 convolution computes 3x − 1, then negative numbers vanish.
        let device = candle_core::Device::Cpu;
        let weight = Tensor::new(&[[[[3f32]]]], &device).unwrap();
        let bias = Tensor::new(&[-1f32], &device).unwrap();
        let mut graph = Graph::new(&[Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(2)]);
        let x = graph.double("input");
        let x = graph.conv(&x, &weight, &bias, ConvWalk { strides: [1, 1], pads: [0; 4] }).unwrap();
        let x = graph.relu(&x);
        let model = rten::Model::load(graph.finish("test", &x, &[Dim::Symbolic("n")])).unwrap();
        let input = rten::ValueView::from_shape([1, 1, 1, 2], &[2f32, 0.25]).unwrap();
        let output: Vec<f32> = model.run_one(input.into(), None).unwrap().into_tensor::<f32>().unwrap().into_data();
        assert_eq!(output, [5.0, 5.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.0]);
    }
}
