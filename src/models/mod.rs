//! Networks and the traits by which stages see them.

pub mod autoencoder;
pub mod card;
pub mod checkpointing;
pub mod clip;
pub mod contents;
pub mod convolution;
pub mod dit;
pub mod exported;
pub mod flux;
pub mod gguf;
pub mod group_norm;
pub mod guidance;
pub mod images;
pub mod layout;
pub mod lora;
pub mod mapped;
pub mod ocr;
pub mod pickle;
pub mod pixart;
pub mod published;
pub mod rows;
pub mod safetensors_file;
pub mod sd3;
pub mod student;
pub mod t5;
pub mod teacher;
pub mod tokenizer;
pub mod weights;

use candle_core::Tensor;

use self::flux::control::Residuals;
use crate::error::{Error, Result};
use crate::nn::finite::check_finite;
use crate::nn::residual::mean_squared_error;

/// Turns token ids into per-token embeddings for the denoiser.
pub trait TextEncoder {
    /// Encodes `token_ids` `[B, L]` (u32) to embeddings `[B, L, D]`, D being the denoiser's text width.
    fn encode(&self, token_ids: &Tensor) -> Result<Tensor>;
}

/// What a denoiser sees besides the text embedding.
#[derive(Debug, Clone)]
pub struct DenoiserInput {
    /// Noisy latents, packed: `[B, N, C]`.
    pub latents: Tensor,
    /// Time in [0, 1], 1 being pure noise: `[B]`.
    pub time: Tensor,
    /// Guidance scale: `[B]`.
    pub guidance: Tensor,
    /// Pooled text embedding (CLIP): `[B, P]`.
    pub pooled: Tensor,
    /// 1 for tokens of the text embedding that are seen, 0 for padding: `[B, L]`. Networks that are trained to see the padding
    /// (Flux, SD3) do not look at it.
    pub text_mask: Option<Tensor>,
}

impl DenoiserInput {
    /// Fails with the name of the first tensor, `text` `[B, L, D]` included, that holds a number which is not finite.
    pub fn check(&self, text: &Tensor) -> Result<()> {
        let all =
            [("latents", &self.latents), ("text", text), ("time", &self.time), ("guidance", &self.guidance), ("pooled", &self.pooled)];
        let all = all.into_iter().chain(self.text_mask.as_ref().map(|mask| ("text_mask", mask)));
        all.into_iter().try_for_each(|(name, tensor)| check_finite(tensor, name, || "as the denoiser's input".into()))
    }
}

/// What a denoiser was trained to predict, which decides how its predictions are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predicts {
    /// From image to noise, along the straight path of a rectified flow.
    Velocity,
    /// The noise in the latents, whose variance is preserved.
    Noise,
}

/// Maps a gradient of the prediction `[B, N, C]` to that of the text embedding `[B, L, D]`.
pub type Pullback<'a> = Box<dyn FnOnce(&Tensor) -> Result<Tensor> + 'a>;

/// A frozen diffusion transformer.
pub trait Denoiser {
    fn predicts(&self) -> Predicts {
        Predicts::Velocity
    }

    /// Velocity, or noise where [`Denoiser::predicts`] says so, `[B, N, C]`, for the text embedding `[B, L, D]`.
    fn velocity(&self, input: &DenoiserInput, text: &Tensor) -> Result<Tensor>;

    /// [`Denoiser::velocity`] with what a ControlNet adds to the image tokens.
    ///
    /// # Errors
    /// A denoiser for which no ControlNet is known.
    fn velocity_under(&self, _: &DenoiserInput, _: &Tensor, _: &Residuals) -> Result<Tensor> {
        Err(Error::config("ControlNets are known for Flux only", "generate without `--control-net`, or with a Flux"))
    }

    /// [`Denoiser::velocity`] and its backward.
    fn velocity_with_pullback<'a>(&'a self, input: &DenoiserInput, text: &Tensor) -> Result<(Tensor, Pullback<'a>)>;

    /// Eq. 5 of the paper: mean squared error between the velocity under `text` and `target` `[B, N, C]`, and its
    /// gradient with respect to `text` `[B, L, D]`.
    fn loss_and_text_gradient(&self, input: &DenoiserInput, text: &Tensor, target: &Tensor) -> Result<(f64, Tensor)> {
        let (velocity, pullback) = self.velocity_with_pullback(input, text)?;
        let (loss, d_velocity) = mean_squared_error(&velocity, target)?;
        Ok((loss, pullback(&d_velocity)?))
    }
}

/// An axis-aligned box in pixels of the image it was found in, `x` to the right and `y` down.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PixelBox {
    pub x0: f64,
    pub y0: f64,
    pub x1: f64,
    pub y1: f64,
}

/// One detected object.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Detection {
    /// Noun in the singular.
    pub label: String,
    /// Confidence in [0, 1].
    pub score: f64,
    pub bounds: PixelBox,
    /// How near the object is, larger is nearer, in [0, 1]; where the detector can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearness: Option<f64>,
}

/// Answers yes/no questions about images (BLIP-VQA in the published protocol).
pub trait Vqa {
    /// Probability of "yes" in [0, 1] for a noun phrase such as `"a red car"` asked as a question.
    fn probability_of_yes(&self, image: &image::RgbImage, phrase: &str) -> Result<f64>;
}

/// Finds objects in images (UniDet in the published protocol).
pub trait Detector {
    /// Detections, highest score first.
    fn detect(&self, image: &image::RgbImage) -> Result<Vec<Detection>>;
}

/// Reads text in images (ocrs).
pub trait TextReader {
    /// Recognised lines in reading order; empty where no text was found.
    fn read_lines(&self, image: &image::RgbImage) -> Result<Vec<String>>;
}

/// Describes images by vectors, for the Fréchet distance.
pub trait ImageFeatures {
    /// Features `[B, D]` (f32) of B images.
    fn features(&self, images: &[image::RgbImage]) -> Result<Tensor>;
}
