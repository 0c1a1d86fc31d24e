//! Everything needed to turn prompts into images, for one text encoder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use super::Config;
use super::held::{Held, Keep};
use crate::data::schema::PromptRow;
use crate::diffusion::latents::{self, LatentShape, Use};
use crate::diffusion::sampler::{self, Conditions};
use crate::diffusion::scheduler::Scheduler;
use crate::error::{Error, Result};
use crate::models::autoencoder::Autoencoder;
use crate::models::card::{StudentCard, TEACHER};
use crate::models::flux::control::{Control, ControlNet, Controlled};
use crate::models::guidance::{Guided, Negative};
use crate::models::teacher::{Condition, PromptReader, TeacherConfig};
use crate::models::{Denoiser, TextEncoder};
use crate::nn::finite::check_finite;
use crate::run::context::RunContext;
use crate::run::progress::Progress;
use crate::run::results::{SampleRow, TokenRow};
use crate::run::{files, interrupt};

/// The text encoder that images are made under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoder {
    Teacher,
    /// A distilled student in its folder.
    Student(PathBuf),
}

impl Encoder {
    /// `teacher`, or a student of the pipeline by its name.
    pub fn named(name: &str, context: &RunContext) -> Self {
        if name == TEACHER { Self::Teacher } else { Self::Student(context.student(name)) }
    }

    /// For messages.
    pub fn label(&self) -> String {
        match self {
            Self::Teacher => TEACHER.to_owned(),
            Self::Student(home) => home.file_name().map_or_else(|| home.display().to_string(), |name| name.to_string_lossy().into_owned()),
        }
    }

    fn load(&self, teacher: &TeacherConfig, context: &RunContext) -> Result<Box<dyn TextEncoder>> {
        let Self::Student(home) = self else { return Ok(Box::new(teacher.load_text_encoder(&context.pipeline, context.seed)?)) };
        let card = StudentCard::read(home)?;
        let width = teacher.text_width(&context.pipeline)?;
        if card.text_width != width {
            let message = format!("the student in `{}` makes text {} wide, the teacher's is {width}", home.display(), card.text_width);
            return Err(Error::config(message, "generate with the pipeline whose teacher it was distilled from"));
        }
        Ok(Box::new(card.load_student(home)?))
    }
}

/// What reads prompts.
struct Reader {
    prompts: PromptReader,
    encoder: Box<dyn TextEncoder>,
    /// The empty prompt under this encoder, where guidance needs it.
    negative: Option<Negative>,
}

impl Reader {
    fn load(teacher: &TeacherConfig, encoder: &Encoder, context: &RunContext) -> Result<Self> {
        let encoder = encoder.load(teacher, context)?;
        let prompts = teacher.load_prompts(&context.pipeline, context.seed)?;
        let negative = match teacher.family(&context.pipeline)?.is_guided_by_the_empty_prompt() {
            true => {
                let (ids, shared) = prompts.read(&[""])?;
                let text = encoder.encode(&ids)?;
                Some(Condition { ids, teacher_text: text.clone(), shared }.negative(&text)?)
            }
            false => None,
        };
        Ok(Self { prompts, encoder, negative })
    }
}

/// What denoises.
struct Denoising {
    denoiser: Box<dyn Denoiser>,
    control: Option<(ControlNet, Control)>,
}

/// Everything needed to turn prompts into images.
pub struct Painter {
    reader: Held<Reader>,
    denoising: Held<Denoising>,
    autoencoder: Held<Autoencoder>,
    pub shape: LatentShape,
    scheduler: Scheduler,
    steps: usize,
    label: String,
}

impl Painter {
    /// Loads all networks, unless they are to stay in their files; `encoder` reads the prompts, and the empty one where the teacher is
    /// guided by it.
    pub fn load(config: &Config, teacher: &TeacherConfig, encoder: &Encoder, context: &RunContext) -> Result<Self> {
        let folder = &context.pipeline;
        let geometry = teacher.geometry(folder)?;
        let shape = LatentShape::square(geometry.resolution, geometry.downsampling, geometry.channels)?;
        let scheduler = Scheduler::of(teacher, folder, config.shift)?;
        // Fails before anything large is read.
        scheduler.start(config.steps, shape.n_patches())?;
        let label = format!("generate {}", encoder.label());
        let keep = if config.offload { Keep::InFiles } else { Keep::InMemory };
        let parts = Rc::new((teacher.clone(), context.clone()));
        let (of_reader, encoder) = (parts.clone(), encoder.clone());
        let reader = Held::new(keep, move || Reader::load(&of_reader.0, &encoder, &of_reader.1))?;
        let of_autoencoder = parts.clone();
        let load_autoencoder = move || of_autoencoder.0.load_autoencoder(&of_autoencoder.1.pipeline, of_autoencoder.1.seed);
        let autoencoder = Held::new(keep, load_autoencoder.clone())?;
        let control = config.control.clone();
        let load_denoising = move || {
            let (teacher, context) = &*parts;
            // Before the denoiser, so that the two are not in memory at once.
            let control = control.as_ref().map(|control| control.load(teacher, &load_autoencoder()?, shape, context)).transpose()?;
            Ok(Denoising { denoiser: teacher.load_denoiser(&context.pipeline, context.seed)?, control })
        };
        let denoising = Held::new(keep, load_denoising)?;
        Ok(Self { reader, denoising, autoencoder, shape, scheduler, steps: config.steps, label })
    }

    /// The images of `texts` with `guidance` `[B]` from packed `noise` `[B, N, 4C]`; `after` sees the images after every step, as their
    /// noisy latents decode, where it is wanted.
    pub fn paint(
        &self,
        texts: &[&str],
        guidance: &[f32],
        noise: &Tensor,
        mut after: Option<&mut dyn FnMut(Vec<RgbImage>) -> Result<()>>,
    ) -> Result<Vec<RgbImage>> {
        let (text, shared, negative) = self.reader.with(|Reader { prompts, encoder, negative }| {
            let (ids, shared) = prompts.read(texts)?;
            Ok((shared.full_text(&encoder.encode(&ids)?)?, shared, negative.clone()))
        })?;
        let conditions = Conditions { pooled: shared.pooled, guidance: Tensor::new(guidance, &Device::Cpu)?, text_mask: shared.text_mask };
        let steps = self.scheduler.start(self.steps, self.shape.n_patches())?;
        let mut seen = |latents: &Tensor| match &mut after {
            Some(after) => after(self.decode(latents)?),
            None => Ok(()),
        };
        let packed = self.denoising.with(|Denoising { denoiser, control }| {
            let guided = negative.map(|negative| Guided { denoiser: denoiser.as_ref(), negative });
            let denoiser = guided.as_ref().map_or(denoiser.as_ref(), |guided| guided as &dyn Denoiser);
            let controlled = control.as_ref().map(|(net, control)| Controlled { denoiser, net, control });
            let denoiser = controlled.as_ref().map_or(denoiser, |controlled| controlled as &dyn Denoiser);
            sampler::follow(denoiser, noise, &text, &conditions, steps, &mut seen)
        })?;
        self.decode(&packed)
    }

    fn decode(&self, packed: &Tensor) -> Result<Vec<RgbImage>> {
        let latents = latents::unpack(packed, self.shape)?;
        let images = self.autoencoder.with(|autoencoder| autoencoder.decode(&latents))?;
        (0..images.dim(0)?).map(|i| to_rgb(&images.get(i)?)).collect()
    }

    /// Writes `text` `[n, D]`, the mean over all L tokens of each prompt, and `prompt_id` `[n]` (the id's bits as i64).
    pub(super) fn write_embeddings(&self, prompts: &[PromptRow], batch: usize, path: &Path) -> Result<()> {
        let mean = |reader: &Reader, chunk: &[PromptRow]| -> Result<Tensor> {
            interrupt::check()?;
            let texts: Vec<&str> = chunk.iter().map(|row| row.prompt.as_str()).collect();
            Ok(reader.encoder.encode(&reader.prompts.read(&texts)?.0)?.mean(1)?)
        };
        let means = self.reader.with(|reader| prompts.chunks(batch).map(|chunk| mean(reader, chunk)).collect::<Result<Vec<_>>>())?;
        let text = Tensor::cat(&means, 0)?;
        check_finite(&text, "text", || self.label.clone())?;
        let ids: Vec<i64> = prompts.iter().map(|row| row.prompt_id.cast_signed()).collect();
        let bytes = safetensors::serialize(
            &BTreeMap::from([("text", text.contiguous()?), ("prompt_id", Tensor::from_vec(ids, prompts.len(), &Device::Cpu)?)]),
            None,
        )
        .map_err(|error| Error::format("safetensors file", path, error))?;
        files::write_bytes(path, &bytes)
    }

    /// Writes what the encoder is given of each prompt; what does not fit is cut from the end.
    pub(super) fn write_tokens(&self, prompts: &[PromptRow], path: &Path) -> Result<()> {
        let row = |reader: &Reader, prompt: &PromptRow| -> Result<TokenRow> {
            let (pieces, length) = reader.prompts.pieces(&prompt.prompt)?;
            // A cut text keeps its end piece, which then stands where another piece was.
            let kept = pieces.len().min(length) as u64;
            let pieces = serde_json::to_string(&pieces).map_err(|error| Error::Invalid(format!("pieces as JSON: {error}")))?;
            Ok(TokenRow { prompt_id: prompt.prompt_id, pieces, kept, length: length as u64 })
        };
        let rows = self.reader.with(|reader| prompts.iter().map(|prompt| row(reader, prompt)).collect::<Result<Vec<_>>>())?;
        TokenRow::write(path, &rows)
    }

    /// Samples, decodes and writes the images of all rows; chunks whose files all exist are left as they are.
    pub(super) fn paint_all(&self, rows: &[SampleRow], batch: usize, seed: u64, folder: &Path) -> Result<()> {
        let mut progress = Progress::new(&self.label, 0, rows.len() as u64);
        let mut done = 0;
        // The grid of chunks is the same in every call, so that a resumed run repeats the same arithmetic.
        for chunk in rows.chunks(batch) {
            if !chunk.iter().all(|row| folder.join(&row.image).exists()) {
                interrupt::check()?;
                let texts: Vec<&str> = chunk.iter().map(|row| row.prompt.as_str()).collect();
                let uses: Vec<Use> = chunk.iter().map(|row| Use { prompt_id: row.prompt_id, draw: row.image_idx }).collect();
                let guidance: Vec<f32> = chunk.iter().map(|row| row.guidance as f32).collect();
                let noise = latents::noise(seed, &uses, self.shape, &Device::Cpu)?;
                for (row, image) in chunk.iter().zip(self.paint(&texts, &guidance, &noise, None)?) {
                    write_png(&folder.join(&row.image), &image)?;
                }
            }
            done += chunk.len() as u64;
            progress.set(done, "images");
        }
        progress.finish("images");
        Ok(())
    }
}

/// An image from `[3, H, W]` in [-1, 1]; values outside are clipped.
fn to_rgb(image: &Tensor) -> Result<RgbImage> {
    let (_, h, w) = image.dims3()?;
    let bytes = ((image.clamp(-1f32, 1f32)? + 1.0)? * 127.5)?.round()?.to_dtype(DType::U8)?;
    let bytes = bytes.permute((1, 2, 0))?.flatten_all()?.to_vec1::<u8>()?;
    RgbImage::from_raw(w as u32, h as u32, bytes)
        .ok_or_else(|| Error::Invalid(format!("an image of shape {:?} does not have three channels", image.dims())))
}

/// Writes a PNG by rename.
pub(super) fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).map_err(|error| Error::format("PNG image", path, error))?;
    files::write_bytes(path, bytes.get_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_black_one_is_white_and_beyond_is_clipped() {
        let values = Tensor::new(&[[[-1f32, 1.0]], [[-3.0, 3.0]], [[0.0, 0.5]]], &Device::Cpu).unwrap();
        let image = to_rgb(&values).unwrap();
        assert_eq!((image.get_pixel(0, 0).0, image.get_pixel(1, 0).0), ([0, 0, 128], [255, 255, 191]));
    }
}
