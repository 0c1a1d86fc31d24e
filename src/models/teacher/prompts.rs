//! Prompts as denoisers and students see them: token ids for T5 and the student, and what the teacher's other text encoders make.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::models::TextEncoder;
use crate::models::clip::text::ClipText;
use crate::models::guidance::Negative;
use crate::models::t5::token_mask;
use crate::models::tokenizer::Tokenizer;

// B batch, L tokens of T5, K tokens of CLIP, D text width, P pooled width.

/// What the denoiser is given as pooled text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PooledText {
    /// CLIP's feature, as at inference.
    #[default]
    Clip,
    /// Zeros, as in the released training script (DistillT5@2854218).
    Zero,
}

/// The part of the conditioning that stays the teacher's under a student.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Pooled text embedding `[B, P]`; one zero for each prompt where the denoiser takes none.
    pub pooled: Tensor,
    /// CLIP's text `[B, K, D]`, which the denoiser sees before that of T5 or the student.
    pub text_before: Option<Tensor>,
    /// 1 for tokens of T5 that the denoiser sees, 0 for padding: `[B, L]`; absent where it sees all.
    pub text_mask: Option<Tensor>,
}

impl Shared {
    /// Pooled text `[B, P]` alone, as Flux has it.
    pub fn pooled(pooled: Tensor) -> Self {
        Self { pooled, text_before: None, text_mask: None }
    }

    /// Everything the denoiser reads `[B, K + L, D]` for the `text` `[B, L, D]` of T5 or the student.
    pub fn full_text(&self, text: &Tensor) -> Result<Tensor> {
        match &self.text_before {
            Some(before) => Ok(Tensor::cat(&[before, text], 1)?),
            None => Ok(text.clone()),
        }
    }

    /// The backward of [`Shared::full_text`]: `[B, K + L, D]` to `[B, L, D]`.
    pub fn own_part(&self, d_full: Tensor) -> Result<Tensor> {
        match &self.text_before {
            Some(before) => Ok(d_full.narrow(1, before.dim(1)?, d_full.dim(1)? - before.dim(1)?)?.contiguous()?),
            None => Ok(d_full),
        }
    }
}

/// Prompts as the denoiser and the student see them.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Token ids `[B, L]` (u32).
    pub ids: Tensor,
    /// The teacher's embedding `[B, L, D]`.
    pub teacher_text: Tensor,
    pub shared: Shared,
}

impl Condition {
    /// This as the negative prompt of guidance, with `text` `[B, L, D]` of the teacher or a student.
    pub fn negative(&self, text: &Tensor) -> Result<Negative> {
        let Shared { pooled, text_mask, .. } = self.shared.clone();
        Ok(Negative { text: self.shared.full_text(text)?, pooled, text_mask })
    }
}

/// Turns prompts into token ids and all text that teacher and student share.
pub struct PromptReader {
    pub(super) tokenizer: Tokenizer,
    pub(super) token_length: usize,
    pub(super) encoders: Encoders,
}

/// A CLIP with its tokenizer and the number of tokens it reads.
pub struct ClipReader {
    pub clip: ClipText,
    pub tokenizer: Tokenizer,
    pub length: usize,
}

/// Flux's CLIP.
pub struct FluxReader {
    pub clip: ClipText,
    /// With the number of tokens it makes; without a tokenizer of its own CLIP reads T5's ids.
    pub tokenizer: Option<(Tokenizer, usize)>,
    pub pooled_text: PooledText,
}

/// What a family has beside T5.
pub enum Encoders {
    /// CLIP's pooled text.
    Flux(Box<FluxReader>),
    /// Two CLIPs with projections, beside each other and filled with zeros to the text's width.
    Sd3 { clips: Box<[ClipReader; 2]>, text_width: usize, pooled_text: PooledText },
    /// Nothing but T5 itself, which does not see padding; prompts are taken in lower case.
    PixArt,
}

impl PromptReader {
    /// Token ids `[B, L]` (u32), and what else the denoiser is given, of B prompts.
    pub fn read(&self, prompts: &[impl AsRef<str>]) -> Result<(Tensor, Shared)> {
        if let Encoders::PixArt = self.encoders {
            // diffusers@v0.42.1 pipeline_pixart_alpha.py `_text_preprocessing` without its cleaning of web captions.
            let prompts: Vec<String> = prompts.iter().map(|prompt| prompt.as_ref().to_lowercase().trim().to_owned()).collect();
            let ids = self.tokenizer.encode(&prompts, self.token_length)?;
            let pooled = Tensor::zeros((prompts.len(), 1), DType::F32, ids.device())?;
            return Ok((ids.clone(), Shared { pooled, text_before: None, text_mask: Some(token_mask(&ids, DType::F32)?) }));
        }
        let ids = self.tokenizer.encode(prompts, self.token_length)?;
        let (shared, pooled_text) = match &self.encoders {
            Encoders::Flux(reader) => {
                let FluxReader { clip, tokenizer, pooled_text } = reader.as_ref();
                let pooled = match tokenizer {
                    Some((tokenizer, length)) => clip.pooled(&tokenizer.encode(prompts, *length)?)?,
                    None => clip.pooled(&ids)?,
                };
                (Shared::pooled(pooled), *pooled_text)
            }
            Encoders::Sd3 { clips, text_width, pooled_text } => (two_clips(clips.as_ref(), *text_width, prompts)?, *pooled_text),
            Encoders::PixArt => return Err(Error::Invalid("PixArt's prompts are read above".into())),
        };
        let pooled = match pooled_text {
            PooledText::Clip => shared.pooled,
            PooledText::Zero => shared.pooled.zeros_like()?,
        };
        Ok((ids, Shared { pooled, ..shared }))
    }

    /// The pieces of a prompt with its end piece, neither cut nor padded, and the length [`Self::read`] brings it to.
    pub fn pieces(&self, prompt: &str) -> Result<(Vec<String>, usize)> {
        Ok((self.tokenizer.pieces(prompt)?, self.token_length))
    }

    /// Ids `[B, K]` that CLIP number `i` reads, where it has a tokenizer of its own.
    pub fn clip_ids(&self, i: usize, prompts: &[impl AsRef<str>]) -> Result<Option<Tensor>> {
        let (tokenizer, length) = match &self.encoders {
            Encoders::Flux(reader) if i == 0 => match &reader.tokenizer {
                Some((tokenizer, length)) => (tokenizer, *length),
                None => return Ok(None),
            },
            Encoders::Sd3 { clips, .. } if i < 2 => (&clips[i].tokenizer, clips[i].length),
            _ => return Ok(None),
        };
        tokenizer.encode(prompts, length).map(Some)
    }

    /// Number of ids that T5's tokenizer knows.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }
}

/// The text of Stable Diffusion 3's CLIPs: hidden states before the last layer beside each other and filled up with zeros `[B, K, D]`,
/// projected pooled texts beside each other `[B, P]`.
fn two_clips(clips: &[ClipReader; 2], text_width: usize, prompts: &[impl AsRef<str>]) -> Result<Shared> {
    let (mut hidden, mut pooled) = (Vec::new(), Vec::new());
    for ClipReader { clip, tokenizer, length } in clips {
        let (states, feature) = clip.hidden_and_pooled(&tokenizer.encode(prompts, *length)?)?;
        hidden.push(states);
        pooled.push(clip.projected(&feature)?);
    }
    let hidden = Tensor::cat(&hidden, 2)?;
    let missing = text_width
        .checked_sub(hidden.dim(2)?)
        .ok_or_else(|| Error::Invalid(format!("the CLIPs' text is {:?} wide together, the denoiser reads {text_width}", hidden.dims())))?;
    let text_before = hidden.pad_with_zeros(2, 0, missing)?.contiguous()?;
    Ok(Shared { pooled: Tensor::cat(&pooled, 1)?, text_before: Some(text_before), text_mask: None })
}

/// Token ids, the teacher's text and the shared text of B prompts.
pub fn condition(reader: &PromptReader, teacher: &dyn TextEncoder, prompts: &[impl AsRef<str>]) -> Result<Condition> {
    let (ids, shared) = reader.read(prompts)?;
    Ok(Condition { teacher_text: teacher.encode(&ids)?, ids, shared })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn ramp(shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        Tensor::from_vec((0..n).map(|i| i as f32).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_students_part_of_the_full_text_is_what_it_put_there() {
        let text = ramp(&[2, 3, 4]);
        let numbers = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for text_before in [None, Some((ramp(&[2, 5, 4]) + 100.0).unwrap())] {
            let shared = Shared { text_before, ..Shared::pooled(ramp(&[2, 1])) };
            let full = shared.full_text(&text).unwrap();
            assert_eq!(full.dims(), [2, if shared.text_before.is_some() { 8 } else { 3 }, 4]);
            assert_eq!(numbers(shared.own_part(full).unwrap()), numbers(text.clone()));
        }
    }
}
