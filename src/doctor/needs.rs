//! What an experiment takes before it begins: models of the hub, their licences, memory and disk.

use std::path::Path;

use crate::config::Pipeline;
use crate::distill::{self, Initialisation, Objective};
use crate::models::teacher::{TeacherConfig, WeightSource};
use crate::run::hub::{self, Model};
use crate::run::machine::{self, readable_bytes};

/// Bytes of memory for each weight that is trained: weight, gradient and two moments of AdamW in f32.
const TRAINED: u64 = 16;
/// Bytes on disk for each weight: the student, and while it is trained a checkpoint with both moments.
const STORED: u64 = 16;
/// Bytes of a pixel before it is compressed.
const PIXEL: usize = 3;

/// The published models that the pipeline names by their address: there, or how to get them.
pub fn models(pipeline: &Pipeline) -> Vec<String> {
    let experiment = &pipeline.experiment;
    let mut named: Vec<&Path> = Vec::new();
    if let TeacherConfig::Folder(model) = &experiment.teacher {
        named.push(&model.folder);
    }
    for student in &experiment.student {
        if let Initialisation::Encoder(path) | Initialisation::Weights(path) = &student.init {
            named.push(path);
        }
    }
    if let Some(WeightSource::File(net)) = experiment.generate.control.as_ref().map(|control| &control.net) {
        named.push(net);
    }
    named.sort();
    named.dedup();
    let mut lines = Vec::new();
    for model in named.into_iter().filter_map(|path| Model::named(path.to_str()?)?.ok()) {
        match model.snapshot(&hub::cache()) {
            Ok(snapshot) => {
                lines.push(format!("{}: in the cache, {}", model.address(), licence(&snapshot)));
            }
            Err(error) => {
                lines.push(format!("{}: not in the cache", model.address()));
                lines.extend(error.hint().map(|hint| format!("  {hint}")));
            }
        }
    }
    lines
}

/// What the card of a model in `folder` says of its licence.
pub fn licence(folder: &Path) -> String {
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    let front: Vec<&str> = card.strip_prefix("---").unwrap_or_default().lines().take_while(|line| line.trim_end() != "---").collect();
    let value = |key: &str| {
        let found = front.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(found.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    match (value("license_name").or_else(|| value("license")), value("license_link")) {
        (Some(name), Some(link)) => format!("licence {name} ({link})"),
        (Some(name), None) => format!("licence {name}"),
        (None, _) => "its card names no licence; look at the page of the model".into(),
    }
}

/// Memory and disk, as far as they follow from sizes; `frozen` are the bytes of the files of the teacher.
pub fn sizes(pipeline: &Pipeline, frozen: u64) -> Vec<String> {
    let (experiment, folder) = (&pipeline.experiment, &pipeline.context.pipeline);
    let known = experiment.teacher.text_width(folder).and_then(|width| Ok((width, experiment.teacher.geometry(folder)?.resolution)));
    let Ok((width, resolution)) = known else { return Vec::new() };
    let counted = experiment.student.iter().filter_map(|student| Some((student, student.parameters(width).ok()?)));
    let counted: Vec<_> = counted.collect();
    let is_trained = |student: &distill::Config| student.objective != Objective::None;
    let largest = counted.iter().filter(|(student, _)| is_trained(student)).max_by_key(|(_, weights)| *weights);
    let (trained, training) = match largest {
        Some((student, weights)) => (TRAINED * weights, format!("{} to train `{}`", readable_bytes(TRAINED * weights), student.name)),
        None => (0, "nothing is trained".into()),
    };
    let all = STORED * counted.iter().map(|(_, weights)| weights).sum::<u64>();
    let need = frozen + trained;
    let against = |have: Option<u64>, need: u64| match have {
        Some(have) if have < need => format!("too little: {} available", readable_bytes(have)),
        Some(have) => format!("{} available", readable_bytes(have)),
        None => "what is available is unknown".into(),
    };
    let (memory, disk) = (machine::memory().map(|(_, free)| free), machine::free_disk(&pipeline.root));
    let image = (PIXEL * resolution * resolution) as u64;
    vec![
        format!(
            "memory: {} and the activations of a batch ({} of frozen networks; {training}); {}",
            readable_bytes(need),
            readable_bytes(frozen),
            against(memory, need)
        ),
        format!(
            "disk: {} for students and checkpoints, and at most {} for each image; {}",
            readable_bytes(all),
            readable_bytes(image),
            against(disk, all)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_read_from_the_front_of_the_card() {
        let folder = tempfile::tempdir().unwrap();
        let said = |card: &str| {
            std::fs::write(folder.path().join("README.md"), card).unwrap();
            licence(folder.path())
        };
        assert_eq!(said("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n"), "licence apache-2.0");
        let named = "---\nlicense: other\nlicense_name: \"flux-1-dev\"\nlicense_link: LICENSE.md\n---\n";
        assert_eq!(said(named), "licence flux-1-dev (LICENSE.md)");
        assert!(said("# Model\nlicense: mit\n").contains("no licence"));
        assert!(licence(Path::new("nowhere")).contains("no licence"));
    }
}
