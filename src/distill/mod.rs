//! The stage `distill`: trains a small text encoder until the frozen denoiser treats it like the teacher.
//! The loop of the paper's Algorithm 1 is `vision`; everything it calls is one module of this folder.

pub mod checkpoint;
pub mod config;
pub mod diagnostics;
pub mod events;
pub mod learner;
pub mod log;
pub mod loss;
pub mod naive;
pub mod schedule;
pub mod trajectory;

use std::path::Path;

use candle_core::Tensor;

pub use config::{Config, Initialisation, Objective, Source};

use crate::diffusion::latents::{self, LatentShape};
use crate::diffusion::sampler::{Conditions, euler_step};
use crate::diffusion::schedule::flow_times;
use crate::error::{Error, Result};
use crate::models::card::{STUDENT_WEIGHTS, StudentCard};
use crate::models::student::Student;
use crate::models::t5::T5Config;
use crate::models::teacher::{Condition, TeacherConfig, condition};
use crate::models::{Denoiser, TextEncoder, weights};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::{files, interrupt};
use learner::{Learner, Origin};
use trajectory::{Drawn, PromptOrder, guidance, guidance_tensor};

/// Asked after every update (with their number): `true` saves and stops; an error stops at once, as a kill would.
pub type Stop<'a> = dyn FnMut(u64) -> Result<bool> + 'a;

/// Prompts looked at by the diagnostics: enough for a variance, few enough to cost nothing.
const PROBE_PROMPTS: usize = 64;

/// The frozen side of the distillation.
pub struct Frozen<'a> {
    /// Token ids, the teacher's text and the pooled text of some prompts.
    pub conditioner: &'a dyn Fn(&[&str]) -> Result<Condition>,
    /// Needed by the vision objective only.
    pub denoiser: Option<&'a dyn Denoiser>,
    /// Latents of one image.
    pub shape: LatentShape,
}

impl Frozen<'_> {
    fn condition(&self, batch: &[Drawn]) -> Result<Condition> {
        let prompts: Vec<&str> = batch.iter().map(|drawn| drawn.prompt.as_str()).collect();
        (self.conditioner)(&prompts)
    }
}

/// What identifies a run besides its configuration.
#[derive(Debug, Clone)]
pub struct Identity {
    pub seed: u64,
    /// Checkpoints of another fingerprint are not resumed.
    pub fingerprint: String,
    /// Preset of the teacher's encoder and its number of scalar weights.
    pub teacher: (String, u64),
    pub token_length: usize,
}

/// Trains the student of `config` into `context.student(&config.name)`, or goes on where an earlier call stopped.
///
/// # Errors
/// Missing prompts or weights; a non-finite loss; [`Error::Interrupted`] after Ctrl-C, with the state saved.
pub fn run(config: &Config, teacher: &TeacherConfig, context: &RunContext) -> Result<StudentCard> {
    config.validate()?;
    let mut teacher = teacher.clone();
    teacher.resolution = config.resolution.unwrap_or(teacher.resolution);
    let (pipeline, seed) = (&context.pipeline, context.seed);
    let pool = config.read_pool(context)?;
    let text_width = T5Config::preset(&teacher.text_encoder.preset)?.d_model;
    let student = config.initial_student(text_width, context)?;

    let prompts = teacher.load_prompts(pipeline, seed)?;
    let text_encoder = teacher.load_text_encoder(pipeline, seed)?;
    let denoiser = match config.objective {
        Objective::Vision => Some(teacher.load_denoiser(pipeline, seed)?),
        Objective::Naive | Objective::None => None,
    };
    let identity = Identity {
        seed: config.seed(context),
        fingerprint: config.fingerprint(&teacher, &pool, context)?,
        teacher: (teacher.text_encoder.preset.clone(), text_encoder.count() as u64),
        token_length: teacher.token_length,
    };
    let frozen = Frozen {
        conditioner: &|batch| condition(&prompts, &text_encoder, batch),
        denoiser: denoiser.as_ref().map(|denoiser| denoiser as &dyn Denoiser),
        shape: LatentShape::square(teacher.resolution, teacher.latent_downsampling, teacher.latent_channels)?,
    };
    let folder = context.student(&config.name);
    if context.force {
        checkpoint::remove(&folder)?;
    }
    let mut order = PromptOrder::new(pool, identity.seed)?;
    distil(config, &identity, student, &frozen, &mut order, &folder, &mut |_| Ok(interrupt::requested()))
}

/// Trains `student` and writes it, its card and its log into `folder`.
pub fn distil<'a>(
    config: &'a Config,
    identity: &'a Identity,
    student: Student,
    frozen: &Frozen,
    order: &mut PromptOrder,
    folder: &'a Path,
    stop: &'a mut Stop<'a>,
) -> Result<StudentCard> {
    let (mut learner, latents) = Learner::start(config, folder, identity, student, stop)?;
    match config.objective {
        Objective::Vision => vision(config, identity.seed, frozen, order, &mut learner, latents)?,
        Objective::Naive => naive::train(config, frozen, order, &mut learner)?,
        Objective::None => {}
    }
    finish(config, identity, frozen, order, learner, folder)
}

/// Algorithm 1 of the paper: along the teacher's trajectory, one optimiser step for each denoising step (Eq. 5).
/// `resumed` are the latents `[B, N, C]` of the trajectory that an interrupted run was in.
fn vision(
    config: &Config,
    seed: u64,
    frozen: &Frozen,
    order: &mut PromptOrder,
    learner: &mut Learner,
    mut resumed: Option<Tensor>,
) -> Result<()> {
    let denoiser = frozen.denoiser.ok_or_else(|| Error::Invalid("the vision objective needs the denoiser".into()))?;
    let times = flow_times(config.steps, frozen.shape.n_patches(), config.shift)?;
    while !learner.finished() {
        let (index, first_step) = (learner.update() / config.steps as u64, (learner.update() % config.steps as u64) as usize);
        let batch = order.batch(index, config.batch);
        let guidance = guidance(&config.guidance, config.guidance_draw, seed, index, &batch);
        let Condition { ids, teacher_text, pooled } = frozen.condition(&batch)?;
        let conditions = Conditions { pooled, guidance: guidance_tensor(&guidance)?, text_mask: None };
        let mut latents = match (first_step, resumed.take()) {
            (0, _) => latents::noise(seed, &batch.iter().map(|drawn| drawn.used).collect::<Vec<_>>(), frozen.shape, ids.device())?,
            (_, Some(latents)) => latents,
            (step, None) => return Err(Error::Invalid(format!("the checkpoint lacks the latents of denoising step {step}"))),
        };
        for step in first_step..config.steps {
            let (t, t_next) = (times[step], times[step + 1]);
            let (student_text, saved) = learner.forward(&ids)?;
            let input = conditions.at(&latents, t)?;
            let v_teacher = denoiser.velocity(&input, &teacher_text)?;
            let (loss, d_text) = denoiser.loss_and_text_gradient(&input, &student_text, &v_teacher)?;
            learner.learn(&saved, &d_text, &Origin { loss, denoising_step: step, guidance: &guidance, batch: &batch })?;
            latents = euler_step(&latents, &v_teacher, t, t_next)?;
            learner.end_update((step + 1 < config.steps).then_some(&latents))?;
            if learner.finished() {
                break;
            }
        }
    }
    Ok(())
}

/// Writes what later stages read; the weights last, and only then the checkpoint goes.
fn finish(
    config: &Config,
    identity: &Identity,
    frozen: &Frozen,
    order: &PromptOrder,
    learner: Learner,
    folder: &Path,
) -> Result<StudentCard> {
    let (student, log, counters) = learner.finish()?;
    let probe = order.probe(PROBE_PROMPTS);
    let probe = (frozen.conditioner)(&probe.iter().map(String::as_str).collect::<Vec<_>>())?;
    let card = StudentCard {
        name: config.name.clone(),
        preset: config.preset.clone(),
        width: student.config.encoder.d_model,
        projection_hidden: student.config.projection_hidden,
        text_width: student.config.text_width,
        token_length: identity.token_length,
        teacher: identity.teacher.0.clone(),
        teacher_parameters: identity.teacher.1,
        objective: config.objective.name().into(),
        updates: counters.update,
        batch: config.batch,
        seed: identity.seed,
        seconds: counters.seconds,
        parameters: student.count() as u64,
        parameters_without_projection: student.encoder.count() as u64,
        dead_units: student.dead_units(&probe.ids)?,
        variance_ratio: diagnostics::variance_ratio(&student.encode(&probe.ids)?, &probe.teacher_text)?,
        mean_gradient_norm: diagnostics::mean_gradient_norm(&log),
        final_loss: diagnostics::final_loss(&log),
    };
    card.write(folder)?;
    weights::write_safetensors(&folder.join(STUDENT_WEIGHTS), &student.named(), candle_core::DType::F32)?;
    checkpoint::remove(folder)?;
    eprintln!(
        "distill {}: {} updates, dead units {:.1} %, variance {:.2} of the teacher's, weights sha256 {}",
        card.name,
        card.updates,
        100.0 * card.dead_units,
        card.variance_ratio,
        &files::sha256_file(&folder.join(STUDENT_WEIGHTS))?[..12],
    );
    Ok(card)
}
