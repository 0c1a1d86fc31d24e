//! The images of a pipeline: those of its validation prompts under one encoder, and those of free prompts.

use std::iter::repeat;
use std::path::PathBuf;

use serde_json::json;

use super::Step;
use crate::config::{self, Experiment, Pipeline};
use crate::diffusion::generate::{self, free, painter::Encoder};
use crate::error::{Error, Result};
use crate::models::card::{REAL, STUDENT_CARD, STUDENT_WEIGHTS, TEACHER};
use crate::run::files;
use crate::run::manifest::{Freshness, Input};
use crate::run::results::{COSTS, TOKENS};

impl Pipeline {
    /// The images of one encoder: `teacher`, `real` or a student.
    pub fn generate(&self, encoder: &str) -> Result<Step<'_>> {
        let (experiment, context) = (&self.experiment, &self.context);
        let mut encoders = self.encoders();
        encoders.extend(self.students());
        let Some(encoder) = encoders.iter().find(|name| *name == encoder).cloned() else {
            return Err(config::unknown("encoder", encoder, &encoders));
        };
        let config = &experiment.generate;
        let val = config.datasets.iter().map(|dataset| context.prompts(dataset, "val"));
        let mut inputs: Vec<Input> = val.map(|path| Input::new(path, "validation prompts", self.hint("build-data"))).collect();
        if encoder != REAL {
            inputs.extend(self.teacher_inputs());
            let control = config.control.iter().flat_map(|control| control.files(&context.pipeline).into_iter().zip(repeat(control)));
            inputs.extend(control.map(|(file, control)| Input::new(file, "the ControlNet or its image", control.hint())));
        }
        if self.students().contains(&encoder) {
            let student = [STUDENT_WEIGHTS, STUDENT_CARD].map(|file| context.student(&encoder).join(file));
            inputs.extend(student.map(|path| Input::new(path, "the student", self.hint("distill"))));
        }
        let folder = context.samples(&encoder);
        let mut outputs = vec![folder.join("samples.parquet"), folder.join("images")];
        if encoder != REAL {
            outputs.extend(["embeddings.safetensors", TOKENS].map(|file| folder.join(file)));
            outputs.extend((config.timed_images > 0).then(|| folder.join(COSTS)));
        }
        let settings = json!({"generate": config.essence(), "teacher": experiment.teacher.essence()});
        let stage = self.stage(&format!("generate {encoder}"), folder, &settings, inputs, outputs)?;
        let body = move || {
            if encoder == TEACHER && self.take_teacher_images()? {
                return Ok(());
            }
            generate::run(config, &experiment.teacher, &encoder, context).map(drop)
        };
        Ok(Step { stage, body: Box::new(body) })
    }

    /// Takes the teacher's images over from the pipeline that this one extends, where that has made the same ones.
    fn take_teacher_images(&self) -> Result<bool> {
        let Some(other) = self.extended.as_ref().filter(|_| !self.context.force) else { return Ok(false) };
        let recipe = |experiment: &Experiment| (experiment.seed, experiment.generate.essence(), experiment.teacher.essence());
        if recipe(&self.experiment) != recipe(&other.experiment) {
            return Ok(false);
        }
        let mut cache = self.hashes();
        for set in &self.experiment.generate.datasets {
            let [ours, theirs] = [&self.context, &other.context].map(|context| context.prompts(set, "val"));
            if !theirs.exists() || cache.hash(&ours)?.1 != cache.hash(&theirs)?.1 {
                return Ok(false);
            }
        }
        let theirs = other.generate(TEACHER)?.stage;
        if !matches!(theirs.freshness(&mut cache)?, Freshness::Fresh { .. }) {
            return Ok(false);
        }
        // Images of earlier settings would stay between the others.
        files::remove_folder(&self.context.samples(TEACHER))?;
        eprintln!("generate {TEACHER}: taken over from `{}`", theirs.folder.display());
        for output in theirs.outputs.iter().chain(&theirs.optional_outputs).filter(|output| output.exists()) {
            let below = output.strip_prefix(&theirs.folder).map_err(|_| Error::Invalid(format!("`{}` lies outside", output.display())))?;
            files::link_or_copy(output, &self.context.samples(TEACHER).join(below))?;
        }
        Ok(true)
    }

    /// Paints free prompts, without a build of prompt sets, and prints the images' paths.
    pub fn paint(&self, request: &free::Request, dry_run: bool) -> Result<()> {
        let (experiment, context) = (&self.experiment, &self.context);
        if dry_run {
            println!("generate: would paint {} image(s) into `{}`", request.prompts.len(), request.out.display());
            return Ok(());
        }
        for image in free::run(&experiment.generate, &experiment.teacher, request, context)? {
            println!("{}", image.display());
        }
        Ok(())
    }

    /// The encoder that free prompts are painted under: `teacher`, a student of the pipeline, or the folder of any student.
    pub fn painting_encoder(&self, name: &str) -> Result<Encoder> {
        let folder = PathBuf::from(name);
        if folder.join(STUDENT_CARD).is_file() {
            return Ok(Encoder::Student(folder));
        }
        let mut valid = vec![TEACHER.to_owned()];
        valid.extend(self.students());
        match valid.iter().find(|valid| *valid == name) {
            Some(name) => Ok(Encoder::named(name, &self.context)),
            None => {
                let hint =
                    format!("{}; or the folder of a student, with its `{STUDENT_CARD}`", config::suggestion("encoder", name, &valid));
                Err(Error::config(format!("unknown encoder `{name}`"), hint))
            }
        }
    }
}
