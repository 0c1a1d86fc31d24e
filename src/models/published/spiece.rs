//! The few fields of a sentencepiece model (`spiece.model`, a protobuf message `ModelProto`) that a Unigram tokenizer needs.

use std::path::Path;

use base64::Engine;

use crate::error::{Error, Result};
use crate::run::files;

/// A vocabulary with its normaliser.
#[derive(Debug, Clone, PartialEq)]
pub struct Pieces {
    /// Pieces with the logarithms of their probabilities, by id.
    pub pieces: Vec<(String, f64)>,
    /// Id of the piece for what no other covers.
    pub unknown: usize,
    /// The compiled map of letters; empty where texts are taken as they are.
    pub normaliser: Vec<u8>,
}

/// Reads a model.
///
/// # Errors
/// A file that is no such message, one whose vocabulary is not of the Unigram kind, and one without pieces.
pub fn read(path: &Path) -> Result<Pieces> {
    let bytes = files::read_bytes(path, "the tokenizer", "fetch the file with the model")?;
    parse(&bytes).map_err(|reason| Error::format("sentencepiece model", path, reason))
}

/// Bytes as a `tokenizer.json` holds them.
pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Field numbers of sentencepiece_model.proto (google/sentencepiece@v0.2.0).
mod field {
    pub const PIECES: u64 = 1;
    pub const TRAINER: u64 = 2;
    pub const NORMALISER: u64 = 3;
    pub const PIECE_TEXT: u64 = 1;
    pub const PIECE_SCORE: u64 = 2;
    pub const TRAINER_KIND: u64 = 3;
    pub const TRAINER_UNKNOWN: u64 = 40;
    pub const NORMALISER_MAP: u64 = 2;
}

/// `TrainerSpec.model_type` of a Unigram vocabulary, also the default.
const UNIGRAM: u64 = 1;

fn parse(bytes: &[u8]) -> Result<Pieces, String> {
    let mut found = Pieces { pieces: Vec::new(), unknown: 0, normaliser: Vec::new() };
    for field in fields(bytes)? {
        match field {
            (field::PIECES, Wire::Bytes(message)) => {
                let (mut text, mut score) = (None, 0.0);
                for field in fields(message)? {
                    match field {
                        (field::PIECE_TEXT, Wire::Bytes(bytes)) => {
                            text = Some(String::from_utf8(bytes.to_vec()).map_err(|error| format!("a piece is not UTF-8: {error}"))?);
                        }
                        (field::PIECE_SCORE, Wire::Four(bits)) => score = f64::from(f32::from_le_bytes(bits)),
                        _ => {}
                    }
                }
                found.pieces.push((text.ok_or("a piece has no text")?, score));
            }
            (field::TRAINER, Wire::Bytes(message)) => {
                for field in fields(message)? {
                    match field {
                        (field::TRAINER_KIND, Wire::Number(kind)) if kind != UNIGRAM => {
                            return Err(format!("its vocabulary is of kind {kind}, only {UNIGRAM} (Unigram) is known here"));
                        }
                        (field::TRAINER_UNKNOWN, Wire::Number(id)) => {
                            found.unknown = usize::try_from(id).map_err(|error| error.to_string())?
                        }
                        _ => {}
                    }
                }
            }
            (field::NORMALISER, Wire::Bytes(message)) => {
                for field in fields(message)? {
                    if let (field::NORMALISER_MAP, Wire::Bytes(map)) = field {
                        found.normaliser = map.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
    if found.unknown >= found.pieces.len() {
        return Err(format!("{} pieces, of which number {} stands for unknown text", found.pieces.len(), found.unknown));
    }
    Ok(found)
}

/// The value of a field as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wire<'a> {
    Number(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// All fields of a message, by number.
fn fields(mut rest: &[u8]) -> Result<Vec<(u64, Wire<'_>)>, String> {
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = number(&mut rest)?;
        let value = match key & 7 {
            0 => Wire::Number(number(&mut rest)?),
            1 => take(&mut rest, 8).map(|_| Wire::Eight)?,
            2 => {
                let length = number(&mut rest)?;
                Wire::Bytes(take(&mut rest, usize::try_from(length).map_err(|error| error.to_string())?)?)
            }
            5 => Wire::Four(take(&mut rest, 4)?.try_into().map_err(|_| "four bytes are four bytes")?),
            kind => return Err(format!("a field of unknown kind {kind}")),
        };
        found.push((key >> 3, value));
    }
    Ok(found)
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest.split_at_checked(n).ok_or_else(|| format!("it ends {} bytes too early", n - rest.len()))?;
    *rest = left;
    Ok(taken)
}

/// Seven bits in each byte, the lowest first; the eighth says that more follow.
fn number(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(rest, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is longer than ten bytes".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces `a` (−1) and `<unk>` (0), the second unknown, with a map of two letters.
    const SMALL: &[u8] = &[
        0x0a, 8, 0x0a, 1, b'a', 0x15, 0, 0, 0x80, 0xbf, //
        0x0a, 7, 0x0a, 5, b'<', b'u', b'n', b'k', b'>', //
        0x12, 5, 0x18, 1, 0xc0, 0x02, 1, //
        0x1a, 4, 0x12, 2, 7, 9,
    ];

    #[test]
    fn pieces_unknown_and_map_are_read() {
        let expected = Pieces { pieces: vec![("a".into(), -1.0), ("<unk>".into(), 0.0)], unknown: 1, normaliser: vec![7, 9] };
        assert_eq!(parse(SMALL).unwrap(), expected);
    }

    #[test]
    fn every_cut_is_an_error_or_a_smaller_message_and_never_a_panic() {
        for end in 0..SMALL.len() {
            if let Ok(found) = parse(&SMALL[..end]) {
                assert!(found.unknown < found.pieces.len());
            }
        }
        assert!(parse(&SMALL[..6]).unwrap_err().contains("too early"));
        assert!(parse(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
        let other = [&SMALL[..19], &[0x12, 2, 0x18, 2]].concat();
        assert!(parse(&other).unwrap_err().contains("kind 2"));
    }
}
