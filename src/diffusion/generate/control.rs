//! A ControlNet and the image that it sees, from their files.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use image::imageops::FilterType;
use serde::{Deserialize, Serialize};

use crate::diffusion::latents::{self, LatentShape};
use crate::error::{Error, Result};
use crate::models::autoencoder::Autoencoder;
use crate::models::flux::FluxConfig;
use crate::models::flux::control::{Control, ControlNet, Mode};
use crate::models::layout;
use crate::models::mapped::Reading;
use crate::models::published::{Stored, architectures};
use crate::models::teacher::{TeacherConfig, WeightSource};
use crate::models::weights::Weights;
use crate::run::context::RunContext;
use crate::run::hub;

/// Kinds of images that the published Union models have tokens for.
const UNION_MODES: usize = 10;

/// What to generate under.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// The folder that diffusers' `FluxControlNetModel.save_pretrained` writes, relative to the pipeline's, or `hf://OWNER/NAME`;
    /// `random` beside a teacher whose parts are named one by one.
    pub net: WeightSource,
    /// What the image shows, for a network that knows several kinds.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// An image of edges, depth or a pose, relative to the pipeline's folder; as large as the images or made so.
    pub image: PathBuf,
    /// How much the network changes; 1 is as trained.
    #[serde(default = "as_trained")]
    pub scale: f64,
}

fn as_trained() -> f64 {
    1.0
}

impl ControlConfig {
    /// The files that it is read from, for hashing; of a network that is not there, the file that is missing.
    pub fn files(&self, pipeline: &Path) -> Vec<PathBuf> {
        let mut files = vec![pipeline.join(&self.image)];
        if let WeightSource::File(net) = &self.net {
            let folder = hub::resolve(net, pipeline).unwrap_or_else(|_| pipeline.join(net));
            files.push(folder.join("config.json"));
            files.extend(Stored::find(&folder).and_then(|stored| stored.files()).unwrap_or_default());
        }
        files
    }

    /// How to get one of the files.
    pub fn hint(&self) -> String {
        let known = match &self.net {
            WeightSource::File(net) => hub::hint(net),
            WeightSource::Random => None,
        };
        known.unwrap_or_else(|| "correct `net` and `image` of [generate.control]".into())
    }

    /// Loads the network, and encodes the image for images of `shape`. The latents are the mean of the autoencoder's posterior.
    ///
    /// # Errors
    /// Files that are missing or of something else; an image that is not square.
    pub fn load(
        &self,
        teacher: &TeacherConfig,
        autoencoder: &Autoencoder,
        shape: LatentShape,
        context: &RunContext,
    ) -> Result<(ControlNet, Control)> {
        let net = self.load_net(teacher, context)?;
        let side = (shape.height * autoencoder.config().factor()) as u32;
        let path = context.pipeline.join(&self.image);
        let image = image::open(&path).map_err(|error| Error::format("control image", &path, error))?.to_rgb8();
        if image.width() != image.height() {
            let size = format!("{} x {}", image.width(), image.height());
            return Err(Error::config(
                format!("the control image `{}` is {size}, images are square", path.display()),
                "cut it to a square",
            ));
        }
        let image = if image.width() == side { image } else { image::imageops::resize(&image, side, side, FilterType::Lanczos3) };
        let pixels: Vec<f32> = image.into_raw().into_iter().map(|value| f32::from(value) / 127.5 - 1.0).collect();
        let side = side as usize;
        let pixels = Tensor::from_vec(pixels, (1, side, side, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?.contiguous()?;
        let latents = latents::pack(&autoencoder.encode(&pixels)?)?;
        Ok((net, Control { latents, mode: self.mode, scale: self.scale }))
    }

    fn load_net(&self, teacher: &TeacherConfig, context: &RunContext) -> Result<ControlNet> {
        let (config, modes, weights) = match (&self.net, teacher) {
            (WeightSource::File(net), _) => {
                let folder = hub::resolve(net, &context.pipeline)?;
                let (config, modes) = architectures::control_net(&folder)?;
                (config, modes, Stored::find(&folder)?.load(layout::flux, Reading::Whole)?)
            }
            (WeightSource::Random, TeacherConfig::Parts(parts)) => {
                let config = FluxConfig::preset(&parts.denoiser.preset)?;
                (config, self.mode.map(|_| UNION_MODES), Weights::initial(context.seed, DType::F32, &Device::Cpu))
            }
            (WeightSource::Random, TeacherConfig::Folder(_)) => {
                let hint = "name the folder of a published ControlNet, or its address on the hub";
                return Err(Error::config("[generate.control] net is `random` beside a published model", hint));
            }
        };
        let net = ControlNet::new(&config, modes, &weights)?;
        weights.finish()?;
        Ok(net)
    }
}
