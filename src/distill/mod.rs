//! The stage `distill`: trains a small text encoder until the frozen denoiser treats it like the teacher.
//! The loop of the paper's Algorithm 1 is `vision`; everything it calls is one module of this folder.

pub mod checkpoint;
pub mod comparison;
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

pub use config::{Compared, Config, Initialisation, Objective, Source};

use crate::diffusion::latents::{self, LatentShape};
use crate::diffusion::sampler::{Conditions, expect};
use crate::diffusion::scheduler::Scheduler;
use crate::error::{Error, Result};
use crate::models::card::{STUDENT_WEIGHTS, StudentCard};
use crate::models::student::Student;
use crate::models::teacher::{Condition, TeacherConfig, condition};
use crate::models::{Denoiser, TextEncoder, weights};
use crate::nn::param::Parameters;
use crate::run::context::RunContext;
use crate::run::{files, interrupt};
use checkpoint::Trajectory;
use comparison::{Comparison, Targets};
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
    /// The empty prompt, where the teacher is guided by it.
    pub empty: Option<&'a Condition>,
    /// The steps of its trajectories.
    pub scheduler: Scheduler,
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
    /// The card of the student that this one is, where it is not trained any further.
    pub unchanged: Option<StudentCard>,
}

/// Trains the student of `config` into `context.student(&config.name)`, or goes on where an earlier call stopped.
///
/// # Errors
/// Missing prompts or weights; a non-finite loss; [`Error::Interrupted`] after Ctrl-C, with the state saved.
pub fn run(config: &Config, teacher: &TeacherConfig, context: &RunContext) -> Result<StudentCard> {
    config.validate()?;
    let teacher = &teacher.with_resolution(config.resolution);
    let (pipeline, seed) = (&context.pipeline, context.seed);
    let geometry = teacher.geometry(pipeline)?;
    let scheduler = Scheduler::of(teacher, pipeline, config.shift)?;
    let guided = teacher.family(pipeline)?.is_guided_by_the_empty_prompt();
    config.check_guidance(guided)?;
    let pool = config.read_pool(context)?;
    let mut student = config.initial_student(teacher.text_width(pipeline)?, context)?;
    student.encoder.padding = teacher.padding(pipeline)?;

    let prompts = teacher.load_prompts(pipeline, seed)?;
    let (ids, rows) = (prompts.vocab_size(), student.config.encoder.vocab_size);
    if ids > rows {
        return Err(Error::config(
            format!("student `{}`: the teacher's tokenizer has {ids} ids, `{}` has room for {rows}", config.name, config.preset),
            "choose one of the published sizes, t5-v1.1-small to t5-v1.1-xl",
        ));
    }
    let text_encoder = teacher.load_text_encoder(pipeline, seed)?;
    let denoiser = match config.objective {
        Objective::Vision => Some(teacher.load_denoiser(pipeline, seed)?),
        Objective::Naive | Objective::None => None,
    };
    let identity = Identity {
        seed: config.seed(context),
        fingerprint: config.fingerprint(teacher, &pool, context)?,
        teacher: (teacher.encoder_name(), text_encoder.count() as u64),
        token_length: teacher.token_length(pipeline)?,
        unchanged: config.unchanged_card(context)?,
    };
    let empty = (guided && denoiser.is_some()).then(|| condition(&prompts, &text_encoder, &[""])).transpose()?;
    let frozen = Frozen {
        conditioner: &|batch| condition(&prompts, &text_encoder, batch),
        denoiser: denoiser.as_deref(),
        empty: empty.as_ref(),
        scheduler,
        shape: LatentShape::square(geometry.resolution, geometry.downsampling, geometry.channels)?,
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
    let (mut learner, trajectory) = Learner::start(config, folder, identity, student, stop)?;
    match config.objective {
        Objective::Vision => vision(config, identity.seed, frozen, order, &mut learner, trajectory)?,
        Objective::Naive => naive::train(config, frozen, order, &mut learner)?,
        Objective::None => {}
    }
    finish(config, identity, frozen, order, learner, folder)
}

/// Algorithm 1 of the paper: along the teacher's trajectory, one optimiser step for each denoising step (Eq. 5).
/// `resumed` is the trajectory that an interrupted run was in.
fn vision(
    config: &Config,
    seed: u64,
    frozen: &Frozen,
    order: &mut PromptOrder,
    learner: &mut Learner,
    mut resumed: Option<Trajectory>,
) -> Result<()> {
    let denoiser = frozen.denoiser.ok_or_else(|| Error::Invalid("the vision objective needs the denoiser".into()))?;
    let negative = frozen.empty.map(|empty| empty.negative(&empty.teacher_text)).transpose()?;
    let comparison = Comparison::new(denoiser, negative, config.compared())?;
    // The empty prompt goes through the student only where its prediction is compared.
    let empty = frozen.empty.filter(|_| config.compared() == Compared::Guided);
    while !learner.finished() {
        let (index, first_step) = (learner.update() / config.steps as u64, (learner.update() % config.steps as u64) as usize);
        let batch = order.batch(index, config.batch);
        let guidance = guidance(&config.guidance, config.guidance_draw, seed, index, &batch);
        let Condition { ids, teacher_text, shared } = frozen.condition(&batch)?;
        let teacher_text = shared.full_text(&teacher_text)?;
        let (pooled, text_mask) = (shared.pooled.clone(), shared.text_mask.clone());
        let conditions = Conditions { pooled, guidance: guidance_tensor(&guidance)?, text_mask };
        let mut steps = frozen.scheduler.start(config.steps, frozen.shape.n_patches())?;
        expect(denoiser, steps.predicts())?;
        let mut latents = match (first_step, resumed.take()) {
            (0, _) => latents::noise(seed, &batch.iter().map(|drawn| drawn.used).collect::<Vec<_>>(), frozen.shape, ids.device())?,
            (step, Some(Trajectory { latents, memory })) => {
                steps.resume(step, memory)?;
                latents
            }
            (step, None) => return Err(Error::Invalid(format!("the checkpoint lacks the latents of denoising step {step}"))),
        };
        while let Some(t) = steps.time() {
            let step = (learner.update() % config.steps as u64) as usize;
            let (student_text, saved) = learner.forward(&ids)?;
            let student_empty = empty.map(|empty| learner.forward_empty(&empty.ids)).transpose()?;
            let input = conditions.at(&latents, t)?;
            let Targets { compared, followed } = comparison.targets(&input, &teacher_text)?;
            let negative = empty.zip(student_empty.as_ref()).map(|(empty, (text, _))| empty.negative(text)).transpose()?;
            let found = comparison.loss_and_gradients(&input, &shared.full_text(&student_text)?, negative, &compared)?;
            let mut gradients = vec![(&saved, shared.own_part(found.text)?)];
            if let (Some(empty), Some((_, saved)), Some(d_full)) = (empty, &student_empty, found.negative) {
                gradients.push((saved, empty.shared.own_part(d_full)?));
            }
            learner.learn(&gradients, &Origin { loss: found.loss, denoising_step: step, guidance: &guidance, batch: &batch })?;
            latents = steps.step(&latents, &followed)?;
            let under_way = steps.time().is_some().then(|| Trajectory { latents: latents.clone(), memory: steps.memory().cloned() });
            learner.end_update(under_way)?;
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
        padding: student.encoder.padding,
        teacher: identity.teacher.0.clone(),
        teacher_parameters: identity.teacher.1,
        objective: config.objective.name().into(),
        datasets: config.datasets.iter().map(|source| source.dataset.clone()).collect(),
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
    let card = match &identity.unchanged {
        Some(earlier) => card.trained_as(earlier),
        None => card,
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
