//! TensorBoard's event files: TFRecord framing with masked CRC-32C around hand-encoded protocol buffers.
//!
//! Only what a training log needs: the version record and scalar summaries
//! (tensorflow@5bc9d26 tensorflow/core/util/event.proto and framework/summary.proto).

use std::path::Path;

use crate::error::Result;
use crate::run::files;

/// One named value at one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar {
    pub tag: &'static str,
    pub value: f32,
    pub step: u64,
    /// Seconds since 1970.
    pub wall_time: f64,
}

/// Writes an event file by rename.
pub fn write(path: &Path, started: f64, scalars: &[Scalar]) -> Result<()> {
    let mut bytes = record(&version_event(started));
    for scalar in scalars {
        bytes.extend(record(&scalar_event(scalar)));
    }
    files::write_bytes(path, &bytes)
}

/// TFRecord: length, its checksum, the data, their checksum; all little-endian.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut bytes = length.to_vec();
    bytes.extend(masked_crc32c(&length).to_le_bytes());
    bytes.extend(data);
    bytes.extend(masked_crc32c(data).to_le_bytes());
    bytes
}

/// `Event { wall_time = 1, file_version = 3 }`.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    put_bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } } }`.
fn scalar_event(scalar: &Scalar) -> Vec<u8> {
    let mut value = Vec::new();
    put_bytes(&mut value, 1, scalar.tag.as_bytes());
    put_key(&mut value, 2, 5);
    value.extend(scalar.value.to_le_bytes());
    let mut summary = Vec::new();
    put_bytes(&mut summary, 1, &value);
    let mut event = Vec::new();
    put_double(&mut event, 1, scalar.wall_time);
    put_key(&mut event, 2, 0);
    put_varint(&mut event, scalar.step);
    put_bytes(&mut event, 5, &summary);
    event
}

fn put_key(bytes: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(bytes, field << 3 | wire_type);
}

fn put_double(bytes: &mut Vec<u8>, field: u64, value: f64) {
    put_key(bytes, field, 1);
    bytes.extend(value.to_le_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_key(bytes, field, 2);
    put_varint(bytes, value.len() as u64);
    bytes.extend(value);
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// TFRecord's mask, which keeps the checksum of data that hold checksums from degenerating.
fn masked_crc32c(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, RFC 3720), bit by bit: a log holds a few hundred kilobytes.
fn crc32c(data: &[u8]) -> u32 {
    let byte = |crc: u32, &byte: &u8| (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 * (crc & 1)));
    !data.iter().fold(!0, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_digits_is_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    /// The data of each record, with both checksums verified.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc32c(&bytes[..8]).to_le_bytes(), bytes[8..12]);
            let data = &bytes[12..12 + length];
            assert_eq!(masked_crc32c(data).to_le_bytes(), bytes[12 + length..16 + length]);
            found.push(data.to_vec());
            bytes = &bytes[16 + length..];
        }
        found
    }

    /// Fields of a protocol buffer: number, varint value, and the bytes of other wire types.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let (value, length) = match key & 7 {
                0 => (varint(&mut bytes), 0),
                1 => (0, 8),
                2 => (0, varint(&mut bytes) as usize),
                5 => (0, 4),
                other => panic!("wire type {other}"),
            };
            found.push((key >> 3, value, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        found
    }

    #[test]
    fn a_written_scalar_reads_back_with_tag_value_step_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let scalar = Scalar { tag: "loss", value: 0.625, step: 300, wall_time: 1234.5 };
        write(&path, 1000.0, std::slice::from_ref(&scalar)).unwrap();
        let records = records(&std::fs::read(&path).unwrap());
        assert_eq!(fields(&records[0])[1], (3, 0, b"brain.Event:2".to_vec()));
        let event = fields(&records[1]);
        assert_eq!(event[0], (1, 0, 1234.5f64.to_le_bytes().to_vec()));
        assert_eq!((event[1].0, event[1].1), (2, 300));
        let value = fields(&fields(&event[2].2)[0].2);
        assert_eq!(value, [(1, 0, b"loss".to_vec()), (2, 0, 0.625f32.to_le_bytes().to_vec())]);
    }
}
