//! Texts to token ids, through a Hugging Face `tokenizer.json`. Padding and the end of a text follow the family: T5 has
//! `<pad>` and `</s>`; CLIP ends and pads with `<|endoftext|>`.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::run::files::read_bytes;

/// Fills the end of short texts in T5's vocabularies.
pub const PAD: &str = "<pad>";
/// Ends every text in T5's vocabularies.
pub const EOS: &str = "</s>";
/// Stands for what no piece covers in T5's vocabularies.
pub const UNKNOWN: &str = "<unk>";
/// Stands for the space before a word.
pub const WORD_START: char = '▁';

const CLIP_EOS: &str = "<|endoftext|>";

/// A tokenizer that gives every text the same length.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pad: u32,
    eos: u32,
}

impl Tokenizer {
    /// Loads a `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_bytes(path, "the tokenizer", "the file `tokenizer.json` belongs to the text encoder's weights")?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| Error::format("tokenizer", path, error))?;
        Self::new(inner).map_err(|error| Error::format("tokenizer", path, error))
    }

    /// Wraps a tokenizer whose vocabulary is of the T5 or the CLIP family.
    pub fn new(mut inner: tokenizers::Tokenizer) -> Result<Self> {
        // Length is this type's business; a file may carry its own wishes.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Error::Invalid(format!("cannot lift truncation: {error}")))?;
        let t5 = inner.token_to_id(PAD).zip(inner.token_to_id(EOS));
        let clip = inner.token_to_id(CLIP_EOS).map(|id| (id, id));
        let (pad, eos) =
            t5.or(clip).ok_or_else(|| Error::Invalid(format!("the vocabulary has neither `{PAD}` and `{EOS}` nor `{CLIP_EOS}`")))?;
        Ok(Self { inner, pad, eos })
    }

    /// The same tokenizer, which fills short texts with another piece.
    pub fn padded_with(mut self, piece: &str) -> Result<Self> {
        self.pad = self.piece_to_id(piece).ok_or_else(|| Error::Invalid(format!("the vocabulary has no `{piece}` to pad with")))?;
        Ok(self)
    }

    /// Ids `[B, length]` (u32, on the CPU) of B texts: each ends with the end piece, also where it is cut, and is padded.
    pub fn encode(&self, texts: &[impl AsRef<str>], length: usize) -> Result<Tensor> {
        if length == 0 {
            return Err(Error::Invalid("texts cannot be encoded to length 0".into()));
        }
        let mut ids = Vec::with_capacity(texts.len() * length);
        for text in texts {
            let mut row = self.ids(text.as_ref())?;
            if row.len() > length {
                row.truncate(length - 1);
                row.push(self.eos);
            }
            row.resize(length, self.pad);
            ids.extend(row);
        }
        Ok(Tensor::from_vec(ids, (texts.len(), length), &Device::Cpu)?)
    }

    /// Ids of one text with its end piece, neither cut nor padded.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, true).map_err(|error| Error::Invalid(format!("cannot tokenize `{text}`: {error}")))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.last() != Some(&self.eos) {
            ids.push(self.eos);
        }
        Ok(ids)
    }

    /// The piece with this id; `None` past the end of the vocabulary.
    pub fn id_to_piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of this piece.
    pub fn piece_to_id(&self, piece: &str) -> Option<u32> {
        self.inner.token_to_id(piece)
    }

    /// The pieces of a text with its end piece, for display.
    pub fn pieces(&self, text: &str) -> Result<Vec<String>> {
        Ok(self.ids(text)?.into_iter().filter_map(|id| self.id_to_piece(id)).collect())
    }

    /// Number of ids, special pieces included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id that fills short texts.
    pub fn pad_id(&self) -> u32 {
        self.pad
    }

    /// The id that ends every text.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mini() -> Tokenizer {
        Tokenizer::load(Path::new("pipelines/mini/tokenizer.json")).unwrap()
    }

    #[test]
    fn short_texts_are_padded_and_long_ones_keep_their_end() {
        let tokenizer = mini();
        let texts = ["a red car", "a red car and a blue house on a pink background"];
        let ids = tokenizer.encode(&texts, 6).unwrap().to_vec2::<u32>().unwrap();
        let [a, red, car, and] = ["▁a", "▁red", "▁car", "▁and"].map(|piece| tokenizer.piece_to_id(piece).unwrap());
        assert_eq!(ids, [[a, red, car, 1, 0, 0], [a, red, car, and, a, 1]]);
    }

    #[test]
    fn pieces_come_back_by_id() {
        let tokenizer = mini();
        assert_eq!(tokenizer.pieces("a red car").unwrap(), ["▁a", "▁red", "▁car", "</s>"]);
        assert_eq!(tokenizer.id_to_piece(0).unwrap(), PAD);
        assert_eq!(tokenizer.id_to_piece(tokenizer.vocab_size() as u32), None);
    }

    #[test]
    fn a_missing_file_names_itself() {
        let error = Tokenizer::load(Path::new("nowhere/tokenizer.json")).unwrap_err();
        assert!(error.to_string().contains("nowhere/tokenizer.json"));
    }
}
