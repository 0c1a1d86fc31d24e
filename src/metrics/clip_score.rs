//! CLIP score: 100 times the cosine between an image's and its prompt's embedding, per image, not clamped
//! (torchmetrics 1.9.0 clamps the mean only). The same image embeddings feed the Fréchet distance.

use image::RgbImage;

use crate::error::{Error, Result};
use crate::models::clip::Clip;
use crate::models::images;
use crate::models::tokenizer::Tokenizer;

/// How far from 1 the length of a "normalised" f32 embedding may be.
const LENGTH_TOLERANCE: f64 = 1e-3;

/// A CLIP with its tokenizer.
pub struct ClipScorer {
    clip: Clip,
    tokenizer: Tokenizer,
    token_length: usize,
}

impl ClipScorer {
    pub fn new(clip: Clip, tokenizer: Tokenizer, token_length: usize) -> Self {
        Self { clip, tokenizer, token_length }
    }

    /// Embeddings `[n][E]` of n images of CLIP's own size, each of length 1.
    pub fn image_embeddings(&self, images: &[RgbImage]) -> Result<Vec<Vec<f64>>> {
        rows(&self.clip.image_embeds(&images::to_tensor(images)?)?)
    }

    /// Embeddings `[n][E]` of n prompts, each of length 1. Long prompts are cut so that the end token stays.
    pub fn text_embeddings(&self, prompts: &[&str]) -> Result<Vec<Vec<f64>>> {
        rows(&self.clip.text_embeds(&self.tokenizer.encode(prompts, self.token_length)?)?)
    }
}

/// 100 · cos of two embeddings of length 1.
pub fn clip_score(image: &[f64], text: &[f64]) -> Result<f64> {
    if image.len() != text.len() {
        return Err(Error::Invalid(format!("an image embedding has {} numbers, the text's {}", image.len(), text.len())));
    }
    for (name, embedding) in [("image embedding", image), ("text embedding", text)] {
        let length = embedding.iter().map(|value| value * value).sum::<f64>().sqrt();
        if length.is_nan() || (length - 1.0).abs() > LENGTH_TOLERANCE {
            return Err(Error::NonFinite { name: name.into(), context: format!("length {length}, expected 1") });
        }
    }
    Ok(100.0 * image.iter().zip(text).map(|(a, b)| a * b).sum::<f64>())
}

fn rows(embeddings: &candle_core::Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(embeddings.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_is_a_hundred_times_the_cosine_and_keeps_its_sign() {
        let (x, diagonal) = ([1.0, 0.0], [0.5f64.sqrt(), 0.5f64.sqrt()]);
        assert!((clip_score(&x, &diagonal).unwrap() - 70.710678).abs() < 1e-5);
        assert_eq!(clip_score(&x, &[-1.0, 0.0]).unwrap(), -100.0);
    }

    #[test]
    fn embeddings_that_are_not_of_length_one_are_refused() {
        assert!(clip_score(&[2.0, 0.0], &[1.0, 0.0]).is_err());
        assert!(clip_score(&[f64::NAN, 0.0], &[1.0, 0.0]).is_err());
        assert!(clip_score(&[1.0], &[1.0, 0.0]).is_err());
    }
}
