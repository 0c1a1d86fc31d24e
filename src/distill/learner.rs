//! The student in training: one update from a gradient on its text, the log, checkpoints and stopping. It does not know
//! where the gradient comes from; the two objectives share it.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use candle_core::Tensor;

use super::checkpoint::{Checkpoint, Counters, Trajectory};
use super::trajectory::Drawn;
use super::{Config, Identity, Stop, log};
use crate::error::{Error, Result};
use crate::models::student::{Student, StudentSaved};
use crate::nn::optim::AdamW;
use crate::nn::param::{Gradients, Parameters};
use crate::run::progress::Progress;
use crate::run::results::TrainLogRow;
use crate::run::rng;

/// What an update came from, for the log and for errors.
pub struct Origin<'a> {
    pub loss: f64,
    pub denoising_step: usize,
    pub guidance: &'a [f64],
    pub batch: &'a [Drawn],
}

/// The student, its optimiser and everything a checkpoint holds.
pub struct Learner<'a> {
    config: &'a Config,
    folder: &'a Path,
    seed: u64,
    stop: &'a mut Stop<'a>,
    student: Student,
    optimiser: AdamW,
    log: Vec<TrainLogRow>,
    counters: Counters,
    seconds_before: f64,
    clock: Instant,
    progress: Progress,
}

impl<'a> Learner<'a> {
    /// Starts training `student`, or goes on from the checkpoint in `folder` where its fingerprint is the same. Also
    /// returns the trajectory that the checkpoint was taken in.
    pub fn start(
        config: &'a Config,
        folder: &'a Path,
        identity: &Identity,
        student: Student,
        stop: &'a mut Stop<'a>,
    ) -> Result<(Self, Option<Trajectory>)> {
        let checkpoint = Checkpoint::load(folder)?;
        let found = checkpoint.is_some();
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.counters.fingerprint == identity.fingerprint);
        if found && checkpoint.is_none() {
            eprintln!("distill {}: the checkpoint belongs to other settings; starting afresh", config.name);
        }
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let done = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.counters.update);
        let mut learner = Self {
            config,
            folder,
            seed: identity.seed,
            stop,
            student,
            optimiser: AdamW::new(config.optimiser.clone()),
            log: Vec::new(),
            counters: Counters { fingerprint: identity.fingerprint.clone(), update: 0, seconds: 0.0, started },
            seconds_before: 0.0,
            clock: Instant::now(),
            progress: Progress::new(format!("distill {}", config.name), done, config.updates),
        };
        let trajectory = checkpoint.map(|checkpoint| learner.resume(checkpoint)).transpose()?.flatten();
        Ok((learner, trajectory))
    }

    fn resume(&mut self, checkpoint: Checkpoint) -> Result<Option<Trajectory>> {
        self.student.assign(&checkpoint.student)?;
        self.optimiser.restore(checkpoint.counters.update, &checkpoint.optimiser)?;
        self.seconds_before = checkpoint.counters.seconds;
        self.counters = checkpoint.counters;
        self.log = checkpoint.log;
        Ok(checkpoint.trajectory)
    }

    /// Updates made so far.
    pub fn update(&self) -> u64 {
        self.counters.update
    }

    /// True once all updates are made.
    pub fn finished(&self) -> bool {
        self.counters.update >= self.config.updates
    }

    /// The student's text `[B, L, D]` of `ids` `[B, L]`, with this update's dropout.
    pub fn forward(&self, ids: &Tensor) -> Result<(Tensor, StudentSaved)> {
        self.forward_with(ids, 0)
    }

    /// Like [`Learner::forward`] for the empty prompt of guidance, with dropout of its own.
    pub fn forward_empty(&self, ids: &Tensor) -> Result<(Tensor, StudentSaved)> {
        self.forward_with(ids, 1)
    }

    fn forward_with(&self, ids: &Tensor, draw: u64) -> Result<(Tensor, StudentSaved)> {
        let key = rng::Key { seed: self.seed, purpose: "dropout", item: self.counters.update, draw };
        self.student.forward(ids, (self.config.dropout > 0.0).then_some(key))
    }

    /// One optimiser step from the gradients `[B, L, D]` of the texts that the student made.
    ///
    /// # Errors
    /// A loss or gradient that is not finite is an error with the update and its prompts.
    pub fn learn(&mut self, d_texts: &[(&StudentSaved, Tensor)], origin: &Origin) -> Result<()> {
        let update = self.counters.update + 1;
        let at_prompts = || {
            let prompts: Vec<&str> = origin.batch.iter().map(|drawn| drawn.prompt.as_str()).collect();
            format!("update {update} of student `{}`, prompts: {}", self.config.name, prompts.join(" | "))
        };
        if !origin.loss.is_finite() {
            return Err(Error::NonFinite { name: "loss".into(), context: at_prompts() });
        }
        let mut gradients = Gradients::collect();
        for (saved, d_text) in d_texts {
            self.student.vjp(saved, d_text, &mut gradients)?;
        }
        let factor = self.config.schedule.factor(self.counters.update, self.config.updates);
        let gradient_norm = match self.optimiser.update(&mut self.student, &gradients.into_map(), factor) {
            Err(Error::NonFinite { name, .. }) => return Err(Error::NonFinite { name, context: at_prompts() }),
            outcome => outcome?,
        };
        self.counters.update = update;
        self.counters.seconds = self.seconds_before + self.clock.elapsed().as_secs_f64();
        self.log.push(TrainLogRow {
            update,
            loss: origin.loss,
            gradient_norm,
            learning_rate: self.config.optimiser.learning_rate * factor,
            seconds: self.counters.seconds,
            denoising_step: origin.denoising_step as u64,
            guidance: origin.guidance.iter().sum::<f64>() / origin.guidance.len().max(1) as f64,
        });
        self.progress.set(update, &format!("loss {:.4e}", origin.loss));
        Ok(())
    }

    /// Ends an update: saves the state where it is due, and stops where that is asked for. `trajectory` is
    /// where the next update starts from, unless it starts another.
    pub fn end_update(&mut self, trajectory: Option<Trajectory>) -> Result<()> {
        let stopping = (self.stop)(self.counters.update)?;
        if stopping || self.counters.update.is_multiple_of(self.config.checkpoint_every) {
            let (student, optimiser) = (self.student.named(), self.optimiser.state()?);
            let (counters, log) = (self.counters.clone(), self.log.clone());
            Checkpoint { counters, student, optimiser, trajectory, log }.save(self.folder)?;
        }
        if stopping {
            let hint = format!("run the same command again to go on after update {}", self.counters.update);
            return Err(Error::Interrupted { hint });
        }
        Ok(())
    }

    /// The trained student, its log and its counters; the log is on disk.
    pub fn finish(self) -> Result<(Student, Vec<TrainLogRow>, Counters)> {
        log::write(self.folder, &self.log, self.counters.started)?;
        let last = self.log.last().map_or_else(String::new, |row| format!("loss {:.4e}", row.loss));
        self.progress.finish(&last);
        Ok((self.student, self.log, self.counters))
    }
}
