//! The naive baseline, Eq. 4 of the paper: the student's text is pulled to the teacher's, with no denoiser. The text
//! does not depend on time, so that every update takes a fresh batch.

use super::learner::{Learner, Origin};
use super::loss::embedding_loss;
use super::trajectory::PromptOrder;
use super::{Config, Frozen};
use crate::error::Result;

/// Trains until all updates are made.
pub fn train(config: &Config, frozen: &Frozen, order: &mut PromptOrder, learner: &mut Learner) -> Result<()> {
    while !learner.finished() {
        let batch = order.batch(learner.update(), config.batch);
        let condition = frozen.condition(&batch)?;
        let (student_text, saved) = learner.forward(&condition.ids)?;
        let (loss, d_text) = embedding_loss(&student_text, &condition.teacher_text, condition.shared.text_mask.as_ref())?;
        learner.learn(&[(&saved, d_text)], &Origin { loss, denoising_step: 0, guidance: &[], batch: &batch })?;
        learner.end_update(None)?;
    }
    Ok(())
}
